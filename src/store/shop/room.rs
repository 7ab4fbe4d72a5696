//! How large a store becomes, and which run of clusters it gets.
//!
//! Pure. The rule: the longest free run, but a tenth of the free space, at
//! most 4 GiB, stays free for the person's next image file.

use super::Refusal;
use super::clusters::{Clusters, FIRST, Run};

/// What stays free at most.
const MAX_RESERVE_BYTES: u64 = 4 << 30;
/// ext4's blocks; a run that starts on a multiple costs no half writes.
const ALIGNMENT_BYTES: u64 = 4096;

/// What is asked of the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub minimum_bytes: u64,
    /// The person's own figure; without it what fits.
    pub wanted_bytes: Option<u64>,
}

/// Where clusters lie in the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Of the first cluster, in bytes from the partition's start.
    pub heap_at: u64,
    pub cluster_bytes: u64,
    pub count: u32,
}

impl Grid {
    pub fn at(self, cluster: u32) -> u64 {
        self.heap_at + u64::from(cluster.saturating_sub(FIRST)) * self.cluster_bytes
    }

    pub fn has(self, cluster: u32) -> bool {
        cluster >= FIRST && cluster - FIRST < self.count
    }

    pub fn has_run(self, run: Run) -> bool {
        run.count > 0 && self.has(run.first) && run.count <= self.count - (run.first - FIRST)
    }

    pub fn bytes(self, clusters: u32) -> u64 {
        u64::from(clusters) * self.cluster_bytes
    }

    /// Clusters to be left out so that `cluster` becomes one that starts on a
    /// multiple of 4 KiB; 0 where none does.
    fn skip(self, cluster: u32) -> u32 {
        let steps = ALIGNMENT_BYTES.div_ceil(self.cluster_bytes);
        let aligned = |skip: &u32| self.at(cluster.saturating_add(*skip)).is_multiple_of(ALIGNMENT_BYTES);
        (0..u32::try_from(steps).unwrap_or(1)).find(aligned).unwrap_or(0)
    }
}

/// The bytes that a store would get.
pub fn size(used: &Clusters, grid: Grid, rule: Rule) -> Result<u64, Refusal> {
    let (free_bytes, largest_bytes) = (grid.bytes(used.free()), grid.bytes(used.longest_free().count));
    let reserve = (free_bytes / 10).min(MAX_RESERVE_BYTES);
    let fits = largest_bytes.min(free_bytes - reserve);
    let bytes = rule.wanted_bytes.unwrap_or(fits);
    let needed_bytes = rule.minimum_bytes.max(rule.wanted_bytes.unwrap_or(0));
    if bytes < rule.minimum_bytes || bytes > largest_bytes {
        return Err(Refusal::NoRoom { needed_bytes, largest_bytes, free_bytes });
    }
    Ok(bytes)
}

/// A run for `bytes`, with `before` clusters in front and `behind` behind that
/// the file system needs itself. The data starts on 4 KiB where that can be.
pub fn choose(used: &Clusters, grid: Grid, rule: Rule, before: u32, behind: u32) -> Result<Run, Refusal> {
    let bytes = size(used, grid, rule)?;
    let longest = used.longest_free();
    let skip = grid.skip(longest.first.saturating_add(before));
    let overhead = before + behind + skip;
    let wanted = u32::try_from(bytes / grid.cluster_bytes).unwrap_or(u32::MAX);
    let count = wanted.min(longest.count.saturating_sub(overhead));
    if count == 0 || grid.bytes(count) < rule.minimum_bytes.min(bytes - bytes % grid.cluster_bytes) {
        let (needed_bytes, largest_bytes) = (bytes, grid.bytes(longest.count));
        return Err(Refusal::NoRoom { needed_bytes, largest_bytes, free_bytes: grid.bytes(used.free()) });
    }
    Ok(Run { first: longest.first + skip + before, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn check(gib: u32, used: &[u32], wanted_gib: Option<u64>, expected: Result<u64, (u64, u64)>) {
        // One cluster stands for 1 MiB.
        let grid = Grid { heap_at: 1 << 20, cluster_bytes: 1 << 20, count: gib * 1024 };
        let mut set = Clusters::new(grid.count);
        for gib in used {
            set.insert(FIRST + gib * 1024);
        }
        let rule = Rule { minimum_bytes: GIB, wanted_bytes: wanted_gib.map(|gib| gib * GIB) };
        let mib = |bytes: u64| bytes >> 20;
        let found = size(&set, grid, rule).map(mib).map_err(|refusal| match refusal {
            Refusal::NoRoom { needed_bytes, largest_bytes, .. } => (mib(needed_bytes), mib(largest_bytes)),
            other => panic!("{other}"),
        });
        assert_eq!(found, expected, "{gib} GiB, used at {used:?}, wanted {wanted_gib:?}");
    }

    #[test]
    fn a_tenth_but_at_most_four_gib_stays_free() {
        check(20, &[], None, Ok(18 * 1024));
        check(100, &[], None, Ok(96 * 1024));
        // What lies outside the longest run is the reserve already.
        check(20, &[8], None, Ok(12 * 1024 - 1));
    }

    #[test]
    fn too_little_room_is_told_with_both_figures() {
        check(1, &[0], None, Err((1024, 1023)));
        check(3, &[0, 1, 2], None, Err((1024, 1023)));
        check(20, &[10], Some(16), Err((16 * 1024, 10 * 1024)));
        check(20, &[10], Some(4), Ok(4 * 1024));
    }

    #[test]
    fn the_data_starts_on_four_kib_where_a_cluster_does() {
        let rule = Rule { minimum_bytes: 4096, wanted_bytes: None };
        for (heap_at, cluster_bytes, before, aligned) in
            [(512, 512, 0, true), (1536, 512, 1, true), (4096, 65536, 1, true), (512, 4096, 0, false)]
        {
            let grid = Grid { heap_at, cluster_bytes, count: 1000 };
            let run = choose(&Clusters::new(1000), grid, rule, before, 1).unwrap();
            assert_eq!(grid.at(run.first).is_multiple_of(4096), aligned, "{heap_at} {cluster_bytes}");
            assert!(run.first >= FIRST + before && run.end() < FIRST + 1000);
        }
    }
}
