//! A loader's TFTP client: size probe by OACK, then the file, one block a round.
//!
//! I/O: one UDP socket a file, bound to the fake Pi's address. What comes is
//! bounded, and so is how long it may take.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

/// What an EEPROM since 2022-10 asks for.
const BLKSIZE: usize = 1468;
/// A request or ACK is repeated after this, so often.
const REPEAT: Duration = Duration::from_secs(2);
const TRIES: u32 = 3;
/// Longest transfer of one file that still comes, and the largest file: the loaders' own bound. A server that unpacks
/// an import and feeds clients on a slow board took over a minute for a kernel (2026-11-29), and they all booted.
const LONGEST: Duration = Duration::from_secs(300);
const MAX_BYTES: usize = 200 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("opening a socket on {0}")]
    Socket(Ipv4Addr, #[source] io::Error),
    #[error("{path}: the server is silent")]
    Silent { path: String },
    #[error("{path}: only {bytes} bytes in {} s", LONGEST.as_secs())]
    Slow { path: String, bytes: usize },
    #[error("{path}: {message}")]
    Told { path: String, message: String },
    #[error("{path}: the server sent what no loader takes")]
    Wrong { path: String },
}

/// Where to ask, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    pub from: Ipv4Addr,
    pub server: SocketAddrV4,
}

impl Client {
    /// The whole file; `None` if there is no such file.
    pub fn fetch(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let socket = UdpSocket::bind((self.from, 0))
            .and_then(|socket| socket.set_read_timeout(Some(REPEAT)).map(|()| socket))
            .map_err(|error| Error::Socket(self.from, error))?;
        let (silent, wrong) = (|| Error::Silent { path: path.to_owned() }, || Error::Wrong { path: path.to_owned() });
        let mut request = b"\0\x01".to_vec();
        for word in [path, "octet", "tsize", "0", "blksize", &BLKSIZE.to_string()] {
            request.extend(word.bytes());
            request.push(0);
        }
        let start = Instant::now();
        let (mut to, mut send) = (SocketAddr::V4(self.server), request);
        let (mut file, mut block, mut tries, mut answered) = (Vec::new(), 0_u16, 0, false);
        let mut buffer = [0; 2048];
        // Whether what is in `send` waits to be sent.
        let mut due = true;
        loop {
            if start.elapsed() > LONGEST {
                return Err(Error::Slow { path: path.to_owned(), bytes: file.len() });
            }
            if due {
                // What is lost is sent again.
                let _ = socket.send_to(&send, to);
                due = false;
            }
            let (length, peer) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(silent()),
                Err(_) if tries < TRIES => {
                    (tries, due) = (tries + 1, true);
                    continue;
                }
                Err(_) => return Err(silent()),
            };
            // The first answer shows the server's port.
            if peer.ip() != to.ip() || (answered && peer != to) {
                continue;
            }
            match &buffer[..length] {
                [0, 5, 0, 1, ..] => return Ok(None),
                [0, 5, _, _, message @ ..] => {
                    let message = String::from_utf8_lossy(message).trim_end_matches('\0').chars().take(80).collect();
                    return Err(Error::Told { path: path.to_owned(), message });
                }
                [0, 6, ..] if !answered => {
                    (to, answered, tries, due) = (peer, true, 0, true);
                    send = vec![0, 4, 0, 0];
                }
                [0, 3, high, low, content @ ..] if answered && content.len() <= BLKSIZE => {
                    if u16::from_be_bytes([*high, *low]) != block.wrapping_add(1) {
                        // Sent twice: a loader does not acknowledge it again.
                        continue;
                    }
                    block = block.wrapping_add(1);
                    file.extend_from_slice(content);
                    send = vec![0, 4, *high, *low];
                    if content.len() < BLKSIZE {
                        let _ = socket.send_to(&send, to);
                        return Ok(Some(file));
                    }
                    if file.len() > MAX_BYTES {
                        return Err(wrong());
                    }
                    (tries, due) = (0, true);
                }
                _ => return Err(wrong()),
            }
        }
    }
}
