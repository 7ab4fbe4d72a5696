//! Updates without a laptop: a signed file on the stick becomes the other slot of the
//! SD card, is tried once, and kept only when it serves.
//!
//! | file | what | pure |
//! |---|---|---|
//! | `container` | the update file: manifest, signature, payload | yes |
//! | `keys` | who may sign: OpenSSH keys | yes |
//! | `autoboot` | `autoboot.txt`, by which the firmware chooses a slot | yes |
//! | `judge` | whether a file is for this board, and newer | yes |
//! | `card` | the slots, a slot written anew, the switch | on the disk it is given |
//! | `trial` | what the firmware told of this start; asking it to try the other slot | I/O |
//! | `fdt` | where the firmware's mailbox is, by the device tree | yes |
//! | `selftest` | whether this system serves | I/O |
//! | `shell` | the thread of `serve` that does all this | I/O |
//! | `command` | `rootstock update`: make, show and verify files | I/O |
//!
//! # What a power cut finds
//! 1. Checking the whole file: nothing was written.
//! 2. Writing the other slot, its first sector last: `autoboot.txt` names the running slot, untouched.
//! 3. The restart with the firmware's one-shot flag: gone with the power, so the running slot.
//! 4. The new system on trial: its next start is the old one, unless
//! 5. it wrote the one sector of `autoboot.txt`, which names the new slot or still the old.
//!
//! Nothing else on the card is ever written: no FAT, no folder, no running slot.

pub mod autoboot;
pub mod card;
pub mod command;
pub mod container;
pub mod fdt;
pub mod judge;
pub mod keys;
pub mod selftest;
pub mod shell;
pub mod trial;

use std::fmt;

/// One of the two places on the card that a system is started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    A,
    B,
}

impl Slot {
    /// Its number in the partition table, as the firmware counts: from 1.
    pub fn partition(self) -> u8 {
        match self {
            Self::A => 2,
            Self::B => 3,
        }
    }

    pub fn of_partition(number: u8) -> Option<Self> {
        [Self::A, Self::B].into_iter().find(|slot| slot.partition() == number)
    }

    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}
