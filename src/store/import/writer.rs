//! Writes an import's partitions on a thread of its own: sparse, and never
//! with much unwritten data waiting.
//!
//! I/O. A block of zeros stays a hole. Dirty pages are pushed out in windows,
//! so that a client enrolled meanwhile (one `syncfs`) waits for megabytes, not
//! for gigabytes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::{ImportError, RESERVE_BYTES, write_error};

/// Pieces that may wait for the writer, of 1 MiB.
const QUEUE: usize = 8;
/// Zeros are looked for in blocks of this size: ext4's own.
const BLOCK: usize = 4096;
/// How much may be dirty before the writer waits for the stick.
const WINDOW_BYTES: u64 = 8 << 20;
/// How often the room left is asked for, in bytes written.
const ROOM_INTERVAL_BYTES: u64 = 16 << 20;

/// Which of the two partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Root,
    Boot,
}

enum Work {
    Write { part: Part, at: u64, bytes: Vec<u8> },
    Finish { root_bytes: u64, boot_bytes: u64 },
}

/// The sending half; dropping it ends the thread.
pub struct Writer {
    work: Option<SyncSender<Work>>,
    thread: Option<JoinHandle<Result<(), ImportError>>>,
}

impl Writer {
    /// Refuses at once where the packed file alone would not fit: what it
    /// unpacks to is never smaller in practice.
    pub fn start(root: &Path, boot: &Path, store: &Path, packed_bytes: u64) -> Result<Self, ImportError> {
        let free = free_bytes(store)?;
        if free < packed_bytes.saturating_add(RESERVE_BYTES) {
            return Err(no_room(packed_bytes + RESERVE_BYTES - free));
        }
        let thread = Thread {
            root: Sparse::create(root)?,
            boot: Sparse::create(boot)?,
            store: store.to_owned(),
            until_room_check: 0,
        };
        let (work, queue) = sync_channel(QUEUE);
        let spawned = std::thread::Builder::new().name("import-write".into()).spawn(move || {
            let mut thread = thread;
            queue.iter().try_for_each(|work| thread.handle(work))
        });
        let thread = spawned.map_err(|source| write_error(root, source))?;
        Ok(Self { work: Some(work), thread: Some(thread) })
    }

    pub fn send(&mut self, part: Part, at: u64, bytes: Vec<u8>) -> Result<(), ImportError> {
        self.pass(Work::Write { part, at, bytes })
    }

    /// Gives the files their lengths and waits until they are on the stick.
    pub fn finish(mut self, root_bytes: u64, boot_bytes: u64) -> Result<(), ImportError> {
        self.pass(Work::Finish { root_bytes, boot_bytes })?;
        self.join()
    }

    fn pass(&mut self, work: Work) -> Result<(), ImportError> {
        match self.work.as_ref().map(|queue| queue.send(work)) {
            Some(Ok(())) => Ok(()),
            // The thread ended: it has the reason.
            _ => self.join().and(Err(ImportError::Stopped)),
        }
    }

    fn join(&mut self) -> Result<(), ImportError> {
        self.work = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => Err(ImportError::Stopped),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

fn free_bytes(store: &Path) -> Result<u64, ImportError> {
    let vfs = rustix::fs::statvfs(store).map_err(|error| write_error(store, error.into()))?;
    Ok(vfs.f_bavail.saturating_mul(vfs.f_frsize))
}

fn no_room(missing_bytes: u64) -> ImportError {
    ImportError::NoRoom { missing_mib: missing_bytes.div_ceil(1 << 20).max(1) }
}

struct Thread {
    root: Sparse,
    boot: Sparse,
    store: PathBuf,
    until_room_check: u64,
}

impl Thread {
    fn handle(&mut self, work: Work) -> Result<(), ImportError> {
        match work {
            Work::Write { part, at, bytes } => {
                let length = bytes.len() as u64;
                self.until_room_check = match self.until_room_check.checked_sub(length) {
                    Some(left) => left,
                    None => {
                        let free = free_bytes(&self.store)?;
                        if free < RESERVE_BYTES {
                            return Err(no_room(RESERVE_BYTES - free + ROOM_INTERVAL_BYTES));
                        }
                        ROOM_INTERVAL_BYTES
                    }
                };
                let file = match part {
                    Part::Root => &mut self.root,
                    Part::Boot => &mut self.boot,
                };
                file.write(at, &bytes)
            }
            Work::Finish { root_bytes, boot_bytes } => {
                self.root.finish(root_bytes, true)?;
                // The FAT is only a means: it goes once its files are out.
                self.boot.finish(boot_bytes, false)
            }
        }
    }
}

/// A file written with holes for zeros.
struct Sparse {
    file: File,
    path: PathBuf,
    /// Start and end of what was written since the last push.
    window: (u64, u64),
    /// The window before, whose writing was begun.
    pushed: (u64, u64),
}

impl Sparse {
    fn create(path: &Path) -> Result<Self, ImportError> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|source| write_error(path, source))?;
        Ok(Self { file, path: path.to_owned(), window: (0, 0), pushed: (0, 0) })
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), ImportError> {
        for (from, to) in data_runs(bytes) {
            let written = self.file.write_all_at(&bytes[from..to], at + from as u64);
            written.map_err(|source| match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_room((to - from) as u64),
                _ => write_error(&self.path, source),
            })?;
        }
        self.window.1 = at + bytes.len() as u64;
        if self.window.1.saturating_sub(self.window.0) >= WINDOW_BYTES {
            self.push();
        }
        Ok(())
    }

    /// Begins to write this window out and waits for the one before. Only a
    /// hint: whether it worked shows when the file is synced.
    fn push(&mut self) {
        let begin = libc::SYNC_FILE_RANGE_WRITE;
        let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE | begin | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        for ((from, to), flags) in [(self.window, begin), (self.pushed, wait)] {
            // SAFETY: the descriptor is open; no memory is passed.
            unsafe { libc::sync_file_range(self.file.as_raw_fd(), from as i64, (to - from) as i64, flags) };
        }
        self.pushed = self.window;
        self.window.0 = self.window.1;
    }

    fn finish(&mut self, bytes: u64, sync: bool) -> Result<(), ImportError> {
        let result = self.file.set_len(bytes).and_then(|()| if sync { self.file.sync_all() } else { Ok(()) });
        result.map_err(|source| write_error(&self.path, source))
    }
}

/// Runs of blocks that are not all zero, as ranges of `bytes`.
fn data_runs(bytes: &[u8]) -> Vec<(usize, usize)> {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        if *block == ZEROS[..block.len()] {
            continue;
        }
        let (from, to) = (index * BLOCK, index * BLOCK + block.len());
        match runs.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => runs.push((from, to)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_zeros_become_holes() {
        let mut bytes = vec![0; 10 * BLOCK + 5];
        bytes[2 * BLOCK] = 1;
        bytes[3 * BLOCK + 7] = 1;
        bytes[10 * BLOCK + 4] = 1;
        assert_eq!(data_runs(&bytes), [(2 * BLOCK, 4 * BLOCK), (10 * BLOCK, 10 * BLOCK + 5)]);
        assert_eq!(data_runs(&[0; 100]), []);
        assert_eq!(data_runs(&[]), []);
    }
}
