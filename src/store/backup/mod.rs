//! A second stick as a copy of the store, so that it can stand in for the
//! first.
//!
//! - `mark`: what a stick is to the store that is open; pure
//! - `command`: the copy by a command, with no server
//! - `freeze`: a file system that takes no writes for some seconds
//! - here: the copy. I/O.
//!
//! The copy is one of files: images, clients' layers with their snapshots, the
//! key of the handles, the profile. It may be larger or smaller than the first,
//! in a partition or in a file of exFAT. A first pass copies while everybody
//! works; what changed meanwhile is copied while the file system is frozen, so
//! that the whole is one moment's. `backup.toml` says that it is a copy, and is
//! the last to say that it is complete: until then it is never served.
//!
//! What it cannot be is the same inodes, of which the kernel makes handles: the
//! root of each client would be stale, and a handle of an image's file that the
//! client had changed would open the image's own, since the overlay's index of
//! changed files names inodes too (tried 2026-11-29, Linux 6.18). So a copy that
//! stands in has a new key, which makes every former handle stale, and clients
//! that ran when the first stick died are switched off and on. (A copy block by
//! block would keep inodes, but not be one moment's within the seconds that
//! writes may wait: nothing tells which blocks changed since the first pass.)

pub mod command;
mod freeze;
mod mark;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use self::freeze::Frozen;
pub use self::freeze::thaw;
pub use self::mark::{Known, MARK, Mark, Standing, is_left_out, parse as parse_mark, read as read_mark, standing};
use super::manifest::{self, CLIENTS};
use super::operate::copy::{self, CopyError, Rules};
use super::place::{OpenError, Place};
use super::{atomic, library};

/// How long clients' writes may wait. A client's own limit is minutes; a
/// person at a prompt notices seconds.
const FROZEN_LIMIT: Duration = Duration::from_secs(10);
/// Frozen passes that were too long: then clients write more than the second
/// stick takes.
const ATTEMPTS: u32 = 4;
/// Passes before the first frozen one, until one is as short as this.
const WARM_PASSES: u32 = 3;
const WARM_ENOUGH: Duration = Duration::from_secs(3);

/// Why there is no copy, or not a complete one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error("{operation}")]
    Io { operation: &'static str, source: io::Error },
    #[error("holding the clients' writes")]
    Freeze(#[source] io::Error),
    #[error("clients write more than the second stick takes")]
    TooBusy,
    #[error("{} MiB are used, and the second stick has {}", needed_bytes.div_ceil(1 << 20), has_bytes >> 20)]
    NoRoom { needed_bytes: u64, has_bytes: u64 },
}

impl BackupError {
    /// Whether it was ended on purpose.
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Copy(CopyError::Stopped))
            || matches!(self, Self::Copy(CopyError::Io { source, .. }) if source.kind() == io::ErrorKind::Interrupted)
    }
}

/// What was copied, and how long clients' writes waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// Unix seconds.
    pub taken: u64,
    pub bytes: u64,
    pub frozen: Duration,
}

/// Bytes that are used in the file system of `folder`, and that it has in all.
pub fn size(folder: &Path) -> io::Result<(u64, u64)> {
    let vfs = rustix::fs::statvfs(folder)?;
    let all = vfs.f_blocks.saturating_mul(vfs.f_frsize);
    Ok((all.saturating_sub(vfs.f_bfree.saturating_mul(vfs.f_frsize)), all))
}

/// A mounted folder that stays the same one, whatever becomes of the mount: when a stick is pulled its store is taken
/// away at once, and what its path names then is an empty folder of the appliance's own.
#[derive(Debug)]
struct Held {
    _open: File,
    path: PathBuf,
}

impl Held {
    fn open(folder: &Path) -> io::Result<Self> {
        let open = File::open(folder)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        Ok(Self { _open: open, path })
    }
}

/// A store that is mounted to become a copy, as a copy needs it. Dropped before it is unmounted.
#[derive(Debug)]
pub struct Target(Held);

impl Target {
    pub fn open(place: &Place, point: &Path, stop: &AtomicBool) -> Result<Self, OpenError> {
        place.open_to_fill(point, stop)?;
        Held::open(point).map(Self).map_err(|_| OpenError::Busy { device: point.to_owned() })
    }

    pub fn folder(&self) -> &Path {
        &self.0.path
    }
}

/// Makes `to` a copy of the open store `from`. `seen` counts up to about the bytes that are used in `from`.
pub fn copy(from: &Path, to: &Target, seen: &AtomicU64, stop: &AtomicBool) -> Result<Backup, BackupError> {
    let to = to.folder();
    let failed = |operation| move |source| BackupError::Io { operation, source };
    let (reading, writing) = (failed("reading the first stick"), failed("writing to the second stick"));
    let held = Held::open(from).map_err(reading)?;
    let from = held.path.as_path();
    // Either stick may have been pulled while the other one took its time.
    let goes_on = || if stop.load(Ordering::Relaxed) { Err(CopyError::Stopped) } else { Ok(()) };
    let (needed_bytes, _) = size(from).map_err(reading)?;
    let (_, has_bytes) = size(to).map_err(writing)?;
    if needed_bytes > has_bytes {
        return Err(BackupError::NoRoom { needed_bytes, has_bytes });
    }
    let id = library::read_choice(from).unwrap_or_default().id.unwrap_or_default();
    let mark = |taken| Mark { of: id.clone(), taken }.write(to).map_err(writing);
    mark(None)?;

    let mut bytes = 0;
    for _ in 0..WARM_PASSES {
        let began = Instant::now();
        bytes += pass(from, to, Some(seen), stop)?;
        if began.elapsed() < WARM_ENOUGH {
            break;
        }
        seen.store(needed_bytes, Ordering::Relaxed);
    }
    // What is in the second stick's cache would make the frozen pass wait for it.
    sync(to).map_err(writing)?;
    for _ in 0..ATTEMPTS {
        goes_on()?;
        let frozen = Frozen::begin(from, FROZEN_LIMIT).map_err(BackupError::Freeze)?;
        let copied = pass(from, to, None, stop);
        let (in_time, held) = frozen.end();
        bytes += copied?;
        if in_time {
            work_folders(to).map_err(writing)?;
            sync(to).map_err(writing)?;
            goes_on()?;
            let taken = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            mark(Some(taken))?;
            return Ok(Backup { taken, bytes, frozen: held });
        }
        bytes += pass(from, to, None, stop)?;
    }
    Err(BackupError::TooBusy)
}

fn pass(from: &Path, to: &Path, seen: Option<&AtomicU64>, stop: &AtomicBool) -> Result<u64, CopyError> {
    let rules = Rules { over_image: false, layers: true, without: &is_left_out, seen, stop };
    Ok(copy::mirror(from, to, &rules)?.bytes)
}

fn sync(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

/// Every layer that can be written has an empty folder for the overlay to work in.
fn work_folders(store: &Path) -> io::Result<()> {
    let folders = |path: &Path| -> io::Result<Vec<PathBuf>> {
        match fs::read_dir(path) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    };
    for client in folders(&store.join(CLIENTS))? {
        let mut layers = folders(&client.join("states"))?;
        layers.push(client);
        for layer in layers {
            for (upper, work) in [("upper", "work"), ("boot-upper", "boot-work")] {
                if !layer.join(upper).is_dir() {
                    continue;
                }
                match fs::DirBuilder::new().mode(0o755).create(layer.join(work)) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// Which store it is, for its copies: made now, where it has no id yet.
pub fn ensure_id(store: &Path) -> io::Result<String> {
    let mut id = [0; 16];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    let new = manifest::hex(&id);
    library::change_choice(store, |choice| choice.id = choice.id.take().or(Some(new)))?;
    Ok(library::read_choice(store).unwrap_or_default().id.unwrap_or_default())
}

/// The copy becomes the store, and goes before what it was made from.
pub fn stand_in(store: &Path) -> io::Result<()> {
    library::change_choice(store, |choice| choice.turn = choice.turn.saturating_add(1))?;
    library::renew_key(store)?;
    match fs::remove_file(store.join(MARK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => atomic::sync_folder(store),
    }
}
