//! When to probe for an address and when to answer (RFC 5227, with its times
//! cut to what a booting client waits for), and how often to speak of a conflict.
//!
//! Pure; times are since the worker's start.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::arp::Arp;
use crate::client::MacAddr;

/// Probes that are sent for one address.
const PROBES: u8 = 3;
/// Between two probes, and after the last one. RFC 5227 waits 1 to 2 s, which
/// would cost a Pi 3 one of its five DISCOVERs; a station on the same wire
/// answers in under a millisecond, one that sleeps is caught by a later probe.
const INTERVAL: Duration = Duration::from_millis(100);
/// From the question to its answer, at most.
pub const PROBE_TIME: Duration = Duration::from_millis(300);

/// Probes that run at once. More are answered at once as free: the client's own
/// ARP check and DECLINE are then the only guard.
pub const MAX_PROBES: usize = 64;

/// Shortest time between two reports, and two defences, of our own address
/// (RFC 5227 §1.1, DEFEND_INTERVAL).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// For whom a probe runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Our own address, before its first use or after a new carrier.
    Own,
    /// An address that another server gave us.
    Leased,
    /// Control asked.
    Asked,
}

#[derive(Debug)]
struct Probe {
    purpose: Purpose,
    address: Ipv4Addr,
    /// May answer without being a conflict: the client that is to have it.
    owner: Option<MacAddr>,
    sent: u8,
    next: Duration,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Send { address: Ipv4Addr },
    Done { purpose: Purpose, address: Ipv4Addr, conflict: Option<MacAddr> },
}

/// The probes that run.
#[derive(Debug, Default)]
pub(super) struct Probes(Vec<Probe>);

impl Probes {
    /// Starts one; `false` if too many run already.
    pub(super) fn start(&mut self, now: Duration, purpose: Purpose, address: Ipv4Addr, owner: Option<MacAddr>) -> bool {
        let room = self.0.len() < MAX_PROBES;
        if room {
            self.0.push(Probe { purpose, address, owner, sent: 0, next: now });
        }
        room
    }

    pub(super) fn runs(&self, purpose: Purpose) -> bool {
        self.0.iter().any(|probe| probe.purpose == purpose)
    }

    /// Takes in a packet that `ours` did not send; what it decides is done at once.
    pub(super) fn heard(&mut self, ours: MacAddr, arp: &Arp) -> Vec<Step> {
        let mut steps = Vec::new();
        self.0.retain(|probe| {
            let concerns = arp.uses(probe.address) || arp.probes(probe.address);
            let conflict = concerns && arp.sender_mac != ours && Some(arp.sender_mac) != probe.owner;
            if conflict {
                let (purpose, address) = (probe.purpose, probe.address);
                steps.push(Step::Done { purpose, address, conflict: Some(arp.sender_mac) });
            }
            !conflict
        });
        steps
    }

    /// What is due at `now`.
    pub(super) fn poll(&mut self, now: Duration) -> Vec<Step> {
        let mut steps = Vec::new();
        self.0.retain_mut(|probe| {
            if probe.next > now {
                return true;
            }
            let (purpose, address) = (probe.purpose, probe.address);
            if probe.sent == PROBES {
                steps.push(Step::Done { purpose, address, conflict: None });
                return false;
            }
            steps.push(Step::Send { address });
            probe.sent += 1;
            probe.next = now + INTERVAL;
            true
        });
        steps
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.0.iter().map(|probe| probe.next).min()
    }
}

/// Keeps reports about our own address seldom, whoever shouts.
#[derive(Debug, Default)]
pub(super) struct Guard {
    last: Option<Duration>,
}

impl Guard {
    /// Whether this conflict is to be reported and defended now.
    pub(super) fn admit(&mut self, now: Duration) -> bool {
        let admit = self.last.is_none_or(|last| now >= last + DEFEND_INTERVAL);
        if admit {
            self.last = Some(now);
        }
        admit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
    const SEND: Step = Step::Send { address: ADDRESS };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn done(conflict: Option<MacAddr>) -> Step {
        Step::Done { purpose: Purpose::Asked, address: ADDRESS, conflict }
    }

    fn says(sender_mac: MacAddr, sender: Ipv4Addr) -> Arp {
        Arp { sender_mac, sender, target: ADDRESS }
    }

    fn started() -> Probes {
        let mut probes = Probes::default();
        assert!(probes.start(ms(0), Purpose::Asked, ADDRESS, Some(CLIENT)));
        probes
    }

    #[test]
    fn three_probes_and_silence_make_a_free_address_in_time() {
        let mut probes = started();
        for at in [0, 100, 200] {
            assert_eq!(probes.poll_timeout(), Some(ms(at)));
            assert_eq!(probes.poll(ms(at)), [SEND]);
            assert_eq!(probes.poll(ms(at)), []);
        }
        assert_eq!(probes.poll(PROBE_TIME), [done(None)]);
        assert_eq!((probes.poll_timeout(), probes.poll(ms(9999))), (None, vec![]));
    }

    #[test]
    fn an_answer_or_another_ones_probe_ends_it_at_once() {
        for sender in [ADDRESS, Ipv4Addr::UNSPECIFIED] {
            let mut probes = started();
            probes.poll(ms(0));
            assert_eq!(probes.heard(OURS, &says(OTHER, sender)), [done(Some(OTHER))]);
            assert_eq!(probes.poll_timeout(), None);
        }
    }

    #[test]
    fn the_client_itself_and_we_are_no_conflict() {
        let mut probes = started();
        assert_eq!(probes.heard(OURS, &says(CLIENT, ADDRESS)), []);
        assert_eq!(probes.heard(OURS, &says(OURS, Ipv4Addr::UNSPECIFIED)), []);
        assert_eq!(probes.heard(OURS, &says(OTHER, Ipv4Addr::new(192, 168, 77, 11))), []);
        assert_eq!(probes.poll_timeout(), Some(ms(0)));
    }

    #[test]
    fn probes_are_bounded() {
        let mut probes = Probes::default();
        for _ in 0..MAX_PROBES {
            assert!(probes.start(ms(0), Purpose::Asked, ADDRESS, None));
        }
        assert!(!probes.start(ms(0), Purpose::Asked, ADDRESS, None));
    }

    #[test]
    fn a_shouting_neighbour_is_reported_every_ten_seconds() {
        let mut guard = Guard::default();
        let admitted = (0..300).filter(|n| guard.admit(ms(n * 100))).count();
        assert_eq!(admitted, 3);
    }
}
