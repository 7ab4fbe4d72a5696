//! How the machine ends: the steps of `plan::plan_shutdown` carried out, and
//! the helper `rootstock teardown`. I/O.
//!
//! This is the only place that calls reboot(2).

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::system::RebootCommand;

use super::log::{now, say};
use super::pid1::{Pid1, Start, has_children, kill};
use super::plan::{Ending, Halt, Machine, plan_shutdown};
use super::supervise::{Restart, Service};
use super::words::Words;

/// How often a wait looks again; signals of ended children wake it earlier.
const LOOK: Duration = Duration::from_millis(100);
/// Ordinary unmounts are tried this often, for one mount may hold another, before they are detached.
const UNMOUNT_PASSES: usize = 4;
/// Most mounts taken note of.
const MAX_MOUNTS: usize = 4096;

/// Ends everything in order, then the machine.
pub(super) fn shut_down(pid1: &mut Pid1, ending: Ending) -> ! {
    say!("init", "shutdown, then {ending:?}");
    for service in [&mut pid1.serve, &mut pid1.plug, &mut pid1.bootconf] {
        service.retire();
    }
    let machine = pid1.machine;
    for step in plan_shutdown(ending, machine) {
        // A panic costs its own step and never the end.
        if catch_unwind(AssertUnwindSafe(|| carry_out(pid1, step))).is_err() {
            say!("init", "{step:?} panicked, going on");
        }
    }
    end(machine, ending)
}

fn carry_out(pid1: &mut Pid1, step: Halt) {
    match step {
        Halt::StopServe { within } => {
            let Some(pid) = pid1.serve.pid() else { return };
            kill(pid, libc::SIGTERM);
            if !wait_for(pid1, within, |pid1| pid1.serve.pid().is_none()) {
                say!("init", "serve did not end within {} s and is killed", within.as_secs());
                kill(pid, libc::SIGKILL);
                wait_for(pid1, Duration::from_secs(1), |pid1| pid1.serve.pid().is_none());
            }
        }
        Halt::StopOthers { within } => {
            kill(-1, libc::SIGTERM);
            if !wait_for(pid1, within, |_| !has_children()) {
                kill(-1, libc::SIGKILL);
                wait_for(pid1, Duration::from_secs(1), |_| !has_children());
            }
            say!("init", "all processes have ended");
        }
        Halt::Teardown { within } => {
            let mut teardown = Service::new("teardown", Restart::Never);
            match Start::helper("teardown").spawn(pid1.machine, &Words::default()) {
                Ok(pid) => teardown.started(now(), pid),
                Err(error) => say!("init", "cannot start teardown: {error}"),
            }
            pid1.bootconf = teardown;
            if !wait_for(pid1, within, |pid1| pid1.bootconf.pid().is_none()) {
                say!("init", "unmounting took longer than {} s and is left behind", within.as_secs());
            }
        }
        Halt::AskForTry { within } => {
            let mut ask = Service::new("tryboot", Restart::Never);
            match Start::helper("tryboot").spawn(pid1.machine, &Words::default()) {
                Ok(pid) => ask.started(now(), pid),
                Err(error) => say!("init", "cannot ask for the other slot: {error}"),
            }
            pid1.bootconf = ask;
            wait_for(pid1, within, |pid1| pid1.bootconf.pid().is_none());
        }
        Halt::CloseWatchdog => {
            if let Some(Err(error)) = pid1.watchdog.take().map(super::watchdog::Watchdog::close) {
                say!("init", "cannot stop the watchdog: {error}");
            }
        }
        Halt::End(ending) => end(pid1.machine, ending),
    }
}

/// Reaps and feeds the watchdog until `done`, at most for `within`. Returns whether it was done.
fn wait_for(pid1: &mut Pid1, within: Duration, done: impl Fn(&Pid1) -> bool) -> bool {
    let deadline = now() + within;
    loop {
        pid1.reap();
        pid1.guard();
        if done(pid1) {
            return true;
        }
        let now = now();
        if now >= deadline {
            return false;
        }
        // Whoever asks to end it is heard: it is ending.
        pid1.wait(Some((now + LOOK).min(deadline)));
    }
}

/// reboot(2). In a PID namespace the kernel ends the namespace instead: its first process dies by SIGINT for a
/// power-off and by SIGHUP for a reboot.
pub(super) fn end(machine: Machine, ending: Ending) -> ! {
    say!("init", "{ending:?}");
    let command = match ending {
        Ending::PowerOff => RebootCommand::PowerOff,
        Ending::Reboot | Ending::Try => RebootCommand::Restart,
    };
    if ending == Ending::Try {
        restart_with(c"0 tryboot");
    }
    loop {
        if let Err(error) = rustix::system::reboot(command) {
            say!("init", "cannot end the machine: {error}");
        }
        if machine == Machine::Container {
            // Without the right to call reboot(2) the end of the first process is the end of the container.
            std::process::exit(0);
        }
        // The watchdog, if it is armed, is not fed here and ends what reboot(2) could not.
        std::thread::sleep(Duration::from_secs(5));
    }
}

/// reboot(2) with words for the driver that restarts the board; comes back only when it cannot.
fn restart_with(words: &std::ffi::CStr) {
    // SAFETY: the magic numbers and the command of reboot(2) with a string that outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_reboot,
            libc::LINUX_REBOOT_MAGIC1,
            libc::LINUX_REBOOT_MAGIC2,
            libc::LINUX_REBOOT_CMD_RESTART2,
            words.as_ptr(),
        );
    }
    say!("init", "cannot restart with {words:?}: {}", std::io::Error::last_os_error());
}

/// The helper: unmounts what is not the kernel's own, newest first, and writes out what is in memory.
pub fn teardown(machine: Machine) {
    for pass in 1..=UNMOUNT_PASSES {
        let mounts = mounts(machine);
        let mut stuck = 0;
        for target in mounts.iter().rev() {
            let last = pass == UNMOUNT_PASSES;
            let flags = if last { UnmountFlags::DETACH | UnmountFlags::NOFOLLOW } else { UnmountFlags::NOFOLLOW };
            match unmount(target.as_str(), flags) {
                Ok(()) if last => say!("teardown", "{target} was busy and is detached"),
                Ok(()) => {}
                Err(_) => stuck += 1,
            }
        }
        if stuck == 0 {
            break;
        }
    }
    if machine == Machine::Board {
        rustix::fs::sync();
    }
    say!("teardown", "unmounted and synced");
}

fn mounts(machine: Machine) -> Vec<String> {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    parse_mounts(&String::from_utf8_lossy(&text)).into_iter().filter(|target| is_ours(machine, target)).collect()
}

/// What is unmounted: on the board everything but the mounts of the boot plan and what lies in the kernel's own
/// trees; in a container, whose mounts may be somebody else's, only what `serve` mounted below `/run`.
fn is_ours(machine: Machine, target: &str) -> bool {
    let below = |dir: &str| target.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    match machine {
        Machine::Container => below("/run"),
        Machine::Board => {
            let kept = ["/", "/proc", "/sys", "/dev", "/run", "/tmp"];
            !kept.contains(&target) && !["/proc", "/sys", "/dev"].iter().any(|dir| below(dir))
        }
    }
}

/// The mount points of `/proc/self/mountinfo` (proc_pid_mountinfo(5)), oldest first: the fifth field, in which
/// blank, tab, newline and backslash are written in octal.
fn parse_mounts(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).take(MAX_MOUNTS).collect()
}

fn unescape(field: &str) -> String {
    let (first, rest) = field.split_once('\\').unwrap_or((field, ""));
    if first.len() == field.len() {
        return field.to_owned();
    }
    let mut text = first.to_owned();
    for part in rest.split('\\') {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        match code {
            Some(code) => {
                text.push(char::from(code));
                text.push_str(&part[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
1 1 0:2 / / ro - rootfs rootfs rw
20 1 0:5 / /dev rw,nosuid - devtmpfs devtmpfs rw
21 1 0:20 / /run rw,nosuid - tmpfs tmpfs rw
22 21 8:2 / /run/rootstock/store rw,relatime - ext4 /dev/sda2 rw
23 22 0:30 / /run/rootstock/clients/pi\\0401 rw - overlay overlay rw
24 20 0:31 / /dev/pts rw - devpts devpts rw
25 1 0:32 / /mnt rw - ext4 /dev/sdb1 rw
";

    fn check(machine: Machine, expected: &[&str]) {
        let ours: Vec<String> = parse_mounts(MOUNTINFO).into_iter().filter(|it| is_ours(machine, it)).collect();
        assert_eq!(ours, expected);
    }

    #[test]
    fn the_board_keeps_only_what_its_own_end_needs() {
        check(Machine::Board, &["/run/rootstock/store", "/run/rootstock/clients/pi 1", "/mnt"]);
    }

    #[test]
    fn a_container_leaves_other_mounts_alone() {
        check(Machine::Container, &["/run/rootstock/store", "/run/rootstock/clients/pi 1"]);
    }

    #[test]
    fn odd_names_are_read_and_nothing_panics() {
        for (field, name) in
            [("a", "a"), ("\\134", "\\"), ("a\\011b\\040c", "a\tb c"), ("\\9", "\\9"), ("\\", "\\"), ("\\ü00", "\\ü00")]
        {
            assert_eq!(unescape(field), name);
        }
        assert_eq!(parse_mounts("\n  \n1 2 3\n"), [""; 0]);
    }
}
