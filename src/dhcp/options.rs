//! The options of one message: a bounded walk that honours option 52
//! (RFC 2132 §9.3) and joins what RFC 3396 splits.
//!
//! Pure. Knows lengths, not meanings; `message` knows the few codes we read.

use std::borrow::Cow;

/// Bytes before the options: the fixed fields and the magic cookie (RFC 2131 §2).
pub(super) const HEADER_BYTES: usize = 240;

const PAD: u8 = 0;
const OVERLOAD: u8 = 52;
const END: u8 = 255;

/// This option runs past the field that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Truncated(pub u8);

/// Each option takes at least two bytes, so a message of at most
/// [`super::message::MAX_BYTES`] has at most half as many.
#[derive(Debug)]
pub(super) struct Options<'p>(Vec<(u8, &'p [u8])>);

impl<'p> Options<'p> {
    /// `packet` holds at least [`HEADER_BYTES`]; the cookie is already checked.
    pub(super) fn walk(packet: &'p [u8]) -> Result<Self, Truncated> {
        let mut options = Self(Vec::new());
        options.walk_field(packet.get(HEADER_BYTES..).unwrap_or_default())?;
        // Option 52 counts in the options field only: one inside `file` or
        // `sname` could name its own field again, for ever.
        let overload = options.byte(OVERLOAD).unwrap_or(0);
        let (sname, file) = (packet.get(44..108).unwrap_or_default(), packet.get(108..236).unwrap_or_default());
        // RFC 3396 §5: first options, then file, then sname.
        if overload & 1 != 0 {
            options.walk_field(file)?;
        }
        if overload & 2 != 0 {
            options.walk_field(sname)?;
        }
        Ok(options)
    }

    /// A field that ends without option 255 is taken: some clients leave it out
    /// where the datagram ends. One that ends inside an option is not.
    fn walk_field(&mut self, mut field: &'p [u8]) -> Result<(), Truncated> {
        while let Some((&code, rest)) = field.split_first() {
            match code {
                PAD => field = rest,
                END => break,
                _ => {
                    let (&length, rest) = rest.split_first().ok_or(Truncated(code))?;
                    let value = rest.get(..usize::from(length)).ok_or(Truncated(code))?;
                    self.0.push((code, value));
                    field = &rest[value.len()..];
                }
            }
        }
        Ok(())
    }

    /// The value of an option, its parts joined in the order they came.
    pub(super) fn get(&self, wanted: u8) -> Option<Cow<'p, [u8]>> {
        let mut parts = self.0.iter().filter(|(code, _)| *code == wanted).map(|&(_, value)| value);
        let mut value = Cow::Borrowed(parts.next()?);
        parts.for_each(|part| value.to_mut().extend_from_slice(part));
        Some(value)
    }

    /// The value of an option that is exactly `N` bytes long, else `None`.
    pub(super) fn array<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.get(code)?.as_ref().try_into().ok()
    }

    pub(super) fn byte(&self, code: u8) -> Option<u8> {
        self.array::<1>(code).map(|[byte]| byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with these bytes as `sname`, `file` and options.
    fn message(sname: &[u8], file: &[u8], options: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES];
        packet[44..44 + sname.len()].copy_from_slice(sname);
        packet[108..108 + file.len()].copy_from_slice(file);
        packet.extend_from_slice(options);
        packet
    }

    #[track_caller]
    fn check(packet: &[u8], expected: Result<&[(u8, &[u8])], Truncated>) {
        assert_eq!(Options::walk(packet).map(|options| options.0), expected.map(<[_]>::to_vec));
    }

    #[test]
    fn pads_are_skipped_and_the_end_ends() {
        check(&message(&[], &[], &[0, 0, 53, 1, 1, 0, 255, 54, 200]), Ok(&[(53, &[1])]));
        check(&message(&[], &[], &[53, 1, 1]), Ok(&[(53, &[1])]));
        check(&message(&[], &[], &[]), Ok(&[]));
    }

    #[test]
    fn an_option_past_the_end_is_refused() {
        check(&message(&[], &[], &[53]), Err(Truncated(53)));
        check(&message(&[], &[], &[53, 1, 1, 12, 5, b'a']), Err(Truncated(12)));
        check(&message(&[], &[61, 255], &[52, 1, 1, 255]), Err(Truncated(61)));
    }

    #[test]
    fn overload_is_honoured_once() {
        check(&message(&[12, 1, b's', 255], &[60, 1, b'f', 255], &[52, 1, 1]), Ok(&[(52, &[1]), (60, b"f")]));
        check(&message(&[12, 1, b's', 255], &[60, 1, b'f', 255], &[52, 1, 2]), Ok(&[(52, &[2]), (12, b"s")]));
        let loops = message(&[52, 1, 3, 255], &[52, 1, 3, 255], &[52, 1, 3, 255]);
        check(&loops, Ok(&[(52, &[3]), (52, &[3]), (52, &[3])]));
    }

    #[test]
    fn split_options_are_joined_in_the_order_of_rfc_3396() {
        let packet = message(&[60, 1, b'c', 255], &[60, 1, b'b', 255], &[60, 1, b'a', 52, 1, 3, 255]);
        assert_eq!(Options::walk(&packet).unwrap().get(60).unwrap().as_ref(), b"abc");
    }

    #[test]
    fn a_wrong_length_is_no_value() {
        let packet = message(&[], &[], &[50, 3, 1, 2, 3, 53, 2, 1, 1]);
        let options = Options::walk(&packet).unwrap();
        assert_eq!((options.array::<4>(50), options.byte(53)), (None, None));
    }
}
