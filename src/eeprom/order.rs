//! BOOT_ORDER: which places a loader tries, one hexadecimal digit each, read
//! from right to left.
//!
//! Pure. Digits as in Raspberry Pi's `eeprom-bootloader` page.

use std::fmt;
use std::str::FromStr;

/// A BOOT_ORDER. Parsed from a person's text it makes sense; read from an image it is whatever stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootOrder(pub u32);

/// Why a text is no boot order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("{0:?} is no boot order such as 0xf21: 0x and one to eight hexadecimal digits")]
    Syntax(String),
    #[error("digit {1:x} of boot order {0} stands for nothing")]
    Unknown(BootOrder, u32),
    #[error("boot order {0} is read from right to left, and what follows its {1:x} is never reached")]
    Unreached(BootOrder, u32),
    #[error("boot order {0} names nothing to boot from")]
    Nothing(BootOrder),
}

impl BootOrder {
    /// SD card, then network, then again: what Raspberry Pi's own "Network Boot" sets. A card comes first, so that
    /// one can always rescue the board.
    pub const SD_THEN_NETWORK: Self = Self(0xf21);
    /// Built into the loaders where `bootconf.txt` says nothing: SD card, USB, again.
    pub const BUILT_IN: Self = Self(0xf41);

    /// The number alone, as a loader takes it from a file; nothing is said about its digits.
    pub fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim();
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
        let valid = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then(|| u32::from_str_radix(digits, 16).ok()).flatten().map(Self)
    }

    /// The digits in the order in which they are tried.
    pub fn digits(self) -> impl Iterator<Item = u32> {
        let count = (u32::BITS - self.0.leading_zeros()).div_ceil(4);
        (0..count).map(move |digit| (self.0 >> (4 * digit)) & 0xf)
    }

    pub fn tries_network(self) -> bool {
        self.tries(NETWORK)
    }

    /// The places by name, in the order in which they are tried.
    pub fn places(self) -> impl Iterator<Item = &'static str> {
        self.digits().take_while(|digit| !is_end(*digit)).map(name)
    }

    /// In words for a person: `SD card, then network, then again from the start`.
    pub fn words(self) -> String {
        let mut words: Vec<&str> = self.places().collect();
        words.push(match self.digits().find(|digit| is_end(*digit)) {
            Some(RESTART) => "again from the start",
            _ => "stop",
        });
        words.join(", then ")
    }

    fn tries(self, place: u32) -> bool {
        self.digits().take_while(|digit| !is_end(*digit)).any(|digit| digit == place)
    }
}

const NETWORK: u32 = 2;
const STOP: u32 = 0xe;
const RESTART: u32 = 0xf;

fn is_end(digit: u32) -> bool {
    matches!(digit, STOP | RESTART)
}

fn name(digit: u32) -> &'static str {
    match digit {
        1 => "SD card",
        NETWORK => "network",
        3 => "rpiboot",
        4 => "USB",
        5 => "USB of the module's own port",
        6 => "NVMe",
        7 => "HTTP",
        _ => "an unknown place",
    }
}

impl FromStr for BootOrder {
    type Err = OrderError;

    /// Refuses what a loader would take and a person cannot have meant.
    fn from_str(text: &str) -> Result<Self, OrderError> {
        let order = Self::read(text.as_bytes()).ok_or_else(|| OrderError::Syntax(text.to_owned()))?;
        // 0 is an old way to ask whether a card is in its slot, out of use.
        if let Some(digit) = order.digits().find(|digit| matches!(digit, 0 | 8..=0xd)) {
            return Err(OrderError::Unknown(order, digit));
        }
        if order.places().next().is_none() {
            return Err(OrderError::Nothing(order));
        }
        let mut from_end = order.digits().skip_while(|digit| !is_end(*digit));
        if let (Some(end), Some(_)) = (from_end.next(), from_end.next()) {
            return Err(OrderError::Unreached(order, end));
        }
        Ok(order)
    }
}

impl fmt::Display for BootOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, network: bool, words: &str) {
        let order: BootOrder = text.parse().unwrap();
        assert_eq!((order.tries_network(), order.words().as_str()), (network, words), "{text}");
        assert_eq!(order.to_string(), text);
    }

    #[test]
    fn an_order_is_read_from_right_to_left() {
        check("0xf21", true, "SD card, then network, then again from the start");
        check("0xf412", true, "network, then SD card, then USB, then again from the start");
        check("0xf461", false, "SD card, then NVMe, then USB, then again from the start");
        check("0x21", true, "SD card, then network, then stop");
        check("0xe2", true, "network, then stop");
        check(
            "0xf3725641",
            true,
            "SD card, then USB, then NVMe, then USB of the module's own port, then network, then HTTP, then rpiboot, then again from the start",
        );
    }

    #[test]
    fn an_order_that_nobody_can_mean_is_refused() {
        let refused = |text: &str| text.parse::<BootOrder>().unwrap_err();
        for text in ["", "f21", "0x", "0x123456789", "0xg", "0x-1", "0x+1", "61473", "0xf21 x"] {
            assert_eq!(refused(text), OrderError::Syntax(text.to_owned()));
        }
        assert_eq!(refused("0xf81"), OrderError::Unknown(BootOrder(0xf81), 8));
        assert_eq!(refused("0xf01"), OrderError::Unknown(BootOrder(0xf01), 0));
        assert_eq!(refused("0x2f1"), OrderError::Unreached(BootOrder(0x2f1), 0xf));
        assert_eq!(refused("0xfe1"), OrderError::Unreached(BootOrder(0xfe1), 0xe));
        assert_eq!(refused("0xff1"), OrderError::Unreached(BootOrder(0xff1), 0xf));
        assert_eq!(refused("0xf"), OrderError::Nothing(BootOrder(0xf)));
        assert_eq!(refused("0x0"), OrderError::Nothing(BootOrder(0)));
    }

    #[test]
    fn an_images_order_is_read_whatever_it_says() {
        assert_eq!(BootOrder::read(b"0x2f1").map(|order| order.tries_network()), Some(false));
        assert_eq!(BootOrder::read(b" 0XF41\r").unwrap(), BootOrder::BUILT_IN);
        assert_eq!(BootOrder::read(b"0x81").unwrap().words(), "SD card, then an unknown place, then stop");
        assert_eq!(BootOrder::read(b"0x0").unwrap().words(), "stop");
        assert_eq!(BootOrder::read(b"\xff"), None);
    }

    proptest::proptest! {
        #[test]
        fn every_number_is_put_in_words(order: u32) {
            let order = BootOrder(order);
            proptest::prop_assert!(order.words().len() < 300);
            if let Ok(parsed) = order.to_string().parse::<BootOrder>() {
                proptest::prop_assert_eq!(parsed, order);
            }
        }
    }
}
