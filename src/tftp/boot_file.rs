//! The content of one boot file while it is sent: bytes in memory, or a file read chunk by chunk.
//!
//! I/O: files only. What may wait for the stick runs on the runtime's blocking pool.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_io::AsyncRead;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// How much of a file is read at once, in bytes: one hop to the pool for some
/// twenty blocks, and small enough for a thousand transfers at once.
const CHUNK_BYTES: usize = 32 * 1024;

/// A boot file while it is sent: bytes in memory, or a file read chunk by chunk.
pub struct BootFile {
    size: u64,
    /// What `chunk` begins with, in bytes from the file's start.
    chunk_at: u64,
    chunk: Vec<u8>,
    /// What was read out of `chunk`.
    taken: usize,
    rest: Option<(Arc<File>, Handle)>,
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl BootFile {
    pub fn of(bytes: Vec<u8>) -> Self {
        Self { size: bytes.len() as u64, chunk_at: 0, chunk: bytes, taken: 0, rest: None, reading: None }
    }

    /// Reads the first chunk: most boot files are no longer.
    pub fn read(file: File, size: u64, runtime: Handle) -> io::Result<Self> {
        let chunk = read_chunk(&file, 0, size)?;
        let rest = (size > chunk.len() as u64).then(|| (Arc::new(file), runtime));
        Ok(Self { size, chunk_at: 0, chunk, taken: 0, rest, reading: None })
    }

    /// In bytes, as it was when the file was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// While one chunk is sent, the next is read.
    fn read_ahead(&mut self) {
        let at = self.chunk_at + self.chunk.len() as u64;
        if let Some((file, runtime)) = &self.rest
            && self.reading.is_none()
            && at < self.size
        {
            let (file, size) = (file.clone(), self.size);
            self.reading = Some(runtime.spawn_blocking(move || read_chunk(&file, at, size)));
        }
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
                this.chunk_at += this.chunk.len() as u64;
                this.taken = 0;
                this.chunk = chunk.and_then(|read| read)?;
                continue;
            }
            return Poll::Ready(Ok(0));
        }
    }
}

/// The chunk at this offset of a file that had `size` bytes when it was
/// opened. One that shrank meanwhile is an error, not a shorter file.
fn read_chunk(file: &File, offset: u64, size: u64) -> io::Result<Vec<u8>> {
    let wanted = usize::try_from(size - offset).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
    let mut chunk = vec![0; wanted];
    file.read_exact_at(&mut chunk, offset)?;
    Ok(chunk)
}
