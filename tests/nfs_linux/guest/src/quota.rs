//! A tree with a quota, filled through the client's page cache: by which calls a program learns that it is full, that
//! what it was told is written is there, that another tree goes on, and that room comes back.

use crate::report::Report;
use crate::sys::{self, Fd, errno_name};

const PIECE: usize = 64 << 10;

/// `limited` may hold `quota` bytes; `other` is another tree of the same server.
pub fn judge(report: &mut Report, limited: &str, other: &str, quota: u64) {
    report.part("a quota");
    if let Err(errno) = fill(report, limited, other, quota) {
        report.failed(&format!("stopped by {}", errno_name(errno)));
    }
    report.end_part();
}

/// By its end, which tells what no `write` told.
fn close(fd: Fd) -> sys::Result<i64> {
    // SAFETY: the descriptor is closed here once; its owner is forgotten.
    let closed = unsafe { libc::close(fd.0) };
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or_default();
    std::mem::forget(fd);
    if closed == 0 { Ok(0) } else { Err(errno) }
}

/// Writes pieces and brings them to the server; how many, and what the end was.
fn write(fd: &Fd, bytes: u64) -> sys::Result<()> {
    let data = vec![0xa5; PIECE];
    for at in (0..bytes).step_by(PIECE) {
        sys::pwrite(fd, &data, at as i64)?;
    }
    sys::fsync(fd.0).map(drop)
}

fn fill(report: &mut Report, limited: &str, other: &str, quota: u64) -> sys::Result<()> {
    let path = |name: &str| format!("{limited}/{name}").into_bytes();
    let new = libc::O_RDWR | libc::O_CREAT;
    let told = sys::statvfs(limited.as_bytes())?;
    report.is("the size of the file system", told.f_blocks * told.f_frsize, quota);
    let (full, closed) = (sys::open(&path("full"), new, 0o644)?, sys::open(&path("closed"), new, 0o644)?);
    let (waits, direct) = (path("waits"), path("direct"));
    let waits = sys::open(&waits, new | libc::O_SYNC, 0o644)?;
    let direct = sys::open(&direct, new | libc::O_DIRECT, 0o644)?;

    report.is("write and fsync past the quota", write(&full, quota + quota / 2), Err(libc::EDQUOT));
    report.is("fsync, which tells an error once", sys::fsync(full.0), Ok(0));
    let data = vec![0x5a; 2 * PIECE];
    let _ = sys::pwrite(&closed, &data, 0);
    report.is("close of what does not fit", close(closed), Err(libc::EDQUOT));
    report.is("a synchronous write", sys::pwrite(&waits, &data, 0), Err(libc::EDQUOT));
    let start = data.as_ptr().align_offset(4096);
    report.is("a direct write", sys::pwrite(&direct, &data[start..start + PIECE], 0), Err(libc::EDQUOT));
    report.is("mkdir", sys::mkdir(&path("directory"), 0o755), Err(libc::EDQUOT));
    report.is("symlink", sys::symlink(b"to", &path("link")), Err(libc::EDQUOT));
    let left = sys::statvfs(limited.as_bytes())?;
    report.holds("df tells that next to nothing is left", left.f_bavail * left.f_frsize < PIECE as u64);

    // What the server took is there, and all of it but the last pieces; nothing is where a write was refused.
    sys::forget_pages(&full)?;
    let size = sys::stat(&path("full"))?.st_size as u64;
    let (mut taken, mut wrong) = (0, 0);
    let mut piece = vec![0; PIECE];
    for at in (0..size).step_by(PIECE) {
        let count = sys::pread(&full, &mut piece, at as i64)?;
        let written = piece[..count].iter().filter(|byte| **byte == 0xa5).count();
        taken += written as u64;
        // A hole may stand for what was refused.
        wrong += piece[..count].iter().filter(|byte| !matches!(byte, 0xa5 | 0)).count();
    }
    report.is("other bytes in the full file", wrong, 0);
    report.holds("a full file holds most of the quota", taken > quota / 2 && taken <= quota);

    let at = format!("{other}/goes-on").into_bytes();
    let free = sys::open(&at, new, 0o644)?;
    report.is("another tree goes on", write(&free, 2 * quota), Ok(()));
    drop(free);
    sys::unlink(&at)?;

    drop(full);
    sys::unlink(&path("full"))?;
    let again = sys::open(&path("again"), new, 0o644)?;
    report.is("write and fsync after a file was removed", write(&again, quota / 2), Ok(()));
    report.is("close after a file was removed", close(again), Ok(0));
    report.is("a synchronous write after that", sys::pwrite(&waits, &data, 0), Ok(data.len()));
    report.is("mkdir after that", sys::mkdir(&path("directory"), 0o755), Ok(0));
    Ok(())
}
