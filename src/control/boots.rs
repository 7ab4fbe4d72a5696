//! Signs of clients' boots, and what a new stage leads to.
//!
//! Pure. What a sign means for the stage is `stage`'s.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::history::Before;
use super::problems::Topic;
use super::{Action, At, Control, Renewal};
use crate::client::Role;
use crate::stage::{Boot, Sign};
use crate::status::Stage;
use crate::store;

impl Control {
    pub(super) fn sign(&mut self, now: Duration, address: Ipv4Addr, sign: Sign, actions: &mut Vec<Action>) {
        let role =
            self.members.values().find(|member| member.address() == Some(address)).map(|m| m.client.role.clone());
        if let Some(role) = role {
            self.sign_role(now, &role, sign, actions);
        }
    }

    pub(super) fn sign_role(&mut self, now: Duration, role: &Role, sign: Sign, actions: &mut Vec<Action>) {
        if sign == Sign::Up {
            self.saw_up(now, role);
        }
        let begins = sign == Sign::BootloaderAsks;
        if begins && self.left_behind.remove(role) {
            self.problems.clear(&Topic::Client(role.clone()));
        }
        let Some(member) = self.members.get_mut(role) else { return };
        let before = Before::of(&member.boot, now);
        if !member.boot.observe(now, sign) {
            return;
        }
        // Only a board that was reset has a loader that asks: what ran on it is gone.
        if begins && member.renewal == Renewal::AtBoot {
            member.renewal = Renewal::Due;
        }
        actions.push(stage_log(role, &member.boot, now));
        actions.push(Action::Stage {
            mac: member.client.mac,
            address: member.address().unwrap_or(member.client.address),
            role: role.clone(),
            stage: stage_words(member.boot.stage()),
        });
        match member.boot.stage() {
            Stage::RootMounted => {
                actions.push(Action::Store(store::Command::WatchUp(role.clone(), true)));
                // A running kernel answers ARP by itself. Where the address is another
                // server's, the entry is what ties it to this client's board.
                if member.at == At::Ours {
                    actions.push(Action::ForgetNeighbour(member.client.address));
                }
            }
            // What is heard of it next is another story.
            Stage::Gone => self.saw_gone(now, &role.clone()),
            Stage::Up { .. } => actions.push(Action::Store(store::Command::WatchUp(role.clone(), false))),
            _ => {}
        }
        self.stage_changed(now, role, &before, actions);
    }
}

fn stage_log(role: &Role, boot: &Boot, now: Duration) -> Action {
    let after = boot.took(now).unwrap_or_default().as_secs_f32();
    let stage = stage_words(boot.stage());
    Action::Log(format!("client {role}: {stage} ({after:.1} s)"))
}

/// The stage as logs and reports name it.
pub(super) fn stage_words(stage: &Stage) -> String {
    match stage {
        Stage::Stalled { at, hint } => format!("stalled while {at}: {hint}"),
        stage => stage.name().to_owned(),
    }
}
