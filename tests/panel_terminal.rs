//! The running panel on a pseudo terminal, seen and pressed from its other end.

// Helpers of a test may panic as tests do.
#![allow(clippy::unwrap_used)]

#[path = "support/terminal.rs"]
mod terminal;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rootstock::config;
use rootstock::panel::pages::View;
use rootstock::panel::{Button, Event, Gesture, Handle, Options, Source, start};
use rootstock::status::{Network, Status, Stick};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use terminal::Terminal;

/// Far more than anything here takes, for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The end of a terminal that a person or the demo sits at.
struct Viewer {
    far: File,
    /// Kept open, so that the terminal's mode can be looked at and does not hang up.
    near: OwnedFd,
    path: PathBuf,
    seen: String,
}

impl Viewer {
    fn new(columns: u16, rows: u16) -> Self {
        let Terminal { far, near, path } = Terminal::open().unwrap();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&near, size).unwrap();
        Self { far, near, path, seen: String::new() }
    }

    /// Reads until the text has been seen, and returns all that was read for it.
    fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", words(&self.seen));
            let mut ready = [PollFd::from_borrowed_fd(self.far.as_fd(), PollFlags::IN)];
            poll(&mut ready, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
            if ready[0].revents().contains(PollFlags::IN) {
                let mut bytes = [0; 4096];
                let count = self.far.read(&mut bytes).unwrap();
                self.seen += &String::from_utf8_lossy(&bytes[..count]);
            }
        }
        std::mem::take(&mut self.seen)
    }

    fn press(&mut self, keys: &[u8]) {
        self.far.write_all(keys).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.near).unwrap().local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON)
    }
}

/// The words of each picture that went by: how the demo reads the panel.
fn words(bytes: &str) -> Vec<&str> {
    let after = bytes.split("\x1b]rootstock;").skip(1);
    after.filter_map(|rest| rest.split_once('\x07')).map(|(words, _)| words).collect()
}

fn panel(source: Source) -> (Handle, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel();
    let sink = Arc::new(move |event| {
        let _ = sender.send(event);
    });
    (
        start(
            Options {
                // No bus of a developer's machine is to be written to.
                config: config::Panel { i2c_bus: 31, ..config::Panel::default() },
                source,
            },
            sink,
        ),
        receiver,
    )
}

fn ready() -> Status {
    Status {
        network: Network { address: Some([192, 168, 77, 1].into()), carrier: true, ..Network::default() },
        stick: Stick::Ready { name: "Stick".to_owned(), free_bytes: 27_900_000_000 },
        images: vec!["debian-1".parse().unwrap()],
        ..Status::default()
    }
}

#[test]
fn a_program_reads_the_words_and_presses_the_keys() {
    let mut viewer = Viewer::new(0, 0);
    let (handle, events) = panel(Source::Terminal(viewer.path.clone()));
    let first = viewer.wait_for("\x1b]rootstock;Starting | ");
    assert!(first.contains("\x1b[2J") && first.contains('▀') && first.contains("e ENROLL"));
    assert_eq!(events.recv_timeout(PATIENCE), Ok(Event::Hardware(format!("panel on {}", viewer.path.display()))));
    handle.show(ready());
    let seen = viewer.wait_for("\x1b]rootstock;Ready | ");
    assert_eq!(words(&seen).last(), Some(&"Ready | 192.168.77.1 | debian-1 | Press ENROLL to add | your first Pi."));
    viewer.press(b"eEnN");
    // NEXT only turns the page, which is the panel's own affair.
    let pressed: Vec<_> = (0..3).map(|_| events.recv_timeout(PATIENCE).unwrap()).collect();
    let (enroll, next) = (Button::Enroll, Button::Next);
    let expected = [Gesture::Short(enroll), Gesture::Long(enroll), Gesture::Long(next)];
    assert_eq!(pressed, expected.map(Event::Pressed));
}

#[test]
fn next_turns_the_page() {
    let mut viewer = Viewer::new(80, 24);
    let (handle, _events) = panel(Source::Terminal(viewer.path.clone()));
    handle.show(ready());
    let seen = viewer.wait_for("\x1b]rootstock;Ready | ");
    assert!(seen.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "a narrow terminal shows braille");
    viewer.press(b"n");
    viewer.wait_for("\x1b]rootstock;Image for new Pis | debian-1 | No Pi has it. | New Pis get it.\x07");
    assert_eq!(handle.showing(), View::Images);
    viewer.press(b"nn");
    viewer.wait_for("\x1b]rootstock;Network | ");
    viewer.press(b"N");
    viewer.wait_for("\x1b]rootstock;Ready | ");
}

#[test]
fn the_terminal_is_raw_while_shown_and_as_before_after() {
    let mut viewer = Viewer::new(0, 0);
    assert!(!viewer.is_raw());
    let (handle, _events) = panel(Source::Terminal(viewer.path.clone()));
    viewer.wait_for("Starting");
    assert!(viewer.is_raw());
    drop(handle);
    assert!(!viewer.is_raw());
    viewer.wait_for("\x1b[?25h");
}

#[test]
fn a_terminal_that_takes_no_bytes_blocks_nobody() {
    let viewer = Viewer::new(0, 0);
    let (handle, events) = panel(Source::Terminal(viewer.path.clone()));
    events.recv_timeout(PATIENCE).unwrap();
    // Nobody reads; the pseudo terminal holds 4 KiB, and each of these paints 12.
    for second in 0..200 {
        let start = Instant::now();
        handle.show(Status { uptime: Duration::from_secs(second), ..ready() });
        assert!(start.elapsed() < PATIENCE / 2);
    }
    let start = Instant::now();
    drop(handle);
    assert!(start.elapsed() < PATIENCE / 2);
    assert!(!viewer.is_raw());
}

#[test]
fn what_cannot_be_a_panel_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (_handle, events) = panel(Source::Terminal(folder.path().join("missing")));
    let told = events.recv_timeout(PATIENCE);
    assert!(matches!(&told, Ok(Event::Failed(told)) if told.contains("missing")), "{told:?}");
    let (_handle, events) = panel(Source::Terminal(file));
    let told = events.recv_timeout(PATIENCE);
    assert!(matches!(&told, Ok(Event::Failed(told)) if told.contains("is no terminal")), "{told:?}");
}

#[test]
fn a_panel_without_anything_still_runs_and_ends() {
    let (handle, events) = panel(Source::None);
    handle.show(ready());
    drop(handle);
    assert!(events.recv().is_err(), "nothing is told");
}

#[test]
fn hardware_that_is_not_here_fails_softly_each_part_once() {
    let (handle, events) = panel(Source::Hardware);
    handle.show(ready());
    let mut told: Vec<_> = (0..2).map(|_| events.recv_timeout(PATIENCE).unwrap()).collect();
    told.sort_by_key(|event| format!("{event:?}"));
    let [Event::Failed(display), Event::Failed(pins)] = told.as_slice() else { panic!("{told:?}") };
    assert!(display.contains("/dev/i2c-31") && pins.contains("GPIO"), "{display} {pins}");
    let start = Instant::now();
    drop(handle);
    assert!(start.elapsed() < Duration::from_secs(4), "an end does not wait for the next attempt");
}
