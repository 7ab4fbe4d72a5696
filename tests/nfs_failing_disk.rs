//! A disk that fails while several calls wait for one commit: what was acknowledged is on it all the same.
//!
//! ext4 answers an fsync with 0 where nothing is left to commit, also when that is because the commit failed and
//! somebody else heard of it. So the server asks behind each fsync whether the journal still runs
//! (`OpenExport::synced`).
//!
//! `ROOTSTOCK_SEEDS=100` runs more rounds than the few of a plain test: `just soak`.
//! Needs root, loop devices, ext4, overlayfs and FUSE (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;
#[path = "support/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nfs_lab::disk::after_cut;
use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::*;
use random::Random;

/// The first client's tree as the appliance mounts it from what the disk holds.
fn mounted<T>(lab: &Lab, left: &[u8], look: impl FnOnce(&Path) -> T) -> T {
    let folder = lab.folder().join("left");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("disk"), left).unwrap();
    run(&format!(
        "cd {}; mkdir -p upper merged; mount -o loop disk upper
         mount -t overlay left -o lowerdir=../image,upperdir=upper/a,workdir=upper/a-work,index=on,nfs_export=on,xino=on merged",
        folder.display()
    ));
    let found = look(&folder.join("merged"));
    run(&format!("cd {}; umount merged upper", folder.display()));
    found
}

#[test]
fn what_only_memory_holds_is_not_acknowledged_when_somebody_elses_commit_has_failed() {
    let lab = Lab::on_disk();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let top = handle(client.mkdir(&root, "top").unwrap().obj);
    let unchecked = || createhow3::UNCHECKED(sattr3::default());
    client.create(&top, "before", unchecked()).unwrap();
    // A change in memory, a disk that takes nothing more, and an fsync that is not the server's and hears of it.
    std::fs::write(lab.path("top/x"), "").unwrap();
    lab.disk.as_ref().unwrap().fail();
    let heard = std::fs::File::open(lab.path("top")).unwrap().sync_all();
    assert!(heard.is_err(), "the commit did not fail");
    // CREATE finds the file, and has nothing to do but to bring it to the disk.
    client.lookup(&top, "x").unwrap();
    let answer = status(client.create(&top, "x", unchecked()));
    assert_eq!(answer, nfsstat3::NFS3ERR_JUKEBOX, "the file is in memory only");
}

/// What a thread's names were when it was last answered, and those that a call without a good answer was about.
#[derive(Default)]
struct Acknowledged {
    names: BTreeMap<String, bool>,
    open: Vec<String>,
}

fn done<T, E>(result: Nfs3Result<T, E>) -> bool {
    matches!(result, Nfs3Result::Ok(_))
}

/// Makes, renames and removes files and directories until a call fails.
fn work(mut client: Client, directory: &nfs_fh3, thread: u64) -> Acknowledged {
    let mut told = Acknowledged::default();
    for n in 0.. {
        let (name, new) = (format!("t{thread}-{n}"), format!("t{thread}-{n}-new"));
        let is_file = n % 4 != 3;
        let made = match is_file {
            true => done(client.create(directory, &name, createhow3::GUARDED(mode(0o644)))),
            false => done(client.mkdir(directory, &name)),
        };
        if !made {
            told.open.push(name);
            break;
        }
        told.names.insert(name.clone(), true);
        if n % 3 == 0 && !done(client.rename(directory, &name, directory, &new)) {
            told.open.extend([name, new]);
            break;
        }
        let name = if n % 3 == 0 {
            told.names.extend([(name, false), (new.clone(), true)]);
            new
        } else {
            name
        };
        let gone = match n % 5 {
            0 if is_file => done(client.remove(directory, &name)),
            0 => done(client.rmdir(directory, &name)),
            _ => continue,
        };
        if !gone {
            told.open.push(name);
            break;
        }
        told.names.insert(name, false);
    }
    told
}

#[test]
fn what_was_acknowledged_to_many_at_once_is_on_the_disk_that_failed() {
    let rounds: u64 = std::env::var("ROOTSTOCK_SEEDS").ok().map_or(6, |seeds| seeds.parse().expect("a number"));
    for seed in 1..=rounds {
        let mut random = Random(seed);
        let lab = Lab::on_disk();
        let root = lab.root(A);
        let disk = lab.disk.as_ref().unwrap();
        let directory = handle(lab.client(A).mkdir(&root, "top").unwrap().obj);
        let base = disk.record();
        let last = 20 + random.below(300) as usize;
        let told: Vec<Acknowledged> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..12)
                .map(|thread| (lab.client(A), &directory, thread))
                .map(|(client, directory, thread)| scope.spawn(move || work(client, directory, thread)))
                .collect();
            while disk.position() < last {
                std::thread::yield_now();
            }
            disk.fail();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let log = disk.log();
        let left = after_cut(&base, &log, log.len(), |bound| bound - 1);
        let count: usize = told.iter().map(|told| told.names.len()).sum();
        assert!(count > 0, "seed {seed}: nothing was acknowledged");
        mounted(&lab, &left, |tree| {
            for told in &told {
                for (name, there) in told.names.iter().filter(|(name, _)| !told.open.contains(name)) {
                    let found = tree.join("top").join(name).symlink_metadata().is_ok();
                    assert_eq!(found, *there, "seed {seed}: {name}, of {count} that were acknowledged");
                }
            }
        });
    }
}

/// They cannot be opened to be synced: the server brings them to the disk with the whole journal.
#[test]
fn what_is_set_on_links_and_pipes_is_on_the_disk_when_it_is_answered() {
    let lab = Lab::on_disk();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let disk = lab.disk.as_ref().unwrap();
    let mut random = Random(5);
    let symlink = symlinkdata3 { symlink_attributes: sattr3::default(), symlink_data: b"to".to_vec().into() };
    let args = SYMLINK3args { where_: at(&root, "link"), symlink };
    let link = client.call::<SYMLINK3res>(NFS_PROGRAM::NFSPROC3_SYMLINK, &args).unwrap();
    let args = MKNOD3args { where_: at(&root, "pipe"), what: mknoddata3::NF3FIFO(mode(0o600)) };
    let pipe = client.call::<MKNOD3res>(NFS_PROGRAM::NFSPROC3_MKNOD, &args).unwrap();
    // `outside` is a link of the image: it is copied up.
    let files = [("link", handle(link.obj)), ("pipe", handle(pipe.obj)), ("outside", client.find(&root, "outside"))];
    let base = disk.record();
    for (n, (name, file)) in files.iter().enumerate() {
        let owner = 1000 + n as u32;
        client.setattr(file, sattr3 { uid: set_uid3::Some(owner), ..sattr3::default() }).unwrap();
        let log = disk.log();
        let left = after_cut(&base, &log, log.len(), |bound| random.below(bound));
        let found = mounted(&lab, &left, |tree| tree.join(name).symlink_metadata().unwrap().uid());
        assert_eq!(found, owner, "{name}");
    }
}
