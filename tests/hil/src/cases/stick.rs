//! The stick: found, read past the cache, and written where a store of ours is.
//!
//! I/O. Nothing is written to a stick without a store, and in a store only a
//! file below `trash`, which the store empties anyway.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rootstock::store::devices::{self, Disk, Wanted};
use rootstock::store::offline;

use crate::bench::{Bench, Part};
use crate::verdict::{Outcome, Trouble, failed, not_proven};

const MIB: usize = 1 << 20;
const READ: usize = 64;
const WRITTEN: usize = 32;
/// An emulated port carries little, and its speed says nothing.
const EMULATED: usize = 4;
/// Clients would wait for their files longer than their loaders do.
const SLOW_READ: f64 = 5.0;
const SLOW_WRITE: f64 = 1.0;

/// A page-aligned chunk, as reads past the cache want it.
#[repr(C, align(4096))]
struct Chunk([u8; MIB]);

impl Chunk {
    fn new() -> Box<Self> {
        // SAFETY: all-zero is a valid array of bytes.
        unsafe { Box::<Self>::new_zeroed().assume_init() }
    }
}

pub fn seen(bench: &Bench) -> Outcome {
    find(bench).map(|disk| format!("{}, {:.1} GB", disk.title, disk.bytes() as f64 / 1e9))
}

pub fn reads(bench: &Bench) -> Outcome {
    let disk = find(bench)?;
    let node = disk.node();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&node);
    let file = file.or_else(|error| failed(format!("{}: {error}", node.display())))?;
    let count = count(bench, READ).min(usize::try_from(disk.bytes()).unwrap_or(usize::MAX) / MIB);
    let (mut chunk, start) = (Chunk::new(), Instant::now());
    for index in 0..count {
        if let Err(error) = file.read_exact_at(&mut chunk.0, (index * MIB) as u64) {
            return failed(format!("{}, at {index} MiB: {error}", node.display()));
        }
    }
    speed(bench, count, start, SLOW_READ)
}

pub fn writes(bench: &Bench) -> Outcome {
    find(bench)?;
    let open = match offline::open(None) {
        Ok(open) => open,
        Err(error @ (offline::Error::NoStick | offline::Error::ManySticks(_))) => return not_proven(error.to_string()),
        Err(error) => return failed(format!("opening the store: {error}")),
    };
    let path = open.site.store.join("trash").join("rootstock-hil");
    let result = fill(&path, count(bench, WRITTEN)).and_then(|()| compare(bench, &path));
    let removed = fs::remove_file(&path);
    let closed = open.close(&AtomicBool::new(false));
    let told = result?;
    match (removed, closed) {
        (Ok(()), Ok(())) => Ok(told),
        (Err(error), _) | (_, Err(error)) => failed(format!("putting the stick in order again: {error}")),
    }
}

fn byte(index: usize) -> u8 {
    (index.wrapping_mul(0x9e37_79b9) >> 13) as u8
}

fn count(bench: &Bench, mib: usize) -> usize {
    if bench.board.emulated.is_some() { EMULATED } else { mib }
}

fn fill(path: &Path, mib: usize) -> Result<(), Trouble> {
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        let mut file = File::create(path)?;
        for part in 0..mib {
            let bytes: Vec<u8> = (part * MIB..(part + 1) * MIB).map(byte).collect();
            file.write_all(&bytes)?;
        }
        file.sync_all()
    };
    write().or_else(|error: std::io::Error| failed(format!("writing: {error}")))
}

/// Reads it back; the speed is that of writing.
fn compare(bench: &Bench, path: &Path) -> Outcome {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
    let file = open.or_else(|error| failed(format!("reading back: {error}")))?;
    let (mut chunk, mib) = (Chunk::new(), count(bench, WRITTEN));
    for part in 0..mib {
        if let Err(error) = file.read_exact_at(&mut chunk.0, (part * MIB) as u64) {
            return failed(format!("reading back: {error}"));
        }
        if let Some(at) = chunk.0.iter().enumerate().position(|(at, found)| *found != byte(part * MIB + at)) {
            return failed(format!("byte {} is not what was written", part * MIB + at));
        }
    }
    // Once more over the same blocks, for the time alone.
    let start = Instant::now();
    fill(path, mib)?;
    speed(bench, mib, start, SLOW_WRITE)
}

fn speed(bench: &Bench, mib: usize, start: Instant, slow: f64) -> Outcome {
    let rate = mib as f64 / start.elapsed().as_secs_f64();
    let told = format!("{mib} MiB at {rate:.1} MiB/s");
    // An emulated port's speed says nothing of a real one's.
    if rate >= slow || bench.board.emulated.is_some() { Ok(told) } else { failed(format!("{told}, below {slow}")) }
}

fn find(bench: &Bench) -> Result<Disk, Trouble> {
    // The card's disk is one of ours where the board boots from USB.
    let boot = fs::read_to_string("/run/rootstock/boot-device").unwrap_or_default();
    let wanted = Wanted { ignore: boot.split_whitespace().map(str::to_owned).collect(), extra: Vec::new() };
    devices::list(&wanted).into_iter().next().map_or_else(|| bench.absent(Part::Stick, "no USB stick"), Ok)
}
