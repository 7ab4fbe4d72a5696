//! What nobody needs any more: put aside by one rename, deleted later by a
//! thread of its own, so that nobody waits for a large tree to go.
//!
//! I/O. A client decides what lies in here: names of any bytes and folders of
//! any depth. So nothing is followed, and a folder is moved up before it is
//! emptied, which needs neither a deep stack nor long paths.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::store::manifest::TRASH;

/// Names already given by this run.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Names tried before giving up: others stem from runs before.
const ATTEMPTS: u32 = 100_000;

/// Moves a folder into the store's trash; nothing where it is gone already.
pub fn put(store: &Path, folder: &Path) -> io::Result<()> {
    let trash = store.join(TRASH);
    match fs::create_dir(&trash) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match into(&trash, folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn into(trash: &Path, what: &Path) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        let name = trash.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(rustix::fs::CWD, what, rustix::fs::CWD, &name, flags) {
            Err(rustix::io::Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Deletes all that lies in the trash, until `stop`.
pub fn empty(store: &Path, stop: &AtomicBool) -> io::Result<()> {
    let trash = store.join(TRASH);
    loop {
        let mut found = false;
        for entry in fs::read_dir(&trash)? {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let entry = entry?;
            found = true;
            match entry.file_type()?.is_dir() {
                true => empty_folder(&trash, &entry.path(), stop)?,
                false => fs::remove_file(entry.path())?,
            }
        }
        if !found {
            return Ok(());
        }
    }
}

/// Deletes a folder of the trash; folders in it become the trash's own.
fn empty_folder(trash: &Path, folder: &Path, stop: &AtomicBool) -> io::Result<()> {
    // ext4 keeps its flags; a client cannot set them over NFSv3.
    for entry in fs::read_dir(folder)? {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            // An empty one goes at once: most are.
            true if fs::remove_dir(entry.path()).is_ok() => {}
            true => into(trash, &entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    match fs::remove_dir(folder) {
        // Entries that a rename made readdir miss: the next round sees them.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn deep_trees_go_and_what_links_point_to_stays() {
        let store = tempfile::tempdir().unwrap();
        let kept = store.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        // Deeper than a path can say.
        let folder = store.path().join("old");
        fs::create_dir(&folder).unwrap();
        let mut at = rustix::fs::open(&folder, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
            at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        }
        drop(at);
        symlink(&kept, folder.join("link")).unwrap();
        fs::write(folder.join("file"), "x").unwrap();
        put(store.path(), &folder).unwrap();
        put(store.path(), &folder).unwrap();
        assert!(!folder.exists());
        empty(store.path(), &AtomicBool::new(false)).unwrap();
        assert_eq!(fs::read_dir(store.path().join(TRASH)).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "x");
    }

    #[test]
    fn a_stop_leaves_the_rest_for_later() {
        let store = tempfile::tempdir().unwrap();
        let folder = store.path().join("old");
        fs::create_dir(&folder).unwrap();
        put(store.path(), &folder).unwrap();
        empty(store.path(), &AtomicBool::new(true)).unwrap();
        assert_eq!(fs::read_dir(store.path().join(TRASH)).unwrap().count(), 1);
    }
}
