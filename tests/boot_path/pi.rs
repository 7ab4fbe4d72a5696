//! A scripted Pi: what it sends, how long it waits, and when it gives up, for
//! each stage of a boot. Pure; the world around it carries its packets.
//!
//! Times are those of the project's notes on the boards' behaviour: the Pi 3's
//! ROM sends 5 DISCOVERs 5 s apart and never a REQUEST, `bootcode.bin` tries for
//! about a minute, the EEPROM loader repeats each message after 4 s and gives
//! up after 45 s, Linux begins with 2 s and grows by 1.75.

use std::net::Ipv4Addr;
use std::time::Duration;

use rootstock::client::MacAddr;

use super::packets::{ACK, DISCOVER, Message, NAK, OFFER, REQUEST, ROM_XID, Reply, Sender};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    Pi3,
    Pi4,
    Pi5,
}

/// Who on the board asks for an address just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Off,
    Dhcp(Sender),
    Up,
}

/// What the Pi does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Deed {
    Nothing,
    Send(Vec<u8>),
    /// This stage has its address.
    Bound(Sender, Ipv4Addr),
    GaveUp,
}

#[derive(Debug)]
pub struct Pi {
    pub model: Model,
    pub mac: MacAddr,
    pub serial: u32,
    pub step: Step,
    /// Only a timer or load of the present generation counts.
    pub generation: u64,
    xid: u32,
    /// After an OFFER: the address and the server to ask for it.
    chosen: Option<(Ipv4Addr, Ipv4Addr)>,
    began: Duration,
    /// Messages sent in this stage.
    pub tries: u32,
    /// The addresses that this boot got, in order.
    pub addresses: Vec<Ipv4Addr>,
    pub boots: u32,
}

impl Pi {
    pub fn new(number: u8, model: Model) -> Self {
        let (oui, serial) = match model {
            Model::Pi3 => ([0xb8, 0x27, 0xeb], 0xb600_0000 | u32::from(number)),
            Model::Pi4 => ([0xdc, 0xa6, 0x32], 0x4000_1000 | u32::from(number)),
            Model::Pi5 => ([0x2c, 0xcf, 0x67], 0x5000_1000 | u32::from(number)),
        };
        Self {
            model,
            mac: MacAddr([oui[0], oui[1], oui[2], 0, 0, number]),
            serial,
            step: Step::Off,
            generation: 0,
            xid: 0,
            chosen: None,
            began: Duration::ZERO,
            tries: 0,
            addresses: Vec::new(),
            boots: 0,
        }
    }

    pub fn power_on(&mut self, now: Duration, xid: u32) {
        self.addresses.clear();
        self.boots += 1;
        let sender = match self.model {
            Model::Pi3 => Sender::Rom,
            Model::Pi4 => Sender::Eeprom(b'4'),
            Model::Pi5 => Sender::Eeprom(b'5'),
        };
        self.begin(now, sender, xid);
    }

    /// A stage starts to ask, with an `xid` of its own.
    pub fn begin(&mut self, now: Duration, sender: Sender, xid: u32) {
        self.step = Step::Dhcp(sender);
        self.generation += 1;
        self.xid = if sender == Sender::Rom { ROM_XID } else { xid };
        self.chosen = None;
        self.began = now;
        self.tries = 0;
    }

    /// The time to send (again) has come.
    pub fn timer(&mut self, now: Duration) -> Deed {
        let Step::Dhcp(sender) = self.step else { return Deed::Nothing };
        let waited = now - self.began;
        let patient = match sender {
            Sender::Rom => self.tries < 5,
            Sender::Bootcode => waited < Duration::from_secs(60),
            Sender::Eeprom(_) => waited < Duration::from_secs(45),
            // "Retrying forever (NFS root)".
            Sender::Kernel | Sender::System => true,
        };
        if !patient {
            self.step = Step::Off;
            return Deed::GaveUp;
        }
        self.tries += 1;
        Deed::Send(self.message(sender))
    }

    /// How long it waits after the message just sent.
    pub fn retry(&self) -> Duration {
        match self.step {
            Step::Dhcp(Sender::Eeprom(_)) => Duration::from_secs(4),
            Step::Dhcp(Sender::Kernel | Sender::System) => {
                let round = i32::try_from((self.tries.max(1) - 1) % 6).unwrap_or(0);
                Duration::from_secs(2).mul_f64(1.75_f64.powi(round))
            }
            _ => Duration::from_secs(5),
        }
    }

    fn message(&self, sender: Sender) -> Vec<u8> {
        match self.chosen {
            None => Message::new(DISCOVER, sender, self.mac, self.serial, self.xid).bytes(),
            Some((address, server)) => Message::new(REQUEST, sender, self.mac, self.serial, self.xid)
                .address(50, address)
                .address(54, server)
                .bytes(),
        }
    }

    /// A reply came in.
    pub fn hear(&mut self, reply: &Reply) -> Deed {
        let Step::Dhcp(sender) = self.step else { return Deed::Nothing };
        if reply.xid != self.xid || reply.mac != self.mac {
            return Deed::Nothing;
        }
        let loader = matches!(sender, Sender::Rom | Sender::Bootcode | Sender::Eeprom(_));
        assert_eq!(loader && reply.kind != NAK, !reply.menu.is_empty(), "option 43 is for loaders: {sender:?}");
        match (reply.kind, self.chosen) {
            (OFFER, None) if matches!(sender, Sender::Rom | Sender::Bootcode) => {
                let text = b"Raspberry Pi Boot   ";
                assert!(reply.menu.windows(text.len()).any(|part| part == text), "the ROM wants three spaces");
                self.bound(sender, reply.address)
            }
            (OFFER, None) => {
                self.chosen = Some((reply.address, reply.server));
                self.tries += 1;
                Deed::Send(self.message(sender))
            }
            (ACK, Some((address, _))) if address == reply.address => self.bound(sender, address),
            (NAK, Some(_)) => {
                self.chosen = None;
                self.tries += 1;
                Deed::Send(self.message(sender))
            }
            _ => Deed::Nothing,
        }
    }

    fn bound(&mut self, sender: Sender, address: Ipv4Addr) -> Deed {
        self.addresses.push(address);
        self.generation += 1;
        // It loads or mounts now; the world says when that is over.
        self.step = Step::Off;
        Deed::Bound(sender, address)
    }
}
