//! The whole path on real images: our SD image in an emulated machine, a stick,
//! a press of ENROLL, and a virtual Pi whose kernel boots from the network.
//!
//! `just demo` shows it to a person, `just test` runs it as a test; standard
//! input decides who presses the buttons. It ends by itself, with a summary.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod lab;
mod login;
mod show;

use std::process::ExitCode;
use std::time::Duration;

use client::Client;
use lab::Lab;
use login::Login;
use show::Show;
use support::virtual_pi::Board;

/// Emulation on two cores is slow; a limit only tells "hangs" from "slow".
const MINUTES: Duration = Duration::from_secs(60);

/// What the server may hold in memory with one client up.
const MEMORY_KIB: u64 = 48 << 10;

fn main() -> ExitCode {
    let show = Show::new();
    let result = demo(&show);
    show.end("demo", result)
}

fn demo(show: &Show) -> Result<(), String> {
    let mut lab = Lab::set_up(show)?;
    let sd_before = lab.sd_card_hash()?;

    show.step("the appliance starts from the SD image's kernel and initramfs");
    lab.start_appliance(show)?;
    lab.panel()?.wait_for("Hold ENROLL", 2 * MINUTES)?;
    let started = lab.appliance_figures()?;
    show.figure("appliance: kernel to PID 1", started.kernel);
    show.figure("appliance: PID 1 to serving", started.services);
    show.figure("appliance: PID 1 to asking for the stick", started.asks);
    show.passed_step("the appliance is up and asks what to do with the new stick");

    show.step("a store is made in the stick's free space, after a held press");
    show.press_by_person("hold ENROLL (3 s)");
    lab.panel()?.press('E')?;
    let import = lab.import(show, 15 * MINUTES)?;
    show.figure(&format!("image imported ({})", import.words), import.took);
    show.passed_step("the image was found on the exFAT partition and imported");

    show.step("ENROLL opens the window, and a Pi 4 gets power");
    show.press_by_person("press ENROLL");
    lab.panel()?.press('e')?;
    lab.panel()?.wait_for("Waiting for a Pi", MINUTES)?;

    let mut pi = Client::new(Board::Pi4B, 1);
    pi.load(&lab, show, "first boot")?;
    show.passed_step("it was enrolled, and every boot file is what the image holds");
    pi.start(&lab, show)?;
    pi.wait_login(show, "first boot", 10 * MINUTES)?;
    lab.panel()?.wait_for("Up after", 3 * MINUTES)?;
    let resident = lab.memory_kib()?;
    show.figure_text("appliance: the server's memory with this client up", &format!("{} MiB", resident / 1024));
    if resident > MEMORY_KIB {
        return Err(format!("the server holds {resident} KiB, more than {MEMORY_KIB}"));
    }
    show.passed_step("its login prompt stands on its console, and the panel says so");

    show.step("commands run in the client over ssh, with the key from the stick's profile");
    let login = Login::new(&lab, &pi.address()?.to_string())?;
    login.wait(5 * MINUTES)?;
    login::prove(&login, show)?;

    show.step("the client restarts and finds its changes");
    login.end("systemctl reboot")?;
    pi.wait_off(5 * MINUTES)?;
    pi.load(&lab, show, "second boot")?;
    pi.start(&lab, show)?;
    pi.wait_login(show, "second boot", 10 * MINUTES)?;
    login.wait(5 * MINUTES)?;
    login::prove_kept(&login, show)?;

    show.step("the server is killed under the running client");
    lab.kill_server(show)?;
    login::prove_alive(&login, show)?;

    show.step("a Pi 3 and a Pi 5 are enrolled by their own ways of asking");
    for (board, number) in [(Board::Pi3B, 2), (Board::Pi5, 3)] {
        lab.panel()?.press('e')?;
        lab.panel()?.wait_for("Waiting for a Pi", MINUTES)?;
        let mut other = Client::new(board, number);
        other.load(&lab, show, "boot files")?;
    }
    show.passed_step("both got every boot file, byte for byte");

    show.step("everything is switched off");
    login.end("systemctl poweroff")?;
    pi.wait_off(5 * MINUTES)?;
    show.passed_step("the client shut down cleanly");
    lab.power_off()?;
    show.passed_step("the appliance shut down in order");
    lab.check_stick()?;
    show.passed_step("the stick's store is clean to e2fsck, the exFAT partition to fsck.exfat");
    if lab.sd_card_hash()? != sd_before {
        return Err("something was written to the SD card".to_owned());
    }
    show.passed_step("nothing was written to the SD card");
    Ok(())
}
