//! The real server with disks as its sticks, clients on its wire, and commands beside it: what only a stick can do.
//!
//! Needs what `serve_netns` needs.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]
#![allow(dead_code, reason = "serve_netns uses the rest of the lab")]

mod serve_lab;
mod store_support;
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use rustix::process::Signal;
use serve_lab::*;
use store_support::{LoopDisk, MIB, disk, run};
use support::virtual_pi::Board;

/// A stick with a store that holds one image file.
fn stick(lab: &Lab, name: &str) -> LoopDisk {
    let stick = disk(&lab.stick(name), 600 * MIB, "");
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", stick.node.to_str().unwrap()]);
    with_mounted(lab, &stick.node.display().to_string(), |point| {
        fs::copy(image(), point.join("raspios.img")).unwrap();
    });
    stick
}

/// A port into which a stick will be put.
fn later(lab: &Lab, port: u32) -> LoopDisk {
    let node = PathBuf::from(format!("/dev/loop{}", 1000 * (port + 1) + std::process::id()));
    LoopDisk { node, file: lab.stick(&format!("port-{port}")) }
}

fn with_mounted<T>(lab: &Lab, device: &str, work: impl FnOnce(PathBuf) -> T) -> T {
    let point = lab.stick("mounted");
    fs::create_dir_all(&point).unwrap();
    run("mount", &[device, point.to_str().unwrap()]);
    let result = work(point.clone());
    // Lazily: a process that another test starts just now may hold our files until it is itself.
    run("umount", &["-l", point.to_str().unwrap()]);
    result
}

fn serve(lab: &mut Lab, sticks: &[&LoopDisk]) {
    lab.disks = sticks.iter().map(|stick| stick.name()).collect();
    lab.start();
    lab.logged("imported", 0);
    // With a second one the panel asks about that.
    if sticks.iter().filter(|stick| stick.file.exists()).count() == 1 {
        lab.screen("Ready");
    }
}

fn backup(lab: &Lab) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rootstock"));
    command.args(["stick", "backup", "--yes", "--run"]).arg(lab.run_folder()).output().unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

async fn create(client: &mut Mounted, name: &str) -> nfs_fh3 {
    let where_ = diropargs3 { dir: client.root_nfs_fh3(), name: filename3(Opaque::borrowed(name.as_bytes())) };
    let how = createhow3::GUARDED(sattr3 { mode: set_mode3::Some(0o640), ..sattr3::default() });
    let made = client.create(&CREATE3args { where_, how }).await.unwrap().unwrap();
    let post_op_fh3::Some(file) = made.obj else { panic!("no handle") };
    file
}

async fn write(client: &mut Mounted, file: &nfs_fh3, data: &[u8]) -> Result<(), nfsstat3> {
    let (count, data) = (data.len() as u32, Opaque::borrowed(data));
    let args = WRITE3args { file: file.clone(), offset: 0, count, stable: stable_how::FILE_SYNC, data };
    match client.write(&args).await.unwrap() {
        Nfs3Result::Ok(_) => Ok(()),
        Nfs3Result::Err((status, _)) => Err(status),
    }
}

async fn lookup(client: &mut Mounted, name: &str) -> Option<nfs_fh3> {
    let what = diropargs3 { dir: client.root_nfs_fh3(), name: filename3(Opaque::borrowed(name.as_bytes())) };
    match client.lookup(&LOOKUP3args { what }).await.unwrap() {
        Nfs3Result::Ok(found) => Some(found.object),
        Nfs3Result::Err((nfsstat3::NFS3ERR_NOENT, _)) => None,
        Nfs3Result::Err((status, _)) => panic!("{status:?}"),
    }
}

async fn read(client: &mut Mounted, file: &nfs_fh3) -> Vec<u8> {
    let read = client.read(&READ3args { file: file.clone(), offset: 0, count: 100 }).await.unwrap();
    read.unwrap().data.as_ref().to_vec()
}

#[test]
fn a_command_beside_the_server_copies_its_stick_as_of_one_moment_while_a_client_writes() {
    let mut lab = Lab::new();
    let first = stick(&lab, "one");
    let second = disk(&lab.stick("two"), 1200 * MIB, "");
    serve(&mut lab, &[&first, &second]);
    lab.logged("can become a copy of the store", 0);
    let (pi, _) = lab.enrolled(Board::Pi4B, 1);

    let (written, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let output = std::thread::scope(|scope| {
        // One number into two files, always into the first before.
        scope.spawn(|| {
            pi.net(async || {
                let mut client = mount("/clients/pi-1/root").await.unwrap();
                let files = [create(&mut client, "a-first").await, create(&mut client, "z-second").await];
                for n in 1u64.. {
                    for file in &files {
                        // A write that waits for the copy's last pass is asked again.
                        while let Err(status) = write(&mut client, file, &n.to_be_bytes()).await {
                            assert_eq!(status as u32, nfsstat3::NFS3ERR_JUKEBOX as u32);
                        }
                    }
                    written.store(n, Ordering::Relaxed);
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        });
        eventually("writes", || (written.load(Ordering::Relaxed) > 20).then_some(()));
        let output = backup(&lab);
        let then = written.load(Ordering::Relaxed);
        eventually("writes behind the copy", || (written.load(Ordering::Relaxed) > then).then_some(()));
        over.store(true, Ordering::Relaxed);
        output
    });
    assert!(output.status.success(), "{}\n{}", said(&output), lab.log());
    assert!(said(&output).contains("is complete; "), "{}", said(&output));
    assert!(lab.end_by(Signal::TERM).success());

    let copy = format!("{}p1", second.node.display());
    run("e2fsck", &["-f", "-n", &copy]);
    with_mounted(&lab, &copy, |point| {
        let number = |name: &str| {
            let bytes = fs::read(point.join("clients/pi-1/upper").join(name)).unwrap();
            u64::from_be_bytes(bytes.try_into().unwrap())
        };
        let (a, z) = (number("a-first"), number("z-second"));
        assert!(a > 20 && (a == z || a == z + 1), "{a} and {z} are of two moments");
        assert!(a < written.load(Ordering::Relaxed), "it was copied while the client wrote");
        assert!(fs::read_to_string(point.join("backup.toml")).unwrap().contains("taken = "));
    });
}

#[test]
fn when_the_stick_stops_taking_writes_clients_read_on_and_who_boots_lives_in_memory_until_it_is_put_in_unlocked() {
    let mut lab = Lab::new();
    let only = stick(&lab, "one");
    // The same, put in again into other ports.
    let [locked, again] = [1, 2].map(|port| later(&lab, port));
    serve(&mut lab, &[&only, &locked, &again]);
    let refused = backup(&lab);
    let words = "there is no second stick that could become a copy";
    assert!(!refused.status.success() && said(&refused).contains(words), "{}", said(&refused));

    let (runs, _) = lab.enrolled(Board::Pi4B, 1);
    let (boots, address) = lab.enrolled(Board::Pi5, 2);
    let store = lab.run_folder().join("store");
    let handle = runs.net(async || {
        let mut client = mount("/clients/pi-1/root").await.unwrap();
        let file = create(&mut client, "kept").await;
        write(&mut client, &file, b"kept").await.unwrap();
        // Who the clients are is in its place, and not only in the journal: the kernel sees to that in half a minute.
        run("sync", &["-f", store.to_str().unwrap()]);
        // ext4's own test of errors=remount-ro.
        fs::write(format!("/sys/fs/ext4/{}/trigger_fs_error", only.name()), "1").unwrap();
        let started = Instant::now();
        loop {
            assert_eq!(read(&mut client, &file).await, b"kept");
            match write(&mut client, &file, b"lost").await {
                Err(nfsstat3::NFS3ERR_ROFS) => break,
                // The kernel waits and asks again.
                Err(nfsstat3::NFS3ERR_JUKEBOX) => {}
                other => panic!("{other:?}"),
            }
            assert!(started.elapsed() < PATIENCE, "never refused");
        }
        println!("refused after {:?}", started.elapsed());
        file
    });
    lab.logged("takes no writes any more", 0);
    lab.told("takes no writes any more");
    // The handle of before goes on being good, and the refusal stays.
    runs.net(async || {
        let mut client = mount("/clients/pi-1/root").await.unwrap();
        let file = lookup(&mut client, "kept").await.unwrap();
        assert_eq!(read(&mut client, &file).await, b"kept");
        assert!(matches!(write(&mut client, &file, b"lost").await, Err(nfsstat3::NFS3ERR_ROFS)));
    });

    boots.netns.ip("address flush dev eth0");
    assert_eq!(lab.boots(&boots).address, address);
    boots.netns.ip(&format!("address add {address}/24 dev eth0"));
    boots.net(async || {
        let mut client = mount("/clients/pi-2/root").await.unwrap();
        let file = create(&mut client, "of this boot").await;
        write(&mut client, &file, b"x").await.unwrap();
    });
    lab.enrolled(Board::Pi3B, 3);

    // Pulled, and put in again with its lock still on: what is on it serves, and stays as it is.
    for port in [&locked, &again] {
        run("cp", &[only.file.to_str().unwrap(), port.file.to_str().unwrap()]);
    }
    let mark = lab.log().len();
    only.pull();
    lab.logged("was pulled", mark);
    run("losetup", &["-r", locked.node.to_str().unwrap(), locked.file.to_str().unwrap()]);
    let unclean = "is write-protected, and what was written to it last is not seen. Clients live in";
    lab.logged(&format!("{} {unclean}", locked.name()), mark);
    lab.logged("1 images, 2 clients", mark);
    lab.told(&format!("Nothing is kept: {}", locked.name()));
    boots.netns.ip("address flush dev eth0");
    assert_eq!(lab.boots(&boots).address, address);
    boots.netns.ip(&format!("address add {address}/24 dev eth0"));
    boots.net(async || {
        let mut client = mount("/clients/pi-2/root").await.unwrap();
        assert!(lookup(&mut client, "of this boot").await.is_none(), "a former boot's");
        let file = create(&mut client, "of this boot").await;
        write(&mut client, &file, b"x").await.unwrap();
    });
    run("cmp", &[locked.file.to_str().unwrap(), again.file.to_str().unwrap()]);

    // Unlocked and put in again: the check mends what ext4 stopped for, and who ran goes on by the handle of before.
    let mark = lab.log().len();
    locked.pull();
    lab.logged("was pulled", mark);
    run("losetup", &[again.node.to_str().unwrap(), again.file.to_str().unwrap()]);
    lab.logged("1 images, 2 clients", mark);
    let kept = runs.net(async || {
        let mut client = mount("/clients/pi-1/root").await.unwrap();
        // The kernel waits and asks again while the store is being opened.
        let began = Instant::now();
        while let Err(status) = write(&mut client, &handle, b"KE").await {
            assert!(status as u32 == nfsstat3::NFS3ERR_JUKEBOX as u32 && began.elapsed() < PATIENCE, "{status:?}");
        }
        read(&mut client, &handle).await
    });
    assert_eq!(kept, b"KEpt");
    boots.net(async || {
        let mut client = mount("/clients/pi-2/root").await.unwrap();
        assert!(lookup(&mut client, "of this boot").await.is_none(), "it lived in memory");
    });
}

/// A stick that has to think: whoever writes to it waits, until this is dropped.
struct StandingStill(PathBuf);

impl StandingStill {
    fn new(store: PathBuf) -> Self {
        run("fsfreeze", &["--freeze", store.to_str().unwrap()]);
        Self(store)
    }
}

impl Drop for StandingStill {
    fn drop(&mut self) {
        run("fsfreeze", &["--unfreeze", self.0.to_str().unwrap()]);
    }
}

#[test]
fn while_the_stick_stands_still_a_board_loads_and_the_panel_answers() {
    let mut lab = Lab::new();
    let only = stick(&lab, "one");
    serve(&mut lab, &[&only]);
    let (writes, _) = lab.enrolled(Board::Pi4B, 1);
    let (boots, address) = lab.enrolled(Board::Pi5, 2);
    boots.netns.ip("address flush dev eth0");
    let written = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stands_still = StandingStill::new(lab.run_folder().join("store"));
        scope.spawn(|| {
            writes.net(async || {
                let mut client = mount("/clients/pi-1/root").await.unwrap();
                let file = create(&mut client, "slow").await;
                write(&mut client, &file, b"slow").await.unwrap();
                written.store(true, Ordering::Relaxed);
            });
        });
        assert_eq!(lab.boots(&boots).address, address);
        lab.open_window();
        assert!(!written.load(Ordering::Relaxed), "it wrote to what stood still");
        drop(stands_still);
    });
    assert!(written.load(Ordering::Relaxed));
    assert_eq!(fs::read(lab.run_folder().join("store/clients/pi-1/upper/slow")).unwrap(), b"slow");
}

#[test]
fn of_two_sticks_with_a_store_the_panel_says_which_serves_until_the_other_is_pulled() {
    let mut lab = Lab::new();
    let sticks = ["one", "two"].map(|name| stick(&lab, name));
    for stick in &sticks {
        // One that is empty could become a copy of the other.
        let node = stick.node.display().to_string();
        with_mounted(&lab, &node, |point| fs::create_dir(point.join("clients")).unwrap());
    }
    serve(&mut lab, &[&sticks[0], &sticks[1]]);
    let (said, _) = lab.logged(" has a store too; ", 0);
    let serves = |stick: &&LoopDisk| said.contains(&format!("; {} is used", stick.name()));
    let used = sticks.iter().find(serves).expect("one is used");
    let other = sticks.iter().find(|stick| !serves(stick)).expect("the other is not");
    let words = format!("{} has a store too; {} is used. Pull the one that is not wanted", other.name(), used.name());
    assert!(said.contains(&words), "{said}");
    let problems = |lab: &Lab| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rootstock"));
        let status = command.args(["status", "--json", "--run"]).arg(lab.run_folder()).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        status["problems"].to_string()
    };
    assert!(problems(&lab).contains("has a store too"), "{}", problems(&lab));
    lab.told(&format!("{} has a store too", other.name()));

    let (pi, _) = lab.enrolled(Board::Pi4B, 1);
    other.pull();
    eventually("the other is forgotten", || (!problems(&lab).contains("has a store too")).then_some(()));
    pi.net(async || {
        let mut client = mount("/clients/pi-1/root").await.unwrap();
        let file = create(&mut client, "kept").await;
        write(&mut client, &file, b"kept").await.unwrap();
    });
    assert!(lab.end_by(Signal::TERM).success());
    let is_there = |device: &str| with_mounted(&lab, device, |point| point.join("clients/pi-1/upper/kept").exists());
    assert!(is_there(used.node.to_str().unwrap()));
}
