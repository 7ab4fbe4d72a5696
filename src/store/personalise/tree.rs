//! A client's root as the rules may touch it: every path is resolved inside
//! the root by the kernel, so no symbolic link of a hostile image leads out.
//!
//! I/O. `openat2` with RESOLVE_IN_ROOT treats `/` and `..` as the root's own.
//! What is written replaces the name itself, never what a link points to.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

/// Largest file that is read as text.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Most names read from one folder.
const MAX_NAMES: usize = 2000;
/// Deepest path that is made.
const MAX_DEPTH: usize = 32;

/// What went wrong in a client's tree.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}")]
pub struct TreeError {
    pub operation: &'static str,
    pub path: String,
    pub source: io::Error,
}

impl TreeError {
    /// Whether every later write would fail the same way.
    pub fn is_fatal(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let io = self.source.raw_os_error() == Some(libc::EIO);
        io || matches!(self.source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
    }
}

type Result<T> = std::result::Result<T, TreeError>;

/// Owner and mode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

impl Owner {
    pub const fn root(mode: u32) -> Self {
        Self { uid: 0, gid: 0, mode }
    }
}

/// One mounted tree.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

fn error(operation: &'static str, path: &str) -> impl Fn(Errno) -> TreeError {
    move |errno| TreeError { operation, path: path.to_owned(), source: errno.into() }
}

impl Tree {
    /// The tree mounted at `folder`.
    pub fn open(folder: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, folder, flags, Mode::empty());
        Ok(Self { root: root.map_err(error("opening", &folder.to_string_lossy()))? })
    }

    /// Opens what `path` leads to, links inside the root followed.
    fn resolve(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        // EAGAIN: something was renamed meanwhile; nobody else is here.
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// The folder that holds the last name of `path`, and that name.
    fn parent<'p>(&self, path: &'p str) -> rustix::io::Result<(OwnedFd, &'p str)> {
        let trimmed = path.trim_end_matches('/');
        let (folder, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        if matches!(name, "" | "." | "..") {
            return Err(Errno::INVAL);
        }
        let folder = if folder.is_empty() { "/" } else { folder };
        Ok((self.resolve(folder, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }

    /// What lies under the name itself; a link is not followed.
    pub fn lstat(&self, path: &str) -> Option<Stat> {
        let (folder, name) = self.parent(path).ok()?;
        rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// Whether the name is there, as whatever.
    pub fn exists(&self, path: &str) -> bool {
        self.lstat(path).is_some()
    }

    pub fn is_dir(&self, path: &str) -> bool {
        self.resolve(path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    /// A regular file's text, links inside the root followed. `None` if there
    /// is none, or it is no text of at most 1 MiB.
    pub fn read(&self, path: &str) -> Option<String> {
        let file = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut text = String::new();
        let read = File::from(file).take(MAX_TEXT_BYTES + 1).read_to_string(&mut text).ok()?;
        (read as u64 <= MAX_TEXT_BYTES).then_some(text)
    }

    /// What a symbolic link says.
    pub fn read_link(&self, path: &str) -> Option<String> {
        let (folder, name) = self.parent(path).ok()?;
        rustix::fs::readlinkat(&folder, name, Vec::new()).ok()?.into_string().ok()
    }

    /// Names in a folder, sorted; empty if there is none.
    pub fn names(&self, path: &str) -> Vec<String> {
        let Ok(folder) = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY) else { return Vec::new() };
        let Ok(folder) = Dir::read_from(folder) else { return Vec::new() };
        let mut names: Vec<String> = folder
            .filter_map(|entry| OsString::from_vec(entry.ok()?.file_name().to_bytes().to_vec()).into_string().ok())
            .filter(|name| name != "." && name != "..")
            .take(MAX_NAMES)
            .collect();
        names.sort();
        names
    }

    /// Writes a file whole. An existing regular file keeps its owner and mode
    /// unless `owner` is given; a link is replaced, not followed.
    pub fn write(&self, path: &str, bytes: &[u8], owner: Option<Owner>) -> Result<()> {
        let (folder, name) = self.parent_made(path)?;
        let failed = error("writing", path);
        let present = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let kept = present
            .filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
            .map(|stat| Owner { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 });
        let owner = owner.or(kept).unwrap_or(Owner::root(0o644));
        let temporary = ".rootstock-new";
        let _ = rustix::fs::unlinkat(&folder, temporary, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, temporary, flags, Mode::from_raw_mode(0o600)).map_err(&failed)?;
        let mut file = File::from(file);
        let written = (|| {
            file.write_all(bytes)?;
            rustix::fs::fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(owner.mode))?;
            // A rename over a folder fails, as it should.
            Ok(rustix::fs::renameat(&folder, temporary, &folder, name)?)
        })();
        written.map_err(|source| {
            let _ = rustix::fs::unlinkat(&folder, temporary, AtFlags::empty());
            TreeError { operation: "writing", path: path.to_owned(), source }
        })
    }

    /// Makes a symbolic link, in place of a file or link of that name.
    pub fn link(&self, target: &str, path: &str) -> Result<()> {
        let (folder, name) = self.parent_made(path)?;
        let _ = rustix::fs::unlinkat(&folder, name, AtFlags::empty());
        rustix::fs::symlinkat(target, &folder, name).map_err(error("linking", path))
    }

    /// Removes a file or link; whether there was one.
    pub fn remove(&self, path: &str) -> Result<bool> {
        let Ok((folder, name)) = self.parent(path) else { return Ok(false) };
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(error("removing", path)(errno)),
        }
    }

    /// Makes a folder with its owner; one that is there already gets them too.
    pub fn make_dir(&self, path: &str, owner: Owner) -> Result<()> {
        let failed = error("making", path);
        let (folder, name) = self.parent_made(path)?;
        match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&folder, name, flags, Mode::empty()).map_err(&failed)?;
        rustix::fs::fchown(&made, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid))).map_err(&failed)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(owner.mode)).map_err(failed)
    }

    /// The folder that holds `path`, made with its parents where missing.
    fn parent_made<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str)> {
        match self.parent(path) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(error("finding", path)),
        }
        let mut made = PathBuf::from("/");
        let folder = path.trim_end_matches('/').rsplit_once('/').map_or("", |(folder, _)| folder);
        for name in folder.split('/').filter(|name| !name.is_empty()).take(MAX_DEPTH) {
            made.push(name);
            let step = made.to_string_lossy().into_owned();
            if !self.is_dir(&step) {
                let (parent, name) = self.parent(&step).map_err(error("finding", &step))?;
                let mode = Mode::from_raw_mode(0o755);
                rustix::fs::mkdirat(&parent, name, mode).map_err(error("making", &step))?;
                // Whatever the umask of this process.
                rustix::fs::chmodat(&parent, name, mode, AtFlags::empty()).map_err(error("making", &step))?;
            }
        }
        self.parent(path).map_err(error("finding", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    struct Hostile {
        outside: tempfile::TempDir,
        root: PathBuf,
        tree: Tree,
    }

    /// A root beside a file that must stay as it is.
    fn hostile() -> Hostile {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let tree = Tree::open(&root).unwrap();
        Hostile { outside, root, tree }
    }

    #[test]
    fn links_out_of_the_root_stay_inside_it() {
        let Hostile { outside, root, tree } = hostile();
        let secret = outside.path().join("secret");
        symlink("../../secret", root.join("relative")).unwrap();
        symlink(&secret, root.join("absolute")).unwrap();
        symlink(outside.path(), root.join("etc")).unwrap();
        assert_eq!(tree.read("/relative"), None);
        assert_eq!(tree.read("absolute"), None);
        assert_eq!(tree.read("etc/secret"), None);
        assert_eq!(tree.read("../secret"), None);
        assert!(tree.write("etc/hostname", b"x", None).is_err());
        tree.write("absolute", b"ours", None).unwrap();
        tree.write("relative", b"ours", None).unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::read_to_string(root.join("absolute")).unwrap(), "ours");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_root_that_links_to_itself_is_written_inside_itself() {
        let Hostile { root, tree, outside: _kept } = hostile();
        symlink("/", root.join("etc")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        tree.write("etc/hostname", b"pi-1\n", None).unwrap();
        assert_eq!(fs::read_to_string(root.join("hostname")).unwrap(), "pi-1\n");
        assert!(tree.write("loop/file", b"", None).is_err());
        assert_eq!(tree.read("loop"), None);
    }

    #[test]
    fn a_replaced_file_keeps_its_owner_and_mode() {
        let Hostile { root, tree, outside: _kept } = hostile();
        tree.write("a/b/shadow", b"1", Some(Owner { uid: 0, gid: 42, mode: 0o640 })).unwrap();
        tree.write("a/b/shadow", b"2", None).unwrap();
        let found = fs::metadata(root.join("a/b/shadow")).unwrap();
        assert_eq!((found.gid(), found.mode() & 0o7777), (42, 0o640));
        assert_eq!(fs::metadata(root.join("a")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(tree.names("a/b"), ["shadow"]);
    }

    #[test]
    fn devices_pipes_and_large_files_are_not_read() {
        let Hostile { root, tree, outside: _kept } = hostile();
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, mode, 0).unwrap();
        assert_eq!(tree.read("pipe"), None);
        fs::File::create(root.join("large")).unwrap().set_len(MAX_TEXT_BYTES + 1).unwrap();
        assert_eq!(tree.read("large"), None);
        assert_eq!(tree.read("/"), None);
    }

    #[test]
    fn names_are_removed_and_linked_without_following() {
        let Hostile { outside, root, tree } = hostile();
        symlink(outside.path().join("secret"), root.join("link")).unwrap();
        assert!(tree.remove("link").unwrap());
        assert!(!tree.remove("link").unwrap());
        assert!(!tree.remove("no/such").unwrap());
        tree.link("/dev/null", "etc/systemd/system/a.service").unwrap();
        tree.link("/dev/null", "etc/systemd/system/a.service").unwrap();
        assert_eq!(tree.read_link("etc/systemd/system/a.service").as_deref(), Some("/dev/null"));
        assert!(outside.path().join("secret").exists());
    }
}
