//! `/dev/watchdog`: the hardware restarts the machine when PID 1's loop stops
//! turning. I/O; `next_ping` is arithmetic.
//!
//! The Pi's (`bcm2835_wdt`) counts at most 15 s; QEMU's `i6300esb` 30 s.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// `_IOR('W', 7, int)` of include/uapi/linux/watchdog.h.
const WDIOC_GETTIMEOUT: libc::Ioctl = 0x8004_5707_u32 as libc::Ioctl;

/// An armed watchdog. Dropping it leaves it armed, so the machine restarts: that is meant.
#[derive(Debug)]
pub struct Watchdog {
    file: File,
    interval: Duration,
    next: Duration,
}

impl Watchdog {
    /// Opening arms it. `now` is any clock that only goes forward.
    pub fn open(path: &Path, now: Duration) -> io::Result<Self> {
        let file = File::options().write(true).open(path)?;
        let mut seconds: libc::c_int = 0;
        // SAFETY: the request writes one int to the pointer, which is valid for it.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), WDIOC_GETTIMEOUT, &raw mut seconds) };
        let timeout = (result == 0).then(|| u64::try_from(seconds).ok()).flatten();
        Ok(Self { file, interval: interval(timeout), next: now })
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// When `ping` must be called next.
    pub fn next_ping(&self) -> Duration {
        self.next
    }

    /// Pings when it is time.
    pub fn ping(&mut self, now: Duration) -> io::Result<()> {
        if now < self.next {
            return Ok(());
        }
        self.next = now + self.interval;
        self.file.write_all(b"\0")
    }

    /// Disarms it by the magic close, only for an ordered power-off.
    pub fn close(mut self) -> io::Result<()> {
        self.file.write_all(b"V")
    }
}

/// A third of the timeout, so that two late turns of the loop are survived; 2 s where the driver cannot tell.
fn interval(timeout_seconds: Option<u64>) -> Duration {
    let timeout = timeout_seconds.filter(|&seconds| seconds > 0).map(Duration::from_secs);
    timeout.map_or(Duration::from_secs(2), |timeout| (timeout / 3).min(Duration::from_secs(10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_follows_the_hardwares_timeout() {
        for (timeout, milliseconds) in
            [(Some(15), 5000), (Some(30), 10_000), (Some(600), 10_000), (Some(1), 333), (Some(0), 2000), (None, 2000)]
        {
            assert_eq!(interval(timeout).as_millis(), milliseconds, "{timeout:?}");
        }
    }

    #[test]
    fn pings_come_when_due_and_the_close_is_magic() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let mut now = Duration::from_secs(7);
        let mut watchdog = Watchdog::open(device.path(), now).unwrap();
        for _ in 0..100 {
            watchdog.ping(now).unwrap();
            now += Duration::from_millis(100);
        }
        // 10 s at 2 s, for a file tells no timeout.
        assert_eq!(std::fs::read(device.path()).unwrap(), [0; 5]);
        watchdog.close().unwrap();
        assert_eq!(std::fs::read(device.path()).unwrap(), b"\0\0\0\0\0V");
    }
}
