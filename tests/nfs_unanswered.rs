//! Calls that were done and not answered when the server was killed: the next
//! server answers the repeat as if nothing had been. Here the moment is exact: the disk
//! stands still while the change is made durable, and what the journal holds then
//! is what a killed server leaves.
//! Needs root, loop devices, ext4, overlayfs and FUSE (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;

use std::path::Path;
use std::time::{Duration, Instant};

use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::xdr_codec::Pack;

/// The files of the tree that every call is tried on.
struct Tree {
    root: nfs_fh3,
    directory: nfs_fh3,
    file: nfs_fh3,
}

fn prepare(lab: &Lab) -> Tree {
    let mut client = lab.client(A);
    let root = lab.root(A);
    let directory = handle(client.mkdir(&root, "dir").unwrap().obj);
    client.mkdir(&root, "empty-of-ours").unwrap();
    let file = client.file(&directory, "ours");
    client.file(&root, "target");
    Tree { root, directory, file }
}

/// Stops the disk while the call `xid` that `send` sends is made durable, and copies the journal of that moment.
///
/// The kernel may wait for the disk by itself, before the call has begun (a commit by its timer, inode tables that are
/// still cleared): the journal must say that it has.
fn held(lab: &Lab, copy: &Path, xid: u32, send: impl FnOnce()) {
    let disk = lab.disk.as_ref().unwrap();
    disk.stand_still();
    send();
    let start = Instant::now();
    loop {
        let waits = disk.is_waited_for();
        std::fs::copy(lab.options.journal.as_ref().unwrap(), copy).unwrap();
        if waits && has_begun(&std::fs::read(copy).unwrap(), xid) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "nothing was made durable");
        std::thread::sleep(Duration::from_millis(1));
    }
    disk.go_on();
}

/// Whether the journal has a record of the call that is begun and no more (`src/nfs/intent.rs` tells its fields;
/// the last one may be shorter than its room).
fn has_begun(journal: &[u8], xid: u32) -> bool {
    let word = |record: &[u8], at: usize| Some(u32::from_be_bytes(record.get(at..at + 4)?.try_into().unwrap()));
    journal.chunks(1024).any(|record| word(record, 24) == Some(xid) && word(record, 40) == Some(0))
}

/// Does one call on a server that is stopped dead behind it; the answer of the next server to the repeat.
fn killed_behind(
    name: &str,
    procedure: NFS_PROGRAM,
    args: impl FnOnce(&mut Client, &Tree) -> Vec<u8>,
) -> (Lab, Tree, Vec<u8>) {
    let mut lab = Lab::on_disk();
    let tree = prepare(&lab);
    let mut client = lab.client(A);
    let args = args(&mut client, &tree);
    run("sync");
    client.xid += 1;
    let call = [client.header(100_003, 3, procedure as u32), args].concat();
    let copy = lab.folder().join("calls-left");
    held(&lab, &copy, client.xid, || client.send(&call));
    let answer = client.receive().unwrap();
    assert_eq!(answer[24..28], [0; 4], "{name}: the first answer");
    lab.server = None;
    lab.options.journal = Some(copy);
    lab.start();
    let mut again = lab.client(A);
    again.send(&call);
    let reply = again.receive().unwrap();
    assert_eq!(reply[..24], answer[..24], "{name}");
    (lab, tree, reply[24..].to_vec())
}

fn check(name: &str, procedure: NFS_PROGRAM, args: impl FnOnce(&mut Client, &Tree) -> Vec<u8>) -> (Lab, Tree) {
    let (lab, tree, reply) = killed_behind(name, procedure, args);
    let status = u32::from_be_bytes(reply[..4].try_into().unwrap());
    assert_eq!(status, 0, "{name}: the repeat after the kill");
    (lab, tree)
}

fn p(value: impl Pack) -> Vec<u8> {
    packed(&value)
}

#[test]
fn a_removal_is_answered_as_done() {
    let (lab, tree) =
        check("REMOVE", NFS_PROGRAM::NFSPROC3_REMOVE, |_, tree| p(REMOVE3args { object: at(&tree.directory, "ours") }));
    assert_eq!(status(lab.client(A).remove(&tree.directory, "ours")), nfsstat3::NFS3ERR_NOENT);
    check("REMOVE of the image's", NFS_PROGRAM::NFSPROC3_REMOVE, |_, tree| {
        p(REMOVE3args { object: at(&tree.root, "file") })
    });
    check("RMDIR", NFS_PROGRAM::NFSPROC3_RMDIR, |_, tree| p(RMDIR3args { object: at(&tree.root, "empty-of-ours") }));
    check("RMDIR of the image's", NFS_PROGRAM::NFSPROC3_RMDIR, |_, tree| {
        p(RMDIR3args { object: at(&tree.root, "empty") })
    });
}

#[test]
fn a_new_file_is_answered_with_its_handle_and_all_its_attributes() {
    let new = sattr3 { mode: set_mode3::Some(0o640), uid: set_uid3::Some(1000), ..sattr3::default() };
    for (name, how) in [
        ("CREATE GUARDED", createhow3::GUARDED(new.clone())),
        ("CREATE UNCHECKED", createhow3::UNCHECKED(new.clone())),
        ("CREATE EXCLUSIVE", createhow3::EXCLUSIVE(createverf3([7; 8]))),
    ] {
        let guarded = !matches!(how, createhow3::EXCLUSIVE(_));
        let args = |_: &mut Client, tree: &Tree| p(CREATE3args { where_: at(&tree.directory, "new"), how });
        let (lab, tree) = check(name, NFS_PROGRAM::NFSPROC3_CREATE, args);
        let mut client = lab.client(A);
        let made = client.find(&tree.directory, "new");
        let attributes = client.attributes(&made);
        if guarded {
            assert_eq!((attributes.mode, attributes.uid), (0o640, 1000), "{name}");
        }
        // The next call of that name meets what is there.
        let exists = client.create(&tree.directory, "new", createhow3::GUARDED(new.clone()));
        assert_eq!(status(exists), nfsstat3::NFS3ERR_EXIST);
    }
    check("MKDIR", NFS_PROGRAM::NFSPROC3_MKDIR, |_, tree| {
        p(MKDIR3args { where_: at(&tree.root, "new"), attributes: new.clone() })
    });
    check("SYMLINK", NFS_PROGRAM::NFSPROC3_SYMLINK, |_, tree| {
        let symlink = symlinkdata3 { symlink_attributes: sattr3::default(), symlink_data: b"to".to_vec().into() };
        p(SYMLINK3args { where_: at(&tree.root, "new"), symlink })
    });
    check("MKNOD", NFS_PROGRAM::NFSPROC3_MKNOD, |_, tree| {
        p(MKNOD3args { where_: at(&tree.root, "new"), what: mknoddata3::NF3FIFO(new.clone()) })
    });
}

#[test]
fn a_rename_is_answered_as_done_and_moves_nothing_twice() {
    let rename =
        |from: &nfs_fh3, name: &str, to: &nfs_fh3, new: &str| p(RENAME3args { from: at(from, name), to: at(to, new) });
    let procedure = NFS_PROGRAM::NFSPROC3_RENAME;
    let (lab, tree) = check("RENAME", procedure, |_, tree| rename(&tree.directory, "ours", &tree.root, "new"));
    let mut client = lab.client(A);
    assert_eq!(client.find(&tree.root, "new"), tree.file);
    assert_eq!(status(client.lookup(&tree.directory, "ours")), nfsstat3::NFS3ERR_NOENT);
    let (lab, tree) = check("RENAME over", procedure, |_, tree| rename(&tree.directory, "ours", &tree.root, "target"));
    assert_eq!(lab.client(A).find(&tree.root, "target"), tree.file);
    check("RENAME of the image's", procedure, |_, tree| rename(&tree.root, "file", &tree.directory, "file"));
    check("RENAME of a directory", procedure, |_, tree| rename(&tree.root, "dir", &tree.root, "elsewhere"));
}

#[test]
fn a_link_is_answered_as_done() {
    let (lab, tree) = check("LINK", NFS_PROGRAM::NFSPROC3_LINK, |_, tree| {
        p(LINK3args { file: tree.file.clone(), link: at(&tree.root, "new") })
    });
    assert_eq!(lab.client(A).attributes(&tree.file).nlink, 2);
    check("LINK of the image's", NFS_PROGRAM::NFSPROC3_LINK, |client, tree| {
        p(LINK3args { file: client.find(&tree.root, "suid"), link: at(&tree.root, "new") })
    });
}

#[test]
fn a_guard_that_held_is_not_asked_again() {
    check("SETATTR", NFS_PROGRAM::NFSPROC3_SETATTR, |client, tree| {
        let guard = sattrguard3::Some(client.attributes(&tree.file).ctime);
        p(SETATTR3args { object: tree.file.clone(), new_attributes: mode(0o600), guard })
    });
}

/// REMOVE of `dir/ours` was begun when the server was killed; `meanwhile` makes what the next one finds.
/// The repeat's status, and the file that then has the name.
fn removal_begun(meanwhile: impl FnOnce(&mut Client, &Tree)) -> (u32, Option<nfs_fh3>, Tree) {
    let mut lab = Lab::on_disk();
    let tree = prepare(&lab);
    let mut client = lab.client(A);
    client.link(&tree.file, &tree.root, "kept").unwrap();
    client.xid = 99;
    let call = [client.header(100_003, 3, 12), p(REMOVE3args { object: at(&tree.directory, "ours") })].concat();
    run("sync");
    let copy = lab.folder().join("calls-left");
    held(&lab, &copy, client.xid, || client.send(&call));
    client.receive().unwrap();
    meanwhile(&mut client, &tree);
    lab.server = None;
    lab.options.journal = Some(copy);
    lab.start();
    let mut again = lab.client(A);
    again.send(&call);
    let reply = again.receive().unwrap();
    let found = match again.lookup(&tree.directory, "ours") {
        Nfs3Result::Ok(found) => Some(found.object),
        Nfs3Result::Err(_) => None,
    };
    (u32::from_be_bytes(reply[24..28].try_into().unwrap()), found, tree)
}

#[test]
fn what_was_not_done_is_done_by_the_repeat() {
    // The file has its name: the kill came before the step.
    let (status, found, _) = removal_begun(|client, tree| {
        client.link(&tree.file, &tree.directory, "ours").unwrap();
    });
    assert_eq!((status, found), (0, None));
}

#[test]
fn another_file_under_the_name_is_not_touched() {
    let mut other = None;
    let (status, found, _) = removal_begun(|client, tree| other = Some(client.file(&tree.directory, "ours")));
    assert_eq!(status, 0);
    assert!(found.is_some() && found == other);
}

#[test]
fn an_answer_outlives_the_server() {
    let mut lab = Lab::new();
    let root = lab.root(A);
    let mut client = lab.client(A);
    client.xid = 4711;
    let call = [client.header(100_003, 3, 12), p(REMOVE3args { object: at(&root, "file") })].concat();
    client.send(&call);
    let first = client.receive().unwrap();
    assert_eq!(first[24..28], [0; 4]);
    for _ in 0..3 {
        lab.restart();
        // From another port, over another connection.
        let mut again = lab.client(A);
        again.send(&call);
        assert_eq!(again.receive().unwrap(), first);
    }
    // From another client's address it is another call.
    let mut other = lab.client(B);
    other.send(&call);
    assert_ne!(other.receive().unwrap()[24..28], [0; 4]);
}

#[test]
fn a_client_waits_in_silence_until_its_tree_is_there() {
    let (lab, tree, _) = killed_behind("REMOVE", NFS_PROGRAM::NFSPROC3_REMOVE, |_, tree| {
        p(REMOVE3args { object: at(&tree.directory, "ours") })
    });
    // As after a restart: nothing is published yet, and the journal of the killed server is there.
    let mut lab = lab;
    let directory = lab.directory.get();
    let mut client = lab.client(A);
    client.xid = 4242;
    let call = [client.header(100_003, 3, 12), p(REMOVE3args { object: at(&tree.root, "target") })].concat();
    let copy = lab.folder().join("calls-left-2");
    held(&lab, &copy, client.xid, || client.send(&call));
    client.receive().unwrap();
    lab.server = None;
    lab.options.journal = Some(copy);
    lab.directory.set(rootstock::directory::Directory::default());
    lab.start();
    let mut again = lab.client(A);
    again.send(&call);
    again.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(again.receive().is_err(), "nothing may be answered yet");
    // Another client, of whom nothing is owed, is told to wait.
    let mut other = lab.client(B);
    let told = other.raw(100_003, 3, 1, &packed(&GETATTR3args { object: tree.root.clone() })).unwrap();
    assert_eq!(told[..4], 10008u32.to_be_bytes());
    lab.directory.set((*directory).clone());
    again.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(again.receive().unwrap()[24..28], [0; 4]);
}
