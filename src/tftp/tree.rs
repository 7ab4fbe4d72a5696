//! Opening a file beneath a client's boot tree.
//!
//! I/O. Nothing escapes the tree: the kernel resolves (`openat2`), without
//! leaving it, without magic links and without entering another mount. Only
//! regular files are opened, and a device node that a client made is not even
//! touched. The names come from FAT, where upper and lower case are one, so a
//! name that does not exist as asked is looked for in the other spelling.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How many names of one folder are looked at for another spelling. Raspberry
/// Pi OS has some 350 overlays in one.
const MAX_ENTRIES: usize = 4096;

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Also for folders, special files and links that lead out.
    #[error("no such file")]
    Missing,
    #[error("cannot open {path}")]
    Open { path: PathBuf, source: io::Error },
}

/// Opens `file` (as `path::map` gives it) beneath `tree`, and tells its size in bytes.
pub fn open(tree: &Path, file: &[u8]) -> Result<(File, u64), Error> {
    let failed = |errno: Errno| match errno {
        // ELOOP and EXDEV are how `openat2` says that a link leads out.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG => Error::Missing,
        // A file under a mount or rename; the loader asks again.
        errno => Error::Open { path: tree.join(OsStr::from_bytes(file)), source: errno.into() },
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tree = rustix::fs::openat(CWD, tree, flags, Mode::empty())
        .map_err(|errno| Error::Open { path: tree.to_owned(), source: errno.into() })?;
    let found = match beneath(tree.as_fd(), file, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => {
            let respelled = respell(tree.as_fd(), file).map_err(failed)?.ok_or(Error::Missing)?;
            beneath(tree.as_fd(), &respelled, OFlags::PATH)
        }
        found => found,
    };
    let found = found.map_err(failed)?;
    let stat = rustix::fs::fstat(&found).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::Missing);
    }
    // Opening by the descriptor's link opens exactly what was looked at.
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::openat(CWD, link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    Ok((file.into(), u64::try_from(stat.st_size).unwrap_or(0)))
}

fn beneath(tree: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(tree, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// The path as the tree spells it, `None` when no spelling exists.
fn respell(tree: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut respelled: Vec<u8> = Vec::with_capacity(path.len());
    for wanted in path.split(|&b| b == b'/') {
        let folder = if respelled.is_empty() { &b"."[..] } else { &respelled };
        let folder = match beneath(tree, folder, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOTDIR | Errno::NOENT) => return Ok(None),
            folder => Dir::new(folder?)?,
        };
        let mut found: Option<Vec<u8>> = None;
        for entry in folder.take(MAX_ENTRIES) {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            // The spelling as asked wins over every other.
            if name == wanted || (found.is_none() && name.eq_ignore_ascii_case(wanted)) {
                found = Some(name.to_vec());
            }
        }
        let Some(found) = found else { return Ok(None) };
        if !respelled.is_empty() {
            respelled.push(b'/');
        }
        respelled.extend(found);
    }
    Ok(Some(respelled))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("config.txt"), "config").unwrap();
        fs::create_dir(tree.path().join("overlays")).unwrap();
        fs::write(tree.path().join("overlays/Vc4.DTBO"), "overlay").unwrap();
        tree
    }

    fn check(tree: &Path, file: &str, expected: Option<&str>) {
        let found = match open(tree, file.as_bytes()) {
            Ok((mut file, size)) => {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(size, text.len() as u64);
                Some(text)
            }
            Err(Error::Missing) => None,
            Err(error) => panic!("{file}: {error:?}"),
        };
        assert_eq!(found.as_deref(), expected, "{file}");
    }

    #[test]
    fn files_are_found_in_any_spelling_the_asked_one_first() {
        let tree = tree();
        check(tree.path(), "config.txt", Some("config"));
        check(tree.path(), "CONFIG.TXT", Some("config"));
        check(tree.path(), "Overlays/vc4.dtbo", Some("overlay"));
        check(tree.path(), "overlays/none", None);
        check(tree.path(), "none/vc4.dtbo", None);
        fs::write(tree.path().join("CONFIG.TXT"), "other").unwrap();
        check(tree.path(), "CONFIG.TXT", Some("other"));
        check(tree.path(), "config.txt", Some("config"));
    }

    #[test]
    fn only_regular_files_are_files() {
        let tree = tree();
        rustix::fs::mknodat(CWD, tree.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        check(tree.path(), "pipe", None);
        check(tree.path(), "overlays", None);
        check(tree.path(), "config.txt/x", None);
    }

    #[test]
    fn no_link_leads_out_of_the_tree() {
        let tree = tree();
        symlink("config.txt", tree.path().join("inside")).unwrap();
        symlink("../config.txt", tree.path().join("overlays/up")).unwrap();
        symlink("/etc/passwd", tree.path().join("absolute")).unwrap();
        symlink("../../../../etc/passwd", tree.path().join("relative")).unwrap();
        symlink("/proc/self/root/etc", tree.path().join("magic")).unwrap();
        symlink("loop", tree.path().join("loop")).unwrap();
        check(tree.path(), "inside", Some("config"));
        check(tree.path(), "overlays/up", Some("config"));
        for name in ["absolute", "relative", "magic/passwd", "loop", "ABSOLUTE", "MAGIC/passwd"] {
            check(tree.path(), name, None);
        }
    }

    #[test]
    fn a_tree_that_is_gone_is_told_with_its_path() {
        let error = open(Path::new("/nonexistent/boot"), b"config.txt").unwrap_err();
        assert_eq!(error.to_string(), "cannot open /nonexistent/boot");
    }
}
