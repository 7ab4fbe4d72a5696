//! Record marking of RPC over TCP (RFC 5531 §11): fragments into records. Pure.
//!
//! A record that lies whole in what was just received is lent, not copied. A
//! longer one grows by what really came, never by what its header claims, and
//! one that claims too much ends the connection before anything is allocated.

use std::borrow::Cow;

/// Why the stream cannot be followed any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a record claims {0} bytes")]
    TooLong(u64),
    #[error("a record has more than {MAX_FRAGMENTS} fragments")]
    TooManyFragments,
}

/// Clients send one fragment a record; a few libraries split at their buffer size of 4 to 9 KB. So many take the longest
/// call that carries no data, a SYMLINK, in fragments of one byte.
pub const MAX_FRAGMENTS: u32 = 8192;

/// Where in the stream the next byte belongs.
#[derive(Debug)]
pub struct RecordReader {
    max: usize,
    /// Fragments of the record that came already.
    record: Vec<u8>,
    fragments: u32,
    header: [u8; 4],
    header_length: usize,
    /// Of the current fragment, if its header is complete: bytes that are missing, and whether it is the last.
    fragment: Option<(usize, bool)>,
}

impl RecordReader {
    /// Records longer than `max` bytes are refused.
    pub fn new(max: usize) -> Self {
        Self { max, record: Vec::new(), fragments: 0, header: [0; 4], header_length: 0, fragment: None }
    }

    /// The next whole record in `input`, which moves on behind it; `None` when
    /// all of `input` was taken and more is needed.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, RecordError> {
        loop {
            let (missing, last) = match self.fragment {
                Some(fragment) => fragment,
                None => match self.header(input)? {
                    Some(fragment) => fragment,
                    None => return Ok(None),
                },
            };
            let (here, rest) = input.split_at(missing.min(input.len()));
            *input = rest;
            if here.len() < missing {
                self.record.extend_from_slice(here);
                self.fragment = Some((missing - here.len(), last));
                return Ok(None);
            }
            self.fragment = None;
            if !last {
                self.record.extend_from_slice(here);
                continue;
            }
            self.fragments = 0;
            if self.record.is_empty() {
                return Ok(Some(Cow::Borrowed(here)));
            }
            self.record.extend_from_slice(here);
            return Ok(Some(Cow::Owned(std::mem::take(&mut self.record))));
        }
    }

    /// Room for the bytes that a long record still misses, so that they are
    /// received where they are needed: at most `step` of them. What was added
    /// must be told by `received`.
    pub fn room(&mut self, step: usize) -> Option<(&mut Vec<u8>, usize)> {
        let (missing, _) = self.fragment?;
        let wanted = missing.min(step);
        self.record.reserve(wanted);
        (wanted > 0).then_some((&mut self.record, wanted))
    }

    /// `count` bytes were added to what `room` lent: the record, if it is whole now.
    pub fn received(&mut self, count: usize) -> Option<Vec<u8>> {
        let (missing, last) = self.fragment.as_mut()?;
        *missing -= count.min(*missing);
        if *missing > 0 {
            return None;
        }
        let last = *last;
        self.fragment = None;
        last.then(|| {
            self.fragments = 0;
            std::mem::take(&mut self.record)
        })
    }

    /// Bytes that are held for a record that is not complete.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.record.capacity()
    }

    fn header(&mut self, input: &mut &[u8]) -> Result<Option<(usize, bool)>, RecordError> {
        while self.header_length < 4 {
            let Some((byte, rest)) = input.split_first() else { return Ok(None) };
            self.header[self.header_length] = *byte;
            self.header_length += 1;
            *input = rest;
        }
        self.header_length = 0;
        let mark = u32::from_be_bytes(self.header);
        let (length, last) = ((mark & 0x7fff_ffff) as usize, mark & 0x8000_0000 != 0);
        let total = self.record.len() as u64 + length as u64;
        if total > self.max as u64 {
            return Err(RecordError::TooLong(total));
        }
        self.fragments += 1;
        if self.fragments > MAX_FRAGMENTS {
            return Err(RecordError::TooManyFragments);
        }
        self.fragment = Some((length, last));
        Ok(self.fragment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fragment(bytes: &[u8], last: bool) -> Vec<u8> {
        let mark = bytes.len() as u32 | if last { 0x8000_0000 } else { 0 };
        [&mark.to_be_bytes()[..], bytes].concat()
    }

    #[test]
    fn a_whole_record_is_lent() {
        let stream = [fragment(b"one!", true), fragment(b"two", true)].concat();
        let mut input = &stream[..];
        let mut reader = RecordReader::new(64);
        assert!(matches!(reader.next(&mut input), Ok(Some(Cow::Borrowed(b"one!")))));
        assert!(matches!(reader.next(&mut input), Ok(Some(Cow::Borrowed(b"two")))));
        assert_eq!(reader.next(&mut input), Ok(None));
    }

    #[test]
    fn a_record_that_claims_two_gigabytes_is_refused_with_nothing_allocated() {
        let mut reader = RecordReader::new(1 << 20);
        let mut input = &[0xff, 0xff, 0xff, 0xff, 1, 2, 3][..];
        assert_eq!(reader.next(&mut input), Err(RecordError::TooLong(0x7fff_ffff)));
        assert_eq!(reader.held(), 0);
    }

    #[test]
    fn fragments_that_add_up_to_too_much_are_refused() {
        let stream = [fragment(&[0; 40], false), fragment(&[0; 40], true)].concat();
        assert_eq!(RecordReader::new(64).next(&mut &stream[..]), Err(RecordError::TooLong(80)));
    }

    #[test]
    fn empty_fragments_for_ever_are_refused() {
        let stream = fragment(b"", false).repeat(MAX_FRAGMENTS as usize + 1);
        assert_eq!(RecordReader::new(64).next(&mut &stream[..]), Err(RecordError::TooManyFragments));
    }

    #[test]
    fn an_honest_claim_allocates_only_what_came() {
        let mut reader = RecordReader::new(1 << 20);
        let mut input = &fragment(&[5; 1000], true)[..100];
        let head: Vec<u8> = [&(0x8000_0000u32 | (1 << 20)).to_be_bytes()[..], &input[4..]].concat();
        input = &head;
        assert_eq!(reader.next(&mut input), Ok(None));
        assert!(reader.held() < 4096, "{}", reader.held());
    }

    #[test]
    fn bytes_received_into_the_room_complete_the_record() {
        let mut reader = RecordReader::new(64);
        let stream = fragment(b"0123456789", true);
        assert_eq!(reader.next(&mut &stream[..6]), Ok(None));
        let (record, wanted) = reader.room(100).unwrap();
        assert_eq!(wanted, 8);
        record.extend_from_slice(b"2345678");
        assert_eq!(reader.received(7), None);
        let (record, wanted) = reader.room(100).unwrap();
        assert_eq!(wanted, 1);
        record.extend_from_slice(b"9");
        assert_eq!(reader.received(1).unwrap(), b"0123456789");
        assert!(reader.room(100).is_none());
        assert!(matches!(reader.next(&mut &fragment(b"more", true)[..]), Ok(Some(Cow::Borrowed(b"more")))));
    }

    #[test]
    fn a_fragment_received_into_the_room_leaves_the_record_open_for_the_next() {
        let mut reader = RecordReader::new(64);
        assert_eq!(reader.next(&mut &fragment(b"0123", false)[..5]), Ok(None));
        let (record, wanted) = reader.room(100).unwrap();
        assert_eq!(wanted, 3);
        record.extend_from_slice(b"123");
        assert_eq!(reader.received(3), None);
        assert!(reader.room(100).is_none());
        assert_eq!(reader.next(&mut &fragment(b"4", true)[..]).unwrap().unwrap(), &b"01234"[..]);
    }

    proptest! {
        #[test]
        fn any_cut_of_the_stream_gives_the_same_records(
            records in proptest::collection::vec(proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..20), 1..4), 1..5),
            cut in 1usize..30,
        ) {
            let mut stream = Vec::new();
            for fragments in &records {
                for (n, bytes) in fragments.iter().enumerate() {
                    stream.extend(fragment(bytes, n + 1 == fragments.len()));
                }
            }
            let mut reader = RecordReader::new(1000);
            let mut found = Vec::new();
            for mut chunk in stream.chunks(cut) {
                while let Some(record) = reader.next(&mut chunk).unwrap() {
                    found.push(record.into_owned());
                }
            }
            let expected: Vec<Vec<u8>> = records.iter().map(|fragments| fragments.concat()).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
