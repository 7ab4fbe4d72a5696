//! What a client sent to its transfer's socket, datagram by datagram, by one system call where two would be:
//! one for the datagram, and one that finds no other.
//!
//! I/O: this socket only. Nothing waits.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Datagrams taken by one call: one of two came alone, and so no more are there.
const AT_ONCE: usize = 2;

/// More than an ACK or an ERROR with a sentence in it takes; the rest of a longer one is dropped.
const DATAGRAM_BYTES: usize = 512;

/// What wakes us: a datagram, and an error, of which the kernel does not say that it can be read.
const NEWS: Interest = Interest::READABLE.add(Interest::ERROR);

/// ICMP says that nobody has the client's port any more.
#[derive(Debug, PartialEq, Eq)]
pub struct PortClosed;

pub struct Inbox {
    buffers: [[u8; DATAGRAM_BYTES]; AT_ONCE],
    lengths: [usize; AT_ONCE],
    /// Of those, how many came, and how many of them were handed out.
    came: usize,
    taken: usize,
    /// All that had come was taken: tokio tells of what comes now.
    is_drained: bool,
}

impl Inbox {
    pub fn new() -> Self {
        Self { buffers: [[0; DATAGRAM_BYTES]; AT_ONCE], lengths: [0; AT_ONCE], came: 0, taken: 0, is_drained: false }
    }

    /// Until something comes, behind what was taken. Then [`Self::look_again`].
    pub async fn news(&self, socket: &UdpSocket) -> io::Result<()> {
        socket.ready(NEWS).await.map(drop)
    }

    /// Something may have come: the socket is asked again.
    pub fn look_again(&mut self) {
        self.is_drained = false;
    }

    /// The next datagram, `None` when there is none.
    pub fn next(&mut self, socket: &UdpSocket) -> Option<Result<&[u8], PortClosed>> {
        if self.taken == self.came {
            if self.is_drained {
                return None;
            }
            (self.came, self.taken) = (0, 0);
            match self.receive(socket) {
                Ok(came) => self.came = came,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Some(Err(PortClosed)),
                // Nothing is there, or memory is short: the next one may do.
                Err(_) => {}
            }
            self.is_drained = self.came < AT_ONCE;
            if self.is_drained {
                // At once, before the runtime may hear of another: that one must not be forgotten.
                let nothing = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
                // Each by itself: of several, tokio 1.54 forgets none.
                for kind in [Interest::READABLE, Interest::ERROR] {
                    let _ = socket.try_io(kind, nothing);
                }
            }
        }
        let datagram = self.buffers[..self.came].get(self.taken)?;
        let length = self.lengths[self.taken].min(DATAGRAM_BYTES);
        self.taken += 1;
        Some(Ok(&datagram[..length]))
    }

    fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut parts = self
            .buffers
            .each_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
        let mut messages = parts.each_mut().map(|part| {
            // SAFETY: all fields are numbers and pointers, and of nothing there is none.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        });
        let count = AT_ONCE as libc::c_uint;
        // SAFETY: `count` messages, each with one buffer of its own that it knows the length of; all live through the call.
        let came = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        let came = usize::try_from(came).map_err(|_| io::Error::last_os_error())?;
        self.lengths = messages.map(|message| message.msg_len as usize);
        Ok(came)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A socket that hears this peer only, and the peer.
    async fn pair() -> (UdpSocket, UdpSocket) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(peer.local_addr().unwrap()).await.unwrap();
        peer.connect(socket.local_addr().unwrap()).await.unwrap();
        (socket, peer)
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    fn all(inbox: &mut Inbox, socket: &UdpSocket) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| inbox.next(socket).map(|datagram| datagram.unwrap().to_vec())).collect()
    }

    #[test]
    fn any_number_comes_in_order_and_each_later_one_is_told() {
        run(async {
            let (socket, peer) = pair().await;
            let mut inbox = Inbox::new();
            assert!(all(&mut inbox, &socket).is_empty());
            for count in [1_u8, 2, 3, 1, 5, 4] {
                for number in 0..count {
                    peer.send(&[number; 4]).await.unwrap();
                }
                // It forgets none: what came behind the last look wakes us.
                inbox.news(&socket).await.unwrap();
                inbox.look_again();
                assert_eq!(all(&mut inbox, &socket), (0..count).map(|number| vec![number; 4]).collect::<Vec<_>>());
                // What was told before it was taken is told once more at the most; then it is quiet.
                if tokio::time::timeout(Duration::from_millis(20), inbox.news(&socket)).await.is_ok() {
                    inbox.look_again();
                    assert!(all(&mut inbox, &socket).is_empty());
                }
                let told = tokio::time::timeout(Duration::from_millis(20), inbox.news(&socket)).await;
                assert!(told.is_err(), "it wakes for nothing");
            }
        });
    }

    #[test]
    fn nothing_is_asked_again_until_somebody_says_so() {
        run(async {
            let (socket, peer) = pair().await;
            let mut inbox = Inbox::new();
            assert!(inbox.next(&socket).is_none());
            peer.send(b"late").await.unwrap();
            assert!(inbox.next(&socket).is_none());
            inbox.look_again();
            assert_eq!(all(&mut inbox, &socket), [b"late"]);
        });
    }

    #[test]
    fn a_long_one_is_cut_and_a_closed_port_is_an_error() {
        run(async {
            let (socket, peer) = pair().await;
            let mut inbox = Inbox::new();
            peer.send(&[7; 2000]).await.unwrap();
            peer.send(b"").await.unwrap();
            assert_eq!(all(&mut inbox, &socket), [vec![7; DATAGRAM_BYTES], vec![]]);
            drop(peer);
            socket.send(b"to nobody").await.unwrap();
            tokio::time::timeout(Duration::from_secs(10), inbox.news(&socket)).await.unwrap().unwrap();
            inbox.look_again();
            assert_eq!(inbox.next(&socket), Some(Err(PortClosed)));
        });
    }
}
