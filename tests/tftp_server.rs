//! The TFTP server on loopback, against a scripted client: what a Pi does and
//! what an attacker does, datagram by datagram.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use rootstock::tftp::{Event, Options, start};
use support::tftp::*;

const PROBE: &[(&str, &str)] = &[("tsize", "0"), ("blksize", "1024")];

#[test]
fn every_block_size_brings_the_whole_file() {
    let running = run();
    let kernel = pattern(3_000_001);
    assert_eq!(running.client(PI).get("kernel8.img", &[], 512), kernel);
    assert_eq!(running.client(PI).get("9ffefdef/kernel8.img", PROBE, 1024), kernel);
    assert_eq!(running.client(PI).get("kernel8.img", &[("blksize", "1468")], 1468), kernel);
    assert_eq!(running.client(PI).get("kernel8.img", &[("blksize", "65464")], 1468), kernel);
    assert_eq!(running.client(PI).get("empty", PROBE, 1024), b"");
    assert_eq!(running.client(PI).get("Overlays/readme", PROBE, 1024), b"read me\n");
}

#[test]
fn events_tell_start_folder_and_end() {
    let running = run();
    running.client(OTHER).get("0000abcd/start4.elf", PROBE, 1024);
    let path = "0000abcd/start4.elf".to_owned();
    let folder = "0000abcd".parse().ok();
    assert_eq!(running.event(), Event::Started { address: OTHER, path, folder, size: Some(100_000) });
    match running.event() {
        Event::Finished { address: OTHER, bytes: 100_000, .. } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn more_blocks_than_numbers_are_served() {
    let running = run();
    let content = pattern(70_000 * 8 + 3);
    std::fs::write(running.tree.path().join("large"), &content).unwrap();
    assert!(running.client(PI).get("large", &[("blksize", "8")], 8) == content);
}

#[test]
fn the_command_line_is_made_for_the_client() {
    let running = run();
    let expected = format!("console=serial0,115200 console=tty1 {WORDS}\n");
    assert_eq!(String::from_utf8(running.client(PI).get("9ffefdef/cmdline.txt", PROBE, 1024)).unwrap(), expected);
    std::fs::remove_file(running.tree.path().join("cmdline.txt")).unwrap();
    assert_eq!(String::from_utf8(running.client(PI).get("cmdline.txt", &[], 512)).unwrap(), format!("{WORDS}\n"));
    std::fs::remove_file(running.tree.path().join("config.txt")).unwrap();
    assert!(!running.client(PI).get("config.txt", &[], 512).is_empty(), "a Pi 5 needs one");
}

#[test]
fn a_command_line_by_another_name_gets_our_words_too() {
    let running = run();
    let tree = running.tree.path();
    // Ubuntu's layouts: another name by config.txt or what it includes, and a folder of its own.
    std::fs::write(tree.join("config.txt"), "[all]\nos_prefix=current/\ncmdline=nobtcmd.txt\ninclude usercfg.txt\n")
        .unwrap();
    std::fs::write(tree.join("usercfg.txt"), "[pi4]\ncmdline=mine.txt\ninclude config.txt\n").unwrap();
    std::fs::create_dir(tree.join("current")).unwrap();
    let own = "console=tty1 root=LABEL=writable rootfstype=ext4 rootwait fixrtc\n";
    for name in ["nobtcmd.txt", "mine.txt", "other.txt", "current/nobtcmd.txt", "current/cmdline.txt"] {
        std::fs::write(tree.join(name), own).unwrap();
    }
    let get = |name: &str| String::from_utf8(running.client(PI).get(name, PROBE, 1024)).unwrap();
    for name in ["nobtcmd.txt", "mine.txt", "9ffefdef/current/nobtcmd.txt", "current/cmdline.txt"] {
        assert_eq!(get(name), format!("console=tty1 fixrtc {WORDS}\n"), "{name}");
    }
    assert_eq!(get("other.txt"), own, "nothing calls it a command line");
    std::fs::remove_file(tree.join("nobtcmd.txt")).unwrap();
    assert_eq!(get("nobtcmd.txt"), format!("{WORDS}\n"), "named, and missing");
}

#[test]
fn a_command_line_too_long_is_told() {
    let running = run();
    std::fs::write(running.tree.path().join("cmdline.txt"), "word ".repeat(500)).unwrap();
    let line = running.client(PI).get("cmdline.txt", PROBE, 1024);
    assert!(line.len() <= 1536 && line.ends_with(format!("{WORDS}\n").as_bytes()));
    assert!(matches!(running.event_but_started(), Event::CommandLineShortened { left_out: 1.., .. }));
}

#[test]
fn a_size_probe_is_ended_by_error_0_and_the_same_port_is_served_at_once() {
    let running = run();
    let mut pi = running.client(PI);
    for _ in 0..20 {
        pi.request("start4.elf", PROBE);
        pi.expect(b"\0\x06tsize\x00100000\0blksize\x001024\0");
        pi.terminate();
    }
    let started = Instant::now();
    assert_eq!(pi.get("start4.elf", PROBE, 1024), pattern(100_000));
    // Far below any retransmission: nothing waited for the probes.
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(running.event_but_started(), Event::Aborted { address: PI, path: "start4.elf".into(), bytes: 0 });
    pi.expect_nothing();
}

#[test]
fn a_repeated_request_before_the_first_ack_is_answered_from_the_same_port() {
    let running = run();
    let mut pi = running.client(PI);
    pi.request("start4.elf", PROBE);
    let first = (pi.receive(), pi.tid);
    pi.request("start4.elf", PROBE);
    assert_eq!((pi.receive(), pi.tid), first);
    pi.ack(0);
    assert!(pi.receive().starts_with(b"\0\x03\0\x01"));
    // Only one transfer was started, and that it asked twice is told.
    assert!(matches!(running.event(), Event::Started { .. }));
    assert_eq!(running.event(), Event::Repeated { address: PI, path: "start4.elf".into() });
    assert!(running.events.try_recv().is_err());
}

#[test]
fn a_new_request_from_the_same_port_ends_the_older_transfer() {
    let running = run();
    let mut pi = running.client(PI);
    pi.request("kernel8.img", &[]);
    assert!(pi.receive().starts_with(b"\0\x03\0\x01"));
    pi.ack(1);
    assert!(pi.receive().starts_with(b"\0\x03\0\x02"));
    let old = pi.tid;
    // The Pi 3's ROM: a file that is missing, asked for from the one port that it has.
    pi.request("bootsig.bin", &[]);
    pi.expect(b"\0\x05\0\x01File not found\0");
    assert_ne!(pi.tid, old);
    assert_eq!(running.event_but_started(), Event::Aborted { address: PI, path: "kernel8.img".into(), bytes: 512 });
    // The old transfer is silent, also after its retransmission would be due.
    assert_eq!(pi.receive_within(Duration::from_millis(1500)), None);
    // The same request again, after an ACK, is a new transfer: the board was reset.
    pi.request("start4.elf", &[]);
    pi.receive();
    pi.ack(1);
    pi.receive();
    pi.request("start4.elf", &[]);
    assert!(pi.receive().starts_with(b"\0\x03\0\x01"));
}

#[test]
fn a_repeated_ack_brings_no_second_datagram_and_loss_is_healed_by_time() {
    let running = run();
    let mut pi = running.client(PI);
    pi.request("start4.elf", PROBE);
    pi.receive();
    pi.ack(0);
    pi.ack(0);
    assert!(pi.receive().starts_with(b"\0\x03\0\x01"));
    pi.ack(1);
    pi.ack(1);
    pi.ack(0);
    let second = pi.receive();
    assert!(second.starts_with(b"\0\x03\0\x02"));
    pi.expect_nothing();
    // Nothing acknowledges it: it comes again after a second, once.
    assert_eq!(pi.receive_within(Duration::from_millis(1200)), Some(second));
    pi.expect_nothing();
}

#[test]
fn a_strange_port_cannot_disturb_a_transfer() {
    let running = run();
    let mut pi = running.client(PI);
    pi.request("start4.elf", PROBE);
    pi.receive();
    let mut intruder = running.client(OTHER);
    intruder.tid = pi.tid;
    intruder.terminate();
    intruder.ack(0);
    pi.ack(0);
    assert!(pi.receive().starts_with(b"\0\x03\0\x01"));
    intruder.expect_nothing();
}

#[test]
fn what_is_not_there_is_answered_at_once() {
    let running = run();
    let mut pi = running.client(PI);
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let asked = Instant::now();
            pi.request("9ffefdef/recovery.elf", PROBE);
            pi.expect(b"\0\x05\0\x01File not found\0");
            asked.elapsed()
        })
        .collect();
    times.sort();
    println!("missing file: median {:?}, 99th percentile {:?}", times[100], times[198]);
    // The goal is 1 ms on a quiet machine (measured 2026-11-22: see the printed line); a busy one gets some room.
    assert!(times[100] < Duration::from_millis(10), "{:?}", times[100]);
    let missing = |path: &str| {
        let mut pi = running.client(PI);
        pi.request(path, PROBE);
        pi.expect(b"\0\x05\0\x01File not found\0");
    };
    missing("overlays");
    missing("00000001/start4.elf");
    missing("9ffefdef/overlays");
}

#[test]
fn hostile_requests_get_one_error_and_one_event_and_the_service_goes_on() {
    let running = run();
    let mut pi = running.client(PI);
    let mut check = |datagram: &[u8], reply: &[u8], path: &str, reason: &'static str| {
        pi.request_bytes(datagram);
        pi.expect(reply);
        match running.event() {
            Event::Refused { address: PI, path: shown, reason: told } => {
                assert!(shown.starts_with(path), "{shown:?}");
                assert_eq!(told, reason);
            }
            other => panic!("{other:?}"),
        }
        assert!(running.events.try_recv().is_err());
    };
    let denied = b"\0\x05\0\x02Access violation\0";
    check(&rrq(b"../../etc/shadow", "octet", &[]), denied, "../../etc/shadow", "the path holds a dot name");
    check(&rrq(b"/etc/shadow", "octet", &[]), denied, "/etc/shadow", "the path is absolute");
    check(&rrq(b"a//b", "octet", &[]), denied, "a//b", "the path holds an empty name");
    check(&rrq(b"a\\b", "octet", &[]), denied, "a\\b", "the path holds a backslash");
    check(&rrq(b"", "octet", &[]), denied, "", "the path is empty");
    check(&rrq(&[b'a'; 10_000], "octet", &[]), denied, "aaaa", "the path is longer than 512 bytes");
    check(b"\0\x02config.txt\0octet\0", denied, "config.txt", "writing is not served");
    let netascii = b"\0\x05\0\0Only mode octet is served\0";
    check(&rrq(b"config.txt", "netascii", &[]), netascii, "config.txt", "only mode octet is served");
    let illegal = b"\0\x05\0\x04Illegal TFTP operation\0";
    check(b"\0\x01config.txt", illegal, "", "the request is malformed");
    check(b"", illegal, "", "the request is malformed");
    check(&[0xff; 60_000], illegal, "", "the request is malformed");
    // NUL ends the path: what follows is the mode.
    check(b"\0\x01config.txt\0../x\0octet\0", netascii, "config.txt", "only mode octet is served");
    assert_eq!(pi.get("start4.elf", PROBE, 1024), pattern(100_000));
}

#[test]
fn strangers_get_silence_and_are_told_once_a_second() {
    let running = run();
    let mut stranger = running.client(STRANGER);
    for _ in 0..50 {
        stranger.request("config.txt", PROBE);
    }
    stranger.expect_nothing();
    let reason = "the address is no client's";
    assert_eq!(running.event(), Event::Refused { address: STRANGER, path: "config.txt".into(), reason });
    assert!(running.events.try_recv().is_err());
    // Once it is published, it is served: no restart, no memory of the silence.
    running.directory.set(rootstock::directory::Directory {
        clients: vec![served(STRANGER, None, running.tree.path())],
        ..Default::default()
    });
    assert_eq!(stranger.get("start4.elf", PROBE, 1024), pattern(100_000));
    let mut pi = running.client(PI);
    pi.request("config.txt", PROBE);
    pi.expect_nothing();
}

#[test]
fn a_client_keeps_sixteen_transfers_the_newest() {
    let running = run();
    let mut ports: Vec<Client> = (0..20).map(|_| running.client(PI)).collect();
    for port in &mut ports {
        port.request("kernel8.img", &[]);
        assert!(port.receive().starts_with(b"\0\x03\0\x01"));
        port.ack(1);
        assert!(port.receive().starts_with(b"\0\x03\0\x02"));
    }
    for _ in 0..4 {
        assert!(matches!(running.event_but_started(), Event::Aborted { bytes: 512, .. }));
    }
    ports.iter().for_each(|port| port.ack(2));
    let third = |port: &mut Client| {
        // A busy machine may have seen a retransmission before the ACK.
        while let Some(datagram) = port.receive_within(QUIET) {
            if datagram.starts_with(b"\0\x03\0\x03") {
                return true;
            }
        }
        false
    };
    let alive: Vec<bool> = ports.iter_mut().map(third).collect();
    assert_eq!(alive, [[false; 4].as_slice(), &[true; 16]].concat());
}

#[test]
fn a_closed_port_ends_its_transfer() {
    let running = run();
    let mut pi = running.client(PI);
    pi.request("start4.elf", PROBE);
    pi.receive();
    pi.ack(0);
    drop(pi);
    let event = running.event_but_started();
    assert!(matches!(event, Event::Aborted { .. }), "{event:?}");
}

#[test]
fn a_client_that_falls_silent_is_given_up() {
    let running = run();
    let mut pi = running.client(PI);
    pi.request("config.txt", PROBE);
    let oack = pi.receive();
    let mut repeats = 0;
    while let Some(datagram) = pi.receive_within(Duration::from_millis(1500)) {
        assert_eq!(datagram, oack);
        repeats += 1;
    }
    assert_eq!(repeats, 10);
    let event = running.event_but_started();
    assert!(matches!(event, Event::TimedOut { bytes: 0, sent: 0, size: 35, .. }), "{event:?}");
}

#[test]
fn a_file_that_shrinks_or_a_tree_that_goes_is_told_and_the_service_goes_on() {
    let running = run();
    let mut pi = running.client(PI);
    pi.request("kernel8.img", PROBE);
    pi.receive();
    std::fs::write(running.tree.path().join("kernel8.img"), b"short").unwrap();
    pi.ack(0);
    let mut number = 0;
    let end = loop {
        let datagram = pi.receive();
        if datagram.starts_with(b"\0\x05") {
            break datagram;
        }
        number += 1;
        pi.ack(number);
    };
    assert_eq!(end, b"\0\x05\0\0Cannot read the file\0");
    assert!(matches!(running.event_but_started(), Event::Failed { .. }));
    running.directory.set(rootstock::directory::Directory {
        clients: vec![served(PI, None, std::path::Path::new("/nonexistent"))],
        ..Default::default()
    });
    pi.request("config.txt", PROBE);
    pi.expect(b"\0\x05\0\0cannot open the file\0");
    match running.event() {
        Event::Failed { error, .. } => assert!(error.starts_with("cannot open /nonexistent: No such file"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_window_of_blocks_is_sent_for_those_who_ask() {
    let running = run();
    let mut pi = running.client(PI);
    pi.request("start4.elf", &[("blksize", "1000"), ("windowsize", "8")]);
    pi.expect(b"\0\x06blksize\x001000\0windowsize\x008\0");
    pi.ack(0);
    let mut received: Vec<u8> = Vec::new();
    let mut number = 0_u16;
    // 100 blocks and the empty one behind them.
    while number < 101 {
        let datagram = pi.receive();
        number += 1;
        assert_eq!(datagram[2..4], number.to_be_bytes());
        received.extend(&datagram[4..]);
        if number.is_multiple_of(8) || number == 101 {
            pi.ack(number);
        }
    }
    assert_eq!(received, pattern(100_000));
}

#[test]
fn an_address_that_the_interface_gets_later_can_be_listened_on() {
    let tree = boot_tree();
    let (sink, _events) = events();
    let listen = std::net::Ipv4Addr::new(192, 0, 2, 1);
    let server = start(Options { listen, port: 0 }, directory(tree.path()), sink).unwrap();
    assert_eq!(server.address().ip(), listen);
}

#[test]
fn a_port_that_is_taken_is_an_error_with_the_address() {
    let tree = boot_tree();
    let (sink, _events) = events();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let options = Options { listen: std::net::Ipv4Addr::LOCALHOST, port: address.port() };
    let error = start(options, directory(tree.path()), sink).err().unwrap();
    assert_eq!(error.to_string(), format!("cannot listen for TFTP on {address}"));
}

#[test]
fn a_dropped_server_is_gone() {
    let running = run();
    let mut pi = running.client(PI);
    pi.request("kernel8.img", PROBE);
    pi.receive();
    let address = running.server.address();
    drop(running.server);
    std::net::UdpSocket::bind(address).unwrap();
}

/// What was mounted last is unmounted first.
struct Mounts(Vec<std::path::PathBuf>);

impl Drop for Mounts {
    fn drop(&mut self) {
        for place in self.0.iter().rev() {
            let _ = std::process::Command::new("umount").arg(place).status();
        }
    }
}

/// The store's boot trees are overlays; needs root.
#[test]
fn a_tree_that_is_an_overlay_is_served_with_what_its_client_changed() {
    let running = run();
    let folder = tempfile::tempdir().unwrap();
    let mut mounts = Mounts(Vec::new());
    let mut mount = |kind: &str, options: &str, place: &std::path::Path| {
        let mut command = std::process::Command::new("mount");
        let status = command.args(["-t", kind, "-o", options, "none"]).arg(place).status().unwrap();
        assert!(status.success(), "mount of {kind}: {status}; this test needs root");
        mounts.0.push(place.to_owned());
    };
    // The upper layer must not lie on an overlay itself.
    mount("tmpfs", "size=1m", folder.path());
    let part = |name: &str| {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        folder.path().join(name)
    };
    let (upper, work, merged) = (part("upper"), part("work"), part("merged"));
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=on,nfs_export=on,xino=on",
        running.tree.path().display(),
        upper.display(),
        work.display()
    );
    mount("overlay", &options, &merged);
    running.directory.set(rootstock::directory::Directory {
        clients: vec![served(PI, Some(SERIAL), &merged)],
        ..Default::default()
    });
    assert_eq!(running.client(PI).get("9ffefdef/START4.ELF", PROBE, 1024), pattern(100_000));
    std::fs::write(merged.join("start4.elf"), b"new").unwrap();
    std::fs::remove_file(merged.join("overlays/README")).unwrap();
    assert_eq!(running.client(PI).get("start4.elf", PROBE, 1024), b"new");
    let mut pi = running.client(PI);
    pi.request("overlays/README", PROBE);
    pi.expect(b"\0\x05\0\x01File not found\0");
    // A finished transfer keeps nothing open: the tree can be unmounted.
    drop(mounts);
    assert!(!merged.exists(), "still mounted");
}
