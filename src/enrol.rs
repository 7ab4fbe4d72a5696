//! The enrolment window: who may become a client, and when that ends.
//!
//! Pure. A press opens the window for one board; a held press opens it for a
//! batch, and every board enrolled then starts its time anew. Where a person has set
//! it so, it is never closed. Time is the
//! duration since the server's start.

use std::collections::BTreeSet;
use std::time::Duration;

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

use crate::client::{MacAddr, Role};
use crate::status::Enrolment;

/// Highest number tried for a role name: far above what one stick can serve.
const MAX_ROLE_NUMBER: u32 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Window {
    #[default]
    Closed,
    Open {
        until: Duration,
        /// Stays open after an enrolment.
        batch: bool,
    },
    /// By configuration.
    Always,
}

impl Window {
    pub fn open(now: Duration, length: Duration, batch: bool) -> Self {
        Self::Open { until: now + length, batch }
    }

    pub fn is_open(self, now: Duration) -> bool {
        match self {
            Self::Open { until, .. } => now < until,
            Self::Always => true,
            Self::Closed => false,
        }
    }

    /// A board was enrolled: a single window closes, a batch goes on.
    pub fn enrolled(self, now: Duration, length: Duration) -> Self {
        match self {
            Self::Open { batch: true, .. } => Self::open(now, length, true),
            Self::Open { batch: false, .. } | Self::Closed => Self::Closed,
            Self::Always => Self::Always,
        }
    }

    /// When it closes by itself.
    pub fn deadline(self) -> Option<Duration> {
        match self {
            Self::Open { until, .. } => Some(until),
            Self::Closed | Self::Always => None,
        }
    }

    /// What faces show of it; `enrolled` and `swap` are the caller's to know.
    pub fn status(self, now: Duration, enrolled: u32, swap: Option<Role>) -> Enrolment {
        match self {
            Self::Open { until, batch } if now < until => Enrolment::Open { left: until - now, batch, enrolled, swap },
            Self::Always => Enrolment::Always,
            Self::Open { .. } | Self::Closed => Enrolment::Closed,
        }
    }
}

/// The first free name of `pi-1`, `pi-2`, …; `None` when ten thousand are taken.
pub fn next_role<'r>(taken: impl Iterator<Item = &'r Role>) -> Option<Role> {
    let taken: BTreeSet<&Role> = taken.collect();
    (1..=MAX_ROLE_NUMBER).map(Role::numbered).find(|role| !taken.contains(role))
}

/// A number for a new client's file handles: 31 bits, because each tree of a
/// client takes one number of 32. It follows from board and role, so that a
/// removed client's number is hardly ever given to another.
pub fn export_id(mac: MacAddr, role: &Role, taken: impl Fn(u32) -> bool) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(&mac.0);
    hasher.write(role.as_str().as_bytes());
    let start = (hasher.finish() as u32) & 0x7fff_ffff;
    // Ends: a store holds far fewer clients than there are numbers.
    (0..0x8000_0000u32).map(|step| start.wrapping_add(step) & 0x7fff_ffff).find(|&id| !taken(id)).unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(120);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn one_press_enrols_one_board() {
        let window = Window::open(at(10), LENGTH, false);
        assert!(window.is_open(at(129)));
        assert_eq!(window.enrolled(at(20), LENGTH), Window::Closed);
    }

    #[test]
    fn a_held_press_takes_a_batch_and_each_board_renews_the_time() {
        let window = Window::open(at(10), LENGTH, true).enrolled(at(100), LENGTH);
        assert!(window.is_open(at(219)));
        assert!(!window.is_open(at(220)));
    }

    #[test]
    fn the_window_closes_by_itself() {
        let window = Window::open(at(10), LENGTH, false);
        let open = Enrolment::Open { left: at(119), batch: false, enrolled: 3, swap: None };
        assert_eq!(window.status(at(11), 3, None), open);
        assert_eq!(window.status(at(130), 3, None), Enrolment::Closed);
        assert_eq!(window.deadline(), Some(at(130)));
    }

    #[test]
    fn one_that_is_never_closed_has_no_time() {
        let window = Window::Always.enrolled(at(9), LENGTH);
        assert!(window.is_open(Duration::MAX));
        assert_eq!((window.deadline(), window.status(at(9), 0, None)), (None, Enrolment::Always));
    }

    #[test]
    fn names_fill_the_gaps() {
        let taken = [Role::numbered(1), Role::numbered(3)];
        assert_eq!(next_role(taken.iter()), Some(Role::numbered(2)));
    }

    #[test]
    fn export_ids_avoid_what_is_taken() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let first = export_id(mac, &Role::numbered(1), |_| false);
        assert_eq!(export_id(mac, &Role::numbered(1), |id| id == first), (first + 1) & 0x7fff_ffff);
        assert!(first < 0x8000_0000);
    }
}
