//! What a client's boots came to: told to the store, which keeps it on the stick,
//! and used to measure the next one.
//!
//! Pure. A boot is written when it is up, when it stalls (the power may go next),
//! when another begins before it was up, and when its client goes away; one that
//! stalled and then went on takes its own record's place.

use std::time::Duration;

use super::{Action, Control};
use crate::client::Role;
use crate::stage::Boot;
use crate::status::Stage;
use crate::store;
use crate::store::history::{BootRecord, needed};

/// A boot as it was before the last sign.
pub(super) struct Before {
    stage: Stage,
    took: Option<Duration>,
    loaded: u64,
    is_written: bool,
}

impl Before {
    pub(super) fn of(boot: &Boot, now: Duration) -> Self {
        Self { stage: boot.stage().clone(), took: boot.took(now), loaded: boot.loaded(), is_written: boot.is_written() }
    }
}

impl Control {
    /// The stage of a client is another one now.
    pub(super) fn stage_changed(&mut self, now: Duration, role: &Role, before: &Before, actions: &mut Vec<Action>) {
        let total = match self.members.get(role).map(|member| member.boot.stage()) {
            Some(Stage::Discovered) => self.expected(role),
            _ => None,
        };
        let Some(member) = self.members.get_mut(role) else { return };
        let boot = &mut member.boot;
        if *boot.stage() == Stage::Discovered {
            boot.expect(total);
        }
        let (took, loaded) = (boot.took(now), boot.loaded());
        let (reached, stalled, took, loaded) = match boot.stage() {
            Stage::Up { after } => (Stage::Up { after: None }.name(), None, *after, loaded),
            Stage::Stalled { hint, .. } => (before.stage.name(), Some(hint.to_string()), took, loaded),
            Stage::Discovered if before.stage.is_booting() && !before.is_written => {
                (before.stage.name(), Some("it began anew".to_owned()), before.took, before.loaded)
            }
            Stage::Gone if before.stage.is_booting() => {
                (before.stage.name(), Some("it went away".to_owned()), took, loaded)
            }
            _ => return,
        };
        // One whose beginning was not seen would be called shorter than it was.
        let Some(took) = took else { return };
        let amends = before.is_written && *boot.stage() != Stage::Discovered;
        if *boot.stage() != Stage::Discovered {
            boot.set_written();
        }
        let record = BootRecord {
            when: 0,
            took_seconds: took.as_secs(),
            reached: reached.to_owned(),
            loaded_bytes: loaded,
            image: member.client.image.clone(),
            stalled,
        };
        actions.push(Action::Store(store::Command::SaveBoot { role: role.clone(), record, amends }));
    }

    /// What this client's boot needs: what its last one loaded of this image, what
    /// another board of its model did, or what its boot files weigh.
    fn expected(&self, role: &Role) -> Option<u64> {
        let client = &self.members.get(role)?.client;
        let loaded = |role: &Role| {
            let boots = self.histories.get(role)?.iter().rev();
            let mut went_well =
                boots.filter(|boot| boot.is_up() && boot.image == client.image && boot.loaded_bytes > 0);
            Some(went_well.next()?.loaded_bytes)
        };
        let alike = || {
            let others = self.members.values().map(|member| &member.client);
            let mut others = others.filter(|other| other.model == client.model && other.image == client.image);
            others.find_map(|other| loaded(&other.role))
        };
        let files = || needed(client.model, self.boot_files.get(&client.image)?);
        loaded(role).or_else(alike).or_else(files)
    }

    /// How long its last boot took that came up.
    pub(super) fn last_boot(&self, role: &Role) -> Option<Duration> {
        let boot = self.histories.get(role)?.iter().rev().find(|boot| boot.is_up())?;
        Some(Duration::from_secs(boot.took_seconds))
    }
}
