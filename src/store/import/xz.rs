//! Decoding `.xz`: several blocks at once where the file has several and
//! memory allows, else one after the other.
//!
//! I/O and threads; the index reading is pure. Format: "The .xz File Format"
//! 1.2.1, section numbers below. The parallel reader is ours, because
//! `lzma-rust2` 0.25's own (`XzReaderMt`) takes no memory limit and does not
//! verify the blocks' checks (read in its source, 2026-11); each block is
//! decoded by its ordinary reader, which does both.

use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use lzma_rust2::XzReader;

use super::hashing::HashingFile;
use crate::store::crc32::crc32;

/// What one decoder may allocate: `xz -9` needs a 64 MiB dictionary.
pub const DECODER_LIMIT_KIB: u32 = 80 << 10;
/// What all buffers of the parallel reader may take together. The appliance
/// may have 1 GiB in all, and serves clients meanwhile.
const PARALLEL_BUDGET_BYTES: u64 = 256 << 20;
const MAX_WORKERS: u64 = 8;
const MAX_BLOCKS: usize = 100_000;
const MAX_INDEX_BYTES: u64 = 4 << 20;
const MAX_PADDING_BYTES: u64 = 1 << 20;

pub const MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// One block, as the index describes it (§4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Byte in the file at which the block's header starts.
    pub start: u64,
    /// Header, data and check, without the padding to four bytes.
    pub unpadded: u64,
    pub uncompressed: u64,
    /// Stream flags (§2.1.1.2): which check the block carries.
    pub flags: [u8; 2],
}

impl Block {
    fn padded(&self) -> u64 {
        self.unpadded.next_multiple_of(4)
    }
}

/// All blocks of a file, in order, from its indexes; reads the end of the file
/// only. `UnexpectedEof`: no stream ends there, so it is cut. `InvalidData`: what stands there is damaged.
pub fn read_blocks(file: &mut (impl Read + Seek)) -> io::Result<Vec<Block>> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut blocks = Vec::new();
    let mut padding = 0;
    while end > 0 {
        let mut last = [0; 4];
        read_at(file, end.checked_sub(4).ok_or_else(cut)?, &mut last)?;
        if last == [0; 4] {
            // Stream padding (§2.2).
            padding += 4;
            end -= 4;
            if padding > MAX_PADDING_BYTES {
                return Err(cut());
            }
            continue;
        }
        end = read_stream(file, end, &mut blocks)?;
    }
    if blocks.is_empty() {
        return Err(cut());
    }
    blocks.reverse();
    Ok(blocks)
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the end of an xz file is missing")
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its list of blocks is none")
}

fn read_at(file: &mut (impl Read + Seek), at: u64, bytes: &mut [u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(bytes)
}

/// Reads the stream that ends at `end`, pushes its blocks last first, and
/// returns where it starts.
fn read_stream(file: &mut (impl Read + Seek), end: u64, blocks: &mut Vec<Block>) -> io::Result<u64> {
    let mut footer = [0; 12];
    let footer_at = end.checked_sub(12).ok_or_else(cut)?;
    read_at(file, footer_at, &mut footer)?;
    let stored = u32::from_le_bytes([footer[0], footer[1], footer[2], footer[3]]);
    if footer[10..] != *b"YZ" {
        return Err(cut());
    }
    if crc32(&footer[4..10]) != stored {
        return Err(damaged());
    }
    let flags = [footer[8], footer[9]];
    let index_bytes = (u64::from(u32::from_le_bytes([footer[4], footer[5], footer[6], footer[7]])) + 1) * 4;
    let index_at = footer_at.checked_sub(index_bytes).ok_or_else(damaged)?;
    if index_bytes > MAX_INDEX_BYTES {
        return Err(damaged());
    }
    let mut index = vec![0; index_bytes as usize]; // at most MAX_INDEX_BYTES
    read_at(file, index_at, &mut index)?;
    let records = parse_index(&index).ok_or_else(damaged)?;
    if blocks.len() + records.len() > MAX_BLOCKS {
        return Err(damaged());
    }
    let mut at = index_at;
    for (unpadded, uncompressed) in records.into_iter().rev() {
        let padded = unpadded.checked_next_multiple_of(4).ok_or_else(damaged)?;
        at = at.checked_sub(padded).ok_or_else(damaged)?;
        blocks.push(Block { start: at, unpadded, uncompressed, flags });
    }
    let start = at.checked_sub(12).ok_or_else(damaged)?;
    let mut header = [0; 12];
    read_at(file, start, &mut header)?;
    if header[..6] != MAGIC || header[6..8] != flags {
        return Err(damaged());
    }
    Ok(start)
}

/// Records of an index (§4): pairs of unpadded and uncompressed size.
fn parse_index(index: &[u8]) -> Option<Vec<(u64, u64)>> {
    let (body, sum) = index.split_at_checked(index.len().checked_sub(4)?)?;
    if crc32(body) != u32::from_le_bytes(sum.try_into().ok()?) {
        return None;
    }
    let mut rest = body.strip_prefix(&[0])?;
    let count = take_varint(&mut rest)?;
    // Each record takes at least two bytes, so the index itself is the bound.
    if count > rest.len() as u64 / 2 {
        return None;
    }
    (0..count).map(|_| Some((take_varint(&mut rest)?, take_varint(&mut rest)?))).collect()
}

/// A multibyte integer (§1.2), at most 9 bytes.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A block alone as a complete stream: the header before and the index and
/// footer after it.
fn as_stream(block: &Block) -> (Vec<u8>, Vec<u8>) {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&block.flags);
    header.extend_from_slice(&crc32(&block.flags).to_le_bytes());

    let mut tail = vec![0];
    put_varint(&mut tail, 1);
    put_varint(&mut tail, block.unpadded);
    put_varint(&mut tail, block.uncompressed);
    tail.resize(tail.len().next_multiple_of(4), 0);
    let sum = crc32(&tail);
    tail.extend_from_slice(&sum.to_le_bytes());
    let backward = (tail.len() / 4 - 1) as u32; // some tens of bytes
    let mut fields = backward.to_le_bytes().to_vec();
    fields.extend_from_slice(&block.flags);
    tail.extend_from_slice(&crc32(&fields).to_le_bytes());
    tail.extend_from_slice(&fields);
    tail.extend_from_slice(b"YZ");
    (header, tail)
}

/// Decodes one block with its check verified.
fn decode(block: &Block, compressed: &[u8]) -> io::Result<Vec<u8>> {
    let (header, tail) = as_stream(block);
    let stream = Cursor::new(header).chain(compressed).chain(Cursor::new(tail));
    let wanted = usize::try_from(block.uncompressed).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut data = Vec::new();
    data.try_reserve_exact(wanted).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // A decoder bug on a damaged file is that file's fault, not the appliance's end.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        let reader = XzReader::new_mem_limit(stream, false, DECODER_LIMIT_KIB);
        // One byte more than promised shows a block that lies; reaching the
        // end makes the reader verify the check.
        reader.take(block.uncompressed.saturating_add(1)).read_to_end(&mut data)
    }));
    match decoded {
        Ok(Ok(bytes)) if bytes == wanted => Ok(data),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the block is not what the index says")),
    }
}

/// How many workers fit the budget; less than two means: not worth it.
pub fn workers(blocks: &[Block], cores: usize) -> u64 {
    let largest = blocks.iter().map(|block| block.padded().saturating_add(block.uncompressed)).max().unwrap_or(0);
    if blocks.len() < 2 || largest == 0 {
        return 1;
    }
    // A dictionary is never much larger than what `xz` puts into a block (a
    // block is three dictionaries by default), so it is counted as the block.
    let each = largest.saturating_mul(2);
    // Two more blocks than workers are held: one waiting, one being written.
    (PARALLEL_BUDGET_BYTES / each).saturating_sub(2).min(cores as u64).min(MAX_WORKERS)
}

type Decoded = io::Result<Vec<u8>>;
type Work = (Block, Vec<u8>, SyncSender<Decoded>);

/// Reads the decoded bytes in order while workers decode ahead.
pub struct ParallelXz {
    order: Receiver<Receiver<Decoded>>,
    current: Cursor<Vec<u8>>,
    dispatcher: Option<JoinHandle<io::Result<HashingFile>>>,
    workers: Vec<JoinHandle<()>>,
}

impl ParallelXz {
    pub fn new(file: HashingFile, blocks: Vec<Block>, workers: u64) -> io::Result<Self> {
        let count = workers as usize; // at most MAX_WORKERS
        let (order_to, order) = sync_channel::<Receiver<Decoded>>(count);
        let (work_to, work) = sync_channel::<Work>(1);
        let work = Arc::new(Mutex::new(work));
        let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let mut handles = Vec::new();
        for _ in 0..count {
            let work = work.clone();
            handles.push(spawn("xz-decode").spawn(move || {
                loop {
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((block, compressed, result)) = next else { return };
                    // A reader that went away does not want it any more.
                    let _ = result.send(decode(&block, &compressed));
                }
            })?);
        }
        let dispatcher = spawn("xz-read").spawn(move || dispatch(file, &blocks, &order_to, &work_to))?;
        Ok(Self { order, current: Cursor::default(), dispatcher: Some(dispatcher), workers: handles })
    }

    /// The file, read up to its last block; after the end was reached.
    pub fn into_file(mut self) -> io::Result<HashingFile> {
        let dispatcher = self.dispatcher.take().ok_or(io::ErrorKind::Other)?;
        drop(std::mem::replace(&mut self.order, sync_channel(0).1));
        dispatcher.join().map_err(|_| io::Error::other("the reading thread ended early"))?
    }
}

fn dispatch(
    mut file: HashingFile,
    blocks: &[Block],
    order: &SyncSender<Receiver<Decoded>>,
    work: &SyncSender<Work>,
) -> io::Result<HashingFile> {
    for block in blocks {
        let (result_to, result) = sync_channel(1);
        if order.send(result).is_err() {
            return Ok(file); // nobody reads any more
        }
        // Bounded by the budget that `workers` was computed from.
        let mut compressed = vec![0; usize::try_from(block.padded()).map_err(|_| io::ErrorKind::OutOfMemory)?];
        let read = file.seek(SeekFrom::Start(block.start)).and_then(|_| file.read_exact(&mut compressed));
        match read {
            Ok(()) => {
                if work.send((*block, compressed, result_to)).is_err() {
                    return Ok(file);
                }
            }
            Err(error) => {
                let again = io::Error::new(error.kind(), error.to_string());
                let _ = result_to.send(Err(error));
                return Err(again);
            }
        }
    }
    Ok(file)
}

impl Read for ParallelXz {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let bytes = self.current.read(buffer)?;
            if bytes > 0 || buffer.is_empty() {
                return Ok(bytes);
            }
            let Ok(next) = self.order.recv() else { return Ok(0) };
            let data = next.recv().map_err(|_| io::Error::other("a decoding thread ended early"))??;
            self.current = Cursor::new(data);
        }
    }
}

impl Drop for ParallelXz {
    fn drop(&mut self) {
        // Without the receiver the dispatcher ends, then the workers.
        drop(std::mem::replace(&mut self.order, sync_channel(0).1));
        if let Some(dispatcher) = self.dispatcher.take() {
            let _ = dispatcher.join();
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lzma_rust2::{XzOptions, XzWriter};
    use std::io::Write;
    use std::num::NonZeroU64;

    fn data() -> Vec<u8> {
        (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    fn pack(data: &[u8], block_bytes: u64) -> Vec<u8> {
        let mut options = XzOptions::with_preset(1);
        options.lzma_options.dict_size = 64 << 10; // a block is never smaller
        options.set_block_size(NonZeroU64::new(block_bytes));
        let mut writer = XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(data).unwrap();
        writer.finish().unwrap()
    }

    fn unpack(packed: &[u8], workers: u64) -> io::Result<Vec<u8>> {
        let mut file = tempfile::tempfile()?;
        file.write_all(packed)?;
        let blocks = read_blocks(&mut file)?;
        let mut reader = ParallelXz::new(HashingFile::new(file)?, blocks, workers)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn blocks_decoded_at_once_come_out_in_order() {
        let data = data();
        let mut packed = pack(&data, 200_000);
        assert!(read_blocks(&mut Cursor::new(&packed)).unwrap().len() > 5);
        assert!(unpack(&packed, 3).unwrap() == data);
        packed.extend_from_slice(&[0; 8]);
        packed.extend(pack(&data, 1_000_000));
        assert!(unpack(&packed, 2).unwrap() == [data.clone(), data].concat(), "two streams with padding between");
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let packed = pack(&data(), 200_000);
        for at in (0..packed.len()).step_by(packed.len() / 60) {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x10;
            assert!(unpack(&damaged, 2).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_cut_file_is_noticed_from_its_end_alone() {
        let packed = pack(&data(), 200_000);
        for bytes in [0, 3, 11, 12, packed.len() / 2, packed.len() - 4, packed.len() - 1] {
            assert!(read_blocks(&mut Cursor::new(&packed[..bytes])).is_err(), "{bytes} bytes");
        }
    }

    #[test]
    fn a_file_whose_blocks_do_not_fit_the_budget_is_read_by_one() {
        let block = |uncompressed| Block { start: 0, unpadded: 8 << 20, uncompressed, flags: [0, 4] };
        assert_eq!(workers(&[block(24 << 20); 9], 4), 2);
        assert_eq!(workers(&[block(4 << 20); 9], 4), 4);
        assert!(workers(&[block(u64::MAX); 9], 4) < 2);
        assert!(workers(&[block(1 << 20)], 4) < 2);
    }

    proptest::proptest! {
        #[test]
        fn no_index_panics(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let _ = parse_index(&bytes);
            let mut summed = bytes.clone();
            summed.extend_from_slice(&crc32(&bytes).to_le_bytes());
            let _ = parse_index(&summed);
        }
    }
}
