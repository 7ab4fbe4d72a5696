//! QEMU's Raspberry Pis: how they are started, what their device trees need before
//! that, and their pins moved from outside.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::command::run;
use super::sd_image::Boot;

/// The buttons' pins, as the settings have them.
pub const ENROLL: u32 = 17;
pub const NEXT: u32 = 27;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    Pi3,
    Pi4,
}

impl Board {
    /// Its device tree on the card.
    pub fn tree(self) -> &'static str {
        match self {
            Self::Pi3 => "bcm2837-rpi-3-b.dtb",
            Self::Pi4 => "bcm2711-rpi-4-b.dtb",
        }
    }

    /// Where the peripherals lie: BCM2837, BCM2711.
    fn peripherals(self) -> u32 {
        match self {
            Self::Pi3 => 0x3f00_0000,
            Self::Pi4 => 0xfe00_0000,
        }
    }

    /// The machine without anything in it, its console on the standard streams.
    pub fn machine(self) -> Command {
        let (model, serial): (&str, &[&str]) = match self {
            Self::Pi3 => ("raspi3b", &["-serial", "null", "-serial", "stdio"]),
            // The second port of QEMU's Pi 4 never takes a byte; its first one is the PL011.
            Self::Pi4 => ("raspi4b", &["-serial", "stdio"]),
        };
        let mut command = Command::new("qemu-system-aarch64");
        command.args(["-M", model, "-display", "none", "-monitor", "none", "-no-reboot", "-nodefaults"]).args(serial);
        command
    }

    /// The same with what the firmware starts by `config.txt`, these kernel words behind the card's, and `Pins` at `qtest`.
    pub fn start(self, boot: &Boot, dtb: &Path, words: &str, qtest: &Path) -> Command {
        let card_words = match self {
            Self::Pi3 => boot.words.clone(),
            Self::Pi4 => boot.words.replace("console=ttyS1", "console=ttyAMA0"),
        };
        let mut command = self.machine();
        command.arg("-kernel").arg(&boot.kernel).arg("-initrd").arg(&boot.initramfs).arg("-dtb").arg(dtb);
        // QEMU ends the machine when its watchdog is armed: it does not count down.
        command.args(["-append", format!("{card_words} rootstock.watchdog=off {words}").trim_end()]);
        command.arg("-qtest").arg(format!("unix:{},server=on,wait=off", qtest.display()));
        command.args(["-qtest-log", "/dev/null"]);
        command
    }
}

/// Puts a copy of the image into the card slot. QEMU wants a power of two, and refuses a read-only card here: a copy
/// shows what is written.
pub fn insert_card(command: &mut Command, image: &Path, copy: &Path) -> Result<(), String> {
    let copied = fs::copy(image, copy).and_then(|_| fs::File::options().write(true).open(copy)?.set_len(256 << 20));
    copied.map_err(|e| format!("{}: {e}", copy.display()))?;
    command.arg("-drive").arg(format!("if=sd,format=raw,file={}", copy.display()));
    Ok(())
}

/// A stick on a port of its USB, such as `1.1` behind a hub at port 1.
pub fn insert_stick(command: &mut Command, stick: &Path, port: &str) {
    command.arg("-drive").arg(format!("if=none,id=stick,format=raw,file={}", stick.display()));
    command.args(["-device", &format!("usb-storage,port={port},drive=stick")]);
}

/// A real Pi's firmware passes a seed; without one `getrandom` waits for ever here.
pub fn seed(dtb: &Path) -> Result<(), String> {
    let bytes: Vec<String> = (0..64u32).map(|n| format!("{:02x}", n.wrapping_mul(167) & 0xff)).collect();
    let words = ["-p", "-t", "bx"].map(OsStr::new).into_iter().chain([dtb.as_os_str()]);
    let words = words.chain(["/chosen", "rng-seed"].map(OsStr::new)).chain(bytes.iter().map(OsStr::new));
    run("fdtput", &words.collect::<Vec<_>>()).map(drop)
}

/// What QEMU 10.0 has not of a BCM2711, and whose drivers panic or wait for it; its USB port is a host's.
pub fn cut_to_qemus_pi4(dtb: &Path) -> Result<(), String> {
    const ABSENT: [&str; 16] = [
        "hdmi",
        "hvs",
        "pixelvalve",
        "dpi",
        "dsi",
        "vec",
        "txp",
        "gpu",
        "avs-monitor",
        "pcie",
        "ethernet",
        "rng",
        // What the displays' block has of its own.
        "interrupt-controller@7ef00100",
        "clock@7ef00000",
        "i2c@7ef04500",
        "i2c@7ef09500",
    ];
    let set = |node: &str, property: &str, value: &str| {
        let words = ["-t", "s"].map(OsStr::new).into_iter().chain([dtb.as_os_str()]);
        run("fdtput", &words.chain([node, property, value].map(OsStr::new)).collect::<Vec<_>>()).map(drop)
    };
    for parent in ["/", "/soc", "/scb"] {
        let nodes = run("fdtget", &["-l".as_ref(), dtb.as_os_str(), parent.as_ref()])?;
        for node in nodes.lines().filter(|node| ABSENT.iter().any(|absent| node.starts_with(absent))) {
            set(&format!("{}/{node}", parent.trim_end_matches('/')), "status", "disabled")?;
        }
    }
    set("/soc/usb@7e980000", "dr_mode", "host")
}

/// The machine's `-qtest` socket: registers read and written beside the running processor.
pub struct Pins {
    qtest: BufReader<UnixStream>,
    gpio: u32,
}

impl Pins {
    /// Connects to the machine's socket. Both buttons are up from then on: inputs start low, which an active-low
    /// button means as pressed.
    pub fn connect(socket: &Path, board: Board) -> Result<Self, String> {
        let end = Instant::now() + Duration::from_secs(10);
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(format!("{}: {error}", socket.display())),
            }
        };
        let mut pins = Self { qtest: BufReader::new(stream), gpio: board.peripherals() + 0x20_0000 };
        pins.level(ENROLL, true)?;
        pins.level(NEXT, true)?;
        Ok(pins)
    }

    /// Moves an input. GPSET0 and GPCLR0 (BCM2835 ARM Peripherals §6.1) do that too in QEMU.
    pub fn level(&mut self, pin: u32, high: bool) -> Result<(), String> {
        let register = self.gpio + if high { 0x1c } else { 0x28 };
        self.ask(&format!("writel {register:#x} {:#x}", 1u32 << pin)).map(drop)
    }

    /// What a pin drives, if it is an output: GPFSELn, GPLEV0.
    pub fn driven(&mut self, pin: u32) -> Result<Option<bool>, String> {
        let select = self.read(self.gpio + pin / 10 * 4)? >> (pin % 10 * 3) & 7;
        if select != 1 {
            return Ok(None);
        }
        Ok(Some(self.read(self.gpio + 0x34)? >> pin & 1 == 1))
    }

    fn read(&mut self, register: u32) -> Result<u32, String> {
        let answer = self.ask(&format!("readl {register:#x}"))?;
        let value = answer.trim().strip_prefix("OK 0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        value.map(|value| value as u32).ok_or_else(|| format!("qtest answered {answer:?}"))
    }

    fn ask(&mut self, line: &str) -> Result<String, String> {
        let mut answer = String::new();
        let done = writeln!(self.qtest.get_mut(), "{line}").and_then(|()| self.qtest.read_line(&mut answer));
        done.map_err(|e| format!("qtest: {e}"))?;
        if answer.starts_with("OK") { Ok(answer) } else { Err(format!("qtest answered {answer:?}")) }
    }
}
