//! The control socket: takes orders, hands them to control, and gives back
//! what control answers.
//!
//! I/O. A Unix socket in the run folder, for root only: by its mode, and by
//! asking the kernel who called. One thread accepts, one waits per connection,
//! and their number is bounded; what does not speak is hung up on.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{MAX_ORDER_BYTES, Order, Reply, SOCKET};

/// Commands that wait at a time.
const MAX_CONNECTIONS: usize = 16;
/// How long a command may take to say what it wants, or to read the reply.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest work: an image made of a large root on a slow stick.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listening on {path}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("starting a thread")]
    Thread(#[source] io::Error),
}

/// What the socket reports.
#[derive(Debug)]
pub enum Event {
    /// To be answered with the same ticket, once.
    Ordered { ticket: u64, order: Order },
}

/// Where events go; must not block.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// The way back to who waits.
#[derive(Clone, Default)]
pub struct Handle {
    waiting: Arc<Mutex<HashMap<u64, SyncSender<Reply>>>>,
}

impl Handle {
    /// Gives a reply to whoever holds the ticket, if they still wait; never blocks.
    pub fn answer(&self, ticket: u64, reply: Reply) {
        let waits = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&ticket);
        if let Some(waits) = waits {
            let _ = waits.try_send(reply);
        }
    }
}

/// Listens in the folder `run`; what an earlier run left there is replaced.
pub fn start(run: &Path, sink: Sink) -> Result<Handle, Error> {
    let path = run.join(SOCKET);
    let failed = |source| Error::Listen { path: path.clone(), source };
    fs::create_dir_all(run).map_err(failed)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let handle = Handle::default();
    let shared = handle.clone();
    let thread = std::thread::Builder::new().name("orders".into());
    thread.spawn(move || accept(&listener, &shared, &sink)).map_err(Error::Thread)?;
    Ok(handle)
}

fn accept(listener: &UnixListener, handle: &Handle, sink: &Sink) {
    let (connections, tickets) = (Arc::new(AtomicUsize::new(0)), AtomicU64::new(1));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, which passes.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if connections.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let ticket = tickets.fetch_add(1, Ordering::Relaxed);
        let (handle, sink, counted) = (handle.clone(), sink.clone(), connections.clone());
        let thread = std::thread::Builder::new().name("order".into()).spawn(move || {
            if let Err(error) = serve(stream, ticket, &handle, &sink) {
                tracing::debug!(%error, "an order was not answered");
            }
            handle.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&ticket);
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if thread.is_err() {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn serve(stream: UnixStream, ticket: u64, handle: &Handle, sink: &Sink) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let asks = rustix::net::sockopt::socket_peercred(&stream)?;
    let reply = if asks.uid.is_root() {
        match read_order(&stream) {
            Ok(order) => {
                let (sender, receiver) = sync_channel(1);
                handle.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(ticket, sender);
                sink(Event::Ordered { ticket, order });
                let silent = |_| Reply::refused("no answer came; the work may still go on");
                receiver.recv_timeout(LONGEST).unwrap_or_else(silent)
            }
            Err(error) => Reply::refused(format!("not understood: {error}")),
        }
    } else {
        Reply::refused("only root may ask")
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    (&stream).write_all(&line)
}

fn read_order(stream: &UnixStream) -> io::Result<Order> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_ORDER_BYTES)).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "cut short or too long"));
    }
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use super::super::{Request, client};
    use super::*;
    use crate::store::operate::Operation;

    #[test]
    fn an_order_gets_its_own_reply_and_nonsense_a_refusal() {
        let run = tempfile::tempdir().unwrap();
        let (to, events) = std::sync::mpsc::channel();
        let handle = start(run.path(), Arc::new(move |event| to.send(event).unwrap())).unwrap();
        let answering = std::thread::spawn(move || {
            for Event::Ordered { ticket, order } in events.iter().take(2) {
                handle.answer(ticket + 100, Reply::refused("not for you"));
                handle.answer(ticket, Reply::done(format!("{:?}", order.force)));
            }
        });
        for force in [true, false] {
            let order = Order { request: Request::Operation(Operation::Clients), force };
            assert_eq!(client::ask(run.path(), &order).unwrap().unwrap(), Reply::done(format!("{force:?}")));
        }
        answering.join().unwrap();
        let check = |bytes: &[u8]| {
            let mut stream = UnixStream::connect(run.path().join(SOCKET)).unwrap();
            stream.write_all(bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert!(text.contains("not understood"), "{text}");
        };
        check(b"{}\n");
        check(b"\xff\n");
        check(b"{\"request\":");
        let mode = fs::metadata(run.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn without_a_server_nobody_answers() {
        let run = tempfile::tempdir().unwrap();
        let order = Order { request: Request::Operation(Operation::Clients), force: false };
        assert!(client::ask(run.path(), &order).unwrap().is_none());
        // A socket that a dead server left.
        drop(UnixListener::bind(run.path().join(SOCKET)).unwrap());
        assert!(client::ask(run.path(), &order).unwrap().is_none());
    }
}
