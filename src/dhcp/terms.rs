//! What a reply is made of: what it says of us, what belongs to the client, and which one it is.
//!
//! Pure.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::client::Role;
use crate::config::Subnet;

/// What every reply says of us; made from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Our own address, with the prefix length of the wire. It is `siaddr`,
    /// option 54 and option 66 alike, so a loader's precedence cannot matter.
    pub subnet: Subnet,
    /// Option 3, left out when there is none.
    pub gateway: Option<Ipv4Addr>,
    /// Option 6, left out when empty; at most 4 are sent.
    pub dns: Vec<Ipv4Addr>,
    /// Option 51. A client keeps its address for good all the same.
    pub lease: Duration,
}

/// What belongs to one known client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub address: Ipv4Addr,
    /// Option 12.
    pub role: Role,
    /// Option 17, in the form that the kernel and klibc's `ipconfig` read:
    /// `192.168.77.1:/clients/pi-1/root,vers=3,tcp`. Left out when empty or over 255 bytes.
    pub root_path: String,
}

/// Which reply it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    Offer,
    Ack,
    Nak,
    /// An ACK to an INFORM: options without an address.
    Inform,
    /// An OFFER of a boot without an address: another server leases that (PXE 2.1 §2.2.1).
    Boot,
    /// An OFFER of nothing, to another appliance that asks who is here.
    Presence,
}
