//! The thread that owns every mount: looks at what is plugged in, opens the
//! store, makes clients, starts imports and operations.
//!
//! I/O. One message at a time, so nothing here is locked. A look is by level,
//! not by edge: what is there is compared with what was known.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::devices::{self, Disk, Reading, Wanted};
use super::identify::{Content, STORE_LABEL};
use super::import::{self, ImportError, Imported, Job, Method};
use super::lock::{self, Lock};
use super::manifest::{ClientPaths, ImageManifest, SourceFile, TRASH};
use super::mounts::MountError;
use super::operate::perform::{self, OperateError};
use super::operate::site::Site;
use super::operate::{Operation, Outcome, recover, trash};
use super::personalise::Tree;
use super::place::Place;
use super::prepare::{self, Spot};
use super::root::{Roots, Surroundings};
use super::shop::{Look, Rule};
use super::sources::{self, Found};
use super::states::{Books, Record};
use super::words::{no_room, open_action, prepare_action, refusal_action, root_action, unusable};
use super::{Command, Event, ImageInfo, OpenClient, Options, Sink, chain, library, mounts};
use crate::client::{Client, ImageId, Mode, Role};
use crate::status::NewPlace;

/// What the worker is told.
pub enum Message {
    Command(Command),
    /// Disks may have come or gone.
    Look,
    ImportEnded {
        source: SourceFile,
        result: Result<Imported, ImportError>,
    },
    OperationEnded {
        ticket: u64,
        result: Result<Outcome, OperateError>,
    },
    Stop,
}

/// How often watched clients are looked at; the free space every fifth time.
const TICK: Duration = Duration::from_secs(1);
const TICKS_PER_SPACE: u32 = 5;
/// Free space is told when it changed by this much.
const SPACE_STEP_BYTES: u64 = 16 << 20;
/// How long `Stop` waits for the import and for the last sync.
const IMPORT_END_LIMIT: Duration = Duration::from_secs(8);
const SYNC_LIMIT: Duration = Duration::from_secs(12);
/// Operations that wait for the one before them; more are refused.
const MAX_WAITING: usize = 32;
/// Most client manifests' `up` texts; a boot id has 37 bytes.
const MAX_UP_BYTES: usize = 200;

pub struct Worker {
    options: Options,
    sink: Sink,
    messages: Sender<Message>,
    stop: Arc<AtomicBool>,
    sticks: BTreeMap<String, Stick>,
    store: Option<Store>,
    importing: Option<Importing>,
    /// At most one short and one long one.
    operating: Vec<Operating>,
    waiting: VecDeque<(u64, Operation)>,
    emptying: Option<JoinHandle<()>>,
    /// A store waits to be opened until an operation on the former has ended.
    postponed: bool,
    /// Files that failed, until their stick is plugged in again.
    refused: HashSet<SourceFile>,
    /// Folder mode: files as the last look saw them, since one that still
    /// grows is being copied.
    seen: Vec<SourceFile>,
    /// What was last said while no store is open, so that it is said once.
    said: Option<Event>,
    /// The stick that `Prepare` would write to.
    candidate: Option<String>,
    ticks: u32,
}

/// A stick that is plugged in.
struct Stick {
    /// `Err`: it could not be read, in words.
    reading: Result<Reading, String>,
    disk: Disk,
    /// Its partitions that are mounted as sources.
    sources: Vec<PathBuf>,
    /// Why its store could not be opened.
    unusable: Option<Event>,
}

/// The open store.
struct Store {
    name: String,
    /// The stick's disk; `None` for a folder.
    disk: Option<String>,
    folder: PathBuf,
    roots: Roots,
    images: Vec<(ImageId, ImageManifest)>,
    clients: Vec<Record>,
    /// Those whose trees are mounted.
    open: BTreeMap<Role, OpenClient>,
    taken: Vec<Role>,
    _locks: [Option<Lock>; 2],
    /// Ends what works on it in the background.
    stop: Arc<AtomicBool>,
    /// Watched clients with the text last seen.
    watched: BTreeMap<Role, Option<String>>,
    told_free_bytes: u64,
    told_read_only: bool,
}

struct Importing {
    source: SourceFile,
    /// The file's place; its stick may be pulled.
    path: PathBuf,
    stop: Arc<AtomicBool>,
}

/// An operation that runs on a thread of its own.
struct Operating {
    ticket: u64,
    operation: Operation,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Worker {
    pub fn new(options: Options, sink: Sink, messages: Sender<Message>, stop: Arc<AtomicBool>) -> Self {
        Self {
            options,
            sink,
            messages,
            stop,
            sticks: BTreeMap::new(),
            store: None,
            importing: None,
            operating: Vec::new(),
            waiting: VecDeque::new(),
            emptying: None,
            postponed: false,
            refused: HashSet::new(),
            seen: Vec::new(),
            said: None,
            candidate: None,
            ticks: 0,
        }
    }

    pub fn run(mut self, queue: &Receiver<Message>) {
        self.look();
        let mut next_tick = Instant::now() + TICK;
        loop {
            match queue.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(Message::Command(command)) => self.obey(command),
                Ok(Message::Look) => self.look(),
                Ok(Message::ImportEnded { source, result }) => self.import_ended(source, result),
                Ok(Message::OperationEnded { ticket, result }) => self.operation_ended(ticket, result),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.tick();
            }
        }
        self.shut_down(queue);
    }

    fn tell(&self, event: Event) {
        (self.sink)(event);
    }

    fn problem(&self, message: String, action: &str) {
        self.tell(Event::Problem { message, action: action.to_owned() });
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Prepare => self.prepare(),
            Command::CreateClient(client) => self.create(&client),
            Command::SaveClient(client) => self.save(&client),
            Command::Operate(ticket, operation) => self.operate(ticket, *operation),
            Command::RenewClient(role) => self.renew(&role),
            Command::WatchUp(role, true) => {
                if let Some(store) = &mut self.store {
                    let live = store.clients.iter().find(|record| record.client.role == role);
                    let now = live.and_then(|record| up_text(&store.folder, record));
                    store.watched.insert(role, now);
                }
            }
            Command::WatchUp(role, false) => {
                if let Some(store) = &mut self.store {
                    store.watched.remove(&role);
                }
            }
        }
    }

    // Sticks.

    /// Compares what is plugged in with what was, and acts on it.
    fn look(&mut self) {
        if self.options.folder.is_some() {
            self.open_folder();
            self.schedule_import();
            return;
        }
        let wanted = Wanted { ignore: self.options.ignore_devices.clone(), extra: self.options.extra_devices.clone() };
        let present = devices::list(&wanted);
        let gone = |stick: &Stick| !present.iter().any(|disk| is_same(disk, &stick.disk));
        let removed: Vec<String> =
            self.sticks.iter().filter(|(_, stick)| gone(stick)).map(|(name, _)| name.clone()).collect();
        for name in removed {
            self.removed(&name);
        }
        for disk in present {
            match self.sticks.get(&disk.name) {
                Some(known) if known.disk == disk => {}
                // Its table changed while it is in use: what is mounted stays.
                Some(_) if self.store.as_ref().is_some_and(|store| store.disk.as_ref() == Some(&disk.name)) => {}
                Some(_) => {
                    self.removed(&disk.name);
                    self.added(disk);
                }
                None => self.added(disk),
            }
        }
        self.open_store();
        self.open_in_memory();
        self.mount_sources();
        self.say_what_is_missing();
        self.schedule_import();
    }

    fn added(&mut self, disk: Disk) {
        tracing::info!(disk = disk.name, bytes = disk.bytes(), "stick plugged in");
        if self.store.is_none() {
            self.said = None;
            self.tell(Event::StickReading { name: disk.title.clone() });
        }
        let reading = devices::read(disk.clone(), self.rule());
        let reading = reading.map_err(|error| format!("{} cannot be read: {error}", disk.title));
        // A store that cannot be used stays what it is: no second one is made beside it.
        let broken = reading.as_ref().ok().and_then(|reading| {
            reading.shops.iter().find_map(|(_, look)| match look {
                Look::Broken(refusal) => Some(unusable(format!("{}: {refusal}", disk.title), refusal_action(refusal))),
                _ => None,
            })
        });
        self.refused.clear();
        self.sticks.insert(disk.name.clone(), Stick { reading, disk, sources: Vec::new(), unusable: broken });
    }

    /// How large a new store is to be.
    fn rule(&self) -> Rule {
        Rule { minimum_bytes: self.options.minimum_store_bytes, wanted_bytes: self.options.store_bytes }
    }

    fn removed(&mut self, name: &str) {
        let Some(stick) = self.sticks.remove(name) else { return };
        tracing::info!(disk = name, "stick removed");
        if let Some(importing) = &self.importing
            && stick.sources.iter().any(|source| importing.path.starts_with(source))
        {
            importing.stop.store(true, Ordering::Relaxed);
        }
        for point in &stick.sources {
            let _ = mounts::detach(point);
        }
        if self.candidate.as_deref() == Some(name) {
            self.candidate = None;
        }
        if let Some(store) = self.store.take_if(|store| store.disk.as_deref() == Some(name)) {
            if let Some(importing) = &self.importing {
                importing.stop.store(true, Ordering::Relaxed);
            }
            self.end_operations(&store.stop);
            self.take_down_store();
            self.said = None;
            self.tell(Event::Closed { name: store.name });
        }
    }

    /// Everything of the store, at once: the stick is not there any more.
    fn take_down_store(&self) {
        let run = &self.options.run;
        for folder in ["operate", "check", "clients", "images", "store", "memory"] {
            if let Err(error) = mounts::unmount_below(&run.join(folder), true) {
                tracing::warn!(error = chain(&error), "unmounting");
            }
        }
    }

    /// Opens the first store that there is; tells of others once.
    fn open_store(&mut self) {
        if self.store.is_some() {
            return;
        }
        let stores: Vec<(String, Place)> = self
            .sticks
            .values()
            .filter(|stick| stick.unusable.is_none())
            .filter_map(|stick| Some((stick.disk.name.clone(), store_place(stick.reading.as_ref().ok()?)?)))
            .collect();
        for (index, (name, place)) in stores.iter().enumerate() {
            let title = self.sticks.get(name).map_or(name.clone(), |stick| stick.disk.title.clone());
            let write_protected = self.sticks.get(name).is_some_and(|stick| stick.disk.read_only);
            let opened = match write_protected {
                true => Err((format!("{title} is write-protected"), "Slide its lock, or use another stick")),
                false => self.open(place, &title, Some(name.clone())),
            };
            match opened {
                Ok(()) => {
                    for (other, _) in &stores[index + 1..] {
                        self.problem(
                            format!("{other} has a store too; {title} is used"),
                            "Pull the one that is not wanted",
                        );
                    }
                    return;
                }
                Err((message, action)) => {
                    let event = Event::StickUnusable { message, action: action.to_owned() };
                    if let Some(stick) = self.sticks.get_mut(name) {
                        stick.unusable = Some(event);
                    }
                }
            }
        }
    }

    /// Where a stick with files must not be written: clients that live until
    /// the power goes or the stick does.
    fn open_in_memory(&mut self) {
        if self.store.is_some() || self.sticks.values().any(|stick| stick.unusable.is_some()) {
            return;
        }
        let kept = |stick: &&Stick| !self.options.make_store || stick.disk.read_only;
        let has_files = |stick: &&Stick| {
            stick.reading.as_ref().is_ok_and(|reading| parts(reading).iter().any(|(_, content)| holds_files(content)))
        };
        let Some(stick) = self.sticks.values().filter(kept).find(has_files) else { return };
        let (title, name) = (stick.disk.title.clone(), stick.disk.name.clone());
        let bytes = self.options.memory_bytes.unwrap_or_else(half_of_memory);
        let place = Place::Memory { folder: self.options.run.join("memory"), bytes };
        match self.open(&place, &format!("memory, {title}"), Some(name.clone())) {
            Ok(()) => self.problem(
                format!("Nothing is kept: {title} is not written, so clients live in {} MiB of memory", bytes >> 20),
                "To keep them, use a stick that may be written",
            ),
            Err((message, action)) => {
                self.take_down_store();
                if let Some(stick) = self.sticks.get_mut(&name) {
                    stick.unusable = Some(unusable(message, action));
                }
            }
        }
    }

    fn open_folder(&mut self) {
        let Some(folder) = self.options.folder.clone().filter(|_| self.store.is_none()) else { return };
        let name = folder.display().to_string();
        if let Err((message, action)) = self.open(&Place::Folder(folder), &name, None) {
            self.say(Event::StickUnusable { message, action: action.to_owned() });
        }
    }

    /// Opens a store with all its clients; the error is a message and an action.
    fn open(&mut self, place: &Place, name: &str, disk: Option<String>) -> Result<(), (String, &'static str)> {
        if self.is_still_operating() {
            return Err(("the last work on the former stick is being ended".into(), "Wait a moment"));
        }
        let folder = self.options.run.join("store");
        let started = Instant::now();
        let locked = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::WouldBlock => {
                (format!("{name} is being worked on by another rootstock"), "Wait until it has ended")
            }
            _ => (format!("{name} cannot be locked: {error}"), "Check the stick on a computer"),
        };
        // Not alone: its files are looked at, too.
        let held = match place {
            Place::Run { partition, .. } => Some(lock::take(partition).map_err(locked)?),
            Place::Partition(_) | Place::Memory { .. } | Place::Folder(_) => None,
        };
        place.open(&folder, &self.stop).map_err(|error| (chain(&error), open_action(&error)))?;
        let lock = lock::take(&folder).map_err(|error| {
            self.take_down_store();
            locked(error)
        })?;
        let mut library = library::open(&folder).map_err(|error| {
            self.take_down_store();
            (chain(&error), "Check the stick on a computer")
        })?;
        let (appliance, dns) = (self.options.appliance, self.options.dns.clone());
        let told = library::change_choice(&folder, |choice| (choice.appliance, choice.dns) = (Some(appliance), dns));
        if let Err(error) = told {
            library.broken.push(format!("store.toml: {error}"));
        }
        let site = self.site(&folder, "short");
        let mut roots = Roots::new(&folder, &self.options.run);
        let mut broken = library.broken;
        let mut open = BTreeMap::new();
        for record in &mut library.clients {
            let role = record.client.role.clone();
            match mount(&site, &mut roots, record, &self.stop) {
                Ok(client) => drop(open.insert(role, client)),
                Err(error) => broken.push(format!("clients/{role}: {error}")),
            }
        }
        let free_bytes = free_bytes(&folder);
        let images = library.images.iter().map(|(id, manifest)| info(id, manifest)).collect();
        tracing::info!(name, clients = open.len(), ms = started.elapsed().as_millis() as u64, "store open");
        self.store = Some(Store {
            name: name.to_owned(),
            disk,
            folder,
            roots,
            images: library.images,
            clients: library.clients,
            open: open.clone(),
            taken: library.taken.clone(),
            _locks: [Some(lock), held],
            stop: Arc::default(),
            watched: BTreeMap::new(),
            told_free_bytes: free_bytes,
            told_read_only: false,
        });
        self.said = None;
        self.candidate = None;
        self.tell(Event::Opened {
            name: name.to_owned(),
            free_bytes,
            images,
            clients: open.into_values().collect(),
            taken_roles: library.taken,
            handle_key: library.handle_key,
        });
        for message in broken {
            self.problem(message, "Correct the file on a computer");
        }
        Ok(())
    }

    /// Mounts what may hold images, and takes its profile.
    fn mount_sources(&mut self) {
        let mut problems = Vec::new();
        for stick in self.sticks.values_mut() {
            let Ok(reading) = &stick.reading else { continue };
            for (name, content) in parts(reading) {
                let point = self.options.run.join("sources").join(&name);
                if stick.sources.contains(&point) || is_store(content) {
                    continue;
                }
                match sources::mount(&Path::new("/dev").join(&name), content, &point) {
                    Some(Ok(())) => {
                        stick.sources.push(point);
                    }
                    Some(Err(error)) => {
                        problems.push(match &error {
                            MountError::Mount { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => {
                                format!("{name} cannot be read: this system has no driver for its file system")
                            }
                            error => format!("{name} cannot be read: {}", chain(error)),
                        });
                        // Said once, not at every look.
                        stick.sources.push(point);
                    }
                    None => {}
                }
            }
        }
        for message in problems {
            self.problem(message, "Check the stick on a computer");
        }
        self.take_profiles();
    }

    fn take_profiles(&self) {
        let Some(store) = &self.store else { return };
        for source in self.sticks.values().flat_map(|stick| &stick.sources) {
            if let Err(error) = sources::copy_profile(source, &store.folder) {
                self.problem(format!("The profile could not be taken: {error}"), "Correct it on the stick");
            }
        }
    }

    /// While there is no store: says once what a person can do.
    fn say_what_is_missing(&mut self) {
        if self.store.is_some() {
            return;
        }
        let (rule, minimum) = (self.rule(), self.options.minimum_store_bytes);
        let mut best: Option<(u64, NewPlace, &Stick)> = None;
        let mut reason = None;
        for stick in self.sticks.values() {
            match &stick.reading {
                _ if stick.unusable.is_some() => reason = stick.unusable.clone(),
                Err(message) => reason = Some(unusable(message.clone(), "Try another stick")),
                Ok(_) if !self.options.make_store => {
                    let message = format!("{} has no store, and store.write is false", stick.disk.title);
                    reason = Some(unusable(message, "Set store.write to true, or use a stick with a store"));
                }
                Ok(reading) => match prepare::spot(reading, rule) {
                    Ok(_) if stick.disk.read_only => {
                        reason =
                            Some(unusable(format!("{} is write-protected", stick.disk.title), "Use another stick"));
                    }
                    Ok(spot) => {
                        let (bytes, place) = match spot {
                            Spot::Gap(entry) => {
                                (entry.extent.sectors * reading.disk.geometry.sector_bytes, NewPlace::Partition)
                            }
                            Spot::File(_, bytes) => (bytes, NewPlace::File),
                        };
                        if best.is_none_or(|(most, ..)| bytes > most) {
                            best = Some((bytes, place, stick));
                        }
                    }
                    Err(error) => reason = Some(no_room(&stick.disk.title, &error, minimum)),
                },
            }
        }
        // A store that could not be opened is not passed over for a new one:
        // a second store would look as if all clients were lost.
        let damaged = self.sticks.values().any(|stick| stick.unusable.is_some());
        let (event, candidate) = match best.filter(|_| !damaged) {
            Some((free_bytes, place, stick)) => {
                let name = stick.disk.title.clone();
                (Event::NeedsConfirmation { name, free_bytes, place }, Some(stick.disk.name.clone()))
            }
            None => (reason.unwrap_or(Event::StickAbsent), None),
        };
        self.candidate = candidate;
        self.say(event);
    }

    fn say(&mut self, event: Event) {
        if self.said.as_ref() != Some(&event) {
            self.said = Some(event.clone());
            self.tell(event);
        }
    }

    fn prepare(&mut self) {
        let Some(stick) = self.candidate.take().and_then(|name| self.sticks.get(&name)) else {
            return self.problem("There is no stick to prepare".into(), "Plug in a stick with free space");
        };
        let Ok(reading) = &stick.reading else { return };
        let (name, title) = (stick.disk.name.clone(), stick.disk.title.clone());
        self.tell(Event::Preparing { name: title.clone() });
        tracing::info!(disk = name, "making a store");
        // Its files are looked at through the kernel's driver, which must not see them change.
        for point in &stick.sources {
            let _ = mounts::unmount(point);
        }
        let result = prepare::prepare(reading, self.rule(), &self.stop);
        self.said = None;
        // Read anew in both cases: the truth is on the stick.
        self.removed(&name);
        self.look();
        if let Err(error) = result {
            let message = format!("No store could be made on {title}: {}", chain(&error));
            self.problem(message, prepare_action(&error));
        }
    }

    // Clients.

    fn surroundings(&self) -> Surroundings {
        let (appliance, dns) = (self.options.appliance, self.options.dns.clone());
        Surroundings { appliance, dns, stop: self.stop.clone() }
    }

    fn create(&mut self, client: &Client) {
        let started = Instant::now();
        let around = self.surroundings();
        let Some(store) = &mut self.store else {
            let message = "There is no stick with a store".to_owned();
            let action = "Plug in the stick".to_owned();
            return self.tell(Event::ClientFailed { role: client.role.clone(), message, action });
        };
        match store.roots.create(client, &around) {
            Ok((open, warnings)) => {
                tracing::info!(role = %client.role, ms = started.elapsed().as_millis() as u64, "client made");
                store.clients.push(Record::enrolled(client.clone()));
                store.open.insert(client.role.clone(), open.clone());
                store.taken.push(client.role.clone());
                self.tell(Event::ClientReady(open));
                for warning in warnings {
                    self.problem(format!("{}: {warning}", client.role), "The client may need a hand");
                }
            }
            Err(error) => {
                let (message, action) = (chain(&error), root_action(&error).to_owned());
                self.tell(Event::ClientFailed { role: client.role.clone(), message, action });
            }
        }
    }

    fn renew(&mut self, role: &Role) {
        let started = Instant::now();
        let around = self.surroundings();
        // What an operation works on must stay as it is; control asks again at its end.
        if self.operating.iter().any(|running| running.operation.stops() == Some(role)) {
            return;
        }
        // A store that was closed is opened again, and control asks again.
        let Some(store) = &mut self.store else { return };
        let Some(record) = store.clients.iter().find(|record| record.client.role == *role) else { return };
        match store.roots.renew(record, &around) {
            Ok((open, warnings)) => {
                let (mode, ms) = (record.client.mode, started.elapsed().as_millis() as u64);
                tracing::info!(%role, ?mode, ms, "client renewed");
                store.open.insert(role.clone(), open.clone());
                self.tell(Event::ClientReady(open));
                self.warn(role, warnings);
            }
            Err(error) => {
                let (message, action) = (chain(&error), root_action(&error).to_owned());
                self.tell(Event::ClientFailed { role: role.clone(), message, action });
            }
        }
    }

    /// What could not be given to a client beside its root.
    fn warn(&self, role: &Role, warnings: Vec<String>) {
        for warning in warnings {
            self.problem(format!("{role}: {warning}"), "Correct its client.toml, or make room");
        }
    }

    fn save(&mut self, client: &Client) {
        let busy = self.is_operated_on(&client.role);
        let Some(store) = &mut self.store else { return };
        if busy {
            // What it learned is learned again; what is being written must not be undone.
            return;
        }
        let result = match store.clients.iter_mut().find(|known| known.client.role == client.role) {
            Some(known) => {
                known.client = client.clone();
                if let Some(open) = store.open.get_mut(&client.role) {
                    open.client = client.clone();
                }
                store.roots.save(client, &known.books).map_err(|error| chain(&error))
            }
            None => Err("there is no such client".to_owned()),
        };
        if let Err(message) = result {
            let action = "Check the stick".to_owned();
            self.tell(Event::ClientFailed { role: client.role.clone(), message, action });
        }
    }

    // Operations.

    fn site(&self, store: &Path, slot: &'static str) -> Site {
        Site { store: store.to_owned(), run: self.options.run.clone(), slot, around: self.surroundings() }
    }

    fn is_operated_on(&self, role: &Role) -> bool {
        self.operating.iter().any(|running| running.operation.client() == Some(role))
    }

    fn is_still_operating(&mut self) -> bool {
        // Those of a stick that was pulled: their ends are told, or dropped, later.
        self.postponed = self.operating.iter().any(|running| !running.thread.is_finished());
        self.postponed
    }

    /// Everything that works on a store in the background ends soon.
    fn end_operations(&self, stop: &AtomicBool) {
        stop.store(true, Ordering::Relaxed);
        for running in &self.operating {
            running.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Runs an operation, or lets it wait for the one before.
    fn operate(&mut self, ticket: u64, operation: Operation) {
        let refused = |message: &str| Event::Operated { ticket, result: Err(message.to_owned()) };
        let Some(store) = &self.store else { return self.tell(refused("there is no stick with a store")) };
        if operation.client().is_some_and(|role| {
            let long = |running: &Operating| running.operation.is_long() && running.operation.client() == Some(role);
            self.operating.iter().any(long)
        }) {
            self.tell(refused("an image is being made of that client; try again when it is done"));
            return self.tell_changed();
        }
        if self.operating.iter().any(|running| running.operation.is_long() == operation.is_long()) {
            if self.waiting.len() >= MAX_WAITING {
                self.tell(refused("too much is asked at once; try again later"));
                return self.tell_changed();
            }
            return self.waiting.push_back((ticket, operation));
        }
        let site = self.site(&store.folder, if operation.is_long() { "long" } else { "short" });
        let (stop, messages) = (Arc::new(AtomicBool::new(false)), self.messages.clone());
        let (asked, stopped, started) = (operation.clone(), stop.clone(), Instant::now());
        let thread = std::thread::Builder::new().name("operation".into()).spawn(move || {
            let result = perform::perform(&site, &asked, &stopped, None);
            let ms = started.elapsed().as_millis() as u64;
            tracing::info!(?asked, ok = result.is_ok(), ms, "operation ended");
            let _ = messages.send(Message::OperationEnded { ticket, result });
        });
        match thread {
            Ok(thread) => self.operating.push(Operating { ticket, operation, stop, thread }),
            Err(error) => self.tell(refused(&format!("no thread: {error}"))),
        }
    }

    fn operation_ended(&mut self, ticket: u64, result: Result<Outcome, OperateError>) {
        let Some(at) = self.operating.iter().position(|running| running.ticket == ticket) else { return };
        let Operating { operation, thread, .. } = self.operating.swap_remove(at);
        // It has sent its last message.
        let _ = thread.join();
        let changed = !operation.looks() && self.store.is_some();
        if changed {
            self.refresh(&operation);
        }
        let result = result.map(Box::new).map_err(|error| chain(&error));
        self.tell(Event::Operated { ticket, result });
        if changed {
            self.tell_changed();
        }
        let waiting = std::mem::take(&mut self.waiting);
        for (ticket, operation) in waiting {
            self.operate(ticket, operation);
        }
    }

    /// Reads anew what an operation may have changed, and mounts its client.
    fn refresh(&mut self, operation: &Operation) {
        let Some(store) = &self.store else { return };
        let site = self.site(&store.folder, "short");
        let read = library::read(&store.folder);
        let Some(store) = &mut self.store else { return };
        let mut library = match read {
            Ok(library) => library,
            Err(error) => return self.problem(chain(&error), "Check the stick on a computer"),
        };
        let is_mounted =
            |open: &OpenClient| [&open.root, &open.boot].iter().all(|point| mounts::is_mounted(point).unwrap_or(false));
        let (mut broken, mut warned) = (Vec::new(), Vec::new());
        let before = std::mem::take(&mut store.open);
        // Of another operation that runs: mounted when that has ended.
        let busy: Vec<&Role> = self.operating.iter().filter_map(|running| running.operation.stops()).collect();
        for record in &mut library.clients {
            let role = record.client.role.clone();
            let kept = |open: &&OpenClient| is_mounted(open) || busy.contains(&&role);
            let open = match before.get(&role).filter(kept) {
                Some(open) => Ok(OpenClient { client: record.client.clone(), ..open.clone() }),
                // One that could not be mounted before is not tried again but by its own operation.
                None if before.contains_key(&role) || concerns(operation, &role) => {
                    mount(&site, &mut store.roots, record, &self.stop).and_then(|open| {
                        // Its run has ended with the operation, also where that was forced: what
                        // it still writes must not stay.
                        if record.client.mode != Mode::Ephemeral || operation.stops().is_none() {
                            return Ok(open);
                        }
                        let renewed = store.roots.renew(record, &site.around);
                        let (open, warnings) = renewed.map_err(|error| chain(&error))?;
                        warned.push((role.clone(), warnings));
                        Ok(open)
                    })
                }
                None => continue,
            };
            match open {
                Ok(open) => drop(store.open.insert(role, open)),
                Err(error) => broken.push(format!("clients/{role}: {error}")),
            }
        }
        store.images = library.images;
        store.clients = library.clients;
        store.taken = library.taken;
        for message in broken {
            self.problem(message, "Correct the file on a computer");
        }
        for (role, warnings) in warned {
            self.warn(&role, warnings);
        }
    }

    fn tell_changed(&self) {
        let Some(store) = &self.store else { return };
        self.tell(Event::Changed {
            images: store.images.iter().map(|(id, manifest)| info(id, manifest)).collect(),
            clients: store.open.values().cloned().collect(),
            taken_roles: store.taken.clone(),
        });
    }

    /// Deletes what lies in the store's trash, behind everybody's back.
    fn empty_trash(&mut self) {
        if self.emptying.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let Some(store) = &self.store else { return };
        let trash = store.folder.join(TRASH);
        if std::fs::read_dir(&trash).is_ok_and(|mut entries| entries.next().is_none()) {
            return;
        }
        let (folder, stop) = (store.folder.clone(), store.stop.clone());
        let thread = std::thread::Builder::new().name("trash".into()).spawn(move || {
            if let Err(error) = trash::empty(&folder, &stop) {
                tracing::warn!(%error, "the trash could not be emptied");
            }
        });
        self.emptying = thread.ok();
    }

    fn tick(&mut self) {
        let mut events = Vec::new();
        if let Some(store) = &mut self.store {
            for (role, seen) in &mut store.watched {
                let live = store.clients.iter().find(|record| record.client.role == *role);
                let now = live.and_then(|record| up_text(&store.folder, record));
                if now != *seen {
                    *seen = now;
                    if seen.is_some() {
                        events.push(Event::Up { role: role.clone() });
                    }
                }
            }
            self.ticks = self.ticks.wrapping_add(1);
            if self.ticks.is_multiple_of(TICKS_PER_SPACE) {
                let free_bytes = free_bytes(&store.folder);
                if free_bytes.abs_diff(store.told_free_bytes) >= SPACE_STEP_BYTES {
                    store.told_free_bytes = free_bytes;
                    events.push(Event::FreeSpace { free_bytes });
                }
                // ext4 does that to itself after a write error.
                if is_read_only(&store.folder) && !store.told_read_only {
                    store.told_read_only = true;
                    let message = format!("{} does not take writes any more", store.name);
                    events.push(Event::Problem { message, action: "Check the stick on a computer".into() });
                }
            }
        }
        for event in events {
            self.tell(event);
        }
        self.empty_trash();
        if self.options.folder.is_some() || self.postponed {
            self.look();
        }
    }

    // Images.

    /// Starts the next import, if one is to be done and none runs.
    fn schedule_import(&mut self) {
        let Some(store) = self.store.as_ref().filter(|_| self.importing.is_none()) else { return };
        let folders = self.sticks.values().flat_map(|stick| &stick.sources).chain([&store.folder]);
        // Sticks are mounted read-only: what lies there is whole.
        let settled = |found: &Found| self.options.folder.is_none() || self.seen.contains(&found.source);
        let is_new = |found: &&Found| {
            let known = store.images.iter().any(|(_, manifest)| manifest.source.contains(&found.source));
            !known && !self.refused.contains(&found.source) && settled(found)
        };
        let all: Vec<Found> = folders.filter_map(|folder| sources::images(folder).ok()).flatten().collect();
        let next = all.iter().find(is_new).cloned();
        self.seen = all.into_iter().map(|found| found.source).collect();
        let Some(Found { path, source, packing }) = next else { return };
        let job = Job {
            path: path.clone(),
            source: source.clone(),
            packing,
            store: store.folder.clone(),
            check_point: self.options.run.join("check"),
            method: if self.options.plain_writes { Method::Plain } else { Method::Uring },
        };
        tracing::info!(file = source.file, bytes = source.bytes, "import begins");
        let stop = Arc::new(AtomicBool::new(false));
        let (messages, sink, stopped) = (self.messages.clone(), self.sink.clone(), stop.clone());
        sink(Event::ImportProgress { file: source.file.clone(), per_mille: 0, left: None });
        let started = Instant::now();
        let thread = std::thread::Builder::new().name("import".into()).spawn(move || {
            let file = job.source.file.clone();
            let result = import::import(&job, &stopped, &mut |now| {
                sink(Event::ImportProgress { file: file.clone(), per_mille: now.per_mille, left: now.left });
            });
            tracing::info!(file, ok = result.is_ok(), ms = started.elapsed().as_millis() as u64, "import ended");
            let _ = messages.send(Message::ImportEnded { source: job.source, result });
        });
        match thread {
            Ok(_) => self.importing = Some(Importing { source, path, stop }),
            Err(error) => self.problem(format!("No import: {error}"), "Restart the appliance"),
        }
    }

    fn import_ended(&mut self, source: SourceFile, result: Result<Imported, ImportError>) {
        let stopped = self.importing.take().is_some_and(|importing| importing.stop.load(Ordering::Relaxed));
        match result {
            Ok(Imported { id, manifest, known }) => {
                if known {
                    self.tell(Event::AlreadyThere { file: source.file.clone(), image: id.clone() });
                }
                if let Some(store) = self.store.as_mut().filter(|_| !stopped) {
                    store.images.retain(|(known, _)| *known != id);
                    store.images.push((id.clone(), manifest.clone()));
                    let chosen = library::read_choice(&store.folder).unwrap_or_default().default_image;
                    library::sort_images(&mut store.images, chosen.as_ref());
                    self.tell(Event::Imported { image: info(&id, &manifest) });
                    // A person's choice goes before the newest.
                    if chosen.is_some() {
                        self.tell_changed();
                    }
                }
            }
            Err(error) => {
                // The stick was pulled: whatever failed, failed by that.
                let error = if stopped { ImportError::Stopped } else { error };
                let (message, action) = (chain(&error), error.action().to_owned());
                self.tell(Event::ImportFailed { file: source.file.clone(), message, action });
                if !stopped {
                    self.refused.insert(source);
                }
            }
        }
        self.schedule_import();
    }

    // The end.

    fn shut_down(&mut self, queue: &Receiver<Message>) {
        if let Some(importing) = self.importing.take() {
            importing.stop.store(true, Ordering::Relaxed);
            let deadline = Instant::now() + IMPORT_END_LIMIT;
            while let Ok(message) = queue.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                if matches!(message, Message::ImportEnded { source, .. } if source == importing.source) {
                    break;
                }
            }
        }
        if let Some(store) = self.store.take() {
            self.end_operations(&store.stop);
            let deadline = Instant::now() + IMPORT_END_LIMIT;
            let threads = self.operating.drain(..).map(|running| running.thread).chain(self.emptying.take());
            for thread in threads {
                while !thread.is_finished() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            sync_bounded(&store.folder);
        }
        if let Err(error) = mounts::unmount_below(&self.options.run, false) {
            tracing::warn!(error = chain(&error), "unmounting");
        }
    }
}

/// Mounts a client for serving, after what a cut left of it is finished.
fn mount(site: &Site, roots: &mut Roots, record: &mut Record, stop: &AtomicBool) -> Result<OpenClient, String> {
    if !recover::pending(record).is_empty() {
        perform::finish(site, &record.client.role, stop).map_err(|error| chain(&error))?;
        record.books = Books { adapt: false, former: None, ..record.books.clone() };
    }
    roots.mount(record).map_err(|error| chain(&error))
}

/// Whether an operation was about this client, by its new name too.
fn concerns(operation: &Operation, role: &Role) -> bool {
    let renamed = matches!(operation, Operation::Rename { to, .. } if to == role);
    renamed || operation.client() == Some(role)
}

/// Syncs the store on a thread of its own: a stick that hangs must not keep
/// the appliance from going down.
fn sync_bounded(folder: &Path) {
    let Ok(open) = std::fs::File::open(folder) else { return };
    let (done_to, done) = channel();
    std::thread::spawn(move || {
        let _ = rustix::fs::syncfs(&open);
        let _ = done_to.send(());
    });
    if done.recv_timeout(SYNC_LIMIT).is_err() {
        tracing::warn!("the stick took too long to take its last writes");
    }
}

/// The same stick, not only the same name: pulled and put back between two
/// looks it has another sequence number.
fn is_same(now: &Disk, known: &Disk) -> bool {
    now.name == known.name && now.sequence == known.sequence && now.geometry == known.geometry
}

/// Everything on a stick that could be mounted: partitions, or the whole disk.
fn parts(reading: &Reading) -> Vec<(String, &Content)> {
    if reading.table.is_err() {
        // Partitions that overlap or lie beyond the end are not trusted.
        return Vec::new();
    }
    let partitions = reading.disk.partitions.iter().map(|partition| partition.name.clone()).zip(&reading.contents);
    let whole = reading.disk.partitions.is_empty().then(|| (reading.disk.name.clone(), &reading.whole));
    partitions.chain(whole).collect()
}

fn holds_files(content: &Content) -> bool {
    matches!(content, Content::ExFat | Content::Fat | Content::Ext4(_)) && !is_store(content)
}

/// The other half is for the kernel, which keeps there what it reads of images.
fn half_of_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0u64) / 2 * 1024
}

fn is_store(content: &Content) -> bool {
    matches!(content, Content::Ext4(ext4) if ext4.label == STORE_LABEL)
}

pub(super) fn store_place(reading: &Reading) -> Option<Place> {
    let partition = parts(reading).into_iter().find(|(_, content)| is_store(content));
    let partition = partition.map(|(name, _)| Place::Partition(Path::new("/dev").join(name)));
    partition.or_else(|| {
        reading.shops.iter().find_map(|(partition, look)| match look {
            Look::Store(span) => Some(Place::Run { partition: partition.clone(), span: *span }),
            _ => None,
        })
    })
}

fn info(id: &ImageId, manifest: &ImageManifest) -> ImageInfo {
    ImageInfo {
        id: id.clone(),
        name: manifest.name.clone(),
        imported: manifest.imported,
        root_bytes: manifest.root_bytes,
    }
}

/// What clients may still write; 0 when the stick does not answer.
fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |vfs| vfs.f_bavail.saturating_mul(vfs.f_frsize))
}

fn is_read_only(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|vfs| vfs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// The client's own words that its start is complete, from its upper layer:
/// the image's lower copy, if it has one, is of another machine.
fn up_text(store: &Path, record: &Record) -> Option<String> {
    let paths = ClientPaths::of(store, &record.client.role).at(record.books.state);
    let upper = Tree::open(&paths.running().upper()).ok()?;
    let mut text = upper.read("var/lib/rootstock/up")?;
    text.truncate(text.char_indices().nth(MAX_UP_BYTES).map_or(text.len(), |(at, _)| at));
    (!text.trim().is_empty()).then_some(text)
}
