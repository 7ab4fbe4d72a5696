//! One power-on of a virtual Pi: its card, clock, log and address, and what it
//! answers by itself while it waits (ARP).

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::wire::{BROADCAST, Frame, Mac, Nic, after};

/// One thing that happened, and when since power-on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub at: Duration,
    pub what: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.3} {}", self.at.as_secs_f64(), self.what)
    }
}

/// Why a boot ended, and all that led there.
#[derive(Debug, Clone)]
pub struct Failure {
    pub reason: String,
    pub log: Vec<Step>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.log.iter().try_for_each(|step| writeln!(f, "{step}"))?;
        write!(f, "the virtual Pi does not boot: {}", self.reason)
    }
}

/// The reason alone, until `boot` adds the log.
pub type Outcome<T> = Result<T, String>;

pub struct Session {
    pub nic: Nic,
    pub start: Instant,
    pub deadline: Instant,
    pub log: Vec<Step>,
    /// Ours, once taken.
    pub address: Ipv4Addr,
    /// The Pi 3's ROM answers no ARP while it loads.
    pub mute: bool,
    pub loss: Option<Loss>,
}

/// A bad wire: one datagram in so many is lost, both ways, chosen by a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    pub seed: u64,
    pub one_in: u64,
}

impl Loss {
    fn strikes(&mut self) -> bool {
        // Knuth's MMIX generator; its high bits are the random ones.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33).is_multiple_of(self.one_in.max(1))
    }
}

impl Session {
    pub fn open(interface: &str, mac: Mac, patience: Duration) -> std::io::Result<Self> {
        let (nic, start) = (Nic::open(interface, mac)?, Instant::now());
        let (deadline, address) = (start + patience, Ipv4Addr::UNSPECIFIED);
        Ok(Self { nic, start, deadline, log: Vec::new(), address, mute: false, loss: None })
    }

    pub fn log(&mut self, what: impl Into<String>) {
        self.log.push(Step { at: self.start.elapsed(), what: what.into() });
    }

    /// Until this long from now, but not past the end of patience.
    pub fn within(&self, time: Duration) -> Instant {
        after(time).min(self.deadline)
    }

    pub fn expired(&self) -> bool {
        Instant::now() >= self.deadline
    }

    fn loses(&mut self) -> bool {
        self.loss.as_mut().is_some_and(Loss::strikes)
    }

    pub fn send_udp(&mut self, to_mac: Mac, from: u16, to: SocketAddrV4, payload: &[u8]) -> Outcome<()> {
        if self.loses() {
            self.log(format!("lost: {} bytes to port {}", payload.len(), to.port()));
            return Ok(());
        }
        let from = SocketAddrV4::new(self.address, from);
        self.nic.send_udp(to_mac, from, to, payload).map_err(|error| format!("cannot send: {error}"))
    }

    /// The next datagram to this port, with the address and MAC it came from.
    pub fn receive_udp(&mut self, port: u16, until: Instant) -> Outcome<Option<(SocketAddrV4, Mac, Vec<u8>)>> {
        while let Some(frame) = self.receive(until)? {
            match frame {
                Frame::Udp { from_mac, from, to, payload } if to.port() == port && self.is_ours(*to.ip()) => {
                    if self.loses() {
                        self.log(format!("lost: {} bytes from port {}", payload.len(), from.port()));
                        continue;
                    }
                    return Ok(Some((from, from_mac, payload)));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Before it has an address, a loader takes what its MAC gets.
    fn is_ours(&self, to: Ipv4Addr) -> bool {
        self.address.is_unspecified() || to == self.address || to.is_broadcast()
    }

    fn receive(&mut self, until: Instant) -> Outcome<Option<Frame>> {
        let frame = self.nic.receive(until).map_err(|error| format!("cannot receive: {error}"))?;
        if let Some(Frame::Arp { request: true, sender_mac, sender, target }) = &frame
            && *target == self.address
            && !self.address.is_unspecified()
            && !self.mute
        {
            let sent = self.nic.send_arp(false, *sender_mac, self.address, *sender_mac, *sender);
            sent.map_err(|error| format!("cannot send: {error}"))?;
            self.log(format!("ARP {sender} asks for us: answered"));
        }
        Ok(frame)
    }

    /// The MAC of this address.
    pub fn resolve(&mut self, address: Ipv4Addr) -> Outcome<Mac> {
        for _ in 0..5 {
            let sent = self.nic.send_arp(true, BROADCAST, self.address, [0; 6], address);
            sent.map_err(|error| format!("cannot send: {error}"))?;
            self.log(format!("ARP who has {address}"));
            let until = self.within(Duration::from_secs(1));
            while let Some(frame) = self.receive(until)? {
                if let Frame::Arp { request: false, sender_mac, sender, .. } = frame
                    && sender == address
                {
                    return Ok(sender_mac);
                }
            }
        }
        Err(format!("nobody answers ARP for {address}"))
    }
}
