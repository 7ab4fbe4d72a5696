//! The thread that owns every mount: looks at what is plugged in, opens the
//! store, makes clients, starts imports.
//!
//! I/O. One message at a time, so nothing here is locked. A look is by level,
//! not by edge: what is there is compared with what was known.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::devices::{self, Disk, Reading, Wanted};
use super::identify::{Content, STORE_LABEL};
use super::import::{self, ImportError, Imported, Job, Method};
use super::manifest::{ClientPaths, ImageManifest, SourceFile};
use super::mounts::MountError;
use super::personalise::Tree;
use super::place::Place;
use super::prepare::{self, Spot};
use super::root::{Roots, Surroundings};
use super::shop::{Look, Rule};
use super::sources::{self, Found};
use super::words::{no_room, open_action, prepare_action, refusal_action, root_action, unusable};
use super::{Command, Event, ImageInfo, Options, Sink, chain, library, mounts};
use crate::client::{Client, ImageId, Role};
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
    clients: Vec<Client>,
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
            Command::RenewClient(role) => self.renew(&role),
            Command::WatchUp(role, true) => {
                if let Some(store) = &mut self.store {
                    let now = up_text(&store.folder, &role);
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
            self.take_down_store();
            self.said = None;
            self.tell(Event::Closed { name: store.name });
        }
    }

    /// Everything of the store, at once: the stick is not there any more.
    fn take_down_store(&self) {
        let run = &self.options.run;
        for folder in ["check", "clients", "images", "store", "memory"] {
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
        let folder = self.options.run.join("store");
        let started = Instant::now();
        place.open(&folder, &self.stop).map_err(|error| (chain(&error), open_action(&error)))?;
        let library = library::open(&folder).map_err(|error| {
            self.take_down_store();
            (chain(&error), "Check the stick on a computer")
        })?;
        let mut roots = Roots::new(&folder, &self.options.run);
        let mut broken = library.broken;
        let mut open = Vec::new();
        for client in &library.clients {
            match roots.mount(client) {
                Ok(client) => open.push(client),
                Err(error) => broken.push(format!("clients/{}: {}", client.role, chain(&error))),
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
            clients: open.iter().map(|open| open.client.clone()).collect(),
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
            clients: open,
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
                store.clients.push(client.clone());
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
        // A store that was closed is opened again, and control asks again.
        let Some(store) = &mut self.store else { return };
        let Some(client) = store.clients.iter().find(|client| client.role == *role) else { return };
        match store.roots.renew(client, &around) {
            Ok((open, warnings)) => {
                tracing::info!(%role, mode = ?client.mode, ms = started.elapsed().as_millis() as u64, "client renewed");
                self.tell(Event::ClientReady(open));
                for warning in warnings {
                    self.problem(format!("{role}: {warning}"), "Correct its client.toml, or make room");
                }
            }
            Err(error) => {
                let (message, action) = (chain(&error), root_action(&error).to_owned());
                self.tell(Event::ClientFailed { role: role.clone(), message, action });
            }
        }
    }

    fn save(&mut self, client: &Client) {
        let Some(store) = &mut self.store else { return };
        let result = match store.clients.iter_mut().find(|known| known.role == client.role) {
            Some(known) => {
                *known = client.clone();
                store.roots.save(client).map_err(|error| chain(&error))
            }
            None => Err("there is no such client".to_owned()),
        };
        if let Err(message) = result {
            let action = "Check the stick".to_owned();
            self.tell(Event::ClientFailed { role: client.role.clone(), message, action });
        }
    }

    fn tick(&mut self) {
        let mut events = Vec::new();
        if let Some(store) = &mut self.store {
            for (role, seen) in &mut store.watched {
                let now = up_text(&store.folder, role);
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
        if self.options.folder.is_some() {
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
                    self.tell(Event::Imported { image: info(&id, &manifest) });
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
            sync_bounded(&store.folder);
        }
        if let Err(error) = mounts::unmount_below(&self.options.run, false) {
            tracing::warn!(error = chain(&error), "unmounting");
        }
    }
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

fn store_place(reading: &Reading) -> Option<Place> {
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
fn up_text(store: &Path, role: &Role) -> Option<String> {
    let upper = Tree::open(&ClientPaths::of(store, role).running().upper()).ok()?;
    let mut text = upper.read("var/lib/rootstock/up")?;
    text.truncate(text.char_indices().nth(MAX_UP_BYTES).map_or(text.len(), |(at, _)| at));
    (!text.trim().is_empty()).then_some(text)
}
