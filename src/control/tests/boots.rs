//! Stages, history and silence of clients, and the light of the wire.

use super::*;

#[test]
fn the_window_closes_and_a_silent_client_stalls_by_time_alone() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    bench.press(Gesture::Short(Button::Enroll)).pass(121);
    assert_eq!(bench.control.status(bench.now).enrolment, status::Enrolment::Closed);
    bench.asks(discover(MAC, Asker::PiEeprom)).pass(41);
    assert!(matches!(bench.stage(), Stage::Stalled { .. }));
    assert_eq!(bench.control.poll_timeout(bench.now), None, "nothing is under way any more");
}

#[test]
fn a_client_that_was_starting_is_watched_again_when_the_stick_is_back() {
    let client = enrolled();
    let mut bench = Bench::with_store(vec![client.clone()]);
    bench.event(Event::Nfs(nfs::Event::Mounted { address: client.address, tree: Tree::Root }));
    bench.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
    let actions = bench.control.handle(bench.now, Event::Store(opened(vec![client])));
    let watches = |action: &Action| matches!(action, Action::Store(store::Command::WatchUp(_, true)));
    assert!(actions.iter().any(watches));
}

fn up() -> Event {
    Event::Store(store::Event::Up { role: Role::numbered(1) })
}

/// What the history was told: took, reached, why not, amends.
fn told(bench: &Bench) -> Vec<(u64, &str, bool, bool)> {
    let told =
        |(boot, amends): &'_ (store::history::BootRecord, bool)| (boot.took_seconds, boot.stalled.is_some(), *amends);
    bench
        .boots
        .iter()
        .map(|entry| {
            let (took, stalled, amends) = told(entry);
            (took, entry.0.reached.as_str(), stalled, amends)
        })
        .collect()
}

#[test]
fn a_boot_that_came_up_is_history_and_measures_the_next_one() {
    let (mut bench, address) = one_client();
    let file = |path: &str| tftp::Event::Started { address, path: path.to_owned(), folder: None, size: Some(900) };
    let sent = |bytes| tftp::Event::Finished { address, path: String::new(), bytes, took: Duration::ZERO };
    let load = |bench: &mut Bench| {
        bench.asks(discover(MAC, Asker::PiEeprom)).pass(1);
        bench.event(Event::Tftp(file("start4.elf"))).event(Event::Tftp(sent(100))).pass(1);
        bench.event(Event::Tftp(file("kernel8.img"))).event(Event::Tftp(sent(700))).pass(1);
    };
    let files = vec![("kernel8.img".to_owned(), 1000), ("start4.elf".to_owned(), 600)];
    bench.event(Event::Store(store::Event::BootFiles { image: image().id, files }));
    load(&mut bench);
    assert_eq!(bench.stage().per_mille(), Some(500), "by what its files weigh");
    bench.event(mounted(address)).pass(38).event(up());
    assert_eq!(told(&bench), [(41, "up", false, false)]);
    let record = bench.boots[0].0.clone();
    assert_eq!((record.loaded_bytes, record.image.clone()), (800, image().id));
    bench.event(Event::Store(store::Event::Boots { role: Role::numbered(1), boots: vec![record] }));
    assert_eq!(bench.control.status(bench.now).clients[0].last_boot, Some(Duration::from_secs(41)));
    load(&mut bench);
    assert_eq!(bench.stage().per_mille(), Some(999), "by what the last boot loaded");
}

#[test]
fn a_boot_that_stalled_and_went_on_takes_its_own_record_and_one_begun_anew_is_told() {
    let (mut bench, address) = one_client();
    bench.asks(discover(MAC, Asker::PiEeprom)).pass(41);
    assert_eq!(told(&bench), [(41, "asks", true, false)]);
    bench.event(mounted(address)).pass(9).event(up());
    assert_eq!(told(&bench)[1..], [(50, "up", false, true)]);
    bench.asks(discover(MAC, Asker::PiEeprom)).event(mounted(address)).pass(7).asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(told(&bench)[2..], [(7, "root mounted", true, false)]);
}

#[test]
fn a_silent_client_is_asked_for_and_gone_when_nobody_answers() {
    let (mut bench, address) = one_client();
    bench.event(mounted(address)).event(up());
    bench.pass(30);
    assert_eq!(bench.probes, [address]);
    bench.probed(Some(MAC)).pass(29);
    assert_eq!(bench.probes.len(), 1, "it answered");
    bench.pass(1);
    for _ in 0..2 {
        bench.probed(None).pass(5);
    }
    assert!(bench.stage().is_up(), "a frame may be lost");
    bench.probed(None);
    assert_eq!(bench.stage(), Stage::Gone);
    let probes = bench.probes.len();
    bench.pass(600);
    assert_eq!(bench.probes.len(), probes, "who is gone is not asked for");
    bench.event(Event::Nfs(nfs::Event::Traffic { address, calls: 1, read_bytes: 0, written_bytes: 0 }));
    assert!(bench.stage().is_up());
}

#[test]
fn without_a_cable_nobody_is_asked_for() {
    let (mut bench, address) = one_client();
    bench.event(mounted(address)).event(up()).event(Event::Net(net::Event::Carrier(false)));
    bench.pass(600);
    assert_eq!((bench.probes.len(), bench.stage().is_up()), (0, true));
}

#[test]
fn the_wires_light_is_shown_and_red_needs_a_person() {
    use crate::wire::{Finding, Station};
    let mut bench = Bench::with_store(vec![]);
    assert_eq!(bench.control.status(bench.now).network.wire, Finding::NoLink);
    bench.event(Event::Net(net::Event::Wire(Facts { asking: true, ..Facts::default() })));
    bench.event(Event::Net(net::Event::Carrier(true)));
    assert_eq!(bench.control.status(bench.now).network.wire, Finding::Asking);
    let by = Station { mac: MAC, vendor: None };
    bench.event(Event::Net(net::Event::Wire(Facts { taken_by: Some(by), ..Facts::default() })));
    let status = bench.control.status(bench.now);
    assert_eq!(status.network.wire, Finding::AddressTaken { by });
    assert_eq!(status.problems[0].message, "Our address is used by dc:a6:32:01:02:03 too");
    bench.event(Event::Net(net::Event::Wire(Facts::default())));
    assert_eq!(bench.control.status(bench.now).problems, []);
    assert!(bench.log.iter().any(|line| line == "wire green: Good: nothing is in the way"), "{:?}", bench.log);
}

#[test]
fn an_interface_that_is_not_there_is_told_by_its_name_and_asks_for_no_cable() {
    use crate::panel::pages::{View, views};
    use crate::wire::Finding;
    let mut bench = Bench::with_store(vec![]);
    bench.control.images = vec!["raspios-12345678".parse().unwrap()];
    bench.pass(60);
    let shown = |bench: &Bench| views(&bench.control.status(bench.now));
    assert_eq!(shown(&bench), [View::NoCable]);
    let message = "no network interface eth7 here, only eth0".to_owned();
    bench.event(Event::Net(net::Event::Absent { named: true, message: message.clone() }));
    let status = bench.control.status(bench.now);
    assert_eq!(status.network.wire, Finding::NoInterface { named: true });
    let action = "Correct it on the SD card, restart".to_owned();
    assert_eq!(shown(&bench), [View::Problem(status::Problem { message, action })]);
    let message = "no wired network interface".to_owned();
    bench.event(Event::Net(net::Event::Absent { named: false, message }));
    assert_eq!(bench.control.status(bench.now).problems[0].action, "Plug in a USB network adapter");

    bench.event(Event::Net(net::Event::Interface { name: "eth7".to_owned(), index: 2, mac: MAC }));
    bench.event(Event::Net(net::Event::Carrier(false)));
    assert_eq!(shown(&bench), [View::NoCable]);
}
