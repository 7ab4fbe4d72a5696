//! `kill -9` of the server, again and again, under clients that write: no operation is lost,
//! none is done twice, no handle grows stale, no I/O error.
//!
//! Each client behaves as Linux's: a call without an answer is sent again over a new connection,
//! from another port, under the same xid; after JUKEBOX it is a new call; UNSTABLE data
//! is kept and sent again when the write verifier changes. What each call must answer is known
//! from a model, so a REMOVE done twice shows as NFS3ERR_NOENT.
//!
//! `ROOTSTOCK_SEEDS=100` runs more seeds than the few of a plain test: `just soak`.
//! Needs root, network namespaces, loop devices, ext4 and overlayfs.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;
#[allow(dead_code)] // this program uses its part
mod serve_lab;
mod store_support;
mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nfs_lab::{at, handle, mode, packed, text};
use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::xdr_codec::{Opaque, Pack, Unpack};
use serve_lab::{Lab, PATIENCE, Pi, connect_reserved, eventually};
use support::random::Random;
use support::virtual_pi::Board;

const CLIENTS: usize = 4;
const KILLS: usize = 10;
const DIRECTORIES: usize = 3;
const NAMES: u64 = 6;

/// A client that does not give up.
struct Patient {
    client: nfs_lab::Client,
    resent: usize,
}

impl Patient {
    fn connect() -> Self {
        let stream = reconnect();
        let client = nfs_lab::Client { stream, uid: 0, gid: 0, gids: Vec::new(), xid: rand_xid() };
        Self { client, resent: 0 }
    }

    /// The results of a call, however often it must be sent.
    fn results(&mut self, program: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
        let start = Instant::now();
        loop {
            self.client.xid = self.client.xid.wrapping_add(1);
            let call = [self.client.header(program, 3, procedure), args.to_vec()].concat();
            let reply = loop {
                match exchange(&mut self.client.stream, &call) {
                    Ok(reply) => break reply,
                    Err(_) => {
                        self.resent += 1;
                        self.client.stream = reconnect();
                    }
                }
                assert!(start.elapsed() < PATIENCE, "no answer");
            };
            assert_eq!(reply[..4], self.client.xid.to_be_bytes(), "the reply to this call");
            assert_eq!(reply[8..24], [0; 16], "accepted");
            if program != 100_003 || reply[24..28] != 10008u32.to_be_bytes() {
                return reply[24..].to_vec();
            }
            assert!(start.elapsed() < PATIENCE, "JUKEBOX for ever");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn call<R: Unpack>(&mut self, procedure: NFS_PROGRAM, args: &impl Pack) -> R {
        R::unpack(&mut &self.results(100_003, procedure as u32, &packed(args))[..]).unwrap().0
    }
}

fn rand_xid() -> u32 {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    (NEXT.fetch_add(1, Ordering::Relaxed) as u32) << 22
}

fn reconnect() -> std::net::TcpStream {
    eventually("a server that listens", || {
        let stream = connect_reserved(2049).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Some(stream)
    })
}

fn exchange(stream: &mut std::net::TcpStream, call: &[u8]) -> std::io::Result<Vec<u8>> {
    let mark = 0x8000_0000 | call.len() as u32;
    stream.write_all(&[&mark.to_be_bytes()[..], call].concat())?;
    let mut mark = [0; 4];
    stream.read_exact(&mut mark)?;
    let mut reply = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    File(usize),
    Directory,
    Symlink,
}

type Place = (usize, u64);

/// Offset, data, and the verifier of the answer.
type Unstable = (u64, Vec<u8>, [u8; 8]);

/// One client, its part of the tree, and what must be in it.
struct World {
    wire: Patient,
    random: Random,
    directories: Vec<nfs_fh3>,
    nodes: BTreeMap<Place, Node>,
    files: Vec<(nfs_fh3, Vec<u8>)>,
    /// By file: what was written and not committed, with the verifier it was answered with.
    unstable: BTreeMap<usize, Vec<Unstable>>,
}

fn name((_, n): Place) -> String {
    format!("n{n}")
}

fn outcome<T, E>(result: Nfs3Result<T, E>) -> Result<T, nfsstat3> {
    match result {
        Nfs3Result::Ok(ok) => Ok(ok),
        Nfs3Result::Err((status, _)) => Err(status),
    }
}

impl World {
    fn new(seed: u64, thread: usize, root: &nfs_fh3) -> Self {
        let mut wire = Patient::connect();
        let mut make = |parent: &nfs_fh3, name: &str| {
            let args = MKDIR3args { where_: at(parent, name), attributes: mode(0o755) };
            handle(wire.call::<MKDIR3res>(NFS_PROGRAM::NFSPROC3_MKDIR, &args).unwrap().obj)
        };
        let top = make(root, &format!("seed{seed}-{thread}"));
        let below: Vec<_> = (1..DIRECTORIES).map(|n| make(&top, &format!("below{n}"))).collect();
        Self {
            wire,
            random: Random(seed << 8 | thread as u64),
            directories: [vec![top], below].concat(),
            nodes: BTreeMap::new(),
            files: Vec::new(),
            unstable: BTreeMap::new(),
        }
    }

    fn place(&mut self) -> Place {
        (self.random.below(DIRECTORIES as u64) as usize, self.random.below(NAMES))
    }

    fn file(&mut self) -> Option<(Place, usize)> {
        let files = self.nodes.iter().filter_map(|(place, node)| match node {
            Node::File(file) => Some((*place, *file)),
            _ => None,
        });
        let files: Vec<_> = files.collect();
        (!files.is_empty()).then(|| files[self.random.below(files.len() as u64) as usize])
    }

    /// One operation; its answer must be the model's.
    fn step(&mut self) {
        self.operate();
        // A file without a name is gone, and nobody waits for its data.
        let nodes = &self.nodes;
        self.unstable.retain(|file, _| nodes.values().any(|node| *node == Node::File(*file)));
    }

    fn operate(&mut self) {
        let place = self.place();
        let (dir, at_name, there) = (self.directories[place.0].clone(), name(place), self.nodes.get(&place).copied());
        let exists = |there: Option<Node>| if there.is_some() { Err(nfsstat3::NFS3ERR_EXIST) } else { Ok(()) };
        match self.random.below(14) {
            0 | 1 => {
                let how = match self.random.below(2) {
                    0 => createhow3::GUARDED(mode(0o640)),
                    _ => createhow3::EXCLUSIVE(createverf3(self.random.next().to_be_bytes())),
                };
                let args = CREATE3args { where_: at(&dir, &at_name), how };
                let made = outcome(self.wire.call::<CREATE3res>(NFS_PROGRAM::NFSPROC3_CREATE, &args));
                assert_eq!(made.as_ref().map(drop).map_err(|status| *status), exists(there), "CREATE {place:?}");
                if let Ok(made) = made {
                    self.nodes.insert(place, Node::File(self.files.len()));
                    self.files.push((handle(made.obj), Vec::new()));
                }
            }
            2 => {
                let args = MKDIR3args { where_: at(&dir, &at_name), attributes: mode(0o755) };
                let made = outcome(self.wire.call::<MKDIR3res>(NFS_PROGRAM::NFSPROC3_MKDIR, &args));
                assert_eq!(made.map(drop), exists(there), "MKDIR {place:?}");
                self.nodes.entry(place).or_insert(Node::Directory);
            }
            3 => {
                let symlink_data = b"somewhere".to_vec().into();
                let symlink = symlinkdata3 { symlink_attributes: sattr3::default(), symlink_data };
                let args = SYMLINK3args { where_: at(&dir, &at_name), symlink };
                let made = outcome(self.wire.call::<SYMLINK3res>(NFS_PROGRAM::NFSPROC3_SYMLINK, &args));
                assert_eq!(made.map(drop), exists(there), "SYMLINK {place:?}");
                self.nodes.entry(place).or_insert(Node::Symlink);
            }
            4 => {
                let Some((_, file)) = self.file() else { return };
                let args = LINK3args { file: self.files[file].0.clone(), link: at(&dir, &at_name) };
                let made = outcome(self.wire.call::<LINK3res>(NFS_PROGRAM::NFSPROC3_LINK, &args));
                assert_eq!(made.map(drop), exists(there), "LINK {place:?}");
                self.nodes.entry(place).or_insert(Node::File(file));
            }
            5 | 6 => self.rename(place),
            7 | 8 => {
                let args = REMOVE3args { object: at(&dir, &at_name) };
                let expected = match there {
                    None => Err(nfsstat3::NFS3ERR_NOENT),
                    Some(Node::Directory) => Err(nfsstat3::NFS3ERR_ISDIR),
                    Some(_) => Ok(()),
                };
                let gone = outcome(self.wire.call::<REMOVE3res>(NFS_PROGRAM::NFSPROC3_REMOVE, &args)).map(drop);
                assert_eq!(gone, expected, "REMOVE {place:?}");
                if gone.is_ok() {
                    self.nodes.remove(&place);
                }
            }
            9 => {
                let args = RMDIR3args { object: at(&dir, &at_name) };
                let expected = match there {
                    None => Err(nfsstat3::NFS3ERR_NOENT),
                    Some(Node::Directory) => Ok(()),
                    Some(_) => Err(nfsstat3::NFS3ERR_NOTDIR),
                };
                let gone = outcome(self.wire.call::<RMDIR3res>(NFS_PROGRAM::NFSPROC3_RMDIR, &args)).map(drop);
                assert_eq!(gone, expected, "RMDIR {place:?}");
                if gone.is_ok() {
                    self.nodes.remove(&place);
                }
            }
            10 => self.set_mode_guarded(),
            11 => {
                if let Some((_, file)) = self.file() {
                    self.commit(file);
                }
            }
            _ => self.write(),
        }
    }

    fn rename(&mut self, from: Place) {
        let to = self.place();
        let (source, target) = (self.nodes.get(&from).copied(), self.nodes.get(&to).copied());
        let expected = match (source, target) {
            (None, _) => Err(nfsstat3::NFS3ERR_NOENT),
            (Some(Node::Directory), Some(Node::File(_) | Node::Symlink)) => Err(nfsstat3::NFS3ERR_NOTDIR),
            (Some(Node::File(_) | Node::Symlink), Some(Node::Directory)) => Err(nfsstat3::NFS3ERR_ISDIR),
            _ => Ok(()),
        };
        let (old, new) = (name(from), name(to));
        let args = RENAME3args { from: at(&self.directories[from.0], &old), to: at(&self.directories[to.0], &new) };
        let moved = outcome(self.wire.call::<RENAME3res>(NFS_PROGRAM::NFSPROC3_RENAME, &args)).map(drop);
        assert_eq!(moved, expected, "RENAME {from:?} {source:?} to {to:?} {target:?}");
        // Two names of one file stay both.
        let same = from == to || matches!((source, target), (Some(Node::File(a)), Some(Node::File(b))) if a == b);
        if let (Ok(()), Some(node), false) = (moved, source, same) {
            self.nodes.remove(&from);
            self.nodes.insert(to, node);
        }
    }

    fn set_mode_guarded(&mut self) {
        let Some((_, file)) = self.file() else { return };
        let object = self.files[file].0.clone();
        let attributes =
            self.wire.call::<GETATTR3res>(NFS_PROGRAM::NFSPROC3_GETATTR, &GETATTR3args { object: object.clone() });
        let guard = sattrguard3::Some(attributes.unwrap().obj_attributes.ctime);
        let new_attributes = mode(0o600 | self.random.below(0o100) as u32);
        let args = SETATTR3args { object, new_attributes, guard };
        let set = outcome(self.wire.call::<SETATTR3res>(NFS_PROGRAM::NFSPROC3_SETATTR, &args)).map(drop);
        assert_eq!(set, Ok(()), "a guarded SETATTR");
    }

    fn write(&mut self) {
        let Some((_, file)) = self.file() else { return };
        let (offset, length) = (self.random.below(8000), 1 + self.random.below(3000) as usize);
        let data = vec![self.random.next() as u8; length];
        let stable = match self.random.below(4) {
            0 => stable_how::FILE_SYNC,
            1 => stable_how::DATA_SYNC,
            _ => stable_how::UNSTABLE,
        };
        let verifier = self.send(file, offset, &data, stable);
        if stable == stable_how::UNSTABLE {
            self.unstable.entry(file).or_default().push((offset, data.clone(), verifier));
        } else {
            // What was written before and lies below is not to come back over this.
            self.commit(file);
            self.send(file, offset, &data, stable);
        }
        let content = &mut self.files[file].1;
        content.resize(content.len().max(offset as usize + length), 0);
        content[offset as usize..offset as usize + length].copy_from_slice(&data);
    }

    fn send(&mut self, file: usize, offset: u64, data: &[u8], stable: stable_how) -> [u8; 8] {
        let (file, count) = (self.files[file].0.clone(), data.len() as u32);
        let args = WRITE3args { file, offset, count, stable, data: Opaque::borrowed(data) };
        let written = self.wire.call::<WRITE3res>(NFS_PROGRAM::NFSPROC3_WRITE, &args).unwrap();
        assert_eq!(written.count, count);
        written.verf.0
    }

    /// As a client's fsync: until all that was UNSTABLE is known to be stable.
    fn commit(&mut self, file: usize) {
        let Some(mut unstable) = self.unstable.remove(&file) else { return };
        loop {
            let args = COMMIT3args { file: self.files[file].0.clone(), offset: 0, count: 0 };
            let verifier = self.wire.call::<COMMIT3res>(NFS_PROGRAM::NFSPROC3_COMMIT, &args).unwrap().verf.0;
            if unstable.iter().all(|(.., written)| *written == verifier) {
                return;
            }
            for (offset, data, written) in &mut unstable {
                *written = self.send(file, *offset, data, stable_how::UNSTABLE);
            }
        }
    }

    /// All there is, against all there must be.
    fn compare(&mut self) {
        let open: Vec<_> = self.unstable.keys().copied().collect();
        open.into_iter().for_each(|file| self.commit(file));
        for (n, directory) in self.directories.clone().into_iter().enumerate() {
            let args = READDIR3args { dir: directory.clone(), cookie: 0, cookieverf: cookieverf3([0; 8]), count: 8192 };
            let page = self.wire.call::<READDIR3res>(NFS_PROGRAM::NFSPROC3_READDIR, &args).unwrap();
            assert!(page.reply.eof);
            let names = page.reply.entries.0.into_iter().map(|entry| text(&entry.name.0));
            let mut names: Vec<_> = names.filter(|name| name.starts_with('n')).collect();
            names.sort();
            let expected: Vec<_> = self.nodes.keys().filter(|(dir, _)| *dir == n).map(|place| name(*place)).collect();
            assert_eq!(names, expected, "directory {n}");
        }
        for (place, node) in self.nodes.clone() {
            let at_name = name(place);
            let args = LOOKUP3args { what: at(&self.directories[place.0], &at_name) };
            let found = self.wire.call::<LOOKUP3res>(NFS_PROGRAM::NFSPROC3_LOOKUP, &args).unwrap();
            let args = GETATTR3args { object: found.object.clone() };
            let attributes =
                self.wire.call::<GETATTR3res>(NFS_PROGRAM::NFSPROC3_GETATTR, &args).unwrap().obj_attributes;
            let expected = match node {
                Node::File(_) => ftype3::NF3REG,
                Node::Directory => ftype3::NF3DIR,
                Node::Symlink => ftype3::NF3LNK,
            };
            assert_eq!(attributes.type_, expected, "{place:?}");
            let Node::File(file) = node else { continue };
            assert_eq!(found.object, self.files[file].0, "{place:?}");
            let links = self.nodes.values().filter(|other| **other == node).count();
            assert_eq!(attributes.nlink as usize, links, "{place:?}");
            let args = READ3args { file: found.object, offset: 0, count: 16384 };
            let read = self.wire.call::<READ3res>(NFS_PROGRAM::NFSPROC3_READ, &args).unwrap();
            assert!(*read.data.as_ref() == self.files[file].1[..], "content of {place:?}");
        }
    }
}

fn mnt(path: &str) -> nfs_fh3 {
    let stream = connect_reserved(20048).unwrap();
    let mut client = nfs_lab::Client { stream, uid: 0, gid: 0, gids: Vec::new(), xid: rand_xid() };
    let reply = client.raw(100_005, 3, 1, &packed(&Opaque::borrowed(path.as_bytes()))).unwrap();
    assert_eq!(reply[..4], [0; 4], "MNT {path}");
    nfs_fh3::unpack(&mut &reply[4..]).unwrap().0
}

fn run_seed(lab: &mut Lab, pi: &Pi, seed: u64) {
    let root = pi.netns.run(|| mnt("/clients/pi-1/root"));
    let (steps, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut random = Random(seed);
    let resent: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|thread| {
                let (steps, over, root) = (&steps, &over, &root);
                scope.spawn(move || {
                    pi.netns.enter();
                    let mut world = World::new(seed, thread, root);
                    while !over.load(Ordering::Relaxed) {
                        world.step();
                        steps.fetch_add(1, Ordering::Relaxed);
                    }
                    world.compare();
                    world.wire.resent
                })
            })
            .collect();
        for kill in 0..KILLS {
            let goal = steps.load(Ordering::Relaxed) + 4 + random.below(60) as usize;
            let start = Instant::now();
            while steps.load(Ordering::Relaxed) < goal {
                // One that failed tells why by its own panic, at the end of the scope.
                if clients.iter().any(|client| client.is_finished()) {
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "seed {seed}, kill {kill}: nothing goes on\n{}", lab.log());
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(Duration::from_micros(random.below(4000)));
            lab.kill();
            lab.start();
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    let steps = steps.load(Ordering::Relaxed);
    println!("seed {seed}: {KILLS} kills under {CLIENTS} clients, {steps} operations, {resent} calls sent again");
    assert!(resent >= KILLS, "the kills hit nobody");
}

#[test]
fn a_server_killed_under_writing_clients_loses_and_doubles_nothing() {
    let seeds: u64 = std::env::var("ROOTSTOCK_SEEDS").ok().map_or(2, |seeds| seeds.parse().expect("a number"));
    let mut lab = Lab::ready();
    let (pi, _) = lab.enrolled(Board::Pi4B, 1);
    for seed in 1..=seeds {
        run_seed(&mut lab, &pi, seed);
    }
    assert!(!lab.log().contains("panicked"), "{}", lab.log());
}
