//! Symptoms of boards that ask for an address and get no further.

use super::*;

pub(super) const SYMPTOMS: &[Symptom] = &[
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
        &[Stuck(&[
            // That server leases too, and its menu is not for this board.
            (PI4, Hint::OtherServer, |pi| elsewhere_again(pi)),
            (PI4, Hint::LoadsElsewhere, |pi| elsewhere_again(pi.beside(false))),
        ])],
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
];

fn five(pi: &mut Script) {
    pi.times(5, 5, |pi| {
        pi.discovers();
    })
    .wait(40);
}

pub(super) fn asks_on(pi: &mut Script) {
    pi.times(9, 5, |pi| {
        pi.discovers();
    });
}

fn relayed(pi: &mut Script) {
    pi.times(9, 5, |pi| {
        pi.says(pi.loader(DISCOVER).giaddr(Ipv4Addr::new(192, 168, 77, 3)));
    });
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

/// It takes its address from the other server, loads nothing of us, and begins anew.
fn elsewhere_again(pi: &mut Script) {
    pi.times(4, 30, |pi| {
        pi.discovers().requests(ROUTER);
    });
}

pub(super) fn slow_ports(pi: &mut Script) -> &mut Script {
    pi.control.facts.forward_delay = Some(Duration::from_secs(15));
    pi
}
