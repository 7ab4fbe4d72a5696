//! Every screen as a picture and as words in `tests/screens`, compared pixel by
//! pixel. `ROOTSTOCK_BLESS=1 cargo test --test panel_screens` accepts new ones,
//! which are then looked at in review.

// Helpers of a test may panic as tests do.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use embedded_graphics::pixelcolor::{BinaryColor, Rgb888};
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle, RoundedRectangle};
use embedded_graphics_simulator::{OutputSettings, SimulatorDisplay};
use rootstock::client::{ImageId, MacAddr, Model, Role, Serial};
use rootstock::diagnose::{self, Hint};
use rootstock::panel::frame::Frame;
use rootstock::panel::pages::{self, View};
use rootstock::panel::presence::Look;
use rootstock::panel::screen::{Element, Screen};
use rootstock::panel::screens;
use rootstock::panel::{draw, low};
use rootstock::self_test::{Step, Target};
use rootstock::status::{
    Backup, Card, CardStep, ClientStatus, Enrolment, Import, Network, NewPlace, Notice, Problem, Room, SelfTest, Stage,
    Status, Stick, Stranger, TestState, Update, Usage,
};
use rootstock::wire::{Finding, OtherServer, Station};

const SECOND: Duration = Duration::from_secs(1);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/screens")
}

fn ready() -> Status {
    Status {
        uptime: SECOND * 11_520,
        network: Network { address: Some([192, 168, 77, 1].into()), carrier: true, wire: Finding::Clear },
        stick: Stick::Ready { name: "SanDisk Ultra Fit".to_owned(), free_bytes: 27_900_000_000 },
        images: vec!["raspios-bookworm-arm64-lite-1a2b3c4d".parse().unwrap()],
        ..Status::default()
    }
}

fn client(role: &str, stage: Stage, seconds: u64) -> ClientStatus {
    ClientStatus {
        role: role.parse().unwrap(),
        address: [192, 168, 77, 10].into(),
        model: Model::Pi4B,
        memory_mib: Some(4096),
        serial: Some(Serial(0x1000_9f3a)),
        image: "raspios-bookworm-arm64-lite-1a2b3c4d".parse().unwrap(),
        stage,
        since: SECOND * seconds as u32,
        last_boot: None,
        usage: None,
        advice: None,
    }
}

fn status_off() -> Status {
    with_client(Stage::Off, 11_520)
}

fn with_client(stage: Stage, seconds: u64) -> Status {
    Status { clients: vec![client("pi-1", stage, seconds)], ..ready() }
}

fn import(per_mille: u16, left: Option<u64>) -> Status {
    let file = "2026-10-01-raspios-trixie-arm64-lite.img.xz".to_owned();
    Status { import: Some(Import { file, per_mille, left: left.map(Duration::from_secs) }), ..ready() }
}

fn open(seconds: u32, batch: bool, swap: Option<&str>) -> Enrolment {
    let swap = swap.map(|role| role.parse().unwrap());
    Enrolment::Open { left: SECOND * seconds, batch, enrolled: 3, swap }
}

fn stranger() -> Stranger {
    Stranger {
        mac: MacAddr([0xd8, 0x3a, 0xdd, 1, 2, 3]),
        model: Model::Pi5,
        serial: Some(Serial(0x77c1)),
        memory_mib: Some(8192),
        of: None,
        hint: None,
    }
}

fn problem(message: &str, action: &str) -> Status {
    let problem = Problem { message: message.to_owned(), action: action.to_owned() };
    Status { problems: vec![problem], ..ready() }
}

/// Each screen with the name of its picture.
fn gallery() -> Vec<(String, Screen)> {
    let mut gallery = Vec::new();
    // What the overview shows by itself.
    let mut overview = |name: &str, status: Status| {
        let view = pages::views(&status).remove(0);
        gallery.push((name.to_owned(), screens::screen(&status, &view, Duration::ZERO)));
    };
    let stick = |stick| Status { stick, ..ready() };
    let offered =
        |place| Stick::NeedsConfirmation { name: "SanDisk Ultra Fit".to_owned(), free_bytes: 27_900_000_000, place };
    let loading = |total| Stage::Loading {
        bytes: 12_400_000,
        total,
        bytes_per_second: 1_550_000,
        file: "9ffefdef/kernel8.img".to_owned(),
    };
    let hint = Hint::AsksNoFile;
    overview("starting", Status::default());
    overview("stick-none", stick(Stick::Absent));
    overview("stick-reading", stick(Stick::Reading));
    overview("stick-confirm", stick(offered(NewPlace::Partition)));
    overview("stick-confirm-file", stick(offered(NewPlace::File)));
    overview("stick-preparing", stick(Stick::Preparing));
    let message = "This stick is write-protected. Move its switch or use another.".to_owned();
    overview("stick-unusable", stick(Stick::Unusable { message }));
    overview("cable-none", Status { network: Network { carrier: false, ..ready().network }, ..ready() });
    overview("image-none", Status { images: vec![], ..ready() });
    overview("import-start", import(3, None));
    overview("import", import(470, Some(170)));
    overview("ready-first", ready());
    overview("ready", with_client(Stage::Running { after: Some(SECOND * 41) }, 900));
    let mut fleet = with_client(Stage::Running { after: None }, 900);
    fleet.clients.extend([client("pi-2", Stage::Gone, 900), client("pi-3", Stage::Off, 900)]);
    overview("ready-fleet", fleet);
    overview("window", Status { enrolment: open(107, false, None), ..ready() });
    overview("ready-always", Status { enrolment: Enrolment::Always, ..ready() });
    let mut always = with_client(Stage::Running { after: None }, 900);
    always.enrolment = Enrolment::Always;
    overview("ready-always-1", always);
    overview("window-batch", Status { enrolment: open(107, true, None), ..ready() });
    overview("window-swap", Status { enrolment: open(107, false, Some("kitchen")), ..ready() });
    let name = "SanDisk Ultra Fit".to_owned();
    overview("stick-releasing", stick(Stick::Releasing { name: name.clone() }));
    overview("stick-released", stick(Stick::Released { name }));
    let notice =
        |message: &str, failed| Status { notice: Some(Notice { message: message.to_owned(), failed }), ..ready() };
    overview("notice-done", notice("pi-1 has a fresh root", false));
    overview("notice-failed", notice("It runs. Switch that Pi off first", true));
    overview("stranger", Status { strangers: vec![stranger()], ..ready() });
    let of = Some([192, 168, 77, 2].into());
    overview("stranger-of-another", Status { strangers: vec![Stranger { of, ..stranger() }], ..ready() });
    overview("client-asks", with_client(Stage::Discovered, 1));
    overview("client-leased", with_client(Stage::Leased, 2));
    overview("client-loading", with_client(loading(Some(24_800_000)), 8));
    overview("client-loading-first", with_client(loading(None), 8));
    overview("client-kernel", with_client(Stage::Kernel, 6));
    overview("client-initramfs", with_client(Stage::Initramfs, 3));
    overview("client-root", with_client(Stage::RootMounted, 14));
    overview("client-up", with_client(Stage::Up { after: Some(SECOND * 41) }, 3));
    overview("client-stalled", with_client(Stage::Stalled { at: "address".into(), hint }, 90));
    overview("problem", problem("The stick is full.", "Delete an image, or use a larger stick."));
    // The appliance's own update.
    let update = |update| Status { update: Some(update), ..ready() };
    let version = || "0.2.0".to_owned();
    let offered = |older, tried| update(Update::Offered { version: version(), older, tried });
    overview("update", offered(false, false));
    overview("update-tried", offered(false, true));
    overview("update-older", offered(true, false));
    overview("update-writing", update(Update::Writing { version: version(), per_mille: 420 }));
    overview("update-restarting", update(Update::Restarting { version: version() }));
    overview("update-trial", update(Update::OnTrial { version: version() }));
    let card = |step| Some(Card { name: "Mass Storage (sdb)".to_owned(), shown: true, step });
    let step = CardStep::Offered { bytes: 127_900_000_000, boards: "Pi 5, 500, CM5".to_owned() };
    overview("card-offered", Status { card: card(step.clone()), ..ready() });
    overview("card-writing", Status { card: card(CardStep::Writing { per_mille: 470 }), ..ready() });
    overview("card-written", Status { card: card(CardStep::Written), ..ready() });
    let backup = Some(Backup::Offered { name: "Mass Storage (sdb)".to_owned(), renews: false });
    let both = Card { shown: false, ..card(step).unwrap() };
    overview("backup-or-card", Status { backup, card: Some(both), ..ready() });
    // What NEXT turns to.
    let mut page = |name: &str, status: &Status, view: View, index| {
        let mut screen = screens::screen(status, &view, Duration::ZERO);
        screen.place = screen.place.or(Some((index, 6)));
        gallery.push((name.to_owned(), screen));
    };
    page("ask-reset", &status_off(), View::AskReset(Role::numbered(1)), 1);
    page("ask-swap", &status_off(), View::AskSwap(Role::numbered(1)), 1);
    let two: Vec<ImageId> =
        ["debian-13-arm64-99887766", "raspios-bookworm-arm64-lite-1a2b3c4d"].map(|id| id.parse().unwrap()).to_vec();
    let several = Status { images: two.clone(), ..status_off() };
    page("page-image", &several, View::Image(two[0].clone()), 3);
    page("page-image-default", &several, View::Image(two[1].clone()), 2);
    for (name, state) in
        [("runs", TestState::Runs), ("passed", TestState::Passed), ("failed", TestState::Failed(Step::CommandLine))]
    {
        let self_test = Some(SelfTest { target: Target::Image(two[0].clone()), state });
        let tested = Status { self_test, ..several.clone() };
        page(&format!("page-image-test-{name}"), &tested, View::Image(two[0].clone()), 3);
    }
    let status = with_client(Stage::Off, 11_520);
    let running = with_client(Stage::Running { after: Some(SECOND * 41) }, 7500);
    let gone = with_client(Stage::Gone, 700);
    page("page-client-off", &status, View::Client(Role::numbered(1)), 1);
    page("page-client-up", &running, View::Client(Role::numbered(1)), 1);
    page("page-client-gone", &gone, View::Client(Role::numbered(1)), 1);
    let mut limited = running.clone();
    limited.clients[0].usage = Some(Usage { used_bytes: 6_900_000_000, quota_bytes: Some(8_500_000_000) });
    page("page-images", &status, View::Images, 2);
    page("page-stick", &status, View::Stick, 3);
    page("page-network", &status, View::Network, 4);
    page("page-about", &status, View::About, 5);
    // The second part of pages that take turns.
    let room = Some(Room { total_bytes: 30_000_000_000, reserve_bytes: 512 << 20 });
    for (name, status, view) in [
        ("page-client-quota", &limited, View::Client(Role::numbered(1))),
        ("page-stick-room", &Status { room, ..ready() }, View::Stick),
    ] {
        gallery.push((name.to_owned(), screens::screen(status, &view, screens::PART)));
    }
    // A second stick: the copy, and what becomes of it.
    let second = || "Kingston DT 70".to_owned();
    for (name, backup) in [
        ("backup", Backup::Offered { name: second(), renews: false }),
        ("backup-renew", Backup::Offered { name: second(), renews: true }),
        ("backup-running", Backup::Running { name: second(), per_mille: 420 }),
        ("backup-done", Backup::Done { name: second() }),
    ] {
        let status = Status { backup: Some(backup), ..ready() };
        gallery.push((name.to_owned(), screens::screen(&status, &pages::views(&status)[0], Duration::ZERO)));
    }
    let copy = Stick::NeedsConfirmation { name: second(), free_bytes: 0, place: NewPlace::Copy };
    let copy = Status { stick: copy, ..ready() };
    gallery.push(("backup-stands-in".to_owned(), screens::screen(&copy, &View::ConfirmStick, Duration::ZERO)));
    // A running client's page in its second turn: how long it took.
    let mut booted = running;
    booted.clients[0].last_boot = Some(SECOND * 41);
    let mut screen = screens::screen(&booted, &View::Client(Role::numbered(1)), screens::PART);
    screen.place = Some((1, 6));
    gallery.push(("page-client-last-boot".to_owned(), screen));
    // The traffic light of the wire, and what it means.
    let station = Station { mac: MacAddr([0xc8, 0x0e, 0x14, 1, 2, 3]), vendor: Some("AVM") };
    let server = OtherServer { address: [192, 168, 178, 1].into(), station, offered: None };
    let wires = [
        ("beside", Finding::Beside { server }),
        ("slow", Finding::SlowPort { wait: SECOND * 30 }),
        ("taken", Finding::AddressTaken { by: station }),
        ("link", Finding::SlowLink { mbit: 100 }),
        ("silent", Finding::ServerSilent { server, relieved: true }),
        ("silent-for-ever", Finding::ServerSilent { server, relieved: false }),
        ("nobody", Finding::NoServer),
    ];
    for (name, wire) in wires {
        let status = Status { network: Network { wire, ..ready().network }, ..ready() };
        let parts = screens::dwell(&status, &View::Network).as_secs() / screens::PART.as_secs();
        for part in 0..parts as u32 {
            let screen = screens::screen(&status, &View::Network, screens::PART * part);
            gallery.push((format!("wire-{name}-{}", part + 1), screen));
        }
    }
    // No interface of that name: what the overview tells, and the page of the network.
    let network = Network { address: None, carrier: false, wire: Finding::NoInterface { named: true } };
    let absent = problem("no network interface eth7 here, only eth0", network.wire.action());
    let absent = Status { network, ..absent };
    assert_eq!(pages::views(&absent), [View::Problem(absent.problems[0].clone())]);
    gallery.push(("interface-none".to_owned(), screens::screen(&absent, &pages::views(&absent)[0], Duration::ZERO)));
    let parts = screens::dwell(&absent, &View::Network).as_secs() / screens::PART.as_secs();
    for part in 0..parts as u32 {
        let screen = screens::screen(&absent, &View::Network, screens::PART * part);
        gallery.push((format!("wire-absent-{}", part + 1), screen));
    }
    // A problem too long for one screen, its parts; and a button being held.
    let line = "rootstock.toml line 5, panel.i2c_bus: expected a whole number in the key's range; the default is used";
    let long = problem(line, "Correct it on any computer: it is on the SD card.");
    for part in 0..3 {
        let screen = screens::screen(&long, &pages::views(&long)[0], screens::PART * part);
        gallery.push((format!("problem-long-{}", part + 1), screen));
    }
    let place = NewPlace::Partition;
    let status = stick(Stick::NeedsConfirmation { name: String::new(), free_bytes: 1_500_000_000, place });
    let mut screen = screens::screen(&status, &View::ConfirmStick, Duration::ZERO);
    screen.hold = Some(600);
    gallery.push(("stick-confirm-held".to_owned(), screen));
    gallery
}

/// The frame as a person sees it: four times as large, in its bezel.
fn picture(frame: &Frame) -> SimulatorDisplay<Rgb888> {
    const SCALE: u32 = 4;
    const EDGE: i32 = 28;
    let mut picture = SimulatorDisplay::new(Size::new(128 * SCALE + 56, 64 * SCALE + 56));
    let board = Rectangle::new(Point::zero(), picture.size());
    let glass = Rectangle::new(Point::new(EDGE - 12, EDGE - 12), Size::new(128 * SCALE + 24, 64 * SCALE + 24));
    let solid = PrimitiveStyle::with_fill;
    board.into_styled(solid(Rgb888::new(200, 200, 196))).draw(&mut picture).unwrap();
    let rounded = RoundedRectangle::with_equal_corners(board, Size::new(18, 18));
    rounded.into_styled(solid(Rgb888::new(28, 54, 92))).draw(&mut picture).unwrap();
    glass.into_styled(solid(Rgb888::new(8, 9, 11))).draw(&mut picture).unwrap();
    let lit = Rgb888::new(190, 232, 255);
    for (x, y) in
        (0..64).flat_map(|y| (0..128).map(move |x| (x, y))).filter(|&(x, y)| frame.get(x as usize, y as usize))
    {
        // A gap of one of the four between the pixels, as the glass has.
        let at = Point::new(x * SCALE as i32 + EDGE, y * SCALE as i32 + EDGE);
        Rectangle::new(at, Size::new(SCALE - 1, SCALE - 1)).into_styled(solid(lit)).draw(&mut picture).unwrap();
    }
    picture
}

fn differs(picture: &SimulatorDisplay<Rgb888>, path: &Path) -> bool {
    let Ok(golden) = SimulatorDisplay::<Rgb888>::load_png(path) else { return true };
    golden.size() != picture.size() || picture.diff(&golden).is_some()
}

#[test]
fn every_screen_fits_a_display_of_32_rows_whole_and_in_turns() {
    for (name, screen) in gallery() {
        let parts = low::parts(&screen);
        let shown: Vec<_> = parts.iter().flatten().cloned().collect();
        for element in &screen.body {
            let kept = match element {
                Element::Gap(_) => true,
                Element::Big(text) | Element::Line(text) => {
                    text.is_empty() || shown.contains(&Element::Line(text.clone()))
                }
                other => shown.contains(other),
            };
            assert!(kept, "{name}: {element:?} is not in {parts:?}");
        }
        assert!(parts.len() <= 3, "{name}: {parts:?}");
        for turn in 0..parts.len() as u64 {
            let lit = |shift: (u8, u8)| {
                let frame = low::frame(&screen, Look { turn, shift, ..Look::PLAIN });
                let (dx, dy) = (usize::from(shift.0), usize::from(shift.1));
                assert!((0..64).all(|y| (0..128).all(|x| y < low::ROWS || !frame.get(x, y))), "{name}: below row 32");
                (0..31).flat_map(|y| (0..127).map(move |x| (x, y))).filter(|(x, y)| frame.get(x + dx, y + dy)).count()
            };
            assert_eq!(lit((0, 0)), lit((1, 1)), "{name}: the shift loses pixels");
        }
    }
}

/// A few of them on one sheet, for the eye: both turns below each other.
#[test]
fn the_sheet_of_screens_in_32_rows_is_the_one_in_the_repository() {
    let line = |text: &str| Element::Line(text.to_owned());
    let mut held = Screen::new("New USB stick", vec![line("SanDisk Ultra Fit"), line("Hold ENROLL 3 s to")]);
    held.hold = Some(600);
    let mut alarm = Screen::new(
        "pi-1 is stuck",
        vec![line("Stopped at: kernel"), line("Take the SD card out"), line("of it, then switch")],
    );
    (alarm.alarm, alarm.place) = (true, Some((1, 4)));
    let steps = Element::Steps { done: 2, total: 6 };
    let screens = [
        Screen::new(
            "Ready",
            vec![Element::Big("192.168.77.1".to_owned()), line("1 of 1 Pi is up"), line("ENROLL adds a Pi.")],
        ),
        Screen::new("Importing 47 %", vec![line("2026-10-01…te.img.xz"), Element::Bar(470), line("About 3 min left")]),
        Screen::new("pi-1", vec![line("Pi 4B 4GB …9f3a"), steps, line("Loads kernel8.img"), line("12 MB in 8 s")]),
        held,
        alarm,
    ];
    let turns = screens.iter().flat_map(|screen| (0..2).map(move |turn| (screen, turn)));
    let frames = turns.map(|(screen, turn)| low::frame(screen, Look { turn, ..Look::PLAIN }));
    is_the_sheet("rows-32.png", &frames.collect::<Vec<_>>(), 32, 2, 3);
}

/// What a person reads on the page of a client that is stuck, for every hint there is.
#[test]
fn the_sheet_of_all_hints_is_the_one_in_the_repository() {
    let page = |rule: &diagnose::Rule| {
        let status = with_client(Stage::Stalled { at: "loading".into(), hint: rule.hint }, 70);
        let view = View::Client(Role::numbered(1));
        assert_eq!(screens::dwell(&status, &view), screens::PART, "{:?} takes more than one screen", rule.hint);
        draw::frame(&screens::screen(&status, &view, Duration::ZERO), Look::PLAIN)
    };
    is_the_sheet("hints.png", &diagnose::all().map(page).collect::<Vec<_>>(), 64, 5, 2);
}

/// The upper `rows` of frames side by side, against the file of that name.
fn is_the_sheet(name: &str, frames: &[Frame], rows: u32, columns: u32, scale: u32) {
    let gap = 4;
    let lines = (frames.len() as u32).div_ceil(columns);
    let size = Size::new((columns * (128 + gap) + gap) * scale, (lines * (rows + gap) + gap) * scale);
    let mut sheet = SimulatorDisplay::<Rgb888>::new(size);
    sheet.clear(Rgb888::new(60, 60, 64)).unwrap();
    for (frame, index) in frames.iter().zip(0..) {
        let (column, line) = (index % columns, index / columns);
        let corner = Point::new((gap + column * (128 + gap)) as i32, (gap + line * (rows + gap)) as i32);
        for (x, y) in (0..rows).flat_map(|y| (0..128).map(move |x| (x, y))) {
            let colour = if frame.get(x as usize, y as usize) { Rgb888::new(190, 232, 255) } else { Rgb888::BLACK };
            let at = (corner + Point::new(x, y as i32)) * scale as i32;
            Rectangle::new(at, Size::new(scale, scale))
                .into_styled(PrimitiveStyle::with_fill(colour))
                .draw(&mut sheet)
                .unwrap();
        }
    }
    let path = folder().join(name);
    if std::env::var_os("ROOTSTOCK_BLESS").is_some() && differs(&sheet, &path) {
        sheet.to_rgb_output_image(&OutputSettings::default()).save_png(&path).unwrap();
    }
    assert!(!differs(&sheet, &path), "accept with ROOTSTOCK_BLESS=1, and look at it");
}

#[test]
fn every_screen_is_the_picture_and_the_words_in_the_repository() {
    let bless = std::env::var_os("ROOTSTOCK_BLESS").is_some();
    let (mut wrong, mut words) = (Vec::new(), String::new());
    for (name, screen) in gallery() {
        words += &format!("{name}: {}\n", screen.text());
        let picture = picture(&draw::frame(&screen, Look::PLAIN));
        let path = folder().join(format!("{name}.png"));
        if !differs(&picture, &path) {
            continue;
        }
        if bless {
            picture.to_rgb_output_image(&OutputSettings::default()).save_png(&path).unwrap();
        } else {
            // Beside the build's outputs, so that it can be compared with the golden one.
            let seen = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
            picture.to_rgb_output_image(&OutputSettings::default()).save_png(&seen).unwrap();
            wrong.push(format!("{name}: see {}", seen.display()));
        }
    }
    let path = folder().join("screens.txt");
    if bless {
        std::fs::write(&path, &words).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), words, "the words; bless them if they are right");
    assert!(wrong.is_empty(), "these differ (accept with ROOTSTOCK_BLESS=1):\n{}", wrong.join("\n"));
}

#[test]
fn there_is_no_picture_of_a_screen_that_is_no_more() {
    let names: Vec<String> = gallery().into_iter().map(|(name, _)| format!("{name}.png")).collect();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = ["screens.txt", "rows-32.png", "hints.png"].contains(&name.as_str()) || names.contains(&name);
        assert!(known, "{name} belongs to no screen: remove it");
    }
}

/// Fails where a pixel is drawn that the display has not, or that the slow shift would push out.
struct Strict;

impl OriginDimensions for Strict {
    fn size(&self) -> Size {
        Size::new(128, 64)
    }
}

impl DrawTarget for Strict {
    type Color = BinaryColor;
    type Error = Point;

    fn draw_iter<I: IntoIterator<Item = Pixel<BinaryColor>>>(&mut self, pixels: I) -> Result<(), Point> {
        let inside = |point: Point| (0..127).contains(&point.x) && (0..63).contains(&point.y);
        pixels.into_iter().try_for_each(|Pixel(point, _)| if inside(point) { Ok(()) } else { Err(point) })
    }
}

/// The product of everything that can be long, short, missing or hostile.
fn wide_table() -> Vec<Status> {
    let long = "x".repeat(63);
    let names = ["", "S", "SanDisk Ultra Fit", "\u{1b}[2J\u{7}\n", "日本語のUSBメモリ", long.as_str()];
    let sizes = [0, 999_999, 1_500_000_000, 27_900_000_000, 999_999_999_999, u64::MAX];
    let times = [0, 59, 60, 5999, 6000, 172_800, u64::MAX / 2];
    let mut table: Vec<Status> = gallery_statuses();
    for name in names {
        for size in sizes {
            let name = name.to_owned();
            for place in [NewPlace::Partition, NewPlace::File] {
                let stick = Stick::NeedsConfirmation { name: name.clone(), free_bytes: size, place };
                table.push(Status { stick, ..ready() });
            }
            table.push(Status { stick: Stick::Ready { name, free_bytes: size }, ..ready() });
        }
        table.push(Status { stick: Stick::Unusable { message: name.repeat(9) }, ..ready() });
        table.push(problem(&name.repeat(9), &name.repeat(3)));
        for per_mille in [0, 1, 999, 1000, u16::MAX] {
            for left in times.map(Some).into_iter().chain([None]) {
                let mut status = import(per_mille, left);
                if let Some(import) = &mut status.import {
                    import.file = name.to_owned();
                }
                table.push(status);
            }
        }
    }
    for time in times {
        let stages = [
            Stage::Off,
            Stage::Discovered,
            Stage::Leased,
            Stage::Loading { bytes: u64::MAX, total: None, bytes_per_second: u64::MAX, file: long.clone() },
            Stage::Loading { bytes: u64::MAX, total: Some(1), bytes_per_second: 0, file: long.clone() },
            Stage::Kernel,
            Stage::Initramfs,
            Stage::Gone,
            Stage::Running { after: None },
            Stage::RootMounted,
            Stage::Up { after: Some(Duration::from_secs(time)) },
            Stage::Stalled { at: "loading its files".into(), hint: Hint::Unknown },
        ];
        for stage in stages {
            let mut client = client(&long, stage, 0);
            client.since = Duration::from_secs(time);
            client.last_boot = (time > 0).then_some(client.since);
            client.address = [192, 168, 177, 200].into();
            (client.model, client.memory_mib) = (Model::Pi500, Some(u32::MAX));
            client.image = "x".repeat(100).parse().unwrap();
            let images = (0..99).map(|n| format!("{}{n}", "y".repeat(98)).parse().unwrap()).collect();
            let uptime = Duration::from_secs(time);
            let swap = (time % 2 == 0).then(|| long.parse().unwrap());
            let enrolment = Enrolment::Open { left: uptime, batch: true, enrolled: u32::MAX, swap };
            let notice = Some(Notice { message: long.repeat(9), failed: time % 2 == 0 });
            table.push(Status { uptime, images, clients: vec![client; 250], enrolment, notice, ..ready() });
        }
    }
    let unknown = Stranger {
        mac: MacAddr([255; 6]),
        model: Model::Unknown,
        serial: None,
        memory_mib: None,
        hint: None,
        of: None,
    };
    table.push(Status { strangers: vec![unknown, stranger()], ..ready() });
    table.push(Status { strangers: vec![stranger(); 8], ..ready() });
    table
}

fn gallery_statuses() -> Vec<Status> {
    vec![Status::default(), ready(), Status { images: vec![], ..ready() }, import(470, Some(170))]
}

/// Every view a status can bring, with every part of it.
fn all_screens(status: &Status) -> Vec<Screen> {
    let mut views = pages::views(status);
    views.extend(status.clients.first().map(|client| View::Client(client.role.clone())));
    views.extend(status.strangers.iter().map(|stranger| View::Stranger(stranger.mac)));
    views.extend([View::Ready, View::Images, View::Stick, View::Network, View::About, View::Window, View::Import]);
    views.extend([View::ReleasingStick, View::ReleasedStick, View::Backup]);
    views.extend(status.images.iter().take(3).cloned().map(View::Image));
    if let Some(client) = status.clients.first() {
        views.extend([View::AskReset(client.role.clone()), View::AskSwap(client.role.clone())]);
    }
    views.extend([View::ConfirmStick, View::UnusableStick, View::Client(Role::numbered(7))]);
    let parts = |view: &View| {
        let dwell = screens::dwell(status, view);
        (0..dwell.as_secs() / screens::PART.as_secs())
            .map(|part| screens::screen(status, view, screens::PART * part as u32))
            .collect::<Vec<_>>()
    };
    views.iter().flat_map(parts).collect()
}

#[test]
fn no_screen_cuts_anything_off() {
    let mut count = 0;
    for status in wide_table() {
        for screen in all_screens(&status) {
            assert_eq!(screen.misfit(), None, "{screen:?}");
            if let Err(point) = draw::draw(&screen, true, &mut Strict) {
                panic!("a pixel at {point} of {screen:?}");
            }
            count += 1;
        }
    }
    assert!(count > 2000, "only {count} screens");
}

#[test]
fn no_fixed_wording_is_shortened() {
    for (name, screen) in gallery() {
        // These show names that are meant to be long here, or the last digits of a serial number.
        let named = ["stick-confirm", "import", "ready", "client", "page-client", "page-images", "stranger"];
        if !named.iter().any(|prefix| name.starts_with(prefix)) {
            assert!(!screen.text().contains('…'), "{name}: {}", screen.text());
        }
    }
}

/// What one frame costs; the figure is printed, not judged: machines differ.
#[test]
fn drawing_is_measured() {
    let gallery = gallery();
    let start = Instant::now();
    for round in 0..10 {
        for (_, screen) in &gallery {
            std::hint::black_box(draw::frame(screen, Look { beat: round % 2 == 0, ..Look::PLAIN }));
        }
    }
    let each = start.elapsed() / (10 * gallery.len() as u32);
    println!("one frame: {each:?}");
}
