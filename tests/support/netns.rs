//! Network namespaces for tests: made, used and removed here.
//!
//! Needs root and `ip` (iproute2). A namespace is removed when its value is
//! dropped; interfaces in it go with it. Nothing outside is touched, but for
//! one veth pair for a moment, under names that no other process uses.

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// A named network namespace whose loopback is up.
pub struct Netns {
    name: String,
}

/// Distinguishes the names of one process.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Runs a command to its end; its failure is the test's.
#[track_caller]
pub fn must_run(command: &mut Command) -> String {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; cure: apt-get install iproute2"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {told} (these tests need root)", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Netns {
    /// `hint` is for people who look at `ip netns`.
    #[track_caller]
    pub fn new(hint: &str) -> Self {
        let name = format!("rs-{}-{}-{hint}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        must_run(Command::new("ip").args(["netns", "add", &name]));
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside. It replaces itself (`exec`), so the
    /// child's id is the program's own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// `ip` inside, such as `netns.ip("address add 192.168.77.1/24 dev eth0")`.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        must_run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// Makes the calling thread live inside. Threads that it starts later do too.
    pub fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("the namespace's file");
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&file),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .expect("entering a network namespace, which needs root");
    }

    /// Runs a closure on a thread inside, and waits for it. A panic goes on here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a closure on a thread inside.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let inside = Self { name: self.name.clone() };
        thread::spawn(move || {
            // The name is borrowed: whoever made the namespace removes it.
            let inside = std::mem::ManuallyDrop::new(inside);
            inside.enter();
            work()
        })
    }

    /// A cable from here to another namespace; both ends are up.
    #[track_caller]
    pub fn veth(&self, interface: &str, other: &Netns, other_interface: &str) {
        let peer = ["peer", "name", other_interface, "netns", &other.name];
        let here = ["link", "add", "name", interface, "netns", &self.name, "type", "veth"];
        must_run(Command::new("ip").args(here).args(peer));
        self.ip(&format!("link set {interface} up"));
        other.ip(&format!("link set {other_interface} up"));
    }

    /// A switch without spanning tree, up.
    #[track_caller]
    pub fn bridge(&self, interface: &str) {
        self.ip(&format!("link add name {interface} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"));
        self.ip(&format!("link set {interface} up"));
    }

    /// A tap for an emulated machine, plugged into a bridge; up.
    #[track_caller]
    pub fn tap(&self, interface: &str, bridge: &str) {
        self.ip(&format!("tuntap add dev {interface} mode tap"));
        self.ip(&format!("link set {interface} master {bridge} up"));
    }

    /// A cable from a port of a bridge here to an interface with this MAC in another namespace.
    #[track_caller]
    pub fn plug(&self, bridge: &str, port: &str, other: &Netns, other_interface: &str, mac: [u8; 6]) {
        self.veth(port, other, other_interface);
        self.ip(&format!("link set {port} master {bridge}"));
        let [a, b, c, d, e, f] = mac;
        other.ip(&format!("link set {other_interface} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).stderr(Stdio::null()).status();
    }
}

/// A child process that is ended with its test.
pub struct Child(pub std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
