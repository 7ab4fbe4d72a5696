//! What the server relies on where it asks a journal only when the kernel has said something
//! (`src/nfs/kernel_log.rs`), shown on the appliance's own kernel: on disks that take no write to one sector of their
//! journal. Whoever is answered by `fsync` that all is well, and then finds nothing new in the kernel's log, has what was
//! made on the disk; the test beside this looks for it there.

use crate::report::Report;
use crate::sys::{self, Fd};

const AT: &str = "/failing";
const WORKERS: usize = 6;
/// More than the journal has blocks: the bad one comes first.
const FILES: u64 = 3000;

/// What one worker was told.
#[derive(Default)]
struct Told {
    /// Files that are on the disk by all that was said.
    good: u64,
    /// Of the last one `fsync` said so, and the log did not.
    caught: bool,
}

pub fn judge(report: &mut Report, disks: u64) {
    report.part("a journal that fails");
    let mut caught = 0;
    for disk in 0..disks {
        match fail(disk) {
            Ok(all) => {
                // Each ended by what it was told, not by its bound.
                report.holds("the journal failed", all.iter().all(|told| told.good < FILES));
                caught += all.iter().filter(|told| told.caught).count();
                for (worker, told) in all.iter().enumerate() {
                    println!("judge: acknowledged {disk} {worker} {}", told.good);
                }
            }
            Err(errno) => report.failed(&format!("disk {disk}: {}", sys::errno_name(errno))),
        }
    }
    println!("judge: of {} workers fsync told {caught} that all is well when it was not", disks * WORKERS as u64);
    report.end_part();
}

/// Behind the local ext4's.
pub fn device(disk: u64) -> String {
    format!("/dev/vd{}", char::from(b'b' + disk as u8))
}

fn fail(disk: u64) -> sys::Result<Vec<Told>> {
    let _ = std::fs::create_dir_all(AT);
    sys::mount(&device(disk), AT, "ext4", "")?;
    let all: sys::Result<Vec<Told>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || work(worker))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err(libc::EFAULT))).collect()
    });
    sys::unmount(AT)?;
    all
}

/// Makes files until it is told that one is not on the disk.
fn work(worker: usize) -> sys::Result<Told> {
    let log = sys::open(b"/dev/kmsg", libc::O_RDONLY | libc::O_NONBLOCK, 0)?;
    crate::process::seek(&log, 0, libc::SEEK_END)?;
    let top = sys::open(AT.as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let mut told = Told::default();
    while told.good < FILES {
        let name = format!("{AT}/w{worker}-{}", told.good);
        let made = sys::open(name.as_bytes(), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o600);
        if made.and_then(|file| sys::fsync(file.0)).is_err() {
            break;
        }
        if news(&log)? && crate::process::remove_attribute(&top, "trusted.judge") != Err(libc::ENODATA) {
            told.caught = true;
            break;
        }
        told.good += 1;
    }
    Ok(told)
}

/// Whether the kernel said anything since this was asked last.
fn news(log: &Fd) -> sys::Result<bool> {
    let mut record = [0; 4096];
    let mut any = false;
    loop {
        match sys::read(log, &mut record) {
            Ok(_) | Err(libc::EPIPE | libc::EINVAL) => any = true,
            Err(libc::EAGAIN) => return Ok(any),
            Err(errno) => return Err(errno),
        }
    }
}
