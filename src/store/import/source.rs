//! The packed file of an import: opened by its packing, hashed as it lies
//! there, decoded as it comes.
//!
//! I/O. All but the parallel `.xz` go one way: a thread reads, one hashes, and
//! a decoder takes what they passed on. An error is told apart here: the stick's
//! own, a cut, damage, or too little memory.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lzma_rust2::XzReader;
use sha2::{Digest, Sha256};

use super::ImportError;
use super::ahead::{Ahead, Position, fill};
use super::gzip::Gzip;
use super::hashing::HashingFile;
use super::xz::{self, ParallelXz};
use super::zip::{self, Zip, ZipError};
use super::zstd::Zstd;
use crate::store::packing::Compression;

/// Bytes that are read from the stick at a time. In smaller pieces the hash waits more often for the thread before it:
/// 893 MB took it 0.70 s by 256 KiB, 0.66 by 1 MiB, and 0.64 alone (2026-11-30, x86 with SHA instructions).
const READ_BYTES: usize = 1 << 20;

type Packed = Ahead<HashingFile>;

enum Decoder {
    Plain(Packed),
    Xz(Box<XzReader<Packed>>),
    ParallelXz(ParallelXz),
    Gzip(Gzip<Packed>),
    Zstd(Zstd<Packed>),
    Zip(Zip<Packed>),
}

/// The decoded bytes of an image file.
pub struct Source {
    decoder: Decoder,
    unpacked_hash: Option<Sha256>,
    place: Place,
    /// Of the image, where the file tells it.
    pub unpacked_bytes: Option<u64>,
}

/// Where the decoder is, also while another thread holds it.
#[derive(Clone)]
pub struct Place {
    path: PathBuf,
    pub packed_bytes: u64,
    position: Arc<Position>,
    compression: Compression,
}

/// What came of the whole file.
pub struct Hashes {
    pub packed: [u8; 32],
    pub unpacked: Option<[u8; 32]>,
}

impl Source {
    /// Opens a file; `cores` is how many threads may decode. The unpacked
    /// bytes are hashed where someone wants to compare them.
    pub fn open(path: &Path, compression: Compression, cores: usize, hash_unpacked: bool) -> Result<Self, ImportError> {
        let read_error = |source: io::Error| ImportError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(read_error)?;
        let packed_bytes = file.seek(SeekFrom::End(0)).map_err(read_error)?;
        if packed_bytes == 0 {
            return Err(ImportError::Empty);
        }
        let position = Arc::new(Position::default());
        let mut place = Place { path: path.to_owned(), packed_bytes, position, compression };
        let (decoder, unpacked_bytes) = open_decoder(file, cores, &mut place)?;
        let unpacked_hash = hash_unpacked.then(Sha256::new);
        Ok(Self { decoder, unpacked_hash, place, unpacked_bytes })
    }

    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// Reads until the piece is full or the image ends.
    pub fn read_piece(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        fill(self, piece)
    }

    /// Hashes what is left of the file; call it when `read` has returned 0.
    pub fn finish(self) -> Result<Hashes, ImportError> {
        let ahead = |file: Packed| file.into_inner();
        let file = match self.decoder {
            Decoder::Plain(file) => ahead(file),
            Decoder::Xz(reader) => ahead(reader.into_inner()),
            Decoder::ParallelXz(reader) => reader.into_file(),
            Decoder::Gzip(reader) => reader.into_inner().ok_or(io::ErrorKind::Other.into()).and_then(ahead),
            Decoder::Zstd(reader) => ahead(reader.into_inner()),
            Decoder::Zip(reader) => ahead(reader.into_inner()),
        };
        let packed = file.and_then(HashingFile::finish);
        let packed = packed.map_err(|source| ImportError::Read { path: self.place.path, source })?;
        Ok(Hashes { packed, unpacked: self.unpacked_hash.map(|hash| hash.finalize().into()) })
    }
}

fn open_decoder(mut file: File, cores: usize, place: &mut Place) -> Result<(Decoder, Option<u64>), ImportError> {
    let path = place.path.clone();
    let read_error = |source: io::Error| ImportError::Read { path: path.clone(), source };
    let ahead =
        |file: HashingFile, place: &Place| Ahead::hashed(file, READ_BYTES, place.position.clone()).map_err(read_error);
    Ok(match place.compression {
        Compression::None => {
            let file = HashingFile::new(file).map_err(read_error)?;
            (Decoder::Plain(ahead(file, place)?), Some(place.packed_bytes))
        }
        Compression::Xz => {
            let mut magic = [0; 6];
            let begun = file.read_exact_at(&mut magic, 0);
            if begun.is_ok() && magic != xz::MAGIC {
                return Err(ImportError::Damaged { at: 0, reason: "an xz file does not begin so".into() });
            }
            let blocks = xz::read_blocks(&mut BufReader::new(&mut file)).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ImportError::Truncated(place.packed_bytes),
                io::ErrorKind::InvalidData => {
                    ImportError::Damaged { at: place.packed_bytes, reason: error.to_string() }
                }
                _ => read_error(error),
            })?;
            let unpacked = blocks.iter().try_fold(0u64, |sum, block| sum.checked_add(block.uncompressed));
            let file = HashingFile::new(file).map_err(read_error)?;
            let workers = xz::workers(&blocks, cores);
            let decoder = if workers >= 2 {
                place.position = Arc::new(Position::counted_by(file.progress.clone()));
                Decoder::ParallelXz(ParallelXz::new(file, blocks, workers).map_err(read_error)?)
            } else {
                Decoder::Xz(Box::new(XzReader::new_mem_limit(ahead(file, place)?, true, xz::DECODER_LIMIT_KIB)))
            };
            (decoder, unpacked)
        }
        Compression::Gzip => {
            let file = HashingFile::new(file).map_err(read_error)?;
            (Decoder::Gzip(Gzip::new(ahead(file, place)?)), None)
        }
        Compression::Zstd => {
            let file = HashingFile::new(file).map_err(read_error)?;
            (Decoder::Zstd(Zstd::new(ahead(file, place)?).map_err(|_| ImportError::TooMuchMemory)?), None)
        }
        Compression::Zip => {
            let entry = zip::find_image(&mut file).map_err(|error| match error {
                ZipError::Read(source) => read_error(source),
                error => ImportError::Zip(error),
            })?;
            let mut file = HashingFile::new(file).map_err(read_error)?;
            file.seek(SeekFrom::Start(entry.start)).map_err(read_error)?;
            place.position.consumed.store(entry.start, std::sync::atomic::Ordering::Relaxed);
            let unpacked = entry.unpacked;
            (Decoder::Zip(Zip::new(ahead(file, place)?, entry)), Some(unpacked))
        }
    })
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The decoder meets whatever a stranger put into the file; a bug in it
        // is that file's end, not the appliance's.
        let read = catch_unwind(AssertUnwindSafe(|| match &mut self.decoder {
            Decoder::Plain(file) => file.read(buffer),
            Decoder::Xz(reader) => reader.read(buffer),
            Decoder::ParallelXz(reader) => reader.read(buffer),
            Decoder::Gzip(reader) => reader.read(buffer),
            Decoder::Zstd(reader) => reader.read(buffer),
            Decoder::Zip(reader) => reader.read(buffer),
        }));
        let read = read.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::InvalidData, "the decoder gave up")));
        let bytes = read.map_err(|error| match error.get_ref().is_none() && error.raw_os_error().is_none() {
            // With a text of its own it is not taken for a reader's plain end.
            true => io::Error::new(error.kind(), error.to_string()),
            false => error,
        })?;
        if let Some(hash) = &mut self.unpacked_hash {
            hash.update(&buffer[..bytes]);
        }
        Ok(bytes)
    }
}

impl Place {
    /// How much of the file was decoded, in bytes, about.
    pub fn read_bytes(&self) -> u64 {
        self.position.consumed()
    }

    /// What an error means that `Source::read` gave.
    pub fn explain(&self, error: io::Error) -> ImportError {
        let stick = self.position.take_failure().ok_or(()).or_else(|()| match error.raw_os_error() {
            Some(_) => Ok(io::Error::new(error.kind(), error.to_string())),
            None => Err(()),
        });
        match (stick, error.kind()) {
            // A system call that failed is the stick's fault, not the file's.
            (Ok(source), _) => ImportError::Read { path: self.path.clone(), source },
            _ if self.compression == Compression::None => ImportError::Read { path: self.path.clone(), source: error },
            (_, io::ErrorKind::OutOfMemory) => ImportError::TooMuchMemory,
            _ if self.position.ended() => ImportError::Truncated(self.packed_bytes),
            _ => ImportError::Damaged { at: self.read_bytes(), reason: error.to_string() },
        }
    }
}
