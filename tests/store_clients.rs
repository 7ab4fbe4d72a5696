//! Clients' roots, in folder mode: made, adapted, mounted again.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rootstock::client::{Client, Mode, Role};
use rootstock::size::Size;
use rootstock::store::{Command, Event, OpenClient, Options};
use store_support::*;

#[test]
fn two_clients_of_one_image_have_their_own_names_keys_and_ids() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    fs::create_dir(bench.store().join("profile")).unwrap();
    fs::write(bench.store().join("profile/authorized_keys"), "ssh-ed25519 AAAA me\n").unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    let image = running.imported().id;
    let one = running.create(&client(1, &image));
    let two = running.create(&client(2, &image));
    let read = |root: &Path, path: &str| fs::read_to_string(root.join(path)).unwrap();
    for path in ["etc/hostname", "etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ecdsa_key"] {
        assert_ne!(read(&one.root, path), read(&two.root, path), "{path}");
    }
    assert_eq!(read(&one.root, "etc/hostname"), "pi-1\n");
    assert!(read(&one.root, "etc/fstab").contains("192.168.77.1:/clients/pi-1/boot /boot/firmware nfs"));
    assert_eq!(read(&one.root, "home/pi/.ssh/authorized_keys"), "ssh-ed25519 AAAA me\n");
    assert_eq!(read(&one.boot, "config.txt"), "arm_64bit=1\n");
    assert_eq!(fs::metadata(&one.root).unwrap().mode() & 0o7777, 0o755);

    // Writes of one are not the other's, and the image is not touched.
    fs::write(one.root.join("usr/share/doc/one"), "changed\n").unwrap();
    fs::write(one.boot.join("kernel8.img"), "new kernel").unwrap();
    assert_eq!(read(&two.root, "usr/share/doc/one"), "one\n");
    assert_eq!(read(&two.boot, "kernel8.img"), "kernel");
}

#[test]
fn handles_survive_copy_up_rename_and_a_new_start() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let image = running.imported().id;
    let open = running.create(&client(1, &image));
    let doc = open.root.join("usr/share/doc");
    fs::write(open.root.join("new"), "new").unwrap();
    let paths = ["usr/share/doc/one", "usr/share/doc", "etc/hostname", "new", "usr/share/doc/noise", ""];
    let before: Vec<Vec<u8>> = paths.iter().map(|path| handles::handle(&open.root.join(path))).collect();
    let inodes: Vec<u64> = paths.iter().map(|path| fs::metadata(open.root.join(path)).unwrap().ino()).collect();
    let boot = handles::handle(&open.boot.join("kernel8.img"));
    fs::write(doc.join("one"), "changed").unwrap();
    assert_eq!(fs::read_to_string(doc.join("two")).unwrap(), "changed", "a hard link of the image was parted");
    fs::rename(&doc, open.root.join("usr/share/documents")).unwrap();
    running.stop();
    assert!(!open.root.join("etc").exists(), "still mounted after stop");

    let mut running = bench.start_in_folder();
    let (_, clients) = running.opened();
    assert_eq!(clients, std::slice::from_ref(&open));
    for ((path, handle), inode) in paths.iter().zip(&before).zip(&inodes) {
        assert_eq!(handles::open(&open.root, handle).unwrap(), *inode, "{path}");
    }
    handles::open(&open.boot, &boot).unwrap();
    assert_eq!(fs::read_to_string(open.root.join("usr/share/documents/two")).unwrap(), "changed");
}

#[test]
fn a_killed_run_leaves_nothing_that_hinders_the_next() {
    const FOLDER: &str = "ROOTSTOCK_TEST_KILLED";
    if let Some(folder) = std::env::var_os(FOLDER) {
        // The run that is killed, in the namespace of who waits for it.
        let folder = Path::new(&folder);
        let (run, stick) = (folder.join("run"), Some(folder.join("stick")));
        let mut running = Running::start(Options { run, folder: stick, ..Options::default() });
        running.opened();
        let image = running.imported().id;
        running.create(&client(1, &image));
        fs::write(folder.join("made"), "").unwrap();
        loop {
            std::thread::park();
        }
    }
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    let mut killed = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_run_leaves_nothing_that_hinders_the_next"])
        .env(FOLDER, bench.folder.path())
        .spawn()
        .unwrap();
    while !bench.path("made").exists() {
        assert!(killed.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let root = bench.path("run/clients/pi-1/root");
    assert!(root.join("etc/hostname").exists(), "its mounts are left");
    let mut next = bench.start_in_folder();
    let (_, clients) = next.opened();
    assert_eq!(clients.into_iter().map(|open| open.root).collect::<Vec<_>>(), [root]);
}

#[test]
fn a_broken_manifest_is_told_and_the_rest_serves() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let image = running.imported().id;
    running.create(&client(1, &image));
    running.create(&client(2, &image));
    running.stop();
    let manifest = bench.store().join("clients/pi-1/client.toml");
    fs::write(&manifest, "role = \"pi-1\"\nmac = 12\n").unwrap();

    let mut running = bench.start_in_folder();
    let (taken, clients) = running.wait("Opened", |event| match event {
        Event::Opened { taken_roles, clients, .. } => Some((taken_roles.clone(), clients.clone())),
        _ => None,
    });
    assert_eq!(clients.iter().map(|open| open.client.role.clone()).collect::<Vec<_>>(), [Role::numbered(2)]);
    assert_eq!(taken, [Role::numbered(1), Role::numbered(2)]);
    let problem = running.wait("Problem", |event| match event {
        Event::Damaged { file, .. } => Some(file.clone()),
        _ => None,
    });
    assert!(problem.contains("clients/pi-1/client.toml"), "{problem}");
    running.send(Command::CreateClient(Box::new(client(1, &image))));
    let failed = running.wait("ClientFailed", |event| match event {
        Event::ClientFailed { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert!(failed.contains("exists already"));
    assert_eq!(fs::read_to_string(manifest).unwrap(), "role = \"pi-1\"\nmac = 12\n");
}

#[test]
fn links_of_a_hostile_image_lead_nowhere() {
    let bench = Bench::new();
    let root = bench.path("root");
    fs::create_dir(&root).unwrap();
    pi_root(&root);
    let secret = bench.path("secret");
    fs::write(&secret, "secret").unwrap();
    let up: String = "../".repeat(20);
    for name in ["hostname", "hosts", "fstab", "machine-id", "passwd", "shadow"] {
        fs::remove_file(root.join("etc").join(name)).unwrap();
        symlink(&secret, root.join("etc").join(name)).unwrap();
    }
    fs::remove_dir_all(root.join("etc/ssh")).unwrap();
    symlink(format!("{up}{}", bench.folder.path().display()), root.join("etc/ssh")).unwrap();
    symlink(bench.folder.path(), root.join("var")).unwrap();
    symlink("/proc/self/root", root.join("etc/NetworkManager")).unwrap();
    fs::create_dir_all(root.join("etc/systemd")).unwrap();
    symlink(bench.folder.path(), root.join("etc/systemd/system")).unwrap();
    make_image(&bench.store().join("a.img"), &root);
    fs::remove_dir_all(&root).unwrap();
    let before: Vec<_> = names(bench.folder.path());

    let mut running = bench.start_in_folder();
    running.opened();
    let image = running.imported().id;
    let open = running.create(&client(1, &image));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(fs::read_to_string(open.root.join("etc/hostname")).unwrap(), "pi-1\n");
    running.stop();
    let after: Vec<_> = names(bench.folder.path()).into_iter().filter(|name| name != "run").collect();
    assert_eq!(before, after, "something was written outside");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn up_is_told_when_the_client_writes_it() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let image = running.imported().id;
    let open = running.create(&client(1, &image));
    running.send(Command::WatchUp(Role::numbered(1), true));
    // Answered in order: after this the watch is on.
    running.create(&client(2, &image));
    fs::create_dir_all(open.root.join("var/lib/rootstock")).unwrap();
    for boot in ["first boot id\n", "second boot id\n"] {
        fs::write(open.root.join("var/lib/rootstock/up"), boot).unwrap();
        let role = running.wait("Up", |event| match event {
            Event::Up { role } => Some(role.clone()),
            _ => None,
        });
        assert_eq!(role, Role::numbered(1));
    }
}

#[test]
fn a_saved_client_is_read_back_and_read_only_is_obeyed() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let image = running.imported().id;
    let open = running.create(&client(1, &image));
    let mut changed = open.client.clone();
    changed.serial = Some("9ffefdef".parse().unwrap());
    changed.mode = Mode::ReadOnly;
    running.send(Command::SaveClient(Box::new(changed.clone())));
    running.stop();

    let mut running = bench.start_in_folder();
    let (_, clients) = running.opened();
    assert_eq!(clients[0].client, changed);
    let refused = fs::write(clients[0].root.join("etc/hostname"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

/// Starts with one client whose mode is then written into its manifest.
fn start_with_mode(bench: &Bench, mode: Mode) -> (Running, OpenClient) {
    pi_image(&bench.store(), "a.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let image = running.imported().id;
    let open = running.create(&Client { mode, ..client(1, &image) });
    (running, open)
}

#[test]
fn an_ephemeral_root_is_fresh_at_each_boot_and_keeps_its_name_and_keys() {
    let bench = Bench::new();
    let (mut running, open) = start_with_mode(&bench, Mode::Ephemeral);
    let read = |path: &str| fs::read_to_string(open.root.join(path)).unwrap();
    let (key, id) = (read("etc/ssh/ssh_host_ed25519_key"), read("etc/machine-id"));
    assert!(open.renew_at_boot);
    for _ in 0..2 {
        fs::write(open.root.join("new"), "new").unwrap();
        fs::write(open.root.join("usr/share/doc/one"), "changed\n").unwrap();
        fs::remove_file(open.root.join("etc/hostname")).unwrap();
        fs::rename(open.root.join("home/pi"), open.root.join("home/ada")).unwrap();
        fs::write(open.boot.join("kernel8.img"), "new kernel").unwrap();
        let old = handles::handle(&open.root.join("new"));
        let root = handles::handle(&open.root);

        // The server restarts under it: it goes on with what it had.
        running.stop();
        running = bench.start_in_folder();
        let (_, clients) = running.opened();
        assert_eq!(clients, std::slice::from_ref(&open));
        handles::open(&open.root, &old).unwrap();
        handles::open(&open.root, &root).unwrap();
        assert_eq!(read("usr/share/doc/two"), "changed\n", "a hard link of the image was parted");
        assert!(open.root.join("home/ada/.profile").exists());

        // It boots anew.
        let again = running.renew(&open.client.role);
        assert_eq!(again, open);
        assert!(!open.root.join("new").exists() && open.root.join("home/pi/.profile").exists());
        // What was thrown away does not stay on the stick, and is gone for who still has a handle.
        let trash = bench.store().join("trash");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !names(&trash).is_empty() {
            assert!(std::time::Instant::now() < deadline, "{:?}", names(&trash));
            std::thread::yield_now();
        }
        assert_eq!(handles::open(&open.root, &old).unwrap_err().raw_os_error(), Some(libc::ESTALE));
        assert_eq!(read("usr/share/doc/one"), "one\n");
        assert_eq!(read("etc/hostname"), "pi-1\n");
        assert_eq!((read("etc/ssh/ssh_host_ed25519_key"), read("etc/machine-id")), (key.clone(), id.clone()));
        assert_eq!(fs::read_to_string(open.boot.join("kernel8.img")).unwrap(), "kernel");
    }
    // A client that runs holds the old layers for a while: nobody waits for it.
    let held = fs::File::open(open.root.join("etc/hostname")).unwrap();
    running.renew(&open.client.role);
    drop(held);
}

#[test]
fn an_ephemeral_client_tells_that_it_is_up() {
    let bench = Bench::new();
    let (mut running, open) = start_with_mode(&bench, Mode::Ephemeral);
    running.send(Command::WatchUp(Role::numbered(1), true));
    let image = open.client.image.clone();
    running.create(&client(2, &image));
    fs::create_dir_all(open.root.join("var/lib/rootstock")).unwrap();
    fs::write(open.root.join("var/lib/rootstock/up"), "boot id\n").unwrap();
    running.wait("Up", |event| matches!(event, Event::Up { .. }).then_some(()));
}

#[test]
fn a_mode_that_was_changed_holds_from_the_next_boot() {
    let bench = Bench::new();
    let (mut running, open) = start_with_mode(&bench, Mode::Persistent);
    assert!(!open.renew_at_boot);
    fs::write(open.root.join("kept"), "kept").unwrap();
    fs::rename(open.root.join("usr/share/doc"), open.root.join("usr/share/documents")).unwrap();
    let kept = handles::handle(&open.root.join("kept"));
    let role = open.client.role.clone();
    let change = |running: Running, mode: Mode| {
        running.send(Command::SaveClient(Box::new(Client { mode, ..open.client.clone() })));
        running.stop();
        let mut running = bench.start_in_folder();
        running.opened();
        running
    };

    running = change(running, Mode::Ephemeral);
    handles::open(&open.root, &kept).unwrap();
    fs::write(open.root.join("late"), "still persistent").unwrap();
    // A call of NFS is under way in the old root for a moment.
    let held = fs::File::open(open.root.join("late")).unwrap();
    let let_go = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(held);
    });
    running.renew(&role);
    let_go.join().unwrap();
    assert!(open.root.join("late").exists() && open.root.join("usr/share/documents/one").exists());
    fs::write(open.root.join("late"), "thrown away").unwrap();

    running = change(running, Mode::ReadOnly);
    assert_eq!(fs::read_to_string(open.root.join("late")).unwrap(), "thrown away", "it has not booted yet");
    running.renew(&role);
    assert_eq!(fs::read_to_string(open.root.join("late")).unwrap(), "still persistent");
    assert!(open.root.join("usr/share/documents/one").exists(), "a renamed folder of the image");
    handles::open(&open.root, &kept).unwrap();
    let refused = fs::write(open.root.join("late"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    running = change(running, Mode::Persistent);
    fs::write(open.root.join("late"), "writable").unwrap();
    running.stop();
}

/// Opens the store again with the client's manifest changed, and begins its boot.
fn boot_with(bench: &Bench, running: Running, client: Client) -> (Running, OpenClient) {
    let role = client.role.clone();
    running.send(Command::SaveClient(Box::new(client)));
    running.stop();
    let mut running = bench.start_in_folder();
    running.opened();
    let open = running.renew(&role);
    (running, open)
}

fn problem(running: &mut Running) -> String {
    running.wait("Problem", |event| match event {
        Event::Problem { message, .. } => Some(message.clone()),
        _ => None,
    })
}

#[test]
fn a_volume_is_sparse_grows_and_is_never_lost() {
    let bench = Bench::new();
    let (running, open) = start_with_mode(&bench, Mode::Ephemeral);
    assert_eq!(open.volume, None);
    let sized = |mib: u64| Client { volume_size: Some(Size(mib << 20)), ..open.client.clone() };
    let file = bench.store().join("clients/pi-1/volume/containers.ext4");
    let wants = open.root.join("etc/systemd/system/multi-user.target.wants/rootstock-volume.service");

    let (mut running, with) = boot_with(&bench, running, sized(256));
    let served = with.volume.expect("it is mounted").join("containers.ext4");
    let found = fs::metadata(&served).unwrap();
    assert_eq!(found.len(), 256 << 20);
    assert!(found.blocks() * 512 < 16 << 20, "{} blocks", found.blocks());
    run("e2fsck", &["-f", "-n", file.to_str().unwrap()]);
    assert!(fs::symlink_metadata(&wants).is_ok());
    assert_eq!(fs::metadata(open.root.join("usr/local/lib/rootstock/volume")).unwrap().mode() & 0o777, 0o755);
    // What the client keeps there outlives its ephemeral root.
    let loops = bench.path("loop");
    fs::create_dir(&loops).unwrap();
    run("mount", &["-o", "loop", served.to_str().unwrap(), loops.to_str().unwrap()]);
    fs::write(loops.join("kept"), "kept").unwrap();
    unmount(&loops);
    running.renew(&open.client.role);

    let (running, _) = boot_with(&bench, running, sized(512));
    assert_eq!(fs::metadata(&served).unwrap().len(), 512 << 20);
    let (mut running, with) = boot_with(&bench, running, sized(128));
    assert!(with.volume.is_some());
    let told = problem(&mut running);
    assert!(told.contains("pi-1: its volume has 512M and stays so, though volume_size is 128M"), "{told}");
    run("mount", &["-o", "loop", served.to_str().unwrap(), loops.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(loops.join("kept")).unwrap(), "kept");
    unmount(&loops);

    let (mut running, without) = boot_with(&bench, running, open.client.clone());
    assert_eq!(without.volume, None);
    assert!(problem(&mut running).contains("its volume is kept"));
    assert!(fs::symlink_metadata(&wants).is_err());
    assert_eq!(fs::metadata(&file).unwrap().len(), 512 << 20);
}

#[test]
fn a_volume_that_cannot_be_made_is_told_and_the_client_boots() {
    let bench = Bench::new();
    let (running, open) = start_with_mode(&bench, Mode::ReadOnly);
    let small = Client { volume_size: Some(Size(1)), ..open.client.clone() };
    let (mut running, without) = boot_with(&bench, running, small);
    assert_eq!(without.volume, None);
    let told = problem(&mut running);
    assert!(told.contains("volume_size 1 is not between 64M and 16T"), "{told}");
    assert!(fs::write(open.root.join("x"), "x").is_err(), "its root is read-only again");
    // A read-only root gets the unit all the same.
    let (_running, with) = boot_with(&bench, running, Client { volume_size: Some(Size(64 << 20)), ..open.client });
    assert!(with.volume.is_some());
    assert!(with.root.join("usr/local/lib/rootstock/volume").exists());
}

#[test]
fn a_client_of_no_image_is_refused() {
    let bench = Bench::new();
    let mut running = bench.start_in_folder();
    running.opened();
    running.send(Command::CreateClient(Box::new(client(1, &"none-1".parse().unwrap()))));
    let failed = running.wait("ClientFailed", |event| match event {
        Event::ClientFailed { message, action, .. } => Some((message.clone(), action.clone())),
        _ => None,
    });
    assert_eq!(failed, ("there is no image none-1".into(), "Copy an image to the stick".into()));
    assert_eq!(fs::read_dir(bench.store().join("clients")).unwrap().count(), 0);
}

#[test]
fn a_root_names_the_appliances_address_of_today_from_its_next_boot_on() {
    let bench = Bench::new();
    for mode in [Mode::Persistent, Mode::ReadOnly] {
        let (mut running, open) = match mode {
            Mode::Persistent => start_with_mode(&bench, mode),
            _ => {
                let mut running = bench.start_in_folder();
                let (_, clients) = running.opened();
                let image = clients[0].client.image.clone();
                let open = running.create(&Client { mode, ..client(2, &image) });
                (running, open)
            }
        };
        let role = open.client.role.clone();
        let line = |address: &str| {
            let fstab = fs::read_to_string(open.root.join("etc/fstab")).unwrap();
            let ours = format!(":/clients/{role}/boot /boot/firmware nfs");
            let lines: Vec<&str> = fstab.lines().filter(|line| line.contains(&ours)).collect();
            assert_eq!(lines.len(), 1, "{fstab}");
            lines[0].starts_with(&format!("{address}:"))
        };
        assert!(line("192.168.77.1"));
        running.send(Command::Appliance("10.0.0.57".parse().unwrap()));
        assert!(!running.renew(&role).renew_at_boot, "it was fitted");
        assert!(line("10.0.0.57"));
        assert_eq!(fs::write(open.root.join("etc/new"), "new").is_err(), mode == Mode::ReadOnly);
        running.stop();
        // Started anew at its first address, that is what the next boot needs.
        let mut running = bench.start_in_folder();
        let (_, clients) = running.opened();
        assert!(clients.iter().find(|open| open.client.role == role).unwrap().renew_at_boot);
        running.renew(&role);
        assert!(line("192.168.77.1"));
        running.stop();
    }
}
