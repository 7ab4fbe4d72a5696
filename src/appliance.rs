//! The only wiring: starts the shells, hands their events to control, and
//! carries out what control says.
//!
//! I/O, but no decisions. One thread runs the loop; each shell has threads of
//! its own and reports through [`Inbox`], which never makes it wait.

mod inbox;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

pub use self::inbox::Inbox;
use self::inbox::Message;
use crate::blackbox::{self, Left, Why, tap};
use crate::config::{self, Config};
use crate::control::Wanted;
use crate::control::{Action, Control, Event};
use crate::directory::{Directory, Published};
use crate::self_test::{self, Plan};
use crate::{dhcp, health, init, memory, net, nfs, orders, panel, priority, store, tftp, update};

/// NFS calls that may run at once; most of them wait for the stick, not for a core.
const NFS_WORKERS: usize = 16;

/// A store smaller than this holds hardly one image and one client's writes.
const MINIMUM_STORE_BYTES: u64 = 1 << 30;

/// How long control sleeps at most, so that a stop is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What the command line chose.
#[derive(Debug, Clone)]
pub struct Options {
    /// May be absent, as may its file: then all defaults hold.
    pub config: Option<PathBuf>,
    /// Why there is no configuration, when the SD card could not be read.
    pub boot_problem: Option<String>,
    /// A folder that stands for the stick.
    pub stick: Option<PathBuf>,
    pub interface: Option<String>,
    pub panel: panel::Source,
    /// Where everything is mounted.
    pub run: PathBuf,
    /// Block devices that are never a stick.
    pub ignore_devices: Vec<String>,
    /// Disks that may be a stick though they are not on USB.
    pub disks: Vec<String>,
    /// Whether this is the appliance itself, which may be updated.
    pub updates: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("network")]
    Net(#[from] net::Error),
    #[error("store")]
    Store(#[from] store::Error),
    #[error("nfs")]
    Nfs(#[from] nfs::Error),
    #[error("tftp")]
    Tftp(#[from] tftp::Error),
    #[error("orders")]
    Orders(#[from] orders::Error),
    #[error("update")]
    Update(#[source] std::io::Error),
    #[error("health")]
    Health(#[source] std::io::Error),
}

/// Why the server ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By a signal.
    Stopped,
    /// By a held NEXT: the machine is to be switched off.
    PowerOff,
    /// The machine is to start its other slot once.
    Try,
}

/// The running shells, as far as actions need them.
struct Shells {
    net: net::Handle,
    nfs: nfs::Server,
    panel: panel::Handle,
    store: store::Handle,
    orders: orders::Handle,
    update: Option<update::shell::Handle>,
    dhcp: Option<dhcp::Socket>,
    directory: Arc<Published<Directory>>,
    run: PathBuf,
    inbox: Inbox,
}

/// Runs the server until `stop` is asked of the inbox that `started` gets.
///
/// Services listen before the stick is looked for, so that a Pi which got
/// power in the same moment as we finds them.
pub fn run(options: Options, started: impl FnOnce(Inbox)) -> Result<End, Error> {
    let clock = Instant::now();
    let (config, problems) = read_config(&options);
    for problem in &problems {
        warn!("{problem}");
    }

    let inbox = Inbox::default();
    let mut receiver = inbox.receiver();
    started(inbox.clone());
    let directory = Arc::new(Published::new(Directory::default()));

    let panel = panel::start(
        panel::Options { config: config.panel.clone(), source: options.panel.clone() },
        sink(&inbox, Event::Panel),
    );
    let net = net::start(
        net::Options {
            interface: options.interface.clone().or_else(|| config.network.interface.clone()),
            address: config.network.address,
            gateway: config.network.gateway,
        },
        sink(&inbox, Event::Net),
    )?;
    let (own, listen) = (config.network.address.address, config.listen());
    let _tftp = tftp::start(tftp::Options { listen, port: 69 }, directory.clone(), sink(&inbox, Event::Tftp))?;
    // Only now that the port is ours: another server's black box in this folder must not be begun anew.
    tap::readdress(own);
    let left = tap::install(&options.run);
    let left = left.inspect_err(|error| warn!("no black box: {error}")).unwrap_or(Left::Nothing);
    let nfs_options = nfs::Options {
        listen,
        nfs_port: 2049,
        mount_port: 20048,
        portmap_port: 111,
        allow_unprivileged_ports: config.nfs.allow_unprivileged_ports,
        workers: NFS_WORKERS,
        journal: Some(options.run.join("nfs-calls")),
    };
    let nfs = nfs::start(nfs_options, directory.clone(), sink(&inbox, Event::Nfs))?;
    let store = store::start(
        store::Options {
            run: options.run.clone(),
            folder: options.stick.clone(),
            ignore_devices: options.ignore_devices.clone(),
            extra_devices: options.disks.clone(),
            minimum_store_bytes: MINIMUM_STORE_BYTES,
            store_bytes: config.store.size_gib.map(|gib| u64::from(gib) << 30),
            make_store: config.store.write,
            memory_bytes: None,
            scrub_every: config.scrub.every,
            reserve_bytes: config.store.reserve.map(|size| size.0),
            appliance: own,
            dns: config.network.dns.clone(),
            plain_writes: false,
        },
        sink(&inbox, Event::Store),
    )?;
    let orders = orders::start(&options.run, sink(&inbox, Event::Orders))?;
    let update = match options.updates {
        true => {
            let card = options.ignore_devices.first().map(|name| PathBuf::from("/dev").join(name));
            let options = update::shell::Options { run: options.run.clone(), card, address: listen };
            Some(update::shell::start(options, sink(&inbox, Event::Update)).map_err(Error::Update)?)
        }
        false => None,
    };
    health::start(&options.run, options.updates, sink(&inbox, Event::Health)).map_err(Error::Health)?;
    info!("serving as {}", config.network.address);

    let mut control = Control::new(config, &problems);
    if left == Left::Crash {
        control.found_crash();
    }
    let mut shells = Shells {
        net,
        nfs,
        panel,
        store,
        orders,
        update,
        dhcp: None,
        directory,
        run: options.run,
        inbox: inbox.clone(),
    };
    priority::bound(priority::RUNAWAY);
    priority::prompt();
    shells.panel.show(control.status(clock.elapsed()));
    let end = 'run: loop {
        let sleep = control.poll_timeout(clock.elapsed()).unwrap_or(LONGEST_SLEEP);
        let actions = match receiver.take(sleep) {
            Some(Message::Event(event)) => {
                if let Event::Net(net::Event::Interface { name, index, .. }) = &event {
                    shells.listen_for_dhcp(name, *index, &inbox);
                }
                if let Event::Net(net::Event::Address(subnet)) = &event {
                    tap::readdress(subnet.address);
                }
                if let Event::Net(net::Event::Lost) = &event {
                    shells.dhcp = None;
                }
                match &event {
                    // What its boot needed for a moment, such as listings, is not held until the next one.
                    Event::Store(store::Event::Up { .. }) => {
                        memory::give_back();
                        log_memory();
                    }
                    // The decoders and the writer are gone by now, and what the fake Pi read.
                    Event::Store(store::Event::Imported { .. } | store::Event::ImportFailed { .. })
                    | Event::SelfTested(_) => memory::give_back(),
                    _ => {}
                }
                control.handle(clock.elapsed(), event)
            }
            Some(Message::Stop) => break End::Stopped,
            None => control.poll(clock.elapsed()),
        };
        for action in actions {
            if matches!(action, Action::PowerOff) {
                break 'run End::PowerOff;
            }
            if matches!(action, Action::Try) {
                break 'run End::Try;
            }
            shells.carry_out(action);
        }
    };
    info!("stopping: unmounting the stick");
    // Replies in flight end first; then nothing holds the trees.
    shells.nfs.stop();
    shells.store.stop();
    tap::end();
    Ok(end)
}

impl Shells {
    /// The interface is there (again): DHCP listens on it.
    fn listen_for_dhcp(&mut self, name: &str, index: u32, inbox: &Inbox) {
        // The former socket first: it holds the port.
        self.dhcp = None;
        match dhcp::Socket::open(name, index, sink(inbox, Event::Dhcp)) {
            Ok(socket) => {
                self.dhcp = Some(socket);
                log_ready(name);
            }
            Err(error) => inbox.send(Event::Net(net::Event::Failed(format!("dhcp: {error}")))),
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Send(reply) => match self.dhcp.as_ref().map(|socket| socket.send(&reply)) {
                Some(Ok(())) => {}
                // The client asks again.
                Some(Err(error)) => warn!("dhcp: {error}"),
                None => warn!("dhcp: no interface to answer on"),
            },
            Action::Probe(address, owner) => self.net.probe(address, Some(owner)),
            Action::Survey => self.net.survey(),
            Action::Lease(wanted) => self.net.lease(wanted),
            Action::Watch(macs) => self.net.watch(macs),
            Action::LookForNeighbours => self.net.look_for_neighbours(),
            Action::Neighbour(mac, address) => self.net.neighbour(mac, address),
            Action::ForgetNeighbour(address) => self.net.forget_neighbour(address),
            Action::Publish(directory) => self.directory.set(directory),
            Action::ReleaseTrees => self.nfs.release_trees(),
            Action::Store(command) => self.store.send(command),
            Action::Update(command) => {
                if let Some(update) = &self.update {
                    update.send(command);
                }
            }
            Action::Answer(ticket, reply) => self.orders.answer(ticket, *reply),
            Action::Report(wanted) => self.report(*wanted),
            Action::SelfTest(plan) => self.self_test(*plan),
            Action::Stage { mac, address, role, stage } => tap::stage(mac, address, role.as_str(), &stage),
            Action::Show(status) => self.panel.show(*status),
            Action::Log(line) => info!("{line}"),
            // The loop ends by it.
            Action::PowerOff | Action::Try => {}
        }
    }
}

/// From here on a Pi is answered: how long that took since the kernel and PID 1 began, where this is the appliance.
fn log_ready(interface: &str) {
    let began = std::env::var(init::BEGAN_VARIABLE).ok().and_then(|began| began.parse().ok());
    let Some(began) = began.map(Duration::from_millis) else { return };
    let now = init::log::now();
    let since = now.saturating_sub(began).as_secs_f32();
    info!("DHCP is answered on {interface}: {since:.2} s after PID 1, which began at {:.2} s", began.as_secs_f32());
}

impl Shells {
    /// Boots the fake Pi, on a thread of its own.
    fn self_test(&self, plan: Plan) {
        let inbox = self.inbox.clone();
        let run = move || {
            inbox.send(Event::SelfTested(Box::new(self_test::run(&plan))));
        };
        if let Err(error) = std::thread::Builder::new().name("self-test".to_owned()).spawn(run) {
            // Control gives it up by itself.
            warn!("no self-test: {error}");
        }
    }

    /// Reads the black box and writes the report's files, on a thread of its own: control must not wait.
    fn report(&self, wanted: Wanted) {
        let (run, save) = (self.run.clone(), self.store.sender());
        let make = move || {
            let crash = wanted.summary.why == Why::Crash;
            let records = if crash { blackbox::ring::crashed(&run) } else { tap::records() };
            let files = blackbox::files(&wanted.summary, &records);
            let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let why = wanted.summary.why.word().to_owned();
            save(store::Command::SaveReport(wanted.ticket, Box::new(store::reports::Report { why, at, files })));
            if crash {
                blackbox::ring::forget_crash(&run);
            }
            // Some megabytes, which nobody needs until the next one.
            drop(records);
            memory::give_back();
        };
        if let Err(error) = std::thread::Builder::new().name("report".to_owned()).spawn(make) {
            warn!("no report: {error}");
        }
    }
}

/// How much of this process is in memory, with how many threads; told whenever a client is up. From smaps_rollup, which
/// walks the pages: the figures of /proc/self/status are off by up to 64 pages a thread (proc(5), VmRSS).
fn log_memory() {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let of = |key| rollup.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    info!("resident memory {}, of it anonymous {}; {threads} threads", of("Rss:"), of("Anonymous:"));
}

/// A shell's way to report, taken apart by `wrap`.
fn sink<E: 'static>(inbox: &Inbox, wrap: fn(E) -> Event) -> Arc<dyn Fn(E) + Send + Sync> {
    let inbox = inbox.clone();
    Arc::new(move |event| inbox.send(wrap(event)))
}

/// The configuration file; an absent one is no problem, an unreadable one is told.
fn read_config(options: &Options) -> (Config, Vec<config::Problem>) {
    let whole_file = |message| vec![config::Problem { line: 0, key: String::new(), message }];
    let Some(path) = &options.config else { return Default::default() };
    match std::fs::read(path) {
        Ok(bytes) => config::parse(&bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            (Config::default(), options.boot_problem.clone().map(whole_file).unwrap_or_default())
        }
        Err(error) => {
            let message = format!("{}: {error}", path.display());
            (Config::default(), whole_file(message))
        }
    }
}
