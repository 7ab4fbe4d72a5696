//! The wired interface: address, carrier, neighbour entries and address probes.
//!
//! | file | what | pure |
//! |---|---|---|
//! | `choose` | which interface is ours | yes |
//! | `arp` | ARP packets (RFC 826) and what they say of an address | yes |
//! | `probe` | when to probe and when to answer (RFC 5227) | yes |
//! | `bpdu` | spanning tree's frames | yes |
//! | `survey` | when to ask who leases addresses here, and what was found | yes |
//! | `vendors` | the makers of what people have DHCP on | yes |
//! | `link` | the cable's speed, by the card's word | mostly |
//! | `neighbours` | which permanent neighbour entries stand | yes |
//! | `worker` | the thread: when to look, to mend and to speak ARP | I/O |
//! | `kernel` | rtnetlink: what the kernel has, and setting it | I/O |
//! | `packet` | a packet socket; `dhcp` sends through one too | I/O |
//!
//! The worker is level-triggered: whatever netlink tells, and every five seconds
//! without a word, it reads links and addresses and mends what is not as it
//! should be. So a lost notification, an address removed by hand and an
//! interface that comes late are one and the same case.
//!
//! Not here: the decision what a conflict means, and who needs a neighbour
//! entry. Both are control's.

mod arp;
mod bpdu;
mod choose;
mod kernel;
mod link;
mod neighbours;
pub(crate) mod packet;
mod probe;
mod survey;
mod vendors;
mod worker;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc;

use crate::client::MacAddr;
use crate::config::Subnet;
use crate::dhcp::lease::Lease;
use crate::wire::Facts;
pub use neighbours::MAX_NEIGHBOURS;
pub use probe::{MAX_PROBES, PROBE_TIME};
pub use survey::{PAUSE as SURVEY_PAUSE, SURVEY_TIME};

/// How the wired side is set up; made from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `None` takes the first wired one.
    pub interface: Option<String>,
    pub address: Subnet,
    /// The appliance's own default route.
    pub gateway: Option<Ipv4Addr>,
}

/// What the worker reports, in the order `Interface`, `Carrier`, `Address` for
/// an interface that comes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This is the interface from now on: open sockets on it. Comes again if
    /// its MAC address changes.
    Interface { name: String, index: u32, mac: MacAddr },
    /// The interface has its address, at the start or again.
    Address(Subnet),
    /// It was set before anybody could be asked, and somebody else has it: it is
    /// free for him, and probed again every few seconds.
    AddressLost(Subnet),
    /// Whether something alive is at the other end of the cable.
    Carrier(bool),
    /// What is known of the wire, whenever it changes. With a cable it comes
    /// before `Interface` and `Carrier`, and says that the wire is being asked.
    Wire(Facts),
    /// A board that is watched was heard at this address.
    Seen { mac: MacAddr, address: Ipv4Addr },
    /// Another server gave us an address, and the interface has it.
    Leased(Lease),
    /// Its lease has ended. The interface keeps it until another one comes or
    /// [`Handle::lease`] gives it up, for the clients that know us by it.
    LeaseLost(Ipv4Addr),
    /// The interface went away; another `Interface` follows when there is one.
    Lost,
    /// Somebody else uses our own address. Told at most every ten seconds.
    Conflict { address: Ipv4Addr, mac: MacAddr },
    /// The answer to [`Handle::probe`], one for each call.
    Probed { address: Ipv4Addr, conflict: Option<MacAddr> },
    /// There is no interface to use: none of the configured name, or none that is wired. Told once until it changes.
    Absent { named: bool, message: String },
    /// Something could not be done; it is tried again. Told once until it changes.
    Failed(String),
}

pub(crate) type Sink = Arc<dyn Fn(Event) + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start the network thread")]
    Thread { source: io::Error },
    #[error("cannot listen to the kernel's network events")]
    Netlink { source: io::Error },
    #[error("the kernel's network events ended")]
    NetlinkEnded,
    #[error("{}", absent(wanted.as_deref(), here))]
    Absent { wanted: Option<String>, here: Vec<String> },
    #[error("cannot list {what}")]
    List { what: &'static str, source: rtnetlink::Error },
    #[error("cannot set {interface} up")]
    Up { interface: String, source: rtnetlink::Error },
    #[error("cannot set the address {address} on {interface}")]
    Address { address: Subnet, interface: String, source: rtnetlink::Error },
    #[error("cannot remove the address {address}")]
    Remove { address: Subnet, source: rtnetlink::Error },
    #[error("cannot set the default route by {gateway}")]
    Route { gateway: Ipv4Addr, source: rtnetlink::Error },
    #[error("cannot set the neighbour entry of {address}")]
    Neighbour { address: Ipv4Addr, source: rtnetlink::Error },
    #[error("cannot open an ARP socket on {interface}")]
    Arp { interface: String, source: io::Error },
}

fn absent(wanted: Option<&str>, here: &[String]) -> String {
    match (wanted, here) {
        (None, _) => "no wired network interface".to_owned(),
        (Some(wanted), []) => format!("no network interface {wanted} here, and no other"),
        (Some(wanted), here) => format!("no network interface {wanted} here, only {}", here.join(", ")),
    }
}

/// The forward delay that a BPDU tells: for `hostile` alone.
pub(crate) fn bpdu_delay(frame: &[u8]) -> Option<std::time::Duration> {
    bpdu::Bpdu::parse(frame)?.forward_delay
}

/// What control asks of the worker.
#[derive(Debug)]
pub(crate) enum Command {
    Survey,
    Lease(bool),
    Watch(Vec<MacAddr>),
    LookForNeighbours,
    Probe { address: Ipv4Addr, owner: Option<MacAddr> },
    Neighbour { address: Ipv4Addr, mac: MacAddr },
    ForgetNeighbour { address: Ipv4Addr },
}

/// Commands that may wait for the worker. It takes them within milliseconds.
const MAX_COMMANDS: usize = 256;

/// The running worker. Dropping it ends the thread and leaves the interface as
/// it is, so that clients do not notice a restart.
pub struct Handle {
    /// `None` only while dropping.
    commands: Option<mpsc::Sender<Command>>,
    sink: Sink,
    thread: Option<JoinHandle<()>>,
}

/// Starts the worker. `sink` is called on its thread and must not block.
///
/// The thread works in the network namespace of the caller.
pub fn start(options: Options, sink: Arc<dyn Fn(Event) + Send + Sync>) -> Result<Handle, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Thread { source })?;
    let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
    let thread = {
        let sink = sink.clone();
        thread::Builder::new()
            .name("net".to_owned())
            .spawn(move || runtime.block_on(worker::run(options, sink, receiver)))
            .map_err(|source| Error::Thread { source })?
    };
    Ok(Handle { commands: Some(commands), sink, thread: Some(thread) })
}

impl Handle {
    /// Asks the wire whether anybody but `owner` uses `address`; the answer is
    /// one [`Event::Probed`] within [`PROBE_TIME`], at once if somebody does.
    /// Without an interface or a cable nobody answers, so there is no conflict.
    pub fn probe(&self, address: Ipv4Addr, owner: Option<MacAddr>) {
        if !self.command(Command::Probe { address, owner }) {
            // The asker must not wait for ever.
            (self.sink)(Event::Probed { address, conflict: None });
        }
    }

    /// Asks the wire now who leases addresses on it; [`Event::Wire`] tells what changed.
    pub fn survey(&self) {
        self.command(Command::Survey);
    }

    /// Has an address from another server beside our own one, or gives it up.
    pub fn lease(&self, wanted: bool) {
        self.command(Command::Lease(wanted));
    }

    /// Tells where these boards are, by ARP and by what the kernel knows, with [`Event::Seen`].
    pub fn watch(&self, macs: Vec<MacAddr>) {
        self.command(Command::Watch(macs));
    }

    /// Looks through the kernel's neighbour table for those boards once more.
    pub fn look_for_neighbours(&self) {
        self.command(Command::LookForNeighbours);
    }

    /// Sets a permanent neighbour entry, for a client that does not answer ARP
    /// while it loads. At most [`MAX_NEIGHBOURS`] stand; the oldest gives way.
    /// They are set again when the interface comes back.
    pub fn neighbour(&self, mac: MacAddr, address: Ipv4Addr) {
        self.command(Command::Neighbour { address, mac });
    }

    /// Takes the entry back; ARP decides from now on.
    pub fn forget_neighbour(&self, address: Ipv4Addr) {
        self.command(Command::ForgetNeighbour { address });
    }

    fn command(&self, command: Command) -> bool {
        let sent = self.commands.as_ref().is_some_and(|commands| commands.try_send(command).is_ok());
        if !sent {
            (self.sink)(Event::Failed("the network thread does not keep up".to_owned()));
        }
        sent
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its own thread already.
            let _ = thread.join();
        }
    }
}
