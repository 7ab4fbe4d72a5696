//! Random operations by NFS on an overlay, and the same by system calls on a
//! plain ext4 folder: the same results, errors and trees.
//! Needs root, loop devices, ext4 and overlayfs (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::io::Errno;

/// One place of a small tree: a directory and a name in it.
type Place = (u8, u8);

#[derive(Debug, Clone)]
enum Op {
    Create(Place),
    Mkdir(Place),
    Symlink(Place),
    Link(Place, Place),
    Rename(Place, Place),
    Remove(Place),
    Rmdir(Place),
    Write(Place, u16, u8),
    Truncate(Place, u16),
    Chmod(Place, u16),
    Read(Place, u16),
}

fn op() -> impl Strategy<Value = Op> {
    let place = || (0u8..4, 0u8..4);
    prop_oneof![
        place().prop_map(Op::Create),
        place().prop_map(Op::Mkdir),
        place().prop_map(Op::Symlink),
        (place(), place()).prop_map(|(from, to)| Op::Link(from, to)),
        (place(), place()).prop_map(|(from, to)| Op::Rename(from, to)),
        place().prop_map(Op::Remove),
        place().prop_map(Op::Rmdir),
        (place(), any::<u16>(), any::<u8>()).prop_map(|(place, offset, length)| Op::Write(place, offset, length)),
        (place(), any::<u16>()).prop_map(|(place, size)| Op::Truncate(place, size)),
        (place(), 0u16..0o7777).prop_map(|(place, mode)| Op::Chmod(place, mode)),
        (place(), any::<u16>()).prop_map(|(place, offset)| Op::Read(place, offset)),
    ]
}

const NAMES: [&str; 4] = ["a", "b", "c", "dir"];
/// Directories by index: the top, and places that may or may not hold a directory just now.
const DIRECTORIES: [&str; 4] = ["", "a", "dir", "dir/dir"];

fn path(place: Place) -> PathBuf {
    Path::new(DIRECTORIES[usize::from(place.0)]).join(NAMES[usize::from(place.1)])
}

/// What an operation gave: bytes, or the errno that a Linux client makes of it.
type Outcome = Result<Vec<u8>, i32>;

/// A walk by LOOKUP follows no symbolic link: that is the client's own work, and not tried here.
fn walk(top: &Path, place: Place) -> rustix::io::Result<()> {
    use rustix::fs::*;
    let mut path = top.to_owned();
    for name in Path::new(DIRECTORIES[usize::from(place.0)]) {
        path.push(name);
        if FileType::from_raw_mode(lstat(&path)?.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
    }
    Ok(())
}

fn local(top: &Path, op: &Op) -> Outcome {
    use rustix::fs::*;
    let places = match *op {
        Op::Link(from, to) => {
            walk(top, from).and_then(|()| lstat(top.join(path(from))).map(drop)).and_then(|()| walk(top, to))
        }
        Op::Rename(from, to) => walk(top, from).and_then(|()| walk(top, to)),
        Op::Create(place) | Op::Mkdir(place) | Op::Symlink(place) | Op::Remove(place) | Op::Rmdir(place) => {
            walk(top, place)
        }
        Op::Write(place, ..) | Op::Truncate(place, _) | Op::Chmod(place, _) | Op::Read(place, _) => walk(top, place),
    };
    places.map_err(Errno::raw_os_error)?;
    let at = |place: &Place| top.join(path(*place));
    let nothing = |result: rustix::io::Result<()>| result.map(|()| Vec::new());
    // What is no directory on the way is found by LOOKUP before the call, with the same errno.
    let regular = |place: &Place, flags: OFlags| -> rustix::io::Result<rustix::fd::OwnedFd> {
        let kind = FileType::from_raw_mode(lstat(at(place))?.st_mode);
        match kind {
            FileType::RegularFile => open(at(place), flags, Mode::empty()),
            FileType::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    };
    let result = match op {
        Op::Create(place) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            open(at(place), flags, Mode::from_raw_mode(0o644)).map(|_| Vec::new())
        }
        Op::Mkdir(place) => nothing(mkdir(at(place), Mode::from_raw_mode(0o755))),
        Op::Symlink(place) => nothing(symlink("target", at(place))),
        Op::Link(from, to) => match lstat(at(from)) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                // RFC 1813 has ISDIR or INVAL here, the system call PERM; a Linux client never asks.
                lstat(at(to).parent().unwrap()).and(Err(Errno::ISDIR))
            }
            Ok(_) => nothing(link(at(from), at(to))),
            Err(errno) => Err(errno),
        },
        Op::Rename(from, to) => nothing(rename(at(from), at(to))),
        Op::Remove(place) => nothing(unlink(at(place))),
        Op::Rmdir(place) => nothing(rmdir(at(place))),
        Op::Write(place, offset, length) => regular(place, OFlags::WRONLY).and_then(|fd| {
            rustix::io::pwrite(fd, &vec![*length; usize::from(*length)], u64::from(*offset)).map(|_| Vec::new())
        }),
        Op::Truncate(place, size) => {
            regular(place, OFlags::WRONLY).and_then(|fd| nothing(ftruncate(fd, u64::from(*size))))
        }
        Op::Chmod(place, mode) => match lstat(at(place)) {
            // No client's kernel sends it; servers pass over a mode that a link has not.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => Ok(Vec::new()),
            Ok(_) => nothing(chmod(at(place), Mode::from_raw_mode(u32::from(*mode)))),
            Err(errno) => Err(errno),
        },
        Op::Read(place, offset) => regular(place, OFlags::RDONLY).and_then(|fd| {
            let mut bytes = vec![0; 300];
            let count = rustix::io::pread(fd, &mut bytes, u64::from(*offset))?;
            bytes.truncate(count);
            Ok(bytes)
        }),
    };
    result.map_err(Errno::raw_os_error)
}

/// The errno of a Linux client for a status.
fn errno(status: nfsstat3) -> i32 {
    match status {
        nfsstat3::NFS3ERR_NAMETOOLONG => Errno::NAMETOOLONG.raw_os_error(),
        nfsstat3::NFS3ERR_NOTEMPTY => Errno::NOTEMPTY.raw_os_error(),
        nfsstat3::NFS3ERR_DQUOT => Errno::DQUOT.raw_os_error(),
        nfsstat3::NFS3ERR_STALE => Errno::STALE.raw_os_error(),
        nfsstat3::NFS3ERR_NOTSUPP => Errno::OPNOTSUPP.raw_os_error(),
        other => other as i32,
    }
}

fn done<T, E>(result: Nfs3Result<T, E>) -> Result<T, i32> {
    match result {
        Nfs3Result::Ok(ok) => Ok(ok),
        Nfs3Result::Err((status, _)) => Err(errno(status)),
    }
}

struct Remote {
    client: Client,
    top: nfs_fh3,
}

impl Remote {
    /// Walks as a client does, one LOOKUP a component.
    fn walk(&mut self, path: &str) -> Result<nfs_fh3, i32> {
        let mut handle = self.top.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            handle = done(self.client.lookup(&handle, name))?.object;
            if self.client.attributes(&handle).type_ != ftype3::NF3DIR {
                return Err(Errno::NOTDIR.raw_os_error());
            }
        }
        Ok(handle)
    }

    fn parent(&mut self, place: Place) -> Result<(nfs_fh3, &'static str), i32> {
        Ok((self.walk(DIRECTORIES[usize::from(place.0)])?, NAMES[usize::from(place.1)]))
    }

    fn file(&mut self, place: Place) -> Result<nfs_fh3, i32> {
        let (directory, name) = self.parent(place)?;
        Ok(done(self.client.lookup(&directory, name))?.object)
    }

    fn run(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Create(place) => {
                let (directory, name) = self.parent(*place)?;
                done(self.client.create(&directory, name, createhow3::GUARDED(mode(0o644))))?;
            }
            Op::Mkdir(place) => {
                let (directory, name) = self.parent(*place)?;
                done(self.client.mkdir(&directory, name))?;
            }
            Op::Symlink(place) => {
                let (directory, name) = self.parent(*place)?;
                let symlink =
                    symlinkdata3 { symlink_attributes: sattr3::default(), symlink_data: b"target".to_vec().into() };
                let args = SYMLINK3args { where_: at(&directory, name), symlink };
                done(self.client.call::<SYMLINK3res>(NFS_PROGRAM::NFSPROC3_SYMLINK, &args))?;
            }
            Op::Link(from, to) => {
                let file = self.file(*from)?;
                let (directory, name) = self.parent(*to)?;
                done(self.client.link(&file, &directory, name))?;
            }
            Op::Rename(from, to) => {
                let (from, old) = self.parent(*from)?;
                let (to, new) = self.parent(*to)?;
                done(self.client.rename(&from, old, &to, new))?;
            }
            Op::Remove(place) => {
                let (directory, name) = self.parent(*place)?;
                done(self.client.remove(&directory, name))?;
            }
            Op::Rmdir(place) => {
                let (directory, name) = self.parent(*place)?;
                done(self.client.rmdir(&directory, name))?;
            }
            Op::Write(place, offset, length) => {
                let file = self.file(*place)?;
                let data = vec![*length; usize::from(*length)];
                done(self.client.write(&file, u64::from(*offset), &data, stable_how::UNSTABLE))?;
            }
            Op::Truncate(place, size) => {
                let file = self.file(*place)?;
                let size = set_size3::Some(u64::from(*size));
                done(self.client.setattr(&file, sattr3 { size, ..sattr3::default() }))?;
            }
            Op::Chmod(place, bits) => {
                let file = self.file(*place)?;
                done(self.client.setattr(&file, mode(u32::from(*bits))))?;
            }
            Op::Read(place, offset) => {
                let file = self.file(*place)?;
                return Ok(done(self.client.read(&file, u64::from(*offset), 300))?.data.as_ref().to_vec());
            }
        }
        Ok(Vec::new())
    }
}

/// Type, mode, links, size and content of all there is below `top`.
fn tree(top: &Path) -> BTreeMap<PathBuf, (u32, u64, u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let content = if metadata.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
            // A directory's size and links are its file system's own affair.
            let (links, size) = if metadata.is_dir() { (0, 0) } else { (metadata.nlink(), metadata.size()) };
            let name = path.strip_prefix(top).unwrap().to_owned();
            found.insert(name, (metadata.permissions().mode(), links, size, content));
            if metadata.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

#[test]
fn random_operations_do_what_they_do_on_a_local_disk() {
    let lab = Lab::new();
    let root = lab.root(A);
    let plain = lab.folder().join("upper/plain");
    std::fs::create_dir(&plain).unwrap();
    let case = std::cell::Cell::new(0);
    // The umask of this thread is not to be of account on the local side either.
    rustix::process::umask(rustix::fs::Mode::empty());
    let config = Config { cases: 60, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let ran = TestRunner::new(config).run(&proptest::collection::vec(op(), 1..60), |ops| {
        case.set(case.get() + 1);
        let name = format!("case{}", case.get());
        let mut client = lab.client(A);
        let top = handle(client.mkdir(&root, &name).unwrap().obj);
        let local_top = plain.join(&name);
        std::fs::create_dir(&local_top).unwrap();
        let mut remote = Remote { client, top };
        for (n, op) in ops.iter().enumerate() {
            let expected = local(&local_top, op);
            let got = remote.run(op);
            prop_assert_eq!(got, expected, "operation {} of {:?}", n, ops);
        }
        let (remote_tree, local_tree) = (tree(&lab.path(&name)), tree(&local_top));
        prop_assert_eq!(remote_tree, local_tree);
        Ok(())
    });
    ran.unwrap();
}
