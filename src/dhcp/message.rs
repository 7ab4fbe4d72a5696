//! A datagram becomes a [`Request`], or is ignored for a reason.
//!
//! Pure. The fixed fields are read by dhcproto behind the checks it lacks; the
//! meaning of fields is RFC 2131 §2 and §4.3, of options RFC 2132.

use std::net::Ipv4Addr;

use dhcproto::v4::{HType, MAGIC, Opcode, borrowed};

use super::options::{HEADER_BYTES, Options, Truncated};
use super::quirks::{self, Identity};
use crate::client::MacAddr;

/// Longest message that is read: what fits into one Ethernet frame. Real ones
/// are 300 to 600 bytes; a longer one is a fragmented datagram that no loader sends.
pub const MAX_BYTES: usize = 1472;

/// DHCP message types that a client sends (RFC 2132 §9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Discover,
    Request,
    Decline,
    Release,
    Inform,
}

/// One well-formed message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub kind: Kind,
    /// Not a key: every Pi 3's ROM uses the same one.
    pub xid: u32,
    /// Seconds since the client began to ask; some loaders leave it 0.
    pub secs: u16,
    /// Bit 15 asks for broadcast replies.
    pub flags: u16,
    /// `chaddr`: the one key of a client.
    pub mac: MacAddr,
    pub ciaddr: Ipv4Addr,
    pub giaddr: Ipv4Addr,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54: the server that the client has chosen.
    pub server_id: Option<Ipv4Addr>,
    /// Option 55: the codes asked for, at most 255 are kept.
    pub parameters: Vec<u8>,
    /// Option 57: the longest message the client takes, in bytes with IP and UDP headers.
    pub max_message_bytes: Option<u16>,
    /// Option 12, if it is printable ASCII of at most 63 bytes.
    pub hostname: Option<String>,
    /// Option 60, shown with what is not printable ASCII as dots; at most 64 bytes.
    pub vendor_class: Option<String>,
    pub identity: Identity,
    /// Option 61 as it came, for the reply (RFC 6842); never a key.
    pub echo61: Option<Vec<u8>>,
    /// Option 82 as it came, for the relay agent (RFC 3046 §2.2).
    pub echo82: Option<Vec<u8>>,
    /// Option 97 as it came, for the reply (RFC 4578 §2.3).
    pub echo97: Option<Vec<u8>>,
}

impl Request {
    /// The client cannot take a unicast before it has its address.
    pub fn wants_broadcast(&self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// Which program behind a loader sent it.
    pub fn program(&self) -> quirks::Program {
        quirks::program(&self.parameters)
    }
}

/// Why a datagram on port 67 is not a [`Request`]: for counters and tests, not
/// an error of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Ignored {
    #[error("shorter than the fixed fields")]
    TooShort,
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("not a BOOTREQUEST")]
    NotARequest,
    #[error("not a BOOTREPLY")]
    NotAReply,
    #[error("not an Ethernet client")]
    NotEthernet,
    #[error("chaddr is no station's address")]
    BadHardwareAddress,
    #[error("no DHCP magic cookie")]
    BadCookie,
    #[error("option {0} runs past its field")]
    TruncatedOption(u8),
    #[error("option {0} has a wrong length")]
    BadOption(u8),
    #[error("BOOTP without a message type")]
    NoMessageType,
    #[error("message type {0} is none that is read here")]
    OtherMessageType(u8),
}

impl From<Truncated> for Ignored {
    fn from(Truncated(code): Truncated) -> Self {
        Self::TruncatedOption(code)
    }
}

/// Reads one UDP payload that came to port 67.
pub fn parse(packet: &[u8]) -> Result<Request, Ignored> {
    if packet.len() > MAX_BYTES {
        return Err(Ignored::TooLong);
    }
    let header = borrowed::Message::new(packet).map_err(|_| Ignored::TooShort)?;
    if header.opcode() != Opcode::BootRequest {
        return Err(Ignored::NotARequest);
    }
    // Before `chaddr()`, which would panic on some values of `hlen`.
    if header.htype() != HType::Eth || header.hlen() != 6 {
        return Err(Ignored::NotEthernet);
    }
    let mac = MacAddr(header.chaddr().try_into().map_err(|_| Ignored::NotEthernet)?);
    if mac.0[0] & 1 != 0 || mac.0 == [0; 6] {
        return Err(Ignored::BadHardwareAddress);
    }
    if packet[HEADER_BYTES - MAGIC.len()..HEADER_BYTES] != MAGIC {
        return Err(Ignored::BadCookie);
    }

    let options = Options::walk(packet)?;
    let kind = match options.get(53).as_deref() {
        None => return Err(Ignored::NoMessageType),
        Some([1]) => Kind::Discover,
        Some([3]) => Kind::Request,
        Some([4]) => Kind::Decline,
        Some([7]) => Kind::Release,
        Some([8]) => Kind::Inform,
        Some(&[other]) => return Err(Ignored::OtherMessageType(other)),
        Some(_) => return Err(Ignored::BadOption(53)),
    };
    // A decision hangs on these two, so a damaged one is not taken for an absent one.
    let address = |code| match options.get(code) {
        None => Ok(None),
        Some(_) => options.array(code).map(|bytes: [u8; 4]| Some(bytes.into())).ok_or(Ignored::BadOption(code)),
    };
    let (requested, server_id) = (address(50)?, address(54)?);

    // Bounded by what one option can hold, so that joined parts do not grow our replies.
    let echo =
        |code| options.get(code).filter(|value| (1..=255).contains(&value.len())).map(|value| value.into_owned());
    let mut parameters = options.get(55).map(|codes| codes.into_owned()).unwrap_or_default();
    parameters.truncate(255);
    let class = options.get(60);
    let echo97 = echo(97);
    let xid = header.xid();
    let identity = quirks::identify(mac, xid, class.as_deref(), echo97.as_deref(), &parameters);
    Ok(Request {
        kind,
        xid,
        secs: header.secs(),
        flags: header.flags().into(),
        mac,
        ciaddr: header.ciaddr(),
        giaddr: header.giaddr(),
        requested,
        server_id,
        parameters,
        max_message_bytes: options.array(57).map(u16::from_be_bytes),
        hostname: options.get(12).and_then(|name| hostname(&name)),
        vendor_class: class.map(|class| printable(&class)),
        identity,
        echo61: echo(61),
        echo82: echo(82),
        echo97,
    })
}

fn hostname(name: &[u8]) -> Option<String> {
    // Some clients end it with a NUL (RFC 2132 §2 forbids that).
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    let valid = (1..=63).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
    valid.then(|| name.iter().copied().map(char::from).collect())
}

fn printable(class: &[u8]) -> String {
    let shown = |&byte: &u8| if byte == b' ' || byte.is_ascii_graphic() { char::from(byte) } else { '.' };
    class.iter().take(64).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packets::{self, Packet};
    use super::super::quirks::Asker;
    use super::*;
    use crate::client::{Model, Revision, Serial};

    #[track_caller]
    fn check(packet: &[u8], expected: Ignored) {
        assert_eq!(parse(packet), Err(expected));
    }

    #[test]
    fn the_pi_3_rom_is_read() {
        let request = parse(&packets::pi3_rom()).unwrap();
        assert_eq!((request.kind, request.xid), (Kind::Discover, quirks::PI3_ROM_XID));
        assert_eq!(request.mac.to_string(), "b8:27:eb:6c:4c:16");
        assert_eq!(request.parameters, [43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66]);
        assert_eq!(request.vendor_class.as_deref(), Some("PXEClient:Arch:00000:UNDI:002001"));
        assert_eq!(
            request.identity,
            Identity { asker: Asker::PiRom, model: Model::Pi3B, serial: None, revision: None }
        );
        assert_eq!(request.echo97.as_deref(), Some([&[0][..], &[0x44; 16]].concat().as_slice()));
        assert!(!request.wants_broadcast());
    }

    #[test]
    fn the_pi_4_and_5_tell_model_memory_and_serial() {
        let request = parse(&packets::pi4_eeprom()).unwrap();
        assert_eq!((request.kind, request.requested, request.server_id), (Kind::Discover, None, None));
        let identity = request.identity;
        assert_eq!((identity.asker, identity.model), (Asker::PiEeprom, Model::Pi4B));
        assert_eq!((identity.serial, identity.memory_mib()), (Some(Serial(0x9ffe_fdef)), Some(4096)));
        assert_eq!(identity.revision, Some(Revision(0xc03114)));
        let identity = parse(&packets::pi5_eeprom()).unwrap().identity;
        assert_eq!((identity.asker, identity.model), (Asker::PiEeprom, Model::Pi5));
        assert_eq!((identity.serial, identity.memory_mib()), (Some(Serial(0x1234_abcd)), Some(8192)));
    }

    #[test]
    fn texts_are_kept_only_when_they_are_text() {
        let text = |options: &[(u8, &[u8])]| {
            let request = parse(&Packet::new(1, packets::STRANGER).options(options).bytes()).unwrap();
            (request.hostname, request.vendor_class)
        };
        assert_eq!(text(&[(12, b"pi-1\0"), (60, b"udhcp 1.35")]), (Some("pi-1".into()), Some("udhcp 1.35".into())));
        assert_eq!(text(&[(12, b"a\nb"), (60, b"\x1b[2J")]), (None, Some(".[2J".into())));
        assert_eq!(text(&[(12, &[b'a'; 64])]), (None, None));
    }

    #[test]
    fn hostile_packets_are_ignored_each_for_its_reason() {
        let good = packets::pi4_eeprom();
        assert!(parse(&good).is_ok());
        let with = |at: usize, byte: u8| {
            let mut packet = good.clone();
            packet[at] = byte;
            packet
        };
        check(&[], Ignored::TooShort);
        check(&good[..239], Ignored::TooShort);
        check(&good[..240], Ignored::NoMessageType);
        check(&vec![1; 65_507], Ignored::TooLong);
        check(&with(0, 2), Ignored::NotARequest);
        check(&with(1, 7), Ignored::NotEthernet);
        for hlen in [0, 5, 7, 16, 17, 255] {
            check(&with(2, hlen), Ignored::NotEthernet);
        }
        check(&with(28, 0x01), Ignored::BadHardwareAddress);
        check(&Packet::new(1, MacAddr([0; 6])).bytes(), Ignored::BadHardwareAddress);
        check(&with(239, 0), Ignored::BadCookie);
        check(&with(241, 255), Ignored::TruncatedOption(53));
        check(&with(242, 99), Ignored::OtherMessageType(99));
        check(&with(242, 2), Ignored::OtherMessageType(2));
        check(&Packet::new(3, packets::STRANGER).option(50, &[1, 2, 3]).bytes(), Ignored::BadOption(50));
        check(&Packet::new(3, packets::STRANGER).option(54, &[]).bytes(), Ignored::BadOption(54));
    }

    #[test]
    fn options_that_make_dhcproto_panic_do_not_trouble_us() {
        for code in [80, 81, 82, 94, 119, 121, 151, 152, 154] {
            for value in [&[][..], &[255], &[33; 5], &[0; 255]] {
                let packet = Packet::new(1, packets::STRANGER).option(code, value).bytes();
                assert!(parse(&packet).is_ok(), "option {code} of {} bytes", value.len());
            }
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1600)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn random_options_and_fields_never_panic(
            start in proptest::collection::vec(any::<u8>(), 236),
            options in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            let mut packet = start;
            packet[..3].copy_from_slice(&[1, 1, 6]);
            packet[28] &= 0xfe;
            packet.extend_from_slice(&MAGIC);
            packet.extend_from_slice(&[53, 1, 1]);
            packet.extend_from_slice(&options);
            if let Ok(request) = parse(&packet) {
                prop_assert!(request.parameters.len() <= 255);
                prop_assert!(request.vendor_class.is_none_or(|class| class.len() <= 64));
            }
        }
    }
}
