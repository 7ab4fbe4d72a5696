//! What the survey of the wire leads to: a traffic light, and a problem where it
//! is red. How to serve then is `beside`'s.
//!
//! Pure. `net` finds the facts, `wire` says what they mean.

use std::time::Duration;

use super::problems::Topic;
use super::{Action, Control};
use crate::config::DhcpMode;
use crate::wire::{self, Facts, Finding, Light};

impl Control {
    pub(super) fn surveyed(&mut self, now: Duration, facts: Facts, actions: &mut Vec<Action>) {
        self.facts = facts;
        self.decide_serving(now, actions);
        self.judge(actions);
    }

    /// Looks at the wire anew; tells what is another finding than before.
    pub(super) fn judge(&mut self, actions: &mut Vec<Action>) {
        let own = self.config.network.fixed.then_some(self.config.network.address);
        let mut facts = self.facts;
        if self.own() != self.config.network.address {
            // Clients know us by an address of that server's.
            facts.taken_by = None;
        }
        let finding = match (self.absent, wire::find(self.network.carrier, &facts, self.beside.serving, own)) {
            (Some(named), _) => Finding::NoInterface { named },
            (None, Finding::ServerSilent { server, .. }) => {
                Finding::ServerSilent { server, relieved: self.config.dhcp.mode == DhcpMode::Auto }
            }
            (None, finding) => finding,
        };
        if finding == self.network.wire {
            return;
        }
        self.network.wire = finding;
        // A missing cable has a screen of its own, and a missing interface is told by its name.
        if self.network.carrier && finding.light() == Light::Red {
            self.problems.set(Topic::Wire, finding.sentence(), finding.action().to_owned());
        } else {
            self.problems.clear(&Topic::Wire);
        }
        let light = format!("{:?}", finding.light()).to_lowercase();
        let advice = if finding.action().is_empty() { String::new() } else { format!(". {}", finding.action()) };
        actions.push(Action::Log(format!("wire {light}: {}{advice}", finding.sentence())));
    }
}
