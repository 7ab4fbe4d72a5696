//! Power cuts by the hundred from one update: QEMU records what the guest wrote to its card and when it
//! flushed, and each cut is a card on which a part of that lies.
//!
//! The record is `blklogwrites`'s, in the format of the kernel's dm-log-writes (its
//! Documentation/admin-guide/device-mapper/log-writes.rst). To end QEMU would be a kinder cut: what the guest
//! wrote is then in the file, flushed or not. A card keeps for certain only what a flush has answered for; of
//! what came after it any sector may be there, in any order. A sector is written whole or not at all.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::random::Random;

pub const SECTOR: usize = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
/// Before its data: flush what came before; write through.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
/// It has no data.
const DISCARD: u64 = 4;
/// A page.
const SHORT_SECTORS: usize = 8;

/// What was written, first to last.
pub struct Record {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    sector: u64,
    data: Range<usize>,
    flush: bool,
    through: bool,
}

/// The moment of a cut: `sectors` of entry `entry` were sent, and nothing behind it. All that there are: all was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub entry: usize,
    pub sectors: usize,
}

/// For a test that tells of it.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "read by Debug alone")]
pub struct Cut {
    pub moment: Moment,
    pub kept: Kept,
}

/// What of the writes behind the last flush lies on the card.
#[derive(Debug, Clone, Copy)]
pub enum Kept {
    /// The card wrote at once, and in order.
    All,
    /// It held everything back.
    Nothing,
    /// Of each sector one or the other.
    Some(u64),
}

impl Record {
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let word = |at: usize| bytes.get(at..at + 8).map(|word| u64::from_le_bytes(word.try_into().expect("eight")));
        let wrong = |what: &str| format!("{} is no record of writes: {what}", path.display());
        if word(0) != Some(MAGIC) || bytes.get(24..28) != Some(&(SECTOR as u32).to_le_bytes()) {
            return Err(wrong("its head"));
        }
        let mut entries = Vec::new();
        let mut at = SECTOR;
        for _ in 0..word(16).unwrap_or_default() {
            let (Some(sector), Some(sectors), Some(flags)) = (word(at), word(at + 8), word(at + 16)) else {
                return Err(wrong("it is cut"));
            };
            at += SECTOR;
            let length = if flags & DISCARD == 0 { sectors as usize * SECTOR } else { 0 };
            let data = at..at + length;
            if data.end > bytes.len() {
                return Err(wrong("it is cut"));
            }
            at = data.end;
            entries.push(Entry { sector, data, flush: flags & FLUSH != 0, through: flags & FUA != 0 });
        }
        Ok(Self { bytes, entries })
    }

    /// As a program would write that decides too early.
    pub fn with_the_last_write_first(mut self) -> Self {
        let last = self.entries.iter().rposition(|entry| entry.sectors() > 0).unwrap_or_default();
        self.entries[..=last].rotate_right(1);
        self
    }

    pub fn sectors(&self) -> usize {
        self.entries.iter().map(Entry::sectors).sum()
    }

    pub fn flushes(&self) -> usize {
        self.entries.iter().filter(|entry| entry.flush).count()
    }

    /// Moments first to last, a third each: at any sector; at any write or flush, whatever its length; and at or behind
    /// one that decides, which are short. Or the one sector that keeps an update would never be hit beside the
    /// thousands before it.
    pub fn moments(&self, count: usize, random: &mut Random) -> Vec<Moment> {
        let all = self.sectors() as u64;
        let short: Vec<usize> =
            (0..=self.entries.len()).filter(|&entry| self.sectors_of(entry) <= SHORT_SECTORS).collect();
        let mut pick = |from: usize| random.below(from as u64) as usize;
        let mut moments: Vec<Moment> = (0..count)
            .map(|n| match n % 3 {
                0 => self.at(pick(all as usize)),
                1 => {
                    let entry = pick(self.entries.len() + 1);
                    Moment { entry, sectors: pick(self.sectors_of(entry) + 1) }
                }
                _ => {
                    let entry = short[pick(short.len())];
                    Moment { entry, sectors: pick(self.sectors_of(entry) + 1) }
                }
            })
            .collect();
        moments.sort_unstable();
        moments
    }

    /// The moment after so many sectors of all.
    fn at(&self, mut sectors: usize) -> Moment {
        let mut entry = 0;
        while sectors >= self.sectors_of(entry) && entry < self.entries.len() {
            sectors -= self.sectors_of(entry);
            entry += 1;
        }
        Moment { entry, sectors }
    }

    /// None behind the last.
    fn sectors_of(&self, entry: usize) -> usize {
        self.entries.get(entry).map_or(0, Entry::sectors)
    }

    /// Makes `disk`, which is as it was when the record began, what a cut leaves, for one moment after another; `look`
    /// sees it, with its number.
    pub fn cut(
        &self,
        disk: &File,
        moments: &[Moment],
        random: &mut Random,
        mut look: impl FnMut(usize, Cut) -> Result<(), String>,
    ) -> Result<(), String> {
        let failed = |error: io::Error| format!("the card: {error}");
        let (mut done, mut held) = (0, Vec::new());
        for (n, &moment) in moments.iter().enumerate() {
            for (number, entry) in self.entries.iter().enumerate().take(moment.entry).skip(done) {
                if entry.flush {
                    for earlier in held.drain(..) {
                        self.put(disk, earlier).map_err(failed)?;
                    }
                }
                match entry.through {
                    true => self.put(disk, number).map_err(failed)?,
                    false => held.push(number),
                }
            }
            done = done.max(moment.entry);
            let kept = match random.below(4) {
                0 => Kept::All,
                1 => Kept::Nothing,
                _ => Kept::Some(random.next()),
            };
            let before = self.apply(disk, &held, moment, kept).map_err(failed)?;
            look(n, Cut { moment, kept })?;
            for (at, bytes) in before.iter().rev() {
                disk.write_all_at(bytes, *at).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn put(&self, disk: &File, entry: usize) -> io::Result<()> {
        let entry = &self.entries[entry];
        disk.write_all_at(&self.bytes[entry.data.clone()], entry.sector * SECTOR as u64)
    }

    /// Returns what lay there.
    fn apply(&self, disk: &File, held: &[usize], moment: Moment, kept: Kept) -> io::Result<Vec<(u64, Vec<u8>)>> {
        // A flush that was not answered has done as much as it liked.
        let torn = self.entries.get(moment.entry).map(|torn| (torn, moment.sectors));
        let writes = held.iter().map(|&number| (&self.entries[number], usize::MAX)).chain(torn);
        let mut coin = if let Kept::Some(seed) = kept { Random(seed) } else { Random(0) };
        let mut before = Vec::new();
        for (entry, sectors) in writes {
            let at = entry.sector * SECTOR as u64;
            let mut bytes = vec![0; entry.data.len()];
            disk.read_exact_at(&mut bytes, at)?;
            before.push((at, bytes.clone()));
            for sector in 0..entry.sectors().min(sectors) {
                let lies = match kept {
                    Kept::All => true,
                    Kept::Nothing => false,
                    Kept::Some(_) => coin.below(2) == 0,
                };
                if lies {
                    let range = sector * SECTOR..(sector + 1) * SECTOR;
                    bytes[range.clone()].copy_from_slice(&self.bytes[entry.data.clone()][range]);
                }
            }
            disk.write_all_at(&bytes, at)?;
        }
        Ok(before)
    }
}

impl Entry {
    fn sectors(&self) -> usize {
        self.data.len() / SECTOR
    }
}
