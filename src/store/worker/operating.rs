//! Operations on clients and images: one short and one long at a time, each on
//! a thread of its own; the rest waits its turn.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::opening::mount;
use super::{MAX_WAITING, Message, Operating, Worker, info};
use crate::client::{Mode, Role};
use crate::store::manifest::TRASH;
use crate::store::operate::perform::OperateError;
use crate::store::operate::site::Site;
use crate::store::operate::{Operation, Outcome, perform};
use crate::store::{Event, OpenClient, chain, library, mounts, trash};

impl Worker {
    // Operations.

    pub(super) fn site(&self, store: &Path, slot: &'static str) -> Site {
        Site { store: store.to_owned(), run: self.options.run.clone(), slot, around: self.surroundings() }
    }

    pub(super) fn is_operated_on(&self, role: &Role) -> bool {
        self.operating.iter().any(|running| running.operation.client() == Some(role))
    }

    pub(super) fn is_still_operating(&mut self) -> bool {
        // Those of a stick that was pulled: their ends are told, or dropped, later.
        self.postponed = self.operating.iter().any(|running| !running.thread.is_finished());
        self.postponed
    }

    /// Everything that works on a store in the background ends soon.
    pub(super) fn end_operations(&self, stop: &AtomicBool) {
        stop.store(true, Ordering::Relaxed);
        let scrub = self.scrubbing.iter().map(|running| &running.stop);
        for running in self.operating.iter().map(|running| &running.stop).chain(scrub) {
            running.store(true, Ordering::Relaxed);
        }
    }

    /// Runs an operation, or lets it wait for the one before.
    pub(super) fn operate(&mut self, ticket: u64, operation: Operation) {
        let refused = |message: &str| Event::Operated { ticket, result: Err(message.to_owned()) };
        let Some(store) = &self.store else { return self.tell(refused("there is no stick with a store")) };
        if !store.takes_writes() && !operation.looks() && !matches!(operation, Operation::Verify { .. }) {
            self.tell(refused("the stick cannot be written, so nothing of it can be changed"));
            return self.tell_changed();
        }
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

    pub(super) fn operation_ended(&mut self, ticket: u64, result: Result<Outcome, OperateError>) {
        let Some(at) = self.operating.iter().position(|running| running.ticket == ticket) else { return };
        let Operating { operation, thread, .. } = self.operating.swap_remove(at);
        // It has sent its last message.
        let _ = thread.join();
        let changed = !operation.looks() && self.store.is_some();
        if changed {
            self.refresh(&operation);
            self.doubt(&operation);
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
    pub(super) fn refresh(&mut self, operation: &Operation) {
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
        store.roots.keep_accounts(|role| store.taken.contains(role));
        self.tell_damaged(broken);
        for (role, warnings) in warned {
            self.warn(&role, warnings);
        }
    }

    pub(super) fn tell_changed(&self) {
        let Some(store) = &self.store else { return };
        self.tell(Event::Changed {
            images: store.images.iter().map(|(id, manifest)| info(id, manifest)).collect(),
            clients: store.open.values().cloned().collect(),
            taken_roles: store.taken.clone(),
        });
        self.tell_boots();
    }

    /// Deletes what lies in the store's trash, behind everybody's back.
    pub(super) fn empty_trash(&mut self) {
        if self.emptying.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let Some(store) = self.store.as_ref().filter(|store| store.takes_writes() || store.is_borrowed) else { return };
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
}

/// Whether an operation was about this client, by its new name too.
pub(super) fn concerns(operation: &Operation, role: &Role) -> bool {
    let renamed = matches!(operation, Operation::Rename { to, .. } if to == role);
    renamed || operation.client() == Some(role)
}
