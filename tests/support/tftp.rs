//! A TFTP server of ours over a boot tree made up here, its events, and a
//! scripted client that sends and expects single datagrams.
//!
//! On loopback every 127.x.y.z is ours, so that each client has an address of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rootstock::client::{Role, Serial};
use rootstock::directory::{Directory, Export, HandleKey, Published, Served, Tree};
use rootstock::tftp::{self, Event, Options, Server, Sink};

pub const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
pub const PI: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// A second client with a tree of its own, whose serial is unknown.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
pub const SERIAL: Serial = Serial(0x9ffe_fdef);
pub const WORDS: &str = "root=/dev/nfs nfsroot=192.168.77.1:/clients/pi-1/root,vers=3,tcp rw ip=dhcp rootwait";

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long a test waits for what must not come.
pub const QUIET: Duration = Duration::from_millis(300);

/// Bytes that differ from block to block.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// A boot tree with the names of Raspberry Pi OS.
pub fn boot_tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(tree.path().join(name), bytes).unwrap();
    write("config.txt", b"[all]\narm_64bit=1\nauto_initramfs=1\n");
    write("cmdline.txt", b"console=serial0,115200 console=tty1 root=PARTUUID=1-02 rootfstype=ext4 rootwait resize\n");
    write("start4.elf", &pattern(100_000));
    write("kernel8.img", &pattern(3_000_001));
    write("empty", b"");
    fs::create_dir(tree.path().join("overlays")).unwrap();
    write("overlays/README", b"read me\n");
    tree
}

pub fn served(address: Ipv4Addr, serial: Option<Serial>, boot: &Path) -> Served {
    let export = |id, tree, directory: &Path| Export {
        account: None,
        id,
        path: format!("/clients/{address}/{tree:?}"),
        directory: directory.to_owned(),
        tree,
        read_only: false,
    };
    Served {
        role: Role::numbered(u32::from(address) & 0xff),
        address,
        serial,
        root: export(2, Tree::Root, boot),
        boot: export(3, Tree::Boot, boot),
        volume: None,
        kernel_words: WORDS.to_owned(),
    }
}

/// The directory of `PI` and `OTHER`, both on one tree.
pub fn directory(boot: &Path) -> Arc<Published<Directory>> {
    directory_of(vec![served(PI, Some(SERIAL), boot), served(OTHER, None, boot)])
}

pub fn directory_of(clients: Vec<Served>) -> Arc<Published<Directory>> {
    Arc::new(Published::new(Directory { clients, handle_key: HandleKey::default(), ..Directory::default() }))
}

/// A sink, and what went into it.
pub fn events() -> (Sink, Receiver<Event>) {
    let (sender, receiver): (Sender<Event>, _) = channel();
    let sender = Mutex::new(sender);
    // A test that has ended hears nothing any more.
    (Arc::new(move |event| drop(sender.lock().unwrap().send(event))), receiver)
}

pub struct Running {
    pub server: Server,
    pub events: Receiver<Event>,
    pub directory: Arc<Published<Directory>>,
    pub tree: tempfile::TempDir,
}

pub fn run() -> Running {
    let tree = boot_tree();
    let directory = directory(tree.path());
    let (sink, events) = events();
    let options = Options { listen: SERVER, port: 0 };
    let server = tftp::start(options, directory.clone(), sink).unwrap();
    Running { server, events, directory, tree }
}

impl Running {
    pub fn client(&self, address: Ipv4Addr) -> Client {
        Client::new(address, self.server.address())
    }

    pub fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    /// The next event that is not of this kind.
    pub fn event_but_started(&self) -> Event {
        loop {
            match self.event() {
                Event::Started { .. } => {}
                event => return event,
            }
        }
    }
}

/// A client on one port.
pub struct Client {
    pub socket: UdpSocket,
    server: SocketAddr,
    /// Where the last datagram came from: the server's TID.
    pub tid: SocketAddr,
}

impl Client {
    pub fn new(address: Ipv4Addr, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        Self { socket, server, tid: server }
    }

    pub fn request(&self, path: &str, options: &[(&str, &str)]) {
        self.request_bytes(&rrq(path.as_bytes(), "octet", options));
    }

    pub fn request_bytes(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.server).unwrap();
    }

    pub fn ack(&self, block: u16) {
        let [high, low] = block.to_be_bytes();
        self.socket.send_to(&[0, 4, high, low], self.tid).unwrap();
    }

    pub fn terminate(&self) {
        self.socket.send_to(b"\0\x05\0\0Early terminate\0", self.tid).unwrap();
    }

    pub fn receive_within(&mut self, patience: Duration) -> Option<Vec<u8>> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut datagram = vec![0; 2000];
        let (length, from) = self.socket.recv_from(&mut datagram).ok()?;
        datagram.truncate(length);
        self.tid = from;
        Some(datagram)
    }

    pub fn receive(&mut self) -> Vec<u8> {
        self.receive_within(PATIENCE).expect("a datagram")
    }

    /// The next datagram, made readable.
    pub fn expect(&mut self, datagram: &[u8]) {
        let received = self.receive();
        assert_eq!(received.escape_ascii().to_string(), datagram.escape_ascii().to_string());
    }

    pub fn expect_nothing(&mut self) {
        let received = self.receive_within(QUIET);
        assert_eq!(received.map(|datagram| datagram.escape_ascii().to_string()), None);
    }

    /// A whole file, block by block, each checked for its number.
    pub fn get(&mut self, path: &str, options: &[(&str, &str)], blksize: usize) -> Vec<u8> {
        self.request(path, options);
        if !options.is_empty() {
            let oack = self.receive();
            assert!(oack.starts_with(b"\0\x06"), "{}", oack.escape_ascii());
            self.ack(0);
        }
        let mut content = Vec::new();
        for block in 1_u64.. {
            let data = self.receive();
            let number = (block & 0xffff) as u16;
            assert_eq!(data[..4], [0, 3, number.to_be_bytes()[0], number.to_be_bytes()[1]], "{path} block {block}");
            content.extend(&data[4..]);
            self.ack(number);
            if data.len() < 4 + blksize {
                break;
            }
        }
        content
    }
}

pub fn rrq(path: &[u8], mode: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut datagram = [b"\0\x01", path, b"\0", mode.as_bytes(), b"\0"].concat();
    for (name, value) in options {
        datagram.extend(format!("{name}\0{value}\0").bytes());
    }
    datagram
}
