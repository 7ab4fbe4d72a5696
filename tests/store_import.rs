//! Importing image files, in folder mode: what goes in, what is refused and
//! with which words.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rootstock::store::{Event, Options};
use store_support::*;

fn sha256(path: &Path) -> String {
    run("sha256sum", &[path.to_str().unwrap()]).split(' ').next().unwrap().to_owned()
}

#[test]
fn an_img_becomes_an_image_with_the_same_root_and_boot_files() {
    let bench = Bench::new();
    let image = pi_image(&bench.store(), "My Pi.img");
    let hash = sha256(&image);
    fs::write(bench.store().join("My Pi.img.sha256"), format!("{hash}  My Pi.img\n")).unwrap();

    let mut running = bench.start_in_folder();
    running.opened();
    let imported = running.imported();
    assert_eq!(imported.id.as_str(), format!("my-pi-{}", &hash[..8]));

    let folder = bench.store().join("images").join(imported.id.as_str());
    let mut original = vec![0; ROOT_BYTES as usize];
    fs::File::open(&image).unwrap().read_exact_at(&mut original, ROOT_START).unwrap();
    assert!(fs::read(folder.join("root.ext4")).unwrap() == original);
    let blocks = fs::metadata(folder.join("root.ext4")).unwrap().blocks();
    assert!(blocks * 512 < ROOT_BYTES / 2, "{blocks} blocks are not sparse");
    assert_eq!(fs::read_to_string(folder.join("boot/config.txt")).unwrap(), "arm_64bit=1\n");
    assert!(folder.join("boot/overlays").is_dir() && !folder.join("boot.fat").exists());
    assert!(fs::read_to_string(folder.join("image.toml")).unwrap().contains(&hash));
}

#[test]
fn an_xz_of_one_or_many_blocks_gives_the_same_image() {
    let bench = Bench::new();
    let plain = pi_image(bench.folder.path(), "a.img");
    let text = plain.to_str().unwrap();
    let packed = |name: &str, arguments: &str| {
        let to = bench.store().join(name);
        run("sh", &["-c", &format!("xz -k -c {arguments} {text} > {}", to.display())]);
    };
    packed("one.img.xz", "-1");
    packed("many.img.xz", "-1 --block-size=1MiB");

    let mut running = bench.start_in_folder();
    running.opened();
    let first = running.imported();
    let second = running.imported();
    let root = |id: &str| fs::read(bench.store().join("images").join(id).join("root.ext4")).unwrap();
    assert_ne!(first.id, second.id);
    assert!(root(first.id.as_str()) == root(second.id.as_str()));
}

#[test]
fn the_same_file_again_is_known_also_under_another_name() {
    let bench = Bench::new();
    let image = pi_image(&bench.store(), "a.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let first = running.imported();
    fs::copy(&image, bench.store().join("b.img")).unwrap();
    assert_eq!(running.imported().id, first.id);
    running.stop();

    let mut running = bench.start_in_folder();
    let (images, _) = running.opened();
    assert_eq!(images, [first]);
    let manifest = fs::read_to_string(bench.store().join("images").join(images[0].id.as_str()).join("image.toml"));
    assert!(manifest.unwrap().contains("b.img"));
}

/// Makes one file from the usual image and expects its refusal.
fn check_refused(name: &str, change: impl FnOnce(&Path), expected: &str) {
    let bench = Bench::new();
    let image = pi_image(bench.folder.path(), "made.img");
    change(&image);
    let target = bench.store().join(name);
    if name.ends_with(".xz") {
        fs::rename(image.with_extension("img.xz"), &target).unwrap();
    } else {
        fs::rename(&image, &target).unwrap();
    }
    let mut running = bench.start_in_folder();
    running.opened();
    let message = running.import_failed();
    assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    running.stop();
    assert_eq!(fs::read_dir(bench.store().join("images")).unwrap().count(), 0, "something was left behind");
}

fn write_at(image: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

fn pack(image: &Path) -> std::path::PathBuf {
    run("xz", &["-1", "-k", "--block-size=1MiB", image.to_str().unwrap()]);
    image.with_extension("img.xz")
}

#[test]
fn a_cut_image_is_refused() {
    let cut = |image: &Path| OpenOptions::new().write(true).open(image).unwrap().set_len(ROOT_START + MIB).unwrap();
    check_refused("a.img", cut, "past the end");
}

#[test]
fn a_cut_xz_is_refused_at_once() {
    let cut = |image: &Path| {
        let packed = pack(image);
        let file = OpenOptions::new().write(true).open(&packed).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    };
    check_refused("a.img.xz", cut, "cut short at byte");
}

#[test]
fn a_damaged_xz_is_refused_with_the_place() {
    let damage = |image: &Path| {
        let packed = pack(image);
        let middle = fs::metadata(&packed).unwrap().len() / 2;
        write_at(&packed, middle, &[0x55; 64]);
    };
    check_refused("a.img.xz", damage, "damaged at about byte");
}

#[test]
fn a_partition_table_that_lies_is_refused() {
    check_refused("a.img", |image| write_at(image, 446 + 16 + 12, &[0xff; 4]), "past the end");
    check_refused("a.img", |image| write_at(image, 446 + 16 + 8, &2048u32.to_le_bytes()), "overlap");
}

#[test]
fn what_is_no_pi_image_is_refused() {
    check_refused("a.img", |image| write_at(image, 510, &[0, 0]), "no partition table");
    check_refused("a.img", |image| write_at(image, ROOT_START + 1080, &[0, 0]), "no ext4 root");
    check_refused("a.img", |image| write_at(image, ROOT_START + 1024 + 104, &[0; 16]), "no UUID");
    check_refused("a.img", |image| write_at(image, ROOT_START + 1024 + 99, &[0x80]), "unknown ext4 features");
    let fat = |image: &Path| write_at(image, MIB, &[0; 512]);
    check_refused("a.img", fat, "no FAT boot partition");
}

#[test]
fn a_file_that_does_not_match_its_checksum_is_refused() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    fs::write(bench.store().join("a.img.sha256"), format!("{}  a.img\n", "ab".repeat(32))).unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    assert!(running.import_failed().contains("does not match a.img.sha256"));
}

#[test]
fn an_ext4_without_a_system_is_refused() {
    let bench = Bench::new();
    let root = bench.path("root");
    fs::create_dir(&root).unwrap();
    make_image(&bench.store().join("a.img"), &root);
    let mut running = bench.start_in_folder();
    running.opened();
    assert!(running.import_failed().contains("holds no Linux system"));
}

/// Both ways to write.
fn check_no_room(name: &str) {
    [false, true].into_iter().for_each(|plain_writes| check_no_room_by(name, plain_writes));
}

/// A stick of 100 MiB that holds a store and one image file.
fn check_no_room_by(name: &str, plain_writes: bool) {
    let bench = Bench::new();
    let (root, plain) = (bench.path("root"), bench.path("a.img"));
    fs::create_dir(&root).unwrap();
    pi_root(&root);
    // Takes room once unpacked, and next to none before.
    fs::write(root.join("usr/share/doc/large"), vec![b'a'; 20 << 20]).unwrap();
    make_image(&plain, &root);
    pack(&plain);
    let stick = disk(&bench.path("disk"), 100 * MIB, "");
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", stick.node.to_str().unwrap()]);
    let point = bench.path("mounted");
    fs::create_dir(&point).unwrap();
    run("mount", &[stick.node.to_str().unwrap(), point.to_str().unwrap()]);
    fs::copy(bench.path(name), point.join(name)).unwrap();
    run("umount", &[point.to_str().unwrap()]);

    let mut running = Running::start(Options { extra_devices: vec![stick.name()], plain_writes, ..bench.options() });
    running.opened();
    let message = running.import_failed();
    assert!(message.contains("no room on the stick") && message.contains("MiB more"), "{message}");
    let left = fs::read_dir(bench.path("run/store/images")).unwrap().count();
    assert_eq!(left, 0, "something was left behind");
    running.stop();
}

#[test]
fn a_full_stick_is_told_with_what_is_missing() {
    check_no_room("a.img");
}

#[test]
fn a_stick_that_fills_up_on_the_way_keeps_its_reserve() {
    check_no_room("a.img.xz");
}

#[test]
fn an_unfinished_import_is_removed_and_begun_anew() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    let left = bench.store().join("images/.importing-7");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("root.ext4"), "half").unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    running.imported();
    assert!(!left.exists());
    let shown = running.seen.iter().any(|event| matches!(event, Event::ImportProgress { per_mille: 1000, .. }));
    assert!(shown, "{:?}", running.seen);
}

#[test]
fn a_client_is_made_while_another_image_is_imported() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    fs::copy(bench.store().join("a.img"), bench.store().join("b.img")).unwrap();
    OpenOptions::new().write(true).open(bench.store().join("b.img")).unwrap().write_all_at(b"other", 0).unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    let first = running.imported();
    running.create(&client(1, &first.id));
    let imports = running.seen.iter().filter(|event| matches!(event, Event::Imported { .. })).count();
    assert_eq!(imports, 1, "the client waited for the second import");
    running.imported();
}

#[test]
fn a_file_that_is_still_being_copied_is_left_alone() {
    let bench = Bench::new();
    let whole = fs::read(pi_image(bench.folder.path(), "a.img")).unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    let copy = fs::File::create(bench.store().join("a.img")).unwrap();
    // Grows by a piece at each of the worker's looks and between them.
    for (index, piece) in whole.chunks(whole.len() / 12).enumerate() {
        copy.write_all_at(piece, (index * (whole.len() / 12)) as u64).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    running.imported();
    assert!(!running.seen.iter().any(|event| matches!(event, Event::ImportFailed { .. })));
}

#[test]
fn a_write_protected_store_is_told() {
    let bench = Bench::new();
    let file = bench.path("disk");
    fs::File::create(&file).unwrap().set_len(100 * MIB).unwrap();
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", file.to_str().unwrap()]);
    let node = run("losetup", &["-r", "-f", "--show", file.to_str().unwrap()]);
    let stick = LoopDisk { node: node.trim().into(), file };
    let mut running = Running::start(Options { extra_devices: vec![stick.name()], ..bench.options() });
    let said = running.wait("StickUnusable", |event| match event {
        Event::StickUnusable { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert!(said.contains("write-protected"), "{said}");
}
