//! `autoboot.txt`: which slot the Pi's firmware starts. Pure.
//!
//! As Raspberry Pi documents it ("autoboot.txt", "Fail-safe OS updates"): at most 512
//! bytes, sections `[all]`, `[none]` and `[tryboot]`, of which the last passes when
//! the one-shot flag is set; `boot_partition`; and `tryboot_a_b=1`, by which a tried
//! slot's own `config.txt` is read. So a cut or a hang while a slot is tried starts
//! the other one again, whatever has happened.
//!
//! The file is changed by writing its one sector, which a card does whole or not at
//! all. Its length stays, so neither FAT nor folder is touched.

use super::Slot;

pub const FILE: &str = "autoboot.txt";
/// The firmware reads no more.
pub const MAX_BYTES: usize = 512;

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Autoboot {
    pub default: Slot,
    pub trial: Slot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AutobootError {
    #[error("{FILE} names no slot of this card")]
    NoSlot,
    #[error("{FILE} does not switch whole slots (tryboot_a_b=1)")]
    NotAB,
    #[error("{FILE} names one slot twice")]
    Same,
    #[error("{FILE} was edited and has no room for the other slot")]
    NoRoom,
}

/// What the firmware takes from the file: `boot_partition` and `tryboot_a_b`. The last line that counts wins.
pub fn read(text: &[u8], tryboot: bool) -> (Option<u8>, bool) {
    let text = String::from_utf8_lossy(text.get(..MAX_BYTES).unwrap_or(text));
    let (mut counts, mut partition, mut a_b) = (true, None, false);
    for line in text.lines().map(|line| line.trim_matches(['\0', ' ', '\t', '\r'])) {
        match line {
            "[all]" => counts = true,
            "[tryboot]" => counts = tryboot,
            _ if line.starts_with('[') => counts = false,
            _ => match line.split_once('=') {
                Some(("boot_partition", number)) if counts => partition = number.trim().parse().ok(),
                Some(("tryboot_a_b", value)) if counts => a_b = value.trim() == "1",
                _ => {}
            },
        }
    }
    (partition, a_b)
}

impl Autoboot {
    pub fn parse(text: &[u8]) -> Result<Self, AutobootError> {
        let slot = |tryboot| read(text, tryboot).0.and_then(Slot::of_partition).ok_or(AutobootError::NoSlot);
        let (default, trial) = (slot(false)?, slot(true)?);
        match read(text, true).1 && read(text, false).1 {
            false => Err(AutobootError::NotAB),
            true if default == trial => Err(AutobootError::Same),
            true => Ok(Self { default, trial }),
        }
    }

    /// The file that starts `default`, as long as the present one.
    pub fn starting(default: Slot, present_bytes: usize) -> Result<Vec<u8>, AutobootError> {
        let text = format!(
            "[all]\ntryboot_a_b=1\nboot_partition={}\n[tryboot]\nboot_partition={}\n",
            default.partition(),
            default.other().partition()
        );
        let mut bytes = text.into_bytes();
        if bytes.len() > present_bytes || present_bytes > MAX_BYTES {
            return Err(AutobootError::NoRoom);
        }
        bytes.resize(present_bytes, b'\n');
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &[u8] = include_bytes!("../../board/autoboot.txt");

    #[test]
    fn the_shipped_file_starts_the_first_slot_and_tries_the_second() {
        assert_eq!(Autoboot::parse(SHIPPED), Ok(Autoboot { default: Slot::A, trial: Slot::B }));
        assert_eq!(Autoboot::starting(Slot::A, SHIPPED.len()).unwrap(), SHIPPED);
    }

    #[test]
    fn the_other_file_is_as_long_and_starts_the_other_slot() {
        for length in [SHIPPED.len(), 200, MAX_BYTES] {
            let swapped = Autoboot::starting(Slot::B, length).unwrap();
            assert_eq!(swapped.len(), length);
            assert_eq!(Autoboot::parse(&swapped), Ok(Autoboot { default: Slot::B, trial: Slot::A }));
        }
        assert_eq!(Autoboot::starting(Slot::B, SHIPPED.len() - 1), Err(AutobootError::NoRoom));
        assert_eq!(Autoboot::starting(Slot::B, MAX_BYTES + 1), Err(AutobootError::NoRoom));
    }

    #[test]
    fn sections_pass_as_the_documentation_says() {
        let check = |text: &str, normal, tried| {
            assert_eq!((read(text.as_bytes(), false).0, read(text.as_bytes(), true).0), (normal, tried), "{text:?}");
        };
        check("", None, None);
        check("boot_partition=1\r\n", Some(1), Some(1));
        check("boot_partition=2\n[tryboot]\nboot_partition=3", Some(2), Some(3));
        check("[none]\nboot_partition=2\n[all]\nboot_partition=3", Some(3), Some(3));
        check("[tryboot]\nboot_partition=3\n[all]\nboot_partition=2", Some(2), Some(2));
        check("[pi4]\nboot_partition=2", None, None);
        check("boot_partition=two", None, None);
    }

    #[test]
    fn a_file_that_cannot_be_tried_is_refused_by_name() {
        let check = |text: &str, expected| assert_eq!(Autoboot::parse(text.as_bytes()), Err(expected), "{text:?}");
        check("", AutobootError::NoSlot);
        check("tryboot_a_b=1\nboot_partition=1\n[tryboot]\nboot_partition=3", AutobootError::NoSlot);
        check("boot_partition=2\n[tryboot]\nboot_partition=3", AutobootError::NotAB);
        check("tryboot_a_b=1\nboot_partition=2", AutobootError::Same);
    }
}
