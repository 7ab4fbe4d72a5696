//! Takes the boot files out of a root that came as a tarball: what is a FAT of
//! its own in a card's image lies in a folder there.
//!
//! I/O. In the root the folder stays, empty, as the mount point that it is.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{ImportError, write_error};

/// Where the boot partition is mounted: by Raspberry Pi OS since Bookworm and
/// by Ubuntu, and before.
const FOLDERS: [&str; 2] = ["boot/firmware", "boot"];
/// Most files and folders, and their depth and sum.
const MAX_ENTRIES: u32 = 100_000;
const MAX_DEPTH: u32 = 16;
const MAX_BYTES: u64 = 4 << 30;

struct Copy {
    entries_left: u32,
    bytes_left: u64,
    /// The folder, which no link may leave.
    top: OwnedFd,
}

/// Moves the boot files of the root mounted at `root` to the folder `to`,
/// which is made.
pub fn take(root: &Path, to: &Path) -> Result<(), ImportError> {
    let root_failed = |error: Errno| write_error(root, error.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(root_failed)?;
    let mut seen = false;
    for folder in FOLDERS {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let Ok(top) = rustix::fs::openat2(&root, folder, flags, Mode::empty(), resolve) else { continue };
        seen = true;
        if !is_boot(&top).map_err(root_failed)? {
            continue;
        }
        fs::create_dir(to).map_err(|source| write_error(to, source))?;
        let from = open_folder(&top, b".").map_err(root_failed)?;
        let mut copy = Copy { entries_left: MAX_ENTRIES, bytes_left: MAX_BYTES, top };
        copy.folder(&from, to, 0)?;
        return empty(&from, 0).map_err(root_failed);
    }
    let what = if seen {
        "no boot files of a Raspberry Pi in /boot"
    } else {
        "no boot folder: no /boot/firmware and no /boot"
    };
    Err(ImportError::NotPi(format!("it has {what}")))
}

fn is_boot(folder: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(names(folder)?.iter().any(|name| is_boot_file(name)))
}

/// Whether it is what a Pi's firmware looks for first; a FAT knows no upper and lower case.
pub fn is_boot_file(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let framed = |start: &[u8], end: &[u8]| name.starts_with(start) && name.ends_with(end);
    matches!(&name[..], b"config.txt" | b"bootcode.bin") || framed(b"start", b".elf") || framed(b"kernel", b".img")
}

fn names(folder: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)?.take(MAX_ENTRIES as usize) {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn open_folder(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn kind(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<FileType> {
    let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(found.st_mode))
}

impl Copy {
    fn folder(&mut self, from: &OwnedFd, to: &Path, depth: u32) -> Result<(), ImportError> {
        let too_many = || ImportError::NotPi("its boot folder has too many files, or folders too deep".into());
        if depth > MAX_DEPTH {
            return Err(too_many());
        }
        let failed = |error: Errno| write_error(to, error.into());
        for name in names(from).map_err(failed)? {
            self.entries_left = self.entries_left.checked_sub(1).ok_or_else(too_many)?;
            let target = to.join(OsStr::from_bytes(&name));
            match kind(from, &name).map_err(failed)? {
                FileType::Directory => {
                    let folder = open_folder(from, &name).map_err(failed)?;
                    fs::create_dir(&target).map_err(|source| write_error(&target, source))?;
                    self.folder(&folder, &target, depth + 1)?;
                }
                FileType::RegularFile => {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let file = rustix::fs::openat(from, &name[..], flags, Mode::empty()).map_err(failed)?;
                    self.file(File::from(file), &target)?;
                }
                FileType::Symlink if depth == 0 => self.link(&name, &target)?,
                // A FAT could hold nothing else, and TFTP serves nothing else.
                _ => tracing::debug!(path = %target.display(), "passed over in the boot folder"),
            }
        }
        Ok(())
    }

    /// A FAT has no links: Debian's `vmlinuz` becomes the file it leads to.
    fn link(&mut self, name: &[u8], target: &Path) -> Result<(), ImportError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat2(&self.top, name, flags, Mode::empty(), ResolveFlags::BENEATH) else {
            tracing::debug!(path = %target.display(), "a link out of the boot folder was passed over");
            return Ok(());
        };
        let file = File::from(file);
        match file.metadata() {
            Ok(found) if found.is_file() => self.file(file, target),
            _ => Ok(()),
        }
    }

    fn file(&mut self, mut from: File, to: &Path) -> Result<(), ImportError> {
        let failed = |source: io::Error| write_error(to, source);
        let found = from.metadata().map_err(failed)?;
        let too_large = || ImportError::NotPi("its boot folder is larger than 4 GiB".into());
        self.bytes_left = self.bytes_left.checked_sub(found.len()).ok_or_else(too_large)?;
        // 0755 as the kernel's vfat shows files to root by default.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(to);
        let mut file = file.map_err(failed)?;
        io::copy(&mut from, &mut file).map_err(failed)?;
        let times = FileTimes::new().set_modified(found.modified().map_err(failed)?);
        file.set_times(times).map_err(failed)
    }
}

/// Removes everything in a folder.
fn empty(folder: &OwnedFd, depth: u32) -> rustix::io::Result<()> {
    for name in names(folder)? {
        if kind(folder, &name)? == FileType::Directory && depth <= MAX_DEPTH {
            empty(&open_folder(folder, &name)?, depth + 1)?;
            rustix::fs::unlinkat(folder, &name[..], AtFlags::REMOVEDIR)?;
        } else {
            rustix::fs::unlinkat(folder, &name[..], AtFlags::empty())?;
        }
    }
    Ok(())
}
