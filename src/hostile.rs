//! Everything that takes bytes from outside, by name: the wire's packets, the
//! stick's sectors and files. For the fuzzer and for the test that replays its
//! corpus (`tests/fuzz`); nothing else calls it. Pure.
//!
//! An entry may do anything with its bytes but panic, hang, or allocate without a
//! bound. What acts on a tree is [`crate::nfs::probe::Probe`].

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::client::{Role, Serial};
use crate::config::Subnet;
use crate::dhcp::{self, Binding, Server};
use crate::init::{mbr, uevent};
use crate::nfs::probe;
use crate::store::{backup, history, identify, in_place, manifest, packing, personalise, table};
use crate::tftp::packet::Packet;
use crate::{blackbox, config, net, self_test, tftp};

pub type Entry = fn(&[u8]);

/// All entries that need nothing but the bytes.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("record", probe::record),
    ("xdr", probe::xdr),
    ("rpc", probe::rpc),
    ("handle", probe::handle),
    ("journal", probe::journal),
    ("dhcp", dhcp),
    ("wire", wire),
    ("tftp", tftp),
    ("cmdline", cmdline),
    ("config", config),
    ("stick", stick),
    ("manifest", manifest),
    ("uevent", uevent),
    ("update", update),
    ("fdt", fdt),
    ("ring", ring),
    ("elf", elf),
];

/// A datagram to port 67, and the answer to a client that is known.
fn dhcp(datagram: &[u8]) {
    let Ok(request) = dhcp::parse(datagram) else { return };
    let address = Ipv4Addr::new(192, 168, 77, 1);
    let subnet = Subnet { address, prefix: 24 };
    let server = Server { subnet, gateway: Some(address), dns: vec![address; 5], lease: Duration::from_secs(3600) };
    let binding = Binding {
        address: Ipv4Addr::new(192, 168, 77, 50),
        role: Role::numbered(1),
        root_path: "192.168.77.1:/clients/pi-1/root,vers=3,tcp".to_owned(),
    };
    let _ = dhcp::decide(&server, Some(&binding), &request);
    let _ = dhcp::decide(&server, None, &request);
    let _ = dhcp::offer_boot(&server, &request);
    let _ = dhcp::tell_presence(&server, &request);
}

/// A frame of spanning tree's group, and a packet that may be a DHCP server's answer to us.
fn wire(frame: &[u8]) {
    let _ = net::bpdu_delay(frame);
    if let Some((_, datagram)) = dhcp::frame::udp_payload(frame, 68) {
        let _ = dhcp::client::parse(datagram);
    }
    let _ = dhcp::client::parse(frame);
}

/// A datagram to port 69, the path it asks for, and the transfer it would begin.
fn tftp(datagram: &[u8]) {
    let Ok(Packet::Rrq(request)) = tftp::packet::parse(datagram) else { return };
    for serial in [None, Some(Serial(0x1234_abcd))] {
        let _ = tftp::path::map(serial, &request.path);
    }
    let _ = tftp::path::display(&request.path);
    let mut transfer = tftp::transfer::Transfer::new(&request.asked, 1 << 20);
    let _ = transfer.poll(Duration::ZERO);
}

fn cmdline(file: &[u8]) {
    let _ = tftp::cmdline::make(file, "root=/dev/nfs rw ip=dhcp rootwait");
    let named = tftp::config::parse(file);
    let _ = tftp::config::is_named(&named.command_lines, file);
}

fn config(file: &[u8]) {
    let _ = config::parse(file);
    let _ = personalise::reads_custom(&String::from_utf8_lossy(file));
}

/// The head of an update file, and the card's `autoboot.txt`.
fn update(head: &[u8]) {
    use crate::update::{autoboot::Autoboot, container::Header, keys};
    let _ = Autoboot::parse(head);
    if let Ok(header) = Header::parse(head) {
        let _ = header.unverified();
        let _ = keys::public(header.signed());
        let _ = ssh_key::SshSig::from_pem(header.signature());
    }
}

/// The device tree that the firmware made.
fn fdt(blob: &[u8]) {
    let _ = crate::update::fdt::mailbox(blob);
}

/// The first sectors of a stick: what it holds, its table, and where a partition would go.
fn stick(head: &[u8]) {
    let _ = identify::identify(head);
    let _ = mbr::find_partition(
        head.get(..512).unwrap_or(&[0; 512]),
        1 << 33,
        mbr::BootId { signature: 0x1234_5678, partition: 1 },
    );
    for sector_bytes in [512, 4096] {
        let sectors = [1 << 21, 1 << 40, u64::MAX];
        for geometry in sectors.map(|sectors| table::Geometry { sectors, sector_bytes }) {
            // A disk is as long as it says.
            let mut head = head.to_vec();
            head.resize(head.len().max(geometry.head_bytes().min(32 << 10)), 0);
            let Ok(found) = table::read(&head, geometry) else { continue };
            if let Ok(entry) = table::find_room(&found, geometry, 64 << 20) {
                let _ = table::plan_add(&found, &head, entry, geometry, [7; 16]);
            }
        }
    }
}

fn manifest(file: &[u8]) {
    let _ = manifest::parse_image(file);
    let _ = manifest::parse_client(file, &Role::numbered(1));
    let _ = backup::parse_mark(file);
    let _ = in_place::parse(file);
    let _ = manifest::parse_store(file);
    let _ = manifest::parse_state(file);
    let _ = history::parse(file);
    if let Ok(name) = "a".parse() {
        let _ = manifest::parse_snapshot(file, &name);
    }
    let Ok(name) = std::str::from_utf8(file) else { return };
    let _ = packing::packing(name);
    let _ = packing::image_name(name);
    if !name.is_empty() {
        let _ = manifest::image_id(name, &[7; 32]);
    }
}

/// A client's program, as the self-test reads it.
fn elf(file: &[u8]) {
    let _ = self_test::elf::needs(file);
    for board in self_test::script::BOARDS {
        let _ = self_test::script::config(file, board);
    }
}

/// What a server that was killed left in the run folder, and the report of it.
fn ring(segment: &[u8]) {
    let records = blackbox::record::read(segment);
    let (facts, clients) = (Vec::new(), Vec::new());
    let summary = blackbox::Summary { why: blackbox::Why::Crash, reason: String::new(), facts, clients };
    let _ = blackbox::files(&summary, &records);
}

fn uevent(datagram: &[u8]) {
    let _ = uevent::parse(datagram);
}
