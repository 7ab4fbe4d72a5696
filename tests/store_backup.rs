//! A second stick as a copy of the store, on loop devices: made, renewed, cut
//! short, standing in, and both plugged in at once.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

#[path = "nfs_lab/disk.rs"]
#[allow(dead_code, reason = "another test's, too")]
mod fuse_disk;
mod store_support;

use std::fs::{self, FileTimes};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rootstock::directory::HandleKey;
use rootstock::status::NewPlace;
use rootstock::store::backup::{self, Mark, Target};
use rootstock::store::place::Place;
use rootstock::store::{BackupOffer, Command, Event, OpenClient};
use store_support::*;

fn store_stick(bench: &Bench, name: &str) -> LoopDisk {
    let stick = disk(&bench.path(name), 300 * MIB, "");
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", stick.node.to_str().unwrap()]);
    stick
}

fn mounted(bench: &Bench, stick: &LoopDisk, name: &str) -> PathBuf {
    let point = bench.path(name);
    fs::create_dir_all(&point).unwrap();
    run("mount", &[stick.node.to_str().unwrap(), point.to_str().unwrap()]);
    point
}

fn opened(running: &mut Running) -> (OpenClient, HandleKey) {
    running.wait("Opened", |event| match event {
        Event::Opened { clients, handle_key, .. } => Some((clients[0].clone(), handle_key.clone())),
        _ => None,
    })
}

fn offered(running: &mut Running) -> BackupOffer {
    running.wait("BackupOffered", |event| match event {
        Event::BackupOffered { offer, .. } => Some(offer.clone()),
        _ => None,
    })
}

/// Bytes that were written.
fn back_up(running: &mut Running) -> u64 {
    running.send(Command::Backup);
    running.wait("BackedUp", |event| match event {
        Event::BackedUp { bytes, taken: 1.., .. } => Some(*bytes),
        Event::BackupFailed { message, .. } => panic!("{message}"),
        _ => None,
    })
}

#[test]
fn a_copy_stands_in_for_a_lost_stick_and_takes_it_back_as_its_own_copy() {
    let bench = Bench::new();
    let first = store_stick(&bench, "one");
    pi_image(&mounted(&bench, &first, "mounted"), "a.img");
    unmount(&bench.path("mounted"));
    let second = disk(&bench.path("two"), 400 * MIB, "");

    let mut running = Running::start(bench.with_sticks(&[&first, &second]));
    let first_key = running.wait("Opened", |event| match event {
        Event::Opened { handle_key, .. } => Some(handle_key.clone()),
        _ => None,
    });
    assert_eq!(offered(&mut running), BackupOffer::New);
    let image = running.imported().id;
    let open = running.create(&client(1, &image));
    change(&open.root);
    let whole = back_up(&mut running);
    println!("{whole} bytes of the whole");
    assert!(whole > 4 * MIB, "{whole}");

    // Same size and times: only the change time, which nobody can set, tells.
    let kept = open.root.join("kept");
    let times = fs::metadata(&kept).unwrap();
    fs::write(&kept, "KEPT").unwrap();
    let file = fs::File::options().write(true).open(&kept).unwrap();
    file.set_times(FileTimes::new().set_modified(times.modified().unwrap())).unwrap();
    // An open file would hold the root when the store is closed.
    drop(file);
    let held = ["", "kept", "etc/hostname"].map(|name| handles::handle(&open.root.join(name)));
    fs::remove_file(open.root.join("gone-later")).unwrap();
    let renewed = back_up(&mut running);
    assert!(renewed < MIB, "{renewed} bytes were written anew");
    running.stop();

    // The first is lost.
    let mut running = Running::start(bench.with_sticks(&[&second]));
    let place = running.wait("NeedsConfirmation", |event| match event {
        Event::NeedsConfirmation { place, .. } => Some(*place),
        Event::Opened { .. } => panic!("a copy was served unasked"),
        _ => None,
    });
    assert_eq!(place, NewPlace::Copy);
    running.send(Command::Prepare);
    let (stood_in, key) = opened(&mut running);
    assert_eq!(stood_in.client, open.client);
    // The copy has other inodes: the kernel knows the handles of what a client wrote no more, and would open the
    // image's own file by that of one which the client has changed. So no handle of before is taken: clients that
    // ran must be restarted.
    for handle in &held {
        assert_eq!(handles::open(&stood_in.root, handle).unwrap_err().raw_os_error(), Some(libc::ESTALE));
    }
    assert_ne!(key, first_key);
    running.wait("OtherFiles", |event| matches!(event, Event::OtherFiles { .. }).then_some(()));
    check(&stood_in.root);
    fs::write(stood_in.root.join("written-by-the-copy"), "x").unwrap();
    running.stop();
    run("e2fsck", &["-f", "-n", &format!("{}p1", second.node.display())]);

    // Both, whichever is found first: the one that somebody went on with.
    for sticks in [[&first, &second], [&second, &first]] {
        let mut running = Running::start(bench.with_sticks(&sticks));
        let (both, same) = opened(&mut running);
        assert!(both.root.join("written-by-the-copy").exists() && same == key);
        assert_eq!(offered(&mut running), BackupOffer::Former);
        running.stop();
    }
    let mut running = Running::start(bench.with_sticks(&[&first, &second]));
    opened(&mut running);
    assert_eq!(offered(&mut running), BackupOffer::Former);
    back_up(&mut running);
    running.stop();
    let mut running = Running::start(bench.with_sticks(&[&first]));
    running.wait("NeedsConfirmation", |event| matches!(event, Event::NeedsConfirmation { .. }).then_some(()));
    running.send(Command::Prepare);
    let (back, _) = opened(&mut running);
    check(&back.root);
    assert!(back.root.join("written-by-the-copy").exists());
    running.stop();
}

/// What a client does to its root that a copy could lose.
fn change(root: &Path) {
    fs::write(root.join("kept"), "kept").unwrap();
    fs::write(root.join("gone-later"), "x").unwrap();
    // A whiteout, an opaque folder, and a hard link that a copy-up must not break.
    fs::remove_file(root.join("etc/hosts")).unwrap();
    fs::remove_dir_all(root.join("home/pi")).unwrap();
    fs::create_dir(root.join("home/pi")).unwrap();
    fs::write(root.join("usr/share/doc/one"), "changed\n").unwrap();
    fs::hard_link(root.join("kept"), root.join("usr/kept-too")).unwrap();
    std::os::unix::fs::symlink("kept", root.join("link")).unwrap();
    run("mkfifo", &[root.join("pipe").to_str().unwrap()]);
}

fn check(root: &Path) {
    assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "KEPT");
    assert!(!root.join("gone-later").exists() && !root.join("etc/hosts").exists());
    assert_eq!(fs::read_dir(root.join("home/pi")).unwrap().count(), 0, "an opaque folder shows what lies below");
    assert_eq!(fs::read_to_string(root.join("usr/share/doc/one")).unwrap(), "changed\n");
    let (one, other) = (fs::metadata(root.join("kept")).unwrap(), fs::metadata(root.join("usr/kept-too")).unwrap());
    assert_eq!((one.ino(), one.nlink()), (other.ino(), 2));
    assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("kept"));
    assert!(fs::metadata(root.join("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read_to_string(root.join("etc/hostname")).unwrap(), "pi-1\n");
    // The root goes on being one that can be written.
    fs::write(root.join("etc/hosts.new"), "x").unwrap();
    fs::write(root.join("kept"), "KEPT").unwrap();
}

#[test]
fn a_copy_is_one_moments_while_a_client_writes_and_none_before_it_is_complete() {
    let bench = Bench::new();
    let (one, two) = (store_stick(&bench, "one"), store_stick(&bench, "two"));
    let (from, to) = (mounted(&bench, &one, "from"), bench.path("to"));
    let target = Target::open(&Place::Partition(two.node.clone()), &to, &AtomicBool::new(false)).unwrap();
    let upper = from.join("clients/pi-1/upper");
    fs::create_dir_all(&upper).unwrap();
    fs::write(from.join("store.toml"), "id = \"a\"\n").unwrap();
    for n in 0..2000 {
        fs::write(upper.join(format!("file-{n}")), n.to_string()).unwrap();
    }
    let copy = |stop: bool| backup::copy(&from, &target, &AtomicU64::new(0), &AtomicBool::new(stop));

    assert!(copy(true).unwrap_err().is_stop());
    assert_eq!(backup::read_mark(&to), Some(Mark { of: "a".into(), taken: None }));

    // One number in two files, the first always written first.
    let over = Arc::new(AtomicBool::new(false));
    let (stopped, folder) = (over.clone(), upper.clone());
    let writer = std::thread::spawn(move || {
        let mut n = 0u64;
        while !stopped.load(Ordering::Relaxed) {
            n += 1;
            for name in ["a-first", "z-second"] {
                fs::write(folder.join("new"), n.to_string()).unwrap();
                fs::rename(folder.join("new"), folder.join(name)).unwrap();
            }
        }
        n
    });
    let number = |store: &Path, name: &str| -> u64 {
        fs::read_to_string(store.join("clients/pi-1/upper").join(name)).unwrap().parse().unwrap()
    };
    for _ in 0..3 {
        let made = copy(false).unwrap();
        assert!(made.frozen.as_secs() < 10, "{:?}", made.frozen);
        let (first, second) = (number(&to, "a-first"), number(&to, "z-second"));
        assert!(first == second || first == second + 1, "{first} and {second} are of two moments");
        assert_eq!(backup::read_mark(&to).unwrap().taken, Some(made.taken));
    }
    let before = number(&from, "a-first");
    while number(&from, "a-first") == before {
        std::thread::yield_now();
    }
    over.store(true, Ordering::Relaxed);
    assert!(writer.join().unwrap() > before, "writes go on afterwards");
    drop(target);
    for point in [&from, &to] {
        unmount(&point);
    }

    // One that was cut before its mark was written is begun again, and not taken for somebody's store.
    let new = store_stick(&bench, "three");
    let mut running = Running::start(bench.with_sticks(&[&one, &new]));
    running.wait("Opened", |event| matches!(event, Event::Opened { .. }).then_some(()));
    assert_eq!(offered(&mut running), BackupOffer::Renew(None));
    running.stop();

    // A copy that was cut short is told, and never served.
    let to = mounted(&bench, &two, "to");
    Mark { of: "a".into(), taken: None }.write(&to).unwrap();
    unmount(&to);
    let mut running = Running::start(bench.with_sticks(&[&two]));
    let said = running.wait("StickUnusable", |event| match event {
        Event::StickUnusable { message, .. } => Some(message.clone()),
        Event::Opened { .. } | Event::NeedsConfirmation { .. } => panic!("{event:?}"),
        _ => None,
    });
    assert!(said.contains("not completed"), "{said}");
    running.stop();
    let mut running = Running::start(bench.with_sticks(&[&one, &two]));
    running.wait("Opened", |event| matches!(event, Event::Opened { .. }).then_some(()));
    assert_eq!(offered(&mut running), BackupOffer::Renew(None));
    running.stop();
}

#[test]
fn a_stick_that_goes_in_the_middle_of_a_copy_is_told_and_the_copy_is_made_when_both_are_there() {
    let bench = Bench::new();
    let first = stick_with_image(&bench, 200 * MIB);
    let node = PathBuf::from(format!("/dev/loop{}", 8000 + std::process::id()));
    let later = LoopDisk { node, file: bench.path("later") };
    let fuse = bench.path("fuse");
    fs::create_dir(&fuse).unwrap();
    let flash = fuse_disk::Disk::mount(&fuse, 160 << 20);
    let second = LoopDisk::attach(&fuse.join("disk"));
    let mut running = Running::start(bench.with_sticks(&[&first, &second, &later]));
    opened_empty(&mut running);
    assert_eq!(offered(&mut running), BackupOffer::New);
    let image = running.imported().id;
    let open = running.create(&client(1, &image));
    back_up(&mut running);

    let progress = |event: &Event| matches!(event, Event::BackupProgress { .. }).then_some(());
    let failed = |running: &mut Running| {
        running.wait("BackupFailed", |event| match event {
            Event::BackupFailed { message, action, .. } => Some(format!("{message} / {action}")),
            Event::BackedUp { .. } => panic!("it is complete"),
            _ => None,
        })
    };
    // Told by the order, and by the copy itself.
    let begin = |running: &mut Running, byte: u8| {
        fs::write(open.root.join("large"), vec![byte; 40 << 20]).unwrap();
        running.send(Command::Backup);
        running.wait("BackupProgress", progress);
        running.wait("BackupProgress of the copy", progress);
    };

    // The first one goes: its clients wait, and the copy says that it is none.
    begin(&mut running, 1);
    flash.stand_still();
    run("sync", &["-f", open.root.join("large").to_str().unwrap()]);
    fs::copy(&first.file, &later.file).unwrap();
    first.pull();
    running.wait("Closed", |event| matches!(event, Event::Closed { .. }).then_some(()));
    flash.go_on();
    let said = failed(&mut running);
    assert_eq!(said, "the copy was interrupted; it is not complete / Plug both sticks in, and begin it again");
    run("losetup", &["-P", later.node.to_str().unwrap(), later.file.to_str().unwrap()]);
    let (back, _) = opened(&mut running);
    assert!(fs::read(back.root.join("large")).unwrap() == vec![1; 40 << 20]);
    assert_eq!(offered(&mut running), BackupOffer::Renew(None));
    back_up(&mut running);
    let point = bench.path("mounted");
    run("mount", &["-o", "ro", &format!("{}p1", second.node.display()), point.to_str().unwrap()]);
    assert!(fs::read(point.join("clients/pi-1/upper/large")).unwrap() == vec![1; 40 << 20]);
    unmount(&point);

    // The second one fails: nobody else is hurt.
    begin(&mut running, 2);
    flash.fail();
    let said = failed(&mut running);
    assert!(said.ends_with(" / Plug the second stick in again, or try another"), "{said}");
    fs::write(back.root.join("goes-on"), "x").unwrap();
    running.stop();
    flash.go_on();
    drop(second);
    unmount(&fuse);
}

/// A store without clients.
fn opened_empty(running: &mut Running) {
    running.wait("Opened", |event| matches!(event, Event::Opened { .. }).then_some(()));
}

fn rootstock(arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rootstock")).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_command_copies_the_store_at_a_pc_and_only_over_its_own_copy() {
    let bench = Bench::new();
    let first = store_stick(&bench, "one");
    let point = mounted(&bench, &first, "mounted");
    for folder in ["images", "clients/pi-1/upper"] {
        fs::create_dir_all(point.join(folder)).unwrap();
    }
    fs::write(point.join("clients/pi-1/upper/kept"), vec![7; 3 << 20]).unwrap();
    unmount(&point);
    let second = disk(&bench.path("two"), 400 * MIB, "");
    let [from, to] = [&first, &second].map(|stick| stick.node.to_str().unwrap());
    let command = |from: &str, to: &str| rootstock(&["stick", "backup", "--store", from, "--to", to, "--yes"]);
    let refused = |(done, said): (bool, String), expected: &str| {
        assert!(!done && said.contains(expected), "{said}");
    };

    refused(command(from, from), "both are one stick");
    let (done, said) = command(from, to);
    assert!(done && said.contains("is complete; 3."), "{said}");
    // Again, with nothing changed.
    let (done, said) = command(from, to);
    assert!(done && said.contains("is complete; ") && !said.contains("MiB"), "{said}");
    let copy = format!("{to}p1");
    run("e2fsck", &["-f", "-n", &copy]);
    refused(command(to, from), "is a copy itself");
    // Any other command looks at a copy, says what it is, and changes nothing there.
    for looks in [&["client", "list"][..], &["image", "list"], &["stick", "show"]] {
        let (done, said) = rootstock(&[looks, &["--store", to]].concat());
        assert!(done && said.contains("is a copy; it can be looked at"), "{looks:?}: {said}");
    }
    for changes in [&["client", "reset", "pi-1", "--yes"][..], &["client", "rename", "pi-1", "other"]] {
        let refusal = rootstock(&[changes, &["--store", to]].concat());
        refused(refusal, "is a copy: what is changed there is lost when it is renewed. Name the stick");
    }
    let point = bench.path("mounted");
    run("mount", &["-o", "ro", &copy, point.to_str().unwrap()]);
    assert_eq!(fs::read(point.join("clients/pi-1/upper/kept")).unwrap(), vec![7; 3 << 20]);
    unmount(&point);

    // Nothing of anybody else's is written over.
    let third = store_stick(&bench, "three");
    let point = mounted(&bench, &third, "mounted");
    fs::write(point.join("store.toml"), "id = \"another\"\n").unwrap();
    fs::create_dir_all(point.join("clients")).unwrap();
    fs::create_dir_all(point.join("images")).unwrap();
    unmount(&point);
    refused(command(from, third.node.to_str().unwrap()), "holds another store");
    let small = disk(&bench.path("four"), 40 * MIB, "");
    refused(command(from, small.node.to_str().unwrap()), "has 39 MiB of unpartitioned space; 64 MiB are needed");
    assert!(fs::read(&small.file).unwrap().iter().all(|&byte| byte == 0));
    run("mount", &[third.node.to_str().unwrap(), point.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(point.join("store.toml")).unwrap(), "id = \"another\"\n");
    unmount(&point);

    // And a server takes it for what it is.
    let mut running = Running::start(bench.with_sticks(&[&second]));
    let place = running.wait("NeedsConfirmation", |event| match event {
        Event::NeedsConfirmation { place, .. } => Some(*place),
        _ => None,
    });
    assert_eq!(place, NewPlace::Copy);
    running.stop();
}
