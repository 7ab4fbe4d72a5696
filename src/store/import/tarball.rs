//! Makes an image of a root that came as a tarball, its boot folder inside.
//!
//! I/O: `tar` reads, `extract` makes the files in a `new_root`,
//! `boot_tree` takes the boot files out. Decoding runs ahead on a thread.

use std::io::Read;

use super::ahead::Ahead;
use super::boot_tree;
use super::extract::Extract;
use super::new_root::NewRoot;
use super::source::{Hashes, Source};
use super::tar::{TarError, TarReader};
use super::writer::{free_bytes, no_room};
use super::{Context, ImportError, MAX_UNPACKED_BYTES, RESERVE_BYTES};
use crate::store::manifest::ImagePaths;

/// Decoded bytes that are handed over at a time.
const PIECE_BYTES: usize = 1 << 20;
/// What may follow the archive's end: zeros, to the size of a tape's block.
const MAX_TAIL_BYTES: u64 = 64 << 20;

/// How much larger a file system is made than the files should be, at least.
const SPARE_BYTES: u64 = 64 << 20;
/// What the file system's own blocks and the boot files may take beside.
const OWN_MIB: u64 = 16;
/// What a packed file is thought to unpack to at most, where it does not tell.
const USUAL_RATIO: u64 = 16;

/// Makes an image's root and boot files of a tarball; returns the hashes and
/// the root's size.
pub fn unpack(source: Source, paths: &ImagePaths, run: &mut Context<'_>) -> Result<(Hashes, u64), ImportError> {
    // Small files take up to four times their room in the tarball, but there
    // is more in a root than small files.
    let likely = source.unpacked_bytes.map(|bytes| bytes.saturating_mul(2));
    let likely = likely.unwrap_or(run.place.packed_bytes.saturating_mul(USUAL_RATIO)).saturating_add(SPARE_BYTES);
    match unpack_into(source, paths, likely, run) {
        // Once more, where it cannot be full before the stick is.
        Err(ImportError::Outgrown) => {
            tracing::info!(likely, "the tarball holds more than was thought: begun anew");
            let most = free_bytes(&run.job.store)?.saturating_mul(2).saturating_add(SPARE_BYTES);
            let source = run.open_again()?;
            unpack_into(source, paths, most, run)
        }
        other => other,
    }
}

fn unpack_into(
    source: Source,
    paths: &ImagePaths,
    bytes: u64,
    run: &mut Context<'_>,
) -> Result<(Hashes, u64), ImportError> {
    let place = source.place();
    // A root's files are what a tarball holds, so it takes about as much.
    let wanted = source.unpacked_bytes.unwrap_or(place.packed_bytes).saturating_add(RESERVE_BYTES);
    let free = free_bytes(&run.job.store)?;
    if free < wanted {
        // What is said is what it will take, as far as that is known.
        let rest = source.unpacked_bytes.map_or(place.packed_bytes / 2 * 3, |_| 0);
        return Err(no_room((wanted - free).saturating_add(rest)));
    }
    let (point, store) = (&run.job.check_point, &run.job.store);
    let mut room = NewRoot::create(&paths.root(), point, store, bytes, run.stop)?;
    let ahead = Ahead::new("import-decode", source, PIECE_BYTES, None);
    let mut tar = TarReader::new(ahead.map_err(|error| place.explain(error))?);
    let mut extract = Extract::new(room.point()).map_err(|error| room.failed(error.into()))?;
    let mut sum = 0u64;
    while let Some(entry) = tar.next().map_err(|error| run.tar_error(error))? {
        run.check()?;
        sum = sum.saturating_add(entry.bytes);
        if sum > MAX_UNPACKED_BYTES {
            return Err(ImportError::NotPi(format!("its files take more than {} GiB", MAX_UNPACKED_BYTES >> 30)));
        }
        let made = extract.entry(&entry, &mut tar, &mut room, run);
        made.map_err(|error| run.with_the_rest(error, sum))?;
    }
    extract.finish(&room)?;
    let hashes = drain(tar.into_inner(), run)?.finish()?;
    boot_tree::take(room.point(), &paths.boot())?;
    Ok((hashes, room.finish()?))
}

/// Decodes what follows the archive's end, so that its checks are verified.
fn drain(mut ahead: Ahead<Source>, run: &mut Context<'_>) -> Result<Source, ImportError> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut left = MAX_TAIL_BYTES;
    loop {
        run.check()?;
        match ahead.read(&mut buffer).map_err(|error| run.place.explain(error))? {
            0 => break,
            bytes => {
                let held = || ImportError::Lying("far more follows the tarball's end".into());
                left = left.checked_sub(bytes as u64).ok_or_else(held)?;
            }
        }
    }
    ahead.into_inner().map_err(|error| run.place.explain(error))
}

impl Context<'_> {
    /// Where there is no room on the way: what is still to come is missing too, packed as what came before.
    fn with_the_rest(&self, error: ImportError, made_bytes: u64) -> ImportError {
        let (read, all) = (self.place.read_bytes().max(1), self.place.packed_bytes);
        let rest = u128::from(made_bytes) * u128::from(all.saturating_sub(read)) / u128::from(read);
        match error {
            ImportError::NoRoom { missing_mib } => {
                let rest = u64::try_from(rest >> 20).unwrap_or(u64::MAX);
                ImportError::NoRoom { missing_mib: missing_mib.saturating_add(rest).saturating_add(OWN_MIB) }
            }
            other => other,
        }
    }

    /// What it means that a tarball cannot be read on.
    pub fn tar_error(&self, error: TarError) -> ImportError {
        match error {
            TarError::Read(error) => self.place.explain(error),
            // The packed file ends there, or only what is in it.
            TarError::Ended if !self.job.packing.is_packed() => ImportError::Truncated(self.place.packed_bytes),
            source => ImportError::Tar { at: self.place.read_bytes(), source },
        }
    }
}
