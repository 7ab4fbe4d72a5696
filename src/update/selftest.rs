//! Whether this system serves: asked of ourselves over the address that clients use,
//! before a system on trial is kept. I/O.
//!
//! NFS, MOUNT and portmap answer a NULL call (RFC 5531 §9). DHCP and TFTP answer nobody
//! whom they do not know, so of them only their sockets are looked for.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(3);
/// Name, TCP port, program, version (RFC 1833 §3, RFC 1813 §5.1, §2.1).
const PROGRAMS: [(&str, u16, u32, u32); 3] =
    [("portmap", 111, 100_000, 2), ("MOUNT", 20048, 100_005, 3), ("NFS", 2049, 100_003, 3)];
const SOCKETS: [(&str, u16); 2] = [("DHCP", 67), ("TFTP", 69)];
const MAX_TABLE_BYTES: u64 = 1 << 20;

/// `Err`: which service does not answer, for people.
pub fn run(address: Ipv4Addr) -> Result<(), String> {
    for (name, port, program, version) in PROGRAMS {
        null_call(address, port, program, version).map_err(|error| format!("{name} does not answer: {error}"))?;
    }
    let mut table = String::new();
    std::fs::File::open("/proc/net/udp")
        .and_then(|file| file.take(MAX_TABLE_BYTES).read_to_string(&mut table))
        .map_err(|error| format!("/proc/net/udp: {error}"))?;
    match SOCKETS.iter().find(|(_, port)| !is_bound(&table, *port)) {
        Some((name, _)) => Err(format!("{name} does not listen")),
        None => Ok(()),
    }
}

fn null_call(address: Ipv4Addr, port: u16, program: u32, version: u32) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // One fragment: xid, call, RPC 2, program, version, NULL, no credentials, no verifier.
    let words = [0x8000_0028, XID, 0, 2, program, version, 0, 0, 0, 0, 0];
    stream.write_all(&words.map(u32::to_be_bytes).concat())?;
    let mut reply = [0; 28];
    stream.read_exact(&mut reply)?;
    if is_accepted(&reply) { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

const XID: u32 = 0x5253_5430;

/// Ours, a reply, accepted, no verifier, success.
fn is_accepted(reply: &[u8; 28]) -> bool {
    let word = |at: usize| u32::from_be_bytes([reply[at], reply[at + 1], reply[at + 2], reply[at + 3]]);
    word(4) == XID && word(8) == 1 && word(12) == 0 && word(24) == 0
}

/// Whether `/proc/net/udp` (proc_net_udp(5)) has a socket on the port: `sl local_address …`, in hexadecimal.
fn is_bound(table: &str, port: u16) -> bool {
    let local =
        |line: &str| line.split_whitespace().nth(1).and_then(|word| word.split_once(':').map(|(_, p)| p.to_owned()));
    table.lines().skip(1).filter_map(local).any(|found| u16::from_str_radix(&found, 16) == Ok(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_port_is_found_in_the_kernels_table() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue\n  \
                     10: 00000000:0043 00000000:0000 07 00000000:00000000\n  11: 0101A8C0:0045 00000000:0000 07\n";
        assert!(is_bound(table, 67) && is_bound(table, 69));
        assert!(!is_bound(table, 68) && !is_bound("", 67) && !is_bound("sl\n 1: x\n", 67));
    }

    #[test]
    fn only_an_accepted_success_counts() {
        let reply = |words: [u32; 7]| -> [u8; 28] { words.map(u32::to_be_bytes).concat().try_into().unwrap() };
        assert!(is_accepted(&reply([0x8000_0018, XID, 1, 0, 0, 0, 0])));
        assert!(!is_accepted(&reply([0x8000_0018, XID, 1, 1, 0, 0, 0])), "denied");
        assert!(!is_accepted(&reply([0x8000_0018, XID, 1, 0, 0, 0, 1])), "no such program");
        assert!(!is_accepted(&reply([0x8000_0018, 7, 1, 0, 0, 0, 0])), "another call's");
    }

    #[test]
    fn a_service_that_is_not_there_is_named() {
        assert!(run(Ipv4Addr::new(127, 0, 77, 77)).unwrap_err().starts_with("portmap does not answer"));
    }
}
