//! The address of a new client, and the addresses that somebody else uses.
//!
//! Pure. The address follows from the MAC address alone where it can, so a
//! client has the same one again after its lease file was lost.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::client::MacAddr;
use crate::config::Subnet;

/// The addresses that new clients may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Our own address and the wire's prefix.
    pub subnet: Subnet,
    /// The range, both included.
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
    /// Never given out: gateway and name servers.
    pub reserved: Vec<Ipv4Addr>,
}

impl Pool {
    /// Whether an address may be a client's, unless it is taken.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
            && self.subnet.has_host(address)
            && address != self.subnet.address
            && !self.reserved.contains(&address)
    }
}

/// The first free address from the one that `mac` points to, upwards and round.
/// `taken` says of an address that it is bound or in conflict. `None` when the
/// pool is used up.
///
/// Ends after as many steps as addresses are taken or reserved, and one more.
pub fn allocate(pool: &Pool, mac: MacAddr, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    let first = u32::from(pool.first).max(u32::from(pool.subnet.network()) + 1);
    let last = u32::from(pool.last).min(u32::from(pool.subnet.broadcast()).saturating_sub(1));
    let size = last.checked_sub(first)?.checked_add(1)?;
    // The remainder is smaller than a u32, so nothing is cut off.
    let start = (hash(mac) % u64::from(size)) as u32;
    let round = (0..size).map(|step| first + ((u64::from(start) + u64::from(step)) % u64::from(size)) as u32);
    round.map(Ipv4Addr::from).find(|&address| pool.has(address) && !taken(address))
}

/// FNV-1a, 64 bits. Written out because the value decides addresses: it must
/// never change with a compiler or a library.
fn hash(mac: MacAddr) -> u64 {
    mac.0.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How long an address counts as somebody else's after it was found in use.
pub const CONFLICT_TIME: Duration = Duration::from_secs(3600);

/// Most marks that are kept: more stations than that in our pool is a wire that
/// a person must look at, and the oldest mark is the most likely to be stale.
pub const MAX_CONFLICTS: usize = 64;

/// Addresses that a DECLINE or a probe showed to be in use. Times are since the
/// server's start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conflicts(Vec<(Ipv4Addr, Duration)>);

impl Conflicts {
    /// Marks an address for [`CONFLICT_TIME`] from `now`.
    pub fn mark(&mut self, now: Duration, address: Ipv4Addr) {
        self.0.retain(|&(marked, until)| marked != address && until > now);
        if self.0.len() == MAX_CONFLICTS {
            self.0.remove(0);
        }
        self.0.push((address, now + CONFLICT_TIME));
    }

    /// A client was seen to work with this address.
    pub fn clear(&mut self, address: Ipv4Addr) {
        self.0.retain(|&(marked, _)| marked != address);
    }

    pub fn has(&self, now: Duration, address: Ipv4Addr) -> bool {
        self.0.iter().any(|&(marked, until)| marked == address && until > now)
    }

    /// Those in force at `now`, oldest first.
    pub fn all(&self, now: Duration) -> impl Iterator<Item = Ipv4Addr> {
        self.0.iter().filter(move |&&(_, until)| until > now).map(|&(address, _)| address)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, last)
    }

    fn pool(first: u8, last: u8, reserved: &[u8]) -> Pool {
        Pool {
            subnet: Subnet { address: address(1), prefix: 24 },
            first: address(first),
            last: address(last),
            reserved: reserved.iter().copied().map(address).collect(),
        }
    }

    const MAC: MacAddr = MacAddr([0xdc, 0xa6, 0x32, 0x01, 0x36, 0xc2]);

    #[test]
    fn a_client_gets_the_same_address_again() {
        let given = allocate(&pool(10, 209, &[]), MAC, |_| false);
        assert_eq!(given, Some(address(52)), "this value must never change");
        assert_eq!(allocate(&pool(10, 209, &[]), MAC, |taken| taken == address(53)), given);
    }

    #[test]
    fn a_taken_address_leads_to_the_next_one_and_round() {
        assert_eq!(allocate(&pool(10, 209, &[]), MAC, |taken| taken == address(52)), Some(address(53)));
        assert_eq!(allocate(&pool(10, 209, &[53]), MAC, |taken| taken == address(52)), Some(address(54)));
        assert_eq!(allocate(&pool(10, 209, &[]), MAC, |taken| taken >= address(52)), Some(address(10)));
    }

    #[test]
    fn every_address_is_given_once_and_then_none() {
        // The whole subnet as range: network, broadcast, our own and the reserved ones stay out.
        let pool = pool(0, 255, &[53, 254]);
        let mut given = BTreeSet::new();
        for board in 0..251_u32 {
            let mac = MacAddr([0xdc, 0xa6, 0x32, 0, (board >> 8) as u8, board as u8]);
            let address = allocate(&pool, mac, |taken| given.contains(&taken)).unwrap();
            assert!(given.insert(address));
        }
        assert_eq!(allocate(&pool, MAC, |taken| given.contains(&taken)), None);
        let never = [0, 1, 53, 254, 255].map(address);
        assert!(never.iter().all(|address| !given.contains(address)));
    }

    #[test]
    fn boards_with_numbers_in_a_row_seldom_meet() {
        let starts: BTreeSet<_> = (0..32)
            .filter_map(|n| allocate(&pool(10, 209, &[]), MacAddr([0xdc, 0xa6, 0x32, 1, 2, n]), |_| false))
            .collect();
        assert!(starts.len() >= 26, "{} of 32 are different", starts.len());
    }

    #[test]
    fn a_conflict_is_over_after_its_time_or_when_cleared() {
        let mut conflicts = Conflicts::default();
        let start = Duration::from_secs(5);
        conflicts.mark(start, address(10));
        assert!(conflicts.has(start + CONFLICT_TIME - Duration::from_secs(1), address(10)));
        assert!(!conflicts.has(start + CONFLICT_TIME, address(10)));
        assert!(!conflicts.has(start, address(11)));
        conflicts.clear(address(10));
        assert!(!conflicts.has(start, address(10)));
    }

    #[test]
    fn the_oldest_conflict_gives_way_when_there_are_too_many() {
        let mut conflicts = Conflicts::default();
        for n in 0..=MAX_CONFLICTS {
            conflicts.mark(Duration::from_secs(n as u64), address(n as u8));
            conflicts.mark(Duration::from_secs(n as u64), address(n as u8));
        }
        let now = Duration::from_secs(MAX_CONFLICTS as u64);
        assert_eq!(conflicts.all(now).count(), MAX_CONFLICTS);
        assert!(!conflicts.has(now, address(0)) && conflicts.has(now, address(1)));
    }

    proptest! {
        #[test]
        fn an_address_is_always_one_of_the_pool(
            own in any::<u32>(), prefix in 8_u8..=30, first in any::<u32>(), last in any::<u32>(), mac in any::<[u8; 6]>(),
        ) {
            let subnet = Subnet { address: own.into(), prefix };
            let pool = Pool { subnet, first: first.into(), last: last.into(), reserved: Vec::new() };
            if let Some(address) = allocate(&pool, MacAddr(mac), |_| false) {
                prop_assert!(pool.has(address));
            }
        }
    }
}
