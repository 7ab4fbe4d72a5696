//! When a report of the black box is made, and what control puts into it.
//!
//! Pure. A stall is reported once a client and hint, and not more often than the
//! stick can bear; a crash as soon as there is a store to tell it to.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Action, Control};
use crate::blackbox::{Client, Summary, Why};
use crate::client::MacAddr;
use crate::diagnose::{Hint, Watch};
use crate::orders::Reply;
use crate::status::{Stage, Stick};

/// Between two reports that nobody asked for.
const PAUSE: Duration = Duration::from_secs(60);
/// The same trouble of the same board is not reported again before that.
const SAME: Duration = Duration::from_secs(3600);
/// Troubles that are remembered.
const MAX_TOLD: usize = 64;

#[derive(Debug, Default)]
pub struct Reports {
    told: VecDeque<(Duration, MacAddr, Hint)>,
    last: Option<Duration>,
    /// The server before this one crashed, and no report tells it yet.
    crash: bool,
}

/// A report that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Who waits for it, if anybody.
    pub ticket: Option<u64>,
    pub summary: Summary,
}

impl Control {
    /// The server before this one did not end in order.
    pub fn found_crash(&mut self) {
        self.reports.crash = true;
    }

    /// The store is open: what waited for it is told.
    pub(super) fn report_crash(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.reports.crash) {
            actions.push(Action::Log("the server before this one ended without notice: a report tells".to_owned()));
            let reason = "The server ended without notice and was started again".to_owned();
            self.report(now, Why::Crash, reason, None, None, actions);
        }
    }

    /// A boot counts as stuck.
    pub(super) fn report_stall(&mut self, now: Duration, mac: MacAddr, hint: Hint, actions: &mut Vec<Action>) {
        let reports = &mut self.reports;
        reports.told.retain(|(at, ..)| now < *at + SAME);
        let again = reports.told.iter().any(|(_, board, what)| (*board, *what) == (mac, hint));
        let too_soon = reports.last.is_some_and(|last| now < last + PAUSE);
        if again || too_soon || !self.store_open {
            return;
        }
        reports.told.push_back((now, mac, hint));
        if reports.told.len() > MAX_TOLD {
            reports.told.pop_front();
        }
        reports.last = Some(now);
        let member = self.members.values().find(|member| member.client.mac == mac);
        let name = member.map_or_else(|| mac.to_string(), |member| member.client.role.to_string());
        self.report(now, Why::Stall, format!("The boot of {name} stopped"), Some(mac), None, actions);
    }

    pub(super) fn report_asked(&mut self, now: Duration, ticket: Option<u64>, actions: &mut Vec<Action>) {
        if self.store_open {
            self.report(now, Why::Asked, "A report was asked for".to_owned(), None, ticket, actions);
        } else if let Some(ticket) = ticket {
            actions.push(Action::Answer(ticket, Box::new(Reply::refused("there is no stick with a store"))));
        }
    }

    /// What became of it.
    pub(super) fn reported(&mut self, ticket: Option<u64>, saved: Result<String, String>, actions: &mut Vec<Action>) {
        let line = match &saved {
            Ok(name) => format!("report saved on the stick: {name}"),
            Err(error) => format!("no report: {error}"),
        };
        actions.push(Action::Log(line));
        if let Some(ticket) = ticket {
            let reply = match saved {
                Ok(name) => Reply::done(format!("saved on the stick: {name}")),
                Err(error) => Reply::refused(error),
            };
            actions.push(Action::Answer(ticket, Box::new(reply)));
        }
    }

    pub(super) fn report(
        &self,
        now: Duration,
        why: Why,
        reason: String,
        first: Option<MacAddr>,
        ticket: Option<u64>,
        actions: &mut Vec<Action>,
    ) {
        let summary = Summary { why, reason, facts: self.report_facts(now), clients: self.report_clients(first) };
        actions.push(Action::Report(Box::new(Wanted { ticket, summary })));
    }

    fn report_facts(&self, now: Duration) -> Vec<(String, String)> {
        let stick = match &self.stick {
            Stick::Ready { name, free_bytes } => format!("{name}, {} MB free", free_bytes / 1_000_000),
            other => format!("{other:?}"),
        };
        let images: Vec<String> = self.images.iter().map(ToString::to_string).collect();
        let cable = match (self.absent, self.network.carrier) {
            (Some(_), _) => "no network interface",
            (None, true) => "connected",
            (None, false) => "not connected",
        };
        let mut facts = vec![
            ("Running for".to_owned(), format!("{} s", now.as_secs())),
            ("Address".to_owned(), self.config.network.address.to_string()),
            ("Cable".to_owned(), cable.to_owned()),
            ("Stick".to_owned(), stick),
            ("Images".to_owned(), images.join(", ")),
        ];
        if let Some(other) = self.other_server(now) {
            facts.push(("Another DHCP server".to_owned(), other.to_string()));
        }
        let problems = self.problems.list().into_iter();
        facts.extend(problems.map(|problem| ("Problem".to_owned(), format!("{} {}", problem.message, problem.action))));
        facts
    }

    fn report_clients(&self, first: Option<MacAddr>) -> Vec<Client> {
        let of = |mac: MacAddr| self.boards.get(mac);
        let members = self.members.values().map(|member| {
            let (client, stage) = (&member.client, self.shown_stage(member));
            let hint = match stage {
                Stage::Stalled { hint, .. } => Some(hint),
                _ => None,
            };
            let watch = of(client.mac);
            let board = Client {
                name: client.role.to_string(),
                mac: client.mac.to_string(),
                address: client.address.to_string(),
                model: client.model.to_string(),
                stage: super::boots::stage_words(&stage),
                hint,
                boots: watch.map_or(0, Watch::boots),
                seen: watch.map(|watch| watch.seen().clone()),
            };
            (client.mac, board)
        });
        let strangers = self.strangers.iter().map(|(_, stranger)| {
            let watch = of(stranger.mac);
            let board = Client {
                name: "A Pi that is no client".to_owned(),
                mac: stranger.mac.to_string(),
                address: "no address".to_owned(),
                model: stranger.model.to_string(),
                stage: "asks".to_owned(),
                hint: self.with_hint(stranger).hint,
                boots: watch.map_or(0, Watch::boots),
                seen: watch.map(|watch| watch.seen().clone()),
            };
            (stranger.mac, board)
        });
        let mut boards: Vec<(MacAddr, Client)> = members.chain(strangers).collect();
        // Whom it is about, then those with a hint.
        boards.sort_by_key(|(mac, board)| (Some(*mac) != first, board.hint.is_none()));
        boards.into_iter().map(|(_, board)| board).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::script::Script;
    use super::super::{Event, store};
    use super::*;
    use crate::dhcp::packets::PI4;

    fn reports(script: &Script) -> Vec<&Wanted> {
        fn of(action: &Action) -> Option<&Wanted> {
            if let Action::Report(wanted) = action { Some(wanted) } else { None }
        }
        script.done.iter().filter_map(of).collect()
    }

    #[test]
    fn a_stall_is_reported_once_with_the_client_first_and_its_evidence() {
        let mut script = Script::new(PI4);
        for _ in 0..3 {
            script.leased().wait(60);
        }
        let reports = reports(&script);
        assert_eq!(reports.len(), 1, "{reports:#?}");
        let summary = &reports[0].summary;
        assert_eq!((summary.why, summary.reason.as_str()), (Why::Stall, "The boot of pi-1 stopped"));
        let first = &summary.clients[0];
        assert_eq!((first.name.as_str(), first.hint), ("pi-1", Some(Hint::AsksNoFile)));
        assert_eq!(first.seen.as_ref().map(|seen| seen.loader.acks), Some(1));
        assert!(summary.facts.iter().any(|(name, value)| name == "Stick" && value.starts_with("Stick,")));
    }

    #[test]
    fn without_a_stick_nothing_is_reported_and_a_crash_waits_for_it() {
        let mut script = Script::unplugged(PI4);
        script.control.found_crash();
        script.wait(200);
        assert_eq!(reports(&script), Vec::<&Wanted>::new());
        script.plug();
        assert_eq!(reports(&script).len(), 1);
        assert_eq!(reports(&script)[0].summary.why, Why::Crash);
        script.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() })).plug();
        assert_eq!(reports(&script).len(), 1, "told once");
    }

    #[test]
    fn who_asks_for_a_report_hears_where_it_lies() {
        let mut script = Script::new(PI4);
        let mut actions = Vec::new();
        script.control.report_asked(script.now, Some(7), &mut actions);
        assert!(matches!(&actions[..], [Action::Report(wanted)] if wanted.ticket == Some(7)));
        let saved = Ok("reports/x".to_owned());
        script.event(Event::Store(store::Event::ReportSaved { ticket: Some(7), saved }));
        assert!(script.done.iter().any(|action| matches!(action, Action::Answer(7, reply)
            if **reply == Reply::done("saved on the stick: reports/x"))));
    }
}
