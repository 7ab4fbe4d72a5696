//! A file system that takes no writes for a while: what is read of it then is
//! one moment's.
//!
//! I/O. The kernel keeps it frozen whatever becomes of this process, so a
//! thread thaws it after a limit, the drop does, and the next start (`thaw`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ext4;

/// `FIFREEZE` and `FITHAW` of linux/fs.h: `_IOWR('X', 119 and 120, int)`.
const FIFREEZE: u32 = 0xc004_5877;
const FITHAW: u32 = 0xc004_5878;

/// Frozen until it ends, is dropped, or the limit is over.
pub struct Frozen {
    began: Instant,
    end: Option<Sender<()>>,
    /// Tells whether it lasted until its end.
    watch: Option<JoinHandle<bool>>,
    /// The file system refuses writes by itself, and cannot be frozen: its journal has stopped.
    stands_still: bool,
}

impl Frozen {
    /// Everything dirty is written out first, by the kernel.
    pub fn begin(folder: &Path, limit: Duration) -> io::Result<Self> {
        let open = File::open(folder)?;
        let (end, ended) = channel();
        let (ready_to, ready) = channel();
        // The thread first: without it nothing is frozen.
        let watch = std::thread::Builder::new().name("freeze".into()).spawn(move || {
            let frozen = control(&open, FIFREEZE);
            let failed = frozen.is_err();
            let _ = ready_to.send(frozen);
            if failed {
                return false;
            }
            let lasted = !matches!(ended.recv_timeout(limit), Err(RecvTimeoutError::Timeout));
            if let Err(error) = control(&open, FITHAW) {
                tracing::warn!(%error, "the stick stays frozen");
            }
            lasted
        })?;
        let mut frozen = Self { began: Instant::now(), end: Some(end), watch: Some(watch), stands_still: false };
        match ready.recv() {
            Ok(Ok(())) => Ok(frozen),
            Ok(Err(_)) if !ext4::journal_runs_at(folder) => {
                frozen.stands_still = true;
                Ok(frozen)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Lets writes go on; whether they were held all the time, and how long.
    pub fn end(mut self) -> (bool, Duration) {
        (self.finish(), self.began.elapsed())
    }

    fn finish(&mut self) -> bool {
        drop(self.end.take());
        let lasted = self.watch.take().is_some_and(|watch| watch.join().unwrap_or(false));
        lasted || self.stands_still
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Thaws what a run that was killed left frozen.
pub fn thaw(folder: &Path) {
    if let Ok(open) = File::open(folder) {
        // EINVAL: it is not.
        let _ = control(&open, FITHAW);
    }
}

fn control(open: &File, request: u32) -> io::Result<()> {
    // SAFETY: neither request takes an argument.
    match unsafe { libc::ioctl(open.as_raw_fd(), request as _, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
