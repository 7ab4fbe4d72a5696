//! Small state on disk, written whole: temporary file, fsync, rename, fsync of
//! the folder. After a power cut there is the old file or the new one.
//!
//! I/O. For text of some kilobytes; images have their own way (`import`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Most entries of a folder that are looked at: a client's own, or its snapshots'.
const MAX_CLEARED: usize = 10_000;

/// Replaces `path` with `bytes`; `mode` is the new file's.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_unsynced(path, bytes, mode, true)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// The same without the folder's fsync, and without the file's unless `sync`:
/// for many files that one `syncfs` or one folder fsync covers afterwards.
pub fn write_unsynced(path: &Path, bytes: &[u8], mode: u32, sync: bool) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let result = (|| {
        // A left-over of a cut run is simply begun anew.
        let _ = std::fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        if sync {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// Removes what writes into `folder` left that were cut.
pub fn clear(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder).into_iter().flatten().take(MAX_CLEARED) {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().ends_with(b".toml.tmp") && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes renames and new names in `folder` last.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Reads a regular file of at most `limit` bytes; not through a symbolic link.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"));
    }
    if metadata.len() > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("is larger than {limit} bytes")));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        std::fs::write(folder.path().join("a.toml.tmp"), "left over").unwrap();
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(&folder.path().join("no/folder"), b"", 0o600).is_err());
    }

    #[test]
    fn large_files_folders_and_links_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "1234").unwrap();
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        assert!(read_bounded(&path, 3).is_err());
        assert!(read_bounded(folder.path(), 3).is_err());
        assert!(read_bounded(&folder.path().join("link"), 30).is_err());
    }
}
