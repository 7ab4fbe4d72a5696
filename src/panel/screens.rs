//! The wording: what each view says to a person who has never heard of DHCP.
//!
//! Pure. A screen is a headline and at most four short lines; longer texts are
//! shown in parts, one after the other, so that nothing is ever cut off.

use std::time::Duration;

use super::pages::View;
use super::screen::{BIG, COLUMNS, Element, HEADLINE, LINES, Screen};
use super::words::{self, shorten, wrap};
use crate::client::{ImageId, Role};
use crate::diagnose::Hint;
use crate::self_test::Target;
use crate::status::{
    Backup, Card, CardStep, ClientStatus, Enrolment, Import, NewPlace, Problem, Stage, Status, Stick, TestState,
    Update, Usage,
};
use crate::wire::{Finding, Light};

/// Each part of a longer text is shown for this long: four short lines are read in it.
pub const PART: Duration = Duration::from_secs(4);
/// The enrolment window gets twice that of its neighbours: somebody waits for it.
const WINDOW: Duration = Duration::from_secs(8);
/// A client that was not heard of for so long since our start needs more advice than to be switched on.
const UNHEARD: Duration = Duration::from_secs(600);
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
            &["You can pull it now.", "Your Pis wait for it", "Or press ENROLL to", "go on with it."],
        ),
        View::Notice(notice) => match notice.failed {
            true => told("Not done", &notice.message, "", shown),
            false => {
                let (screen, parts) = told("Done", &notice.message, "", shown);
                (Screen { alarm: false, ..screen }, parts)
            }
        },
        View::AskReset(role) => ask(role, "Reset", ["It becomes as new:", "its changes go."], "ENROLL: swap board"),
        View::AskSwap(role) => ask(role, "Swap", ["A new Pi takes its", "name and its files."], "ENROLL: reset it"),
        View::ConfirmStick => (alarm(confirm(&status.stick)), 1),
        View::Update => update(status),
        View::UnusableStick => match &status.stick {
            Stick::Unusable { message } => told("Stick: problem", message, "", shown),
            _ => says("Stick: problem", &[]),
        },
        View::Problem(Problem { message, action }) => told("Problem", message, action, shown),
        View::Window => (window(status), 1),
        View::Import => (import(status), 1),
        View::Backup => (backup(status), 1),
        View::Card(name) => (card(name, status.card.as_ref()), 1),
        View::Client(role) => match status.clients.iter().find(|client| client.role == *role) {
            Some(client) => client_screen(client, shown),
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
        View::Ready => (ready(status), 1),
        View::Images => (images(status), 1),
        View::Image(image) => (one_image(status, image), 1),
        View::Stick => stick(status, shown),
        View::Network => network(status, shown),
        View::About => about(status, shown),
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

fn confirm(stick: &Stick) -> Screen {
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

fn backup(status: &Status) -> Screen {
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
fn card(name: &str, card: Option<&Card>) -> Screen {
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

/// A question about a client. NEXT leaves it.
fn ask(role: &Role, deed: &str, what: [&str; 2], other: &str) -> (Screen, usize) {
    let headline = format!("{deed} {}?", shorten(role.as_str(), HEADLINE - deed.len() - 2));
    let lines = [what[0], what[1], "Hold ENROLL 3 s: yes", other];
    (alarm(Screen::new(&headline, lines.iter().map(line).collect())), 1)
}

fn window(status: &Status) -> Screen {
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

fn import(status: &Status) -> Screen {
    let Some(Import { file, per_mille, left }) = &status.import else {
        return Screen::new("Importing", vec![]);
    };
    let per_mille = (*per_mille).min(1000);
    let name = file.rsplit('/').next().unwrap_or(file);
    let body = vec![line(name), Element::Bar(per_mille), line(words::time_left(*left)), line("Leave the stick in.")];
    Screen::new(&format!("Importing {} %", per_mille / 10), body)
}

/// The appliance's own update.
fn update(status: &Status) -> (Screen, usize) {
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

fn ready(status: &Status) -> Screen {
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

fn client_screen(client: &ClientStatus, shown: Duration) -> (Screen, usize) {
    let name = client.role.as_str();
    let board = words::board(client.model, client.memory_mib, client.serial);
    let since = words::duration(client.since);
    let boots = |done, phrase: &str, detail: &str| {
        let steps = Element::Steps { done, total: STEPS };
        (Screen::new(name, vec![line(&board), steps, line(phrase), line(detail)]), 1)
    };
    let address = client.address.to_string();
    match &client.stage {
        Stage::Off if client.since >= UNHEARD => {
            let advice = wrap(Hint::NeverHeard.action(), COLUMNS);
            (Screen::new(name, [board].into_iter().chain(advice).map(line).collect()), 1)
        }
        Stage::Off => {
            let body = vec![line(&board), line(&address), line("Not heard of yet."), line("Switch it on.")];
            (Screen::new(name, body), 1)
        }
        Stage::Discovered => boots(1, "Asks for an address", &since),
        Stage::Leased => boots(2, "Got its address", &format!("{since}, {address}")),
        Stage::Loading { bytes, bytes_per_second, file, .. } => {
            let file = file.rsplit('/').next().unwrap_or(file);
            let file = format!("Loads {}", shorten(file, COLUMNS - 6));
            let rate = match bytes_per_second {
                0 => since,
                rate => format!("{}/s", words::bytes(*rate)),
            };
            match client.stage.per_mille() {
                Some(per_mille) => {
                    let body = vec![line(&board), Element::Bar(per_mille), line(file)];
                    let detail = line(format!("{} %, {rate}", per_mille / 10));
                    (Screen::new(name, body.into_iter().chain([detail]).collect()), 1)
                }
                None => boots(2, &file, &format!("{}, {rate}", words::bytes(*bytes))),
            }
        }
        Stage::Kernel => boots(3, "Its kernel starts", &since),
        Stage::Initramfs => boots(4, "Looks for its root", &since),
        Stage::RootMounted => boots(6, "Its system starts", &since),
        Stage::Gone => {
            let body =
                vec![line(&board), line(&address), line(format!("Gone for {since}.")), line("Is it switched off?")];
            (Screen::new(name, body), 1)
        }
        Stage::Up { after } | Stage::Running { after } => {
            let after = match (client.since.as_secs(), after) {
                (0..60, Some(after)) => format!("Up after {}", words::duration(*after)),
                (_, Some(_)) => format!("Up for {since}"),
                (_, None) => "Running".to_owned(),
            };
            // In turn with how long it took the last time, and how much of its quota it has.
            let took = client.last_boot.map(|took| format!("Last boot: {}", words::duration(took)));
            let lines: Vec<String> = [Some(after), took, client.usage.and_then(share)].into_iter().flatten().collect();
            let (at, _) = part(lines.len(), shown);
            let body = vec![line(&board), Element::Big(shorten(&address, BIG)), line(&lines[at])];
            (Screen::new(name, body), lines.len())
        }
        Stage::Stalled { at, hint } => {
            let headline = format!("{} is stuck", shorten(name, HEADLINE - 9));
            told(&headline, &format!("Stopped at: {at}"), hint.action(), shown)
        }
    }
}

/// `Has 6.9 GB of 8.5 GB`; nothing without a quota.
fn share(usage: Usage) -> Option<String> {
    Some(format!("Has {} of {}", words::bytes(usage.used_bytes), words::bytes(usage.quota_bytes?)))
}

/// No image, or the only one.
fn images(status: &Status) -> Screen {
    match status.images.last() {
        Some(image) => one_image(status, image),
        None => Screen::new("No image yet", vec![line("Copy one onto the"), line("stick: .img, .img.xz")]),
    }
}

/// One of several images, with what ENROLL does there.
fn one_image(status: &Status, image: &ImageId) -> Screen {
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

/// Behind what is free: of how much, and what of it clients do not get.
fn stick(status: &Status, shown: Duration) -> (Screen, usize) {
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

/// The address and the traffic light; behind them what the light means.
fn network(status: &Status, shown: Duration) -> (Screen, usize) {
    let finding = status.network.wire;
    let address = match status.network.address {
        Some(address) => Element::Big(address.to_string()),
        None => Element::Big("no address".to_owned()),
    };
    let light = match (status.network.carrier, finding.light()) {
        (false, _) => "Cable: not connected",
        (true, Light::Dark) => "Wire: listening",
        (true, Light::Green) => "Wire: good",
        (true, Light::Yellow) => "Wire: has a flaw",
        (true, Light::Red) => "Wire: needs you",
    };
    let asks = match status.strangers.len() {
        0 => "No unknown Pi asks.".to_owned(),
        1 => "1 unknown Pi asks.".to_owned(),
        count => format!("{count} unknown Pis ask."),
    };
    let mut parts = vec![vec![address, line(light), line(asks)]];
    if status.network.carrier && !matches!(finding, Finding::Clear | Finding::Asking) {
        // Short lines may share a screen; else the action has one of its own.
        let (sentence, action) = (wrap(&finding.sentence(), COLUMNS), wrap(finding.action(), COLUMNS));
        let texts = match sentence.len() + action.len() <= LINES {
            true => vec![[sentence, action].concat()],
            false => vec![sentence, action],
        };
        let chunks = texts.iter().flat_map(|text| text.chunks(LINES));
        parts.extend(chunks.map(|lines| lines.iter().map(line).collect()));
        parts.truncate(MAX_PARTS);
    }
    let (index, total) = part(parts.len(), shown);
    let mut screen = Screen::new("Network", parts.swap_remove(index));
    screen.place = (total > 1).then_some((index, total));
    (screen, total)
}

/// The image's version, in turn with the program's where that is another.
fn about(status: &Status, shown: Duration) -> (Screen, usize) {
    let program = env!("CARGO_PKG_VERSION");
    let image = status.image_version.as_deref().unwrap_or(program);
    let (index, total) = part(1 + usize::from(image != program), shown);
    let version = if index == 0 { format!("Version {image}") } else { format!("Program {program}") };
    let on = format!("On for {}", words::duration(status.uptime));
    let lines = [&version, &on, "ENROLL: self-test", "Held: saves a report"];
    (Screen::new("Rootstock", lines.map(line).to_vec()), total)
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
