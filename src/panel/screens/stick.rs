//! The stick, a second one beside it, and recovery cards.
//!
//! Pure.

use std::time::Duration;

use super::{alarm, line, part};
use crate::panel::screen::{BIG, Element, Screen};
use crate::panel::words::{self, shorten};
use crate::status::{Backup, Card, CardStep, NewPlace, Status, Stick};

pub(super) fn confirm(stick: &Stick) -> Screen {
    let (name, free, place) = match stick {
        Stick::NeedsConfirmation { name, free_bytes, place } => (name.as_str(), *free_bytes, *place),
        _ => ("", 0, NewPlace::Partition),
    };
    let (press, space) = match place {
        NewPlace::Partition => ("Hold ENROLL 3 s to", format!("use its free {}.", words::bytes(free))),
        NewPlace::File => ("Press ENROLL: adds a", format!("{} file to it.", words::bytes(free))),
        NewPlace::Copy => {
            let lines = [name, "Hold ENROLL if it", "is to stand in for", "the first stick."];
            let lines = lines.iter().filter(|text| !text.is_empty());
            return Screen::new("A backup stick", lines.map(line).collect());
        }
    };
    let lines = [name, press, &space, "Your files stay."];
    let lines = lines.iter().filter(|text| !text.is_empty());
    Screen::new("New USB stick", lines.map(line).collect())
}

pub(super) fn backup(status: &Status) -> Screen {
    match &status.backup {
        Some(Backup::Offered { name, renews }) => {
            let what = if *renews { "renew its old copy." } else { "copy all onto it." };
            let other = if status.card.is_some() { "NEXT: recovery card" } else { "" };
            let lines = [name.as_str(), "Hold ENROLL 3 s to", what, other];
            let lines = lines.iter().filter(|text| !text.is_empty());
            alarm(Screen::new("A second stick", lines.map(line).collect()))
        }
        Some(Backup::Running { name, per_mille }) => {
            let body = vec![line(name), Element::Bar(*per_mille), line("Leave both in.")];
            Screen::new(&format!("Backup {} %", per_mille / 10), body)
        }
        Some(Backup::Done { name }) => {
            Screen::new("Backup complete", [name.as_str(), "You can pull the", "second stick now."].map(line).to_vec())
        }
        None => Screen::new("Backup", vec![]),
    }
}

/// A disk beside the store's that becomes a recovery card.
pub(super) fn card(name: &str, card: Option<&Card>) -> Screen {
    match card.map(|card| &card.step) {
        Some(CardStep::Offered { bytes, boards }) => {
            let lost = format!("{}: all is LOST", words::bytes(*bytes));
            let lines = [name, &lost, "Hold ENROLL 3 s: yes", &format!("For {boards}")];
            alarm(Screen::new("Recovery card?", lines.map(line).to_vec()))
        }
        Some(CardStep::Writing { per_mille }) => {
            let per_mille = (*per_mille).min(1000);
            let body = vec![line(name), Element::Bar(per_mille), line("Leave it in.")];
            Screen::new(&format!("Card {} %", per_mille / 10), body)
        }
        Some(CardStep::Written) => {
            let lines = ["Put it into your Pi.", "Switch that on until", "its green light", "blinks fast."];
            Screen::new("The card is ready", lines.map(line).to_vec())
        }
        None => Screen::new("No card", vec![]),
    }
}

/// Behind what is free: of how much, and what of it clients do not get.
pub(super) fn page(status: &Status, shown: Duration) -> (Screen, usize) {
    let (name, free, state) = match &status.stick {
        Stick::Absent => ("None plugged in.", None, ""),
        Stick::Reading => ("Being read.", None, ""),
        Stick::NeedsConfirmation { name, free_bytes, .. } => (name.as_str(), Some(*free_bytes), "Waits for your OK."),
        Stick::Preparing => ("Being prepared.", None, "Leave it in."),
        Stick::Ready { name, free_bytes } => (name.as_str(), Some(*free_bytes), "To pull: hold ENROLL"),
        Stick::Releasing { .. } => ("Being closed.", None, "Leave it in."),
        Stick::Released { .. } => ("Closed.", None, "You can pull it now."),
        Stick::Unusable { .. } => ("Cannot be used.", None, ""),
    };
    let parts = 1 + usize::from(status.room.is_some());
    let (at, _) = part(parts, shown);
    let lines = match status.room.filter(|_| at == 1) {
        Some(room) => {
            let kept = format!("Kept back: {}", words::bytes(room.reserve_bytes));
            [line(format!("The store has {}", words::bytes(room.total_bytes))), line(kept)]
        }
        None => [line(name), line(state)],
    };
    let free = free.map(|free| Element::Big(shorten(&(words::bytes(free) + " free"), BIG)));
    (Screen::new("USB stick", free.into_iter().chain(lines).collect()), parts)
}
