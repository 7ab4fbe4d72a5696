//! ARP packets for IPv4 over Ethernet (RFC 826), and what they say of an
//! address (RFC 5227).
//!
//! Pure. 28 bytes, without the Ethernet header.

use std::net::Ipv4Addr;

use crate::client::MacAddr;

pub(super) const BYTES: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// A request or a reply: for conflicts it makes no difference which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arp {
    pub(super) sender_mac: MacAddr,
    /// 0.0.0.0 in a probe.
    pub(super) sender: Ipv4Addr,
    pub(super) target: Ipv4Addr,
}

impl Arp {
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        // Ethernet pads to 46 bytes, so there may be more behind.
        let packet: &[u8; BYTES] = packet.get(..BYTES)?.try_into().ok()?;
        let known = packet.starts_with(&ETHERNET_IPV4) && [REQUEST, REPLY].iter().any(|op| packet[6..8] == *op);
        let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        let mac = MacAddr([packet[8], packet[9], packet[10], packet[11], packet[12], packet[13]]);
        known.then(|| Self { sender_mac: mac, sender: address(14), target: address(24) })
    }

    /// Whether the sender says that it has `address`.
    pub(super) fn uses(&self, address: Ipv4Addr) -> bool {
        self.sender == address
    }

    /// Whether the sender probes for `address`, as somebody about to use it
    /// does (RFC 5227 §2.1.1).
    pub(super) fn probes(&self, address: Ipv4Addr) -> bool {
        self.sender.is_unspecified() && self.target == address
    }
}

/// "Who has `address`?", from nobody, so that it changes no table (RFC 5227 §1.1).
pub(super) fn probe(mac: MacAddr, address: Ipv4Addr) -> [u8; BYTES] {
    request(mac, Ipv4Addr::UNSPECIFIED, address)
}

/// "`address` is at `mac`", for the tables of all who listen (RFC 5227 §2.3).
pub(super) fn announcement(mac: MacAddr, address: Ipv4Addr) -> [u8; BYTES] {
    request(mac, address, address)
}

fn request(mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; BYTES] {
    let mut packet = [0; BYTES];
    packet[..6].copy_from_slice(&ETHERNET_IPV4);
    packet[6..8].copy_from_slice(&REQUEST);
    packet[8..14].copy_from_slice(&mac.0);
    packet[14..18].copy_from_slice(&sender.octets());
    packet[24..28].copy_from_slice(&target.octets());
    packet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);

    #[test]
    fn a_probe_claims_nothing_and_an_announcement_does() {
        let probe = Arp::parse(&probe(MAC, ADDRESS)).unwrap();
        assert!(probe.probes(ADDRESS) && !probe.uses(ADDRESS));
        let announcement = Arp::parse(&announcement(MAC, ADDRESS)).unwrap();
        assert!(announcement.uses(ADDRESS) && !announcement.probes(ADDRESS));
        assert_eq!(announcement.sender_mac, MAC);
    }

    #[test]
    fn a_probe_is_these_bytes() {
        let expected = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 168, 77, 1];
        assert_eq!(probe(MAC, ADDRESS), expected);
    }

    #[test]
    fn what_is_no_arp_for_ipv4_is_left_alone() {
        let good = announcement(MAC, ADDRESS);
        assert_eq!(Arp::parse(&good[..BYTES - 1]), None);
        assert!(Arp::parse(&[&good[..], &[0; 18]].concat()).is_some(), "padded by Ethernet");
        for at in [0, 2, 4, 5, 7] {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert_eq!(Arp::parse(&bad), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Arp::parse(&bytes);
        }
    }
}
