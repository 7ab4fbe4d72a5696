//! Several appliances on one wire, each the real binary in a namespace of its own.

#![allow(clippy::unwrap_used)] // a panic is how a test reports

#[allow(dead_code)] // other tests use the rest
mod serve_lab;
mod store_support;
mod support;

use serve_lab::Lab;
use support::virtual_pi::Board;

#[test]
fn two_appliances_with_one_address_do_not_fight_and_each_serves_its_own() {
    let mut first = Lab::ready();
    let (pi, _) = first.enrolled(Board::Pi4B, 4);
    // Switched off: no kernel of it has the address any more.
    pi.netns.ip("address flush dev eth0");

    // The same default address on the same switch: it waits, says so, and leads nobody away.
    let mut second = Lab::beside(&first, "port-2", [0xb8, 0x27, 0xeb, 0, 0, 2]);
    second.put_image();
    second.start();
    second.logged("imported", 0);
    second.logged("wire red: Our address is used by b8:27:eb:00:00:01 (Raspberry Pi) too", 0);
    second.told("Our address is used");
    assert!(!second.log().contains("address 192.168.77.1/24"), "{}", second.log());
    first.boots(&pi);
    assert!(!first.log().contains("wire red"), "{}", first.log());

    // The first one goes away: its address is free.
    let from = second.log().len();
    first.kill();
    first.unplug();
    second.logged("address 192.168.77.1/24", from);
}

#[test]
fn another_appliance_is_seen_and_its_pis_stay_its_own() {
    let mut first = Lab::ready();
    let (pi, _) = first.enrolled(Board::Pi4B, 4);
    // Switched off: no kernel of it has the address any more.
    pi.netns.ip("address flush dev eth0");
    let mut second = Lab::beside(&first, "port-2", [0xb8, 0x27, 0xeb, 0, 0, 2]);
    std::fs::write(second.config(), "[network]\naddress = '192.168.77.2/24'\n").unwrap();
    second.put_image();
    second.start();
    second.logged("imported", 0);
    second.logged("wire green: Another Rootstock, 192.168.77.1: its Pis are not ours", 0);
    // The first one's Pi boots where it belongs, and is shown as a Pi of another here.
    first.boots(&pi);
    assert!(first.log().contains("client pi-1: leased"));
    assert!(!second.log().contains("enrolling"), "{}", second.log());
    second.logged("unknown Pi", 0);
}
