//! The I2C bus and the display on it, by the panel's own driver.
//!
//! I/O.

use std::time::{Duration, Instant};

use rootstock::panel::oled::{Display, Oled, open_bus};
use rootstock::panel::presence::Brightness;
use rppal::i2c::I2c;

use crate::ask;
use crate::bench::{Bench, Part};
use crate::pattern::pattern as picture;
use crate::verdict::{Outcome, Trouble, failed, not_proven};

/// 7-bit addresses that devices may have; those around them are reserved (UM10204 §3.1.12).
const ADDRESSES: std::ops::RangeInclusive<u16> = 0x08..=0x77;
/// An address without a device is refused in some 30 µs; all of them took longer only on a bus that hangs.
const SCAN_LIMIT: Duration = Duration::from_secs(5);

pub fn bus(bench: &Bench) -> Outcome {
    let capabilities = open(bench)?.capabilities();
    if !capabilities.i2c_block_write() && !capabilities.smbus_send_byte() {
        return failed("its driver moves no plain bytes");
    }
    Ok(format!("/dev/i2c-{}", bench.config.panel.i2c_bus))
}

pub fn scan(bench: &Bench) -> Outcome {
    let mut bus = open(bench)?;
    let (start, mut found) = (Instant::now(), Vec::new());
    for address in ADDRESSES {
        if start.elapsed() > SCAN_LIMIT {
            let what = format!("at {address:#04x} {} s were over: the bus hangs", SCAN_LIMIT.as_secs());
            return if bench.board.emulated.is_some() { not_proven(what) } else { failed(what) };
        }
        if bus.set_slave_address(address).is_ok() && bus.read(&mut [0]).is_ok() {
            found.push(format!("{address:#04x}"));
        }
    }
    match found.is_empty() {
        false => Ok(found.join(", ")),
        true => bench.absent(Part::Display, format!("nothing answers on /dev/i2c-{}", bench.config.panel.i2c_bus)),
    }
}

pub fn answers(bench: &Bench) -> Outcome {
    start(bench).map(|_| {
        let panel = &bench.config.panel;
        format!("{:#04x} on /dev/i2c-{}", panel.i2c_address, panel.i2c_bus)
    })
}

pub fn pattern(bench: &Bench) -> Outcome {
    let mut display = start(bench)?;
    if display.refresh().is_err() {
        return failed("it answered, and then no more");
    }
    match ask::yes_or_no(bench, "Does the display show a frame along all four edges, and \"Test pattern\" upright?") {
        Some(true) => Ok("a person says so".to_owned()),
        Some(false) => failed("a person says no: panel.display, panel.size or panel.rotate may be another's"),
        None => not_proven("drawn, and nobody said that it is seen"),
    }
}

fn open(bench: &Bench) -> Result<I2c, Trouble> {
    open_bus(bench.config.panel.i2c_bus).or_else(|error| failed(error.to_string()))
}

fn start(bench: &Bench) -> Result<impl Display, Trouble> {
    let panel = &bench.config.panel;
    let rows = usize::from(panel.size.rows());
    let began = Oled::start(open(bench)?, panel, &picture(rows), Brightness::Full);
    began.or_else(|error| bench.absent(Part::Display, error.to_string()))
}
