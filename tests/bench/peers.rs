//! The servers: ours, its peers from Debian, and one that only answers. Each is
//! a process in the server's network namespace; its CPU is the kernel's count of it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Ground, Lab, SERVER};
use crate::load::{content, floor};
use crate::netns;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Rootstock,
    Ganesha,
    Dnsmasq,
    Atftpd,
    Floor,
    /// NFS, as far as a READ of one file needs it.
    OneFile,
}

/// A running server. It ends when this is dropped.
pub struct Running {
    server: netns::Child,
    _helper: Option<netns::Child>,
}

impl Peer {
    pub fn start(self, lab: &Lab, ground: Ground) -> Running {
        let trees = lab.trees(ground);
        let own = std::env::current_exe().expect("the path of this program");
        let own = own.to_str().expect("a path in UTF-8");
        let tree = trees.join("1");
        let mut helper = None;
        let (mut command, port) = match self {
            Self::Rootstock => {
                let mut command = lab.server.command(own);
                command.arg("serve").arg(&trees);
                (command, 2049)
            }
            Self::Floor => {
                let mut command = lab.server.command(own);
                command.arg("floor").arg(&tree);
                (command, floor::PORT)
            }
            Self::OneFile => {
                let mut command = lab.server.command(own);
                command.arg("one-file").arg(tree.join(content::BIG));
                (command, 2049)
            }
            Self::Ganesha => {
                helper = Some(rpcbind(lab));
                let config = lab.folder().join("ganesha.conf");
                fs::write(&config, ganesha_conf(&tree)).expect("the configuration is written");
                let mut command = lab.server.command("ganesha.nfsd");
                command.args(["-F", "-N", "NIV_CRIT", "-L", "/dev/null", "-p"]).arg(lab.folder().join("pid"));
                command.arg("-f").arg(config);
                (command, 2049)
            }
            Self::Dnsmasq => {
                let mut command = lab.server.command("dnsmasq");
                command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"]);
                command.args(["--interface=wire", "--bind-interfaces", "--enable-tftp", "--tftp-max=1000"]);
                command.args(["--pid-file=", "--log-facility=/dev/null", "--tftp-root"]).arg(&tree);
                (command, 69)
            }
            Self::Atftpd => {
                let mut command = lab.server.command("atftpd");
                command.args(["--daemon", "--no-fork", "--user", "root.root", "--bind-address"]);
                command.arg(SERVER.to_string()).args(["--maxthread", "1000", "--logfile", "/dev/null", "--verbose=0"]);
                command.arg(&tree);
                (command, 69)
            }
        };
        let running = Running { server: spawn(&mut command), _helper: helper };
        lab.server.run(|| wait_for(port));
        running
    }

    /// The name of a client's tree for MNT; `{}` is the client's number.
    pub fn export(self, lab: &Lab, ground: Ground) -> String {
        match self {
            Self::Rootstock => "/clients/{}/root".into(),
            _ => lab.trees(ground).join("1").display().to_string(),
        }
    }
}

impl Running {
    /// CPU time of the whole process so far, in seconds.
    pub fn cpu(&self) -> f64 {
        cpu_of(&self.server.0.id().to_string())
    }

    /// Resident memory, in KiB.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.0.id())).expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or_default()
    }
}

/// CPU time of a process so far, in seconds.
pub fn cpu_of(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process runs");
    // Behind the name, which may hold anything: fields 14 and 15 of proc(5), in ticks of 10 ms.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    (ticks(14) + ticks(15)) / 100.0
}

fn spawn(command: &mut Command) -> netns::Child {
    let quiet = std::env::var_os("ROOTSTOCK_BENCH_LOG").is_none();
    command.stdin(Stdio::null()).stdout(Stdio::null());
    if quiet {
        command.stderr(Stdio::null());
    }
    let child: Child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; cure: just deps bench"));
    netns::Child(child)
}

fn rpcbind(lab: &Lab) -> netns::Child {
    let child = spawn(lab.server.command("rpcbind").args(["-f", "-w", "-h", &SERVER.to_string()]));
    lab.server.run(|| wait_for(111));
    child
}

/// Until something is bound to the port, by TCP or UDP, in the calling thread's network.
fn wait_for(port: u16) {
    let give_up = Instant::now() + Duration::from_secs(20);
    let local = format!(":{port:04X} ");
    let is_bound = || {
        ["tcp", "tcp6", "udp"].into_iter().any(|table| {
            let table = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
            table.lines().any(|line| {
                line.split_once(": ").is_some_and(|(_, rest)| {
                    rest.split_inclusive(' ').next().is_some_and(|address| address.ends_with(&local))
                })
            })
        })
    };
    while !is_bound() {
        assert!(Instant::now() < give_up, "no server on port {port} (ROOTSTOCK_BENCH_LOG=1 shows what they say)");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ganesha_conf(tree: &Path) -> String {
    let (address, tree): (Ipv4Addr, _) = (SERVER, tree.display());
    format!(
        "NFS_CORE_PARAM {{ Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; Bind_addr = {address};
           MNT_Port = 20048; NFS_Port = 2049; }}
         EXPORT_DEFAULTS {{ Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 3; Transports = TCP; }}
         EXPORT {{ Export_Id = 1; Path = {tree}; Pseudo = /tree; MaxRead = 1048576; MaxWrite = 1048576;
           PrefRead = 1048576; PrefWrite = 1048576; FSAL {{ Name = VFS; }} }}\n"
    )
}
