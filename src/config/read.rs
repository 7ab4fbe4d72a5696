//! Takes the file apart, key by key: what is right is taken, what is wrong is told.
//!
//! Pure.

use std::net::Ipv4Addr;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values::*;
use super::{Config, Dhcp, MAX_FILE_BYTES, Panel, Problem};

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::Mode;
    use crate::config::{Controller, DhcpMode, Enrol, Glass, Network, Opens, Store};
    use crate::size::Size;

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
        let text = include_str!("../../board/rootstock.toml");
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
