//! How many requests reach control: a storm or a broken client must not fill
//! its queue.
//!
//! Pure; time is an argument, since the socket's opening.

use std::time::Duration;

use crate::client::MacAddr;

/// Requests that all clients together may send within one second. Two hundred
/// boards that get power at once send 200 DISCOVERs and 200 REQUESTs.
pub(super) const ALL_PER_SECOND: u32 = 500;

/// Requests of one client within one second. The liveliest loader sends two;
/// a busy loop of one must not shut the others out.
pub(super) const ONE_PER_SECOND: u8 = 8;

const SLOTS: usize = 256;

/// Counts in windows of one second.
#[derive(Debug)]
pub(super) struct Throttle {
    second: u64,
    all: u32,
    /// By a fold of the MAC address. Two clients in one slot share their count,
    /// which costs them nothing but in a storm.
    ones: [u8; SLOTS],
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self { second: 0, all: 0, ones: [0; SLOTS] }
    }

    pub(super) fn admit(&mut self, now: Duration, mac: MacAddr) -> bool {
        if self.second != now.as_secs() {
            *self = Self { second: now.as_secs(), ..Self::new() };
        }
        let slot = mac.0.iter().fold(0_u8, |fold, &byte| fold.wrapping_mul(31).wrapping_add(byte));
        let one = &mut self.ones[usize::from(slot)];
        if *one >= ONE_PER_SECOND || self.all >= ALL_PER_SECOND {
            return false;
        }
        *one += 1;
        self.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(throttle: &mut Throttle, now: Duration, macs: impl Iterator<Item = MacAddr>) -> usize {
        macs.filter(|&mac| throttle.admit(now, mac)).count()
    }

    #[test]
    fn one_loud_client_is_held_back_and_another_is_heard() {
        let mut throttle = Throttle::new();
        let loud = MacAddr([2, 0, 0, 0, 0, 1]);
        assert_eq!(admitted(&mut throttle, Duration::ZERO, [loud; 100].into_iter()), usize::from(ONE_PER_SECOND));
        assert!(throttle.admit(Duration::ZERO, MacAddr([2, 0, 0, 0, 0, 2])));
        assert!(throttle.admit(Duration::from_secs(1), loud), "the next second is a new one");
    }

    #[test]
    fn a_storm_of_many_is_bounded() {
        let mut throttle = Throttle::new();
        let storm = (0..10_000_u16).map(|n| MacAddr([2, 0, 0, 0, (n >> 8) as u8, n as u8]));
        assert_eq!(admitted(&mut throttle, Duration::from_secs(9), storm), ALL_PER_SECOND as usize);
    }

    #[test]
    fn two_hundred_boards_at_once_are_all_heard() {
        let mut throttle = Throttle::new();
        let boards = (0..200_u8).flat_map(|n| [MacAddr([0xdc, 0xa6, 0x32, 0, 0, n]); 2]);
        assert_eq!(admitted(&mut throttle, Duration::ZERO, boards), 400);
    }
}
