//! Three wires from pin to pin: what a finger does, done by the board itself.
//!
//! I/O. GPIO 5 and 6 press the buttons as a finger does: they pull down or let
//! go, and never drive high, so that a real button pressed meanwhile is no
//! short circuit. GPIO 16 drives GPIO 26 both ways.

use std::time::{Duration, Instant};

use rootstock::panel::gestures::HOLD;
use rootstock::panel::gpio::Buttons;
use rootstock::panel::{Button, Gesture};
use rppal::gpio::{IoPin, Mode};

use super::gpio::{buttons, gpio};
use crate::ask;
use crate::bench::{Bench, Part};
use crate::verdict::{Outcome, Trouble, failed};

/// Which pin presses which button, ENROLL first.
const FINGERS: [u8; 2] = [5, 6];
const OUTPUT: u8 = 16;
const INPUT: u8 = 26;

/// Longer than the debouncing.
const TAP: Duration = Duration::from_millis(200);
const LEVELS: u32 = 200;
/// A wire needs nanoseconds; an emulated one is carried by a program.
const SETTLED: Duration = Duration::from_millis(100);

pub fn press(bench: &Bench) -> Outcome {
    let buttons = buttons(bench)?;
    let mut told = Vec::new();
    for (index, (button, name)) in [(Button::Enroll, "ENROLL"), (Button::Next, "NEXT")].into_iter().enumerate() {
        let mut finger = Finger::on(FINGERS[index])?;
        let pin = [bench.config.panel.enroll_gpio, bench.config.panel.next_gpio][index];
        if !connected(&buttons, &mut finger, index) {
            return bench.absent(Part::Jumpers, format!("no wire from GPIO {} to GPIO {pin} ({name})", FINGERS[index]));
        }
        for (time, wanted) in [(TAP, Gesture::Short(button)), (HOLD + TAP, Gesture::Long(button))] {
            let (seen, others) = watch(&buttons, &mut finger, time, wanted);
            if !seen || others > 0 {
                return failed(format!(
                    "{name}, {} ms: wanted {wanted:?}, seen: {seen}, others: {others}",
                    time.as_millis()
                ));
            }
        }
        told.push(format!("GPIO {} pressed {name}", FINGERS[index]));
    }
    Ok(told.join(", "))
}

pub fn carry(bench: &Bench) -> Outcome {
    let gpio = gpio()?;
    let take = |number| gpio.get(number).or_else(|error| failed(format!("GPIO {number}: {error}")));
    let (mut output, input) = (take(OUTPUT)?.into_output_low(), take(INPUT)?.into_input_pulldown());
    let mut follows = |high: bool| {
        output.write(if high { rppal::gpio::Level::High } else { rppal::gpio::Level::Low });
        within(SETTLED, || input.is_high() == high)
    };
    if !(follows(true) && follows(false) && follows(true)) {
        return bench.absent(Part::Jumpers, format!("no wire from GPIO {OUTPUT} to GPIO {INPUT}"));
    }
    match (0..LEVELS).position(|index| !follows(index % 2 == 0)) {
        None => Ok(format!("{LEVELS} levels")),
        Some(index) => failed(format!("level {index} of {LEVELS} did not arrive")),
    }
}

/// A pin that pulls down or lets go.
struct Finger(IoPin);

impl Finger {
    fn on(number: u8) -> Result<Self, Trouble> {
        match gpio()?.get(number) {
            Ok(pin) => {
                let mut pin = pin.into_io(Mode::Input);
                // The level it has as soon as it is an output.
                pin.set_low();
                Ok(Self(pin))
            }
            Err(error) => failed(format!("GPIO {number}: {error}")),
        }
    }

    fn press(&mut self) {
        self.0.set_mode(Mode::Output);
        self.0.set_low();
    }

    fn release(&mut self) {
        self.0.set_mode(Mode::Input);
    }
}

fn connected(buttons: &impl Buttons, finger: &mut Finger, index: usize) -> bool {
    let up = within(SETTLED, || !buttons.pressed()[index]);
    finger.press();
    let down = within(SETTLED, || buttons.pressed()[index]);
    finger.release();
    up && down && within(SETTLED, || !buttons.pressed()[index])
}

/// Presses for `time`; whether the wanted gesture came, and how many others.
fn watch(buttons: &impl Buttons, finger: &mut Finger, time: Duration, wanted: Gesture) -> (bool, usize) {
    let (mut seen, mut others) = (false, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Seen released first: a button that is down from the start counts for nothing.
            std::thread::sleep(TAP);
            finger.press();
            std::thread::sleep(time);
            finger.release();
        });
        ask::gestures(buttons, time + 3 * TAP, |gesture| {
            if gesture == wanted {
                seen = true
            } else {
                others += 1
            }
            false
        });
    });
    (seen, others)
}

fn within(time: Duration, mut question: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if question() {
            return true;
        }
        if start.elapsed() >= time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
