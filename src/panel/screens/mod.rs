//! The wording: what each view says to a person who has never heard of DHCP.
//!
//! Pure. A screen is a headline and at most four short lines; longer texts are
//! shown in parts, one after the other, so that nothing is ever cut off. Each
//! topic's screens are in a file of its own; here is what they share.

mod appliance;
mod client;
mod image;
mod stick;
mod wire;

use std::time::Duration;

use super::pages::View;
use super::screen::{COLUMNS, Element, LINES, Screen};
use super::words::{self, shorten, wrap};
use crate::status::{Enrolment, Import, Problem, Status, Stick};

/// Each part of a longer text is shown for this long: four short lines are read in it.
pub const PART: Duration = Duration::from_secs(4);
/// The enrolment window gets twice that of its neighbours: somebody waits for it.
const WINDOW: Duration = Duration::from_secs(8);
/// Parts of one text.
const MAX_PARTS: usize = 12;
/// Stages of a boot as drawn: asked, address, files, kernel, initramfs, root, up.
const STEPS: u8 = 7;

/// The status as it is `elapsed` after it was told: clocks in it have gone on.
pub fn aged(mut status: Status, elapsed: Duration) -> Status {
    status.uptime = status.uptime.saturating_add(elapsed);
    if let Enrolment::Open { left, .. } = &mut status.enrolment {
        *left = left.saturating_sub(elapsed);
    }
    if let Some(Import { left: Some(left), .. }) = &mut status.import {
        *left = left.saturating_sub(elapsed);
    }
    for client in &mut status.clients {
        client.since = client.since.saturating_add(elapsed);
    }
    status
}

/// How long a view stays before the next of the overview has its turn.
pub fn dwell(status: &Status, view: &View) -> Duration {
    match view {
        View::Window => WINDOW,
        _ => PART * u32::try_from(compose(status, view, Duration::ZERO).1).unwrap_or(1),
    }
}

/// The screen of one view, `shown` after it came up.
pub fn screen(status: &Status, view: &View, shown: Duration) -> Screen {
    compose(status, view, shown).0
}

/// The screen and the number of parts that it is one of.
fn compose(status: &Status, view: &View, shown: Duration) -> (Screen, usize) {
    let busy = Element::Busy(u64::try_from(shown.as_millis() / 500).unwrap_or(0));
    let says = |headline: &str, lines: &[&str]| (Screen::new(headline, lines.iter().map(line).collect()), 1);
    let waits = |headline: &str, lines: &[&str]| {
        let lines = lines.iter().map(line);
        (Screen::new(headline, [busy.clone(), Element::Gap(2)].into_iter().chain(lines).collect()), 1)
    };
    match view {
        View::Starting => waits("Starting", &["One moment, please."]),
        View::NoStick => says(
            "Insert a stick",
            &["Plug in a USB stick", "with a Raspberry Pi", "OS image on it:", ".img or .img.xz"],
        ),
        View::ReadingStick => waits("Reading stick", &["Looking for images.", "Leave it in."]),
        View::PreparingStick => waits("Preparing stick", &["Making room for your", "Pis. Leave it in."]),
        View::ReleasingStick => waits("Closing stick", &["The last writes.", "Leave it in."]),
        View::ReleasedStick => says(
            "Stick is closed",
            &["You can pull it now.", "Your Pis will wait.", "Or press ENROLL to", "go on with it."],
        ),
        View::Notice(notice) => match notice.failed {
            true => told("Not done", &notice.message, "", shown),
            false => {
                let (screen, parts) = told("Done", &notice.message, "", shown);
                (Screen { alarm: false, ..screen }, parts)
            }
        },
        View::AskReset(role) => {
            client::ask(role, "Reset", ["It becomes as new:", "its changes go."], "ENROLL: swap board")
        }
        View::AskSwap(role) => {
            client::ask(role, "Swap", ["A new Pi takes its", "name and its files."], "ENROLL: reset it")
        }
        View::ConfirmStick => (alarm(stick::confirm(&status.stick)), 1),
        View::Update => appliance::update(status),
        View::UnusableStick => match &status.stick {
            Stick::Unusable { message } => told("Stick: problem", message, "", shown),
            _ => says("Stick: problem", &[]),
        },
        View::Problem(Problem { message, action }) => told("Problem", message, action, shown),
        View::Window => (appliance::window(status), 1),
        View::Import => (image::import(status), 1),
        View::Backup => (stick::backup(status), 1),
        View::Card(name) => (stick::card(name, status.card.as_ref()), 1),
        View::Client(role) => match status.clients.iter().find(|client| client.role == *role) {
            Some(client) => client::page(client, shown),
            None => says(role.as_str(), &["Forgotten."]),
        },
        View::Stranger(mac) => {
            let stranger = status.strangers.iter().find(|stranger| stranger.mac == *mac);
            let board = stranger.map_or_else(
                || mac.to_string(),
                |stranger| words::board(stranger.model, stranger.memory_mib, stranger.serial),
            );
            if let Some(of) = stranger.and_then(|stranger| stranger.of) {
                return says("Not our Pi", &[&board, "It belongs to the", "other Rootstock,", &format!("{of}.")]);
            }
            match stranger.and_then(|stranger| stranger.hint) {
                Some(hint) => {
                    let lines = [board].into_iter().chain(wrap(hint.action(), COLUMNS)).map(line);
                    (Screen::new("A new Pi asks", lines.collect()), 1)
                }
                None => says("A new Pi asks", &[&board, "", "Press ENROLL to", "let it in."]),
            }
        }
        View::NoCable => {
            let (screen, parts) =
                says("No network cable", &["Connect this Pi and", "your other Pis to", "the same switch."]);
            (alarm(screen), parts)
        }
        View::NoImage => {
            says("No image yet", &["On your computer,", "copy a Raspberry Pi", "OS image (.img.xz)", "onto the stick."])
        }
        View::Ready => (appliance::ready(status), 1),
        View::Images => (image::images(status), 1),
        View::Image(image) => (image::one_image(status, image), 1),
        View::Stick => stick::page(status, shown),
        View::Network => wire::page(status, shown),
        View::About => appliance::about(status, shown),
    }
}

fn line(text: impl AsRef<str>) -> Element {
    Element::Line(shorten(text.as_ref(), COLUMNS))
}

fn alarm(mut screen: Screen) -> Screen {
    screen.alarm = true;
    screen
}

/// What is wrong and what to do; in several parts if it is long, the action by itself.
fn told(headline: &str, message: &str, action: &str, shown: Duration) -> (Screen, usize) {
    let (message, action) = (wrap(message, COLUMNS), wrap(action, COLUMNS));
    let pages: Vec<(&str, Vec<String>)> = if message.len() + action.len() <= LINES {
        vec![(headline, [message, action].concat())]
    } else {
        let message = message.chunks(LINES).map(|lines| (headline, lines.to_vec()));
        let action = action.chunks(LINES).map(|lines| ("What to do", lines.to_vec()));
        // The action must be told however long the message is.
        let room = MAX_PARTS.saturating_sub(action.len()).max(1);
        message.take(room).chain(action).take(MAX_PARTS).collect()
    };
    let (index, total) = part(pages.len(), shown);
    let (headline, lines) = pages.into_iter().nth(index).unwrap_or((headline, Vec::new()));
    let mut screen = alarm(Screen::new(headline, lines.iter().map(line).collect()));
    screen.place = (total > 1).then_some((index, total));
    (screen, total)
}

/// Which of `total` parts is due.
fn part(total: usize, shown: Duration) -> (usize, usize) {
    let total = total.max(1);
    let turn = shown.as_secs() / PART.as_secs();
    (usize::try_from(turn).unwrap_or(0) % total, total)
}

/// Whether a hint for a stalled client is told on one screen, beside `at`. For the tests of those who write hints.
pub fn fits_one_screen(hint: &str) -> bool {
    wrap(hint, COLUMNS).len() <= LINES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_in_a_status_go_on_after_it_was_told() {
        let second = Duration::from_secs(1);
        let status = Status {
            enrolment: Enrolment::Open { left: second * 100, batch: false, enrolled: 0, swap: None },
            import: Some(Import { file: String::new(), per_mille: 1, left: Some(second) }),
            ..Status::default()
        };
        let aged = aged(status, second * 40);
        assert_eq!(aged.uptime, second * 40);
        assert!(matches!(aged.enrolment, Enrolment::Open { left, .. } if left == second * 60));
        assert_eq!(aged.import.and_then(|import| import.left), Some(Duration::ZERO));
    }

    /// All parts of a told problem, in order.
    fn parts(message: &str, action: &str) -> Vec<String> {
        let (_, total) = told("Problem", message, action, Duration::ZERO);
        (0..total as u32).map(|part| told("Problem", message, action, PART * part).0.text()).collect()
    }

    #[test]
    fn a_long_problem_is_told_in_parts_and_its_action_by_itself() {
        let message = "rootstock.toml line 5, panel.i2c_bus: expected a whole number in the key's range";
        let expected = [
            "Problem | rootstock.toml line | 5, panel.i2c_bus: | expected a whole | number in the key's",
            "Problem | range",
            "What to do | Mend it.",
        ];
        assert_eq!(parts(message, "Mend it."), expected);
        assert_eq!(parts("Stick is full.", "Delete an image."), ["Problem | Stick is full. | Delete an image."]);
        assert_eq!(parts("", ""), ["Problem"]);
    }

    #[test]
    fn the_action_is_told_however_long_the_message_is() {
        let parts = parts(&"word ".repeat(10_000), "Mend it.");
        assert!(parts.len() <= MAX_PARTS);
        assert_eq!(parts.last().map(String::as_str), Some("What to do | Mend it."));
    }

    #[test]
    fn a_hint_of_four_lines_fits_one_screen() {
        assert!(fits_one_screen("Is the cable in? Does the switch have power?"));
        assert!(!fits_one_screen(&"nineteen characters ".repeat(5)));
    }
}
