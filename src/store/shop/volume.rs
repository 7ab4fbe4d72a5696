//! What FAT32 and exFAT have in common: a grid of clusters, a table of chains,
//! directories of 32-byte slots, and a tree of folders.
//!
//! Pure; every number of the volume is distrusted. A chain is never followed
//! for more steps than there are clusters, and a census marks each cluster, so
//! a loop of chains or of folders shows as a cluster with two owners.

use std::cell::RefCell;
use std::collections::HashMap;

use super::clusters::{Clusters, Run};
use super::media::{self, Media, Step, Write, u32_at};
use super::room::Grid;
use super::slots::Kind;
use super::{Refusal, STORE_NAME};

/// exFAT's own limit is 256 MiB, FAT's 2 MiB; a directory of this size has a
/// million entries.
const MAX_DIRECTORY_BYTES: u64 = 32 << 20;
/// Most files and folders that a census counts.
const MAX_CHILDREN: usize = 4_000_000;

/// Which clusters something has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    None,
    /// exFAT's NoFatChain.
    Run(Run),
    /// By the table, from `first`, at most `most` clusters or to its end.
    Chain {
        first: u32,
        most: Option<u32>,
    },
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Empty: something of the file system's own.
    pub name: String,
    pub is_folder: bool,
    pub allocation: Allocation,
    /// Bytes that reading the file gives; what lies behind them reads as zero.
    pub bytes: u64,
}

/// A directory as it lies on the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    pub bytes: Vec<u8>,
    pub clusters: Vec<u32>,
}

impl Directory {
    /// Where a byte of it lies in the partition.
    pub fn at(&self, grid: Grid, offset: usize) -> u64 {
        let cluster_bytes = usize::try_from(grid.cluster_bytes).unwrap_or(usize::MAX);
        let cluster = self.clusters.get(offset / cluster_bytes).copied().unwrap_or_default();
        grid.at(cluster) + (offset % cluster_bytes) as u64
    }
}

/// FAT32 or exFAT, each in its file.
pub trait Volume {
    fn media(&self) -> &dyn Media;
    fn grid(&self) -> Grid;
    fn table(&self) -> &Table<'_>;
    fn sector_bytes(&self) -> usize;
    fn root(&self) -> Allocation;
    /// What a directory's bytes name.
    fn children(&self, directory: &[u8]) -> Result<Vec<Child>, Refusal>;
    /// What the file system says is taken.
    fn used(&self) -> Result<Clusters, Refusal>;
    /// How deleted slots look.
    fn slots(&self) -> Kind;

    fn is_clean(&self) -> Result<bool, Refusal>;
    /// Says that a change is under way, as every driver does.
    fn mark_dirty(&self) -> Result<Step, Refusal>;
    /// The counts, and the mark taken back if it was not there before.
    fn finish(&self, used: &Clusters, clean: bool) -> Result<Step, Refusal>;
    /// Clusters of a folder's own that a store of so many bytes needs.
    fn folder_clusters(&self, store_bytes: u64) -> u32;
    /// Takes the store's clusters: `used` is how it will be. Anything but the
    /// entry that shows it.
    fn take(&self, store: &StoreClusters, used: &Clusters, now: u64) -> Result<Step, Refusal>;
    /// Takes one cluster for the root directory, not linked yet.
    fn take_for_root(&self, cluster: u32, used: &Clusters) -> Result<Step, Refusal>;
    /// Links it.
    fn link(&self, last: u32, new: u32) -> Result<Step, Refusal>;
    fn release(&self, clusters: &[u32], used: &Clusters) -> Result<Step, Refusal>;
    /// The slots that show the store in the root directory.
    fn entry(&self, store: &StoreClusters, root: &[u8], now: u64) -> Result<Vec<u8>, Refusal>;
}

/// The clusters of a store that is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreClusters {
    /// Of the folder just in front of the data; 0 where the store is one file.
    pub folder: u32,
    pub data: Run,
}

impl StoreClusters {
    pub fn whole(self) -> Run {
        Run { first: self.data.first - self.folder, count: self.data.count + self.folder }
    }
}

/// The table of chains, read in pieces.
pub struct Table<'m> {
    media: &'m dyn Media,
    at: u64,
    entries: u32,
    /// The bits that count: 28 in FAT32, 32 in exFAT.
    mask: u32,
    pieces: RefCell<HashMap<u64, Vec<u8>>>,
}

const PIECE_BYTES: u64 = 64 << 10;
/// 16 MiB: a chain mostly stays near where it began.
const MAX_PIECES: usize = 256;

impl<'m> Table<'m> {
    /// `entries`: with the two that stand for no cluster.
    pub fn new(media: &'m dyn Media, at: u64, entries: u32, mask: u32) -> Self {
        Self { media, at, entries, mask, pieces: RefCell::default() }
    }

    pub fn raw(&self, cluster: u32) -> Result<u32, Refusal> {
        if cluster >= self.entries {
            return Err(Refusal::Damaged("a chain of clusters leaves the table"));
        }
        let offset = u64::from(cluster) * 4;
        let (piece, inside) = (offset / PIECE_BYTES, (offset % PIECE_BYTES) as usize);
        let mut pieces = self.pieces.borrow_mut();
        if let Some(bytes) = pieces.get(&piece) {
            return Ok(u32_at(bytes, inside));
        }
        if pieces.len() >= MAX_PIECES {
            pieces.clear();
        }
        let bytes = (u64::from(self.entries) * 4 - piece * PIECE_BYTES).min(PIECE_BYTES);
        let bytes = media::read(self.media, self.at + piece * PIECE_BYTES, bytes as usize)?;
        let value = u32_at(&bytes, inside);
        pieces.insert(piece, bytes);
        Ok(value)
    }

    pub fn get(&self, cluster: u32) -> Result<u32, Refusal> {
        Ok(self.raw(cluster)? & self.mask)
    }

    /// The end of a chain: 0x0ffffff8 and up, 0xfffffff8 and up.
    pub fn is_end(&self, value: u32) -> bool {
        value >= self.mask & 0xffff_fff8
    }
}

/// Calls `visit` with each cluster in order.
pub fn each_cluster(
    volume: &dyn Volume,
    allocation: Allocation,
    visit: &mut dyn FnMut(u32) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let grid = volume.grid();
    match allocation {
        Allocation::None => Ok(()),
        Allocation::Run(run) => {
            if !grid.has_run(run) {
                return Err(Refusal::Damaged("a file lies outside of the file system"));
            }
            (run.first..run.end()).try_for_each(visit)
        }
        Allocation::Chain { first, most } => {
            let mut cluster = first;
            for _ in 0..most.unwrap_or(grid.count).min(grid.count) {
                if !grid.has(cluster) {
                    return Err(Refusal::Damaged("a file's chain of clusters breaks off"));
                }
                visit(cluster)?;
                cluster = volume.table().get(cluster)?;
                if volume.table().is_end(cluster) {
                    return Ok(());
                }
            }
            // With `most` the length is known and the rest of the chain is no matter.
            most.map(|_| ()).ok_or(Refusal::Damaged("a chain of clusters has no end"))
        }
    }
}

pub fn directory(volume: &dyn Volume, allocation: Allocation) -> Result<Directory, Refusal> {
    let grid = volume.grid();
    let most = MAX_DIRECTORY_BYTES.div_ceil(grid.cluster_bytes);
    let mut clusters = Vec::new();
    each_cluster(volume, allocation, &mut |cluster| {
        clusters.push(cluster);
        if clusters.len() as u64 > most { Err(Refusal::TooMany("entries in one folder")) } else { Ok(()) }
    })?;
    let mut bytes = Vec::new();
    for &cluster in &clusters {
        bytes.append(&mut media::read(volume.media(), grid.at(cluster), grid.cluster_bytes as usize)?);
    }
    Ok(Directory { bytes, clusters })
}

/// Every cluster that a file, a folder or the file system itself has. Refuses
/// a volume in which two own the same.
pub fn census(volume: &dyn Volume) -> Result<Clusters, Refusal> {
    let mut reached = Clusters::new(volume.grid().count);
    let mut claim = |allocation| {
        each_cluster(volume, allocation, &mut |cluster| match reached.insert(cluster) {
            true => Ok(()),
            false => Err(Refusal::CrossLinked(cluster)),
        })
    };
    claim(volume.root())?;
    let (mut pending, mut counted, mut is_root) = (vec![volume.root()], 0, true);
    while let Some(folder) = pending.pop() {
        let children = volume.children(&directory(volume, folder)?.bytes)?;
        counted += children.len();
        if counted > MAX_CHILDREN {
            return Err(Refusal::TooMany("files"));
        }
        for child in children {
            claim(child.allocation)?;
            if !is_root && child.name.eq_ignore_ascii_case(STORE_NAME) {
                return Err(Refusal::Elsewhere);
            }
            if child.is_folder && child.allocation != Allocation::None {
                pending.push(child.allocation);
            }
        }
        is_root = false;
    }
    Ok(reached)
}

/// `Write`s of at most 1 MiB for one stretch of bytes.
pub fn pieces(at: u64, bytes: &[u8]) -> impl Iterator<Item = Write> {
    const MAX: usize = 1 << 20;
    bytes.chunks(MAX).zip(0u64..).map(move |(bytes, n)| Write { at: at + n * MAX as u64, bytes: bytes.to_vec() })
}

/// FAT's packed date and time, UTC (FAT specification, "Date and Time Formats").
/// A clock that was never set is before 1980 and becomes its first day.
pub fn dos_time(unix: u64) -> u32 {
    const FIRST_DAY: u64 = 315_532_800;
    const LAST: u64 = 4_354_819_199;
    let unix = unix.clamp(FIRST_DAY, LAST);
    let (mut days, second) = (unix / 86_400, unix % 86_400);
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    // 1970 to 2107.
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let date = (year - 1980) << 9 | month << 5 | (days + 1);
    let clock = (second / 3600) << 11 | (second / 60 % 60) << 5 | (second % 60 / 2);
    let packed = date << 16 | clock;
    packed as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_packed_as_dos_did() {
        let check = |unix, (y, mo, d, h, mi, s): (u32, u32, u32, u32, u32, u32)| {
            let expected = (y - 1980) << 25 | mo << 21 | d << 16 | h << 11 | mi << 5 | (s / 2);
            assert_eq!(dos_time(unix), expected, "{unix}");
        };
        check(0, (1980, 1, 1, 0, 0, 0));
        check(951_826_332, (2000, 2, 29, 12, 12, 12));
        check(1_795_371_758, (2026, 11, 22, 18, 22, 38));
        check(u64::MAX, (2107, 12, 31, 23, 59, 58));
    }
}
