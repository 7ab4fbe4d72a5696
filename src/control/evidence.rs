//! What the shells' events show of each board, and what `diagnose` makes of it.
//!
//! Pure. Boards are known by their MAC address, clients and strangers alike, and
//! the table is bounded: who was not heard of for longest gives way.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::history::Before;
use super::problems::Topic;
use super::{Action, Control, Member};
use crate::client::{MacAddr, Role};
use crate::dhcp::{Answer, Kind, Request};
use crate::diagnose::{Facts, Hint, Verdict, Watch};
use crate::status::{Stage, Stranger};
use crate::{nfs, tftp};

/// Boards that are watched: the 200 addresses of a default pool, and some strangers.
const MAX_BOARDS: usize = 256;
/// How long it is shown that no Pi came while the window was open.
const NOBODY_SHOWN: Duration = Duration::from_secs(600);
/// A spanning tree with a shorter step, of which there are two, lets a Pi through in time.
const LONG_DELAY: Duration = Duration::from_secs(8);
/// Another server that was chosen by some board is counted on for so long.
const OTHER_SERVER_LASTS: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub struct Boards {
    watches: BTreeMap<MacAddr, Watch>,
    /// Another DHCP server that a board has chosen, and when.
    other_server: Option<(Duration, Ipv4Addr)>,
    /// When a Pi that is no client asked last.
    stranger_at: Option<Duration>,
    /// Until when it is shown that nobody came.
    nobody_until: Option<Duration>,
}

impl Boards {
    pub fn get(&self, mac: MacAddr) -> Option<&Watch> {
        self.watches.get(&mac)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.watches.len()
    }

    pub fn deadline(&self) -> Option<Duration> {
        self.nobody_until
    }

    /// The watch of this board; one more if there is none.
    fn of(&mut self, now: Duration, mac: MacAddr) -> &mut Watch {
        if !self.watches.contains_key(&mac) && self.watches.len() >= MAX_BOARDS {
            let oldest = self.watches.iter().min_by_key(|(_, watch)| watch.seen().heard).map(|(mac, _)| *mac);
            if let Some(oldest) = oldest {
                self.watches.remove(&oldest);
            }
        }
        self.watches.entry(mac).or_insert_with(|| Watch::new(now))
    }
}

impl Control {
    fn facts_of(&self, now: Duration, mac: MacAddr) -> Facts {
        let member = self.members.values().find(|member| member.client.mac == mac);
        Facts {
            store_open: self.store_open,
            has_root: member.is_some_and(|member| member.trees.is_some()),
            unanswered: member.is_some_and(|member| member.boot.is_unanswered()),
            ..self.wire_facts(now)
        }
    }

    /// What is known beside any board, by the survey and by what boards chose.
    fn wire_facts(&self, now: Duration) -> Facts {
        let recent = |(at, _): &(Duration, Ipv4Addr)| now < *at + OTHER_SERVER_LASTS;
        let chosen = self.boards.other_server.filter(recent).map(|(_, address)| address);
        Facts {
            // Beside another server that is as it should be.
            other_dhcp: chosen.or(self.facts.server.map(|server| server.address)).filter(|_| !self.is_beside()),
            forward_delay: self.facts.forward_delay,
            beside: self.is_beside(),
            nobody_leases: self.is_beside() && self.facts.silent,
            ..Facts::default()
        }
    }

    /// Any board's DHCP message, before it is decided about.
    pub(super) fn saw_request(&mut self, now: Duration, request: &Request, actions: &mut Vec<Action>) {
        // Other machines' messages tell nothing of a boot.
        let is_client = self.members.values().any(|member| member.client.mac == request.mac);
        if !is_client && !request.identity.asker.is_pi() {
            return;
        }
        let facts = self.facts_of(now, request.mac);
        let judged = self.boards.of(now, request.mac).asked(now, request, &facts);
        let ours = self.own().address;
        let chose = |id: &Ipv4Addr| *id != ours && !id.is_unspecified() && !self.is_beside();
        let other = request.server_id.filter(chose);
        if let Some(other) = other.filter(|_| request.kind == Kind::Request) {
            self.boards.other_server = Some((now, other));
            self.boards.of(now, request.mac).went_elsewhere(request.identity.asker.is_loader(), other);
        }
        self.judged(now, request.mac, judged, actions);
    }

    pub(super) fn saw_answer(&mut self, now: Duration, request: &Request, answer: Answer, binds: bool) {
        self.boards.of(now, request.mac).answered(now, request.identity.asker.is_loader(), answer, binds);
    }

    pub(super) fn saw_tftp(&mut self, now: Duration, event: &tftp::Event, actions: &mut Vec<Action>) {
        let Some(mac) = self.board_at(event.address()) else { return };
        let facts = self.facts_of(now, mac);
        let judged = self.boards.of(now, mac).tftp(now, event, &facts);
        self.judged(now, mac, judged, actions);
    }

    pub(super) fn saw_nfs(&mut self, now: Duration, event: &nfs::Event) {
        if let Some(mac) = self.board_at(event.address()) {
            self.boards.of(now, mac).nfs(now, event);
        }
    }

    pub(super) fn saw_up(&mut self, now: Duration, role: &Role) {
        if let Some(mac) = self.members.get(role).map(|member| member.client.mac) {
            self.boards.of(now, mac).up(now);
        }
    }

    pub(super) fn saw_gone(&mut self, now: Duration, role: &Role) {
        if let Some(mac) = self.members.get(role).map(|member| member.client.mac) {
            self.boards.of(now, mac).gone(now);
        }
    }

    fn board_at(&self, address: Ipv4Addr) -> Option<MacAddr> {
        self.members.values().find(|member| member.address() == Some(address)).map(|member| member.client.mac)
    }

    /// Lets time pass for the boots of clients: those that fell silent, and those that talk and get nowhere.
    pub(super) fn judge_boots(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.boards.nobody_until.is_some_and(|until| now >= until) {
            self.somebody_came();
        }
        let boards: Vec<(Role, MacAddr)> =
            self.members.values().map(|member| (member.client.role.clone(), member.client.mac)).collect();
        for (role, mac) in boards {
            let facts = self.facts_of(now, mac);
            let Some(member) = self.members.get_mut(&role) else { continue };
            let before = Before::of(&member.boot, now);
            // That it goes on running is no news.
            let news = member.boot.poll(now) && !member.boot.stage().is_up();
            if news && *member.boot.stage() == Stage::Gone {
                self.boards.of(now, mac).restarted(now);
                self.left(now, &role, &before, actions);
            } else if news {
                let (hint, news) = self.boards.of(now, mac).silent(now, &facts);
                if let Some(member) = self.members.get_mut(&role) {
                    member.boot.explain(hint);
                }
                self.judged(now, mac, news.then_some(hint), actions);
                self.stage_changed(now, &role, &before, actions);
            } else if let Some(watch) = self.boards.watches.get_mut(&mac) {
                let judged = watch.poll(now, &facts);
                self.judged(now, mac, judged, actions);
            }
        }
    }

    /// It runs another system now.
    fn left(&mut self, now: Duration, role: &Role, before: &Before, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get(role) else { return };
        let (mac, address) = (member.client.mac, member.address().unwrap_or(member.client.address));
        actions.push(Action::Log(format!("client {role}: gone: another system answers at {address}")));
        let stage = Stage::Gone.name().to_owned();
        actions.push(Action::Stage { mac, address, role: role.clone(), stage });
        self.stage_changed(now, role, before, actions);
    }

    /// A Pi that is no client asks: somebody came.
    pub(super) fn saw_stranger(&mut self, now: Duration) {
        self.boards.stranger_at = Some(now);
        self.somebody_came();
    }

    pub(super) fn somebody_came(&mut self) {
        if self.boards.nobody_until.take().is_some() {
            self.problems.clear(&Topic::Enrolment);
        }
    }

    /// The window closed by itself, `length` after it opened: if not one packet of a
    /// new Pi came meanwhile, the reason lies before the first packet.
    pub(super) fn window_ended(&mut self, now: Duration, length: Duration, actions: &mut Vec<Action>) {
        let came = self.boards.stranger_at.is_some_and(|at| at + length >= now);
        if came || !self.network.carrier {
            return;
        }
        let hint = if self.holds_ports(now) { Hint::PortsHeld } else { Hint::NeverAsked };
        actions.push(Action::Log(format!("{} {} {hint}", hint.observed(), hint.cause())));
        self.problems.set(Topic::Enrolment, hint.action().to_owned(), String::new());
        self.boards.nobody_until = Some(now + NOBODY_SHOWN);
    }

    /// The switch keeps each new Pi waiting until a Pi 2 or 3 has given up.
    fn holds_ports(&self, now: Duration) -> bool {
        self.wire_facts(now).forward_delay.is_some_and(|delay| delay >= LONG_DELAY)
    }

    /// What to try with a client of which nothing was heard yet.
    pub(super) fn advice(&self, member: &Member, now: Duration) -> Option<Hint> {
        let hint = if self.holds_ports(now) { Hint::PortsHeld } else { Hint::NeverHeard };
        (*member.boot.stage() == Stage::Off).then_some(hint)
    }

    /// A boot counts as stuck from now on.
    fn judged(&mut self, now: Duration, mac: MacAddr, hint: Option<Hint>, actions: &mut Vec<Action>) {
        let (Some(hint), Some(verdict)) = (hint, self.boards.get(mac).and_then(Watch::verdict)) else { return };
        let Some(member) = self.members.values().find(|member| member.client.mac == mac) else { return };
        let (role, at) = (&member.client.role, verdict.at());
        actions.push(Action::Log(format!("client {role} is stuck, {at}: {} {} {hint}", hint.observed(), hint.cause())));
        let (address, stage) = (member.client.address, format!("stuck, {at}"));
        actions.push(Action::Stage { mac, address, role: role.clone(), stage });
        self.report_stall(now, mac, hint, actions);
    }

    /// Another DHCP server that a board has chosen of late.
    pub(super) fn other_server(&self, now: Duration) -> Option<Ipv4Addr> {
        self.wire_facts(now).other_dhcp
    }

    /// The judgement that is shown in place of the stage: it talks and gets nowhere.
    fn stuck(&self, member: &Member) -> Option<&Verdict> {
        let verdict = self.boards.get(member.client.mac)?.verdict()?;
        let shown = match member.boot.stage() {
            // It is on again, and not from here.
            Stage::Gone => verdict.hint == Hint::OwnCard,
            stage => !stage.is_up() && !matches!(stage, Stage::Stalled { .. }),
        };
        shown.then_some(verdict)
    }

    pub(super) fn shown_stage(&self, member: &Member) -> Stage {
        match self.stuck(member) {
            Some(verdict) => Stage::Stalled { at: verdict.at().into(), hint: verdict.hint },
            None => member.boot.stage().clone(),
        }
    }

    /// How long it has been in that stage.
    pub(super) fn since(&self, member: &Member, now: Duration) -> Duration {
        self.stuck(member).map_or_else(|| member.boot.since(now), |verdict| now.saturating_sub(verdict.since))
    }

    /// With what a Pi that is no client needs beside ENROLL.
    pub(super) fn with_hint(&self, stranger: &Stranger) -> Stranger {
        let gave_up = self.boards.get(stranger.mac).is_some_and(Watch::gave_up);
        Stranger { hint: gave_up.then_some(Hint::PressAndRestart), ..stranger.clone() }
    }
}
