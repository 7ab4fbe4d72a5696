//! Which file is imported next, and what its end means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{Importing, Message, Store, Worker, info};
use crate::store::import::{ImportError, Imported, Job, Method};
use crate::store::manifest::SourceFile;
use crate::store::sources::{Found, Images, MAX_ENTRIES, MAX_IMAGES};
use crate::store::{Event, chain, import, library, sources};

/// What lies on the sticks and is not imported, as told last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    left_out: Vec<String>,
    unread: Vec<String>,
    unseen: bool,
}

impl Worker {
    // Images.

    /// Starts the next import, if one is to be done and none runs.
    pub(super) fn schedule_import(&mut self) {
        let idle = self.importing.is_none();
        let can = |store: &&Store| idle && (store.takes_writes() || store.is_borrowed);
        let Some(store) = self.store.as_ref().filter(can) else { return };
        let folders = self.sticks.values().flat_map(|stick| &stick.sources).chain([&store.folder]);
        // Sticks are mounted read-only: what lies there is whole.
        let settled = |found: &Found| self.options.folder.is_none() || self.seen.contains(&found.source);
        let is_new = |found: &&Found| {
            let known = store.images.iter().any(|(_, manifest)| manifest.source.contains(&found.source));
            !known && !self.refused.contains(&found.source) && settled(found)
        };
        let places: Vec<Images> = folders.filter_map(|folder| sources::images(folder).ok()).collect();
        let next = places.iter().flat_map(|place| &place.taken).find(is_new).cloned();
        let (folder, is_on_stick) = (store.folder.clone(), store.is_on_stick);
        self.tell_left_out(&places);
        self.seen = places.into_iter().flat_map(|place| place.taken).map(|found| found.source).collect();
        let Some(Found { path, source, packing }) = next else { return };
        let job = Job {
            path: path.clone(),
            source: source.clone(),
            packing,
            store: folder,
            check_point: self.options.run.join("check"),
            // In memory, and not a folder for development.
            in_place: !is_on_stick && self.options.folder.is_none(),
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

    /// Files that would be images, were there not so many or were they packed otherwise: said once.
    fn tell_left_out(&mut self, places: &[Images]) {
        let all = |of: fn(&Images) -> &Vec<String>| places.iter().flat_map(of).cloned().collect::<Vec<String>>();
        let (left_out, unread) = (all(|place| &place.left_out), all(|place| &place.unread));
        let now = LeftOut { left_out, unread, unseen: places.iter().any(|place| place.unseen) };
        if now == self.left_out {
            return;
        }
        let before = std::mem::replace(&mut self.left_out, now.clone());
        let failed = |file: &str, message: String, action: &str| {
            self.tell(Event::ImportFailed { file: file.to_owned(), message, action: action.to_owned() });
        };
        for file in now.unread.iter().filter(|file| !before.unread.contains(file)) {
            failed(file, "is packed in a way that is not read".to_owned(), "Unpack it on a computer and copy the .img");
        }
        let action = "Delete files, or put some on another stick";
        if let Some((first, others)) = now.left_out.split_first().filter(|_| now.left_out != before.left_out) {
            for file in &now.left_out {
                tracing::warn!(file, "left out: there are too many image files");
            }
            let others = if others.is_empty() { String::new() } else { format!(", and so are {} more", others.len()) };
            let message = format!("is left out{others}: of one stick the first {MAX_IMAGES} images by name are taken");
            failed(first, message, action);
        }
        if now.unseen && !before.unseen {
            let message = format!("of more than {MAX_ENTRIES} files at the top of a stick not all are looked at");
            failed("images", message, action);
        }
    }

    pub(super) fn import_ended(&mut self, source: SourceFile, result: Result<Imported, ImportError>) {
        let stopped = self.importing.take().is_some_and(|importing| importing.stop.load(Ordering::Relaxed));
        match result {
            Ok(Imported { id, manifest, known }) => {
                if known {
                    // Of very many copies the image forgets some, and they would take turns for ever.
                    self.refused.insert(source.clone());
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
