//! The appliance itself: rest, enrolment window, update, version.
//!
//! Pure.

use std::time::Duration;

use super::{alarm, line, part};
use crate::panel::screen::{BIG, COLUMNS, Element, HEADLINE, Screen};
use crate::panel::words::{self, shorten};
use crate::status::{Enrolment, Stage, Status, Update};

pub(super) fn window(status: &Status) -> Screen {
    let (left, headline, lines) = match &status.enrolment {
        Enrolment::Open { left, swap: Some(role), .. } => {
            let headline = format!("Swap {}", shorten(role.as_str(), HEADLINE - 5));
            (left.as_secs(), headline, ["Switch on the new Pi".to_owned(), "It takes its place.".to_owned()])
        }
        Enrolment::Open { left, batch: true, enrolled, .. } => {
            let count = format!("{} added. ENROLL ends", (*enrolled).min(99_999));
            (left.as_secs(), "Waiting for Pis".to_owned(), ["Switch them on.".to_owned(), shorten(&count, COLUMNS)])
        }
        Enrolment::Open { left, .. } => {
            let lines = ["Switch on the new Pi".to_owned(), "Cable in, no SD card".to_owned()];
            (left.as_secs(), "Waiting for a Pi".to_owned(), lines)
        }
        Enrolment::Closed | Enrolment::Always => (0, "Waiting for a Pi".to_owned(), [String::new(), String::new()]),
    };
    let left = Element::Big(format!("{} s left", left.min(99_999)));
    Screen::new(&headline, [left].into_iter().chain(lines.iter().map(line)).collect())
}

/// The appliance's own update.
pub(super) fn update(status: &Status) -> (Screen, usize) {
    let says = |headline: String, lines: [&str; 4]| (Screen::new(&headline, lines.iter().map(line).collect()), 1);
    let (screen, parts) = match &status.update {
        None => says("No update".to_owned(), ["", "", "", ""]),
        Some(Update::Offered { version, older: false, tried: false, .. }) => {
            says(format!("Update {version}"), ["It is on the stick.", "Hold ENROLL for", "3 seconds to", "install it."])
        }
        Some(Update::Offered { version, older: false, tried: true, .. }) => says(
            format!("Update {version}"),
            ["It did not pass its", "test: the former", "version runs. Hold", "ENROLL: try again."],
        ),
        Some(Update::Offered { version, older: true, .. }) => says(
            format!("Go back to {version}?"),
            ["This is an OLDER", "version. Hold ENROLL", "for 8 SECONDS if you", "mean it."],
        ),
        Some(Update::Writing { version, per_mille }) => {
            let body = vec![
                line("Writing and checking"),
                Element::Bar((*per_mille).min(1000)),
                line("Your Pis go on."),
                line("Leave the stick in."),
            ];
            return (Screen::new(&format!("Update {version}"), body), 1);
        }
        Some(Update::Restarting { version }) => {
            says(format!("Trying {version}"), ["Restarting. Your Pis", "wait for a minute", "and go on.", ""])
        }
        Some(Update::OnTrial { version }) => says(
            format!("Trying {version}"),
            ["It is kept when it", "serves. If not, the", "former version comes", "back by itself."],
        ),
    };
    (alarm(screen), parts)
}

pub(super) fn ready(status: &Status) -> Screen {
    let address = status.network.address.map_or("no address yet".to_owned(), |address| address.to_string());
    let image = match status.images.as_slice() {
        [image] => image.to_string(),
        images => format!("{} images", images.len()),
    };
    let all = status.clients.len();
    let count = |wanted: fn(&Stage) -> bool| status.clients.iter().filter(|client| wanted(&client.stage)).count();
    let up = count(Stage::is_up);
    let stuck = count(|stage| matches!(stage, Stage::Stalled { .. }));
    let always = status.enrolment == Enrolment::Always;
    if all == 0 {
        let adds = if always {
            ["Switch on a Pi: each", "that asks is added."]
        } else {
            ["Press ENROLL to add", "your first Pi."]
        };
        return Screen::new("Ready", vec![line(address), line(image), line(adds[0]), line(adds[1])]);
    }
    let gone = count(|stage| matches!(stage, Stage::Gone));
    let second = match (stuck, gone) {
        (0, 0) => address,
        (0, gone) => format!("{gone} switched off"),
        (stuck, 0) => format!("{stuck} stuck"),
        (stuck, gone) => format!("{stuck} stuck, {gone} off"),
    };
    let adds = if always { "New Pis are added." } else { "ENROLL adds a Pi." };
    let counts = Element::Big(shorten(&format!("{up} of {all} up"), BIG));
    Screen::new("Ready", vec![counts, line(second), line(adds)])
}

/// The image's version, in turn with the program's where that is another.
pub(super) fn about(status: &Status, shown: Duration) -> (Screen, usize) {
    let program = env!("CARGO_PKG_VERSION");
    let image = status.image_version.as_deref().unwrap_or(program);
    let (index, total) = part(1 + usize::from(image != program), shown);
    let version = if index == 0 { format!("Version {image}") } else { format!("Program {program}") };
    let on = format!("On for {}", words::duration(status.uptime));
    let lines = [&version, &on, "ENROLL: self-test", "Held: saves a report"];
    (Screen::new("Rootstock", lines.map(line).to_vec()), total)
}
