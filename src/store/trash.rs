//! What nobody needs any more: put aside by one rename, deleted later by a
//! thread of its own, so that nobody waits for a large tree to go.
//!
//! I/O. A client decides what lies in here: names of any bytes and folders of
//! any depth, and its last calls may still be at work in it. So nothing is
//! followed, and no depth of folders costs more than three descriptors, since
//! what lies deeper is first brought to the top.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::manifest::TRASH;

/// Names already given by this run.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Names tried before giving up: others stem from runs before.
const ATTEMPTS: u32 = 100_000;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Moves a folder into the store's trash; nothing where it is gone already.
pub fn put(store: &Path, folder: &Path) -> io::Result<()> {
    let trash = store.join(TRASH);
    match fs::create_dir(&trash) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let trash = rustix::fs::openat(CWD, &trash, FOLDER, Mode::empty())?;
    match into(trash.as_fd(), CWD, folder) {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// Moves something into the trash under a name that nothing has.
fn into<P: rustix::path::Arg + Copy>(trash: BorrowedFd<'_>, from: BorrowedFd<'_>, name: P) -> Result<(), Errno> {
    for _ in 0..ATTEMPTS {
        let to = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        match rustix::fs::renameat_with(from, name, trash, to.as_str(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
    Err(Errno::EXIST)
}

/// Deletes all that lies in the trash, until `stop`.
pub fn empty(store: &Path, stop: &AtomicBool) -> io::Result<()> {
    let trash = rustix::fs::openat(CWD, store.join(TRASH), FOLDER, Mode::empty())?;
    // Each round empties the folders that the round before brought to the top.
    // Somebody who makes folders as fast as this removes them ends with his last call.
    loop {
        let names = names(trash.as_fd())?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match rustix::fs::unlinkat(&trash, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => empty_folder(trash.as_fd(), &name, stop)?,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Deletes a folder of the trash; folders in it become the trash's own.
fn empty_folder(trash: BorrowedFd<'_>, name: &CString, stop: &AtomicBool) -> io::Result<()> {
    let folder: OwnedFd = rustix::fs::openat(trash, name, FOLDER, Mode::empty())?;
    loop {
        let names = names(folder.as_fd())?;
        if names.is_empty() {
            break;
        }
        for inner in names {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match rustix::fs::unlinkat(&folder, &inner, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
            // A plain removal is enough for an empty one: most are.
            if rustix::fs::unlinkat(&folder, &inner, AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            into(trash, folder.as_fd(), &inner)?;
        }
    }
    Ok(rustix::fs::unlinkat(trash, name, AtFlags::REMOVEDIR)?)
}

/// Some names in a folder: so many at once that memory stays bounded.
fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    const MAX_AT_ONCE: usize = 4096;
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
        if names.len() >= MAX_AT_ONCE {
            break;
        }
    }
    Ok(names)
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

    #[test]
    fn a_folder_goes_with_all_that_is_in_it_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("ephemeral");
        fs::create_dir_all(folder.join("a/b/c/d")).unwrap();
        fs::create_dir_all(folder.join("a/0/x")).unwrap();
        fs::create_dir_all(folder.join("0/y")).unwrap();
        fs::write(folder.join("a/b/file"), "x").unwrap();
        fs::create_dir(place.path().join("kept")).unwrap();
        fs::write(place.path().join("kept/file"), "x").unwrap();
        symlink(place.path().join("kept"), folder.join("a/link")).unwrap();
        put(place.path(), &folder).unwrap();
        assert!(!folder.exists(), "it is out of its place at once");
        empty(place.path(), &AtomicBool::new(false)).unwrap();
        assert_eq!(fs::read_dir(place.path().join(TRASH)).unwrap().count(), 0);
        assert!(place.path().join("kept/file").exists());
    }

    #[test]
    fn what_an_earlier_run_left_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join(TRASH).join("7");
        fs::create_dir_all(left.join("a")).unwrap();
        fs::create_dir(place.path().join("upper")).unwrap();
        empty(place.path(), &AtomicBool::new(false)).unwrap();
        assert!(!left.exists());
        assert!(place.path().join("upper").exists());
    }
}
