//! Which view is shown: what matters most now, or what a person turned to; and what a press means there.
//!
//! Pure: the time is an argument. The overview shows by itself whatever needs a
//! person, then whatever is going on, then rest. Something new is shown at once;
//! where several views matter they take turns, so that a lasting problem never
//! hides the enrolment window. NEXT turns to the other pages and comes back.
//!
//! What ENROLL means follows from the page. On the overview it is the enrolment
//! window's button. What costs something is asked on a page of its own first, and
//! done when ENROLL is held there:
//!
//! | page | ENROLL | ENROLL held |
//! |---|---|---|
//! | a client's | asks: reset it? | of one that is off, stuck or gone: swap its board; else asks |
//! | reset it? | asks: swap its board? | resets it |
//! | swap its board? | asks: reset it? | opens the window for its new board |
//! | one of several images | new Pis get it | the same |
//! | ready | the overview's | opens the window for several, also while the overview asks about an update |
//! | recovery card? | the overview's | writes it: all on that disk is lost |
//! | new stick | the overview's | makes its store, also while the overview asks about an update or a card |
//! | stick | the overview's | lets go of the stick |
//! | about | self-test | saves a report |

use std::time::Duration;

use super::{View, pages, stands, views};
use crate::client::Role;
use crate::panel::gestures::LONGER_HOLD;
use crate::panel::{Button, Gesture, Wish, screens};
use crate::status::{CardStep, Stage, Status, Stick, Update};

/// A page that a person turned to is left by itself after this long.
pub const RETURN_AFTER: Duration = Duration::from_secs(30);

/// What a press meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// The page was turned, and that is all.
    Turn,
    /// What it means on the overview.
    Plain,
    Wish(Wish),
}

/// What is shown, and how it came to be.
#[derive(Debug)]
pub struct Pages {
    /// The page a person turned to, and when.
    turned: Option<(View, Duration)>,
    views: Vec<View>,
    index: usize,
    since: Duration,
}

impl Default for Pages {
    fn default() -> Self {
        Self { turned: None, views: vec![View::Starting], index: 0, since: Duration::ZERO }
    }
}

impl Pages {
    /// Follows the status and the clock. Called before each drawing. While a
    /// button is `held` the page stays: the hold is about what is seen.
    pub fn update(&mut self, now: Duration, status: &Status, held: bool) {
        if held && self.turned.as_ref().is_some_and(|(page, _)| stands(status, page)) {
            return;
        }
        let views = views(status);
        let shown = self.overview();
        // Nothing may take the place of the question that a person is saying yes to, and of that disk.
        if held && self.turned.is_none() && asks_for_a_hold(status, &shown) {
            return;
        }
        let appeared = views.iter().position(|view| !self.views.contains(view));
        let kept = views.iter().position(|view| *view == shown);
        if appeared.is_some_and(|index| urgent(&views[index])) {
            self.turned = None;
        }
        (self.index, self.since) = match (appeared, kept) {
            (Some(index), _) => (index, now),
            (None, Some(index)) => (index, self.since),
            (None, None) => (0, now),
        };
        self.views = views;
        if now.saturating_sub(self.since) >= screens::dwell(status, &self.overview()) && self.views.len() > 1 {
            (self.index, self.since) = ((self.index + 1) % self.views.len(), now);
        }
        let over = |(page, at): &(View, Duration)| now.saturating_sub(*at) >= RETURN_AFTER || !stands(status, page);
        if self.turned.as_ref().is_some_and(over) {
            self.turned = None;
        }
    }

    /// A press: NEXT turns the page, held it goes back; ENROLL does what the page is about,
    /// or goes to the overview, where its effect is seen.
    pub fn press(&mut self, now: Duration, gesture: Gesture, status: &Status) -> Meaning {
        if matches!(gesture, Gesture::Longer(_)) {
            return Meaning::Plain;
        }
        let page = self.turned.take().map(|(page, _)| page);
        let (next, meaning) = match (gesture, page) {
            (Gesture::Short(Button::Next), page) => (next(status, page), Meaning::Turn),
            (Gesture::Long(Button::Next), _) => (None, Meaning::Plain),
            (Gesture::Short(Button::Enroll), Some(View::Client(role) | View::AskSwap(role))) => {
                (Some(View::AskReset(role)), Meaning::Turn)
            }
            (Gesture::Short(Button::Enroll), Some(View::AskReset(role))) => (Some(View::AskSwap(role)), Meaning::Turn),
            (Gesture::Long(Button::Enroll), Some(View::Client(role))) => match may_be_dead(status, &role) {
                true => (None, Meaning::Wish(Wish::Swap(role))),
                false => (Some(View::AskReset(role)), Meaning::Turn),
            },
            (Gesture::Long(Button::Enroll), Some(View::AskReset(role))) => (None, Meaning::Wish(Wish::Reset(role))),
            (Gesture::Long(Button::Enroll), Some(View::AskSwap(role))) => (None, Meaning::Wish(Wish::Swap(role))),
            // Seen as its own page only while the overview is about something else, such as an update.
            (Gesture::Long(Button::Enroll), Some(View::Ready)) => (None, Meaning::Wish(Wish::EnrolMany)),
            (Gesture::Long(Button::Enroll), Some(View::ConfirmStick)) => (None, Meaning::Wish(Wish::MakeStore)),
            (_, Some(View::Image(image))) => (None, Meaning::Wish(Wish::ImageDefault(image))),
            (Gesture::Short(Button::Enroll), Some(View::About)) => (None, Meaning::Wish(Wish::SelfTest)),
            (Gesture::Long(Button::Enroll), Some(View::About)) => (None, Meaning::Wish(Wish::Report)),
            (Gesture::Long(Button::Enroll), Some(View::Stick)) if matches!(status.stick, Stick::Ready { .. }) => {
                (None, Meaning::Wish(Wish::Release))
            }
            (Gesture::Long(Button::Enroll), Some(View::Card(name))) => {
                match asks_for_card(status, &View::Card(name.clone())) {
                    true => (None, Meaning::Wish(Wish::WriteCard(name))),
                    false => (Some(View::Card(name)), Meaning::Turn),
                }
            }
            (Gesture::Long(Button::Enroll), None) if asks_for_a_hold(status, &self.overview()) => match self.overview()
            {
                View::Card(name) => (None, Meaning::Wish(Wish::WriteCard(name))),
                View::ConfirmStick => (None, Meaning::Wish(Wish::MakeStore)),
                _ => (None, Meaning::Plain),
            },
            _ if matches!(status.stick, Stick::Released { .. }) => (None, Meaning::Wish(Wish::Resume)),
            _ => (None, Meaning::Plain),
        };
        self.turned = next.map(|page| (page, now));
        meaning
    }

    /// The view to draw and how long it has been shown.
    pub fn current(&self, now: Duration) -> (View, Duration) {
        match &self.turned {
            Some((page, at)) => (page.clone(), now.saturating_sub(*at)),
            None => (self.overview(), now.saturating_sub(self.since)),
        }
    }

    /// Where among the pages a person is, the overview being 0; `None` on the overview.
    pub fn place(&self, status: &Status) -> Option<(usize, usize)> {
        let (page, _) = self.turned.as_ref()?;
        let pages = pages(status);
        let index = pages.iter().position(|other| other == page)?;
        Some((index + 1, pages.len() + 1))
    }

    fn overview(&self) -> View {
        self.views.get(self.index).cloned().unwrap_or(View::Starting)
    }
}

/// The page that NEXT turns to; none is the overview. From a question it goes back to what it is about.
fn next(status: &Status, page: Option<View>) -> Option<View> {
    if let Some(View::AskReset(role) | View::AskSwap(role)) = page {
        return Some(View::Client(role));
    }
    let pages = pages(status);
    let at = page.and_then(|page| pages.iter().position(|other| *other == page));
    pages.into_iter().nth(at.map_or(0, |at| at + 1))
}

/// Whether the view asks for a hold that makes a disk a recovery card.
fn asks_for_card(status: &Status, view: &View) -> bool {
    let offered = status.card.as_ref().filter(|card| matches!(card.step, CardStep::Offered { .. }));
    matches!((view, offered), (View::Card(name), Some(card)) if *name == card.name)
}

/// Whether the view asks for a hold, which is then about it and nothing else.
fn asks_for_a_hold(status: &Status, view: &View) -> bool {
    match view {
        View::Card(_) => asks_for_card(status, view),
        View::ConfirmStick => matches!(status.stick, Stick::NeedsConfirmation { .. }),
        View::Update => matches!(status.update, Some(Update::Offered { .. })),
        _ => false,
    }
}

/// Of a hold in thousandths of `HOLD`, how far it is; none when it is over. Only a downgrade waits for a longer one.
pub fn hold_shown(view: &View, status: &Status, hold: u16) -> Option<u16> {
    let older = matches!(status.update, Some(Update::Offered { older: true, .. }));
    match *view == View::Update && older {
        true => u16::try_from(u32::from(hold) * 1000 / u32::from(LONGER_HOLD)).ok(),
        false => Some(hold).filter(|hold| *hold <= 1000),
    }
}

/// Whether a hold on its page may begin a swap without a question.
fn may_be_dead(status: &Status, role: &Role) -> bool {
    let client = status.clients.iter().find(|client| client.role == *role);
    client.is_some_and(|client| matches!(client.stage, Stage::Off | Stage::Gone | Stage::Stalled { .. }))
}

/// Worth taking a person away from the page they turned to.
fn urgent(view: &View) -> bool {
    matches!(view, View::Update | View::ConfirmStick | View::UnusableStick | View::Problem(_) | View::Window)
        || matches!(view, View::Notice(_) | View::ReleasingStick | View::ReleasedStick | View::Backup | View::Card(_))
}

#[cfg(test)]
mod tests {
    use super::super::samples::*;
    use super::*;
    use crate::client::ImageId;
    use crate::diagnose::Hint;
    use crate::status::{Enrolment, NewPlace};

    const NEXT: Gesture = Gesture::Short(Button::Next);

    #[test]
    fn something_new_is_shown_at_once_and_then_views_take_turns() {
        let mut pages = Pages::default();
        let mut status = ready();
        let check = |pages: &mut Pages, seconds: u32, status: &Status, expected: View| {
            pages.update(SECOND * seconds, status, false);
            assert_eq!(pages.current(SECOND * seconds).0, expected, "at {seconds} s");
        };
        check(&mut pages, 0, &status, View::Ready);
        check(&mut pages, 1000, &status, View::Ready);
        status.problems = vec![problem("a")];
        check(&mut pages, 1001, &status, View::Problem(problem("a")));
        status.enrolment = open();
        check(&mut pages, 1002, &status, View::Window);
        check(&mut pages, 1003, &status, View::Window);
        check(&mut pages, 1011, &status, View::Problem(problem("a")));
        check(&mut pages, 1016, &status, View::Window);
        status.enrolment = Enrolment::Closed;
        check(&mut pages, 1017, &status, View::Ready);
    }

    #[test]
    fn next_turns_through_every_page_and_back_to_the_overview() {
        let mut pages = Pages::default();
        let status = Status { clients: vec![client(1, Stage::Up { after: Some(SECOND) }, 99)], ..ready() };
        let mut seen = Vec::new();
        for _ in 0..6 {
            pages.update(SECOND, &status, false);
            seen.push((pages.current(SECOND).0, pages.place(&status)));
            pages.press(SECOND, NEXT, &status);
        }
        let place = |index| Some((index, 6));
        let expected = [
            (View::Ready, None),
            (pi(1), place(1)),
            (View::Images, place(2)),
            (View::Stick, place(3)),
            (View::Network, place(4)),
            (View::About, place(5)),
        ];
        assert_eq!(seen, expected);
        pages.update(SECOND, &status, false);
        assert_eq!(pages.current(SECOND).0, View::Ready);
    }

    #[test]
    fn a_turned_page_is_left_after_thirty_seconds_or_by_holding_next() {
        let mut pages = Pages::default();
        let status = ready();
        let mut shown = |at: u32, gesture: Option<Gesture>| {
            pages.update(SECOND * at, &status, false);
            if let Some(gesture) = gesture {
                pages.press(SECOND * at, gesture, &status);
            }
            pages.current(SECOND * at).0
        };
        assert_eq!(shown(0, Some(NEXT)), View::Images);
        assert_eq!(shown(29, None), View::Images);
        assert_eq!(shown(30, None), View::Ready);
        assert_eq!(shown(31, Some(NEXT)), View::Images);
        assert_eq!(shown(32, Some(Gesture::Long(Button::Next))), View::Ready);
        assert_eq!(shown(33, Some(NEXT)), View::Images);
        assert_eq!(shown(34, Some(Gesture::Short(Button::Enroll))), View::Ready);
    }

    #[test]
    fn an_urgent_view_ends_turning_and_a_booting_client_does_not() {
        let mut pages = Pages::default();
        let mut status = ready();
        pages.update(SECOND, &status, false);
        pages.press(SECOND, NEXT, &status);
        status.clients = vec![client(1, Stage::Kernel, 1)];
        pages.update(SECOND * 2, &status, false);
        assert_eq!(pages.current(SECOND * 2).0, View::Images);
        status.enrolment = open();
        pages.update(SECOND * 3, &status, false);
        assert_eq!(pages.current(SECOND * 3).0, View::Window);
    }

    const ENROLL: Gesture = Gesture::Short(Button::Enroll);
    const HELD: Gesture = Gesture::Long(Button::Enroll);

    /// Presses from the overview on; the last one's meaning, and the page after it.
    fn pressed(status: &Status, presses: &[Gesture]) -> (Meaning, View) {
        let mut pages = Pages::default();
        let mut meaning = Meaning::Turn;
        for &press in presses {
            pages.update(SECOND, status, false);
            meaning = pages.press(SECOND, press, status);
        }
        pages.update(SECOND, status, false);
        (meaning, pages.current(SECOND).0)
    }

    #[test]
    fn every_action_is_reached_by_two_buttons_and_what_costs_something_is_held() {
        let role = Role::numbered(1);
        let running = Status { clients: vec![client(1, Stage::Running { after: None }, 99)], ..ready() };
        let stuck = Stage::Stalled { at: "kernel".into(), hint: Hint::KernelSilent };
        let (reset, swap) = (View::AskReset(role.clone()), View::AskSwap(role.clone()));
        let check = |status: &Status, presses: &[Gesture], meaning: Meaning, view: &View| {
            assert_eq!(pressed(status, presses), (meaning, view.clone()), "{presses:?}");
        };
        check(&running, &[ENROLL], Meaning::Plain, &View::Ready);
        check(&running, &[HELD], Meaning::Plain, &View::Ready);
        check(&running, &[NEXT, ENROLL], Meaning::Turn, &reset);
        check(&running, &[NEXT, HELD], Meaning::Turn, &reset);
        check(&running, &[NEXT, ENROLL, NEXT], Meaning::Turn, &pi(1));
        check(&running, &[NEXT, ENROLL, HELD], Meaning::Wish(Wish::Reset(role.clone())), &View::Ready);
        check(&running, &[NEXT, ENROLL, ENROLL], Meaning::Turn, &swap);
        check(&running, &[NEXT, ENROLL, ENROLL, HELD], Meaning::Wish(Wish::Swap(role.clone())), &View::Ready);
        check(&running, &[NEXT, ENROLL, ENROLL, ENROLL], Meaning::Turn, &reset);
        for stage in [Stage::Off, Stage::Gone] {
            let dead = Status { clients: vec![client(1, stage, 99)], ..ready() };
            check(&dead, &[NEXT, HELD], Meaning::Wish(Wish::Swap(role.clone())), &View::Ready);
        }
        let dead = Status { clients: vec![client(1, stuck, 99)], ..ready() };
        check(&dead, &[NEXT, NEXT, HELD], Meaning::Wish(Wish::Swap(role.clone())), &pi(1));
        check(&running, &[NEXT, NEXT, NEXT, HELD], Meaning::Wish(Wish::Release), &View::Ready);
        check(&running, &[NEXT, NEXT, NEXT, ENROLL], Meaning::Plain, &View::Ready);
        // Behind its client: images, stick, network, about.
        let about = [NEXT; 5];
        check(&running, &about, Meaning::Turn, &View::About);
        check(&running, &[&about[..], &[ENROLL]].concat(), Meaning::Wish(Wish::SelfTest), &View::Ready);
        check(&running, &[&about[..], &[HELD]].concat(), Meaning::Wish(Wish::Report), &View::Ready);
        check(&running, &[Gesture::Long(Button::Next)], Meaning::Plain, &View::Ready);
        let released = Status { stick: Stick::Released { name: String::new() }, ..ready() };
        check(&released, &[ENROLL], Meaning::Wish(Wish::Resume), &View::ReleasedStick);
    }

    #[test]
    fn one_of_several_images_is_chosen_on_its_page() {
        let images: Vec<ImageId> = ["debian-1", "raspios-2", "ubuntu-3"].map(|id| id.parse().unwrap()).to_vec();
        let status = Status { images: images.clone(), ..ready() };
        let seen = |presses: &[Gesture]| pressed(&status, presses).1;
        assert_eq!(seen(&[NEXT]), View::Image(images[2].clone()), "what new Pis get stands first");
        assert_eq!(seen(&[NEXT, NEXT]), View::Image(images[1].clone()));
        let wish = Meaning::Wish(Wish::ImageDefault(images[1].clone()));
        assert_eq!(pressed(&status, &[NEXT, NEXT, ENROLL]), (wish, View::Ready));
    }

    #[test]
    fn a_page_stays_while_a_button_is_held_whatever_else_happens() {
        let mut pages = Pages::default();
        let mut status = Status { clients: vec![client(1, Stage::Off, 1)], ..ready() };
        pages.update(SECOND, &status, false);
        pages.press(SECOND, NEXT, &status);
        pages.press(SECOND, ENROLL, &status);
        status.problems = vec![problem("a")];
        pages.update(SECOND * 2, &status, true);
        assert_eq!(pages.current(SECOND).0, View::AskReset(Role::numbered(1)));
        pages.update(SECOND * 3, &status, false);
        assert_eq!(pages.current(SECOND).0, View::Problem(problem("a")));
    }

    #[test]
    fn a_page_whose_client_has_gone_is_left() {
        let mut pages = Pages::default();
        let mut status = Status { clients: vec![client(1, Stage::Off, 1)], ..ready() };
        pages.update(SECOND, &status, false);
        pages.press(SECOND, NEXT, &status);
        assert_eq!(pages.current(SECOND).0, pi(1));
        status.clients.clear();
        pages.update(SECOND, &status, false);
        assert_eq!(pages.current(SECOND).0, View::Ready);
    }

    #[test]
    fn a_hold_makes_a_card_only_where_its_question_is_seen() {
        let (hold, write) = (Gesture::Long(Button::Enroll), Meaning::Wish(Wish::WriteCard("Reader".to_owned())));
        let pressed = |status: &Status, gestures: &[Gesture]| {
            let mut pages = Pages::default();
            pages.update(Duration::ZERO, status, false);
            gestures.iter().map(|gesture| pages.press(SECOND, *gesture, status)).last()
        };
        let (shown, paged) = (card(true, offered()), card(false, offered()));
        assert_eq!(pressed(&shown, &[hold]), Some(write.clone()));
        assert_eq!(pressed(&shown, &[Gesture::Short(Button::Enroll)]), Some(Meaning::Plain));
        assert_eq!(pressed(&paged, &[hold]), Some(Meaning::Plain), "the overview asks something else");
        assert_eq!(pressed(&paged, &[NEXT, hold]), Some(write), "its page is the first");
        assert_eq!(pressed(&paged, &[NEXT, NEXT, hold]), Some(Meaning::Plain));
        for step in [CardStep::Writing { per_mille: 1 }, CardStep::Written] {
            assert_eq!(pressed(&card(false, step), &[NEXT, hold]), Some(Meaning::Turn), "written once");
        }
    }

    #[test]
    fn an_update_on_the_stick_leaves_the_page_that_says_ready_its_held_press() {
        let hold = Gesture::Long(Button::Enroll);
        let update = Some(Update::Offered { version: "0.2.0".to_owned(), older: false, tried: false });
        let status = Status { update, images: vec!["debian-1".parse().unwrap()], ..ready() };
        assert_eq!(pressed(&status, &[hold]), (Meaning::Plain, View::Update), "the update");
        assert_eq!(pressed(&status, &[NEXT]).1, View::Ready);
        assert_eq!(pressed(&status, &[NEXT, hold]).0, Meaning::Wish(Wish::EnrolMany));
        assert_eq!(pressed(&status, &[NEXT, ENROLL]).0, Meaning::Plain);
    }

    #[test]
    fn on_a_stick_without_a_store_a_hold_means_the_question_that_is_seen() {
        let hold = Gesture::Long(Button::Enroll);
        let update = Some(Update::Offered { version: "0.2.0".to_owned(), older: false, tried: false });
        for place in [NewPlace::Partition, NewPlace::File, NewPlace::Copy] {
            let stick = Stick::NeedsConfirmation { name: "Stick".to_owned(), free_bytes: 1 << 33, place };
            let status = Status { stick, update: update.clone(), ..ready() };
            let mut pages = Pages::default();
            let mut held = |at: Duration| {
                pages.update(at, &status, false);
                // Both take turns, but not below a finger.
                let seen = pages.current(at).0;
                pages.update(at + SECOND * 60, &status, true);
                assert_eq!(pages.current(at + SECOND * 60).0, seen);
                (seen, pages.press(at + SECOND * 60, hold, &status))
            };
            assert_eq!(held(SECOND), (View::Update, Meaning::Plain));
            assert_eq!(held(SECOND * 100), (View::ConfirmStick, Meaning::Wish(Wish::MakeStore)));
            assert_eq!(pressed(&status, &[NEXT]).1, View::ConfirmStick, "without waiting for its turn");
            assert_eq!(pressed(&status, &[NEXT, hold]).0, Meaning::Wish(Wish::MakeStore));
            assert_eq!(pressed(&status, &[NEXT, ENROLL]).0, Meaning::Plain);
        }
    }

    #[test]
    fn only_a_downgrades_hold_is_a_longer_one() {
        let offered = |older| Update::Offered { version: "0.1.0".to_owned(), older, tried: false };
        let shown =
            |older, view: &View, hold| hold_shown(view, &Status { update: Some(offered(older)), ..ready() }, hold);
        assert_eq!(shown(true, &View::Update, LONGER_HOLD), Some(1000));
        assert_eq!(shown(true, &View::Update, 1000), Some(375));
        assert_eq!(shown(true, &View::About, 1001), None, "it is about what is seen");
        assert_eq!([999, 1001].map(|hold| shown(false, &View::Update, hold)), [Some(999), None]);
        // What was held for its own sake is not undone by being held on.
        let released = Status { stick: Stick::Released { name: String::new() }, ..ready() };
        let longer = Gesture::Longer(Button::Enroll);
        assert_eq!(Pages::default().press(SECOND, longer, &released), Meaning::Plain);
    }

    #[test]
    fn nothing_takes_the_cards_question_away_while_a_button_is_held() {
        let mut pages = Pages::default();
        pages.update(Duration::ZERO, &card(true, offered()), false);
        let seen = View::Card("Reader".to_owned());
        let other = Status { problems: vec![problem("Another")], ..card(true, offered()) };
        pages.update(SECOND, &other, true);
        assert_eq!(pages.current(SECOND).0, seen);
        // Let go of, or the disk is gone.
        pages.update(SECOND * 2, &other, false);
        assert_ne!(pages.current(SECOND * 2).0, seen);
        pages.update(SECOND * 3, &ready(), true);
        assert_eq!(pages.press(SECOND * 4, Gesture::Long(Button::Enroll), &ready()), Meaning::Plain);
    }
}
