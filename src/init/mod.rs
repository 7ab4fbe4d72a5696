//! PID 1 of the appliance: mounts, modules, watchdog, one supervised child.
//!
//! `rootstock` is `/init` of an initramfs that is the whole system: no shell,
//! no udev. What boot does, in this order:
//!
//! 1. `plan::plan_boot` as data, carried out by `run`: /dev, console, /proc,
//!    /sys, /run; then, beside the helpers, /tmp, kernel settings, clock,
//!    hostname, `lo`, `/` read-only.
//! 2. PID 1 (`pid1`) starts two helpers of this same binary and goes on:
//!    `plug` loads the modules that devices ask for, now and later; `bootconf`
//!    copies `rootstock.toml` from the SD card to `/run/rootstock` and ends.
//! 3. `serve --appliance` starts as soon as `bootconf` has ended, or without it
//!    5 s after the start. It does not wait for modules: a network card or a
//!    stick may appear later, as it may when somebody plugs it in later.
//! 4. `/dev/watchdog` is armed as soon as its driver is loaded, and fed from
//!    the loop only.
//!
//! Where an essential step fails, the console says why, and by the helper `notice` the display;
//! then the machine restarts.
//!
//! Why helpers: PID 1's death is a kernel panic, so it parses nothing. The
//! modules' texts, what a device says about itself and a card's file system are
//! read by processes that may die. They cost no memory of note: it is the same
//! binary's pages.
//!
//! What `serve` finds: `/run/rootstock/rootstock.toml` (absent: defaults),
//! `boot-device` (the disk that the store leaves alone), `boot-problem` (a line
//! for a person), and `ROOTSTOCK_LOG`, `ROOTSTOCK_PANEL` in its environment when
//! the kernel's command line has `rootstock.log=`, `rootstock.panel=`. It asks
//! for power-off by exit code 64, for a reboot by 65, and for a try of the other slot by 66; every other end starts
//! it again.
//!
//! `rootstock.serve=/bin/rootstock-hil` puts that program into the server's place: the board's own tests (`tests/hil`).
//!
//! Pure: `plan`, `supervise`, `modules`, `uevent`, `mbr`, `words`. I/O: the rest.

pub mod bootconf;
pub mod fat;
mod loader;
pub mod log;
pub mod mbr;
pub mod modules;
pub mod notice;
mod pid1;
pub mod plan;
pub mod plug;
mod power;
pub mod run;
pub mod supervise;
pub mod uevent;
pub mod watchdog;
pub mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use log::say;
pub use pid1::{BEGAN_VARIABLE, run};
use words::Words;

/// A child of PID 1 that is this binary too, or the kernel's module loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Helper {
    Plug,
    Bootconf,
    Teardown,
    /// Says on the display why PID 1 cannot start.
    Notice(String),
    /// Asks the firmware to start the other slot once.
    Tryboot,
    /// The kernel wants a module: `rootstock -q -- NAME`.
    Modprobe(String),
}

impl Helper {
    /// What the command line asks for, with the program's name first. `None` for every other command: `main` goes on.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let args: Vec<String> = args.into_iter().skip(1).take(4).filter_map(|arg| arg.into_string().ok()).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match args[..] {
            ["plug"] => Some(Self::Plug),
            ["bootconf"] => Some(Self::Bootconf),
            ["teardown"] => Some(Self::Teardown),
            ["tryboot"] => Some(Self::Tryboot),
            ["notice", why] => Some(Self::Notice(why.to_owned())),
            ["-q", "--", name] => Some(Self::Modprobe(name.to_owned())),
            _ => None,
        }
    }

    /// Does the helper's work. `Plug` comes back only when it failed.
    pub fn run(self) -> ExitCode {
        let cmdline = || std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let result: Result<(), Box<dyn std::error::Error>> = match self {
            Self::Plug => plug::run().map(|never| match never {}).map_err(Into::into),
            Self::Bootconf => match Words::parse(&cmdline()).boot {
                Some(id) => bootconf::run(&bootconf::Paths::default(), id).map_err(Into::into),
                None => Err("no rootstock.boot= on the kernel's command line".into()),
            },
            Self::Teardown => {
                power::teardown(plan::Machine::here());
                Ok(())
            }
            Self::Notice(why) => {
                notice::run(&why);
                Ok(())
            }
            Self::Tryboot => crate::update::trial::ask()
                .map(|()| say!("init", "the firmware is asked to try the other slot"))
                .map_err(Into::into),
            Self::Modprobe(name) => loader::Loader::open(&loader::modules_dir())
                .map(|mut loader| say!("plug", "{name} asked for by the kernel, {} modules loaded", loader.load(&name)))
                .map_err(Into::into),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say!("init", "{}", chain(error.as_ref()));
                ExitCode::FAILURE
            }
        }
    }
}

/// An error with its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_told_from_commands() {
        let check = |args: &[&str], expected| {
            assert_eq!(Helper::from_args(args.iter().map(OsString::from)), expected, "{args:?}");
        };
        check(&["rootstock", "plug"], Some(Helper::Plug));
        check(&["rootstock", "bootconf"], Some(Helper::Bootconf));
        check(&["rootstock", "teardown"], Some(Helper::Teardown));
        check(&["rootstock", "tryboot"], Some(Helper::Tryboot));
        check(&["rootstock", "notice", "no /run"], Some(Helper::Notice("no /run".to_owned())));
        check(&["/init", "-q", "--", "fs-ext4"], Some(Helper::Modprobe("fs-ext4".to_owned())));
        check(&["rootstock", "serve", "--appliance"], None);
        check(&["rootstock", "plug", "now"], None);
        check(&["rootstock"], None);
        check(&[], None);
    }
}
