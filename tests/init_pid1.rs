//! PID 1 as it is, in PID, mount, network, UTS and IPC namespaces of its own.
//!
//! Needs root. What is checked: `serve` (here a shell script in its place) comes
//! back, orphans are reaped, and every way to end the machine ends it in order.
//! In a PID namespace reboot(2) kills the first process, by SIGINT for a
//! power-off and by SIGHUP for a reboot: that is how the end is seen.

#![allow(clippy::unwrap_used)] // the helpers of a test, which clippy does not take for one

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine, where no figure of ours is meant.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running PID 1, ended with the test.
struct Machine {
    pid: i32,
    log: File,
    waited: bool,
}

impl Machine {
    /// Starts PID 1 with `serve` in place of `rootstock serve --appliance`; empty for the real one.
    fn start(serve: &[&str]) -> Self {
        let log = tempfile::tempfile().unwrap();
        let c = |text: &str| CString::new(text).unwrap();
        let program = c(env!("CARGO_BIN_EXE_rootstock"));
        let args: Vec<CString> = ["init"].iter().chain(serve).map(|arg| c(arg)).collect();
        let mut argv: Vec<*const libc::c_char> = args.iter().map(|arg| arg.as_ptr()).collect();
        argv.push(std::ptr::null());
        let container = c("container=test");
        let envp = [container.as_ptr(), std::ptr::null()];
        let namespaces =
            libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
        // SAFETY: without a stack clone works as fork does; the child only makes system calls, with memory made before.
        let pid = unsafe {
            match libc::syscall(libc::SYS_clone, namespaces | libc::SIGCHLD, 0, 0, 0, 0) {
                0 => {
                    // What is mounted in there must not come out.
                    let private = libc::MS_REC | libc::MS_PRIVATE;
                    let nothing = std::ptr::null();
                    if libc::mount(nothing, c"/".as_ptr(), nothing, private, nothing.cast()) == 0 {
                        libc::dup2(log.as_raw_fd(), 1);
                        libc::dup2(log.as_raw_fd(), 2);
                        libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
                    }
                    libc::_exit(127)
                }
                pid => i32::try_from(pid).unwrap(),
            }
        };
        assert!(pid > 0, "no new namespaces: {}; run the tests as root", std::io::Error::last_os_error());
        Self { pid, log, waited: false }
    }

    fn script(script: &str) -> Self {
        Self::start(&["/bin/sh", "-c", script])
    }

    fn log(&mut self) -> String {
        let mut text = String::new();
        // The offset is shared with the writers, so the end is where it was.
        let mut log = File::open(format!("/proc/self/fd/{}", self.log.as_raw_fd())).unwrap();
        log.seek(SeekFrom::Start(0)).unwrap();
        log.read_to_string(&mut text).unwrap();
        text
    }

    /// Waits until `wanted` is in the log `times` times.
    fn wait_for(&mut self, wanted: &str, times: usize) {
        let started = Instant::now();
        while self.log().matches(wanted).count() < times {
            assert!(started.elapsed() < PATIENCE, "no {wanted:?} (×{times}) in:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its children with their states, as this namespace numbers them.
    fn children(&self) -> Vec<(i32, char)> {
        let text = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).unwrap();
        let pids = text.split_ascii_whitespace().map(|pid| pid.parse().unwrap());
        let state = |pid: i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(") ")?.1.chars().next().map(|state| (pid, state))
        };
        pids.filter_map(state).collect()
    }

    fn kill(&self, signal: i32) {
        // SAFETY: no memory is involved; the process is ours and not yet waited for.
        assert_eq!(unsafe { libc::kill(self.pid, signal) }, 0);
    }

    /// Waits for the end, and returns the signal by which PID 1 died.
    fn end(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            let mut status = 0;
            // SAFETY: the status is valid to be written.
            if unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) } == self.pid {
                self.waited = true;
                return libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
            }
            assert!(started.elapsed() < PATIENCE, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The lines in the order in which the log must have them.
    fn check_order(&mut self, lines: &[&str]) {
        let log = self.log();
        let mut rest = log.as_str();
        for line in lines {
            let Some(at) = rest.find(line) else { panic!("no {line:?} where it should be in:\n{log}") };
            rest = &rest[at + line.len()..];
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.waited {
            self.kill(libc::SIGKILL);
            // SAFETY: a null status is allowed.
            unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        }
    }
}

#[test]
fn a_killed_serve_is_back_within_two_seconds() {
    let mut machine = Machine::script("exec sleep 1000");
    machine.wait_for("serve started as", 1);
    let [(serve, _)] = machine.children()[..] else { panic!("one child, not {:?}", machine.children()) };
    let killed = Instant::now();
    // SAFETY: no memory is involved; the process is our child's child, and nobody else reaps it.
    assert_eq!(unsafe { libc::kill(serve, libc::SIGKILL) }, 0);
    machine.wait_for("serve started as", 2);
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    machine.check_order(&["ended by signal 9", "again in 100 ms", "serve started as"]);
    assert_ne!(machine.children()[0].0, serve);
}

#[test]
fn a_serve_that_dies_at_once_is_started_ever_slower() {
    let mut machine = Machine::script("exit 3");
    machine.wait_for("again in 400 ms", 1);
    machine.check_order(&[
        "exit code 3; again in 100 ms",
        "exit code 3; again in 200 ms",
        "exit code 3; again in 400 ms",
    ]);
}

#[test]
fn a_missing_program_is_tried_again_and_signals_still_work() {
    let mut machine = Machine::start(&["/nonexistent/rootstock"]);
    machine.wait_for("cannot start serve: No such file or directory (os error 2); again in 200 ms", 1);
    machine.kill(libc::SIGTERM);
    assert_eq!(machine.end(), Some(libc::SIGINT));
}

#[test]
fn sigterm_powers_off_in_order() {
    let mut machine = Machine::script("trap 'echo stopping; exit 0' TERM; echo running; while :; do sleep 0.05; done");
    machine.wait_for("running", 1);
    machine.kill(libc::SIGTERM);
    assert_eq!(machine.end(), Some(libc::SIGINT));
    machine.check_order(&[
        "signal 15",
        "shutdown, then PowerOff",
        "stopping",
        "ended with exit code 0",
        "all processes have ended",
        "unmounted and synced",
        "init: PowerOff",
    ]);
}

#[test]
fn sigint_reboots() {
    let mut machine = Machine::script("exec sleep 1000");
    machine.wait_for("serve started as", 1);
    machine.kill(libc::SIGINT);
    assert_eq!(machine.end(), Some(libc::SIGHUP));
    machine.check_order(&["shutdown, then Reboot", "ended by signal 15", "init: Reboot"]);
}

#[test]
fn serve_asks_for_power_off_and_reboot_by_its_exit_code() {
    assert_eq!(Machine::script("exit 64").end(), Some(libc::SIGINT));
    assert_eq!(Machine::script("exit 65").end(), Some(libc::SIGHUP));
}

#[test]
fn a_serve_that_does_not_listen_is_killed_with_everything_else() {
    let mut machine = Machine::script("trap '' TERM; sleep 1000 & echo deaf; while :; do sleep 1; done");
    machine.wait_for("deaf", 1);
    machine.kill(libc::SIGTERM);
    assert_eq!(machine.end(), Some(libc::SIGINT));
    machine.check_order(&["did not end within 10 s and is killed", "all processes have ended", "init: PowerOff"]);
}

#[test]
fn orphans_are_reaped() {
    let mut machine = Machine::script("for i in $(seq 50); do (sleep 0.2 &); done; echo left; exec sleep 1000");
    machine.wait_for("left", 1);
    let started = Instant::now();
    while machine.children().len() != 1 {
        assert!(started.elapsed() < PATIENCE, "still there: {:?}", machine.children());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(machine.children()[0].1, 'S');
}

#[test]
fn mounts_of_serve_are_gone_at_the_end_also_when_busy() {
    let mut machine = Machine::script(
        "mkdir -p /run/rootstock/a/b; mount -t tmpfs a /run/rootstock/a; mkdir /run/rootstock/a/b; \
         mount -t tmpfs b /run/rootstock/a/b; cd /run/rootstock/a/b; echo mounted; exec sleep 1000",
    );
    machine.wait_for("mounted", 1);
    machine.kill(libc::SIGTERM);
    assert_eq!(machine.end(), Some(libc::SIGINT));
    machine.check_order(&["unmounted and synced"]);
    assert!(!machine.log().contains("was busy"), "{}", machine.log());
}

#[test]
fn serve_finds_the_machine_made_up() {
    let mut machine = Machine::script(
        "echo host=$(cat /proc/sys/kernel/hostname) lo=$(cat /sys/class/net/lo/flags) pid=$(cat /proc/1/comm); \
         for dir in /run /tmp /run/rootstock; do touch $dir/x && echo can write $dir; done; \
         touch /x || echo cannot write /; grep SigBlk /proc/self/status; echo home=$HOME; exec sleep 1000",
    );
    machine.wait_for("home=", 1);
    machine.check_order(&[
        "host=rootstock lo=0x9",
        "can write /run\n",
        "can write /tmp\n",
        "can write /run/rootstock\n",
        "cannot write /\n",
        "SigBlk:\t0000000000000000",
        "home=/",
    ]);
}

#[test]
fn without_arguments_the_real_serve_is_started() {
    let mut machine = Machine::start(&[]);
    machine.wait_for("serve started as", 1);
    let started = Instant::now();
    loop {
        let child = machine.children().first().map(|child| child.0);
        let cmdline = child.and_then(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok()).unwrap_or_default();
        if cmdline == b"rootstock\0serve\0--appliance\0" {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{cmdline:?}\n{}", machine.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    machine.kill(libc::SIGTERM);
    assert_eq!(machine.end(), Some(libc::SIGINT));
}
