//! The recovery card: the bytes of a disk with one FAT32 partition, from which
//! the ROM of a Pi 4 or 5 starts `recovery.bin` before anything in its EEPROM.
//!
//! Pure: fatfs over memory. Layout as on Raspberry Pi's own recovery images:
//! MBR, partition of type 0x0c from sector 2048, FAT32 with clusters of one
//! sector. The same files make the same bytes: no clock is asked.

use std::io::{self, Cursor, Write};

use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use sha2::{Digest, Sha256};

use super::Soc;
use super::signature;

const SECTOR_BYTES: usize = 512;
const START_SECTORS: u32 = 2048;
/// 35 MiB: FAT32 begins at 65525 clusters.
const PARTITION_SECTORS: u32 = 71_680;

/// The whole disk, in bytes.
pub const DISK_BYTES: usize = (START_SECTORS + PARTITION_SECTORS) as usize * SECTOR_BYTES;

/// Largest `recovery.bin` that is taken; the official ones have some 100 KiB.
pub const MAX_RECOVERY_BYTES: usize = 2 << 20;

const LABEL: [u8; 11] = *b"RECOVERY   ";

/// The disk. `pieeprom.bin` and not `.upd`: `recovery.bin` then stays on the card and shows that it is done, so that
/// one card serves many boards.
pub fn make(recovery: &[u8], pieeprom: &[u8], timestamp: u32, soc: Soc) -> io::Result<Vec<u8>> {
    let signature = signature::make(pieeprom, timestamp, soc);
    let id = identity(&[recovery, pieeprom, signature.as_bytes()]);
    let mut disk = vec![0; DISK_BYTES];
    let start = START_SECTORS as usize * SECTOR_BYTES;
    disk[..SECTOR_BYTES].copy_from_slice(&boot_record(id));
    fill(
        &mut disk[start..],
        id,
        &[("recovery.bin", recovery), ("pieeprom.bin", pieeprom), ("pieeprom.sig", signature.as_bytes())],
    )?;
    Ok(disk)
}

fn fill(partition: &mut [u8], id: u32, files: &[(&str, &[u8])]) -> io::Result<()> {
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(SECTOR_BYTES as u32)
        .volume_id(id)
        .volume_label(LABEL);
    fatfs::format_volume(Cursor::new(&mut *partition), options)?;
    let system = FileSystem::new(Cursor::new(partition), FsOptions::new().time_provider(&NO_TIME))?;
    for (name, bytes) in files {
        let mut file = system.root_dir().create_file(name)?;
        file.write_all(bytes)?;
        file.flush()?;
    }
    system.unmount()
}

/// The first sector of the disk: no code, one partition.
fn boot_record(id: u32) -> [u8; SECTOR_BYTES] {
    let mut sector = [0; SECTOR_BYTES];
    sector[440..444].copy_from_slice(&id.to_le_bytes());
    let entry = &mut sector[446..462];
    // Cylinder, head and sector are beyond what they can say; FAT32 by LBA goes by the numbers after them.
    entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[4] = 0x0c;
    entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&START_SECTORS.to_le_bytes());
    entry[12..].copy_from_slice(&PARTITION_SECTORS.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// Disk signature and volume number: another for other files, and never 0.
fn identity(files: &[&[u8]]) -> u32 {
    let mut hash = Sha256::new();
    files.iter().for_each(|file| hash.update(file));
    let hash = hash.finalize();
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3] | 1])
}

/// The oldest time that FAT can say.
#[derive(Debug)]
struct NoTime;

static NO_TIME: NoTime = NoTime;

impl TimeProvider for NoTime {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_card_holds_three_files_under_their_short_names() {
        let pieeprom = vec![0x5a; 512 << 10];
        let disk = make(b"recovery", &pieeprom, 1_790_000_000, Soc::Bcm2711).unwrap();
        assert_eq!(disk.len(), 36 << 20);
        // The ROM may not read long names.
        for name in [b"RECOVERYBIN", b"PIEEPROMBIN", b"PIEEPROMSIG"] {
            assert!(disk.windows(11).any(|window| window == name));
        }
        let partition = Cursor::new(disk[1 << 20..].to_vec());
        let system = FileSystem::new(partition, FsOptions::new()).unwrap();
        assert_eq!(system.fat_type(), FatType::Fat32);
        let mut text = String::new();
        system.root_dir().open_file("pieeprom.sig").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, signature::make(&pieeprom, 1_790_000_000, Soc::Bcm2711));
        assert_eq!(system.root_dir().iter().filter(|entry| entry.as_ref().unwrap().is_file()).count(), 3);
    }

    #[test]
    fn the_same_files_make_the_same_card_and_others_another() {
        let make = |recovery: &[u8]| make(recovery, &[1; 1000], 1_790_000_000, Soc::Bcm2712).unwrap();
        assert_eq!(make(b"one"), make(b"one"));
        assert_ne!(make(b"one")[440..444], make(b"two")[440..444]);
    }

    #[test]
    fn the_largest_files_fit() {
        let files = (vec![1; MAX_RECOVERY_BYTES], vec![2; 2 << 20]);
        make(&files.0, &files.1, u32::MAX, Soc::Bcm2712).unwrap();
    }
}
