//! What one connection sent, done: calls to replies, a batch at a time. I/O.
//!
//! No call changes threads. A call that may wait for the stick is done by the thread that read it, after the
//! connection was given to the next thread, so that it keeps no other waiting. Quick ones
//! that came together are done one after the other and answered together: waking a thread for
//! each cost more than the calls (2026-11-22: 30 µs of CPU a call of the storm before,
//! 5 µs since; `just bench`). So are changes of one name that came together; they are then brought
//! to the stick by one commit, when the connection was given to the next thread (`owed`). Whether a
//! call is quick is what its like were before (`connection`, `Pace`), and one that fooled us is
//! overtaken at the next tick.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags, recvfrom, sendto};

use super::connection::{Connection, Input, Pace, Record, SCRATCH};
use super::owed::Ledger;
use super::peer::Peer;
use super::pipe::Outlet;
use super::service::{self, Haste, Outcome, Pending, Source};
use super::shared::{Shared, lock};
use super::xdr::Encoder;

/// Calls that one thread does before other connections have their turn.
const MAX_BATCH: usize = 32;
/// Datagrams of MOUNT and portmap are small.
const MAX_DATAGRAM: usize = 4096;
/// The mark of a record that is one fragment (RFC 5531 §11).
const LAST_FRAGMENT: u32 = 0x8000_0000;
/// Of a reply, for all but file data and lists.
const REPLY: usize = 4096;

/// What one thread keeps from call to call.
pub struct Buffers {
    scratch: Vec<u8>,
    reply: Encoder,
    /// The end of the last reply in `reply`.
    outlet: Outlet,
    ledger: Ledger,
}

impl Buffers {
    pub fn new(outlet: Outlet) -> Self {
        let reply = Encoder::with_capacity(REPLY);
        Self { scratch: vec![0; SCRATCH], reply, outlet, ledger: Ledger::default() }
    }

    /// After a call that panicked: what it left belongs to nobody.
    pub fn clear(&mut self) {
        drop((self.outlet.take(), self.ledger.take()));
    }

    /// The allocator gives a large reply's memory to whoever reads next: as many large ones as calls run at
    /// once, not as threads that ever did one.
    pub fn shrink(&mut self) {
        if self.reply.buffer().capacity() > SCRATCH {
            self.reply = Encoder::with_capacity(REPLY);
        }
    }
}

/// A change that waits for its commit.
type Change<'a> = Box<Pending<'a, Weak<Connection>>>;

impl Shared {
    /// A connection that has something to read.
    pub fn connection(&self, id: u64, buffers: &mut Buffers) {
        let Some(connection) = self.sockets.connection(id) else { return };
        if !connection.begin(self.sockets.moment()) {
            if connection.is_closed() {
                self.sockets.forget(id);
            }
            return;
        }
        if !self.service.is_settled(connection.peer.address) {
            connection.park();
            lock(&self.held).push(id);
            return;
        }
        if !self.service.peers.enter(&connection.peer, id) {
            connection.park();
            return;
        }
        let _turn = Turn { shared: self, peer: &connection.peer };
        buffers.reply.clear();
        let mut changes = Vec::new();
        self.batch(&connection, buffers, &mut changes);
        self.settle(&connection, &mut buffers.reply, changes);
    }

    /// Does what came together, until another thread may read on. Changes that are still to be brought to
    /// the stick are left in `changes`.
    fn batch<'a>(&'a self, connection: &Arc<Connection>, buffers: &mut Buffers, changes: &mut Vec<Change<'a>>) {
        for served in 1..=MAX_BATCH {
            let (input, interest) = connection.read(&mut buffers.scratch);
            let record = match input {
                Input::Record(record) => record,
                Input::Empty => {
                    connection.send(&mut buffers.reply, None);
                    return connection.end(interest);
                }
                Input::Closed => return self.sockets.forget(connection.id),
                Input::Bad(error) => {
                    tracing::warn!(address = %connection.peer.address, %error, "the connection is closed");
                    connection.send(&mut buffers.reply, None);
                    return self.sockets.forget(connection.id);
                }
            };
            let bytes = match &record {
                Record::Scratch(range) => &buffers.scratch[range.clone()],
                Record::Owned(bytes) => &bytes[..],
            };
            let (pace, is_change) = match service::haste(bytes) {
                Haste::Quick => (Some(&connection.questions), false),
                // Others that come while it is made share its commit.
                Haste::Commit => (Some(&connection.changes), true),
                Haste::Slow => (None, false),
            };
            let quick = pace.is_some_and(Pace::is_calm);
            if !quick {
                // The next thread may read on while this one works, and what is made already waits for no slow call.
                connection.send(&mut buffers.reply, None);
                connection.end(interest);
                self.settle(connection, &mut buffers.reply, std::mem::take(changes));
            }
            let start = Instant::now();
            let ledger = (quick && is_change).then_some(&buffers.ledger);
            let answered = self.call(connection, bytes, &mut buffers.reply, &buffers.outlet, ledger);
            let body = buffers.outlet.take();
            match answered {
                Some(change) => changes.extend(change),
                None => return self.sockets.forget(connection.id),
            }
            // What a change takes that waits for its own commit says nothing.
            if let Some(pace) = pace.filter(|_| quick || !is_change) {
                pace.took(start.elapsed());
            }
            // Also where the last of what came is done: the client may wait for it before it sends more.
            let last = interest == EventFlags::IN || served == MAX_BATCH;
            if !quick || last || body.is_some() || buffers.reply.len() >= SCRATCH {
                connection.send(&mut buffers.reply, body);
            }
            if !quick {
                return;
            }
            // Else it looks for more by itself: an event would often wake another thread, for more than a call costs.
            if served == MAX_BATCH || !connection.is_clear() {
                return connection.end(interest);
            }
        }
    }

    /// Brings changes to the stick and answers them.
    fn settle(&self, connection: &Connection, reply: &mut Encoder, changes: Vec<Change<'_>>) {
        if changes.is_empty() {
            return;
        }
        self.service.settle(changes, |answer, waiters| {
            let start = reply.len();
            reply.u32(LAST_FRAGMENT | answer.len() as u32);
            reply.fixed(answer);
            for waiter in waiters.iter().filter_map(Weak::upgrade) {
                waiter.send_copy(&reply.bytes()[start..]);
            }
        });
        connection.send(reply, None);
    }

    /// Does one call, and puts its reply as a record behind those that wait to be sent; what `outlet` holds then
    /// belongs to its end. With a `ledger` it may be a change that is not answered yet. `None` if what came is no call.
    fn call<'a>(
        &'a self,
        connection: &Arc<Connection>,
        bytes: &[u8],
        reply: &mut Encoder,
        outlet: &Outlet,
        ledger: Option<&Ledger>,
    ) -> Option<Option<Change<'a>>> {
        let start = reply.len();
        reply.u32(0);
        let source = Source { peer: &connection.peer, port: connection.port, tcp: true, outlet: Some(outlet), ledger };
        match self.service.handle(source, bytes, reply, || Arc::downgrade(connection)) {
            Outcome::Reply(waiters) => {
                // The record mark: one last fragment.
                let length = reply.len() - start - 4 + outlet.len();
                reply.patch_u32(start, LAST_FRAGMENT | length as u32);
                for waiter in waiters.iter().filter_map(Weak::upgrade) {
                    waiter.send_copy(&reply.bytes()[start..]);
                }
            }
            Outcome::Owed(change) => {
                reply.truncate(start);
                return Some(Some(change));
            }
            Outcome::Later => reply.truncate(start),
            Outcome::NotRpc => {
                tracing::warn!(address = %connection.peer.address, "what came is no RPC call: the connection is closed");
                return None;
            }
        }
        Some(None)
    }

    /// MOUNT and portmap over UDP: a datagram is a record.
    pub fn datagram(&self, fd: &OwnedFd, again: impl FnOnce(), buffers: &mut Buffers) {
        let received = recvfrom(fd, &mut buffers.scratch[..MAX_DATAGRAM], RecvFlags::DONTWAIT);
        again();
        let Ok((count, _, Some(from))) = received else { return };
        let Ok(from) = SocketAddrV4::try_from(from) else { return };
        let peer = self.service.peers.get(*from.ip());
        let reply = &mut buffers.reply;
        reply.clear();
        let source = Source { peer: &peer, port: from.port(), tcp: false, outlet: None, ledger: None };
        // Only over TCP calls wait for each other.
        if let Outcome::Reply(_) = self.service.handle(source, &buffers.scratch[..count], reply, Weak::new) {
            // A lost reply is asked for again.
            let _ = sendto(fd, reply.bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT, &from);
        }
    }
}

/// A thread's turn for one client; when it ends, a connection of that client that waits goes on.
struct Turn<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let waiting = self.shared.service.peers.leave(self.peer);
        if let Some(connection) = waiting.and_then(|id| self.shared.sockets.connection(id)) {
            connection.wake();
        }
    }
}
