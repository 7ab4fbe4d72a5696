//! The server as a whole: start and stop. What its parts share is in `shared`, its sockets are in `sockets`,
//! its threads in `threads`, and what they do for a connection in `batch`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::export::Exports;
use super::file::Budget;
use super::journal::{Journal, milliseconds_since_boot};
use super::peer::Peers;
use super::portmap::Ports;
use super::reply_cache::ReplyCache;
use super::service::{Memory, Service};
use super::settle::Unsettled;
use super::shared::{Shared, spawn};
use super::sockets::Sockets;
use super::{Error, Event, Options};
use crate::directory::{Directory, Published};

/// Replies in flight get this long when the server stops.
const STOP: Duration = Duration::from_secs(5);
/// Threads: enough that a few may wait for the stick; each costs two buffers.
const THREADS: std::ops::RangeInclusive<usize> = 4..=64;

/// Serves until it is stopped or dropped.
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

pub fn start(
    options: Options,
    directory: Arc<Published<Directory>>,
    sink: Arc<dyn Fn(Event) + Send + Sync>,
) -> Result<Server, Error> {
    let descriptors = raise_descriptor_limit();
    let memory = rustix::system::sysinfo();
    let budget = Budget::new(memory.totalram as u64 * u64::from(memory.mem_unit), descriptors);
    let (sockets, ports) = Sockets::open(&options)?;
    let mut replies = ReplyCache::default();
    // Without it all is served; only a kill then shows.
    let journal = options.journal.as_ref().map(|path| Journal::open(path));
    let journal = journal.and_then(|opened| {
        opened
            .inspect_err(
                |error| tracing::warn!(%error, cause = ?std::error::Error::source(error), "no memory over a restart"),
            )
            .ok()
    });
    let memory = journal.map(|(journal, left)| {
        let unsettled = Unsettled::take(left, &mut replies, Instant::now(), milliseconds_since_boot());
        Memory { journal, unsettled }
    });
    let workers = options.workers.clamp(*THREADS.start(), *THREADS.end());
    let service = Service {
        exports: Exports::new(verifier(), budget),
        peers: Peers::new(workers),
        directory,
        sink,
        ports,
        allow_unprivileged_ports: options.allow_unprivileged_ports,
        replies: Mutex::new(replies),
        memory,
    };
    let shared = Arc::new(Shared::new(service, sockets));
    // From here on dropping the server stops the threads that run already.
    let mut server = Server { shared, threads: Vec::new() };
    for n in 0..workers {
        server.spawn(format!("nfs-{n}"), Shared::work)?;
    }
    server.spawn("nfs-sweep".to_owned(), Shared::sweep)?;
    Ok(server)
}

impl Server {
    /// The ports that are really listened on.
    pub fn ports(&self) -> Ports {
        self.shared.service.ports
    }

    /// Lets go of every descriptor into the clients' trees, so that they can be unmounted: call it
    /// after publishing a directory without them. Calls that run keep theirs until they end.
    pub fn release_trees(&self) {
        self.shared.service.exports.release();
    }

    /// Takes no more calls, lets those that run end and sends their replies, for at most `STOP`.
    pub fn stop(&mut self) {
        let shared = &self.shared;
        if shared.stopping.swap(true, Ordering::SeqCst) {
            return;
        }
        let deadline = Instant::now() + STOP;
        shared.sockets.wake();
        shared.sockets.stop_listening();
        shared.wait_for_threads(deadline);
        let connections = shared.sockets.connections();
        while Instant::now() < deadline && !connections.iter().all(|connection| connection.is_flushed()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        connections.iter().for_each(|connection| connection.finish());
        shared.sockets.forget_all();
        shared.service.exports.release();
        shared.service.memory.iter().for_each(|memory| memory.journal.close());
        for thread in self.threads.drain(..) {
            // One that waits for a dead stick is left behind.
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }

    fn spawn(&mut self, name: String, run: fn(&Arc<Shared>)) -> Result<(), Error> {
        let thread = spawn(&self.shared, name, run);
        self.threads.push(thread.map_err(|source| Error::System { operation: "spawn a thread", source })?);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Different at every start, also where the clock begins at 1970 each time and
/// where there is no randomness yet.
fn verifier() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut bytes = [0u8; 8];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::INSECURE);
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write(&bytes);
    for clock in [rustix::time::ClockId::Realtime, rustix::time::ClockId::Boottime] {
        let now = rustix::time::clock_gettime(clock);
        hasher.write_i64(now.tv_sec);
        hasher.write_i64(now.tv_nsec);
    }
    hasher.write_i32(rustix::process::getpid().as_raw_nonzero().get());
    hasher.finish()
}

/// More than connections, files and trees together need; the kernel's own limit is a million.
const DESCRIPTORS: u64 = 300_000;

/// How many descriptors this process may have, which is raised as far as it goes.
fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let maximum = before.maximum.map(|maximum| maximum.max(DESCRIPTORS));
    let most = Rlimit { current: Some(DESCRIPTORS), maximum };
    if before.current.is_some_and(|current| current < DESCRIPTORS) && setrlimit(Resource::Nofile, most).is_err() {
        // Not root's rights: as far as the limit of the limit.
        let allowed = Rlimit { current: before.maximum, maximum: before.maximum };
        if let Err(errno) = setrlimit(Resource::Nofile, allowed) {
            tracing::warn!(%errno, "the limit of open files stays as it is");
        }
    }
    getrlimit(Resource::Nofile).current.and_then(|current| usize::try_from(current).ok()).unwrap_or(usize::MAX)
}
