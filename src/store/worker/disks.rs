//! What is plugged in: a look at every disk, its sources mounted, and what a
//! person is told while there is no store.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::{Stick, Worker};
use crate::status::NewPlace;
use crate::store::devices::{Disk, Reading, Wanted};
use crate::store::identify::{Content, STORE_LABEL};
use crate::store::mounts::MountError;
use crate::store::place::Place;
use crate::store::prepare::Spot;
use crate::store::shop::{Look, Rule};
use crate::store::words::{no_room, refusal_action, unusable};
use crate::store::{Event, chain, devices, mounts, prepare, sources};

impl Worker {
    // Sticks.

    /// Compares what is plugged in with what was, and acts on it.
    pub(super) fn look(&mut self) {
        if self.options.folder.is_some() && self.is_released() {
            return;
        }
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
        if self.is_released() {
            return;
        }
        self.leave_makeshift();
        self.open_store();
        self.open_in_memory();
        self.mount_sources();
        if self.open_beside_full() {
            self.take_profiles();
        }
        self.tell_updates();
        self.say_what_is_missing();
        self.tell_tables();
        self.look_at_seconds();
        self.look_for_card();
        self.schedule_import();
    }

    pub(super) fn added(&mut self, disk: Disk) {
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
        self.sticks.insert(
            disk.name.clone(),
            Stick { reading, disk, sources: Vec::new(), unusable: broken, copy: None, second: None, told_table: false },
        );
    }

    /// A stick beside the open store whose table cannot be believed: nothing of it is used, which is told once.
    fn tell_tables(&mut self) {
        if self.store.is_none() {
            return;
        }
        let mut told = Vec::new();
        for stick in self.sticks.values_mut().filter(|stick| !stick.told_table) {
            if let Ok(Reading { table: Err(error), .. }) = &stick.reading {
                stick.told_table = true;
                told.push(format!("{} is not used: {error}", stick.disk.title));
            }
        }
        for message in told {
            self.problem(message, "Check that stick on a computer");
        }
    }

    /// Tells when other update files lie on the sticks than before.
    fn tell_updates(&mut self) {
        let sources = self.sticks.values().flat_map(|stick| &stick.sources);
        let found: Vec<_> = sources.flat_map(|folder| sources::updates(folder)).collect();
        if found != self.updates {
            self.updates.clone_from(&found);
            self.tell(Event::UpdateFiles(found));
        }
    }

    /// How large a new store is to be.
    pub(super) fn rule(&self) -> Rule {
        Rule { minimum_bytes: self.options.minimum_store_bytes, wanted_bytes: self.options.store_bytes }
    }

    pub(super) fn removed(&mut self, name: &str) {
        self.end_backup(name);
        let Some(stick) = self.sticks.remove(name) else { return };
        if stick.second.is_some() {
            self.tell(Event::BackupGone);
        }
        tracing::info!(disk = name, "stick removed");
        self.pulled_released(name);
        self.end_card(name);
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
        if self.store.as_ref().is_some_and(|store| store.disk.as_deref() == Some(name)) {
            self.close_store();
        }
    }

    /// The open store is no more.
    pub(super) fn close_store(&mut self) {
        let Some(store) = self.store.take() else { return };
        if let Some(importing) = &self.importing {
            importing.stop.store(true, Ordering::Relaxed);
        }
        self.end_operations(&store.stop);
        self.left_memory.extend(store.inside_spare());
        self.take_down_store();
        self.said = None;
        // What the others are to the next store is another matter.
        for stick in self.sticks.values_mut() {
            stick.second = None;
        }
        self.tell(Event::Closed { name: store.name });
    }

    /// Mounts what may hold images, and takes its profile.
    pub(super) fn mount_sources(&mut self) {
        let mut problems = Vec::new();
        let card = self.card_disk().map(str::to_owned);
        for stick in self.sticks.values_mut().filter(|stick| Some(&stick.disk.name) != card.as_ref()) {
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

    pub(super) fn take_profiles(&self) {
        let Some(store) = &self.store else { return };
        for source in self.sticks.values().flat_map(|stick| &stick.sources) {
            if let Err(error) = sources::copy_profile(source, &store.folder) {
                self.problem(format!("The profile could not be taken: {error}"), "Correct it on the stick");
            }
        }
    }

    /// While there is no store: says once what a person can do.
    pub(super) fn say_what_is_missing(&mut self) {
        if self.store.is_some() {
            return;
        }
        let (rule, minimum) = (self.rule(), self.options.minimum_store_bytes);
        let mut best: Option<(u64, NewPlace, &Stick)> = None;
        let mut reason = None;
        // What was read of a disk that became a card is not so any more.
        for stick in self.sticks.values().filter(|stick| self.card_disk() != Some(&stick.disk.name)) {
            match &stick.reading {
                _ if stick.unusable.is_some() => reason = stick.unusable.clone(),
                _ if self.is_backing(&stick.disk.name) => {
                    let message = format!("the copy onto {} is being ended", stick.disk.title);
                    reason = Some(unusable(message, "Wait a moment"));
                }
                Err(message) => reason = Some(unusable(message.clone(), "Try another stick")),
                Ok(_) if stick.copy.is_some() => match stick.copy.as_ref().and_then(|known| known.mark.as_ref()?.taken)
                {
                    Some(_) => best = Some((u64::MAX, NewPlace::Copy, stick)),
                    None => {
                        let message = format!("{} is a copy that was not completed", stick.disk.title);
                        reason = Some(unusable(message, "Plug in the stick that it was made from"));
                    }
                },
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
                let free_bytes = if place == NewPlace::Copy { 0 } else { free_bytes };
                (Event::NeedsConfirmation { name, free_bytes, place }, Some(stick.disk.name.clone()))
            }
            None => (reason.unwrap_or(Event::StickAbsent), None),
        };
        self.candidate = candidate;
        self.say(event);
    }

    pub(super) fn say(&mut self, event: Event) {
        if self.said.as_ref() != Some(&event) {
            self.said = Some(event.clone());
            self.tell(event);
        }
    }
}

/// The same stick, not only the same name: pulled and put back between two
/// looks it has another sequence number.
pub(super) fn is_same(now: &Disk, known: &Disk) -> bool {
    now.name == known.name && now.sequence == known.sequence && now.geometry == known.geometry
}

/// Everything on a stick that could be mounted: partitions, or the whole disk.
pub(super) fn parts(reading: &Reading) -> Vec<(String, &Content)> {
    if reading.table.is_err() {
        // Partitions that overlap or lie beyond the end are not trusted.
        return Vec::new();
    }
    let partitions = reading.disk.partitions.iter().map(|partition| partition.name.clone()).zip(&reading.contents);
    let whole = reading.disk.partitions.is_empty().then(|| (reading.disk.name.clone(), &reading.whole));
    partitions.chain(whole).collect()
}

pub(super) fn holds_files(content: &Content) -> bool {
    matches!(content, Content::ExFat | Content::Fat | Content::Ext4(_)) && !is_store(content)
}

pub(super) fn is_store(content: &Content) -> bool {
    matches!(content, Content::Ext4(ext4) if ext4.label == STORE_LABEL)
}

pub(in crate::store) fn store_place(reading: &Reading) -> Option<Place> {
    let partition = parts(reading).into_iter().find(|(_, content)| is_store(content));
    let partition = partition.map(|(name, _)| Place::Partition(Path::new("/dev").join(name)));
    partition.or_else(|| {
        reading.shops.iter().find_map(|(partition, look)| match look {
            Look::Store(span) => Some(Place::Run { partition: partition.clone(), span: *span }),
            _ => None,
        })
    })
}
