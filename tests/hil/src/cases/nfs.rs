//! Just enough of a client to read one small file: MNT, LOOKUP, READ (RFC 1813).
//!
//! I/O, over the bench's RPC.

use std::net::{Ipv4Addr, SocketAddrV4};

use rpc::{Connection, Decoder};

#[path = "../../../bench/load/rpc.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
mod rpc;

type Result<T> = std::result::Result<T, String>;

const NFS: (u32, u16) = (100_003, 2049);
const MOUNT: (u32, u16) = (100_005, 20_048);
const MNT: u32 = 1;
const LOOKUP: u32 = 3;
const READ: u32 = 6;

/// Reads the start of the file at `names` below the export `path`.
pub fn read_file(server: &str, path: &str, names: &[&str]) -> Result<String> {
    let server: Ipv4Addr = server.parse().map_err(|error| format!("{server}: {error}"))?;
    let connect = |port| Connection::open(Ipv4Addr::UNSPECIFIED, SocketAddrV4::new(server, port));
    let reply = connect(MOUNT.1)?.one(MOUNT.0, MNT, |call| {
        call.opaque(path.as_bytes());
    })?;
    let mut reply = Decoder(&reply);
    ok(&mut reply, &format!("MNT {path}"))?;
    let mut handle = reply.opaque()?.to_vec();
    let mut nfs = connect(NFS.1)?;
    for name in names {
        let found = nfs.one(NFS.0, LOOKUP, |call| {
            call.opaque(&handle).opaque(name.as_bytes());
        })?;
        let mut found = Decoder(&found);
        ok(&mut found, &format!("LOOKUP {name}"))?;
        handle = found.opaque()?.to_vec();
    }
    let read = nfs.one(NFS.0, READ, |call| {
        call.opaque(&handle).u64(0).u32(4096);
    })?;
    let mut read = Decoder(&read);
    ok(&mut read, "READ")?;
    // post_op_attr: fattr3 has 84 bytes; then count and eof.
    if read.u32()? == 1 {
        read.fixed(84)?;
    }
    read.fixed(8)?;
    Ok(String::from_utf8_lossy(read.opaque()?).into_owned())
}

fn ok(reply: &mut Decoder<'_>, what: &str) -> Result<()> {
    match reply.u32()? {
        0 => Ok(()),
        status => Err(format!("{what} was answered with the status {status}")),
    }
}
