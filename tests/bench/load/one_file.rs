//! An NFS server that knows one file and nothing else: no handles, attributes, permissions or threads but one a
//! connection. READs go from the page cache into the socket without a copy. What it is measured at, under the
//! same load as the others, is what the load, the wire and the machine leave to any server.

use std::fs::File;
use std::io::{Result, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

use super::rpc::{Decoder, Encoder};

/// As ours.
const MAX_IO: u32 = 256 << 10;
const HANDLE: &[u8] = b"file";

/// Serves `file` for ever, at the ports that the load asks.
pub fn serve(address: Ipv4Addr, file: &Path) -> super::Result<()> {
    let listen = |port| TcpListener::bind((address, port)).map_err(|error| format!("port {port}: {error}"));
    let (mount, nfs) = (listen(20048)?, listen(2049)?);
    std::thread::scope(|scope| {
        for listener in [mount, nfs] {
            scope.spawn(move || {
                for stream in listener.incoming().flatten() {
                    let file = file.to_owned();
                    // It ends with its client.
                    std::thread::spawn(move || answer(stream, &file));
                }
            });
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, file: &Path) -> Result<()> {
    let file = File::open(file)?;
    stream.set_nodelay(true)?;
    super::take_requests(&mut stream, |stream, requests| {
        let mut start = 0;
        while let Some(record) = record(&requests[start..]) {
            start += 4 + record.len();
            reply(stream, &file, record)?;
        }
        Ok(start)
    })
}

/// The first one, if it is whole.
fn record(bytes: &[u8]) -> Option<&[u8]> {
    let mark = u32::from_be_bytes(*bytes.first_chunk()?);
    bytes[4..].get(..(mark & 0x7fff_ffff) as usize)
}

fn reply(stream: &mut TcpStream, file: &File, call: &[u8]) -> Result<()> {
    let wrong = |error: String| std::io::Error::other(error);
    let mut call = Decoder(call);
    let header = call.fixed(24).map_err(wrong)?;
    let word = |n: usize| Decoder(&header[4 * n..]).u32().unwrap_or_default();
    for _credentials_and_verifier in 0..2 {
        call.u32().and_then(|_| call.opaque()).map_err(wrong)?;
    }
    let mut reply = Encoder::default();
    // A mark for later; then an accepted reply and the status of each procedure here: all is well.
    reply.u32(0).u32(word(0)).u32(1).u32(0).u32(0).u32(0).u32(0).u32(0);
    let mut data = None;
    match (word(3), word(5)) {
        // MNT, and LOOKUP without attributes.
        (100_005, 1) => reply.opaque(HANDLE).u32(0),
        (100_003, 3) => reply.opaque(HANDLE).u32(0).u32(0),
        // FSINFO: rtmax, rtpref, rtmult, wtmax, wtpref, wtmult, dtpref, the largest file, the time's grain, properties.
        (100_003, 19) => {
            reply.u32(0);
            for value in [MAX_IO, MAX_IO, 4096, MAX_IO, MAX_IO, 4096, 4096] {
                reply.u32(value);
            }
            reply.u64(1 << 43).u32(0).u32(1).u32(0)
        }
        (100_003, 6) => {
            call.opaque().map_err(wrong)?;
            let (offset, count) = (call.u64().map_err(wrong)?, call.u32().map_err(wrong)?.min(MAX_IO));
            data = Some((offset, count as usize));
            reply.u32(0).u32(count).u32(0).u32(count)
        }
        (program, procedure) => return Err(wrong(format!("{program} {procedure} is not known here"))),
    };
    let length = reply.0.len() - 4 + data.map_or(0, |(_, count)| count);
    reply.0[..4].copy_from_slice(&(0x8000_0000 | length as u32).to_be_bytes());
    stream.write_all(&reply.0)?;
    if let Some((mut offset, mut left)) = data {
        while left > 0 {
            match rustix::fs::sendfile(&*stream, file, Some(&mut offset), left)? {
                0 => return Err(wrong("a READ behind the end".into())),
                sent => left -= sent,
            }
        }
    }
    Ok(())
}
