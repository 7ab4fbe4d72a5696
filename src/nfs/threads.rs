//! The threads: those that do the calls, and one that looks after them. I/O, no deciding.
//!
//! Every thread waits on the one epoll set and takes what comes (`batch` does it). The kernel's queue of events is first
//! in, first out, so connections take turns; `peer` keeps any one client from taking all the threads. Where
//! all of them wait for the stick, others are started for as long.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt;

use super::Event;
use super::batch::Buffers;
use super::peer::Peer;
use super::pipe::Outlet;
use super::shared::{Shared, lock, spawn};
use super::sockets::{Ready, Socket};

/// How often trees are checked and let go.
const TICK: Duration = Duration::from_millis(250);
/// The same while connections wait for their trees after a restart.
const HELD_TICK: Duration = Duration::from_millis(10);
/// What is told of a client's traffic, at most.
const TICKS_PER_REPORT: u32 = 4;
/// With those that are started while all others wait for the stick; the last client that comes has one.
const MAX_THREADS: usize = 192;
/// How many are started in one tick, and how long they stay without work.
const RELIEVED_AT_ONCE: usize = 8;
const RELIEF: Duration = Duration::from_secs(10);

impl Shared {
    /// One of the threads that there always are.
    pub fn work(self: &Arc<Self>) {
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
        let mut buffers = Buffers::new(Outlet::new(self.pipes.clone()));
        while !self.stopping.load(Ordering::Relaxed) {
            self.load.idle.fetch_add(1, Ordering::Relaxed);
            let waited = self.sockets.wait(patience.as_ref());
            self.load.idle.fetch_sub(1, Ordering::Relaxed);
            let ready = match waited {
                Ok(Some(ready)) => ready,
                Ok(None) if patience.is_some() => return,
                Ok(None) | Err(Errno::INTR) => continue,
                Err(errno) => return tracing::error!(%errno, "epoll_wait failed: a thread ends"),
            };
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            // A fault in one call ends that connection, not the thread. Locks that it held are
            // taken again without regard to poisoning: each guards values that are whole between statements.
            let served = catch_unwind(AssertUnwindSafe(|| match ready {
                Ready::Woken => {}
                Ready::Listening(id) => self.listening(id, &mut buffers),
                Ready::Broken(id) => self.broken(id),
                Ready::Connection(id) => self.connection(id, &mut buffers),
            }));
            if served.is_err() {
                tracing::error!("a call panicked: its connection is closed");
                if let Ready::Connection(id) | Ready::Broken(id) = ready {
                    self.sockets.forget(id);
                }
                buffers.clear();
            }
            self.load.ended.fetch_add(1, Ordering::Relaxed);
            buffers.shrink();
        }
    }

    fn listening(&self, id: u64, buffers: &mut Buffers) {
        let Some(socket) = self.sockets.listening(id) else { return };
        let again = || self.sockets.again(id, &socket);
        match &*socket {
            Socket::Listener(fd) => {
                self.sockets.accept(fd, &self.service.peers, &self.service.directory);
                again();
            }
            Socket::Datagrams(fd) => self.datagram(fd, again, buffers),
        }
    }

    /// A connection that did not end in order. One is reset where a Pi was switched off and now
    /// runs something else: its answer to what we still sent, or to a question of the keep-alive.
    fn broken(&self, id: u64) {
        let Some(connection) = self.sockets.connection(id) else { return };
        let was_reset = sockopt::socket_error(connection.socket()) == Ok(Err(Errno::CONNRESET));
        self.sockets.forget(id);
        if was_reset && connection.peer.connections.load(Ordering::Relaxed) == 0 {
            (self.service.sink)(Event::Reset { address: connection.peer.address });
        }
    }

    /// Checks the trees and tells what the clients did, until the server stops.
    pub fn sweep(self: &Arc<Self>) {
        let mut ticks = 0u32;
        let mut ended = 0;
        loop {
            let held = std::mem::take(&mut *lock(&self.held));
            let tick = if held.is_empty() { TICK } else { HELD_TICK };
            self.pause(tick);
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            if !held.is_empty() {
                held.iter().filter_map(|id| self.sockets.connection(*id)).for_each(|held| held.wake());
                continue;
            }
            self.sockets.connections().iter().for_each(|connection| connection.overtake());
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
