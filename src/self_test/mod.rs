//! The appliance boots a fake Pi against itself: its address, all boot files, its
//! root, `/sbin/init` with its libraries.
//!
//! | file | what | pure |
//! |---|---|---|
//! | `script` | which files a Pi of each model must find, and what of that is there | yes |
//! | `elf` | which libraries a program needs | yes |
//! | `dhcp` | the board's question through the real decision and encoder, and its own reading of the answer | yes |
//! | `tftp` | a loader's TFTP client, over UDP | I/O |
//! | `mount` | portmap, MNT, LOOKUP, READ as a kernel does them, over TCP | I/O |
//! | `run` | the steps in their order | I/O |
//!
//! It asks from [`ADDRESS`], which no station of a wire can have: the kernel takes
//! nothing from there but from this machine. Control publishes the tested trees
//! to it, read-only, for as long as the test runs. So nothing is written, no client
//! notices, and nothing is left behind.
//!
//! What it does not prove: the wire, the board's own loader, the kernel. DHCP goes
//! through the decision and the bytes, not through port 67, which hears the wire only.

mod dhcp;
pub mod elf;
mod mount;
pub mod run;
pub mod script;
mod tftp;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::client::{ImageId, Model, Role};

pub use run::{Plan, run};

/// Where the fake Pi asks from: of 127.0.0.0/8, which no router and no other
/// station can use (RFC 1122 §3.2.1.3).
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 83, 84, 1);

/// What is tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    Client(Role),
    Image(ImageId),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(role) => write!(f, "client {role}"),
            Self::Image(image) => write!(f, "image {image}"),
        }
    }
}

/// A step of a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It is for no board that we know.
    Board,
    Address,
    BootFiles,
    CommandLine,
    Mount,
    Init,
    Libraries,
}

impl Step {
    /// In at most 12 characters, for the display.
    pub fn word(self) -> &'static str {
        match self {
            Self::Board => "board",
            Self::Address => "address",
            Self::BootFiles => "boot files",
            Self::CommandLine => "cmdline.txt",
            Self::Mount => "mount",
            Self::Init => "init",
            Self::Libraries => "libraries",
        }
    }
}

/// Where it failed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub step: Step,
    pub reason: String,
}

impl Failure {
    pub(crate) fn new(step: Step, reason: impl Into<String>) -> Self {
        Self { step, reason: reason.into() }
    }
}

/// What a passed test did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Passed {
    /// The models that can boot it.
    pub models: Vec<Model>,
    /// Those that cannot, and what they lack.
    pub lacking: Vec<String>,
    pub files: usize,
    pub bytes: u64,
    /// Of `/sbin/init`, itself included.
    pub libraries: usize,
}

/// A test that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    pub target: Target,
    pub result: Result<Passed, Failure>,
    pub millis: u64,
}

impl Tested {
    /// In one line.
    pub fn line(&self) -> String {
        match &self.result {
            Ok(passed) => {
                let models: Vec<String> = passed.models.iter().map(Model::to_string).collect();
                format!(
                    "{} boots on {}: {} boot files, {} MB, init and {} libraries in {} ms",
                    self.target,
                    models.join(", "),
                    passed.files,
                    passed.bytes / 1_000_000,
                    passed.libraries,
                    self.millis
                )
            }
            Err(failure) => format!("{} fails at {}: {}", self.target, failure.step.word(), failure.reason),
        }
    }
}
