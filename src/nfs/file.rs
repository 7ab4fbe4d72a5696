//! Files by handle: the kernel's handles, and the descriptors that calls on
//! the same file share. I/O.
//!
//! Opening by handle costs 4 to 8 µs on an overlay (measured 2026-11-22), more
//! than most calls cost besides, so descriptors are kept for a moment: for all
//! trees together as many as the machine's memory allows, shared among the trees that
//! are open, and none longer than `MAX_REST` after its last call.

use std::collections::HashMap;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nfsserve::nfs::ftype3;
use rustix::fs::{Access, AtFlags, OFlags, Stat, StatxFlags};
use rustix::io::Errno;

use super::handle::{Handle, MAX_KERNEL_BYTES};

/// Open files for all trees: an open one keeps some 3 KiB of the kernel's memory, so this is at most a twentieth.
const MEMORY_PER_FILE: u64 = 64 << 10;
const MAX_FILES: usize = 65_536;
const MIN_FILES: usize = 1024;
/// Descriptors that one file may have: to look at, to read, to write.
pub const DESCRIPTORS_PER_FILE: usize = 3;
const MAX_REST: Duration = Duration::from_secs(2);

/// Seconds and nanoseconds at which an inode was made.
pub type Birth = (i64, u32);

/// One file, opened as the server.
#[derive(Debug)]
pub struct File {
    /// `O_PATH`, or of a new file `write` once more: for all that needs no data, on any kind of file.
    path: OwnedFd,
    read: OnceLock<OwnedFd>,
    write: OnceLock<OwnedFd>,
    used: AtomicU64,
    /// Data may be in memory only that this server wrote.
    unstable: AtomicBool,
}

impl File {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.path.as_fd()
    }

    pub fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::fstat(&self.path)
    }

    /// When the inode was made that holds the file now. It changes when overlayfs copies the file up, and never else.
    pub fn birth(&self) -> Option<Birth> {
        let flags = AtFlags::EMPTY_PATH;
        let statx = rustix::fs::statx(&self.path, c"", flags, StatxFlags::BTIME).ok()?;
        Some((statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec))
    }

    /// It was opened to be written to, so it lies in the upper layer.
    pub fn is_written(&self) -> bool {
        self.write.get().is_some()
    }

    /// Before data is written that no fsync follows at once.
    pub fn leaves_data(&self) {
        self.unstable.store(true, Ordering::SeqCst);
    }

    /// Brings data and attributes to the stick.
    pub fn sync(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        // What is written meanwhile is marked again.
        let before = self.unstable.swap(false, Ordering::SeqCst);
        rustix::fs::fsync(fd).inspect_err(|_| {
            self.unstable.fetch_or(before, Ordering::SeqCst);
        })
    }

    /// Its descriptor, where an fsync would write nothing but the journal.
    pub fn stable(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.write.get()?;
        (!self.unstable.load(Ordering::SeqCst)).then(|| fd.as_fd())
    }

    /// Whether the calling thread, with the file-system ids it has now, may do `access`.
    ///
    /// By hand: rustix refuses AT_EMPTY_PATH here (1.1.6 answers EINVAL).
    pub fn may_access(&self, access: Access) -> bool {
        let (empty, flags) = (c"", libc::AT_EACCESS | libc::AT_EMPTY_PATH);
        // SAFETY: the path is NUL-terminated and static; nothing else is passed by address.
        let denied =
            unsafe { libc::syscall(libc::SYS_faccessat2, self.path.as_raw_fd(), empty.as_ptr(), access.bits(), flags) };
        denied == 0
    }

    /// A descriptor to read from, or to fsync. Only for regular files and directories.
    pub fn reader(&self, root: &OwnedFd, handle: &Handle) -> Result<BorrowedFd<'_>, Errno> {
        opened(&self.read, root, handle, OFlags::RDONLY)
    }

    /// A descriptor to fsync: one that is open already, if there is one.
    pub fn syncer(&self, root: &OwnedFd, handle: &Handle) -> Result<BorrowedFd<'_>, Errno> {
        match self.write.get() {
            Some(fd) => Ok(fd.as_fd()),
            None => self.reader(root, handle),
        }
    }

    /// A descriptor to write to. Only for regular files; copies a lower one up.
    pub fn writer(&self, root: &OwnedFd, handle: &Handle) -> Result<BorrowedFd<'_>, Errno> {
        opened(&self.write, root, handle, OFlags::WRONLY)
    }
}

fn opened<'a>(
    slot: &'a OnceLock<OwnedFd>,
    root: &OwnedFd,
    handle: &Handle,
    access: OFlags,
) -> Result<BorrowedFd<'a>, Errno> {
    if let Some(fd) = slot.get() {
        return Ok(fd.as_fd());
    }
    if !handle.is_regular() && !handle.is_directory() {
        return Err(Errno::INVAL);
    }
    let fd = open_by_handle(root, handle, access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::LARGEFILE)?;
    // Where two calls opened it at once, one descriptor is closed again.
    Ok(slot.get_or_init(|| fd).as_fd())
}

/// How many files may be kept open, and how many trees share that.
#[derive(Debug)]
pub struct Budget {
    files: usize,
    trees: AtomicUsize,
}

impl Budget {
    /// For a machine with so many bytes of memory, and a process with so many descriptors.
    pub fn new(memory: u64, descriptors: usize) -> Self {
        let files = usize::try_from(memory / MEMORY_PER_FILE).unwrap_or(MAX_FILES).clamp(MIN_FILES, MAX_FILES);
        Self { files: files.min(descriptors / (DESCRIPTORS_PER_FILE + 1)), trees: AtomicUsize::new(0) }
    }

    /// Of one tree. At least a few, or a call could lose its file to the next one.
    fn share(&self) -> usize {
        (self.files / self.trees.load(Ordering::Relaxed).max(1)).max(16)
    }
}

/// The files of one tree that are open.
#[derive(Debug)]
pub struct FileCache {
    budget: Arc<Budget>,
    files: Mutex<HashMap<Handle, Arc<File>>>,
    clock: AtomicU64,
    swept: Mutex<Option<(Instant, u64)>>,
}

impl Drop for FileCache {
    fn drop(&mut self) {
        self.budget.trees.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FileCache {
    pub fn new(budget: Arc<Budget>) -> Self {
        budget.trees.fetch_add(1, Ordering::Relaxed);
        Self { budget, files: Mutex::default(), clock: AtomicU64::new(0), swept: Mutex::new(None) }
    }

    /// The file that a name was found to be, if it is open: with its handle, which tells its type too.
    pub fn find(&self, handle: &Handle) -> Option<(Handle, Arc<File>)> {
        let used = self.clock.fetch_add(1, Ordering::Relaxed);
        let files = self.lock();
        let (handle, file) = files.get_key_value(handle)?;
        file.used.store(used, Ordering::Relaxed);
        Some((*handle, file.clone()))
    }

    /// The file of `handle`; ESTALE if it is gone.
    pub fn get(&self, root: &OwnedFd, handle: &Handle) -> Result<Arc<File>, Errno> {
        let used = self.clock.fetch_add(1, Ordering::Relaxed);
        if let Some(file) = self.lock().get(handle) {
            file.used.store(used, Ordering::Relaxed);
            return Ok(file.clone());
        }
        let path = open_by_handle(root, handle, OFlags::PATH | OFlags::NOFOLLOW)?;
        Ok(self.insert(*handle, path))
    }

    /// Keeps a descriptor that a call had to open anyway.
    pub fn insert(&self, handle: Handle, path: OwnedFd) -> Arc<File> {
        self.keep(handle, path, OnceLock::new())
    }

    /// The same for one that can be written to.
    pub fn insert_written(&self, handle: Handle, fd: OwnedFd) -> Arc<File> {
        match rustix::io::fcntl_dupfd_cloexec(&fd, 0) {
            Ok(path) => self.keep(handle, path, OnceLock::from(fd)),
            // Out of descriptors: the one will do.
            Err(_) => self.insert(handle, fd),
        }
    }

    fn keep(&self, handle: Handle, path: OwnedFd, write: OnceLock<OwnedFd>) -> Arc<File> {
        let used = AtomicU64::new(self.clock.fetch_add(1, Ordering::Relaxed));
        let file = Arc::new(File { path, read: OnceLock::new(), write, used, unstable: AtomicBool::new(false) });
        let mut files = self.lock();
        let share = self.budget.share();
        let closed = if files.len() >= share { oldest_quarter(&mut files, share) } else { Vec::new() };
        let replaced = files.insert(handle, file.clone());
        drop(files);
        // Closing takes its time: not while others wait for the lock.
        drop((closed, replaced));
        file
    }

    /// A removed file's room on the stick is free only when nobody has it open. Closing it frees that room, and may wait for
    /// the journal: not while others wait for the lock.
    pub fn forget(&self, handle: &Handle) {
        let gone = self.lock().remove(handle);
        drop(gone);
    }

    /// Closes what was not used since the last sweep but `MAX_REST` ago.
    pub fn sweep(&self, now: Instant) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let clock = self.clock.load(Ordering::Relaxed);
        match *swept {
            Some((then, _)) if now.saturating_duration_since(then) < MAX_REST => {}
            Some((_, before)) => {
                let old = |_: &Handle, file: &mut Arc<File>| file.used.load(Ordering::Relaxed) < before;
                let closed: Vec<_> = self.lock().extract_if(old).collect();
                drop(closed);
                *swept = Some((now, clock));
            }
            None => *swept = Some((now, clock)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Handle, Arc<File>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes out what was not used for longest: a quarter at once, so that looking for it costs
/// each new file only a little.
fn oldest_quarter(files: &mut HashMap<Handle, Arc<File>>, share: usize) -> Vec<Arc<File>> {
    let mut used: Vec<u64> = files.values().map(|file| file.used.load(Ordering::Relaxed)).collect();
    let count = files.len() - share + share / 4;
    let (_, newest, _) = used.select_nth_unstable(count.min(files.len()) - 1);
    let newest = *newest;
    let old = |_: &Handle, file: &mut Arc<File>| file.used.load(Ordering::Relaxed) <= newest;
    files.extract_if(old).map(|(_, file)| file).collect()
}

/// The kernel's `struct file_handle` with room for what fits into ours.
#[repr(C)]
struct KernelHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; MAX_KERNEL_BYTES],
}

fn open_by_handle(root: &OwnedFd, handle: &Handle, flags: OFlags) -> Result<OwnedFd, Errno> {
    let bytes = handle.kernel_bytes();
    let mut kernel = KernelHandle {
        handle_bytes: bytes.len() as u32,
        handle_type: handle.kind.into(),
        f_handle: [0; MAX_KERNEL_BYTES],
    };
    kernel.f_handle[..bytes.len()].copy_from_slice(bytes);
    let flags = (flags | OFlags::CLOEXEC).bits();
    // SAFETY: `kernel` is laid out as the kernel's struct, lives through the call, and holds
    // the `handle_bytes` bytes that it says; the descriptor returned is new and ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_open_by_handle_at, root.as_raw_fd(), &raw mut kernel, flags);
        if fd < 0 { Err(last_errno()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}

/// The handle of `name` in `directory` (a symbolic link's own), or of
/// `directory` itself when the name is empty; with the id of the mount it is on.
pub fn handle_at(directory: BorrowedFd<'_>, name: &[u8], export: u32, ftype: ftype3) -> Result<(Handle, i32), Errno> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    let mut kernel =
        KernelHandle { handle_bytes: MAX_KERNEL_BYTES as u32, handle_type: 0, f_handle: [0; MAX_KERNEL_BYTES] };
    let mut mount = MaybeUninit::<i32>::uninit();
    // SAFETY: the name is NUL-terminated, `kernel` has the room that `handle_bytes` says, and
    // all three outlive the call. The kernel fills `mount` before it returns 0.
    let mount = unsafe {
        let result = libc::syscall(
            libc::SYS_name_to_handle_at,
            directory.as_raw_fd(),
            name.as_ptr(),
            &raw mut kernel,
            mount.as_mut_ptr(),
            flags,
        );
        if result != 0 {
            return Err(last_errno());
        }
        mount.assume_init()
    };
    let bytes = kernel.f_handle.get(..kernel.handle_bytes as usize).ok_or(Errno::OVERFLOW)?;
    let handle = Handle::new(export, kernel.handle_type, ftype, bytes).ok_or(Errno::OVERFLOW)?;
    Ok((handle, mount))
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_stay_in_the_share_of_their_tree() {
        let budget = Arc::new(Budget::new(1 << 20, 400));
        let (cache, _other) = (FileCache::new(budget.clone()), FileCache::new(budget.clone()));
        assert_eq!(budget.share(), 50);
        let null = || rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty()).unwrap();
        let handle = |n: u32| Handle::new(1, 1, ftype3::NF3REG, &n.to_be_bytes()).unwrap();
        for n in 0..200 {
            cache.insert(handle(n), null());
            assert!(cache.lock().len() <= 50);
        }
        // The newest stay.
        assert!(cache.find(&handle(199)).is_some() && cache.find(&handle(190)).is_some());
        assert!(cache.find(&handle(0)).is_none());
    }
}
