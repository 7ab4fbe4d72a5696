//! TFTP: which file a client gets, and the server that sends it.
