//! One file of a FAT file system in a part of a disk, read in user space and with
//! bounds. I/O on what it is given; nothing is ever written through it.
//!
//! A card's content is whatever somebody put there: a FAT that leads in circles
//! ends at a budget, and a hostile boot sector that panics `fatfs` is an error.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::mbr::Extent;

/// Most bytes read from one partition. The files asked for, their directory and
/// their FAT sectors are far below 1 MiB.
const MAX_READ_BYTES: u64 = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FatError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("the file system is damaged")]
    Damaged,
}

/// A file's first bytes and where on the disk they lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatFile {
    pub bytes: Vec<u8>,
    /// The byte on the disk of the file's first byte; 0 when it is empty.
    pub at: u64,
}

/// Reads at most `limit` bytes of the file `name` in the root folder; `None` where there is none.
pub fn read_file<D: FileExt>(disk: &D, extent: Extent, name: &str, limit: u64) -> Result<Option<FatFile>, FatError> {
    // fatfs trusts a boot sector enough to overflow or divide by zero on a hostile one.
    let read = || try_read(disk, extent, name, limit);
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)) {
        Ok(result) => Ok(result?),
        Err(_) => Err(FatError::Damaged),
    }
}

fn try_read<D: FileExt>(disk: &D, extent: Extent, name: &str, limit: u64) -> io::Result<Option<FatFile>> {
    let last = Rc::new(Cell::new(0));
    let window = Window { disk, extent, at: 0, budget: MAX_READ_BYTES, last: last.clone() };
    let options = fatfs::FsOptions::new().update_accessed_date(false);
    let fat = fatfs::FileSystem::new(window, options)?;
    let root = fat.root_dir();
    let mut file = match root.open_file(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; 1];
    let at = if limit > 0 && file.read(&mut bytes)? == 1 { last.get() } else { return Ok(Some(FatFile::empty())) };
    let mut bytes = bytes.to_vec();
    file.take(limit - 1).read_to_end(&mut bytes)?;
    Ok(Some(FatFile { bytes, at }))
}

impl FatFile {
    fn empty() -> Self {
        Self { bytes: Vec::new(), at: 0 }
    }
}

/// A part of a disk as a file of its own, for reading only and for so many bytes.
struct Window<'d, D> {
    disk: &'d D,
    extent: Extent,
    at: u64,
    budget: u64,
    /// Where on the disk the last read began.
    last: Rc<Cell<u64>>,
}

impl<D: FileExt> Read for Window<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.extent.length.saturating_sub(self.at);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if length == 0 {
            return Ok(0);
        }
        // Every call costs something, so that endless tiny reads end too.
        let cost = (length as u64).max(16);
        self.budget =
            self.budget.checked_sub(cost).ok_or_else(|| io::Error::other("the file system leads in circles"))?;
        self.last.set(self.extent.start + self.at);
        let read = self.disk.read_at(&mut buffer[..length], self.extent.start + self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<D> Seek for Window<'_, D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.extent.length.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl<D> Write for Window<'_, D> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_with_its_place_on_the_disk() {
        let mut fat = io::Cursor::new(vec![0; 4 << 20]);
        fatfs::format_volume(&mut fat, fatfs::FormatVolumeOptions::new()).unwrap();
        let system = fatfs::FileSystem::new(&mut fat, fatfs::FsOptions::new()).unwrap();
        system.root_dir().create_file("other.txt").unwrap().write_all(&[b'o'; 5000]).unwrap();
        system.root_dir().create_file("autoboot.txt").unwrap().write_all(b"[all]\n").unwrap();
        system.root_dir().create_file("empty.txt").unwrap();
        drop(system);
        let disk = tempfile::tempfile().unwrap();
        disk.write_all_at(fat.get_ref(), 1 << 20).unwrap();
        let extent = Extent { start: 1 << 20, length: 4 << 20 };
        let found = read_file(&disk, extent, "autoboot.txt", 512).unwrap().unwrap();
        assert_eq!(found.bytes, b"[all]\n");
        let mut there = [0; 6];
        disk.read_exact_at(&mut there, found.at).unwrap();
        assert_eq!(&there, b"[all]\n");
        assert_eq!(read_file(&disk, extent, "other.txt", 100).unwrap().unwrap().bytes, [b'o'; 100]);
        assert_eq!(read_file(&disk, extent, "empty.txt", 512).unwrap(), Some(FatFile::empty()));
        assert_eq!(read_file(&disk, extent, "none.txt", 512).unwrap(), None);
    }

    #[test]
    fn reading_a_partition_has_an_end() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(1 << 20).unwrap();
        let extent = Extent { start: 512, length: 1024 };
        let mut window = Window { disk: &disk, extent, at: 0, budget: MAX_READ_BYTES, last: Rc::default() };
        let mut bytes = [0; 4096];
        assert_eq!(window.read(&mut bytes).unwrap(), 1024, "not beyond the partition");
        let reads = (0..).take_while(|_| window.rewind().and_then(|()| window.read(&mut [0; 1])).is_ok()).count();
        assert!(reads < 1 << 20, "{reads}");
        assert!(window.write(b"x").is_err());
    }
}
