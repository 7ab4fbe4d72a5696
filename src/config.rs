//! `rootstock.toml` on the boot partition: every key has a default, a wrong
//! value is reported with its key and line and its default is used.
//!
//! Pure: text in, `Config` and `Vec<Problem>` out. No key is required, no
//! unknown key is fatal, and no content of the file can stop the appliance.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::client::{Mode, QUOTA_MINIMUM, VOLUME_MAXIMUM, VOLUME_MINIMUM};
use crate::size::Size;

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

/// Reads the file's bytes. Whatever is wrong becomes a `Problem`, and its key keeps the default.
pub fn parse(bytes: &[u8]) -> (Config, Vec<Problem>) {
    let mut reader = Reader { text: "", problems: Vec::new() };
    let mut config = Config::default();
    if bytes.len() > MAX_FILE_BYTES {
        reader.whole_file(format!("longer than {MAX_FILE_BYTES} bytes, so not read"));
        return (config, reader.problems);
    }
    // Editors on Windows like to start a file with a byte-order mark.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        reader.whole_file("not UTF-8 text, so not read".to_owned());
        return (config, reader.problems);
    };
    reader.text = text;
    // Errors are recovered from: what can be read is taken, the rest is told.
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().map_or(0, |span| reader.line(&span));
        let message = error.message().to_owned();
        reader.problems.push(Problem { line, key: String::new(), message });
    }
    for (name, value) in table.get_ref() {
        let section = name.get_ref().as_ref();
        let DeValue::Table(keys) = value.get_ref() else {
            reader.wrong(section, &name.span(), "is not a section such as [network]");
            continue;
        };
        for (key, value) in keys {
            reader.take(&mut config, section, key, value);
        }
    }
    reader.settle(&mut config);
    (config, reader.problems)
}

struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn take(
        &mut self,
        config: &mut Config,
        section: &str,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let name = format!("{section}.{}", key.get_ref());
        let value_of = value.get_ref();
        let taken = match name.as_str() {
            "network.interface" => set(&mut config.network.interface, interface(value_of).map(Some)),
            "network.address" => {
                let taken = set(&mut config.network.address, subnet(value_of));
                config.network.fixed = taken.is_ok();
                taken
            }
            "network.gateway" => set(&mut config.network.gateway, address(value_of).map(Some)),
            "network.dns" => set(&mut config.network.dns, addresses(value_of)),
            "dhcp.mode" => set(&mut config.dhcp.mode, dhcp_mode(value_of)),
            "dhcp.first" => set(&mut config.dhcp.first, address(value_of)),
            "dhcp.last" => set(&mut config.dhcp.last, address(value_of)),
            "dhcp.lease" => set(&mut config.dhcp.lease, seconds(value_of, 120..31_536_001)),
            "nfs.allow_unprivileged_ports" => set(&mut config.nfs.allow_unprivileged_ports, boolean(value_of)),
            "enrol.window" => set(&mut config.enrol.window, seconds(value_of, 10..3601)),
            "enrol.open" => set(&mut config.enrol.open, opens(value_of)),
            "enrol.mode" => set(&mut config.enrol.mode, mode(value_of)),
            "enrol.volume_size" => set(&mut config.enrol.volume_size, volume_size(value_of).map(Some)),
            "enrol.quota" => set(&mut config.enrol.quota, quota(value_of).map(Some)),
            "store.reserve" => set(&mut config.store.reserve, size(value_of).map(Some)),
            "store.write" => set(&mut config.store.write, boolean(value_of)),
            "store.ask" => set(&mut config.store.ask, boolean(value_of)),
            "store.size_gib" => set(&mut config.store.size_gib, gib(value_of).map(Some)),
            "scrub.every" => set(&mut config.scrub.every, days(value_of)),
            "panel.enroll_gpio" => set(&mut config.panel.enroll_gpio, byte(value_of, 0..28)),
            "panel.next_gpio" => set(&mut config.panel.next_gpio, byte(value_of, 0..28)),
            "panel.i2c_bus" => set(&mut config.panel.i2c_bus, byte(value_of, 0..32)),
            "panel.i2c_address" => set(&mut config.panel.i2c_address, byte(value_of, 0x08..0x78)),
            "panel.buttons" => set(&mut config.panel.buttons, byte(value_of, 1..3)),
            "panel.dim_after" => set(&mut config.panel.dim_after, seconds(value_of, 10..86_401)),
            "panel.dark_after" => set(&mut config.panel.dark_after, seconds(value_of, 0..604_801)),
            "panel.display" => set(&mut config.panel.display, controller(value_of)),
            "panel.size" => set(&mut config.panel.size, glass(value_of)),
            "panel.rotate" => set(&mut config.panel.upside_down, half_turn(value_of)),
            _ => return self.wrong(&name, &key.span(), "no such key, so ignored"),
        };
        if let Err(expected) = taken {
            self.wrong(&name, &value.span(), &format!("expected {expected}; the default is used"));
        }
    }

    /// Checks what spans several keys, and moves the defaults that follow from another key.
    fn settle(&mut self, config: &mut Config) {
        let subnet = config.network.address;
        let dhcp = &mut config.dhcp;
        let fits = |dhcp: &Dhcp| subnet.has_host(dhcp.first) && subnet.has_host(dhcp.last) && dhcp.first <= dhcp.last;
        if !fits(dhcp) {
            let default = Dhcp::default();
            if (dhcp.first, dhcp.last) != (default.first, default.last) {
                self.problems.push(Problem {
                    line: 0,
                    key: "dhcp.first".to_owned(),
                    message: format!(
                        "{} to {} is no range inside {subnet}; all of the subnet is used",
                        dhcp.first, dhcp.last
                    ),
                });
            }
            dhcp.first = Ipv4Addr::from(u32::from(subnet.network()) + 1);
            dhcp.last = Ipv4Addr::from(u32::from(subnet.broadcast()) - 1);
        }
        if let Some(gateway) = config.network.gateway.filter(|&gateway| !subnet.has_host(gateway)) {
            self.problems.push(Problem {
                line: 0,
                key: "network.gateway".to_owned(),
                message: format!("{gateway} is outside {subnet}; no gateway is used"),
            });
            config.network.gateway = None;
        }
        if config.panel.enroll_gpio == config.panel.next_gpio {
            self.problems.push(Problem {
                line: 0,
                key: "panel.next_gpio".to_owned(),
                message: "is the pin of ENROLL too; the defaults are used for both".to_owned(),
            });
            let default = Panel::default();
            (config.panel.enroll_gpio, config.panel.next_gpio) = (default.enroll_gpio, default.next_gpio);
        }
    }

    fn wrong(&mut self, key: &str, span: &Range<usize>, message: &str) {
        let line = self.line(span);
        self.problems.push(Problem { line, key: key.to_owned(), message: message.to_owned() });
    }

    fn whole_file(&mut self, message: String) {
        self.problems.push(Problem { line: 0, key: String::new(), message });
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let start = span.start.min(self.text.len());
        self.text.as_bytes()[..start].iter().filter(|&&b| b == b'\n').count() + 1
    }
}

type Expected = &'static str;

fn controller(value: &DeValue<'_>) -> Result<Controller, Expected> {
    match text(value) {
        Some("ssd1306") => Ok(Controller::Ssd1306),
        Some("sh1106") => Ok(Controller::Sh1106),
        _ => Err("\"ssd1306\" or \"sh1106\""),
    }
}

fn glass(value: &DeValue<'_>) -> Result<Glass, Expected> {
    match text(value) {
        Some("128x64") => Ok(Glass::Rows64),
        Some("128x32") => Ok(Glass::Rows32),
        _ => Err("\"128x64\" or \"128x32\""),
    }
}

fn half_turn(value: &DeValue<'_>) -> Result<bool, Expected> {
    let expected = "0 or 180";
    match byte(value, 0..181).map_err(|_| expected)? {
        0 => Ok(false),
        180 => Ok(true),
        _ => Err(expected),
    }
}

fn set<T>(place: &mut T, value: Result<T, Expected>) -> Result<(), Expected> {
    *place = value?;
    Ok(())
}

fn text<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    match value {
        DeValue::String(text) => Some(text.as_ref()),
        _ => None,
    }
}

fn interface(value: &DeValue<'_>) -> Result<String, Expected> {
    // IFNAMSIZ is 16 with its NUL (include/uapi/linux/if.h).
    let valid = |name: &&str| (1..16).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    text(value).filter(valid).map(str::to_owned).ok_or("an interface name such as \"eth0\"")
}

fn mode(value: &DeValue<'_>) -> Result<Mode, Expected> {
    match text(value) {
        Some("persistent") => Ok(Mode::Persistent),
        Some("ephemeral") => Ok(Mode::Ephemeral),
        Some("read-only") => Ok(Mode::ReadOnly),
        _ => Err("\"persistent\", \"ephemeral\" or \"read-only\""),
    }
}

fn opens(value: &DeValue<'_>) -> Result<Opens, Expected> {
    match text(value) {
        Some("press") => Ok(Opens::Press),
        Some("plug") => Ok(Opens::Plug),
        Some("always") => Ok(Opens::Always),
        _ => Err("\"press\", \"plug\" or \"always\""),
    }
}

fn dhcp_mode(value: &DeValue<'_>) -> Result<DhcpMode, Expected> {
    match text(value) {
        Some("auto") => Ok(DhcpMode::Auto),
        Some("server") => Ok(DhcpMode::Server),
        Some("proxy") => Ok(DhcpMode::Proxy),
        _ => Err("\"auto\", \"server\" or \"proxy\""),
    }
}

fn volume_size(value: &DeValue<'_>) -> Result<Size, Expected> {
    let fits = |size: &Size| (VOLUME_MINIMUM..=VOLUME_MAXIMUM).contains(size);
    text(value).and_then(|text| text.parse().ok()).filter(fits).ok_or("a size of 64M to 16T such as \"8G\"")
}

fn quota(value: &DeValue<'_>) -> Result<Size, Expected> {
    size(value)
        .and_then(|size| if size >= QUOTA_MINIMUM { Ok(size) } else { Err("a size of 16M or more such as \"8G\"") })
}

fn size(value: &DeValue<'_>) -> Result<Size, Expected> {
    text(value).and_then(|text| text.parse().ok()).ok_or("a size such as \"512M\"")
}

fn address(value: &DeValue<'_>) -> Result<Ipv4Addr, Expected> {
    text(value).and_then(|text| text.parse().ok()).ok_or("an address such as \"192.168.77.1\"")
}

fn addresses(value: &DeValue<'_>) -> Result<Vec<Ipv4Addr>, Expected> {
    let expected = "a list of at most 4 addresses such as [\"192.168.77.1\"]";
    let DeValue::Array(items) = value else { return Err(expected) };
    if items.len() > 4 {
        return Err(expected);
    }
    items.iter().map(|item| address(item.get_ref()).map_err(|_| expected)).collect()
}

fn subnet(value: &DeValue<'_>) -> Result<Subnet, Expected> {
    let parse = |text: &str| {
        let (address, prefix) = text.split_once('/')?;
        let subnet = Subnet { address: address.parse().ok()?, prefix: prefix.parse().ok()? };
        let usable = (8..=30).contains(&subnet.prefix) && subnet.has_host(subnet.address);
        (usable && !subnet.address.is_loopback() && !subnet.address.is_multicast()).then_some(subnet)
    };
    text(value).and_then(parse).ok_or("a host's address with prefix length, such as \"192.168.77.1/24\"")
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    match value {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

fn seconds(value: &DeValue<'_>, range: Range<i64>) -> Result<Duration, Expected> {
    let number = integer(value).filter(|number| range.contains(number));
    number.map(|number| Duration::from_secs(number.unsigned_abs())).ok_or("a number of seconds in the key's range")
}

/// 0 is never.
fn days(value: &DeValue<'_>) -> Result<Option<Duration>, Expected> {
    let number = integer(value).filter(|number| (0..3651).contains(number)).and_then(|days| u32::try_from(days).ok());
    number.map(|days| (days > 0).then(|| DAY * days)).ok_or("a whole number of days, 0 to 3650")
}

fn byte(value: &DeValue<'_>, range: Range<i64>) -> Result<u8, Expected> {
    let number = integer(value).filter(|number| range.contains(number));
    number.and_then(|number| u8::try_from(number).ok()).ok_or("a whole number in the key's range")
}

fn gib(value: &DeValue<'_>) -> Result<u16, Expected> {
    let number = integer(value).filter(|number| (1..2049).contains(number));
    number.and_then(|number| u16::try_from(number).ok()).ok_or("a whole number of GiB, 1 to 2048")
}

fn boolean(value: &DeValue<'_>) -> Result<bool, Expected> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        _ => Err("true or false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) -> Config {
        let (config, problems) = parse(text.as_bytes());
        let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(problems, expected, "in {text:?}");
        config
    }

    #[test]
    fn an_absent_or_empty_file_gives_the_defaults() {
        assert_eq!(check("", &[]), Config::default());
        assert_eq!(check("\u{feff}# only a comment\r\n", &[]), Config::default());
    }

    #[test]
    fn every_key_is_taken() {
        let config = check(
            "[network]\ninterface = 'eth1'\naddress = '10.0.0.1/16'\ngateway = '10.0.0.254'\ndns = ['9.9.9.9']\n\
             [dhcp]\nmode = 'proxy'\nfirst = '10.0.1.1'\nlast = '10.0.1.99'\nlease = 600\n\
             [nfs]\nallow_unprivileged_ports = true\n[enrol]\nwindow = 60\nopen = 'plug'\nmode = 'ephemeral'\nvolume_size = '8G'\nquota = '12G'\n\
             [store]\nwrite = false\nask = false\nsize_gib = 16\nreserve = '1G'\n[scrub]\nevery = 0\n\
             [panel]\nenroll_gpio = 5\nnext_gpio = 6\ni2c_bus = 3\ni2c_address = 0x3d\nbuttons = 1\n\
             dim_after = 30\ndark_after = 0\ndisplay = 'sh1106'\nsize = '128x32'\nrotate = 180\n",
            &[],
        );
        assert_eq!(config.network.interface.as_deref(), Some("eth1"));
        assert_eq!(config.network.address.to_string(), "10.0.0.1/16");
        assert_eq!((config.dhcp.mode, config.dhcp.last), (DhcpMode::Proxy, Ipv4Addr::new(10, 0, 1, 99)));
        assert!(config.network.fixed);
        let panel = Panel {
            enroll_gpio: 5,
            next_gpio: 6,
            i2c_bus: 3,
            i2c_address: 0x3d,
            buttons: 1,
            dim_after: Duration::from_secs(30),
            dark_after: Duration::ZERO,
            display: Controller::Sh1106,
            size: Glass::Rows32,
            upside_down: true,
        };
        assert_eq!(config.panel, panel);
        assert!(config.nfs.allow_unprivileged_ports);
        assert_eq!((config.enrol.mode, config.enrol.volume_size), (Mode::Ephemeral, Some(Size::gib(8))));
        assert_eq!((config.enrol.quota, config.scrub.every), (Some(Size::gib(12)), None));
        assert_eq!(config.enrol.open, Opens::Plug);
        assert_eq!(config.store, Store { write: false, ask: false, size_gib: Some(16), reserve: Some(Size::gib(1)) });
    }

    #[test]
    fn the_file_on_the_card_names_every_key_with_its_default() {
        let text = include_str!("../board/rootstock.toml");
        assert_eq!(check(text, &[]), Config::default());
        let set: String = text.lines().map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line))).collect();
        // The first lines are prose.
        let set = set.split_once("[network]").map(|(_, rest)| format!("[network]{rest}")).unwrap();
        let gateway = Ipv4Addr::new(192, 168, 77, 254);
        let network = Network {
            interface: Some("eth0".to_owned()),
            fixed: true,
            gateway: Some(gateway),
            dns: vec![gateway],
            ..Network::default()
        };
        let store = Store { size_gib: Some(16), reserve: Some(Size(512 << 20)), ..Store::default() };
        let enrol = Enrol { volume_size: Some(Size::gib(8)), quota: Some(Size::gib(8)), ..Enrol::default() };
        assert_eq!(check(&set, &[]), Config { network, enrol, store, ..Config::default() });
    }

    #[test]
    fn a_wrong_value_is_told_with_key_and_line_and_the_rest_is_taken() {
        let config = check(
            "[network]\naddress = '300.1.1.1/24'\n\n[panel]\ni2c_bus = 'one'\ncolour = 1\nnext_gpio = 22\n",
            &[
                "rootstock.toml line 2, network.address: expected a host's address with prefix length, such as \"192.168.77.1/24\"; the default is used",
                "rootstock.toml line 5, panel.i2c_bus: expected a whole number in the key's range; the default is used",
                "rootstock.toml line 6, panel.colour: no such key, so ignored",
            ],
        );
        assert_eq!(config.panel.next_gpio, 22);
        assert_eq!(config.network, Network::default());
    }

    #[test]
    fn the_pool_follows_the_subnet() {
        let config = check("[network]\naddress = '10.9.8.7/24'\n", &[]);
        assert_eq!((config.dhcp.first, config.dhcp.last), (Ipv4Addr::new(10, 9, 8, 1), Ipv4Addr::new(10, 9, 8, 254)));
    }

    #[test]
    fn broken_toml_is_told_and_nothing_panics() {
        let (_, problems) = parse(b"[network\naddress = \n===\n[panel]\ni2c_bus = 3\n");
        assert!(!problems.is_empty() && problems.iter().all(|problem| problem.line > 0), "{problems:?}");
        assert_eq!(parse(b"\xff\xfe").1.len(), 1);
        assert_eq!(parse(&vec![b'#'; MAX_FILE_BYTES + 1]).1.len(), 1);
    }
}
