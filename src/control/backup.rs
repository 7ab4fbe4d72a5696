//! A second stick: what is offered, what a held press then does, how it goes.
//!
//! Pure.

use std::time::Duration;

use super::problems::Topic;
use super::{Action, Control};
use crate::client::Role;
use crate::orders::Reply;
use crate::status::{Backup, Stage};
use crate::store::{self, BackupOffer};

/// So long after a second stick was plugged in a held ENROLL is about it; then
/// it is about Pis again. Time to read and to walk back to the panel.
const OFFERED: Duration = Duration::from_secs(120);

/// Commands that wait for the copy; more are refused.
const MAX_WAITING: usize = 8;

/// What a command is told, and who waits to be.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// A second stick is plugged in that can become a copy.
    offered: bool,
    tickets: Vec<u64>,
}

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
                self.waiting.offered = true;
            }
            Store::BackupProgress { name, per_mille } => {
                self.problems.clear(&Topic::Backup);
                self.backup = Some((now, Backup::Running { name, per_mille }));
            }
            Store::BackedUp { name, bytes, .. } => {
                let message = format!("the copy on {name} is complete; {bytes} bytes were written");
                actions.push(log(message.clone()));
                self.backup_over(&Reply::done(message), actions);
                self.backup = Some((now, Backup::Done { name }));
            }
            Store::BackupFailed { name, message, action } => {
                let words = format!("no copy on {name}: {message}. {action}");
                actions.push(log(words.clone()));
                self.backup_over(&Reply::refused(words), actions);
                self.backup = None;
                self.problems.set(Topic::Backup, format!("Backup: {message}"), action);
            }
            Store::SecondUnused { message, action } => {
                actions.push(log(format!("second stick: {message}. {action}")));
                self.problems.set(Topic::Backup, message, action);
            }
            Store::BackupGone => {
                (self.backup, self.waiting.offered) = (None, false);
                self.problems.clear(&Topic::Backup);
                self.backup_over(&Reply::refused("the second stick was pulled"), actions);
            }
            _ => {}
        }
    }

    /// A command asks for what a held ENROLL does, at any time while the stick is plugged in.
    pub(super) fn backup_asked(&mut self, ticket: u64, actions: &mut Vec<Action>) {
        let running = matches!(self.backup, Some((_, Backup::Running { .. })));
        let refusal = match () {
            () if !self.waiting.offered && !running => "there is no second stick that could become a copy",
            () if self.waiting.tickets.len() >= MAX_WAITING => "too much is asked at once; try again later",
            () => {
                self.waiting.tickets.push(ticket);
                if !running {
                    actions.push(Action::Log("order: the second stick becomes a copy".to_owned()));
                    actions.push(Action::Store(store::Command::Backup));
                }
                return;
            }
        };
        actions.push(Action::Answer(ticket, Box::new(Reply::refused(refusal))));
    }

    /// Whoever waits for the copy is told what came of it.
    pub(super) fn backup_over(&mut self, reply: &Reply, actions: &mut Vec<Action>) {
        let tickets = std::mem::take(&mut self.waiting.tickets);
        actions.extend(tickets.into_iter().map(|ticket| Action::Answer(ticket, Box::new(reply.clone()))));
    }

    /// The store is pulled: what the other sticks are to the next one is told anew.
    pub(super) fn backup_out_of_reach(&mut self, actions: &mut Vec<Action>) {
        self.waiting.offered = false;
        self.problems.clear(&Topic::Backup);
        self.backup_over(&Reply::refused("the stick with the store was pulled"), actions);
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

    /// Other files are served than those that these began with.
    pub(super) fn other_files(&mut self, roles: Vec<Role>) {
        self.left_behind.extend(roles);
        self.left_behind.retain(|role| self.members.contains_key(role));
        self.tell_left_behind();
    }

    /// Who of them runs is told, until its next boot begins.
    pub(super) fn tell_left_behind(&mut self) {
        let runs = |role: &&Role| {
            let stage = self.members.get(*role).map(|member| member.boot.stage());
            stage.is_some_and(|stage| stage.is_up() || *stage == Stage::RootMounted)
        };
        for role in self.left_behind.iter().filter(runs) {
            let message = format!("{role} still runs on files of before, which are gone");
            self.problems.set(Topic::Client(role.clone()), message, "Switch it off and on".to_owned());
        }
    }

    /// Lets time pass.
    pub(super) fn poll_backup(&mut self, now: Duration) {
        if self.backup_deadline().is_some_and(|deadline| now >= deadline) {
            self.backup = None;
        }
    }
}
