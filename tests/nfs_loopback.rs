//! The NFS server over real overlays, asked by a codec that is not ours.
//! Needs root, loop devices, ext4 and overlayfs (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::nfsstat3::*;
use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::rpc::{auth_unix, opaque_auth};
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use rootstock::directory::Tree;
use rootstock::nfs::Event;

#[test]
fn a_foreign_client_mounts_by_portmap_and_reads() {
    let lab = Lab::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut mount =
            nfs3_client::Nfs3ConnectionBuilder::new(nfs3_client::tokio::TokioConnector, "127.0.0.1", "/clients/a")
                .portmapper_port(lab.ports().portmap)
                .credential(opaque_auth::auth_unix(&auth_unix::default()))
                .mount()
                .await
                .unwrap();
        let root = mount.root_nfs_fh3();
        let file = mount.lookup(&LOOKUP3args { what: at(&root, "file") }).await.unwrap().unwrap().object;
        let read = mount.read(&READ3args { file, offset: 0, count: 100 }).await.unwrap().unwrap();
        assert_eq!((read.data.as_ref(), read.eof), (&b"data\n"[..], true));
        mount.unmount().await.unwrap();
    });
    let events = lab.events.lock().unwrap();
    assert!(events.contains(&Event::Mounted { address: A, tree: Tree::Root }), "{events:?}");
    assert!(events.contains(&Event::Unmounted { address: A }), "{events:?}");
}

#[test]
fn a_file_is_made_written_committed_read_renamed_and_removed() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let before = client.attributes(&root);
    let made = client.create(&root, "new", createhow3::GUARDED(mode(0o4751))).unwrap();
    let wcc = made.dir_wcc;
    assert!(matches!(&wcc.before, pre_op_attr::Some(wcc) if wcc.mtime == before.mtime && wcc.size == before.size));
    assert!(matches!(&wcc.after, post_op_attr::Some(after) if after.mtime == client.attributes(&root).mtime));
    let file = handle(made.obj);
    assert_eq!(client.attributes(&file).mode, 0o4751);
    assert_eq!(status(client.create(&root, "new", createhow3::GUARDED(mode(0o644)))), NFS3ERR_EXIST);

    let written = client.write(&file, 0, b"hello", stable_how::UNSTABLE).unwrap();
    assert_eq!((written.count, written.committed), (5, stable_how::UNSTABLE));
    let committed = client.commit(&file).unwrap();
    assert_eq!(committed.verf, written.verf);
    let synced = client.write(&file, 5 << 30, b"far", stable_how::FILE_SYNC).unwrap();
    assert_eq!(synced.committed, stable_how::FILE_SYNC);
    let attributes = client.attributes(&file);
    assert_eq!(attributes.size, (5 << 30) + 3);
    assert!(attributes.used < 1 << 20, "sparse: {}", attributes.used);
    let read = client.read(&file, 3, 4).unwrap();
    assert_eq!((read.data.as_ref(), read.eof), (&b"lo\0\0"[..], false));
    let end = client.read(&file, 5 << 30, 100).unwrap();
    assert_eq!((end.data.as_ref(), end.eof), (&b"far"[..], true));
    let past = client.read(&file, 6 << 30, 100).unwrap();
    assert_eq!((past.count, past.eof), (0, true));

    client.rename(&root, "new", &root, "newer").unwrap();
    assert_eq!(status(client.lookup(&root, "new")), NFS3ERR_NOENT);
    assert_eq!(client.find(&root, "newer"), file);
    client.remove(&root, "newer").unwrap();
    assert_eq!(status(client.getattr(&file)), NFS3ERR_STALE);
    assert_eq!(status(client.remove(&root, "newer")), NFS3ERR_NOENT);
}

#[test]
fn the_kernel_judges_by_the_callers_ids() {
    let lab = Lab::new();
    let (mut root, mut user) = (lab.client(A), lab.client(A).acting(1000, 1000, &[50]));
    let top = lab.root(A);
    let etc = root.find(&top, "etc");
    let hosts = user.find(&etc, "hosts");
    assert_eq!(status(user.read(&hosts, 0, 10)), NFS3ERR_ACCES);
    assert_eq!(user.access(&hosts, 0x3f), 0);
    assert_eq!(root.access(&hosts, 0x3f), 0x01 | 0x04 | 0x08);
    assert_eq!(user.access(&etc, 0x3f), 0x01 | 0x02);
    assert_eq!(status(user.create(&etc, "mine", createhow3::GUARDED(mode(0o644)))), NFS3ERR_ACCES);
    assert_eq!(status(user.setattr(&hosts, mode(0o666))), NFS3ERR_PERM);

    // A supplementary group counts, and what is made belongs to the caller.
    let shared = handle(root.mkdir(&top, "shared").unwrap().obj);
    root.setattr(&shared, sattr3 { gid: set_gid3::Some(50), mode: set_mode3::Some(0o3770), ..sattr3::default() })
        .unwrap();
    let made = user.file(&shared, "mine");
    let attributes = user.attributes(&made);
    assert_eq!((attributes.uid, attributes.gid), (1000, 50)); // set-gid directory
    let mut stranger = lab.client(A).acting(1001, 1001, &[]);
    assert_eq!(status(stranger.lookup(&shared, "mine")), NFS3ERR_ACCES);
    // The sticky bit: a group member removes only its own.
    let mut member = lab.client(A).acting(1002, 50, &[]);
    assert_eq!(status(member.remove(&shared, "mine")), NFS3ERR_PERM);
    user.remove(&shared, "mine").unwrap();

    // The owner may write what it opened before it took its own right away.
    let own = user.file(&shared, "own");
    user.setattr(&own, mode(0)).unwrap();
    user.write(&own, 0, b"x", stable_how::UNSTABLE).unwrap();
    assert_eq!(status(member.write(&own, 0, b"x", stable_how::UNSTABLE)), NFS3ERR_ACCES);

    // Only root gives files away and makes devices; -1 is nobody, never root.
    assert_eq!(status(user.setattr(&own, sattr3 { uid: set_uid3::Some(0), ..sattr3::default() })), NFS3ERR_PERM);
    let device = |client: &mut Client, dir: &nfs_fh3| -> MKNOD3res {
        let spec = specdata3 { specdata1: 1, specdata2: 3 };
        let what = mknoddata3::NF3CHR(devicedata3 { dev_attributes: mode(0o666), spec });
        client.call(NFS_PROGRAM::NFSPROC3_MKNOD, &MKNOD3args { where_: at(dir, "null"), what })
    };
    assert_eq!(status(device(&mut user, &shared)), NFS3ERR_PERM);
    device(&mut root, &shared).unwrap();
    let mut minus_one = lab.client(A).acting(u32::MAX, u32::MAX, &[]);
    assert_eq!(status(minus_one.read(&hosts, 0, 10)), NFS3ERR_ACCES);
    // And after all of it the threads are root again.
    for _ in 0..20 {
        assert_eq!(root.read(&hosts, 0, 10).unwrap().data.as_ref(), b"lower\n");
    }
}

#[test]
fn writing_takes_set_id_bits_from_all_but_root() {
    let lab = Lab::new();
    let (mut root, mut user) = (lab.client(A), lab.client(A).acting(1000, 1000, &[]));
    let suid = root.find(&lab.root(A), "suid");
    root.setattr(&suid, mode(0o4777)).unwrap();
    root.write(&suid, 0, b"x", stable_how::UNSTABLE).unwrap();
    assert_eq!(root.attributes(&suid).mode, 0o4777);
    user.write(&suid, 0, b"x", stable_how::UNSTABLE).unwrap();
    assert_eq!(root.attributes(&suid).mode, 0o777);
}

#[test]
fn every_kind_of_file_is_made_and_told() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let mut mknod = |name: &str, what| -> fattr3 {
        let made: MKNOD3res = client.call(NFS_PROGRAM::NFSPROC3_MKNOD, &MKNOD3args { where_: at(&root, name), what });
        match made.expect(name).obj_attributes {
            post_op_attr::Some(attributes) => attributes,
            post_op_attr::None => panic!("no attributes"),
        }
    };
    let spec = specdata3 { specdata1: 259, specdata2: 70_000 };
    let block = mknod("blk", mknoddata3::NF3BLK(devicedata3 { dev_attributes: mode(0o640), spec: spec.clone() }));
    assert_eq!((block.type_, block.mode, block.rdev), (ftype3::NF3BLK, 0o640, spec));
    assert_eq!(mknod("fifo", mknoddata3::NF3FIFO(mode(0o600))).type_, ftype3::NF3FIFO);
    assert_eq!(mknod("sock", mknoddata3::NF3SOCK(mode(0o600))).type_, ftype3::NF3SOCK);
    // A pipe is never opened: it would block.
    let fifo = client.find(&root, "fifo");
    assert_eq!(status(client.read(&fifo, 0, 1)), NFS3ERR_INVAL);
    assert_eq!(status(client.write(&fifo, 0, b"x", stable_how::UNSTABLE)), NFS3ERR_INVAL);
    client.setattr(&fifo, mode(0o622)).unwrap();
    assert_eq!(client.attributes(&fifo).mode, 0o622);

    let symlink = symlinkdata3 { symlink_attributes: sattr3::default(), symlink_data: b"a/b".to_vec().into() };
    let made: SYMLINK3res =
        client.call(NFS_PROGRAM::NFSPROC3_SYMLINK, &SYMLINK3args { where_: at(&root, "sym"), symlink });
    let link = handle(made.unwrap().obj);
    let text: READLINK3res = client.call(NFS_PROGRAM::NFSPROC3_READLINK, &READLINK3args { symlink: link.clone() });
    assert_eq!(text.unwrap().data.0.as_ref(), b"a/b");
    client.link(&link, &root, "sym2").unwrap();
    assert_eq!(client.attributes(&link).nlink, 2);
    // A whiteout is overlayfs's own.
    let whiteout = mknoddata3::NF3CHR(devicedata3 { dev_attributes: mode(0), spec: specdata3::default() });
    let refused: MKNOD3res =
        client.call(NFS_PROGRAM::NFSPROC3_MKNOD, &MKNOD3args { where_: at(&root, "wh"), what: whiteout });
    assert_eq!(status(refused), NFS3ERR_PERM);
}

#[test]
fn hard_links_of_the_image_stay_one_file() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let (file, hard) = (client.find(&root, "file"), client.find(&root, "hard"));
    assert_eq!(client.attributes(&file).fileid, client.attributes(&hard).fileid);
    client.write(&file, 0, b"DATA", stable_how::UNSTABLE).unwrap();
    assert_eq!(client.read(&hard, 0, 10).unwrap().data.as_ref(), b"DATA\n");
    assert_eq!(client.find(&root, "file"), file, "the handle outlives the copy-up");
    client.link(&file, &root, "third").unwrap();
    assert_eq!(client.attributes(&hard).nlink, 3);
}

#[test]
fn names_and_renames_follow_the_letter() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let etc = client.find(&root, "etc");
    for (name, expected) in [(".", NFS3ERR_INVAL), ("..", NFS3ERR_EXIST), ("d", NFS3_OK), ("hosts", NFS3ERR_NOTDIR)] {
        let result = client.rmdir(&etc, name);
        match expected {
            NFS3_OK => drop(result.unwrap()),
            _ => assert_eq!(status(result), expected, "{name}"),
        }
    }
    assert_eq!(status(client.rmdir(&root, "etc")), NFS3ERR_NOTEMPTY);
    assert_eq!(status(client.remove(&root, "etc")), NFS3ERR_ISDIR);
    assert_eq!(status(client.rename(&root, ".", &root, "x")), NFS3ERR_INVAL);
    assert_eq!(status(client.rename(&root, "file", &root, "etc")), NFS3ERR_ISDIR);
    client.rename(&root, "file", &etc, "hosts").unwrap();
    assert_eq!(status(client.mkdir(&root, "..")), NFS3ERR_EXIST);
    let (long, longer) = ("n".repeat(255), "n".repeat(256));
    client.file(&root, &long);
    assert_eq!(status(client.create(&root, &longer, createhow3::GUARDED(mode(0o644)))), NFS3ERR_NAMETOOLONG);
    assert_eq!(status(client.lookup(&root, &longer)), NFS3ERR_NAMETOOLONG);
    assert_eq!(status(client.lookup(&root, "a/b")), NFS3ERR_INVAL);
    assert_eq!(status(client.lookup(&etc, "hosts\0")), NFS3ERR_INVAL);
    client.file(&root, "odd\n\u{1}\\name");
    // A directory's own names.
    assert_eq!(client.find(&etc, "."), etc);
    assert_eq!(client.find(&etc, ".."), root);
    // Into its own child, and onto a full directory.
    let sub = handle(client.mkdir(&root, "sub").unwrap().obj);
    assert_eq!(status(client.rename(&root, "sub", &sub, "x")), NFS3ERR_INVAL);
    client.file(&sub, "full");
    client.mkdir(&root, "other").unwrap();
    assert_eq!(status(client.rename(&root, "other", &root, "sub")), NFS3ERR_NOTEMPTY);
    client.remove(&sub, "full").unwrap();
    client.rename(&root, "other", &root, "sub").unwrap();
}

#[test]
fn setattr_is_guarded_and_sets_times_to_the_nanosecond() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let file = client.file(&root, "f");
    let times = sattr3 {
        atime: set_atime::SET_TO_CLIENT_TIME(nfstime3 { seconds: 1, nseconds: 999_999_999 }),
        mtime: set_mtime::SET_TO_CLIENT_TIME(nfstime3 { seconds: 4_000_000_000, nseconds: 1 }),
        size: set_size3::Some(10),
        ..sattr3::default()
    };
    let old = client.attributes(&file).ctime;
    let mut guarded = |guard: nfstime3| -> SETATTR3res {
        let guard = sattrguard3::Some(guard);
        let args = SETATTR3args { object: file.clone(), new_attributes: times.clone(), guard };
        client.call(NFS_PROGRAM::NFSPROC3_SETATTR, &args)
    };
    assert_eq!(status(guarded(nfstime3 { seconds: 5, nseconds: 5 })), NFS3ERR_NOT_SYNC);
    guarded(old).unwrap();
    let attributes = client.attributes(&file);
    assert_eq!(attributes.size, 10);
    assert_eq!((attributes.atime.seconds, attributes.atime.nseconds), (1, 999_999_999));
    assert_eq!((attributes.mtime.seconds, attributes.mtime.nseconds), (4_000_000_000, 1));
    assert_eq!(status(client.setattr(&root, sattr3 { size: set_size3::Some(0), ..sattr3::default() })), NFS3ERR_ISDIR);
}

#[test]
fn an_exclusive_create_is_recognised_after_a_restart() {
    let mut lab = Lab::new();
    let root = lab.root(A);
    let verifier = [0xab, 1, 2, 3, 4, 5, 6, 7];
    let first = lab.client(A).create(&root, "excl", createhow3::EXCLUSIVE(createverf3(verifier))).unwrap();
    lab.restart();
    let mut client = lab.client(A);
    let again = client.create(&root, "excl", createhow3::EXCLUSIVE(createverf3(verifier))).unwrap();
    assert_eq!(handle(first.obj), handle(again.obj));
    assert_eq!(status(client.create(&root, "excl", createhow3::EXCLUSIVE(createverf3([9; 8])))), NFS3ERR_EXIST);
    // UNCHECKED takes what is there, and cuts it where a size is given.
    let file = client.find(&root, "file");
    let size = sattr3 { size: set_size3::Some(0), ..sattr3::default() };
    client.create(&root, "file", createhow3::UNCHECKED(mode(0o600))).unwrap();
    assert_eq!(client.attributes(&file).size, 5);
    client.create(&root, "file", createhow3::UNCHECKED(size)).unwrap();
    assert_eq!((client.attributes(&file).size, client.attributes(&file).mode), (0, 0o644));
}

#[test]
fn a_repeated_change_is_answered_not_done_again_also_over_a_new_connection() {
    let lab = Lab::new();
    let root = lab.root(A);
    let remove = |client: &mut Client, uid| {
        client.xid = 4711;
        client.uid = uid;
        let call = [client.header(100_003, 3, 12), packed(&REMOVE3args { object: at(&root, "file") })].concat();
        client.send(&call);
        client.receive().unwrap()
    };
    let first = remove(&mut lab.client(A), 0);
    assert_eq!(first[24..28], [0; 4]);
    assert_eq!(remove(&mut lab.client(A), 0), first);
    // Other credentials make it another call.
    assert_eq!(remove(&mut lab.client(A), 1)[24..28], (NFS3ERR_NOENT as u32).to_be_bytes());
}

#[test]
fn a_listing_loses_nothing_while_its_entries_are_removed() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    // A lower directory: the first removal copies it up, and the kernel's own offsets change their meaning.
    let merged = client.find(&root, "merged");
    let (mut cookie, mut removed) = (0, 0);
    loop {
        let (page, eof) = client.readdir(&merged, cookie, 512);
        for (name, next) in page {
            cookie = next;
            if name.starts_with('f') {
                client.remove(&merged, &name).unwrap();
                removed += 1;
            }
        }
        if eof {
            break;
        }
    }
    assert_eq!(removed, 200);
    client.rmdir(&root, "merged").unwrap();
}

#[test]
fn names_made_and_removed_are_listed_as_they_are() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let merged = client.find(&root, "merged");
    for n in 0..50 {
        client.file(&merged, &format!("new{n}"));
        client.remove(&merged, &format!("f{}", n + 1)).unwrap();
    }
    let mut expected: Vec<String> = (0..50).map(|n| format!("new{n}")).collect();
    expected.extend((51..=200).map(|n| format!("f{n}")));
    expected.sort();
    assert_eq!(client.names(&merged), expected);
    // READDIRPLUS tells the same names, each with the attributes and the handle of LOOKUP.
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let (page, eof) = client.readdirplus(&merged, cookie, 2000);
        for entry in page {
            cookie = entry.cookie;
            let name = text(&entry.name.0);
            let found = client.lookup(&merged, &name).unwrap();
            assert_eq!(handle(entry.name_handle), found.object, "{name}");
            assert_eq!(entry.name_attributes.unwrap().fileid, entry.fileid);
            assert_eq!(found.obj_attributes.unwrap().fileid, entry.fileid);
            names.push(name);
        }
        if eof {
            break;
        }
    }
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    assert_eq!(names, expected);
    let too_small = READDIR3args { dir: merged, cookie: 0, cookieverf: cookieverf3([0; 8]), count: 100 };
    assert_eq!(status(client.call::<READDIR3res>(NFS_PROGRAM::NFSPROC3_READDIR, &too_small)), NFS3ERR_TOOSMALL);
}

#[test]
fn handles_outlive_restart_remount_and_copy_up() {
    let mut lab = Lab::new();
    let root = lab.root(A);
    let mut client = lab.client(A);
    let (file, etc) = (client.find(&root, "file"), client.find(&root, "etc"));
    let made = client.file(&etc, "made");
    let fileid = client.attributes(&file).fileid;
    let verifier = client.write(&made, 0, b"x", stable_how::UNSTABLE).unwrap().verf;
    lab.server = None;
    lab.unmount();
    lab.mount();
    lab.start();
    let mut client = lab.client(A);
    for handle in [&root, &file, &etc, &made] {
        client.attributes(handle);
    }
    assert_ne!(client.commit(&made).unwrap().verf, verifier);
    client.write(&file, 0, b"copied up", stable_how::FILE_SYNC).unwrap();
    lab.server = None;
    lab.unmount();
    lab.mount();
    lab.start();
    let mut client = lab.client(A);
    assert_eq!(client.attributes(&file).fileid, fileid);
    assert_eq!(client.find(&root, "file"), file);
    assert_eq!(client.find(&etc, "made"), made);
}

#[test]
fn a_pulled_stick_makes_clients_wait_and_go_on() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let file = client.find(&root, "file");
    let before = client.write(&file, 0, b"x", stable_how::UNSTABLE).unwrap().verf;
    // As the store would: unpublish is not even needed for the descriptors to be let go.
    lab.server.as_ref().unwrap().release_trees();
    lab.unmount();
    assert_eq!(status(client.getattr(&file)), NFS3ERR_JUKEBOX);
    assert_eq!(status(client.getattr(&root)), NFS3ERR_JUKEBOX);
    assert_eq!(lab.mnt(A, "/clients/a"), Err(10006));
    // While no store is open nothing is known of any client.
    let known = (*lab.directory.get()).clone();
    lab.directory.set(Default::default());
    assert_eq!(status(client.getattr(&file)), NFS3ERR_JUKEBOX);
    assert_eq!(lab.mnt(A, "/clients/a"), Err(13));
    lab.directory.set(known);
    lab.mount();
    assert_eq!(client.attributes(&file).size, 5);
    // What was UNSTABLE may be lost: the client must see that.
    assert_ne!(client.commit(&file).unwrap().verf, before);
}

#[test]
fn trees_that_are_not_published_are_let_go_by_themselves() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let file = client.find(&root, "file");
    client.read(&file, 0, 1).unwrap();
    lab.directory.set(Default::default());
    // The sweep comes within a quarter of a second; unmounting is tried until it works.
    let folder = lab.folder().display().to_string();
    run(&format!("cd {folder}; for i in $(seq 100); do umount a 2>/dev/null && exit 0; sleep 0.1; done; exit 1"));
}

#[test]
fn no_client_reaches_another_ones_files() {
    let lab = Lab::new();
    let (mut a, mut b) = (lab.client(A), lab.client(B));
    let root = lab.root(A);
    assert_eq!(status(b.getattr(&root)), NFS3ERR_ACCES);
    assert_eq!(lab.mnt(B, "/clients/a"), Err(13));
    assert_eq!(lab.mnt(A, "/"), Err(13));
    assert_eq!(lab.mnt(A, "/clients/a/../b"), Err(13));
    assert_eq!(lab.mnt(A, "/clients/a/up"), Err(20));
    assert_eq!(lab.mnt(A, "/clients/a/nothing"), Err(2));
    assert_eq!(lab.mnt(A, &format!("/clients/a/{}", "x".repeat(10_000))), Err(63));
    assert_eq!(lab.mnt(A, "/clients/a/etc").unwrap(), a.find(&root, "etc"));
    // Forged, cut and lengthened handles.
    let mut forged = root.data.to_vec();
    forged[10] ^= 1;
    assert_eq!(status(a.getattr(&nfs_fh3 { data: Opaque::owned(forged) })), NFS3ERR_BADHANDLE);
    let cut = root.data[..20].to_vec();
    assert_eq!(status(a.getattr(&nfs_fh3 { data: Opaque::owned(cut) })), NFS3ERR_BADHANDLE);
    assert_eq!(a.raw(100_003, 3, 1, &packed(&Opaque::owned(vec![1; 65]))), None);
    // The root's parent is the root; a link is never followed.
    assert_eq!(a.find(&root, ".."), root);
    let outside = a.find(&root, "outside");
    assert_eq!(a.attributes(&outside).type_, ftype3::NF3LNK);
    assert_eq!(status(a.lookup(&outside, "x")), NFS3ERR_NOTDIR);
    // EXPORT and DUMP tell a client of itself.
    let mut mount = Client::connect(lab.ports().mount, B);
    let exports = text(&mount.raw(100_005, 3, 5, &[]).unwrap());
    assert!(exports.contains("/clients/b") && !exports.contains("/clients/a"), "{exports}");
    let dump = text(&mount.raw(100_005, 3, 2, &[]).unwrap());
    assert!(!dump.contains("/clients"), "{dump}");
    // Across a client's own two trees nothing moves.
    let boot = lab.mnt(A, "/clients/a-boot").unwrap();
    assert_eq!(status(a.rename(&root, "file", &boot, "file")), NFS3ERR_XDEV);
    assert_eq!(a.attributes(&boot).fsid, 3);
}

#[test]
fn unprivileged_ports_are_refused_by_default() {
    let mut lab = Lab::new();
    let root = lab.root(A);
    lab.options.allow_unprivileged_ports = false;
    lab.restart();
    assert_eq!(status(lab.client(A).getattr(&root)), NFS3ERR_ACCES);
    assert_eq!(lab.mnt(A, "/clients/a"), Err(13));
}

#[test]
fn a_read_only_export_refuses_every_change() {
    let lab = Lab::new();
    let mut directory = (*lab.directory.get()).clone();
    directory.clients[0].root.read_only = true;
    lab.directory.set(directory);
    let (mut client, root) = (lab.client(A), lab.root(A));
    let file = client.find(&root, "file");
    assert_eq!(status(client.write(&file, 0, b"x", stable_how::UNSTABLE)), NFS3ERR_ROFS);
    assert_eq!(status(client.create(&root, "new", createhow3::GUARDED(mode(0o644)))), NFS3ERR_ROFS);
    assert_eq!(status(client.remove(&root, "file")), NFS3ERR_ROFS);
    assert_eq!(status(client.setattr(&file, mode(0o600))), NFS3ERR_ROFS);
    assert_eq!(client.access(&file, 0x3f), 0x01);
    assert_eq!(client.read(&file, 0, 4).unwrap().data.as_ref(), b"data");
}

#[test]
fn a_removed_files_room_is_free_at_once() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let fsstat = |client: &mut Client| {
        let args = FSSTAT3args { fsroot: root.clone() };
        client.call::<FSSTAT3res>(NFS_PROGRAM::NFSPROC3_FSSTAT, &args).unwrap().fbytes
    };
    let before = fsstat(&mut client);
    let file = client.file(&root, "big");
    for n in 0..64 {
        client.write(&file, n << 18, &vec![1; 256 << 10], stable_how::UNSTABLE).unwrap();
    }
    client.commit(&file).unwrap();
    assert!(fsstat(&mut client) <= before - (16 << 20));
    client.remove(&root, "big").unwrap();
    // A sync(2) of anybody on this machine keeps a removed file for a moment, also on a local ext4 (2026-11-29: 5 of 502
    // times beside a loop of them, 24 ms at most). A file that the server kept would stay for two seconds.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(1);
    while fsstat(&mut client) < before - (1 << 20) {
        assert!(std::time::Instant::now() < end, "a removed file's room is not free");
    }
    // A full stick is told as such, and what was there stays.
    let full = client.file(&root, "full");
    let error =
        (0..1000).find_map(|n| match client.write(&full, n << 18, &vec![1; 256 << 10], stable_how::FILE_SYNC) {
            Nfs3Result::Ok(_) => None,
            Nfs3Result::Err((status, _)) => Some(status),
        });
    assert_eq!(error, Some(NFS3ERR_NOSPC));
}

#[test]
fn modes_are_the_clients_alone() {
    // The process's own umask counts for nothing.
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    client.create(&root, "open", createhow3::GUARDED(mode(0o666))).unwrap();
    let metadata = std::fs::metadata(lab.path("open")).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.uid()), (0o666, 0));
}

#[test]
fn what_file_systems_can_do_is_told_truly() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let info: FSINFO3res = client.call(NFS_PROGRAM::NFSPROC3_FSINFO, &FSINFO3args { fsroot: root.clone() });
    let info = info.unwrap();
    assert!(info.rtmax >= 131_072 && info.wtmax >= 131_072);
    assert_eq!(info.properties, FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS | FSF3_CANSETTIME);
    let conf: PATHCONF3res = client.call(NFS_PROGRAM::NFSPROC3_PATHCONF, &PATHCONF3args { object: root });
    let conf = conf.unwrap();
    assert_eq!((conf.name_max, conf.no_trunc, conf.case_preserving), (255, true, true));
}

#[test]
fn mount_and_portmap_answer_over_udp() {
    let lab = Lab::new();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let ask = |port: u16, call: Vec<u8>| {
        socket.send_to(&call, (A, port)).unwrap();
        let mut reply = [0; 1000];
        let (count, _) = socket.recv_from(&mut reply).unwrap();
        reply[..count].to_vec()
    };
    let header = |program, version, procedure| lab.client(A).header(program, version, procedure);
    let getport: Vec<u8> = [100_003u32, 3, 6, 0].iter().flat_map(|item| item.to_be_bytes()).collect();
    let reply = ask(lab.ports().portmap, [header(100_000, 2, 3), getport].concat());
    assert_eq!(reply[24..28], u32::from(lab.ports().nfs).to_be_bytes());
    let path = packed(&Opaque::borrowed(b"/clients/a"));
    let reply = ask(lab.ports().mount, [header(100_005, 3, 1), path].concat());
    assert_eq!(reply[24..28], [0; 4]);
    let reply = ask(lab.ports().mount, header(100_003, 3, 0));
    assert_eq!(reply[20..24], [0, 0, 0, 1], "NFS itself is not on UDP");
}
