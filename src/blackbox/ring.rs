//! The ring: two files in the run folder that take turns, so that the newest
//! half is always whole.
//!
//! I/O. The run folder is a tmpfs on the appliance: writing costs a copy, and what
//! was written outlives the process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::record::{self, Record, Seen};

/// When a segment is so long, the other one is begun anew. A boot leaves some 60 KiB.
pub const SEGMENT_BYTES: u64 = 1 << 20;

const NAMES: [&str; 2] = ["black-box.0", "black-box.1"];
/// What a server that crashed left, until it is reported.
const CRASHED: [&str; 2] = ["black-box.crashed.0", "black-box.crashed.1"];

#[derive(Debug)]
pub struct Ring {
    folder: PathBuf,
    current: File,
    written: u64,
    /// Of the current segment.
    number: u64,
}

/// What the server before this one left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing, or it ended in order.
    Nothing,
    Crash,
}

impl Ring {
    /// Begins a new ring in this folder; one that a crash left is put aside first.
    pub fn open(folder: &Path) -> io::Result<(Self, Left)> {
        fs::create_dir_all(folder)?;
        let before = read_files(folder, NAMES);
        let crashed = before.iter().any(|record| !matches!(record.seen, Seen::Segment(_)))
            && !before.iter().any(|record| record.seen == Seen::End);
        for (name, aside) in NAMES.iter().zip(CRASHED) {
            if crashed {
                let _ = fs::rename(folder.join(name), folder.join(aside));
            } else {
                let _ = fs::remove_file(folder.join(name));
            }
        }
        let mut ring = Self { folder: folder.to_owned(), current: begin(folder, 0)?, written: 0, number: 0 };
        ring.head()?;
        // Also one that no stick was there for at the last start.
        let left = CRASHED.iter().any(|name| folder.join(name).exists());
        Ok((ring, if left { Left::Crash } else { Left::Nothing }))
    }

    pub fn add(&mut self, record: &Record) -> io::Result<()> {
        let bytes = record.encode();
        if self.written + bytes.len() as u64 > SEGMENT_BYTES {
            self.number += 1;
            self.current = begin(&self.folder, self.number)?;
            self.written = 0;
            self.head()?;
        }
        self.put(&bytes)
    }

    fn head(&mut self) -> io::Result<()> {
        self.put(&Record { at: 0, seen: Seen::Segment(self.number) }.encode())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.current.write_all(bytes)
    }

    /// All that it holds, oldest first.
    pub fn records(&self) -> Vec<Record> {
        read_files(&self.folder, NAMES)
    }
}

/// What a crash left in this folder, oldest first.
pub fn crashed(folder: &Path) -> Vec<Record> {
    read_files(folder, CRASHED)
}

/// It is reported: nothing is left to tell.
pub fn forget_crash(folder: &Path) {
    for name in CRASHED {
        let _ = fs::remove_file(folder.join(name));
    }
}

fn begin(folder: &Path, number: u64) -> io::Result<File> {
    let name = NAMES[usize::from(number % 2 == 1)];
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(folder.join(name))
}

fn read_files(folder: &Path, names: [&str; 2]) -> Vec<Record> {
    let mut segments: Vec<Vec<Record>> = names
        .iter()
        .filter_map(|name| crate::store::atomic::read_bounded(&folder.join(name), 2 * SEGMENT_BYTES).ok())
        .map(|bytes| record::read(&bytes))
        .collect();
    segments.sort_by_key(|records| match records.first().map(|record| &record.seen) {
        Some(Seen::Segment(number)) => *number,
        _ => 0,
    });
    segments.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: u64) -> Record {
        Record { at: n, seen: Seen::Log(format!("line {n} {}", "x".repeat(900))) }
    }

    fn numbers(records: &[Record]) -> Vec<u64> {
        records.iter().filter(|record| matches!(record.seen, Seen::Log(_))).map(|record| record.at).collect()
    }

    #[test]
    fn the_newest_entries_stay_in_order_and_the_files_stay_small() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ring, left) = Ring::open(folder.path()).unwrap();
        assert_eq!(left, Left::Nothing);
        for n in 1..=5000 {
            ring.add(&line(n)).unwrap();
        }
        let held = numbers(&ring.records());
        assert_eq!(held.last(), Some(&5000));
        assert!(held.len() > 1000 && held.windows(2).all(|pair| pair[1] == pair[0] + 1), "{} lines", held.len());
        for name in NAMES {
            assert!(fs::metadata(folder.path().join(name)).unwrap().len() <= SEGMENT_BYTES);
        }
    }

    #[test]
    fn what_a_crash_left_is_kept_until_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ring, _) = Ring::open(folder.path()).unwrap();
        ring.add(&line(1)).unwrap();
        drop(ring);
        // Cut inside an entry, as by a kill.
        let path = folder.path().join(NAMES[0]);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend([200, 0, 0, 0, 3]);
        fs::write(&path, bytes).unwrap();
        for _ in 0..2 {
            let (mut ring, left) = Ring::open(folder.path()).unwrap();
            assert_eq!(left, Left::Crash);
            assert_eq!(numbers(&crashed(folder.path())), [1]);
            ring.add(&Record { at: 2, seen: Seen::End }).unwrap();
        }
        forget_crash(folder.path());
        assert_eq!(Ring::open(folder.path()).unwrap().1, Left::Nothing);
    }

    #[test]
    fn an_end_in_order_leaves_nothing_to_tell() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ring, _) = Ring::open(folder.path()).unwrap();
        ring.add(&line(1)).unwrap();
        ring.add(&Record { at: 2, seen: Seen::End }).unwrap();
        assert_eq!(Ring::open(folder.path()).unwrap().1, Left::Nothing);
    }
}
