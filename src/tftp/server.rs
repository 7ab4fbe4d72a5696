//! The TFTP server: sockets, and the thread they live on.
//!
//! I/O. One thread runs every transfer as a task with a socket of its own;
//! reads of the stick run on a small pool beside it, so that a slow read holds
//! up its own transfer only. Decides nothing about files (`files`) nor about
//! what to send when (`transfer`).
//!
//! An address that is no client's gets silence, not an ERROR: nothing that a
//! forged sender could use, and a client whose tree is about to be published
//! repeats its request after 2 s, where an ERROR would make it give up.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use async_tftp::packet::Error as Denial;
use futures_io::AsyncRead;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use super::files::{BootFile, Files};
use super::packet::{self, DATA_HEADER_BYTES, Packet, Request};
use super::transfer::{MAX_BLKSIZE, Outcome, Output, Transfer, wire_number};
use super::{Event, Options, Sink, path};
use crate::directory::{Directory, Published};

/// Transfers at once, of all clients.
const MAX_TRANSFERS: usize = 1024;

/// Transfers at once of one client. A loader has one; what piles up are
/// abandoned ones, so the oldest gives way.
const MAX_TRANSFERS_PER_CLIENT: usize = 16;

/// Threads that read the stick.
const READ_THREADS: usize = 8;

/// How long a flood of nonsense from strangers stays one event.
const STRANGERS_PAUSE: Duration = Duration::from_secs(1);

/// Longest datagram over IPv4: a request of 10,000 bytes is read whole, so
/// that it can be told what it is.
const MAX_DATAGRAM_BYTES: usize = 65_507;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen for TFTP on {address}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("cannot start the TFTP thread")]
    Spawn { source: io::Error },
}

/// A running server; dropping it ends it and its transfers.
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Where it listens, with the port it was given.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed by its thread.
            let _ = thread.join();
        }
    }
}

/// Listens, and serves what `directory` holds at each moment until the server is dropped.
pub fn start(options: Options, directory: Arc<Published<Directory>>, sink: Sink) -> Result<Server, Error> {
    let wanted = SocketAddr::from((options.listen, options.port));
    let bind = |source| Error::Bind { address: wanted, source };
    let socket = std::net::UdpSocket::bind(wanted).map_err(bind)?;
    socket.set_nonblocking(true).map_err(bind)?;
    let address = socket.local_addr().map_err(bind)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READ_THREADS)
        .build()
        .map_err(|source| Error::Spawn { source })?;
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("tftp".to_owned())
        .spawn(move || {
            let files = Files::new(directory, sink.clone(), runtime.handle().clone());
            runtime.block_on(async {
                match UdpSocket::from_std(socket) {
                    Ok(socket) => Listener::new(socket, options.listen, files, sink).run(stopped).await,
                    Err(error) => tracing::error!("tftp: cannot register the socket: {error}"),
                }
            });
            // A read that hangs on a dead stick must not hang the shutdown.
            runtime.shutdown_background();
        })
        .map_err(|source| Error::Spawn { source })?;
    Ok(Server { address, stop: Some(stop), thread: Some(thread) })
}

/// How far a transfer is, as far as a repeated request needs it.
struct Progress {
    phase: AtomicU8,
    repeated: Notify,
}

/// `Progress::phase`: the file is being opened; something was sent; something was acknowledged.
const OPENING: u8 = 0;
const OFFERED: u8 = 1;
const ACKNOWLEDGED: u8 = 2;

/// A running transfer, by the port that asked for it.
struct Running {
    request: Request,
    progress: Arc<Progress>,
    task: AbortHandle,
    /// Rises with every transfer: the smallest is the oldest.
    number: u64,
}

struct Listener {
    socket: UdpSocket,
    listen: Ipv4Addr,
    files: Files,
    sink: Sink,
    running: HashMap<SocketAddr, Running>,
    tasks: JoinSet<SocketAddr>,
    started: u64,
    strangers: Option<Instant>,
}

impl Listener {
    fn new(socket: UdpSocket, listen: Ipv4Addr, files: Files, sink: Sink) -> Self {
        let (running, tasks) = (HashMap::new(), JoinSet::new());
        Self { socket, listen, files, sink, running, tasks, started: 0, strangers: None }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        loop {
            tokio::select! {
                _ = &mut stopped => return,
                Some(ended) = self.tasks.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, _)| id);
                    self.running.retain(|_, running| running.task.id() != id);
                }
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, SocketAddr::V4(peer))) => self.datagram(*peer.ip(), peer.into(), &buffer[..length]).await,
                    // Errors here are an interface going down, or memory: the next datagram may do.
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!("tftp: cannot receive: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    async fn datagram(&mut self, address: Ipv4Addr, peer: SocketAddr, datagram: &[u8]) {
        if !self.files.serves(address) {
            if self.strangers.is_none_or(|last| last.elapsed() >= STRANGERS_PAUSE) {
                self.strangers = Some(Instant::now());
                let shown = match packet::parse(datagram) {
                    Ok(Packet::Rrq(request) | Packet::Wrq(request)) => path::display(&request.path),
                    _ => String::new(),
                };
                self.refused(address, shown, "the address is no client's");
            }
            return;
        }
        match packet::parse(datagram) {
            Ok(Packet::Rrq(request)) => self.request(address, peer, request).await,
            Ok(Packet::Wrq(request)) => {
                self.refused(address, path::display(&request.path), "writing is not served");
                self.deny(peer, 2, "Access violation").await;
            }
            // Late datagrams of transfers that ended; an ERROR is never answered by one.
            Ok(_) => {}
            Err(packet::Malformed) => {
                self.refused(address, String::new(), "the request is malformed");
                self.deny(peer, 4, "Illegal TFTP operation").await;
            }
        }
    }

    async fn request(&mut self, address: Ipv4Addr, peer: SocketAddr, request: Request) {
        if !request.octet {
            // Serving it unconverted would break files without a word.
            self.refused(address, path::display(&request.path), "only mode octet is served");
            return self.deny(peer, 0, "Only mode octet is served").await;
        }
        if let Some(running) = self.running.get(&peer) {
            let phase = running.progress.phase.load(Ordering::Relaxed);
            if running.request == request && phase != ACKNOWLEDGED {
                // The client has nothing yet. While the file is being opened, the answer is under way.
                if phase == OFFERED {
                    running.progress.repeated.notify_one();
                }
                return;
            }
            self.end(peer);
        }
        let of_client = |peer: &SocketAddr| peer.ip() == IpAddr::V4(address);
        if self.running.keys().filter(|&peer| of_client(peer)).count() >= MAX_TRANSFERS_PER_CLIENT {
            let oldest =
                self.running.iter().filter(|(peer, _)| of_client(peer)).min_by_key(|(_, running)| running.number);
            if let Some(oldest) = oldest.map(|(&peer, _)| peer) {
                self.end(oldest);
            }
        }
        if self.running.len() >= MAX_TRANSFERS {
            // Silence: the client repeats its request.
            return self.refused(address, path::display(&request.path), "too many transfers run at once");
        }
        self.started += 1;
        let progress = Arc::new(Progress { phase: AtomicU8::new(OPENING), repeated: Notify::new() });
        let serving =
            serve(self.files.clone(), self.sink.clone(), self.listen, address, peer, request.clone(), progress.clone());
        let task = self.tasks.spawn(async move {
            serving.await;
            peer
        });
        self.running.insert(peer, Running { request, progress, task, number: self.started });
    }

    /// Ends a transfer that its client has left.
    fn end(&mut self, peer: SocketAddr) {
        if let Some(running) = self.running.remove(&peer) {
            running.task.abort();
        }
    }

    fn refused(&self, address: Ipv4Addr, path: String, reason: &'static str) {
        (self.sink)(Event::Refused { address, path, reason });
    }

    async fn deny(&self, peer: SocketAddr, code: u16, message: &str) {
        if let Ok(socket) = connect(self.listen, peer).await {
            // Lost ones are asked for again.
            let _ = socket.send(&packet::error(code, message)).await;
        }
    }
}

/// A socket with a port of its own (the server's TID) that hears this client only.
async fn connect(listen: Ipv4Addr, peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((listen, 0)).await?;
    socket.connect(peer).await?;
    Ok(socket)
}

/// Tells how a transfer ended, also when its task is aborted.
struct Report {
    sink: Sink,
    address: Ipv4Addr,
    path: String,
    since: Instant,
    transfer: Transfer,
    /// `None` while it runs: if it is dropped so, the client has gone on to something else.
    ended: Option<Ended>,
}

enum Ended {
    As(Outcome),
    Unreadable(io::Error),
}

impl Drop for Report {
    fn drop(&mut self) {
        let (address, path, bytes) = (self.address, std::mem::take(&mut self.path), self.transfer.acked_bytes());
        (self.sink)(match self.ended.take() {
            Some(Ended::As(Outcome::Finished)) => Event::Finished { address, path, bytes, took: self.since.elapsed() },
            Some(Ended::As(Outcome::TimedOut)) => Event::TimedOut { address, path, bytes, size: self.transfer.size() },
            Some(Ended::Unreadable(error)) => Event::Failed { address, path, error: error.to_string() },
            Some(Ended::As(Outcome::Aborted)) | None => Event::Aborted { address, path, bytes },
        });
    }
}

/// Serves one request to its end.
async fn serve(
    files: Files,
    sink: Sink,
    listen: Ipv4Addr,
    address: Ipv4Addr,
    peer: SocketAddr,
    request: Request,
    progress: Arc<Progress>,
) {
    let since = Instant::now();
    let opened = files.open(address, &request.path).await;
    let socket = match connect(listen, peer).await {
        Ok(socket) => socket,
        Err(error) => {
            let error = format!("cannot open a socket: {error}");
            return sink(Event::Failed { address, path: path::display(&request.path), error });
        }
    };
    let mut file = match opened {
        Ok(file) => file,
        Err(denial) => {
            let (code, message) = denial_words(&denial);
            let _ = socket.send(&packet::error(code, message)).await;
            return;
        }
    };
    let transfer = Transfer::new(&request.asked, file.size());
    let mut report = Report { sink, address, path: path::display(&request.path), since, transfer, ended: None };
    report.ended = Some(match exchange(&socket, &mut report.transfer, &mut file, since, &progress).await {
        Ok(outcome) => Ended::As(outcome),
        Err(error) => {
            let _ = socket.send(&packet::error(0, "Cannot read the file")).await;
            Ended::Unreadable(error)
        }
    });
}

fn denial_words(denial: &Denial) -> (u16, &str) {
    match denial {
        Denial::FileNotFound => (1, "File not found"),
        Denial::PermissionDenied => (2, "Access violation"),
        Denial::Msg(message) => (0, message),
        _ => (0, "Unknown error"),
    }
}

/// Runs the state machine against socket, clock and file. The error is the file's.
async fn exchange(
    socket: &UdpSocket,
    transfer: &mut Transfer,
    file: &mut BootFile,
    since: Instant,
    progress: &Progress,
) -> io::Result<Outcome> {
    let mut window = Window::default();
    let mut buffer = [0; 512];
    loop {
        let deadline = match transfer.poll(since.elapsed()) {
            Output::Done(outcome) => return Ok(outcome),
            Output::Oack => {
                // What cannot be sent counts as lost: time repeats it.
                let _ = socket.send(transfer.oack().unwrap_or_default()).await;
                progress.phase.store(OFFERED, Ordering::Relaxed);
                continue;
            }
            Output::Data(block) => {
                let datagram = window.datagram(block, transfer, file).await?;
                let _ = socket.send(datagram).await;
                if !transfer.is_acknowledged() {
                    progress.phase.store(OFFERED, Ordering::Relaxed);
                }
                continue;
            }
            Output::Wait(deadline) => deadline,
        };
        tokio::select! {
            received = socket.recv(&mut buffer) => match received {
                Ok(length) => match packet::parse(&buffer[..length]) {
                    Ok(Packet::Ack(number)) => transfer.ack(number),
                    Ok(Packet::Error(_)) => transfer.error(),
                    _ => {}
                },
                // ICMP says that the client's port is closed: nobody waits for this file any more.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => transfer.error(),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            () = progress.repeated.notified() => transfer.repeated(),
            () = tokio::time::sleep_until((since + deadline).into()) => transfer.timeout(since.elapsed()),
        }
        if transfer.is_acknowledged() {
            progress.phase.store(ACKNOWLEDGED, Ordering::Relaxed);
        }
    }
}

/// The datagrams that may have to be sent again, at most a window of them.
#[derive(Default)]
struct Window {
    /// The block before the first one held.
    before: u64,
    datagrams: VecDeque<Vec<u8>>,
    /// Read so far: the file's position.
    position: u64,
}

impl Window {
    async fn datagram(&mut self, block: u64, transfer: &Transfer, file: &mut BootFile) -> io::Result<&[u8]> {
        while self.before < transfer.acked() && self.datagrams.pop_front().is_some() {
            self.before += 1;
        }
        while self.before + (self.datagrams.len() as u64) < block {
            let number = self.before + self.datagrams.len() as u64 + 1;
            let datagram = self.read(number, transfer, file).await?;
            self.datagrams.push_back(datagram);
        }
        let index = usize::try_from(block - self.before - 1).unwrap_or(usize::MAX);
        // The state machine only asks for blocks behind `acked`, and those are held.
        self.datagrams.get(index).map(Vec::as_slice).ok_or_else(|| io::Error::other("block left the window"))
    }

    async fn read(&mut self, number: u64, transfer: &Transfer, file: &mut BootFile) -> io::Result<Vec<u8>> {
        let left = transfer.size().saturating_sub(self.position);
        let length = u64::from(transfer.blksize()).min(left);
        self.position += length;
        let length = usize::try_from(length).unwrap_or(usize::from(MAX_BLKSIZE));
        let mut datagram = Vec::with_capacity(DATA_HEADER_BYTES + length);
        datagram.extend(packet::data_header(wire_number(number)));
        datagram.resize(DATA_HEADER_BYTES + length, 0);
        let mut filled = DATA_HEADER_BYTES;
        while filled < datagram.len() {
            let read = poll_fn(|context| Pin::new(&mut *file).poll_read(context, &mut datagram[filled..])).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
        }
        Ok(datagram)
    }
}
