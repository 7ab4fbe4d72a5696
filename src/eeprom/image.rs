//! `pieeprom.bin`: the sections of a loader's flash image, and its
//! `bootconf.txt` replaced in place.
//!
//! Pure. A section is `magic: u32, length: u32` (big-endian) and `length` bytes;
//! the next begins at the next multiple of 8; 0 or all ones where a magic would
//! stand ends them. A modifiable file's data begins with a name of 12 bytes,
//! padded with NUL, and 4 bytes of zero. Where the sections lie differs from
//! release to release, so nothing here knows an offset by heart but those of the
//! newer Pi 5 layout: 64 KiB that are never rewritten, then a first system of
//! 988 KiB, whose first file is `bootsys`.

use super::Soc;

/// The flash of a Pi 4 and of a Pi 5, in bytes; an image has exactly that size.
pub const SIZES: [(usize, Soc); 2] = [(512 << 10, Soc::Bcm2711), (2 << 20, Soc::Bcm2712)];

/// Largest content of a modifiable file, in bytes: the official tool's limit, one erase block less the header.
pub const MAX_CONFIG_BYTES: usize = 4076;

/// Most sections that are followed; images have some 20.
const MAX_SECTIONS: usize = 1024;

const MAGIC: u32 = 0x55aa_f00f;
const MAGIC_MASK: u32 = 0xffff_f00f;
const MAGIC_FILE: u32 = 0x55aa_f11f;
const MAGIC_PADDING: u32 = 0x55aa_feef;

/// Magic and length.
const HEADER_BYTES: usize = 8;
const NAME_BYTES: usize = 12;
/// A file's name and the zeros after it; its length counts them.
const FILE_HEADER_BYTES: usize = NAME_BYTES + 4;

const CONFIG: &[u8] = b"bootconf.txt";
const SIGNATURE: &[u8] = b"bootconf.sig";
const BOOTSYS: &[u8] = b"bootsys";
/// Stands before a number among the loader's own texts.
const BUILT: &[u8] = b"BUILD_TIMESTAMP=";

/// What the first system of the newer Pi 5 layout takes up, from and to.
const FIRST_SYSTEM: std::ops::Range<usize> = 64 << 10..(64 + 988) << 10;
/// The loader keeps notes of its own in the last block.
const SCRATCH_BYTES: usize = 4096;

/// Why a file is no image whose boot order can be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("it has {0} bytes; a loader's image has 524288 (Pi 4) or 2097152 (Pi 5)")]
    Size(usize),
    #[error("no section begins at {at:#x}, where one should ({found:#010x} stands there)")]
    Magic { at: usize, found: u32 },
    #[error("it holds no section at all")]
    Empty,
    #[error("the section at {at:#x} says that it has {length} bytes, which is beyond the image's end")]
    BeyondEnd { at: usize, length: u32 },
    #[error("the file at {at:#x} says that it has {length} bytes, which is less than its name takes")]
    ShortFile { at: usize, length: u32 },
    #[error("it holds more than 1024 sections")]
    TooManySections,
    #[error("it holds no bootconf.txt")]
    NoConfig,
    #[error("it holds two files bootconf.txt, at {0:#x} and {1:#x}, and only the loader knows which counts")]
    TwoConfigs(usize, usize),
    #[error("its bootconf.txt has {0} bytes, more than the 4076 that fit into one")]
    ConfigTooLarge(usize),
    #[error("its bootconf.txt is no text")]
    NotText,
    #[error("the new bootconf.txt has {needed} bytes, and there is room for {room}")]
    NoRoom { needed: usize, room: usize },
}

#[derive(Debug, Clone, Copy)]
struct Section {
    magic: u32,
    at: usize,
    /// Of the data behind the header.
    length: usize,
}

impl Section {
    /// Where the next one begins.
    fn end(&self) -> usize {
        align(self.at + HEADER_BYTES + self.length)
    }
}

/// A checked image: every section lies in it, and one `bootconf.txt` is the one that counts.
#[derive(Debug, Clone)]
pub struct Image {
    bytes: Vec<u8>,
    soc: Soc,
    sections: Vec<Section>,
    /// Index of the `bootconf.txt`.
    config: usize,
    two_systems: bool,
}

impl Image {
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ImageError> {
        let soc = SIZES.iter().find(|(size, _)| *size == bytes.len()).map(|(_, soc)| *soc);
        let soc = soc.ok_or(ImageError::Size(bytes.len()))?;
        let sections = sections(&bytes)?;
        let two_systems =
            sections.iter().any(|section| FIRST_SYSTEM.contains(&section.at) && name(&bytes, section) == Some(BOOTSYS));
        // The part that is never rewritten may hold a copy, which the loader does not go by.
        let counts = |section: &Section| !two_systems || section.at >= FIRST_SYSTEM.start;
        let mut configs = (0..sections.len())
            .filter(|index| counts(&sections[*index]) && name(&bytes, &sections[*index]) == Some(CONFIG));
        let config = configs.next().ok_or(ImageError::NoConfig)?;
        if let Some(other) = configs.next() {
            return Err(ImageError::TwoConfigs(sections[config].at, sections[other].at));
        }
        drop(configs);
        let image = Self { bytes, soc, sections, config, two_systems };
        let content = image.content(&image.sections[config]);
        if content.len() > MAX_CONFIG_BYTES {
            return Err(ImageError::ConfigTooLarge(content.len()));
        }
        if image.config().iter().any(|&b| b.is_ascii_control() && !matches!(b, b'\t' | b'\r' | b'\n')) {
            return Err(ImageError::NotText);
        }
        Ok(image)
    }

    pub fn soc(&self) -> Soc {
        self.soc
    }

    /// Whether it has the newer Pi 5 layout, with place for a second system.
    pub fn has_two_systems(&self) -> bool {
        self.two_systems
    }

    /// When the loader was built, in seconds since 1970, where it says so in clear.
    pub fn built(&self) -> Option<u32> {
        let at = self.bytes.windows(BUILT.len()).position(|window| window == BUILT)? + BUILT.len();
        let digits = self.bytes[at..].iter().take(10).take_while(|b| b.is_ascii_digit()).count();
        std::str::from_utf8(&self.bytes[at..at + digits]).ok()?.parse().ok()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The text of `bootconf.txt`.
    pub fn config(&self) -> &[u8] {
        let content = self.content(&self.sections[self.config]);
        // Filled up where someone wrote whole blocks.
        let end = content.iter().rposition(|b| !matches!(b, 0 | 0xff)).map_or(0, |last| last + 1);
        &content[..end]
    }

    /// Whether `bootconf.txt` has a signature in the image, which changing it makes invalid. Only boards under
    /// secure boot read it.
    pub fn is_signed(&self) -> bool {
        let signature = self.sections.iter().find(|section| name(&self.bytes, section) == Some(SIGNATURE));
        signature.is_some_and(|section| self.content(section).iter().any(|b| !matches!(b, 0 | 0xff)))
    }

    /// The image with another `bootconf.txt`. No byte outside of the file's slot differs: the slot goes to the next
    /// section that is no padding or, where none follows, as far as the flash is erased.
    pub fn with_config(&self, config: &[u8]) -> Result<Vec<u8>, ImageError> {
        let section = self.sections[self.config];
        let start = section.at + HEADER_BYTES + FILE_HEADER_BYTES;
        let slot = self.slot();
        let room = slot.end.saturating_sub(start).min(MAX_CONFIG_BYTES);
        if config.len() > room {
            return Err(ImageError::NoRoom { needed: config.len(), room });
        }
        let mut bytes = self.bytes.clone();
        // At most 4092, by the check above.
        let length = (FILE_HEADER_BYTES + config.len()) as u32;
        bytes[section.at + 4..section.at + 8].copy_from_slice(&length.to_be_bytes());
        bytes[start..start + config.len()].copy_from_slice(config);
        let end = align(start + config.len());
        // Where nothing follows, only what the old file took is erased, so that the rest stays as it was.
        let rest = if slot.padded { slot.end } else { section.end().max(end) };
        bytes[start + config.len()..rest].fill(0xff);
        if slot.padded && end < rest {
            // Both are multiples of 8, so a header always fits.
            let length = (rest - end - HEADER_BYTES) as u32;
            bytes[end..end + 4].copy_from_slice(&MAGIC_PADDING.to_be_bytes());
            bytes[end + 4..end + 8].copy_from_slice(&length.to_be_bytes());
        }
        Ok(bytes)
    }

    fn content(&self, file: &Section) -> &[u8] {
        let start = file.at + HEADER_BYTES;
        // `sections` has checked both ends.
        &self.bytes[start + FILE_HEADER_BYTES..start + file.length]
    }

    fn slot(&self) -> Slot {
        let after = &self.sections[self.config + 1..];
        let end = self.sections[self.config].end();
        let padding = after.iter().take_while(|section| section.magic == MAGIC_PADDING).count();
        match after[..padding].last() {
            Some(last) if padding == after.len() => Slot { end: last.end(), padded: true },
            None if after.is_empty() => Slot { end: self.erased_from(end), padded: false },
            _ => Slot { end: after[padding].at, padded: true },
        }
    }

    /// How far behind the last section the flash is erased, less what must stay to say that the sections end.
    fn erased_from(&self, start: usize) -> usize {
        let limit = match self.two_systems {
            true if FIRST_SYSTEM.contains(&start) => FIRST_SYSTEM.end,
            _ => self.bytes.len() - SCRATCH_BYTES,
        };
        let Some(behind) = self.bytes.get(start..limit) else { return start };
        let erased = behind.iter().take_while(|b| matches!(behind[0], 0 | 0xff) && **b == behind[0]).count();
        start + (erased.saturating_sub(HEADER_BYTES) & !7)
    }
}

/// What `bootconf.txt` may fill.
struct Slot {
    end: usize,
    /// Whether sections follow, so that what is left over must be one.
    padded: bool,
}

fn sections(bytes: &[u8]) -> Result<Vec<Section>, ImageError> {
    let mut sections = Vec::new();
    let mut at = 0;
    while let (Some(magic), Some(length)) = (word(bytes, at), word(bytes, at + 4)) {
        if matches!(magic, 0 | u32::MAX) {
            break;
        }
        if magic & MAGIC_MASK != MAGIC {
            return Err(ImageError::Magic { at, found: magic });
        }
        if length as usize > bytes.len() - at - HEADER_BYTES {
            return Err(ImageError::BeyondEnd { at, length });
        }
        if magic == MAGIC_FILE && (length as usize) < FILE_HEADER_BYTES {
            return Err(ImageError::ShortFile { at, length });
        }
        if sections.len() == MAX_SECTIONS {
            return Err(ImageError::TooManySections);
        }
        let section = Section { magic, at, length: length as usize };
        at = section.end();
        sections.push(section);
    }
    if sections.is_empty() { Err(ImageError::Empty) } else { Ok(sections) }
}

/// A file's name; `None` for other sections.
fn name<'b>(bytes: &'b [u8], section: &Section) -> Option<&'b [u8]> {
    let start = section.at + HEADER_BYTES;
    let name = (section.magic == MAGIC_FILE).then(|| &bytes[start..start + NAME_BYTES])?;
    name.split(|&b| b == 0).next()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn align(at: usize) -> usize {
    at.next_multiple_of(8)
}

#[cfg(test)]
mod tests;
