//! Decoding `.zst`: all frames of a file, one after the other, skippable ones
//! passed over (RFC 8878 §3), by libzstd, which verifies their checksums.
//!
//! Pure but for the reader below.

use std::io::{self, BufRead, Read};

use zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd_safe::{DCtx, DParameter, ErrorCode, InBuffer, OutBuffer, get_error_name, is_error_kind};

/// The largest window that is decoded, as a power of two of bytes: what `zstd`
/// itself takes without being told otherwise (`--long=27`). Its 128 MiB and
/// some hundred KiB are the most that libzstd allocates, once.
const MAX_WINDOW_LOG: u32 = 27;

pub struct Zstd<R> {
    source: R,
    decoder: DCtx<'static>,
    /// A frame was begun, and is not yet decoded and given out to its end.
    in_frame: bool,
    /// Whether there was a frame at all.
    begun: bool,
}

impl<R: BufRead> Zstd<R> {
    pub fn new(source: R) -> io::Result<Self> {
        let mut decoder = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(explain)?;
        Ok(Self { source, decoder, in_frame: false, begun: false })
    }

    pub fn into_inner(self) -> R {
        self.source
    }
}

fn explain(code: ErrorCode) -> io::Error {
    use ZSTD_ErrorCode::{ZSTD_error_frameParameter_windowTooLarge as window, ZSTD_error_memory_allocation as memory};
    match is_error_kind(code, window) || is_error_kind(code, memory) {
        true => io::ErrorKind::OutOfMemory.into(),
        false => io::Error::new(io::ErrorKind::InvalidData, get_error_name(code)),
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        // Each round takes bytes from the source or gives some out; libzstd calls it an error where one does neither.
        loop {
            let packed = self.source.fill_buf()?;
            let ended = packed.is_empty();
            if ended && !self.in_frame {
                return if self.begun { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let (mut from, mut to) = (InBuffer::around(packed), OutBuffer::around(&mut *buffer));
            let left = self.decoder.decompress_stream(&mut to, &mut from).map_err(explain)?;
            let (taken, given) = (from.pos(), to.pos());
            self.source.consume(taken);
            (self.in_frame, self.begun) = (left != 0, true);
            if given > 0 {
                return Ok(given);
            }
            if ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zstd_safe::{CCtx, CParameter, compress_bound};

    fn data() -> Vec<u8> {
        (0..200_000u32).flat_map(|n| (n / 5).to_le_bytes()).collect()
    }

    fn pack(data: &[u8]) -> Vec<u8> {
        let mut encoder = CCtx::create();
        encoder.set_parameter(CParameter::ChecksumFlag(true)).unwrap();
        let mut packed = vec![0; compress_bound(data.len())];
        let bytes = encoder.compress2(&mut packed[..], data).unwrap();
        packed.truncate(bytes);
        packed
    }

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Zstd::new(io::BufReader::with_capacity(11, packed))?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn frames_are_joined_and_skippable_ones_passed_over() {
        let frame = pack(&data());
        let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc";
        let packed = [&skippable[..], &frame, skippable, &frame].concat();
        assert!(unpack(&packed).unwrap() == [data(), data()].concat());
    }

    #[test]
    fn damage_and_cuts_are_errors_and_never_panics() {
        let packed = pack(&data());
        for at in (0..packed.len()).step_by(packed.len() / 40) {
            assert!(unpack(&packed[..at]).is_err(), "cut at {at}");
            let mut damaged = packed.clone();
            damaged[at] ^= 0x10;
            // With a checksum no flipped bit passes, but for the frame
            // header's unused ones.
            let result = unpack(&damaged);
            assert!(result.is_err() || result.unwrap() == data(), "byte {at}");
        }
        assert!(unpack(b"\x50\x2a\x4d\x18\xff\xff\xff\xffabc").is_err());
        assert!(unpack(b"").is_err());
    }

    #[test]
    fn a_window_beyond_the_limit_is_too_much_memory() {
        // No single segment, no checksum; a window of 2^(10+20) bytes.
        let head = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0, 0, 0];
        assert_eq!(unpack(&head).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}
