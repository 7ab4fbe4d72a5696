//! Whether started clients are still there: who is silent is asked for by ARP.
//!
//! Pure. An idle system may rest for minutes, so silence alone means nothing;
//! `stage::Boot` says when to ask and what unanswered questions mean. Without a
//! cable nobody can answer, so nobody is asked.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Action, Control};
use crate::client::{MacAddr, Role};
use crate::stage::Sign;

/// Nobody has this address: whoever answers for the asked one is told.
const NOBODY: MacAddr = MacAddr([0; 6]);
/// Questions at a time; the others have their turn a moment later.
const MAX_AT_ONCE: usize = 16;
/// That moment.
const NEXT_TURN: Duration = Duration::from_millis(500);

impl Control {
    pub(super) fn presence_deadline(&self) -> Option<Duration> {
        let due = || self.members.values().filter_map(|member| member.boot.ask_at()).min();
        // At most one turn after the other, however many are due.
        if self.network.carrier { due().map(|due| due.max(self.asked_presence + NEXT_TURN)) } else { None }
    }

    pub(super) fn ask_presence(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.presence_deadline().is_none_or(|due| now < due) {
            return;
        }
        self.asked_presence = now;
        let due = self.members.values_mut().filter(|member| member.boot.ask_at().is_some_and(|due| now >= due));
        for member in due.take(MAX_AT_ONCE) {
            member.boot.asked(now);
            actions.extend(member.address().map(|address| Action::Probe(address, NOBODY)));
        }
    }

    /// The wire has spoken about an address. What a stranger's answer means is
    /// `requests`' to say: here it only is not the client's.
    pub(super) fn presence_told(
        &mut self,
        now: Duration,
        address: Ipv4Addr,
        answered: Option<MacAddr>,
        actions: &mut Vec<Action>,
    ) {
        let Some(member) = self.members.values().find(|member| member.address() == Some(address)) else { return };
        let sign = if answered == Some(member.client.mac) { Sign::Answers } else { Sign::Silent };
        let role: Role = member.client.role.clone();
        self.sign_role(now, &role, sign, actions);
    }
}
