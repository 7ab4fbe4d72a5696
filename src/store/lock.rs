//! One worker a store: the server, or one command on the stick's computer.
//!
//! I/O. An advisory lock on the store's top folder: it ends with its holder,
//! however that ends, and every mount of one file system shares it.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::FlockOperation;

/// Held while it lives.
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

/// Takes the lock; `WouldBlock` where somebody has it.
pub fn take(store: &Path) -> io::Result<Lock> {
    let folder = File::open(store)?;
    rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
    Ok(Lock { _folder: folder })
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
}
