//! One client address: what it did since the last report, how many of its
//! calls run, and its fair share of the threads.
//!
//! Counters only; no I/O and no clock.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Addresses that are remembered; beyond it those without connections are forgotten.
pub const MAX_PEERS: usize = 1024;

#[derive(Debug)]
pub struct Peer {
    pub address: Ipv4Addr,
    calls: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    bad_handles: AtomicU64,
    bad_handle: Mutex<&'static str>,
    running: AtomicUsize,
    /// Connections that have a call but no thread for it: served as others of this client end.
    waiting: Mutex<VecDeque<u64>>,
    pub connections: AtomicUsize,
    /// Paths it mounted, for DUMP: at most `MAX_MOUNTS`.
    mounts: Mutex<Vec<String>>,
    /// Calls since its last mount that the black box was shown.
    shown: AtomicUsize,
}

const MAX_MOUNTS: usize = 16;
/// Calls behind a mount that show how it begins.
const MAX_SHOWN: usize = 16;

/// What a client did since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub calls: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub bad_handles: u64,
    pub bad_handle: &'static str,
}

impl Peer {
    pub fn new(address: Ipv4Addr) -> Self {
        Self {
            address,
            calls: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            bad_handles: AtomicU64::new(0),
            bad_handle: Mutex::new(""),
            running: AtomicUsize::new(0),
            waiting: Mutex::default(),
            connections: AtomicUsize::new(0),
            mounts: Mutex::default(),
            shown: AtomicUsize::new(0),
        }
    }

    pub fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this call is one of the first since it mounted.
    pub fn is_fresh(&self) -> bool {
        // Only read in the long run, so that threads do not contend for it.
        self.shown.load(Ordering::Relaxed) < MAX_SHOWN && self.shown.fetch_add(1, Ordering::Relaxed) < MAX_SHOWN
    }

    pub fn read(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn written(&self, bytes: usize) {
        self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A handle was refused: counted here, told at most once a second.
    pub fn bad_handle(&self, reason: &'static str) {
        self.bad_handles.fetch_add(1, Ordering::Relaxed);
        *lock(&self.bad_handle) = reason;
    }

    /// Takes what was counted.
    pub fn tally(&self) -> Tally {
        Tally {
            calls: self.calls.swap(0, Ordering::Relaxed),
            read_bytes: self.read_bytes.swap(0, Ordering::Relaxed),
            written_bytes: self.written_bytes.swap(0, Ordering::Relaxed),
            bad_handles: self.bad_handles.swap(0, Ordering::Relaxed),
            bad_handle: *lock(&self.bad_handle),
        }
    }

    pub fn mounted(&self, path: &str) {
        self.shown.store(0, Ordering::Relaxed);
        let mut mounts = lock(&self.mounts);
        if mounts.len() < MAX_MOUNTS && !mounts.iter().any(|known| known == path) {
            mounts.push(path.to_owned());
        }
    }

    /// Whether `path` was mounted.
    pub fn unmounted(&self, path: &str) -> bool {
        let mut mounts = lock(&self.mounts);
        let before = mounts.len();
        mounts.retain(|known| known != path);
        mounts.len() < before
    }

    pub fn unmounted_all(&self) -> bool {
        !std::mem::take(&mut *lock(&self.mounts)).is_empty()
    }

    pub fn mounts(&self) -> Vec<String> {
        lock(&self.mounts).clone()
    }

    fn is_idle(&self) -> bool {
        self.connections.load(Ordering::Relaxed) == 0
            && self.running.load(Ordering::Relaxed) == 0
            && self.calls.load(Ordering::Relaxed) == 0
            && lock(&self.mounts).is_empty()
    }
}

/// All addresses that were heard of, and how the threads are shared among them.
///
/// One client alone may use all threads but two; as soon as others have calls,
/// none has more than its part, however many connections and calls it opens.
/// So a client that floods, or waits for a slow stick with all it may
/// have, leaves threads for the others' calls.
#[derive(Debug)]
pub struct Peers {
    peers: Mutex<HashMap<Ipv4Addr, Arc<Peer>>>,
    /// Clients with a call running.
    active: AtomicUsize,
    threads: usize,
}

impl Peers {
    pub fn new(threads: usize) -> Self {
        Self { peers: Mutex::default(), active: AtomicUsize::new(0), threads }
    }

    pub fn get(&self, address: Ipv4Addr) -> Arc<Peer> {
        let mut peers = lock(&self.peers);
        if peers.len() >= MAX_PEERS && !peers.contains_key(&address) {
            peers.retain(|_, peer| !peer.is_idle());
            if peers.len() >= MAX_PEERS {
                // Served, but not remembered.
                return Arc::new(Peer::new(address));
            }
        }
        peers.entry(address).or_insert_with(|| Arc::new(Peer::new(address))).clone()
    }

    pub fn all(&self) -> Vec<Arc<Peer>> {
        lock(&self.peers).values().cloned().collect()
    }

    /// Takes a thread for a call of `peer`, or puts `connection` down to wait for one.
    pub fn enter(&self, peer: &Peer, connection: u64) -> bool {
        // Under this lock, so that a call that ends now sees who waits.
        let mut waiting = lock(&peer.waiting);
        let running = peer.running.load(Ordering::Relaxed);
        let active = self.active.load(Ordering::Relaxed) + usize::from(running == 0);
        if running >= self.share(active) {
            if !waiting.contains(&connection) {
                waiting.push_back(connection);
            }
            return false;
        }
        if peer.running.fetch_add(1, Ordering::Relaxed) == 0 {
            self.active.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Gives the thread back; the connection to go on with, if one waits.
    pub fn leave(&self, peer: &Peer) -> Option<u64> {
        let mut waiting = lock(&peer.waiting);
        if peer.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
        waiting.pop_front()
    }

    fn share(&self, active: usize) -> usize {
        (self.threads.saturating_sub(2) / active.max(1)).max(1)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

    #[test]
    fn one_client_leaves_threads_for_another() {
        let peers = Peers::new(16);
        let (a, b) = (peers.get(A), peers.get(B));
        let alone = (0..100).filter(|n| peers.enter(&a, *n)).count();
        assert_eq!(alone, 14);
        assert!(peers.enter(&b, 200));
        // From now on the first gets no thread back until it is down to its half.
        for _ in 0..7 {
            peers.leave(&a);
            assert!(!peers.enter(&a, 1));
        }
        peers.leave(&a);
        assert!(peers.enter(&a, 1));
    }

    #[test]
    fn a_waiting_connection_is_told_when_a_call_ends() {
        let peers = Peers::new(1);
        let a = peers.get(A);
        assert!(peers.enter(&a, 1));
        assert!(!peers.enter(&a, 2));
        assert!(!peers.enter(&a, 2));
        assert_eq!(peers.leave(&a), Some(2));
        assert!(peers.enter(&a, 2));
        assert_eq!(peers.leave(&a), None);
    }

    #[test]
    fn addresses_are_bounded() {
        let peers = Peers::new(4);
        for n in 0..5000 {
            peers.get(Ipv4Addr::from(n));
        }
        assert!(peers.all().len() <= MAX_PEERS);
    }

    #[test]
    fn a_tally_is_taken_once() {
        let peer = Peer::new(A);
        peer.called();
        peer.read(10);
        peer.bad_handle("forged");
        assert_eq!(
            peer.tally(),
            Tally { calls: 1, read_bytes: 10, written_bytes: 0, bad_handles: 1, bad_handle: "forged" }
        );
        assert_eq!(peer.tally(), Tally { bad_handle: "forged", ..Tally::default() });
    }

    #[test]
    fn mounts_are_bounded() {
        let peer = Peer::new(A);
        (0..100).for_each(|n| peer.mounted(&n.to_string()));
        assert_eq!(peer.mounts().len(), MAX_MOUNTS);
        assert!(peer.unmounted("3") && !peer.unmounted("3"));
        assert!(peer.unmounted_all() && !peer.unmounted_all());
    }
}
