//! `rootstock eeprom`, from the files a person has to the card and the update,
//! read by foreign tools; and a card written to a device.
//!
//! The loaders are noise in the format's sections (`eeprom_images`): the real
//! ones are not ours to ship. Needs root for a loop device, and sfdisk, mtools
//! and fsck.fat.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod eeprom_images;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;

use eeprom_images as images;
use rootstock::eeprom::device::{self, DeviceError};

/// A folder with the files that a person downloaded, and one for what is made.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new(pieeprom: &[u8]) -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(desk.path("from")).unwrap();
        fs::create_dir(desk.path("out")).unwrap();
        desk.put("pieeprom.bin", pieeprom);
        desk.put("recovery.bin", &images::noise(100_000));
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path("from").join(name), bytes).unwrap();
    }

    /// `rootstock eeprom …` in the folder.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rootstock"));
        command.arg("eeprom").args(arguments).current_dir(self.folder.path()).output().unwrap()
    }

    fn card(&self, more: &[&str]) -> Output {
        self.run(&[&["card", "--from", "from", "--out", "out/recovery.img"], more].concat())
    }

    fn update(&self, more: &[&str]) -> Output {
        self.run(&[&["update", "--from", "from", "--out", "out"], more].concat())
    }

    fn made(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("out")).unwrap();
        let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// What it told.
fn told(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// It failed with one line that holds all of `said`.
fn refused(output: &Output, said: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    for said in said {
        assert!(errors.contains(said), "{errors:?} does not say {said:?}");
    }
    assert!(!errors.contains("panicked"), "{errors}");
}

fn tool(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("{name}: {error}; apt-get install -y fdisk mtools dosfstools mount"));
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file of the card, by mtools.
fn on_card(card: &Path, name: &str, to: &Path) -> Vec<u8> {
    let at = format!("{}@@1M", card.display());
    tool("mcopy", &["-n", "-o", "-i", &at, &format!("::{name}"), to.to_str().unwrap()]);
    fs::read(to).unwrap()
}

/// The image with `old` in its one changed place replaced by `new`, as a person would do it by hand.
fn only_difference(before: &[u8], after: &[u8]) -> std::ops::Range<usize> {
    assert_eq!(before.len(), after.len());
    let first = before.iter().zip(after).position(|(a, b)| a != b).unwrap();
    let last = before.iter().zip(after).rposition(|(a, b)| a != b).unwrap();
    first..last + 1
}

fn card_is_good(pieeprom: &[u8], config_block: usize, target: &str, expected: &str, diff: &[&str]) {
    let desk = Desk::new(pieeprom);
    let report = told(&desk.card(&["--timestamp", "1790000000"]));
    for line in diff {
        assert!(report.lines().any(|told| told.trim() == *line), "{report} lacks {line}");
    }
    let card = desk.path("out/recovery.img");

    // A foreign tool reads the partition table.
    let table = tool("sfdisk", &["--dump", card.to_str().unwrap()]);
    assert!(table.contains("label: dos") && table.contains("start=        2048, size=       71680, type=c"), "{table}");
    tool("sfdisk", &["--verify", card.to_str().unwrap()]);
    // And another one the file system.
    let fat = desk.path("fat");
    fs::write(&fat, &fs::read(&card).unwrap()[1 << 20..]).unwrap();
    tool("fsck.fat", &["-n", fat.to_str().unwrap()]);
    let listing = tool("mdir", &["-i", fat.to_str().unwrap()]);
    for short in ["recovery bin", "pieeprom bin", "pieeprom sig", "3 files"] {
        assert!(listing.to_lowercase().contains(short), "{listing}");
    }

    let scratch = desk.path("scratch");
    assert_eq!(on_card(&card, "recovery.bin", &scratch), images::noise(100_000));
    let signature = String::from_utf8(on_card(&card, "pieeprom.sig", &scratch)).unwrap();
    let written = on_card(&card, "pieeprom.bin", &scratch);
    let sum = tool("sha256sum", &[scratch.to_str().unwrap()]);
    assert_eq!(signature, format!("{}\nts: 1790000000\ntarget-soc: {target}\n", &sum[..64]));
    // Only the block of bootconf.txt differs, and it says what is wanted.
    let differs = only_difference(pieeprom, &written);
    assert!(config_block <= differs.start && differs.end <= config_block + 4096, "{differs:x?}");
    let length = u32::from_be_bytes(written[config_block + 4..config_block + 8].try_into().unwrap()) as usize;
    assert_eq!(String::from_utf8_lossy(&written[config_block + 24..config_block + 8 + length]), expected);
}

#[test]
fn a_card_for_a_pi_4_holds_its_loader_with_the_network_in_it() {
    card_is_good(
        &images::pi4(images::PI4_CONFIG),
        0x73000,
        "2711",
        "[all]\nBOOT_UART=0\nWAKE_ON_GPIO=1\nPOWER_OFF_ON_HALT=0\nBOOT_ORDER=0xf21\n",
        &[
            "+ BOOT_ORDER=0xf21",
            "Nothing else in it was changed.",
            "Boot order 0xf21: SD card, then network, then again from the start.",
            "No longer tried: USB.",
        ],
    );
}

#[test]
fn a_card_for_a_pi_5_holds_its_loader_with_the_network_in_it() {
    for image in [images::pi5, images::pi5_two_systems] {
        card_is_good(
            &image(images::PI5_CONFIG),
            0xa4000,
            "2712",
            "[all]\nBOOT_UART=1\nPOWER_OFF_ON_HALT=0\nBOOT_ORDER=0xf21\n",
            &["- BOOT_ORDER=0xf461", "+ BOOT_ORDER=0xf21", "No longer tried: NVMe, USB."],
        );
    }
}

#[test]
fn the_order_that_was_asked_for_is_set() {
    let desk = Desk::new(&images::pi5(images::PI5_CONFIG));
    let report = told(&desk.card(&["--boot-order", "0xf4612"]));
    assert!(report.contains("+ BOOT_ORDER=0xf4612"), "{report}");
    assert!(report.contains("network, then SD card, then NVMe, then USB, then again"), "{report}");
    assert!(!report.contains("No longer tried"), "{report}");
    // The factory's order can be set again.
    let desk = Desk::new(&images::pi5("BOOT_ORDER=0xf21\n"));
    assert!(told(&desk.card(&["--boot-order", "0xf461"])).contains("the Pi never tries the network"));
}

#[test]
fn show_says_what_stands_in_a_loader() {
    let desk =
        Desk::new(&images::pi5_two_systems("[all]\nBOOT_ORDER=0xf461\nFREEZE_VERSION=1\n[cm5]\nBOOT_ORDER=0x1\n"));
    let report = told(&desk.run(&["show", "from/pieeprom.bin"]));
    for said in [
        "Pi 5, 500, CM5 (BCM2712), 2048 KiB, with place for two systems",
        "    BOOT_ORDER=0xf461\n",
        "Boot order 0xf461: SD card, then NVMe, then USB, then again from the start.",
        "It never tries the network.",
        "Under [cm5] stands a boot order of its own",
        "takes no updates by TFTP",
    ] {
        assert!(report.contains(said), "{report} lacks {said:?}");
    }
    let mut old = images::pi4(images::PI4_CONFIG);
    old[1000..1026].copy_from_slice(b"BUILD_TIMESTAMP=1571400000");
    let desk = Desk::new(&old);
    let report = told(&desk.run(&["show", "from/pieeprom.bin"]));
    assert!(report.contains("Pi 4, 400, CM4 (BCM2711), built 2019-10-18, 512 KiB"), "{report}");
    assert!(report.contains("take a newer one"), "{report}");
    assert!(report.contains("the loader's own counts, 0xf41: SD card, then USB"), "{report}");
}

#[test]
fn an_update_is_the_image_and_its_signature() {
    let desk = Desk::new(&images::pi4(images::PI4_CONFIG));
    fs::remove_file(desk.path("from/recovery.bin")).unwrap();
    told(&desk.update(&[]));
    assert_eq!(desk.made(), ["pieeprom.sig", "pieeprom.upd"]);
    let sum = tool("sha256sum", &[desk.path("out/pieeprom.upd").to_str().unwrap()]);
    let signature = fs::read_to_string(desk.path("out/pieeprom.sig")).unwrap();
    let lines: Vec<&str> = signature.lines().collect();
    assert_eq!((lines[0], lines[2]), (&sum[..64], "target-soc: 2711"));
    let time: u64 = lines[1].strip_prefix("ts: ").unwrap().parse().unwrap();
    assert!(time > 1_735_689_600, "{time}");
    // A second one takes the place of the first.
    told(&desk.update(&["--boot-order", "0xf241", "--timestamp", "1790000001"]));
    assert_eq!(desk.made().len(), 2);
    // What was made is itself an image that says so.
    let report = told(&desk.run(&["show", "out/pieeprom.upd"]));
    assert!(report.contains("0xf241"), "{report}");
}

#[test]
fn an_update_that_would_be_the_last_is_refused() {
    let desk = Desk::new(&images::pi4(images::PI4_CONFIG));
    refused(&desk.update(&["--boot-order", "0xf41"]), &["0xf41 never tries the network"]);
    assert!(desk.made().is_empty());
    let output = desk.run(&["update", "--from", "from", "--out", "from/../from"]);
    refused(&output, &["one folder"]);
    refused(&desk.run(&["update", "--from", "from", "--out", "nowhere"]), &["nowhere is no folder"]);
}

#[test]
fn the_newest_of_the_official_names_is_taken() {
    let desk = Desk::new(b"");
    fs::remove_file(desk.path("from/pieeprom.bin")).unwrap();
    refused(&desk.card(&[]), &["no pieeprom.bin and no pieeprom-<date>.bin in from"]);
    desk.put("pieeprom-2025-02-11.bin", b"old");
    desk.put("pieeprom-2026-08-04.bin", &images::pi4(images::PI4_CONFIG));
    desk.put("pieeprom-latest.bin", b"another name");
    // Of another file.
    desk.put("pieeprom.sig", b"0000\n");
    assert!(told(&desk.card(&[])).contains("from/pieeprom-2026-08-04.bin: loader of Pi 4"));
}

#[test]
fn a_bare_name_is_a_file_in_this_folder() {
    let desk = Desk::new(&images::pi4(images::PI4_CONFIG));
    told(&desk.run(&["card", "--from", "from", "--out", "recovery.img"]));
    assert_eq!(fs::metadata(desk.path("recovery.img")).unwrap().len(), 36 << 20);
}

#[test]
fn a_bad_image_is_one_clear_error_and_nothing_is_written() {
    let good = images::pi4(images::PI4_CONFIG);
    let mut past_end = good.clone();
    past_end[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut wrong_magic = good.clone();
    wrong_magic[0] = 0x56;
    let mut flash = images::Flash::new(images::PI4_BYTES);
    let none = flash.section(images::LOADER, &[1; 96]).file("pubkey.bin", b"").done();
    let two = flash.file("bootconf.txt", b"A=1").file("bootconf.txt", b"A=1").done();
    let mut flash = images::Flash::new(images::PI4_BYTES);
    let large = flash.section(images::LOADER, &[1; 96]).file("bootconf.txt", &[b'A'; 5000]).done();
    let mut flash = images::Flash::new(images::PI4_BYTES);
    let tight = flash.section(images::LOADER, &[1; 96]).file("bootconf.txt", b"A=1\n").file("x", b"").done();
    let cases: [(&[u8], &str); 10] = [
        (b"", "it has 0 bytes"),
        (b"<!DOCTYPE html>", "it has 15 bytes; a loader's image has 524288 (Pi 4) or 2097152 (Pi 5)"),
        (&good[..300_000], "it has 300000 bytes"),
        (&[good.as_slice(), &[0; 4 << 20]].concat(), "bytes; a loader's image has"),
        (&past_end, "the section at 0x0 says that it has 4294967295 bytes, which is beyond the image's end"),
        (&wrong_magic, "no section begins at 0x0, where one should (0x56aaf00f stands there)"),
        (&none, "it holds no bootconf.txt"),
        (&two, "it holds two files bootconf.txt"),
        (&large, "its bootconf.txt has 5000 bytes, more than the 4076 that fit into one"),
        (&tight, "the new bootconf.txt has 21 bytes, and there is room for 8"),
    ];
    for (pieeprom, said) in cases {
        let desk = Desk::new(pieeprom);
        refused(&desk.card(&[]), &["from/pieeprom.bin cannot be used: ", said]);
        refused(&desk.update(&[]), &["from/pieeprom.bin cannot be used: ", said]);
        assert!(desk.made().is_empty(), "{said}: {:?}", desk.made());
    }
}

#[test]
fn what_lies_beside_the_image_is_looked_at_too() {
    let good = images::pi4(images::PI4_CONFIG);
    let check = |prepare: &dyn Fn(&Desk), more: &[&str], said: &str| {
        let desk = Desk::new(&good);
        prepare(&desk);
        refused(&desk.card(more), &[said]);
        assert!(desk.made().is_empty(), "{said}");
    };
    let nothing = |_: &Desk| {};
    check(&|desk| desk.put("pieeprom.sig", b"00ff\nts: 1\n"), &[], "from/pieeprom.bin is damaged");
    check(&|desk| desk.put("pieeprom.bin", &images::pi4("SIGNED_BOOT=1\n")), &[], "has SIGNED_BOOT set");
    check(&|desk| fs::remove_file(desk.path("from/recovery.bin")).unwrap(), &[], "cannot read from/recovery.bin");
    check(&|desk| desk.put("recovery.bin", b""), &[], "it is empty");
    check(&|desk| desk.put("recovery.bin", b"<html>\nnot found"), &[], "it is text");
    check(&|desk| desk.put("recovery.bin", &vec![0; (2 << 20) + 1]), &[], "it is too large");
    check(&nothing, &["--boot-order", "f21"], "no boot order such as 0xf21");
    check(&nothing, &["--boot-order", "0x2f1"], "what follows its f is never reached");

    // A signature that fits is none of these.
    let desk = Desk::new(&good);
    let sum = tool("sha256sum", &[desk.path("from/pieeprom.bin").to_str().unwrap()]);
    desk.put("pieeprom.sig", format!("{}\r\n", &sum[..64]).as_bytes());
    told(&desk.card(&[]));
    let before = fs::read(desk.path("out/recovery.img")).unwrap();
    refused(&desk.card(&["--boot-order", "0xf12"]), &["out/recovery.img exists already"]);
    assert!(fs::read(desk.path("out/recovery.img")).unwrap() == before);
    refused(&desk.run(&["card", "--from", "from", "--out", "/dev/null"]), &["/dev/null exists already"]);
}

/// A file as a block device.
struct Loop {
    node: PathBuf,
    file: File,
}

impl Loop {
    fn new(desk: &Desk, bytes: u64) -> Self {
        let path = desk.path("disk");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.set_len(bytes).unwrap();
        file.write_all_at(&[0xee; 4096], 0).unwrap();
        Self { node: tool("losetup", &["-f", "--show", path.to_str().unwrap()]).trim().into(), file }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.node).output();
    }
}

static GO_ON: AtomicBool = AtomicBool::new(false);

fn a_card() -> (Desk, Vec<u8>) {
    let desk = Desk::new(&images::pi4(images::PI4_CONFIG));
    told(&desk.card(&[]));
    let card = fs::read(desk.path("out/recovery.img")).unwrap();
    (desk, card)
}

#[test]
fn a_card_is_written_to_a_device_and_read_back() {
    let (desk, card) = a_card();
    let disk = Loop::new(&desk, 64 << 20);
    let mut steps = Vec::new();
    device::write(&disk.node, &card, &GO_ON, |done| steps.push(done)).unwrap();
    assert!(steps.is_sorted() && steps.last() == Some(&(2 * card.len() as u64)), "{steps:?}");
    let mut there = vec![0; card.len()];
    disk.file.read_exact_at(&mut there, 0).unwrap();
    assert!(there == card);
}

#[test]
fn a_device_that_does_not_keep_its_bytes_is_found_out() {
    let (desk, card) = a_card();
    let disk = Loop::new(&desk, 64 << 20);
    let at = 30 << 20;
    let result = device::write(&disk.node, &card, &GO_ON, |done| {
        if done == card.len() as u64 {
            disk.file.write_all_at(&[0x55], at).unwrap();
        }
    });
    assert!(matches!(result, Err(DeviceError::Differs { at: found, .. }) if found == at), "{result:?}");
}

#[test]
fn a_cut_leaves_a_card_without_a_table() {
    let (desk, card) = a_card();
    let disk = Loop::new(&desk, 64 << 20);
    let stop = AtomicBool::new(false);
    let result = device::write(&disk.node, &card, &stop, |done| {
        if done > 10 << 20 {
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    assert!(matches!(result, Err(DeviceError::Stopped(_))), "{result:?}");
    let mut sector = [1; 512];
    disk.file.read_exact_at(&mut sector, 0).unwrap();
    assert_eq!(sector, [0; 512]);
}

#[test]
fn what_is_no_free_device_is_not_written() {
    let (desk, card) = a_card();
    let write = |path: &Path| device::write(path, &card, &GO_ON, |_| panic!("it writes")).unwrap_err();
    assert!(matches!(write(&desk.path("out/recovery.img")), DeviceError::NoDevice(_)));
    assert!(matches!(write(Path::new("/dev/null")), DeviceError::NoDevice(_)));
    assert!(matches!(write(&desk.path("nowhere")), DeviceError::Open { .. }));
    let small = Loop::new(&desk, 16 << 20);
    assert!(matches!(write(&small.node), DeviceError::TooSmall { bytes: 0x100_0000, .. }));
    drop(small);
    let held = Loop::new(&desk, 64 << 20);
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(options.read(true), libc::O_EXCL);
    let _holder = options.open(&held.node).unwrap();
    assert!(matches!(write(&held.node), DeviceError::Busy(_)));
}
