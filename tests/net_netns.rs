//! The network thread against the kernel and `ip`, in namespaces of its own.

#![allow(clippy::unwrap_used)] // a panic is how a test reports

mod net_support;

use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use net_support::{CLIENT_MAC, PATIENCE, SERVER, Wire, eventually};
use rootstock::config::Subnet;
use rootstock::net::{Event, Handle, Options, start};

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
    assert!(matches!(&before[0], Event::Interface { name, .. } if name == SERVER), "{before:?}");
    assert!(matches!(before[1], Event::Carrier(_)), "{before:?}");
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
fn somebody_with_our_address_is_reported_and_does_not_stop_us() {
    let wire = Wire::plugged();
    wire.client_ip("addr add 192.168.77.1/24 dev c0");
    let net = Net::start(&wire, Some(SERVER), None);
    let conflict = Event::Conflict { address: OURS, mac: CLIENT_MAC.parse().unwrap() };
    let before = net.wait_for(&conflict);
    if !before.contains(&Event::Address(SUBNET)) {
        net.wait_for(&Event::Address(SUBNET));
    }
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
    let before = net.wait_for(&Event::Address(SUBNET));
    assert!(before.contains(&Event::Conflict { address: OURS, mac: CLIENT_MAC.parse().unwrap() }), "{before:?}");
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
