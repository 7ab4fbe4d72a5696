//! Whether the file system of an open store still takes writes.
//!
//! I/O. ext4 stops by itself when its journal cannot be written or its structures are found wrong: the stick's lock was
//! slid on, or its flash gives up. Up to Linux 6.11 the mount then is read-only for all to see. Since then it only
//! refuses (`d3476f3dad4a`), so its count of errors is looked at, and a question that begins a step of the journal is
//! asked only when that count has grown: asked each second it would write, and wear the stick.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, StatxFlags};

use crate::ext4;

/// What is known of one open store.
#[derive(Debug, Default)]
pub struct Sound {
    /// `errors_count` below `/sys/fs/ext4`; none for another file system.
    errors: Option<PathBuf>,
    /// As it was when writes were last taken.
    seen: u64,
}

impl Sound {
    /// Of the store that is mounted there.
    pub fn of(folder: &Path) -> Self {
        let errors = errors_file(folder).filter(|file| file.exists());
        let seen = errors.as_deref().and_then(count).unwrap_or(0);
        Self { errors, seen }
    }

    /// Whether it takes writes; true where that cannot be known, since then others tell.
    pub fn takes_writes(&mut self, folder: &Path) -> bool {
        if rustix::fs::statvfs(folder).is_ok_and(|vfs| vfs.f_flag.contains(StatVfsMountFlags::RDONLY)) {
            return false;
        }
        let Some(now) = self.errors.as_deref().and_then(count).filter(|now| *now != self.seen) else { return true };
        let runs = ext4::journal_runs_at(folder);
        if runs {
            self.seen = now;
        }
        runs
    }
}

fn errors_file(folder: &Path) -> Option<PathBuf> {
    let stat = rustix::fs::statx(CWD, folder, AtFlags::empty(), StatxFlags::BASIC_STATS).ok()?;
    let device = format!("/sys/dev/block/{}:{}", stat.stx_dev_major, stat.stx_dev_minor);
    let name = fs::canonicalize(device).ok()?.file_name()?.to_owned();
    Some(Path::new("/sys/fs/ext4").join(name).join("errors_count"))
}

fn count(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_known_writes_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Sound::of(folder.path()).takes_writes(folder.path()));
        assert!(Sound::of(Path::new("/nowhere")).takes_writes(Path::new("/nowhere")));
    }
}
