//! Makes a fresh root one client's own: a table of small rules, each with what
//! it looks for, what it does and why, applied through the merged overlay, so
//! that every change lands in the client's upper layer and the image stays as
//! it is.
//!
//! I/O through `Tree` only. A rule that finds nothing does nothing; one that
//! fails is reported and the rest goes on, unless the stick itself fails.
//! Facts: `reference/pi-netboot.md`, section 6, and the packages themselves:
//! `tests/os_roots` applies the table to roots made of them, and asks their own
//! programs what they would do then.

mod cloud;
mod custom;
mod dns;
mod identity;
mod keep;
mod keys;
mod network;
mod read_only;
mod rules;
mod system;
mod text;
mod tree;
mod units;
mod users;
mod volume;

use std::net::Ipv4Addr;
use std::path::PathBuf;

pub use self::custom::reads_custom;
pub use self::identity::{fit_boot, is_fit};
pub use self::keep::{forget_identity, keep_identity};
pub use self::rules::RULES;
pub use self::tree::{Tree, TreeError};
pub use self::volume::fit as fit_volume;
use crate::client::Client;

/// What comes from the stick's `profile/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    pub authorized_keys: Option<String>,
    pub userconf: Option<String>,
    /// Laid over the root: path below `/`, content.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

/// Everything a rule may look at.
pub struct Context<'a> {
    pub client: &'a Client,
    /// The appliance's address: where the boot tree is mounted from.
    pub appliance: Ipv4Addr,
    /// Told to clients that cannot learn it otherwise; may be empty.
    pub dns: &'a [Ipv4Addr],
    pub profile: &'a Profile,
    pub root: &'a Tree,
    pub boot: &'a Tree,
    /// Days since 1970, for shadow.
    pub today: u64,
}

/// One adaptation.
pub struct Rule {
    pub name: &'static str,
    /// What in the root makes it act.
    pub finds: &'static str,
    pub does: &'static str,
    pub why: &'static str,
    /// Whether it acted.
    pub apply: fn(&Context<'_>) -> Result<bool, RuleError>,
}

/// Whether a rule acted.
type Outcome = Result<bool, RuleError>;

/// Why a rule could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("making SSH host keys")]
    Keys(#[from] ssh_key::Error),
    #[error("asking the kernel for random bytes")]
    Random(#[from] rustix::io::Errno),
    #[error("{0}")]
    Content(&'static str),
}

/// What came of all rules.
#[derive(Debug, Default)]
pub struct Applied {
    pub acted: Vec<&'static str>,
    /// Rules that could not be applied, with the reason.
    pub failed: Vec<(&'static str, RuleError)>,
}

/// Rules whose files name the role or the board: what a rename or a swap must
/// write anew. Each can be applied again to what it made.
const ADAPTING: [&str; 6] = ["hostname", "hosts", "fstab", "network-manager", "networkd", "volume"];

/// Applies all rules in their order.
pub fn apply(context: &Context<'_>) -> Result<Applied, TreeError> {
    apply_where(context, |_| true)
}

/// Applies those rules only that name the role or the board.
pub fn adapt(context: &Context<'_>) -> Result<Applied, TreeError> {
    apply_where(context, |rule| ADAPTING.contains(&rule.name))
}

fn apply_where(context: &Context<'_>, wanted: impl Fn(&Rule) -> bool) -> Result<Applied, TreeError> {
    let mut applied = Applied::default();
    for rule in RULES.iter().filter(|rule| wanted(rule)) {
        match (rule.apply)(context) {
            Ok(true) => applied.acted.push(rule.name),
            Ok(false) => {}
            Err(RuleError::Tree(error)) if error.is_fatal() => return Err(error),
            Err(error) => applied.failed.push((rule.name, error)),
        }
    }
    Ok(applied)
}
