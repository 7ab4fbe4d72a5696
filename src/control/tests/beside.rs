//! Another DHCP server on the wire, and the address it gave us.

use super::*;
use crate::config::Subnet;
use crate::dhcp::lease::Lease;
use crate::wire::{Finding, OtherServer, Station};

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 57);
const ITS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 70);

fn facts() -> Facts {
    let station = Station { mac: MacAddr([0xc8, 0x0e, 0x14, 1, 2, 3]), vendor: Some("AVM") };
    let offered = Some(Subnet { address: Ipv4Addr::new(10, 0, 0, 99), prefix: 24 });
    Facts { server: Some(OtherServer { address: ROUTER, station, offered }), ..Facts::default() }
}

fn wire(bench: &mut Bench, facts: Facts) {
    bench.event(Event::Net(net::Event::Wire(facts)));
}

fn lease() -> Lease {
    let subnet = Subnet { address: OWN, prefix: 24 };
    Lease { subnet, server: ROUTER, router: Some(ROUTER), dns: Vec::new() }
}

/// Beside a router, with an address of its, and one client.
fn beside() -> Bench {
    let mut bench = Bench::with_store(vec![known()]);
    bench.event(Event::Net(net::Event::Carrier(true)));
    bench.event(Event::Net(net::Event::Address(Config::default().network.address)));
    wire(&mut bench, facts());
    bench.event(Event::Net(net::Event::Leased(lease())));
    // Those of before the router was found.
    bench.probes.clear();
    bench
}

/// Its root is fitted to our new address.
fn fitted(bench: &mut Bench) {
    bench.event(Event::Store(store::Event::ClientReady(open(known()))));
}

fn chooses_router(mac: MacAddr, address: Ipv4Addr) -> Request {
    Request { server_id: Some(ROUTER), ..request(mac, address) }
}

fn at(bench: &Bench) -> Option<Ipv4Addr> {
    bench.directory.clients.first().map(|client| client.address)
}

#[test]
fn nobody_is_answered_before_the_wire_was_asked_who_leases_on_it() {
    let mut bench = Bench::with_store(vec![known()]);
    wire(&mut bench, Facts { asking: true, ..Facts::default() });
    bench.asks(discover(known().mac, Asker::PiEeprom));
    assert_eq!(bench.sent, []);
    bench.now += Duration::from_secs(4);
    wire(&mut bench, Facts::default());
    bench.probed(None);
    assert_eq!(bench.sent, [Answer::Offer]);
}

#[test]
fn where_another_server_leases_a_known_pi_gets_the_boot_alone() {
    let mut bench = beside();
    bench.asks(discover(known().mac, Asker::PiEeprom));
    assert_eq!((bench.sent.as_slice(), bench.renewed), (&[][..], 1), "its root named another address of ours");
    fitted(&mut bench);
    assert_eq!(bench.sent, [Answer::Boot]);
    assert!(bench.probes.is_empty(), "its address is the other server's affair");
    bench.asks(chooses_router(known().mac, ITS));
    assert_eq!((bench.sent.len(), at(&bench)), (1, Some(ITS)));
    assert!(bench.directory.clients[0].kernel_words.contains("nfsroot=10.0.0.57:/clients/"));
    assert!(matches!(bench.stage(), Stage::Leased));
    bench.asks(discover(known().mac, Asker::PiOther));
    assert_eq!(bench.sent, [Answer::Boot], "its kernel asks the other server");
    assert!(matches!(bench.control.status(bench.now).network.wire, Finding::Beside { .. }));
    assert_eq!(bench.control.status(bench.now).network.address, Some(OWN));
}

#[test]
fn until_we_have_an_address_there_the_boot_is_not_offered() {
    let mut bench = Bench::with_store(vec![known()]);
    bench.event(Event::Net(net::Event::Carrier(true)));
    wire(&mut bench, facts());
    bench.asks(discover(known().mac, Asker::PiEeprom));
    assert!(matches!(bench.control.status(bench.now).network.wire, Finding::NoAddress { .. }));
    assert_eq!(bench.sent, []);
    bench.event(Event::Net(net::Event::Leased(lease())));
    assert_eq!((bench.sent.as_slice(), bench.renewed), (&[][..], 1));
    fitted(&mut bench);
    assert_eq!(bench.sent, [Answer::Boot], "it waited");
}

#[test]
fn a_pi_3s_rom_hears_us_a_while_after_the_other_server() {
    let mut bench = beside();
    bench.asks(discover(known().mac, Asker::PiRom));
    fitted(&mut bench);
    assert_eq!(bench.sent, []);
    assert_eq!(bench.control.delayed_at(), Some(bench.now + crate::control::beside::ROM_DELAY));
    bench.now += crate::control::beside::ROM_DELAY;
    bench.pass(0);
    assert_eq!(bench.sent, [Answer::Boot]);
    bench.event(Event::Net(net::Event::Seen { mac: known().mac, address: ITS }));
    assert_eq!(at(&bench), Some(ITS), "it sends no REQUEST, but ARP");
}

#[test]
fn strangers_and_other_machines_get_silence_there_too() {
    let mut bench = beside();
    bench.asks(discover(MAC, Asker::PiEeprom));
    bench.asks(discover(MacAddr([2, 0, 0, 0, 0, 9]), Asker::OtherPxe));
    bench.asks(chooses_router(MAC, ITS));
    assert_eq!((bench.sent.as_slice(), at(&bench)), (&[][..], Some(known().address)));
    assert_eq!(bench.control.status(bench.now).strangers.len(), 1);
}

#[test]
fn a_new_pi_is_enrolled_beside_a_router() {
    let mut bench = beside();
    bench.press(Gesture::Short(Button::Enroll)).asks(discover(MAC, Asker::PiEeprom));
    bench.ready();
    assert_eq!((bench.created.len(), bench.sent.as_slice()), (1, &[Answer::Boot][..]));
}

#[test]
fn nobody_takes_a_running_clients_place_by_asking_for_an_address() {
    let mut bench = beside();
    bench.asks(chooses_router(known().mac, ITS));
    bench.event(Event::Nfs(nfs::Event::Mounted { address: ITS, tree: Tree::Root }));
    let evil = Ipv4Addr::new(10, 0, 0, 66);
    bench.asks(chooses_router(known().mac, evil));
    assert_eq!(at(&bench), Some(ITS), "anybody can send that");
    bench.event(Event::Net(net::Event::Seen { mac: known().mac, address: evil }));
    assert_eq!(at(&bench), Some(evil), "but not speak ARP from its MAC");
}

#[test]
fn an_address_where_another_client_runs_is_not_believed_and_an_old_one_moves() {
    let other =
        Client { role: Role::numbered(9), mac: MAC, address: Ipv4Addr::new(192, 168, 77, 99), export_id: 9, ..known() };
    let mut bench = Bench::with_store(vec![known(), other]);
    wire(&mut bench, facts());
    bench.event(Event::Net(net::Event::Leased(lease())));
    bench.asks(chooses_router(known().mac, ITS));
    let place = |bench: &Bench, n: u32| {
        let role = if n == 9 { Role::numbered(9) } else { known().role };
        bench.directory.clients.iter().find(|client| client.role == role).map(|client| client.address)
    };
    bench.event(Event::Nfs(nfs::Event::Mounted { address: ITS, tree: Tree::Root }));
    bench.event(Event::Net(net::Event::Seen { mac: MAC, address: ITS }));
    assert_eq!(place(&bench, 1), Some(ITS), "its tree stays its own");
    // Switched off and asking anew it runs no more: the router may give its address away.
    bench.asks(discover(known().mac, Asker::PiEeprom));
    bench.event(Event::Net(net::Event::Seen { mac: MAC, address: ITS }));
    assert_eq!((place(&bench, 9), place(&bench, 1)), (Some(ITS), None));
}

#[test]
fn when_the_server_is_gone_we_lease_again_and_running_clients_stay_where_they_are() {
    let mut bench = beside();
    bench.asks(chooses_router(known().mac, ITS));
    bench.event(Event::Nfs(nfs::Event::Mounted { address: ITS, tree: Tree::Root }));
    wire(&mut bench, Facts::default());
    assert_eq!(at(&bench), Some(ITS));
    bench.asks(discover(known().mac, Asker::PiEeprom));
    fitted(&mut bench);
    bench.event(Event::Net(net::Event::Probed { address: known().address, conflict: None }));
    assert_eq!((bench.sent.as_slice(), at(&bench)), (&[Answer::Offer][..], Some(known().address)));
}

#[test]
fn a_client_that_runs_on_our_lease_keeps_it_when_a_router_comes() {
    let mut bench = Bench::with_store(vec![known()]);
    let address = known().address;
    bench.asks(discover(known().mac, Asker::PiEeprom)).probed(None);
    bench.event(Event::Nfs(nfs::Event::Mounted { address, tree: Tree::Root }));
    wire(&mut bench, facts());
    bench.event(Event::Net(net::Event::Leased(lease())));
    assert_eq!(at(&bench), Some(address));
    bench.sent.clear();
    let renew = Request { kind: Kind::Request, ciaddr: address, ..discover(known().mac, Asker::PiOther) };
    bench.asks(renew);
    assert_eq!(bench.sent, [Answer::Ack]);
}

#[test]
fn by_configuration_we_lease_beside_anybody_or_never() {
    let mode = |mode, fixed| {
        let mut config = Config::default();
        (config.dhcp.mode, config.network.fixed) = (mode, fixed);
        let mut bench = Bench { control: Control::new(config, &[]), ..Bench::new() };
        bench.event(Event::Store(opened(vec![known()])));
        bench
    };
    use crate::config::DhcpMode;
    let mut server = mode(DhcpMode::Server, false);
    wire(&mut server, facts());
    server.asks(discover(known().mac, Asker::PiEeprom)).probed(None);
    assert_eq!(server.sent, [Answer::Offer]);
    let mut proxy = mode(DhcpMode::Proxy, true);
    wire(&mut proxy, Facts::default());
    proxy.asks(discover(known().mac, Asker::PiEeprom));
    assert_eq!(proxy.sent, [Answer::Boot]);
}

#[test]
fn another_appliance_is_told_that_we_are_here_and_gets_nothing_else() {
    let mut bench = Bench::with_store(vec![]);
    bench.event(Event::Net(net::Event::Address(Config::default().network.address)));
    let ask = Request { vendor_class: Some("Rootstock".to_owned()), ..discover(MAC, Asker::Other) };
    bench.asks(ask.clone());
    assert_eq!(bench.sent, [Answer::Presence]);
    bench.asks(Request { kind: Kind::Request, ..ask });
    assert_eq!(bench.sent, [Answer::Presence]);
}

#[test]
fn while_somebody_else_has_our_address_nobody_is_led_to_him() {
    let mut bench = Bench::with_store(vec![known()]);
    let by = Station { mac: MAC, vendor: None };
    wire(&mut bench, Facts { taken_by: Some(by), ..Facts::default() });
    bench.asks(discover(known().mac, Asker::PiEeprom));
    assert_eq!(bench.sent, []);
    wire(&mut bench, Facts::default());
    bench.event(Event::Net(net::Event::Address(Config::default().network.address)));
    bench.probed(None);
    assert_eq!(bench.sent, [Answer::Offer]);
}
