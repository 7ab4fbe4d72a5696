//! XDR (RFC 4506) at the edge of the network: a cursor that reads what a peer
//! sent, and an encoder for what we answer. Pure.
//!
//! The cursor never copies, never allocates, and never looks past the record
//! it was given: a length that lies is `Malformed`, whatever it claims. That is
//! why `nfsserve`'s `deserialize` is not used here: it allocates what an opaque
//! says it holds, so a 100-byte packet can end the process. Its types are used
//! for replies (`Encoder::value`), where every length is our own. Opaques, handles
//! and names are written from slices instead, because its types own a `Vec` each.

use std::mem::MaybeUninit;

use nfsserve::xdr::XDR;

/// The peer's bytes are not what the procedure's arguments say: GARBAGE_ARGS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads XDR items from one record, in order.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(record: &'a [u8]) -> Self {
        Self { rest: record }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// Eight opaque bytes: a verifier.
    pub fn verifier(&mut self) -> Result<[u8; 8], Malformed> {
        self.array()
    }

    /// RFC 4506 §4.4: a bool is 0 or 1 and nothing else.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// A variable-length opaque of at most `max` bytes, with its padding. The
    /// padding's bytes are not looked at: clients exist that leave rubbish there.
    pub fn opaque(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if length > max {
            return Err(Malformed);
        }
        let bytes = self.take(length)?;
        self.take(padding(length))?;
        Ok(bytes)
    }
}

/// Bytes from `length` up to the next multiple of four.
pub const fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

/// Writes XDR items one behind the other. Its buffer is kept from call to call.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// For whoever keeps the bytes: the buffer may be taken.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Takes back everything from `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    /// Bytes of a length that both sides know, a multiple of four.
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn opaque(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.bytes.extend_from_slice(bytes);
        self.pad(bytes.len());
    }

    /// One of `nfsserve`'s types.
    pub fn value(&mut self, value: &impl XDR) {
        // Writing into a Vec cannot fail.
        let _ = value.serialize(&mut self.bytes);
    }

    /// Overwrites the item at `offset`, which was written before.
    pub fn patch_u32(&mut self, offset: usize, value: u32) {
        if let Some(place) = self.bytes.get_mut(offset..offset + 4) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// An opaque of at most `max` bytes that `fill` reads straight into the
    /// reply: file data is copied once, from the page cache. `fill` answers how
    /// many bytes, from the start of what it was lent, it made valid.
    pub fn opaque_from<E>(
        &mut self,
        max: usize,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let start = self.bytes.len();
        self.u32(0);
        self.bytes.reserve(max + 4);
        match fill(&mut self.bytes.spare_capacity_mut()[..max]) {
            Ok(count) => {
                let count = count.min(max);
                let length = self.bytes.len() + count;
                // SAFETY: the capacity was reserved above, and `fill` vouches for the first `count` bytes.
                unsafe { self.bytes.set_len(length) };
                self.patch_u32(start, count as u32);
                self.pad(count);
                Ok(count)
            }
            Err(error) => {
                self.bytes.truncate(start);
                Err(error)
            }
        }
    }

    fn pad(&mut self, length: usize) {
        self.bytes.extend_from_slice(&[0; 3][..padding(length)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_length_that_lies_is_malformed_and_allocates_nothing() {
        for length in [0xffff_fff0u32, 0xffff_ffff, 0x7fff_ffff, 17, 16] {
            let mut record = length.to_be_bytes().to_vec();
            record.extend([0; 12]);
            assert_eq!(Cursor::new(&record).opaque(usize::MAX), Err(Malformed), "{length:#x}");
        }
    }

    #[test]
    fn an_opaque_over_its_bound_is_malformed() {
        let mut encoder = Encoder::default();
        encoder.opaque(&[7; 65]);
        assert_eq!(Cursor::new(encoder.bytes()).opaque(64), Err(Malformed));
        assert_eq!(Cursor::new(encoder.bytes()).opaque(65), Ok(&[7; 65][..]));
    }

    #[test]
    fn missing_padding_is_malformed() {
        assert_eq!(Cursor::new(&[0, 0, 0, 1, 9]).opaque(8), Err(Malformed));
        assert_eq!(Cursor::new(&[0, 0, 0, 1, 9, 0, 0, 0]).opaque(8), Ok(&[9][..]));
    }

    #[test]
    fn a_bool_is_zero_or_one() {
        assert_eq!(Cursor::new(&[0, 0, 0, 2]).bool(), Err(Malformed));
        assert_eq!(Cursor::new(&[0, 0, 0, 1]).bool(), Ok(true));
    }

    #[test]
    fn opaque_from_writes_what_was_filled() {
        let mut encoder = Encoder::default();
        let fill = |place: &mut [MaybeUninit<u8>]| {
            place[..5].write_copy_of_slice(b"hello");
            Ok::<_, ()>(5)
        };
        assert_eq!(encoder.opaque_from(100, fill), Ok(5));
        assert_eq!(encoder.bytes(), b"\0\0\0\x05hello\0\0\0");
        assert_eq!(encoder.opaque_from(100, |_| Err(())), Err(()));
        assert_eq!(encoder.len(), 12);
    }

    proptest! {
        #[test]
        fn items_read_back_as_written(a: u32, b: u64, c: bool, d in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut encoder = Encoder::default();
            encoder.u32(a);
            encoder.opaque(&d);
            encoder.u64(b);
            encoder.bool(c);
            let mut cursor = Cursor::new(encoder.bytes());
            prop_assert_eq!(cursor.u32(), Ok(a));
            prop_assert_eq!(cursor.opaque(300), Ok(&d[..]));
            prop_assert_eq!(cursor.u64(), Ok(b));
            prop_assert_eq!(cursor.bool(), Ok(c));
            prop_assert!(cursor.rest().is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64), max in 0usize..80) {
            let mut cursor = Cursor::new(&bytes);
            while let Ok(opaque) = cursor.opaque(max) {
                prop_assert!(opaque.len() <= max);
            }
        }
    }
}
