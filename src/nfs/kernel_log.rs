//! Whether the kernel said anything since somebody asked last. I/O: reads `/dev/kmsg`.
//!
//! jbd2 says of each journal that it aborts (fs/jbd2/journal.c, `jbd2_journal_abort`), and under the lock under which it
//! marks it so: while the kernel has said nothing, no journal was aborted. To ask for that costs half a µs. To
//! ask a journal costs six, and may have to wait until the changes of others are written. That the log is in time is
//! shown on the appliance's own kernel by `tests/nfs_linux` (`guest/src/journal.rs`), with disks whose journal has a bad block.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

/// Longer than a record is (kernel/printk/printk.c, `PRINTK_MESSAGE_MAX`); one that is not is told by an error.
const RECORD_BYTES: usize = 4096;
/// Read at once at most: a kernel that does not stop talking has said something.
const MAX_RECORDS: usize = 1000;

/// Its reader, and how often it was found to have said something. Without a log nothing is known, ever.
#[derive(Debug)]
pub struct KernelLog(Option<Mutex<(File, u64)>>);

impl KernelLog {
    /// From now on.
    pub fn open() -> Self {
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let log = File::options().read(true).custom_flags(flags).open("/dev/kmsg");
        match log.and_then(|mut log| log.seek(SeekFrom::End(0)).map(|_| log)) {
            Ok(log) => Self::on(log),
            Err(error) => {
                tracing::debug!(%error, "the kernel's log cannot be read");
                Self(None)
            }
        }
    }

    fn on(log: File) -> Self {
        Self(Some(Mutex::new((log, 0))))
    }

    /// Another number than before if the kernel said anything since; `None` where that is not known.
    pub fn news(&self) -> Option<u64> {
        let mut log = self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let (log, news) = &mut *log;
        let mut record = [0; RECORD_BYTES];
        for read in 0..MAX_RECORDS {
            match log.read(&mut record).map_err(|error| error.kind()) {
                // EPIPE: records were lost; EINVAL: one was too long.
                Ok(1..) | Err(ErrorKind::BrokenPipe | ErrorKind::InvalidInput) => {
                    if read == 0 {
                        *news += 1;
                    }
                }
                Err(ErrorKind::WouldBlock) => return Some(*news),
                Err(ErrorKind::Interrupted) => {}
                Ok(0) | Err(_) => return None,
            }
        }
        Some(*news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;

    /// A log, and who speaks.
    fn log() -> (KernelLog, File) {
        let (read, write): (OwnedFd, OwnedFd) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        (KernelLog::on(read.into()), write.into())
    }

    #[test]
    fn the_number_changes_when_something_was_said_and_only_then() {
        let (log, mut kernel) = log();
        let silent = log.news().unwrap();
        assert_eq!(log.news(), Some(silent));
        kernel.write_all(b"3,1,1,-;Aborting journal on device loop0-8.\n").unwrap();
        let said = log.news().unwrap();
        assert_ne!(said, silent);
        assert_eq!(log.news(), Some(said));
    }

    #[test]
    fn a_log_that_ends_or_is_not_there_tells_nothing() {
        let (log, kernel) = log();
        drop(kernel);
        assert_eq!(log.news(), None);
        assert_eq!(KernelLog(None).news(), None);
    }
}
