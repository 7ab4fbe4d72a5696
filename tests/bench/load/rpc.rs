//! ONC RPC over TCP (RFC 5531), and the XDR (RFC 4506) that this client needs.
//! Calls are queued and sent together; each reply is matched to its call.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::Result;

/// Longer than any reply here.
const MAX_REPLY: usize = 4 << 20;
/// A server that answers nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes XDR.
#[derive(Default)]
pub struct Encoder(pub Vec<u8>);

impl Encoder {
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn opaque(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(&[0; 3][..bytes.len().wrapping_neg() % 4]);
        self
    }
}

/// Reads XDR.
pub struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    pub fn fixed(&mut self, count: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or("a reply is cut short")?;
        self.0 = rest;
        Ok(bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        let mut word = [0; 4];
        word.copy_from_slice(self.fixed(4)?);
        Ok(u32::from_be_bytes(word))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }

    pub fn opaque(&mut self) -> Result<&'a [u8]> {
        let count = self.u32()? as usize;
        let bytes = self.fixed(count)?;
        self.fixed(count.wrapping_neg() % 4)?;
        Ok(bytes)
    }
}

/// What is known of a call when its reply comes.
#[derive(Clone, Copy)]
pub struct Call {
    pub tag: u64,
    pub procedure: u32,
}

pub struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    xid: u32,
    open: HashMap<u32, Call>,
    credentials: Vec<u8>,
}

impl Connection {
    /// From one of this machine's addresses, by a reserved port, as kernels do.
    pub fn open(from: Ipv4Addr, server: SocketAddrV4) -> Result<Self> {
        let stream = TcpStream::from(reserved(from, server).map_err(|errno| format!("connect to {server}: {errno}"))?);
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        let mut auth_sys = Encoder::default();
        auth_sys.u32(0).opaque(b"bench").u32(0).u32(0).u32(0);
        let mut credentials = Encoder::default();
        credentials.u32(1).opaque(&auth_sys.0).u32(0).u32(0);
        Ok(Self {
            // Another start each time, as kernels do: a repeated one would be answered from the reply cache.
            xid: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), from) as u32,
            stream,
            out: Vec::new(),
            buffer: vec![0; MAX_REPLY],
            start: 0,
            end: 0,
            open: HashMap::new(),
            credentials: credentials.0,
        })
    }

    pub fn outstanding(&self) -> usize {
        self.open.len()
    }

    /// Queues one call; `flush` sends it.
    pub fn call(&mut self, program: u32, procedure: u32, tag: u64, arguments: impl FnOnce(&mut Encoder)) {
        self.xid = self.xid.wrapping_add(1);
        let start = self.out.len();
        let mut encoder = Encoder(std::mem::take(&mut self.out));
        encoder.u32(0).u32(self.xid).u32(0).u32(2).u32(program).u32(3).u32(procedure);
        encoder.0.extend_from_slice(&self.credentials);
        arguments(&mut encoder);
        self.out = encoder.0;
        let mark = 0x8000_0000 | (self.out.len() - start - 4) as u32;
        self.out[start..start + 4].copy_from_slice(&mark.to_be_bytes());
        self.open.insert(self.xid, Call { tag, procedure });
    }

    pub fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).map_err(|error| format!("send: {error}"))?;
        self.out.clear();
        Ok(())
    }

    /// Whether a whole reply is here already.
    pub fn is_ready(&self) -> bool {
        let mut have = Decoder(&self.buffer[self.start..self.end]);
        have.u32().is_ok_and(|mark| have.0.len() >= (mark & 0x7fff_ffff) as usize)
    }

    /// Waits for one reply: the call that it answers, and its results.
    pub fn receive(&mut self) -> Result<(Call, &[u8])> {
        self.need(4)?;
        let mark = Decoder(&self.buffer[self.start..]).u32()?;
        let length = (mark & 0x7fff_ffff) as usize;
        if mark & 0x8000_0000 == 0 || length > MAX_REPLY - 4 {
            return Err(format!("a reply with the record mark {mark:#x}"));
        }
        self.need(4 + length)?;
        let mut reply = Decoder(&self.buffer[self.start + 4..self.start + 4 + length]);
        self.start += 4 + length;
        let xid = reply.u32()?;
        if (reply.u32()?, reply.u32()?) != (1, 0) {
            return Err("the call was denied".into());
        }
        reply.u32()?;
        reply.opaque()?;
        match reply.u32()? {
            0 => {}
            status => return Err(format!("the call was not accepted: {status}")),
        }
        let call = self.open.remove(&xid).ok_or("a reply to no call")?;
        Ok((call, reply.0))
    }

    /// One call and its reply, while no other is open.
    pub fn one(&mut self, program: u32, procedure: u32, arguments: impl FnOnce(&mut Encoder)) -> Result<Vec<u8>> {
        self.call(program, procedure, 0, arguments);
        self.flush()?;
        Ok(self.receive()?.1.to_vec())
    }

    fn need(&mut self, count: usize) -> Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        while self.end - self.start < count {
            if self.start > MAX_REPLY / 2 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            match self.stream.read(&mut self.buffer[self.end..]).map_err(|error| format!("receive: {error}"))? {
                0 => return Err("the server closed the connection".into()),
                received => self.end += received,
            }
        }
        Ok(())
    }
}

fn reserved(from: Ipv4Addr, server: SocketAddrV4) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let mut last = rustix::io::Errno::ADDRINUSE;
    for port in (600..1024).rev() {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        match bind(&socket, &SocketAddrV4::new(from, port)).and_then(|()| connect(&socket, &server)) {
            Ok(()) => return Ok(socket),
            Err(errno) => last = errno,
        }
    }
    Err(last)
}
