//! Bytes and files, and counters of them that several threads change. Pure but for the counters.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

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

    pub(super) fn less(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), files: self.files.saturating_sub(other.files) }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), files: self.files.saturating_add(other.files) }
    }

    /// Whether what this asks for (more than nothing) is there, and `slack` besides.
    pub(super) fn fits(self, left: Self, slack: Self) -> bool {
        let fits = |asked: i64, left: i64, slack: i64| asked <= 0 || asked.saturating_add(slack) <= left;
        fits(self.bytes, left.bytes, slack.bytes) && fits(self.files, left.files, slack.files)
    }
}

/// Two counters that are read and changed together, though not at one moment.
#[derive(Debug, Default)]
pub(super) struct Counter {
    bytes: AtomicI64,
    files: AtomicI64,
}

impl Counter {
    pub fn get(&self) -> Amount {
        Amount { bytes: self.bytes.load(Relaxed), files: self.files.load(Relaxed) }
    }

    pub fn set(&self, amount: Amount) {
        self.bytes.store(amount.bytes, Relaxed);
        self.files.store(amount.files, Relaxed);
    }

    /// Returns what it is then.
    pub fn add(&self, amount: Amount) -> Amount {
        let bytes = self.bytes.fetch_add(amount.bytes, Relaxed);
        let files =
            if amount.files == 0 { self.files.load(Relaxed) } else { self.files.fetch_add(amount.files, Relaxed) };
        Amount { bytes, files }.and(amount)
    }
}
