//! Our display's bytes through an emulated Pi 3's I2C controller and into QEMU's
//! log, decoded again: proves the parser that the board test reads pictures with.
//! Needs QEMU 8 or newer for arm64; no kernel runs, it is driven over qtest.

// Helpers of a test may panic as tests do.
#![allow(clippy::unwrap_used)]

#[path = "support/i2c.rs"]
mod i2c;
#[path = "support/ssd1306_decoder.rs"]
mod ssd1306_decoder;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use i2c::{ADDRESS, Bus};
use rootstock::config::Panel;
use rootstock::panel::draw;
use rootstock::panel::oled::{Display, Oled};
use rootstock::panel::presence::{Brightness, Look};
use rootstock::panel::screen::{Element, Screen};
use ssd1306_decoder::{frames, shows};

/// The BCM2837's second I2C controller, whose pins are the header's (BCM2835 ARM Peripherals §3.2).
const BSC1: u32 = 0x3f80_4000;

/// qtest commands that send one write transfer, and how many answers they bring.
fn transfer(bytes: &[u8]) -> (String, usize) {
    let mut commands = String::new();
    // Address, length, then enable and start; each byte goes through the FIFO.
    let registers = [(0x0c, u32::from(ADDRESS)), (0x08, bytes.len() as u32), (0x00, 0x8080)];
    for (register, value) in registers.into_iter().chain(bytes.iter().map(|&byte| (0x10, u32::from(byte)))) {
        writeln!(commands, "writel {:#x} {value:#x}", BSC1 + register).unwrap();
    }
    // Done is cleared by writing it.
    writeln!(commands, "writel {:#x} 0x2", BSC1 + 0x04).unwrap();
    (commands, bytes.len() + 4)
}

#[test]
fn what_our_driver_sends_is_read_back_from_qemus_log_as_the_same_screen() {
    let screen = |per_mille| Screen::new("Importing", vec![Element::Bar(per_mille)]);
    let bus = Bus::with_display();
    let first = draw::frame(&screen(100), Look::PLAIN);
    let mut oled = Oled::start(bus.clone(), &Panel::default(), &first, Brightness::Full).unwrap();
    oled.show(&draw::frame(&screen(900), Look::PLAIN), Brightness::Full).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("i2c.log");
    let mut qemu = Command::new("qemu-system-aarch64")
        .args(["-M", "raspi3b", "-display", "none", "-nodefaults", "-S", "-qtest", "stdio"])
        .args(["-device", "at24c-eeprom,bus=i2c-bus.1,address=0x3c,rom-size=4096", "-trace", "i2c_*", "-D"])
        .arg(&log)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("qemu-system-aarch64: {error}; mend it: apt-get install qemu-system-arm"));
    let (mut input, mut output) = (qemu.stdin.take().unwrap(), BufReader::new(qemu.stdout.take().unwrap()));
    for bytes in &bus.0.borrow().transfers {
        let (commands, answers) = transfer(bytes);
        input.write_all(commands.as_bytes()).unwrap();
        for _ in 0..answers {
            let mut answer = String::new();
            output.read_line(&mut answer).unwrap();
            assert!(answer.starts_with("OK"), "{answer:?} to {commands}");
        }
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();

    let log = std::fs::read_to_string(&log).unwrap();
    let seen = frames(&log, ADDRESS);
    let at = |per_mille| seen.iter().position(|frame| shows(frame, &screen(per_mille)));
    assert!(at(100).is_some() && at(100) < at(900), "{} frames from {}", seen.len(), &log[..log.len().min(400)]);
    assert!(shows(seen.last().unwrap(), &screen(900)));
}
