//! NFSv3 load (RFC 1813). Each client is one connection from one address on one
//! thread, with `depth` lanes that have one call open each.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::content::{self, Random};
use super::rpc::{Connection, Decoder, Encoder};
use super::{Figures, Result};

const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;

const GETATTR: u32 = 1;
const LOOKUP: u32 = 3;
const ACCESS: u32 = 4;
const READ: u32 = 6;
const WRITE: u32 = 7;
const CREATE: u32 = 8;
const MKDIR: u32 = 9;
const REMOVE: u32 = 12;
const READDIRPLUS: u32 = 17;
const FSINFO: u32 = 19;
const COMMIT: u32 = 21;

const NFS3ERR_EXIST: u32 = 17;
pub const FILE_BYTES: usize = 4096;
const FATTR3: usize = 84;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// LOOKUP, GETATTR and ACCESS in turn, over the small files.
    Storm,
    /// Of the big file; every byte is checked.
    Read { bytes: usize, random: bool },
    /// UNSTABLE and COMMIT; some of it read back and checked outside the time. Counts bytes.
    Write { bytes: usize, file_bytes: u64 },
    /// CREATE, WRITE of 4 KiB, COMMIT, REMOVE. Counts files.
    Create,
    /// The whole of a directory, again and again. Counts entries.
    List,
}

#[derive(Debug, Clone)]
pub struct Load {
    pub server: Ipv4Addr,
    pub export: String,
    pub clients: Vec<Ipv4Addr>,
    pub depth: usize,
    pub work: Work,
    pub duration: Duration,
}

/// Runs the load, with the calling thread's network. `start` is called when all clients are ready.
pub fn run(load: &Load, start: impl FnOnce()) -> Result<Figures> {
    let gate = Barrier::new(load.clients.len() + 1);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients.len())
            .map(|id| {
                let gate = &gate;
                scope.spawn(move || -> Result<Figures> {
                    let client = Client::mount(load, id).and_then(|client| match load.work {
                        Work::Storm => client.files(),
                        _ => Ok((client, Files::default())),
                    });
                    gate.wait();
                    let (mut client, files) = client?;
                    let mut figures = Figures::default();
                    client.work(load, &files, &mut figures)?;
                    Ok(figures)
                })
            })
            .collect();
        gate.wait();
        start();
        let mut all = Figures::default();
        for client in clients {
            all.merge(client.join().map_err(|_| "a client panicked")??);
        }
        Ok(all)
    })
}

type Fh = Vec<u8>;

#[derive(Default)]
struct Files {
    directories: Vec<Fh>,
    files: Vec<Fh>,
}

struct Client {
    id: usize,
    connection: Connection,
    root: Fh,
    until: Instant,
    rtmax: usize,
    wtmax: usize,
}

impl Client {
    fn mount(load: &Load, id: usize) -> Result<Self> {
        let from = load.clients[id];
        let mut mount = Connection::open(from, SocketAddrV4::new(load.server, 20048))?;
        let path = load.export.replace("{}", &(id + 1).to_string());
        let reply = mount.one(MOUNT, 1, |args| {
            args.opaque(path.as_bytes());
        })?;
        let root = ok(&reply, "MNT")?.opaque()?.to_vec();
        let mut connection = Connection::open(from, SocketAddrV4::new(load.server, 2049))?;
        let reply = connection.one(NFS, FSINFO, |args| {
            args.opaque(&root);
        })?;
        let mut result = ok(&reply, "FSINFO")?;
        attributes(&mut result)?;
        let rtmax = result.u32()? as usize;
        result.fixed(8)?;
        let wtmax = result.u32()? as usize;
        Ok(Self { id, connection, root, until: Instant::now(), rtmax, wtmax })
    }

    fn files(mut self) -> Result<(Self, Files)> {
        let small = self.lookup(&self.root.clone(), "small")?;
        let mut files = Files::default();
        for index in 0..content::SMALL_FILES {
            let (directory, name) = content::small(index);
            let directories = files.directories.len();
            if index as usize == directories && directory == format!("d{directories:02}") {
                let directory = self.lookup(&small, &directory)?;
                files.directories.push(directory);
            }
            let directory = index as usize % files.directories.len();
            let file = self.lookup(&files.directories[directory].clone(), &name)?;
            files.files.push(file);
        }
        Ok((self, files))
    }

    fn lookup(&mut self, directory: &[u8], name: &str) -> Result<Fh> {
        let reply = self.connection.one(NFS, LOOKUP, |args| in_directory(args, directory, name))?;
        Ok(ok(&reply, name)?.opaque()?.to_vec())
    }

    fn work(&mut self, load: &Load, files: &Files, figures: &mut Figures) -> Result<()> {
        let start = Instant::now();
        self.until = start + load.duration;
        match load.work {
            Work::Storm => self.storm(load.depth, files, figures)?,
            Work::Read { bytes, random } => self.read(load, bytes, random, figures)?,
            Work::Write { bytes, file_bytes } => return self.write(load, bytes, file_bytes, figures),
            Work::Create => self.create(load.depth, figures)?,
            Work::List => self.list(figures)?,
        }
        figures.seconds = start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Runs `depth` lanes until the time is over: `issue` queues a lane's next call, `reply`
    /// takes the answer and says whether the lane's unit of work is done.
    fn lanes(
        &mut self,
        depth: usize,
        figures: &mut Figures,
        mut issue: impl FnMut(&mut Connection, usize),
        mut reply: impl FnMut(usize, u32, &[u8], &mut Figures) -> Result<bool>,
    ) -> Result<()> {
        let connection = &mut self.connection;
        (0..depth).for_each(|lane| issue(connection, lane));
        connection.flush()?;
        while connection.outstanding() > 0 {
            let (call, body) = connection.receive()?;
            let lane = call.tag as usize;
            let done = reply(lane, call.procedure, body, figures)?;
            if !done || Instant::now() < self.until {
                issue(connection, lane);
            }
            if !connection.is_ready() {
                connection.flush()?;
            }
        }
        Ok(())
    }

    fn storm(&mut self, depth: usize, files: &Files, figures: &mut Figures) -> Result<()> {
        let mut random = Random(self.id as u64 + 77);
        let mut turn = 0;
        let at = std::cell::RefCell::new(vec![0; depth]);
        self.lanes(
            depth,
            figures,
            |connection, lane| {
                let index = random.below(content::SMALL_FILES) as usize;
                at.borrow_mut()[lane] = index;
                turn += 1;
                let procedure = [LOOKUP, GETATTR, ACCESS][turn % 3];
                connection.call(NFS, procedure, lane as u64, |args| match procedure {
                    LOOKUP => {
                        let directory = &files.directories[index % files.directories.len()];
                        in_directory(args, directory, &content::small(index as u64).1);
                    }
                    ACCESS => {
                        args.opaque(&files.files[index]).u32(0x3f);
                    }
                    _ => {
                        args.opaque(&files.files[index]);
                    }
                });
            },
            |lane, procedure, body, figures| {
                let index = at.borrow()[lane];
                let mut result = ok(body, "a call of the storm")?;
                let size = match procedure {
                    LOOKUP => {
                        if result.opaque()? != files.files[index] {
                            return Err("LOOKUP gave another handle than before".into());
                        }
                        attributes(&mut result)?
                    }
                    ACCESS => {
                        let size = attributes(&mut result)?;
                        if result.u32()? & 1 == 0 {
                            return Err("ACCESS refused reading".into());
                        }
                        size
                    }
                    _ => Some(size_in(result.fixed(FATTR3)?)),
                };
                if size.is_some_and(|size| size != content::small_bytes(index as u64)) {
                    return Err("attributes of another file".into());
                }
                figures.units += 1;
                Ok(true)
            },
        )
    }

    fn read(&mut self, load: &Load, bytes: usize, random: bool, figures: &mut Figures) -> Result<()> {
        let bytes = bytes.min(self.rtmax);
        let file = self.lookup(&self.root.clone(), content::BIG)?;
        let blocks = content::BIG_BYTES / bytes as u64;
        let seed = content::seed(content::BIG);
        let mut dice = Random(self.id as u64 + 1);
        // Clients start at different places, so that none reads in another's wake.
        let mut next = self.id as u64 * blocks / load.clients.len() as u64;
        let at = std::cell::RefCell::new(vec![0; load.depth]);
        self.lanes(
            load.depth,
            figures,
            |connection, lane| {
                next += 1;
                let offset = if random { dice.below(blocks) } else { next % blocks } * bytes as u64;
                at.borrow_mut()[lane] = offset;
                connection.call(NFS, READ, lane as u64, |args| read_args(args, &file, offset, bytes));
            },
            |lane, _, body, figures| {
                check_read(body, at.borrow()[lane], bytes, seed)?;
                figures.units += if random { 1 } else { bytes as u64 };
                Ok(true)
            },
        )
    }

    fn write(&mut self, load: &Load, bytes: usize, file_bytes: u64, figures: &mut Figures) -> Result<()> {
        let bytes = bytes.min(self.wtmax);
        let work = self.lookup(&self.root.clone(), "work")?;
        let name = format!("write-{}", self.id);
        let blocks = file_bytes / bytes as u64;
        let mut data = vec![0; bytes];
        let mut round = 0;
        while Instant::now() < self.until {
            round += 1;
            let seed = content::seed(&name) + round;
            let reply = self.connection.one(NFS, CREATE, |args| {
                in_directory(args, &work, &name);
                args.u32(0);
                new_attributes(args, Some(0));
            })?;
            ok(&reply, "CREATE")?;
            let file = self.lookup(&work, &name)?;
            let start = Instant::now();
            let (mut next, mut done) = (0, 0);
            let mut verifier = None;
            while done < blocks {
                while next < blocks && self.connection.outstanding() < load.depth {
                    let offset = next * bytes as u64;
                    content::fill(seed, offset, &mut data);
                    self.connection.call(NFS, WRITE, 0, |args| {
                        args.opaque(&file).u64(offset).u32(bytes as u32).u32(0).opaque(&data);
                    });
                    self.connection.flush()?;
                    next += 1;
                }
                let (_, body) = self.connection.receive()?;
                let mut result = ok(body, "WRITE")?;
                wcc(&mut result)?;
                if result.u32()? as usize != bytes {
                    return Err("WRITE took less than it was given".into());
                }
                result.u32()?;
                let told = result.u64()?;
                if *verifier.get_or_insert(told) != told {
                    return Err("the write verifier changed".into());
                }
                done += 1;
            }
            let reply = self.connection.one(NFS, COMMIT, |args| {
                args.opaque(&file).u64(0).u32(0);
            })?;
            ok(&reply, "COMMIT")?;
            figures.units += blocks * bytes as u64;
            figures.seconds += start.elapsed().as_secs_f64();
            // Others each time, and few: the server's CPU for it is counted.
            for block in (round % 16..blocks).step_by(16) {
                let offset = block * bytes as u64;
                let reply =
                    self.connection.one(NFS, READ, |args| read_args(args, &file, offset, bytes.min(64 << 10)))?;
                check_read(&reply, offset, bytes.min(64 << 10), seed)?;
            }
        }
        let reply = self.connection.one(NFS, REMOVE, |args| in_directory(args, &work, &name))?;
        ok(&reply, "REMOVE").map(drop)
    }

    fn create(&mut self, depth: usize, figures: &mut Figures) -> Result<()> {
        let work = self.lookup(&self.root.clone(), "work")?;
        let folder = format!("create-{}", self.id);
        let reply = self.connection.one(NFS, MKDIR, |args| {
            in_directory(args, &work, &folder);
            new_attributes(args, None);
        })?;
        if Decoder(&reply).u32()? != NFS3ERR_EXIST {
            ok(&reply, "MKDIR")?;
        }
        let folder = self.lookup(&work, &folder)?;
        let data = vec![7; FILE_BYTES];
        let lanes = std::cell::RefCell::new(vec![(CREATE, 0u64, Fh::new()); depth]);
        self.lanes(
            depth,
            figures,
            |connection, lane| {
                let (procedure, number, file) = &lanes.borrow()[lane];
                let name = format!("lane-{lane}-{number}");
                connection.call(NFS, *procedure, lane as u64, |args| match *procedure {
                    CREATE => {
                        in_directory(args, &folder, &name);
                        args.u32(0);
                        new_attributes(args, None);
                    }
                    WRITE => {
                        args.opaque(file).u64(0).u32(FILE_BYTES as u32).u32(0).opaque(&data);
                    }
                    COMMIT => {
                        args.opaque(file).u64(0).u32(0);
                    }
                    _ => in_directory(args, &folder, &name),
                });
            },
            |lane, procedure, body, figures| {
                let (next, number, file) = &mut lanes.borrow_mut()[lane];
                let mut result = ok(body, "a call for a small file")?;
                *next = match procedure {
                    CREATE => {
                        if result.u32()? == 0 {
                            return Err("CREATE gave no handle".into());
                        }
                        *file = result.opaque()?.to_vec();
                        WRITE
                    }
                    WRITE => COMMIT,
                    COMMIT => REMOVE,
                    _ => CREATE,
                };
                if procedure == REMOVE {
                    *number += 1;
                    figures.units += 1;
                }
                Ok(procedure == REMOVE)
            },
        )
    }

    fn list(&mut self, figures: &mut Figures) -> Result<()> {
        let directory = self.lookup(&self.root.clone(), "many")?;
        while Instant::now() < self.until {
            let (mut cookie, mut verifier) = (0, 0);
            let mut names: HashSet<Vec<u8>> = HashSet::new();
            loop {
                let reply = self.connection.one(NFS, READDIRPLUS, |args| {
                    args.opaque(&directory).u64(cookie).u64(verifier).u32(8 << 10).u32(32 << 10);
                })?;
                let mut result = ok(&reply, "READDIRPLUS")?;
                attributes(&mut result)?;
                verifier = result.u64()?;
                while result.u32()? == 1 {
                    result.u64()?;
                    let name = result.opaque()?;
                    cookie = result.u64()?;
                    let dot = matches!(name, b"." | b"..");
                    let told = attributes(&mut result)?;
                    let handle = if result.u32()? == 1 { Some(result.opaque()?) } else { None };
                    if !dot && (told != Some(16) || handle.is_none_or(<[u8]>::is_empty)) {
                        return Err("an entry without its attributes and handle".into());
                    }
                    if !dot && !names.insert(name.to_vec()) {
                        return Err("a name was listed twice".into());
                    }
                }
                if result.u32()? == 1 {
                    break;
                }
            }
            if names.len() as u64 != content::ENTRIES {
                return Err(format!("{} names were listed", names.len()));
            }
            figures.units += content::ENTRIES;
        }
        Ok(())
    }
}

/// A result behind its status, which must be NFS3_OK.
fn ok<'a>(reply: &'a [u8], what: &str) -> Result<Decoder<'a>> {
    let mut result = Decoder(reply);
    match result.u32()? {
        0 => Ok(result),
        status => Err(format!("{what}: status {status}")),
    }
}

fn size_in(fattr3: &[u8]) -> u64 {
    Decoder(&fattr3[20..]).u64().unwrap_or_default()
}

/// A `post_op_attr`: the size in it.
fn attributes(result: &mut Decoder<'_>) -> Result<Option<u64>> {
    Ok(if result.u32()? == 0 { None } else { Some(size_in(result.fixed(FATTR3)?)) })
}

fn wcc(result: &mut Decoder<'_>) -> Result<()> {
    if result.u32()? != 0 {
        result.fixed(24)?;
    }
    attributes(result).map(drop)
}

fn in_directory(args: &mut Encoder, directory: &[u8], name: &str) {
    args.opaque(directory).opaque(name.as_bytes());
}

/// `sattr3` of a new file: mode 755, and a size if one is given.
fn new_attributes(args: &mut Encoder, size: Option<u64>) {
    args.u32(1).u32(0o755).u32(0).u32(0);
    match size {
        Some(size) => args.u32(1).u64(size),
        None => args.u32(0),
    };
    args.u32(0).u32(0);
}

fn read_args(args: &mut Encoder, file: &[u8], offset: u64, bytes: usize) {
    args.opaque(file).u64(offset).u32(bytes as u32);
}

fn check_read(body: &[u8], offset: u64, bytes: usize, seed: u64) -> Result<()> {
    let mut result = ok(body, "READ")?;
    attributes(&mut result)?;
    result.fixed(8)?;
    let data = result.opaque()?;
    if data.len() != bytes || !content::is(seed, offset, data) {
        return Err(format!("READ at {offset} gave {} bytes that are not the file's {bytes}", data.len()));
    }
    Ok(())
}
