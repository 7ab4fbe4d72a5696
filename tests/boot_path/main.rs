//! The boot path without sockets, threads or sleeps: control, driven by the
//! bytes of scripted Pis over a wire that loses, repeats and reorders, with a
//! clock that jumps. Each run follows from its seed; a failure prints it.

mod packets;
mod pi;
#[path = "../support/random.rs"]
mod random;
mod world;

use std::net::Ipv4Addr;
use std::time::Duration;

use rootstock::client::{Client, MacAddr, Mode, Role};
use rootstock::config::{Config, Subnet};
use rootstock::control::{Control, Event};
use rootstock::directory::Tree;
use rootstock::wire::{Facts, OtherServer, Station};
use rootstock::{dhcp, net, nfs, panel, store, tftp};

use packets::{DECLINE, DISCOVER, Message, REQUEST, Sender};
use pi::{Model, Pi, Step};
use random::Random;
use world::{Faults, LONG, SHORT, SQUATTER, Seed, World};

const MODELS: [Model; 3] = [Model::Pi3, Model::Pi4, Model::Pi5];
const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

/// A bad wire as a seed makes it: up to 20 % loss.
fn bad_wire(rng: &mut Random) -> Faults {
    Faults { loss: rng.below(201), repeat: rng.below(201), late: rng.below(301), ..Faults::default() }
}

/// One new Pi and one press; the world after it is up.
fn enrol_one(seed: u64, model: Model, faults: Faults) -> World {
    let _seed = Seed(seed);
    let mut world = World::new(seed, faults);
    world.press = Some(SHORT);
    world.pis.push(Pi::new(1, model));
    world.power_on(0, Duration::from_secs(2));
    world.run(HALF_AN_HOUR);
    assert_eq!(world.pis[0].step, Step::Up, "{:?}\n{}", world.pis[0], world.log.join("\n"));
    assert_eq!(world.stick.len(), 1);
    world
}

fn check_fleet(seed: u64, count: u8, faults: Faults) -> World {
    let _seed = Seed(seed);
    let mut world = World::new(seed, faults);
    world.press = Some(LONG);
    for n in 0..count {
        let model = MODELS[world.rng.below(3) as usize];
        world.pis.push(Pi::new(n + 1, model));
        let after = world.rng.millis(30_000);
        world.power_on(usize::from(n), after);
    }
    world.run(HALF_AN_HOUR);
    let down: Vec<_> = world.pis.iter().filter(|pi| pi.step != Step::Up).collect();
    assert!(down.is_empty(), "{down:?}\n{}", world.log.join("\n"));
    assert_eq!(world.stick.len(), usize::from(count));
    world
}

#[test]
fn a_pi_in_the_window_boots_on_a_bad_wire_with_one_client_and_one_address() {
    for seed in 0..400 {
        let mut rng = Random(seed ^ 0xb007);
        let world = enrol_one(seed, MODELS[rng.below(3) as usize], bad_wire(&mut rng));
        assert_eq!(world.creates.len(), 1, "seed {seed}");
        assert!(world.pis[0].addresses.iter().all(|address| *address == world.creates[0].address), "seed {seed}");
    }
}

#[test]
fn on_a_good_wire_the_first_boot_is_the_only_one() {
    for model in MODELS {
        let world = enrol_one(7, model, Faults::default());
        assert_eq!((world.pis[0].boots, world.creates.len()), (1, 1), "{model:?}");
    }
}

#[test]
fn addresses_in_use_are_left_alone() {
    let mut moved = 0;
    for seed in 0..200 {
        let mut rng = Random(seed ^ 0xc0f1);
        let faults = Faults { squatter: 400, ..bad_wire(&mut rng) };
        let world = enrol_one(seed, MODELS[rng.below(3) as usize], faults);
        assert_eq!(world.creates.len(), 1, "seed {seed}");
        moved += usize::from(!world.refused.is_empty());
    }
    assert!(moved > 30, "only {moved} runs met a conflict");
}

#[test]
fn a_batch_gets_distinct_names_addresses_and_exports() {
    for seed in 0..40 {
        let mut rng = Random(seed ^ 0xf1ee7);
        let count = 2 + rng.below(31) as u8;
        let world = check_fleet(seed, count, Faults { squatter: 50, ..bad_wire(&mut rng) });
        assert_eq!(world.creates.len(), usize::from(count), "seed {seed}");
    }
}

#[test]
fn a_client_that_could_not_be_made_is_made_at_a_later_discover() {
    for seed in 0..100 {
        let mut rng = Random(seed ^ 0xfa11);
        check_fleet(seed, 3, Faults { create_fails: 400, squatter: 100, ..bad_wire(&mut rng) });
    }
}

#[test]
fn a_probe_that_is_never_answered_does_not_shut_a_board_out() {
    for seed in 0..100 {
        let mut rng = Random(seed ^ 0x9b0e);
        check_fleet(seed, 3, Faults { probe_lost: 400, ..bad_wire(&mut rng) });
    }
}

#[test]
fn a_stick_pulled_and_put_back_pauses_and_then_serves_on() {
    for seed in 0..100 {
        let mut rng = Random(seed ^ 0x571c);
        let _seed = Seed(seed);
        let faults = Faults { squatter: 50, create_fails: 50, ..bad_wire(&mut rng) };
        let mut world = World::new(seed, faults);
        world.press = Some(LONG);
        for n in 0..4 {
            world.pis.push(Pi::new(n + 1, MODELS[rng.below(3) as usize]));
            world.power_on(usize::from(n), rng.millis(30_000));
        }
        for _ in 0..5 {
            world.pull_and_plug(rng.millis(90_000), rng.millis(20_000));
        }
        world.run(HALF_AN_HOUR);
        let down: Vec<_> = world.pis.iter().filter(|pi| pi.step != Step::Up).collect();
        assert!(down.is_empty(), "{down:?}\n{}", world.log.join("\n"));
        // And once more, as clients that are known.
        for n in 0..4 {
            world.pis[n].step = Step::Off;
            world.power_on(n, rng.millis(20_000));
        }
        world.pull_and_plug(rng.millis(20_000), rng.millis(20_000));
        world.run(HALF_AN_HOUR);
        assert!(world.pis.iter().all(|pi| pi.step == Step::Up), "{}", world.log.join("\n"));
    }
}

/// Bytes that reach port 67: mostly near a good message.
fn some_packet(rng: &mut Random, mac: MacAddr) -> Vec<u8> {
    let senders =
        [Sender::Rom, Sender::Bootcode, Sender::Eeprom(b'4'), Sender::Eeprom(b'5'), Sender::Kernel, Sender::System];
    let kinds = [DISCOVER, DISCOVER, REQUEST, REQUEST, DECLINE, 7, 8, 99];
    let kind = kinds[rng.below(8) as usize];
    let xid = rng.next() as u32;
    let mut message = Message::new(kind, senders[rng.below(6) as usize], mac, rng.next() as u32, xid);
    if rng.per_mille(500) {
        message = message.address(50, Ipv4Addr::new(192, 168, 77, rng.next() as u8));
    }
    if rng.per_mille(500) {
        // Another server's, or ours.
        message = message.address(54, Ipv4Addr::new(192, 168, 77, 1 + rng.below(2) as u8));
    }
    let mut bytes = message.bytes();
    if rng.per_mille(300) {
        bytes[12..16].copy_from_slice(&[192, 168, 77, rng.next() as u8]);
    }
    for _ in 0..rng.below(4) {
        if rng.per_mille(300) {
            let at = rng.below(bytes.len() as u64) as usize;
            // Not the hardware address: that would be another board.
            if !(28..44).contains(&at) {
                bytes[at] = rng.next() as u8;
            }
        }
    }
    if rng.per_mille(50) {
        bytes.truncate(rng.below(300) as usize);
    }
    bytes
}

#[test]
fn outside_the_window_no_stranger_gets_a_byte() {
    let _seed = Seed(11);
    let mut world = enrol_one(11, Model::Pi4, Faults::default());
    let before = world.sends;
    for n in 0..20_000 {
        let mut mac = [0x52, 0x54, 0, 0, 0, 0];
        let ouis = [[0xb8, 0x27, 0xeb], [0xdc, 0xa6, 0x32], [0x2c, 0xcf, 0x67], [0x52, 0x54, 0]];
        mac[..3].copy_from_slice(&ouis[world.rng.below(4) as usize]);
        mac[3..].copy_from_slice(&[0xee, (n >> 8) as u8, n as u8]);
        let bytes = some_packet(&mut world.rng, MacAddr(mac));
        world.packet(&bytes);
        let noise: Vec<u8> = (0..world.rng.below(400)).map(|_| world.rng.next() as u8).collect();
        world.packet(&noise);
        world.now += Duration::from_millis(5);
    }
    assert_eq!((world.sends, world.creates.len()), (before, 1));
}

fn some_client(rng: &mut Random) -> Client {
    let n = rng.below(40) as u32;
    Client {
        role: Role::numbered(n + 1),
        mac: MacAddr([0xdc, 0xa6, 0x32, 0, 0, n as u8]),
        serial: None,
        revision: None,
        model: rootstock::client::Model::Pi4B,
        address: Ipv4Addr::new(192, 168, 77, 10 + n as u8),
        image: world::image().id,
        mode: if n.is_multiple_of(4) { Mode::Ephemeral } else { Mode::Persistent },
        volume_size: None,
        quota: None,
        export_id: n,
    }
}

/// Anything that a shell could report, in no order that makes sense.
fn some_event(rng: &mut Random) -> Option<Event> {
    let address = Ipv4Addr::new(192, 168, 77, rng.next() as u8);
    let role = Role::numbered(rng.below(50) as u32);
    let text = || "x".to_owned();
    Some(match rng.below(27) {
        0 => Event::Net(net::Event::Carrier(rng.per_mille(500))),
        1 => Event::Net(net::Event::Lost),
        2 => Event::Net(net::Event::Conflict { address, mac: SQUATTER }),
        3 => Event::Net(net::Event::Probed { address, conflict: rng.per_mille(300).then_some(SQUATTER) }),
        4 => Event::Tftp(tftp::Event::Started {
            address,
            path: "kernel8.img".to_owned(),
            folder: rng.per_mille(300).then_some(rootstock::client::Serial(7)),
            size: None,
        }),
        5 => {
            Event::Tftp(tftp::Event::Finished { address, path: text(), bytes: 1 << 30, took: Duration::from_millis(1) })
        }
        6 => Event::Nfs(nfs::Event::Mounted { address, tree: Tree::Root }),
        7 => Event::Nfs(nfs::Event::Traffic { address, calls: 1, read_bytes: 1, written_bytes: 1 }),
        8 => Event::Store(store::Event::Closed { name: text() }),
        9 => Event::Store(store::Event::Opened {
            name: text(),
            free_bytes: 1,
            images: vec![world::image()],
            clients: (0..3).map(|n| Client { export_id: n, ..some_client(rng) }).map(world::open).collect(),
            taken_roles: vec![Role::numbered(3)],
            handle_key: rootstock::directory::HandleKey::default(),
        }),
        10 => Event::Store(store::Event::ClientReady(world::open(some_client(rng)))),
        11 => Event::Store(store::Event::ClientFailed { role, message: text(), action: text() }),
        12 => Event::Store(store::Event::Up { role }),
        13 => match rng.per_mille(500) {
            true => Event::Store(store::Event::Problem { message: text(), action: text() }),
            false => Event::Store(store::Event::NotKept { message: text(), action: text() }),
        },
        14 => Event::Store(store::Event::StickAbsent),
        15 => Event::Panel(panel::Event::Pressed(if rng.per_mille(500) { SHORT } else { LONG })),
        17 => {
            let station = Station { mac: SQUATTER, vendor: None };
            let offered = Some(Subnet { address: Ipv4Addr::new(192, 168, 77, 250), prefix: 24 });
            let server = OtherServer { address: Ipv4Addr::new(192, 168, 77, 254), station, offered };
            let asking = rng.per_mille(200);
            Event::Net(net::Event::Wire(Facts {
                asking,
                server: rng.per_mille(600).then_some(server),
                ..Facts::default()
            }))
        }
        18 | 19 => Event::Net(net::Event::Seen { mac: some_client(rng).mac, address }),
        16 => Event::Store(store::Event::ImportFailed { file: text(), message: text(), action: text() }),
        _ => {
            let mac = MacAddr([0xdc, 0xa6, 0x32, 0, rng.below(2) as u8, rng.next() as u8]);
            let request = dhcp::parse(&some_packet(rng, mac)).ok()?;
            Event::Dhcp(dhcp::Event::Request(Box::new(request)))
        }
    })
}

/// Polls as the appliance does until control wants nothing now.
fn settle(control: &mut Control, now: Duration) {
    for _ in 0..2 {
        match control.poll_timeout(now) {
            Some(left) if left.is_zero() => drop(control.poll(now)),
            _ => return,
        }
    }
    assert_ne!(control.poll_timeout(now), Some(Duration::ZERO), "poll makes no progress");
}

#[test]
fn a_hundred_thousand_random_events_leave_bounded_tables_and_a_quiet_control() {
    let _seed = Seed(5);
    let mut rng = Random(5);
    let mut control = Control::new(Config::default(), &[]);
    let mut now = Duration::from_secs(1);
    let mut largest = 0;
    for n in 0..100_000 {
        if let Some(event) = some_event(&mut rng) {
            drop(control.handle(now, event));
        }
        // Often no time passes at all.
        if rng.per_mille(600) {
            now += rng.millis(400);
            settle(&mut control, now);
        }
        if n % 1000 == 0 {
            largest = largest.max(format!("{control:?}").len());
        }
    }
    // The pool holds 200 clients of about 1 KiB each; 64 DISCOVERs wait at most.
    assert!(largest < 600 << 10, "{} KiB of state as text", largest >> 10);
    for _ in 0..10_000 {
        let Some(left) = control.poll_timeout(now) else { return };
        now += left;
        drop(control.poll(now));
    }
    panic!("control still wants to be polled after ten thousand polls: {:?}", control.poll_timeout(now));
}

#[test]
fn time_may_stand_still_jump_or_be_far_in_the_future() {
    let ages = Duration::from_secs(u64::MAX / 2);
    let mut rng = Random(3);
    for times in [[Duration::ZERO; 3], [Duration::ZERO, ages, ages], [ages, ages, Duration::ZERO]] {
        let mut control = Control::new(Config::default(), &[]);
        for now in times {
            for _ in 0..3000 {
                if let Some(event) = some_event(&mut rng) {
                    drop(control.handle(now, event));
                }
                drop(control.poll(now));
                let _ = control.poll_timeout(now);
            }
        }
    }
}

#[test]
fn a_fresh_control_wants_nothing() {
    let control = Control::new(Config::default(), &[]);
    assert_eq!(control.poll_timeout(Duration::ZERO), None);
}
