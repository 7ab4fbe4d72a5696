//! What the fuzzer and the replay of its corpus feed: the entries of
//! `rootstock::hostile`, and the three programs of NFS over a small tree of its own.

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rootstock::client::Role;
use rootstock::directory::{Directory, Export, HandleKey, Served, Tree};
use rootstock::hostile::ENTRIES;
use rootstock::nfs::probe::Probe;

const ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// A fresh tree after so many calls, since calls use it up.
const CALLS_PER_TREE: u32 = 2000;
/// Stands for handle number n: MARK, then n.
pub const MARK: [u8; 2] = [0xfe, b'H'];

/// All targets' names.
pub fn names() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().map(|(name, _)| *name).chain(["nfs", "mount", "portmap"])
}

/// Feeds one target, on whatever thread the first call is made.
pub fn feed(target: &str, bytes: &[u8]) {
    if let Some((_, entry)) = ENTRIES.iter().find(|(name, _)| *name == target) {
        return entry(bytes);
    }
    thread_local!(static WORLD: World = World::new());
    let program = match target {
        "nfs" => (100_003, 3, 23),
        "mount" => (100_005, 3, 7),
        "portmap" => (100_000, 2, 6),
        other => panic!("no target {other:?}; there are {:?}", names().collect::<Vec<_>>()),
    };
    WORLD.with(|world| world.call(program, bytes));
}

/// A tree on a tmpfs in a mount namespace of this thread, and handles of all kinds of files in it.
struct World {
    probe: Probe,
    top: PathBuf,
    _folder: tempfile::TempDir,
    handles: RefCell<Vec<Vec<u8>>>,
    calls: Cell<u32>,
}

impl World {
    fn new() -> Self {
        use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
        // SAFETY: only this thread's view of mounts changes.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
            .expect("a mount namespace: run as root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private mounts");
        let folder = tempfile::tempdir().expect("a folder");
        let top = folder.path().to_owned();
        // Bounds for all that the calls may make.
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        mount("tmpfs", &top, "tmpfs", flags, c"size=16m,nr_inodes=2000").expect("mount tmpfs");
        let export = |id, path: &str, tree| Export {
            id,
            path: path.into(),
            directory: top.clone(),
            tree,
            read_only: id == 3,
            account: None,
        };
        let served = Served {
            role: Role::numbered(1),
            address: ADDRESS,
            serial: None,
            root: export(2, "/clients/pi-1/root", Tree::Root),
            boot: export(3, "/clients/pi-1/boot", Tree::Boot),
            volume: None,
            kernel_words: String::new(),
        };
        let directory = Directory { clients: vec![served], handle_key: HandleKey([7; 16]), ..Directory::default() };
        let probe = Probe::new(directory, ADDRESS);
        let world = Self { probe, top, _folder: folder, handles: RefCell::default(), calls: Cell::new(0) };
        world.plant();
        world
    }

    /// The tree as it is at first, and the handles of what is in it.
    fn plant(&self) {
        clear(&self.top);
        for directory in ["dir", "dir/below", "empty"] {
            std::fs::create_dir(self.top.join(directory)).expect("a directory");
        }
        for (file, bytes) in [("file", 5000), ("dir/other", 3)] {
            std::fs::write(self.top.join(file), vec![b'x'; bytes]).expect("a file");
        }
        std::os::unix::fs::symlink("../file", self.top.join("link")).expect("a link");
        rustix::fs::mkfifoat(rustix::fs::CWD, self.top.join("fifo"), 0o644.into()).expect("a pipe");
        let mount = |path: &[u8]| {
            let reply = self.probe.answer(&call((100_005, 3), 1, 0, &opaque(path)), true).expect("a reply");
            assert_eq!(reply[20..28], [0; 8], "MNT");
            reply[32..32 + usize::from(reply[31])].to_vec()
        };
        let lookup = |directory: &[u8], name: &[u8]| {
            let args = [opaque(directory), opaque(name)].concat();
            let reply = self.probe.answer(&call((100_003, 3), 3, 0, &args), true).expect("a reply");
            assert_eq!(reply[20..28], [0; 8], "LOOKUP {}", String::from_utf8_lossy(name));
            reply[32..32 + usize::from(reply[31])].to_vec()
        };
        let root = mount(b"/clients/pi-1/root");
        let directory = lookup(&root, b"dir");
        let mut handles = vec![root.clone(), mount(b"/clients/pi-1/boot"), directory];
        handles.extend([&b"file"[..], b"link", b"fifo", b"empty"].map(|name| lookup(&root, name)));
        *self.handles.borrow_mut() = handles;
    }

    /// The procedure's number, the caller, then arguments in which marks stand for handles.
    fn call(&self, (program, version, procedures): (u32, u32, u8), bytes: &[u8]) {
        let [procedure, uid, args @ ..] = bytes else { return };
        self.calls.set(self.calls.get() + 1);
        if self.calls.get().is_multiple_of(CALLS_PER_TREE) {
            self.plant();
        }
        let args = self.with_handles(args);
        let uid = if uid % 4 == 3 { 1000 } else { 0 };
        let record = call((program, version), u32::from(procedure % procedures), uid, &args);
        for tcp in [true, false] {
            if let Some(reply) = self.probe.answer(&record, tcp) {
                assert!(reply.len() >= 20 && reply.len() % 4 == 0 && reply.len() < 300 << 10);
            }
        }
    }

    fn with_handles(&self, mut args: &[u8]) -> Vec<u8> {
        let handles = self.handles.borrow();
        let mut out = Vec::with_capacity(args.len() + 64);
        while let [first, rest @ ..] = args {
            match args {
                [a, b, n, rest @ ..] if [*a, *b] == MARK => {
                    out.extend(opaque(&handles[usize::from(*n) % handles.len()]));
                    args = rest;
                }
                _ => {
                    out.push(*first);
                    args = rest;
                }
            }
        }
        out
    }
}

fn clear(top: &Path) {
    for entry in std::fs::read_dir(top).expect("the tree") {
        let entry = entry.expect("an entry");
        let gone = match entry.file_type().expect("a type").is_dir() {
            true => std::fs::remove_dir_all(entry.path()),
            false => std::fs::remove_file(entry.path()),
        };
        gone.expect("removed");
    }
}

fn opaque(bytes: &[u8]) -> Vec<u8> {
    let padding = bytes.len().wrapping_neg() % 4;
    [&(bytes.len() as u32).to_be_bytes()[..], bytes, &[0; 3][..padding]].concat()
}

fn call((program, version): (u32, u32), procedure: u32, uid: u32, args: &[u8]) -> Vec<u8> {
    // Another xid each time, or the reply cache answers.
    thread_local!(static XID: Cell<u32> = const { Cell::new(0) });
    let xid = XID.replace(XID.get().wrapping_add(1));
    let items = [xid, 0, 2, program, version, procedure, 1, 20, 0, 0, uid, uid, 0, 0, 0];
    let header = items.iter().flat_map(|item| item.to_be_bytes());
    header.chain(args.iter().copied()).collect()
}
