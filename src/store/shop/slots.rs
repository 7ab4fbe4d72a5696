//! Free slots in a directory, and what must be written before they may be used.
//!
//! Pure. The slots of one entry are taken inside one sector, which a stick
//! writes whole or not at all. Behind the end of a directory nothing is trusted:
//! FAT does not promise zeros there, so the new end is written before the old
//! one goes.

use super::intent::SLOT;

/// How a file system marks slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 0xe5 is deleted.
    Fat,
    /// Every type without the InUse bit is.
    ExFat,
}

impl Kind {
    /// The mark that we write.
    pub fn deleted(self) -> u8 {
        match self {
            Self::Fat => 0xe5,
            Self::ExFat => 0x05,
        }
    }

    fn is_deleted(self, first: u8) -> bool {
        match self {
            Self::Fat => first == 0xe5,
            Self::ExFat => first & 0x80 == 0,
        }
    }
}

/// Slots that may be written, after `prepare`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// Byte offset in the directory.
    pub at: usize,
    /// Whole sectors by their offset in the directory, with a flush after each list.
    pub prepare: [Vec<(usize, Vec<u8>)>; 2],
}

/// Where the directory ends: its first slot of zero, or its bytes.
pub fn end(directory: &[u8]) -> usize {
    let end = directory.chunks_exact(SLOT).position(|slot| slot[0] == 0);
    end.map_or(directory.len() / SLOT * SLOT, |index| index * SLOT)
}

/// The first `wanted` slots in a row, all in one sector; `None`: the directory is full.
pub fn find(directory: &[u8], sector_bytes: usize, wanted: usize, kind: Kind) -> Option<Slots> {
    let (end, bytes) = (end(directory), wanted * SLOT);
    let is_free = |at: usize| at >= end || directory.get(at).is_some_and(|&first| kind.is_deleted(first));
    let fits = |at: &usize| {
        at % sector_bytes + bytes <= sector_bytes
            && at + bytes <= directory.len()
            && (*at..at + bytes).step_by(SLOT).all(is_free)
    };
    let at = (0..directory.len()).step_by(SLOT).find(fits)?;
    if at + bytes <= end {
        return Some(Slots { at, prepare: Default::default() });
    }
    let mut after = directory.to_vec();
    for slot in (end..at + bytes).step_by(SLOT) {
        after[slot..slot + SLOT].fill(0);
        after[slot] = kind.deleted();
    }
    if let Some(next) = after.get_mut(at + bytes..at + bytes + SLOT) {
        next.fill(0);
    }
    let sectors = |last: bool| {
        let changed =
            (0..directory.len()).step_by(sector_bytes).filter(|&at| (at == end / sector_bytes * sector_bytes) == last);
        let changed = changed.map(|at| (at, at..(at + sector_bytes).min(directory.len())));
        let changed = changed.filter(|(_, range)| after[range.clone()] != directory[range.clone()]);
        changed.map(|(at, range)| (at, after[range].to_vec())).collect()
    };
    Some(Slots { at, prepare: [sectors(false), sectors(true)] })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter a slot: U used, D deleted, E end, ! garbage behind the end.
    fn directory(text: &str) -> Vec<u8> {
        let slot = |letter| match letter {
            'U' | '!' => [b'U'; SLOT],
            'D' => [0xe5; SLOT],
            _ => [0; SLOT],
        };
        text.chars().flat_map(slot).collect()
    }

    fn text(directory: &[u8]) -> String {
        let letter = |slot: &[u8]| match slot[0] {
            0xe5 => 'D',
            0 => 'E',
            _ => 'U',
        };
        directory.chunks(SLOT).map(letter).collect()
    }

    /// Sectors of four slots, three wanted.
    fn check(before: &str, expected: Option<(usize, &str)>) {
        let mut bytes = directory(before);
        let found = find(&bytes, 4 * SLOT, 3, Kind::Fat);
        let Some(slots) = found else { return assert_eq!(None, expected, "{before}") };
        for (at, sector) in slots.prepare.iter().flatten() {
            bytes[*at..at + sector.len()].copy_from_slice(sector);
            // At no moment does garbage become an entry.
            assert_eq!(text(&bytes[..end(&bytes)]).matches('U').count(), before.matches('U').count(), "{before}");
        }
        assert_eq!(Some((slots.at / SLOT, text(&bytes).as_str())), expected, "{before}");
    }

    #[test]
    fn an_entry_never_crosses_a_sector() {
        check("UUDDDUUU", None);
        check("UDDDUUUU", Some((1, "UDDDUUUU")));
        check("UUDDDDDU", Some((4, "UUDDDDDU")));
    }

    #[test]
    fn the_directory_is_extended_up_to_its_clusters_and_no_further() {
        check("UE!!!!!!", Some((1, "UDDDEUUU")));
        check("UUEEEEEE", Some((4, "UUDDDDDE")));
        check("UUE!!!!!", Some((4, "UUDDDDDE")));
        check("UUUUUE!!", Some((5, "UUUUUDDD")));
        check("UUUUUUEE", None);
        check("UDDEEEEE", Some((1, "UDDDEEEE")));
    }
}
