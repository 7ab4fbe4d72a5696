//! What the network, TFTP and NFS tell: the wire's own state, and signs of boots.
//!
//! Pure.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::beside::Proof;
use super::problems::Topic;
use super::{Action, Control};
use crate::client::{Mode, Serial};
use crate::directory::Tree;
use crate::health::Health;
use crate::stage::Sign;
use crate::{net, nfs, store, tftp};

impl Control {
    /// The board's own trouble, in words.
    pub(super) fn health(&mut self, health: Health, actions: &mut Vec<Action>) {
        let (message, action) = match health {
            Health { undervoltage: true, .. } => {
                ("Too little voltage from the supply", "Use a stronger supply or a shorter cable")
            }
            Health { hot: Some(_), .. } => ("This Pi is too hot and runs slower", "Give it air, or a heat sink"),
            Health { memory_ran_out: true, .. } => {
                ("This Pi ran out of memory and goes on", "If it comes again, take one with more memory")
            }
            Health { .. } => {
                actions.push(Action::Log("board: supply, heat and memory are well again".to_owned()));
                return self.problems.clear(&Topic::Board);
            }
        };
        let figure = health.hot.map(|degrees| format!(" ({degrees} degrees)")).unwrap_or_default();
        actions.push(Action::Log(format!("board: {message}{figure}. {action}")));
        self.problems.set(Topic::Board, message.to_owned(), action.to_owned());
    }

    pub(super) fn net(&mut self, now: Duration, event: net::Event, actions: &mut Vec<Action>) {
        match event {
            net::Event::Interface { name, mac, .. } => {
                actions.push(Action::Log(format!("interface {name} ({mac})")));
                if self.absent.take().is_some() {
                    self.problems.clear(&Topic::Network);
                    self.judge(actions);
                }
            }
            net::Event::Address(subnet) => {
                self.network.address = Some(subnet.address);
                self.problems.clear(&Topic::Network);
                actions.push(Action::Log(format!("address {subnet}")));
                self.judge(actions);
                self.probe_ahead(now, actions);
                self.answer_waiting(now, actions);
            }
            net::Event::AddressLost(subnet) => {
                self.network.address = None;
                actions.push(Action::Log(format!("{subnet} is given up: somebody else has it")));
                self.judge(actions);
            }
            net::Event::Wire(facts) => self.surveyed(now, facts, actions),
            net::Event::Seen { mac, address } => self.learn(now, mac, address, Proof::Heard, actions),
            net::Event::Leased(lease) => self.leased(now, lease, actions),
            net::Event::LeaseLost(address) => self.lease_lost(now, address, actions),
            net::Event::Carrier(carrier) => {
                self.network.carrier = carrier;
                self.judge(actions);
                self.probe_ahead(now, actions);
                actions.push(Action::Log(format!("carrier {}", if carrier { "up" } else { "down" })));
            }
            net::Event::Lost => {
                (self.network, self.facts) = Default::default();
                self.beside.forget_lease();
                self.decide_serving(now, actions);
                self.judge(actions);
                actions.push(Action::Log("interface gone".to_owned()));
            }
            // What it means for a person, the survey's facts tell.
            net::Event::Conflict { address, mac } => {
                actions.push(Action::Log(format!("our address {address} is in use by {mac} too")));
            }
            net::Event::Probed { address, conflict } => {
                self.presence_told(now, address, conflict, actions);
                self.probed(now, address, conflict, actions);
            }
            net::Event::Absent { named, message } => {
                self.absent = Some(named);
                actions.push(Action::Log(format!("network: {message}")));
                self.judge(actions);
                self.problems.set(Topic::Network, message, self.network.wire.action().to_owned());
            }
            net::Event::Failed(message) => {
                actions.push(Action::Log(format!("network: {message}")));
                self.problems.set(Topic::Network, message, "Check the cable and the configuration".to_owned());
            }
        }
    }

    pub(super) fn tftp(&mut self, now: Duration, event: tftp::Event, actions: &mut Vec<Action>) {
        self.saw_tftp(now, &event, actions);
        match event {
            tftp::Event::Started { address, path, folder, .. } => {
                if let Some(serial) = folder {
                    self.learn_serial(address, serial, actions);
                }
                let path = path.rsplit('/').next().unwrap_or_default().to_owned();
                self.sign(now, address, Sign::FileAsked { path }, actions);
            }
            tftp::Event::Progress { address, bytes } => self.sign(now, address, Sign::FileProgress { bytes }, actions),
            tftp::Event::Finished { address, bytes, .. } => {
                self.sign(now, address, Sign::FileSent { bytes }, actions);
            }
            tftp::Event::Refused { address, path, reason } => {
                self.look_for(now, actions);
                self.refusals.log(now, format!("tftp: {address} asked for {path:?}: {reason}"), actions);
            }
            // When all of it was sent, perhaps only the last ACK is missing.
            tftp::Event::TimedOut { address, sent, size, .. } if sent == size => {
                self.sign(now, address, Sign::FileSent { bytes: sent }, actions);
            }
            tftp::Event::TimedOut { address, path, bytes, size, .. } => {
                self.refusals.log(
                    now,
                    format!("tftp: {address} fell silent at byte {bytes} of {size} of {path}"),
                    actions,
                );
            }
            tftp::Event::Failed { address, path, error } => {
                self.refusals.log(now, format!("tftp: {path} for {address}: {error}"), actions);
            }
            tftp::Event::CommandLineShortened { address, left_out } => {
                actions.push(Action::Log(format!("tftp: cmdline.txt of {address} is too long by {left_out} words")));
            }
            // Firmware asks for files that no image has; that is a boot's normal course.
            tftp::Event::Aborted { .. } | tftp::Event::Missing { .. } | tftp::Event::Repeated { .. } => {}
        }
    }

    pub(super) fn nfs(&mut self, now: Duration, event: nfs::Event, actions: &mut Vec<Action>) {
        self.saw_nfs(now, &event);
        match event {
            nfs::Event::Mounted { address, tree: Tree::Root } => self.sign(now, address, Sign::RootMounted, actions),
            nfs::Event::Mounted { address, tree: Tree::Boot } if self.is_read_only(address) => {
                // It cannot write that its start is complete: that its system
                // mounts its boot tree, which no initramfs does, is what is seen of it.
                self.sign(now, address, Sign::Up, actions);
            }
            nfs::Event::Mounted { tree: Tree::Boot | Tree::Volume, .. } => {}
            nfs::Event::Unmounted { address } => self.sign(now, address, Sign::Unmounted, actions),
            nfs::Event::Reset { address } => self.sign(now, address, Sign::Reset, actions),
            nfs::Event::Traffic { address, .. } => self.sign(now, address, Sign::Traffic, actions),
            nfs::Event::MountRefused { address, path, reason } => {
                self.look_for(now, actions);
                self.refusals.log(now, format!("nfs: {address} may not mount {path:?}: {reason}"), actions);
            }
            nfs::Event::VersionRefused { address, program, version } => {
                let line = format!("nfs: {address} asked for version {version} of program {program}");
                self.refusals.log(now, line, actions);
            }
            // A mount's normal course.
            nfs::Event::PortAsked { .. } => {}
            nfs::Event::BadHandle { address, .. } => {
                self.refusals.log(now, format!("nfs: {address} used a file handle that is not its own"), actions);
            }
        }
    }

    fn is_read_only(&self, address: Ipv4Addr) -> bool {
        let mut members = self.members.values();
        members.any(|member| member.address() == Some(address) && member.client.mode == Mode::ReadOnly)
    }

    /// A board whose DHCP does not tell its serial names it as its TFTP folder.
    pub(super) fn learn_serial(&mut self, address: Ipv4Addr, serial: Serial, actions: &mut Vec<Action>) {
        let Some(member) = self.members.values_mut().find(|member| member.address() == Some(address)) else { return };
        if member.client.serial.is_none() {
            member.client.serial = Some(serial);
            actions.push(Action::Log(format!("client {} has serial {serial}", member.client.role)));
            actions.push(Action::Store(store::Command::SaveClient(Box::new(member.client.clone()))));
            self.publish(actions);
        }
    }
}
