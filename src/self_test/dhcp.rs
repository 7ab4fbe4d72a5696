//! A board's question through the real decision and encoder, and what its loader
//! would read in the answer.
//!
//! Pure. The reading is this file's own, so that the encoder does not judge itself.

use std::net::Ipv4Addr;

use super::{Failure, Step};
use crate::client::{MacAddr, Model};
use crate::dhcp::{self, Answer, Binding, Decision, Server};

/// A board that nobody has: locally administered.
const MAC: MacAddr = MacAddr([2, 0x52, 0x53, 0x54, 0, 1]);
const LIST: [u8; 14] = [1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135];
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// What every Pi looks for in option 43; the oldest want the three spaces.
const MENU: &[u8] = b"Raspberry Pi Boot   ";

const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;

/// DISCOVER, and REQUEST where this board sends one: it must get its address and our boot server.
pub fn check(server: &Server, binding: &Binding, model: Model) -> Result<(), Failure> {
    let fail = |reason: String| Failure::new(Step::Address, reason);
    let us = server.subnet.address;
    let rom = matches!(model, Model::Pi2B | Model::Pi3B | Model::Pi3BPlus);
    let kinds: &[(u8, Answer)] =
        if rom { &[(DISCOVER, Answer::Offer)] } else { &[(DISCOVER, Answer::Offer), (REQUEST, Answer::Ack)] };
    for (kind, answer) in kinds {
        let asked = message(*kind, model, us, binding.address);
        let request = dhcp::parse(&asked).map_err(|reason| fail(format!("our own question is refused: {reason}")))?;
        let reply = match dhcp::decide(server, Some(binding), &request) {
            Decision::Reply(reply) if reply.answer == *answer => reply,
            other => return Err(fail(format!("{model}: not answered by {answer:?} but {other:?}"))),
        };
        read(&reply.bytes, us, binding.address).map_err(|reason| fail(format!("{model}: {reason}")))?;
    }
    Ok(())
}

fn message(kind: u8, model: Model, us: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    let guid: Vec<u8> = match model {
        Model::Pi2B | Model::Pi3B => vec![0x44; 16],
        Model::Pi3BPlus => 0x5354_0001_u32.to_le_bytes().repeat(4),
        Model::Pi5 | Model::Cm5 | Model::Pi500 => guid(b"RPi5", 0xd0_4170),
        _ => guid(b"RPi4", 0xc0_3114),
    };
    let mut bytes = vec![0; 236];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[4..8].copy_from_slice(&0x5354_5354_u32.to_be_bytes());
    bytes[28..34].copy_from_slice(&MAC.0);
    bytes.extend(COOKIE);
    let mut option = |code: u8, value: &[u8]| {
        bytes.extend([code, value.len() as u8]);
        bytes.extend(value);
    };
    option(53, &[kind]);
    option(55, &LIST);
    option(93, &[0, 0]);
    option(97, &[&[0], &guid[..]].concat());
    option(60, b"PXEClient:Arch:00000:UNDI:002001");
    if kind == REQUEST {
        option(50, &address.octets());
        option(54, &us.octets());
    }
    bytes.push(255);
    let padded = bytes.len().max(300);
    bytes.resize(padded, 0);
    bytes
}

fn guid(fourcc: &[u8; 4], revision: u32) -> Vec<u8> {
    [&fourcc[..], &revision.to_le_bytes(), &MAC.0[2..], &0x5354_0001_u32.to_le_bytes()].concat()
}

/// What a loader must find.
fn read(reply: &[u8], us: Ipv4Addr, address: Ipv4Addr) -> Result<(), String> {
    let field = |at: usize| reply.get(at..at + 4).unwrap_or_default();
    if reply.first() != Some(&2) || field(236) != COOKIE {
        return Err("the answer is no BOOTREPLY".to_owned());
    }
    if field(16) != address.octets() || field(20) != us.octets() {
        return Err("the answer names another address or server".to_owned());
    }
    let (mut rest, mut server, mut menu) = (reply.get(240..).unwrap_or_default(), false, false);
    while let [code, length, more @ ..] = rest {
        let Some((value, after)) = more.split_at_checked(usize::from(*length)) else { break };
        match code {
            255 => break,
            // Loaders before 2020 drop it.
            0 => return Err("a pad option stands before the end".to_owned()),
            54 => server = value == us.octets(),
            43 => menu = value.windows(MENU.len()).any(|part| part == MENU),
            66 if value != us.to_string().as_bytes() => return Err("option 66 names another server".to_owned()),
            _ => {}
        }
        rest = after;
    }
    match (server, menu) {
        (true, true) => Ok(()),
        (false, _) => Err("the answer has no option 54 of ours".to_owned()),
        (_, false) => Err("the answer has no option 43 for a Pi".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::Role;
    use crate::config::Subnet;

    fn server(last: u8) -> Server {
        let subnet = Subnet { address: Ipv4Addr::new(192, 168, 77, last), prefix: 24 };
        Server { subnet, gateway: None, dns: Vec::new(), lease: Duration::from_secs(60) }
    }

    #[test]
    fn every_model_gets_its_address_and_our_boot_server() {
        let address = Ipv4Addr::new(192, 168, 77, 9);
        let binding = Binding { address, role: Role::numbered(1), root_path: "x".to_owned() };
        for model in [Model::Pi2B, Model::Pi3B, Model::Pi3BPlus, Model::Pi4B, Model::Pi400, Model::Cm4, Model::Pi5] {
            assert_eq!(check(&server(1), &binding, model), Ok(()), "{model}");
        }
    }

    #[test]
    fn answers_that_a_loader_would_not_take_are_told() {
        let (us, address) = (Ipv4Addr::new(192, 168, 77, 1), Ipv4Addr::new(192, 168, 77, 9));
        let binding = Binding { address, role: Role::numbered(1), root_path: "x".to_owned() };
        let asked = dhcp::parse(&message(DISCOVER, Model::Pi4B, us, address)).unwrap();
        let Decision::Reply(reply) = dhcp::decide(&server(1), Some(&binding), &asked) else { panic!("no answer") };
        assert_eq!(read(&reply.bytes, us, address), Ok(()));
        assert!(read(&reply.bytes, Ipv4Addr::new(192, 168, 77, 2), address).is_err());
        assert!(read(&reply.bytes, us, Ipv4Addr::new(192, 168, 77, 8)).is_err());
        let mut other = reply.bytes.clone();
        let menu = other.windows(MENU.len()).position(|part| part == MENU).unwrap();
        other[menu] = b'r';
        assert!(read(&other, us, address).is_err());
        assert!(read(&[], us, address).is_err());
    }
}
