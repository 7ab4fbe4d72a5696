//! A number of bytes as people write it: `8G`, `512M`, `8589934592`.
//!
//! Pure. Suffixes are powers of 1024, with or without `iB` or `B` behind.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// Bytes; written in the largest unit that loses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Size(pub u64);

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size such as \"8G\" or \"512M\"")]
pub struct SizeError(String);

const UNITS: [(&str, u32); 5] = [("T", 40), ("G", 30), ("M", 20), ("K", 10), ("", 0)];

impl Size {
    pub const fn gib(gib: u64) -> Self {
        Self(gib << 30)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: &u32| self.0 > 0 && self.0.trailing_zeros() >= *shift;
        let (unit, shift) = UNITS.iter().find(|(_, shift)| whole(shift)).unwrap_or(&("", 0));
        f.pad(&format!("{}{unit}", self.0 >> shift))
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let wrong = || SizeError(text.chars().take(40).collect());
        let upper = text.trim().to_ascii_uppercase();
        let digits = upper.len() - upper.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = upper.split_at(digits);
        let rest = rest.trim_start();
        let unit = rest.strip_suffix("IB").or_else(|| rest.strip_suffix('B')).unwrap_or(rest);
        let shift = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, shift)| *shift).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A bare number is bytes.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(text.parse::<Size>().ok(), expected.map(Size), "{text:?}");
        };
        check("8G", Some(8 << 30));
        check("512 MiB", Some(512 << 20));
        check("1tb", Some(1 << 40));
        check("4096", Some(4096));
        check("0", Some(0));
        for wrong in ["", "G", "-1G", "1.5G", "8 gigs", "99999999999T", "1G1"] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_size_reads_back_as_written() {
        for (bytes, text) in [(8 << 30, "8G"), (1536 << 20, "1536M"), (1000, "1000"), (0, "0")] {
            assert_eq!(Size(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
    }
}
