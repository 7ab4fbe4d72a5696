//! The order in which each model asks for its files: `reference/pi-netboot.md` §3.1.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use super::config::{self, Config};
use super::dhcp::{self, Lease};
use super::session::{Outcome, Session};
use super::tftp::{Client, Dialect};
use super::{Board, Fetched, VirtualPi};

/// Deepest `include` in `config.txt`.
const MAX_INCLUDES: usize = 10;

pub fn run(pi: &VirtualPi, session: &mut Session) -> Outcome<Fetched> {
    match pi.board {
        Board::Pi3B | Board::Pi3BPlus => pi3(pi, session),
        Board::Pi4B => pi4(pi, session),
        Board::Pi5 => pi5(pi, session),
    }
}

/// A loader while it loads.
struct Loader<'s> {
    session: &'s mut Session,
    client: Client,
    dialect: Dialect,
    prefix: String,
    fetched: Fetched,
}

impl<'s> Loader<'s> {
    fn new(session: &'s mut Session, lease: Lease, dialect: Dialect, prefix: String) -> Outcome<Self> {
        let Lease { address, server, netmask, gateway, dns, options } = lease;
        let on_link = netmask.is_none_or(|mask| u32::from(mask) & (u32::from(address) ^ u32::from(server)) == 0);
        let next = if on_link { server } else { gateway.ok_or("the server is off-link, and there is no gateway")? };
        let mac = session.resolve(next)?;
        let client = Client { server: SocketAddrV4::new(server, 69), mac, next_port: 49_152 };
        let fetched = Fetched {
            address,
            server,
            netmask,
            gateway,
            dns,
            options,
            prefix: String::new(),
            files: BTreeMap::new(),
            kernel: None,
            initramfs: None,
            device_tree: None,
            cmdline: None,
            log: Vec::new(),
        };
        Ok(Self { session, client, dialect, prefix, fetched })
    }

    fn probe(&mut self, name: &str) -> Outcome<bool> {
        let path = format!("{}{name}", self.prefix);
        Ok(self.client.probe(self.session, self.dialect, &path)?.is_some())
    }

    /// Reads a file whole, and keeps it.
    fn get(&mut self, name: &str) -> Outcome<bool> {
        let path = format!("{}{name}", self.prefix);
        let Some(content) = self.client.get(self.session, self.dialect, &path)? else { return Ok(false) };
        if let Some(before) = self.fetched.files.get(name)
            && *before != content
        {
            return Err(format!("{name} changed while the board booted"));
        }
        self.fetched.files.insert(name.to_owned(), content);
        Ok(true)
    }

    /// As most files are read: first their size, then they.
    fn load(&mut self, name: &str) -> Outcome<bool> {
        Ok(self.probe(name)? && self.get(name)?)
    }

    fn need(&mut self, name: &str) -> Outcome<()> {
        if self.load(name)? { Ok(()) } else { Err(format!("no {name}")) }
    }

    fn config(&mut self, pi: &VirtualPi) -> Outcome<Config> {
        let mut text = self.text("config.txt");
        for _ in 0..MAX_INCLUDES {
            let parsed = config::parse(&text, pi.board, pi.serial);
            let Some(name) = parsed.includes.first().cloned() else { break };
            self.load(&name)?;
            let included = self.text(&name);
            text = text.replacen(&format!("include {name}"), &included, 1);
        }
        Ok(config::parse(&text, pi.board, pi.serial))
    }

    fn text(&self, name: &str) -> String {
        self.fetched.files.get(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }

    /// The first of these that is there, probed in order.
    fn first_of(&mut self, prefix: &str, names: &[&str]) -> Outcome<Option<String>> {
        for name in names {
            let name = format!("{prefix}{name}");
            if self.probe(&name)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn device_tree(&mut self, pi: &VirtualPi, config: &Config) -> Outcome<()> {
        let own = pi.board.device_tree(config.upstream_kernel);
        let name = format!("{}{}", config.os_prefix, config.device_tree.as_deref().unwrap_or(own));
        self.need(&name)?;
        self.fetched.device_tree = Some(name);
        Ok(())
    }

    fn overlays(&mut self, config: &Config) -> Outcome<()> {
        let folder = format!("{}{}", config.os_prefix, config.overlay_prefix);
        self.load(&format!("{folder}overlay_map.dtb"))?;
        for overlay in &config.overlays {
            // One that is missing is left out; the board boots without it.
            self.load(&format!("{folder}{overlay}.dtbo"))?;
        }
        Ok(())
    }

    fn cmdline(&mut self, config: &Config) -> Outcome<()> {
        let name = format!("{}{}", config.os_prefix, config.cmdline);
        if self.load(&name)? {
            self.fetched.cmdline = Some(name);
        }
        Ok(())
    }

    fn initramfs(&mut self, config: &Config, kernel: &str) -> Outcome<()> {
        let explicit = config.initramfs.clone();
        let name = explicit.or_else(|| config::initramfs_of(kernel).filter(|_| config.auto_initramfs));
        if let Some(name) = name {
            let name = format!("{}{name}", config.os_prefix);
            if self.load(&name)? {
                self.fetched.initramfs = Some(name);
            }
        }
        Ok(())
    }

    /// Which kernel it will be, without its prefix: named, or the first default that is there.
    fn choose_kernel(&mut self, config: &Config, defaults: &[&str]) -> Outcome<String> {
        let named = config.kernel.as_deref();
        let names = named.as_ref().map_or(defaults, std::slice::from_ref);
        let found = self.first_of(&config.os_prefix, names)?;
        let found = found.ok_or_else(|| format!("no kernel: asked for {}", names.join(", ")))?;
        Ok(found[config.os_prefix.len()..].to_owned())
    }

    fn kernel(&mut self, config: &Config, name: &str) -> Outcome<()> {
        let name = format!("{}{name}", config.os_prefix);
        if !self.get(&name)? {
            return Err(format!("no {name}"));
        }
        self.fetched.kernel = Some(name);
        Ok(())
    }

    fn done(mut self) -> Fetched {
        self.session.log("the kernel would start");
        self.fetched.prefix = self.prefix;
        self.fetched
    }
}

/// ROM, `bootcode.bin`, `start.elf`.
fn pi3(pi: &VirtualPi, session: &mut Session) -> Outcome<Fetched> {
    let lease = dhcp::acquire(session, &pi.first_manner())?;
    let rom = pi.board == Board::Pi3B;
    let mut loader = Loader::new(session, lease, pi.rom_dialect(), String::new())?;
    // From the first block on the 3B's ROM hears no ARP.
    loader.session.mute = rom;
    if !loader.get("bootcode.bin")? {
        return Err("no bootcode.bin".to_owned());
    }
    loader.get("bootsig.bin")?;
    let first = loader.fetched.files;
    session.mute = false;

    let lease = dhcp::acquire(session, &pi.bootcode_manner())?;
    let mut loader = Loader::new(session, lease, pi.start_dialect(), pi.prefix())?;
    loader.fetched.files = first;
    if !loader.probe("start.elf")? {
        loader.prefix.clear();
    }
    loader.load("autoboot.txt")?;
    loader.load("config.txt")?;
    loader.probe("recovery.elf")?;
    loader.need("start.elf")?;
    loader.need("fixup.dat")?;

    loader.probe("recovery.elf")?;
    for _ in 0..2 {
        loader.load("config.txt")?;
    }
    loader.load("dt-blob.bin")?;
    loader.load("bootcfg.txt")?;
    let config = loader.config(pi)?;
    loader.device_tree(pi, &config)?;
    loader.overlays(&config)?;
    loader.cmdline(&config)?;
    let defaults: &[&str] = match config.arm_64bit {
        Some(false) => &["kernel7.img"],
        _ => &["kernel8-32.img", "kernel8.img", "kernel7.img"],
    };
    let kernel = loader.choose_kernel(&config, defaults)?;
    loader.initramfs(&config, &kernel)?;
    loader.load("armstub8-32.bin")?;
    loader.kernel(&config, &kernel)?;
    Ok(loader.done())
}

/// EEPROM, `start4.elf`.
fn pi4(pi: &VirtualPi, session: &mut Session) -> Outcome<Fetched> {
    let lease = dhcp::acquire(session, &pi.first_manner())?;
    let mut loader = Loader::new(session, lease, pi.eeprom_dialect(), pi.prefix())?;
    if !loader.probe("start4.elf")? && !loader.probe("start.elf")? {
        loader.prefix.clear();
    }
    loader.load("config.txt")?;
    for name in ["pieeprom.sig", "recover4.elf", "recovery.elf"] {
        loader.probe(name)?;
    }
    loader.need("start4.elf")?;
    loader.need("fixup4.dat")?;

    // Now start4.elf runs, with a TFTP client of its own.
    loader.dialect = pi.start_dialect();
    for _ in 0..2 {
        loader.load("config.txt")?;
    }
    loader.load("dt-blob.bin")?;
    loader.load("bootcfg.txt")?;
    let config = loader.config(pi)?;
    let defaults: &[&str] =
        if config.arm_64bit == Some(false) { &["kernel7l.img"] } else { &["kernel8.img", "kernel7l.img"] };
    let kernel = loader.choose_kernel(&config, defaults)?;
    loader.initramfs(&config, &kernel)?;
    loader.device_tree(pi, &config)?;
    loader.overlays(&config)?;
    loader.cmdline(&config)?;
    loader.probe("armstub8-gic.bin")?;
    loader.kernel(&config, &kernel)?;
    Ok(loader.done())
}

/// EEPROM alone.
fn pi5(pi: &VirtualPi, session: &mut Session) -> Outcome<Fetched> {
    let lease = dhcp::acquire(session, &pi.first_manner())?;
    let mut loader = Loader::new(session, lease, pi.eeprom_dialect(), pi.prefix())?;
    if !loader.load("config.txt")? {
        loader.prefix.clear();
        loader.need("config.txt")?;
    }
    let config = loader.config(pi)?;
    loader.probe("pieeprom.sig")?;
    if config.boot_ramdisk {
        loader.need("boot.img")?;
        return Ok(loader.done());
    }
    if config.os_check {
        loader.device_tree(pi, &config).map_err(|reason| format!("the OS does not indicate support: {reason}"))?;
    }
    let kernel = loader.choose_kernel(&config, &["kernel_2712.img", "kernel8.img"])?;
    loader.kernel(&config, &kernel)?;
    loader.device_tree(pi, &config)?;
    loader.overlays(&config)?;
    loader.cmdline(&config)?;
    loader.initramfs(&config, &kernel)?;
    Ok(loader.done())
}
