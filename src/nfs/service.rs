//! From one record to its reply: RPC header, program, reply cache. I/O, by
//! the procedures that it calls; knows nothing of sockets.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::export::Exports;
use super::intent::{Intent, State};
use super::journal::{Journal, milliseconds_since_boot};
use super::owed::{self, Ledger, Owed};
use super::peer::{Peer, Peers};
use super::pipe::Outlet;
use super::portmap::{self, Ports};
use super::reply_cache::{Key, Lookup, ReplyCache, Turn};
use super::rpc::{self, Accept, AuthStat, Call, Parsed};
use super::settle::{Settle, Unsettled};
use super::xdr::{Cursor, Encoder, Malformed};
use super::{Event, mount, procedures};
use crate::blackbox::tap;
use crate::directory::{Directory, Published};

/// Where a record came from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub peer: &'a Peer,
    pub port: u16,
    /// NFS itself is served over TCP only: its replies are larger than datagrams should be.
    pub tcp: bool,
    /// Where the end of a reply may be left that is not worth a copy, if the connection can send it from there.
    pub outlet: Option<&'a Outlet>,
    /// Where a change may be left that the thread brings to the stick later, with others.
    pub ledger: Option<&'a Ledger>,
}

/// What becomes of a record. `W` is how a waiter for a running call is reached.
pub enum Outcome<'a, W> {
    /// `reply` holds the answer; those who repeated the call get it too.
    Reply(Vec<W>),
    /// The change is made; `Service::settle` brings it to the stick and gives the answer.
    Owed(Box<Pending<'a, W>>),
    /// The answer comes from the call that this one repeats.
    Later,
    /// Not a call: nothing can be answered.
    NotRpc,
}

/// A call whose change is made and not on the stick yet, with the answer for when it is.
pub struct Pending<'a, W> {
    ending: Ending<'a, W>,
    owed: Owed,
    answer: Vec<u8>,
}

/// All that answers calls.
pub struct Service<W> {
    pub exports: Exports,
    pub peers: Peers,
    pub directory: Arc<Published<Directory>>,
    pub sink: Arc<dyn Fn(Event) + Send + Sync>,
    pub ports: Ports,
    pub allow_unprivileged_ports: bool,
    pub replies: Mutex<ReplyCache<W>>,
    pub memory: Option<Memory>,
}

/// What outlives this process.
pub struct Memory {
    pub journal: Journal,
    pub unsettled: Unsettled,
}

/// One go at a call, as the procedures see it.
#[derive(Clone, Copy, Default)]
pub struct Attempt<'a> {
    call: Option<(&'a Journal, u32, Ipv4Addr, Key)>,
    /// The server before this one was killed after it had done the call.
    pub done: bool,
}

impl Attempt<'_> {
    /// Puts down what is about to happen, under the same lock that it happens under.
    pub fn begin(&self, intent: impl FnOnce() -> Option<Intent>) {
        if let Some((journal, slot, address, key)) = self.call
            && let Some(intent) = intent()
        {
            journal.write(slot, address, milliseconds_since_boot(), key, &State::Begun(intent));
        }
    }
}

/// Of a call to MOUNT or the portmapper: the header and a path of usual length.
const MAX_SHOWN: usize = 256;

/// RFC 6056's other end: ports that only root can bind.
const RESERVED: u16 = 1024;

/// The status that stands first in every NFS reply that has one: JUKEBOX.
const JUKEBOX: [u8; 4] = 10008u32.to_be_bytes();
/// An accepted reply's header in bytes.
const HEADER_BYTES: usize = 24;

/// What a call waits for, as a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// Nothing: it asks for what is in memory, or leaves data there. It need not leave its connection to
    /// another thread first.
    Quick,
    /// A commit of the journal, which it may share with others of its kind.
    Commit,
    /// The stick.
    Slow,
}

pub fn haste(record: &[u8]) -> Haste {
    let word = |index: usize| Some(u32::from_be_bytes(*record.get(4 * index..)?.first_chunk()?));
    let (Some(procedures::PROGRAM), Some(procedure)) = (word(3), word(5)) else { return Haste::Slow };
    if procedures::is_of_one_name(procedure) {
        return Haste::Commit;
    }
    let quick = match procedure {
        procedures::WRITE => is_unstable_write(record).unwrap_or_default(),
        _ => procedures::is_quick(procedure),
    };
    if quick { Haste::Quick } else { Haste::Slow }
}

fn is_unstable_write(record: &[u8]) -> Result<bool, Malformed> {
    let mut cursor = Cursor::new(record);
    cursor.take(24)?;
    for _credentials_and_verifier in 0..2 {
        cursor.u32()?;
        cursor.opaque(usize::MAX)?;
    }
    procedures::is_unstable(&mut cursor)
}

impl<W> Service<W> {
    /// Answers one record into `reply`, behind what it holds already.
    pub fn handle(
        &self,
        source: Source<'_>,
        record: &[u8],
        reply: &mut Encoder,
        waiter: impl FnOnce() -> W,
    ) -> Outcome<'_, W> {
        let mut cursor = Cursor::new(record);
        let call = match rpc::parse(&mut cursor) {
            Err(_) => return Outcome::NotRpc,
            Ok(Parsed::RpcMismatch { xid }) => {
                rpc::rpc_mismatch(reply, xid);
                return Outcome::Reply(Vec::new());
            }
            Ok(Parsed::AuthError { xid, stat }) => {
                rpc::auth_error(reply, xid, stat);
                return Outcome::Reply(Vec::new());
            }
            Ok(Parsed::Call(call)) => call,
        };
        source.peer.called();
        show(source, self.ports, &call, record, cursor.rest().len());
        let address = source.peer.address;
        if call.program != procedures::PROGRAM || procedures::is_idempotent(call.procedure) || !source.tcp {
            self.answer(source, &call, Attempt::default(), cursor, reply);
            return Outcome::Reply(Vec::new());
        }
        // A stranger can change nothing, and is not to push out what clients did.
        if self.directory.get().client(address).is_none() && !self.replies().knows(address) {
            let source = Source { ledger: None, ..source };
            self.answer(source, &call, Attempt::default(), cursor, reply);
            return Outcome::Reply(Vec::new());
        }
        let key = Key::new(call.xid, call.procedure, &call.credentials, cursor.rest());
        let turn = match self.replies().lookup(Instant::now(), address, key, waiter()) {
            Lookup::Running => return Outcome::Later,
            Lookup::Repeat(before) => {
                reply.fixed(&before);
                return Outcome::Reply(Vec::new());
            }
            Lookup::New(turn) => turn,
        };
        let start = reply.len();
        // Told when the call ends, however it ends: a panic must not leave repeats waiting.
        let journal = self.memory.as_ref().map(|memory| &memory.journal).zip(turn.slot);
        let ending = Ending { service: self, address, key, turn, journal, done: false };
        let attempt = Attempt { call: journal.map(|(journal, slot)| (journal, slot, address, key)), done: turn.done };
        self.answer(source, &call, attempt, cursor, reply);
        match source.ledger.and_then(Ledger::take) {
            Some(owed) => {
                let answer = reply.bytes()[start..].to_vec();
                reply.truncate(start);
                Outcome::Owed(Box::new(Pending { ending, owed, answer }))
            }
            None => Outcome::Reply(ending.end(&reply.bytes()[start..])),
        }
    }

    /// Brings changes to the stick, in the order that they were made in, and tells each one's answer and who
    /// else waits for it.
    pub fn settle(&self, mut pending: Vec<Box<Pending<'_, W>>>, mut tell: impl FnMut(&[u8], Vec<W>)) {
        let results = owed::settle(pending.iter_mut().map(|pending| &mut pending.owed));
        for (pending, result) in pending.into_iter().zip(results) {
            let Pending { ending, owed, mut answer } = *pending;
            if let Err(errno) = result {
                let status = self.exports.failed(&owed.export, errno, false);
                answer.truncate(HEADER_BYTES);
                let mut refusal = Encoder::default();
                owed.refusal(status, &mut refusal);
                answer.extend_from_slice(refusal.bytes());
            }
            // A removed file is closed, and its room free, before that is answered.
            drop(owed);
            let waiters = ending.end(&answer);
            tell(&answer, waiters);
        }
    }

    /// Whether calls of this client may be taken: not while it is not known what the server before
    /// this one did for it.
    pub fn is_settled(&self, address: Ipv4Addr) -> bool {
        let Some(memory) = self.memory.as_ref().filter(|memory| !memory.unsettled.is_empty()) else { return true };
        let settle = Settle {
            exports: &self.exports,
            directory: &self.directory.get(),
            replies: &self.replies,
            journal: &memory.journal,
            now: Instant::now(),
        };
        memory.unsettled.settle(address, &settle)
    }

    fn answer(&self, source: Source<'_>, call: &Call, attempt: Attempt<'_>, mut args: Cursor<'_>, reply: &mut Encoder) {
        let start = reply.len();
        rpc::accepted(reply, call.xid, Accept::Success);
        let accept = match (call.program, call.version) {
            (procedures::PROGRAM, procedures::VERSION) if source.tcp => {
                let Some(caller) = procedures::caller(call.procedure, call.credentials) else {
                    reply.truncate(start);
                    return rpc::auth_error(reply, call.xid, AuthStat::TooWeak);
                };
                let directory = self.directory.get();
                let context = procedures::Context {
                    exports: &self.exports,
                    directory: &directory,
                    peer: source.peer,
                    privileged: self.privileged(source),
                    caller,
                    attempt,
                    outlet: source.outlet,
                    ledger: source.ledger,
                    changing: procedures::is_change(call.procedure),
                };
                procedures::handle(&context, call.procedure, &mut args, reply)
            }
            (mount::PROGRAM, mount::VERSION) => {
                let directory = self.directory.get();
                let context = mount::Context {
                    exports: &self.exports,
                    directory: &directory,
                    peer: source.peer,
                    privileged: self.privileged(source),
                    sink: &*self.sink,
                };
                mount::handle(&context, call.procedure, &mut args, reply)
            }
            (portmap::PROGRAM, portmap::VERSION) => {
                if let Some((program, version)) = portmap::asked(call.procedure, args) {
                    (self.sink)(Event::PortAsked { address: source.peer.address, program, version });
                }
                portmap::handle(self.ports, call.procedure, &mut args, reply)
            }
            (procedures::PROGRAM, _) if source.tcp => self.mismatch(source, call, procedures::VERSION),
            (mount::PROGRAM, _) => self.mismatch(source, call, mount::VERSION),
            (portmap::PROGRAM, _) => self.mismatch(source, call, portmap::VERSION),
            _ => Accept::ProgUnavail,
        };
        if accept != Accept::Success {
            reply.truncate(start);
            rpc::accepted(reply, call.xid, accept);
        }
    }

    /// Another version than ours was called: what that tells of a boot is control's affair.
    fn mismatch(&self, source: Source<'_>, call: &Call, ours: u32) -> Accept {
        let (address, program, version) = (source.peer.address, call.program, call.version);
        (self.sink)(Event::VersionRefused { address, program, version });
        Accept::ProgMismatch { low: ours, high: ours }
    }

    fn privileged(&self, source: Source<'_>) -> bool {
        self.allow_unprivileged_ports || source.port < RESERVED
    }

    fn replies(&self) -> std::sync::MutexGuard<'_, ReplyCache<W>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows the black box a call's header, and the path of a MNT: every call to MOUNT and the portmapper, other
/// versions than ours, and the first ones of NFS behind a mount. Handles and data never.
fn show(source: Source<'_>, ports: Ports, call: &Call, record: &[u8], arguments: usize) {
    if !tap::is_on() {
        return;
    }
    let (port, shown) = match (call.program, call.version) {
        (procedures::PROGRAM, procedures::VERSION) if !source.peer.is_fresh() => return,
        (procedures::PROGRAM, _) => (ports.nfs, record.len() - arguments),
        (mount::PROGRAM, _) => (ports.mount, record.len().min(MAX_SHOWN)),
        _ => (ports.portmap, record.len().min(MAX_SHOWN)),
    };
    let from = SocketAddrV4::new(source.peer.address, source.port);
    tap::datagram(source.tcp, from, SocketAddrV4::new(tap::ours(), port), record.len(), &record[..shown]);
}

/// A call in the reply cache that has no answer yet; dropped without one, it is taken out.
struct Ending<'a, W> {
    service: &'a Service<W>,
    address: Ipv4Addr,
    key: Key,
    turn: Turn,
    journal: Option<(&'a Journal, u32)>,
    done: bool,
}

impl<W> Ending<'_, W> {
    /// Keeps the answer for repeats, also behind a restart. Who waits for it.
    fn end(mut self, answer: &[u8]) -> Vec<W> {
        // The client asks again with a new xid after JUKEBOX, but an old kernel may use the old one.
        let keep = answer.get(HEADER_BYTES..HEADER_BYTES + 4) != Some(&JUKEBOX);
        if let Some((journal, slot)) = self.journal {
            if keep {
                let state = State::Answered(answer.into());
                journal.write(slot, self.address, milliseconds_since_boot(), self.key, &state);
            } else {
                journal.clear(slot);
            }
        }
        self.done = true;
        self.service.replies().finished(self.address, self.key, self.turn, answer, keep)
    }
}

impl<W> Drop for Ending<'_, W> {
    fn drop(&mut self) {
        if !self.done {
            self.service.replies().finished(self.address, self.key, self.turn, &[], false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service<()> {
        Service {
            exports: Exports::new(1, crate::nfs::file::Budget::new(1 << 30, 1024)),
            peers: Peers::new(4),
            directory: Arc::default(),
            sink: Arc::new(|_| {}),
            ports: Ports { nfs: 2049, mount: 20048, portmap: 111 },
            allow_unprivileged_ports: true,
            replies: Mutex::default(),
            memory: None,
        }
    }

    /// The words of the reply to a call of `header` with AUTH_NONE and `args`.
    fn check(header: [u32; 3], args: &[u8], tcp: bool, expected: &[u32]) {
        let mut call = Encoder::default();
        for item in [7, 0, 2].into_iter().chain(header).chain([0, 0, 0, 0]) {
            call.u32(item);
        }
        call.fixed(args);
        let service = service();
        let peer = service.peers.get(Ipv4Addr::LOCALHOST);
        let mut reply = Encoder::default();
        let source = Source { peer: &peer, port: 700, tcp, outlet: None, ledger: None };
        assert!(matches!(service.handle(source, call.bytes(), &mut reply, || ()), Outcome::Reply(_)));
        let words: Vec<u32> =
            reply.bytes().chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, expected, "{header:?}");
    }

    #[test]
    fn null_is_answered_by_every_program() {
        for header in [[100_003, 3, 0], [100_005, 3, 0], [100_000, 2, 0]] {
            check(header, &[], true, &[7, 1, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn another_program_version_or_procedure_is_told_apart() {
        check([100_227, 3, 0], &[], true, &[7, 1, 0, 0, 0, 1]);
        check([100_003, 4, 0], &[], true, &[7, 1, 0, 0, 0, 2, 3, 3]);
        check([100_005, 1, 0], &[], true, &[7, 1, 0, 0, 0, 2, 3, 3]);
        check([100_000, 4, 3], &[], true, &[7, 1, 0, 0, 0, 2, 2, 2]);
        check([100_005, 3, 6], &[], true, &[7, 1, 0, 0, 0, 3]);
        check([100_003, 3, 0], &[], false, &[7, 1, 0, 0, 0, 1]); // NFS over UDP
    }

    #[test]
    fn an_opaque_that_lies_is_garbage_and_ends_nothing() {
        check([100_003, 3, 1], &0xffff_fff0u32.to_be_bytes(), true, &[7, 1, 0, 0, 0, 4]);
        check([100_005, 3, 1], &0xffff_fff0u32.to_be_bytes(), true, &[7, 1, 0, 0, 0, 4]);
        check([100_000, 2, 3], &[0; 3], true, &[7, 1, 0, 0, 0, 4]);
    }

    #[test]
    fn without_credentials_nothing_but_mounting_works() {
        check([100_003, 3, 3], &[0; 4], true, &[7, 1, 1, 1, 5]);
    }

    #[test]
    fn only_a_write_that_waits_for_no_stick_is_quick() {
        let check = |stable: u32, cut: usize, expected: bool| {
            let mut call = Encoder::default();
            for item in [7, 0, 2, 100_003, 3, 7, 1] {
                call.u32(item);
            }
            call.opaque(&[0; 21]);
            call.u32(0);
            call.opaque(&[]);
            call.opaque(&[9; 30]);
            call.u64(4096);
            call.u32(4);
            call.u32(stable);
            call.opaque(b"data");
            let quick = haste(&call.bytes()[..call.len() - cut]) == Haste::Quick;
            assert_eq!(quick, expected, "{stable} {cut}");
        };
        check(0, 0, true);
        check(1, 0, false);
        check(2, 0, false);
        check(0, 9, false);
        check(0, 60, false);
    }

    #[test]
    fn a_stranger_with_a_handle_of_ours_is_made_to_wait() {
        use super::super::handle::{Handle, encode};
        use crate::directory::HandleKey;
        let handle = Handle::new(2, 0xf8, nfsserve::nfs::ftype3::NF3DIR, &[1; 32]).unwrap();
        let mut args = Encoder::default();
        args.opaque(encode(&handle, &HandleKey([5; 16])).as_ref());
        check([100_003, 3, 1], args.bytes(), true, &[7, 1, 0, 0, 0, 0, 10008]);
        check([100_003, 3, 1], &[0, 0, 0, 4, 9, 9, 9, 9], true, &[7, 1, 0, 0, 0, 0, 10001]);
    }

    #[test]
    fn every_procedure_survives_any_arguments() {
        use proptest::prelude::*;
        use proptest::test_runner::TestRunner;
        let service = service();
        let peer = service.peers.get(Ipv4Addr::LOCALHOST);
        let args = (0u32..24, proptest::collection::vec(any::<u8>(), 0..200), 0u32..3);
        let ran = TestRunner::default().run(&args, |(procedure, args, program)| {
            let program = [(100_003, 3), (100_005, 3), (100_000, 2)][program as usize];
            let mut call = Encoder::default();
            for item in [7, 0, 2, program.0, program.1, procedure, 1, 20, 0, 0, 0, 0, 0, 0, 0] {
                call.u32(item);
            }
            call.fixed(&args);
            let mut reply = Encoder::default();
            let source = Source { peer: &peer, port: 700, tcp: true, outlet: None, ledger: None };
            service.handle(source, call.bytes(), &mut reply, || ());
            prop_assert!(reply.len() < 4096);
            Ok(())
        });
        ran.unwrap();
    }
}
