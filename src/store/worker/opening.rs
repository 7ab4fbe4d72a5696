//! The store is opened, made, and taken down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::disks::{holds_files, parts, store_place};
use super::room::{Room, figures};
use super::spare::Writes;
use super::{Stick, Store, Worker, info};
use crate::quota::Space;
use crate::store::backup::{self, Known};
use crate::store::operate::site::Site;
use crate::store::operate::{perform, recover};
use crate::store::place::Place;
use crate::store::root::Roots;
use crate::store::scrub::State;
use crate::store::sound::Sound;
use crate::store::states::{Books, Record};
use crate::store::words::{open_action, prepare_action, unusable};
use crate::store::{Event, OpenClient, chain, library, links, lock, mounts, prepare};

/// Why a store was not opened, for people.
pub(super) struct Failed {
    message: String,
    action: &'static str,
    /// It takes no writes, but may be read.
    unwritable: bool,
}

impl Failed {
    fn new(message: impl Into<String>, action: &'static str) -> Self {
        Self { message: message.into(), action, unwritable: false }
    }
}

impl Worker {
    /// Everything of the store, at once: the stick is not there any more.
    pub(super) fn take_down_store(&self) {
        let run = &self.options.run;
        backup::thaw(&run.join("store"));
        for folder in ["operate", "check", links::POINT, "clients", "images", "spare", "store", "memory"] {
            if let Err(error) = mounts::unmount_below(&run.join(folder), true) {
                tracing::warn!(error = chain(&error), "unmounting");
            }
        }
    }

    /// Opens the first store that there is; tells of others once.
    pub(super) fn open_store(&mut self) {
        if self.store.is_some() {
            return;
        }
        let stores: Vec<(String, Place)> = self
            .sticks
            .values()
            // One that a copy is still written to is looked at when that has ended.
            .filter(|stick| stick.unusable.is_none() && !self.is_backing(&stick.disk.name))
            .filter_map(|stick| Some((stick.disk.name.clone(), store_place(stick.reading.as_ref().ok()?)?)))
            .collect();
        let mut unwritable = Vec::new();
        for (name, place) in self.in_order(stores) {
            let (name, place) = (&name, &place);
            let title = self.sticks.get(name).map_or(name.clone(), |stick| stick.disk.title.clone());
            let write_protected = self.sticks.get(name).is_some_and(|stick| stick.disk.read_only);
            let opened = match write_protected {
                true => Err(Failed {
                    message: format!("{title} is write-protected"),
                    action: "Slide its lock, or use another stick",
                    unwritable: true,
                }),
                false => self.open(place, &title, Some(name.clone())),
            };
            match opened {
                // What the others are to it is told by `look_at_seconds`.
                Ok(()) => return,
                // A copy: a person is asked.
                Err(_) if self.sticks.get(name).is_some_and(|stick| stick.copy.is_some()) => {}
                // After those that can be written.
                Err(failed) if failed.unwritable => unwritable.push((name.clone(), place.clone(), title, failed)),
                Err(failed) => self.set_unusable(name, failed),
            }
        }
        for (name, place, title, failed) in unwritable {
            match self.open_borrowed(failed, &place, &name, &title) {
                Ok(()) => return,
                Err(failed) => self.set_unusable(&name, failed),
            }
        }
    }

    /// What was opened is not what its clients began with.
    fn tell_other_files(&self) {
        let roles = self.store.iter().flat_map(|store| store.open.keys().cloned()).collect();
        self.tell(Event::OtherFiles { roles });
    }

    fn set_unusable(&mut self, name: &str, Failed { message, action, .. }: Failed) {
        if let Some(stick) = self.sticks.get_mut(name) {
            stick.unusable = Some(Event::StickUnusable { message, action: action.to_owned() });
        }
    }

    /// Of several stores the one to go on with first, and no copies. With one
    /// store nothing is looked at twice: most appliances have one.
    fn in_order(&mut self, stores: Vec<(String, Place)>) -> Vec<(String, Place)> {
        let unknown = |(name, _): &&(String, Place)| self.sticks.get(name).is_some_and(|stick| stick.copy.is_none());
        let stores: Vec<(String, Place)> = stores.iter().filter(unknown).cloned().collect();
        if stores.len() < 2 {
            return stores;
        }
        // One that cannot be read comes last, and is told of by its opening.
        let know = |(name, place): (String, Place)| {
            let known = self.know(&place).ok();
            (known.is_none(), known.unwrap_or_default(), name, place)
        };
        let mut known: Vec<_> = stores.into_iter().map(know).collect();
        known.sort_by(|one, two| (one.0, one.1.order()).cmp(&(two.0, two.1.order())));
        known.into_iter().map(|(_, _, name, place)| (name, place)).collect()
    }

    /// Where a stick with files must not be written: clients that live until
    /// the power goes or the stick does.
    pub(super) fn open_in_memory(&mut self) {
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
        let place = Place::Memory { folder: self.options.run.join("memory"), bytes, from: None };
        match self.open(&place, &format!("memory, {title}"), Some(name.clone())) {
            Ok(()) => self.not_kept(
                format!("Nothing is kept: {title} is not written, so clients live in {} MiB of memory", bytes >> 20),
                "To keep them, use a stick that may be written",
            ),
            Err(Failed { message, action, .. }) => {
                self.take_down_store();
                if let Some(stick) = self.sticks.get_mut(&name) {
                    stick.unusable = Some(unusable(message, action));
                }
            }
        }
    }

    /// A store that cannot be written: its clients begin as they are on the stick, and what they write lives until the
    /// power goes or the stick does.
    fn open_borrowed(&mut self, failed: Failed, place: &Place, name: &str, title: &str) -> Result<(), Failed> {
        let point = self.options.run.join("sources").join(format!("{name}.store"));
        if let Err(error) = place.open_to_read(&point) {
            tracing::warn!(error = chain(&error), "reading a store that cannot be written");
            return Err(failed);
        }
        let bytes = self.options.memory_bytes.unwrap_or_else(half_of_memory);
        let memory = Place::Memory { folder: self.options.run.join("memory"), bytes, from: Some(point.clone()) };
        let is_copy = backup::read_mark(&point).is_some();
        if is_copy || self.open(&memory, &format!("memory, {title}"), Some(name.to_owned())).is_err() {
            self.take_down_store();
            let _ = mounts::detach(&point);
            return Err(failed);
        }
        if let Some(stick) = self.sticks.get_mut(name) {
            stick.sources.push(point);
        }
        if let Some(store) = &mut self.store {
            store.is_borrowed = true;
        }
        let Failed { message, action, .. } = failed;
        self.tell_other_files();
        // The journal is replayed by writing only.
        let last = if place.is_unclean() { ", and what was written to it last is not seen" } else { "" };
        self.not_kept(
            format!("Nothing is kept: {message}{last}. Clients live in {} MiB of memory", bytes >> 20),
            action,
        );
        Ok(())
    }

    pub(super) fn open_folder(&mut self) {
        let Some(folder) = self.options.folder.clone().filter(|_| self.store.is_none()) else { return };
        let name = folder.display().to_string();
        if let Err(Failed { message, action, .. }) = self.open(&Place::Folder(folder), &name, None) {
            self.say(Event::StickUnusable { message, action: action.to_owned() });
        }
    }

    /// Opens a store with all its clients; the error is a message and an action.
    pub(super) fn open(&mut self, place: &Place, name: &str, disk: Option<String>) -> Result<(), Failed> {
        if self.is_still_operating() {
            return Err(Failed::new("the last work on the former stick is being ended", "Wait a moment"));
        }
        let folder = self.options.run.join("store");
        let started = Instant::now();
        let locked = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::WouldBlock => {
                Failed::new(format!("{name} is being worked on by another rootstock"), "Wait until it has ended")
            }
            _ => Failed::new(format!("{name} cannot be locked: {error}"), "Check the stick on a computer"),
        };
        // Not alone: its files are looked at, too.
        let held = match place {
            Place::Run { partition, .. } => Some(lock::take(partition).map_err(locked)?),
            Place::Partition(_) | Place::Memory { .. } | Place::Folder(_) => None,
        };
        place.open(&folder, &self.stop).map_err(|error| Failed {
            message: chain(&error),
            action: open_action(&error),
            unwritable: error.is_unwritable(),
        })?;
        let lock = lock::take(&folder).map_err(|error| {
            self.take_down_store();
            locked(error)
        })?;
        if backup::read_mark(&folder).is_some() {
            let known = Known::read(&folder);
            drop(lock);
            self.take_down_store();
            if let Some(stick) = disk.as_ref().and_then(|disk| self.sticks.get_mut(disk)) {
                stick.copy = Some(known);
            }
            return Err(Failed::new(format!("{name} is a copy"), "Plug in the stick that it was made from"));
        }
        let mut library = library::open(&folder).map_err(|error| {
            self.take_down_store();
            Failed::new(chain(&error), "Check the stick on a computer")
        })?;
        let (appliance, dns) = (self.options.appliance, self.options.dns.clone());
        let told = library::change_choice(&folder, |choice| {
            (choice.appliance, choice.dns) = (Some(appliance), dns);
        });
        if let Err(error) = told.and_then(|_| backup::ensure_id(&folder).map(drop)) {
            library.broken.push(format!("store.toml: {error}"));
        }
        let site = self.site(&folder, "short");
        let (scrub, sound) = (State::read(&folder), Sound::of(&folder));
        let space = Arc::new(Space::new(self.options.reserve_bytes));
        let mut roots = Roots::new(&folder, &self.options.run, self.options.appliance, space.clone());
        let mut broken = library.broken;
        let mut open = BTreeMap::new();
        for record in &mut library.clients {
            let role = record.client.role.clone();
            match mount(&site, &mut roots, record, &self.stop) {
                Ok(client) => drop(open.insert(role, client)),
                Err(error) => broken.push(format!("clients/{role}: {error}")),
            }
        }
        let figures = figures(&folder);
        space.tell(&figures);
        space.share(&figures, open.len());
        let free_bytes = space.left_bytes(&figures);
        let room =
            Event::Room { total_bytes: figures.total_bytes, reserve_bytes: space.reserve_bytes(figures.total_bytes) };
        let images = library.images.iter().map(|(id, manifest)| info(id, manifest)).collect();
        tracing::info!(name, clients = open.len(), ms = started.elapsed().as_millis() as u64, "store open");
        self.store = Some(Store {
            name: name.to_owned(),
            disk,
            is_on_stick: matches!(place, Place::Partition(_) | Place::Run { .. }),
            folder,
            roots,
            images: library.images,
            linked: BTreeSet::new(),
            clients: library.clients,
            open: open.clone(),
            taken: library.taken.clone(),
            _locks: [Some(lock), held],
            stop: Arc::default(),
            watched: BTreeMap::new(),
            room: Room::new(space, free_bytes),
            scrub,
            sound,
            writes: Writes::Taken,
            is_borrowed: false,
            is_makeshift: false,
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
        let roles = std::mem::take(&mut self.left_memory);
        if !roles.is_empty() {
            self.tell(Event::OtherFiles { roles });
        }
        self.tell(room);
        self.tell_boots();
        self.tell_damaged(broken);
        Ok(())
    }

    pub(super) fn prepare(&mut self) {
        let Some(stick) = self.candidate.take().and_then(|name| self.sticks.get(&name)) else {
            return self.problem("There is no stick to prepare".into(), "Plug in a stick with free space");
        };
        let Ok(reading) = &stick.reading else { return };
        let (name, title) = (stick.disk.name.clone(), stick.disk.title.clone());
        self.tell(Event::Preparing { name: title.clone() });
        if stick.copy.is_some() {
            tracing::info!(disk = name, "a copy stands in");
            self.said = None;
            let stood = self.stand_in(&name);
            if let Err(message) = &stood {
                self.problem(format!("{title} cannot stand in: {message}"), "Check the stick on a computer");
            }
            self.look();
            if stood.is_ok() && self.store.is_some() {
                self.tell_other_files();
            }
            return;
        }
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
}

/// Mounts a client for serving, after what a cut left of it is finished.
pub(super) fn mount(
    site: &Site,
    roots: &mut Roots,
    record: &mut Record,
    stop: &AtomicBool,
) -> Result<OpenClient, String> {
    if !recover::pending(record).is_empty() {
        perform::finish(site, &record.client.role, stop).map_err(|error| chain(&error))?;
        record.books = Books { adapt: false, former: None, ..record.books.clone() };
    }
    roots.mount(record).map_err(|error| chain(&error))
}

/// The other half is for the kernel, which keeps there what it reads of images.
pub(super) fn half_of_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0u64) / 2 * 1024
}
