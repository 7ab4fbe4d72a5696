//! A packet socket on one interface: frames of one EtherType, without their
//! Ethernet header (packet(7), `SOCK_DGRAM`).
//!
//! I/O. `net` speaks ARP through it; `dhcp` sends through it what a client
//! without an address must get. It never blocks.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::client::MacAddr;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;

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

    /// Sends one frame, or fails at once when the interface cannot take it.
    pub(crate) fn send(&self, to: MacAddr, payload: &[u8]) -> io::Result<()> {
        let to = LinkAddress::new(self.index, self.ethertype, to);
        rustix::net::sendto(&self.socket, payload, SendFlags::DONTWAIT, &to)?;
        Ok(())
    }

    /// Takes one frame, or fails with `WouldBlock`. What does not fit is cut off.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (length, _) = rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT)?;
        Ok(length)
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
