//! One typed snapshot of the appliance: what every face draws from (the OLED,
//! the terminal, the log). Control makes it; nothing else does.
//!
//! Pure. Holds no words for people beyond names and messages already made:
//! wording belongs to `panel/screens.rs`.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::client::{ImageId, MacAddr, Model, Role, Serial};
use crate::diagnose::Hint;
use crate::self_test::{Step, Target};
use crate::wire::Finding;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Since the server's start.
    pub uptime: Duration,
    pub network: Network,
    pub stick: Stick,
    pub import: Option<Import>,
    pub images: Vec<ImageId>,
    pub enrolment: Enrolment,
    /// In the order of their roles.
    pub clients: Vec<ClientStatus>,
    /// Pis that asked outside an enrolment window, newest first, at most 8.
    pub strangers: Vec<Stranger>,
    /// What needs a person, most urgent first.
    pub problems: Vec<Problem>,
    /// The last test of ourselves.
    pub self_test: Option<SelfTest>,
}

/// A fake Pi that boots, or booted, from us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTest {
    pub target: Target,
    pub state: TestState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestState {
    Runs,
    Passed,
    /// Where it stopped.
    Failed(Step),
}

/// The wired side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Network {
    pub address: Option<Ipv4Addr>,
    /// A cable with something alive at its other end.
    pub carrier: bool,
    /// The most urgent thing to know of the wire, with its traffic light.
    pub wire: Finding,
}

/// What the USB stick is good for just now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Stick {
    /// None plugged in.
    #[default]
    Absent,
    /// Plugged in, being read.
    Reading,
    /// Has no store; a press makes one of `free_bytes`.
    NeedsConfirmation { name: String, free_bytes: u64, place: NewPlace },
    /// A confirmed store is being made.
    Preparing,
    /// The store is open.
    Ready { name: String, free_bytes: u64 },
    /// Cannot be used; the message says why and what to do.
    Unusable { message: String },
}

/// Where a new store would lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewPlace {
    /// In unpartitioned space, as one more partition: ENROLL must be held.
    Partition,
    /// In its exFAT or FAT32, as a file that a laptop can delete: any press does.
    File,
}

/// An import that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    pub file: String,
    /// Of the source file's bytes, 0 to 1000.
    pub per_mille: u16,
    pub left: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enrolment {
    #[default]
    Closed,
    /// The next unknown Pi that asks is enrolled.
    Open { left: Duration },
}

/// A Pi that we do not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    pub mac: MacAddr,
    pub model: Model,
    pub serial: Option<Serial>,
    pub memory_mib: Option<u32>,
    /// The other appliance that serves it: it is not ours to take.
    pub of: Option<Ipv4Addr>,
    /// What it needs beside ENROLL.
    pub hint: Option<Hint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientStatus {
    pub role: Role,
    pub address: Ipv4Addr,
    pub model: Model,
    pub memory_mib: Option<u32>,
    pub serial: Option<Serial>,
    pub image: ImageId,
    pub stage: Stage,
    /// How long it has been in that stage.
    pub since: Duration,
}

/// How far a client's boot has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Stage {
    /// Not heard of since the server's start.
    #[default]
    Off,
    /// Sent a DISCOVER.
    Discovered,
    /// Has its address.
    Leased,
    /// Fetches boot files; `bytes` so far and the file now under way.
    Loading { bytes: u64, file: String },
    /// The kernel or its initramfs asks: DHCP again, after the boot files.
    Kernel,
    /// MNT of the root was answered.
    RootMounted,
    /// The client wrote that its start is complete, so long after it first
    /// asked; `None` when it ran already before the server started.
    Up { after: Option<Duration> },
    /// Nothing came for too long: where, and what to try.
    Stalled { at: &'static str, hint: Hint },
}

/// One trouble in words, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
    pub action: String,
}
