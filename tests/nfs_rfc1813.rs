//! RFC 1813 procedure by procedure, as tables: what each answers for each kind of
//! object, for every argument out of range, and with which attributes before and after.
//! Needs root, loop devices, ext4 and overlayfs (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;

use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::nfsstat3::*;
use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::xdr_codec::Opaque;

/// A call's status, by procedure number; `None` where RPC itself refused it.
fn status_of(client: &mut Client, procedure: u32, args: &[&[u8]]) -> Option<u32> {
    let reply = client.raw(100_003, 3, procedure, &args.concat())?;
    Some(u32::from_be_bytes(reply[..4].try_into().unwrap()))
}

fn name(name: &str) -> Vec<u8> {
    packed(&Opaque::borrowed(name.as_bytes()))
}

const OK: u32 = 0;
const PERM: u32 = 1;
const ACCES: u32 = 13;
const EXIST: u32 = 17;
const NOTDIR: u32 = 20;
const ISDIR: u32 = 21;
const INVAL: u32 = 22;
const NAMETOOLONG: u32 = 63;
const STALE: u32 = 70;
const BADHANDLE: u32 = 10001;
const TOOSMALL: u32 = 10005;
const BADTYPE: u32 = 10007;

/// An `sattr3` that sets nothing.
const NOTHING: [u8; 24] = [0; 24];

/// An object of each kind, and one that is gone.
struct Objects {
    root: nfs_fh3,
    kinds: Vec<(&'static str, nfs_fh3)>,
}

fn objects(lab: &Lab, client: &mut Client) -> Objects {
    let root = lab.root(A);
    let directory = handle(client.mkdir(&root, "directory").unwrap().obj);
    let file = client.file(&root, "regular");
    let symlink = symlinkdata3 { symlink_attributes: sattr3::default(), symlink_data: b"text".to_vec().into() };
    let args = SYMLINK3args { where_: at(&root, "symlink"), symlink };
    let symlink = handle(client.call::<SYMLINK3res>(NFS_PROGRAM::NFSPROC3_SYMLINK, &args).unwrap().obj);
    let args = MKNOD3args { where_: at(&root, "fifo"), what: mknoddata3::NF3FIFO(mode(0o666)) };
    let fifo = handle(client.call::<MKNOD3res>(NFS_PROGRAM::NFSPROC3_MKNOD, &args).unwrap().obj);
    let gone = client.file(&root, "gone");
    client.remove(&root, "gone").unwrap();
    let kinds = vec![("directory", directory), ("file", file), ("link", symlink), ("fifo", fifo), ("gone", gone)];
    Objects { root, kinds }
}

#[test]
fn each_procedure_answers_for_each_kind_of_object() {
    let lab = Lab::new();
    let mut client = lab.client(A);
    let objects = objects(&lab, &mut client);
    let zero = [0u8; 8];
    let word = |value: u32| value.to_be_bytes();
    let (nowhere, cookie) = (name("new"), [zero, zero].concat());
    // Procedure, what stands behind the handle, and the answers for directory, file, link, fifo.
    let table: Vec<(u32, Vec<u8>, [u32; 4])> = vec![
        (1, vec![], [OK; 4]),
        (2, [&NOTHING[..], &word(0)].concat(), [OK; 4]),
        (3, name("no"), [2, NOTDIR, NOTDIR, NOTDIR]),
        (4, word(0x3f).to_vec(), [OK; 4]),
        (5, vec![], [INVAL, INVAL, OK, INVAL]),
        (6, [&zero[..], &word(10)].concat(), [ISDIR, OK, INVAL, INVAL]),
        (7, [&zero[..], &word(1), &word(0), &name("x")].concat(), [ISDIR, OK, INVAL, INVAL]),
        (8, [&nowhere[..], &word(1), &NOTHING].concat(), [OK, NOTDIR, NOTDIR, NOTDIR]),
        (9, [&name("sub")[..], &NOTHING].concat(), [OK, NOTDIR, NOTDIR, NOTDIR]),
        (10, [&name("sym")[..], &NOTHING, &name("text")].concat(), [OK, NOTDIR, NOTDIR, NOTDIR]),
        (11, [&name("sock")[..], &word(6), &NOTHING].concat(), [OK, NOTDIR, NOTDIR, NOTDIR]),
        (12, name("new"), [OK, NOTDIR, NOTDIR, NOTDIR]),
        (13, name("sub"), [OK, NOTDIR, NOTDIR, NOTDIR]),
        (16, [&cookie[..], &word(4096)].concat(), [OK, NOTDIR, NOTDIR, NOTDIR]),
        (17, [&cookie[..], &word(4096), &word(8192)].concat(), [OK, NOTDIR, NOTDIR, NOTDIR]),
        (18, vec![], [OK; 4]),
        (19, vec![], [OK; 4]),
        (20, vec![], [OK; 4]),
        (21, [&zero[..], &word(0)].concat(), [ISDIR, OK, INVAL, INVAL]),
    ];
    for (procedure, rest, expected) in table {
        let expected = expected.into_iter().chain([STALE]);
        for ((kind, object), expected) in objects.kinds.iter().zip(expected) {
            let found = status_of(&mut client, procedure, &[&packed(object), &rest]);
            assert_eq!(found, Some(expected), "procedure {procedure} on a {kind}");
        }
        // No handle at all, one of another length, one with a bit changed.
        let mut forged = packed(&objects.root);
        forged[20] ^= 1;
        for bad in [name(""), name("short"), name(&"x".repeat(64)), forged] {
            let found = status_of(&mut client, procedure, &[&bad, &rest]);
            assert_eq!(found, Some(BADHANDLE), "procedure {procedure} on no handle");
        }
        // 65 bytes are no `nfs_fh3`, and what is cut has no answer but GARBAGE_ARGS.
        assert_eq!(status_of(&mut client, procedure, &[&name(&"x".repeat(65)), &rest]), None, "{procedure}");
        let root = packed(&objects.root);
        assert_eq!(status_of(&mut client, procedure, &[&root[..root.len() - 4]]), None, "{procedure}");
    }
    assert_eq!(status_of(&mut client, 22, &[&packed(&objects.root)]), None);
}

#[test]
fn names_are_judged_alike_wherever_they_stand() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let (root_fh, file) = (packed(&root), packed(&client.file(&root, "regular")));
    let how = [&1u32.to_be_bytes()[..], &NOTHING].concat();
    let fifo = [&7u32.to_be_bytes()[..], &NOTHING].concat();
    let link = [&NOTHING[..], &name("text")].concat();
    let new = [&root_fh[..], &name("new")].concat();
    for (bad, expected) in [("a/b", INVAL), ("a\0b", INVAL), ("", INVAL), (&"n".repeat(256), NAMETOOLONG)] {
        let bad = name(bad);
        let calls: [(u32, Vec<&[u8]>); 10] = [
            (3, vec![&root_fh, &bad]),
            (8, vec![&root_fh, &bad, &how]),
            (9, vec![&root_fh, &bad, &NOTHING]),
            (10, vec![&root_fh, &bad, &link]),
            (11, vec![&root_fh, &bad, &fifo]),
            (12, vec![&root_fh, &bad]),
            (13, vec![&root_fh, &bad]),
            (14, vec![&root_fh, &bad, &new]),
            (14, vec![&root_fh, &new[root_fh.len()..], &root_fh, &bad]),
            (15, vec![&file, &root_fh, &bad]),
        ];
        for (procedure, args) in calls {
            assert_eq!(status_of(&mut client, procedure, &args), Some(expected), "procedure {procedure}");
        }
    }
    for dot in [".", ".."] {
        for (procedure, rest) in [(8, &how[..]), (9, &NOTHING), (10, &link), (11, &fifo)] {
            assert_eq!(status_of(&mut client, procedure, &[&root_fh, &name(dot), rest]), Some(EXIST), "{procedure}");
        }
        assert_eq!(status_of(&mut client, 15, &[&file, &root_fh, &name(dot)]), Some(EXIST));
    }
}

#[test]
fn nodes_that_mknod_does_not_make_are_a_bad_type() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let mut mknod = |kind: u32| status_of(&mut client, 11, &[&packed(&root), &name("n"), &kind.to_be_bytes()]);
    // NF3REG, NF3DIR, NF3LNK; what is no `ftype3` is garbage.
    assert_eq!([1, 2, 5].map(&mut mknod), [Some(BADTYPE); 3]);
    assert_eq!([0, 8, u32::MAX].map(&mut mknod), [None; 3]);
    let device =
        mknoddata3::NF3CHR(devicedata3 { dev_attributes: mode(0o666), spec: specdata3 { specdata1: 1, specdata2: 3 } });
    let mut person = lab.client(A).acting(65534, 65534, &[]);
    let mut client = lab.client(A);
    client.setattr(&root, mode(0o777)).unwrap();
    let args = MKNOD3args { where_: at(&root, "null"), what: device };
    assert_eq!(status(person.call::<MKNOD3res>(NFS_PROGRAM::NFSPROC3_MKNOD, &args)), NFS3ERR_PERM);
    let args = MKNOD3args { where_: at(&root, "pipe"), what: mknoddata3::NF3FIFO(mode(0o666)) };
    person.call::<MKNOD3res>(NFS_PROGRAM::NFSPROC3_MKNOD, &args).unwrap();
}

#[test]
fn offsets_and_sizes_past_what_a_file_holds_are_refused() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let file = client.file(&root, "f");
    client.write(&file, 0, b"data", stable_how::UNSTABLE).unwrap();
    for offset in [1 << 44, i64::MAX as u64 - 3, i64::MAX as u64, 1 << 63, u64::MAX - 3, u64::MAX] {
        assert_eq!(status(client.write(&file, offset, b"data", stable_how::UNSTABLE)), NFS3ERR_FBIG, "{offset}");
        let read = client.read(&file, offset, 10).unwrap();
        assert!(read.eof && read.count == 0, "{offset}");
        let size = sattr3 { size: set_size3::Some(offset), ..sattr3::default() };
        assert_eq!(status(client.setattr(&file, size)), NFS3ERR_FBIG, "{offset}");
    }
    assert_eq!(client.attributes(&file).size, 4);
    // A count that is not the data's: less is written, more is a lie.
    let (fh, zero) = (packed(&file), [0u8; 8]);
    let args = |count: u32| [&fh[..], &zero, &count.to_be_bytes(), &[0, 0, 0, 0], &name("abcd")].concat();
    assert_eq!(status_of(&mut client, 7, &[&args(2)]), Some(OK));
    assert_eq!(status_of(&mut client, 7, &[&args(5)]), None);
    assert_eq!(client.read(&file, 0, 10).unwrap().data.as_ref(), b"abta");
    // An unknown `stable_how`.
    let args = [&fh[..], &zero, &4u32.to_be_bytes(), &3u32.to_be_bytes(), &name("abcd")].concat();
    assert_eq!(status_of(&mut client, 7, &[&args]), None);
    let none = client.write(&file, 2, b"", stable_how::FILE_SYNC).unwrap();
    assert_eq!(none.count, 0);
}

#[test]
fn times_are_set_by_whom_the_kernel_lets() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let file = client.file(&root, "f");
    let mut person = lab.client(A).acting(65534, 65534, &[]);
    let (server, old) = (set_mtime::SET_TO_SERVER_TIME, nfstime3 { seconds: 1, nseconds: 2 });
    let mut times = |permissions: u32, atime: set_atime, mtime: set_mtime| {
        client.setattr(&file, mode(permissions)).unwrap();
        let new = sattr3 { atime, mtime, ..sattr3::default() };
        match person.setattr(&file, new) {
            Nfs3Result::Ok(_) => OK,
            Nfs3Result::Err((status, _)) => status as u32,
        }
    };
    // `touch`: whoever may write.
    assert_eq!(times(0o666, set_atime::SET_TO_SERVER_TIME, server), OK);
    assert_eq!(times(0o644, set_atime::SET_TO_SERVER_TIME, server), ACCES);
    // What a Linux client sends to truncate a file that is empty.
    assert_eq!(times(0o666, set_atime::DONT_CHANGE, server), OK);
    assert_eq!(times(0o644, set_atime::DONT_CHANGE, server), PERM);
    // Any other time: the owner.
    assert_eq!(times(0o666, set_atime::DONT_CHANGE, set_mtime::SET_TO_CLIENT_TIME(old)), PERM);
    let bad = nfstime3 { seconds: 1, nseconds: 1_000_000_000 };
    assert_eq!(times(0o666, set_atime::SET_TO_CLIENT_TIME(bad), set_mtime::DONT_CHANGE), INVAL);
    // A size and a time at once, as O_TRUNC.
    let new = sattr3 { size: set_size3::Some(0), mtime: set_mtime::SET_TO_SERVER_TIME, ..sattr3::default() };
    client.setattr(&file, mode(0o622)).unwrap();
    person.setattr(&file, new).unwrap();
}

#[test]
fn a_mode_for_a_symbolic_link_is_passed_over() {
    let lab = Lab::new();
    let mut client = lab.client(A);
    let objects = objects(&lab, &mut client);
    let (_, link) = &objects.kinds[2];
    let new = sattr3 { mode: set_mode3::Some(0o600), uid: set_uid3::Some(7), ..sattr3::default() };
    client.setattr(link, new).unwrap();
    let attributes = client.attributes(link);
    assert_eq!((attributes.mode, attributes.uid), (0o777, 7));
}

#[test]
fn nothing_moves_from_one_export_to_the_other() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let boot = lab.mnt(A, "/clients/a-boot").unwrap();
    let file = client.file(&root, "f");
    assert_eq!(status(client.rename(&root, "f", &boot, "f")), NFS3ERR_XDEV);
    assert_eq!(status(client.link(&file, &boot, "f")), NFS3ERR_XDEV);
    client.find(&root, "f");
}

#[test]
fn listings_bound_themselves_by_what_was_asked() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let merged = client.find(&root, "merged");
    let fh = packed(&merged);
    let (zero, word) = ([0u8; 8], |value: u32| value.to_be_bytes());
    for (count, expected) in [(0, TOOSMALL), (100, TOOSMALL), (512, OK), (u32::MAX, OK)] {
        let found = status_of(&mut client, 16, &[&fh, &zero, &zero, &word(count)]);
        assert_eq!(found, Some(expected), "READDIR of {count}");
        let found = status_of(&mut client, 17, &[&fh, &zero, &zero, &word(0), &word(count)]);
        assert_eq!(found, Some(expected), "READDIRPLUS of {count}");
    }
    for count in [512u32, 1024, 4096, 65536] {
        for procedure in [16, 17] {
            let counts = [word(count), word(count)];
            let rest: &[u8] = if procedure == 16 { &counts[0] } else { &counts.concat() };
            let reply = client.raw(100_003, 3, procedure, &[&fh[..], &zero, &zero, rest].concat()).unwrap();
            assert!(reply.len() <= 4 + count as usize, "{} bytes for {count}", reply.len());
        }
    }
    // A cookie of an entry that is gone, and one past all, are places as good as any.
    let (page, _) = client.readdir(&merged, 0, 1024);
    let (victim, cookie) = page.last().unwrap().clone();
    client.remove(&merged, &victim).unwrap();
    let mut rest = client.readdir(&merged, cookie, 60_000).0;
    rest.extend(page);
    assert_eq!(rest.len(), 202);
    assert_eq!(client.readdir(&merged, u64::MAX, 4096), (vec![], true));
    // Whatever verifier comes with a cookie: ours never changes.
    let args = [&fh[..], &cookie.to_be_bytes(), &[9; 8], &word(4096)].concat();
    assert_eq!(status_of(&mut client, 16, &[&args]), Some(OK));
}

/// The `wcc_data` of one change: size, mtime and ctime before, all after.
fn check_wcc(what: &str, wcc: &wcc_data, before: &fattr3, after: &fattr3) {
    let pre_op_attr::Some(told) = &wcc.before else { panic!("{what}: no attributes before") };
    let expected = wcc_attr { size: before.size, mtime: before.mtime, ctime: before.ctime };
    assert_eq!(packed(told), packed(&expected), "{what}: before");
    let post_op_attr::Some(told) = &wcc.after else { panic!("{what}: no attributes after") };
    assert_eq!(packed(told), packed(after), "{what}: after");
}

#[test]
fn every_change_tells_attributes_before_and_after_whether_it_was_done_or_not() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let dir = handle(client.mkdir(&root, "dir").unwrap().obj);
    let file = client.file(&dir, "file");
    type Change = fn(&mut Client, &nfs_fh3, &nfs_fh3) -> wcc_data;
    // Each is called twice: it is done the first time, and refused the second time.
    fn of<T, E>(result: Nfs3Result<T, E>, done: fn(T) -> wcc_data, refused: fn(E) -> wcc_data) -> wcc_data {
        match result {
            Nfs3Result::Ok(ok) => done(ok),
            Nfs3Result::Err((_, fail)) => refused(fail),
        }
    }
    let changes: [(&str, Change); 8] = [
        ("CREATE", |client, dir, _| {
            of(client.create(dir, "a", createhow3::GUARDED(mode(0o644))), |ok| ok.dir_wcc, |fail| fail.dir_wcc)
        }),
        ("MKDIR", |client, dir, _| of(client.mkdir(dir, "d"), |ok| ok.dir_wcc, |fail| fail.dir_wcc)),
        ("SYMLINK", |client, dir, _| {
            let symlink = symlinkdata3 { symlink_attributes: sattr3::default(), symlink_data: b"t".to_vec().into() };
            let args = SYMLINK3args { where_: at(dir, "s"), symlink };
            let result: SYMLINK3res = client.call(NFS_PROGRAM::NFSPROC3_SYMLINK, &args);
            of(result, |ok| ok.dir_wcc, |fail| fail.dir_wcc)
        }),
        ("MKNOD", |client, dir, _| {
            let args = MKNOD3args { where_: at(dir, "p"), what: mknoddata3::NF3FIFO(mode(0o600)) };
            let result: MKNOD3res = client.call(NFS_PROGRAM::NFSPROC3_MKNOD, &args);
            of(result, |ok| ok.dir_wcc, |fail| fail.dir_wcc)
        }),
        ("LINK", |client, dir, file| of(client.link(file, dir, "l"), |ok| ok.linkdir_wcc, |fail| fail.linkdir_wcc)),
        ("REMOVE", |client, dir, _| of(client.remove(dir, "a"), |ok| ok.dir_wcc, |fail| fail.dir_wcc)),
        ("RMDIR", |client, dir, _| of(client.rmdir(dir, "d"), |ok| ok.dir_wcc, |fail| fail.dir_wcc)),
        ("RENAME", |client, dir, _| {
            of(client.rename(dir, "s", dir, "t"), |ok| ok.fromdir_wcc, |fail| fail.fromdir_wcc)
        }),
    ];
    for (what, change) in changes {
        for time in ["done", "refused"] {
            let before = client.attributes(&dir);
            let wcc = change(&mut client, &dir, &file);
            check_wcc(&format!("{what}, {time}"), &wcc, &before, &client.attributes(&dir));
        }
    }
    let before = client.attributes(&file);
    let wcc = client.write(&file, 0, b"data", stable_how::FILE_SYNC).unwrap().file_wcc;
    check_wcc("WRITE", &wcc, &before, &client.attributes(&file));
    let before = client.attributes(&file);
    let wcc = client.setattr(&file, mode(0o600)).unwrap().obj_wcc;
    check_wcc("SETATTR", &wcc, &before, &client.attributes(&file));
    let before = client.attributes(&file);
    let guard = sattrguard3::Some(nfstime3 { seconds: 1, nseconds: 1 });
    let args = SETATTR3args { object: file.clone(), new_attributes: mode(0o644), guard };
    let guarded: SETATTR3res = client.call(NFS_PROGRAM::NFSPROC3_SETATTR, &args);
    let Nfs3Result::Err((NFS3ERR_NOT_SYNC, fail)) = guarded else {
        panic!("a guard that does not hold must give NFS3ERR_NOT_SYNC");
    };
    check_wcc("SETATTR, guarded", &fail.obj_wcc, &before, &client.attributes(&file));
    let mut person = lab.client(A).acting(65534, 65534, &[]);
    let Nfs3Result::Err((NFS3ERR_ACCES, fail)) = person.write(&file, 0, b"x", stable_how::UNSTABLE) else {
        panic!("somebody wrote to a file of mode 600");
    };
    check_wcc("WRITE, refused", &fail.file_wcc, &before, &client.attributes(&file));
}
