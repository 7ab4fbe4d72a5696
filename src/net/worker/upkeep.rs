//! What the kernel has, and what it should have: link, address, route, neighbours.
//!
//! I/O by netlink.

use super::sockets::{readable, xid};
use super::*;

impl Worker {
    /// Compares what the kernel has with what it should have. `Some` asks to
    /// look again after that time.
    pub(super) async fn reconcile(&mut self, netlink: &rtnetlink::Handle) -> Result<Option<Duration>, Error> {
        let links = kernel::links(netlink).await?;
        let wanted = self.options.interface.clone();
        let same = |chosen: &Chosen| {
            let named = |link: &&Link| wanted.as_ref().is_none_or(|wanted| *wanted == link.name);
            links.iter().filter(named).find(|link| link.index == chosen.index && link.mac.is_some())
        };
        let link = match &self.chosen {
            Some(chosen) => same(chosen),
            None => None,
        };
        if self.chosen.is_some() && link.is_none() {
            self.chosen = None;
            self.tell(Event::Lost);
        }
        let patience = PATIENCE.saturating_sub(self.now());
        let link = link.or_else(|| choose(&links, wanted.as_deref(), !patience.is_zero()));
        let Some((link, mac)) = link.and_then(|link| Some((link, link.mac?))) else {
            let still = [patience, MISSED.saturating_sub(self.now())].into_iter().find(|left| !left.is_zero());
            let here = || links.iter().filter(|link| link.mac.is_some()).map(|link| link.name.clone()).collect();
            return still.map(|left| Some(left.min(RESYNC))).ok_or_else(|| Error::Absent { wanted, here: here() });
        };
        self.take(link, mac)?;
        let again = self.mend(netlink, link).await?;
        Ok(again)
    }

    /// Makes `link` the interface in use, and tells what is new about it.
    pub(super) fn take(&mut self, link: &Link, mac: MacAddr) -> Result<(), Error> {
        let now = self.now();
        let (name, index) = (link.name.clone(), link.index);
        match &mut self.chosen {
            Some(chosen) if chosen.mac == mac => chosen.name = name,
            Some(chosen) => {
                (chosen.mac, chosen.name) = (mac, name.clone());
                self.tell(Event::Interface { name, index, mac });
            }
            None => {
                let arp = PacketSocket::receiver(index, ARP).and_then(readable);
                let arp = arp.map_err(|source| Error::Arp { interface: name.clone(), source })?;
                let mut survey = Survey::new(mac);
                survey.carrier(now, link.carrier);
                self.chosen = Some(Chosen {
                    name: name.clone(),
                    index,
                    mac,
                    arp,
                    llc: PacketSocket::group_receiver(index, LLC, &bpdu::GROUPS).and_then(readable).ok(),
                    dhcp: None,
                    survey,
                    leasing: None,
                    lease: None,
                    lease_untold: false,
                    carrier: link.carrier,
                    addressed: false,
                    settled: false,
                    announcements: 0,
                    announce_at: now,
                    tried_up: None,
                    tried_address: None,
                });
                // Before the interface is served on: nobody leases before the wire was asked.
                self.survey(now);
                self.tell(Event::Interface { name, index, mac });
                self.tell(Event::Carrier(link.carrier));
                if link.carrier {
                    self.probe_own(now);
                }
            }
        }
        Ok(())
    }

    /// Brings the interface in use to what it should be.
    pub(super) async fn mend(&mut self, netlink: &rtnetlink::Handle, link: &Link) -> Result<Option<Duration>, Error> {
        let now = self.now();
        let (subnet, gateway) = (self.options.address, self.options.gateway);
        let Some(chosen) = &mut self.chosen else { return Ok(None) };
        if !link.up {
            chosen.settled = false;
            // A notification follows when it is done.
            let wait = wait(&mut chosen.tried_up, now);
            if wait.is_zero() {
                kernel::set_up(netlink, link).await?;
            }
        }
        if link.carrier != chosen.carrier {
            chosen.carrier = link.carrier;
            chosen.announcements = 0;
            chosen.survey.carrier(now, link.carrier);
            // Another wire perhaps, with another server: what the former one gave is asked for there.
            if let (Some(leasing), true) = (&mut chosen.leasing, link.carrier) {
                let before = chosen.lease.as_ref().map(|lease| lease.subnet.address);
                *leasing = Leasing::new(now, chosen.mac, xid(chosen.mac), before);
            }
            self.survey(now);
            self.tell(Event::Carrier(link.carrier));
            if link.carrier {
                // Another wire perhaps, with somebody who has our address.
                self.probe_own(now);
            }
        }

        if let Some(chosen) = self.chosen.as_mut().filter(|chosen| chosen.carrier) {
            let speed = link::speed(chosen.arp.get_ref(), &chosen.name);
            chosen.survey.link(speed.mbit, speed.half_duplex, speed.gigabit);
        }
        while let Some(former) = self.drop_address.last().copied() {
            if former != subnet {
                kernel::remove_address(netlink, link.index, former).await?;
            }
            self.drop_address.pop();
        }
        let there = kernel::has_address(netlink, link.index, subnet).await?;
        if self.chosen.as_ref().is_some_and(|chosen| chosen.tried_address.is_none()) && there && link.carrier {
            self.confirmed = true;
        }
        if there && self.retry_own.is_some() && !self.confirmed {
            // Whoever was there first keeps it (RFC 5227 §2.1): ours was set before the cable was in.
            kernel::remove_address(netlink, link.index, subnet).await?;
            self.tell(Event::AddressLost(subnet));
            if let Some(chosen) = &mut self.chosen {
                (chosen.addressed, chosen.settled) = (false, false);
            }
            return self.mend_lease(netlink, link).await;
        }
        let probing = self.probes.runs(Purpose::Own);
        let Some(chosen) = &mut self.chosen else { return Ok(None) };
        if !there {
            (chosen.addressed, chosen.settled) = (false, false);
            // Another one has it.
            if self.retry_own.is_some() {
                return self.mend_lease(netlink, link).await;
            }
            // Without a carrier nobody can be asked and nobody be disturbed, and
            // the servers can start; the probe comes with the carrier.
            if probing && link.carrier {
                return Ok(None);
            }
            let wait = wait(&mut chosen.tried_address, now);
            if !wait.is_zero() {
                return Ok(Some(wait));
            }
            kernel::set_address(netlink, link, subnet).await?;
        }
        if !chosen.settled && link.up {
            if let Some(gateway) = gateway {
                kernel::set_default_route(netlink, link.index, gateway).await?;
            }
            for (address, mac) in self.neighbours.all() {
                kernel::set_neighbour(netlink, link.index, address, mac).await?;
            }
        }
        let Some(chosen) = &mut self.chosen else { return Ok(None) };
        chosen.settled = link.up;
        if !chosen.addressed {
            chosen.addressed = true;
            self.tell(Event::Address(subnet));
        }
        self.mend_lease(netlink, link).await
    }

    /// What another server gave us stands on the interface, and nothing that it gave before.
    pub(super) async fn mend_lease(
        &mut self,
        netlink: &rtnetlink::Handle,
        link: &Link,
    ) -> Result<Option<Duration>, Error> {
        let Some(chosen) = &mut self.chosen else { return Ok(None) };
        let Some(lease) = chosen.lease.clone().filter(|_| link.up) else { return Ok(None) };
        if !kernel::has_address(netlink, link.index, lease.subnet).await? {
            kernel::set_address(netlink, link, lease.subnet).await?;
            if let (None, Some(router)) = (self.options.gateway, lease.router) {
                kernel::set_default_route(netlink, link.index, router).await?;
            }
        }
        let untold = self.chosen.as_mut().is_some_and(|chosen| std::mem::take(&mut chosen.lease_untold));
        if untold {
            self.tell(Event::Leased(lease));
        }
        Ok(None)
    }
}

/// How long to wait before the next attempt; notes it as made when that is zero.
fn wait(last: &mut Option<Duration>, now: Duration) -> Duration {
    let wait = last.map_or(Duration::ZERO, |last| (last + RETRY).saturating_sub(now));
    if wait.is_zero() {
        *last = Some(now);
    }
    wait
}
