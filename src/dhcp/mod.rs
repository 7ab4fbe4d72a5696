//! DHCPv4: packets in, decisions out; leases and the quirks of each Pi.
