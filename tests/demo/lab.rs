//! The demo's wire: a network namespace with a bridge, the appliance's machine on it, and its stick.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::show::Show;
use crate::support::command::run;
use crate::support::netns::Netns;
use crate::support::panel_tty::PanelTty;
use crate::support::qemu::{Machine, Start, virt};
use crate::support::sd_image;
use crate::support::stick::{self, Content};

/// The demo's own address on the wire; the appliance is 192.168.77.1 by default.
pub const HERE: &str = "192.168.77.250";

const STICK_BYTES: u64 = 6 << 30;
const EXFAT_BYTES: u64 = 1 << 30;

pub struct Lab {
    pub folder: PathBuf,
    pub wire: Netns,
    pub os_image: PathBuf,
    sd: PathBuf,
    stick: PathBuf,
    appliance: Option<Machine>,
    panel: Option<PanelTty>,
}

/// Times since the kernel's start, from the appliance's own log.
pub struct Figures {
    pub kernel: Duration,
    pub services: Duration,
    pub asks: Duration,
}

pub struct Import {
    pub took: Duration,
    pub words: String,
}

impl Lab {
    /// Makes the wire, the stick and a key of its own for the client.
    pub fn set_up(show: &Show) -> Result<Self, String> {
        show.step("the wire, the SD card and the stick are made");
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = top.join("target/demo");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let sd = sd_image::path()?;
        let os_image = PathBuf::from(run(top.join("tests/os-image/build").to_str().unwrap_or_default(), &[])?.trim());

        let key = folder.join("key");
        run(
            "ssh-keygen",
            &["-q", "-t", "ed25519", "-N", "", "-f"]
                .map(OsStr::new)
                .into_iter()
                .chain([key.as_os_str()])
                .collect::<Vec<_>>(),
        )?;
        let stick = folder.join("stick.img");
        let name = os_image.file_name().and_then(OsStr::to_str).ok_or("the OS image has no name")?;
        let checksum = os_image.with_file_name(format!("{name}.sha256"));
        stick::make(
            &stick,
            STICK_BYTES,
            EXFAT_BYTES,
            &[
                Content { to: name, from: &os_image },
                Content { to: &format!("{name}.sha256"), from: &checksum },
                Content { to: "profile/authorized_keys", from: &folder.join("key.pub") },
            ],
        )?;
        show.note(&format!("stick: exFAT with {name}, and free space behind it"));
        let wire = Netns::new("demo");
        wire.bridge("br0");
        wire.ip(&format!("address add {HERE}/24 dev br0"));
        Ok(Self { folder, wire, os_image, sd, stick, appliance: None, panel: None })
    }

    pub fn start_appliance(&mut self, show: &Show) -> Result<(), String> {
        let boot = sd_image::boot(&self.sd, &self.folder)?;
        // The emulated machine's serial port has another name than a Pi's; all else is the image's.
        let words: Vec<&str> = boot.words.split_whitespace().filter(|word| !word.starts_with("console=")).collect();
        let words = format!("console=ttyAMA0 sysrq_always_enabled=1 rootstock.panel=/dev/hvc0 {}", words.join(" "));

        self.wire.tap("tap-pi0", "br0");
        let socket = self.folder.join("panel.sock");
        let monitor = self.folder.join("monitor.sock");
        let start = Start { kernel: &boot.kernel, initramfs: &boot.initramfs, words: &words };
        let mut command = virt(&self.wire, "tap-pi0", "52:54:00:77:00:01", &start);
        command
            .arg("-monitor")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .arg("-drive")
            .arg(format!("if=none,id=sd,format=raw,readonly=on,file={}", self.sd.display()))
            .args(["-device", "virtio-blk-pci,drive=sd,romfile=", "-device", "qemu-xhci"])
            .arg("-drive")
            .arg(format!("if=none,id=stick,format=raw,cache=writeback,file={}", self.stick.display()))
            .args(["-device", "usb-storage,id=stick,drive=stick,removable=on"])
            .args(["-device", "i6300esb"])
            .arg("-chardev")
            .arg(format!("socket,id=panel,path={},server=on,wait=off", socket.display()))
            .args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=panel"]);
        self.appliance = Some(Machine::start("appliance", &mut command, &self.folder)?);
        self.panel = Some(PanelTty::connect(&socket, Show::screens())?);
        show.note("QEMU runs the image's own kernel, initramfs and kernel words");
        Ok(())
    }

    pub fn panel(&mut self) -> Result<&mut PanelTty, String> {
        self.panel.as_mut().ok_or_else(|| "the appliance is not started".to_owned())
    }

    pub fn appliance(&mut self) -> Result<&mut Machine, String> {
        self.appliance.as_mut().ok_or_else(|| "the appliance is not started".to_owned())
    }

    /// The time of the log line that holds `needle`: `[    3.214567] …`.
    pub fn logged(&mut self, needle: &str) -> Result<Duration, String> {
        let text = self.appliance()?.console.text();
        let line = text.lines().rfind(|line| line.contains(needle)).ok_or(format!("the log has no {needle:?}"))?;
        let time = line.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(time, _)| time.trim());
        let seconds: f64 = time.and_then(|time| time.parse().ok()).ok_or(format!("no time in {line:?}"))?;
        Ok(Duration::from_secs_f64(seconds))
    }

    pub fn appliance_figures(&mut self) -> Result<Figures, String> {
        let kernel = self.logged("starts as PID 1")?;
        let services = self.logged("serving as")?.saturating_sub(kernel);
        let asks = self.logged("asks for a held ENROLL")?.saturating_sub(kernel);
        Ok(Figures { kernel, services, asks })
    }

    pub fn import(&mut self, show: &Show, limit: Duration) -> Result<Import, String> {
        let from = self.appliance()?.wait_for("store open", 0, limit)?;
        let began = Instant::now();
        self.appliance()?.wait_for(" imported", from, limit)?;
        let took = began.elapsed();
        let shown = self.panel()?.wait_for("Press ENROLL", limit)?;
        show.note(&format!("ready: {}", shown.words));
        let compressed = fs::metadata(&self.os_image).map_err(|e| format!("{}: {e}", self.os_image.display()))?.len();
        let words = format!("{} MiB compressed", compressed >> 20);
        Ok(Import { took, words })
    }

    /// The server's resident memory, from its log.
    pub fn memory_kib(&mut self) -> Result<u64, String> {
        self.appliance()?.wait_for("resident memory", 0, Duration::from_secs(10))?;
        let text = self.appliance()?.console.text();
        let told = text.lines().rev().find_map(|line| line.split_once("resident memory "));
        let kib = told.and_then(|(_, kib)| kib.split_whitespace().next()?.parse().ok());
        kib.ok_or_else(|| "the log tells no memory".to_owned())
    }

    fn tell_monitor(&self, line: &str) -> Result<(), String> {
        let path = self.folder.join("monitor.sock");
        let send = || -> std::io::Result<()> {
            let mut stream = UnixStream::connect(&path)?;
            stream.write_all(line.as_bytes())?;
            stream.write_all(b"\n")?;
            // The monitor drops what is unread when we hang up at once.
            thread::sleep(Duration::from_millis(300));
            Ok(())
        };
        send().map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Kills every process but PID 1, by the kernel's own SysRq key; the server must be back.
    pub fn kill_server(&mut self, show: &Show) -> Result<(), String> {
        let from = self.appliance()?.console.text().len();
        self.tell_monitor("chardev-send-break serial")?;
        self.appliance()?.type_text("i")?;
        self.appliance()?.wait_for("Kill All Tasks", from, Duration::from_secs(20))?;
        let killed = Instant::now();
        self.appliance()?.wait_for("serving as", from, Duration::from_secs(20))?;
        show.figure("server killed to serving again", killed.elapsed());
        self.appliance()?.wait_for("store open", from, Duration::from_secs(60))?;
        show.figure("server killed to store open again", killed.elapsed());
        show.passed_step("PID 1 started the server again");
        Ok(())
    }

    /// A held NEXT switches the appliance off in order.
    pub fn power_off(&mut self) -> Result<(), String> {
        self.panel()?.press('N')?;
        self.appliance()?.wait_exit(Duration::from_secs(60))
    }

    pub fn check_stick(&self) -> Result<(), String> {
        let starts = stick::partitions(&self.stick)?;
        let [exfat, store] = starts[..] else {
            return Err(format!("the stick's partitions are not two: {starts:?}"));
        };
        for (start, program, arguments) in [(exfat, "fsck.exfat", vec!["-n"]), (store, "e2fsck", vec!["-f", "-n"])] {
            let part = self.folder.join("part.img");
            stick::extract(&self.stick, start, &part)?;
            let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).chain([part.as_os_str()]).collect();
            run(program, &arguments)?;
            let _ = fs::remove_file(&part);
        }
        Ok(())
    }

    pub fn sd_card_hash(&self) -> Result<String, String> {
        run("sha256sum", &[self.sd.as_os_str()]).map(|line| line.split(' ').next().unwrap_or_default().to_owned())
    }
}
