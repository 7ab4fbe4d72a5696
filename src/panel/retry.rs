//! When to try a missing part again, and when to speak of it.
//!
//! Pure: the time is an argument. A display may be plugged in tomorrow, so it
//! is tried for ever; a log that says so every five seconds helps nobody.

use std::time::Duration;

/// Between two attempts.
pub const EVERY: Duration = Duration::from_secs(5);

/// The same complaint is told again after this long at the earliest, and only
/// if something worked in between: a loose wire must not fill the log.
pub const QUIET: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Retry {
    /// The complaint that was told last, and when.
    told: Option<(String, Duration)>,
    /// It has worked since that complaint.
    worked: bool,
    /// That it works is what was told last.
    announced: bool,
    /// No attempt before this.
    not_before: Duration,
}

impl Retry {
    /// How long still to wait before an attempt; zero when it is due.
    pub fn wait(&self, now: Duration) -> Duration {
        self.not_before.saturating_sub(now)
    }

    /// An attempt failed: returns the complaint if it is news.
    pub fn failed(&mut self, now: Duration, complaint: String) -> Option<String> {
        self.not_before = now.saturating_add(EVERY);
        let known = self
            .told
            .as_ref()
            .is_some_and(|(told, at)| *told == complaint && (!self.worked || now.saturating_sub(*at) < QUIET));
        if known {
            return None;
        }
        self.told = Some((complaint.clone(), now));
        (self.worked, self.announced) = (false, false);
        Some(complaint)
    }

    /// It works: returns whether that is news.
    pub fn worked(&mut self) -> bool {
        (self.not_before, self.worked) = (Duration::ZERO, true);
        !std::mem::replace(&mut self.announced, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A failure after so many seconds, and whether it is told.
    fn check(retry: &mut Retry, second: u32, complaint: &str, told: bool) {
        let expected = told.then(|| complaint.to_owned());
        assert_eq!(retry.failed(SECOND * second, complaint.to_owned()), expected, "at {second} s");
    }

    #[test]
    fn a_failure_is_told_once_and_tried_again_after_five_seconds() {
        let mut retry = Retry::default();
        assert_eq!(retry.wait(SECOND), Duration::ZERO);
        check(&mut retry, 1, "gone", true);
        assert_eq!((retry.wait(SECOND * 2), retry.wait(SECOND * 6)), (SECOND * 4, Duration::ZERO));
        check(&mut retry, 6, "gone", false);
        check(&mut retry, 600, "gone", false);
        check(&mut retry, 605, "burnt", true);
        assert!(retry.worked());
        assert!(!retry.worked());
        assert_eq!(retry.wait(SECOND * 606), Duration::ZERO);
    }

    #[test]
    fn a_loose_wire_is_told_at_most_once_a_minute() {
        let mut retry = Retry::default();
        let mut told = 0;
        for second in (0..600).step_by(5) {
            told += usize::from(retry.failed(SECOND * second, "gone".to_owned()).is_some());
            told += usize::from(retry.worked());
        }
        assert_eq!(told, 20);
    }
}
