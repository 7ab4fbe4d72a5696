//! When to ask the wire who leases addresses on it, and what the answers and
//! the other signs add up to.
//!
//! Pure; times are since the worker's start. The question is a DISCOVER of a
//! client that does not exist (RFC 2131 §4.4.1), so nothing is leased by it:
//! an offer that is not taken goes back to its pool.

use std::time::Duration;

use super::bpdu::Bpdu;
use super::vendors::vendor;
use crate::client::MacAddr;
use crate::dhcp::client::{self, APPLIANCE_CLASS, Kind, Message, Reply};
use crate::wire::{Facts, OtherServer, Station};

/// When a DISCOVER is sent, since the survey's start. The kernel drops what is
/// sent within some 0.5 s of a new carrier, and a switch may still learn where we are.
const SENT_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(600), Duration::from_millis(2000)];
/// After this time without an answer the wire counts as free. A server that
/// pings an address before it offers it takes 3 s (dnsmasq: 3.02 s measured,
/// 2026-11); others take 1 s or none.
pub const SURVEY_TIME: Duration = Duration::from_millis(4500);
/// So long an answer is still heard: better late than two servers.
const LISTEN_TIME: Duration = Duration::from_secs(10);
/// From a survey's end to the next one's start.
pub const PAUSE: Duration = Duration::from_secs(300);
/// So many surveys in a row without an answer, and a server is gone: a router
/// that restarts is not, and a quarter of an hour is long.
const GONE_AFTER: u8 = 3;
/// BPDUs come every 2 s; 802.1D forgets a bridge after at most 40 s.
const BPDU_KEPT: Duration = Duration::from_secs(60);
/// A station that works with an address is heard more often than that.
const TAKEN_KEPT: Duration = Duration::from_secs(60);

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// To everybody, port 67.
    Send(Vec<u8>),
    Tell(Facts),
}

#[derive(Debug)]
struct Running {
    began: Duration,
    sent: usize,
    xid: u32,
    heard_server: bool,
    heard_appliance: bool,
}

#[derive(Debug)]
pub(super) struct Survey {
    /// Who asks: no board that could exist.
    mac: MacAddr,
    facts: Facts,
    told: Option<Facts>,
    running: Option<Running>,
    /// When the next one begins; `None` without a carrier.
    next: Option<Duration>,
    silent: u8,
    bpdu_until: Duration,
    /// Until when a conflict that was only overheard is told.
    taken_until: Option<Duration>,
}

impl Survey {
    pub(super) fn new(ours: MacAddr) -> Self {
        let [.., d, e, f] = ours.0;
        Self {
            mac: MacAddr([2, b'R', b'K', d, e, f]),
            facts: Facts::default(),
            told: None,
            running: None,
            next: None,
            silent: 0,
            bpdu_until: Duration::ZERO,
            taken_until: None,
        }
    }

    /// The cable was plugged in, or out: all that was known is of another wire.
    pub(super) fn carrier(&mut self, now: Duration, carrier: bool) {
        (self.running, self.silent) = (None, 0);
        self.next = carrier.then_some(now);
        self.taken_until = None;
        self.facts = Facts { asking: carrier, ..Facts::default() };
    }

    /// Somebody wants to know now.
    pub(super) fn ask(&mut self, now: Duration) {
        // One that has just begun is what was asked for.
        let asks = self.running.as_ref().is_some_and(|running| running.sent < SENT_AT.len());
        if self.next.is_some() && !asks {
            (self.running, self.next) = (None, Some(now));
        }
    }

    /// Whether answers are awaited.
    pub(super) fn listens(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn link(&mut self, mbit: Option<u32>, half_duplex: bool, could_be_faster: bool) {
        (self.facts.mbit, self.facts.half_duplex, self.facts.could_be_faster) = (mbit, half_duplex, could_be_faster);
    }

    /// What a probe for our own address brought: it holds until the next one.
    pub(super) fn probed(&mut self, by: Option<MacAddr>) {
        self.facts.taken_by = by.map(|mac| Station { mac, vendor: vendor(mac) });
        self.taken_until = None;
    }

    /// Somebody was heard to use our address.
    pub(super) fn overheard(&mut self, now: Duration, by: MacAddr) {
        self.probed(Some(by));
        self.taken_until = Some(now + TAKEN_KEPT);
    }

    pub(super) fn bpdu(&mut self, now: Duration, bpdu: Bpdu) {
        if bpdu.forward_delay.is_some() {
            self.facts.forward_delay = bpdu.forward_delay;
        }
        self.bpdu_until = now + BPDU_KEPT;
    }

    /// An answer that came to port 68 from this station.
    pub(super) fn heard(&mut self, from: MacAddr, reply: &Reply) {
        let Some(running) = &mut self.running else { return };
        if reply.kind != Kind::Offer || reply.mac != self.mac || reply.xid != running.xid {
            return;
        }
        if reply.is_appliance {
            running.heard_appliance = true;
            self.facts.appliance = Some(reply.server);
        } else if !reply.yiaddr.is_unspecified() {
            // The one that is known stays the one that is told while it answers.
            let known = self.facts.server.filter(|_| running.heard_server).map(|server| server.address);
            if known.is_none_or(|known| known == reply.server) {
                let station = Station { mac: from, vendor: vendor(from) };
                self.facts.server = Some(OtherServer { address: reply.server, station, offered: reply.subnet });
            }
            (running.heard_server, self.facts.asking, self.silent) = (true, false, 0);
            self.facts.silent = false;
        }
    }

    /// What is due at `now`. `xid` is for a survey that begins.
    pub(super) fn poll(&mut self, now: Duration, xid: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.facts.forward_delay.is_some() && now >= self.bpdu_until {
            self.facts.forward_delay = None;
        }
        if self.taken_until.is_some_and(|until| now >= until) {
            self.probed(None);
        }
        if self.running.is_none() && self.next.is_some_and(|next| now >= next) {
            self.running = Some(Running { began: now, sent: 0, xid, heard_server: false, heard_appliance: false });
        }
        if let Some(running) = &mut self.running {
            while SENT_AT.get(running.sent).is_some_and(|at| now >= running.began + *at) {
                let secs = (now - running.began).as_secs() as u16;
                let message = Message::Discover { before: None };
                let bytes = client::encode(message, self.mac, running.xid, secs, Some(APPLIANCE_CLASS));
                steps.push(Step::Send(bytes));
                running.sent += 1;
            }
            if now >= running.began + SURVEY_TIME {
                self.facts.asking = false;
                self.facts.silent |= !running.heard_server;
            }
            if now >= running.began + LISTEN_TIME {
                let (server, appliance) = (running.heard_server, running.heard_appliance);
                self.ended(now, server, appliance);
            }
        }
        if self.told != Some(self.facts) {
            self.told = Some(self.facts);
            steps.push(Step::Tell(self.facts));
        }
        steps
    }

    fn ended(&mut self, now: Duration, server: bool, appliance: bool) {
        self.running = None;
        self.next = Some(now + PAUSE);
        if !appliance {
            self.facts.appliance = None;
        }
        if !server {
            self.silent = self.silent.saturating_add(1);
        }
        if self.silent >= GONE_AFTER {
            self.facts.server = None;
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let running = self.running.as_ref().map(|running| {
            let told = running.heard_server || self.facts.silent;
            let end = if self.facts.asking || !told { SURVEY_TIME } else { LISTEN_TIME };
            running.began + *SENT_AT.get(running.sent).unwrap_or(&end)
        });
        let bpdu = self.facts.forward_delay.map(|_| self.bpdu_until);
        running.or(self.next).into_iter().chain(bpdu).chain(self.taken_until).min()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::config::Subnet;

    const OURS: MacAddr = MacAddr([0xb8, 0x27, 0xeb, 1, 2, 3]);
    /// Of a wire that nobody leases on.
    const QUIET: Facts = Facts {
        asking: false,
        mbit: None,
        half_duplex: false,
        could_be_faster: false,
        taken_by: None,
        server: None,
        silent: true,
        appliance: None,
        forward_delay: None,
    };
    const ROUTER: MacAddr = MacAddr([0xc8, 0x0e, 0x14, 9, 9, 9]);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn offer(survey: &Survey, xid: u32, last: u8) -> Reply {
        let address = Ipv4Addr::new(192, 168, 1, 57);
        Reply {
            kind: Kind::Offer,
            xid,
            mac: survey.mac,
            yiaddr: address,
            server: Ipv4Addr::new(192, 168, 1, last),
            subnet: Some(Subnet { address, prefix: 24 }),
            router: None,
            dns: Vec::new(),
            lease: None,
            renew: None,
            rebind: None,
            is_appliance: false,
        }
    }

    fn plugged() -> Survey {
        let mut survey = Survey::new(OURS);
        survey.carrier(ms(0), true);
        survey
    }

    /// Lets it run to the time; how much was sent, and what was told last.
    fn run(survey: &mut Survey, until: Duration) -> (usize, Option<Facts>) {
        let (mut sent, mut told) = (0, None);
        while let Some(due) = survey.poll_timeout().filter(|due| *due <= until) {
            for step in survey.poll(due, 7) {
                match step {
                    Step::Send(_) => sent += 1,
                    Step::Tell(facts) => told = Some(facts),
                }
            }
        }
        (sent, told)
    }

    #[test]
    fn a_quiet_wire_is_asked_three_times_and_then_told_to_be_quiet() {
        let mut survey = plugged();
        let steps = survey.poll(ms(0), 7);
        assert!(matches!(&steps[..], [Step::Send(_), Step::Tell(Facts { asking: true, .. })]), "{steps:?}");
        assert_eq!(run(&mut survey, SURVEY_TIME), (2, Some(QUIET)));
        run(&mut survey, LISTEN_TIME);
        assert_eq!(survey.poll_timeout(), Some(LISTEN_TIME + PAUSE));
        assert_eq!(run(&mut survey, LISTEN_TIME * 2 + PAUSE).0, 3, "and again after a while");
    }

    #[test]
    fn without_a_cable_nothing_is_asked() {
        let mut survey = Survey::new(OURS);
        survey.carrier(ms(0), false);
        survey.ask(ms(1));
        assert_eq!(survey.poll_timeout(), None);
    }

    #[test]
    fn an_offer_to_our_question_shows_a_server_with_its_maker_at_once() {
        let mut survey = plugged();
        survey.poll(ms(0), 7);
        let good = offer(&survey, 7, 1);
        for other in [Reply { xid: 8, ..good.clone() }, Reply { mac: OURS, ..good.clone() }] {
            survey.heard(ROUTER, &other);
        }
        survey.heard(ROUTER, &Reply { kind: Kind::Nak, ..good.clone() });
        survey.heard(ROUTER, &Reply { yiaddr: Ipv4Addr::UNSPECIFIED, ..good.clone() });
        assert_eq!(survey.facts.server, None);
        survey.heard(ROUTER, &good);
        let server = survey.facts.server.unwrap();
        assert_eq!((server.address, server.station.vendor), (good.server, Some("AVM")));
        assert!(!survey.facts.asking);
        survey.heard(ROUTER, &offer(&survey, 7, 2));
        assert_eq!(survey.facts.server, Some(server), "the first one stays");
    }

    #[test]
    fn somebody_who_wants_to_know_need_not_wait_for_the_last_answers() {
        let mut survey = plugged();
        survey.poll(ms(0), 7);
        survey.ask(ms(1));
        assert_eq!(run(&mut survey, SURVEY_TIME).0, 2, "it has begun already");
        survey.ask(ms(5000));
        assert_eq!(run(&mut survey, ms(5000) + SURVEY_TIME).0, 3);
    }

    #[test]
    fn a_late_answer_still_counts() {
        let mut survey = plugged();
        run(&mut survey, SURVEY_TIME);
        assert!(!survey.facts.asking && survey.listens());
        survey.heard(ROUTER, &offer(&survey, 7, 1));
        assert!(survey.facts.server.is_some());
        run(&mut survey, LISTEN_TIME);
        assert!(!survey.listens());
    }

    #[test]
    fn a_server_is_gone_after_three_silent_surveys() {
        let mut survey = plugged();
        survey.poll(ms(0), 7);
        survey.heard(ROUTER, &offer(&survey, 7, 1));
        let round = LISTEN_TIME + PAUSE;
        run(&mut survey, LISTEN_TIME + round * 2);
        assert!(survey.facts.server.is_some(), "silent twice");
        assert_eq!(run(&mut survey, LISTEN_TIME + round * 3).1, Some(QUIET));
    }

    #[test]
    fn a_server_that_does_not_answer_is_told_at_once_and_so_is_its_return() {
        let mut survey = plugged();
        survey.poll(ms(0), 7);
        survey.heard(ROUTER, &offer(&survey, 7, 1));
        let round = LISTEN_TIME + PAUSE;
        assert_eq!(run(&mut survey, round - ms(1)).1.map(|facts| facts.silent), Some(false));
        let facts = run(&mut survey, round + SURVEY_TIME).1.unwrap();
        assert!(facts.silent && facts.server.is_some(), "{facts:?}");
        survey.heard(ROUTER, &offer(&survey, 7, 1));
        assert_eq!(run(&mut survey, round + LISTEN_TIME).1.map(|facts| facts.silent), Some(false), "a slow answer");
    }

    #[test]
    fn another_appliance_is_known_by_its_answer_and_is_no_server() {
        let mut survey = plugged();
        survey.poll(ms(0), 7);
        let answer = Reply { is_appliance: true, yiaddr: Ipv4Addr::UNSPECIFIED, ..offer(&survey, 7, 2) };
        survey.heard(ROUTER, &answer);
        assert_eq!((survey.facts.appliance, survey.facts.server), (Some(answer.server), None));
        run(&mut survey, LISTEN_TIME);
        assert_eq!(survey.facts.appliance, Some(answer.server));
        run(&mut survey, LISTEN_TIME * 2 + PAUSE);
        assert_eq!(survey.facts.appliance, None);
    }

    #[test]
    fn spanning_tree_is_told_until_its_bpdus_end() {
        let mut survey = plugged();
        let delay = Some(Duration::from_secs(15));
        survey.bpdu(ms(500), Bpdu { forward_delay: delay });
        survey.bpdu(ms(2500), Bpdu { forward_delay: None });
        assert_eq!(run(&mut survey, SURVEY_TIME).1.unwrap().forward_delay, delay);
        assert_eq!(run(&mut survey, ms(2500) + BPDU_KEPT).1.unwrap().forward_delay, None);
    }

    #[test]
    fn a_conflict_that_was_overheard_is_forgotten_and_a_probed_one_not() {
        let taken = |survey: &Survey| survey.facts.taken_by.map(|by| by.mac);
        let mut survey = plugged();
        survey.overheard(ms(0), ROUTER);
        run(&mut survey, TAKEN_KEPT - ms(1));
        assert_eq!(taken(&survey), Some(ROUTER));
        run(&mut survey, TAKEN_KEPT);
        assert_eq!(taken(&survey), None);
        survey.probed(Some(ROUTER));
        run(&mut survey, TAKEN_KEPT * 3);
        assert_eq!(taken(&survey), Some(ROUTER));
    }

    #[test]
    fn another_wire_is_asked_anew() {
        let mut survey = plugged();
        survey.poll(ms(0), 7);
        survey.heard(ROUTER, &offer(&survey, 7, 1));
        survey.probed(Some(ROUTER));
        survey.carrier(ms(9000), false);
        survey.carrier(ms(9500), true);
        assert_eq!(survey.facts, Facts { asking: true, ..Facts::default() });
        assert_eq!(run(&mut survey, ms(9500) + SURVEY_TIME).0, 3);
    }
}
