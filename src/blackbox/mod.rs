//! The black box: the last packets and log lines, kept over a crash, and the
//! report made of them.
//!
//! | file | what | pure |
//! |---|---|---|
//! | `record` | one entry of the ring as bytes, and reading a ring that was cut anywhere | yes |
//! | `ring` | two files in the run folder that take turns | I/O |
//! | `tap` | where the shells and the log put what they see | I/O |
//! | `frames` | entries as whole Ethernet frames again | yes |
//! | `pcapng` | the capture file of a report | yes |
//! | `summary` | what control knows, for a report | yes |
//! | `report`, `html` | the files of a report, and its page for people | yes |
//!
//! # What is in it
//!
//! DHCP both ways, TFTP's requests, OACKs and ERRORs, RPC calls' headers (of NFS
//! the first ones behind a mount), ARP that concerns us or comes from a Pi, and
//! every log line. Never a file's content, a reply's handle, or a key: what is
//! copied is a header and at most the path of a MNT. What our sockets do not see
//! of a packet (Ethernet and IP headers) is rebuilt from what they know, and the
//! capture says so.
//!
//! # Bounds
//!
//! The ring is two segments of [`ring::SEGMENT_BYTES`] on a tmpfs; what comes
//! faster than [`tap::MAX_A_SECOND`] is counted and left out. A report is at most
//! some 6 MB, and the store keeps a bounded number of them.
//!
//! # Over a crash
//!
//! An entry is one `write` to a file of a tmpfs, so what was written when the
//! server is killed is there for the next one. A ring without an end entry is a
//! crash's, and the next server reports it as soon as a store is open.

mod frames;
mod html;
mod pcapng;
pub mod record;
pub mod report;
pub mod ring;
pub mod summary;
pub mod tap;

pub use report::files;
pub use ring::{Left, Ring};
pub use summary::{Client, Summary, Why};
