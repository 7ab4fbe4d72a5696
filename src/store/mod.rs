//! The stick: finding it, its store, its images, and its clients' roots.
//!
//! A shell: it reports by `Event` and obeys by `Command`, and decides nothing
//! about clients. Two threads stay: `worker` owns every mount, `hotplug` says when
//! to look again. An import, operations, a backup and the trash have threads while they run.
//!
//! - `devices`, `hotplug`, `identify`, `table`: what is plugged in
//! - `place`, `prepare`: where the store lies, opening and making it
//! - [`shop`]: the store as a file of an exFAT or FAT32 file system
//! - `library`, `manifest`, `states`, `atomic`, `lock`: what it holds, as small text files
//! - `aside`: what of it is damaged
//! - `sources`, `packing`, `import`: image files on sticks, and making images of them
//! - `root`, `mounts`, `in_place`, `personalise`: clients' trees
//! - `borrow`, `sound`: a store that cannot be written, served from memory; one that takes no writes any more
//! - `volume`: their block volumes
//! - `usage`, `scrub`, `idle`: what they occupy, and images against their hashes, at the lowest priority
//! - `history`: how their last boots went
//! - `trash`: what is not needed any more, deleted behind everybody's back
//! - `operate`: what a person does with clients and images, step by step
//! - `backup`: a second stick as a copy that can stand in
//! - `reports`: what the black box tells, a folder each
//! - `offline`: the same for a command, with no server
//! - `words`: what people are told
//!
//! The rule about people's files: a stick is written only after a person pressed
//! ENROLL, and only where nothing is: a partition in unpartitioned space after a
//! held press, or one more file in free clusters, which a laptop can delete.

mod aside;
pub(crate) mod atomic;
pub mod backup;
mod borrow;
mod crc32;
pub mod devices;
pub mod history;
mod hotplug;
pub(crate) mod identify;
mod idle;
mod import;
pub(crate) mod in_place;
mod library;
mod lock;
pub(crate) mod manifest;
mod mounts;
pub mod offline;
pub mod operate;
pub(crate) mod packing;
pub mod personalise;
mod place;
mod prepare;
pub mod reports;
mod root;
mod scrub;
pub mod shop;
mod sound;
mod sources;
pub mod states;
pub(crate) mod table;
mod tools;
pub mod trash;
mod usage;
mod volume;
mod words;
mod worker;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Client, ImageId, Role};
use crate::directory::HandleKey;
use crate::quota::{Account, Level};
use crate::status::NewPlace;

pub use self::personalise::RULES;
pub use self::root::Surroundings;

/// How the store is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// All mounts lie below it; `/run/rootstock` on the appliance. A folder of
    /// its own: what is mounted below it is taken down at start and stop.
    pub run: PathBuf,
    /// Development on a PC: this folder is the store, image files lie at its
    /// top, and no stick is looked for. Its file system must be able to be an
    /// overlay's upper layer (ext4, xfs, btrfs).
    pub folder: Option<PathBuf>,
    /// Disks that are never a stick, such as `mmcblk0`.
    pub ignore_devices: Vec<String>,
    /// Disks that may be a stick though they are not on USB: for tests.
    pub extra_devices: Vec<String>,
    /// Smallest space in which a store is offered, in bytes.
    pub minimum_store_bytes: u64,
    /// Size of a store that is made in a file system; without it what fits.
    pub store_bytes: Option<u64>,
    /// Whether a store may be made on a stick that has none.
    pub make_store: bool,
    /// Size of a store in memory; without it half of the machine's.
    pub memory_bytes: Option<u64>,
    /// Free space that clients do not get; without it a part of the store.
    pub reserve_bytes: Option<u64>,
    /// How long after a look at an image the next one is due; none: never.
    pub scrub_every: Option<Duration>,
    /// Where clients mount from.
    pub appliance: Ipv4Addr,
    /// Name servers for new clients.
    pub dns: Vec<Ipv4Addr>,
    /// Imports write without io_uring, as where there is none: for tests.
    pub plain_writes: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            run: PathBuf::from("/run/rootstock"),
            folder: None,
            ignore_devices: Vec::new(),
            extra_devices: Vec::new(),
            minimum_store_bytes: 1 << 30,
            store_bytes: None,
            make_store: true,
            memory_bytes: None,
            reserve_bytes: None,
            scrub_every: None,
            appliance: Ipv4Addr::new(192, 168, 77, 1),
            dns: Vec::new(),
            plain_writes: false,
        }
    }
}

/// What control can ask for. Each is answered by an event.
#[derive(Debug, Clone)]
pub enum Command {
    /// The person confirmed: make the store on the stick that the last
    /// `NeedsConfirmation` named.
    Prepare,
    /// The person confirmed: make the stick that the last `BackupOffered` named
    /// a copy of the store. Answered by `BackedUp` or `BackupFailed`.
    Backup,
    /// The person confirmed: write the recovery card onto the disk that the last `CardEvent::Offered` named.
    WriteCard,
    /// Answered by `ClientReady` or `ClientFailed`.
    CreateClient(Box<Client>),
    /// Writes `client.toml` anew; only a failure is told.
    SaveClient(Box<Client>),
    /// Answered by `Operated` with this ticket, and by `Changed` behind that
    /// unless it only looked.
    Operate(u64, Box<operate::Operation>),
    /// The appliance's own address is another one: roots that name the former
    /// are fitted by `RenewClient`.
    Appliance(Ipv4Addr),
    /// The client's boot begins and it must get what `renew_at_boot` tells of;
    /// its trees are served no more. Answered as `CreateClient`.
    RenewClient(Role),
    /// Let go of the stick, so that it can be pulled: answered by `Releasing` and, when nothing of it
    /// is in use any more, by `Released`.
    Release,
    /// Use it again, if it is still there.
    Resume,
    /// A client's boot has ended: into its history, stamped with the time. With `amends` it takes
    /// the last record's place. Answered by `Boots`.
    SaveBoot { role: Role, record: history::BootRecord, amends: bool },
    /// Mount an image's root for a test of it. Answered by `ImageMounted`.
    MountImage(ImageId),
    /// That test has ended: the image is let go where no client needs it.
    ReleaseImage(ImageId),
    /// Answered by `ReportSaved` with this ticket.
    SaveReport(Option<u64>, Box<reports::Report>),
    /// Watch for this client's evidence that its start is complete, or stop.
    WatchUp(Role, bool),
}

/// What the store tells. Messages are for people; actions say what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    StickAbsent,
    StickReading {
        name: String,
    },
    /// No store on any stick; one could be made in this much free space.
    NeedsConfirmation {
        name: String,
        free_bytes: u64,
        place: NewPlace,
    },
    Preparing {
        name: String,
    },
    Opened {
        name: String,
        free_bytes: u64,
        /// The one for new clients last.
        images: Vec<ImageInfo>,
        clients: Vec<OpenClient>,
        /// Roles whose folder exists, also of clients that could not be
        /// opened: a new client must not have one of them.
        taken_roles: Vec<Role>,
        handle_key: HandleKey,
    },
    StickUnusable {
        message: String,
        action: String,
    },
    /// At most four a second.
    ImportProgress {
        file: String,
        per_mille: u16,
        left: Option<Duration>,
    },
    /// Also when the file turned out to hold an image that is there already.
    Imported {
        image: ImageInfo,
    },
    /// Before `Imported`: the file holds what is stored already, under this id.
    AlreadyThere {
        file: String,
        image: ImageId,
    },
    ImportFailed {
        file: String,
        message: String,
        action: String,
    },
    ClientReady(OpenClient),
    ClientFailed {
        role: Role,
        message: String,
        action: String,
    },
    /// What there is after an operation: as in `Opened`.
    Changed {
        images: Vec<ImageInfo>,
        clients: Vec<OpenClient>,
        taken_roles: Vec<Role>,
    },
    Operated {
        ticket: u64,
        /// The error is for people.
        result: Result<Box<operate::Outcome>, String>,
    },
    /// A watched client wrote that its start is complete.
    Up {
        role: Role,
    },
    /// A client's last boots, oldest first: behind `Opened` for those that have any, and after each `SaveBoot`.
    Boots {
        role: Role,
        boots: Vec<history::BootRecord>,
    },
    /// Names and sizes of an image's boot files: behind `Opened`, `Imported` and `Changed`.
    BootFiles {
        image: ImageId,
        files: Vec<(String, u64)>,
    },
    ImageMounted {
        image: ImageId,
        /// Its root and its boot files, both to be read only; the error is for people.
        trees: Result<(PathBuf, PathBuf), String>,
    },
    ReportSaved {
        ticket: Option<u64>,
        /// The folder below the store's; the error is for people.
        saved: Result<String, String>,
    },
    /// How large the open store is, and how much of it clients do not get: behind `Opened`.
    Room {
        total_bytes: u64,
        reserve_bytes: u64,
    },
    /// What clients may still write, and how near that is to nothing.
    FreeSpace {
        free_bytes: u64,
        level: Level,
    },
    /// How much of its quota a client has used: told when it comes near or away from it.
    Quota {
        role: Role,
        used_bytes: u64,
        quota_bytes: u64,
        level: Level,
    },
    /// Beside the open store: this stick can become its copy.
    BackupOffered {
        name: String,
        offer: BackupOffer,
    },
    /// At most one a second.
    BackupProgress {
        name: String,
        per_mille: u16,
    },
    /// The copy is complete.
    BackedUp {
        name: String,
        /// Unix seconds.
        taken: u64,
        /// What was written for it.
        bytes: u64,
    },
    BackupFailed {
        name: String,
        message: String,
        action: String,
    },
    /// Behind `Opened`: other files than before are served to these, of a copy or from memory. Handles that they hold
    /// since before are of no use any more.
    OtherFiles {
        roles: Vec<Role>,
    },
    /// The stick that was offered, or held the copy, was pulled.
    BackupGone,
    /// The stick is being let go of: clients' trees are to be let go of. Comes twice, before and
    /// after they are taken away.
    Releasing {
        name: String,
    },
    /// It can be pulled.
    Released {
        name: String,
    },
    /// The stick with the store was pulled; its clients' trees are gone.
    Closed {
        name: String,
    },
    /// About a recovery card for other Pis' EEPROMs.
    Card(CardEvent),
    /// The update files on all sticks are these now.
    UpdateFiles(Vec<PathBuf>),
    Problem {
        message: String,
        action: String,
    },
    /// Of a stick beside the open store's: why it is of no use.
    SecondUnused {
        message: String,
        action: String,
    },
    /// What clients write is refused, or lives in memory only. So as long as this store is open, whatever else is said.
    NotKept {
        message: String,
        action: String,
    },
    /// A look at an image is done: what is damaged in it, and files that lie there.
    Scrubbed {
        image: ImageId,
        damaged: Vec<String>,
        files: Vec<String>,
    },
    /// Something in the store is damaged and passed over: which file, and why. The rest serves.
    Damaged {
        file: String,
        reason: String,
        action: String,
    },
}

/// A recovery card for other Pis' EEPROMs, on a disk beside the store's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardEvent {
    /// All that is on this disk would be lost.
    Offered { name: String, bytes: u64, boards: &'static str },
    /// At most four a second, while it is written and compared.
    Progress { per_mille: u16 },
    /// It can be taken out.
    Written { name: String },
    /// It was not made, or cannot be.
    Failed { message: String, action: String },
    /// Nothing is offered or written any more.
    Gone,
}

/// What a second stick is before it becomes a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupOffer {
    /// It has no store; one is made, by the rules for a store of its own.
    New,
    /// It is a copy, complete at that time (Unix seconds) or not.
    Renew(Option<u64>),
    /// The store that a copy stood in for; it is written over.
    Former,
}

/// An image that clients can be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    pub id: ImageId,
    /// For people: the file's name without its endings.
    pub name: String,
    /// Unix seconds, by the appliance's clock at that time.
    pub imported: u64,
    pub root_bytes: u64,
}

/// A client whose trees are mounted. Two are equal whatever was charged to them.
#[derive(Debug, Clone)]
pub struct OpenClient {
    pub client: Client,
    /// `/` of the client.
    pub root: PathBuf,
    /// Its boot partition.
    pub boot: PathBuf,
    /// The folder of its block volume.
    pub volume: Option<PathBuf>,
    /// What its changes are charged to.
    pub account: Option<Arc<Account>>,
    /// Its next boot must begin with `RenewClient`.
    pub renew_at_boot: bool,
    /// False while the stick takes no writes, whatever the client's mode says.
    pub writable: bool,
}

impl PartialEq for OpenClient {
    fn eq(&self, other: &Self) -> bool {
        let of = |open: &Self| (open.renew_at_boot, open.writable);
        let Self { client, root, boot, volume, account: _, renew_at_boot: _, writable: _ } = self;
        (client, root, boot, volume) == (&other.client, &other.root, &other.boot, &other.volume)
            && of(self) == of(other)
    }
}

impl Eq for OpenClient {}

/// Why the store cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} has a comma, colon or backslash, which mount options cannot carry")]
    RunFolder(PathBuf),
    #[error("making {path}")]
    MakeFolder { path: PathBuf, source: io::Error },
    #[error("taking down what an earlier run mounted")]
    Unmount(#[from] mounts::MountError),
    #[error("starting a thread")]
    Thread(#[source] io::Error),
}

/// Where events go; must not block.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// How long `stop` waits in all.
const STOP_LIMIT: Duration = Duration::from_secs(25);

/// A running store.
pub struct Handle {
    messages: Sender<worker::Message>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts the threads. Mounts that an earlier, killed run left below `run`
/// are taken down first.
pub fn start(mut options: Options, sink: Sink) -> Result<Handle, Error> {
    if options.run.to_string_lossy().contains([',', ':', '\\']) {
        return Err(Error::RunFolder(options.run));
    }
    // The kernel lists mounts by their real paths.
    let made = std::fs::create_dir_all(&options.run).and_then(|()| std::fs::canonicalize(&options.run));
    options.run = made.map_err(|source| Error::MakeFolder { path: options.run.clone(), source })?;
    // Of a run that was killed while it made a copy.
    backup::thaw(&options.run.join("store"));
    mounts::unmount_below(&options.run, false)?;

    let (messages, queue) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let mut threads = Vec::new();
    if options.folder.is_none() {
        // Opened before the first look, so that nothing falls in between.
        let socket = hotplug::open().inspect_err(|error| tracing::warn!(%error, "no hot-plug events; polling")).ok();
        let (stop, messages) = (stop.clone(), messages.clone());
        let look = move || {
            let _ = messages.send(worker::Message::Look);
        };
        threads.push(spawn("hotplug").spawn(move || hotplug::run(socket, &stop, look)).map_err(Error::Thread)?);
    }
    let worker = worker::Worker::new(options, sink, messages.clone(), stop.clone());
    threads.push(spawn("store").spawn(move || worker.run(&queue)).map_err(Error::Thread)?);
    Ok(Handle { messages, stop, threads })
}

impl Handle {
    /// Queues a command; never blocks.
    pub fn send(&self, command: Command) {
        // Gone only after `stop`.
        let _ = self.messages.send(worker::Message::Command(command));
    }

    /// The same as `send`, for a thread that outlives a borrow.
    pub fn sender(&self) -> impl Fn(Command) + Send + 'static {
        let messages = self.messages.clone();
        move |command| drop(messages.send(worker::Message::Command(command)))
    }

    /// Ends an import, syncs, unmounts everything. Returns after at most 25 s,
    /// also when the stick hangs.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.messages.send(worker::Message::Stop);
        let deadline = Instant::now() + STOP_LIMIT;
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                tracing::warn!("the store did not stop in time");
            }
        }
    }
}

/// An error with its causes, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // A transparent error says the same as its cause.
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}
