//! Makes a tarball's entries below a folder, and nowhere else.
//!
//! I/O. The kernel resolves each entry's folder inside the root and through no
//! symbolic link (openat2: RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS), so no order
//! of entries leads out. An entry's last name is never followed either.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::new_root::NewRoot;
use super::tar::{DataRun, Entry, Kind, TarError, TarReader};
use super::writer::data_runs;
use super::{Context, ImportError};
use crate::store::sources::shown;

/// Longest path and name that the kernel takes.
const MAX_PATH_BYTES: usize = 4095;
const MAX_NAME_BYTES: usize = 255;
/// Most entries; a full desktop has some 300,000.
const MAX_ENTRIES: u32 = 4_000_000;
/// Most folders, whose times are set in the end.
const MAX_FOLDERS: usize = 400_000;
const PIECE_BYTES: usize = 256 << 10;

pub struct Extract {
    root: OwnedFd,
    /// The folder of the last entry: most entries follow a neighbour.
    parent: Option<(Vec<u8>, OwnedFd)>,
    folders: Vec<(Vec<u8>, (i64, u32))>,
    entries: u32,
    buffer: Vec<u8>,
}

type Made = Result<(), Failure>;

/// Why an entry was not made.
enum Failure {
    /// The entry's own fault.
    Entry(&'static str),
    Kernel(Errno),
    Import(ImportError),
    Tar(TarError),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::LOOP => Self::Entry("it lies behind a symbolic link"),
            Errno::NOTDIR => Self::Entry("it lies below what is no folder"),
            Errno::NAMETOOLONG => Self::Entry("its name is too long"),
            Errno::NOTEMPTY => Self::Entry("a folder with files is there already"),
            errno => Self::Kernel(errno),
        }
    }
}

impl Extract {
    pub fn new(root: &Path) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
        Ok(Self { root, parent: None, folders: Vec::new(), entries: 0, buffer: vec![0; PIECE_BYTES] })
    }

    /// Makes one entry with the data that now comes from `tar`.
    pub fn entry<R: Read>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<R>,
        room: &mut NewRoot,
        run: &mut Context<'_>,
    ) -> Result<(), ImportError> {
        self.make(entry, tar, room, run).map_err(|failure| match failure {
            Failure::Entry(why) => ImportError::Entry(shown(OsStr::from_bytes(&entry.path)), why),
            Failure::Kernel(errno) => room.failed(errno.into()),
            Failure::Import(error) => error,
            Failure::Tar(error) => run.tar_error(error),
        })
    }

    fn make<R: Read>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<R>,
        room: &mut NewRoot,
        run: &mut Context<'_>,
    ) -> Made {
        self.entries += 1;
        if self.entries > MAX_ENTRIES || self.folders.len() > MAX_FOLDERS {
            return Err(Failure::Entry("there are too many"));
        }
        room.take(1, 0).map_err(Failure::Import)?;
        let path = clean(&entry.path).map_err(Failure::Entry)?;
        let Some((name, parents)) = path.split_last() else {
            // The root itself: only a folder can be it.
            return match entry.kind {
                Kind::Directory => self.describe_folder(&[], entry),
                _ => Err(Failure::Entry("it has no name")),
            };
        };
        let parent = parents.join(&b'/');
        self.open_parent(&parent, room)?;
        // `open_parent` has just set it.
        let Some((_, folder)) = self.parent.take() else { return Err(Failure::Entry("it has no folder")) };
        let made = match &entry.kind {
            Kind::Directory => {
                self.make_folder(&folder, name)?;
                self.describe_folder(&path.join(&b'/'), entry)
            }
            Kind::File => self.make_file(&folder, name, entry, tar, room, run),
            kind => self.make_other(&folder, name, kind, entry),
        };
        // An entry that replaced a folder may have replaced this one.
        if self.parent_is_there(&parent, &folder) {
            self.parent = Some((parent, folder));
        }
        made
    }

    /// Whether a folder still has a name: one that was removed has no links.
    fn parent_is_there(&self, path: &[u8], folder: &OwnedFd) -> bool {
        path.is_empty() || rustix::fs::fstat(folder).is_ok_and(|found| found.st_nlink > 0)
    }

    fn open_folder(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        // Not O_NOFOLLOW: a link at the end would then be no folder, and not a link.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    /// Opens the entry's folder; one that no entry named yet is made.
    fn open_parent(&mut self, path: &[u8], room: &mut NewRoot) -> Made {
        if self.parent.as_ref().is_some_and(|(known, _)| known == path) {
            return Ok(());
        }
        self.parent = None;
        let folder = match self.open_folder(path) {
            Err(Errno::NOENT) => {
                let mut folder = self.open_folder(b"")?;
                for (at, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').chain([(path.len(), &0)]) {
                    let name = path[..at].rsplit(|&byte| byte == b'/').next().unwrap_or_default();
                    room.take(1, 0).map_err(Failure::Import)?;
                    match rustix::fs::mkdirat(&folder, name, Mode::from(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    folder = self.open_folder(&path[..at])?;
                }
                folder
            }
            other => other?,
        };
        self.parent = Some((path.to_vec(), folder));
        Ok(())
    }

    fn make_folder(&self, parent: &OwnedFd, name: &[u8]) -> Made {
        match rustix::fs::mkdirat(parent, name, Mode::from(0o700)) {
            Err(Errno::EXIST) => {
                let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
                    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                    rustix::fs::mkdirat(parent, name, Mode::from(0o700))?;
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Owner, mode and attributes now; the time when all that is in it was made.
    fn describe_folder(&mut self, path: &[u8], entry: &Entry) -> Made {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let shown: &[u8] = if path.is_empty() { b"." } else { path };
        let folder = rustix::fs::openat2(&self.root, shown, flags, Mode::empty(), resolve)?;
        describe(&folder, entry)?;
        self.folders.push((path.to_vec(), entry.modified));
        Ok(())
    }

    fn make_file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        tar: &mut TarReader<R>,
        room: &mut NewRoot,
        run: &mut Context<'_>,
    ) -> Made {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = replacing(parent, name, || rustix::fs::openat(parent, name, flags, Mode::from(0o600)))?;
        let file = File::from(file);
        for &DataRun { offset, bytes } in &entry.runs {
            let (mut at, end) = (offset, offset + bytes);
            while at < end {
                run.check().map_err(Failure::Import)?;
                let part = PIECE_BYTES.min(usize::try_from(end - at).unwrap_or(PIECE_BYTES));
                fill(tar, &mut self.buffer[..part])?;
                let piece = &self.buffer[..part];
                for (from, to) in data_runs(piece) {
                    room.take(0, (to - from) as u64).map_err(Failure::Import)?;
                    let written = file.write_all_at(&piece[from..to], at + from as u64);
                    written.map_err(|error| Failure::Import(room.failed(error)))?;
                }
                at += part as u64;
            }
        }
        file.set_len(entry.bytes).map_err(|error| Failure::Import(room.failed(error)))?;
        describe(&file, entry)?;
        Ok(rustix::fs::futimens(&file, &times(entry.modified))?)
    }

    fn make_other(&self, parent: &OwnedFd, name: &[u8], kind: &Kind, entry: &Entry) -> Made {
        if let Kind::HardLink(target) = kind {
            return self.make_link(parent, name, target);
        }
        let node = |kind, major, minor| {
            let device = rustix::fs::makedev(major, minor);
            replacing(parent, name, || rustix::fs::mknodat(parent, name, kind, Mode::from(0o600), device))
        };
        match kind {
            Kind::Symlink(target) => {
                let is_target = !target.is_empty() && target.len() <= MAX_PATH_BYTES && !target.contains(&0);
                if !is_target {
                    return Err(Failure::Entry("it is a symbolic link to nowhere"));
                }
                replacing(parent, name, || rustix::fs::symlinkat(&target[..], parent, name))?;
            }
            Kind::Fifo => node(FileType::Fifo, 0, 0)?,
            &Kind::CharDevice(major, minor) => node(FileType::CharacterDevice, major, minor)?,
            &Kind::BlockDevice(major, minor) => node(FileType::BlockDevice, major, minor)?,
            Kind::File | Kind::Directory | Kind::HardLink(_) => {}
        }
        let (uid, gid) = owner(entry)?;
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if !matches!(kind, Kind::Symlink(_)) {
            // It was just made and is no link: nothing is followed.
            rustix::fs::chmodat(parent, name, Mode::from(entry.mode), AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(parent, name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn make_link(&self, parent: &OwnedFd, name: &[u8], target: &[u8]) -> Made {
        let path = clean(target).map_err(Failure::Entry)?;
        let missing = Failure::Entry("it is a link to what is not there");
        let Some((last, parents)) = path.split_last() else { return Err(missing) };
        let folder = match self.open_folder(&parents.join(&b'/')) {
            Err(Errno::NOENT) => return Err(missing),
            other => other?,
        };
        // A link to itself would be removed by being replaced.
        let found = |folder: &OwnedFd, name: &[u8]| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let Ok(there) = found(&folder, last) else { return Err(missing) };
        if found(parent, name).is_ok_and(|here| (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)) {
            return Ok(());
        }
        match replacing(parent, name, || rustix::fs::linkat(&folder, *last, parent, name, AtFlags::empty())) {
            Err(Failure::Kernel(Errno::PERM)) => Err(Failure::Entry("it is a hard link to a folder")),
            other => other,
        }
    }

    /// Gives the folders their times; what lay in them is made.
    pub fn finish(self, room: &NewRoot) -> Result<(), ImportError> {
        for (path, modified) in &self.folders {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let path: &[u8] = if path.is_empty() { b"." } else { path };
            // A later entry may have replaced it.
            if let Ok(folder) = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                rustix::fs::futimens(&folder, &times(*modified)).map_err(|error| room.failed(error.into()))?;
            }
        }
        Ok(())
    }
}

/// A path's names; `/` before it and `.` in it mean nothing, `..` leads out.
fn clean(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.len() > MAX_PATH_BYTES {
        return Err("its path is too long");
    }
    if path.contains(&0) {
        return Err("its path has a zero in it");
    }
    let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    if names.contains(&&b".."[..]) {
        return Err("its path leaves the root");
    }
    if names.iter().any(|name| name.len() > MAX_NAME_BYTES) {
        return Err("its name is too long");
    }
    Ok(names)
}

/// Makes something; what an earlier entry made there goes, as with `tar -x`.
fn replacing<T>(parent: &OwnedFd, name: &[u8], mut make: impl FnMut() -> rustix::io::Result<T>) -> Result<T, Failure> {
    match make() {
        Err(Errno::EXIST) => {
            match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?,
                other => other?,
            }
            Ok(make()?)
        }
        other => Ok(other?),
    }
}

fn fill<R: Read>(tar: &mut TarReader<R>, buffer: &mut [u8]) -> Made {
    let mut filled = 0;
    while filled < buffer.len() {
        match tar.data(&mut buffer[filled..]).map_err(Failure::Tar)? {
            // The runs were checked against the data's length.
            0 => return Err(Failure::Tar(TarError::Ended)),
            bytes => filled += bytes,
        }
    }
    Ok(())
}

fn owner(entry: &Entry) -> Result<(Uid, Gid), Failure> {
    // All ones means "leave as it is" to the kernel.
    if entry.uid == u32::MAX || entry.gid == u32::MAX {
        return Err(Failure::Entry("its owner is none"));
    }
    Ok((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)))
}

/// Owner before mode and attributes: chown takes away set-ID bits and
/// capabilities.
fn describe(file: impl std::os::fd::AsFd, entry: &Entry) -> Made {
    let (uid, gid) = owner(entry)?;
    let file = file.as_fd();
    rustix::fs::fchown(file, Some(uid), Some(gid))?;
    rustix::fs::fchmod(file, Mode::from(entry.mode))?;
    for (name, value) in &entry.attributes {
        // `trusted.overlay.*` would tell our overlay what to hide; ACLs are
        // text here, which no system call takes.
        if name.starts_with(b"user.") || name.starts_with(b"security.") {
            let set = rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty());
            if let Err(error) = set {
                let name = String::from_utf8_lossy(name).into_owned();
                tracing::debug!(fd = file.as_raw_fd(), name, %error, "an attribute was not taken");
            }
        }
    }
    Ok(())
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
