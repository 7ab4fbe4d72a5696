//! A real system on a read-only root, with a block volume: the server on this
//! machine, a virtual Pi 4 that loads from it, and its kernel in QEMU. Beside it
//! another one from a stick whose lock is on: it lives in memory. Both at once,
//! since an emulated system leaves a core idle for most of its start.
//!
//! `tests/run modes` runs it; it takes minutes, as the client is emulated.

#[path = "../support/mod.rs"]
mod support;

#[path = "../demo/client.rs"]
mod client;
mod lab;
#[path = "../demo/login.rs"]
#[allow(dead_code, reason = "the demo uses the rest")]
mod login;
mod prove;
#[path = "../demo/show.rs"]
#[allow(dead_code, reason = "the demo uses the rest")]
mod show;

use std::process::ExitCode;
use std::time::Duration;

use client::Client;
use lab::Lab;
use login::Login;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use show::Show;
use support::virtual_pi::Board;

/// Emulation on two cores is slow; a limit only tells "hangs" from "slow".
const MINUTES: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let show = Show::new();
    let result = modes(&show);
    show.end("modes", result)
}

fn modes(show: &Show) -> Result<(), String> {
    // Whoever else makes a mount namespace would keep a copy of our mounts in use.
    // SAFETY: only this thread's view of mounts changes; threads that it starts later inherit it.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(|error| format!("unshare: {error}"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|error| format!("private mounts: {error}"))?;
    let mut lab = Lab::set_up(show, "[enrol]\nmode = \"read-only\"\nvolume_size = \"512M\"\n")?;
    lab.wait_log(" imported", 15 * MINUTES)?;
    let mut locked = lab.locked(show)?;
    locked.press('e')?;
    locked.wait_log("enrolment window open", MINUTES)?;
    let mut other = Client::new(Board::Pi4B, 2);
    other.load(&locked, show, "from a locked stick")?;
    lab.press('e')?;
    lab.wait_log("enrolment window open", MINUTES)?;

    show.step("a Pi 4 with a read-only root and a volume boots, and one from the locked stick");
    let mut pi = Client::new(Board::Pi4B, 1);
    pi.load(&lab, show, "first boot")?;
    pi.start(&lab, show)?;
    other.start(&locked, show)?;
    pi.wait_login(show, "first boot", 10 * MINUTES)?;
    other.wait_login(show, "from a locked stick", 10 * MINUTES)?;
    // Its last service wrote that into its root.
    locked.wait_log("pi-1: up", 3 * MINUTES)?;
    drop(other);
    locked.check_locked()?;
    show.passed_step(
        "a system comes up to its login from a stick whose lock is on, lives in memory, and nothing is written",
    );
    show.passed_step("a system of Debian's comes up to its login on a read-only root");
    lab.wait_log("pi-1: up", 3 * MINUTES)?;
    let login = Login::new(&lab, &pi.address()?.to_string())?;
    login.wait(5 * MINUTES)?;
    prove::read_only(&login, show)?;
    prove::volume(&login, show)?;

    show.step("it restarts, and its volume has grown meanwhile");
    login.end("systemctl reboot")?;
    pi.wait_off(5 * MINUTES)?;
    lab.check_volume()?;
    show.passed_step("e2fsck finds the volume clean, and it is sparse");
    lab.restart_with(show, |manifest| manifest.replace("512M", "768M"))?;
    pi.load(&lab, show, "second boot")?;
    pi.start(&lab, show)?;
    pi.wait_login(show, "second boot", 10 * MINUTES)?;
    login.wait(5 * MINUTES)?;
    prove::volume_kept(&login, show)?;
    login.end("systemctl poweroff")?;
    pi.wait_off(5 * MINUTES)
}
