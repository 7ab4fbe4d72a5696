//! What to answer a client, and where to: RFC 2131 §4.3 and table 4.
//!
//! Pure. The address of a client is not chosen here: its [`Binding`] comes with
//! the question, and without one there is no answer at all.

use std::net::Ipv4Addr;

use super::message::{Kind, Request};
use super::quirks::Asker;
use super::reply;
use super::terms::{Answer, Binding, Server};
use crate::client::MacAddr;

/// The outcome for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Reply(Reply),
    Silent(Silence),
    /// The client found its address in use: mark it with [`super::Conflicts`],
    /// bind another, and wait for its next DISCOVER.
    Declined {
        address: Ipv4Addr,
    },
    /// The client gave its address back. The binding stays; only its stage ends.
    Released {
        address: Ipv4Addr,
    },
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Silence {
    #[error("not a known client")]
    UnknownClient,
    #[error("it has chosen the server {0}")]
    OtherServer(Ipv4Addr),
    #[error("it comes through the relay {0}, which is outside our subnet")]
    OtherSubnet(Ipv4Addr),
    #[error("{0} is not its address")]
    NotItsAddress(Ipv4Addr),
    #[error("a message that fits no state of RFC 2131, table 4")]
    NoState,
}

/// A reply, ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub answer: Answer,
    /// The UDP payload, 300 to 548 bytes (more only if the client takes more).
    pub bytes: Vec<u8>,
    pub to: Destination,
    /// Our address, which it comes from.
    pub from: Ipv4Addr,
    /// The client uses its address from now on: an ACK, or an OFFER to a Pi's
    /// ROM, which sends no REQUEST.
    pub binds: bool,
}

/// Where a reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// `chaddr`; means nothing for [`How::Relay`].
    pub mac: MacAddr,
    pub address: Ipv4Addr,
    pub port: u16,
    pub how: How,
}

/// RFC 2131 §4.1, last paragraphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// To `yiaddr` and `chaddr`: the client cannot answer ARP yet.
    Unicast,
    /// To 255.255.255.255.
    Broadcast,
    /// To the relay agent at `giaddr`, port 67.
    Relay,
    /// To the address that the client has already.
    Ciaddr,
}

/// The client's state that a REQUEST shows (RFC 2131, table 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Selecting,
    InitReboot,
    /// RENEWING is unicast and REBINDING broadcast; the answer is the same.
    RenewingOrRebinding,
}

impl State {
    /// The state, and the address that the client claims in it.
    pub fn of(request: &Request) -> Option<(Self, Ipv4Addr)> {
        let ciaddr = Some(request.ciaddr).filter(|address| !address.is_unspecified());
        match (request.server_id, request.requested, ciaddr) {
            // Table 4 wants `ciaddr` empty here; clients that fill it too mean the same.
            (Some(_), Some(address), _) => Some((Self::Selecting, address)),
            (Some(_), None, Some(address)) => Some((Self::Selecting, address)),
            (None, Some(address), None) => Some((Self::InitReboot, address)),
            (None, _, Some(address)) => Some((Self::RenewingOrRebinding, address)),
            (_, None, None) => None,
        }
    }
}

/// The answer to one request. `binding` is that of the client with the
/// request's `mac`; `None` is always silence.
pub fn decide(server: &Server, binding: Option<&Binding>, request: &Request) -> Decision {
    use Decision::Silent;

    let Some(binding) = binding else { return Silent(Silence::UnknownClient) };
    // One subnet is served: through a relay of another wire the client would get
    // an address that does not work there.
    if !request.giaddr.is_unspecified() && !server.subnet.has_host(request.giaddr) {
        return Silent(Silence::OtherSubnet(request.giaddr));
    }
    // The address that was requested of another server is none of our business.
    // A DISCOVER has no option 54; one that has it all the same is answered.
    let other = request.server_id.filter(|&id| id != server.subnet.address && request.kind != Kind::Discover);
    if let Some(other) = other {
        return Silent(Silence::OtherServer(other));
    }
    let reply = |answer| Decision::Reply(reply(answer, server, binding, request));
    match request.kind {
        Kind::Discover => reply(Answer::Offer),
        Kind::Request => match State::of(request) {
            None => Silent(Silence::NoState),
            Some((_, address)) if address == binding.address => reply(Answer::Ack),
            Some(_) => reply(Answer::Nak),
        },
        // Only its own address: a client that declines one after the other must not use up the pool.
        Kind::Decline => match request.requested {
            Some(address) if address == binding.address => Decision::Declined { address },
            Some(address) => Silent(Silence::NotItsAddress(address)),
            None => Silent(Silence::NoState),
        },
        Kind::Release if request.ciaddr == binding.address => Decision::Released { address: request.ciaddr },
        Kind::Release => Silent(Silence::NotItsAddress(request.ciaddr)),
        // The reply goes to `ciaddr`, so it must be a station of this wire.
        Kind::Inform if server.subnet.has_host(request.ciaddr) => reply(Answer::Inform),
        Kind::Inform => Silent(Silence::NotItsAddress(request.ciaddr)),
    }
}

fn reply(answer: Answer, server: &Server, binding: &Binding, request: &Request) -> Reply {
    let rom_binds = answer == Answer::Offer && request.identity.asker == Asker::PiRom;
    Reply {
        answer,
        bytes: reply::encode(answer, server, binding, request),
        to: destination(answer, binding, request),
        from: server.subnet.address,
        binds: answer == Answer::Ack || rom_binds,
    }
}

/// What a Pi's loader must hear of us when its address comes from another
/// server. There is no ACK to follow: it sends its REQUEST to that server.
pub fn offer_boot(server: &Server, request: &Request) -> Reply {
    without_address(Answer::Boot, server, request)
}

/// That we are an appliance, and where.
pub fn tell_presence(server: &Server, request: &Request) -> Reply {
    without_address(Answer::Presence, server, request)
}

fn without_address(answer: Answer, server: &Server, request: &Request) -> Reply {
    // To everybody: the client has no address that it could be sent to.
    let (mac, address) = (request.mac, Ipv4Addr::BROADCAST);
    Reply {
        answer,
        bytes: reply::encode_without_address(answer, server, request),
        to: Destination { mac, address, port: 68, how: How::Broadcast },
        from: server.subnet.address,
        binds: false,
    }
}

fn destination(answer: Answer, binding: &Binding, request: &Request) -> Destination {
    let to = |how, address, port| Destination { mac: request.mac, address, port, how };
    if !request.giaddr.is_unspecified() {
        return to(How::Relay, request.giaddr, 67);
    }
    match answer {
        // A client with a wrong address cannot be reached by it.
        Answer::Nak | Answer::Boot | Answer::Presence => to(How::Broadcast, Ipv4Addr::BROADCAST, 68),
        Answer::Inform => to(How::Ciaddr, request.ciaddr, 68),
        Answer::Ack if request.ciaddr == binding.address => to(How::Ciaddr, request.ciaddr, 68),
        // `ciaddr` of a DISCOVER is not looked at: it must be 0, and a false one
        // would send our OFFER to somebody else.
        Answer::Offer | Answer::Ack if request.wants_broadcast() => to(How::Broadcast, Ipv4Addr::BROADCAST, 68),
        Answer::Offer | Answer::Ack => to(How::Unicast, binding.address, 68),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::message::parse;
    use super::super::packets::{self, Packet};
    use super::*;
    use crate::client::Role;
    use crate::config::Subnet;

    const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
    const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
    const ITS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
    const WRONG: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 11);

    const DISCOVER: u8 = 1;
    const REQUEST: u8 = 3;
    const DECLINE: u8 = 4;
    const RELEASE: u8 = 7;
    const INFORM: u8 = 8;

    fn server() -> Server {
        Server {
            subnet: Subnet { address: US, prefix: 24 },
            gateway: None,
            dns: Vec::new(),
            lease: Duration::from_secs(86_400),
        }
    }

    fn binding() -> Binding {
        Binding { address: ITS, role: Role::numbered(1), root_path: "192.168.77.1:/clients/pi-1/root,vers=3".into() }
    }

    /// What a known client gets: the answer, how and where it goes, or why nothing.
    fn answer(packet: Packet) -> Result<(Answer, How, Ipv4Addr, u16), Decision> {
        match decide(&server(), Some(&binding()), &parse(&packet.bytes()).unwrap()) {
            Decision::Reply(Reply { answer, to, .. }) => Ok((answer, to.how, to.address, to.port)),
            other => Err(other),
        }
    }

    #[track_caller]
    fn check(packet: Packet, answer_: Answer, how: How, address: Ipv4Addr) {
        let port = if how == How::Relay { 67 } else { 68 };
        assert_eq!(answer(packet), Ok((answer_, how, address, port)));
    }

    #[track_caller]
    fn check_silent(packet: Packet, silence: Silence) {
        assert_eq!(answer(packet), Err(Decision::Silent(silence)));
    }

    fn packet(kind: u8) -> Packet {
        Packet::new(kind, packets::PI4)
    }

    #[test]
    fn discover_gets_an_offer_of_the_bound_address() {
        check(packet(DISCOVER), Answer::Offer, How::Unicast, ITS);
        check(packet(DISCOVER).address(50, WRONG), Answer::Offer, How::Unicast, ITS);
    }

    #[test]
    fn the_broadcast_flag_is_obeyed() {
        check(packet(DISCOVER).broadcast(), Answer::Offer, How::Broadcast, Ipv4Addr::BROADCAST);
        let request = packet(REQUEST).broadcast().address(54, US).address(50, ITS);
        check(request, Answer::Ack, How::Broadcast, Ipv4Addr::BROADCAST);
    }

    #[test]
    fn a_discover_with_ciaddr_does_not_lead_the_offer_elsewhere() {
        check(packet(DISCOVER).ciaddr(WRONG), Answer::Offer, How::Unicast, ITS);
    }

    #[test]
    fn selecting_is_acknowledged_or_refused() {
        check(packet(REQUEST).address(54, US).address(50, ITS), Answer::Ack, How::Unicast, ITS);
        check(packet(REQUEST).address(54, US).ciaddr(ITS), Answer::Ack, How::Ciaddr, ITS);
        check(packet(REQUEST).address(54, US).address(50, WRONG), Answer::Nak, How::Broadcast, Ipv4Addr::BROADCAST);
    }

    #[test]
    fn request_for_another_server_is_ignored() {
        let other = Silence::OtherServer(OTHER_SERVER);
        check_silent(packet(REQUEST).address(54, OTHER_SERVER).address(50, ITS), other);
        check_silent(packet(RELEASE).address(54, OTHER_SERVER).ciaddr(ITS), other);
        check_silent(packet(DECLINE).address(54, OTHER_SERVER).address(50, ITS), other);
    }

    #[test]
    fn init_reboot_is_acknowledged_or_refused() {
        check(packet(REQUEST).address(50, ITS), Answer::Ack, How::Unicast, ITS);
        check(packet(REQUEST).address(50, WRONG), Answer::Nak, How::Broadcast, Ipv4Addr::BROADCAST);
        let elsewhere = Ipv4Addr::new(10, 0, 0, 7);
        check(packet(REQUEST).address(50, elsewhere), Answer::Nak, How::Broadcast, Ipv4Addr::BROADCAST);
    }

    #[test]
    fn renewing_and_rebinding_are_acknowledged_at_ciaddr_or_refused() {
        check(packet(REQUEST).ciaddr(ITS), Answer::Ack, How::Ciaddr, ITS);
        check(packet(REQUEST).ciaddr(ITS).broadcast(), Answer::Ack, How::Ciaddr, ITS);
        check(packet(REQUEST).ciaddr(WRONG), Answer::Nak, How::Broadcast, Ipv4Addr::BROADCAST);
    }

    #[test]
    fn a_request_for_no_address_is_ignored() {
        check_silent(packet(REQUEST), Silence::NoState);
        check_silent(packet(REQUEST).address(54, US), Silence::NoState);
    }

    #[test]
    fn a_relay_on_our_wire_gets_the_reply_and_another_does_not() {
        let relay = Ipv4Addr::new(192, 168, 77, 3);
        check(packet(DISCOVER).giaddr(relay), Answer::Offer, How::Relay, relay);
        check(packet(REQUEST).giaddr(relay).address(50, WRONG), Answer::Nak, How::Relay, relay);
        let foreign = Ipv4Addr::new(10, 0, 0, 1);
        check_silent(packet(DISCOVER).giaddr(foreign), Silence::OtherSubnet(foreign));
    }

    #[test]
    fn decline_and_release_count_for_its_own_address_only() {
        let declined = Decision::Declined { address: ITS };
        assert_eq!(answer(packet(DECLINE).address(54, US).address(50, ITS)), Err(declined.clone()));
        assert_eq!(answer(packet(DECLINE).address(50, ITS)), Err(declined));
        check_silent(packet(DECLINE).address(50, WRONG), Silence::NotItsAddress(WRONG));
        check_silent(packet(DECLINE), Silence::NoState);
        assert_eq!(answer(packet(RELEASE).address(54, US).ciaddr(ITS)), Err(Decision::Released { address: ITS }));
        check_silent(packet(RELEASE).ciaddr(WRONG), Silence::NotItsAddress(WRONG));
    }

    #[test]
    fn inform_of_a_known_client_is_answered_at_its_own_address() {
        check(packet(INFORM).ciaddr(WRONG), Answer::Inform, How::Ciaddr, WRONG);
        check_silent(packet(INFORM), Silence::NotItsAddress(Ipv4Addr::UNSPECIFIED));
        let elsewhere = Ipv4Addr::new(8, 8, 8, 8);
        check_silent(packet(INFORM).ciaddr(elsewhere), Silence::NotItsAddress(elsewhere));
    }

    #[test]
    fn a_stranger_gets_silence_whatever_it_asks() {
        for kind in [DISCOVER, REQUEST, DECLINE, RELEASE, INFORM] {
            for packet in [packet(kind), packet(kind).address(50, ITS).address(54, US), packet(kind).ciaddr(ITS)] {
                let request = parse(&packet.bytes()).unwrap();
                assert_eq!(decide(&server(), None, &request), Decision::Silent(Silence::UnknownClient));
            }
        }
    }

    #[test]
    fn the_rom_is_bound_by_its_offer_and_the_eeprom_by_its_ack() {
        let binds = |bytes: &[u8]| match decide(&server(), Some(&binding()), &parse(bytes).unwrap()) {
            Decision::Reply(reply) => reply.binds,
            other => panic!("{other:?}"),
        };
        assert!(binds(&packets::pi3_rom()));
        assert!(!binds(&packets::pi4_eeprom()));
        assert!(binds(&packets::pi4(REQUEST).address(54, US).address(50, ITS).bytes()));
        assert!(!binds(&packets::pi4(REQUEST).address(54, US).address(50, WRONG).bytes()));
    }

    proptest! {
        /// Any request of one client leads to a reply for that client, or to none.
        #[test]
        fn a_reply_never_goes_to_another_station(
            kind in 1_u8..9,
            address in any::<[u8; 4]>(),
            fields in proptest::collection::vec((12_usize..28, any::<u8>()), 0..12),
            options in proptest::collection::vec((prop_oneof![Just(50_u8), Just(54), Just(57), any::<u8>()], proptest::collection::vec(any::<u8>(), 0..20)), 0..6),
        ) {
            let mut bytes = options.iter().fold(packet(kind), |packet, (code, value)| packet.option(*code, value))
                .address(50, address.into()).bytes();
            for (at, byte) in fields {
                bytes[at] = byte;
            }
            let Ok(request) = parse(&bytes) else { return Ok(()) };
            prop_assert_eq!(decide(&server(), None, &request), Decision::Silent(Silence::UnknownClient));
            if let Decision::Reply(reply) = decide(&server(), Some(&binding()), &request) {
                prop_assert!((300..=MAX_REPLY).contains(&reply.bytes.len()));
                prop_assert!(reply.to.address.is_broadcast() || server().subnet.has_host(reply.to.address));
                prop_assert_eq!(reply.to.mac, packets::PI4);
            }
        }
    }

    const MAX_REPLY: usize = super::super::message::MAX_BYTES;
}
