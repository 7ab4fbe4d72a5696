//! A client: its boot, its page, and what is asked before something is done to it.
//!
//! Pure.

use std::time::Duration;

use super::{STEPS, alarm, line, part, told};
use crate::client::Role;
use crate::diagnose::Hint;
use crate::panel::screen::{BIG, COLUMNS, Element, HEADLINE, Screen};
use crate::panel::words::{self, shorten, wrap};
use crate::status::{ClientStatus, Stage, UNHEARD, Usage};

pub(super) fn page(client: &ClientStatus, shown: Duration) -> (Screen, usize) {
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
            let advice = wrap(client.advice.unwrap_or(Hint::NeverHeard).action(), COLUMNS);
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
        Stage::Initramfs => boots(4, "Looks for its files", &since),
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

/// A question about a client. NEXT leaves it.
pub(super) fn ask(role: &Role, deed: &str, what: [&str; 2], other: &str) -> (Screen, usize) {
    let headline = format!("{deed} {}?", shorten(role.as_str(), HEADLINE - deed.len() - 2));
    let lines = [what[0], what[1], "Hold ENROLL 3 s: yes", other];
    (alarm(Screen::new(&headline, lines.iter().map(line).collect())), 1)
}
