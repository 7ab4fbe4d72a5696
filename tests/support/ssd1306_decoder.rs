//! What a person would see on an SSD1306 that got these bytes: commands and data
//! in, picture out. Written from the data sheet (revision 1.1), not from our driver.
//! The SH1106 is the same but for what `Decoder::sh1106` says.
//!
//! Fed with whole I2C write transfers, from a bus of a test or from the log that
//! QEMU writes with `-trace 'i2c_*' -D LOG`. Use: `#[path = "support/ssd1306_decoder.rs"] mod ssd1306_decoder;`

#![allow(dead_code)] // Each test uses its part.

use rootstock::panel::draw;
use rootstock::panel::frame::{Frame, HEIGHT, WIDTH};
use rootstock::panel::presence::Look;
use rootstock::panel::screen::Screen;

/// Commands that were not understood are kept up to this many.
const MAX_UNKNOWN: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addressing {
    Horizontal,
    Vertical,
    Page,
}

/// Columns of the memory: the SH1106 has all of them, the SSD1306 the first 128.
const COLUMNS: usize = 132;

/// The controller after power-on (§8.9, reset) and whatever came since.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// By page and segment of the glass, not by column address: remapping happens on writing.
    memory: [[u8; COLUMNS]; 8],
    /// Of its memory, and left of the glass.
    width: usize,
    left: usize,
    /// Rows of the glass that are driven, and how the pads of the COM lines are arranged (0x12: alternately).
    pub rows: usize,
    pub pads: u8,
    pub on: bool,
    pub inverted: bool,
    pub contrast: u8,
    pub charge_pump: bool,
    pub unknown: Vec<u8>,
    all_on: bool,
    addressing: Addressing,
    columns: (usize, usize),
    pages: (usize, usize),
    column: usize,
    page: usize,
    segment_remap: bool,
    com_reversed: bool,
    start_line: usize,
    offset: usize,
    /// A command whose arguments have not all come.
    pending: Vec<u8>,
    /// Data bytes that came in all.
    pub data_bytes: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        // Real memory holds noise after power-on; so does this one, to show who relies on it.
        let mut memory = [[0; COLUMNS]; 8];
        for (index, byte) in memory.iter_mut().flatten().enumerate() {
            *byte = (index.wrapping_mul(167) >> 3) as u8;
        }
        Self {
            memory,
            width: WIDTH,
            left: 0,
            rows: HEIGHT,
            pads: 0x12,
            on: false,
            inverted: false,
            contrast: 0x7f,
            charge_pump: false,
            unknown: Vec::new(),
            all_on: false,
            addressing: Addressing::Page,
            columns: (0, WIDTH - 1),
            pages: (0, 7),
            column: 0,
            page: 0,
            segment_remap: false,
            com_reversed: false,
            start_line: 0,
            offset: 0,
            pending: Vec::new(),
            data_bytes: 0,
        }
    }
}

impl Decoder {
    /// An SH1106 (Sino Wealth, 2.3): 132 columns of which the glass shows the middle ones, no addressing but by page,
    /// and its DC-DC converter is switched by 0xad.
    pub fn sh1106() -> Self {
        Self { width: COLUMNS, left: 2, ..Self::default() }
    }

    fn is_sh1106(&self) -> bool {
        self.left != 0
    }

    /// One write transfer without its address byte (§8.1.5.2): control bytes say what follows.
    pub fn transfer(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let [control, tail @ ..] = rest {
            let (continues, data) = (control & 0x80 != 0, control & 0x40 != 0);
            // With Co clear, everything to the end of the transfer is of that kind.
            let count = if continues { tail.len().min(1) } else { tail.len() };
            let (now, later) = tail.split_at(count);
            for &byte in now {
                if data { self.data(byte) } else { self.command(byte) }
            }
            rest = later;
        }
    }

    /// What the glass shows, as seen with the pins on top; dark when it is off.
    pub fn frame(&self) -> Frame {
        let mut frame = Frame::default();
        for y in 0..self.rows {
            for x in 0..WIDTH {
                // Modules are mounted so that remapped segments and reversed COMs read upright.
                let segment = self.width - 1 - self.left - x;
                let row = if self.com_reversed { y } else { self.rows - 1 - y };
                let line = (row + self.start_line + self.offset) % HEIGHT;
                let lit = self.memory[line / 8][segment] & (1 << (line % 8)) != 0;
                let lit = self.all_on || (lit != self.inverted);
                frame.set(x, y, self.on && self.charge_pump && lit);
            }
        }
        frame
    }

    fn data(&mut self, byte: u8) {
        self.data_bytes += 1;
        let column = self.column.min(self.width - 1);
        let segment = if self.segment_remap { self.width - 1 - column } else { column };
        self.memory[self.page][segment] = byte;
        let next = |at: usize, (first, last): (usize, usize), end: usize| match at {
            at if at == last => (first, true),
            at => ((at + 1) % end, false),
        };
        match self.addressing {
            Addressing::Page => self.column = (self.column + 1) % self.width,
            Addressing::Horizontal => {
                let (column, wrapped) = next(self.column, self.columns, WIDTH);
                self.column = column;
                if wrapped {
                    self.page = next(self.page, self.pages, 8).0;
                }
            }
            Addressing::Vertical => {
                let (page, wrapped) = next(self.page, self.pages, 8);
                self.page = page;
                if wrapped {
                    self.column = next(self.column, self.columns, WIDTH).0;
                }
            }
        }
    }

    fn command(&mut self, byte: u8) {
        self.pending.push(byte);
        // Table 9-1: how many argument bytes follow.
        let arguments = match self.pending[0] {
            0x20..=0x2f if self.is_sh1106() => 0,
            0x20 | 0x81 | 0x8d | 0xa8 | 0xad | 0xd3 | 0xd5 | 0xd9 | 0xda | 0xdb => 1,
            0x21 | 0x22 | 0xa3 => 2,
            0x26 | 0x27 => 6,
            0x29 | 0x2a => 5,
            _ => 0,
        };
        if self.pending.len() > arguments {
            let command = std::mem::take(&mut self.pending);
            self.execute(&command);
        }
    }

    fn execute(&mut self, command: &[u8]) {
        match *command {
            [low @ 0x00..=0x0f] => self.column = self.column & 0xf0 | usize::from(low & 0xf),
            // An SH1106 has one bit more.
            [high @ 0x10..=0x1f] if self.is_sh1106() || high < 0x18 => {
                self.column = self.column & 0x0f | usize::from(high & 0xf) << 4;
            }
            [0x20..=0x2f, ..] if self.is_sh1106() => self.note(command[0]),
            [0xad, supply] if self.is_sh1106() => self.charge_pump = supply & 1 != 0,
            // Its pump's voltage.
            [0x30..=0x33] if self.is_sh1106() => {}
            [0xa8, ratio] => self.rows = usize::from(ratio & 0x3f) + 1,
            [0xda, pads] => self.pads = pads,
            [0x20, mode] => {
                self.addressing = match mode & 3 {
                    0 => Addressing::Horizontal,
                    1 => Addressing::Vertical,
                    _ => Addressing::Page,
                }
            }
            [0x21, first, last] => {
                self.columns = (usize::from(first & 0x7f), usize::from(last & 0x7f));
                self.column = self.columns.0;
            }
            [0x22, first, last] => {
                self.pages = (usize::from(first & 7), usize::from(last & 7));
                self.page = self.pages.0;
            }
            [line @ 0x40..=0x7f] => self.start_line = usize::from(line & 0x3f),
            [0x81, contrast] => self.contrast = contrast,
            [0x8d, pump] if !self.is_sh1106() => self.charge_pump = pump & 4 != 0,
            [remap @ 0xa0..=0xa1] => self.segment_remap = remap & 1 != 0,
            [all @ 0xa4..=0xa5] => self.all_on = all & 1 != 0,
            [invert @ 0xa6..=0xa7] => self.inverted = invert & 1 != 0,
            [on @ 0xae..=0xaf] => self.on = on & 1 != 0,
            [page @ 0xb0..=0xb7] => self.page = usize::from(page & 7),
            [direction @ 0xc0..=0xcf] => self.com_reversed = direction & 8 != 0,
            [0xd3, offset] => self.offset = usize::from(offset & 0x3f),
            // Scrolling off, no operation, and timings that change no picture.
            [0x2e | 0xe3] | [0xad | 0xd5 | 0xd9 | 0xdb, _] => {}
            [first, ..] => self.note(first),
            [] => {}
        }
    }

    fn note(&mut self, command: u8) {
        if self.unknown.len() < MAX_UNKNOWN {
            self.unknown.push(command);
        }
    }
}

/// The write transfers to one address in a log of QEMU's `i2c_*` events. Their
/// lines, of `hw/i2c/trace-events` in QEMU 7.2 to 10, with whatever stands before:
/// `i2c_event start(addr:0x3c)`, `i2c_send send(addr:0x3c) data:0x40`, `i2c_event finish(addr:0x3c)`.
pub fn transfers(log: &str, address: u8) -> Vec<Vec<u8>> {
    let to_us = format!("(addr:{address:#04x})");
    let mut transfers = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for line in log.lines().filter(|line| line.contains(&to_us)) {
        if line.contains("i2c_event start(") {
            // A repeated start ends the transfer before it.
            transfers.extend(open.replace(Vec::new()));
        } else if line.contains("i2c_event finish(") || line.contains("i2c_event start_async(") {
            transfers.extend(open.take());
        } else if let Some((_, data)) = line.split_once(" data:0x").filter(|_| line.contains("i2c_send ")) {
            let byte = data.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
            if let (Some(transfer), Some(byte)) = (&mut open, byte) {
                transfer.push(byte);
            }
        }
    }
    // A log read while QEMU runs ends anywhere: what is unfinished did not happen yet.
    transfers
}

/// Every picture that was ever to be seen in such a log, in order, without repeats
/// of the same; those between two parts of one update are among them.
pub fn frames(log: &str, address: u8) -> Vec<Frame> {
    let mut decoder = Decoder::default();
    let mut frames: Vec<Frame> = Vec::new();
    for transfer in transfers(log, address) {
        decoder.transfer(&transfer);
        let frame = decoder.frame();
        if frames.last() != Some(&frame) {
            frames.push(frame);
        }
    }
    frames
}

/// Whether a frame is this screen, in any place that the slow shift gives it, heart full or hollow.
pub fn shows(frame: &Frame, screen: &Screen) -> bool {
    let shifts = [(0, 0), (1, 0), (1, 1), (0, 1)];
    let looks = shifts.into_iter().flat_map(|shift| [true, false].map(|beat| Look { shift, beat, ..Look::PLAIN }));
    looks.into_iter().any(|look| draw::frame(screen, look) == *frame)
}
