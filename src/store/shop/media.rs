//! What the file systems are read from, and what a plan of writes is made of.
//!
//! Pure: the bytes come through a trait, so that a test reads them from memory
//! and the shell from a block device. All numbers are little-endian, as FAT's
//! and exFAT's specifications have them.

use std::io;

use super::Refusal;

/// A partition, or a whole disk without a table.
pub trait Media {
    fn bytes(&self) -> u64;
    /// Fills `buffer` from byte `at`.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// Bytes to be written at an offset of the partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub at: u64,
    pub bytes: Vec<u8>,
}

/// Writes between two flushes: their order among each other does not matter.
pub type Step = Vec<Write>;

/// Reads `bytes` at `at`; what lies past the end is damage, not an I/O error.
pub fn read(media: &dyn Media, at: u64, bytes: usize) -> Result<Vec<u8>, Refusal> {
    let end = at.checked_add(bytes as u64).filter(|&end| end <= media.bytes());
    end.ok_or(Refusal::Damaged("it reaches past the end of its partition"))?;
    let mut buffer = vec![0; bytes];
    media.read_at(at, &mut buffer).map_err(|error| Refusal::Read { at, error: error.to_string() })?;
    Ok(buffer)
}

// The callers' slices are long enough: fields of records whose length was checked.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
