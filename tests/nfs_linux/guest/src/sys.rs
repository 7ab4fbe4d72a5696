//! System calls as they are: paths of any bytes in, the kernel's own errno out.

use std::ffi::CString;
use std::mem::MaybeUninit;

pub type Errno = i32;
pub type Result<T> = std::result::Result<T, Errno>;

pub fn errno_name(errno: Errno) -> String {
    let known = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::EIO, "EIO"),
        (libc::ENXIO, "ENXIO"),
        (libc::ENOEXEC, "ENOEXEC"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::EADDRINUSE, "EADDRINUSE"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::EPROTOTYPE, "EPROTOTYPE"),
        (libc::EACCES, "EACCES"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::EXDEV, "EXDEV"),
        (libc::ENODEV, "ENODEV"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EISDIR, "EISDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::ETXTBSY, "ETXTBSY"),
        (libc::EFBIG, "EFBIG"),
        (libc::EROFS, "EROFS"),
        (libc::EMLINK, "EMLINK"),
        (libc::ENAMETOOLONG, "ENAMETOOLONG"),
        (libc::ENOTEMPTY, "ENOTEMPTY"),
        (libc::ELOOP, "ELOOP"),
        (libc::EOVERFLOW, "EOVERFLOW"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::ESTALE, "ESTALE"),
        (libc::EREMOTEIO, "EREMOTEIO"),
    ];
    let name = known.iter().find(|(number, _)| *number == errno);
    name.map_or_else(|| format!("errno {errno}"), |(_, name)| (*name).to_owned())
}

pub(crate) fn last() -> Errno {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

pub(crate) fn check(result: i64) -> Result<i64> {
    if result < 0 { Err(last()) } else { Ok(result) }
}

pub(crate) fn c(path: impl AsRef<[u8]>) -> CString {
    CString::new(path.as_ref()).expect("no NUL in the judge's names")
}

/// A system call whose arguments are integers and NUL-terminated paths that outlive it.
#[allow(clippy::unnecessary_cast)] // of whatever type the call's result is
macro_rules! call {
    ($name:ident($($argument:expr),*)) => {{
        // SAFETY: integers, and pointers to strings or structs that live through the call.
        let result = unsafe { libc::$name($($argument),*) };
        check(result as i64)
    }};
}
pub(crate) use call;

pub type Path<'a> = &'a [u8];

pub fn chmod(path: Path<'_>, mode: u32) -> Result<i64> {
    call!(chmod(c(path).as_ptr(), mode))
}
pub fn fchmod(fd: i32, mode: u32) -> Result<i64> {
    call!(fchmod(fd, mode))
}
pub fn chown(path: Path<'_>, uid: u32, gid: u32) -> Result<i64> {
    call!(chown(c(path).as_ptr(), uid, gid))
}
pub fn lchown(path: Path<'_>, uid: u32, gid: u32) -> Result<i64> {
    call!(lchown(c(path).as_ptr(), uid, gid))
}
pub fn fchown(fd: i32, uid: u32, gid: u32) -> Result<i64> {
    call!(fchown(fd, uid, gid))
}
pub fn link(from: Path<'_>, to: Path<'_>) -> Result<i64> {
    call!(link(c(from).as_ptr(), c(to).as_ptr()))
}
pub fn rename(from: Path<'_>, to: Path<'_>) -> Result<i64> {
    call!(rename(c(from).as_ptr(), c(to).as_ptr()))
}
pub fn unlink(path: Path<'_>) -> Result<i64> {
    call!(unlink(c(path).as_ptr()))
}
pub fn rmdir(path: Path<'_>) -> Result<i64> {
    call!(rmdir(c(path).as_ptr()))
}
pub fn mkdir(path: Path<'_>, mode: u32) -> Result<i64> {
    call!(mkdir(c(path).as_ptr(), mode))
}
pub fn mknod(path: Path<'_>, mode: u32, device: u64) -> Result<i64> {
    call!(mknod(c(path).as_ptr(), mode, device))
}
pub fn symlink(text: &[u8], path: Path<'_>) -> Result<i64> {
    call!(symlink(c(text).as_ptr(), c(path).as_ptr()))
}
pub fn truncate(path: Path<'_>, size: i64) -> Result<i64> {
    call!(truncate(c(path).as_ptr(), size))
}
pub fn ftruncate(fd: i32, size: i64) -> Result<i64> {
    call!(ftruncate(fd, size))
}
pub fn access(path: Path<'_>, how: i32) -> Result<i64> {
    // By the effective ids, which are the ones the judge changes.
    call!(faccessat(libc::AT_FDCWD, c(path).as_ptr(), how, libc::AT_EACCESS))
}
pub fn fsync(fd: i32) -> Result<i64> {
    call!(fsync(fd))
}
pub fn chdir(path: Path<'_>) -> Result<i64> {
    call!(chdir(c(path).as_ptr()))
}

/// Seconds and nanoseconds of atime and mtime; `None` is the call without times.
pub fn utimens(path: Path<'_>, times: Option<[(i64, i64); 2]>, follow: bool) -> Result<i64> {
    let times = times.map(|times| times.map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec }));
    let pointer = times.as_ref().map_or(std::ptr::null(), |times| times.as_ptr());
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    call!(utimensat(libc::AT_FDCWD, c(path).as_ptr(), pointer, flags))
}

pub fn readlink(path: Path<'_>) -> Result<Vec<u8>> {
    let mut text = vec![0; 8192];
    let count = call!(readlink(c(path).as_ptr(), text.as_mut_ptr().cast(), text.len()))?;
    text.truncate(count as usize);
    Ok(text)
}

pub fn lstat(path: Path<'_>) -> Result<libc::stat> {
    let mut stat = MaybeUninit::uninit();
    call!(lstat(c(path).as_ptr(), stat.as_mut_ptr()))?;
    // SAFETY: the kernel filled it, since the call succeeded.
    Ok(unsafe { stat.assume_init() })
}
pub fn stat(path: Path<'_>) -> Result<libc::stat> {
    let mut stat = MaybeUninit::uninit();
    call!(stat(c(path).as_ptr(), stat.as_mut_ptr()))?;
    // SAFETY: the kernel filled it, since the call succeeded.
    Ok(unsafe { stat.assume_init() })
}
pub fn fstat(fd: &Fd) -> Result<libc::stat> {
    let mut stat = MaybeUninit::uninit();
    call!(fstat(fd.0, stat.as_mut_ptr()))?;
    // SAFETY: the kernel filled it, since the call succeeded.
    Ok(unsafe { stat.assume_init() })
}
pub fn statvfs(path: Path<'_>) -> Result<libc::statvfs> {
    let mut stat = MaybeUninit::uninit();
    call!(statvfs(c(path).as_ptr(), stat.as_mut_ptr()))?;
    // SAFETY: the kernel filled it, since the call succeeded.
    Ok(unsafe { stat.assume_init() })
}

/// An open file, closed on drop.
pub struct Fd(pub i32);

impl Drop for Fd {
    fn drop(&mut self) {
        let _ = call!(close(self.0));
    }
}

pub fn open(path: Path<'_>, flags: i32, mode: u32) -> Result<Fd> {
    call!(open(c(path).as_ptr(), flags | libc::O_CLOEXEC, mode)).map(|fd| Fd(fd as i32))
}

pub fn pread(fd: &Fd, place: &mut [u8], at: i64) -> Result<usize> {
    call!(pread(fd.0, place.as_mut_ptr().cast(), place.len(), at)).map(|count| count as usize)
}
pub fn pwrite(fd: &Fd, data: &[u8], at: i64) -> Result<usize> {
    call!(pwrite(fd.0, data.as_ptr().cast(), data.len(), at)).map(|count| count as usize)
}
pub fn read(fd: &Fd, place: &mut [u8]) -> Result<usize> {
    call!(read(fd.0, place.as_mut_ptr().cast(), place.len())).map(|count| count as usize)
}
pub fn write(fd: &Fd, data: &[u8]) -> Result<usize> {
    call!(write(fd.0, data.as_ptr().cast(), data.len())).map(|count| count as usize)
}
/// The next read asks the file system, not memory.
pub fn forget_pages(fd: &Fd) -> Result<i64> {
    // It tells its error instead of setting errno.
    match call!(posix_fadvise(fd.0, 0, 0, libc::POSIX_FADV_DONTNEED))? {
        0 => Ok(0),
        errno => Err(errno as Errno),
    }
}

/// Who acts: ids and supplementary groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    pub name: &'static str,
    pub uid: u32,
    pub gid: u32,
    pub groups: &'static [u32],
}

/// Does something as `actor`, and is root again: this thread, not the process as by the C library's functions.
pub fn acting<T>(actor: Actor, work: impl FnOnce() -> T) -> T {
    const SAME: u32 = u32::MAX;
    let user = |uid: u32| call!(syscall(libc::SYS_setresuid, SAME, uid, SAME));
    let set = |uid: u32, gid: u32, groups: &[u32]| {
        call!(syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr())).expect("setgroups, as root");
        call!(syscall(libc::SYS_setresgid, SAME, gid, SAME)).expect("setresgid, as root");
        user(uid).expect("setresuid, as root");
    };
    set(actor.uid, actor.gid, actor.groups);
    let result = work();
    user(0).expect("root again");
    set(0, 0, &[]);
    result
}

/// A process of the judge's own, which tells two numbers when it is done.
pub struct Child {
    id: i32,
    pipe: Fd,
}

/// Runs `work` in another process. Only for a process with one thread.
pub fn fork(work: impl FnOnce() -> (u64, u64)) -> Result<Child> {
    let mut ends = [0; 2];
    call!(pipe(ends.as_mut_ptr()))?;
    let [pipe, to] = ends.map(Fd);
    match call!(fork())? {
        0 => {
            let (passed, failed) = work();
            let _ = write(&to, &[passed.to_ne_bytes(), failed.to_ne_bytes()].concat());
            std::process::exit(0)
        }
        id => Ok(Child { id: id as i32, pipe }),
    }
}

impl Child {
    pub fn wait(self) -> Result<(u64, u64)> {
        let mut told = [0; 16];
        let got = read(&self.pipe, &mut told)?;
        call!(waitpid(self.id, std::ptr::null_mut(), 0))?;
        if got != told.len() {
            return Err(libc::ECHILD);
        }
        let (passed, failed) = told.split_at(8);
        let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        Ok((number(passed), number(failed)))
    }
}

/// From now on this thread has a working directory and a umask of its own.
pub fn own_place() -> Result<i64> {
    call!(unshare(libc::CLONE_FS))
}

pub fn umask(mask: u32) {
    let _ = call!(umask(mask));
}

/// A file's pages in memory, shared.
pub struct Map {
    at: *mut libc::c_void,
    length: usize,
}

impl Map {
    pub fn new(fd: &Fd, length: usize) -> Result<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd.0, 0)
        };
        if at == libc::MAP_FAILED { Err(last()) } else { Ok(Self { at, length }) }
    }

    pub fn get(&self, from: usize, place: &mut [u8]) {
        assert!(from + place.len() <= self.length);
        // SAFETY: in the mapping, as asserted; nobody else writes to this file meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(self.at.cast::<u8>().add(from), place.as_mut_ptr(), place.len()) }
    }

    pub fn put(&self, from: usize, data: &[u8]) {
        assert!(from + data.len() <= self.length);
        // SAFETY: in the mapping, as asserted; nobody else reads or writes this file meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.at.cast::<u8>().add(from), data.len()) }
    }

    pub fn sync(&self) -> Result<i64> {
        call!(msync(self.at, self.length, libc::MS_SYNC))
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let _ = call!(munmap(self.at, self.length));
    }
}

/// Names in a directory but the dots, in the kernel's order; `seen` may change the directory meanwhile.
pub fn list(path: Path<'_>, mut seen: impl FnMut(&[u8])) -> Result<usize> {
    let fd = open(path, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let mut buffer = vec![0u8; 32 << 10];
    let mut count = 0;
    loop {
        let got = call!(syscall(libc::SYS_getdents64, fd.0, buffer.as_mut_ptr(), buffer.len()))? as usize;
        if got == 0 {
            return Ok(count);
        }
        let mut at = 0;
        while at < got {
            let length = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
            let name = &buffer[at + 19..at + length];
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if name != b"." && name != b".." {
                count += 1;
                seen(name);
            }
            at += length;
        }
    }
}

pub fn mount(source: &str, at: &str, kind: &str, options: &str) -> Result<i64> {
    call!(mount(c(source).as_ptr(), c(at).as_ptr(), c(kind).as_ptr(), 0, c(options).as_ptr().cast()))
}
pub fn unmount(at: &str) -> Result<i64> {
    call!(umount2(c(at).as_ptr(), 0))
}

pub fn load_module(path: &str) -> Result<i64> {
    let fd = open(path.as_bytes(), libc::O_RDONLY, 0)?;
    match call!(syscall(libc::SYS_finit_module, fd.0, c"".as_ptr(), 0)) {
        Err(libc::EEXIST) => Ok(0),
        result => result,
    }
}

/// Gives an interface an address with a 24-bit network, and sets it up.
pub fn configure(interface: &str, address: [u8; 4]) -> Result<()> {
    // `struct ifreq`: a name of 16 bytes, then a `sockaddr_in` or flags.
    let request = |tail: &[u8]| {
        let mut request = [0u8; 40];
        request[..interface.len()].copy_from_slice(interface.as_bytes());
        request[16..16 + tail.len()].copy_from_slice(tail);
        request
    };
    let socket = Fd(call!(socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))? as i32);
    let sockaddr = |address: [u8; 4]| {
        let mut bytes = [0u8; 16];
        bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        bytes[4..8].copy_from_slice(&address);
        bytes
    };
    let up = ((libc::IFF_UP | libc::IFF_RUNNING) as u16).to_ne_bytes();
    for (what, tail) in [
        (libc::SIOCSIFADDR, &sockaddr(address)[..]),
        (libc::SIOCSIFNETMASK, &sockaddr([255, 255, 255, 0])[..]),
        (libc::SIOCSIFFLAGS, &up[..]),
    ] {
        call!(ioctl(socket.0, what as _, request(tail).as_ptr()))?;
    }
    Ok(())
}

pub fn power_off() -> ! {
    // SAFETY: no memory is involved; PID 1 may do it at any time.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    std::process::exit(0)
}
