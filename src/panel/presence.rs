//! How the panel shows that it is alive without wearing itself out: heartbeat,
//! brightness, and a slow shift of the whole picture.
//!
//! Pure. An OLED's pixels fade with the hours they are lit, so a picture that
//! stands for months burns in; dimming matters most, the shift softens edges.

use std::time::Duration;

use crate::status::{Enrolment, Stage, Status, Stick};

/// The picture moves by one pixel this often.
const SHIFT_EVERY: Duration = Duration::from_secs(60);
/// Long enough to read two short lines.
const TURN: Duration = Duration::from_secs(3);
/// Half of the heart's period.
pub const BEAT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brightness {
    Full,
    Dim,
    /// Everything off but the heart.
    Dark,
}

/// How a screen is to be shown at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub brightness: Brightness,
    /// Pixels to the right and down, 0 or 1 each: screens leave the last column and row free.
    pub shift: (u8, u8),
    /// The heart is full, else hollow.
    pub beat: bool,
    /// Counts minutes: where the heart wanders in the dark.
    pub minute: u64,
    /// Counts turns: which lines a glass of few rows shows.
    pub turn: u64,
}

impl Look {
    /// As on a screen that cannot wear: where the terminal's pictures and the tests' begin.
    pub const PLAIN: Self = Self { brightness: Brightness::Full, shift: (0, 0), beat: true, minute: 0, turn: 0 };
}

/// Remembers when something last happened.
#[derive(Debug)]
pub struct Presence {
    woken: Duration,
    /// Without a press or a change the display dims after this long,
    dim_after: Duration,
    /// and shows nothing but a wandering heart after this long; never, if zero.
    dark_after: Duration,
}

impl Presence {
    pub fn new(dim_after: Duration, dark_after: Duration) -> Self {
        Self { woken: Duration::ZERO, dim_after, dark_after }
    }

    /// A press, or a change worth looking at.
    pub fn wake(&mut self, now: Duration) {
        self.woken = now;
    }

    pub fn look(&self, now: Duration) -> Look {
        let minute = now.as_secs() / SHIFT_EVERY.as_secs();
        let shift = [(0, 0), (1, 0), (1, 1), (0, 1)][(minute % 4) as usize];
        let idle = now.saturating_sub(self.woken);
        let brightness = match idle {
            _ if idle < self.dim_after => Brightness::Full,
            _ if idle < self.dark_after || self.dark_after.is_zero() => Brightness::Dim,
            _ => Brightness::Dark,
        };
        let (beat, turn) = (now.as_secs() / BEAT.as_secs(), now.as_secs() / TURN.as_secs());
        Look { brightness, shift, beat: beat.is_multiple_of(2), minute, turn }
    }
}

/// Whether a person would want to see the new status: not for a passing second
/// or a counted byte, but for anything that has become something else.
pub fn wakes(old: &Status, new: &Status) -> bool {
    let kind = |status: &Status| {
        let stick = match &status.stick {
            Stick::Absent => 0,
            Stick::Reading => 1,
            Stick::NeedsConfirmation { .. } => 2,
            Stick::Preparing => 3,
            Stick::Ready { .. } => 4,
            Stick::Unusable { .. } => 5,
            Stick::Releasing { .. } => 6,
            Stick::Released { .. } => 7,
        };
        let open = matches!(status.enrolment, Enrolment::Open { .. });
        let file = status.import.as_ref().map(|import| import.file.clone());
        let card = status.card.as_ref().map(|card| std::mem::discriminant(&card.step));
        (stick, open, file, status.network, status.notice.clone(), card)
    };
    let stages = |status: &Status| -> Vec<_> {
        let kind = |stage: &Stage| std::mem::discriminant(stage);
        status.clients.iter().map(|client| (client.role.clone(), kind(&client.stage))).collect()
    };
    let stranger = new.strangers.iter().any(|stranger| !old.strangers.iter().any(|known| known.mac == stranger.mac));
    kind(old) != kind(new)
        || stages(old) != stages(new)
        || stranger
        || old.problems != new.problems
        || old.images != new.images
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Import;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn it_dims_then_goes_dark_and_a_wake_brings_it_back() {
        let mut presence = Presence::new(MINUTE, MINUTE * 60);
        let check = |presence: &Presence, minutes, brightness| {
            assert_eq!(presence.look(MINUTE * minutes).brightness, brightness, "after {minutes} minutes");
        };
        check(&presence, 0, Brightness::Full);
        check(&presence, 1, Brightness::Dim);
        check(&presence, 59, Brightness::Dim);
        check(&presence, 60, Brightness::Dark);
        presence.wake(MINUTE * 125);
        check(&presence, 125, Brightness::Full);
        check(&presence, 126, Brightness::Dim);
        check(&Presence::new(MINUTE, Duration::ZERO), 100_000, Brightness::Dim);
    }

    #[test]
    fn the_picture_visits_four_places_one_pixel_apart() {
        let presence = Presence::new(MINUTE, MINUTE * 60);
        let shifts: Vec<_> = (0..5).map(|minutes| presence.look(MINUTE * minutes).shift).collect();
        assert_eq!(shifts, [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]);
    }

    #[test]
    fn the_heart_beats_every_second() {
        let presence = Presence::new(MINUTE, MINUTE * 60);
        let beats: Vec<_> = (0..4).map(|second| presence.look(BEAT * second).beat).collect();
        assert_eq!(beats, [true, false, true, false]);
    }

    #[test]
    fn a_passing_second_wakes_nobody_and_a_change_does() {
        let open = Enrolment::Open { left: MINUTE, batch: false, enrolled: 0, swap: None };
        let import = |per_mille| Import { file: "a.img.xz".to_owned(), per_mille, left: None };
        let old = Status { import: Some(import(1)), ..Status::default() };
        let later = Status { uptime: MINUTE, import: Some(import(500)), ..Status::default() };
        assert!(!wakes(&old, &later));
        assert!(wakes(&old, &Status { import: None, ..old.clone() }));
        assert!(wakes(&old, &Status { stick: Stick::Reading, ..old.clone() }));
        assert!(wakes(&old, &Status { enrolment: open, ..old.clone() }));
    }
}
