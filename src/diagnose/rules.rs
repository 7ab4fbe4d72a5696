//! The rules as data: what was observed, the likely cause, the action, and when
//! each applies. Evidence decides their order; the first that applies is the hint.
//!
//! Pure. The tables stand in `asking`, `loading` and `starting`, by how far the
//! boot came.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::evidence::{Attempt, Reached};
use super::{Hint, asking, loading, starting};

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

fn never(_: &Case) -> bool {
    false
}

/// The hint where no rule applies, and those that are given without any packet of a board.
static OTHERS: &[Rule] = &[
    Rule {
        hint: Hint::Unknown,
        symptoms: &[],
        observed: "The boot stopped, and what was seen fits no rule.",
        cause: "Not known.",
        action: "Unknown: report saved. Switch it off and on.",
        applies: never,
    },
    Rule {
        hint: Hint::NeverAsked,
        symptoms: &[1, 2],
        observed: "A Pi was waited for and not one packet of one came.",
        cause: "Its loader does not try the network, or it boots from a card or stick of its own.",
        action: "No Pi asked: cable in, no SD card? Else README, step 0.",
        applies: never,
    },
    Rule {
        hint: Hint::NeverHeard,
        symptoms: &[1, 2],
        observed: "Not one packet of this client came since the server started.",
        cause: "It has no power, or its loader does not try the network, or it boots from a card or stick of its own.",
        action: "Not heard: cable in, no SD card? Else README step 0.",
        applies: never,
    },
    Rule {
        hint: Hint::PortsHeld,
        symptoms: &[3],
        observed: "A Pi was waited for, no packet came, and the switch speaks a spanning tree with a long delay.",
        cause: "The switch holds each port back until the Pi has given up asking.",
        action: "The switch holds its ports (STP): use a plain switch.",
        applies: never,
    },
    Rule {
        hint: Hint::PressAndRestart,
        symptoms: &[4],
        observed: "An unknown Pi 2 or 3 asked five times and gave up.",
        cause: "Nobody let it in while it asked, and its ROM asks only once.",
        action: "Press ENROLL, then switch it off and on.",
        applies: never,
    },
];

fn tables() -> impl Iterator<Item = &'static Rule> {
    asking::RULES.iter().chain(loading::RULES).chain(starting::RULES)
}

/// Every rule, in the order in which they are tried.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    tables().chain(OTHERS)
}

/// The words of a hint.
pub fn rule(hint: Hint) -> &'static Rule {
    all().find(|rule| rule.hint == hint).unwrap_or(&OTHERS[0])
}

/// The hint for a boot that does not go on.
pub fn judge(case: &Case) -> Hint {
    #[cfg(test)]
    assert!(matching(case).len() <= 1, "rules that do not exclude each other: {:?}", matching(case));
    tables().find(|rule| (rule.applies)(case)).map_or(Hint::Unknown, |rule| rule.hint)
}

/// Every rule that applies: one, or the rules are not exclusive.
#[cfg(test)]
fn matching(case: &Case) -> Vec<Hint> {
    tables().filter(|rule| (rule.applies)(case)).map(|rule| rule.hint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::panel::screen::COLUMNS;
    use crate::panel::words::wrap;

    #[test]
    fn each_hint_has_one_rule_and_three_short_lines() {
        let mut hints = Vec::new();
        for rule in all() {
            assert!(!hints.contains(&rule.hint), "{:?} has two rules", rule.hint);
            hints.push(rule.hint);
            let lines = wrap(rule.action, COLUMNS);
            assert!((1..=3).contains(&lines.len()), "{:?} takes {} lines: {lines:?}", rule.hint, lines.len());
            let broken = rule.action.split(' ').find(|word| word.len() > COLUMNS);
            assert_eq!(broken, None, "{:?}", rule.hint);
            assert!(rule.observed.ends_with('.') && rule.cause.ends_with('.'), "{:?}", rule.hint);
            assert_eq!(rule.hint.action(), rule.action);
        }
        assert_eq!(hints.len(), 51);
    }

    #[test]
    fn a_hint_travels_by_its_name() {
        assert_eq!(serde_json::to_string(&Hint::RomDeaf).unwrap(), "\"rom-deaf\"");
        assert_eq!(serde_json::from_str::<Hint>("\"other-server\"").unwrap(), Hint::OtherServer);
    }
}
