//! Whether the store has an image already: by the file's length and hash before it is unpacked, by its root and boot
//! files after.
//!
//! I/O: reads the file and the store's images.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::ahead::fill;
use super::checksum;
use super::hashing::HashingFile;
use super::{ImportError, Imported, Job};
use crate::client::ImageId;
use crate::store::manifest::{self, IMAGES, ImageManifest, ImagePaths, SourceFile};
use crate::store::operate::verify;
use crate::store::{aside, atomic};

/// Bytes of two roots that are compared at a time.
const COMPARED_BYTES: usize = 1 << 20;
/// Most entries of `images/` that are looked at.
const MAX_IMAGES: usize = 10_000;

/// The store's images, as far as their manifests can be read.
pub fn images(store: &Path) -> impl Iterator<Item = (ImageId, ImageManifest)> {
    let entries = fs::read_dir(store.join(IMAGES)).into_iter().flatten().take(MAX_IMAGES).filter_map(Result::ok);
    let store = store.to_owned();
    entries.filter_map(move |entry| {
        let id: ImageId = entry.file_name().to_str()?.parse().ok()?;
        let paths = ImagePaths::of(&store, &id);
        // One that is damaged is not there: its file makes it whole again.
        if aside::fault(&paths).is_some() {
            return None;
        }
        let bytes = atomic::read_bounded(&paths.manifest(), manifest::MAX_MANIFEST_BYTES).ok()?;
        Some((id, manifest::parse_image(&bytes).ok()?))
    })
}

/// Where an image came from a file as long as this one, this one is hashed
/// first: the same file again needs neither time nor room for a second copy.
pub fn by_size(
    job: &Job,
    promise: Option<&checksum::Promise>,
    stop: &AtomicBool,
) -> Result<Option<Imported>, ImportError> {
    let as_long =
        |(_, manifest): (ImageId, ImageManifest)| manifest.source.iter().any(|source| source.bytes == job.source.bytes);
    if !images(&job.store).any(as_long) {
        return Ok(None);
    }
    let read_error = |source: io::Error| ImportError::Read { path: job.path.clone(), source };
    let file = File::open(&job.path).and_then(HashingFile::new).map_err(read_error)?;
    let hash = file.finish_unless(stop).map_err(read_error)?.ok_or(ImportError::Stopped)?;
    if let Some(promise) = promise.filter(|promise| promise.sha256 != hash) {
        return Err(ImportError::Checksum(promise.file.clone()));
    }
    Ok(by_hash(&job.store, &hash, &job.source))
}

/// An image that came from the same bytes.
pub fn by_hash(store: &Path, sha256: &[u8; 32], source: &SourceFile) -> Option<Imported> {
    let hex = manifest::hex(sha256);
    let (id, manifest) = images(store).find(|(_, manifest)| manifest.sha256 == hex)?;
    remember(store, id, manifest, source)
}

/// The image remembers this file from now on.
fn remember(store: &Path, id: ImageId, mut manifest: ImageManifest, source: &SourceFile) -> Option<Imported> {
    manifest.add_source(source.clone());
    let text = toml::to_string(&manifest).ok()?;
    let _ = atomic::write(&ImagePaths::of(store, &id).manifest(), text.as_bytes(), 0o644);
    Some(Imported { id, manifest, known: true })
}

/// An image with the same root and boot files, which came in another packing. Two that are not the same differ in their
/// superblocks, so both are read whole only where they are.
pub fn by_content(
    job: &Job,
    new: &ImagePaths,
    root_bytes: u64,
    stop: &AtomicBool,
) -> Result<Option<Imported>, ImportError> {
    for (id, manifest) in images(&job.store).filter(|(_, manifest)| manifest.root_bytes == root_bytes) {
        let paths = ImagePaths::of(&job.store, &id);
        if same_root(&new.root(), &paths.root(), stop)? && same_files(&new.boot(), &paths.boot()) {
            return Ok(remember(&job.store, id, manifest, &job.source));
        }
    }
    Ok(None)
}

/// Whether two roots are the same to the byte; one that cannot be read is another.
fn same_root(a: &Path, b: &Path, stop: &AtomicBool) -> Result<bool, ImportError> {
    let (Ok(mut a), Ok(mut b)) = (File::open(a), File::open(b)) else { return Ok(false) };
    let (mut one, mut other) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
    // The superblocks are in the first piece.
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(ImportError::Stopped);
        }
        let (Ok(bytes), Ok(others)) = (fill(&mut a, &mut one), fill(&mut b, &mut other)) else { return Ok(false) };
        if one[..bytes] != other[..others] {
            return Ok(false);
        }
        if bytes == 0 {
            return Ok(true);
        }
    }
}

/// Whether two boot trees hold the same files with the same content.
pub fn same_files(a: &Path, b: &Path) -> bool {
    let (a, b) = (verify::boot_files(a), verify::boot_files(b));
    let same = |((name, path), (other, other_path)): (&(String, PathBuf), &(String, PathBuf))| {
        name == other && fs::read(path).is_ok_and(|bytes| fs::read(other_path).is_ok_and(|other| bytes == other))
    };
    a.len() == b.len() && a.iter().zip(&b).all(same)
}
