//! The TFTP server: its thread, the socket of port 69, and who may have how many transfers.
//!
//! I/O. One thread runs every transfer as a task (`exchange`); reads of the stick
//! run on a small pool beside it, so that a slow read holds up its own transfer
//! only. Decides nothing about files (`files`).
//!
//! An address that is no client's gets silence, not an ERROR: nothing that a
//! forged sender could use, and a client whose tree is about to be published
//! repeats its request after 2 s, where an ERROR would make it give up.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};

use super::exchange::{Service, connect, send};
use super::files::Files;
use super::packet::{self, Packet, Request};
use super::progress::{OFFERED, OPENING, Progress};
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
