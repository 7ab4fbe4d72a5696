//! The process that serves a `Disk`: the kernel's FUSE protocol (`linux/fuse.h`, 7.31), as much as one file needs.
//!
//! It is forked off a test with many threads, so it makes system calls and nothing else: it
//! allocates nothing and takes no lock. What it remembers lies in files in memory, which the test reads.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// What the test asks.
pub const MOUNTED: u8 = b'm';
pub const STAND_STILL: u8 = b's';
pub const GO_ON: u8 = b'g';
pub const IS_WAITED_FOR: u8 = b'w';
pub const FAIL: u8 = b'f';
/// The answers.
pub const YES: u8 = b'y';
const NO: u8 = b'n';

/// One event: offset, or `FLUSH`; length; where in `data`.
pub const INDEX_BYTES: usize = 24;
pub const FLUSH: u64 = u64::MAX;

/// How long it serves without its test.
const ALONE: Duration = Duration::from_secs(30);
const MAX_WRITE: usize = 128 << 10;
const ROOT: u64 = 1;
const FILE: u64 = 2;
/// `fuse_out_header`
const HEAD: usize = 16;

/// What it is given.
pub struct Parts {
    pub parent: OwnedFd,
    pub fuse: OwnedFd,
    pub content: OwnedFd,
    pub data: OwnedFd,
    pub index: OwnedFd,
    pub size: u64,
}

/// The test is being killed. One of its threads may wait for the disk in the kernel, deaf to signals, and until that
/// one has ended too its end of the socket stays open.
static KILLED: AtomicBool = AtomicBool::new(false);

extern "C" fn killed(_: libc::c_int) {
    KILLED.store(true, Ordering::SeqCst);
}

/// Starts it. It tells with one byte that the disk can be mounted; its mounts are not the caller's.
pub fn start(parts: Parts, point: &Path) {
    let point = CString::new(point.as_os_str().as_bytes()).unwrap();
    // A thread that does nothing but wait for the process, so a kill ends it at once, which the kernel tells the process.
    std::thread::spawn(move || fork(parts, &point));
}

fn fork(parts: Parts, point: &CStr) {
    let (mut request, mut reply) = (vec![0; MAX_WRITE + 8192], vec![0; MAX_WRITE + 4096]);
    // SAFETY: the child makes system calls only and then ends: see above.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {}
        child => {
            drop(parts);
            // SAFETY: no status is asked for.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            return;
        }
    }
    let end = End(parts.fuse.as_raw_fd());
    // SAFETY: the handler stores one atomic.
    unsafe {
        libc::signal(libc::SIGTERM, killed as extern "C" fn(libc::c_int) as libc::sighandler_t);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
    }
    let _ = run(&parts, point, &mut request, &mut reply);
    drop(end);
}

/// However it ends, a panic too, nothing of the test's runs behind.
struct End(i32);

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: closed before the process ends: that ends the mount, and all that waits for it.
        unsafe {
            libc::close(self.0);
            libc::_exit(0)
        }
    }
}

fn run(parts: &Parts, point: &CStr, request: &mut [u8], reply: &mut [u8]) -> Result<(), Errno> {
    // Not ended with the test by a signal to its group, and holding nothing open that it does not need.
    let _ = rustix::process::setsid();
    close_others(parts);
    own_root(point)?;
    rustix::io::write(&parts.parent, &[YES])?;
    let mut state = State { parts, waits: None, stands_still: false, fails: false, written: 0, events: 0 };
    // Before the mount there is nothing to read.
    let mut alone = match state.asked()? {
        true => None,
        false => return Ok(()),
    };
    loop {
        let (from_test, from_kernel) = {
            let ready =
                |fd, on: bool| PollFd::from_borrowed_fd(fd, if on { PollFlags::IN } else { PollFlags::empty() });
            let (test, kernel) = (std::os::fd::AsFd::as_fd(&parts.parent), std::os::fd::AsFd::as_fd(&parts.fuse));
            // Of what is not asked for, hanging up and errors are told all the same.
            let mut fds = [ready(kernel, state.waits.is_none()), ready(test, true)];
            let count = if alone.is_some() { 1 } else { 2 };
            let moment = rustix::time::Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
            match poll(&mut fds[..count], Some(&moment)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            (!fds[1].revents().is_empty(), !fds[0].revents().is_empty())
        };
        let left = alone.is_none() && (KILLED.load(Ordering::SeqCst) || (from_test && !state.asked()?));
        if left {
            alone = Some(Instant::now() + ALONE);
            state.stands_still = false;
        }
        if alone.is_some_and(|end| Instant::now() > end) {
            return Ok(());
        }
        if let Some(length) = state.waits.filter(|_| !state.stands_still) {
            state.waits = None;
            state.serve(&request[..length], reply)?;
        } else if from_kernel && state.waits.is_some() {
            // The mount is gone, and with it the request.
            return Ok(());
        } else if from_kernel {
            let length = match rustix::io::read(&parts.fuse, &mut *request) {
                // ENOENT: the asker was killed meanwhile.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
                read => read?,
            };
            if state.stands_still && matches!(u32_at(request, 4), 16 | 20) {
                state.waits = Some(length);
            } else {
                state.serve(&request[..length], reply)?;
            }
        }
    }
}

/// Descriptors of others, which would keep open what they close.
fn close_others(parts: &Parts) {
    let own = [&parts.parent, &parts.fuse, &parts.content, &parts.data, &parts.index].map(AsRawFd::as_raw_fd);
    let mut from = 0;
    while let Some(next) = own.iter().copied().filter(|fd| *fd >= from).min() {
        if next > from {
            // SAFETY: nothing of this process uses them.
            unsafe { libc::syscall(libc::SYS_close_range, from, next - 1, 0) };
        }
        from = next + 1;
    }
    // SAFETY: the same.
    unsafe { libc::syscall(libc::SYS_close_range, from, i32::MAX, 0) };
}

/// A root without any of the mounts that there are, which would be kept from going as well.
fn own_root(point: &CStr) -> Result<(), Errno> {
    // SAFETY: the process has one thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    rustix::mount::mount(c"none", point, c"tmpfs", MountFlags::empty(), None::<&CStr>)?;
    rustix::process::chdir(point)?;
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}

struct State<'a> {
    parts: &'a Parts,
    stands_still: bool,
    /// From now on nothing is written.
    fails: bool,
    /// The request that waits for it to go on: its length.
    waits: Option<usize>,
    /// What is in `data` and `index`.
    written: u64,
    events: u64,
}

impl State<'_> {
    /// Does what the test asks; false if it is gone.
    fn asked(&mut self) -> Result<bool, Errno> {
        let mut what = [0];
        if rustix::io::read(&self.parts.parent, &mut what).unwrap_or(0) == 0 {
            return Ok(false);
        }
        let answer = match what[0] {
            STAND_STILL => {
                self.stands_still = true;
                YES
            }
            GO_ON => {
                (self.stands_still, self.fails) = (false, false);
                YES
            }
            FAIL => {
                (self.stands_still, self.fails) = (false, true);
                YES
            }
            IS_WAITED_FOR if self.waits.is_none() => NO,
            _ => YES,
        };
        // EPIPE is told by the next read.
        let _ = rustix::io::write(&self.parts.parent, &[answer]);
        Ok(true)
    }

    fn serve(&mut self, request: &[u8], reply: &mut [u8]) -> Result<(), Errno> {
        let (opcode, unique, node, body) =
            (u32_at(request, 4), u64_at(request, 8), u64_at(request, 16), &request[40..]);
        // FORGET, INTERRUPT, BATCH_FORGET want no reply.
        if matches!(opcode, 2 | 36 | 42) {
            return Ok(());
        }
        let (head, rest) = reply.split_at_mut(HEAD);
        let (error, length) = match self.answer(opcode, node, body, Out { bytes: rest, length: 0 }) {
            Ok(length) => (0, length),
            Err(errno) => (-errno.raw_os_error(), 0),
        };
        head[..4].copy_from_slice(&((HEAD + length) as u32).to_ne_bytes());
        head[4..8].copy_from_slice(&error.to_ne_bytes());
        head[8..].copy_from_slice(&unique.to_ne_bytes());
        match rustix::io::write(&self.parts.fuse, &reply[..HEAD + length]) {
            // ENOENT where the asker was killed meanwhile.
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn answer(&mut self, opcode: u32, node: u64, body: &[u8], out: Out<'_>) -> Result<usize, Errno> {
        let size = self.parts.size;
        let out = match opcode {
            // LOOKUP
            1 if body.starts_with(b"disk\0") => out.u64s(&[FILE, 0, 3600, 3600]).u32s(&[0, 0]).attr(FILE, size),
            1 => return Err(Errno::NOENT),
            // GETATTR, SETATTR
            3 | 4 => out.u64s(&[3600]).u32s(&[0, 0]).attr(node, size),
            // OPEN with FOPEN_KEEP_CACHE, OPENDIR
            14 | 27 => out.u64s(&[0]).u32s(&[2, 0]),
            // READ
            15 => {
                let (start, length) = (u64_at(body, 8).min(size), u64::from(u32_at(body, 16)));
                let length = length.min(size - start) as usize;
                return rustix::io::pread(&self.parts.content, &mut out.bytes[..length], start);
            }
            16 | 20 if self.fails => return Err(Errno::IO),
            // WRITE
            16 => {
                let (offset, length) = (u64_at(body, 8), u32_at(body, 16) as usize);
                let data = &body[40..40 + length];
                if offset + length as u64 > size {
                    return Err(Errno::NOSPC);
                }
                put(&self.parts.content, data, offset)?;
                put(&self.parts.data, data, self.written)?;
                self.remember([offset, length as u64, self.written])?;
                self.written += length as u64;
                out.u32s(&[length as u32, 0])
            }
            // STATFS
            17 => out.u64s(&[1 << 20; 5]).u32s(&[4096, 255, 4096, 0, 0, 0, 0, 0, 0, 0]),
            // FSYNC
            20 => {
                self.remember([FLUSH, 0, 0])?;
                out
            }
            // RELEASE, FLUSH, RELEASEDIR, DESTROY
            18 | 25 | 29 | 38 => out,
            // INIT: 7.31, with BIG_WRITES and MAX_PAGES
            26 => out
                .u32s(&[7, 31, 0, 1 << 5 | 1 << 22, 16 | 12 << 16, MAX_WRITE as u32, 1, (MAX_WRITE / 4096) as u32])
                .u32s(&[0; 8]),
            _ => return Err(Errno::NOSYS),
        };
        Ok(out.length)
    }

    /// The event is there when its entry is, whole.
    fn remember(&mut self, entry: [u64; 3]) -> Result<(), Errno> {
        let mut bytes = [0; INDEX_BYTES];
        Out { bytes: &mut bytes, length: 0 }.u64s(&entry);
        put(&self.parts.index, &bytes, self.events * INDEX_BYTES as u64)?;
        self.events += 1;
        Ok(())
    }
}

/// A file in memory takes all or, without memory, nothing that would be of use.
fn put(file: &OwnedFd, data: &[u8], at: u64) -> Result<(), Errno> {
    let file: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(file);
    if rustix::io::pwrite(file, data, at)? == data.len() { Ok(()) } else { Err(Errno::NOSPC) }
}

/// Items of a reply, in the machine's byte order.
struct Out<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn u32s(mut self, items: &[u32]) -> Self {
        items.iter().for_each(|item| self.put(&item.to_ne_bytes()));
        self
    }

    fn u64s(mut self, items: &[u64]) -> Self {
        items.iter().for_each(|item| self.put(&item.to_ne_bytes()));
        self
    }

    /// `struct fuse_attr`
    fn attr(self, node: u64, size: u64) -> Self {
        let (mode, size) = if node == ROOT { (0o040_755, 0) } else { (0o100_600, size) };
        self.u64s(&[node, size, size.div_ceil(512), 0, 0, 0]).u32s(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])
    }
}
