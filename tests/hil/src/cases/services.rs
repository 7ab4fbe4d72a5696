//! Our services on a wire: `rootstock serve` in one network namespace, a virtual
//! Pi in another, a switch between. The kernel of this very board carries them.
//!
//! I/O. Needs `ip`, which Rootstock's own card has not; no interface of the
//! board itself is touched. The namespaces and all mounts go when it ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::bench::Bench;
use crate::verdict::{Outcome, Trouble, failed, not_proven};
use netns::{Child, Netns};
use panel_tty::PanelTty;
use virtual_pi::{Board, VirtualPi};

#[path = "../../../support/netns.rs"]
#[allow(dead_code, reason = "the integration tests use the rest")]
mod netns;
#[path = "../../../support/panel_tty.rs"]
#[allow(dead_code, reason = "the integration tests use the rest")]
mod panel_tty;
#[path = "../../../support/virtual_pi/mod.rs"]
#[allow(dead_code, reason = "the integration tests use the rest")]
mod virtual_pi;

const PATIENCE: Duration = Duration::from_secs(60);
/// A root that passes for a Raspberry Pi OS, as small as it may be.
const FILES: [(&str, &str); 13] = [
    ("etc/fstab", "PARTUUID=a-01 /boot/firmware vfat defaults 0 2\nPARTUUID=a-02 / ext4 defaults 0 1\n"),
    ("etc/hostname", "raspberrypi\n"),
    ("etc/hosts", "127.0.1.1\traspberrypi\n"),
    ("etc/machine-id", "uninitialized\n"),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
    ("etc/shadow", "root:*:1:0:99999:7:::\n"),
    ("etc/ssh/sshd_config", "\n"),
    ("usr/lib/systemd/systemd", "program"),
    ("usr/lib/systemd/system/ssh.service", "[Unit]\n"),
    ("boot/firmware/config.txt", "arm_64bit=1\nauto_initramfs=1\n"),
    ("boot/firmware/cmdline.txt", "console=tty1 root=PARTUUID=a-02 rootfstype=ext4 rootwait\n"),
    ("boot/firmware/overlays/README", "\n"),
    ("boot/firmware/issue.txt", "hil\n"),
];
/// Programs and device trees of the virtual Pi 4, by name and bytes.
const BLOBS: [(&str, usize); 5] = [
    ("start4.elf", 225_280),
    ("fixup4.dat", 5_120),
    ("kernel8.img", 2_000_000),
    ("initramfs8", 400_003),
    ("bcm2711-rpi-4-b.dtb", 56_000),
];

pub fn answer(bench: &Bench) -> Outcome {
    if Command::new("ip").arg("-V").output().is_err() {
        return not_proven("this system has no `ip` to make a wire with; another Linux (just hil HOST) has");
    }
    if !rustix::process::geteuid().is_root() {
        return not_proven("it needs root");
    }
    let program = program()?;
    // SAFETY: only this thread's view of mounts changes, and that of what it starts.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
        .and_then(|()| mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC))
        .or_else(|error| failed(format!("a mount namespace: {error}")))?;
    let place = std::env::temp_dir().join(format!("rootstock-hil-{}", std::process::id()));
    let outcome = exercise(&program, &place);
    let _ = fs::remove_dir_all(&place);
    match outcome {
        Ok(told) if bench.board.emulated.is_some() => Ok(format!("{told}, at this machine's speed")),
        other => other,
    }
}

/// On the appliance, or copied beside this program.
fn program() -> Result<PathBuf, Trouble> {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("rootstock")));
    let places = beside.into_iter().chain([PathBuf::from("/bin/rootstock")]);
    places.into_iter().find(|path| path.exists()).map_or_else(|| not_proven("no `rootstock` beside this program"), Ok)
}

fn exercise(program: &Path, place: &Path) -> Outcome {
    let (stick, run, log) = (place.join("stick"), place.join("run"), place.join("log"));
    make_image(place, &stick)?;
    let (switch, server, client) = (Netns::new("switch"), Netns::new("serve"), Netns::new("pi"));
    switch.bridge("br0");
    switch.plug("br0", "port-s", &server, "eth0", [0xb8, 0x27, 0xeb, 0, 0, 1]);
    let pi = VirtualPi::new(Board::Pi4B, 1, "eth0");
    switch.plug("br0", "port-p", &client, "eth0", pi.mac);

    let (far, near, tty) = terminal()?;
    let keys = far.try_clone().or_else(|error| failed(format!("a terminal: {error}")))?;
    let mut panel = PanelTty::on(far, keys, |_| ());
    let errors = File::create(&log).or_else(|error| failed(format!("{}: {error}", log.display())))?;
    let arguments = [("--stick", &stick), ("--run", &run), ("--panel", &tty)];
    let mut command = Command::new(program);
    command
        .args(["serve", "--interface", "eth0"])
        .args(arguments.iter().flat_map(|(name, value)| [OsStr::new(*name), value.as_os_str()]))
        .stderr(errors);
    let served = server.run(|| command.spawn()).or_else(|error| failed(format!("{}: {error}", program.display())))?;
    let served = Child(served);
    let said = |error: String| -> Outcome {
        let log = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        failed(format!("{error}; the server's last lines:\n{}", lines[lines.len().saturating_sub(8)..].join("\n")))
    };
    let start = Instant::now();
    if let Err(error) = panel.wait_for("Ready", PATIENCE) {
        return said(error);
    }
    let ready = start.elapsed();
    if let Err(error) = panel.press('e').and_then(|()| panel.wait_for("Waiting for a Pi", PATIENCE).map(drop)) {
        return said(error);
    }
    let start = Instant::now();
    let fetched = match client.run(|| pi.boot(PATIENCE)) {
        Ok(fetched) => fetched,
        Err(failure) => return said(failure.to_string()),
    };
    let loaded = start.elapsed();
    let bytes: usize = fetched.files.values().map(Vec::len).sum();
    if fetched.kernel().map(<[u8]>::len) != Some(BLOBS[2].1) {
        return said("the kernel that came by TFTP is not the one on the stick".to_owned());
    }
    client.ip(&format!("address add {}/24 dev eth0", fetched.address));
    let path = fetched.command_line("ttyAMA0");
    let Some(path) = path.split_once("nfsroot=").and_then(|(_, rest)| rest.split([':', ',', ' ']).nth(1)) else {
        return said(format!("no nfsroot= in the client's cmdline.txt: {path}"));
    };
    let read = client.run(|| hostname(&fetched.server.to_string(), path));
    let told = match read {
        Ok(name) if name == "pi-1" => format!(
            "ready after {:.1} s; {} files, {:.1} MB in {:.1} s by TFTP; its root says {name}",
            ready.as_secs_f64(),
            fetched.files.len(),
            bytes as f64 / 1e6,
            loaded.as_secs_f64()
        ),
        Ok(name) => return said(format!("the client's /etc/hostname by NFS is {name:?}, not pi-1")),
        Err(error) => return said(format!("by NFS: {error}")),
    };
    stop(served);
    drop(near);
    Ok(told)
}

/// In order, so that it unmounts what it mounted.
fn stop(mut served: Child) {
    if let Some(pid) = rustix::process::Pid::from_raw(served.0.id().cast_signed()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let start = Instant::now();
    while start.elapsed() < PATIENCE && matches!(served.0.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Mounts with this kernel's own NFS client where it has one, else asks by hand.
fn hostname(server: &str, path: &str) -> Result<String, String> {
    super::nfs::read_file(server, path, &["etc", "hostname"]).map(|text| text.trim().to_owned())
}

fn make_image(place: &Path, stick: &Path) -> Result<(), Trouble> {
    let root = place.join("root");
    let write = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&root)).and_then(|()| fs::write(&path, bytes))
    };
    let make = || {
        for folder in ["proc", "sys", "dev", "root", "tmp", "home"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::create_dir_all(stick)?;
        FILES.iter().try_for_each(|(name, text)| write(name, text.as_bytes()))?;
        BLOBS.iter().try_for_each(|(name, bytes)| {
            let content: Vec<u8> = (0..*bytes).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 11) as u8).collect();
            write(&format!("boot/firmware/{name}"), &content)
        })
    };
    make().or_else(|error| failed(format!("{}: {error}", place.display())))?;
    let made = Command::new("tar").arg("-cf").arg(stick.join("hil.tar")).arg("-C").arg(&root).arg(".").status();
    match made {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => failed(format!("tar: {status}")),
        Err(error) => not_proven(format!("tar: {error}")),
    }
}

/// Both ends of a terminal, and the near one's path.
fn terminal() -> Result<(File, OwnedFd, PathBuf), Trouble> {
    let (mut far, mut near) = (-1, -1);
    use std::ptr::{null, null_mut};
    // SAFETY: both pointers are to integers that live through the call; the others may be null.
    if unsafe { libc::openpty(&raw mut far, &raw mut near, null_mut(), null(), null()) } != 0 {
        return failed(format!("a terminal: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: openpty has just made both descriptors, and nothing else owns them.
    let (far, near) = unsafe { (File::from_raw_fd(far), OwnedFd::from_raw_fd(near)) };
    let path = fs::read_link(format!("/proc/self/fd/{}", near.as_raw_fd()));
    path.map_or_else(|error| failed(format!("a terminal: {error}")), |path| Ok((far, near, path)))
}
