//! What the store tells: the stick, imports, and clients' trees that come and go.
//!
//! Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::problems::Topic;
use super::{Action, Control, Member, Renewal, Trees, room};
use crate::client::Role;
use crate::directory::{HandleKey, MAX_FORMER_KEYS};
use crate::stage::Sign;
use crate::status::{Import, NewPlace, Room, Stage, Stick};
use crate::{self_test, store};

impl Control {
    pub(super) fn store(&mut self, now: Duration, event: store::Event, actions: &mut Vec<Action>) {
        use store::Event as Store;
        match event {
            Store::StickAbsent => {
                self.stick = Stick::Absent;
                self.problems.clear_imports();
            }
            Store::StickReading { .. } => self.stick = Stick::Reading,
            Store::NeedsConfirmation { name, free_bytes, place } => {
                let press = if place == NewPlace::File { "ENROLL" } else { "a held ENROLL" };
                actions.push(Action::Log(format!("stick {name:?} asks for {press}; {free_bytes} bytes are free")));
                self.stick = match place {
                    NewPlace::Partition | NewPlace::File if !self.config.store.ask => {
                        actions.push(Action::Log(format!("a store is made on {name}: store.ask is false")));
                        actions.push(Action::Store(store::Command::Prepare));
                        Stick::Preparing
                    }
                    _ => Stick::NeedsConfirmation { name, free_bytes, place },
                };
            }
            Store::Preparing { .. } => self.stick = Stick::Preparing,
            Store::StickUnusable { message, action } => {
                actions.push(Action::Log(format!("stick: {message}. {action}")));
                self.stick = Stick::Unusable { message: message.clone() };
                self.problems.set(Topic::Stick, message, action);
                return;
            }
            Store::Opened { name, free_bytes, images, clients, taken_roles, handle_key } => {
                actions.push(Action::Log(format!(
                    "store open on {name}: {} images, {} clients",
                    images.len(),
                    clients.len()
                )));
                self.stick = Stick::Ready { name, free_bytes };
                self.store_open = true;
                self.problems.clear_damaged();
                self.images = images.into_iter().map(|image| image.id).collect();
                self.take_key(handle_key);
                // Another store's client of the same name is another one.
                self.members.retain(|role, member| {
                    let own = clients.iter().find(|open| open.client.role == *role);
                    own.is_none_or(|open| open.client.mac == member.client.mac)
                });
                self.taken_roles = taken_roles;
                // Told next, as far as this store has them.
                self.histories.clear();
                self.boot_files.clear();
                self.opened(clients, actions);
                self.readdress(now, actions);
                self.renew_all(actions);
                self.publish(actions);
                self.watch(actions);
                self.probe_ahead(now, actions);
                self.answer_waiting(now, actions);
                self.report_crash(now, actions);
                self.plugged(now, actions);
            }
            Store::ImageMounted { image, trees } => {
                self.image_mounted(now, &image, trees, actions);
                return;
            }
            Store::ReportSaved { ticket, saved } => {
                self.reported(ticket, saved, actions);
                return;
            }
            Store::OtherFiles { roles } => {
                self.other_files(roles);
                self.former_keys.clear();
                self.publish(actions);
            }
            Store::BackupOffered { .. }
            | Store::BackupProgress { .. }
            | Store::BackedUp { .. }
            | Store::BackupFailed { .. }
            | Store::SecondUnused { .. }
            | Store::BackupGone => self.second_stick(now, event, actions),
            Store::Closed { name } => {
                self.backup = None;
                self.backup_out_of_reach(actions);
                actions.push(Action::Log(format!("stick {name} was pulled")));
                self.stick = Stick::Absent;
                self.store_open = false;
                self.problems.clear_damaged();
                self.import = None;
                actions.push(Action::ReleaseTrees);
            }
            Store::Releasing { name } => {
                self.store_open = false;
                self.import = None;
                self.stick = Stick::Releasing { name };
                (self.window, self.orders.swap) = (self.shut(), None);
                self.problems.clear_damaged();
                actions.push(Action::ReleaseTrees);
            }
            Store::Released { name } => {
                actions.push(Action::Log(format!("stick {name} can be pulled")));
                // What was wrong with it is found out anew.
                self.problems.clear(&Topic::Stick);
                self.stick = Stick::Released { name };
            }
            Store::Room { total_bytes, reserve_bytes } => self.room = Some(Room { total_bytes, reserve_bytes }),
            Store::FreeSpace { free_bytes: now_free, level } => {
                if let Stick::Ready { free_bytes, .. } = &mut self.stick {
                    *free_bytes = now_free;
                }
                room::stick(&mut self.problems, now_free, level);
            }
            Store::Quota { role, used_bytes, quota_bytes, level } => {
                room::client(&mut self.problems, &role, used_bytes, quota_bytes, level);
            }
            Store::ImportProgress { file, per_mille, left } => {
                // A file of that name is tried once more: what was wrong with the former is past.
                self.problems.clear(&Topic::Import(file.clone()));
                self.import = Some(Import { file, per_mille, left });
            }
            Store::Imported { image } => {
                actions.push(Action::Log(format!("image {} imported", image.id)));
                self.problems.clear(&Topic::Damaged(format!("images/{}", image.id)));
                self.problems.clear(&Topic::Damaged(format!("images/{}/image.toml", image.id)));
                self.import = None;
                self.images.retain(|id| *id != image.id);
                self.images.push(image.id.clone());
                self.open_by_itself(now, actions);
                self.self_test(now, None, Some(self_test::Target::Image(image.id)), actions);
            }
            Store::AlreadyThere { file, image } => {
                let message = format!("{file} is the image {image}, which is there already");
                actions.push(Action::Log(message.clone()));
                let action = "Nothing was stored twice; the file can be deleted".to_owned();
                self.problems.set(Topic::Import(file), message, action);
            }
            Store::ImportFailed { file, message, action } => {
                actions.push(Action::Log(format!("import of {file} failed: {message}. {action}")));
                self.import = None;
                let message = format!("{file}: {message}");
                self.problems.set(Topic::Import(file), message, action);
            }
            Store::ClientReady(open) => {
                self.problems.clear(&Topic::Damaged(format!("clients/{}", open.client.role)));
                actions.push(Action::Log(format!("client {} ready", open.client.role)));
                self.client_ready(open);
                self.publish(actions);
                self.watch(actions);
                self.answer_waiting(now, actions);
            }
            Store::ClientFailed { role, message, action } => {
                actions.push(Action::Log(format!("client {role}: {message}. {action}")));
                match self.members.get_mut(&role) {
                    // Its board's next DISCOVER asks again.
                    Some(member) if member.renewal == Renewal::Asked => member.renewal = Renewal::Due,
                    // A client that never came to be: its board's next DISCOVER asks for it anew
                    // in a batch, and after another press otherwise.
                    Some(member) if member.trees.is_none() && member.renewal != Renewal::Due => {
                        self.members.remove(&role);
                    }
                    _ => {}
                }
                self.problems.set(Topic::Client(role.clone()), format!("{role}: {message}"), action);
            }
            Store::Changed { images, clients, taken_roles } => {
                self.images = images.into_iter().map(|image| image.id).collect();
                self.taken_roles = taken_roles;
                self.changed(clients, actions);
                self.renew_all(actions);
                self.publish(actions);
                self.watch(actions);
                self.answer_waiting(now, actions);
            }
            // Bounded by the clients and images that there are.
            Store::Boots { role, boots } => {
                if self.members.contains_key(&role) {
                    self.histories.insert(role, boots);
                }
                self.histories.retain(|role, _| self.members.contains_key(role));
            }
            Store::BootFiles { image, files } => {
                self.boot_files.insert(image, files);
                self.boot_files.retain(|image, _| self.images.contains(image));
            }
            Store::Operated { ticket, result } => self.operated(now, ticket, result, actions),
            Store::Card(event) => return self.card(now, event, actions),
            Store::Up { role } => self.sign_role(now, &role, Sign::Up, actions),
            Store::Scrubbed { image, damaged, files } => {
                room::scrubbed(&mut self.problems, &image, &damaged, &files, actions)
            }
            Store::UpdateFiles(files) => self.update_files(files, actions),
            Store::Damaged { file, reason, action } => {
                let message = format!("{file}: {reason}");
                actions.push(Action::Log(format!("damaged: {message}. {action}")));
                self.problems.set(Topic::Damaged(file), message, action);
            }
            Store::Problem { message, action } => {
                actions.push(Action::Log(format!("stick: {message}. {action}")));
                self.problems.set(Topic::Stick, message, action);
                return;
            }
            Store::NotKept { message, action } => {
                actions.push(Action::Log(format!("stick: {message}. {action}")));
                self.problems.set(Topic::NotKept, message, action);
            }
        }
        if matches!(self.stick, Stick::Absent | Stick::Reading | Stick::NeedsConfirmation { .. }) {
            self.problems.clear(&Topic::Stick);
        }
    }

    /// The open store's key; that of the one before is remembered.
    fn take_key(&mut self, key: HandleKey) {
        let former = std::mem::replace(&mut self.handle_key, key);
        self.former_keys.retain(|known| *known != former);
        if former != HandleKey::default() {
            self.former_keys.insert(0, former);
        }
        self.former_keys.retain(|known| *known != self.handle_key);
        self.former_keys.truncate(MAX_FORMER_KEYS);
    }

    /// Takes the store's clients in; what was known of their boots stays.
    pub(super) fn opened(&mut self, clients: Vec<store::OpenClient>, actions: &mut Vec<Action>) {
        let mut before = std::mem::take(&mut self.members);
        for open in clients {
            let mut renewal = Renewal::of(&open);
            let (boot, at) = match before.remove(&open.client.role) {
                Some(member) => {
                    // Its boot began while the store was away.
                    if matches!(member.renewal, Renewal::Due | Renewal::Asked) && renewal == Renewal::AtBoot {
                        renewal = Renewal::Due;
                    }
                    (member.boot, member.at)
                }
                None => Default::default(),
            };
            // A store that was opened anew watches nobody.
            if matches!(boot.stage(), Stage::RootMounted | Stage::Stalled { .. }) {
                actions.push(Action::Store(store::Command::WatchUp(open.client.role.clone(), true)));
            }
            let trees = Some(Trees::from(&open));
            self.members.insert(open.client.role.clone(), Member { client: open.client, trees, boot, renewal, at });
        }
    }

    /// Takes in what there is after an operation. A client that is being made
    /// stays, and one that is being worked on gets no trees yet.
    fn changed(&mut self, clients: Vec<store::OpenClient>, actions: &mut Vec<Action>) {
        // Its operation may have renamed or deleted it.
        let ended = std::mem::take(&mut self.orders.ended);
        let is_new = |role: &Role, member: &Member| {
            member.trees.is_none() && !self.taken_roles.contains(role) && !ended.contains(role)
        };
        let members = std::mem::take(&mut self.members);
        let (new, before) = members.into_iter().partition(|(role, member)| is_new(role, member));
        self.members = before;
        self.opened(clients, actions);
        self.members.extend::<BTreeMap<Role, Member>>(new);
        for (role, member) in &mut self.members {
            if self.orders.is_down(role) {
                member.trees = None;
            }
        }
    }

    fn client_ready(&mut self, open: store::OpenClient) {
        self.problems.clear(&Topic::Client(open.client.role.clone()));
        let renewal = Renewal::of(&open);
        // An order may have come meanwhile that takes its trees away again.
        let is_down = self.orders.is_down(&open.client.role);
        let trees = (!is_down).then(|| Trees::from(&open));
        match self.members.get_mut(&open.client.role) {
            Some(member) => (member.trees, member.renewal) = (trees, renewal),
            None => {
                let (boot, at) = Default::default();
                let member = Member { client: open.client, trees, boot, renewal, at };
                self.members.insert(member.client.role.clone(), member);
            }
        }
    }

    /// Has the store renew what is due; until then those clients are not served.
    /// One that is being worked on is renewed when that has ended.
    pub(super) fn renew_all(&mut self, actions: &mut Vec<Action>) {
        if !self.store_open {
            return;
        }
        let is_due = |member: &&mut Member| member.renewal == Renewal::Due && !self.orders.is_down(&member.client.role);
        let due: Vec<&mut Member> = self.members.values_mut().filter(is_due).collect();
        if due.is_empty() {
            return;
        }
        let mut roles = Vec::new();
        for member in due {
            member.renewal = Renewal::Asked;
            member.trees = None;
            roles.push(member.client.role.clone());
        }
        self.publish(actions);
        actions.extend(roles.into_iter().map(|role| Action::Store(store::Command::RenewClient(role))));
    }
}
