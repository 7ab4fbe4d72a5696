//! What a boot has loaded: bytes, and how fast.
//!
//! Pure.

use std::time::Duration;

use super::Sign;
use crate::status::Stage;

/// What was loaded in this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    /// Of files that are over.
    done: u64,
    /// Of the one under way.
    current: u64,
    began: Option<Duration>,
    /// What it is known to need.
    pub(super) total: Option<u64>,
}

impl Load {
    /// Of another boot: what that needs is measured by former ones.
    pub(super) fn begin_anew(&mut self) {
        *self = Self { total: self.total, ..Self::default() };
    }

    pub(super) fn bytes(&self) -> u64 {
        self.done.saturating_add(self.current)
    }

    /// Adds up what TFTP sends.
    pub(super) fn count(&mut self, now: Duration, sign: &Sign) {
        match sign {
            Sign::FileAsked { .. } => {
                self.began = self.began.or(Some(now));
                // What was left unfinished was not loaded.
                self.current = 0;
            }
            Sign::FileProgress { bytes } => self.current = *bytes,
            Sign::FileSent { bytes } => (self.done, self.current) = (self.done.saturating_add(*bytes), 0),
            _ => {}
        }
    }

    pub(super) fn stage(&self, now: Duration, file: &str) -> Stage {
        let bytes = self.bytes();
        let time = now.saturating_sub(self.began.unwrap_or(now));
        // Over less than half a second an average says nothing.
        let per_second = if time.as_millis() < 500 { 0 } else { u128::from(bytes) * 1000 / time.as_millis() };
        Stage::Loading {
            bytes,
            total: self.total,
            bytes_per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
            file: file.to_owned(),
        }
    }
}
