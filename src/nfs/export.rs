//! The mounted trees behind the exports: opened once, checked to be the mount
//! and not the empty directory below it, let go when they change. I/O.
//!
//! A stick may be pulled and put back while clients run. So a tree that is
//! in the published directory but not mounted is no error: its calls get
//! NFS3ERR_JUKEBOX and the clients wait. The mount is recognised by its id and
//! by being the root of a mount, whatever file system the store put there.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nfsserve::nfs::nfsstat3;
use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::errors::status;
use super::file::{Budget, FileCache};
use super::kernel_log::KernelLog;
use super::listing::Listings;
use crate::directory::{Directory, Export, Served};
use crate::ext4;
use crate::quota::Account;

/// Locks that order changes of one tree's files among themselves.
const STRIPES: usize = 64;

/// For so long after the first one, an I/O error of a tree is answered with
/// JUKEBOX: a pulled stick shows itself by I/O errors before the store hears
/// of it and unmounts. A bad block is told to the client when this has passed.
const GRACE: Duration = Duration::from_secs(10);

/// What tells one mount from the next at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MountId {
    mount: u64,
    device: (u32, u32),
}

/// One export whose tree is mounted.
#[derive(Debug)]
pub struct OpenExport {
    pub id: u32,
    pub read_only: bool,
    pub account: Option<Arc<Account>>,
    /// The root of the tree, opened for reading: `open_by_handle_at` wants a real descriptor.
    pub root: OwnedFd,
    pub root_fileid: u64,
    pub files: FileCache,
    pub listings: Listings,
    directory: PathBuf,
    mount: MountId,
    /// Changes with each opening, and when written data may be lost: half of the write verifier.
    generation: AtomicU64,
    /// Counts what may have changed attributes of any file.
    changes: AtomicU64,
    stripes: [Mutex<()>; STRIPES],
    trouble: Mutex<Option<Instant>>,
    log: Arc<KernelLog>,
    /// The news of the kernel's log behind which the journal was last seen to run.
    sound: AtomicU64,
}

impl OpenExport {
    fn open(export: &Export, generation: u64, budget: &Arc<Budget>, log: &Arc<KernelLog>) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(&export.directory, flags, Mode::empty())?;
        let (mount, root_fileid) = mount_id(&root, Path::new(""))?;
        Ok(Self {
            id: export.id,
            read_only: export.read_only,
            account: export.account.clone(),
            root,
            root_fileid,
            files: FileCache::new(budget.clone()),
            listings: Listings::default(),
            directory: export.directory.clone(),
            mount,
            generation: AtomicU64::new(generation),
            changes: AtomicU64::new(0),
            stripes: std::array::from_fn(|_| Mutex::new(())),
            trouble: Mutex::new(None),
            log: log.clone(),
            sound: AtomicU64::new(u64::MAX),
        })
    }

    /// Whether this is still what is mounted there.
    fn is_current(&self) -> bool {
        mount_id(rustix::fs::CWD, &self.directory).is_ok_and(|(mount, _)| mount == self.mount)
    }

    /// Whether a `mount_id` that `name_to_handle_at` told is this tree's.
    pub fn is_mount(&self, mount_id: i32) -> bool {
        u64::try_from(mount_id).is_ok_and(|id| id == self.mount.mount)
    }

    /// Orders changes of one file: attributes before, the change and
    /// attributes after are one step, which is what `wcc_data` promises.
    pub fn lock(&self, file: impl Hash) -> MutexGuard<'_, ()> {
        self.stripes[stripe(file)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for two files at once (RENAME, LINK), always in the same order.
    pub fn lock_two(&self, a: impl Hash, b: impl Hash) -> (MutexGuard<'_, ()>, Option<MutexGuard<'_, ()>>) {
        let (a, b) = (stripe(a), stripe(b));
        let lock = |n: usize| self.stripes[n].lock().unwrap_or_else(PoisonError::into_inner);
        (lock(a.min(b)), (a != b).then(|| lock(a.max(b))))
    }

    /// Attributes that were read at this count are good while it stands: every change by a
    /// client counts as it begins and as it ends, and each sweep does, for what others change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Data that was written UNSTABLE may be gone: clients must send it again.
    fn lost_data(&self) {
        self.generation.fetch_add(1 << 32, Ordering::Relaxed);
    }

    /// Whether a change can still reach the stick; looked at before each change behind an I/O error, since a call that
    /// failed and is asked again may find in memory what it did the first time, and be told EXIST or NOENT of it.
    pub fn takes_changes(&self, now: Instant) -> bool {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(since) = *trouble else { return true };
        let sound = ext4::journal_runs(&self.root);
        if sound && now.saturating_duration_since(since) > 6 * GRACE {
            *trouble = None;
        }
        sound
    }

    /// What an fsync of a file of this tree said, and whether that is to be believed.
    ///
    /// ext4 says of what has nothing left to commit that it is on the stick, though the commit may have failed and its
    /// journal be aborted (Linux 6.1 and 6.18: fs/jbd2/journal.c, `__jbd2_journal_force_commit` and
    /// `jbd2_complete_transaction`): another call's fsync, or the kernel's own timer, had asked for it and heard of
    /// it. An EXCLUSIVE CREATE was acknowledged and lost that way (tests/stick, 2026-11-29). By the time that such an
    /// fsync answers, the kernel's log says so, and the journal refuses to begin anything: so both are asked, the
    /// journal only where there is news.
    pub fn synced(&self, result: Result<(), Errno>) -> Result<(), Errno> {
        result?;
        let news = self.log.news();
        if news.is_some_and(|news| self.sound.load(Ordering::SeqCst) == news) {
            return Ok(());
        }
        if !ext4::journal_runs(&self.root) {
            return Err(Errno::ROFS);
        }
        // The news is older than the look: what was said in between is news to the next call.
        news.iter().for_each(|news| self.sound.store(*news, Ordering::SeqCst));
        Ok(())
    }

    /// Answers JUKEBOX for an I/O error while it may be a pulled stick.
    fn trouble(&self, now: Instant, errno: Errno) -> nfsstat3 {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *trouble.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        if passed < GRACE {
            return nfsstat3::NFS3ERR_JUKEBOX;
        }
        if passed > 6 * GRACE {
            // Another incident, with a grace of its own.
            *trouble = None;
        }
        status(errno)
    }
}

fn stripe(file: impl Hash) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    file.hash(&mut hasher);
    hasher.finish() as usize % STRIPES
}

/// The mount at `path` below `from`, and the inode number of its root. ENODEV
/// where no file system is mounted.
fn mount_id(from: impl std::os::fd::AsFd, path: &Path) -> Result<(MountId, u64), Errno> {
    let flags = if path.as_os_str().is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    let statx = rustix::fs::statx(from, path, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    if !statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Errno::NODEV);
    }
    let device = (statx.stx_dev_major, statx.stx_dev_minor);
    Ok((MountId { mount: statx.stx_mnt_id, device }, statx.stx_ino))
}

/// All trees that are open.
#[derive(Debug)]
pub struct Exports {
    open: RwLock<HashMap<u32, Arc<OpenExport>>>,
    generation: AtomicU64,
    budget: Arc<Budget>,
    log: Arc<KernelLog>,
}

impl Exports {
    /// `verifier` is new at each start of the server.
    pub fn new(verifier: u64, budget: Budget) -> Self {
        Self {
            open: RwLock::default(),
            generation: AtomicU64::new(verifier),
            budget: Arc::new(budget),
            log: Arc::new(KernelLog::open()),
        }
    }

    /// The tree of `export`, opened if need be; `None` while it is not mounted.
    pub fn get(&self, export: &Export) -> Option<Arc<OpenExport>> {
        let is_of = |open: &OpenExport| {
            let same = |open: &OpenExport| (&open.directory, open.read_only) == (&export.directory, export.read_only);
            same(open) && open.account == export.account
        };
        if let Some(open) = self.read().get(&export.id).filter(|open| is_of(open)) {
            return Some(open.clone());
        }
        let mut all = self.write();
        if let Some(open) = all.get(&export.id).filter(|open| is_of(open)) {
            return Some(open.clone());
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let opened = OpenExport::open(export, generation, &self.budget, &self.log);
        match opened {
            Ok(open) => {
                let open = Arc::new(open);
                all.insert(export.id, open.clone());
                Some(open)
            }
            Err(errno) => {
                tracing::debug!(export = %export.path, %errno, "the tree is not mounted");
                all.remove(&export.id);
                None
            }
        }
    }

    /// What the client is told for an error of its tree: JUKEBOX where the tree
    /// itself is the trouble. `written` says that the error lost written data.
    pub fn failed(&self, open: &OpenExport, errno: Errno, written: bool) -> nfsstat3 {
        if written {
            open.lost_data();
        }
        match errno {
            Errno::STALE | Errno::IO | Errno::NXIO | Errno::NODEV | Errno::ROFS | Errno::NOTCONN => {
                if !open.is_current() {
                    self.forget(open);
                    return nfsstat3::NFS3ERR_JUKEBOX;
                }
                match errno {
                    Errno::IO => open.trouble(Instant::now(), errno),
                    // ext4 turns read-only when its device goes: not what the directory says.
                    Errno::ROFS if !open.read_only => open.trouble(Instant::now(), errno),
                    _ => status(errno),
                }
            }
            _ => status(errno),
        }
    }

    /// Lets go of every tree that is not in `directory` any more, or not
    /// mounted any more, and of files and listings that rest. Called a few times a second, so
    /// that the store can unmount what it no longer publishes.
    pub fn sweep(&self, directory: &Directory, now: Instant) {
        let open: Vec<_> = self.read().values().cloned().collect();
        for open in open {
            let published = directory
                .clients
                .iter()
                .flat_map(Served::exports)
                .any(|export| export.id == open.id && export.directory == open.directory);
            if published && open.is_current() {
                open.changed();
                open.files.sweep(now);
                open.listings.sweep(now);
            } else {
                self.forget(&open);
            }
        }
    }

    /// Lets go of all trees now: they are opened again when a call needs them.
    pub fn release(&self) {
        self.write().clear();
    }

    fn forget(&self, open: &OpenExport) {
        self.write().retain(|_, other| !std::ptr::eq(Arc::as_ptr(other), open));
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<u32, Arc<OpenExport>>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<u32, Arc<OpenExport>>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Tree;

    fn export(directory: &Path) -> Export {
        Export {
            id: 2,
            path: "/x".into(),
            directory: directory.into(),
            tree: Tree::Root,
            read_only: false,
            account: None,
        }
    }

    #[test]
    fn the_empty_directory_below_a_mount_is_not_served() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Exports::new(1, Budget::new(1 << 30, 1024)).get(&export(directory.path())).is_none());
    }

    #[test]
    fn an_io_error_makes_the_client_wait_before_it_is_told() {
        // `/proc` is a mount wherever tests run.
        let exports = Exports::new(1, Budget::new(1 << 30, 1024));
        let open = exports.get(&export(Path::new("/proc"))).unwrap();
        let (start, later) = (Instant::now(), Instant::now() + GRACE + Duration::from_secs(1));
        assert_eq!(open.trouble(start, Errno::IO) as u32, nfsstat3::NFS3ERR_JUKEBOX as u32);
        assert_eq!(open.trouble(later, Errno::IO) as u32, nfsstat3::NFS3ERR_IO as u32);
    }

    #[test]
    fn behind_an_error_a_tree_is_looked_at_until_that_is_long_ago() {
        let exports = Exports::new(1, Budget::new(1 << 30, 1024));
        let open = exports.get(&export(Path::new("/proc"))).unwrap();
        let (start, later) = (Instant::now(), Instant::now() + 7 * GRACE);
        assert!(open.takes_changes(start));
        open.trouble(start, Errno::IO);
        assert!(open.takes_changes(start) && open.trouble.lock().unwrap().is_some(), "it is looked at again");
        assert!(open.takes_changes(later) && open.trouble.lock().unwrap().is_none(), "it is over");
    }

    #[test]
    fn a_tree_that_is_no_longer_published_is_let_go() {
        let exports = Exports::new(1, Budget::new(1 << 30, 1024));
        exports.get(&export(Path::new("/proc"))).unwrap();
        exports.sweep(&Directory::default(), Instant::now());
        assert!(exports.read().is_empty());
    }

    #[test]
    fn lost_data_and_a_new_opening_change_the_verifier() {
        let exports = Exports::new(1, Budget::new(1 << 30, 1024));
        let first = exports.get(&export(Path::new("/proc"))).unwrap();
        let before = first.generation();
        exports.failed(&first, Errno::NOSPC, true);
        assert_ne!(first.generation(), before);
        exports.release();
        let second = exports.get(&export(Path::new("/proc"))).unwrap();
        assert_ne!(second.generation(), before);
    }
}
