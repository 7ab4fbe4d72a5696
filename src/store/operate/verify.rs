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

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::client::ImageId;
use crate::store::manifest::{self, ImagePaths};
use crate::store::{atomic, in_place};

/// One line of the list stands for so much of the root.
const PIECE_BYTES: u64 = 4 << 20;
/// Longest list: that of a root of 256 GiB and its boot files.
pub const MAX_LIST_BYTES: u64 = 32 << 20;
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

/// Called behind each piece of the root with its number, and how much is damaged so far.
pub type Between<'a> = &'a mut dyn FnMut(u64, usize) -> Result<(), VerifyError>;

pub fn list_path(paths: &ImagePaths) -> PathBuf {
    paths.folder.join("pieces.sha256")
}

/// Compares one image with its list, from piece `from` of its root on (a first look, which makes the list, is
/// always whole). `run` is where this run's sources are mounted, since a root may lie there; `mounted` is where the
/// root is mounted, for the names of damaged files; `between` is called behind each piece, to rest there or to end
/// the look.
pub fn verify(
    store: &Path,
    run: &Path,
    id: &ImageId,
    mounted: Option<&Path>,
    from: u64,
    between: Between<'_>,
) -> Result<Checked, VerifyError> {
    let paths = ImagePaths::of(store, id);
    let list = list_path(&paths);
    let known = match atomic::read_bounded(&list, MAX_LIST_BYTES) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(VerifyError::Read { path: list, source }),
    };
    let mut checked = Checked { image: id.clone(), first: known.is_none(), bytes: 0, damaged: vec![], files: vec![] };
    let root = in_place::open_root(&paths.root(), run);
    let root = root.map_err(|source| VerifyError::Read { path: paths.root(), source })?;
    let (now, bad_pieces) = look(&paths, root, known.as_deref(), from, between, &mut checked)?;
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
    (file, start, length): (File, u64, u64),
    known: Option<&str>,
    from: u64,
    between: Between<'_>,
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
    let mut buffer = vec![0; PIECE_BYTES as usize];
    let from = if known.is_some() { from } else { 0 };
    for piece in from..length.div_ceil(PIECE_BYTES) {
        let at = piece * PIECE_BYTES;
        let bytes = (length - at).min(PIECE_BYTES) as usize;
        let what = format!("root.ext4 {piece}");
        match file.read_exact_at(&mut buffer[..bytes], start + at) {
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
        let _ = rustix::fs::fadvise(
            &file,
            start + at,
            std::num::NonZeroU64::new(bytes as u64),
            rustix::fs::Advice::DontNeed,
        );
        between(piece, checked.damaged.len())?;
    }
    let mut seen = BTreeSet::new();
    for (name, path) in boot_files(&paths.boot()) {
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
        let (store, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id: ImageId = "a-1".parse().unwrap();
        let paths = ImagePaths::of(store.path(), &id);
        fs::create_dir_all(paths.boot().join("overlays")).unwrap();
        fs::write(paths.boot().join("config.txt"), "a").unwrap();
        fs::write(paths.boot().join("overlays/b"), "b").unwrap();
        fs::write(paths.root(), vec![7; 9 << 20]).unwrap();
        let look = || verify(store.path(), run.path(), &id, None, 0, &mut |_, _| Ok(())).unwrap();
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
        // Gone on with behind the damaged piece, which was told before.
        let mut pieces = Vec::new();
        let mut between = |piece, _| {
            pieces.push(piece);
            Ok(())
        };
        let rest = verify(store.path(), run.path(), &id, None, 2, &mut between).unwrap();
        assert_eq!((rest.damaged.len(), pieces), (2, vec![2]));
        assert!(matches!(
            verify(store.path(), run.path(), &id, None, 0, &mut |_, _| Err(VerifyError::Stopped)),
            Err(VerifyError::Stopped)
        ));
    }

    #[test]
    fn an_image_that_is_used_in_its_file_is_looked_at_there() {
        let (store, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id: ImageId = "a-1".parse().unwrap();
        let paths = ImagePaths::of(store.path(), &id);
        fs::create_dir_all(paths.boot()).unwrap();
        File::create(paths.root()).unwrap().set_len(5 << 20).unwrap();
        let source = run.path().join("sources/sdz1");
        fs::create_dir_all(&source).unwrap();
        let file = source.join("a.img");
        fs::write(&file, vec![7; 9 << 20]).unwrap();
        let place = in_place::InPlace { file: file.clone(), offset: 1 << 20, bytes: 5 << 20 };
        place.write(&paths.root()).unwrap();
        let look = || verify(store.path(), run.path(), &id, None, 0, &mut |_, _| Ok(())).unwrap();
        assert!(look().first && look().damaged.is_empty());
        let change = |at| fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(b"x", at).unwrap();
        // Before and behind the partition.
        change(0);
        change(6 << 20);
        assert_eq!((look().bytes, look().damaged), (5 << 20, vec![]));
        change((5 << 20) + 1);
        assert_eq!(look().damaged, ["root.ext4 differs between byte 4194304 and 5242880"]);
    }

    #[test]
    fn the_map_structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<Extent>(), size_of::<Map>()), (56, 32 + EXTENTS * 56));
    }
}
