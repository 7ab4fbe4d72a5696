//! What must not take long: figures are told with `--nocapture`.

use std::time::Duration;

/// What took longer than it may, of one attempt.
#[derive(Debug, Default)]
pub struct Limits(Vec<String>);

impl Limits {
    pub fn check(&mut self, what: &str, took: Duration, limit: Duration) {
        println!("{what}: {took:?}");
        if took >= limit {
            self.0.push(format!("{what}: {took:?}"));
        }
    }

    /// All of them in one attempt. What else the machine does may hinder one or two, not three.
    pub fn are_kept(mut attempt: impl FnMut(&mut Self)) {
        let mut tries = Vec::new();
        while tries.len() < 3 {
            let mut limits = Self::default();
            attempt(&mut limits);
            if limits.0.is_empty() {
                return;
            }
            tries.push(limits);
        }
        panic!("too slow three times: {tries:#?}");
    }
}
