//! The helper `rootstock plug`: loads the modules that devices ask for, those
//! that are there at the start (coldplug) and those that come later (hot-plug).
//! I/O; what an event says is `uevent.rs`, what it needs is `modules.rs`.
//!
//! A process of its own, not PID 1's: it reads megabytes of text and whatever a
//! plugged-in device says about itself, and finit_module may sit for seconds in
//! a driver's probe. If it dies it is started again, and its first walk over
//! `/sys/devices` finds what was missed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::loader::{self, Loader};
use super::log::say;
use super::uevent::{self, Uevent};

/// Modules that no device asks for.
pub const LIST: &str = "/etc/rootstock/modules";
/// Deepest directory below `/sys/devices` that is looked into; a stick behind three hubs is at 16.
const MAX_DEPTH: usize = 32;
/// Most devices that one walk takes; a Pi has about 300.
const MAX_DEVICES: usize = 20_000;
/// Where the kernel shows its devices.
const DEVICES: &str = "/sys/devices";
/// And, by bus, those that a driver could be for.
const BUSES: &str = "/sys/bus";
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
                receive(&socket, 0, |_| {})?;
            }
        }
    };
    say!("plug", "coldplug starts, {} modules in the image", loader.available());
    // A PHY's driver must be there before the network card's, which takes the generic one otherwise.
    let (network, others): (Vec<String>, Vec<String>) = loader::read_list(Path::new(LIST))
        .unwrap_or_else(|error| {
            say!("plug", "cannot read {LIST}: {error}");
            Vec::new()
        })
        .into_iter()
        .partition(|name| loader.path_of(name).is_some_and(|path| rank(&path) <= NETWORK));
    let settling = loader.clone();
    std::thread::spawn(move || settling.settle());
    let mut queue = Queue::default();
    queue.add_all(&loader, on_buses(Path::new(BUSES)));
    // A hub takes a second and more to say what hangs behind it, and on a Pi 3 that is the network card: it is asked
    // first, beside the card, and what it is likely to name is there by then. File systems are no device's, and come
    // last of that. What both threads want, the kernel loads once.
    let usb = queue.take(USB);
    let named = if usb.iter().any(|name| name == HOST_OF_PI_3) { BEHIND_IT } else { &[] };
    let mut beside = loader.clone();
    let named = named.iter().map(|name| (*name).to_owned());
    let others: Vec<String> = usb.into_iter().chain(network.clone()).chain(named).chain(others).collect();
    let others = std::thread::spawn(move || {
        let loaded = others.iter().map(|name| beside.load(name)).sum::<usize>();
        (loaded, beside)
    });
    // What guards the start and what `serve` waits for.
    let mut loaded = queue.load(&mut loader, &socket, URGENT)?;
    say!("plug", "watchdog and card done, {loaded} modules loaded");
    loaded += network.iter().map(|name| loader.load(name)).sum::<usize>();
    loaded += queue.load(&mut loader, &socket, usize::MAX)?;
    // A panic there was told by its thread, and costs what it had not loaded.
    if let Ok((others, beside)) = others.join() {
        loaded += others;
        loader.know(&beside);
    }
    // What is on no bus, such as an input's class, waits for nothing and nobody for it.
    queue.add_all(&loader, modaliases(Path::new(DEVICES)));
    loaded += queue.load(&mut loader, &socket, usize::MAX)?;
    say!("plug", "coldplug done, {loaded} modules loaded");
    loop {
        queue.wait(&loader, &socket)?;
        for (name, devpath) in queue.take_all() {
            if loader.load(&name) > 0 {
                say!("plug", "{name} loaded for {devpath}");
            }
        }
    }
}

/// The modules that devices ask for and that are still to be loaded, the urgent ones first.
///
/// `/sys/bus` is read once: from then on the kernel tells of each new device, and a bus driver brings devices whose
/// drivers bring devices. (A walk over all of `/sys/devices` costs a quarter of a second and more in an emulated
/// machine, most of it for folders that are no devices: it comes when the card and the network have their drivers.)
#[derive(Debug, Default)]
struct Queue {
    /// By rank and name, with the device that asked first.
    wanted: BTreeMap<(usize, String), String>,
}

impl Queue {
    fn add(&mut self, loader: &Loader, modalias: &str, devpath: &str) {
        for (name, path) in loader.wanted(modalias) {
            self.wanted.entry((rank(&path), name)).or_insert_with(|| devpath.to_owned());
        }
    }

    /// What all devices of this moment ask for.
    fn add_all(&mut self, loader: &Loader, aliases: Vec<String>) {
        for alias in aliases {
            self.add(loader, &alias, DEVICES);
        }
    }

    /// Loads what is wanted up to a rank, and what the devices ask for that appear by it. A module that fails is not
    /// tried again until its device announces itself anew, so this ends. Returns how many modules are new.
    fn load(&mut self, loader: &mut Loader, socket: &OwnedFd, up_to: usize) -> Result<usize, Error> {
        let mut new = 0;
        loop {
            while self.receive(loader, socket, libc::MSG_DONTWAIT)? {}
            match self.wanted.pop_first() {
                Some(((rank, name), _)) if rank <= up_to => new += loader.load(&name),
                Some((key, devpath)) => {
                    self.wanted.insert(key, devpath);
                    return Ok(new);
                }
                None => return Ok(new),
            }
        }
    }

    /// Takes out what is wanted of one rank.
    fn take(&mut self, rank: usize) -> Vec<String> {
        let (of_rank, rest) = std::mem::take(&mut self.wanted).into_iter().partition(|((is, _), _)| *is == rank);
        self.wanted = rest;
        let of_rank: BTreeMap<(usize, String), String> = of_rank;
        of_rank.into_keys().map(|(_, name)| name).collect()
    }

    /// Waits for a device that asks for something.
    fn wait(&mut self, loader: &Loader, socket: &OwnedFd) -> Result<(), Error> {
        while self.wanted.is_empty() {
            self.receive(loader, socket, 0)?;
        }
        Ok(())
    }

    fn take_all(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.wanted).into_iter().map(|((_, name), devpath)| (name, devpath)).collect()
    }

    /// Takes one event of the kernel; false when there is none just now.
    fn receive(&mut self, loader: &Loader, socket: &OwnedFd, flags: libc::c_int) -> Result<bool, Error> {
        let received = receive(socket, flags, |event| {
            if let ("add" | "change", Some(modalias)) = (event.action, event.modalias) {
                self.add(loader, modalias, event.devpath);
            }
        })?;
        if received == Received::Lost {
            say!("plug", "device events were lost, so all devices are looked at again");
            self.add_all(loader, modaliases(Path::new(DEVICES)));
        }
        Ok(received != Received::Nothing)
    }
}

/// What comes first, by the directory below `drivers/`: the watchdog guards the rest of the start, the SD card
/// (a virtio disk in an emulated machine) holds the configuration that `serve` waits for, then comes what leads to
/// the stick, then to the network.
const RANKS: [&str; 7] = ["watchdog", "mmc", "virtio", "block", "usb", "net", "pci"];
const URGENT: usize = 3;
const USB: usize = 4;
const NETWORK: usize = 5;

/// The driver of a Pi 3's USB, and of what hangs behind it: the network cards of a 3B, a 3B+ and QEMU's, and sticks.
const HOST_OF_PI_3: &str = "dwc2";
const BEHIND_IT: &[&str] = &["smsc95xx", "lan78xx", "cdc_ether", "usb-storage", "uas", "sd_mod"];

fn rank(path: &Path) -> usize {
    let mut parts = path.components().map(|part| part.as_os_str());
    let class = parts.by_ref().skip_while(|part| *part != "drivers").nth(1);
    RANKS.iter().position(|known| class.is_some_and(|class| class == *known)).unwrap_or(RANKS.len())
}

/// What every device on a bus says it is, each once.
fn on_buses(dir: &Path) -> Vec<String> {
    let buses = fs::read_dir(dir).into_iter().flatten().flatten();
    let devices = buses.flat_map(|bus| fs::read_dir(bus.path().join("devices")).into_iter().flatten().flatten());
    let aliases =
        devices.take(MAX_DEVICES).filter_map(|device| fs::read_to_string(device.path().join("modalias")).ok());
    sorted(aliases.map(|alias| alias.trim().to_owned()).filter(|alias| !alias.is_empty()).collect())
}

fn sorted(mut aliases: Vec<String>) -> Vec<String> {
    aliases.sort();
    aliases.dedup();
    aliases
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
    sorted(found)
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

/// What came of asking the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Received {
    Event,
    /// The socket overflowed: events are missing.
    Lost,
    /// With `MSG_DONTWAIT`: none is there.
    Nothing,
}

/// Takes one event of the kernel; waits for it unless `flags` has `MSG_DONTWAIT`.
fn receive(socket: &OwnedFd, flags: libc::c_int, mut take: impl FnMut(Uevent<'_>)) -> Result<Received, Error> {
    let mut buffer = [0_u8; uevent::MAX_BYTES];
    // SAFETY: an all-zero address is a valid one.
    let mut sender: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    let mut sender_bytes = size_of_val(&sender) as u32;
    // SAFETY: both buffers are valid for the lengths given with them.
    let received = unsafe {
        let address = (&raw mut sender).cast();
        let fd = socket.as_raw_fd();
        libc::recvfrom(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags, address, &raw mut sender_bytes)
    };
    match usize::try_from(received) {
        Ok(length) => {
            // Any process may send to the group; only the kernel is process 0.
            if sender.nl_pid == 0
                && let Some(event) = buffer.get(..length).and_then(uevent::parse)
            {
                take(event);
            }
            Ok(Received::Event)
        }
        Err(_) => {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOBUFS) => Ok(Received::Lost),
                Some(libc::EAGAIN) => Ok(Received::Nothing),
                Some(libc::EINTR) => Ok(Received::Event),
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
        // The same by bus, where each device is a link.
        for (bus, name, to) in [
            ("platform", "3f980000.usb", "platform/soc/3f980000.usb"),
            ("platform", "empty", "platform/empty"),
            ("usb", "1-1:1.0", "platform/soc/3f980000.usb/usb1/1-1/1-1:1.0"),
            ("usb", "1-2:1.0", "platform/soc/3f980000.usb/usb1/1-2/1-2:1.0"),
            ("usb", "gone", "nowhere"),
        ] {
            let devices = sys.path().join("bus").join(bus).join("devices");
            fs::create_dir_all(&devices).unwrap();
            std::os::unix::fs::symlink(sys.path().join(to), devices.join(name)).unwrap();
        }
        fs::create_dir_all(sys.path().join("bus/empty")).unwrap();
        assert_eq!(on_buses(&sys.path().join("bus")), ["of:NusbT(null)Cbrcm,bcm2835-usb", "usb:v0424"]);
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
    fn what_is_wanted_up_to_a_rank_is_taken_and_the_rest_waits() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("modules.dep", "kernel/drivers/watchdog/dog.ko:\nkernel/drivers/net/card.ko:\n");
        write("modules.alias", "alias of:card card\nalias of:dog dog\n");
        let mut loader = Loader::open(dir.path()).unwrap();
        let mut queue = Queue::default();
        for alias in ["of:card", "of:dog", "of:card", "of:other"] {
            queue.add(&loader, alias, "/devices/platform");
        }
        assert_eq!(queue.wanted.len(), 2);
        assert_eq!((queue.take(USB).len(), queue.wanted.len()), (0, 2));
        assert_eq!(queue.take(NETWORK), ["card"]);
        queue.add(&loader, "of:card", "/devices/platform");
        // There are no such files: what cannot be loaded must not be tried for ever.
        assert_eq!(queue.load(&mut loader, &listen().unwrap(), URGENT).unwrap(), 0);
        assert_eq!(queue.wanted.keys().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["card"]);
        assert_eq!(queue.load(&mut loader, &listen().unwrap(), usize::MAX).unwrap(), 0);
        assert!(queue.wanted.is_empty());
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
        receive(&socket, 0, |event| taken.push(event.devpath.to_owned())).unwrap();
        assert!(!taken.iter().any(|path| path == "/forged"), "{taken:?}");
    }
}
