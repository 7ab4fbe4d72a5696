//! What we hear: ARP, spanning tree, DHCP servers' answers, the kernel's neighbour table.
//!
//! I/O.

use super::sockets::{comes, send, take};
use super::*;

impl Worker {
    /// Waits for frames; for ever while there is no interface.
    pub(super) async fn listen(&self) {
        let Some(chosen) = &self.chosen else { return pending().await };
        tokio::select! {
            () = comes(Some(&chosen.arp)) => {}
            () = comes(chosen.llc.as_ref()) => {}
            () = comes(chosen.dhcp.as_ref()) => {}
        }
    }

    /// Takes what spanning tree and DHCP servers have sent.
    pub(super) fn hear_others(&mut self) {
        let now = self.now();
        let Some(chosen) = &mut self.chosen else { return };
        let mut buffer = [0; MAX_BYTES + 28];
        for _ in 0..FRAMES_A_TURN {
            let Some((length, from)) = chosen.llc.as_ref().and_then(|socket| take(socket, &mut buffer)) else { break };
            if let Some(bpdu) = Bpdu::parse(&buffer[..length]) {
                // IEEE 802.3: a length stands in the EtherType's place.
                let field = u16::try_from(length).unwrap_or(0);
                tap::frame(from, MacAddr(bpdu::GROUPS[0]), field, &buffer[..length]);
                chosen.survey.bpdu(now, bpdu);
            }
        }
        for _ in 0..FRAMES_A_TURN {
            let Some((length, from)) = chosen.dhcp.as_ref().and_then(|socket| take(socket, &mut buffer)) else { break };
            let Some((server, payload)) = udp_payload(&buffer[..length], CLIENT_PORT) else { continue };
            tap::frame(from, OURS, IPV4, &buffer[..length]);
            let Some(reply) = dhcp_client::parse(payload).ok().filter(|_| server.port() == SERVER_PORT) else {
                continue;
            };
            chosen.survey.heard(from, &reply);
            let steps = chosen.leasing.as_mut().map(|leasing| leasing.heard(now, from, &reply)).unwrap_or_default();
            if !steps.is_empty() {
                self.lease_steps(now, steps);
                return;
            }
        }
    }

    /// Tells where a watched board is, unless that was told lately.
    pub(super) fn seen(&mut self, now: Duration, mac: MacAddr, address: Ipv4Addr) {
        let Some((_, told)) = self.watched.iter_mut().find(|(watched, _)| *watched == mac) else { return };
        if address.is_unspecified() || told.is_some_and(|(was, at)| was == address && now < at + TELL_AGAIN) {
            return;
        }
        *told = Some((address, now));
        self.tell(Event::Seen { mac, address });
    }

    pub(super) async fn look_for_neighbours(&mut self, netlink: &rtnetlink::Handle) -> Result<(), Error> {
        let Some(index) = self.chosen.as_ref().map(|chosen| chosen.index).filter(|_| !self.watched.is_empty()) else {
            return Ok(());
        };
        let now = self.now();
        for (address, mac) in kernel::neighbours(netlink, index).await? {
            self.seen(now, mac, address);
        }
        Ok(())
    }

    /// Takes what ARP has come in, up to [`FRAMES_A_TURN`].
    pub(super) fn hear(&mut self) {
        let now = self.now();
        let own = self.options.address.address;
        for _ in 0..FRAMES_A_TURN {
            let Some(chosen) = &mut self.chosen else { return };
            let mut buffer = [0; 64];
            let Some((received, from)) = take(&chosen.arp, &mut buffer) else { return };
            let mac = chosen.mac;
            let Some(arp) = Arp::parse(&buffer[..received]).filter(|arp| arp.sender_mac != mac) else { continue };
            if arp.uses(own) || arp.sender_mac.is_raspberry_pi() {
                tap::frame(arp.sender_mac, BROADCAST, ARP, &buffer[..received]);
            }
            if arp.uses(own) && chosen.addressed && !self.probes.runs(Purpose::Own) && self.guard.admit(now) {
                // RFC 5227 §2.4 (b): defend once, and keep it.
                send(chosen, &arp::announcement(mac, own));
                chosen.survey.overheard(now, arp.sender_mac);
                self.tell(Event::Conflict { address: own, mac: arp.sender_mac });
            }
            // Only what a board says of itself.
            if arp.sender_mac == from {
                self.seen(now, from, arp.sender);
            }
            for step in self.probes.heard(mac, &arp) {
                self.step(now, step);
            }
        }
    }
}
