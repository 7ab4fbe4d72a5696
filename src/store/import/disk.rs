//! Splits a whole card's image into its FAT and its ext4 while it streams by.
//!
//! The layout and the telling of partitions are pure; bytes go to the writer.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::source::{Hashes, Source};
use super::writer::{Part, Writer};
use super::{Context, ImportError, MAX_UNPACKED_BYTES, write_error};
use super::{boot_files, boot_tree};
use crate::store::identify::{self, Content};
use crate::store::in_place::InPlace;
use crate::store::manifest::ImagePaths;
use crate::store::table::{self, Extent};

/// Bytes that are decoded and written at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Largest root partition that is taken.
const MAX_ROOT_BYTES: u64 = 256 << 30;
const MAX_BOOT_BYTES: u64 = 4 << 30;
/// What an image may hold beyond its last partition.
const MAX_TAIL_BYTES: u64 = 64 << 20;
const SECTOR_BYTES: u64 = 512;

/// Makes an image's root and boot files of a disk image; returns the hashes
/// and the root's size.
pub fn unpack(mut source: Source, paths: &ImagePaths, run: &mut Context<'_>) -> Result<(Hashes, u64), ImportError> {
    let fat = paths.folder.join("boot.fat");
    let found = split(&mut source, &paths.root(), &fat, run)?;
    let hashes = source.finish()?;
    run.check()?;
    if found.in_place {
        let place = InPlace { file: run.job.path.clone(), offset: found.root.0, bytes: found.root.1 };
        place.write(&paths.root()).map_err(|error| write_error(&paths.root(), error))?;
    }
    fs::create_dir(paths.boot()).map_err(|error| write_error(&paths.boot(), error))?;
    if boot_files::extract(&fat, &paths.boot())? == 0 {
        return Err(ImportError::NotPi("its boot partition is empty".into()));
    }
    // A PC's image has a FAT and an ext4 too.
    let mut files = fs::read_dir(paths.boot()).map_err(|error| write_error(&paths.boot(), error))?.flatten();
    if !files.any(|file| boot_tree::is_boot_file(file.file_name().as_bytes())) {
        let missing = "its boot partition has none of a Pi's boot files, such as config.txt";
        return Err(ImportError::NotPi(missing.into()));
    }
    // The FAT was only a means.
    fs::remove_file(&fat).map_err(|error| write_error(&fat, error))?;
    Ok((hashes, found.root.1))
}

/// Decodes the file and writes its FAT and ext4 partitions.
fn split(source: &mut Source, root: &Path, fat: &Path, run: &mut Context<'_>) -> Result<Found, ImportError> {
    let place = source.place();
    let in_place = run.job.in_place && !run.job.packing.is_packed();
    // Of such an image only the boot files take room.
    let needed_bytes = if in_place { 0 } else { place.packed_bytes };
    let mut writer = Writer::start(root, fat, &run.job.store, needed_bytes, run.job.method)?;
    let mut parts = Parts { in_place, ..Parts::default() };
    let mut buffer = vec![0; PIECE_BYTES];
    // The partition table is in the first piece, whole.
    let head = source.read_piece(&mut buffer).map_err(|error| place.explain(error))?;
    let layout = self::layout(&buffer[..head], source.unpacked_bytes)?;
    parts.take(&layout, 0, &buffer[..head], &mut writer)?;
    let mut at = head as u64;
    loop {
        run.check()?;
        let filled = source.read_piece(&mut buffer).map_err(|error| place.explain(error))?;
        if filled == 0 {
            break;
        }
        if at > layout.end.saturating_add(MAX_TAIL_BYTES) {
            return Err(ImportError::Lying("the file holds far more than its partitions".into()));
        }
        parts.take(&layout, at, &buffer[..filled], &mut writer)?;
        at += filled as u64;
    }
    let found = parts.finish(at)?;
    writer.finish(found.root.1, found.boot.1)?;
    Ok(found)
}

/// Where the image's two partitions lie, in bytes.
struct Layout {
    partitions: Vec<(u64, u64)>,
    end: u64,
}

fn layout(head: &[u8], image_bytes: Option<u64>) -> Result<Layout, ImportError> {
    let geometry = table::Geometry {
        sectors: image_bytes.map_or(u64::MAX, |bytes| bytes / SECTOR_BYTES),
        sector_bytes: SECTOR_BYTES,
    };
    let table = table::read(head, geometry).map_err(|error| ImportError::Lying(error.to_string()))?;
    let entries = match table {
        table::Table::None => return Err(ImportError::NotPi("it has no partition table".into())),
        table::Table::Mbr { entries } => entries,
        table::Table::Gpt(gpt) => gpt.entries,
    };
    let bytes =
        |extent: Extent| (extent.start.saturating_mul(SECTOR_BYTES), extent.sectors.saturating_mul(SECTOR_BYTES));
    let mut partitions: Vec<(u64, u64)> = entries.iter().map(|entry| bytes(entry.extent)).collect();
    partitions.sort_unstable();
    let end = partitions.last().map_or(0, |&(start, bytes)| start.saturating_add(bytes));
    if end > MAX_UNPACKED_BYTES {
        return Err(ImportError::Lying(format!("its partitions take more than {} GiB", MAX_UNPACKED_BYTES >> 30)));
    }
    Ok(Layout { partitions, end })
}

/// A partition of the image: where it starts and how long it is, in bytes.
type Run = (u64, u64);

struct Found {
    root: Run,
    boot: Run,
    /// The root was not written, since it can be used where it is.
    in_place: bool,
}

/// Tells the partitions by their first 4 KiB as they come by, and passes their
/// bytes on.
#[derive(Default)]
struct Parts {
    root: Option<(Run, u64)>,
    boot: Option<Run>,
    /// Whether the root is to stay in the file.
    in_place: bool,
    /// The partition that now comes by: its start, head and what it is.
    current: Option<(u64, Vec<u8>, Option<Part>)>,
}

impl Parts {
    fn take(&mut self, layout: &Layout, at: u64, piece: &[u8], writer: &mut Writer) -> Result<(), ImportError> {
        let end = at + piece.len() as u64;
        for &(start, bytes) in &layout.partitions {
            let (from, to) = (start.max(at), start.saturating_add(bytes).min(end));
            if from < to {
                // Both lie inside the piece.
                let slice = &piece[(from - at) as usize..(to - at) as usize];
                self.partition((start, bytes), from - start, slice, writer)?;
            }
        }
        Ok(())
    }

    fn partition(&mut self, run: Run, offset: u64, bytes: &[u8], writer: &mut Writer) -> Result<(), ImportError> {
        if offset == 0 {
            self.current = Some((run.0, Vec::new(), None));
        }
        let Some((start, mut head, mut part)) = self.current.take().filter(|(start, ..)| *start == run.0) else {
            return Ok(());
        };
        let mut body = bytes;
        if head.len() < identify::HEAD_BYTES {
            let rest = (identify::HEAD_BYTES - head.len()).min(body.len());
            head.extend_from_slice(&body[..rest]);
            body = &body[rest..];
            if head.len() == identify::HEAD_BYTES {
                part = self.identify(run, &head)?;
                if let Some(part) = part {
                    if part == Part::Root {
                        writer.expect(identify::ext4(&head).map_or(0, |ext4| ext4.files_bytes))?;
                    }
                    writer.begin(part, run.1)?;
                    writer.append(&head)?;
                }
            }
        }
        if part.is_some() {
            writer.append(body)?;
        }
        self.current = Some((start, head, part));
        Ok(())
    }

    /// The first FAT is the boot partition, the first ext4 the root.
    fn identify(&mut self, run: Run, head: &[u8]) -> Result<Option<Part>, ImportError> {
        match identify::identify(head) {
            Content::Fat if self.boot.is_none() => {
                if run.1 > MAX_BOOT_BYTES {
                    return Err(ImportError::NotPi("its boot partition is larger than 4 GiB".into()));
                }
                self.boot = Some(run);
                Ok(Some(Part::Boot))
            }
            Content::Ext4(ext4) if self.root.is_none() => {
                if run.1 > MAX_ROOT_BYTES {
                    return Err(ImportError::NotPi("its root is larger than 256 GiB".into()));
                }
                if ext4.bytes > run.1 {
                    return Err(ImportError::Lying("its root is larger than the partition".into()));
                }
                if ext4.unknown_features != 0 {
                    let features = ext4.unknown_features;
                    return Err(ImportError::NotPi(format!("its root uses unknown ext4 features {features:#x}")));
                }
                // Overlay handles name the lower file system by it.
                if ext4.uuid == [0; 16] {
                    return Err(ImportError::NotPi("its root file system has no UUID".into()));
                }
                self.root = Some((run, ext4.bytes));
                // A journal must be replayed, for which the root must be written.
                self.in_place &= !ext4.needs_recovery;
                Ok((!self.in_place).then_some(Part::Root))
            }
            _ => Ok(None),
        }
    }

    /// Checks that both came, and came whole, in an image of `bytes`.
    fn finish(&self, bytes: u64) -> Result<Found, ImportError> {
        let boot = self.boot.ok_or_else(|| ImportError::NotPi("it has no FAT boot partition".into()))?;
        let (root, used) = self.root.ok_or_else(|| ImportError::NotPi("it has no ext4 root".into()))?;
        // Some tools cut an image right behind the file system: that is whole.
        let whole = root.0.saturating_add(used) <= bytes && boot.0.saturating_add(boot.1) <= bytes;
        if whole { Ok(Found { root, boot, in_place: self.in_place }) } else { Err(ImportError::Truncated(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lying_or_missing_table_is_told() {
        let mut head = vec![0; 512];
        assert!(matches!(layout(&head, None), Err(ImportError::NotPi(_))));
        (head[510], head[511]) = (0x55, 0xaa);
        head[446 + 4] = 0x0c;
        head[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
        head[446 + 12..446 + 16].copy_from_slice(&2048u32.to_le_bytes());
        assert_eq!(layout(&head, Some(2 << 20)).unwrap().partitions, [(1 << 20, 1 << 20)]);
        assert!(matches!(layout(&head, Some(1 << 20)), Err(ImportError::Lying(_))));
    }
}
