//! What the listener and one transfer's task tell each other. Pure but for being shared.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::sync::Notify;

/// `Progress::phase`: the file is being opened; something was sent; something
/// was acknowledged; it is over.
pub const OPENING: u8 = 0;
pub const OFFERED: u8 = 1;
pub const ACKNOWLEDGED: u8 = 2;
pub const ENDED: u8 = 3;

pub struct Progress {
    phase: AtomicU8,
    /// The same request came again.
    repeated: AtomicBool,
    /// The client asked for something else from the same port: not one
    /// datagram may follow.
    superseded: AtomicBool,
    /// Wakes the task: the request was repeated, or superseded.
    nudge: Notify,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            phase: AtomicU8::new(OPENING),
            repeated: AtomicBool::new(false),
            superseded: AtomicBool::new(false),
            nudge: Notify::new(),
        }
    }

    // One thread runs the listener and all tasks, so no order between these matters.
    pub fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    pub fn set_phase(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    pub fn repeat(&self) {
        self.repeated.store(true, Ordering::Relaxed);
        self.nudge.notify_one();
    }

    pub fn take_repeated(&self) -> bool {
        self.repeated.swap(false, Ordering::Relaxed)
    }

    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Relaxed)
    }

    /// Until `repeat` or `supersede` was called since the last time.
    pub async fn nudged(&self) {
        self.nudge.notified().await;
    }

    pub fn supersede(&self) {
        self.superseded.store(true, Ordering::Relaxed);
        self.nudge.notify_one();
    }
}
