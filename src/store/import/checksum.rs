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
        Compression::None => None,
        // `a.img.zip` and `a.zip`.
        Compression::Zip => {
            let inner = path.with_extension("");
            let is_image = inner.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("img"));
            Some(if is_image { inner } else { path.with_extension("img") })
        }
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
    match parse(&text(&bytes), &name.to_string_lossy()) {
        Some(sha256) => Ok(Some(Promise { file, sha256 })),
        None => Err(ImportError::NoChecksum(file)),
    }
}

/// A checksum file's digits for `file`, as `sha256sum`, BSD's `sha256`, openssl, PowerShell and certutil write them, or
/// bare. Where only one line has digits they are meant for this file, whatever it was called when they were made.
pub fn parse(text: &str, file: &str) -> Option<[u8; 32]> {
    let lines: Vec<([u8; 32], &str)> =
        text.trim_start_matches('\u{feff}').lines().take(MAX_LINES).filter_map(line).collect();
    let is_ours = |name: &str| {
        name.is_empty() || name.rsplit(['/', '\\']).next().is_some_and(|name| name.eq_ignore_ascii_case(file))
    };
    match lines.as_slice() {
        [(only, _)] => Some(*only),
        lines => lines.iter().find(|(_, name)| is_ours(name)).map(|(digits, _)| *digits),
    }
}

/// The digits of one line and the name beside them, which may be empty.
fn line(line: &str) -> Option<([u8; 32], &str)> {
    // sha256sum marks a line whose name it had to escape.
    let line = line.trim().trim_start_matches('\\');
    // `SHA256 (a.img) = <digits>`; other hashes have as many digits.
    if let Some((tagged, digits)) = line.rsplit_once('=')
        && let Some((tag, name)) = tagged.trim_end().strip_suffix(')').and_then(|tagged| tagged.split_once('('))
    {
        let ours = ["SHA256", "SHA2-256", "SHA-256"].iter().any(|ours| tag.trim().eq_ignore_ascii_case(ours));
        return ours.then(|| from_hex(digits.trim())).flatten().map(|digits| (digits, name));
    }
    let mut rest = line;
    while !rest.is_empty() {
        let (word, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        // `sha256:<digits>`, as GitHub shows them.
        let digits = word.rsplit(':').next().unwrap_or(word);
        if let Some(digits) = from_hex(digits) {
            return Some((digits, behind.trim_start().trim_start_matches('*')));
        }
        rest = behind.trim_start();
    }
    // An older certutil's pairs.
    let pairs: String = line.split(' ').collect();
    from_hex(&pairs).map(|digits| (digits, ""))
}

/// A checksum file's text. PowerShell's `>` writes UTF-16.
fn text(bytes: &[u8]) -> String {
    let wide = |unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes[2..].chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        _ => String::from_utf8_lossy(bytes).into_owned(),
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
        check(&format!("{}  a.img.xz", "abc".repeat(32)), false);
    }

    #[test]
    fn checksum_files_are_read_as_other_tools_write_them() {
        let (digits, other) = ("ab".repeat(32), "cd".repeat(32));
        let upper = digits.to_uppercase();
        let check = |text: &str| assert_eq!(parse(text, "a.img.xz"), Some([0xab; 32]), "{text:?}");
        // BSD's and macOS's sha256, `sha256sum --tag`, Fedora's signed list.
        check(&format!("SHA256 (a.img.xz) = {digits}\n"));
        check(&format!(
            "Hash: SHA256\n\n# a.img.xz: 5 bytes\nSHA256 (b.img) = {other}\nSHA256 (a.img.xz) = {digits}\n"
        ));
        check(&format!(
            "SHA512/256 (a.img.xz) = {other}\nBLAKE2s (a.img.xz) = {other}\nSHA256 (a.img.xz) = {digits}\n"
        ));
        // openssl, before and since 3.
        check(&format!("SHA256(a.img.xz)= {digits}\n"));
        check(&format!("SHA2-256(b.img)= {other}\nSHA2-256(./a.img.xz)= {digits}\n"));
        // PowerShell's Get-FileHash as a table and as a list.
        check(&format!(
            "\r\nAlgorithm       Hash                                   Path\r\n---------       ----        ----\r\n\
             SHA256          {other}       C:\\Users\\me\\b.img\r\nSHA256          {upper}       C:\\Users\\me\\A.img.xz\r\n"
        ));
        check(&format!("Algorithm : SHA256\r\nHash      : {upper}\r\nPath      : C:\\Users\\me\\a.img.xz\r\n"));
        // certutil, of today and of Windows 7.
        check(&format!("SHA256 hash of a.img.xz:\r\n{digits}\r\nCertUtil: -hashfile command completed.\r\n"));
        check(&format!("SHA256 hash of file a.img.xz:\r\n{}\r\nCertUtil: done.\r\n", vec!["ab"; 32].join(" ")));
        check(&format!("sha256:{digits}\n"));
    }

    #[test]
    fn what_powershell_writes_in_utf_16_is_read_too() {
        let line = format!("\u{feff}{}  a.img\r\n", "ab".repeat(32));
        for order in [u16::to_le_bytes as fn(u16) -> [u8; 2], u16::to_be_bytes] {
            let bytes: Vec<u8> = line.encode_utf16().flat_map(order).collect();
            assert_eq!(parse(&text(&bytes), "a.img"), Some([0xab; 32]));
        }
        let _ = text(&[0xff, 0xfe, 0]);
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
        let of_zip = |name: &str| beside(&folder.path().join(name), Compression::Zip).unwrap().unpacked;
        write("b.img.sha256", &"56".repeat(32));
        assert_eq!(of_zip("b.zip").unwrap().sha256, [0x56; 32]);
        assert_eq!(of_zip("b.img.zip"), of_zip("b.zip"));
        write("a.img.xz.sha256", "no digits");
        assert!(matches!(found(), Err(ImportError::NoChecksum(file)) if file == "a.img.xz.sha256"));
        let long = folder.path().join("x".repeat(255));
        assert_eq!(beside(&long, Compression::None).unwrap(), Promises::default());
    }
}
