//! What a client gets to know and to touch: handles that are not its own, MOUNT and portmap
//! by each of their procedures over TCP and UDP, and the ports that calls come from.
//! Needs root, loop devices, ext4 and overlayfs (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use rootstock::directory::HandleKey;
use rootstock::nfs::Event;

fn fh(bytes: &[u8]) -> nfs_fh3 {
    nfs_fh3 { data: Opaque::owned(bytes.to_vec()) }
}

/// The reasons that were told for refused handles, as soon as `count` calls are in them.
fn told(lab: &Lab, count: u64) -> Vec<(Ipv4Addr, &'static str)> {
    let start = Instant::now();
    loop {
        let events = lab.events.lock().unwrap();
        let told = events.iter().filter_map(|event| match event {
            Event::BadHandle { address, count, reason } => Some((*address, *count, *reason)),
            _ => None,
        });
        let told: Vec<_> = told.collect();
        drop(events);
        if told.iter().map(|(_, count, _)| count).sum::<u64>() >= count {
            return told.into_iter().map(|(address, _, reason)| (address, reason)).collect();
        }
        assert!(start.elapsed() < Duration::from_secs(20), "only {told:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A call with a handle that `change` made of the first client's file, by the client at `from`.
fn check(from: Ipv4Addr, change: impl Fn(Vec<u8>) -> Vec<u8>, expected: nfsstat3, reason: &str) {
    let lab = Lab::new();
    let root = lab.root(A);
    let file = lab.client(A).find(&root, "file");
    let handle = fh(&change(file.data.to_vec()));
    let mut client = lab.client(from);
    assert_eq!(status(client.getattr(&handle)), expected, "GETATTR");
    // Every procedure asks the same way; the ones that change something are the ones that matter.
    assert_eq!(status(client.write(&handle, 0, b"mine", stable_how::FILE_SYNC)), expected, "WRITE");
    assert_eq!(status(client.setattr(&handle, mode(0o777))), expected, "SETATTR");
    assert_eq!(status(client.remove(&handle, "x")), expected, "REMOVE");
    assert_eq!(status(client.rename(&handle, "x", &handle, "y")), expected, "RENAME");
    assert_eq!(status(client.link(&handle, &handle, "y")), expected, "LINK");
    assert_eq!(told(&lab, 6), vec![(from, reason); told(&lab, 6).len()]);
    assert_eq!(std::fs::read(lab.path("file")).unwrap(), b"data\n", "nothing was written");
}

#[test]
fn a_handle_of_another_client_is_refused_and_told() {
    check(B, |handle| handle, nfsstat3::NFS3ERR_ACCES, "a handle of another client's tree");
}

#[test]
fn a_handle_made_for_ones_own_tree_out_of_anothers_is_forged() {
    // The export's id is in bytes 4 to 8.
    let moved = |mut handle: Vec<u8>| {
        handle[7] = 4;
        handle
    };
    check(B, moved, nfsstat3::NFS3ERR_BADHANDLE, "a forged handle");
}

/// Two stores begin with the same address for their first client.
#[test]
fn a_handle_of_the_stick_before_waits_while_another_one_is_in_and_is_good_again_with_its_own() {
    let lab = Lab::new();
    let root = lab.root(A);
    let mut client = lab.client(A);
    let mut asked = || match client.getattr(&root) {
        Nfs3Result::Ok(_) => nfsstat3::NFS3_OK,
        refused => status(refused),
    };
    assert_eq!(asked(), nfsstat3::NFS3_OK);
    let own = (*lab.directory.get()).clone();
    let mut other = own.clone();
    other.handle_key = HandleKey([8; 16]);
    lab.directory.set(other.clone());
    assert_eq!(asked(), nfsstat3::NFS3ERR_BADHANDLE, "of a store that was never open");
    other.former_keys = vec![HandleKey([9; 16]), own.handle_key.clone()];
    lab.directory.set(other);
    assert_eq!(asked(), nfsstat3::NFS3ERR_JUKEBOX);
    lab.directory.set(own);
    assert_eq!(asked(), nfsstat3::NFS3_OK);
}

#[test]
fn a_forged_or_cut_handle_is_refused_and_told() {
    let forged = |mut handle: Vec<u8>| {
        let last = handle.len() - 1;
        handle[last] ^= 1;
        handle
    };
    check(A, forged, nfsstat3::NFS3ERR_BADHANDLE, "a forged handle");
    check(A, |handle| handle[..handle.len() - 4].to_vec(), nfsstat3::NFS3ERR_BADHANDLE, "not a handle");
    check(A, |_| Vec::new(), nfsstat3::NFS3ERR_BADHANDLE, "not a handle");
    check(A, |_| vec![0; 64], nfsstat3::NFS3ERR_BADHANDLE, "not a handle");
}

#[test]
fn a_handle_of_a_file_that_is_gone_is_stale() {
    let lab = Lab::new();
    let (root, mut client) = (lab.root(A), lab.client(A));
    let file = client.file(&root, "short-lived");
    client.remove(&root, "short-lived").unwrap();
    assert_eq!(status(client.getattr(&file)), nfsstat3::NFS3ERR_STALE);
    let mut other = lab.client(B);
    assert_eq!(status(other.getattr(&file)), nfsstat3::NFS3ERR_ACCES);
}

#[test]
fn no_mount_point_below_a_tree_is_entered() {
    let lab = Lab::new();
    let (root, mut client) = (lab.root(A), lab.client(A));
    run(&format!("mount -t tmpfs secret {0}; echo secret > {0}/secret", lab.path("empty").display()));
    let entered = match client.lookup(&root, "empty") {
        // Either the directory below the mount, or nothing.
        Nfs3Result::Ok(found) => client.lookup(&found.object, "secret"),
        Nfs3Result::Err(_) => return,
    };
    assert!(matches!(entered, Nfs3Result::Err(_)), "{entered:?}");
}

/// One program's calls over TCP and over UDP, from a port of the client at `from`.
struct Both {
    tcp: Client,
    udp: UdpSocket,
    port: u16,
}

impl Both {
    fn new(from: Ipv4Addr, port: u16) -> Self {
        let udp = UdpSocket::bind(SocketAddrV4::new(from, 0)).unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { tcp: Client::connect(port, from), udp, port }
    }

    /// The results, the same over both.
    fn ask(&mut self, program: u32, version: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
        let by_tcp = self.tcp.raw(program, version, procedure, args).unwrap();
        self.tcp.xid += 1;
        let call = [self.tcp.header(program, version, procedure), args.to_vec()].concat();
        self.udp.send_to(&call, (A, self.port)).unwrap();
        let mut reply = [0; 2000];
        let (count, _) = self.udp.recv_from(&mut reply).unwrap();
        assert_eq!(reply[20..24], [0; 4], "accepted over UDP");
        assert_eq!(&reply[24..count], by_tcp, "UDP and TCP answer alike");
        by_tcp
    }
}

fn path(text: &str) -> Vec<u8> {
    packed(&Opaque::borrowed(text.as_bytes()))
}

/// The strings in an XDR list of EXPORT or DUMP.
fn strings(results: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(results);
    let words = text.split(|c: char| !c.is_ascii_graphic()).filter(|word| word.len() > 3);
    words.map(str::to_owned).collect()
}

#[test]
fn mount_answers_each_procedure_and_tells_a_client_of_itself_only() {
    let lab = Lab::new();
    let mut a = Both::new(A, lab.ports().mount);
    let mut b = Both::new(B, lab.ports().mount);
    let mut ask = |procedure, args: &[u8]| a.ask(100_005, 3, procedure, args);
    assert_eq!(ask(0, &[]), [0u8; 0]);
    assert_eq!(ask(2, &[]), [0; 4], "DUMP before anything is mounted");
    for tree in ["/clients/a", "/clients/a-boot"] {
        let mounted = ask(1, &path(tree));
        assert_eq!(mounted[..4], [0; 4], "MNT {tree}");
        // One flavour: AUTH_SYS.
        assert_eq!(mounted[mounted.len() - 8..], [0, 0, 0, 1, 0, 0, 0, 1]);
    }
    assert_eq!(ask(1, &path("/clients/b"))[..4], 13u32.to_be_bytes(), "MNT of another client's");
    let exports = strings(&ask(5, &[]));
    assert_eq!(exports, ["/clients/a", "127.0.0.1", "/clients/a-boot", "127.0.0.1"]);
    let mounts = strings(&ask(2, &[]));
    assert_eq!(mounts, ["127.0.0.1", "/clients/a", "127.0.0.1", "/clients/a-boot"]);
    assert_eq!(strings(&b.ask(100_005, 3, 5, &[])), ["/clients/b", "127.0.0.2", "/clients/b-boot", "127.0.0.2"]);
    assert_eq!(b.ask(100_005, 3, 2, &[]), [0; 4], "DUMP of another client");
    assert_eq!(ask(3, &path("/clients/a")), [0u8; 0]);
    assert_eq!(strings(&ask(2, &[])), ["127.0.0.1", "/clients/a-boot"]);
    assert_eq!(ask(4, &[]), [0u8; 0]);
    assert_eq!(ask(2, &[]), [0; 4], "DUMP after UMNTALL");
    // A stranger gets to know nothing.
    let mut stranger = Both::new(Ipv4Addr::new(127, 0, 0, 9), lab.ports().mount);
    assert_eq!(stranger.ask(100_005, 3, 5, &[]), [0; 4]);
    assert_eq!(stranger.ask(100_005, 3, 1, &path("/clients/a"))[..4], 13u32.to_be_bytes());
}

#[test]
fn portmap_names_our_ports_and_takes_no_others() {
    let lab = Lab::new();
    let ports = lab.ports();
    let mut client = Both::new(A, ports.portmap);
    let mut ask = |procedure, args: &[u32]| {
        let args: Vec<u8> = args.iter().flat_map(|item| item.to_be_bytes()).collect();
        client.ask(100_000, 2, procedure, &args)
    };
    let (tcp, udp) = (6, 17);
    let table = [
        (100_003, 3, tcp, ports.nfs),
        (100_005, 3, tcp, ports.mount),
        (100_005, 3, udp, ports.mount),
        (100_000, 2, tcp, ports.portmap),
        (100_000, 2, udp, ports.portmap),
        (100_003, 3, udp, 0),
        (100_021, 4, tcp, 0),
        (100_024, 1, udp, 0),
    ];
    assert_eq!(ask(0, &[]), [0u8; 0]);
    for (program, version, protocol, port) in table {
        let told = ask(3, &[program, version, protocol, 0]);
        assert_eq!(told, u32::from(port).to_be_bytes(), "GETPORT {program} {version} {protocol}");
    }
    let dumped = ask(4, &[]);
    for (program, version, protocol, port) in table.into_iter().filter(|(.., port)| *port != 0) {
        let entry = [1, program, version, protocol, u32::from(port)].map(u32::to_be_bytes).concat();
        assert!(dumped.chunks(20).any(|found| found == entry), "DUMP has {program} {version} {protocol}");
    }
    assert_eq!(dumped.len() % 20, 4, "whole entries, and the end");
}

#[test]
fn a_reserved_port_is_served_and_another_only_where_that_is_allowed() {
    let mut lab = Lab::new();
    let root = lab.root(A);
    lab.options.allow_unprivileged_ports = false;
    lab.restart();
    // From a port that only root can bind.
    use rustix::net::*;
    let socket = (600..1024).rev().find_map(|port| {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddrV4::new(A, port)).ok()?;
        connect(&socket, &SocketAddrV4::new(A, lab.ports().nfs)).ok()?;
        Some(socket)
    });
    let mut client = lab.client(A);
    assert_eq!(status(client.getattr(&root)), nfsstat3::NFS3ERR_ACCES);
    assert!(told(&lab, 1).iter().all(|(_, reason)| reason.contains("unprivileged port")));
    client.stream = std::net::TcpStream::from(socket.unwrap());
    client.attributes(&root);
}
