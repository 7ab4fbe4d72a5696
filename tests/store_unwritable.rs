//! Sticks that take no writes: from the beginning, or while clients run from them.
//!
//! Needs root and the tools of `store_support`, and FUSE for a disk that gives up.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

#[path = "nfs_lab/disk.rs"]
#[allow(dead_code, reason = "another test's, too")]
mod fuse_disk;
mod store_support;

use std::fs;
use std::io;
use std::path::PathBuf;

use rootstock::client::{ImageId, Mode, Role};
use rootstock::store::operate::{Operation, Outcome};
use rootstock::store::{BackupOffer, Command, Event, OpenClient, Options};
use store_support::*;

fn options(bench: &Bench, sticks: &[&LoopDisk]) -> Options {
    Options { memory_bytes: Some(64 * MIB), ..bench.with_sticks(sticks) }
}

fn problem(running: &mut Running, part: &str) -> String {
    running.wait(part, |event| match event {
        Event::NotKept { message, action } if message.contains(part) => Some(format!("{message} / {action}")),
        _ => None,
    })
}

fn ask(running: &mut Running, operation: &Operation) -> Result<Box<Outcome>, String> {
    running.send(Command::Operate(3, Box::new(operation.clone())));
    running.wait("Operated", |event| match event {
        Event::Operated { ticket: 3, result } => Some(result.clone()),
        _ => None,
    })
}

fn reset(role: &Role) -> Operation {
    Operation::Reset { role: role.clone(), new_identity: false }
}

#[test]
fn a_store_that_cannot_be_written_serves_its_clients_from_memory_and_stays_as_it_is() {
    let bench = Bench::new();
    let stick = stick_with_image(&bench, 300 * MIB);
    let mut running = Running::start(options(&bench, &[&stick]));
    running.opened();
    let image = running.imported().id;
    let open = running.create(&client(1, &image));
    fs::write(open.root.join("kept"), "kept").unwrap();
    // A root over frozen layers, too: one of a reset, with a snapshot of before.
    let other = running.create(&client(2, &image));
    fs::write(other.root.join("frozen"), "frozen").unwrap();
    let name = "one".parse().unwrap();
    running.send(Command::Operate(1, Box::new(Operation::Snapshot { role: other.client.role.clone(), name })));
    running.wait("Changed", |event| matches!(event, Event::Changed { .. }).then_some(()));
    fs::write(other.root.join("above"), "above").unwrap();
    running.send(Command::Operate(2, Box::new(Operation::Verify { image: None })));
    running.wait("Operated", |event| matches!(event, Event::Operated { ticket: 2, .. }).then_some(()));
    running.stop();

    run("blockdev", &["--setro", stick.node.to_str().unwrap()]);
    let before = fs::read(&stick.file).unwrap();
    for start in 0..2 {
        let mut running = Running::start(options(&bench, &[&stick]));
        let (images, clients) = running.opened();
        assert_eq!((images.len(), clients.len()), (1, 2), "{:?}", running.seen);
        let said = problem(&mut running, "is write-protected");
        assert!(said.contains("is write-protected. Clients live in 64 MiB of memory / Slide its lock"), "{said}");
        assert_eq!(clients[0].client.mode, Mode::Ephemeral);
        for role in [&clients[0].client.role, &clients[1].client.role] {
            let fresh = running.renew(role);
            assert!(!fresh.root.join("lost").exists(), "start {start}");
            fs::write(fresh.root.join("lost"), "x").unwrap();
            fs::write(fresh.root.join("etc/hosts"), "changed").unwrap();
            fs::write(fresh.boot.join("config.txt"), "changed").unwrap();
            assert_eq!(fs::read_to_string(fresh.root.join("etc/hostname")).unwrap(), format!("{role}\n"));
        }
        assert_eq!(fs::read_to_string(clients[0].root.join("kept")).unwrap(), "kept");
        for name in ["frozen", "above"] {
            assert_eq!(fs::read_to_string(clients[1].root.join(name)).unwrap(), name);
        }
        // A new one lives there too; nothing of the stick's is changed.
        running.create(&client(3, &image));
        assert!(ask(&mut running, &reset(&open.client.role)).unwrap_err().contains("cannot be written"));
        let Ok(checked) = ask(&mut running, &Operation::Verify { image: None }) else { panic!("no check") };
        let Outcome::Checked(checked) = *checked else { panic!("{checked:?}") };
        assert!(!checked[0].first && checked[0].damaged.is_empty(), "{checked:?}");
        running.stop();
    }
    // One that can be written goes before it.
    let other = disk(&bench.path("other"), 100 * MIB, "");
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", other.node.to_str().unwrap()]);
    let mut running = Running::start(options(&bench, &[&stick, &other]));
    let name = running.wait("Opened", |event| match event {
        Event::Opened { name, .. } => Some(name.clone()),
        _ => None,
    });
    assert_eq!(name, other.name());
    running.stop();
    drop(other);
    assert!(fs::read(&stick.file).unwrap() == before, "the stick was written");
    run("blockdev", &["--setrw", stick.node.to_str().unwrap()]);
    let mut running = Running::start(options(&bench, &[&stick]));
    let (_, clients) = running.opened();
    assert_eq!((clients.len(), clients[0].client.mode), (2, Mode::Persistent));
    assert!(clients[0].root.join("kept").exists() && !clients[0].root.join("lost").exists());
    running.stop();
}

/// A stick all of which is an ext4 with an image.
fn full_stick(bench: &Bench) -> LoopDisk {
    let stick = disk(&bench.path("full"), 80 * MIB, "label: dos\nstart=2048, type=83\n");
    let (partition, point) = (format!("{}p1", stick.node.display()), bench.path("mounted"));
    run("mke2fs", &["-q", "-t", "ext4", &partition]);
    fs::create_dir_all(&point).unwrap();
    run("mount", &[&partition, point.to_str().unwrap()]);
    pi_image(&point, "a.img");
    fs::create_dir(point.join("profile")).unwrap();
    fs::write(point.join("profile/authorized_keys"), "ssh-ed25519 AAAA me\n").unwrap();
    unmount(&point);
    stick
}

#[test]
fn a_stick_that_is_full_serves_its_image_from_memory_until_one_with_room_comes() {
    let bench = Bench::new();
    let full = full_stick(&bench);
    let before = fs::read(&full.file).unwrap();
    let node = PathBuf::from(format!("/dev/loop{}", 7000 + std::process::id()));
    let later = LoopDisk { node, file: bench.path("later") };
    fs::File::create(&later.file).unwrap().set_len(300 * MIB).unwrap();
    let plug = || drop(run("losetup", &["-P", later.node.to_str().unwrap(), later.file.to_str().unwrap()]));
    let both = || Options { memory_bytes: Some(128 * MIB), ..options(&bench, &[&full, &later]) };
    let closed = |event: &Event| matches!(event, Event::Closed { .. }).then_some(());

    let mut running = Running::start(both());
    running.opened();
    let said = problem(&mut running, "Nothing is kept");
    let expected = "has 0 MiB of unpartitioned space; 64 MiB are needed. Clients live in 128 MiB of memory / Shrink its \
                    partition on a computer, or plug in a second, empty stick, then restart the appliance";
    assert!(said.ends_with(expected), "{said}");
    let image = running.imported().id;
    let open = running.create(&client(1, &image));
    assert_eq!(fs::read_to_string(open.root.join("root/.ssh/authorized_keys")).unwrap(), "ssh-ed25519 AAAA me\n");
    fs::write(open.root.join("here"), "x").unwrap();
    // Who lives there is not thrown out for a better one.
    plug();
    std::thread::sleep(std::time::Duration::from_millis(500));
    running.create(&client(2, &image));
    assert!(open.root.join("here").exists() && running.seen.iter().find_map(closed).is_none());
    running.stop();
    run("losetup", &["-d", later.node.to_str().unwrap()]);

    // Nobody lives there: the better one is asked for, and what was made in its stead goes.
    let mut running = Running::start(both());
    running.opened();
    running.imported();
    plug();
    running.wait("Closed", closed);
    running.wait("NeedsConfirmation", |event| matches!(event, Event::NeedsConfirmation { .. }).then_some(()));
    let open = running.prepare_with_client();
    running.stop();
    let mut running = Running::start(both());
    assert_eq!(running.opened().1, std::slice::from_ref(&open));
    running.stop();
    assert!(fs::read(&full.file).unwrap() == before, "the full stick was written");
}

/// Puts a store onto a stick, with a profile and, once it is opened, an image.
fn with_profile(bench: &Bench, stick: &LoopDisk) {
    fill_stick(bench, stick, |point| {
        fs::create_dir(point.join("profile")).unwrap();
        fs::write(point.join("profile/authorized_keys"), "ssh-ed25519 AAAA me\n").unwrap();
    });
}

/// Two clients that run, with something that was acknowledged.
fn two_clients(running: &mut Running) -> (ImageId, [OpenClient; 2]) {
    running.opened();
    let image = running.imported().id;
    let open = [1, 2].map(|n| running.create(&client(n, &image)));
    for open in &open {
        fs::write(open.root.join("kept"), "kept").unwrap();
        fs::File::open(open.root.join("kept")).unwrap().sync_all().unwrap();
    }
    (image, open)
}

/// What must hold once writes are refused: who runs reads on, who boots lives in memory.
fn goes_on(running: &mut Running, image: &ImageId, [runs, boots]: &[OpenClient; 2], held: &[u8]) {
    let said = problem(running, "takes no writes any more");
    assert!(said.contains("Clients that start now live in 64 MiB of memory"), "{said}");
    let clients = running.wait("Changed", |event| match event {
        Event::Changed { clients, .. } => Some(clients.clone()),
        _ => None,
    });
    assert!(clients.len() == 2 && clients.iter().all(|open| !open.writable && open.renew_at_boot), "{clients:?}");

    assert_eq!(fs::read_to_string(runs.root.join("kept")).unwrap(), "kept");
    handles::open(&runs.root, held).unwrap();
    let refused = fs::write(runs.root.join("new"), "x").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);

    for _ in 0..2 {
        let fresh = running.renew(&boots.client.role);
        assert!(fresh.writable && fresh.renew_at_boot && !fresh.root.join("lost").exists());
        assert_eq!(fs::read_to_string(fresh.root.join("kept")).unwrap(), "kept");
        for file in ["lost", "kept", "etc/hostname"] {
            fs::write(fresh.root.join(file), "of this boot").unwrap();
        }
        fs::write(fresh.boot.join("config.txt"), "changed").unwrap();
    }
    let new = running.create(&client(3, image));
    fs::write(new.root.join("lost"), "x").unwrap();
    assert_eq!(fs::read_to_string(new.root.join("root/.ssh/authorized_keys")).unwrap(), "ssh-ed25519 AAAA me\n");
    running.send(Command::SaveClient(Box::new(client(1, image))));
    let refused = ask(running, &reset(&runs.client.role)).unwrap_err();
    assert!(refused.contains("cannot be written"), "{refused}");
}

/// All that was acknowledged is there, and nothing of what lived in memory.
fn is_whole(clients: &[OpenClient]) {
    assert_eq!(clients.len(), 2);
    for open in clients {
        assert!(open.writable && !open.root.join("lost").exists());
        assert_eq!(fs::read_to_string(open.root.join("kept")).unwrap(), "kept");
        fs::write(open.root.join("again"), "x").unwrap();
    }
}

#[test]
fn ext4_that_stops_under_running_clients_lets_them_read_and_plugging_in_again_heals_it() {
    let bench = Bench::new();
    let stick = disk(&bench.path("disk"), 300 * MIB, "");
    with_profile(&bench, &stick);
    let later =
        LoopDisk { node: PathBuf::from(format!("/dev/loop{}", 1000 + std::process::id())), file: bench.path("copy") };
    let mut running = Running::start(options(&bench, &[&stick, &later]));
    let (image, open) = two_clients(&mut running);
    let held = handles::handle(&open[0].root.join("kept"));

    // ext4's own test of errors=remount-ro.
    fs::write(format!("/sys/fs/ext4/{}/trigger_fs_error", stick.name()), "1").unwrap();
    goes_on(&mut running, &image, &open, &held);

    fs::copy(&stick.file, &later.file).unwrap();
    stick.pull();
    running.wait("Closed", |event| matches!(event, Event::Closed { .. }).then_some(()));
    run("losetup", &["-P", later.node.to_str().unwrap(), later.file.to_str().unwrap()]);
    let (_, clients) = running.opened();
    is_whole(&clients);
    handles::open(&clients[0].root, &held).unwrap();
    let behind = running.wait("OtherFiles", |event| match event {
        Event::OtherFiles { roles } => Some(roles.clone()),
        _ => None,
    });
    let expected: Vec<Role> = [2, 3].map(Role::numbered).into();
    assert_eq!(behind, expected, "who lived in memory holds files that are gone");
    running.stop();
}

#[test]
fn flash_that_gives_up_loses_nothing_acknowledged_and_can_still_be_copied() {
    let bench = Bench::new();
    let point = bench.path("fuse");
    fs::create_dir(&point).unwrap();
    let flash = fuse_disk::Disk::mount(&point, 200 << 20);
    let stick = LoopDisk::attach(&point.join("disk"));
    with_profile(&bench, &stick);
    let second = disk(&bench.path("second"), 300 * MIB, "");
    let both = options(&bench, &[&stick, &second]);
    let mut running = Running::start(both);
    let (image, open) = two_clients(&mut running);
    let held = handles::handle(&open[0].root.join("kept"));

    flash.fail();
    // Not acknowledged: the sync says so.
    let unsynced = fs::File::create(open[0].root.join("unsynced")).and_then(|file| file.sync_all());
    assert!(unsynced.is_err());
    goes_on(&mut running, &image, &open, &held);

    assert!(running.seen.iter().any(|event| matches!(event, Event::BackupOffered { offer: BackupOffer::New, .. })));
    running.send(Command::Backup);
    running.wait("BackedUp", |event| match event {
        Event::BackedUp { .. } => Some(()),
        Event::BackupFailed { message, .. } => panic!("{message}"),
        _ => None,
    });
    running.stop();

    // The copy stands in, and has what was acknowledged.
    let mut running = Running::start(options(&bench, &[&second]));
    running.wait("NeedsConfirmation", |event| matches!(event, Event::NeedsConfirmation { .. }).then_some(()));
    running.send(Command::Prepare);
    is_whole(&running.opened().1);
    running.stop();
    // The stick too, if it comes to itself.
    flash.go_on();
    let mut running = Running::start(options(&bench, &[&stick]));
    is_whole(&running.opened().1);
    running.stop();
    run("e2fsck", &["-f", "-n", stick.node.to_str().unwrap()]);
    drop(stick);
    unmount(&point);
}
