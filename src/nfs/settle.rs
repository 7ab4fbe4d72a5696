//! From the journal of a server that was killed to the reply cache of this
//! one. I/O: looks into the trees.
//!
//! Answers are simply remembered again. A call that was begun must be decided
//! before anything else changes the tree, so its client's connections are not
//! read until its trees are there. Silence, not NFS3ERR_JUKEBOX: a Linux client repeats a call that
//! got no answer with the same xid, and one that got JUKEBOX with a new one,
//! which nobody could know again.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nfsserve::nfs::ftype3;
use rustix::io::Errno;

use super::export::Exports;
use super::file::handle_at;
use super::handle::Handle;
use super::intent::{Place, Record, State};
use super::journal::Journal;
use super::reply_cache::{MAX_AGE, ReplyCache};
use crate::directory::Directory;

/// A client whose trees are not there by then (its stick was pulled) is served without.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls that were begun and not answered, and cannot be yet.
#[derive(Debug)]
pub struct Unsettled {
    calls: Mutex<Vec<(u32, Record)>>,
    /// How many: almost always none, and then nobody takes the lock.
    count: AtomicUsize,
    until: Instant,
}

/// What is needed to look and to remember.
pub struct Settle<'a, W> {
    pub exports: &'a Exports,
    pub directory: &'a Directory,
    pub replies: &'a Mutex<ReplyCache<W>>,
    pub journal: &'a Journal,
    pub now: Instant,
}

impl Unsettled {
    /// Takes over what the server before this one left. `uptime` is `now`, in milliseconds since boot.
    pub fn take<W>(left: Vec<(u32, Record)>, replies: &mut ReplyCache<W>, now: Instant, uptime: u64) -> Self {
        let began = |record: &Record| {
            let age = Duration::from_millis(uptime.checked_sub(record.began)?);
            (age <= MAX_AGE).then(|| now.checked_sub(age).unwrap_or(now))
        };
        let mut left: Vec<_> =
            left.into_iter().filter_map(|(slot, record)| Some((began(&record)?, slot, record))).collect();
        left.sort_by_key(|(began, ..)| *began);
        left.iter().for_each(|(_, slot, record)| replies.inherit(now, record.address, *slot));
        let mut calls = Vec::new();
        for (began, slot, record) in left {
            match record.state {
                State::Answered(reply) => replies.answered(began, record.address, record.key, reply),
                // One that is known to be done waits, too: its answer needs the tree.
                State::Done | State::Begun(_) => {
                    replies.undecided(now, record.address, slot);
                    calls.push((slot, record));
                }
            }
        }
        Self { count: AtomicUsize::new(calls.len()), calls: Mutex::new(calls), until: now + PATIENCE }
    }

    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Decides what is open of this client's calls; `false` while its trees are not there.
    pub fn settle<W>(&self, address: Ipv4Addr, with: &Settle<'_, W>) -> bool {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let late = with.now >= self.until;
        calls.retain(|(slot, record)| {
            if record.address != address {
                return true;
            }
            let done = match with.was_done(address, &record.state) {
                Ok(done) => done,
                Err(_) if late => false,
                Err(_) => return true,
            };
            tracing::debug!(%address, procedure = record.key.procedure, done, "a call of the server before");
            let mut replies = with.replies.lock().unwrap_or_else(PoisonError::into_inner);
            if done {
                // In the journal first: this server may be killed, too, and by then the names tell nothing more.
                with.journal.write(*slot, address, record.began, record.key, &State::Done);
                replies.unanswered(with.now, address, record.key, *slot);
            } else {
                with.journal.clear(*slot);
                replies.was_not_done(address, *slot);
            }
            false
        });
        self.count.store(calls.len(), Ordering::Release);
        !calls.iter().any(|(_, record)| record.address == address)
    }
}

/// The tree is not mounted, or cannot be read now.
struct NotThere;

impl<W> Settle<'_, W> {
    fn was_done(&self, address: Ipv4Addr, state: &State) -> Result<bool, NotThere> {
        let client = self.directory.client(address).ok_or(NotThere)?;
        // Also where nothing is to be looked at, the answer needs them.
        self.exports.get(&client.root).and(self.exports.get(&client.boot)).ok_or(NotThere)?;
        let State::Begun(intent) = state else { return Ok(true) };
        let Some(id) = intent.export() else { return Ok(true) };
        let Some(export) = client.exports().find(|export| export.id == id) else {
            // The address is another client's by now.
            return Ok(false);
        };
        let export = self.exports.get(export).ok_or(NotThere)?;
        let look = |place: &Place| -> Result<Option<Handle>, Errno> {
            let directory = export.files.get(&export.root, &place.directory)?;
            match handle_at(directory.fd(), &place.name, id, ftype3::NF3REG) {
                Ok((handle, _)) => Ok(Some(handle)),
                Err(Errno::NOENT) => Ok(None),
                Err(errno) => Err(errno),
            }
        };
        match intent.was_done(look) {
            Ok(done) => Ok(done),
            // The directory went with the server's death: a repeat is told so.
            Err(Errno::STALE | Errno::NOTDIR) => Ok(false),
            Err(_) => Err(NotThere),
        }
    }
}
