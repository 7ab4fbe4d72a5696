//! Beside another DHCP server: whether we lease or only add the boot, and where
//! on the wire our clients are when somebody else gave them their addresses.
//!
//! Pure. TFTP and NFS let clients in by address, so an address that is learned
//! here opens a client's trees. Two things keep others out: it is believed only
//! together with the client's MAC address, and from then on a permanent
//! neighbour entry sends all that we answer there to that MAC and to no other.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Action, Control, Member};
use crate::client::{MacAddr, Role};
use crate::config::{DhcpMode, Subnet};
use crate::dhcp::lease::Lease;
use crate::dhcp::{self, Kind, Request};
use crate::stage::Sign;
use crate::status::Stage;
use crate::wire::Serving;

/// Where a client is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum At {
    /// At the address that we lease it.
    #[default]
    Ours,
    /// Where another server put it.
    Elsewhere(Ipv4Addr),
    /// Somebody else has the address where it was.
    Nowhere,
}

/// How an address was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// It asked another server for it: anybody can send that.
    Asked,
    /// ARP, or the kernel's neighbour table, has it beside its MAC.
    Heard,
}

impl Member {
    /// Where it is served; `None` while that is not known.
    pub(super) fn address(&self) -> Option<Ipv4Addr> {
        match self.at {
            At::Ours => Some(self.client.address),
            At::Elsewhere(address) => Some(address),
            At::Nowhere => None,
        }
    }

    /// The address that another server gave it.
    pub(super) fn elsewhere(&self) -> Option<Ipv4Addr> {
        match self.at {
            At::Elsewhere(address) => Some(address),
            At::Ours | At::Nowhere => None,
        }
    }

    fn runs(&self) -> bool {
        matches!(self.boot.stage(), Stage::RootMounted | Stage::Up { .. } | Stage::Running { .. })
    }
}

/// What a Pi 3's ROM must not hear within two seconds of the other server's
/// offer: it can lock up (raspberrypi/firmware#934; so can its bootcode.bin).
pub(super) const ROM_DELAY: Duration = Duration::from_millis(1500);

/// How often the kernel's neighbour table is looked through for somebody whom we do not know.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Boards that are remembered for another appliance, and for how long since their last boot.
const MAX_OTHERS: usize = 64;
const OTHERS_KEPT: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) serving: Serving,
    /// Ours on the other server's wire.
    lease: Option<Lease>,
    /// Whether an address was asked for.
    leasing: bool,
    watched: Vec<MacAddr>,
    looked: Option<Duration>,
    /// Boards that chose another server, with that one and when, newest last.
    others: VecDeque<(MacAddr, Ipv4Addr, Duration)>,
    /// Offers of the boot that wait for their time.
    pub(super) delayed: Vec<(Duration, Role, Request)>,
}

impl Beside {
    /// Ours on the other server's wire.
    pub(super) fn address(&self) -> Option<Ipv4Addr> {
        self.lease.as_ref().map(|lease| lease.subnet.address)
    }

    /// The other appliance that serves this board, if it chose that one lately.
    pub(super) fn owner(&self, now: Duration, mac: MacAddr, appliance: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let chose = |(other, server, at): &&(MacAddr, Ipv4Addr, Duration)| {
            *other == mac && Some(*server) == appliance && now < *at + OTHERS_KEPT
        };
        self.others.iter().find(chose).map(|(_, server, _)| *server)
    }

    /// The interface that had it is gone.
    pub(super) fn forget_lease(&mut self) {
        self.lease = None;
    }

    fn chose(&mut self, now: Duration, mac: MacAddr, server: Ipv4Addr) {
        self.others.retain(|(other, ..)| *other != mac);
        if self.others.len() == MAX_OTHERS {
            self.others.pop_front();
        }
        self.others.push_back((mac, server, now));
    }
}

impl Control {
    /// Our own address, as the clients that boot now know it.
    pub(super) fn own(&self) -> Subnet {
        let lease = self.beside.lease.as_ref().filter(|_| self.is_beside());
        lease.map_or(self.config.network.address, |lease| lease.subnet)
    }

    pub(super) fn is_beside(&self) -> bool {
        matches!(self.beside.serving, Serving::Beside | Serving::BesideWithoutAddress)
    }

    /// Whether the wire was not asked yet who leases on it: until then nobody is answered.
    pub(super) fn is_undecided(&self) -> bool {
        let asking = self.config.dhcp.mode == DhcpMode::Auto && self.facts.asking && !self.is_beside();
        // Another station has our address: a client that was answered would go there.
        asking || !self.is_beside() && self.network.address.is_none() && self.facts.taken_by.is_some()
    }

    /// Decides anew how to serve.
    pub(super) fn decide_serving(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let static_address = self.config.network.address;
        let offered = self.facts.server.and_then(|server| server.offered);
        // Where our own address is one of that wire, there is nothing to ask for.
        let is_of_that_wire = offered.is_some_and(|offered| offered.network() == static_address.network());
        let needs_lease = !self.config.network.fixed && !is_of_that_wire;
        let beside = match self.config.dhcp.mode {
            DhcpMode::Server => false,
            DhcpMode::Proxy => true,
            // A cable that was out for a moment is no other wire, as far as is known yet.
            DhcpMode::Auto => self.facts.server.is_some() || self.facts.asking && self.is_beside(),
        };
        let serving = match (beside, self.facts.server) {
            (true, _) if needs_lease && self.beside.lease.is_none() => Serving::BesideWithoutAddress,
            (true, _) => Serving::Beside,
            (false, Some(_)) => Serving::LeasingAnyway,
            (false, None) => Serving::Leasing,
        };
        // An address that clients use stays, also when its server is gone.
        let uses = |member: &Member| matches!(member.at, At::Elsewhere(_)) && member.runs();
        let leasing = beside && needs_lease || self.beside.leasing && self.members.values().any(uses);
        if leasing != self.beside.leasing {
            self.beside.leasing = leasing;
            actions.push(Action::Lease(leasing));
        }
        if serving != self.beside.serving {
            self.beside.serving = serving;
            let words = match serving {
                Serving::Leasing => "we lease addresses",
                Serving::LeasingAnyway => "we lease addresses beside another server, as configured",
                Serving::Beside => "another server leases addresses; we add the boot",
                Serving::BesideWithoutAddress => "another server leases addresses; we ask it for one",
            };
            actions.push(Action::Log(format!("dhcp: {words}")));
        }
        self.moved(now, actions);
    }

    /// Another server gave us an address.
    pub(super) fn leased(&mut self, now: Duration, lease: Lease, actions: &mut Vec<Action>) {
        actions.push(Action::Log(format!("{} is ours, from {}", lease.subnet, lease.server)));
        self.beside.lease = Some(lease);
        self.decide_serving(now, actions);
        // Whom we served on this wire before a restart is known by the kernel's table.
        actions.push(Action::LookForNeighbours);
        self.judge(actions);
    }

    /// It is not ours any more. With clients on it the shell keeps it in use.
    pub(super) fn lease_lost(&mut self, now: Duration, address: Ipv4Addr, actions: &mut Vec<Action>) {
        if self.beside.lease.as_ref().is_some_and(|lease| lease.subnet.address == address) {
            actions.push(Action::Log(format!("{address} is not ours any more")));
            self.beside.lease = None;
            self.decide_serving(now, actions);
            self.judge(actions);
        }
    }

    /// Publishes what follows from our own address, if that is another one.
    fn moved(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let own = self.own();
        if own != self.server.subnet {
            self.server.subnet = own;
            actions.push(Action::Log(format!("clients find us at {}", own.address)));
            // Their roots name our address: each is fitted when it boots next.
            actions.push(Action::Store(crate::store::Command::Appliance(own.address)));
            for member in self.members.values_mut() {
                member.renew_at_boot();
            }
            self.renew_all(actions);
            self.publish(actions);
        }
        if self.is_beside() {
            self.watch(actions);
        }
        if !self.is_undecided() {
            self.answer_waiting(now, actions);
        }
    }

    /// Has the shell tell where our clients' boards are heard.
    pub(super) fn watch(&mut self, actions: &mut Vec<Action>) {
        let macs: Vec<MacAddr> = match self.is_beside() {
            true => self.members.values().map(|member| member.client.mac).collect(),
            false => Vec::new(),
        };
        if macs != self.beside.watched {
            self.beside.watched.clone_from(&macs);
            actions.push(Action::Watch(macs));
        }
    }

    /// Somebody whom we do not know wants files: perhaps a client whose address was missed.
    pub(super) fn look_for(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let waited = self.beside.looked.is_none_or(|looked| now >= looked + LOOK_PAUSE);
        if self.is_beside() && waited {
            self.beside.looked = Some(now);
            actions.push(Action::LookForNeighbours);
        }
    }

    /// What a request tells of other servers, whoever sent it.
    pub(super) fn overhear(&mut self, now: Duration, request: &Request, actions: &mut Vec<Action>) {
        if request.kind != Kind::Request {
            return;
        }
        let chosen = request.server_id.filter(|&server| server != self.server.subnet.address);
        // A server that our own question has not found yet, or another appliance.
        let known = [self.facts.server.map(|server| server.address), self.facts.appliance];
        // Or one that we took for switched off.
        if chosen.is_some_and(|chosen| self.facts.silent || !known.contains(&Some(chosen))) {
            actions.push(Action::Survey);
        }
        if let Some(chosen) = chosen.filter(|_| request.identity.asker.is_pi()) {
            self.beside.chose(now, request.mac, chosen);
        }
        if !self.is_beside() {
            return;
        }
        // SELECTING another server, or INIT-REBOOT; a renewal goes past us, and changes nothing.
        let asked = request.requested.filter(|_| chosen.is_some() || request.server_id.is_none());
        if let Some(address) = asked {
            self.learn(now, request.mac, address, Proof::Asked, actions);
        }
    }

    /// A client's board has this address, as far as somebody says.
    pub(super) fn learn(
        &mut self,
        now: Duration,
        mac: MacAddr,
        address: Ipv4Addr,
        proof: Proof,
        actions: &mut Vec<Action>,
    ) {
        let own = self.own();
        let Some(member) = self.members.values().find(|member| member.client.mac == mac) else { return };
        let role = member.client.role.clone();
        let was = member.at;
        if !self.is_beside() || was == At::Elsewhere(address) || !own.has_host(address) || address == own.address {
            return;
        }
        // A running client's own address changes by what its kernel says, and by nothing less.
        if proof == Proof::Asked && member.runs() {
            return;
        }
        let other = self.members.values_mut().find(|other| other.client.mac != mac && other.address() == Some(address));
        if let Some(other) = other {
            if other.runs() {
                let other = other.client.role.clone();
                self.refusals.log(now, format!("{role} ({mac}) claims {address}, where {other} runs"), actions);
                return;
            }
            other.at = At::Nowhere;
        }
        if let At::Elsewhere(former) = was {
            actions.push(Action::ForgetNeighbour(former));
        }
        if let Some(member) = self.members.get_mut(&role) {
            member.at = At::Elsewhere(address);
        }
        actions.push(Action::Neighbour(mac, address));
        actions.push(Action::Log(format!("client {role} is at {address}")));
        self.publish(actions);
        self.sign_role(now, &role, Sign::Leased, actions);
    }

    /// The boot for a client that gets its address elsewhere: at once, or for a
    /// ROM a little later.
    pub(super) fn offer_boot(&mut self, now: Duration, role: &Role, request: &Request, actions: &mut Vec<Action>) {
        if request.kind != Kind::Discover || !request.identity.asker.is_loader() {
            // Address and options are the other server's; it is asked for them.
            return;
        }
        if self.beside.serving != Serving::Beside {
            // We have no address yet that it could reach.
            return self.wait(now, request.clone());
        }
        if request.identity.asker == dhcp::Asker::PiRom {
            self.beside.delayed.retain(|(_, waiting, _)| waiting != role);
            if self.beside.delayed.len() < super::requests::MAX_WAITING {
                self.beside.delayed.push((now + ROM_DELAY, role.clone(), request.clone()));
            }
            return;
        }
        self.send_boot(now, request, actions);
    }

    fn send_boot(&mut self, now: Duration, request: &Request, actions: &mut Vec<Action>) {
        let reply = dhcp::offer_boot(&self.server, request);
        self.saw_answer(now, request, reply.answer, reply.binds);
        actions.push(Action::Send(reply));
    }

    pub(super) fn delayed_at(&self) -> Option<Duration> {
        self.beside.delayed.iter().map(|(due, ..)| *due).min()
    }

    /// Sends the offers whose time has come.
    pub(super) fn send_delayed(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.beside.delayed).into_iter().partition(|(due, ..)| now >= *due);
        self.beside.delayed = later;
        for (_, role, request) in due {
            let serves = self.members.get(&role).is_some_and(|member| member.trees.is_some());
            if serves && self.beside.serving == Serving::Beside {
                self.send_boot(now, &request, actions);
            }
        }
    }
}
