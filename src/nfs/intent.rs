//! What the journal remembers of a call that must not be done twice, and how to
//! tell, after the server was killed, whether it was done. Pure.
//!
//! Before such a call touches the tree its *intent* is written: which name is
//! about to come, go or move, and which file stands there. The tree's file system does each
//! of these in one step, so one look at the names tells afterwards on which side
//! of that step the server was killed. RFC 1813 §4.5 asks for no more than memory;
//! this is what makes a kill no worse than a lost packet.
//!
//! ```text
//! 0..8    SipHash-1-3 of the rest: a torn or foreign record is none
//! 8..     XDR: version, address, milliseconds since boot, xid, procedure, checksum of the call,
//!         state (0 begun, 1 done, 2 answered), then the intent or the reply
//! ```

use std::hash::Hasher;
use std::net::Ipv4Addr;

use siphasher::sip::SipHasher13;

use super::handle::{self, Handle};
use super::reply_cache::{Key, MAX_REPLY_BYTES};
use super::xdr::{Cursor, Encoder, Malformed};
use crate::directory::HandleKey;

/// Room of one record in the journal. Four fill a page exactly: none crosses from one page into the
/// next, where a kill could part it.
pub const RECORD_BYTES: usize = 1024;
/// Changes with the layout.
const VERSION: u32 = 1;
const MAX_NAME: usize = 255;

/// One name in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub directory: Handle,
    pub name: Box<[u8]>,
}

impl Place {
    pub fn new(directory: Handle, name: &[u8]) -> Self {
        Self { directory, name: name.into() }
    }
}

/// What a call is about to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// A free name is to be taken, by `file` if that exists already: CREATE, MKDIR, SYMLINK, MKNOD; LINK.
    Appear { at: Place, file: Option<Handle> },
    /// `file` is to lose this name: REMOVE, RMDIR.
    Vanish { at: Place, file: Handle },
    /// `file` is to go from one name to another: RENAME.
    Move { from: Place, to: Place, file: Handle },
    /// Attributes are to be set whose guard held: SETATTR. To set them again does no harm, but to ask
    /// the guard again would refuse it.
    Guarded,
}

impl Intent {
    /// Whether the step was taken, by what `look` finds at the names now.
    pub fn was_done<E>(&self, mut look: impl FnMut(&Place) -> Result<Option<Handle>, E>) -> Result<bool, E> {
        Ok(match self {
            Self::Appear { at, file: None } => look(at)?.is_some(),
            Self::Appear { at, file: Some(file) } => look(at)?.is_some_and(|found| found.is_same_file(file)),
            Self::Vanish { at, file } => !look(at)?.is_some_and(|found| found.is_same_file(file)),
            Self::Move { from, to, file } => {
                !look(from)?.is_some_and(|found| found.is_same_file(file))
                    && look(to)?.is_some_and(|found| found.is_same_file(file))
            }
            Self::Guarded => true,
        })
    }

    /// The tree it is about, if that matters.
    pub fn export(&self) -> Option<u32> {
        match self {
            Self::Appear { at, .. } | Self::Vanish { at, .. } | Self::Move { from: at, .. } => {
                Some(at.directory.export)
            }
            Self::Guarded => None,
        }
    }
}

/// How far a call came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Begun(Intent),
    /// A server that was killed had done it; its client does not know yet.
    Done,
    Answered(Box<[u8]>),
}

/// One call in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub address: Ipv4Addr,
    /// Milliseconds since the machine's start.
    pub began: u64,
    pub key: Key,
    pub state: State,
}

/// At most `RECORD_BYTES` bytes; `None` for what does not fit.
pub fn encode(address: Ipv4Addr, began: u64, key: Key, state: &State) -> Option<Vec<u8>> {
    let mut out = Encoder::with_capacity(RECORD_BYTES);
    out.u64(0);
    out.u32(VERSION);
    out.u32(address.to_bits());
    out.u64(began);
    out.u32(key.xid);
    out.u32(key.procedure);
    out.u64(key.checksum);
    match state {
        State::Begun(intent) => {
            out.u32(0);
            match intent {
                Intent::Appear { at, file } => {
                    out.u32(0);
                    put_place(&mut out, at);
                    out.bool(file.is_some());
                    file.iter().for_each(|file| put_handle(&mut out, file));
                }
                Intent::Vanish { at, file } => {
                    out.u32(1);
                    put_place(&mut out, at);
                    put_handle(&mut out, file);
                }
                Intent::Move { from, to, file } => {
                    out.u32(2);
                    put_place(&mut out, from);
                    put_place(&mut out, to);
                    put_handle(&mut out, file);
                }
                Intent::Guarded => out.u32(3),
            }
        }
        State::Done => out.u32(1),
        State::Answered(reply) => {
            out.u32(2);
            out.opaque(reply);
        }
    }
    let mut bytes = out.into_bytes();
    if bytes.len() > RECORD_BYTES {
        return None;
    }
    let sum = checksum(&bytes[8..]);
    bytes[..8].copy_from_slice(&sum.to_be_bytes());
    Some(bytes)
}

/// The record at the start of `bytes`, which may hold rubbish behind it.
pub fn decode(bytes: &[u8]) -> Option<Record> {
    let mut cursor = Cursor::new(bytes);
    let record = unchecked(&mut cursor).ok()?;
    let length = bytes.len() - cursor.rest().len();
    let (sum, rest) = bytes[..length].split_first_chunk::<8>()?;
    (u64::from_be_bytes(*sum) == checksum(rest)).then_some(record)
}

/// What a slot says, whether its checksum is right or not.
pub(super) fn unchecked(cursor: &mut Cursor<'_>) -> Result<Record, Malformed> {
    cursor.u64()?;
    if cursor.u32()? != VERSION {
        return Err(Malformed);
    }
    let address = Ipv4Addr::from_bits(cursor.u32()?);
    let began = cursor.u64()?;
    let key = Key { xid: cursor.u32()?, procedure: cursor.u32()?, checksum: cursor.u64()? };
    let state = match cursor.u32()? {
        0 => State::Begun(match cursor.u32()? {
            0 => Intent::Appear { at: place(cursor)?, file: if cursor.bool()? { Some(file(cursor)?) } else { None } },
            1 => Intent::Vanish { at: place(cursor)?, file: file(cursor)? },
            2 => Intent::Move { from: place(cursor)?, to: place(cursor)?, file: file(cursor)? },
            3 => Intent::Guarded,
            _ => return Err(Malformed),
        }),
        1 => State::Done,
        2 => State::Answered(cursor.opaque(MAX_REPLY_BYTES)?.into()),
        _ => return Err(Malformed),
    };
    Ok(Record { address, began, key, state })
}

fn put_place(out: &mut Encoder, place: &Place) {
    put_handle(out, &place.directory);
    out.opaque(&place.name);
}

fn place(cursor: &mut Cursor<'_>) -> Result<Place, Malformed> {
    Ok(Place { directory: file(cursor)?, name: cursor.opaque(MAX_NAME)?.into() })
}

/// Under a key that is none: the record's own checksum covers it.
fn put_handle(out: &mut Encoder, handle: &Handle) {
    out.opaque(handle::encode(handle, &HandleKey::default()).as_ref());
}

fn file(cursor: &mut Cursor<'_>) -> Result<Handle, Malformed> {
    let bytes = cursor.opaque(handle::MAX_HANDLE_BYTES)?;
    handle::decode(bytes, &HandleKey::default()).map_err(|_| Malformed)
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfsserve::nfs::ftype3::{self, NF3DIR, NF3REG};
    use proptest::prelude::*;

    fn handle(n: u8, ftype: ftype3) -> Handle {
        Handle::new(2, 0xf8, ftype, &[n; 32]).unwrap()
    }

    fn at(name: &[u8]) -> Place {
        Place::new(handle(1, NF3DIR), name)
    }

    fn intents() -> Vec<Intent> {
        let (at, to, file) = (at(b"a"), at(&[b'x'; 255]), handle(7, NF3REG));
        vec![
            Intent::Appear { at: at.clone(), file: None },
            Intent::Appear { at: at.clone(), file: Some(file) },
            Intent::Vanish { at: at.clone(), file },
            Intent::Move { from: at, to, file },
            Intent::Guarded,
        ]
    }

    fn states() -> Vec<State> {
        let others = [State::Done, State::Answered([0; MAX_REPLY_BYTES].into()), State::Answered([].into())];
        intents().into_iter().map(State::Begun).chain(others).collect()
    }

    fn encoded(state: &State) -> Vec<u8> {
        encode(Ipv4Addr::LOCALHOST, 77, Key { xid: 1, procedure: 12, checksum: 3 }, state).unwrap()
    }

    #[test]
    fn a_record_reads_back_as_written_whatever_lies_behind_it() {
        for state in states() {
            let mut bytes = encoded(&state);
            bytes.resize(RECORD_BYTES, 0xee);
            let record = decode(&bytes).unwrap();
            assert_eq!(record.state, state);
            assert_eq!((record.address, record.began, record.key.xid), (Ipv4Addr::LOCALHOST, 77, 1));
        }
    }

    #[test]
    fn the_longest_names_and_handles_fit() {
        let (directory, name) = (Handle::new(2, 0xf8, NF3DIR, &[1; 48]).unwrap(), [b'x'; 255]);
        let place = Place::new(directory, &name);
        encoded(&State::Begun(Intent::Move { from: place.clone(), to: place, file: directory }));
    }

    /// What `intent` says where the names hold `found`.
    fn check(intent: &Intent, found: &[(&[u8], u8)], expected: bool) {
        let look = |place: &Place| -> Result<Option<Handle>, ()> {
            let found = found.iter().find(|(name, _)| *name == &*place.name);
            Ok(found.map(|(_, n)| handle(*n, NF3REG)))
        };
        assert_eq!(intent.was_done(look), Ok(expected), "{intent:?} {found:?}");
    }

    #[test]
    fn what_was_done_is_seen_by_the_names() {
        let (a, b) = (at(b"a"), at(b"b"));
        // A directory's type is in its own handle, and in that of a name it is not known.
        let file = handle(7, NF3DIR);
        let created = Intent::Appear { at: a.clone(), file: None };
        check(&created, &[], false);
        check(&created, &[(b"a", 9)], true);
        let linked = Intent::Appear { at: a.clone(), file: Some(file) };
        check(&linked, &[], false);
        check(&linked, &[(b"a", 7)], true);
        check(&linked, &[(b"a", 9)], false);
        let removed = Intent::Vanish { at: a.clone(), file };
        check(&removed, &[(b"a", 7)], false);
        check(&removed, &[], true);
        check(&removed, &[(b"a", 9)], true);
        let moved = Intent::Move { from: a, to: b, file };
        check(&moved, &[(b"a", 7)], false);
        check(&moved, &[(b"a", 7), (b"b", 9)], false);
        check(&moved, &[(b"b", 7)], true);
        check(&moved, &[(b"a", 8), (b"b", 7)], true);
        // Two names of one file: the system call does nothing, and may do it again.
        check(&moved, &[(b"a", 7), (b"b", 7)], false);
        // Gone from both: by whom is not known, and the repeat tells it as it is.
        check(&moved, &[], false);
    }

    #[test]
    fn what_cannot_be_seen_stays_undecided() {
        for intent in intents().into_iter().filter(|intent| *intent != Intent::Guarded) {
            assert_eq!(intent.was_done(|_| Err("no tree")), Err("no tree"));
        }
    }

    proptest! {
        #[test]
        fn one_changed_bit_makes_it_no_record(n in 0usize..8, bit in 0usize..RECORD_BYTES * 8) {
            let mut bytes = encoded(&states()[n]);
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&bytes), None);
        }

        #[test]
        fn a_torn_record_is_none(n in 0usize..8, cut in 0usize..RECORD_BYTES) {
            let mut bytes = encoded(&states()[n]);
            let whole = bytes.len();
            bytes.truncate(cut % whole);
            bytes.resize(RECORD_BYTES, 0);
            // A cut in zeros that stand there anyway is no cut.
            prop_assume!(bytes[..whole] != encoded(&states()[n])[..]);
            prop_assert_eq!(decode(&bytes), None);
        }

        #[test]
        fn any_bytes_are_no_record(bytes in proptest::collection::vec(any::<u8>(), 0..RECORD_BYTES)) {
            prop_assert_eq!(decode(&bytes), None);
        }
    }
}
