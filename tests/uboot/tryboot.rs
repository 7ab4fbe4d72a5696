//! An update on the emulated Pi 3, up to its restart: the file on a USB stick behind dwc2,
//! the slot on an SD card behind sdhost, and the request to the firmware through the
//! mailbox. QEMU's firmware takes any request, so what a real one makes of it is not shown.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::qemu::Machine;
use crate::support::stick::{self, Content};
use crate::support::update_file::{self, Wanted, text, tool};
use crate::support::{random, sd_image};

const LIMIT: Duration = Duration::from_secs(300);
/// GPSET0 and GPCLR0 of the BCM2837: in QEMU they move inputs too.
const GPSET0: u32 = 0x3f20_001c;
const GPCLR0: u32 = 0x3f20_0028;
const ENROLL: u32 = 17;
const NEXT: u32 = 27;

pub fn ask_the_firmware(folder: &Path) -> Result<(), String> {
    let image = sd_image::path()?;
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let key = update_file::key(folder, "key")?;
    let wanted = Wanted { key: &key, version: "0.9.0", board: "raspberrypi,3-model-b", broken: false };
    let update = update_file::make(env!("CARGO_BIN_EXE_rootstock"), &image, folder, &wanted)?;
    let stick = folder.join("stick.img");
    stick::make(&stick, 128 << 20, 64 << 20, &[Content { to: "rootstock-0.9.0.update", from: &update }])?;
    let card = folder.join("tryboot.img");
    fs::copy(&image, &card).map_err(failed)?;
    fs::File::options().write(true).open(&card).and_then(|file| file.set_len(256 << 20)).map_err(failed)?;
    update_file::put_setting(&card, &key.with_extension("pub"), "update.pub")?;
    let boot = sd_image::boot(&image, folder)?;
    let tree = sd_image::copy_file(&image, "bcm2837-rpi-3-b.dtb", folder)?;
    let seed = random::Random(7).next();
    let seed = [seed >> 32, seed & 0xffff_ffff].map(|word| word.to_string());
    tool(
        "fdtput",
        &["-t", "i", text(&tree)?, "/chosen", "rng-seed", &seed[0], &seed[1], "1", "2", "3", "4", "5", "6"],
    )?;
    tool("fdtput", &["-p", "-c", text(&tree)?, "/chosen/bootloader"])?;
    for (name, value) in [("partition", "2"), ("tryboot", "0")] {
        tool("fdtput", &["-t", "i", text(&tree)?, "/chosen/bootloader", name, value])?;
    }

    let socket = folder.join("qtest.sock");
    let mut command = Command::new("qemu-system-aarch64");
    command
        .args(["-M", "raspi3b", "-display", "none", "-monitor", "none", "-no-reboot", "-nodefaults"])
        .args(["-serial", "null", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&boot.kernel)
        .arg("-initrd")
        .arg(&boot.initramfs)
        .arg("-dtb")
        .arg(&tree)
        .args(["-append", &format!("{} rootstock.watchdog=off", boot.words)])
        .arg("-drive")
        .arg(format!("if=sd,format=raw,file={}", card.display()))
        .arg("-drive")
        .arg(format!("if=none,id=stick,format=raw,file={}", stick.display()))
        .args(["-device", "usb-storage,drive=stick"])
        .arg("-qtest")
        .arg(format!("unix:{},server=on,wait=off", socket.display()))
        .args(["-qtest-log", "/dev/null"]);
    let mut machine = Machine::start("tryboot", &mut command, folder)?;
    let mut pins = Pins::connect(&socket)?;
    // Inputs start low, which an active-low button means as pressed.
    pins.set(ENROLL, true)?;
    pins.set(NEXT, true)?;
    machine.wait_for("update 0.9.0 asks for a held ENROLL", 0, LIMIT)?;
    pins.set(ENROLL, false)?;
    machine.wait_for("confirmed: update 0.9.0", 0, LIMIT)?;
    pins.set(ENROLL, true)?;
    machine.wait_for("update 0.9.0 is written and checked", 0, LIMIT)?;
    machine.wait_for("the firmware is asked to try the other slot", 0, LIMIT)?;
    machine.wait_for("Restarting system with command '0 tryboot'", 0, LIMIT)?;
    machine.wait_exit(LIMIT)?;
    let slot = format!("{}@@{}M", text(&card)?, sd_image::SLOTS_MIB[1]);
    match tool("mtype", &["-i", &slot, "::version.txt"])?.trim() {
        "0.9.0" => Ok(()),
        other => Err(format!("the second slot holds {other:?}")),
    }
}

struct Pins(BufReader<UnixStream>);

impl Pins {
    fn connect(socket: &Path) -> Result<Self, String> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => return Ok(Self(BufReader::new(stream))),
                Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(format!("{}: {error}", socket.display())),
            }
        }
    }

    fn set(&mut self, pin: u32, high: bool) -> Result<(), String> {
        let register = if high { GPSET0 } else { GPCLR0 };
        let mut answer = String::new();
        let done = writeln!(self.0.get_mut(), "writel {register:#x} {:#x}", 1u32 << pin)
            .and_then(|()| self.0.read_line(&mut answer));
        done.map(drop).map_err(|error| format!("qtest: {error}"))
    }
}
