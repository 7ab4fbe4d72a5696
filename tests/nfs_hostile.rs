//! Packets that no honest client sends: each gets its error or a closed
//! connection, and the next client is served as if nothing had been.
//! Needs root, loop devices, ext4 and overlayfs (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::*;
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
