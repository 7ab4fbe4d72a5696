//! One worker a store: the server, or one command on the stick's computer.
//!
//! I/O. An advisory lock on the store's top folder: it ends with its holder,
//! however that ends, and every mount of one file system shares it. Of a range
//! of a partition the kernel would make two devices, and two mounts of one file
//! system that do not know of each other: there the partition is locked first.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;

/// Held while it lives.
#[derive(Debug)]
pub struct Lock {
    _open: File,
}

/// Takes the lock on a folder or a partition; `WouldBlock` where somebody has it.
pub fn take(store: &Path) -> io::Result<Lock> {
    lock(File::open(store)?)
}

/// Takes it on a partition that nobody has mounted, nor can while it is held;
/// `ResourceBusy` where somebody has.
pub fn take_alone(partition: &Path) -> io::Result<Lock> {
    lock(OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(partition)?)
}

fn lock(open: File) -> io::Result<Lock> {
    rustix::fs::flock(&open, FlockOperation::NonBlockingLockExclusive)?;
    Ok(Lock { _open: open })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_one_worker_at_a_time() {
        let store = tempfile::tempdir().unwrap();
        let first = take(store.path()).unwrap();
        assert_eq!(take(store.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        take(store.path()).unwrap();
    }

    #[test]
    fn a_partition_has_one_worker_at_a_time_whichever_comes_first() {
        let partition = tempfile::NamedTempFile::new().unwrap();
        let server = take(partition.path()).unwrap();
        assert_eq!(take_alone(partition.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(server);
        let _command = take_alone(partition.path()).unwrap();
        assert_eq!(take(partition.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
