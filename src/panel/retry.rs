//! When to try a missing part again, and when to speak of it.
//!
//! Pure: the time is an argument. A display may be plugged in tomorrow, so it
//! is tried for ever; a log that says so every five seconds helps nobody.

use std::time::Duration;

/// Between two attempts.
pub const EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct Retry {
    /// The complaint that was told last, until something worked again.
    told: Option<String>,
    /// No attempt before this.
    not_before: Option<Duration>,
}

impl Retry {
    /// How long still to wait before an attempt; zero when it is due.
    pub fn wait(&self, now: Duration) -> Duration {
        self.not_before.unwrap_or_default().saturating_sub(now)
    }

    /// An attempt failed: returns the complaint if it is news.
    pub fn failed(&mut self, now: Duration, complaint: String) -> Option<String> {
        self.not_before = Some(now.saturating_add(EVERY));
        if self.told.as_ref() == Some(&complaint) {
            return None;
        }
        self.told = Some(complaint.clone());
        Some(complaint)
    }

    /// An attempt worked: whatever fails next is news again.
    pub fn worked(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_and_tried_again_after_five_seconds() {
        let second = Duration::from_secs(1);
        let mut retry = Retry::default();
        assert_eq!(retry.wait(second), Duration::ZERO);
        assert_eq!(retry.failed(second, "gone".to_owned()), Some("gone".to_owned()));
        assert_eq!((retry.wait(second * 2), retry.wait(second * 6)), (second * 4, Duration::ZERO));
        assert_eq!(retry.failed(second * 6, "gone".to_owned()), None);
        assert_eq!(retry.failed(second * 11, "burnt".to_owned()), Some("burnt".to_owned()));
        retry.worked();
        assert_eq!(retry.wait(second * 12), Duration::ZERO);
        assert_eq!(retry.failed(second * 12, "burnt".to_owned()), Some("burnt".to_owned()));
    }
}
