//! TFTP load (RFC 1350, 2347, 2348): clients that read the kernel again and
//! again, each by a socket of its own, all on one thread. Counts bytes.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::content;
use super::{Figures, Result};

pub const BLKSIZE: usize = 1468;
const SILENCE: Duration = Duration::from_secs(1);

struct Transfer {
    socket: UdpSocket,
    from: Ipv4Addr,
    block: u16,
    offset: u64,
    heard: Instant,
    last: Vec<u8>,
    connected: bool,
}

impl Transfer {
    fn start(from: Ipv4Addr, server: Ipv4Addr) -> std::io::Result<Self> {
        let socket = UdpSocket::bind((from, 0))?;
        socket.set_nonblocking(true)?;
        let last = [&b"\0\x01"[..], content::KERNEL.as_bytes(), b"\0octet\0blksize\x001468\0"].concat();
        socket.send_to(&last, SocketAddrV4::new(server, 69))?;
        Ok(Self { socket, from, block: 1, offset: 0, heard: Instant::now(), last, connected: false })
    }

    /// Takes one datagram; `true` when the file is whole.
    fn take(&mut self, seed: u64, figures: &mut Figures) -> Result<bool> {
        let mut packet = [0; BLKSIZE + 4];
        let failed = |error: std::io::Error| format!("TFTP: {error}");
        let count = if self.connected {
            match self.socket.recv(&mut packet) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                received => received.map_err(failed)?,
            }
        } else {
            let (count, from) = self.socket.recv_from(&mut packet).map_err(failed)?;
            self.socket.connect(from).map_err(failed)?;
            self.connected = true;
            count
        };
        self.heard = Instant::now();
        let number = u16::from_be_bytes([packet[2], packet[3]]);
        let data = &packet[4..count.max(4)];
        match packet[1] {
            6 => self.acknowledge(0),
            3 if number == self.block => {
                if !content::is(seed, self.offset, data) {
                    return Err(format!("TFTP: wrong bytes at {}", self.offset));
                }
                self.offset += data.len() as u64;
                figures.units += data.len() as u64;
                self.block = self.block.wrapping_add(1);
                self.acknowledge(number);
                return Ok(data.len() < BLKSIZE);
            }
            3 => self.acknowledge(number),
            _ => return Err(format!("TFTP: {}", String::from_utf8_lossy(data))),
        }
        Ok(false)
    }

    fn acknowledge(&mut self, block: u16) {
        self.last = [&[0, 4], &block.to_be_bytes()[..]].concat();
        self.send();
    }

    /// A lost datagram is sent again after a silence.
    fn send(&self) {
        let _ = self.socket.send(&self.last);
    }
}

/// `clients` transfers at once from the addresses in turn; `start` is called when they begin.
pub fn run(server: Ipv4Addr, addresses: &[Ipv4Addr], clients: usize, duration: Duration) -> Result<Figures> {
    let failed = |error: std::io::Error| format!("TFTP: {error}");
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| errno.to_string())?;
    let watch = |transfer: &Transfer, slot: usize| {
        epoll::add(&epoll, &transfer.socket, EventData::new_u64(slot as u64), EventFlags::IN)
            .map_err(|errno| errno.to_string())
    };
    let seed = content::seed(content::KERNEL);
    let begin = Instant::now();
    let mut figures = Figures::default();
    let mut transfers = Vec::new();
    for slot in 0..clients {
        let transfer = Transfer::start(addresses[slot % addresses.len()], server).map_err(failed)?;
        watch(&transfer, slot)?;
        transfers.push(transfer);
    }
    let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let mut events = Vec::with_capacity(256);
    while begin.elapsed() < duration {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))
            .map_err(|errno| errno.to_string())?;
        for event in &events {
            let slot = event.data.u64() as usize;
            if transfers[slot].take(seed, &mut figures)? {
                transfers[slot] = Transfer::start(transfers[slot].from, server).map_err(failed)?;
                watch(&transfers[slot], slot)?;
            }
        }
        for transfer in transfers.iter_mut().filter(|transfer| transfer.heard.elapsed() > SILENCE) {
            transfer.heard = Instant::now();
            if !transfer.connected {
                return Err("TFTP: no answer to a request".into());
            }
            transfer.send();
        }
    }
    figures.seconds = begin.elapsed().as_secs_f64();
    Ok(figures)
}
