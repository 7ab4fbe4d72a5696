//! The SD card as an update sees it: where the slots are, a slot written anew, and the
//! one sector that decides which slot is started. I/O on the disk it is given.
//!
//! The order makes a cut at any moment harmless. A slot's first sector, without which
//! it is no file system, is made void first and written last, after everything else
//! was written, flushed, and read back from the card.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use super::Slot;
use super::autoboot::{self, Autoboot, AutobootError};
use crate::init::fat::{self, FatError};
use crate::init::mbr::{BootId, Extent, Mismatch, SECTOR_BYTES, find_partition};
use crate::store::manifest::hex;

/// `rootstock.boot=52535430-01`, as `board/image` makes cards.
pub const DISK_SIGNATURE: u32 = 0x5253_5430;
const SETTINGS: u8 = 1;
const PIECE_BYTES: usize = 1 << 20;
/// A slot's two FATs and its root folder are 145 KiB.
const TABLES_BYTES: usize = 256 << 10;

/// A disk that can be written and flushed.
pub trait Card: FileExt {
    /// Returns when all that was written lies on the medium; what is read next comes from there.
    fn flush(&self) -> io::Result<()>;
    fn bytes(&self) -> io::Result<u64>;
}

impl Card for File {
    fn flush(&self) -> io::Result<()> {
        self.sync_all()?;
        // Or the check would read back what is in memory.
        rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        rustix::fs::seek(self, rustix::fs::SeekFrom::End(0)).map_err(Into::into)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CardError {
    #[error("the SD card cannot be read")]
    Read(#[source] io::Error),
    #[error("the SD card cannot be written; it may be worn out or locked")]
    Write(#[source] io::Error),
    #[error("the SD card has no slots: {0}")]
    NoSlot(#[from] Mismatch),
    #[error("the SD card's settings partition cannot be read")]
    Fat(#[from] FatError),
    #[error("the SD card has no {}", autoboot::FILE)]
    NoAutoboot,
    #[error(transparent)]
    Autoboot(#[from] AutobootError),
    #[error("the SD card starts another slot than the one that runs")]
    NotDefault,
    #[error("the update file cannot be read; was the stick pulled?")]
    Source(#[source] io::Error),
    #[error("the update file is cut short")]
    Short,
    #[error("the update file is damaged: its hash is wrong")]
    Hash,
    #[error("the SD card did not keep what was written to it; it is worn out")]
    Kept,
    #[error("the update is larger than the slot")]
    SlotFull,
}

/// The layout of a card, read from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    slots: [Extent; 2],
    pub autoboot: Autoboot,
    /// Where `autoboot.txt` lies and what it has.
    autoboot_at: u64,
    autoboot_text: Vec<u8>,
}

impl Layout {
    pub fn read<C: Card>(card: &C) -> Result<Self, CardError> {
        let mut sector = [0; SECTOR_BYTES];
        card.read_exact_at(&mut sector, 0).map_err(CardError::Read)?;
        let bytes = card.bytes().map_err(CardError::Read)?;
        let find = |partition| find_partition(&sector, bytes, BootId { signature: DISK_SIGNATURE, partition });
        let slots = [find(Slot::A.partition())?, find(Slot::B.partition())?];
        let found = fat::read_file(card, find(SETTINGS)?, autoboot::FILE, autoboot::MAX_BYTES as u64 + 1)?
            .ok_or(CardError::NoAutoboot)?;
        let autoboot = Autoboot::parse(&found.bytes)?;
        Ok(Self { slots, autoboot, autoboot_at: found.at, autoboot_text: found.bytes })
    }

    pub fn slot(&self, slot: Slot) -> Extent {
        match slot {
            Slot::A => self.slots[0],
            Slot::B => self.slots[1],
        }
    }
}

/// Reads the payload to its end and compares its hash: nothing is written before that.
pub fn check_payload(mut payload: impl Read, bytes: u64, sha256: &str) -> Result<(), CardError> {
    let mut hasher = Sha256::new();
    let mut left = bytes;
    let mut piece = vec![0; PIECE_BYTES];
    while left > 0 {
        let length = next_piece(&mut payload, &mut piece, left)?;
        hasher.update(&piece[..length]);
        left -= length as u64;
    }
    if hex(&hasher.finalize()) == sha256 { Ok(()) } else { Err(CardError::Hash) }
}

/// Whether the slot holds exactly this payload.
pub fn holds<C: Card>(card: &C, extent: Extent, bytes: u64, sha256: &str) -> bool {
    bytes <= extent.length && check_payload(Part { card, at: extent.start }, bytes, sha256).is_ok()
}

/// Whether the slot begins with the same FAT and folder: quickly known, where its whole takes seconds to read.
pub fn begins_with<C: Card>(card: &C, extent: Extent, mut payload: impl Read) -> bool {
    let (mut ours, mut theirs) = (vec![0; TABLES_BYTES], vec![0; TABLES_BYTES]);
    let mut on_card = Part { card, at: extent.start };
    payload.read_exact(&mut ours).is_ok() && on_card.read_exact(&mut theirs).is_ok() && ours == theirs
}

/// Writes `payload` to the slot that is not `running`. `progress` is told the bytes done.
pub fn write_slot<C: Card>(
    card: &C,
    running: Slot,
    payload: impl Read,
    bytes: u64,
    sha256: &str,
    mut progress: impl FnMut(u64),
) -> Result<(), CardError> {
    let layout = Layout::read(card)?;
    if layout.autoboot.default != running {
        return Err(CardError::NotDefault);
    }
    let extent = layout.slot(running.other());
    if bytes > extent.length {
        return Err(CardError::SlotFull);
    }
    let put = |piece: &[u8], at| card.write_all_at(piece, extent.start + at).map_err(CardError::Write);
    put(&[0; SECTOR_BYTES], 0)?;
    card.flush().map_err(CardError::Write)?;

    let mut payload = payload;
    let mut piece = vec![0; PIECE_BYTES];
    let (mut done, mut first) = (0, [0; SECTOR_BYTES]);
    while done < bytes {
        let length = next_piece(&mut payload, &mut piece, bytes - done)?;
        let mut skip = 0;
        if done == 0 {
            skip = length.min(SECTOR_BYTES);
            first[..skip].copy_from_slice(&piece[..skip]);
        }
        // Whole sectors: the rest of the last one is zero, as in the file system it was cut from.
        let whole = length.next_multiple_of(SECTOR_BYTES).min(piece.len());
        piece[length..whole].fill(0);
        put(&piece[skip.min(whole)..whole], done + skip as u64)?;
        done += length as u64;
        progress(done);
    }
    card.flush().map_err(CardError::Write)?;

    // What lies on the card, not what the stick gave the second time.
    let on_card = Part { card, at: extent.start + SECTOR_BYTES as u64 };
    let head = usize::try_from(bytes).unwrap_or(SECTOR_BYTES).min(SECTOR_BYTES);
    match check_payload(first[..head].chain(on_card), bytes, sha256) {
        Err(CardError::Hash) => return Err(CardError::Kept),
        other => other?,
    }
    put(&first, 0)?;
    card.flush().map_err(CardError::Write)?;
    match holds(card, extent, bytes, sha256) {
        true => Ok(()),
        false => Err(CardError::Kept),
    }
}

/// Lets `slot` be started from now on: one sector. Doing it again changes nothing.
pub fn switch_to<C: Card>(card: &C, slot: Slot) -> Result<(), CardError> {
    let layout = Layout::read(card)?;
    if layout.autoboot.default == slot {
        return Ok(());
    }
    let text = Autoboot::starting(slot, layout.autoboot_text.len())?;
    let at = layout.autoboot_at;
    let sector_at = at - at % SECTOR_BYTES as u64;
    let from = usize::try_from(at - sector_at).unwrap_or_default();
    let mut sector = [0; SECTOR_BYTES];
    card.read_exact_at(&mut sector, sector_at).map_err(CardError::Read)?;
    // A file begins with a cluster, so it lies in one sector; a FAT that says otherwise is not to be trusted.
    let place = sector.get_mut(from..from + text.len()).ok_or(AutobootError::NoRoom)?;
    if *place != layout.autoboot_text[..] {
        return Err(CardError::Fat(FatError::Damaged));
    }
    place.copy_from_slice(&text);
    card.write_all_at(&sector, sector_at).map_err(CardError::Write)?;
    card.flush().map_err(CardError::Write)?;
    match Layout::read(card)?.autoboot.default == slot {
        true => Ok(()),
        false => Err(CardError::Kept),
    }
}

/// Fills as much of `piece` as `left` allows.
fn next_piece(from: &mut impl Read, piece: &mut [u8], left: u64) -> Result<usize, CardError> {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
    match from.read_exact(&mut piece[..length]) {
        Ok(()) => Ok(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(CardError::Short),
        Err(error) => Err(CardError::Source(error)),
    }
}

/// The card from a byte on.
struct Part<'c, C> {
    card: &'c C,
    at: u64,
}

impl<C: Card> Read for Part<'_, C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.card.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
