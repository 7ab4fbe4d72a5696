//! A client that writes without an end, as the Linux client would over a stick or an appliance that comes and goes. What is
//! refused because the stick is locked it begins anew, as a person would who has looked at the lock.
//!
//! With each block it also makes a name, moves the one before, and removes one that was moved long ago:
//! what must not be done twice. A power cut takes the server's memory of calls, so then, and only
//! then, a repeated RENAME or REMOVE may be told that there is nothing (`src/nfs/mod.rs`); a CREATE never, since
//! its verifier is on the stick.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::xdr_codec::{Opaque, Pack, Unpack};

use crate::nfs_lab::{Client, at, mode};
use crate::support::netns::Netns;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const BLOCK: usize = 4096;
/// Names that stay before the oldest is removed.
const KEPT: u64 = 100;
/// Blocks of one READ.
const AT_ONCE: u64 = 32;
/// Blocks between two COMMITs.
const COMMIT_EVERY: u64 = 16;
/// No call may be without an answer for longer; the Linux client would ask for ever.
const PATIENCE: Duration = Duration::from_secs(170);

#[derive(Default)]
struct Shared {
    written: AtomicU64,
    stop: AtomicBool,
    /// Answers that the file system takes no writes.
    refused: AtomicU64,
    /// From here on each call is answered as if it were asked once.
    in_order: AtomicBool,
    failed: Mutex<Option<String>>,
}

pub struct Writer {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<(u64, usize), String>>,
}

impl Writer {
    /// Writes from `address` into the root that the command line names.
    pub fn start(netns: &Netns, address: Ipv4Addr, words: &str) -> Result<Self, String> {
        let root =
            words.split(' ').find_map(|word| word.strip_prefix("nfsroot=")).ok_or("no nfsroot= in cmdline.txt")?;
        let path = root.split_once(':').and_then(|(_, rest)| rest.split(',').next()).ok_or("no path in nfsroot=")?;
        let (path, shared) = (path.to_owned(), Arc::new(Shared::default()));
        let inside = shared.clone();
        let thread = netns.spawn(move || {
            let result = run(address, &path, &inside);
            if let Err(error) = &result {
                *inside.failed.lock().expect("no holder panics") = Some(error.clone());
            }
            result
        });
        Ok(Self { shared, thread })
    }

    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::SeqCst)
    }

    pub fn wait_for(&self, count: u64, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        while self.written() < count {
            if let Some(error) = self.shared.failed.lock().expect("no holder panics").clone() {
                return Err(format!("the client failed after {} writes: {error}", self.written()));
            }
            if Instant::now() > end {
                return Err(format!("the client came to {} writes in {limit:?}, not to {count}", self.written()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until a call was refused: nothing that was asked behind it is done.
    pub fn wait_for_refusal(&self, limit: Duration) -> Result<(), String> {
        let (end, before) = (Instant::now() + limit, self.shared.refused.load(Ordering::SeqCst));
        while self.shared.refused.load(Ordering::SeqCst) == before {
            if let Some(error) = self.shared.failed.lock().expect("no holder panics").clone() {
                return Err(format!("the client failed after {} writes: {error}", self.written()));
            }
            if Instant::now() > end {
                return Err(format!("no call was refused in {limit:?}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// No power is cut any more.
    pub fn ends_in_order(&self) {
        self.shared.in_order.store(true, Ordering::SeqCst);
    }

    /// Ends the writing and reads everything back: how many blocks, and how many names.
    pub fn finish(self) -> Result<(u64, usize), String> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| "the client's thread panicked".to_owned())?
    }
}

struct Session {
    shared: Arc<Shared>,
    address: Ipv4Addr,
    connection: Option<Client>,
    next_port: u16,
}

impl Session {
    /// The client's own address and a port that only root can bind; another one each time.
    fn connect(&mut self, port: u16) -> std::io::Result<Client> {
        self.next_port = if self.next_port <= 700 { 1000 } else { self.next_port - 1 };
        let client =
            Client::try_connect(SocketAddrV4::new(SERVER, port), SocketAddrV4::new(self.address, self.next_port))?;
        client.stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(client)
    }

    /// Asks again, as the same call, until there is an answer that is not "later".
    fn ask<T, E>(&mut self, procedure: NFS_PROGRAM, args: &impl Pack) -> Result<T, String>
    where
        Nfs3Result<T, E>: Unpack,
    {
        let (answer, _) = self.answer(procedure, args)?;
        answer.map_err(|stat| format!("{procedure:?}: {stat:?}"))
    }

    /// The same for a change that is done when there is nothing to do any more, if the call had to be repeated
    /// over a power cut.
    fn ask_once<T, E>(&mut self, procedure: NFS_PROGRAM, args: &impl Pack, in_order: bool) -> Result<(), String>
    where
        Nfs3Result<T, E>: Unpack,
    {
        match self.answer::<T, E>(procedure, args)? {
            (Ok(_), _) => Ok(()),
            (Err(nfsstat3::NFS3ERR_NOENT), repeated) if repeated && !in_order => Ok(()),
            (Err(stat), repeated) => Err(format!("{procedure:?}, repeated: {repeated}: {stat:?}")),
        }
    }

    /// The answer, and whether the call was sent more than once.
    fn answer<T, E>(&mut self, procedure: NFS_PROGRAM, args: &impl Pack) -> Result<(Result<T, nfsstat3>, bool), String>
    where
        Nfs3Result<T, E>: Unpack,
    {
        let end = Instant::now() + PATIENCE;
        let (mut sent, mut xid) = (0, None);
        loop {
            let answer = match self.connection.take().map_or_else(|| self.connect(2049), Ok) {
                Ok(mut client) => {
                    // What is asked again on a new connection is the same call, to be known by the reply cache.
                    client.xid = *xid.get_or_insert(client.xid);
                    sent += 1;
                    client.try_call(procedure, args).inspect(|_| self.connection = Some(client))
                }
                Err(error) => Err(error),
            };
            let told = match answer {
                Ok(Nfs3Result::Ok(result)) => return Ok((Ok(result), sent > 1)),
                Ok(Nfs3Result::Err((nfsstat3::NFS3ERR_JUKEBOX, _))) => {
                    // It was not done, and is another call when it is asked again.
                    xid = None;
                    "JUKEBOX".to_owned()
                }
                // A person looks at the lock and begins anew, and so does this.
                Ok(Nfs3Result::Err((nfsstat3::NFS3ERR_ROFS, _))) => {
                    self.shared.refused.fetch_add(1, Ordering::SeqCst);
                    xid = None;
                    "ROFS".to_owned()
                }
                Ok(Nfs3Result::Err((stat, _))) => return Ok((Err(stat), sent > 1)),
                Err(error) => error.to_string(),
            };
            if Instant::now() > end {
                return Err(format!("{procedure:?}: no answer in {PATIENCE:?}, the last was {told}"));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Makes the name of `number`, moves the last one's, and removes that of `KEPT` before.
    fn change_names(&mut self, names: &nfs_fh3, number: u64, in_order: bool) -> Result<(), String> {
        let (new, last, moved) = (format!("new-{number}"), format!("new-{}", number.wrapping_sub(1)), moved(number, 1));
        let how = createhow3::EXCLUSIVE(createverf3((number ^ 0x5eed_0000_0000).to_be_bytes()));
        let create = CREATE3args { where_: at(names, &new), how };
        self.ask::<CREATE3resok, CREATE3resfail>(NFS_PROGRAM::NFSPROC3_CREATE, &create)?;
        if number > 0 {
            let rename = RENAME3args { from: at(names, &last), to: at(names, &moved) };
            self.ask_once::<RENAME3resok, RENAME3resfail>(NFS_PROGRAM::NFSPROC3_RENAME, &rename, in_order)?;
        }
        if number > KEPT {
            let oldest = self::moved(number, KEPT + 1);
            let remove = REMOVE3args { object: at(names, &oldest) };
            self.ask_once::<REMOVE3resok, REMOVE3resfail>(NFS_PROGRAM::NFSPROC3_REMOVE, &remove, in_order)?;
        }
        Ok(())
    }
}

/// The name that the file of `back` numbers before `number` has after it was moved.
fn moved(number: u64, back: u64) -> String {
    format!("moved-{}", number.wrapping_sub(back))
}

impl Session {
    /// Gives the server's write verifier.
    fn write(&mut self, file: &nfs_fh3, number: u64, stable: stable_how) -> Result<writeverf3, String> {
        let (data, offset) = (block(number), number * BLOCK as u64);
        let (count, data) = (BLOCK as u32, Opaque::borrowed(&data));
        let write = WRITE3args { file: file.clone(), offset, count, stable, data };
        self.ask::<WRITE3resok, WRITE3resfail>(NFS_PROGRAM::NFSPROC3_WRITE, &write).map(|ok| ok.verf)
    }

    /// Commits; what was written under another verifier is sent again, as RFC 1813 §3.3.21 asks of a client.
    fn commit(&mut self, file: &nfs_fh3, unstable: &mut Vec<(u64, writeverf3)>) -> Result<(), String> {
        while !unstable.is_empty() {
            let commit = COMMIT3args { file: file.clone(), offset: 0, count: 0 };
            let ok = self.ask::<COMMIT3resok, COMMIT3resfail>(NFS_PROGRAM::NFSPROC3_COMMIT, &commit)?;
            unstable.retain(|(_, verifier)| verifier.0 != ok.verf.0);
            for (number, verifier) in unstable.iter_mut() {
                *verifier = self.write(file, *number, stable_how::UNSTABLE)?;
            }
        }
        Ok(())
    }
}

fn block(number: u64) -> Vec<u8> {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().repeat(BLOCK / 8)
}

fn run(address: Ipv4Addr, path: &str, shared: &Arc<Shared>) -> Result<(u64, usize), String> {
    let mut session = Session { shared: shared.clone(), address, connection: None, next_port: 1000 };
    let mut mount = session.connect(20048).map_err(|error| format!("mount port: {error}"))?;
    let root = mount.mnt(path).map_err(|stat| format!("MNT {path}: {stat}"))?;
    drop(mount);
    let create = CREATE3args { where_: at(&root, "written"), how: createhow3::UNCHECKED(mode(0o644)) };
    let created = session.ask::<CREATE3resok, CREATE3resfail>(NFS_PROGRAM::NFSPROC3_CREATE, &create)?;
    let post_op_fh3::Some(file) = created.obj else { return Err("CREATE gave no handle".to_owned()) };
    let mkdir = MKDIR3args { where_: at(&root, "names"), attributes: mode(0o755) };
    let made = session.ask::<MKDIR3resok, MKDIR3resfail>(NFS_PROGRAM::NFSPROC3_MKDIR, &mkdir)?;
    let post_op_fh3::Some(names) = made.obj else { return Err("MKDIR gave no handle".to_owned()) };
    let mut number = 0;
    let mut unstable = Vec::new();
    while !shared.stop.load(Ordering::SeqCst) {
        let stable = if number % 3 == 0 { stable_how::FILE_SYNC } else { stable_how::UNSTABLE };
        let verifier = session.write(&file, number, stable)?;
        if stable == stable_how::UNSTABLE {
            unstable.push((number, verifier));
        }
        session.change_names(&names, number, shared.in_order.load(Ordering::SeqCst))?;
        number += 1;
        if number % COMMIT_EVERY == 0 {
            session.commit(&file, &mut unstable)?;
        }
        shared.written.store(number, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(20));
    }
    session.commit(&file, &mut unstable)?;
    // In long READs, which the server does not copy: here it is the appliance's own kernel that sends them.
    for first in (0..number).step_by(AT_ONCE as usize) {
        let count = (number - first).min(AT_ONCE) as usize * BLOCK;
        let read = READ3args { file: file.clone(), offset: first * BLOCK as u64, count: count as u32 };
        let read = session.ask::<READ3resok, READ3resfail>(NFS_PROGRAM::NFSPROC3_READ, &read)?;
        if read.data.len() != count {
            return Err(format!("READ of {count} bytes gave {}", read.data.len()));
        }
        for (number_read, data) in (first..).zip(read.data.chunks(BLOCK)) {
            if data != block(number_read) {
                return Err(format!("block {number_read} of {number} was acknowledged and is not there"));
            }
        }
    }
    let mut expected: Vec<String> =
        (number.saturating_sub(KEPT + 1)..number.saturating_sub(1)).map(|n| moved(n, 0)).collect();
    expected.push(format!("new-{}", number - 1));
    expected.sort();
    let mut connection = session.connection.take().ok_or("no connection")?;
    let found = connection.names(&names);
    if found != expected {
        return Err(format!("the names are {found:?}, not {expected:?}"));
    }
    Ok((number, found.len()))
}
