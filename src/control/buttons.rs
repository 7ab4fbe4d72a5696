//! What a person's presses mean.
//!
//! Pure. Which page is shown is the panel's own affair.

use std::time::Duration;

use super::{Action, Control};
use crate::config::Opens;
use crate::enrol::Window;
use crate::orders::{Order, Reply, Request};
use crate::panel::{self, Wish};
use crate::status::{NewPlace, Notice, Stick};
use crate::store;
use crate::store::operate::{Operation, Outcome};

/// Tickets of orders that came by the panel begin here; the socket counts from 1.
const PANEL: u64 = 1 << 63;
/// What became of a press is shown for so long.
const NOTICE: Duration = Duration::from_secs(10);

impl Control {
    pub(super) fn panel(&mut self, now: Duration, event: panel::Event, actions: &mut Vec<Action>) {
        use panel::{Button, Gesture};
        match event {
            panel::Event::Pressed(gesture @ (Gesture::Short(Button::Enroll) | Gesture::Long(Button::Enroll))) => {
                let held = gesture == Gesture::Long(Button::Enroll);
                if held && self.confirm_update(false, actions) {
                    return;
                }
                match &self.stick {
                    // A file can be deleted again; a partition is there for good.
                    Stick::NeedsConfirmation { place, .. } if held || *place == NewPlace::File => {
                        self.confirm_store(actions);
                    }
                    _ if held && self.backup_is_offered(now) => {
                        actions.push(Action::Log("confirmed: the second stick becomes a copy".to_owned()));
                        actions.push(Action::Store(store::Command::Backup));
                    }
                    _ => self.press(now, held, actions),
                }
            }
            // All that it held before was done or not meant.
            panel::Event::Pressed(Gesture::Longer(Button::Enroll)) => drop(self.confirm_update(true, actions)),
            panel::Event::Pressed(Gesture::Longer(Button::Next)) => {}
            panel::Event::Pressed(Gesture::Long(Button::Next)) => {
                actions.push(Action::Log("NEXT held: switching off".to_owned()));
                actions.push(Action::PowerOff);
            }
            // NEXT turns pages, which is the panel's own affair.
            panel::Event::Pressed(Gesture::Short(Button::Next)) => {}
            panel::Event::Wished(wish) => self.wish(now, wish, actions),
            panel::Event::Hardware(found) => actions.push(Action::Log(format!("panel: {found}"))),
            panel::Event::Failed(message) => actions.push(Action::Log(format!("panel: {message}"))),
        }
    }

    /// The stick gets its store, if it is still one that asks.
    fn confirm_store(&mut self, actions: &mut Vec<Action>) {
        let Stick::NeedsConfirmation { name, .. } = &self.stick else { return };
        // The update's file may lie on that very stick.
        if self.updating.is_at_work() {
            return actions.push(Action::Log("not now: an update is being written".to_owned()));
        }
        actions.push(Action::Log(format!("confirmed: a store is made on {name}")));
        self.stick = Stick::Preparing;
        actions.push(Action::Store(store::Command::Prepare));
    }

    /// What a person chose on a page.
    fn wish(&mut self, now: Duration, wish: Wish, actions: &mut Vec<Action>) {
        actions.push(Action::Log(format!("panel: {wish}")));
        let request = match wish {
            Wish::Swap(role) => Request::SwapNext { role },
            Wish::Reset(role) => Request::Operation(Operation::Reset { role, new_identity: false }),
            Wish::ImageDefault(image) => Request::Operation(Operation::ImageDefault { image: Some(image) }),
            Wish::Report => Request::Report,
            Wish::SelfTest => Request::SelfTest { target: None },
            Wish::WriteCard(name) => return self.confirm_card(now, &name, actions),
            Wish::MakeStore => return self.confirm_store(actions),
            Wish::EnrolMany => return self.press(now, true, actions),
            Wish::Release if !self.store_open => return,
            Wish::Release => return actions.push(Action::Store(store::Command::Release)),
            Wish::Resume => return actions.push(Action::Store(store::Command::Resume)),
        };
        self.panel_orders = self.panel_orders.wrapping_add(1) % PANEL;
        self.order(now, PANEL + self.panel_orders, Order { request, force: false }, actions);
    }

    /// Answers to the panel's own orders are shown, not sent.
    pub(super) fn notice_answers(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let is_own = |action: &Action| matches!(action, Action::Answer(ticket, _) if *ticket >= PANEL);
        let (own, others): (Vec<Action>, Vec<Action>) = std::mem::take(actions).into_iter().partition(is_own);
        *actions = others;
        for action in own {
            let Action::Answer(_, reply) = action else { continue };
            let (message, failed) = match *reply {
                Reply::Refused { running: true, .. } => ("It runs. Switch that Pi off first".to_owned(), true),
                Reply::Refused { message, .. } => (message, true),
                // The window's own screen says what to do now.
                Reply::Outcome(_) if self.window.is_open(now) => continue,
                Reply::Outcome(outcome) => match *outcome {
                    Outcome::Done { message, .. } => (message, false),
                    _ => continue,
                },
                Reply::Status(_) => continue,
            };
            actions.push(Action::Log(format!("panel: {message}")));
            self.notice(now, message, failed);
        }
    }

    pub(super) fn notice(&mut self, now: Duration, message: String, failed: bool) {
        self.notice = Some((now + NOTICE, Notice { message, failed }));
    }

    /// ENROLL: opens the window, or closes the open one.
    fn press(&mut self, now: Duration, batch: bool, actions: &mut Vec<Action>) {
        if self.window.is_open(now) {
            if self.window == Window::Always {
                return actions.push(Action::Log("each new Pi is let in already: enrol.open is always".to_owned()));
            }
            (self.window, self.orders.swap) = (self.shut(), None);
            actions.push(Action::Log("enrolment window closed by a press".to_owned()));
        } else if self.store_open && !self.images.is_empty() {
            self.open_window(now, batch, actions);
        } else {
            actions.push(Action::Log("ENROLL pressed, but there is no image yet".to_owned()));
        }
    }

    fn open_window(&mut self, now: Duration, batch: bool, actions: &mut Vec<Action>) {
        self.window = Window::open(now, self.config.enrol.window, batch);
        self.enrolled = 0;
        self.somebody_came();
        actions.push(Action::Log(format!("enrolment window open for {} s", self.config.enrol.window.as_secs())));
    }

    /// What the window is while nobody has opened it.
    pub(super) fn shut(&self) -> Window {
        if self.config.enrol.open == Opens::Always { Window::Always } else { Window::Closed }
    }

    /// A store was opened: by configuration that is a held press, as soon as there is an image.
    pub(super) fn plugged(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.opens_by_itself = self.config.enrol.open == Opens::Plug;
        if self.config.enrol.open == Opens::Always {
            actions.push(Action::Log("each new Pi that asks is let in: enrol.open is always".to_owned()));
        }
        self.open_by_itself(now, actions);
    }

    pub(super) fn open_by_itself(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let opens = self.opens_by_itself && self.store_open && !self.images.is_empty();
        if opens && !self.window.is_open(now) {
            self.opens_by_itself = false;
            actions.push(Action::Log("ENROLL by the stick: enrol.open is plug".to_owned()));
            self.open_window(now, true, actions);
        }
    }

    /// The command of that name: what a press does where the window is closed, and what it does where it is open.
    pub(super) fn enrol(&mut self, now: Duration, ticket: u64, batch: bool, close: bool, actions: &mut Vec<Action>) {
        let (open, always) = (self.window.is_open(now), self.window == Window::Always);
        let seconds = self.config.enrol.window.as_secs();
        let reply = match close {
            _ if always && self.store_open => Reply::done("each new Pi is let in already: enrol.open is always"),
            true if open => {
                self.press(now, batch, actions);
                Reply::done("the window is closed")
            }
            true => Reply::done("the window is closed already"),
            false if !self.store_open => Reply::refused("there is no stick with a store"),
            false if self.images.is_empty() => Reply::refused("there is no image yet"),
            false => {
                self.orders.swap = None;
                self.open_window(now, batch, actions);
                let what = if batch { "the new Pis" } else { "the new Pi" };
                Reply::done(format!("power on {what} within {seconds} s"))
            }
        };
        actions.push(Action::Answer(ticket, Box::new(reply)));
    }
}
