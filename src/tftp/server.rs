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
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use async_tftp::packet::Error as Denial;
use futures_io::AsyncRead;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot};
use tokio::task::{Id, JoinSet};

use super::files::{BootFile, Files};
use super::packet::{self, DATA_HEADER_BYTES, Packet, Request};
use super::transfer::{MAX_BLKSIZE, Outcome, Output, Transfer, wire_number};
use super::{Event, Options, Sink, path};
use crate::blackbox::tap;
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

/// How often a transfer tells how far it is.
const PROGRESS_PAUSE: Duration = Duration::from_millis(500);

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

/// The interface may get its address after the server starts, so it need not be there yet.
fn listen(options: Options) -> io::Result<std::net::UdpSocket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    rustix::net::sockopt::set_ip_freebind(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(options.listen, options.port))?;
    Ok(socket.into())
}

/// Listens, and serves what `directory` holds at each moment until the server is dropped.
pub fn start(options: Options, directory: Arc<Published<Directory>>, sink: Sink) -> Result<Server, Error> {
    let wanted = SocketAddr::from((options.listen, options.port));
    let bind = |source| Error::Bind { address: wanted, source };
    let socket = listen(options).map_err(bind)?;
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

/// What the listener and one transfer's task tell each other.
struct Progress {
    phase: AtomicU8,
    /// The same request came again.
    repeated: AtomicBool,
    /// The client asked for something else from the same port: not one
    /// datagram may follow.
    superseded: AtomicBool,
    /// Wakes the task: the request was repeated, or superseded.
    nudge: Notify,
}

impl Progress {
    fn new() -> Self {
        Self {
            phase: AtomicU8::new(OPENING),
            repeated: AtomicBool::new(false),
            superseded: AtomicBool::new(false),
            nudge: Notify::new(),
        }
    }

    // One thread runs the listener and all tasks, so no order between these matters.
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    fn set_phase(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    fn repeat(&self) {
        self.repeated.store(true, Ordering::Relaxed);
        self.nudge.notify_one();
    }

    fn take_repeated(&self) -> bool {
        self.repeated.swap(false, Ordering::Relaxed)
    }

    fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Relaxed)
    }

    fn supersede(&self) {
        self.superseded.store(true, Ordering::Relaxed);
        self.nudge.notify_one();
    }
}

/// `Progress::phase`: the file is being opened; something was sent; something
/// was acknowledged; it is over.
const OPENING: u8 = 0;
const OFFERED: u8 = 1;
const ACKNOWLEDGED: u8 = 2;
const ENDED: u8 = 3;

/// A running transfer, by the port that asked for it.
struct Running {
    request: Request,
    progress: Arc<Progress>,
    task: Id,
    /// Rises with every transfer: the smallest is the oldest.
    number: u64,
}

struct Listener {
    socket: UdpSocket,
    listen: Ipv4Addr,
    files: Files,
    sink: Sink,
    running: HashMap<SocketAddr, Running>,
    tasks: JoinSet<()>,
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
                    self.running.retain(|_, running| running.task != id);
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
                self.show(peer, datagram);
                let shown = match packet::parse(datagram) {
                    Ok(Packet::Rrq(request) | Packet::Wrq(request)) => path::display(&request.path),
                    _ => String::new(),
                };
                self.refused(address, shown, "the address is no client's");
            }
            return;
        }
        self.show(peer, datagram);
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
            match running.progress.phase() {
                // The answer is under way.
                OPENING if running.request == request => return,
                OFFERED if running.request == request => return running.progress.repeat(),
                _ => self.end(peer),
            }
        }
        let of_client = |peer: &SocketAddr| peer.ip() == IpAddr::V4(address);
        if self.running.keys().filter(|&peer| of_client(peer)).count() >= MAX_TRANSFERS_PER_CLIENT {
            let oldest =
                self.running.iter().filter(|(peer, _)| of_client(peer)).min_by_key(|(_, running)| running.number);
            if let Some(oldest) = oldest.map(|(&peer, _)| peer) {
                self.end(oldest);
            }
        }
        if self.tasks.len() >= MAX_TRANSFERS {
            // Silence: the client repeats its request.
            return self.refused(address, path::display(&request.path), "too many transfers run at once");
        }
        self.started += 1;
        let progress = Arc::new(Progress::new());
        let service = Service {
            files: self.files.clone(),
            sink: self.sink.clone(),
            listen: self.listen,
            address,
            peer,
            request: request.clone(),
            progress: progress.clone(),
        };
        let task = self.tasks.spawn(service.run()).id();
        self.running.insert(peer, Running { request, progress, task, number: self.started });
    }

    /// Ends a transfer that its client has left.
    fn end(&mut self, peer: SocketAddr) {
        if let Some(running) = self.running.remove(&peer) {
            running.progress.supersede();
        }
    }

    /// For the black box.
    fn show(&self, peer: SocketAddr, datagram: &[u8]) {
        if let SocketAddr::V4(peer) = peer {
            let own = if self.listen.is_unspecified() { tap::ours() } else { self.listen };
            tap::datagram(false, peer, SocketAddrV4::new(own, 69), datagram.len(), datagram);
        }
    }

    fn refused(&self, address: Ipv4Addr, path: String, reason: &'static str) {
        (self.sink)(Event::Refused { address, path, reason });
    }

    async fn deny(&self, peer: SocketAddr, code: u16, message: &str) {
        if let Ok(socket) = connect(self.listen, peer).await {
            // Lost ones are asked for again.
            let _ = send(&socket, &packet::error(code, message)).await;
        }
    }
}

/// Sends what is no DATA, and shows it to the black box.
async fn send(socket: &UdpSocket, datagram: &[u8]) -> io::Result<usize> {
    if tap::is_on()
        && let (Ok(SocketAddr::V4(from)), Ok(SocketAddr::V4(to))) = (socket.local_addr(), socket.peer_addr())
    {
        tap::datagram(false, from, to, datagram.len(), datagram);
    }
    socket.send(datagram).await
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
            Some(Ended::As(Outcome::TimedOut)) => {
                let (sent, size, ahead) = (self.transfer.sent_bytes(), self.transfer.size(), self.transfer.ahead());
                Event::TimedOut { address, path, bytes, sent, size, ahead }
            }
            Some(Ended::Unreadable(error)) => Event::Failed { address, path, error: error.to_string() },
            Some(Ended::As(Outcome::Aborted)) | None => Event::Aborted { address, path, bytes },
        });
    }
}

/// One request, and what it takes to serve it.
struct Service {
    files: Files,
    sink: Sink,
    listen: Ipv4Addr,
    address: Ipv4Addr,
    peer: SocketAddr,
    request: Request,
    progress: Arc<Progress>,
}

/// How an exchange ended, and whether the same request came again behind that end.
struct Exchanged {
    outcome: Outcome,
    again: bool,
}

impl Service {
    /// Serves the request to its end, and once more for each time that it was
    /// repeated after its end, before the listener knew.
    async fn run(self) {
        while self.once().await {
            self.progress.set_phase(OPENING);
        }
        self.progress.set_phase(ENDED);
    }

    /// Whether to serve the request again.
    async fn once(&self) -> bool {
        let (since, path) = (Instant::now(), path::display(&self.request.path));
        let opened = self.files.open(self.address, &self.request.path).await;
        let socket = match connect(self.listen, self.peer).await {
            Ok(socket) => socket,
            Err(error) => {
                let error = format!("cannot open a socket: {error}");
                (self.sink)(Event::Failed { address: self.address, path, error });
                return false;
            }
        };
        let mut file = match opened {
            Ok(file) => file,
            Err(denial) => {
                // From here on the same request is a new one.
                self.progress.set_phase(ENDED);
                if !self.progress.is_superseded() {
                    let (code, message) = denial_words(&denial);
                    // A lost one is asked for again.
                    let _ = socket.send(&packet::error(code, message)).await;
                }
                return false;
            }
        };
        let transfer = Transfer::new(&self.request.asked, file.size());
        let (sink, address) = (self.sink.clone(), self.address);
        let tell = |bytes| (self.sink)(Event::Progress { address, bytes });
        let mut report = Report { sink, address, path, since, transfer, ended: None };
        let repeated = || {
            let path = path::display(&self.request.path);
            (self.sink)(Event::Repeated { address: self.address, path });
        };
        match exchange(&socket, &mut report.transfer, &mut file, since, &self.progress, &tell, &repeated).await {
            Ok(Exchanged { outcome, again }) => {
                report.ended = Some(Ended::As(outcome));
                again
            }
            Err(error) => {
                self.progress.set_phase(ENDED);
                if !self.progress.is_superseded() {
                    let _ = send(&socket, &packet::error(0, "Cannot read the file")).await;
                }
                report.ended = Some(Ended::Unreadable(error));
                false
            }
        }
    }
}

fn denial_words(denial: &Denial) -> (u16, &str) {
    match denial {
        Denial::FileNotFound => (1, "File not found"),
        Denial::PermissionDenied => (2, "Access violation"),
        Denial::Msg(message) => (0, message),
        _ => (0, "Unknown error"),
    }
}

/// Runs the state machine against socket, clock and file; `tell` hears what was
/// acknowledged. The error is the file's.
async fn exchange(
    socket: &UdpSocket,
    transfer: &mut Transfer,
    file: &mut BootFile,
    since: Instant,
    progress: &Progress,
    tell: &(impl Fn(u64) + Sync),
    repeated: &(dyn Fn() + Sync),
) -> io::Result<Exchanged> {
    let mut window = Window::default();
    let mut told = since;
    // One timer for the whole transfer: it is set anew when it rings too early, not for each block.
    let mut timer = pin!(tokio::time::sleep_until(since.into()));
    let (mut nudged, mut in_a_row) = (false, 0);
    loop {
        let output = transfer.poll(since.elapsed());
        if progress.is_superseded() && !matches!(output, Output::Done(_)) {
            return Ok(Exchanged { outcome: Outcome::Aborted, again: false });
        }
        let deadline = match output {
            Output::Done(outcome) => {
                let again = progress.take_repeated() && !progress.is_superseded();
                return Ok(Exchanged { outcome, again });
            }
            Output::Oack => {
                // What cannot be sent counts as lost: time repeats it.
                let _ = send(socket, transfer.oack().unwrap_or_default()).await;
                progress.set_phase(OFFERED);
                continue;
            }
            Output::Data(block) => {
                let datagram = window.datagram(block, transfer, file).await?;
                // Reading may have taken its time.
                if !progress.is_superseded() {
                    let _ = socket.send(datagram).await;
                }
                if !transfer.is_acknowledged() {
                    progress.set_phase(OFFERED);
                }
                continue;
            }
            Output::Wait(deadline) => deadline,
        };
        // What the client sent before it repeated its request, or before we lost
        // patience, comes first; tokio may not have noticed it yet.
        if hear(socket, transfer) {
            if transfer.is_acknowledged() {
                progress.set_phase(ACKNOWLEDGED);
            }
            if told.elapsed() >= PROGRESS_PAUSE {
                told = Instant::now();
                tell(transfer.acked_bytes());
            }
            in_a_row += 1;
            if in_a_row % MAX_IN_A_ROW == 0 {
                tokio::task::yield_now().await;
            }
            continue;
        }
        in_a_row = 0;
        if std::mem::take(&mut nudged) && progress.take_repeated() {
            if !transfer.is_acknowledged() {
                repeated();
            }
            transfer.repeated();
            continue;
        }
        if since.elapsed() >= deadline {
            transfer.timeout(since.elapsed());
            continue;
        }
        // All that came was heard: tokio tells of what comes now.
        let nothing = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
        let _ = socket.try_io(tokio::io::Interest::READABLE, nothing);
        let ring = (since + deadline).into();
        if timer.is_elapsed() || ring < timer.deadline() {
            timer.as_mut().reset(ring);
        }
        tokio::select! {
            ready = socket.readable() => if ready.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            },
            () = progress.nudge.notified() => nudged = true,
            () = &mut timer => {}
        }
    }
}

/// Datagrams of one client before other transfers have their turn: more than a window of ACKs at once is a flood.
const MAX_IN_A_ROW: u32 = 64;

/// Gives the state machine the next datagram that has arrived, if there is one.
fn hear(socket: &UdpSocket, transfer: &mut Transfer) -> bool {
    let mut buffer = [0; 512];
    match rustix::net::recv(socket, &mut buffer[..], rustix::net::RecvFlags::DONTWAIT) {
        Ok((length, _)) => match packet::parse(&buffer[..length.min(512)]) {
            Ok(Packet::Ack(number)) => transfer.ack(number),
            Ok(Packet::Error(_)) => {
                if let (true, Ok(SocketAddr::V4(to)), Ok(SocketAddr::V4(from))) =
                    (tap::is_on(), socket.local_addr(), socket.peer_addr())
                {
                    tap::datagram(false, from, to, length, &buffer[..length.min(512)]);
                }
                transfer.error();
            }
            _ => {}
        },
        // ICMP says that the client's port is closed: nobody waits for this file any more.
        Err(rustix::io::Errno::CONNREFUSED) => transfer.error(),
        Err(_) => return false,
    }
    true
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
