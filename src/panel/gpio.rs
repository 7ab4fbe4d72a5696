//! The buttons on GPIO pins, each to ground, with the pull-ups of the Pi.
//!
//! I/O, by rppal alone. Levels are read, edges are not waited for: on emulated
//! boards no edge ever arrives (seen with QEMU 10.0, 2026-11).

use rppal::gpio::{Gpio, InputPin};

use crate::config;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach the GPIO pins: {source}")]
    Open { source: rppal::gpio::Error },
    #[error("cannot use GPIO {pin} for a button: {source}")]
    Pin { pin: u8, source: rppal::gpio::Error },
}

/// Something with two buttons.
pub trait Buttons {
    /// Whether each is down now, ENROLL first.
    fn pressed(&self) -> [bool; 2];
}

/// Both pins are released, with their former mode and pull, when this is dropped.
pub struct GpioButtons {
    enroll: InputPin,
    next: InputPin,
}

impl GpioButtons {
    pub fn open(config: &config::Panel) -> Result<Self, Error> {
        let gpio = Gpio::new().map_err(|source| Error::Open { source })?;
        let input = |pin| match gpio.get(pin) {
            Ok(pin) => Ok(pin.into_input_pullup()),
            Err(source) => Err(Error::Pin { pin, source }),
        };
        Ok(Self { enroll: input(config.enroll_gpio)?, next: input(config.next_gpio)? })
    }
}

impl Buttons for GpioButtons {
    fn pressed(&self) -> [bool; 2] {
        [self.enroll.is_low(), self.next.is_low()]
    }
}
