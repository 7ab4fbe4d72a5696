//! A `.zip` with one image in it: which entry that is, and its bytes.
//!
//! The directory is read from the file's end, as it must be (APPNOTE 6.3.10,
//! section numbers below); the entry is then streamed. Stored and deflated
//! entries, also by Windows (Deflate64 beyond 2 GiB) and zip64; CRC and size are
//! verified. I/O by the reader only.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Take};

use deflate64::Deflate64Decoder;
use flate2::Crc;
use flate2::bufread::DeflateDecoder;

use crate::store::packing::{self, Compression, Content};
use crate::store::sources::shown;

/// Most entries and bytes of a directory that are read.
const MAX_ENTRIES: u64 = 100_000;
const MAX_DIRECTORY_BYTES: u64 = 32 << 20;
/// How far from the end the directory's own end may lie: its comment has a
/// 16-bit length (§4.3.16).
const MAX_TAIL_BYTES: u64 = 65_535 + 22;
/// Names of images that are told where there are several.
const MAX_TOLD: usize = 3;

/// Why a zip holds nothing to import.
#[derive(Debug, thiserror::Error)]
pub enum ZipError {
    #[error("reading the zip's directory")]
    Read(#[from] io::Error),
    #[error("the zip has no directory at its end: it is cut short, or no zip")]
    NoDirectory,
    #[error("the zip's directory is damaged")]
    Directory,
    #[error("the zip is one part of several")]
    Split,
    #[error("the zip has more than {MAX_ENTRIES} files in it")]
    TooMany,
    #[error("the zip holds no .img file")]
    NoImage,
    #[error("the zip holds {name}, which is packed once more")]
    PackedTwice { name: String },
    #[error("the zip holds {count} images, and one is wanted: {names}")]
    Several { count: usize, names: String },
    #[error("{name} in the zip is encrypted")]
    Encrypted { name: String },
    #[error("{name} in the zip is packed by {}, and only deflated and stored files are read", method_name(*.method))]
    Method { name: String, method: u16 },
}

/// §4.4.5, as packers show it.
fn method_name(method: u16) -> String {
    let name = match method {
        6 => "implode",
        12 => "bzip2",
        14 => "LZMA",
        93 => "Zstandard",
        95 => "xz",
        98 => "PPMd",
        _ => return format!("method {method}"),
    };
    format!("{name} (method {method})")
}

/// How an entry is packed, of what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packed {
    Stored,
    Deflated,
    Deflated64,
}

/// The image in a zip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// Where its data begins in the file.
    pub start: u64,
    pub packed: u64,
    pub unpacked: u64,
    crc: u32,
    by: Packed,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Finds the one image of a zip.
pub fn find_image(file: &mut (impl Read + Seek)) -> Result<Entry, ZipError> {
    let (start, bytes, count) = find_directory(file)?;
    if count > MAX_ENTRIES || bytes > MAX_DIRECTORY_BYTES {
        return Err(ZipError::TooMany);
    }
    file.seek(SeekFrom::Start(start))?;
    let mut directory = BufReader::new(&mut *file).take(bytes);
    let (mut images, mut packed) = (Vec::new(), None);
    for _ in 0..count {
        let found = read_entry(&mut directory)?;
        match kind(&found.entry.name) {
            Kind::Image => images.push(found),
            Kind::Packed => packed = Some(found.entry.name),
            Kind::Other => {}
        }
    }
    let count = images.len();
    let Some(Found { mut entry, flags, method }) = images.pop() else {
        return Err(packed.map_or(ZipError::NoImage, |name| ZipError::PackedTwice { name }));
    };
    if count > 1 {
        let names = images.iter().map(|found| found.entry.name.as_str()).chain([entry.name.as_str()]);
        let mut names = names.take(MAX_TOLD).collect::<Vec<_>>().join(", ");
        if count > MAX_TOLD {
            names.push_str(", …");
        }
        return Err(ZipError::Several { count, names });
    }
    let name = entry.name.clone();
    // WinZip's AES has a method of its own, too.
    if flags & 1 != 0 || method == 99 {
        return Err(ZipError::Encrypted { name });
    }
    entry.by = match method {
        0 if entry.packed == entry.unpacked => Packed::Stored,
        0 => return Err(ZipError::Directory),
        8 => Packed::Deflated,
        9 => Packed::Deflated64,
        method => return Err(ZipError::Method { name, method }),
    };
    // The local header's own lengths of name and extra field count (§4.3.7).
    let mut header = [0; 30];
    file.seek(SeekFrom::Start(entry.start))?;
    file.read_exact(&mut header).map_err(|_| ZipError::Directory)?;
    let (name_bytes, extra_bytes) = match (u16_at(&header, 26), u16_at(&header, 28)) {
        (Some(name), Some(extra)) if header.starts_with(b"PK\x03\x04") => (name, extra),
        _ => return Err(ZipError::Directory),
    };
    entry.start += 30 + u64::from(name_bytes) + u64::from(extra_bytes);
    if entry.start.checked_add(entry.packed).is_none_or(|end| end > start) {
        return Err(ZipError::Directory);
    }
    Ok(entry)
}

/// What a file in a zip is, by its name.
enum Kind {
    Image,
    /// An image that is packed in the zip a second time.
    Packed,
    Other,
}

/// What macOS adds beside each file does not count.
fn kind(name: &str) -> Kind {
    // Some of Windows' packers part folders so.
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let plain = packing::Packing { content: Content::Disk, compression: Compression::None };
    match packing::packing(file) {
        _ if name.starts_with("__MACOSX") => Kind::Other,
        Some(packing) if packing == plain => Kind::Image,
        Some(_) => Kind::Packed,
        None if packing::is_unread(file) => Kind::Packed,
        None => Kind::Other,
    }
}

/// The directory's place, length and number of entries.
fn find_directory(file: &mut (impl Read + Seek)) -> Result<(u64, u64, u64), ZipError> {
    let length = file.seek(SeekFrom::End(0))?;
    let tail_at = length.saturating_sub(MAX_TAIL_BYTES);
    file.seek(SeekFrom::Start(tail_at))?;
    let mut tail = Vec::new();
    (&mut *file).take(MAX_TAIL_BYTES).read_to_end(&mut tail)?;
    // §4.3.16: the end of central directory record, found from the end.
    let fits = |at: usize| u16_at(&tail, at + 20).is_some_and(|comment| at + 22 + usize::from(comment) <= tail.len());
    let at = (0..tail.len().saturating_sub(21)).rev().find(|&at| tail[at..].starts_with(b"PK\x05\x06") && fits(at));
    let end = at.ok_or(ZipError::NoDirectory)?;
    let field = |at| u16_at(&tail, end + at).map(u64::from).ok_or(ZipError::Directory);
    let long = |at| u32_at(&tail, end + at).map(u64::from).ok_or(ZipError::Directory);
    let (mut disk, mut first_disk, mut count) = (field(4)?, field(6)?, field(10)?);
    let (mut bytes, mut start) = (long(12)?, long(16)?);
    let mut limit = tail_at + end as u64;
    // §4.3.15: the zip64 locator stands right before it.
    let locator = end.checked_sub(20).map(|at| &tail[at..end]).filter(|text| text.starts_with(b"PK\x06\x07"));
    if let Some(at) = locator.and_then(|text| u64_at(text, 8)) {
        file.seek(SeekFrom::Start(at))?;
        let mut record = [0; 56];
        file.read_exact(&mut record).map_err(|_| ZipError::Directory)?;
        if !record.starts_with(b"PK\x06\x06") {
            return Err(ZipError::Directory);
        }
        let wide = |at| u64_at(&record, at).ok_or(ZipError::Directory);
        let narrow = |at| u32_at(&record, at).map(u64::from).ok_or(ZipError::Directory);
        (disk, first_disk, count) = (narrow(16)?, narrow(20)?, wide(32)?);
        (bytes, start) = (wide(40)?, wide(48)?);
        limit = at;
    }
    if disk != 0 || first_disk != 0 {
        return Err(ZipError::Split);
    }
    // A directory record has 46 bytes at least.
    if start.checked_add(bytes).is_none_or(|end| end > limit) || count.saturating_mul(46) > bytes {
        return Err(ZipError::Directory);
    }
    Ok((start, bytes, count))
}

struct Found {
    entry: Entry,
    flags: u16,
    method: u16,
}

/// One file header of the directory (§4.3.12).
fn read_entry(directory: &mut impl Read) -> Result<Found, ZipError> {
    let mut header = [0; 46];
    directory.read_exact(&mut header).map_err(|_| ZipError::Directory)?;
    let short = |at| u16_at(&header, at).ok_or(ZipError::Directory);
    let long = |at| u32_at(&header, at).ok_or(ZipError::Directory);
    if !header.starts_with(b"PK\x01\x02") {
        return Err(ZipError::Directory);
    }
    let lengths = [short(28)?, short(30)?, short(32)?].map(usize::from);
    let mut texts = vec![0; lengths.iter().sum()]; // at most three times 64 KiB
    directory.read_exact(&mut texts).map_err(|_| ZipError::Directory)?;
    let (name, rest) = texts.split_at(lengths[0]);
    // The zip64 extra field holds those that are all ones here, in this order (§4.5.3).
    let mut wide = zip64_field(&rest[..lengths[1]]);
    let mut real = |narrow: u32| match narrow {
        u32::MAX => {
            let value = u64_at(wide, 0).ok_or(ZipError::Directory)?;
            wide = &wide[8..];
            Ok(value)
        }
        narrow => Ok::<u64, ZipError>(narrow.into()),
    };
    let (unpacked, packed, start) = (real(long(24)?)?, real(long(20)?)?, real(long(42)?)?);
    let name = shown(std::ffi::OsStr::new(&*String::from_utf8_lossy(name)));
    let entry = Entry { name, start, packed, unpacked, crc: long(16)?, by: Packed::Stored };
    Ok(Found { entry, flags: short(8)?, method: short(10)? })
}

fn zip64_field(mut extra: &[u8]) -> &[u8] {
    while let (Some(id), Some(bytes)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some(field) = extra.get(4..4 + usize::from(bytes)) else { break };
        if id == 1 {
            return field;
        }
        extra = &extra[4 + field.len()..];
    }
    &[]
}

/// An entry's bytes; its check is verified when they end.
pub struct Zip<R> {
    data: Data<R>,
    crc: Crc,
    entry: Entry,
}

enum Data<R> {
    Stored(Take<R>),
    Deflated(Box<DeflateDecoder<Take<R>>>),
    Deflated64(Deflate64Decoder<Take<R>>),
}

impl<R: BufRead> Zip<R> {
    /// `source` stands at the entry's start.
    pub fn new(source: R, entry: Entry) -> Self {
        let data = source.take(entry.packed);
        let data = match entry.by {
            Packed::Stored => Data::Stored(data),
            Packed::Deflated => Data::Deflated(Box::new(DeflateDecoder::new(data))),
            Packed::Deflated64 => Data::Deflated64(Deflate64Decoder::with_buffer(data)),
        };
        Self { data, crc: Crc::new(), entry }
    }

    pub fn into_inner(self) -> R {
        match self.data {
            Data::Stored(data) => data.into_inner(),
            Data::Deflated(decoder) => decoder.into_inner().into_inner(),
            Data::Deflated64(decoder) => decoder.into_inner().into_inner(),
        }
    }
}

impl<R: BufRead> Read for Zip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = match &mut self.data {
            Data::Stored(data) => data.read(buffer),
            Data::Deflated(decoder) => decoder.read(buffer),
            Data::Deflated64(decoder) => decoder.read(buffer),
        }?;
        self.crc.update(&buffer[..bytes]);
        // `Crc` counts in 32 bits: the size is right by that and by the CRC.
        let whole = self.crc.amount() == self.entry.unpacked as u32 && self.crc.sum() == self.entry.crc;
        if bytes == 0 && !buffer.is_empty() && !whole {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not what the zip's directory says"));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A zip with a directory of one stored entry.
    fn zip(name: &str, data: &[u8]) -> Vec<u8> {
        zip_by(0, name, data, data)
    }

    /// The same of an entry that some method made of `data`.
    fn zip_by(method: u16, name: &str, packed: &[u8], data: &[u8]) -> Vec<u8> {
        let mut crc = Crc::new();
        crc.update(data);
        let mut fields = vec![20, 0, 0, 0];
        fields.extend(method.to_le_bytes());
        fields.extend([0; 4]);
        fields.extend(crc.sum().to_le_bytes());
        fields.extend((packed.len() as u32).to_le_bytes());
        fields.extend((data.len() as u32).to_le_bytes());
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0; 2]);
        let local = [b"PK\x03\x04", &fields[..], name.as_bytes(), packed].concat();
        let directory = [b"PK\x01\x02\x14\0", &fields[..], &[0; 14], name.as_bytes()].concat();
        let mut end = b"PK\x05\x06\0\0\0\0\x01\0\x01\0".to_vec();
        end.extend((directory.len() as u32).to_le_bytes());
        end.extend((local.len() as u32).to_le_bytes());
        [local, directory, end, vec![2, 0], b"hi".to_vec()].concat()
    }

    fn unpack(zip: &[u8]) -> Result<Vec<u8>, ZipError> {
        let entry = find_image(&mut Cursor::new(zip))?;
        let mut out = Vec::new();
        let source = Cursor::new(zip[entry.start as usize..].to_vec());
        Zip::new(source, entry).read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn a_stored_image_comes_out_whatever_comment_follows() {
        assert_eq!(unpack(&zip("folder/a.img", b"hello")).unwrap(), b"hello");
        assert!(matches!(unpack(&zip("a.txt", b"hello")), Err(ZipError::NoImage)));
        assert!(matches!(unpack(&zip("__MACOSX/a.img", b"hello")), Err(ZipError::NoImage)));
    }

    /// Deflate64 of `a`, 65,538 more of them, and the end: fixed codes, of which 285 is a length with 16 bits more.
    fn deflate64_of_a() -> Vec<u8> {
        let mut bits = Vec::new();
        // Codes from their highest bit, all else from its lowest (RFC 1951 §3.1.1).
        let mut code = |value: u32, count: u32| bits.extend((0..count).rev().map(|bit| value >> bit & 1 != 0));
        code(0b110, 3); // the last block, by fixed codes
        code(0x30 + u32::from(b'a'), 8);
        code(0b1100_0101, 8); // 285
        code(0xffff, 16); // 3 + 65,535
        code(0, 5); // one byte back
        code(0, 7); // 256, the end
        bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |sum, &bit| sum << 1 | u8::from(bit))).collect()
    }

    #[test]
    fn what_windows_makes_of_a_large_file_is_read() {
        let data = vec![b'a'; 65_539];
        let packed = deflate64_of_a();
        assert!(unpack(&zip_by(9, "a.img", &packed, &data)).unwrap() == data);
        assert!(unpack(&zip_by(8, "a.img", &packed, &data)).is_err(), "deflate has no such length");
        // The last byte only says that nothing follows.
        for at in 0..packed.len() - 1 {
            assert!(unpack(&zip_by(9, "a.img", &packed[..at], &data)).is_err(), "cut at {at}");
        }
        assert!(unpack(&zip_by(9, "a.img", &packed, &data[1..])).is_err(), "longer than the directory says");
    }

    #[test]
    fn a_method_that_is_not_read_is_named() {
        for (method, expected) in [
            (12, "a.img in the zip is packed by bzip2 (method 12), and only deflated and stored files are read"),
            (93, "a.img in the zip is packed by Zstandard (method 93), and only deflated and stored files are read"),
            (7, "a.img in the zip is packed by method 7, and only deflated and stored files are read"),
            (99, "a.img in the zip is encrypted"),
        ] {
            assert_eq!(unpack(&zip_by(method, "a.img", b"x", b"hello")).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn no_flipped_byte_goes_unnoticed_in_the_image() {
        let good = zip("a.img", b"hello world");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x21;
            if let Ok(out) = unpack(&bad) {
                assert_eq!(out, b"hello world", "byte {at}");
            }
        }
        for at in 0..good.len() - 3 {
            assert!(unpack(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_directory_that_lies_is_refused() {
        let good = zip("a.img", b"hello");
        let end = good.len() - 24;
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            unpack(&bad).unwrap_err()
        };
        assert!(matches!(with(end + 16, &[0xff; 4]), ZipError::Directory));
        assert!(matches!(with(end + 12, &[0xff; 4]), ZipError::Directory));
        assert!(matches!(with(end + 10, &[0xff; 2]), ZipError::Directory));
        assert!(matches!(with(end + 4, &[1]), ZipError::Split));
        let directory = good.len() - 24 - 51;
        assert!(matches!(with(directory + 8, &[1]), ZipError::Encrypted { .. }));
        assert!(matches!(with(directory + 10, &[14]), ZipError::Method { method: 14, .. }));
        assert!(matches!(with(directory + 42, &[0xff; 4]), ZipError::Directory));
        assert!(matches!(with(directory + 20, &[0xf0; 4]), ZipError::Directory));
    }

    proptest::proptest! {
        #[test]
        fn no_zip_panics(bytes in proptest::collection::vec(0u8.., 0..300), at in 0usize..400) {
            let mut made = zip("a.img", b"hello");
            let end = (at + bytes.len()).min(made.len());
            if at < end {
                made[at..end].copy_from_slice(&bytes[..end - at]);
            }
            let _ = unpack(&made);
            let _ = unpack(&bytes);
            let _ = unpack(&zip_by(9, "a.img", &bytes, b"hello"));
        }
    }
}
