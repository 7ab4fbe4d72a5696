//! The stick: finding it, its store, its images, and its clients' roots.
//!
//! A shell: it reports by `Event` and obeys by `Command`, and decides nothing
//! about clients. Two threads stay: `worker` owns every mount, `hotplug` says when
//! to look again. An import, a look through its names, operations, a backup and the trash have threads while they run.
//!
//! - `exchange`: what can be asked of the store, and what it tells
//! - `devices`, `hotplug`, `identify`, `table`: what is plugged in
//! - `place`, `prepare`: where the store lies, opening and making it
//! - [`shop`]: the store as a file of an exFAT or FAT32 file system
//! - `library`, `manifest`, `states`, `atomic`, `lock`: what it holds, as small text files
//! - `aside`: what of it is damaged
//! - `sources`, `packing`, `import`: image files on sticks, and making images of them
//! - `links`: which files of an image have several names
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
mod exchange;
pub mod history;
mod hotplug;
pub(crate) mod identify;
mod idle;
mod import;
pub(crate) mod in_place;
mod library;
mod links;
mod lock;
pub(crate) mod manifest;
mod mounts;
pub mod offline;
pub mod operate;
pub(crate) mod packing;
pub mod personalise;
pub mod place;
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

pub use self::exchange::{BackupOffer, CardEvent, Command, Event, ImageInfo, OpenClient};
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
