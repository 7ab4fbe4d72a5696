//! The appliance's test of itself: what is tested, one after the other, and what
//! is published to the fake Pi meanwhile.
//!
//! Pure. The fake Pi has an address of its own, export numbers that no client has,
//! and read-only trees: a running client does not notice, and when the test has
//! ended nothing of it is left.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use super::problems::Topic;
use super::{Action, Control, Trees, publish};
use crate::blackbox::Why;
use crate::client::{Client, ImageId, MacAddr, Mode, Model, Role};
use crate::dhcp::{self, Binding};
use crate::directory::{Export, Served};
use crate::orders::Reply;
use crate::self_test::{self, Failure, Plan, Step, Target, Tested};
use crate::status;
use crate::store;

/// Tests that wait for the one that runs.
const MAX_WAITING: usize = 32;
/// A test that did not end in this time is given up: two of its files may take as long as they can.
const PATIENCE: Duration = Duration::from_secs(600);
/// Export numbers are looked for from here downwards.
const LAST_EXPORT: u32 = 0xffff_fff0;

#[derive(Debug, Default)]
pub struct SelfTests {
    waiting: VecDeque<Asked>,
    running: Option<Running>,
    /// How the last one ended.
    last: Option<status::SelfTest>,
}

#[derive(Debug)]
struct Asked {
    /// Who waits for it; a test of our own makes less noise.
    ticket: Option<u64>,
    target: Target,
}

#[derive(Debug)]
struct Running {
    asked: Asked,
    since: Duration,
    /// `None` while the store mounts it.
    served: Option<Served>,
}

impl SelfTests {
    pub fn deadline(&self) -> Option<Duration> {
        self.running.as_ref().map(|running| running.since + PATIENCE)
    }
}

impl Control {
    /// Tests this as soon as those before it have ended.
    pub(super) fn self_test(
        &mut self,
        now: Duration,
        ticket: Option<u64>,
        target: Option<Target>,
        actions: &mut Vec<Action>,
    ) {
        // Without a name: the image for new clients.
        let target = target.or_else(|| self.images.last().cloned().map(Target::Image));
        let refused = match &target {
            _ if !self.store_open => Some("there is no stick with a store"),
            None => Some("there is no image yet"),
            Some(Target::Client(role)) if !self.members.contains_key(role) => Some("there is no such client"),
            Some(Target::Image(image)) if !self.images.contains(image) => Some("there is no such image"),
            _ if self.self_tests.waiting.len() >= MAX_WAITING => Some("too many tests wait already"),
            _ => None,
        };
        match (refused, target) {
            (None, Some(target)) => {
                self.self_tests.waiting.push_back(Asked { ticket, target });
                self.next_self_test(now, actions);
            }
            (message, _) => {
                if let (Some(ticket), Some(message)) = (ticket, message) {
                    actions.push(Action::Answer(ticket, Box::new(Reply::refused(message))));
                }
            }
        }
    }

    fn next_self_test(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.self_tests.running.is_some() {
            return;
        }
        let Some(asked) = self.self_tests.waiting.pop_front() else { return };
        let target = asked.target.clone();
        actions.push(Action::Log(format!("self-test: {target}")));
        self.self_tests.last = Some(status::SelfTest { target: target.clone(), state: status::TestState::Runs });
        self.self_tests.running = Some(Running { asked, since: now, served: None });
        match target {
            Target::Image(image) => actions.push(Action::Store(store::Command::MountImage(image))),
            Target::Client(role) => match self.client_to_test(&role) {
                Some((served, client)) => self.begin_self_test(served, &client, actions),
                None => {
                    let reason = "its root is not mounted: it is being worked on, or the stick is away";
                    self.end_self_test(now, Err(Failure { step: Step::Mount, reason: reason.to_owned() }), 0, actions);
                }
            },
        }
    }

    fn client_to_test(&self, role: &Role) -> Option<(Served, Client)> {
        let member = self.members.get(role)?;
        let trees = member.trees.as_ref()?;
        let served = publish::served(self.config.network.address.address, member.client.address, &member.client, trees);
        Some((self.as_reserved(served), member.client.clone()))
    }

    /// The store has mounted an image, or could not.
    pub(super) fn image_mounted(
        &mut self,
        now: Duration,
        image: &ImageId,
        trees: Result<(PathBuf, PathBuf), String>,
        actions: &mut Vec<Action>,
    ) {
        let waits = self.self_tests.running.as_ref().is_some_and(|running| {
            running.served.is_none() && matches!(&running.asked.target, Target::Image(id) if id == image)
        });
        if !waits {
            return;
        }
        match trees {
            Ok((root, boot)) => {
                let client = self.nobody(image.clone());
                let trees = Trees { root, boot, volume: None, account: None, writable: true };
                let served = publish::served(self.config.network.address.address, client.address, &client, &trees);
                self.begin_self_test(self.as_reserved(served), &client, actions);
            }
            Err(reason) => self.end_self_test(now, Err(Failure { step: Step::Mount, reason }), 0, actions),
        }
    }

    /// A client that is none: who an image is tested as.
    fn nobody(&self, image: ImageId) -> Client {
        Client {
            role: reserved(),
            mac: MacAddr([0; 6]),
            serial: None,
            revision: None,
            model: Model::Unknown,
            address: self_test::run::spare_address(self.config.network.address),
            image,
            mode: Mode::ReadOnly,
            volume_size: None,
            quota: None,
            export_id: 0,
        }
    }

    /// The same trees, for the fake Pi alone.
    fn as_reserved(&self, served: Served) -> Served {
        let root = self.free_export(LAST_EXPORT);
        let boot = self.free_export(root.wrapping_sub(1));
        let alone = |export: Export, id| Export { id, read_only: true, ..export };
        Served {
            role: reserved(),
            address: self_test::ADDRESS,
            root: alone(served.root, root),
            boot: alone(served.boot, boot),
            volume: None,
            ..served
        }
    }

    fn free_export(&self, from: u32) -> u32 {
        let us = self.config.network.address.address;
        let taken: Vec<u32> = self
            .members
            .values()
            .filter_map(|member| {
                Some(publish::served(us, member.client.address, &member.client, member.trees.as_ref()?))
            })
            .flat_map(|served| served.exports().map(|export| export.id).collect::<Vec<u32>>())
            .collect();
        (0..=from).rev().find(|id| !taken.contains(id)).unwrap_or(from)
    }

    fn begin_self_test(&mut self, served: Served, client: &Client, actions: &mut Vec<Action>) {
        let Some(running) = &mut self.self_tests.running else { return };
        let plan = Plan {
            target: running.asked.target.clone(),
            // A server that listens everywhere answers by TFTP from the address that is nearest.
            reached_at: match self.config.listen() {
                every if every.is_unspecified() => Ipv4Addr::LOCALHOST,
                own => own,
            },
            server: dhcp::Server { subnet: self.config.network.address, ..self.server.clone() },
            binding: Binding {
                address: client.address,
                role: client.role.clone(),
                root_path: publish::root_path(self.config.network.address.address, client),
            },
            model: (client.model != Model::Unknown).then_some(client.model),
            export: served.root.path.clone(),
            kernel_word: "root=/dev/nfs".to_owned(),
            folder: client.serial.map(|serial| serial.to_string()),
            tftp_port: 69,
        };
        running.served = Some(served);
        self.publish(actions);
        actions.push(Action::SelfTest(Box::new(plan)));
    }

    /// What the fake Pi is served just now: not what is being worked on.
    pub(super) fn self_test_served(&self) -> Option<Served> {
        let running = self.self_tests.running.as_ref()?;
        let there = match &running.asked.target {
            Target::Client(role) => self.members.get(role).is_some_and(|member| member.trees.is_some()),
            Target::Image(_) => self.store_open,
        };
        running.served.clone().filter(|_| there)
    }

    /// The fake Pi has ended.
    pub(super) fn self_tested(&mut self, now: Duration, tested: Tested, actions: &mut Vec<Action>) {
        let current = self.self_tests.running.as_ref().is_some_and(|running| running.asked.target == tested.target);
        if current {
            self.end_self_test(now, tested.result, tested.millis, actions);
        }
    }

    pub(super) fn poll_self_test(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.self_tests.deadline().is_some_and(|deadline| now >= deadline) {
            let reason = "it did not end in ten minutes".to_owned();
            self.end_self_test(now, Err(Failure { step: Step::BootFiles, reason }), 0, actions);
        }
    }

    fn end_self_test(
        &mut self,
        now: Duration,
        result: Result<self_test::Passed, Failure>,
        millis: u64,
        actions: &mut Vec<Action>,
    ) {
        let Some(running) = self.self_tests.running.take() else { return };
        let Asked { ticket, target } = running.asked;
        if running.served.is_some() {
            self.publish(actions);
        }
        if let Target::Image(image) = &target {
            actions.push(Action::Store(store::Command::ReleaseImage(image.clone())));
        }
        let tested = Tested { target, result, millis };
        let line = tested.line();
        actions.push(Action::Log(format!("self-test: {line}")));
        let topic = Topic::SelfTest(tested.target.to_string());
        let state = match &tested.result {
            Ok(_) => {
                self.problems.clear(&topic);
                status::TestState::Passed
            }
            Err(failure) => {
                // An image for boards that are none of ours may be meant for something else.
                if ticket.is_some() || failure.step != Step::Board {
                    let action = "Use another image; the report on the stick tells more".to_owned();
                    self.problems.set(topic, format!("Self-test: {line}"), action);
                    self.report(now, Why::SelfTest, format!("The self-test failed: {line}"), None, None, actions);
                }
                status::TestState::Failed(failure.step)
            }
        };
        self.self_tests.last = Some(status::SelfTest { target: tested.target.clone(), state });
        if let Some(ticket) = ticket {
            let reply = if tested.result.is_ok() { Reply::done(line) } else { Reply::refused(line) };
            actions.push(Action::Answer(ticket, Box::new(reply)));
        }
        self.next_self_test(now, actions);
    }

    pub(super) fn last_self_test(&self) -> Option<status::SelfTest> {
        self.self_tests.last.clone()
    }
}

/// The role of the fake Pi. A client may have that name, too: only the address decides who is who.
fn reserved() -> Role {
    "self-test".parse().unwrap_or_else(|_| Role::numbered(0))
}

#[cfg(test)]
mod tests {
    use super::super::tests::script::Script;
    use super::super::{Event, store as shell};
    use super::*;
    use crate::client::ImageId;
    use crate::dhcp::packets::PI4;
    use crate::directory::Directory;
    use crate::self_test::Passed;

    fn image() -> ImageId {
        "raspios-12345678".parse().unwrap()
    }

    fn published(script: &Script) -> &Directory {
        fn of(action: &Action) -> Option<&Directory> {
            if let Action::Publish(directory) = action { Some(directory) } else { None }
        }
        script.done.iter().rev().find_map(of).expect("something was published")
    }

    fn plans(script: &Script) -> Vec<&Plan> {
        fn of(action: &Action) -> Option<&Plan> {
            if let Action::SelfTest(plan) = action { Some(plan) } else { None }
        }
        script.done.iter().filter_map(of).collect()
    }

    fn asks(script: &mut Script, target: Option<Target>) {
        let mut actions = Vec::new();
        script.control.self_test(script.now, Some(7), target, &mut actions);
        script.done.extend(actions);
    }

    fn ended(script: &mut Script, target: Target, result: Result<Passed, Failure>) {
        script.event(Event::SelfTested(Box::new(Tested { target, result, millis: 5 })));
    }

    fn answers(script: &Script) -> Vec<&Reply> {
        fn of(action: &Action) -> Option<&Reply> {
            if let Action::Answer(7, reply) = action { Some(reply) } else { None }
        }
        script.done.iter().filter_map(of).collect()
    }

    #[test]
    fn a_client_is_tested_by_a_reader_that_no_station_can_be_and_nothing_stays() {
        let mut script = Script::new(PI4);
        let target = Target::Client(Role::numbered(1));
        asks(&mut script, Some(target.clone()));
        let before = published(&script).clone();
        let [client, fake] = &before.clients[..] else { panic!("{before:?}") };
        assert_eq!(fake.address, self_test::ADDRESS);
        assert!(fake.exports().all(|export| export.read_only));
        assert!(fake.exports().all(|export| client.exports().all(|own| own.id != export.id)));
        assert_eq!(fake.root.directory, client.root.directory);
        assert_eq!(plans(&script)[0].export, "/clients/pi-1/root");
        ended(&mut script, target, Ok(Passed::default()));
        assert_eq!(published(&script).clients.len(), 1);
        assert!(matches!(answers(&script)[..], [Reply::Outcome(_)]));
        let test = script.control.status(script.now).self_test.unwrap();
        assert_eq!(test.state, status::TestState::Passed);
        assert_eq!(script.control.status(script.now).clients.len(), 1);
    }

    #[test]
    fn an_image_is_mounted_for_its_test_and_tests_wait_for_each_other() {
        let mut script = Script::new(PI4);
        script.control.images = vec![image()];
        asks(&mut script, None);
        asks(&mut script, Some(Target::Client(Role::numbered(1))));
        assert_eq!(plans(&script).len(), 0);
        let trees = Ok(("/i/root".into(), "/i/boot".into()));
        script.event(Event::Store(shell::Event::ImageMounted { image: image(), trees }));
        assert_eq!(plans(&script).len(), 1);
        assert_eq!(published(&script).clients[1].root.directory.to_str(), Some("/i/root"));
        let failure = Failure { step: Step::Init, reason: "/sbin/init is not there".to_owned() };
        ended(&mut script, Target::Image(image()), Err(failure));
        assert_eq!(plans(&script).len(), 2, "the next one");
        let status = script.control.status(script.now);
        assert!(status.problems[0].message.contains("fails at init"), "{:?}", status.problems);
        let reported = script
            .done
            .iter()
            .any(|action| matches!(action, Action::Report(wanted) if wanted.summary.why == Why::SelfTest));
        assert!(reported);
    }

    #[test]
    fn an_imported_image_is_tested_by_itself_and_one_for_no_board_is_no_problem() {
        let mut script = Script::new(PI4);
        let info = shell::ImageInfo { id: image(), name: "raspios".to_owned(), imported: 1, root_bytes: 1 };
        script.event(Event::Store(shell::Event::Imported { image: info }));
        script
            .event(Event::Store(shell::Event::ImageMounted { image: image(), trees: Ok(("/r".into(), "/b".into())) }));
        ended(&mut script, Target::Image(image()), Err(Failure { step: Step::Board, reason: "none".to_owned() }));
        assert_eq!(script.control.status(script.now).problems, []);
    }

    #[test]
    fn a_kept_update_is_tested_with_the_image_for_new_clients() {
        use crate::update::shell::Event as Update;
        let mut script = Script::new(PI4);
        script.control.images = vec![image()];
        script.event(Event::Update(Update::Kept { version: "0.2.0".to_owned() }));
        let mounts =
            |action: &Action| matches!(action, Action::Store(shell::Command::MountImage(id)) if *id == image());
        assert!(script.done.iter().any(mounts));
    }

    #[test]
    fn what_cannot_be_tested_is_refused_and_a_test_that_hangs_is_given_up() {
        let mut script = Script::unplugged(PI4);
        asks(&mut script, None);
        assert!(matches!(answers(&script)[..], [Reply::Refused { .. }]));
        script.plug();
        asks(&mut script, Some(Target::Client(Role::numbered(9))));
        asks(&mut script, Some(Target::Image(image())));
        assert_eq!(answers(&script).len(), 3);
        asks(&mut script, Some(Target::Client(Role::numbered(1))));
        script.wait(601);
        assert_eq!(answers(&script).len(), 4);
        assert_eq!(published(&script).clients.len(), 1);
        // Its own end comes too late to count.
        ended(&mut script, Target::Client(Role::numbered(1)), Ok(Passed::default()));
        assert_eq!(answers(&script).len(), 4);
    }

    #[test]
    fn a_client_that_is_worked_on_is_not_held_by_its_test() {
        let mut script = Script::new(PI4);
        asks(&mut script, Some(Target::Client(Role::numbered(1))));
        assert_eq!(published(&script).clients.len(), 2);
        script.control.members.values_mut().next().unwrap().trees = None;
        let mut actions = Vec::new();
        script.control.publish(&mut actions);
        assert!(matches!(&actions[..], [Action::Publish(directory)] if directory.clients.is_empty()));
    }
}
