//! Packets that no honest client sends: each gets its error or a closed
//! connection, and the next client is served as if nothing had been.
//! Needs root, loop devices, ext4 and overlayfs (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use rootstock::nfs::Event;

fn is_closed(client: &mut Client) -> bool {
    match client.stream.read(&mut [0; 16]) {
        Ok(count) => count == 0,
        // Silence until the time-out is no closed connection.
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

fn serves(lab: &Lab) {
    assert!(lab.client(A).raw(100_003, 3, 0, &[]).is_some());
}

/// Resident memory of this process, which is the server's too.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_record_that_claims_two_gigabytes_closes_the_connection() {
    let lab = Lab::new();
    let before = resident_bytes();
    for _ in 0..50 {
        let mut client = lab.client(A);
        client.stream.write_all(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1]).unwrap();
        assert!(is_closed(&mut client));
    }
    assert!(resident_bytes() < before + (32 << 20));
    serves(&lab);
}

#[test]
fn lengths_that_lie_are_garbage_arguments() {
    let lab = Lab::new();
    let mut client = lab.client(A);
    for procedure in 1..22 {
        for length in [0xffff_fff0u32, 0xffff_ffff, 0x8000_0000, 65] {
            let mut args = length.to_be_bytes().to_vec();
            args.extend([0; 80]);
            client.xid += 1;
            let call = [client.header(100_003, 3, procedure), args].concat();
            client.send(&call);
            let reply = client.receive().unwrap();
            assert_eq!(reply[20..24], [0, 0, 0, 4], "procedure {procedure} length {length:#x}");
        }
    }
    serves(&lab);
}

#[test]
fn a_cut_call_of_every_length_is_answered_or_closes_the_connection() {
    let lab = Lab::new();
    let root = lab.root(A);
    let mut client = lab.client(A);
    let whole = [client.header(100_003, 3, 3), packed(&LOOKUP3args { what: at(&root, "file") })].concat();
    for cut in (0..whole.len()).step_by(4) {
        let mut client = lab.client(A);
        client.send(&whole[..cut]);
        match client.receive() {
            Ok(reply) => assert_ne!(reply.get(20..28), Some(&[0; 8][..]), "cut at {cut}"),
            Err(_) => assert!(cut < 64, "closed at {cut}, with a whole header"),
        }
    }
    client.send(&whole);
    client.receive().unwrap();
}

#[test]
fn unknown_flavors_are_denied_and_the_connection_stays() {
    let lab = Lab::new();
    let mut client = lab.client(A);
    for flavor in [2u32, 6, 300_001] {
        let mut call = client.header(100_003, 3, 1);
        call[24..28].copy_from_slice(&flavor.to_be_bytes());
        client.send(&call);
        let reply = client.receive().unwrap();
        assert_eq!(reply[4..20], [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
    }
    assert!(client.raw(100_003, 3, 0, &[]).is_some());
}

#[test]
fn fragments_of_one_byte_make_a_call() {
    let lab = Lab::new();
    let mut client = lab.client(A);
    let call = client.header(100_003, 3, 0);
    for (n, byte) in call.iter().enumerate() {
        let last = if n + 1 == call.len() { 0x8000_0000u32 } else { 0 };
        client.stream.write_all(&(last | 1).to_be_bytes()).unwrap();
        client.stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(client.receive().unwrap().len(), 24);
}

#[test]
fn a_client_that_reads_no_reply_stops_itself_and_nobody_else() {
    let lab = Lab::new();
    let (root, mut other) = (lab.root(A), lab.client(B));
    let mut client = lab.client(A);
    let file = client.file(&root, "big");
    client.write(&file, 0, &vec![7; 256 << 10], stable_how::UNSTABLE).unwrap();
    let before = resident_bytes();
    let call = [client.header(100_003, 3, 6), packed(&READ3args { file, offset: 0, count: 256 << 10 })].concat();
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mark = 0x8000_0000 | call.len() as u32;
    let record = [&mark.to_be_bytes()[..], &call].concat();
    // Gigabytes of replies are asked for; the server must stop reading the questions.
    let sent = (0..200_000).take_while(|_| client.stream.write_all(&record).is_ok()).count();
    assert!(sent < 200_000, "the server never stopped reading");
    assert!(resident_bytes() < before + (64 << 20), "{} MiB more", (resident_bytes() - before) >> 20);
    let root = lab.root(B);
    let start = Instant::now();
    for _ in 0..100 {
        other.attributes(&root);
    }
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn many_calls_at_once_are_all_answered() {
    let lab = Lab::new();
    let root = lab.root(A);
    let mut client = lab.client(A);
    let args = packed(&GETATTR3args { object: root });
    let mut expected = std::collections::BTreeSet::new();
    let mut stream = Vec::new();
    for _ in 0..2000 {
        client.xid += 1;
        expected.insert(client.xid);
        let call = [client.header(100_003, 3, 1), args.clone()].concat();
        stream.extend((0x8000_0000 | call.len() as u32).to_be_bytes());
        stream.extend(call);
    }
    let mut writer = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&stream).unwrap());
    while !expected.is_empty() {
        let reply = client.receive().unwrap();
        assert_eq!(reply[24..28], [0; 4]);
        assert!(expected.remove(&u32::from_be_bytes(reply[..4].try_into().unwrap())));
    }
    sender.join().unwrap();
}

#[test]
fn connections_of_one_address_are_bounded() {
    let lab = Lab::new();
    let mut clients: Vec<Client> = (0..100).map(|_| lab.client(A)).collect();
    // The last ones are served; the first ones had to go.
    assert!(clients[99].raw(100_003, 3, 0, &[]).is_some());
    assert!(is_closed(&mut clients[0]));
    assert!(lab.client(B).raw(100_003, 3, 0, &[]).is_some());
}

#[test]
fn refused_handles_are_told_once_a_second() {
    let lab = Lab::new();
    let mut root = lab.root(A).data.to_vec();
    root[9] ^= 1;
    let mut client = lab.client(A);
    for _ in 0..100 {
        client.getattr(&nfs_fh3 { data: root.clone().into() });
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let told = || -> Vec<u64> {
        let events = lab.events.lock().unwrap();
        events
            .iter()
            .filter_map(|event| if let Event::BadHandle { count, .. } = event { Some(*count) } else { None })
            .collect()
    };
    while told().iter().sum::<u64>() < 100 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(told().iter().sum::<u64>(), 100);
    assert!(told().len() <= 2, "{:?}", told());
}

#[test]
fn traffic_is_told_by_client() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(B), lab.root(B));
    let file = client.file(&root, "f");
    client.write(&file, 0, b"12345", stable_how::UNSTABLE).unwrap();
    client.read(&file, 0, 3).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut told = (0, 0, 0);
    // MNT, CREATE, WRITE and READ may be told in two parts.
    while told.0 < 4 && Instant::now() < deadline {
        told = lab.events.lock().unwrap().iter().fold((0, 0, 0), |sum, event| match event {
            Event::Traffic { address, calls, read_bytes, written_bytes } if *address == B => {
                (sum.0 + calls, sum.1 + read_bytes, sum.2 + written_bytes)
            }
            _ => sum,
        });
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(told, (4, 3, 5));
}

#[test]
fn the_server_stops_in_time_and_starts_again_on_the_same_ports() {
    let mut lab = Lab::new();
    let mut client = lab.client(A);
    assert!(client.raw(100_003, 3, 0, &[]).is_some());
    let ports = lab.ports();
    lab.options.nfs_port = ports.nfs;
    lab.options.mount_port = ports.mount;
    lab.options.portmap_port = ports.portmap;
    let start = Instant::now();
    lab.restart();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(is_closed(&mut client));
    serves(&lab);
}

#[test]
fn many_connections_over_few_threads_are_all_answered() {
    // A connection that found no thread was once forgotten, when a thread came free in that very moment.
    let mut lab = Lab::new();
    lab.options.workers = 4;
    lab.restart();
    let args = packed(&GETATTR3args { object: lab.root(A) });
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let mut client = lab.client(A);
            let args = &args;
            scope.spawn(move || {
                for _ in 0..300 {
                    for _ in 0..4 {
                        client.xid += 1;
                        let call = [client.header(100_003, 3, 1), args.clone()].concat();
                        client.send(&call);
                    }
                    for _ in 0..4 {
                        assert_eq!(client.receive().unwrap()[24..28], [0; 4]);
                    }
                }
            });
        }
    });
}

/// The whole reply to a call with this header and these arguments.
fn answered(client: &mut Client, call: &[u8]) -> Vec<u8> {
    client.send(call);
    client.receive().expect("a reply")
}

/// A call of NULL with the credential `body` of AUTH_SYS.
fn with_credential(client: &mut Client, body: &[u8]) -> Vec<u8> {
    client.xid += 1;
    let words = [client.xid, 0, 2, 100_003, 3, 0, 1];
    let head: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    let body = packed(&Opaque::borrowed(body));
    answered(client, &[head, body, vec![0; 8]].concat())
}

#[test]
fn credentials_at_and_past_their_bounds() {
    let lab = Lab::new();
    let mut client = lab.client(A);
    // `authsys_parms`: stamp, machine name, uid, gid, groups.
    let body = |machine: usize, groups: u32, given: u32, more: &[u8]| {
        let mut body = [packed(&1u32), packed(&Opaque::owned(vec![b'm'; machine])), vec![0; 8]].concat();
        body.extend(groups.to_be_bytes());
        (0..given).for_each(|gid| body.extend(gid.to_be_bytes()));
        body.extend(more);
        body
    };
    const ACCEPTED: [u8; 4] = [0; 4];
    // MSG_DENIED, AUTH_ERROR, AUTH_BADCRED
    const BAD: [u8; 12] = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
    for good in [body(0, 0, 0, &[]), body(255, 0, 0, &[]), body(255, 16, 16, &[]), body(3, 1, 1, &[])] {
        assert_eq!(with_credential(&mut client, &good)[8..12], ACCEPTED, "{} bytes", good.len());
    }
    let bad = [body(256, 0, 0, &[]), body(4, 17, 17, &[]), body(4, 16, 15, &[]), body(4, u32::MAX, 4, &[])];
    let bad = bad.into_iter().chain([vec![], vec![0; 3], body(380, 0, 0, &[]), vec![7; 401]]);
    for bad in bad {
        assert_eq!(with_credential(&mut client, &bad)[8..20], BAD, "{} bytes", bad.len());
    }
    serves(&lab);
}

#[test]
fn versions_are_refused_with_the_ones_that_are_served() {
    let lab = Lab::new();
    let mut client = lab.client(A);
    for version in [0u32, 1, 3, u32::MAX] {
        let mut call = client.header(100_003, 3, 0);
        call[8..12].copy_from_slice(&version.to_be_bytes());
        // MSG_DENIED, RPC_MISMATCH, 2 to 2
        assert_eq!(answered(&mut client, &call)[4..24], [1u32, 1, 0, 2, 2].map(u32::to_be_bytes).concat());
    }
    for version in [0u32, 2, 4, u32::MAX] {
        let call = client.header(100_003, version, 0);
        // PROG_MISMATCH, 3 to 3
        assert_eq!(answered(&mut client, &call)[20..], [2u32, 3, 3].map(u32::to_be_bytes).concat(), "{version}");
    }
    for (procedure, program) in [(22, 100_003), (u32::MAX, 100_003)] {
        let call = client.header(program, 3, procedure);
        assert_eq!(answered(&mut client, &call)[20..], 3u32.to_be_bytes(), "PROC_UNAVAIL {procedure}");
    }
    for program in [0, 100_227, u32::MAX] {
        let call = client.header(program, 3, 0);
        assert_eq!(answered(&mut client, &call)[20..], 1u32.to_be_bytes(), "PROG_UNAVAIL {program}");
    }
    // A reply, and what is neither call nor reply: there is nobody to answer.
    for kind in [1u32, 2, u32::MAX] {
        let mut client = lab.client(A);
        let mut call = client.header(100_003, 3, 0);
        call[4..8].copy_from_slice(&kind.to_be_bytes());
        client.send(&call);
        assert!(is_closed(&mut client), "message type {kind}");
    }
    serves(&lab);
}

#[test]
fn fragments_of_any_size_make_a_call_and_without_end_close_the_connection() {
    let lab = Lab::new();
    let root = lab.root(A);
    let mut client = lab.client(A);
    let long = "n".repeat(255);
    let lookup = [client.header(100_003, 3, 3), packed(&LOOKUP3args { what: at(&root, &long) })].concat();
    let parts = |call: &[u8], size: usize| {
        let count = call.chunks(size).count();
        let marked = call.chunks(size).enumerate().map(|(n, part)| {
            let last = if n + 1 == count { 0x8000_0000 } else { 0 };
            [&(last | part.len() as u32).to_be_bytes()[..], part].concat()
        });
        marked.collect::<Vec<_>>().concat()
    };
    // Empty ones between them, and an empty one last.
    let holes = [&[0; 4][..], &(lookup.len() as u32).to_be_bytes(), &lookup, &[0; 40], &[0x80, 0, 0, 0]].concat();
    for stream in [parts(&lookup, 1), parts(&lookup, 3), parts(&lookup, 100), holes] {
        client.stream.write_all(&stream).unwrap();
        assert_eq!(client.receive().unwrap()[24..28], 2u32.to_be_bytes(), "NFS3ERR_NOENT");
    }
    // An empty record has not even an xid.
    let mut empty = lab.client(A);
    empty.stream.write_all(&[0x80, 0, 0, 0]).unwrap();
    assert!(is_closed(&mut empty));
    let before = resident_bytes();
    for piece in [vec![0, 0, 0, 0], vec![0, 0, 0, 1, 7], [&[0, 0, 0xff, 0xff][..], &[7; 0xffff]].concat()] {
        let mut endless = lab.client(A);
        let block = piece.repeat((64 << 10) / piece.len() + 1);
        // The server hangs up; how much it took before is its business, but not all.
        let sent = (0..1024).take_while(|_| endless.stream.write_all(&block).is_ok()).count();
        assert!(sent < 1024, "{} blocks of fragments of {} bytes were taken", sent, piece.len());
    }
    assert!(resident_bytes() < before + (16 << 20));
    serves(&lab);
}

#[test]
fn what_a_refused_call_would_have_set_is_not_there() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let (bad_time, huge) = (nfstime3 { seconds: 1, nseconds: 1_000_000_000 }, set_size3::Some(1 << 63));
    let news = [
        sattr3 { atime: set_atime::SET_TO_CLIENT_TIME(bad_time), ..mode(0o600) },
        sattr3 { mtime: set_mtime::SET_TO_CLIENT_TIME(bad_time), ..mode(0o600) },
        sattr3 { uid: set_uid3::Some(u32::MAX), ..mode(0o600) },
        sattr3 { gid: set_gid3::Some(u32::MAX), ..mode(0o600) },
        sattr3 { size: huge, ..mode(0o600) },
    ];
    let file = client.file(&root, "there");
    client.write(&file, 0, b"data", stable_how::UNSTABLE).unwrap();
    let before = packed(&client.attributes(&file));
    for (n, new) in news.into_iter().enumerate() {
        let expected = if n == 4 { nfsstat3::NFS3ERR_FBIG } else { nfsstat3::NFS3ERR_INVAL };
        let how = [createhow3::UNCHECKED(new.clone()), createhow3::GUARDED(new.clone())];
        for how in how {
            assert_eq!(status(client.create(&root, "new", how)), expected, "CREATE {n}");
        }
        let args = MKDIR3args { where_: at(&root, "new"), attributes: new.clone() };
        assert_eq!(status(client.call::<MKDIR3res>(NFS_PROGRAM::NFSPROC3_MKDIR, &args)), expected, "MKDIR {n}");
        let symlink = symlinkdata3 { symlink_attributes: new.clone(), symlink_data: b"to".to_vec().into() };
        let args = SYMLINK3args { where_: at(&root, "new"), symlink };
        assert_eq!(status(client.call::<SYMLINK3res>(NFS_PROGRAM::NFSPROC3_SYMLINK, &args)), expected, "SYMLINK {n}");
        let args = MKNOD3args { where_: at(&root, "new"), what: mknoddata3::NF3FIFO(new.clone()) };
        assert_eq!(status(client.call::<MKNOD3res>(NFS_PROGRAM::NFSPROC3_MKNOD, &args)), expected, "MKNOD {n}");
        // With a size that could be set before the rest is looked at.
        let all = if n == 4 { new } else { sattr3 { size: set_size3::Some(1), ..new } };
        assert_eq!(status(client.setattr(&file, all)), expected, "SETATTR {n}");
    }
    assert_eq!(status(client.lookup(&root, "new")), nfsstat3::NFS3ERR_NOENT);
    assert_eq!(packed(&client.attributes(&file)), before);
    // Of a device past 12 and 20 bits the kernel would make another one's.
    for (specdata1, specdata2) in [(4096, 3), (1, 1 << 20), (u32::MAX, u32::MAX)] {
        let device = devicedata3 { dev_attributes: mode(0o600), spec: specdata3 { specdata1, specdata2 } };
        let args = MKNOD3args { where_: at(&root, "new"), what: mknoddata3::NF3CHR(device) };
        let answer = status(client.call::<MKNOD3res>(NFS_PROGRAM::NFSPROC3_MKNOD, &args));
        assert_eq!(answer, nfsstat3::NFS3ERR_INVAL, "{specdata1}:{specdata2}");
    }
}

#[test]
fn a_file_of_as_many_links_as_ext4_takes_gets_no_more() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let directory = handle(client.mkdir(&root, "links").unwrap().obj);
    let file = client.file(&directory, "0");
    let last = (1..).find(|n| std::fs::hard_link(lab.path("links/0"), lab.path(&format!("links/{n}"))).is_err());
    assert_eq!(last, Some(65_000));
    assert_eq!(status(client.link(&file, &directory, "one-more")), nfsstat3::NFS3ERR_MLINK);
    assert_eq!(client.attributes(&file).nlink, 65_000);
    client.remove(&directory, "7").unwrap();
    client.link(&file, &directory, "one-more").unwrap();
    // A directory is no file to link, and keeps its links.
    let links = client.attributes(&directory).nlink;
    assert_eq!(status(client.link(&directory, &root, "again")), nfsstat3::NFS3ERR_ISDIR);
    assert_eq!(client.attributes(&directory).nlink, links);
}

#[test]
fn renames_into_themselves_are_refused_and_onto_themselves_done() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let above = handle(client.mkdir(&root, "above").unwrap().obj);
    let below = handle(client.mkdir(&above, "below").unwrap().obj);
    let file = client.file(&above, "file");
    client.link(&file, &above, "other").unwrap();
    assert_eq!(status(client.rename(&root, "above", &below, "in")), nfsstat3::NFS3ERR_INVAL);
    assert_eq!(status(client.rename(&root, "above", &above, "in")), nfsstat3::NFS3ERR_INVAL);
    assert_eq!(status(client.rename(&above, "below", &root, "above")), nfsstat3::NFS3ERR_NOTEMPTY);
    assert_eq!(status(client.rename(&above, "no", &above, "no")), nfsstat3::NFS3ERR_NOENT);
    client.rename(&above, "file", &above, "file").unwrap();
    client.rename(&root, "above", &root, "above").unwrap();
    // Two names of one file: both stay.
    client.rename(&above, "file", &above, "other").unwrap();
    assert_eq!(client.names(&above), ["below", "file", "other"]);
}

#[test]
fn commit_and_read_take_any_range() {
    let lab = Lab::new();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let file = client.file(&root, "f");
    client.write(&file, 0, b"data", stable_how::UNSTABLE).unwrap();
    for (offset, count) in [(0, 0), (0, u32::MAX), (u64::MAX, u32::MAX), (1 << 63, 1), (5, 7)] {
        let args = COMMIT3args { file: file.clone(), offset, count };
        client.call::<COMMIT3res>(NFS_PROGRAM::NFSPROC3_COMMIT, &args).unwrap();
        let read = client.read(&file, offset, count).unwrap();
        assert_eq!(read.count as usize, if offset == 0 { 4.min(count as usize) } else { 0 }, "{offset} {count}");
    }
}
