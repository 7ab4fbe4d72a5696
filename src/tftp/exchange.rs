//! One request, served to its end: the state machine (`transfer`) run against a socket of its own, the clock and the file.
//!
//! I/O. A task of the server's one thread; what it and the listener tell each other is in `progress`.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_tftp::packet::Error as Denial;
use futures_io::AsyncRead;
use tokio::net::UdpSocket;

use super::boot_file::BootFile;
use super::files::Files;
use super::inbox::{Inbox, PortClosed};
use super::packet::{self, DATA_HEADER_BYTES, Packet, Request};
use super::progress::{ACKNOWLEDGED, ENDED, OFFERED, OPENING, Progress};
use super::transfer::{MAX_BLKSIZE, Outcome, Output, Transfer, wire_number};
use super::{Event, Sink, path};
use crate::blackbox::tap;

/// How often a transfer tells how far it is.
const PROGRESS_PAUSE: Duration = Duration::from_millis(500);

/// Datagrams of one client before other transfers have their turn: more than a window of ACKs at once is a flood.
const MAX_IN_A_ROW: u32 = 64;

/// Sends what is no DATA, and shows it to the black box.
pub async fn send(socket: &UdpSocket, datagram: &[u8]) -> io::Result<usize> {
    if tap::is_on()
        && let (Ok(SocketAddr::V4(from)), Ok(SocketAddr::V4(to))) = (socket.local_addr(), socket.peer_addr())
    {
        tap::datagram(false, from, to, datagram.len(), datagram);
    }
    socket.send(datagram).await
}

/// A socket with a port of its own (the server's TID) that hears this client only.
pub async fn connect(listen: Ipv4Addr, peer: SocketAddr) -> io::Result<UdpSocket> {
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
pub struct Service {
    pub files: Files,
    pub sink: Sink,
    pub listen: Ipv4Addr,
    pub address: Ipv4Addr,
    pub peer: SocketAddr,
    pub request: Request,
    pub progress: Arc<Progress>,
}

/// How an exchange ended, and whether the same request came again behind that end.
struct Exchanged {
    outcome: Outcome,
    again: bool,
}

impl Service {
    /// Serves the request to its end, and once more for each time that it was
    /// repeated after its end, before the listener knew.
    pub async fn run(self) {
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
    let (mut window, mut inbox) = (Window::default(), Inbox::new());
    let mut told = Duration::ZERO;
    // One timer for the whole transfer: it is set anew when it rings too early, not for each block.
    let mut timer = pin!(tokio::time::sleep_until(since.into()));
    let (mut nudged, mut in_a_row) = (false, 0);
    loop {
        let now = since.elapsed();
        let output = transfer.poll(now);
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
        if let Some(heard) = inbox.next(socket) {
            match heard {
                Ok(datagram) => take(datagram, socket, transfer),
                // Nobody waits for this file any more.
                Err(PortClosed) => transfer.error(),
            }
            if transfer.is_acknowledged() {
                progress.set_phase(ACKNOWLEDGED);
            }
            if now.saturating_sub(told) >= PROGRESS_PAUSE {
                told = now;
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
        if now >= deadline {
            transfer.timeout(now);
            continue;
        }
        let ring = (since + deadline).into();
        if timer.is_elapsed() || ring < timer.deadline() {
            timer.as_mut().reset(ring);
        }
        tokio::select! {
            news = inbox.news(socket) => if news.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            },
            () = progress.nudged() => nudged = true,
            () = &mut timer => {}
        }
        inbox.look_again();
    }
}

/// Gives the state machine a datagram that the client sent.
fn take(datagram: &[u8], socket: &UdpSocket, transfer: &mut Transfer) {
    match packet::parse(datagram) {
        Ok(Packet::Ack(number)) => transfer.ack(number),
        Ok(Packet::Error(_)) => {
            if let (true, Ok(SocketAddr::V4(to)), Ok(SocketAddr::V4(from))) =
                (tap::is_on(), socket.local_addr(), socket.peer_addr())
            {
                tap::datagram(false, from, to, datagram.len(), datagram);
            }
            transfer.error();
        }
        _ => {}
    }
}

/// The datagrams that may have to be sent again, at most a window of them.
#[derive(Default)]
struct Window {
    /// The block before the first one held.
    before: u64,
    datagrams: VecDeque<Vec<u8>>,
    /// The memory of one that is no longer needed: without a window each goes before the next is made.
    spare: Vec<u8>,
    /// Read so far: the file's position.
    position: u64,
}

impl Window {
    async fn datagram(&mut self, block: u64, transfer: &Transfer, file: &mut BootFile) -> io::Result<&[u8]> {
        while self.before < transfer.acked()
            && let Some(acked) = self.datagrams.pop_front()
        {
            self.spare = acked;
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
        let mut datagram = std::mem::take(&mut self.spare);
        datagram.clear();
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
