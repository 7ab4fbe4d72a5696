//! A stick as it comes from the shop in the appliance's own kernel: exFAT and
//! FAT32 with an image file on them, one press, the store in the file system,
//! the kernel's own driver reading beside it, again after a restart and after it was pulled, and fsck.
//!
//! Needs the made image (`just image`) and QEMU; part of `tests/run`, not of a
//! plain `cargo test`.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;
mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use store_support::{LoopDisk, disk, pi_image, run, unmount};
use support::netns::Netns;
use support::panel_tty::PanelTty;
use support::qemu::{Machine, Start, virt};
use support::qmp::Monitor;
use support::sd_image;

const LIMIT: Duration = Duration::from_secs(240);
const STICK_BYTES: u64 = 2 << 30;

#[test]
fn a_stick_from_the_shop_serves_after_one_press_and_fsck_finds_nothing() {
    for kind in ["exfat", "fat"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/shop").join(kind);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let stick = make_stick(kind, &folder);
        let free_before = check(kind, &stick);

        let mut pi = Appliance::start(&folder, &[Stick::writable(&stick)]);
        pi.machine.wait_for("asks for ENROLL", 0, LIMIT).unwrap();
        let shown = pi.panel.wait_for("Press ENROLL", LIMIT).unwrap();
        assert!(shown.words.contains("Your files stay"), "{}", shown.words);
        pi.panel.press('e').unwrap();
        pi.machine.wait_for("store open", 0, LIMIT).unwrap();
        // The image file is read through the kernel's driver while the store is written.
        let seen = pi.machine.wait_for(" imported", 0, LIMIT).unwrap();
        if kind == "fat" {
            // (In exFAT the same under a client that writes: the test `stick`.)
            pi.pull_and_put_back(seen);
        }
        pi.power_off();

        let free_after = check(kind, &stick);
        assert!(free_before - free_after > 1 << 30, "{free_before} {free_after}");
        if kind == "fat" {
            // From the store's file on both are read alike.
            continue;
        }
        // Beside it a stick whose logical partitions lead back to where they began, as the kernel's scanner reads it.
        let loops = looping(&folder);
        let mut pi = Appliance::start(&folder, &[Stick::writable(&stick), Stick::writable(&loops)]);
        pi.machine.wait_for(": 1 images, 0 clients", 0, LIMIT).unwrap();
        pi.machine.wait_for("is not used: partitions ", 0, LIMIT).unwrap();
        let log = pi.power_off();
        // The kernel gives a disk a new number when its medium may have changed, which a new stick says of itself (diskseq).
        // Which of the two is sda is chance: their sizes differ.
        let size = format!(" bytes={}", fs::metadata(&loops).unwrap().len());
        let plugged = log.lines().filter(|line| line.contains("stick plugged in") && line.ends_with(&size)).count();
        let told = log.matches("is not used: ").count();
        assert!(told <= plugged, "said {told} times, and plugged in {plugged} times");
        assert_eq!(check(kind, &stick), free_after);

        // Its lock is on: the store in the file system is read, and clients would live in memory.
        let before = run("sha256sum", &[stick.to_str().unwrap()]);
        let mut pi = Appliance::start(&folder, &[Stick { file: &stick, is_locked: true }]);
        pi.machine.wait_for(": 1 images, 0 clients", 0, LIMIT).unwrap();
        pi.machine.wait_for("is write-protected. Clients live in", 0, LIMIT).unwrap();
        pi.panel.wait_for("Nothing is kept", LIMIT).unwrap();
        pi.power_off();
        assert_eq!(run("sha256sum", &[stick.to_str().unwrap()]), before, "it was written");
    }
}

/// A stick with an extended partition whose second record names itself as the next.
fn looping(folder: &Path) -> PathBuf {
    let file = folder.join("looping.img");
    let size = 64 << 20;
    fs::File::create(&file).unwrap().set_len(size).unwrap();
    let entry = |kind: u8, start: u32, sectors: u32| {
        let mut entry = [0; 16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
        entry
    };
    let record = |entries: &[[u8; 16]]| {
        let mut sector = [0; 512];
        for (n, entry) in entries.iter().enumerate() {
            sector[446 + 16 * n..][..16].copy_from_slice(entry);
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    };
    // The extended partition, and in it a logical one at each step; starts of the next are counted from its beginning.
    let (extended, step) = (2048, 8192);
    let disk = fs::File::options().write(true).open(&file).unwrap();
    let write = |sector: u32, bytes: &[u8]| disk.write_all_at(bytes, u64::from(sector) * 512).unwrap();
    write(0, &record(&[entry(5, extended, (size / 512) as u32 - extended)]));
    write(extended, &record(&[entry(0x83, 2048, 4096), entry(5, step, step)]));
    write(extended + step, &record(&[entry(0x83, 2048, 4096), entry(5, step, step)]));
    file
}

/// exFAT in a GPT, as macOS makes it; FAT32 without any table, as some sticks come. (exFAT in an MBR is what the stick test has.)
fn partition(kind: &str, stick: &LoopDisk) -> String {
    let number = if kind == "exfat" { "p1" } else { "" };
    format!("{}{number}", stick.node.display())
}

/// One file system over all of the stick, an image and a note on it.
fn make_stick(kind: &str, folder: &Path) -> PathBuf {
    let file = folder.join("stick.img");
    let table = "label: gpt\nstart=2048, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n";
    let stick = disk(&file, STICK_BYTES, if kind == "exfat" { table } else { "" });
    let partition = partition(kind, &stick);
    let image = pi_image(folder, "raspios-small.img");
    let note = folder.join("note.txt");
    fs::write(&note, "my own note\n").unwrap();
    let (image, note) = (image.to_str().unwrap(), note.to_str().unwrap());
    if kind == "exfat" {
        run("mkfs.exfat", &["-c", "32K", &partition]);
        with_exfat(folder, &partition, |point| drop(run("cp", &[image, note, point.to_str().unwrap()])));
    } else {
        run("mkfs.fat", &["-I", "-F", "32", "-s", "32", &partition]);
        run("mcopy", &["-i", &partition, image, note, "::"]);
    }
    file
}

fn with_exfat<T>(folder: &Path, partition: &str, work: impl FnOnce(&Path) -> T) -> T {
    let point = folder.join("mounted");
    fs::create_dir_all(&point).unwrap();
    run("mount.exfat-fuse", &[partition, point.to_str().unwrap()]);
    let result = work(&point);
    unmount(&point);
    result
}

/// fsck finds nothing and the note is there; the free bytes.
fn check(kind: &str, file: &Path) -> u64 {
    let stick = LoopDisk::attach(file);
    let partition = partition(kind, &stick);
    let folder = file.parent().unwrap();
    let said = run(if kind == "exfat" { "fsck.exfat" } else { "fsck.fat" }, &["-n", "-v", &partition]);
    if kind == "exfat" {
        assert!(said.contains("clean"), "{said}");
        return with_exfat(folder, &partition, |point| {
            assert_eq!(fs::read_to_string(point.join("note.txt")).unwrap(), "my own note\n");
            let vfs = rustix::fs::statvfs(point).unwrap();
            vfs.f_bfree * vfs.f_frsize
        });
    }
    assert!(!said.contains("Dirty") && !said.contains("wrong") && !said.contains("differ"), "{said}");
    assert_eq!(run("mtype", &["-i", &partition, "::note.txt"]), "my own note\n");
    let free = run("mdir", &["-i", &partition, "::"]);
    let line = free.lines().find(|line| line.contains("bytes free")).unwrap();
    line.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// What is plugged in.
struct Stick<'a> {
    file: &'a Path,
    is_locked: bool,
}

impl<'a> Stick<'a> {
    fn writable(file: &'a Path) -> Self {
        Self { file, is_locked: false }
    }
}

struct Appliance {
    machine: Machine,
    panel: PanelTty,
    monitor: Monitor,
    /// The first stick, for the monitor.
    plugged: String,
    _wire: Netns,
}

impl Appliance {
    fn start(folder: &Path, sticks: &[Stick<'_>]) -> Self {
        let wire = Netns::new("shop");
        wire.bridge("br0");
        wire.tap("tap-pi0", "br0");
        let image = sd_image::path().unwrap();
        let boot = sd_image::boot(&image, folder).unwrap();
        let words: Vec<&str> = boot.words.split_whitespace().filter(|word| !word.starts_with("console=")).collect();
        let words = format!("console=ttyAMA0 rootstock.panel=/dev/hvc0 {}", words.join(" "));
        let (socket, qmp) = (folder.join("panel.sock"), folder.join("monitor.sock"));
        for left in [&socket, &qmp] {
            let _ = fs::remove_file(left);
        }
        let start = Start { kernel: &boot.kernel, initramfs: &boot.initramfs, words: &words };
        let mut command = virt(&wire, "tap-pi0", "52:54:00:77:00:01", &start);
        command
            .args(["-monitor", "none", "-qmp", &format!("unix:{},server=on,wait=off", qmp.display()), "-drive"])
            .arg(format!("if=none,id=sd,format=raw,readonly=on,file={}", image.display()))
            .args(["-device", "virtio-blk-pci,drive=sd,romfile=", "-device", "qemu-xhci,id=usb"]);
        for (n, Stick { file, is_locked }) in sticks.iter().enumerate() {
            let locked = if *is_locked { "on" } else { "off" };
            // A node, and no drive of the device's: it stays when the device goes.
            let node = format!("driver=raw,node-name=stick{n},read-only={locked},file.driver=file,file.filename=");
            command
                .args(["-blockdev", &format!("{node}{}", file.display())])
                .args(["-device", &format!("usb-storage,drive=stick{n},id=stick-{n},bus=usb.0,port={}", n + 1)]);
        }
        command
            .args(["-device", "i6300esb", "-chardev"])
            .arg(format!("socket,id=panel,path={},server=on,wait=off", socket.display()))
            .args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=panel"]);
        let machine = Machine::start("appliance", &mut command, folder).unwrap();
        let panel = PanelTty::connect(&socket, |_| {}).unwrap();
        let monitor = Monitor::connect(&qmp).unwrap();
        Self { machine, panel, monitor, plugged: "stick-0".to_owned(), _wire: wire }
    }

    /// In another port, and with its journal as the pull left it.
    fn pull_and_put_back(&mut self, seen: usize) {
        self.monitor.pull(&self.plugged).unwrap();
        let seen = self.machine.wait_for("stick removed", seen, LIMIT).unwrap();
        self.panel.wait_for("Insert a stick", LIMIT).unwrap();
        self.plugged = self.monitor.plug("stick0", 3).unwrap();
        self.machine.wait_for(": 1 images, 0 clients", seen, LIMIT).unwrap();
        self.panel.wait_for("Press ENROLL", LIMIT).unwrap();
    }

    /// All that its console said.
    fn power_off(mut self) -> String {
        self.panel.press('N').unwrap();
        self.machine.wait_exit(LIMIT).unwrap();
        self.machine.console.text()
    }
}
