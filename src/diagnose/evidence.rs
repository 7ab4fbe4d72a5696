//! What was seen of one boot of one board.
//!
//! Pure: filled with the shells' events, with counters and short texts only, so
//! its size is bounded by [`Files`].

use std::net::Ipv4Addr;
use std::time::Duration;

use super::files::{Became, Files, Stop};
use crate::client::Model;
use crate::dhcp::{Answer, Asker, Kind, Program, Request};
use crate::directory::Tree;
use crate::{nfs, tftp};

/// How far a boot came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Reached {
    #[default]
    Nothing,
    /// Its loader asked for an address.
    Asked,
    /// It has one.
    Leased,
    /// A Pi 2 or 3 has its `bootcode.bin`.
    FirstStage,
    /// It asked for other boot files.
    Files,
    /// It has a kernel.
    Kernel,
    /// Its kernel or initramfs asked for an address.
    System,
    /// MNT of its root was answered.
    Mounted,
    Up,
}

/// One DHCP client's questions and our answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dialogue {
    pub discovers: u32,
    /// When the first question of any kind and the last DISCOVER came.
    pub first: Duration,
    pub last: Duration,
    pub requests: u32,
    /// REQUESTs for another server, and which.
    pub elsewhere: u32,
    pub other: Option<Ipv4Addr>,
    pub declines: u32,
    /// It comes through this relay agent.
    pub relay: Option<Ipv4Addr>,
    pub offers: u32,
    pub acks: u32,
    pub naks: u32,
}

/// RPC calls other than the traffic of a mounted root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Calls {
    /// GETPORT to the portmapper.
    pub ports_asked: u32,
    pub first_port: Duration,
    pub last_port: Duration,
    /// NFS 2, or the MOUNT 1 or 2 that goes with it.
    pub asked_nfs2: u32,
    pub asked_nfs4: u32,
    pub refusals: u32,
    /// Of the last MNT that was refused.
    pub refused: Option<nfs::Refusal>,
    pub bad_handles: u64,
    pub mounted_at: Option<Duration>,
    pub traffic_at: Option<Duration>,
    /// DHCP messages of the system since its root is mounted, and when the last came.
    pub dhcp_since: u32,
    pub dhcp_at: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub began: Duration,
    /// The last sign of any kind.
    pub heard: Duration,
    pub reached: Reached,
    /// Who loads; `None` until it asked.
    pub asker: Option<Asker>,
    pub model: Model,
    /// Its EEPROM leaves the MAC address out of option 97, as those before 2020-03-16 did.
    pub old_eeprom: bool,
    /// The boot ROM or EEPROM; what `bootcode.bin` asked; kernel, initramfs and system.
    pub loader: Dialogue,
    pub second: Dialogue,
    pub system: Dialogue,
    pub files: Files,
    pub calls: Calls,
    /// A kernel or an initramfs asked for an address, which no system on a card of its own does.
    pub kernel_asked: bool,
    /// It was up from here, and switched off, before this.
    pub was_up: bool,
    /// A system runs on it that is not the one of its root (`stage::Presence`).
    pub restarted: bool,
}

impl Attempt {
    pub fn new(now: Duration) -> Self {
        Self {
            began: now,
            heard: now,
            reached: Reached::Nothing,
            asker: None,
            model: Model::Unknown,
            old_eeprom: false,
            loader: Dialogue::default(),
            second: Dialogue::default(),
            system: Dialogue::default(),
            files: Files::default(),
            calls: Calls::default(),
            kernel_asked: false,
            was_up: false,
            restarted: false,
        }
    }

    /// How long its system has used its root.
    pub fn ran(&self) -> Duration {
        let (from, to) = (self.calls.mounted_at, self.calls.traffic_at);
        from.zip(to).map_or(Duration::ZERO, |(from, to)| to.saturating_sub(from))
    }

    fn reach(&mut self, now: Duration, reached: Reached) {
        self.heard = now;
        self.reached = self.reached.max(reached);
    }

    /// The dialogue that a message of this sender belongs to.
    fn dialogue(&mut self, loader: bool) -> &mut Dialogue {
        match (loader, self.reached) {
            (true, Reached::Nothing | Reached::Asked | Reached::Leased) => &mut self.loader,
            (true, _) => &mut self.second,
            (false, _) => &mut self.system,
        }
    }

    pub fn asked(&mut self, now: Duration, request: &Request) {
        let asker = request.identity.asker;
        let loader = asker.is_loader();
        if loader {
            self.asker = Some(asker);
            if request.identity.model != Model::Unknown {
                self.model = request.identity.model;
            }
            self.old_eeprom |= has_old_guid(request);
        }
        self.kernel_asked |= !loader && request.program() != Program::Other;
        if self.reached == Reached::Mounted {
            count(&mut self.calls.dhcp_since);
            self.calls.dhcp_at = now;
        }
        let dialogue = self.dialogue(loader);
        if dialogue.discovers + dialogue.requests == 0 {
            dialogue.first = now;
        }
        match request.kind {
            Kind::Discover => {
                dialogue.last = now;
                count(&mut dialogue.discovers);
            }
            Kind::Request => count(&mut dialogue.requests),
            Kind::Decline => count(&mut dialogue.declines),
            Kind::Release | Kind::Inform => {}
        }
        if !request.giaddr.is_unspecified() {
            dialogue.relay = Some(request.giaddr);
        }
        self.reach(now, if loader { Reached::Asked } else { Reached::System });
    }

    /// Its REQUEST named another server.
    pub fn went_elsewhere(&mut self, loader: bool, server: Ipv4Addr) {
        let dialogue = self.dialogue(loader);
        count(&mut dialogue.elsewhere);
        dialogue.other = Some(server);
    }

    /// `binds`: from this answer on the address is the board's.
    pub fn answered(&mut self, now: Duration, loader: bool, answer: Answer, binds: bool) {
        let dialogue = self.dialogue(loader);
        match answer {
            Answer::Offer | Answer::Boot => count(&mut dialogue.offers),
            Answer::Ack => count(&mut dialogue.acks),
            Answer::Nak => count(&mut dialogue.naks),
            Answer::Inform | Answer::Presence => {}
        }
        if binds && loader && self.reached < Reached::Leased {
            // What we say is no sign of life.
            let heard = self.heard;
            self.reach(now, Reached::Leased);
            self.heard = heard;
        }
    }

    pub fn tftp(&mut self, now: Duration, event: &tftp::Event) {
        use tftp::Event;
        let (path, became) = match event {
            Event::Started { path, size, .. } => (path, Became::Found { size: *size }),
            Event::Finished { path, .. } => (path, Became::Sent),
            Event::Aborted { path, bytes, .. } => (path, Became::Aborted { at: *bytes }),
            // Perhaps only the last ACK was lost.
            Event::TimedOut { path, sent, size, bytes, .. } if sent == size && *bytes > 0 => (path, Became::Sent),
            Event::TimedOut { path, bytes, size, ahead, .. } => {
                (path, Became::Stopped(Stop { at: *bytes, size: *size, ahead: *ahead }))
            }
            Event::Failed { path, .. } => (path, Became::Failed),
            Event::Missing { path, .. } => (path, Became::Missing),
            Event::Repeated { path, .. } => (path, Became::Repeated),
            Event::Progress { bytes, .. } => {
                self.files.progress(*bytes);
                self.heard = now;
                return;
            }
            Event::Refused { .. } | Event::CommandLineShortened { .. } => return,
        };
        if !self.files.note(path, became) {
            return;
        }
        let heard = self.heard;
        let Some(file) = self.files.last() else { return };
        let reached = match (file.is_first_stage(), became) {
            (true, Became::Sent) => Reached::FirstStage,
            (true, _) => Reached::Leased,
            (false, Became::Sent) if file.is_kernel() => Reached::Kernel,
            (false, _) => Reached::Files,
        };
        self.reach(now, reached);
        if matches!(became, Became::Stopped(_) | Became::Failed) {
            self.heard = heard;
        }
    }

    pub fn nfs(&mut self, now: Duration, event: &nfs::Event) {
        use nfs::Event;
        match event {
            Event::Mounted { tree: Tree::Root, .. } => {
                self.calls.mounted_at.get_or_insert(now);
                self.reach(now, Reached::Mounted);
            }
            Event::Mounted { .. } | Event::Unmounted { .. } => self.heard = now,
            Event::Traffic { .. } => {
                self.calls.traffic_at = Some(now);
                self.heard = now;
            }
            Event::MountRefused { reason, .. } => {
                count(&mut self.calls.refusals);
                self.calls.refused = Some(*reason);
                self.heard = now;
            }
            Event::BadHandle { count, .. } => {
                self.calls.bad_handles = self.calls.bad_handles.saturating_add(*count);
                self.heard = now;
            }
            Event::PortAsked { program, version, .. } => {
                if self.calls.ports_asked == 0 {
                    self.calls.first_port = now;
                }
                count(&mut self.calls.ports_asked);
                self.calls.last_port = now;
                self.version(*program, *version);
                self.heard = now;
            }
            // What follows from it is the stage's affair.
            Event::Reset { .. } => {}
            Event::VersionRefused { program, version, .. } => {
                self.version(*program, *version);
                self.heard = now;
            }
        }
    }

    /// Versions that a root of another setting asks for.
    fn version(&mut self, program: u32, version: u32) {
        match (program, version) {
            (nfs::PROGRAM, 2) | (nfs::MOUNT_PROGRAM, 1 | 2) => count(&mut self.calls.asked_nfs2),
            (nfs::PROGRAM, 4) => count(&mut self.calls.asked_nfs4),
            _ => {}
        }
    }

    /// A system that was up from here is another one now.
    pub fn restarted(now: Duration) -> Self {
        let mut seen = Self { was_up: true, restarted: true, ..Self::new(now) };
        seen.system.first = now;
        seen.reach(now, Reached::System);
        seen
    }

    pub fn up(&mut self, now: Duration) {
        self.reach(now, Reached::Up);
    }
}

fn count(counter: &mut u32) {
    *counter = counter.saturating_add(1);
}

/// Option 97 of an EEPROM: type, FourCC, revision, then the MAC address, which was zero before 2020-03-16.
fn has_old_guid(request: &Request) -> bool {
    match request.echo97.as_deref() {
        Some([0, guid @ ..]) if guid.len() == 16 => guid.starts_with(b"RPi") && guid[8..12] == [0; 4],
        _ => false,
    }
}
