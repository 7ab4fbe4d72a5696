//! Imports an image file: streamed, hashed, split into root and boot files,
//! and shown to the rest by one rename.
//!
//! I/O on the import thread, with a writing thread of its own, so that
//! decoding is what takes the time. Everything goes to `images/.importing-*`,
//! which the next opening removes if a cut leaves it there.
//!
//! Measured 2026-11-22 with `tests/bench_import.rs` (it says how to run it):
//! a Raspberry Pi OS-like image of 852 MiB, 95 MiB as `.xz`, on two shared
//! x86 cores under a load of 5 and a virtual disk; best and median of three,
//! in seconds. Release without LTO.
//!
//! | | `.img.xz` | `.img` | CPU `.xz` | CPU `.img` |
//! |---|---|---|---|---|
//! | import by io_uring | 5.1, 10.6 | 0.94, 1.46 | 6.4 | 0.83 |
//! | import by plain writes | 7.1, 7.9 | 0.88, 1.00 | 6.5 | 0.84 |
//! | `xz -dc -T1 > file; sync` | 5.2, 6.4 | | | |
//! | `xz -dc -T2 > file; sync` | 5.7, 9.6 | | | |
//! | `cp --sparse=never; sync` | | 0.62, 0.76 | | |
//!
//! What that shows: all but decoding is 0.84 of 6.4 s of CPU, so an import is
//! bound by decoding. What it does not: the wall clock of one command varied
//! by 2 under that load. io_uring beside `xz -T1` is 0.99 by the best and 1.66
//! by the median, beside `-T2` 0.89 and 1.11; beside plain writes 0.72 and
//! 1.35, and for the `.img` 1.07 and 1.46. So neither the bound of 1.2 nor a
//! gain by io_uring is proven; that needs an idle machine, and a real stick.

mod boot_files;
mod source;
mod writer;
mod xz;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use self::boot_files::BootFilesError;
use self::source::Source;
pub use self::writer::Method;
use self::writer::{Part, Writer};
use super::identify::{self, Content};
use super::manifest::{self, IMAGES, ImageManifest, ImagePaths, Packing, SourceFile, UNFINISHED};
use super::mounts::{self, MountError};
use super::table::{self, Extent};
use super::{atomic, tools};
use crate::client::ImageId;

/// Bytes that are decoded and written at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Largest root partition that is taken.
const MAX_ROOT_BYTES: u64 = 256 << 30;
const MAX_BOOT_BYTES: u64 = 4 << 30;
/// What an image may hold beyond its last partition.
const MAX_TAIL_BYTES: u64 = 64 << 20;
/// Never taken by an import: the clients' writes need it.
pub const RESERVE_BYTES: u64 = 64 << 20;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
const SECTOR_BYTES: u64 = 512;

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
    #[error("reading {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the file is cut short at byte {0}")]
    Truncated(u64),
    #[error("the file is damaged at about byte {at}: {reason}")]
    Damaged { at: u64, reason: String },
    #[error("the file needs more memory to unpack than this appliance has")]
    TooMuchMemory,
    #[error("not a Raspberry Pi image: {0}")]
    NotPi(String),
    #[error("the file is cut short, or its partition table lies: {0}")]
    Lying(String),
    #[error("the file does not match {0}")]
    Checksum(String),
    #[error("no room on the stick: {missing_mib} MiB more are needed")]
    NoRoom { missing_mib: u64 },
    #[error("writing {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Boot(#[from] BootFilesError),
    #[error("this kernel cannot mount the image's root")]
    Mount(#[from] MountError),
    #[error("stopped")]
    Stopped,
}

impl ImportError {
    /// What a person can do about it.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Read { .. } => "Check the stick on a computer",
            Self::Truncated(_) | Self::Damaged { .. } | Self::Checksum(_) | Self::Lying(_) => {
                "Copy the image to the stick again"
            }
            Self::Boot(_) => "Download the image again",
            Self::TooMuchMemory => "Unpack it on a computer and copy the .img",
            Self::NotPi(_) | Self::Mount(_) => "Use an image for Raspberry Pi",
            Self::NoRoom { .. } => "Use a larger stick or remove images",
            Self::Write { .. } => "Check the stick, then try again",
            Self::Stopped => "Plug the stick in again",
        }
    }
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub per_mille: u16,
    pub left: Option<Duration>,
}

/// Imports one file. `stop` ends it within one piece.
pub fn import(job: &Job, stop: &AtomicBool, progress: &mut dyn FnMut(Progress)) -> Result<Imported, ImportError> {
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

fn import_into(
    folder: &Path,
    job: &Job,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, ImportError> {
    let expected = expected_hash(job);
    fs::create_dir_all(folder).map_err(|source| write_error(folder, source))?;
    let paths = ImagePaths { folder: folder.to_owned() };
    let fat = folder.join("boot.fat");

    let (sha256, root_bytes) = unpack(job, &paths.root(), &fat, stop, progress)?;
    if let Some((file, _)) = expected.filter(|(_, hash)| *hash != sha256) {
        return Err(ImportError::Checksum(file));
    }
    let id = manifest::image_id(&job.source.file, &sha256);
    if let Some(known) = known_image(&job.store, &sha256, &job.source) {
        return Ok(known);
    }
    fs::create_dir(paths.boot()).map_err(|source| write_error(&paths.boot(), source))?;
    let boot_files = boot_files::extract(&fat, &paths.boot())?;
    if boot_files == 0 {
        return Err(ImportError::NotPi("its boot partition is empty".into()));
    }
    fs::remove_file(&fat).map_err(|source| write_error(&fat, source))?;
    check_root(&paths.root(), &job.check_point, stop)?;

    let manifest = ImageManifest {
        name: manifest::image_name(&job.source.file),
        sha256: manifest::hex(&sha256),
        imported: unix_now(),
        root_bytes,
        source: vec![job.source.clone()],
    };
    publish(folder, &paths, &manifest, &ImagePaths::of(&job.store, &id))?;
    Ok(Imported { id, manifest, known: false })
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
    fs::rename(folder, &finished.folder).map_err(failed)?;
    atomic::sync_folder(finished.folder.parent().unwrap_or(folder)).map_err(failed)
}

fn write_error(path: &Path, source: io::Error) -> ImportError {
    ImportError::Write { path: path.to_owned(), source }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The hash in `NAME.sha256` beside the file, with that file's name.
fn expected_hash(job: &Job) -> Option<(String, [u8; 32])> {
    let name = format!("{}.sha256", job.source.file);
    let bytes = atomic::read_bounded(&job.path.with_file_name(&name), 64 << 10).ok()?;
    Some((name, manifest::parse_sha256(&String::from_utf8_lossy(&bytes), &job.source.file)?))
}

/// An image that came from the same bytes; it remembers this file from now on.
fn known_image(store: &Path, sha256: &[u8; 32], source: &SourceFile) -> Option<Imported> {
    let hex = manifest::hex(sha256);
    for entry in fs::read_dir(store.join(IMAGES)).ok()?.take(10_000).filter_map(Result::ok) {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<ImageId>().ok()) else { continue };
        let paths = ImagePaths::of(store, &id);
        let Ok(bytes) = atomic::read_bounded(&paths.manifest(), manifest::MAX_MANIFEST_BYTES) else { continue };
        let Ok(mut manifest) = manifest::parse_image(&bytes) else { continue };
        if manifest.sha256 == hex {
            manifest.add_source(source.clone());
            let text = toml::to_string(&manifest).ok()?;
            let _ = atomic::write(&paths.manifest(), text.as_bytes(), 0o644);
            return Some(Imported { id, manifest, known: true });
        }
    }
    None
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
    Ok(Layout { partitions, end })
}

/// Decodes the file and writes its FAT and ext4 partitions; returns the
/// file's hash and the root's size.
fn unpack(
    job: &Job,
    root: &Path,
    fat: &Path,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<([u8; 32], u64), ImportError> {
    let read_error = |source: io::Error| ImportError::Read { path: job.path.clone(), source };
    let file = File::open(&job.path).map_err(read_error)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let opened = Source::open(file, job.packing, cores);
    let mut source = opened.map_err(|error| decode_error(job, error, job.source.bytes))?;
    let mut writer = Writer::start(root, fat, &job.store, source.packed_bytes, job.method)?;
    let mut pace = Pace::new(source.packed_bytes);

    let mut layout: Option<Layout> = None;
    let mut parts = Parts::default();
    let mut at = 0u64;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(ImportError::Stopped);
        }
        let piece = read_piece(&mut source).map_err(|error| decode_error(job, error, source.read_bytes()))?;
        if piece.is_empty() {
            break;
        }
        if layout.is_none() {
            layout = Some(self::layout(&piece, source.unpacked_bytes)?);
        }
        if let Some(layout) = &layout {
            if at > layout.end.saturating_add(MAX_TAIL_BYTES) {
                return Err(ImportError::Lying("the file holds far more than its partitions".into()));
            }
            parts.take(layout, at, &piece, &mut writer)?;
        }
        at += piece.len() as u64;
        if let Some(now) = pace.next(source.read_bytes()) {
            progress(now);
        }
    }
    let found = parts.finish(at)?;
    writer.finish(found.root.1, found.boot.1)?;
    let sha256 = source.finish().map_err(read_error)?;
    progress(Progress { per_mille: 1000, left: Some(Duration::ZERO) });
    Ok((sha256, found.root.1))
}

/// Reads until a piece is full or the image ends.
fn read_piece(source: &mut Source) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut filled = 0;
    while filled < piece.len() {
        // The decoder meets whatever a stranger put into the file.
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| source.read(&mut piece[filled..])));
        match read.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::InvalidData, "the decoder gave up"))) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    piece.truncate(filled);
    Ok(piece)
}

fn decode_error(job: &Job, error: io::Error, at: u64) -> ImportError {
    match (job.packing, error.kind()) {
        // A system call that failed is the stick's fault, not the file's.
        _ if error.raw_os_error().is_some() => ImportError::Read { path: job.path.clone(), source: error },
        (Packing::Plain, _) => ImportError::Read { path: job.path.clone(), source: error },
        (_, io::ErrorKind::UnexpectedEof) => ImportError::Truncated(at),
        (_, io::ErrorKind::OutOfMemory) => ImportError::TooMuchMemory,
        _ => ImportError::Damaged { at, reason: error.to_string() },
    }
}

/// A partition of the image: where it starts and how long it is, in bytes.
type Run = (u64, u64);

struct Found {
    root: Run,
    boot: Run,
}

/// Tells the partitions by their first 4 KiB as they come by, and passes their
/// bytes on.
#[derive(Default)]
struct Parts {
    root: Option<(Run, u64)>,
    boot: Option<Run>,
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
                Ok(Some(Part::Root))
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
        if whole { Ok(Found { root, boot }) } else { Err(ImportError::Truncated(bytes)) }
    }
}

/// Progress by the source's bytes, at most four times a second.
struct Pace {
    started: Instant,
    shown: Instant,
    total: u64,
}

impl Pace {
    fn new(total: u64) -> Self {
        let now = Instant::now();
        Self { started: now, shown: now, total: total.max(1) }
    }

    fn next(&mut self, done: u64) -> Option<Progress> {
        if self.shown.elapsed() < PROGRESS_INTERVAL {
            return None;
        }
        self.shown = Instant::now();
        Some(progress(done, self.total, self.started.elapsed()))
    }
}

/// The share done and, after two seconds, the time left at the pace so far.
fn progress(done: u64, total: u64, elapsed: Duration) -> Progress {
    let share = done.min(total) as f64 / total as f64;
    let known = elapsed >= Duration::from_secs(2) && share > 0.001;
    // At most 1000 and elapsed × 1000: no conversion can fail.
    let left = known.then(|| elapsed.mul_f64((1.0 - share) / share));
    Progress { per_mille: ((share * 1000.0) as u16).min(999), left }
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
    mounts::image_root(root, point)?;
    let is_root = fs::symlink_metadata(point.join("etc")).is_ok_and(|found| found.is_dir())
        && ["usr", "bin", "sbin"].iter().any(|name| fs::symlink_metadata(point.join(name)).is_ok());
    mounts::unmount(point)?;
    if is_root { Ok(()) } else { Err(ImportError::NotPi("its ext4 partition holds no Linux system".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_the_pace_and_100_percent_waits_for_the_end() {
        let check = |done, seconds, expected: (u16, Option<u64>)| {
            let now = progress(done, 1000, Duration::from_secs(seconds));
            assert_eq!((now.per_mille, now.left.map(|left| left.as_secs())), expected);
        };
        check(0, 10, (0, None));
        check(500, 1, (500, None));
        check(250, 10, (250, Some(30)));
        check(1000, 10, (999, Some(0)));
        check(5000, 10, (999, Some(0)));
    }

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
