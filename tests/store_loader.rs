//! The EEPROM update of a client that netboots: into its own boot tree, shown,
//! and out again; and what is refused before a byte is written.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod eeprom_images;
mod store_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rootstock::client::Role;
use rootstock::eeprom::order::BootOrder;
use rootstock::eeprom::{self, image::Image};
use rootstock::store::operate::perform::perform;
use rootstock::store::operate::site::Site;
use rootstock::store::operate::{Operation, Outcome};
use rootstock::store::{Options, Surroundings};
use store_support::*;

static GO: AtomicBool = AtomicBool::new(false);

/// A store on an ext4 of its own, with one client: a Pi 4.
fn shop() -> Bench {
    let bench = Bench::new();
    pi_image(&bench.store_on(&bench.path("disk"), 256 * MIB), "a.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let image = running.imported().id;
    running.create(&client(1, &image));
    running.stop();
    bench
}

fn order(bench: &Bench, operation: &Operation) -> Result<Outcome, String> {
    let Options { appliance, dns, .. } = bench.options();
    let around = Surroundings { appliance, dns, stop: Arc::default() };
    let site = Site { store: bench.store(), run: bench.path("run"), slot: "test", around };
    perform(&site, operation, &GO, None).map_err(|error| told(&error))
}

fn told(error: &dyn std::error::Error) -> String {
    let cause = error.source().map_or(String::new(), |cause| format!(": {}", told(cause)));
    format!("{error}{cause}")
}

fn role() -> Role {
    Role::numbered(1)
}

/// The pair of files that `rootstock eeprom` makes of official ones.
fn update(bench: &Bench, pieeprom: &[u8]) -> PathBuf {
    let (from, out) = (bench.path("from"), bench.path("update"));
    [&from, &out].iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    fs::write(from.join("pieeprom.bin"), pieeprom).unwrap();
    eeprom::command::make_files(&from, BootOrder::SD_THEN_NETWORK, &out).unwrap();
    out
}

fn put(bench: &Bench, files: &Path) -> Result<Outcome, String> {
    order(bench, &Operation::Eeprom { role: role(), files: Some(files.to_owned()) })
}

fn waits(bench: &Bench) -> bool {
    let outcome = order(bench, &Operation::Client { role: role() }).unwrap();
    let Outcome::Client(entry) = outcome else { panic!("{outcome:?}") };
    entry.eeprom_update
}

/// What TFTP would serve of the boot tree, by a server that opens the store again.
fn served(bench: &Bench, name: &str) -> Option<Vec<u8>> {
    let mut running = bench.start_in_folder();
    let (_, clients) = running.opened();
    let bytes = fs::read(clients[0].boot.join(name)).ok();
    running.stop();
    bytes
}

#[test]
fn an_update_lies_in_that_clients_boot_tree_until_it_is_taken_out() {
    let bench = shop();
    let files = update(&bench, &eeprom_images::pi4(eeprom_images::PI4_CONFIG));
    assert!(!waits(&bench));
    put(&bench, &files).unwrap();
    assert!(waits(&bench));
    for name in ["pieeprom.upd", "pieeprom.sig"] {
        assert_eq!(served(&bench, name), Some(fs::read(files.join(name)).unwrap()), "{name}");
    }
    let image = Image::parse(served(&bench, "pieeprom.upd").unwrap()).unwrap();
    assert!(String::from_utf8_lossy(image.config()).contains("BOOT_ORDER=0xf21"));
    // Again is the same, and the image that all clients share has none of it.
    put(&bench, &files).unwrap();
    let images = fs::read_dir(bench.store().join("images")).unwrap().next().unwrap().unwrap().path();
    assert!(!images.join("boot/pieeprom.upd").exists());

    order(&bench, &Operation::Eeprom { role: role(), files: None }).unwrap();
    assert!(!waits(&bench) && served(&bench, "pieeprom.upd").is_none() && served(&bench, "pieeprom.sig").is_none());
    // Nothing there is nothing to do.
    order(&bench, &Operation::Eeprom { role: role(), files: None }).unwrap();
}

#[test]
fn what_could_be_a_clients_last_update_is_refused() {
    let bench = shop();
    let pi4 = eeprom_images::pi4(eeprom_images::PI4_CONFIG);
    let check = |change: &dyn Fn(&Path), told: &str| {
        let files = update(&bench, &pi4);
        change(&files);
        let refusal = put(&bench, &files).unwrap_err();
        assert!(refusal.contains(told), "{refusal}, not {told}");
        assert!(!waits(&bench), "{told}");
    };
    check(&|files| fs::remove_file(files.join("pieeprom.sig")).unwrap(), "pieeprom.sig");
    check(&|files| fs::write(files.join("pieeprom.sig"), "0").unwrap(), "is not the signature");
    check(&|files| fs::write(files.join("pieeprom.upd"), &pi4[1..]).unwrap(), "is no loader's image");
    // Well made, but for the other family.
    check(
        &|files| {
            drop(fs::remove_dir_all(files).map(|()| update(&bench, &eeprom_images::pi5(eeprom_images::PI5_CONFIG))))
        },
        "it is for Pi 5",
    );
    // Signed, and never tries the network.
    let local = |files: &Path| {
        let image = eeprom_images::pi4("[all]\nBOOT_ORDER=0xf1\n");
        fs::write(files.join("pieeprom.upd"), &image).unwrap();
        let signature = eeprom::signature::make(&image, 1_790_000_000, eeprom::Soc::Bcm2711);
        fs::write(files.join("pieeprom.sig"), signature).unwrap();
    };
    check(&local, "never tries the network");
}
