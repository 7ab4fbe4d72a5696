//! The room of the whole store, and the part of it that only the appliance may use. Pure but for its counters.

use super::NEAR;
use super::amount::{Amount, Counter};

/// The reserve without a setting: a part of the store between these two, but never more than `MOST_OF_STORE`.
/// An enrolment takes 0.3 MiB, a snapshot less.
const RESERVE_PART: u64 = 32;
const RESERVE_LEAST: u64 = 64 << 20;
const RESERVE_MOST: u64 = 512 << 20;
const MOST_OF_STORE: u64 = 8;
/// What clients with more than their equal part of the store leave to those with less: a part of it, at most so much.
/// Less than where people are told that the stick is nearly full (`store/worker/room.rs`).
const COMMONS_PART: u64 = 32;
const COMMONS_MOST: u64 = 512 << 20;
/// Inodes kept back: an enrolment makes some 40.
const RESERVE_FILES: u64 = 16 << 10;

/// What `statvfs` says of the store's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub total_files: u64,
    pub free_files: u64,
}

impl Figures {
    pub fn of(vfs: &rustix::fs::StatVfs) -> Self {
        Self {
            total_bytes: vfs.f_blocks.saturating_mul(vfs.f_frsize),
            free_bytes: vfs.f_bavail.saturating_mul(vfs.f_frsize),
            total_files: vfs.f_files,
            free_files: vfs.f_favail,
        }
    }
}

/// Bytes of a store that clients and imports leave free.
pub fn reserve_bytes(total: u64, wanted: Option<u64>) -> u64 {
    let usual = (total / RESERVE_PART).clamp(RESERVE_LEAST, RESERVE_MOST);
    wanted.unwrap_or(usual).min(total / MOST_OF_STORE)
}

/// Why a change is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The client has its share.
    Quota,
    /// The stick is full, up to the reserve.
    Space,
}

/// The room of one store, shared by all accounts.
#[derive(Debug, Default)]
pub struct Space {
    wanted: Option<u64>,
    /// Above the reserve, when it was last told, less what was taken since.
    left: Counter,
    /// Claimed and not settled.
    pending: Counter,
    /// What each client has when all have the same.
    part: Counter,
    /// What is kept from those that have more. Nothing until `share` is called.
    commons: Counter,
}

impl Space {
    /// With a reserve of so many bytes, or the usual one. Nothing is left until it is told.
    pub fn new(wanted: Option<u64>) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Takes in what the file system says now.
    pub fn tell(&self, figures: &Figures) {
        self.left.set(self.above_reserve(figures));
    }

    /// What clients may still take, negative inside the reserve.
    fn above_reserve(&self, figures: &Figures) -> Amount {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let reserve = reserve_bytes(figures.total_bytes, self.wanted);
        // A file system without a count of inodes (btrfs) says 0 of 0.
        let files = match figures.total_files {
            0 => i64::MAX / 2,
            total => signed(figures.free_files) - signed(RESERVE_FILES.min(total / MOST_OF_STORE)),
        };
        Amount { bytes: signed(figures.free_bytes) - signed(reserve), files }
    }

    /// So many clients share the store: whoever has more than its part cannot take the last of it.
    pub fn share(&self, figures: &Figures, clients: usize) {
        let whole = self.above_reserve(&Figures {
            free_bytes: figures.total_bytes,
            free_files: figures.total_files,
            ..*figures
        });
        let count = i64::try_from(clients.max(1)).unwrap_or(i64::MAX);
        self.part.set(Amount { bytes: whole.bytes / count, files: whole.files / count });
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.commons.set(match clients {
            0 | 1 => Amount::default(),
            _ => Amount {
                bytes: signed((figures.total_bytes / COMMONS_PART).min(COMMONS_MOST)),
                files: signed((figures.total_files / COMMONS_PART).min(RESERVE_FILES)),
            },
        });
    }

    /// What is not for a client that would then have so much.
    fn kept_from(&self, used: Amount) -> Amount {
        let (part, commons) = (self.part.get(), self.commons.get());
        let kept = |used: i64, part: i64, commons: i64| if used > part { commons } else { 0 };
        Amount {
            bytes: kept(used.bytes, part.bytes, commons.bytes),
            files: kept(used.files, part.files, commons.files),
        }
    }

    /// Of what is above the reserve, what a client can have that has so much.
    pub(super) fn room(&self, figures: &Figures, used: Amount) -> Amount {
        let (left, part, commons) = (self.above_reserve(figures), self.part.get(), self.commons.get());
        let room = |left: i64, rest: i64, commons: i64| left.saturating_sub(commons).max(left.min(rest));
        let rest = part.less(used);
        Amount {
            bytes: room(left.bytes, rest.bytes, commons.bytes),
            files: room(left.files, rest.files, commons.files),
        }
    }

    /// Bytes of a file system of this size that clients do not get.
    pub fn reserve_bytes(&self, total: u64) -> u64 {
        reserve_bytes(total, self.wanted)
    }

    /// Bytes that clients may still take.
    pub fn left_bytes(&self, figures: &Figures) -> u64 {
        u64::try_from(self.above_reserve(figures).bytes).unwrap_or(0)
    }

    /// `used`: what the client would have then.
    pub(super) fn claim(&self, want: Amount, used: Amount, fresh: &dyn Fn() -> Option<Figures>) -> Result<(), Refusal> {
        let before = self.pending.add(want).less(want).and(self.kept_from(used));
        let enough = |slack| want.fits(self.left.get().less(before), slack);
        if enough(NEAR) {
            return Ok(());
        }
        if let Some(figures) = fresh() {
            self.tell(&figures);
        }
        if enough(Amount::default()) {
            return Ok(());
        }
        self.give_back(want);
        Err(Refusal::Space)
    }

    /// What a client that has so much could claim now.
    pub(super) fn unclaimed(&self, figures: &Figures, used: Amount) -> Amount {
        self.room(figures, used).less(self.pending.get())
    }

    /// A change came to so much.
    pub(super) fn took(&self, actual: Amount) {
        self.left.add(Amount::default().less(actual));
    }

    /// A claim is settled, or dropped.
    pub(super) fn give_back(&self, want: Amount) {
        self.pending.add(Amount::default().less(want));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_reserve_is_a_part_of_the_store_and_never_most_of_it() {
        let check = |total: u64, wanted, expected: u64| assert_eq!(reserve_bytes(total, wanted), expected);
        check(64 * MIB, None, 8 * MIB);
        check(1 << 30, None, 64 * MIB);
        check(8 << 30, None, 256 * MIB);
        check(1 << 40, None, 512 * MIB);
        check(1 << 40, Some(0), 0);
        check(1 << 30, Some(1 << 40), 128 * MIB);
    }
}
