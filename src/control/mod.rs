//! The one place that decides: events in, actions out.
//!
//! Pure. Every shell reports what it saw as an `Event`; `Control::handle`
//! answers with `Action`s that the appliance carries out, and `poll` lets time
//! pass. Time is the duration since the server's start. Nothing here blocks,
//! so an offer never waits for a slow stick, and a test runs a whole boot in
//! microseconds. `requests` decides about DHCP, `orders` about commands,
//! `publish` what is served.

mod evidence;
#[cfg(test)]
mod hints;
mod noise;
mod orders;
mod problems;
mod publish;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::client::{Client, ImageId, MacAddr, Mode, Revision, Role, Serial};
use crate::config::{self, Config};
use crate::directory::{Directory, HandleKey, Tree};
use crate::enrol::Window;
use crate::stage::{Boot, Sign};
use crate::status::{self, ClientStatus, Import, NewPlace, Stage, Status, Stick, Stranger};
use crate::{dhcp, net, nfs, orders as orders_shell, panel, store, tftp};

use evidence::Boards;
use noise::Noise;
use orders::Orders;
use problems::{Problems, Topic};
pub use publish::Trees;
use requests::Requests;

/// Strangers that are remembered, newest first.
const MAX_STRANGERS: usize = 8;

/// How long a stranger that no longer asks is shown: a Pi asks again within a minute.
const STRANGER_SHOWN: Duration = Duration::from_secs(90);

/// How often a waiting panel needs a new figure (window, stage times).
const TICK: Duration = Duration::from_secs(1);

/// What a shell saw.
#[derive(Debug)]
pub enum Event {
    Net(net::Event),
    Dhcp(dhcp::Event),
    Tftp(tftp::Event),
    Nfs(nfs::Event),
    Store(store::Event),
    Panel(panel::Event),
    Orders(orders_shell::Event),
}

/// What a shell must do.
#[derive(Debug)]
pub enum Action {
    Send(dhcp::Reply),
    /// Ask the wire whether somebody but this board has the address.
    Probe(Ipv4Addr, MacAddr),
    /// While a boot ROM loads it answers no ARP: its entry must stand.
    Neighbour(MacAddr, Ipv4Addr),
    ForgetNeighbour(Ipv4Addr),
    Publish(Directory),
    /// Let go of the trees: their stick is gone.
    ReleaseTrees,
    Store(store::Command),
    /// To the command that holds this ticket.
    Answer(u64, Box<orders_shell::Reply>),
    Show(Box<Status>),
    /// Unmount the stick and switch this machine off.
    PowerOff,
    Log(String),
}

/// An enrolled client and what is known of it just now.
#[derive(Debug)]
struct Member {
    client: Client,
    /// `None` until the store has mounted them.
    trees: Option<Trees>,
    boot: Boot,
    renewal: Renewal,
}

/// What a client's next boot needs of the store before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewal {
    /// Nothing: it goes on with the root it has.
    None,
    /// When its boot begins: that of an ephemeral client, for instance.
    AtBoot,
    /// Its boot has begun.
    Due,
    /// The store is at it.
    Asked,
}

impl Renewal {
    fn of(open: &store::OpenClient) -> Self {
        if open.renew_at_boot { Self::AtBoot } else { Self::None }
    }
}

#[derive(Debug)]
pub struct Control {
    config: Config,
    server: dhcp::Server,
    network: status::Network,
    stick: Stick,
    store_open: bool,
    images: Vec<ImageId>,
    handle_key: HandleKey,
    members: BTreeMap<Role, Member>,
    /// Also of clients on the stick that could not be opened.
    taken_roles: Vec<Role>,
    window: Window,
    /// With the time of the last DISCOVER of each, newest first.
    strangers: VecDeque<(Duration, Stranger)>,
    import: Option<Import>,
    problems: Problems,
    /// About requests that were refused or failed.
    refusals: Noise,
    /// About unknown boards.
    arrivals: Noise,
    requests: Requests,
    boards: Boards,
    orders: Orders,
    shown: Status,
    last_tick: Duration,
}

impl Control {
    pub fn new(config: Config, config_problems: &[config::Problem]) -> Self {
        let mut problems = Problems::default();
        if let Some(first) = config_problems.first() {
            let more = match config_problems.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            problems.set(Topic::Config, format!("{first}{more}"), "Correct it on the SD card, restart".to_owned());
        }
        Self {
            server: dhcp::Server {
                subnet: config.network.address,
                gateway: config.network.gateway,
                dns: config.network.dns.clone(),
                lease: config.dhcp.lease,
            },
            config,
            network: status::Network::default(),
            stick: Stick::Absent,
            store_open: false,
            images: Vec::new(),
            handle_key: HandleKey::default(),
            members: BTreeMap::new(),
            taken_roles: Vec::new(),
            window: Window::Closed,
            strangers: VecDeque::new(),
            import: None,
            problems,
            refusals: Noise::default(),
            arrivals: Noise::default(),
            requests: Requests::default(),
            boards: Boards::default(),
            orders: Orders::default(),
            shown: Status::default(),
            last_tick: Duration::ZERO,
        }
    }

    /// Takes one event in and says what must be done, in this order.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Net(event) => self.net(now, event, &mut actions),
            Event::Dhcp(dhcp::Event::Request(request)) => self.request(now, *request, &mut actions),
            Event::Dhcp(_) => {}
            Event::Tftp(event) => self.tftp(now, event, &mut actions),
            Event::Nfs(event) => self.nfs(now, event, &mut actions),
            Event::Store(event) => self.store(now, event, &mut actions),
            Event::Panel(event) => self.panel(now, event, &mut actions),
            Event::Orders(orders_shell::Event::Ordered { ticket, order }) => {
                self.order(now, ticket, order, &mut actions);
            }
        }
        self.show(now, &mut actions);
        actions
    }

    /// When `poll` must be called although nothing happened. With nothing under
    /// way there is no deadline at all.
    pub fn poll_timeout(&self, now: Duration) -> Option<Duration> {
        let stages = self.members.values().filter_map(|member| member.boot.deadline());
        let moving = self.members.values().any(|member| member.boot.deadline().is_some());
        let strangers = self.strangers.iter().map(|(asked, _)| *asked + STRANGER_SHOWN);
        let tick = (self.window.is_open(now) || moving).then_some(self.last_tick + TICK);
        let others = [self.window.deadline(), tick, self.orders.deadline(), self.boards.deadline()];
        let next = stages.chain(strangers).chain(others.into_iter().flatten()).min()?;
        Some(next.saturating_sub(now))
    }

    /// Lets time pass.
    pub fn poll(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        self.last_tick = now;
        if self.window.deadline().is_some_and(|deadline| now >= deadline) {
            (self.window, self.orders.swap) = (Window::Closed, None);
            actions.push(Action::Log("enrolment window closed".to_owned()));
            self.window_ended(now, self.config.enrol.window, &mut actions);
        }
        self.strangers.retain(|(asked, _)| now < *asked + STRANGER_SHOWN);
        self.orders_due(now, &mut actions);
        self.judge_boots(now, &mut actions);
        self.show(now, &mut actions);
        actions
    }

    fn net(&mut self, now: Duration, event: net::Event, actions: &mut Vec<Action>) {
        match event {
            net::Event::Interface { name, mac, .. } => actions.push(Action::Log(format!("interface {name} ({mac})"))),
            net::Event::Address(subnet) => {
                self.network.address = Some(subnet.address);
                self.problems.clear(&Topic::Network);
                actions.push(Action::Log(format!("address {subnet}")));
            }
            net::Event::Carrier(carrier) => {
                self.network.carrier = carrier;
                actions.push(Action::Log(format!("carrier {}", if carrier { "up" } else { "down" })));
            }
            net::Event::Lost => {
                self.network = status::Network::default();
                actions.push(Action::Log("interface gone".to_owned()));
            }
            net::Event::Conflict { address, mac } => {
                self.problems.set(
                    Topic::Network,
                    format!("{address} is in use by {mac} too"),
                    "Unplug that device or change our address".to_owned(),
                );
            }
            net::Event::Probed { address, conflict } => self.probed(now, address, conflict, actions),
            net::Event::Failed(message) => {
                actions.push(Action::Log(format!("network: {message}")));
                self.problems.set(Topic::Network, message, "Check the cable and the configuration".to_owned());
            }
        }
    }

    fn tftp(&mut self, now: Duration, event: tftp::Event, actions: &mut Vec<Action>) {
        self.saw_tftp(now, &event, actions);
        match event {
            tftp::Event::Started { address, path, folder, .. } => {
                if let Some(serial) = folder {
                    self.learn_serial(address, serial, actions);
                }
                let path = path.rsplit('/').next().unwrap_or_default().to_owned();
                self.sign(now, address, Sign::FileAsked { path }, actions);
            }
            tftp::Event::Finished { address, bytes, .. } => {
                self.sign(now, address, Sign::FileSent { bytes }, actions);
            }
            tftp::Event::Refused { address, path, reason } => {
                self.refusals.log(now, format!("tftp: {address} asked for {path:?}: {reason}"), actions);
            }
            // When all of it was sent, perhaps only the last ACK is missing.
            tftp::Event::TimedOut { address, sent, size, .. } if sent == size => {
                self.sign(now, address, Sign::FileSent { bytes: sent }, actions);
            }
            tftp::Event::TimedOut { address, path, bytes, size, .. } => {
                self.refusals.log(
                    now,
                    format!("tftp: {address} fell silent at byte {bytes} of {size} of {path}"),
                    actions,
                );
            }
            tftp::Event::Failed { address, path, error } => {
                self.refusals.log(now, format!("tftp: {path} for {address}: {error}"), actions);
            }
            tftp::Event::CommandLineShortened { address, left_out } => {
                actions.push(Action::Log(format!("tftp: cmdline.txt of {address} is too long by {left_out} words")));
            }
            // Firmware asks for files that no image has; that is a boot's normal course.
            tftp::Event::Aborted { .. } | tftp::Event::Missing { .. } | tftp::Event::Repeated { .. } => {}
        }
    }

    fn nfs(&mut self, now: Duration, event: nfs::Event, actions: &mut Vec<Action>) {
        self.saw_nfs(now, &event);
        match event {
            nfs::Event::Mounted { address, tree: Tree::Root } => self.sign(now, address, Sign::RootMounted, actions),
            nfs::Event::Mounted { address, tree: Tree::Boot } if self.is_read_only(address) => {
                // It cannot write that its start is complete: that its system
                // mounts its boot tree, which no initramfs does, is what is seen of it.
                self.sign(now, address, Sign::Up, actions);
            }
            nfs::Event::Mounted { tree: Tree::Boot | Tree::Volume, .. } | nfs::Event::Unmounted { .. } => {}
            nfs::Event::Traffic { address, .. } => self.sign(now, address, Sign::Traffic, actions),
            nfs::Event::MountRefused { address, path, reason } => {
                self.refusals.log(now, format!("nfs: {address} may not mount {path:?}: {reason}"), actions);
            }
            nfs::Event::VersionRefused { address, program, version } => {
                let line = format!("nfs: {address} asked for version {version} of program {program}");
                self.refusals.log(now, line, actions);
            }
            // A mount's normal course.
            nfs::Event::PortAsked { .. } => {}
            nfs::Event::BadHandle { address, .. } => {
                self.refusals.log(now, format!("nfs: {address} used a file handle that is not its own"), actions);
            }
        }
    }

    fn is_read_only(&self, address: Ipv4Addr) -> bool {
        let mut members = self.members.values();
        members.any(|member| member.client.address == address && member.client.mode == Mode::ReadOnly)
    }

    fn store(&mut self, now: Duration, event: store::Event, actions: &mut Vec<Action>) {
        use store::Event as Store;
        match event {
            Store::StickAbsent => {
                self.stick = Stick::Absent;
                self.problems.clear_imports();
            }
            Store::StickReading { .. } => self.stick = Stick::Reading,
            Store::NeedsConfirmation { name, free_bytes, place } => {
                let press = if place == NewPlace::File { "ENROLL" } else { "a held ENROLL" };
                actions.push(Action::Log(format!("stick {name:?} asks for {press}; {free_bytes} bytes are free")));
                self.stick = Stick::NeedsConfirmation { name, free_bytes, place };
            }
            Store::Preparing { .. } => self.stick = Stick::Preparing,
            Store::StickUnusable { message, action } => {
                actions.push(Action::Log(format!("stick: {message}. {action}")));
                self.stick = Stick::Unusable { message: message.clone() };
                self.problems.set(Topic::Stick, message, action);
                return;
            }
            Store::Opened { name, free_bytes, images, clients, taken_roles, handle_key } => {
                actions.push(Action::Log(format!(
                    "store open on {name}: {} images, {} clients",
                    images.len(),
                    clients.len()
                )));
                self.stick = Stick::Ready { name, free_bytes };
                self.store_open = true;
                self.images = images.into_iter().map(|image| image.id).collect();
                self.handle_key = handle_key;
                self.taken_roles = taken_roles;
                self.opened(clients, actions);
                self.readdress(now, actions);
                self.renew_all(actions);
                self.publish(actions);
                self.answer_waiting(now, actions);
            }
            Store::Closed { name } => {
                actions.push(Action::Log(format!("stick {name} was pulled")));
                self.stick = Stick::Absent;
                self.store_open = false;
                self.import = None;
                actions.push(Action::ReleaseTrees);
            }
            Store::FreeSpace { free_bytes: now_free } => {
                if let Stick::Ready { free_bytes, .. } = &mut self.stick {
                    *free_bytes = now_free;
                }
            }
            Store::ImportProgress { file, per_mille, left } => {
                // A file of that name is tried once more: what was wrong with the former is past.
                self.problems.clear(&Topic::Import(file.clone()));
                self.import = Some(Import { file, per_mille, left });
            }
            Store::Imported { image } => {
                actions.push(Action::Log(format!("image {} imported", image.id)));
                self.import = None;
                self.images.retain(|id| *id != image.id);
                self.images.push(image.id);
            }
            Store::AlreadyThere { file, image } => {
                let message = format!("{file} is the image {image}, which is there already");
                actions.push(Action::Log(message.clone()));
                let action = "Nothing was stored twice; the file can be deleted".to_owned();
                self.problems.set(Topic::Import(file), message, action);
            }
            Store::ImportFailed { file, message, action } => {
                actions.push(Action::Log(format!("import of {file} failed: {message}. {action}")));
                self.import = None;
                let message = format!("{file}: {message}");
                self.problems.set(Topic::Import(file), message, action);
            }
            Store::ClientReady(open) => {
                actions.push(Action::Log(format!("client {} ready", open.client.role)));
                self.client_ready(open);
                self.publish(actions);
                self.answer_waiting(now, actions);
            }
            Store::ClientFailed { role, message, action } => {
                actions.push(Action::Log(format!("client {role}: {message}. {action}")));
                match self.members.get_mut(&role) {
                    // Its board's next DISCOVER asks again.
                    Some(member) if member.renewal == Renewal::Asked => member.renewal = Renewal::Due,
                    // A client that never came to be: its board's next DISCOVER asks for it anew
                    // in a batch, and after another press otherwise.
                    Some(member) if member.trees.is_none() && member.renewal != Renewal::Due => {
                        self.members.remove(&role);
                    }
                    _ => {}
                }
                self.problems.set(Topic::Client(role.clone()), format!("{role}: {message}"), action);
            }
            Store::Changed { images, clients, taken_roles } => {
                self.images = images.into_iter().map(|image| image.id).collect();
                self.taken_roles = taken_roles;
                self.changed(clients, actions);
                self.renew_all(actions);
                self.publish(actions);
                self.answer_waiting(now, actions);
            }
            Store::Operated { ticket, result } => self.operated(now, ticket, result, actions),
            Store::Up { role } => self.sign_role(now, &role, Sign::Up, actions),
            Store::Problem { message, action } => {
                actions.push(Action::Log(format!("stick: {message}. {action}")));
                self.problems.set(Topic::Stick, message, action);
                return;
            }
        }
        if matches!(self.stick, Stick::Absent | Stick::Reading | Stick::NeedsConfirmation { .. }) {
            self.problems.clear(&Topic::Stick);
        }
    }

    fn panel(&mut self, now: Duration, event: panel::Event, actions: &mut Vec<Action>) {
        use panel::{Button, Gesture};
        match event {
            panel::Event::Pressed(gesture @ (Gesture::Short(Button::Enroll) | Gesture::Long(Button::Enroll))) => {
                let held = gesture == Gesture::Long(Button::Enroll);
                match &self.stick {
                    // A file can be deleted again; a partition is there for good.
                    Stick::NeedsConfirmation { name, place, .. } if held || *place == NewPlace::File => {
                        actions.push(Action::Log(format!("confirmed: a store is made on {name}")));
                        self.stick = Stick::Preparing;
                        actions.push(Action::Store(store::Command::Prepare));
                    }
                    _ => self.press(now, held, actions),
                }
            }
            panel::Event::Pressed(Gesture::Long(Button::Next)) => {
                actions.push(Action::Log("NEXT held: switching off".to_owned()));
                actions.push(Action::PowerOff);
            }
            // NEXT turns pages, which is the panel's own affair.
            panel::Event::Pressed(Gesture::Short(Button::Next)) => {}
            panel::Event::Hardware(found) => actions.push(Action::Log(format!("panel: {found}"))),
            panel::Event::Failed(message) => actions.push(Action::Log(format!("panel: {message}"))),
        }
    }

    /// ENROLL: opens the window, or closes the open one.
    fn press(&mut self, now: Duration, batch: bool, actions: &mut Vec<Action>) {
        if self.window.is_open(now) {
            (self.window, self.orders.swap) = (Window::Closed, None);
            actions.push(Action::Log("enrolment window closed by a press".to_owned()));
        } else if self.store_open && !self.images.is_empty() {
            self.window = Window::open(now, self.config.enrol.window, batch);
            self.somebody_came();
            actions.push(Action::Log(format!("enrolment window open for {} s", self.config.enrol.window.as_secs())));
        } else {
            actions.push(Action::Log("ENROLL pressed, but there is no image yet".to_owned()));
        }
    }

    /// Takes the store's clients in; what was known of their boots stays.
    fn opened(&mut self, clients: Vec<store::OpenClient>, actions: &mut Vec<Action>) {
        let mut before = std::mem::take(&mut self.members);
        for open in clients {
            let mut renewal = Renewal::of(&open);
            let boot = match before.remove(&open.client.role) {
                Some(member) => {
                    // Its boot began while the store was away.
                    if matches!(member.renewal, Renewal::Due | Renewal::Asked) && renewal == Renewal::AtBoot {
                        renewal = Renewal::Due;
                    }
                    member.boot
                }
                None => Boot::default(),
            };
            // A store that was opened anew watches nobody.
            if matches!(boot.stage(), Stage::RootMounted | Stage::Stalled { .. }) {
                actions.push(Action::Store(store::Command::WatchUp(open.client.role.clone(), true)));
            }
            let trees = Some(Trees { root: open.root, boot: open.boot, volume: open.volume });
            self.members.insert(open.client.role.clone(), Member { client: open.client, trees, boot, renewal });
        }
    }

    /// Takes in what there is after an operation. A client that is being made
    /// stays, and one that is being worked on gets no trees yet.
    fn changed(&mut self, clients: Vec<store::OpenClient>, actions: &mut Vec<Action>) {
        // Its operation may have renamed or deleted it.
        let ended = std::mem::take(&mut self.orders.ended);
        let is_new = |role: &Role, member: &Member| {
            member.trees.is_none() && !self.taken_roles.contains(role) && !ended.contains(role)
        };
        let members = std::mem::take(&mut self.members);
        let (new, before) = members.into_iter().partition(|(role, member)| is_new(role, member));
        self.members = before;
        self.opened(clients, actions);
        self.members.extend::<BTreeMap<Role, Member>>(new);
        for (role, member) in &mut self.members {
            if self.orders.is_down(role) {
                member.trees = None;
            }
        }
    }

    fn client_ready(&mut self, open: store::OpenClient) {
        self.problems.clear(&Topic::Client(open.client.role.clone()));
        let renewal = Renewal::of(&open);
        // An order may have come meanwhile that takes its trees away again.
        let is_down = self.orders.is_down(&open.client.role);
        let trees = (!is_down).then_some(Trees { root: open.root, boot: open.boot, volume: open.volume });
        match self.members.get_mut(&open.client.role) {
            Some(member) => (member.trees, member.renewal) = (trees, renewal),
            None => {
                let member = Member { client: open.client, trees, boot: Boot::default(), renewal };
                self.members.insert(member.client.role.clone(), member);
            }
        }
    }

    /// A board whose DHCP does not tell its serial names it as its TFTP folder.
    fn learn_serial(&mut self, address: Ipv4Addr, serial: Serial, actions: &mut Vec<Action>) {
        let Some(member) = self.members.values_mut().find(|member| member.client.address == address) else { return };
        if member.client.serial.is_none() {
            member.client.serial = Some(serial);
            actions.push(Action::Log(format!("client {} has serial {serial}", member.client.role)));
            actions.push(Action::Store(store::Command::SaveClient(Box::new(member.client.clone()))));
            self.publish(actions);
        }
    }

    fn sign(&mut self, now: Duration, address: Ipv4Addr, sign: Sign, actions: &mut Vec<Action>) {
        let role = self.members.values().find(|member| member.client.address == address).map(|m| m.client.role.clone());
        if let Some(role) = role {
            self.sign_role(now, &role, sign, actions);
        }
    }

    fn sign_role(&mut self, now: Duration, role: &Role, sign: Sign, actions: &mut Vec<Action>) {
        if sign == Sign::Up {
            self.saw_up(now, role);
        }
        let Some(member) = self.members.get_mut(role) else { return };
        let begins = sign == Sign::BootloaderAsks;
        if !member.boot.observe(now, sign) {
            return;
        }
        // Only a board that was reset has a loader that asks: what ran on it is gone.
        if begins && member.renewal == Renewal::AtBoot {
            member.renewal = Renewal::Due;
        }
        actions.push(stage_log(role, &member.boot, now));
        match member.boot.stage() {
            Stage::RootMounted => {
                actions.push(Action::Store(store::Command::WatchUp(role.clone(), true)));
                // A running kernel answers ARP by itself.
                actions.push(Action::ForgetNeighbour(member.client.address));
            }
            Stage::Up { .. } => actions.push(Action::Store(store::Command::WatchUp(role.clone(), false))),
            _ => {}
        }
    }

    /// Has the store renew what is due; until then those clients are not served.
    /// One that is being worked on is renewed when that has ended.
    fn renew_all(&mut self, actions: &mut Vec<Action>) {
        if !self.store_open {
            return;
        }
        let is_due = |member: &&mut Member| member.renewal == Renewal::Due && !self.orders.is_down(&member.client.role);
        let due: Vec<&mut Member> = self.members.values_mut().filter(is_due).collect();
        if due.is_empty() {
            return;
        }
        let mut roles = Vec::new();
        for member in due {
            member.renewal = Renewal::Asked;
            member.trees = None;
            roles.push(member.client.role.clone());
        }
        self.publish(actions);
        actions.extend(roles.into_iter().map(|role| Action::Store(store::Command::RenewClient(role))));
    }

    fn publish(&self, actions: &mut Vec<Action>) {
        let ready = |member: &Member| {
            let trees = member.trees.as_ref()?;
            Some(publish::served(self.config.network.address.address, &member.client, trees))
        };
        let clients = self.members.values().filter_map(ready).collect();
        actions.push(Action::Publish(Directory { clients, handle_key: self.handle_key.clone() }));
    }

    /// Shows the status if a face could look different now.
    fn show(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let status = self.status(now);
        if status != self.shown {
            self.shown = status.clone();
            actions.push(Action::Show(Box::new(status)));
        }
    }

    /// The snapshot, its times cut to whole seconds: faces show no finer ones.
    pub fn status(&self, now: Duration) -> Status {
        let whole = |time: Duration| Duration::from_secs(time.as_secs());
        let client = |member: &Member| ClientStatus {
            role: member.client.role.clone(),
            address: member.client.address,
            model: member.client.model,
            serial: member.client.serial,
            memory_mib: member.client.revision.and_then(Revision::memory_mib),
            image: member.client.image.clone(),
            stage: self.shown_stage(member),
            since: whole(self.since(member, now)),
        };
        Status {
            uptime: whole(self.last_tick),
            network: self.network,
            stick: self.stick.clone(),
            import: self.import.clone(),
            images: self.images.clone(),
            enrolment: match self.window.status(now) {
                status::Enrolment::Open { left } => {
                    status::Enrolment::Open { left: whole(left + Duration::from_millis(999)) }
                }
                status::Enrolment::Closed => status::Enrolment::Closed,
            },
            clients: self.members.values().map(client).collect(),
            strangers: self.strangers.iter().map(|(_, stranger)| self.with_hint(stranger)).collect(),
            problems: self.problems.list(),
        }
    }
}

fn stage_log(role: &Role, boot: &Boot, now: Duration) -> Action {
    let after = boot.took(now).unwrap_or_default().as_secs_f32();
    let stage = match boot.stage() {
        Stage::Off => "off".to_owned(),
        Stage::Discovered => "asks".to_owned(),
        Stage::Leased => "leased".to_owned(),
        Stage::Loading { .. } => "loading".to_owned(),
        Stage::Kernel => "kernel".to_owned(),
        Stage::RootMounted => "root mounted".to_owned(),
        Stage::Up { .. } => "up".to_owned(),
        Stage::Stalled { at, hint } => format!("stalled while {at}: {hint}"),
    };
    Action::Log(format!("client {role}: {stage} ({after:.1} s)"))
}
