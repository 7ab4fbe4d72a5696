//! A wire for tests: two network namespaces that this test made, joined by a
//! veth pair. Needs root and iproute2; says so when it has not got them.

#![allow(dead_code)] // each test file uses its own part
#![allow(clippy::unwrap_used)] // a panic is how a test reports

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Ours and the client's interface.
pub const SERVER: &str = "s0";
pub const CLIENT: &str = "c0";
pub const CLIENT_MAC: &str = "dc:a6:32:01:36:c2";

/// Longest wait for something that takes milliseconds on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Wire {
    pub server: String,
    pub client: String,
    pub scratch: tempfile::TempDir,
}

impl Wire {
    /// Two namespaces without interfaces.
    pub fn empty() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("rootstock-{side}-{}-{number}", std::process::id());
        let wire = Self { server: name("s"), client: name("c"), scratch: tempfile::tempdir().unwrap() };
        for namespace in [&wire.server, &wire.client] {
            run(&["ip", "netns", "add", namespace]);
            run(&["ip", "-n", namespace, "link", "set", "lo", "up"]);
        }
        wire
    }

    /// Both interfaces there, the client's up.
    pub fn plugged() -> Self {
        let wire = Self::empty();
        wire.plug();
        wire
    }

    pub fn plug(&self) {
        run(&["ip", "-n", &self.server, "link", "add", SERVER, "type", "veth", "peer", "name", CLIENT]);
        run(&["ip", "-n", &self.server, "link", "set", CLIENT, "netns", &self.client]);
        run(&["ip", "-n", &self.client, "link", "set", CLIENT, "address", CLIENT_MAC, "up"]);
    }

    /// `ip` in the server's namespace.
    pub fn server_ip(&self, arguments: &str) -> String {
        run(&[&["ip", "-n", &self.server], arguments.split(' ').collect::<Vec<_>>().as_slice()].concat())
    }

    /// `ip` in the client's namespace.
    pub fn client_ip(&self, arguments: &str) -> String {
        run(&[&["ip", "-n", &self.client], arguments.split(' ').collect::<Vec<_>>().as_slice()].concat())
    }

    /// A command in the client's namespace.
    pub fn client_command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.client, program]);
        // They tell what they do on standard error; the tests look at what they did.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    pub fn in_server<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.server, work)
    }

    pub fn in_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.client, work)
    }

    /// An executable file with this text.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;

        let path = self.scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Works on a thread of its own in a namespace; what it opens stays there.
fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Runs a command to its end and gives its output.
#[track_caller]
pub fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; these tests need: apt-get install iproute2 udhcpc isc-dhcp-client")
    });
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {text} (namespaces need root: run as root or with sudo)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `question` is true.
#[track_caller]
pub fn eventually(what: &str, question: impl Fn() -> bool) {
    let start = Instant::now();
    while !question() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
