//! A boot loader that is not ours reads the SD image in an emulated Pi 3 and starts it.
//!
//! U-Boot takes `autoboot.txt` from the first partition, and kernel, initramfs and device
//! tree from the slot that it names, with its own FAT and SD card code; then the appliance
//! finds its settings on the same card and serves. It stands for the GPU's firmware, which
//! nothing emulates. U-Boot reads half a megabyte a second here: two minutes in all.

#[path = "../support/mod.rs"]
mod support;
mod tryboot;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rootstock::update::autoboot;
use support::emulated_pi::{self, Board};
use support::qemu::Machine;
use support::sd_image;
use support::update_file::{text, tool};

const LIMIT: Duration = Duration::from_secs(300);
/// Places in memory that are far apart: the kernel unpacks to 35 MB.
const KERNEL: &str = "0x10000000";
const UNPACKED: &str = "0x08000000";
const TREE: &str = "0x18000000";
const INITRAMFS: &str = "0x19000000";

fn main() -> ExitCode {
    let began = Instant::now();
    match boot() {
        Ok(()) => {
            println!("\n2 passed, 0 failed ({} s)", began.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nU-Boot test failed: {error}\n\nsome failed");
            ExitCode::FAILURE
        }
    }
}

fn boot() -> Result<(), String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = top.join("target/uboot");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let binary = tool(top.join("tests/uboot/fetch").to_str().unwrap_or_default(), &[])?;
    let image = sd_image::path()?;
    let words = sd_image::boot(&image, &folder)?.words;
    let tree = sd_image::copy_file(&image, Board::Pi3.tree(), &folder)?;
    let card = folder.join("card.img");
    let mut command = Board::Pi3.machine();
    // As the firmware does, QEMU hands U-Boot a device tree; Linux gets the one on the card.
    command.args(["-kernel", binary.trim()]).arg("-dtb").arg(&tree);
    emulated_pi::insert_card(&mut command, &image, &card)?;
    let before = tool("sha256sum", &[text(&card)?])?;
    let mut machine = Machine::start("uboot", &mut command, &folder)?;
    let mut seen = machine.wait_for("Hit any key", 0, LIMIT)?;
    let mut ask = |machine: &mut Machine, line: &str, expected: &str| -> Result<String, String> {
        machine.type_text(&format!("{line}\n"))?;
        let from = seen;
        seen = machine.wait_for(expected, seen, LIMIT)?;
        Ok(machine.console.text()[from..seen].to_owned())
    };
    ask(&mut machine, "", "U-Boot>")?;
    ask(&mut machine, "mmc dev 0", "is current device")?;
    let told = ask(&mut machine, "fatls mmc 0:1", "dir(s)")?;
    for name in ["autoboot.txt", "bootcode.bin", "rootstock.toml"] {
        if !told.contains(name) {
            return Err(format!("U-Boot does not see {name}: {told}"));
        }
    }
    println!("ok U-Boot reads the settings partition");
    let told = format!("{}@@{}M", text(&card)?, sd_image::SETTINGS_MIB);
    let told = tool("mtype", &["-i", &told, "::autoboot.txt"])?;
    let slot = autoboot::read(told.as_bytes(), false).0.ok_or("autoboot.txt names no slot")?;
    for (name, place) in [("kernel8.img", KERNEL), ("bcm2837-rpi-3-b.dtb", TREE), ("initramfs.img", INITRAMFS)] {
        // The initramfs last, since `filesize` is of the last.
        let told = ask(&mut machine, &format!("fatload mmc 0:{slot} {place} {name}"), "bytes read in")?;
        println!("ok U-Boot reads {name}: {}", told.lines().last().unwrap_or_default().trim());
    }
    ask(
        &mut machine,
        &format!("setenv kernel_comp_addr_r {UNPACKED}; setenv kernel_comp_size 0x4000000; fdt addr {TREE}"),
        "U-Boot>",
    )?;
    // A Pi's firmware passes a seed; without one `getrandom` waits for ever here.
    ask(
        &mut machine,
        "fdt resize 4096; fdt set /chosen rng-seed <0x12345678 0x9abcdef0 0x13579bdf 0x02468ace 0x11223344 0x55667788 0x99aabbcc 0xddeeff00>; echo seeded",
        "\nseeded",
    )?;
    // QEMU ends the machine when its watchdog is armed: it does not count down.
    ask(&mut machine, &format!("setenv bootargs '{words} rootstock.watchdog=off'; echo words"), "\nwords")?;
    machine.type_text(&format!("booti {KERNEL} {INITRAMFS}:${{filesize}} {TREE}\n"))?;
    machine.wait_for("rootstock.toml read from mmcblk", 0, LIMIT)?;
    println!("ok what U-Boot started is the appliance, and it finds its settings on the card");
    machine.wait_for("serving as 192.168.77.1/24", 0, LIMIT)?;
    println!("ok it serves");
    drop(machine);
    if tool("sha256sum", &[text(&card)?])? != before {
        return Err("the card was written to".to_owned());
    }
    tryboot::ask_the_firmware(&folder)?;
    println!("ok an update is written to the card's second slot, and the firmware is asked to try it");
    Ok(())
}
