//! A recovery card for the EEPROMs of clients-to-be: offered while a folder
//! `eeprom` with the official files lies on a stick and exactly one USB disk beside
//! it and the store's could be spared, with a store open or none yet; written after a held ENROLL on the page that told
//! that disk's name and size.
//!
//! A disk that could be a backup as well is offered as both (`backup`): control
//! asks for the backup first, which loses nothing. Never offered is a disk with a
//! store, images or updates on it, nor one too large to be anybody's spare card.
//!
//! I/O: disks are looked at here; the bytes are `eeprom`'s.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::backup::Second;
use super::disks::{is_store, parts};
use super::{Message, Stick, Worker};
use crate::eeprom::{self, card, device};
use crate::store::devices::{Disk, Reading};
use crate::store::shop::Look;
use crate::store::{CardEvent, Event, chain, mounts, sources};

/// The folder's name, at the top of a stick's partition.
const FOLDER: &str = "eeprom";
/// Larger disks are nobody's spare SD card: a person plugged in something dear.
const MAX_BYTES: u64 = 128 << 30;
/// Most names that are looked at in the folder.
const MAX_NAMES: usize = 4096;
/// Progress is told this often.
const TELL: Duration = Duration::from_millis(250);
/// What a person does when the files will not do.
const ACTION: &str =
    "Put Raspberry Pi's own pieeprom.bin and recovery.bin, of one folder, into the stick's folder eeprom";

/// What is offered, being written, or done.
pub(super) struct Card {
    disk: Disk,
    /// The folder with the official files.
    files: PathBuf,
    state: State,
}

enum State {
    Offered,
    Writing {
        stop: Arc<AtomicBool>,
        thread: JoinHandle<()>,
    },
    /// Written, failed or refused: not offered again until something is plugged in anew. `true`: its bytes are not
    /// what was read of it.
    Over(bool),
}

impl Worker {
    /// The disk that is written as a card or was: nothing that was read of it holds.
    pub(super) fn card_disk(&self) -> Option<&str> {
        let card = self.card.as_ref().filter(|card| matches!(card.state, State::Writing { .. } | State::Over(true)))?;
        let stick = self.sticks.get(&card.disk.name)?;
        (stick.disk.sequence == card.disk.sequence).then_some(card.disk.name.as_str())
    }

    /// Compares what could be written with what was offered. A card that is being written is left alone.
    pub(super) fn look_for_card(&mut self) {
        if self.card.as_ref().is_some_and(|card| matches!(card.state, State::Writing { .. }))
            || self.card_disk().is_some()
        {
            return;
        }
        let found = self.find_card();
        let known = self.card.as_ref().map(|card| (&card.disk, &card.files));
        if known == found.as_ref().map(|(disk, files)| (disk, files)) {
            return;
        }
        if self.card.take().is_some() {
            self.tell(Event::Card(CardEvent::Gone));
        }
        let Some((disk, files)) = found else { return };
        let state = match check(&files) {
            Ok(boards) => {
                self.tell(Event::Card(CardEvent::Offered { name: disk.title.clone(), bytes: disk.bytes(), boards }));
                State::Offered
            }
            Err(message) => {
                self.card_failed(format!("No recovery card can be made: {message}"), ACTION);
                State::Over(false)
            }
        };
        self.card = Some(Card { disk, files, state });
    }

    /// The disk to write and the folder with the files.
    fn find_card(&self) -> Option<(Disk, PathBuf)> {
        let folder = |stick: &Stick| {
            let mut folders = stick.sources.iter().map(|source| source.join(FOLDER));
            folders.find(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()))
        };
        // The disk that brought the files is the spare one only where there is no other.
        let spare = self.sticks.values().filter(|stick| self.is_spare(stick));
        let (bringing, others): (Vec<&Stick>, Vec<&Stick>) = spare.partition(|stick| folder(stick).is_some());
        let spare = match (others.as_slice(), bringing.as_slice()) {
            ([spare], _) => *spare,
            // Without a store that one is all that the person plugged in.
            ([], [spare]) if self.store.is_some() => *spare,
            // With two, a person could mean the other.
            _ => return None,
        };
        // The store's question is about that one, and no disk is asked about as both.
        if self.store.is_none() && self.candidate.as_ref() == Some(&spare.disk.name) {
            return None;
        }
        let elsewhere = self.sticks.values().filter(|stick| stick.disk.name != spare.disk.name).find_map(folder);
        Some((spare.disk.clone(), elsewhere.or_else(|| folder(spare))?))
    }

    fn is_spare(&self, stick: &Stick) -> bool {
        let name = &stick.disk.name;
        let ours = self.store.as_ref().is_some_and(|store| store.disk.as_ref() == Some(name)) || self.is_backing(name);
        let size = (card::DISK_BYTES as u64..=MAX_BYTES).contains(&stick.disk.bytes());
        // A disk that cannot be read is not judged to hold nothing.
        let holds_ours = || stick.reading.as_ref().map_or(true, has_store);
        let is_source = |source: &PathBuf| {
            sources::images(source).map_or(true, |found| !found.taken.is_empty())
                || !sources::updates(source).is_empty()
        };
        !ours && size && !stick.disk.read_only && !holds_ours() && !stick.sources.iter().any(is_source)
    }

    /// The person confirmed: what was offered last is written, if it is still what is there.
    pub(super) fn write_card(&mut self) {
        // Not what is there now, but what was asked about: disks may have been changed meanwhile.
        let offered = self.card.as_ref().filter(|card| matches!(card.state, State::Offered));
        let Some((disk, files)) = offered.map(|card| (card.disk.clone(), card.files.clone())) else { return };
        self.look();
        let now = self.card.as_ref().filter(|card| matches!(card.state, State::Offered));
        if now.is_none_or(|card| card.disk != disk || card.files != files) {
            // The look has told that.
            return;
        }
        // The files may lie on that very disk.
        let bytes = match read(&files) {
            Ok((bytes, _)) => bytes,
            Err(message) => return self.not_written(message, false),
        };
        if let Some(stick) = self.sticks.get_mut(&disk.name) {
            // Whoever writes the whole disk must be alone with it.
            stick.sources.drain(..).for_each(|point| drop(mounts::detach(&point)));
            // It is no backup any more, whatever becomes of the card.
            if matches!(stick.second.replace(Second::Passed), Some(Second::Offered(_))) {
                self.tell(Event::BackupGone);
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (messages, sink, stopped, node) = (self.messages.clone(), self.sink.clone(), stop.clone(), disk.node());
        let write = move || {
            let (total, mut told) = (2 * bytes.len() as u64, Instant::now());
            let result = device::write(&node, &bytes, &stopped, |done| {
                if told.elapsed() >= TELL {
                    told = Instant::now();
                    // At most 1000.
                    sink(Event::Card(CardEvent::Progress { per_mille: (done * 1000 / total) as u16 }));
                }
            });
            let _ = messages.send(Message::CardEnded { result: result.map_err(|error| chain(&error)) });
        };
        match std::thread::Builder::new().name("card".into()).spawn(write) {
            Ok(thread) => {
                tracing::info!(disk = disk.name, "writing a recovery card");
                if let Some(card) = &mut self.card {
                    card.state = State::Writing { stop, thread };
                }
                // It may have been the one that a store would be made on.
                self.say_what_is_missing();
            }
            Err(error) => self.not_written(format!("no thread: {error}"), false),
        }
    }

    pub(super) fn card_ended(&mut self, result: Result<(), String>) {
        let Some(card) = &mut self.card else { return };
        tracing::info!(disk = card.disk.name, ok = result.is_ok(), "recovery card ended");
        let name = card.disk.title.clone();
        match result {
            Ok(()) => {
                card.state = State::Over(true);
                self.tell(Event::Card(CardEvent::Written { name }));
            }
            Err(message) => self.not_written(message, true),
        }
        // It may have been pulled meanwhile.
        self.look_for_card();
    }

    fn not_written(&mut self, message: String, begun: bool) {
        if let Some(card) = &mut self.card {
            card.state = State::Over(begun);
        }
        let action = "Plug it in again, or try another SD card or reader";
        self.card_failed(format!("The recovery card was not made: {message}"), action);
    }

    fn card_failed(&self, message: String, action: &str) {
        self.tell(Event::Card(CardEvent::Failed { message, action: action.to_owned() }));
    }

    /// A disk was pulled.
    pub(super) fn end_card(&self, name: &str) {
        if let Some(Card { state: State::Writing { stop, .. }, disk, .. }) = &self.card
            && disk.name == name
        {
            stop.store(true, Ordering::Relaxed);
        }
    }

    /// The end: what is half written has no partition table yet.
    pub(super) fn stop_card(&mut self) -> Option<JoinHandle<()>> {
        let State::Writing { stop, thread } = self.card.take()?.state else { return None };
        stop.store(true, Ordering::Relaxed);
        Some(thread)
    }
}

fn has_store(reading: &Reading) -> bool {
    parts(reading).iter().any(|(_, content)| is_store(content))
        || reading.table.is_err()
        || reading.shops.iter().any(|(_, look)| matches!(look, Look::Store(_) | Look::Broken(_)))
}

/// Which boards a card of these files would be for.
fn check(files: &Path) -> Result<&'static str, String> {
    are_files(files)?;
    eeprom::command::check_card(files).map(eeprom::Soc::boards_with_card).map_err(|error| chain(&error))
}

fn read(files: &Path) -> Result<(Vec<u8>, eeprom::Soc), String> {
    are_files(files)?;
    eeprom::command::recovery_card(files).map_err(|error| chain(&error))
}

/// A link on a stick could name any file or device of ours, and a pipe would never end.
fn are_files(folder: &Path) -> Result<(), String> {
    let wanted = |name: &str| name == "recovery.bin" || name.starts_with("pieeprom");
    let entries = fs::read_dir(folder).map_err(|error: io::Error| error.to_string())?;
    for entry in entries.take(MAX_NAMES).flatten() {
        let name = sources::shown(&entry.file_name());
        if wanted(&name) && !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            return Err(format!("{FOLDER}/{name} is no regular file"));
        }
    }
    Ok(())
}
