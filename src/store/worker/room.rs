//! What is left on the stick and of clients' quotas: looked at, measured behind everybody's back, and told.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::operating::concerns;
use super::{Store, Worker};
use crate::client::Role;
use crate::quota::{Figures, Level, Space};
use crate::store::manifest::ClientPaths;
use crate::store::operate::Operation;
use crate::store::{Event, usage};

/// Free space is told when it changed by this much.
const STEP_BYTES: u64 = 16 << 20;
/// The stick's levels are those of this part of it: a tenth of a 32 GB stick would be told too early.
const PART: u64 = 2;

/// The room of the open store, and what was told of it.
pub struct Room {
    space: Arc<Space>,
    seen: Figures,
    told_bytes: u64,
    told: Level,
    clients: BTreeMap<Role, Level>,
}

impl Room {
    pub fn new(space: Arc<Space>, told_bytes: u64) -> Self {
        Self { space, seen: Figures::default(), told_bytes, told: Level::default(), clients: BTreeMap::new() }
    }

    /// Takes in what the stick has now, and how many share it; NFS counts on from there. A stick that does not answer
    /// changes nothing.
    pub fn look(&mut self, store: &Path, clients: usize) {
        if let Ok(vfs) = rustix::fs::statvfs(store) {
            self.seen = Figures::of(&vfs);
            self.space.tell(&self.seen);
            self.space.share(&self.seen, clients);
        }
    }
}

/// 0 when the stick does not answer.
pub fn figures(store: &Path) -> Figures {
    rustix::fs::statvfs(store).map_or(Figures::default(), |vfs| Figures::of(&vfs))
}

impl Store {
    /// What changed so that people should know.
    pub fn tell_room(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let room = &mut self.room;
        let free_bytes = room.space.left_bytes(&room.seen);
        let level = room.told.next(free_bytes, room.seen.total_bytes / PART);
        if level != room.told || free_bytes.abs_diff(room.told_bytes) >= STEP_BYTES {
            (room.told_bytes, room.told) = (free_bytes, level);
            events.push(Event::FreeSpace { free_bytes, level });
        }
        for (role, open) in &self.open {
            let Some((account, quota_bytes)) = open.account.as_ref().and_then(|a| Some((a, a.quota()?))) else {
                continue;
            };
            let used_bytes = account.used_bytes();
            let told = room.clients.entry(role.clone()).or_default();
            let level = told.next(quota_bytes.saturating_sub(used_bytes), quota_bytes);
            if level != *told {
                *told = level;
                events.push(Event::Quota { role: role.clone(), used_bytes, quota_bytes, level });
            }
        }
        // Who is gone or has no quota any more needs no words.
        let open = &self.open;
        let limited =
            |role: &Role| open.get(role).and_then(|open| open.account.as_ref()).is_some_and(|a| a.quota().is_some());
        for (role, _) in room.clients.extract_if(.., |role, _| !limited(role)) {
            events.push(Event::Quota { role, used_bytes: 0, quota_bytes: 0, level: Level::Fine });
        }
        events
    }
}

impl Worker {
    /// Measures the clients whose figures are in doubt, those with a quota first.
    pub(super) fn measure(&mut self) {
        if self.measuring.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let Some(store) = &self.store else { return };
        let mut clients: Vec<_> = store
            .open
            .iter()
            .filter_map(|(role, open)| Some((role, open.account.as_ref()?)))
            .filter(|(_, account)| account.is_doubtful(usage::DOUBT_BYTES))
            .map(|(role, account)| (ClientPaths::of(&store.folder, role).folder, account.clone()))
            .collect();
        if clients.is_empty() {
            return;
        }
        clients.sort_by_key(|(_, account)| account.quota().is_none());
        let stop = store.stop.clone();
        let thread = std::thread::Builder::new().name("measure".into());
        self.measuring = thread.spawn(move || usage::measure(clients, &stop)).ok();
    }

    /// An operation makes and takes away more than NFS sees.
    pub(super) fn doubt(&self, operation: &Operation) {
        let Some(store) = &self.store else { return };
        for (_, open) in store.open.iter().filter(|(role, _)| concerns(operation, role)) {
            open.account.iter().for_each(|account| account.doubt(usage::DOUBT_BYTES));
        }
    }
}
