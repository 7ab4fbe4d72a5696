//! Which files of an image have several names: looked for once, behind everybody's back, and kept beside the image.
//!
//! I/O. ext4 tells how many names a file has, not which: for that every folder of an image must be read, which for
//! 200,000 files takes a second and more, longer on a stick. An image never changes, so it is done once. Whoever reads
//! the table takes it as a hint, and looks himself where there is none: it may be missing, and a stick may hold anything.
//!
//! `images/<id>/links`: the word `links`, a zero byte; then for each name its file's inode number in decimal digits, a
//! space, its path below the root, a zero byte. An empty file: there are too many to remember.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::manifest::ImagePaths;
use super::mounts::{self, MountError};
use super::{atomic, in_place};

/// Where an image is mounted to be looked through, below the run folder.
pub const POINT: &str = "links";
/// Longest table; Debian's names of such files take some 30 KiB.
const MAX_BYTES: usize = 16 << 20;
/// Most names of an image that are looked at; beyond that there is no table.
const MAX_NAMES: usize = 1_000_000;
const HEAD: &[u8] = b"links\0";
/// Folders read between two rests of whoever has time.
const STRETCH: usize = 64;
const REST: Duration = Duration::from_millis(5);

/// Why an image has no table.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("looking for the names of an image's files, or writing them")]
    Io(#[from] io::Error),
}

/// Makes an image's table, on a thread of the lowest priority. `run` is where this run's mounts lie.
pub fn make(image: &ImagePaths, run: &Path, stop: &AtomicBool) -> Result<(), LinksError> {
    super::idle::lowest_priority();
    let point = run.join(POINT);
    mounts::unmount_below(&point, true)?;
    in_place::mount_root(&image.root(), run, &point)?;
    let table = table(&point, &Walk { most: MAX_NAMES, rest: REST, stop });
    mounts::unmount(&point)?;
    Ok(atomic::write(&image.links(), &table?, 0o644)?)
}

/// The names in an image of files with these inode numbers, by its table; none where that is missing or no table.
pub fn read(image: &ImagePaths, inodes: &HashSet<u32>) -> Option<Vec<PathBuf>> {
    let bytes = atomic::read_bounded(&image.links(), MAX_BYTES as u64).ok()?;
    parse(&bytes, inodes)
}

/// Pure. Paths that do not lie below the root are whoever reads them's to refuse.
fn parse(bytes: &[u8], inodes: &HashSet<u32>) -> Option<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let records = bytes.strip_prefix(HEAD)?;
    if records.is_empty() {
        return Some(paths);
    }
    let records = records.strip_suffix(b"\0")?;
    for record in records.split(|byte| *byte == 0) {
        let space = record.iter().position(|byte| *byte == b' ')?;
        let inode: u32 = std::str::from_utf8(&record[..space]).ok()?.parse().ok()?;
        if inodes.contains(&inode) {
            paths.push(PathBuf::from(OsStr::from_bytes(&record[space + 1..])));
        }
    }
    Some(paths)
}

fn table(top: &Path, walk: &Walk<'_>) -> io::Result<Vec<u8>> {
    // Numbers alone first: few of them come twice, and only those files' names are kept.
    let mut inodes = Vec::new();
    if !walk.each_name(top, |inode, _| inodes.push(inode as u32))? {
        return Ok(Vec::new());
    }
    inodes.sort_unstable();
    let several: HashSet<u32> = inodes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    let mut bytes = HEAD.to_vec();
    if several.is_empty() {
        return Ok(bytes);
    }
    walk.each_name(top, |inode, entry| {
        let path = entry.path();
        if let Ok(path) = path.strip_prefix(top)
            && several.contains(&(inode as u32))
            && bytes.len() <= MAX_BYTES
        {
            // Into memory, which never fails.
            let _ = write!(bytes, "{inode} ");
            bytes.extend_from_slice(path.as_os_str().as_bytes());
            bytes.push(0);
        }
    })?;
    if bytes.len() > MAX_BYTES {
        bytes.clear();
    }
    Ok(bytes)
}

/// How a tree is looked through.
pub struct Walk<'a> {
    /// Most names, folders among them.
    pub most: usize,
    /// Between two stretches.
    pub rest: Duration,
    pub stop: &'a AtomicBool,
}

impl Walk<'_> {
    /// Calls for each name that is no folder's, with the inode number that its folder tells: the attributes of 200,000
    /// files take seconds even where they are in memory. False: there are more than `most`.
    pub fn each_name(&self, top: &Path, mut call: impl FnMut(u64, &fs::DirEntry)) -> io::Result<bool> {
        let (mut pending, mut walked, mut folders) = (vec![top.to_owned()], 0, 0usize);
        while let Some(folder) = pending.pop() {
            folders += 1;
            if !self.rest.is_zero() && folders.is_multiple_of(STRETCH) {
                std::thread::sleep(self.rest);
            }
            for entry in fs::read_dir(&folder)? {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let entry = entry?;
                walked += 1;
                if walked > self.most {
                    return Ok(false);
                }
                if entry.file_type()?.is_dir() {
                    pending.push(entry.path());
                } else {
                    call(entry.ino(), &entry);
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    static GO: AtomicBool = AtomicBool::new(false);
    const ALL: Walk<'_> = Walk { most: 100, rest: Duration::ZERO, stop: &GO };

    #[test]
    fn all_names_of_files_with_several_are_in_the_table_and_no_others() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(OsStr::from_bytes(name.as_bytes()));
        fs::create_dir_all(path("a/b")).unwrap();
        for name in ["one", "a/two", "a/b/three"] {
            fs::write(path(name), name).unwrap();
        }
        let strange = OsStr::from_bytes(b"a/2 \n\xff");
        fs::hard_link(path("a/two"), top.path().join(strange)).unwrap();
        fs::hard_link(path("a/b/three"), path("third")).unwrap();
        std::os::unix::fs::symlink("a", path("link")).unwrap();
        let table = table(top.path(), &ALL).unwrap();
        let found = |names: &[&str]| {
            let inodes = names.iter().map(|name| fs::metadata(path(name)).unwrap().ino() as u32).collect();
            let mut paths = parse(&table, &inodes).unwrap();
            paths.sort();
            paths
        };
        assert_eq!(found(&["one"]), Vec::<PathBuf>::new());
        assert_eq!(found(&["one", "a/two"]), [Path::new(strange), Path::new("a/two")]);
        assert_eq!(found(&["third"]), [Path::new("a/b/three"), Path::new("third")]);
    }

    #[test]
    fn what_is_no_table_is_none() {
        let all = HashSet::from([7]);
        for bytes in
            [&b""[..], b"links", b"links\x007 a", b"links\x007\0", b"links\0x a\0", b"links\0\0", b"other\x007 a\0"]
        {
            assert_eq!(parse(bytes, &all), None, "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(parse(b"links\x007 a\x008 b\x007 c\0", &all), Some(vec!["a".into(), "c".into()]));
    }

    #[test]
    fn an_image_with_no_such_file_has_a_table_that_says_so() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("one"), "x").unwrap();
        let table = table(top.path(), &ALL).unwrap();
        assert_eq!(parse(&table, &HashSet::from([7])), Some(Vec::new()));
        assert!(super::table(top.path(), &Walk { stop: &AtomicBool::new(true), ..ALL }).is_err());
        assert_eq!(super::table(top.path(), &Walk { most: 0, ..ALL }).unwrap(), b"");
    }
}
