//! A script for each hint of a board that asks for an address, and what is no fault.

use super::script::*;
use super::*;
use crate::dhcp::packets::{self, PI3, PI4, PI5};
use crate::diagnose::Hint;
use crate::wire;

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
    for (mac, hint) in [(PI3, Hint::RomBeside), (PI4, Hint::NoLease), (PI5, Hint::NoLease)] {
        let mut script = Script::new(mac);
        asks(script.beside(false));
        assert_eq!(script.hint(), Some(hint));
    }
    // A 3B+, or bootcode.bin on a card: that has no such ROM.
    let mut script = Script::new(PI3);
    script.beside(false).times(9, 5, |pi| {
        pi.bootcode();
    });
    assert_eq!(script.hint(), Some(Hint::NoLease));
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
fn a_slow_enrolment_is_not_taken_for_a_fault_of_the_board() {
    let mut script = Script::new(PI4);
    script.control.members.values_mut().next().unwrap().trees = None;
    script.times(60, 4, |pi| {
        pi.discovers();
        assert_eq!(pi.hint(), None);
    });
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
