//! The OLED on an I2C bus: an SSD1306 by its crate, or an SH1106 by `sh1106`.
//!
//! I/O. Only what changed is sent: a whole frame is 1,024 bytes, 26 ms at
//! 400 kHz; a heartbeat is a few bytes. rppal is touched by `open_bus` alone;
//! everything else works with any bus of embedded-hal, as the tests do. The
//! bus's speed is the device tree's (`i2c_arm_baudrate`). Which controller,
//! size and way up it is, `rootstock.toml` says: a module does not tell.

use std::time::Duration;

use embedded_hal::i2c::I2c;
use ssd1306::command::AddrMode;
use ssd1306::mode::BasicMode;
use ssd1306::prelude::{
    Brightness as Contrast, DisplayRotation, DisplaySize, DisplaySize128x32, DisplaySize128x64, I2CInterface,
};
use ssd1306::{I2CDisplayInterface, Ssd1306};

use super::frame::{Frame, WIDTH};
use super::presence::Brightness;
use super::retry::Retry;
use super::sh1106::Sh1106;
use crate::config::{self, Controller, Glass};

/// Everything is sent again this often: a display whose power failed for a
/// moment acknowledges as before, but has forgotten how it was set up.
const REFRESH: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open /dev/i2c-{bus}: {source}")]
    Open { bus: u8, source: rppal::i2c::Error },
    #[error("no display answers at {address:#04x} on /dev/i2c-{bus}")]
    Silent { bus: u8, address: u8 },
}

/// Something that shows frames.
pub trait Display {
    /// Shows the frame; after an error the display must be opened anew.
    fn show(&mut self, frame: &Frame, brightness: Brightness) -> Result<(), Error>;

    /// Sends everything again, as if the display had just been switched on.
    fn refresh(&mut self) -> Result<(), Error>;
}

/// No acknowledgement: the one thing that goes wrong, and all that the driver crate tells.
#[derive(Debug)]
pub(super) struct NoAnswer;

/// A controller in its own commands. A page has eight rows, as in `Frame`.
pub(super) trait Chip {
    /// Dark, and ready for the bytes of the first picture.
    fn blank(&mut self) -> Result<(), NoAnswer>;

    /// The whole set-up; lit at its end.
    fn set_up(&mut self) -> Result<(), NoAnswer>;

    /// Bytes of one page, from this column on; at most up to its end.
    fn write(&mut self, page: u8, column: u8, bytes: &[u8]) -> Result<(), NoAnswer>;

    fn contrast(&mut self, brightness: Brightness) -> Result<(), NoAnswer>;
}

struct Solomon<I: I2c, S: DisplaySize>(Ssd1306<I2CInterface<I>, S, BasicMode>);

impl<I: I2c, S: DisplaySize> Solomon<I, S> {
    fn new(i2c: I, size: S, panel: &config::Panel) -> Self {
        let interface = I2CDisplayInterface::new_custom_address(i2c, panel.i2c_address);
        let rotation = if panel.upside_down { DisplayRotation::Rotate180 } else { DisplayRotation::Rotate0 };
        Self(Ssd1306::new(interface, size, rotation))
    }
}

impl<I: I2c, S: DisplaySize> Chip for Solomon<I, S> {
    fn blank(&mut self) -> Result<(), NoAnswer> {
        let rotation = self.0.rotation();
        let driver = &mut self.0;
        let sent = driver
            .set_display_on(false)
            // Which end a column is at is decided when it is written (data sheet §10.1.8).
            .and_then(|()| driver.set_rotation(rotation))
            .and_then(|()| driver.set_addr_mode(AddrMode::Horizontal));
        sent.map_err(|_| NoAnswer)
    }

    fn set_up(&mut self) -> Result<(), NoAnswer> {
        self.0.init_with_addr_mode(AddrMode::Horizontal).map_err(|_| NoAnswer)
    }

    fn write(&mut self, page: u8, column: u8, bytes: &[u8]) -> Result<(), NoAnswer> {
        let end = column.saturating_add(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
        let sent = self.0.set_draw_area((column, page * 8), (end, page * 8 + 8)).and_then(|()| self.0.draw(bytes));
        sent.map_err(|_| NoAnswer)
    }

    fn contrast(&mut self, brightness: Brightness) -> Result<(), NoAnswer> {
        self.0.set_brightness(contrast(brightness)).map_err(|_| NoAnswer)
    }
}

/// A display and what is known to be in its memory.
pub struct Oled {
    chip: Box<dyn Chip>,
    pages: u8,
    shown: Frame,
    brightness: Brightness,
    bus: u8,
    address: u8,
}

/// `/dev/i2c-BUS`, by rppal.
pub fn open_bus(bus: u8) -> Result<rppal::i2c::I2c, Error> {
    rppal::i2c::I2c::with_bus(bus).map_err(|source| Error::Open { bus, source })
}

impl Oled {
    /// Sets the display up with this frame as its first.
    pub fn start<I: I2c + 'static>(
        i2c: I,
        panel: &config::Panel,
        frame: &Frame,
        brightness: Brightness,
    ) -> Result<Self, Error> {
        let chip: Box<dyn Chip> = match (panel.display, panel.size) {
            (Controller::Sh1106, _) => Box::new(Sh1106::new(i2c, panel)),
            (Controller::Ssd1306, Glass::Rows64) => Box::new(Solomon::new(i2c, DisplaySize128x64, panel)),
            (Controller::Ssd1306, Glass::Rows32) => Box::new(Solomon::new(i2c, DisplaySize128x32, panel)),
        };
        let pages = panel.size.rows() / 8;
        let (bus, address) = (panel.i2c_bus, panel.i2c_address);
        let mut oled = Self { chip, pages, shown: frame.clone(), brightness, bus, address };
        // The memory first and dark, so that nobody sees its noise after power-on.
        let sent = oled.chip.blank().and_then(|()| oled.send());
        sent.map_err(|_| oled.silent())?;
        oled.refresh()?;
        Ok(oled)
    }

    fn send(&mut self) -> Result<(), NoAnswer> {
        let pages = self.shown.bytes().chunks(WIDTH).take(self.pages.into());
        (0..).zip(pages).try_for_each(|(page, bytes)| self.chip.write(page, 0, bytes))
    }

    fn silent(&self) -> Error {
        Error::Silent { bus: self.bus, address: self.address }
    }
}

impl Display for Oled {
    fn refresh(&mut self) -> Result<(), Error> {
        // The set-up lights the display; between its first and last command it is dark for 2 ms.
        let sent = self.chip.set_up().and_then(|()| self.chip.contrast(self.brightness)).and_then(|()| self.send());
        sent.map_err(|_| self.silent())
    }

    fn show(&mut self, frame: &Frame, brightness: Brightness) -> Result<(), Error> {
        for page in 0..self.pages {
            let start = usize::from(page) * WIDTH;
            let Some(columns) = frame.changed(&self.shown, page.into()) else { continue };
            // Below 128.
            let column = columns.start as u8;
            let sent = self.chip.write(page, column, &frame.bytes()[start..start + WIDTH][columns]);
            sent.map_err(|_| self.silent())?;
        }
        self.shown = frame.clone();
        if brightness != self.brightness {
            self.chip.contrast(brightness).map_err(|_| self.silent())?;
            self.brightness = brightness;
        }
        Ok(())
    }
}

fn contrast(brightness: Brightness) -> Contrast {
    match brightness {
        Brightness::Full => Contrast::BRIGHT,
        Brightness::Dim | Brightness::Dark => Contrast::DIMMEST,
    }
}

/// What became of one attempt to show a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Found,
    Failed(String),
}

/// Keeps a display in step with frames: opens it, opens it again when it fails.
pub struct Keeper<D, O> {
    open: O,
    display: Option<D>,
    retry: Retry,
    /// Set up anew at this time.
    refresh_at: Duration,
}

impl<D: Display, O: FnMut(&Frame, Brightness) -> Result<D, Error>> Keeper<D, O> {
    pub fn new(open: O) -> Self {
        Self { open, display: None, retry: Retry::default(), refresh_at: Duration::ZERO }
    }

    /// Shows the frame if it can; called for each new frame and when `wait` has passed.
    pub fn show(&mut self, now: Duration, frame: &Frame, brightness: Brightness) -> Option<News> {
        if !self.retry.wait(now).is_zero() {
            return None;
        }
        let due = now >= self.refresh_at;
        if due {
            self.refresh_at = now.saturating_add(REFRESH);
        }
        let shown = match self.display.take() {
            Some(mut display) => {
                let sent = display.show(frame, brightness).and_then(|()| if due { display.refresh() } else { Ok(()) });
                sent.map(|()| display)
            }
            None => (self.open)(frame, brightness),
        };
        match shown {
            Ok(display) => {
                self.display = Some(display);
                self.retry.worked().then_some(News::Found)
            }
            Err(error) => self.retry.failed(now, error.to_string()).map(News::Failed),
        }
    }

    /// Whether the last frame arrived.
    pub fn works(&self) -> bool {
        self.display.is_some()
    }

    /// When to call `show` even without a new frame.
    pub fn wait(&self, now: Duration) -> Duration {
        match self.display {
            Some(_) => self.refresh_at.saturating_sub(now),
            None => self.retry.wait(now),
        }
    }
}
