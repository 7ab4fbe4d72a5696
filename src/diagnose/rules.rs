//! The rules together: the tables in the order in which they are tried, and the hint
//! that comes of them. Evidence decides the order; the first that applies is the hint.
//!
//! Pure. The tables stand in `asking`, `loading` and `starting`, by how far the
//! boot came.

use super::rule::{Case, Rule};
use super::{Hint, asking, loading, starting};

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
