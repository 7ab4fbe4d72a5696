//! The network thread: reads what the kernel has, mends what is not as it
//! should be, speaks ARP.
//!
//! I/O. What to do lies in `choose`, `probe` and `neighbours`, and how in
//! `kernel`; here is when.

mod hear;
mod sockets;
mod speak;
mod upkeep;

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
/// How long one may be missed before that is told: a Pi 3's sits on USB, and the drivers come behind us.
const MISSED: Duration = Duration::from_secs(10);
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
            self.last = Some(message.clone());
            (self.sink)(match error {
                Error::Absent { wanted, .. } => Event::Absent { named: wanted.is_some(), message },
                _ => Event::Failed(message),
            });
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

    fn carrier(&self) -> bool {
        self.chosen.as_ref().is_some_and(|chosen| chosen.carrier)
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

/// Ends the netlink connection's task with the work that it serves.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
