//! Copies the files out of a FAT boot partition, without the kernel's vfat.
//!
//! I/O through `fatfs`, which trusts what it reads: a panic in it is caught,
//! and what a hostile FAT could make it do is bounded here (bytes, entries,
//! depth, reads in all). Names are checked before any becomes a path.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
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
}

impl Read for Partition {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
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
        self.file.seek(to)
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
    let copied = catch_unwind(AssertUnwindSafe(|| {
        let fs = FileSystem::new(Partition { file, left }, FsOptions::new()).map_err(damaged)?;
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
    use fatfs::{Date, FormatVolumeOptions, Time};

    fn fat(megabytes: u64, fill: impl FnOnce(&FileSystem<&mut File>)) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(megabytes << 20).unwrap();
        fatfs::format_volume(file.as_file_mut(), FormatVolumeOptions::new()).unwrap();
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
    fn names_that_leave_the_folder_are_refused() {
        for name in ["", ".", "..", "a/b", "a\0", &"x".repeat(256)] {
            assert!(!is_safe_name(name), "{name:?}");
        }
        assert!(is_safe_name("bcm2711-rpi-4-b.dtb"));
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
