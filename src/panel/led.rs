//! The Pi's green ACT LED as a display of one pixel: patterns for those who have no other.
//!
//! The table of patterns and what each means are pure; `Led` is the I/O, two files
//! of sysfs. Without such an LED, or on another computer, nothing is shown and nothing is said.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::status::{CardStep, Enrolment, Stage, Status, Stick};

/// What the LED can say, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The stick is released.
    MayPull,
    /// ENROLL would make a store on this stick.
    Confirm,
    Problem,
    /// The enrolment window is open.
    Window,
    /// The stick is at work: leave it in.
    Busy,
    /// A client boots.
    Booting,
    NoStick,
    Ready,
    /// The same, and each new Pi that asks is let in.
    ReadyForAll,
}

/// What of all that goes on matters most.
pub fn signal(status: &Status) -> Signal {
    let stalled = status.clients.iter().any(|client| matches!(client.stage, Stage::Stalled { .. }));
    let open = matches!(status.enrolment, Enrolment::Open { .. });
    match &status.stick {
        Stick::Released { .. } => Signal::MayPull,
        Stick::NeedsConfirmation { .. } => Signal::Confirm,
        Stick::Unusable { .. } => Signal::Problem,
        _ if open => Signal::Window,
        _ if stalled || !status.problems.is_empty() => Signal::Problem,
        Stick::Reading | Stick::Preparing | Stick::Releasing { .. } => Signal::Busy,
        _ if status.import.is_some() => Signal::Busy,
        _ if status.card.as_ref().is_some_and(|card| matches!(card.step, CardStep::Writing { .. })) => Signal::Busy,
        _ if status.clients.iter().any(|client| client.stage.is_booting()) => Signal::Booting,
        Stick::Absent => Signal::NoStick,
        Stick::Ready { .. } if status.images.is_empty() => Signal::NoStick,
        Stick::Ready { .. } if status.enrolment == Enrolment::Always => Signal::ReadyForAll,
        Stick::Ready { .. } => Signal::Ready,
    }
}

/// Milliseconds lit, dark, lit, dark, … of one round.
pub fn pattern(signal: Signal) -> &'static [u16] {
    match signal {
        // On, with a blink that shows it is alive.
        Signal::Ready => &[2900, 100],
        Signal::ReadyForAll => &[2600, 100, 200, 100],
        // One short flash, long dark.
        Signal::NoStick => &[100, 1900],
        // Two flashes: somebody is asked something.
        Signal::Confirm => &[150, 200, 150, 1500],
        // Three flashes.
        Signal::Problem => &[150, 200, 150, 200, 150, 1150],
        Signal::Window => &[100, 100],
        Signal::Booting => &[300, 300],
        Signal::Busy => &[1000, 1000],
        // One long flash, as a lighthouse.
        Signal::MayPull => &[1500, 2500],
    }
}

/// Whether the LED is lit so long after the pattern began, and for how long it stays so.
pub fn at(signal: Signal, since: Duration) -> (bool, Duration) {
    let pattern = pattern(signal);
    let round: u64 = pattern.iter().map(|&length| u64::from(length)).sum();
    let mut place = u64::try_from(since.as_millis()).unwrap_or(0) % round.max(1);
    for (index, &length) in pattern.iter().enumerate() {
        let length = u64::from(length);
        if place < length {
            return (index % 2 == 0, Duration::from_millis(length - place));
        }
        place -= length;
    }
    (false, Duration::from_secs(1))
}

/// One LED of sysfs (Linux Documentation/leds/leds-class.rst).
pub struct Led {
    brightness: PathBuf,
    lit: Option<bool>,
}

/// Its names: of current kernels, and of Raspberry Pi's until 2021.
const NAMES: [&str; 3] = ["ACT", "led0", "ACT:green"];

impl Led {
    /// Takes the LED from the kernel, which blinks it at each use of the SD card.
    pub fn open(folder: &Path) -> Option<Self> {
        let led = NAMES.iter().map(|name| folder.join(name)).find(|led| led.join("brightness").exists())?;
        std::fs::write(led.join("trigger"), "none").ok()?;
        Some(Self { brightness: led.join("brightness"), lit: None })
    }

    /// Writes only what changes; false when the LED is gone.
    pub fn set(&mut self, lit: bool) -> bool {
        if self.lit == Some(lit) {
            return true;
        }
        self.lit = Some(lit);
        std::fs::write(&self.brightness, if lit { "1" } else { "0" }).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{NewPlace, Problem};

    const ALL: [Signal; 9] = [
        Signal::MayPull,
        Signal::Confirm,
        Signal::Problem,
        Signal::Window,
        Signal::Busy,
        Signal::Booting,
        Signal::NoStick,
        Signal::Ready,
        Signal::ReadyForAll,
    ];

    #[test]
    fn each_pattern_is_whole_and_no_two_are_alike() {
        for (index, one) in ALL.into_iter().enumerate() {
            assert!(
                pattern(one).len().is_multiple_of(2) && pattern(one).iter().all(|&length| length >= 100),
                "{one:?}"
            );
            assert!(ALL[index + 1..].iter().all(|&other| pattern(other) != pattern(one)), "{one:?}");
        }
    }

    #[test]
    fn a_pattern_goes_round() {
        let seen = |ms| at(Signal::Problem, Duration::from_millis(ms));
        let ms = Duration::from_millis;
        for (time, expected) in [
            (0, (true, ms(150))),
            (149, (true, ms(1))),
            (150, (false, ms(200))),
            (700, (true, ms(150))),
            (850, (false, ms(1150))),
            (2000, (true, ms(150))),
            (2000 * 1_000_000 + 151, (false, ms(199))),
        ] {
            assert_eq!(seen(time), expected, "at {time} ms");
        }
        for signal in ALL {
            assert!((0..9000).all(|time| !at(signal, ms(time)).1.is_zero()), "{signal:?} waits");
        }
    }

    #[test]
    fn what_matters_most_is_what_it_says() {
        let ready = Status {
            stick: Stick::Ready { name: String::new(), free_bytes: 1 },
            images: vec!["raspios-1".parse().unwrap()],
            ..Status::default()
        };
        let problem = Problem { message: "a".to_owned(), action: "b".to_owned() };
        let confirm = Stick::NeedsConfirmation { name: String::new(), free_bytes: 1, place: NewPlace::File };
        let open = Enrolment::Open { left: Duration::from_secs(9), batch: false, enrolled: 0, swap: None };
        let released = Stick::Released { name: String::new() };
        for (status, expected) in [
            (Status::default(), Signal::NoStick),
            (ready.clone(), Signal::Ready),
            (Status { enrolment: Enrolment::Always, ..ready.clone() }, Signal::ReadyForAll),
            (Status { images: vec![], enrolment: Enrolment::Always, ..ready.clone() }, Signal::NoStick),
            (Status { images: vec![], ..ready.clone() }, Signal::NoStick),
            (Status { stick: Stick::Reading, ..ready.clone() }, Signal::Busy),
            (Status { stick: released, ..ready.clone() }, Signal::MayPull),
            (Status { problems: vec![problem.clone()], ..ready.clone() }, Signal::Problem),
            (Status { problems: vec![problem.clone()], enrolment: open, ..ready.clone() }, Signal::Window),
            (Status { problems: vec![problem], stick: confirm, ..ready }, Signal::Confirm),
        ] {
            assert_eq!(signal(&status), expected, "{status:?}");
        }
    }

    #[test]
    fn the_led_is_taken_from_the_kernel_and_written_only_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Led::open(folder.path()).is_none());
        let led = folder.path().join("led0");
        std::fs::create_dir(&led).unwrap();
        std::fs::write(led.join("trigger"), "none [mmc0]").unwrap();
        std::fs::write(led.join("brightness"), "0").unwrap();
        let mut open = Led::open(folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(led.join("trigger")).unwrap(), "none");
        assert!(open.set(true));
        assert_eq!(std::fs::read_to_string(led.join("brightness")).unwrap(), "1");
        std::fs::write(led.join("brightness"), "untouched").unwrap();
        assert!(open.set(true));
        assert_eq!(std::fs::read_to_string(led.join("brightness")).unwrap(), "untouched");
        std::fs::remove_dir_all(&led).unwrap();
        assert!(!open.set(false));
    }
}
