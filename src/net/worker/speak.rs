//! What we send: probes and announcements, the survey's question, the DISCOVER for an address of ours.
//!
//! I/O; when to send what is decided in `probe`, `survey` and `dhcp::lease`.

use super::sockets::{readable, send, xid};
use super::*;

impl Worker {
    pub(super) fn probe_own(&mut self, now: Duration) {
        let own = self.options.address.address;
        if !self.probes.runs(Purpose::Own) && !self.probes.start(now, Purpose::Own, own, None) {
            self.announce(now);
        }
    }

    pub(super) fn announce(&mut self, now: Duration) {
        if let Some(chosen) = &mut self.chosen {
            (chosen.announcements, chosen.announce_at) = (ANNOUNCEMENTS, now);
        }
    }

    pub(super) fn announce_at(&self) -> Option<Duration> {
        let chosen = self.chosen.as_ref()?;
        (chosen.announcements > 0 && chosen.addressed).then_some(chosen.announce_at)
    }

    /// Sends the probes and announcements that are due.
    pub(super) fn speak(&mut self) {
        let now = self.now();
        for step in self.probes.poll(now) {
            self.step(now, step);
        }
        self.survey(now);
        self.ask_for_lease(now);
        if self.retry_own.is_some_and(|retry| now >= retry) {
            self.retry_own = Some(now + RETRY_OWN);
            self.probe_own(now);
        }
        let own = self.options.address.address;
        if self.announce_at().is_some_and(|due| due <= now)
            && let Some(chosen) = &mut self.chosen
        {
            chosen.announcements -= 1;
            chosen.announce_at = now + ANNOUNCE_INTERVAL;
            send(chosen, &arp::announcement(chosen.mac, own));
        }
    }

    pub(super) fn step(&mut self, now: Duration, step: Step) {
        match step {
            Step::Send { address } => {
                if let Some(chosen) = &self.chosen {
                    send(chosen, &arp::probe(chosen.mac, address));
                }
            }
            Step::Done { purpose: Purpose::Asked, address, conflict } => self.tell(Event::Probed { address, conflict }),
            Step::Done { purpose: Purpose::Leased, address, conflict } => {
                let Some(leasing) = self.chosen.as_mut().and_then(|chosen| chosen.leasing.as_mut()) else { return };
                let steps = leasing.probed(now, address, conflict.is_some());
                self.lease_steps(now, steps);
            }
            Step::Done { purpose: Purpose::Own, address, conflict } => {
                // The address may now be set.
                self.look_at = Duration::ZERO;
                if let Some(chosen) = &mut self.chosen {
                    chosen.survey.probed(conflict);
                }
                self.retry_own = (conflict.is_some() && !self.confirmed).then(|| now + RETRY_OWN + self.jitter());
                self.confirmed |= conflict.is_none();
                match conflict {
                    Some(mac) if self.guard.admit(now) => self.tell(Event::Conflict { address, mac }),
                    Some(_) => {}
                    None => self.announce(now),
                }
            }
        }
    }

    /// Sends what the survey has due, and tells what it found.
    pub(super) fn survey(&mut self, now: Duration) {
        let Some(chosen) = &mut self.chosen else { return };
        for step in chosen.survey.poll(now, xid(chosen.mac)) {
            match step {
                survey::Step::Send(message) => {
                    if chosen.dhcp.is_none() {
                        chosen.dhcp = PacketSocket::udp_receiver(chosen.index, CLIENT_PORT).and_then(readable).ok();
                    }
                    let none = Ipv4Addr::UNSPECIFIED;
                    let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
                    let packet = udp_packet(SocketAddrV4::new(none, CLIENT_PORT), to, &message);
                    if let (Some(socket), Some(packet)) = (&chosen.dhcp, packet) {
                        // One of three that ask the same.
                        let _ = socket.get_ref().send(BROADCAST, &packet);
                    }
                }
                survey::Step::Tell(facts) => (self.sink)(Event::Wire(facts)),
            }
        }
        if !chosen.survey.listens() && chosen.leasing.is_none() {
            chosen.dhcp = None;
        }
    }

    /// Sends what we as a client of another server have due.
    pub(super) fn ask_for_lease(&mut self, now: Duration) {
        let Some(chosen) = &mut self.chosen else { return };
        if self.lease_wanted && chosen.leasing.is_none() {
            // What the interface has from before a restart is asked for by its server's own memory.
            chosen.leasing = Some(Leasing::new(now, chosen.mac, xid(chosen.mac), None));
        }
        let Some(leasing) = chosen.leasing.as_mut().filter(|_| chosen.carrier) else { return };
        let steps = leasing.poll(now);
        self.lease_steps(now, steps);
    }

    pub(super) fn lease_steps(&mut self, now: Duration, steps: Vec<lease::Step>) {
        for step in steps {
            let Some(chosen) = &mut self.chosen else { return };
            match step {
                lease::Step::Send { bytes, from, to } => {
                    if chosen.dhcp.is_none() {
                        chosen.dhcp = PacketSocket::udp_receiver(chosen.index, CLIENT_PORT).and_then(readable).ok();
                    }
                    let (mac, to) = to.unwrap_or((BROADCAST, Ipv4Addr::BROADCAST));
                    let to = SocketAddrV4::new(to, SERVER_PORT);
                    let packet = udp_packet(SocketAddrV4::new(from, CLIENT_PORT), to, &bytes);
                    if let (Some(socket), Some(packet)) = (&chosen.dhcp, packet) {
                        // It is sent again when it was lost.
                        let _ = socket.get_ref().send(mac, &packet);
                    }
                }
                lease::Step::Probe(address) => {
                    if !self.probes.start(now, Purpose::Leased, address, None) {
                        let probed = self.chosen.as_mut().and_then(|chosen| chosen.leasing.as_mut());
                        let steps = probed.map(|leasing| leasing.probed(now, address, false)).unwrap_or_default();
                        self.lease_steps(now, steps);
                    }
                }
                lease::Step::Take(lease) => {
                    let former = chosen.lease.replace(lease.clone()).filter(|former| former.subnet != lease.subnet);
                    self.drop_address.extend(former.map(|former| former.subnet));
                    chosen.lease_untold = true;
                    self.look_at = Duration::ZERO;
                }
                lease::Step::Lose(address) => self.tell(Event::LeaseLost(address)),
            }
        }
    }

    /// Two appliances that give way to each other must not come back together.
    pub(super) fn jitter(&self) -> Duration {
        let last =
            self.chosen.as_ref().map_or(0, |chosen| u64::from(chosen.mac.0[5]) << 8 | u64::from(chosen.mac.0[4]));
        Duration::from_millis(last % 2000)
    }
}
