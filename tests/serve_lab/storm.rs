//! Many clients at once: enrolled in one batch, asking in one moment, mounting.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nfs3_client::nfs3_types::nfs3::{COMMIT3args, READ3args};

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
    /// The slowest by a fast one: 1 where all had the same. The fastest sixteenth is left out: a thread that runs
    /// before the others are awake has the server for itself (13.9 of 0.5 MB/s, once on 2026-11-29).
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
pub fn fetch_all(booted: &[(&Pi, &Fetched)]) -> Rates {
    let start = Barrier::new(booted.len());
    let mut rates: Vec<f64> = thread::scope(|scope| {
        let fetches: Vec<_> = booted
            .iter()
            .map(|(pi, fetched)| {
                let (start, address) = (&start, fetched.address);
                scope.spawn(move || {
                    pi.netns.run(|| {
                        start.wait();
                        let since = Instant::now();
                        let bytes = fetch(address, "kernel8.img");
                        bytes as f64 / since.elapsed().as_secs_f64()
                    })
                })
            })
            .collect();
        fetches.into_iter().map(|fetch| fetch.join().unwrap()).collect()
    });
    rates.sort_by(f64::total_cmp);
    Rates(rates)
}

/// One file by TFTP with a loader's options and no window; how long it was.
fn fetch(from: Ipv4Addr, path: &str) -> usize {
    const BLOCK: usize = 1468;
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let request = [&[0, 1], path.as_bytes(), b"\0octet\0tsize\x000\0blksize\x001468\0"].concat();
    let (mut last, mut to) = (request, SocketAddr::from((SERVER, 69)));
    let (mut block, mut bytes, mut buffer) = (0_u16, 0, [0; 2048]);
    let until = Instant::now() + PATIENCE;
    socket.send_to(&last, to).unwrap();
    loop {
        assert!(Instant::now() < until, "{from}: {bytes} bytes of {path} only");
        let Ok((length, sender)) = socket.recv_from(&mut buffer) else {
            socket.send_to(&last, to).unwrap();
            continue;
        };
        let (kind, number) = (buffer[1], u16::from_be_bytes([buffer[2], buffer[3]]));
        let is_next = match kind {
            3 => number == block.wrapping_add(1),
            // OACK
            6 => block == 0 && bytes == 0,
            _ => panic!("{from}: {:?}", &buffer[..length]),
        };
        if !is_next {
            continue;
        }
        to = sender;
        if kind == 3 {
            (block, bytes) = (number, bytes + length - 4);
        }
        last = [[0, 4], block.to_be_bytes()].concat();
        socket.send_to(&last, to).unwrap();
        if kind == 3 && length < BLOCK + 4 {
            return bytes;
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
