//! Bridge protocol data units: whether the port at the other end of our cable
//! runs spanning tree, and how long it keeps a new link waiting.
//!
//! Pure. STP, RSTP and MSTP (IEEE 802.1D-2004 §9.3, 802.1Q §14) in LLC frames,
//! and Cisco's PVST+, which wraps the same in SNAP. The input begins behind the
//! Ethernet header, which has been told apart by its destination.

use std::time::Duration;

/// Where BPDUs go: 802.1D's bridge group, and Cisco's PVST+.
pub(super) const GROUPS: [[u8; 6]; 2] = [[0x01, 0x80, 0xc2, 0, 0, 0], [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcd]];

const LLC_BPDU: [u8; 3] = [0x42, 0x42, 3];
const SNAP_PVST: [u8; 8] = [0xaa, 0xaa, 3, 0, 0, 0x0c, 0x01, 0x0b];
/// The fields that all versions share, protocol identifier to forward delay.
const CONFIGURATION_BYTES: usize = 35;
const TOPOLOGY_CHANGE: u8 = 0x80;

/// What a BPDU tells. A topology change notification tells no times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bpdu {
    /// A new port listens for this long, then learns for as long again.
    /// `None` when it is not told or none that 802.1D allows (4 to 30 s).
    pub(super) forward_delay: Option<Duration>,
}

impl Bpdu {
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let body = frame.strip_prefix(&LLC_BPDU).or_else(|| frame.strip_prefix(&SNAP_PVST))?;
        let (&[0, 0, version, kind], _) = body.split_first_chunk::<4>()? else { return None };
        match kind {
            TOPOLOGY_CHANGE => Some(Self { forward_delay: None }),
            // Configuration; RST and MST.
            0 | 2 if version <= 4 => {
                let body = body.get(..CONFIGURATION_BYTES)?;
                // In 1/256 s.
                let ticks = u16::from_be_bytes([body[33], body[34]]);
                let delay = Duration::from_millis(u64::from(ticks) * 1000 / 256);
                let told = (Duration::from_secs(4)..=Duration::from_secs(30)).contains(&delay);
                Some(Self { forward_delay: told.then_some(delay) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A BPDU body of this version and type with a forward delay in 1/256 s.
    fn body(version: u8, kind: u8, ticks: u16) -> Vec<u8> {
        let mut body = vec![0, 0, version, kind, 0x3c];
        body.extend_from_slice(&[0x80, 0, 0, 0x1b, 0x54, 1, 2, 3, 0, 0, 0, 4]); // root, cost
        body.extend_from_slice(&[0x80, 0, 0, 0x1b, 0x54, 1, 2, 4, 0x80, 1]); // bridge, port
        body.extend_from_slice(&[0, 0, 20, 0, 2, 0]); // message age, maximum age, hello time
        body.extend_from_slice(&ticks.to_be_bytes());
        body
    }

    #[track_caller]
    fn check(frame: &[u8], seconds: Option<u64>) {
        let delay = Bpdu::parse(frame).expect("a BPDU").forward_delay;
        assert_eq!(delay, seconds.map(Duration::from_secs));
    }

    #[test]
    fn every_kind_of_spanning_tree_tells_its_forward_delay() {
        let llc = |body: Vec<u8>| [&LLC_BPDU[..], &body, &[0; 8]].concat();
        check(&llc(body(0, 0, 15 << 8)), Some(15));
        check(&llc(body(2, 2, 4 << 8)), Some(4));
        check(&llc(body(3, 2, 20 << 8)), Some(20));
        check(&[&SNAP_PVST[..], &body(0, 0, 15 << 8), &[0, 0, 0, 2, 0, 1]].concat(), Some(15));
        check(&llc(vec![0, 0, 0, TOPOLOGY_CHANGE]), None);
    }

    #[test]
    fn a_delay_that_the_standard_forbids_is_not_believed() {
        for ticks in [0, 1 << 8, 31 << 8, u16::MAX] {
            check(&[&LLC_BPDU[..], &body(0, 0, ticks)].concat(), None);
        }
    }

    #[test]
    fn other_frames_and_cut_ones_are_left_alone() {
        let whole = [&LLC_BPDU[..], &body(0, 0, 15 << 8)].concat();
        for length in 0..whole.len() {
            assert_eq!(Bpdu::parse(&whole[..length]), None, "{length} bytes");
        }
        for (at, byte) in [(0, 0xe0), (2, 0), (3, 1), (4, 1), (5, 9), (6, 1)] {
            let mut other = whole.clone();
            other[at] = byte;
            assert_eq!(Bpdu::parse(&other), None, "byte {at}");
        }
        // Cisco's CDP goes to a neighbouring group by SNAP.
        assert_eq!(Bpdu::parse(&[&[0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0][..], &[2; 40]].concat()), None);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = Bpdu::parse(&bytes);
        }
    }
}
