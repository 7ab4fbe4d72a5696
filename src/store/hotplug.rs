//! Hears from the kernel that a disk came, went or changed.
//!
//! I/O: one thread on a NETLINK_KOBJECT_UEVENT socket. It only says "look
//! again": what is there is read from sysfs, so a lost or forged event does no
//! harm, and a look every few seconds covers a kernel that told nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// How long a look is put off while events still come: a stick with three
/// partitions sends four.
const SETTLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Most events that put off one look.
const MAX_SETTLE_EVENTS: u32 = 64;
/// The look without an event; also how soon the thread sees that it should stop.
const TICK: Duration = Duration::from_millis(500);
const TICKS_PER_LOOK: u32 = 10;

/// Opens the socket; events are kept by the kernel from here on.
pub fn open() -> std::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    // Group 1 is the kernel itself; group 2 would be udev.
    bind(&socket, &SocketAddrNetlink::new(0, 1))?;
    Ok(socket)
}

/// Runs until `stop`; calls `look` after each burst of events about disks.
pub fn run(socket: Option<OwnedFd>, stop: &Arc<AtomicBool>, look: impl Fn()) {
    let mut quiet_ticks = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(socket) = &socket else {
            std::thread::sleep(TICK);
            quiet_ticks += 1;
            if quiet_ticks >= TICKS_PER_LOOK {
                quiet_ticks = 0;
                look();
            }
            continue;
        };
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        quiet_ticks += 1;
        if readable(socket, &tick) && drain(socket) {
            for _ in 0..MAX_SETTLE_EVENTS {
                if !readable(socket, &SETTLE) {
                    break;
                }
                drain(socket);
            }
            quiet_ticks = TICKS_PER_LOOK;
        }
        if quiet_ticks >= TICKS_PER_LOOK {
            quiet_ticks = 0;
            look();
        }
    }
}

fn readable(socket: &OwnedFd, timeout: &Timespec) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(timeout)).is_ok_and(|ready| ready > 0)
}

/// Takes what is there; whether any of it is about disks. An overrun counts
/// as yes.
fn drain(socket: &OwnedFd) -> bool {
    let mut disks = false;
    let mut buffer = [0; 4096];
    for _ in 0..256 {
        match recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((bytes, _)) => disks |= is_about_disks(&buffer[..bytes.min(buffer.len())]),
            Err(rustix::io::Errno::NOBUFS) => disks = true,
            Err(_) => break,
        }
    }
    disks
}

/// An event is `action@devpath`, then `KEY=value` texts, each with a NUL.
fn is_about_disks(event: &[u8]) -> bool {
    event.split(|&b| b == 0).any(|field| field == b"SUBSYSTEM=block")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_about_disks_count() {
        assert!(is_about_disks(b"add@/devices/x\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=sda\0"));
        assert!(!is_about_disks(b"add@/devices/x\0ACTION=add\0SUBSYSTEM=net\0"));
        assert!(!is_about_disks(b""));
    }
}
