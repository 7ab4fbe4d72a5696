//! The reply cache: a repeated call that must not be done twice gets the first
//! one's answer. Pure: the clock is an argument.
//!
//! RFC 1813 §4.5: REMOVE done twice answers NFS3ERR_NOENT the second time. A
//! Linux client repeats a call when its connection broke before the reply came,
//! so an entry is keyed by what survives a reconnect: address, xid, program's
//! procedure and a checksum of the call; never by the connection.
//!
//! Each client has its own entries, so one client's flood pushes out none of
//! another's. Lost when the server dies: see the module's docs.

use std::collections::{HashMap, VecDeque};
use std::hash::Hasher;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

/// A Linux client has at most some hundred calls open, and repeats within a minute.
pub const MAX_ENTRIES_PER_CLIENT: usize = 512;
/// Clients with entries; the one heard of longest ago goes first.
pub const MAX_CLIENTS: usize = 256;
/// Replies to keep: the longest that is cached is a CREATE's of about 350 bytes.
pub const MAX_REPLY_BYTES: usize = 1024;
/// After this, an equal xid is taken for a new call.
pub const MAX_AGE: Duration = Duration::from_secs(120);

/// One call, recognised again when it is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    xid: u32,
    procedure: u32,
    checksum: u64,
}

impl Key {
    /// `call` is the record from its credentials on: ids and arguments.
    pub fn new(xid: u32, procedure: u32, call: &[u8]) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(call);
        Self { xid, procedure, checksum: hasher.finish() }
    }
}

#[derive(Debug)]
enum Entry<W> {
    /// Being done; whoever repeats it waits for the same answer.
    Running(Vec<W>),
    Done(Box<[u8]>),
}

/// Repeats that wait for one running call; more are left to the client's patience.
const MAX_WAITERS: usize = 4;

/// What to do with a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Do it, then tell `finished`.
    New,
    /// It is being done: `finished` will give its reply to the waiter.
    Running,
    /// Send this again.
    Repeat(Box<[u8]>),
}

#[derive(Debug)]
struct Client<W> {
    entries: HashMap<Key, Entry<W>>,
    /// Oldest first, each with when it began.
    order: VecDeque<(Instant, Key)>,
    heard: Instant,
}

/// `W` is how a waiter is reached.
#[derive(Debug)]
pub struct ReplyCache<W> {
    clients: HashMap<Ipv4Addr, Client<W>>,
}

impl<W> Default for ReplyCache<W> {
    fn default() -> Self {
        Self { clients: HashMap::new() }
    }
}

impl<W> ReplyCache<W> {
    pub fn lookup(&mut self, now: Instant, address: Ipv4Addr, key: Key, waiter: W) -> Lookup {
        if !self.clients.contains_key(&address) && self.clients.len() >= MAX_CLIENTS {
            let oldest = self.clients.iter().min_by_key(|(_, client)| client.heard).map(|(address, _)| *address);
            oldest.and_then(|address| self.clients.remove(&address));
        }
        let client = self.clients.entry(address).or_insert_with(|| Client {
            entries: HashMap::new(),
            order: VecDeque::new(),
            heard: now,
        });
        client.heard = now;
        client.expire(now);
        match client.entries.get_mut(&key) {
            Some(Entry::Done(reply)) => return Lookup::Repeat(reply.clone()),
            Some(Entry::Running(waiters)) => {
                if waiters.len() < MAX_WAITERS {
                    waiters.push(waiter);
                }
                return Lookup::Running;
            }
            None => {}
        }
        client.entries.insert(key, Entry::Running(Vec::new()));
        client.order.push_back((now, key));
        Lookup::New
    }

    /// The call is done: `reply` is kept (unless `keep` is false, for an answer
    /// that a repeat must not get, such as JUKEBOX) and the waiters are given back.
    pub fn finished(&mut self, address: Ipv4Addr, key: Key, reply: &[u8], keep: bool) -> Vec<W> {
        let Some(client) = self.clients.get_mut(&address) else { return Vec::new() };
        let before = if keep && reply.len() <= MAX_REPLY_BYTES {
            // Pushed out meanwhile: then it is not put back, or it would never expire.
            client.entries.get_mut(&key).map(|entry| std::mem::replace(entry, Entry::Done(reply.into())))
        } else {
            client.order.retain(|(_, other)| *other != key);
            client.entries.remove(&key)
        };
        match before {
            Some(Entry::Running(waiters)) => waiters,
            _ => Vec::new(),
        }
    }
}

impl<W> Client<W> {
    fn expire(&mut self, now: Instant) {
        while let Some((began, key)) = self.order.front() {
            let old = now.saturating_duration_since(*began) > MAX_AGE;
            if !old && self.order.len() < MAX_ENTRIES_PER_CLIENT {
                return;
            }
            self.entries.remove(key);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

    fn key(xid: u32) -> Key {
        Key::new(xid, 12, b"args")
    }

    #[test]
    fn a_repeat_gets_the_first_answer() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        assert_eq!(cache.lookup(now, A, key(1), ()), Lookup::New);
        cache.finished(A, key(1), b"done", true);
        assert_eq!(cache.lookup(now, A, key(1), ()), Lookup::Repeat(b"done"[..].into()));
    }

    #[test]
    fn another_client_xid_procedure_or_argument_is_another_call() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        cache.lookup(now, A, key(1), ());
        for (address, other) in [(B, key(1)), (A, key(2)), (A, Key::new(1, 13, b"args")), (A, Key::new(1, 12, b"argz"))]
        {
            assert_eq!(cache.lookup(now, address, other, ()), Lookup::New);
        }
    }

    #[test]
    fn a_repeat_of_a_running_call_waits_for_its_answer() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        cache.lookup(now, A, key(1), "first");
        assert_eq!(cache.lookup(now, A, key(1), "second"), Lookup::Running);
        assert_eq!(cache.finished(A, key(1), b"done", true), ["second"]);
    }

    #[test]
    fn waiters_are_bounded() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        for n in 0..100 {
            cache.lookup(now, A, key(1), n);
        }
        assert_eq!(cache.finished(A, key(1), b"", true).len(), MAX_WAITERS);
    }

    #[test]
    fn an_answer_that_is_not_kept_is_worked_out_again() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        cache.lookup(now, A, key(1), ());
        cache.finished(A, key(1), b"try again", false);
        assert_eq!(cache.lookup(now, A, key(1), ()), Lookup::New);
    }

    #[test]
    fn entries_grow_old() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        cache.lookup(now, A, key(1), ());
        cache.finished(A, key(1), b"done", true);
        assert_eq!(cache.lookup(now + MAX_AGE + Duration::from_secs(1), A, key(1), ()), Lookup::New);
    }

    #[test]
    fn a_flood_stays_bounded_and_pushes_out_only_its_own() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        cache.lookup(now, B, key(1), ());
        cache.finished(B, key(1), b"b", true);
        for xid in 0..5000 {
            cache.lookup(now, A, key(xid), ());
            cache.finished(A, key(xid), b"a", true);
        }
        assert_eq!(cache.clients[&A].entries.len(), MAX_ENTRIES_PER_CLIENT);
        assert_eq!(cache.clients[&A].order.len(), MAX_ENTRIES_PER_CLIENT);
        assert_eq!(cache.lookup(now, B, key(1), ()), Lookup::Repeat(b"b"[..].into()));
    }

    #[test]
    fn clients_are_bounded() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        for n in 0..1000u32 {
            cache.lookup(now + Duration::from_millis(n.into()), Ipv4Addr::from(n), key(1), ());
        }
        assert_eq!(cache.clients.len(), MAX_CLIENTS);
        assert!(cache.clients.contains_key(&Ipv4Addr::from(999)));
    }
}
