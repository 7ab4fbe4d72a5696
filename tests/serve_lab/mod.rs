//! The real server in a network namespace, a switch, and virtual Pis plugged
//! into it; its panel on a pseudo terminal, its log in a file.
//!
//! The server shares the mount namespace of the test's thread, so what it
//! mounts is seen here and outlives its `kill -9`, as on the appliance.

#[allow(dead_code)] // not every test makes one
pub mod storm;

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::rpc::{auth_unix, opaque_auth};
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use nfs3_client::tokio::{TokioConnector, TokioIo};
use nfs3_client::{Nfs3Connection, Nfs3ConnectionBuilder};
use rustix::process::{Pid, Signal, kill_process};

use crate::store_support::{Bench, make_image_of, pi_root};
use crate::support::netns::{Child, Netns};
use crate::support::panel_tty::PanelTty;
use crate::support::terminal::Terminal;
use crate::support::tftp::pattern;
use crate::support::virtual_pi::{Board, Fetched, VirtualPi};

pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// Only how long a failing test takes: nothing waits for it otherwise.
pub const PATIENCE: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(10);

pub type Mounted = Nfs3Connection<TokioIo<tokio::net::TcpStream>>;

/// What the image's boot partition holds, for every model; under 3 MiB.
pub fn boot_files() -> Vec<(&'static str, Vec<u8>)> {
    let texts = [
        ("config.txt", "arm_64bit=1\nauto_initramfs=1\ndtoverlay=vc4-kms-v3d\n[pi5]\nkernel=kernel_2712.img\n"),
        ("cmdline.txt", "console=serial0,115200 console=tty1 root=PARTUUID=a-02 rootfstype=ext4 rootwait\n"),
    ];
    let sizes = [
        ("bootcode.bin", 52_480),
        ("start.elf", 200_000),
        ("fixup.dat", 7_000),
        ("start4.elf", 225_280),
        ("fixup4.dat", 5_120),
        ("kernel8.img", 524_288),
        ("kernel_2712.img", 500_001),
        ("initramfs8", 400_003),
        ("initramfs_2712", 400_004),
        ("bcm2710-rpi-3-b.dtb", 34_000),
        ("bcm2711-rpi-4-b.dtb", 56_000),
        ("bcm2712-rpi-5-b.dtb", 78_000),
        ("overlays/overlay_map.dtb", 5_000),
        ("overlays/vc4-kms-v3d.dtbo", 2_760),
    ];
    let texts = texts.map(|(name, text)| (name, text.as_bytes().to_vec()));
    let made = sizes.map(|(name, size)| (name, [pattern(size), name.as_bytes().to_vec()].concat()));
    texts.into_iter().chain(made).collect()
}

/// The image, made once a run.
pub fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let (boot, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(boot.path().join("overlays")).unwrap();
        for (name, content) in boot_files() {
            fs::write(boot.path().join(name), content).unwrap();
        }
        pi_root(root.path());
        let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join("serve_netns.img");
        make_image_of(&image, boot.path(), root.path());
        image
    })
}

/// Waits until `question` has an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(LOOK);
    }
}

pub struct Lab {
    serve: Option<Child>,
    server: Netns,
    switch: Arc<Netns>,
    bench: Bench,
    panel: PanelTty,
    /// The words of every screen so far.
    told: Arc<Mutex<Vec<String>>>,
    tty: PathBuf,
    /// Sticks that are disks, by the kernel's names; none: a folder is the stick.
    pub disks: Vec<String>,
    /// Open, so that the terminal does not hang up between two servers.
    near: OwnedFd,
}

impl Lab {
    /// A wire, an empty stick, no server yet.
    pub fn new() -> Self {
        let switch = Netns::new("switch");
        switch.bridge("br0");
        Self::on(Arc::new(switch), "port-s", [0xb8, 0x27, 0xeb, 0, 0, 1])
    }

    /// Another one on the same switch.
    #[allow(dead_code)] // not every test has two
    pub fn beside(other: &Self, port: &str, mac: [u8; 6]) -> Self {
        Self::on(other.switch.clone(), port, mac)
    }

    fn on(switch: Arc<Netns>, port: &str, mac: [u8; 6]) -> Self {
        let bench = Bench::new();
        let server = Netns::new("serve");
        switch.plug("br0", port, &server, "eth0", mac);
        let Terminal { far, near, path: tty } = Terminal::open().unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let each = told.clone();
        let panel =
            PanelTty::on(far.try_clone().unwrap(), far, move |shown| each.lock().unwrap().push(shown.words.clone()));
        bench.store();
        Self { serve: None, server, switch, bench, panel, told, tty, disks: Vec::new(), near }
    }

    /// A running server whose stick holds one image, imported.
    pub fn ready() -> Self {
        let mut lab = Self::new();
        lab.put_image();
        lab.start();
        lab.logged("imported", 0);
        lab.screen("Ready");
        lab
    }

    pub fn put_image(&self) {
        fs::copy(image(), self.stick("raspios.img")).unwrap();
    }

    /// A path on the stick.
    pub fn stick(&self, name: &str) -> PathBuf {
        self.bench.store().join(name)
    }

    pub fn run_folder(&self) -> PathBuf {
        self.bench.path("run")
    }

    pub fn config(&self) -> PathBuf {
        self.bench.path("rootstock.toml")
    }

    /// Starts the server and waits for nothing.
    pub fn start(&mut self) {
        let command = self.command(Command::new(env!("CARGO_BIN_EXE_rootstock")));
        self.spawn(command);
    }

    /// Starts it as a person does who goes away.
    pub fn start_under_nohup(&mut self) {
        let mut command = Command::new("nohup");
        command.arg(env!("CARGO_BIN_EXE_rootstock"));
        let command = self.command(command);
        self.spawn(command);
    }

    /// Starts it with this as its standard error, so that `log` has nothing of it.
    #[allow(dead_code)] // as above
    pub fn start_logging_to(&mut self, log: impl Into<Stdio>) {
        let mut command = self.command(Command::new(env!("CARGO_BIN_EXE_rootstock")));
        command.stderr(log);
        self.serve = Some(Child(self.server.run(|| command.spawn()).unwrap()));
    }

    fn spawn(&mut self, mut command: Command) {
        assert!(self.serve.is_none());
        let log = OpenOptions::new().append(true).create(true).open(self.bench.path("log")).unwrap();
        command.stderr(log);
        self.serve = Some(Child(self.server.run(|| command.spawn()).unwrap()));
    }

    /// Another one with the same arguments, to its end.
    pub fn second(&self) -> Output {
        let mut command = self.command(Command::new(env!("CARGO_BIN_EXE_rootstock")));
        self.server.run(move || command.output()).unwrap()
    }

    fn command(&self, mut command: Command) -> Command {
        let config = Some(("--config", self.config())).filter(|(_, file)| file.exists());
        let arguments = [("--run", self.run_folder()), ("--panel", self.tty.clone())];
        let folder = Some(("--stick", self.bench.store())).filter(|_| self.disks.is_empty());
        let disks = self.disks.iter().map(|name| ("--disk", PathBuf::from(name)));
        let sticks: Vec<(&str, PathBuf)> = folder.into_iter().chain(disks).collect();
        // Named, or a wire of software would wait for hardware to appear.
        command.args(["serve", "--interface", "eth0"]).args(
            arguments
                .iter()
                .chain(&config)
                .chain(&sticks)
                .flat_map(|(name, value)| [OsStr::new(*name), value.as_os_str()]),
        );
        command
    }

    /// Takes its cable out.
    #[allow(dead_code)] // as above
    pub fn unplug(&self) {
        self.server.ip("link set eth0 down");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.serve.as_ref().expect("a server runs").0)
    }

    /// As power that fails, for the process.
    pub fn kill(&mut self) {
        drop(self.serve.take().expect("a server runs"));
    }

    pub fn end_by(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.ended()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn runs(&mut self) -> bool {
        self.serve.as_mut().is_some_and(|serve| serve.0.try_wait().unwrap().is_none())
    }

    /// Waits for the server's own end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let mut serve = self.serve.take().expect("a server runs");
        eventually("the server's end", || serve.0.try_wait().unwrap())
    }

    /// A field of the server's memory: `VmRSS`, what is resident; `VmHWM`, the most that was since it started (proc(5)).
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// What is mounted below the server's folder.
    pub fn mounts(&self) -> Vec<String> {
        let run = format!("{}/", self.run_folder().display());
        // Of this thread: another one of this process has another view.
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        points.filter(|point| point.starts_with(&run)).map(str::to_owned).collect()
    }

    /// Files of this lab that loop devices hold.
    pub fn loops(&self) -> Vec<String> {
        let folder = self.bench.folder.path().display().to_string();
        let devices = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
        let files = devices.filter_map(|device| fs::read_to_string(device.join("loop/backing_file")).ok());
        files.filter(|file| file.starts_with(&folder)).collect()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.bench.path("log")).unwrap_or_default()
    }

    /// The first line of the log behind `from` that has this text, and its end.
    #[track_caller]
    pub fn logged(&self, text: &str, from: usize) -> (String, usize) {
        let start = Instant::now();
        loop {
            let log = self.log();
            let found = log[from..].lines().find(|line| line.contains(text));
            if let Some(line) = found {
                let end = line.as_ptr() as usize - log.as_ptr() as usize + line.len();
                return (line.to_owned(), end);
            }
            assert!(start.elapsed() < PATIENCE, "no {text:?} in the log:\n{log}");
            thread::sleep(LOOK);
        }
    }

    pub fn press(&mut self, key: char) {
        self.panel.press(key).unwrap();
    }

    /// The same without the kernel's worker thread that brings a terminal its bytes (TIOCSTI, ioctl_tty(2)): no
    /// button waits for that one, and it waits like any other where there is more to do than there are cores.
    #[allow(dead_code)] // one test measures it
    pub fn press_at_once(&self, key: u8) {
        // SAFETY: the terminal is open, and the byte lives through the call.
        let result = unsafe { libc::ioctl(self.near.as_raw_fd(), libc::TIOCSTI, &raw const key) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Turns to the first client's page, past that of the overview where this is about something else.
    #[allow(dead_code)] // one test turns there
    pub fn turn_to_client(&mut self) {
        self.press('n');
        thread::sleep(Duration::from_millis(500));
        if self.told.lock().unwrap().last().is_some_and(|screen| screen.contains("Ready")) {
            self.press('n');
        }
    }

    /// Waits until the panel shows it.
    #[track_caller]
    pub fn screen(&self, words: &str) {
        if let Err(error) = self.panel.wait_for(words, PATIENCE) {
            panic!("{error}\n{}", self.log());
        }
    }

    /// Waits until a screen has told it at some time, whatever its lines.
    #[track_caller]
    pub fn told(&self, words: &str) {
        let start = Instant::now();
        loop {
            let told: Vec<String> = self.told.lock().unwrap().iter().map(|words| words.replace(" | ", " ")).collect();
            if told.iter().any(|screen| screen.contains(words)) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "no {words:?} on the panel: {told:#?}\n{}", self.log());
            thread::sleep(LOOK);
        }
    }

    pub fn open_window(&mut self) {
        self.press('e');
        self.screen("Waiting for a Pi");
    }

    /// A board on the switch, without power.
    pub fn plug(&self, board: Board, number: u8) -> Pi {
        let board = VirtualPi::new(board, number, "eth0");
        Pi { netns: self.station(&format!("port{number}"), board.mac), board }
    }

    /// A namespace on the switch whose card has this MAC.
    pub fn station(&self, port: &str, mac: [u8; 6]) -> Netns {
        let netns = Netns::new("pi");
        self.switch.plug("br0", port, &netns, "eth0", mac);
        netns
    }

    /// A board, enrolled by a press, with its address on its interface: as
    /// when its kernel runs.
    #[track_caller]
    pub fn enrolled(&mut self, board: Board, number: u8) -> (Pi, Ipv4Addr) {
        let pi = self.plug(board, number);
        self.open_window();
        let address = self.boots(&pi).address;
        pi.netns.ip(&format!("address add {address}/24 dev eth0"));
        (pi, address)
    }

    /// Powers it on; all its files must be the image's.
    #[track_caller]
    pub fn boots(&self, pi: &Pi) -> Fetched {
        let fetched = pi.netns.run(|| pi.board.boot(PATIENCE));
        let fetched = fetched.unwrap_or_else(|failure| panic!("{failure}\n{}", self.log()));
        check_files(&fetched);
        fetched
    }
}

/// Every fetched file is the image's, byte for byte; `cmdline.txt` has our words.
#[track_caller]
pub fn check_files(fetched: &Fetched) {
    let image = boot_files();
    assert!(fetched.files.len() >= 7, "{:?}", fetched.files.keys());
    assert!(fetched.kernel().is_some() && fetched.initramfs().is_some(), "{:?}", fetched.files.keys());
    for (name, content) in fetched.files.iter().filter(|(name, _)| *name != "cmdline.txt") {
        let expected =
            image.iter().find(|(file, _)| file == name).unwrap_or_else(|| panic!("{name} is not the image's"));
        assert!(expected.1 == *content, "{name}: {} bytes, the image's has {}", content.len(), expected.1.len());
    }
    let line = fetched.command_line("ttyAMA0");
    let words = ["console=tty1", "root=/dev/nfs", "rw", "ip=dhcp", "rootwait"];
    assert!(words.iter().all(|word| line.split(' ').any(|found| found == *word)), "{line}");
    assert!(line.contains(" nfsroot=192.168.77.1:/clients/pi-") && !line.contains("PARTUUID"), "{line}");
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.serve = None;
        // The deepest first; lazily, since nothing of it is needed any more.
        for point in self.mounts().iter().rev() {
            let _ = rustix::mount::unmount(point.as_str(), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A board on the switch.
pub struct Pi {
    pub netns: Netns,
    pub board: VirtualPi,
}

impl Pi {
    /// Runs async code in the board's namespace.
    pub fn net<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.netns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work())
        })
    }
}

/// Mounts by portmap and MNT with a client of others, as root, from reserved ports.
pub async fn mount(path: &str) -> Result<Mounted, String> {
    let root = auth_unix { stamp: 0, machinename: Opaque::borrowed(b"pi"), uid: 0, gid: 0, gids: Vec::new() };
    let builder = Nfs3ConnectionBuilder::new(TokioConnector, SERVER.to_string(), path);
    let mounting = builder.credential(opaque_auth::auth_unix(&root)).mount();
    let limited = tokio::time::timeout(PATIENCE, mounting).await.map_err(|_| "no answer".to_owned())?;
    limited.map_err(|error| format!("{error:?}"))
}

/// Makes a file in the root folder and writes it.
pub async fn write_file(client: &mut Mounted, name: &str, text: &[u8]) -> nfs_fh3 {
    let where_ = diropargs3 { dir: client.root_nfs_fh3(), name: filename3(Opaque::borrowed(name.as_bytes())) };
    let mode = sattr3 { mode: set_mode3::Some(0o640), ..sattr3::default() };
    let made = client.create(&CREATE3args { where_, how: createhow3::GUARDED(mode) }).await.unwrap().unwrap();
    let post_op_fh3::Some(file) = made.obj else { panic!("no handle") };
    write(client, &file, 0, text).await;
    client.commit(&COMMIT3args { file: file.clone(), offset: 0, count: 0 }).await.unwrap().unwrap();
    file
}

/// Not stable before a COMMIT.
pub async fn write(client: &mut Mounted, file: &nfs_fh3, offset: u64, bytes: &[u8]) {
    let (count, data) = (bytes.len() as u32, Opaque::borrowed(bytes));
    let args = WRITE3args { file: file.clone(), offset, count, stable: stable_how::UNSTABLE, data };
    client.write(&args).await.unwrap().unwrap();
}

/// A connection from a reserved port of the calling thread's namespace.
pub fn connect_reserved(port: u16) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    for from in (600..1024).rev() {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        match bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, from)) {
            Err(rustix::io::Errno::ADDRINUSE) => continue,
            other => other?,
        }
        connect(&socket, &SocketAddrV4::new(SERVER, port))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        return Ok(stream);
    }
    Err(std::io::ErrorKind::AddrInUse.into())
}
