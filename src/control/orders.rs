//! Orders of a person at a command line: refused, or passed to the store when
//! the client that they are about does not run.
//!
//! Pure. Whether a client runs is told by its boot, while that is under way,
//! and else by the wire: its address is asked for by ARP, which a running
//! kernel answers. A client under work is not published, so that nobody holds
//! its trees, and its DHCP requests wait.

use std::time::Duration;

use super::problems::Topic;
use super::{Action, At, Control};
use crate::client::{MacAddr, Role};
use crate::dhcp;
use crate::enrol::Window;
use crate::orders::{Order, Reply, Request};
use crate::stage::Boot;
use crate::status::{Stage, Status};
use crate::store;
use crate::store::operate::{Board, Operation, Outcome};

/// Orders that wait for the wire or the store.
const MAX_ORDERS: usize = 32;
/// A question to the wire without an answer after this time was lost: the
/// network answers within 0.3 s.
const PATIENCE: Duration = Duration::from_secs(1);
/// Nobody has this address: whoever answers for the asked one is told.
const NOBODY: MacAddr = MacAddr([0; 6]);
/// The ticket of a swap that control began by itself.
const OWN: u64 = 0;

/// What is under way.
#[derive(Debug, Default)]
pub struct Orders {
    asking: Vec<Asking>,
    /// Operations at the store that took a client's trees down.
    down: Vec<(u64, Role)>,
    /// Whose operation has ended, until the store says what there is now.
    pub(super) ended: Vec<Role>,
    /// Whom the open window is for; none: new clients.
    pub(super) swap: Option<Role>,
}

/// Waits for the wire's word whether the client runs.
#[derive(Debug)]
struct Asking {
    ticket: u64,
    request: Request,
    role: Role,
    since: Duration,
}

impl Orders {
    /// Whether the client's trees are not to be served just now.
    pub(super) fn is_down(&self, role: &Role) -> bool {
        self.down.iter().any(|(_, down)| down == role)
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.asking.iter().map(|asking| asking.since + PATIENCE).min()
    }
}

/// A boot of which nothing was heard for so long has ended, or its kernel
/// answers for it: from the last file to a kernel's network a Pi takes less.
const BOOT_QUIET: Duration = Duration::from_secs(15);

/// Whether it is between power-on and a kernel that answers ARP.
fn is_booting(now: Duration, boot: &Boot) -> bool {
    let stage = boot.stage().is_booting() && *boot.stage() != Stage::RootMounted;
    stage && boot.quiet(now) < BOOT_QUIET
}

impl Control {
    pub(super) fn order(&mut self, now: Duration, ticket: u64, order: Order, actions: &mut Vec<Action>) {
        let refuse = |message: &str| Action::Answer(ticket, Box::new(Reply::refused(message)));
        match order.request {
            Request::Status => {
                let status = Status { uptime: Duration::from_secs(now.as_secs()), ..self.status(now) };
                return actions.push(Action::Answer(ticket, Box::new(Reply::Status(Box::new(status.into())))));
            }
            Request::Report => return self.report_asked(now, Some(ticket), actions),
            Request::Enrol { batch, close } => return self.enrol(now, ticket, batch, close, actions),
            Request::SelfTest { target } => return self.self_test(now, Some(ticket), target, actions),
            _ => {}
        }
        if !self.store_open {
            return actions.push(refuse("there is no stick with a store"));
        }
        if order.request == Request::Backup {
            return self.backup_asked(ticket, actions);
        }
        let role = match &order.request {
            Request::Operation(operation) => operation.stops(),
            Request::SwapNext { role } => Some(role),
            Request::Status | Request::Report | Request::Backup | Request::SelfTest { .. } | Request::Enrol { .. } => {
                None
            }
        };
        let Some(role) = role.filter(|role| self.members.contains_key(role)).cloned() else {
            // Nothing runs that it could hurt; the store knows whether there is such a client.
            return match order.request {
                Request::Operation(operation) => self.pass(ticket, operation, actions),
                Request::SwapNext { role } => actions.push(refuse(&format!("there is no client {role}"))),
                // Answered above.
                Request::Status
                | Request::Report
                | Request::Backup
                | Request::SelfTest { .. }
                | Request::Enrol { .. } => {}
            };
        };
        if self.orders.is_down(&role) || self.orders.asking.iter().any(|asking| asking.role == role) {
            return actions.push(refuse(&format!("{role} is being worked on; try again when that is done")));
        }
        let Some(member) = self.members.get(&role) else { return };
        if order.force {
            return self.go(now, ticket, order.request, &role, actions);
        }
        if is_booting(now, &member.boot) {
            return actions.push(self.runs(ticket, &role));
        }
        if self.orders.asking.len() >= MAX_ORDERS {
            return actions.push(refuse("too much is asked at once; try again later"));
        }
        // Where it would be, if nobody knows where it is.
        let address = member.address().unwrap_or(member.client.address);
        actions.push(Action::Probe(address, NOBODY));
        self.orders.asking.push(Asking { ticket, request: order.request, role, since: now });
    }

    fn runs(&self, ticket: u64, role: &Role) -> Action {
        let message = format!(
            "{role} runs: shut it down first, or ask with --wait (waits until it is off) or --force (takes its root \
             away while it runs)"
        );
        Action::Answer(ticket, Box::new(Reply::Refused { message, running: true }))
    }

    /// The wire has spoken about an address. True: it was asked for an order.
    pub(super) fn order_probed(
        &mut self,
        now: Duration,
        address: std::net::Ipv4Addr,
        other: Option<MacAddr>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let of = |role: &Role| {
            self.members.get(role).is_some_and(|member| member.address().unwrap_or(member.client.address) == address)
        };
        let Some(at) = self.orders.asking.iter().position(|asking| of(&asking.role)) else { return false };
        let asking = self.orders.asking.swap_remove(at);
        let own = self.members.get(&asking.role).map(|member| member.client.mac);
        match other {
            Some(mac) if Some(mac) == own => actions.push(self.runs(asking.ticket, &asking.role)),
            // Somebody else has its address: then it has not.
            _ => self.go(now, asking.ticket, asking.request, &asking.role, actions),
        }
        true
    }

    /// Questions that the wire never answered: there is no wire.
    pub(super) fn orders_due(&mut self, now: Duration, actions: &mut Vec<Action>) {
        while let Some(at) = self.orders.asking.iter().position(|asking| now >= asking.since + PATIENCE) {
            let asking = self.orders.asking.swap_remove(at);
            self.go(now, asking.ticket, asking.request, &asking.role, actions);
        }
    }

    fn go(&mut self, now: Duration, ticket: u64, request: Request, role: &Role, actions: &mut Vec<Action>) {
        match request {
            // About no client's root: answered before.
            Request::Status | Request::Report | Request::Backup | Request::SelfTest { .. } | Request::Enrol { .. } => {}
            Request::Operation(operation) => {
                self.take_down(ticket, role, actions);
                self.pass(ticket, operation, actions);
            }
            Request::SwapNext { role } => {
                self.open_swap(now, role.clone(), actions);
                let seconds = self.config.enrol.window.as_secs();
                let message = format!("power on the new Pi within {seconds} s: it becomes {role}");
                actions.push(Action::Answer(ticket, Box::new(Reply::done(message))));
            }
        }
    }

    /// Opens the window for one board that takes this client over.
    pub(super) fn open_swap(&mut self, now: Duration, role: Role, actions: &mut Vec<Action>) {
        self.window = Window::open(now, self.config.enrol.window, false);
        self.enrolled = 0;
        let seconds = self.config.enrol.window.as_secs();
        actions.push(Action::Log(format!("swap window of {role} open for {seconds} s")));
        self.orders.swap = Some(role);
    }

    fn take_down(&mut self, ticket: u64, role: &Role, actions: &mut Vec<Action>) {
        if let Some(member) = self.members.get_mut(role) {
            member.trees = None;
            // What comes next is another boot.
            member.boot = Boot::default();
        }
        self.orders.down.push((ticket, role.clone()));
        self.publish(actions);
    }

    fn pass(&self, ticket: u64, operation: Operation, actions: &mut Vec<Action>) {
        if !operation.looks() {
            actions.push(Action::Log(format!("order: {operation:?}")));
        }
        actions.push(Action::Store(store::Command::Operate(ticket, Box::new(operation))));
    }

    /// A Pi that we do not know asks while a swap's window is open.
    pub(super) fn swap(&mut self, role: &Role, request: &dhcp::Request, actions: &mut Vec<Action>) {
        let identity = &request.identity;
        let board =
            Board { mac: request.mac, serial: identity.serial, revision: identity.revision, model: identity.model };
        actions.push(Action::Log(format!("{} {} takes over {role}", board.model, board.mac)));
        (self.window, self.orders.swap) = (self.shut(), None);
        self.strangers.retain(|(_, stranger)| stranger.mac != request.mac);
        if let Some(member) = self.members.get_mut(role) {
            // The former board's.
            actions.extend(member.address().map(Action::ForgetNeighbour));
            member.at = At::Ours;
        }
        self.take_down(OWN, role, actions);
        self.pass(OWN, Operation::Swap { role: role.clone(), board }, actions);
    }

    pub(super) fn operated(
        &mut self,
        now: Duration,
        ticket: u64,
        result: Result<Box<Outcome>, String>,
        actions: &mut Vec<Action>,
    ) {
        let role = self.orders.down.iter().find(|(down, _)| *down == ticket).map(|(_, role)| role.clone());
        self.orders.down.retain(|(down, _)| *down != ticket);
        self.orders.ended.extend(role.clone());
        if let (Err(message), Some(role)) = (&result, role.filter(|_| ticket == OWN)) {
            let message = format!("{role}: {message}");
            actions.push(Action::Log(message.clone()));
            self.problems.set(Topic::Client(role), message, "Swap it again".to_owned());
        }
        let reply = match result {
            Ok(outcome) => Reply::Outcome(Box::new(self.with_stages(now, *outcome))),
            Err(message) => Reply::refused(message),
        };
        if ticket != OWN {
            actions.push(Action::Answer(ticket, Box::new(reply)));
        }
    }

    /// Only control knows how far boots are, and what the settings keep back.
    fn with_stages(&self, now: Duration, mut outcome: Outcome) -> Outcome {
        if let (Outcome::Stick(entry), Some(room)) = (&mut outcome, &self.room) {
            entry.reserve_bytes = room.reserve_bytes;
        }
        let entries = match &mut outcome {
            Outcome::Clients(entries) => &mut entries[..],
            Outcome::Client(entry) => std::slice::from_mut(&mut **entry),
            _ => &mut [],
        };
        for entry in entries {
            entry.stage = self.members.get(&entry.role).map(|member| {
                let stage = member.boot.stage().name();
                match (member.boot.stage(), member.boot.since(now).as_secs()) {
                    (Stage::Off, _) => stage.to_owned(),
                    (_, seconds) => format!("{stage}, {seconds} s"),
                }
            });
        }
        outcome
    }
}
