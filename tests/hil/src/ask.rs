//! A question to the person beside the board: answered by `y` or `n` and Return,
//! or by ENROLL (yes) and NEXT (no). Whichever comes first.
//!
//! I/O.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rootstock::panel::gestures::{Gestures, SAMPLING};
use rootstock::panel::gpio::{Buttons, GpioButtons};
use rootstock::panel::{Button, Gesture};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bench::Bench;

/// `None`: nobody answered in time, or nobody is to be asked.
pub fn yes_or_no(bench: &Bench, question: &str) -> Option<bool> {
    if bench.patience.is_zero() {
        return None;
    }
    let seconds = bench.patience.as_secs();
    println!("\n  ? {question}  (y or ENROLL: yes; n or NEXT: no; {seconds} s)");
    let buttons = GpioButtons::open(&bench.config.panel).ok();
    let (start, mut gestures) = (Instant::now(), Gestures::default());
    while start.elapsed() < bench.patience {
        if let Some(answer) = key() {
            return Some(answer);
        }
        let pressed = buttons.as_ref().map_or([false; 2], Buttons::pressed);
        let gesture = gestures.sample(start.elapsed(), pressed).into_iter().next();
        if let Some(Gesture::Short(button) | Gesture::Long(button)) = gesture {
            return Some(button == Button::Enroll);
        }
        std::thread::sleep(SAMPLING);
    }
    None
}

/// Tells a person what to do, without an answer.
pub fn tell(what: &str) {
    println!("\n  > {what}");
    let _ = std::io::stdout().flush();
}

/// What lies on the keyboard's line, if it says yes or no.
fn key() -> Option<bool> {
    let input = std::io::stdin();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut ready = [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN)];
    if poll(&mut ready, Some(&now)) != Ok(1) || !ready[0].revents().contains(PollFlags::IN) {
        return None;
    }
    let mut bytes = [0; 64];
    let count = rustix::io::read(input.as_fd(), &mut bytes).ok()?;
    match bytes[..count].iter().find(|byte| !byte.is_ascii_whitespace())?.to_ascii_lowercase() {
        b'y' => Some(true),
        b'n' => Some(false),
        _ => None,
    }
}

/// Samples the two buttons until `until` has what it wants.
pub fn gestures(buttons: &impl Buttons, patience: Duration, mut until: impl FnMut(Gesture) -> bool) -> bool {
    let (start, mut gestures) = (Instant::now(), Gestures::default());
    while start.elapsed() < patience {
        if gestures.sample(start.elapsed(), buttons.pressed()).into_iter().any(&mut until) {
            return true;
        }
        std::thread::sleep(SAMPLING);
    }
    false
}
