//! Enrolment: the window, strangers, swaps.

use super::*;

#[test]
fn one_press_and_one_discover_make_a_client_and_an_offer() {
    let mut bench = Bench::with_store(Vec::new());
    bench.press(Gesture::Short(Button::Enroll)).asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.created[0].role, Role::numbered(1));
    assert!(bench.sent.is_empty(), "its root is not mounted yet");
    bench.ready();
    assert!(bench.sent.is_empty(), "its address is not probed yet");
    bench.probed(None);
    assert_eq!(bench.sent, [Answer::Offer]);
    assert_eq!(bench.directory.clients[0].root.path, "/clients/pi-1/root");

    let address = bench.created[0].address;
    bench.asks(request(MAC, address));
    assert_eq!(bench.sent, [Answer::Offer, Answer::Ack]);
    assert_eq!(bench.stage(), Stage::Leased);
}

#[test]
fn the_order_of_probe_and_root_does_not_matter() {
    let mut bench = Bench::with_store(Vec::new());
    bench.press(Gesture::Short(Button::Enroll)).asks(discover(MAC, Asker::PiEeprom)).probed(None);
    assert!(bench.sent.is_empty());
    bench.ready();
    assert_eq!(bench.sent, [Answer::Offer]);
}

#[test]
fn outside_the_window_an_unknown_pi_is_shown_and_gets_silence() {
    let mut bench = Bench::with_store(Vec::new());
    bench.asks(discover(MAC, Asker::PiEeprom)).asks(discover(MAC, Asker::PiEeprom));
    assert!(bench.sent.is_empty() && bench.created.is_empty());
    assert_eq!(bench.control.status(bench.now).strangers.len(), 1);
}

#[test]
fn a_pc_is_never_enrolled_nor_shown() {
    let mut bench = Bench::with_store(Vec::new());
    bench.press(Gesture::Short(Button::Enroll));
    for asker in [Asker::OtherPxe, Asker::Other, Asker::PiOther] {
        bench.asks(discover(MacAddr([2; 6]), asker));
    }
    assert!(bench.created.is_empty() && bench.control.status(bench.now).strangers.is_empty());
}

#[test]
fn one_press_enrols_one_board_and_a_held_press_a_batch() {
    let two = |gesture| {
        let mut bench = Bench::with_store(Vec::new());
        bench.press(gesture);
        bench.asks(discover(MAC, Asker::PiEeprom)).asks(discover(MacAddr([0xdc, 0xa6, 0x32, 9, 9, 9]), Asker::PiRom));
        bench.created.len()
    };
    assert_eq!(two(Gesture::Short(Button::Enroll)), 1);
    assert_eq!(two(Gesture::Long(Button::Enroll)), 2);
}

#[test]
fn new_clients_get_the_mode_of_the_configuration() {
    let mut bench = Bench::with_store(Vec::new());
    bench.control.config.enrol.mode = Mode::ReadOnly;
    bench.press(Gesture::Short(Button::Enroll)).asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.created[0].mode, Mode::ReadOnly);
    bench.ready();
    // It cannot write that it is up.
    bench.event(Event::Nfs(nfs::Event::Mounted { address: bench.created[0].address, tree: Tree::Root }));
    bench.event(Event::Nfs(nfs::Event::Mounted { address: bench.created[0].address, tree: Tree::Boot }));
    assert!(matches!(bench.stage(), Stage::Up { .. }));
}

fn opening(open: config::Opens) -> Bench {
    let config = Config { enrol: config::Enrol { open, ..Config::default().enrol }, ..Config::default() };
    Bench { control: Control::new(config, &[]), ..Bench::new() }
}

#[test]
fn a_stick_that_is_put_in_opens_the_window_only_where_that_is_set() {
    let is_open = |bench: &Bench| bench.control.status(bench.now).enrolment != status::Enrolment::Closed;
    let mut bench = Bench::with_store(vec![]);
    assert!(!is_open(&bench), "the default");
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert!(bench.created.is_empty());

    let mut bench = opening(config::Opens::Plug);
    bench.event(Event::Store(opened(vec![])));
    assert!(is_open(&bench) && bench.log.iter().any(|line| line.contains("enrol.open is plug")), "{:?}", bench.log);
    for n in 0..2 {
        bench.asks(discover(MacAddr([0xdc, 0xa6, 0x32, 0, 0, n]), Asker::PiEeprom)).pass(100);
    }
    assert_eq!(bench.created.len(), 2, "it is a held press");
    bench.pass(121);
    assert!(!is_open(&bench));
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.created.len(), 2);
    bench.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
    bench.event(Event::Store(opened(vec![])));
    assert!(is_open(&bench), "put in once more");

    // A new stick has no image yet: the window waits for its import.
    let mut bench = opening(config::Opens::Plug);
    let store::Event::Opened { name, free_bytes, clients, taken_roles, handle_key, .. } = opened(vec![]) else {
        unreachable!()
    };
    let images = vec![];
    bench.event(Event::Store(store::Event::Opened { name, free_bytes, images, clients, taken_roles, handle_key }));
    assert!(!is_open(&bench));
    bench.event(Event::Store(store::Event::Imported { image: image() }));
    assert!(is_open(&bench));
    bench.pass(121).event(Event::Store(store::Event::Imported { image: image() }));
    assert!(!is_open(&bench), "once for each time");
}

#[test]
fn a_window_that_is_always_open_takes_each_pi_but_another_appliances_and_no_pc() {
    let mut bench = opening(config::Opens::Always);
    bench.event(Event::Store(opened(vec![])));
    assert_eq!(bench.control.status(bench.now).enrolment, status::Enrolment::Always);
    bench.asks(discover(MacAddr([2, 0, 0, 0, 0, 9]), Asker::OtherPxe));
    assert!(bench.created.is_empty());
    bench.pass(100_000).asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.created.len(), 1);
    bench.ready();
    bench.press(Gesture::Short(Button::Enroll));
    assert_eq!(bench.control.status(bench.now).enrolment, status::Enrolment::Always, "a press does not close it");
    // A swap has its window, and then it is as before.
    let role = Role::numbered(1);
    wish(&mut bench, panel::Wish::Swap(role.clone()));
    bench.pass(2).pass(121);
    assert_eq!(bench.control.status(bench.now).enrolment, status::Enrolment::Always);
    // Two appliances would both take it.
    let facts = Facts { appliance: Some(Ipv4Addr::new(192, 168, 77, 2)), ..Facts::default() };
    bench.event(Event::Net(net::Event::Wire(facts)));
    bench.asks(discover(MacAddr([0xdc, 0xa6, 0x32, 0, 0, 2]), Asker::PiEeprom));
    assert_eq!((bench.created.len(), bench.control.status(bench.now).strangers.len()), (1, 1));
}

#[test]
fn the_window_is_opened_and_closed_by_a_command() {
    let mut bench = Bench::with_store(vec![]);
    let enrol = |bench: &mut Bench, batch, close| {
        let request = crate::orders::Request::Enrol { batch, close };
        ordered(bench, order(3, crate::orders::Order { request, force: false })).1
    };
    let status = |bench: &Bench| bench.control.status(bench.now).enrolment;
    assert_eq!(enrol(&mut bench, false, false).len(), 1);
    assert!(matches!(status(&bench), status::Enrolment::Open { batch: false, .. }));
    enrol(&mut bench, true, false);
    assert!(matches!(status(&bench), status::Enrolment::Open { batch: true, .. }));
    enrol(&mut bench, false, true);
    assert_eq!(status(&bench), status::Enrolment::Closed);
    enrol(&mut bench, false, true);
    assert_eq!(status(&bench), status::Enrolment::Closed);
    let mut bench = Bench::new();
    assert_eq!(refused(&enrol(&mut bench, true, false)).0, "there is no stick with a store");
}

#[test]
fn nobody_is_enrolled_while_the_stick_is_away_and_the_window_stays() {
    let mut bench = Bench::with_store(Vec::new());
    bench.press(Gesture::Short(Button::Enroll));
    bench.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert!(bench.created.is_empty());
    bench.event(Event::Store(opened(Vec::new()))).asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.created.len(), 1);
}

#[test]
fn a_swap_takes_the_next_unknown_board_and_no_more() {
    let mut bench = Bench::with_store(vec![known()]);
    let swap = crate::orders::Request::SwapNext { role: known().role };
    let (_, replies) = ordered(&mut bench, order(7, crate::orders::Order { request: swap, force: true }));
    assert!(matches!(&replies[..], [crate::orders::Reply::Outcome(_)]), "{replies:?}");
    let ask = Event::Dhcp(dhcp::Event::Request(Box::new(discover(MAC, Asker::PiEeprom))));
    let (operations, _) = ordered(&mut bench, ask);
    let [(0, store::operate::Operation::Swap { role, board })] = &operations[..] else { panic!("{operations:?}") };
    assert_eq!((role, board.mac), (&known().role, MAC));
    assert!(bench.created.is_empty() && bench.sent.is_empty());
    // The window is closed again: the next one is a stranger.
    bench.asks(discover(MacAddr([0xdc, 0xa6, 0x32, 9, 9, 9]), Asker::PiEeprom));
    assert!(bench.created.is_empty());
    assert_eq!(bench.control.status(bench.now).strangers.len(), 1);
    // The board waits, and is answered when the store has changed.
    bench.event(Event::Store(store::Event::Operated { ticket: 0, result: Err(String::new()) }));
    let swapped = Client { mac: MAC, ..known() };
    let taken_roles = vec![known().role];
    let changed = store::Event::Changed { images: vec![image()], clients: vec![open(swapped)], taken_roles };
    bench.event(Event::Store(changed)).probed(None);
    assert_eq!(bench.sent.len(), 1);
}

#[test]
fn a_pi_of_another_appliance_is_shown_as_not_ours_and_not_taken() {
    let other = Ipv4Addr::new(192, 168, 77, 2);
    let mut bench = Bench::with_store(vec![]);
    bench.event(Event::Net(net::Event::Wire(Facts { appliance: Some(other), ..Facts::default() })));
    let chosen = Request { server_id: Some(other), ..request(MAC, Ipv4Addr::new(192, 168, 77, 70)) };
    bench.asks(discover(MAC, Asker::PiEeprom)).asks(chosen);
    bench.press(Gesture::Short(Button::Enroll)).asks(discover(MAC, Asker::PiEeprom));
    assert_eq!((bench.created.len(), bench.control.status(bench.now).strangers[0].of), (0, Some(other)));
    // That appliance is gone: whoever presses may have its Pis.
    bench.event(Event::Net(net::Event::Wire(Facts::default())));
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.created.len(), 1);
}

#[test]
fn a_swap_by_the_panel_opens_the_window_for_the_next_new_board() {
    let (mut bench, address) = one_client();
    let asked = wish(&mut bench, panel::Wish::Swap(Role::numbered(1)));
    bench.take(asked);
    bench.event(Event::Net(net::Event::Probed { address, conflict: None }));
    let status = bench.control.status(bench.now);
    let role = Some(Role::numbered(1));
    assert!(matches!(status.enrolment, status::Enrolment::Open { swap, .. } if swap == role));
    assert_eq!(status.notice, None, "the window's own screen tells");
}

#[test]
fn a_batch_counts_whom_it_took() {
    let mut bench = Bench::with_store(Vec::new());
    bench.press(Gesture::Long(Button::Enroll));
    for n in 1..=3 {
        bench.asks(discover(MacAddr([0xdc, 0xa6, 0x32, 1, 2, n]), Asker::PiEeprom));
    }
    let status = bench.control.status(bench.now);
    assert!(matches!(status.enrolment, status::Enrolment::Open { batch: true, enrolled: 3, .. }));
}
