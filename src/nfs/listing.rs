//! Directory listings with cookies that stay valid (RFC 1813 §3.3.16).
//!
//! The cookie of an entry is a keyed hash of its name, and entries are listed
//! in the order of their cookies. So a cookie means the same place for ever:
//! while entries come and go, after a restart, and when the directory changes
//! its nature. The kernel's own offsets do not do that on an overlay: a directory
//! that lies in both layers counts its entries (1, 2, 3, …: measured
//! 2026-11-22), so after `unlink` of the third all later ones move, and a directory
//! that the first `unlink` copies up changes from hashes to counting between
//! two calls of one `rm -rf`. The key is secret: no client can make names collide.
//!
//! A listing is read whole into a window of bounded size, in order; a directory too large for
//! it is read again for each window. Windows are kept for the calls that
//! follow, and read anew when the directory's times changed. Pure, but for the lock.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use super::handle::{Handle, Wire};
use crate::directory::HandleKey;

pub const COOKIE_DOT: u64 = 1;
pub const COOKIE_DOT_DOT: u64 = 2;
/// Cookies of entries: above the two above, and below 2^63, since clients hand them on as signed file offsets.
const FIRST_COOKIE: u64 = 3;

/// A window's size in memory: some 20,000 entries with names of 20 bytes.
pub const WINDOW_BYTES: usize = 4 << 20;
/// Of all windows kept for one tree.
const MAX_BYTES: usize = 2 * WINDOW_BYTES;
const MAX_WINDOWS: usize = 16;
const MAX_REST: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    cookie: u64,
    fileid: u64,
    name: u32,
    length: u8,
}

/// One entry as it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    pub cookie: u64,
    pub fileid: u64,
    pub name: &'a [u8],
    /// Its place in what `Window::known` lends.
    pub place: usize,
}

/// What READDIRPLUS found out of an entry. As long as the directory's times stand the name is
/// that file's, and the handle is good; the attributes are while nothing changed in the tree.
#[derive(Debug, Clone)]
pub struct Known {
    pub fileid: u64,
    pub wire: Wire,
    /// By `OpenExport::changes`, before they were read.
    pub changes: u64,
    /// `post_op_attr` as it is sent.
    pub attributes: [u8; POST_OP_ATTR],
}

/// The bytes of a `post_op_attr` with attributes.
pub const POST_OP_ATTR: usize = 88;

/// The directory's times when it was read: seconds and nanoseconds of mtime and ctime.
pub type Stamp = [i64; 4];

/// The entries of a directory whose cookies lie in `(after, last]`, in order.
#[derive(Debug)]
pub struct Window {
    after: u64,
    /// No entry of the directory comes behind it.
    complete: bool,
    stamp: Stamp,
    entries: Vec<Entry>,
    names: Vec<u8>,
    /// One for each entry; empty until the first is needed.
    known: Mutex<Vec<Option<Known>>>,
    /// No change can have come after it was read that left the directory's times as they are.
    settled: bool,
}

impl Window {
    /// The entries behind `cookie`.
    pub fn behind(&self, cookie: u64) -> impl Iterator<Item = Listed<'_>> {
        let start = self.entries.partition_point(|entry| entry.cookie <= cookie);
        self.entries.iter().enumerate().skip(start).map(|(place, entry)| Listed {
            cookie: entry.cookie,
            fileid: entry.fileid,
            name: name(&self.names, entry),
            place,
        })
    }

    /// What is known of the entries, to be used and added to; `None` where a name may have got
    /// another file since, unseen.
    pub fn known(&self) -> Option<MutexGuard<'_, Vec<Option<Known>>>> {
        let mut known = self.settled.then(|| self.known.lock().unwrap_or_else(PoisonError::into_inner))?;
        if known.is_empty() {
            known.resize(self.entries.len(), None);
        }
        Some(known)
    }

    /// Whether the directory ends with this window.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn size(&self) -> usize {
        self.names.len() + self.entries.len() * ENTRY_BYTES
    }

    fn answers(&self, cookie: u64, stamp: Stamp) -> bool {
        let reaches = self.complete || self.entries.last().is_some_and(|last| last.cookie > cookie);
        // A listing from the start shows every change that came before it.
        let fresh = self.settled || cookie > COOKIE_DOT_DOT;
        self.stamp == stamp && self.after <= cookie && reaches && fresh
    }
}

fn name<'a>(names: &'a [u8], entry: &Entry) -> &'a [u8] {
    let start = entry.name as usize;
    names.get(start..start + usize::from(entry.length)).unwrap_or_default()
}

/// Makes a window of entries that come in any order.
#[derive(Debug)]
pub struct Builder {
    key: HandleKey,
    window: Window,
    bytes: usize,
    /// Entries with higher cookies are left to the next window.
    limit: u64,
}

impl Builder {
    /// For the entries behind `after`, as many as fit into `bytes`.
    /// `now` is the time of day, as seconds and nanoseconds, before the directory was read.
    pub fn new(key: &HandleKey, after: u64, stamp: Stamp, now: [i64; 2], bytes: usize) -> Self {
        let window = Window {
            after,
            complete: true,
            stamp,
            entries: Vec::new(),
            names: Vec::new(),
            known: Mutex::default(),
            settled: is_settled(stamp, now),
        };
        Self { key: key.clone(), window, bytes, limit: u64::MAX }
    }

    /// Takes one entry; "." and ".." are not for here.
    pub fn add(&mut self, name: &[u8], fileid: u64) {
        let cookie = cookie(&self.key, name);
        if cookie <= self.window.after {
            return;
        }
        if cookie > self.limit {
            self.window.complete = false;
            return;
        }
        let start = self.window.names.len() as u32;
        self.window.names.extend_from_slice(name);
        self.window.entries.push(Entry { cookie, fileid, name: start, length: name.len() as u8 });
        if self.window.size() > 2 * self.bytes {
            self.shrink();
        }
    }

    pub fn finish(mut self) -> Window {
        if self.window.size() > self.bytes {
            self.shrink();
        } else {
            self.window.entries.sort_unstable_by_key(|entry| entry.cookie);
        }
        self.window
    }

    /// Keeps the lowest cookies that fit.
    fn shrink(&mut self) {
        let window = &mut self.window;
        window.entries.sort_unstable_by_key(|entry| entry.cookie);
        let mut names = Vec::new();
        let mut kept = 0;
        for entry in &mut window.entries {
            let old = name(&window.names, entry);
            let size = names.len() + old.len() + (kept + 1) * ENTRY_BYTES;
            // At least one, or the listing would never go on.
            if kept > 0 && size > self.bytes {
                break;
            }
            entry.name = names.len() as u32;
            names.extend_from_slice(old);
            kept += 1;
        }
        window.entries.truncate(kept);
        window.names = names;
        window.complete = false;
        self.limit = window.entries.last().map_or(u64::MAX, |last| last.cookie);
    }
}

/// An entry, and what may be known of it.
const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<Option<Known>>();

/// A file system's clock may tick only every 10 ms: what changes in the same tick
/// as the last change leaves no trace in the times. Later than that, every change does.
const TICK_NANOSECONDS: i128 = 50_000_000;

fn is_settled([_, _, seconds, nanoseconds]: Stamp, now: [i64; 2]) -> bool {
    let total = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    total(now[0], now[1]) - total(seconds, nanoseconds) > TICK_NANOSECONDS
}

fn cookie(key: &HandleKey, name: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&key.0);
    hasher.write(name);
    (hasher.finish() >> 1).max(FIRST_COOKIE)
}

/// The windows of one tree that are kept.
#[derive(Debug, Default)]
pub struct Listings {
    windows: Mutex<HashMap<Handle, (Instant, Arc<Window>)>>,
}

impl Listings {
    /// The window that answers a call for what is behind `cookie`, if it is kept and still true.
    pub fn get(&self, now: Instant, directory: &Handle, cookie: u64, stamp: Stamp) -> Option<Arc<Window>> {
        let mut windows = self.lock();
        let (used, window) = windows.get_mut(directory)?;
        window.answers(cookie, stamp).then(|| {
            *used = now;
            window.clone()
        })
    }

    pub fn keep(&self, now: Instant, directory: Handle, window: Arc<Window>) {
        let mut windows = self.lock();
        windows.remove(&directory);
        let mut bytes: usize = window.size() + windows.values().map(|(_, window)| window.size()).sum::<usize>();
        while windows.len() >= MAX_WINDOWS || bytes > MAX_BYTES {
            let oldest = windows.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            let Some((_, gone)) = oldest.and_then(|key| windows.remove(&key)) else { break };
            bytes -= gone.size();
        }
        windows.insert(directory, (now, window));
    }

    /// Lets go of windows that nobody asked for lately.
    pub fn sweep(&self, now: Instant) {
        self.lock().retain(|_, (used, _)| now.saturating_duration_since(*used) < MAX_REST);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Handle, (Instant, Arc<Window>)>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfsserve::nfs::ftype3;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const KEY: HandleKey = HandleKey([3; 16]);

    fn window(names: &BTreeSet<String>, after: u64, bytes: usize) -> Window {
        let mut builder = Builder::new(&KEY, after, [0; 4], [0; 2], bytes);
        names.iter().for_each(|name| builder.add(name.as_bytes(), name.len() as u64));
        builder.finish()
    }

    fn numbered(count: usize) -> BTreeSet<String> {
        (0..count).map(|n| format!("file-{n}")).collect()
    }

    /// Lists all of `names`, `page` entries a call; `between` may change them.
    fn list(
        names: &mut BTreeSet<String>,
        page: usize,
        bytes: usize,
        mut between: impl FnMut(&mut BTreeSet<String>),
    ) -> Vec<String> {
        let (mut cookie, mut found) = (0, Vec::new());
        loop {
            let window = window(names, cookie, bytes);
            let mut listed = 0;
            for entry in window.behind(cookie).take(page) {
                found.push(String::from_utf8(entry.name.to_vec()).unwrap());
                cookie = entry.cookie;
                listed += 1;
            }
            if window.is_complete() && window.behind(cookie).next().is_none() {
                return found;
            }
            assert!(listed > 0, "the listing does not go on");
            between(names);
        }
    }

    #[test]
    fn removing_what_was_listed_skips_nothing() {
        let mut names = numbered(500);
        let mut all: Vec<String> = names.iter().cloned().collect();
        let mut seen = BTreeSet::new();
        let mut found = list(&mut names, 7, WINDOW_BYTES, |names| {
            // Remove every second one, listed or not.
            let victim = names.iter().find(|name| !seen.contains(*name)).cloned();
            if let Some(victim) = victim.filter(|_| names.len() > 400) {
                seen.insert(victim.clone());
                names.remove(&victim);
            }
        });
        found.sort();
        all.retain(|name| !seen.contains(name) || found.contains(name));
        assert_eq!(found, all);
    }

    #[test]
    fn a_directory_larger_than_a_window_is_listed_whole() {
        let mut names = numbered(2000);
        let mut found = list(&mut names, 100, 4096, |_| {});
        found.sort();
        assert_eq!(found, names.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_window_stays_in_its_bound() {
        let window = window(&numbered(5000), 0, 8192);
        assert!(window.names.len() + window.entries.len() * size_of::<Entry>() <= 8192);
        assert!(!window.is_complete());
    }

    #[test]
    fn cookies_are_above_the_dots_and_fit_a_signed_offset() {
        for name in numbered(1000) {
            let cookie = cookie(&KEY, name.as_bytes());
            assert!(cookie > COOKIE_DOT_DOT && cookie < 1 << 63);
        }
    }

    #[test]
    fn kept_windows_are_bounded_and_not_used_after_a_change() {
        let (listings, now) = (Listings::default(), Instant::now());
        let directory = |n: u8| Handle::new(1, 1, ftype3::NF3DIR, &[n]).unwrap();
        for n in 0..20 {
            listings.keep(now, directory(n), Arc::new(window(&numbered(3), 0, WINDOW_BYTES)));
        }
        assert_eq!(listings.lock().len(), MAX_WINDOWS);
        let kept = *listings.lock().keys().next().unwrap();
        assert!(listings.get(now, &kept, COOKIE_DOT_DOT + 1, [0; 4]).is_some());
        assert!(listings.get(now, &kept, COOKIE_DOT_DOT + 1, [1; 4]).is_none());
        listings.sweep(now + MAX_REST);
        assert!(listings.lock().is_empty());
    }

    #[test]
    fn kept_windows_are_bounded_in_bytes() {
        let (listings, now) = (Listings::default(), Instant::now());
        let large = Arc::new(window(&numbered(50_000), 0, WINDOW_BYTES));
        for n in 0..5 {
            listings.keep(now, Handle::new(1, 1, ftype3::NF3DIR, &[n]).unwrap(), large.clone());
        }
        assert_eq!(listings.lock().len(), MAX_BYTES / WINDOW_BYTES);
    }

    #[test]
    fn a_listing_from_the_start_is_kept_only_if_no_change_can_be_hidden() {
        let check = |now: [i64; 2], expected: bool| {
            let stamp = [100, 0, 100, 0];
            let window = Builder::new(&KEY, 0, stamp, now, WINDOW_BYTES).finish();
            assert_eq!(window.answers(0, stamp), expected, "{now:?}");
            assert_eq!(window.known().is_some(), expected, "{now:?}");
        };
        check([100, 10_000_000], false);
        check([100, 60_000_000], true);
        // The clock was set back.
        check([99, 0], false);
    }

    proptest! {
        #[test]
        fn every_name_that_stays_is_listed_once(
            stays in proptest::collection::btree_set("[a-z]{1,6}", 0..60),
            goes in proptest::collection::btree_set("[A-Z]{1,6}", 0..60),
            page in 1usize..10, bytes in 64usize..4096,
        ) {
            let mut names: BTreeSet<String> = stays.union(&goes).cloned().collect();
            let found = list(&mut names, page, bytes, |names| {
                if let Some(first) = names.iter().find(|name| goes.contains(*name)).cloned() {
                    names.remove(&first);
                }
            });
            let mut kept: Vec<String> = found.into_iter().filter(|name| stays.contains(name)).collect();
            kept.sort();
            prop_assert_eq!(kept, stays.into_iter().collect::<Vec<_>>());
        }
    }
}
