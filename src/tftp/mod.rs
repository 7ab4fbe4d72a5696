//! TFTP: which file a client gets, and the server that sends it.
//!
//! - `path`: (client, path) to a place in the client's boot tree; pure.
//! - `cmdline`: the kernel command line of a network root; pure.
//! - `config`: what `config.txt` calls the command line; pure.
//! - `packet`: the datagrams of RFC 1350 and 2347; pure.
//! - `transfer`: one transfer as a state machine; pure.
//! - `tree`, `files`: opening a boot file, and the `Handler` that serves it; `boot_file`: its content, chunk by chunk;
//!   `resident`: which part of it can be read at once.
//! - `exchange`, `progress`: one request, served to its end; what it and the listener tell each other. `inbox`: what
//!   its client sent.
//! - `server`: the thread, the socket of port 69, and who may have how many transfers.
//!
//! # Which engine, and why
//!
//! The file side is async-tftp's `Handler`, so its server can serve it; yet the
//! transfers are ours, because no setting of async-tftp 0.4 cures what a Pi
//! meets at every boot:
//!
//! 1. It ignores the ERROR 0 with which a Pi ends its size probe, and stays deaf
//!    to that port until its retries are used up. They must outlast lost
//!    packets, and may not be faster than one a second (a doubled DATA hung
//!    `start4.elf`: raspberrypi/firmware#1631). At 1 s × 3 a file that was probed
//!    came after 4 to 6 s, from ours after 0.5 ms (2026-11-22,
//!    `tests/tftp_engines.rs`:
//!    `async_tftp_leaves_a_pi_unanswered_after_its_size_probe`); a boot has some
//!    twenty probes.
//! 2. A request for the next file from the same port is dropped: the Pi 3's ROM
//!    has one port (the test after that one).
//! 3. Its lock is held while a file is opened, so one slow access to the stick
//!    keeps every client waiting; and it tells nobody how a transfer ended,
//!    which the panel shows (both read in its source).

mod boot_file;
pub mod cmdline;
pub mod config;
mod exchange;
pub mod files;
mod inbox;
pub mod packet;
pub mod path;
mod progress;
mod resident;
mod server;
pub mod transfer;
mod tree;

use std::net::Ipv4Addr;
use std::time::Duration;

pub use server::{Error, Server, start};

use crate::client::Serial;

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The appliance's own address: replies leave from it too.
    pub listen: Ipv4Addr,
    /// 69; 0 in tests takes any free one.
    pub port: u16,
}

/// What happened, told as it happens by the sink that `start` was given.
/// `path` is what the client asked for, made safe to show by `path::display`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A file was found. `folder` is the serial number that the path began
    /// with: the way a board that sends no option 97 tells its own.
    Started { address: Ipv4Addr, path: String, folder: Option<Serial>, size: Option<u64> },
    /// A transfer that goes on: so many bytes of the file are acknowledged. At most twice a second each.
    Progress { address: Ipv4Addr, bytes: u64 },
    /// The client acknowledged the last block.
    Finished { address: Ipv4Addr, path: String, bytes: u64, took: Duration },
    /// The client ended it by an ERROR (normal after a size probe), by a new
    /// request from the same port, or by closing the port.
    Aborted { address: Ipv4Addr, path: String, bytes: u64 },
    /// The client fell silent after it acknowledged `bytes`. When `sent` is
    /// `size`, perhaps only its last ACK was lost, and it has the file. `ahead`:
    /// it acknowledged a block that was not sent yet.
    TimedOut { address: Ipv4Addr, path: String, bytes: u64, sent: u64, size: u64, ahead: bool },
    /// It asks the same again from the same port, before it acknowledged anything.
    Repeated { address: Ipv4Addr, path: String },
    /// The file was there but could not be read: a pulled or broken stick.
    Failed { address: Ipv4Addr, path: String, error: String },
    /// No such file. Normal: a Pi asks for many that an image may lack.
    Missing { address: Ipv4Addr, path: String },
    /// Not allowed, or no request that can be served.
    Refused { address: Ipv4Addr, path: String, reason: &'static str },
    /// The image's `cmdline.txt` is longer than a kernel takes: its last words were left out.
    CommandLineShortened { address: Ipv4Addr, left_out: usize },
}

impl Event {
    /// Whose it is.
    pub fn address(&self) -> Ipv4Addr {
        match self {
            Self::Started { address, .. }
            | Self::Progress { address, .. }
            | Self::Finished { address, .. }
            | Self::Aborted { address, .. }
            | Self::TimedOut { address, .. }
            | Self::Repeated { address, .. }
            | Self::Failed { address, .. }
            | Self::Missing { address, .. }
            | Self::Refused { address, .. }
            | Self::CommandLineShortened { address, .. } => *address,
        }
    }
}

/// Takes events; called on the server's threads, so it must not block.
pub type Sink = std::sync::Arc<dyn Fn(Event) + Send + Sync>;
