//! How fast the cable is, by the card's own word (ethtool's ETHTOOL_GSET).
//!
//! I/O: one question to the kernel; what its answer means is pure.

use std::os::fd::{AsFd, AsRawFd};

/// What a card tells of its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Speed {
    pub(super) mbit: Option<u32>,
    pub(super) half_duplex: bool,
    /// Whether the card itself can do a gigabit (a Pi 3 cannot).
    pub(super) gigabit: bool,
}

/// `struct ethtool_cmd` of linux/ethtool.h: 44 bytes.
#[repr(C)]
#[derive(Default)]
struct EthtoolCmd {
    cmd: u32,
    supported: u32,
    advertising: u32,
    speed: u16,
    duplex: u8,
    port: u8,
    phy_address: u8,
    transceiver: u8,
    autoneg: u8,
    mdio_support: u8,
    maxtxpkt: u32,
    maxrxpkt: u32,
    speed_hi: u16,
    eth_tp_mdix: u8,
    eth_tp_mdix_ctrl: u8,
    lp_advertising: u32,
    reserved: [u32; 2],
}

const GSET: u32 = 1;
const SUPPORTED_1000BASET: u32 = 1 << 4 | 1 << 5;
const DUPLEX_HALF: u8 = 0;

/// Asks through any socket. A card that cannot tell, as one of software, says nothing.
pub(super) fn speed(socket: &impl AsFd, interface: &str) -> Speed {
    let mut command = EthtoolCmd { cmd: GSET, ..EthtoolCmd::default() };
    // SAFETY: an `ifreq` of zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(15).zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut command).cast();
    // SAFETY: the kernel reads and writes the request and the command it points
    // to, which both live through the call; the command has ethtool_cmd's layout.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result == 0 { read(&command) } else { Speed::default() }
}

fn read(command: &EthtoolCmd) -> Speed {
    let mbit = u32::from(command.speed_hi) << 16 | u32::from(command.speed);
    // SPEED_UNKNOWN is all ones; 0 is what a link that is down says.
    let known = mbit != 0 && mbit != u32::MAX && mbit != u32::from(u16::MAX);
    Speed {
        mbit: known.then_some(mbit),
        half_duplex: known && command.duplex == DUPLEX_HALF,
        gigabit: command.supported & SUPPORTED_1000BASET != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_answer_is_read() {
        assert_eq!(std::mem::size_of::<EthtoolCmd>(), 44);
        let answer = |speed, speed_hi, duplex, supported| {
            read(&EthtoolCmd { speed, speed_hi, duplex, supported, ..EthtoolCmd::default() })
        };
        let pi4 = Speed { mbit: Some(100), half_duplex: false, gigabit: true };
        assert_eq!(answer(100, 0, 1, 0x2ff), pi4);
        assert_eq!(answer(10, 0, 0, 0xf), Speed { mbit: Some(10), half_duplex: true, gigabit: false });
        assert_eq!(answer(0x86a0, 1, 1, 0), Speed { mbit: Some(100_000), half_duplex: false, gigabit: false });
        for (low, high) in [(u16::MAX, u16::MAX), (u16::MAX, 0), (0, 0)] {
            assert_eq!(answer(low, high, 255, 0), Speed::default());
        }
    }

    #[test]
    fn a_card_of_software_says_what_it_can_and_nothing_fails() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for name in ["lo", "no-such-interface-at-all"] {
            assert_eq!(speed(&socket, name), Speed::default());
        }
    }
}
