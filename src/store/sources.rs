//! What people put on a stick: image files at the top level, and a `profile`
//! folder for new clients.
//!
//! I/O. Sticks are mounted read-only and looked at with bounds; nothing of
//! theirs is ever written.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::atomic;
use super::identify::Content;
use super::manifest::{PROFILE, SourceFile};
use super::mounts::{self, MountError};
use super::packing::{self, Packing};

/// Most entries of one folder that are looked at.
pub const MAX_ENTRIES: usize = 20_000;
/// Most images taken from one place.
pub const MAX_IMAGES: usize = 64;
/// Most update files of one place; more is somebody's archive.
const MAX_UPDATES: usize = 8;
const MAX_AUTHORIZED_KEYS_BYTES: u64 = 64 << 10;
const MAX_USERCONF_BYTES: u64 = 4 << 10;
const MAX_PROFILE_FILES: usize = 1000;
const MAX_PROFILE_BYTES: u64 = 16 << 20;
const MAX_PROFILE_DEPTH: u32 = 16;

/// An image file that lies on a stick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    pub source: SourceFile,
    pub packing: Packing,
}

/// Mounts a partition that may hold images. `None`: not a file system that
/// holds files for us.
pub fn mount(device: &Path, content: &Content, point: &Path) -> Option<Result<(), MountError>> {
    let attempts: &[(&str, &str)] = match content {
        Content::ExFat => &[("exfat", "iocharset=utf8"), ("exfat", "")],
        // Long names in UTF-8 where the kernel has the table for it.
        Content::Fat => &[("vfat", "utf8=1"), ("vfat", "")],
        Content::Ext4(_) => &[("ext4", "noload")],
        Content::Blank | Content::Unknown => return None,
    };
    let mut result = Ok(());
    for (kind, options) in attempts {
        result = mounts::device(device, point, kind, true, options);
        if result.is_ok() {
            break;
        }
    }
    Some(result)
}

/// The image files of one place.
#[derive(Debug, Default)]
pub struct Images {
    pub taken: Vec<Found>,
    /// Names of those that are too many.
    pub left_out: Vec<String>,
    /// Names of those in a packing that is not read.
    pub unread: Vec<String>,
    /// There are more files than are looked at.
    pub unseen: bool,
}

/// The image files at the top level, by name.
pub fn images(folder: &Path) -> io::Result<Images> {
    let (mut entries, mut unread) = (fs::read_dir(folder)?, Vec::new());
    let mut taken: Vec<Found> = entries
        .by_ref()
        .take(MAX_ENTRIES)
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let file = shown(&entry.file_name());
            if packing::is_unread(&file) && unread.len() < MAX_IMAGES {
                unread.push(file.clone());
            }
            let packing = packing::packing(&file)?;
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            let source = SourceFile { file, bytes: metadata.len(), modified: metadata.mtime() };
            Some(Found { path: entry.path(), source, packing })
        })
        .collect();
    taken.sort_by(|a, b| a.source.file.cmp(&b.source.file));
    let left_out = taken.split_off(taken.len().min(MAX_IMAGES)).into_iter().map(|found| found.source.file).collect();
    unread.sort();
    Ok(Images { taken, left_out, unread, unseen: entries.next().is_some() })
}

/// Update files at the top level, by name: `rootstock-VERSION-FAMILY.update`, or any that begins and ends so.
pub fn updates(folder: &Path) -> Vec<PathBuf> {
    let is_update = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let named = name.starts_with("rootstock-") && name.ends_with(".update");
        named && entry.metadata().is_ok_and(|metadata| metadata.is_file())
    };
    let entries = fs::read_dir(folder).into_iter().flatten().take(MAX_ENTRIES).flatten();
    let mut found: Vec<PathBuf> = entries.filter(is_update).map(|entry| entry.path()).collect();
    found.sort();
    found.truncate(MAX_UPDATES);
    found
}

/// A file's name for people, the log and manifests: what is no text, or would
/// break a line, is replaced.
pub fn shown(name: &OsStr) -> String {
    name.to_string_lossy().chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Copies `profile/` of a stick into the store, what changed only. Files that
/// are missing on the stick stay as they are in the store.
pub fn copy_profile(stick: &Path, store: &Path) -> io::Result<()> {
    let (from, to) = (stick.join(PROFILE), store.join(PROFILE));
    if !fs::symlink_metadata(&from).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    fs::create_dir_all(&to)?;
    for (name, limit) in [("authorized_keys", MAX_AUTHORIZED_KEYS_BYTES), ("userconf.txt", MAX_USERCONF_BYTES)] {
        match atomic::read_bounded(&from.join(name), limit) {
            Ok(bytes) => replace(&to.join(name), &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("profile/{name}: {error}"))),
        }
    }
    for (path, bytes) in profile_files(&from.join("files"))? {
        let target = to.join("files").join(&path);
        fs::create_dir_all(target.parent().unwrap_or(&to))?;
        replace(&target, &bytes)?;
    }
    Ok(())
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match atomic::read_bounded(path, bytes.len() as u64) {
        Ok(present) if present == bytes => Ok(()),
        _ => atomic::write(path, bytes, 0o600),
    }
}

/// All regular files below a folder: relative path and content, bounded.
/// Symbolic links are passed over.
pub fn profile_files(folder: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    let mut left = MAX_PROFILE_BYTES;
    let mut pending = vec![(PathBuf::new(), 0)];
    while let Some((relative, depth)) = pending.pop() {
        let entries = match fs::read_dir(folder.join(&relative)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries.take(MAX_ENTRIES) {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, relative.join(entry.file_name()));
            if kind.is_dir() && depth < MAX_PROFILE_DEPTH && pending.len() < MAX_PROFILE_FILES {
                pending.push((path, depth + 1));
            } else if kind.is_file() {
                let bytes = atomic::read_bounded(&entry.path(), left).map_err(|error| {
                    io::Error::new(error.kind(), format!("profile/files/{}: {error}", path.display()))
                })?;
                left -= bytes.len() as u64;
                files.push((path, bytes));
            }
            if files.len() > MAX_PROFILE_FILES {
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    format!("profile/files has more than {MAX_PROFILE_FILES} files"),
                ));
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_by_name_and_only_at_the_top() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.img", "a.img.xz", "notes.txt", "._b.img"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir_all(folder.path().join("folder.img")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("link.img")).unwrap();
        let found = images(folder.path()).unwrap().taken;
        let names: Vec<&str> = found.iter().map(|found| found.source.file.as_str()).collect();
        assert_eq!(names, ["a.img.xz", "b.img"]);
    }

    #[test]
    fn update_files_are_found_by_name_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["rootstock-0.2.0.update", "rootstock.update", "other-1.update", "._rootstock-0.2.0.update"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("rootstock-1.update")).unwrap();
        assert_eq!(updates(folder.path()), [folder.path().join("rootstock-0.2.0.update")]);
        for n in 0..100 {
            fs::write(folder.path().join(format!("rootstock-{n}.update")), "").unwrap();
        }
        assert_eq!(updates(folder.path()).len(), MAX_UPDATES);
        assert_eq!(updates(Path::new("/nowhere")), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn of_a_folder_full_of_images_the_first_by_name_are_taken_and_the_others_named() {
        let folder = tempfile::tempdir().unwrap();
        for n in (0..MAX_IMAGES + 2).rev() {
            fs::write(folder.path().join(format!("{n:02}.img")), "").unwrap();
        }
        fs::write(folder.path().join("a.img.bz2"), "").unwrap();
        let Images { taken, left_out, unread, unseen } = images(folder.path()).unwrap();
        assert_eq!(unread, ["a.img.bz2"]);
        let names = |range: std::ops::Range<usize>| range.map(|n| format!("{n:02}.img")).collect::<Vec<_>>();
        let taken: Vec<String> = taken.into_iter().map(|found| found.source.file).collect();
        assert_eq!((taken, left_out), (names(0..MAX_IMAGES), names(MAX_IMAGES..MAX_IMAGES + 2)));
        assert!(!unseen);
    }

    #[test]
    fn the_profile_is_copied_and_links_are_not_followed() {
        let (stick, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        copy_profile(stick.path(), store.path()).unwrap();
        let profile = stick.path().join(PROFILE);
        fs::create_dir_all(profile.join("files/etc")).unwrap();
        fs::write(profile.join("authorized_keys"), "ssh-ed25519 AAAA me\n").unwrap();
        fs::write(profile.join("files/etc/motd"), "hello\n").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", profile.join("files/etc/passwd")).unwrap();
        copy_profile(stick.path(), store.path()).unwrap();
        copy_profile(stick.path(), store.path()).unwrap();
        let files = profile_files(&store.path().join("profile/files")).unwrap();
        assert_eq!(files, [(PathBuf::from("etc/motd"), b"hello\n".to_vec())]);
        assert!(store.path().join("profile/authorized_keys").is_file());

        fs::write(profile.join("userconf.txt"), vec![b'x'; 5000]).unwrap();
        assert!(copy_profile(stick.path(), store.path()).unwrap_err().to_string().contains("userconf.txt"));
    }
}
