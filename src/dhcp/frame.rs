//! A UDP datagram as an IPv4 packet, for a client that has no address yet, and
//! back, for us when we have none.
//!
//! Pure (RFC 791, RFC 768). The Ethernet header is the kernel's part: the packet
//! socket adds it.

use std::net::SocketAddrV4;

const IP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const UDP: u8 = 17;

/// The packet; `None` if the payload is longer than an IPv4 packet can be.
pub(crate) fn udp_packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Option<Vec<u8>> {
    let total = u16::try_from(IP_BYTES + UDP_BYTES + payload.len()).ok()?;
    let udp_length = total - IP_BYTES as u16;
    let mut packet = Vec::with_capacity(usize::from(total));
    packet.extend_from_slice(&[0x45, 0]); // version 4, header of 5 words; best effort
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0x40, 0]); // identification 0 is fine with don't-fragment (RFC 6864 §4.1)
    packet.extend_from_slice(&[64, UDP, 0, 0]); // TTL; the checksum follows below
    packet.extend_from_slice(&from.ip().octets());
    packet.extend_from_slice(&to.ip().octets());
    let header_sum = fold(sum(&packet));
    packet[10..12].copy_from_slice(&(!header_sum).to_be_bytes());

    packet.extend_from_slice(&from.port().to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    packet.extend_from_slice(&udp_length.to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    // The pseudo header: both addresses, the protocol and the length.
    let pseudo = sum(&packet[12..20]) + u32::from(UDP) + u32::from(udp_length);
    let checksum = !fold(pseudo + sum(&packet[IP_BYTES..]));
    // Zero would say that there is none.
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    Some(packet)
}

/// The sender and the payload of a whole UDP datagram to this port. Its checksum
/// is not looked at: a virtual wire hands datagrams over before it is filled in.
pub(crate) fn udp_payload(packet: &[u8], port: u16) -> Option<(SocketAddrV4, &[u8])> {
    let number = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let header = usize::from(packet.first()? & 0xf) * 4;
    let fragment = number(6)? & 0x3fff != 0;
    if packet[0] >> 4 != 4 || header < IP_BYTES || fragment || *packet.get(9)? != UDP || number(header + 2)? != port {
        return None;
    }
    let source = packet.get(12..16)?;
    let from = SocketAddrV4::new([source[0], source[1], source[2], source[3]].into(), number(header)?);
    let end = header + usize::from(number(header + 4)?);
    Some((from, packet.get(header + UDP_BYTES..end)?))
}

/// The sum of the 16-bit words, an odd last byte padded (RFC 1071). At most
/// 32,768 words, so 32 bits hold it.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let from = SocketAddrV4::new(Ipv4Addr::new(192, 168, 77, 1), 67);
        udp_packet(from, SocketAddrV4::new(Ipv4Addr::new(192, 168, 77, 10), 68), payload).unwrap()
    }

    #[test]
    fn the_headers_are_these_bytes() {
        // The checksums were worked out by a script that shares nothing with this file.
        let expected: &[u8] = &[
            0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0x1f, 0x72, 192, 168, 77, 1, 192, 168, 77, 10, // IPv4
            0, 67, 0, 68, 0, 11, 0x1f, 0x92, b'a', b'b', b'c', // UDP
        ];
        assert_eq!(packet(b"abc"), expected);
    }

    #[test]
    fn sums_over_a_packet_verify() {
        for payload in [&[][..], &[1], &[0xff; 300], &[0; 548], b"odd"] {
            let packet = packet(payload);
            assert_eq!(fold(sum(&packet[..20])), 0xffff, "header");
            let pseudo = sum(&packet[12..20]) + 17 + (packet.len() as u32 - 20);
            assert_eq!(fold(pseudo + sum(&packet[20..])), 0xffff, "datagram");
        }
    }

    #[test]
    fn a_packet_gives_its_payload_back_to_its_port_alone() {
        let from = SocketAddrV4::new(Ipv4Addr::new(192, 168, 77, 1), 67);
        let whole = packet(b"abc");
        assert_eq!(udp_payload(&whole, 68), Some((from, &b"abc"[..])));
        let padded = [&whole[..], &[0; 15]].concat();
        assert_eq!(udp_payload(&padded, 68), Some((from, &b"abc"[..])), "as Ethernet pads it");
        assert_eq!(udp_payload(&whole, 69), None);
        for length in 0..whole.len() {
            assert_eq!(udp_payload(&whole[..length], 68), None, "{length} bytes");
        }
        for (at, byte) in [(0, 0x65), (0, 0x44), (6, 0x20), (7, 1), (9, 6), (25, 7)] {
            let mut bad = whole.clone();
            bad[at] = byte;
            assert_eq!(udp_payload(&bad, 68), None, "byte {at}");
        }
    }

    #[test]
    fn a_payload_longer_than_ip_allows_is_refused() {
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        assert!(udp_packet(any, any, &vec![0; 65_507]).is_some());
        assert_eq!(udp_packet(any, any, &vec![0; 65_508]), None);
    }
}
