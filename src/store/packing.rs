//! Which files are images, and how they are packed: told by the name alone.
//!
//! Pure. What a file really holds is found out by its import.

/// What lies inside, once it is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A whole card: partition table, FAT, ext4.
    Disk,
    /// The files of a root, its boot folder among them.
    Tarball,
}

/// What it is packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Xz,
    Gzip,
    Zstd,
    /// A `.zip` with one image in it.
    Zip,
}

/// What packed a file, by its first 512 bytes; nothing where they tell nothing.
pub fn packed_by(head: &[u8]) -> Option<Compression> {
    let is = |magic: &[u8]| head.starts_with(magic);
    // zstd's skippable frames have 16 numbers (RFC 8878 §3.1.2), and 7-Zip parts begin with PK too.
    let skippable = head.get(1..4) == Some(b"\x2a\x4d\x18") && head[0] >> 4 == 5;
    match () {
        () if is(b"\xfd7zXZ\0") => Some(Compression::Xz),
        () if is(b"\x1f\x8b\x08") => Some(Compression::Gzip),
        () if is(b"\x28\xb5\x2f\xfd") || skippable => Some(Compression::Zstd),
        () if is(b"PK\x03\x04") => Some(Compression::Zip),
        // A card's: a table, or a file system's first sector.
        () if head.get(510..512) == Some(b"\x55\xaa") => Some(Compression::None),
        () => None,
    }
}

/// What kind of file an import has before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    pub content: Content,
    pub compression: Compression,
}

impl Packing {
    /// Whether the file's bytes are not those of what is inside.
    pub fn is_packed(self) -> bool {
        self.compression != Compression::None
    }
}

/// The endings, the longer before what they end with.
const ENDINGS: [(&str, Content, Compression); 17] = [
    (".img", Content::Disk, Compression::None),
    (".img.xz", Content::Disk, Compression::Xz),
    (".img.gz", Content::Disk, Compression::Gzip),
    (".img.zst", Content::Disk, Compression::Zstd),
    (".img.zip", Content::Disk, Compression::Zip),
    (".zip", Content::Disk, Compression::Zip),
    // Yocto's and Fedora's words for the same.
    (".wic", Content::Disk, Compression::None),
    (".wic.xz", Content::Disk, Compression::Xz),
    (".wic.gz", Content::Disk, Compression::Gzip),
    (".wic.zst", Content::Disk, Compression::Zstd),
    (".raw.xz", Content::Disk, Compression::Xz),
    (".tar", Content::Tarball, Compression::None),
    (".tar.xz", Content::Tarball, Compression::Xz),
    (".tar.gz", Content::Tarball, Compression::Gzip),
    (".tgz", Content::Tarball, Compression::Gzip),
    (".tar.zst", Content::Tarball, Compression::Zstd),
    (".tar.zstd", Content::Tarball, Compression::Zstd),
];

fn ending(file: &str) -> Option<(&'static str, Packing)> {
    let &(ending, content, compression) = ENDINGS.iter().find(|(ending, ..)| has_ending(file, ending))?;
    Some((ending, Packing { content, compression }))
}

fn has_ending(file: &str, ending: &str) -> bool {
    let at = file.len().checked_sub(ending.len());
    at.and_then(|at| file.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(ending))
}

/// Tells an image file by its name; `None` for every other file and for the
/// hidden doubles that macOS leaves (`._name`).
pub fn packing(file: &str) -> Option<Packing> {
    if file.starts_with('.') { None } else { ending(file).map(|(_, packing)| packing) }
}

/// Endings of images in packings that are not read: who copies one to a stick waits for it.
const UNREAD: [&str; 6] = [".img.bz2", ".img.7z", ".img.lz4", ".img.lzma", ".img.rar", ".img.br"];

/// Whether it is an image that is packed in a way that is not read.
pub fn is_unread(file: &str) -> bool {
    !file.starts_with('.') && UNREAD.iter().any(|ending| has_ending(file, ending))
}

/// The name for people: the file's without its endings.
pub fn image_name(file: &str) -> String {
    let ending = ending(file).map_or(0, |(ending, _)| ending.len());
    let stem = file.get(..file.len() - ending).unwrap_or(file);
    stem.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_are_images() {
        use {Compression::*, Content::*};
        for (file, expected) in [
            ("a.img", Some((Disk, None))),
            ("A.IMG.XZ", Some((Disk, Xz))),
            ("a.img.gz", Some((Disk, Gzip))),
            ("a.img.zst", Some((Disk, Zstd))),
            ("2026-raspios.zip", Some((Disk, Zip))),
            ("core-image.wic.gz", Some((Disk, Gzip))),
            ("Fedora.raw.xz", Some((Disk, Xz))),
            ("DSC0001.raw", Option::None),
            ("a.img.bz2", Option::None),
            ("root.tar", Some((Tarball, None))),
            ("root.tar.xz", Some((Tarball, Xz))),
            ("root.tgz", Some((Tarball, Gzip))),
            ("root.Tar.Zst", Some((Tarball, Zstd))),
            ("a.xz", Option::None),
            ("a.gz", Option::None),
            ("._a.img", Option::None),
            ("a.img.sha256", Option::None),
            ("img", Option::None),
            ("\u{e4}img", Option::None),
        ] {
            let expected = expected.map(|(content, compression)| Packing { content, compression });
            assert_eq!(packing(file), expected, "{file}");
            assert_eq!(is_unread(file), file == "a.img.bz2", "{file}");
        }
    }

    #[test]
    fn what_packed_a_file_is_told_by_its_first_bytes() {
        let mut card = vec![0; 512];
        (card[510], card[511]) = (0x55, 0xaa);
        for (head, expected) in [
            (&b"\xfd7zXZ\0\0\x04"[..], Some(Compression::Xz)),
            (b"\x1f\x8b\x08\0", Some(Compression::Gzip)),
            (b"\x28\xb5\x2f\xfd", Some(Compression::Zstd)),
            (b"\x50\x2a\x4d\x18", Some(Compression::Zstd)),
            (b"\x60\x2a\x4d\x18", None),
            (b"PK\x03\x04", Some(Compression::Zip)),
            (&card, Some(Compression::None)),
            (b"etc/\0\0", None),
            (b"", None),
            (b"P", None),
        ] {
            assert_eq!(packed_by(head), expected, "{head:?}");
        }
    }

    #[test]
    fn a_name_for_people_has_no_endings_and_no_control_characters() {
        for (file, expected) in [
            ("raspios lite.img.xz", "raspios lite"),
            ("raspios.zip", "raspios"),
            ("raspios.img.zip", "raspios"),
            ("root\n.tar.zst", "root"),
            (".img", ""),
            ("other", "other"),
        ] {
            assert_eq!(image_name(file), expected, "{file:?}");
        }
    }
}
