//! A recovery card written by the appliance onto a second disk: when it is
//! offered, to whom, and what is on it. Sticks are loop devices.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod eeprom_images;
mod store_support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rootstock::store::{CardEvent, Command, Event, Options};
use store_support::*;

const PARTITION: &str = "label: dos\nstart=2048, size=163840, type=83\n";

/// A stick with room for a store and, if wanted, the folder with the official files.
fn stick(bench: &Bench, files: Option<&[(&str, Vec<u8>)]>) -> LoopDisk {
    let stick = disk(&bench.path("disk"), 400 * MIB, PARTITION);
    let tree = bench.path("tree");
    fs::create_dir_all(&tree).unwrap();
    if let Some(files) = files {
        fs::create_dir_all(tree.join("eeprom")).unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(tree.join("eeprom").join(name), bytes).unwrap());
    }
    let partition = format!("{}p1", stick.node.display());
    run("mke2fs", &["-q", "-t", "ext4", "-d", tree.to_str().unwrap(), &partition]);
    stick
}

fn official() -> Vec<(&'static str, Vec<u8>)> {
    let pieeprom = eeprom_images::pi4(eeprom_images::PI4_CONFIG);
    vec![("pieeprom.bin", pieeprom), ("recovery.bin", eeprom_images::noise(100_000))]
}

fn start(bench: &Bench, disks: &[&LoopDisk]) -> Running {
    let extra_devices = disks.iter().map(|disk| disk.name()).collect();
    let options = Options { extra_devices, minimum_store_bytes: 128 * MIB, ..bench.options() };
    let mut running = Running::start(options);
    running.wait("NeedsConfirmation", |event| matches!(event, Event::NeedsConfirmation { .. }).then_some(()));
    running.send(Command::Prepare);
    running.opened();
    running
}

/// The last word about a card that nobody asked for yet, such as one before the store was made, or the next.
fn card(running: &mut Running) -> CardEvent {
    let word = |event: &Event| match event {
        Event::Card(CardEvent::Progress { .. }) => None,
        Event::Card(card) => Some(card.clone()),
        _ => None,
    };
    let card = running.seen.iter().rev().find_map(word).unwrap_or_else(|| running.wait("Card", word));
    running.seen.retain(|event| !matches!(event, Event::Card(_)));
    card
}

/// Whether a card is offered at all, after the store's own look at everything.
fn offered(running: &mut Running) -> bool {
    // The store looks at all disks before it answers the next command.
    running.send(Command::Operate(7, Box::new(rootstock::store::operate::Operation::Stick)));
    running.wait("Operated", |event| matches!(event, Event::Operated { .. }).then_some(()));
    running.seen.iter().any(|event| matches!(event, Event::Card(CardEvent::Offered { .. })))
}

/// Another disk that nobody is asked about.
fn offered_since(running: &mut Running) -> bool {
    running.seen.clear();
    offered(running)
}

fn untouched(disk: &LoopDisk, noise: &[u8]) -> bool {
    let mut read = vec![0; noise.len()];
    fs::File::open(&disk.file).unwrap().read_exact_at(&mut read, 0).unwrap();
    read == noise
}

fn filled(disk: &LoopDisk) -> Vec<u8> {
    let noise = eeprom_images::noise(1 << 16);
    OpenOptions::new().write(true).open(&disk.node).unwrap().write_all_at(&noise, 0).unwrap();
    noise
}

#[test]
fn a_confirmed_card_is_written_and_foreign_tools_read_the_files_on_it() {
    let bench = Bench::new();
    let (stick, spare) = (stick(&bench, Some(&official())), disk(&bench.path("spare"), 64 * MIB, ""));
    let noise = filled(&spare);
    let mut running = start(&bench, &[&stick, &spare]);
    let CardEvent::Offered { name, bytes, boards } = card(&mut running) else { panic!("{:?}", running.seen) };
    assert!(name.contains(&spare.name()) && bytes == 64 * MIB && boards == "Pi 4, 400", "{name} {bytes} {boards}");
    assert!(untouched(&spare, &noise), "written unasked");
    running.send(Command::WriteCard);
    assert!(matches!(card(&mut running), CardEvent::Written { .. }));
    // Not offered again while it is plugged in, and a second word writes nothing.
    running.send(Command::WriteCard);
    assert!(!offered_since(&mut running));
    assert!(!running.seen.iter().any(|event| matches!(event, Event::Card(_))), "{:?}", running.seen);
    running.stop();

    let fat = format!("{}@@1M", spare.file.display());
    let listing = run("mdir", &["-i", &fat]);
    assert!(listing.contains("3 files"), "{listing}");
    let copy = bench.path("recovery.bin");
    run("mcopy", &["-i", &fat, "::recovery.bin", copy.to_str().unwrap()]);
    assert!(fs::read(&copy).unwrap() == eeprom_images::noise(100_000));
    run("mcopy", &["-i", &fat, "::pieeprom.bin", bench.path("out.bin").to_str().unwrap()]);
    let image = rootstock::eeprom::image::Image::parse(fs::read(bench.path("out.bin")).unwrap()).unwrap();
    assert!(String::from_utf8_lossy(image.config()).contains("BOOT_ORDER=0xf21"));
    run("sfdisk", &["-V", spare.node.to_str().unwrap()]);
}

#[test]
fn only_one_spare_disk_beside_the_right_files_is_ever_offered() {
    let spare = |bench: &Bench, name: &str| disk(&bench.path(name), 64 * MIB, "");
    // No folder.
    let bench = Bench::new();
    let (no_files, one) = (stick(&bench, None), spare(&bench, "one"));
    assert!(!offered(&mut start(&bench, &[&no_files, &one])), "without files");
    // Two disks: a person could mean either.
    let bench = Bench::new();
    let (with_files, one, two) = (stick(&bench, Some(&official())), spare(&bench, "one"), spare(&bench, "two"));
    assert!(!offered(&mut start(&bench, &[&with_files, &one, &two])), "two disks");
    // No disk but the stick itself.
    let bench = Bench::new();
    let alone = stick(&bench, Some(&official()));
    assert!(!offered(&mut start(&bench, &[&alone])), "the store's own disk");
    // Another store, such as a backup.
    let bench = Bench::new();
    let (with_files, backup) = (stick(&bench, Some(&official())), spare(&bench, "backup"));
    let mut running = start(&bench, &[&with_files]);
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", backup.node.to_str().unwrap()]);
    running.stop();
    let options = Options { extra_devices: vec![with_files.name(), backup.name()], ..bench.options() };
    running = Running::start(options);
    running.opened();
    assert!(!offered(&mut running), "a store");
    // A disk with images on it.
    let bench = Bench::new();
    let (with_files, images) = (stick(&bench, Some(&official())), spare(&bench, "images"));
    let tree = bench.path("images-tree");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("a.img"), vec![0; 4096]).unwrap();
    run("mke2fs", &["-q", "-t", "ext4", "-d", tree.to_str().unwrap(), images.node.to_str().unwrap()]);
    assert!(!offered(&mut start(&bench, &[&with_files, &images])), "images");
}

#[test]
fn files_that_will_not_do_are_told_and_nothing_is_offered() {
    let bench = Bench::new();
    let (stick, spare) =
        (stick(&bench, Some(&[("pieeprom.bin", vec![0; 1000])])), disk(&bench.path("s"), 64 * MIB, ""));
    let mut running = start(&bench, &[&stick, &spare]);
    let CardEvent::Failed { message, .. } = card(&mut running) else { panic!("{:?}", running.seen) };
    assert!(message.contains("1000 bytes"), "{message}");
    assert!(!offered(&mut running));
}

#[test]
fn a_disk_that_was_changed_since_the_question_is_not_written() {
    let bench = Bench::new();
    let (stick, spare) = (stick(&bench, Some(&official())), disk(&bench.path("spare"), 64 * MIB, ""));
    let mut running = start(&bench, &[&stick, &spare]);
    assert!(matches!(card(&mut running), CardEvent::Offered { .. }));
    // Pulled, and another put into its place before the press arrives.
    spare.pull();
    let other = disk(Path::new(&bench.path("other")), 80 * MIB, "");
    let noise = filled(&other);
    running.send(Command::WriteCard);
    assert_eq!(card(&mut running), CardEvent::Gone);
    // The store answers in order: what would be written has begun by now.
    assert!(!offered_since(&mut running));
    running.stop();
    assert!(untouched(&other, &noise));
}

#[test]
fn a_disk_that_brings_the_files_itself_becomes_the_card_and_is_not_read_as_what_it_was() {
    let bench = Bench::new();
    let spare = disk(&bench.path("spare"), 64 * MIB, "label: dos\nstart=2048, type=83\n");
    let tree = bench.path("spare-tree");
    fs::create_dir_all(tree.join("eeprom")).unwrap();
    official().iter().for_each(|(name, bytes)| fs::write(tree.join("eeprom").join(name), bytes).unwrap());
    run("mke2fs", &["-q", "-t", "ext4", "-d", tree.to_str().unwrap(), &format!("{}p1", spare.node.display())]);
    let stick = stick(&bench, None);
    let mut running = start(&bench, &[&stick, &spare]);
    assert!(matches!(card(&mut running), CardEvent::Offered { .. }));
    running.send(Command::WriteCard);
    assert!(matches!(card(&mut running), CardEvent::Written { .. }));
    assert!(!offered_since(&mut running));
    let complaint = running.seen.iter().find(|event| matches!(event, Event::Problem { .. } | Event::Card(_)));
    assert_eq!(complaint, None);
    running.stop();
    let fat = format!("{}@@1M", spare.file.display());
    assert!(run("mdir", &["-b", "-i", &fat]).contains("recovery.bin"));
}

#[test]
fn whoever_has_no_store_yet_gets_a_card_too_and_never_of_the_only_disk() {
    let bench = Bench::new();
    let (stick, spare) = (stick(&bench, Some(&official())), disk(&bench.path("spare"), 64 * MIB, ""));
    let options = |disks: &[&LoopDisk]| Options {
        extra_devices: disks.iter().map(|disk| disk.name()).collect(),
        minimum_store_bytes: 128 * MIB,
        ..bench.options()
    };
    let mut running = Running::start(options(&[&stick]));
    running.wait("NeedsConfirmation", |event| matches!(event, Event::NeedsConfirmation { .. }).then_some(()));
    running.send(Command::WriteCard);
    assert!(!offered(&mut running), "it brought the files");
    running.stop();
    let mut running = Running::start(options(&[&stick, &spare]));
    let CardEvent::Offered { name, .. } = card(&mut running) else { panic!("{:?}", running.seen) };
    assert!(name.contains(&spare.name()), "{name}");
    running.send(Command::WriteCard);
    assert!(matches!(card(&mut running), CardEvent::Written { .. }));
    // The store's question is still about the stick.
    running.send(Command::Prepare);
    running.opened();
    running.stop();
    assert!(run("mdir", &["-b", "-i", &format!("{}@@1M", spare.file.display())]).contains("recovery.bin"));
}

#[test]
fn a_disk_that_could_be_a_backup_is_offered_as_both() {
    let bench = Bench::new();
    let (stick, spare) = (stick(&bench, Some(&official())), disk(&bench.path("spare"), 400 * MIB, ""));
    let mut running = start(&bench, &[&stick, &spare]);
    assert!(matches!(card(&mut running), CardEvent::Offered { .. }));
    let backup = running.seen.iter().position(|event| matches!(event, Event::BackupOffered { .. }));
    assert!(backup.is_some(), "{:?}", running.seen);
    // What was chosen last counts: as a card it is no backup.
    running.send(Command::WriteCard);
    running.wait("BackupGone", |event| (*event == Event::BackupGone).then_some(()));
    running.send(Command::Backup);
    let refused = running.wait("BackupFailed", |event| match event {
        Event::Problem { message, .. } | Event::BackupFailed { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert!(refused.contains("no second stick"), "{refused}");
}

#[test]
fn a_link_in_the_folder_is_not_followed() {
    let bench = Bench::new();
    let stick = disk(&bench.path("disk"), 400 * MIB, PARTITION);
    let tree = bench.path("tree");
    fs::create_dir_all(tree.join("eeprom")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", tree.join("eeprom/pieeprom.bin")).unwrap();
    let partition = format!("{}p1", stick.node.display());
    run("mke2fs", &["-q", "-t", "ext4", "-d", tree.to_str().unwrap(), &partition]);
    let spare = disk(&bench.path("spare"), 64 * MIB, "");
    let CardEvent::Failed { message, .. } = card(&mut start(&bench, &[&stick, &spare])) else { panic!() };
    assert!(message.contains("no regular file"), "{message}");
}
