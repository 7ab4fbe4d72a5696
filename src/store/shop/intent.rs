//! The note that a store is being made, so that a power cut leaks nothing for
//! good.
//!
//! Pure. It lies in a directory slot that counts as deleted for everyone else,
//! and says which clusters are being taken. The directory entry that makes the
//! file replaces it. Found later, what it names and no file reaches is free.

use super::clusters::Run;
use super::media::u32_at;
use crate::store::crc32::crc32;

/// Bytes of a directory slot, in FAT and in exFAT.
pub const SLOT: usize = 32;
const MAGIC: &[u8; 11] = b"RTSTKMAKING";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intent {
    pub run: Run,
    /// The volume was not marked dirty before we began.
    pub was_clean: bool,
}

impl Intent {
    /// `deleted` is the file system's mark of a deleted slot.
    pub fn encode(self, deleted: u8) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        slot[0] = deleted;
        slot[1..12].copy_from_slice(MAGIC);
        slot[12] = u8::from(self.was_clean);
        slot[16..20].copy_from_slice(&self.run.first.to_le_bytes());
        slot[20..24].copy_from_slice(&self.run.count.to_le_bytes());
        let sum = crc32(&slot[1..28]);
        slot[28..].copy_from_slice(&sum.to_le_bytes());
        slot
    }

    pub fn decode(slot: &[u8], deleted: u8) -> Option<Self> {
        let valid = slot.len() == SLOT
            && slot[0] == deleted
            && slot[1..12] == *MAGIC
            && u32_at(slot, 28) == crc32(&slot[1..28]);
        let run = Run { first: u32_at(slot, 16), count: u32_at(slot, 20) };
        valid.then_some(Self { run, was_clean: slot[12] == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_is_read_back_and_a_torn_one_is_none() {
        let intent = Intent { run: Run { first: 7, count: 9 }, was_clean: true };
        let slot = intent.encode(0xe5);
        assert_eq!(Intent::decode(&slot, 0xe5), Some(intent));
        assert_eq!(Intent::decode(&slot, 0x05), None);
        for at in 1..SLOT {
            let mut torn = slot;
            torn[at] ^= 1;
            assert_eq!(Intent::decode(&torn, 0xe5), None, "byte {at}");
        }
    }
}
