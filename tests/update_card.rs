//! Updates on a simulated SD card: power cuts at every write, and what a wrong file gets.
//!
//! The card keeps what was written before its last flush, and of what came later any
//! sectors, as a card does that has a cache and loses its power. The firmware's choice
//! is a small model of what Raspberry Pi documents: `autoboot.txt` in the first FAT
//! partition names the partition; the one-shot flag "tryboot" is gone with the power.

#![allow(clippy::unwrap_used)]

#[path = "support/random.rs"]
mod random;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, Cursor, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rootstock::init::fat;
use rootstock::init::mbr::{BootId, Extent, find_partition};
use rootstock::update::Slot;
use rootstock::update::autoboot;
use rootstock::update::card::{Card, CardError, DISK_SIGNATURE, Layout, begins_with, holds, switch_to, write_slot};
use sha2::{Digest, Sha256};

const SECTOR: usize = 512;
const SLOT_BYTES: u64 = 128 << 10;
const SETTINGS: Extent = Extent { start: 64 << 10, length: 64 << 10 };
const SLOTS: [Extent; 2] =
    [Extent { start: 128 << 10, length: SLOT_BYTES }, Extent { start: 256 << 10, length: SLOT_BYTES }];
const TOML: &[u8] = b"[enrol]\nwindow = 60\n";

/// A card whose power may go at the `fuse`th sector that is written.
struct Simulated {
    medium: RefCell<Vec<u8>>,
    /// What a reader sees: the medium with the cache over it.
    seen: RefCell<Vec<u8>>,
    /// Sectors written since the last flush, in their order.
    cache: RefCell<Vec<(usize, [u8; SECTOR])>>,
    written: Cell<u64>,
    fuse: Option<u64>,
}

impl Simulated {
    fn new(medium: Vec<u8>, fuse: Option<u64>) -> Self {
        let seen = RefCell::new(medium.clone());
        Self { medium: RefCell::new(medium), seen, cache: RefCell::default(), written: Cell::new(0), fuse }
    }

    /// What lies on it when the power comes back: of the sectors in the cache any.
    fn after_cut(&self, random: &mut random::Random) -> Vec<u8> {
        let mut medium = self.medium.borrow().clone();
        for (sector, bytes) in self.cache.borrow().iter() {
            if random.below(2) == 0 {
                medium[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(bytes);
            }
        }
        medium
    }

    fn has_power(&self) -> io::Result<()> {
        match self.fuse {
            Some(fuse) if self.written.get() >= fuse => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }
}

impl FileExt for Simulated {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.has_power()?;
        let seen = self.seen.borrow();
        let from = (at as usize).min(seen.len());
        let length = buffer.len().min(seen.len() - from);
        buffer[..length].copy_from_slice(&seen[from..from + length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        assert!(
            (at as usize).is_multiple_of(SECTOR) && bytes.len().is_multiple_of(SECTOR),
            "whole sectors: {} at {at}",
            bytes.len()
        );
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            self.has_power()?;
            self.written.set(self.written.get() + 1);
            let number = at as usize / SECTOR + index;
            self.seen.borrow_mut()[number * SECTOR..(number + 1) * SECTOR].copy_from_slice(sector);
            self.cache.borrow_mut().push((number, sector.try_into().unwrap()));
        }
        Ok(bytes.len())
    }
}

impl Card for Simulated {
    fn flush(&self) -> io::Result<()> {
        self.has_power()?;
        for (sector, bytes) in self.cache.borrow_mut().drain(..) {
            self.medium.borrow_mut()[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.medium.borrow().len() as u64)
    }
}

fn system(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed).wrapping_add((n >> 8) as u8) | 1).collect()
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A card as `board/image` lays one out, with `running` in the first slot.
fn card(running: &[u8]) -> Vec<u8> {
    let mut fat = Cursor::new(vec![0; SETTINGS.length as usize]);
    fatfs::format_volume(&mut fat, fatfs::FormatVolumeOptions::new()).unwrap();
    let system = fatfs::FileSystem::new(&mut fat, fatfs::FsOptions::new()).unwrap();
    let shipped = include_bytes!("../board/autoboot.txt");
    for (name, bytes) in [("autoboot.txt", &shipped[..]), ("rootstock.toml", TOML)] {
        system.root_dir().create_file(name).unwrap().write_all(bytes).unwrap();
    }
    drop(system);
    let mut card = vec![0; 384 << 10];
    card[440..444].copy_from_slice(&DISK_SIGNATURE.to_le_bytes());
    for (entry, extent) in [SETTINGS, SLOTS[0], SLOTS[1]].iter().enumerate() {
        let at = 446 + 16 * entry;
        card[at + 4] = 0x0e;
        card[at + 8..at + 12].copy_from_slice(&(extent.start as u32 / 512).to_le_bytes());
        card[at + 12..at + 16].copy_from_slice(&(extent.length as u32 / 512).to_le_bytes());
    }
    card[510..512].copy_from_slice(&[0x55, 0xaa]);
    card[SETTINGS.start as usize..][..SETTINGS.length as usize].copy_from_slice(fat.get_ref());
    card[SLOTS[0].start as usize..][..running.len()].copy_from_slice(running);
    card
}

/// The firmware: which slot it starts, by the partition table and `autoboot.txt` alone.
fn firmware(medium: &[u8], tryboot: bool) -> Slot {
    let disk = Simulated::new(medium.to_vec(), None);
    let id = BootId { signature: DISK_SIGNATURE, partition: 1 };
    let settings = find_partition(&medium[..512], medium.len() as u64, id).unwrap();
    let text = fat::read_file(&disk, settings, "autoboot.txt", 512).unwrap().unwrap().bytes;
    let (partition, a_b) = autoboot::read(&text, tryboot);
    assert!(a_b, "without it tryboot.txt would be looked for");
    Slot::of_partition(partition.unwrap()).unwrap()
}

fn in_slot(medium: &[u8], slot: Slot) -> &[u8] {
    let extent = SLOTS[usize::from(slot == Slot::B)];
    &medium[extent.start as usize..][..extent.length as usize]
}

/// One update from its first write to its being kept; stops where the power goes.
fn update(card: &Simulated, new: &[u8]) -> Result<(), CardError> {
    let running = Layout::read(card)?.autoboot.default;
    write_slot(card, running, new, new.len() as u64, &sha(new), |_| {})?;
    // The restart with the flag, and the new system's self-test.
    switch_to(card, running.other())
}

#[test]
fn after_a_cut_at_every_sector_a_whole_system_starts_and_the_update_can_be_done_again() {
    let (old, new) = (system(1, 90_000), system(2, 120_333));
    let fresh = card(&old);
    let whole = Simulated::new(fresh.clone(), None);
    update(&whole, &new).unwrap();
    let sectors = whole.written.get();
    assert_eq!(firmware(&whole.medium.borrow(), false), Slot::B);
    let (mut kept, mut former) = (0, 0);
    for fuse in 0..=sectors + 1 {
        let mut random = random::Random(fuse + 1);
        let cut = Simulated::new(fresh.clone(), Some(fuse));
        let result = update(&cut, &new);
        assert_eq!(result.is_err(), fuse <= sectors, "the power went at sector {fuse} of {sectors}");
        // Each cut loses its cache in three ways.
        for _ in 0..3 {
            let medium = cut.after_cut(&mut random);
            let slot = firmware(&medium, false);
            let expected = if slot == Slot::A { &old } else { &new };
            assert_eq!(&in_slot(&medium, slot)[..expected.len()], &expected[..], "cut {fuse}: slot {slot}");
            if slot == Slot::A {
                former += 1
            } else {
                kept += 1
            }
            assert!(medium[SETTINGS.start as usize..].windows(TOML.len()).any(|at| at == TOML), "the settings survive");
            assert_eq!(&in_slot(&medium, Slot::A)[..old.len()], &old[..], "what ran is never written");

            let again = Simulated::new(medium, None);
            if slot == Slot::A {
                update(&again, &new).unwrap();
            }
            let medium = again.medium.borrow();
            assert_eq!(firmware(&medium, false), Slot::B);
            assert_eq!(&in_slot(&medium, Slot::B)[..new.len()], &new[..]);
        }
    }
    assert!(former > 600 && kept >= 3, "{former} cuts left the former, {kept} the new");
}

#[test]
fn a_slot_that_is_half_written_is_no_file_system() {
    let (old, new) = (system(1, 90_000), system(2, 120_333));
    let mut fresh = card(&old);
    fresh[SLOTS[1].start as usize..][..70_000].copy_from_slice(&system(3, 70_000));
    // After the first flush, which voids the slot, up to the sector that makes it whole.
    for fuse in 2..235 {
        let cut = Simulated::new(fresh.clone(), Some(fuse));
        assert!(write_slot(&cut, Slot::A, &new[..], new.len() as u64, &sha(&new), |_| {}).is_err());
        let medium = cut.after_cut(&mut random::Random(fuse));
        assert_eq!(in_slot(&medium, Slot::B)[..SECTOR], [0; SECTOR], "cut {fuse}");
    }
}

#[test]
fn a_trial_that_fails_or_hangs_comes_back_to_what_ran() {
    let (old, new) = (system(1, 90_000), system(2, 120_000));
    let card = Simulated::new(card(&old), None);
    write_slot(&card, Slot::A, &new[..], new.len() as u64, &sha(&new), |_| {}).unwrap();
    let medium = card.medium.borrow().clone();
    assert_eq!(firmware(&medium, true), Slot::B, "tried once,");
    assert_eq!(firmware(&medium, false), Slot::A, "and without the flag never again");
    let layout = Layout::read(&card).unwrap();
    assert!(!begins_with(&card, layout.slot(Slot::A), &new[..]), "too short to tell, or another");
    assert!(holds(&card, layout.slot(Slot::B), new.len() as u64, &sha(&new)), "which is how a failed trial is known");
}

#[test]
fn an_update_and_the_way_back_use_the_slots_in_turn() {
    let card = Simulated::new(card(&system(1, 1000)), None);
    for (n, expected) in (2..8).zip([Slot::B, Slot::A].into_iter().cycle()) {
        update(&card, &system(n, 3000 * usize::from(n))).unwrap();
        assert_eq!(firmware(&card.medium.borrow(), false), expected);
    }
}

#[test]
fn each_wrong_payload_is_refused_and_the_card_starts_as_before() {
    let (old, new) = (system(1, 90_000), system(2, 120_000));
    let check = |payload: &[u8], bytes: u64, running, expected: &str| {
        let card = Simulated::new(card(&old), None);
        let error = write_slot(&card, running, payload, bytes, &sha(&new), |_| {}).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(firmware(&card.medium.borrow(), false), Slot::A);
        assert_eq!(&in_slot(&card.medium.borrow(), Slot::A)[..old.len()], &old[..]);
    };
    check(&new[..90_000], 120_000, Slot::A, "the update file is cut short");
    check(&new, 119_999, Slot::A, "the SD card did not keep what was written to it; it is worn out");
    check(&new, SLOT_BYTES + 1, Slot::A, "the update is larger than the slot");
    check(&new, 120_000, Slot::B, "the SD card starts another slot than the one that runs");
}

#[test]
fn a_card_that_was_edited_is_told_and_not_written() {
    let check = |edit: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut medium = card(&system(1, 1000));
        edit(&mut medium);
        let before = medium.clone();
        let card = Simulated::new(medium, None);
        let new = system(2, 3000);
        assert_eq!(update(&card, &new).unwrap_err().to_string(), expected);
        assert!(*card.medium.borrow() == before && card.cache.borrow().is_empty());
    };
    let replace = |medium: &mut Vec<u8>, old: &[u8], new: &[u8]| {
        let at = medium.windows(old.len()).position(|at| at == old).unwrap();
        medium[at..at + new.len()].copy_from_slice(new);
    };
    check(
        &|m| replace(m, b"tryboot_a_b=1", b"tryboot_a_b=0"),
        "autoboot.txt does not switch whole slots (tryboot_a_b=1)",
    );
    check(&|m| replace(m, b"boot_partition=3", b"boot_partition=2"), "autoboot.txt names one slot twice");
    check(&|m| replace(m, b"boot_partition=2", b"boot_partition=4"), "autoboot.txt names no slot of this card");
    check(&|m| replace(m, b"AUTOBOOTTXT", b"AUTOBOOTOLD"), "the SD card has no autoboot.txt");
    check(&|m| m[440] ^= 1, "the SD card has no slots: another disk");
    check(&|m| m[446 + 32 + 12..446 + 32 + 16].fill(0), "the SD card has no slots: partition 3 is empty");
}

/// `rootstock update make` and what a person, and `ssh-keygen`, see of its file.
#[test]
fn a_file_is_made_signed_shown_verified_and_refused_when_tampered_with() {
    let desk = tempfile::tempdir().unwrap();
    let path = |name: &str| desk.path().join(name);
    let run = |program: &str, arguments: &[&str], input: Option<&[u8]>| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(desk.path());
        if let Some(input) = input {
            fs::write(path("input"), input).unwrap();
            command.stdin(fs::File::open(path("input")).unwrap());
        }
        let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}; run: board/deps net"));
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let rootstock = |arguments: &[&str]| run(env!("CARGO_BIN_EXE_rootstock"), arguments, None);

    let mut fat = Cursor::new(vec![0; 4 << 20]);
    fatfs::format_volume(&mut fat, fatfs::FormatVolumeOptions::new()).unwrap();
    let slot = fatfs::FileSystem::new(&mut fat, fatfs::FsOptions::new()).unwrap();
    for (name, text) in [
        ("version.txt", "0.3.1\n"),
        ("boards.txt", "raspberrypi,4-model-b\n"),
        ("family.txt", "pi3-4\n"),
        ("config.txt", "x\n"),
    ] {
        slot.root_dir().create_file(name).unwrap().write_all(text.as_bytes()).unwrap();
    }
    drop(slot);
    fs::write(path("slot.img"), fat.get_ref()).unwrap();
    for name in ["key", "other"] {
        assert!(run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", name], None).0);
    }
    let (made, told) = rootstock(&["update", "make", "--slot", "slot.img", "--key", "key"]);
    assert!(made && told.contains("rootstock-0.3.1-pi3-4.update"), "{told}");
    let (_, shown) = rootstock(&["update", "show", "rootstock-0.3.1-pi3-4.update"]);
    for line in ["version  0.3.1", "boards   raspberrypi,4-model-b", "config.txt", "BEGIN SSH SIGNATURE"] {
        assert!(shown.contains(line), "{shown}");
    }
    let verify = |file: &str, key: &str| rootstock(&["update", "verify", file, "--key", key]);
    assert!(verify("rootstock-0.3.1-pi3-4.update", "key.pub").1.contains("good, version 0.3.1"));

    // A foreign program judges the signature.
    let good = fs::read(path("rootstock-0.3.1-pi3-4.update")).unwrap();
    let word = |at: usize| u32::from_le_bytes(good[at..at + 4].try_into().unwrap()) as usize;
    let (manifest, signature) = (&good[16..16 + word(8)], &good[16 + word(8)..16 + word(8) + word(12)]);
    fs::write(path("signature"), signature).unwrap();
    let public = fs::read_to_string(path("key.pub")).unwrap();
    fs::write(path("signers"), format!("me {public}")).unwrap();
    let check = ["-Y", "verify", "-f", "signers", "-I", "me", "-n", "rootstock-update", "-s", "signature"];
    let (good_signature, told) = run("ssh-keygen", &check, Some(manifest));
    assert!(good_signature, "{told}");

    let refused = |bytes: &[u8], key: &str, expected: &str| {
        fs::write(path("bad.update"), bytes).unwrap();
        let (good, told) = verify("bad.update", key);
        assert!(!good && told.contains(expected), "{expected:?} in {told:?}");
    };
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    refused(&changed(40), "key.pub", "the signature is not of this update");
    refused(&changed(good.len() - 100), "key.pub", "the update file is damaged: its hash is wrong");
    refused(&good[..good.len() - 1], "key.pub", "it is cut short");
    refused(&[&good[..], b"x"].concat(), "key.pub", "something follows its end");
    refused(&good, "other.pub", "signed by an unknown key");
    refused(b"hello", "key.pub", "it is no update file");
    fs::write(path("tampered.pub"), &public[..60]).unwrap();
    refused(&good, "tampered.pub", "update.pub is damaged");
    assert!(
        rootstock(&["update", "make", "--slot", "slot.img", "--key", "key.pub"]).1.contains("no OpenSSH private key")
    );
    assert!(!Path::new(&path("rootstock-0.3.1-pi3-4.update.tmp")).exists());
}
