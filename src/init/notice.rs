//! The helper `rootstock notice TEXT`: why PID 1 cannot start, said on the display too.
//!
//! I/O, as good as it goes: no server runs then, so nobody else drives the display, and PID 1 restarts the machine soon,
//! whatever became of this. `plug`, started beside it, loads the drivers of the bus and the card. Which
//! display it is, the card's settings say, read without a mount as `bootconf` does; without them it is the default's.
//! A process of its own, because a card's content is whatever somebody put there.

use std::time::Duration;

use super::bootconf::{Finder, Paths};
use super::log::{now, say};
use super::plan::ESSENTIAL_PAUSE;
use super::words::Words;
use crate::config::{self, Glass};
use crate::panel::frame::Frame;
use crate::panel::oled::{self, Oled};
use crate::panel::presence::{Brightness, Look};
use crate::panel::screen::{COLUMNS, Element, LINES, Screen};
use crate::panel::{draw, low, words};

/// How long the card is looked for: a healthy one is there within 2 s. Without it the default display is tried.
const CARD_PATIENCE: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(50);

/// Shows it, or gives up when the machine is about to restart.
pub fn run(text: &str) {
    let give_up = now() + ESSENTIAL_PAUSE;
    let panel = settings(now() + CARD_PATIENCE);
    let frame = picture(&screen(text), panel.size);
    let mut failed = String::new();
    while now() < give_up {
        let shown = oled::open_bus(panel.i2c_bus).and_then(|i2c| Oled::start(i2c, &panel, &frame, Brightness::Full));
        match shown {
            Ok(_) => return say!("notice", "the display says so too"),
            Err(error) => failed = error.to_string(),
        }
        std::thread::sleep(PAUSE);
    }
    say!("notice", "no display: {failed}");
}

/// What the card says of the display, if it can be read in this time.
fn settings(give_up: Duration) -> config::Panel {
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let Some(id) = Words::parse(&cmdline).boot else { return config::Panel::default() };
    let paths = Paths::default();
    let mut finder = Finder::new(&paths, id);
    while now() < give_up {
        if let Some(found) = finder.look() {
            return match found.config {
                Ok(Some(bytes)) => config::parse(&bytes).0.panel,
                Ok(None) | Err(_) => config::Panel::default(),
            };
        }
        std::thread::sleep(PAUSE);
    }
    config::Panel::default()
}

/// What it shows of an error: a sentence with its causes, cut off where the display ends.
pub fn screen(text: &str) -> Screen {
    let mut lines = words::wrap(text, COLUMNS);
    if lines.len() > LINES {
        lines.truncate(LINES);
        if let Some(last) = lines.last_mut() {
            *last = format!("{}…", last.chars().take(COLUMNS - 1).collect::<String>());
        }
    }
    Screen { alarm: true, ..Screen::new("Cannot start", lines.into_iter().map(Element::Line).collect()) }
}

fn picture(screen: &Screen, glass: Glass) -> Frame {
    match glass {
        Glass::Rows64 => draw::frame(screen, Look::PLAIN),
        Glass::Rows32 => low::frame(screen, Look::PLAIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_the_display() {
        for text in [
            "",
            "cannot mount tmpfs on /run: Not a directory (os error 20)",
            "cannot mount devtmpfs on /dev: No such device (os error 19)",
            &"x".repeat(2000),
            &"ä ".repeat(2000),
            "\u{1b}[2J",
        ] {
            let screen = screen(text);
            assert_eq!(screen.misfit(), None, "{text:?}");
            assert!(screen.alarm && screen.headline == "Cannot start");
        }
        let shown = screen("cannot mount tmpfs on /run: Not a directory (os error 20)").text();
        assert_eq!(shown, "Cannot start | cannot mount tmpfs | on /run: Not a | directory (os error | 20)");
    }
}
