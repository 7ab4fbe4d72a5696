//! A second stick: what is offered, what a held press then does, how it goes.
//!
//! Pure.

use std::time::Duration;

use super::problems::Topic;
use super::{Action, Control};
use crate::status::Backup;
use crate::store::{self, BackupOffer};

/// So long after a second stick was plugged in a held ENROLL is about it; then
/// it is about Pis again. Time to read and to walk back to the panel.
const OFFERED: Duration = Duration::from_secs(120);

/// What is known of the second stick, and since when.
pub(super) type Second = (Duration, Backup);

impl Control {
    pub(super) fn second_stick(&mut self, now: Duration, event: store::Event, actions: &mut Vec<Action>) {
        use store::Event as Store;
        let log = |text: String| Action::Log(text);
        match event {
            Store::BackupOffered { name, offer } => {
                let what = match &offer {
                    BackupOffer::New => "can become a copy of the store",
                    BackupOffer::Renew(Some(_)) => "is a copy of the store",
                    BackupOffer::Renew(None) => "is a copy of the store that was not completed",
                    BackupOffer::Former => "is what the store was copied from before the copy stood in",
                };
                actions.push(log(format!("second stick {name:?} {what}; a held ENROLL copies")));
                self.backup = Some((now, Backup::Offered { name, renews: offer != BackupOffer::New }));
            }
            Store::BackupProgress { name, per_mille } => {
                self.problems.clear(&Topic::Backup);
                self.backup = Some((now, Backup::Running { name, per_mille }));
            }
            Store::BackedUp { name, bytes, .. } => {
                actions.push(log(format!("the copy on {name} is complete; {bytes} bytes were written")));
                self.backup = Some((now, Backup::Done { name }));
            }
            Store::BackupFailed { name, message, action } => {
                actions.push(log(format!("no copy on {name}: {message}. {action}")));
                self.backup = None;
                self.problems.set(Topic::Backup, format!("Backup: {message}"), action);
            }
            Store::BackupGone => {
                self.backup = None;
                self.problems.clear(&Topic::Backup);
            }
            _ => {}
        }
    }

    /// Whether a held ENROLL is about the second stick now.
    pub(super) fn backup_is_offered(&self, now: Duration) -> bool {
        matches!(self.shown_backup(now), Some(Backup::Offered { .. }))
    }

    /// What faces show of it. A copy that runs is shown as long as it does.
    pub(super) fn shown_backup(&self, now: Duration) -> Option<Backup> {
        let (since, backup) = self.backup.as_ref()?;
        let lasts = matches!(backup, Backup::Running { .. }) || now < *since + OFFERED;
        (lasts && self.store_open).then(|| backup.clone())
    }

    /// When it is shown no more.
    pub(super) fn backup_deadline(&self) -> Option<Duration> {
        let (since, backup) = self.backup.as_ref()?;
        (!matches!(backup, Backup::Running { .. })).then_some(*since + OFFERED)
    }

    /// Lets time pass.
    pub(super) fn poll_backup(&mut self, now: Duration) {
        if self.backup_deadline().is_some_and(|deadline| now >= deadline) {
            self.backup = None;
        }
    }
}
