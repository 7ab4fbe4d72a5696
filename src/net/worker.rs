//! The network thread: reads what the kernel has, mends what is not as it
//! should be, speaks ARP.
//!
//! I/O. What to do lies in `choose`, `probe` and `neighbours`, and how in
//! `kernel`; here is when.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{FutureExt, StreamExt};
use rtnetlink::MulticastGroup;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep, sleep_until};

use super::arp::{self, Arp};
use super::bpdu::{self, Bpdu};
use super::choose::{Link, choose};
use super::neighbours::Neighbours;
use super::packet::{ARP, BROADCAST, IPV4, LLC, PacketSocket};
use super::probe::{Guard, Probes, Purpose, Step};
use super::survey::{self, Survey};
use super::{Command, Error, Event, Options, Sink, kernel, link};
use crate::blackbox::record::OURS;
use crate::blackbox::tap;
use crate::client::MacAddr;
use crate::config::Subnet;
use crate::dhcp::client as dhcp_client;
use crate::dhcp::frame::{udp_packet, udp_payload};
use crate::dhcp::lease::{self, Lease, Leasing};
use crate::dhcp::message::MAX_BYTES;

/// Longest time between two looks at the kernel's state.
const RESYNC: Duration = Duration::from_secs(5);
/// Shortest time between two attempts to set the same thing, so that two
/// programs that disagree do not turn it into a busy loop.
const RETRY: Duration = Duration::from_secs(1);
/// How long hardware may take to appear before an interface of software is taken.
const PATIENCE: Duration = Duration::from_secs(2);
/// RFC 5227 §1.1: ANNOUNCE_NUM and ANNOUNCE_INTERVAL.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// Shortest time between two looks, so that a storm of notifications costs little.
const LEAST: Duration = Duration::from_millis(10);
/// Between two probes for our own address while somebody else has it.
const RETRY_OWN: Duration = Duration::from_secs(5);
/// Boards that are watched: more clients than an appliance serves.
const MAX_WATCHED: usize = 1024;
/// A board's address is told again after this time, in case it could not be believed before.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// DHCP's (RFC 2131 §4.1).
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Frames that are read before others have their turn.
const FRAMES_A_TURN: usize = 64;

/// Runs until the commands end.
pub(super) async fn run(options: Options, sink: Sink, mut commands: Receiver<Command>) {
    let mut failures = Failures { sink: sink.clone(), last: None };
    // Outlives a lost netlink connection, like what the kernel has.
    let mut worker = Worker::new(options, sink);
    loop {
        match worker.work(&mut commands, &mut failures).await {
            Ok(()) => return,
            Err(error) => failures.tell(&error),
        }
        sleep(RETRY).await;
    }
}

/// Tells each failure once until another one, or a success, comes.
struct Failures {
    sink: Sink,
    last: Option<String>,
}

impl Failures {
    fn tell(&mut self, error: &Error) {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(error) = source {
            message = format!("{message}: {error}");
            source = error.source();
        }
        if self.last.as_ref() != Some(&message) {
            (self.sink)(Event::Failed(message.clone()));
            self.last = Some(message);
        }
    }
}

/// The interface in use.
struct Chosen {
    name: String,
    index: u32,
    mac: MacAddr,
    arp: AsyncFd<PacketSocket>,
    /// Spanning tree's frames; `None` where the kernel has no such socket.
    llc: Option<AsyncFd<PacketSocket>>,
    /// DHCP servers' answers to us, while some are awaited.
    dhcp: Option<AsyncFd<PacketSocket>>,
    survey: Survey,
    /// Asks another server for an address, while control wants one.
    leasing: Option<Leasing>,
    /// What it gave, which the interface has or gets.
    lease: Option<Lease>,
    lease_untold: bool,
    carrier: bool,
    /// Whether the kernel has our address on it, as far as we know.
    addressed: bool,
    /// Whether the default route and the neighbour entries were set since the
    /// link came up and the address was set; they go with either.
    settled: bool,
    /// Announcements still to send, and when the next is due.
    announcements: u8,
    announce_at: Duration,
    /// When it was last tried to set the link up, and the address.
    tried_up: Option<Duration>,
    tried_address: Option<Duration>,
}

struct Worker {
    options: Options,
    sink: Sink,
    start: Instant,
    chosen: Option<Chosen>,
    probes: Probes,
    neighbours: Neighbours,
    guard: Guard,
    /// Our address is another one's: when it is probed again.
    retry_own: Option<Duration>,
    /// Whether our address was ours on a wire with a carrier: by a probe, or by
    /// a former run of this server. Then clients may run on it, and it is kept.
    confirmed: bool,
    /// Whether an address of another server's is wanted.
    lease_wanted: bool,
    watched: Vec<(MacAddr, Option<(Ipv4Addr, Duration)>)>,
    /// What other servers gave us and gave to somebody else since.
    drop_address: Vec<Subnet>,
    /// When the kernel's state is read next.
    look_at: Duration,
}

impl Worker {
    fn new(options: Options, sink: Sink) -> Self {
        Self {
            options,
            sink,
            start: Instant::now(),
            chosen: None,
            probes: Probes::default(),
            neighbours: Neighbours::default(),
            guard: Guard::default(),
            retry_own: None,
            confirmed: false,
            lease_wanted: false,
            watched: Vec::new(),
            drop_address: Vec::new(),
            look_at: Duration::ZERO,
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn tell(&self, event: Event) {
        (self.sink)(event);
    }

    /// One netlink connection's life; `Ok` when the commands end.
    async fn work(&mut self, commands: &mut Receiver<Command>, failures: &mut Failures) -> Result<(), Error> {
        // Subscribed before the first look, so that no change falls between.
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
        let (connection, netlink, mut messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(|source| Error::Netlink { source })?;
        let _connection = AbortOnDrop(tokio::spawn(connection));
        self.look_at = Duration::ZERO;
        let mut looked = Duration::ZERO;
        loop {
            if self.now() >= self.look_at {
                let again = match self.reconcile(&netlink).await {
                    Ok(again) => {
                        failures.last = None;
                        again.unwrap_or(RESYNC)
                    }
                    Err(error) => {
                        failures.tell(&error);
                        RETRY
                    }
                };
                looked = self.now();
                self.look_at = looked + again;
            }
            self.speak();
            let chosen = self.chosen.as_ref();
            let survey = chosen.and_then(|chosen| chosen.survey.poll_timeout());
            let leasing = chosen.and_then(|chosen| chosen.leasing.as_ref()?.poll_timeout()).filter(|_| self.carrier());
            let others = [self.probes.poll_timeout(), self.announce_at(), survey, leasing, self.retry_own];
            let wake = self.start + others.into_iter().flatten().fold(self.look_at, Duration::min);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => {
                        if let Err(error) = self.obey(&netlink, command).await {
                            failures.tell(&error);
                        }
                    }
                    None => return Ok(()),
                },
                message = messages.next() => {
                    // What changed is read anew, so the message itself says no more.
                    message.ok_or(Error::NetlinkEnded)?;
                    self.look_at = self.look_at.min(looked + LEAST);
                }
                () = self.listen() => {}
                () = sleep_until(wake.into()) => {}
            }
            self.hear();
            self.hear_others();
        }
    }

    /// Compares what the kernel has with what it should have. `Some` asks to
    /// look again after that time.
    async fn reconcile(&mut self, netlink: &rtnetlink::Handle) -> Result<Option<Duration>, Error> {
        let links = kernel::links(netlink).await?;
        let wanted = self.options.interface.clone();
        let same = |chosen: &Chosen| {
            let named = |link: &&Link| wanted.as_ref().is_none_or(|wanted| *wanted == link.name);
            links.iter().filter(named).find(|link| link.index == chosen.index && link.mac.is_some())
        };
        let link = match &self.chosen {
            Some(chosen) => same(chosen),
            None => None,
        };
        if self.chosen.is_some() && link.is_none() {
            self.chosen = None;
            self.tell(Event::Lost);
        }
        let patience = PATIENCE.saturating_sub(self.now());
        let link = link.or_else(|| choose(&links, wanted.as_deref(), !patience.is_zero()));
        let Some((link, mac)) = link.and_then(|link| Some((link, link.mac?))) else {
            return Ok((!patience.is_zero()).then_some(patience));
        };
        self.take(link, mac)?;
        let again = self.mend(netlink, link).await?;
        Ok(again)
    }

    /// Makes `link` the interface in use, and tells what is new about it.
    fn take(&mut self, link: &Link, mac: MacAddr) -> Result<(), Error> {
        let now = self.now();
        let (name, index) = (link.name.clone(), link.index);
        match &mut self.chosen {
            Some(chosen) if chosen.mac == mac => chosen.name = name,
            Some(chosen) => {
                (chosen.mac, chosen.name) = (mac, name.clone());
                self.tell(Event::Interface { name, index, mac });
            }
            None => {
                let arp = PacketSocket::receiver(index, ARP).and_then(readable);
                let arp = arp.map_err(|source| Error::Arp { interface: name.clone(), source })?;
                let mut survey = Survey::new(mac);
                survey.carrier(now, link.carrier);
                self.chosen = Some(Chosen {
                    name: name.clone(),
                    index,
                    mac,
                    arp,
                    llc: PacketSocket::group_receiver(index, LLC, &bpdu::GROUPS).and_then(readable).ok(),
                    dhcp: None,
                    survey,
                    leasing: None,
                    lease: None,
                    lease_untold: false,
                    carrier: link.carrier,
                    addressed: false,
                    settled: false,
                    announcements: 0,
                    announce_at: now,
                    tried_up: None,
                    tried_address: None,
                });
                // Before the interface is served on: nobody leases before the wire was asked.
                self.survey(now);
                self.tell(Event::Interface { name, index, mac });
                self.tell(Event::Carrier(link.carrier));
                if link.carrier {
                    self.probe_own(now);
                }
            }
        }
        Ok(())
    }

    /// Brings the interface in use to what it should be.
    async fn mend(&mut self, netlink: &rtnetlink::Handle, link: &Link) -> Result<Option<Duration>, Error> {
        let now = self.now();
        let (subnet, gateway) = (self.options.address, self.options.gateway);
        let Some(chosen) = &mut self.chosen else { return Ok(None) };
        if !link.up {
            chosen.settled = false;
            // A notification follows when it is done.
            let wait = wait(&mut chosen.tried_up, now);
            if wait.is_zero() {
                kernel::set_up(netlink, link).await?;
            }
        }
        if link.carrier != chosen.carrier {
            chosen.carrier = link.carrier;
            chosen.announcements = 0;
            chosen.survey.carrier(now, link.carrier);
            // Another wire perhaps, with another server: what the former one gave is asked for there.
            if let (Some(leasing), true) = (&mut chosen.leasing, link.carrier) {
                let before = chosen.lease.as_ref().map(|lease| lease.subnet.address);
                *leasing = Leasing::new(now, chosen.mac, xid(chosen.mac), before);
            }
            self.survey(now);
            self.tell(Event::Carrier(link.carrier));
            if link.carrier {
                // Another wire perhaps, with somebody who has our address.
                self.probe_own(now);
            }
        }

        if let Some(chosen) = self.chosen.as_mut().filter(|chosen| chosen.carrier) {
            let speed = link::speed(chosen.arp.get_ref(), &chosen.name);
            chosen.survey.link(speed.mbit, speed.half_duplex, speed.gigabit);
        }
        while let Some(former) = self.drop_address.last().copied() {
            if former != subnet {
                kernel::remove_address(netlink, link.index, former).await?;
            }
            self.drop_address.pop();
        }
        let there = kernel::has_address(netlink, link.index, subnet).await?;
        if self.chosen.as_ref().is_some_and(|chosen| chosen.tried_address.is_none()) && there && link.carrier {
            self.confirmed = true;
        }
        if there && self.retry_own.is_some() && !self.confirmed {
            // Whoever was there first keeps it (RFC 5227 §2.1): ours was set before the cable was in.
            kernel::remove_address(netlink, link.index, subnet).await?;
            self.tell(Event::AddressLost(subnet));
            if let Some(chosen) = &mut self.chosen {
                (chosen.addressed, chosen.settled) = (false, false);
            }
            return self.mend_lease(netlink, link).await;
        }
        let probing = self.probes.runs(Purpose::Own);
        let Some(chosen) = &mut self.chosen else { return Ok(None) };
        if !there {
            (chosen.addressed, chosen.settled) = (false, false);
            // Another one has it.
            if self.retry_own.is_some() {
                return self.mend_lease(netlink, link).await;
            }
            // Without a carrier nobody can be asked and nobody be disturbed, and
            // the servers can start; the probe comes with the carrier.
            if probing && link.carrier {
                return Ok(None);
            }
            let wait = wait(&mut chosen.tried_address, now);
            if !wait.is_zero() {
                return Ok(Some(wait));
            }
            kernel::set_address(netlink, link, subnet).await?;
        }
        if !chosen.settled && link.up {
            if let Some(gateway) = gateway {
                kernel::set_default_route(netlink, link.index, gateway).await?;
            }
            for (address, mac) in self.neighbours.all() {
                kernel::set_neighbour(netlink, link.index, address, mac).await?;
            }
        }
        let Some(chosen) = &mut self.chosen else { return Ok(None) };
        chosen.settled = link.up;
        if !chosen.addressed {
            chosen.addressed = true;
            self.tell(Event::Address(subnet));
        }
        self.mend_lease(netlink, link).await
    }

    /// What another server gave us stands on the interface, and nothing that it gave before.
    async fn mend_lease(&mut self, netlink: &rtnetlink::Handle, link: &Link) -> Result<Option<Duration>, Error> {
        let Some(chosen) = &mut self.chosen else { return Ok(None) };
        let Some(lease) = chosen.lease.clone().filter(|_| link.up) else { return Ok(None) };
        if !kernel::has_address(netlink, link.index, lease.subnet).await? {
            kernel::set_address(netlink, link, lease.subnet).await?;
            if let (None, Some(router)) = (self.options.gateway, lease.router) {
                kernel::set_default_route(netlink, link.index, router).await?;
            }
        }
        let untold = self.chosen.as_mut().is_some_and(|chosen| std::mem::take(&mut chosen.lease_untold));
        if untold {
            self.tell(Event::Leased(lease));
        }
        Ok(None)
    }

    fn carrier(&self) -> bool {
        self.chosen.as_ref().is_some_and(|chosen| chosen.carrier)
    }

    fn probe_own(&mut self, now: Duration) {
        let own = self.options.address.address;
        if !self.probes.runs(Purpose::Own) && !self.probes.start(now, Purpose::Own, own, None) {
            self.announce(now);
        }
    }

    fn announce(&mut self, now: Duration) {
        if let Some(chosen) = &mut self.chosen {
            (chosen.announcements, chosen.announce_at) = (ANNOUNCEMENTS, now);
        }
    }

    fn announce_at(&self) -> Option<Duration> {
        let chosen = self.chosen.as_ref()?;
        (chosen.announcements > 0 && chosen.addressed).then_some(chosen.announce_at)
    }

    /// Sends the probes and announcements that are due.
    fn speak(&mut self) {
        let now = self.now();
        for step in self.probes.poll(now) {
            self.step(now, step);
        }
        self.survey(now);
        self.ask_for_lease(now);
        if self.retry_own.is_some_and(|retry| now >= retry) {
            self.retry_own = Some(now + RETRY_OWN);
            self.probe_own(now);
        }
        let own = self.options.address.address;
        if self.announce_at().is_some_and(|due| due <= now)
            && let Some(chosen) = &mut self.chosen
        {
            chosen.announcements -= 1;
            chosen.announce_at = now + ANNOUNCE_INTERVAL;
            send(chosen, &arp::announcement(chosen.mac, own));
        }
    }

    fn step(&mut self, now: Duration, step: Step) {
        match step {
            Step::Send { address } => {
                if let Some(chosen) = &self.chosen {
                    send(chosen, &arp::probe(chosen.mac, address));
                }
            }
            Step::Done { purpose: Purpose::Asked, address, conflict } => self.tell(Event::Probed { address, conflict }),
            Step::Done { purpose: Purpose::Leased, address, conflict } => {
                let Some(leasing) = self.chosen.as_mut().and_then(|chosen| chosen.leasing.as_mut()) else { return };
                let steps = leasing.probed(now, address, conflict.is_some());
                self.lease_steps(now, steps);
            }
            Step::Done { purpose: Purpose::Own, address, conflict } => {
                // The address may now be set.
                self.look_at = Duration::ZERO;
                if let Some(chosen) = &mut self.chosen {
                    chosen.survey.probed(conflict);
                }
                self.retry_own = (conflict.is_some() && !self.confirmed).then(|| now + RETRY_OWN + self.jitter());
                self.confirmed |= conflict.is_none();
                match conflict {
                    Some(mac) if self.guard.admit(now) => self.tell(Event::Conflict { address, mac }),
                    Some(_) => {}
                    None => self.announce(now),
                }
            }
        }
    }

    /// Sends what the survey has due, and tells what it found.
    fn survey(&mut self, now: Duration) {
        let Some(chosen) = &mut self.chosen else { return };
        for step in chosen.survey.poll(now, xid(chosen.mac)) {
            match step {
                survey::Step::Send(message) => {
                    if chosen.dhcp.is_none() {
                        chosen.dhcp = PacketSocket::udp_receiver(chosen.index, CLIENT_PORT).and_then(readable).ok();
                    }
                    let none = Ipv4Addr::UNSPECIFIED;
                    let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
                    let packet = udp_packet(SocketAddrV4::new(none, CLIENT_PORT), to, &message);
                    if let (Some(socket), Some(packet)) = (&chosen.dhcp, packet) {
                        // One of three that ask the same.
                        let _ = socket.get_ref().send(BROADCAST, &packet);
                    }
                }
                survey::Step::Tell(facts) => (self.sink)(Event::Wire(facts)),
            }
        }
        if !chosen.survey.listens() && chosen.leasing.is_none() {
            chosen.dhcp = None;
        }
    }

    /// Sends what we as a client of another server have due.
    fn ask_for_lease(&mut self, now: Duration) {
        let Some(chosen) = &mut self.chosen else { return };
        if self.lease_wanted && chosen.leasing.is_none() {
            // What the interface has from before a restart is asked for by its server's own memory.
            chosen.leasing = Some(Leasing::new(now, chosen.mac, xid(chosen.mac), None));
        }
        let Some(leasing) = chosen.leasing.as_mut().filter(|_| chosen.carrier) else { return };
        let steps = leasing.poll(now);
        self.lease_steps(now, steps);
    }

    fn lease_steps(&mut self, now: Duration, steps: Vec<lease::Step>) {
        for step in steps {
            let Some(chosen) = &mut self.chosen else { return };
            match step {
                lease::Step::Send { bytes, from, to } => {
                    if chosen.dhcp.is_none() {
                        chosen.dhcp = PacketSocket::udp_receiver(chosen.index, CLIENT_PORT).and_then(readable).ok();
                    }
                    let (mac, to) = to.unwrap_or((BROADCAST, Ipv4Addr::BROADCAST));
                    let to = SocketAddrV4::new(to, SERVER_PORT);
                    let packet = udp_packet(SocketAddrV4::new(from, CLIENT_PORT), to, &bytes);
                    if let (Some(socket), Some(packet)) = (&chosen.dhcp, packet) {
                        // It is sent again when it was lost.
                        let _ = socket.get_ref().send(mac, &packet);
                    }
                }
                lease::Step::Probe(address) => {
                    if !self.probes.start(now, Purpose::Leased, address, None) {
                        let probed = self.chosen.as_mut().and_then(|chosen| chosen.leasing.as_mut());
                        let steps = probed.map(|leasing| leasing.probed(now, address, false)).unwrap_or_default();
                        self.lease_steps(now, steps);
                    }
                }
                lease::Step::Take(lease) => {
                    let former = chosen.lease.replace(lease.clone()).filter(|former| former.subnet != lease.subnet);
                    self.drop_address.extend(former.map(|former| former.subnet));
                    chosen.lease_untold = true;
                    self.look_at = Duration::ZERO;
                }
                lease::Step::Lose(address) => self.tell(Event::LeaseLost(address)),
            }
        }
    }

    /// Two appliances that give way to each other must not come back together.
    fn jitter(&self) -> Duration {
        let last =
            self.chosen.as_ref().map_or(0, |chosen| u64::from(chosen.mac.0[5]) << 8 | u64::from(chosen.mac.0[4]));
        Duration::from_millis(last % 2000)
    }

    /// Waits for frames; for ever while there is no interface.
    async fn listen(&self) {
        let Some(chosen) = &self.chosen else { return pending().await };
        tokio::select! {
            () = comes(Some(&chosen.arp)) => {}
            () = comes(chosen.llc.as_ref()) => {}
            () = comes(chosen.dhcp.as_ref()) => {}
        }
    }

    /// Takes what spanning tree and DHCP servers have sent.
    fn hear_others(&mut self) {
        let now = self.now();
        let Some(chosen) = &mut self.chosen else { return };
        let mut buffer = [0; MAX_BYTES + 28];
        for _ in 0..FRAMES_A_TURN {
            let Some((length, from)) = chosen.llc.as_ref().and_then(|socket| take(socket, &mut buffer)) else { break };
            if let Some(bpdu) = Bpdu::parse(&buffer[..length]) {
                // IEEE 802.3: a length stands in the EtherType's place.
                let field = u16::try_from(length).unwrap_or(0);
                tap::frame(from, MacAddr(bpdu::GROUPS[0]), field, &buffer[..length]);
                chosen.survey.bpdu(now, bpdu);
            }
        }
        for _ in 0..FRAMES_A_TURN {
            let Some((length, from)) = chosen.dhcp.as_ref().and_then(|socket| take(socket, &mut buffer)) else { break };
            let Some((server, payload)) = udp_payload(&buffer[..length], CLIENT_PORT) else { continue };
            tap::frame(from, OURS, IPV4, &buffer[..length]);
            let Some(reply) = dhcp_client::parse(payload).ok().filter(|_| server.port() == SERVER_PORT) else {
                continue;
            };
            chosen.survey.heard(from, &reply);
            let steps = chosen.leasing.as_mut().map(|leasing| leasing.heard(now, from, &reply)).unwrap_or_default();
            if !steps.is_empty() {
                self.lease_steps(now, steps);
                return;
            }
        }
    }

    /// Tells where a watched board is, unless that was told lately.
    fn seen(&mut self, now: Duration, mac: MacAddr, address: Ipv4Addr) {
        let Some((_, told)) = self.watched.iter_mut().find(|(watched, _)| *watched == mac) else { return };
        if address.is_unspecified() || told.is_some_and(|(was, at)| was == address && now < at + TELL_AGAIN) {
            return;
        }
        *told = Some((address, now));
        self.tell(Event::Seen { mac, address });
    }

    async fn look_for_neighbours(&mut self, netlink: &rtnetlink::Handle) -> Result<(), Error> {
        let Some(index) = self.chosen.as_ref().map(|chosen| chosen.index).filter(|_| !self.watched.is_empty()) else {
            return Ok(());
        };
        let now = self.now();
        for (address, mac) in kernel::neighbours(netlink, index).await? {
            self.seen(now, mac, address);
        }
        Ok(())
    }

    /// Takes what ARP has come in, up to [`FRAMES_A_TURN`].
    fn hear(&mut self) {
        let now = self.now();
        let own = self.options.address.address;
        for _ in 0..FRAMES_A_TURN {
            let Some(chosen) = &mut self.chosen else { return };
            let mut buffer = [0; 64];
            let Some((received, from)) = take(&chosen.arp, &mut buffer) else { return };
            let mac = chosen.mac;
            let Some(arp) = Arp::parse(&buffer[..received]).filter(|arp| arp.sender_mac != mac) else { continue };
            if arp.uses(own) || arp.sender_mac.is_raspberry_pi() {
                tap::frame(arp.sender_mac, BROADCAST, ARP, &buffer[..received]);
            }
            if arp.uses(own) && chosen.addressed && !self.probes.runs(Purpose::Own) && self.guard.admit(now) {
                // RFC 5227 §2.4 (b): defend once, and keep it.
                send(chosen, &arp::announcement(mac, own));
                chosen.survey.overheard(now, arp.sender_mac);
                self.tell(Event::Conflict { address: own, mac: arp.sender_mac });
            }
            // Only what a board says of itself.
            if arp.sender_mac == from {
                self.seen(now, from, arp.sender);
            }
            for step in self.probes.heard(mac, &arp) {
                self.step(now, step);
            }
        }
    }

    async fn obey(&mut self, netlink: &rtnetlink::Handle, command: Command) -> Result<(), Error> {
        let index = self.chosen.as_ref().map(|chosen| chosen.index);
        match command {
            Command::Survey => {
                let now = self.now();
                if let Some(chosen) = &mut self.chosen {
                    chosen.survey.ask(now);
                }
            }
            Command::Lease(wanted) => {
                self.lease_wanted = wanted;
                if let Some(chosen) = self.chosen.as_mut().filter(|_| !wanted) {
                    chosen.leasing = None;
                    self.drop_address.extend(chosen.lease.take().map(|lease| lease.subnet));
                    self.look_at = Duration::ZERO;
                }
            }
            Command::Watch(macs) => {
                let told = |mac| self.watched.iter().find(|(watched, _)| *watched == mac).and_then(|(_, told)| *told);
                self.watched = macs.into_iter().take(MAX_WATCHED).map(|mac| (mac, told(mac))).collect();
                self.look_for_neighbours(netlink).await?;
            }
            Command::LookForNeighbours => {
                // What could not be believed before may be by now.
                self.watched.iter_mut().for_each(|(_, told)| *told = None);
                self.look_for_neighbours(netlink).await?;
            }
            Command::Probe { address, owner } => {
                if !self.probes.start(self.now(), Purpose::Asked, address, owner) {
                    self.tell(Event::Probed { address, conflict: None });
                }
            }
            Command::Neighbour { address, mac } => {
                let oldest = self.neighbours.set(address, mac);
                if let Some(index) = index {
                    kernel::set_neighbour(netlink, index, address, mac).await?;
                    if let Some(oldest) = oldest {
                        kernel::forget_neighbour(netlink, index, oldest).await?;
                    }
                }
            }
            Command::ForgetNeighbour { address } => {
                if let (true, Some(index)) = (self.neighbours.remove(address), index) {
                    kernel::forget_neighbour(netlink, index, address).await?;
                }
            }
        }
        Ok(())
    }
}

/// How long to wait before the next attempt; notes it as made when that is zero.
fn wait(last: &mut Option<Duration>, now: Duration) -> Duration {
    let wait = last.map_or(Duration::ZERO, |last| (last + RETRY).saturating_sub(now));
    if wait.is_zero() {
        *last = Some(now);
    }
    wait
}

fn send(chosen: &Chosen, packet: &[u8]) {
    // One of several that say the same; a link that is down is told by netlink.
    let _ = chosen.arp.get_ref().send(BROADCAST, packet);
}

fn readable(socket: PacketSocket) -> io::Result<AsyncFd<PacketSocket>> {
    // SAFETY: `PacketSocket` owns an open descriptor and neither closes nor
    // exchanges it before it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Waits for a frame. An error means that the interface is gone, which netlink tells.
async fn comes(socket: Option<&AsyncFd<PacketSocket>>) {
    match socket {
        Some(socket) => match socket.readable().await {
            Ok(_) => {}
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

/// The next frame that has come, if any.
fn take(socket: &AsyncFd<PacketSocket>, buffer: &mut [u8]) -> Option<(usize, MacAddr)> {
    // ENETDOWN comes once when the link goes down.
    for _ in 0..2 {
        let mut ready = socket.readable().now_or_never()?.ok()?;
        match ready.try_io(|socket| socket.get_ref().receive(buffer)) {
            Ok(Ok(received)) => return Some(received),
            Ok(Err(_)) => {}
            Err(_would_block) => return None,
        }
    }
    None
}

/// A number that tells our question from another one's. No secret: who can
/// read the wire sees it anyway, so the clock does; `getrandom` may block here.
fn xid(mac: MacAddr) -> u32 {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let [.., c, d, e, f] = mac.0;
    nanos.rotate_left(7) ^ u32::from_be_bytes([c, d, e, f])
}

/// Ends the netlink connection's task with the work that it serves.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
