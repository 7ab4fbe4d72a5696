//! DHCP as a Pi speaks it, byte for byte, and its own reading of what comes
//! back. Shares nothing with the server's codec.

use std::net::Ipv4Addr;

use rootstock::client::MacAddr;

pub const DISCOVER: u8 = 1;
pub const OFFER: u8 = 2;
pub const REQUEST: u8 = 3;
pub const DECLINE: u8 = 4;
pub const ACK: u8 = 5;
pub const NAK: u8 = 6;

/// Burnt into the ROM of every Pi 3.
pub const ROM_XID: u32 = 0x26f3_0339;

const CLASS: &[u8] = b"PXEClient:Arch:00000:UNDI:002001";
const LOADER_LIST: &[u8] = &[1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135];

/// What a sender puts beside the message type, by who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Rom,
    Bootcode,
    /// With the FourCC's last letter: `4` or `5`.
    Eeprom(u8),
    Kernel,
    System,
}

pub struct Message(Vec<u8>);

impl Message {
    pub fn new(kind: u8, sender: Sender, mac: MacAddr, serial: u32, xid: u32) -> Self {
        let mut bytes = vec![0; 236];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&xid.to_be_bytes());
        bytes[28..34].copy_from_slice(&mac.0);
        bytes.extend_from_slice(&[99, 130, 83, 99]);
        let message = Self(bytes).option(53, &[kind]);
        let loader = |message: Self, list: &[u8], guid: Vec<u8>| {
            let message = message.option(55, list).option(93, &[0, 0]).option(94, &[1, 2, 1]);
            message.option(97, &[&[0], guid.as_slice()].concat()).option(60, CLASS)
        };
        match sender {
            Sender::Rom => loader(message, &[43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66], vec![0x44; 16]),
            Sender::Bootcode => loader(message, LOADER_LIST, serial.to_le_bytes().repeat(4)),
            Sender::Eeprom(letter) => {
                let revision: u32 = if letter == b'5' { 0xd0_4170 } else { 0xc0_3114 };
                let guid =
                    [&[b'R', b'P', b'i', letter], &revision.to_le_bytes()[..], &mac.0[2..], &serial.to_le_bytes()];
                loader(message, LOADER_LIST, guid.concat())
            }
            Sender::Kernel => message.option(55, &[1, 3, 6, 12, 15, 17, 26, 40]),
            // NetworkManager's own client sends a DUID, which is another identity than the loader's.
            Sender::System => {
                let duid = [&[255, 1, 2, 3, 4, 0, 2, 0, 0, 0xab, 0x11][..], &xid.to_be_bytes()].concat();
                message
                    .option(55, &[1, 2, 6, 12, 15, 26, 28, 121, 3, 33, 42])
                    .option(57, &1472_u16.to_be_bytes())
                    .option(61, &duid)
            }
        }
    }

    pub fn option(mut self, code: u8, value: &[u8]) -> Self {
        self.0.extend_from_slice(&[code, u8::try_from(value.len()).expect("an option of a test is short")]);
        self.0.extend_from_slice(value);
        self
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

/// A reply as a loader reads it.
#[derive(Debug)]
pub struct Reply {
    pub kind: u8,
    pub xid: u32,
    pub mac: MacAddr,
    pub address: Ipv4Addr,
    pub server: Ipv4Addr,
    /// Option 43, which a loader wants to see.
    pub menu: Vec<u8>,
}

impl Reply {
    pub fn read(bytes: &[u8]) -> Self {
        assert_eq!((bytes[0], &bytes[236..240]), (2, &[99, 130, 83, 99][..]), "a BOOTREPLY with its cookie");
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let option = |code: u8| {
            let mut rest = &bytes[240..];
            while rest[0] != 255 {
                let value = &rest[2..2 + usize::from(rest[1])];
                if rest[0] == code {
                    return value.to_vec();
                }
                rest = &rest[2 + value.len()..];
            }
            Vec::new()
        };
        let server: [u8; 4] = option(54).try_into().expect("option 54 is an address");
        Self {
            kind: option(53)[0],
            xid: u32::from_be_bytes(word(4)),
            mac: MacAddr(bytes[28..34].try_into().expect("six bytes")),
            address: word(16).into(),
            server: server.into(),
            menu: option(43),
        }
    }
}
