//! Imports an image file: streamed, hashed, made into a root and boot files,
//! and shown to the rest by one rename.
//!
//! The way of the bytes, each stage on a thread of its own and bounded:
//!
//! - `source`: the file is read ahead and hashed (`hashing`, `ahead`), then
//!   decoded (`xz`, `gzip`, `zstd`, `zip`)
//! - `disk`: a card's image is split by its partition table; `writer` writes
//!   the ext4 sparse, and `boot_files` takes the files out of the FAT
//! - `tarball`: a root's files (`tar`) are made anew (`extract`) in an ext4 of
//!   ours (`new_root`); `boot_tree` takes the boot files out
//!
//! I/O on the import thread. Everything goes to `images/.importing-*`, which
//! the next opening removes if a cut leaves it there: an import is begun anew
//! as long as its file is on a stick. `checksum` says what the file should be,
//! `known` whether the store has it already, `pace` how long it takes.
//!
//! Measured 2026-11-30 with `tests/bench_import.rs` (it says how to run it): a
//! Raspberry Pi OS-like image of 852 MiB, 475 of them zeros; two idle x86 cores,
//! a virtual disk. Release; seconds, median of three; the ratio is to one command
//! that decodes and writes the same bytes, each round's median.
//!
//! | | import | CPU | command | CPU | ratio | of CPU |
//! |---|---|---|---|---|---|---|
//! | `.img.xz` | 4.4 | 8.3 | 7.0 | 6.7 | 0.63 | 1.24 |
//! | `.img.gz` | 1.1 | 1.3 | 6.0 | 6.5 | 0.18 | 0.19 |
//! | `.img.zst` | 0.8 | 0.9 | 0.9 | 0.9 | 0.89 | 1.00 |
//! | `.zip` | 1.0 | 1.1 | 3.8 | 4.1 | 0.25 | 0.27 |
//! | `.tar.zst` | 0.9 | 1.0 | 2.3 | 2.5 | 0.36 | 0.40 |
//! | `.tar.xz` | 3.6 | 6.7 | 8.4 | 10.1 | 0.40 | 0.63 |
//! | `.img`, to `cp` beside a SHA-256 | 0.8 | 1.1 | 1.1 | 1.1 | 0.75 | 1.04 |
//! | `.img`, to `cp` alone | 0.8 | 1.2 | 0.6 | 0.3 | 1.45 | 3.98 |
//! | the same on a stick of 300 MiB/s, 150 written | 3.0 | 1.1 | 2.9 | 0.3 | 1.02 | 4.43 |
//!
//! An import always hashes its file. SHA-256 of these 893 MB takes 0.64 s and cannot be shared out; `cp` takes 0.46 to
//! 0.55 s from memory to a disk as fast as this one, so there an unpacked image shows it. At a stick's speed it is hidden.

mod ahead;
mod boot_files;
mod boot_tree;
mod checksum;
mod disk;
mod extract;
mod gzip;
mod hashing;
mod known;
mod new_root;
mod pace;
mod source;
mod tar;
mod tarball;
mod writer;
mod xz;
mod zip;
mod zstd;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use self::boot_files::BootFilesError;
use self::pace::Pace;
pub use self::pace::Progress;
use self::source::{Place, Source};
use self::tar::TarError;
pub use self::writer::Method;
use self::zip::ZipError;
use super::identify;
use super::in_place;
use super::manifest::{self, IMAGES, ImageManifest, ImagePaths, SourceFile, UNFINISHED};
use super::mounts::{self, MountError};
use super::packing::{self, Content, Packing};
use super::{aside, atomic, tools};
use crate::client::ImageId;

/// The most that a file may unpack to, holes included. A bomb of zeros takes
/// no room on the stick; it ends here.
const MAX_UNPACKED_BYTES: u64 = 320 << 30;
/// Never taken by an import: the clients' writes need it.
pub const RESERVE_BYTES: u64 = 64 << 20;

/// One file to import.
#[derive(Debug, Clone)]
pub struct Job {
    pub path: PathBuf,
    pub source: SourceFile,
    pub packing: Packing,
    /// The store's top folder.
    pub store: PathBuf,
    /// Where the finished root is mounted for a look.
    pub check_point: PathBuf,
    pub method: Method,
    /// The root of an uncompressed image stays in its file, which lies on a
    /// stick that is there as long as the store is.
    pub in_place: bool,
}

/// How an import ended well.
#[derive(Debug)]
pub struct Imported {
    pub id: ImageId,
    pub manifest: ImageManifest,
    /// It was in the store already, under this id.
    pub known: bool,
}

/// Why a file was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the file is empty")]
    Empty,
    #[error("reading {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the file is cut short at byte {0}")]
    Truncated(u64),
    #[error("the file is damaged at about byte {at}: {reason}")]
    Damaged { at: u64, reason: String },
    #[error("the file needs more memory to unpack than an appliance has: xz takes -9 at most, zstd --long=27")]
    TooMuchMemory,
    #[error("not a Raspberry Pi image: {0}")]
    NotPi(String),
    #[error("the file is cut short, or its partition table lies: {0}")]
    Lying(String),
    #[error("the file does not match {0}")]
    Checksum(String),
    #[error("{0} holds no SHA-256 for the file")]
    NoChecksum(String),
    #[error(transparent)]
    Zip(#[from] ZipError),
    #[error("the tarball is damaged at about byte {at} of the file: {source}")]
    Tar { at: u64, source: TarError },
    #[error("the tarball's entry {0} cannot be made: {1}")]
    Entry(String, &'static str),
    #[error("making a file system for the tarball's files: {0}")]
    MakeRoot(String),
    #[error("no room on the stick: {missing_mib} MiB more are needed")]
    NoRoom { missing_mib: u64 },
    #[error("writing {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Boot(#[from] BootFilesError),
    #[error("this kernel cannot mount the image's root")]
    Mount(#[from] MountError),
    /// Told to nobody: the import is begun anew with a larger one.
    #[error("the file system made for the tarball's files is full")]
    Outgrown,
    #[error("stopped")]
    Stopped,
}

impl ImportError {
    /// What a person can do about it.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Read { .. } => "Check the stick on a computer",
            Self::Empty | Self::Truncated(_) | Self::Damaged { .. } | Self::Checksum(_) | Self::Lying(_) => {
                "Copy the image to the stick again"
            }
            Self::Boot(_) | Self::Tar { .. } => "Download the image again",
            Self::NoChecksum(_) => "Copy the checksum file again, or delete it",
            Self::Zip(ZipError::NoImage | ZipError::Several { .. } | ZipError::PackedTwice { .. }) => {
                "Unpack it on a computer and copy one .img"
            }
            Self::Zip(ZipError::Encrypted { .. } | ZipError::Method { .. } | ZipError::TooMany | ZipError::Split) => {
                "Unpack it on a computer and copy the .img"
            }
            Self::Zip(_) => "Copy the image to the stick again",
            Self::Entry(..) => "Make the tarball anew, of a whole root",
            Self::MakeRoot(_) | Self::Outgrown => "Check the stick, then try again",
            Self::TooMuchMemory => "Unpack it on a computer and copy the .img",
            Self::NotPi(_) | Self::Mount(_) => "Use an image for Raspberry Pi",
            Self::NoRoom { .. } => "Use a larger stick or remove images",
            Self::Write { .. } => "Check the stick, then try again",
            Self::Stopped => "Plug the stick in again",
        }
    }
}

/// What an import that runs is asked and told.
struct Context<'a> {
    job: &'a Job,
    stop: &'a AtomicBool,
    progress: &'a mut dyn FnMut(Progress),
    pace: Pace,
    place: Place,
    hash_unpacked: bool,
}

impl Context<'_> {
    /// The file from its start, for a second attempt.
    fn open_again(&mut self) -> Result<Source, ImportError> {
        let hash_unpacked = self.hash_unpacked;
        let source = Source::open(&self.job.path, self.job.packing.compression, cores(), hash_unpacked)?;
        self.place = source.place();
        self.pace = Pace::new(self.place.packed_bytes);
        Ok(source)
    }

    /// Between two pieces: whether to stop, and how far it is.
    fn check(&mut self) -> Result<(), ImportError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(ImportError::Stopped);
        }
        if let Some(now) = self.pace.next(self.place.read_bytes()) {
            (self.progress)(now);
        }
        Ok(())
    }
}

/// Imports one file. `stop` ends it within one piece.
pub fn import(job: &Job, stop: &AtomicBool, progress: &mut dyn FnMut(Progress)) -> Result<Imported, ImportError> {
    let job = &as_it_is(job);
    let folder = job.store.join(IMAGES).join(format!("{UNFINISHED}{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let result = import_into(&folder, job, stop, progress);
    if result.is_err() {
        let _ = mounts::detach(&job.check_point);
    }
    // Gone by its rename when all went well.
    let _ = fs::remove_dir_all(&folder);
    result
}

/// What a file is counts, not what its name says of its packing: browsers unpack, and people rename.
fn as_it_is(job: &Job) -> Job {
    let mut job = job.clone();
    let head = super::devices::read_head(&job.path, 512).unwrap_or_default();
    let found = packing::packed_by(&head).filter(|&found| {
        // A tarball's first bytes are a name. What is in a zip is a card's image.
        let disk = job.packing.content == Content::Disk;
        disk || !matches!(found, packing::Compression::None | packing::Compression::Zip)
    });
    if let Some(found) = found.filter(|found| *found != job.packing.compression) {
        tracing::warn!(file = job.source.file, ?found, "the file is not packed as its name says");
        job.packing.compression = found;
    }
    job
}

fn import_into(
    folder: &Path,
    job: &Job,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, ImportError> {
    let promises = checksum::beside(&job.path, job.packing.compression)?;
    // A promise about what is in the file can only be checked by unpacking it.
    if promises.unpacked.is_none()
        && let Some(known) = known::by_size(job, promises.packed.as_ref(), stop)?
    {
        return Ok(known);
    }
    fs::create_dir_all(folder).map_err(|source| write_error(folder, source))?;
    let paths = ImagePaths { folder: folder.to_owned() };

    let hash_unpacked = promises.unpacked.is_some();
    let source = Source::open(&job.path, job.packing.compression, cores(), hash_unpacked)?;
    let place = source.place();
    let mut run = Context { job, stop, progress, pace: Pace::new(place.packed_bytes), place, hash_unpacked };
    let (hashes, root_bytes) = match job.packing.content {
        Content::Disk => disk::unpack(source, &paths, &mut run)?,
        Content::Tarball => tarball::unpack(source, &paths, &mut run)?,
    };
    progress(Progress { per_mille: 1000, left: Some(Duration::ZERO) });
    for (promise, found) in [(promises.packed, Some(hashes.packed)), (promises.unpacked, hashes.unpacked)] {
        if let Some(promise) = promise.filter(|promise| Some(promise.sha256) != found) {
            return Err(ImportError::Checksum(promise.file));
        }
    }
    if let Some(known) = known::by_hash(&job.store, &hashes.packed, &job.source) {
        return Ok(known);
    }
    check_root(&paths.root(), &job.check_point, stop)?;
    if let Some(known) = known::by_content(job, &paths, root_bytes, stop)? {
        return Ok(known);
    }

    let id = manifest::image_id(&job.source.file, &hashes.packed);
    let manifest = ImageManifest {
        name: packing::image_name(&job.source.file),
        sha256: manifest::hex(&hashes.packed),
        imported: moment(&job.store),
        root_bytes,
        source: vec![job.source.clone()],
    };
    publish(folder, &paths, &manifest, &ImagePaths::of(&job.store, &id))?;
    Ok(Imported { id, manifest, known: false })
}

/// How many threads may decode.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Makes everything durable, then visible.
fn publish(
    folder: &Path,
    paths: &ImagePaths,
    manifest: &ImageManifest,
    finished: &ImagePaths,
) -> Result<(), ImportError> {
    let failed = |source| write_error(folder, source);
    // A struct of texts and numbers always has a TOML form.
    let text = toml::to_string(manifest).map_err(|error| failed(io::Error::other(error)))?;
    atomic::write_unsynced(&paths.manifest(), text.as_bytes(), 0o644, false).map_err(failed)?;
    let open = File::open(folder).map_err(failed)?;
    rustix::fs::syncfs(&open).map_err(|error| failed(error.into()))?;
    // Of the same file, but damaged since: or it would have been known.
    if fs::symlink_metadata(&finished.folder).is_ok() {
        // images/<id>, so the store is two above it.
        let store = finished.folder.ancestors().nth(2).unwrap_or(folder);
        if known::same_files(&paths.boot(), &finished.boot()) {
            return mend(store, paths, finished, &text).map_err(failed);
        }
        aside::put(store, &finished.folder).map_err(failed)?;
    }
    fs::rename(folder, &finished.folder).map_err(failed)?;
    atomic::sync_folder(finished.folder.parent().unwrap_or(folder)).map_err(failed)
}

/// Puts a new root into a damaged image. Its boot tree stays the folder that it is: overlayfs knows the layer below a
/// client's by its inode, and refuses another one (ESTALE).
fn mend(store: &Path, new: &ImagePaths, image: &ImagePaths, manifest: &str) -> io::Result<()> {
    match aside::put(store, &image.root()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(new.root(), image.root())?;
    atomic::write(&image.manifest(), manifest.as_bytes(), 0o644)
}

fn write_error(path: &Path, source: io::Error) -> ImportError {
    ImportError::Write { path: path.to_owned(), source }
}

/// When an image was imported, in Unix seconds: later than all before it, also
/// where the clock says 1970, because the newest is what new clients get.
fn moment(store: &Path) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let newest = known::images(store).map(|(_, manifest)| manifest.imported).max();
    newest.map_or(now, |newest| now.max(newest.saturating_add(1)))
}

/// Mounts the root once, read-only, before anybody is told of it.
fn check_root(root: &Path, point: &Path, stop: &AtomicBool) -> Result<(), ImportError> {
    let head = super::devices::read_head(root, identify::HEAD_BYTES).map_err(|source| write_error(root, source))?;
    if identify::ext4(&head).is_some_and(|ext4| ext4.needs_recovery) {
        // An image made from a running card: its journal is replayed in our
        // copy, before that becomes the image that never changes.
        let finished = tools::run("e2fsck", &["-p", "-f"], root, Duration::from_secs(600), stop);
        if finished.is_ok_and(|finished| finished.code.is_none_or(|code| code & !3 != 0)) {
            return Err(ImportError::NotPi("its root file system is damaged".into()));
        }
    }
    // The point lies in the folder of this run.
    in_place::mount_root(root, point.parent().unwrap_or(point), point)?;
    let is_root = fs::symlink_metadata(point.join("etc")).is_ok_and(|found| found.is_dir())
        && ["usr", "bin", "sbin"].iter().any(|name| fs::symlink_metadata(point.join(name)).is_ok());
    mounts::unmount(point)?;
    if is_root { Ok(()) } else { Err(ImportError::NotPi("its ext4 partition holds no Linux system".into())) }
}
