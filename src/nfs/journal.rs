//! The file behind the reply cache: what a server that is killed leaves to the
//! next one. I/O: one `pwrite` an intent, one an answer, in memory: 0.8 µs each
//! (400 bytes into a tmpfs, measured 2026-11-22), and none for calls that change nothing.
//!
//! It lies in the run directory, a tmpfs: it outlives the process and not
//! the power, and no byte of it goes to the stick. It is never fsynced, since a killed process's
//! writes are in the kernel already. Another boot's file is not read: what was
//! done before a power cut may be undone on the stick.
//!
//! ```text
//! 0..4096   magic and the kernel's boot_id
//! 4096..    slots of RECORD_BYTES, SLOTS_PER_CLIENT a client, MAX_CLIENTS times; sparse
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FlockOperation;

use super::intent::{self, RECORD_BYTES, Record, State};
use super::reply_cache::{Key, MAX_CLIENTS, SLOTS_PER_CLIENT};

const MAGIC: &[u8; 16] = b"rootstock calls1";
const HEAD: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open the journal of calls {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("read the journal of calls {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("another server uses the journal of calls {path}")]
    Taken { path: PathBuf },
}

#[derive(Debug)]
pub struct Journal {
    file: File,
    /// Told once: the calls are served all the same.
    failed: AtomicBool,
    closed: AtomicBool,
}

impl Journal {
    /// The journal, and what the server before this one left in it by slot.
    pub fn open(path: &Path) -> Result<(Self, Vec<(u32, Record)>), Error> {
        let wrong = |source| Error::Open { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(wrong)?;
        }
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(path)
            .map_err(wrong)?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::Taken { path: path.to_owned() });
        }
        let journal = Self { file, failed: AtomicBool::new(false), closed: AtomicBool::new(false) };
        let left = journal.read().map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Ok((journal, left))
    }

    fn read(&self) -> io::Result<Vec<(u32, Record)>> {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id")?;
        let head = [&MAGIC[..], &boot].concat();
        let mut found = vec![0; head.len()];
        if self.file.read_exact_at(&mut found, 0).is_err() || found != head {
            self.file.set_len(0)?;
            self.file.write_all_at(&head, 0)?;
            return Ok(Vec::new());
        }
        let slots = (self.file.metadata()?.len().saturating_sub(HEAD)).div_ceil(RECORD_BYTES as u64);
        let slots = (slots as usize).min(MAX_CLIENTS * SLOTS_PER_CLIENT);
        let mut left = Vec::new();
        // A client's slots at once: whoever made no change has none of them in memory.
        let mut bytes = vec![0; SLOTS_PER_CLIENT * RECORD_BYTES];
        for first in (0..slots).step_by(SLOTS_PER_CLIENT) {
            let mut filled = 0;
            while filled < bytes.len() {
                match self.file.read_at(&mut bytes[filled..], offset(first as u32) + filled as u64)? {
                    0 => break,
                    count => filled += count,
                }
            }
            let records = bytes[..filled].chunks(RECORD_BYTES).zip(first as u32..);
            left.extend(records.filter_map(|(bytes, slot)| Some((slot, intent::decode(bytes)?))));
        }
        Ok(left)
    }

    /// Puts a record into its slot, over what was there.
    pub fn write(&self, slot: u32, address: std::net::Ipv4Addr, began: u64, key: Key, state: &State) {
        // What does not fit is not remembered; `MAX_REPLY_BYTES` and the names' bound let everything fit.
        let Some(bytes) = intent::encode(address, began, key, state) else { return };
        self.put(slot, &bytes);
    }

    pub fn clear(&self, slot: u32) {
        self.put(slot, &[0; 16]);
    }

    /// Leaves it to the next server, also while a thread of this one still waits for a dead stick:
    /// what such a call does now is found out by looking.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // It fails only where the lock was never had.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }

    fn put(&self, slot: u32, bytes: &[u8]) {
        if self.closed.load(Ordering::SeqCst) {
            return;
        }
        if let Err(error) = self.file.write_all_at(bytes, offset(slot))
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "calls are not remembered over a restart of the server");
        }
    }
}

fn offset(slot: u32) -> u64 {
    HEAD + u64::from(slot) * RECORD_BYTES as u64
}

/// The clock of `Record::began`: goes on while the server is dead, starts anew with the machine.
pub fn milliseconds_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither is negative for this clock.
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const A: Ipv4Addr = Ipv4Addr::LOCALHOST;

    fn key(xid: u32) -> Key {
        Key { xid, procedure: 12, checksum: 1 }
    }

    fn answered(byte: u8) -> State {
        State::Answered([byte; 100].into())
    }

    #[test]
    fn what_was_written_is_there_for_the_next_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/calls");
        let (journal, left) = Journal::open(&path).unwrap();
        assert!(left.is_empty());
        let last = (MAX_CLIENTS * SLOTS_PER_CLIENT - 1) as u32;
        for (slot, byte) in [(0, 1), (1, 2), (130, 3), (last, 4), (1, 5), (2, 6)] {
            journal.write(slot, A, 9, key(slot), &answered(byte));
        }
        journal.clear(2);
        drop(journal);
        let (_, left) = Journal::open(&path).unwrap();
        let left: Vec<_> = left.into_iter().map(|(slot, record)| (slot, record.key.xid, record.state)).collect();
        let expected = [(0, 1), (1, 5), (130, 3), (last, 4)].map(|(slot, byte)| (slot, slot, answered(byte)));
        assert_eq!(left, expected);
    }

    #[test]
    fn another_boots_or_a_foreign_file_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls");
        let (journal, _) = Journal::open(&path).unwrap();
        journal.write(0, A, 9, key(1), &answered(1));
        journal.file.write_all_at(b"another-boot", MAGIC.len() as u64).unwrap();
        drop(journal);
        assert!(Journal::open(&path).unwrap().1.is_empty());
        std::fs::write(&path, [0xff; 20_000]).unwrap();
        assert!(Journal::open(&path).unwrap().1.is_empty());
        assert!(std::fs::metadata(&path).unwrap().len() < HEAD);
    }

    #[test]
    fn a_file_of_rubbish_behind_a_good_head_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls");
        let (journal, _) = Journal::open(&path).unwrap();
        journal.file.write_all_at(&[0xa5; 300_000], HEAD).unwrap();
        // Longer than any that we write: read to its bound, in no more memory than one client's slots.
        journal.file.set_len(1 << 40).unwrap();
        drop(journal);
        assert!(Journal::open(&path).unwrap().1.is_empty());
    }

    #[test]
    fn two_servers_do_not_share_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls");
        let first = Journal::open(&path).unwrap();
        assert!(matches!(Journal::open(&path), Err(Error::Taken { .. })));
        drop(first);
        assert!(Journal::open(&path).is_ok());
    }
}
