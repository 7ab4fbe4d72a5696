//! An address of our own from another server: the client's state machine
//! (RFC 2131 §4.4, figure 5), without INIT-REBOOT: the former address is asked
//! for in the DISCOVER instead.
//!
//! Pure. Time is an argument, since whatever start the caller likes. An address
//! is probed before its first use (§4.4.1), so the caller answers
//! [`Step::Probe`] with [`Leasing::probed`].

use std::net::Ipv4Addr;
use std::time::Duration;

use super::client::{self, Kind, Message, Reply};
use crate::client::MacAddr;
use crate::config::Subnet;

/// First and last pause between two tries; each is twice the one before (§4.1).
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const LAST_PAUSE: Duration = Duration::from_secs(64);
/// REQUESTs for one offer; then it begins anew.
const REQUESTS: u8 = 3;
/// Pause after a NAK, a conflict or an end (§3.1, 5).
const AGAIN: Duration = Duration::from_secs(10);
/// Least time between two renewals (§4.4.5), and the shortest lease that is
/// taken at its word: a server that says 0 must not make us a flood.
const LEAST: Duration = Duration::from_secs(60);
/// Where a server does not say.
const USUAL: Duration = Duration::from_secs(3600);

/// What another server gave us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub subnet: Subnet,
    pub server: Ipv4Addr,
    pub router: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A message to port 67; `to` is `None` for everybody, and then it has no sender.
    Send { bytes: Vec<u8>, from: Ipv4Addr, to: Option<(MacAddr, Ipv4Addr)> },
    /// Does anybody use this address?
    Probe(Ipv4Addr),
    /// It is ours.
    Take(Lease),
    /// It is not ours any more.
    Lose(Ipv4Addr),
}

#[derive(Debug)]
enum State {
    /// From `next` on a DISCOVER is due.
    Selecting {
        tries: u8,
        next: Duration,
    },
    Requesting {
        offer: Reply,
        tries: u8,
        next: Duration,
    },
    /// Acknowledged; the wire is being asked.
    Probing {
        ack: Reply,
        since: Duration,
    },
    Bound {
        lease: Lease,
        times: Times,
        next: Duration,
    },
}

/// When a lease is to be renewed, by whom, and when it ends; `None` never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    renew: Option<Duration>,
    rebind: Option<Duration>,
    end: Option<Duration>,
}

/// We as a client.
#[derive(Debug)]
pub struct Leasing {
    mac: MacAddr,
    state: State,
    xid: u32,
    began: Duration,
    before: Option<Ipv4Addr>,
    /// Who sent the last answer, for the unicast of a renewal.
    server_mac: MacAddr,
}

impl Leasing {
    /// `before` is an address that we had of this server, or would like.
    pub fn new(now: Duration, mac: MacAddr, xid: u32, before: Option<Ipv4Addr>) -> Self {
        let state = State::Selecting { tries: 0, next: now };
        Self { mac, state, xid, began: now, before, server_mac: MacAddr([0xff; 6]) }
    }

    /// The address that is ours now.
    pub fn address(&self) -> Option<Ipv4Addr> {
        match &self.state {
            State::Bound { lease, .. } => Some(lease.subnet.address),
            _ => None,
        }
    }

    pub fn poll_timeout(&self) -> Option<Duration> {
        match &self.state {
            State::Selecting { next, .. } | State::Requesting { next, .. } => Some(*next),
            State::Probing { .. } => None,
            State::Bound { times, next, .. } => times.renew.map(|_| *next).into_iter().chain(times.end).min(),
        }
    }

    /// What is due at `now`.
    pub fn poll(&mut self, now: Duration) -> Vec<Step> {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return Vec::new();
        }
        let everybody = |bytes| Step::Send { bytes, from: Ipv4Addr::UNSPECIFIED, to: None };
        let secs = now.saturating_sub(self.began).as_secs().min(u16::MAX.into()) as u16;
        match &mut self.state {
            State::Selecting { tries, next } => {
                *next = now + pause(*tries, self.xid);
                *tries = tries.saturating_add(1);
                let message = Message::Discover { before: self.before };
                vec![everybody(client::encode(message, self.mac, self.xid, secs, None))]
            }
            State::Requesting { tries, .. } if *tries >= REQUESTS => {
                self.begin(now, Duration::ZERO);
                self.poll(now)
            }
            State::Requesting { offer, tries, next } => {
                *next = now + pause(*tries, self.xid);
                *tries += 1;
                let message = Message::Request { address: offer.yiaddr, server: offer.server };
                vec![everybody(client::encode(message, self.mac, self.xid, secs, None))]
            }
            State::Probing { .. } => Vec::new(),
            State::Bound { lease, times, .. } if times.end.is_some_and(|end| now >= end) => {
                let address = lease.subnet.address;
                self.begin(now, Duration::ZERO);
                [vec![Step::Lose(address)], self.poll(now)].concat()
            }
            State::Bound { lease, times, next } => {
                let rebinding = times.rebind.is_some_and(|rebind| now >= rebind);
                let limit = if rebinding { times.end } else { times.rebind.or(times.end) };
                // §4.4.5: half of what is left, and not more often than once a minute.
                let half = limit.map_or(LAST_PAUSE, |limit| limit.saturating_sub(now) / 2);
                *next = now + half.max(LEAST);
                let address = lease.subnet.address;
                let bytes = client::encode(Message::Renew { address }, self.mac, self.xid, 0, None);
                let to =
                    if rebinding { (MacAddr([0xff; 6]), Ipv4Addr::BROADCAST) } else { (self.server_mac, lease.server) };
                vec![Step::Send { bytes, from: address, to: Some(to) }]
            }
        }
    }

    /// An answer to port 68 that this station sent.
    pub fn heard(&mut self, now: Duration, from: MacAddr, reply: &Reply) -> Vec<Step> {
        if reply.mac != self.mac || reply.xid != self.xid {
            return Vec::new();
        }
        match (&mut self.state, reply.kind) {
            (State::Selecting { tries, .. }, Kind::Offer) if *tries > 0 && reply.subnet.is_some() => {
                self.state = State::Requesting { offer: reply.clone(), tries: 0, next: now };
                self.poll(now)
            }
            (State::Requesting { offer, .. }, Kind::Ack) if reply.yiaddr == offer.yiaddr => {
                self.server_mac = from;
                // An ACK may leave out what the OFFER told.
                let mut ack = reply.clone();
                ack.subnet = ack.subnet.or(offer.subnet);
                ack.router = ack.router.or(offer.router);
                self.state = State::Probing { ack, since: now };
                vec![Step::Probe(reply.yiaddr)]
            }
            (State::Requesting { offer, .. }, Kind::Nak) if reply.server == offer.server => {
                self.begin(now, AGAIN);
                Vec::new()
            }
            (State::Bound { lease, times, next }, Kind::Ack) if reply.yiaddr == lease.subnet.address => {
                self.server_mac = from;
                lease.server = reply.server;
                *times = Times::of(now, reply);
                *next = times.renew.unwrap_or(now);
                Vec::new()
            }
            // Of the server that we have, or of whoever answers a rebinding.
            (State::Bound { lease, times, .. }, Kind::Nak)
                if reply.server == lease.server || times.rebind.is_some_and(|rebind| now >= rebind) =>
            {
                let address = lease.subnet.address;
                self.before = None;
                self.begin(now, Duration::ZERO);
                vec![Step::Lose(address)]
            }
            _ => Vec::new(),
        }
    }

    /// The answer to [`Step::Probe`].
    pub fn probed(&mut self, now: Duration, address: Ipv4Addr, conflict: bool) -> Vec<Step> {
        let State::Probing { ack, since } = &self.state else { return Vec::new() };
        let (Some(subnet), true) = (ack.subnet, ack.yiaddr == address) else { return Vec::new() };
        if conflict {
            let message = Message::Decline { address, server: ack.server };
            let bytes = client::encode(message, self.mac, self.xid, 0, None);
            self.before = None;
            self.begin(now, AGAIN);
            return vec![Step::Send { bytes, from: Ipv4Addr::UNSPECIFIED, to: None }];
        }
        let lease = Lease { subnet, server: ack.server, router: ack.router, dns: ack.dns.clone() };
        let times = Times::of(*since, ack);
        self.before = Some(address);
        self.state = State::Bound { lease: lease.clone(), times, next: times.renew.unwrap_or(now) };
        vec![Step::Take(lease)]
    }

    fn begin(&mut self, now: Duration, pause: Duration) {
        // Late answers to the last round are not for this one.
        self.xid = self.xid.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.began = now + pause;
        self.state = State::Selecting { tries: 0, next: now + pause };
    }
}

impl Times {
    /// From when the lease was given; RFC 2131 §4.4.5 says what holds where a server does not.
    fn of(now: Duration, ack: &Reply) -> Self {
        let lease = ack.lease.unwrap_or(USUAL);
        if lease == Duration::MAX {
            return Self { renew: None, rebind: None, end: None };
        }
        let lease = lease.max(LEAST);
        let rebind = ack.rebind.filter(|rebind| *rebind < lease).unwrap_or(lease * 7 / 8);
        let renew = ack.renew.filter(|renew| *renew < rebind).unwrap_or(lease / 2).max(LEAST / 2);
        Self { renew: Some(now + renew), rebind: Some(now + rebind), end: Some(now + lease) }
    }
}

/// The pause after this try, a second more or less by the number at hand, so
/// that appliances which got power together do not ask together (§4.1).
fn pause(tries: u8, xid: u32) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << tries.min(5)).min(LAST_PAUSE);
    let jitter = Duration::from_millis(u64::from(xid.rotate_left(u32::from(tries)) % 2000));
    whole - Duration::from_secs(1) + jitter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::message;

    const MAC: MacAddr = MacAddr([0xb8, 0x27, 0xeb, 1, 2, 3]);
    const ROUTER: MacAddr = MacAddr([0xc8, 0x0e, 0x14, 9, 9, 9]);
    const ITS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 57);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn answer(leasing: &Leasing, kind: Kind) -> Reply {
        Reply {
            kind,
            xid: leasing.xid,
            mac: MAC,
            yiaddr: ITS,
            server: SERVER,
            subnet: Some(Subnet { address: ITS, prefix: 24 }),
            router: Some(SERVER),
            dns: Vec::new(),
            lease: Some(s(3600)),
            renew: None,
            rebind: None,
            is_appliance: false,
        }
    }

    /// What a step sends, as a server reads it.
    fn sent(steps: &[Step]) -> message::Request {
        match steps {
            [Step::Send { bytes, .. }] => message::parse(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn hears(leasing: &mut Leasing, at: Duration, kind: Kind) -> Vec<Step> {
        let reply = answer(leasing, kind);
        leasing.heard(at, ROUTER, &reply)
    }

    fn bound() -> Leasing {
        let mut leasing = Leasing::new(s(0), MAC, 7, None);
        assert_eq!(sent(&leasing.poll(s(0))).kind, message::Kind::Discover);
        let request = sent(&hears(&mut leasing, s(1), Kind::Offer));
        assert_eq!(
            (request.kind, request.requested, request.server_id),
            (message::Kind::Request, Some(ITS), Some(SERVER))
        );
        assert_eq!(hears(&mut leasing, s(2), Kind::Ack), [Step::Probe(ITS)]);
        assert_eq!(leasing.address(), None);
        let steps = leasing.probed(s(2), ITS, false);
        assert!(
            matches!(&steps[..], [Step::Take(lease)] if lease.subnet.address == ITS && lease.router == Some(SERVER))
        );
        leasing
    }

    #[test]
    fn an_address_is_asked_for_probed_and_taken() {
        assert_eq!(bound().address(), Some(ITS));
    }

    #[test]
    fn without_an_answer_it_asks_ever_more_seldom_and_never_stops() {
        let mut leasing = Leasing::new(s(0), MAC, 7, Some(ITS));
        let mut at = Vec::new();
        while let Some(due) = leasing.poll_timeout().filter(|due| *due < s(600)) {
            assert_eq!(sent(&leasing.poll(due)).requested, Some(ITS));
            at.push(due.as_secs());
        }
        assert!((12..=16).contains(&at.len()), "{at:?}");
        assert!(at.windows(2).all(|two| (3..=65).contains(&(two[1] - two[0]))), "{at:?}");
    }

    #[test]
    fn a_lease_is_renewed_by_its_server_then_by_anybody_and_then_lost() {
        let mut leasing = bound();
        assert_eq!(leasing.poll_timeout(), Some(s(2 + 1800)));
        assert!(leasing.poll(s(1801)).is_empty());
        let mut rebinding = 0;
        let mut renewing = 0;
        let lost = loop {
            let due = leasing.poll_timeout().unwrap();
            match &leasing.poll(due)[..] {
                [Step::Send { from, to: Some((mac, to)), .. }] => {
                    assert_eq!(*from, ITS);
                    match *to {
                        SERVER => renewing += usize::from(*mac == ROUTER),
                        _ => rebinding += 1,
                    }
                }
                [Step::Lose(address), Step::Send { to: None, .. }] => {
                    assert_eq!(*address, ITS);
                    break due;
                }
                other => panic!("{other:?}"),
            }
        };
        assert!(renewing >= 3 && rebinding >= 2, "{renewing} and {rebinding}");
        assert_eq!((lost, leasing.address()), (s(3602), None));
    }

    #[test]
    fn a_renewal_that_is_acknowledged_lasts_as_long_again() {
        let mut leasing = bound();
        leasing.poll(s(1802));
        assert!(hears(&mut leasing, s(1803), Kind::Ack).is_empty());
        assert_eq!((leasing.poll_timeout(), leasing.address()), (Some(s(1803 + 1800)), Some(ITS)));
    }

    #[test]
    fn a_nak_ends_it_and_another_ones_nak_does_not() {
        let mut leasing = bound();
        let other = Reply { server: ITS, ..answer(&leasing, Kind::Nak) };
        assert!(leasing.heard(s(9), ROUTER, &other).is_empty());
        assert_eq!(hears(&mut leasing, s(9), Kind::Nak), [Step::Lose(ITS)]);
        assert_eq!(sent(&leasing.poll(s(9))).requested, None);
    }

    #[test]
    fn an_address_that_somebody_has_is_declined_and_another_one_asked_for() {
        let mut leasing = Leasing::new(s(0), MAC, 7, None);
        leasing.poll(s(0));
        hears(&mut leasing, s(1), Kind::Offer);
        hears(&mut leasing, s(2), Kind::Ack);
        let decline = sent(&leasing.probed(s(3), ITS, true));
        assert_eq!((decline.kind, decline.requested), (message::Kind::Decline, Some(ITS)));
        assert!(leasing.poll(s(12)).is_empty());
        assert_eq!(sent(&leasing.poll(s(13))).kind, message::Kind::Discover);
    }

    #[test]
    fn answers_to_others_and_out_of_turn_change_nothing() {
        let mut leasing = Leasing::new(s(0), MAC, 7, None);
        assert!(hears(&mut leasing, s(0), Kind::Offer).is_empty(), "nothing was asked yet");
        leasing.poll(s(0));
        let good = answer(&leasing, Kind::Offer);
        for other in [
            Reply { xid: 8, ..good.clone() },
            Reply { mac: ROUTER, ..good.clone() },
            Reply { subnet: None, ..good.clone() },
            Reply { kind: Kind::Ack, ..good.clone() },
        ] {
            assert!(leasing.heard(s(1), ROUTER, &other).is_empty(), "{other:?}");
        }
        assert!(leasing.probed(s(1), ITS, false).is_empty());
    }

    #[test]
    fn strange_times_make_neither_a_flood_nor_an_overflow() {
        let times = |lease, renew, rebind| {
            let leasing = Leasing::new(s(0), MAC, 7, None);
            Times::of(s(100), &Reply { lease, renew, rebind, ..answer(&leasing, Kind::Ack) })
        };
        assert_eq!(times(Some(Duration::MAX), None, None), Times { renew: None, rebind: None, end: None });
        assert_eq!(times(Some(s(0)), Some(s(0)), None).end, Some(s(160)));
        let odd = times(Some(s(1000)), Some(Duration::MAX), Some(Duration::MAX));
        assert_eq!((odd.renew, odd.rebind), (Some(s(600)), Some(s(975))));
        assert_eq!(times(None, None, None).end, Some(s(3700)));
    }
}
