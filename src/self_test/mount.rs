//! Portmap, MNT, LOOKUP, READLINK and READ, as a kernel's NFS client does them:
//! over TCP from a reserved port (RFC 1813, 1833, 5531).
//!
//! I/O. Reads and writes its own XDR, so that the server's codec does not judge
//! itself. All that comes is bounded.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

/// How long one call may take: a stick that has much to do answers within this.
const PATIENCE: Duration = Duration::from_secs(20);
const MAX_REPLY: usize = 1 << 20;
const READ_BYTES: u32 = 64 << 10;
/// NFS3ERR_JUKEBOX: the tree is being opened.
const JUKEBOX: u32 = 10008;
const NOENT: u32 = 2;
const JUKEBOX_TRIES: u32 = 20;
const JUKEBOX_PAUSE: Duration = Duration::from_millis(100);
/// Links on one way, as the kernel's own bound.
const MAX_LINKS: u32 = 40;
const LINK: u32 = 5;

const PORTMAP: (u32, u32) = (100_000, 2);
const MOUNT: (u32, u32) = (100_005, 3);
const NFS: (u32, u32) = (100_003, 3);
const TCP: u32 = 6;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connecting to port {port}")]
    Connect { port: u16, source: io::Error },
    #[error("{what}")]
    Talk { what: &'static str, source: io::Error },
    #[error("the portmapper knows no {0}")]
    NoPort(&'static str),
    #[error("{what} is answered by status {status}")]
    Status { what: String, status: u32 },
    #[error("{0}: the answer is none")]
    Answer(&'static str),
    #[error("{0}: too many symbolic links")]
    Links(String),
}

pub type Handle = Vec<u8>;

/// A mounted root.
#[derive(Debug)]
pub struct Root {
    nfs: Connection,
    root: Handle,
}

/// What was found, and where: links in it begin there.
#[derive(Debug, Clone)]
struct Found {
    handle: Handle,
    kind: u32,
}

impl Root {
    /// Mounts this export of the server by all that a kernel asks on the way.
    pub fn mount(from: Ipv4Addr, server: Ipv4Addr, path: &str) -> Result<Self, Error> {
        let mut portmap = Connection::open(from, server, 111)?;
        let mount = portmap.port(MOUNT, "MOUNT")?;
        let nfs = portmap.port(NFS, "NFS")?;
        let mut mount = Connection::open(from, server, mount)?;
        let reply = mount.call(MOUNT, 1, &Args::default().opaque(path.as_bytes()), "MNT")?;
        let mut answer = Answer(&reply);
        let root = match answer.word("MNT")? {
            0 => answer.opaque("MNT")?.to_vec(),
            status => return Err(Error::Status { what: format!("MNT {path}"), status }),
        };
        // Leaves nothing behind; its answer says nothing.
        let _ = mount.call(MOUNT, 3, &Args::default().opaque(path.as_bytes()), "UMNT");
        Ok(Self { nfs: Connection::open(from, server, nfs)?, root })
    }

    /// The whole file, of which at most `max` bytes are kept; `None` if it is not there.
    pub fn read(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>, Error> {
        let Some(found) = self.walk(path)? else { return Ok(None) };
        let mut file = Vec::new();
        loop {
            let offset = file.len() as u64;
            let args = Args::default().opaque(&found.handle).long(offset).word(READ_BYTES);
            let reply = self.patiently(6, &args, "READ", path)?;
            let mut answer = Answer(&reply);
            answer.word("READ")?;
            answer.attributes("READ")?;
            let (_count, eof) = (answer.word("READ")?, answer.word("READ")? != 0);
            let data = answer.opaque("READ")?;
            file.extend_from_slice(data);
            if eof || data.is_empty() || file.len() >= max {
                file.truncate(max);
                return Ok(Some(file));
            }
        }
    }

    /// Follows the path as a client's kernel does, links included.
    fn walk(&mut self, path: &str) -> Result<Option<Found>, Error> {
        let mut way: Vec<Found> = vec![Found { handle: self.root.clone(), kind: 2 }];
        let mut todo: Vec<String> = parts(path);
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                // Above the root is the root.
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let Some(here) = way.last() else { return Ok(None) };
            let Some(found) = self.lookup(&here.handle.clone(), &part, path)? else { return Ok(None) };
            if found.kind != LINK {
                way.push(found);
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::Links(path.to_owned()));
            }
            let target = self.read_link(&found.handle, path)?;
            if target.starts_with('/') {
                way.truncate(1);
            }
            todo.extend(parts(&target));
        }
        Ok(way.pop())
    }

    fn lookup(&mut self, folder: &[u8], name: &str, path: &str) -> Result<Option<Found>, Error> {
        let args = Args::default().opaque(folder).opaque(name.as_bytes());
        let reply = match self.patiently(3, &args, "LOOKUP", path) {
            Err(Error::Status { status: NOENT, .. }) => return Ok(None),
            other => other?,
        };
        let mut answer = Answer(&reply);
        answer.word("LOOKUP")?;
        let handle = answer.opaque("LOOKUP")?.to_vec();
        let kind = match answer.attributes("LOOKUP")? {
            Some(kind) => kind,
            None => {
                let reply = self.patiently(1, &Args::default().opaque(&handle), "GETATTR", path)?;
                let mut answer = Answer(&reply);
                answer.word("GETATTR")?;
                answer.word("GETATTR")?
            }
        };
        Ok(Some(Found { handle, kind }))
    }

    fn read_link(&mut self, link: &[u8], path: &str) -> Result<String, Error> {
        let reply = self.patiently(5, &Args::default().opaque(link), "READLINK", path)?;
        let mut answer = Answer(&reply);
        answer.word("READLINK")?;
        answer.attributes("READLINK")?;
        Ok(String::from_utf8_lossy(answer.opaque("READLINK")?).into_owned())
    }

    /// A call that succeeded; while the tree is being opened it is made again.
    fn patiently(&mut self, procedure: u32, args: &Args, what: &'static str, path: &str) -> Result<Vec<u8>, Error> {
        for _ in 0..JUKEBOX_TRIES {
            let reply = self.nfs.call(NFS, procedure, args, what)?;
            match Answer(&reply).word(what)? {
                0 => return Ok(reply),
                JUKEBOX => std::thread::sleep(JUKEBOX_PAUSE),
                status => return Err(Error::Status { what: format!("{what} of {path}"), status }),
            }
        }
        Err(Error::Status { what: format!("{what} of {path}"), status: JUKEBOX })
    }
}

/// The components of a path, last first.
fn parts(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").rev().map(str::to_owned).collect()
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    xid: u32,
}

impl Connection {
    /// From a port that only root can have, as kernels do.
    fn open(from: Ipv4Addr, server: Ipv4Addr, port: u16) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::Connect { port, source };
        let mut last = Errno::ADDRINUSE;
        for own in (700..1024).rev() {
            let try_port = || -> Result<_, Errno> {
                let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
                sockopt::set_socket_reuseaddr(&socket, true)?;
                bind(&socket, &SocketAddrV4::new(from, own))?;
                connect(&socket, &SocketAddrV4::new(server, port))?;
                Ok(socket)
            };
            match try_port() {
                Ok(socket) => {
                    let stream = TcpStream::from(socket);
                    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
                    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
                    return Ok(Self { stream, xid: 0x5354_0000 });
                }
                // One of the last test's connections still lingers there.
                Err(errno @ (Errno::ADDRINUSE | Errno::ADDRNOTAVAIL)) => last = errno,
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        Err(failed(last.into()))
    }

    fn port(&mut self, (program, version): (u32, u32), name: &'static str) -> Result<u16, Error> {
        let args = Args::default().word(program).word(version).word(TCP).word(0);
        let reply = self.call(PORTMAP, 3, &args, "GETPORT")?;
        match u16::try_from(Answer(&reply).word("GETPORT")?) {
            Ok(0) | Err(_) => Err(Error::NoPort(name)),
            Ok(port) => Ok(port),
        }
    }

    /// The results of a call that was accepted.
    fn call(&mut self, program: (u32, u32), procedure: u32, args: &Args, what: &'static str) -> Result<Vec<u8>, Error> {
        self.xid = self.xid.wrapping_add(1);
        let call = Args::default().word(self.xid).word(0).word(2).word(program.0).word(program.1).word(procedure);
        // AUTH_SYS: root on a machine of this name, in no other groups; no verifier.
        let credentials = Args::default().word(0).opaque(b"self-test").word(0).word(0).word(0);
        let call = call.word(1).opaque(&credentials.0).word(0).word(0);
        let record = [call.0, args.0.clone()].concat();
        let mark = 0x8000_0000 | u32::try_from(record.len()).unwrap_or(0);
        let sent = self.stream.write_all(&[&mark.to_be_bytes()[..], &record].concat());
        sent.map_err(|source| Error::Talk { what, source })?;
        let reply = self.record().map_err(|source| Error::Talk { what, source })?;
        let mut answer = Answer(&reply);
        let (xid, kind, stat) = (answer.word(what)?, answer.word(what)?, answer.word(what)?);
        let (_flavour, _verifier) = (answer.word(what)?, answer.opaque(what)?);
        let accepted = answer.word(what)?;
        if (xid, kind, stat, accepted) != (self.xid, 1, 0, 0) {
            return Err(Error::Answer(what));
        }
        Ok(answer.0.to_vec())
    }

    fn record(&mut self) -> io::Result<Vec<u8>> {
        let mut record = Vec::new();
        loop {
            let mut mark = [0; 4];
            self.stream.read_exact(&mut mark)?;
            let mark = u32::from_be_bytes(mark);
            let length = (mark & 0x7fff_ffff) as usize;
            if record.len() + length > MAX_REPLY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let from = record.len();
            record.resize(from + length, 0);
            self.stream.read_exact(&mut record[from..])?;
            if mark & 0x8000_0000 != 0 {
                return Ok(record);
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Args(Vec<u8>);

impl Args {
    fn word(mut self, word: u32) -> Self {
        self.0.extend(word.to_be_bytes());
        self
    }

    fn long(mut self, long: u64) -> Self {
        self.0.extend(long.to_be_bytes());
        self
    }

    fn opaque(self, bytes: &[u8]) -> Self {
        let mut args = self.word(u32::try_from(bytes.len()).unwrap_or(0));
        args.0.extend(bytes);
        let padded = args.0.len().next_multiple_of(4);
        args.0.resize(padded, 0);
        args
    }
}

struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn take(&mut self, bytes: usize, what: &'static str) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(Error::Answer(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn word(&mut self, what: &'static str) -> Result<u32, Error> {
        let word = self.take(4, what)?;
        Ok(word.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn opaque(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let length = self.word(what)? as usize;
        let bytes = self.take(length, what)?;
        self.take((4 - length % 4) % 4, what)?;
        Ok(bytes)
    }

    /// `post_op_attr`: the kind of file, if it is told.
    fn attributes(&mut self, what: &'static str) -> Result<Option<u32>, Error> {
        if self.word(what)? == 0 {
            return Ok(None);
        }
        let kind = self.word(what)?;
        // The rest of fattr3.
        self.take(80, what)?;
        Ok(Some(kind))
    }
}
