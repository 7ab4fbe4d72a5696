//! Many clients at once: enrolled in one batch, asking in one moment, mounting.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nfs3_client::nfs3_types::nfs3::{COMMIT3args, READ3args};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Lab, PATIENCE, Pi, SERVER, mount, write, write_file};
use crate::support::netns::Netns;
use crate::support::virtual_pi::message::{self, CLASS, DISCOVER, OFFER};
use crate::support::virtual_pi::session::Session;
use crate::support::virtual_pi::wire::{BROADCAST, Frame, Mac, Nic, after};
use crate::support::virtual_pi::{Fetched, VirtualPi};

/// Holds ENROLL and gives all of them power; each has its role when this
/// returns. All speak from one place on the switch.
pub fn enrol_all(lab: &mut Lab, station: &Netns, boards: &[VirtualPi]) {
    let from = lab.log().len();
    lab.press('E');
    lab.logged("enrolment window open", from);
    // A few at a time: each new client is a root that is made on the stick.
    for some in boards.chunks(8) {
        thread::scope(|scope| {
            for board in some {
                scope.spawn(move || {
                    station.run(|| {
                        let mut session = Session::open("eth0", board.mac, PATIENCE).unwrap();
                        board.acquire(&mut session).unwrap_or_else(|error| panic!("{:?}: {error}", board.mac));
                    });
                });
            }
        });
    }
    let from = lab.log().len();
    lab.press('e');
    lab.logged("enrolment window closed", from);
}

/// Mounts each one's root from its own place on the switch, as its kernel does.
pub fn mount_all(booted: &[(&Pi, &Fetched)]) {
    thread::scope(|scope| {
        for (pi, fetched) in booted {
            scope.spawn(move || {
                let (address, path) = (fetched.address, root_path(fetched));
                pi.netns.ip(&format!("address add {address}/24 dev eth0"));
                pi.net(async || mount(&path).await.map(drop))
                    .unwrap_or_else(|error| panic!("{address}, {path}: {error}"));
            });
        }
    });
}

/// Each one's root at work at the same time: a file written in pieces of `PIECE`, made stable, and read again.
/// Their addresses are on their interfaces.
pub fn roots_at_work(booted: &[(&Pi, &Fetched)], pieces: u64) {
    const PIECE: usize = 256 << 10;
    let start = Barrier::new(booted.len());
    let work = async |path: &str| {
        let mut client = mount(path).await.unwrap();
        start.wait();
        let bytes = vec![0x5a; PIECE];
        let file = write_file(&mut client, "at-work", &bytes).await;
        for offset in (1..pieces).map(|piece| piece * PIECE as u64) {
            write(&mut client, &file, offset, &bytes).await;
        }
        client.commit(&COMMIT3args { file: file.clone(), offset: 0, count: 0 }).await.unwrap().unwrap();
        for offset in (0..pieces).map(|piece| piece * PIECE as u64) {
            let args = READ3args { file: file.clone(), offset, count: PIECE as u32 };
            assert_eq!(client.read(&args).await.unwrap().unwrap().data.as_ref(), bytes);
        }
    };
    thread::scope(|scope| {
        for (pi, fetched) in booted {
            let (path, work) = (root_path(fetched), &work);
            scope.spawn(move || pi.net(async || work(&path).await));
        }
    });
}

fn root_path(fetched: &Fetched) -> String {
    let line = fetched.command_line("ttyAMA0");
    let root = line.split(' ').find_map(|word| word.strip_prefix("nfsroot=")).unwrap();
    root.split([':', ',']).nth(1).unwrap().to_owned()
}

/// How fast each client got one file while all the others got it too, in bytes a second, the slowest first.
pub struct Rates(Vec<f64>);

impl Rates {
    /// The slowest by a fast one: 1 where all had the same. The fastest sixteenth is left out: who asks first has the
    /// server for itself for a moment.
    pub fn by_fast(&self) -> f64 {
        self.0[0] / self.fast()
    }

    fn fast(&self) -> f64 {
        self.0[self.0.len() - 1 - self.0.len() / 16]
    }

    pub fn by_median(&self) -> f64 {
        self.0[0] / self.0[self.0.len() / 2]
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |at: usize| self.0[at] / 1e6;
        let (all, by) = (self.0.len(), self.by_fast());
        let (slowest, median, fast, fastest) = (mb(0), mb(all / 2), self.fast() / 1e6, mb(all - 1));
        write!(
            f,
            "{all} transfers at once: slowest {slowest:.2}, median {median:.2}, fast {fast:.2}, fastest {fastest:.2} MB/s; \
             slowest by fast {by:.2}"
        )
    }
}

/// Each fetches its kernel from its own place on the switch, as its loader does; all begin in one moment.
/// Their addresses are on their interfaces.
///
/// One thread stands for all of them. Pis have processors of their own; 64 threads shared two with whatever else the
/// machine did, and whom the kernel put beside a busy neighbour got two thirds of the median (0.74 of 1.15 MB/s at a load
/// of 11, 2026-11-30), with which the server has nothing to do.
pub fn fetch_all(booted: &[(&Pi, &Fetched)]) -> Rates {
    let open = |(pi, fetched): &(&Pi, &Fetched)| pi.netns.run(|| Fetch::open(fetched.address, "kernel8.img"));
    let mut fetches: Vec<Fetch> = booted.iter().map(open).collect();
    fetches.iter_mut().for_each(Fetch::begin);
    let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let until = Instant::now() + PATIENCE;
    loop {
        let mut open: Vec<&mut Fetch> = fetches.iter_mut().filter(|fetch| fetch.took.is_none()).collect();
        if open.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "{} of {} fetches do not end", open.len(), booted.len());
        let ready: Vec<bool> = {
            let mut polled: Vec<PollFd> = open.iter().map(|fetch| PollFd::new(&fetch.socket, PollFlags::IN)).collect();
            poll(&mut polled, Some(&tick)).unwrap();
            polled.iter().map(|one| !one.revents().is_empty()).collect()
        };
        for (fetch, is_ready) in open.iter_mut().zip(ready) {
            if is_ready {
                fetch.take();
            }
            fetch.repeat();
        }
    }
    let mut rates: Vec<f64> =
        fetches.iter().filter_map(|fetch| Some(fetch.bytes as f64 / fetch.took?.as_secs_f64())).collect();
    rates.sort_by(f64::total_cmp);
    Rates(rates)
}

/// One file by TFTP with a loader's options and no window.
struct Fetch {
    socket: UdpSocket,
    /// What was sent last, and where to.
    last: Vec<u8>,
    to: SocketAddr,
    block: u16,
    bytes: usize,
    since: Instant,
    heard: Instant,
    /// Of the whole file.
    took: Option<Duration>,
}

impl Fetch {
    const BLOCK: usize = 1468;
    /// A loader asks again so late.
    const SILENCE: Duration = Duration::from_secs(2);

    /// In the calling thread's network.
    fn open(from: Ipv4Addr, path: &str) -> Self {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let last = [&[0, 1], path.as_bytes(), b"\0octet\0tsize\x000\0blksize\x001468\0"].concat();
        let (to, now) = (SocketAddr::from((SERVER, 69)), Instant::now());
        Self { socket, last, to, block: 0, bytes: 0, since: now, heard: now, took: None }
    }

    fn begin(&mut self) {
        (self.since, self.heard) = (Instant::now(), Instant::now());
        self.send();
    }

    fn send(&self) {
        self.socket.send_to(&self.last, self.to).unwrap();
    }

    /// After a silence.
    fn repeat(&mut self) {
        if self.took.is_none() && self.heard.elapsed() > Self::SILENCE {
            self.heard = Instant::now();
            self.send();
        }
    }

    /// One datagram.
    fn take(&mut self) {
        let mut buffer = [0; 2048];
        let Ok((length, sender)) = self.socket.recv_from(&mut buffer) else { return };
        let (kind, number) = (buffer[1], u16::from_be_bytes([buffer[2], buffer[3]]));
        let is_next = match kind {
            3 => number == self.block.wrapping_add(1),
            // OACK
            6 => self.block == 0 && self.bytes == 0,
            _ => panic!("{:?}", &buffer[..length]),
        };
        if !is_next {
            return;
        }
        (self.to, self.heard) = (sender, Instant::now());
        if kind == 3 {
            (self.block, self.bytes) = (number, self.bytes + length - 4);
        }
        self.last = [[0, 4], self.block.to_be_bytes()].concat();
        self.send();
        if kind == 3 && length < Self::BLOCK + 4 {
            self.took = Some(self.since.elapsed());
        }
    }
}

/// How long each client waited for its OFFER, the shortest first.
pub struct Offers(Vec<Duration>);

impl Offers {
    /// The wait that so many in a hundred did not exceed.
    pub fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100).max(1) - 1]
    }
}

impl fmt::Display for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| match self.at(percent) {
            Duration::MAX => "never".to_owned(),
            wait => format!("{:.1} ms", wait.as_secs_f64() * 1e3),
        };
        let (all, half, most, last) = (self.0.len(), ms(50), ms(99), ms(100));
        let unanswered = self.0.iter().filter(|wait| **wait == Duration::MAX).count();
        write!(f, "OFFER, {all} clients at once: median {half}, 99th percentile {most}, all in {last}")?;
        if unanswered > 0 { write!(f, "; {unanswered} without an answer") } else { Ok(()) }
    }
}

/// All of them send DISCOVER in one moment, once; nobody repeats. A client
/// without an answer waited for ever.
pub fn offers(station: &Netns, boards: &[VirtualPi]) -> Offers {
    station.run(|| {
        // Clients have processors of their own; here who counts them shares the server's, which answers before all else.
        rootstock::priority::prompt();
        // The replies must reach this one card, so they are asked for by broadcast.
        let nic = Nic::open("eth0", [2, 0, 0, 0, 0xee, 1]).unwrap();
        let discovers: Vec<(Mac, Vec<u8>)> = boards.iter().map(|board| (board.mac, discover(board))).collect();
        let (from, to) = (SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68), SocketAddrV4::new(Ipv4Addr::BROADCAST, 67));
        let mut sent = HashMap::new();
        for (mac, datagram) in &discovers {
            sent.insert(*mac, Instant::now());
            nic.send_udp(BROADCAST, from, to, datagram).unwrap();
        }
        let mut waits = Vec::new();
        let until = after(Duration::from_secs(3));
        while waits.len() < boards.len() {
            let Some(frame) = nic.receive(until).unwrap() else { break };
            let Frame::Udp { to, payload, .. } = frame else { continue };
            let reply = if to.port() == 68 { message::read(&payload).ok() } else { None };
            let since = reply.filter(|reply| reply.kind == OFFER).and_then(|reply| sent.remove(&reply.chaddr));
            waits.extend(since.map(|since| since.elapsed()));
        }
        waits.resize(boards.len(), Duration::MAX);
        waits.sort();
        rootstock::priority::ordinary();
        Offers(waits)
    })
}

fn discover(board: &VirtualPi) -> Vec<u8> {
    let manner = board.first_manner();
    let options = [
        (53, vec![DISCOVER]),
        (55, manner.parameters.clone()),
        (60, CLASS.to_vec()),
        (93, vec![0, 0]),
        (94, vec![1, 2, 1]),
        (97, manner.guid.clone()),
    ];
    let mut datagram = message::write(manner.xid, board.mac, &options);
    datagram[10] = 0x80;
    datagram
}
