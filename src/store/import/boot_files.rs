//! Copies the files out of a FAT boot partition, without the kernel's vfat.
//!
//! I/O through `fatfs`, which trusts what it reads: a panic in it is caught,
//! and what a hostile FAT could make it do is bounded here (bytes, entries,
//! depth, reads in all). Names are checked before any becomes a path. Each
//! cluster belongs to one file or folder: one that is read for a second time
//! has two owners, or its chain runs in a circle, and no file of such a FAT
//! can be trusted to be whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, SystemTime};

use fatfs::{DateTime, Dir, FileSystem, FsOptions};

/// Most files and folders; a Raspberry Pi OS boot partition has some 400.
const MAX_ENTRIES: u32 = 100_000;
const MAX_DEPTH: u32 = 16;
/// Each byte of the partition may be read this often before it is a loop.
const MAX_READ_FACTOR: u64 = 8;
const READ_ALLOWANCE: u64 = 64 << 20;

/// Why the boot partition is not usable.
#[derive(Debug, thiserror::Error)]
pub enum BootFilesError {
    #[error("the boot partition's FAT is damaged: {0}")]
    Damaged(String),
    #[error("the boot partition has a file name that cannot be used: {0:?}")]
    Name(String),
    #[error("the boot partition has too many files, or folders too deep")]
    TooMany,
    #[error("writing the boot files")]
    Write(#[source] io::Error),
}

/// The partition as fatfs sees it: reading only, and not for ever.
struct Partition {
    file: File,
    left: u64,
    at: u64,
    claims: Claims,
}

/// Which sectors of the clusters were read: a bit for each, so 1 MiB for the largest partition.
struct Claims {
    /// Where the clusters begin, in bytes.
    from: u64,
    read: Vec<u64>,
}

const CLAIM_BYTES: u64 = 512;

impl Claims {
    /// By a FAT's boot sector (Microsoft's FAT specification, "BIOS Parameter Block").
    fn new(boot: &[u8; 64], bytes: u64) -> Self {
        let word = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let long = |at: usize| word(at) | word(at + 2) << 16;
        let (sector_bytes, reserved, fats, root_entries) = (word(11), word(14), u64::from(boot[16]), word(17));
        let fat_sectors = if word(22) == 0 { long(36) } else { word(22) };
        let root_bytes = (root_entries * 32).next_multiple_of(sector_bytes.max(1));
        let from = (reserved + fats * fat_sectors) * sector_bytes + root_bytes;
        let sectors = bytes.saturating_sub(from).div_ceil(CLAIM_BYTES).div_ceil(64);
        Self { from, read: vec![0; usize::try_from(sectors).unwrap_or(0)] }
    }

    /// Each sector's first byte stands for it, since it is read in pieces. False: it was read before.
    fn take(&mut self, at: u64, bytes: u64) -> bool {
        let (Some(first), Some(end)) = (at.max(self.from).checked_sub(self.from), (at + bytes).checked_sub(self.from))
        else {
            return true;
        };
        let mut alone = true;
        for sector in first.div_ceil(CLAIM_BYTES)..end.div_ceil(CLAIM_BYTES) {
            let (word, bit) = ((sector / 64) as usize, 1u64 << (sector % 64));
            if let Some(word) = self.read.get_mut(word) {
                alone &= *word & bit == 0;
                *word |= bit;
            }
        }
        alone
    }
}

impl Read for Partition {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        if !self.claims.take(self.at, bytes as u64) {
            return Err(io::Error::other("two of its files claim the same cluster, or a chain runs in a circle"));
        }
        self.at += bytes as u64;
        // Also when nothing came: a loop of empty reads must end too.
        self.left = self
            .left
            .checked_sub(bytes.max(1) as u64)
            .ok_or_else(|| io::Error::other("cluster chains that run in circles"))?;
        Ok(bytes)
    }
}

impl Write for Partition {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Partition {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

struct Copy {
    entries_left: u32,
    bytes_left: u64,
}

/// Copies all files of the FAT in `partition` into the existing, empty folder.
/// Returns how many files there were.
pub fn extract(partition: &Path, folder: &Path) -> Result<u32, BootFilesError> {
    let file = File::open(partition).map_err(BootFilesError::Write)?;
    let bytes = file.metadata().map_err(BootFilesError::Write)?.len();
    let left = bytes.saturating_mul(MAX_READ_FACTOR).saturating_add(READ_ALLOWANCE);
    let mut boot = [0; 64];
    file.read_exact_at(&mut boot, 0).map_err(damaged)?;
    let claims = Claims::new(&boot, bytes);
    let copied = catch_unwind(AssertUnwindSafe(|| {
        let fs = FileSystem::new(Partition { file, left, at: 0, claims }, FsOptions::new()).map_err(damaged)?;
        // Files that are larger in sum than the partition share clusters.
        let mut copy = Copy { entries_left: MAX_ENTRIES, bytes_left: bytes };
        copy.folder(&fs.root_dir(), folder, 0)?;
        Ok(MAX_ENTRIES - copy.entries_left)
    }));
    copied.unwrap_or_else(|_| Err(BootFilesError::Damaged("its fields contradict each other".into())))
}

fn damaged(error: io::Error) -> BootFilesError {
    BootFilesError::Damaged(error.to_string())
}

impl Copy {
    fn folder(&mut self, from: &Dir<'_, Partition>, to: &Path, depth: u32) -> Result<(), BootFilesError> {
        if depth > MAX_DEPTH {
            return Err(BootFilesError::TooMany);
        }
        for entry in from.iter() {
            let entry = entry.map_err(damaged)?;
            let name = entry.file_name();
            if entry.is_dir() && (name == "." || name == "..") {
                continue;
            }
            self.entries_left = self.entries_left.checked_sub(1).ok_or(BootFilesError::TooMany)?;
            if !is_safe_name(&name) {
                return Err(BootFilesError::Name(name));
            }
            let path = to.join(&name);
            if entry.is_dir() {
                fs::create_dir(&path).map_err(|error| clash(error, &name))?;
                self.folder(&entry.to_dir(), &path, depth + 1)?;
            } else {
                self.file(entry.to_file(), entry.len(), &path, &name)?;
            }
            set_time(&path, entry.modified());
        }
        Ok(())
    }

    fn file(
        &mut self,
        from: fatfs::File<'_, Partition>,
        bytes: u64,
        to: &Path,
        name: &str,
    ) -> Result<(), BootFilesError> {
        let shared = || BootFilesError::Damaged("its files are larger than itself".into());
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(shared)?;
        // 0755 as the kernel's vfat shows files to root by default.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(to);
        let mut file = file.map_err(|error| clash(error, name))?;
        let mut from = from.take(bytes);
        let mut buffer = vec![0; 64 << 10];
        let mut copied = 0;
        loop {
            match from.read(&mut buffer).map_err(damaged)? {
                0 => break,
                part => file.write_all(&buffer[..part]).map_err(BootFilesError::Write)?,
            }
            copied = file.stream_position().map_err(BootFilesError::Write)?;
        }
        if copied == bytes { Ok(()) } else { Err(BootFilesError::Damaged(format!("{name} is cut short"))) }
    }
}

fn clash(error: io::Error, name: &str) -> BootFilesError {
    match error.kind() {
        io::ErrorKind::AlreadyExists => BootFilesError::Damaged(format!("{name} is there twice")),
        _ => BootFilesError::Write(error),
    }
}

fn is_safe_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(['/', '\0'])
}

/// FAT has local time without a zone; it is taken as UTC. A time that cannot
/// be is left as it is: it only decides what a person sees in a listing.
fn set_time(path: &Path, time: DateTime) {
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds(time));
    let _ = File::open(path).and_then(|file| file.set_modified(modified));
}

/// Seconds since 1970 of a FAT time, whose years run from 1980 to 2107
/// (days from the civil date in the proleptic Gregorian calendar).
fn unix_seconds(time: DateTime) -> u64 {
    let month = u64::from(time.date.month.clamp(1, 12));
    // Years that begin in March put the leap day last.
    let year = u64::from(time.date.year) - u64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + u64::from(time.date.day.max(1)) - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    days * 86_400 + u64::from(time.time.hour) * 3600 + u64::from(time.time.min) * 60 + u64::from(time.time.sec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fatfs::{Date, FatType, FormatVolumeOptions, Time};

    fn fat(megabytes: u64, fill: impl FnOnce(&FileSystem<&mut File>)) -> tempfile::NamedTempFile {
        fat_as(FormatVolumeOptions::new(), megabytes, fill)
    }

    fn fat_as(
        options: FormatVolumeOptions,
        megabytes: u64,
        fill: impl FnOnce(&FileSystem<&mut File>),
    ) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(megabytes << 20).unwrap();
        fatfs::format_volume(file.as_file_mut(), options).unwrap();
        file.as_file_mut().seek(SeekFrom::Start(0)).unwrap();
        let fs = FileSystem::new(file.as_file_mut(), FsOptions::new()).unwrap();
        fill(&fs);
        fs.unmount().unwrap();
        file
    }

    #[test]
    fn files_come_out_with_names_contents_and_folders() {
        let image = fat(8, |fs| {
            let root = fs.root_dir();
            root.create_file("config.txt").unwrap().write_all(b"arm_64bit=1\n").unwrap();
            root.create_file("a long Name ä.dtb").unwrap().write_all(&vec![7; 100_000]).unwrap();
            root.create_dir("overlays").unwrap().create_file("README").unwrap();
        });
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(extract(image.path(), folder.path()).unwrap(), 4);
        assert_eq!(fs::read(folder.path().join("config.txt")).unwrap(), b"arm_64bit=1\n");
        assert_eq!(fs::read(folder.path().join("a long Name ä.dtb")).unwrap(), vec![7; 100_000]);
        assert!(folder.path().join("overlays/README").is_file());
    }

    #[test]
    fn a_damaged_fat_ends_in_an_error_or_in_files_but_never_in_a_panic_or_a_loop() {
        let image = fat(4, |fs| {
            let folder = fs.root_dir().create_dir("overlays").unwrap();
            for n in 0..40 {
                folder.create_file(&format!("some overlay {n}.dtbo")).unwrap().write_all(&[n; 3000]).unwrap();
            }
        });
        let good = fs::read(image.path()).unwrap();
        let mut state = 1u32;
        for _ in 0..60 {
            let mut bad = good.clone();
            for _ in 0..20 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (state >> 8) as usize % 40_000;
                bad[at] = state as u8;
            }
            fs::write(image.path(), &bad).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let _ = extract(image.path(), folder.path());
        }
        fs::write(image.path(), vec![0xff; 100_000]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(extract(image.path(), folder.path()), Err(BootFilesError::Damaged(_))));
    }

    #[test]
    fn cross_linked_clusters_and_looping_chains_are_refused_in_one_message() {
        for (kind, megabytes, width) in [(FatType::Fat16, 16, 2), (FatType::Fat32, 64, 4)] {
            let image = fat_as(FormatVolumeOptions::new().fat_type(kind), megabytes, |fs| {
                let root = fs.root_dir();
                for name in ["ONE.BIN", "TWO.BIN"] {
                    root.create_file(name).unwrap().write_all(&vec![7; 40_000]).unwrap();
                }
                root.create_dir("SUB").unwrap().create_file("THREE.BIN").unwrap().write_all(&[3; 9000]).unwrap();
            });
            let whole = fs::read(image.path()).unwrap();
            let word = |at: usize| usize::from(whole[at]) | usize::from(whole[at + 1]) << 8;
            let table = word(14) * word(11);
            let slot = |name: &[u8; 11]| whole.windows(11).position(|bytes| bytes == name).unwrap();
            let first = |slot: usize| word(slot + 26);
            let [one, two, sub] = [b"ONE     BIN", b"TWO     BIN", b"SUB        "].map(slot);
            let check = |what: &str, patches: &[(usize, usize)]| {
                let mut bytes = whole.clone();
                for (at, value) in patches {
                    bytes[*at..at + 2].copy_from_slice(&(*value as u16).to_le_bytes());
                }
                fs::write(image.path(), &bytes).unwrap();
                let folder = tempfile::tempdir().unwrap();
                let said = extract(image.path(), folder.path()).map_err(|error| error.to_string());
                match said {
                    Ok(_) => assert_eq!(what, "whole"),
                    Err(said) => assert!(said.contains("claim the same cluster"), "{kind:?}, {what}: {said}"),
                }
            };
            let next = |cluster: usize| table + cluster * width;
            check("whole", &[]);
            check("two files with one beginning", &[(two + 26, first(one))]);
            check("a file that goes on in another one's", &[(next(first(one)), first(two) + 1)]);
            check("a file that goes round", &[(next(first(one) + 1), first(one))]);
            check("a file that goes round in its first cluster", &[(next(first(one)), first(one))]);
            check("a folder in a file's cluster", &[(sub + 26, first(one))]);
            // Full of entries, so that its end is never seen.
            let inside = whole.windows(11).position(|bytes| bytes == b"THREE   BIN").unwrap();
            check("a folder that is its own", &[(inside + 26, first(sub)), (inside + 11, 0x10)]);
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["", ".", "..", "a/b", "a\0", &"x".repeat(256)] {
            assert!(!is_safe_name(name), "{name:?}");
        }
        assert!(is_safe_name("bcm2711-rpi-4-b.dtb"));
    }

    #[test]
    fn a_fat_with_a_slash_in_a_name_is_refused_by_that_name() {
        let image = fat(8, |fs| drop(fs.root_dir().create_file("some long nameX.txt").unwrap()));
        let mut bytes = fs::read(image.path()).unwrap();
        // In the long name's second entry, in UTF-16; its check is of the short name.
        let at = bytes.windows(6).position(|window| window == b"e\0X\0.\0").unwrap();
        bytes[at + 2] = b'/';
        fs::write(image.path(), &bytes).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let said = extract(image.path(), folder.path()).unwrap_err().to_string();
        assert!(said.contains("cannot be used: \"some long name/.txt\""), "{said}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn fat_times_become_unix_times() {
        let check = |(year, month, day), (hour, min, sec), expected| {
            let time = DateTime { date: Date { year, month, day }, time: Time { hour, min, sec, millis: 0 } };
            assert_eq!(unix_seconds(time), expected);
        };
        check((1980, 1, 1), (0, 0, 0), 315_532_800);
        check((2000, 2, 29), (12, 0, 0), 951_825_600);
        check((2026, 11, 22), (15, 14, 2), 1_795_360_442);
        check((2107, 15, 31), (0, 0, 0), 4_354_732_800);
        check((1980, 0, 0), (0, 0, 0), 315_532_800);
    }
}
