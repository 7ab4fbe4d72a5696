//! Reads a partition, and carries a plan out.
//!
//! I/O. While a store is made the partition is held exclusively, so that
//! nobody mounts it in between; through its driver it is never written.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Media, Plan, Refusal, Rule, Span, Step, find, offer, plan};

/// What a FAT32 or exFAT partition means for a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It lies there.
    Store(Span),
    /// One of so many bytes could be made.
    Offer(u64),
    /// One lies there that cannot be used.
    Broken(Refusal),
    /// None can be made.
    NoRoom(Refusal),
}

/// Why no store was made. The file system is as it was, or has clusters that
/// nobody owns until the next attempt takes them.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0} is in use")]
    Busy(PathBuf),
    #[error("opening {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("writing to {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("the store on {0} cannot be found again")]
    NotFound(PathBuf),
}

struct Partition {
    file: File,
    bytes: u64,
}

impl Partition {
    fn new(mut file: File) -> io::Result<Self> {
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, bytes })
    }
}

impl Media for Partition {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }
}

/// Reads only.
pub fn look(device: &Path, rule: Rule) -> Look {
    let read_failed = |error: io::Error| Refusal::Read { at: 0, error: error.to_string() };
    let partition = match File::open(device).and_then(Partition::new).map_err(read_failed) {
        Ok(partition) => partition,
        Err(refusal) => return Look::NoRoom(refusal),
    };
    match find(&partition) {
        Ok(Some(span)) => Look::Store(span),
        Ok(None) => offer(&partition, rule).map_or_else(Look::NoRoom, Look::Offer),
        Err(refusal @ (Refusal::Fragmented(_) | Refusal::Cut { .. } | Refusal::NotAStore)) => Look::Broken(refusal),
        Err(refusal) => Look::NoRoom(refusal),
    }
}

/// A store on its way: the plan stands, ext4 is to be made in `span`, then
/// `finish` shows it.
pub struct Making {
    path: PathBuf,
    partition: Partition,
    plan: Plan,
}

impl Making {
    /// Nothing is written yet.
    pub fn begin(device: &Path, rule: Rule) -> Result<Self, MakeError> {
        let path = device.to_owned();
        let open = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(device);
        let partition = open.and_then(Partition::new).map_err(|source| match source.kind() {
            io::ErrorKind::ResourceBusy => MakeError::Busy(path.clone()),
            _ => MakeError::Open { path: path.clone(), source },
        })?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let plan = plan(&partition, rule, now)?;
        Ok(Self { path, partition, plan })
    }

    pub fn span(&self) -> Span {
        self.plan.span
    }

    pub fn finish(self) -> Result<(), MakeError> {
        let failed = |source| MakeError::Write { path: self.path.clone(), source };
        for step in &self.plan.steps {
            write(&self.partition.file, step).map_err(failed)?;
        }
        match find(&self.partition)? {
            Some(span) if span == self.plan.span => Ok(()),
            _ => Err(MakeError::NotFound(self.path)),
        }
    }
}

fn write(file: &File, step: &Step) -> io::Result<()> {
    for write in step {
        file.write_all_at(&write.bytes, write.at)?;
    }
    file.sync_all()
}
