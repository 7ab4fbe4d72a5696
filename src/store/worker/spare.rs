//! A store that takes no writes any more, while clients run from it.
//!
//! Who runs keeps the root under its handles, which can be read; what it writes is refused at once, since nothing that
//! was acknowledged may be lost. Who boots from then on, new or known, gets a root in memory over its layers on the
//! stick, as from a stick that could not be written from the beginning (`borrow`). All that ends when the stick is pulled.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::opening::half_of_memory;
use super::room::figures;
use super::{Store, Worker};
use crate::client::{Client, Role};
use crate::quota::Space;
use crate::store::place::Place;
use crate::store::root::{RootError, Roots, Surroundings};
use crate::store::states::Record;
use crate::store::{OpenClient, chain, library};

/// Looks in a row that must find no writes taken: a stick that is being pulled says the same for a moment.
const LOOKS: u32 = 2;

/// How the open store stands to writes.
#[derive(Debug, Default)]
pub(super) enum Writes {
    #[default]
    Taken,
    /// By so many looks in a row.
    Doubtful(u32),
    /// With the place for who boots from now on, if one could be made.
    Refused(Option<Box<Spare>>),
}

/// A store in memory, filled with who the clients are.
#[derive(Debug)]
pub(super) struct Spare {
    folder: PathBuf,
    roots: Roots,
    space: Arc<Space>,
    clients: Vec<Record>,
    /// Those who booted since.
    inside: BTreeSet<Role>,
}

impl Spare {
    pub(super) fn create(
        &mut self,
        client: &Client,
        around: &Surroundings,
    ) -> Result<(OpenClient, Vec<String>), RootError> {
        let made = self.roots.create(client, around)?;
        self.clients.push(Record::enrolled(client.clone()));
        self.inside.insert(client.role.clone());
        Ok(made)
    }

    /// The client's boot begins. `None`: it is not known here.
    pub(super) fn renew(
        &mut self,
        role: &Role,
        around: &Surroundings,
    ) -> Option<Result<(OpenClient, Vec<String>), RootError>> {
        let record = self.clients.iter().find(|record| record.client.role == *role)?;
        let renewed = self.roots.renew(record, around);
        // Its former root is taken away first, so it is no more outside in any case.
        self.inside.insert(role.clone());
        Some(renewed)
    }
}

impl Store {
    pub(super) fn takes_writes(&self) -> bool {
        !self.is_borrowed && !matches!(self.writes, Writes::Refused(_))
    }

    pub(super) fn spare(&mut self) -> Option<&mut Spare> {
        match &mut self.writes {
            Writes::Refused(spare) => spare.as_deref_mut(),
            Writes::Taken | Writes::Doubtful(_) => None,
        }
    }

    /// The store that a client's running root writes to.
    pub(super) fn home(&self, role: &Role) -> &Path {
        match &self.writes {
            Writes::Refused(Some(spare)) if spare.inside.contains(role) => &spare.folder,
            _ => &self.folder,
        }
    }

    /// Who lives in memory because the stick refuses writes.
    pub(super) fn inside_spare(&self) -> Vec<Role> {
        match &self.writes {
            Writes::Refused(Some(spare)) => spare.inside.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Once a second. Whether the store was just found to refuse writes.
    fn look_for_writes(&mut self) -> bool {
        if let Writes::Refused(spare) = &self.writes {
            if let Some(spare) = spare {
                spare.space.tell(&figures(&spare.folder));
            }
            return false;
        }
        if self.is_borrowed || self.sound.takes_writes(&self.folder) {
            self.writes = Writes::Taken;
            return false;
        }
        let before = if let Writes::Doubtful(looks) = self.writes { looks } else { 0 };
        self.writes = Writes::Doubtful(before + 1);
        before + 1 >= LOOKS
    }
}

impl Worker {
    /// Once a second: whether the stick still takes what clients write.
    pub(super) fn look_for_writes(&mut self) {
        // Memory does not stop.
        let in_folder = self.options.folder.is_some();
        let may_stop = |store: &mut Store| (store.is_on_stick || in_folder) && store.look_for_writes();
        if !self.store.as_mut().is_some_and(may_stop) {
            return;
        }
        // Pulled, perhaps.
        self.look();
        let Some((folder, name)) = self.store.as_ref().map(|store| (store.folder.clone(), store.name.clone())) else {
            return;
        };
        tracing::warn!(name, "the stick takes no writes any more");
        let spare = self.make_spare(&folder);
        let bytes = self.options.memory_bytes.unwrap_or_else(half_of_memory);
        let Some(store) = &mut self.store else { return };
        for open in store.open.values_mut() {
            open.writable = false;
            open.renew_at_boot |= spare.is_some();
        }
        let what = match &spare {
            Some(_) => format!("Clients that start now live in {} MiB of memory", bytes >> 20),
            None => "There is no memory for clients that start now".to_owned(),
        };
        store.writes = Writes::Refused(spare.map(Box::new));
        let message = format!("{name} takes no writes any more: clients that run can only read. {what}");
        self.not_kept(
            message,
            "Check its lock, pull it and plug it in again; if this is said again, use another stick",
        );
        self.tell_changed();
    }

    fn make_spare(&self, store: &Path) -> Option<Spare> {
        let folder = self.options.run.join("spare");
        let bytes = self.options.memory_bytes.unwrap_or_else(half_of_memory);
        let place = Place::Memory { folder: self.options.run.join("memory"), bytes, from: Some(store.to_owned()) };
        if let Err(error) = place.open(&folder, &self.stop) {
            tracing::warn!(error = chain(&error), "a store in memory for clients that start");
            return None;
        }
        let library = library::open(&folder);
        let library = library.inspect_err(|error| tracing::warn!(error = chain(error), "reading it")).ok()?;
        let space = Arc::new(Space::new(None));
        space.tell(&figures(&folder));
        let roots = Roots::new(&folder, &self.options.run, self.options.appliance, space.clone());
        Some(Spare { folder, roots, space, clients: library.clients, inside: BTreeSet::new() })
    }
}
