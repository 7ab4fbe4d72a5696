//! Which partition the appliance was started from: `rootstock.boot=` on the
//! kernel's command line against the first sector of a disk.
//!
//! Pure: a sector in, a byte range out. An MBR is 446 bytes of code with the
//! disk signature at 440 (little-endian), four entries of 16 bytes, 0x55 0xaa.

use std::fmt;
use std::str::FromStr;

/// Bytes in a sector; SD cards have no other size.
pub const SECTOR_BYTES: usize = 512;

/// A disk signature and a partition number, written as the kernel writes a PARTUUID: `52535430-01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootId {
    pub signature: u32,
    /// 1 to 4: the boot partition is a primary one.
    pub partition: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a disk signature and a partition such as 52535430-01")]
pub struct NoBootId;

impl FromStr for BootId {
    type Err = NoBootId;

    fn from_str(text: &str) -> Result<Self, NoBootId> {
        let (signature, partition) = text.split_once('-').ok_or(NoBootId)?;
        let hex = |text: &str, digits| {
            let valid = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
            valid.then(|| u32::from_str_radix(text, 16).ok()).flatten().ok_or(NoBootId)
        };
        let (signature, partition) = (hex(signature, 8)?, hex(partition, 2)?);
        match u8::try_from(partition) {
            Ok(partition @ 1..=4) => Ok(Self { signature, partition }),
            _ => Err(NoBootId),
        }
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:02x}", self.signature, self.partition)
    }
}

/// A run of bytes on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub length: u64,
}

/// Why a disk is not the one, or cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("no partition table")]
    NoTable,
    #[error("another disk")]
    OtherDisk,
    #[error("partition {0} is empty")]
    Empty(u8),
    #[error("partition {0} is of type {1:#04x}, not FAT")]
    NotFat(u8, u8),
    #[error("partition {0} reaches beyond the disk's end")]
    BeyondEnd(u8),
}

/// Where `id`'s partition lies on the disk whose first sector is `sector` and that has `disk_bytes`.
/// Every byte of the sector may be hostile: the disk is whatever somebody put into the slot.
pub fn find_partition(sector: &[u8], disk_bytes: u64, id: BootId) -> Result<Extent, Mismatch> {
    let sector: &[u8; SECTOR_BYTES] =
        sector.get(..SECTOR_BYTES).and_then(|s| s.try_into().ok()).ok_or(Mismatch::NoTable)?;
    if sector[510..] != [0x55, 0xaa] {
        return Err(Mismatch::NoTable);
    }
    let word = |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
    if word(440) != id.signature {
        return Err(Mismatch::OtherDisk);
    }
    // `BootId` can be made by hand, so the number is checked here too.
    let number = id.partition;
    if !(1..=4).contains(&number) {
        return Err(Mismatch::Empty(number));
    }
    let entry = 446 + 16 * usize::from(number - 1);
    let (kind, start, sectors) = (sector[entry + 4], word(entry + 8), word(entry + 12));
    if start == 0 || sectors == 0 {
        return Err(Mismatch::Empty(number));
    }
    // FAT12, FAT16 in three forms, FAT32 in two.
    if !matches!(kind, 0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e) {
        return Err(Mismatch::NotFat(number, kind));
    }
    let bytes = |sectors: u32| u64::from(sectors) * SECTOR_BYTES as u64;
    let extent = Extent { start: bytes(start), length: bytes(sectors) };
    if extent.start + extent.length > disk_bytes {
        return Err(Mismatch::BeyondEnd(number));
    }
    Ok(extent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: BootId = BootId { signature: 0x5253_5430, partition: 1 };

    /// A first sector with `ID`'s signature and one partition in the slot of `number`.
    pub fn sector(number: usize, kind: u8, start: u32, sectors: u32) -> [u8; SECTOR_BYTES] {
        let mut sector = [0; SECTOR_BYTES];
        sector[440..444].copy_from_slice(&ID.signature.to_le_bytes());
        let entry = 446 + 16 * (number - 1);
        sector[entry + 4] = kind;
        sector[entry + 8..entry + 12].copy_from_slice(&start.to_le_bytes());
        sector[entry + 12..entry + 16].copy_from_slice(&sectors.to_le_bytes());
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    fn check(sector: &[u8], expected: Result<(u64, u64), Mismatch>) {
        let found = find_partition(sector, 64 << 20, ID).map(|extent| (extent.start, extent.length));
        assert_eq!(found, expected);
    }

    #[test]
    fn the_partition_of_the_right_disk_is_found() {
        check(&sector(1, 0x0c, 2048, 65536), Ok((1 << 20, 32 << 20)));
        check(&sector(1, 0x06, 1, 1), Ok((512, 512)));
    }

    #[test]
    fn another_disk_or_none_is_told_apart() {
        check(&[], Err(Mismatch::NoTable));
        check(&[0x55; 511], Err(Mismatch::NoTable));
        check(&[0; 512], Err(Mismatch::NoTable));
        let mut other = sector(1, 0x0c, 2048, 65536);
        other[440] ^= 1;
        check(&other, Err(Mismatch::OtherDisk));
        check(&sector(2, 0x0c, 2048, 65536), Err(Mismatch::Empty(1)));
        check(&sector(1, 0xee, 1, 65536), Err(Mismatch::NotFat(1, 0xee)));
    }

    #[test]
    fn a_lying_table_is_refused() {
        check(&sector(1, 0x0c, 2048, u32::MAX), Err(Mismatch::BeyondEnd(1)));
        check(&sector(1, 0x0c, u32::MAX, u32::MAX), Err(Mismatch::BeyondEnd(1)));
        check(&sector(1, 0x0c, 0, 10), Err(Mismatch::Empty(1)));
        let wrong = BootId { partition: 9, ..ID };
        assert_eq!(find_partition(&sector(1, 0x0c, 2048, 1), 64 << 20, wrong), Err(Mismatch::Empty(9)));
    }

    #[test]
    fn a_boot_id_is_read_as_the_kernel_writes_it() {
        assert_eq!("52535430-01".parse(), Ok(ID));
        assert_eq!("DEADBEEF-04".parse(), Ok(BootId { signature: 0xdead_beef, partition: 4 }));
        assert_eq!(ID.to_string(), "52535430-01");
        for wrong in ["", "-", "52535430", "52535430-1", "52535430-00", "52535430-05", "+2535430-01", "525354300-01"] {
            assert_eq!(wrong.parse::<BootId>(), Err(NoBootId), "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_sector_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600), size: u64) {
            let mut bytes = bytes;
            if bytes.len() > 512 {
                bytes[440..444].copy_from_slice(&ID.signature.to_le_bytes());
                bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            }
            if let Ok(extent) = find_partition(&bytes, size, ID) {
                proptest::prop_assert!(extent.start + extent.length <= size);
            }
        }
    }
}
