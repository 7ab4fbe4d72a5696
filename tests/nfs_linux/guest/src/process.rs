//! System calls between processes that meet at a file: pipes, sockets, locks, programs.

use std::mem::MaybeUninit;

use crate::sys::{Errno, Fd, Path, Result, c, call, check, last, read, write};

/// What another process told before it ended.
pub struct Other {
    id: i32,
    pipe: Fd,
}

/// Runs `work` in another process, which tells a number or an errno. Only for a process with one thread.
pub fn start(work: impl FnOnce() -> Result<u64>) -> Result<Other> {
    let mut ends = [0; 2];
    call!(pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
    let [pipe, to] = ends.map(Fd);
    match call!(fork())? {
        0 => {
            let (good, value) = match work() {
                Ok(value) => (1u64, value),
                Err(errno) => (0, errno as u64),
            };
            let _ = write(&to, &[good.to_ne_bytes(), value.to_ne_bytes()].concat());
            std::process::exit(0)
        }
        id => Ok(Other { id: id as i32, pipe }),
    }
}

impl Other {
    pub fn end(self) -> Result<u64> {
        let mut told = [0; 16];
        let got = read(&self.pipe, &mut told);
        call!(waitpid(self.id, std::ptr::null_mut(), 0))?;
        if got? != told.len() {
            return Err(libc::ECHILD);
        }
        let (good, value) = told.split_at(8);
        let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        if number(good) == 1 { Ok(number(value)) } else { Err(number(value) as Errno) }
    }
}

/// Runs a program as some user and group without supplementary ones: its exit code, or the errno of its start.
pub fn program(path: Path<'_>, argument: &str, uid: u32, gid: u32) -> Result<u64> {
    let child = start(|| {
        call!(setgroups(0, std::ptr::null()))?;
        call!(setgid(gid))?;
        call!(setuid(uid))?;
        match call!(fork())? {
            0 => {
                let (path, argument) = (c(path), c(argument));
                let arguments = [path.as_ptr(), argument.as_ptr(), std::ptr::null()];
                let none = [std::ptr::null()];
                // SAFETY: both lists end with a null pointer, and all they point to outlives the call.
                unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), none.as_ptr()) };
                // Above any exit code that a program here has.
                let errno = last();
                // SAFETY: nothing of this process is to run any more.
                unsafe { libc::_exit(128 + errno) }
            }
            id => {
                let mut status = 0;
                call!(waitpid(id as i32, &raw mut status, 0))?;
                match libc::WEXITSTATUS(status) {
                    code if code > 128 => Err(code - 128),
                    code => Ok(code as u64),
                }
            }
        }
    });
    child?.end()
}

pub fn seek(fd: &Fd, offset: i64, whence: i32) -> Result<i64> {
    call!(lseek(fd.0, offset, whence))
}
pub fn copy_range(from: &Fd, to: &Fd, length: usize) -> Result<i64> {
    call!(syscall(libc::SYS_copy_file_range, from.0, std::ptr::null::<i64>(), to.0, std::ptr::null::<i64>(), length, 0))
}
/// From one place of a file to another: how many bytes, less than `length` at the file's end only.
pub fn copy_within(fd: &Fd, mut from: i64, mut to: i64, length: usize) -> Result<i64> {
    let mut copied = 0;
    while (copied as usize) < length {
        let left = length - copied as usize;
        let (source, target) = (&raw mut from, &raw mut to);
        match call!(syscall(libc::SYS_copy_file_range, fd.0, source, fd.0, target, left, 0))? {
            0 => break,
            count => copied += count,
        }
    }
    Ok(copied)
}
pub fn allocate(fd: &Fd, how: i32, from: i64, length: i64) -> Result<i64> {
    call!(fallocate(fd.0, how, from, length))
}
pub fn rename_with(from: Path<'_>, to: Path<'_>, flags: u32) -> Result<i64> {
    let (from, to) = (c(from), c(to));
    call!(syscall(libc::SYS_renameat2, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags))
}
pub fn set_attribute(path: Path<'_>, name: &str, value: &[u8]) -> Result<i64> {
    call!(setxattr(c(path).as_ptr(), c(name).as_ptr(), value.as_ptr().cast(), value.len(), 0))
}
pub fn remove_attribute(file: &Fd, name: &str) -> Result<i64> {
    call!(fremovexattr(file.0, c(name).as_ptr()))
}
/// Makes `to` share the blocks of `from`.
pub fn clone_of(from: &Fd, to: &Fd) -> Result<i64> {
    call!(ioctl(to.0, libc::FICLONE as _, from.0))
}
pub fn send(from: &Fd, to: &Fd, length: usize) -> Result<i64> {
    call!(sendfile(to.0, from.0, std::ptr::null_mut(), length))
}
pub fn sync_data(fd: &Fd) -> Result<i64> {
    call!(fdatasync(fd.0))
}
pub fn sync_all(fd: &Fd) -> Result<i64> {
    call!(syncfs(fd.0))
}
pub fn lock_whole(fd: &Fd, how: i32) -> Result<i64> {
    call!(flock(fd.0, how))
}

/// A lock of this process's on some bytes, or `F_GETLK`'s question: the type that it answers.
pub fn lock_range(fd: &Fd, command: i32, kind: i32, from: i64, length: i64) -> Result<i64> {
    // SAFETY: a struct of integers.
    let mut lock: libc::flock = unsafe { MaybeUninit::zeroed().assume_init() };
    (lock.l_type, lock.l_whence, lock.l_start, lock.l_len) = (kind as _, libc::SEEK_SET as _, from, length);
    call!(fcntl(fd.0, command, &raw mut lock))?;
    Ok(lock.l_type.into())
}

/// Where this process is, as the kernel says it.
pub fn where_am_i() -> Result<usize> {
    let mut place = vec![0u8; 4096];
    call!(syscall(libc::SYS_getcwd, place.as_mut_ptr(), place.len())).map(|length| length as usize)
}

pub fn go_to(directory: &Fd) -> Result<i64> {
    call!(fchdir(directory.0))
}

/// A socket with an address in the file system.
pub fn socket() -> Result<Fd> {
    call!(socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)).map(|fd| Fd(fd as i32))
}

fn address(path: Path<'_>) -> libc::sockaddr_un {
    // SAFETY: a struct of integers.
    let mut address: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sun_family = libc::AF_UNIX as _;
    for (place, byte) in address.sun_path.iter_mut().zip(path) {
        *place = *byte as _;
    }
    address
}

pub fn bind(socket: &Fd, path: Path<'_>) -> Result<i64> {
    let address = address(path);
    call!(bind(socket.0, (&raw const address).cast(), size_of_val(&address) as u32))
}
pub fn listen(socket: &Fd) -> Result<i64> {
    call!(listen(socket.0, 4))
}
pub fn connect(socket: &Fd, path: Path<'_>) -> Result<i64> {
    let address = address(path);
    call!(connect(socket.0, (&raw const address).cast(), size_of_val(&address) as u32))
}
pub fn accept(socket: &Fd) -> Result<Fd> {
    call!(accept(socket.0, std::ptr::null_mut(), std::ptr::null_mut())).map(|fd| Fd(fd as i32))
}

/// The entries of an open directory from where it stands, each with the place behind it, until `seen` says no.
pub fn entries(fd: &Fd, mut seen: impl FnMut(&[u8], i64) -> bool) -> Result<()> {
    // Small, so that the kernel asks often.
    let mut buffer = vec![0u8; 1024];
    loop {
        let got = call!(syscall(libc::SYS_getdents64, fd.0, buffer.as_mut_ptr(), buffer.len()))? as usize;
        if got == 0 {
            return Ok(());
        }
        let mut at = 0;
        while at < got {
            let place = i64::from_ne_bytes(buffer[at + 8..at + 16].try_into().expect("eight bytes"));
            let length = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
            let name = buffer[at + 19..at + length].split(|byte| *byte == 0).next().unwrap_or_default();
            if name != b"." && name != b".." && !seen(name, place) {
                return Ok(());
            }
            at += length;
        }
    }
}
