//! A virtual Pi: what the boot loaders of real boards do on the wire, and what
//! they do not forgive.
//!
//! A judge of the appliance, so none of the appliance's code is in here: raw
//! frames, messages by hand (`wire`, `message`), the dialogue (`dhcp`, `tftp`),
//! and the order in which each model asks for files (`boot`). Facts and their
//! sources: `reference/pi-netboot.md`.
//!
//! It runs on an interface of the calling thread's network namespace; the
//! interface is up and has no address. `boot` ends where a real loader jumps
//! into the kernel: what it fetched can then be run in QEMU with the same MAC.
//!
//! What is not known of real boards is decided so: the Pi 5's order behind
//! `config.txt` follows the reference's reading; `start4.elf` asks for blocks of
//! 1024 bytes; overlays are asked for by the name in `config.txt`, without the
//! renaming of `overlay_map.dtb`.

mod boot;
pub mod config;
pub mod dhcp;
pub mod message;
pub mod session;
pub mod tftp;
pub mod wire;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

pub use session::{Failure, Loss, Step};

use dhcp::Manner;
use session::Session;
use tftp::Dialect;
use wire::Mac;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    Pi3B,
    Pi3BPlus,
    Pi4B,
    Pi5,
}

impl Board {
    /// Section names of `config.txt` that are for this board.
    fn filters(self) -> &'static [&'static str] {
        match self {
            Self::Pi3B => &["pi3"],
            Self::Pi3BPlus => &["pi3", "pi3+"],
            Self::Pi4B => &["pi4"],
            Self::Pi5 => &["pi5"],
        }
    }

    fn device_tree(self, upstream: bool) -> &'static str {
        match (self, upstream) {
            (Self::Pi3B, false) => "bcm2710-rpi-3-b.dtb",
            (Self::Pi3BPlus, false) => "bcm2710-rpi-3-b-plus.dtb",
            (Self::Pi3B, true) => "bcm2837-rpi-3-b.dtb",
            (Self::Pi3BPlus, true) => "bcm2837-rpi-3-b-plus.dtb",
            (Self::Pi4B, _) => "bcm2711-rpi-4-b.dtb",
            (Self::Pi5, _) => "bcm2712-rpi-5-b.dtb",
        }
    }
}

/// A board, as it is powered on.
#[derive(Debug, Clone)]
pub struct VirtualPi {
    pub board: Board,
    pub mac: Mac,
    /// The lowest 32 bits of the serial number: its folder.
    pub serial: u32,
    /// The board's revision code.
    pub revision: u32,
    /// Of the EEPROM loader: 1024, and since 2022-10 1468. `start4.elf` and older loaders have 1024.
    pub blksize: u16,
    pub interface: String,
    /// An EEPROM from before 2020: drops replies with pad bytes, sends no MAC in option 97.
    pub old_eeprom: bool,
    /// Sends one ACK of each longer file twice.
    pub repeats_acks: bool,
    pub loss: Option<Loss>,
}

/// What a boot brought.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub address: Ipv4Addr,
    /// The TFTP server.
    pub server: Ipv4Addr,
    pub netmask: Option<Ipv4Addr>,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Option<Ipv4Addr>,
    /// Of the last DHCP reply.
    pub options: BTreeMap<u8, Vec<u8>>,
    /// The prefix that was in use at the end: `9ffefdef/`, or empty.
    pub prefix: String,
    /// By name as asked for, without the prefix.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Names in `files`; the kernel is none when a `boot.img` was fetched.
    pub kernel: Option<String>,
    pub initramfs: Option<String>,
    pub device_tree: Option<String>,
    pub cmdline: Option<String>,
    /// In order.
    pub log: Vec<Step>,
}

impl Fetched {
    pub fn kernel(&self) -> Option<&[u8]> {
        self.files.get(self.kernel.as_ref()?).map(Vec::as_slice)
    }

    pub fn initramfs(&self) -> Option<&[u8]> {
        self.files.get(self.initramfs.as_ref()?).map(Vec::as_slice)
    }

    /// The kernel's command line as the firmware hands it over: one line, with
    /// `serial0` named as the machine that runs the kernel names it.
    pub fn command_line(&self, serial0: &str) -> String {
        let text =
            self.cmdline.as_ref().and_then(|name| self.files.get(name)).map(|bytes| String::from_utf8_lossy(bytes));
        let line = text.as_deref().and_then(|text| text.lines().next()).unwrap_or("");
        let word = |word: &str| match word.strip_prefix("console=serial0") {
            Some(rest) => format!("console={serial0}{rest}"),
            None => word.to_owned(),
        };
        line.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }

    /// The steps' texts, without their times.
    pub fn steps(&self) -> Vec<&str> {
        self.log.iter().map(|step| step.what.as_str()).collect()
    }
}

impl VirtualPi {
    /// A board of today with usual numbers; `number` tells boards apart.
    pub fn new(board: Board, number: u8, interface: &str) -> Self {
        let (oui, revision) = match board {
            Board::Pi3B => ([0xb8, 0x27, 0xeb], 0xa0_2082),
            Board::Pi3BPlus => ([0xb8, 0x27, 0xeb], 0xa0_20d3),
            Board::Pi4B => ([0xdc, 0xa6, 0x32], 0xc0_3114),
            Board::Pi5 => ([0x2c, 0xcf, 0x67], 0xd0_4170),
        };
        let mac = [oui[0], oui[1], oui[2], 0x01, 0x36, number];
        // Up to the 3B+ the MAC ends in the serial's low 24 bits; later they are unrelated.
        let serial = match board {
            Board::Pi3B | Board::Pi3BPlus => 0xb600_0000 | u32::from_be_bytes([0, mac[3], mac[4], mac[5]]),
            Board::Pi4B | Board::Pi5 => 0x9ffe_fd00 | u32::from(number),
        };
        let interface = interface.to_owned();
        Self {
            board,
            mac,
            serial,
            revision,
            blksize: 1468,
            interface,
            old_eeprom: false,
            repeats_acks: true,
            loss: None,
        }
    }

    /// The folder of its files.
    pub fn prefix(&self) -> String {
        format!("{:08x}/", self.serial)
    }

    /// Powers it on: DHCP, ARP, TFTP, until the kernel would start.
    pub fn boot(&self, patience: Duration) -> Result<Fetched, Failure> {
        let open = Session::open(&self.interface, self.mac, patience);
        let mut session = open.map_err(|error| Failure {
            reason: format!("cannot open {}: {error} (needs root)", self.interface),
            log: Vec::new(),
        })?;
        session.loss = self.loss;
        match boot::run(self, &mut session) {
            Ok(mut fetched) => {
                fetched.log = session.log;
                Ok(fetched)
            }
            Err(reason) => Err(Failure { reason, log: session.log }),
        }
    }

    /// Gets an address as the first stage does, and no more: for storms.
    pub fn acquire(&self, session: &mut Session) -> Result<dhcp::Lease, String> {
        dhcp::acquire(session, &self.first_manner())
    }

    /// The loader that speaks first: the ROM or the EEPROM.
    pub fn first_manner(&self) -> Manner {
        match self.board {
            Board::Pi3B => Manner {
                name: "ROM",
                xid: dhcp::ROM_XID,
                parameters: dhcp::ROM_PARAMETERS.to_vec(),
                guid: [&[0][..], &[0x44; 16]].concat(),
                requests: false,
                rom: true,
                drops_padding: false,
                tries: 5,
                pause: Duration::from_secs(5),
            },
            // Its ROM has the 3B's faults mended, but its way.
            Board::Pi3BPlus => Manner { name: "ROM", rom: false, tries: 5, ..self.bootcode_manner() },
            Board::Pi4B | Board::Pi5 => Manner {
                name: "EEPROM",
                xid: u32::from_le_bytes([self.mac[2], self.mac[3], self.mac[4], self.mac[5]]) ^ self.serial,
                parameters: dhcp::PARAMETERS.to_vec(),
                guid: self.eeprom_guid(),
                requests: true,
                rom: false,
                drops_padding: self.old_eeprom,
                tries: 11,
                pause: Duration::from_secs(4),
            },
        }
    }

    /// `bootcode.bin`, which asks anew.
    fn bootcode_manner(&self) -> Manner {
        Manner {
            name: "bootcode.bin",
            xid: dhcp::ROM_XID,
            parameters: dhcp::PARAMETERS.to_vec(),
            guid: [&[0][..], &self.serial.to_le_bytes().repeat(4)].concat(),
            requests: false,
            rom: false,
            drops_padding: false,
            tries: 12,
            pause: Duration::from_secs(5),
        }
    }

    fn eeprom_guid(&self) -> Vec<u8> {
        let name: &[u8; 4] = if self.board == Board::Pi5 { b"RPi5" } else { b"RPi4" };
        let mac = if self.old_eeprom { [0; 4] } else { [self.mac[2], self.mac[3], self.mac[4], self.mac[5]] };
        let (revision, serial) = (self.revision.to_le_bytes(), self.serial.to_le_bytes());
        [&[0][..], name, &revision, &mac, &serial].concat()
    }

    /// The 2B/3B ROM: no options, one port.
    fn rom_dialect(&self) -> Dialect {
        Dialect { blksize: None, port: Some(49_152), repeats_acks: false }
    }

    fn eeprom_dialect(&self) -> Dialect {
        Dialect { blksize: Some(self.blksize), port: None, repeats_acks: self.repeats_acks }
    }

    fn start_dialect(&self) -> Dialect {
        Dialect { blksize: Some(1024), port: None, repeats_acks: self.repeats_acks }
    }
}
