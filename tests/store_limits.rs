//! The store's side of quotas and the reserve: measured, and told before it hurts.
//!
//! Needs root and the tools of `store_support`.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rootstock::client::{Client, Role};
use rootstock::quota::Level;
use rootstock::size::Size;
use rootstock::store::operate::Operation;
use rootstock::store::{Command, Event, OpenClient, Options};
use store_support::*;

fn level(running: &mut Running) -> (Level, u64) {
    running.wait("Quota", |event| match event {
        Event::Quota { level, used_bytes, .. } => Some((*level, *used_bytes)),
        _ => None,
    })
}

/// A server on a store with one image and one client of this quota.
fn limited(bench: &Bench, quota: u64) -> (Running, OpenClient) {
    pi_image(&bench.store(), "pi.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let image = running.imported();
    let open = running.create(&Client { quota: Some(Size(quota)), ..client(1, &image.id) });
    (running, open)
}

#[test]
fn a_client_that_comes_near_its_quota_is_told_and_so_is_its_relief() {
    let bench = Bench::new();
    let (mut running, open) = limited(&bench, 16 << 20);
    let account = open.account.clone().unwrap();
    assert_eq!(account.quota(), Some(16 << 20));
    // Behind NFS's back: only a measurement sees it.
    fs::write(open.root.join("large"), vec![1; 15 << 20]).unwrap();
    account.doubt(1 << 30);
    let (near, used) = level(&mut running);
    assert_eq!(near, Level::Near);
    assert!(((15 << 20)..(16 << 20)).contains(&used), "{used}");
    fs::remove_file(open.root.join("large")).unwrap();
    account.doubt(1 << 30);
    assert_eq!(level(&mut running).0, Level::Fine);
    running.stop();

    // Its figures are measured anew when the store is opened, and a changed quota holds.
    let manifest = bench.store().join("clients/pi-1/client.toml");
    let text = fs::read_to_string(&manifest).unwrap().replace("16M", "20M");
    fs::write(&manifest, text).unwrap();
    let large = bench.store().join("clients/pi-1/upper/large");
    fs::write(large, vec![1; 21 << 20]).unwrap();
    let mut running = bench.start_in_folder();
    let (_, clients) = running.opened();
    assert_eq!(clients[0].account.as_ref().unwrap().quota(), Some(20 << 20));
    assert_eq!(level(&mut running).0, Level::Full);
}

/// The next level that is told of a client; past ones of others are forgotten.
fn level_of(running: &mut Running, role: &str) -> Level {
    running.wait("Quota", |event| match event {
        Event::Quota { role: about, level, .. } if about.as_str() == role => Some(*level),
        _ => None,
    })
}

fn operate(running: &mut Running, operation: Operation) {
    running.send(Command::Operate(1, Box::new(operation)));
    running.wait("Operated", |event| match event {
        Event::Operated { result, .. } => {
            assert!(result.is_ok(), "{result:?}");
            Some(())
        }
        _ => None,
    })
}

#[test]
fn a_quota_counts_snapshots_follows_a_new_name_and_a_later_client_begins_with_nothing() {
    let bench = Bench::new();
    let (mut running, open) = limited(&bench, 32 << 20);
    let (role, other): (Role, Role) = (open.client.role.clone(), "other".parse().unwrap());
    // Behind NFS's back: the measurement after each operation sees it.
    fs::write(open.root.join("large"), vec![1; 29 << 20]).unwrap();
    operate(&mut running, Operation::Snapshot { role: role.clone(), name: "one".parse().unwrap() });
    assert_eq!(level_of(&mut running, "pi-1"), Level::Near, "a snapshot takes room like any other");
    fs::write(open.root.join("more"), vec![1; 2800 << 10]).unwrap();
    open.account.clone().unwrap().doubt(1 << 30);
    assert_eq!(level_of(&mut running, "pi-1"), Level::Full);
    operate(&mut running, Operation::Reset { role: role.clone(), new_identity: false });
    assert_eq!(level_of(&mut running, "pi-1"), Level::Near, "what the reset threw away is no longer its own");
    operate(&mut running, Operation::Rename { role: role.clone(), to: other.clone() });
    assert_eq!(level_of(&mut running, "other"), Level::Near);
    operate(&mut running, Operation::Delete { role: other.clone() });
    assert_eq!(level_of(&mut running, "other"), Level::Fine);
    let next = running.create(&Client { role: other, ..open.client.clone() });
    let used = next.account.unwrap().used_bytes();
    assert!(used < 4 << 20, "{used} bytes of the former one");
}

#[test]
fn an_image_made_of_a_client_is_not_charged_to_it_and_a_move_is_charged_with_what_it_keeps() {
    let bench = Bench::new();
    let (mut running, open) = limited(&bench, 32 << 20);
    let (role, first) = (open.client.role.clone(), open.client.image.clone());
    fs::write(open.root.join("home/pi/large"), vec![1; 29 << 20]).unwrap();
    operate(&mut running, Operation::Snapshot { role: role.clone(), name: "one".parse().unwrap() });
    assert_eq!(level_of(&mut running, "pi-1"), Level::Near);
    operate(&mut running, Operation::ForgetSnapshot { role: role.clone(), name: "one".parse().unwrap() });
    operate(&mut running, Operation::Promote { role: role.clone(), snapshot: None, name: "mine".into() });
    let images = running.wait("Changed", |event| match event {
        Event::Changed { images, .. } => Some(images.clone()),
        _ => None,
    });
    let promoted = images.iter().find(|image| image.id != first).unwrap().id.clone();

    // Kept beside what the new image has of it: counted once more, and the former root no more.
    operate(&mut running, Operation::Move { role: role.clone(), image: promoted, keep: vec!["/home".into()] });
    let account = open.account.clone().unwrap();
    let settled = |account: &rootstock::quota::Account| {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while account.is_doubtful(1 << 20) && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        account.used_bytes()
    };
    let used = settled(&account);
    assert!(((28 << 20)..(32 << 20)).contains(&used), "{used}");
    operate(&mut running, Operation::Move { role, image: first, keep: Vec::new() });
    assert_eq!(level_of(&mut running, "pi-1"), Level::Fine);
    assert!(!open.root.join("home/pi/large").exists());
}

#[test]
fn without_room_neither_an_image_is_made_nor_a_client_moved_and_the_figure_is_said() {
    let bench = Bench::new();
    pi_image(&bench.store_on(&bench.path("disk"), 256 * MIB), "a.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let first = running.imported().id;
    let open = running.create(&client(1, &first));
    let role = open.client.role.clone();
    // Another image, with what the client has now.
    operate(&mut running, Operation::Promote { role: role.clone(), snapshot: None, name: "mine".into() });
    let image = running.wait("Changed", |event| match event {
        Event::Changed { images, .. } => images.iter().find(|image| image.id != first).map(|image| image.id.clone()),
        _ => None,
    });
    let large = vec![7; 110 << 20];
    fs::write(open.root.join("home/pi/large"), &large).unwrap();
    let listing = || {
        let names = |folder: &str| {
            let entries = fs::read_dir(bench.store().join(folder)).into_iter().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        (names("images"), names("clients/pi-1/states"))
    };
    let before = listing();
    for operation in [
        Operation::Promote { role: role.clone(), snapshot: None, name: "again".into() },
        Operation::Move { role: role.clone(), image, keep: vec!["/home".into()] },
    ] {
        running.send(Command::Operate(1, Box::new(operation.clone())));
        let message = running.wait("Operated", |event| match event {
            Event::Operated { result, .. } => Some(result.clone().unwrap_err()),
            _ => None,
        });
        let missing: Vec<u64> = message.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert!(message.contains("no room on the stick") && missing.len() == 1, "{operation:?}: {message}");
        assert!((1..190).contains(&missing[0]), "{message}");
        let after = running.wait("Changed", |event| match event {
            Event::Changed { clients, .. } => Some(clients.clone()),
            _ => None,
        });
        assert_eq!((after.len(), &after[0].client.image), (1, &first), "{operation:?}");
        assert!(fs::read(after[0].root.join("home/pi/large")).unwrap() == large);
        assert_eq!(listing(), before, "{operation:?}");
    }
    // The reserve is there for what the appliance does.
    running.create(&client(2, &first));
    running.stop();
}

fn scrubbed(running: &mut Running) -> (Vec<String>, Vec<String>) {
    running.wait("Scrubbed", |event| match event {
        Event::Scrubbed { damaged, files, .. } => Some((damaged.clone(), files.clone())),
        _ => None,
    })
}

#[test]
fn a_scrub_finds_a_bad_block_and_goes_on_where_it_was_ended() {
    let bench = Bench::new();
    // On a disk of its own: what others do with this machine's makes a scrub wait.
    let image = pi_image(&bench.store_on(&bench.path("disk"), 256 * MIB), "a.img");
    let options = || Options { folder: Some(bench.store()), scrub_every: Some(Duration::ZERO), ..bench.options() };
    let mut running = Running::start(options());
    running.opened();
    let id = running.imported().id;
    running.stop();
    fs::remove_file(image).unwrap();
    // Open for an hour, never looked at.
    let state = bench.store().join("scrub.toml");
    fs::write(&state, "open_seconds = 3500\n").unwrap();
    let mut running = Running::start(options());
    assert_eq!(scrubbed(&mut running), (Vec::new(), Vec::new()));
    running.stop();
    let root = bench.store().join("images").join(id.as_str()).join("root.ext4");
    assert!(root.with_file_name("pieces.sha256").exists());

    // A bad block in the file of noise, which is most of what the root has.
    let mut running = Running::start(Options { scrub_every: None, ..options() });
    running.opened();
    let open = running.create(&client(1, &id));
    let noise = fs::read(open.root.join("usr/share/doc/noise")).unwrap();
    running.stop();
    let bytes = fs::read(&root).unwrap();
    let at = bytes.windows(4096).step_by(1024).position(|block| block == &noise[8192..12288]).unwrap() as u64 * 1024;
    let file = fs::OpenOptions::new().write(true).open(&root).unwrap();
    file.write_all_at(&[0; 512], at).unwrap();
    drop(file);
    let mut running = Running::start(options());
    let (damaged, files) = scrubbed(&mut running);
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert!(damaged[0].starts_with("root.ext4 differs between byte "), "{damaged:?}");
    assert!(files.contains(&"/usr/share/doc/noise".to_owned()), "{files:?}");
    running.stop();

    // Begun once and ended behind the bad piece: it is not looked at again.
    let behind = at / (4 << 20) + 1;
    fs::write(&state, format!("open_seconds = 9\n[images.\"{id}\"]\npiece = {behind}\n")).unwrap();
    let mut running = Running::start(options());
    assert_eq!(scrubbed(&mut running).0, Vec::<String>::new());
    running.stop();
}
