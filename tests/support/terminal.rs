//! Both ends of a terminal.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::{null, null_mut};

pub struct Terminal {
    /// A person's end.
    pub far: File,
    /// A program's end. Kept open, the terminal outlives each program on it, as a shell's does.
    pub near: OwnedFd,
    /// Where a program opens its end.
    pub path: PathBuf,
}

impl Terminal {
    /// Programs that this one starts get neither end, but for what is handed to them.
    pub fn open() -> io::Result<Self> {
        let (mut far, mut near) = (-1, -1);
        // SAFETY: both pointers are to integers that live through the call; the others may be null.
        if unsafe { libc::openpty(&mut far, &mut near, null_mut(), null(), null()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: openpty has just made both descriptors, and nothing else owns them.
        let (far, near) = unsafe { (File::from_raw_fd(far), OwnedFd::from_raw_fd(near)) };
        for end in [far.as_fd(), near.as_fd()] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        let path = fs::read_link(format!("/proc/self/fd/{}", near.as_raw_fd()))?;
        Ok(Self { far, near, path })
    }
}
