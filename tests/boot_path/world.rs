//! The world around control: a wire that loses, repeats and reorders, a store
//! and a network shell that take their time, and scripted Pis. One queue of
//! things to come stands for sockets, threads and clock.
//!
//! What must hold at every moment is asserted here, as it happens; `main.rs`
//! asserts what must have come of it at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use rootstock::client::{Client, MacAddr, Role, Serial};
use rootstock::config::Config;
use rootstock::control::{Action, Control, Event};
use rootstock::directory::{Directory, HandleKey, Tree};
use rootstock::panel::{self, Button, Gesture};
use rootstock::status::{Enrolment, Stage};
use rootstock::{dhcp, net, nfs, store, tftp};

use super::packets::{ACK, OFFER, Reply, Sender};
use super::pi::{Deed, Pi, Step};
use super::random::Random;

/// Tells the seed when a test ends by a panic.
pub struct Seed(pub u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was seed {}", self.0);
        }
    }
}

/// Chances, in thousandths.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub loss: u64,
    pub repeat: u64,
    /// Of a packet that comes up to 400 ms late, after later ones.
    pub late: u64,
    /// Of an address that somebody else has.
    pub squatter: u64,
    pub create_fails: u64,
    pub probe_lost: u64,
}

#[derive(Debug)]
enum Item {
    ToServer(Vec<u8>),
    ToPi(MacAddr, Vec<u8>),
    Net(net::Event),
    /// Of one stick's time in the socket: void when it was pulled meanwhile.
    Store(u64, store::Event),
    Timer(usize, u64),
    PowerOn(usize),
    /// The Pi's next stage asks.
    Next(usize, u64, Sender),
    Up(usize, u64),
    Pull,
    Plug,
}

pub struct World {
    pub control: Control,
    pub now: Duration,
    pub rng: Random,
    pub faults: Faults,
    pub pis: Vec<Pi>,
    /// Which gesture a person makes when a Pi that is no client gets power.
    pub press: Option<Gesture>,
    queue: BTreeMap<(Duration, u64), Item>,
    number: u64,
    /// What lies on the stick, by role.
    pub stick: BTreeMap<Role, Client>,
    plugged: Option<u64>,
    sticks: u64,
    watched: BTreeSet<Role>,
    pub directory: Directory,
    pub creates: Vec<Client>,
    /// Setbacks that excuse a failed attempt: of one board, and of all.
    lost: BTreeMap<MacAddr, u32>,
    setbacks: u32,
    squatters: BTreeMap<Ipv4Addr, bool>,
    pub refused: BTreeSet<Ipv4Addr>,
    pub sends: usize,
    pub log: Vec<String>,
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut world = Self {
            control: Control::new(Config::default(), &[]),
            now: Duration::from_secs(1),
            rng: Random(seed),
            faults,
            pis: Vec::new(),
            press: None,
            queue: BTreeMap::new(),
            number: 0,
            stick: BTreeMap::new(),
            plugged: None,
            sticks: 0,
            watched: BTreeSet::new(),
            directory: Directory::default(),
            creates: Vec::new(),
            lost: BTreeMap::new(),
            setbacks: 0,
            squatters: BTreeMap::new(),
            refused: BTreeSet::new(),
            sends: 0,
            log: Vec::new(),
        };
        world.plug();
        world
    }

    fn later(&mut self, after: Duration, item: Item) {
        self.number += 1;
        self.queue.insert((self.now + after, self.number), item);
    }

    pub fn power_on(&mut self, pi: usize, after: Duration) {
        self.later(after, Item::PowerOn(pi));
    }

    pub fn pull_and_plug(&mut self, after: Duration, back: Duration) {
        self.later(after, Item::Pull);
        self.later(after + back, Item::Plug);
    }

    /// Runs until every Pi is up, or until `limit` has passed.
    pub fn run(&mut self, limit: Duration) {
        let end = self.now + limit;
        let mut still = 0;
        while self.now < end && !self.pis.iter().all(|pi| pi.step == Step::Up) {
            let deadline = self.control.poll_timeout(self.now).map(|left| self.now + left);
            let next = self.queue.keys().next().map(|(at, _)| *at);
            match (next, deadline) {
                (Some(at), deadline) if deadline.is_none_or(|deadline| at <= deadline) => {
                    still = 0;
                    self.now = self.now.max(at);
                    let Some((_, item)) = self.queue.pop_first() else { continue };
                    self.happen(item);
                }
                (_, Some(deadline)) => {
                    still = if deadline == self.now { still + 1 } else { 0 };
                    assert!(still < 3, "poll asks for itself again and again");
                    self.now = deadline;
                    let actions = self.control.poll(self.now);
                    self.carry_out(actions);
                }
                (_, None) => return,
            }
        }
    }

    pub fn event(&mut self, event: Event) {
        let actions = self.control.handle(self.now, event);
        self.carry_out(actions);
    }

    pub fn packet(&mut self, bytes: &[u8]) {
        if let Ok(request) = dhcp::parse(bytes) {
            self.event(Event::Dhcp(dhcp::Event::Request(Box::new(request))));
        }
    }

    pub fn press(&mut self, gesture: Gesture) {
        self.event(Event::Panel(panel::Event::Pressed(gesture)));
    }

    fn plug(&mut self) {
        self.sticks += 1;
        self.plugged = Some(self.sticks);
        self.watched.clear();
        let clients = self.stick.values().cloned().map(open).collect();
        self.event(Event::Store(store::Event::Opened {
            name: "Stick".to_owned(),
            free_bytes: 1 << 30,
            images: vec![image()],
            clients,
            taken_roles: Vec::new(),
            handle_key: HandleKey::default(),
        }));
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::ToServer(bytes) => self.packet(&bytes),
            Item::ToPi(mac, bytes) => {
                let reply = Reply::read(&bytes);
                for pi in 0..self.pis.len() {
                    // The wire brings a unicast to one board.
                    if self.pis[pi].mac == mac {
                        let deed = self.pis[pi].hear(&reply);
                        self.deed(pi, deed);
                    }
                }
            }
            Item::Net(event) => {
                if let net::Event::Probed { address, conflict: Some(_) } = &event {
                    self.refused.insert(*address);
                    self.setbacks += 2;
                }
                self.event(Event::Net(event));
            }
            Item::Store(stick, event) if self.plugged == Some(stick) => {
                if let store::Event::ClientReady(open) = &event {
                    self.stick.insert(open.client.role.clone(), open.client.clone());
                }
                if let store::Event::ClientFailed { .. } = &event {
                    self.setbacks += 2;
                }
                self.event(Event::Store(event));
            }
            Item::Store(..) => {}
            Item::Timer(pi, generation) if self.pis[pi].generation == generation => {
                let deed = self.pis[pi].timer(self.now);
                self.deed(pi, deed);
            }
            Item::Timer(..) => {}
            Item::PowerOn(pi) => {
                let mac = self.pis[pi].mac;
                let known = self.stick.values().any(|client| client.mac == mac);
                let closed = self.control.status(self.now).enrolment == Enrolment::Closed;
                if let Some(gesture) = self.press.filter(|_| !known && closed && self.plugged.is_some()) {
                    self.press(gesture);
                }
                self.lost.remove(&mac);
                let xid = self.rng.next() as u32;
                self.pis[pi].power_on(self.now, xid);
                let generation = self.pis[pi].generation;
                self.later(Duration::ZERO, Item::Timer(pi, generation));
            }
            Item::Next(pi, generation, sender) if self.pis[pi].generation == generation => {
                let xid = self.rng.next() as u32;
                self.pis[pi].begin(self.now, sender, xid);
                let generation = self.pis[pi].generation;
                self.later(Duration::ZERO, Item::Timer(pi, generation));
            }
            Item::Next(..) => {}
            Item::Up(pi, generation) if self.pis[pi].generation == generation => self.up(pi),
            Item::Up(..) => {}
            Item::Pull => {
                if self.plugged.take().is_some() {
                    self.setbacks += 100;
                    self.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
                }
            }
            Item::Plug => {
                if self.plugged.is_none() {
                    self.setbacks += 100;
                    self.plug();
                }
            }
        }
    }

    fn deed(&mut self, pi: usize, deed: Deed) {
        match deed {
            Deed::Nothing => {}
            Deed::Send(bytes) => {
                let mac = self.pis[pi].mac;
                self.wire(mac, &bytes, Item::ToServer);
                self.pis[pi].generation += 1;
                let (retry, generation) = (self.pis[pi].retry(), self.pis[pi].generation);
                self.later(retry, Item::Timer(pi, generation));
            }
            Deed::Bound(sender, address) => self.bound(pi, sender, address),
            Deed::GaveUp => {
                let pi_ = &self.pis[pi];
                let lost = self.lost.get(&pi_.mac).copied().unwrap_or(0);
                assert!(
                    lost + self.setbacks + 2 >= pi_.tries,
                    "{:?} {} gave up after {} tries although only {lost} packets were lost\n{}",
                    pi_.model,
                    pi_.mac,
                    pi_.tries,
                    self.log.join("\n"),
                );
                // The EEPROM's RESTART, or a person at the plug.
                self.power_on(pi, Duration::from_secs(5));
            }
        }
    }

    /// A packet of one board's conversation, in whichever direction.
    fn wire(&mut self, mac: MacAddr, bytes: &[u8], item: impl Fn(Vec<u8>) -> Item) {
        if self.rng.per_mille(self.faults.loss) {
            *self.lost.entry(mac).or_default() += 1;
            return;
        }
        let copies = 1 + usize::from(self.rng.per_mille(self.faults.repeat));
        for _ in 0..copies {
            let limit = if self.rng.per_mille(self.faults.late) { 400 } else { 5 };
            let delay = self.rng.millis(limit);
            self.later(delay, item(bytes.to_vec()));
        }
    }

    /// A stage has its address: it loads or mounts, and the next one asks.
    fn bound(&mut self, pi: usize, sender: Sender, address: Ipv4Addr) {
        let mac = self.pis[pi].mac;
        let same = self.pis[pi].addresses.iter().all(|other| *other == address);
        assert!(same || !self.refused.is_empty(), "two addresses in one boot: {:?}", self.pis[pi]);
        let role = self.role(mac);
        let served = self.directory.client(address).map(|served| served.role.clone());
        if served != role || self.plugged.is_none() {
            // Its address moved away, or the stick did: this boot fails half-way.
            assert!(self.setbacks > 0, "nothing is published for {mac} at {address}");
            return self.power_on(pi, Duration::from_secs(20));
        }
        let generation = self.pis[pi].generation;
        let serial = Some(Serial(self.pis[pi].serial));
        match sender {
            Sender::Rom => {
                self.fetch(address, "bootcode.bin", None);
                let load = self.rng.millis(1000);
                self.later(load, Item::Next(pi, generation, Sender::Bootcode));
            }
            Sender::Bootcode | Sender::Eeprom(_) => {
                for path in ["config.txt", "kernel8.img"] {
                    self.fetch(address, path, serial);
                }
                let load = Duration::from_secs(2) + self.rng.millis(9000);
                self.later(load, Item::Next(pi, generation, Sender::Kernel));
            }
            Sender::Kernel => {
                self.event(Event::Nfs(nfs::Event::Mounted { address, tree: Tree::Root }));
                let traffic = nfs::Event::Traffic { address, calls: 9, read_bytes: 9, written_bytes: 0 };
                self.event(Event::Nfs(traffic));
                let start = Duration::from_secs(3) + self.rng.millis(5000);
                self.later(start, Item::Next(pi, generation, Sender::System));
            }
            Sender::System => {
                let start = Duration::from_secs(1) + self.rng.millis(9000);
                self.later(start, Item::Up(pi, generation));
            }
        }
    }

    fn fetch(&mut self, address: Ipv4Addr, file: &str, folder: Option<Serial>) {
        let path = folder.map_or_else(|| file.to_owned(), |serial| format!("{serial}/{file}"));
        self.event(Event::Tftp(tftp::Event::Started { address, path: path.clone(), folder, size: Some(1000) }));
        let took = Duration::from_millis(9);
        self.event(Event::Tftp(tftp::Event::Finished { address, path, bytes: 1000, took }));
    }

    fn role(&self, mac: MacAddr) -> Option<Role> {
        self.stick.values().find(|client| client.mac == mac).map(|client| client.role.clone())
    }

    fn up(&mut self, pi: usize) {
        let mac = self.pis[pi].mac;
        if self.plugged.is_none() {
            // Its writes hang until the stick is back.
            let generation = self.pis[pi].generation;
            return self.later(Duration::from_secs(1), Item::Up(pi, generation));
        }
        let role = self.role(mac).expect("a Pi that is up is a client");
        assert!(self.watched.contains(&role), "nobody watches for {role} to be up\n{}", self.log.join("\n"));
        self.pis[pi].step = Step::Up;
        self.event(Event::Store(store::Event::Up { role: role.clone() }));
        let status = self.control.status(self.now);
        let shown = status.clients.iter().find(|client| client.role == role).map(|client| client.stage.clone());
        assert!(matches!(shown, Some(Stage::Up { .. })), "{role} is up, but {shown:?} is shown");
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(reply) => self.send(&reply),
                Action::Probe(address, owner) => self.probe(address, owner),
                Action::Publish(directory) => self.publish(directory),
                Action::Store(command) => self.store(command),
                Action::Log(line) => self.log.push(format!("{:9.3} {line}", self.now.as_secs_f32())),
                Action::Show(status) => {
                    assert!(status.strangers.len() <= 8 && status.problems.len() <= 16);
                }
                Action::Survey | Action::Lease(_) | Action::Watch(_) | Action::LookForNeighbours => {}
                Action::Neighbour(..) | Action::ForgetNeighbour(_) | Action::ReleaseTrees | Action::PowerOff => {}
                Action::Update(_) | Action::Try => {}
                // For the black box, and about the machine itself.
                Action::Stage { .. } | Action::Report(_) | Action::SelfTest(_) => {}
                Action::Answer(..) => panic!("nobody ordered anything"),
            }
        }
    }

    fn send(&mut self, reply: &dhcp::Reply) {
        self.sends += 1;
        let mac = reply.to.mac;
        let role = self.role(mac);
        assert!(role.is_some(), "{mac} is no client and got an answer");
        assert!(self.plugged.is_some(), "{mac} got an answer while its root is away");
        let read = Reply::read(&reply.bytes);
        assert_eq!(read.mac, mac);
        // Beside another server the boot is offered without an address.
        if [OFFER, ACK].contains(&read.kind) && !read.address.is_unspecified() {
            let served = self.directory.client(read.address).map(|served| served.role.clone());
            assert_eq!(served, role, "{mac} got {}, where its root is not published", read.address);
            assert!(!self.refused.contains(&read.address), "{} is somebody else's", read.address);
        }
        self.wire(mac, &reply.bytes, |bytes| Item::ToPi(mac, bytes));
    }

    fn probe(&mut self, address: Ipv4Addr, owner: MacAddr) {
        if self.rng.per_mille(self.faults.probe_lost) {
            self.setbacks += 2;
            return;
        }
        let chance = self.faults.squatter;
        let rng = &mut self.rng;
        let taken = *self.squatters.entry(address).or_insert_with(|| rng.per_mille(chance));
        assert_ne!(owner, SQUATTER);
        let delay = self.rng.millis(400);
        self.later(delay, Item::Net(net::Event::Probed { address, conflict: taken.then_some(SQUATTER) }));
    }

    fn publish(&mut self, directory: Directory) {
        let distinct = |all: Vec<String>| all.iter().collect::<BTreeSet<_>>().len() == all.len();
        let clients = || directory.clients.iter();
        assert!(distinct(clients().map(|client| client.address.to_string()).collect()), "addresses");
        assert!(distinct(clients().map(|client| client.role.to_string()).collect()), "roles");
        let exports = clients().flat_map(|client| [client.root.id.to_string(), client.boot.id.to_string()]);
        assert!(distinct(exports.collect()), "export ids");
        self.directory = directory;
    }

    fn store(&mut self, command: store::Command) {
        let plugged = self.plugged;
        match command {
            store::Command::CreateClient(client) => {
                let twice = self.stick.values().any(|other| other.mac == client.mac || other.role == client.role);
                assert!(!twice, "{} is enrolled again", client.mac);
                assert!(plugged.is_some(), "a client is made on a stick that is not there");
                self.creates.push((*client).clone());
                let fails = self.rng.per_mille(self.faults.create_fails);
                let event = if fails {
                    let (message, action) = ("full".to_owned(), "empty it".to_owned());
                    store::Event::ClientFailed { role: client.role, message, action }
                } else {
                    store::Event::ClientReady(open(*client))
                };
                let delay = self.rng.millis(2000);
                self.later(delay, Item::Store(self.sticks, event));
            }
            store::Command::SaveClient(client) => {
                if let Some(saved) = self.stick.get_mut(&client.role).filter(|_| plugged.is_some()) {
                    *saved = *client;
                }
            }
            store::Command::Operate(..) => panic!("nobody ordered anything"),
            store::Command::RenewClient(role) => {
                let served = self.directory.clients.iter().any(|client| client.role == role);
                assert!(!served, "{role} is served while its root is made anew");
                if let Some(client) = self.stick.get(&role).filter(|_| plugged.is_some()).cloned() {
                    let delay = self.rng.millis(2000);
                    self.later(delay, Item::Store(self.sticks, store::Event::ClientReady(open(client))));
                }
            }
            store::Command::WatchUp(role, on) if plugged.is_some() => {
                if on {
                    self.watched.insert(role);
                } else {
                    self.watched.remove(&role);
                }
            }
            store::Command::WatchUp(..)
            | store::Command::Prepare
            | store::Command::Appliance(_)
            | store::Command::Backup
            | store::Command::SaveBoot { .. }
            | store::Command::SaveReport(..)
            | store::Command::MountImage(_)
            | store::Command::ReleaseImage(_) => {}
            store::Command::Release | store::Command::Resume => panic!("nobody wants the stick out"),
            store::Command::WriteCard => panic!("nobody wants a card"),
        }
    }
}

pub const SQUATTER: MacAddr = MacAddr([0x52, 0x54, 0, 9, 9, 9]);
pub const SHORT: Gesture = Gesture::Short(Button::Enroll);
pub const LONG: Gesture = Gesture::Long(Button::Enroll);

pub fn image() -> store::ImageInfo {
    let id = "raspios-12345678".parse().expect("a good image id");
    store::ImageInfo { id, name: "raspios".to_owned(), imported: 1, root_bytes: 1 }
}

pub fn open(client: Client) -> store::OpenClient {
    let folder = std::path::PathBuf::from(format!("/run/rootstock/clients/{}", client.role));
    let renew_at_boot = client.mode == rootstock::client::Mode::Ephemeral;
    store::OpenClient {
        root: folder.join("root"),
        boot: folder.join("boot"),
        volume: None,
        account: None,
        client,
        renew_at_boot,
        writable: true,
    }
}
