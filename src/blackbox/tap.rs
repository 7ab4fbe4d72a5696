//! Where the shells and the log put what they see. One for the process, as the
//! log is: without [`install`] nothing is kept, and calls cost nothing.
//!
//! I/O. Never blocks for longer than a write to a tmpfs, never fails.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::record::{MAX_PACKET_BYTES, Record, Seen};
use super::ring::{Left, Ring};
use crate::client::MacAddr;

/// Packets kept of one second; a flood is counted and not kept, or it would wash
/// out what it drowned. 64 Pis that boot at once cause some 500.
pub const MAX_A_SECOND: u32 = 1000;

struct Tap {
    ring: Ring,
    second: u64,
    packets: u32,
    left_out: u32,
}

static TAP: OnceLock<Mutex<Tap>> = OnceLock::new();
/// As a number; 0 is none.
static OURS: AtomicU32 = AtomicU32::new(0);

/// The appliance's own address: where what came was sent to, for servers that listen on the wildcard address.
pub fn ours() -> Ipv4Addr {
    OURS.load(Ordering::Relaxed).into()
}

/// The appliance's own address from now on; another DHCP server may give it another one.
pub fn readdress(ours: Ipv4Addr) {
    OURS.store(ours.into(), Ordering::Relaxed);
}

/// Keeps what is seen from now on in this folder.
pub fn install(folder: &Path) -> io::Result<Left> {
    let (ring, left) = Ring::open(folder)?;
    // A second one in the same process would be a mistake, and keeps the first.
    let _ = TAP.set(Mutex::new(Tap { ring, second: 0, packets: 0, left_out: 0 }));
    Ok(left)
}

/// All that is held, oldest first.
pub fn records() -> Vec<Record> {
    TAP.get().map(|tap| tap.lock().unwrap_or_else(PoisonError::into_inner).ring.records()).unwrap_or_default()
}

/// Whether anything is kept: what is costly to make need not be made otherwise.
pub fn is_on() -> bool {
    TAP.get().is_some()
}

/// A datagram, or the head of a record over TCP, of `length` bytes.
pub fn datagram(tcp: bool, from: SocketAddrV4, to: SocketAddrV4, length: usize, bytes: &[u8]) {
    if is_on() {
        let bytes = bytes[..bytes.len().min(MAX_PACKET_BYTES)].to_vec();
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        packet(Seen::Datagram { tcp, from, to, length, bytes });
    }
}

/// What an Ethernet frame carries.
pub fn frame(from: MacAddr, to: MacAddr, ethertype: u16, bytes: &[u8]) {
    if is_on() {
        let bytes = bytes[..bytes.len().min(MAX_PACKET_BYTES)].to_vec();
        packet(Seen::Frame { from, to, ethertype, bytes });
    }
}

/// How far a client is.
pub fn stage(mac: MacAddr, address: Ipv4Addr, role: &str, stage: &str) {
    add(Seen::Stage { mac, address, role: role.to_owned(), stage: stage.to_owned() });
}

/// A line that does not pass through the log, such as a panic's last words. Left out while
/// somebody is at the ring: who panics there must not wait for himself.
pub fn last_words(line: &str) {
    if let Some(Ok(mut tap)) = TAP.get().map(Mutex::try_lock) {
        let _ = tap.ring.add(&Record { at: now(), seen: Seen::Log(line.to_owned()) });
    }
}

/// The server ends in order: nothing is to be told of it.
pub fn end() {
    add(Seen::End);
}

fn packet(seen: Seen) {
    let Some(tap) = TAP.get() else { return };
    let at = now();
    let mut tap = tap.lock().unwrap_or_else(PoisonError::into_inner);
    if at / 1_000_000_000 != tap.second {
        if tap.left_out > 0 {
            let line = format!("{} packets were left out of the black box", tap.left_out);
            let _ = tap.ring.add(&Record { at, seen: Seen::Log(line) });
        }
        (tap.second, tap.packets, tap.left_out) = (at / 1_000_000_000, 0, 0);
    }
    if tap.packets >= MAX_A_SECOND {
        tap.left_out += 1;
        return;
    }
    tap.packets += 1;
    // A full tmpfs costs the black box, nothing else.
    let _ = tap.ring.add(&Record { at, seen });
}

fn add(seen: Seen) {
    if let Some(tap) = TAP.get() {
        let _ = tap.lock().unwrap_or_else(PoisonError::into_inner).ring.add(&Record { at: now(), seen });
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A line of the log.
pub fn log_line(line: &[u8]) {
    if is_on() {
        add(Seen::Log(String::from_utf8_lossy(line).trim_end().to_owned()));
    }
}
