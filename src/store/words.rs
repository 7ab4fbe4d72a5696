//! What people are told about sticks: messages with their figures, and what to
//! do next.
//!
//! Pure.

use super::place::OpenError;
use super::prepare::PrepareError;
use super::root::RootError;
use super::shop::{MakeError, Refusal};
use super::table::NoRoom;
use super::{Event, chain};

/// What a person is told about a stick that cannot be used.
pub fn unusable(message: String, action: &str) -> Event {
    Event::StickUnusable { message, action: action.to_owned() }
}

/// Why no store could be made here, with the figures.
pub fn no_room(title: &str, error: &PrepareError, minimum_bytes: u64) -> Event {
    let mib = |bytes: u64| bytes >> 20;
    match error {
        PrepareError::NoRoom(NoRoom::TooSmall { largest_bytes, .. }) => unusable(
            format!(
                "{title} has {} MiB of unpartitioned space; {} MiB are needed",
                mib(*largest_bytes),
                mib(minimum_bytes)
            ),
            "Shrink its partition on a computer, or plug in a second, empty stick",
        ),
        PrepareError::NoRoom(NoRoom::Full) => {
            unusable(format!("{title} has four partitions already"), "Plug in a second, empty stick")
        }
        PrepareError::Refused(refusal) => unusable(format!("{title}: {refusal}"), refusal_action(refusal)),
        PrepareError::NoTable(_) => {
            unusable(format!("{title} holds files and has no free space for a store"), "Plug in a second, empty stick")
        }
        error => unusable(format!("{title}: {}", chain(error)), "Check the stick on a computer"),
    }
}

/// What to do about a FAT or exFAT file system.
pub fn refusal_action(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NoRoom { .. } | Refusal::TooMany(_) => "Delete files from it on a computer, or plug in an empty stick",
        Refusal::Fragmented(_) => "Copy it to a computer, empty the stick, and copy it back",
        Refusal::Cut { .. } => "Copy it back from a backup, or delete it and begin anew",
        Refusal::NotAStore => "Rename or delete that file on a computer",
        Refusal::Elsewhere => "Move it to the top of the stick, or delete it",
        Refusal::Unsupported(_) => "Format it as exFAT or FAT32, or use another stick",
        Refusal::Damaged(_) | Refusal::CrossLinked(_) | Refusal::MarkedFree(_) | Refusal::Read { .. } => {
            "Let a computer check and repair the stick"
        }
    }
}

/// What to do when no store could be made.
pub fn prepare_action(error: &PrepareError) -> &'static str {
    match error {
        PrepareError::Refused(refusal) | PrepareError::Make(MakeError::Refused(refusal)) => refusal_action(refusal),
        _ => "Try again, or use another stick",
    }
}

/// What to do when a store does not open.
pub fn open_action(error: &OpenError) -> &'static str {
    match error {
        OpenError::Damaged { .. } => "Run `e2fsck -f` on it at a computer; nothing was changed",
        OpenError::Busy { .. } => "Pull the stick and plug it in again",
        OpenError::Memory { .. } => "Use a stick that may be written",
        OpenError::Check { .. } | OpenError::Tool(_) | OpenError::Mount(_) => "Check the stick on a computer",
    }
}

/// What to do when a client could not be made.
pub fn root_action(error: &RootError) -> &'static str {
    match error {
        RootError::Exists(_) => "Use another name",
        RootError::NoImage(_) => "Copy an image to the stick",
        _ => "Check the stick and its free space",
    }
}
