//! Which permanent neighbour entries stand.
//!
//! Pure: the worker tells the kernel what changed here.

use std::net::Ipv4Addr;

use crate::client::MacAddr;

/// The kernel's table holds 1,024 by default (`gc_thresh3`) for everybody on the
/// wire; ours take at most a quarter. Only clients that load need one.
pub const MAX_NEIGHBOURS: usize = 256;

/// Least recently set first.
#[derive(Debug, Default)]
pub(super) struct Neighbours(Vec<(Ipv4Addr, MacAddr)>);

impl Neighbours {
    /// Notes an entry as the newest; the one that had to give way, if any.
    pub(super) fn set(&mut self, address: Ipv4Addr, mac: MacAddr) -> Option<Ipv4Addr> {
        self.remove(address);
        let oldest = (self.0.len() == MAX_NEIGHBOURS).then(|| self.0.remove(0).0);
        self.0.push((address, mac));
        oldest
    }

    /// Whether there was one.
    pub(super) fn remove(&mut self, address: Ipv4Addr) -> bool {
        let before = self.0.len();
        self.0.retain(|&(known, _)| known != address);
        self.0.len() < before
    }

    pub(super) fn all(&self) -> Vec<(Ipv4Addr, MacAddr)> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_set_gives_way() {
        let address = |n: usize| Ipv4Addr::from(0x0a00_0000 + n as u32);
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let mut neighbours = Neighbours::default();
        for n in 0..MAX_NEIGHBOURS {
            assert_eq!(neighbours.set(address(n), mac), None);
        }
        assert_eq!(neighbours.set(address(0), mac), None, "set again, so the newest");
        assert_eq!(neighbours.set(address(MAX_NEIGHBOURS), mac), Some(address(1)));
        assert_eq!(neighbours.all().len(), MAX_NEIGHBOURS);
        assert!(neighbours.remove(address(0)) && !neighbours.remove(address(0)));
    }
}
