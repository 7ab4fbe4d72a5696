//! A stick with images and no room for a store: clients live in memory, as from a stick that must not be written.
//!
//! Only while nothing better is plugged in. A stick that has a store, or room for one, goes before it, for as long as no
//! client lives in the memory.

use super::opening::half_of_memory;
use super::{Stick, Worker};
use crate::store::place::Place;
use crate::store::prepare::{self, PrepareError};
use crate::store::shop::Refusal;
use crate::store::words::no_room;
use crate::store::{Event, sources};

impl Worker {
    /// Opens a store in memory where a stick is full; true: it was opened.
    pub(super) fn open_beside_full(&mut self) -> bool {
        if self.store.is_some() || !self.options.make_store || self.sticks.values().any(|stick| self.is_better(stick)) {
            return false;
        }
        let full = self.sticks.values().find_map(|stick| Some((stick, self.no_room_on(stick)?)));
        let Some((stick, Event::StickUnusable { message, action })) = full else { return false };
        let (title, name) = (stick.disk.title.clone(), stick.disk.name.clone());
        let bytes = self.options.memory_bytes.unwrap_or_else(half_of_memory);
        let place = Place::Memory { folder: self.options.run.join("memory"), bytes, from: None };
        if self.open(&place, &format!("memory, {title}"), Some(name)).is_err() {
            // What is missing on the stick is told next.
            self.take_down_store();
            return false;
        }
        if let Some(store) = &mut self.store {
            store.is_makeshift = true;
        }
        self.not_kept(
            format!("Nothing is kept: {message}. Clients live in {} MiB of memory", bytes >> 20),
            &format!("{action}, then restart the appliance"),
        );
        true
    }

    /// The memory goes when a stick came that can do better, and nobody lives there yet.
    pub(super) fn leave_makeshift(&mut self) {
        let is_empty = self.store.as_ref().is_some_and(|store| store.is_makeshift && store.clients.is_empty());
        if is_empty && self.sticks.values().any(|stick| self.is_better(stick)) {
            self.close_store();
        }
    }

    /// Whether a stick has a store of some kind, takes one, or has to be told of first.
    fn is_better(&self, stick: &Stick) -> bool {
        let Ok(reading) = &stick.reading else { return false };
        let takes_one = || !stick.disk.read_only && prepare::spot(reading, self.rule()).is_ok();
        let is_card = self.card_disk() == Some(&stick.disk.name);
        !is_card
            && (stick.unusable.is_some()
                || stick.copy.is_some()
                || super::store_place(reading).is_some()
                || takes_one())
    }

    /// What is told of a stick that holds images and takes no store, since it is full or of a kind that is not written.
    fn no_room_on(&self, stick: &Stick) -> Option<Event> {
        let reading = stick.reading.as_ref().ok().filter(|_| self.card_disk() != Some(&stick.disk.name))?;
        let error = prepare::spot(reading, self.rule()).err()?;
        let is_full = match &error {
            PrepareError::NoRoom(_) | PrepareError::NoTable(_) => true,
            // Not what a computer should repair first.
            PrepareError::Refused(refusal) => {
                matches!(refusal, Refusal::NoRoom { .. } | Refusal::TooMany(_) | Refusal::Unsupported(_))
            }
            _ => false,
        };
        let has_image = |folder| sources::images(folder).is_ok_and(|found| !found.taken.is_empty());
        let holds = is_full && stick.sources.iter().any(|folder| has_image(folder));
        holds.then(|| no_room(&stick.disk.title, &error, self.options.minimum_store_bytes))
    }
}
