//! The loop of PID 1: start what is due, reap what ended, feed the watchdog,
//! wait for a signal. I/O; when a child is due is `supervise.rs`'s.
//!
//! One thread, and no input but signals, exit codes and the kernel's command
//! line. Everything that reads what others wrote (devices, modules, the SD
//! card, the network) is a child, so that no content can end PID 1, for its end
//! is a kernel panic.
//!
//! Out of memory: the kernel never picks PID 1. `serve` gets -500, so that
//! something else of the same size goes first, but not -1000: a `serve` that
//! eats all memory must be killed (it is back in 0.1 s) rather than the kernel
//! panic for want of a victim. The helpers get +500: they lose nothing by
//! dying. What `serve` starts inherits its value and should raise it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::log::{now, say};
use super::plan::{
    BOOT_CONFIG_WAIT, ESSENTIAL_PAUSE, Ending, Machine, RUN_DIR, TRIAL_LIMIT, around_helpers, plan_boot,
};
use super::power;
use super::run::{self, System};
use super::supervise::{Restart, Service};
use super::watchdog::Watchdog;
use super::words::Words;
use crate::update::trial::{KEPT_FILE, Told};

/// When PID 1 began, in milliseconds since the kernel's start: `serve` tells how long it took until DHCP was answered.
static BEGAN: AtomicU64 = AtomicU64::new(0);
/// By this name in `serve`'s environment.
pub const BEGAN_VARIABLE: &str = "ROOTSTOCK_BEGAN_MS";

const WATCHDOG: &str = "/dev/watchdog";
/// How often the watchdog's device is looked for: often while modules are being loaded, then seldom.
const WATCHDOG_LOOK: Duration = Duration::from_millis(250);
const WATCHDOG_LOOK_LATE: Duration = Duration::from_secs(10);
const WATCHDOG_LATE: Duration = Duration::from_secs(60);
/// Most children reaped in one turn, so that a flood of orphans does not keep the watchdog from its food.
const MAX_REAPED: usize = 256;

/// Serves as PID 1. Nothing makes it return or exit.
pub fn run() -> ! {
    let machine = Machine::here();
    BEGAN.store(u64::try_from(now().as_millis()).unwrap_or_default(), Ordering::Relaxed);
    let signals = block_signals();
    let plan = plan_boot(machine);
    let (needed, beside) = around_helpers(&plan);
    let must = |done: Result<(), run::Error>| {
        if let Err(error) = done {
            let why = super::chain(&error);
            say!("init", "cannot start: {why}; restart in {} s", ESSENTIAL_PAUSE.as_secs());
            say_on_display(machine, &why);
            std::thread::sleep(ESSENTIAL_PAUSE);
            power::end(machine, Ending::Reboot);
        }
    };
    must(run::carry_out(needed, &mut System));
    let mut pid1 = Pid1::new(machine, signals);
    pid1.start_helpers();
    must(run::carry_out(beside, &mut System));
    say!("init", "{} boot steps done", plan.len());
    loop {
        if let Some(ending) = unbroken(|| pid1.turn()) {
            power::shut_down(&mut pid1, ending);
        }
    }
}

/// Why PID 1 cannot start, by two processes that may fail as they like: one brings the display's bus, one draws.
fn say_on_display(machine: Machine, why: &str) {
    // A container's displays are somebody else's.
    if machine != Machine::Board {
        return;
    }
    let mut notice = Start::helper("notice");
    notice.args.push(why.into());
    for start in [Start::helper("plug"), notice] {
        if let Err(error) = start.spawn(machine, &Words::default()) {
            say!("init", "cannot start a helper for the display: {error}");
        }
    }
}

/// A turn that panics is one in which nothing was asked for. The panic's own message is on the console; if it goes on,
/// the watchdog is not fed and restarts us.
fn unbroken(turn: impl FnOnce() -> Option<Ending>) -> Option<Ending> {
    catch_unwind(AssertUnwindSafe(turn)).unwrap_or_else(|_| {
        say!("init", "a turn of the loop panicked, going on");
        std::thread::sleep(Duration::from_millis(100));
        None
    })
}

impl Machine {
    /// Where this process runs, by the environment that PID 1 was given.
    pub fn here() -> Self {
        if std::env::var_os("container").is_some() { Self::Container } else { Self::Board }
    }
}

/// Everything that PID 1 knows.
pub(super) struct Pid1 {
    pub(super) machine: Machine,
    signals: Option<OwnedFd>,
    pub(super) serve: Service,
    pub(super) plug: Service,
    pub(super) bootconf: Service,
    /// When `serve` starts without the boot configuration.
    serve_by: Duration,
    pub(super) watchdog: Option<Watchdog>,
    look_for_watchdog: Duration,
    /// This system is on trial: when it must have been kept.
    trial_by: Option<Duration>,
    words: Words,
}

impl Pid1 {
    fn new(machine: Machine, signals: Option<OwnedFd>) -> Self {
        let now = now();
        let cmdline = match machine {
            Machine::Board => std::fs::read_to_string("/proc/cmdline").unwrap_or_default(),
            Machine::Container => String::new(),
        };
        let words = Words::parse(&cmdline);
        for word in &words.unknown {
            say!("init", "the kernel's command line has {word}, which means nothing here");
        }
        let mut pid1 = Self {
            machine,
            signals,
            serve: Service::new("serve", Restart::Always),
            plug: Service::new("plug", Restart::Always),
            bootconf: Service::new("bootconf", Restart::Never),
            serve_by: now,
            watchdog: None,
            look_for_watchdog: now,
            trial_by: None,
            words,
        };
        if machine == Machine::Board {
            pid1.plug.release(now);
            if Told::here().on_trial {
                say!("init", "this system is on trial: in {} s the former one starts again", TRIAL_LIMIT.as_secs());
                pid1.trial_by = Some(now + TRIAL_LIMIT);
            }
            if pid1.words.boot.is_some() {
                pid1.bootconf.release(now);
                pid1.serve_by = now + BOOT_CONFIG_WAIT;
            } else {
                say!("init", "the kernel's command line names no boot partition (rootstock.boot=), so all is default");
            }
        }
        pid1
    }

    /// One turn: never blocks longer than until the next thing is due.
    fn turn(&mut self) -> Option<Ending> {
        if let Some(ending) = self.reap() {
            return Some(ending);
        }
        if let Some(ending) = self.judge_trial() {
            return Some(ending);
        }
        self.start_due();
        self.guard();
        self.wait(self.next_due())
    }

    /// Takes every child that ended, ours and orphans. Returns what `serve` asked for.
    pub(super) fn reap(&mut self) -> Option<Ending> {
        let mut asked = None;
        for _ in 0..MAX_REAPED {
            let Some((pid, status)) = wait_any() else { break };
            let now = now();
            if let Some(again) = self.serve.ended(now, pid) {
                match status.code.and_then(Ending::from_exit_code) {
                    Some(ending) => {
                        say!("init", "serve ({pid}) asks for: {ending:?}");
                        asked = asked.or(Some(ending));
                    }
                    None => log_end("serve", pid, status, again),
                }
            } else if let Some(again) = self.plug.ended(now, pid) {
                log_end("plug", pid, status, again);
            } else if self.bootconf.ended(now, pid).is_some() {
                self.configured(status.code == Some(0));
            }
        }
        asked
    }

    /// A system that was not kept in time gives way to the former one, whatever holds it up: the firmware's flag is
    /// used up, so every restart is its.
    fn judge_trial(&mut self) -> Option<Ending> {
        if self.trial_by.is_none_or(|by| now() < by) {
            return None;
        }
        self.trial_by = None;
        if Path::new(RUN_DIR).join(KEPT_FILE).exists() {
            return None;
        }
        say!("init", "this system was on trial and did not pass: restart to the former one");
        Some(Ending::Reboot)
    }

    /// The boot configuration is there, or will not come.
    fn configured(&mut self, found: bool) {
        if let Some(pid) = self.serve.settled(now(), found) {
            say!("init", "the boot configuration came late, so serve is started again with it");
            kill(pid, libc::SIGTERM);
        }
    }

    fn start_due(&mut self) {
        let now = now();
        if now >= self.serve_by {
            self.serve.release(now);
        }
        self.start_helpers();
        if self.serve.is_due(now) {
            let start = Start { args: self.serve_args(), oom_score_adj: "-500" };
            start_one(&mut self.serve, &start, self.machine, &self.words);
        }
    }

    /// Those of them that are due.
    fn start_helpers(&mut self) {
        for service in [&mut self.plug, &mut self.bootconf] {
            if service.is_due(now()) {
                start_one(service, &Start::helper(service.name), self.machine, &self.words);
            }
        }
    }

    /// `rootstock serve --appliance`, or the program that the kernel's command line puts in its place; in a container PID 1's own arguments, if it has any, are run in its place.
    fn serve_args(&self) -> Vec<OsString> {
        let given: Vec<OsString> = std::env::args_os().skip(1).collect();
        if self.machine == Machine::Container && !given.is_empty() {
            return given;
        }
        match &self.words.serve {
            Some(program) => vec![program.into(), "--appliance".into()],
            None => vec![OWN_PROGRAM.into(), "serve".into(), "--appliance".into()],
        }
    }

    /// Arms the watchdog as soon as its driver is there, and feeds it.
    pub(super) fn guard(&mut self) {
        let now = now();
        if let Some(watchdog) = &mut self.watchdog {
            if let Err(error) = watchdog.ping(now) {
                say!("init", "the watchdog takes no ping: {error}");
            }
            return;
        }
        if !self.has_watchdog() || now < self.look_for_watchdog {
            return;
        }
        self.look_for_watchdog = now + if now < WATCHDOG_LATE { WATCHDOG_LOOK } else { WATCHDOG_LOOK_LATE };
        match Watchdog::open(Path::new(WATCHDOG), now) {
            Ok(watchdog) => {
                say!("init", "watchdog armed, fed every {} ms", watchdog.interval().as_millis());
                self.watchdog = Some(watchdog);
                self.guard();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => say!("init", "cannot open {WATCHDOG}: {error}"),
        }
    }

    /// Whether one is looked for.
    fn has_watchdog(&self) -> bool {
        self.machine == Machine::Board && !self.words.no_watchdog
    }

    fn next_due(&self) -> Option<Duration> {
        let watchdog = match &self.watchdog {
            Some(watchdog) => Some(watchdog.next_ping()),
            None => self.has_watchdog().then_some(self.look_for_watchdog),
        };
        let serve = self.serve.is_held().then_some(self.serve_by);
        let services = [&self.serve, &self.plug, &self.bootconf].into_iter().filter_map(Service::poll_timeout);
        services.chain(watchdog).chain(serve).chain(self.trial_by).min()
    }

    /// Sleeps until a signal comes or `until`; returns what the signals ask for.
    pub(super) fn wait(&mut self, until: Option<Duration>) -> Option<Ending> {
        let Some(signals) = &self.signals else {
            // Without signals there is only the clock; children are found by looking.
            std::thread::sleep(Duration::from_millis(100));
            return None;
        };
        let left = until.map(|until| until.saturating_sub(now()));
        // Rounded up, or the last millisecond would be spent turning.
        let milliseconds = left.map_or(-1, |left| i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
        let mut wait = libc::pollfd { fd: signals.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, valid for the call.
        if unsafe { libc::poll(&raw mut wait, 1, milliseconds) } <= 0 {
            return None;
        }
        let mut asked = None;
        // Ordinary signals do not queue, so 64 is more than there can be.
        for _ in 0..64 {
            let Some((signal, sender)) = read_signal(signals) else { break };
            if let Some(ending) = Ending::from_signal(signal) {
                say!("init", "signal {signal} from process {sender}");
                asked = asked.or(Some(ending));
            }
        }
        asked
    }
}

fn start_one(service: &mut Service, start: &Start, machine: Machine, words: &Words) {
    let now = now();
    match start.spawn(machine, words) {
        Ok(pid) => {
            service.started(now, pid);
            say!("init", "{} started as {pid}", service.name);
        }
        Err(error) => {
            let pause = service.start_failed(now);
            say!("init", "cannot start {}: {error}; again in {} ms", service.name, pause.as_millis());
        }
    }
}

/// This very program, also when its file was removed or replaced.
pub(super) const OWN_PROGRAM: &str = "/proc/self/exe";

/// What to start and how the kernel treats it when memory is short.
pub(super) struct Start {
    args: Vec<OsString>,
    oom_score_adj: &'static str,
}

impl Start {
    pub(super) fn helper(name: &str) -> Self {
        Self { args: vec![OWN_PROGRAM.into(), name.into()], oom_score_adj: "500" }
    }

    /// Starts it in a session of its own with the console as its streams and a fresh environment.
    pub(super) fn spawn(&self, machine: Machine, words: &Words) -> io::Result<i32> {
        let (program, args) = self.args.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        if program == OWN_PROGRAM {
            command.arg0("rootstock");
        }
        command.args(args).current_dir("/").env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/").env("TERM", "linux");
        command.env(BEGAN_VARIABLE, BEGAN.load(Ordering::Relaxed).to_string());
        if machine == Machine::Container {
            command.env("container", "rootstock");
        }
        for (key, value) in [("ROOTSTOCK_LOG", &words.log), ("ROOTSTOCK_PANEL", &words.panel)] {
            if let Some(value) = value {
                command.env(key, value);
            }
        }
        let oom_score_adj = self.oom_score_adj;
        let prepare = move || {
            set_signal_mask(libc::SIG_SETMASK, &[]);
            // SAFETY: setsid has no arguments and no memory; that it fails means we lead a session already.
            unsafe { libc::setsid() };
            // Without the right to lower it (a container) the usual value is good enough.
            let _ = std::fs::write("/proc/self/oom_score_adj", oom_score_adj);
            Ok(())
        };
        // SAFETY: PID 1 has one thread, so after fork every lock is free and the closure may allocate.
        unsafe { command.pre_exec(prepare) };
        // The `Child` is dropped unreaped on purpose: `reap` waits for every process.
        command.spawn().map(|child| child.id().cast_signed())
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Status {
    code: Option<i32>,
    signal: Option<i32>,
}

fn log_end(name: &str, pid: i32, status: Status, again: Option<Duration>) {
    let how = match (status.code, status.signal) {
        (Some(101), _) => "by a panic".to_owned(),
        (Some(code), _) => format!("with exit code {code}"),
        (None, Some(libc::SIGKILL)) => "by signal 9 (killed, perhaps for want of memory)".to_owned(),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "somehow".to_owned(),
    };
    match again {
        Some(pause) => say!("init", "{name} ({pid}) ended {how}; again in {} ms", pause.as_millis()),
        None => say!("init", "{name} ({pid}) ended {how}"),
    }
}

/// One child that ended, without waiting.
fn wait_any() -> Option<(i32, Status)> {
    let mut status = 0;
    // SAFETY: the status is valid to be written.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    (pid > 0).then_some((pid, Status { code, signal }))
}

/// Whether any child is left, ended or not.
pub(super) fn has_children() -> bool {
    // SAFETY: nothing is written where the pointer is null; WNOWAIT leaves every child as it is.
    let result =
        unsafe { libc::waitid(libc::P_ALL, 0, std::ptr::null_mut(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
    result == 0
}

pub(super) fn kill(pid: i32, signal: i32) {
    // SAFETY: no memory is involved; a process that is gone is no error.
    unsafe { libc::kill(pid, signal) };
}

/// The signals that PID 1 takes one after another from a descriptor, never in a handler.
const TAKEN: [i32; 7] =
    [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPWR];

fn block_signals() -> Option<OwnedFd> {
    let set = set_signal_mask(libc::SIG_BLOCK, &TAKEN);
    // SAFETY: the set is initialized; the descriptor is owned at once.
    unsafe {
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

fn set_signal_mask(how: i32, signals: &[i32]) -> libc::sigset_t {
    // SAFETY: the set is initialized by sigemptyset before anything reads it; an old mask is not wanted.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::sigprocmask(how, &raw const set, std::ptr::null_mut());
        set
    }
}

fn read_signal(signals: &OwnedFd) -> Option<(i32, u32)> {
    // SAFETY: all-zero is a valid value, and the kernel writes whole records of this size or nothing.
    let mut record: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is valid for its size.
    let read = unsafe { libc::read(signals.as_raw_fd(), (&raw mut record).cast(), size_of_val(&record)) };
    (read == size_of_val(&record).cast_signed()).then(|| (record.ssi_signo.cast_signed(), record.ssi_pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_panics_does_not_end_pid_1() {
        let asked: Vec<Option<Ending>> = (0..3)
            .map(|turn| unbroken(|| if turn == 1 { panic!("an overflow, say") } else { Some(Ending::Reboot) }))
            .collect();
        assert_eq!(asked, [Some(Ending::Reboot), None, Some(Ending::Reboot)]);
    }
}
