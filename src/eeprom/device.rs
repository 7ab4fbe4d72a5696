//! A card's bytes onto an SD card in a reader, read back and compared.
//!
//! I/O, and everything on the card is lost: whoever calls this has asked a
//! person and shown which disk it is. The store's worker does, behind a held
//! ENROLL (`control::card`). On a computer Raspberry Pi Imager does the same.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::Advice;

/// Why a device was not written, or is not what was to be written.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("{0} is no block device")]
    NoDevice(PathBuf),
    #[error("{0} is in use")]
    Busy(PathBuf),
    #[error("opening {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path} has {bytes} bytes, less than the card needs")]
    TooSmall { path: PathBuf, bytes: u64 },
    #[error("writing {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("reading {path} back")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} did not keep what was written to it, at byte {at}: the card or its reader is broken")]
    Differs { path: PathBuf, at: u64 },
    #[error("writing {0} was stopped")]
    Stopped(PathBuf),
}

const CHUNK_BYTES: usize = 1 << 20;
/// The partition table: written last, so that a cut leaves a card without any.
const TABLE_BYTES: usize = 512;

/// Writes `card` to the start of the whole disk at `path`. `done` is told the bytes done so far of twice the card's
/// (written, then compared).
pub fn write(path: &Path, card: &[u8], stop: &AtomicBool, mut done: impl FnMut(u64)) -> Result<(), DeviceError> {
    let disk = open(path, card.len() as u64)?;
    let failed = |source| DeviceError::Write { path: path.to_owned(), source };
    let (table, rest) = card.split_at(TABLE_BYTES.min(card.len()));
    disk.write_all_at(&[0; TABLE_BYTES][..table.len()], 0).map_err(failed)?;
    disk.sync_all().map_err(failed)?;
    let mut at = table.len();
    for chunk in rest.chunks(CHUNK_BYTES) {
        if stop.load(Ordering::Relaxed) {
            return Err(DeviceError::Stopped(path.to_owned()));
        }
        disk.write_all_at(chunk, at as u64).map_err(failed)?;
        // Chunk by chunk, or `done` runs ahead of a slow card, and a stop waits for all of it.
        disk.sync_data().map_err(failed)?;
        at += chunk.len();
        done(at as u64);
    }
    disk.write_all_at(table, 0).map_err(failed)?;
    disk.sync_all().map_err(failed)?;
    compare(path, &disk, card, stop, |compared| done(card.len() as u64 + compared))
}

/// `O_EXCL` fails while any part of the disk is mounted or held.
fn open(path: &Path, needed: u64) -> Result<File, DeviceError> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(path);
    let mut disk = opened.map_err(|source| match source.kind() {
        io::ErrorKind::ResourceBusy => DeviceError::Busy(path.to_owned()),
        _ => DeviceError::Open { path: path.to_owned(), source },
    })?;
    let failed = |source| DeviceError::Open { path: path.to_owned(), source };
    if !disk.metadata().map_err(failed)?.file_type().is_block_device() {
        return Err(DeviceError::NoDevice(path.to_owned()));
    }
    let bytes = disk.seek(SeekFrom::End(0)).map_err(failed)?;
    if bytes < needed { Err(DeviceError::TooSmall { path: path.to_owned(), bytes }) } else { Ok(disk) }
}

fn compare(
    path: &Path,
    disk: &File,
    card: &[u8],
    stop: &AtomicBool,
    mut done: impl FnMut(u64),
) -> Result<(), DeviceError> {
    let failed = |source| DeviceError::Read { path: path.to_owned(), source };
    // What was written is clean by now: dropped, so that it is the card that answers.
    rustix::fs::fadvise(disk, 0, None, Advice::DontNeed).map_err(|error| failed(error.into()))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    for chunk in card.chunks(CHUNK_BYTES) {
        if stop.load(Ordering::Relaxed) {
            return Err(DeviceError::Stopped(path.to_owned()));
        }
        let read = &mut buffer[..chunk.len()];
        disk.read_exact_at(read, at).map_err(failed)?;
        if let Some(offset) = read.iter().zip(chunk).position(|(read, written)| read != written) {
            return Err(DeviceError::Differs { path: path.to_owned(), at: at + offset as u64 });
        }
        at += chunk.len() as u64;
        done(at);
    }
    Ok(())
}
