//! Requests as clients send them, byte for byte from the project's notes, for
//! the tests of this module. Written without dhcproto, so that both are checked.

use std::net::Ipv4Addr;

use super::quirks::PI3_ROM_XID;
use crate::client::MacAddr;

pub const PI3: MacAddr = MacAddr([0xb8, 0x27, 0xeb, 0x6c, 0x4c, 0x16]);
pub const PI4: MacAddr = MacAddr([0xdc, 0xa6, 0x32, 0x01, 0x36, 0xc2]);
pub const PI5: MacAddr = MacAddr([0x2c, 0xcf, 0x67, 0x0a, 0x0b, 0x0c]);
pub const STRANGER: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

const CLASS: &[u8] = b"PXEClient:Arch:00000:UNDI:002001";

/// A message under construction: fixed fields first, then options in order.
#[derive(Clone)]
pub struct Packet(Vec<u8>);

impl Packet {
    /// `kind` is the value of option 53.
    pub fn new(kind: u8, mac: MacAddr) -> Self {
        let mut bytes = vec![0; 236];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
        bytes[28..34].copy_from_slice(&mac.0);
        bytes.extend_from_slice(&[99, 130, 83, 99]);
        Self(bytes).option(53, &[kind])
    }

    fn set(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn xid(self, xid: u32) -> Self {
        self.set(4, &xid.to_be_bytes())
    }

    pub fn broadcast(self) -> Self {
        self.set(10, &[0x80, 0])
    }

    pub fn ciaddr(self, address: Ipv4Addr) -> Self {
        self.set(12, &address.octets())
    }

    pub fn giaddr(self, address: Ipv4Addr) -> Self {
        self.set(24, &address.octets())
    }

    pub fn option(mut self, code: u8, value: &[u8]) -> Self {
        self.0.extend_from_slice(&[code, u8::try_from(value.len()).unwrap()]);
        self.0.extend_from_slice(value);
        self
    }

    pub fn options(self, options: &[(u8, &[u8])]) -> Self {
        options.iter().fold(self, |packet, (code, value)| packet.option(*code, value))
    }

    pub fn address(self, code: u8, address: Ipv4Addr) -> Self {
        self.option(code, &address.octets())
    }

    pub fn bytes(mut self) -> Vec<u8> {
        self.0.push(255);
        let padded = self.0.len().max(300);
        self.0.resize(padded, 0);
        self.0
    }
}

/// DISCOVER of a Pi 3B's mask ROM.
pub fn pi3_rom() -> Vec<u8> {
    rom(1).bytes()
}

/// A message of a Pi 3B's mask ROM, to add to.
pub fn rom(kind: u8) -> Packet {
    Packet::new(kind, PI3)
        .xid(PI3_ROM_XID)
        .option(55, &[43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66])
        .option(93, &[0, 0])
        .option(94, &[1, 2, 1])
        .option(97, &[&[0][..], &[0x44; 16]].concat())
        .option(60, CLASS)
}

fn eeprom(kind: u8, mac: MacAddr, fourcc: &[u8; 4], revision: u32, serial: u32) -> Packet {
    let guid = [&[0], &fourcc[..], &revision.to_le_bytes(), &mac.0[2..], &serial.to_le_bytes()].concat();
    loader(kind, mac, &guid)
}

fn loader(kind: u8, mac: MacAddr, guid: &[u8]) -> Packet {
    Packet::new(kind, mac)
        .option(55, &[1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135])
        .option(93, &[0, 0])
        .option(94, &[1, 2, 1])
        .option(97, guid)
        .option(60, CLASS)
}

/// A message of a Pi 4's EEPROM loader, to add to.
pub fn pi4(kind: u8) -> Packet {
    eeprom(kind, PI4, b"RPi4", 0xc03114, 0x9ffe_fdef)
}

/// DISCOVER of a Pi 4's EEPROM loader.
pub fn pi4_eeprom() -> Vec<u8> {
    pi4(1).bytes()
}

/// DISCOVER of a Pi 5's EEPROM loader.
pub fn pi5_eeprom() -> Vec<u8> {
    pi5(1).bytes()
}

/// The same with an EEPROM of before March 2020, which leaves its MAC address out.
pub fn pi4_of_2019(kind: u8) -> Packet {
    let guid = [&[0], &b"RPi4"[..], &0xc0_3111_u32.to_le_bytes(), &[0; 4], &0x9ffe_fdef_u32.to_le_bytes()].concat();
    loader(kind, PI4, &guid)
}

/// A message of a Pi 5's EEPROM loader, to add to.
pub fn pi5(kind: u8) -> Packet {
    eeprom(kind, PI5, b"RPi5", 0xd04170, 0x1234_abcd)
}

/// What `bootcode.bin` asks on the board of [`rom`].
pub fn bootcode(kind: u8) -> Packet {
    loader(kind, PI3, &[&[0][..], &0xb66c_4c16_u32.to_le_bytes().repeat(4)].concat())
}

/// A message of Linux's `ip=dhcp` on the same board as [`pi4`].
pub fn kernel(kind: u8) -> Packet {
    kernel_of(kind, PI4)
}

pub fn kernel_of(kind: u8, mac: MacAddr) -> Packet {
    Packet::new(kind, mac).option(55, &[1, 3, 6, 12, 15, 17, 26, 40])
}
