//! The black box and the self-test of the real binary, in network namespaces: a
//! boot that stops leaves a report on the stick that the real tcpdump reads.
//!
//! Needs root, loop devices, ext4, overlayfs, and `apt-get install iproute2
//! e2fsprogs fdisk mtools tcpdump xz-utils`.

#![allow(dead_code, reason = "serve_netns uses the rest of the lab")]
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod serve_lab;
mod store_support;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serve_lab::*;
use support::virtual_pi::Board;
use support::virtual_pi::session::Session;

fn rootstock(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rootstock"));
    command.args(arguments).arg("--run").arg(lab.run_folder());
    command.output().unwrap()
}

#[track_caller]
fn asked(lab: &Lab, arguments: &[&str]) -> String {
    let output = rootstock(lab, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}\n{}", lab.log());
    String::from_utf8(output.stdout).unwrap()
}

/// The reports on the stick whose name ends so, once there is one.
#[track_caller]
fn report(lab: &Lab, why: &str) -> PathBuf {
    let folder = lab.stick("reports");
    eventually(&format!("a report of a {why}"), || {
        let entries = fs::read_dir(&folder).ok()?;
        let mut paths = entries.map(|entry| entry.unwrap().path());
        // One that is being written has a name that begins with a dot.
        paths.find(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.ends_with(why) && !name.starts_with('.')
        })
    })
}

/// What tcpdump makes of the capture.
#[track_caller]
fn tcpdump(report: &Path) -> String {
    let output = Command::new("tcpdump").args(["-nn", "-v", "-r"]).arg(report.join("packets.pcapng")).output();
    let output = output.expect("apt-get install tcpdump");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_boot_that_stops_leaves_a_report_that_tcpdump_reads() {
    let mut lab = Lab::ready();
    // The image was tested behind its import.
    lab.logged("self-test: image raspios", 0);
    // A client that boots as far as a virtual board can, and its root as its kernel mounts it.
    let (pi, _) = lab.enrolled(Board::Pi4B, 1);
    assert!(pi.net(async || mount("/clients/pi-1/root").await.is_ok()));
    let text = asked(&lab, &["self-test", "pi-1"]);
    assert!(text.contains("client pi-1 boots on Pi 4B"), "{text}");

    // Another one takes its address and is not heard of again.
    let silent = lab.plug(Board::Pi5, 2);
    lab.open_window();
    silent.netns.run(|| {
        let mut session = Session::open("eth0", silent.board.mac, PATIENCE).unwrap();
        silent.board.acquire(&mut session).unwrap();
    });
    let text = asked(&lab, &["report"]);
    assert!(text.contains("reports/"), "{text}");
    let page = fs::read_to_string(report(&lab, "-asked").join("report.html")).unwrap();
    assert!(page.contains("pi-1") && page.contains("kernel8.img") && page.contains("INFO"), "{page}");

    // A stage may be silent for 40 s.
    let start = Instant::now();
    while !lab.log().contains("client pi-2 is stuck, address") {
        assert!(start.elapsed() < 2 * PATIENCE, "{}", lab.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    let stall = report(&lab, "-stall");
    let page = fs::read_to_string(stall.join("report.html")).unwrap();
    for part in ["The boot of pi-2 stopped", "TFTP_IP", "pi-2: leased", "DHCP Discover"] {
        assert!(page.contains(part), "no {part:?} in\n{page}");
    }
    let packets = tcpdump(&stall);
    for part in ["BOOTP/DHCP, Request", "BOOTP/DHCP, Reply", "RRQ", "start4.elf", "192.168.77.1.69", ".111:"] {
        assert!(packets.contains(part), "no {part:?} in\n{packets}");
    }
    assert!(!packets.contains("truncated-ip") && !packets.contains("bad cksum"), "{packets}");
    let capture = fs::read(stall.join("packets.pcapng")).unwrap();
    assert!(capture.windows(12).any(|part| part == b"client pi-2,"), "packets name their client");
    assert!(fs::read_to_string(stall.join("log.txt")).unwrap().contains("enrolling Pi 5"));
    no_secrets(&lab, &stall);

    // Killed, the server is started again and tells what came before.
    lab.kill();
    lab.start();
    let crash = report(&lab, "-crash");
    let log = fs::read_to_string(crash.join("log.txt")).unwrap();
    assert!(log.contains("is stuck, address"), "{log}");
    tcpdump(&crash);
    lab.logged("report saved on the stick", 0);

    // Ended in order, it has nothing to tell.
    assert!(lab.end_by(Signal::TERM).success());
    let before = fs::read_dir(lab.stick("reports")).unwrap().count();
    let from = lab.log().len();
    lab.start();
    lab.logged("store open", from);
    lab.screen("Ready");
    assert_eq!(fs::read_dir(lab.stick("reports")).unwrap().count(), before);
}

/// Neither the key of the handles nor a password hash stands in any file of it.
#[track_caller]
fn no_secrets(lab: &Lab, report: &Path) {
    let key = fs::read(lab.stick("handle.key")).unwrap();
    assert_eq!(key.len(), 16);
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    for entry in fs::read_dir(report).unwrap() {
        let path = entry.unwrap().path();
        let content = fs::read(&path).unwrap();
        let has = |part: &[u8]| content.windows(part.len()).any(|window| window == part);
        assert!(!has(&key) && !has(hex.as_bytes()) && !has(b"root:*:"), "{}", path.display());
    }
}

#[test]
fn the_self_test_names_the_step_that_fails_and_leaves_nothing_behind() {
    let mut lab = Lab::ready();
    lab.logged("self-test: image raspios", 0);
    lab.logged("boots on", 0);
    // The image that was mounted for its own test is let go: no client needs it.
    let images = |lab: &Lab| lab.mounts().iter().filter(|point| point.contains("/images/")).count();
    eventually("the image to be let go", || (images(&lab) == 0).then_some(()));
    let (_pi, _) = lab.enrolled(Board::Pi4B, 1);
    let mounts = lab.mounts();
    let text = asked(&lab, &["self-test"]);
    for part in ["Pi 3B", "Pi 4B", "Pi 5", "boot files"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!(lab.mounts(), mounts);
    // Somebody deletes the client's kernel, and its init.
    let upper = |name: &str| lab.run_folder().join("clients/pi-1").join(name);
    fs::remove_file(upper("boot/kernel8.img")).unwrap();
    let output = rootstock(&lab, &["self-test", "pi-1"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && words.contains("fails at boot files: Pi 4B: no kernel"), "{words}");
    fs::copy(upper("boot/kernel_2712.img"), upper("boot/kernel8.img")).unwrap();
    fs::remove_file(upper("root/sbin/init")).unwrap();
    let output = rootstock(&lab, &["self-test", "pi-1"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && words.contains("fails at init: /sbin/init is not there"), "{words}");
    let page = fs::read_to_string(report(&lab, "-self-test").join("report.html")).unwrap();
    assert!(page.contains("The self-test failed"), "{page}");
    lab.told("fails at init");
    let output = rootstock(&lab, &["self-test", "pi-7"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no such"), "{output:?}");
    // No fake client stayed.
    assert!(lab.end_by(Signal::TERM).success());
    assert!(!fs::read_dir(lab.stick("clients")).unwrap().any(|entry| entry.unwrap().file_name() == "self-test"));
}
