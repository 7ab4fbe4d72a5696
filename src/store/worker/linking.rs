//! Images whose files of several names were not looked for yet: one after the other, when nothing else is to be done.

use std::sync::atomic::Ordering;

use super::Worker;
use crate::store::manifest::ImagePaths;
use crate::store::{chain, links};

impl Worker {
    /// Once a second.
    pub(super) fn note_links(&mut self) {
        let busy = self.importing.is_some() || !self.operating.is_empty();
        if busy || self.linking.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let run = self.options.run.clone();
        let Some(store) = self.store.as_mut().filter(|store| store.takes_writes()) else { return };
        while let Some((id, _)) = store.images.iter().find(|(id, _)| !store.linked.contains(id)) {
            let id = id.clone();
            let image = ImagePaths::of(&store.folder, &id);
            // Once an opening, also where it fails: a snapshot does without.
            store.linked.insert(id.clone());
            if image.links().exists() {
                continue;
            }
            let stop = store.stop.clone();
            let thread = std::thread::Builder::new().name("links".into()).spawn(move || {
                if let Err(error) = links::make(&image, &run, &stop)
                    && !stop.load(Ordering::Relaxed)
                {
                    tracing::warn!(image = %id, error = chain(&error), "its files of several names are not known");
                }
            });
            self.linking = thread.ok();
            return;
        }
    }
}
