//! Writes an import's partitions on a thread of its own: sparse, several
//! blocks at once, and never with much unwritten data waiting.
//!
//! I/O. A partition is cut into blocks of 1 MiB from a bounded pool; a run of
//! zeros in one stays a hole. Two ways to write them, with the same results
//! and errors (`Method`):
//!
//! - io_uring with O_DIRECT, several blocks in flight. Direct, because
//!   buffered writes to ext4 are never done without blocking: io_uring would
//!   give them one at a time to a kernel worker. Direct ones are on their way
//!   to the stick at once, cost no copy, leave nothing to flush for a client
//!   that is made meanwhile, and leave the page cache to the clients.
//! - plain writes, where the kernel or a sandbox has no io_uring: dirty pages
//!   are pushed out in windows, so that a client made meanwhile (one `syncfs`)
//!   waits for megabytes, not for gigabytes.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;
use tokio_uring::buf::BoundedBuf;

use super::{ImportError, RESERVE_BYTES, write_error};
use crate::quota::{Figures, reserve_bytes};

/// Most bytes of a block. Its place in the file is a multiple of a page.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks in all: being filled, queued and being written.
const POOL_BLOCKS: usize = 16;
/// Blocks that may be being written. Sticks gain nothing beyond a few.
const IN_FLIGHT: usize = 8;
/// Zeros are looked for in pages of this size: ext4's own. No disk below an
/// ext4 asks more of O_DIRECT, in the file or in memory.
const PAGE_BYTES: usize = 4096;
/// Zeros for which a block ends before it is full: fewer are copied into it, and passed over when it is written.
const GAP_BYTES: usize = 64 << 10;
/// How much may be dirty before the writer waits for the stick.
const WINDOW_BYTES: u64 = 8 << 20;
/// How often the room left is asked for, in bytes written.
const ROOM_INTERVAL_BYTES: u64 = 16 << 20;

/// How the files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// By io_uring; plainly where it is missing.
    Uring,
    Plain,
}

/// Which of the two partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Root,
    Boot,
}

enum Work {
    /// The root's files take so many bytes, about.
    Expect(u64),
    Begin {
        part: Part,
        bytes: u64,
    },
    Write {
        part: Part,
        at: u64,
        block: Block,
    },
    Finish {
        root_bytes: u64,
        boot_bytes: u64,
    },
}

/// Memory for one block, aligned as O_DIRECT wants it.
struct Block {
    memory: Vec<u8>,
    /// Where in `memory` the block starts.
    base: usize,
    filled: usize,
}

impl Block {
    fn new() -> Self {
        let memory = vec![0; BLOCK_BYTES + PAGE_BYTES];
        let base = (memory.as_ptr() as usize).wrapping_neg() % PAGE_BYTES;
        Self { memory, base, filled: 0 }
    }

    /// Takes as much as fits; how much that was.
    fn fill(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(BLOCK_BYTES - self.filled);
        let at = self.base + self.filled;
        self.memory[at..at + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        taken
    }

    /// Zeros up to the next page; the file is cut to its length in the end.
    fn pad(&mut self) {
        let filled = self.filled.next_multiple_of(PAGE_BYTES);
        self.memory[self.base + self.filled..self.base + filled].fill(0);
        self.filled = filled;
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.base..self.base + self.filled]
    }
}

/// The sending half; dropping it ends the thread.
pub struct Writer {
    store: PathBuf,
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<Result<(), ImportError>>>,
    /// Blocks come back here when they are written.
    written: mpsc::Receiver<Block>,
    made: usize,
    /// The partition that now comes: where its next block lies, and that block.
    current: Option<(Part, u64, Option<Block>)>,
}

impl Writer {
    /// Refuses at once where the packed file alone would not fit: what it
    /// unpacks to is never smaller in practice.
    pub fn start(
        root: &Path,
        boot: &Path,
        store: &Path,
        packed_bytes: u64,
        method: Method,
    ) -> Result<Self, ImportError> {
        let free = free_bytes(store)?;
        if free < packed_bytes.saturating_add(RESERVE_BYTES) {
            return Err(no_room(packed_bytes + RESERVE_BYTES - free));
        }
        let (root, boot) = (Target::create(root)?, Target::create(boot)?);
        let failed_at = root.path.clone();
        let (work, queue) = channel(POOL_BLOCKS);
        let (recycle, written) = mpsc::channel();
        let thread = Thread { root, boot, room: Room::new(store), recycle };
        let spawned = std::thread::Builder::new().name("import-write".into()).spawn(move || thread.run(queue, method));
        let thread = spawned.map_err(|source| write_error(&failed_at, source))?;
        Ok(Self { store: store.to_owned(), work: Some(work), thread: Some(thread), written, made: 0, current: None })
    }

    /// The root that comes holds files of so many bytes: refuses at once where they cannot fit, before minutes of
    /// unpacking. A quarter of them may be zeros, of which nobody tells before.
    pub fn expect(&mut self, bytes: u64) -> Result<(), ImportError> {
        let free = free_bytes(&self.store)?;
        if free < RESERVE_BYTES.saturating_add(bytes / 4 * 3) {
            return Err(no_room(RESERVE_BYTES.saturating_add(bytes + ROOM_INTERVAL_BYTES).saturating_sub(free)));
        }
        self.pass(Work::Expect(bytes))
    }

    /// The next bytes are those of this partition, from its start.
    pub fn begin(&mut self, part: Part, bytes: u64) -> Result<(), ImportError> {
        self.flush()?;
        self.current = Some((part, 0, None));
        self.pass(Work::Begin { part, bytes })
    }

    /// The next bytes of the partition that was begun.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), ImportError> {
        while !bytes.is_empty() {
            let Some((part, at, block)) = self.current.take() else { return Ok(()) };
            let zeros = match &block {
                Some(block) if block.filled % PAGE_BYTES > 0 => 0,
                _ => leading_zeros(bytes),
            };
            let mut block = match block {
                // A hole: half of many an image.
                None if zeros > 0 => {
                    bytes = &bytes[zeros..];
                    self.current = Some((part, at + zeros as u64, None));
                    continue;
                }
                Some(block) if zeros >= GAP_BYTES => {
                    self.current = Some((part, at + block.filled as u64, None));
                    self.pass(Work::Write { part, at, block })?;
                    continue;
                }
                Some(block) => block,
                None => self.empty_block()?,
            };
            bytes = &bytes[block.fill(bytes)..];
            if block.filled < BLOCK_BYTES {
                self.current = Some((part, at, Some(block)));
            } else {
                self.pass(Work::Write { part, at, block })?;
                self.current = Some((part, at + BLOCK_BYTES as u64, None));
            }
        }
        Ok(())
    }

    /// Gives the files their lengths and waits until the root is on the stick.
    pub fn finish(mut self, root_bytes: u64, boot_bytes: u64) -> Result<(), ImportError> {
        self.flush()?;
        self.pass(Work::Finish { root_bytes, boot_bytes })?;
        self.join()
    }

    fn flush(&mut self) -> Result<(), ImportError> {
        let Some((part, at, Some(mut block))) = self.current.take() else { return Ok(()) };
        block.pad();
        self.pass(Work::Write { part, at, block })
    }

    /// A new block while there may be more, else the next that is written.
    fn empty_block(&mut self) -> Result<Block, ImportError> {
        if let Ok(block) = self.written.try_recv() {
            return Ok(block);
        }
        if self.made < POOL_BLOCKS {
            self.made += 1;
            return Ok(Block::new());
        }
        match self.written.recv() {
            Ok(block) => Ok(block),
            Err(_) => Err(self.reason()),
        }
    }

    fn pass(&mut self, work: Work) -> Result<(), ImportError> {
        match self.work.as_ref().map(|queue| queue.blocking_send(work)) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.reason()),
        }
    }

    /// Why the thread ended early.
    fn reason(&mut self) -> ImportError {
        self.join().err().unwrap_or(ImportError::Stopped)
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

/// What an import may use, `RESERVE_BYTES` and more of which it leaves.
pub fn free_bytes(store: &Path) -> Result<u64, ImportError> {
    let vfs = rustix::fs::statvfs(store).map_err(|error| write_error(store, error.into()))?;
    // Clients are left nothing beyond the reserve: what it is larger than ours is not for us.
    let figures = Figures::of(&vfs);
    let reserve = reserve_bytes(figures.total_bytes, None).saturating_sub(RESERVE_BYTES);
    Ok(figures.free_bytes.saturating_sub(reserve))
}

pub fn no_room(missing_bytes: u64) -> ImportError {
    ImportError::NoRoom { missing_mib: missing_bytes.div_ceil(1 << 20).max(1) }
}

/// Watches that the import leaves the clients their reserve.
struct Room {
    store: PathBuf,
    until_check: u64,
    /// What of the root's files is still to come, as far as is known.
    left: u64,
}

impl Room {
    fn new(store: &Path) -> Self {
        Self { store: store.to_owned(), until_check: 0, left: 0 }
    }

    fn take(&mut self, part: Part, bytes: u64) -> Result<(), ImportError> {
        if part == Part::Root {
            self.left = self.left.saturating_sub(bytes);
        }
        self.until_check = match self.until_check.checked_sub(bytes) {
            Some(left) => left,
            None => {
                self.check(self.left.saturating_add(ROOM_INTERVAL_BYTES))?;
                ROOM_INTERVAL_BYTES
            }
        };
        Ok(())
    }

    /// `more` is what may still come.
    fn check(&self, more: u64) -> Result<(), ImportError> {
        let free = free_bytes(&self.store)?;
        if free < RESERVE_BYTES {
            return Err(no_room(RESERVE_BYTES - free + more));
        }
        Ok(())
    }
}

struct Thread {
    root: Target,
    boot: Target,
    room: Room,
    recycle: mpsc::Sender<Block>,
}

impl Thread {
    fn run(mut self, mut queue: Receiver<Work>, method: Method) -> Result<(), ImportError> {
        if let Some(ring) = ring(method) {
            return ring.block_on(self.run_uring(queue));
        }
        while let Some(work) = queue.blocking_recv() {
            match work {
                Work::Expect(bytes) => self.room.left = bytes,
                Work::Begin { part, bytes } => self.target(part).set_len(bytes)?,
                Work::Write { part, at, mut block } => {
                    self.room.take(part, block.filled as u64)?;
                    self.target(part).write(at, block.bytes())?;
                    block.filled = 0;
                    // A sender that went away does not want it any more.
                    let _ = self.recycle.send(block);
                }
                Work::Finish { root_bytes, boot_bytes } => {
                    self.room.check(0)?;
                    self.root.set_len(root_bytes)?;
                    self.root.file.sync_all().map_err(|source| self.root.failed(source, 0))?;
                    // The FAT is only a means: it goes once its files are out.
                    self.boot.set_len(boot_bytes)?;
                }
            }
        }
        Ok(())
    }

    fn target(&mut self, part: Part) -> &mut Target {
        match part {
            Part::Root => &mut self.root,
            Part::Boot => &mut self.boot,
        }
    }

    async fn run_uring(self, mut queue: Receiver<Work>) -> Result<(), ImportError> {
        // The FAT stays in the page cache: it is read next, and then removed.
        self.root.bypass_cache();
        let (root, boot) = (UringTarget::new(self.root)?, UringTarget::new(self.boot)?);
        let target = |part| if part == Part::Root { &root } else { &boot };
        let (mut room, recycle) = (self.room, self.recycle);
        let mut writing = JoinSet::new();
        let result: Result<(), ImportError> = async {
            while let Some(work) = queue.recv().await {
                match work {
                    Work::Expect(bytes) => room.left = bytes,
                    Work::Begin { part, bytes } => target(part).target.borrow().set_len(bytes)?,
                    Work::Write { part, at, block } => {
                        room.take(part, block.filled as u64)?;
                        settle(&mut writing, IN_FLIGHT - 1).await?;
                        writing.spawn_local(target(part).clone().write(at, block, recycle.clone()));
                    }
                    Work::Finish { root_bytes, boot_bytes } => {
                        settle(&mut writing, 0).await?;
                        room.check(0)?;
                        root.target.borrow().set_len(root_bytes)?;
                        root.file.sync_all().await.map_err(|source| root.target.borrow().failed(source, 0))?;
                        boot.target.borrow().set_len(boot_bytes)?;
                    }
                }
            }
            Ok(())
        }
        .await;
        // After an error too: nothing writes to a file that is being removed.
        while writing.join_next().await.is_some() {}
        result
    }
}

/// The ring, where it is wanted and there is one. `tokio_uring::start` would
/// panic without.
fn ring(method: Method) -> Option<tokio_uring::Runtime> {
    if method == Method::Plain {
        return None;
    }
    // A block has one operation under way at a time.
    let ring = tokio_uring::Runtime::new(tokio_uring::builder().entries(2 * IN_FLIGHT as u32));
    ring.inspect_err(|error| tracing::info!(%error, "no io_uring here: the import writes plainly")).ok()
}

/// Waits until at most `most` writes are under way; the first error of any.
async fn settle(writing: &mut JoinSet<Result<(), ImportError>>, most: usize) -> Result<(), ImportError> {
    loop {
        let done = match writing.len() > most {
            true => writing.join_next().await,
            false => writing.try_join_next(),
        };
        match done {
            Some(Ok(result)) => result?,
            Some(Err(_)) => return Err(ImportError::Stopped),
            None => return Ok(()),
        }
    }
}

/// A target and the same open file as io_uring takes it.
#[derive(Clone)]
struct UringTarget {
    file: Rc<tokio_uring::fs::File>,
    target: Rc<RefCell<Target>>,
}

impl UringTarget {
    fn new(target: Target) -> Result<Self, ImportError> {
        let file = target.file.try_clone().map_err(|source| target.failed(source, 0))?;
        Ok(Self { file: Rc::new(tokio_uring::fs::File::from_std(file)), target: Rc::new(RefCell::new(target)) })
    }

    /// Writes a block's runs one after the other; the other blocks in flight
    /// keep the stick busy.
    async fn write(self, at: u64, mut block: Block, recycle: mpsc::Sender<Block>) -> Result<(), ImportError> {
        for (from, to) in data_runs(block.bytes()) {
            let run = block.memory.slice(block.base + from..block.base + to);
            let (result, run) = self.file.write_all_at(run, at + from as u64).await;
            block.memory = run.into_inner();
            result.map_err(|source| self.target.borrow().failed(source, to - from))?;
        }
        self.target.borrow_mut().written(at + block.filled as u64);
        block.filled = 0;
        let _ = recycle.send(block);
        Ok(())
    }
}

/// A file written with holes for zeros.
struct Target {
    file: File,
    path: PathBuf,
    /// Start and end of what was written since the last push.
    window: (u64, u64),
    /// The window before, whose writing was begun.
    pushed: (u64, u64),
}

impl Target {
    fn create(path: &Path) -> Result<Self, ImportError> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|source| write_error(path, source))?;
        Ok(Self { file, path: path.to_owned(), window: (0, 0), pushed: (0, 0) })
    }

    /// Asks for O_DIRECT; a file system without it is written through the cache.
    fn bypass_cache(&self) {
        let direct = fcntl_getfl(&self.file).and_then(|flags| fcntl_setfl(&self.file, flags | OFlags::DIRECT));
        if let Err(error) = direct {
            tracing::debug!(%error, path = %self.path.display(), "no O_DIRECT");
        }
    }

    /// Also before anything is written: ext4 does direct writes beyond the
    /// end of a file one by one.
    fn set_len(&self, bytes: u64) -> Result<(), ImportError> {
        self.file.set_len(bytes).map_err(|source| self.failed(source, 0))
    }

    /// What it means that `bytes` could not be written.
    fn failed(&self, source: io::Error, bytes: usize) -> ImportError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_room(bytes as u64),
            _ => write_error(&self.path, source),
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), ImportError> {
        for (from, to) in data_runs(bytes) {
            let written = self.file.write_all_at(&bytes[from..to], at + from as u64);
            written.map_err(|source| self.failed(source, to - from))?;
        }
        self.written(at + bytes.len() as u64);
        Ok(())
    }

    /// Blocks may be told in another order than that of the file: the window
    /// is a hint.
    fn written(&mut self, end: u64) {
        self.window.1 = self.window.1.max(end);
        if self.window.1.saturating_sub(self.window.0) >= WINDOW_BYTES {
            self.push();
        }
    }

    /// Begins to write this window out and waits for the one before (nothing
    /// where O_DIRECT left nothing dirty). Only a hint: whether it worked
    /// shows when the file is synced.
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
}

const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// How many bytes of whole pages of zeros stand first.
fn leading_zeros(bytes: &[u8]) -> usize {
    bytes.chunks_exact(PAGE_BYTES).take_while(|page| **page == ZEROS).count() * PAGE_BYTES
}

/// Runs of pages that are not all zero, as ranges of `bytes`.
pub fn data_runs(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, page) in bytes.chunks(PAGE_BYTES).enumerate() {
        if *page == ZEROS[..page.len()] {
            continue;
        }
        let (from, to) = (index * PAGE_BYTES, index * PAGE_BYTES + page.len());
        match runs.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => runs.push((from, to)),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
