//! One TCP connection: records in, replies out, neither ever waiting. I/O.
//!
//! Any thread may serve it. One at a time reads (`interest` is then taken), as
//! many as there are calls may answer. While a reply waits for room nothing more is
//! read, so a client that does not read its replies stops itself: what is held for it
//! is at most one reply for each call that was running.

use std::borrow::Cow;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::peer::Peer;
use super::pipe::Pipe;
use super::procedures::MAX_IO;
use super::queue::{Body, Offer, Queue};
use super::record::{RecordError, RecordReader};
use super::xdr::Encoder;

/// The longest record: a WRITE with its header, credentials and handle.
pub const MAX_RECORD: usize = MAX_IO + 4096;
/// What is received at once, for all small calls together.
pub const SCRATCH: usize = 64 << 10;

/// What is received behind a record that was too long for the scratch: as a rule the head of another
/// such, whose data are then received where they are needed (2026-11-29: another 64 KiB were copied for each WRITE).
const HEAD: usize = 512;

/// What an idle connection keeps.
const MAX_IDLE_STASH: usize = 4096;

/// A call's bytes, where they came to lie.
#[derive(Debug)]
pub enum Record {
    /// In the thread's own scratch space.
    Scratch(Range<usize>),
    Owned(Vec<u8>),
}

/// What reading gave.
#[derive(Debug)]
pub enum Input {
    Record(Record),
    /// Nothing more for now.
    Empty,
    /// The peer is done, or the connection broke.
    Closed,
    /// The peer sent what no record can be.
    Bad(RecordError),
}

#[derive(Debug)]
struct Reading {
    records: RecordReader,
    /// Received behind the last record, from `start` on.
    stash: Vec<u8>,
    start: usize,
    /// The last record was too long for the scratch.
    long: bool,
}

#[derive(Debug)]
struct Writing {
    queue: Queue<Pipe>,
    /// What to wait for when nothing is queued; `None` while a thread reads.
    interest: Option<EventFlags>,
    /// `wake` came while a thread had the right to read: it must look again.
    woken: bool,
    /// A thread had the right to read at the last tick already.
    overdue: bool,
    closed: bool,
}

/// Whether calls that are quick as a rule are quick now. After one that was not, as
/// when files are read that are not in memory, the next ones are taken for slow.
#[derive(Debug)]
pub struct Pace {
    /// The longest that others of the connection may wait for one call, as a rule.
    quick: Duration,
    /// How many are taken for slow behind one that took longer.
    behind: u32,
    /// Calls to come that are taken for slow.
    slow: AtomicU32,
}

impl Pace {
    fn of_questions() -> Self {
        Self { quick: Duration::from_millis(1), behind: 64, slow: AtomicU32::new(0) }
    }

    /// A change may wait a moment for the journal, and gains a commit by not being alone.
    fn of_changes() -> Self {
        Self { quick: Duration::from_millis(10), behind: 16, slow: AtomicU32::new(0) }
    }

    /// Asked before each such call.
    pub fn is_calm(&self) -> bool {
        // Calls of other threads may count at the same time: it is a guess.
        let slow = self.slow.load(Ordering::Relaxed);
        self.slow.store(slow.saturating_sub(1), Ordering::Relaxed);
        slow == 0
    }

    pub fn took(&self, time: Duration) {
        if time > self.quick {
            self.slow.store(self.behind, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
pub struct Connection {
    pub id: u64,
    pub peer: Arc<Peer>,
    pub port: u16,
    /// When it was last served, by the server's count of events.
    pub used: AtomicU64,
    pub questions: Pace,
    pub changes: Pace,
    socket: OwnedFd,
    epoll: Arc<OwnedFd>,
    reading: Mutex<Reading>,
    writing: Mutex<Writing>,
}

impl Connection {
    pub fn new(id: u64, socket: OwnedFd, epoll: Arc<OwnedFd>, peer: Arc<Peer>, port: u16) -> Result<Arc<Self>, Errno> {
        let interest = EventFlags::IN;
        let connection = Arc::new(Self {
            id,
            peer,
            port,
            used: AtomicU64::new(0),
            questions: Pace::of_questions(),
            changes: Pace::of_changes(),
            socket,
            epoll,
            reading: Mutex::new(Reading {
                records: RecordReader::new(MAX_RECORD),
                stash: Vec::new(),
                start: 0,
                long: false,
            }),
            writing: Mutex::new(Writing {
                queue: Queue::default(),
                interest: Some(interest),
                woken: false,
                overdue: false,
                closed: false,
            }),
        });
        Ok(connection)
    }

    /// Lets events come in; once, after the server can find it by its id.
    pub fn register(&self) -> Result<(), Errno> {
        epoll::add(&*self.epoll, &self.socket, EventData::new_u64(self.id), EventFlags::IN | EventFlags::ONESHOT)
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// An event came: sends what waits, and takes the right to read. `false`
    /// if there is nothing to read now, or another thread does.
    pub fn begin(&self, clock: u64) -> bool {
        self.used.store(clock, Ordering::Relaxed);
        let mut writing = lock(&self.writing);
        if writing.closed {
            return false;
        }
        if !writing.flush(&self.socket) {
            self.shut(&mut writing);
            return false;
        }
        if !writing.queue.is_empty() {
            self.wait_for(EventFlags::OUT);
            return false;
        }
        writing.overdue = false;
        writing.interest.take().is_some()
    }

    /// Called at each tick: where a thread has the right to read since the last one, a call that
    /// was taken for quick is not, and another thread may read on. That both may read
    /// then does no harm: each takes whole records.
    pub fn overtake(&self) {
        let mut writing = lock(&self.writing);
        if writing.interest.is_none() && !writing.closed && std::mem::replace(&mut writing.overdue, true) {
            writing.interest = Some(EventFlags::IN);
            self.wait_for(if writing.queue.is_empty() { EventFlags::IN | EventFlags::OUT } else { EventFlags::OUT });
        }
    }

    /// Gives the right to read back: events for `interest` come in again.
    pub fn end(&self, interest: EventFlags) {
        let mut writing = lock(&self.writing);
        writing.interest = Some(interest);
        writing.woken = false;
        if !writing.closed {
            self.wait_for(if writing.queue.is_empty() { interest } else { EventFlags::OUT });
        }
    }

    /// Gives the right to read back without events: `wake` brings the next,
    /// or has done so already.
    pub fn park(&self) {
        let mut writing = lock(&self.writing);
        let both = EventFlags::IN | EventFlags::OUT;
        writing.interest = Some(both);
        if std::mem::take(&mut writing.woken) && !writing.closed {
            self.wait_for(if writing.queue.is_empty() { both } else { EventFlags::OUT });
        }
    }

    /// An event comes at once, for bytes that are here already or may be.
    pub fn wake(&self) {
        let mut writing = lock(&self.writing);
        if writing.interest.is_none() {
            writing.woken = true;
        } else if !writing.closed {
            self.wait_for(EventFlags::IN | EventFlags::OUT);
        }
    }

    /// Reads one record, into `scratch` if it is short; only by the thread that may read.
    /// Also what to wait for next: room to write comes at once where a record's bytes are here already.
    pub fn read(&self, scratch: &mut [u8]) -> (Input, EventFlags) {
        let mut reading = lock(&self.reading);
        let input = reading.next(&self.socket, scratch);
        let more = reading.start < reading.stash.len();
        (input, if more { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN })
    }

    /// Sends a reply that others need too, now or as soon as there is room.
    pub fn send_copy(&self, reply: &[u8]) {
        let mut writing = lock(&self.writing);
        match self.send_now(&mut writing, reply, false) {
            Some(sent) if sent < reply.len() => writing.queue.push_copy(&reply[sent..]),
            _ => {}
        }
    }

    /// Sends replies, and the body of the last one, now or as soon as there is room; leaves the encoder empty.
    pub fn send(&self, replies: &mut Encoder, body: Option<Pipe>) {
        let mut writing = lock(&self.writing);
        if let Some(sent) = self.send_now(&mut writing, replies.bytes(), body.is_some()) {
            let whole = sent == replies.len();
            if !whole {
                writing.queue.push(replies.buffer(), sent);
            }
            if let Some(mut body) = body
                && (!whole || self.send_body(&mut writing, &mut body))
            {
                writing.queue.push_body(body);
            }
        }
        replies.clear();
    }

    /// Whether there is something left to be queued.
    fn send_body(&self, writing: &mut Writing, body: &mut Pipe) -> bool {
        match body.send(&self.socket) {
            Some(_) if body.left() == 0 => false,
            Some(_) => {
                self.wait_for(EventFlags::OUT);
                true
            }
            None => {
                self.shut(writing);
                false
            }
        }
    }

    /// How much of it the socket took; the rest is to be queued. `None` where the connection is at its end.
    fn send_now(&self, writing: &mut Writing, reply: &[u8], more: bool) -> Option<usize> {
        if writing.closed || reply.is_empty() {
            return None;
        }
        if !writing.queue.is_empty() {
            return Some(0);
        }
        match send_some(&self.socket, reply, more) {
            Some(sent) => {
                if sent < reply.len() {
                    self.wait_for(EventFlags::OUT);
                }
                Some(sent)
            }
            None => {
                self.shut(writing);
                None
            }
        }
    }

    /// Whether no reply waits for room: else nothing more is to be read.
    pub fn is_clear(&self) -> bool {
        let writing = lock(&self.writing);
        writing.queue.is_empty() && !writing.closed
    }

    /// Whether all replies were given to the socket.
    pub fn is_flushed(&self) -> bool {
        let mut writing = lock(&self.writing);
        writing.closed || !writing.flush(&self.socket) || writing.queue.is_empty()
    }

    /// Ends it in order, with all replies sent. What is unread is read first: closed over it, the
    /// socket would be reset, and the client might lose replies that lie in its own buffer.
    pub fn finish(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        let mut rubbish = [0; 16 << 10];
        // A bound, for a client that sends faster than this reads.
        for _ in 0..64 {
            match rustix::net::recv(&self.socket, &mut rubbish, RecvFlags::DONTWAIT) {
                Ok((1.., _)) | Err(Errno::INTR) => {}
                _ => return,
            }
        }
    }

    /// Ends it, for whoever holds it.
    pub fn close(&self) {
        self.shut(&mut lock(&self.writing));
    }

    fn shut(&self, writing: &mut Writing) {
        if !writing.closed {
            writing.closed = true;
            writing.queue.clear();
            // Both may fail where the peer was quicker.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
            // One last event, so that the server forgets it.
            self.wait_for(EventFlags::IN);
        }
    }

    pub fn is_closed(&self) -> bool {
        lock(&self.writing).closed
    }

    fn wait_for(&self, interest: EventFlags) {
        let data = EventData::new_u64(self.id);
        // It fails only once the socket has left the epoll set.
        let _ = epoll::modify(&*self.epoll, &self.socket, data, interest | EventFlags::ONESHOT);
    }
}

impl Reading {
    fn next(&mut self, socket: &OwnedFd, scratch: &mut [u8]) -> Input {
        if self.start < self.stash.len() {
            let mut rest = &self.stash[self.start..];
            let record = match self.records.next(&mut rest) {
                Ok(record) => record.map(|record| own(record, scratch)),
                Err(error) => return Input::Bad(error),
            };
            self.start = self.stash.len() - rest.len();
            if self.start == self.stash.len() {
                // Kept where it is small, as for a batch of questions.
                self.stash.clear();
                self.stash.shrink_to(MAX_IDLE_STASH);
                self.start = 0;
            }
            if let Some(record) = record {
                return Input::Record(record);
            }
        }
        loop {
            if let Some((room, wanted)) = self.records.room(MAX_RECORD) {
                let place = &mut room.spare_capacity_mut()[..wanted];
                match rustix::net::recv(socket, place, RecvFlags::DONTWAIT) {
                    Ok(((_, _), 0)) => return Input::Closed,
                    Ok(((received, _), _)) => {
                        let count = received.len();
                        let length = room.len() + count;
                        // SAFETY: `recv` made the first `count` bytes of the spare capacity valid.
                        unsafe { room.set_len(length) };
                        if let Some(record) = self.records.received(count) {
                            self.long = true;
                            return Input::Record(Record::Owned(record));
                        }
                    }
                    Err(Errno::AGAIN) => return Input::Empty,
                    Err(Errno::INTR) => {}
                    Err(_) => return Input::Closed,
                }
                continue;
            }
            let most = if self.long { HEAD } else { SCRATCH };
            let place = scratch.get_mut(..most).unwrap_or_default();
            let count = match rustix::net::recv(socket, place, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Input::Closed,
                Ok((count, _)) => count,
                Err(Errno::AGAIN) => return Input::Empty,
                Err(Errno::INTR) => continue,
                Err(_) => return Input::Closed,
            };
            let mut rest = &scratch[..count];
            let record = match self.records.next(&mut rest) {
                Ok(None) => continue,
                Ok(Some(Cow::Owned(record))) => Record::Owned(record),
                Ok(Some(Cow::Borrowed(record))) => {
                    self.long = false;
                    let end = count - rest.len();
                    Record::Scratch(end - record.len()..end)
                }
                Err(error) => return Input::Bad(error),
            };
            self.stash.extend_from_slice(rest);
            return Input::Record(record);
        }
    }
}

/// A record from the stash, which was once in a scratch and so fits into one.
fn own(record: Cow<'_, [u8]>, scratch: &mut [u8]) -> Record {
    match record {
        Cow::Owned(record) => Record::Owned(record),
        Cow::Borrowed(record) => match scratch.get_mut(..record.len()) {
            Some(place) => {
                place.copy_from_slice(record);
                Record::Scratch(0..record.len())
            }
            None => Record::Owned(record.to_vec()),
        },
    }
}

impl Writing {
    /// Sends what is queued, as far as there is room; `false` if the connection broke.
    fn flush(&mut self, socket: &OwnedFd) -> bool {
        self.queue.flush(|offer| match offer {
            Offer::Bytes(bytes) => send_some(socket, bytes, false),
            Offer::Body(body) => body.send(socket),
        })
    }
}

impl Body for Pipe {
    fn left(&self) -> usize {
        self.len()
    }
}

/// Bytes that the socket took; `None` if the connection broke. `more` says that others follow at once,
/// with which they may share a segment.
fn send_some(socket: &OwnedFd, bytes: &[u8], more: bool) -> Option<usize> {
    let mut flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    flags.set(SendFlags::MORE, more);
    let mut sent = 0;
    while sent < bytes.len() {
        match rustix::net::send(socket, &bytes[sent..], flags) {
            Ok(count) => sent += count,
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(sent)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_slow_call_the_next_ones_leave_the_connection_to_others() {
        for pace in [Pace::of_questions(), Pace::of_changes()] {
            assert!(pace.is_calm());
            pace.took(pace.quick);
            assert!(pace.is_calm());
            pace.took(2 * pace.quick);
            assert_eq!((0..1000).filter(|_| !pace.is_calm()).count(), pace.behind as usize);
            assert!(pace.is_calm());
        }
    }
}
