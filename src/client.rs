//! Who a client is: MAC address, serial number, board model, role and image.
//!
//! Pure. The vocabulary that every other module shares; nothing here knows of
//! packets, files or time. Sources: Raspberry Pi's revision-code table and the
//! bootloader documentation, as restated in `dhcp/quirks.rs`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::size::Size;

/// Why a text is not the identity it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("{0:?} is not a MAC address such as dc:a6:32:01:36:c2")]
    MacAddr(String),
    #[error("{0:?} is not a serial number of eight hexadecimal digits")]
    Serial(String),
    #[error("{0:?} is not a role name: 1 to 63 of a-z, 0-9 and inner hyphens")]
    Role(String),
    #[error(
        "{0:?} is not an image id: 1 to 100 of a-z, 0-9, dot, hyphen and underscore, none leading but a letter or digit"
    )]
    ImageId(String),
}

/// An Ethernet address, 6 bytes in the order they stand on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

/// Organisationally unique identifiers that Raspberry Pi boards carry.
const RASPBERRY_PI_OUIS: [[u8; 3]; 7] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0xd8, 0x3a, 0xdd],
    [0x28, 0xcd, 0xc1],
    [0x2c, 0xcf, 0x67],
    [0x88, 0xa2, 0x9e],
];

impl MacAddr {
    /// Whether the first three bytes are known to belong to Raspberry Pi.
    pub fn is_raspberry_pi(self) -> bool {
        RASPBERRY_PI_OUIS.iter().any(|oui| self.0.starts_with(oui))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let wrong = || IdentityError::MacAddr(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

/// The lowest 32 bits of a board's serial number: what the firmware uses as
/// its TFTP folder, in eight lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(pub u32);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Serial {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let digits = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u32::from_str_radix(text, 16) {
            Ok(number) if digits => Ok(Self(number)),
            _ => Err(IdentityError::Serial(text.to_owned())),
        }
    }
}

/// A board's revision code, as the firmware reports it (new-style codes have
/// bit 23 set: `NOQuuuWuFMMMCCCCPPPPTTTTTTTTRRRR`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u32);

impl Revision {
    /// The model that the type and SoC fields name; old-style codes are Pi 1.
    pub fn model(self) -> Model {
        if self.0 & (1 << 23) == 0 {
            return Model::Unknown;
        }
        let soc = (self.0 >> 12) & 0xf;
        match (self.0 >> 4) & 0xff {
            0x04 if soc == 2 => Model::Pi2B,
            0x08 => Model::Pi3B,
            0x0d => Model::Pi3BPlus,
            0x11 => Model::Pi4B,
            0x13 => Model::Pi400,
            0x14 | 0x15 => Model::Cm4,
            0x17 => Model::Pi5,
            0x18 | 0x1a => Model::Cm5,
            0x19 => Model::Pi500,
            _ => Model::Unknown,
        }
    }

    /// Memory in MiB from bits 22 to 20; `None` for old-style codes and for
    /// sizes the table does not have.
    pub fn memory_mib(self) -> Option<u32> {
        let code = (self.0 >> 20) & 0x7;
        (self.0 & (1 << 23) != 0 && code <= 6).then(|| 256 << code)
    }
}

/// A Raspberry Pi model that can boot from the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Model {
    #[serde(rename = "Pi 2B")]
    Pi2B,
    #[serde(rename = "Pi 3B")]
    Pi3B,
    #[serde(rename = "Pi 3B+")]
    Pi3BPlus,
    #[serde(rename = "Pi 4B")]
    Pi4B,
    #[serde(rename = "Pi 400")]
    Pi400,
    #[serde(rename = "CM4")]
    Cm4,
    #[serde(rename = "Pi 5")]
    Pi5,
    #[serde(rename = "CM5")]
    Cm5,
    #[serde(rename = "Pi 500")]
    Pi500,
    /// Asked as a Pi does, but did not say which.
    #[default]
    #[serde(rename = "Pi")]
    Unknown,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pi2B => "Pi 2B",
            Self::Pi3B => "Pi 3B",
            Self::Pi3BPlus => "Pi 3B+",
            Self::Pi4B => "Pi 4B",
            Self::Pi400 => "Pi 400",
            Self::Cm4 => "CM4",
            Self::Pi5 => "Pi 5",
            Self::Cm5 => "CM5",
            Self::Pi500 => "Pi 500",
            Self::Unknown => "Pi",
        })
    }
}

/// A client's name, which outlives the board: a host name of one label
/// (RFC 1123 §2.1), so 1 to 63 of `a-z 0-9 -`. Safe as a folder name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Role(String);

impl Role {
    /// The `n`th name that the appliance gives by itself.
    pub fn numbered(n: u32) -> Self {
        Self(format!("pi-{n}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let valid =
            (1..=63).contains(&text.len()) && text.bytes().all(label) && !text.starts_with('-') && !text.ends_with('-');
        if valid { Ok(Self(text.to_owned())) } else { Err(IdentityError::Role(text.to_owned())) }
    }
}

/// An imported image's name in the store: made of the file's name and its
/// hash, never used again for another. Safe as a folder name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(String);

impl ImageId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ImageId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let valid =
            (1..=100).contains(&text.len()) && text.bytes().all(inner) && text.as_bytes()[0].is_ascii_alphanumeric();
        if valid { Ok(Self(text.to_owned())) } else { Err(IdentityError::ImageId(text.to_owned())) }
    }
}

/// serde reads and writes these four as text.
macro_rules! text_serde {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = IdentityError;

            fn try_from(text: String) -> Result<Self, IdentityError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    )*};
}

text_serde!(MacAddr, Serial, Role, ImageId);

/// What happens to a client's writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They stay on the stick.
    #[default]
    Persistent,
    /// They are thrown away when the client's next boot begins.
    Ephemeral,
    /// They are refused.
    ReadOnly,
}

/// The least and the most that a block volume may have. ext4 with a journal
/// wants some MiB; the most is what ext4 with blocks of 4 KiB lets a file have.
pub const VOLUME_MINIMUM: Size = Size(64 << 20);
pub const VOLUME_MAXIMUM: Size = Size((16 << 40) - 4096);

/// The least quota: with less a client does not even boot.
pub const QUOTA_MINIMUM: Size = Size(16 << 20);

/// One enrolled client: `clients/<role>/client.toml` is this, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub role: Role,
    pub mac: MacAddr,
    /// Learned from option 97, or from the TFTP folder that the board asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    #[serde(default)]
    pub model: Model,
    /// Bound to the client for good; DHCP hands out nothing else to it.
    pub address: Ipv4Addr,
    pub image: ImageId,
    #[serde(default)]
    pub mode: Mode,
    /// How large a block volume for containers it has; see `store/volume.rs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_size: Option<Size>,
    /// What its folder on the stick may occupy: its changes, snapshots and volume; see `quota.rs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Size>,
    /// Stable number in NFS file handles: never changed, never used for another role.
    pub export_id: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_codes_name_the_model_and_memory() {
        let check = |code, model, mib| {
            assert_eq!(Revision(code).model(), model, "{code:#x}");
            assert_eq!(Revision(code).memory_mib(), mib, "{code:#x}");
        };
        check(0xa02082, Model::Pi3B, Some(1024));
        check(0xa020d3, Model::Pi3BPlus, Some(1024));
        check(0xa22042, Model::Pi2B, Some(1024));
        check(0xa01041, Model::Unknown, Some(1024)); // 2B v1.1: BCM2836, no netboot
        check(0xc03114, Model::Pi4B, Some(4096));
        check(0xd03114, Model::Pi4B, Some(8192));
        check(0xc03130, Model::Pi400, Some(4096));
        check(0xd04170, Model::Pi5, Some(8192));
        check(0xe04171, Model::Pi5, Some(16384));
        check(0x000e, Model::Unknown, None);
    }

    #[test]
    fn identities_read_back_as_written() {
        assert_eq!("dc:a6:32:01:36:c2".parse::<MacAddr>().unwrap().to_string(), "dc:a6:32:01:36:c2");
        assert_eq!("9ffefdef".parse::<Serial>().unwrap(), Serial(0x9ffe_fdef));
        assert_eq!("pi-1".parse::<Role>().unwrap(), Role::numbered(1));
    }

    #[test]
    fn names_that_are_no_safe_folder_are_refused() {
        for text in ["", "-a", "a-", "A", "a/b", "..", "a\n", &"a".repeat(64)] {
            assert!(text.parse::<Role>().is_err(), "{text:?}");
        }
        for text in ["", ".", "..", "a/b", "-x", "A", "ä"] {
            assert!(text.parse::<ImageId>().is_err(), "{text:?}");
        }
        for text in ["", "1:2:3:4:5:6", "dc:a6:32:01:36", "dc:a6:32:01:36:c2:00", "+c:a6:32:01:36:c2 "] {
            assert!(text.parse::<MacAddr>().is_err(), "{text:?}");
        }
    }
}
