//! What a finger meant: samples of two buttons in, presses out.
//!
//! Pure: the time is an argument. A level counts once it has been the same for
//! `DEBOUNCE`; a press is short when it ends before `HOLD`, long at `HOLD`
//! while the finger is still down, and longer at `LONGER`.

use std::time::Duration;

use super::{Button, Gesture};

/// How often the levels are read. Interrupts do not arrive on emulated boards,
/// and 100 reads a second of one register cost nothing.
pub const SAMPLING: Duration = Duration::from_millis(10);
/// Contacts of cheap tactile switches settle within 5 to 20 ms.
pub const DEBOUNCE: Duration = Duration::from_millis(30);
/// Long enough that nobody does it by mistake: a long press may prepare a stick.
pub const HOLD: Duration = Duration::from_secs(3);
/// For a downgrade: longer than anybody holds who means an update.
pub const LONGER: Duration = Duration::from_secs(8);
/// `LONGER` in thousandths of `HOLD`.
pub const LONGER_HOLD: u16 = 2666;
/// With one button only: a shorter press is NEXT's, a longer one ENROLL's.
pub const TAP: Duration = Duration::from_secs(1);
/// A press is drawn as being held from here on.
const VISIBLE: Duration = Duration::from_millis(300);
/// After a longer gap between two samples nothing is known of the time
/// between, so a press does not count through it: it might confirm something.
const BLIND: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not yet seen released. Inputs that read pressed at the start (a jammed
    /// button, a bare pin of an emulated board) must not press anything.
    Unseen,
    Released,
    /// Since when, and what was reported of it.
    Pressed {
        since: Duration,
        told: Told,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Long,
    Longer,
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    button: Button,
    state: State,
    /// The level of the last sample, and since when it has been that.
    level: Option<(bool, Duration)>,
    /// It stands for NEXT too, by taps.
    alone: bool,
}

/// Both buttons.
#[derive(Debug)]
pub struct Gestures {
    channels: [Channel; 2],
    last: Option<Duration>,
}

impl Default for Gestures {
    fn default() -> Self {
        let channel = |button| Channel { button, state: State::Unseen, level: None, alone: false };
        Self { channels: [channel(Button::Enroll), channel(Button::Next)], last: None }
    }
}

impl Gestures {
    /// ENROLL is the only button that there is: a tap is NEXT, a press of one to
    /// three seconds ENROLL, a hold ENROLL held.
    pub fn of_one_button() -> Self {
        let mut gestures = Self::default();
        gestures.channels[0].alone = true;
        gestures
    }
}

impl Gestures {
    /// One sample of both buttons, `true` for pressed, ENROLL first. `now` counts from any fixed moment.
    pub fn sample(&mut self, now: Duration, pressed: [bool; 2]) -> Vec<Gesture> {
        let blind = self.last.is_some_and(|last| now.saturating_sub(last) > BLIND);
        self.last = Some(now);
        let mut gestures = Vec::new();
        for (channel, pressed) in self.channels.iter_mut().zip(pressed) {
            if blind {
                (channel.state, channel.level) = (State::Unseen, None);
            }
            gestures.extend(channel.sample(now, pressed));
        }
        gestures
    }

    /// The button being held and how much of `HOLD` has passed in thousandths, up to `LONGER_HOLD`.
    pub fn holding(&self, now: Duration) -> Option<(Button, u16)> {
        self.channels.iter().find_map(|channel| match channel.state {
            State::Pressed { since, told: Told::Nothing | Told::Long } if now.saturating_sub(since) >= VISIBLE => {
                let passed = now.saturating_sub(since).as_millis() * 1000 / HOLD.as_millis();
                Some((channel.button, u16::try_from(passed).unwrap_or(LONGER_HOLD).min(LONGER_HOLD)))
            }
            _ => None,
        })
    }
}

impl Channel {
    fn sample(&mut self, now: Duration, pressed: bool) -> Option<Gesture> {
        let since = match self.level {
            Some((level, since)) if level == pressed => since,
            _ => now,
        };
        self.level = Some((pressed, since));
        let steady = now.saturating_sub(since) >= DEBOUNCE;
        match (self.state, pressed) {
            (State::Unseen, false) if steady => self.state = State::Released,
            // The hold is counted from the first touch, not from when it was believed.
            (State::Released, true) if steady => self.state = State::Pressed { since, told: Told::Nothing },
            (State::Pressed { told, since: pressed }, false) if steady => {
                self.state = State::Released;
                let tap = self.alone && since.saturating_sub(pressed) < TAP;
                return (told == Told::Nothing).then_some(Gesture::Short(if tap { Button::Next } else { self.button }));
            }
            (State::Pressed { since, told: Told::Nothing }, true) if now.saturating_sub(since) >= HOLD => {
                self.state = State::Pressed { since, told: Told::Long };
                return Some(Gesture::Long(self.button));
            }
            (State::Pressed { since, told: Told::Long }, true) if now.saturating_sub(since) >= LONGER => {
                self.state = State::Pressed { since, told: Told::Longer };
                return Some(Gesture::Longer(self.button));
            }
            (State::Unseen | State::Released | State::Pressed { .. }, _) => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays ENROLL's level as (milliseconds, pressed) runs, sampled every 10 ms,
    /// and tells the gestures with the time each came.
    fn check(runs: &[(u64, bool)], expected: &[(u64, Gesture)]) {
        let mut gestures = Gestures::default();
        let (mut at, mut got) = (0, Vec::new());
        for &(length, pressed) in runs {
            for _ in 0..length / 10 {
                let found = gestures.sample(Duration::from_millis(at), [pressed, false]);
                got.extend(found.into_iter().map(|gesture| (at, gesture)));
                at += 10;
            }
        }
        assert_eq!(got, expected, "{runs:?}");
    }

    const SHORT: Gesture = Gesture::Short(Button::Enroll);
    const LONG: Gesture = Gesture::Long(Button::Enroll);

    #[test]
    fn a_short_press_counts_when_it_is_released() {
        check(&[(100, false), (200, true), (100, false)], &[(330, SHORT)]);
    }

    #[test]
    fn a_long_press_fires_at_three_seconds_while_still_held() {
        check(&[(100, false), (4000, true), (100, false)], &[(3100, LONG)]);
        let longer = (8100, Gesture::Longer(Button::Enroll));
        check(&[(100, false), (20_000, true), (100, false)], &[(3100, LONG), longer]);
    }

    #[test]
    fn just_under_three_seconds_is_short() {
        check(&[(100, false), (2990, true), (100, false)], &[(3120, SHORT)]);
    }

    #[test]
    fn one_button_alone_is_both_by_how_long_it_is_pressed() {
        for (length, expected) in [
            (200, Gesture::Short(Button::Next)),
            (990, Gesture::Short(Button::Next)),
            (1000, Gesture::Short(Button::Enroll)),
            (2900, Gesture::Short(Button::Enroll)),
            (3500, Gesture::Long(Button::Enroll)),
        ] {
            let mut gestures = Gestures::of_one_button();
            let pressed = |ms| (100..100 + length).contains(&ms);
            let all =
                (0..4000).step_by(10).flat_map(|ms| gestures.sample(Duration::from_millis(ms), [pressed(ms), false]));
            assert_eq!(all.collect::<Vec<_>>(), [expected], "{length} ms");
        }
    }

    #[test]
    fn bouncing_contacts_are_one_press() {
        let bounce = [(10, true), (10, false), (20, true), (10, false)];
        let runs = [&[(100, false)][..], &bounce, &[(200, true)], &bounce, &[(100, false)]].concat();
        check(&runs, &[(420, SHORT)]);
    }

    #[test]
    fn a_glitch_is_no_press_and_a_dropout_does_not_end_a_hold() {
        check(&[(100, false), (20, true), (200, false)], &[]);
        check(&[(100, false), (1500, true), (20, false), (2000, true)], &[(3100, LONG)]);
    }

    #[test]
    fn a_button_that_is_down_at_the_start_presses_nothing_until_it_was_up() {
        check(&[(9000, true), (100, false)], &[]);
        check(&[(9000, true), (100, false), (100, true), (100, false)], &[(9230, SHORT)]);
    }

    #[test]
    fn a_press_does_not_count_through_a_gap_in_the_samples() {
        let mut gestures = Gestures::default();
        let mut at = |ms, pressed| gestures.sample(Duration::from_millis(ms), [pressed, false]);
        for ms in (0..200).step_by(10) {
            assert_eq!(at(ms, ms > 100), []);
        }
        assert_eq!(at(5000, true), []);
        assert_eq!(at(5010, true), []);
        assert_eq!(at(8100, true), []);
    }

    #[test]
    fn both_buttons_are_told_apart_and_a_hold_is_shown() {
        let mut gestures = Gestures::default();
        let mut last = Vec::new();
        for ms in (0..1600).step_by(10) {
            last = gestures.sample(Duration::from_millis(ms), [false, ms >= 100]);
        }
        assert_eq!((last.clone(), gestures.holding(Duration::from_millis(1600))), (vec![], Some((Button::Next, 500))));
        for ms in (1600..1700).step_by(10) {
            last = [last, gestures.sample(Duration::from_millis(ms), [false, false])].concat();
        }
        assert_eq!((last, gestures.holding(Duration::from_millis(1700))), (vec![Gesture::Short(Button::Next)], None));
    }
}
