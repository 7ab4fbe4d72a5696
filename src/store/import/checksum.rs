//! The checksum file that may lie beside an image, and what it promises.
//!
//! Pure but for `beside`, which reads it. Raspberry Pi publishes
//! `NAME.img.xz.sha256`, the hash of the packed file; others the hash of the
//! image in it, as `NAME.img.sha256`. Both are checked.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::ImportError;
use crate::store::atomic;
use crate::store::packing::Compression;

/// Longest checksum file that is read, in bytes, and most of its lines.
const MAX_BYTES: u64 = 64 << 10;
const MAX_LINES: usize = 1000;

/// A promise that a checksum file makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// The checksum file, for people.
    pub file: String,
    pub sha256: [u8; 32],
}

/// What lies beside an image: of the file as it is, and of what is in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Promises {
    pub packed: Option<Promise>,
    pub unpacked: Option<Promise>,
}

/// Reads the checksum files beside `path`. One without a usable line is an
/// error: its owner believes that the image is checked.
pub fn beside(path: &Path, compression: Compression) -> Result<Promises, ImportError> {
    let packed = promise(path)?;
    let inner = match compression {
        Compression::None | Compression::Zip => None,
        _ => Some(path.with_extension("")),
    };
    // With the unpacked file beside it, the checksum is that file's own.
    let unpacked = match inner.filter(|inner| !inner.exists()) {
        Some(inner) => promise(&inner)?,
        None => None,
    };
    Ok(Promises { packed, unpacked })
}

fn promise(path: &Path) -> Result<Option<Promise>, ImportError> {
    let Some(name) = path.file_name() else { return Ok(None) };
    let mut file = OsString::from(name);
    file.push(".sha256");
    let bytes = match atomic::read_bounded(&path.with_file_name(&file), MAX_BYTES) {
        Ok(bytes) => bytes,
        // A name of 255 bytes has no room for the ending.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {
            return Ok(None);
        }
        Err(source) => return Err(ImportError::Read { path: path.with_file_name(&file), source }),
    };
    let file = crate::store::sources::shown(&file);
    match parse(&String::from_utf8_lossy(&bytes), &name.to_string_lossy()) {
        Some(sha256) => Ok(Some(Promise { file, sha256 })),
        None => Err(ImportError::NoChecksum(file)),
    }
}

/// A checksum file's digits for `file`: as `sha256sum` writes them
/// (`<64 digits> [ *]<name>`), or bare. Where only one line has digits they
/// are meant for this file, whatever it was called when they were made.
pub fn parse(text: &str, file: &str) -> Option<[u8; 32]> {
    let lines = text.trim_start_matches('\u{feff}').lines().take(MAX_LINES).filter_map(|line| {
        // sha256sum marks a line whose name it had to escape.
        let line = line.trim().trim_start_matches('\\');
        let (digits, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        Some((from_hex(digits)?, name.trim_start().trim_start_matches('*')))
    });
    let lines: Vec<([u8; 32], &str)> = lines.collect();
    let is_ours = |name: &str| name.is_empty() || name.rsplit('/').next() == Some(file);
    match lines.as_slice() {
        [(only, _)] => Some(*only),
        lines => lines.iter().find(|(_, name)| is_ours(name)).map(|(digits, _)| *digits),
    }
}

/// 64 hexadecimal digits.
fn from_hex(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn checksum_files_are_read_as_sha256sum_writes_them() {
        let digits = "ab".repeat(32);
        let check = |text: &str, found: bool| {
            assert_eq!(parse(text, "a.img.xz"), found.then_some([0xab; 32]), "{text:?}");
        };
        check(&format!("{digits}  a.img.xz\n"), true);
        check(&format!("{} *a.img.xz\r\n", digits.to_uppercase()), true);
        check(&format!("{}  other.img\n{digits}  ./a.img.xz\n", "cd".repeat(32)), true);
        check(&format!("\u{feff}{digits}"), true);
        check(&format!("{digits}  the name it had before.img.xz\n"), true);
        check(&format!("\\{digits}  a\\n.img.xz\n"), true);
        check(&format!("{digits}  one.img\n{digits}  two.img\n"), false);
        check("not a checksum", false);
        check("", false);
    }

    #[test]
    fn the_packed_and_the_unpacked_hash_are_told_apart_by_their_files_names() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.img.xz");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let found = || beside(&image, Compression::Xz);
        assert_eq!(found().unwrap(), Promises::default());
        write("a.img.sha256", &"12".repeat(32));
        write("a.img.xz.sha256", &"34".repeat(32));
        let both = found().unwrap();
        assert_eq!((both.packed.unwrap().sha256, both.unpacked.unwrap().sha256), ([0x34; 32], [0x12; 32]));
        write("a.img", "");
        assert_eq!(found().unwrap().unpacked, None, "the unpacked file is there itself");
        write("a.img.xz.sha256", "no digits");
        assert!(matches!(found(), Err(ImportError::NoChecksum(file)) if file == "a.img.xz.sha256"));
        let long = folder.path().join("x".repeat(255));
        assert_eq!(beside(&long, Compression::None).unwrap(), Promises::default());
    }
}
