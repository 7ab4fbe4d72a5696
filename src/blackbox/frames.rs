//! Entries of the ring as whole Ethernet frames: the headers that our sockets
//! did not show are rebuilt from what they know.
//!
//! Pure (RFC 791, 768, 9293). Checksums of rebuilt headers are right for IP and
//! left out for UDP and TCP, whose payload may be cut.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::record::{OURS, Seen};
use crate::client::MacAddr;

/// We, or a station whose MAC address is not known.
const UNKNOWN: MacAddr = OURS;
const BROADCAST: MacAddr = MacAddr([255; 6]);
const IPV4: u16 = 0x0800;
/// Connections whose position is followed.
const MAX_CONNECTIONS: usize = 256;
/// RFC 5531 §11: every record over TCP begins with its length; the highest bit marks the last fragment.
const LAST_FRAGMENT: u32 = 1 << 31;

/// Who is behind an address, as the entries tell it in their order.
#[derive(Debug, Default)]
pub struct Wire {
    stations: HashMap<Ipv4Addr, MacAddr>,
    /// Role and stage of the clients.
    clients: HashMap<MacAddr, (String, String)>,
    sequences: HashMap<(SocketAddrV4, SocketAddrV4), u32>,
}

/// A packet, how long it was, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub bytes: Vec<u8>,
    pub length: usize,
    pub comment: String,
}

impl Wire {
    /// Takes an entry in; a packet becomes a frame.
    pub fn frame(&mut self, seen: &Seen) -> Option<Frame> {
        match seen {
            Seen::Stage { mac, address, role, stage } => {
                self.stations.insert(*address, *mac);
                self.clients.insert(*mac, (role.clone(), stage.clone()));
                None
            }
            Seen::Frame { from, to, ethertype, bytes } => {
                let header = [&to.0[..], &from.0, &ethertype.to_be_bytes()].concat();
                let length = header.len() + bytes.len();
                let whose = if self.clients.contains_key(to) { *to } else { *from };
                Some(Frame { bytes: [header, bytes.clone()].concat(), length, comment: self.comment(whose) })
            }
            Seen::Datagram { tcp, from, to, length, bytes } => Some(self.datagram(*tcp, *from, *to, *length, bytes)),
            Seen::Segment(_) | Seen::Log(_) | Seen::End => None,
        }
    }

    fn datagram(&mut self, tcp: bool, from: SocketAddrV4, to: SocketAddrV4, length: u32, bytes: &[u8]) -> Frame {
        let chaddr = (!tcp && from.port() == 68).then(|| bytes.get(28..34)).flatten();
        let chaddr = chaddr.and_then(|mac| mac.try_into().ok()).map(MacAddr);
        let source = chaddr.or_else(|| self.stations.get(from.ip()).copied()).unwrap_or(UNKNOWN);
        let target = match to.ip().is_broadcast() {
            true => BROADCAST,
            false => self.stations.get(to.ip()).copied().unwrap_or(UNKNOWN),
        };
        let (protocol, mut packet, length) = if tcp {
            let mark = (LAST_FRAGMENT | length).to_be_bytes();
            let length = length.saturating_add(4);
            if self.sequences.len() >= MAX_CONNECTIONS {
                self.sequences.clear();
            }
            let sequence = self.sequences.entry((from, to)).or_insert(1);
            let mut header = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            header.extend(sequence.to_be_bytes());
            // No acknowledgement; five words; PSH; a window, no checksum, nothing urgent.
            header.extend([0, 0, 0, 0, 0x50, 0x08, 0xff, 0xff, 0, 0, 0, 0]);
            *sequence = sequence.wrapping_add(length);
            (6, [&header[..], &mark, bytes].concat(), length as usize + header.len())
        } else {
            let all = length.saturating_add(8);
            let mut header = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            header.extend(u16::try_from(all).unwrap_or(u16::MAX).to_be_bytes());
            header.extend([0, 0]);
            (17, [&header[..], bytes].concat(), all as usize)
        };
        let mut frame = [&target.0[..], &source.0, &IPV4.to_be_bytes()].concat();
        frame.extend(ip_header(protocol, *from.ip(), *to.ip(), length));
        let length = frame.len() + length;
        frame.append(&mut packet);
        let whose = if self.clients.contains_key(&target) { target } else { source };
        Frame { bytes: frame, length, comment: self.comment(whose) }
    }

    fn comment(&self, mac: MacAddr) -> String {
        match self.clients.get(&mac) {
            Some((role, stage)) => format!("client {role}, {stage}"),
            None if mac == UNKNOWN => String::new(),
            None => format!("no client, {mac}"),
        }
    }
}

fn ip_header(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: usize) -> Vec<u8> {
    let total = u16::try_from(payload + 20).unwrap_or(u16::MAX);
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let words = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const PI: MacAddr = MacAddr([0xdc, 0xa6, 0x32, 1, 2, 3]);

    fn datagram(tcp: bool, from: &str, to: &str, bytes: &[u8]) -> Seen {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Seen::Datagram { tcp, from, to, length: bytes.len() as u32, bytes: bytes.to_vec() }
    }

    fn stage() -> Seen {
        let (role, stage) = ("pi-1".to_owned(), "loading".to_owned());
        Seen::Stage { mac: PI, address: Ipv4Addr::new(10, 0, 0, 9), role, stage }
    }

    #[test]
    fn a_clients_packets_carry_its_mac_its_name_and_its_stage() {
        let mut wire = Wire::default();
        let before = wire.frame(&datagram(false, "10.0.0.9:49152", "10.0.0.1:69", b"\0\x01a\0octet\0")).unwrap();
        assert_eq!((before.bytes[6..12].to_vec(), before.comment.as_str()), (UNKNOWN.0.to_vec(), ""));
        assert_eq!(wire.frame(&stage()), None);
        let asks = wire.frame(&datagram(false, "10.0.0.9:49152", "10.0.0.1:69", b"\0\x01a\0octet\0")).unwrap();
        assert_eq!((asks.bytes[6..12].to_vec(), asks.comment.as_str()), (PI.0.to_vec(), "client pi-1, loading"));
        let answer = wire.frame(&datagram(false, "10.0.0.1:40000", "10.0.0.9:49152", b"\0\x06")).unwrap();
        assert_eq!((answer.bytes[..6].to_vec(), answer.comment.as_str()), (PI.0.to_vec(), "client pi-1, loading"));
        assert_eq!(answer.length, 14 + 20 + 8 + 2);
    }

    #[test]
    fn a_discover_is_known_by_its_hardware_address() {
        let packet = crate::dhcp::packets::pi4_eeprom();
        let frame = Wire::default().frame(&datagram(false, "0.0.0.0:68", "255.255.255.255:67", &packet)).unwrap();
        assert_eq!(frame.bytes[..6], [255; 6]);
        assert_eq!(frame.bytes[6..12], crate::dhcp::packets::PI4.0);
        assert_eq!(frame.comment, "no client, dc:a6:32:01:36:c2");
    }

    #[test]
    fn records_over_tcp_follow_each_other() {
        let mut wire = Wire::default();
        let mut call = |length: usize| wire.frame(&datagram(true, "10.0.0.9:700", "10.0.0.1:2049", &vec![0; length]));
        let sequence = |frame: &Frame| u32::from_be_bytes(frame.bytes[38..42].try_into().unwrap());
        let (first, second) = (call(40).unwrap(), call(60).unwrap());
        assert_eq!((sequence(&first), sequence(&second)), (1, 45));
        assert_eq!(first.bytes[54..58], [0x80, 0, 0, 40]);
    }

    #[test]
    fn the_sum_over_an_ip_header_verifies() {
        for length in [0, 1, 1480, 70_000] {
            let header = ip_header(17, Ipv4Addr::new(192, 168, 77, 1), Ipv4Addr::BROADCAST, length);
            let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        }
    }
}
