//! What the store's tests share: a mount namespace of their own, images made
//! with Debian's tools, loop devices as sticks, and the events as they come.
//!
//! Needs root and the tools named in `run`; without one the test fails and
//! says what to install.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

pub mod handles;
pub mod limits;

use std::fs::{self, File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rootstock::client::{Client, ImageId, Mode, Model, Role};
use rootstock::store::{Command, Event, Handle, ImageInfo, OpenClient, Options, start};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

pub const MIB: u64 = 1 << 20;
/// Only how long a failing test takes: nothing waits for it otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a tool; its output.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Process::new(tool).args(arguments).output().unwrap_or_else(|error| {
        panic!(
            "{tool}: {error}; apt-get install -y e2fsprogs fdisk mtools dosfstools xz-utils gzip zstd zip 7zip python3 mount"
        )
    });
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{tool} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A child that another test starts has all that is open in this process open too, between its fork and its exec: what was
/// closed here may be busy for a moment longer.
pub fn unmount(point: &(impl AsRef<Path> + ?Sized)) {
    let point = point.as_ref().to_str().expect("a path of UTF-8");
    let try_once = || Process::new("umount").arg(point).output().is_ok_and(|output| output.status.success());
    let done = (0..100).any(|_| {
        let done = try_once();
        if !done {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        done
    });
    if !done {
        run("umount", &[point]);
    }
}

/// A folder in a mount namespace of this test's thread: no mount of it is seen
/// elsewhere, and none is left behind.
pub struct Bench {
    pub folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests mount file systems: run them as root");
        // SAFETY: only this thread's view of mounts changes; threads that it
        // starts later inherit it.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder that is a store, with files in it.
    pub fn store(&self) -> PathBuf {
        let path = self.path("stick");
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The same, on a new ext4 of its own in the file `disk`.
    pub fn store_on(&self, disk: &Path, bytes: u64) -> PathBuf {
        File::create(disk).unwrap().set_len(bytes).unwrap();
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "ROOTSTOCK", disk.to_str().unwrap()]);
        run("mount", &["-o", "loop", disk.to_str().unwrap(), self.store().to_str().unwrap()]);
        self.store()
    }

    pub fn options(&self) -> Options {
        Options { run: self.path("run"), appliance: Ipv4Addr::new(192, 168, 77, 1), ..Options::default() }
    }

    /// Where these are plugged in.
    pub fn with_sticks(&self, sticks: &[&LoopDisk]) -> Options {
        Options {
            extra_devices: sticks.iter().map(|stick| stick.name()).collect(),
            minimum_store_bytes: 64 * MIB,
            ..self.options()
        }
    }

    /// Starts in folder mode.
    pub fn start_in_folder(&self) -> Running {
        Running::start(Options { folder: Some(self.store()), ..self.options() })
    }
}

/// A started store and what it tells.
pub struct Running {
    handle: Option<Handle>,
    events: Receiver<Event>,
    pub seen: Vec<Event>,
}

impl Running {
    pub fn start(options: Options) -> Self {
        let (to, events) = channel();
        let handle = start(options, Arc::new(move |event| to.send(event).unwrap_or_default())).unwrap();
        Self { handle: Some(handle), events, seen: Vec::new() }
    }

    pub fn send(&self, command: Command) {
        self.handle.as_ref().unwrap().send(command);
    }

    /// The first event that `pick` takes, past ones forgotten.
    pub fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left);
            let event = event.unwrap_or_else(|_| panic!("no {what}; only {:#?}", self.seen));
            self.seen.push(event.clone());
            if let Some(found) = pick(&event) {
                return found;
            }
        }
    }

    pub fn opened(&mut self) -> (Vec<ImageInfo>, Vec<OpenClient>) {
        self.wait("Opened", |event| match event {
            Event::Opened { images, clients, .. } => Some((images.clone(), clients.clone())),
            _ => None,
        })
    }

    pub fn imported(&mut self) -> ImageInfo {
        self.wait("Imported", |event| match event {
            Event::Imported { image } => Some(image.clone()),
            Event::ImportFailed { message, .. } => panic!("import failed: {message}"),
            _ => None,
        })
    }

    pub fn import_failed(&mut self) -> String {
        self.wait("ImportFailed", |event| match event {
            Event::ImportFailed { message, action, .. } => {
                assert!(!action.is_empty());
                Some(message.clone())
            }
            Event::Imported { image } => panic!("imported {image:?}"),
            _ => None,
        })
    }

    pub fn create(&mut self, client: &Client) -> OpenClient {
        let started = Instant::now();
        self.send(Command::CreateClient(Box::new(client.clone())));
        let open = self.wait("ClientReady", |event| match event {
            Event::ClientReady(open) => Some(open.clone()),
            Event::ClientFailed { message, .. } => panic!("client failed: {message}"),
            _ => None,
        });
        println!("{} ready after {:?}", client.role, started.elapsed());
        open
    }

    /// The client's boot begins.
    pub fn renew(&mut self, role: &Role) -> OpenClient {
        self.send(Command::RenewClient(role.clone()));
        self.wait("ClientReady", |event| match event {
            Event::ClientReady(open) => Some(open.clone()),
            Event::ClientFailed { message, .. } => panic!("client failed: {message}"),
            _ => None,
        })
    }

    /// Has a store made where that is asked, and a client in it that keeps a file.
    pub fn prepare_with_client(&mut self) -> OpenClient {
        self.send(Command::Prepare);
        self.opened();
        let image = self.imported().id;
        let open = self.create(&client(1, &image));
        fs::write(open.root.join("kept"), "kept").unwrap();
        open
    }

    pub fn stop(mut self) {
        self.handle.take().unwrap().stop();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop();
        }
    }
}

pub fn client(n: u8, image: &ImageId) -> Client {
    Client {
        role: Role::numbered(n.into()),
        mac: format!("dc:a6:32:00:00:{n:02x}").parse().unwrap(),
        serial: None,
        revision: None,
        model: Model::Pi4B,
        address: Ipv4Addr::new(192, 168, 77, 10 + n),
        image: image.clone(),
        mode: Mode::Persistent,
        volume_size: None,
        quota: None,
        export_id: n.into(),
    }
}

fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..MIB).map(|_| next()).collect()
}

/// Makes a copy of the usual image another one, by at most 64 bytes of a file in its root.
pub fn make_another(image: &Path, mark: &[u8]) {
    let content = fs::read(image).unwrap();
    let noise = noise();
    let at = content.windows(64).position(|window| window == &noise[64..128]).unwrap() - 64;
    OpenOptions::new().write(true).open(image).unwrap().write_all_at(mark, at as u64).unwrap();
}

/// A small root that looks like Raspberry Pi OS to the rules.
pub fn pi_root(folder: &Path) {
    let files = [
        ("etc/fstab", "PARTUUID=a-01 /boot/firmware vfat defaults 0 2\nPARTUUID=a-02 / ext4 defaults 0 1\n"),
        ("etc/hostname", "raspberrypi\n"),
        ("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n"),
        ("etc/machine-id", "uninitialized\n"),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\npi:x:1000:1000:,,,:/home/pi:/bin/bash\n"),
        ("etc/shadow", "root:*:1:0:99999:7:::\npi:!:1:0:99999:7:::\n"),
        ("etc/ssh/sshd_config", "\n"),
        ("usr/lib/systemd/systemd", "program"),
        // What the server's self-test can follow: a script of that program.
        ("sbin/init", "#!/usr/lib/systemd/systemd\n"),
        ("usr/lib/systemd/system/ssh.service", "[Unit]\n"),
        ("usr/share/doc/one", "one\n"),
        ("home/pi/.profile", "\n"),
    ];
    for (path, content) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    for name in ["boot/firmware", "proc", "sys", "dev", "root", "tmp"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    // Something that does not compress, so that the .xz is no trifle.
    fs::write(folder.join("usr/share/doc/noise"), noise()).unwrap();
    fs::hard_link(folder.join("usr/share/doc/one"), folder.join("usr/share/doc/two")).unwrap();
}

const BOOT_START: u64 = MIB;
const BOOT_BYTES: u64 = 4 * MIB;
pub const ROOT_START: u64 = BOOT_START + BOOT_BYTES;
pub const ROOT_BYTES: u64 = 32 * MIB;

/// An image in Raspberry Pi OS's layout: MBR, FAT with a few boot files, ext4
/// made of `root`.
pub fn make_image(image: &Path, root: &Path) {
    let boot = tempfile::tempdir().unwrap();
    for (name, content) in
        [("config.txt", "arm_64bit=1\n"), ("cmdline.txt", "root=PARTUUID=a-02\n"), ("kernel8.img", "kernel")]
    {
        fs::write(boot.path().join(name), content).unwrap();
    }
    fs::create_dir(boot.path().join("overlays")).unwrap();
    make_image_of(image, boot.path(), root);
}

/// The same, with a FAT made of `boot`, which may have 3 MiB.
pub fn make_image_of(image: &Path, boot: &Path, root: &Path) {
    make_image_sized(image, boot, root, ROOT_BYTES, &[]);
}

/// The same, with a root of so many bytes, and more words for mke2fs.
pub fn make_image_sized(image: &Path, boot: &Path, root: &Path, root_bytes: u64, words: &[&str]) {
    let scratch = tempfile::tempdir().unwrap();
    let fat = scratch.path().join("fat");
    File::create(&fat).unwrap().set_len(BOOT_BYTES).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    run("mformat", &["-i", &text(&fat), "-v", "bootfs", "::"]);
    for entry in fs::read_dir(boot).unwrap() {
        run("mcopy", &["-s", "-i", &text(&fat), &text(&entry.unwrap().path()), "::"]);
    }

    let disk = File::create(image).unwrap();
    disk.set_len(ROOT_START + root_bytes).unwrap();
    let table = scratch.path().join("table");
    let (boot, start) = (BOOT_START / 512, ROOT_START / 512);
    let (boot_sectors, root_sectors) = (BOOT_BYTES / 512, root_bytes / 512);
    let lines =
        format!("label: dos\nstart={boot}, size={boot_sectors}, type=c\nstart={start}, size={root_sectors}, type=83\n");
    fs::write(&table, lines).unwrap();
    run("sh", &["-c", &format!("sfdisk -q '{}' < {}", image.display(), table.display())]);
    disk.write_all_at(&fs::read(&fat).unwrap(), BOOT_START).unwrap();
    let (offset, size) = (format!("offset={ROOT_START}"), format!("{}k", root_bytes >> 10));
    let made = ["-q", "-F", "-t", "ext4", "-L", "rootfs", "-E", &offset, "-d", &text(root)];
    run("mke2fs", &[&made, words, &[&text(image), &size]].concat());
}

/// The usual image, as `name` in `folder`.
pub fn pi_image(folder: &Path, name: &str) -> PathBuf {
    let root = tempfile::tempdir().unwrap();
    pi_root(root.path());
    let image = folder.join(name);
    make_image(&image, root.path());
    image
}

/// A stick without a partition table: a store's file system that holds one image and nothing else yet.
pub fn stick_with_image(bench: &Bench, bytes: u64) -> LoopDisk {
    let stick = disk(&bench.path("disk"), bytes, "");
    fill_stick(bench, &stick, |_| {});
    stick
}

/// Makes a store's file system on a stick, with an image file and what `more` puts there.
pub fn fill_stick(bench: &Bench, stick: &LoopDisk, more: impl FnOnce(&Path)) {
    let (node, point) = (stick.node.to_str().unwrap(), bench.path("mounted"));
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "ROOTSTOCK", node]);
    fs::create_dir_all(&point).unwrap();
    run("mount", &[node, point.to_str().unwrap()]);
    pi_image(&point, "a.img");
    more(&point);
    unmount(&point);
}

/// A file as a disk.
pub struct LoopDisk {
    pub node: PathBuf,
    pub file: PathBuf,
}

impl LoopDisk {
    /// Attaches a file, its partitions shown.
    pub fn attach(file: &Path) -> Self {
        let node = run("losetup", &["-P", "-f", "--show", file.to_str().unwrap()]);
        let disk = Self { node: PathBuf::from(node.trim()), file: file.to_owned() };
        disk.show_partitions();
        disk
    }

    /// Does what a kernel with partition tables built in has done already;
    /// the one of some test machines has none.
    fn show_partitions(&self) {
        let _ = Process::new("partx").arg("-a").arg(&self.node).output();
    }

    /// The kernel's name.
    pub fn name(&self) -> String {
        self.node.file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// What the kernel sees when a card is drawn from its reader: no medium. What is just being written makes the file
    /// longer again, and a disk of another size is another stick: so both are done by one another, and once more.
    pub fn pull(&self) {
        // include/uapi/linux/loop.h
        const LOOP_SET_CAPACITY: libc::c_ulong = 0x4c07;
        let (file, node) = (OpenOptions::new().write(true).open(&self.file).unwrap(), File::open(&self.node).unwrap());
        let size = Path::new("/sys/block").join(self.name()).join("size");
        let is_gone = (0..100).any(|_| {
            file.set_len(0).unwrap();
            // SAFETY: LOOP_SET_CAPACITY takes no argument; the descriptor is open.
            assert_eq!(unsafe { libc::ioctl(node.as_raw_fd(), LOOP_SET_CAPACITY as _, 0) }, 0);
            fs::read_to_string(&size).unwrap().trim() == "0"
        });
        assert!(is_gone, "{}", self.name());
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // The kernel keeps a lock for whoever gets this number next.
        let _ = Process::new("blockdev").arg("--setrw").arg(&self.node).output();
        let _ = Process::new("losetup").arg("-d").arg(&self.node).output();
    }
}

/// A disk of `bytes` with a table in sfdisk's words.
pub fn disk(file: &Path, bytes: u64, table: &str) -> LoopDisk {
    File::create(file).unwrap().set_len(bytes).unwrap();
    if !table.is_empty() {
        let script = file.with_extension("table");
        fs::write(&script, table).unwrap();
        run("sh", &["-c", &format!("sfdisk -q {} < {}", file.display(), script.display())]);
    }
    LoopDisk::attach(file)
}
