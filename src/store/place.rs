//! Where the store lies, and how it is opened there.
//!
//! I/O. One enum, one `open`: everything above sees a mounted ext4 folder and
//! does not know which kind of place it is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::borrow;
use super::identify::{self, STORE_LABEL};
use super::mounts::{self, MountError, Window};
use super::shop::Span;
use super::tools::{self, ToolError};

/// Where a store can lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An ext4 partition (or a whole disk) labelled ROOTSTOCK; its device node.
    Partition(PathBuf),
    /// A run of clusters inside an exFAT or FAT32 partition (`shop`), which may
    /// be mounted read-only at the same time: no byte belongs to both.
    Run { partition: PathBuf, span: Span },
    /// In memory, where the stick must not be written: a file of this size in a
    /// tmpfs on this folder, gone when it is unmounted.
    /// With `from` it is filled from a store that cannot be written and is mounted there.
    Memory { folder: PathBuf, bytes: u64, from: Option<PathBuf> },
    /// A folder of this machine: for development on a PC.
    Folder(PathBuf),
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store's file system on {device} is damaged and e2fsck could not mend it by itself: {output}")]
    Damaged { device: PathBuf, output: String },
    #[error("e2fsck could not run on {device} (exit code {code:?}): {output}")]
    Check { device: PathBuf, code: Option<i32>, output: String },
    #[error("making {path} in memory")]
    Memory { path: PathBuf, source: io::Error },
    #[error("{device} is in use by something else")]
    Busy { device: PathBuf },
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Mount(#[from] MountError),
}

impl OpenError {
    /// The stick takes no writes, but what is on it may be whole.
    pub fn is_unwritable(&self) -> bool {
        match self {
            // What e2fsck could not write.
            Self::Check { .. } => true,
            Self::Mount(MountError::Mount { source, .. }) => {
                matches!(source.raw_os_error(), Some(libc::EROFS | libc::EIO | libc::EACCES))
            }
            _ => false,
        }
    }
}

/// A check of a large, badly cut file system takes minutes; not hours.
const CHECK_LIMIT: Duration = Duration::from_secs(30 * 60);
const MAKE_LIMIT: Duration = Duration::from_secs(60);
/// Pages of the tmpfs that are not the file's.
const MEMORY_SLACK_BYTES: u64 = 1 << 20;
/// How long another user (the last run's lazy unmount) may still hold the device.
const BUSY_ATTEMPTS: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

impl Place {
    /// Checks what needs checking and mounts the store at `point`.
    pub fn open(&self, point: &Path, stop: &AtomicBool) -> Result<(), OpenError> {
        match self {
            Self::Partition(_) | Self::Run { .. } => self.open_with(point, "errors=remount-ro", stop),
            Self::Memory { folder, bytes, from } => {
                open_memory(folder, *bytes, point, stop)?;
                let filled = from.as_ref().map_or(Ok(()), |from| borrow::fill(point, from));
                filled.map_err(|source| OpenError::Memory { path: point.to_owned(), source })
            }
            Self::Folder(folder) => Ok(mounts::bind(folder, point)?),
        }
    }

    /// Mounts a store on a stick to be made a copy. A file's content is then on the disk before anything that says so, at
    /// whichever moment the stick is pulled: ext4 writes data before the metadata that came later (`data=ordered`), but
    /// for blocks that it has not allocated yet, and so it allocates them at once.
    pub fn open_to_fill(&self, point: &Path, stop: &AtomicBool) -> Result<(), OpenError> {
        self.open_with(point, "errors=remount-ro,data=ordered,nodelalloc", stop)
    }

    fn open_with(&self, point: &Path, options: &str, stop: &AtomicBool) -> Result<(), OpenError> {
        match self {
            Self::Partition(device) => open_device(device, point, options, stop),
            Self::Run { partition, span } => {
                let window = Window { offset: span.at, bytes: span.bytes };
                // Its blocks are kept in ext4's memory, and not a second time in the partition's.
                let device = mounts::loop_device_direct(partition, window)?;
                // The mount keeps the loop device when this handle goes.
                open_device(&device.path, point, options, stop)
            }
            // No stick's.
            Self::Memory { .. } | Self::Folder(_) => Err(OpenError::Busy { device: point.to_owned() }),
        }
    }

    /// Whether the store's journal holds what is not in its place yet, since it was pulled or lost its power.
    pub fn is_unclean(&self) -> bool {
        let (device, at) = match self {
            Self::Partition(device) => (device, 0),
            Self::Run { partition, span } => (partition, span.at),
            Self::Memory { .. } | Self::Folder(_) => return false,
        };
        let mut head = vec![0; identify::HEAD_BYTES];
        let read = File::open(device).and_then(|file| file.read_exact_at(&mut head, at));
        read.is_ok() && identify::ext4(&head).is_some_and(|ext4| ext4.needs_recovery)
    }

    /// Mounts a store on a stick for reading. Nothing is checked or replayed, since that writes.
    pub fn open_to_read(&self, point: &Path) -> Result<(), OpenError> {
        let read = |device: &Path| Ok(mounts::device(device, point, "ext4", true, "noload")?);
        match self {
            Self::Partition(device) => read(device),
            Self::Run { partition, span } => {
                let window = Window { offset: span.at, bytes: span.bytes };
                read(&mounts::loop_device(partition, window, true)?.path)
            }
            // Never write-protected.
            Self::Memory { .. } | Self::Folder(_) => Err(OpenError::Busy { device: point.to_owned() }),
        }
    }
}

/// ext4 and not the tmpfs itself: the layers above want one kind of file system,
/// and the image file bounds inodes and data alike. No journal: nothing outlives
/// the power. `discard` gives memory back when a client's files are deleted.
fn open_memory(folder: &Path, bytes: u64, point: &Path, stop: &AtomicBool) -> Result<(), OpenError> {
    mounts::memory(folder, bytes + MEMORY_SLACK_BYTES)?;
    let file = folder.join("store.ext4");
    let made = File::create(&file).and_then(|made| made.set_len(bytes));
    made.map_err(|source| OpenError::Memory { path: file.clone(), source })?;
    let arguments = ["-q", "-F", "-t", "ext4", "-L", STORE_LABEL, "-m", "0", "-I", "256", "-O", "^has_journal"];
    let finished = tools::run("mke2fs", &arguments, &file, MAKE_LIMIT, stop)?;
    if finished.code != Some(0) {
        return Err(OpenError::Check { device: file, code: finished.code, output: finished.output });
    }
    let device = mounts::loop_device_direct(&file, Window::default())?;
    Ok(mounts::device(&device.path, point, "ext4", false, "discard")?)
}

fn open_device(device: &Path, point: &Path, options: &str, stop: &AtomicBool) -> Result<(), OpenError> {
    check(device, stop)?;
    // `discard` is not asked for: cheap sticks stall on it.
    Ok(mounts::device(device, point, "ext4", false, options)?)
}

/// Runs `e2fsck -p`: always, because on a clean file system it looks at the
/// superblock only, and a journal is replayed before anything is mounted.
fn check(device: &Path, stop: &AtomicBool) -> Result<(), OpenError> {
    wait_until_free(device)?;
    let finished = match tools::run("e2fsck", &["-p"], device, CHECK_LIMIT, stop) {
        // Without the tool the kernel still replays the journal.
        Err(ToolError::Missing(_)) => return Ok(()),
        other => other?,
    };
    let device = device.to_owned();
    let output = finished.output;
    // e2fsck(8): 1 corrected, 2 corrected and reboot if mounted (it was not),
    // 4 left uncorrected, 8 operational error, 16 usage, 32 cancelled.
    match finished.code {
        Some(0..=3) => Ok(()),
        Some(code) if code & 4 != 0 => Err(OpenError::Damaged { device, output }),
        code => Err(OpenError::Check { device, code, output }),
    }
}

/// An exclusive open fails while the device is mounted anywhere.
pub(super) fn wait_until_free(device: &Path) -> Result<(), OpenError> {
    for _ in 0..BUSY_ATTEMPTS {
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(device) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(BUSY_PAUSE),
            // Any other trouble shows up better in what comes next.
            _ => return Ok(()),
        }
    }
    Err(OpenError::Busy { device: device.to_owned() })
}
