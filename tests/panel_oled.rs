//! The OLED's drivers against a decoder of their bytes, on a bus of the test.

// Helpers of a test may panic as tests do.
#![allow(clippy::unwrap_used)]

#[path = "support/i2c.rs"]
mod i2c;
#[path = "support/ssd1306_decoder.rs"]
mod ssd1306_decoder;

use std::time::Duration;

use i2c::Bus;
use rootstock::client::{Model, Role};
use rootstock::config::{Controller, Glass, Panel};
use rootstock::panel::frame::Frame;
use rootstock::panel::oled::{Display, Error, Keeper, News, Oled};
use rootstock::panel::pages::Pages;
use rootstock::panel::presence::{Brightness, Look, Presence};
use rootstock::panel::screen::{Element, Screen};
use rootstock::panel::{draw, low, screens};
use rootstock::status::{ClientStatus, Network, Stage, Status, Stick};
use ssd1306_decoder::{Decoder, frames, shows, transfers};

const SECOND: Duration = Duration::from_secs(1);

fn screen(headline: &str) -> Screen {
    let body = vec![Element::Line("192.168.77.1".to_owned()), Element::Bar(470), Element::Big("47 %".to_owned())];
    Screen::new(headline, body)
}

fn frame(headline: &str) -> Frame {
    draw::frame(&screen(headline), Look::PLAIN)
}

fn start(bus: &Bus, frame: &Frame) -> Oled {
    Oled::start(bus.clone(), &Panel::default(), frame, Brightness::Full).unwrap()
}

#[test]
fn a_person_sees_exactly_the_frame() {
    let bus = Bus::with_display();
    start(&bus, &frame("Ready"));
    let display = bus.display();
    assert_eq!(display.frame(), frame("Ready"));
    assert!(display.unknown.is_empty(), "{:x?}", display.unknown);
    assert!(shows(&display.frame(), &screen("Ready")) && !shows(&display.frame(), &screen("Reader")));
}

#[test]
fn nobody_sees_the_noise_of_power_on() {
    let bus = Bus::with_display();
    start(&bus, &frame("Ready"));
    let mut display = Decoder::default();
    for transfer in &bus.0.borrow().transfers {
        display.transfer(transfer);
        let seen = display.frame();
        assert!(seen == Frame::default() || seen == frame("Ready"), "after {transfer:x?}");
    }
}

#[test]
fn only_what_changed_is_sent() {
    let bus = Bus::with_display();
    let mut oled = start(&bus, &frame("Ready"));
    let before = bus.display().data_bytes;
    oled.show(&frame("Ready"), Brightness::Full).unwrap();
    assert_eq!(bus.display().data_bytes, before);
    let hollow = draw::frame(&screen("Ready"), Look { beat: false, ..Look::PLAIN });
    oled.show(&hollow, Brightness::Full).unwrap();
    assert_eq!(bus.display().frame(), hollow);
    let sent = bus.display().data_bytes - before;
    assert!((1..=14).contains(&sent), "{sent} bytes for a heartbeat");
}

#[test]
fn every_change_arrives_whatever_its_shape() {
    let bus = Bus::with_display();
    let mut oled = start(&bus, &Frame::default());
    let mut shown = Frame::default();
    // A walk over all pixels in strides that meet every page and column.
    for step in 0..600_usize {
        let place = step * 4967 % 8192;
        shown.set(place % 128, place / 128, step % 3 != 0);
        if step % 7 == 0 {
            oled.show(&shown, Brightness::Full).unwrap();
            assert_eq!(bus.display().frame(), shown, "at step {step}");
        }
    }
}

#[test]
fn it_dims_and_wakes() {
    let bus = Bus::with_display();
    let mut oled = start(&bus, &frame("Ready"));
    let full = bus.display().contrast;
    oled.show(&frame("Ready"), Brightness::Dim).unwrap();
    assert!(bus.display().contrast < full);
    oled.show(&frame("Ready"), Brightness::Full).unwrap();
    assert_eq!(bus.display().contrast, full);
}

type Open<'b> = Box<dyn FnMut(&Frame, Brightness) -> Result<Oled, Error> + 'b>;

fn keeper(bus: &Bus) -> Keeper<Oled, Open<'_>> {
    Keeper::new(Box::new(|frame, brightness| Oled::start(bus.clone(), &Panel::default(), frame, brightness)))
}

/// The picture as somebody sees it who stands at the other side of the table.
fn turned(frame: &Frame, rows: usize) -> Frame {
    let mut turned = Frame::default();
    for (x, y) in (0..rows).flat_map(|y| (0..128).map(move |x| (x, y))) {
        turned.set(127 - x, rows - 1 - y, frame.get(x, y));
    }
    turned
}

#[test]
fn every_kind_of_display_shows_the_picture_upright() {
    for display in [Controller::Ssd1306, Controller::Sh1106] {
        for (size, pads) in [(Glass::Rows64, 0x12), (Glass::Rows32, 0x02)] {
            for upside_down in [false, true] {
                let panel = Panel { display, size, upside_down, ..Panel::default() };
                let rows = usize::from(size.rows());
                let picture = |headline: &str| match size {
                    Glass::Rows64 => frame(headline),
                    Glass::Rows32 => low::frame(&screen(headline), Look::PLAIN),
                };
                let power_on = || if display == Controller::Sh1106 { Decoder::sh1106() } else { Decoder::default() };
                let bus = Bus::with(power_on());
                let mut oled = Oled::start(bus.clone(), &panel, &picture("Ready"), Brightness::Full).unwrap();
                oled.show(&picture("Reader"), Brightness::Dim).unwrap();
                let seen = bus.display();
                let expected = picture("Reader");
                let expected = if upside_down { turned(&expected, rows) } else { expected };
                assert_eq!(seen.frame(), expected, "{panel:?}");
                assert_eq!((seen.rows, seen.pads, &seen.unknown[..]), (rows, pads, &[][..]), "{panel:?}");
                // Nobody sees the noise of power-on.
                let mut display = power_on();
                let first = if upside_down { turned(&picture("Ready"), rows) } else { picture("Ready") };
                for transfer in &bus.0.borrow().transfers {
                    display.transfer(transfer);
                    let seen = display.frame();
                    let part =
                        |x: usize, y: usize| seen.get(x, y) == first.get(x, y) || seen.get(x, y) == expected.get(x, y);
                    let all = (0..rows).all(|y| (0..128).all(|x| part(x, y)));
                    assert!(seen == Frame::default() || all, "{panel:?} after {transfer:x?}");
                }
            }
        }
    }
}

#[test]
fn a_display_that_is_said_to_be_another_is_told_from_the_right_one() {
    // What the test above would not see if the decoders were alike.
    for (said, is) in [(Controller::Ssd1306, Decoder::sh1106()), (Controller::Sh1106, Decoder::default())] {
        let bus = Bus::with(is);
        let panel = Panel { display: said, ..Panel::default() };
        Oled::start(bus.clone(), &panel, &frame("Ready"), Brightness::Full).unwrap();
        assert_ne!(bus.display().frame(), frame("Ready"), "{said}");
    }
}

#[test]
fn a_display_that_is_missing_is_told_once_and_found_when_it_is_plugged_in() {
    let bus = Bus::default();
    let mut keeper = keeper(&bus);
    let mut show = |second: u32| keeper.show(SECOND * second, &frame("Ready"), Brightness::Full);
    assert_eq!(show(0), Some(News::Failed("no display answers at 0x3c on /dev/i2c-1".to_owned())));
    assert_eq!(show(1), None);
    assert_eq!(show(5), None);
    bus.plug();
    assert_eq!(show(6), None);
    assert_eq!(show(10), Some(News::Found));
    assert_eq!(bus.display().frame(), frame("Ready"));
    assert_eq!(show(11), None);
}

#[test]
fn a_display_that_is_unplugged_comes_back_set_up_anew() {
    let bus = Bus::with_display();
    let mut keeper = keeper(&bus);
    assert_eq!(keeper.show(SECOND, &frame("Ready"), Brightness::Full), Some(News::Found));
    bus.unplug();
    let told = keeper.show(SECOND * 2, &frame("Problem"), Brightness::Full);
    assert!(matches!(told, Some(News::Failed(_))), "{told:?}");
    assert_eq!(keeper.wait(SECOND * 3), SECOND * 4);
    bus.plug();
    assert_eq!(keeper.show(SECOND * 7, &frame("Problem"), Brightness::Dim), Some(News::Found));
    assert_eq!(bus.display().frame(), frame("Problem"));
}

#[test]
fn a_display_that_lost_its_power_unseen_is_refreshed_within_a_minute() {
    let bus = Bus::with_display();
    let mut keeper = keeper(&bus);
    keeper.show(Duration::ZERO, &frame("Ready"), Brightness::Full);
    bus.plug();
    keeper.show(SECOND * 30, &frame("Ready"), Brightness::Full);
    assert_ne!(bus.display().frame(), frame("Ready"));
    assert_eq!(keeper.wait(SECOND * 30), SECOND * 30);
    assert_eq!(keeper.show(SECOND * 60, &frame("Ready"), Brightness::Full), None);
    assert_eq!(bus.display().frame(), frame("Ready"));
}

#[test]
fn a_log_of_qemu_is_read_line_by_line() {
    let log = "\
        i2c_event start(addr:0x3c)\n\
        i2c_send send(addr:0x3c) data:0x00\n\
        1234@1763799000.123456:i2c_send send(addr:0x3c) data:0xaf\n\
        i2c_event finish(addr:0x3c)\n\
        i2c_event start(addr:0x50)\n\
        i2c_send send(addr:0x50) data:0x11\n\
        i2c_event finish(addr:0x50)\n\
        i2c_ack \n\
        i2c_event start(addr:0x3c)\n\
        i2c_send send(addr:0x3c) data:0x40\n\
        i2c_send send(addr:0x3c) data:0x";
    assert_eq!(transfers(log, 0x3c), [vec![0x00, 0xaf]]);
    assert_eq!(transfers("", 0x3c), Vec::<Vec<u8>>::new());
}

#[test]
fn a_decoder_knows_the_other_ways_to_address_too() {
    // Page addressing, as other drivers use it: page 2, column 0x35, two bytes; single commands with Co set.
    let mut display = Decoder::default();
    display.transfer(&[0x00, 0xa1, 0xc8, 0x8d, 0x14, 0x20, 0x00, 0x21, 0, 127, 0x22, 0, 7]);
    display.transfer(&[&[0x40][..], &[0; 1024]].concat());
    display.transfer(&[0x80, 0x20, 0x80, 0x02, 0x80, 0xb2, 0x80, 0x05, 0x80, 0x13, 0x40, 0x01, 0x80]);
    display.transfer(&[0x00, 0xaf]);
    let mut expected = Frame::default();
    expected.set(0x35, 16, true);
    expected.set(0x36, 23, true);
    assert_eq!(display.frame(), expected);
    // Rotated by half a turn by COM and segment order, then inverted.
    display.transfer(&[0x00, 0xc0]);
    assert!(display.frame().get(0x35, 63 - 16));
    display.transfer(&[0x00, 0xc8, 0xa7]);
    assert!(!display.frame().get(0x35, 16) && display.frame().get(0, 0));
    display.transfer(&[0x00, 0xa6, 0xae]);
    assert_eq!(display.frame(), Frame::default());
    assert!(frames("", 0x3c).is_empty());
}

/// The figure of the project: an OLED at rest costs under 1 % of one core of a Pi 3. What is
/// counted is an hour of the panel's thread and of the bus, with 24 running clients. This
/// test's build is not optimised, which makes it about as slow here as the real one is on a
/// Pi 3 (both some ten times slower than the optimised one here, 2026-11).
#[test]
fn at_rest_an_hour_costs_less_than_one_per_cent_of_a_core_and_few_bytes() {
    let client = |n| ClientStatus {
        role: Role::numbered(n),
        address: [192, 168, 77, 10].into(),
        model: Model::Pi4B,
        memory_mib: Some(4096),
        serial: None,
        image: "raspios-1".parse().unwrap(),
        stage: Stage::Running { after: Some(SECOND * 41) },
        since: SECOND * 900,
        last_boot: Some(SECOND * 41),
        usage: None,
        advice: None,
    };
    let status = Status {
        network: Network { address: Some([192, 168, 77, 1].into()), carrier: true, ..Network::default() },
        stick: Stick::Ready { name: "Ultra".to_owned(), free_bytes: 1 },
        images: vec!["raspios-1".parse().unwrap()],
        clients: (1..25).map(client).collect(),
        ..Status::default()
    };
    let bus = Bus::with_display();
    let mut oled = start(&bus, &Frame::default());
    let bytes = |bus: &Bus| bus.0.borrow().transfers.iter().map(Vec::len).sum::<usize>();
    let (mut pages, presence) = (Pages::default(), Presence::new(SECOND * 60, SECOND * 3600));
    let mut drawn = None;
    // Frames that differ from the one before, and of those the ones of which only the heart does.
    let (mut frames, mut beats) = (0, 0);
    let (sent, began) = (bytes(&bus), thread_time());
    for tick in 0..7200 {
        let now = SECOND * tick / 2;
        let status = screens::aged(status.clone(), now);
        pages.update(now, &status, false);
        let (view, shown) = pages.current(now);
        let (screen, look) = (screens::screen(&status, &view, shown), presence.look(now));
        if drawn.as_ref() != Some(&(screen.clone(), look)) {
            let beat = drawn.as_ref().is_some_and(|(before, last): &(_, Look)| {
                *before == screen && *last == Look { beat: !look.beat, ..look }
            });
            let before = bytes(&bus);
            oled.show(&draw::frame(&screen, look), look.brightness).unwrap();
            let cost = bytes(&bus) - before;
            // Two pages of some columns, with where they go: not the frame's 1024.
            assert!(!beat || cost < 100, "a beat sends {cost} bytes");
            (frames, beats) = (frames + usize::from(cost > 0), beats + usize::from(beat && cost > 0));
            drawn = Some((screen, look));
        }
    }
    let (sent, took) = (bytes(&bus) - sent, thread_time() - began);
    let (rate, share) = (sent / 3600, took.as_secs_f64() / 36.0);
    println!("{rate} bytes a second over I2C, {:.2} % of a core, in a build that is not optimised", share);
    println!("{frames} frames sent in the hour, {beats} of them a beat of the heart only");
    // The heart turns each second, a text every few: not a frame for each half second that is looked at.
    assert!((1000..3700).contains(&frames) && beats > 500, "{frames} frames, {beats} beats");
    // 400 kHz are some 44,000 bytes a second.
    assert!(rate < 200, "{rate} bytes a second");
    assert!(share < 1.0, "{share} %");
}

fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
