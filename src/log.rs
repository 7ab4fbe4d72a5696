//! The log: one line an event on standard error, with the seconds since the
//! machine's start, so that lines of PID 1, the server and the kernel compare. The
//! server's black box gets a copy.
//!
//! I/O, and never waiting: on the appliance standard error is a serial line of 11 kB a
//! second, elsewhere perhaps a pipe that nobody reads, and who logs may be control. A line
//! goes out at once where there is room; otherwise a thread brings it later.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use tracing::Level;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::blackbox::tap;

/// Bytes that may wait: some 2,000 lines, of which 64 Pis that boot at once make 600. More are counted and left out; the
/// black box has them.
const MAX_WAITING: usize = 256 << 10;
/// A pipe with room has it for so many bytes at least (pipe(7), PIPE_BUF).
const SURE_ROOM: usize = 4096;
/// Lines that wait when the server ends, or dies, have so long to go out.
const LAST: Duration = Duration::from_secs(1);

/// CLOCK_BOOTTIME, as the kernel's own log prints it.
struct SinceBoot;

impl FormatTime for SinceBoot {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        write!(w, "[{:5}.{:06}]", now.tv_sec, now.tv_nsec / 1000)
    }
}

/// What goes to one descriptor, in order.
struct Outbox {
    lines: Mutex<Lines>,
    changed: Condvar,
    to: BorrowedFd<'static>,
}

#[derive(Default)]
struct Lines {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    left_out: u64,
    /// The thread is writing one that is no longer in `waiting`.
    writing: bool,
}

static OUTBOX: OnceLock<Arc<Outbox>> = OnceLock::new();

impl Outbox {
    fn new(to: BorrowedFd<'static>) -> Self {
        Self { lines: Mutex::default(), changed: Condvar::new(), to }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8]) {
        let mut lines = self.lock();
        let is_first = lines.waiting.is_empty() && !lines.writing;
        // Under the lock, or two lines might change places.
        let rest = if is_first { &line[self.write_if_room(line)..] } else { line };
        if rest.is_empty() {
            return;
        }
        let gap = (lines.left_out > 0).then(|| left_out(lines.left_out));
        if lines.bytes + rest.len() + gap.as_ref().map_or(0, Vec::len) > MAX_WAITING {
            lines.left_out += 1;
            return;
        }
        lines.left_out = 0;
        for line in gap.into_iter().chain([rest.to_vec()]) {
            lines.bytes += line.len();
            lines.waiting.push_back(line);
        }
        drop(lines);
        self.changed.notify_all();
    }

    /// How much of it went out; nothing where that might wait.
    fn write_if_room(&self, line: &[u8]) -> usize {
        let mut ready = [PollFd::from_borrowed_fd(self.to, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let has_room = poll(&mut ready, Some(&now)).is_ok() && ready[0].revents().contains(PollFlags::OUT);
        if has_room && line.len() <= SURE_ROOM { rustix::io::write(self.to, line).unwrap_or(0) } else { 0 }
    }

    /// Brings what waits, for ever.
    fn work(&self) {
        loop {
            let lines = self.lock();
            let waited = self.changed.wait_while(lines, |lines| lines.waiting.is_empty());
            let mut lines = waited.unwrap_or_else(PoisonError::into_inner);
            let Some(line) = lines.waiting.pop_front() else { continue };
            lines.bytes -= line.len();
            lines.writing = true;
            let lost = if lines.waiting.is_empty() { std::mem::take(&mut lines.left_out) } else { 0 };
            drop(lines);
            self.write_all(&line);
            if lost > 0 {
                self.write_all(&left_out(lost));
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    fn write_all(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match rustix::io::write(self.to, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let mut ready = [PollFd::from_borrowed_fd(self.to, PollFlags::OUT)];
                    let _ = poll(&mut ready, None);
                }
                // Nobody is there to be told.
                Err(_) => return,
            }
        }
    }

    /// Waits until all is out, at most this long.
    fn flush(&self, time: Duration) {
        let is_busy = |lines: &mut Lines| !lines.waiting.is_empty() || lines.writing;
        drop(self.changed.wait_timeout_while(self.lock(), time, is_busy));
    }
}

/// Stands where they would have.
fn left_out(lines: u64) -> Vec<u8> {
    format!("{lines} lines were left out: too slow a console\n").into_bytes()
}

/// Where the log's lines are written.
struct Lane;

impl Write for Lane {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        tap::log_line(line);
        match OUTBOX.get() {
            Some(outbox) => outbox.put(line),
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging, with a thread; call once, before anything is logged and after signals are blocked.
pub fn start(level: Level) {
    let outbox = Arc::new(Outbox::new(rustix::stdio::stderr()));
    let own = outbox.clone();
    // Without a thread lines are written as they come.
    if std::thread::Builder::new().name("log".to_owned()).spawn(move || own.work()).is_ok() {
        let _ = OUTBOX.set(outbox);
    }
    tracing_subscriber::fmt().with_writer(|| Lane).with_max_level(level).with_timer(SinceBoot).with_ansi(false).init();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tap::last_words(&panic.to_string());
        flush();
        print(panic);
    }));
}

/// Waits for the lines that are still on their way, with a bound: before the process ends.
pub fn flush() {
    if let Some(outbox) = OUTBOX.get() {
        outbox.flush(LAST);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsFd, IntoRawFd};
    use std::time::Instant;

    use super::*;

    /// An outbox to a pipe, and the end that reads it.
    fn piped() -> (Arc<Outbox>, std::fs::File) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        // For the rest of the process, as standard error is.
        // SAFETY: `into_raw_fd` has just given the descriptor away, and nobody closes it.
        let to = unsafe { BorrowedFd::borrow_raw(writer.into_raw_fd()) };
        let outbox = Arc::new(Outbox::new(to));
        let own = outbox.clone();
        std::thread::spawn(move || own.work());
        (outbox, reader.into())
    }

    #[test]
    fn a_line_is_out_at_once_where_there_is_room() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        // SAFETY: as above; without a thread, so that only the caller can have written.
        let to = unsafe { BorrowedFd::borrow_raw(writer.into_raw_fd()) };
        Outbox::new(to).put(b"one\n");
        let mut ready = [PollFd::from_borrowed_fd(reader.as_fd(), PollFlags::IN)];
        assert_eq!(poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1));
    }

    #[test]
    fn a_pipe_that_nobody_reads_keeps_nobody_waiting_and_what_is_left_out_is_counted() {
        let (outbox, mut reader) = piped();
        let line = |n: usize| format!("{n:0>99}\n");
        let lines = 2 * (MAX_WAITING + (64 << 10)) / 100;
        let began = Instant::now();
        // More than the pipe and the outbox hold; to one that waits this would never end.
        (0..lines).for_each(|n| outbox.put(line(n).as_bytes()));
        assert!(began.elapsed() < Duration::from_secs(20));
        outbox.flush(Duration::from_millis(1));
        let held = outbox.lock().bytes;
        // The thread may have brought a page of it into the pipe since.
        assert!(held <= MAX_WAITING && held > MAX_WAITING / 2, "{held}");
        let mut bytes = vec![0; 4 << 20];
        let (mut text, mut next) = (String::new(), 0);
        while next < lines {
            let count = reader.read(&mut bytes).unwrap();
            text += std::str::from_utf8(&bytes[..count]).unwrap();
            while let Some((found, rest)) = text.split_once('\n') {
                next = match found.split_once(" lines were left out") {
                    // Where the thread made a little room meanwhile, others go on behind the gap.
                    Some((gap, _)) => next + gap.parse::<usize>().unwrap(),
                    None => {
                        assert_eq!(format!("{found}\n"), line(next), "in order, and none in pieces");
                        next + 1
                    }
                };
                text = rest.to_owned();
            }
        }
        assert_eq!((next, text.as_str()), (lines, ""));
        outbox.flush(Duration::from_secs(20));
        assert!(outbox.lock().waiting.is_empty());
    }
}
