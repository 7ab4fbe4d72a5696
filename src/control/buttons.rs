//! What a person's presses mean.
//!
//! Pure. Which page is shown is the panel's own affair.

use std::time::Duration;

use super::{Action, Control};
use crate::enrol::Window;
use crate::panel;
use crate::status::{NewPlace, Stick};
use crate::store;

impl Control {
    pub(super) fn panel(&mut self, now: Duration, event: panel::Event, actions: &mut Vec<Action>) {
        use panel::{Button, Gesture};
        match event {
            panel::Event::Pressed(gesture @ (Gesture::Short(Button::Enroll) | Gesture::Long(Button::Enroll))) => {
                let held = gesture == Gesture::Long(Button::Enroll);
                match &self.stick {
                    // A file can be deleted again; a partition is there for good.
                    Stick::NeedsConfirmation { name, place, .. } if held || *place == NewPlace::File => {
                        actions.push(Action::Log(format!("confirmed: a store is made on {name}")));
                        self.stick = Stick::Preparing;
                        actions.push(Action::Store(store::Command::Prepare));
                    }
                    _ => self.press(now, held, actions),
                }
            }
            panel::Event::Pressed(Gesture::Long(Button::Next)) => {
                actions.push(Action::Log("NEXT held: switching off".to_owned()));
                actions.push(Action::PowerOff);
            }
            // NEXT turns pages, which is the panel's own affair.
            panel::Event::Pressed(Gesture::Short(Button::Next)) => {}
            panel::Event::Hardware(found) => actions.push(Action::Log(format!("panel: {found}"))),
            panel::Event::Failed(message) => actions.push(Action::Log(format!("panel: {message}"))),
        }
    }

    /// ENROLL: opens the window, or closes the open one.
    fn press(&mut self, now: Duration, batch: bool, actions: &mut Vec<Action>) {
        if self.window.is_open(now) {
            (self.window, self.orders.swap) = (Window::Closed, None);
            actions.push(Action::Log("enrolment window closed by a press".to_owned()));
        } else if self.store_open && !self.images.is_empty() {
            self.window = Window::open(now, self.config.enrol.window, batch);
            self.somebody_came();
            actions.push(Action::Log(format!("enrolment window open for {} s", self.config.enrol.window.as_secs())));
        } else {
            actions.push(Action::Log("ENROLL pressed, but there is no image yet".to_owned()));
        }
    }
}
