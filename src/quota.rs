//! What clients may occupy on the stick: a limit for each, and a reserve that only the appliance may use.
//!
//! Pure but for its counters, which the store fills and NFS keeps as changes go by. No clock, no file.
//!
//! **Why counted here and not by the kernel.** ext4's project quotas would be exact without us, but not every
//! kernel has them (QFMT_V2 is a module that many leave out), no store made until now has the feature, and what
//! hits their limit inside overlayfs's copy-up is not told apart from a full disk. All that a client changes
//! passes through our NFS server, which sees each file's blocks before and after. So it counts the difference, and
//! the store measures each client's folder now and then, slowly, and puts right what was missed (`store/usage.rs`).
//! That works on every kernel and every store.
//!
//! **What counts** is what the client's folder in the store occupies, as `du` tells: its layers, its frozen states
//! (snapshots), its block volume. A file costs its blocks; the number of files is limited too, since an empty
//! one costs an inode that nobody else can have.
//!
//! **How exact.** A write is refused before it is done, to the block. Missed until the next measurement: blocks of
//! directories that a first change copies up (4 KiB each), of maps of very scattered files, and what removing a
//! changed file of the image gives back.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// This far from a limit nobody looks closely: more than all calls at one time can write.
const NEAR: Amount = Amount { bytes: 64 << 20, files: 1024 };
/// The reserve without a setting: a part of the store between these two, but never more than `MOST_OF_STORE`.
/// An enrolment takes 0.3 MiB, a snapshot less.
const RESERVE_PART: u64 = 32;
const RESERVE_LEAST: u64 = 64 << 20;
const RESERVE_MOST: u64 = 512 << 20;
const MOST_OF_STORE: u64 = 8;
/// Inodes kept back: an enrolment makes some 40.
const RESERVE_FILES: u64 = 16 << 10;
/// One file for so many bytes of a quota. ext4 makes one inode for 16 KiB, and an operating system's files have 20 KiB
/// each, so that those who fill their share with such files take their share of the inodes.
const BYTES_PER_FILE: u64 = 8 << 10;
const NO_LIMIT: u64 = u64::MAX;

/// Bytes on the stick and files, or a change of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    pub bytes: i64,
    pub files: i64,
}

impl Amount {
    pub const fn bytes(bytes: i64) -> Self {
        Self { bytes, files: 0 }
    }

    fn less(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), files: self.files.saturating_sub(other.files) }
    }

    fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), files: self.files.saturating_add(other.files) }
    }

    /// Whether what this asks for (more than nothing) is there, and `slack` besides.
    fn fits(self, left: Self, slack: Self) -> bool {
        let fits = |asked: i64, left: i64, slack: i64| asked <= 0 || asked.saturating_add(slack) <= left;
        fits(self.bytes, left.bytes, slack.bytes) && fits(self.files, left.files, slack.files)
    }
}

/// Two counters that are read and changed together, though not at one moment.
#[derive(Debug, Default)]
struct Counter {
    bytes: AtomicI64,
    files: AtomicI64,
}

impl Counter {
    fn get(&self) -> Amount {
        Amount { bytes: self.bytes.load(Relaxed), files: self.files.load(Relaxed) }
    }

    fn set(&self, amount: Amount) {
        self.bytes.store(amount.bytes, Relaxed);
        self.files.store(amount.files, Relaxed);
    }

    /// Returns what it is then.
    fn add(&self, amount: Amount) -> Amount {
        let bytes = self.bytes.fetch_add(amount.bytes, Relaxed);
        let files =
            if amount.files == 0 { self.files.load(Relaxed) } else { self.files.fetch_add(amount.files, Relaxed) };
        Amount { bytes, files }.and(amount)
    }
}

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

    /// Bytes of a file system of this size that clients do not get.
    pub fn reserve_bytes(&self, total: u64) -> u64 {
        reserve_bytes(total, self.wanted)
    }

    /// Bytes that clients may still take.
    pub fn left_bytes(&self, figures: &Figures) -> u64 {
        u64::try_from(self.above_reserve(figures).bytes).unwrap_or(0)
    }

    fn claim(&self, want: Amount, fresh: &dyn Fn() -> Option<Figures>) -> Result<(), Refusal> {
        let before = self.pending.add(want).less(want);
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
        self.pending.add(Amount::default().less(want));
        Err(Refusal::Space)
    }
}

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
            true => self.space.claim(want, fresh),
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
        let quota = self.limit().less(self.used.get()).bytes;
        let space = self.space.above_reserve(figures).less(self.space.pending.get()).bytes;
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
        let left = self.space.above_reserve(figures);
        let reserve = reserve_bytes(figures.total_bytes, self.space.wanted);
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
        self.account.space.left.add(Amount::default().less(actual));
        self.account.count(actual);
        self.give_back();
    }

    fn give_back(&mut self) {
        let back = Amount::default().less(std::mem::take(&mut self.want));
        self.account.used.add(back);
        self.account.space.pending.add(back);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// How near a limit is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    #[default]
    Fine,
    /// A tenth is left, or less.
    Near,
    /// A hundredth is left, or less: writes fail, or will in a moment.
    Full,
}

impl Level {
    /// Of `left` in `total`, seen from the level before: it must become clearly better to be told so.
    pub fn next(self, left: u64, total: u64) -> Self {
        let within = |parts: u64| u128::from(left) * u128::from(parts) <= u128::from(total);
        let level = match () {
            () if within(100) => Self::Full,
            () if within(10) => Self::Near,
            () => Self::Fine,
        };
        match (self, level) {
            (Self::Full, Self::Near) if within(50) => Self::Full,
            (Self::Full | Self::Near, Self::Fine) if within(8) => Self::Near,
            _ => level,
        }
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
    fn the_reserve_is_a_part_of_the_store_and_never_most_of_it() {
        let check = |total: u64, wanted, expected: u64| assert_eq!(reserve_bytes(total, wanted), expected);
        check(64 * MIB, None, 8 * MIB);
        check(1 << 30, None, 64 * MIB);
        check(8 << 30, None, 256 * MIB);
        check(1 << 40, None, 512 * MIB);
        check(1 << 40, Some(0), 0);
        check(1 << 30, Some(1 << 40), 128 * MIB);
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

    #[test]
    fn a_level_does_not_flutter() {
        let steps: Vec<Level> = [50, 11, 10, 11, 12, 13, 1, 2, 3, 0]
            .into_iter()
            .scan(Level::Fine, |level, left| {
                *level = level.next(left, 100);
                Some(*level)
            })
            .collect();
        use Level::*;
        assert_eq!(steps, [Fine, Fine, Near, Near, Near, Fine, Full, Full, Near, Full]);
    }
}
