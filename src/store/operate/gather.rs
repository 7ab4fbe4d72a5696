//! Every name of a changed file with several comes into the upper layer, before that is frozen.
//!
//! I/O, on a stack of the operation's own. The overlay's index keeps the names of one file together while some lie below
//! (index=on); a frozen layer has no index, and those below would show the image's old content again (seen on Linux 6.18,
//! 2026-11-22).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::execute::ExecuteError;
use super::site::{Access, Site};
use crate::store::manifest::ClientPaths;
use crate::store::states::Record;

/// Most names that are looked at for a file with several.
const MAX_WALKED: usize = 5_000_000;

/// Gathers the names of both trees of a client's live state.
pub fn gather(site: &Site, record: &Record, stop: &AtomicBool) -> Result<(), ExecuteError> {
    let paths = ClientPaths::of(&site.store, &record.client.role).at(record.books.state);
    let parted = [parted(&paths.work())?, parted(&paths.boot_work())?];
    if parted.iter().all(HashSet::is_empty) {
        return Ok(());
    }
    let live = site.stack("old", record, record.books.state, &record.client.image, Access::Write)?;
    for (top, inodes) in [&live.root, &live.boot].into_iter().zip(&parted) {
        if !inodes.is_empty() {
            touch_names(top, inodes, stop)?;
        }
    }
    live.close()?;
    Ok(())
}

/// Inode numbers of the lower files of which not all names are in the upper
/// layer. An index entry is named by the lower file's handle, in hexadecimal;
/// `trusted.overlay.nlink` says how far its links are from the overlay's.
fn parted(work: &Path) -> Result<HashSet<u32>, ExecuteError> {
    let index = work.join("index");
    let read = |source| ExecuteError::Read { path: index.clone(), source };
    let entries = match fs::read_dir(&index) {
        // Never mounted yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
        other => other.map_err(read)?,
    };
    let mut inodes = HashSet::new();
    for entry in entries {
        let entry = entry.map_err(read)?;
        if entry.file_type().map_err(read)?.is_dir() {
            continue;
        }
        let mut value = [0; 16];
        // `U-1`: all names are above, the index's own link apart.
        let all = match rustix::fs::lgetxattr(entry.path(), c"trusted.overlay.nlink", &mut value[..]) {
            // Never had several names.
            Err(rustix::io::Errno::NODATA) => true,
            Ok(length) => &value[..length] == b"U-1",
            Err(errno) => return Err(read(errno.into())),
        };
        if !all && let Some(inode) = entry.file_name().to_str().and_then(lower_inode) {
            inodes.insert(inode);
        }
    }
    Ok(inodes)
}

/// Version, magic, length, flags, type, 16 bytes of UUID; then ext4's own: the
/// inode number and its generation (fs/overlayfs/overlayfs.h, `struct ovl_fb`).
fn lower_inode(name: &str) -> Option<u32> {
    let digits = name.get(42..50)?;
    let mut bytes = [0; 4];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(u32::from_le_bytes(bytes))
}

/// Walks a tree and makes the overlay link each name of these files into the
/// upper layer. A name too many costs a copy and nothing else. By what folders
/// hold alone: attributes of 200,000 files take seconds even where they are in memory.
fn touch_names(top: &Path, inodes: &HashSet<u32>, stop: &AtomicBool) -> Result<(), ExecuteError> {
    let mut pending = vec![top.to_owned()];
    let mut walked = 0;
    while let Some(folder) = pending.pop() {
        let read = |source| ExecuteError::Read { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(read)? {
            if stop.load(Ordering::Relaxed) {
                return Err(ExecuteError::Stopped);
            }
            walked += 1;
            let entry = entry.map_err(read)?;
            if entry.file_type().map_err(read)?.is_dir() && walked < MAX_WALKED {
                pending.push(entry.path());
            // Not by its number of links: a name that was removed counts no more, and the
            // last one may still lie below. With xino=on a folder tells the numbers that its files have.
            } else if inodes.contains(&(entry.ino() as u32)) {
                lift(&entry.path(), &entry.metadata().map_err(read)?).map_err(read)?;
            }
        }
    }
    Ok(())
}

fn lift(path: &Path, found: &fs::Metadata) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};
    if found.is_file() {
        // Opening for writing is enough; nothing is written.
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        return Ok(());
    }
    let time = |seconds, nanoseconds: i64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps {
        last_access: time(found.atime(), found.atime_nsec()),
        last_modification: time(found.mtime(), found.mtime_nsec()),
    };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_name_tells_the_inode() {
        assert_eq!(lower_inode("00fb1d0001f48b9bc4813b40b9aa09110ddf28445d0f00000000000000"), Some(15));
        for name in ["", "#341c", "00fb1d0001f48b9bc4813b40b9aa09110ddf28445dxx000000"] {
            assert_eq!(lower_inode(name), None, "{name}");
        }
    }
}
