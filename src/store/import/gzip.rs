//! Decoding `.gz`: all members of a file, one after the other (RFC 1952 §2.2).
//!
//! Pure but for the reader below. The members' CRC and length are verified by
//! `flate2`.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

pub struct Gzip<R> {
    /// Always there between two calls.
    state: Option<State<R>>,
}

enum State<R> {
    Member(Box<GzDecoder<R>>),
    /// Behind the last member.
    Done(R),
}

impl<R: BufRead> Gzip<R> {
    pub fn new(source: R) -> Self {
        Self { state: Some(State::Member(Box::new(GzDecoder::new(source)))) }
    }

    pub fn into_inner(self) -> Option<R> {
        match self.state? {
            State::Member(member) => Some(member.into_inner()),
            State::Done(source) => Some(source),
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Each round takes at least the 18 bytes of an empty member.
        while let Some(State::Member(mut member)) = self.state.take() {
            let read = member.read(buffer);
            if !matches!(read, Ok(0)) || buffer.is_empty() {
                self.state = Some(State::Member(member));
                return read;
            }
            let mut source = member.into_inner();
            let more = is_another_member(&mut source);
            self.state = Some(match more {
                Ok(true) => State::Member(Box::new(GzDecoder::new(source))),
                _ => State::Done(source),
            });
            more?;
            if matches!(self.state, Some(State::Done(_))) {
                break;
            }
        }
        Ok(0)
    }
}

/// Tapes and some tools pad a file with zeros; anything else behind a member
/// is another one, or damage.
fn is_another_member(source: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let rest = source.fill_buf()?;
        match rest.iter().position(|&byte| byte != 0) {
            _ if rest.is_empty() => return Ok(false),
            Some(0) if rest[0] == 0x1f => return Ok(true),
            Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "something follows the gzip data")),
            None => {
                let zeros = rest.len();
                source.consume(zeros);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn pack(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        // Small pieces, so that headers and trailers are cut in two.
        Gzip::new(io::BufReader::with_capacity(7, packed)).read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn members_are_joined_and_zeros_behind_them_are_padding() {
        let packed = [pack(b"one "), pack(b""), pack(b"two"), vec![0; 5000]].concat();
        assert_eq!(unpack(&packed).unwrap(), b"one two");
    }

    #[test]
    fn damage_a_cut_and_what_follows_are_errors() {
        let packed = pack(&(0..50_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
        for at in [0, 2, packed.len() / 2, packed.len() - 6, packed.len() - 1] {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x10;
            assert!(unpack(&damaged).is_err(), "byte {at}");
            let cut = unpack(&packed[..at]).unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof, "cut at {at}: {cut}");
        }
        assert!(unpack(&[&packed[..], b"more"].concat()).is_err());
        assert!(unpack(&[&packed[..], &[0; 9], b"\x1f\x8b"].concat()).is_err());
    }
}
