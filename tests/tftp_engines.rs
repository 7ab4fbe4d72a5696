//! Why the transfers are ours: the same file side (`tftp::files`), served by
//! async-tftp's own server and by ours, meets what a Pi does at every boot.
//!
//! If a later async-tftp passes, the first two tests fail and say so.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_tftp::server::TftpServerBuilder;
use rootstock::tftp::files::Files;
use support::tftp::*;

const PROBE: &[(&str, &str)] = &[("tsize", "0"), ("blksize", "1024")];

/// async-tftp's server with the shortest timeout that it takes from a healthy
/// network (a Pi's own is 2 s) and few retries.
fn run_async_tftp(tree: &std::path::Path) -> SocketAddr {
    let directory = directory(tree);
    let (sink, _) = events();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let files = Files::new(directory, sink, tokio::runtime::Handle::current());
            let builder = TftpServerBuilder::with_handler(files)
                .bind((SERVER, 0).into())
                .timeout(Duration::from_secs(1))
                .max_send_retries(3)
                .block_size_limit(1468);
            let server = builder.build().await.unwrap();
            sender.send(server.listen_addr().unwrap()).unwrap();
            server.serve().await.unwrap();
        });
    });
    receiver.recv_timeout(PATIENCE).unwrap()
}

/// Probe, ERROR 0, and the same request from the same port: how long until the
/// transfer that is then wanted begins.
fn until_served_after_a_probe(server: SocketAddr) -> Duration {
    let mut pi = Client::new(PI, server);
    pi.request("start4.elf", PROBE);
    let oack = pi.receive();
    let probe = pi.tid;
    pi.terminate();
    let asked = Instant::now();
    // A Pi repeats its request every 2 s.
    for _ in 0..10 {
        pi.request("start4.elf", PROBE);
        let patience = Instant::now() + Duration::from_secs(2);
        while let Some(left) = patience.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if pi.receive_within(left).is_some_and(|datagram| datagram == oack) && pi.tid != probe {
                return asked.elapsed();
            }
        }
    }
    panic!("never served");
}

#[test]
fn async_tftp_leaves_a_pi_unanswered_after_its_size_probe() {
    let tree = boot_tree();
    let took = until_served_after_a_probe(run_async_tftp(tree.path()));
    println!("async-tftp, 1 s x 3: {took:?} after each probe");
    // A boot has some 20 probes: this is over a minute of waiting.
    assert!(took >= Duration::from_secs(3), "async-tftp got better: {took:?}");
}

#[test]
fn async_tftp_leaves_the_next_file_from_the_same_port_unanswered() {
    let tree = boot_tree();
    let mut pi = Client::new(PI, run_async_tftp(tree.path()));
    pi.request("kernel8.img", &[]);
    assert!(pi.receive().starts_with(b"\0\x03\0\x01"));
    pi.request("bootsig.bin", &[]);
    // What comes is the old file again, a second later.
    let next = pi.receive_within(Duration::from_millis(1500)).unwrap();
    assert!(next.starts_with(b"\0\x03\0\x01"), "async-tftp got better: {}", next[..4].escape_ascii());
}

#[test]
fn ours_serves_a_pi_at_once_after_its_size_probe() {
    let running = run();
    let took = until_served_after_a_probe(running.server.address());
    println!("ours: {took:?} after each probe");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn the_file_side_is_served_by_either_engine() {
    let tree = boot_tree();
    let server = run_async_tftp(tree.path());
    assert_eq!(Client::new(PI, server).get("9ffefdef/kernel8.img", PROBE, 1024), pattern(3_000_001));
    let line = Client::new(PI, server).get("cmdline.txt", PROBE, 1024);
    assert!(line.ends_with(format!("{WORDS}\n").as_bytes()));
}
