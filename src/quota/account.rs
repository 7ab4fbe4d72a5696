//! What one client occupies and may occupy, and what it claims before each change. Pure but for its counters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::NEAR;
use super::amount::{Amount, Counter};
use super::space::{Figures, Refusal, Space};

/// One file for so many bytes of a quota. ext4 makes one inode for 16 KiB, and an operating system's files have 20 KiB
/// each, so that those who fill their share with such files take their share of the inodes.
const BYTES_PER_FILE: u64 = 8 << 10;
const NO_LIMIT: u64 = u64::MAX;

/// How closely a claim looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Refuses already near the limit: whoever gets that asks again with an exact figure, one at a time.
    Loose,
    Exact,
}

/// What one client occupies and may occupy. Two are equal when they are one.
pub struct Account {
    space: Arc<Space>,
    quota: AtomicU64,
    used: Counter,
    /// All that came in, for the measurement to know what it missed.
    grown: Counter,
    /// What came or went uncounted, perhaps, in bytes, since it was last measured.
    doubt: AtomicU64,
    measured: std::sync::atomic::AtomicBool,
    order: Mutex<()>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({} of {:?} bytes)", self.used_bytes(), self.quota())
    }
}

impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Account {}

impl Account {
    pub fn new(space: Arc<Space>, quota: Option<u64>) -> Self {
        Self {
            space,
            quota: AtomicU64::new(quota.unwrap_or(NO_LIMIT)),
            used: Counter::default(),
            grown: Counter::default(),
            doubt: AtomicU64::new(0),
            measured: false.into(),
            order: Mutex::new(()),
        }
    }

    pub fn set_quota(&self, quota: Option<u64>) {
        self.quota.store(quota.unwrap_or(NO_LIMIT), Relaxed);
    }

    pub fn quota(&self) -> Option<u64> {
        Some(self.quota.load(Relaxed)).filter(|quota| *quota != NO_LIMIT)
    }

    pub fn used_bytes(&self) -> u64 {
        u64::try_from(self.used.get().bytes).unwrap_or(0)
    }

    /// None until it was measured once.
    pub fn usage(&self) -> Option<(u64, Option<u64>)> {
        self.measured.load(Relaxed).then(|| (self.used_bytes(), self.quota()))
    }

    fn limit(&self) -> Amount {
        self.quota().map_or(Amount { bytes: i64::MAX, files: i64::MAX }, |quota| {
            let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            Amount { bytes: signed(quota), files: signed(quota / BYTES_PER_FILE).max(NEAR.files) }
        })
    }

    /// Near a limit changes are made one at a time, so that each knows what is left.
    pub fn order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a change may need, before it is done. `fresh` asks the file system, where that is of account.
    pub fn claim(&self, want: Amount, look: Look, fresh: &dyn Fn() -> Option<Figures>) -> Result<Claim<'_>, Refusal> {
        let before = self.used.add(want).less(want);
        let slack = if look == Look::Loose { NEAR } else { Amount::default() };
        let limit = self.limit();
        let result = match want.fits(limit.less(before), slack) {
            true => self.space.claim(want, before.and(want), fresh),
            false => Err(Refusal::Quota),
        };
        match result {
            Ok(()) => Ok(Claim { account: self, want }),
            Err(refusal) => {
                self.used.add(Amount::default().less(want));
                Err(refusal)
            }
        }
    }

    /// Bytes that could be claimed now, and what stands in the way of more.
    pub fn left(&self, figures: &Figures) -> (u64, Refusal) {
        let used = self.used.get();
        let quota = self.limit().less(used).bytes;
        let space = self.space.unclaimed(figures, used).bytes;
        let refusal = if quota <= space { Refusal::Quota } else { Refusal::Space };
        (u64::try_from(quota.min(space)).unwrap_or(0), refusal)
    }

    /// Counts what became more or less without a claim.
    pub fn count(&self, change: Amount) {
        self.used.add(change);
        self.grown.add(Amount { bytes: change.bytes.max(0), files: change.files.max(0) });
    }

    /// So many bytes may have come or gone uncounted.
    pub fn doubt(&self, bytes: u64) {
        self.doubt.fetch_add(bytes, Relaxed);
    }

    /// Whether a measurement is due: never measured, or so much in doubt.
    pub fn is_doubtful(&self, bytes: u64) -> bool {
        !self.measured.load(Relaxed) || self.doubt.load(Relaxed) >= bytes
    }

    /// All that came in until now: to be remembered when a measurement begins.
    pub fn grown(&self) -> Amount {
        self.doubt.store(0, Relaxed);
        self.grown.get()
    }

    /// A measurement ended that had begun at `grown`. What came in meanwhile it may have seen or not:
    /// it is added, and in doubt.
    pub fn measured(&self, found: Amount, grown: Amount) {
        let meanwhile = self.grown.get().less(grown);
        self.used.set(found.and(meanwhile));
        self.doubt(u64::try_from(meanwhile.bytes).unwrap_or(0));
        self.measured.store(true, Relaxed);
    }

    /// What the client is told of its file system (RFC 1813 §3.3.18): its quota as the whole, what it did not use as
    /// free, and what it can really have as available. Without a quota, the store less the reserve.
    pub fn view(&self, figures: &Figures) -> View {
        let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
        let left = self.space.room(figures, self.used.get());
        let reserve = self.space.reserve_bytes(figures.total_bytes);
        let Some(quota) = self.quota() else {
            let (bytes, files) = (unsigned(left.bytes), unsigned(left.files));
            return View {
                bytes: [figures.total_bytes.saturating_sub(reserve), bytes, bytes],
                files: [figures.total_files, files.min(figures.free_files), files.min(figures.free_files)],
            };
        };
        let (limit, rest) = (self.limit(), self.limit().less(self.used.get()));
        View {
            bytes: [quota, unsigned(rest.bytes), unsigned(rest.bytes.min(left.bytes))],
            files: [unsigned(limit.files), unsigned(rest.files), unsigned(rest.files.min(left.files))],
        }
    }
}

/// Total, free, available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub bytes: [u64; 3],
    pub files: [u64; 3],
}

/// Room taken for a change that is under way; given back when dropped, unless it is settled.
#[derive(Debug)]
pub struct Claim<'a> {
    account: &'a Account,
    want: Amount,
}

impl Claim<'_> {
    /// The change is done, and came to so much.
    pub fn settle(mut self, actual: Amount) {
        self.account.space.took(actual);
        self.account.count(actual);
        self.give_back();
    }

    fn give_back(&mut self) {
        let want = std::mem::take(&mut self.want);
        self.account.used.add(Amount::default().less(want));
        self.account.space.give_back(want);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn figures(total: u64, free: u64) -> Figures {
        Figures { total_bytes: total, free_bytes: free, total_files: 1 << 20, free_files: 1 << 19 }
    }

    fn account(quota: Option<u64>, figures: Figures) -> Account {
        let space = Space::new(None);
        space.tell(&figures);
        Account::new(Arc::new(space), quota)
    }

    #[test]
    fn a_claim_is_refused_to_the_byte_and_costs_nothing_then() {
        let disk = figures(1 << 40, 1 << 39);
        let account = account(Some(MIB), disk);
        let fresh = || Some(disk);
        let claim = |bytes| account.claim(Amount::bytes(bytes), Look::Exact, &fresh);
        claim(MIB as i64 - 4096).unwrap().settle(Amount::bytes(MIB as i64 - 4096));
        assert_eq!(claim(4097).unwrap_err(), Refusal::Quota);
        assert_eq!(account.left(&disk), (4096, Refusal::Quota));
        claim(4096).unwrap().settle(Amount::bytes(4096));
        assert_eq!(account.used_bytes(), MIB);
        // What needs nothing goes on, and what goes makes room.
        claim(0).unwrap().settle(Amount::bytes(0));
        account.count(Amount::bytes(-4096));
        drop(claim(4096).unwrap());
        assert_eq!(account.used_bytes(), MIB - 4096);
    }

    #[test]
    fn a_loose_look_refuses_before_it_hurts() {
        let disk = figures(1 << 40, 1 << 39);
        let account = account(Some(128 * MIB), disk);
        let fresh = || Some(disk);
        account.claim(Amount::bytes(60 << 20), Look::Loose, &fresh).unwrap().settle(Amount::bytes(60 << 20));
        assert!(account.claim(Amount::bytes(10 << 20), Look::Loose, &fresh).is_err());
        assert!(account.claim(Amount::bytes(10 << 20), Look::Exact, &fresh).is_ok());
    }

    #[test]
    fn the_reserve_holds_whatever_the_quota() {
        let disk = figures(1 << 30, 65 * MIB);
        let account = account(None, disk);
        let fresh = || Some(disk);
        let claim = |bytes| account.claim(Amount::bytes(bytes), Look::Exact, &fresh);
        assert_eq!(claim(2 << 20).unwrap_err(), Refusal::Space);
        let held = claim(1 << 20).unwrap();
        assert_eq!(claim(1).unwrap_err(), Refusal::Space);
        drop(held);
        assert!(claim(1 << 20).is_ok());
        let no_inodes = Figures { free_files: 100, ..figures(1 << 30, 1 << 29) };
        account.space.tell(&no_inodes);
        let one = Amount { bytes: 0, files: 1 };
        assert_eq!(account.claim(one, Look::Exact, &|| Some(no_inodes)).unwrap_err(), Refusal::Space);
    }

    #[test]
    fn who_has_more_than_its_part_leaves_the_last_of_the_stick_to_those_with_less() {
        // Its reserve is 64 MiB, and what is kept for those with less 32; of three each has 320 MiB.
        let free = |mib: u64| figures(1 << 30, (64 + mib) * MIB);
        let space = Arc::new(Space::new(None));
        let account = |mib: i64| {
            let account = Account::new(space.clone(), None);
            account.count(Amount::bytes(mib << 20));
            account
        };
        let (large, middle, small) = (account(700), account(319), account(4));
        let claims = |account: &Account, mib: i64, disk: Figures| {
            let claim = account.claim(Amount::bytes(mib << 20), Look::Exact, &|| Some(disk));
            let left = account.left(&disk);
            assert_eq!(left.1, Refusal::Space);
            (claim.is_ok(), left.0 >> 20, account.view(&disk).bytes[2] >> 20)
        };
        for clients in [0, 1] {
            space.share(&free(40), clients);
            assert_eq!(claims(&large, 40, free(40)), (true, 0, 40), "who is alone has all of it");
        }
        space.share(&free(40), 3);
        assert_eq!(claims(&large, 9, free(40)), (false, 8, 8));
        assert_eq!(claims(&large, 8, free(40)), (true, 0, 8));
        assert_eq!(claims(&large, 1, free(20)), (false, 0, 0));
        // Up to its part as the others, and not beyond.
        assert_eq!(claims(&middle, 1, free(20)), (true, 0, 0));
        assert_eq!(claims(&middle, 2, free(20)), (false, 1, 1));
        assert_eq!(claims(&small, 20, free(20)), (true, 0, 20));
        assert_eq!(claims(&small, 21, free(20)), (false, 20, 20));
        // Files are shared like that, too.
        let one = Amount { bytes: 0, files: 1 };
        large.count(Amount { bytes: 0, files: 400_000 });
        let few = Figures { free_files: (16 << 10) + 5, ..free(40) };
        space.tell(&few);
        assert!(large.claim(one, Look::Exact, &|| Some(few)).is_err());
        assert!(small.claim(one, Look::Exact, &|| Some(few)).is_ok());
    }

    #[test]
    fn what_came_in_during_a_measurement_is_not_lost() {
        let account = account(None, figures(1 << 40, 1 << 39));
        assert!(account.is_doubtful(1));
        let grown = account.grown();
        account.count(Amount { bytes: 8192, files: 1 });
        account.count(Amount::bytes(-4096));
        account.measured(Amount { bytes: 100 << 20, files: 10 }, grown);
        assert_eq!(account.used_bytes(), (100 << 20) + 8192);
        assert!(account.is_doubtful(8192) && !account.is_doubtful(8193));
        let grown = account.grown();
        account.measured(Amount::bytes(5), grown);
        assert!(account.used_bytes() == 5 && !account.is_doubtful(1));
    }

    #[test]
    fn a_client_is_told_its_own_truth() {
        let disk = figures(8 << 30, 1 << 30);
        let limited = account(Some(4 << 30), disk);
        limited.count(Amount { bytes: 1 << 30, files: 7 });
        let view = limited.view(&disk);
        assert_eq!(view.bytes, [4 << 30, 3 << 30, (1 << 30) - (256 << 20)]);
        assert_eq!(view.files[0] - view.files[1], 7);
        let free = account(None, disk).view(&disk);
        assert_eq!(free.bytes, [(8 << 30) - (256 << 20), (1 << 30) - (256 << 20), (1 << 30) - (256 << 20)]);
        limited.count(Amount::bytes(9 << 30));
        assert_eq!(limited.view(&disk).bytes, [4 << 30, 0, 0]);
    }
}
