//! What a DHCP request leads to: an answer, an enrolment, or silence.
//!
//! Pure. `dhcp::decide` says what RFC 2131 wants for a client with a binding;
//! this file says who has one. Default deny: whoever is neither a client nor a
//! Pi in an open window gets silence, so that no other server on the wire is
//! disturbed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::problems::Topic;
use super::{Action, At, Control, MAX_STRANGERS, Member, Renewal, publish};
use crate::client::{Client, ImageId, MacAddr, Role};
use crate::dhcp::{self, Answer, Decision, Kind, Request};
use crate::enrol::Window;
use crate::stage::{Boot, Sign};
use crate::status::Stranger;
use crate::store;
use crate::{enrol, net};

/// DISCOVERs that wait for a probe or for their root; more are dropped, and
/// the Pi asks again by itself.
pub(super) const MAX_WAITING: usize = 256;

/// How long a waiting DISCOVER is worth an answer: a Pi repeats within 5 s.
const WAITING_LIFETIME: Duration = Duration::from_secs(5);

/// Clients' addresses that are probed at a time before anybody asks: half of
/// what the network thread probes at once, so that those who ask have room.
const AHEAD: usize = net::MAX_PROBES / 2;

/// A probe without an answer after this time is lost, and asked for anew: the
/// network answers within `net::PROBE_TIME`, 0.3 s.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

fn is_appliance(class: &str) -> bool {
    class.as_bytes() == dhcp::client::APPLIANCE_CLASS
}

#[derive(Debug, Default)]
pub struct Requests {
    /// By MAC, the latest unanswered DISCOVER and when it came.
    waiting: BTreeMap<MacAddr, (Duration, Request)>,
    /// Addresses whose probe is under way or was answered since the start.
    probes: BTreeMap<Ipv4Addr, Probe>,
    conflicts: dhcp::Conflicts,
}

/// A starting system's question for the address that it had (INIT-REBOOT, RFC 2131 §4.3.2, table 4).
fn remembers(request: &Request) -> bool {
    let is_reboot = request.ciaddr.is_unspecified() && request.server_id.is_none() && request.requested.is_some();
    request.kind == Kind::Request && is_reboot && !request.identity.asker.is_loader()
}

impl Requests {
    fn waits(&self, now: Duration, mac: MacAddr) -> bool {
        self.waiting.get(&mac).is_some_and(|(came, _)| now < *came + WAITING_LIFETIME)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// Since when it is under way.
    Asked(Duration),
    Free,
}

impl Control {
    pub(super) fn request(&mut self, now: Duration, request: Request, actions: &mut Vec<Action>) {
        if request.kind == Kind::Discover && request.vendor_class.as_deref().is_some_and(is_appliance) {
            return self.answer_appliance(&request, actions);
        }
        self.overhear(now, &request, actions);
        self.saw_request(now, &request, actions);
        match self.members.values().find(|member| member.client.mac == request.mac) {
            Some(member) => {
                let role = member.client.role.clone();
                self.known(now, &role, request, actions);
            }
            None if request.kind == Kind::Discover && request.identity.asker.is_pi_loader() => {
                self.unknown(now, request, actions);
            }
            None => {}
        }
    }

    fn known(&mut self, now: Duration, role: &Role, request: Request, actions: &mut Vec<Action>) {
        if request.kind == Kind::Discover {
            let sign = match request.program() {
                _ if request.identity.asker.is_loader() => Sign::BootloaderAsks,
                dhcp::Program::Kernel => Sign::KernelAsks,
                dhcp::Program::Ipconfig => Sign::InitramfsAsks,
                dhcp::Program::Other => Sign::SystemAsks,
            };
            self.sign_role(now, role, sign, actions);
            self.renew_all(actions);
        } else if remembers(&request) {
            self.sign_role(now, role, Sign::SystemRemembers, actions);
        }
        let Some(member) = self.members.get(role) else { return };
        let address = member.client.address;
        if !self.store_open || member.trees.is_none() {
            // Its root is not there yet: an answer would let the boot fail half-way.
            if self.store_open && !self.is_beside() {
                // The probe runs while the root is made.
                self.is_free(now, address, request.mac, actions);
            }
            return self.wait(now, request);
        }
        if self.is_undecided() && request.kind == Kind::Discover {
            return self.wait(now, request);
        }
        if self.is_beside() && !self.keeps_our_lease(role, &request) {
            return self.offer_boot(now, role, &request, actions);
        }
        if self.members.values().any(|other| other.client.role != *role && other.elsewhere() == Some(address)) {
            // Another client of ours runs there, by another server's lease.
            self.wait(now, request);
            return self.conflict(now, address, None, actions);
        }
        // A probe before the first use since our start. A client that says it holds the address is believed.
        let holds = request.ciaddr == address || request.requested == Some(address);
        if holds && request.kind == Kind::Request {
            self.requests.probes.insert(address, Probe::Free);
        }
        if !self.is_free(now, address, request.mac, actions) {
            return self.wait(now, request);
        }
        self.answer(now, role, &request, actions);
    }

    /// A client that runs on our lease keeps it beside another server: it renews it here.
    fn keeps_our_lease(&self, role: &Role, request: &Request) -> bool {
        let ours = |member: &Member| member.at == At::Ours && request.ciaddr == member.client.address;
        request.kind != Kind::Discover && self.members.get(role).is_some_and(ours)
    }

    /// It gets our address again, where another server's was before.
    fn move_to_our_lease(&mut self, role: &Role, reply: &dhcp::Reply, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get_mut(role) else { return };
        let former = std::mem::replace(&mut member.at, At::Ours);
        if !matches!(reply.answer, Answer::Offer | Answer::Ack) || former == At::Ours {
            member.at = former;
            return;
        }
        if let At::Elsewhere(address) = former {
            actions.push(Action::ForgetNeighbour(address));
        }
        self.publish(actions);
    }

    /// Another appliance asks who is here. It leases to its own clients only, as
    /// we do to ours, so it need but know of us.
    fn answer_appliance(&mut self, request: &Request, actions: &mut Vec<Action>) {
        if self.network.address.is_some() || self.own() != self.config.network.address {
            actions.push(Action::Send(dhcp::tell_presence(&self.server, request)));
        }
    }

    /// Whether nobody else uses the address, as far as we know; asks the wire if
    /// that is not under way.
    fn is_free(&mut self, now: Duration, address: Ipv4Addr, owner: MacAddr, actions: &mut Vec<Action>) -> bool {
        match self.requests.probes.get(&address) {
            Some(Probe::Free) => return true,
            Some(Probe::Asked(at)) if now < *at + PROBE_PATIENCE => {}
            Some(Probe::Asked(_)) | None => {
                self.requests.probes.insert(address, Probe::Asked(now));
                actions.push(Action::Probe(address, owner));
            }
        }
        false
    }

    /// Probes the addresses of clients that have not asked yet, a few at a time:
    /// when all of them get power at once, nobody waits for that then.
    pub(super) fn probe_ahead(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.is_beside() || !self.network.carrier || self.network.address.is_none() {
            return;
        }
        let running = |probe: &&Probe| matches!(probe, Probe::Asked(at) if now < *at + PROBE_PATIENCE);
        let room = AHEAD.saturating_sub(self.requests.probes.values().filter(running).count());
        let clients = self.members.values().map(|member| (member.client.address, member.client.mac));
        let new = clients.filter(|(address, _)| !self.requests.probes.contains_key(address));
        let next: Vec<_> = new.take(room).collect();
        for (address, mac) in next {
            self.is_free(now, address, mac, actions);
        }
    }

    /// Decides by RFC 2131 and sends.
    fn answer(&mut self, now: Duration, role: &Role, request: &Request, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get(role) else { return };
        let client = &member.client;
        let binding = dhcp::Binding {
            address: client.address,
            role: client.role.clone(),
            root_path: publish::root_path(self.config.network.address.address, client),
        };
        // Also beside another server, where a client that runs on our lease renews it.
        let server = dhcp::Server { subnet: self.config.network.address, ..self.server.clone() };
        match dhcp::decide(&server, Some(&binding), request) {
            Decision::Reply(reply) => {
                self.move_to_our_lease(role, &reply, actions);
                let Some(client) = self.members.get(role).map(|member| &member.client) else { return };
                let bootloader = request.identity.asker.is_loader();
                if bootloader {
                    actions.push(Action::Neighbour(client.mac, client.address));
                }
                let (binds, answer) = (reply.binds, reply.answer);
                actions.push(Action::Send(reply));
                self.saw_answer(now, request, answer, binds);
                if binds && bootloader {
                    self.sign_role(now, role, Sign::Leased, actions);
                }
            }
            Decision::Declined { address } => self.conflict(now, address, None, actions),
            Decision::Silent(_) | Decision::Released { .. } => {}
        }
    }

    fn unknown(&mut self, now: Duration, request: Request, actions: &mut Vec<Action>) {
        self.saw_stranger(now);
        let swapped = self
            .orders
            .swap
            .clone()
            .filter(|role| self.window.is_open(now) && self.store_open && self.members.contains_key(role));
        if let Some(role) = swapped {
            self.swap(&role, &request, actions);
            return self.wait(now, request);
        }
        // The stick may have been pulled, or another put in, while the window is open.
        // Another appliance's client is not ours to take while that one is here.
        // And where nobody pressed anything, two appliances would both take each new Pi.
        let is_free = self.beside.owner(now, request.mac, self.facts.appliance).is_none()
            && (self.window != Window::Always || self.facts.appliance.is_none());
        let image = self.images.last().filter(|_| self.window.is_open(now) && self.store_open && is_free);
        let Some(image) = image.cloned() else { return self.remember_stranger(now, &request, actions) };
        let Some(client) = self.new_client(now, &request, image) else {
            self.problems.set(
                Topic::Network,
                format!("no address left for {}", request.mac),
                "Widen dhcp.first to dhcp.last".to_owned(),
            );
            return;
        };
        actions.push(Action::Log(format!(
            "enrolling {} {} as {} with {}",
            client.model, client.mac, client.role, client.address
        )));
        self.window = self.window.enrolled(now, self.config.enrol.window);
        self.enrolled = self.enrolled.saturating_add(1);
        self.strangers.retain(|(_, stranger)| stranger.mac != request.mac);
        let (role, address) = (client.role.clone(), client.address);
        actions.push(Action::Store(store::Command::CreateClient(Box::new(client.clone()))));
        self.members.insert(
            role.clone(),
            Member { client, trees: None, boot: Boot::default(), renewal: Renewal::None, at: At::Ours },
        );
        self.sign_role(now, &role, Sign::BootloaderAsks, actions);
        if !self.is_beside() {
            // The probe runs while the root is made.
            self.is_free(now, address, request.mac, actions);
        }
        self.wait(now, request);
    }

    fn new_client(&self, now: Duration, request: &Request, image: ImageId) -> Option<Client> {
        let members = || self.members.values().map(|member| &member.client);
        let role = enrol::next_role(members().map(|client| &client.role).chain(&self.taken_roles))?;
        let address = self.free_address(now, request.mac)?;
        let export_id = enrol::export_id(request.mac, &role, |id| members().any(|client| client.export_id == id));
        Some(Client {
            role,
            mac: request.mac,
            serial: request.identity.serial,
            revision: request.identity.revision,
            model: request.identity.model,
            address,
            image,
            mode: self.config.enrol.mode,
            volume_size: self.config.enrol.volume_size,
            quota: self.config.enrol.quota,
            export_id,
        })
    }

    /// Gives clients that this wire cannot reach another address (the appliance's own network was changed since they
    /// were enrolled), and those whose address was given away while their manifest was damaged.
    pub(super) fn readdress(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let network = &self.config.network;
        let fits = |address| network.address.has_host(address) && address != network.address.address;
        let mut taken = std::collections::BTreeSet::new();
        let lost = self.members.values().filter(|m| !fits(m.client.address) || !taken.insert(m.client.address));
        let roles: Vec<Role> = lost.map(|member| member.client.role.clone()).collect();
        for role in roles {
            let Some(mac) = self.members.get(&role).map(|member| member.client.mac) else { continue };
            let Some(free) = self.free_address(now, mac) else { continue };
            let Some(member) = self.members.get_mut(&role) else { continue };
            actions.push(Action::Log(format!("client {role} moves from {} to {free}", member.client.address)));
            member.client.address = free;
            actions.push(Action::Store(store::Command::SaveClient(Box::new(member.client.clone()))));
        }
    }

    fn free_address(&self, now: Duration, mac: MacAddr) -> Option<Ipv4Addr> {
        let network = &self.config.network;
        let pool = dhcp::Pool {
            subnet: network.address,
            first: self.config.dhcp.first,
            last: self.config.dhcp.last,
            reserved: network.gateway.into_iter().chain(network.dns.iter().copied()).collect(),
        };
        let has = |member: &Member, address| member.client.address == address || member.elsewhere() == Some(address);
        let bound = |address| self.members.values().any(|member| has(member, address));
        dhcp::allocate(&pool, mac, |address| bound(address) || self.requests.conflicts.has(now, address))
    }

    fn remember_stranger(&mut self, now: Duration, request: &Request, actions: &mut Vec<Action>) {
        let (identity, of) = (&request.identity, self.beside.owner(now, request.mac, self.facts.appliance));
        let before = self.strangers.len();
        self.strangers.retain(|(_, stranger)| stranger.mac != request.mac);
        if self.strangers.len() == before {
            let (model, mac) = (identity.model, request.mac);
            let line = match of {
                Some(of) => format!("{model} {mac} asks; it is a client of the appliance {of}"),
                None => format!("unknown {model} {mac} asks; press ENROLL to take it"),
            };
            self.arrivals.log(now, line, actions);
        }
        let stranger = Stranger {
            mac: request.mac,
            model: identity.model,
            serial: identity.serial,
            memory_mib: identity.memory_mib(),
            of,
            hint: None,
        };
        self.strangers.push_front((now, stranger));
        self.strangers.truncate(MAX_STRANGERS);
    }

    pub(super) fn wait(&mut self, now: Duration, request: Request) {
        let waiting = &mut self.requests.waiting;
        waiting.retain(|_, (came, _)| now < *came + WAITING_LIFETIME);
        if waiting.len() < MAX_WAITING || waiting.contains_key(&request.mac) {
            waiting.insert(request.mac, (now, request));
        }
    }

    /// Something that DISCOVERs waited for has come: decide about them again.
    pub(super) fn answer_waiting(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let waiting = std::mem::take(&mut self.requests.waiting);
        for (mac, (came, request)) in waiting {
            if now >= came + WAITING_LIFETIME {
                continue;
            }
            let member = self.members.values().find(|member| member.client.mac == mac);
            let ready = |member: &&Member| {
                self.store_open
                    && member.trees.is_some()
                    && !self.is_undecided()
                    && (self.is_beside()
                        || !matches!(self.requests.probes.get(&member.client.address), Some(Probe::Asked(_))))
            };
            match member.filter(ready).map(|member| member.client.role.clone()) {
                Some(role) => self.known(now, &role, request, actions),
                None => drop(self.requests.waiting.insert(mac, (came, request))),
            }
        }
    }

    pub(super) fn probed(
        &mut self,
        now: Duration,
        address: Ipv4Addr,
        conflict: Option<MacAddr>,
        actions: &mut Vec<Action>,
    ) {
        if self.order_probed(now, address, conflict, actions) {
            return;
        }
        let owner =
            self.members.values().find(|member| member.client.address == address).map(|member| member.client.mac);
        match conflict {
            // Its own board, asked for because of an order.
            Some(mac) if Some(mac) == owner => {}
            Some(mac) => self.conflict(now, address, Some(mac), actions),
            None => {
                // Only what was asked for, so that the table grows with the clients alone.
                if let Some(probe) = self.requests.probes.get_mut(&address) {
                    *probe = Probe::Free;
                    self.answer_waiting(now, actions);
                }
            }
        }
        self.probe_ahead(now, actions);
    }

    /// Somebody else has a client's address: the client moves to another one.
    fn conflict(&mut self, now: Duration, address: Ipv4Addr, other: Option<MacAddr>, actions: &mut Vec<Action>) {
        self.requests.probes.remove(&address);
        self.requests.conflicts.mark(now, address);
        let by = other.map_or_else(|| "another device".to_owned(), |mac| mac.to_string());
        actions.push(Action::Log(format!("{address} is in use by {by}")));
        let Some(role) = self
            .members
            .values()
            .find(|member| member.client.address == address)
            .map(|member| member.client.role.clone())
        else {
            return;
        };
        let Some(mac) = self.members.get(&role).map(|member| member.client.mac) else { return };
        let Some(free) = self.free_address(now, mac) else {
            self.problems.set(
                Topic::Client(role.clone()),
                format!("{address} is in use by {by} and no other is free"),
                "Unplug that device".to_owned(),
            );
            return;
        };
        let Some(member) = self.members.get_mut(&role) else { return };
        member.client.address = free;
        actions.push(Action::Log(format!("client {role} moves to {free}")));
        actions.push(Action::Store(store::Command::SaveClient(Box::new(member.client.clone()))));
        // What we send to that address is the other device's from now on.
        actions.push(Action::ForgetNeighbour(address));
        // Only while the board asks: a device that answers for every address
        // would otherwise lead us through the pool for ever.
        if self.requests.waits(now, mac) {
            self.is_free(now, free, mac, actions);
        }
        self.publish(actions);
    }
}
