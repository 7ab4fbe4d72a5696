//! The buttons on GPIO pins, each to ground, with the pull-ups of the Pi.
//!
//! I/O: by rppal, which maps the pins' registers; where the kernel forbids that (a Pi 5
//! without Raspberry Pi's own kernel), by the character device of `chip`. Levels are read,
//! edges are not waited for: on emulated boards no edge ever arrives (seen with QEMU 10.0, 2026-11).

use std::path::Path;

use rppal::gpio::{Gpio, InputPin};

use super::chip::{self, Lines};
use crate::config;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach the GPIO pins: {source}")]
    Open { source: rppal::gpio::Error },
    #[error("cannot use GPIO {pin} for a button: {source}")]
    Pin { pin: u8, source: rppal::gpio::Error },
    #[error(transparent)]
    Chip(#[from] chip::Error),
}

/// Something with two buttons.
pub trait Buttons {
    /// Whether each is down now, ENROLL first.
    fn pressed(&self) -> [bool; 2];
}

/// Both pins are released, with their former mode and pull, when this is dropped.
#[derive(Debug)]
pub enum GpioButtons {
    Mapped { enroll: InputPin, next: InputPin },
    Chip(Lines),
}

impl GpioButtons {
    pub fn open(config: &config::Panel) -> Result<Self, Error> {
        let gpio = match Gpio::new() {
            Ok(gpio) => gpio,
            Err(source) => return Self::by_the_chip(config, source),
        };
        let input = |pin| match gpio.get(pin) {
            Ok(pin) => Ok(pin.into_input_pullup()),
            Err(source) => Err(Error::Pin { pin, source }),
        };
        Ok(Self::Mapped { enroll: input(config.enroll_gpio)?, next: input(config.next_gpio)? })
    }

    /// A machine that has no such chip either is no Pi: what rppal said of it is the better reason.
    fn by_the_chip(config: &config::Panel, source: rppal::gpio::Error) -> Result<Self, Error> {
        match Lines::open([config.enroll_gpio, config.next_gpio]) {
            Ok(lines) => Ok(Self::Chip(lines)),
            Err(chip::Error::NoChip { .. }) => Err(Error::Open { source }),
            Err(error) => Err(error.into()),
        }
    }

    /// The device that they are read by, where it is not the registers.
    pub fn chip(&self) -> Option<&Path> {
        match self {
            Self::Mapped { .. } => None,
            Self::Chip(lines) => Some(lines.path()),
        }
    }
}

impl Buttons for GpioButtons {
    fn pressed(&self) -> [bool; 2] {
        match self {
            Self::Mapped { enroll, next } => [enroll.is_low(), next.is_low()],
            Self::Chip(lines) => lines.low(),
        }
    }
}
