//! One client's board at a control with a store: real DHCP bytes and the shells'
//! events, with a moved clock. For the tests of hints.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::client::{Mode, Model, Serial};
use crate::dhcp::packets::{self, PI3, PI4, Packet};
use crate::diagnose::{self, Hint};
use crate::directory::Tree;
use crate::nfs::Refusal;
use crate::status::Stage;
use crate::wire;

pub(in crate::control) const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub(in crate::control) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 254);
pub(in crate::control) const ITS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);

pub(in crate::control) const DISCOVER: u8 = 1;
pub(in crate::control) const REQUEST: u8 = 3;
pub(in crate::control) const DECLINE: u8 = 4;

/// One client's board at a control with a store.
pub(in crate::control) struct Script {
    pub(in crate::control) control: Control,
    pub(in crate::control) now: Duration,
    pub(in crate::control) mac: MacAddr,
    pub(in crate::control) log: Vec<String>,
    /// Actions of other kinds, in their order.
    pub(in crate::control) done: Vec<Action>,
    /// Shells that do not answer: a store that is not there, probes that hang.
    pub(in crate::control) deaf: bool,
    /// Something on the board answers for its address.
    pub(in crate::control) answers: bool,
}

impl Script {
    pub(in crate::control) fn new(mac: MacAddr) -> Self {
        let mut script = Self::unplugged(mac);
        script.plug();
        script
    }

    pub(in crate::control) fn unplugged(mac: MacAddr) -> Self {
        let control = Control::new(Config::default(), &[]);
        Self {
            control,
            now: Duration::from_secs(100),
            mac,
            log: Vec::new(),
            done: Vec::new(),
            deaf: false,
            answers: false,
        }
    }

    pub(in crate::control) fn plug(&mut self) -> &mut Self {
        let model = if self.mac == PI3 { Model::Pi3B } else { Model::Unknown };
        let client = Client {
            role: Role::numbered(1),
            mac: self.mac,
            serial: Some(Serial(0x9f3a)),
            revision: None,
            model,
            address: ITS,
            image: "raspios-12345678".parse().unwrap(),
            mode: Mode::Persistent,
            volume_size: None,
            quota: None,
            export_id: 1,
        };
        let (root, boot) = ("/r".into(), "/b".into());
        let open =
            store::OpenClient { root, boot, volume: None, account: None, renew_at_boot: false, writable: true, client };
        self.event(Event::Store(store::Event::Opened {
            name: "Stick".to_owned(),
            free_bytes: 1,
            images: Vec::new(),
            clients: vec![open],
            taken_roles: Vec::new(),
            handle_key: HandleKey::default(),
        }))
    }

    pub(in crate::control) fn event(&mut self, event: Event) -> &mut Self {
        let actions = self.control.handle(self.now, event);
        self.take(actions)
    }

    pub(in crate::control) fn take(&mut self, actions: Vec<Action>) -> &mut Self {
        for action in actions {
            match action {
                Action::Probe(address, owner) if !self.deaf => {
                    let conflict = (self.answers && owner != self.mac).then_some(self.mac);
                    self.event(Event::Net(net::Event::Probed { address, conflict }));
                }
                Action::Log(line) => self.log.push(line),
                other => self.done.push(other),
            }
        }
        self
    }

    /// Seconds pass as the appliance lets them.
    pub(in crate::control) fn wait(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            let actions = self.control.poll(self.now);
            self.take(actions);
        }
        self
    }

    pub(in crate::control) fn times(&mut self, count: u32, pause: u64, each: impl Fn(&mut Self)) -> &mut Self {
        for _ in 0..count {
            each(self);
            self.wait(pause);
        }
        self
    }

    pub(in crate::control) fn says(&mut self, packet: Packet) -> &mut Self {
        let request = dhcp::parse(&packet.bytes()).unwrap();
        assert_eq!(request.mac, self.mac);
        self.event(Event::Dhcp(dhcp::Event::Request(Box::new(request))))
    }

    pub(in crate::control) fn loader(&self, kind: u8) -> Packet {
        match self.mac {
            PI3 => packets::rom(kind),
            PI4 => packets::pi4(kind),
            _ => packets::pi5(kind),
        }
    }

    pub(in crate::control) fn discovers(&mut self) -> &mut Self {
        self.says(self.loader(DISCOVER))
    }

    pub(in crate::control) fn requests(&mut self, server: Ipv4Addr) -> &mut Self {
        self.says(self.loader(REQUEST).address(54, server).address(50, ITS))
    }

    /// Another server leases on this wire, and we add the boot; or it did, and is `silent`.
    pub(in crate::control) fn beside(&mut self, silent: bool) -> &mut Self {
        let station = crate::wire::Station { mac: MacAddr([0xc8, 0x0e, 0x14, 1, 2, 3]), vendor: None };
        let offered = Some(crate::config::Subnet { address: Ipv4Addr::new(192, 168, 77, 60), prefix: 24 });
        let server = Some(crate::wire::OtherServer { address: ROUTER, station, offered });
        self.event(Event::Net(net::Event::Wire(wire::Facts { server, silent, ..wire::Facts::default() })))
    }

    /// Its loader has its address.
    pub(in crate::control) fn leased(&mut self) -> &mut Self {
        self.discovers();
        if self.mac != PI3 {
            self.requests(US);
        }
        self
    }

    pub(in crate::control) fn kernel_discovers(&mut self) -> &mut Self {
        self.says(packets::kernel_of(DISCOVER, self.mac))
    }

    pub(in crate::control) fn kernel_leased(&mut self) -> &mut Self {
        self.kernel_discovers();
        self.says(packets::kernel_of(REQUEST, self.mac).address(54, US).address(50, ITS))
    }

    pub(in crate::control) fn tftp(&mut self, event: fn(Ipv4Addr, String) -> tftp::Event, path: &str) -> &mut Self {
        self.event(Event::Tftp(event(ITS, path.to_owned())))
    }

    pub(in crate::control) fn found(&mut self, path: &str) -> &mut Self {
        self.tftp(|address, path| tftp::Event::Started { address, path, folder: None, size: Some(9_000_000) }, path)
    }

    pub(in crate::control) fn missing(&mut self, paths: &[&str]) -> &mut Self {
        for path in paths {
            self.tftp(|address, path| tftp::Event::Missing { address, path }, path);
        }
        self
    }

    /// Each is probed for its size and then fetched, as real loaders do.
    pub(in crate::control) fn fetches(&mut self, paths: &[&str]) -> &mut Self {
        for path in paths {
            self.found(path).aborted(path, 0).found(path);
            let took = Duration::from_millis(9);
            self.tftp(|address, path| tftp::Event::Finished { address, path, bytes: 9, took: Duration::ZERO }, path);
            self.now += took;
        }
        self
    }

    pub(in crate::control) fn aborted(&mut self, path: &str, bytes: u64) -> &mut Self {
        self.event(Event::Tftp(tftp::Event::Aborted { address: ITS, path: path.to_owned(), bytes }))
    }

    pub(in crate::control) fn stopped(&mut self, path: &str, bytes: u64, size: u64, ahead: bool) -> &mut Self {
        self.found(path).wait(10);
        let (path, sent) = (path.to_owned(), (bytes + 1024).min(size - 1));
        self.event(Event::Tftp(tftp::Event::TimedOut { address: ITS, path, bytes, sent, size, ahead }))
    }

    /// Of the file under way it has so much.
    pub(in crate::control) fn progress(&mut self, bytes: u64) -> &mut Self {
        self.event(Event::Tftp(tftp::Event::Progress { address: ITS, bytes }))
    }

    pub(in crate::control) fn nfs(&mut self, event: nfs::Event) -> &mut Self {
        self.event(Event::Nfs(event))
    }

    pub(in crate::control) fn ports(&mut self, asked: &[(u32, u32)]) -> &mut Self {
        for &(program, version) in asked {
            self.nfs(nfs::Event::PortAsked { address: ITS, program, version });
        }
        self
    }

    pub(in crate::control) fn refused(&mut self, reason: Refusal) -> &mut Self {
        self.nfs(nfs::Event::MountRefused { address: ITS, path: "/x".to_owned(), reason })
    }

    pub(in crate::control) fn mounted(&mut self) -> &mut Self {
        self.ports(&[(nfs::MOUNT_PROGRAM, 3), (nfs::PROGRAM, 3)]);
        self.nfs(nfs::Event::Mounted { address: ITS, tree: Tree::Root }).works()
    }

    pub(in crate::control) fn works(&mut self) -> &mut Self {
        self.nfs(nfs::Event::Traffic { address: ITS, calls: 9, read_bytes: 9, written_bytes: 0 })
    }

    /// All the files of a good boot.
    pub(in crate::control) fn loads(&mut self) -> &mut Self {
        match self.mac {
            PI3 => self.fetches(&["bootcode.bin"]).missing(&["bootsig.bin"]).bootcode().fetches(&[
                "0000a/start.elf",
                "config.txt",
                "start.elf",
                "fixup.dat",
                "bcm2710-rpi-3-b.dtb",
                "cmdline.txt",
                "kernel8.img",
            ]),
            PI4 => self
                .found("00009f3a/start4.elf")
                .aborted("00009f3a/start4.elf", 0)
                .fetches(&["00009f3a/config.txt"])
                .missing(&["00009f3a/pieeprom.sig", "00009f3a/recover4.elf", "00009f3a/recovery.elf"])
                .fetches(&["00009f3a/start4.elf", "00009f3a/fixup4.dat", "00009f3a/config.txt"])
                .missing(&["00009f3a/dt-blob.bin", "00009f3a/bootcfg.txt"])
                .fetches(&["00009f3a/initramfs8", "00009f3a/bcm2711-rpi-4-b.dtb", "00009f3a/cmdline.txt"])
                .missing(&["00009f3a/armstub8-gic.bin"])
                .fetches(&["00009f3a/kernel8.img"]),
            _ => self.fetches(&[
                "00009f3a/config.txt",
                "00009f3a/bcm2712-rpi-5-b.dtb",
                "00009f3a/cmdline.txt",
                "00009f3a/initramfs_2712",
                "00009f3a/kernel_2712.img",
            ]),
        }
    }

    /// What `bootcode.bin` asks for itself.
    pub(in crate::control) fn bootcode(&mut self) -> &mut Self {
        self.says(packets::bootcode(DISCOVER))
    }

    pub(in crate::control) fn hint(&self) -> Option<Hint> {
        match self.control.status(self.now).clients[0].stage {
            Stage::Stalled { hint, .. } => Some(hint),
            _ => None,
        }
    }
}

pub(in crate::control) type Play = fn(&mut Script);

#[track_caller]
pub(in crate::control) fn check(mac: MacAddr, expected: Hint, play: Play) {
    let mut script = Script::new(mac);
    play(&mut script);
    assert_eq!(script.hint(), Some(expected), "{:#?}", script.control.boards.get(mac).map(diagnose::Watch::seen));
    let told = script.log.iter().filter(|line| line.contains("is stuck")).count();
    assert_eq!(told, 1, "told once: {:#?}", script.log);
}
