//! The client: a virtual Pi's firmware on the wire, then its kernel in QEMU.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::show::Show;
use crate::support::command::run;
use crate::support::netns::Netns;
use crate::support::qemu::{Machine, Start, virt};
use crate::support::virtual_pi::{Board, Fetched, VirtualPi};

/// A real Pi 4 gives up a boot attempt after 45 s of DHCP and 30 s a file.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Client {
    pi: VirtualPi,
    fetched: Option<Fetched>,
    machine: Option<Machine>,
}

impl Client {
    pub fn new(board: Board, number: u8) -> Self {
        Self { pi: VirtualPi::new(board, number, "eth0"), fetched: None, machine: None }
    }

    pub fn address(&self) -> Result<Ipv4Addr, String> {
        self.fetched.as_ref().map(|fetched| fetched.address).ok_or_else(|| "the client has no address yet".to_owned())
    }

    /// Powers the board on: its loaders fetch the boot files, which must be the image's.
    pub fn load(&mut self, lab: &Lab, show: &Show, which: &str) -> Result<(), String> {
        let began = Instant::now();
        let netns = Netns::new("pi");
        lab.wire.plug("br0", "pi-port", &netns, "eth0", self.pi.mac);
        let fetched = netns.run(|| self.pi.boot(PATIENCE));
        let fetched = fetched.map_err(|failure| format!("the virtual {:?} did not boot: {failure}", self.pi.board))?;
        let lease = fetched.log.iter().find(|step| step.what.starts_with("OFFER"));
        if let Some(step) = lease {
            show.figure(&format!("{:?}, {which}: power to OFFER", self.pi.board), step.at);
        }
        let bytes: usize = fetched.files.values().map(Vec::len).sum();
        show.figure(
            &format!("{:?}, {which}: power to {} files, {} MB", self.pi.board, fetched.files.len(), bytes / 1_000_000),
            began.elapsed(),
        );
        check_files(lab, &fetched)?;
        self.fetched = Some(fetched);
        Ok(())
    }

    /// Runs what was fetched, on a board with the same MAC.
    pub fn start(&mut self, lab: &Lab, show: &Show) -> Result<(), String> {
        let fetched = self.fetched.as_ref().ok_or("nothing was fetched")?;
        let kernel = lab.folder.join("client-kernel");
        let initramfs = lab.folder.join("client-initramfs");
        let write = |path: &_, bytes: Option<&[u8]>| fs::write(path, bytes.unwrap_or_default());
        write(&kernel, fetched.kernel()).map_err(|e| format!("{}: {e}", kernel.display()))?;
        write(&initramfs, fetched.initramfs()).map_err(|e| format!("{}: {e}", initramfs.display()))?;
        let words = fetched.command_line("ttyAMA0");
        show.note(&format!("its kernel's words: {words}"));
        let [a, b, c, d, e, f] = self.pi.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");

        self.machine = None;
        let tap = "tap-client";
        if !lab.wire.ip("-o link show").contains(tap) {
            lab.wire.tap(tap, "br0");
        }
        let start = Start { kernel: &kernel, initramfs: &initramfs, words: &words };
        let mut command = virt(&lab.wire, tap, &mac, &start);
        command.args(["-monitor", "none"]);
        self.machine = Some(Machine::start("client", &mut command, &lab.folder)?);
        Ok(())
    }

    fn machine(&mut self) -> Result<&mut Machine, String> {
        self.machine.as_mut().ok_or_else(|| "the client is not started".to_owned())
    }

    /// Follows the console to the login prompt.
    pub fn wait_login(&mut self, show: &Show, which: &str, limit: Duration) -> Result<(), String> {
        let stages =
            [("Linux version", "kernel"), ("systemd[1]", "systemd runs from the NFS root"), ("login:", "login prompt")];
        let mut from = 0;
        for (needle, stage) in stages {
            from = self.machine()?.wait_for(needle, from, limit)?;
            let took = self.machine()?.started.elapsed();
            show.figure(&format!("client, {which}: {stage}"), took);
        }
        Ok(())
    }

    /// Waits until it switched itself off or reset.
    pub fn wait_off(&mut self, limit: Duration) -> Result<(), String> {
        self.machine()?.wait_exit(limit)
    }
}

/// Every fetched file is the image's own, but `cmdline.txt`, which the appliance writes.
fn check_files(lab: &Lab, fetched: &Fetched) -> Result<(), String> {
    let manifest = lab.os_image.with_file_name("manifest");
    let manifest = fs::read_to_string(&manifest).map_err(|e| format!("{}: {e}", manifest.display()))?;
    // Lines such as `boot SHA256 BYTES NAME`.
    let boot_files = manifest.lines().filter_map(|line| line.strip_prefix("boot "));
    let hashes: BTreeMap<&str, &str> = boot_files
        .filter_map(|line| {
            let mut words = line.splitn(3, ' ');
            let (hash, _bytes, name) = (words.next()?, words.next()?, words.next()?);
            Some((name, hash))
        })
        .collect();
    let file = lab.folder.join("fetched");
    let mut compared = 0;
    for (name, bytes) in &fetched.files {
        if name.ends_with("cmdline.txt") {
            continue;
        }
        fs::write(&file, bytes).map_err(|e| format!("{}: {e}", file.display()))?;
        let hash = run("sha256sum", &[file.as_os_str()])?;
        let hash = hash.split(' ').next().unwrap_or_default();
        match hashes.get(name.as_str()) {
            Some(&expected) if expected == hash => compared += 1,
            Some(&expected) => return Err(format!("{name} has sha256 {hash}, the image's has {expected}")),
            None => return Err(format!("{name} was served, but the image has no such file")),
        }
    }
    if compared < 5 || fetched.kernel().is_none() || fetched.initramfs().is_none() {
        return Err(format!(
            "only {compared} files were fetched, or no kernel or initramfs: {:?}",
            fetched.files.keys()
        ));
    }
    Ok(())
}
