//! Whole evenings with a Pi that does not boot, and some where nothing is wrong: foreign machines
//! and people's hands beside the client. What the panel says must be right, or be nothing.

use super::script::{DISCOVER, ITS, REQUEST, ROUTER, Script, US};
use super::*;
use crate::client::Serial;
use crate::dhcp::packets::{self, PI3, PI4, PI5, Packet};
use crate::diagnose::Hint;
use crate::directory::Tree;
use crate::nfs::Refusal;

const PC: MacAddr = MacAddr([0x52, 0x54, 0, 1, 2, 3]);

/// Another machine's message, as it reaches us.
fn other(script: &mut Script, packet: Packet) {
    let request = dhcp::parse(&packet.bytes()).unwrap();
    script.event(Event::Dhcp(dhcp::Event::Request(Box::new(request))));
}

fn pc(kind: u8) -> Packet {
    Packet::new(kind, PC)
        .option(55, &[1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135])
        .option(93, &[0, 7])
        .option(60, b"PXEClient:Arch:00007:UNDI:003016")
}

pub(super) fn up(script: &mut Script) {
    script.event(Event::Store(store::Event::Up { role: Role::numbered(1) }));
}

/// A boot to its root, without a hint on the way.
pub(super) fn boots(script: &mut Script) {
    script.leased().loads();
    assert_eq!(script.hint(), None);
    script.wait(4).kernel_leased().wait(1).mounted().wait(10);
    assert_eq!(script.hint(), None);
}

/// The same, with what was said of the boots before until it comes further than they did.
fn boots_at_last(script: &mut Script) {
    script.leased().loads().wait(4).kernel_leased().wait(1).mounted().wait(10);
    assert_eq!(script.hint(), None);
}

pub(super) fn nobody_was_blamed(script: &Script) {
    assert_eq!(blamed(script), 0, "{:#?}", script.log);
    assert_eq!(script.control.status(script.now).problems, []);
}

/// How often it was said to be stuck.
pub(super) fn blamed(script: &Script) -> usize {
    script.log.iter().filter(|line| line.contains("is stuck")).count()
}

/// Nobody answers for its address from now on.
pub(super) fn falls_silent(script: &mut Script, seconds: u64) {
    script.event(Event::Net(net::Event::Carrier(true)));
    script.wait(seconds);
}

#[test]
fn a_pc_that_netboots_from_somebody_else_beside_a_pi_is_nobodys_fault() {
    for mac in [PI3, PI4, PI5] {
        let mut script = Script::new(mac);
        for _ in 0..8 {
            other(&mut script, pc(DISCOVER));
            other(&mut script, pc(REQUEST).address(54, ROUTER).address(50, Ipv4Addr::new(192, 168, 77, 99)));
            script.wait(2);
        }
        boots(&mut script);
        up(&mut script);
        script.wait(100);
        nobody_was_blamed(&script);
        assert_eq!(script.control.status(script.now).strangers, [], "a PC is none");
        assert!(script.done.iter().any(|action| matches!(action, Action::Survey)), "but its server is looked for");
        // If there is none, it was a memory of the PC's.
        assert_eq!(script.control.other_server(script.now), None);
    }
}

#[test]
fn of_two_pis_with_the_same_last_digits_the_stuck_one_is_told() {
    let mut script = Script::new(PI4);
    // The other one has a serial that ends alike, and its own place.
    let one = script.control.members[&Role::numbered(1)].client.clone();
    let place = Ipv4Addr::new(192, 168, 77, 11);
    let client = Client {
        role: Role::numbered(2),
        mac: PI5,
        serial: Some(Serial(0x1234_9f3a)),
        address: place,
        export_id: 2,
        ..one.clone()
    };
    let open = |client| {
        let (root, boot) = ("/r".into(), "/b".into());
        store::OpenClient { root, boot, volume: None, account: None, renew_at_boot: false, writable: true, client }
    };
    script.event(Event::Store(store::Event::ClientReady(open(client))));
    for _ in 0..9 {
        script.discovers().wait(5);
    }
    other(&mut script, packets::pi5(DISCOVER));
    other(&mut script, packets::pi5(REQUEST).address(54, US).address(50, place));
    let started = |path: &str| {
        let (path, folder) = (path.to_owned(), Some(Serial(0x1234_9f3a)));
        Event::Tftp(tftp::Event::Started { address: place, path, folder, size: Some(9) })
    };
    script.event(started("12349f3a/config.txt"));
    let status = script.control.status(script.now);
    assert!(matches!(status.clients[0].stage, Stage::Stalled { hint: Hint::OffersUnheard, .. }), "{status:?}");
    assert!(matches!(status.clients[1].stage, Stage::Loading { .. }), "{status:?}");
}

#[test]
fn a_slow_switch_and_a_slow_stick_cost_time_and_are_no_fault() {
    // A spanning tree holds the port back for 30 s: of a Pi 3's five questions the last ones arrive.
    let mut script = Script::new(PI3);
    script.control.facts.forward_delay = Some(Duration::from_secs(15));
    script.wait(20).discovers().wait(5);
    script.fetches(&["bootcode.bin"]);
    // Each file is asked for two or three times before something of it is acknowledged.
    for path in ["config.txt", "start.elf", "fixup.dat", "bcm2710-rpi-3-b.dtb", "cmdline.txt", "kernel8.img"] {
        script.found(path).wait(2);
        for _ in 0..2 {
            script.tftp(|address, path| tftp::Event::Repeated { address, path }, path).wait(2);
        }
        script.fetches(&[path]).wait(8);
        assert_eq!(script.hint(), None, "{path}");
    }
    script.wait(40).kernel_leased().wait(5).mounted();
    nobody_was_blamed(&script);
}

#[test]
fn an_old_pi_4_that_asks_for_its_files_in_the_root_only_boots_or_is_told_the_truth() {
    let asks = |script: &mut Script| {
        script.says(packets::pi4_of_2019(DISCOVER));
        script.says(packets::pi4_of_2019(REQUEST).address(54, US).address(50, ITS)).wait(1);
    };
    let mut script = Script::new(PI4);
    asks(&mut script);
    script.fetches(&["start4.elf", "fixup4.dat", "config.txt"]).missing(&["recovery.elf", "dt-blob.bin"]);
    script.fetches(&["bcm2711-rpi-4-b.dtb", "cmdline.txt", "kernel8.img"]).wait(5).kernel_leased().mounted();
    nobody_was_blamed(&script);
    // The same with an image that is for another board.
    let mut script = Script::new(PI4);
    for _ in 0..4 {
        asks(&mut script);
        script.missing(&["start4.elf", "start.elf", "config.txt"]).wait(20);
    }
    assert_eq!(script.hint(), Some(Hint::NoBootFiles));
}

#[test]
fn whoever_switches_a_pi_off_and_on_while_it_loads_gets_no_wrong_advice() {
    for mac in [PI3, PI4, PI5] {
        let mut script = Script::new(mac);
        script.leased();
        script.fetches(&["config.txt"]).stopped("kernel8.img", 5120, 9_000_000, false).wait(3);
        boots(&mut script);
        up(&mut script);
        nobody_was_blamed(&script);
    }
    // Off and on again before the server gives the transfer up: its end comes in the next boot.
    for mac in [PI4, PI5] {
        let mut script = Script::new(mac);
        script.leased().fetches(&["config.txt"]).found("kernel8.img").wait(3).progress(70_000).wait(5);
        script.leased().wait(2);
        let path = "kernel8.img".to_owned();
        let (bytes, sent, size, ahead) = (70_000, 71_024, 9_000_000, false);
        script.event(Event::Tftp(tftp::Event::TimedOut { address: ITS, path, bytes, sent, size, ahead }));
        script.discovers();
        assert_eq!(script.control.boards.get(mac).unwrap().boots(), 2, "that is no third boot");
        boots(&mut script);
        nobody_was_blamed(&script);
    }
    // Twice, at any pace, is still a hand's work; more often it is told by what was seen.
    let offs: [(MacAddr, u64, Hint); 4] =
        [(PI4, 4, Hint::PowerLost), (PI5, 12, Hint::PowerLost), (PI4, 40, Hint::BrokeOff), (PI3, 4, Hint::BrokeOff)];
    for (mac, pause, hint) in offs {
        let mut script = Script::new(mac);
        for n in 1..=4 {
            let first: &[&str] = if mac == PI3 { &["bootcode.bin"] } else { &["config.txt"] };
            script.leased().fetches(first).found("start.elf").wait(2).progress(70_000 * n).wait(pause);
            let expected = (n == 4).then_some(hint);
            assert_eq!(script.hint(), expected, "{mac}, {pause} s, boot {n}");
        }
        boots_at_last(&mut script);
    }
    // Off for good: nothing more can be known, and what to look at is told.
    let mut script = Script::new(PI4);
    script.leased().fetches(&["config.txt"]).stopped("kernel8.img", 5120, 9_000_000, false).wait(60);
    assert_eq!(script.hint(), Some(Hint::SilentInFile));
}

#[test]
fn a_kernel_that_panics_is_told_by_where_it_stopped() {
    // It names a root that is not its own, panics, and restarts after ten seconds.
    let mut script = Script::new(PI4);
    for _ in 0..4 {
        script.leased().loads().wait(5).kernel_leased().ports(&[(nfs::MOUNT_PROGRAM, 3)]);
        script.refused(Refusal::NotAnExport).wait(15);
    }
    assert_eq!(script.hint(), Some(Hint::NotItsRoot));
    // It has no NFS, or no idea of a root: it mounts nothing, and restarts.
    let mut script = Script::new(PI4);
    for _ in 0..4 {
        script.leased().loads().wait(5).kernel_leased().wait(15);
    }
    assert_eq!(script.hint(), Some(Hint::MountsNothing));
    // It has its root, finds no init there, and restarts.
    let mut script = Script::new(PI4);
    for _ in 0..4 {
        script.leased().loads().wait(5).kernel_leased().mounted().wait(12);
    }
    assert_eq!(script.hint(), Some(Hint::RestartsAgain));
    // The same without a restart: it answers nothing any more. That is not merely switched off.
    let mut script = Script::new(PI4);
    script.leased().loads().wait(5).kernel_leased().mounted();
    falls_silent(&mut script, 60);
    assert_eq!(script.hint(), Some(Hint::StoppedStarting));
    boots(&mut script);
    up(&mut script);
    assert_eq!(script.hint(), None, "the next boot is another story");
}

#[test]
fn a_client_that_was_switched_off_is_gone_and_has_no_fault() {
    let mut script = Script::new(PI4);
    boots(&mut script);
    up(&mut script);
    script.wait(200);
    falls_silent(&mut script, 60);
    nobody_was_blamed(&script);
    assert!(matches!(script.control.status(script.now).clients[0].stage, Stage::Gone));
    // In order while it starts: a person thought better of it.
    let mut script = Script::new(PI4);
    boots(&mut script);
    script.nfs(nfs::Event::Unmounted { address: ITS });
    falls_silent(&mut script, 60);
    nobody_was_blamed(&script);
    assert!(matches!(script.control.status(script.now).clients[0].stage, Stage::Gone));
}

#[test]
fn a_system_that_never_says_that_it_is_up_may_be_restarted_as_often_as_one_likes() {
    let mut script = Script::new(PI4);
    for _ in 0..6 {
        boots(&mut script);
        for _ in 0..20 {
            script.works().wait(20);
        }
    }
    nobody_was_blamed(&script);
    falls_silent(&mut script, 60);
    assert!(matches!(script.control.status(script.now).clients[0].stage, Stage::Gone), "and switched off");
}

#[test]
fn a_client_with_a_card_of_its_own_in_it_is_told_to_take_that_out() {
    let system = |kind| Packet::new(kind, PI4).option(55, &[1, 3, 6, 15, 28, 42, 119, 121]);
    let mut script = Script::new(PI4);
    script.says(system(DISCOVER));
    script.says(system(REQUEST).address(54, US).address(50, ITS)).wait(60);
    assert_eq!(script.hint(), Some(Hint::OwnCard));
    boots(&mut script);
    assert_eq!(script.hint(), None);
    // A client that ran before we did renews, and asks nothing new.
    let mut script = Script::new(PI4);
    script.says(system(REQUEST).ciaddr(ITS)).wait(100);
    assert_eq!(script.hint(), None);
    // One that was switched off, and starts from a card: with a lease that it remembers, or none.
    for remembers in [true, false] {
        let mut script = Script::new(PI4);
        boots(&mut script);
        up(&mut script);
        falls_silent(&mut script, 60);
        assert!(matches!(script.control.status(script.now).clients[0].stage, Stage::Gone));
        if !remembers {
            script.says(system(DISCOVER));
        }
        script.says(system(REQUEST).address(50, ITS)).wait(240);
        assert_eq!(script.hint(), None, "its cable may have been out, and it rests");
        script.wait(70);
        assert_eq!(script.hint(), Some(Hint::OwnCard));
        boots(&mut script);
        up(&mut script);
        assert_eq!(script.hint(), None);
        // The cable was out: it renews, and uses its root again.
        falls_silent(&mut script, 60);
        script.says(system(REQUEST).address(50, ITS)).wait(2).works().wait(400);
        assert_eq!(blamed(&script), 1, "that of before: {:#?}", script.log);
    }
    // One whose kernel asked just when we started.
    let mut script = Script::new(PI4);
    script.kernel_leased().wait(45);
    assert_eq!(script.hint(), None);
    script.mounted();
    nobody_was_blamed(&script);
}

#[test]
fn a_3b_plus_or_a_card_with_bootcode_that_hears_nothing_is_not_told_to_use_such_a_card() {
    let mut script = Script::new(PI3);
    for _ in 0..9 {
        script.bootcode().wait(5);
    }
    assert_eq!(script.hint(), Some(Hint::OffersUnheard));
    // It is heard, and boots without a first stage of ours.
    script.bootcode().fetches(&["start.elf", "config.txt", "bcm2710-rpi-3-b.dtb", "cmdline.txt", "kernel8.img"]);
    script.wait(5).kernel_leased().nfs(nfs::Event::Mounted { address: ITS, tree: Tree::Root });
    assert_eq!(script.hint(), None);
}
