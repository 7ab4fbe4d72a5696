//! A client's trees as the store makes them, on loop devices in a mount
//! namespace of the test's own thread, with our server over them; and a client
//! whose codec (`nfs3_types`) is not ours.
//!
//! Needs root, loop devices, ext4 and overlayfs. What is missing is a failure that says so.

#![allow(dead_code, clippy::unwrap_used)] // each test program uses its part; a failing test may panic

pub mod disk;

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::xdr_codec::{Opaque, Pack, Unpack};
use rootstock::client::Role;
use rootstock::directory::{Directory, Export, HandleKey, Published, Served, Tree};
use rootstock::nfs::{self, Event, Options, Ports, Server};

pub const A: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
pub const B: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

pub struct Lab {
    pub directory: Arc<Published<Directory>>,
    pub events: Arc<Mutex<Vec<Event>>>,
    pub server: Option<Server>,
    pub options: Options,
    /// What the clients' changes lie on, where the test plays with it.
    pub disk: Option<disk::Disk>,
    folder: PathBuf,
    _folder: tempfile::TempDir,
}

pub fn run(command: &str) {
    let status = Command::new("sh").args(["-ec", command]).status().expect("sh");
    assert!(
        status.success(),
        "`{command}` failed: these tests run as root, with loop devices, ext4 and overlayfs: sudo modprobe -a loop ext4 overlay; apt-get install e2fsprogs mount"
    );
}

/// A child that another test starts has all that is open in this process open too, between its fork and its exec: what was
/// closed here may be busy for a moment longer.
fn unmount(folder: &Path, places: &str) {
    run(&format!(
        "cd {}; for place in {places}; do
             for again in $(seq 100); do umount $place 2>/dev/null && continue 2; sleep 0.02; done
             umount $place
         done",
        folder.display()
    ));
}

thread_local! {
    static HAS_OWN_MOUNTS: Cell<bool> = const { Cell::new(false) };
}

/// Gives the thread a mount namespace, once: a second one would keep copies of the first lab's mounts, which nobody
/// takes away (two loop devices stayed behind for each, 2026-11-22).
fn own_mounts() {
    if HAS_OWN_MOUNTS.replace(true) {
        return;
    }
    // SAFETY: only this thread's view of mounts changes, before it starts others.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .expect("a mount namespace: run as root");
    run("mount --make-rprivate /");
}

impl Lab {
    pub fn new() -> Self {
        Self::on(false)
    }

    /// One whose clients' changes lie on a disk that the test can read, record and stop.
    pub fn on_disk() -> Self {
        Self::on(true)
    }

    fn on(disk: bool) -> Self {
        own_mounts();
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = temporary.path().to_owned();
        run(&format!("mount -t tmpfs lab {0}; mkdir {0}/disk", temporary.path().display()));
        let disk = disk.then(|| disk::Disk::mount(&folder.join("disk"), 64 << 20));
        if disk.is_some() {
            std::os::unix::fs::symlink("disk/disk", folder.join("upper.ext4")).expect("a link");
        }
        run(&format!(
            "# A loop device keeps a read-only mark that somebody set on it; it goes with its last user.
             loop() {{ d=$(losetup --find --show $1); blockdev --setrw $d; mount $d $2; losetup --detach $d; }}
             cd {0}; mkdir image upper a a-boot b b-boot
             truncate -s 64M image.ext4 upper.ext4; mkfs.ext4 -q image.ext4; mkfs.ext4 -q upper.ext4
             loop image.ext4 image
             cd image; mkdir etc merged empty; echo lower > etc/hosts; chmod 600 etc/hosts; mkdir etc/d
             for i in $(seq 200); do echo $i > merged/f$i; done
             echo data > file; ln file hard; ln -s /etc/passwd outside; ln -s ../../.. up; echo x > suid; chmod 4755 suid
             cd ..; umount image; loop upper.ext4 upper
             for n in a a-boot b b-boot; do mkdir upper/$n upper/$n-work; done",
            folder.display()
        ));
        let export = |id, name: &str| Export {
            account: None,
            id,
            path: format!("/clients/{name}"),
            directory: folder.join(name),
            tree: if name.ends_with("boot") { Tree::Boot } else { Tree::Root },
            read_only: false,
        };
        let served = |n, address, root: &str, id| Served {
            role: Role::numbered(n),
            address,
            serial: None,
            root: export(id, root),
            boot: export(id + 1, &format!("{root}-boot")),
            volume: None,
            kernel_words: String::new(),
        };
        let clients = vec![served(1, A, "a", 2), served(2, B, "b", 4)];
        let directory = Directory { clients, handle_key: HandleKey([7; 16]), ..Directory::default() };
        let mut lab = Self {
            directory: Arc::new(Published::new(directory)),
            events: Arc::default(),
            server: None,
            disk,
            options: Options {
                listen: Ipv4Addr::UNSPECIFIED,
                nfs_port: 0,
                mount_port: 0,
                portmap_port: 0,
                allow_unprivileged_ports: true,
                workers: 8,
                journal: Some(folder.join("calls")),
            },
            folder,
            _folder: temporary,
        };
        lab.mount();
        lab.start();
        lab
    }

    /// Mounts the stick's trees, as the store does.
    pub fn mount(&self) {
        let mut command = format!("cd {}; mount -o loop,ro,noload image.ext4 image\n", self.folder.display());
        for name in ["a", "a-boot", "b", "b-boot"] {
            command += &format!(
                "mount -t overlay lab -o lowerdir=image,upperdir=upper/{name},workdir=upper/{name}-work,index=on,nfs_export=on,xino=on {name}\n"
            );
        }
        run(&command);
    }

    /// Takes them away, as when the stick is pulled.
    pub fn unmount(&self) {
        unmount(&self.folder, "a a-boot b b-boot image");
    }

    /// The first client's tree, as the appliance mounts it from what a cut left of the disk.
    pub fn mounted<T>(&self, left: &[u8], look: impl FnOnce(&Path) -> T) -> T {
        let folder = self.folder.join("cut");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("disk"), left).expect("the disk");
        run(&format!(
            "cd {}; mkdir -p upper merged; mount -o loop disk upper
             mount -t overlay cut -o lowerdir=../image,upperdir=upper/a,workdir=upper/a-work,index=on,nfs_export=on,xino=on merged",
            folder.display()
        ));
        let found = look(&folder.join("merged"));
        unmount(&folder, "merged upper");
        found
    }

    pub fn start(&mut self) {
        let events = self.events.clone();
        let sink = Arc::new(move |event| events.lock().unwrap().push(event));
        self.server = Some(nfs::start(self.options.clone(), self.directory.clone(), sink).expect("the server starts"));
    }

    pub fn restart(&mut self) {
        self.server = None;
        self.start();
    }

    pub fn ports(&self) -> Ports {
        self.server.as_ref().expect("running").ports()
    }

    /// A file of the first client's tree, seen from the server's side.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join("a").join(name)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn client(&self, address: Ipv4Addr) -> Client {
        Client::connect(self.ports().nfs, address)
    }

    /// The root's handle, by MNT.
    pub fn root(&self, address: Ipv4Addr) -> nfs_fh3 {
        let path = &self.directory.get().client(address).expect("a client").root.path.clone();
        self.mnt(address, path).unwrap_or_else(|stat| panic!("MNT {path}: {stat}"))
    }

    pub fn mnt(&self, address: Ipv4Addr, path: &str) -> Result<nfs_fh3, u32> {
        Client::connect(self.ports().mount, address).mnt(path)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.disk.iter().for_each(disk::Disk::go_on);
        self.server = None;
        let folder = self.folder.display();
        // Not `run`: a failing test must not panic again.
        let _ = Command::new("sh").args(["-c", &format!("cd /; umount -R -l {folder}")]).status();
    }
}

pub fn packed(value: &impl Pack) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.pack(&mut bytes).expect("packs");
    bytes
}

/// One connection, from a chosen address, with chosen credentials and xid.
pub struct Client {
    pub stream: TcpStream,
    pub uid: u32,
    pub gid: u32,
    pub gids: Vec<u32>,
    pub xid: u32,
}

static XID: AtomicU32 = AtomicU32::new(1);

impl Client {
    pub fn connect(port: u16, from: Ipv4Addr) -> Self {
        Self::try_connect(SocketAddrV4::new(A, port), SocketAddrV4::new(from, 0)).expect("the server listens")
    }

    /// Connects to a server that may be away, from a port of one's choice (0: any).
    pub fn try_connect(server: SocketAddrV4, from: SocketAddrV4) -> std::io::Result<Self> {
        use rustix::net::*;
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &from)?;
        connect(&socket, &server)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Ok(Self { stream, uid: 0, gid: 0, gids: Vec::new(), xid: XID.fetch_add(1 << 12, Ordering::Relaxed) })
    }

    pub fn acting(mut self, uid: u32, gid: u32, gids: &[u32]) -> Self {
        (self.uid, self.gid, self.gids) = (uid, gid, gids.to_vec());
        self
    }

    pub fn header(&self, program: u32, version: u32, procedure: u32) -> Vec<u8> {
        let mut body = packed(&1u32);
        body.extend(packed(&Opaque::borrowed(b"pi-1")));
        for id in [self.uid, self.gid, self.gids.len() as u32].iter().chain(&self.gids) {
            body.extend(packed(id));
        }
        let mut call = Vec::new();
        for item in [self.xid, 0, 2, program, version, procedure, 1] {
            call.extend(packed(&item));
        }
        call.extend(packed(&Opaque::owned(body)));
        call.extend([0; 8]);
        call
    }

    pub fn send(&mut self, record: &[u8]) {
        let mark = 0x8000_0000 | record.len() as u32;
        self.stream.write_all(&[&mark.to_be_bytes()[..], record].concat()).expect("sent");
    }

    pub fn receive(&mut self) -> std::io::Result<Vec<u8>> {
        let mut mark = [0; 4];
        self.stream.read_exact(&mut mark)?;
        let mark = u32::from_be_bytes(mark);
        assert!(mark & 0x8000_0000 != 0, "one fragment");
        let mut record = vec![0; (mark & 0x7fff_ffff) as usize];
        self.stream.read_exact(&mut record)?;
        Ok(record)
    }

    /// The results of a call that succeeded as RPC; else `None`.
    pub fn raw(&mut self, program: u32, version: u32, procedure: u32, args: &[u8]) -> Option<Vec<u8>> {
        self.try_raw(program, version, procedure, args).expect("a reply")
    }

    fn try_raw(&mut self, program: u32, version: u32, procedure: u32, args: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        self.xid += 1;
        let call = [self.header(program, version, procedure), args.to_vec()].concat();
        let mark = 0x8000_0000 | call.len() as u32;
        self.stream.write_all(&[&mark.to_be_bytes()[..], &call].concat())?;
        let reply = self.receive()?;
        assert_eq!(reply[..8], [packed(&self.xid), packed(&1u32)].concat(), "the reply to this call");
        Ok((reply[8..12] == [0; 4] && reply[20..24] == [0; 4]).then(|| reply[24..].to_vec()))
    }

    /// One NFS call: the whole reply is read, or the codec did not agree with ours.
    pub fn call<R: Unpack>(&mut self, procedure: NFS_PROGRAM, args: &impl Pack) -> R {
        self.try_call(procedure, args).expect("a reply")
    }

    /// The same to a server that may be away.
    pub fn try_call<R: Unpack>(&mut self, procedure: NFS_PROGRAM, args: &impl Pack) -> std::io::Result<R> {
        let reply = self.try_raw(100_003, 3, procedure as u32, &packed(args))?.expect("accepted");
        let (result, read) = R::unpack(&mut &reply[..]).expect("a reply by the letter");
        assert_eq!(read, reply.len(), "nothing behind the reply");
        Ok(result)
    }

    /// MNT, on a connection to the mount port.
    pub fn mnt(&mut self, path: &str) -> Result<nfs_fh3, u32> {
        let reply = self.raw(100_005, 3, 1, &packed(&Opaque::borrowed(path.as_bytes()))).expect("a reply");
        match u32::from_be_bytes(reply[..4].try_into().unwrap()) {
            0 => Ok(nfs_fh3::unpack(&mut &reply[4..]).expect("a handle").0),
            stat => Err(stat),
        }
    }

    pub fn lookup(&mut self, dir: &nfs_fh3, name: &str) -> LOOKUP3res {
        self.call(NFS_PROGRAM::NFSPROC3_LOOKUP, &LOOKUP3args { what: at(dir, name) })
    }

    pub fn find(&mut self, dir: &nfs_fh3, name: &str) -> nfs_fh3 {
        self.lookup(dir, name).expect(name).object
    }

    pub fn getattr(&mut self, object: &nfs_fh3) -> GETATTR3res {
        self.call(NFS_PROGRAM::NFSPROC3_GETATTR, &GETATTR3args { object: object.clone() })
    }

    pub fn attributes(&mut self, object: &nfs_fh3) -> fattr3 {
        self.getattr(object).unwrap().obj_attributes
    }

    pub fn setattr(&mut self, object: &nfs_fh3, new: sattr3) -> SETATTR3res {
        let args = SETATTR3args { object: object.clone(), new_attributes: new, guard: sattrguard3::None };
        self.call(NFS_PROGRAM::NFSPROC3_SETATTR, &args)
    }

    pub fn create(&mut self, dir: &nfs_fh3, name: &str, how: createhow3) -> CREATE3res {
        self.call(NFS_PROGRAM::NFSPROC3_CREATE, &CREATE3args { where_: at(dir, name), how })
    }

    /// A new file of mode 644.
    pub fn file(&mut self, dir: &nfs_fh3, name: &str) -> nfs_fh3 {
        handle(self.create(dir, name, createhow3::GUARDED(mode(0o644))).expect(name).obj)
    }

    pub fn mkdir(&mut self, dir: &nfs_fh3, name: &str) -> MKDIR3res {
        self.call(NFS_PROGRAM::NFSPROC3_MKDIR, &MKDIR3args { where_: at(dir, name), attributes: mode(0o755) })
    }

    pub fn remove(&mut self, dir: &nfs_fh3, name: &str) -> REMOVE3res {
        self.call(NFS_PROGRAM::NFSPROC3_REMOVE, &REMOVE3args { object: at(dir, name) })
    }

    pub fn rmdir(&mut self, dir: &nfs_fh3, name: &str) -> RMDIR3res {
        self.call(NFS_PROGRAM::NFSPROC3_RMDIR, &RMDIR3args { object: at(dir, name) })
    }

    pub fn rename(&mut self, from: &nfs_fh3, name: &str, to: &nfs_fh3, new: &str) -> RENAME3res {
        self.call(NFS_PROGRAM::NFSPROC3_RENAME, &RENAME3args { from: at(from, name), to: at(to, new) })
    }

    pub fn link(&mut self, file: &nfs_fh3, dir: &nfs_fh3, name: &str) -> LINK3res {
        self.call(NFS_PROGRAM::NFSPROC3_LINK, &LINK3args { file: file.clone(), link: at(dir, name) })
    }

    pub fn read(&mut self, file: &nfs_fh3, offset: u64, count: u32) -> READ3res<'static> {
        self.call(NFS_PROGRAM::NFSPROC3_READ, &READ3args { file: file.clone(), offset, count })
    }

    pub fn write(&mut self, file: &nfs_fh3, offset: u64, data: &[u8], stable: stable_how) -> WRITE3res {
        let (count, data) = (data.len() as u32, Opaque::borrowed(data));
        self.call(NFS_PROGRAM::NFSPROC3_WRITE, &WRITE3args { file: file.clone(), offset, count, stable, data })
    }

    pub fn commit(&mut self, file: &nfs_fh3) -> COMMIT3res {
        self.call(NFS_PROGRAM::NFSPROC3_COMMIT, &COMMIT3args { file: file.clone(), offset: 0, count: 0 })
    }

    pub fn access(&mut self, object: &nfs_fh3, access: u32) -> u32 {
        let args = ACCESS3args { object: object.clone(), access };
        self.call::<ACCESS3res>(NFS_PROGRAM::NFSPROC3_ACCESS, &args).unwrap().access
    }

    /// One page of READDIR behind `cookie`: names with cookies, and whether it is the last.
    pub fn readdir(&mut self, dir: &nfs_fh3, cookie: u64, count: u32) -> (Vec<(String, u64)>, bool) {
        let args = READDIR3args { dir: dir.clone(), cookie, cookieverf: cookieverf3([0; 8]), count };
        let ok = self.call::<READDIR3res>(NFS_PROGRAM::NFSPROC3_READDIR, &args).unwrap();
        let entry = |entry: entry3<'static>| (text(&entry.name.0), entry.cookie);
        (ok.reply.entries.0.into_iter().map(entry).collect(), ok.reply.eof)
    }

    /// One page of READDIRPLUS.
    pub fn readdirplus(&mut self, dir: &nfs_fh3, cookie: u64, maxcount: u32) -> (Vec<entryplus3<'static>>, bool) {
        let cookieverf = cookieverf3([0; 8]);
        let args = READDIRPLUS3args { dir: dir.clone(), cookie, cookieverf, dircount: maxcount, maxcount };
        let ok = self.call::<READDIRPLUS3res>(NFS_PROGRAM::NFSPROC3_READDIRPLUS, &args).unwrap();
        (ok.reply.entries.0, ok.reply.eof)
    }

    /// All names but the dots.
    pub fn names(&mut self, dir: &nfs_fh3) -> Vec<String> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let (page, eof) = self.readdir(dir, cookie, 4096);
            cookie = page.last().map_or(cookie, |(_, cookie)| *cookie);
            names.extend(page.into_iter().map(|(name, _)| name).filter(|name| name != "." && name != ".."));
            if eof {
                names.sort();
                return names;
            }
        }
    }
}

pub fn at<'a>(dir: &nfs_fh3, name: &'a str) -> diropargs3<'a> {
    diropargs3 { dir: dir.clone(), name: filename3(Opaque::borrowed(name.as_bytes())) }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn mode(mode: u32) -> sattr3 {
    sattr3 { mode: set_mode3::Some(mode), ..sattr3::default() }
}

pub fn handle(handle: post_op_fh3) -> nfs_fh3 {
    match handle {
        post_op_fh3::Some(handle) => handle,
        post_op_fh3::None => panic!("no handle in the reply"),
    }
}

/// The status of a call that must fail.
pub fn status<T: std::fmt::Debug, E: std::fmt::Debug>(result: Nfs3Result<T, E>) -> nfsstat3 {
    match result {
        Nfs3Result::Ok(ok) => panic!("it succeeded: {ok:?}"),
        Nfs3Result::Err((status, _)) => status,
    }
}
