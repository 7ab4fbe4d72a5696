//! The scrub is started when it is due and nothing else is to be done, and its findings are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::{Message, Worker};
use crate::store::Event;
use crate::store::scrub::{self, Looked};

/// A look that runs.
pub struct Scrubbing {
    pub stop: Arc<AtomicBool>,
    pub thread: JoinHandle<()>,
}

/// How often the store's open time is written down, in seconds.
const SAVE_SECONDS: u64 = 3600;

impl Worker {
    /// Once a second.
    pub(super) fn scrub(&mut self) {
        let quiet = self.importing.is_none() && self.operating.is_empty();
        let Some(store) = self.store.as_mut().filter(|store| store.takes_writes() || store.is_borrowed) else { return };
        store.scrub.open_seconds += 1;
        if let Some(running) = &self.scrubbing {
            // It goes on where it was ended.
            if !quiet {
                running.stop.store(true, Ordering::Relaxed);
            }
            return;
        }
        let Some(every) = self.options.scrub_every.filter(|_| quiet) else { return };
        if store.scrub.open_seconds.is_multiple_of(SAVE_SECONDS)
            && let Err(error) = store.scrub.write(&store.folder)
        {
            tracing::debug!(%error, "the scrub's state");
        }
        let images: Vec<_> = store.images.iter().map(|(id, _)| id).collect();
        store.scrub.keep(&images);
        let Some(id) = store.scrub.due(images.into_iter(), every).cloned() else { return };
        let from = store.scrub.images.get(id.as_str()).copied().unwrap_or_default();
        let (open_seconds, folder) = (store.scrub.open_seconds, store.folder.clone());
        let site = self.site(&folder, "scrub");
        let (stop, messages) = (Arc::new(AtomicBool::new(false)), self.messages.clone());
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("scrub".into()).spawn(move || {
            let looked = scrub::look(&site, &id, from, open_seconds, &stopped);
            let _ = messages.send(Message::Scrubbed(Box::new(looked)));
        });
        self.scrubbing = thread.ok().map(|thread| Scrubbing { stop, thread });
    }

    pub(super) fn scrubbed(&mut self, looked: Looked) {
        if let Some(running) = self.scrubbing.take() {
            // It has sent its last message.
            let _ = running.thread.join();
        }
        let Some(store) = &mut self.store else { return };
        store.scrub.images.insert(looked.image.as_str().to_owned(), looked.progress);
        if let Some(checked) = looked.checked {
            tracing::info!(image = %looked.image, bytes = checked.bytes, damaged = checked.damaged.len(), "image checked");
            self.tell(Event::Scrubbed { image: looked.image, damaged: checked.damaged, files: checked.files });
        }
    }
}
