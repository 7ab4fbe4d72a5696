//! Carries out the boot plan: the system calls behind each `plan::Act`.
//! I/O; the order and what a failure means are `plan.rs`'s.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::log::{self, say};
use super::plan::{Act, Filesystem, Need, Step};

/// The clock is never before this: the build's own time (SOURCE_DATE_EPOCH, seconds since 1970), or the day this was
/// written.
const BUILD_EPOCH: i64 = build_epoch(option_env!("SOURCE_DATE_EPOCH"));

/// A step that takes longer has a line of its own in the log. All together took 94 ms on an emulated Pi 3 on a busy
/// machine (2026-11-22).
const SLOW_STEP: Duration = Duration::from_millis(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot mount {kind} on {target}")]
    Mount { kind: &'static str, target: &'static str, source: io::Error },
    #[error("cannot make the directory {0}")]
    MakeDir(&'static str, #[source] io::Error),
    #[error("cannot use /dev/console")]
    Console(#[source] io::Error),
    #[error("cannot set the hostname")]
    Hostname(#[source] io::Error),
    #[error("cannot set the interface lo up")]
    Loopback(#[source] io::Error),
    #[error("cannot set the clock")]
    Clock(#[source] io::Error),
    #[error("cannot take over Ctrl-Alt-Del")]
    CtrlAltDel(#[source] io::Error),
    #[error("cannot write {}", .0.display())]
    Sysctl(PathBuf, #[source] io::Error),
    #[error("cannot make / read-only")]
    ReadOnlyRoot(#[source] io::Error),
}

/// Does one act; the system's own or a test's.
pub trait Hands {
    fn perform(&mut self, act: &Act) -> Result<(), Error>;
}

/// Does every step in order. Optional failures are logged; an essential one ends it.
pub fn carry_out(plan: &[Step], hands: &mut dyn Hands) -> Result<(), Error> {
    for step in plan {
        let started = log::now();
        let result = hands.perform(&step.act);
        let took = log::now().saturating_sub(started);
        if took >= SLOW_STEP {
            say!("init", "{} ms for: {}", took.as_millis(), step.why);
        }
        match (result, step.need) {
            (Ok(()), _) => {}
            (Err(error), Need::Optional) => say!("init", "{} (for: {})", super::chain(&error), step.why),
            (Err(error), Need::Essential) => return Err(error),
        }
    }
    Ok(())
}

/// The kernel.
pub struct System;

impl Hands for System {
    fn perform(&mut self, act: &Act) -> Result<(), Error> {
        match *act {
            Act::Mount(filesystem) => mount_one(filesystem),
            Act::MakeDir(path) => {
                DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|e| Error::MakeDir(path, e))
            }
            Act::Console => console().map_err(Error::Console),
            Act::Announce => {
                announce();
                Ok(())
            }
            Act::Hostname(name) => {
                rustix::system::sethostname(name.as_bytes()).map_err(|errno| Error::Hostname(errno.into()))
            }
            Act::Loopback => loopback().map_err(Error::Loopback),
            Act::Clock => clock().map_err(Error::Clock),
            Act::CtrlAltDel => {
                let off = rustix::system::RebootCommand::CadOff;
                rustix::system::reboot(off).map_err(|errno| Error::CtrlAltDel(errno.into()))
            }
            Act::Modprobe => {
                // The kernel starts it as `PROGRAM -q -- NAME`, which `Helper::from_args` knows.
                let program = std::env::current_exe().unwrap_or_else(|_| "/init".into());
                sysctl("kernel/modprobe", program.as_os_str().as_encoded_bytes())
            }
            Act::Sysctl { path, value } => sysctl(path, value.as_bytes()),
            Act::ReadOnlyRoot => {
                // The mount, not the file system: in a container `/` is also somebody else's.
                let flags = MountFlags::BIND | MountFlags::RDONLY;
                mount_remount("/", flags, "").map_err(|errno| Error::ReadOnlyRoot(errno.into()))
            }
        }
    }
}

fn mount_one(filesystem: Filesystem) -> Result<(), Error> {
    let Filesystem { kind, target, options, exec, devices } = filesystem;
    let mut flags = MountFlags::NOSUID;
    flags.set(MountFlags::NOEXEC, !exec);
    flags.set(MountFlags::NODEV, !devices);
    let options = std::ffi::CString::new(options).unwrap_or_default();
    // The image has the mount points; where one is missing it is made, while `/` can be written.
    let _ = fs::create_dir_all(target);
    match mount(kind, target, kind, flags, options.as_c_str()) {
        // The kernel or an initramfs tool was faster.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(Error::Mount { kind, target, source: errno.into() }),
    }
}

/// Makes /dev/console the standard streams of PID 1 and of what it starts.
fn console() -> io::Result<()> {
    let open = |flags| File::options().read(true).write(true).custom_flags(flags).open("/dev/console");
    let console = open(libc::O_NOCTTY)?;
    rustix::stdio::dup2_stdin(console.as_fd())?;
    rustix::stdio::dup2_stdout(console.as_fd())?;
    rustix::stdio::dup2_stderr(console.as_fd())?;
    if let Ok(mut mode) = rustix::termios::tcgetattr(&console) {
        // Ctrl-S on a keyboard must not stop whoever writes to the console.
        mode.input_modes.remove(rustix::termios::InputModes::IXON);
        let _ = rustix::termios::tcsetattr(&console, rustix::termios::OptionalActions::Now, &mode);
    }
    // PID 1's own lines go through an open file of its own that does not wait.
    log::send_to(open(libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC)?.into_raw_fd());
    Ok(())
}

fn announce() {
    let uname = rustix::system::uname();
    let (version, release) = (env!("CARGO_PKG_VERSION"), uname.release().to_string_lossy());
    say!("init", "rootstock {version} starts as PID 1 on Linux {release}");
}

fn loopback() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all-zero is a valid ifreq; its name is ended by the zeros after the two bytes.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = (*byte).cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request reads an ifreq, which is valid and lives longer than the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn clock() -> io::Result<()> {
    let now = clock_gettime(ClockId::Realtime);
    if now.tv_sec >= BUILD_EPOCH {
        return Ok(());
    }
    clock_settime(ClockId::Realtime, Timespec { tv_sec: BUILD_EPOCH, tv_nsec: 0 })?;
    say!("init", "the clock stood before this program was built, and now stands at its build");
    Ok(())
}

fn sysctl(path: &str, value: &[u8]) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(path);
    fs::write(&path, value).map_err(|source| Error::Sysctl(path, source))
}

const fn build_epoch(text: Option<&str>) -> i64 {
    /// 2026-11-22.
    const WRITTEN: i64 = 1_795_305_600;
    let Some(text) = text else { return WRITTEN };
    match i64::from_str_radix(text, 10) {
        Ok(seconds) if seconds > 0 => seconds,
        _ => WRITTEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::plan::{Machine, plan_boot};

    /// Fails at one kind of act, and notes what it was asked for.
    struct Clumsy {
        fails: fn(&Act) -> bool,
        done: Vec<Act>,
    }

    impl Hands for Clumsy {
        fn perform(&mut self, act: &Act) -> Result<(), Error> {
            self.done.push(*act);
            if (self.fails)(act) { Err(Error::Clock(io::ErrorKind::PermissionDenied.into())) } else { Ok(()) }
        }
    }

    fn check(fails: fn(&Act) -> bool) -> (bool, usize) {
        let mut hands = Clumsy { fails, done: Vec::new() };
        let result = carry_out(&plan_boot(Machine::Board), &mut hands);
        (result.is_ok(), hands.done.len())
    }

    #[test]
    fn an_optional_step_that_fails_is_stepped_over() {
        let whole = plan_boot(Machine::Board).len();
        assert_eq!(check(|_| false), (true, whole));
        assert_eq!(check(|act| matches!(act, Act::Console | Act::Sysctl { .. } | Act::ReadOnlyRoot)), (true, whole));
    }

    #[test]
    fn an_essential_step_that_fails_ends_the_boot() {
        assert_eq!(check(|act| matches!(act, Act::Mount(it) if it.target == "/dev")), (false, 1));
        let (done, steps) = check(|act| matches!(act, Act::Mount(it) if it.target == "/run"));
        assert!(!done && steps < plan_boot(Machine::Board).len());
    }

    #[test]
    fn the_clock_never_stands_before_the_build() {
        assert_eq!(build_epoch(Some("1800000000")), 1_800_000_000);
        for wrong in [None, Some(""), Some("yesterday"), Some("-5"), Some("99999999999999999999")] {
            assert_eq!(build_epoch(wrong), 1_795_305_600);
        }
    }
}
