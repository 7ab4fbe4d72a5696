//! The source file of an import: hashed as it is read, decoded as it comes.
//!
//! I/O. Every byte of the file goes through SHA-256 once, in order, whatever
//! order a decoder reads it in.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lzma_rust2::XzReader;
use sha2::{Digest, Sha256};

use super::xz::{self, ParallelXz};
use crate::store::manifest::Packing;

/// A file that hashes what is read from it for the first time.
#[derive(Debug)]
pub struct HashingFile {
    file: File,
    position: u64,
    /// Everything before this is in the hash.
    hashed: u64,
    hash: Sha256,
    /// The same figure, for whoever shows progress.
    progress: Arc<AtomicU64>,
}

impl HashingFile {
    pub fn new(mut file: File) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        // Twice the read-ahead; only a hint, so a refusal is no error.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Self { file, position: 0, hashed: 0, hash: Sha256::new(), progress: Arc::default() })
    }

    /// Reads what is left, so that the hash covers the whole file.
    fn finish(mut self) -> io::Result<[u8; 32]> {
        self.seek(SeekFrom::Start(self.hashed))?;
        let mut buffer = vec![0; 128 << 10];
        while self.read(&mut buffer)? > 0 {}
        Ok(self.hash.finalize().into())
    }
}

impl Read for HashingFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        let end = self.position + bytes as u64;
        if self.position <= self.hashed && end > self.hashed {
            let new = (self.hashed - self.position) as usize; // less than `bytes`
            self.hash.update(&buffer[new..bytes]);
            self.hashed = end;
            self.progress.store(end, Ordering::Relaxed);
        }
        self.position = end;
        Ok(bytes)
    }
}

impl Seek for HashingFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = self.file.seek(to)?;
        // What lies between is hashed on the way: a decoder that skips the
        // index of one stream must not leave a hole in the hash.
        if at > self.hashed {
            self.file.seek(SeekFrom::Start(self.hashed))?;
            self.position = self.hashed;
            let mut left = at - self.hashed;
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
        self.position = self.file.seek(SeekFrom::Start(at))?;
        Ok(at)
    }
}

enum Decoder {
    Plain(HashingFile),
    Xz(Box<XzReader<BufReader<HashingFile>>>),
    ParallelXz(ParallelXz),
}

/// The decoded bytes of an image file.
pub struct Source {
    decoder: Decoder,
    /// Of the file, as it lies there.
    pub packed_bytes: u64,
    /// Of the image, where the file tells it.
    pub unpacked_bytes: Option<u64>,
    read: Arc<AtomicU64>,
}

impl Source {
    /// Opens a file; `cores` is how many threads may decode.
    pub fn open(mut file: File, packing: Packing, cores: usize) -> io::Result<Self> {
        let packed_bytes = file.seek(SeekFrom::End(0))?;
        let (decoder, unpacked_bytes, read) = match packing {
            Packing::Plain => {
                let file = HashingFile::new(file)?;
                let read = file.progress.clone();
                (Decoder::Plain(file), Some(packed_bytes), read)
            }
            Packing::Xz => {
                let blocks = xz::read_blocks(&mut BufReader::new(&mut file))?;
                let unpacked = blocks.iter().try_fold(0u64, |sum, block| sum.checked_add(block.uncompressed));
                let file = HashingFile::new(file)?;
                let read = file.progress.clone();
                let workers = xz::workers(&blocks, cores);
                let decoder = if workers >= 2 {
                    Decoder::ParallelXz(ParallelXz::new(file, blocks, workers)?)
                } else {
                    let file = BufReader::with_capacity(64 << 10, file);
                    Decoder::Xz(Box::new(XzReader::new_mem_limit(file, true, xz::DECODER_LIMIT_KIB)))
                };
                (decoder, unpacked, read)
            }
        };
        Ok(Self { decoder, packed_bytes, unpacked_bytes, read })
    }

    /// How much of the file was read and decoded, in bytes, about.
    pub fn read_bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The hash of the whole file; call it when `read` has returned 0.
    pub fn finish(self) -> io::Result<[u8; 32]> {
        match self.decoder {
            Decoder::Plain(file) => file.finish(),
            Decoder::Xz(reader) => reader.into_inner().into_inner().finish(),
            Decoder::ParallelXz(reader) => reader.into_file()?.finish(),
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.decoder {
            Decoder::Plain(file) => file.read(buffer),
            Decoder::Xz(reader) => reader.read(buffer),
            Decoder::ParallelXz(reader) => reader.read(buffer),
        }
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
