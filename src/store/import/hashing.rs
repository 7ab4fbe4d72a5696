//! A file that is hashed as it is read.
//!
//! I/O. Every byte of the file goes through SHA-256 once, in order, whatever
//! order a decoder reads it in.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// A file that hashes what is read from it for the first time.
#[derive(Debug)]
pub struct HashingFile {
    file: File,
    hashing: Hashing,
    /// How much is in the hash, for whoever shows progress.
    pub progress: Arc<AtomicU64>,
}

/// The hash, and how far it and the reading are.
#[derive(Debug, Default)]
pub struct Hashing {
    position: u64,
    /// Everything before this is in the hash.
    hashed: u64,
    hash: Sha256,
}

impl Hashing {
    /// These bytes were read, from where the reading was.
    pub fn pass(&mut self, bytes: &[u8]) {
        let end = self.position + bytes.len() as u64;
        if self.position <= self.hashed && end > self.hashed {
            let new = (self.hashed - self.position) as usize; // less than there are bytes
            self.hash.update(&bytes[new..]);
            self.hashed = end;
        }
        self.position = end;
    }
}

impl HashingFile {
    pub fn new(mut file: File) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        // Twice the read-ahead; only a hint, so a refusal is no error.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Self { file, hashing: Hashing::default(), progress: Arc::default() })
    }

    /// The parts, for a thread that reads and another one that hashes.
    pub fn into_parts(self) -> (File, Hashing) {
        (self.file, self.hashing)
    }

    /// Of the parts, when the bytes that were hashed are those that were read first; it may have been read further.
    pub fn from_parts(file: File, hashing: Hashing) -> Self {
        let progress = Arc::new(AtomicU64::new(hashing.hashed));
        Self { file, hashing, progress }
    }

    /// Reads what is left, so that the hash covers the whole file.
    pub fn finish(self) -> io::Result<[u8; 32]> {
        let hash = self.finish_unless(&AtomicBool::new(false))?;
        hash.ok_or_else(|| io::ErrorKind::Interrupted.into())
    }

    /// The same; `None` once it is to stop.
    pub fn finish_unless(mut self, stop: &AtomicBool) -> io::Result<Option<[u8; 32]>> {
        self.seek(SeekFrom::Start(self.hashing.hashed))?;
        let mut buffer = vec![0; 128 << 10];
        while self.read(&mut buffer)? > 0 {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
        Ok(Some(self.hashing.hash.finalize().into()))
    }
}

impl Read for HashingFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.hashing.pass(&buffer[..bytes]);
        self.progress.store(self.hashing.hashed, Ordering::Relaxed);
        Ok(bytes)
    }
}

impl Seek for HashingFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = self.file.seek(to)?;
        // What lies between is hashed on the way: a decoder that skips the
        // index of one stream must not leave a hole in the hash.
        if at > self.hashing.hashed {
            self.file.seek(SeekFrom::Start(self.hashing.hashed))?;
            self.hashing.position = self.hashing.hashed;
            let mut left = at - self.hashing.hashed;
            let mut buffer = [0; 4096];
            while left > 0 {
                let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let bytes = self.read(&mut buffer[..part])?;
                if bytes == 0 {
                    break;
                }
                left -= bytes as u64;
            }
        }
        self.hashing.position = self.file.seek(SeekFrom::Start(at))?;
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_hash_covers_each_byte_once_in_whatever_order_it_is_read() {
        let data: Vec<u8> = (0..40_000u32).map(|n| ((n * 31) >> 3) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&data).unwrap();
        let mut hashing = HashingFile::new(file).unwrap();
        let mut buffer = [0; 1000];
        for at in [0, 500, 39_500, 100, 20_000, 5000] {
            hashing.seek(SeekFrom::Start(at)).unwrap();
            hashing.read_exact(&mut buffer[..400]).unwrap();
        }
        assert_eq!(hashing.finish().unwrap(), <[u8; 32]>::from(Sha256::digest(&data)));
    }
}
