//! The board test: the SD image in an emulated Pi 3, with the kernel's real
//! drivers for its card, USB, I²C and GPIO.
//!
//! The appliance must come up, find the stick, draw its screens on the I²C bus,
//! and react to buttons pressed from outside. What it draws is compared with the
//! screen that a person should see, and kept as pictures in `target/board`.

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rootstock::panel::pages::View;
use rootstock::panel::screen::Screen;
use rootstock::panel::screens;
use rootstock::status::{Network, NewPlace, Status, Stick};
use support::command::run;
use support::emulated_pi::{self, Board, ENROLL, NEXT, Pins};
use support::qemu::Machine;
use support::ssd1306_decoder::{frames, shows};
use support::{picture, sd_image, stick};

const DISPLAY: u8 = 0x3c;
/// The emulated network card hangs behind emulated USB, which takes a second and a half to be found.
const MOST_OF_KERNEL: f32 = 1.5;
const LIMIT: Duration = Duration::from_secs(240);

fn main() -> ExitCode {
    let began = Instant::now();
    match board() {
        Ok(passed) => {
            println!("\n{passed} passed, 0 failed ({} s)", began.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nboard test failed: {error}\n\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn board() -> Result<usize, String> {
    Ok(whole_evening()? + without_the_registers()? + the_pi_5s_kernel()?)
}

/// Nothing emulates a Pi 5. Its image's kernel and system take an emulated Pi 3's device tree, and its buttons.
fn the_pi_5s_kernel() -> Result<usize, String> {
    let folder = folder("board-pi5")?;
    let mut boot = sd_image::boot(&sd_image::path_of("pi5")?, &folder)?;
    boot.words = boot.words.replace("console=ttyAMA10", "console=ttyS1").replace("iomem=relaxed", "");
    let dtb = sd_image::copy_file(&sd_image::path()?, Board::Pi3.tree(), &folder)?;
    emulated_pi::seed(&dtb)?;
    let qtest = folder.join("qtest.sock");
    let mut machine = Machine::start("pi5", &mut Board::Pi3.start(&boot, &dtb, "", &qtest), &folder)?;
    let mut pins = Pins::connect(&qtest, Board::Pi3)?;
    machine.wait_for("buttons: ENROLL on GPIO 17, NEXT on GPIO 27, by /dev/gpiochip", 0, LIMIT)?;
    println!("ok the Pi 5's kernel and image start on a Raspberry Pi's tree, with the buttons by its GPIO device");
    thread::sleep(Duration::from_secs(1));
    pins.level(NEXT, false)?;
    machine.wait_exit(LIMIT)?;
    println!("ok a held NEXT switches it off");
    Ok(2)
}

fn folder(name: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(folder)
}

/// A kernel that lets nobody map the pins' registers, as a Pi 5's is: the buttons go by its GPIO character device.
fn without_the_registers() -> Result<usize, String> {
    let mut pi = Pi3::start("board-chip", |words| words.replace("iomem=relaxed", ""))?;
    pi.machine.wait_for("buttons: ENROLL on GPIO 17, NEXT on GPIO 27, by /dev/gpiochip", 0, LIMIT)?;
    println!("ok without the pins' registers the buttons go by the kernel's GPIO device");
    pi.machine.wait_for("asks for a held ENROLL", 0, LIMIT)?;
    pi.press(ENROLL, Duration::from_millis(4500))?;
    pi.machine.wait_for("a store is made", 0, LIMIT)?;
    println!("ok a held ENROLL is one there too");
    pi.pins.level(NEXT, false)?;
    pi.machine.wait_exit(LIMIT)?;
    println!("ok and a held NEXT");
    Ok(3)
}

fn whole_evening() -> Result<usize, String> {
    let mut pi = Pi3::start("board", str::to_owned)?;
    let mut passed = 0;
    let mut ok = |what: &str| {
        println!("ok {what}");
        passed += 1;
    };

    pi.machine.wait_for("this is a Raspberry Pi 3 B", 0, LIMIT)?;
    ok("rppal knows the board by its device tree");
    let (since, kernel) = pi.time_to_ready()?;
    println!(
        "   DHCP is answered {since:.2} s after PID 1; the kernel took {kernel:.2} s: ratio {:.2}",
        since / kernel
    );
    if since > MOST_OF_KERNEL * kernel {
        return Err(format!("DHCP is answered only {since} s after PID 1, where the kernel took {kernel} s"));
    }
    ok("DHCP is answered soon after the kernel's own start");
    pi.machine.wait_for("SSD1306", 0, LIMIT)?;
    ok("the display answers on the I2C bus");
    pi.machine.wait_for("asks for a held ENROLL", 0, LIMIT)?;
    let confirm = pi.confirm_screen()?;
    pi.wait_screen("confirm", &[confirm])?;
    ok("the stick is found, and the display asks what to do with it");

    pi.press(ENROLL, Duration::from_millis(500))?;
    thread::sleep(Duration::from_secs(2));
    if pi.machine.console.text().contains("a store is made") {
        return Err("a short press made a store".to_owned());
    }
    ok("a short press changes nothing on the stick");
    pi.press(ENROLL, Duration::from_millis(4500))?;
    pi.machine.wait_for("a store is made", 0, LIMIT)?;
    pi.machine.wait_for("store open", 0, LIMIT)?;
    ok("a held press makes the store, with the image's own mke2fs");
    // Without a network cable or an image, either may be said first.
    let ready = Status {
        network: Network {
            address: Some("192.168.77.1".parse().map_err(|e| format!("{e}"))?),
            carrier: true,
            ..Network::default()
        },
        stick: Stick::Ready { name: String::new(), free_bytes: 0 },
        ..Status::default()
    };
    let no_image = screens::screen(&ready, &View::NoImage, Duration::ZERO);
    let no_cable = screens::screen(&ready, &View::NoCable, Duration::ZERO);
    pi.wait_screen("ready", &[no_image, no_cable])?;
    ok("the display asks for an image");

    pi.press(NEXT, Duration::from_millis(300))?;
    // A page shows its place at the edge: the first of four, the overview counted too.
    let mut images = screens::screen(&ready, &View::Images, Duration::ZERO);
    images.place = Some((1, 5));
    pi.wait_screen("next", &[images])?;
    ok("NEXT turns the page");

    pi.press(NEXT, Duration::from_millis(300))?;
    thread::sleep(Duration::from_secs(2));
    pi.press(ENROLL, Duration::from_millis(4500))?;
    pi.machine.wait_for("can be pulled", 0, LIMIT)?;
    let released = Status { stick: Stick::Released { name: String::new() }, ..ready.clone() };
    pi.wait_screen("released", &[screens::screen(&released, &View::ReleasedStick, Duration::ZERO)])?;
    ok("a held ENROLL on the stick's page lets go of it, and the kernel holds it no more");
    let again = pi.machine.console.text().len();
    pi.press(ENROLL, Duration::from_millis(500))?;
    pi.machine.wait_for("store open", again, LIMIT)?;
    ok("ENROLL goes on with the stick that was not pulled");

    // It acts while the button is still held.
    pi.pins.level(NEXT, false)?;
    pi.machine.wait_exit(LIMIT)?;
    ok("a held NEXT switches the machine off in order");
    pi.check_card()?;
    ok("nothing was written to the SD card");
    Ok(passed)
}

struct Pi3 {
    machine: Machine,
    folder: PathBuf,
    pins: Pins,
    card_hash: String,
}

impl Pi3 {
    fn start(name: &str, words: impl Fn(&str) -> String) -> Result<Self, String> {
        let folder = folder(name)?;
        let image = sd_image::path()?;
        let mut boot = sd_image::boot(&image, &folder)?;
        boot.words = words(&boot.words);
        let dtb = sd_image::copy_file(&image, Board::Pi3.tree(), &folder)?;
        emulated_pi::seed(&dtb)?;
        let stick = folder.join("stick.img");
        stick::make(&stick, 2 << 30, 64 << 20, &[])?;

        let qtest = folder.join("qtest.sock");
        let mut command = Board::Pi3.start(&boot, &dtb, "", &qtest);
        let card = folder.join("card.img");
        emulated_pi::insert_card(&mut command, &image, &card)?;
        command.args(["-device", "usb-hub,port=1"]);
        // As on a Pi 3: the network card is the hub's first port.
        emulated_pi::insert_stick(&mut command, &stick, "1.2");
        command
            .args(["-netdev", "user,id=wire,restrict=on", "-device", "usb-net,port=1.1,netdev=wire"])
            .args(["-device", "at24c-eeprom,bus=i2c-bus.1,address=0x3c,rom-size=4096"])
            .args(["-trace", "i2c_*", "-D"])
            .arg(folder.join("i2c.trace"));
        let card_hash = hash(&card)?;
        let machine = Machine::start("pi3", &mut command, &folder)?;
        Ok(Self { machine, pins: Pins::connect(&qtest, Board::Pi3)?, card_hash, folder })
    }

    /// Seconds from PID 1 to DHCP, and from the kernel's start to PID 1. Both grow alike where the machine is busy.
    fn time_to_ready(&mut self) -> Result<(f32, f32), String> {
        let needle = "DHCP is answered on ";
        let from = self.machine.wait_for(needle, 0, LIMIT)?;
        self.machine.wait_for("\n", from, LIMIT)?;
        let text = self.machine.console.text();
        let line = text[from..].lines().next().unwrap_or_default();
        let figures: Vec<f32> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        // eth0: SINCE s after PID 1, which began at KERNEL s
        match figures[..] {
            [since, .., kernel] => Ok((since, kernel)),
            _ => Err(format!("no figures in {line:?}")),
        }
    }

    fn press(&mut self, pin: u32, time: Duration) -> Result<(), String> {
        self.pins.level(pin, false)?;
        thread::sleep(time);
        self.pins.level(pin, true)
    }

    /// The screen that asks about the stick, with the name and the figure that the log has.
    fn confirm_screen(&self) -> Result<Screen, String> {
        let text = self.machine.console.text();
        let line = text.lines().rfind(|line| line.contains("asks for a held ENROLL")).ok_or("no such line")?;
        let (name, rest) =
            line.split_once("stick \"").and_then(|(_, rest)| rest.split_once('"')).ok_or("no name in it")?;
        let digits: String =
            rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        let free_bytes = digits.parse().map_err(|e| format!("{line:?}: {e}"))?;
        let stick = Stick::NeedsConfirmation { name: name.to_owned(), free_bytes, place: NewPlace::Partition };
        let mut screen = screens::screen(&Status { stick, ..Status::default() }, &View::ConfirmStick, Duration::ZERO);
        screen.hold = None;
        Ok(screen)
    }

    /// Waits until the display shows one of these, and keeps the picture.
    fn wait_screen(&mut self, name: &str, screens: &[Screen]) -> Result<(), String> {
        let end = Instant::now() + LIMIT;
        let trace = self.folder.join("i2c.trace");
        loop {
            let log = fs::read_to_string(&trace).map_err(|e| format!("{}: {e}", trace.display()))?;
            let seen = frames(&log, DISPLAY);
            let found = seen.iter().rev().take(200).find(|frame| screens.iter().any(|screen| shows(frame, screen)));
            if let Some(frame) = found {
                let path = self.folder.join(format!("{name}.png"));
                return picture::save(frame, &path);
            }
            if Instant::now() >= end {
                if let Some(last) = seen.last() {
                    picture::save(last, &self.folder.join(format!("{name}-instead.png")))?;
                }
                let wanted: Vec<String> = screens.iter().map(Screen::text).collect();
                return Err(format!(
                    "of {} pictures none is {wanted:?}; target/board/{name}-instead.png is the last one\n{}",
                    seen.len(),
                    self.machine.tail()
                ));
            }
            thread::sleep(Duration::from_millis(300));
        }
    }

    fn check_card(&self) -> Result<(), String> {
        let card = self.folder.join("card.img");
        if hash(&card)? == self.card_hash { Ok(()) } else { Err("the SD card was written to".to_owned()) }
    }
}

fn hash(path: &Path) -> Result<String, String> {
    run("sha256sum", &[path.as_os_str()])
}
