//! Directories of 100,000 entries: listed whole while entries come and go, in bounded
//! time, and with no more memory the third time than the first.
//!
//! Needs root, loop devices, ext4 and overlayfs (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;
#[path = "support/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::*;
use random::Random;

const ENTRIES: usize = 100_000;
/// ext4 gives one file at most 65,000 names.
const NAMES_OF_ONE: usize = 50_000;
/// Pages between two changes. Each makes the server read the directory anew.
const PAGES: usize = 16;
/// It takes some 10 s on two idle cores, unoptimized; a listing that reads all for each page takes hours.
const LIMIT: Duration = Duration::from_secs(180);
/// What this process may grow by from one listing to the next, in KiB: windows of 4 MiB come and go.
const GROWTH_KIB: u64 = 16 << 10;

fn name(n: usize) -> String {
    format!("entry-with-a-name-{n:06}")
}

/// Resident memory of this process, which is the server's too, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Changes the directory between two pages, and remembers what must be listed whatever happens.
struct Churn {
    client: Client,
    directory: nfs_fh3,
    random: Random,
    /// Entries that are there from the first to the last page of a listing.
    steady: BTreeSet<String>,
    made: usize,
    removed: BTreeSet<String>,
}

impl Churn {
    fn begin(&mut self) {
        self.removed.clear();
    }

    fn change(&mut self) {
        let victim = name(self.random.below(ENTRIES as u64) as usize);
        if self.steady.remove(&victim) {
            let new = format!("new-{}", self.made);
            if self.made.is_multiple_of(2) {
                self.client.remove(&self.directory, &victim).unwrap();
                self.client.file(&self.directory, &new);
            } else {
                self.client.rename(&self.directory, &victim, &self.directory, &new).unwrap();
            }
            self.made += 1;
            self.removed.insert(victim);
        }
    }

    /// Each name that was always there came once, and none twice, whatever else came.
    fn check(&self, listed: &BTreeMap<String, u32>) {
        let twice: Vec<_> = listed.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "listed twice: {twice:?}");
        let lost: Vec<_> = self.steady.iter().filter(|name| !listed.contains_key(*name)).take(10).collect();
        assert!(lost.is_empty(), "not listed: {lost:?}");
        let stranger = listed
            .keys()
            .find(|name| !self.steady.contains(*name) && !self.removed.contains(*name) && !name.starts_with("new-"));
        assert_eq!(stranger, None, "listed, and not there");
    }
}

#[test]
fn a_hundred_thousand_entries_are_listed_whole_while_others_come_and_go() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    client.mkdir(&root, "large").unwrap();
    let folder = lab.path("large");
    for n in 0..ENTRIES {
        if n % NAMES_OF_ONE == 0 {
            std::fs::write(lab.path(&format!("file-{}", n / NAMES_OF_ONE)), b"one of many").unwrap();
        }
        std::fs::hard_link(lab.path(&format!("file-{}", n / NAMES_OF_ONE)), folder.join(name(n))).unwrap();
    }
    let directory = client.find(&root, "large");
    let mut churn = Churn {
        client: lab.client(A),
        directory: directory.clone(),
        random: Random(7),
        steady: (0..ENTRIES).map(name).collect(),
        made: 0,
        removed: BTreeSet::new(),
    };
    let began = Instant::now();
    let mut memory = Vec::new();
    for plus in [false, true, true] {
        churn.begin();
        let (mut listed, mut cookie, mut pages) = (BTreeMap::new(), 0, 0);
        loop {
            let (page, eof) = if plus {
                let (page, eof) = client.readdirplus(&directory, cookie, 32 << 10);
                let entry = |entry: entryplus3<'_>| {
                    let name = text(&entry.name.0);
                    let attributes = entry.name_attributes.unwrap();
                    assert_eq!(attributes.fileid, entry.fileid, "{name}");
                    assert!(matches!(entry.name_handle, post_op_fh3::Some(_)), "{name}");
                    (name, entry.cookie)
                };
                (page.into_iter().map(entry).collect(), eof)
            } else {
                client.readdir(&directory, cookie, 8 << 10)
            };
            for (name, next) in page {
                assert!(next > cookie, "{name} stands at {next}, behind {cookie}");
                cookie = next;
                if name != "." && name != ".." {
                    *listed.entry(name).or_insert(0) += 1;
                }
            }
            assert!(began.elapsed() < LIMIT, "{} entries of a listing took {LIMIT:?}", listed.len());
            if eof {
                break;
            }
            pages += 1;
            if pages % PAGES == 0 {
                churn.change();
            }
        }
        churn.check(&listed);
        assert!(churn.removed.len() > 10, "{} changes in {pages} pages", churn.removed.len());
        drop(listed);
        rootstock::memory::give_back();
        memory.push(resident());
    }
    assert!(memory[2] <= memory[1] + GROWTH_KIB, "{memory:?} KiB after each listing");
    println!("{memory:?} KiB; {:?}", began.elapsed());
}
