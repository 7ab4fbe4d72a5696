//! The board's own tests (`tests/hil`) in emulated Pis, from the very card that
//! `just hil-card` makes: so the suite is known to work before it meets a board.
//!
//! With `ROOTSTOCK_COUNT` one boot of its own counts what the panel takes at rest. Else
//! three boots. A Pi 3 with a display, buttons, wires and a stick, all played
//! from here: every test must end as the table says, and what only a real board
//! can show must be "not proven". The same with a display at another address
//! and a wire missing: exactly those must fail. And a Pi 4, which QEMU models
//! in part: the suite must name what is not there and come to its end.

#[path = "../hil/src/pattern.rs"]
mod pattern;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use support::command::{run, run_with_input};
use support::emulated_pi::{self, Board, ENROLL, NEXT, Pins};
use support::picture;
use support::qemu::Machine;
use support::sd_image;
use support::ssd1306_decoder::frames;

const LIMIT: Duration = Duration::from_secs(180);
/// From, to: the table of WIRING.md.
const WIRES: [(u32, u32); 3] = [(5, ENROLL), (6, NEXT), (16, 26)];
const DISPLAY: u8 = 0x3c;

/// How a test must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ok,
    /// Not proven, because the board is emulated; but it did all it does on a real one.
    Ran,
    /// Not proven, without having run to its end.
    Open,
    Failed,
}
use End::{Failed, Ok as Passed, Open, Ran};

const PI3: [(&str, End); 27] = [
    ("board_is_a_raspberry_pi", Passed),
    ("firmware_tells_the_revision", Open),
    ("all_processors_run", Passed),
    ("memory_is_all_there_and_keeps_what_is_written", Ran),
    ("random_numbers_are_there", Ran),
    ("temperature_is_sane", Ran),
    ("power_supply_suffices", Open),
    ("boot_is_fast", Ran),
    ("watchdog_takes_food", Open),
    ("gpio_chip_is_the_boards", Passed),
    ("panel_pins_are_free", Passed),
    ("pulls_hold_free_pins", Open),
    ("i2c_bus_opens", Passed),
    ("i2c_scan_names_what_answers", Ran),
    ("display_answers_at_its_address", Ran),
    ("panel_at_rest_costs_little", Ran),
    ("wired_port_is_the_boards", Open),
    ("link_is_as_fast_as_the_board", Open),
    ("stick_is_seen", Ran),
    ("stick_reads_fast", Ran),
    ("stick_keeps_what_is_written", Ran),
    ("services_answer_on_the_wire", Open),
    ("jumpers_press_the_buttons", Ran),
    ("jumper_carries_an_output_to_an_input", Ran),
    ("buttons_are_pressed_by_a_finger", Ran),
    ("display_shows_the_test_pattern", Ran),
    ("second_pi_is_enrolled_and_boots", Open),
];

/// With the settings' display at 0x3d, where nothing is, and no wire from GPIO 16 to 26.
const WRONG: [(&str, End); 4] = [
    ("i2c_bus_opens", Passed),
    ("i2c_scan_names_what_answers", Ran),
    ("display_answers_at_its_address", Failed),
    ("jumper_carries_an_output_to_an_input", Failed),
];

type Test = fn() -> Result<(), String>;

fn main() -> ExitCode {
    let began = Instant::now();
    let mut passed = 0;
    let boots: [(&str, Test); 3] = [
        ("the whole suite, on an emulated Pi 3 with everything connected", whole),
        ("a display at another address and a missing wire fail, and only they", wrong),
        ("an emulated Pi 4: what is not there is named, and the suite ends", pi4),
    ];
    let counted: [(&str, Test); 1] = [("the panel at rest takes less than one per cent of a Pi 3's core", rest)];
    // `just panel-cost`: a boot of minutes, since one host thread plays all four cores.
    let tests = if std::env::var_os("ROOTSTOCK_COUNT").is_some() { &counted[..] } else { &boots[..] };
    for (what, test) in tests {
        match test() {
            Ok(()) => println!("ok {what}"),
            Err(error) => {
                eprintln!("\nhil test failed: {what}: {error}\n\n{passed} passed, 1 failed");
                return ExitCode::FAILURE;
            }
        }
        passed += 1;
    }
    println!("\n{passed} passed, 0 failed ({} s)", began.elapsed().as_secs());
    ExitCode::SUCCESS
}

fn whole() -> Result<(), String> {
    let mut pi = Pi::start("pi3", &["hil.expect=display,buttons,jumpers,stick", "hil.patience=30"], &WIRES, true)?;
    for (button, pin) in [("ENROLL", ENROLL), ("NEXT", NEXT)] {
        pi.machine.wait_for(&format!("press {button} shortly"), 0, LIMIT)?;
        thread::sleep(Duration::from_millis(300));
        pi.press(pin)?;
    }
    pi.machine.wait_for("Does the display show", 0, LIMIT)?;
    let trace = fs::read_to_string(pi.folder.join("i2c.trace")).map_err(|e| format!("i2c.trace: {e}"))?;
    let shown = frames(&trace, DISPLAY).pop().ok_or("nothing was drawn")?;
    picture::save(&shown, &pi.folder.join("pattern.png"))?;
    if shown != pattern::pattern(64) {
        return Err(format!("the display shows something else:{shown:?}"));
    }
    pi.press(ENROLL)?;
    pi.machine.wait_for("test result: ok.", 0, LIMIT)?;
    pi.machine.wait_exit(LIMIT)?;
    let json = pi.results()?;
    check(&PI3, &ends(&json)?)
}

fn wrong() -> Result<(), String> {
    let words = ["hil.only=i2c,display_answers,carries", "hil.expect=display,jumpers", "hil.patience=0"];
    let mut pi = Pi::start("pi3-wrong", &words, &WIRES[..2], false)?;
    pi.machine.wait_for("test result: FAILED.", 0, LIMIT)?;
    pi.machine.wait_exit(LIMIT)?;
    let json = pi.results()?;
    check(&WRONG, &ends(&json)?)?;
    for told in ["no display answers at 0x3d", "no wire from GPIO 16 to GPIO 26", "it ran: 0x3c"] {
        if !json.contains(told) {
            return Err(format!("{told:?} is not in the results: {json}"));
        }
    }
    Ok(())
}

fn pi4() -> Result<(), String> {
    let mut pi = Pi::start("pi4", &["hil.patience=0"], &[], false)?;
    let end = pi.machine.wait_for("test result: ", 0, LIMIT)?;
    pi.machine.wait_for("finished in", end, LIMIT)?;
    pi.machine.wait_exit(LIMIT)?;
    let text = pi.machine.console.text();
    let line = |name: &str| {
        let line = text.lines().find_map(|line| line.split_once(&format!("test {name} ... ")));
        line.map(|(_, verdict)| verdict.trim().to_owned()).unwrap_or_default()
    };
    if !line("board_is_a_raspberry_pi").starts_with("ok (Raspberry Pi 4 Model B") {
        return Err(format!("the board is not known: {:?}\n{}", line("board_is_a_raspberry_pi"), pi.machine.tail()));
    }
    let failed: Vec<&str> = PI3.iter().map(|(name, _)| *name).filter(|name| line(name) == "FAILED").collect();
    let absent: Vec<&str> = PI3.iter().map(|(name, _)| *name).filter(|name| line(name).is_empty()).collect();
    // No SD card, no display, no network chip and no stick are there; nothing of that may pass or fail.
    if !failed.is_empty() || !absent.is_empty() {
        return Err(format!("failed: {failed:?}, not run: {absent:?}\n{}", pi.machine.tail()));
    }
    Ok(())
}

/// QEMU counts instructions: its Pi's clock goes on by a nanosecond for each, and so does the processor time of whoever
/// runs them. A real Pi 3's core does 1.2 of them a nanosecond at best, and half as many where it waits for its memory.
fn rest() -> Result<(), String> {
    const SLOWER: f64 = 2.0;
    let mut pi = Pi::start("pi3-rest", &["hil.only=panel_at_rest", "hil.expect=display", "hil.patience=0"], &[], true)?;
    let told = pi.machine.wait_for("    panel_at_rest_costs_little: ", 0, 10 * LIMIT)?;
    pi.machine.wait_for("test result: ", told, LIMIT)?;
    pi.machine.wait_exit(LIMIT)?;
    let text = pi.machine.console.text();
    let verdict = text[told..].lines().next().unwrap_or_default();
    println!("   {verdict}");
    let share = verdict.split_once("it ran: ").and_then(|(_, share)| share.split(' ').next());
    let share: f64 = share.and_then(|share| share.parse().ok()).ok_or_else(|| format!("no share in {verdict:?}"))?;
    if share * SLOWER < 1.0 { Ok(()) } else { Err(format!("{share} % of its instructions")) }
}

fn check(expected: &[(&str, End)], found: &BTreeMap<String, End>) -> Result<(), String> {
    let wrong: Vec<String> = expected
        .iter()
        .filter(|(name, end)| found.get(*name) != Some(end))
        .map(|(name, end)| format!("{name}: {end:?} expected, {:?} found", found.get(*name)))
        .collect();
    if wrong.is_empty() && found.len() == expected.len() {
        return Ok(());
    }
    Err(format!("{}\nfound: {found:#?}", wrong.join("\n")))
}

fn ends(json: &str) -> Result<BTreeMap<String, End>, String> {
    let value: serde_json::Value = serde_json::from_str(json).map_err(|e| format!("the results are no JSON: {e}"))?;
    let results = value["results"].as_array().ok_or("no results in the JSON")?;
    let end = |result: &serde_json::Value| match (result["verdict"].as_str(), result["detail"].as_str()) {
        (Some("ok"), _) => End::Ok,
        (Some("not-proven"), Some(why)) if why.contains("it ran: ") => End::Ran,
        (Some("not-proven"), _) => End::Open,
        _ => End::Failed,
    };
    Ok(results.iter().map(|result| (result["name"].as_str().unwrap_or("").to_owned(), end(result))).collect())
}

/// An emulated board with the card in it.
struct Pi {
    machine: Machine,
    folder: PathBuf,
    card: Option<PathBuf>,
    pins: Arc<Mutex<Pins>>,
    done: Arc<AtomicBool>,
    wires: Option<JoinHandle<()>>,
}

impl Pi {
    /// `name` begins with the model. `stick`: one with a store, and the display's address as the settings have it.
    fn start(name: &str, words: &[&str], wires: &[(u32, u32)], right: bool) -> Result<Self, String> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = top.join("target/hil").join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let image = top.join("target/hil/rootstock-hil.img");
        if !image.exists() {
            return Err(format!("{} is not there: run `just hil-card`", image.display()));
        }
        let boot = sd_image::boot(&image, &folder)?;
        let board = if name.starts_with("pi4") { Board::Pi4 } else { Board::Pi3 };
        let dtb = sd_image::copy_file(&image, board.tree(), &folder)?;
        emulated_pi::seed(&dtb)?;
        let qtest = folder.join("qtest.sock");
        let mut command = board.start(&boot, &dtb, &format!("hil.emulated {}", words.join(" ")), &qtest);
        let mut card = None;
        if board == Board::Pi4 {
            emulated_pi::cut_to_qemus_pi4(&dtb)?;
        } else {
            let copy = folder.join("card.img");
            emulated_pi::insert_card(&mut command, &image, &copy)?;
            if !right {
                set_display(&copy, "0x3d", &folder)?;
            }
            command.args(["-device", "usb-hub,port=1"]);
            command.args(["-netdev", "user,id=wire,restrict=on", "-device", "usb-net,port=1.2,netdev=wire"]);
            command.args(["-device", "at24c-eeprom,bus=i2c-bus.1,address=0x3c,rom-size=4096"]);
            command.args(["-trace", "i2c_*", "-D"]).arg(folder.join("i2c.trace"));
            card = Some(copy);
            if right {
                let stick = stick_with_store(&folder)?;
                emulated_pi::insert_stick(&mut command, &stick, "1.1");
            }
        }
        if name == "pi3-rest" {
            command.args(["-icount", "shift=0"]);
        }
        let machine = Machine::start(name, &mut command, &folder)?;
        let pins = Pins::connect(&qtest, board)?;
        let (pins, done) = (Arc::new(Mutex::new(pins)), Arc::new(AtomicBool::new(false)));
        let thread = carry(pins.clone(), done.clone(), wires.to_vec());
        Ok(Self { machine, folder, card, pins, done, wires: Some(thread) })
    }

    fn press(&self, pin: u32) -> Result<(), String> {
        let level = |high| self.pins.lock().unwrap_or_else(PoisonError::into_inner).level(pin, high);
        level(false)?;
        thread::sleep(Duration::from_millis(300));
        level(true)
    }

    /// The JSON that lies on the card; the page beside it must be whole.
    fn results(&self) -> Result<String, String> {
        let card = self.card.as_ref().ok_or("this board has no card")?;
        let read = |name| {
            let path = self.folder.join(name);
            let (fat, from) = (format!("{}@@{}M", card.display(), sd_image::SETTINGS_MIB), format!("::{name}"));
            run(
                "mcopy",
                &["-n", "-o", "-i", &fat, &from]
                    .map(OsStr::new)
                    .into_iter()
                    .chain([path.as_os_str()])
                    .collect::<Vec<_>>(),
            )?;
            fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
        };
        let page = read("rootstock-hil.html")?;
        if !page.trim_end().ends_with("</html>") || !page.contains("This was no real board") {
            return Err(format!("the page is not whole: {page}"));
        }
        read("rootstock-hil.json")
    }
}

impl Drop for Pi {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(wires) = self.wires.take() {
            let _ = wires.join();
        }
    }
}

/// Wires: what an output drives arrives at the input; let go, the pull-up there lifts it.
fn carry(pins: Arc<Mutex<Pins>>, done: Arc<AtomicBool>, wires: Vec<(u32, u32)>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut carried = vec![None; wires.len()];
        while !done.load(Ordering::Relaxed) && !wires.is_empty() {
            thread::sleep(Duration::from_millis(1));
            let mut pins = pins.lock().unwrap_or_else(PoisonError::into_inner);
            for ((from, to), carried) in wires.iter().zip(&mut carried) {
                // The machine has ended.
                let Ok(driven) = pins.driven(*from) else { return };
                if driven != *carried && pins.level(*to, driven.unwrap_or(true)).is_ok() {
                    *carried = driven;
                }
            }
        }
    })
}

/// A stick whose only partition is a store, as another stick would have it after use.
fn stick_with_store(folder: &Path) -> Result<PathBuf, String> {
    let (stick, part, tree) = (folder.join("stick.img"), folder.join("store.ext4"), folder.join("store"));
    let make = || {
        ["images", "clients", "trash"].iter().try_for_each(|name| fs::create_dir_all(tree.join(name)))?;
        fs::File::create(&part)?.set_len(96 << 20)?;
        fs::File::create(&stick)?.set_len(256 << 20)
    };
    make().map_err(|e| format!("{}: {e}", folder.display()))?;
    run(
        "mke2fs",
        &["-q", "-t", "ext4", "-L", "ROOTSTOCK", "-d"]
            .map(OsStr::new)
            .into_iter()
            .chain([tree.as_os_str(), part.as_os_str()])
            .collect::<Vec<_>>(),
    )?;
    let table = format!("label: dos\nstart=2048, size={}, type=83\n", (96 << 20) / 512);
    run_with_input("sfdisk", &["--quiet".as_ref(), stick.as_os_str()], table.as_bytes())?;
    let (from, to) = (format!("if={}", part.display()), format!("of={}", stick.display()));
    run("dd", &["bs=1M", "seek=1", "conv=notrunc,sparse", "status=none", &from, &to].map(OsStr::new))?;
    Ok(stick)
}

/// Settings on the card, by a foreign writer.
fn set_display(card: &Path, address: &str, folder: &Path) -> Result<(), String> {
    let file = folder.join("rootstock.toml");
    fs::write(&file, format!("[panel]\ni2c_address = {address}\n")).map_err(|e| format!("{}: {e}", file.display()))?;
    let fat = format!("{}@@{}M", card.display(), sd_image::SETTINGS_MIB);
    let words = ["-o", "-i", &fat].map(OsStr::new).into_iter().chain([file.as_os_str(), "::rootstock.toml".as_ref()]);
    run("mcopy", &words.collect::<Vec<_>>()).map(drop)
}
