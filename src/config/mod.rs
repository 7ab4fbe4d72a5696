//! `rootstock.toml` on the boot partition: every key has a default, a wrong
//! value is reported with its key and line and its default is used.
//!
//! Pure: text in, `Config` and `Vec<Problem>` out. No key is required, no
//! unknown key is fatal, and no content of the file can stop the appliance. Here
//! are the keys and their defaults; `read` takes a file apart, and `values` each value.

mod read;
mod values;

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::client::Mode;
use crate::size::Size;

pub use read::parse;

const DAY: Duration = Duration::from_secs(86_400);

/// Longest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 64 << 10;

/// Everything a person can set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    pub network: Network,
    pub dhcp: Dhcp,
    pub nfs: Nfs,
    pub enrol: Enrol,
    pub store: Store,
    pub scrub: Scrub,
    pub panel: Panel,
}

impl Config {
    /// Where TFTP and NFS listen: our address, or every one that we have where
    /// another server may give us one later.
    pub fn listen(&self) -> Ipv4Addr {
        let can_move = !self.network.fixed && self.dhcp.mode != DhcpMode::Server;
        if can_move { Ipv4Addr::UNSPECIFIED } else { self.network.address.address }
    }
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// `interface`: a name such as `eth0`; without it the first wired one.
    pub interface: Option<String>,
    /// `address`: ours, with the prefix length, such as `192.168.77.1/24`.
    pub address: Subnet,
    /// Whether the file has an `address`: then no other one is asked for.
    pub fixed: bool,
    /// `gateway`: told to clients (option 3) and used by the appliance itself.
    pub gateway: Option<Ipv4Addr>,
    /// `dns`: told to clients (option 6).
    pub dns: Vec<Ipv4Addr>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            interface: None,
            address: Subnet { address: Ipv4Addr::new(192, 168, 77, 1), prefix: 24 },
            fixed: false,
            gateway: None,
            dns: Vec::new(),
        }
    }
}

/// An address with its prefix length, 8 to 30.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Subnet {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl Subnet {
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX << (32 - u32::from(self.prefix)))
    }

    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) & u32::from(self.mask()))
    }

    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !u32::from(self.mask()))
    }

    /// Whether `address` can be a host's: inside, and neither network nor broadcast address.
    pub fn has_host(self, address: Ipv4Addr) -> bool {
        let inside = u32::from(address) & u32::from(self.mask()) == u32::from(self.network());
        inside && address != self.network() && address != self.broadcast()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// `dhcp.mode`: who leases addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DhcpMode {
    /// `auto`: we do, unless another server on the wire does.
    #[default]
    Auto,
    /// `server`: we do, whoever else does.
    Server,
    /// `proxy`: another one does; we add the boot.
    Proxy,
}

/// `[dhcp]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dhcp {
    /// `mode`: who leases addresses.
    pub mode: DhcpMode,
    /// `first` and `last`: the addresses that new clients get, both included.
    /// Must lie in the network's subnet.
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
    /// `lease`: in seconds, 120 to 31,536,000.
    pub lease: Duration,
}

impl Default for Dhcp {
    fn default() -> Self {
        Self {
            mode: DhcpMode::Auto,
            first: Ipv4Addr::new(192, 168, 77, 10),
            last: Ipv4Addr::new(192, 168, 77, 209),
            lease: Duration::from_secs(86_400),
        }
    }
}

/// `[nfs]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nfs {
    /// `allow_unprivileged_ports`: serve calls from source ports of 1024 and above too.
    pub allow_unprivileged_ports: bool,
}

/// `[enrol]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrol {
    /// `window`: how long ENROLL stays open, in seconds, 10 to 3600.
    pub window: Duration,
    /// `open`: what lets a new Pi in.
    pub open: Opens,
    /// `mode`: that of new clients; `client.toml` says it for each.
    pub mode: Mode,
    /// `volume_size`: the block volume of new clients, 64M to 16T; `client.toml` says it for each.
    pub volume_size: Option<Size>,
    /// `quota`: what a new client may occupy on the stick, 16M or more; `client.toml` says it for each.
    pub quota: Option<Size>,
}

impl Default for Enrol {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(120),
            open: Opens::Press,
            mode: Mode::Persistent,
            volume_size: None,
            quota: None,
        }
    }
}

/// `enrol.open`: what opens the window, for those who have no button.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Opens {
    /// ENROLL, or the command of that name.
    #[default]
    Press,
    /// That, and each time that the stick is put in or found at the start, as a held press.
    Plug,
    /// It is never closed.
    Always,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// `write`: whether a store may be made on a stick that has none.
    pub write: bool,
    /// `ask`: whether a store is made only after a press; `false` where there is no button.
    pub ask: bool,
    /// `size_gib`: of the file that is made on an exFAT or FAT32 stick, 1 to
    /// 2048; without it what fits.
    pub size_gib: Option<u16>,
    /// `reserve`: free space on the stick that only the appliance uses; without it a part of the stick.
    pub reserve: Option<Size>,
}

impl Default for Store {
    fn default() -> Self {
        Self { write: true, ask: true, size_gib: None, reserve: None }
    }
}

/// `[scrub]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrub {
    /// `every`: days between two looks at an image, 1 to 3650; 0 in the file: none.
    pub every: Option<Duration>,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { every: Some(DAY * 30) }
    }
}

/// `[panel]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panel {
    /// `enroll_gpio`, `next_gpio`: BCM numbers, 0 to 27, of buttons to ground.
    pub enroll_gpio: u8,
    pub next_gpio: u8,
    /// `i2c_bus`: the N of `/dev/i2c-N`.
    pub i2c_bus: u8,
    /// `i2c_address`: 7 bits, 0x08 to 0x77; 0x3c and 0x3d are usual.
    pub i2c_address: u8,
    /// `buttons`: 2, or 1 where there is only ENROLL.
    pub buttons: u8,
    /// `dim_after`: seconds at rest, 10 to 86,400.
    pub dim_after: Duration,
    /// `dark_after`: seconds at rest, up to 604,800; 0 is never.
    pub dark_after: Duration,
    /// `display`: its controller.
    pub display: Controller,
    /// `size`: of its glass, in pixels.
    pub size: Glass,
    /// `rotate = 180`: mounted upside down.
    pub upside_down: bool,
}

/// `panel.display`: what drives the glass. Nothing on the bus tells one from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Controller {
    #[default]
    Ssd1306,
    /// Modules of 1.3 inches, mostly.
    Sh1106,
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ssd1306 => "SSD1306",
            Self::Sh1106 => "SH1106",
        })
    }
}

/// `panel.size`: 128 columns and so many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Glass {
    #[default]
    Rows64,
    Rows32,
}

impl Glass {
    pub fn rows(self) -> u8 {
        match self {
            Self::Rows64 => 64,
            Self::Rows32 => 32,
        }
    }
}

impl Default for Panel {
    fn default() -> Self {
        Self {
            enroll_gpio: 17,
            next_gpio: 27,
            i2c_bus: 1,
            i2c_address: 0x3c,
            buttons: 2,
            dim_after: Duration::from_secs(60),
            dark_after: Duration::from_secs(3600),
            display: Controller::Ssd1306,
            size: Glass::Rows64,
            upside_down: false,
        }
    }
}

/// One thing in the file that was not taken, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Such as `network.address`; empty when the whole file is meant.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rootstock.toml")?;
        if self.line > 0 {
            write!(f, " line {}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ", {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}
