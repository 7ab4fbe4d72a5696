//! exFAT: its boot sector, bitmap and directories, and the bytes that put one
//! contiguous file into it.
//!
//! Pure. Microsoft's "exFAT file system specification", whose field names and
//! section numbers are used. TexFAT (two FATs) is not written.

use super::clusters::{Clusters, FIRST, Run};
use super::intent::SLOT;
use super::media::{self, Media, Step, Write, u16_at, u32_at, u64_at};
use super::room::Grid;
use super::slots::Kind;
use super::volume::{Allocation, Child, Directory, StoreClusters, Table, Volume, directory, dos_time, pieces};
use super::{Refusal, STORE_NAME};

/// 32 MiB of bitmap; a 2 TB stick has 16 million clusters at the most.
const MAX_CLUSTERS: u32 = 1 << 28;
// §3.1: fields of the main boot sector.
const VOLUME_FLAGS: u64 = 106;
const PERCENT_IN_USE: u64 = 112;
const VOLUME_DIRTY: u16 = 2;
const MEDIA_FAILURE: u16 = 4;
// §6.2.1: types of directory entries, with the InUse bit.
const BITMAP: u8 = 0x81;
const UPCASE: u8 = 0x82;
const LABEL: u8 = 0x83;
const FILE: u8 = 0x85;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;
/// §6.3.4.2: GeneralSecondaryFlags.
const ALLOCATION_POSSIBLE: u8 = 1;
const NO_FAT_CHAIN: u8 = 2;
/// §7.4.4: FileAttributes.
const DIRECTORY: u16 = 0x10;
const ARCHIVE: u16 = 0x20;

pub struct ExFat<'m> {
    media: &'m dyn Media,
    table: Table<'m>,
    table_at: u64,
    grid: Grid,
    sector_bytes: usize,
    root: u32,
    volume_flags: u16,
    percent_in_use: u8,
    bitmap: Directory,
}

impl<'m> ExFat<'m> {
    pub fn open(media: &'m dyn Media) -> Result<Self, Refusal> {
        let wrong = Err(Refusal::Damaged("its boot sector is not right"));
        let boot = media::read(media, 0, 512)?;
        let (sector_shift, cluster_shift) = (u32::from(boot[108]), u32::from(boot[109]));
        let signed =
            boot[3..11] == *b"EXFAT   " && boot[510..512] == [0x55, 0xaa] && boot[11..64].iter().all(|&b| b == 0);
        if !signed || !(9..=12).contains(&sector_shift) || cluster_shift > 25 - sector_shift {
            return wrong;
        }
        if boot[105] != 1 || boot[110] != 1 {
            return Err(Refusal::Unsupported("a kind of exFAT"));
        }
        check_boot_region(media, 1 << sector_shift)?;
        let (fat_sector, fat_sectors) = (u64::from(u32_at(&boot, 80)), u64::from(u32_at(&boot, 84)));
        let (heap_sector, count) = (u64::from(u32_at(&boot, 88)), u32_at(&boot, 92));
        let sectors = u64_at(&boot, 72);
        let heap_sectors = u64::from(count) << cluster_shift;
        let fits = sectors <= media.bytes() >> sector_shift
            && heap_sector.saturating_add(heap_sectors) <= sectors
            && fat_sector >= 24
            && fat_sector + fat_sectors <= heap_sector
            && (fat_sectors << sector_shift) / 4 >= u64::from(count) + u64::from(FIRST);
        if !fits {
            return wrong;
        }
        if count > MAX_CLUSTERS {
            return Err(Refusal::TooMany("clusters"));
        }
        let grid =
            Grid { heap_at: heap_sector << sector_shift, cluster_bytes: 1 << (sector_shift + cluster_shift), count };
        let table_at = fat_sector << sector_shift;
        let mut volume = Self {
            media,
            table: Table::new(media, table_at, count + FIRST, u32::MAX),
            table_at,
            grid,
            sector_bytes: 1 << sector_shift,
            root: u32_at(&boot, 96),
            volume_flags: u16_at(&boot, 106),
            percent_in_use: boot[112],
            bitmap: Directory { bytes: Vec::new(), clusters: Vec::new() },
        };
        if volume.volume_flags & MEDIA_FAILURE != 0 {
            return Err(Refusal::Damaged("it is marked as failing"));
        }
        volume.bitmap = volume.read_bitmap()?;
        Ok(volume)
    }

    fn read_bitmap(&self) -> Result<Directory, Refusal> {
        let root = directory(self, self.root())?;
        let wrong = Refusal::Damaged("its allocation bitmap is not where it must be");
        let entry = root
            .bytes
            .chunks_exact(SLOT)
            .take_while(|slot| slot[0] != 0)
            .find(|slot| slot[0] == BITMAP && slot[1] & 1 == 0);
        let entry = entry.ok_or(wrong.clone())?;
        let bytes = u64::from(self.grid.count.div_ceil(8));
        if u64_at(entry, 24) < bytes || bytes == 0 {
            return Err(wrong);
        }
        let most = u32::try_from(bytes.div_ceil(self.grid.cluster_bytes)).unwrap_or(u32::MAX);
        let bitmap = directory(self, Allocation::Chain { first: u32_at(entry, 20), most: Some(most) })?;
        if (bitmap.bytes.len() as u64) < bytes { Err(wrong) } else { Ok(bitmap) }
    }

    /// The bitmap's bytes for these clusters, as `used` has them.
    fn bitmap_writes(&self, first: u32, last: u32, used: &Clusters) -> Step {
        let (from, to) = ((first - FIRST) as usize / 8, (last - FIRST) as usize / 8);
        let byte = |index: usize| {
            (0..8).fold(0u8, |byte, bit| byte | u8::from(used.contains(index as u32 * 8 + bit + FIRST)) << bit)
        };
        let cluster_bytes = self.grid.cluster_bytes as usize;
        let mut writes = Vec::new();
        let mut at = from;
        while at <= to {
            let end = (to + 1).min((at / cluster_bytes + 1) * cluster_bytes);
            let bytes: Vec<u8> = (at..end).map(byte).collect();
            writes.extend(pieces(self.bitmap.at(self.grid, at), &bytes));
            at = end;
        }
        writes
    }

    fn flags(&self, flags: u16) -> Write {
        Write { at: VOLUME_FLAGS, bytes: flags.to_le_bytes().to_vec() }
    }

    /// A general template's own allocation (§6.2, §6.3): first cluster and length at fixed places.
    fn allocation(&self, entry: &[u8], no_fat_chain: bool) -> Result<Allocation, Refusal> {
        let (first, bytes) = (u32_at(entry, 20), u64_at(entry, 24));
        if first == 0 && bytes == 0 {
            return Ok(Allocation::None);
        }
        let count = u32::try_from(bytes.div_ceil(self.grid.cluster_bytes)).unwrap_or(u32::MAX);
        if count == 0 || count > self.grid.count || !self.grid.has(first) {
            return Err(Refusal::Damaged("a file lies outside of the file system"));
        }
        Ok(match no_fat_chain {
            true => Allocation::Run(Run { first, count }),
            false => Allocation::Chain { first, most: Some(count) },
        })
    }
}

/// §3.4: the checksum of the first eleven sectors fills the twelfth.
fn check_boot_region(media: &dyn Media, sector_bytes: usize) -> Result<(), Refusal> {
    let region = media::read(media, 0, 12 * sector_bytes)?;
    let mut sum = 0u32;
    for (index, &byte) in region[..11 * sector_bytes].iter().enumerate() {
        if ![106, 107, 112].contains(&index) {
            sum = sum.rotate_right(1).wrapping_add(u32::from(byte));
        }
    }
    let same = region[11 * sector_bytes..].chunks_exact(4).all(|word| word == sum.to_le_bytes());
    if same { Ok(()) } else { Err(Refusal::Damaged("its boot sectors have the wrong checksum")) }
}

impl Volume for ExFat<'_> {
    fn media(&self) -> &dyn Media {
        self.media
    }

    fn grid(&self) -> Grid {
        self.grid
    }

    fn table(&self) -> &Table<'_> {
        &self.table
    }

    fn sector_bytes(&self) -> usize {
        self.sector_bytes
    }

    fn root(&self) -> Allocation {
        Allocation::Chain { first: self.root, most: None }
    }

    fn slots(&self) -> Kind {
        Kind::ExFat
    }

    fn children(&self, directory: &[u8]) -> Result<Vec<Child>, Refusal> {
        let mut children = Vec::new();
        let slots: Vec<&[u8]> = directory.chunks_exact(SLOT).take_while(|slot| slot[0] != 0).collect();
        let own = |allocation| Child { name: String::new(), is_folder: false, allocation, bytes: 0 };
        let mut index = 0;
        while let Some(&slot) = slots.get(index) {
            index += 1;
            match slot[0] {
                0..=0x7f | LABEL => {}
                BITMAP | UPCASE => children.push(own(self.allocation(slot, false)?)),
                FILE => {
                    let count = usize::from(slot[1]);
                    let secondary = slots.get(index..index + count);
                    let secondary = secondary.ok_or(Refusal::Damaged("a directory entry is cut"))?;
                    children.push(self.file(slot, secondary)?);
                    // §8.2: vendors may keep clusters of their own.
                    for extra in secondary.iter().skip(1).filter(|extra| extra[0] & 0xe0 == 0xe0) {
                        if extra[1] & ALLOCATION_POSSIBLE != 0 {
                            children.push(own(self.allocation(extra, extra[1] & NO_FAT_CHAIN != 0)?));
                        }
                    }
                    index += count;
                }
                // §6.2.1: benign primary; what is not known may stay, with its clusters.
                0xa0..=0xbf => {
                    let flags = u16_at(slot, 4);
                    if slot[0] != 0xa0 && flags & 1 != 0 {
                        children.push(own(self.allocation(slot, flags & 2 != 0)?));
                    }
                }
                0x80..=0x9f => return Err(Refusal::Unsupported("an entry of a newer exFAT")),
                0xc0..=0xff => return Err(Refusal::Damaged("a directory entry has no beginning")),
            }
        }
        Ok(children)
    }

    fn used(&self) -> Result<Clusters, Refusal> {
        let mut used = Clusters::new(self.grid.count);
        for index in 0..self.grid.count {
            if self.bitmap.bytes[index as usize / 8] >> (index % 8) & 1 != 0 {
                used.insert(index + FIRST);
            }
        }
        Ok(used)
    }

    fn is_clean(&self) -> Result<bool, Refusal> {
        Ok(self.volume_flags & VOLUME_DIRTY == 0)
    }

    fn mark_dirty(&self) -> Result<Step, Refusal> {
        Ok(vec![self.flags(self.volume_flags | VOLUME_DIRTY)])
    }

    fn finish(&self, used: &Clusters, clean: bool) -> Result<Step, Refusal> {
        let mut step = Vec::new();
        if clean {
            step.push(self.flags(self.volume_flags & !VOLUME_DIRTY));
        }
        // §3.1.15: 0xff says that it is not counted.
        if self.percent_in_use <= 100 {
            let percent = u64::from(used.used()) * 100 / u64::from(self.grid.count.max(1));
            step.push(Write { at: PERCENT_IN_USE, bytes: vec![percent as u8] });
        }
        Ok(step)
    }

    fn folder_clusters(&self, _store_bytes: u64) -> u32 {
        0
    }

    fn take(&self, store: &StoreClusters, used: &Clusters, _now: u64) -> Result<Step, Refusal> {
        Ok(self.bitmap_writes(store.data.first, store.data.end() - 1, used))
    }

    fn take_for_root(&self, cluster: u32, used: &Clusters) -> Result<Step, Refusal> {
        let mut step = self.bitmap_writes(cluster, cluster, used);
        step.push(Write { at: self.table_at + u64::from(cluster) * 4, bytes: vec![0xff; 4] });
        step.extend(pieces(self.grid.at(cluster), &vec![0; self.grid.cluster_bytes as usize]));
        Ok(step)
    }

    fn link(&self, last: u32, new: u32) -> Result<Step, Refusal> {
        Ok(vec![Write { at: self.table_at + u64::from(last) * 4, bytes: new.to_le_bytes().to_vec() }])
    }

    fn release(&self, clusters: &[u32], used: &Clusters) -> Result<Step, Refusal> {
        let bounds = clusters.first().zip(clusters.last());
        Ok(bounds.map(|(&first, &last)| self.bitmap_writes(first, last, used)).unwrap_or_default())
    }

    /// File, Stream Extension and one File Name entry: the name has 15 characters.
    fn entry(&self, store: &StoreClusters, _root: &[u8], now: u64) -> Result<Vec<u8>, Refusal> {
        let bytes = self.grid.bytes(store.data.count);
        let time = dos_time(now).to_le_bytes();
        let mut set = vec![0; 3 * SLOT];
        set[0] = FILE;
        set[1] = 2;
        set[4..6].copy_from_slice(&ARCHIVE.to_le_bytes());
        for at in [8, 12, 16] {
            set[at..at + 4].copy_from_slice(&time);
        }
        // §7.4.10: valid, and UTC.
        set[22..25].fill(0x80);
        set[32] = STREAM;
        set[33] = ALLOCATION_POSSIBLE | NO_FAT_CHAIN;
        set[35] = STORE_NAME.len() as u8;
        set[36..38].copy_from_slice(&name_hash(STORE_NAME).to_le_bytes());
        set[40..48].copy_from_slice(&bytes.to_le_bytes());
        set[52..56].copy_from_slice(&store.data.first.to_le_bytes());
        set[56..64].copy_from_slice(&bytes.to_le_bytes());
        set[64] = NAME;
        for (place, unit) in set[66..].chunks_exact_mut(2).zip(STORE_NAME.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
        let sum = set_checksum(&set);
        set[2..4].copy_from_slice(&sum.to_le_bytes());
        Ok(set)
    }
}

impl ExFat<'_> {
    fn file(&self, file: &[u8], secondary: &[&[u8]]) -> Result<Child, Refusal> {
        let stream = secondary.first().filter(|slot| slot[0] == STREAM);
        let stream = stream.ok_or(Refusal::Damaged("a directory entry is cut"))?;
        let names = secondary[1..].iter().take_while(|slot| slot[0] == NAME);
        let units: Vec<u16> = names
            .flat_map(|slot| (2..SLOT).step_by(2).map(|at| u16_at(slot, at)))
            .take(usize::from(stream[3]))
            .collect();
        Ok(Child {
            name: String::from_utf16_lossy(&units),
            is_folder: u16_at(file, 4) & DIRECTORY != 0,
            allocation: self.allocation(stream, stream[1] & NO_FAT_CHAIN != 0)?,
            bytes: u64_at(stream, 8).min(u64_at(stream, 24)),
        })
    }
}

/// §6.3.3: over the whole set but its own field.
fn set_checksum(set: &[u8]) -> u16 {
    set.iter()
        .enumerate()
        .filter(|(index, _)| ![2, 3].contains(index))
        .fold(0u16, |sum, (_, &byte)| sum.rotate_right(1).wrapping_add(u16::from(byte)))
}

/// §7.6.4, over the up-cased name. Every up-case table maps ASCII alike (§7.2.5).
fn name_hash(name: &str) -> u16 {
    let units = name.encode_utf16().map(|unit| match unit {
        0x61..=0x7a => unit - 0x20,
        unit => unit,
    });
    units.flat_map(u16::to_le_bytes).fold(0u16, |hash, byte| hash.rotate_right(1).wrapping_add(u16::from(byte)))
}
