//! The network thread against the kernel and `ip`, in namespaces of its own.

#![allow(clippy::unwrap_used)] // a panic is how a test reports

mod net_support;

use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use net_support::{CLIENT_MAC, PATIENCE, SERVER, Wire, eventually};
use rootstock::config::Subnet;
use rootstock::net::{Event, Handle, Options, SURVEY_TIME, start};
use rootstock::wire::Facts;

const OURS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const SUBNET: Subnet = Subnet { address: OURS, prefix: 24 };
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);

struct Net {
    handle: Handle,
    events: Receiver<Event>,
}

impl Net {
    fn start(wire: &Wire, interface: Option<&str>, gateway: Option<Ipv4Addr>) -> Self {
        let options = Options { interface: interface.map(str::to_owned), address: SUBNET, gateway };
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let sink = Arc::new(move |event| drop(sender.lock().unwrap().send(event)));
        Self { handle: wire.in_server(|| start(options, sink).unwrap()), events }
    }

    /// Takes events until this one comes; gives those before it.
    #[track_caller]
    fn wait(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut before = Vec::new();
        loop {
            let event = self.events.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("only came: {before:?}"));
            if wanted(&event) {
                return before;
            }
            before.push(event);
        }
    }

    #[track_caller]
    fn wait_for(&self, wanted: &Event) -> Vec<Event> {
        self.wait(|event| event == wanted)
    }

    /// The answer to a probe.
    #[track_caller]
    fn probed(&self, address: Ipv4Addr, owner: Option<&str>) -> Option<String> {
        self.handle.probe(address, owner.map(|mac| mac.parse().unwrap()));
        loop {
            if let Event::Probed { address: of, conflict } = self.events.recv_timeout(PATIENCE).unwrap() {
                assert_eq!(of, address);
                return conflict.map(|mac| mac.to_string());
            }
        }
    }
}

/// A wire with the appliance's side set up.
fn set_up() -> (Wire, Net) {
    let wire = Wire::plugged();
    let net = Net::start(&wire, Some(SERVER), None);
    // In either order: the carrier may come before the address or after it.
    let before = net.wait_for(&Event::Carrier(true));
    if !before.contains(&Event::Address(SUBNET)) {
        net.wait_for(&Event::Address(SUBNET));
    }
    (wire, net)
}

fn has_address(wire: &Wire) -> bool {
    wire.server_ip("-4 addr show dev s0").contains("inet 192.168.77.1/24 brd 192.168.77.255")
}

#[test]
fn the_only_interface_is_found_and_gets_its_address_and_route() {
    let wire = Wire::plugged();
    let gateway = Ipv4Addr::new(192, 168, 77, 254);
    let net = Net::start(&wire, None, Some(gateway));
    let before = net.wait_for(&Event::Address(SUBNET));
    // The wire is asked before the interface is served on.
    assert!(matches!(before[0], Event::Wire(_)), "{before:?}");
    assert!(matches!(&before[1], Event::Interface { name, .. } if name == SERVER), "{before:?}");
    assert!(matches!(before[2], Event::Carrier(_)), "{before:?}");
    assert!(has_address(&wire));
    eventually("the default route is set", || {
        wire.server_ip("route show default").contains("default via 192.168.77.254 dev s0")
    });
    assert!(net.events.try_iter().all(|event| !matches!(event, Event::Failed(_))));
}

#[test]
fn an_interface_that_comes_late_goes_and_comes_again_is_used() {
    let wire = Wire::empty();
    let net = Net::start(&wire, Some(SERVER), None);
    for _ in 0..2 {
        wire.plug();
        net.wait(|event| matches!(event, Event::Interface { name, .. } if name == SERVER));
        net.wait_for(&Event::Address(SUBNET));
        wire.server_ip("link del s0");
        net.wait_for(&Event::Lost);
    }
}

fn absent(message: String) -> Event {
    Event::Absent { named: true, message }
}

#[test]
fn an_interface_that_is_not_there_is_missed_by_name_beside_those_that_are() {
    let wire = Wire::plugged();
    let net = Net::start(&wire, Some("eth7"), None);
    net.wait_for(&absent(format!("no network interface eth7 here, only {SERVER}")));
    wire.server_ip("link del s0");
    net.wait_for(&absent("no network interface eth7 here, and no other".to_owned()));
    wire.plug();
    wire.server_ip("link set s0 name eth7");
    net.wait_for(&Event::Address(SUBNET));
    wire.server_ip("link del eth7");
    net.wait_for(&Event::Lost);
    net.wait_for(&absent("no network interface eth7 here, and no other".to_owned()));
}

#[test]
fn an_address_that_somebody_removes_is_set_again() {
    let (wire, net) = set_up();
    for _ in 0..2 {
        wire.server_ip("addr flush dev s0");
        net.wait_for(&Event::Address(SUBNET));
        assert!(has_address(&wire));
    }
}

#[test]
fn a_link_that_somebody_sets_down_comes_up_with_its_neighbours() {
    let (wire, net) = set_up();
    net.handle.neighbour(CLIENT_MAC.parse().unwrap(), OTHER);
    let entry = || wire.server_ip("neigh show dev s0").contains("192.168.77.10 lladdr dc:a6:32:01:36:c2 PERMANENT");
    eventually("the entry stands", entry);
    wire.server_ip("link set s0 down");
    eventually("the link is up again", || wire.server_ip("link show dev s0").contains("LOWER_UP"));
    eventually("the entry stands again", entry);
    net.handle.forget_neighbour(OTHER);
    eventually("the entry is gone", || !entry());
    assert!(net.events.try_iter().all(|event| !matches!(event, Event::Failed(_))));
}

#[test]
fn the_carrier_follows_the_cable() {
    let (wire, net) = set_up();
    wire.client_ip("link set c0 down");
    net.wait_for(&Event::Carrier(false));
    assert!(has_address(&wire), "the servers keep their address");
    wire.client_ip("link set c0 up");
    net.wait_for(&Event::Carrier(true));
}

#[test]
fn a_probe_finds_who_uses_an_address_and_a_free_one_soon() {
    let (wire, net) = set_up();
    let start = Instant::now();
    assert_eq!(net.probed(OTHER, None), None);
    assert!(start.elapsed() >= rootstock::net::PROBE_TIME);
    wire.client_ip("addr add 192.168.77.10/24 dev c0");
    assert_eq!(net.probed(OTHER, None).as_deref(), Some(CLIENT_MAC));
    assert_eq!(net.probed(OTHER, Some(CLIENT_MAC)), None, "the client itself may have it");
}

#[test]
fn a_probe_is_answered_without_an_interface_too() {
    let wire = Wire::empty();
    let net = Net::start(&wire, Some(SERVER), None);
    assert_eq!(net.probed(OTHER, None), None);
}

#[test]
fn somebody_with_our_address_keeps_it_and_we_wait_until_it_is_free() {
    let wire = Wire::plugged();
    wire.client_ip("addr add 192.168.77.1/24 dev c0");
    let net = Net::start(&wire, Some(SERVER), None);
    let conflict = Event::Conflict { address: OURS, mac: CLIENT_MAC.parse().unwrap() };
    net.wait_for(&conflict);
    wire_facts(&net, |facts| facts.taken_by.is_some_and(|by| by.mac.to_string() == CLIENT_MAC));
    eventually("the address is given up", || !has_address(&wire));
    wire.client_ip("addr del 192.168.77.1/24 dev c0");
    net.wait_for(&Event::Address(SUBNET));
    assert!(has_address(&wire));
}

#[test]
fn where_the_cable_is_there_already_the_address_is_probed_before_its_first_use() {
    let wire = Wire::plugged();
    wire.server_ip("link set s0 up");
    eventually("the carrier is there", || wire.server_ip("link show dev s0").contains("LOWER_UP"));
    let net = Net::start(&wire, Some(SERVER), None);
    let before = net.wait_for(&Event::Carrier(true));
    assert!(!before.contains(&Event::Address(SUBNET)) && !has_address(&wire));
    let start = Instant::now();
    net.wait_for(&Event::Address(SUBNET));
    assert!(start.elapsed() > rootstock::net::PROBE_TIME / 2, "it waited for an answer");
    drop(net);

    wire.server_ip("addr flush dev s0");
    wire.client_ip("addr add 192.168.77.1/24 dev c0");
    let net = Net::start(&wire, Some(SERVER), None);
    let before = net.wait_for(&Event::Conflict { address: OURS, mac: CLIENT_MAC.parse().unwrap() });
    assert!(!before.contains(&Event::Address(SUBNET)) && !has_address(&wire), "{before:?}");
}

#[test]
fn an_address_that_was_ours_is_kept_when_somebody_takes_it_too() {
    let (wire, net) = set_up();
    wait_until_probed(&net);
    wire.client_ip("addr add 192.168.77.1/24 dev c0");
    wire.client_ip("link set c0 down");
    net.wait_for(&Event::Carrier(false));
    wire.client_ip("link set c0 up");
    net.wait_for(&Event::Conflict { address: OURS, mac: CLIENT_MAC.parse().unwrap() });
    assert!(has_address(&wire), "clients may run on it");
}

/// Another probe takes at least as long as the one for our own address.
fn wait_until_probed(net: &Net) {
    net.probed(OTHER, None);
}

#[test]
fn our_address_is_announced_to_those_who_knew_another() {
    let wire = Wire::plugged();
    wire.client_ip("addr add 192.168.77.10/24 dev c0");
    wire.client_ip("neigh add 192.168.77.1 lladdr 02:00:00:00:00:99 nud stale dev c0");
    let _net = Net::start(&wire, Some(SERVER), None);
    eventually("the client's table is mended", || !wire.client_ip("neigh show dev c0").contains("02:00:00:00:00:99"));
}

#[test]
fn the_interface_keeps_its_address_when_the_thread_ends() {
    let (wire, net) = set_up();
    drop(net);
    assert!(has_address(&wire));
}

/// The facts that are told until these ones come.
#[track_caller]
fn wire_facts(net: &Net, wanted: impl Fn(&Facts) -> bool) {
    net.wait(|event| matches!(event, Event::Wire(facts) if wanted(facts)));
}

#[test]
fn a_dhcp_server_on_the_wire_is_found() {
    let wire = Wire::plugged();
    wire.client_ip("addr add 10.9.0.1/24 dev c0");
    let mut dnsmasq = Child(
        wire.client_command("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=c0", "--bind-interfaces"])
            .args(["--dhcp-range=10.9.0.10,10.9.0.20,255.255.255.0,1h", "--dhcp-leasefile=/dev/null", "--user=root"])
            .spawn()
            .unwrap_or_else(|error| panic!("{error}; cure: apt-get install dnsmasq-base")),
    );
    let net = Net::start(&wire, Some(SERVER), None);
    // First of all it is told that the wire is being asked, so that nobody leases yet.
    let first = net.events.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(first, Event::Wire(facts) if facts.asking || facts == Facts::default()), "{first:?}");
    let before = Instant::now();
    net.wait(|event| match event {
        Event::Wire(Facts { server: Some(server), .. }) => {
            assert_eq!(server.address, Ipv4Addr::new(10, 9, 0, 1));
            assert_eq!(server.station.mac.to_string(), CLIENT_MAC);
            assert_eq!(server.offered.map(|subnet| subnet.network()), Some(Ipv4Addr::new(10, 9, 0, 0)));
            true
        }
        _ => false,
    });
    assert!(before.elapsed() < SURVEY_TIME * 2, "{:?}", before.elapsed());
    assert!(dnsmasq.0.try_wait().unwrap().is_none());
}

#[test]
fn the_spanning_tree_of_a_real_bridge_is_seen() {
    let wire = Wire::plugged();
    wire.client_ip("link add name br0 type bridge stp_state 1 forward_delay 1500 hello_time 100");
    wire.client_ip("link set c0 master br0");
    wire.client_ip("link set br0 up");
    let net = Net::start(&wire, Some(SERVER), None);
    wire_facts(&net, |facts| facts.forward_delay == Some(Duration::from_secs(15)));
}

#[test]
fn cisco_s_own_spanning_tree_is_seen_by_its_group() {
    let wire = Wire::plugged();
    let net = Net::start(&wire, Some(SERVER), None);
    net.wait_for(&Event::Carrier(true));
    // A crafted capture: PVST+ of VLAN 1, its forward delay 20 s.
    let mut frame = vec![0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd, 0x00, 0x1b, 0x54, 1, 2, 3];
    let body = [
        &[0xaa, 0xaa, 3, 0, 0, 0x0c, 0x01, 0x0b, 0, 0, 0, 0, 0x3c][..],
        &[0x80, 1, 0, 0x1b, 0x54, 1, 2, 3, 0, 0, 0, 4, 0x80, 1, 0, 0x1b, 0x54, 1, 2, 4, 0x80, 1],
        &[0, 0, 20, 0, 2, 0, 20, 0, 0, 0, 0, 0, 2, 0, 1],
    ]
    .concat();
    frame.extend_from_slice(&(body.len() as u16).to_be_bytes());
    frame.extend_from_slice(&body);
    frame.resize(60.max(frame.len()), 0);
    wire.in_client(|| send_frame("c0", &frame));
    wire_facts(&net, |facts| facts.forward_delay == Some(Duration::from_secs(20)));
}

/// Sends a whole Ethernet frame from the calling thread's namespace.
fn send_frame(interface: &str, frame: &[u8]) {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: plain system calls on a socket, a name and buffers that live through them.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        assert!(socket >= 0);
        let mut to: libc::sockaddr_ll = std::mem::zeroed();
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        let length = std::mem::size_of_val(&to) as u32;
        let sent = libc::sendto(socket, frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), length);
        assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
        libc::close(socket);
    }
}

/// Ended with its test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
