//! Images against their hashes, piece by piece, so that a bad block of the
//! stick is found before a client falls over it, and its files are named.
//!
//! I/O. The first look writes `pieces.sha256` beside the image (its manifest's
//! hash is that of the file it came from, which is not kept); later looks
//! compare. It reads in small pieces, with a rest between them when asked to.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::client::ImageId;
use crate::store::atomic;
use crate::store::manifest::{self, ImagePaths};

/// One line of the list stands for so much of the root.
const PIECE_BYTES: u64 = 4 << 20;
/// Longest list: that of a root of 256 GiB and its boot files.
const MAX_LIST_BYTES: u64 = 32 << 20;
const MAX_BOOT_FILES: usize = 20_000;
/// Most pieces and files that are named.
const MAX_NAMED: usize = 50;
/// Most files that are looked at for a bad piece.
const MAX_WALKED: usize = 2_000_000;

/// What a look at one image found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub image: ImageId,
    /// There was no list yet: this look made it.
    pub first: bool,
    pub bytes: u64,
    /// What is damaged, in words; empty: nothing.
    pub damaged: Vec<String>,
    /// Files of the root that lie in damaged pieces, the first of them.
    pub files: Vec<String>,
}

/// What cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("reading {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("writing {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("stopped")]
    Stopped,
}

fn list_path(paths: &ImagePaths) -> PathBuf {
    paths.folder.join("pieces.sha256")
}

/// Compares one image with its list. `mounted` is where its root is mounted,
/// for the names of damaged files; `rest` is slept after each piece.
pub fn verify(
    store: &Path,
    id: &ImageId,
    mounted: Option<&Path>,
    rest: Duration,
    stop: &AtomicBool,
) -> Result<Checked, VerifyError> {
    let paths = ImagePaths::of(store, id);
    let list = list_path(&paths);
    let known = match atomic::read_bounded(&list, MAX_LIST_BYTES) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(VerifyError::Read { path: list, source }),
    };
    let mut checked = Checked { image: id.clone(), first: known.is_none(), bytes: 0, damaged: vec![], files: vec![] };
    let (now, bad_pieces) = look(&paths, known.as_deref(), rest, stop, &mut checked)?;
    match known {
        // What could not be read must not become what is right.
        None if checked.damaged.is_empty() => {
            let written = atomic::write(&list, now.as_bytes(), 0o644);
            written.map_err(|source| VerifyError::Write { path: list.clone(), source })?;
        }
        _ => {}
    }
    if let Some(mounted) = mounted.filter(|_| !bad_pieces.is_empty()) {
        checked.files = files_in(mounted, &bad_pieces);
    }
    Ok(checked)
}

/// Reads all; the list as it is now, and the pieces of the root that differ.
fn look(
    paths: &ImagePaths,
    known: Option<&str>,
    rest: Duration,
    stop: &AtomicBool,
    checked: &mut Checked,
) -> Result<(String, BTreeSet<u64>), VerifyError> {
    let known: Option<std::collections::HashMap<&str, &str>> = known
        .map(|list| list.lines().filter_map(|line| line.split_once("  ")).map(|(hash, what)| (what, hash)).collect());
    let differs = |what: &str, hash: &str| known.as_ref().is_some_and(|known| known.get(what) != Some(&hash));
    let (mut list, mut bad) = (String::new(), BTreeSet::new());
    let tell = |checked: &mut Checked, words: String| {
        if checked.damaged.len() < MAX_NAMED {
            checked.damaged.push(words);
        }
    };
    let root = paths.root();
    let opened = File::open(&root).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (length, file) = opened.map_err(|source| VerifyError::Read { path: root.clone(), source })?;
    let mut buffer = vec![0; PIECE_BYTES as usize];
    for piece in 0..length.div_ceil(PIECE_BYTES) {
        if stop.load(Ordering::Relaxed) {
            return Err(VerifyError::Stopped);
        }
        let at = piece * PIECE_BYTES;
        let bytes = (length - at).min(PIECE_BYTES) as usize;
        let what = format!("root.ext4 {piece}");
        match file.read_exact_at(&mut buffer[..bytes], at) {
            Ok(()) => {
                let hash = manifest::hex(&Sha256::digest(&buffer[..bytes]));
                if differs(&what, &hash) {
                    bad.insert(piece);
                    tell(checked, format!("root.ext4 differs between byte {at} and {}", at + bytes as u64));
                }
                list.push_str(&format!("{hash}  {what}\n"));
            }
            Err(error) => {
                bad.insert(piece);
                tell(checked, format!("root.ext4 cannot be read between byte {at} and {}: {error}", at + bytes as u64));
            }
        }
        checked.bytes += bytes as u64;
        // What was read once will not be read again soon.
        let _ = rustix::fs::fadvise(&file, at, std::num::NonZeroU64::new(bytes as u64), rustix::fs::Advice::DontNeed);
        std::thread::sleep(rest);
    }
    let mut seen = BTreeSet::new();
    for (name, path) in boot_files(&paths.boot()) {
        if stop.load(Ordering::Relaxed) {
            return Err(VerifyError::Stopped);
        }
        let what = format!("boot/{name}");
        match fs::read(&path) {
            Ok(content) => {
                let hash = manifest::hex(&Sha256::digest(&content));
                if differs(&what, &hash) {
                    tell(checked, format!("{what} differs"));
                }
                list.push_str(&format!("{hash}  {what}\n"));
                checked.bytes += content.len() as u64;
            }
            Err(error) => tell(checked, format!("{what} cannot be read: {error}")),
        }
        seen.insert(what);
    }
    let gone = known.iter().flat_map(|known| known.keys()).filter(|what| what.starts_with("boot/"));
    for what in gone.filter(|what| !seen.contains(**what)) {
        tell(checked, format!("{what} is missing"));
    }
    Ok((list, bad))
}

/// The regular files of the boot tree, by their path below it.
pub fn boot_files(boot: &Path) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    let mut pending = vec![boot.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() && files.len() < MAX_BOOT_FILES {
                let name = entry.path().strip_prefix(boot).map(|path| path.to_string_lossy().into_owned());
                files.extend(name.ok().map(|name| (name, entry.path())));
            }
        }
    }
    files.sort();
    files
}

// include/uapi/linux/fiemap.h
const FS_IOC_FIEMAP: libc::c_ulong = 0xc020_660b;
const EXTENTS: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more: [u32; 3],
}

#[repr(C)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

/// Files of a mounted root whose blocks lie in these pieces of its file system:
/// the map of each file is asked for, which reads no data.
fn files_in(top: &Path, pieces: &BTreeSet<u64>) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![top.to_owned()];
    let mut walked = 0;
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            walked += 1;
            let Ok(kind) = entry.file_type() else { continue };
            if walked > MAX_WALKED || found.len() >= MAX_NAMED {
                return found;
            }
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() && lies_in(&entry.path(), pieces) {
                let name = entry.path();
                found.push(format!("/{}", name.strip_prefix(top).unwrap_or(&name).to_string_lossy()));
            }
        }
    }
    found
}

fn lies_in(path: &Path, pieces: &BTreeSet<u64>) -> bool {
    let Ok(file) = File::open(path) else { return true };
    let mut start = 0;
    // A file of more extents than that is named by its first ones only.
    for _ in 0..1000 {
        let mut map = Map {
            start,
            length: u64::MAX - start,
            flags: 0,
            mapped: 0,
            count: EXTENTS as u32,
            reserved: 0,
            extents: [Extent::default(); EXTENTS],
        };
        // SAFETY: `map` has the layout of struct fiemap with room for the extents that it announces.
        if unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut map) } != 0 {
            return false;
        }
        let extents = &map.extents[..(map.mapped as usize).min(EXTENTS)];
        let touches = |extent: &Extent| {
            let end = extent.physical.saturating_add(extent.length.max(1)) - 1;
            pieces.range(extent.physical / PIECE_BYTES..=end / PIECE_BYTES).next().is_some()
        };
        if extents.iter().any(touches) {
            return true;
        }
        match extents.last() {
            // FIEMAP_EXTENT_LAST
            Some(last) if last.flags & 1 == 0 => start = last.logical.saturating_add(last.length),
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_look_names_what_changed() {
        let store = tempfile::tempdir().unwrap();
        let id: ImageId = "a-1".parse().unwrap();
        let paths = ImagePaths::of(store.path(), &id);
        fs::create_dir_all(paths.boot().join("overlays")).unwrap();
        fs::write(paths.boot().join("config.txt"), "a").unwrap();
        fs::write(paths.boot().join("overlays/b"), "b").unwrap();
        fs::write(paths.root(), vec![7; 9 << 20]).unwrap();
        let look = || verify(store.path(), &id, None, Duration::ZERO, &AtomicBool::new(false)).unwrap();
        let first = look();
        assert!(first.first && first.damaged.is_empty() && first.bytes == (9 << 20) + 2);
        let second = look();
        assert!(!second.first && second.damaged.is_empty());
        let file = fs::OpenOptions::new().write(true).open(paths.root()).unwrap();
        file.write_all_at(b"x", 5 << 20).unwrap();
        fs::write(paths.boot().join("config.txt"), "other").unwrap();
        fs::remove_file(paths.boot().join("overlays/b")).unwrap();
        let third = look();
        assert_eq!(
            third.damaged,
            [
                "root.ext4 differs between byte 4194304 and 8388608",
                "boot/config.txt differs",
                "boot/overlays/b is missing"
            ]
        );
        assert_eq!(look().damaged.len(), 3, "what is damaged must not become right");
    }

    #[test]
    fn the_map_structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<Extent>(), size_of::<Map>()), (56, 32 + EXTENTS * 56));
    }
}
