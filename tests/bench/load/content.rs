//! Files of known content, and the tree that is served: made once, checked in every answer.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Files and directories of the storm: more than a server's smallest cache, as many as a boot touches.
pub const SMALL_FILES: u64 = 2500;
const SMALL_DIRECTORIES: u64 = 50;
pub const ENTRIES: u64 = 10_000;
pub const BIG: &str = "big.bin";
pub const BIG_BYTES: u64 = 512 << 20;
pub const KERNEL: &str = "kernel8.img";
const KERNEL_BYTES: u64 = 30 << 20;

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// A file's content: its 64-bit little-endian word number i is seed + i × STEP.
pub fn seed(name: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash ^ (hash >> 31)
}

fn word(seed: u64, index: u64) -> [u8; 8] {
    seed.wrapping_add(index.wrapping_mul(STEP)).to_le_bytes()
}

/// `offset` is a multiple of 8.
pub fn fill(seed: u64, offset: u64, bytes: &mut [u8]) {
    for (index, chunk) in (offset / 8..).zip(bytes.chunks_mut(8)) {
        chunk.copy_from_slice(&word(seed, index)[..chunk.len()]);
    }
}

/// Whether `bytes` stand at `offset`, a multiple of 4 (TFTP's blocks of 1468 begin there), of that file.
pub fn is(seed: u64, offset: u64, bytes: &[u8]) -> bool {
    let head = if offset.is_multiple_of(8) { 0 } else { bytes.len().min(4) };
    let (first, rest) = bytes.split_at(head);
    let start = offset + head as u64;
    let words = rest.chunks_exact(8);
    let tail = words.remainder();
    let last = start / 8 + (rest.len() / 8) as u64;
    // Folded without a branch a word, so that checking is as fast as memory.
    let mut differs = 0;
    let mut expected = seed.wrapping_add((start / 8).wrapping_mul(STEP));
    for chunk in words {
        let mut value = [0; 8];
        value.copy_from_slice(chunk);
        differs |= u64::from_le_bytes(value) ^ expected;
        expected = expected.wrapping_add(STEP);
    }
    differs == 0 && tail == &word(seed, last)[..tail.len()] && first == &word(seed, offset / 8)[4..4 + head]
}

/// Where the storm's file number `index` lies: directory and name.
pub fn small(index: u64) -> (String, String) {
    (format!("d{:02}", index % SMALL_DIRECTORIES), format!("f{index:04}"))
}

pub fn small_bytes(index: u64) -> u64 {
    512 + index % 4096
}

fn write(path: &Path, name: &str, bytes: u64) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    let mut buffer = vec![0; bytes.min(1 << 20) as usize];
    let mut offset = 0;
    while offset < bytes {
        let count = (bytes - offset).min(buffer.len() as u64) as usize;
        fill(seed(name), offset, &mut buffer[..count]);
        file.write_all(&buffer[..count])?;
        offset += count as u64;
    }
    Ok(())
}

/// The served tree: big.bin, kernel8.img, small/, many/ and an empty work/.
pub fn make(tree: &Path, big_bytes: u64) -> io::Result<()> {
    for folder in ["many", "work", "small"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    write(&tree.join(BIG), BIG, big_bytes)?;
    write(&tree.join(KERNEL), KERNEL, KERNEL_BYTES)?;
    for index in 0..ENTRIES {
        write(&tree.join(format!("many/entry-{index:05}.txt")), "entry", 16)?;
    }
    for index in 0..SMALL_FILES {
        let (directory, name) = small(index);
        let directory = tree.join("small").join(directory);
        fs::create_dir_all(&directory)?;
        write(&directory.join(&name), &name, small_bytes(index))?;
    }
    Ok(())
}

/// A small generator whose numbers repeat (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((u128::from(mixed) * u128::from(bound)) >> 64) as u64
    }
}
