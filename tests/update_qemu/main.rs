//! Updates of the appliance in an emulated machine: from the stick into the other slot,
//! tried, kept or come back from, and power that goes at any moment.
//!
//! QEMU has no Raspberry Pi's firmware. Its choice is a model here (`Card::choose`): the
//! first FAT partition's `autoboot.txt` names the slot, the one-shot flag counts once, and
//! a restart or a cut forgets it. What a real firmware does differently, this cannot show.
//!
//! At the end the image for Pi 5 does the same once, with its own kernel, and makes a store.
//!
//! The power goes at hundreds of moments of one recorded update (`replay`): after each the firmware's choice must be
//! a whole system, byte for byte one that was started here. `ROOTSTOCK_CUTS` of these cards are started (default 2).

mod cuts;
mod replay;
#[path = "../support/mod.rs"]
mod support;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rootstock::update::{Slot, autoboot};
use support::netns::Netns;
use support::panel_tty::PanelTty;
use support::qemu::{Machine, Start, virt};
use support::sd_image;
use support::stick::{self, Content};
use support::trouble;
use support::update_file::{self, Wanted, text, tool};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);
const MAC: &str = "52:54:00:77:00:03";

fn main() -> ExitCode {
    let began = Instant::now();
    let passed = updates().and_then(|passed| Ok(passed + pi5()?));
    match passed {
        Ok(passed) => {
            println!("\n{passed} passed, 0 failed ({} s)", began.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nupdate test failed: {error}\n\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn updates() -> Result<usize, String> {
    let mut passed = 0;
    let mut ok = |what: &str| {
        println!("ok {what}");
        passed += 1;
    };
    let lab = Lab::new("pi3-4")?;
    let running = |slot, version: &str| format!("version=\"{version}\" slot=Some({slot}) trial=");
    let first = running("A", &lab.version);

    // A bad file says why, one for other boards too, and nothing is offered.
    let mut appliance = lab.start(false, "stranger.img")?;
    appliance.wait(&first)?;
    appliance.wait("rootstock-0.9.0.update: signed by an unknown key")?;
    appliance.wait("rootstock-0.9.0-other.update: it is for Pi 5, and this is a linux,dummy-virt")?;
    let card = lab.card_hash()?;
    drop(appliance);
    if card != lab.card_hash()? {
        return Err("the card was written to without an update".to_owned());
    }
    ok("a file of another signer, and one for other boards, is told by name, and the card is not written");

    // An update that is tried and kept. What it writes is recorded.
    fs::copy(lab.card(), lab.at(FORMER)).map_err(|e| e.to_string())?;
    lab.record.set(true);
    let mut appliance = lab.start(false, "good.img")?;
    appliance.wait(&first)?;
    appliance.wait("update 0.9.0 asks for a held ENROLL")?;
    appliance.hold_enroll()?;
    appliance.wait("update 0.9.0 is written and checked")?;
    appliance.machine.wait_exit(LIMIT)?;
    if appliance.machine.console.text().contains("-other.update") {
        return Err("another Pi's update beside our own is told of".to_owned());
    }
    ok(
        "an update is read whole, written, read back, and asks the machine to restart; another Pi's beside it is no news",
    );
    let mut appliance = lab.start(true, "good.img")?;
    appliance.wait("this system is on trial")?;
    appliance.wait(&running("B", "0.9.0"))?;
    drop(appliance);
    if lab.choose(false)? != Slot::A {
        return Err("a trial that was cut must come back".to_owned());
    }
    let mut appliance = lab.start(true, "good.img")?;
    appliance.wait(&running("B", "0.9.0"))?;
    appliance.wait("update: 0.9.0 serves and is kept")?;
    ok("on trial it tests its services and is kept; a cut before that brings the former back");
    drop(appliance);
    lab.record.set(false);
    let boots = std::env::var("ROOTSTOCK_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(2usize);
    ok(&lab.cuts(boots, &[&first, &running("B", "0.9.0")])?);
    let mut appliance = lab.start_with(false, "none.img", Reader::Usb)?;
    appliance.wait("rootstock.toml read from")?;
    appliance.wait(&running("B", "0.9.0"))?;
    appliance.wait("serving as 192.168.99.1/24")?;
    ok("the next start is the new version, with the settings of the former");
    // On a busy machine the settings come late, and the server is started again with them.
    let pulled = appliance.machine.console.text().len();
    appliance.pull_card()?;
    std::thread::sleep(Duration::from_secs(3));
    appliance.panel.press('N')?;
    appliance.wait("unmounted and synced")?;
    appliance.machine.wait_exit(LIMIT)?;
    let died = |line: &str| line.contains("serve (") && line.contains(") ended");
    if appliance.machine.console.text()[pulled..].lines().any(died) {
        return Err("a process died of the card that was taken out".to_owned());
    }
    ok("the SD card can be taken out while it runs");

    // A new system that hangs, and takes PID 1 with it.
    let mut appliance = lab.start(false, "hangs.img")?;
    appliance.wait("update 0.9.1 asks for a held ENROLL")?;
    appliance.hold_enroll()?;
    appliance.wait("update 0.9.1 is written and checked")?;
    appliance.machine.wait_exit(LIMIT)?;
    let mut appliance = lab.start(true, "hangs.img")?;
    appliance.wait("trouble: hangs now")?;
    appliance.machine.wait_exit(LIMIT)?;
    if appliance.machine.console.text().contains("shutdown, then") {
        return Err("it was to hang, and ended in order".to_owned());
    }
    let mut appliance = lab.start(false, "hangs.img")?;
    appliance.wait(&running("B", "0.9.0"))?;
    appliance.wait("it lies in the other slot already and was not kept")?;
    ok("a version that hangs is ended by the watchdog, and the former says that it was not kept");
    drop(appliance);

    // One that does not come up.
    fs::write(lab.at("initramfs.img"), [0; 4096]).map_err(|e| e.to_string())?;
    let slot = format!("{}@@{}M", text(&lab.card())?, sd_image::SLOTS_MIB[0]);
    tool("mcopy", &["-o", "-i", &slot, text(&lab.at("initramfs.img"))?, "::initramfs.img"])?;
    let mut appliance = lab.start(true, "none.img")?;
    appliance.wait("Kernel panic")?;
    appliance.machine.wait_exit(LIMIT)?;
    if lab.choose(false)? != Slot::B {
        return Err("the version that panicked was kept".to_owned());
    }
    ok("a version that panics restarts by itself, and the former is started");
    drop(appliance);

    // The way back takes a longer press.
    let mut appliance = lab.start(false, "older.img")?;
    appliance.wait("update 0.0.1 asks for ENROLL held for 8 seconds")?;
    appliance.hold_enroll()?;
    std::thread::sleep(Duration::from_secs(2));
    if appliance.machine.console.text().contains("confirmed: update") {
        return Err("a hold of three seconds installed an older version".to_owned());
    }
    appliance.panel.press('L')?;
    appliance.wait("update 0.0.1 is written and checked")?;
    appliance.machine.wait_exit(LIMIT)?;
    if lab.choose(false)? != Slot::B || lab.choose(true)? != Slot::A {
        return Err("the older version is not in the other slot".to_owned());
    }
    ok("an older version is installed by a longer press only");
    lab.fsck()?;
    ok("the card's file systems are clean to fsck.fat");
    Ok(passed)
}

/// What of the Pi 5's image needs no Pi 5: its kernel, its modules and its system in an emulated machine.
fn pi5() -> Result<usize, String> {
    let lab = Lab::new("pi5")?;
    let mut appliance = lab.start(false, BLANK)?;
    appliance.wait("rootstock.toml read from")?;
    appliance.wait("DHCP is answered on ")?;
    appliance.wait("asks for a held ENROLL")?;
    appliance.hold_enroll()?;
    appliance.wait("store open")?;
    println!("ok the Pi 5's image serves, and makes a store on a stick");
    drop(appliance);
    let mut appliance = lab.start(false, "good.img")?;
    appliance.wait("update 0.9.0 asks for a held ENROLL")?;
    appliance.hold_enroll()?;
    appliance.wait("update 0.9.0 is written and checked")?;
    appliance.machine.wait_exit(LIMIT)?;
    let mut appliance = lab.start(true, "good.img")?;
    appliance.wait("update: 0.9.0 serves and is kept")?;
    if lab.choose(false)? != Slot::B {
        return Err("the Pi 5's update was not kept".to_owned());
    }
    lab.fsck()?;
    println!("ok an update of it is written, tried and kept");
    Ok(2)
}

/// A stick that a store may be made on.
const BLANK: &str = "blank.img";
/// The card, the one before the update, and those that cuts leave.
const CARD: &str = "card.img";
const FORMER: &str = "former.img";
const CUT: &str = "cut.img";
/// What QEMU recorded of the update.
const RECORD: &str = "writes.log";

struct Lab {
    folder: PathBuf,
    /// The kernel's name on the card.
    kernel: String,
    wire: Netns,
    /// What the image says of itself.
    version: String,
    /// The card that is in the slot.
    inserted: Cell<&'static str>,
    /// Whether its writes are recorded.
    record: Cell<bool>,
}

impl Lab {
    fn new(family: &str) -> Result<Self, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/update").join(family);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let image = sd_image::path_of(family)?;
        let kernel = sd_image::boot(&image, &folder)?.kernel;
        let kernel = kernel.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let at = |name: &str| folder.join(name);
        for name in ["key", "stranger"] {
            update_file::key(&folder, name)?;
        }
        let version = fs::read_to_string(sd_image::copy_file(&image, "version.txt", &folder)?);
        let version = version.map_err(|e| format!("version.txt: {e}"))?.trim().to_owned();

        // The card, with the person's own key and settings of their own.
        fs::copy(&image, at("card.img")).map_err(|e| format!("card.img: {e}"))?;
        fs::write(at("rootstock.toml"), "[network]\naddress = \"192.168.99.1/24\"\n").map_err(|e| e.to_string())?;
        for (from, name) in [("rootstock.toml", "rootstock.toml"), ("key.pub", "update.pub")] {
            update_file::put_setting(&at("card.img"), &at(from), name)?;
        }

        let (inserted, record) = (Cell::new(CARD), Cell::new(false));
        let lab = Self { wire: Netns::new("update"), folder, kernel, version, inserted, record };
        lab.wire.bridge("br0");
        lab.wire.tap("tap0", "br0");
        lab.device_tree()?;
        lab.stick("none.img", &[])?;
        stick::make(&lab.at(BLANK), 2048 * MIB, 64 * MIB, &[])?;
        let hangs = trouble::files(&lab.folder, &["hang"])?;
        // A short time for the watchdog, which otherwise has half a minute.
        let hangs = (hangs.as_path(), "rootstock.serve=/bin/hang i6300esb.heartbeat=6");
        let make = |key: &str, version: &str, board: &str, hang: bool| {
            let wanted = Wanted { key: &lab.at(key), version, board, changes: hang.then_some(hangs) };
            update_file::make(env!("CARGO_BIN_EXE_rootstock"), &image, &lab.folder, &wanted)
        };
        // A good one for another Pi.
        let foreign = lab.at("foreign.update");
        fs::rename(make("key", "0.9.0", "raspberrypi,5-model-b", false)?, &foreign).map_err(|e| e.to_string())?;
        let ours = |version: &str| format!("rootstock-{version}-{family}.update");
        for (stick, key, version, hang, name) in [
            // Without a family in its name, as before 0.2.
            ("stranger.img", "stranger", "0.9.0", false, "rootstock-0.9.0.update".to_owned()),
            ("good.img", "key", "0.9.0", false, ours("0.9.0")),
            ("hangs.img", "key", "0.9.1", true, ours("0.9.1")),
            ("older.img", "key", "0.0.1", false, "rootstock-0.0.1.update".to_owned()),
        ] {
            let update = make(key, version, "linux,dummy-virt", hang)?;
            if !update.ends_with(ours(version)) {
                return Err(format!("an update is called {}", update.display()));
            }
            let beside = Content { to: "rootstock-0.9.0-other.update", from: &foreign };
            let beside = (version == "0.9.0").then_some(beside);
            let content: Vec<_> = [Content { to: &name, from: &update }].into_iter().chain(beside).collect();
            lab.stick(stick, &content)?;
        }
        Ok(lab)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn card(&self) -> PathBuf {
        self.at(self.inserted.get())
    }

    fn stick(&self, name: &str, content: &[Content<'_>]) -> Result<(), String> {
        stick::make(&self.at(name), 128 * MIB, 64 * MIB, content)
    }

    /// QEMU's own device tree, with the folder in which a Pi's firmware tells what it did.
    fn device_tree(&self) -> Result<(), String> {
        let dtb = self.at("virt.dtb");
        let machine = format!("virt,dumpdtb={}", text(&dtb)?);
        let smp = ["-cpu", "cortex-a72", "-smp", "2", "-m", "1024", "-nodefaults", "-display", "none"];
        tool("qemu-system-aarch64", &[&["-M", &machine][..], &smp].concat())?;
        tool("fdtput", &["-p", "-c", text(&dtb)?, "/chosen/bootloader"]).map(drop)
    }

    /// The firmware's choice.
    fn choose(&self, tryboot: bool) -> Result<Slot, String> {
        let told = tool("mtype", &["-i", &settings(&self.card())?, "::autoboot.txt"])?;
        let (partition, a_b) = autoboot::read(told.as_bytes(), tryboot);
        let slot = partition.filter(|_| a_b).and_then(Slot::of_partition);
        slot.ok_or_else(|| format!("autoboot.txt starts nothing: {told:?}"))
    }

    fn start(&self, tryboot: bool, stick: &str) -> Result<Appliance, String> {
        self.start_with(tryboot, stick, Reader::Virtio)
    }

    /// Power on: the firmware takes kernel, initramfs and words from the slot of its choice.
    fn start_with(&self, tryboot: bool, stick: &str, reader: Reader) -> Result<Appliance, String> {
        let slot = self.choose(tryboot)?;
        let offset = sd_image::SLOTS_MIB[usize::from(slot == Slot::B)];
        let from = format!("{}@@{offset}M", text(&self.card())?);
        for name in [self.kernel.as_str(), "initramfs.img", "cmdline.txt"] {
            tool("mcopy", &["-n", "-o", "-i", &from, &format!("::{name}"), text(&self.at(name))?])?;
        }
        let dtb = self.at("start.dtb");
        fs::copy(self.at("virt.dtb"), &dtb).map_err(|e| e.to_string())?;
        for (property, value) in [("partition", u32::from(slot.partition())), ("tryboot", u32::from(tryboot))] {
            tool("fdtput", &["-t", "i", text(&dtb)?, "/chosen/bootloader", property, &value.to_string()])?;
        }
        let words = fs::read_to_string(self.at("cmdline.txt")).map_err(|e| format!("cmdline.txt: {e}"))?;
        let words: Vec<&str> = words.split_whitespace().filter(|word| !word.starts_with("console=")).collect();
        let words =
            format!("console=ttyAMA0 rootstock.panel=/dev/hvc0 {}", words.join(" ").replace("panic=10", "panic=1"));
        let (kernel, initramfs, panel) = (self.at(&self.kernel), self.at("initramfs.img"), self.at("panel.sock"));
        let start = Start { kernel: &kernel, initramfs: &initramfs, words: &words };
        let _ = fs::remove_file(&panel);
        let access = if stick == BLANK { "off" } else { "on" };
        let mut command: Command = virt(&self.wire, "tap0", MAC, &start);
        command
            .arg("-dtb")
            .arg(&dtb)
            .arg("-monitor")
            .arg(format!("unix:{},server=on,wait=off", self.at("monitor.sock").display()))
            .args(["-device", "qemu-xhci,id=usb", "-device", "i6300esb"])
            .arg("-chardev")
            .arg(format!("socket,id=panel,path={},server=on,wait=off", panel.display()))
            .args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=panel"])
            .args(self.drive())
            .args(["-device", reader.device()])
            .arg("-drive")
            .arg(format!("if=none,id=stick,format=raw,readonly={},file={}", access, self.at(stick).display()))
            .args(["-device", "usb-storage,drive=stick,removable=on"]);
        let machine = Machine::start("appliance", &mut command, &self.folder)?;
        let panel = PanelTty::connect(&panel, |_| {})?;
        Ok(Appliance { machine, panel, monitor: self.at("monitor.sock") })
    }

    /// The card's drive, `sd`.
    fn drive(&self) -> Vec<String> {
        let card = self.card().display().to_string();
        if !self.record.get() {
            return vec!["-drive".to_owned(), format!("if=none,id=sd,format=raw,file={card}")];
        }
        let log = self.at(RECORD);
        // A record of several machines goes on where the one before stopped.
        let how = if log.exists() { "log-append=on" } else { "log-sector-size=512" };
        let _ = File::options().append(true).create(true).open(&log);
        let log = log.display();
        [
            format!("driver=file,filename={card},node-name=card"),
            format!("driver=file,filename={log},node-name=log"),
            format!("driver=blklogwrites,node-name=sd,file=card,log=log,{how}"),
        ]
        .into_iter()
        .flat_map(|node| ["-blockdev".to_owned(), node])
        .collect()
    }

    fn card_hash(&self) -> Result<String, String> {
        tool("sha256sum", &[text(&self.card())?])
    }

    /// The settings and the slot that is started are clean.
    fn fsck(&self) -> Result<(), String> {
        let slot = sd_image::SLOTS_MIB[usize::from(self.choose(false)? == Slot::B)];
        self.fsck_part(sd_image::SETTINGS_MIB, 8)?;
        self.fsck_part(slot, 64)
    }

    fn fsck_part(&self, start: u64, mib: u64) -> Result<(), String> {
        let part = self.at("part.img");
        let [from, to] = [format!("if={}", self.card().display()), format!("of={}", part.display())];
        tool("dd", &[&from, &to, "bs=1M", &format!("skip={start}"), &format!("count={mib}"), "status=none"])?;
        tool("fsck.fat", &["-n", text(&part)?]).map(drop)
    }
}

/// A card's settings partition, as mtools name it.
fn settings(card: &Path) -> Result<String, String> {
    Ok(format!("{}@@{}M", text(card)?, sd_image::SETTINGS_MIB))
}

/// What the card lies in. QEMU can take only a USB one out.
#[derive(Clone, Copy)]
enum Reader {
    Virtio,
    Usb,
}

impl Reader {
    fn device(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-blk-pci,drive=sd,romfile=",
            Self::Usb => "usb-storage,drive=sd,id=card",
        }
    }
}

struct Appliance {
    machine: Machine,
    panel: PanelTty,
    monitor: PathBuf,
}

impl Appliance {
    fn wait(&mut self, needle: &str) -> Result<(), String> {
        self.machine.wait_for(needle, 0, LIMIT).map(drop)
    }

    fn wait_all(&mut self, needles: &[&str]) -> Result<(), String> {
        needles.iter().try_for_each(|needle| self.wait(needle))
    }

    fn pull_card(&mut self) -> Result<(), String> {
        let mut monitor = UnixStream::connect(&self.monitor).map_err(|e| format!("monitor: {e}"))?;
        monitor.write_all(b"device_del card\n").map_err(|e| format!("monitor: {e}"))
    }

    fn hold_enroll(&mut self) -> Result<(), String> {
        self.panel.press('E')
    }
}
