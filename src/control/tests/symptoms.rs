//! The 39 symptoms of the project's notes on netboot ("Failure modes by stage"), one by
//! one: what is told of each, by a scripted exchange, or why it cannot be seen from here.
//!
//! The numbers at the rules (`diagnose::Rule::symptoms`) and those here must agree. The
//! scripts are minimal; what comes close to each, and two at once, are in `scenes`.

use super::script::*;
use super::*;
use crate::dhcp::packets::{self, PI3, PI4, PI5, Packet};
use crate::diagnose::{Hint, all, rule};
use crate::nfs::Refusal;

enum Answer {
    /// The client counts as stuck, with this hint, once each.
    Stuck(&'static [(MacAddr, Hint, Play)]),
    /// A problem that stands for itself, in the words of that hint.
    Problem(Hint, Play),
    /// It is none; the script looks for itself, and no client counts as stuck.
    NoFault(&'static [MacAddr], Play),
    /// Why no rule can know.
    Unseen(&'static str),
}

use Answer::{NoFault, Problem, Stuck, Unseen};

/// By number: what the notes call it, and what comes of it here.
const SYMPTOMS: &[(u8, &str, &[Answer])] = &[
    (1, "no packets at all, Pi 4 or 5", &[Problem(Hint::NeverAsked, window), Stuck(&[(PI4, Hint::OwnCard, own_card)])]),
    (2, "no packets, Pi 3B", &[Problem(Hint::NeverAsked, window), Stuck(&[(PI3, Hint::OwnCard, own_card)])]),
    (3, "first DISCOVERs missing", &[Problem(Hint::PortsHeld, |pi| window(slow_ports(pi)))]),
    (
        4,
        "five DISCOVERs, then silence",
        &[Stuck(&[(PI3, Hint::RomGaveUp, |pi| {
            // Its root is being made all the while.
            pi.control.members.values_mut().next().unwrap().trees = None;
            five(pi);
        })])],
    ),
    (5, "DISCOVER repeats, OFFER sent, no RRQ, Pi 3", &[Stuck(&[(PI3, Hint::RomDeaf, five)])]),
    (
        6,
        "the same with option 43 right",
        &[Stuck(&[
            (PI3, Hint::RomDeaf, five),
            (PI3, Hint::TwoServers, |pi| {
                // Another board has chosen that server.
                let other = dhcp::parse(&packets::pi4(REQUEST).address(54, ROUTER).bytes()).unwrap();
                pi.control.saw_request(pi.now, &other, &mut Vec::new());
                five(pi);
            }),
            (PI3, Hint::RomBeside, |pi| five(pi.beside(false))),
        ])],
    ),
    (7, "DISCOVER and OFFER through a relay", &[Stuck(&[(PI3, Hint::Relay, relayed), (PI4, Hint::Relay, relayed)])]),
    (
        8,
        "Pi 4 loops, x86 boots",
        &[Unseen(
            "the menu is another server's, and goes to the board alone; the board then asks that server for its address, \
         which is OtherServer",
        )],
    ),
    (
        9,
        "OFFER ignored by an old Pi 4",
        &[Stuck(&[(PI4, Hint::OldEeprom, |pi| {
            pi.times(9, 5, |pi| {
                pi.says(packets::pi4_of_2019(DISCOVER));
            });
        })])],
    ),
    (
        10,
        "REQUEST and ACK with another server",
        &[Stuck(&[(PI4, Hint::OtherServer, |pi| {
            pi.discovers().requests(ROUTER).wait(60);
        })])],
    ),
    (
        11,
        "RRQ to a mangled address, 2019-12",
        &[Stuck(&[(PI4, Hint::OldEeprom, |pi| {
            pi.times(9, 5, |pi| {
                pi.says(packets::pi4_of_2019(DISCOVER));
                pi.says(packets::pi4_of_2019(REQUEST).address(54, US).address(50, ITS));
            });
        })])],
    ),
    (
        12,
        "no address for new boards: list of OUIs too old",
        &[NoFault(&[PI5], |pi| {
            // A board with first bytes that nobody has seen yet is known by its class and option 97.
            let mut packet = packets::pi5(DISCOVER).bytes();
            packet[28..31].copy_from_slice(&[0x00, 0x11, 0x22]);
            let asks = Event::Dhcp(dhcp::Event::Request(Box::new(dhcp::parse(&packet).unwrap())));
            pi.control.images = vec!["raspios-12345678".parse().unwrap()];
            pi.event(Event::Panel(panel::Event::Pressed(Gesture::Short(Button::Enroll)))).event(asks);
            let made = |action: &Action| matches!(action, Action::Store(store::Command::CreateClient(_)));
            assert!(pi.done.iter().any(made), "{:?}", pi.log);
        })],
    ),
    (
        13,
        "Pi 5: DHCP only, no RRQ",
        &[Stuck(&[
            (PI5, Hint::AsksNoFile, |pi| {
                pi.leased().wait(60);
            }),
            (PI5, Hint::LoadsElsewhere, |pi| {
                pi.beside(false).discovers().requests(ROUTER).wait(60);
            }),
        ])],
    ),
    (
        14,
        "RRQ to a false MAC address",
        &[Stuck(&[(PI3, Hint::SecondStageUnheard, |pi| {
            // The switch does not bring us frames for others: it asked for an address, and that is all.
            pi.leased().fetches(&["bootcode.bin"]).bootcode().wait(70);
        })])],
    ),
    (
        15,
        "bootcode.bin fetched, then only DHCP",
        &[Stuck(&[(PI3, Hint::SecondStageUnheard, |pi| {
            pi.leased().fetches(&["bootcode.bin"]).times(9, 5, |pi| {
                pi.bootcode();
            });
        })])],
    ),
    (
        16,
        "transfer dies in a file",
        &[Stuck(&[
            (PI3, Hint::SilentInFile, |pi| {
                pi.leased()
                    .fetches(&["bootcode.bin"])
                    .bootcode()
                    .stopped("kernel8.img", 5120, 9_000_000, false)
                    .wait(60);
            }),
            (PI3, Hint::BrokeOff, |pi| {
                for n in 1..=4 {
                    pi.leased().fetches(&["bootcode.bin"]).bootcode().stopped("start.elf", 5120 * n, 9_000_000, false);
                    pi.wait(20);
                }
                pi.leased().fetches(&["bootcode.bin"]);
            }),
        ])],
    ),
    (
        17,
        "RRQ again and again from the same port",
        &[Stuck(&[(PI4, Hint::FilesUnheard, |pi| {
            pi.leased().found("start4.elf").times(12, 2, |pi| {
                pi.tftp(|address, path| tftp::Event::Repeated { address, path }, "start4.elf");
            });
            pi.wait(60);
        })])],
    ),
    (
        18,
        "start4, start, config: all ERROR 1, and again",
        &[Stuck(&[
            (PI4, Hint::NoBootFiles, |pi| {
                pi.times(4, 30, |pi| {
                    pi.leased().missing(&["00009f3a/start4.elf", "00009f3a/start.elf", "config.txt", "start4.elf"]);
                });
            }),
            (PI3, Hint::NoBootFiles, |pi| {
                pi.leased().missing(&["bootcode.bin"]).wait(60);
            }),
            (PI5, Hint::NoBootFiles, |pi| {
                pi.leased().missing(&["00009f3a/config.txt", "config.txt"]).wait(60);
            }),
        ])],
    ),
    (
        19,
        "many \"Early terminate\"",
        &[NoFault(&[PI3, PI4, PI5], |pi| {
            pi.leased().loads();
            for _ in 0..9 {
                pi.found("kernel8.img").aborted("kernel8.img", 0);
            }
            pi.wait(4).kernel_leased().mounted().wait(60);
        })],
    ),
    (
        20,
        "stops behind fixup4.dat",
        &[Stuck(&[(PI4, Hint::FirmwareStopped, |pi| {
            pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat"]).wait(60);
        })])],
    ),
    (21, "wrong size of memory, or a freeze", &[Unseen("it happens inside the board; a freeze is 20 or 30")]),
    (
        22,
        "block N repeated, ACK N+1",
        &[Stuck(&[(PI4, Hint::BlockTwice, |pi| {
            pi.leased().stopped("start4.elf", 5120, 99_999, true).wait(60);
        })])],
    ),
    (
        23,
        "a large initramfs stops near 64 or 92 MiB",
        &[Stuck(&[
            (PI4, Hint::FileTooLarge, |pi| too_large(pi, 1024)),
            (PI5, Hint::FileTooLarge, |pi| too_large(pi, 1468)),
        ])],
    ),
    (
        24,
        "wrong kernel, or none",
        &[Stuck(&[
            (PI3, Hint::WrongKernel, |pi| {
                pi.leased().fetches(&["bootcode.bin"]).bootcode().fetches(&["start.elf", "bcm2710-rpi-3-b.dtb"]);
                pi.stopped("kernel8.img", 0, 9_000_000, false).fetches(&["kernel7.img"]).wait(60);
            }),
            (PI4, Hint::NoKernel, |pi| {
                pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "cmdline.txt"]);
                pi.missing(&["kernel8.img", "kernel7l.img", "kernel.img"]).wait(60);
            }),
        ])],
    ),
    (25, "config.txt seems ignored", &[Unseen("it was sent, and what becomes of it happens inside the board")]),
    (
        26,
        "Pi 5: the OS does not indicate support",
        &[Stuck(&[(PI5, Hint::NotForPi5, |pi| {
            pi.leased().fetches(&["config.txt"]).missing(&["bcm2712-rpi-5-b.dtb"]).wait(60);
        })])],
    ),
    (
        27,
        "Pi 5: black screen behind slow TFTP",
        &[Stuck(&[(PI5, Hint::Pi5Hung, |pi| {
            pi.leased().fetches(&["config.txt"]).stopped("kernel_2712.img", 5120, 9_000_000, false).wait(60);
        })])],
    ),
    (
        28,
        "boot.img broken off at once, and again",
        &[Stuck(&[(PI5, Hint::SignedBoot, |pi| {
            pi.leased().fetches(&["config.txt"]).times(3, 5, |pi| {
                pi.found("boot.img").aborted("boot.img", 1468);
            });
            pi.wait(60);
        })])],
    ),
    (
        29,
        "boots once, not after a reboot",
        &[Unseen(
            "a board that hangs before its loader's first packet looks as if it were switched off: it is shown as gone",
        )],
    ),
    (
        30,
        "kernel sent, no second DHCP",
        &[Stuck(&[
            (PI4, Hint::KernelSilent, |pi| {
                pi.leased().loads().wait(60);
            }),
            (PI4, Hint::NoDeviceTree, |pi| {
                pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat"]).missing(&["bcm2711-rpi-4-b.dtb"]);
                pi.fetches(&["overlays/overlay_map.dtb", "cmdline.txt", "kernel8.img"]).wait(60);
            }),
        ])],
    ),
    (
        31,
        "\"Retrying forever (NFS root)\"",
        &[Stuck(&[(PI4, Hint::KernelUnheard, |pi| {
            pi.leased().loads().times(9, 6, |pi| {
                pi.kernel_discovers();
            });
        })])],
    ),
    (
        32,
        "version 2 asked of a server of 3",
        &[Stuck(&[(PI4, Hint::NfsTwo, |pi| {
            kernel(pi).ports(&[(nfs::PROGRAM, 2), (nfs::MOUNT_PROGRAM, 1)]).wait(100);
        })])],
    ),
    (
        33,
        "nfsmount: bad option",
        &[Stuck(&[
            (PI4, Hint::MountsNothing, |pi| {
                kernel(pi).wait(95);
            }),
            (PI5, Hint::NfsFour, |pi| {
                let (address, program, version) = (ITS, nfs::PROGRAM, 4);
                kernel(pi).times(3, 5, |pi| {
                    pi.nfs(nfs::Event::VersionRefused { address, program, version });
                });
                pi.wait(90);
            }),
        ])],
    ),
    (
        34,
        "MNT denied",
        &[Stuck(&[
            (PI4, Hint::NotItsRoot, |pi| denied(pi, Refusal::NotAnExport)),
            (PI4, Hint::TreeAway, |pi| denied(pi, Refusal::NotMounted)),
            (PI4, Hint::HighPort, |pi| denied(pi, Refusal::Unprivileged)),
        ])],
    ),
    (
        35,
        "starts, then \"nfs: server not responding\"",
        &[Stuck(&[
            (PI4, Hint::NetworkLost, |pi| {
                kernel(pi).mounted().wait(5).works().kernel_leased().wait(310);
            }),
            (PI4, Hint::LeaseMoved, |pi| {
                kernel(pi).mounted().wait(5).works();
                let other = Ipv4Addr::new(192, 168, 77, 99);
                pi.says(packets::kernel_of(REQUEST, PI4).address(50, other)).wait(310);
            }),
        ])],
    ),
    (
        36,
        "stands for 50 s before the mount",
        &[Stuck(&[(PI4, Hint::CallsLost, |pi| {
            kernel(pi).times(6, 8, |pi| {
                pi.ports(&[(nfs::MOUNT_PROGRAM, 3)]);
            });
            pi.wait(95);
        })])],
    ),
    (
        37,
        "the first boot loops",
        &[Stuck(&[(PI4, Hint::RestartsAgain, |pi| {
            pi.times(4, 30, |pi| {
                kernel(pi).mounted().wait(5).works();
            });
        })])],
    ),
    (
        38,
        "modules do not load after an upgrade",
        &[Unseen("it cannot happen here, since a client's /boot/firmware is the tree that TFTP serves")],
    ),
    (39, "containers: invalid argument", &[Unseen("it happens inside a running system; its volume goes round it")]),
];

/// Hints of our own, which the notes have no number for.
const OURS: &[(MacAddr, Hint, Play)] = &[
    (PI4, Hint::NobodyLeases, |pi| {
        asks_on(pi.beside(false).beside(true));
    }),
    (PI4, Hint::NoLease, |pi| asks_on(pi.beside(false))),
    (PI4, Hint::OffersUnheard, asks_on),
    (PI4, Hint::StickAway, |pi| {
        pi.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
        asks_on(pi);
    }),
    (PI4, Hint::AddressClaimed, |pi| {
        pi.times(9, 5, |pi| {
            let address = pi.control.members.values().next().unwrap().client.address;
            pi.discovers();
            pi.says(pi.loader(DECLINE).address(54, US).address(50, address));
        });
    }),
    (PI4, Hint::StickUnreadable, |pi| {
        pi.leased().fetches(&["config.txt"]).found("kernel8.img");
        pi.tftp(|address, path| tftp::Event::Failed { address, path, error: "i/o".to_owned() }, "kernel8.img").wait(60);
    }),
    (PI4, Hint::SamePlace, |pi| {
        pi.times(4, 20, |pi| {
            pi.leased().fetches(&["config.txt"]).stopped("initramfs8", 5120, 9_000_000, false);
        });
    }),
    (PI4, Hint::PowerLost, |pi| {
        for n in 1..=4 {
            pi.leased().fetches(&["config.txt"]).found("start4.elf").wait(3).progress(70_000 * n).wait(3);
        }
        pi.discovers();
    }),
    (PI4, Hint::BrokeOff, |pi| {
        for n in 1..=4 {
            pi.leased().fetches(&["config.txt"]).stopped("start4.elf", 5120 * n, 2_000_000, false).wait(25);
        }
        pi.discovers();
    }),
    (PI4, Hint::StoppedStarting, |pi| {
        kernel(pi).mounted().event(Event::Net(net::Event::Carrier(true))).wait(60);
    }),
    (PI4, Hint::FilesChanged, |pi| {
        kernel(pi).mounted().wait(5).nfs(nfs::Event::BadHandle { address: ITS, count: 3, reason: "x" }).wait(310);
    }),
    (PI4, Hint::Unknown, |pi| {
        kernel(pi).mounted().wait(310);
    }),
];

fn five(pi: &mut Script) {
    pi.times(5, 5, |pi| {
        pi.discovers();
    })
    .wait(40);
}

fn asks_on(pi: &mut Script) {
    pi.times(9, 5, |pi| {
        pi.discovers();
    });
}

fn relayed(pi: &mut Script) {
    pi.times(9, 5, |pi| {
        pi.says(pi.loader(DISCOVER).giaddr(Ipv4Addr::new(192, 168, 77, 3)));
    });
}

fn kernel(pi: &mut Script) -> &mut Script {
    pi.leased().loads().wait(5).kernel_leased()
}

fn denied(pi: &mut Script, reason: Refusal) {
    kernel(pi).times(40, 1, |pi| {
        pi.ports(&[(nfs::MOUNT_PROGRAM, 3)]).refused(reason);
    });
}

fn too_large(pi: &mut Script, block: u64) {
    pi.leased().fetches(&["config.txt"]).stopped("initramfs8", 65_535 * block, 200 << 20, false).wait(90);
}

fn own_card(pi: &mut Script) {
    let system = |pi: &Script, kind| Packet::new(kind, pi.mac).option(55, &[1, 3, 6, 15, 28, 42, 119, 121]);
    pi.says(system(pi, DISCOVER));
    pi.says(system(pi, REQUEST).address(54, US).address(50, ITS)).wait(60);
}

/// A press, and nobody comes.
fn window(pi: &mut Script) {
    pi.control.images = vec!["raspios-12345678".parse().unwrap()];
    pi.event(Event::Net(net::Event::Carrier(true)));
    pi.event(Event::Panel(panel::Event::Pressed(Gesture::Short(Button::Enroll)))).wait(130);
}

fn slow_ports(pi: &mut Script) -> &mut Script {
    pi.control.facts.forward_delay = Some(Duration::from_secs(15));
    pi
}

#[test]
fn each_of_the_39_symptoms_is_told_or_has_a_reason_why_not() {
    let numbers: Vec<u8> = SYMPTOMS.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=39).collect::<Vec<u8>>());
    for (number, looks, answers) in SYMPTOMS {
        let mut told = Vec::new();
        for answer in *answers {
            match answer {
                Stuck(scripts) => {
                    for &(mac, hint, play) in *scripts {
                        println!("symptom {number}, {looks}: {hint:?}");
                        check(mac, hint, play);
                        told.push(hint);
                    }
                }
                Problem(hint, play) => {
                    let mut script = Script::new(PI4);
                    play(&mut script);
                    assert_eq!(script.control.status(script.now).problems[0].message, hint.action());
                    told.push(*hint);
                }
                NoFault(boards, play) => {
                    for mac in *boards {
                        let mut script = Script::new(*mac);
                        play(&mut script);
                        assert_eq!(script.hint(), None, "symptom {number}");
                        assert!(!script.log.iter().any(|line| line.contains("is stuck")), "{:#?}", script.log);
                    }
                }
                Unseen(why) => assert!(!why.is_empty()),
            }
        }
        for hint in &told {
            assert!(rule(*hint).symptoms.contains(number), "{hint:?} is not said to answer symptom {number}");
        }
        // These three are told on a page of their own, where the client is not stuck.
        let elsewhere = [Hint::NeverHeard, Hint::PressAndRestart];
        for other in all().filter(|rule| rule.symptoms.contains(number) && !elsewhere.contains(&rule.hint)) {
            assert!(
                told.contains(&other.hint),
                "{:?} answers symptom {number} and no script here shows it",
                other.hint
            );
        }
    }
}

#[test]
fn every_hint_has_a_script() {
    for &(mac, hint, play) in OURS {
        check(mac, hint, play);
    }
    for rule in all().filter(|rule| rule.symptoms.is_empty()) {
        assert!(OURS.iter().any(|(_, hint, _)| *hint == rule.hint), "{:?} has no script", rule.hint);
    }
}

#[test]
fn a_client_that_was_never_heard_has_advice_by_what_the_switch_does() {
    let mut script = Script::new(PI3);
    let advice = |script: &Script| script.control.status(script.now).clients[0].advice;
    assert_eq!(advice(&script), Some(Hint::NeverHeard));
    assert_eq!(advice(slow_ports(&mut script)), Some(Hint::PortsHeld));
    script.discovers();
    assert_eq!(advice(&script), None, "it was heard");
}
