//! The panel on a terminal: the same screens, keys as buttons.
//!
//! I/O. One thread waits for keys and for pictures at once. Nothing here blocks:
//! a terminal that takes no bytes only gets the newest picture later. The mode
//! the terminal had is put back when the panel ends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, getpgrp, getpid, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

use super::Event;
use super::blocks::{Canvas, Style};
use super::keys::{Key, Keys};
use super::retry::Retry;
use super::threads::{Core, Outlet};

/// The whole picture is painted this often, for a viewer that came late.
const WHOLE: Duration = Duration::from_secs(10);
/// Bytes taken from the terminal at once.
const READ_BYTES: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path} is no terminal: {source}")]
    Terminal { path: PathBuf, source: io::Error },
    #[error("{path} belongs to a program in the foreground")]
    Background { path: PathBuf },
    #[error("cannot use {path}: {source}")]
    Use { path: PathBuf, source: io::Error },
    #[error("{path} was closed at its other end")]
    Closed { path: PathBuf },
}

/// An open terminal in raw mode; back in its own mode when dropped.
pub struct Terminal {
    tty: OwnedFd,
    path: PathBuf,
    before: Termios,
    /// It is the one that started us, so Ctrl-C on it is meant for us.
    ours: bool,
}

impl Terminal {
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let tty = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|source| Error::Open { path: path.to_owned(), source: source.into() })?;
        let terminal = |source: rustix::io::Errno| Error::Terminal { path: path.to_owned(), source: source.into() };
        let before = tcgetattr(&tty).map_err(terminal)?;
        let foreground = tcgetpgrp(&tty).ok();
        // Changing the mode from the background would stop the whole process (SIGTTOU).
        if foreground.is_some_and(|group| group != getpgrp()) {
            return Err(Error::Background { path: path.to_owned() });
        }
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&tty, OptionalActions::Now, &raw).map_err(terminal)?;
        Ok(Self { tty, path: path.to_owned(), before, ours: foreground.is_some() })
    }

    /// Columns and rows; 0 where that is unknown, as on a serial line.
    pub fn size(&self) -> (u16, u16) {
        tcgetwinsize(&self.tty).map_or((0, 0), |size| (size.ws_col, size.ws_row))
    }

    fn style(&self) -> Style {
        let (columns, rows) = self.size();
        Style::fitting(columns, rows)
    }

    /// Waits for keys, or with `writing` for room for more bytes, at most this long. Returns the keys.
    pub fn wait(&self, writing: bool, time: Duration) -> Result<Vec<u8>, Error> {
        let wanted = if writing { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        self.poll(&mut [PollFd::new(&self.tty, wanted)], time)
    }

    /// The first source is the terminal itself.
    fn poll(&self, sources: &mut [PollFd<'_>], time: Duration) -> Result<Vec<u8>, Error> {
        let time = Timespec { tv_sec: time.as_secs().min(3600) as i64, tv_nsec: time.subsec_nanos().into() };
        match poll(sources, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(source) => return Err(self.failed(source)),
        }
        let happened = sources.first().map_or(PollFlags::empty(), PollFd::revents);
        if happened.contains(PollFlags::IN) {
            return self.read();
        }
        if happened.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Err(Error::Closed { path: self.path.clone() });
        }
        Ok(Vec::new())
    }

    fn failed(&self, source: rustix::io::Errno) -> Error {
        Error::Use { path: self.path.clone(), source: source.into() }
    }

    /// The bytes that were typed; none if none were.
    fn read(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; READ_BYTES];
        match rustix::io::read(&self.tty, &mut bytes) {
            Ok(0) => Err(Error::Closed { path: self.path.clone() }),
            Ok(count) => {
                bytes.truncate(count);
                Ok(bytes)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Writes what it can and keeps the rest.
    pub fn write(&self, pending: &mut Vec<u8>) -> Result<(), Error> {
        match rustix::io::write(&self.tty, pending) {
            Ok(count) => {
                pending.drain(..count);
                Ok(())
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(source) => Err(self.failed(source)),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The cursor comes back below the picture. Nothing can be done where this fails.
        let _ = rustix::io::write(&self.tty, b"\x1b[?25h\r\n");
        let _ = tcsetattr(&self.tty, OptionalActions::Now, &self.before);
    }
}

/// Why a session ended without an error.
enum End {
    Closing,
    Interrupted,
}

/// The terminal's thread: shows pictures and takes keys until the panel closes.
pub(super) fn run(core: &Core, outlet: &Outlet, path: &Path) {
    let mut retry = Retry::default();
    loop {
        let end = Terminal::open(path).and_then(|terminal| {
            if retry.worked() {
                core.tell(Event::Hardware(format!("panel on {}", path.display())));
            }
            core.display(true);
            let end = session(core, outlet, &terminal);
            core.display(false);
            end
        });
        match end {
            Ok(End::Closing) => return,
            Ok(End::Interrupted) => {
                // The mode is restored by now; whoever handles SIGINT, or nobody, ends the process.
                let _ = kill_process(getpid(), Signal::INT);
                return;
            }
            Err(error) => {
                if let Some(complaint) = retry.failed(core.now(), error.to_string()) {
                    core.tell(Event::Failed(complaint));
                }
            }
        }
        if core.pause(retry.wait(core.now())) {
            return;
        }
    }
}

fn session(core: &Core, outlet: &Outlet, terminal: &Terminal) -> Result<End, Error> {
    let (mut canvas, mut keys, mut pending) = (Canvas::default(), Keys::default(), Vec::new());
    let (mut style, mut whole_at) = (terminal.style(), Instant::now());
    let mut stale = true;
    loop {
        if core.closing() {
            return Ok(End::Closing);
        }
        stale |= outlet.take_bell();
        let whole = Instant::now() >= whole_at;
        // Bytes still on their way hold back the next picture, which is then the newest.
        if pending.is_empty() && (stale || whole) {
            let now = terminal.style();
            if now != style {
                canvas.forget();
                style = now;
            }
            if let Some(picture) = outlet.latest() {
                pending = canvas.paint(&picture.plain, &picture.screen, style, whole).into_bytes();
                stale = false;
            }
            if whole {
                whole_at = Instant::now() + WHOLE;
            }
        }
        if !pending.is_empty() {
            terminal.write(&mut pending)?;
        }
        for byte in wait(outlet, terminal, !pending.is_empty())? {
            match keys.feed(byte) {
                Some(Key::Press(gesture)) => core.press(gesture),
                Some(Key::Interrupt) if terminal.ours => return Ok(End::Interrupted),
                Some(Key::Interrupt | Key::Quit) | None => {}
            }
        }
    }
}

/// Waits for keys, a picture, or room for more bytes; at most a second. Returns the keys.
fn wait(outlet: &Outlet, terminal: &Terminal, writing: bool) -> Result<Vec<u8>, Error> {
    let wanted = if writing { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let bell = PollFd::from_borrowed_fd(outlet.bell(), PollFlags::IN);
    terminal.poll(&mut [PollFd::new(&terminal.tty, wanted), bell], Duration::from_secs(1))
}
