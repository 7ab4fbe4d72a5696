//! The SH1106: what 1.3-inch modules have in the place of an SSD1306.
//!
//! I/O over any bus of embedded-hal. Its memory has 132 columns, of which the
//! glass shows the middle 128, and it knows page addressing only: each piece of
//! a page is a command with its place and then its bytes. Commands by Sino
//! Wealth's data sheet, version 2.3.

use embedded_hal::i2c::I2c;

use super::oled::{Chip, NoAnswer};
use super::presence::Brightness;
use crate::config::Panel;

/// Columns of its memory left of the glass; as many are right of it, so a turned one has the same.
const LEFT: u8 = 2;
/// A control byte that says what the rest of the transfer is.
const COMMANDS: u8 = 0x00;
const DATA: u8 = 0x40;
/// Longest piece of a page, with its control byte.
const MAX_TRANSFER: usize = 1 + 128;

pub(super) struct Sh1106<I> {
    i2c: I,
    address: u8,
    rows: u8,
    upside_down: bool,
}

impl<I: I2c> Sh1106<I> {
    pub(super) fn new(i2c: I, panel: &Panel) -> Self {
        Self { i2c, address: panel.i2c_address, rows: panel.size.rows(), upside_down: panel.upside_down }
    }

    fn command(&mut self, bytes: &[u8]) -> Result<(), NoAnswer> {
        let mut transfer = [COMMANDS; MAX_TRANSFER];
        let end = 1 + bytes.len();
        transfer[1..end].copy_from_slice(bytes);
        self.i2c.write(self.address, &transfer[..end]).map_err(|_| NoAnswer)
    }

    /// Segment and COM order, which decide where a byte is shown.
    fn direction(&self) -> [u8; 2] {
        if self.upside_down { [0xa0, 0xc0] } else { [0xa1, 0xc8] }
    }
}

impl<I: I2c> Chip for Sh1106<I> {
    fn blank(&mut self) -> Result<(), NoAnswer> {
        let [segments, rows] = self.direction();
        self.command(&[0xae, segments, rows])
    }

    fn set_up(&mut self) -> Result<(), NoAnswer> {
        let [segments, rows] = self.direction();
        // COM pads alternate on glasses of 64 rows and follow each other on those of 32.
        let pads = if self.rows == 64 { 0x12 } else { 0x02 };
        self.command(&[
            0xae, // off
            0xd5,
            0x80, // clock
            0xa8,
            self.rows - 1, // multiplex
            0xd3,
            0x00, // offset
            0x40, // start line
            0xad,
            0x8b, // its DC-DC on: modules have no other supply for the glass
            segments,
            rows, //
            0xda,
            pads, //
            0xd9,
            0x22, // pre-charge
            0xdb,
            0x35, // deselect level
            0xa4,
            0xa6, // memory as it is
            0xaf, // on
        ])
    }

    fn write(&mut self, page: u8, column: u8, bytes: &[u8]) -> Result<(), NoAnswer> {
        let column = column.saturating_add(LEFT);
        self.command(&[0xb0 | page & 0xf, column & 0xf, 0x10 | column >> 4])?;
        let mut transfer = [DATA; MAX_TRANSFER];
        let bytes = &bytes[..bytes.len().min(MAX_TRANSFER - 1)];
        transfer[1..=bytes.len()].copy_from_slice(bytes);
        self.i2c.write(self.address, &transfer[..=bytes.len()]).map_err(|_| NoAnswer)
    }

    fn contrast(&mut self, brightness: Brightness) -> Result<(), NoAnswer> {
        let contrast = if brightness == Brightness::Full { 0xff } else { 0x00 };
        self.command(&[0x81, contrast])
    }
}
