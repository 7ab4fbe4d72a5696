//! The asking side of the control socket.
//!
//! I/O.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{MAX_REPLY_BYTES, Order, Reply, SOCKET};

/// Asks the server whose run folder this is, and waits for its reply as long
/// as the work takes. `None`: no server listens there.
pub fn ask(run: &Path, order: &Order) -> io::Result<Option<Reply>> {
    let mut stream = match UnixStream::connect(run.join(SOCKET)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        other => other?,
    };
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_REPLY_BYTES)).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server hung up: it ended, or is asked too much"));
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
