//! Power cuts under a copy onto a second stick: while it is made, and while it is made anew.
//!
//! At each moment the second stick is one that was begun or a complete copy of one moment. What was begun is never
//! taken for a copy; begun again, it becomes one, whatever of the first attempt had reached the disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rootstock::store::backup::{self, Backup, Target};
use rootstock::store::place::Place;

use super::disk::{Disk, Event, after_cut};
use super::random::Random;
use super::store_support::*;
use super::write_sparse;

const DISK_BYTES: usize = 48 << 20;
/// Of each copy, for one seed.
const CUTS: u64 = 5;

/// Files small and large, one with two names, a link.
fn fill(store: &Path, random: &mut Random) {
    let upper = store.join("clients/pi-1/upper/etc");
    fs::create_dir_all(&upper).unwrap();
    let mut bytes = |most: u64| (0..1 + random.below(most)).map(|_| 1 + random.below(255) as u8).collect::<Vec<_>>();
    for n in 0..60 {
        fs::write(upper.join(format!("file-{n}")), bytes(30_000)).unwrap();
    }
    // For the overlay to work in: a copy has one of its own.
    fs::create_dir_all(store.join("clients/pi-1/work")).unwrap();
    fs::create_dir_all(store.join("images/a-1")).unwrap();
    fs::write(store.join("images/a-1/root.ext4"), bytes(3 << 20)).unwrap();
    if !upper.join("two-names").exists() {
        fs::hard_link(upper.join("file-1"), upper.join("two-names")).unwrap();
        std::os::unix::fs::symlink("file-2", upper.join("link")).unwrap();
    }
}

fn copy(from: &Path, to: &Target) -> Backup {
    backup::copy(from, to, &AtomicU64::new(0), &AtomicBool::new(false)).unwrap()
}

fn open(node: &Path, point: &Path) -> Target {
    Target::open(&Place::Partition(node.to_owned()), point, &AtomicBool::new(false)).unwrap()
}

/// What the kernel does each five seconds: all of the file system's metadata that there is goes to the disk, and no
/// file's content for its sake.
fn commit_until(folder: &Path, over: &AtomicBool) {
    let mut beat = File::create(folder.join("beat.tmp")).unwrap();
    while !over.load(Ordering::Relaxed) {
        beat.write_all(b"x").unwrap();
        beat.sync_all().unwrap();
    }
}

#[test]
fn a_copy_that_is_cut_is_none_or_whole_and_begun_again_it_is_whole() {
    let bench = Bench::new();
    let seeds: u64 = std::env::var("ROOTSTOCK_SEEDS").ok().map_or(1, |seeds| seeds.parse().expect("a number"));
    let mut random = Random(17);
    let from = bench.store_on(&bench.path("first"), 32 * MIB);
    fs::write(from.join("store.toml"), "id = \"a\"\n").unwrap();
    let fuse = bench.path("fuse");
    fs::create_dir(&fuse).unwrap();
    let disk = Disk::mount(&fuse, DISK_BYTES);
    let file = fuse.join("disk");
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "ROOTSTOCK", "-O", "^orphan_file", file.to_str().unwrap()]);
    let second = LoopDisk::attach(&file);
    let point = bench.path("second");

    // What the first stick held when each copy was complete, by the copy's own word.
    let mut moments: Vec<(u64, PathBuf)> = Vec::new();
    let mut points = 0;
    for name in ["new", "renewed"] {
        fill(&from, &mut random);
        rustix::fs::syncfs(File::open(&from).unwrap()).unwrap();
        let base = disk.record();
        let target = open(&second.node, &point);
        let over = AtomicBool::new(false);
        let made = std::thread::scope(|scope| {
            scope.spawn(|| commit_until(&point, &over));
            let made = copy(&from, &target);
            over.store(true, Ordering::Relaxed);
            made
        });
        let answered = disk.position();
        drop(target);
        unmount(&point);
        let log: Vec<Event> = disk.log().into_iter().chain([Event::Flush]).collect();
        let kept = bench.path(name);
        run("cp", &["-a", from.to_str().unwrap(), kept.to_str().unwrap()]);
        moments.push((made.taken, kept));

        for n in 0..CUTS * seeds + 1 {
            let cut = match n {
                0 => answered,
                // Most is written early, while the files are copied the first time.
                n if n % 2 == 1 => random.below(answered as u64 / 8) as usize,
                _ => random.below(answered as u64) as usize,
            };
            let when = format!("{name}, cut {n} at {cut} of {answered}");
            let cut_file = bench.path("cut");
            write_sparse(&cut_file, &after_cut(&base, &log, cut, |bound| random.below(bound)));
            let after = LoopDisk::attach(&cut_file);
            let target = open(&after.node, &point);
            let taken = backup::read_mark(&point).and_then(|mark| mark.taken);
            let whole = moments.iter().filter(|(moment, _)| Some(*moment) == taken).map(|(_, kept)| kept);
            assert!(taken.is_some() || n > 0, "{when}: it was answered");
            if taken.is_some() {
                // Two copies may be of one second.
                let found: Vec<String> = whole.map(|kept| differences(kept, &point)).collect();
                assert!(found.iter().any(String::is_empty), "{when}: {found:?}");
            }
            copy(&from, &target);
            drop(target);
            assert_eq!(differences(&from, &point), "", "{when}, and begun again");
            unmount(&point);
            run("e2fsck", &["-fn", after.node.to_str().unwrap()]);
            points += 1;
        }
    }
    println!("{points} cuts");
}

/// What is not the same in a copy.
fn differences(from: &Path, copy: &Path) -> String {
    let names = ["backup.toml", "lost+found", "*.tmp"].map(|name| format!("--exclude={name}"));
    let mut diff = std::process::Command::new("diff");
    let found = diff.args(["-r", "--no-dereference"]).args(names).arg(from).arg(copy).output().unwrap();
    String::from_utf8_lossy(&found.stdout).into_owned()
}
