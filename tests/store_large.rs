//! Neither how large an image is nor how much a client changed makes a person wait: enrolment, a reset, a swap and a
//! snapshot take less than a second, from the order until the client can be served again.
//!
//! What could depend on size: files and folders of the image, what the client made anew (its upper layer), what it
//! changed of the image's (overlayfs's index), files with several names of which one was changed. One thing still does: each
//! file of the image that was changed in its place since the last snapshot costs the next one and each mount some
//! microseconds. The kernel looks through them as it mounts, and their index must be gone before they are frozen.
//!
//! `ROOTSTOCK_LARGE=1` does it with some ten times as much and a cold cache: `just soak`. There a snapshot took 0.30 to
//! 0.33 s in three tries on two idle cores (2026-11-30, release; a swap 0.1 s, enrolment and a reset 0.03), and 0.17 of what
//! the code before took, in turns on a busy machine: the names of one file come from the image's table (`links`), and no
//! longer from a look through the root.
//! Needs root and loop devices.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rootstock::client::{Model, Role};
use rootstock::store::operate::{Board, Operation};
use rootstock::store::{Command, Event};
use store_support::limits::Limits;
use store_support::*;

/// How much there is of everything.
struct Size {
    folders: usize,
    /// In each folder of the image, the first with a second name.
    files: usize,
    root_bytes: u64,
    /// Files of the image that the client changes, and those that it makes anew.
    changed: usize,
    made: usize,
}

const SMALL: Size = Size { folders: 1000, files: 20, root_bytes: 256 * MIB, changed: 2_000, made: 5_000 };
const LARGE: Size = Size { folders: 10_000, files: 20, root_bytes: 4096 * MIB, changed: 10_000, made: 50_000 };

fn path(folder: usize, file: usize) -> String {
    format!("usr/lib/large/{:02}/{folder}/{file}", folder % 100)
}

/// The second name of a folder's first file, where the client changes nothing.
fn second_name(folder: usize) -> String {
    format!("usr/share/linked/{}/{folder}", folder / 10)
}

fn large_root(root: &Path, size: &Size) {
    for folder in 0..size.folders {
        fs::create_dir_all(root.join(path(folder, 0)).parent().unwrap()).unwrap();
        for file in 0..size.files {
            fs::write(root.join(path(folder, file)), "x").unwrap();
        }
        let second = root.join(second_name(folder));
        fs::create_dir_all(second.parent().unwrap()).unwrap();
        fs::hard_link(root.join(path(folder, 0)), second).unwrap();
    }
}

/// What a busy client does: of the image's files it changes many, of those with two names only one; it makes many of its own.
fn changes(root: &Path, size: &Size) {
    let changed = (0..size.folders).flat_map(|folder| (0..size.files).map(move |file| path(folder, file)));
    for path in changed.take(size.changed) {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o600)).unwrap();
    }
    for n in 0..size.made {
        let folder = root.join(format!("srv/{}", n / 50));
        if n % 50 == 0 {
            fs::create_dir_all(&folder).unwrap();
        }
        fs::write(folder.join(n.to_string()), "x").unwrap();
    }
}

/// Both names of what was changed by one of them are the same file still.
fn are_one(root: &Path, size: &Size) {
    for folder in 0..size.changed / size.files {
        let mode = fs::metadata(root.join(second_name(folder))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", second_name(folder));
    }
}

/// From the order until the client can be served again.
fn operate(running: &mut Running, operation: Operation) -> Duration {
    let started = Instant::now();
    running.send(Command::Operate(1, Box::new(operation.clone())));
    let result = running.wait("Operated", |event| match event {
        Event::Operated { result, .. } => Some(result.clone()),
        _ => None,
    });
    assert!(result.is_ok(), "{operation:?}: {result:?}");
    let clients = running.wait("Changed", |event| match event {
        Event::Changed { clients, .. } => Some(clients.len()),
        _ => None,
    });
    assert_eq!(clients, 1, "{operation:?}");
    started.elapsed()
}

fn forget_caches(is_large: bool) {
    if is_large {
        rustix::fs::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    }
}

#[test]
fn neither_a_large_image_nor_a_client_that_changed_much_makes_anybody_wait() {
    let is_large = std::env::var_os("ROOTSTOCK_LARGE").is_some();
    Limits::are_kept(|limits| attempt(is_large, limits));
}

fn attempt(is_large: bool, limits: &mut Limits) {
    let size = if is_large { LARGE } else { SMALL };
    let bench = Bench::new();
    // In memory: overlayfs waits for the disk at each file that it copies up, which is not what is asked here.
    run("mount", &["-t", "tmpfs", "memory", bench.folder.path().to_str().unwrap()]);
    let store = bench.store_on(&bench.path("disk"), 4 * size.root_bytes);
    let (boot, root) = (bench.path("boot"), bench.path("root"));
    pi_root(&root);
    large_root(&root, &size);
    fs::create_dir(&boot).unwrap();
    fs::write(boot.join("config.txt"), "arm_64bit=1\n").unwrap();
    make_image_sized(&store.join("a.img"), &boot, &root, size.root_bytes, &["-i", "8192"]);
    println!("image made");
    let mut running = bench.start_in_folder();
    running.opened();
    let image = running.imported().id;
    fs::remove_file(store.join("a.img")).unwrap();
    println!("imported");
    // Behind the import; a person has not enrolled a client and changed so much meanwhile.
    let links = store.join("images").join(image.as_str()).join("links");
    let began = Instant::now();
    while !links.exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "no table of the files with several names");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("looked through after {:?}, {} bytes", began.elapsed(), fs::metadata(&links).unwrap().len());

    let second = Duration::from_secs(1);
    forget_caches(is_large);
    let started = Instant::now();
    let open = running.create(&client(1, &image));
    limits.check("enrol", started.elapsed(), second);
    changes(&open.root, &size);
    rustix::fs::syncfs(fs::File::open(&store).unwrap()).unwrap();
    println!("changed");

    let role = Role::numbered(1);
    let board = |n: u8| Board {
        mac: format!("d8:3a:dd:00:00:{n:02x}").parse().unwrap(),
        serial: None,
        revision: None,
        model: Model::Pi5,
    };
    let reset = || Operation::Reset { role: role.clone(), new_identity: false };
    let snapshot = |name: &str| Operation::Snapshot { role: role.clone(), name: name.parse().unwrap() };
    for (what, operation, limit) in [
        ("swap", Operation::Swap { role: role.clone(), board: board(1) }, second),
        ("snapshot", snapshot("a"), second),
        ("swap over a frozen layer", Operation::Swap { role: role.clone(), board: board(2) }, second),
        ("snapshot of nothing new", snapshot("b"), second),
        ("reset", reset(), second),
        ("restore", Operation::Restore { role: role.clone(), name: "a".parse().unwrap() }, second),
    ] {
        forget_caches(is_large);
        limits.check(what, operate(&mut running, operation), limit);
        if what.starts_with("snapshot") {
            are_one(&open.root, &size);
        }
    }
    changes(&open.root, &size);
    forget_caches(is_large);
    limits.check("reset of a root that changed much", operate(&mut running, reset()), second);
    running.stop();
}
