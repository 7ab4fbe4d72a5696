//! Power cuts: whatever was answered as stable is on the stick, at whichever moment
//! the power goes.
//!
//! The clients' changes lie on a disk that records every write and flush (`nfs_lab::disk`).
//! A cut at a moment is: all writes up to the last flush before it, and of those after it
//! any. From such a disk the tree is mounted again, and must be the model's at that
//! moment; of the one operation that was running then, anything is allowed.
//!
//! `ROOTSTOCK_SEEDS=100` runs more seeds than the few of a plain test: `just soak`.
//! Needs root, loop devices, ext4, overlayfs and FUSE (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;
#[path = "support/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nfs_lab::disk::after_cut;
use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::*;
use random::Random;

const OPERATIONS: usize = 60;
const CUTS: usize = 10;
const DIRECTORIES: [&str; 2] = ["", "d"];

/// What must be at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Node {
    Directory,
    Symlink,
    /// The content, unless some of it was answered as UNSTABLE only.
    File {
        id: usize,
        mode: u32,
    },
}

#[derive(Clone, Default)]
struct Model {
    nodes: BTreeMap<String, Node>,
    /// By id; `None` while data of it is not known to be stable.
    contents: Vec<Option<Vec<u8>>>,
}

/// The model behind each operation, the disk's position when it was answered, and the paths it touched.
struct Step {
    model: Model,
    answered: usize,
    touched: Vec<String>,
}

struct Run {
    client: Client,
    directories: Vec<nfs_fh3>,
    handles: Vec<nfs_fh3>,
    live: Vec<Vec<u8>>,
    model: Model,
    random: Random,
}

impl Run {
    fn path(&mut self) -> (usize, String, String) {
        let (dir, n) = (self.random.below(2) as usize, self.random.below(5));
        let name = format!("n{n}");
        let path = Path::new(DIRECTORIES[dir]).join(&name);
        (dir, name, path.to_str().unwrap().to_owned())
    }

    fn file(&mut self) -> Option<(String, usize)> {
        let files = self.model.nodes.iter().filter_map(|(path, node)| match node {
            Node::File { id, .. } => Some((path.clone(), *id)),
            _ => None,
        });
        let files: Vec<_> = files.collect();
        (!files.is_empty()).then(|| files[self.random.below(files.len() as u64) as usize].clone())
    }

    /// All names of one file.
    fn names(&self, file: usize) -> Vec<String> {
        let of = |node: &Node| matches!(node, Node::File { id, .. } if *id == file);
        self.model.nodes.iter().filter(|(_, node)| of(node)).map(|(path, _)| path.clone()).collect()
    }

    /// One operation; the paths it touched.
    fn step(&mut self) -> Vec<String> {
        let (dir, name, path) = self.path();
        let directory = self.directories[dir].clone();
        let free = !self.model.nodes.contains_key(&path);
        match self.random.below(12) {
            0 | 1 if free => {
                let verifier = createverf3(self.random.next().to_be_bytes());
                let (new, bits) = match self.random.below(2) {
                    0 => (createhow3::GUARDED(mode(0o640)), 0o640),
                    _ => (createhow3::EXCLUSIVE(verifier), 0o600),
                };
                self.handles.push(handle(self.client.create(&directory, &name, new).unwrap().obj));
                self.live.push(Vec::new());
                self.model.nodes.insert(path.clone(), Node::File { id: self.model.contents.len(), mode: bits });
                self.model.contents.push(Some(Vec::new()));
                vec![path]
            }
            2 if free => {
                self.client.mkdir(&directory, &name).unwrap();
                self.model.nodes.insert(path.clone(), Node::Directory);
                vec![path]
            }
            3 if free => {
                let symlink_data = b"to".to_vec().into();
                let symlink = symlinkdata3 { symlink_attributes: sattr3::default(), symlink_data };
                let args = SYMLINK3args { where_: at(&directory, &name), symlink };
                self.client.call::<SYMLINK3res>(NFS_PROGRAM::NFSPROC3_SYMLINK, &args).unwrap();
                self.model.nodes.insert(path.clone(), Node::Symlink);
                vec![path]
            }
            4 if free => {
                let Some((other, id)) = self.file() else { return Vec::new() };
                self.client.link(&self.handles[id].clone(), &directory, &name).unwrap();
                let node = self.model.nodes[&other].clone();
                self.model.nodes.insert(path.clone(), node);
                self.names(id)
            }
            5 => {
                let touched = match self.model.nodes.get(&path) {
                    Some(Node::File { id, .. }) => self.names(*id),
                    _ => vec![path.clone()],
                };
                match self.model.nodes.get(&path) {
                    None => return Vec::new(),
                    Some(Node::Directory) => drop(self.client.rmdir(&directory, &name).unwrap()),
                    Some(_) => drop(self.client.remove(&directory, &name).unwrap()),
                }
                self.model.nodes.remove(&path);
                touched
            }
            6 | 7 if free => {
                let Some((from, id)) = self.file() else { return Vec::new() };
                let (above, old) = from.rsplit_once('/').unwrap_or(("", &from));
                let above = DIRECTORIES.iter().position(|name| *name == above).unwrap();
                let above = self.directories[above].clone();
                self.client.rename(&above, old, &directory, &name).unwrap();
                let node = self.model.nodes.remove(&from).unwrap();
                self.model.nodes.insert(path.clone(), node);
                [vec![from], self.names(id)].concat()
            }
            8 => {
                let Some((_, id)) = self.file() else { return Vec::new() };
                let bits = 0o600 | self.random.below(0o100) as u32;
                self.client.setattr(&self.handles[id].clone(), mode(bits)).unwrap();
                let names = self.names(id);
                for name in &names {
                    self.model.nodes.insert(name.clone(), Node::File { id, mode: bits });
                }
                names
            }
            9 => {
                let Some((_, id)) = self.file() else { return Vec::new() };
                self.client.commit(&self.handles[id].clone()).unwrap();
                self.model.contents[id] = Some(self.live[id].clone());
                self.names(id)
            }
            _ => {
                let Some((_, id)) = self.file() else { return Vec::new() };
                let (offset, length) = (self.random.below(20_000) as usize, 1 + self.random.below(9000) as usize);
                let data = vec![1 + (self.random.next() % 255) as u8; length];
                let stable = [stable_how::UNSTABLE, stable_how::DATA_SYNC, stable_how::FILE_SYNC];
                let stable = stable[self.random.below(3) as usize];
                self.client.write(&self.handles[id].clone(), offset as u64, &data, stable).unwrap();
                let live = &mut self.live[id];
                live.resize(live.len().max(offset + length), 0);
                live[offset..offset + length].copy_from_slice(&data);
                // A stable write says nothing of an unstable one before it.
                self.model.contents[id] = match (stable, self.model.contents[id].is_some()) {
                    (stable_how::UNSTABLE, _) | (_, false) => None,
                    _ => Some(live.clone()),
                };
                self.names(id)
            }
        }
    }
}

/// What is wrong in the tree at `top`, by the models before and after the operation that ran at the cut.
fn differences(top: &Path, before: &Step, touched: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut found = Vec::new();
    for directory in DIRECTORIES {
        let names = std::fs::read_dir(top.join(directory)).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap()).filter(|name| name.starts_with('n'));
        found.extend(names.map(|name| Path::new(directory).join(name).to_str().unwrap().to_owned()));
    }
    let known = &before.model.nodes;
    for path in found.iter().filter(|path| !known.contains_key(*path) && !touched.contains(path)) {
        wrong.push(format!("{path} is there again"));
    }
    for (path, node) in known.iter().filter(|(path, _)| !touched.contains(path)) {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let Ok(metadata) = top.join(path).symlink_metadata() else {
            wrong.push(format!("{path} is lost: {node:?}"));
            continue;
        };
        let right = match node {
            Node::Directory => metadata.is_dir(),
            Node::Symlink => metadata.is_symlink(),
            Node::File { id, mode } => {
                let links = known.values().filter(|other| *other == node).count();
                let content = before.model.contents[*id].as_ref();
                metadata.is_file()
                    && metadata.permissions().mode() & 0o7777 == *mode
                    && metadata.nlink() as usize == links
                    && content.is_none_or(|content| std::fs::read(top.join(path)).unwrap() == *content)
            }
        };
        if !right {
            wrong.push(format!("{path} is not {node:?}: {metadata:?}"));
        }
    }
    wrong
}

fn run_seed(seed: u64) {
    let lab = Lab::on_disk();
    let mut client = lab.client(A);
    let root = lab.root(A);
    let top = handle(client.mkdir(&root, "top").unwrap().obj);
    let below = handle(client.mkdir(&top, "d").unwrap().obj);
    let disk = lab.disk.as_ref().unwrap();
    let base = disk.record();
    let mut run_of = Run {
        client,
        directories: vec![top, below],
        handles: Vec::new(),
        live: Vec::new(),
        model: Model::default(),
        random: Random(seed),
    };
    let mut steps = vec![Step { model: Model::default(), answered: 0, touched: Vec::new() }];
    for _ in 0..OPERATIONS {
        let touched = run_of.step();
        steps.push(Step { model: run_of.model.clone(), answered: disk.position(), touched });
    }
    let log = disk.log();
    let mut random = Random(!seed);
    for n in 0..CUTS {
        // As often behind an answer, where all must be there, as anywhere.
        let cut = match n % 2 {
            0 => steps[random.below(steps.len() as u64) as usize].answered,
            _ => random.below(log.len() as u64 + 1) as usize,
        };
        let answered = steps.iter().rposition(|step| step.answered <= cut).unwrap();
        let touched = steps.get(answered + 1).map_or(&[][..], |step| &step.touched);
        let left = after_cut(&base, &log, cut, |bound| random.below(bound));
        let wrong = lab.mounted(&left, |tree| differences(&tree.join("top"), &steps[answered], touched));
        assert!(
            wrong.is_empty(),
            "seed {seed}, cut at {cut} of {}, behind operation {answered} of {OPERATIONS}: {wrong:#?}",
            log.len()
        );
    }
    println!("seed {seed}: {OPERATIONS} operations, {} events on the disk, {CUTS} cuts", log.len());
}

#[test]
fn what_was_answered_as_stable_is_there_after_a_power_cut() {
    let seeds: u64 = std::env::var("ROOTSTOCK_SEEDS").ok().map_or(3, |seeds| seeds.parse().expect("a number"));
    (1..=seeds).for_each(run_seed);
}

/// There overlayfs makes more than one step of a change: whiteouts, and files made elsewhere and moved over them.
#[test]
fn what_was_changed_in_a_directory_of_the_image_is_so_after_a_power_cut() {
    let lab = Lab::on_disk();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let directory = client.lookup(&root, "merged").unwrap().object;
    let disk = lab.disk.as_ref().unwrap();
    let base = disk.record();
    // The position of each answer, the name, and what is there then.
    let mut steps = Vec::new();
    for n in 1..=8u8 {
        let name = format!("f{n}");
        client.remove(&directory, &name).unwrap();
        steps.push((disk.position(), name.clone(), None));
        let created = client.create(&directory, &name, createhow3::GUARDED(mode(0o600))).unwrap();
        steps.push((disk.position(), name.clone(), Some(Vec::new())));
        let data = vec![n; 5000];
        client.write(&handle(created.obj), 0, &data, stable_how::FILE_SYNC).unwrap();
        steps.push((disk.position(), name.clone(), Some(data)));
        if n % 2 == 0 {
            client.remove(&directory, &name).unwrap();
            steps.push((disk.position(), name, None));
        }
    }
    let log = disk.log();
    let mut random = Random(11);
    for (n, (position, ..)) in steps.iter().enumerate() {
        let left = after_cut(&base, &log, *position, |bound| random.below(bound));
        lab.mounted(&left, |tree| {
            for (_, name, _) in &steps[..=n] {
                let (_, _, expected) = steps[..=n].iter().rfind(|(_, other, _)| other == name).unwrap();
                let found = std::fs::read(tree.join("merged").join(name)).ok();
                assert_eq!(found.as_ref(), expected.as_ref(), "{name}, cut behind answer {n}");
            }
        });
    }
}

/// Waits until `done`; fails after a time in which all of it ends on a busy machine.
fn within(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A test as `nfs_unanswered` has them, at the worst moment: a call waits for the disk in the kernel, where no
/// signal reaches it, and the disk stands still.
fn wait_for_a_disk_that_stands_still() -> ! {
    let lab = Lab::on_disk();
    let mut client = lab.client(A);
    let root = lab.root(A);
    let file = handle(client.create(&root, "waits", createhow3::GUARDED(mode(0o600))).unwrap().obj);
    let disk = lab.disk.as_ref().unwrap();
    disk.stand_still();
    std::thread::spawn(move || client.write(&file, 0, &[7; 4096], stable_how::FILE_SYNC).unwrap());
    within("a write that waits", || disk.is_waited_for());
    println!("waits");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_test_that_is_killed_leaves_nothing_that_waits_for_its_disk() {
    const VICTIM: &str = "ROOTSTOCK_VICTIM";
    if std::env::var_os(VICTIM).is_some() {
        wait_for_a_disk_that_stands_still();
    }
    let own = std::env::current_exe().unwrap();
    let name = "a_test_that_is_killed_leaves_nothing_that_waits_for_its_disk";
    let mut command = Command::new(own);
    command.args(["--exact", name, "--nocapture"]).env(VICTIM, "1").stdout(Stdio::piped());
    let mut victim = command.spawn().unwrap();
    let told = BufReader::new(victim.stdout.take().unwrap()).lines().any(|line| line.unwrap().ends_with("waits"));
    assert!(told, "the victim ended before it was killed");
    victim.kill().unwrap();
    within("the end of the killed process", || victim.try_wait().unwrap().is_some());
    let mut sync = Command::new("sync").spawn().unwrap();
    within("a sync of the whole machine", || sync.try_wait().unwrap().is_some());
}
