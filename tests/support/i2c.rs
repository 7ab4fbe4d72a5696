//! An I2C bus with one display on it that can be unplugged.

#![allow(dead_code)] // Each test uses its part.

use std::cell::RefCell;
use std::rc::Rc;

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};

use crate::ssd1306_decoder::Decoder;

#[derive(Default)]
pub struct Wire {
    /// `None` while nothing is plugged in.
    pub display: Option<Decoder>,
    /// Every transfer that was acknowledged.
    pub transfers: Vec<Vec<u8>>,
}

/// A bus that any number of drivers may hold.
#[derive(Clone, Default)]
pub struct Bus(pub Rc<RefCell<Wire>>);

pub const ADDRESS: u8 = 0x3c;

impl Bus {
    pub fn with_display() -> Self {
        let bus = Self::default();
        bus.plug();
        bus
    }

    /// A display fresh from power-on.
    pub fn plug(&self) {
        self.0.borrow_mut().display = Some(Decoder::default());
    }

    pub fn with(display: Decoder) -> Self {
        let bus = Self::default();
        bus.0.borrow_mut().display = Some(display);
        bus
    }

    pub fn unplug(&self) {
        self.0.borrow_mut().display = None;
    }

    pub fn display(&self) -> Decoder {
        self.0.borrow().display.clone().expect("a display is plugged in")
    }
}

impl ErrorType for Bus {
    type Error = ErrorKind;
}

impl I2c for Bus {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        let mut wire = self.0.borrow_mut();
        for operation in operations {
            let Operation::Write(bytes) = operation else { panic!("the display is never read") };
            match &mut wire.display {
                Some(display) if address == ADDRESS => display.transfer(bytes),
                _ => return Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address)),
            }
            wire.transfers.push(bytes.to_vec());
        }
        Ok(())
    }
}
