//! Quotas and the reserve: a client that fills its share, or the stick, hurts neither the
//! others nor the appliance; and what is counted is what lies on the disk.
//!
//! Needs root, loop devices, ext4 and overlayfs (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;
#[path = "support/random.rs"]
mod random;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::*;
use random::Random;
use rootstock::quota::{Account, Amount, Figures, Space, reserve_bytes};

const MIB: u64 = 1 << 20;
const BIG: usize = 3_000_000;

/// One test at a time: a child that another one starts has the server's files open too, between its fork and its exec, and
/// what is removed gives its room back only when nobody has it open.
static ALONE: Mutex<()> = Mutex::new(());

struct Bench {
    lab: Lab,
    a: Arc<Account>,
    b: Arc<Account>,
    space: Arc<Space>,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    /// Two clients, the first with a quota; the image has one large file.
    fn new(quota: Option<u64>) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lab = Lab::new();
        lab.server = None;
        lab.unmount();
        run(&format!(
            "cd {}; mount -o loop image.ext4 image; head -c {BIG} /dev/urandom > image/big; umount image",
            lab.folder().display()
        ));
        lab.mount();
        let space = Arc::new(Space::new(None));
        let a = Arc::new(Account::new(space.clone(), quota));
        let b = Arc::new(Account::new(space.clone(), None));
        let mut directory = (*lab.directory.get()).clone();
        for (client, account) in directory.clients.iter_mut().zip([&a, &b]) {
            for export in [&mut client.root, &mut client.boot] {
                export.account = Some(account.clone());
            }
        }
        lab.directory.set(directory);
        lab.start();
        let bench = Self { lab, a, b, space, _alone: alone };
        bench.a.measured(Amount::bytes(bench.du("a") as i64), bench.a.grown());
        bench.b.measured(Amount::bytes(bench.du("b") as i64), bench.b.grown());
        bench
    }

    fn upper(&self) -> PathBuf {
        self.lab.folder().join("upper")
    }

    /// What a client's layers occupy.
    fn du(&self, name: &str) -> u64 {
        rustix::fs::syncfs(std::fs::File::open(self.upper()).unwrap()).unwrap();
        let folders = ["", "-work", "-boot", "-boot-work"].map(|end| self.upper().join(format!("{name}{end}")));
        let output = std::process::Command::new("du").args(["-scB1"]).args(folders).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().last().unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    fn figures(&self) -> Figures {
        Figures::of(&rustix::fs::statvfs(self.upper()).unwrap())
    }

    fn client(&self, address: Ipv4Addr) -> (Client, nfs_fh3) {
        (self.lab.client(address), self.lab.root(address))
    }
}

/// Appends pieces until one is refused or cut; the file's size then, and what was said.
fn fill(client: &mut Client, file: &nfs_fh3, from: u64, piece: usize) -> (u64, nfsstat3) {
    let (data, mut at) = (vec![0xa5; piece], from);
    loop {
        match client.write(file, at, &data, stable_how::UNSTABLE) {
            Nfs3Result::Ok(ok) => at += u64::from(ok.count),
            Nfs3Result::Err((refused, _)) => return (at, refused),
        }
    }
}

fn fsstat(client: &mut Client, root: &nfs_fh3) -> FSSTAT3resok {
    let args = FSSTAT3args { fsroot: root.clone() };
    client.call::<FSSTAT3res>(NFS_PROGRAM::NFSPROC3_FSSTAT, &args).unwrap()
}

#[test]
fn a_client_writes_to_the_end_of_its_quota_and_hurts_nobody() {
    const QUOTA: u64 = 8 * MIB;
    let bench = Bench::new(Some(QUOTA));
    let ((mut a, root), (mut b, other)) = (bench.client(A), bench.client(B));
    let stat = fsstat(&mut a, &root);
    assert_eq!((stat.tbytes, stat.fbytes), (QUOTA, QUOTA - bench.a.used_bytes()));
    let file = a.file(&root, "full");
    let (size, refused) = fill(&mut a, &file, 0, 64 << 10);
    assert_eq!(refused, nfsstat3::NFS3ERR_DQUOT);
    let du = bench.du("a");
    assert!((QUOTA - 16_384..=QUOTA).contains(&du), "{du} of {QUOTA}");
    assert_eq!(bench.a.used_bytes(), du, "what is counted is what lies there");
    assert_eq!(fsstat(&mut a, &root).abytes, QUOTA - du);
    assert_eq!(a.attributes(&file).size, size);

    // Over what it has it writes on, and what goes makes room at once.
    a.write(&file, 4096, &[7; 64 << 10], stable_how::FILE_SYNC).unwrap();
    assert_eq!(fill(&mut a, &file, size, 4096).1, nfsstat3::NFS3ERR_DQUOT);
    let none = a.create(&root, "one-more", createhow3::GUARDED(mode(0o644)));
    assert_eq!(status(none), nfsstat3::NFS3ERR_DQUOT);
    let there = a.create(&root, "full", createhow3::GUARDED(mode(0o644)));
    assert_eq!(status(there), nfsstat3::NFS3ERR_EXIST);
    // A file of the image would be copied whole.
    let big = a.find(&root, "big");
    assert_eq!(status(a.write(&big, 0, b"x", stable_how::UNSTABLE)), nfsstat3::NFS3ERR_DQUOT);
    assert_eq!(status(a.setattr(&big, mode(0o600))), nfsstat3::NFS3ERR_DQUOT);
    assert_eq!(status(a.rename(&root, "big", &root, "bigger")), nfsstat3::NFS3ERR_DQUOT);
    assert_eq!(status(a.link(&big, &root, "bigger")), nfsstat3::NFS3ERR_DQUOT);
    a.remove(&root, "big").unwrap();
    // The other one does not notice.
    let neighbour = b.file(&other, "mine");
    assert_eq!(b.write(&neighbour, 0, &[1; 256 << 10], stable_how::FILE_SYNC).unwrap().count, 256 << 10);
    assert_eq!(bench.b.used_bytes(), bench.du("b"));

    a.setattr(&file, sattr3 { size: set_size3::Some(MIB), ..sattr3::default() }).unwrap();
    assert!(bench.a.used_bytes() < 2 * MIB, "{}", bench.a.used_bytes());
    assert_eq!(fill(&mut a, &file, MIB, 256 << 10).1, nfsstat3::NFS3ERR_DQUOT);
    a.remove(&root, "full").unwrap();
    assert!(bench.a.used_bytes() < MIB / 2, "{}", bench.a.used_bytes());
    assert_eq!(bench.a.used_bytes(), bench.du("a"));
}

#[test]
fn many_writers_at_once_end_at_the_quota_together() {
    const QUOTA: u64 = 12 * MIB;
    let bench = Bench::new(Some(QUOTA));
    std::thread::scope(|scope| {
        for n in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                let (mut client, root) = bench.client(A);
                let file = client.file(&root, &format!("f{n}"));
                assert_eq!(fill(&mut client, &file, 0, 100_000).1, nfsstat3::NFS3ERR_DQUOT);
            });
        }
    });
    // Files that grow between each other have maps of their blocks, which come when they are written out.
    let du = bench.du("a");
    assert!((QUOTA - 65_536..=QUOTA + 65_536).contains(&du), "{du} of {QUOTA}");
}

#[test]
fn the_reserve_is_the_appliances() {
    let bench = Bench::new(None);
    let ((mut a, root), (mut b, other)) = (bench.client(A), bench.client(B));
    let small = b.file(&other, "small");
    b.write(&small, 0, &[1; 100], stable_how::FILE_SYNC).unwrap();
    let file = a.file(&root, "full");
    assert_eq!(fill(&mut a, &file, 0, 256 << 10).1, nfsstat3::NFS3ERR_NOSPC);
    let (figures, reserve) = (bench.figures(), reserve_bytes(bench.figures().total_bytes, None));
    assert!((reserve..reserve + MIB).contains(&figures.free_bytes), "{figures:?}, reserve {reserve}");
    assert_eq!(fsstat(&mut b, &other).abytes, figures.free_bytes - reserve);
    assert_eq!(fill(&mut b, &small, 1 << 30, 64 << 10).1, nfsstat3::NFS3ERR_NOSPC);
    // What is there may be written over and removed, the image's files too.
    b.write(&small, 0, &[2; 100], stable_how::FILE_SYNC).unwrap();
    b.remove(&other, "file").unwrap();
    std::fs::write(bench.upper().join("appliance"), vec![1; 4 << 20]).unwrap();
    a.remove(&root, "full").unwrap();
    rustix::fs::syncfs(std::fs::File::open(bench.upper()).unwrap()).unwrap();
    b.write(&small, 1 << 20, &[3; 64 << 10], stable_how::FILE_SYNC).unwrap();
}

#[test]
fn without_any_quota_a_client_that_fills_the_stick_leaves_room_to_the_other() {
    let bench = Bench::new(None);
    let ((mut a, root), (mut b, other)) = (bench.client(A), bench.client(B));
    bench.space.share(&bench.figures(), 2);
    let reserve = reserve_bytes(bench.figures().total_bytes, None);
    let commons = bench.figures().total_bytes / 32;
    let file = a.file(&root, "full");
    // Both at once: neither comes at the cost of the other.
    let mine = std::thread::scope(|scope| {
        let filled = scope.spawn(|| fill(&mut a, &file, 0, 256 << 10));
        let mine = b.file(&other, "mine");
        b.write(&mine, 0, &[7; 64 << 10], stable_how::FILE_SYNC).unwrap();
        assert_eq!(filled.join().unwrap().1, nfsstat3::NFS3ERR_NOSPC);
        mine
    });
    let left = bench.figures().free_bytes - reserve;
    assert!((commons - MIB..commons + MIB).contains(&left), "{left} of {commons}");
    assert_eq!(fsstat(&mut a, &root).abytes >> 20, 0);
    assert_eq!(fsstat(&mut b, &other).abytes, left);
    let (size, refused) = fill(&mut b, &mine, 64 << 10, 256 << 10);
    assert_eq!(refused, nfsstat3::NFS3ERR_NOSPC);
    assert!(size + MIB > left, "{size} of {left}");
    // What the first one has it may still write over.
    a.write(&file, 0, &[8; 64 << 10], stable_how::FILE_SYNC).unwrap();
}

/// What makes room gives it back once, whichever way it goes.
#[test]
fn what_is_renamed_over_removed_while_open_or_cut_gives_its_room_back_once() {
    let bench = Bench::new(Some(1 << 40));
    let ((mut a, root), (mut second, _)) = (bench.client(A), bench.client(A));
    let check = |what: &str| {
        let (du, used) = (bench.du("a"), bench.a.used_bytes());
        assert_eq!(used, du, "{what}");
    };
    for (name, bytes) in [("one", 150_000), ("two", 200_000), ("three", 70_000)] {
        let file = a.file(&root, name);
        a.write(&file, 0, &vec![7; bytes], stable_how::FILE_SYNC).unwrap();
    }
    check("three files");
    a.rename(&root, "one", &root, "two").unwrap();
    check("one of them renamed over another");
    let two = a.find(&root, "two");
    a.link(&two, &root, "too").unwrap();
    a.rename(&root, "three", &root, "too").unwrap();
    check("renamed over one of two names");
    // Another connection has it open and writes on.
    second.write(&two, 400_000, &[8; 200_000], stable_how::UNSTABLE).unwrap();
    a.remove(&root, "two").unwrap();
    let _ = second.write(&two, 900_000, &[9; 200_000], stable_how::FILE_SYNC);
    check("removed while it is written to");
    // Holes cost nothing, and what is cut off comes back.
    let sparse = a.file(&root, "sparse");
    for at in [0, 8 << 20] {
        a.write(&sparse, at, &[1; 4096], stable_how::FILE_SYNC).unwrap();
    }
    check("a file with a hole");
    for size in [64 << 20, 4096, 0] {
        a.setattr(&sparse, sattr3 { size: set_size3::Some(size), ..sattr3::default() }).unwrap();
        check("a file of another size");
    }
    a.mkdir(&root, "folder").unwrap();
    let folder = a.find(&root, "folder");
    a.rename(&root, "sparse", &folder, "moved").unwrap();
    a.remove(&folder, "moved").unwrap();
    a.rmdir(&root, "folder").unwrap();
    check("a folder that is gone again");
}

/// What each thing that a client may do costs is counted as the disk counts it.
#[test]
fn what_is_counted_is_what_lies_there() {
    for seed in 0..4 {
        let bench = Bench::new(Some(1 << 40));
        let (mut client, root) = bench.client(A);
        let mut random = Random(seed);
        client.mkdir(&root, "d").unwrap();
        let directories = [root.clone(), client.find(&root, "d")];
        let mut names = vec![(0usize, "big".to_owned()), (0, "file".to_owned())];
        for step in 0..150 {
            let directory = random.below(2) as usize;
            let new = format!("n{step}");
            let (at, name) = names[random.below(names.len() as u64) as usize].clone();
            let offset = random.below(1 << 21);
            let data = vec![step as u8; 1 + random.below(200_000) as usize];
            match random.below(8) {
                0 | 1 => {
                    let file = client.file(&directories[directory], &new);
                    client.write(&file, offset, &data, stable_how::UNSTABLE).unwrap();
                    names.push((directory, new));
                }
                2 | 3 => {
                    let file = client.find(&directories[at], &name);
                    client.write(&file, offset, &data, stable_how::FILE_SYNC).unwrap();
                }
                4 => {
                    let file = client.find(&directories[at], &name);
                    let size = sattr3 { size: set_size3::Some(offset), ..mode(0o640) };
                    client.setattr(&file, size).unwrap();
                }
                5 => {
                    client.rename(&directories[at], &name, &directories[directory], &new).unwrap();
                    names.retain(|known| *known != (at, name.clone()));
                    names.push((directory, new));
                }
                6 => {
                    let file = client.find(&directories[at], &name);
                    client.link(&file, &directories[directory], &new).unwrap();
                    names.push((directory, new));
                }
                _ if names.len() > 4 => {
                    client.remove(&directories[at], &name).unwrap();
                    names.retain(|known| *known != (at, name.clone()));
                }
                _ => drop(client.mkdir(&directories[directory], &new).unwrap()),
            }
        }
        // Written out, since a file's map of blocks grows then; the next change of a file takes that in.
        let (du, used) = (bench.du("a"), bench.a.used_bytes());
        // What a removed file of the image gave back is in doubt until it is measured.
        let doubt = if bench.a.is_doubtful(1) { BIG as u64 + (4 << 20) } else { 0 };
        assert!(used + 128 * 1024 >= du && used <= du + 128 * 1024 + doubt, "seed {seed}: {used} counted, {du} there");
    }
}
