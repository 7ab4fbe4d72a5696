//! The boot and the shutdown as lists of steps: what is done, in which order,
//! why, and what its failure means.
//!
//! Pure, so that a test (and a reader) sees the whole sequence; `run.rs` and
//! `power.rs` carry it out.

use std::time::Duration;

/// Where PID 1 runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// The appliance itself: the kernel's own PID 1.
    Board,
    /// The first process of a PID namespace, told by `container=` in its environment as other inits are told:
    /// hardware, modules, clock and console belong to somebody else there. The tests run PID 1 this way.
    Container,
}

/// What a failed step means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing works without it: show it, log it, pause, reboot.
    Essential,
    /// Log it and go on.
    Optional,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub act: Act,
    pub need: Need,
    pub why: &'static str,
}

/// One thing done before the main loop starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Mount a file system; one that is mounted there already counts as done.
    Mount(Filesystem),
    /// Make a directory and those above it, mode 0755.
    MakeDir(&'static str),
    /// Make /dev/console the standard input, output and error.
    Console,
    /// Say when the start came here and what kernel this is.
    Announce,
    Hostname(&'static str),
    /// Set the interface `lo` up.
    Loopback,
    /// Move a clock that is before the build to the build.
    Clock,
    /// Let Ctrl-Alt-Del be a signal to PID 1 instead of a reboot without sync.
    CtrlAltDel,
    /// Name this program as the kernel's module loader.
    Modprobe,
    /// Write `value` to the file `/proc/sys/…`, or to one that is named whole.
    Sysctl {
        path: &'static str,
        value: &'static str,
    },
    /// Remount `/` read-only.
    ReadOnlyRoot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filesystem {
    pub kind: &'static str,
    pub target: &'static str,
    pub options: &'static str,
    /// Whether programs may be started from it.
    pub exec: bool,
    /// Whether device files work in it.
    pub devices: bool,
}

/// Where PID 1, its helpers and `serve` meet.
pub const RUN_DIR: &str = "/run/rootstock";

/// The steps before the main loop, first to last.
pub fn plan_boot(machine: Machine) -> Vec<Step> {
    use Act::*;
    use Need::*;
    let api = |kind, target, options| Mount(Filesystem { kind, target, options, exec: false, devices: false });
    let board = [
        (
            Mount(Filesystem { kind: "devtmpfs", target: "/dev", options: "mode=0755", exec: false, devices: true }),
            Essential,
            "the console, the disks and the watchdog; the kernel fills it, so there is no udev",
        ),
        (Console, Optional, "a person on the serial line or the screen reads why it does not start"),
        (Announce, Optional, "the first line of every report"),
        (api("proc", "/proc", ""), Essential, "the kernel's words, the mounts and our own program"),
        (api("sysfs", "/sys", ""), Essential, "the devices and what module each asks for"),
        (api("tmpfs", "/run", "mode=0755,size=32m,nr_inodes=8192"), Essential, "state that a reboot may forget"),
        (
            Modprobe,
            Optional,
            "the kernel itself asks for code pages, checksums and file systems that no device announces",
        ),
        (MakeDir(RUN_DIR), Essential, "what PID 1 tells serve"),
        (api("tmpfs", "/tmp", "mode=1777,size=32m,nr_inodes=8192"), Optional, "scratch of mke2fs and e2fsck"),
        (Sysctl { path: "kernel/panic", value: "10" }, Optional, "a panicked kernel restarts, also without panic=10"),
        (
            Sysctl { path: "kernel/panic_on_oops", value: "1" },
            Optional,
            "a kernel that half works stalls every client; a restart pauses them for seconds",
        ),
        (Sysctl { path: "vm/panic_on_oom", value: "0" }, Optional, "out of memory ends one process, not the service"),
        (
            Sysctl { path: "/sys/module/block/parameters/events_dfl_poll_msecs", value: "2000" },
            Optional,
            "an SD card put into a USB reader is noticed only where the reader is asked now and then, and there is no udev",
        ),
        (CtrlAltDel, Optional, "a keyboard restarts the appliance in order"),
        (Clock, Optional, "a Pi has no clock of its own; new files and keys must not be from 1970"),
        (Hostname("rootstock"), Optional, "the name in logs"),
        (Loopback, Optional, "programs that talk to themselves"),
        (
            ReadOnlyRoot,
            Optional,
            "whatever was meant for a working directory and is not, fails loudly instead of filling memory",
        ),
    ];
    let in_container = |act: &Act| {
        matches!(act, Mount(mount) if mount.kind != "devtmpfs")
            || matches!(act, Announce | MakeDir(_) | Hostname(_) | Loopback | ReadOnlyRoot)
    };
    board
        .into_iter()
        .filter(|(act, ..)| machine == Machine::Board || in_container(act))
        .map(|(act, need, why)| Step { act, need, why })
        .collect()
}

/// What the helpers need, up to the last essential step, and what is done beside them: behind a Pi 3's USB it takes two
/// seconds until the network card is found, and that begins with them.
pub fn around_helpers(plan: &[Step]) -> (&[Step], &[Step]) {
    let needed = plan.iter().rposition(|step| step.need == Need::Essential).map_or(0, |last| last + 1);
    plan.split_at(needed)
}

/// How long PID 1 shows a failed essential step before it reboots.
pub const ESSENTIAL_PAUSE: Duration = Duration::from_secs(10);

/// How long a system on trial may take until it is kept. A Pi 3 serves within 10 s, a slow stick is open within a
/// minute; what takes longer is no system to keep.
pub const TRIAL_LIMIT: Duration = Duration::from_secs(180);

/// How long `serve` waits for `rootstock.toml`. An SD card is there within 2 s of the start;
/// after this time the appliance serves with its defaults, for the card may be broken or taken out.
pub const BOOT_CONFIG_WAIT: Duration = Duration::from_secs(5);

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    PowerOff,
    Reboot,
    /// Restart, once from the card's other slot (`update::trial`).
    Try,
}

impl Ending {
    /// What `serve` asks for by its exit code: 64 is power off, 65 is reboot, 66 tries the other slot. Every other way to end
    /// means "start me again". (101 is Rust's panic, 128 and above are signals in a shell's terms.)
    pub fn from_exit_code(code: i32) -> Option<Self> {
        match code {
            64 => Some(Self::PowerOff),
            65 => Some(Self::Reboot),
            66 => Some(Self::Try),
            _ => None,
        }
    }

    /// What a signal to PID 1 asks for: SIGTERM, SIGUSR1 (halt in SysV's terms), SIGUSR2 and SIGPWR power off,
    /// SIGINT (Ctrl-Alt-Del) reboots. SIGHUP is nobody's wish: a console that hangs up sends it.
    pub fn from_signal(signal: i32) -> Option<Self> {
        match signal {
            libc::SIGTERM | libc::SIGUSR1 | libc::SIGUSR2 | libc::SIGPWR => Some(Self::PowerOff),
            libc::SIGINT => Some(Self::Reboot),
            _ => None,
        }
    }
}

/// One step of the shutdown. Every one is bounded: a machine that was told to end, ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// SIGTERM to `serve`, and SIGKILL if it is still there after `within`.
    StopServe { within: Duration },
    /// SIGTERM to every other process, and SIGKILL to what is left after `within`.
    StopOthers { within: Duration },
    /// Unmount and sync, in a helper that is left behind after `within`: a dead stick can hold
    /// `umount` and `sync` in the kernel for ever, and PID 1 must not hang with them.
    Teardown { within: Duration },
    /// Stop the watchdog by its magic close.
    CloseWatchdog,
    /// Ask the firmware for the other slot, in a helper; without it the same slot starts again.
    AskForTry { within: Duration },
    /// reboot(2).
    End(Ending),
}

/// The shutdown, first to last.
pub fn plan_shutdown(ending: Ending, machine: Machine) -> Vec<Halt> {
    let mut steps = vec![
        // Long enough for NFS to commit what clients sent, to a slow stick.
        Halt::StopServe { within: Duration::from_secs(10) },
        Halt::StopOthers { within: Duration::from_secs(2) },
        // The page cache may hold some hundred MB for a stick that writes 5 MB/s.
        Halt::Teardown { within: Duration::from_secs(60) },
    ];
    if machine == Machine::Board && ending == Ending::PowerOff {
        // A board that cannot cut its power stays halted, and the watchdog would start it again.
        // A reboot keeps it running instead: if reboot(2) hangs, the watchdog does it.
        steps.push(Halt::CloseWatchdog);
    }
    if machine == Machine::Board && ending == Ending::Try {
        // After all others: it takes memory until it has a page that the GPU can reach.
        steps.push(Halt::AskForTry { within: Duration::from_secs(10) });
    }
    steps.push(Halt::End(ending));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(plan: &[Step], wanted: impl Fn(&Act) -> bool) -> usize {
        plan.iter().position(|step| wanted(&step.act)).expect("a step of the plan")
    }

    #[test]
    fn the_boot_goes_from_the_console_to_the_read_only_root() {
        let plan = plan_boot(Machine::Board);
        let mounted = |target| position(&plan, |act| matches!(act, Act::Mount(mount) if mount.target == target));
        let first_sysctl = position(&plan, |act| matches!(act, Act::Sysctl { .. }));
        assert!(mounted("/dev") < position(&plan, |act| *act == Act::Console));
        assert!(mounted("/proc") < first_sysctl);
        assert!(mounted("/run") < position(&plan, |act| *act == Act::MakeDir(RUN_DIR)));
        assert_eq!(plan.last().map(|step| step.act), Some(Act::ReadOnlyRoot));
        assert!(plan.iter().all(|step| !step.why.is_empty()));
    }

    #[test]
    fn only_the_four_mounts_and_our_directory_are_essential() {
        let plan = plan_boot(Machine::Board);
        let essential: Vec<&str> = plan
            .iter()
            .filter(|step| step.need == Need::Essential)
            .map(|step| match step.act {
                Act::Mount(mount) => mount.target,
                Act::MakeDir(path) => path,
                _ => "something else",
            })
            .collect();
        assert_eq!(essential, ["/dev", "/proc", "/sys", "/run", RUN_DIR]);
    }

    #[test]
    fn the_helpers_have_all_mounts_a_console_and_the_kernels_module_loader() {
        let plan = plan_boot(Machine::Board);
        let (before, beside) = around_helpers(&plan);
        for act in [Act::Console, Act::Modprobe, Act::MakeDir(RUN_DIR)] {
            assert!(before.iter().any(|step| step.act == act), "{act:?}");
        }
        assert!(beside.iter().all(|step| step.need == Need::Optional) && !beside.is_empty());
        assert_eq!(around_helpers(&[]), (&[][..], &[][..]));
    }

    #[test]
    fn memory_file_systems_have_a_bound() {
        for step in plan_boot(Machine::Board) {
            if let Act::Mount(mount) = step.act
                && mount.kind == "tmpfs"
            {
                assert!(mount.options.contains("size=") && mount.options.contains("nr_inodes="), "{mount:?}");
            }
        }
    }

    #[test]
    fn a_container_keeps_its_devices_console_clock_and_kernel_settings() {
        for step in plan_boot(Machine::Container) {
            let foreign =
                matches!(step.act, Act::Console | Act::Clock | Act::Sysctl { .. } | Act::Modprobe | Act::CtrlAltDel);
            assert!(!foreign, "{step:?}");
            assert!(!matches!(step.act, Act::Mount(mount) if mount.target == "/dev"));
        }
    }

    #[test]
    fn a_shutdown_is_bounded_and_ends() {
        for (ending, machine) in [
            (Ending::PowerOff, Machine::Board),
            (Ending::Reboot, Machine::Board),
            (Ending::Try, Machine::Board),
            (Ending::PowerOff, Machine::Container),
        ] {
            let plan = plan_shutdown(ending, machine);
            assert_eq!(plan.last(), Some(&Halt::End(ending)));
            let bound: Duration = plan
                .iter()
                .map(|step| match step {
                    Halt::StopServe { within }
                    | Halt::StopOthers { within }
                    | Halt::Teardown { within }
                    | Halt::AskForTry { within } => *within,
                    Halt::CloseWatchdog | Halt::End(_) => Duration::ZERO,
                })
                .sum();
            assert!(bound <= Duration::from_secs(90));
        }
    }

    #[test]
    fn the_watchdog_guards_a_reboot_to_its_end_and_not_a_power_off() {
        assert!(plan_shutdown(Ending::PowerOff, Machine::Board).contains(&Halt::CloseWatchdog));
        assert!(!plan_shutdown(Ending::Reboot, Machine::Board).contains(&Halt::CloseWatchdog));
    }

    #[test]
    fn only_signals_that_mean_an_end_end_the_machine() {
        let ends: Vec<i32> = (1..32).filter(|&signal| Ending::from_signal(signal).is_some()).collect();
        assert_eq!(ends, [libc::SIGINT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM, libc::SIGPWR]);
        assert_eq!(Ending::from_signal(libc::SIGINT), Some(Ending::Reboot));
    }

    #[test]
    fn serve_asks_by_64_to_66_and_nothing_else() {
        let asks: Vec<i32> = (-1..256).filter(|&code| Ending::from_exit_code(code).is_some()).collect();
        assert_eq!(asks, [64, 65, 66]);
    }
}
