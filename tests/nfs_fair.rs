//! One client's flood, and a stick that stands still, cost the other clients little.
//! Needs root, loop devices, ext4, overlayfs and FUSE (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use rootstock::client::Role;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Calls a second of a client that does what most do most: GETATTR, LOOKUP, and a READ from the cache.
fn rate(client: &mut Client, root: &nfs_fh3, file: &nfs_fh3, rounds: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        client.attributes(root);
        client.find(root, "file");
        client.read(file, 0, 4096).unwrap();
    }
    f64::from(3 * rounds) / start.elapsed().as_secs_f64()
}

fn record(call: &[u8]) -> Vec<u8> {
    [&(0x8000_0000 | call.len() as u32).to_be_bytes()[..], call].concat()
}

#[test]
fn a_flood_of_one_client_leaves_the_other_its_share() {
    let lab = Lab::new();
    let (root, mut other) = (lab.root(B), lab.client(B));
    let file = other.find(&root, "file");
    rate(&mut other, &root, &file, 50);
    let alone = rate(&mut other, &root, &file, 300);
    let before = resident_bytes();
    let (over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let flooded = std::thread::scope(|scope| {
        for n in 0..8 {
            let mut client = lab.client(A);
            let root = lab.root(A);
            let big = client.file(&root, &format!("big{n}"));
            let (over, sent) = (&over, &sent);
            scope.spawn(move || {
                let data = vec![7; 256 << 10];
                let args = match n % 2 {
                    // Large writes, as many as go; half of the connections never read an answer.
                    0 => {
                        let (count, data) = (data.len() as u32, Opaque::borrowed(&data));
                        packed(&WRITE3args { file: big, offset: 0, count, stable: stable_how::UNSTABLE, data })
                    }
                    _ => packed(&READ3args { file: big, offset: 0, count: 256 << 10 }),
                };
                let procedure = if n % 2 == 0 { 7 } else { 6 };
                let call = record(&[client.header(100_003, 3, procedure), args].concat());
                client.stream.set_nonblocking(true).unwrap();
                let mut at = 0;
                while !over.load(Ordering::Relaxed) {
                    match client.stream.write(&call[at..]) {
                        Ok(count) => {
                            at = (at + count) % call.len();
                            sent.fetch_add(count, Ordering::Relaxed);
                        }
                        Err(_) => std::thread::sleep(Duration::from_micros(200)),
                    }
                    if n >= 4 {
                        use std::io::Read;
                        let _ = client.stream.read(&mut [0; 64 << 10]);
                    }
                }
            });
        }
        // The flood is on.
        while sent.load(Ordering::Relaxed) < 8 << 20 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let flooded = rate(&mut other, &root, &file, 300);
        over.store(true, Ordering::Relaxed);
        flooded
    });
    let grown = resident_bytes().saturating_sub(before) >> 20;
    println!("calls a second: {alone:.0} alone, {flooded:.0} under a flood; {grown} MiB more in memory");
    // The flood takes processor time of its own on the same two cores: the bound is for starvation.
    assert!(flooded > alone / 15.0, "{alone:.0} calls a second alone, {flooded:.0} under a flood");
    assert!(grown < 96, "{grown} MiB more in memory");
}

const ALONE: &str = "ROOTSTOCK_TEST_ALONE";

/// Each has read and written, as a client does that starts, and keeps its connection. (What else a client takes that was
/// enrolled: `store_operate`.)
#[test]
fn two_hundred_clients_that_rest_take_less_than_100_kib_each() {
    // In a process of its own: the memory of one with other tests in it is theirs, too.
    if std::env::var_os(ALONE).is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", "two_hundred_clients_that_rest_take_less_than_100_kib_each", "--nocapture"]);
        return assert!(alone.env(ALONE, "1").status().unwrap().success());
    }
    const CLIENTS: u8 = 200;
    let lab = Lab::new();
    let mut directory = (*lab.directory.get()).clone();
    let first = directory.clients[0].clone();
    let address = |n: u8| Ipv4Addr::new(127, 0, 7, n);
    for n in 1..=CLIENTS {
        let mut client = first.clone();
        (client.address, client.role) = (address(n), Role::numbered(100 + u32::from(n)));
        client.root.id = 1000 + 2 * u32::from(n);
        client.boot.id = client.root.id + 1;
        client.root.path = format!("/clients/rest-{n}");
        directory.clients.push(client);
    }
    lab.directory.set(directory);
    let starts = |n: u8| {
        let (root, mut client) = (lab.root(address(n)), lab.client(address(n)));
        let file = client.file(&root, &format!("of-{n}"));
        let data = vec![n; 96 << 10];
        client.write(&file, 0, &data, stable_how::FILE_SYNC).unwrap();
        assert_eq!(client.read(&file, 0, 96 << 10).unwrap().data.len(), data.len());
        client.find(&root, "merged");
        client
    };
    let mut resting = vec![starts(1)];
    let before = resident_bytes();
    resting.extend((2..=CLIENTS).map(starts));
    let grown = resident_bytes().saturating_sub(before);
    println!("{} KiB for each client that rests", (grown >> 10) / usize::from(CLIENTS - 1));
    assert!(grown < usize::from(CLIENTS - 1) * (100 << 10), "{grown} bytes");
    // All are there still.
    for (n, client) in (1..).zip(&mut resting) {
        client.attributes(&lab.root(address(n)));
    }
}

#[test]
fn a_stick_that_stands_still_stalls_no_call_that_needs_nothing_of_it() {
    let mut lab = Lab::on_disk();
    // Six more clients, whose tree is the first one's: they write, too.
    let mut directory = (*lab.directory.get()).clone();
    let writers: Vec<Ipv4Addr> = (10..16).map(|n| Ipv4Addr::new(127, 0, 0, n)).collect();
    for address in &writers {
        let mut served = directory.clients[0].clone();
        served.address = *address;
        directory.clients.push(served);
    }
    lab.directory.set(directory);
    lab.restart();
    let (root, mut other) = (lab.root(B), lab.client(B));
    let file = other.find(&root, "file");
    rate(&mut other, &root, &file, 20);
    let top = lab.root(A);
    let mut clients: Vec<Client> = writers.iter().chain(&writers).map(|address| lab.client(*address)).collect();
    let mut calls = Vec::new();
    for (n, client) in clients.iter_mut().enumerate() {
        let file = client.file(&top, &format!("w{n}"));
        let data = Opaque::borrowed(b"data");
        let args = packed(&WRITE3args { file, offset: 0, count: 4, stable: stable_how::FILE_SYNC, data });
        calls.push([client.header(100_003, 3, 7), args].concat());
    }
    run("sync");
    let disk = lab.disk.as_ref().unwrap();
    disk.stand_still();
    for (client, call) in clients.iter_mut().zip(&calls) {
        (0..4).for_each(|_| client.send(call));
    }
    while !disk.is_waited_for() {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Long enough that all the calls which can wait do.
    let (start, mut slowest, mut rounds) = (Instant::now(), Duration::ZERO, 0);
    while start.elapsed() < Duration::from_secs(2) || rounds < 50 {
        let call = Instant::now();
        assert!(other.raw(100_003, 3, 0, &[]).is_some());
        rate(&mut other, &root, &file, 1);
        slowest = slowest.max(call.elapsed());
        rounds += 1;
    }
    println!("{} calls wait for the stick; another client: {rounds} rounds, the slowest {slowest:?}", 4 * calls.len());
    assert!(slowest < Duration::from_secs(8) && start.elapsed() < Duration::from_secs(20), "{slowest:?}");
    disk.go_on();
    for client in &mut clients {
        for _ in 0..4 {
            assert_eq!(client.receive().unwrap()[24..28], [0; 4]);
        }
    }
}

#[test]
fn an_orderly_end_answers_what_runs() {
    let mut lab = Lab::on_disk();
    let root = lab.root(A);
    let mut client = lab.client(A);
    client.file(&root, "ours");
    run("sync");
    let port = lab.ports().nfs;
    let disk = lab.disk.as_ref().unwrap();
    disk.stand_still();
    let call = [client.header(100_003, 3, 12), packed(&REMOVE3args { object: at(&root, "ours") })].concat();
    client.send(&call);
    while !disk.is_waited_for() {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Behind it comes one that is not begun any more.
    let mut server = lab.server.take().unwrap();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(move || server.stop());
        let start = Instant::now();
        while std::net::TcpStream::connect((A, port)).is_ok() {
            assert!(start.elapsed() < Duration::from_secs(20), "it still takes connections");
            std::thread::sleep(Duration::from_millis(1));
        }
        client.send(&call);
        disk.go_on();
        assert_eq!(client.receive().unwrap()[24..28], [0; 4]);
        assert!(client.receive().is_err(), "nothing more is answered");
        stopping.join().unwrap();
    });
}
