//! DHCPv4: packets in, decisions out, and the quirks of each Pi (RFC 2131, 2132).
//!
//! | file | what | pure |
//! |---|---|---|
//! | `options` | the bounded walk over a message's options | yes |
//! | `message` | a datagram becomes a [`Request`] or is [`Ignored`] | yes |
//! | `quirks` | which Pi asks, and what its loader must hear | yes |
//! | `decide` | RFC 2131 §4.3: what to answer a client, and where to | yes |
//! | `terms` | what a reply says of us and of the client, and which one it is | yes |
//! | `reply` | the bytes of OFFER, ACK and NAK | yes |
//! | `allocate` | the address of a new client, and addresses in conflict | yes |
//! | `client` | what we ask of another server, and its answers | yes |
//! | `lease` | an address of our own from another server | yes |
//! | `throttle` | how many requests a second reach control | yes |
//! | `frame` | a reply as an IPv4 packet, for a client without an address | yes |
//! | `socket` | UDP port 67 and the packet socket | I/O |
//!
//! Invariants. Default deny: without a [`Binding`] the decision is silence,
//! whatever was asked. The key of a client is `chaddr`; option 61 is echoed and
//! otherwise ignored, because the loader, the kernel and the system of one boot
//! each send another one and the address must not change under a mounted root.
//! No datagram makes this module panic or allocate more than a few kilobytes.
//!
//! `dhcproto` reads the fixed header and writes the options. Options are read by
//! our own walk, for four reasons found in dhcproto 0.15: a `chaddr` with
//! `hlen` over 16 panics; options 80, 81, 94 and 151 to 155 panic on an odd
//! length (debug assertions and a subtraction); option 52 and a wrong magic
//! cookie go unseen; one malformed option that we never read hides those after
//! it. Its `Message` is not built for replies, because every constructor draws a
//! random `xid` and `getrandom` blocks on a board that has no entropy yet.

pub mod allocate;
pub mod client;
pub mod decide;
pub(crate) mod frame;
pub mod lease;
pub mod message;
mod options;
pub mod quirks;
mod reply;
pub mod socket;
pub mod terms;
mod throttle;

pub use allocate::{Conflicts, Pool, allocate};
pub use decide::{Decision, Destination, How, Reply, Silence, State, decide, offer_boot, tell_presence};
pub use message::{Ignored, Kind, Request, parse};
pub use quirks::{Asker, Identity, Program};
pub use socket::{Counters, Error, Event, Socket};
pub use terms::{Answer, Binding, Server};

#[cfg(test)]
pub(crate) mod packets;
