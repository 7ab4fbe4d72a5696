//! Which file is imported next, and what its end means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{Importing, Message, Worker, info};
use crate::store::import::{ImportError, Imported, Job, Method};
use crate::store::manifest::SourceFile;
use crate::store::sources::Found;
use crate::store::{Event, chain, import, library, sources};

impl Worker {
    // Images.

    /// Starts the next import, if one is to be done and none runs.
    pub(super) fn schedule_import(&mut self) {
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
            // In memory, and not a folder for development.
            in_place: !store.is_on_stick && self.options.folder.is_none(),
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

    pub(super) fn import_ended(&mut self, source: SourceFile, result: Result<Imported, ImportError>) {
        let stopped = self.importing.take().is_some_and(|importing| importing.stop.load(Ordering::Relaxed));
        match result {
            Ok(Imported { id, manifest, known }) => {
                if known {
                    self.tell(Event::AlreadyThere { file: source.file.clone(), image: id.clone() });
                }
                if let Some(store) = self.store.as_mut().filter(|_| !stopped) {
                    store.images.retain(|(known, _)| *known != id);
                    store.images.push((id.clone(), manifest.clone()));
                    let chosen = library::read_choice(&store.folder).unwrap_or_default().default_image;
                    library::sort_images(&mut store.images, chosen.as_ref());
                    self.tell(Event::Imported { image: info(&id, &manifest) });
                    self.mount_those_of(&id);
                    self.tell_boot_files();
                    // A person's choice goes before the newest.
                    if chosen.is_some() {
                        self.tell_changed();
                    }
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
}
