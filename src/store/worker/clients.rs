//! Clients are made, renewed for a boot, and written down.

use std::path::Path;
use std::time::{Instant, SystemTime};

use super::opening::mount;
use super::spare::Writes;
use super::{MAX_UP_BYTES, Worker};
use crate::client::{Client, ImageId, Role};
use crate::store::history::BootRecord;
use crate::store::manifest::ClientPaths;
use crate::store::personalise::Tree;
use crate::store::root::Surroundings;
use crate::store::states::Record;
use crate::store::words::root_action;
use crate::store::{Event, chain, history};

impl Worker {
    // Clients.

    pub(super) fn surroundings(&self) -> Surroundings {
        let (appliance, dns) = (self.options.appliance, self.options.dns.clone());
        Surroundings { appliance, dns, stop: self.stop.clone() }
    }

    pub(super) fn create(&mut self, client: &Client) {
        let started = Instant::now();
        let around = self.surroundings();
        let Some(store) = &mut self.store else {
            let message = "There is no stick with a store".to_owned();
            let action = "Plug in the stick".to_owned();
            return self.tell(Event::ClientFailed { role: client.role.clone(), message, action });
        };
        let made = match store.spare() {
            Some(spare) => spare.create(client, &around),
            None => store.roots.create(client, &around),
        };
        match made {
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

    pub(super) fn renew(&mut self, role: &Role) {
        let started = Instant::now();
        let around = self.surroundings();
        // What an operation works on must stay as it is; control asks again at its end.
        if self.operating.iter().any(|running| running.operation.stops() == Some(role)) {
            return;
        }
        // A store that was closed is opened again, and control asks again.
        let Some(store) = &mut self.store else { return };
        let in_spare = store.spare().and_then(|spare| spare.renew(role, &around));
        let Some(record) = store.clients.iter().find(|record| record.client.role == *role) else { return };
        let renewed = in_spare.unwrap_or_else(|| store.roots.renew(record, &around));
        match renewed {
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

    /// Clients whose image was damaged, now that it was imported once more.
    pub(super) fn mount_those_of(&mut self, image: &ImageId) {
        let Some(store) = &self.store else { return };
        let site = self.site(&store.folder, "short");
        let busy: Vec<Role> = self.operating.iter().filter_map(|running| running.operation.stops().cloned()).collect();
        let Some(store) = &mut self.store else { return };
        let mut mounted = Vec::new();
        for record in store.clients.iter_mut().filter(|record| record.client.image == *image) {
            let role = record.client.role.clone();
            if store.open.contains_key(&role) || busy.contains(&role) {
                continue;
            }
            match mount(&site, &mut store.roots, record, &self.stop) {
                Ok(open) => mounted.push(Ok(open)),
                Err(error) => mounted.push(Err(format!("clients/{role}: {error}"))),
            }
        }
        let (open, broken): (Vec<_>, Vec<_>) = mounted.into_iter().partition(Result::is_ok);
        for open in open.into_iter().flatten() {
            store.open.insert(open.client.role.clone(), open.clone());
            (self.sink)(Event::ClientReady(open));
        }
        self.tell_damaged(broken.into_iter().filter_map(Result::err).collect());
    }

    /// What could not be given to a client beside its root.
    pub(super) fn warn(&self, role: &Role, warnings: Vec<String>) {
        for warning in warnings {
            self.problem(format!("{role}: {warning}"), "Correct its client.toml, or make room");
        }
    }

    pub(super) fn save(&mut self, client: &Client) {
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
                match &store.writes {
                    // What is learned now is learned again.
                    Writes::Refused(_) => Ok(()),
                    Writes::Taken | Writes::Doubtful(_) => {
                        store.roots.save(client, &known.books).map_err(|error| chain(&error))
                    }
                }
            }
            None => Err("there is no such client".to_owned()),
        };
        if let Err(message) = result {
            let action = "Check the stick".to_owned();
            self.tell(Event::ClientFailed { role: client.role.clone(), message, action });
        }
    }

    /// One more boot of a client is over.
    pub(super) fn save_boot(&mut self, role: &Role, mut record: BootRecord, amends: bool) {
        // Its folder may just be on its way to another name, or to the trash.
        if self.is_operated_on(role) {
            return;
        }
        let Some(store) = &self.store else { return };
        if !store.clients.iter().any(|known| known.client.role == *role) {
            return;
        }
        record.when = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut boots = history::read(&store.folder, role);
        history::add(&mut boots, record, amends);
        // A full or dead stick is told by others; here only a note is lost.
        if let Err(error) = history::write(&store.folder, role, &boots) {
            tracing::warn!(%role, %error, "the history of boots was not written");
        }
        self.tell(Event::Boots { role: role.clone(), boots });
    }

    /// What is known of boots: of each client's own, and of each image's files.
    pub(super) fn tell_boots(&self) {
        let Some(store) = &self.store else { return };
        for role in store.open.keys() {
            let boots = history::read(&store.folder, role);
            if !boots.is_empty() {
                self.tell(Event::Boots { role: role.clone(), boots });
            }
        }
        self.tell_boot_files();
    }

    pub(super) fn tell_boot_files(&self) {
        let Some(store) = &self.store else { return };
        for (image, _) in &store.images {
            self.tell(Event::BootFiles { image: image.clone(), files: history::boot_files(&store.folder, image) });
        }
    }
}

/// The client's own words that its start is complete, from its upper layer:
/// the image's lower copy, if it has one, is of another machine.
pub(super) fn up_text(store: &Path, record: &Record) -> Option<String> {
    let paths = ClientPaths::of(store, &record.client.role).at(record.books.state);
    let upper = Tree::open(&paths.running().upper()).ok()?;
    let mut text = upper.read("var/lib/rootstock/up")?;
    text.truncate(text.char_indices().nth(MAX_UP_BYTES).map_or(text.len(), |(at, _)| at));
    (!text.trim().is_empty()).then_some(text)
}
