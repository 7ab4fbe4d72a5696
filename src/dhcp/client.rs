//! The other side of DHCP: what the appliance itself asks of another server,
//! and what it is told (RFC 2131 §3.1, §4.4, table 5).
//!
//! Pure. Two askers use it: the survey of the wire, which wants to know who
//! leases here, and `lease`, which takes an address where somebody else leases.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::MAGIC;

use super::message::{Ignored, MAX_BYTES};
use super::options::{HEADER_BYTES, Options};
use crate::client::MacAddr;
use crate::config::Subnet;

/// Option 60 of an appliance, in its survey and in its answer to another's.
pub const APPLIANCE_CLASS: &[u8] = b"Rootstock";

/// Options that we can use: mask, router, name servers, lease times, server.
const PARAMETERS: [u8; 7] = [1, 3, 6, 51, 54, 58, 59];

/// BOOTP's old minimum, which some servers want.
const LEAST_BYTES: usize = 300;

/// A message to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// With the address that we had before, if any.
    Discover {
        before: Option<Ipv4Addr>,
    },
    /// In SELECTING.
    Request {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// In RENEWING (unicast) and REBINDING (broadcast).
    Renew {
        address: Ipv4Addr,
    },
    Decline {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
}

/// The bytes of a message. Always with the broadcast flag, but for a renewal:
/// until then nobody can reach us by an address.
pub fn encode(message: Message, mac: MacAddr, xid: u32, secs: u16, class: Option<&[u8]>) -> Vec<u8> {
    let (ciaddr, flags) = match message {
        Message::Renew { address } => (address, 0_u16),
        _ => (Ipv4Addr::UNSPECIFIED, 0x8000),
    };
    let mut bytes = vec![1, 1, 6, 0]; // BOOTREQUEST, Ethernet, six bytes, no hops
    bytes.extend_from_slice(&xid.to_be_bytes());
    bytes.extend_from_slice(&secs.to_be_bytes());
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&ciaddr.octets());
    bytes.resize(28, 0); // yiaddr, siaddr, giaddr
    bytes.extend_from_slice(&mac.0);
    bytes.resize(236, 0); // the rest of chaddr, sname, file
    bytes.extend_from_slice(&MAGIC);
    let kind = match message {
        Message::Discover { .. } => 1,
        Message::Request { .. } | Message::Renew { .. } => 3,
        Message::Decline { .. } => 4,
    };
    bytes.extend_from_slice(&[53, 1, kind]);
    let mut address = |code: u8, address: Ipv4Addr| {
        bytes.extend_from_slice(&[code, 4]);
        bytes.extend_from_slice(&address.octets());
    };
    match message {
        Message::Discover { before } => {
            if let Some(before) = before {
                address(50, before);
            }
        }
        Message::Request { address: wanted, server } | Message::Decline { address: wanted, server } => {
            address(50, wanted);
            address(54, server);
        }
        Message::Renew { .. } => {}
    }
    if let Some(class) = class {
        bytes.push(60);
        bytes.push(class.len().min(255) as u8);
        bytes.extend_from_slice(&class[..class.len().min(255)]);
    }
    if !matches!(message, Message::Decline { .. }) {
        bytes.extend_from_slice(&[55, PARAMETERS.len() as u8]);
        bytes.extend_from_slice(&PARAMETERS);
    }
    bytes.push(255);
    bytes.resize(bytes.len().max(LEAST_BYTES), 0);
    bytes
}

/// What a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Offer,
    Ack,
    Nak,
}

/// One well-formed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub kind: Kind,
    pub xid: u32,
    /// Whom it is for.
    pub mac: MacAddr,
    pub yiaddr: Ipv4Addr,
    /// Option 54.
    pub server: Ipv4Addr,
    /// The address with option 1, if both can be a host's. RFC 2131 lets a
    /// server leave the mask out; an address without its wire is of no use here.
    pub subnet: Option<Subnet>,
    /// The first of option 3, if it is on that wire.
    pub router: Option<Ipv4Addr>,
    /// Of option 6, at most four.
    pub dns: Vec<Ipv4Addr>,
    /// Option 51; `None` when it is missing, `Duration::MAX` when it is for ever.
    pub lease: Option<Duration>,
    /// Options 58 and 59.
    pub renew: Option<Duration>,
    pub rebind: Option<Duration>,
    /// Another appliance's answer.
    pub is_appliance: bool,
}

/// Reads a UDP payload that came to port 68.
pub fn parse(packet: &[u8]) -> Result<Reply, Ignored> {
    if packet.len() > MAX_BYTES {
        return Err(Ignored::TooLong);
    }
    if packet.len() < HEADER_BYTES {
        return Err(Ignored::TooShort);
    }
    if packet[0] != 2 {
        return Err(Ignored::NotAReply);
    }
    if packet[1..3] != [1, 6] {
        return Err(Ignored::NotEthernet);
    }
    if packet[HEADER_BYTES - MAGIC.len()..HEADER_BYTES] != MAGIC {
        return Err(Ignored::BadCookie);
    }
    let four = |at: usize| [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]];
    let options = Options::walk(packet)?;
    let kind = match options.byte(53) {
        None => return Err(Ignored::NoMessageType),
        Some(2) => Kind::Offer,
        Some(5) => Kind::Ack,
        Some(6) => Kind::Nak,
        Some(other) => return Err(Ignored::OtherMessageType(other)),
    };
    let server = options.array::<4>(54).map(Ipv4Addr::from).filter(is_station).ok_or(Ignored::BadOption(54))?;
    let yiaddr = Ipv4Addr::from(four(16));
    let prefix = options.array::<4>(1).and_then(prefix);
    let subnet = prefix
        .map(|prefix| Subnet { address: yiaddr, prefix })
        .filter(|subnet| is_station(&yiaddr) && subnet.has_host(yiaddr));
    let addresses = |code| {
        let value = options.get(code).unwrap_or_default();
        let all = value.chunks_exact(4).map(|four| Ipv4Addr::new(four[0], four[1], four[2], four[3]));
        all.filter(is_station).take(4).collect::<Vec<_>>()
    };
    let time = |code| {
        options.array::<4>(code).map(u32::from_be_bytes).map(|seconds| match seconds {
            u32::MAX => Duration::MAX,
            seconds => Duration::from_secs(seconds.into()),
        })
    };
    Ok(Reply {
        kind,
        xid: u32::from_be_bytes(four(4)),
        mac: MacAddr([packet[28], packet[29], packet[30], packet[31], packet[32], packet[33]]),
        yiaddr,
        server,
        subnet,
        router: addresses(3).first().copied().filter(|&router| subnet.is_some_and(|subnet| subnet.has_host(router))),
        dns: addresses(6),
        lease: time(51),
        renew: time(58),
        rebind: time(59),
        is_appliance: options.get(60).as_deref() == Some(APPLIANCE_CLASS),
    })
}

/// A mask's prefix length, of those that a wire of ours can have.
fn prefix(mask: [u8; 4]) -> Option<u8> {
    let mask = u32::from_be_bytes(mask);
    let prefix = mask.leading_ones() as u8;
    let whole = prefix == 32 || mask << prefix == 0;
    (whole && (8..=30).contains(&prefix)).then_some(prefix)
}

fn is_station(address: &Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::message;
    use super::*;

    const MAC: MacAddr = MacAddr([2, b'R', b'K', 1, 2, 3]);
    const ITS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 57);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn answer(kind: u8, options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = encode(Message::Discover { before: None }, MAC, 7, 0, None);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&ITS.octets());
        bytes.truncate(HEADER_BYTES);
        bytes.extend_from_slice(&[53, 1, kind]);
        for (code, value) in options {
            bytes.extend_from_slice(&[*code, value.len() as u8]);
            bytes.extend_from_slice(value);
        }
        bytes.push(255);
        bytes
    }

    #[test]
    fn our_messages_are_what_our_own_server_reads() {
        let read = |message| message::parse(&encode(message, MAC, 9, 3, Some(APPLIANCE_CLASS))).unwrap();
        let discover = read(Message::Discover { before: Some(ITS) });
        assert_eq!((discover.kind, discover.mac, discover.xid, discover.secs), (message::Kind::Discover, MAC, 9, 3));
        assert!(discover.wants_broadcast());
        assert_eq!((discover.requested, discover.vendor_class.as_deref()), (Some(ITS), Some("Rootstock")));
        let request = read(Message::Request { address: ITS, server: ROUTER });
        assert_eq!((request.requested, request.server_id), (Some(ITS), Some(ROUTER)));
        let renew = read(Message::Renew { address: ITS });
        assert_eq!((renew.ciaddr, renew.requested, renew.server_id, renew.flags), (ITS, None, None, 0));
        assert_eq!(read(Message::Decline { address: ITS, server: ROUTER }).kind, message::Kind::Decline);
    }

    #[test]
    fn an_offer_is_read_with_all_that_we_can_use() {
        let reply = parse(&answer(
            2,
            &[
                (54, &ROUTER.octets()),
                (51, &[0, 0, 14, 16]),
                (1, &[255, 255, 255, 0]),
                (3, &ROUTER.octets()),
                (6, &[9, 9, 9, 9, 1, 1, 1, 1]),
            ],
        ))
        .unwrap();
        assert_eq!((reply.kind, reply.xid, reply.mac, reply.server), (Kind::Offer, 7, MAC, ROUTER));
        assert_eq!(reply.subnet, Some(Subnet { address: ITS, prefix: 24 }));
        assert_eq!((reply.router, reply.lease), (Some(ROUTER), Some(Duration::from_secs(3600))));
        assert_eq!((reply.dns.len(), reply.is_appliance), (2, false));
        assert!(parse(&answer(2, &[(54, &ROUTER.octets()), (60, b"Rootstock")])).unwrap().is_appliance);
    }

    #[test]
    fn what_is_no_answer_or_makes_no_sense_is_refused() {
        let server: (u8, &[u8]) = (54, &ROUTER.octets());
        assert_eq!(parse(&answer(2, &[])), Err(Ignored::BadOption(54)));
        assert_eq!(parse(&answer(2, &[(54, &[255; 4])])), Err(Ignored::BadOption(54)));
        assert_eq!(parse(&answer(1, &[server])), Err(Ignored::OtherMessageType(1)));
        assert_eq!(parse(&encode(Message::Renew { address: ITS }, MAC, 1, 0, None)), Err(Ignored::NotAReply));
        assert_eq!(parse(&[2; 239]), Err(Ignored::TooShort));
        for mask in [[255, 0, 255, 0], [255, 255, 255, 255], [0; 4], [254, 0, 0, 0]] {
            assert_eq!(parse(&answer(2, &[server, (1, &mask)])).unwrap().subnet, None, "{mask:?}");
        }
        let elsewhere = parse(&answer(2, &[server, (1, &[255, 255, 255, 0]), (3, &[10, 0, 1, 1])])).unwrap();
        assert_eq!(elsewhere.router, None);
    }

    proptest! {
        #[test]
        fn random_options_never_panic(options in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut bytes = answer(2, &[]);
            bytes.pop();
            bytes.extend_from_slice(&options);
            if let Ok(reply) = parse(&bytes) {
                prop_assert!(reply.dns.len() <= 4);
            }
        }
    }
}
