//! The ext4 that a tarball's files go into, mounted while it is filled.
//!
//! I/O. The file is sparse: room that the file system has and does not use
//! takes none of the stick, so it is made larger than its files should need.
//! It has no journal, because it is never written again; a cut throws it away
//! with everything else of the import. Not grown while it is filled: ext4 can
//! (EXT4_IOC_RESIZE_FS), but only with CAP_SYS_RESOURCE, which containers take
//! away, and then it could not be tested there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::statvfs;
use rustix::mount::UnmountFlags;

use super::writer::{free_bytes, no_room};
use super::{ImportError, MAX_UNPACKED_BYTES, RESERVE_BYTES, write_error};
use crate::store::mounts::{self, LoopDevice, Window};
use crate::store::tools;

/// Its size is a multiple of one of ext4's block groups.
const GROUP_BYTES: u64 = 128 << 20;
/// Free space that is kept for the file system's own blocks.
const SLACK_BYTES: u64 = 8 << 20;
const SLACK_INODES: u64 = 64;
/// How often its room, and that of the stick, is asked for, in bytes written.
const INTERVAL_BYTES: u64 = 16 << 20;
const MAKE_LIMIT: Duration = Duration::from_secs(120);
const BLOCK_BYTES: u64 = 4096;

// include/uapi/linux/loop.h
const LOOP_SET_DIRECT_IO: libc::c_ulong = 0x4c08;

pub struct NewRoot {
    path: PathBuf,
    /// Where it is mounted.
    point: PathBuf,
    store: PathBuf,
    file: File,
    loop_device: Option<LoopDevice>,
    bytes: u64,
    /// What may be written before its room is asked for again.
    budget_bytes: u64,
    budget_inodes: u64,
    flusher: Option<Flusher>,
    until_flush: u64,
}

impl NewRoot {
    /// Makes it at `path`, for files of `bytes`, and mounts it at `point`.
    pub fn create(path: &Path, point: &Path, store: &Path, bytes: u64, stop: &AtomicBool) -> Result<Self, ImportError> {
        let bytes = bytes.min(MAX_UNPACKED_BYTES).next_multiple_of(GROUP_BYTES);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.map_err(|source| write_error(path, source))?;
        file.set_len(bytes).map_err(|source| write_error(path, source))?;
        make_file_system(path, stop)?;
        let loop_device = mounts::loop_device(path, Window::default(), false)?;
        // Nothing is cached twice then; where it is refused, it is.
        let _ = loop_ioctl(&loop_device, LOOP_SET_DIRECT_IO, 1);
        // The kernel would write zeros into the inode tables in the background.
        mounts::device(&loop_device.path, point, "ext4", false, "noinit_itable,errors=continue")?;
        let flusher = File::open(point).and_then(Flusher::start).map_err(|source| write_error(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            point: point.to_owned(),
            store: store.to_owned(),
            file,
            loop_device: Some(loop_device),
            bytes,
            budget_bytes: 0,
            budget_inodes: 0,
            flusher: Some(flusher),
            until_flush: INTERVAL_BYTES,
        })
    }

    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Before `bytes` are written: sees to it that there is room in here and
    /// on the stick. A new file takes an inode and a block of its folder.
    pub fn take(&mut self, inodes: u64, bytes: u64) -> Result<(), ImportError> {
        let bytes = bytes.next_multiple_of(BLOCK_BYTES) + inodes * BLOCK_BYTES;
        while self.budget_bytes < bytes || self.budget_inodes < inodes {
            self.refill(inodes, bytes)?;
        }
        self.budget_bytes -= bytes;
        self.budget_inodes -= inodes;
        let Some(flusher) = &self.flusher else { return Ok(()) };
        flusher.dirty.fetch_add(bytes, Ordering::Relaxed);
        self.until_flush = self.until_flush.saturating_sub(bytes);
        if self.until_flush == 0 {
            self.until_flush = INTERVAL_BYTES;
            self.check_stick(flusher)?;
            flusher.begin();
        }
        Ok(())
    }

    /// What is dirty takes room soon, and must leave the clients their reserve.
    fn check_stick(&self, flusher: &Flusher) -> Result<(), ImportError> {
        let wanted = RESERVE_BYTES + flusher.dirty.load(Ordering::Relaxed);
        let free = free_bytes(&self.store)?;
        if free < wanted { Err(no_room(wanted - free + INTERVAL_BYTES)) } else { Ok(()) }
    }

    fn refill(&mut self, inodes: u64, bytes: u64) -> Result<(), ImportError> {
        let (free, files) = self.room()?;
        if free < bytes + SLACK_BYTES || files < inodes + SLACK_INODES {
            return Err(ImportError::Outgrown);
        }
        self.budget_bytes = (free - SLACK_BYTES).min(bytes.max(INTERVAL_BYTES));
        self.budget_inodes = (files - SLACK_INODES).min(inodes.max(1 << 10));
        Ok(())
    }

    fn room(&self) -> Result<(u64, u64), ImportError> {
        let vfs = statvfs(&self.point).map_err(|error| self.failed(error.into()))?;
        Ok((vfs.f_bavail.saturating_mul(vfs.f_frsize), vfs.f_favail))
    }

    /// What it means that something could not be written in here.
    pub fn failed(&self, source: io::Error) -> ImportError {
        write_error(&self.path, source)
    }

    /// Writes everything out and unmounts it; its size in bytes. Nothing in it
    /// may be open any more.
    pub fn finish(mut self) -> Result<u64, ImportError> {
        if let Some(flusher) = self.flusher.take() {
            flusher.finish().map_err(|source| self.failed(source))?;
        }
        let unmounted = rustix::mount::unmount(&self.point, UnmountFlags::NOFOLLOW);
        unmounted.map_err(|error| self.failed(error.into()))?;
        self.loop_device = None;
        self.file.sync_all().map_err(|source| self.failed(source))?;
        Ok(self.bytes)
    }
}

impl Drop for NewRoot {
    fn drop(&mut self) {
        // `finish` took it; else the import failed, and nothing is to be kept.
        if self.loop_device.take().is_some() {
            self.flusher = None;
            let _ = mounts::detach(&self.point);
        }
    }
}

fn loop_ioctl(device: &LoopDevice, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<()> {
    let open = OpenOptions::new().read(true).write(true).open(&device.path)?;
    // SAFETY: both requests take a number; the descriptor is open.
    match unsafe { libc::ioctl(open.as_raw_fd(), request as _, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An inode for each block: a root of small files must not run out of them
/// first, and inode tables that are not used take no room. The features left
/// out are those that an older laptop's e2fsck does not know.
fn make_file_system(path: &Path, stop: &AtomicBool) -> Result<(), ImportError> {
    let arguments = ["-q", "-F", "-t", "ext4", "-L", "rootfs", "-b", "4096", "-I", "256", "-i", "4096", "-m", "0"];
    let mut output = String::new();
    // An mke2fs that does not know a feature refuses its name: then without.
    for features in ["^has_journal,^orphan_file,^metadata_csum_seed", "^has_journal"] {
        let arguments = [&arguments[..], &["-E", "lazy_itable_init=1,nodiscard", "-O", features]].concat();
        let finished = tools::run("mke2fs", &arguments, path, MAKE_LIMIT, stop);
        let finished = finished.map_err(|error| ImportError::MakeRoot(error.to_string()))?;
        if finished.code == Some(0) {
            return Ok(());
        }
        output = finished.output;
    }
    Err(ImportError::MakeRoot(output))
}

/// Writes out what is dirty on a thread of its own, so that never much waits.
struct Flusher {
    /// Written and not yet known to be on the stick, in bytes.
    dirty: Arc<AtomicU64>,
    work: Option<SyncSender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Flusher {
    fn start(root: File) -> io::Result<Self> {
        let (work, queue) = sync_channel::<()>(1);
        let dirty = Arc::new(AtomicU64::new(0));
        let counted = dirty.clone();
        let flush = move || {
            let sync = || {
                let before = counted.load(Ordering::Relaxed);
                rustix::fs::syncfs(&root)?;
                counted.fetch_sub(before, Ordering::Relaxed);
                Ok(())
            };
            queue.iter().try_for_each(|()| sync())?;
            sync()
        };
        let thread = std::thread::Builder::new().name("import-sync".into()).spawn(flush)?;
        Ok(Self { dirty, work: Some(work), thread: Some(thread) })
    }

    /// Waits while a flush runs and another is queued: that bounds what is dirty.
    fn begin(&self) {
        // A thread that ended has its error told at the end.
        let _ = self.work.as_ref().map(|work| work.send(()));
    }

    fn finish(mut self) -> io::Result<()> {
        self.work = None;
        let ended = self.thread.take().map(JoinHandle::join);
        ended.and_then(Result::ok).unwrap_or_else(|| Err(io::Error::other("the syncing thread ended early")))
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
