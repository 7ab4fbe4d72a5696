//! The flashable image, read back by programs that are not ours: partition table, file
//! systems, what the firmware needs to start each board, and what it is made of.
//!
//! Needs `just image` and `just image pi5`. The firmware's way is followed as Raspberry Pi documents it:
//! first FAT partition, `autoboot.txt`, the slot's `config.txt`, the files that it names.

#![allow(clippy::unwrap_used)]

#[path = "support/mod.rs"]
mod support;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use rootstock::update::{autoboot, fdt};
use support::command::run;
use support::sd_image::{self, FAMILIES};

fn tool(program: &str, arguments: &[&str]) -> String {
    run(program, &arguments.iter().map(OsStr::new).collect::<Vec<_>>()).unwrap()
}

/// `boards.list` of a family: filter, device tree, firmware files.
fn boards(family: &str) -> Vec<[String; 3]> {
    let text = fs::read_to_string(board_folder().join(family).join("boards.list")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            [words.next().unwrap(), words.next().unwrap(), words.next().unwrap()]
        })
        .collect()
}

fn board_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("board")
}

struct Image {
    path: PathBuf,
    scratch: tempfile::TempDir,
}

impl Image {
    /// Each family's.
    fn each() -> impl Iterator<Item = (&'static str, Self)> {
        FAMILIES.into_iter().map(|family| {
            let path = sd_image::path_of(family).unwrap();
            (family, Self { path, scratch: tempfile::tempdir().unwrap() })
        })
    }

    /// A partition as a file of its own, by the table that sfdisk sees.
    fn partition(&self, number: usize) -> PathBuf {
        let table: serde_json::Value =
            serde_json::from_str(&tool("sfdisk", &["--json", self.path.to_str().unwrap()])).unwrap();
        let entry = &table["partitiontable"]["partitions"][number - 1];
        let [start, size] = ["start", "size"].map(|key| entry[key].as_u64().unwrap());
        let to = self.scratch.path().join(format!("p{number}.img"));
        let [from, out] = [format!("if={}", self.path.display()), format!("of={}", to.display())];
        let [skip, count] = [format!("skip={start}"), format!("count={size}")];
        tool("dd", &[&from, &out, "bs=512", &skip, &count, "conv=sparse", "status=none"]);
        to
    }

    fn file(&self, partition: &Path, name: &str) -> Vec<u8> {
        let to = self.scratch.path().join("file");
        tool("mcopy", &["-n", "-o", "-i", partition.to_str().unwrap(), &format!("::{name}"), to.to_str().unwrap()]);
        fs::read(to).unwrap()
    }
}

#[test]
fn the_partition_table_is_good_to_fdisk_and_sfdisk() {
    for (_, image) in Image::each() {
        let path = image.path.to_str().unwrap();
        tool("sfdisk", &["--verify", path]);
        let table = tool("fdisk", &["-l", path]);
        assert!(table.contains("Disk identifier: 0x52535430"), "{table}");
        assert_eq!(table.lines().filter(|line| line.contains("W95 FAT16 (LBA)")).count(), 3, "{table}");
        let starts = [sd_image::SETTINGS_MIB, sd_image::SLOTS_MIB[0], sd_image::SLOTS_MIB[1]];
        for start in starts {
            assert!(table.contains(&format!(" {} ", start * 2048)), "{start} MiB: {table}");
        }
    }
}

#[test]
fn every_file_system_is_clean_to_fsck_and_has_the_name_that_a_laptop_shows() {
    for (_, image) in Image::each() {
        for (number, label) in [(1, "RS-SETTINGS"), (2, "RS-SYSTEM"), (3, "RS-SYSTEM-B")] {
            let partition = image.partition(number);
            let at = partition.to_str().unwrap();
            tool("fsck.fat", &["-n", at]);
            assert!(tool("minfo", &["-i", at]).contains("disk type=\"FAT16"), "partition {number}");
            let shown = tool("mlabel", &["-s", "-i", at, "::"]);
            assert!(shown.split_whitespace().any(|word| word.trim_end_matches('.') == label), "{shown}");
        }
        let slot = image.partition(2);
        let made = image.path.with_file_name("slot.img");
        assert!(fs::read(&slot).unwrap() == fs::read(made).unwrap(), "an update writes what was flashed");
    }
}

#[test]
fn each_board_finds_all_that_it_needs_on_its_way() {
    for (family, image) in Image::each() {
        let settings = image.partition(1);
        let (partition, a_b) = autoboot::read(&image.file(&settings, "autoboot.txt"), false);
        assert!(a_b);
        let slot = image.partition(usize::from(partition.unwrap()));
        let config = String::from_utf8(image.file(&slot, "config.txt")).unwrap();
        for [filter, dtb, firmware] in boards(family) {
            for name in firmware.split(',').filter(|name| *name != "-") {
                // A Pi 3's ROM looks nowhere else.
                let place = if name == "bootcode.bin" { &settings } else { &slot };
                assert!(image.file(place, name).len() > 4000, "{filter}: {name}");
            }
            assert_eq!(image.file(&slot, &dtb)[..4], [0xd0, 0x0d, 0xfe, 0xed], "{filter}: {dtb}");
            // A Pi 5's loader needs no files, and asks for its tree by name.
            let told = config.contains(&format!("[{filter}]")) && config.contains(&format!("device_tree={dtb}"));
            assert!(told || firmware == "-", "{filter}");
        }
        let kernels: Vec<&str> = config.lines().filter_map(|line| line.strip_prefix("kernel=")).collect();
        let initramfs = config.lines().filter_map(|line| line.strip_prefix("initramfs "));
        assert!(!kernels.is_empty());
        for kernel in kernels {
            assert_eq!(image.file(&slot, kernel)[..2], [0x1f, 0x8b], "{kernel} is gzip");
        }
        for name in initramfs.map(|line| line.split(' ').next().unwrap()) {
            assert_eq!(image.file(&slot, name)[..4], [0x28, 0xb5, 0x2f, 0xfd], "{name} is zstd");
        }
        assert_eq!(image.file(&slot, "family.txt"), format!("{family}\n").into_bytes());
        let boards_told = String::from_utf8(image.file(&slot, "boards.txt")).unwrap();
        assert!(
            boards_told.lines().all(|line| line.starts_with("raspberrypi,"))
                && boards_told.lines().count() == boards(family).len()
        );
        assert!(image.file(&settings, "rootstock.toml").starts_with(b"# Rootstock's settings"));
    }
}

#[test]
fn pid_1_loads_by_name_whatever_of_our_list_the_kernel_has_and_nothing_else() {
    for (family, image) in Image::each() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("initramfs.img");
        fs::write(&archive, image.file(&image.partition(2), "initramfs.img")).unwrap();
        let unpack = "cd \"$(dirname \"$1\")\" && zstd -dcq \"$1\" | cpio -idm --quiet";
        tool("sh", &["-c", &format!("{unpack} 'etc/*' 'lib/modules/*/modules.*'"), "sh", archive.to_str().unwrap()]);
        let names = |path: &Path| -> Vec<String> {
            let text = fs::read_to_string(path).unwrap();
            let words = text.lines().map(|line| line.split(['#', ' ']).next().unwrap_or_default());
            words.filter(|word| !word.is_empty()).map(|word| word.replace('-', "_")).collect()
        };
        let modules = fs::read_dir(folder.path().join("lib/modules")).unwrap().next().unwrap().unwrap().path();
        let known = ["modules.dep", "modules.builtin"].map(|name| fs::read_to_string(modules.join(name)).unwrap());
        let has = |name: &String| known.concat().replace('-', "_").contains(&format!("/{name}.ko"));
        let overlay = board_folder().join("../rootfs-overlay/etc/rootstock/modules");
        let wanted: Vec<String> = names(&overlay).into_iter().filter(has).collect();
        assert!(wanted.len() > 5, "{family}: {wanted:?}");
        assert_eq!(names(&folder.path().join("etc/rootstock/modules")), wanted, "{family}");
    }
}

#[test]
fn the_firmwares_mailbox_is_found_in_each_boards_device_tree() {
    for (family, image) in Image::each() {
        let slot = image.partition(2);
        for [filter, dtb, _] in boards(family) {
            let found = fdt::mailbox(&image.file(&slot, &dtb)).unwrap_or_else(|| panic!("{filter}: none"));
            // BCM2837 and BCM2711 ARM Peripherals §1.2; a BCM2712's is in no manual, and there the GPU sees what the ARM sees.
            let (registers, bus, bytes) = match &dtb[..7] {
                "bcm2837" => (0x3f00_b880, 0xc000_0000, 0x3f00_0000),
                "bcm2711" => (0xfe00_b880, 0xc000_0000, 0x4000_0000),
                _ => (0x10_7c01_3880, 0, 1 << 32),
            };
            assert_eq!(found, fdt::Mailbox { registers, memory: (0, bytes), bus }, "{filter}");
        }
    }
}

#[test]
fn the_bill_of_materials_names_every_package_crate_and_notice() {
    for (family, image) in Image::each() {
        let slot = image.partition(2);
        let bytes = image.file(&slot, "sbom.spdx.json");
        assert_eq!(bytes, fs::read(image.path.with_file_name("sbom.spdx.json")).unwrap(), "the same beside the image");
        let bill: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(bill["spdxVersion"], "SPDX-2.3");
        let packages = bill["packages"].as_array().unwrap();
        let named = |name: &str| packages.iter().find(|package| package["name"].as_str() == Some(name));
        let locks = [board_folder(), board_folder().join(family)].map(|folder| folder.join("packages.lock"));
        let lock = locks.map(|lock| fs::read_to_string(lock).unwrap()).concat();
        for line in lock.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let name = line.split(' ').nth(1).unwrap();
            // A pin that the archive has replaced has another name or version; all others are as pinned.
            if let Some(package) = named(name) {
                assert!(package["checksums"][0]["checksumValue"].as_str().is_some(), "{name}");
                assert!(!image.file(&slot, &format!("licences/{name}.txt")).is_empty());
            } else {
                assert!(name.starts_with("linux-"), "{name} is not in the bill of materials");
            }
        }
        for name in ["rootstock", "dhcproto", "tokio", "ed25519-dalek", "e2fsprogs"] {
            assert!(named(name).is_some(), "{name}");
        }
        for name in ["proptest", "tempfile", "nfs3_client"] {
            assert!(named(name).is_none(), "{name} is only in tests");
        }
        let mut names: Vec<&str> = packages.iter().map(|package| package["SPDXID"].as_str().unwrap()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), packages.len(), "identifiers are unique");
        let notices = String::from_utf8(image.file(&slot, "licences/README.txt")).unwrap();
        for word in ["GNU GPL", "linux (", "rust-crates.txt"] {
            assert!(notices.contains(word), "{word:?}: {notices}");
        }
        let has_firmware = boards(family).iter().any(|[_, _, firmware]| firmware != "-");
        assert_eq!(notices.contains("raspi-firmware.txt"), has_firmware, "{notices}");
    }
}

/// The loader of a Pi 5 with the later step adds our overlay: what comes of it is Debian's own tree of that step.
#[test]
fn the_overlay_for_the_d0_step_makes_debians_own_tree_of_it() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let lines = tool("board/fetch", &["board/pi5/packages.lock"]);
    let package = lines.lines().filter_map(|line| line.split(' ').nth(3)).find(|path| path.contains("linux-base"));
    tool("dpkg-deb", &["-x", package.unwrap(), scratch.path().to_str().unwrap()]);
    let tree = |name: &str| tool("find", &[scratch.path().to_str().unwrap(), "-name", name]).trim().to_owned();
    let overlay = board_folder().join("pi5/overlays/bcm2712d0.dts");
    tool("dtc", &["-q", "-@", "-I", "dts", "-O", "dtb", "-o", &at("d0.dtbo"), overlay.to_str().unwrap()]);
    tool("fdtoverlay", &["-i", &tree("bcm2712-rpi-5-b.dtb"), "-o", &at("made.dtb"), &at("d0.dtbo")]);
    let text = |tree: &str| tool("dtc", &["-q", "-s", "-I", "dtb", "-O", "dts", tree]);
    let debians = text(&tree("bcm2712-d-rpi-5-b.dtb"));
    assert!(debians.contains("brcm,bcm2712d0-pinctrl"));
    assert_eq!(text(&at("made.dtb")), debians);

    // And it fits the tree that the image has.
    let image = Image::each().find(|(family, _)| *family == "pi5").unwrap().1;
    let slot = image.partition(2);
    for name in ["bcm2712-rpi-5-b.dtb", "overlays/bcm2712d0.dtbo"] {
        fs::write(at(name.rsplit('/').next().unwrap()), image.file(&slot, name)).unwrap();
    }
    tool("fdtoverlay", &["-i", &at("bcm2712-rpi-5-b.dtb"), "-o", &at("board.dtb"), &at("bcm2712d0.dtbo")]);
    let board = text(&at("board.dtb"));
    for words in ["brcm,bcm2712d0-pinctrl", "i2c1_0", "clock-frequency = <0x61a80>", "gpio-leds"] {
        assert!(board.contains(words), "{words}");
    }
}

#[test]
fn the_image_is_within_its_budget() {
    tool("board/budget", &[]);
}

#[test]
fn a_board_that_the_kernel_does_not_know_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let check = |line: &str, told: &str| {
        let list = folder.path().join("boards.list");
        fs::write(&list, format!("pi3 bcm2837-rpi-3-b.dtb bootcode.bin,start.elf,fixup.dat\n{line}\n")).unwrap();
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("board/image");
        // What becomes /init does not matter: it is not come to.
        let output = std::process::Command::new(&image)
            .args([OsStr::new("--boards"), list.as_os_str(), OsStr::new("--binary"), image.as_os_str()])
            .args([OsStr::new("--out"), folder.path().join("out").as_os_str()])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(told), "{text}");
        assert!(!folder.path().join("out/rootstock.img").exists());
    };
    check("pi5 bcm2712-rpi-5-b.dtb start4.elf", "does not know the board 'pi5': it has no bcm2712-rpi-5-b.dtb");
    check("pi4 bcm2711-rpi-4-b.dtb start5.elf", "the firmware has no start5.elf, which 'pi4' needs");
}
