//! What the server's threads share, and how one is started.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::pipe::Pipes;
use super::service::Service;
use super::sockets::Sockets;

/// What the threads share.
pub struct Shared {
    pub service: Service<Weak<Connection>>,
    pub sockets: Sockets,
    pub stopping: AtomicBool,
    /// Threads, and that one of them ended.
    running: Mutex<usize>,
    ended: Condvar,
    /// Connections that are not read yet: see `settle`.
    pub held: Mutex<Vec<u64>>,
    pub load: Load,
    pub pipes: Arc<Pipes>,
}

/// What the threads do, for `Shared::relieve_if_stuck`.
#[derive(Default)]
pub struct Load {
    pub threads: AtomicUsize,
    /// Of them, those that wait for something to do.
    pub idle: AtomicUsize,
    /// Events that were dealt with, since the start.
    pub ended: AtomicUsize,
}

impl Shared {
    pub fn new(service: Service<Weak<Connection>>, sockets: Sockets) -> Self {
        Self {
            service,
            sockets,
            stopping: AtomicBool::new(false),
            running: Mutex::new(0),
            ended: Condvar::new(),
            held: Mutex::default(),
            load: Load::default(),
            pipes: Arc::default(),
        }
    }

    /// Waits for so long, or until the server stops.
    pub fn pause(&self, time: Duration) {
        let running = lock(&self.running);
        drop(self.ended.wait_timeout(running, time).unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends every `pause`, and waits until the threads have ended, or until then.
    pub fn wait_for_threads(&self, deadline: Instant) {
        self.ended.notify_all();
        let mut running = lock(&self.running);
        while *running > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (running, _) = self.ended.wait_timeout(running, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts a thread that counts as running until it ends.
pub fn spawn(shared: &Arc<Shared>, name: String, run: fn(&Arc<Shared>)) -> std::io::Result<JoinHandle<()>> {
    let own = shared.clone();
    *lock(&shared.running) += 1;
    let spawned = std::thread::Builder::new().name(name).stack_size(512 << 10).spawn(move || {
        run(&own);
        *lock(&own.running) -= 1;
        own.ended.notify_all();
    });
    spawned.inspect_err(|_| *lock(&shared.running) -= 1)
}

/// Each lock guards values that are whole between statements, so a panic elsewhere is no harm to them.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
