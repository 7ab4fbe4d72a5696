//! A disk that remembers every write and every flush, and can stand still or fail: one file
//! in a FUSE file system, for a loop device to lie on.
//!
//! A process of its own serves it (`serve`). A test that is killed while a call of it waits for the disk could not end
//! otherwise: that call would wait for a server which ends with it, and each `sync` on the machine behind it.
//! When the test is gone the process serves what is still asked, so that all that lies on the disk can be
//! taken down, and ends with the mount, or soon.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;

#[path = "disk_process.rs"]
mod process;

use process::{FAIL, GO_ON, INDEX_BYTES, IS_WAITED_FOR, MOUNTED, Parts, STAND_STILL, YES};

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

/// Mounted for as long as it is not dropped; unmount what lies on it first.
pub struct Disk {
    /// To its process. One byte asks, one answers.
    process: Mutex<UnixStream>,
    /// The bytes of all writes, and of each event where they are.
    data: File,
    index: File,
    recorded: Mutex<Recorded>,
    point: std::path::PathBuf,
}

/// Where the record begins: events before it, and the disk then.
struct Recorded {
    from: usize,
    base: Vec<u8>,
}

impl Disk {
    /// A disk of `bytes` zeros, as the file `disk` in the folder `point`.
    pub fn mount(point: &Path, bytes: usize) -> Self {
        let fuse = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/fuse");
        let fuse = fuse.expect("/dev/fuse: these tests need FUSE: sudo modprobe fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", fuse.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        let [content, data, index] = [c"disk", c"writes", c"events"]
            .map(|name| File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd")));
        content.set_len(bytes as u64).expect("a memfd");
        let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
        let own = |file: &File| OwnedFd::from(file.try_clone().expect("a descriptor"));
        let parts = Parts {
            parent: theirs.into(),
            fuse: own(&fuse),
            content: content.into(),
            data: own(&data),
            index: own(&index),
            size: bytes as u64,
        };
        process::start(parts, point);
        ours.read_exact(&mut [0]).expect("the disk's process");
        rustix::mount::mount("disk", point, "fuse", rustix::mount::MountFlags::empty(), options.as_c_str())
            .expect("mount fuse");
        // From here on the process is the only one that has it.
        drop(fuse);
        let disk = Self {
            process: Mutex::new(ours),
            data,
            index,
            recorded: Mutex::new(Recorded { from: 0, base: vec![0; bytes] }),
            point: point.to_owned(),
        };
        disk.ask(MOUNTED);
        disk
    }

    /// Starts the record; what lies on the disk now.
    pub fn record(&self) -> Vec<u8> {
        let mut recorded = self.recorded.lock().unwrap();
        let events = self.events(recorded.from);
        recorded.from += events.len();
        for event in events {
            if let Event::Write(offset, data) = event {
                recorded.base[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
            }
        }
        recorded.base.clone()
    }

    /// How many events are on record.
    pub fn position(&self) -> usize {
        self.count() - self.recorded.lock().unwrap().from
    }

    pub fn log(&self) -> Vec<Event> {
        self.events(self.recorded.lock().unwrap().from)
    }

    /// From now on no request is answered.
    pub fn stand_still(&self) {
        self.ask(STAND_STILL);
    }

    pub fn go_on(&self) {
        self.ask(GO_ON);
    }

    /// From now on each write and flush is an I/O error, also one that waited.
    pub fn fail(&self) {
        self.ask(FAIL);
    }

    /// Whether a write or a flush waits for it to go on.
    pub fn is_waited_for(&self) -> bool {
        self.ask(IS_WAITED_FOR) == YES
    }

    fn ask(&self, what: u8) -> u8 {
        let mut process = self.process.lock().unwrap();
        let mut answer = [0];
        process.write_all(&[what]).and_then(|()| process.read_exact(&mut answer)).expect("the disk's process");
        answer[0]
    }

    /// Since it was mounted.
    fn count(&self) -> usize {
        self.index.metadata().unwrap().len() as usize / INDEX_BYTES
    }

    fn events(&self, from: usize) -> Vec<Event> {
        let mut index = vec![0; (self.count() - from) * INDEX_BYTES];
        self.index.read_exact_at(&mut index, (from * INDEX_BYTES) as u64).unwrap();
        let event = |entry: &[u8]| {
            let word = |n: usize| u64::from_ne_bytes(entry[8 * n..8 * n + 8].try_into().unwrap());
            if word(0) == process::FLUSH {
                return Event::Flush;
            }
            let mut data = vec![0; word(1) as usize];
            self.data.read_exact_at(&mut data, word(2)).unwrap();
            Event::Write(word(0), data)
        };
        index.chunks_exact(INDEX_BYTES).map(event).collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Its process goes on when this end is closed, and ends when the last user of the mount, a loop device perhaps, is
        // gone: not waited for.
        let _ = rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::DETACH);
    }
}
