//! The virtual Pi against foreign and own servers, in network namespaces.
//!
//! dnsmasq is the DHCP and TFTP server that real Pis are known to boot from:
//! what it accepts and serves is the measure of the virtual Pi. Needs root,
//! `ip`, and `apt-get install dnsmasq-base`.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rootstock::client::Serial;
use rootstock::tftp::{self, Event, Options};
use support::netns::{Child, Netns};
use support::tftp::{directory_of, events, pattern, served};
use support::virtual_pi::session::Session;
use support::virtual_pi::{Board, Failure, Fetched, Loss, VirtualPi};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 50);
const PATIENCE: Duration = Duration::from_secs(40);

const BOARDS: [Board; 4] = [Board::Pi3B, Board::Pi3BPlus, Board::Pi4B, Board::Pi5];

/// Two namespaces on one cable: a server with an address, and a card without.
struct Wire {
    server: Netns,
    client: Netns,
}

fn wire() -> Wire {
    let (server, client) = (Netns::new("server"), Netns::new("pi"));
    server.veth("eth0", &client, "eth0");
    server.ip("address add 192.168.77.1/24 dev eth0");
    Wire { server, client }
}

impl Wire {
    fn boot(&self, pi: &VirtualPi) -> Result<Fetched, Failure> {
        self.client.run(|| pi.boot(PATIENCE))
    }

    /// dnsmasq as people set it up for Pis, with these arguments besides.
    fn dnsmasq(&self, arguments: &[&str]) -> Child {
        let range = "--dhcp-range=192.168.77.50,192.168.77.50,1h";
        dnsmasq(&self.server, &[&["--dhcp-authoritative", range], arguments].concat())
    }
}

fn dnsmasq(netns: &Netns, arguments: &[&str]) -> Child {
    let fixed = "--keep-in-foreground --conf-file=/dev/null --pid-file= --port=0 --user=root --no-ping --log-dhcp \
                 --log-facility=- --interface=eth0 --bind-interfaces --leasefile-ro";
    let mut command = netns.command("dnsmasq");
    command.args(fixed.split_whitespace()).args(arguments);
    let mut child = Child(command.stderr(Stdio::piped()).spawn().unwrap());
    // It has said this when its sockets are open.
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut heard = Vec::new();
    let says_range = |line: String| line.contains("IP range") || line.contains("DHCP, proxy on subnet");
    let ready = lines.by_ref().inspect(|line| heard.push(line.clone())).any(says_range);
    assert!(ready, "dnsmasq: {heard:?}; cure: apt-get install dnsmasq-base");
    // Its log must not fill the pipe.
    std::thread::spawn(move || lines.for_each(|line| println!("{line}")));
    std::thread::sleep(Duration::from_millis(200));
    child
}

/// A boot folder with what each model needs.
fn boot_folder(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    fs::create_dir_all(folder.join("overlays")).unwrap();
    write("config.txt", b"arm_64bit=1\nauto_initramfs=1\ndtoverlay=vc4-kms-v3d\n[pi5]\nkernel=kernel_2712.img\n");
    write("cmdline.txt", b"console=serial0,115200 console=tty1 root=/dev/nfs ip=dhcp\n");
    let sizes = [
        ("bootcode.bin", 52_480),
        ("start.elf", 300_000),
        ("fixup.dat", 7_000),
        ("start4.elf", 225_280),
        ("fixup4.dat", 5_120),
        ("kernel8.img", 1_048_576),
        ("kernel_2712.img", 1_000_001),
        ("initramfs8", 700_003),
        ("initramfs_2712", 700_004),
        ("bcm2710-rpi-3-b.dtb", 34_000),
        ("bcm2710-rpi-3-b-plus.dtb", 34_500),
        ("bcm2711-rpi-4-b.dtb", 56_000),
        ("bcm2712-rpi-5-b.dtb", 78_000),
        ("overlays/overlay_map.dtb", 5_000),
        ("overlays/vc4-kms-v3d.dtbo", 2_760),
    ];
    for (name, size) in sizes {
        let mut content = pattern(size);
        content.extend(name.bytes());
        write(name, &content);
    }
}

/// Whether all that was fetched is what the folder holds.
fn check_files(fetched: &Fetched, folder: &Path, generated: &[&str]) {
    assert!(fetched.files.len() >= 7, "{:?}", fetched.files.keys());
    for (name, content) in fetched.files.iter().filter(|(name, _)| !generated.contains(&name.as_str())) {
        assert!(fs::read(folder.join(name)).unwrap() == *content, "{name}");
    }
}

fn must_boot(result: Result<Fetched, Failure>) -> Fetched {
    result.unwrap_or_else(|failure| panic!("{failure}"))
}

/// The first word of each step, with repeats drawn together: the shape of a dialogue.
fn shape(fetched: &Fetched) -> Vec<String> {
    let mut shape: Vec<String> =
        fetched.steps().iter().map(|step| step.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    shape.dedup();
    shape
}

#[test]
fn every_board_boots_from_dnsmasq() {
    let folder = tempfile::tempdir().unwrap();
    boot_folder(folder.path());
    for board in BOARDS {
        let wire = wire();
        let pi = VirtualPi::new(board, 0xc2, "eth0");
        let root = format!("--tftp-root={}", folder.path().display());
        let _dnsmasq = wire.dnsmasq(&["--pxe-service=0,Raspberry Pi Boot   ", "--enable-tftp", &root]);
        let fetched = must_boot(wire.boot(&pi));
        check_files(&fetched, folder.path(), &[]);
        assert_eq!((fetched.address, fetched.server), (CLIENT, SERVER));
        assert_eq!(fetched.netmask, Some(Ipv4Addr::new(255, 255, 255, 0)));
        // There is no serial folder, so every loader falls back to the root.
        assert_eq!(fetched.prefix, "", "{board:?}");
        let (kernel, initramfs) =
            if board == Board::Pi5 { ("kernel_2712.img", "initramfs_2712") } else { ("kernel8.img", "initramfs8") };
        assert_eq!((fetched.kernel.as_deref(), fetched.initramfs.as_deref()), (Some(kernel), Some(initramfs)));
        assert_eq!(fetched.command_line("ttyAMA0"), "console=ttyAMA0,115200 console=tty1 root=/dev/nfs ip=dhcp");
    }
}

#[test]
fn a_serial_folder_is_used_when_it_holds_the_loader() {
    let root = tempfile::tempdir().unwrap();
    let wire = wire();
    let pi = VirtualPi::new(Board::Pi4B, 0xc2, "eth0");
    boot_folder(&root.path().join(pi.prefix()));
    let argument = format!("--tftp-root={}", root.path().display());
    let _dnsmasq = wire.dnsmasq(&["--pxe-service=0,Raspberry Pi Boot", "--enable-tftp", &argument]);
    let fetched = must_boot(wire.boot(&pi));
    assert_eq!(fetched.prefix, "9ffefdc2/");
    check_files(&fetched, &root.path().join(pi.prefix()), &[]);
}

#[test]
fn each_loader_speaks_in_its_own_order() {
    let folder = tempfile::tempdir().unwrap();
    boot_folder(folder.path());
    let root = format!("--tftp-root={}", folder.path().display());
    let check = |board, expected: &[&str]| {
        let wire = wire();
        let _dnsmasq = wire.dnsmasq(&["--pxe-service=0,Raspberry Pi Boot   ", "--enable-tftp", &root]);
        let shape = shape(&must_boot(wire.boot(&VirtualPi::new(board, 0xc2, "eth0"))));
        assert_eq!(shape[..expected.len()], *expected, "{board:?}");
    };
    check(
        Board::Pi3B,
        &[
            "ROM DISCOVER",
            "OFFER 192.168.77.50",
            "ARP who",
            "RRQ bootcode.bin",
            "got bootcode.bin:",
            "RRQ bootsig.bin",
            "ERROR 1",
            "bootcode.bin DISCOVER",
            "OFFER 192.168.77.50",
            "ARP who",
            "RRQ b60136c2/start.elf",
            "ERROR 1",
            "RRQ autoboot.txt",
        ],
    );
    check(
        Board::Pi4B,
        &[
            "EEPROM DISCOVER",
            "OFFER 192.168.77.50",
            "EEPROM REQUEST",
            "ACK 192.168.77.50",
            "ARP who",
            "RRQ 9ffefdc2/start4.elf",
            "ERROR 1",
            "RRQ 9ffefdc2/start.elf",
            "ERROR 1",
            "RRQ config.txt",
            "OACK config.txt:",
            "ERROR 0",
            "RRQ config.txt",
            "OACK config.txt:",
            "got config.txt:",
        ],
    );
    check(
        Board::Pi5,
        &[
            "EEPROM DISCOVER",
            "OFFER 192.168.77.50",
            "EEPROM REQUEST",
            "ACK 192.168.77.50",
            "ARP who",
            "RRQ 9ffefdc2/config.txt",
            "ERROR 1",
            "RRQ config.txt",
        ],
    );
}

#[test]
fn replies_that_a_real_board_drops_are_dropped() {
    let check = |board, service: &[&str], reason: &str| {
        let wire = wire();
        let _dnsmasq = wire.dnsmasq(service);
        let pi = VirtualPi::new(board, 0xc2, "eth0");
        let failure = wire.client.run(|| pi.boot(Duration::from_secs(3))).unwrap_err();
        assert!(failure.reason.contains(reason), "{failure}");
    };
    let spaces = "no option 43 with \"Raspberry Pi Boot\" and three spaces";
    check(Board::Pi3B, &["--pxe-service=0,Raspberry Pi Boot"], spaces);
    check(Board::Pi3B, &[], spaces);
    check(Board::Pi4B, &[], "neither option 43 with \"Raspberry Pi Boot\" nor option 66");
    check(Board::Pi5, &["--pxe-service=0,Install Windows"], "neither option 43");
    check(Board::Pi4B, &["--dhcp-option-force=66,boot.example"], "option 66 is no bare address");
    let wire = wire();
    let failure = wire.client.run(|| VirtualPi::new(Board::Pi4B, 1, "eth0").boot(Duration::from_secs(1))).unwrap_err();
    assert!(failure.reason.contains("no answer to DISCOVER"), "{failure}");
}

#[test]
fn a_server_without_the_files_is_told_from_a_deaf_one() {
    let folder = tempfile::tempdir().unwrap();
    let root = format!("--tftp-root={}", folder.path().display());
    let pi = VirtualPi::new(Board::Pi4B, 0xc2, "eth0");
    let wire = wire();
    let service = "--pxe-service=0,Raspberry Pi Boot";
    let dnsmasq = wire.dnsmasq(&[service, "--enable-tftp", &root]);
    assert_eq!(wire.boot(&pi).unwrap_err().reason, "no start4.elf");
    drop(dnsmasq);
    let _dnsmasq = wire.dnsmasq(&[service]);
    let failure = wire.client.run(|| pi.boot(Duration::from_secs(5))).unwrap_err();
    assert_eq!(failure.reason, "9ffefdc2/start4.elf: no answer to RRQ");
    // Every 2 s, from the same port.
    assert!(failure.log.iter().filter(|step| step.what == "RRQ 9ffefdc2/start4.elf").count() >= 2, "{failure}");
}

#[test]
fn every_board_boots_from_our_tftp_server() {
    for board in BOARDS {
        for blksize in [1024, 1468] {
            let folder = tempfile::tempdir().unwrap();
            boot_folder(folder.path());
            let wire = wire();
            let pi = VirtualPi { blksize, ..VirtualPi::new(board, 0xc2, "eth0") };
            // Pi 3: the serial is learned from the folder that it asks for.
            let serial = (board != Board::Pi3B).then_some(Serial(pi.serial));
            let directory = directory_of(vec![served(CLIENT, serial, folder.path())]);
            let (sink, told) = events();
            let options = Options { listen: SERVER, port: 69 };
            let _server = wire.server.run(|| tftp::start(options, directory, sink)).unwrap();
            let _dnsmasq = wire.dnsmasq(&["--pxe-service=0,Raspberry Pi Boot   "]);
            let started = Instant::now();
            let fetched = must_boot(wire.boot(&pi));
            let bytes: usize = fetched.files.values().map(Vec::len).sum();
            println!("{board:?}, blksize {blksize}: {bytes} bytes in {:?}", started.elapsed());
            check_files(&fetched, folder.path(), &["cmdline.txt"]);
            assert_eq!(fetched.prefix, pi.prefix());
            let line = fetched.command_line("ttyAMA0");
            assert_eq!(line, format!("console=ttyAMA0,115200 console=tty1 {}", support::tftp::WORDS));
            check_events(&told.try_iter().collect::<Vec<_>>(), pi.serial);
        }
    }
}

/// Every transfer came to an end that a boot may have, and the folder told the serial.
fn check_events(told: &[Event], serial: u32) {
    let mut started = 0;
    for event in told {
        match event {
            Event::Started { folder, .. } => {
                started += 1;
                assert!(folder.is_none_or(|folder| folder == Serial(serial)));
            }
            Event::Finished { .. } | Event::Aborted { .. } => started -= 1,
            // Of a transfer that takes half a second or more, on a busy machine.
            Event::Missing { .. } | Event::Progress { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    // The end of the last one may be told after the client has gone on.
    assert!((0..=1).contains(&started), "{told:?}");
    assert!(told.iter().any(|event| matches!(event, Event::Started { folder: Some(_), .. })));
}

#[test]
fn many_boards_share_a_wire() {
    let wire = wire();
    let range = "--dhcp-range=192.168.77.100,192.168.77.199,1h";
    let _dnsmasq = wire.dnsmasq(&["--pxe-service=0,Raspberry Pi Boot", range]);
    let addresses: Vec<Ipv4Addr> = wire.client.run(|| {
        std::thread::scope(|scope| {
            let boards = (0..16).map(|number| VirtualPi::new(Board::Pi4B, number, "eth0"));
            let threads: Vec<_> = boards
                .map(|pi| {
                    scope.spawn(move || {
                        let mut session = Session::open(&pi.interface, pi.mac, PATIENCE).unwrap();
                        pi.acquire(&mut session).unwrap().address
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    });
    let distinct: std::collections::BTreeSet<_> = addresses.iter().collect();
    assert_eq!(distinct.len(), 16, "{addresses:?}");
}

/// A TFTP server that follows a script.
fn scripted_server(wire: &Wire, script: Script) -> std::thread::JoinHandle<()> {
    let socket = wire.server.run(|| std::net::UdpSocket::bind((SERVER, 69))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    std::thread::spawn(move || {
        for datagrams in script {
            let Ok((_, client)) = socket.recv_from(&mut [0; 2000]) else { return };
            datagrams.iter().for_each(|datagram| drop(socket.send_to(datagram, client)));
        }
    })
}

/// For each datagram that comes, the datagrams that answer it.
type Script = Vec<Vec<Vec<u8>>>;

fn script(replies: &[&[&[u8]]]) -> Script {
    replies.iter().map(|datagrams| datagrams.iter().map(|datagram| datagram.to_vec()).collect()).collect()
}

#[test]
fn a_server_that_breaks_tftp_is_found_out() {
    let check = |script: Script, reason: &str| {
        let wire = wire();
        let _dnsmasq = wire.dnsmasq(&["--pxe-service=0,Raspberry Pi Boot"]);
        let server = scripted_server(&wire, script);
        let pi = VirtualPi { blksize: 1024, ..VirtualPi::new(Board::Pi4B, 1, "eth0") };
        let failure = wire.client.run(|| pi.boot(Duration::from_secs(8))).unwrap_err();
        assert!(failure.reason.contains(reason), "{failure}");
        server.join().unwrap();
    };
    let block = |number: u8, length: usize| [&[0, 3, 0, number][..], &vec![number; length]].concat();
    let (one, two, three, short) = (block(1, 1024), block(2, 1024), block(3, 1024), block(3, 10));
    // The probe of start4.elf and its ERROR 0, the probe of config.txt and its ERROR 0, then config.txt itself.
    let oack: &[&[u8]] = &[b"\0\x06tsize\x005000\0blksize\x001024\0"];
    let served = |blocks: &[&[&[u8]]]| [script(&[oack, &[], oack, &[], oack]), script(blocks)].concat();
    check(script(&[&[&one]]), "no OACK");
    check(script(&[&[b"\0\x06blksize\x001024\0"]]), "OACK without tsize");
    check(script(&[&[b"\0\x06tsize\x005000\0blksize\x001468\0"]]), "OACK with");
    check(script(&[&[b"\0\x05\0\x02Access violation\0"]]), "ERROR 2");
    check(served(&[&[&one], &[&three]]), "DATA 3 instead of 2");
    // The ACK of block 2 comes twice.
    check(served(&[&[&one], &[&two], &[&three], &[&three]]), "DATA 3 came twice");
    check(served(&[&[&one], &[&two], &[&short]]), "tsize was Some(5000), but 2058 bytes came");
    check(served(&[&[&block(1, 1025)]]), "agreed were 1024");
}

#[test]
fn a_switch_connects_namespaces_and_taps() {
    let (switch, a, b) = (Netns::new("switch"), Netns::new("a"), Netns::new("b"));
    switch.bridge("br0");
    switch.plug("br0", "port0", &a, "eth0", [0xdc, 0xa6, 0x32, 0, 0, 1]);
    switch.plug("br0", "port1", &b, "eth0", [0xdc, 0xa6, 0x32, 0, 0, 2]);
    switch.tap("tap0", "br0");
    assert!(switch.ip("link show master br0").contains("tap0"));
    assert!(a.ip("link show eth0").contains("dc:a6:32:00:00:01"));
    a.ip("address add 192.168.77.1/24 dev eth0");
    b.ip("address add 192.168.77.2/24 dev eth0");
    let listener = a.run(|| std::net::TcpListener::bind("192.168.77.1:1000")).unwrap();
    b.run(|| std::net::TcpStream::connect_timeout(&"192.168.77.1:1000".parse().unwrap(), PATIENCE)).unwrap();
    assert_eq!(listener.accept().unwrap().1.ip(), Ipv4Addr::new(192, 168, 77, 2));
    let names = [switch.name(), a.name(), b.name()].map(|name| Path::new("/run/netns").join(name));
    drop((switch, a, b));
    assert!(names.iter().all(|name| !name.exists()));
}

#[test]
fn a_bad_wire_costs_time_but_no_boot() {
    let boot = |seed: u64| {
        let folder = tempfile::tempdir().unwrap();
        boot_folder(folder.path());
        let wire = wire();
        let board = BOARDS[seed as usize % BOARDS.len()];
        let loss = Some(Loss { seed, one_in: 400 });
        let pi = VirtualPi { loss, ..VirtualPi::new(board, 0xc2, "eth0") };
        let directory = directory_of(vec![served(CLIENT, Some(Serial(pi.serial)), folder.path())]);
        let (sink, _told) = events();
        let options = Options { listen: SERVER, port: 69 };
        let _server = wire.server.run(|| tftp::start(options, directory, sink)).unwrap();
        let _dnsmasq = wire.dnsmasq(&["--pxe-service=0,Raspberry Pi Boot   "]);
        let fetched = must_boot(wire.client.run(|| pi.boot(3 * PATIENCE)));
        let lost = fetched.steps().iter().filter(|step| step.starts_with("lost")).count();
        println!("seed {seed}, {board:?}: {lost} datagrams lost, {:?}", fetched.log.last().unwrap().at);
        check_files(&fetched, folder.path(), &["cmdline.txt"]);
        lost
    };
    let lost: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || boot(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(lost >= 8, "only {lost} datagrams were lost");
}

#[test]
fn a_router_gives_the_address_and_a_proxy_the_files() {
    let folder = tempfile::tempdir().unwrap();
    boot_folder(folder.path());
    let root = format!("--tftp-root={}", folder.path().display());
    let (switch, router, proxy, client) =
        (Netns::new("switch"), Netns::new("router"), Netns::new("proxy"), Netns::new("pi"));
    switch.bridge("br0");
    for (number, netns) in [&router, &proxy, &client].into_iter().enumerate() {
        switch.plug("br0", &format!("port{number}"), netns, "eth0", [0x02, 0, 0, 0, 0, number as u8]);
    }
    router.ip("address add 192.168.77.254/24 dev eth0");
    proxy.ip("address add 192.168.77.1/24 dev eth0");
    let _router = dnsmasq(&router, &["--dhcp-authoritative", "--dhcp-range=192.168.77.50,192.168.77.59,1h"]);
    let service = "--pxe-service=0,Raspberry Pi Boot   ";
    let _proxy = dnsmasq(&proxy, &["--dhcp-range=192.168.77.0,proxy", service, "--enable-tftp", &root]);
    for board in BOARDS {
        let fetched = must_boot(client.run(|| VirtualPi::new(board, 0xc2, "eth0").boot(PATIENCE)));
        assert_eq!(fetched.server, SERVER, "{board:?}");
        assert!((50..60).contains(&fetched.address.octets()[3]), "{board:?}: {}", fetched.address);
    }
}
