//! The wired port: its driver and its link.
//!
//! I/O, by /sys/class/net.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::board::read;
use crate::bench::{Bench, Part};
use crate::verdict::{Outcome, Trouble, failed, not_proven};

/// Drivers of the boards' own ports, and what each can carry, in Mbit/s.
const PORTS: [(&str, u32); 4] = [("smsc95xx", 100), ("lan78xx", 1000), ("bcmgenet", 1000), ("macb", 1000)];
/// A Pi's PHY takes some 3 s to agree with a switch.
const CARRIER: Duration = Duration::from_secs(10);

struct Port {
    folder: PathBuf,
    name: String,
    driver: String,
}

pub fn port(bench: &Bench) -> Outcome {
    let port = find(bench)?;
    let told = format!("{} by {}", port.name, port.driver);
    match PORTS.iter().any(|(driver, _)| *driver == port.driver) {
        true => Ok(told),
        false if bench.board.emulated.is_some() => not_proven(format!("emulated: {told}")),
        false => failed(format!("{told}, which is no Pi's own port")),
    }
}

pub fn link(bench: &Bench) -> Outcome {
    let port = find(bench)?;
    let able = PORTS.iter().find(|(driver, _)| *driver == port.driver).map(|(_, speed)| *speed);
    // On the card nobody else does. An address is not needed, and what was up stays as it is.
    if let Err(error) = set_up(&port.name) {
        return failed(format!("setting {} up: {error}", port.name));
    }
    // Reading fails while the interface is down.
    let carrier = || fs::read_to_string(port.folder.join("carrier")).is_ok_and(|text| text.trim() == "1");
    let start = Instant::now();
    while !carrier() {
        if start.elapsed() > CARRIER {
            return bench.absent(
                Part::Cable,
                format!("{} has no link: no cable, or nothing alive at its other end", port.name),
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let Ok(speed) = read(port.folder.join("speed"))?.parse::<i64>() else { return failed("the driver tells no speed") };
    let duplex = read(port.folder.join("duplex"))?;
    let told = format!("{speed} Mbit/s, {duplex} duplex");
    match able {
        None => not_proven(format!("another card: {told}")),
        Some(able) if speed < i64::from(able) || duplex != "full" => {
            failed(format!("{told}; the board can do {able}: another cable or port of the switch?"))
        }
        Some(_) => Ok(told),
    }
}

fn set_up(name: &str) -> std::io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all-zero is a valid ifreq; its name is ended by the zeros after at most 15 bytes.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    // SAFETY: the request reads the name and writes the flags of an ifreq that lives longer than the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the call before has written the flags.
    request.ifr_ifru.ifru_flags = unsafe { request.ifr_ifru.ifru_flags } | libc::IFF_UP as libc::c_short;
    // SAFETY: the request reads an ifreq that lives longer than the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The settings' interface, else the first that has hardware and a cable's plug.
fn find(bench: &Bench) -> Result<Port, Trouble> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .take(64)
        .collect();
    names.sort();
    let wanted = bench.config.network.interface.as_deref();
    let port = names.into_iter().find_map(|name| {
        let folder = PathBuf::from("/sys/class/net").join(&name);
        let driver = fs::read_link(folder.join("device/driver")).ok()?;
        let driver = driver.file_name()?.to_str()?.to_owned();
        let wireless = folder.join("phy80211").exists() || folder.join("wireless").exists();
        let is_it = wanted.map_or(!wireless, |wanted| wanted == name);
        is_it.then_some(Port { folder, name, driver })
    });
    port.map_or_else(|| bench.absent(Part::Cable, "no wired network port"), Ok)
}
