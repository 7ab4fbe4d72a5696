//! File data on its way to a socket without being copied: pages of the page cache, in a pipe. I/O.
//!
//! A long READ takes its bytes out of the file first, so that the reply's head tells how
//! many there are whatever happens to the file meanwhile, and the socket takes them from the pipe
//! as it has room. What a pipe holds is pages by reference, as the kernel's own NFS server sends
//! them: a client that changes the same bytes before it has the reply may see the new ones.
//!
//! There are at most [`MAX_PIPES`]. Without one a READ is copied, as a short one always is.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::procedures::MAX_IO;

/// READs of at least so many bytes go through a pipe. Below it two copies cost less than
/// the pipe's system calls (`just bench`).
pub const MIN_BYTES: usize = 32 << 10;

/// Replies that are built or wait for their sockets at once without having been copied. Each keeps
/// two descriptors and up to `MAX_IO` of the page cache.
const MAX_PIPES: usize = 128;
/// Empty pipes that are kept: as many as calls run at once, as a rule. Each costs some 5 KiB.
const MAX_FREE: usize = 16;
/// A pipe holds one page a slot, and a file's range may begin and end within pages.
const SLOTS_BYTES: usize = 2 * MAX_IO;

/// All pipes of a server.
#[derive(Debug, Default)]
pub struct Pipes {
    free: Mutex<Vec<Ends>>,
    made: AtomicUsize,
}

#[derive(Debug)]
struct Ends {
    from: OwnedFd,
    to: OwnedFd,
}

/// One reply's bytes behind its head.
#[derive(Debug)]
pub struct Pipe {
    /// Always there, but while it is dropped.
    ends: Option<Ends>,
    pipes: Arc<Pipes>,
    length: usize,
}

/// Where a call leaves bytes that go behind its reply, for the thread that sends it.
#[derive(Debug)]
pub struct Outlet {
    pipes: Arc<Pipes>,
    body: RefCell<Option<Pipe>>,
}

impl Outlet {
    pub fn new(pipes: Arc<Pipes>) -> Self {
        Self { pipes, body: RefCell::new(None) }
    }

    /// An empty pipe; `None` where all are in use, or the kernel gives no more.
    pub fn pipe(&self) -> Option<Pipe> {
        Pipes::take(&self.pipes)
    }

    pub fn put(&self, pipe: Pipe) {
        self.body.replace(Some(pipe));
    }

    /// Bytes that were put here.
    pub fn len(&self) -> usize {
        self.body.borrow().as_ref().map_or(0, Pipe::len)
    }

    pub fn take(&self) -> Option<Pipe> {
        self.body.take()
    }
}

impl Pipes {
    fn take(pipes: &Arc<Self>) -> Option<Pipe> {
        let free = pipes.lock().pop();
        let ends = match free {
            Some(ends) => ends,
            None => {
                if pipes.made.fetch_add(1, Ordering::Relaxed) >= MAX_PIPES {
                    pipes.made.fetch_sub(1, Ordering::Relaxed);
                    return None;
                }
                match Ends::make() {
                    Ok(ends) => ends,
                    Err(_) => {
                        pipes.made.fetch_sub(1, Ordering::Relaxed);
                        return None;
                    }
                }
            }
        };
        Some(Pipe { ends: Some(ends), pipes: pipes.clone(), length: 0 })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Ends>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ends {
    fn make() -> Result<Self, Errno> {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A shorter one would cut READs short.
        fcntl_setpipe_size(&to, SLOTS_BYTES)?;
        Ok(Self { from, to })
    }
}

impl Pipe {
    /// Bytes that are in it.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Takes up to `count` bytes, at most `MAX_IO`, from `offset` of a regular file on: fewer at its end, or where
    /// an error stands behind them. How many.
    pub fn fill(&mut self, file: BorrowedFd<'_>, offset: u64, count: usize) -> Result<usize, Errno> {
        let Some(ends) = &self.ends else { return Err(Errno::BADF) };
        let mut filled = 0;
        while filled < count {
            let Some(mut at) = offset.checked_add(filled as u64) else { break };
            // A read that would end past 2^63 is refused by the kernel, whatever is there.
            let Some(room) = (i64::MAX as u64).checked_sub(at) else { break };
            let wanted = (count - filled).min(usize::try_from(room).unwrap_or(usize::MAX));
            match splice(file, Some(&mut at), &ends.to, None, wanted, SpliceFlags::NONBLOCK) {
                Ok(0) => break,
                Ok(taken) => {
                    filled += taken;
                    self.length += taken;
                }
                Err(Errno::INTR) => {}
                Err(_) if filled > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(filled)
    }

    /// XDR's padding, behind what was taken. `false` if it did not fit.
    pub fn pad(&mut self, count: usize) -> bool {
        let Some(ends) = &self.ends else { return false };
        let zeros = &[0; 3][..count.min(3)];
        let written = if zeros.is_empty() { Ok(0) } else { rustix::io::write(&ends.to, zeros) };
        self.length += written.unwrap_or_default();
        written == Ok(zeros.len())
    }

    /// Gives a non-blocking socket what it has room for; how many bytes, or `None` if the connection broke.
    pub fn send(&mut self, socket: impl AsFd) -> Option<usize> {
        let ends = self.ends.as_ref()?;
        let before = self.length;
        while self.length > 0 {
            // A connection that is gone raises SIGPIPE here, which a Rust program ignores from its start.
            match splice(&ends.from, None, &socket, None, self.length, SpliceFlags::NONBLOCK) {
                Ok(0) => return None,
                Ok(sent) => self.length -= sent.min(self.length),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        Some(before - self.length)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        // One that still holds something is of no use.
        if self.length == 0 {
            let mut free = self.pipes.lock();
            if free.len() < MAX_FREE {
                return free.push(ends);
            }
        }
        self.pipes.made.fetch_sub(1, Ordering::Relaxed);
        drop(ends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn file(bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_range_of_a_file_comes_out_of_the_socket_as_it_finds_room() {
        let content: Vec<u8> = (0..MAX_IO + 10_000).map(|n| (n / 3) as u8).collect();
        let file = file(&content);
        let outlet = Outlet::new(Arc::default());
        // A whole range that begins and ends within pages, and the file's end.
        for (offset, expected) in [(5, MAX_IO), (MAX_IO, 10_000), (content.len(), 0)] {
            let mut pipe = outlet.pipe().unwrap();
            assert_eq!(pipe.fill(file.as_fd(), offset as u64, MAX_IO), Ok(expected));
            assert!(pipe.pad(3));
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let (mut got, mut part) = (Vec::new(), vec![0; 50_000]);
            while pipe.len() > 0 {
                let sent = pipe.send(&ours).unwrap();
                let mut left = sent;
                while left > 0 {
                    let count = theirs.read(&mut part).unwrap();
                    got.extend_from_slice(&part[..count]);
                    left -= count;
                }
            }
            assert_eq!(got.len(), expected + 3);
            assert!(got.starts_with(&content[offset..offset + expected]) && got.ends_with(&[0; 3]));
        }
    }

    #[test]
    fn there_are_no_more_pipes_than_the_bound_and_those_that_are_done_come_back() {
        let file = file(&[1; 100]);
        let outlet = Outlet::new(Arc::default());
        let mut all: Vec<Pipe> = (0..MAX_PIPES).map(|_| outlet.pipe().unwrap()).collect();
        assert!(outlet.pipe().is_none());
        // One that was left half way is closed, not lent again.
        all[0].fill(file.as_fd(), 0, 100).unwrap();
        all.clear();
        assert_eq!(outlet.pipes.lock().len(), MAX_FREE);
        assert_eq!(outlet.pipes.made.load(Ordering::Relaxed), MAX_FREE);
        assert_eq!(outlet.pipe().unwrap().len(), 0);
    }

    #[test]
    fn a_connection_that_is_gone_is_told() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        drop(theirs);
        let mut pipe = Outlet::new(Arc::default()).pipe().unwrap();
        pipe.fill(file(&[1; 100]).as_fd(), 0, 100).unwrap();
        assert_eq!(pipe.send(&ours), None);
    }
}
