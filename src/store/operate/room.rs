//! What a copy will take on the stick, and whether that is there.
//!
//! I/O. Asked before anything is written: a stick that is filled half-way hurts every client on it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::execute::ExecuteError;
use crate::store::import::RESERVE_BYTES;

/// What trees will take as copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    pub bytes: u64,
    pub inodes: u64,
}

impl Need {
    /// With what lies at `top` too: a folder with all below it, a file, or nothing.
    pub fn add(&mut self, top: &Path, stop: &AtomicBool) -> Result<(), ExecuteError> {
        let mut pending = match fs::symlink_metadata(top) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            found => {
                let found = found.map_err(|source| ExecuteError::Read { path: top.to_owned(), source })?;
                self.count(&found);
                if found.is_dir() { vec![top.to_owned()] } else { Vec::new() }
            }
        };
        while let Some(folder) = pending.pop() {
            let read = |source| ExecuteError::Read { path: folder.clone(), source };
            for entry in fs::read_dir(&folder).map_err(read)? {
                if stop.load(Ordering::Relaxed) {
                    return Err(ExecuteError::Stopped);
                }
                let entry = entry.map_err(read)?;
                let found = entry.metadata().map_err(read)?;
                self.count(&found);
                if found.is_dir() {
                    pending.push(entry.path());
                }
            }
        }
        Ok(())
    }

    /// A file with several names counts for each: some room too much.
    fn count(&mut self, found: &fs::Metadata) {
        self.inodes += 1;
        self.bytes = self.bytes.saturating_add(found.blocks().saturating_mul(512));
    }

    /// Whether the store has room for it, and for what an import leaves to the clients besides.
    pub fn check(self, store: &Path) -> Result<(), ExecuteError> {
        let vfs = rustix::fs::statvfs(store)
            .map_err(|errno| ExecuteError::Read { path: store.to_owned(), source: errno.into() })?;
        let free = vfs.f_bavail.saturating_mul(vfs.f_frsize);
        let needed = self.bytes.saturating_add(self.bytes / 16).saturating_add(RESERVE_BYTES);
        match needed.checked_sub(free) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(ExecuteError::NoRoom { missing_mib: missing.div_ceil(1 << 20) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_is_what_lies_there_and_more_than_there_is_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), vec![1; 1 << 20]).unwrap();
        let stop = AtomicBool::new(false);
        let mut need = Need::default();
        for path in ["a", "a/b", "a/b/c", "missing"] {
            need.add(&folder.path().join(path), &stop).unwrap();
        }
        assert_eq!(need.inodes, 3);
        assert!(need.bytes >= 2 << 20, "{need:?}");
        Need { bytes: u64::MAX, inodes: 0 }.check(folder.path()).unwrap_err();
        assert!(matches!(need.add(folder.path(), &AtomicBool::new(true)), Err(ExecuteError::Stopped)));
    }
}
