//! Sticks, as loop devices: found, prepared, refused, pulled and put back.
//! This kernel has no vfat or exfat, so images lie on ext4 partitions.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use rootstock::store::{Command, Event};
use store_support::*;

/// A stick with one partition from 1 MiB to 81 MiB and free space behind.
const ONE_PARTITION: &str = "label: dos\nstart=2048, size=163840, type=7\n";

fn confirmation(running: &mut Running) -> u64 {
    running.wait("NeedsConfirmation", |event| match event {
        Event::NeedsConfirmation { free_bytes, .. } => Some(*free_bytes),
        Event::StickUnusable { message, .. } => panic!("unusable: {message}"),
        _ => None,
    })
}

fn unusable(running: &mut Running) -> String {
    running.wait("StickUnusable", |event| match event {
        Event::StickUnusable { message, action } => Some(format!("{message} / {action}")),
        Event::NeedsConfirmation { name, .. } => panic!("{name} was offered"),
        _ => None,
    })
}

#[test]
fn a_store_is_made_beside_a_partition_that_keeps_every_byte() {
    for (table, number) in [(ONE_PARTITION, "p2"), ("label: gpt\nstart=2048, size=163840, type=U\n", "p2")] {
        let bench = Bench::new();
        let stick = disk(&bench.path("disk"), 400 * MIB, table);
        let noise: Vec<u8> = (0..80 * MIB).map(|n| ((n * 2_654_435_761) >> 13) as u8).collect();
        OpenOptions::new().write(true).open(&stick.node).unwrap().write_all_at(&noise, MIB).unwrap();

        let mut running = Running::start(bench.with_sticks(&[&stick]));
        let free_bytes = confirmation(&mut running);
        assert!((300 * MIB..320 * MIB).contains(&free_bytes), "{free_bytes}");
        assert_eq!(run("lsblk", &["-no", "NAME", stick.node.to_str().unwrap()]).lines().count(), 2, "written unasked");
        running.send(Command::Prepare);
        running.opened();
        running.stop();

        let mut kept = vec![0; noise.len()];
        fs::File::open(&stick.file).unwrap().read_exact_at(&mut kept, MIB).unwrap();
        assert!(kept == noise, "the partition was changed");
        run("sfdisk", &["-V", stick.node.to_str().unwrap()]);
        run("e2fsck", &["-f", "-n", &format!("{}{number}", stick.node.display())]);

        let mut running = Running::start(bench.with_sticks(&[&stick]));
        running.opened();
    }
}

#[test]
fn a_blank_stick_gets_a_table_and_a_store() {
    let bench = Bench::new();
    let stick = disk(&bench.path("disk"), 200 * MIB, "");
    let mut running = Running::start(bench.with_sticks(&[&stick]));
    confirmation(&mut running);
    running.send(Command::Prepare);
    running.opened();
    running.stop();
    run("sfdisk", &["-V", stick.node.to_str().unwrap()]);
}

#[test]
fn sticks_that_hold_something_are_never_offered() {
    let check = |table: &str, first: &[u8], expected: &str| {
        let bench = Bench::new();
        let stick = disk(&bench.path("disk"), 100 * MIB, table);
        OpenOptions::new().write(true).open(&stick.node).unwrap().write_all_at(first, 0).unwrap();
        let before = fs::read(&stick.file).unwrap();
        let mut running = Running::start(bench.with_sticks(&[&stick]));
        let said = unusable(&mut running);
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        running.send(Command::Prepare);
        running.wait("Problem", |event| matches!(event, Event::Problem { .. }).then_some(()));
        running.stop();
        assert!(fs::read(&stick.file).unwrap() == before, "the stick was written");
    };
    check(ONE_PARTITION, &[], "19 MiB of unpartitioned space; 64 MiB are needed");
    check("", b"somebody's own format", "holds files");
    let four = "label: dos\nstart=2048,size=2048\nstart=4096,size=2048\nstart=6144,size=2048\nstart=8192,size=2048\n";
    check(four, &[], "four partitions");
}

#[test]
fn a_table_that_lies_is_one_message_and_is_not_used() {
    let bench = Bench::new();
    let stick = disk(&bench.path("disk"), 200 * MIB, ONE_PARTITION);
    let node = OpenOptions::new().write(true).open(&stick.node).unwrap();
    node.write_all_at(&u32::MAX.to_le_bytes(), 446 + 12).unwrap();
    drop(node);
    let mut running = Running::start(bench.with_sticks(&[&stick]));
    assert!(unusable(&mut running).contains("partition 1 reaches past the end"));
}

#[test]
fn a_stick_that_was_changed_since_it_was_shown_is_not_written() {
    let bench = Bench::new();
    let stick = disk(&bench.path("disk"), 200 * MIB, ONE_PARTITION);
    let mut running = Running::start(bench.with_sticks(&[&stick]));
    confirmation(&mut running);
    OpenOptions::new().write(true).open(&stick.node).unwrap().write_all_at(b"bootcode", 0).unwrap();
    running.send(Command::Prepare);
    let problem = running.wait("Problem", |event| match event {
        Event::Problem { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert!(problem.contains("changed since it was looked at"), "{problem}");
}

#[test]
fn a_damaged_store_is_neither_written_nor_replaced() {
    let bench = Bench::new();
    let stick = disk(&bench.path("disk"), 400 * MIB, ONE_PARTITION);
    let partition = format!("{}p1", stick.node.display());
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", &partition]);
    // A root directory that is none: nothing that e2fsck -p may mend.
    run("debugfs", &["-w", "-R", "clri <2>", &partition]);
    run("debugfs", &["-w", "-R", "ssv state 2", &partition]);
    let mut running = Running::start(bench.with_sticks(&[&stick]));
    let said = unusable(&mut running);
    assert!(said.contains("damaged") && said.contains("nothing was changed"), "{said}");
}

#[test]
fn a_pulled_stick_closes_the_store_and_opens_again_at_the_same_paths() {
    let bench = Bench::new();
    let stick = stick_with_image(&bench, 300 * MIB);
    // The port in which it will come back: a number that nothing else takes.
    let later =
        LoopDisk { node: PathBuf::from(format!("/dev/loop{}", 1000 + std::process::id())), file: bench.path("copy") };

    let mut running = Running::start(bench.with_sticks(&[&stick, &later]));
    running.opened();
    let image = running.imported().id;
    let open = running.create(&client(1, &image));
    fs::write(open.root.join("kept"), "kept").unwrap();
    run("sync", &["-f", open.root.join("kept").to_str().unwrap()]);
    fs::copy(&stick.file, &later.file).unwrap();
    let held = fs::File::open(open.root.join("kept")).unwrap();

    stick.pull();
    running.wait("Closed", |event| matches!(event, Event::Closed { .. }).then_some(()));
    running.wait("StickAbsent", |event| (*event == Event::StickAbsent).then_some(()));
    assert!(!open.root.join("etc").exists());
    running.send(Command::CreateClient(Box::new(client(2, &image))));
    running.wait("ClientFailed", |event| matches!(event, Event::ClientFailed { .. }).then_some(()));

    run("losetup", &["-P", later.node.to_str().unwrap(), later.file.to_str().unwrap()]);
    let (_, clients) = running.opened();
    assert_eq!(clients, std::slice::from_ref(&open));
    assert_eq!(fs::read_to_string(open.root.join("kept")).unwrap(), "kept");
    drop(held);
    running.stop();
}

#[test]
fn two_sticks_with_a_store_are_told_and_one_is_used() {
    let bench = Bench::new();
    let sticks = [disk(&bench.path("one"), 100 * MIB, ""), disk(&bench.path("two"), 100 * MIB, "")];
    let point = bench.path("mounted");
    fs::create_dir(&point).unwrap();
    for stick in &sticks {
        let node = stick.node.to_str().unwrap();
        run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", node]);
        // One that is empty could become a copy of the other.
        run("mount", &[node, point.to_str().unwrap()]);
        fs::create_dir(point.join("clients")).unwrap();
        unmount(&point);
    }
    let mut running = Running::start(bench.with_sticks(&[&sticks[0], &sticks[1]]));
    running.opened();
    let said = running.wait("SecondUnused", |event| match event {
        Event::SecondUnused { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert!(said.contains("has a store too") && said.ends_with("is used"), "{said}");
    running.stop();
}

#[test]
fn images_and_the_profile_of_a_second_stick_go_to_the_store_of_the_first() {
    let bench = Bench::new();
    let first = disk(&bench.path("one"), 300 * MIB, "");
    let second = disk(&bench.path("two"), 200 * MIB, "label: dos\nstart=2048, type=83\n");
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", first.node.to_str().unwrap()]);
    let partition = format!("{}p1", second.node.display());
    run("mke2fs", &["-q", "-t", "ext4", "-L", "files", &partition]);
    let point = bench.path("mounted");
    fs::create_dir(&point).unwrap();
    run("mount", &[&partition, point.to_str().unwrap()]);
    pi_image(&point, "a.img");
    fs::create_dir(point.join("profile")).unwrap();
    fs::write(point.join("profile/authorized_keys"), "ssh-ed25519 AAAA me\n").unwrap();
    unmount(&point);

    let mut running = Running::start(bench.with_sticks(&[&first, &second]));
    running.opened();
    let image = running.imported().id;
    let open = running.create(&client(1, &image));
    let keys = fs::read_to_string(open.root.join("root/.ssh/authorized_keys")).unwrap();
    assert_eq!(keys, "ssh-ed25519 AAAA me\n");
    running.stop();
}

/// ext4 here; exFAT and FAT32 in `shop_qemu`, whose kernel has them.
#[test]
fn images_are_found_in_any_partition_of_any_table() {
    let bench = Bench::new();
    let tables = [
        ("gpt", "label: gpt\nstart=2048, size=131072\nstart=133120, size=131072\n", "p2"),
        (
            "logical",
            "label: dos\nstart=2048, type=5\nstart=4096, size=2048, type=83\nstart=8192, size=131072, type=83\n",
            "p6",
        ),
        ("none", "", ""),
    ];
    let store = disk(&bench.path("store"), 300 * MIB, "");
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", store.node.to_str().unwrap()]);
    let sticks = tables.map(|(name, table, number)| {
        let stick = disk(&bench.path(name), 160 * MIB, table);
        let (partition, point) = (format!("{}{number}", stick.node.display()), bench.path("mounted"));
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "files", &partition]);
        fs::create_dir_all(&point).unwrap();
        run("mount", &[&partition, point.to_str().unwrap()]);
        make_another(&pi_image(&point, &format!("{name}.img")), name.as_bytes());
        unmount(&point);
        stick
    });
    let all: Vec<&LoopDisk> = sticks.iter().chain([&store]).collect();
    let mut running = Running::start(bench.with_sticks(&all));
    running.opened();
    let mut names = [(); 3].map(|()| running.imported().name);
    names.sort();
    assert_eq!(names, ["gpt", "logical", "none"]);
}

#[test]
fn without_a_stick_absent_is_said() {
    let bench = Bench::new();
    let mut running = Running::start(bench.with_sticks(&[]));
    running.wait("StickAbsent", |event| (*event == Event::StickAbsent).then_some(()));
}

/// As a file system's tool would: nothing of the disk may be mounted.
fn exclusive(stick: &LoopDisk) -> std::io::Result<fs::File> {
    OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&stick.node)
}

#[test]
fn a_stick_is_let_go_of_only_when_nothing_uses_it_and_may_be_used_again_or_pulled() {
    let bench = Bench::new();
    let stick = disk(&bench.path("disk"), 200 * MIB, "");
    let options = bench.with_sticks(&[&stick]);
    let store = options.run.join("store");
    let mut running = Running::start(options);
    confirmation(&mut running);
    running.send(Command::Prepare);
    running.opened();
    let releasing = |event: &Event| matches!(event, Event::Releasing { .. }).then_some(());
    let released = |event: &Event| matches!(event, Event::Released { .. }).then_some(());
    // As a client's call that is under way.
    let held = fs::File::create(store.join("held")).unwrap();
    running.send(Command::Release);
    running.wait("Releasing", releasing);
    running.wait("the second Releasing", releasing);
    assert!(exclusive(&stick).is_err(), "it is still in use");
    drop(held);
    running.wait("Released", released);
    exclusive(&stick).unwrap();
    run("e2fsck", &["-f", "-n", &format!("{}p1", stick.node.display())]);

    running.send(Command::Resume);
    running.opened();
    assert!(store.join("held").exists());
    running.send(Command::Release);
    running.wait("Released", released);
    stick.pull();
    running.wait("StickAbsent", |event| matches!(event, Event::StickAbsent).then_some(()));
}
