//! A disk that remembers every write and every flush, and can stand still: one file
//! in a FUSE file system of this process, for a loop device to lie on.
//!
//! The kernel's FUSE protocol (`linux/fuse.h`, 7.31), as much as one file needs.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// What reached the disk, in order.
#[derive(Clone)]
pub enum Event {
    Write(u64, Vec<u8>),
    Flush,
}

/// A longer write may be torn.
const SECTOR: usize = 512;

/// The disk after a cut behind event `cut`: whole up to the last flush, then any of the writes. `below` is a die.
pub fn after_cut(base: &[u8], log: &[Event], cut: usize, mut below: impl FnMut(u64) -> u64) -> Vec<u8> {
    let mut disk = base.to_vec();
    let flushed = log[..cut].iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0);
    // All, none or some of what was not flushed.
    let chance = [0, 4, 8][below(3) as usize];
    for (n, event) in log[..cut].iter().enumerate() {
        let Event::Write(offset, data) = event else { continue };
        let offset = *offset as usize;
        for (sector, bytes) in data.chunks(SECTOR).enumerate() {
            if n < flushed || below(8) < chance {
                let at = offset + sector * SECTOR;
                disk[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
    disk
}

#[derive(Default)]
struct State {
    content: Vec<u8>,
    /// `None` until `record`.
    log: Option<Vec<Event>>,
    stands_still: bool,
    /// A request waits for it to go on.
    waits: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Mounted for as long as it is not dropped; unmount what lies on it first.
pub struct Disk {
    shared: Arc<Shared>,
    daemon: Option<JoinHandle<()>>,
    point: std::path::PathBuf,
}

const MAX_WRITE: usize = 128 << 10;
const ROOT: u64 = 1;
const FILE: u64 = 2;

impl Disk {
    /// A disk of `bytes` zeros, as the file `disk` in the folder `point`.
    pub fn mount(point: &Path, bytes: usize) -> Self {
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let fuse = fuse.expect("/dev/fuse: these tests need FUSE: sudo modprobe fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", fuse.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("disk", point, "fuse", rustix::mount::MountFlags::empty(), options.as_c_str())
            .expect("mount fuse");
        let shared = Arc::new(Shared::default());
        shared.state.lock().unwrap().content = vec![0; bytes];
        let daemon = std::thread::spawn({
            let shared = shared.clone();
            move || serve(fuse, &shared)
        });
        Self { shared, daemon: Some(daemon), point: point.to_owned() }
    }

    /// Starts the record; what lies on the disk now.
    pub fn record(&self) -> Vec<u8> {
        let mut state = self.shared.state.lock().unwrap();
        state.log = Some(Vec::new());
        state.content.clone()
    }

    /// How many events are on record.
    pub fn position(&self) -> usize {
        self.shared.state.lock().unwrap().log.as_ref().map_or(0, Vec::len)
    }

    pub fn log(&self) -> Vec<Event> {
        self.shared.state.lock().unwrap().log.clone().unwrap_or_default()
    }

    /// From now on no request is answered.
    pub fn stand_still(&self) {
        self.shared.state.lock().unwrap().stands_still = true;
    }

    pub fn go_on(&self) {
        self.shared.state.lock().unwrap().stands_still = false;
        self.shared.changed.notify_all();
    }

    /// Whether a write or a flush waits for it to go on.
    pub fn is_waited_for(&self) -> bool {
        self.shared.state.lock().unwrap().waits
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.go_on();
        let _ = rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::DETACH);
        // It ends when the last user of the mount, a loop device perhaps, is gone: not waited for.
        drop(self.daemon.take());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Items of a reply, in the machine's byte order.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u32s(mut self, items: &[u32]) -> Self {
        self.0.extend(items.iter().flat_map(|item| item.to_ne_bytes()));
        self
    }

    fn u64s(mut self, items: &[u64]) -> Self {
        self.0.extend(items.iter().flat_map(|item| item.to_ne_bytes()));
        self
    }

    /// `struct fuse_attr`
    fn attr(self, node: u64, size: u64) -> Self {
        let (mode, size) = if node == ROOT { (0o040_755, 0) } else { (0o100_600, size) };
        self.u64s(&[node, size, size.div_ceil(512), 0, 0, 0]).u32s(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])
    }
}

fn serve(mut fuse: File, shared: &Shared) {
    let mut buffer = vec![0; MAX_WRITE + 8192];
    loop {
        let count = match fuse.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // ENODEV: unmounted.
            Err(_) => return,
        };
        let request = &buffer[..count];
        let (opcode, unique, node, body) =
            (u32_at(request, 4), u64_at(request, 8), u64_at(request, 16), &request[40..]);
        // FORGET, INTERRUPT, BATCH_FORGET want no reply.
        if matches!(opcode, 2 | 36 | 42) {
            continue;
        }
        let (error, out) = match answer(opcode, node, body, shared) {
            Ok(out) => (0, out.0),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut reply = ((16 + out.len()) as u32).to_ne_bytes().to_vec();
        reply.extend(error.to_ne_bytes());
        reply.extend(unique.to_ne_bytes());
        reply.extend(out);
        // ENOENT where the asker was killed meanwhile.
        let _ = fuse.write(&reply);
    }
}

fn answer(opcode: u32, node: u64, body: &[u8], shared: &Shared) -> Result<Out, i32> {
    let mut state = shared.state.lock().unwrap();
    if matches!(opcode, 16 | 20) {
        while state.stands_still {
            state.waits = true;
            state = shared.changed.wait(state).unwrap();
        }
        state.waits = false;
    }
    let size = state.content.len() as u64;
    let out = Out::default();
    Ok(match opcode {
        // LOOKUP
        1 if body.starts_with(b"disk\0") => out.u64s(&[FILE, 0, 3600, 3600]).u32s(&[0, 0]).attr(FILE, size),
        1 => return Err(libc::ENOENT),
        // GETATTR, SETATTR
        3 | 4 => out.u64s(&[3600]).u32s(&[0, 0]).attr(node, size),
        // OPEN with FOPEN_KEEP_CACHE, OPENDIR
        14 | 27 => out.u64s(&[0]).u32s(&[2, 0]),
        // READ
        15 => {
            let (start, length) = (u64_at(body, 8).min(size) as usize, u32_at(body, 16) as usize);
            Out(state.content[start..(start + length).min(size as usize)].to_vec())
        }
        // WRITE
        16 => {
            let (offset, length) = (u64_at(body, 8), u32_at(body, 16) as usize);
            let data = &body[40..40 + length];
            let Some(place) = state.content.get_mut(offset as usize..offset as usize + length) else {
                return Err(libc::ENOSPC);
            };
            place.copy_from_slice(data);
            let event = Event::Write(offset, data.to_vec());
            state.log.iter_mut().for_each(|log| log.push(event.clone()));
            out.u32s(&[length as u32, 0])
        }
        // STATFS
        17 => out.u64s(&[1 << 20; 5]).u32s(&[4096, 255, 4096, 0, 0, 0, 0, 0, 0, 0]),
        // FSYNC
        20 => {
            state.log.iter_mut().for_each(|log| log.push(Event::Flush));
            out
        }
        // RELEASE, FLUSH, RELEASEDIR, DESTROY
        18 | 25 | 29 | 38 => out,
        // INIT: 7.31, with BIG_WRITES and MAX_PAGES
        26 => out
            .u32s(&[7, 31, 0, 1 << 5 | 1 << 22, 16 | 12 << 16, MAX_WRITE as u32, 1, (MAX_WRITE / 4096) as u32])
            .u32s(&[0; 8]),
        _ => return Err(libc::ENOSYS),
    })
}
