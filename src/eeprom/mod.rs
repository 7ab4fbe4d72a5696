//! The boot order in a client's EEPROM: a Pi 4 or 5 as sold never tries the
//! network, so each needs one visit. From the official `pieeprom.bin` and
//! `recovery.bin`, which the user supplies, this makes the card for the visit,
//! or the update that a client which netboots already takes by TFTP.
//!
//! - `image`: the sections of `pieeprom.bin`, and its `bootconf.txt` replaced; pure
//! - `order`: BOOT_ORDER, read and put in words; pure
//! - `bootconf`: BOOT_ORDER set in the text of `bootconf.txt`, and what that changed; pure
//! - `signature`: `pieeprom.sig`; pure
//! - `card`: the recovery card as the bytes of a disk; pure, fatfs over memory
//! - `device`: a card's bytes onto an SD card in a reader; I/O
//! - `command`: `rootstock eeprom show|card|update`; I/O
//!
//! Never touched are bytes outside of `bootconf.txt`'s own slot, and settings
//! other than BOOT_ORDER. The licence of the binaries forbids handing changed
//! ones on, so nothing here ships or keeps any.
//!
//! Sources: Raspberry Pi's documentation pages `boot-eeprom` and
//! `eeprom-bootloader`, and the behaviour of its tools `rpi-eeprom-config`,
//! `rpi-eeprom-digest` and the recovery images of its Imager.

pub mod bootconf;
pub mod card;
pub mod command;
pub mod device;
pub mod image;
pub mod order;
pub mod signature;

use std::fmt;

/// The two families; neither's files work on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Soc {
    Bcm2711,
    Bcm2712,
}

impl Soc {
    /// As `pieeprom.sig` names it.
    pub fn number(self) -> u32 {
        match self {
            Self::Bcm2711 => 2711,
            Self::Bcm2712 => 2712,
        }
    }

    /// The boards that have it.
    pub fn boards(self) -> &'static str {
        match self {
            Self::Bcm2711 => "Pi 4, 400, CM4",
            Self::Bcm2712 => "Pi 5, 500, CM5",
        }
    }

    /// Those of them whose ROM looks for `recovery.bin` on a card. A CM4's does not: it takes the same files by rpiboot.
    pub fn boards_with_card(self) -> &'static str {
        match self {
            Self::Bcm2711 => "Pi 4, 400",
            Self::Bcm2712 => "Pi 5, 500, CM5",
        }
    }
}

impl fmt::Display for Soc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BCM{}", self.number())
    }
}
