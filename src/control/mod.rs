//! The one place that decides: events in, actions out.
//!
//! Pure. Every shell reports what it saw as an `Event`; `Control::handle`
//! answers with `Action`s that the appliance carries out, and `poll` lets time
//! pass. Time is the duration since the server's start. Nothing here blocks,
//! so an offer never waits for a slow stick, and a test runs a whole boot in
//! microseconds. `wire`, `stick`, `backup`, `card` and `buttons` take what the shells tell, `boots` follows
//! clients' boots (`history` what they came to, `presence` whether they are still there, `evidence` what they
//! showed), `requests` decides about DHCP, `survey` and `beside` about other servers on the wire, `orders` about commands, `publish` says what is served,
//! `update` follows the appliance's own updates.

mod backup;
mod beside;
mod boots;
mod buttons;
mod card;
mod evidence;
mod history;
mod noise;
mod orders;
mod presence;
mod problems;
mod publish;
mod reports;
mod requests;
mod room;
mod self_test;
mod stick;
mod survey;
#[cfg(test)]
mod tests;
mod update;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::client::{Client, ImageId, MacAddr, Revision, Role};
use crate::config::{self, Config, Opens};
use crate::directory::{Directory, HandleKey};
use crate::enrol::Window;
use crate::health::Health;
use crate::stage::Boot;
use crate::status::{self, ClientStatus, Import, Stage, Status, Stick, Stranger};
use crate::store::history::BootRecord;
use crate::wire::Facts;
use crate::{dhcp, net, nfs, orders as orders_shell, panel, store, tftp, update as update_shell};

use beside::{At, Beside};
use evidence::Boards;
use noise::Noise;
use orders::Orders;
use problems::{Problems, Topic};
pub use publish::Trees;
use reports::Reports;
pub use reports::Wanted;
use requests::Requests;
use self_test::SelfTests;
use update::Updating;

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
    Update(update_shell::shell::Event),
    Health(Health),
    /// The fake Pi has ended.
    SelfTested(Box<crate::self_test::Tested>),
}

/// What a shell must do.
#[derive(Debug)]
pub enum Action {
    Send(dhcp::Reply),
    /// Ask the wire whether somebody but this board has the address.
    Probe(Ipv4Addr, MacAddr),
    /// Ask the wire who leases addresses on it.
    Survey,
    /// Have an address of another server's, or give it up.
    Lease(bool),
    /// Tell where these boards are heard.
    Watch(Vec<MacAddr>),
    /// Tell where they were heard lately.
    LookForNeighbours,
    /// While a boot ROM loads it answers no ARP: its entry must stand.
    Neighbour(MacAddr, Ipv4Addr),
    ForgetNeighbour(Ipv4Addr),
    Publish(Directory),
    /// Let go of the trees: their stick is gone.
    ReleaseTrees,
    Store(store::Command),
    /// To the command that holds this ticket.
    Answer(u64, Box<orders_shell::Reply>),
    /// Make a report of the black box and save it on the stick.
    Report(Box<reports::Wanted>),
    /// Boot a fake Pi against ourselves.
    SelfTest(Box<crate::self_test::Plan>),
    /// For the black box: a client is in this stage from now on.
    Stage {
        mac: MacAddr,
        address: Ipv4Addr,
        role: Role,
        stage: String,
    },
    Show(Box<Status>),
    /// Unmount the stick and switch this machine off.
    PowerOff,
    Update(update_shell::shell::Command),
    /// Unmount the stick and restart, once from the other slot.
    Try,
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
    at: At,
}

impl Member {
    /// Its root must be fitted before it is used again: at once, where its boot
    /// has begun and knows nothing of a root yet.
    fn renew_at_boot(&mut self) {
        let begun = matches!(self.boot.stage(), Stage::Discovered | Stage::Leased);
        match self.renewal {
            Renewal::None | Renewal::AtBoot if begun => self.renewal = Renewal::Due,
            Renewal::None => self.renewal = Renewal::AtBoot,
            Renewal::AtBoot | Renewal::Due | Renewal::Asked => {}
        }
    }
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
    /// There is no interface to use; whether the configuration names one.
    absent: Option<bool>,
    /// What is known of the wire.
    facts: Facts,
    beside: Beside,
    stick: Stick,
    /// Of the store that was opened last.
    room: Option<status::Room>,
    store_open: bool,
    images: Vec<ImageId>,
    handle_key: HandleKey,
    /// Of stores that were open before.
    former_keys: Vec<HandleKey>,
    members: BTreeMap<Role, Member>,
    /// Also of clients on the stick that could not be opened.
    taken_roles: Vec<Role>,
    window: Window,
    /// By configuration the window opens by itself once there is an image.
    opens_by_itself: bool,
    /// Since the window was opened.
    enrolled: u32,
    /// Orders that the panel gave, for their tickets.
    panel_orders: u64,
    /// What became of a press, and until when that is shown.
    notice: Option<(Duration, status::Notice)>,
    /// With the time of the last DISCOVER of each, newest first.
    strangers: VecDeque<(Duration, Stranger)>,
    import: Option<Import>,
    backup: Option<backup::Second>,
    waiting: backup::Waiting,
    /// Clients that may run on handles that nobody serves any more.
    left_behind: BTreeSet<Role>,
    card: Option<card::Spare>,
    problems: Problems,
    /// About requests that were refused or failed.
    refusals: Noise,
    /// About unknown boards.
    arrivals: Noise,
    requests: Requests,
    boards: Boards,
    reports: Reports,
    self_tests: SelfTests,
    orders: Orders,
    updating: Updating,
    /// The last boots of each client on the stick.
    histories: BTreeMap<Role, Vec<BootRecord>>,
    /// Names and sizes of each image's boot files.
    boot_files: BTreeMap<ImageId, Vec<(String, u64)>>,
    shown: Status,
    last_tick: Duration,
    /// When clients were last asked whether they are there.
    asked_presence: Duration,
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
            network: status::Network::default(),
            absent: None,
            facts: Facts::default(),
            beside: Beside::default(),
            stick: Stick::Absent,
            room: None,
            store_open: false,
            images: Vec::new(),
            handle_key: HandleKey::default(),
            former_keys: Vec::new(),
            members: BTreeMap::new(),
            taken_roles: Vec::new(),
            window: if config.enrol.open == Opens::Always { Window::Always } else { Window::Closed },
            config,
            opens_by_itself: false,
            enrolled: 0,
            panel_orders: 0,
            notice: None,
            strangers: VecDeque::new(),
            import: None,
            backup: None,
            waiting: backup::Waiting::default(),
            left_behind: BTreeSet::new(),
            card: None,
            problems,
            refusals: Noise::default(),
            arrivals: Noise::default(),
            requests: Requests::default(),
            boards: Boards::default(),
            reports: Reports::default(),
            self_tests: SelfTests::default(),
            orders: Orders::default(),
            updating: Updating::default(),
            histories: BTreeMap::new(),
            boot_files: BTreeMap::new(),
            shown: Status::default(),
            last_tick: Duration::ZERO,
            asked_presence: Duration::ZERO,
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
            Event::SelfTested(tested) => self.self_tested(now, *tested, &mut actions),
            Event::Orders(orders_shell::Event::Ordered { ticket, order }) => {
                self.order(now, ticket, order, &mut actions);
            }
            Event::Update(event) => self.update(now, event, &mut actions),
            Event::Health(health) => self.health(health, &mut actions),
        }
        self.notice_answers(now, &mut actions);
        self.show(now, &mut actions);
        actions
    }

    /// When `poll` must be called although nothing happened. With nothing under
    /// way there is no deadline at all.
    pub fn poll_timeout(&self, now: Duration) -> Option<Duration> {
        let stages = self.members.values().filter_map(|member| member.boot.deadline());
        let moving = self.members.values().any(|member| member.boot.stage().is_booting());
        let strangers = self.strangers.iter().map(|(asked, _)| *asked + STRANGER_SHOWN);
        let tick = (self.window.is_open(now) || moving).then_some(self.last_tick + TICK);
        let notice = self.notice.as_ref().map(|(until, _)| *until);
        let others = [self.window.deadline(), tick, notice, self.orders.deadline(), self.boards.deadline()];
        let others = others.into_iter().chain([
            self.presence_deadline(),
            self.self_tests.deadline(),
            self.backup_deadline(),
            self.card_deadline(now),
            self.delayed_at(),
            self.updating.poll_timeout(),
        ]);
        let next = stages.chain(strangers).chain(others.flatten()).min()?;
        Some(next.saturating_sub(now))
    }

    /// Lets time pass.
    pub fn poll(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        self.last_tick = now;
        if self.window.deadline().is_some_and(|deadline| now >= deadline) {
            (self.window, self.orders.swap) = (self.shut(), None);
            actions.push(Action::Log("enrolment window closed".to_owned()));
            self.window_ended(now, self.config.enrol.window, &mut actions);
        }
        self.strangers.retain(|(asked, _)| now < *asked + STRANGER_SHOWN);
        self.orders_due(now, &mut actions);
        self.send_delayed(now, &mut actions);
        self.test_trial(now, &mut actions);
        self.poll_backup(now);
        self.tell_left_behind();
        self.notice_answers(now, &mut actions);
        self.notice.take_if(|(until, _)| now >= *until);
        self.judge_boots(now, &mut actions);
        self.ask_presence(now, &mut actions);
        self.poll_self_test(now, &mut actions);
        self.show(now, &mut actions);
        actions
    }

    fn publish(&self, actions: &mut Vec<Action>) {
        let own = self.own().address;
        let elsewhere: Vec<Ipv4Addr> = self.members.values().filter_map(Member::elsewhere).collect();
        let ready = |member: &Member| {
            let (trees, address) = (member.trees.as_ref()?, member.address()?);
            // Another server gave its address to another client of ours.
            let is_others = member.at == At::Ours && elsewhere.contains(&address);
            (!is_others).then(|| publish::served(own, address, &member.client, trees))
        };
        let clients = self.members.values().filter_map(ready).chain(self.self_test_served()).collect();
        let (handle_key, former_keys) = (self.handle_key.clone(), self.former_keys.clone());
        actions.push(Action::Publish(Directory { clients, handle_key, former_keys }));
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
            address: member.address().unwrap_or(Ipv4Addr::UNSPECIFIED),
            model: member.client.model,
            serial: member.client.serial,
            memory_mib: member.client.revision.and_then(Revision::memory_mib),
            image: member.client.image.clone(),
            stage: self.shown_stage(member),
            since: whole(self.since(member, now)),
            last_boot: self.last_boot(&member.client.role),
            advice: self.advice(member, now),
            usage: member.trees.as_ref().and_then(|trees| room::usage(trees.account.as_deref()?)),
        };
        Status {
            uptime: whole(self.last_tick),
            network: status::Network {
                address: self.beside.address().filter(|_| self.is_beside()).or(self.network.address),
                ..self.network
            },
            stick: self.stick.clone(),
            room: self.room.filter(|_| matches!(self.stick, Stick::Ready { .. })),
            import: self.import.clone(),
            backup: self.shown_backup(now),
            card: self.shown_card(now),
            images: self.images.clone(),
            enrolment: match self.window.status(now, self.enrolled, self.orders.swap.clone()) {
                status::Enrolment::Open { left, batch, enrolled, swap } => {
                    let left = whole(left + Duration::from_millis(999));
                    status::Enrolment::Open { left, batch, enrolled, swap }
                }
                other => other,
            },
            clients: self.members.values().map(client).collect(),
            strangers: self.strangers.iter().map(|(_, stranger)| self.with_hint(stranger)).collect(),
            problems: self.problems.list(),
            update: self.updating.status(),
            image_version: self.updating.here.clone(),
            notice: self.notice.as_ref().map(|(_, notice)| notice.clone()),
            self_test: self.last_self_test(),
        }
    }
}
