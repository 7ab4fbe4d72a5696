//! Input pins by the kernel's GPIO character device (`linux/gpio.h`, version 2 of its
//! interface), for kernels that let nobody map the pins' registers: a Pi 5's RP1 can be
//! mapped only where Raspberry Pi's own kernel runs.
//!
//! I/O. Levels are read, as in `gpio.rs`; edges are not asked for.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

/// Chips that are looked at: `/dev/gpiochip0` and so on. A Pi 5 has five.
const MAX_CHIPS: u32 = 32;
/// The drivers of the 40-pin header, by the beginning of their labels: Pi 3 and 4, Pi 5.
const HEADERS: [&str; 2] = ["pinctrl-bcm2", "pinctrl-rp1"];
const CONSUMER: &[u8] = b"rootstock";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no /dev/gpiochip* is the header's (seen: {seen:?})")]
    NoChip { seen: Vec<String> },
    #[error("cannot use GPIO {} and {} of {}: {source}", .pins[0], .pins[1], .path.display())]
    Lines { path: PathBuf, pins: [u8; 2], source: io::Error },
}

/// Two pins as inputs with pull-ups. They are free again when this is dropped.
#[derive(Debug)]
pub struct Lines {
    request: OwnedFd,
    path: PathBuf,
}

impl Lines {
    /// Takes both pins of the header, by their BCM numbers.
    pub fn open(pins: [u8; 2]) -> Result<Self, Error> {
        let Header { chip, path, .. } = header()?;
        match request(&chip, pins) {
            Ok(request) => Ok(Self { request, path }),
            Err(source) => Err(Error::Lines { path, pins, source }),
        }
    }

    /// Such as `/dev/gpiochip0`.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Whether each pin is low now. Pins that cannot be read are high: a button that nobody presses.
    pub fn low(&self) -> [bool; 2] {
        let mut values = Values { bits: u64::MAX, mask: 0b11 };
        // SAFETY: the request reads and writes one gpio_v2_line_values, whose layout and size this has.
        if unsafe { libc::ioctl(self.request.as_raw_fd(), GET_VALUES, &raw mut values) } != 0 {
            return [false; 2];
        }
        [values.bits & 1 == 0, values.bits & 2 == 0]
    }
}

/// The chip of the 40-pin header.
#[derive(Debug)]
pub struct Header {
    pub chip: File,
    pub path: PathBuf,
    /// Its driver, such as `pinctrl-bcm2835`.
    pub label: String,
    pub lines: u32,
}

/// The first chip whose driver is the header's; else the labels of those that were seen.
pub fn header() -> Result<Header, Error> {
    let mut seen = Vec::new();
    for number in 0..MAX_CHIPS {
        let path = PathBuf::from(format!("/dev/gpiochip{number}"));
        let Ok(chip) = File::open(&path) else { continue };
        let mut info = ChipInfo { name: [0; 32], label: [0; 32], lines: 0 };
        // SAFETY: the request writes one gpiochip_info, whose layout and size this has.
        if unsafe { libc::ioctl(chip.as_raw_fd(), GET_CHIPINFO, &raw mut info) } != 0 {
            continue;
        }
        let label = text(&info.label);
        if is_header(&label) {
            return Ok(Header { chip, path, label, lines: info.lines });
        }
        seen.push(label);
    }
    Err(Error::NoChip { seen })
}

/// What the kernel's C string holds.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn is_header(label: &str) -> bool {
    HEADERS.iter().any(|known| label.starts_with(known))
}

fn request(chip: &File, pins: [u8; 2]) -> io::Result<OwnedFd> {
    let mut request = LineRequest::inputs(pins);
    // SAFETY: the request reads and writes one gpio_v2_line_request, whose layout and size this has.
    if unsafe { libc::ioctl(chip.as_raw_fd(), GET_LINE, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(request.fd) })
}

#[repr(C)]
struct ChipInfo {
    name: [u8; 32],
    label: [u8; 32],
    lines: u32,
}

#[repr(C)]
struct Values {
    bits: u64,
    mask: u64,
}

#[repr(C)]
struct LineRequest {
    offsets: [u32; 64],
    consumer: [u8; 32],
    flags: u64,
    num_attrs: u32,
    config_padding: [u32; 5],
    /// Ten of three `u64` each; none is used.
    attrs: [u64; 30],
    num_lines: u32,
    event_buffer_size: u32,
    padding: [u32; 5],
    fd: i32,
}

const FLAG_INPUT: u64 = 1 << 2;
const FLAG_BIAS_PULL_UP: u64 = 1 << 8;

impl LineRequest {
    fn inputs(pins: [u8; 2]) -> Self {
        let mut request = Self {
            offsets: [0; 64],
            consumer: [0; 32],
            flags: FLAG_INPUT | FLAG_BIAS_PULL_UP,
            num_attrs: 0,
            config_padding: [0; 5],
            attrs: [0; 30],
            num_lines: 2,
            event_buffer_size: 0,
            padding: [0; 5],
            fd: -1,
        };
        request.offsets[0] = pins[0].into();
        request.offsets[1] = pins[1].into();
        request.consumer[..CONSUMER.len()].copy_from_slice(CONSUMER);
        request
    }
}

const GET_CHIPINFO: libc::Ioctl = number(2, 0x01, size_of::<ChipInfo>());
const GET_LINE: libc::Ioctl = number(3, 0x07, size_of::<LineRequest>());
const GET_VALUES: libc::Ioctl = number(3, 0x0e, size_of::<Values>());

/// `_IOC(direction, 0xb4, number, bytes)` of `asm-generic/ioctl.h`; 2 reads, 3 reads and writes.
const fn number(direction: u32, number: u32, bytes: usize) -> libc::Ioctl {
    (direction << 30 | (bytes as u32) << 16 | 0xb4 << 8 | number) as libc::Ioctl
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_have_the_numbers_and_sizes_of_the_kernels_header() {
        // As the C compiler says of linux/gpio.h on arm64 and x86_64.
        assert_eq!(size_of::<LineRequest>(), 592);
        assert_eq!(GET_CHIPINFO, 0x8044_b401);
        assert_eq!(GET_LINE, 0xc250_b407);
        assert_eq!(GET_VALUES, 0xc010_b40e);
    }

    #[test]
    fn both_pins_are_asked_for_as_inputs_with_pull_ups() {
        let request = LineRequest::inputs([17, 27]);
        assert_eq!((&request.offsets[..3], request.num_lines, request.flags), (&[17, 27, 0][..], 2, 0x104));
    }

    #[test]
    fn only_the_headers_chip_is_taken() {
        let check = |label: &str, expected| {
            let mut bytes = [0; 32];
            bytes[..label.len()].copy_from_slice(label.as_bytes());
            assert_eq!(is_header(&text(&bytes)), expected, "{label}");
        };
        check("pinctrl-bcm2835", true);
        check("pinctrl-bcm2711", true);
        check("pinctrl-rp1", true);
        check("raspberrypi-exp-gpio", false);
        check("/soc@107c000000/gpio@7d508500", false);
        check("", false);
    }
}
