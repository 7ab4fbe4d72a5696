//! Partition tables: reading MBR and GPT, checking them against the disk,
//! finding room, and planning the bytes that add one partition.
//!
//! Pure: sectors in, writes out. Only primary MBR entries are read; an
//! extended partition is one used range, so no chain of EBRs is followed and
//! none can loop. What the kernel found by following it is checked like the rest. Ours and not a crate's: adding one entry must change its own
//! 16 (MBR) or 128 (GPT) bytes and the checksums, nothing else. `gpt` 4.1
//! packs the entries when it writes, which renumbers the person's partitions,
//! and asserts on a hostile entry size; `mbrman` 0.6 follows EBRs without a
//! bound and rewrites them (both read in their sources, 2026-11).

use super::crc32::crc32;

/// Partitions start on a multiple of this, in bytes.
pub const ALIGNMENT_BYTES: u64 = 1 << 20;
/// Most GPT entries we accept, in one array.
const MAX_ENTRIES: u32 = 256;
/// `0FC63DAF-8483-4772-8E79-3D69D8477DE4`, Linux data, as it lies on disk.
const LINUX_DATA_GUID: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// A run of sectors, `start` and `sectors` in logical blocks of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub sectors: u64,
}

impl Extent {
    fn end(self) -> u64 {
        self.start.saturating_add(self.sectors)
    }
}

/// A partition that the table names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The number the kernel gives it, from 1.
    pub number: u32,
    pub extent: Extent,
    /// MBR type byte; 0 in a GPT.
    pub kind: u8,
}

/// The disk as its table describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Table {
    /// No table: sector 0 has no 55 AA.
    None,
    Mbr {
        entries: Vec<Entry>,
    },
    Gpt(Gpt),
}

/// A valid GPT with what is needed to add an entry (UEFI 2.10 §5.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    pub entries: Vec<Entry>,
    first_usable: u64,
    last_usable: u64,
    header: Vec<u8>,
    array: Vec<u8>,
}

/// Why a table is not trusted. Each is one message for the person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("partition {0} reaches past the end")]
    PastTheEnd(u32),
    #[error("partitions {0} and {1} overlap")]
    Overlap(u32, u32),
    #[error("the GPT is damaged: {0}")]
    Gpt(&'static str),
    #[error("it has {0} partitions")]
    TooMany(usize),
}

/// Why no partition can be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error("the table has no free entry")]
    Full,
    #[error("no unpartitioned space of {wanted_bytes} bytes (largest gap {largest_bytes})")]
    TooSmall { wanted_bytes: u64, largest_bytes: u64 },
}

/// One write at a byte offset, to be done in order, with a flush in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub at: u64,
    pub bytes: Vec<u8>,
}

/// A disk's size and sectors, as the kernel tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub sectors: u64,
    /// Logical block size: 512 or 4096.
    pub sector_bytes: u64,
}

impl Geometry {
    /// Bytes from the start of the disk that `read` needs: the MBR, the
    /// primary GPT header and its array.
    pub fn head_bytes(self) -> usize {
        let bytes = 2 * self.sector_bytes + u64::from(MAX_ENTRIES) * 128;
        usize::try_from(bytes.min(self.sectors.saturating_mul(self.sector_bytes))).unwrap_or(usize::MAX)
    }
}

/// Reads the table from the disk's first `head_bytes`.
pub fn read(head: &[u8], geometry: Geometry) -> Result<Table, TableError> {
    if head.len() < 512 || head[510..512] != [0x55, 0xaa] {
        return Ok(Table::None);
    }
    let entries = mbr_entries(head);
    if entries.iter().any(|entry| entry.kind == 0xee) {
        let gpt = read_gpt(head, geometry)?;
        check(&gpt.entries, geometry.sectors)?;
        return Ok(Table::Gpt(gpt));
    }
    check(&entries, geometry.sectors)?;
    Ok(Table::Mbr { entries })
}

/// The used primary entries of an MBR; `sector` has at least 512 bytes.
pub fn mbr_entries(sector: &[u8]) -> Vec<Entry> {
    let entry = |index: usize| {
        let raw = &sector[446 + 16 * index..462 + 16 * index];
        let start = u64::from(u32::from_le_bytes([raw[8], raw[9], raw[10], raw[11]]));
        let sectors = u64::from(u32::from_le_bytes([raw[12], raw[13], raw[14], raw[15]]));
        Entry { number: index as u32 + 1, extent: Extent { start, sectors }, kind: raw[4] }
    };
    (0..4).map(entry).filter(|entry| entry.kind != 0 && entry.extent.sectors != 0).collect()
}

/// Checks what the kernel made of a table, in an order of its own: logical partitions, whose chain it follows without
/// comparing them, so that a chain that loops gives some 250 partitions of one place. `extents` are numbers and places.
pub fn check_seen(extents: &[(u32, Extent)], sectors: u64) -> Result<(), TableError> {
    let entries: Vec<Entry> = extents.iter().map(|&(number, extent)| Entry { number, extent, kind: 0 }).collect();
    check(&entries, sectors)
}

fn check(entries: &[Entry], sectors: u64) -> Result<(), TableError> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.extent.start);
    if let Some(entry) = sorted.iter().find(|entry| entry.extent.end() > sectors) {
        return Err(TableError::PastTheEnd(entry.number));
    }
    // Sorted by start, so an overlap shows between neighbours.
    match sorted.windows(2).find(|pair| pair[0].extent.end() > pair[1].extent.start) {
        Some(pair) => Err(TableError::Overlap(pair[0].number, pair[1].number)),
        None => Ok(()),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn read_gpt(head: &[u8], geometry: Geometry) -> Result<Gpt, TableError> {
    let sector = usize::try_from(geometry.sector_bytes).unwrap_or(512);
    let header = head.get(sector..sector + 92).ok_or(TableError::Gpt("no header"))?.to_vec();
    if header[..8] != *b"EFI PART" {
        return Err(TableError::Gpt("no header"));
    }
    let mut unsigned = header.clone();
    unsigned[16..20].fill(0);
    if u32_at(&header, 12) != 92 || crc32(&unsigned) != u32_at(&header, 16) {
        return Err(TableError::Gpt("the header's checksum is wrong"));
    }
    let (count, size) = (u32_at(&header, 80), u32_at(&header, 84));
    if size != 128 || !(1..=MAX_ENTRIES).contains(&count) || u64_at(&header, 72) != 2 || u64_at(&header, 24) != 1 {
        return Err(TableError::Gpt("its layout is not one we know"));
    }
    let array = head.get(2 * sector..2 * sector + count as usize * 128).ok_or(TableError::Gpt("no entries"))?.to_vec();
    if crc32(&array) != u32_at(&header, 88) {
        return Err(TableError::Gpt("the entries' checksum is wrong"));
    }
    let (first_usable, last_usable) = (u64_at(&header, 40), u64_at(&header, 48));
    let array_sectors = (array.len() as u64).div_ceil(geometry.sector_bytes);
    let backup = u64_at(&header, 32);
    // The backup array lies just before its header; what is usable ends before both.
    let sane = first_usable >= 2 + array_sectors
        && last_usable >= first_usable
        && backup < geometry.sectors
        && last_usable.saturating_add(array_sectors) < backup;
    if !sane {
        return Err(TableError::Gpt("it does not fit the stick"));
    }
    let mut entries = Vec::new();
    for (index, raw) in array.chunks_exact(128).enumerate() {
        if raw[..16].iter().all(|&b| b == 0) {
            continue;
        }
        let (start, last) = (u64_at(raw, 32), u64_at(raw, 40));
        let number = index as u32 + 1;
        if last < start {
            return Err(TableError::Gpt("a partition ends before it starts"));
        }
        let sectors = (last - start).saturating_add(1);
        entries.push(Entry { number, extent: Extent { start, sectors }, kind: 0 });
    }
    Ok(Gpt { entries, first_usable, last_usable, header, array })
}

/// The partition that would be added: its number and place.
pub fn find_room(table: &Table, geometry: Geometry, minimum_bytes: u64) -> Result<Entry, NoRoom> {
    let align = (ALIGNMENT_BYTES / geometry.sector_bytes).max(1);
    let (used, first, end, number) = match table {
        Table::None => (&[][..], 1, geometry.sectors.min(u64::from(u32::MAX)), Some(1)),
        Table::Mbr { entries } => {
            let free = (1..=4).find(|number| entries.iter().all(|entry| entry.number != *number));
            (&entries[..], 1, geometry.sectors.min(u64::from(u32::MAX)), free)
        }
        Table::Gpt(gpt) => {
            let count = (gpt.array.len() / 128) as u32;
            let free = (1..=count).find(|number| gpt.entries.iter().all(|entry| entry.number != *number));
            (&gpt.entries[..], gpt.first_usable, gpt.last_usable + 1, free)
        }
    };
    let largest = largest_gap(used, first, end, align);
    let bytes = largest.sectors.saturating_mul(geometry.sector_bytes);
    if bytes < minimum_bytes {
        return Err(NoRoom::TooSmall { wanted_bytes: minimum_bytes, largest_bytes: bytes });
    }
    Ok(Entry { number: number.ok_or(NoRoom::Full)?, extent: largest, kind: 0x83 })
}

/// The largest run without a partition, both ends aligned.
fn largest_gap(entries: &[Entry], first: u64, end: u64, align: u64) -> Extent {
    let mut used: Vec<Extent> = entries.iter().map(|entry| entry.extent).collect();
    used.push(Extent { start: end, sectors: 0 });
    used.sort_by_key(|extent| extent.start);
    let mut from = first;
    let mut largest = Extent { start: 0, sectors: 0 };
    for extent in used {
        let start = from.next_multiple_of(align);
        let stop = extent.start.min(end) / align * align;
        if stop.saturating_sub(start) > largest.sectors {
            largest = Extent { start, sectors: stop - start };
        }
        from = from.max(extent.end());
    }
    largest
}

/// The writes that add `entry`, in the order that a power cut may stop at any
/// point: with GPT the backup first, so that a torn primary falls back to it.
/// `head` is what `read` was given; `random` makes the new identifiers.
pub fn plan_add(table: &Table, head: &[u8], entry: Entry, geometry: Geometry, random: [u8; 16]) -> Vec<Write> {
    match table {
        Table::None | Table::Mbr { .. } => {
            let mut sector = head[..512].to_vec();
            if *table == Table::None {
                sector.fill(0);
                sector[440..444].copy_from_slice(&random[..4]);
                sector[510..512].copy_from_slice(&[0x55, 0xaa]);
            }
            let at = 446 + 16 * (entry.number as usize - 1);
            sector[at..at + 16].copy_from_slice(&mbr_entry(entry));
            vec![Write { at: 0, bytes: sector }]
        }
        Table::Gpt(gpt) => plan_gpt(gpt, entry, geometry, random),
    }
}

/// 16 bytes; CHS says "use LBA" (FE FF FF), which every system since the
/// nineties takes. Start and size fit 32 bits by `find_room`.
fn mbr_entry(entry: Entry) -> [u8; 16] {
    let mut raw = [0, 0xfe, 0xff, 0xff, entry.kind, 0xfe, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    raw[8..12].copy_from_slice(&(entry.extent.start as u32).to_le_bytes());
    raw[12..16].copy_from_slice(&(entry.extent.sectors as u32).to_le_bytes());
    raw
}

fn plan_gpt(gpt: &Gpt, entry: Entry, geometry: Geometry, random: [u8; 16]) -> Vec<Write> {
    let mut raw = [0; 128];
    raw[..16].copy_from_slice(&LINUX_DATA_GUID);
    raw[16..32].copy_from_slice(&random);
    raw[23] = raw[23] & 0x0f | 0x40; // version 4: random (RFC 9562 §5.4)
    raw[24] = raw[24] & 0x3f | 0x80;
    raw[32..40].copy_from_slice(&entry.extent.start.to_le_bytes());
    raw[40..48].copy_from_slice(&(entry.extent.end() - 1).to_le_bytes());
    for (place, letter) in raw[56..].chunks_exact_mut(2).zip("rootstock".encode_utf16()) {
        place.copy_from_slice(&letter.to_le_bytes());
    }
    let mut array = gpt.array.clone();
    let at = 128 * (entry.number as usize - 1);
    array[at..at + 128].copy_from_slice(&raw);

    let sector = geometry.sector_bytes;
    let backup_lba = u64_at(&gpt.header, 32);
    let backup_array_lba = backup_lba - (array.len() as u64).div_ceil(sector);
    let header = |own: u64, other: u64, array_lba: u64| {
        let mut header = gpt.header.clone();
        header[24..32].copy_from_slice(&own.to_le_bytes());
        header[32..40].copy_from_slice(&other.to_le_bytes());
        header[72..80].copy_from_slice(&array_lba.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(&array).to_le_bytes());
        header[16..20].fill(0);
        let sum = crc32(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    };
    vec![
        Write { at: backup_array_lba * sector, bytes: array.clone() },
        Write { at: backup_lba * sector, bytes: header(backup_lba, 1, backup_array_lba) },
        Write { at: 2 * sector, bytes: array.clone() },
        Write { at: sector, bytes: header(1, backup_lba, 2) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const DISK: Geometry = Geometry { sectors: 4096 * 2048, sector_bytes: 512 };

    fn mbr(entries: &[(u8, u32, u32)]) -> Vec<u8> {
        let mut head = vec![0; DISK.head_bytes()];
        head[..446].fill(0x90);
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (index, &(kind, start, sectors)) in entries.iter().enumerate() {
            let at = 446 + 16 * index;
            head[at + 4] = kind;
            head[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            head[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        head
    }

    fn check_room(entries: &[(u8, u32, u32)], expected: Result<(u32, u64, u64), NoRoom>) {
        let table = read(&mbr(entries), DISK).unwrap();
        let room = find_room(&table, DISK, 1024 * MIB);
        assert_eq!(room.map(|entry| (entry.number, entry.extent.start, entry.extent.sectors)), expected, "{entries:?}");
    }

    #[test]
    fn the_largest_gap_is_found_and_aligned() {
        check_room(&[], Ok((1, 2048, 4095 * 2048)));
        check_room(&[(7, 2048, 2048 * 1000)], Ok((2, 1001 * 2048, 3095 * 2048)));
        check_room(&[(7, 2048 * 3000 + 1, 2048)], Ok((2, 2048, 2999 * 2048)));
        check_room(&[(7, 63, 100), (7, 2048 * 4000, 96 * 2048)], Ok((3, 2048, 3999 * 2048)));
    }

    #[test]
    fn a_full_stick_or_a_full_table_is_told() {
        let too_small = NoRoom::TooSmall { wanted_bytes: 1024 * MIB, largest_bytes: 95 * MIB };
        check_room(&[(7, 2048, 4000 * 2048)], Err(too_small));
        check_room(&[(7, 2048, 9), (7, 4096, 9), (7, 6144, 9), (7, 8192, 9)], Err(NoRoom::Full));
    }

    #[test]
    fn tables_that_lie_are_refused() {
        let wrong = |entries: &[_]| read(&mbr(entries), DISK).unwrap_err();
        assert_eq!(wrong(&[(7, 2048, u32::MAX)]), TableError::PastTheEnd(1));
        assert_eq!(wrong(&[(7, 5000, 100), (7, 2048, 2953)]), TableError::Overlap(2, 1));
        assert_eq!(wrong(&[(0xee, 1, 100)]), TableError::Gpt("no header"));
    }

    #[test]
    fn logical_partitions_that_loop_overlap_or_lie_behind_the_end_are_refused() {
        let check = |seen: &[(u32, u64, u64)], expected: Result<(), TableError>| {
            let seen: Vec<(u32, Extent)> =
                seen.iter().map(|&(number, start, sectors)| (number, Extent { start, sectors })).collect();
            assert_eq!(check_seen(&seen, DISK.sectors), expected, "{seen:?}");
        };
        // As Linux shows them: of the extended partition two sectors only.
        check(&[(1, 2048, 2048), (2, 4096, 2), (5, 6144, 2048), (6, 10_240, 2048)], Ok(()));
        check(&[(2, 4096, 2), (5, 6144, 4097), (6, 10_240, 2048)], Err(TableError::Overlap(5, 6)));
        check(&[(1, 2048, 4096), (2, 6144, 2), (5, 6143, 9)], Err(TableError::Overlap(1, 5)));
        check(&[(5, DISK.sectors - 8, 9)], Err(TableError::PastTheEnd(5)));
        let looping: Vec<(u32, u64, u64)> = (5..255).map(|number| (number, 6144, 2048)).collect();
        check(&looping, Err(TableError::Overlap(5, 6)));
    }

    #[test]
    fn adding_to_an_mbr_changes_one_entry_only() {
        let head = mbr(&[(7, 2048, 2048)]);
        let table = read(&head, DISK).unwrap();
        let entry = find_room(&table, DISK, MIB).unwrap();
        let writes = plan_add(&table, &head, entry, DISK, [7; 16]);
        assert_eq!(writes.len(), 1);
        let changed: Vec<usize> = (0..512).filter(|&i| writes[0].bytes[i] != head[i]).collect();
        assert!(!changed.is_empty() && changed.iter().all(|i| (462..478).contains(i)), "{changed:?}");
        assert_eq!(mbr_entries(&writes[0].bytes)[1], entry);
    }

    fn gpt_disk(geometry: Geometry) -> Vec<u8> {
        let sector = geometry.sector_bytes as usize;
        let mut head = vec![0; geometry.head_bytes()];
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        (head[450], head[454], head[458]) = (0xee, 1, 0xff);
        let mut array = vec![0; 128 * 128];
        array[256..272].fill(1); // partition 3, after a hole that must stay
        array[256 + 32] = 64;
        array[256 + 40] = 99;
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[12] = 92;
        header[24] = 1;
        header[32..40].copy_from_slice(&(geometry.sectors - 1).to_le_bytes());
        header[40..48].copy_from_slice(&34u64.to_le_bytes());
        header[48..56].copy_from_slice(&(geometry.sectors - 34).to_le_bytes());
        header[72] = 2;
        header[80] = 128;
        header[84] = 128;
        header[88..92].copy_from_slice(&crc32(&array).to_le_bytes());
        let sum = crc32(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        head[sector..sector + 92].copy_from_slice(&header);
        head[2 * sector..2 * sector + array.len()].copy_from_slice(&array);
        head
    }

    #[test]
    fn a_gpt_entry_is_added_without_renumbering() {
        for geometry in [DISK, Geometry { sectors: 4096 * 256, sector_bytes: 4096 }] {
            let mut head = gpt_disk(geometry);
            let table = read(&head, geometry).unwrap();
            let entry = find_room(&table, geometry, 1024 * MIB).unwrap();
            assert_eq!(entry.number, 1);
            for write in plan_add(&table, &head, entry, geometry, [9; 16]) {
                let at = write.at as usize;
                if at + write.bytes.len() <= head.len() {
                    head[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
                }
            }
            let Table::Gpt(gpt) = read(&head, geometry).unwrap() else { panic!("no GPT") };
            assert_eq!(gpt.entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1, 3]);
            assert_eq!(gpt.entries[0].extent, entry.extent);
        }
    }

    #[test]
    fn a_damaged_gpt_is_refused() {
        for at in [512 + 40, 512 + 17, 1024 + 256] {
            let mut head = gpt_disk(DISK);
            head[at] ^= 1;
            assert!(matches!(read(&head, DISK), Err(TableError::Gpt(_))), "byte {at}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_first_sectors_panic(mut head in proptest::collection::vec(0u8.., 0..4096), sectors in 0u64..1 << 40) {
            if head.len() >= 512 {
                head[510..512].copy_from_slice(&[0x55, 0xaa]);
            }
            let geometry = Geometry { sectors, sector_bytes: 512 };
            if let Ok(table) = read(&head, geometry) {
                let _ = find_room(&table, geometry, 1);
            }
        }
    }
}
