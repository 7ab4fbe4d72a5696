//! Hints by scripted exchanges: real DHCP bytes and the shells' events through
//! control, with a moved clock. One script a rule, and good boots that must give none.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::client::{Mode, Model, Serial};
use crate::dhcp::packets::{self, PI3, PI4, PI5, Packet};
use crate::diagnose::{self, Hint};
use crate::directory::Tree;
use crate::nfs::Refusal;
use crate::status::Stage;
use crate::wire;

pub(super) const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub(super) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 254);
pub(super) const ITS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);

pub(super) const DISCOVER: u8 = 1;
pub(super) const REQUEST: u8 = 3;
const DECLINE: u8 = 4;

/// One client's board at a control with a store.
pub(super) struct Script {
    pub(super) control: Control,
    pub(super) now: Duration,
    pub(super) mac: MacAddr,
    pub(super) log: Vec<String>,
    /// Actions of other kinds, in their order.
    pub(super) done: Vec<Action>,
    /// Shells that do not answer: a store that is not there, probes that hang.
    deaf: bool,
}

impl Script {
    pub(super) fn new(mac: MacAddr) -> Self {
        let mut script = Self::unplugged(mac);
        script.plug();
        script
    }

    pub(super) fn unplugged(mac: MacAddr) -> Self {
        let control = Control::new(Config::default(), &[]);
        Self { control, now: Duration::from_secs(100), mac, log: Vec::new(), done: Vec::new(), deaf: false }
    }

    pub(super) fn plug(&mut self) -> &mut Self {
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

    pub(super) fn event(&mut self, event: Event) -> &mut Self {
        let actions = self.control.handle(self.now, event);
        self.take(actions)
    }

    pub(super) fn take(&mut self, actions: Vec<Action>) -> &mut Self {
        for action in actions {
            match action {
                Action::Probe(address, _) if !self.deaf => {
                    self.event(Event::Net(net::Event::Probed { address, conflict: None }));
                }
                Action::Log(line) => self.log.push(line),
                other => self.done.push(other),
            }
        }
        self
    }

    /// Seconds pass as the appliance lets them.
    pub(super) fn wait(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            let actions = self.control.poll(self.now);
            self.take(actions);
        }
        self
    }

    pub(super) fn times(&mut self, count: u32, pause: u64, each: impl Fn(&mut Self)) -> &mut Self {
        for _ in 0..count {
            each(self);
            self.wait(pause);
        }
        self
    }

    pub(super) fn says(&mut self, packet: Packet) -> &mut Self {
        let request = dhcp::parse(&packet.bytes()).unwrap();
        assert_eq!(request.mac, self.mac);
        self.event(Event::Dhcp(dhcp::Event::Request(Box::new(request))))
    }

    pub(super) fn loader(&self, kind: u8) -> Packet {
        match self.mac {
            PI3 => packets::rom(kind),
            PI4 => packets::pi4(kind),
            _ => packets::pi5(kind),
        }
    }

    pub(super) fn discovers(&mut self) -> &mut Self {
        self.says(self.loader(DISCOVER))
    }

    pub(super) fn requests(&mut self, server: Ipv4Addr) -> &mut Self {
        self.says(self.loader(REQUEST).address(54, server).address(50, ITS))
    }

    /// Another server leases on this wire, and we add the boot; or it did, and is `silent`.
    pub(super) fn beside(&mut self, silent: bool) -> &mut Self {
        let station = crate::wire::Station { mac: MacAddr([0xc8, 0x0e, 0x14, 1, 2, 3]), vendor: None };
        let offered = Some(crate::config::Subnet { address: Ipv4Addr::new(192, 168, 77, 60), prefix: 24 });
        let server = Some(crate::wire::OtherServer { address: ROUTER, station, offered });
        self.event(Event::Net(net::Event::Wire(wire::Facts { server, silent, ..wire::Facts::default() })))
    }

    /// Its loader has its address.
    pub(super) fn leased(&mut self) -> &mut Self {
        self.discovers();
        if self.mac != PI3 {
            self.requests(US);
        }
        self
    }

    pub(super) fn kernel_discovers(&mut self) -> &mut Self {
        self.says(packets::kernel_of(DISCOVER, self.mac))
    }

    pub(super) fn kernel_leased(&mut self) -> &mut Self {
        self.kernel_discovers();
        self.says(packets::kernel_of(REQUEST, self.mac).address(54, US).address(50, ITS))
    }

    pub(super) fn tftp(&mut self, event: fn(Ipv4Addr, String) -> tftp::Event, path: &str) -> &mut Self {
        self.event(Event::Tftp(event(ITS, path.to_owned())))
    }

    pub(super) fn found(&mut self, path: &str) -> &mut Self {
        self.tftp(|address, path| tftp::Event::Started { address, path, folder: None, size: Some(9) }, path)
    }

    pub(super) fn missing(&mut self, paths: &[&str]) -> &mut Self {
        for path in paths {
            self.tftp(|address, path| tftp::Event::Missing { address, path }, path);
        }
        self
    }

    /// Each is probed for its size and then fetched, as real loaders do.
    pub(super) fn fetches(&mut self, paths: &[&str]) -> &mut Self {
        for path in paths {
            self.found(path).aborted(path, 0).found(path);
            let took = Duration::from_millis(9);
            self.tftp(|address, path| tftp::Event::Finished { address, path, bytes: 9, took: Duration::ZERO }, path);
            self.now += took;
        }
        self
    }

    pub(super) fn aborted(&mut self, path: &str, bytes: u64) -> &mut Self {
        self.event(Event::Tftp(tftp::Event::Aborted { address: ITS, path: path.to_owned(), bytes }))
    }

    pub(super) fn stopped(&mut self, path: &str, bytes: u64, size: u64, ahead: bool) -> &mut Self {
        self.found(path).wait(10);
        let (path, sent) = (path.to_owned(), (bytes + 1024).min(size - 1));
        self.event(Event::Tftp(tftp::Event::TimedOut { address: ITS, path, bytes, sent, size, ahead }))
    }

    pub(super) fn nfs(&mut self, event: nfs::Event) -> &mut Self {
        self.event(Event::Nfs(event))
    }

    pub(super) fn ports(&mut self, asked: &[(u32, u32)]) -> &mut Self {
        for &(program, version) in asked {
            self.nfs(nfs::Event::PortAsked { address: ITS, program, version });
        }
        self
    }

    pub(super) fn refused(&mut self, reason: Refusal) -> &mut Self {
        self.nfs(nfs::Event::MountRefused { address: ITS, path: "/x".to_owned(), reason })
    }

    pub(super) fn mounted(&mut self) -> &mut Self {
        self.ports(&[(nfs::MOUNT_PROGRAM, 3), (nfs::PROGRAM, 3)]);
        self.nfs(nfs::Event::Mounted { address: ITS, tree: Tree::Root }).works()
    }

    pub(super) fn works(&mut self) -> &mut Self {
        self.nfs(nfs::Event::Traffic { address: ITS, calls: 9, read_bytes: 9, written_bytes: 0 })
    }

    /// All the files of a good boot.
    pub(super) fn loads(&mut self) -> &mut Self {
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
    pub(super) fn bootcode(&mut self) -> &mut Self {
        self.says(packets::bootcode(DISCOVER))
    }

    pub(super) fn hint(&self) -> Option<Hint> {
        match self.control.status(self.now).clients[0].stage {
            Stage::Stalled { hint, .. } => Some(hint),
            _ => None,
        }
    }
}

type Play = fn(&mut Script);

#[track_caller]
fn check(mac: MacAddr, expected: Hint, play: Play) {
    let mut script = Script::new(mac);
    play(&mut script);
    assert_eq!(script.hint(), Some(expected), "{:#?}", script.control.boards.get(mac).map(diagnose::Watch::seen));
    let told = script.log.iter().filter(|line| line.contains("is stuck")).count();
    assert_eq!(told, 1, "told once: {:#?}", script.log);
}

#[test]
fn a_board_that_asks_another_server_is_told_so() {
    for mac in [PI4, PI5] {
        check(mac, Hint::OtherServer, |pi| {
            pi.discovers().requests(ROUTER).wait(60);
        });
        check(mac, Hint::OtherServer, |pi| {
            pi.times(9, 5, |pi| {
                pi.discovers().requests(ROUTER);
            });
        });
    }
    check(PI4, Hint::OtherServer, |pi| {
        pi.leased().loads().wait(5).kernel_discovers();
        pi.says(packets::kernel_of(REQUEST, PI4).address(54, ROUTER).address(50, ITS)).wait(100);
    });
}

#[test]
fn beside_another_server_to_ask_that_one_is_no_fault() {
    for mac in [PI3, PI4, PI5] {
        let mut script = Script::new(mac);
        // It was found because a board had chosen it.
        script.discovers().requests(ROUTER).beside(false);
        for _ in 0..3 {
            script.times(2, 4, |pi| {
                pi.discovers();
            });
            script.requests(ROUTER).wait(2).loads().wait(4);
            script.kernel_discovers();
            script.says(packets::kernel_of(REQUEST, mac).address(54, ROUTER).address(50, ITS)).wait(1).mounted();
            script.times(40, 1, |pi| assert_eq!(pi.works().hint(), None));
            script.event(Event::Store(store::Event::Up { role: Role::numbered(1) }));
            script.times(30, 40, |pi| assert_eq!(pi.hint(), None));
        }
        assert!(!script.log.iter().any(|line| line.contains("is stuck")), "{:#?}", script.log);
    }
}

#[test]
fn beside_another_server_a_board_without_an_address_is_told_by_what_that_server_does() {
    let asks: Play = |pi| {
        pi.times(9, 5, |pi| {
            pi.discovers();
        })
        .wait(40);
    };
    // It was there at first, or never: by configuration we do not lease.
    for mac in [PI3, PI4, PI5] {
        let mut script = Script::new(mac);
        asks(script.beside(false).beside(true));
        assert_eq!(script.hint(), Some(Hint::NobodyLeases));
        let mut script = Script::unplugged(mac);
        script.control.config.dhcp.mode = config::DhcpMode::Proxy;
        script.control.config.network.fixed = true;
        script.event(Event::Net(net::Event::Carrier(true)));
        script.event(Event::Net(net::Event::Wire(wire::Facts { silent: true, ..wire::Facts::default() })));
        asks(script.plug());
        assert_eq!(script.hint(), Some(Hint::NobodyLeases));
        assert_eq!(script.control.status(script.now).problems[0].message, "No DHCP server here gives addresses");
    }
    for mac in [PI4, PI5] {
        let mut script = Script::new(mac);
        asks(script.beside(false));
        assert_eq!(script.hint(), Some(Hint::NoLease));
    }
    // The loader got one, and the router went away under its kernel.
    for (silent, hint) in [(true, Hint::NobodyLeases), (false, Hint::NoLease)] {
        let mut script = Script::new(PI4);
        script.beside(false).discovers().requests(ROUTER).loads().wait(4).beside(silent);
        script.times(9, 6, |pi| {
            pi.kernel_discovers();
        });
        assert_eq!(script.hint(), Some(hint));
    }
    check(PI4, Hint::MountsNothing, |pi| {
        pi.beside(false).discovers().requests(ROUTER).loads().wait(4).kernel_discovers();
        pi.says(packets::kernel_of(REQUEST, PI4).address(54, ROUTER).address(50, ITS)).wait(100);
    });
    for mac in [PI4, PI5] {
        check(mac, Hint::LoadsElsewhere, |pi| {
            pi.beside(false).discovers().requests(ROUTER).wait(60);
        });
    }
}

#[test]
fn a_client_that_asks_without_the_stick_is_told_to_put_it_in() {
    let mut script = Script::new(PI4);
    script.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
    script.times(9, 5, |pi| {
        pi.discovers();
    });
    assert_eq!(script.hint(), Some(Hint::StickAway));
    script.plug().leased().loads().wait(2);
    assert_eq!(script.hint(), None, "it goes on");
}

#[test]
fn relays_are_told() {
    for mac in [PI3, PI4] {
        check(mac, Hint::Relay, |pi| {
            pi.times(9, 5, |pi| {
                pi.says(pi.loader(DISCOVER).giaddr(Ipv4Addr::new(10, 0, 0, 1)));
            });
        });
        check(mac, Hint::Relay, |pi| {
            pi.times(9, 5, |pi| {
                pi.says(pi.loader(DISCOVER).giaddr(Ipv4Addr::new(192, 168, 77, 3)));
            });
        });
    }
}

#[test]
fn a_board_that_declines_every_address_is_told_of_the_device_that_claims_them() {
    check(PI4, Hint::AddressClaimed, |pi| {
        pi.times(9, 5, |pi| {
            let address = pi.control.members.values().next().unwrap().client.address;
            pi.discovers();
            pi.says(pi.loader(DECLINE).address(54, US).address(50, address));
        });
    });
}

#[test]
fn an_old_eeprom_is_told_by_its_option_97() {
    check(PI4, Hint::OldEeprom, |pi| {
        pi.times(9, 5, |pi| {
            pi.says(packets::pi4_of_2019(DISCOVER));
        });
    });
    check(PI4, Hint::OldEeprom, |pi| {
        pi.times(9, 5, |pi| {
            pi.says(packets::pi4_of_2019(DISCOVER));
            pi.says(packets::pi4_of_2019(REQUEST).address(54, US).address(50, ITS));
        });
    });
}

#[test]
fn a_new_loader_that_takes_no_offer_does_not_hear_us() {
    for mac in [PI4, PI5] {
        check(mac, Hint::OffersUnheard, |pi| {
            pi.times(9, 5, |pi| {
                pi.discovers();
            });
        });
    }
}

#[test]
fn a_rom_that_goes_on_asking_is_deaf_or_locked_up_by_two_servers() {
    check(PI3, Hint::RomDeaf, |pi| {
        pi.times(5, 5, |pi| {
            pi.discovers();
        })
        .wait(40);
    });
    check(PI3, Hint::TwoServers, |pi| {
        pi.control.saw_request(
            pi.now,
            &dhcp::parse(&packets::pi4(REQUEST).address(54, ROUTER).bytes()).unwrap(),
            &mut Vec::new(),
        );
        pi.times(5, 5, |pi| {
            pi.discovers();
        })
        .wait(40);
    });
}

#[test]
fn a_rom_that_was_never_answered_has_given_up() {
    check(PI3, Hint::RomGaveUp, |pi| {
        // Its root is being made all the while.
        pi.control.members.values_mut().next().unwrap().trees = None;
        pi.times(5, 5, |pi| {
            pi.discovers();
        })
        .wait(40);
    });
}

#[test]
fn a_leased_board_that_asks_no_file_has_another_server_in_its_eeprom() {
    for mac in [PI4, PI5] {
        check(mac, Hint::AsksNoFile, |pi| {
            pi.leased().wait(60);
        });
        check(mac, Hint::AsksNoFile, |pi| {
            pi.times(5, 12, |pi| {
                pi.leased();
            });
        });
    }
}

#[test]
fn a_second_stage_that_only_asks_is_not_heard() {
    check(PI3, Hint::SecondStageUnheard, |pi| {
        pi.leased().fetches(&["bootcode.bin"]).times(9, 5, |pi| {
            pi.bootcode();
        });
    });
}

#[test]
fn transfers_that_end_early_tell_why() {
    check(PI4, Hint::FilesUnheard, |pi| {
        pi.leased().found("9f3a0000/start4.elf");
        pi.times(12, 2, |pi| {
            pi.tftp(|address, path| tftp::Event::Repeated { address, path }, "start4.elf");
        });
        pi.wait(60);
    });
    check(PI5, Hint::FilesUnheard, |pi| {
        pi.leased().stopped("config.txt", 0, 100, false).wait(60);
    });
    let broke: Play = |pi| {
        pi.leased().fetches(&["config.txt"]).stopped("kernel8.img", 5120, 99_999, false).wait(60);
    };
    check(PI3, Hint::BrokeOff, broke);
    check(PI4, Hint::BrokeOff, broke);
    check(PI5, Hint::Pi5Hung, broke);
    check(PI4, Hint::BlockTwice, |pi| {
        pi.leased().stopped("start4.elf", 5120, 99_999, true).wait(60);
    });
    for block in [512, 1024, 1468] {
        let mut script = Script::new(PI4);
        script.leased().loads().stopped("initramfs8", 65_535 * block, 200 << 20, false).wait(90);
        assert_eq!(script.hint(), Some(Hint::FileTooLarge), "{block}");
    }
    check(PI5, Hint::FileTooLarge, |pi| {
        pi.leased().fetches(&["config.txt"]).found("boot.img").aborted("boot.img", 65_535 * 1468).wait(70);
    });
    check(PI4, Hint::StickUnreadable, |pi| {
        pi.leased().fetches(&["config.txt"]).found("kernel8.img");
        pi.tftp(|address, path| tftp::Event::Failed { address, path, error: "i/o".to_owned() }, "kernel8.img").wait(60);
    });
}

#[test]
fn what_the_image_lacks_is_told() {
    let all = ["00009f3a/start4.elf", "00009f3a/start.elf", "config.txt", "start4.elf", "start.elf"];
    let restarts = move |pi: &mut Script| {
        pi.leased().missing(&all);
    };
    let mut script = Script::new(PI4);
    script.times(4, 30, restarts);
    assert_eq!(script.hint(), Some(Hint::NoBootFiles));
    check(PI3, Hint::NoBootFiles, |pi| {
        pi.leased().missing(&["bootcode.bin"]).wait(60);
    });
    check(PI5, Hint::NoBootFiles, |pi| {
        pi.leased().missing(&["00009f3a/config.txt", "config.txt"]).wait(60);
    });
    check(PI5, Hint::NotForPi5, |pi| {
        pi.leased().fetches(&["config.txt"]).missing(&["bcm2712-rpi-5-b.dtb"]).wait(60);
    });
    check(PI4, Hint::NoDeviceTree, |pi| {
        pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat"]).missing(&["bcm2711-rpi-4-b.dtb"]);
        pi.fetches(&["overlays/overlay_map.dtb", "cmdline.txt", "kernel8.img"]).wait(60);
    });
    check(PI4, Hint::NoKernel, |pi| {
        pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "cmdline.txt"]);
        pi.missing(&["kernel8.img", "kernel7l.img", "kernel.img"]).wait(60);
    });
}

#[test]
fn firmware_and_kernels_that_stop_are_told_apart() {
    check(PI4, Hint::FirmwareStopped, |pi| {
        pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat"]).wait(60);
    });
    check(PI4, Hint::KernelSilent, |pi| {
        pi.leased().loads().wait(60);
    });
    check(PI3, Hint::KernelSilent, |pi| {
        pi.leased().loads().wait(60);
    });
    check(PI3, Hint::WrongKernel, |pi| {
        pi.leased().fetches(&["bootcode.bin"]).bootcode().fetches(&["start.elf", "bcm2710-rpi-3-b.dtb"]);
        pi.stopped("kernel8.img", 0, 9_000_000, false).fetches(&["kernel7.img"]).wait(60);
    });
    check(PI5, Hint::SignedBoot, |pi| {
        pi.leased().fetches(&["config.txt"]);
        pi.times(3, 5, |pi| {
            pi.found("boot.img").aborted("boot.img", 1468);
        })
        .wait(60);
    });
}

#[test]
fn a_kernel_that_does_not_get_its_root_tells_why() {
    let kernel: fn(&mut Script) -> &mut Script = |pi| pi.leased().loads().wait(5).kernel_leased();
    check(PI4, Hint::KernelUnheard, |pi| {
        pi.leased().loads().times(9, 6, |pi| {
            pi.kernel_discovers();
        });
    });
    for asked in [[(nfs::PROGRAM, 2), (nfs::MOUNT_PROGRAM, 1)], [(nfs::MOUNT_PROGRAM, 1), (nfs::MOUNT_PROGRAM, 1)]] {
        let mut script = Script::new(PI4);
        kernel(&mut script).ports(&asked).wait(100);
        assert_eq!(script.hint(), Some(Hint::NfsTwo));
    }
    let four = |pi: &mut Script| {
        kernel(pi);
        let (address, program, version) = (ITS, nfs::PROGRAM, 4);
        pi.times(9, 5, |pi| {
            pi.nfs(nfs::Event::VersionRefused { address, program, version });
        });
    };
    let mut script = Script::new(PI5);
    four(&mut script);
    assert_eq!(script.hint(), Some(Hint::NfsFour));
    for (reason, hint) in [
        (Refusal::NotAnExport, Hint::NotItsRoot),
        (Refusal::NoSuchFolder, Hint::NotItsRoot),
        (Refusal::NotMounted, Hint::TreeAway),
        (Refusal::Unprivileged, Hint::HighPort),
    ] {
        let mut script = Script::new(PI4);
        kernel(&mut script).times(40, 1, |pi| {
            pi.ports(&[(nfs::MOUNT_PROGRAM, 3)]).refused(reason);
        });
        assert_eq!(script.hint(), Some(hint), "{reason}");
    }
    let mut script = Script::new(PI4);
    kernel(&mut script)
        .times(6, 8, |pi| {
            pi.ports(&[(nfs::MOUNT_PROGRAM, 3)]);
        })
        .wait(95);
    assert_eq!(script.hint(), Some(Hint::CallsLost));
    let mut script = Script::new(PI4);
    kernel(&mut script).wait(95);
    assert_eq!(script.hint(), Some(Hint::MountsNothing));
}

#[test]
fn a_system_that_starts_and_falls_silent_tells_why() {
    let starts: fn(&mut Script) -> &mut Script = |pi| pi.leased().loads().wait(5).kernel_leased().mounted().wait(5);
    let mut script = Script::new(PI4);
    starts(&mut script).works().kernel_leased().wait(310);
    assert_eq!(script.hint(), Some(Hint::NetworkLost));
    let mut script = Script::new(PI4);
    starts(&mut script).works();
    script.says(packets::kernel_of(REQUEST, PI4).address(50, Ipv4Addr::new(192, 168, 77, 99))).wait(310);
    assert_eq!(script.hint(), Some(Hint::LeaseMoved));
    let mut script = Script::new(PI4);
    starts(&mut script).nfs(nfs::Event::BadHandle { address: ITS, count: 3, reason: "x" }).wait(310);
    assert_eq!(script.hint(), Some(Hint::FilesChanged));
    let mut script = Script::new(PI4);
    script.times(4, 30, |pi| {
        starts(pi).works();
    });
    assert_eq!(script.hint(), Some(Hint::RestartsAgain));
    let mut script = Script::new(PI4);
    starts(&mut script).wait(310);
    assert_eq!(script.hint(), Some(Hint::Unknown), "no rule says why");
    assert!(script.log.iter().any(|line| line.contains("report saved")));
}

#[test]
fn a_good_boot_never_shows_a_hint() {
    for mac in [PI3, PI4, PI5] {
        let mut script = Script::new(mac);
        // Three boots, as an update of the EEPROM or a person may want them.
        for _ in 0..3 {
            script.leased().loads();
            assert_eq!(script.hint(), None);
            script.wait(4).kernel_leased().wait(1).mounted();
            script.times(30, 1, |pi| {
                assert_eq!(pi.works().hint(), None);
            });
            script.kernel_leased().works();
            script.event(Event::Store(store::Event::Up { role: Role::numbered(1) }));
            script.times(30, 40, |pi| assert_eq!(pi.hint(), None));
        }
        assert!(!script.log.iter().any(|line| line.contains("is stuck")), "{:#?}", script.log);
    }
}

#[test]
fn a_slow_enrolment_is_not_taken_for_a_fault_of_the_board() {
    let mut script = Script::new(PI4);
    script.control.members.values_mut().next().unwrap().trees = None;
    script.times(60, 4, |pi| {
        pi.discovers();
        assert_eq!(pi.hint(), None);
    });
}

#[test]
fn a_stall_ends_when_the_boot_comes_further() {
    let mut script = Script::new(PI4);
    script.times(9, 5, |pi| {
        pi.discovers();
    });
    assert_eq!(script.hint(), Some(Hint::OffersUnheard));
    script.discovers();
    assert_eq!(script.hint(), Some(Hint::OffersUnheard), "the same again is no progress");
    script.requests(US).loads();
    assert_eq!(script.hint(), None);
    let mut script = Script::new(PI4);
    script.leased().loads().wait(70);
    assert_eq!(script.hint(), Some(Hint::KernelSilent));
    script.discovers();
    assert_eq!(script.hint(), None, "switched off and on");
}

#[test]
fn an_unknown_pi_3_that_gave_up_needs_more_than_enroll() {
    let mut script = Script::new(PI4);
    script.mac = PI3;
    let of = |script: &Script| script.control.status(script.now).strangers[0].hint;
    script.times(4, 5, |pi| {
        pi.discovers();
    });
    assert_eq!(of(&script), None);
    script.discovers();
    assert_eq!(of(&script), Some(Hint::PressAndRestart));
}

#[test]
fn ten_thousand_boards_fill_a_bounded_table() {
    let mut script = Script::new(PI4);
    for n in 0..10_000_u32 {
        script.mac.0 = [0xdc, 0xa6, 0x32, (n >> 16) as u8, (n >> 8) as u8, n as u8];
        script.says(packets::kernel_of(DISCOVER, script.mac));
    }
    assert!(script.control.boards.len() <= 256);
}

#[test]
fn a_window_in_which_no_packet_came_says_what_to_look_at() {
    let mut script = Script::new(PI4);
    let pressed = || Event::Panel(panel::Event::Pressed(panel::Gesture::Short(panel::Button::Enroll)));
    let problems = |script: &Script| script.control.status(script.now).problems;
    script.control.images = vec!["raspios-12345678".parse().unwrap()];
    script.event(Event::Net(net::Event::Carrier(true))).event(pressed()).wait(130);
    assert_eq!(problems(&script)[0].message, Hint::NeverAsked.action());
    // The next press is another try, in which a Pi asks.
    script.event(pressed());
    assert_eq!(problems(&script), []);
    script.mac = PI5;
    script.wait(100).discovers();
    script.wait(200);
    assert_eq!(problems(&script), []);
    // A switch that holds its ports back explains it better.
    script.control.facts.forward_delay = Some(Duration::from_secs(15));
    script.event(pressed()).wait(130);
    assert_eq!(problems(&script)[0].message, Hint::PortsHeld.action());
    // A window that is left open to the end, and forgotten.
    script.event(pressed()).wait(130);
    assert_eq!(problems(&script).len(), 1);
    script.wait(600);
    assert_eq!(problems(&script), []);
}
