//! The appliance's own updates: what is offered, what a person confirms, and when a
//! system on trial is tested.
//!
//! Pure. A file on the stick asks for a held ENROLL; an older version for one held much
//! longer, so that nobody goes back by mistake.

use std::time::Duration;

use super::problems::Topic;
use super::{Action, Control};
use crate::status::{Stick, Update};
use crate::update::judge::Step;
use crate::update::shell::{Command, Event, Offer};

/// A system on trial runs for so long before it is tested: what dies at once must not be kept.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two tests of a system that did not pass.
const TEST_AGAIN: Duration = Duration::from_secs(5);

/// What is known of updates just now.
#[derive(Debug, Default)]
pub(super) struct Updating {
    offer: Option<Offer>,
    /// The image that runs.
    pub(super) here: Option<String>,
    work: Work,
    /// On trial: the version, and when it is tested next.
    trial: Option<(String, Duration)>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Work {
    #[default]
    None,
    Writing(u16),
    Restarting,
    /// Asked, not yet answered.
    Testing,
}

impl Updating {
    /// For the faces.
    pub(super) fn status(&self) -> Option<Update> {
        let version = |offer: &Offer| offer.version.clone();
        match (&self.work, &self.trial, &self.offer) {
            (Work::Writing(per_mille), _, Some(offer)) => {
                Some(Update::Writing { version: version(offer), per_mille: *per_mille })
            }
            (Work::Restarting, _, Some(offer)) => Some(Update::Restarting { version: version(offer) }),
            (_, Some((version, _)), _) => Some(Update::OnTrial { version: version.clone() }),
            (_, None, Some(offer)) => {
                Some(Update::Offered { version: version(offer), older: offer.step == Step::Older, tried: offer.tried })
            }
            (_, None, None) => None,
        }
    }

    /// Whether the other slot is being written, by a file that lies on the stick, or waits to be tried.
    pub(super) fn is_at_work(&self) -> bool {
        matches!(self.work, Work::Writing(_) | Work::Restarting)
    }

    /// When something is due although nothing happened.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.trial.as_ref().filter(|_| self.work == Work::None).map(|(_, at)| *at)
    }
}

impl Control {
    pub(super) fn update(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Here { version } => self.updating.here = Some(version),
            Event::OnTrial { version } => {
                actions.push(Action::Log(format!("update: {version} is on trial; it is kept when it serves")));
                self.updating.trial = Some((version, now + SETTLE));
            }
            Event::Offered(offer) => {
                let press = if offer.step == Step::Older {
                    "ENROLL held for 8 seconds, for it is older"
                } else {
                    "a held ENROLL"
                };
                let tried = if offer.tried { "; it lies in the other slot already and was not kept" } else { "" };
                actions.push(Action::Log(format!("update {} asks for {press}{tried}", offer.version)));
                self.updating.offer = Some(offer);
            }
            Event::Withdrawn => self.updating.offer = None,
            Event::Refused { file, message, action } => {
                actions.push(Action::Log(format!("update {message}. {action}")));
                self.problems.set(Topic::Update(file), message, action);
            }
            Event::Progress { per_mille } => self.updating.work = Work::Writing(per_mille),
            Event::Written { version } => {
                actions.push(Action::Log(format!("update {version} is written and checked; restart to try it")));
                self.updating.work = Work::Restarting;
                actions.push(Action::Try);
            }
            Event::Failed { message, action } => {
                actions.push(Action::Log(format!("update failed: {message}. {action}")));
                (self.updating.work, self.updating.offer) = (Work::None, None);
                self.problems.set(Topic::Update(String::new()), format!("Update: {message}"), action);
            }
            Event::Kept { version } => {
                actions.push(Action::Log(format!("update: {version} serves and is kept")));
                (self.updating.trial, self.updating.work) = (None, Work::None);
                // What its own test cannot know: whether a Pi boots from it. Nothing hangs on that.
                self.self_test(now, None, None, actions);
            }
            Event::TestFailed { message } => {
                actions.push(Action::Log(format!("update: not kept yet: {message}")));
                self.updating.work = Work::None;
                if let Some((_, at)) = &mut self.updating.trial {
                    *at = now + TEST_AGAIN;
                }
            }
        }
    }

    /// The update files that lie on sticks have changed.
    pub(super) fn update_files(&mut self, files: Vec<std::path::PathBuf>, actions: &mut Vec<Action>) {
        self.problems.clear_updates();
        if !self.updating.is_at_work() {
            actions.push(Action::Update(Command::Look(files)));
        }
    }

    /// A held ENROLL, or one that is held on; whether it was about an update.
    pub(super) fn confirm_update(&mut self, longer: bool, actions: &mut Vec<Action>) -> bool {
        let updating = &mut self.updating;
        let Some(offer) = updating.offer.as_ref().filter(|_| updating.work == Work::None && updating.trial.is_none())
        else {
            return !matches!(updating.work, Work::None | Work::Testing);
        };
        if longer != (offer.step == Step::Older) {
            return true;
        }
        actions.push(Action::Log(format!("confirmed: update {}", offer.version)));
        updating.work = Work::Writing(0);
        actions.push(Action::Update(Command::Install));
        true
    }

    /// Tests a system on trial when it has all that it serves with: its address, and the stick open or none there.
    pub(super) fn test_trial(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let settled = self.network.address.is_some() && !matches!(self.stick, Stick::Reading | Stick::Preparing);
        match &mut self.updating.trial {
            Some((_, at)) if *at <= now && self.updating.work == Work::None => {
                *at = now + TEST_AGAIN;
                if settled {
                    self.updating.work = Work::Testing;
                    actions.push(Action::Update(Command::Keep));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::control::Event as ControlEvent;
    use crate::panel::{Button, Event as Panel, Gesture, Wish};
    use crate::status::{Enrolment, NewPlace};

    const SECOND: Duration = Duration::from_secs(1);

    fn control() -> Control {
        Control::new(Config::default(), &[])
    }

    fn tell(control: &mut Control, seconds: u32, event: Event) -> Vec<Action> {
        control.handle(SECOND * seconds, ControlEvent::Update(event))
    }

    fn offer(step: Step) -> Event {
        Event::Offered(Offer { version: "0.2.0".to_owned(), step, tried: false })
    }

    /// The commands to the update's shell, and "try" for the restart.
    fn commands(actions: &[Action]) -> Vec<String> {
        let command = |action: &Action| match action {
            Action::Update(command) => Some(format!("{command:?}")),
            Action::Try => Some("try".to_owned()),
            Action::Store(command) => Some(format!("{command:?}")),
            _ => None,
        };
        actions.iter().filter_map(command).collect()
    }

    fn press(control: &mut Control, seconds: u32, gesture: Gesture) -> Vec<String> {
        commands(&control.handle(SECOND * seconds, ControlEvent::Panel(Panel::Pressed(gesture))))
    }

    const HELD: Gesture = Gesture::Long(Button::Enroll);

    #[test]
    fn a_held_press_installs_and_a_short_one_does_not() {
        let mut control = control();
        tell(&mut control, 1, offer(Step::Newer));
        assert_eq!(press(&mut control, 2, Gesture::Short(Button::Enroll)), [""; 0]);
        assert_eq!(press(&mut control, 3, HELD), ["Install"]);
        assert_eq!(press(&mut control, 4, HELD), [""; 0], "once is enough");
        let shown = |control: &Control, seconds| control.status(SECOND * seconds).update;
        tell(&mut control, 5, Event::Progress { per_mille: 300 });
        assert_eq!(shown(&control, 5), Some(Update::Writing { version: "0.2.0".to_owned(), per_mille: 300 }));
        let actions = tell(&mut control, 6, Event::Written { version: "0.2.0".to_owned() });
        assert_eq!(commands(&actions), ["try"]);
        assert_eq!(shown(&control, 6), Some(Update::Restarting { version: "0.2.0".to_owned() }));
    }

    #[test]
    fn an_older_version_is_installed_by_a_longer_press_only_and_a_newer_one_never_by_that() {
        let longer = Gesture::Longer(Button::Enroll);
        let mut older = control();
        tell(&mut older, 1, offer(Step::Older));
        assert!(matches!(older.status(SECOND).update, Some(Update::Offered { older: true, .. })));
        assert_eq!(press(&mut older, 2, HELD), [""; 0]);
        assert_eq!(press(&mut older, 30, HELD), [""; 0], "however often");
        assert_eq!(press(&mut older, 35, longer), ["Install"]);
        let mut newer = control();
        tell(&mut newer, 1, offer(Step::Newer));
        assert_eq!(press(&mut newer, 2, longer), [""; 0], "its hold was told before");
        assert_eq!(press(&mut control(), 2, longer), [""; 0]);
    }

    #[test]
    fn the_update_is_asked_about_before_the_sticks_own_question() {
        let mut control = control();
        let stick = Stick::NeedsConfirmation { name: String::new(), free_bytes: 1, place: NewPlace::Partition };
        control.stick = stick.clone();
        tell(&mut control, 1, offer(Step::Newer));
        assert_eq!(press(&mut control, 2, HELD), ["Install"]);
        assert_eq!(control.stick, stick);
        tell(&mut control, 3, Event::Failed { message: "x".to_owned(), action: "y".to_owned() });
        assert_eq!(control.status(SECOND * 3).problems.len(), 1);
        assert_eq!(press(&mut control, 4, HELD), ["Prepare"]);
    }

    #[test]
    fn the_page_of_a_new_stick_makes_its_store_beside_an_update_but_not_while_that_is_written() {
        let make = |control: &mut Control| {
            commands(&control.handle(SECOND * 2, ControlEvent::Panel(Panel::Wished(Wish::MakeStore))))
        };
        let new = |place| {
            let mut control = control();
            control.stick = Stick::NeedsConfirmation { name: String::new(), free_bytes: 1, place };
            tell(&mut control, 1, offer(Step::Newer));
            control
        };
        for place in [NewPlace::Partition, NewPlace::File, NewPlace::Copy] {
            assert_eq!(make(&mut new(place)), ["Prepare"]);
            let mut writing = new(place);
            assert_eq!(press(&mut writing, 1, HELD), ["Install"]);
            assert_eq!(make(&mut writing), [""; 0], "the file is read from that stick");
            assert_eq!(press(&mut writing, 2, Gesture::Short(Button::Enroll)), [""; 0]);
        }
    }

    #[test]
    fn the_page_that_says_ready_opens_the_window_beside_an_update() {
        let mut control = control();
        tell(&mut control, 1, offer(Step::Newer));
        (control.store_open, control.images) = (true, vec!["debian-1".parse().unwrap()]);
        let actions = control.handle(SECOND * 2, ControlEvent::Panel(Panel::Wished(Wish::EnrolMany)));
        assert_eq!(commands(&actions), [""; 0]);
        let status = control.status(SECOND * 2);
        assert!(matches!(status.enrolment, Enrolment::Open { .. }), "{:?}", status.enrolment);
        assert!(matches!(status.update, Some(Update::Offered { .. })));
    }

    #[test]
    fn a_trial_is_tested_when_it_has_its_address_and_knows_its_stick() {
        let mut control = control();
        tell(&mut control, 0, Event::OnTrial { version: "0.2.0".to_owned() });
        let tests = |control: &mut Control, seconds: u32| commands(&control.poll(SECOND * seconds));
        assert_eq!(tests(&mut control, 6), [""; 0], "no address yet");
        control.network.address = Some([192, 168, 77, 1].into());
        control.stick = Stick::Reading;
        assert_eq!(tests(&mut control, 12), [""; 0], "the stick is being read");
        control.stick = Stick::Absent;
        assert_eq!(tests(&mut control, 18), ["Keep"]);
        assert_eq!(tests(&mut control, 30), [""; 0], "one test at a time");
        tell(&mut control, 31, Event::TestFailed { message: "NFS does not answer".to_owned() });
        assert_eq!(tests(&mut control, 33), [""; 0]);
        assert_eq!(tests(&mut control, 37), ["Keep"]);
        assert_eq!(press(&mut control, 38, HELD), [""; 0]);
        tell(&mut control, 39, Event::Kept { version: "0.2.0".to_owned() });
        assert_eq!(control.status(SECOND * 39).update, None);
        assert_eq!(control.updating.poll_timeout(), None);
    }

    #[test]
    fn what_a_refused_file_said_goes_with_the_stick() {
        let mut control = control();
        let refused = |file: &str| Event::Refused {
            file: file.to_owned(),
            message: format!("{file}: signed by an unknown key"),
            action: "Delete it".to_owned(),
        };
        tell(&mut control, 1, refused("rootstock-9.9.9.update"));
        assert_eq!(control.status(SECOND).problems[0].message, "rootstock-9.9.9.update: signed by an unknown key");
        let actions = control.handle(SECOND * 2, ControlEvent::Store(crate::store::Event::UpdateFiles(vec![])));
        assert_eq!(commands(&actions), ["Look([])"]);
        assert_eq!(control.status(SECOND * 2).problems, []);
    }
}
