//! UDP port 67 on one interface, and the way back to clients that have no
//! address yet.
//!
//! I/O, no deciding. Requests come by UDP; a thread parses them and hands them to
//! the sink. Replies to a station on the wire go out as whole frames through a
//! packet socket: `chaddr` is known, so neither ARP nor a neighbour entry is
//! needed, and a storm of clients cannot fill the kernel's neighbour table
//! (1,024 entries). A permanent entry is still wanted while a Pi 3 loads, because
//! its ROM does not answer ARP then; that is control's wish to `net`, not ours.
//! Only a reply to a relay agent is ordinary UDP.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::decide::{How, Reply};
use super::frame::udp_packet;
use super::message::{self, Ignored, Request};
use super::throttle::Throttle;
use crate::blackbox::record::OURS;
use crate::blackbox::tap;
use crate::net::packet::{BROADCAST, IPV4, PacketSocket};
use crate::priority;

/// What the receiving thread reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Request(Box<Request>),
    /// What was dropped in the last second; at most one such event a second.
    Ignored(Counters),
}

/// Datagrams that led to no [`Event::Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Not a request, and the last reason.
    pub malformed: u32,
    pub last: Option<Ignored>,
    /// Well-formed, but too many in one second.
    pub throttled: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a DHCP socket on {interface}")]
    Open { interface: String, source: io::Error },
    #[error("cannot bind DHCP's UDP port 67 on {interface}; another DHCP server may hold it")]
    Bind { interface: String, source: io::Error },
    #[error("cannot start the DHCP thread")]
    Thread { source: io::Error },
    #[error("cannot send a DHCP reply to {to}")]
    Send { to: Ipv4Addr, source: io::Error },
}

/// Room for what waits to be read, as the kernel counts it: some 1,000 questions. By its
/// default (212,992 bytes) a power cut's end with 200 Pis is over it where the thread is late.
const RECEIVE_BYTES: usize = 1 << 20;

/// Datagrams that are taken without a wait between them, more than 200 boards send that get power at once; then
/// there is a pause. This thread runs before most others: a flood must not have its core.
const PORTION: u32 = 512;
const PAUSE: Duration = Duration::from_millis(1);

/// An open port 67. Dropping it ends its thread.
#[derive(Debug)]
pub struct Socket {
    udp: Arc<UdpSocket>,
    packets: PacketSocket,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Socket {
    /// Opens the port on the interface with this name and index and starts the
    /// thread that calls `sink`, which must not block. Replies say themselves
    /// where they come from; the interface need not have that address yet.
    ///
    /// The port stays bound to this interface as it is now. When the interface
    /// goes away, drop the socket and open another on the next one.
    pub fn open(interface: &str, index: u32, sink: Arc<dyn Fn(Event) + Send + Sync>) -> Result<Self, Error> {
        let open = |source| Error::Open { interface: interface.to_owned(), source };
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| open(error.into()))?;
        // Before bind: a server on another interface may have the same port.
        bind_to_device(&socket, interface).map_err(open)?;
        rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 67))
            .map_err(|error| Error::Bind { interface: interface.to_owned(), source: error.into() })?;
        // Without this right the kernel's own bound stays, which holds some 200 questions.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES);
        let udp = Arc::new(UdpSocket::from(socket));
        udp.set_nonblocking(true).map_err(open)?;
        let packets = PacketSocket::sender(index, IPV4).map_err(open)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| open(error.into()))?);
        let thread = {
            let (udp, stop) = (udp.clone(), stop.clone());
            thread::Builder::new()
                .name("dhcp".to_owned())
                .spawn(move || receive(&udp, &stop, &*sink))
                .map_err(|source| Error::Thread { source })?
        };
        Ok(Self { udp, packets, stop, thread: Some(thread) })
    }

    /// Sends a reply, or fails at once; it never waits. A lost reply is asked
    /// for again by the client, so an error is for the log.
    pub fn send(&self, reply: &Reply) -> Result<(), Error> {
        let to = reply.to;
        let sent = match to.how {
            How::Relay => {
                let ends = (SocketAddrV4::new(reply.from, 67), SocketAddrV4::new(to.address, to.port));
                tap::datagram(false, ends.0, ends.1, reply.bytes.len(), &reply.bytes);
                self.udp.send_to(&reply.bytes, ends.1).map(|_| ())
            }
            How::Unicast | How::Broadcast | How::Ciaddr => {
                let mac = if to.how == How::Broadcast { BROADCAST } else { to.mac };
                let from = SocketAddrV4::new(reply.from, 67);
                udp_packet(from, SocketAddrV4::new(to.address, to.port), &reply.bytes)
                    .ok_or_else(|| io::ErrorKind::InvalidInput.into())
                    .and_then(|packet| {
                        tap::frame(OURS, mac, IPV4, &packet);
                        self.packets.send(mac, &packet)
                    })
            }
        };
        sent.map_err(|source| Error::Send { to: to.address, source })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // An eventfd takes this unless its counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic in the sink was printed by its own thread already.
            let _ = thread.join();
        }
    }
}

/// Takes datagrams until `stop` is readable.
fn receive(udp: &UdpSocket, stop: &OwnedFd, sink: &dyn Fn(Event)) {
    priority::prompt();
    let start = Instant::now();
    let mut throttle = Throttle::new();
    let mut counters = Counters::default();
    let mut told = Duration::ZERO;
    // One byte more than is read, so that a longer datagram is seen to be longer.
    let mut buffer = [0; message::MAX_BYTES + 1];
    loop {
        let now = start.elapsed();
        let due = told + Duration::from_secs(1);
        if counters != Counters::default() && now >= due {
            sink(Event::Ignored(std::mem::take(&mut counters)));
            told = now;
            continue;
        }
        let wait = (counters != Counters::default()).then(|| due - now);
        let timeout = wait.map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() });
        let mut ready = [PollFd::new(udp, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        let polled = poll(&mut ready, timeout.as_ref());
        if !ready[1].revents().is_empty() {
            return;
        }
        if polled.is_err() || ready[0].revents().is_empty() {
            continue;
        }
        for taken in 1.. {
            match udp.recv(&mut buffer) {
                Ok(length) => match message::parse(&buffer[..length]) {
                    Ok(request) if throttle.admit(start.elapsed(), request.mac) => {
                        let (from, to) =
                            (SocketAddrV4::new(request.ciaddr, 68), SocketAddrV4::new(Ipv4Addr::BROADCAST, 67));
                        tap::datagram(false, from, to, length, &buffer[..length]);
                        sink(Event::Request(Box::new(request)));
                    }
                    Ok(_) => counters.throttled = counters.throttled.saturating_add(1),
                    Err(reason) => {
                        counters.malformed = counters.malformed.saturating_add(1);
                        counters.last = Some(reason);
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An error that stays, such as a vanished interface, must not become a busy loop.
                Err(_) => {
                    thread::sleep(Duration::from_millis(100));
                    break;
                }
            }
            if taken >= PORTION {
                thread::sleep(PAUSE);
                break;
            }
        }
    }
}

/// `SO_BINDTODEVICE`, which rustix does not have.
fn bind_to_device(socket: &OwnedFd, interface: &str) -> io::Result<()> {
    let length = libc::socklen_t::try_from(interface.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the pointer is readable for `length` bytes during the call; the
    // kernel copies at most IFNAMSIZ - 1 of them and adds the NUL itself.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_ptr().cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
