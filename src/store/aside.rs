//! What is damaged: how it is told from what is whole, and put aside without being lost.
//!
//! I/O. Nothing here deletes. A damaged `client.toml`, `image.toml` or image stays where it is and is passed over:
//! whoever repairs it, repairs it there. Only what must be made anew at once (`handle.key`, `store.toml`, an image whose
//! file is imported once more) is moved into the
//! folder `damaged` first.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::crc32::crc32c;
use super::identify;
use super::in_place::InPlace;
use super::manifest::{DAMAGED, ImagePaths};

/// Names tried: so many damaged ones of a name are kept.
const MOST: u32 = 1000;

/// Moves a file or folder of the store into `damaged/`, under its own name or one like it; returns its place there.
pub fn put(store: &Path, path: &Path) -> io::Result<String> {
    let folder = store.join(DAMAGED);
    match fs::create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for n in 1..=MOST {
        let place = if n == 1 { name.to_string() } else { format!("{name}-{n}") };
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(rustix::fs::CWD, path, rustix::fs::CWD, folder.join(&place), flags) {
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
            Ok(()) => return Ok(format!("{DAMAGED}/{place}")),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Why an image cannot be used, by a look at its outside: a superblock that is not right, a root that is cut, no boot
/// tree. What is damaged deeper is found by the check of its hashes (`operate/verify.rs`).
pub fn fault(paths: &ImagePaths) -> Option<String> {
    match InPlace::read(&paths.root()) {
        None => root_fault(paths).or_else(|| boot_fault(paths)),
        // In the file of a stick, which is looked at when it is mounted: the path is not followed here.
        Some(Ok(_)) => boot_fault(paths),
        Some(Err(error)) => Some(format!("root.place cannot be read: {error}")),
    }
}

fn root_fault(paths: &ImagePaths) -> Option<String> {
    let mut head = vec![0; identify::HEAD_BYTES];
    let look = fs::File::open(paths.root()).and_then(|file| {
        let length = file.metadata()?.len();
        file.read_exact_at(&mut head, 0)?;
        Ok(length)
    });
    let length = match look {
        Ok(length) => length,
        Err(error) => return Some(format!("root.ext4 cannot be read: {error}")),
    };
    superblock_fault(&head, length).map(|fault| format!("root.ext4 {fault}"))
}

fn boot_fault(paths: &ImagePaths) -> Option<String> {
    match fs::read_dir(paths.boot()).map(|mut entries| entries.next().is_some()) {
        Ok(true) => None,
        Ok(false) => Some("boot is empty".to_owned()),
        Err(error) => Some(format!("boot cannot be read: {error}")),
    }
}

/// What is wrong with an ext4 by its first 4 KiB, in a file of `length` bytes. Pure.
fn superblock_fault(head: &[u8], length: u64) -> Option<String> {
    let Some(ext4) = identify::ext4(head) else { return Some("has no ext4 superblock".to_owned()) };
    // Documentation/filesystems/ext4, "Super Block": s_feature_ro_compat, METADATA_CSUM; s_checksum.
    let block = head.get(1024..2048)?;
    let word = |at: usize| block.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let has_checksum = word(100).unwrap_or(0) & 0x400 != 0;
    match () {
        () if ext4.unknown_features != 0 => Some(format!("uses unknown ext4 features {:#x}", ext4.unknown_features)),
        () if has_checksum && word(1020) != Some(!crc32c(&block[..1020])) => {
            Some("has a damaged superblock".to_owned())
        }
        () if ext4.bytes > length => Some(format!("is cut: {length} of {} bytes are there", ext4.bytes)),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_aside_never_replaces_anything() {
        let store = tempfile::tempdir().unwrap();
        let path = store.path().join("handle.key");
        for (content, expected) in [("a", "damaged/handle.key"), ("b", "damaged/handle.key-2")] {
            fs::write(&path, content).unwrap();
            assert_eq!(put(store.path(), &path).unwrap(), expected);
            assert_eq!(fs::read_to_string(store.path().join(expected)).unwrap(), content);
        }
        assert!(put(store.path(), &path).is_err());
    }

    #[test]
    fn a_superblock_tells_its_damage() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let made = std::process::Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-O", "metadata_csum"])
            .arg(file.path())
            .status();
        assert!(made.expect("mke2fs: apt-get install e2fsprogs").success());
        let head = fs::read(file.path()).unwrap();
        let check = |change: fn(&mut [u8]), length: u64, expected: Option<&str>| {
            let mut head = head[..identify::HEAD_BYTES].to_vec();
            change(&mut head[1024..2048]);
            let found = superblock_fault(&head, length);
            assert!(
                found.as_deref().map(|found| expected.is_some_and(|part| found.contains(part))) != Some(false)
                    && found.is_some() == expected.is_some(),
                "{found:?}, expected {expected:?}"
            );
        };
        check(|_| {}, 8 << 20, None);
        check(|_| {}, 4 << 20, Some("is cut"));
        check(|block| block.fill(0), 8 << 20, Some("no ext4"));
        check(|block| block[40] ^= 1, 8 << 20, Some("damaged superblock"));
        check(|block| block[99] = 0x80, 8 << 20, Some("unknown ext4 features"));
    }
}
