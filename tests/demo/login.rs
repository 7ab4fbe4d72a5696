//! Commands in the booted client, over ssh with the key from the stick's profile.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::show::Show;
use crate::support::command::{self, run};

const LOOK: Duration = Duration::from_secs(1);

pub struct Login {
    namespace: String,
    address: String,
    key: PathBuf,
    known_hosts: PathBuf,
    repository: PathBuf,
}

impl Login {
    pub fn new(lab: &Lab, address: &str) -> Result<Self, String> {
        let repository = lab.folder.join("repo");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/os-image/repo");
        run(&script.to_string_lossy(), &[repository.as_os_str()])?;
        Ok(Self {
            namespace: lab.wire.name().to_owned(),
            address: address.to_owned(),
            key: lab.folder.join("key"),
            known_hosts: lab.folder.join("known_hosts"),
            repository,
        })
    }

    fn ssh(&self, remote: &str) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace, "ssh", "-i"])
            .arg(&self.key)
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", self.known_hosts.display()))
            // The first connection learns the host key; a later one fails if it has changed.
            .args(["-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"])
            .args(["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=24", "-o", "LogLevel=ERROR"])
            .arg(format!("root@{}", self.address))
            .arg(remote);
        command
    }

    /// Runs a command line in the client; an error carries what it printed.
    pub fn run(&self, remote: &str) -> Result<String, String> {
        let output = self
            .ssh(remote)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("ssh: {e} (`just deps net` installs it)"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(said),
            false => Err(format!(
                "in the client, {remote:?}: {}\n{said}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    }

    pub fn wait(&self, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        loop {
            match self.run("true") {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => thread::sleep(LOOK),
            }
        }
    }

    /// Runs a command that ends the connection with the machine.
    pub fn end(&self, remote: &str) -> Result<(), String> {
        // The command's own status is lost with the connection; the machine's end is what counts.
        self.ssh(&format!("nohup {remote} >/dev/null 2>&1 &"))
            .stdin(Stdio::null())
            .status()
            .map(drop)
            .map_err(|e| format!("ssh: {e}"))
    }

    /// Puts the demo's package repository into the client, as a folder.
    fn send_repository(&self) -> Result<(), String> {
        let tar = self.repository.with_extension("tar");
        let arguments: [&OsStr; 5] =
            ["-C".as_ref(), self.repository.as_os_str(), "-cf".as_ref(), tar.as_os_str(), ".".as_ref()];
        run("tar", &arguments)?;
        let bytes = std::fs::read(&tar).map_err(|e| format!("{}: {e}", tar.display()))?;
        let ssh = self.ssh("rm -rf /srv/repo && mkdir -p /srv/repo && tar -C /srv/repo -xf -");
        let arguments: Vec<&OsStr> = ssh.get_args().collect();
        command::run_with_input("ip", &arguments, &bytes).map(drop)
    }
}

/// What a root file system must carry: names, links, packages.
pub fn prove(login: &Login, show: &Show) -> Result<(), String> {
    let hostname = login.run("hostname")?;
    if hostname.trim() != "pi-1" {
        return Err(format!("the client calls itself {hostname:?}, not pi-1"));
    }
    show.passed_step("its host name is its role, pi-1");
    let mount = login.run("findmnt -n -o FSTYPE,SOURCE /; findmnt -n -o FSTYPE,SOURCE /boot/firmware")?;
    if mount.lines().filter(|line| line.starts_with("nfs")).count() != 2 {
        return Err(format!("its root and /boot/firmware are not both on NFS:\n{mount}"));
    }
    show.passed_step("its root and its /boot/firmware are on NFS");
    login.run("echo kept > /root/written && sync && ln /root/written /root/linked && ln -s written /root/symbolic")?;
    login.run("test \"$(stat -c %h /root/written)\" = 2 && test \"$(cat /root/symbolic)\" = kept")?;
    show.passed_step("a file, a hard link and a symbolic link are written");
    login.send_repository()?;
    let began = Instant::now();
    login.run("dpkg -i /srv/repo/rootstock-hello_1.0_all.deb && rootstock-hello")?;
    show.figure("dpkg -i of a small package", began.elapsed());
    show.passed_step("dpkg installs a package with a hard link inside");
    let began = Instant::now();
    login.run(
        "echo 'deb [trusted=yes] file:/srv/repo ./' > /etc/apt/sources.list.d/demo.list && \
         apt-get -q -o Dir::Etc::sourcelist=sources.list.d/demo.list -o Dir::Etc::sourceparts=- update && \
         DEBIAN_FRONTEND=noninteractive apt-get -q -y install rootstock-greeting && dpkg --audit",
    )?;
    show.figure("apt-get update and install", began.elapsed());
    show.passed_step("apt-get installs from a local repository");
    let failed = login.run("systemctl --failed --no-legend --plain || true")?;
    if !failed.trim().is_empty() {
        return Err(format!("units failed in the client:\n{failed}"));
    }
    show.passed_step("no systemd unit failed");
    Ok(())
}

/// What the client wrote before its restart.
pub fn prove_kept(login: &Login, show: &Show) -> Result<(), String> {
    login.run(
        "test \"$(cat /root/written)\" = kept && test /root/written -ef /root/linked && rootstock-hello && \
         dpkg -s rootstock-greeting && test \"$(hostname)\" = pi-1",
    )?;
    show.passed_step("its files, links and packages are there, and its host key is the same");
    Ok(())
}

/// The client after the server was killed under it.
pub fn prove_alive(login: &Login, show: &Show) -> Result<(), String> {
    let began = Instant::now();
    login.run(
        "echo more >> /root/written && sync && dpkg --verify rootstock-hello && test \"$(wc -l < /root/linked)\" = 2",
    )?;
    show.figure("the client's next write and read", began.elapsed());
    show.passed_step("the client went on, with the handles it had");
    Ok(())
}
