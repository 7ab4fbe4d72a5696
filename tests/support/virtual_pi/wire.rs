//! The virtual Pi's network card: whole Ethernet frames, no kernel IP.
//!
//! A boot loader has no address until it takes one and no kernel to answer for
//! it, so this side has neither: the interface stays without an address, and
//! what is not answered here is not answered at all. Several cards may share an
//! interface, each with a MAC of its own.
//!
//! UDP checksums of received frames are not checked: on a veth the kernel hands
//! frames over before it fills them in.

use std::ffi::CString;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

pub type Mac = [u8; 6];

pub const BROADCAST: Mac = [0xff; 6];

/// A frame that was for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Udp { from_mac: Mac, from: SocketAddrV4, to: SocketAddrV4, payload: Vec<u8> },
    Arp { request: bool, sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr },
}

/// A card on an interface of the calling thread's network namespace.
pub struct Nic {
    socket: OwnedFd,
    pub mac: Mac,
}

impl Nic {
    pub fn open(interface: &str, mac: Mac) -> io::Result<Self> {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers; the result is checked before it is owned.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into()) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let name = CString::new(interface)?;
        // SAFETY: the name is a NUL-terminated string that lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no interface {interface}")));
        }
        // SAFETY: an address of zeros is a valid one.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        let length = std::mem::size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address lives through the call, and `length` is its size.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        // Hundreds of replies at once must not be lost here, where they would look unanswered.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20);
        Ok(Self { socket, mac })
    }

    /// Sends an Ethernet frame with this type and payload.
    pub fn send(&self, to: Mac, ethertype: u16, payload: &[u8]) -> io::Result<()> {
        let mut frame = [&to[..], &self.mac, &ethertype.to_be_bytes(), payload].concat();
        // The shortest frame of Ethernet, without its checksum.
        frame.resize(frame.len().max(60), 0);
        // SAFETY: pointer and length are of one living buffer.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// As the ROM does: TTL 128, identification 0, no UDP checksum.
    pub fn send_udp(&self, to_mac: Mac, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> io::Result<()> {
        let udp_bytes = u16::try_from(8 + payload.len()).map_err(io::Error::other)?;
        let mut ip = Vec::with_capacity(28 + payload.len());
        ip.extend([0x45, 0]);
        ip.extend((20 + udp_bytes).to_be_bytes());
        ip.extend([0, 0, 0, 0, 128, 17, 0, 0]);
        ip.extend(from.ip().octets());
        ip.extend(to.ip().octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        for number in [from.port(), to.port(), udp_bytes, 0] {
            ip.extend(number.to_be_bytes());
        }
        ip.extend(payload);
        self.send(to_mac, 0x0800, &ip)
    }

    pub fn send_arp(&self, request: bool, to: Mac, own: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> io::Result<()> {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, if request { 1 } else { 2 }];
        arp.extend(self.mac);
        arp.extend(own.octets());
        arp.extend(target_mac);
        arp.extend(target.octets());
        self.send(to, 0x0806, &arp)
    }

    /// The next frame for us until the deadline; `None` then.
    pub fn receive(&self, deadline: Instant) -> io::Result<Option<Frame>> {
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let wait = left.as_millis().min(60_000) as i32 + i32::from(!left.is_zero());
            // SAFETY: one pollfd, which lives through the call.
            match unsafe { libc::poll(&raw mut poll, 1, wait) } {
                0 if Instant::now() >= deadline => return Ok(None),
                0 => continue,
                1.. => {}
                _ => return Err(io::Error::last_os_error()),
            }
            // SAFETY: an address of zeros is a valid one.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut from_bytes = std::mem::size_of_val(&from) as libc::socklen_t;
            let (pointer, length) = (buffer.as_mut_ptr().cast(), buffer.len());
            // SAFETY: buffer and address live through the call, each with its size.
            let length = unsafe {
                let from = (&raw mut from).cast();
                libc::recvfrom(self.socket.as_raw_fd(), pointer, length, libc::MSG_DONTWAIT, from, &raw mut from_bytes)
            };
            let Ok(length) = usize::try_from(length) else { continue };
            if from.sll_pkttype == libc::PACKET_OUTGOING {
                continue;
            }
            if let Some(frame) = self.parse(&buffer[..length.min(buffer.len())]) {
                return Ok(Some(frame));
            }
            // Frames for others must not hold us here past the deadline.
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    fn parse(&self, frame: &[u8]) -> Option<Frame> {
        let (to, rest) = frame.split_first_chunk::<6>()?;
        let (from_mac, rest) = rest.split_first_chunk::<6>()?;
        let (ethertype, rest) = rest.split_first_chunk::<2>()?;
        if (*to != self.mac && *to != BROADCAST) || *from_mac == self.mac {
            return None;
        }
        match u16::from_be_bytes(*ethertype) {
            0x0800 => parse_udp(*from_mac, rest),
            0x0806 => parse_arp(rest),
            _ => None,
        }
    }
}

fn parse_udp(from_mac: Mac, ip: &[u8]) -> Option<Frame> {
    let header = usize::from(ip.first()? & 0xf) * 4;
    let total = usize::from(number(ip, 2)?);
    let ip = ip.get(..total)?;
    // A loader puts no fragments together.
    let fragment = number(ip, 6)? & 0x3fff != 0;
    if ip[0] >> 4 != 4 || header < 20 || fragment || ip.get(9)? != &17 || checksum(ip.get(..header)?) != 0 {
        return None;
    }
    let udp = ip.get(header..)?;
    let from = SocketAddrV4::new(address(ip, 12)?, number(udp, 0)?);
    let to = SocketAddrV4::new(address(ip, 16)?, number(udp, 2)?);
    let payload = udp.get(8..usize::from(number(udp, 4)?))?.to_vec();
    Some(Frame::Udp { from_mac, from, to, payload })
}

fn parse_arp(arp: &[u8]) -> Option<Frame> {
    let kind = match arp.get(..8)? {
        [0, 1, 8, 0, 6, 4, 0, kind @ (1 | 2)] => *kind,
        _ => return None,
    };
    let sender_mac = *arp.get(8..)?.first_chunk()?;
    Some(Frame::Arp { request: kind == 1, sender_mac, sender: address(arp, 14)?, target: address(arp, 24)? })
}

/// Two bytes at this offset, big-endian.
pub fn number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

pub fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes.get(at..)?.first_chunk().map(|four: &[u8; 4]| Ipv4Addr::from(*four))
}

/// RFC 1071; over a header that holds its own checksum the sum is 0.
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A moment this far from now.
pub fn after(time: Duration) -> Instant {
    Instant::now() + time
}
