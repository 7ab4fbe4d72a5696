//! The wired interface: address, carrier, neighbour entries and address probes.

pub(crate) mod packet;
