//! The appliance in QEMU, its sticks put in and pulled, and its power cut, through QEMU's monitor.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rootstock::store::shop::{self, Media};

use crate::store_support::{make_image_of, pi_root};
use crate::support::command::run;
use crate::support::netns::Netns;
use crate::support::panel_tty::PanelTty;
use crate::support::qemu::{Machine, Start, virt};
use crate::support::qmp::{self, Monitor};
use crate::support::sd_image;
use crate::support::stick::{self, Content};

/// Begins the error of a QEMU that crashed; the signal follows.
pub const CRASHED: &str = "QEMU crashed, by signal ";

const MIB: u64 = 1 << 20;
const STICK_BYTES: u64 = 2 << 30;
/// Bytes a second: as slow as a cheap stick, so that there is a middle of an import to pull it in.
const STICK_SPEED: u64 = 6 << 20;
/// Where the store becomes a partition behind the exFAT.
const EXFAT_BYTES: u64 = 256 * MIB;
/// Noise in the image's root: what is random does not compress.
const NOISE_BYTES: usize = 24 << 20;

/// Where the store lies: the same test for both, since the kernel holds each in its own way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file in the exFAT that takes the whole stick, as one comes from the shop.
    File,
    /// A partition behind the exFAT.
    Partition,
}

impl Kind {
    pub fn from_environment() -> Result<Self, String> {
        match std::env::var("ROOTSTOCK_STICK").as_deref() {
            Ok("partition") => Ok(Self::Partition),
            Ok("file") | Err(_) => Ok(Self::File),
            Ok(other) => Err(format!("ROOTSTOCK_STICK is file or partition, not {other}")),
        }
    }
}

pub struct Appliance {
    pub wire: Netns,
    pub panel: PanelTty,
    machine: Machine,
    command: Command,
    folder: PathBuf,
    monitor: Monitor,
    /// How much of the console was looked at.
    seen: usize,
    /// The `-device` that is in.
    plugged: Option<String>,
}

impl Appliance {
    pub fn start(kind: Kind) -> Result<Self, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/stick");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let image = image(&folder)?;
        let exfat_bytes = if kind == Kind::File { STICK_BYTES - MIB } else { EXFAT_BYTES };
        stick::make(&folder.join("stick.img"), STICK_BYTES, exfat_bytes, &[Content { to: "pi.img.xz", from: &image }])?;
        stick::make(&folder.join("stranger.img"), STICK_BYTES, EXFAT_BYTES, &[])?;

        let wire = Netns::new("stick");
        wire.bridge("br0");
        wire.tap("tap-pi0", "br0");
        let sd = sd_image::path()?;
        let boot = sd_image::boot(&sd, &folder)?;
        let words: Vec<&str> = boot.words.split_whitespace().filter(|word| !word.starts_with("console=")).collect();
        let words = format!("console=ttyAMA0 rootstock.panel=/dev/hvc0 {}", words.join(" "));
        let (panel, monitor) = (folder.join("panel.sock"), folder.join("monitor.sock"));
        let start = Start { kernel: &boot.kernel, initramfs: &boot.initramfs, words: &words };
        let mut command = virt(&wire, "tap-pi0", "52:54:00:77:00:02", &start);
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .args(["-monitor", "none", "-device", "qemu-xhci,id=usb"])
            .arg("-chardev")
            .arg(format!("socket,id=panel,path={},server=on,wait=off", panel.display()))
            .args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=panel"]);
        command.arg("-object").arg(format!("throttle-group,id=slow,x-bps-total={STICK_SPEED}"));
        command.arg("-drive").arg(format!("if=none,id=sd,format=raw,readonly=on,file={}", sd.display()));
        command.args(["-device", "virtio-blk-pci,drive=sd,romfile="]);
        for name in ["stick", "stranger"] {
            let file = folder.join(format!("{name}.img"));
            command.arg("-blockdev").arg(format!("driver=file,node-name={name}-file,filename={}", file.display()));
            command.arg("-blockdev").arg(format!("driver=raw,node-name={name}-raw,file={name}-file"));
            let slow = format!("driver=throttle,node-name={name},throttle-group=slow,file={name}-raw");
            command.arg("-blockdev").arg(slow);
        }
        let (machine, panel, monitor) = power_on(&mut command, &folder)?;
        Ok(Self { wire, panel, machine, command, folder, monitor, seen: 0, plugged: None })
    }

    /// The power goes and comes: nothing is ended, flushed or unmounted. The stick stays where it is.
    pub fn cut_power(&mut self) -> Result<(), String> {
        self.tell("system_reset", "{}")
    }

    /// After `power_off`: the power comes again, with the stick in a port already.
    pub fn power_on(&mut self, stick: &str, port: u8) -> Result<(), String> {
        (self.machine, self.panel, self.monitor) = power_on(&mut self.command, &self.folder)?;
        self.seen = 0;
        self.plug(stick, port)
    }

    /// One command to QEMU; waits for its answer.
    fn tell(&mut self, command: &str, arguments: &str) -> Result<(), String> {
        let told = self.monitor.tell(command, arguments);
        told.map_err(|error| self.crashed(error))
    }

    fn crashed(&mut self, error: String) -> String {
        let crash = (error == qmp::CLOSED).then(|| self.machine.crash()).flatten();
        crash.map_or(error, |signal| format!("{CRASHED}{signal}"))
    }

    /// Puts a stick into a port.
    pub fn plug(&mut self, name: &str, port: u8) -> Result<(), String> {
        let plugged = self.monitor.plug(name, port);
        self.plugged = Some(plugged.map_err(|error| self.crashed(error))?);
        Ok(())
    }

    /// Pulls the stick: no unmount, no flush, no word before.
    pub fn pull(&mut self) -> Result<(), String> {
        let id = self.plugged.take().ok_or("no stick is in")?;
        let pulled = self.monitor.pull(&id);
        pulled.map_err(|error| self.crashed(error))
    }

    /// The lock of a stick that is in slides on: from here on it refuses each write, as a drive does, with a sense key of
    /// DATA PROTECT (what QEMU makes of ENOSPC), and reads as before.
    pub fn lock(&mut self, name: &str) -> Result<(), String> {
        self.tell(
            "blockdev-add",
            &format!(
                "{{\"driver\":\"blkdebug\",\"node-name\":\"{name}-locked\",\"image\":\"{name}-raw\",\
                 \"inject-error\":[{{\"event\":\"none\",\"iotype\":\"write\",\"errno\":{}}}]}}",
                libc::ENOSPC
            ),
        )?;
        self.lay_over(name, &format!("{name}-locked"))
    }

    /// While it is out.
    pub fn unlock(&mut self, name: &str) -> Result<(), String> {
        self.lay_over(name, &format!("{name}-raw"))
    }

    fn lay_over(&mut self, name: &str, below: &str) -> Result<(), String> {
        let arguments = format!(
            "{{\"options\":[{{\"driver\":\"throttle\",\"node-name\":\"{name}\",\"throttle-group\":\"slow\",\"file\":\"{below}\"}}]}}"
        );
        self.tell("blockdev-reopen", &arguments)
    }

    /// Waits for the next log line that holds `needle`.
    pub fn log(&mut self, needle: &str, limit: Duration) -> Result<(), String> {
        self.seen = self.machine.wait_for(needle, self.seen, limit)?;
        Ok(())
    }

    pub fn power_off(&mut self) -> Result<(), String> {
        let end = Instant::now() + Duration::from_secs(60);
        self.panel.press('N')?;
        self.machine.wait_exit(end.saturating_duration_since(Instant::now()))
    }

    /// Foreign checkers look at what is on the sticks.
    pub fn check(&self) -> Result<(), String> {
        let parts = stick::partitions(&self.folder.join("stick.img"))?;
        let exfat = *parts.first().ok_or("the stick has no partition")?;
        let store = match parts[1..] {
            [store] => store,
            _ => exfat + store_file(&self.folder.join("stick.img"), exfat)?,
        };
        let stranger = stick::partitions(&self.folder.join("stranger.img"))?;
        let [strange] = stranger[..] else {
            return Err(format!("the stranger's stick has the partitions {stranger:?}"));
        };
        for (name, start, program, arguments) in [
            ("stick", exfat, "fsck.exfat", vec!["-n"]),
            ("stick", store, "e2fsck", vec!["-f", "-n"]),
            ("stranger", strange, "fsck.exfat", vec!["-n"]),
        ] {
            let part = self.folder.join("part.img");
            stick::extract(&self.folder.join(format!("{name}.img")), start, &part)?;
            let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).chain([part.as_os_str()]).collect();
            run(program, &arguments)?;
            let _ = fs::remove_file(&part);
        }
        Ok(())
    }
}

/// Where the store begins in the exFAT that begins at `start`.
fn store_file(stick: &Path, start: u64) -> Result<u64, String> {
    struct Part(fs::File, u64, u64);
    impl Media for Part {
        fn bytes(&self) -> u64 {
            self.2 - self.1
        }
        fn read_at(&self, at: u64, buffer: &mut [u8]) -> std::io::Result<()> {
            self.0.read_exact_at(buffer, self.1 + at)
        }
    }
    let file = fs::File::open(stick).map_err(|e| format!("{}: {e}", stick.display()))?;
    let end = file.metadata().map_err(|e| format!("{}: {e}", stick.display()))?.len();
    let found = shop::find(&Part(file, start, end)).map_err(|refusal| refusal.to_string())?;
    Ok(found.ok_or("the stick has no rootstock.store")?.at)
}

/// A machine with its panel and QEMU's monitor.
fn power_on(command: &mut Command, folder: &Path) -> Result<(Machine, PanelTty, Monitor), String> {
    for left in ["panel.sock", "monitor.sock"] {
        let _ = fs::remove_file(folder.join(left));
    }
    let machine = Machine::start("appliance", command, folder)?;
    let panel = PanelTty::connect(&folder.join("panel.sock"), |_| {})?;
    let mut monitor = Monitor::connect(&folder.join("monitor.sock"))?;
    // QEMU would end.
    monitor.tell("set-action", "{\"reboot\":\"reset\"}")?;
    Ok((machine, panel, monitor))
}

/// A small operating system in Raspberry Pi OS's layout, packed as a download is.
fn image(folder: &Path) -> Result<PathBuf, String> {
    let root = tempfile::tempdir().map_err(|e| format!("a temporary folder: {e}"))?;
    pi_root(root.path());
    let mut state = 7u64;
    let noise: Vec<u8> = (0..NOISE_BYTES)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    fs::write(root.path().join("noise"), noise).map_err(|e| format!("noise: {e}"))?;
    let image = folder.join("pi.img");
    // What a Pi 4's loader asks for before it starts a kernel.
    let boot = tempfile::tempdir().map_err(|e| format!("a temporary folder: {e}"))?;
    let words = "console=serial0,115200 root=PARTUUID=a-02 rootwait\n";
    let files = [("config.txt", "arm_64bit=1\n"), ("cmdline.txt", words)];
    let binaries = ["start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "kernel8.img"].map(|name| (name, name));
    for (name, content) in files.into_iter().chain(binaries) {
        fs::write(boot.path().join(name), content).map_err(|e| format!("{name}: {e}"))?;
    }
    make_image_of(&image, boot.path(), root.path());
    run("xz", &["-0".as_ref(), "--force".as_ref(), image.as_os_str()])?;
    Ok(folder.join("pi.img.xz"))
}
