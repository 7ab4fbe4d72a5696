//! What there is to show: the views of the overview, and the pages that NEXT turns to.
//!
//! Pure. The overview shows by itself whatever needs a person, then whatever is
//! going on, then rest. Which of them is seen when, and what a press means there,
//! is [`turning`]'s.

#[cfg(test)]
mod samples;
mod turning;

use std::time::Duration;

use crate::client::{ImageId, MacAddr, Role};
use crate::status::{ClientStatus, Enrolment, Notice, Problem, Stage, Status, Stick};
use crate::wire::Finding;

pub use turning::{Meaning, Pages, RETURN_AFTER, hold_shown};

/// Views of one kind that take part in the overview's turns.
const MAX_OF_A_KIND: usize = 3;
/// Images that have a page of their own.
const MAX_IMAGES: usize = 16;
/// A client that has come up is shown for this long.
const SHOW_UP: Duration = Duration::from_secs(20);
/// Until the network has its address, the server counts as starting for this long.
const STARTING: Duration = Duration::from_secs(20);

/// One thing that a screen can be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    Starting,
    /// The stick may be prepared, if a person agrees.
    ConfirmStick,
    UnusableStick,
    /// The appliance's own update: offered, written, on trial.
    Update,
    Problem(Problem),
    /// The enrolment window is open.
    Window,
    Import,
    /// A second stick: what it can become, or is becoming.
    Backup,
    /// A disk of this name can become a recovery card, is becoming one, or is one.
    Card(String),
    Client(Role),
    /// A Pi that asked while the window was closed.
    Stranger(MacAddr),
    NoStick,
    ReadingStick,
    PreparingStick,
    ReleasingStick,
    ReleasedStick,
    /// What became of a press.
    Notice(Notice),
    NoCable,
    NoImage,
    Ready,
    // Pages that NEXT turns to.
    Images,
    /// One of several, to be chosen for new clients.
    Image(ImageId),
    /// Asked before it is done.
    AskReset(Role),
    AskSwap(Role),
    Stick,
    Network,
    About,
}

/// All that the overview has to show now, most important first; never empty.
pub fn views(status: &Status) -> Vec<View> {
    let rest = rest(status);
    if rest == View::Starting {
        return vec![rest];
    }
    let mut views: Vec<View> = status.notice.iter().cloned().map(View::Notice).collect();
    // Before the stick's own question: they take turns, and a held ENROLL means what is seen.
    views.extend(status.update.is_some().then_some(View::Update));
    if matches!(rest, View::ConfirmStick | View::UnusableStick) {
        views.push(rest.clone());
    }
    views.extend(status.problems.iter().take(MAX_OF_A_KIND).cloned().map(View::Problem));
    views.extend(clients(status, |client| matches!(client.stage, Stage::Stalled { .. })));
    let calm = views.len();
    let open = matches!(status.enrolment, Enrolment::Open { .. });
    views.extend(open.then_some(View::Window));
    views.extend(status.backup.is_some().then_some(View::Backup));
    views.extend(status.card.iter().filter(|card| card.shown).map(|card| View::Card(card.name.clone())));
    views.extend(status.import.is_some().then_some(View::Import));
    views.extend(clients(status, booting));
    let idle = views.len() == calm;
    if !open && matches!(rest, View::Ready) {
        // Newest first in the status; ENROLL is of use only to a stick with an image.
        let strangers = status.strangers.iter().take(MAX_OF_A_KIND);
        views.extend(strangers.map(|stranger| View::Stranger(stranger.mac)));
    }
    let covered = matches!(rest, View::Ready | View::NoImage) && !idle;
    // Nothing has no cable to plug: the problem by its name is all there is to tell.
    let told = rest == View::NoCable
        && matches!(status.network.wire, Finding::NoInterface { .. })
        && views.iter().any(|view| matches!(view, View::Problem(_)));
    if !covered && !told && !views.contains(&rest) {
        views.push(rest);
    }
    views
}

fn booting(client: &ClientStatus) -> bool {
    client.stage.is_booting() || (matches!(client.stage, Stage::Up { .. }) && client.since < SHOW_UP)
}

/// The clients that `wanted` names, whose stage changed last first.
fn clients(status: &Status, wanted: impl Fn(&ClientStatus) -> bool) -> impl Iterator<Item = View> {
    let mut clients: Vec<&ClientStatus> = status.clients.iter().filter(|client| wanted(client)).collect();
    clients.sort_by_key(|client| client.since);
    clients.into_iter().take(MAX_OF_A_KIND).map(|client| View::Client(client.role.clone()))
}

/// What is shown while nothing goes on.
fn rest(status: &Status) -> View {
    match status.stick {
        Stick::Absent if status.network.address.is_none() && status.uptime < STARTING => View::Starting,
        Stick::Absent => View::NoStick,
        Stick::Reading => View::ReadingStick,
        Stick::NeedsConfirmation { .. } => View::ConfirmStick,
        Stick::Preparing => View::PreparingStick,
        Stick::Unusable { .. } => View::UnusableStick,
        Stick::Releasing { .. } => View::ReleasingStick,
        Stick::Released { .. } => View::ReleasedStick,
        Stick::Ready { .. } if !status.network.carrier => View::NoCable,
        Stick::Ready { .. } if status.images.is_empty() => View::NoImage,
        Stick::Ready { .. } => View::Ready,
    }
}

/// The pages that NEXT turns through after the overview.
fn pages(status: &Status) -> Vec<View> {
    let overview = views(status);
    // What the overview tells in turn with other things has a page where ENROLL is about it alone.
    let rest = rest(status);
    let summary = (matches!(rest, View::Ready | View::ConfirmStick) && overview != [rest.clone()]).then_some(rest);
    let clients = status.clients.iter().map(|client| View::Client(client.role.clone()));
    let images: Vec<View> = match status.images.as_slice() {
        [] | [_] => vec![View::Images],
        // The one for new Pis first; it is the last in the status.
        images => images.iter().rev().take(MAX_IMAGES).cloned().map(View::Image).collect(),
    };
    let others = [View::Stick, View::Network, View::About];
    let card = status.card.iter().map(|card| View::Card(card.name.clone()));
    summary.into_iter().chain(card).chain(clients).chain(images).chain(others).collect()
}

/// Whether the page is still about something.
fn stands(status: &Status, page: &View) -> bool {
    match page {
        View::AskReset(role) | View::AskSwap(role) => status.clients.iter().any(|client| client.role == *role),
        page => pages(status).contains(page),
    }
}

#[cfg(test)]
mod tests {
    use super::samples::*;
    use super::*;
    use crate::client::Model;
    use crate::diagnose::Hint;
    use crate::status::{Import, Network, NewPlace, Stranger};

    #[test]
    fn a_problem_comes_first_then_the_window_the_import_and_a_booting_client() {
        let mut status = ready();
        assert_eq!(views(&status), [View::Ready]);
        status.clients = vec![client(1, Stage::Kernel, 5), client(2, Stage::Up { after: Some(SECOND) }, 3600)];
        assert_eq!(views(&status), [pi(1)]);
        status.import = Some(Import { file: String::new(), per_mille: 0, left: None });
        status.enrolment = open();
        status.problems = vec![problem("a")];
        assert_eq!(views(&status), [View::Problem(problem("a")), View::Window, View::Import, pi(1)]);
    }

    #[test]
    fn what_hinders_everything_is_always_among_the_views() {
        let check = |status: &Status, expected: &[View]| assert_eq!(views(status), expected);
        check(&Status::default(), &[View::Starting]);
        check(&Status { stick: Stick::Absent, ..ready() }, &[View::NoStick]);
        check(&Status { images: vec![], ..ready() }, &[View::NoImage]);
        check(&Status { network: Network { carrier: false, ..ready().network }, ..ready() }, &[View::NoCable]);
        let wire = Finding::NoInterface { named: true };
        let network = Network { carrier: false, address: None, wire };
        check(&Status { network, problems: vec![problem("no eth7")], ..ready() }, &[View::Problem(problem("no eth7"))]);
        let confirm = Stick::NeedsConfirmation { name: String::new(), free_bytes: 0, place: NewPlace::File };
        let asked = Status { stick: confirm, problems: vec![problem("a")], ..ready() };
        check(&asked, &[View::ConfirmStick, View::Problem(problem("a"))]);
        let pulled = Status { stick: Stick::Absent, clients: vec![client(1, Stage::Kernel, 1)], ..ready() };
        check(&pulled, &[pi(1), View::NoStick]);
    }

    #[test]
    fn a_stranger_is_shown_only_where_enroll_would_help() {
        let stranger =
            Stranger { mac: MacAddr([1; 6]), model: Model::Pi5, serial: None, memory_mib: None, hint: None, of: None };
        let mut status = Status { strangers: vec![stranger], ..ready() };
        assert_eq!(views(&status), [View::Stranger(MacAddr([1; 6])), View::Ready]);
        status.enrolment = open();
        assert_eq!(views(&status), [View::Window]);
        status.stick = Stick::Absent;
        assert_eq!(views(&status), [View::Window, View::NoStick]);
    }

    #[test]
    fn the_overview_is_bounded_however_much_goes_on() {
        let mut status = ready();
        let stalled = Stage::Stalled { at: "kernel".into(), hint: Hint::KernelSilent };
        status.clients = (1..=200).map(|n| client(n, Stage::Kernel, u64::from(n))).collect();
        status.clients.extend((201..=400).map(|n| client(n, stalled.clone(), u64::from(n))));
        status.problems = (0..100).map(|n| problem(&n.to_string())).collect();
        assert_eq!(views(&status).len(), 3 * MAX_OF_A_KIND);
        assert_eq!(views(&status)[3..], [pi(201), pi(202), pi(203), pi(1), pi(2), pi(3)]);
    }
}
