//! Sockets and threads. I/O, no deciding.
//!
//! Every thread waits on one epoll set and takes what comes. No call changes
//! threads. A call that may wait for the stick is done by the thread that read it, after the
//! connection was given to the next thread, so that it keeps no other waiting. Quick ones
//! that came together are done one after the other and answered together: waking a thread for
//! each cost more than the calls (2026-11-22: 30 µs of CPU a call of the storm before,
//! 5 µs since; `just bench`). So are changes of one name that came together; they are then brought
//! to the stick by one commit, when the connection was given to the next thread (`owed`). Whether a
//! call is quick is what its like were before (`connection.rs`, `Pace`), and one that fooled us is
//! overtaken at the next tick. The kernel's queue of events is first in, first out, so
//! connections take turns; `peer.rs` keeps any one client from taking all the threads.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, acceptfrom_with, bind, getsockname, listen, recvfrom,
    sendto, socket_with,
};

use super::connection::{Connection, Input, Pace, Record, SCRATCH};
use super::export::Exports;
use super::file::Budget;
use super::journal::{Journal, milliseconds_since_boot};
use super::owed::Ledger;
use super::peer::{Peer, Peers};
use super::pipe::{Outlet, Pipes};
use super::portmap::Ports;
use super::reply_cache::ReplyCache;
use super::service::{self, Haste, Memory, Outcome, Pending, Service, Source};
use super::settle::Unsettled;
use super::xdr::Encoder;
use super::{Error, Event, Options};
use crate::directory::{Directory, Published};

/// Connections at once, and those of one address: a client has one or two (16 with
/// `nconnect`), and leaves dead ones behind when its power is cut.
const MAX_CONNECTIONS: usize = 512;
const MAX_CONNECTIONS_PER_PEER: usize = 64;
/// An idle peer is asked after this whether it still lives, and given up a minute later.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// A peer that takes no byte of a reply for so long is given up, in milliseconds.
const USER_TIMEOUT_MS: u32 = 120_000;
/// How often trees are checked and let go.
const TICK: Duration = Duration::from_millis(250);
/// The same while connections wait for their trees after a restart.
const HELD_TICK: Duration = Duration::from_millis(10);
/// What is told of a client's traffic, at most.
const TICKS_PER_REPORT: u32 = 4;
/// Replies in flight get this long when the server stops.
const STOP: Duration = Duration::from_secs(5);
/// Calls that one thread does before other connections have their turn.
const MAX_BATCH: usize = 32;
/// Datagrams of MOUNT and portmap are small.
const MAX_DATAGRAM: usize = 4096;
/// The mark of a record that is one fragment (RFC 5531 §11).
const LAST_FRAGMENT: u32 = 0x8000_0000;
/// Threads: enough that a few may wait for the stick; each costs two buffers.
const THREADS: std::ops::RangeInclusive<usize> = 4..=64;

/// With those that are started while all others wait for the stick; the last client that comes has one.
const MAX_THREADS: usize = 192;
/// How many are started in one tick, and how long they stay without work.
const RELIEVED_AT_ONCE: usize = 8;
const RELIEF: Duration = Duration::from_secs(10);

/// Events that are no connection's; the ids of connections come behind.
const WAKE: u64 = 0;
const FIRST_SOCKET: u64 = 1;
const FIRST_CONNECTION: u64 = 64;

/// Serves until it is stopped or dropped.
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

enum Socket {
    Listener(OwnedFd),
    Datagrams(OwnedFd),
}

impl Socket {
    fn fd(&self) -> &OwnedFd {
        match self {
            Self::Listener(fd) | Self::Datagrams(fd) => fd,
        }
    }
}

struct Shared {
    service: Service<Weak<Connection>>,
    epoll: Arc<OwnedFd>,
    wake: OwnedFd,
    /// By event number less `FIRST_SOCKET`; empty once stopped.
    sockets: RwLock<Vec<Arc<Socket>>>,
    connections: RwLock<HashMap<u64, Arc<Connection>>>,
    next_id: AtomicU64,
    clock: AtomicU64,
    stopping: AtomicBool,
    running: Mutex<usize>,
    ended: Condvar,
    /// Connections that are not read yet: see `settle`.
    held: Mutex<Vec<u64>>,
    load: Load,
    pipes: Arc<Pipes>,
}

/// What the threads do, for `Shared::relieve`.
#[derive(Default)]
struct Load {
    threads: AtomicUsize,
    /// Of them, those that wait for something to do.
    idle: AtomicUsize,
    /// Events that were dealt with, since the start.
    ended: AtomicUsize,
}

pub fn start(
    options: Options,
    directory: Arc<Published<Directory>>,
    sink: Arc<dyn Fn(Event) + Send + Sync>,
) -> Result<Server, Error> {
    let descriptors = raise_descriptor_limit();
    let memory = rustix::system::sysinfo();
    let budget = Budget::new(memory.totalram as u64 * u64::from(memory.mem_unit), descriptors);
    let address = options.listen;
    let (nfs, nfs_port) = listener(address, options.nfs_port)?;
    let (mount, mount_udp, mount_port) = listener_and_datagrams(address, options.mount_port)?;
    let (portmap, portmap_udp, portmap_port) = listener_and_datagrams(address, options.portmap_port)?;
    let sockets = vec![
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
    for (id, socket) in (FIRST_SOCKET..).zip(&sockets) {
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        epoll::add(&epoll, socket.fd(), EventData::new_u64(id), flags).map_err(system("epoll_ctl"))?;
    }
    let mut replies = ReplyCache::default();
    // Without it all is served; only a kill then shows.
    let journal = options.journal.as_ref().map(|path| Journal::open(path));
    let journal = journal.and_then(|opened| {
        opened
            .inspect_err(
                |error| tracing::warn!(%error, cause = ?std::error::Error::source(error), "no memory over a restart"),
            )
            .ok()
    });
    let memory = journal.map(|(journal, left)| {
        let unsettled = Unsettled::take(left, &mut replies, Instant::now(), milliseconds_since_boot());
        Memory { journal, unsettled }
    });
    let workers = options.workers.clamp(*THREADS.start(), *THREADS.end());
    let shared = Arc::new(Shared {
        service: Service {
            exports: Exports::new(verifier(), budget),
            peers: Peers::new(workers),
            directory,
            sink,
            ports: Ports { nfs: nfs_port, mount: mount_port, portmap: portmap_port },
            allow_unprivileged_ports: options.allow_unprivileged_ports,
            replies: Mutex::new(replies),
            memory,
        },
        epoll: Arc::new(epoll),
        wake,
        sockets: RwLock::new(sockets),
        connections: RwLock::default(),
        next_id: AtomicU64::new(FIRST_CONNECTION),
        clock: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
        running: Mutex::new(0),
        ended: Condvar::new(),
        held: Mutex::default(),
        load: Load::default(),
        pipes: Arc::default(),
    });
    // From here on dropping the server stops the threads that run already.
    let mut server = Server { shared, threads: Vec::new() };
    for n in 0..workers {
        server.spawn(format!("nfs-{n}"), Shared::work)?;
    }
    server.spawn("nfs-sweep".to_owned(), Shared::sweep)?;
    Ok(server)
}

impl Server {
    /// The ports that are really listened on.
    pub fn ports(&self) -> Ports {
        self.shared.service.ports
    }

    /// Lets go of every descriptor into the clients' trees, so that they can be unmounted: call it
    /// after publishing a directory without them. Calls that run keep theirs until they end.
    pub fn release_trees(&self) {
        self.shared.service.exports.release();
    }

    /// Takes no more calls, lets those that run end and sends their replies, for at most `STOP`.
    pub fn stop(&mut self) {
        let shared = &self.shared;
        if shared.stopping.swap(true, Ordering::SeqCst) {
            return;
        }
        let deadline = Instant::now() + STOP;
        // Nothing is left to do if it fails: the threads are then ended with the process.
        let _ = rustix::io::write(&shared.wake, &1u64.to_ne_bytes());
        shared.ended.notify_all();
        write(&shared.sockets).clear();
        let mut running = lock(&shared.running);
        while *running > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (running, _) = shared.ended.wait_timeout(running, left).unwrap_or_else(PoisonError::into_inner);
        }
        drop(running);
        let connections: Vec<_> = read(&shared.connections).values().cloned().collect();
        while Instant::now() < deadline && !connections.iter().all(|connection| connection.is_flushed()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        connections.iter().for_each(|connection| connection.finish());
        write(&shared.connections).clear();
        shared.service.exports.release();
        shared.service.memory.iter().for_each(|memory| memory.journal.close());
        for thread in self.threads.drain(..) {
            // One that waits for a dead stick is left behind.
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }

    fn spawn(&mut self, name: String, run: fn(&Arc<Shared>)) -> Result<(), Error> {
        let thread = spawn(&self.shared, name, run);
        self.threads.push(thread.map_err(|source| Error::System { operation: "spawn a thread", source })?);
        Ok(())
    }
}

fn spawn(shared: &Arc<Shared>, name: String, run: fn(&Arc<Shared>)) -> std::io::Result<JoinHandle<()>> {
    let own = shared.clone();
    *lock(&shared.running) += 1;
    let spawned = std::thread::Builder::new().name(name).stack_size(512 << 10).spawn(move || {
        run(&own);
        *lock(&own.running) -= 1;
        own.ended.notify_all();
    });
    spawned.inspect_err(|_| *lock(&shared.running) -= 1)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What one thread keeps from call to call.
struct Buffers {
    scratch: Vec<u8>,
    reply: Encoder,
    /// The end of the last reply in `reply`.
    outlet: Outlet,
    ledger: Ledger,
}

/// A change that waits for its commit.
type Change<'a> = Box<Pending<'a, Weak<Connection>>>;

impl Shared {
    fn work(self: &Arc<Self>) {
        self.serve(None);
    }

    /// A thread for as long as those that there always are do not suffice.
    fn relieve(self: &Arc<Self>) {
        self.serve(Some(RELIEF));
    }

    fn serve(&self, patience: Option<Duration>) {
        own_umask();
        self.load.threads.fetch_add(1, Ordering::Relaxed);
        self.take_events(patience);
        self.load.threads.fetch_sub(1, Ordering::Relaxed);
    }

    fn take_events(&self, patience: Option<Duration>) {
        let patience = patience.and_then(|patience| rustix::time::Timespec::try_from(patience).ok());
        let outlet = Outlet::new(self.pipes.clone());
        let mut buffers = Buffers {
            scratch: vec![0; SCRATCH],
            reply: Encoder::with_capacity(4096),
            outlet,
            ledger: Ledger::default(),
        };
        while !self.stopping.load(Ordering::Relaxed) {
            let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(WAKE) }];
            self.load.idle.fetch_add(1, Ordering::Relaxed);
            let waited = epoll::wait(&*self.epoll, &mut events, patience.as_ref());
            self.load.idle.fetch_sub(1, Ordering::Relaxed);
            match waited {
                Ok(1) => {}
                Ok(0) if patience.is_some() => return,
                Ok(_) | Err(Errno::INTR) => continue,
                Err(errno) => return tracing::error!(%errno, "epoll_wait failed: a thread ends"),
            }
            // A packed structure: its fields are copied out.
            let (id, flags) = (events[0].data.u64(), { events[0].flags });
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            // A fault in one call ends that connection, not the thread. Locks that it held are
            // taken again without regard to poisoning: each guards values that are whole between statements.
            let served = catch_unwind(AssertUnwindSafe(|| match id {
                WAKE => {}
                FIRST_SOCKET..FIRST_CONNECTION => self.socket(id, &mut buffers),
                _ if flags.contains(EventFlags::ERR) => self.broken(id),
                _ => self.connection(id, &mut buffers),
            }));
            if served.is_err() {
                tracing::error!("a call panicked: its connection is closed");
                self.forget(id);
                drop((buffers.outlet.take(), buffers.ledger.take()));
            }
            self.load.ended.fetch_add(1, Ordering::Relaxed);
            // The allocator gives it to whoever reads next: as many large ones as calls run at
            // once, not as threads that ever did one.
            if buffers.reply.buffer().capacity() > SCRATCH {
                buffers.reply = Encoder::with_capacity(4096);
            }
        }
    }

    /// A connection that did not end in order. One is reset where a Pi was switched off and now
    /// runs something else: its answer to what we still sent, or to a question of the keep-alive.
    fn broken(&self, id: u64) {
        let Some(connection) = read(&self.connections).get(&id).cloned() else { return };
        let was_reset = sockopt::socket_error(connection.socket()) == Ok(Err(Errno::CONNRESET));
        self.forget(id);
        if was_reset && connection.peer.connections.load(Ordering::Relaxed) == 0 {
            (self.service.sink)(Event::Reset { address: connection.peer.address });
        }
    }

    fn connection(&self, id: u64, buffers: &mut Buffers) {
        let Some(connection) = read(&self.connections).get(&id).cloned() else { return };
        let clock = self.clock.fetch_add(1, Ordering::Relaxed);
        if !connection.begin(clock) {
            if connection.is_closed() {
                self.forget(id);
            }
            return;
        }
        if !self.service.is_settled(connection.peer.address) {
            connection.park();
            lock(&self.held).push(id);
            return;
        }
        if !self.service.peers.enter(&connection.peer, id) {
            connection.park();
            return;
        }
        let _turn = Turn { shared: self, peer: &connection.peer };
        buffers.reply.clear();
        let mut changes = Vec::new();
        self.batch(&connection, buffers, &mut changes);
        self.settle(&connection, &mut buffers.reply, changes);
    }

    /// Does what came together, until another thread may read on. Changes that are still to be brought to
    /// the stick are left in `changes`.
    fn batch<'a>(&'a self, connection: &Arc<Connection>, buffers: &mut Buffers, changes: &mut Vec<Change<'a>>) {
        for served in 1..=MAX_BATCH {
            let (input, interest) = connection.read(&mut buffers.scratch);
            let record = match input {
                Input::Record(record) => record,
                Input::Empty => {
                    connection.send(&mut buffers.reply, None);
                    return connection.end(interest);
                }
                Input::Closed => return self.forget(connection.id),
                Input::Bad(error) => {
                    tracing::warn!(address = %connection.peer.address, %error, "the connection is closed");
                    connection.send(&mut buffers.reply, None);
                    return self.forget(connection.id);
                }
            };
            let bytes = match &record {
                Record::Scratch(range) => &buffers.scratch[range.clone()],
                Record::Owned(bytes) => &bytes[..],
            };
            let (pace, is_change) = match service::haste(bytes) {
                Haste::Quick => (Some(&connection.questions), false),
                // Others that come while it is made share its commit.
                Haste::Commit => (Some(&connection.changes), true),
                Haste::Slow => (None, false),
            };
            let quick = pace.is_some_and(Pace::is_calm);
            if !quick {
                // The next thread may read on while this one works, and what is made already waits for no slow call.
                connection.send(&mut buffers.reply, None);
                connection.end(interest);
                self.settle(connection, &mut buffers.reply, std::mem::take(changes));
            }
            let start = Instant::now();
            let ledger = (quick && is_change).then_some(&buffers.ledger);
            let answered = self.call(connection, bytes, &mut buffers.reply, &buffers.outlet, ledger);
            let body = buffers.outlet.take();
            match answered {
                Some(change) => changes.extend(change),
                None => return self.forget(connection.id),
            }
            // What a change takes that waits for its own commit says nothing.
            if let Some(pace) = pace.filter(|_| quick || !is_change) {
                pace.took(start.elapsed());
            }
            // Also where the last of what came is done: the client may wait for it before it sends more.
            let last = interest == EventFlags::IN || served == MAX_BATCH;
            if !quick || last || body.is_some() || buffers.reply.len() >= SCRATCH {
                connection.send(&mut buffers.reply, body);
            }
            if !quick {
                return;
            }
            // Else it looks for more by itself: an event would often wake another thread, for more than a call costs.
            if served == MAX_BATCH || !connection.is_clear() {
                return connection.end(interest);
            }
        }
    }

    /// Brings changes to the stick and answers them.
    fn settle(&self, connection: &Connection, reply: &mut Encoder, changes: Vec<Change<'_>>) {
        if changes.is_empty() {
            return;
        }
        self.service.settle(changes, |answer, waiters| {
            let start = reply.len();
            reply.u32(LAST_FRAGMENT | answer.len() as u32);
            reply.fixed(answer);
            for waiter in waiters.iter().filter_map(Weak::upgrade) {
                waiter.send_copy(&reply.bytes()[start..]);
            }
        });
        connection.send(reply, None);
    }

    /// Does one call, and puts its reply as a record behind those that wait to be sent; what `outlet` holds then
    /// belongs to its end. With a `ledger` it may be a change that is not answered yet. `None` if what came is no call.
    fn call<'a>(
        &'a self,
        connection: &Arc<Connection>,
        bytes: &[u8],
        reply: &mut Encoder,
        outlet: &Outlet,
        ledger: Option<&Ledger>,
    ) -> Option<Option<Change<'a>>> {
        let start = reply.len();
        reply.u32(0);
        let source = Source { peer: &connection.peer, port: connection.port, tcp: true, outlet: Some(outlet), ledger };
        match self.service.handle(source, bytes, reply, || Arc::downgrade(connection)) {
            Outcome::Reply(waiters) => {
                // The record mark: one last fragment.
                let length = reply.len() - start - 4 + outlet.len();
                reply.patch_u32(start, LAST_FRAGMENT | length as u32);
                for waiter in waiters.iter().filter_map(Weak::upgrade) {
                    waiter.send_copy(&reply.bytes()[start..]);
                }
            }
            Outcome::Owed(change) => {
                reply.truncate(start);
                return Some(Some(change));
            }
            Outcome::Later => reply.truncate(start),
            Outcome::NotRpc => {
                tracing::warn!(address = %connection.peer.address, "what came is no RPC call: the connection is closed");
                return None;
            }
        }
        Some(None)
    }

    fn socket(&self, id: u64, buffers: &mut Buffers) {
        let Some(socket) = read(&self.sockets).get((id - FIRST_SOCKET) as usize).cloned() else { return };
        match &*socket {
            Socket::Listener(fd) => {
                self.accept(fd);
                self.again(id, fd);
            }
            Socket::Datagrams(fd) => self.datagram(id, fd, buffers),
        }
    }

    fn again(&self, id: u64, fd: &OwnedFd) {
        // It fails only once the socket was closed by `stop`.
        let _ = epoll::modify(&*self.epoll, fd, EventData::new_u64(id), EventFlags::IN | EventFlags::ONESHOT);
    }

    /// MOUNT and portmap over UDP: a datagram is a record.
    fn datagram(&self, id: u64, fd: &OwnedFd, buffers: &mut Buffers) {
        let received = recvfrom(fd, &mut buffers.scratch[..MAX_DATAGRAM], RecvFlags::DONTWAIT);
        self.again(id, fd);
        let Ok((count, _, Some(from))) = received else { return };
        let Ok(from) = SocketAddrV4::try_from(from) else { return };
        let peer = self.service.peers.get(*from.ip());
        let reply = &mut buffers.reply;
        reply.clear();
        let source = Source { peer: &peer, port: from.port(), tcp: false, outlet: None, ledger: None };
        // Only over TCP calls wait for each other.
        if let Outcome::Reply(_) = self.service.handle(source, &buffers.scratch[..count], reply, Weak::new) {
            // A lost reply is asked for again.
            let _ = sendto(fd, reply.bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT, &from);
        }
    }

    fn accept(&self, listener: &OwnedFd) {
        // A bound for one event; if more wait, the next event comes at once.
        for _ in 0..16 {
            let (socket, from) = match acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((socket, Some(from))) => (socket, from),
                Ok((_, None)) | Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(Errno::MFILE | Errno::NFILE) => return self.evict(),
                Err(_) => return,
            };
            let Ok(from) = SocketAddrV4::try_from(from) else { continue };
            if let Err(errno) = self.admit(socket, from) {
                tracing::warn!(%from, %errno, "a connection was refused");
            }
        }
    }

    fn admit(&self, socket: OwnedFd, from: SocketAddrV4) -> Result<(), Errno> {
        let peer = self.service.peers.get(*from.ip());
        if peer.connections.load(Ordering::Relaxed) >= MAX_CONNECTIONS_PER_PEER {
            self.forget_oldest(|connection| connection.peer.address == peer.address);
        }
        if read(&self.connections).len() >= MAX_CONNECTIONS {
            self.evict();
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
        connection.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        write(&self.connections).insert(id, connection.clone());
        connection.register().inspect_err(|_| self.forget(id))
    }

    /// Makes room: a stranger's connection goes before a client's.
    fn evict(&self) {
        let directory = self.service.directory.get();
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

    fn forget(&self, id: u64) {
        let gone = write(&self.connections).remove(&id);
        if let Some(connection) = gone {
            connection.peer.connections.fetch_sub(1, Ordering::Relaxed);
            let _ = epoll::delete(&*self.epoll, connection.socket());
            connection.close();
        }
    }

    /// Checks the trees and tells what the clients did, until the server stops.
    fn sweep(self: &Arc<Self>) {
        let mut ticks = 0u32;
        let mut ended = 0;
        loop {
            let held = std::mem::take(&mut *lock(&self.held));
            let tick = if held.is_empty() { TICK } else { HELD_TICK };
            let running = lock(&self.running);
            let (running, _) = self.ended.wait_timeout(running, tick).unwrap_or_else(PoisonError::into_inner);
            drop(running);
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            if !held.is_empty() {
                held.iter().filter_map(|id| read(&self.connections).get(id).cloned()).for_each(|held| held.wake());
                continue;
            }
            read(&self.connections).values().for_each(|connection| connection.overtake());
            self.service.exports.sweep(&self.service.directory.get(), Instant::now());
            let before = std::mem::replace(&mut ended, self.load.ended.load(Ordering::Relaxed));
            self.relieve_if_stuck(ended.wrapping_sub(before));
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(TICKS_PER_REPORT) {
                self.service.peers.all().iter().for_each(|peer| self.report(peer));
            }
        }
    }

    /// All threads wait for the stick: others are started, so that calls which need nothing of it
    /// are answered. A client's share of the threads still bounds what it can keep waiting.
    fn relieve_if_stuck(self: &Arc<Self>, ended: usize) {
        let (threads, idle) = (self.load.threads.load(Ordering::Relaxed), self.load.idle.load(Ordering::Relaxed));
        if idle > 0 || ended >= threads {
            return;
        }
        for n in threads..(threads + RELIEVED_AT_ONCE).min(MAX_THREADS) {
            if let Err(error) = spawn(self, format!("nfs-{n}"), Self::relieve) {
                return tracing::warn!(%error, "no more threads for NFS");
            }
        }
    }

    fn report(&self, peer: &Peer) {
        let (tally, address, sink) = (peer.tally(), peer.address, &self.service.sink);
        if tally.calls > 0 {
            let (calls, read_bytes, written_bytes) = (tally.calls, tally.read_bytes, tally.written_bytes);
            sink(Event::Traffic { address, calls, read_bytes, written_bytes });
        }
        if tally.bad_handles > 0 {
            let (count, reason) = (tally.bad_handles, tally.bad_handle);
            tracing::warn!(%address, count, reason, "file handles were refused");
            sink(Event::BadHandle { address, count, reason });
        }
    }
}

/// A thread's turn for one client; when it ends, a connection of that client that waits goes on.
struct Turn<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let waiting = self.shared.service.peers.leave(self.peer);
        if let Some(connection) = waiting.and_then(|id| read(&self.shared.connections).get(&id).cloned()) {
            connection.wake();
        }
    }
}

/// The mode of a new file is the client's alone: its own umask is in it already. This
/// thread leaves the process's umask (and working directory) for its own.
fn own_umask() {
    // SAFETY: CLONE_FS has no effect on descriptors or memory; only what this thread resolves relative
    // to a working directory is its own from now on.
    let own = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) };
    match own {
        Ok(()) => drop(rustix::process::umask(rustix::fs::Mode::empty())),
        Err(errno) => tracing::error!(%errno, "no umask of its own for an NFS thread: modes may lack bits"),
    }
}

/// Different at every start, also where the clock begins at 1970 each time and
/// where there is no randomness yet.
fn verifier() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut bytes = [0u8; 8];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::INSECURE);
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write(&bytes);
    for clock in [rustix::time::ClockId::Realtime, rustix::time::ClockId::Boottime] {
        let now = rustix::time::clock_gettime(clock);
        hasher.write_i64(now.tv_sec);
        hasher.write_i64(now.tv_nsec);
    }
    hasher.write_i32(rustix::process::getpid().as_raw_nonzero().get());
    hasher.finish()
}

/// More than connections, files and trees together need; the kernel's own limit is a million.
const DESCRIPTORS: u64 = 300_000;

/// How many descriptors this process may have, which is raised as far as it goes.
fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let maximum = before.maximum.map(|maximum| maximum.max(DESCRIPTORS));
    let most = Rlimit { current: Some(DESCRIPTORS), maximum };
    if before.current.is_some_and(|current| current < DESCRIPTORS) && setrlimit(Resource::Nofile, most).is_err() {
        // Not root's rights: as far as the limit of the limit.
        let allowed = Rlimit { current: before.maximum, maximum: before.maximum };
        if let Err(errno) = setrlimit(Resource::Nofile, allowed) {
            tracing::warn!(%errno, "the limit of open files stays as it is");
        }
    }
    getrlimit(Resource::Nofile).current.and_then(|current| usize::try_from(current).ok()).unwrap_or(usize::MAX)
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
