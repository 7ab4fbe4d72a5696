//! The store as a file of exFAT and FAT32: made by plan on volumes that
//! foreign programs formatted and filled, checked by fsck, read back by
//! mtools and exfat-fuse, cut at every barrier and inside steps (`ROOTSTOCK_SEEDS=100`: a hundred times as often).
//!
//! Needs root for loop devices and FUSE.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use rootstock::status::NewPlace;
use rootstock::store::operate::{Operation, Outcome};
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
        unmount(&point);
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
            Kind::ExFat => self.in_folder(bench, sector, collect),
            Kind::Fat => {
                fs::create_dir_all(&out).unwrap();
                let (mut sizes, listed) = (Vec::new(), run("mdir", &["-b", "-i", self.name(), "::"]));
                for path in listed.lines() {
                    match path.strip_prefix("::/") {
                        Some(name) if name.starts_with(shop::STORE_NAME) => sizes = self.parts(),
                        _ => drop(run("mcopy", &["-s", "-n", "-m", "-i", self.name(), path, out.to_str().unwrap()])),
                    }
                }
                (collect(&out).0, sizes)
            }
        }
    }

    /// The sizes of the store's parts on FAT32, as mtools lists them.
    fn parts(&self) -> Vec<u64> {
        let listed = run("mdir", &["-i", self.name(), &format!("::/{}", shop::STORE_NAME)]);
        let part = |line: &str| line.strip_prefix("part-")?.split_whitespace().nth(2)?.parse().ok();
        listed.lines().filter_map(part).collect()
    }

    /// Bytes that a foreign reader counts as free.
    fn free_bytes(&self, bench: &Bench, sector: u64) -> u64 {
        match self.kind {
            Kind::ExFat => self.in_folder(bench, sector, |point| {
                let vfs = rustix::fs::statvfs(point).unwrap();
                vfs.f_bfree * vfs.f_frsize
            }),
            Kind::Fat => {
                let (_, text) = self.fsck();
                let counts = text.lines().last().and_then(|line| line.split(", ").nth(1)?.split_once(' '));
                let (used, all) = counts.and_then(|(counts, _)| counts.split_once('/')).unwrap();
                let cluster = text.lines().find(|line| line.contains("bytes per cluster")).unwrap();
                let cluster: u64 = cluster.split_whitespace().next().unwrap().parse().unwrap();
                (all.parse::<u64>().unwrap() - used.parse::<u64>().unwrap()) * cluster
            }
        }
    }

    fn copy(&self, bench: &Bench) -> Self {
        let path = bench.path("copy");
        run("cp", &["--sparse=always", self.name(), path.to_str().unwrap()]);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        Self { path, file, kind: self.kind }
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
        unmount(&point);

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
        let open = running.prepare_with_client();
        running.stop();

        let volume = volume_of(&bench, &shop, kind, table);
        let span = shop::find(&volume).unwrap().unwrap();
        let plan = Plan { span, steps: Vec::new() };
        check_whole(&bench, &volume, shape, &plan, &files);
        // Commands find it there without a server, and leave a server's alone.
        let (listed, _) = list_clients(&shop.node);
        assert!(listed.contains("\"pi-1\""), "{listed}");
        let mut running = Running::start(options);
        let (_, clients) = running.opened();
        assert_eq!(clients, std::slice::from_ref(&open));
        let (listed, refused) = list_clients(&shop.node);
        assert!(listed.is_empty() && refused.contains("is being worked on by another rootstock"), "{refused}");
        assert_eq!(fs::read_to_string(open.root.join("kept")).unwrap(), "kept");
        running.stop();
    }
}

fn list_clients(stick: &Path) -> (String, String) {
    let mut command = Process::new(env!("CARGO_BIN_EXE_rootstock"));
    let output = command.args(["client", "list", "--json", "--store"]).arg(stick).output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn without_the_wish_to_write_clients_live_in_memory_and_the_stick_stays_as_it_is() {
    let bench = Bench::new();
    // ext4 stands for a file system that this kernel reads.
    let shop = disk(&bench.path("stick"), 200 * MIB, "");
    run("mke2fs", &["-q", "-t", "ext4", shop.node.to_str().unwrap()]);
    let point = bench.path("mounted");
    fs::create_dir(&point).unwrap();
    run("mount", &[shop.node.to_str().unwrap(), point.to_str().unwrap()]);
    pi_image(&point, "a.img");
    unmount(&point);
    let before = fs::read(&shop.file).unwrap();
    let options = |bytes| Options {
        extra_devices: vec![shop.name()],
        minimum_store_bytes: 32 * MIB,
        make_store: false,
        memory_bytes: Some(bytes),
        ..bench.options()
    };
    let mut running = Running::start(options(128 * MIB));
    running.opened();
    let told = running.wait("NotKept", |event| match event {
        Event::NotKept { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert!(told.contains("Nothing is kept") && told.contains("128 MiB"), "{told}");
    running.send(Command::Prepare);
    let image = running.imported().id;
    // The root of an uncompressed image stays where it is, and takes no memory.
    assert_eq!(root_blocks(&bench, image.as_str()), 0);
    let open = running.create(&client(1, &image));
    // It is listed and compared with its hashes like any other.
    for first in [true, false] {
        running.send(Command::Operate(1, Box::new(Operation::Verify { image: None })));
        let checked = running.wait("Operated", |event| match event {
            Event::Operated { result, .. } => Some(result.clone().unwrap()),
            _ => None,
        });
        let Outcome::Checked(checked) = *checked else { panic!("{checked:?}") };
        assert!(checked.len() == 1 && checked[0].first == first && checked[0].damaged.is_empty(), "{checked:?}");
        assert!(checked[0].bytes > ROOT_BYTES, "{checked:?}");
    }
    let noise = open.root.join("usr/share/doc/noise");
    assert_eq!(fs::read(&noise).unwrap().len() as u64, MIB);
    fs::write(&noise, "in memory").unwrap();
    fs::write(open.root.join("gone"), "gone").unwrap();
    // It is bounded: a client cannot take the machine's memory.
    let filled = fs::write(open.root.join("large"), vec![1; 200 << 20]).unwrap_err();
    assert_eq!(filled.kind(), io::ErrorKind::StorageFull);
    running.stop();
    assert!(!bench.path("run/memory/store.ext4").exists());

    let mut running = Running::start(options(128 * MIB));
    assert_eq!(running.opened().1, []);
    running.imported();
    shop.pull();
    running.wait("Closed", |event| matches!(event, Event::Closed { .. }).then_some(()));
    running.stop();
    shop_again(&shop, &before);
    // What does not fit is refused with the figure.
    let mut running = Running::start(options(20 * MIB));
    let said = running.import_failed();
    assert!(said.contains("MiB"), "{said}");
    running.stop();
    assert!(fs::read(&shop.file).unwrap() == before, "the stick was written");

    // A packed image is unpacked into the memory.
    run("mount", &[shop.node.to_str().unwrap(), point.to_str().unwrap()]);
    run("gzip", &[point.join("a.img").to_str().unwrap()]);
    unmount(&point);
    let mut running = Running::start(options(128 * MIB));
    running.opened();
    let packed = running.imported().id;
    assert!(root_blocks(&bench, packed.as_str()) > 0);
    running.stop();
}

fn root_blocks(bench: &Bench, image: &str) -> u64 {
    fs::metadata(bench.path("run/store/images").join(image).join("root.ext4")).unwrap().blocks()
}

/// Puts the medium back with what was on it.
fn shop_again(stick: &LoopDisk, bytes: &[u8]) {
    fs::write(&stick.file, bytes).unwrap();
    run("losetup", &["-c", stick.node.to_str().unwrap()]);
}

/// What each checker may say of a volume that was cut: marks, counts, and
/// clusters that nobody owns. Anything about a file or a folder is a fault.
fn assert_only_leaks(volume: &Volume, when: &str) {
    let (code, text) = volume.fsck();
    assert!(code <= 1, "{when}: {text}");
    for word in ["corrupt file", "ERROR", "Start does point", "Bad", "orphaned", "share clusters", "Renam", "truncat"] {
        assert!(!text.contains(word), "{when}: {text}");
    }
}

#[test]
fn a_cut_at_any_barrier_or_inside_a_step_leaks_at_most_and_the_next_attempt_takes_it_back() {
    let bench = Bench::new();
    let seeds: u64 = std::env::var("ROOTSTOCK_SEEDS").ok().map_or(1, |seeds| seeds.parse().expect("a number"));
    let mut points = 0;
    // Each barrier and each torn step is some 25 cuts a shape; more seeds are other files, and other sectors of a step.
    for (shape, seed) in [SHAPES[0], SHAPES[2], SHAPES[4]].into_iter().cycle().zip(21..21 + 3 * seeds) {
        let (volume, files) = lived_in(&bench, shape, seed);
        let plan = volume.plan(RULE).unwrap();
        volume.make_ext4(&plan);
        let whole = volume.copy(&bench);
        whole.apply(&plan.steps);
        let free_bytes = whole.free_bytes(&bench, shape.sector);
        let mut random = Random(seed);
        // Every barrier; then steps of which the stick took any sectors it liked.
        let torn = (0..plan.steps.len()).flat_map(|step| [(step, 1), (step, 2)]);
        for (done, share) in (0..=plan.steps.len()).map(|done| (done, 0)).chain(torn) {
            let when = format!("{shape:?}, {done} steps of {} and {share}/3", plan.steps.len());
            let cut = volume.copy(&bench);
            cut.apply(&plan.steps[..done]);
            if share > 0 {
                tear(&cut, &plan.steps[done], share, &mut random);
            }
            points += 1;
            assert_only_leaks(&cut, &when);
            let found = shop::find(&cut).unwrap_or_else(|refusal| panic!("{when}: {refusal}"));
            if let Some(span) = found {
                assert_eq!(span, plan.span, "{when}");
                assert!(cut.read_back(&bench, shape.sector).0 == files, "{when}: files were changed");
                continue;
            }
            assert_eq!(shop::offer(&cut, RULE), shop::offer(&volume, RULE), "{when}");
            // Another size than the first attempt's, so that not everything is overwritten alike.
            let rule = if share == 1 { RULE } else { Rule { wanted_bytes: Some(20 * MIB), ..RULE } };
            let again = cut.plan(rule).unwrap_or_else(|refusal| panic!("{when}: {refusal}"));
            cut.make_ext4(&again);
            cut.apply(&again.steps);
            check_whole(&bench, &cut, shape, &again, &files);
            let expected = free_bytes + plan.span.bytes - again.span.bytes;
            assert_eq!(cut.free_bytes(&bench, shape.sector), expected, "{when}: clusters stay lost");
        }
    }
    println!("{points} cuts");
}

/// Writes about `share` thirds of the step's sectors.
fn tear(volume: &Volume, step: &Step, share: u64, random: &mut Random) {
    for write in step {
        let (mut at, mut bytes) = (write.at, write.bytes.as_slice());
        while !bytes.is_empty() {
            let (sector, rest) = bytes.split_at(bytes.len().min((512 - at % 512) as usize));
            if random.below(3) < share {
                volume.file.write_all_at(sector, at).unwrap();
            }
            at += sector.len() as u64;
            bytes = rest;
        }
    }
}

#[test]
fn a_full_root_directory_grows_by_a_cluster() {
    let bench = Bench::new();
    for (shape, count) in [(SHAPES[2], 4), (SHAPES[4], 16)] {
        let volume = Volume::format(&bench, shape);
        let files: BTreeMap<String, Vec<u8>> = (0..count).map(|n| (format!("F{n}"), vec![n; 700])).collect();
        volume.fill(&bench, shape.sector, &files);
        let plan = volume.plan(RULE).unwrap();
        volume.make_ext4(&plan);
        assert!(plan.steps.len() >= 7, "the directory was not full: {} steps", plan.steps.len());
        for step in &plan.steps {
            assert_only_leaks(&volume, "while the directory grows");
            volume.apply(std::slice::from_ref(step));
        }
        check_whole(&bench, &volume, shape, &plan, &files);
    }
}

#[test]
fn a_store_above_four_gib_is_several_files_on_fat32() {
    let bench = Bench::new();
    let volume = Volume::format(&bench, Shape { kind: Kind::Fat, bytes: 12 << 30, sector: 512, cluster: 32768 });
    let plan = volume.plan(RULE).unwrap();
    volume.make_ext4(&plan);
    volume.apply(&plan.steps);
    assert_eq!(shop::find(&volume), Ok(Some(plan.span)));
    volume.assert_clean("three parts");
    let parts = volume.parts();
    assert_eq!(parts[..2], [(4u64 << 30) - 32768; 2]);
    assert_eq!((parts.len(), parts.iter().sum::<u64>()), (3, plan.span.bytes));
}

#[test]
fn too_little_room_is_told_with_its_figures() {
    let bench = Bench::new();
    let volume = Volume::format(&bench, SHAPES[0]);
    let rule = Rule { minimum_bytes: 1 << 30, wanted_bytes: None };
    let said = volume.plan(rule).unwrap_err().to_string();
    assert!(said.contains("61 MiB free in one piece") && said.contains("1024 MiB are needed"), "{said}");
    assert_eq!(shop::offer(&volume, rule), volume.plan(rule).map(|plan| plan.span.bytes));
}

#[test]
fn an_exfat_entry_is_what_a_foreign_driver_writes() {
    let bench = Bench::new();
    // Attributes, name length and hash, and the name: all that is not the file's own.
    let entry = |volume: &Volume| {
        let bytes = fs::read(&volume.path).unwrap();
        let name: Vec<u8> = "rootstock.store".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let at = bytes.windows(name.len()).position(|window| window == name).unwrap() - 66;
        let set = &bytes[at..at + 96];
        (set[..2].to_vec(), set[4..6].to_vec(), set[32], set[35..38].to_vec(), set[64..].to_vec())
    };
    let theirs = Volume::format(&bench, SHAPES[0]);
    theirs.in_folder(&bench, 512, |point| fs::write(point.join("rootstock.store"), vec![1; 9000]).unwrap());
    let theirs = entry(&theirs);
    let ours = Volume::format(&bench, SHAPES[0]);
    let plan = ours.plan(RULE).unwrap();
    ours.apply(&plan.steps);
    assert_eq!(entry(&ours), theirs);
}

/// A store as it was made, for what a laptop may do to it.
fn with_store(bench: &Bench, shape: Shape) -> (Volume, Plan) {
    let volume = Volume::format(bench, shape);
    let plan = volume.plan(Rule { wanted_bytes: Some(20 * MIB), ..RULE }).unwrap();
    volume.make_ext4(&plan);
    volume.apply(&plan.steps);
    (volume, plan)
}

#[test]
fn a_store_that_a_laptop_copied_back_is_found_and_one_in_pieces_or_cut_is_refused() {
    let bench = Bench::new();
    let (volume, plan) = with_store(&bench, SHAPES[0]);
    let backup = bench.path("backup");
    volume.in_folder(&bench, 512, |point| {
        fs::copy(point.join("rootstock.store"), &backup).unwrap();
        fs::remove_file(point.join("rootstock.store")).unwrap();
    });
    assert_eq!(shop::find(&volume), Ok(None));
    volume.in_folder(&bench, 512, |point| assert!(fs::copy(&backup, point.join("Rootstock.Store")).is_ok()));
    assert_eq!(shop::find(&volume).unwrap().unwrap().bytes, plan.span.bytes);

    // Holes of one cluster each, and nothing else free.
    let volume = Volume::format(&bench, SHAPES[1]);
    volume.in_folder(&bench, 512, |point| {
        let full = (0..).find(|n| fs::write(point.join(format!("{n}")), vec![0; 131_072]).is_err()).unwrap();
        for n in (0..full).step_by(2) {
            fs::remove_file(point.join(format!("{n}"))).unwrap();
        }
    });
    let copied = volume.in_folder(&bench, 512, |point| fs::copy(&backup, point.join("rootstock.store")));
    copied.unwrap();
    assert!(matches!(shop::find(&volume), Err(Refusal::Fragmented(2..))), "{:?}", shop::find(&volume));

    let (volume, _) = with_store(&bench, SHAPES[0]);
    volume.in_folder(&bench, 512, |point| {
        let file = File::options().write(true).open(point.join("rootstock.store")).unwrap();
        file.set_len(10 * MIB).unwrap();
    });
    assert!(matches!(shop::find(&volume), Err(Refusal::Cut { .. })), "{:?}", shop::find(&volume));

    let volume = Volume::format(&bench, SHAPES[0]);
    volume.in_folder(&bench, 512, |point| fs::write(point.join("rootstock.store"), "my own notes").unwrap());
    assert_eq!(shop::find(&volume), Err(Refusal::NotAStore));
    let volume = Volume::format(&bench, SHAPES[0]);
    volume.in_folder(&bench, 512, |point| {
        fs::create_dir(point.join("backups")).unwrap();
        fs::write(point.join("backups/rootstock.store"), "x").unwrap();
    });
    assert_eq!(volume.plan(RULE), Err(Refusal::Elsewhere));
}

#[test]
fn a_fat32_store_that_was_copied_back_is_found_also_as_one_file() {
    let bench = Bench::new();
    let (volume, plan) = with_store(&bench, SHAPES[5]);
    let (out, name) = (bench.path("backup"), format!("::/{}", shop::STORE_NAME));
    fs::create_dir(&out).unwrap();
    run("mcopy", &["-s", "-i", volume.name(), &name, out.to_str().unwrap()]);
    run("mdeltree", &["-i", volume.name(), &name]);
    assert_eq!(shop::find(&volume), Ok(None));
    let folder = out.join(shop::STORE_NAME);
    run("mcopy", &["-s", "-i", volume.name(), folder.to_str().unwrap(), "::"]);
    assert_eq!(shop::find(&volume).unwrap().unwrap().bytes, plan.span.bytes);
    run("mdeltree", &["-i", volume.name(), &name]);
    let file = folder.join("part-001.bin");
    run("mcopy", &["-i", volume.name(), file.to_str().unwrap(), &name]);
    assert_eq!(shop::find(&volume).unwrap().unwrap().bytes, plan.span.bytes);
}

#[test]
fn fat16_is_refused_by_name() {
    let bench = Bench::new();
    let volume = Volume::format(&bench, SHAPES[5]);
    run("mkfs.fat", &["-F", "16", volume.name()]);
    assert!(volume.plan(RULE).unwrap_err().to_string().contains("FAT16"));
}

/// A volume in memory, for bytes that no formatter writes.
#[derive(Clone)]
struct Memory(Vec<u8>);

impl Media for Memory {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        buffer.copy_from_slice(self.0.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Memory {
    /// exFAT's boot checksum, so that a lie in the boot sector is believed.
    fn sign(&mut self) {
        let sum = self.0[..11 * 512].iter().enumerate().filter(|(index, _)| ![106, 107, 112].contains(index));
        let sum = sum.fold(0u32, |sum, (_, &byte)| sum.rotate_right(1).wrapping_add(byte.into()));
        self.0[11 * 512..12 * 512].chunks_exact_mut(4).for_each(|word| word.copy_from_slice(&sum.to_le_bytes()));
    }
}

#[test]
fn a_hostile_boot_sector_or_chain_is_refused() {
    let bench = Bench::new();
    let (exfat, fat) = (SHAPES[0], Shape { cluster: 2048, bytes: 160 * MIB, ..SHAPES[4] });
    let memory = |shape: Shape| {
        let volume = Volume::format(&bench, shape);
        let files = ["A", "B"].map(|name| (name.to_owned(), vec![1; 5000]));
        volume.fill(&bench, shape.sector, &BTreeMap::from(files));
        Memory(fs::read(&volume.path).unwrap())
    };
    let (on_exfat, on_fat) = (memory(exfat), memory(fat));
    let check = |shape: Shape, patches: &[(usize, &[u8])], expected: &str| {
        let mut memory = if shape.kind == Kind::ExFat { on_exfat.clone() } else { on_fat.clone() };
        for (at, bytes) in patches {
            memory.0[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        if shape.kind == Kind::ExFat {
            memory.sign();
        }
        let said = shop::plan(&memory, RULE, NOW).map(|plan| plan.span).unwrap_err().to_string();
        assert!(said.contains(expected), "{patches:?}: {said:?}");
        let _ = (shop::find(&memory), shop::offer(&memory, RULE));
    };
    let table = 32 * 512;
    let huge = u32::MAX.to_le_bytes();
    check(exfat, &[(92, &huge)], "boot sector");
    check(exfat, &[(88, &[0; 4])], "boot sector");
    check(exfat, &[(108, &[0])], "boot sector");
    check(exfat, &[(108, &[255])], "boot sector");
    check(exfat, &[(109, &[40])], "boot sector");
    check(exfat, &[(96, &huge)], "breaks off");
    check(exfat, &[(96, &[0; 4])], "breaks off");
    check(exfat, &[(110, &[2])], "kind of exFAT");
    check(exfat, &[(106, &[4])], "failing");
    check(fat, &[(13, &[0])], "boot sector");
    check(fat, &[(13, &[3])], "boot sector");
    check(fat, &[(11, &[0, 0])], "boot sector");
    check(fat, &[(32, &huge)], "boot sector");
    check(fat, &[(36, &huge)], "boot sector");
    check(fat, &[(36, &[1, 0, 0, 0])], "boot sector");
    check(fat, &[(44, &huge)], "breaks off");
    // The root directory's chain: to itself, to a free cluster, to nowhere.
    check(fat, &[(table + 8, &[2, 0, 0, 0])], "entries in one folder");
    check(fat, &[(table + 8, &[0xff, 0xff, 0, 0])], "breaks off");
    check(fat, &[(table + 8, &[0xff, 0xff, 0xff, 0])], "breaks off");
}

#[test]
fn a_fat_with_cross_linked_clusters_or_looping_chains_is_one_message_and_not_written() {
    let bench = Bench::new();
    let shape = Shape { cluster: 2048, bytes: 160 * MIB, ..SHAPES[4] };
    let volume = Volume::format(&bench, shape);
    let files = ["A", "B"].map(|name| (name.to_owned(), vec![1; 5000]));
    volume.fill(&bench, shape.sector, &BTreeMap::from(files));
    let whole = Memory(fs::read(&volume.path).unwrap());
    let bytes = &whole.0;
    let number = |at: usize| bytes[at] as usize | (bytes[at + 1] as usize) << 8;
    let table = number(14) * 512;
    let root = table + 2 * number(36) * 512;
    let slots = (root..root + 2048).step_by(32);
    let files: Vec<usize> =
        slots.filter(|at| bytes[at + 11] == 0x20 && bytes[*at] != 0xe5 && bytes[at + 26] > 0).collect();
    let (one, two) = (number(files[0] + 26), number(files[1] + 26));
    let chain = |cluster: usize| table + 4 * cluster;
    let check = |what: &str, at: usize, value: usize| {
        let mut memory = whole.clone();
        // The upper half of an end of chain would stay; that of a slot is in another place.
        let bytes = if at < root { 4 } else { 2 };
        memory.0[at..at + bytes].copy_from_slice(&(value as u32).to_le_bytes()[..bytes]);
        let said = shop::plan(&memory, RULE, NOW).map(|plan| plan.span).unwrap_err().to_string();
        assert!(said.contains("claim the same cluster"), "{what}: {said:?}");
        assert!(!matches!(shop::find(&memory), Ok(Some(_))), "{what}");
    };
    assert!(shop::plan(&whole, RULE, NOW).is_ok());
    check("two files with one beginning", files[1] + 26, one);
    check("a file that goes on in another one's", chain(one), two + 1);
    check("a file that goes round in its first cluster", chain(one), one);
    check("a file that goes round", chain(one + 2), one);
    // A folder in the root's own cluster: for a reader that follows it there is no end.
    let mut memory = whole.clone();
    (memory.0[files[0] + 11], memory.0[files[0] + 26]) = (0x10, 2);
    let said = shop::plan(&memory, RULE, NOW).map(|plan| plan.span).unwrap_err().to_string();
    assert!(said.contains("claim the same cluster"), "{said:?}");
}

#[test]
fn ten_thousand_files_on_a_stick_stay_and_a_store_is_made_beside_them() {
    let bench = Bench::new();
    for shape in [SHAPES[0], Shape { cluster: 2048, bytes: 160 * MIB, ..SHAPES[4] }] {
        let volume = Volume::format(&bench, shape);
        let files: BTreeMap<String, Vec<u8>> =
            (0..10_000).map(|n| (format!("many/{n}.txt"), n.to_string().into_bytes())).collect();
        volume.fill(&bench, shape.sector, &files);
        let plan = volume.plan(RULE).unwrap();
        volume.make_ext4(&plan);
        volume.apply(&plan.steps);
        check_whole(&bench, &volume, shape, &plan, &files);
    }
}

#[test]
fn a_volume_with_random_damage_never_panics_and_a_plan_stays_inside() {
    let bench = Bench::new();
    for (shape, seed) in [SHAPES[0], SHAPES[4]].into_iter().zip(31..) {
        let (volume, _) = lived_in(&bench, shape, seed);
        let whole = Memory(fs::read(&volume.path).unwrap());
        let mut memory = whole.clone();
        let mut random = Random(seed);
        // Where there is something to damage: the sectors that are not empty.
        let places: Vec<usize> =
            (0..whole.0.len()).step_by(512).filter(|&at| whole.0[at..at + 512].iter().any(|&byte| byte != 0)).collect();
        for _ in 0..100 {
            let mut changed = Vec::new();
            for _ in 0..=random.below(6) {
                let sector = if random.below(4) == 0 { 0 } else { places[random.below(places.len() as u64) as usize] };
                let at = sector + random.below(512) as usize;
                memory.0[at] = [0, 0xff, 0xe5, random.next() as u8][random.below(4) as usize];
                changed.push(at);
            }
            if shape.kind == Kind::ExFat && random.below(2) == 0 {
                memory.sign();
            }
            let _ = (shop::find(&memory), shop::offer(&memory, RULE));
            if let Ok(plan) = shop::plan(&memory, RULE, random.next()) {
                let inside = |at: u64, bytes: u64| at.checked_add(bytes).is_some_and(|end| end <= memory.bytes());
                assert!(inside(plan.span.at, plan.span.bytes));
                for write in plan.steps.iter().flatten() {
                    assert!(inside(write.at, write.bytes.len() as u64));
                    let apart = write.at >= plan.span.at + plan.span.bytes
                        || write.at + write.bytes.len() as u64 <= plan.span.at;
                    assert!(apart, "the file system and ext4 share bytes");
                }
            }
            memory.0[..12 * 512].copy_from_slice(&whole.0[..12 * 512]);
            for at in changed {
                memory.0[at] = whole.0[at];
            }
        }
    }
}
