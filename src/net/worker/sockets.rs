//! The packet sockets of one interface: waiting for a frame, taking it, sending one.
//!
//! I/O.

use super::*;

pub(super) fn readable(socket: PacketSocket) -> io::Result<AsyncFd<PacketSocket>> {
    // SAFETY: `PacketSocket` owns an open descriptor and neither closes nor
    // exchanges it before it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Waits for a frame. An error means that the interface is gone, which netlink tells.
pub(super) async fn comes(socket: Option<&AsyncFd<PacketSocket>>) {
    match socket {
        Some(socket) => match socket.readable().await {
            Ok(_) => {}
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

/// The next frame that has come, if any.
pub(super) fn take(socket: &AsyncFd<PacketSocket>, buffer: &mut [u8]) -> Option<(usize, MacAddr)> {
    // ENETDOWN comes once when the link goes down.
    for _ in 0..2 {
        let mut ready = socket.readable().now_or_never()?.ok()?;
        match ready.try_io(|socket| socket.get_ref().receive(buffer)) {
            Ok(Ok(received)) => return Some(received),
            Ok(Err(_)) => {}
            Err(_would_block) => return None,
        }
    }
    None
}

pub(super) fn send(chosen: &Chosen, packet: &[u8]) {
    // One of several that say the same; a link that is down is told by netlink.
    let _ = chosen.arp.get_ref().send(BROADCAST, packet);
}

/// A number that tells our question from another one's. No secret: who can
/// read the wire sees it anyway, so the clock does; `getrandom` may block here.
pub(super) fn xid(mac: MacAddr) -> u32 {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let [.., c, d, e, f] = mac.0;
    nanos.rotate_left(7) ^ u32::from_be_bytes([c, d, e, f])
}
