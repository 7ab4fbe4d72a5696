//! Whole boots through control alone, with a moved clock.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::client::{Mode, Model, Serial};
use crate::dhcp::{Answer, Asker, Identity, Kind, Request};
use crate::directory::Tree;
use crate::panel::{Button, Gesture};
use crate::stage::Sign;
use crate::status::Stage;

const MAC: MacAddr = MacAddr([0xdc, 0xa6, 0x32, 1, 2, 3]);

/// Control with a shell of hands: answers the actions as quick shells would.
struct Bench {
    control: Control,
    now: Duration,
    sent: Vec<Answer>,
    probes: Vec<Ipv4Addr>,
    created: Vec<Client>,
    renewed: usize,
    saved: Vec<Client>,
    directory: Directory,
    log: Vec<String>,
    /// Records for the history, and whether each amends the one before.
    boots: Vec<(store::history::BootRecord, bool)>,
}

impl Bench {
    fn new() -> Self {
        Self {
            control: Control::new(Config::default(), &[]),
            now: Duration::from_secs(100),
            sent: Vec::new(),
            probes: Vec::new(),
            created: Vec::new(),
            renewed: 0,
            saved: Vec::new(),
            directory: Directory::default(),
            log: Vec::new(),
            boots: Vec::new(),
        }
    }

    /// With an open store, one image, and these clients.
    fn with_store(clients: Vec<Client>) -> Self {
        let mut bench = Self::new();
        bench.event(Event::Store(opened(clients)));
        bench
    }

    fn event(&mut self, event: Event) -> &mut Self {
        let actions = self.control.handle(self.now, event);
        self.take(actions);
        self
    }

    fn pass(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        let actions = self.control.poll(self.now);
        self.take(actions);
        self
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(reply) => self.sent.push(reply.answer),
                Action::Probe(address, _) => self.probes.push(address),
                Action::Store(store::Command::CreateClient(client)) => self.created.push(*client),
                Action::Store(store::Command::RenewClient(_)) => self.renewed += 1,
                Action::Store(store::Command::SaveBoot { record, amends, .. }) => self.boots.push((record, amends)),
                Action::Store(store::Command::SaveClient(client)) => self.saved.push(*client),
                Action::Publish(directory) => self.directory = directory,
                Action::Log(line) => self.log.push(line),
                _ => {}
            }
        }
    }

    fn press(&mut self, gesture: Gesture) -> &mut Self {
        self.event(Event::Panel(panel::Event::Pressed(gesture)))
    }

    fn asks(&mut self, request: Request) -> &mut Self {
        self.event(Event::Dhcp(dhcp::Event::Request(Box::new(request))))
    }

    fn probed(&mut self, conflict: Option<MacAddr>) -> &mut Self {
        let address = *self.probes.last().expect("a probe was asked for");
        self.event(Event::Net(net::Event::Probed { address, conflict }))
    }

    fn ready(&mut self) -> &mut Self {
        let client = self.created.last().expect("a client was made").clone();
        self.event(Event::Store(store::Event::ClientReady(open(client))))
    }

    fn stage(&self) -> Stage {
        self.control.status(self.now).clients[0].stage.clone()
    }
}

fn image() -> store::ImageInfo {
    let id = "raspios-12345678".parse().unwrap();
    store::ImageInfo { id, name: "raspios".to_owned(), imported: 1, root_bytes: 1 }
}

fn open(client: Client) -> store::OpenClient {
    store::OpenClient {
        root: "/r".into(),
        boot: "/b".into(),
        volume: None,
        account: None,
        renew_at_boot: client.mode == Mode::Ephemeral,
        writable: true,
        client,
    }
}

fn opened(clients: Vec<Client>) -> store::Event {
    store::Event::Opened {
        name: "Stick".to_owned(),
        free_bytes: 1 << 30,
        images: vec![image()],
        clients: clients.into_iter().map(open).collect(),
        taken_roles: Vec::new(),
        handle_key: HandleKey::default(),
    }
}

fn discover(mac: MacAddr, asker: Asker) -> Request {
    Request {
        kind: Kind::Discover,
        xid: 7,
        secs: 0,
        flags: 0,
        mac,
        ciaddr: Ipv4Addr::UNSPECIFIED,
        giaddr: Ipv4Addr::UNSPECIFIED,
        requested: None,
        server_id: None,
        parameters: vec![1, 3, 43, 60, 66],
        max_message_bytes: None,
        hostname: None,
        vendor_class: None,
        identity: Identity { asker, model: Model::Pi4B, serial: Some(Serial(0x9f3a)), revision: None },
        echo61: None,
        echo82: None,
        echo97: None,
    }
}

fn request(mac: MacAddr, address: Ipv4Addr) -> Request {
    Request {
        kind: Kind::Request,
        requested: Some(address),
        server_id: Some(Config::default().network.address.address),
        ..discover(mac, Asker::PiEeprom)
    }
}

/// A client as enrolment makes it.
fn enrolled() -> Client {
    let mut bench = Bench::with_store(Vec::new());
    bench.press(Gesture::Short(Button::Enroll)).asks(discover(MAC, Asker::PiEeprom));
    bench.created.remove(0)
}

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
fn a_known_client_is_probed_once_and_then_answered_at_once() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert!(bench.sent.is_empty());
    bench.probed(None).asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.sent, [Answer::Offer, Answer::Offer]);
    assert_eq!(bench.probes.len(), 1);
}

#[test]
fn a_running_client_that_renews_after_our_restart_is_believed() {
    let client = enrolled();
    let mut bench = Bench::with_store(vec![client.clone()]);
    let renew = Request { kind: Kind::Request, ciaddr: client.address, ..discover(MAC, Asker::PiOther) };
    bench.asks(renew);
    assert_eq!(bench.sent, [Answer::Ack]);
}

#[test]
fn an_address_in_use_moves_the_client_to_another() {
    let client = enrolled();
    let mut bench = Bench::with_store(vec![client.clone()]);
    bench.asks(discover(MAC, Asker::PiEeprom)).probed(Some(MacAddr([2; 6])));
    let moved = bench.saved[0].address;
    assert_ne!(moved, client.address);
    assert_eq!(bench.directory.clients[0].address, moved);
    bench.probed(None);
    assert_eq!(bench.sent, [Answer::Offer]);
}

#[test]
fn while_the_stick_is_away_a_client_waits_and_then_is_answered() {
    let client = enrolled();
    let mut bench = Bench::with_store(vec![client.clone()]);
    bench.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert!(bench.sent.is_empty());
    bench.event(Event::Store(opened(vec![client]))).probed(None);
    assert_eq!(bench.sent, [Answer::Offer]);
}

fn ephemeral() -> Client {
    Client { mode: Mode::Ephemeral, ..enrolled() }
}

#[test]
fn an_ephemeral_client_is_answered_when_its_root_is_fresh() {
    let mut bench = Bench::with_store(vec![ephemeral()]);
    assert_eq!((bench.directory.clients.len(), bench.renewed), (1, 0), "it may be running: it is served as it was");
    bench.asks(discover(MAC, Asker::PiEeprom)).probed(None);
    assert_eq!((bench.directory.clients.len(), bench.renewed), (0, 1), "its former run is served no more");
    assert!(bench.sent.is_empty());
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.renewed, 1, "a repeated DISCOVER is the same boot");
    bench.event(Event::Store(store::Event::ClientReady(open(ephemeral()))));
    assert_eq!((bench.sent.as_slice(), bench.directory.clients.len()), (&[Answer::Offer][..], 1));
    bench.event(Event::Nfs(nfs::Event::Mounted { address: ephemeral().address, tree: Tree::Root }));
    assert_eq!(bench.renewed, 1);
    // Its next boot.
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.renewed, 2);
}

#[test]
fn an_ephemeral_client_that_runs_through_our_restart_keeps_its_root() {
    let mut bench = Bench::with_store(vec![ephemeral()]);
    let address = ephemeral().address;
    bench.event(Event::Nfs(nfs::Event::Traffic { address, calls: 1, read_bytes: 0, written_bytes: 0 }));
    bench.asks(discover(MAC, Asker::Other)).probed(None);
    assert_eq!((bench.renewed, bench.directory.clients.len()), (0, 1));
}

#[test]
fn a_boot_that_began_without_the_stick_gets_a_fresh_root_when_it_is_back() {
    let mut bench = Bench::with_store(vec![ephemeral()]);
    bench.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.renewed, 0);
    bench.event(Event::Store(opened(vec![ephemeral()])));
    assert_eq!((bench.renewed, bench.directory.clients.len()), (1, 0));
}

#[test]
fn a_root_that_could_not_be_made_fresh_is_tried_again_and_the_client_stays() {
    let mut bench = Bench::with_store(vec![ephemeral()]);
    bench.asks(discover(MAC, Asker::PiEeprom));
    let (message, action) = ("full".to_owned(), "Remove something".to_owned());
    bench.event(Event::Store(store::Event::ClientFailed { role: ephemeral().role, message, action }));
    assert_eq!(bench.control.status(bench.now).clients.len(), 1);
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!((bench.renewed, bench.sent.len()), (2, 0));
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

#[test]
fn the_serial_is_learned_from_the_tftp_folder() {
    let client = Client { serial: None, ..enrolled() };
    let mut bench = Bench::with_store(vec![client.clone()]);
    bench.event(Event::Tftp(tftp::Event::Started {
        address: client.address,
        path: "b66c4c16/start.elf".to_owned(),
        folder: Some(Serial(0xb66c_4c16)),
        size: Some(1),
    }));
    assert_eq!(bench.saved[0].serial, Some(Serial(0xb66c_4c16)));
    assert_eq!(bench.directory.clients[0].serial, Some(Serial(0xb66c_4c16)));
}

#[test]
fn a_partition_is_made_only_after_a_held_press_and_a_file_after_any() {
    let prepared = |place, gesture| {
        let mut bench = Bench::new();
        let name = "Stick".to_owned();
        bench.event(Event::Store(store::Event::NeedsConfirmation { name, free_bytes: 1 << 33, place }));
        let actions = bench.control.handle(bench.now, Event::Panel(panel::Event::Pressed(gesture)));
        actions.iter().any(|action| matches!(action, Action::Store(store::Command::Prepare)))
    };
    assert!(!prepared(status::NewPlace::Partition, Gesture::Short(Button::Enroll)));
    assert!(prepared(status::NewPlace::Partition, Gesture::Long(Button::Enroll)));
    assert!(prepared(status::NewPlace::File, Gesture::Short(Button::Enroll)));
    assert!(prepared(status::NewPlace::File, Gesture::Long(Button::Enroll)));
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
fn a_store_is_made_without_a_press_only_where_that_is_set() {
    let asks =
        |place| Event::Store(store::Event::NeedsConfirmation { name: "Ultra".to_owned(), free_bytes: 1 << 40, place });
    let prepares =
        |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Store(store::Command::Prepare)));
    for (ask, place, expected) in [
        (true, status::NewPlace::File, false),
        (true, status::NewPlace::Partition, false),
        (false, status::NewPlace::File, true),
        (false, status::NewPlace::Partition, true),
        // That would put an old state in the place of a newer one.
        (false, status::NewPlace::Copy, false),
    ] {
        let config = Config { store: config::Store { ask, ..Config::default().store }, ..Config::default() };
        let mut control = Control::new(config, &[]);
        let actions = control.handle(Duration::from_secs(9), asks(place));
        assert_eq!(prepares(&actions), expected, "{ask} {place:?}");
        let shown = control.status(Duration::from_secs(9)).stick;
        assert_eq!(matches!(shown, Stick::NeedsConfirmation { .. }), !expected);
    }
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
fn the_window_closes_and_a_silent_client_stalls_by_time_alone() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    bench.press(Gesture::Short(Button::Enroll)).pass(121);
    assert_eq!(bench.control.status(bench.now).enrolment, status::Enrolment::Closed);
    bench.asks(discover(MAC, Asker::PiEeprom)).pass(41);
    assert!(matches!(bench.stage(), Stage::Stalled { .. }));
    assert_eq!(bench.control.poll_timeout(bench.now), None, "nothing is under way any more");
}

fn failed(file: &str) -> Event {
    let (message, action) = ("is cut short".to_owned(), "Copy it again".to_owned());
    Event::Store(store::Event::ImportFailed { file: file.to_owned(), message, action })
}

#[test]
fn each_broken_image_is_told_until_it_is_tried_again_or_its_stick_is_gone() {
    let mut bench = Bench::with_store(Vec::new());
    let check = |bench: &Bench, expected: &[&str]| {
        let problems = bench.control.status(bench.now).problems;
        assert_eq!(problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), expected);
    };
    bench.event(failed("a.img")).event(failed("b.img"));
    check(&bench, &["a.img: is cut short", "b.img: is cut short"]);
    // Another file that is good mends neither.
    bench.event(Event::Store(store::Event::Imported { image: image() }));
    check(&bench, &["a.img: is cut short", "b.img: is cut short"]);
    let again = store::Event::ImportProgress { file: "a.img".to_owned(), per_mille: 0, left: None };
    bench.event(Event::Store(again));
    check(&bench, &["b.img: is cut short"]);
    let image = image().id;
    bench.event(Event::Store(store::Event::AlreadyThere { file: "c.img".to_owned(), image: image.clone() }));
    check(&bench, &["b.img: is cut short", &format!("c.img is the image {image}, which is there already")]);
    bench.event(Event::Store(store::Event::StickAbsent));
    check(&bench, &[]);
}

#[test]
fn packets_of_anybody_cannot_flood_the_log() {
    let address = Ipv4Addr::new(192, 168, 77, 99);
    let refused = || tftp::Event::Refused { address, path: "../x".to_owned(), reason: "it leaves the tree" };
    let mut bench = Bench::with_store(Vec::new());
    let before = bench.log.len();
    for _ in 0..10_000 {
        bench.event(Event::Tftp(refused()));
        let path = "/etc".to_owned();
        bench.event(Event::Nfs(nfs::Event::MountRefused { address, path, reason: nfs::Refusal::NotAnExport }));
    }
    let told = bench.log.len() - before;
    assert!((10..=50).contains(&told), "{told} lines");
    // Later ones are told again, and how many were not.
    bench.now += Duration::from_secs(60);
    bench.event(Event::Tftp(refused()));
    let last = &bench.log[bench.log.len() - 2..];
    assert!(last[0].contains(&format!("{} more", 20_000 - told)) && last[1].contains("../x"), "{last:?}");
    // A flood of refusals does not hide who asks to be let in.
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert!(bench.log.iter().any(|line| line.contains("press ENROLL")));
    for n in 0..10_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        bench.asks(discover(MacAddr([0xdc, 0xa6, 0x32, a, b, c]), Asker::PiEeprom));
    }
    assert!(bench.log.len() < before + 100, "{} lines", bench.log.len());
}

#[test]
fn a_flood_of_unknown_boards_keeps_every_table_bounded() {
    let mut bench = Bench::with_store(Vec::new());
    for n in 0..10_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        bench.asks(discover(MacAddr([0xdc, 0xa6, 0x32, a, b, c]), Asker::PiEeprom));
    }
    assert_eq!(bench.control.strangers.len(), MAX_STRANGERS);
}

fn client_failed(client: &Client) -> Event {
    let (message, action) = ("full".to_owned(), "empty it".to_owned());
    Event::Store(store::Event::ClientFailed { role: client.role.clone(), message, action })
}

#[test]
fn a_client_that_could_not_be_made_is_made_anew_and_answered() {
    let mut bench = Bench::with_store(Vec::new());
    bench.press(Gesture::Long(Button::Enroll)).asks(discover(MAC, Asker::PiEeprom)).probed(None);
    let first = bench.created[0].clone();
    bench.event(client_failed(&first)).asks(discover(MAC, Asker::PiEeprom)).ready();
    assert_eq!(bench.created, [first.clone(), first]);
    assert_eq!(bench.sent, [Answer::Offer], "the address was probed already");
}

#[test]
fn a_probe_without_an_answer_is_asked_for_again() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    bench.asks(discover(MAC, Asker::PiEeprom)).pass(1).asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.probes.len(), 1, "it is under way");
    bench.pass(3).asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.probes.len(), 2);
    bench.probed(None);
    assert_eq!(bench.sent, [Answer::Offer]);
}

#[test]
fn a_device_that_answers_every_probe_does_not_keep_us_busy_without_a_board_that_asks() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    bench.asks(discover(MAC, Asker::PiEeprom)).pass(6).probed(Some(MacAddr([2; 6])));
    assert_eq!((bench.saved.len(), bench.probes.len()), (1, 1));
    bench.asks(discover(MAC, Asker::PiEeprom)).probed(None);
    assert_eq!(bench.sent, [Answer::Offer]);
}

#[test]
fn what_we_send_to_an_address_in_conflict_goes_to_its_other_holder() {
    let client = enrolled();
    let mut bench = Bench::with_store(vec![client.clone()]);
    bench.asks(discover(MAC, Asker::PiEeprom)).probed(None);
    let decline = Request { kind: Kind::Decline, ..request(MAC, client.address) };
    let event = Event::Dhcp(dhcp::Event::Request(Box::new(decline)));
    let actions = bench.control.handle(bench.now, event);
    let forgets = |action: &Action| matches!(action, Action::ForgetNeighbour(address) if *address == client.address);
    assert!(actions.iter().any(forgets));
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
fn a_client_that_was_starting_is_watched_again_when_the_stick_is_back() {
    let client = enrolled();
    let mut bench = Bench::with_store(vec![client.clone()]);
    bench.event(Event::Nfs(nfs::Event::Mounted { address: client.address, tree: Tree::Root }));
    bench.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
    let actions = bench.control.handle(bench.now, Event::Store(opened(vec![client])));
    let watches = |action: &Action| matches!(action, Action::Store(store::Command::WatchUp(_, true)));
    assert!(actions.iter().any(watches));
}

#[test]
fn a_client_of_another_subnet_gets_an_address_of_this_one() {
    for address in [Ipv4Addr::new(10, 0, 0, 9), Config::default().network.address.address] {
        let bench = Bench::with_store(vec![Client { address, ..enrolled() }]);
        let moved = bench.saved[0].address;
        assert!(Config::default().network.address.has_host(moved));
        assert_eq!(bench.directory.clients[0].address, moved);
    }
}

// Orders of a person at a command line.

/// Another board than that of `MAC`.
fn known() -> Client {
    Client { mac: MacAddr([0xdc, 0xa6, 0x32, 7, 7, 7]), ..enrolled() }
}

fn reset() -> crate::orders::Order {
    use crate::store::operate::Operation;
    let request = Operation::Reset { role: Role::numbered(1), new_identity: false };
    crate::orders::Order { request: crate::orders::Request::Operation(request), force: false }
}

/// What came of one event: operations for the store, and replies.
fn ordered(
    bench: &mut Bench,
    event: Event,
) -> (Vec<(u64, crate::store::operate::Operation)>, Vec<crate::orders::Reply>) {
    let actions = bench.control.handle(bench.now, event);
    let (mut operations, mut replies) = (Vec::new(), Vec::new());
    let mut rest = Vec::new();
    for action in actions {
        match action {
            Action::Store(store::Command::Operate(ticket, operation)) => operations.push((ticket, *operation)),
            Action::Answer(_, reply) => replies.push(*reply),
            other => rest.push(other),
        }
    }
    bench.take(rest);
    (operations, replies)
}

fn order(ticket: u64, order: crate::orders::Order) -> Event {
    Event::Orders(crate::orders::Event::Ordered { ticket, order })
}

fn refused(replies: &[crate::orders::Reply]) -> (String, bool) {
    let [crate::orders::Reply::Refused { message, running }] = replies else { panic!("{replies:?}") };
    (message.clone(), *running)
}

#[test]
fn a_client_that_answers_on_the_wire_is_left_alone() {
    let mut bench = Bench::with_store(vec![known()]);
    let (operations, replies) = ordered(&mut bench, order(7, reset()));
    assert!(operations.is_empty() && replies.is_empty());
    let address = *bench.probes.last().unwrap();
    let probed = Event::Net(net::Event::Probed { address, conflict: Some(known().mac) });
    let (operations, replies) = ordered(&mut bench, probed);
    assert!(operations.is_empty());
    assert!(refused(&replies).1, "{replies:?}");
    // Its own answer is no conflict about its address.
    assert_eq!(bench.directory.clients[0].address, known().address);
}

#[test]
fn a_client_that_is_off_is_unpublished_while_it_is_worked_on() {
    let mut bench = Bench::with_store(vec![known()]);
    ordered(&mut bench, order(7, reset()));
    let address = *bench.probes.last().unwrap();
    let (operations, _) = ordered(&mut bench, Event::Net(net::Event::Probed { address, conflict: None }));
    assert_eq!(operations.len(), 1);
    assert!(bench.directory.clients.is_empty());
    // A second order meanwhile is refused at once.
    let (operations, replies) = ordered(&mut bench, order(8, reset()));
    assert!(operations.is_empty());
    assert!(refused(&replies).0.contains("is being worked on"));
    // What another operation changes does not bring its trees back too early.
    let changed = || {
        Event::Store(store::Event::Changed {
            images: vec![image()],
            clients: vec![open(known())],
            taken_roles: vec![known().role],
        })
    };
    bench.event(changed());
    assert!(bench.directory.clients.is_empty());
    let done = store::operate::Outcome::Done { message: "done".to_owned(), warnings: Vec::new() };
    let (_, replies) =
        ordered(&mut bench, Event::Store(store::Event::Operated { ticket: 7, result: Ok(Box::new(done)) }));
    assert!(matches!(&replies[..], [crate::orders::Reply::Outcome(_)]));
    bench.event(changed());
    assert_eq!(bench.directory.clients.len(), 1);
}

#[test]
fn a_boot_that_begins_while_its_client_is_worked_on_gets_its_root_behind_that() {
    let mut bench = Bench::with_store(vec![ephemeral()]);
    let force = || crate::orders::Order { force: true, ..reset() };
    assert_eq!(ordered(&mut bench, order(7, force())).0.len(), 1);
    bench.asks(discover(MAC, Asker::PiEeprom)).probed(None);
    assert_eq!((bench.renewed, bench.sent.len()), (0, 0));
    let ends = |bench: &mut Bench, ticket| {
        bench.event(Event::Store(store::Event::Operated { ticket, result: Err(String::new()) }));
        let (images, clients) = (vec![image()], vec![open(ephemeral())]);
        bench.event(Event::Store(store::Event::Changed { images, clients, taken_roles: vec![ephemeral().role] }));
    };
    ends(&mut bench, 7);
    assert_eq!((bench.renewed, bench.directory.clients.len()), (1, 0));

    // A root that was asked for before is not served while the next order has it.
    assert_eq!(ordered(&mut bench, order(8, force())).0.len(), 1);
    bench.event(Event::Store(store::Event::ClientReady(open(ephemeral()))));
    assert_eq!((bench.directory.clients.len(), bench.sent.len()), (0, 0));
    ends(&mut bench, 8);
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.renewed, 2);
    bench.event(Event::Store(store::Event::ClientReady(open(ephemeral()))));
    assert_eq!((bench.directory.clients.len(), bench.sent.len()), (1, 1));
}

#[test]
fn without_a_wire_an_order_goes_on_after_a_second_and_force_at_once() {
    let mut bench = Bench::with_store(vec![known()]);
    ordered(&mut bench, order(7, reset()));
    assert_eq!(bench.control.poll_timeout(bench.now), Some(Duration::from_secs(1)));
    bench.pass(1);
    assert!(bench.directory.clients.is_empty());
    let mut bench = Bench::with_store(vec![known()]);
    let force = crate::orders::Order { force: true, ..reset() };
    assert_eq!(ordered(&mut bench, order(7, force)).0.len(), 1);
}

#[test]
fn a_deleted_client_is_gone_and_one_being_made_stays() {
    let mut bench = Bench::with_store(vec![known()]);
    bench.press(Gesture::Short(Button::Enroll)).asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.created.len(), 1);
    let force = crate::orders::Order { force: true, ..reset() };
    ordered(&mut bench, order(7, force));
    bench.event(Event::Store(store::Event::Operated { ticket: 7, result: Err("gone".to_owned()) }));
    bench.event(Event::Store(store::Event::Changed { images: vec![image()], clients: vec![], taken_roles: vec![] }));
    let left: Vec<Role> = bench.control.status(bench.now).clients.iter().map(|client| client.role.clone()).collect();
    assert_eq!(left, [bench.created[0].role.clone()]);
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

/// Client pi-1 of an open store, and the address that it has.
fn one_client() -> (Bench, Ipv4Addr) {
    let client = enrolled();
    let address = client.address;
    let mut bench = Bench::with_store(vec![client]);
    bench.event(Event::Net(net::Event::Carrier(true)));
    (bench, address)
}

fn mounted(address: Ipv4Addr) -> Event {
    Event::Nfs(nfs::Event::Mounted { address, tree: Tree::Root })
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
fn a_status_is_answered_without_a_stick() {
    let mut bench = Bench::new();
    let order = orders_shell::Order { request: orders_shell::Request::Status, force: false };
    let actions = bench.control.handle(bench.now, Event::Orders(orders_shell::Event::Ordered { ticket: 5, order }));
    let answer = actions.into_iter().find_map(|action| match action {
        Action::Answer(5, reply) => Some(*reply),
        _ => None,
    });
    let Some(orders_shell::Reply::Status(snapshot)) = answer else { panic!("{answer:?}") };
    assert_eq!(snapshot.status.uptime, bench.now);
}

#[test]
fn a_second_stick_becomes_a_copy_by_a_held_press_while_it_is_offered() {
    let offered = |wait: u64, gesture| {
        let mut bench = Bench::with_store(vec![enrolled()]);
        let offer = store::BackupOffer::New;
        bench.event(Event::Store(store::Event::BackupOffered { name: "Second".to_owned(), offer }));
        bench.pass(wait);
        let actions = bench.control.handle(bench.now, Event::Panel(panel::Event::Pressed(gesture)));
        actions.iter().any(|action| matches!(action, Action::Store(store::Command::Backup)))
    };
    assert!(offered(5, Gesture::Long(Button::Enroll)));
    assert!(!offered(5, Gesture::Short(Button::Enroll)), "a short press is about Pis");
    assert!(!offered(121, Gesture::Long(Button::Enroll)), "so is a held one, later");
}

#[test]
fn a_command_has_the_second_stick_copied_at_any_time_and_is_told_the_end() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    let order = |bench: &mut Bench, ticket| {
        let order = crate::orders::Order { request: crate::orders::Request::Backup, force: false };
        bench.control.handle(bench.now, Event::Orders(crate::orders::Event::Ordered { ticket, order }))
    };
    let answers = |actions: &[Action]| -> Vec<(u64, bool)> {
        let answer = |action: &Action| match action {
            Action::Answer(ticket, reply) => Some((*ticket, matches!(**reply, crate::orders::Reply::Outcome(_)))),
            _ => None,
        };
        actions.iter().filter_map(answer).collect()
    };
    let copies = |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::Store(store::Command::Backup)));
    assert_eq!(answers(&order(&mut bench, 1)), [(1, false)], "there is no second stick");
    let name = || "Second".to_owned();
    let offer = store::BackupOffer::New;
    bench.event(Event::Store(store::Event::BackupOffered { name: name(), offer }));
    bench.pass(600);
    let actions = order(&mut bench, 2);
    assert!(copies(&actions) && answers(&actions).is_empty());
    bench.event(Event::Store(store::Event::BackupProgress { name: name(), per_mille: 0 }));
    assert!(!copies(&order(&mut bench, 3)), "it runs already");
    let ended = Event::Store(store::Event::BackedUp { name: name(), taken: 1, bytes: 1 });
    assert_eq!(answers(&bench.control.handle(bench.now, ended)), [(2, true), (3, true)]);
    order(&mut bench, 4);
    let pulled = bench.control.handle(bench.now, Event::Store(store::Event::Closed { name: name() }));
    assert_eq!(answers(&pulled), [(4, false)]);
}

#[test]
fn who_runs_on_files_that_are_gone_is_named_until_it_boots() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    let named = |bench: &Bench| {
        let problems = bench.control.status(bench.now).problems;
        problems.iter().any(|problem| problem.action == "Switch it off and on")
    };
    bench.event(Event::Store(store::Event::OtherFiles { roles: vec![enrolled().role] }));
    bench.pass(1);
    assert!(!named(&bench), "a client that is off has no files open");
    bench.event(Event::Store(store::Event::Up { role: enrolled().role }));
    bench.pass(1);
    assert!(named(&bench));
    bench.control.sign_role(bench.now, &enrolled().role, Sign::BootloaderAsks, &mut Vec::new());
    assert!(!named(&bench));
    bench.event(Event::Store(store::Event::Up { role: enrolled().role }));
    bench.pass(1);
    assert!(!named(&bench), "what booted since has the files of now");
}

#[test]
fn a_copy_that_runs_is_shown_until_it_ends_and_its_failure_says_what_to_do() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    let name = || "Second".to_owned();
    bench.event(Event::Store(store::Event::BackupProgress { name: name(), per_mille: 100 }));
    bench.pass(600);
    let running = status::Backup::Running { name: name(), per_mille: 100 };
    assert_eq!(bench.control.status(bench.now).backup, Some(running));
    let (message, action) = ("it was pulled".to_owned(), "Begin again".to_owned());
    bench.event(Event::Store(store::Event::BackupFailed { name: name(), message, action }));
    let status = bench.control.status(bench.now);
    assert_eq!((status.backup, status.problems[0].action.as_str()), (None, "Begin again"));
    bench.event(Event::Store(store::Event::BackedUp { name: name(), taken: 1, bytes: 1 }));
    assert_eq!(bench.control.status(bench.now).backup, Some(status::Backup::Done { name: name() }));
    bench.pass(121);
    assert_eq!(bench.control.status(bench.now).backup, None);
}

/// The recovery card that is shown, told by the store to be offered.
fn card_offered(bench: &mut Bench) -> status::Card {
    let offered = store::CardEvent::Offered { name: "Reader".to_owned(), bytes: 1 << 35, boards: "Pi 4, 400" };
    bench.event(Event::Store(store::Event::Card(offered)));
    bench.control.status(bench.now).card.unwrap()
}

fn writes_card(bench: &mut Bench, event: panel::Event) -> bool {
    let actions = bench.control.handle(bench.now, Event::Panel(event));
    actions.iter().any(|action| matches!(action, Action::Store(store::Command::WriteCard)))
}

#[test]
fn a_recovery_card_is_written_when_its_own_page_was_confirmed_and_once() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    let wish = |name: &str| panel::Event::Wished(panel::Wish::WriteCard(name.to_owned()));
    let card = |event| Event::Store(store::Event::Card(event));
    assert!(!writes_card(&mut bench, wish("Reader")), "nothing is offered");
    assert!(card_offered(&mut bench).shown);
    // Without its page in sight a press is about Pis.
    for gesture in [Gesture::Short(Button::Enroll), Gesture::Long(Button::Enroll)] {
        assert!(!writes_card(&mut bench, panel::Event::Pressed(gesture)));
    }
    assert!(!writes_card(&mut bench, wish("Another")), "another disk was seen");
    assert!(writes_card(&mut bench, wish("Reader")));
    assert!(!writes_card(&mut bench, wish("Reader")), "it is being written");
    bench.event(card(store::CardEvent::Progress { per_mille: 500 })).pass(600);
    let shown = |step| Some(status::Card { name: "Reader".to_owned(), shown: true, step });
    assert_eq!(bench.control.status(bench.now).card, shown(status::CardStep::Writing { per_mille: 500 }));
    bench.event(card(store::CardEvent::Written { name: "Reader".to_owned() }));
    assert_eq!(bench.control.status(bench.now).card, shown(status::CardStep::Written));
    assert!(!writes_card(&mut bench, wish("Reader")));
    bench.event(card(store::CardEvent::Gone));
    assert_eq!(bench.control.status(bench.now).card, None);
}

#[test]
fn a_disk_that_could_be_a_backup_is_asked_about_as_that_and_has_the_cards_page_too() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    let offer = store::BackupOffer::New;
    bench.event(Event::Store(store::Event::BackupOffered { name: "Reader".to_owned(), offer }));
    assert!(!card_offered(&mut bench).shown);
    bench.pass(121);
    let card = bench.control.status(bench.now).card.unwrap();
    assert!(!card.shown, "an old question does not come up again");
    assert!(writes_card(&mut bench, panel::Event::Wished(panel::Wish::WriteCard(card.name))), "the page stays");
}

#[test]
fn a_card_that_failed_says_what_to_do_until_it_is_pulled() {
    let mut bench = Bench::with_store(vec![]);
    card_offered(&mut bench);
    let card = |event| Event::Store(store::Event::Card(event));
    let (message, action) = ("it broke".to_owned(), "Try another".to_owned());
    bench.event(card(store::CardEvent::Failed { message, action }));
    let status = bench.control.status(bench.now);
    assert_eq!((status.card, status.problems[0].action.as_str()), (None, "Try another"));
    bench.event(card(store::CardEvent::Gone));
    assert_eq!(bench.control.status(bench.now).problems, []);
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

/// Another DHCP server on the wire, and the address it gave us.
mod beside {
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
        let other = Client {
            role: Role::numbered(9),
            mac: MAC,
            address: Ipv4Addr::new(192, 168, 77, 99),
            export_id: 9,
            ..known()
        };
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
}

#[test]
fn addresses_are_probed_before_their_clients_ask_a_few_at_a_time() {
    let client = |n: u8| Client {
        role: Role::numbered(u32::from(n)),
        mac: MacAddr([0xdc, 0xa6, 0x32, 7, 7, n]),
        address: Ipv4Addr::new(192, 168, 77, 10 + n),
        export_id: u32::from(n),
        ..enrolled()
    };
    let mut bench = Bench::with_store((1..=100).map(client).collect());
    assert!(bench.probes.is_empty(), "without a cable nobody could answer");
    bench.event(Event::Net(net::Event::Address(Config::default().network.address)));
    bench.event(Event::Net(net::Event::Carrier(true)));
    assert_eq!(bench.probes.len(), net::MAX_PROBES / 2);
    for n in 0..100 {
        let address = bench.probes[n];
        bench.event(Event::Net(net::Event::Probed { address, conflict: None }));
    }
    assert_eq!(bench.probes.len(), 100);
    bench.asks(discover(client(64).mac, Asker::PiEeprom));
    assert_eq!((bench.sent.as_slice(), bench.probes.len()), (&[Answer::Offer][..], 100), "at once");
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

fn wish(bench: &mut Bench, wish: panel::Wish) -> Vec<Action> {
    bench.control.handle(bench.now, Event::Panel(panel::Event::Wished(wish)))
}

fn notice(bench: &Bench) -> Option<(String, bool)> {
    bench.control.status(bench.now).notice.map(|notice| (notice.message, notice.failed))
}

#[test]
fn a_reset_by_the_panel_is_refused_while_the_client_runs_and_told_for_ten_seconds() {
    let (mut bench, address) = one_client();
    let asked = wish(&mut bench, panel::Wish::Reset(Role::numbered(1)));
    bench.take(asked);
    assert_eq!(bench.probes, [address], "the wire is asked whether it runs");
    bench.probed(Some(MAC));
    assert_eq!(notice(&bench), Some(("It runs. Switch that Pi off first".to_owned(), true)));
    bench.pass(9);
    assert!(notice(&bench).is_some());
    assert_eq!(bench.control.poll_timeout(bench.now), Some(Duration::from_secs(1)));
    bench.pass(1);
    assert_eq!(notice(&bench), None);
}

#[test]
fn a_reset_by_the_panel_reaches_the_store_and_its_end_is_told() {
    let (mut bench, address) = one_client();
    let asked = wish(&mut bench, panel::Wish::Reset(Role::numbered(1)));
    bench.take(asked);
    let free = Event::Net(net::Event::Probed { address, conflict: None });
    let actions = bench.control.handle(bench.now, free);
    let ticket = actions.iter().find_map(|action| match action {
        Action::Store(store::Command::Operate(ticket, operation)) => {
            assert!(matches!(**operation, store::operate::Operation::Reset { new_identity: false, .. }));
            Some(*ticket)
        }
        _ => None,
    });
    let done = store::operate::Outcome::Done { message: "pi-1 is fresh".to_owned(), warnings: Vec::new() };
    let event = store::Event::Operated { ticket: ticket.unwrap(), result: Ok(Box::new(done)) };
    let actions = bench.control.handle(bench.now, Event::Store(event));
    assert!(!actions.iter().any(|action| matches!(action, Action::Answer(..))), "no command waits");
    assert_eq!(notice(&bench), Some(("pi-1 is fresh".to_owned(), false)));
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
fn the_stick_is_let_go_of_only_where_a_store_is_open_and_clients_wait_for_it() {
    let releases = |actions: &[Action]| {
        actions.iter().filter(|action| matches!(action, Action::Store(store::Command::Release))).count()
    };
    let mut bench = Bench::new();
    assert_eq!(releases(&wish(&mut bench, panel::Wish::Release)), 0);
    let (mut bench, _) = one_client();
    assert_eq!(releases(&wish(&mut bench, panel::Wish::Release)), 1);
    let name = "Stick".to_owned();
    let actions = bench.control.handle(bench.now, Event::Store(store::Event::Releasing { name: name.clone() }));
    assert!(actions.iter().any(|action| matches!(action, Action::ReleaseTrees)));
    assert!(!actions.iter().any(|action| matches!(action, Action::Publish(_))), "their handles stay good");
    bench.event(Event::Store(store::Event::Released { name: name.clone() }));
    assert_eq!(bench.control.status(bench.now).stick, Stick::Released { name });
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert!(bench.sent.is_empty(), "nobody boots from a stick that is going");
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
