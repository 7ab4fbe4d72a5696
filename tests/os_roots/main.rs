//! The adaptation rules on roots made of real packages: each system that a
//! person may put on the stick, what the rules change in it, and that nothing
//! else changes. `ROOTSTOCK_BLESS=1 cargo test --test os_roots` accepts a
//! changed picture in `expected/`; read it first.
//!
//! The packages come by `board/fetch` (pinned, cached); what Debian has not is
//! made after public sources in `systems.rs`. Needs root for owners, network
//! for the first run, and qemu-user for the programs of the packages.

#![allow(clippy::unwrap_used)]

mod programs;
mod systems;
mod tree;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rootstock::client::{Client, Mode, Model, Role};
use rootstock::store::personalise::{self, Applied, Context, Profile, Tree};
use systems::System;

const MAC: &str = "dc:a6:32:01:36:c2";

fn client() -> Client {
    Client {
        role: Role::numbered(1),
        mac: MAC.parse().unwrap(),
        serial: None,
        revision: None,
        model: Model::Pi4B,
        address: Ipv4Addr::new(192, 168, 77, 10),
        image: "image-1".parse().unwrap(),
        mode: Mode::Persistent,
        volume_size: None,
        quota: None,
        export_id: 1,
    }
}

fn profile() -> Profile {
    Profile { authorized_keys: Some("ssh-ed25519 AAAA person@laptop\n".into()), userconf: None, files: vec![] }
}

/// One system, made and adapted.
struct Adapted {
    root: PathBuf,
    applied: Applied,
    changes: String,
    _folder: tempfile::TempDir,
}

fn adapt(system: &System, profile: &Profile) -> Adapted {
    let folder = tempfile::tempdir().unwrap();
    let (root, boot) = (folder.path().join("root"), folder.path().join("boot"));
    system.make(&root, &boot);
    let before = (tree::read(&root), tree::read(&boot));
    let client = client();
    let context = Context {
        client: &client,
        appliance: Ipv4Addr::new(192, 168, 77, 1),
        dns: &[],
        profile,
        root: &Tree::open(&root).unwrap(),
        boot: &Tree::open(&boot).unwrap(),
        today: 20_000,
    };
    let applied = personalise::apply(&context).unwrap();
    assert!(applied.failed.is_empty(), "{}: {:?}", system.name, applied.failed);
    let changes = format!(
        "rules: {}\n\n{}{}",
        applied.acted.join(" "),
        tree::changes("", &before.0, &tree::read(&root)),
        tree::changes("BOOT/", &before.1, &tree::read(&boot)),
    );
    Adapted { root, applied, changes, _folder: folder }
}

fn check(system: &System) -> Adapted {
    let adapted = adapt(system, &profile());
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/os_roots/expected/{}.txt", system.name));
    if std::env::var_os("ROOTSTOCK_BLESS").is_some() {
        std::fs::write(&expected, &adapted.changes).unwrap();
    }
    let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
    assert!(
        adapted.changes == wanted,
        "{} differs (read it, then ROOTSTOCK_BLESS=1):\n{}",
        expected.display(),
        adapted.changes
    );
    adapted
}

#[test]
fn raspberry_pi_os_trixie_is_changed_where_the_rules_say() {
    let adapted = check(&systems::RASPIOS_TRIXIE);
    programs::cloud_init_leaves_the_client_alone(&adapted.root);
}

#[test]
fn raspberry_pi_os_bookworm_is_changed_where_the_rules_say() {
    check(&systems::RASPIOS_BOOKWORM);
}

#[test]
fn raspberry_pi_os_legacy_is_changed_where_the_rules_say() {
    check(&systems::RASPIOS_LEGACY);
}

#[test]
fn debian_is_changed_where_the_rules_say() {
    let adapted = check(&systems::DEBIAN);
    programs::cloud_init_leaves_the_client_alone(&adapted.root);
    programs::ifupdown_leaves_the_wired_interface(&adapted.root);
}

#[test]
fn ubuntu_for_the_pi_is_changed_where_the_rules_say() {
    let adapted = check(&systems::UBUNTU);
    programs::cloud_init_leaves_the_client_alone(&adapted.root);
}

#[test]
fn a_system_of_another_kind_gets_its_name_and_nothing_else() {
    let adapted = adapt(&systems::OTHER, &Profile::default());
    assert_eq!(adapted.applied.acted, ["hostname", "hosts", "fstab", "machine-id"]);
}

/// The programs that judge would find what is wrong in a root as it comes.
#[test]
fn a_root_without_the_rules_is_found_wanting() {
    let folder = tempfile::tempdir().unwrap();
    let (root, boot) = (folder.path().join("root"), folder.path().join("boot"));
    systems::DEBIAN.make(&root, &boot);
    let commands = programs::ifupdown(&root);
    assert!(commands.iter().any(|line| line.contains("eth0")), "{commands:?}");
    // The data source is found where a card would have it, so user-data speaks.
    let seed = root.join("var/lib/cloud/seed/nocloud");
    std::fs::create_dir_all(&seed).unwrap();
    for name in ["user-data", "meta-data"] {
        std::fs::copy(boot.join(name), seed.join(name)).unwrap();
    }
    let told = programs::ask_cloud_init(&root);
    for wanted in ["set_hostname acts", "update_etc_hosts acts", "ssh_deletekeys True", "network initramfs"] {
        assert!(told.iter().any(|line| line == wanted), "{wanted}: {told:?}");
    }
}
