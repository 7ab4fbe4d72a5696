//! Power cuts at the level of blocks, under each thing that is done to a store: import, enrolment, snapshot, restore,
//! reset, rename, swap, promote, move, delete and the removal of an image.
//!
//! The store lies on a disk that records every write and flush (`nfs_lab/disk.rs`). A cut at a moment is: all writes
//! up to the last flush before it, and any of those after it, torn at any sector. On such a disk e2fsck must have
//! nothing to do but replay the journal; the store must open by itself, with nothing damaged; and what is in it is
//! what was before the operation or what is after it: after it, where it was answered before the cut.
//!
//! (A client's own writes are cut in `nfs_power`; the making of the store's file in exFAT and FAT32 in `store_shop`.)
//!
//! `ROOTSTOCK_SEEDS=100` makes a hundred times as many cuts: `just soak`. Needs root, loop devices and FUSE.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

#[path = "store_power/backup.rs"]
mod backup;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "nfs_lab/disk.rs"]
mod disk;
#[path = "support/random.rs"]
mod random;
mod store_support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use disk::{Disk, Event as DiskEvent};
use random::Random;
use rootstock::client::{ImageId, Model, Role};
use rootstock::store::operate::perform::perform;
use rootstock::store::operate::site::Site;
use rootstock::store::operate::{Board, Operation, Outcome};
use rootstock::store::{Event, Options, Surroundings};
use store_support::*;

const DISK_BYTES: usize = 144 << 20;
/// Of each operation, for one seed.
const CUTS: u64 = 2;

static GO: AtomicBool = AtomicBool::new(false);

struct Stick {
    bench: Bench,
    disk: Disk,
    seeds: u64,
    points: u64,
}

/// What was done, as the disk saw it.
struct Recorded {
    name: String,
    base: Vec<u8>,
    log: Vec<DiskEvent>,
    /// How much of it had happened when the operation was answered.
    answered: usize,
}

impl Stick {
    fn new() -> Self {
        let bench = Bench::new();
        fs::create_dir(bench.path("fuse")).unwrap();
        let disk = Disk::mount(&bench.path("fuse"), DISK_BYTES);
        let file = bench.path("fuse/disk");
        let features = "^orphan_file,^metadata_csum_seed";
        let text = file.to_str().unwrap();
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "ROOTSTOCK", "-m", "0", "-I", "256", "-O", features, text]);
        run("mount", &["-o", "loop", text, bench.store().to_str().unwrap()]);
        let seeds = std::env::var("ROOTSTOCK_SEEDS").ok().map_or(1, |seeds| seeds.parse().expect("a number"));
        Self { bench, disk, seeds, points: 0 }
    }

    fn sync(&self) {
        rustix::fs::syncfs(File::open(self.bench.store()).unwrap()).unwrap();
    }

    fn take_down(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let own = self.bench.path("run");
        for line in mounts.lines().rev() {
            let point = line.split(' ').nth(1).unwrap();
            if Path::new(point).starts_with(&own) {
                unmount(point);
            }
        }
    }

    /// Does something with the store, and cuts the power under it at many moments.
    /// `act` returns how much the disk had seen when it was answered.
    fn cut(&mut self, name: &str, act: impl FnOnce(&Self) -> usize) {
        self.sync();
        let base = self.disk.record();
        let answered = act(self);
        self.take_down();
        self.sync();
        // At the end all of it has reached the disk.
        let log = self.disk.log().into_iter().chain([DiskEvent::Flush]).collect();
        let recorded = Recorded { name: name.to_owned(), base, log, answered };
        let started = std::time::Instant::now();
        let mut random = Random(name.bytes().map(u64::from).sum());
        let before = self.look(&recorded, 0, &mut random);
        let after = self.look(&recorded, recorded.log.len(), &mut random);
        assert_ne!(before, after, "{name}");
        for n in 0..CUTS * self.seeds {
            let cut = match n % CUTS {
                0 => recorded.answered,
                _ => random.below(recorded.log.len() as u64) as usize,
            };
            let found = self.look(&recorded, cut, &mut random);
            let when = format!("{name}, cut {n} at {cut} of {}, answered at {answered}", recorded.log.len());
            assert!(found == after || (found == before && cut < answered), "{when}: {found:#?}\nbefore {before:#?}");
            self.points += 1;
        }
        let took = started.elapsed();
        println!("{name}: {} events, answered at {answered}, cuts in {took:?}", recorded.log.len());
    }

    /// What is in the store after a cut.
    fn look(&self, recorded: &Recorded, cut: usize, random: &mut Random) -> Vec<String> {
        let when = format!("{}, cut at {cut}", recorded.name);
        let content = disk::after_cut(&recorded.base, &recorded.log, cut, |bound| random.below(bound));
        let file = self.bench.path("cut.disk");
        write_sparse(&file, &content);
        let path = file.to_str().unwrap();
        let checked = Process::new("e2fsck").args(["-p", path]).output().unwrap();
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{when}: {checked:?}");
        let checked = Process::new("e2fsck").args(["-fn", path]).output().unwrap();
        assert_eq!(checked.status.code(), Some(0), "{when}: {}", String::from_utf8_lossy(&checked.stdout));
        let point = self.bench.path("cut");
        fs::create_dir_all(&point).unwrap();
        run("mount", &["-o", "loop", path, point.to_str().unwrap()]);
        let found = describe(&point, &self.bench.path("cut-run"), &when);
        unmount(&point);
        fs::remove_file(&file).unwrap();
        found
    }

    fn perform(&self, operation: &Operation) -> Outcome {
        let Options { appliance, dns, .. } = self.bench.options();
        let around = Surroundings { appliance, dns, stop: Arc::default() };
        let site = Site { store: self.bench.store(), run: self.bench.path("run"), slot: "test", around };
        perform(&site, operation, &GO, None).unwrap_or_else(|error| panic!("{operation:?}: {error:?}"))
    }

    /// The client writes something.
    fn mark(&self, text: &str) {
        let mut running = self.bench.start_in_folder();
        let (_, clients) = running.opened();
        fs::write(clients[0].root.join("mark"), text).unwrap();
        fs::create_dir_all(clients[0].root.join("home/pi")).unwrap();
        fs::write(clients[0].root.join("home/pi/mine"), text).unwrap();
        // One of two names: the other one is gathered before a snapshot.
        fs::write(clients[0].root.join("usr/share/doc/one"), text).unwrap();
        running.stop();
    }
}

fn write_sparse(path: &Path, content: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    const PIECE: usize = 256 << 10;
    let zeros = vec![0; PIECE];
    for (n, piece) in content.chunks(PIECE).enumerate() {
        if piece != &zeros[..piece.len()] {
            file.write_all_at(piece, (n * PIECE) as u64).unwrap();
        }
    }
}

/// Opens the store as the appliance does; what it holds, line by line.
fn describe(store: &Path, own: &Path, when: &str) -> Vec<String> {
    let bench = Options { run: own.to_owned(), folder: Some(store.to_owned()), ..Options::default() };
    let mut running = Running::start(bench);
    let (images, clients) = running.opened();
    let mut lines = Vec::new();
    for image in &images {
        let folder = store.join("images").join(image.id.as_str());
        let hash = run("sha256sum", &[folder.join("root.ext4").to_str().unwrap()]);
        let boot =
            run("sh", &["-c", &format!("cd {} && find boot -type f | sort | xargs cat | sha256sum", folder.display())]);
        lines.push(format!("image {} {} {}", image.id, &hash[..16], &boot[..16]));
    }
    for open in &clients {
        let read = |name: &str| fs::read_to_string(open.root.join(name)).unwrap_or_default();
        let snapshots = store.join("clients").join(open.client.role.as_str()).join("snapshots");
        let mut snapshots: Vec<PathBuf> =
            fs::read_dir(snapshots).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        snapshots.sort();
        let snapshots: Vec<_> = snapshots.iter().map(|path| path.file_name().unwrap()).collect();
        let client = &open.client;
        lines.push(format!(
            "client {} {} {} {}; hostname {:?}, mark {:?}, home {:?}, names {:?} {:?}, key {}; {snapshots:?}",
            client.role,
            client.mac,
            client.address,
            client.image,
            read("etc/hostname"),
            read("mark"),
            read("home/pi/mine"),
            read("usr/share/doc/one"),
            read("usr/share/doc/two"),
            read("etc/ssh/ssh_host_ed25519_key.pub").len(),
        ));
    }
    // An import that was cut begins anew by itself.
    if images.is_empty() {
        running.imported();
    }
    let told = running.seen.iter().filter(|event| matches!(event, Event::Damaged { .. } | Event::Problem { .. }));
    assert_eq!(told.collect::<Vec<_>>(), Vec::<&Event>::new(), "{when}");
    running.stop();
    lines
}

fn only_image(store: &Path, known: &[&ImageId]) -> ImageId {
    let names = fs::read_dir(store.join("images")).unwrap().map(|entry| entry.unwrap().file_name());
    let ids = names.filter_map(|name| name.to_str()?.parse::<ImageId>().ok());
    ids.into_iter().find(|id| !known.contains(&id)).unwrap()
}

#[test]
fn whatever_is_cut_is_as_before_or_as_after() {
    let mut stick = Stick::new();
    let image = pi_image(&stick.bench.path(""), "a.img");
    run("xz", &["-0", "-T1", image.to_str().unwrap()]);
    fs::copy(stick.bench.path("a.img.xz"), stick.bench.store().join("a.img.xz")).unwrap();
    stick.cut("import", |stick| {
        let mut running = stick.bench.start_in_folder();
        running.opened();
        running.imported();
        let answered = stick.disk.position();
        running.stop();
        answered
    });
    fs::remove_file(stick.bench.store().join("a.img.xz")).unwrap();
    let first = only_image(&stick.bench.store(), &[]);
    let wanted = client(1, &first);
    stick.cut("enrol", |stick| {
        let mut running = stick.bench.start_in_folder();
        running.opened();
        running.create(&wanted);
        let answered = stick.disk.position();
        running.stop();
        answered
    });
    stick.mark("one");
    let role = Role::numbered(1);
    let name: rootstock::store::states::SnapshotName = "s".parse().unwrap();
    let operate = |stick: &mut Stick, name: &str, operation: Operation| {
        stick.cut(name, |stick| {
            stick.perform(&operation);
            stick.disk.position()
        });
    };
    operate(&mut stick, "snapshot", Operation::Snapshot { role: role.clone(), name: name.clone() });
    stick.mark("two");
    operate(&mut stick, "restore", Operation::Restore { role: role.clone(), name: name.clone() });
    operate(&mut stick, "reset", Operation::Reset { role: role.clone(), new_identity: false });
    stick.mark("three");
    operate(&mut stick, "forget", Operation::ForgetSnapshot { role: role.clone(), name });
    let kitchen: Role = "kitchen".parse().unwrap();
    operate(&mut stick, "rename", Operation::Rename { role, to: kitchen.clone() });
    let board = Board { mac: "dc:a6:32:00:00:77".parse().unwrap(), serial: None, revision: None, model: Model::Pi4B };
    operate(&mut stick, "swap", Operation::Swap { role: kitchen.clone(), board });
    let promote = Operation::Promote { role: kitchen.clone(), snapshot: None, name: "made".to_owned() };
    operate(&mut stick, "promote", promote);
    let made = only_image(&stick.bench.store(), &[&first]);
    let keep = vec!["/home".to_owned()];
    operate(&mut stick, "move", Operation::Move { role: kitchen.clone(), image: made, keep });
    operate(&mut stick, "image remove", Operation::ImageRemove { image: first });
    operate(&mut stick, "delete", Operation::Delete { role: kitchen });
    println!("{} cuts", stick.points);
}
