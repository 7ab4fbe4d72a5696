//! How each loader gets its address: `reference/pi-netboot.md` §2.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::message::{self, ACK, CLASS, DISCOVER, NAK, OFFER, REQUEST, Reply};
use super::session::{Outcome, Session};
use super::wire::BROADCAST;

/// What 2B/3B ROMs send on every board.
pub const ROM_XID: u32 = 0x26f3_0339;

/// Option 55 of the 2B/3B ROM, and that of every later loader.
pub const ROM_PARAMETERS: [u8; 12] = [43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66];
pub const PARAMETERS: [u8; 14] = [1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135];

/// What a loader is like, as far as DHCP sees it.
#[derive(Debug, Clone)]
pub struct Manner {
    /// For the log.
    pub name: &'static str,
    pub xid: u32,
    pub parameters: Vec<u8>,
    /// Option 97 with its type byte.
    pub guid: Vec<u8>,
    /// Sends REQUEST and waits for ACK; else the offered address is used at once.
    pub requests: bool,
    /// Wants option 43's text with three trailing spaces, and option 60, and
    /// does not look at option 66.
    pub rom: bool,
    /// Drops replies with pad bytes before the end.
    pub drops_padding: bool,
    /// DISCOVERs before it gives up, and the pause between them.
    pub tries: u32,
    pub pause: Duration,
}

/// What DHCP gave.
#[derive(Debug, Clone)]
pub struct Lease {
    pub address: Ipv4Addr,
    /// Where TFTP is.
    pub server: Ipv4Addr,
    pub netmask: Option<Ipv4Addr>,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Option<Ipv4Addr>,
    pub options: BTreeMap<u8, Vec<u8>>,
}

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// Gets an address and a boot server. The address is in use when this returns.
pub fn acquire(session: &mut Session, manner: &Manner) -> Outcome<Lease> {
    session.address = Ipv4Addr::UNSPECIFIED;
    let mut refused = Vec::new();
    for _ in 0..manner.tries {
        if session.expired() {
            break;
        }
        send(session, manner, DISCOVER, &[])?;
        let Some((lease, boot)) = collect_offers(session, manner, &mut refused)? else { continue };
        let (last, lease_server) = if manner.requests {
            let Some(server) = lease.option_address(54) else {
                refused.push("an OFFER without option 54".to_owned());
                continue;
            };
            match request(session, manner, lease.yiaddr, server)? {
                Some(ack) => (ack, server),
                None => continue,
            }
        } else {
            (lease.clone(), lease.option_address(54).unwrap_or(lease.siaddr))
        };
        session.address = last.yiaddr;
        let server = tftp_server(manner, &last, &boot).unwrap_or(lease_server);
        let (netmask, gateway, dns) = (last.option_address(1), last.option_address(3), last.option_address(6));
        return Ok(Lease { address: last.yiaddr, server, netmask, gateway, dns, options: last.options });
    }
    Err(match refused.last() {
        Some(_) => format!("{}: no acceptable OFFER: {}", manner.name, refused.join("; ")),
        None => format!("{}: no answer to DISCOVER", manner.name),
    })
}

/// Takes the first address that anybody offers, as a machine does that does not
/// boot from the network; only what it asks is a loader's.
#[allow(dead_code)] // for tests of the wire
pub fn take_any(session: &mut Session, manner: &Manner) -> Outcome<Ipv4Addr> {
    let mut refused = Vec::new();
    for _ in 0..manner.tries {
        send(session, manner, DISCOVER, &[])?;
        let until = session.within(manner.pause);
        while let Some(reply) = receive(session, manner, until, &mut refused)? {
            if let (OFFER, false, Some(server)) = (reply.kind, reply.yiaddr.is_unspecified(), reply.option_address(54))
                && let Some(ack) = request(session, manner, reply.yiaddr, server)?
            {
                return Ok(ack.yiaddr);
            }
        }
    }
    Err(format!("nobody leased an address: {refused:?}"))
}

/// Option 66 before the server of the matching offer; siaddr is not looked at.
fn tftp_server(manner: &Manner, last: &Reply, boot: &Reply) -> Option<Ipv4Addr> {
    let named = |reply: &Reply| std::str::from_utf8(reply.options.get(&66)?).ok()?.parse().ok();
    let named = if manner.rom { None } else { named(last).or_else(|| named(boot)) };
    named.or_else(|| boot.option_address(54))
}

fn send(session: &mut Session, manner: &Manner, kind: u8, extra: &[(u8, Vec<u8>)]) -> Outcome<()> {
    let mut options = vec![(53, vec![kind])];
    options.extend_from_slice(extra);
    options.push((55, manner.parameters.clone()));
    // A Pi 4 was seen to leave it out of REQUEST (raspberrypi/rpi-eeprom#82).
    if kind == DISCOVER {
        options.push((60, CLASS.to_vec()));
    }
    options.push((93, vec![0, 0]));
    options.push((94, vec![1, 2, 1]));
    options.push((97, manner.guid.clone()));
    let datagram = message::write(manner.xid, session.nic.mac, &options);
    session.log(format!("{} {}", manner.name, if kind == DISCOVER { "DISCOVER" } else { "REQUEST" }));
    session.send_udp(BROADCAST, CLIENT_PORT, SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT), &datagram)
}

/// An offer with an address and one with the boot item, often the same. With
/// two servers (a router and a proxy) both are waited for.
fn collect_offers(
    session: &mut Session,
    manner: &Manner,
    refused: &mut Vec<String>,
) -> Outcome<Option<(Reply, Reply)>> {
    let until = session.within(manner.pause);
    let (mut lease, mut boot): (Option<Reply>, Option<Reply>) = (None, None);
    while let Some(reply) = receive(session, manner, until, refused)? {
        if reply.kind != OFFER {
            continue;
        }
        session.log(format!("OFFER {} from {:?}", reply.yiaddr, reply.option_address(54)));
        match boot_item(manner, &reply) {
            Ok(()) => boot = boot.or(Some(reply.clone())),
            Err(reason) => refused.push(reason),
        }
        if !reply.yiaddr.is_unspecified() {
            lease = lease.or(Some(reply));
        }
        if let (Some(lease), Some(boot)) = (&lease, &boot) {
            return Ok(Some((lease.clone(), boot.clone())));
        }
    }
    Ok(None)
}

/// Whether an offer is for a Raspberry Pi that boots.
fn boot_item(manner: &Manner, offer: &Reply) -> Result<(), String> {
    let menu = offer.options.get(&43);
    if manner.rom {
        let item = menu.is_some_and(|menu| message::offers(menu, "Raspberry Pi Boot   ", true));
        let class = offer.options.get(&60).is_some_and(|class| class.starts_with(b"PXEClient"));
        return match (item, class) {
            (true, true) => Ok(()),
            (false, _) => Err("no option 43 with \"Raspberry Pi Boot\" and three spaces".to_owned()),
            (_, false) => Err("no option 60 \"PXEClient\"".to_owned()),
        };
    }
    let item = menu.is_some_and(|menu| message::offers(menu, "Raspberry Pi Boot", false));
    match offer.options.get(&66) {
        // Firmware of 2019-12 misread it, later ones suspected it: no NUL, no padding.
        Some(name) if std::str::from_utf8(name).ok().and_then(|name| name.parse::<Ipv4Addr>().ok()).is_none() => {
            Err(format!("option 66 is no bare address: {}", name.escape_ascii()))
        }
        Some(_) => Ok(()),
        None if item => Ok(()),
        None => Err("neither option 43 with \"Raspberry Pi Boot\" nor option 66".to_owned()),
    }
}

fn request(session: &mut Session, manner: &Manner, address: Ipv4Addr, server: Ipv4Addr) -> Outcome<Option<Reply>> {
    let mut refused = Vec::new();
    for _ in 0..3 {
        send(session, manner, REQUEST, &[(50, address.octets().to_vec()), (54, server.octets().to_vec())])?;
        let until = session.within(manner.pause);
        while let Some(reply) = receive(session, manner, until, &mut refused)? {
            match reply.kind {
                ACK if reply.yiaddr == address => {
                    session.log(format!("ACK {address}"));
                    return Ok(Some(reply));
                }
                ACK => return Err(format!("asked for {address}, got {}", reply.yiaddr)),
                NAK => {
                    session.log("NAK");
                    return Ok(None);
                }
                _ => {}
            }
        }
    }
    Err(format!("{}: no ACK for {address}: {}", manner.name, refused.join("; ")))
}

/// The next message that is meant for us and that this loader can read.
fn receive(
    session: &mut Session,
    manner: &Manner,
    until: std::time::Instant,
    refused: &mut Vec<String>,
) -> Outcome<Option<Reply>> {
    while let Some((from, _, datagram)) = session.receive_udp(CLIENT_PORT, until)? {
        if from.port() != SERVER_PORT {
            continue;
        }
        match message::read(&datagram) {
            Ok(reply) if reply.xid != manner.xid || reply.chaddr != session.nic.mac => {}
            Ok(reply) if reply.padded && manner.drops_padding => {
                refused.push("a pad option before the end, which old EEPROMs drop".to_owned());
            }
            Ok(reply) => return Ok(Some(reply)),
            Err(reason) => refused.push(reason),
        }
    }
    Ok(None)
}
