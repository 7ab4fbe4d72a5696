//! A set of clusters, and the longest run that is not in it.
//!
//! Pure. One bit a cluster. Counted from 0 here; the file systems count their
//! clusters from 2 ([`FIRST`]).

/// The number of the first cluster in FAT and exFAT.
pub const FIRST: u32 = 2;

/// Clusters one behind the other; `first` counted from 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub first: u32,
    pub count: u32,
}

impl Run {
    /// The cluster behind the last.
    pub fn end(self) -> u32 {
        self.first.saturating_add(self.count)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clusters {
    words: Vec<u64>,
    count: u32,
    inside: u32,
}

impl Clusters {
    /// An empty set over `count` clusters.
    pub fn new(count: u32) -> Self {
        Self { words: vec![0; (count as usize).div_ceil(64)], count, inside: 0 }
    }

    fn place(&self, cluster: u32) -> Option<(usize, u64)> {
        let index = cluster.checked_sub(FIRST).filter(|&index| index < self.count)?;
        Some((index as usize / 64, 1 << (index % 64)))
    }

    /// Whether the cluster exists and is in the set.
    pub fn contains(&self, cluster: u32) -> bool {
        self.place(cluster).is_some_and(|(word, bit)| self.words[word] & bit != 0)
    }

    /// False: it was there already, or there is no such cluster.
    pub fn insert(&mut self, cluster: u32) -> bool {
        let Some((word, bit)) = self.place(cluster) else { return false };
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.inside += u32::from(new);
        new
    }

    pub fn remove(&mut self, cluster: u32) {
        let Some((word, bit)) = self.place(cluster) else { return };
        self.inside -= u32::from(self.words[word] & bit != 0);
        self.words[word] &= !bit;
    }

    /// How many are not in the set.
    pub fn free(&self) -> u32 {
        self.count - self.inside
    }

    /// How many are in the set.
    pub fn used(&self) -> u32 {
        self.inside
    }

    /// All of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().zip(0u32..).flat_map(|(&word, index)| {
            (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| FIRST + index * 64 + bit)
        })
    }

    /// The first of the longest runs outside the set.
    pub fn longest_free(&self) -> Run {
        let mut best = Run { first: FIRST, count: 0 };
        let mut start = 0;
        let mut take = |start: u32, end: u32| {
            if end - start > best.count {
                best = Run { first: start + FIRST, count: end - start };
            }
        };
        let mut index = 0;
        while index < self.count {
            let word = self.words[index as usize / 64];
            if index.is_multiple_of(64) && word == 0 {
                index = index.saturating_add(64);
                continue;
            }
            if word >> (index % 64) & 1 != 0 {
                take(start, index);
                start = index + 1;
            }
            index += 1;
        }
        take(start.min(self.count), self.count);
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_free_run_is_found_at_every_edge() {
        let check = |count: u32, used: &[u32], expected: (u32, u32)| {
            let mut set = Clusters::new(count);
            for &cluster in used {
                assert!(set.insert(cluster) && !set.insert(cluster));
            }
            let run = set.longest_free();
            assert_eq!((run.first, run.count), expected, "{count} {used:?}");
            assert_eq!(set.iter().collect::<Vec<_>>(), used);
            assert_eq!(set.free() as usize, count as usize - used.len());
        };
        check(0, &[], (2, 0));
        check(200, &[], (2, 200));
        check(200, &[2], (3, 199));
        check(200, &[66, 201], (67, 134));
        check(130, &[65, 66, 130], (2, 63));
        check(1, &[2], (2, 0));
    }

    #[test]
    fn a_cluster_that_does_not_exist_is_never_in_the_set() {
        let mut set = Clusters::new(10);
        for cluster in [0, 1, 12, u32::MAX] {
            assert!(!set.insert(cluster) && !set.contains(cluster));
            set.remove(cluster);
        }
        assert_eq!(set.used(), 0);
    }
}
