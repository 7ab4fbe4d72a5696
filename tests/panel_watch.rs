//! `rootstock watch` on a terminal of its own: its size, its keys, its end, and a server that starts anew under it.

// Helpers of a test may panic as tests do.
#![allow(clippy::unwrap_used)]

// Each test takes what it needs of what they share.
#[allow(dead_code)]
mod serve_lab;
mod store_support;
mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use serve_lab::{Lab, eventually};
use support::netns::Child;
use support::terminal::Terminal;

/// `rootstock watch` and the person before it.
struct Watch {
    child: Child,
    keys: File,
    /// Kept open: the terminal outlives the program, as a shell's does.
    near: OwnedFd,
    before: Termios,
    seen: Arc<Mutex<String>>,
    closed: Arc<AtomicBool>,
}

impl Watch {
    fn start(lab: &Lab, columns: u16, rows: u16) -> Self {
        // Programs get neither end by themselves, or this one would hold its terminal's far end.
        let Terminal { far, near, .. } = Terminal::open().unwrap();
        let before = tcgetattr(&near).unwrap();
        let ends = [(); 3].map(|()| Stdio::from(near.try_clone().unwrap()));
        let [input, output, error] = ends;
        let mut command = Command::new(env!("CARGO_BIN_EXE_rootstock"));
        command.arg("watch").arg("--run").arg(lab.run_folder()).stdin(input).stdout(output).stderr(error);
        // SAFETY: both are system calls without memory; the terminal becomes the new session's own, as a login makes it.
        unsafe {
            command.pre_exec(|| match libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            });
        }
        let seen = Arc::new(Mutex::new(String::new()));
        let closed = Arc::new(AtomicBool::new(false));
        let (all, over, mut screen) = (seen.clone(), closed.clone(), far.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                all.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        size(&near, columns, rows);
        Self { child: Child(command.spawn().unwrap()), keys: far, near, before, seen, closed }
    }

    /// What was painted since this was last asked, once `part` is in it.
    #[track_caller]
    fn shows(&self, part: &str) -> String {
        eventually(part, || {
            let mut seen = self.seen.lock().unwrap();
            seen.contains(part).then(|| std::mem::take(&mut *seen))
        })
    }

    /// The first whole picture that fits the new size: all rows are used, and none is longer than they are.
    #[track_caller]
    fn resized(&self, columns: u16, height: u16) -> String {
        size(&self.near, columns, height);
        let (columns, height) = (usize::from(columns), usize::from(height));
        eventually(&format!("a picture of {columns}×{height}"), || {
            let mut seen = self.seen.lock().unwrap();
            let rows = rows(&seen);
            let at = rows.iter().rposition(|(row, _)| *row == 1)?;
            let is_whole = rows[at..].iter().map(|(row, _)| *row).eq(1..=height);
            let fits = rows[at..].iter().all(|(_, text)| text.chars().count() < columns);
            (is_whole && fits).then(|| std::mem::take(&mut *seen))
        })
    }

    /// Its end, with the terminal as it was found.
    #[track_caller]
    fn ends(mut self) -> ExitStatus {
        let end = eventually("its end", || self.child.0.try_wait().unwrap());
        let last = self.shows("\x1b[?1049l");
        assert!(last.contains("\x1b[?25h"), "the cursor is back: {last:?}");
        let (now, before) = (tcgetattr(&self.near).unwrap(), &self.before);
        assert_eq!(
            (now.local_modes, now.input_modes, now.output_modes, now.control_modes),
            (before.local_modes, before.input_modes, before.output_modes, before.control_modes)
        );
        end
    }
}

fn size(terminal: &OwnedFd, columns: u16, rows: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

/// The rows of the last whole picture, by their numbers.
fn rows(painted: &str) -> Vec<(usize, String)> {
    let parts = painted.split("\x1b[").filter_map(|part| part.split_once(";1H"));
    parts.filter_map(|(row, text)| Some((row.parse().ok()?, text.to_owned()))).collect()
}

#[test]
fn watch_follows_its_terminals_size_and_a_server_that_starts_anew_and_leaves_the_terminal_as_it_was() {
    let mut lab = Lab::ready();
    let mut watch = Watch::start(&lab, 80, 30);
    let first = watch.shows("q ends");
    let is_picture = |painted: &str| painted.contains(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
    assert!(first.contains("\x1b[?1049h") && is_picture(&first) && first.contains("0 of 0 up"), "{first:?}");
    assert!(!tcgetattr(&watch.near).unwrap().local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON));

    let wide = watch.resized(132, 50);
    assert!(wide.contains('▀'), "{wide:?}");
    watch.resized(20, 5);
    // Narrower than the picture: its words, whole.
    let narrow = watch.resized(40, 14);
    assert!(narrow.contains("Ready") && narrow.contains("192.168.77.1"), "{narrow:?}");

    // It is live. NEXT turns its own page, and ENROLL presses nothing.
    watch.keys.write_all(b"en").unwrap();
    watch.shows("Image for new Pis");
    lab.open_window();
    watch.shows("Waiting for a Pi");
    assert_eq!(lab.log().matches("enrolment window open").count(), 1);

    // The server dies under it and comes back.
    lab.kill();
    watch.shows("no server runs here");
    lab.start();
    let back = eventually("the server's picture", || {
        let painted = watch.resized(80, 30 + (lab.log().len() % 2) as u16);
        (is_picture(&painted) && !painted.contains("no server runs here")).then_some(painted)
    });
    assert!(back.contains("0 of 0 up"), "{back:?}");
    watch.keys.write_all(b"q").unwrap();
    assert!(watch.ends().success());
}

#[test]
fn watch_ends_by_ctrl_c_by_a_signal_and_by_a_terminal_that_is_closed() {
    let lab = Lab::ready();
    let mut watch = Watch::start(&lab, 80, 24);
    watch.shows("q ends");
    watch.keys.write_all(b"\x03").unwrap();
    assert!(watch.ends().success());

    let watch = Watch::start(&lab, 80, 24);
    watch.shows("q ends");
    kill_process(Pid::from_child(&watch.child.0), Signal::TERM).unwrap();
    assert!(watch.ends().success());

    let Watch { mut child, keys, near, seen, closed, .. } = Watch::start(&lab, 80, 24);
    eventually("the picture", || seen.lock().unwrap().contains("q ends").then_some(()));
    drop((keys, near));
    // The reader, which has the last hold of the far end, lets go of it with what comes next.
    closed.store(true, Ordering::Relaxed);
    eventually("its end", || child.0.try_wait().unwrap());
}
