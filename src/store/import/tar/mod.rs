//! Reads a tarball's entries as they stream by: v7, ustar, GNU and pax
//! (POSIX.1-2024 "pax Interchange Format"; GNU tar manual, appendix D), with
//! long names, hard links, extended attributes and sparse files.
//!
//! Pure but for the reader below; nothing is made here. Ours and not a crate's,
//! because it is 300 lines, reads pax sparse maps, and its bounds are here.

mod header;
mod pax;

use std::io::{self, Read};

use self::header::{BLOCK_BYTES, Header};
use self::pax::Records;

/// Longest extended header, in bytes: names and attributes of one entry.
const MAX_PAX_BYTES: u64 = 1 << 20;
/// Longest name in a GNU long name entry; the kernel takes 4095.
const MAX_NAME_BYTES: u64 = 8 << 10;
/// Most headers that may describe one entry before it comes.
const MAX_EXTENSIONS: u32 = 16;
/// Most pieces of a sparse file.
const MAX_RUNS: usize = 200_000;

/// Why a tarball cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("it ends in the middle")]
    Ended,
    #[error("{0}")]
    Damaged(&'static str),
    #[error("an entry of type {0:?}, which is not for a root")]
    Unsupported(char),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Fifo,
    Symlink(Vec<u8>),
    /// To the entry of this path.
    HardLink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
}

/// A piece of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRun {
    pub offset: u64,
    pub bytes: u64,
}

/// One entry; its names are as they stand there, not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Unix seconds and nanoseconds.
    pub modified: (i64, u32),
    /// Of the file, holes included.
    pub bytes: u64,
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data lies that follows, in order.
    pub runs: Vec<DataRun>,
}

pub struct TarReader<R> {
    source: R,
    /// Data of the current entry that was not read yet, and its padding.
    left: u64,
    padding: u64,
    /// All bytes read.
    pub read: u64,
}

impl<R: Read> TarReader<R> {
    pub fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0, read: 0 }
    }

    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next entry; `None` at the end's mark. What was not read of the
    /// former entry's data is passed over.
    pub fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut records = Records::default();
        let (mut long_name, mut long_link) = (None, None);
        for _ in 0..MAX_EXTENSIONS {
            self.skip()?;
            let mut block = [0; BLOCK_BYTES];
            self.exact(&mut block)?;
            if block == [0; BLOCK_BYTES] {
                return Ok(None);
            }
            let header = header::parse(&block).map_err(TarError::Damaged)?;
            let bytes = header.bytes;
            match header.kind {
                b'x' | b'X' => {
                    records = pax::parse(&self.extension(bytes, MAX_PAX_BYTES)?).map_err(TarError::Damaged)?
                }
                // What holds for all entries: nothing that a root needs.
                b'g' => drop(self.extension(bytes, MAX_PAX_BYTES)?),
                b'V' => {}
                b'L' => long_name = Some(text(self.extension(bytes, MAX_NAME_BYTES)?)),
                b'K' => long_link = Some(text(self.extension(bytes, MAX_NAME_BYTES)?)),
                _ => return self.entry(&block, header, records, long_name, long_link).map(Some),
            }
        }
        Err(TarError::Damaged("too many extended headers in a row"))
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK_BYTES],
        header: Header,
        records: Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let path = records.sparse_name.or(records.path).or(long_name).unwrap_or(header.path);
        let link = records.link.or(long_link).unwrap_or(header.link);
        let kind = match header.kind {
            // Before ustar a directory was a file whose name ends so.
            0 | b'0' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => Kind::CharDevice(header.device.0, header.device.1),
            b'4' => Kind::BlockDevice(header.device.0, header.device.1),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(TarError::Unsupported(char::from(other))),
        };
        if kind == Kind::File {
            self.begin_data(records.bytes.unwrap_or(header.bytes))?;
        }
        let mut bytes = self.left;
        let mut runs = vec![DataRun { offset: 0, bytes }];
        if header.kind == b'S' {
            (runs, bytes) = self.gnu_sparse(block)?;
        } else if let Some(real) = records.sparse_bytes.filter(|_| kind == Kind::File) {
            runs = match records.sparse_map {
                Some(map) => map,
                None => self.map_before_data()?,
            };
            bytes = real;
        }
        check_runs(&runs, bytes, self.left)?;
        Ok(Entry {
            path,
            kind,
            mode: header.mode,
            uid: records.uid.unwrap_or(header.uid),
            gid: records.gid.unwrap_or(header.gid),
            modified: records.modified.unwrap_or((header.modified, 0)),
            bytes,
            attributes: records.attributes,
            runs,
        })
    }

    /// The next of the current entry's data; 0 at its end.
    pub fn data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let part = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if part == 0 {
            return Ok(0);
        }
        self.exact(&mut buffer[..part])?;
        self.left -= part as u64;
        Ok(part)
    }

    fn begin_data(&mut self, bytes: u64) -> Result<(), TarError> {
        let padded = bytes.checked_next_multiple_of(BLOCK_BYTES as u64);
        self.padding = padded.ok_or(TarError::Damaged("a size without end"))? - bytes;
        self.left = bytes;
        Ok(())
    }

    fn skip(&mut self) -> Result<(), TarError> {
        let mut left = self.left.saturating_add(self.padding);
        let mut buffer = [0; 8192];
        while left > 0 {
            let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.exact(&mut buffer[..part])?;
            left -= part as u64;
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        self.source.read_exact(buffer).map_err(|error| match error.kind() {
            // Made by `read_exact` itself; a decoder's own error has a text of its own.
            io::ErrorKind::UnexpectedEof if error.get_ref().is_none() => TarError::Ended,
            _ => TarError::Read(error),
        })?;
        self.read += buffer.len() as u64;
        Ok(())
    }

    /// The whole data of an extended header.
    fn extension(&mut self, bytes: u64, most: u64) -> Result<Vec<u8>, TarError> {
        if bytes > most {
            return Err(TarError::Damaged("an extended header that is too long"));
        }
        self.begin_data(bytes)?;
        let mut data = vec![0; bytes as usize]; // at most MAX_PAX_BYTES
        self.exact(&mut data)?;
        self.left = 0;
        Ok(data)
    }

    /// The map of a GNU sparse entry, in its header and in blocks behind it.
    fn gnu_sparse(&mut self, block: &[u8; BLOCK_BYTES]) -> Result<(Vec<DataRun>, u64), TarError> {
        let real = header::number(&block[483..495]).and_then(|real| u64::try_from(real).ok());
        let real = real.ok_or(TarError::Damaged("a sparse file without a size"))?;
        let mut runs = Vec::new();
        header::sparse_runs(&block[386..482], &mut runs).map_err(TarError::Damaged)?;
        let mut more = block[482] != 0;
        while more {
            let mut next = [0; BLOCK_BYTES];
            self.exact(&mut next)?;
            header::sparse_runs(&next[..504], &mut runs).map_err(TarError::Damaged)?;
            if runs.len() > MAX_RUNS {
                return Err(TarError::Damaged("a sparse file of too many pieces"));
            }
            more = next[504] != 0;
        }
        Ok((runs, real))
    }

    /// The map of pax sparse format 1.0: numbers, one a line, in the first
    /// blocks of the data.
    fn map_before_data(&mut self) -> Result<Vec<DataRun>, TarError> {
        let mut numbers = Vec::new();
        let mut number: Option<u64> = None;
        let wanted = |numbers: &[u64]| numbers.first().map_or(1, |&count| count.saturating_mul(2).saturating_add(1));
        while (numbers.len() as u64) < wanted(&numbers) {
            if numbers.first().is_some_and(|&count| count > MAX_RUNS as u64) {
                return Err(TarError::Damaged("a sparse file of too many pieces"));
            }
            let mut block = [0; BLOCK_BYTES];
            if self.data(&mut block)? < BLOCK_BYTES {
                return Err(TarError::Damaged("a sparse map that does not end"));
            }
            for byte in block {
                if (numbers.len() as u64) == wanted(&numbers) {
                    break;
                }
                match (byte, number) {
                    (b'0'..=b'9', so_far) => {
                        let next =
                            so_far.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add((byte - b'0').into()));
                        number = Some(next.ok_or(TarError::Damaged("a sparse map of no numbers"))?);
                    }
                    (b'\n', Some(value)) => {
                        numbers.push(value);
                        number = None;
                    }
                    _ => return Err(TarError::Damaged("a sparse map of no numbers")),
                }
            }
        }
        Ok(numbers[1..].chunks_exact(2).map(|pair| DataRun { offset: pair[0], bytes: pair[1] }).collect())
    }
}

/// In order, inside the file, and as much as there is data.
fn check_runs(runs: &[DataRun], bytes: u64, stored: u64) -> Result<(), TarError> {
    let (mut end, mut sum) = (0u64, 0u64);
    for run in runs {
        let next = run.offset.checked_add(run.bytes).filter(|&next| next <= bytes && run.offset >= end);
        end = next.ok_or(TarError::Damaged("a sparse map that lies"))?;
        sum += run.bytes; // at most `bytes`, since they do not overlap
    }
    if sum == stored { Ok(()) } else { Err(TarError::Damaged("a sparse map that lies")) }
}

/// Up to the first zero.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

#[cfg(test)]
mod tests;
