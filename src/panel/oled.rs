//! The OLED: SSD1306, 128 × 64, on an I2C bus.
//!
//! I/O. Only what changed is sent: a whole frame is 1,024 bytes in 64 transfers,
//! 26 ms at 400 kHz; a heartbeat is a few bytes. rppal is touched by `open_bus`
//! alone; everything else works with any bus of embedded-hal, as the tests do.
//! The bus's speed is the device tree's (`i2c_arm_baudrate`).

use std::time::Duration;

use embedded_hal::i2c::I2c;
use ssd1306::command::AddrMode;
use ssd1306::mode::BasicMode;
use ssd1306::prelude::{Brightness as Contrast, DisplayRotation, DisplaySize128x64, I2CInterface};
use ssd1306::{I2CDisplayInterface, Ssd1306};

use super::frame::{Frame, PAGES, WIDTH};
use super::presence::Brightness;
use super::retry::Retry;

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

/// An SSD1306 and what is known to be in its memory.
pub struct Oled<I: I2c> {
    driver: Ssd1306<I2CInterface<I>, DisplaySize128x64, BasicMode>,
    shown: Frame,
    brightness: Brightness,
    bus: u8,
    address: u8,
}

/// `/dev/i2c-BUS`, by rppal.
pub fn open_bus(bus: u8) -> Result<rppal::i2c::I2c, Error> {
    rppal::i2c::I2c::with_bus(bus).map_err(|source| Error::Open { bus, source })
}

impl<I: I2c> Oled<I> {
    /// Sets the display up with this frame as its first. `bus` is only for messages.
    pub fn start(i2c: I, bus: u8, address: u8, frame: &Frame, brightness: Brightness) -> Result<Self, Error> {
        let interface = I2CDisplayInterface::new_custom_address(i2c, address);
        let driver = Ssd1306::new(interface, DisplaySize128x64, DisplayRotation::Rotate0);
        let mut oled = Self { driver, shown: frame.clone(), brightness, bus, address };
        // The memory first and dark, so that nobody sees its noise after power-on.
        let driver = &mut oled.driver;
        let sent = driver
            .set_display_on(false)
            // Which end a column is at is decided when it is written (data sheet §10.1.8).
            .and_then(|()| driver.set_rotation(DisplayRotation::Rotate0))
            .and_then(|()| driver.set_addr_mode(AddrMode::Horizontal))
            .and_then(|()| driver.set_draw_area((0, 0), (128, 64)))
            .and_then(|()| driver.draw(frame.bytes()));
        sent.map_err(|_| oled.silent())?;
        oled.refresh()?;
        Ok(oled)
    }

    /// The cause is lost on its way through the driver crate, and it is one anyway: no acknowledgement.
    fn silent(&self) -> Error {
        Error::Silent { bus: self.bus, address: self.address }
    }
}

impl<I: I2c> Display for Oled<I> {
    fn refresh(&mut self) -> Result<(), Error> {
        let driver = &mut self.driver;
        // The set-up lights the display; between its first and last command it is dark for 2 ms.
        let sent = driver
            .init_with_addr_mode(AddrMode::Horizontal)
            .and_then(|()| driver.set_brightness(contrast(self.brightness)))
            .and_then(|()| driver.set_draw_area((0, 0), (128, 64)))
            .and_then(|()| driver.draw(self.shown.bytes()));
        sent.map_err(|_| self.silent())
    }

    fn show(&mut self, frame: &Frame, brightness: Brightness) -> Result<(), Error> {
        for page in 0..PAGES {
            let Some(columns) = frame.changed(&self.shown, page) else { continue };
            // Both lie below 128.
            let area = ((columns.start as u8, page as u8 * 8), (columns.end as u8, page as u8 * 8 + 8));
            let bytes = &frame.bytes()[page * WIDTH..][columns];
            let sent = self.driver.set_draw_area(area.0, area.1).and_then(|()| self.driver.draw(bytes));
            sent.map_err(|_| self.silent())?;
        }
        self.shown = frame.clone();
        if brightness != self.brightness {
            self.driver.set_brightness(contrast(brightness)).map_err(|_| self.silent())?;
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
