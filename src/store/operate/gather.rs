//! Every name of a changed file with several comes into the upper layer, before that is frozen.
//!
//! I/O, on a stack of the operation's own. The overlay's index keeps the names of one file together while some lie below
//! (index=on); a frozen layer has no index, and those below would show the image's old content again (seen on Linux 6.18,
//! 2026-11-22).
//!
//! Which names a file has is told by nothing but the folders, and to read all of a root takes as long as the root is
//! large. So the image's table is asked first (`links`), then the frozen layers, where a client's own such files lie. Both
//! say where names may be; what the client sees there is looked at. Whether a name is missing still, the index tells: only
//! then is the whole root looked through, as where a client renamed a folder of the image above such a file.
//!
//! Of 200,000 files in the image, 10,000 changed, 500 of them by one of two names, cold: 0.3 s for this step where reading
//! the whole root took 0.7 to 4 s (2026-11-30, two busy cores, `tests/store_large`).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};

use super::copy;
use super::execute::ExecuteError;
use super::site::{Access, Site};
use crate::store::links::{self, Walk};
use crate::store::manifest::{ClientPaths, ImagePaths};
use crate::store::states::Record;

/// Most names of a root or a layer that are looked at.
const MAX_WALKED: usize = 5_000_000;
/// That look for names at once.
const THREADS: usize = 8;
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Gathers the names of both trees of a client's live state.
pub fn gather(site: &Site, record: &Record, stop: &AtomicBool) -> Result<(), ExecuteError> {
    let paths = ClientPaths::of(&site.store, &record.client.role);
    let at = paths.at(record.books.state);
    let (root, boot) = (Parted::below(&at.work())?, Parted::below(&at.boot_work())?);
    if root.files.is_empty() && boot.files.is_empty() {
        return Ok(());
    }
    let live = site.stack("old", record, record.books.state, &record.client.image, Access::Write)?;
    let known = |inodes: &HashSet<u32>| {
        links::read(&ImagePaths::of(&site.store, &record.client.image), inodes).unwrap_or_default()
    };
    let frozen: Vec<PathBuf> =
        record.chain().unwrap_or_default().iter().skip(1).map(|state| paths.at(*state).upper()).collect();
    let above = |inodes: &HashSet<u32>| frozen.iter().flat_map(|layer| names_in(layer, inodes, stop)).collect();
    root.join(&live.root, &at.upper(), &[&known, &above], stop)?;
    // Some hundred files: not worth a table.
    boot.join(&live.boot, &at.boot_upper(), &[], stop)?;
    live.close()?;
    Ok(())
}

/// Where names of files with these inode numbers may be.
type Hint<'a> = &'a dyn Fn(&HashSet<u32>) -> Vec<PathBuf>;

/// Files of the layers below of which not all names are in the upper layer.
struct Parted {
    index: PathBuf,
    /// Inode numbers below, and entries of the index.
    files: Vec<(u32, PathBuf)>,
}

impl Parted {
    fn below(work: &Path) -> Result<Self, ExecuteError> {
        let index = work.join("index");
        let read = |source| ExecuteError::Read { path: index.clone(), source };
        let mut files = Vec::new();
        let entries = match fs::read_dir(&index) {
            // Never mounted yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self { index, files }),
            other => other.map_err(read)?,
        };
        for entry in entries {
            let entry = entry.map_err(read)?;
            if !entry.file_type().map_err(read)?.is_dir()
                && is_parted(&entry.path()).map_err(read)?
                && let Some(inode) = entry.file_name().to_str().and_then(lower_inode)
            {
                files.push((inode, entry.path()));
            }
        }
        Ok(Self { index, files })
    }

    fn inodes(&self) -> HashSet<u32> {
        self.files.iter().map(|(inode, _)| *inode).collect()
    }

    /// Brings all their names into the upper layer of the tree mounted at `top`.
    fn join(mut self, top: &Path, upper: &Path, hints: &[Hint<'_>], stop: &AtomicBool) -> Result<(), ExecuteError> {
        let read = |source| ExecuteError::Read { path: top.to_owned(), source };
        for hint in hints {
            if self.files.is_empty() {
                return Ok(());
            }
            let inodes = self.inodes();
            let open = |path| rustix::fs::open(path, FOLDER, Mode::empty()).map_err(|errno| read(errno.into()));
            let (open, above) = (open(top)?, open(upper)?);
            for path in wanted(&open, &above, &hint(&inodes), &inodes) {
                if let Some((folder, name, found)) = reach(&open, &path, &inodes) {
                    lift(folder.as_fd(), name, &found).map_err(read)?;
                }
            }
            self.look_again()?;
        }
        if self.files.is_empty() {
            return Ok(());
        }
        tracing::debug!(files = self.files.len(), top = %top.display(), "looking through all of it for other names");
        touch_all(top, &self.inodes(), stop)
    }

    fn look_again(&mut self) -> Result<(), ExecuteError> {
        let mut left = Vec::new();
        for (inode, entry) in std::mem::take(&mut self.files) {
            let parted = is_parted(&entry).map_err(|source| ExecuteError::Read { path: self.index.clone(), source })?;
            if parted {
                left.push((inode, entry));
            }
        }
        self.files = left;
        Ok(())
    }
}

/// Whether a name of this entry of the index is not in the upper layer.
/// `trusted.overlay.nlink` says how far its links are from the overlay's.
fn is_parted(entry: &Path) -> io::Result<bool> {
    let mut value = [0; 16];
    match rustix::fs::lgetxattr(entry, c"trusted.overlay.nlink", &mut value[..]) {
        // Never had several names.
        Err(rustix::io::Errno::NODATA) => Ok(false),
        // `U-1`: all names are above, the index's own link apart.
        Ok(length) => Ok(&value[..length] != b"U-1"),
        Err(errno) => Err(errno.into()),
    }
}

/// An index entry is named by the lower file's handle, in hexadecimal. Version, magic, length, flags, type, 16 bytes of
/// UUID; then ext4's own: the inode number and its generation (fs/overlayfs/overlayfs.h, `struct ovl_fb`).
fn lower_inode(name: &str) -> Option<u32> {
    let digits = name.get(42..50)?;
    let mut bytes = [0; 4];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(u32::from_le_bytes(bytes))
}

/// Somebody waits for it.
fn walk(stop: &AtomicBool) -> Walk<'_> {
    Walk { most: MAX_WALKED, rest: Duration::ZERO, stop }
}

/// The names of these files in one layer, as it lies on the stick. What cannot be read is no hint.
fn names_in(layer: &Path, inodes: &HashSet<u32>, stop: &AtomicBool) -> Vec<PathBuf> {
    let mut names = Vec::new();
    let walked = walk(stop).each_name(layer, |inode, entry| {
        if inodes.contains(&(inode as u32))
            && let Ok(path) = entry.path().strip_prefix(layer)
        {
            names.push(path.to_owned());
        }
    });
    if let Err(error) = walked {
        tracing::debug!(%error, layer = %layer.display(), "looking for names");
    }
    names
}

/// Those paths where the client sees one of these files that is not in the upper layer yet. Each look may wait for the
/// stick, which answers several together sooner than one after the other. What is not looked at is no loss.
fn wanted(top: &OwnedFd, upper: &OwnedFd, paths: &[PathBuf], inodes: &HashSet<u32>) -> Vec<PathBuf> {
    let is_wanted = |path: &Path| look(upper, path).is_none() && reach(top, path, inodes).is_some();
    let some = |paths: &[PathBuf]| paths.iter().filter(|path| is_wanted(path)).cloned().collect::<Vec<_>>();
    let piece = paths.len().div_ceil(THREADS).max(1);
    std::thread::scope(|scope| {
        let looks: Vec<_> = paths
            .chunks(piece)
            .filter_map(|paths| std::thread::Builder::new().spawn_scoped(scope, || some(paths)).ok())
            .collect();
        looks.into_iter().flat_map(|look| look.join().unwrap_or_default()).collect()
    })
}

/// What lies at a path, and the folder it lies in. A client may have put anything in its way: nothing is followed.
fn look<'a>(top: &OwnedFd, path: &'a Path) -> Option<(OwnedFd, &'a Path, Stat)> {
    let name = path.file_name()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let folder = rustix::fs::openat2(top, folder, FOLDER, Mode::empty(), resolve).ok()?;
    let found = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some((folder, Path::new(name), found))
}

/// The same if it is one of these files.
fn reach<'a>(top: &OwnedFd, path: &'a Path, inodes: &HashSet<u32>) -> Option<(OwnedFd, &'a Path, Stat)> {
    look(top, path).filter(|(.., found)| inodes.contains(&(found.st_ino as u32)))
}

/// Looks through a whole tree for the names of these files. A name too many costs a copy and nothing else.
fn touch_all(top: &Path, inodes: &HashSet<u32>, stop: &AtomicBool) -> Result<(), ExecuteError> {
    let read = |source| ExecuteError::Read { path: top.to_owned(), source };
    let mut result = Ok(());
    // Not by its number of links: a name that was removed counts no more, and the
    // last one may still lie below. With xino=on a folder tells the numbers that its files have.
    let walked = walk(stop).each_name(top, |inode, entry| {
        if inodes.contains(&(inode as u32)) && result.is_ok() {
            let path = entry.path();
            let found = rustix::fs::lstat(&path).map_err(io::Error::from);
            result = found.and_then(|found| lift(CWD, &path, &found));
        }
    });
    match walked {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(ExecuteError::Stopped),
        walked => walked.map(drop).and(result).map_err(read),
    }
}

/// Makes the overlay link a name into the upper layer; nothing is written into the file.
fn lift(folder: BorrowedFd<'_>, name: &Path, found: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => {}
        FileType::RegularFile => {
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(folder, name, flags, Mode::empty())?;
        }
        _ => rustix::fs::utimensat(folder, name, &copy::times(found), AtFlags::SYMLINK_NOFOLLOW)?,
    }
    Ok(())
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

    #[test]
    fn what_a_client_put_in_a_names_way_leads_nowhere() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::create_dir_all(path("top/folder")).unwrap();
        fs::write(path("top/folder/file"), "x").unwrap();
        fs::hard_link(path("top/folder/file"), path("file")).unwrap();
        symlink(place.path(), path("top/out")).unwrap();
        symlink("folder", path("top/way")).unwrap();
        let top = rustix::fs::open(path("top"), FOLDER, Mode::empty()).unwrap();
        let inodes = HashSet::from([fs::metadata(path("file")).unwrap().ino() as u32]);
        assert!(reach(&top, Path::new("folder/file"), &inodes).is_some());
        assert!(reach(&top, Path::new("folder/file"), &HashSet::from([0])).is_none());
        let absolute = path("file");
        for name in ["out/file", "way/file", "../file", "folder/../../file", "", "..", "folder", "folder/none"] {
            assert!(reach(&top, Path::new(name), &inodes).is_none(), "{name}");
        }
        assert!(reach(&top, &absolute, &inodes).is_none());
    }
}
