//! The content of one boot file while it is sent: bytes in memory, or a file read chunk by chunk.
//!
//! I/O: files only. What may wait for the stick runs on the runtime's blocking pool. What the page cache holds is
//! read where it is wanted: of 64 clients that fetch the same kernel nearly all reads are such. A hop to the pool for
//! each, and a second look at the socket for each block (`inbox`), made a MB cost 1.4 to 1.6 times dnsmasq's CPU time;
//! without them 1.0 to 1.2 (`just bench tftp`, 2026-11-30, either in turns on a busy machine).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_io::AsyncRead;
use rustix::fs::Advice;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::resident::Resident;

/// How much of a file is read at once, in bytes: one hop to the pool for some
/// twenty blocks, and small enough for a thousand transfers at once.
const CHUNK_BYTES: usize = 32 * 1024;

/// What the kernel shall read from the stick when a chunk is not there: as much as it reads ahead by itself. That is
/// switched off, for its next part would be ordered by who reads the last one, and a stick that hangs may hang him too.
const AHEAD_BYTES: u64 = 128 * 1024;

/// A boot file while it is sent: bytes in memory, or a file read chunk by chunk.
pub struct BootFile {
    size: u64,
    /// What `chunk` begins with, in bytes from the file's start.
    chunk_at: u64,
    chunk: Vec<u8>,
    /// What was read out of `chunk`.
    taken: usize,
    rest: Option<Rest>,
    /// Whether the chunk behind this one was looked after.
    is_looked_after: bool,
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

/// A file that is longer than one chunk.
struct Rest {
    file: Arc<File>,
    resident: Option<Resident>,
    runtime: Handle,
}

impl BootFile {
    pub fn of(bytes: Vec<u8>) -> Self {
        Self::new(bytes.len() as u64, bytes, None)
    }

    /// Reads the first chunk: most boot files are no longer. May wait for the stick.
    pub fn read(file: File, size: u64, runtime: Handle) -> io::Result<Self> {
        let is_long = size > CHUNK_BYTES as u64;
        if is_long {
            // Without it things are read as well.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        }
        let chunk = read_chunk(&file, 0, size)?;
        let resident = if is_long { Resident::of(&file, size) } else { None };
        Ok(Self::new(size, chunk, is_long.then(|| Rest { file: Arc::new(file), resident, runtime })))
    }

    fn new(size: u64, chunk: Vec<u8>, rest: Option<Rest>) -> Self {
        Self { size, chunk_at: 0, chunk, taken: 0, rest, is_looked_after: false, reading: None }
    }

    /// In bytes, as it was when the file was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the next chunk begins, and its length; 0 behind the last.
    fn next(&self) -> (u64, usize) {
        let at = self.chunk_at + self.chunk.len() as u64;
        (at, chunk_length(at, self.size))
    }

    /// While one chunk is sent, the next is fetched from the stick if it has to be.
    fn read_ahead(&mut self) {
        if !std::mem::replace(&mut self.is_looked_after, true) && !self.is_resident() {
            self.fetch();
        }
    }

    fn is_resident(&self) -> bool {
        let (at, length) = self.next();
        self.rest.as_ref().and_then(|rest| rest.resident.as_ref()).is_some_and(|resident| resident.holds(at, length))
    }

    fn fetch(&mut self) {
        let ((at, length), size) = (self.next(), self.size);
        if let (1.., Some(Rest { file, runtime, .. })) = (length, &self.rest) {
            let file = file.clone();
            self.reading = Some(runtime.spawn_blocking(move || read_chunk(&file, at, size)));
        }
    }

    /// The chunk behind this one takes its place.
    fn put(&mut self, chunk: Vec<u8>) {
        self.chunk_at += self.chunk.len() as u64;
        (self.chunk, self.taken, self.is_looked_after) = (chunk, 0, false);
    }

    /// The same without a hop to the pool, into the memory that is there.
    fn read_on(&mut self) -> io::Result<()> {
        let (at, length) = self.next();
        let mut chunk = std::mem::take(&mut self.chunk);
        self.chunk_at = at;
        chunk.resize(length, 0);
        (self.taken, self.is_looked_after) = (0, false);
        if let Some(rest) = &self.rest {
            rest.file.read_exact_at(&mut chunk, at)?;
        }
        self.chunk = chunk;
        Ok(())
    }
}

impl AsyncRead for BootFile {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            this.read_ahead();
            let ready = &this.chunk[this.taken..];
            if !ready.is_empty() || bytes.is_empty() {
                let length = ready.len().min(bytes.len());
                bytes[..length].copy_from_slice(&ready[..length]);
                this.taken += length;
                return Poll::Ready(Ok(length));
            }
            if let Some(reading) = &mut this.reading {
                let chunk = ready!(Pin::new(reading).poll(context)).map_err(io::Error::from);
                this.reading = None;
                this.put(chunk.and_then(|read| read)?);
            } else if this.rest.is_none() || this.next().1 == 0 {
                return Poll::Ready(Ok(0));
            } else if this.is_resident() {
                this.read_on()?;
            } else {
                // It was there while the chunk before it began to be sent.
                this.fetch();
            }
        }
    }
}

/// How long the chunk at this offset is.
fn chunk_length(offset: u64, size: u64) -> usize {
    usize::try_from(size.saturating_sub(offset)).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)
}

/// The chunk at this offset of a file that had `size` bytes when it was
/// opened. One that shrank meanwhile is an error, not a shorter file.
fn read_chunk(file: &File, offset: u64, size: u64) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; chunk_length(offset, size)];
    // Behind it too, so that the next ones are there. Best effort.
    let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(AHEAD_BYTES), Advice::WillNeed);
    file.read_exact_at(&mut chunk, offset)?;
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const SIZE: usize = 5 * CHUNK_BYTES + 7;

    /// All of it, and how often it had to be waited for.
    async fn read_whole(file: &mut BootFile) -> io::Result<(Vec<u8>, usize)> {
        let (mut whole, mut waits, mut block) = (Vec::new(), 0, [0; 1468]);
        loop {
            let mut at_once = Context::from_waker(Waker::noop());
            let length = match Pin::new(&mut *file).poll_read(&mut at_once, &mut block) {
                Poll::Ready(length) => length?,
                Poll::Pending => {
                    waits += 1;
                    std::future::poll_fn(|context| Pin::new(&mut *file).poll_read(context, &mut block)).await?
                }
            };
            if length == 0 {
                return Ok((whole, waits));
            }
            whole.extend_from_slice(&block[..length]);
        }
    }

    fn check(file: File, test: impl FnOnce(io::Result<(Vec<u8>, usize)>)) {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let mut boot_file = BootFile::read(file, SIZE as u64, runtime.handle().clone()).unwrap();
        assert_eq!(boot_file.size(), SIZE as u64);
        test(runtime.block_on(read_whole(&mut boot_file)));
    }

    fn content() -> Vec<u8> {
        (0..SIZE).map(|at| (at / 3 % 251) as u8).collect()
    }

    #[test]
    fn what_the_page_cache_holds_is_never_waited_for() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content(), 0).unwrap();
        check(file, |read| assert!(read.unwrap() == (content(), 0)));
    }

    #[test]
    fn what_it_does_not_hold_is_read_by_the_pool() {
        let file = tempfile::tempfile().unwrap();
        // Nothing was ever read of a hole. Only the beginning is there, and the last chunk.
        file.set_len(SIZE as u64).unwrap();
        let (mut expected, last) = (vec![0; SIZE], SIZE - 100);
        for range in [0..CHUNK_BYTES, last..SIZE] {
            expected[range.clone()].fill(9);
            file.write_all_at(&expected[range.clone()], range.start as u64).unwrap();
        }
        check(file, |read| {
            let (whole, waits) = read.unwrap();
            assert!(whole == expected);
            assert!(waits > 0, "a hole was read where the network waits");
        });
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_and_no_shorter_file() {
        for left in [SIZE - 1, CHUNK_BYTES, 10] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&content(), 0).unwrap();
            let other = file.try_clone().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
            let mut boot_file = BootFile::read(file, SIZE as u64, runtime.handle().clone()).unwrap();
            other.set_len(left as u64).unwrap();
            let error = runtime.block_on(read_whole(&mut boot_file)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{left}");
        }
    }
}
