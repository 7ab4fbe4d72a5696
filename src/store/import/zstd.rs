//! Decoding `.zst`: all frames of a file, one after the other, skippable ones
//! passed over (RFC 8878 §3). `ruzstd` decodes one frame; whether its checksum
//! is right is asked here, because it only computes it.
//!
//! Pure but for the reader below.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The largest window that is decoded, in bytes: what `zstd` itself takes
/// without being told otherwise (`--long=27`). That much memory it takes.
const MAX_WINDOW_BYTES: u64 = 128 << 20;
/// Decoded at a time.
const BATCH_BYTES: usize = 256 << 10;

pub struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
    /// Whether there was a frame at all.
    begun: bool,
}

impl<R: BufRead> Zstd<R> {
    pub fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW_BYTES);
        Self { source, decoder, in_frame: false, begun: false }
    }

    pub fn into_inner(self) -> R {
        self.source
    }

    /// Reads the next frame's header; whether there is one.
    fn begin(&mut self) -> io::Result<bool> {
        if self.source.fill_buf()?.is_empty() {
            return if self.begun { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        match self.decoder.reset(&mut self.source) {
            Ok(()) => (self.in_frame, self.begun) = (true, true),
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                if skipped < length.into() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(FrameDecoderError::WindowSizeTooBig { .. }) => return Err(io::ErrorKind::OutOfMemory.into()),
            Err(error) => return Err(damaged(&error)),
        }
        Ok(true)
    }

    fn end(&mut self) -> io::Result<()> {
        self.in_frame = false;
        match self.decoder.get_checksum_from_data() {
            Some(stored) if self.decoder.get_calculated_checksum() != Some(stored) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the frame's checksum is wrong"))
            }
            _ => Ok(()),
        }
    }
}

fn damaged(error: &FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        // Each round takes bytes from the source or gives some out.
        loop {
            if !self.in_frame {
                if !self.begin()? {
                    return Ok(0);
                }
            } else if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            } else if self.decoder.is_finished() {
                self.end()?;
            } else {
                let strategy = BlockDecodingStrategy::UptoBytes(BATCH_BYTES);
                self.decoder.decode_blocks(&mut self.source, strategy).map_err(|error| damaged(&error))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn data() -> Vec<u8> {
        (0..200_000u32).flat_map(|n| (n / 5).to_le_bytes()).collect()
    }

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Zstd::new(io::BufReader::with_capacity(11, packed)).read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn frames_are_joined_and_skippable_ones_passed_over() {
        let frame = compress_to_vec(&data()[..], CompressionLevel::Fastest);
        let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc";
        let packed = [&skippable[..], &frame, skippable, &frame].concat();
        assert!(unpack(&packed).unwrap() == [data(), data()].concat());
    }

    #[test]
    fn damage_and_cuts_are_errors_and_never_panics() {
        let packed = compress_to_vec(&data()[..], CompressionLevel::Fastest);
        for at in (0..packed.len()).step_by(packed.len() / 40) {
            assert!(unpack(&packed[..at]).is_err(), "cut at {at}");
            let mut damaged = packed.clone();
            damaged[at] ^= 0x10;
            // ruzstd's encoder writes a checksum: no flipped bit passes, but
            // for the frame header's unused ones.
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
