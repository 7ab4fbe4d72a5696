//! The disks that could be a stick, as sysfs shows them.
//!
//! I/O, reading only. A stick is a USB disk (its sysfs path runs through a USB
//! bus) or one that the options name; the disks that the options rule out, the
//! appliance's own SD card first, are never looked at.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::identify::{self, Content};
use super::shop::{self, Look, Rule};
use super::table::{self, Extent, Geometry, Table, TableError};

/// Most disks that are looked at.
const MAX_DISKS: usize = 32;
/// The kernel's own limit (DISK_MAX_PARTS): more cannot come.
const MAX_PARTITIONS: usize = 256;
/// More than that nobody makes; each would be mounted.
const MOST_USED: usize = 64;

/// Which disks may be sticks.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub ignore: Vec<String>,
    pub extra: Vec<String>,
}

/// One disk that is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Kernel name, such as `sda`.
    pub name: String,
    /// For people: the maker's name for it, and the kernel's.
    pub title: String,
    /// The kernel's count of disks, so that a stick pulled and put back
    /// between two looks is seen as another (0 on kernels before 5.15).
    pub sequence: u64,
    pub geometry: Geometry,
    pub read_only: bool,
    pub partitions: Vec<Partition>,
}

/// One partition that the kernel sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub name: String,
    pub number: u32,
    /// Where it lies, in units of 512 bytes as sysfs counts.
    pub extent: Extent,
}

impl Disk {
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    pub fn bytes(&self) -> u64 {
        self.geometry.sectors.saturating_mul(self.geometry.sector_bytes)
    }
}

/// Lists the sticks that are plugged in now, by name.
pub fn list(wanted: &Wanted) -> Vec<Disk> {
    let Ok(folder) = fs::read_dir("/sys/block") else { return Vec::new() };
    let mut names: Vec<String> = folder
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_wanted(name, wanted))
        .collect();
    names.sort();
    names.into_iter().take(MAX_DISKS).filter_map(|name| disk(Path::new("/sys/block"), &name)).collect()
}

fn is_wanted(name: &str, wanted: &Wanted) -> bool {
    let on_usb = || {
        let path = fs::canonicalize(Path::new("/sys/block").join(name)).unwrap_or_default();
        path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("usb"))
    };
    !wanted.ignore.iter().any(|ignored| ignored == name) && (wanted.extra.iter().any(|extra| extra == name) || on_usb())
}

/// One disk by its folder in `block`, which is sysfs's.
fn disk(block: &Path, name: &str) -> Option<Disk> {
    let folder = block.join(name);
    // Always in units of 512 bytes, whatever the sector size.
    let bytes = number(&folder.join("size"))?.checked_mul(512).filter(|&bytes| bytes > 0)?;
    let sector_bytes = number(&folder.join("queue/logical_block_size")).filter(|&n| n == 512 || n == 4096)?;
    let mut partitions: Vec<Partition> = fs::read_dir(&folder)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let told = |name: &str| number(&entry.path().join(name));
            let extent = Extent { start: told("start")?, sectors: told("size")? };
            let number = u32::try_from(told("partition")?).ok()?;
            Some(Partition { name: entry.file_name().into_string().ok()?, number, extent })
        })
        .take(MAX_PARTITIONS)
        .collect();
    partitions.sort_by_key(|partition| partition.number);
    let model = fs::read_to_string(folder.join("device/model")).unwrap_or_default();
    let model: String = model.trim().chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(16).collect();
    Some(Disk {
        name: name.to_owned(),
        title: if model.is_empty() { name.to_owned() } else { format!("{model} ({name})") },
        sequence: number(&folder.join("diskseq")).unwrap_or(0),
        geometry: Geometry { sectors: bytes / sector_bytes, sector_bytes },
        read_only: number(&folder.join("ro")) == Some(1),
        partitions,
    })
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What was found on a disk by reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub disk: Disk,
    /// The first bytes, kept so that a later write can check that nothing changed.
    pub head: Vec<u8>,
    pub table: Result<Table, TableError>,
    /// What lies in the disk as a whole, if it has no table.
    pub whole: Content,
    /// What lies in each partition, in their order.
    pub contents: Vec<Content>,
    /// No table and the first MiB all zero.
    pub blank: bool,
    /// Each FAT and exFAT file system, and what it means for a store.
    pub shops: Vec<(PathBuf, Look)>,
}

/// Reads tables and superblocks, and in FAT and exFAT what is free.
pub fn read(disk: Disk, rule: Rule) -> io::Result<Reading> {
    let head = read_head(&disk.node(), disk.geometry.head_bytes())?;
    let whole = identify::identify(&head);
    let contents: Vec<Content> = disk
        .partitions
        .iter()
        .map(|partition| {
            let head = read_head(&Path::new("/dev").join(&partition.name), identify::HEAD_BYTES);
            head.map_or(Content::Unknown, |head| identify::identify(&head))
        })
        .collect();
    // A boot sector carries the same 55 AA as a table does.
    let table = match whole {
        Content::Ext4(_) | Content::ExFat | Content::Fat => Ok(Table::None),
        Content::Blank | Content::Unknown => {
            table::read(&head, disk.geometry).and_then(|table| seen(&disk).map(|()| table))
        }
    };
    let blank = whole == Content::Blank
        && table == Ok(Table::None)
        && disk.partitions.is_empty()
        && read_head(&disk.node(), 1 << 20)?.iter().all(|&b| b == 0);
    let mut shops = Vec::new();
    // Partitions that overlap or lie beyond the end are not trusted.
    if table.is_ok() {
        let names = disk.partitions.iter().map(|partition| &partition.name).zip(&contents);
        let alone = disk.partitions.is_empty().then_some((&disk.name, &whole));
        for (name, _) in names.chain(alone).filter(|(_, content)| matches!(content, Content::ExFat | Content::Fat)) {
            let device = Path::new("/dev").join(name);
            let look = shop::look(&device, rule);
            tracing::info!(device = name, ?look, "file system read");
            shops.push((device, look));
        }
    }
    Ok(Reading { disk, head, table, whole, contents, blank, shops })
}

/// Whether the partitions that the kernel sees can be what they seem.
fn seen(disk: &Disk) -> Result<(), TableError> {
    let extents: Vec<(u32, Extent)> =
        disk.partitions.iter().map(|partition| (partition.number, partition.extent)).collect();
    table::check_seen(&extents, disk.bytes() / 512)?;
    if extents.len() > MOST_USED { Err(TableError::TooMany(extents.len())) } else { Ok(()) }
}

/// Reads at most `bytes` from the start.
pub fn read_head(path: &Path, bytes: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(0))?;
    let mut head = Vec::with_capacity(bytes);
    file.take(bytes as u64).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as sysfs has it for a disk of 1 GiB, with partitions of these places.
    fn sysfs(extents: &[(u64, u64)]) -> tempfile::TempDir {
        let block = tempfile::tempdir().unwrap();
        let write = |path: &str, value: u64| {
            let path = block.path().join("sdz").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        };
        write("size", 1 << 21);
        write("queue/logical_block_size", 512);
        for (&(start, sectors), number) in extents.iter().zip(5..) {
            for (name, value) in [("partition", number), ("start", start), ("size", sectors)] {
                write(&format!("sdz{number}/{name}"), value);
            }
        }
        block
    }

    #[test]
    fn an_extended_partition_that_loops_is_one_message_and_not_250_sticks() {
        let check = |extents: &[(u64, u64)], expected: Result<(), TableError>| {
            let disk = disk(sysfs(extents).path(), "sdz").unwrap();
            assert_eq!(seen(&disk), expected);
        };
        check(&[(2048, 2048), (4096, 2048)], Ok(()));
        check(&vec![(2048, 2048); 250], Err(TableError::Overlap(5, 6)));
        check(&[(2048, 2048), (4000, 2048)], Err(TableError::Overlap(5, 6)));
        let many: Vec<(u64, u64)> = (1..=70).map(|n| (n * 2048, 1024)).collect();
        check(&many, Err(TableError::TooMany(70)));
    }

    #[test]
    fn an_ignored_disk_is_no_stick_even_when_named() {
        let wanted = Wanted { ignore: vec!["vda".into()], extra: vec!["vda".into(), "loop7".into()] };
        assert!(!is_wanted("vda", &wanted));
        assert!(is_wanted("loop7", &wanted));
        assert!(!is_wanted("loop6", &wanted));
    }
}
