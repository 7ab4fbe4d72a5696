//! A recovery card for other Pis' EEPROMs: offered by the store, confirmed by ENROLL held on its page.
//!
//! Pure. It needs no store: whoever begins with step 0 has none yet. A disk that could become a backup as well is asked about as that first,
//! since nothing is lost by it; the card's page is then a NEXT away.

use std::time::Duration;

use super::problems::Topic;
use super::{Action, Control};
use crate::status::{self, Backup, CardStep, Stick};
use crate::store::{self, CardEvent};

/// So long the overview tells of it by itself. The page stays.
const SHOWN: Duration = Duration::from_secs(120);

/// What is known of the spare disk, and since when.
#[derive(Debug)]
pub(super) struct Spare {
    since: Duration,
    name: String,
    step: CardStep,
}

impl Control {
    pub(super) fn card(&mut self, now: Duration, event: CardEvent, actions: &mut Vec<Action>) {
        match event {
            CardEvent::Offered { name, bytes, boards } => {
                self.problems.clear(&Topic::Card);
                let asks =
                    format!("a recovery card for {boards} can be made of {name:?}, {bytes} bytes; a held ENROLL does");
                actions.push(Action::Log(asks));
                self.card =
                    Some(Spare { since: now, name, step: CardStep::Offered { bytes, boards: boards.to_owned() } });
            }
            CardEvent::Progress { per_mille: done } => {
                if let Some(Spare { step: CardStep::Writing { per_mille }, .. }) = &mut self.card {
                    *per_mille = done;
                }
            }
            CardEvent::Written { name } => {
                actions.push(Action::Log(format!("the recovery card on {name:?} is written and compared")));
                self.card = Some(Spare { since: now, name, step: CardStep::Written });
            }
            CardEvent::Failed { message, action } => {
                actions.push(Action::Log(format!("{message}. {action}")));
                self.card = None;
                self.problems.set(Topic::Card, message, action);
            }
            CardEvent::Gone => {
                self.card = None;
                self.problems.clear(&Topic::Card);
            }
        }
    }

    /// ENROLL was held on the page of the disk with this name.
    pub(super) fn confirm_card(&mut self, now: Duration, seen: &str, actions: &mut Vec<Action>) {
        let settled = self.disks_are_settled();
        let Some(Spare { since, name, step }) = &mut self.card else { return };
        if name.as_str() != seen || !matches!(step, CardStep::Offered { .. }) || !settled {
            return;
        }
        (*since, *step) = (now, CardStep::Writing { per_mille: 0 });
        actions.push(Action::Store(store::Command::WriteCard));
    }

    /// Nothing is being made of a disk, nor was a stick let go of.
    fn disks_are_settled(&self) -> bool {
        let alone = matches!(self.stick, Stick::Absent | Stick::NeedsConfirmation { .. } | Stick::Unusable { .. });
        self.store_open || alone
    }

    /// What faces show of it.
    pub(super) fn shown_card(&self, now: Duration) -> Option<status::Card> {
        let Spare { since, name, step } = self.card.as_ref()?;
        let is_new = now < *since + SHOWN;
        let shown = match step {
            CardStep::Offered { .. } if !self.disks_are_settled() => return None,
            CardStep::Offered { .. } => is_new && !matches!(self.shown_backup(now), Some(Backup::Offered { .. })),
            CardStep::Writing { .. } => true,
            CardStep::Written => is_new,
        };
        Some(status::Card { name: name.clone(), shown, step: step.clone() })
    }

    /// When the overview tells of it no more.
    pub(super) fn card_deadline(&self, now: Duration) -> Option<Duration> {
        let card = self.card.as_ref().filter(|card| !matches!(card.step, CardStep::Writing { .. }))?;
        Some(card.since + SHOWN).filter(|deadline| *deadline > now)
    }
}
