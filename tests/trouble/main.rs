//! The image in an emulated machine that goes wrong: a start that cannot go on, memory that runs out, a PID 1
//! that dies, settings that cannot be read. Each is shown, and the appliance serves again by itself.
//!
//! That a system which hangs is ended by the watchdog shows `tests/update_qemu`, and heat `tests/serve_netns`.

#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rootstock::init::notice;
use rootstock::panel::frame::{Frame, HEIGHT, WIDTH};
use support::emulated_pi::{self, Board};
use support::netns::Netns;
use support::panel_tty::PanelTty;
use support::qemu::{Machine, Start, virt};
use support::ssd1306_decoder::{frames, shows};
use support::update_file::{add_to_initramfs, put_setting};
use support::{picture, sd_image, trouble};

const LIMIT: Duration = Duration::from_secs(120);
/// As long as PID 1 shows why it cannot start.
const SHOWN: Duration = Duration::from_secs(10);
const APPLIANCE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const NFS: u16 = 2049;
const DISPLAY: u8 = 0x3c;

fn main() -> ExitCode {
    let began = Instant::now();
    match all() {
        Ok(passed) => {
            println!("\n{passed} passed, 0 failed ({} s)", began.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\ntrouble test failed: {error}\n\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn all() -> Result<usize, String> {
    Ok(a_start_that_cannot_go_on()? + memory_that_runs_out()? + a_pid_1_that_dies()?)
}

/// An essential step fails in an emulated Pi 3: a file lies where the folder /run should be. Its display is
/// mounted upside down, by the card's settings.
fn a_start_that_cannot_go_on() -> Result<usize, String> {
    let (files, folder) = (folder("start")?, folder("start-pi")?);
    let write = |path: PathBuf, text: &str| fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()));
    write(files.join("run"), "no folder\n")?;
    write(folder.join("rootstock.toml"), "[panel]\nrotate = 180\n")?;
    let image = sd_image::path()?;
    let boot = sd_image::boot(&image, &folder)?;
    add_to_initramfs(&boot.initramfs, &files)?;
    let dtb = sd_image::copy_file(&image, Board::Pi3.tree(), &folder)?;
    emulated_pi::seed(&dtb)?;
    let (card, trace) = (folder.join("card.img"), folder.join("i2c.trace"));
    let mut command = Board::Pi3.start(&boot, &dtb, "", &folder.join("qtest.sock"));
    emulated_pi::insert_card(&mut command, &image, &card)?;
    put_setting(&card, &folder.join("rootstock.toml"), "rootstock.toml")?;
    command.args(["-device", "at24c-eeprom,bus=i2c-bus.1,address=0x3c,rom-size=4096", "-trace", "i2c_*", "-D"]);
    let mut machine = Machine::start("pi3", command.arg(&trace), &folder)?;

    let from = machine.wait_for("init: cannot start: ", 0, LIMIT)?;
    let shown = Instant::now();
    machine.wait_for("; restart in 10 s", from, LIMIT)?;
    let text = machine.console.text();
    let why = text[from..].split("; restart").next().unwrap_or_default().to_owned();
    if !why.contains("/run") {
        return Err(format!("it does not say what is missing: {why:?}"));
    }
    machine.wait_for("the display says so too", from, LIMIT)?;
    machine.wait_exit(LIMIT)?;
    // The line comes a little after it was written.
    if shown.elapsed() + Duration::from_secs(1) < SHOWN {
        return Err(format!("it was to be read for {SHOWN:?}, and was for {:?}", shown.elapsed()));
    }
    if machine.console.text().contains("Kernel panic") {
        return Err("it was to restart in order, not by a panic".to_owned());
    }
    println!("ok a start that cannot go on says why for ten seconds, and begins anew");
    let log = fs::read_to_string(&trace).map_err(|e| format!("{}: {e}", trace.display()))?;
    let frames = frames(&log, DISPLAY);
    let last = frames.last().ok_or("nothing was sent to the display")?;
    picture::save(last, &folder.join("display.png"))?;
    if !shows(&turned(last), &notice::screen(&why)) {
        return Err(format!("target/trouble/start-pi/display.png does not say {why:?} upside down"));
    }
    println!("ok and its display says the same, the way up that the card's settings ask for");
    Ok(2)
}

fn turned(frame: &Frame) -> Frame {
    let mut turned = Frame::default();
    for (x, y) in (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y))) {
        turned.set(WIDTH - 1 - x, HEIGHT - 1 - y, frame.get(x, y));
    }
    turned
}

/// The server takes all memory, and then another program does. The card's settings cannot be read besides.
fn memory_that_runs_out() -> Result<usize, String> {
    let folder = folder("memory")?;
    let files = trouble::files(&folder, &["hog"])?;
    let mut appliance = Appliance::start("memory-pi", &files, "rootstock.serve=/bin/hog")?;
    appliance.wait("trouble: the server takes all memory")?;
    appliance.wait("ended by signal 9 (killed, perhaps for want of memory); again in 100 ms")?;
    appliance.wait("Out of memory")?;
    let served = appliance.machine.wait_for("serving as 192.168.77.1/24", 0, LIMIT)?;
    println!("ok a server that takes all memory is ended by the kernel, and started again by PID 1");
    appliance.wait("board: This Pi ran out of memory and goes on")?;
    appliance.panel.wait_for("This Pi ran out", LIMIT)?;
    println!("ok the display says that memory ran out");
    appliance.wait("the boot partition on ")?;
    println!("ok a card whose settings cannot be read is told, and the defaults serve");

    let from = appliance.machine.wait_for("trouble: another program takes all memory", served, LIMIT)?;
    appliance.machine.wait_for("Out of memory", from, LIMIT)?;
    let line = appliance.line("Out of memory")?;
    if !line.contains("(hog)") {
        return Err(format!("another program was to be ended: {line:?}"));
    }
    appliance.answers()?;
    let text = appliance.machine.console.text();
    if text[served..].contains("init: serve") || text.contains("Kernel panic") || text.contains("init (1)") {
        return Err(format!("serve or PID 1 was ended:\n{}", appliance.machine.tail()));
    }
    println!("ok of a program that takes all memory beside it, the server notices nothing, and answers");
    appliance.panel.press('N')?;
    appliance.wait("unmounted and synced")?;
    appliance.machine.wait_exit(LIMIT)?;
    println!("ok and is switched off in order");
    Ok(5)
}

/// Nonsense over its code: the kernel panics, shows it and restarts.
fn a_pid_1_that_dies() -> Result<usize, String> {
    let files = trouble::files(&folder("death")?, &["stab"])?;
    let mut appliance = Appliance::start("death-pi", &files, "rootstock.serve=/bin/stab panic=1")?;
    appliance.wait("trouble: PID 1 gets nonsense")?;
    appliance.wait("Attempted to kill init!")?;
    appliance.machine.wait_exit(LIMIT)?;
    println!("ok a PID 1 that dies is a kernel panic that is shown, and the machine restarts");
    Ok(1)
}

fn folder(name: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/trouble").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(folder)
}

struct Appliance {
    machine: Machine,
    panel: PanelTty,
    wire: Netns,
}

impl Appliance {
    /// The image with these files besides and these kernel words, on a machine of 512 MiB.
    fn start(name: &str, files: &Path, words: &str) -> Result<Self, String> {
        let folder = folder(name)?;
        let image = sd_image::path()?;
        let boot = sd_image::boot(&image, &folder)?;
        add_to_initramfs(&boot.initramfs, files)?;
        let card = folder.join("card.img");
        let broken = || -> std::io::Result<()> {
            fs::copy(&image, &card)?;
            File::options().write(true).open(&card)?.write_all_at(&[0; 512], sd_image::SETTINGS_MIB << 20)
        };
        broken().map_err(|e| format!("{}: {e}", card.display()))?;
        let wire = Netns::new("trouble");
        wire.bridge("br0");
        wire.tap("tap0", "br0");
        wire.ip("address add 192.168.77.9/24 dev br0");
        let own: Vec<&str> = boot.words.split_whitespace().filter(|word| !word.starts_with("console=")).collect();
        let words = format!("console=ttyAMA0 rootstock.panel=/dev/hvc0 {} {words}", own.join(" "));
        let start = Start { kernel: &boot.kernel, initramfs: &boot.initramfs, words: &words };
        let panel = folder.join("panel.sock");
        let mut command = virt(&wire, "tap0", "52:54:00:77:00:04", &start);
        command
            .args(["-m", "512", "-monitor", "none", "-drive"])
            .arg(format!("if=none,id=sd,format=raw,readonly=on,file={}", card.display()))
            .args(["-device", "virtio-blk-pci,drive=sd,romfile=", "-chardev"])
            .arg(format!("socket,id=panel,path={},server=on,wait=off", panel.display()))
            .args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=panel"]);
        let machine = Machine::start("appliance", &mut command, &folder)?;
        let panel = PanelTty::connect(&panel, |_| {})?;
        Ok(Self { machine, panel, wire })
    }

    fn wait(&mut self, needle: &str) -> Result<(), String> {
        self.machine.wait_for(needle, 0, LIMIT).map(drop)
    }

    /// The last line with this text.
    fn line(&self, text: &str) -> Result<String, String> {
        let console = self.machine.console.text();
        let line = console.lines().rfind(|line| line.contains(text));
        line.map(str::to_owned).ok_or_else(|| format!("no line has {text:?}"))
    }

    /// NFS takes a connection from the wire, and the panel a press.
    fn answers(&mut self) -> Result<(), String> {
        let nfs = SocketAddr::from((APPLIANCE, NFS));
        let connected = self.wire.run(|| TcpStream::connect_timeout(&nfs, Duration::from_secs(10)));
        connected.map_err(|e| format!("NFS does not answer: {e}"))?;
        let before = self.panel.shown().words;
        self.panel.press('n')?;
        let end = Instant::now() + LIMIT;
        while self.panel.shown().words == before {
            if Instant::now() > end {
                return Err(format!("NEXT does not turn the page {before:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
