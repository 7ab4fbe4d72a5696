//! Makes a store on a stick, after a person confirmed it: one more partition
//! in unpartitioned space, or one more file in exFAT or FAT32, with ext4 in it.
//!
//! I/O; the decision where is `table`'s and `shop`'s. The order makes a cut at
//! any moment harmless: the file system is made first, through a window onto
//! the gap or the free clusters, and the table or directory that shows it is
//! written last. Until then the stick reads as before.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::devices::{self, Reading};
use super::identify::STORE_LABEL;
use super::mounts::{self, MountError, Window};
use super::place;
use super::shop::{Look, MakeError, Making, Refusal, Rule};
use super::table::{self, Entry, NoRoom, TableError};
use super::tools::{self, ToolError};

/// Why no store was made. Unless said otherwise the stick is as it was.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error("{0} changed since it was looked at")]
    Changed(PathBuf),
    #[error("{0} holds something else than a partition table")]
    NoTable(PathBuf),
    /// What stands against a file in its FAT32 or exFAT.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Make(#[from] MakeError),
    #[error("reading {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("mke2fs failed: {0}")]
    Format(String),
    #[error(transparent)]
    Loop(#[from] MountError),
    #[error("writing the partition table of {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("telling the kernel about the new partition of {path}")]
    Tell { path: PathBuf, source: io::Error },
}

/// A quick format of a large stick takes seconds; a failing one must end.
const MAKE_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Where a store can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot {
    /// One more partition.
    Gap(Entry),
    /// One more file in this partition, and its size.
    File(PathBuf, u64),
}

/// Where a store could be made on this stick without touching anything: in
/// unpartitioned space or in a file system, whatever gives more.
pub fn spot(reading: &Reading, rule: Rule) -> Result<Spot, PrepareError> {
    let gap = gap(reading, rule.minimum_bytes);
    let gap_bytes = gap.as_ref().map_or(0, |entry| entry.extent.sectors * reading.disk.geometry.sector_bytes);
    let offer = |(path, look): &(PathBuf, Look)| match look {
        Look::Offer(bytes) => Some((path.clone(), *bytes)),
        _ => None,
    };
    let file = reading.shops.iter().filter_map(offer).max_by_key(|(_, bytes)| *bytes);
    if let Some((path, bytes)) = file.filter(|(_, bytes)| *bytes > gap_bytes) {
        return Ok(Spot::File(path, bytes));
    }
    let refusal = reading.shops.iter().find_map(|(_, look)| match look {
        Look::NoRoom(refusal) => Some(refusal.clone()),
        _ => None,
    });
    match (gap, refusal) {
        (Ok(entry), _) => Ok(Spot::Gap(entry)),
        // The figures of the file system are those that a person can change.
        (Err(PrepareError::NoRoom(_) | PrepareError::NoTable(_)), Some(refusal)) => Err(refusal.into()),
        (Err(error), _) => Err(error),
    }
}

fn gap(reading: &Reading, minimum_bytes: u64) -> Result<Entry, PrepareError> {
    let table = reading.table.as_ref().map_err(Clone::clone)?;
    if *table == table::Table::None && !reading.blank {
        return Err(PrepareError::NoTable(reading.disk.node()));
    }
    Ok(table::find_room(table, reading.disk.geometry, minimum_bytes)?)
}

/// Makes the store. Nothing of the stick may be mounted.
pub fn prepare(reading: &Reading, rule: Rule, stop: &AtomicBool) -> Result<(), PrepareError> {
    match spot(reading, rule)? {
        Spot::Gap(entry) => add_partition(reading, entry, stop),
        Spot::File(partition, _) => add_file(&partition, rule, stop),
    }
}

fn add_file(partition: &Path, rule: Rule, stop: &AtomicBool) -> Result<(), PrepareError> {
    // The last user may be a mount that was taken away a moment ago.
    place::wait_until_free(partition).map_err(|_| MakeError::Busy(partition.to_owned()))?;
    let making = Making::begin(partition, rule)?;
    let span = making.span();
    make_file_system(partition, Window { offset: span.at, bytes: span.bytes }, stop)?;
    Ok(making.finish()?)
}

/// Returns when the kernel knows the new partition.
fn add_partition(reading: &Reading, entry: Entry, stop: &AtomicBool) -> Result<(), PrepareError> {
    let path = reading.disk.node();
    unchanged(reading)?;

    let sector = reading.disk.geometry.sector_bytes;
    let window = Window { offset: entry.extent.start * sector, bytes: entry.extent.sectors * sector };
    make_file_system(&path, window, stop)?;

    // Again: formatting took its time, and somebody else may write.
    unchanged(reading)?;
    let written = |source| PrepareError::Write { path: path.clone(), source };
    let disk = OpenOptions::new().read(true).write(true).open(&path).map_err(written)?;
    disk.sync_all().map_err(written)?;
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(|e| written(e.into()))?;
    let table = reading.table.as_ref().map_err(Clone::clone)?;
    for write in table::plan_add(table, &reading.head, entry, reading.disk.geometry, random) {
        disk.write_all_at(&write.bytes, write.at).map_err(written)?;
        disk.sync_all().map_err(written)?;
    }
    tell_kernel(&disk, entry, window).map_err(|source| PrepareError::Tell { path, source })
}

fn unchanged(reading: &Reading) -> Result<(), PrepareError> {
    let path = reading.disk.node();
    match devices::read_head(&path, reading.disk.geometry.head_bytes()) {
        Ok(now) if now == reading.head => Ok(()),
        Ok(_) => Err(PrepareError::Changed(path)),
        Err(source) => Err(PrepareError::Read { path, source }),
    }
}

/// `lazy_itable_init`: the inode tables are zeroed while it is already in use.
/// No reserved blocks: the appliance is the only one to write, as root.
/// 256-byte inodes, also on a small stick: project quotas will need them.
/// `^orphan_file`, `^metadata_csum_seed`: an older laptop's e2fsck must still read it.
fn make_file_system(disk: &Path, window: Window, stop: &AtomicBool) -> Result<(), PrepareError> {
    let device = mounts::loop_device(disk, window, false)?;
    let features: &[&[&str]] = &[&["-O", "^orphan_file,^metadata_csum_seed"], &[]];
    let mut finished = None;
    // An mke2fs that does not know a feature refuses its name: then without.
    for features in features {
        let mut arguments = vec![
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            STORE_LABEL,
            "-m",
            "0",
            "-I",
            "256",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
        ];
        arguments.extend_from_slice(features);
        finished = Some(tools::run("mke2fs", &arguments, &device.path, MAKE_LIMIT, stop)?);
        if finished.as_ref().is_some_and(|finished| finished.code == Some(0)) {
            break;
        }
    }
    match finished {
        Some(finished) if finished.code == Some(0) => {
            let synced = File::open(&device.path).and_then(|device| device.sync_all());
            synced.map_err(|source| PrepareError::Write { path: disk.to_owned(), source })
        }
        other => Err(PrepareError::Format(other.map(|finished| finished.output).unwrap_or_default())),
    }
}

// include/uapi/linux/blkpg.h
const BLKPG: libc::c_ulong = 0x1269;
const BLKPG_ADD_PARTITION: libc::c_int = 1;

#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: libc::c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

#[repr(C)]
struct BlkpgArgument {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *mut BlkpgPartition,
}

/// Adds the one partition. Not BLKRRPART: that re-reads the whole table and is
/// refused while another partition of the stick is mounted.
fn tell_kernel(disk: &File, entry: Entry, window: Window) -> io::Result<()> {
    let too_large = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let mut partition = BlkpgPartition {
        start: i64::try_from(window.offset).map_err(too_large)?,
        length: i64::try_from(window.bytes).map_err(too_large)?,
        number: entry.number as libc::c_int,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let argument = BlkpgArgument {
        operation: BLKPG_ADD_PARTITION,
        flags: 0,
        length: size_of::<BlkpgPartition>() as libc::c_int,
        data: &mut partition,
    };
    // SAFETY: both structures have the kernel's layout and outlive the call.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG as _, &argument) };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // The kernel may have read the new table by itself.
            error if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
            error => Err(error),
        },
    }
}
