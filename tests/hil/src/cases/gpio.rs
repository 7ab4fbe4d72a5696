//! The pins: the kernel's chip, who holds them, their pulls, and a finger.
//!
//! I/O. Who holds a line by the character device's ioctl, since nobody else asks
//! that; everything else by the panel's own code and rppal.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use rootstock::panel::chip::{self, Header, text};
use rootstock::panel::gpio::{Buttons, GpioButtons};
use rootstock::panel::{Button, Gesture};
use rppal::gpio::{Bias, Gpio};

use crate::ask;
use crate::bench::{Bench, Part};
use crate::verdict::{Outcome, Trouble, failed, not_proven};

/// Free on every board with 40 pins, and not among the jumpers'.
const PULLED: [u8; 3] = [22, 23, 24];

/// include/uapi/linux/gpio.h: `struct gpio_v2_line_info`.
#[repr(C)]
struct LineInfo {
    name: [u8; 32],
    consumer: [u8; 32],
    offset: u32,
    num_attrs: u32,
    flags: u64,
    attrs: [u64; 20],
    padding: [u32; 4],
}

/// `_IOWR(0xB4, 5, 256)`.
const GET_LINEINFO: libc::Ioctl = 0xc100_b405_u32 as libc::Ioctl;
const FLAG_USED: u64 = 1;

const _: () = assert!(size_of::<LineInfo>() == 256);

pub fn chip(_: &Bench) -> Outcome {
    let Header { label, lines, .. } = header()?;
    if lines >= 28 { Ok(format!("{label}, {lines} lines")) } else { failed(format!("{label} has {lines} lines")) }
}

pub fn free(bench: &Bench) -> Outcome {
    let Header { chip, .. } = header()?;
    let panel = &bench.config.panel;
    let held: Vec<String> = [panel.enroll_gpio, panel.next_gpio]
        .into_iter()
        .filter_map(|pin| match line(&chip, pin) {
            Ok(info) if info.flags & FLAG_USED != 0 => Some(format!("GPIO {pin} by {:?}", text(&info.consumer))),
            Ok(_) => None,
            Err(error) => Some(format!("GPIO {pin}: {error}")),
        })
        .collect();
    let names = format!("GPIO {} and {}", panel.enroll_gpio, panel.next_gpio);
    if held.is_empty() { Ok(names) } else { failed(format!("held: {}", held.join(", "))) }
}

pub fn pulls(bench: &Bench) -> Outcome {
    let gpio = gpio()?;
    let mut wrong = Vec::new();
    for number in PULLED {
        let mut pin = match gpio.get(number) {
            Ok(pin) => pin.into_input(),
            Err(error) => return failed(format!("GPIO {number}: {error}")),
        };
        // Twice, so that a pin that happens to lie right is found.
        for (bias, high) in [(Bias::PullUp, true), (Bias::PullDown, false), (Bias::PullUp, true)] {
            pin.set_bias(bias);
            std::thread::sleep(Duration::from_millis(5));
            if pin.is_high() != high {
                wrong.push(format!("GPIO {number} with {bias}"));
            }
        }
        pin.set_bias(Bias::Off);
    }
    match (wrong.is_empty(), bench.board.emulated.is_some()) {
        (true, _) => Ok(format!("GPIO {PULLED:?}")),
        (false, true) => not_proven("emulated: QEMU's pins have no pulls"),
        (false, false) => failed(format!("the level does not follow: {}", wrong.join(", "))),
    }
}

pub fn finger(bench: &Bench) -> Outcome {
    let buttons = buttons(bench)?;
    if bench.patience.is_zero() {
        return not_proven("nobody was asked");
    }
    if buttons.pressed() != [false; 2] {
        return bench.absent(Part::Buttons, "a button reads as pressed before anybody pressed it");
    }
    for (button, name) in [(Button::Enroll, "ENROLL"), (Button::Next, "NEXT")] {
        ask::tell(&format!("press {name} shortly ({} s)", bench.patience.as_secs()));
        if !ask::gestures(&buttons, bench.patience, |gesture| gesture == Gesture::Short(button)) {
            return bench.absent(Part::Buttons, format!("no press of {name} within {} s", bench.patience.as_secs()));
        }
    }
    Ok(String::new())
}

pub fn buttons(bench: &Bench) -> Result<GpioButtons, Trouble> {
    GpioButtons::open(&bench.config.panel).or_else(|error| failed(error.to_string()))
}

/// The pins by their registers. A Pi 5's can be mapped only where Raspberry Pi's own kernel runs.
pub fn gpio() -> Result<Gpio, Trouble> {
    Gpio::new().or_else(|error| match header() {
        Ok(Header { label, .. }) if label.starts_with("pinctrl-rp1") => not_proven(format!("no pins to map: {error}")),
        _ => failed(format!("rppal: {error}")),
    })
}

fn header() -> Result<Header, Trouble> {
    chip::header().or_else(|error| failed(error.to_string()))
}

fn line(file: &File, offset: u8) -> std::io::Result<LineInfo> {
    let offset = u32::from(offset);
    let mut info =
        LineInfo { name: [0; 32], consumer: [0; 32], offset, num_attrs: 0, flags: 0, attrs: [0; 20], padding: [0; 4] };
    // SAFETY: the request reads and writes one gpio_v2_line_info, whose layout and size this has.
    match unsafe { libc::ioctl(file.as_raw_fd(), GET_LINEINFO, &raw mut info) } {
        0 => Ok(info),
        _ => Err(std::io::Error::last_os_error()),
    }
}
