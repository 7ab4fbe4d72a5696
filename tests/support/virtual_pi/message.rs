//! DHCP messages as the virtual Pi writes and reads them: RFC 2131 §2 by hand,
//! so that no codec of the appliance judges itself.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::wire::{Mac, address};

pub const DISCOVER: u8 = 1;
pub const OFFER: u8 = 2;
pub const REQUEST: u8 = 3;
pub const ACK: u8 = 5;
pub const NAK: u8 = 6;

const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Option 60 of every loader.
pub const CLASS: &[u8; 32] = b"PXEClient:Arch:00000:UNDI:002001";

/// A message from a client. Options are sent in the order given; 53 is among them.
pub fn write(xid: u32, mac: Mac, options: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut message = vec![0; 236];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(&xid.to_be_bytes());
    message[28..34].copy_from_slice(&mac);
    message.extend(COOKIE);
    for (code, value) in options {
        message.push(*code);
        message.push(u8::try_from(value.len()).expect("an option of at most 255 bytes"));
        message.extend(value);
    }
    message.push(255);
    message.resize(message.len().max(300), 0);
    message
}

/// A message from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub kind: u8,
    pub xid: u32,
    pub yiaddr: Ipv4Addr,
    pub siaddr: Ipv4Addr,
    pub chaddr: Mac,
    /// The first of each code.
    pub options: BTreeMap<u8, Vec<u8>>,
    /// A pad option (0) stands before the end: EEPROMs before 2020-01-17 drop that.
    pub padded: bool,
}

impl Reply {
    pub fn option_address(&self, code: u8) -> Option<Ipv4Addr> {
        address(self.options.get(&code)?, 0)
    }
}

/// Reads a server's message; the error says what a loader would not forgive.
pub fn read(message: &[u8]) -> Result<Reply, String> {
    if message.len() < 240 {
        return Err(format!("only {} bytes", message.len()));
    }
    if message[..4] != [2, 1, 6, 0] {
        return Err(format!("op, htype, hlen, hops are {:?}", &message[..4]));
    }
    if message[236..240] != COOKIE {
        return Err("wrong magic cookie".to_owned());
    }
    let (mut options, mut padded, mut rest) = (BTreeMap::new(), false, &message[240..]);
    loop {
        match rest {
            [0, after @ ..] => {
                padded = true;
                rest = after;
            }
            [255, ..] => break,
            [code, length, after @ ..] if after.len() >= usize::from(*length) => {
                let (value, after) = after.split_at(usize::from(*length));
                options.entry(*code).or_insert_with(|| value.to_vec());
                rest = after;
            }
            _ => return Err("the options run past the end".to_owned()),
        }
    }
    let kind = match options.get(&53).map(Vec::as_slice) {
        Some(&[kind]) => kind,
        other => return Err(format!("option 53 is {other:?}")),
    };
    let xid = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
    let part = |at| address(message, at).expect("at least 240 bytes");
    let chaddr = *message[28..].first_chunk().expect("at least 240 bytes");
    Ok(Reply { kind, xid, yiaddr: part(16), siaddr: part(20), chaddr, options, padded })
}

/// Whether option 43 offers the boot item: a PXE menu (sub-option 9) whose
/// first entry's text is `text`, or begins with it.
pub fn offers(option_43: &[u8], text: &str, exact: bool) -> bool {
    let mut rest = option_43;
    while let [code, length, after @ ..] = rest {
        if *code == 255 || after.len() < usize::from(*length) {
            return false;
        }
        let (value, after) = after.split_at(usize::from(*length));
        if let (9, [_, _, length, item @ ..]) = (code, value) {
            let item = item.get(..usize::from(*length)).unwrap_or(&[]);
            return if exact { item == text.as_bytes() } else { item.starts_with(text.as_bytes()) };
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply with these option bytes.
    fn reply(options: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 236];
        message[..4].copy_from_slice(&[2, 1, 6, 0]);
        message[16..20].copy_from_slice(&[192, 168, 77, 50]);
        [&message[..], &COOKIE, options].concat()
    }

    #[test]
    fn replies_are_read_byte_by_byte() {
        let read_back = read(&reply(&[53, 1, 2, 54, 4, 192, 168, 77, 1, 255, 0, 0])).unwrap();
        assert_eq!((read_back.kind, read_back.padded), (OFFER, false));
        assert_eq!(read_back.yiaddr, Ipv4Addr::new(192, 168, 77, 50));
        assert_eq!(read_back.option_address(54), Some(Ipv4Addr::new(192, 168, 77, 1)));
        assert!(read(&reply(&[53, 1, 2, 0, 255])).unwrap().padded);
    }

    #[test]
    fn broken_replies_are_told() {
        let check = |message: &[u8], reason: &str| assert!(read(message).unwrap_err().contains(reason));
        check(&reply(&[53, 1, 2, 43, 200, 1]), "run past the end");
        check(&reply(&[53, 1, 2]), "run past the end");
        check(&reply(&[255]), "option 53");
        check(&[2; 100], "only 100 bytes");
        let mut wrong = reply(&[53, 1, 2, 255]);
        wrong[239] = 0;
        check(&wrong, "cookie");
        wrong[0] = 1;
        check(&wrong, "op, htype");
    }

    #[test]
    fn the_boot_item_is_found_in_the_menu_that_dnsmasq_sends() {
        let menu = b"\x06\x01\x03\x0a\x04\0PXE\x09\x17\0\0\x14Raspberry Pi Boot   \xff";
        assert!(offers(menu, "Raspberry Pi Boot   ", true) && offers(menu, "Raspberry Pi Boot", false));
        let menu = b"\x06\x01\x03\x0a\x04\0PXE\x09\x14\0\0\x11Raspberry Pi Boot\xff";
        assert!(!offers(menu, "Raspberry Pi Boot   ", true) && offers(menu, "Raspberry Pi Boot", false));
        assert!(!offers(b"Raspberry Pi Boot", "Raspberry Pi Boot", false));
        assert!(!offers(b"\x09\xff", "Raspberry Pi Boot", false));
    }
}
