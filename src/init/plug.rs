//! The helper `rootstock plug`: loads the modules that devices ask for, those
//! that are there at the start (coldplug) and those that come later (hot-plug).
//! I/O; what an event says is `uevent.rs`, what it needs is `modules.rs`.
//!
//! A process of its own, not PID 1's: it reads megabytes of text and whatever a
//! plugged-in device says about itself, and finit_module may sit for seconds in
//! a driver's probe. If it dies it is started again, and its first walk over
//! `/sys/devices` finds what was missed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::loader::{self, Loader};
use super::log::say;
use super::uevent::{self, Uevent};

/// Modules that no device asks for.
pub const LIST: &str = "/etc/rootstock/modules";
/// Deepest directory below `/sys/devices` that is looked into; a stick behind three hubs is at 16.
const MAX_DEPTH: usize = 32;
/// Most devices that one walk takes; a Pi has about 300.
const MAX_DEVICES: usize = 20_000;
/// A loaded bus driver brings devices, whose drivers bring devices: USB host, hub, network card is three.
const MAX_WALKS: usize = 8;
/// Room for events while a module is loading, so that none is lost.
const SOCKET_BYTES: libc::c_int = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen for device events")]
    Listen(#[source] io::Error),
    #[error("cannot receive device events")]
    Receive(#[source] io::Error),
}

/// Loads for ever. Comes back only when the event socket fails.
pub fn run() -> Result<std::convert::Infallible, Error> {
    // Listening starts before the first walk: a device that comes in between is seen twice rather than never.
    let socket = listen().map_err(Error::Listen)?;
    let mut loader = match Loader::open(&loader::modules_dir()) {
        Ok(loader) => loader,
        Err(error) => {
            // A kernel with everything built in. Another try would change nothing.
            say!("plug", "no modules are loaded: {}", super::chain(&error));
            loop {
                receive(&socket, |_| {})?;
            }
        }
    };
    let devices = Path::new("/sys/devices");
    say!("plug", "coldplug starts, {} modules in the image", loader.available());
    // What guards the start and what `serve` waits for: twice, since a bus brings the disk.
    let mut loaded: usize = (0..2).map(|_| walk_once(&mut loader, devices, URGENT)).sum();
    say!("plug", "watchdog and card done, {loaded} modules loaded");
    // A stick takes a second or two to be found by itself: meanwhile the network is set up.
    loaded += walk_once(&mut loader, devices, USB);
    // A PHY's driver must be there before the network card's, which takes the generic one otherwise.
    let (network, others): (Vec<String>, Vec<String>) = loader::read_list(Path::new(LIST))
        .unwrap_or_else(|error| {
            say!("plug", "cannot read {LIST}: {error}");
            Vec::new()
        })
        .into_iter()
        .partition(|name| loader.path_of(name).is_some_and(|path| rank(&path) <= NETWORK));
    loaded += network.iter().map(|name| loader.load(name)).sum::<usize>();
    loaded += settle(&mut loader, devices);
    say!("plug", "devices done, {loaded} modules loaded");
    loaded += others.iter().map(|name| loader.load(name)).sum::<usize>();
    loaded += settle(&mut loader, devices);
    say!("plug", "coldplug done, {loaded} modules loaded");
    loop {
        let lost = receive(&socket, |event| {
            if let ("add" | "change", Some(modalias)) = (event.action, event.modalias) {
                load_for(&mut loader, event.devpath, modalias);
            }
        })?;
        if lost {
            say!("plug", "device events were lost, so all devices are looked at again");
            settle(&mut loader, devices);
        }
    }
}

fn load_for(loader: &mut Loader, devpath: &str, modalias: &str) {
    for (name, _) in loader.wanted(modalias) {
        if loader.load(&name) > 0 {
            say!("plug", "{name} loaded for {devpath}");
        }
    }
}

/// Walks until a walk brings nothing new.
fn settle(loader: &mut Loader, devices: &Path) -> usize {
    let mut total = 0;
    for _ in 0..MAX_WALKS {
        let new = walk_once(loader, devices, usize::MAX);
        total += new;
        if new == 0 {
            break;
        }
    }
    total
}

/// Loads what the devices of this moment ask for up to a rank, the urgent ones first.
fn walk_once(loader: &mut Loader, devices: &Path, up_to: usize) -> usize {
    let aliases = modaliases(devices);
    let mut wanted: Vec<(String, PathBuf)> = aliases.iter().flat_map(|alias| loader.wanted(alias)).collect();
    wanted.sort_by(|a, b| (rank(&a.1), &a.0).cmp(&(rank(&b.1), &b.0)));
    wanted.dedup();
    wanted.retain(|(_, path)| rank(path) <= up_to);
    wanted.iter().map(|(name, _)| loader.load(name)).sum()
}

/// What comes first, by the directory below `drivers/`: the watchdog guards the rest of the start, the SD card
/// (a virtio disk in an emulated machine) holds the configuration that `serve` waits for, then comes what leads to
/// the stick, then to the network.
const RANKS: [&str; 7] = ["watchdog", "mmc", "virtio", "block", "usb", "net", "pci"];
const URGENT: usize = 3;
const USB: usize = 4;
const NETWORK: usize = 5;

fn rank(path: &Path) -> usize {
    let mut parts = path.components().map(|part| part.as_os_str());
    let class = parts.by_ref().skip_while(|part| *part != "drivers").nth(1);
    RANKS.iter().position(|known| class.is_some_and(|class| class == *known)).unwrap_or(RANKS.len())
}

/// What every device below `dir` says it is, each once.
fn modaliases(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![(dir.to_owned(), 0)];
    while let Some((dir, depth)) = open.pop() {
        if found.len() >= MAX_DEVICES {
            say!("plug", "more than {MAX_DEVICES} devices, the rest is left out");
            break;
        }
        // A device that goes away in the middle is no error.
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir && depth < MAX_DEPTH {
                open.push((entry.path(), depth + 1));
            } else if entry.file_name() == "modalias"
                && let Ok(alias) = fs::read_to_string(entry.path())
                && !alias.trim().is_empty()
            {
                found.push(alias.trim().to_owned());
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn listen() -> io::Result<OwnedFd> {
    // SAFETY: plain socket calls; the descriptor is owned at once, and the address is initialized and has its size.
    unsafe {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        let fd = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let room = SOCKET_BYTES;
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const room).cast(),
            size_of_val(&room) as u32,
        );
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as u16;
        // Group 1 is the kernel's; udev sends its own on group 2.
        address.nl_groups = 1;
        if libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }
}

/// Waits for one event of the kernel. Returns whether events were lost.
fn receive(socket: &OwnedFd, mut take: impl FnMut(Uevent<'_>)) -> Result<bool, Error> {
    let mut buffer = [0_u8; uevent::MAX_BYTES];
    // SAFETY: an all-zero address is a valid one.
    let mut sender: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    let mut sender_bytes = size_of_val(&sender) as u32;
    // SAFETY: both buffers are valid for the lengths given with them.
    let received = unsafe {
        let address = (&raw mut sender).cast();
        libc::recvfrom(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0, address, &raw mut sender_bytes)
    };
    match usize::try_from(received) {
        Ok(length) => {
            // Any process may send to the group; only the kernel is process 0.
            if sender.nl_pid == 0
                && let Some(event) = buffer.get(..length).and_then(uevent::parse)
            {
                take(event);
            }
            Ok(false)
        }
        Err(_) => {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOBUFS) => Ok(true),
                Some(libc::EINTR) => Ok(false),
                _ => Err(Error::Receive(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_asked_what_it_is() {
        let sys = tempfile::tempdir().unwrap();
        let device = |path: &str, alias: &str| {
            fs::create_dir_all(sys.path().join(path)).unwrap();
            fs::write(sys.path().join(path).join("modalias"), alias).unwrap();
        };
        device("platform/soc/3f980000.usb", "of:NusbT(null)Cbrcm,bcm2835-usb\n");
        device("platform/soc/3f980000.usb/usb1/1-1/1-1:1.0", "usb:v0424\n");
        device("platform/soc/3f980000.usb/usb1/1-2/1-2:1.0", "usb:v0424\n");
        device("platform/empty", "\n");
        // As /sys has them: links that lead back up.
        std::os::unix::fs::symlink(sys.path(), sys.path().join("platform/subsystem")).unwrap();
        device(&"deep/".repeat(MAX_DEPTH + 1), "usb:deep");
        assert_eq!(modaliases(sys.path()), ["of:NusbT(null)Cbrcm,bcm2835-usb", "usb:v0424"]);
    }

    #[test]
    fn the_watchdog_then_the_card_then_usb_then_the_network_come_first() {
        let mut paths = [
            "kernel/fs/ext4/ext4.ko",
            "kernel/drivers/usb/dwc2/dwc2.ko",
            "kernel/drivers/net/ethernet/broadcom/genet/genet.ko",
            "kernel/drivers/mmc/host/bcm2835.ko",
            "kernel/drivers/watchdog/bcm2835_wdt.ko",
        ];
        paths.sort_by_key(|path| rank(Path::new(path)));
        let names: Vec<&str> = paths.iter().filter_map(|path| path.rsplit('/').next()).collect();
        assert_eq!(names, ["bcm2835_wdt.ko", "bcm2835.ko", "dwc2.ko", "genet.ko", "ext4.ko"]);
    }

    #[test]
    fn a_message_of_another_process_is_not_taken() {
        // Every kernel has the socket; in a network namespace of its own a test would need root.
        let socket = listen().unwrap();
        let address_of = |socket: &OwnedFd| {
            // SAFETY: an all-zero address is a valid one.
            let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
            let mut bytes = size_of_val(&address) as u32;
            // SAFETY: both pointers are valid for what the call writes.
            let result = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut bytes) };
            assert_eq!(result, 0);
            address
        };
        let sender = listen().unwrap();
        let mut to = address_of(&socket);
        to.nl_groups = 0;
        let message = b"add@/forged\0ACTION=add\0MODALIAS=forged\0";
        // SAFETY: the message and the address are valid for the lengths given.
        let sent = unsafe {
            let address = (&raw const to).cast();
            let length = size_of_val(&to) as u32;
            libc::sendto(sender.as_raw_fd(), message.as_ptr().cast(), message.len(), 0, address, length)
        };
        assert_eq!(sent, message.len() as isize, "{}", io::Error::last_os_error());
        let mut taken = Vec::new();
        receive(&socket, |event| taken.push(event.devpath.to_owned())).unwrap();
        assert!(!taken.iter().any(|path| path == "/forged"), "{taken:?}");
    }
}
