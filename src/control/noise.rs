//! A bound on log lines that anybody on the wire can cause.
//!
//! Pure. The appliance's console is a serial line of 11 KB a second: a flood
//! of refused requests would keep control waiting for its own log.

use std::time::Duration;

use super::Action;

/// Lines that are told within one window; a boot that goes wrong has fewer.
const MAX_LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Lets some lines of a kind through and counts the others.
#[derive(Debug, Default)]
pub struct Noise {
    began: Duration,
    told: u32,
    left_out: u64,
}

impl Noise {
    pub fn log(&mut self, now: Duration, line: String, actions: &mut Vec<Action>) {
        if now >= self.began + WINDOW {
            if self.left_out > 0 {
                actions.push(Action::Log(format!("{} more lines of such requests were left out", self.left_out)));
            }
            *self = Self { began: now, ..Self::default() };
        }
        if self.told < MAX_LINES {
            self.told += 1;
            actions.push(Action::Log(line));
        } else {
            self.left_out += 1;
        }
    }
}
