//! A packet socket on one interface: frames of one EtherType, without their
//! Ethernet header (packet(7), `SOCK_DGRAM`).
//!
//! I/O. `net` speaks ARP through it; `dhcp` sends through it what a client
//! without an address must get. It never blocks.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use crate::client::MacAddr;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
/// The kernel's name (ETH_P_802_2) for frames that have a length in the place
/// of an EtherType: spanning tree's, and little else today.
pub(crate) const LLC: u16 = 0x0004;

pub(crate) const BROADCAST: MacAddr = MacAddr([0xff; 6]);

#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: OwnedFd,
    index: u32,
    ethertype: u16,
}

impl PacketSocket {
    /// A socket that sends frames of `ethertype` and receives none.
    pub(crate) fn sender(index: u32, ethertype: u16) -> io::Result<Self> {
        // Protocol 0 receives nothing, so no queue of frames fills up unread.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
        Ok(Self { socket, index, ethertype })
    }

    /// A socket that also receives the frames of `ethertype` that come in on
    /// the interface.
    pub(crate) fn receiver(index: u32, ethertype: u16) -> io::Result<Self> {
        let socket = Self::sender(index, ethertype)?;
        rustix::net::bind(&socket.socket, &LinkAddress::new(index, ethertype, BROADCAST))?;
        Ok(socket)
    }

    /// A socket that also receives UDP datagrams to this port, whatever their
    /// addresses; the kernel sorts the rest out, so that bulk traffic costs nothing here.
    pub(crate) fn udp_receiver(index: u32, port: u16) -> io::Result<Self> {
        let socket = Self::sender(index, IPV4)?;
        // Before bind, so that no other packet is in the queue.
        attach_filter(&socket.socket, &udp_filter(port))?;
        rustix::net::bind(&socket.socket, &LinkAddress::new(index, IPV4, BROADCAST))?;
        Ok(socket)
    }

    /// A socket that also receives the frames of `ethertype` to these groups.
    pub(crate) fn group_receiver(index: u32, ethertype: u16, groups: &[[u8; 6]]) -> io::Result<Self> {
        let socket = Self::receiver(index, ethertype)?;
        for group in groups {
            join(&socket.socket, index, *group)?;
        }
        Ok(socket)
    }

    /// Sends one frame, or fails at once when the interface cannot take it.
    pub(crate) fn send(&self, to: MacAddr, payload: &[u8]) -> io::Result<()> {
        let to = LinkAddress::new(self.index, self.ethertype, to);
        rustix::net::sendto(&self.socket, payload, SendFlags::DONTWAIT, &to)?;
        Ok(())
    }

    /// Takes one frame, or fails with `WouldBlock`. What does not fit is cut
    /// off. The station is the one that sent the frame on this wire.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, MacAddr)> {
        // SAFETY: a `sockaddr_ll` of zeros is a valid value.
        let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut from_bytes = mem::size_of_val(&from) as libc::socklen_t;
        // SAFETY: buffer and address are writable for the lengths given, and live through the call.
        let length = unsafe {
            let (bytes, from) = (buffer.as_mut_ptr().cast(), (&raw mut from).cast());
            let flags = libc::MSG_DONTWAIT;
            libc::recvfrom(self.socket.as_raw_fd(), bytes, buffer.len(), flags, from, &raw mut from_bytes)
        };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let [a, b, c, d, e, f, ..] = from.sll_addr;
        Ok((length.min(buffer.len()), MacAddr([a, b, c, d, e, f])))
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Classic BPF (filter(4) of the BSDs, Linux's networking/filter.rst): an IPv4
/// packet that is the first or only piece of a UDP datagram to this port.
fn udp_filter(port: u16) -> [libc::sock_filter; 9] {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let compare = libc::BPF_JMP | libc::BPF_K;
    [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 9),
        // Jumps count the steps that are left out: to the last one, which refuses.
        step(compare | libc::BPF_JEQ, 0, 6, 17),
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 6),
        step(compare | libc::BPF_JSET, 4, 0, 0x1fff),
        step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 2),
        step(compare | libc::BPF_JEQ, 0, 1, u32::from(port)),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::from(u16::MAX)),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

fn attach_filter(socket: &OwnedFd, filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn join(socket: &OwnedFd, index: u32, group: [u8; 6]) -> io::Result<()> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&group);
    let request = libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_MULTICAST as u16,
        mr_alen: 6,
        mr_address: address,
    };
    set_option(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

fn set_option<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer is readable for `length` bytes during the call, which
    // copies them, and what a filter points to besides.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (value as *const T).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `sockaddr_ll`, which rustix does not have.
struct LinkAddress(libc::sockaddr_ll);

impl LinkAddress {
    fn new(index: u32, ethertype: u16, mac: MacAddr) -> Self {
        let mut address = [0; 8];
        address[..6].copy_from_slice(&mac.0);
        Self(libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: ethertype.to_be(),
            // The kernel's index is an i32 that is never negative.
            sll_ifindex: index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: address,
        })
    }
}

// SAFETY: the pointer is to a whole `sockaddr_ll` that outlives the call, and
// the length is that struct's own.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f((&raw const self.0).cast(), mem::size_of::<libc::sockaddr_ll>() as SocketAddrLen)
    }
}
