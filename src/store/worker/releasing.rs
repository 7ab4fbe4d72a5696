//! The stick is let go of, so that it can be pulled: after the last sync, and only
//! said when the kernel itself holds it no more.
//!
//! I/O. Work in the background ends first. Then everything is detached, since a
//! client's call may be under way in any tree; the last of them closes the file
//! system, and its journal with it. That this has happened is seen by opening the
//! disk exclusively, which fails while anything on it is mounted.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Store, Worker, sync_bounded};
use crate::store::{Event, chain, mounts};

/// How long a stick may take for its last writes before a person is told that it hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// A stick on its way out.
pub(super) struct Releasing {
    /// `None` once all is detached.
    store: Option<Store>,
    name: String,
    disk: Option<String>,
    until: Instant,
    /// It is released; it stays so until it is pulled or wanted again.
    pub(super) done: bool,
}

impl Worker {
    pub(super) fn release(&mut self) {
        if self.releasing.is_some() {
            return;
        }
        let Some(store) = self.store.take() else { return };
        tracing::info!(name = store.name, "the stick is let go of");
        self.left_memory.extend(store.inside_spare());
        if let Some(importing) = &self.importing {
            importing.stop.store(true, Ordering::Relaxed);
        }
        self.end_operations(&store.stop);
        self.interrupt_backup();
        for (ticket, _) in std::mem::take(&mut self.waiting) {
            self.tell(Event::Operated { ticket, result: Err("the stick is being let go of".to_owned()) });
        }
        self.tell(Event::Releasing { name: store.name.clone() });
        let (name, disk) = (store.name.clone(), store.disk.clone());
        self.releasing = Some(Releasing { store: Some(store), name, disk, until: Instant::now() + LIMIT, done: false });
        self.go_on_releasing();
    }

    /// The stick is wanted again, and still there.
    pub(super) fn resume(&mut self) {
        if self.releasing.take_if(|releasing| releasing.done).is_some() {
            self.said = None;
            self.look();
        }
    }

    /// Whether nothing is to be opened just now.
    pub(super) fn is_released(&self) -> bool {
        self.releasing.is_some()
    }

    /// The disk with this name is gone: a person pulled it.
    pub(super) fn pulled_released(&mut self, disk: &str) {
        if self.releasing.take_if(|releasing| releasing.disk.as_deref() == Some(disk)).is_some() {
            self.take_down_store();
            self.said = None;
        }
    }

    /// One step further, where one can be made; called every second.
    pub(super) fn go_on_releasing(&mut self) {
        let Some(mut releasing) = self.releasing.take_if(|releasing| !releasing.done) else { return };
        let busy = self.importing.is_some()
            || self.operating.iter().any(|running| !running.thread.is_finished())
            || [&self.emptying, &self.measuring, &self.linking]
                .into_iter()
                .flatten()
                .any(|thread| !thread.is_finished())
            || self.scrubbing.as_ref().is_some_and(|running| !running.thread.is_finished());
        let late = Instant::now() >= releasing.until;
        if (!busy || late)
            && let Some(store) = releasing.store.take()
        {
            sync_bounded(&store.folder);
            drop(store);
            self.take_down_store();
            self.let_sources_go();
            // A call that was under way may have opened a tree again.
            self.tell(Event::Releasing { name: releasing.name.clone() });
        }
        if releasing.store.is_none() && releasing.disk.as_deref().is_none_or(is_free) {
            releasing.done = true;
            self.tell(Event::Released { name: releasing.name.clone() });
        } else if late {
            let message = format!("{} is still being written", releasing.name);
            self.problem(message, "Wait, or stop the appliance: hold NEXT");
            releasing.until = Instant::now() + LIMIT;
        }
        self.releasing = Some(releasing);
    }

    fn let_sources_go(&mut self) {
        if let Err(error) = mounts::unmount_below(&self.options.run.join("sources"), true) {
            tracing::warn!(error = chain(&error), "unmounting");
        }
        for stick in self.sticks.values_mut() {
            stick.sources.clear();
        }
    }
}

/// Whether the kernel uses nothing of the disk, and its cache is written. A disk
/// that is gone is free.
fn is_free(disk: &str) -> bool {
    let path = Path::new("/dev").join(disk);
    // O_EXCL without O_CREAT is defined for block devices alone (open(2)).
    match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&path) {
        Ok(open) => File::sync_all(&open).is_ok(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}
