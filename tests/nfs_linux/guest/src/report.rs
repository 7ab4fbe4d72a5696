//! What was checked, on the console: one line a failure, one a part.

use std::time::Instant;

/// Failures shown of one part by one process; all are counted.
const MAX_SHOWN: u64 = 12;

pub struct Report {
    part: String,
    began: Instant,
    passed: u64,
    failed: u64,
    all: (u64, u64),
}

impl Report {
    pub fn new() -> Self {
        Self { part: String::new(), began: Instant::now(), passed: 0, failed: 0, all: (0, 0) }
    }

    pub fn part(&mut self, name: &str) {
        self.end_part();
        name.clone_into(&mut self.part);
        self.began = Instant::now();
    }

    pub fn end_part(&mut self) {
        if !self.part.is_empty() {
            let took = self.began.elapsed().as_secs_f32();
            println!("judge: part {}: {} passed, {} failed, {took:.1} s", self.part, self.passed, self.failed);
        }
        self.all = (self.all.0 + self.passed, self.all.1 + self.failed);
        (self.passed, self.failed) = (0, 0);
        self.part.clear();
    }

    /// Of the part that is being judged.
    pub fn counts(&self) -> (u64, u64) {
        (self.passed, self.failed)
    }

    pub fn add(&mut self, passed: u64, failed: u64) {
        self.passed += passed;
        self.failed += failed;
    }

    pub fn passed(&mut self) {
        self.passed += 1;
    }

    pub fn failed(&mut self, what: &str) {
        self.failed += 1;
        if self.failed <= MAX_SHOWN {
            println!("judge: FAIL {}: {what}", self.part);
        }
    }

    /// One check with an answer.
    pub fn is<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: T, expected: T) {
        if found == expected {
            self.passed();
        } else {
            self.failed(&format!("{what}: {found:?} instead of {expected:?}"));
        }
    }

    pub fn holds(&mut self, what: &str, holds: bool) {
        if holds { self.passed() } else { self.failed(what) }
    }

    /// The last line; whether nothing failed.
    pub fn done(&mut self) -> bool {
        self.end_part();
        println!("judge: done: {} passed, {} failed", self.all.0, self.all.1);
        self.all.1 == 0
    }
}
