//! FAT32: its boot sector, tables and directories, and the bytes that put a
//! folder with contiguous files into it.
//!
//! Pure. Microsoft's "FAT: General Overview of On-Disk Format" 1.03, whose
//! field names are used. A file has at most 4 GiB - 1, so the store is a folder
//! `rootstock.store` of parts, one behind the other; one slot of the root
//! directory makes them all visible at once. FAT12 and FAT16 are not written.

use std::collections::HashSet;

use super::clusters::{Clusters, FIRST, Run};
use super::intent::SLOT;
use super::media::{self, Media, Step, Write, u16_at, u32_at};
use super::room::Grid;
use super::slots::{self, Kind};
use super::volume::{Allocation, Child, StoreClusters, Table, Volume, dos_time, pieces};
use super::{Refusal, STORE_NAME, part_name};

/// A plan holds both tables: 128 MiB. Windows makes 4 million for a 128 GB stick.
const MAX_CLUSTERS: u32 = 1 << 24;
const MASK: u32 = 0x0fff_ffff;
const END: u32 = 0x0fff_ffff;
/// FAT[1]: the volume was put away in order.
const CLEAN: u32 = 0x0800_0000;
/// The same for Windows NT and Linux: bit 0 of this byte of the boot sector is "dirty".
const DIRTY_AT: u64 = 65;
const FSINFO_FREE: u64 = 488;
const MAX_FILE_BYTES: u64 = u32::MAX as u64;
pub const MAX_PARTS: u32 = 999;

// DIR_Attr.
const VOLUME_ID: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
const LONG_NAME: u8 = 0x0f;
/// DIR_NTRes: base name and extension are shown in small letters.
const SMALL: u8 = 0x18;
/// Where a long name's 13 characters lie in its slot.
const LONG_PLACES: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

pub struct Fat32<'m> {
    media: &'m dyn Media,
    /// The table that counts.
    table: Table<'m>,
    /// Where tables lie that are to be written.
    tables: Vec<u64>,
    grid: Grid,
    sector_bytes: usize,
    root: u32,
    /// Offset of a valid FSInfo sector.
    fs_info: Option<u64>,
    dirty_byte: u8,
}

impl<'m> Fat32<'m> {
    pub fn open(media: &'m dyn Media) -> Result<Self, Refusal> {
        let wrong = Err(Refusal::Damaged("its boot sector is not right"));
        let boot = media::read(media, 0, 512)?;
        let sector_bytes = u64::from(u16_at(&boot, 11));
        let cluster_sectors = u64::from(boot[13]);
        let (reserved, tables) = (u64::from(u16_at(&boot, 14)), u64::from(boot[16]));
        if u16_at(&boot, 22) != 0 || u16_at(&boot, 17) != 0 {
            return Err(Refusal::Unsupported("FAT16, not FAT32"));
        }
        let (table_sectors, sectors) = (u64::from(u32_at(&boot, 36)), u64::from(u32_at(&boot, 32)));
        let sane = [512, 1024, 2048, 4096].contains(&sector_bytes)
            && cluster_sectors.is_power_of_two()
            && cluster_sectors * sector_bytes <= 64 << 10
            && reserved > 0
            && (1..=2).contains(&tables)
            && boot[510..512] == [0x55, 0xaa]
            && sectors.saturating_mul(sector_bytes) <= media.bytes();
        let heap_sector = reserved + tables * table_sectors;
        if !sane || u16_at(&boot, 42) != 0 || heap_sector >= sectors {
            return wrong;
        }
        let count = (sectors - heap_sector) / cluster_sectors;
        if count == 0 || table_sectors * sector_bytes / 4 < count + u64::from(FIRST) {
            return wrong;
        }
        let count =
            u32::try_from(count).ok().filter(|&count| count <= MAX_CLUSTERS).ok_or(Refusal::TooMany("clusters"))?;
        let table_at = |index: u64| (reserved + index * table_sectors) * sector_bytes;
        // BPB_ExtFlags: bit 7 says that only the one of the low bits counts.
        let flags = u16_at(&boot, 40);
        let (active, written) = match flags & 0x80 {
            0 => (0, (0..tables).map(table_at).collect()),
            _ if u64::from(flags & 15) < tables => (u64::from(flags & 15), vec![table_at(u64::from(flags & 15))]),
            _ => return wrong,
        };
        let mut volume = Self {
            media,
            table: Table::new(media, table_at(active), count + FIRST, MASK),
            tables: written,
            grid: Grid { heap_at: heap_sector * sector_bytes, cluster_bytes: cluster_sectors * sector_bytes, count },
            sector_bytes: sector_bytes as usize,
            root: u32_at(&boot, 44) & MASK,
            fs_info: None,
            dirty_byte: boot[DIRTY_AT as usize],
        };
        let sector = u64::from(u16_at(&boot, 48));
        if (1..reserved).contains(&sector) {
            let info = media::read(media, sector * sector_bytes, 512)?;
            let signed = u32_at(&info, 0) == 0x4161_5252 && u32_at(&info, 484) == 0x6141_7272;
            volume.fs_info = signed.then_some(sector * sector_bytes);
        }
        Ok(volume)
    }

    /// Writes the entries of a run to every table; the four bits that are not
    /// ours stay.
    fn table_writes(&self, run: Run, value: impl Fn(u32) -> u32) -> Result<Step, Refusal> {
        let mut bytes = Vec::with_capacity(run.count as usize * 4);
        for cluster in run.first..run.end() {
            let entry = self.table.raw(cluster)? & !MASK | value(cluster) & MASK;
            bytes.extend_from_slice(&entry.to_le_bytes());
        }
        let at = |table: &u64| table + u64::from(run.first) * 4;
        Ok(self.tables.iter().flat_map(|table| pieces(at(table), &bytes)).collect())
    }

    /// Clusters of one part: 4 GiB less one cluster.
    fn part_clusters(&self) -> u32 {
        (MAX_FILE_BYTES / self.grid.cluster_bytes) as u32
    }

    /// First cluster and bytes of each part.
    fn parts(&self, data: Run) -> impl Iterator<Item = Run> {
        let most = self.part_clusters();
        (0..data.count.div_ceil(most)).map(move |index| {
            let first = data.first + index * most;
            Run { first, count: most.min(data.end() - first) }
        })
    }

    fn clean_mark(&self, clean: bool) -> Result<Step, Refusal> {
        let entry = self.table.raw(1)?;
        let (entry, byte) = match clean {
            true => (entry | CLEAN, self.dirty_byte & !1),
            false => (entry & !CLEAN, self.dirty_byte | 1),
        };
        let mut step: Step =
            self.tables.iter().map(|table| Write { at: table + 4, bytes: entry.to_le_bytes().to_vec() }).collect();
        step.push(Write { at: DIRTY_AT, bytes: vec![byte] });
        Ok(step)
    }

    /// The folder's own clusters with a slot for each part.
    fn folder(&self, store: &StoreClusters, now: u64) -> Vec<u8> {
        let first = store.data.first - store.folder;
        let mut bytes = Vec::new();
        bytes.extend(short(b".          ", DIRECTORY, 0, first, 0, now));
        // The root directory is 0 here, whatever its cluster.
        bytes.extend(short(b"..         ", DIRECTORY, 0, 0, 0, now));
        for (run, number) in self.parts(store.data).zip(1u32..) {
            let mut name = *b"PART-000BIN";
            name[5..8].copy_from_slice(format!("{:03}", number.min(MAX_PARTS)).as_bytes());
            debug_assert_eq!(part_name(number), format!("part-{number:03}.bin"));
            bytes.extend(short(&name, ARCHIVE, SMALL, run.first, self.grid.bytes(run.count) as u32, now));
        }
        bytes.resize(self.grid.bytes(store.folder) as usize, 0);
        bytes
    }
}

/// A slot with an 8.3 name.
fn short(name: &[u8; 11], attributes: u8, reserved: u8, first: u32, bytes: u32, now: u64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..11].copy_from_slice(name);
    slot[11] = attributes;
    slot[12] = reserved;
    let time = dos_time(now);
    let (date, clock) = ((time >> 16) as u16, time as u16);
    slot[14..16].copy_from_slice(&clock.to_le_bytes());
    slot[16..18].copy_from_slice(&date.to_le_bytes());
    slot[18..20].copy_from_slice(&date.to_le_bytes());
    slot[20..22].copy_from_slice(&((first >> 16) as u16).to_le_bytes());
    slot[22..24].copy_from_slice(&clock.to_le_bytes());
    slot[24..26].copy_from_slice(&date.to_le_bytes());
    slot[26..28].copy_from_slice(&(first as u16).to_le_bytes());
    slot[28..].copy_from_slice(&bytes.to_le_bytes());
    slot
}

fn short_checksum(name: &[u8]) -> u8 {
    name.iter().take(11).fold(0u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte))
}

/// A long name in front of its short one; not longer than 26 characters here.
fn long(name: &str, short: &[u8; 11]) -> Vec<u8> {
    let mut units: Vec<u16> = name.encode_utf16().collect();
    let count = units.len().div_ceil(13);
    if !units.len().is_multiple_of(13) {
        units.push(0);
    }
    units.resize(count * 13, 0xffff);
    let mut bytes = Vec::new();
    for (index, part) in units.chunks(13).enumerate().rev() {
        let mut slot = [0; SLOT];
        let last = if index + 1 == count { 0x40 } else { 0 };
        slot[0] = (index as u8 + 1) | last;
        slot[11] = LONG_NAME;
        slot[13] = short_checksum(short);
        for (&place, unit) in LONG_PLACES.iter().zip(part) {
            slot[place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        bytes.extend_from_slice(&slot);
    }
    bytes
}

/// Gathers the slots of a long name.
#[derive(Default)]
struct LongName {
    units: Vec<u16>,
    expected: u8,
    checksum: u8,
}

impl LongName {
    fn add(&mut self, slot: &[u8]) {
        let order = slot[0] & 0x3f;
        if slot[0] & 0x40 != 0 {
            *self = Self { units: Vec::new(), expected: order, checksum: slot[13] };
        }
        if order == 0 || order > 20 || order != self.expected || slot[13] != self.checksum {
            return *self = Self::default();
        }
        let units: Vec<u16> = LONG_PLACES.iter().map(|&at| u16_at(slot, at)).collect();
        self.units.splice(0..0, units);
        self.expected -= 1;
    }

    /// The name, if it belongs to this short one.
    fn take(&mut self, short: &[u8]) -> Option<String> {
        let own = std::mem::take(self);
        let valid = !own.units.is_empty() && own.expected == 0 && own.checksum == short_checksum(short);
        let units: Vec<u16> = own.units.into_iter().take_while(|&unit| unit != 0).collect();
        valid.then(|| String::from_utf16_lossy(&units))
    }
}

impl Volume for Fat32<'_> {
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
        Kind::Fat
    }

    fn children(&self, directory: &[u8]) -> Result<Vec<Child>, Refusal> {
        let mut children = Vec::new();
        let mut long = LongName::default();
        for slot in directory[..slots::end(directory)].chunks_exact(SLOT) {
            match slot[11] {
                _ if slot[0] == 0xe5 => long = LongName::default(),
                attributes if attributes & 0x3f == LONG_NAME => long.add(slot),
                attributes if attributes & VOLUME_ID != 0 => long = LongName::default(),
                // The folder itself and its parent.
                _ if slot[..11] == *b".          " || slot[..11] == *b"..         " => {}
                attributes => {
                    let first = u32::from(u16_at(slot, 20)) << 16 | u32::from(u16_at(slot, 26));
                    let allocation = match first & MASK {
                        0 => Allocation::None,
                        first => Allocation::Chain { first, most: None },
                    };
                    children.push(Child {
                        name: long.take(slot).unwrap_or_else(|| short_name(slot)),
                        is_folder: attributes & DIRECTORY != 0,
                        allocation,
                        bytes: u64::from(u32_at(slot, 28)),
                    });
                }
            }
        }
        Ok(children)
    }

    fn used(&self) -> Result<Clusters, Refusal> {
        let mut used = Clusters::new(self.grid.count);
        for cluster in FIRST..FIRST + self.grid.count {
            if self.table.get(cluster)? != 0 {
                used.insert(cluster);
            }
        }
        Ok(used)
    }

    fn is_clean(&self) -> Result<bool, Refusal> {
        Ok(self.table.raw(1)? & CLEAN != 0 && self.dirty_byte & 1 == 0)
    }

    fn mark_dirty(&self) -> Result<Step, Refusal> {
        self.clean_mark(false)
    }

    fn finish(&self, used: &Clusters, clean: bool) -> Result<Step, Refusal> {
        let mut step = if clean { self.clean_mark(true)? } else { Step::new() };
        if let Some(sector) = self.fs_info {
            step.push(Write { at: sector + FSINFO_FREE, bytes: used.free().to_le_bytes().to_vec() });
        }
        Ok(step)
    }

    fn folder_clusters(&self, store_bytes: u64) -> u32 {
        let parts = store_bytes.div_ceil(self.grid.bytes(self.part_clusters()));
        // Two for itself and its parent.
        (parts.saturating_add(2).saturating_mul(SLOT as u64)).div_ceil(self.grid.cluster_bytes) as u32
    }

    fn take(&self, store: &StoreClusters, _used: &Clusters, now: u64) -> Result<Step, Refusal> {
        if store.data.count.div_ceil(self.part_clusters()) > MAX_PARTS {
            return Err(Refusal::TooMany("parts of the store"));
        }
        let mut ends: HashSet<u32> = self.parts(store.data).map(|run| run.end() - 1).collect();
        ends.insert(store.data.first - 1);
        let mut step =
            self.table_writes(store.whole(), |cluster| if ends.contains(&cluster) { END } else { cluster + 1 })?;
        let folder = self.folder(store, now);
        step.extend(pieces(self.grid.at(store.data.first - store.folder), &folder));
        Ok(step)
    }

    fn take_for_root(&self, cluster: u32, _used: &Clusters) -> Result<Step, Refusal> {
        let mut step = self.table_writes(Run { first: cluster, count: 1 }, |_| END)?;
        step.extend(pieces(self.grid.at(cluster), &vec![0; self.grid.cluster_bytes as usize]));
        Ok(step)
    }

    fn link(&self, last: u32, new: u32) -> Result<Step, Refusal> {
        self.table_writes(Run { first: last, count: 1 }, |_| new)
    }

    fn release(&self, clusters: &[u32], used: &Clusters) -> Result<Step, Refusal> {
        let mut step = Step::new();
        let _ = used;
        for run in runs(clusters) {
            step.append(&mut self.table_writes(run, |_| 0)?);
        }
        Ok(step)
    }

    fn entry(&self, store: &StoreClusters, root: &[u8], now: u64) -> Result<Vec<u8>, Refusal> {
        let taken: HashSet<&[u8]> = root[..slots::end(root)].chunks_exact(SLOT).map(|slot| &slot[..11]).collect();
        // Basis name and numeric tail, as Windows makes them.
        let name = (1..1000u32).map(|number| {
            let mut name = *b"ROOTSTOCSTO";
            let tail = format!("~{number}");
            name[8 - tail.len()..8].copy_from_slice(tail.as_bytes());
            name
        });
        let name = name.into_iter().find(|name| !taken.contains(&name[..]));
        let name = name.ok_or(Refusal::TooMany("files named like the store"))?;
        let mut set = long(STORE_NAME, &name);
        set.extend(short(&name, DIRECTORY, 0, store.data.first - store.folder, 0, now));
        Ok(set)
    }
}

/// Ascending clusters as runs.
fn runs(clusters: &[u32]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &cluster in clusters {
        match runs.last_mut() {
            Some(run) if run.end() == cluster => run.count += 1,
            _ => runs.push(Run { first: cluster, count: 1 }),
        }
    }
    runs
}

fn short_name(slot: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches(' ').to_owned();
    let (base, extension) = (text(&slot[..8]), text(&slot[8..11]));
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}
