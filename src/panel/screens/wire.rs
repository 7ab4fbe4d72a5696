//! The network: our address and the traffic light of the wire.
//!
//! Pure.

use std::time::Duration;

use super::{MAX_PARTS, line, part};
use crate::panel::screen::{COLUMNS, Element, LINES, Screen};
use crate::panel::words::wrap;
use crate::status::Status;
use crate::wire::{Finding, Light};

/// The address and the traffic light; behind them what the light means.
pub(super) fn page(status: &Status, shown: Duration) -> (Screen, usize) {
    let finding = status.network.wire;
    let address = match status.network.address {
        Some(address) => Element::Big(address.to_string()),
        None => Element::Big("no address".to_owned()),
    };
    let absent = matches!(finding, Finding::NoInterface { .. });
    let light = match (status.network.carrier, finding.light()) {
        _ if absent => "Wire: no interface",
        (false, _) => "Cable: not connected",
        (true, Light::Dark) => "Wire: listening",
        (true, Light::Green) => "Wire: good",
        (true, Light::Yellow) => "Wire: has a flaw",
        (true, Light::Red) => "Wire: needs you",
    };
    let new = status.strangers.iter().filter(|stranger| stranger.of.is_none());
    let asks = match new.count() {
        0 => "No new Pi asks.".to_owned(),
        1 => "1 new Pi asks.".to_owned(),
        count => format!("{count} new Pis ask."),
    };
    let mut parts = vec![vec![address, line(light), line(asks)]];
    if absent || status.network.carrier && !matches!(finding, Finding::Clear | Finding::Asking) {
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
