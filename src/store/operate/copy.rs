//! Copies a tree with all that makes it the same: owners, modes, times, hard
//! links, holes, extended attributes, devices.
//!
//! I/O, by descriptors: a folder is opened by its name in its parent and never
//! through a link, since what is copied was written by clients. The depth, and
//! the hard links that are remembered, are bounded.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

const MAX_DEPTH: usize = 256;
/// Files with several names. Debian has a few hundred, but an overlay counts its
/// index as a name of each file that was copied up.
const MAX_LINKED: usize = 500_000;
const MAX_XATTR_BYTES: usize = 64 << 10;
const BUFFER_BYTES: usize = 256 << 10;

/// What went wrong, and where in the tree.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{0} lies more than {MAX_DEPTH} folders deep")]
    TooDeep(PathBuf),
    #[error("more than {MAX_LINKED} files have several names")]
    TooManyLinks,
    #[error("stopped")]
    Stopped,
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    pub files: u64,
    pub bytes: u64,
}

/// How a tree is copied.
pub struct Rules<'a> {
    /// `to` is an overlay over the image that `from` is one of: what both have
    /// from there is left alone. Inode numbers and change times agree for
    /// nothing else: no client can set a change time.
    pub over_image: bool,
    /// `from` holds overlay layers that lie still or are being written, and `to`
    /// an earlier copy of them: what has not changed since is left alone, what
    /// vanishes meanwhile is passed over, and the overlay's own marks go along.
    pub layers: bool,
    /// Not copied: paths below the top. In layers such a path also stays in `to`.
    pub without: &'a dyn Fn(&Path) -> bool,
    /// Counts the bytes that were looked at, where somebody shows them.
    pub seen: Option<&'a AtomicU64>,
    pub stop: &'a AtomicBool,
}

/// Which file, in which state, a copied layer's file was made from: inode,
/// change time and size, of which no client can set the time. Says the truth only in a file system where content is on
/// the disk before it (`Place::open_to_fill`); `made-from`, of which that is not known, is not believed.
const MADE_FROM: &CStr = c"trusted.rootstock.copied-from";
/// Ours, and no copy's.
const OUR_MARKS: &[u8] = b"trusted.rootstock.";
/// What of the overlay's own marks means the same in a copy. The others name
/// inodes (`origin`) or count names in the index (`nlink`), which are others there.
const KEPT_MARKS: [&[u8]; 4] =
    [b"trusted.overlay.opaque", b"trusted.overlay.redirect", b"trusted.overlay.whiteout", b"trusted.overlay.protattr"];

/// Makes the folder `to` the same as `from`; what `from` has not goes from `to`.
pub fn mirror(from: &Path, to: &Path, rules: &Rules<'_>) -> Result<Copied, CopyError> {
    let mut copy = Copy { rules, linked: HashMap::new(), copied: Copied::default(), remove: true, to: to.to_owned() };
    let (from, to) = (open_top(from)?, open_top(to)?);
    copy.folder(&from, &to, Path::new(""), 0)?;
    Ok(copy.copied)
}

/// Copies one path of a tree into another, over what is there. Folders above
/// it are made as in `from` where `to` has none. False: `from` has no such path.
pub fn path(from: &Path, to: &Path, path: &str, stop: &AtomicBool) -> Result<bool, CopyError> {
    let rules = Rules { over_image: false, layers: false, without: &|_| false, seen: None, stop };
    let mut copy =
        Copy { rules: &rules, linked: HashMap::new(), copied: Copied::default(), remove: false, to: to.to_owned() };
    let (mut from, mut to) = (open_top(from)?, open_top(to)?);
    let mut at = PathBuf::new();
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).take(MAX_DEPTH).collect();
    let Some((last, folders)) = names.split_last() else { return Ok(false) };
    for name in folders {
        at.push(name);
        let name = CString::new(*name).map_err(|_| failed("naming", &at)(Errno::INVAL))?;
        let source = match open_folder(&from, &name) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            other => other.map_err(failed("opening", &at))?,
        };
        match rustix::fs::mkdirat(&to, &name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("making", &at)(errno)),
        }
        let target = open_folder(&to, &name).map_err(failed("opening", &at))?;
        let stat = rustix::fs::fstat(&source).map_err(failed("reading", &at))?;
        own(&target, &stat).map_err(failed("changing", &at))?;
        (from, to) = (source, target);
    }
    let name = CString::new(*last).map_err(|_| failed("naming", &at)(Errno::INVAL))?;
    at.push(last);
    match rustix::fs::statat(&from, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        other => drop(other.map_err(failed("reading", &at))?),
    }
    copy.entry(&from, &to, &name, &at, folders.len() + 1)?;
    Ok(true)
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(Errno) -> CopyError {
    let path = path.to_owned();
    move |errno| CopyError::Io { operation, path: path.clone(), source: errno.into() }
}

fn open_top(path: &Path) -> Result<OwnedFd, CopyError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed("opening", path))
}

/// A folder by its name in its parent; neither a link nor another mount.
fn open_folder(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

fn names(folder: &OwnedFd, path: &Path) -> Result<BTreeSet<CString>, CopyError> {
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(folder).map_err(failed("reading", path))? {
        let name = entry.map_err(failed("reading", path))?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Owner, then mode: a new owner clears the setuid bit.
fn own(target: &OwnedFd, stat: &Stat) -> rustix::io::Result<()> {
    rustix::fs::fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))
}

pub fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    #[allow(clippy::unnecessary_cast, reason = "the types differ by architecture")]
    Timestamps {
        last_access: time(stat.st_atime as i64, stat.st_atime_nsec as u64),
        last_modification: time(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
    }
}

struct Copy<'a> {
    rules: &'a Rules<'a>,
    /// Files with several names, by device and inode: where the copy lies.
    linked: HashMap<(u64, u64), PathBuf>,
    copied: Copied,
    /// Whether what the source has not goes.
    remove: bool,
    to: PathBuf,
}

impl Copy<'_> {
    fn folder(&mut self, from: &OwnedFd, to: &OwnedFd, at: &Path, depth: usize) -> Result<(), CopyError> {
        if depth > MAX_DEPTH {
            return Err(CopyError::TooDeep(at.to_owned()));
        }
        let wanted = names(from, at)?;
        if self.remove {
            for name in names(to, at)?.difference(&wanted) {
                if self.rules.layers && (self.rules.without)(&at.join(text(name))) {
                    continue;
                }
                remove(to, name, &at.join(text(name)), depth)?;
            }
        }
        for name in &wanted {
            let path = at.join(text(name));
            if !(self.rules.without)(&path) {
                self.entry(from, to, name, &path, depth + 1)?;
            }
        }
        // Last: what lies in it changed its times.
        let stat = rustix::fs::fstat(from).map_err(failed("reading", at))?;
        own(to, &stat).map_err(failed("changing", at))?;
        self.attributes(from.as_fd(), to.as_fd()).map_err(failed("copying the attributes of", at))?;
        rustix::fs::futimens(to, &times(&stat)).map_err(failed("changing", at))
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, at: &Path, depth: usize) -> Result<(), CopyError> {
        if self.rules.stop.load(Ordering::Relaxed) {
            return Err(CopyError::Stopped);
        }
        let stat = |folder| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let source = match stat(from) {
            Err(Errno::NOENT) if self.rules.layers => return Ok(()),
            other => other.map_err(failed("reading", at))?,
        };
        let present = stat(to).ok();
        if let Some(seen) = self.rules.seen {
            seen.fetch_add(u64::try_from(source.st_blocks).unwrap_or(0) * 512, Ordering::Relaxed);
        }
        let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
        let directory = kind(&source) == FileType::Directory;
        if let Some(present) = &present {
            let same = |a: &Stat, b: &Stat| {
                a.st_ino == b.st_ino && a.st_ctime == b.st_ctime && a.st_ctime_nsec == b.st_ctime_nsec
            };
            if self.rules.over_image && !directory && same(&source, present) {
                return Ok(());
            }
            if self.rules.layers && !directory && self.is_copied(from, to, name, at, (&source, present)) {
                return Ok(());
            }
            if !(directory && kind(present) == FileType::Directory) {
                remove(to, name, at, depth)?;
            }
        }
        match kind(&source) {
            FileType::Directory => self.make_folder(from, to, name, at, depth),
            _ if source.st_nlink > 1 && self.link(&source, to, name, at)? => Ok(()),
            FileType::RegularFile => self.file(from, to, name, at, &source),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new()).map_err(failed("reading", at))?;
                rustix::fs::symlinkat(&target, to, name).map_err(failed("linking", at))?;
                self.finish(to, name, at, &source)
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice | FileType::Socket => {
                let mode = Mode::from_raw_mode(source.st_mode & 0o7777);
                rustix::fs::mknodat(to, name, kind(&source), mode, source.st_rdev).map_err(failed("making", at))?;
                self.finish(to, name, at, &source)
            }
            _ => Ok(()),
        }
    }

    fn make_folder(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CStr,
        at: &Path,
        depth: usize,
    ) -> Result<(), CopyError> {
        let source = match open_folder(from, name) {
            Err(Errno::NOENT) if self.rules.layers => return Ok(()),
            other => other.map_err(failed("opening", at))?,
        };
        match rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("making", at)(errno)),
        }
        let target = open_folder(to, name).map_err(failed("opening", at))?;
        self.folder(&source, &target, at, depth)
    }

    /// Whether the file was copied under another name before, and is linked now.
    fn link(&mut self, source: &Stat, to: &OwnedFd, name: &CStr, at: &Path) -> Result<bool, CopyError> {
        #[allow(clippy::unnecessary_cast, reason = "the types differ by architecture")]
        let key = (source.st_dev as u64, source.st_ino as u64);
        if let Some(first) = self.linked.get(&key) {
            // By a path of plain folders that this copy made: nobody else is here.
            let first = self.to.join(first);
            rustix::fs::linkat(CWD, &first, to, name, AtFlags::empty()).map_err(failed("linking", at))?;
            return Ok(true);
        }
        if self.linked.len() >= MAX_LINKED {
            return Err(CopyError::TooManyLinks);
        }
        self.linked.insert(key, at.to_owned());
        Ok(false)
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, at: &Path, stat: &Stat) -> Result<(), CopyError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = match rustix::fs::openat(from, name, flags, Mode::empty()) {
            Err(Errno::NOENT) if self.rules.layers => return Ok(()),
            other => other.map_err(failed("opening", at))?,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600)).map_err(failed("making", at))?;
        self.copied.files += 1;
        self.copied.bytes += data(&source, &target, self.rules.stop).map_err(|source| CopyError::Io {
            operation: "copying",
            path: at.to_owned(),
            source,
        })?;
        own(&target, stat).map_err(failed("changing", at))?;
        self.attributes(source.as_fd(), target.as_fd()).map_err(failed("copying the attributes of", at))?;
        rustix::fs::futimens(&target, &times(stat)).map_err(failed("changing", at))?;
        if self.rules.layers {
            // Last: a file that was cut off in the middle has none. As it was before it was
            // read, so that one that is written meanwhile is copied again.
            let made_from = made_from(stat);
            rustix::fs::fsetxattr(&target, MADE_FROM, made_from.as_bytes(), XattrFlags::empty())
                .map_err(failed("marking", at))?;
        }
        Ok(())
    }

    /// Whether an earlier copy of this entry, which is no folder, still holds.
    /// Its names are held together by the first of them.
    fn is_copied(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CStr,
        at: &Path,
        (source, present): (&Stat, &Stat),
    ) -> bool {
        if FileType::from_raw_mode(source.st_mode) != FileType::from_raw_mode(present.st_mode) {
            return false;
        }
        if FileType::from_raw_mode(source.st_mode) != FileType::RegularFile {
            let known =
                |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev, stat.st_mtime, stat.st_mtime_nsec);
            let target = |folder: &OwnedFd| rustix::fs::readlinkat(folder, name, Vec::new()).ok();
            return known(source) == known(present) && target(from) == target(to);
        }
        #[allow(clippy::unnecessary_cast, reason = "the types differ by architecture")]
        let key = (source.st_dev as u64, source.st_ino as u64);
        if source.st_nlink > 1
            && let Some(first) = self.linked.get(&key)
        {
            return rustix::fs::lstat(self.to.join(first)).is_ok_and(|first| first.st_ino == present.st_ino);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(copy) = rustix::fs::openat(to, name, flags, Mode::empty()) else { return false };
        let mut mark = [0u8; 128];
        let holds = rustix::fs::fgetxattr(&copy, MADE_FROM, &mut mark[..])
            .is_ok_and(|length| mark[..length] == *made_from(source).as_bytes());
        if holds && source.st_nlink > 1 && self.linked.len() < MAX_LINKED {
            self.linked.insert(key, at.to_owned());
        }
        holds
    }

    /// Extended attributes, access lists among them; of the overlay's own only
    /// what layers need.
    fn attributes(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
        attributes(from, to, if self.rules.layers { &KEPT_MARKS } else { &[] })
    }

    /// Owner, mode and times of what is not opened.
    fn finish(&mut self, to: &OwnedFd, name: &CStr, at: &Path, stat: &Stat) -> Result<(), CopyError> {
        let result = (|| {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
            }
            rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
        })();
        self.copied.files += 1;
        result.map_err(failed("changing", at))
    }
}

fn text(name: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

/// Removes a name with all below it.
fn remove(folder: &OwnedFd, name: &CStr, at: &Path, depth: usize) -> Result<(), CopyError> {
    if depth > MAX_DEPTH {
        return Err(CopyError::TooDeep(at.to_owned()));
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other.map_err(failed("removing", at)),
    }
    let inner = open_folder(folder, name).map_err(failed("opening", at))?;
    for name in names(&inner, at)? {
        remove(&inner, &name, &at.join(text(&name)), depth + 1)?;
    }
    rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR).map_err(failed("removing", at))
}

/// Copies what is data; holes stay holes.
fn data(from: &OwnedFd, to: &OwnedFd, stop: &AtomicBool) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let (source, target) = (File::from(from.try_clone()?), File::from(to.try_clone()?));
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let (mut at, mut copied) = (0, 0);
    let mut buffer = vec![0; BUFFER_BYTES];
    while at < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            // A file system that does not tell its holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            other => other?,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(length).min(length);
        at = start;
        while at < end {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            // At most the buffer's length.
            let piece = (end - at).min(BUFFER_BYTES as u64) as usize;
            let read = source.read_at(&mut buffer[..piece], at)?;
            if read == 0 {
                return Ok(copied);
            }
            target.write_all_at(&buffer[..read], at)?;
            at += read as u64;
            copied += read as u64;
        }
        at = at.max(end);
    }
    Ok(copied)
}

fn made_from(stat: &Stat) -> String {
    format!("{} {}.{:09} {}", stat.st_ino, stat.st_ctime, stat.st_ctime_nsec, stat.st_size)
}

/// Extended attributes, access lists among them; of the overlay's own those named.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, kept: &[&[u8]]) -> rustix::io::Result<()> {
    let mut list = vec![0u8; MAX_XATTR_BYTES];
    let length = match rustix::fs::flistxattr(from, &mut list[..]) {
        Err(Errno::OPNOTSUPP | Errno::RANGE) => return Ok(()),
        other => other?,
    };
    let mut value = Vec::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") && !kept.contains(&name) || name.starts_with(OUR_MARKS) {
            continue;
        }
        value.resize(MAX_XATTR_BYTES, 0);
        let length = match rustix::fs::fgetxattr(from, name, &mut value[..]) {
            Err(Errno::NODATA) => continue,
            other => other?,
        };
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            // One file system has kinds that the other has not.
            Err(Errno::OPNOTSUPP) | Ok(()) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The top folder of a new upper layer is as that of the former.
pub fn top(from: &Path, to: &Path) -> Result<(), CopyError> {
    let (source, target) = (open_top(from)?, open_top(to)?);
    let stat = rustix::fs::fstat(&source).map_err(failed("reading", from))?;
    own(&target, &stat).map_err(failed("changing", to))?;
    attributes(source.as_fd(), target.as_fd(), &[]).map_err(failed("copying the attributes of", from))?;
    rustix::fs::futimens(&target, &times(&stat)).map_err(failed("changing", to))
}
