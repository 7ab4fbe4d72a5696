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
    if let [_] = sticks {
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
fn when_the_stick_stops_taking_writes_clients_read_on_and_are_refused_and_who_boots_lives_in_memory() {
    let mut lab = Lab::new();
    let only = stick(&lab, "one");
    serve(&mut lab, &[&only]);
    let refused = backup(&lab);
    let words = "there is no second stick that could become a copy";
    assert!(!refused.status.success() && said(&refused).contains(words), "{}", said(&refused));

    let (runs, _) = lab.enrolled(Board::Pi4B, 1);
    let (boots, address) = lab.enrolled(Board::Pi5, 2);
    runs.net(async || {
        let mut client = mount("/clients/pi-1/root").await.unwrap();
        let file = create(&mut client, "kept").await;
        write(&mut client, &file, b"kept").await.unwrap();
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
    });
    lab.logged("takes no writes any more", 0);
    lab.told("takes no writes any more");
    // The handle of before goes on being good, and the refusal stays.
    runs.net(async || {
        let mut client = mount("/clients/pi-1/root").await.unwrap();
        let what = diropargs3 { dir: client.root_nfs_fh3(), name: filename3(Opaque::borrowed(b"kept")) };
        let file = client.lookup(&LOOKUP3args { what }).await.unwrap().unwrap().object;
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
    assert!(lab.end_by(Signal::TERM).success());

    // The check at the next start mends what ext4 stopped for.
    let mark = lab.log().len();
    lab.start();
    lab.logged("1 images, 2 clients", mark);
    let kept = runs.net(async || {
        let mut client = mount("/clients/pi-1/root").await.unwrap();
        let what = diropargs3 { dir: client.root_nfs_fh3(), name: filename3(Opaque::borrowed(b"kept")) };
        let file = client.lookup(&LOOKUP3args { what }).await.unwrap().unwrap().object;
        write(&mut client, &file, b"KE").await.unwrap();
        read(&mut client, &file).await
    });
    assert_eq!(kept, b"KEpt");
}
