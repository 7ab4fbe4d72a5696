//! What a client's folder occupies, counted slowly behind everybody's back.
//!
//! I/O. NFS counts what it changes (`crate::quota`); this counts what is there, to begin with and to put right what
//! was missed: at the opening of the store, after an operation on the client, and when enough is in doubt. Only names
//! and attributes are read, at the lowest priority, with rests between; nothing is held up for it, and nobody waits.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::quota::{Account, Amount};

/// Entries looked at between two rests: some 20 ms of a stick that must read each.
const STRETCH: usize = 256;
const REST: Duration = Duration::from_millis(5);
/// A file counts a part for each of its names, so that all its names make one: in parts of this.
const PARTS: u128 = 1 << 20;
/// So much in doubt is measured again.
pub const DOUBT_BYTES: u64 = 16 << 20;

/// Counts a client's folder. `None` where it was ended.
pub fn count(folder: &Path, rest: Duration, stop: &AtomicBool) -> Option<Amount> {
    let (mut blocks, mut files, mut looked) = (0u128, 0u128, 0usize);
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        // What vanishes meanwhile is gone, and needs no room.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            looked += 1;
            if looked.is_multiple_of(STRETCH) {
                std::thread::sleep(rest);
            }
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let Ok(found) = entry.metadata() else { continue };
            let names = if found.is_dir() { 1 } else { u128::from(found.nlink().max(1)) };
            blocks += u128::from(found.blocks()) * PARTS / names;
            // Overlayfs's mark of a removed file is one file of many names.
            files += PARTS / names;
            if found.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    let whole = |parts: u128| i64::try_from((parts + PARTS / 2) / PARTS).unwrap_or(i64::MAX);
    Some(Amount { bytes: whole(blocks * 512), files: whole(files) })
}

/// Measures these clients one after the other, on a thread of the lowest priority.
pub fn measure(clients: Vec<(PathBuf, Arc<Account>)>, stop: &AtomicBool) {
    super::idle::lowest_priority();
    for (folder, account) in clients {
        let grown = account.grown();
        let Some(found) = count(&folder, REST, stop) else { return };
        tracing::debug!(folder = %folder.display(), bytes = found.bytes, files = found.files, "measured");
        account.measured(found, grown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_of_several_names_counts_once_and_a_hole_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("a/b")).unwrap();
        let never = AtomicBool::new(false);
        let empty = count(folder.path(), Duration::ZERO, &never).unwrap();
        fs::write(path("a/one"), vec![1; 100 << 10]).unwrap();
        for name in ["a/two", "a/b/three"] {
            fs::hard_link(path("a/one"), path(name)).unwrap();
        }
        fs::File::create(path("hole")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/", path("everything")).unwrap();
        let found = count(folder.path(), Duration::ZERO, &never).unwrap();
        let one = i64::try_from(fs::metadata(path("a/one")).unwrap().blocks() * 512).unwrap();
        assert_eq!((found.bytes - empty.bytes, found.files - empty.files), (one, 3));
        assert_eq!(count(folder.path(), Duration::ZERO, &AtomicBool::new(true)), None);
    }
}
