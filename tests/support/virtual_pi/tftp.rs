//! How loaders fetch files, and what they do not forgive:
//! `reference/pi-netboot.md` §3.2.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::session::{Outcome, Session};
use super::wire::{Mac, number};

/// A loader repeats its request after this.
const REPEAT: Duration = Duration::from_secs(2);

/// TFTP_FILE_TIMEOUT.
const FILE_TIMEOUT: Duration = Duration::from_secs(30);

/// A server repeats DATA after a second at the earliest: sooner, it answered a
/// repeated ACK, and hangs loaders (raspberrypi/firmware#1631).
const EARLIEST_REPEAT: Duration = Duration::from_millis(900);

/// How a loader's TFTP client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// `None`: no options, so blocks of 512 bytes.
    pub blksize: Option<u16>,
    /// One source port for all files; `None`: the next one for each.
    pub port: Option<u16>,
    /// Sends one ACK of every longer file twice.
    pub repeats_acks: bool,
}

pub struct Client {
    pub server: SocketAddrV4,
    /// Of the server, or of the gateway to it.
    pub mac: Mac,
    pub next_port: u16,
}

/// What a size probe found; `None`: no such file.
pub type Probed = Option<u64>;

enum First {
    Oack { tid: SocketAddrV4, blksize: u16, tsize: u64 },
    Data { tid: SocketAddrV4, content: Vec<u8> },
    Missing,
}

impl Client {
    /// Asks for the size, and ends the transfer by ERROR 0.
    pub fn probe(&mut self, session: &mut Session, dialect: Dialect, path: &str) -> Outcome<Probed> {
        let port = self.port(dialect);
        match self.request(session, dialect, port, path)? {
            First::Missing => Ok(None),
            First::Data { .. } => Err(format!("{path}: DATA before OACK")),
            First::Oack { tid, tsize, .. } => {
                session.log(format!("ERROR 0 {path}"));
                session.send_udp(self.mac, port, tid, b"\0\x05\0\0Early terminate\0")?;
                Ok(Some(tsize))
            }
        }
    }

    /// The whole file; `None`: no such file.
    pub fn get(&mut self, session: &mut Session, dialect: Dialect, path: &str) -> Outcome<Option<Vec<u8>>> {
        let port = self.port(dialect);
        let started = Instant::now();
        let (tid, blksize, tsize, first) = match self.request(session, dialect, port, path)? {
            First::Missing => return Ok(None),
            First::Oack { tid, blksize, tsize } => {
                self.ack(session, port, tid, 0)?;
                (tid, blksize, Some(tsize), None)
            }
            First::Data { tid, content } => (tid, 512, None, Some(content)),
        };
        let content = self.blocks(session, dialect, Transfer { port, tid, blksize, path }, first)?;
        if tsize.is_some_and(|tsize| tsize != content.len() as u64) {
            return Err(format!("{path}: tsize was {tsize:?}, but {} bytes came", content.len()));
        }
        session.log(format!("got {path}: {} bytes in {:?}", content.len(), started.elapsed()));
        Ok(Some(content))
    }

    fn port(&mut self, dialect: Dialect) -> u16 {
        dialect.port.unwrap_or_else(|| {
            self.next_port = self.next_port.checked_add(1).unwrap_or(49_153);
            self.next_port
        })
    }

    /// Sends RRQ, again every 2 s from the same port, until a first answer.
    fn request(&mut self, session: &mut Session, dialect: Dialect, port: u16, path: &str) -> Outcome<First> {
        let mut datagram = format!("\0\x01{path}\0octet\0").into_bytes();
        if let Some(blksize) = dialect.blksize {
            datagram.extend(format!("tsize\x000\0blksize\0{blksize}\0").bytes());
        }
        let give_up = session.within(FILE_TIMEOUT);
        while Instant::now() < give_up {
            session.log(format!("RRQ {path}"));
            session.send_udp(self.mac, port, self.server, &datagram)?;
            let until = session.within(REPEAT);
            while let Some((from, _, reply)) = session.receive_udp(port, until)? {
                if from.ip() != self.server.ip() {
                    session.log(format!("a reply from {from}, not the server: ignored"));
                    continue;
                }
                match reply.as_slice() {
                    [0, 6, options @ ..] => {
                        let blksize = dialect.blksize.ok_or("OACK, but no option was asked for")?;
                        return oack(session, path, from, blksize, options);
                    }
                    [0, 3, 0, 1, _content @ ..] if dialect.blksize.is_some() => {
                        return Err(format!("{path}: no OACK: such servers' files count as missing"));
                    }
                    [0, 3, 0, 1, content @ ..] => {
                        return Ok(First::Data { tid: from, content: content.to_vec() });
                    }
                    [0, 5, 0, 1, ..] => {
                        session.log(format!("ERROR 1 {path}"));
                        return Ok(First::Missing);
                    }
                    [0, 5, high, low, words @ ..] => {
                        let code = u16::from_be_bytes([*high, *low]);
                        return Err(format!("{path}: ERROR {code} {}", words.escape_ascii()));
                    }
                    // What is left of an earlier transfer on the one port of a ROM.
                    _ => {}
                }
            }
        }
        Err(format!("{path}: no answer to RRQ"))
    }

    fn ack(&self, session: &mut Session, port: u16, tid: SocketAddrV4, block: u16) -> Outcome<()> {
        let [high, low] = block.to_be_bytes();
        session.send_udp(self.mac, port, tid, &[0, 4, high, low])
    }

    fn blocks(
        &mut self,
        session: &mut Session,
        dialect: Dialect,
        transfer: Transfer<'_>,
        first: Option<Vec<u8>>,
    ) -> Outcome<Vec<u8>> {
        let Transfer { port, tid, blksize, path } = transfer;
        let mut content = Vec::new();
        // Counted without rollover; the wire goes on with 0 after 65535.
        let mut received: u64 = 0;
        let mut last_came = Instant::now();
        let mut waiting = first;
        loop {
            let data = match waiting.take() {
                Some(data) => data,
                None => self.next_block(session, &transfer, received, last_came)?,
            };
            received += 1;
            last_came = Instant::now();
            if data.len() > usize::from(blksize) {
                return Err(format!("{path}: block {received} has {} bytes, agreed were {blksize}", data.len()));
            }
            content.extend(&data);
            self.ack(session, port, tid, (received & 0xffff) as u16)?;
            if data.len() < usize::from(blksize) {
                return Ok(content);
            }
            if dialect.repeats_acks && received == 2 {
                self.ack(session, port, tid, 2)?;
            }
        }
    }

    /// The block after `received`.
    fn next_block(
        &mut self,
        session: &mut Session,
        transfer: &Transfer<'_>,
        received: u64,
        last_came: Instant,
    ) -> Outcome<Vec<u8>> {
        let &Transfer { port, tid, path, .. } = transfer;
        let (last, wanted) = ((received & 0xffff) as u16, ((received + 1) & 0xffff) as u16);
        let give_up = session.within(FILE_TIMEOUT);
        while let Some((from, _, reply)) = session.receive_udp(port, give_up)? {
            if from != tid {
                continue;
            }
            match (reply.get(..2), number(&reply, 2)) {
                (Some([0, 3]), Some(block)) if block == wanted => return Ok(reply[4..].to_vec()),
                (Some([0, 3]), Some(block)) if block == last && received > 0 => {
                    if last_came.elapsed() < EARLIEST_REPEAT {
                        return Err(format!("{path}: DATA {block} came twice within {:?}", last_came.elapsed()));
                    }
                    session.log(format!("DATA {block} of {path} again"));
                    self.ack(session, port, tid, last)?;
                }
                (Some([0, 3]), Some(block)) => return Err(format!("{path}: DATA {block} instead of {wanted}")),
                // Our ACK of it was lost.
                (Some([0, 6]), _) if received == 0 => self.ack(session, port, tid, 0)?,
                (Some([0, 5]), _) => return Err(format!("{path}: {}", reply[2..].escape_ascii())),
                _ => {}
            }
        }
        Err(format!("{path}: no block {} for {FILE_TIMEOUT:?}", received + 1))
    }
}

#[derive(Clone, Copy)]
struct Transfer<'p> {
    port: u16,
    tid: SocketAddrV4,
    blksize: u16,
    path: &'p str,
}

fn oack(session: &mut Session, path: &str, tid: SocketAddrV4, asked: u16, options: &[u8]) -> Outcome<First> {
    let words: Vec<&str> = options.split(|&b| b == 0).map(|word| std::str::from_utf8(word).unwrap_or("?")).collect();
    let (mut blksize, mut tsize) = (512, None);
    for pair in words.chunks_exact(2) {
        match (pair[0].to_ascii_lowercase().as_str(), pair[1].parse::<u64>()) {
            ("blksize", Ok(value)) if (8..=u64::from(asked)).contains(&value) => blksize = value as u16,
            ("tsize", Ok(value)) => tsize = Some(value),
            _ => return Err(format!("{path}: OACK with {pair:?}")),
        }
    }
    let tsize = tsize.ok_or_else(|| format!("{path}: OACK without tsize"))?;
    session.log(format!("OACK {path}: tsize {tsize}, blksize {blksize}"));
    Ok(First::Oack { tid, blksize, tsize })
}
