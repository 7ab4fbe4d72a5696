//! The store inside the file system of a stick as it comes from the shop.
//!
//! exFAT or FAT32, one partition or none, with files on it: the store is a run
//! of clusters, one behind the other, that the file system believes to be a
//! file. ext4 lies in that run, and the kernel reaches it as a range of the
//! partition (`place`). The laptop sees `rootstock.store`, may copy it as a
//! backup, and may delete it; nothing else of the stick is changed.
//!
//! Pure but for `shell`, which reads the partition and carries a plan out:
//!
//! - `media`, `clusters`, `room`: bytes, sets of clusters, and how large
//! - `volume`: chains, folders, the census; `exfat`, `fat32` are its two kinds
//! - `slots`, `intent`: a place in the root directory, and the note in it
//! - `find`, `plan`: an existing store; the writes that make one
//!
//! Why not through the kernel's driver: exFAT's would fill every gap with
//! zeros up to the highest offset written, and neither keeps ext4's order of
//! writes on a power cut. A store is not made larger later.

mod clusters;
mod exfat;
mod fat32;
mod find;
mod intent;
mod media;
mod plan;
mod room;
mod shell;
mod slots;
mod volume;

pub use self::find::find;
pub use self::media::{Media, Step, Write};
pub use self::plan::{Plan, offer, plan};
pub use self::room::Rule;
pub use self::shell::{Look, MakeError, Making, look};

/// The file in the root directory; a folder on FAT32.
pub const STORE_NAME: &str = "rootstock.store";

/// A part of the store in that folder, from 1.
fn part_name(number: u32) -> String {
    format!("part-{number:03}.bin")
}

/// Where the store's ext4 lies in the partition, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub at: u64,
    pub bytes: u64,
}

/// Why there is no store in a file system, and none is made. For people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("its file system is damaged: {0}")]
    Damaged(&'static str),
    #[error("two files of it claim the same cluster {0}")]
    CrossLinked(u32),
    #[error("its file system is damaged: {0} clusters of files are marked as free")]
    MarkedFree(u32),
    #[error("it has {0}")]
    Unsupported(&'static str),
    #[error("it has too many {0}")]
    TooMany(&'static str),
    #[error("it cannot be read at byte {at}: {error}")]
    Read { at: u64, error: String },
    #[error(
        "it has {} MiB free in one piece ({} MiB in all); {} MiB are needed",
        .largest_bytes >> 20,
        .free_bytes >> 20,
        .needed_bytes >> 20
    )]
    NoRoom { needed_bytes: u64, largest_bytes: u64, free_bytes: u64 },
    #[error("rootstock.store lies in {0} pieces, not in one")]
    Fragmented(u32),
    #[error("rootstock.store is cut: {} of {} MiB", .has_bytes >> 20, .needed_bytes >> 20)]
    Cut { has_bytes: u64, needed_bytes: u64 },
    #[error("rootstock.store does not hold a store")]
    NotAStore,
    #[error("rootstock.store lies in a folder, not at the top of the stick")]
    Elsewhere,
}

/// FAT32 or exFAT, by the boot sector.
fn open(media: &dyn Media) -> Result<Box<dyn volume::Volume + '_>, Refusal> {
    let head = media::read(media, 0, 512)?;
    match head[3..11] == *b"EXFAT   " {
        true => Ok(Box::new(exfat::ExFat::open(media)?)),
        false => Ok(Box::new(fat32::Fat32::open(media)?)),
    }
}
