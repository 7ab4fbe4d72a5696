//! Images, and their import.
//!
//! Pure.

use super::line;
use crate::client::ImageId;
use crate::panel::screen::{COLUMNS, Element, Screen};
use crate::panel::words::{self, shorten};
use crate::self_test::Target;
use crate::status::{Import, Status, TestState};

pub(super) fn import(status: &Status) -> Screen {
    let Some(Import { file, per_mille, left }) = &status.import else {
        return Screen::new("Importing", vec![]);
    };
    let per_mille = (*per_mille).min(1000);
    let name = file.rsplit('/').next().unwrap_or(file);
    let body = vec![line(name), Element::Bar(per_mille), line(words::time_left(*left)), line("Leave the stick in.")];
    Screen::new(&format!("Importing {} %", per_mille / 10), body)
}

/// No image, or the only one.
pub(super) fn images(status: &Status) -> Screen {
    match status.images.last() {
        Some(image) => one_image(status, image),
        None => Screen::new("No image yet", vec![line("Copy one onto the"), line("stick: .img, .img.xz")]),
    }
}

/// One of several images, with what ENROLL does there.
pub(super) fn one_image(status: &Status, image: &ImageId) -> Screen {
    let users = status.clients.iter().filter(|client| client.image == *image).count();
    let users = match users {
        0 => "No Pi has it.".to_owned(),
        1 => "1 Pi has it.".to_owned(),
        count => format!("{count} Pis have it."),
    };
    // What the last test of it said matters more.
    let test = status.self_test.as_ref().filter(|test| test.target == Target::Image(image.clone()));
    let users = match test.map(|test| test.state) {
        Some(TestState::Runs) => "Self-test runs.".to_owned(),
        Some(TestState::Passed) => "Self-test: ok".to_owned(),
        Some(TestState::Failed(step)) => format!("Failed: {}", step.word()),
        None => users,
    };
    let is_default = status.images.last() == Some(image);
    let [first, second] = two_lines(image.as_str());
    let choice = if is_default { "New Pis get it." } else { "ENROLL: for new Pis" };
    let lines = [first.as_str(), second.as_str(), &users, choice];
    let headline = if is_default { "Image for new Pis" } else { "Another image" };
    Screen::new(headline, lines.iter().map(line).collect())
}

/// A name that is broken at a hyphen: its end tells versions apart.
fn two_lines(name: &str) -> [String; 2] {
    let first = name.get(..COLUMNS).filter(|_| name.len() > COLUMNS);
    let at = first.and_then(|first| first.rfind('-')).map_or(name.len().min(COLUMNS), |at| at + 1);
    let (first, second) = name.split_at_checked(at).unwrap_or((name, ""));
    [shorten(first, COLUMNS), shorten(second, COLUMNS)]
}
