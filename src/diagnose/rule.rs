//! A rule as data: what was observed, the likely cause, the action, and when it
//! applies, which it tells by a case.
//!
//! Pure.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Hint;
use super::evidence::{Attempt, Reached};

/// One rule.
#[derive(Debug)]
pub struct Rule {
    pub hint: Hint,
    /// Its numbers in the project's list of symptoms; none for our own additions.
    pub symptoms: &'static [u8],
    /// What was seen from here.
    pub observed: &'static str,
    /// What most likely is behind it.
    pub cause: &'static str,
    /// What to do: at most three lines of 21 characters when wrapped.
    pub action: &'static str,
    pub(super) applies: fn(&Case) -> bool,
}

/// What is known beside the board's own packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// The stick with the clients' roots is in.
    pub store_open: bool,
    /// Its root is mounted here.
    pub has_root: bool,
    /// Nobody answers for its address any more.
    pub unanswered: bool,
    /// Another DHCP server answers on this wire.
    pub other_dhcp: Option<Ipv4Addr>,
    /// Another server is to give the addresses, and we add the boot only: a board
    /// that asks that one for its address does as it should.
    pub beside: bool,
    /// So it is, and no such server answers.
    pub nobody_leases: bool,
    /// A spanning tree holds each new port back for so long.
    pub forward_delay: Option<Duration>,
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    pub seen: &'a Attempt,
    pub facts: &'a Facts,
    /// Nothing was heard of it for as long as its stage may be silent.
    pub silent: bool,
    /// This boot ended by a restart, as those before it.
    pub loops: bool,
    /// From its last sign to that restart.
    pub gap: Duration,
    /// So many boots in a row broke off at the same byte of the same file.
    pub same_place: u32,
}

impl<'a> Case<'a> {
    pub fn new(seen: &'a Attempt, facts: &'a Facts) -> Self {
        Self { seen, facts, silent: false, loops: false, gap: Duration::ZERO, same_place: 0 }
    }

    /// It came so far and no further.
    pub fn at(&self, reached: Reached) -> bool {
        self.seen.reached == reached
    }

    /// It asks for an address or has one, and asked for no file.
    pub fn before_files(&self) -> bool {
        self.seen.reached <= Reached::Leased && self.seen.files.is_empty()
    }

    /// It loads: no later stage was heard of.
    pub fn loads(&self) -> bool {
        matches!(self.seen.reached, Reached::Leased | Reached::FirstStage | Reached::Files | Reached::Kernel)
            && !self.seen.files.is_empty()
            && !self.called()
    }

    /// It made calls for its root: it has a kernel that has an address.
    pub fn called(&self) -> bool {
        let calls = &self.seen.calls;
        calls.ports_asked + calls.refusals + calls.asked_nfs2 + calls.asked_nfs4 > 0
    }

    /// Nothing more comes of this boot.
    pub fn ended(&self) -> bool {
        self.silent || self.loops
    }
}
