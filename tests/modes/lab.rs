//! A wire, and the server of this build in a network namespace of its own: with a folder as its stick, or with a
//! stick whose lock is on.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::show::Show;
use crate::support::command::run;
use crate::support::netns::{Child, Netns};
use crate::support::panel_tty::PanelTty;
use crate::support::terminal::Terminal;

const LOOK: Duration = Duration::from_millis(100);
/// Of the stick with the lock, which holds one image, packed and unpacked.
const STICK_BYTES: u64 = 2 << 30;

pub struct Lab {
    serve: Option<Child>,
    pub folder: PathBuf,
    pub wire: Netns,
    pub os_image: PathBuf,
    server: Netns,
    stick: PathBuf,
    /// The stick that is a disk, and a copy of it as it was.
    locked: Option<(PathBuf, PathBuf)>,
    panel: PanelTty,
    tty: PathBuf,
    /// Open, so that the terminal does not hang up between two servers.
    _near: OwnedFd,
}

impl Lab {
    pub fn set_up(show: &Show, config: &str) -> Result<Self, String> {
        show.step("the wire, the stick and the server");
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = top.join("target/modes");
        let _ = fs::remove_dir_all(&folder);
        let stick = folder.join("stick");
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| format!("{path}: {error}")
        };
        fs::create_dir_all(stick.join("profile")).map_err(failed(&stick))?;
        let os_image = PathBuf::from(run(top.join("tests/os-image/build").to_str().unwrap_or_default(), &[])?.trim());
        let key = folder.join("key");
        let arguments = ["-q", "-t", "ed25519", "-N", "", "-f"].map(OsStr::new);
        run("ssh-keygen", &arguments.into_iter().chain([key.as_os_str()]).collect::<Vec<_>>())?;
        fs::copy(folder.join("key.pub"), stick.join("profile/authorized_keys")).map_err(failed(&key))?;
        let name = os_image.file_name().ok_or("the OS image has no name")?;
        fs::copy(&os_image, stick.join(name)).map_err(failed(&os_image))?;
        fs::write(folder.join("rootstock.toml"), config).map_err(failed(&folder))?;

        let mut lab = Self::on(folder, os_image, stick)?;
        lab.start()?;
        Ok(lab)
    }

    /// Another server on another wire. Its stick holds what this one's does, and its lock is on.
    pub fn locked(&self, show: &Show) -> Result<Self, String> {
        show.step("a second server, whose stick has its lock on");
        let folder = self.folder.join("locked");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let (file, then) = (folder.join("stick.img"), folder.join("stick-before.img"));
        let made = File::create(&file).and_then(|made| made.set_len(STICK_BYTES));
        made.map_err(|error| format!("{}: {error}", file.display()))?;
        let words = ["-q", "-t", "ext4", "-L", "ROOTSTOCK", "-d"].map(OsStr::new);
        let paths = [self.stick.as_os_str(), file.as_os_str()];
        run("mke2fs", &words.into_iter().chain(paths).collect::<Vec<_>>())?;
        run("cp", &["--sparse=always".as_ref(), file.as_os_str(), then.as_os_str()])?;
        let node = run(
            "losetup",
            &["-r", "-f", "--show"].map(OsStr::new).into_iter().chain([file.as_os_str()]).collect::<Vec<_>>(),
        )?;
        let mut lab = Self::on(folder, self.os_image.clone(), PathBuf::from(node.trim()))?;
        lab.locked = Some((file, then));
        lab.start()?;
        lab.wait_log("is write-protected. Clients live in", Duration::from_secs(60))?;
        Ok(lab)
    }

    fn on(folder: PathBuf, os_image: PathBuf, stick: PathBuf) -> Result<Self, String> {
        let (wire, server) = (Netns::new("demo"), Netns::new("serve"));
        wire.bridge("br0");
        wire.ip("address add 192.168.77.250/24 dev br0");
        wire.plug("br0", "port-s", &server, "eth0", [0xb8, 0x27, 0xeb, 0, 0, 1]);
        let Terminal { far, near, path: tty } = Terminal::open().map_err(|error| format!("a terminal: {error}"))?;
        let panel = PanelTty::on(far.try_clone().map_err(|error| error.to_string())?, far, Show::screens());
        Ok(Self { serve: None, folder, wire, os_image, server, stick, locked: None, panel, tty, _near: near })
    }

    fn start(&mut self) -> Result<(), String> {
        let log = self.folder.join("log");
        let log = OpenOptions::new().append(true).create(true).open(&log).map_err(|error| error.to_string())?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_rootstock"));
        command.args(["serve", "--interface", "eth0", "--panel"]).arg(&self.tty);
        match (&self.locked, self.stick.file_name()) {
            (Some(_), Some(disk)) => command.arg("--disk").arg(disk),
            _ => command.arg("--stick").arg(&self.stick).arg("--config").arg(self.folder.join("rootstock.toml")),
        };
        command.arg("--run").arg(self.folder.join("run"));
        command.stderr(log);
        let child = self.server.run(|| command.spawn()).map_err(|error| format!("{command:?}: {error}"))?;
        self.serve = Some(Child(child));
        Ok(())
    }

    pub fn press(&mut self, key: char) -> Result<(), String> {
        self.panel.press(key)
    }

    pub fn wait_log(&self, text: &str, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        loop {
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            if log.contains(text) {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(format!("no {text:?} in the log:\n{log}"));
            }
            thread::sleep(LOOK);
        }
    }

    /// Stops the server, edits the client's manifest as a person would, and starts it again.
    pub fn restart_with(&mut self, show: &Show, edit: impl FnOnce(&str) -> String) -> Result<(), String> {
        self.stop()?;
        let path = self.stick.join("clients/pi-1/client.toml");
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        fs::write(&path, edit(&text)).map_err(|error| error.to_string())?;
        show.note("the server restarts with an edited client.toml");
        let _ = fs::remove_file(self.folder.join("log"));
        self.start()?;
        self.wait_log("store open", Duration::from_secs(60))
    }

    fn stop(&mut self) -> Result<(), String> {
        let Some(mut serve) = self.serve.take() else { return Ok(()) };
        let pid = rustix::process::Pid::from_child(&serve.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|error| error.to_string())?;
        serve.0.wait().map(drop).map_err(|error| error.to_string())
    }

    /// Ends the server whose stick has its lock on: not a byte of that was written.
    pub fn check_locked(mut self) -> Result<(), String> {
        self.stop()?;
        let Some((file, then)) = &self.locked else { return Err("its stick has no lock".to_owned()) };
        run("cmp", &[file.as_os_str(), then.as_os_str()]).map(drop)
    }

    /// What the client's clean end left is consistent, and has holes.
    pub fn check_volume(&self) -> Result<(), String> {
        let path = self.stick.join("clients/pi-1/volume/containers.ext4");
        run("e2fsck", &["-f".as_ref(), "-n".as_ref(), path.as_os_str()])?;
        let found = fs::metadata(&path).map_err(|error| error.to_string())?;
        match found.blocks() * 512 < found.len() / 2 {
            true => Ok(()),
            false => Err(format!("{} of {} bytes are taken", found.blocks() * 512, found.len())),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Unmounts; a server that was only killed leaves its mounts.
        let _ = self.stop();
        if self.locked.is_some() {
            // The kernel keeps a lock for whoever gets this number next.
            let _ = run("blockdev", &["--setrw".as_ref(), self.stick.as_os_str()]);
            let _ = run("losetup", &["-d".as_ref(), self.stick.as_os_str()]);
        }
    }
}
