//! The boot's own log: lines on the console with the kernel's time, before and
//! beside everything that `serve` logs.
//!
//! I/O, but never waiting and never failing: a console that takes no bytes
//! (a serial line without its other end, a screen somebody stopped with
//! Ctrl-S) must not stop PID 1, so such lines are lost.

use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Longest line, in bytes; an error that carries a long path is cut.
const MAX_LINE_BYTES: usize = 512;

/// Where lines go: standard error until PID 1 has a console of its own.
static OUTPUT: AtomicI32 = AtomicI32::new(2);

/// Since the kernel's start (CLOCK_BOOTTIME), the time that its own log shows.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Sends the lines that follow to `fd`, which the caller never closes.
pub(super) fn send_to(fd: i32) {
    OUTPUT.store(fd, Ordering::Relaxed);
}

/// Writes `[    1.234567] who: text`, as the kernel's log looks.
pub(super) fn write(who: &str, text: fmt::Arguments<'_>) {
    let line = line(now(), who, &text.to_string());
    // SAFETY: the buffer is valid for its length; a wrong descriptor is an error that is of no interest.
    unsafe { libc::write(OUTPUT.load(Ordering::Relaxed), line.as_ptr().cast(), line.len()) };
}

fn line(now: Duration, who: &str, text: &str) -> String {
    let mut line = format!("[{:5}.{:06}] {who}: ", now.as_secs(), now.subsec_micros());
    // Names of devices and files are other people's: a console gets no control characters from them.
    line.extend(text.chars().map(|c| if c.is_control() { '?' } else { c }));
    let end = (0..=MAX_LINE_BYTES.min(line.len())).rev().find(|&end| line.is_char_boundary(end));
    line.truncate(end.unwrap_or(0));
    line.push('\n');
    line
}

/// `say!("init", "mounted {target}")`
macro_rules! say {
    ($who:expr, $($text:tt)*) => { $crate::init::log::write($who, format_args!($($text)*)) };
}
pub(super) use say;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_looks_like_the_kernels() {
        assert_eq!(
            line(Duration::from_micros(1_234_567), "init", "mounted /proc"),
            "[    1.234567] init: mounted /proc\n"
        );
    }

    #[test]
    fn a_line_is_one_line_and_bounded() {
        assert_eq!(line(Duration::ZERO, "plug", "a\nb\x1b[2J"), "[    0.000000] plug: a?b?[2J\n");
        let long = line(Duration::ZERO, "plug", &"ä".repeat(4000));
        assert!(long.len() <= MAX_LINE_BYTES + 1 && long.ends_with("ä\n"));
    }
}
