//! The reply cache: a repeated call that must not be done twice gets the first
//! one's answer. Pure: the clock is an argument.
//!
//! RFC 1813 §4.5: REMOVE done twice answers NFS3ERR_NOENT the second time. A
//! Linux client repeats a call when its connection broke before the reply came,
//! so an entry is keyed by what survives a reconnect: address, xid, program's
//! procedure and a checksum of the call; never by the connection.
//!
//! Each client has its own entries, so one client's flood pushes out none of
//! another's. The newest also have a slot in the journal (`intent`, `journal`), from
//! which the next server takes them when this one is killed.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use super::rpc::Credentials;

/// A Linux client has at most some hundred calls open, and repeats within a minute.
pub const MAX_ENTRIES_PER_CLIENT: usize = 512;
/// Of them in the journal: the calls that run, and those whose replies may be lost with the
/// sockets' buffers. 128 KiB of memory for a client that changes files, none for others.
pub const SLOTS_PER_CLIENT: usize = 128;
/// Clients with entries; the one heard of longest ago goes first.
pub const MAX_CLIENTS: usize = 256;
/// The longest reply that is remembered, here and in a record of the journal: a CREATE's has about 350 bytes.
pub const MAX_REPLY_BYTES: usize = 900;
/// After this, an equal xid is taken for a new call.
pub const MAX_AGE: Duration = Duration::from_secs(120);

/// One call, recognised again when it is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub xid: u32,
    pub procedure: u32,
    pub checksum: u64,
}

impl Key {
    /// The credentials by what they say: old kernels put another stamp into each repeat.
    pub fn new(xid: u32, procedure: u32, credentials: &Credentials, args: &[u8]) -> Self {
        let mut hasher = SipHasher13::new();
        credentials.hash(&mut hasher);
        hasher.write(args);
        Self { xid, procedure, checksum: hasher.finish() }
    }
}

#[derive(Debug)]
enum Entry<W> {
    /// Being done; whoever repeats it waits for the same answer.
    Running(Vec<W>),
    Done(Box<[u8]>),
    /// Done by a server that was killed before it answered.
    Unanswered(u32),
}

/// Repeats that wait for one running call; more are left to the client's patience.
const MAX_WAITERS: usize = 4;

/// A go at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Its place in the journal.
    pub slot: Option<u32>,
    /// The server before this one did it already: only the answer is missing.
    pub done: bool,
}

/// What to do with a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Do it, then tell `finished`.
    New(Turn),
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
    slots: Slots,
}

/// One client's part of the journal, written round and round but for what is in use.
#[derive(Debug)]
struct Slots {
    region: u32,
    next: u32,
    /// By bit: slots of calls that run, or whose answer is still owed.
    busy: u128,
}

impl Slots {
    fn new(region: u32) -> Self {
        Self { region, next: 0, busy: 0 }
    }

    fn take(&mut self) -> Option<u32> {
        let count = SLOTS_PER_CLIENT as u32;
        let free = (0..count).map(|n| (self.next + n) % count).find(|slot| self.busy >> slot & 1 == 0)?;
        self.busy |= 1 << free;
        self.next = (free + 1) % count;
        Some(self.region * count + free)
    }

    /// Keeps a slot of the server before from being written over.
    fn keep(&mut self, slot: u32) {
        if slot / SLOTS_PER_CLIENT as u32 == self.region {
            self.busy |= 1 << (slot % SLOTS_PER_CLIENT as u32);
        }
    }

    fn free(&mut self, slot: u32) {
        if slot / SLOTS_PER_CLIENT as u32 == self.region {
            self.busy &= !(1 << (slot % SLOTS_PER_CLIENT as u32));
        }
    }
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
        let client = self.client(now, address);
        client.heard = client.heard.max(now);
        client.expire(now);
        match client.entries.get_mut(&key) {
            Some(Entry::Done(reply)) => return Lookup::Repeat(reply.clone()),
            Some(Entry::Running(waiters)) => {
                if waiters.len() < MAX_WAITERS {
                    waiters.push(waiter);
                }
                return Lookup::Running;
            }
            Some(entry @ Entry::Unanswered(_)) => {
                if let Entry::Unanswered(slot) = std::mem::replace(entry, Entry::Running(Vec::new())) {
                    return Lookup::New(Turn { slot: Some(slot), done: true });
                }
            }
            None => {}
        }
        client.entries.insert(key, Entry::Running(Vec::new()));
        client.order.push_back((now, key));
        Lookup::New(Turn { slot: client.slots.take(), done: false })
    }

    /// The call is done: `reply` is kept (unless `keep` is false, for an answer
    /// that a repeat must not get, such as JUKEBOX) and the waiters are given back.
    pub fn finished(&mut self, address: Ipv4Addr, key: Key, turn: Turn, reply: &[u8], keep: bool) -> Vec<W> {
        let Some(client) = self.clients.get_mut(&address) else { return Vec::new() };
        turn.slot.inspect(|slot| client.slots.free(*slot));
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

    /// An answer that the server before this one gave; the oldest first.
    pub fn answered(&mut self, began: Instant, address: Ipv4Addr, key: Key, reply: Box<[u8]>) {
        self.client(began, address).put(began, key, Entry::Done(reply));
    }

    /// A call that the server before this one did and did not answer.
    pub fn unanswered(&mut self, now: Instant, address: Ipv4Addr, key: Key, slot: u32) {
        let client = self.client(now, address);
        client.slots.keep(slot);
        client.put(now, key, Entry::Unanswered(slot));
    }

    /// A call that the server before this one began: its slot is kept while nothing else is known of it.
    pub fn undecided(&mut self, now: Instant, address: Ipv4Addr, slot: u32) {
        self.client(now, address).slots.keep(slot);
    }

    /// The call in this slot was not done: it is as if it had never come.
    pub fn was_not_done(&mut self, address: Ipv4Addr, slot: u32) {
        if let Some(client) = self.clients.get_mut(&address) {
            client.slots.free(slot);
        }
    }

    /// Gives `address` the part of the journal that the server before gave it.
    pub fn inherit(&mut self, now: Instant, address: Ipv4Addr, slot: u32) {
        let region = slot / SLOTS_PER_CLIENT as u32;
        let taken = self.clients.values().any(|client| client.slots.region == region);
        if !taken && !self.clients.contains_key(&address) && self.clients.len() < MAX_CLIENTS {
            self.clients.insert(address, Client::new(now, region));
        }
        if let Some(client) = self.clients.get_mut(&address).filter(|client| client.slots.region == region) {
            // Behind the newest record, which is told last.
            client.slots.next = (slot + 1) % SLOTS_PER_CLIENT as u32;
        }
    }

    /// Whether anything is remembered of this address.
    pub fn knows(&self, address: Ipv4Addr) -> bool {
        self.clients.contains_key(&address)
    }

    fn client(&mut self, now: Instant, address: Ipv4Addr) -> &mut Client<W> {
        if !self.clients.contains_key(&address) && self.clients.len() >= MAX_CLIENTS {
            // One whose calls still run would write into a part of the journal that is another's by then.
            let oldest = |idle: bool| {
                let clients = self.clients.iter().filter(|(_, client)| !idle || client.slots.busy == 0);
                clients.min_by_key(|(_, client)| client.heard).map(|(address, _)| *address)
            };
            oldest(true).or_else(|| oldest(false)).and_then(|address| self.clients.remove(&address));
        }
        if !self.clients.contains_key(&address) {
            let used: std::collections::HashSet<u32> =
                self.clients.values().map(|client| client.slots.region).collect();
            // There are fewer clients than regions, or one has just gone.
            let region = (0..MAX_CLIENTS as u32).find(|region| !used.contains(region)).unwrap_or(0);
            self.clients.insert(address, Client::new(now, region));
        }
        self.clients.entry(address).or_insert_with(|| Client::new(now, 0))
    }
}

impl<W> Client<W> {
    fn new(now: Instant, region: u32) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), heard: now, slots: Slots::new(region) }
    }

    fn put(&mut self, began: Instant, key: Key, entry: Entry<W>) {
        self.expire(began);
        if self.entries.insert(key, entry).is_none() {
            self.order.push_back((began, key));
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((began, key)) = self.order.front() {
            let old = now.saturating_duration_since(*began) > MAX_AGE;
            if !old && self.order.len() < MAX_ENTRIES_PER_CLIENT {
                return;
            }
            if let Some(Entry::Unanswered(slot)) = self.entries.remove(key) {
                self.slots.free(slot);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rpc::AuthSys;
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

    fn key(xid: u32) -> Key {
        Key::new(xid, 12, &Credentials::None, b"args")
    }

    /// The turn of a call that is new.
    fn begin(cache: &mut ReplyCache<()>, now: Instant, address: Ipv4Addr, key: Key) -> Turn {
        match cache.lookup(now, address, key, ()) {
            Lookup::New(turn) => turn,
            other => panic!("{other:?}"),
        }
    }

    fn finish(cache: &mut ReplyCache<()>, now: Instant, address: Ipv4Addr, xid: u32, reply: &[u8]) {
        let turn = begin(cache, now, address, key(xid));
        cache.finished(address, key(xid), turn, reply, true);
    }

    #[test]
    fn a_repeat_gets_the_first_answer() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        finish(&mut cache, now, A, 1, b"done");
        assert_eq!(cache.lookup(now, A, key(1), ()), Lookup::Repeat(b"done"[..].into()));
    }

    #[test]
    fn another_client_xid_procedure_credential_or_argument_is_another_call() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        finish(&mut cache, now, A, 1, b"done");
        let root = Credentials::Sys(AuthSys::new(0, 0, &[]));
        let others = [
            (B, key(1)),
            (A, key(2)),
            (A, Key { procedure: 13, ..key(1) }),
            (A, Key::new(1, 12, &Credentials::None, b"argz")),
            (A, Key::new(1, 12, &root, b"args")),
        ];
        for (address, other) in others {
            begin(&mut cache, now, address, other);
        }
    }

    #[test]
    fn a_repeat_of_a_running_call_waits_for_its_answer() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        let Lookup::New(turn) = cache.lookup(now, A, key(1), "first") else { panic!() };
        assert_eq!(cache.lookup(now, A, key(1), "second"), Lookup::Running);
        assert_eq!(cache.finished(A, key(1), turn, b"done", true), ["second"]);
    }

    #[test]
    fn waiters_are_bounded() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        let turn = begin(&mut cache, now, A, key(1));
        for _ in 0..100 {
            cache.lookup(now, A, key(1), ());
        }
        assert_eq!(cache.finished(A, key(1), turn, b"", true).len(), MAX_WAITERS);
    }

    #[test]
    fn an_answer_that_is_not_kept_is_worked_out_again() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        let turn = begin(&mut cache, now, A, key(1));
        cache.finished(A, key(1), turn, b"try again", false);
        begin(&mut cache, now, A, key(1));
    }

    #[test]
    fn entries_grow_old() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        finish(&mut cache, now, A, 1, b"done");
        begin(&mut cache, now + MAX_AGE + Duration::from_secs(1), A, key(1));
    }

    #[test]
    fn a_flood_stays_bounded_and_pushes_out_only_its_own() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        finish(&mut cache, now, B, 1, b"b");
        for xid in 0..5000 {
            finish(&mut cache, now, A, xid, b"a");
        }
        assert_eq!(cache.clients[&A].entries.len(), MAX_ENTRIES_PER_CLIENT);
        assert_eq!(cache.clients[&A].order.len(), MAX_ENTRIES_PER_CLIENT);
        assert_eq!(cache.lookup(now, B, key(1), ()), Lookup::Repeat(b"b"[..].into()));
    }

    #[test]
    fn clients_are_bounded() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        for n in 0..1000u32 {
            finish(&mut cache, now + Duration::from_millis(n.into()), Ipv4Addr::from(n), 1, b"a");
        }
        assert_eq!(cache.clients.len(), MAX_CLIENTS);
        assert!(cache.knows(Ipv4Addr::from(999)) && !cache.knows(Ipv4Addr::from(0)));
        let mut regions: Vec<_> = cache.clients.values().map(|client| client.slots.region).collect();
        regions.sort_unstable();
        assert_eq!(regions, (0..MAX_CLIENTS as u32).collect::<Vec<_>>());
    }

    #[test]
    fn a_slot_in_use_is_not_written_over() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        let long = begin(&mut cache, now, A, key(1));
        assert_eq!(long.slot, Some(0));
        let mut used = Vec::new();
        for xid in 2..2 + 2 * SLOTS_PER_CLIENT as u32 {
            let turn = begin(&mut cache, now, A, key(xid));
            used.extend(turn.slot);
            cache.finished(A, key(xid), turn, b"", true);
        }
        assert!(used.iter().all(|slot| (1..SLOTS_PER_CLIENT as u32).contains(slot)));
        cache.finished(A, key(1), long, b"", true);
        // More at once than there are slots run without one.
        let running: Vec<_> = (1000..1200).map(|xid| begin(&mut cache, now, A, key(xid)).slot).collect();
        assert_eq!(running.iter().flatten().count(), SLOTS_PER_CLIENT);
        // The next client's are its own.
        assert_eq!(begin(&mut cache, now, B, key(1)).slot, Some(SLOTS_PER_CLIENT as u32));
    }

    #[test]
    fn the_next_server_knows_what_was_answered_and_what_was_done() {
        let (mut cache, now) = (ReplyCache::default(), Instant::now());
        let slot = 5 * SLOTS_PER_CLIENT as u32;
        cache.inherit(now, A, slot);
        cache.inherit(now, A, slot + 1);
        cache.answered(now, A, key(1), b"done"[..].into());
        cache.unanswered(now, A, key(2), slot + 2);
        cache.undecided(now, A, slot + 3);
        assert_eq!(cache.lookup(now, A, key(1), ()), Lookup::Repeat(b"done"[..].into()));
        // Neither the slot of the unanswered call nor that of the undecided one is used.
        assert_eq!(begin(&mut cache, now, A, key(3)).slot, Some(slot + 4));
        let turn = begin(&mut cache, now, A, key(2));
        assert_eq!(turn, Turn { slot: Some(slot + 2), done: true });
        // Once only: from then on it runs as any call.
        assert_eq!(cache.lookup(now, A, key(2), ()), Lookup::Running);
        cache.finished(A, key(2), turn, b"ok", true);
        assert_eq!(cache.lookup(now, A, key(2), ()), Lookup::Repeat(b"ok"[..].into()));
        cache.was_not_done(A, slot + 3);
        assert_eq!(cache.clients[&A].slots.busy.count_ones(), 1);
    }

    #[test]
    fn an_owed_answer_that_nobody_asks_for_grows_old() {
        let (mut cache, now) = (ReplyCache::<()>::default(), Instant::now());
        cache.inherit(now, A, 0);
        cache.unanswered(now, A, key(2), 0);
        let turn = begin(&mut cache, now + MAX_AGE + Duration::from_secs(1), A, key(2));
        assert!(!turn.done);
    }
}
