//! The sockets: those that listen, and the table of connections; one epoll set has them all. I/O, no deciding but
//! of one thing: which connection goes where one is too many.
//!
//! An event is told to one thread only (`ONESHOT`), which says when the next may be told: a listener's when
//! it has accepted, a connection's when it has read (`connection`).

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, bind, getsockname, listen, socket_with};
use rustix::time::Timespec;

use super::connection::Connection;
use super::peer::Peers;
use super::portmap::Ports;
use super::{Error, Options};
use crate::directory::{Directory, Published};

/// Connections at once, and those of one address: a client has one or two (16 with
/// `nconnect`), and leaves dead ones behind when its power is cut.
const MAX_CONNECTIONS: usize = 512;
const MAX_CONNECTIONS_PER_PEER: usize = 64;
/// An idle peer is asked after this whether it still lives, and given up a minute later.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// A peer that takes no byte of a reply for so long is given up, in milliseconds.
const USER_TIMEOUT_MS: u32 = 120_000;

/// Events that are no connection's; the ids of connections come behind.
const WAKE: u64 = 0;
const FIRST_SOCKET: u64 = 1;
const FIRST_CONNECTION: u64 = 64;

pub enum Socket {
    Listener(OwnedFd),
    /// MOUNT and portmap over UDP.
    Datagrams(OwnedFd),
}

impl Socket {
    fn fd(&self) -> &OwnedFd {
        match self {
            Self::Listener(fd) | Self::Datagrams(fd) => fd,
        }
    }
}

pub struct Sockets {
    epoll: Arc<OwnedFd>,
    wake: OwnedFd,
    /// By event number less `FIRST_SOCKET`; empty once stopped.
    listening: RwLock<Vec<Arc<Socket>>>,
    connections: RwLock<HashMap<u64, Arc<Connection>>>,
    next_id: AtomicU64,
    clock: AtomicU64,
}

/// What is ready.
pub enum Ready {
    /// `Sockets::wake` was called: it stays so.
    Woken,
    Listening(u64),
    Connection(u64),
    /// A connection that did not end in order.
    Broken(u64),
}

impl Sockets {
    pub fn open(options: &Options) -> Result<(Self, Ports), Error> {
        let address = options.listen;
        let (nfs, nfs_port) = listener(address, options.nfs_port)?;
        let (mount, mount_udp, mount_port) = listener_and_datagrams(address, options.mount_port)?;
        let (portmap, portmap_udp, portmap_port) = listener_and_datagrams(address, options.portmap_port)?;
        let listening = vec![
            Arc::new(Socket::Listener(nfs)),
            Arc::new(Socket::Listener(mount)),
            Arc::new(Socket::Listener(portmap)),
            Arc::new(Socket::Datagrams(mount_udp)),
            Arc::new(Socket::Datagrams(portmap_udp)),
        ];
        let system = |operation| move |errno: Errno| Error::System { operation, source: errno.into() };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("epoll_create"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system("eventfd"))?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN).map_err(system("epoll_ctl"))?;
        for (id, socket) in (FIRST_SOCKET..).zip(&listening) {
            let flags = EventFlags::IN | EventFlags::ONESHOT;
            epoll::add(&epoll, socket.fd(), EventData::new_u64(id), flags).map_err(system("epoll_ctl"))?;
        }
        let sockets = Self {
            epoll: Arc::new(epoll),
            wake,
            listening: RwLock::new(listening),
            connections: RwLock::default(),
            next_id: AtomicU64::new(FIRST_CONNECTION),
            clock: AtomicU64::new(0),
        };
        Ok((sockets, Ports { nfs: nfs_port, mount: mount_port, portmap: portmap_port }))
    }

    /// The next event; `None` after `patience`, or for no reason.
    pub fn wait(&self, patience: Option<&Timespec>) -> Result<Option<Ready>, Errno> {
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(WAKE) }];
        if epoll::wait(&*self.epoll, &mut events, patience)? == 0 {
            return Ok(None);
        }
        // A packed structure: its fields are copied out.
        let (id, flags) = (events[0].data.u64(), { events[0].flags });
        Ok(Some(match id {
            WAKE => Ready::Woken,
            FIRST_SOCKET..FIRST_CONNECTION => Ready::Listening(id),
            _ if flags.contains(EventFlags::ERR) => Ready::Broken(id),
            _ => Ready::Connection(id),
        }))
    }

    /// Every thread that waits, or will, is told.
    pub fn wake(&self) {
        // Nothing is left to do if it fails: the threads are then ended with the process.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Nothing new is heard from here on.
    pub fn stop_listening(&self) {
        write(&self.listening).clear();
    }

    pub fn listening(&self, id: u64) -> Option<Arc<Socket>> {
        read(&self.listening).get((id - FIRST_SOCKET) as usize).cloned()
    }

    /// The next event of a socket that listens may be told.
    pub fn again(&self, id: u64, socket: &Socket) {
        // It fails only once the socket was closed by `stop_listening`.
        let _ = epoll::modify(&*self.epoll, socket.fd(), EventData::new_u64(id), EventFlags::IN | EventFlags::ONESHOT);
    }

    /// A moment, later than all before.
    pub fn moment(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    pub fn connection(&self, id: u64) -> Option<Arc<Connection>> {
        read(&self.connections).get(&id).cloned()
    }

    pub fn connections(&self) -> Vec<Arc<Connection>> {
        read(&self.connections).values().cloned().collect()
    }

    pub fn forget_all(&self) {
        write(&self.connections).clear();
    }

    /// Takes in those that wait at a listener.
    pub fn accept(&self, listener: &OwnedFd, peers: &Peers, directory: &Published<Directory>) {
        // A bound for one event; if more wait, the next event comes at once.
        for _ in 0..16 {
            let (socket, from) = match acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((socket, Some(from))) => (socket, from),
                Ok((_, None)) | Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(Errno::MFILE | Errno::NFILE) => return self.evict(directory),
                Err(_) => return,
            };
            let Ok(from) = SocketAddrV4::try_from(from) else { continue };
            if let Err(errno) = self.admit(socket, from, peers, directory) {
                tracing::warn!(%from, %errno, "a connection was refused");
            }
        }
    }

    fn admit(
        &self,
        socket: OwnedFd,
        from: SocketAddrV4,
        peers: &Peers,
        directory: &Published<Directory>,
    ) -> Result<(), Errno> {
        let peer = peers.get(*from.ip());
        if peer.connections.load(Ordering::Relaxed) >= MAX_CONNECTIONS_PER_PEER {
            self.forget_oldest(|connection| connection.peer.address == peer.address);
        }
        if read(&self.connections).len() >= MAX_CONNECTIONS {
            self.evict(directory);
        }
        if read(&self.connections).len() >= MAX_CONNECTIONS {
            return Err(Errno::USERS);
        }
        sockopt::set_tcp_nodelay(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, KEEPALIVE)?;
        sockopt::set_tcp_keepintvl(&socket, KEEPALIVE / 6)?;
        sockopt::set_tcp_keepcnt(&socket, 6)?;
        sockopt::set_tcp_user_timeout(&socket, USER_TIMEOUT_MS)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Connection::new(id, socket, self.epoll.clone(), peer, from.port())?;
        connection.peer.connections.fetch_add(1, Ordering::Relaxed);
        connection.used.store(self.moment(), Ordering::Relaxed);
        write(&self.connections).insert(id, connection.clone());
        connection.register().inspect_err(|_| self.forget(id))
    }

    /// Makes room: a stranger's connection goes before a client's.
    fn evict(&self, directory: &Published<Directory>) {
        let directory = directory.get();
        self.forget_oldest(|connection| directory.client(connection.peer.address).is_none());
    }

    fn forget_oldest(&self, of: impl Fn(&Connection) -> bool) {
        let oldest = read(&self.connections)
            .values()
            .filter(|connection| of(connection))
            .min_by_key(|connection| connection.used.load(Ordering::Relaxed))
            .map(|connection| connection.id);
        if let Some(id) = oldest {
            self.forget(id);
        }
    }

    pub fn forget(&self, id: u64) {
        let gone = write(&self.connections).remove(&id);
        if let Some(connection) = gone {
            connection.peer.connections.fetch_sub(1, Ordering::Relaxed);
            let _ = epoll::delete(&*self.epoll, connection.socket());
            connection.close();
        }
    }
}

fn open(address: Ipv4Addr, port: u16, kind: SocketType) -> Result<(OwnedFd, u16), Error> {
    let open = || -> Result<(OwnedFd, u16), Errno> {
        let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        // The address may be configured later than this.
        sockopt::set_ip_freebind(&socket, true)?;
        if kind == SocketType::STREAM {
            // Connections of the server before this one may still linger.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        bind(&socket, &SocketAddrV4::new(address, port))?;
        if kind == SocketType::STREAM {
            listen(&socket, 128)?;
        }
        let bound = SocketAddr::try_from(getsockname(&socket)?).map_err(|_| Errno::AFNOSUPPORT)?;
        Ok((socket, bound.port()))
    };
    open().map_err(|errno| Error::Listen { address: SocketAddrV4::new(address, port), source: errno.into() })
}

fn listener(address: Ipv4Addr, port: u16) -> Result<(OwnedFd, u16), Error> {
    open(address, port, SocketType::STREAM)
}

/// TCP and UDP on one port number, also where any number will do.
fn listener_and_datagrams(address: Ipv4Addr, port: u16) -> Result<(OwnedFd, OwnedFd, u16), Error> {
    let mut tries = 8;
    loop {
        let (tcp, bound) = listener(address, port)?;
        tries -= 1;
        match open(address, bound, SocketType::DGRAM) {
            Ok((udp, _)) => return Ok((tcp, udp, bound)),
            Err(error) if port != 0 || tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
