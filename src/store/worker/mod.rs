//! The thread that owns every mount: looks at what is plugged in, opens the
//! store, makes clients, starts imports and operations.
//!
//! I/O. One message at a time, so nothing here is locked. A look is by level,
//! not by edge: what is there is compared with what was known.
//!
//! This file is the loop and what the worker knows; what it does is in `disks`, `opening`,
//! `clients`, `importing`, `linking`, `operating`, `room`, `scrubbing`, `spare`, `full`, `backup` and `card`.

mod backup;
mod card;
mod clients;
mod disks;
mod full;
mod importing;
mod linking;
mod opening;
mod operating;
mod releasing;
mod room;
mod scrubbing;
mod spare;

pub(super) use disks::store_place;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{ImageId, Role};
use crate::store::backup::{Backup, BackupError, Known};
use crate::store::devices::{Disk, Reading};
use crate::store::import::{ImportError, Imported};
use crate::store::lock::Lock;
use crate::store::manifest::{ImageManifest, SourceFile};
use crate::store::operate::perform::OperateError;
use crate::store::operate::{Operation, Outcome};
use crate::store::root::Roots;
use crate::store::scrub::{self, Looked};
use crate::store::sound::Sound;
use crate::store::states::Record;
use crate::store::{Command, Event, ImageInfo, OpenClient, Options, Sink, chain, mounts, reports};
use clients::up_text;
use releasing::Releasing;
use room::Room;
use scrubbing::Scrubbing;
use spare::Writes;

/// What the worker is told.
pub enum Message {
    Command(Command),
    /// Disks may have come or gone.
    Look,
    ImportEnded {
        source: SourceFile,
        result: Result<Imported, ImportError>,
    },
    BackupEnded {
        result: Result<Backup, BackupError>,
    },
    CardEnded {
        result: Result<(), String>,
    },
    OperationEnded {
        ticket: u64,
        result: Result<Outcome, OperateError>,
    },
    Scrubbed(Box<Looked>),
    Stop,
}

/// How often watched clients are looked at; the free space every fifth time.
const TICK: Duration = Duration::from_secs(1);
const TICKS_PER_SPACE: u32 = 5;
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
    measuring: Option<JoinHandle<()>>,
    linking: Option<JoinHandle<()>>,
    scrubbing: Option<Scrubbing>,
    /// The copy that is being made.
    backing: Option<backup::Backing>,
    /// The recovery card that `WriteCard` would write, that is written, or was.
    card: Option<card::Card>,
    /// A store waits to be opened until an operation on the former has ended.
    postponed: bool,
    /// Files that failed, until their stick is plugged in again.
    refused: HashSet<SourceFile>,
    left_out: importing::LeftOut,
    /// The update files that were told last.
    updates: Vec<PathBuf>,
    /// Folder mode: files as the last look saw them, since one that still
    /// grows is being copied.
    seen: Vec<SourceFile>,
    /// Whose roots in memory went with the last store.
    left_memory: Vec<Role>,
    /// What was last said while no store is open, so that it is said once.
    said: Option<Event>,
    /// Let go of by a person, or on the way to it.
    releasing: Option<Releasing>,
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
    /// What its store was found to be, where several sticks or a mark asked for a look.
    copy: Option<Known>,
    /// What it is beside the open store.
    second: Option<backup::Second>,
    /// That its table lies was told.
    told_table: bool,
}

/// The open store.
struct Store {
    name: String,
    /// The stick's disk; `None` for a folder.
    disk: Option<String>,
    /// Neither a folder nor memory.
    is_on_stick: bool,
    folder: PathBuf,
    roots: Roots,
    images: Vec<(ImageId, ImageManifest)>,
    /// Those whose files of several names need not be looked for.
    linked: BTreeSet<ImageId>,
    clients: Vec<Record>,
    /// Those whose trees are mounted.
    open: BTreeMap<Role, OpenClient>,
    taken: Vec<Role>,
    _locks: [Option<Lock>; 2],
    /// Ends what works on it in the background.
    stop: Arc<AtomicBool>,
    /// Watched clients with the text last seen.
    watched: BTreeMap<Role, Option<String>>,
    room: Room,
    scrub: scrub::State,
    sound: Sound,
    writes: Writes,
    /// Of a stick that cannot be written: nothing of it can be changed.
    is_borrowed: bool,
    /// In memory, since the stick is full.
    is_makeshift: bool,
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
            measuring: None,
            linking: None,
            scrubbing: None,
            backing: None,
            card: None,
            postponed: false,
            refused: HashSet::new(),
            left_out: importing::LeftOut::default(),
            updates: Vec::new(),
            seen: Vec::new(),
            left_memory: Vec::new(),
            said: None,
            releasing: None,
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
                Ok(Message::BackupEnded { result }) => self.backup_ended(result),
                Ok(Message::CardEnded { result }) => self.card_ended(result),
                Ok(Message::OperationEnded { ticket, result }) => self.operation_ended(ticket, result),
                Ok(Message::Scrubbed(looked)) => self.scrubbed(*looked),
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

    /// Of the open store.
    fn not_kept(&self, message: String, action: &str) {
        self.tell(Event::NotKept { message, action: action.to_owned() });
    }

    /// Each is `file: reason`.
    fn tell_damaged(&self, broken: Vec<String>) {
        for words in broken {
            let (file, reason) = words.split_once(": ").unwrap_or((&words, "is damaged"));
            let (file, reason) = (file.to_owned(), reason.to_owned());
            let action = "Repair it on a computer, or leave it: the rest serves".to_owned();
            self.tell(Event::Damaged { file, reason, action });
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Prepare => self.prepare(),
            Command::Backup => self.back_up(),
            Command::WriteCard => self.write_card(),
            Command::CreateClient(client) => self.create(&client),
            Command::SaveClient(client) => self.save(&client),
            Command::Operate(ticket, operation) => self.operate(ticket, *operation),
            Command::Appliance(address) => {
                self.options.appliance = address;
                if let Some(store) = &mut self.store {
                    store.roots.appliance = address;
                }
            }
            Command::RenewClient(role) => self.renew(&role),
            Command::Release => self.release(),
            Command::Resume => self.resume(),
            Command::SaveBoot { role, record, amends } => self.save_boot(&role, record, amends),
            Command::MountImage(image) => {
                let trees = match &mut self.store {
                    Some(store) => store.roots.image_trees(&image).map_err(|error| chain(&error)),
                    None => Err("there is no stick with a store".to_owned()),
                };
                self.tell(Event::ImageMounted { image, trees });
            }
            Command::ReleaseImage(image) => {
                // What an operation works with stays; so does a client's.
                let busy = !self.operating.is_empty();
                if let Some(store) = self.store.as_mut().filter(|_| !busy)
                    && !store.open.values().any(|open| open.client.image == image)
                    && let Err(error) = store.roots.release_image(&image)
                {
                    tracing::warn!(%image, error = chain(&error), "an image stays mounted");
                }
            }
            Command::SaveReport(ticket, report) => {
                let saved = match &self.store {
                    Some(store) => reports::save(&store.folder, &report).map_err(|error| chain(&error)),
                    None => Err("there is no stick with a store".to_owned()),
                };
                self.tell(Event::ReportSaved { ticket, saved });
            }
            Command::WatchUp(role, true) => {
                if let Some(store) = &mut self.store {
                    let live = store.clients.iter().find(|record| record.client.role == role);
                    let now = live.and_then(|record| up_text(store.home(&role), record));
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

    fn tick(&mut self) {
        let mut events = Vec::new();
        if let Some(store) = &mut self.store {
            let mut watched = std::mem::take(&mut store.watched);
            for (role, seen) in &mut watched {
                let live = store.clients.iter().find(|record| record.client.role == *role);
                let now = live.and_then(|record| up_text(store.home(role), record));
                if now != *seen {
                    *seen = now;
                    if seen.is_some() {
                        events.push(Event::Up { role: role.clone() });
                    }
                }
            }
            store.watched = watched;
            self.ticks = self.ticks.wrapping_add(1);
            store.room.look(&store.folder, store.open.len());
            if self.ticks.is_multiple_of(TICKS_PER_SPACE) {
                events.extend(store.tell_room());
            }
        }
        for event in events {
            self.tell(event);
        }
        self.look_for_writes();
        self.empty_trash();
        self.measure();
        self.note_links();
        self.scrub();
        self.go_on_releasing();
        if self.options.folder.is_some() || self.postponed {
            self.look();
        }
    }

    // The end.

    fn shut_down(&mut self, queue: &Receiver<Message>) {
        let writing = self.stop_card();
        if let Some(importing) = self.importing.take() {
            importing.stop.store(true, Ordering::Relaxed);
            let deadline = Instant::now() + IMPORT_END_LIMIT;
            while let Ok(message) = queue.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                if matches!(message, Message::ImportEnded { source, .. } if source == importing.source) {
                    break;
                }
            }
        }
        let backing = self.stop_backup();
        if let Some(store) = self.store.take() {
            self.end_operations(&store.stop);
            let deadline = Instant::now() + IMPORT_END_LIMIT;
            let threads = self
                .operating
                .drain(..)
                .map(|running| running.thread)
                .chain(self.emptying.take())
                .chain(self.measuring.take())
                .chain(self.linking.take())
                .chain(self.scrubbing.take().map(|running| running.thread))
                .chain(backing)
                .chain(writing);
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

fn info(id: &ImageId, manifest: &ImageManifest) -> ImageInfo {
    ImageInfo {
        id: id.clone(),
        name: manifest.name.clone(),
        imported: manifest.imported,
        root_bytes: manifest.root_bytes,
    }
}
