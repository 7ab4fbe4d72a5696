//! Whole boots through control alone, with a moved clock: the bench that stands
//! for the shells, and the tests by topic.
//!
//! | file | what |
//! |---|---|
//! | `enrolling` | windows, strangers, swaps |
//! | `answering` | who gets an address, when, and which |
//! | `ephemeral` | roots that are made anew at each boot |
//! | `beside` | with another DHCP server on the wire |
//! | `stick`, `card` | stores, images, copies; recovery cards |
//! | `orders` | what commands and the panel order |
//! | `boots` | stages, history, silence; the wire's light |
//! | `script` | one board's packets, for the hints |
//! | `asking`, `loading`, `starting` | a script for each hint, by how far the boot came |
//! | `symptoms` | the 39 symptoms of the notes, one by one |
//! | `chance` | evenings by chance: no two rules at once |
//! | `scenes` | whole evenings: hints with something else beside |

mod answering;
mod asking;
mod beside;
mod boots;
mod card;
mod chance;
mod enrolling;
mod ephemeral;
mod gone;
mod loading;
mod orders;
mod scenes;
pub(super) mod script;
mod starting;
mod stick;
mod symptoms;

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

// Orders of a person at a command line.

/// Another board than that of `MAC`.
fn known() -> Client {
    Client { mac: MacAddr([0xdc, 0xa6, 0x32, 7, 7, 7]), ..enrolled() }
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

fn wish(bench: &mut Bench, wish: panel::Wish) -> Vec<Action> {
    bench.control.handle(bench.now, Event::Panel(panel::Event::Wished(wish)))
}

fn order(ticket: u64, order: crate::orders::Order) -> Event {
    Event::Orders(crate::orders::Event::Ordered { ticket, order })
}

fn refused(replies: &[crate::orders::Reply]) -> (String, bool) {
    let [crate::orders::Reply::Refused { message, running }] = replies else { panic!("{replies:?}") };
    (message.clone(), *running)
}

fn ephemeral() -> Client {
    Client { mode: Mode::Ephemeral, ..enrolled() }
}
