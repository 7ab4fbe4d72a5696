//! The bytes of OFFER, ACK and NAK (RFC 2131 §4.3.1 and table 3).
//!
//! Pure. Options stand in the order of [`options`], most needed first, because
//! what does not fit into the client's longest message is left out from the
//! end. No pad option stands before option 255: Pi 4 EEPROMs from before
//! 2020-01-17 drop a reply that has one.

use dhcproto::v4::{
    DhcpOption, Encodable, Encoder, Flags, HType, MAGIC, MIN_PACKET_SIZE, MessageType, Opcode, OptionCode,
    UnknownOption,
};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::message::{MAX_BYTES, Request};
use super::terms::{Answer, Binding, Server};
use super::{client, quirks};

/// IPv4 and UDP headers, which option 57 counts in.
const IP_UDP_BYTES: usize = 28;
/// What every client must take (RFC 2131 §2), without those headers.
const LEAST_MAX_BYTES: usize = 576 - IP_UDP_BYTES;

pub(super) fn encode(answer: Answer, server: &Server, binding: &Binding, request: &Request) -> Vec<u8> {
    let bytes = header(answer, server, binding.address, request);
    finish(bytes, &options(answer, server, binding, request), request)
}

/// An OFFER that leases nothing: option 66 and `siaddr` say the same as option
/// 54, as where we lease, so that a loader's precedence cannot matter.
pub(super) fn encode_without_address(answer: Answer, server: &Server, request: &Request) -> Vec<u8> {
    use DhcpOption as O;

    let own = server.subnet.address;
    let mut options = vec![O::MessageType(MessageType::Offer), O::ServerIdentifier(own)];
    if answer == Answer::Presence {
        options.push(O::ClassIdentifier(client::APPLIANCE_CLASS.to_vec()));
    } else {
        options.push(O::TFTPServerName(own.to_string().into_bytes()));
        options.push(O::ClassIdentifier(quirks::VENDOR_CLASS.to_vec()));
        options.extend(request.echo97.clone().map(O::ClientMachineIdentifier));
        options.push(O::VendorExtensions(quirks::OPTION_43.to_vec()));
    }
    finish(header(answer, server, Ipv4Addr::UNSPECIFIED, request), &options, request)
}

/// The header with as many of the options as the client takes.
fn finish(mut bytes: Vec<u8>, options: &[DhcpOption], request: &Request) -> Vec<u8> {
    let asked = request.max_message_bytes.map_or(0, usize::from).saturating_sub(IP_UDP_BYTES);
    // The relay's option must be there and last (RFC 3046 §2.1), so its room is kept; one byte is for option 255.
    let relay = request.echo82.as_deref().map(|value| option(&raw(OptionCode::RelayAgentInformation, value)));
    let relay = relay.unwrap_or_default();
    let limit = asked.clamp(LEAST_MAX_BYTES, MAX_BYTES) - relay.len() - 1;
    for option in options.iter().map(option) {
        if bytes.len() + option.len() <= limit {
            bytes.extend_from_slice(&option);
        }
    }
    bytes.extend_from_slice(&relay);
    bytes.push(OptionCode::End.into());
    // BOOTP's old minimum: the Pi's ROM and some relays drop what is shorter.
    let padded = bytes.len().max(MIN_PACKET_SIZE);
    bytes.resize(padded, 0);
    bytes
}

/// The fixed fields and the magic cookie, 240 bytes.
fn header(answer: Answer, server: &Server, address: Ipv4Addr, request: &Request) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let (ciaddr, yiaddr, siaddr) = match answer {
        Answer::Offer => (none, address, server.subnet.address),
        Answer::Ack => (request.ciaddr, address, server.subnet.address),
        Answer::Boot => (none, none, server.subnet.address),
        Answer::Presence => (none, none, none),
        Answer::Nak => (none, none, none),
        Answer::Inform => (request.ciaddr, none, server.subnet.address),
    };
    let mut flags = Flags::from(request.flags);
    if matches!(answer, Answer::Boot | Answer::Presence) {
        // It goes out so, as dnsmasq's does.
        flags = flags.set_broadcast();
    }
    if answer == Answer::Nak && !request.giaddr.is_unspecified() {
        // So that the relay broadcasts it: the client may have no usable address (RFC 2131 §4.3.2).
        flags = flags.set_broadcast();
    }
    let mut bytes = Vec::with_capacity(LEAST_MAX_BYTES);
    bytes.extend_from_slice(&[Opcode::BootReply.into(), HType::Eth.into(), 6, 0]);
    bytes.extend_from_slice(&request.xid.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]); // secs
    bytes.extend_from_slice(&u16::from(flags).to_be_bytes());
    for address in [ciaddr, yiaddr, siaddr, request.giaddr] {
        bytes.extend_from_slice(&address.octets());
    }
    bytes.extend_from_slice(&request.mac.0);
    // The rest of chaddr, sname and file stay empty: a Pi ignores both names by
    // design, and option 66 says the same to those that read one.
    bytes.resize(236, 0);
    bytes.extend_from_slice(&MAGIC);
    bytes
}

/// All options of a reply but 82 and 255. The order is dnsmasq's as far as it
/// has these, since that is the server that Pis have met most.
fn options(answer: Answer, server: &Server, binding: &Binding, request: &Request) -> Vec<DhcpOption> {
    use DhcpOption as O;

    let kind = match answer {
        Answer::Offer | Answer::Boot | Answer::Presence => MessageType::Offer,
        Answer::Ack | Answer::Inform => MessageType::Ack,
        Answer::Nak => MessageType::Nak,
    };
    let mut options = vec![O::MessageType(kind), O::ServerIdentifier(server.subnet.address)];
    if answer == Answer::Nak {
        options.push(O::Message("wrong address".to_owned()));
        options.extend(request.echo61.clone().map(O::ClientIdentifier));
        return options;
    }
    if answer != Answer::Inform {
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        options.push(O::AddressLeaseTime(seconds(server.lease)));
        options.push(O::Renewal(seconds(server.lease / 2)));
        options.push(O::Rebinding(seconds(server.lease * 7 / 8)));
    }
    options.push(O::SubnetMask(server.subnet.mask()));
    options.push(O::BroadcastAddr(server.subnet.broadcast()));
    options.extend(server.gateway.map(|gateway| O::Router(vec![gateway])));
    // Without NUL: firmware of 2017 to 2019 read that, or a short address, wrong.
    options.push(O::TFTPServerName(server.subnet.address.to_string().into_bytes()));
    if request.identity.asker.is_loader() {
        options.push(O::ClassIdentifier(quirks::VENDOR_CLASS.to_vec()));
        options.extend(request.echo97.clone().map(O::ClientMachineIdentifier));
        options.push(O::VendorExtensions(quirks::OPTION_43.to_vec()));
    } else {
        // A loader's old firmware does not know this one; a system expects it (RFC 6842).
        options.extend(request.echo61.clone().map(O::ClientIdentifier));
    }
    if !server.dns.is_empty() {
        options.push(O::DomainNameServer(server.dns.iter().copied().take(4).collect()));
    }
    options.push(O::Hostname(binding.role.as_str().to_owned()));
    if (1..=255).contains(&binding.root_path.len()) {
        options.push(O::RootPath(binding.root_path.clone()));
    }
    options
}

fn raw(code: OptionCode, value: &[u8]) -> DhcpOption {
    DhcpOption::Unknown(UnknownOption::new(code, value.to_vec()))
}

/// One option as it stands in a message; empty if dhcproto refuses it, which it
/// does for none of those above.
fn option(option: &DhcpOption) -> Vec<u8> {
    let mut bytes = Vec::new();
    match option.encode(&mut Encoder::new(&mut bytes)) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::super::decide::{Decision, decide};
    use super::super::message::parse;
    use super::super::packets::{self, Packet};
    use super::*;
    use crate::client::Role;
    use crate::config::Subnet;

    const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
    const ITS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);

    fn plain() -> Server {
        Server {
            subnet: Subnet { address: US, prefix: 24 },
            gateway: None,
            dns: Vec::new(),
            lease: Duration::from_secs(86_400),
        }
    }

    fn full() -> Server {
        let address = |last| Ipv4Addr::new(192, 168, 77, last);
        Server { gateway: Some(address(254)), dns: vec![address(253), Ipv4Addr::new(9, 9, 9, 9)], ..plain() }
    }

    fn binding() -> Binding {
        Binding {
            address: ITS,
            role: Role::numbered(1),
            root_path: "192.168.77.1:/clients/pi-1/root,vers=3,tcp".to_owned(),
        }
    }

    fn reply(server: &Server, binding: &Binding, request: &[u8]) -> Vec<u8> {
        match decide(server, Some(binding), &parse(request).unwrap()) {
            Decision::Reply(reply) => reply.bytes,
            other => panic!("no reply: {other:?}"),
        }
    }

    /// A reply as text: one field or option a line, in the order on the wire.
    /// Shares nothing with the encoder.
    fn show(bytes: &[u8]) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let mut text = String::new();
        let fields = [("op htype hlen hops", 0..4), ("xid", 4..8), ("secs flags", 8..12), ("ciaddr", 12..16)];
        let more = [("yiaddr", 16..20), ("siaddr", 20..24), ("giaddr", 24..28), ("chaddr", 28..44)];
        for (name, range) in fields.into_iter().chain(more) {
            writeln!(text, "{name:<18}  {}", hex(&bytes[range])).unwrap();
        }
        assert!(bytes[44..236].iter().all(|&byte| byte == 0), "sname and file are empty");
        writeln!(text, "{:<18}  {}", "cookie", hex(&bytes[236..240])).unwrap();
        let mut rest = &bytes[240..];
        while rest[0] != 255 {
            let (code, length) = (rest[0], usize::from(rest[1]));
            let value = &rest[2..2 + length];
            let printable = value.iter().all(|byte| (32..127).contains(byte)) && (value.len() > 4 || code == 12);
            let value = if printable { String::from_utf8(value.to_vec()).unwrap() } else { hex(value) };
            writeln!(text, "option {code:<3} {length:>3} B  {value}").unwrap();
            rest = &rest[2 + length..];
        }
        assert!(rest[1..].iter().all(|&byte| byte == 0), "only pads stand after option 255");
        writeln!(text, "{} bytes, {} of them pads", bytes.len(), rest.len() - 1).unwrap();
        text
    }

    /// Compares with `tests/golden/dhcp_<name>.txt`; with `ROOTSTOCK_BLESS` set in the
    /// environment the file is written anew, to be read in review.
    #[track_caller]
    fn check_golden(name: &str, reply: &[u8]) {
        let path = format!("{}/tests/golden/dhcp_{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let shown = show(reply);
        if std::env::var_os("ROOTSTOCK_BLESS").is_some() {
            std::fs::write(&path, &shown).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(shown, expected, "{path}: accept with `just bless`");
    }

    /// The options of a reply by code, each once, in order.
    fn codes(bytes: &[u8]) -> Vec<u8> {
        let mut codes = Vec::new();
        let mut rest = &bytes[240..];
        while rest[0] != 255 {
            codes.push(rest[0]);
            rest = &rest[2 + usize::from(rest[1])..];
        }
        codes
    }

    fn value(bytes: &[u8], code: u8) -> Option<&[u8]> {
        let mut rest = &bytes[240..];
        while rest[0] != 255 {
            if rest[0] == code {
                return Some(&rest[2..2 + usize::from(rest[1])]);
            }
            rest = &rest[2 + usize::from(rest[1])..];
        }
        None
    }

    #[test]
    fn the_replies_to_each_pi_are_these_bytes() {
        let ack = packets::pi4(3).address(54, US).address(50, ITS).bytes();
        check_golden("offer_pi3_rom", &reply(&plain(), &binding(), &packets::pi3_rom()));
        check_golden("offer_pi4", &reply(&plain(), &binding(), &packets::pi4_eeprom()));
        check_golden("ack_pi4", &reply(&full(), &binding(), &ack));
        check_golden("offer_pi5", &reply(&plain(), &binding(), &packets::pi5_eeprom()));
        check_golden("ack_kernel", &reply(&full(), &binding(), &packets::kernel(3).address(50, ITS).bytes()));
    }

    #[test]
    fn beside_another_server_the_boot_comes_without_an_address() {
        let boot = |request: &[u8]| super::super::decide::offer_boot(&full(), &parse(request).unwrap()).bytes;
        check_golden("boot_pi3_rom", &boot(&packets::pi3_rom()));
        check_golden("boot_pi4", &boot(&packets::pi4_eeprom()));
        let ask = client::encode(client::Message::Discover { before: None }, packets::PI4, 7, 0, Some(b"Rootstock"));
        let presence = super::super::decide::tell_presence(&full(), &parse(&ask).unwrap());
        let told = client::parse(&presence.bytes).unwrap();
        assert_eq!((told.is_appliance, told.server, told.yiaddr), (true, US, Ipv4Addr::UNSPECIFIED));
    }

    #[test]
    fn a_nak_has_no_address_and_says_who_and_why() {
        check_golden("nak", &reply(&full(), &binding(), &packets::kernel(3).address(50, US).bytes()));
    }

    #[test]
    fn an_inform_gets_options_without_a_lease() {
        check_golden("ack_inform", &reply(&full(), &binding(), &packets::kernel(8).ciaddr(ITS).bytes()));
    }

    #[test]
    fn siaddr_and_options_54_and_66_are_one_address() {
        for request in [packets::pi3_rom(), packets::pi4_eeprom(), packets::kernel(1).bytes()] {
            let bytes = reply(&full(), &binding(), &request);
            assert_eq!(bytes[20..24], US.octets());
            assert_eq!(value(&bytes, 54), Some(&US.octets()[..]));
            assert_eq!(value(&bytes, 66), Some(&b"192.168.77.1"[..]));
        }
    }

    #[test]
    fn a_system_is_spared_the_loaders_options() {
        let bytes = reply(&full(), &binding(), &packets::kernel(1).option(61, &[1, 2, 3]).bytes());
        assert!([43, 60, 97].iter().all(|code| !codes(&bytes).contains(code)), "{:?}", codes(&bytes));
        assert_eq!(value(&bytes, 61), Some(&[1, 2, 3][..]));
    }

    #[test]
    fn option_97_comes_back_as_it_came() {
        let request = packets::pi5_eeprom();
        let sent = parse(&request).unwrap().echo97.unwrap();
        assert_eq!(value(&reply(&plain(), &binding(), &request), 97), Some(sent.as_slice()));
    }

    #[test]
    fn the_relays_option_is_echoed_last_and_a_nak_through_it_is_broadcast() {
        let relay = Ipv4Addr::new(192, 168, 77, 3);
        let request = packets::kernel(3).giaddr(relay).option(82, &[1, 2, 9, 9]).address(50, US).bytes();
        let bytes = reply(&plain(), &binding(), &request);
        assert_eq!(codes(&bytes), [53, 54, 56, 82]);
        assert_eq!(value(&bytes, 82), Some(&[1, 2, 9, 9][..]));
        assert_eq!(bytes[10..12], [0x80, 0]);
        assert_eq!(bytes[24..28], relay.octets());
    }

    #[test]
    fn what_a_client_cannot_take_is_left_out_from_the_end() {
        let binding = Binding { root_path: "/".repeat(255), ..binding() };
        let request = |size: u16| packets::pi4(1).option(82, &[7; 100]).option(57, &size.to_be_bytes()).bytes();
        let short = reply(&full(), &binding, &request(100));
        assert!(short.len() <= 548, "{}", short.len());
        let kept = [53, 54, 51, 58, 59, 1, 28, 3, 66, 60, 97, 43, 6, 12];
        assert_eq!(codes(&short), [&kept[..], &[82]].concat());
        assert_eq!(codes(&reply(&full(), &binding, &request(u16::MAX))), [&kept[..], &[17, 82]].concat());
    }

    #[test]
    fn a_root_path_that_no_option_holds_is_left_out() {
        for root_path in [String::new(), "/".repeat(256)] {
            let bytes = reply(&plain(), &Binding { root_path, ..binding() }, &packets::kernel(1).bytes());
            assert_eq!(value(&bytes, 17), None);
        }
    }

    #[test]
    fn a_lease_longer_than_the_field_is_told_as_for_ever() {
        let server = Server { lease: Duration::from_secs(u64::from(u32::MAX) + 1), ..plain() };
        let bytes = reply(&server, &binding(), &Packet::new(1, packets::PI4).bytes());
        assert_eq!(value(&bytes, 51), Some(&[0xff; 4][..]));
    }
}
