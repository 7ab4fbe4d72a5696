//! The second stick: what it is to the open store, and the copy onto it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::disks::store_place;
use super::{Message, Worker};
use crate::store::backup::{self, Backup, BackupError, Known, Standing, Target};
use crate::store::place::Place;
use crate::store::prepare::Spot;
use crate::store::words::{open_action, prepare_action};
use crate::store::{BackupOffer, Event, chain, devices, library, lock, mounts, prepare};

/// How often the progress is told.
const TOLD_EACH: Duration = Duration::from_secs(1);

/// What was found out about a stick beside the open store's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Second {
    /// Can become a copy, or be renewed as one.
    Offered(BackupOffer),
    /// Nothing for the panel: too small, or told of as a problem.
    Passed,
}

/// A copy that is being made.
pub struct Backing {
    /// The target's disk.
    disk: String,
    title: String,
    stop: Arc<AtomicBool>,
    _thread: JoinHandle<()>,
}

impl Worker {
    fn second_point(&self) -> PathBuf {
        self.options.run.join("second")
    }

    /// Mounts a store for a moment, to know it.
    pub(super) fn know(&self, place: &Place) -> Result<Known, String> {
        let point = self.second_point();
        let known = place.open(&point, &self.stop).map(|()| Known::read(&point));
        let _ = mounts::unmount_below(&point, false);
        known.map_err(|error| chain(&error))
    }

    /// Looks at every stick beside the store's that was not looked at yet.
    pub(super) fn look_at_seconds(&mut self) {
        let Some(store) = self.store.as_ref().filter(|store| store.is_on_stick && self.backing.is_none()) else {
            return;
        };
        let (own, name, used) = (store.disk.clone(), store.name.clone(), backup::size(&store.folder));
        let choice = library::read_choice(&store.folder).unwrap_or_default();
        let (Some(id), Ok((used, _))) = (choice.id, used) else { return };
        let seconds: Vec<String> = self
            .sticks
            .iter()
            .filter(|(disk, _)| self.card_disk() != Some(disk.as_str()))
            .filter(|(disk, stick)| Some(*disk) != own.as_ref() && stick.second.is_none() && stick.unusable.is_none())
            .map(|(disk, _)| disk.clone())
            .collect();
        for disk in seconds {
            let Some(stick) = self.sticks.get(&disk) else { continue };
            let title = stick.disk.title.clone();
            let second = match &stick.reading {
                Err(_) => Second::Passed,
                Ok(_) if stick.disk.read_only => Second::Passed,
                Ok(reading) => match store_place(reading) {
                    Some(place) => self.second_store(&place, &title, &name, (&id, choice.turn)),
                    // The same rules as for a store of its own: nothing is written over.
                    None => match prepare::spot(reading, self.rule()) {
                        Ok(spot) => {
                            let bytes = match spot {
                                Spot::Gap(entry) => entry.extent.sectors * reading.disk.geometry.sector_bytes,
                                Spot::File(_, bytes) => bytes,
                            };
                            let fits = self.options.make_store && bytes > used;
                            if fits { Second::Offered(BackupOffer::New) } else { Second::Passed }
                        }
                        Err(_) => Second::Passed,
                    },
                },
            };
            if let Second::Offered(offer) = &second {
                self.tell(Event::BackupOffered { name: title, offer: offer.clone() });
            }
            if let Some(stick) = self.sticks.get_mut(&disk) {
                stick.second = Some(second);
            }
        }
    }

    fn second_store(&self, place: &Place, title: &str, name: &str, (id, turn): (&str, u32)) -> Second {
        let known = match self.know(place) {
            Ok(known) => known,
            Err(message) => {
                self.second_unused(format!("{title}: {message}"), "Check the stick on a computer");
                return Second::Passed;
            }
        };
        match backup::standing(id, turn, &known) {
            Standing::Copy(taken) => Second::Offered(BackupOffer::Renew(taken)),
            Standing::Former => Second::Offered(BackupOffer::Former),
            Standing::Later => {
                let message = format!("{title} holds the same clients as {name}, as late or later");
                self.second_unused(message, "Pull the one that is not wanted, then restart the appliance");
                Second::Passed
            }
            Standing::Other => {
                let message = format!("{title} has a store too; {name} is used");
                self.second_unused(message, "Pull the one that is not wanted");
                Second::Passed
            }
        }
    }

    fn second_unused(&self, message: String, action: &str) {
        self.tell(Event::SecondUnused { message, action: action.to_owned() });
    }

    /// The person confirmed: the stick that is offered becomes a copy.
    pub(super) fn back_up(&mut self) {
        let offered = |stick: &super::Stick| match &stick.second {
            Some(Second::Offered(offer)) => Some(offer.clone()),
            _ => None,
        };
        let found = self.sticks.iter().find_map(|(disk, stick)| Some((disk.clone(), offered(stick)?)));
        let (Some((disk, offer)), true) = (found, self.backing.is_none()) else {
            return self.problem("There is no second stick for a copy".into(), "Plug in a second stick");
        };
        let Some(title) = self.sticks.get(&disk).map(|stick| stick.disk.title.clone()) else { return };
        self.tell(Event::BackupProgress { name: title.clone(), per_mille: 0 });
        let place = match offer {
            BackupOffer::New => self.make_second(&disk),
            BackupOffer::Renew(_) | BackupOffer::Former => {
                let reading = self.sticks.get(&disk).and_then(|stick| stick.reading.as_ref().ok());
                reading.and_then(store_place).ok_or_else(|| ("it has no store any more".into(), "Try again"))
            }
        };
        match place.and_then(|place| self.start_copy(&disk, &title, &place)) {
            Ok(backing) => self.backing = Some(backing),
            Err((message, action)) => self.backup_failed(&title, message, action),
        }
    }

    /// Makes an empty store on a stick that has none.
    fn make_second(&mut self, disk: &str) -> Result<Place, (String, &'static str)> {
        let stick = self.sticks.get_mut(disk).ok_or_else(|| ("it was pulled".to_owned(), "Plug it in again"))?;
        for point in std::mem::take(&mut stick.sources) {
            let _ = mounts::unmount(&point);
        }
        let (known, rule) = (stick.disk.clone(), self.rule());
        let stick = self.sticks.get(disk);
        let reading = stick.and_then(|stick| stick.reading.as_ref().ok());
        let reading = reading.ok_or_else(|| ("it cannot be read".to_owned(), "Try another stick"))?;
        tracing::info!(disk, "making a store for a copy");
        prepare::prepare(reading, rule, &self.stop).map_err(|error| (chain(&error), prepare_action(&error)))?;
        // The disk has one more partition now, which is no other disk.
        let wanted =
            devices::Wanted { ignore: self.options.ignore_devices.clone(), extra: self.options.extra_devices.clone() };
        let now = devices::list(&wanted).into_iter().find(|disk| super::disks::is_same(disk, &known));
        let failed = |what: String| (what, "Pull it, and plug it in again");
        let now = now.ok_or_else(|| failed("it was pulled".into()))?;
        let reading = devices::read(now.clone(), rule).map_err(|error| failed(error.to_string()))?;
        let place = store_place(&reading).ok_or_else(|| failed("its new store was not found".into()))?;
        if let Some(stick) = self.sticks.get_mut(disk) {
            (stick.disk, stick.reading) = (now, Ok(reading));
        }
        Ok(place)
    }

    fn start_copy(&self, disk: &str, title: &str, place: &Place) -> Result<Backing, (String, &'static str)> {
        let failed = |what: String| (what, "Pull the second stick, and plug it in again");
        let Some(store) = &self.store else { return Err(failed("the first stick was pulled".into())) };
        let point = self.second_point();
        let target = Target::open(place, &point, &self.stop).map_err(|error| (chain(&error), open_action(&error)))?;
        let locked = lock::take(&point).map_err(|error| failed(format!("it cannot be locked: {error}")))?;
        let (from, stop, messages, sink) =
            (store.folder.clone(), Arc::new(AtomicBool::new(false)), self.messages.clone(), self.sink.clone());
        let (stopped, name) = (stop.clone(), title.to_owned());
        let thread = std::thread::Builder::new().name("backup".into()).spawn(move || {
            let seen = Arc::new(AtomicU64::new(0));
            let over = Arc::new(AtomicBool::new(false));
            let ticker = tell_progress(&from, name, seen.clone(), over.clone(), sink);
            let result = backup::copy(&from, &target, &seen, &stopped);
            over.store(true, Ordering::Relaxed);
            if let Some(ticker) = ticker {
                ticker.thread().unpark();
                let _ = ticker.join();
            }
            drop((locked, target));
            if let Err(error) = mounts::unmount_below(&point, false) {
                tracing::warn!(error = chain(&error), "unmounting the second stick");
            }
            let _ = messages.send(Message::BackupEnded { result });
        });
        let thread = thread.map_err(|error| failed(format!("no thread: {error}")))?;
        tracing::info!(disk, "copying the store");
        Ok(Backing { disk: disk.to_owned(), title: title.to_owned(), stop, _thread: thread })
    }

    pub(super) fn backup_ended(&mut self, result: Result<Backup, BackupError>) {
        let Some(backing) = self.backing.take() else { return };
        if let Some(stick) = self.sticks.get_mut(&backing.disk).filter(|_| self.store.is_some()) {
            let taken = result.as_ref().ok().map(|backup| backup.taken);
            stick.second = Some(Second::Offered(BackupOffer::Renew(taken)));
        }
        // Whatever failed, failed by the pull.
        let stopped = backing.stop.load(Ordering::Relaxed);
        match result {
            Ok(Backup { taken, bytes, frozen }) => {
                tracing::info!(disk = backing.disk, bytes, frozen_ms = frozen.as_millis() as u64, "copy complete");
                self.tell(Event::BackedUp { name: backing.title, taken, bytes });
            }
            Err(error) if error.is_stop() || stopped => {
                let message = "the copy was interrupted; it is not complete".to_owned();
                self.backup_failed(&backing.title, message, "Plug both sticks in, and begin it again");
            }
            Err(error) => {
                let action = match &error {
                    BackupError::NoRoom { .. } => "Use a larger stick",
                    BackupError::TooBusy => "Try again when the clients do less",
                    _ => "Plug the second stick in again, or try another",
                };
                self.backup_failed(&backing.title, chain(&error), action);
            }
        }
        // What the stick is, while the other one is away.
        if self.store.is_none() {
            self.look();
        }
    }

    fn backup_failed(&self, name: &str, message: String, action: &str) {
        self.tell(Event::BackupFailed { name: name.to_owned(), message, action: action.to_owned() });
    }

    /// A stick was pulled: the copy ends when it was one of the two.
    pub(super) fn end_backup(&self, disk: &str) {
        let of_store = self.store.as_ref().is_some_and(|store| store.disk.as_deref() == Some(disk));
        if let Some(backing) = self.backing.as_ref().filter(|backing| backing.disk == disk || of_store) {
            backing.stop.store(true, Ordering::Relaxed);
            if backing.disk == disk {
                let _ = mounts::unmount_below(&self.second_point(), true);
            }
        }
    }

    /// Whether a copy is being made on that disk.
    pub(super) fn is_backing(&self, disk: &str) -> bool {
        self.backing.as_ref().is_some_and(|backing| backing.disk == disk)
    }

    /// The store is closed: its copy ends, incomplete.
    pub(super) fn interrupt_backup(&self) {
        if let Some(backing) = &self.backing {
            backing.stop.store(true, Ordering::Relaxed);
        }
    }

    /// The server ends: the copy does, too, and says by its mark that it did not end well.
    pub(super) fn stop_backup(&mut self) -> Option<JoinHandle<()>> {
        let backing = self.backing.take()?;
        backing.stop.store(true, Ordering::Relaxed);
        Some(backing._thread)
    }

    /// A copy is to be the store from now on.
    pub(super) fn stand_in(&mut self, disk: &str) -> Result<(), String> {
        let stick = self.sticks.get(disk).ok_or("it was pulled")?;
        let place = stick.reading.as_ref().ok().and_then(store_place).ok_or("it has no store any more")?;
        let point = self.second_point();
        place.open(&point, &self.stop).map_err(|error| chain(&error))?;
        let stood = backup::stand_in(&point).map_err(|error| error.to_string());
        mounts::unmount_below(&point, false).map_err(|error| chain(&error))?;
        stood?;
        if let Some(stick) = self.sticks.get_mut(disk) {
            stick.copy = None;
        }
        Ok(())
    }
}

fn tell_progress(
    from: &Path,
    name: String,
    seen: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    sink: crate::store::Sink,
) -> Option<JoinHandle<()>> {
    let (used, _) = backup::size(from).ok()?;
    let tell = move || {
        while !over.load(Ordering::Relaxed) {
            let part = u128::from(seen.load(Ordering::Relaxed)) * 1000 / u128::from(used.max(1));
            // The last thousandth is the frozen pass.
            let per_mille = u16::try_from(part).unwrap_or(u16::MAX).min(999);
            sink(Event::BackupProgress { name: name.clone(), per_mille });
            std::thread::park_timeout(TOLD_EACH);
        }
    };
    std::thread::Builder::new().name("backup-told".into()).spawn(tell).ok()
}
