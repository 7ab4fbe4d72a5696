//! The stick test: a stick that is pulled, and an appliance that loses its power, at the worst
//! moments, with the SD image's own kernel in an emulated machine.
//!
//! Its store is a file in exFAT, as on a stick from the shop (`ROOTSTOCK_STICK=partition`: a partition).
//! The stick is pulled while its image is imported, and while a client writes; put back
//! in other ports; and in between a stranger's stick is put in its place. Then, under the same client, the appliance is
//! reset with no word before, the stick's lock slides on (and it is put in again unlocked), and the appliance is
//! switched off in order and on again. The
//! client is a connection of ours that asks as the Linux client does: the same
//! call again, on a new connection if need be, until it is answered.

// Of what these share with other tests, a part is used.
#[path = "../nfs_lab/mod.rs"]
mod nfs_lab;
#[path = "../store_support/mod.rs"]
mod store_support;
#[path = "../support/mod.rs"]
mod support;

mod machine;
mod writer;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use machine::{Appliance, Kind};
use support::netns::Netns;
use support::virtual_pi::{Board, VirtualPi};
use writer::Writer;

const LIMIT: Duration = Duration::from_secs(180);
/// How long a pulled stick stays out.
const OUT: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let began = Instant::now();
    // QEMU itself crashes now and then when a stick goes with requests in flight (segfault in dmesg, 2026-11-29; with
    // the machine stopped for it, too): that says nothing of us, so it is tried again.
    let mut result = stick();
    for _ in 0..4 {
        let Err(error) = &result else { break };
        if !error.starts_with(machine::CRASHED) {
            break;
        }
        println!("{error}; once more from the start");
        result = stick();
    }
    match result {
        Ok(passed) => {
            println!("\n{passed} passed, 0 failed ({} s)", began.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nstick test failed: {error}\n\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn stick() -> Result<usize, String> {
    let began = Instant::now();
    let mut passed = 0;
    let mut ok = |what: &str| {
        println!("{:6.1}s ok {what}", began.elapsed().as_secs_f32());
        passed += 1;
    };
    let kind = Kind::from_environment()?;
    let mut appliance = Appliance::start(kind)?;
    appliance.plug("stick", 1)?;
    let (asks, key) = if kind == Kind::File { ("Press ENROLL", 'e') } else { ("Hold ENROLL", 'E') };
    appliance.panel.wait_for(asks, LIMIT)?;
    appliance.panel.press(key)?;

    appliance.log("import begins", LIMIT)?;
    std::thread::sleep(Duration::from_secs(2));
    println!("        pulled at {:?}", appliance.panel.wait_for("Importing", LIMIT)?.words);
    appliance.pull()?;
    appliance.log("stick removed", LIMIT)?;
    appliance.panel.wait_for("stick", LIMIT)?;
    ok("a stick pulled in the middle of an import is told");
    std::thread::sleep(OUT);
    appliance.plug("stick", 2)?;
    appliance.log(" imported", LIMIT)?;
    appliance.panel.wait_for("Press ENROLL", LIMIT)?;
    ok("put back in another port, the import begins anew and ends");

    appliance.panel.press('e')?;
    appliance.panel.wait_for("Waiting for a Pi", LIMIT)?;
    let pi = VirtualPi::new(Board::Pi4B, 1, "eth0");
    let netns = Netns::new("pi");
    appliance.wire.plug("br0", "pi-port", &netns, "eth0", pi.mac);
    let fetched = netns.run(|| pi.boot(LIMIT)).map_err(|failure| format!("the virtual Pi did not boot: {failure}"))?;
    netns.ip(&format!("address add {}/24 dev eth0", fetched.address));
    let path = fetched.command_line("ttyAMA0");
    let writer = Writer::start(&netns, fetched.address, &path)?;
    writer.wait_for(20, LIMIT)?;
    ok("a client is enrolled, and writes");

    for (round, port) in [(1, 3), (2, 1)] {
        appliance.pull()?;
        appliance.log("stick removed", LIMIT)?;
        appliance.panel.wait_for("stick", LIMIT)?;
        std::thread::sleep(OUT);
        if round == 2 {
            appliance.plug("stranger", 2)?;
            appliance.panel.wait_for("Hold ENROLL", LIMIT)?;
            ok("a stranger's stick gets none of the first one's clients");
            let written = writer.written();
            std::thread::sleep(OUT);
            if writer.written() != written {
                return Err("the client's writes went to a stranger's stick".to_owned());
            }
            appliance.pull()?;
            appliance.log("stick removed", LIMIT)?;
        }
        let written = writer.written();
        appliance.plug("stick", port)?;
        writer.wait_for(written + 20, LIMIT)?;
        ok(&format!("put back in port {port}, the client goes on with its handles"));
    }

    for round in 1..=2 {
        appliance.cut_power()?;
        let written = writer.written();
        writer.wait_for(written + 40, LIMIT)?;
        ok(&format!("power cut {round} under the client: it goes on with its handles"));
    }
    appliance.lock("stick")?;
    writer.wait_for_refusal(LIMIT)?;
    ok("its lock slides on under the client: what it writes is refused, once the kernel has asked the drive");
    appliance.log("takes no writes any more", LIMIT)?;
    appliance.panel.wait_for("takes no writes", LIMIT)?;
    ok("the display tells of the lock");
    appliance.pull()?;
    appliance.log("stick removed", LIMIT)?;
    appliance.unlock("stick")?;
    let written = writer.written();
    appliance.plug("stick", 2)?;
    writer.wait_for(written + 20, LIMIT)?;
    ok("unlocked and put in again, the client goes on with its handles");

    writer.ends_in_order();
    appliance.power_off()?;
    let written = writer.written();
    appliance.power_on("stick", 1)?;
    writer.wait_for(written + 40, LIMIT)?;
    ok("switched off in order and on again under the client: it goes on with its handles");
    let (count, names) = writer.finish()?;
    ok(&format!("each of its {count} acknowledged writes is there, and no call failed"));
    ok(&format!("its {names} names are those that it made, moved and removed: none lost, none twice"));

    appliance.power_off()?;
    appliance.check()?;
    ok("switched off in order; both sticks are clean to e2fsck and fsck.exfat");
    Ok(passed)
}
