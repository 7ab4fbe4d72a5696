//! The store as a file of exFAT and FAT32: made by plan on volumes that
//! foreign programs formatted and filled, checked by fsck, read back by
//! mtools and exfat-fuse, cut at every barrier and inside steps.
//!
//! Needs root for loop devices and FUSE.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use rootstock::status::NewPlace;
use rootstock::store::shop::{self, Media, Plan, Refusal, Rule, Step};
use rootstock::store::{Command, Event, Options};
use store_support::*;

const NOW: u64 = 1_795_371_758;
const RULE: Rule = Rule { minimum_bytes: 16 * MIB, wanted_bytes: None };

/// A volume in a sparse file.
struct Volume {
    path: PathBuf,
    file: File,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ExFat,
    Fat,
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    kind: Kind,
    bytes: u64,
    sector: u64,
    cluster: u64,
}

impl Media for Volume {
    fn bytes(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }
}

/// A loop device for as long as it lives.
struct Looped(String);

impl Looped {
    fn new(path: &Path, sector: u64) -> Self {
        let sector = sector.to_string();
        let node = run("losetup", &["--sector-size", &sector, "-f", "--show", path.to_str().unwrap()]);
        run("blockdev", &["--setrw", node.trim()]);
        Self(node.trim().to_owned())
    }
}

impl Drop for Looped {
    fn drop(&mut self) {
        let _ = Process::new("losetup").args(["-d", &self.0]).output();
    }
}

impl Volume {
    fn format(bench: &Bench, shape: Shape) -> Self {
        let path = bench.path("volume");
        let _ = fs::remove_file(&path);
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        file.set_len(shape.bytes).unwrap();
        let (sector, cluster) = (shape.sector.to_string(), shape.cluster.to_string());
        let name = path.to_str().unwrap();
        match shape.kind {
            Kind::ExFat => {
                let device = Looped::new(&path, shape.sector);
                run("mkfs.exfat", &["-c", &cluster, &device.0]);
            }
            Kind::Fat => {
                let sectors = (shape.cluster / shape.sector).to_string();
                run("mkfs.fat", &["-F", "32", "-S", &sector, "-s", &sectors, name]);
            }
        }
        Self { path, file, kind: shape.kind }
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// What the file system's own checker says: its exit code and words.
    fn fsck(&self) -> (i32, String) {
        let tool = if self.kind == Kind::ExFat { "fsck.exfat" } else { "fsck.fat" };
        let output = Process::new(tool).args(["-n", "-v", self.name()]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    }

    fn assert_clean(&self, when: &str) {
        let (code, text) = self.fsck();
        assert_eq!(code, 0, "{when}: {text}");
        for word in ["corrupt", "ERROR", "Dirty", "differ", "Free cluster summary wrong", "Reclaim", "marked as used"] {
            assert!(!text.contains(word), "{when}: {text}");
        }
    }

    /// Runs `work` in a folder in which a foreign driver shows exFAT.
    fn in_folder<T>(&self, bench: &Bench, sector: u64, work: impl FnOnce(&Path) -> T) -> T {
        let device = Looped::new(&self.path, sector);
        let point = bench.path("fuse");
        fs::create_dir_all(&point).unwrap();
        run("mount.exfat-fuse", &[&device.0, point.to_str().unwrap()]);
        let result = work(&point);
        run("umount", &[point.to_str().unwrap()]);
        result
    }

    /// Takes a tree of files over; every path a file.
    fn fill(&self, bench: &Bench, sector: u64, files: &BTreeMap<String, Vec<u8>>) {
        let tree = bench.path("tree");
        let _ = fs::remove_dir_all(&tree);
        for (path, bytes) in files {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        if !tree.exists() {
            return;
        }
        match self.kind {
            Kind::ExFat => self.in_folder(bench, sector, |point| {
                run("cp", &["-r", &format!("{}/.", tree.display()), point.to_str().unwrap()]);
            }),
            Kind::Fat => {
                for entry in fs::read_dir(&tree).unwrap() {
                    run("mcopy", &["-s", "-i", self.name(), entry.unwrap().path().to_str().unwrap(), "::"]);
                }
            }
        }
    }

    fn remove(&self, bench: &Bench, sector: u64, path: &str) {
        match self.kind {
            Kind::ExFat => self.in_folder(bench, sector, |point| fs::remove_file(point.join(path)).unwrap()),
            Kind::Fat => drop(run("mdel", &["-i", self.name(), &format!("::{path}")])),
        }
    }

    /// All files but the store's, as the foreign reader sees them; and the store's sizes.
    fn read_back(&self, bench: &Bench, sector: u64) -> (BTreeMap<String, Vec<u8>>, Vec<u64>) {
        let out = bench.path("out");
        let _ = fs::remove_dir_all(&out);
        match self.kind {
            Kind::ExFat => self.in_folder(bench, sector, |point| collect(point)),
            Kind::Fat => {
                fs::create_dir_all(&out).unwrap();
                run("mcopy", &["-s", "-n", "-m", "-i", self.name(), "::*", out.to_str().unwrap()]);
                collect(&out)
            }
        }
    }

    fn plan(&self, rule: Rule) -> Result<Plan, Refusal> {
        shop::plan(self, rule, NOW)
    }

    /// ext4 in the plan's range, as the appliance makes it.
    fn make_ext4(&self, plan: &Plan) {
        let (offset, kib) = (format!("offset={},nodiscard,lazy_itable_init=1", plan.span.at), plan.span.bytes / 1024);
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "ROOTSTOCK", "-E", &offset, self.name(), &format!("{kib}k")]);
    }

    fn apply(&self, steps: &[Step]) {
        for write in steps.iter().flatten() {
            self.file.write_all_at(&write.bytes, write.at).unwrap();
        }
    }
}

fn collect(folder: &Path) -> (BTreeMap<String, Vec<u8>>, Vec<u64>) {
    let (mut files, mut store) = (BTreeMap::new(), BTreeMap::new());
    let mut pending = vec![folder.to_owned()];
    while let Some(current) = pending.pop() {
        for entry in fs::read_dir(&current).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            } else if path.starts_with(shop::STORE_NAME) {
                store.insert(path, entry.metadata().unwrap().len());
            } else {
                files.insert(path, fs::read(entry.path()).unwrap());
            }
        }
    }
    (files, store.into_values().collect())
}

/// The numbers that a test's seed gives.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Folders, long and short names, empty files, files of many clusters.
fn tree(random: &mut Random, count: u64) -> BTreeMap<String, Vec<u8>> {
    let names = ["A.TXT", "Read me, bitte — später.txt", "photo.jpeg", "x", "2024-11-19-raspios.img.xz"];
    let folders = ["", "DCIM/", "a folder with a long name/", "DCIM/100/"];
    (0..count)
        .map(|number| {
            let name = names[random.below(5) as usize];
            let path = format!("{}{number}-{name}", folders[random.below(4) as usize]);
            let bytes = [0, 1, 511, 5000, 40_000, 300_000][random.below(6) as usize];
            (path, (0..bytes).map(|_| random.next() as u8).collect())
        })
        .collect()
}

const SHAPES: [Shape; 7] = [
    Shape { kind: Kind::ExFat, bytes: 64 * MIB, sector: 512, cluster: 4096 },
    Shape { kind: Kind::ExFat, bytes: 96 * MIB, sector: 512, cluster: 32768 },
    Shape { kind: Kind::ExFat, bytes: 64 * MIB, sector: 512, cluster: 512 },
    Shape { kind: Kind::ExFat, bytes: 128 * MIB, sector: 4096, cluster: 131_072 },
    Shape { kind: Kind::Fat, bytes: 64 * MIB, sector: 512, cluster: 512 },
    Shape { kind: Kind::Fat, bytes: 300 * MIB, sector: 512, cluster: 4096 },
    Shape { kind: Kind::Fat, bytes: 300 * MIB, sector: 4096, cluster: 4096 },
];

/// A volume with files, some removed again so that there are holes.
fn lived_in(bench: &Bench, shape: Shape, seed: u64) -> (Volume, BTreeMap<String, Vec<u8>>) {
    let mut random = Random(seed);
    let volume = Volume::format(bench, shape);
    let mut files = tree(&mut random, 30);
    volume.fill(bench, shape.sector, &files);
    let removed: Vec<String> = files.keys().filter(|_| random.below(4) == 0).take(5).cloned().collect();
    for path in removed {
        volume.remove(bench, shape.sector, &path);
        files.remove(&path);
    }
    (volume, files)
}

fn check_whole(bench: &Bench, volume: &Volume, shape: Shape, plan: &Plan, files: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(shop::find(volume), Ok(Some(plan.span)), "{shape:?}");
    volume.assert_clean(&format!("{shape:?}"));
    let (kept, store) = volume.read_back(bench, shape.sector);
    assert!(kept == *files, "{shape:?}: files were changed");
    assert_eq!(store.iter().sum::<u64>(), plan.span.bytes, "{shape:?}");
}

#[test]
fn a_store_is_made_beside_files_that_stay_and_fsck_finds_nothing() {
    let bench = Bench::new();
    for (shape, seed) in SHAPES.into_iter().zip(1..) {
        let (volume, files) = lived_in(&bench, shape, seed);
        volume.assert_clean("before");
        assert_eq!(shop::find(&volume), Ok(None));
        let plan = volume.plan(RULE).unwrap();
        assert!(plan.span.at.is_multiple_of(4096) && plan.span.bytes >= RULE.minimum_bytes, "{:?}", plan.span);
        volume.make_ext4(&plan);
        volume.assert_clean("ext4 lies in free clusters only");
        volume.apply(&plan.steps);
        check_whole(&bench, &volume, shape, &plan, &files);
    }
}

/// A stick whose one partition, or all of it, is this volume.
fn stick(bench: &Bench, volume: &Volume, name: &str, table: bool) -> LoopDisk {
    let file = bench.path(name);
    let start = if table { MIB } else { 0 };
    let bytes = volume.bytes();
    drop(disk(&file, start + bytes, ""));
    if table {
        let script = bench.path("table");
        fs::write(&script, format!("label: dos\nstart=2048, size={}, type=7\n", bytes / 512)).unwrap();
        run("sh", &["-c", &format!("sfdisk -q {} < {}", file.display(), script.display())]);
    }
    let seek = format!("seek={}", start / MIB);
    let (from, to) = (format!("if={}", volume.name()), format!("of={}", file.display()));
    run("dd", &[&from, &to, "bs=1M", &seek, "conv=notrunc,sparse", "status=none"]);
    LoopDisk::attach(&file)
}

/// The volume as it lies on the stick now.
fn volume_of(bench: &Bench, stick: &LoopDisk, kind: Kind, table: bool) -> Volume {
    let path = bench.path("volume");
    let skip = format!("skip={}", u64::from(table));
    let (from, to) = (format!("if={}", stick.file.display()), format!("of={}", path.display()));
    run("dd", &[&from, &to, "bs=1M", &skip, "conv=sparse", "status=none"]);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    Volume { path, file, kind }
}

#[test]
fn a_stick_from_the_shop_serves_after_one_press_and_again_after_a_restart() {
    for (kind, table) in [(Kind::ExFat, true), (Kind::ExFat, false), (Kind::Fat, true), (Kind::Fat, false)] {
        let bench = Bench::new();
        let shape = Shape { kind, bytes: 300 * MIB, sector: 512, cluster: 4096 };
        let (volume, files) = lived_in(&bench, shape, 11);
        let shop = stick(&bench, &volume, "stick", table);
        // This kernel reads neither file system: the image comes from a second stick.
        let second = disk(&bench.path("second"), 64 * MIB, "");
        run("mke2fs", &["-q", "-t", "ext4", second.node.to_str().unwrap()]);
        let point = bench.path("mounted");
        fs::create_dir(&point).unwrap();
        run("mount", &[second.node.to_str().unwrap(), point.to_str().unwrap()]);
        pi_image(&point, "a.img");
        run("umount", &[point.to_str().unwrap()]);

        let options = Options {
            extra_devices: vec![shop.name(), second.name()],
            minimum_store_bytes: 64 * MIB,
            ..bench.options()
        };
        let mut running = Running::start(options.clone());
        let (free_bytes, place) = running.wait("NeedsConfirmation", |event| match event {
            Event::NeedsConfirmation { free_bytes, place, .. } => Some((*free_bytes, *place)),
            _ => None,
        });
        assert!(place == NewPlace::File && (200 * MIB..280 * MIB).contains(&free_bytes), "{place:?} {free_bytes}");
        running.send(Command::Prepare);
        running.opened();
        let image = running.imported().id;
        let open = running.create(&client(1, &image));
        fs::write(open.root.join("kept"), "kept").unwrap();
        running.stop();

        let volume = volume_of(&bench, &shop, kind, table);
        let span = shop::find(&volume).unwrap().unwrap();
        let plan = Plan { span, steps: Vec::new() };
        check_whole(&bench, &volume, shape, &plan, &files);
        let mut running = Running::start(options);
        let (_, clients) = running.opened();
        assert_eq!(clients, [open.clone()]);
        assert_eq!(fs::read_to_string(open.root.join("kept")).unwrap(), "kept");
        running.stop();
    }
}

#[test]
fn without_the_wish_to_write_nothing_is_offered() {
    let bench = Bench::new();
    let volume = Volume::format(&bench, SHAPES[1]);
    let shop = stick(&bench, &volume, "stick", true);
    let before = fs::read(&shop.file).unwrap();
    let options = Options {
        extra_devices: vec![shop.name()],
        minimum_store_bytes: 32 * MIB,
        make_store: false,
        ..bench.options()
    };
    let mut running = Running::start(options);
    let message = running.wait("StickUnusable", |event| match event {
        Event::StickUnusable { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert!(message.contains("store.write is false"), "{message}");
    running.send(Command::Prepare);
    running.wait("Problem", |event| matches!(event, Event::Problem { .. }).then_some(()));
    running.stop();
    assert!(fs::read(&shop.file).unwrap() == before, "the stick was written");
}
