//! How far an import is, and how long it still takes: by the packed file's
//! bytes, since only their number is known from the start.
//!
//! Pure but for `Pace`, which reads the clock.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(250);

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub per_mille: u16,
    pub left: Option<Duration>,
}

/// Gives progress at most four times a second.
pub struct Pace {
    started: Instant,
    shown: Instant,
    total: u64,
}

impl Pace {
    pub fn new(total: u64) -> Self {
        let now = Instant::now();
        Self { started: now, shown: now, total: total.max(1) }
    }

    pub fn next(&mut self, done: u64) -> Option<Progress> {
        if self.shown.elapsed() < INTERVAL {
            return None;
        }
        self.shown = Instant::now();
        Some(progress(done, self.total, self.started.elapsed()))
    }
}

/// The share done and, after two seconds, the time left at the pace so far.
fn progress(done: u64, total: u64, elapsed: Duration) -> Progress {
    let share = done.min(total) as f64 / total as f64;
    let known = elapsed >= Duration::from_secs(2) && share > 0.001;
    // At most 1000 and elapsed × 1000: no conversion can fail.
    let left = known.then(|| elapsed.mul_f64((1.0 - share) / share));
    Progress { per_mille: ((share * 1000.0) as u16).min(999), left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_the_pace_and_100_percent_waits_for_the_end() {
        let check = |done, seconds, expected: (u16, Option<u64>)| {
            let now = progress(done, 1000, Duration::from_secs(seconds));
            assert_eq!((now.per_mille, now.left.map(|left| left.as_secs())), expected);
        };
        check(0, 10, (0, None));
        check(500, 1, (500, None));
        check(250, 10, (250, Some(30)));
        check(1000, 10, (999, Some(0)));
        check(5000, 10, (999, Some(0)));
    }
}
