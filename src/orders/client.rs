//! The asking side of the control socket.
//!
//! I/O.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{MAX_REPLY_BYTES, Order, Reply, Request, SOCKET};
use crate::status::Snapshot;

/// A status costs no work: a server that does not answer in this time hangs.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// Asks the server whose run folder this is, and waits for its reply as long
/// as the work takes. `None`: no server listens there.
pub fn ask(run: &Path, order: &Order) -> io::Result<Option<Reply>> {
    within(run, order, None)
}

/// Whether a server listens there.
pub fn listens(run: &Path) -> bool {
    UnixStream::connect(run.join(SOCKET)).is_ok()
}

/// The server's status as it is now. `None`: no server listens there.
pub fn status(run: &Path) -> io::Result<Option<Snapshot>> {
    let order = Order { request: Request::Status, force: false };
    match within(run, &order, Some(STATUS_PATIENCE))? {
        Some(Reply::Status(snapshot)) => Ok(Some(*snapshot)),
        Some(Reply::Refused { message, .. }) => Err(io::Error::other(message)),
        Some(Reply::Outcome(_)) => Err(io::Error::other("the server answered something else")),
        None => Ok(None),
    }
}

fn within(run: &Path, order: &Order, patience: Option<Duration>) -> io::Result<Option<Reply>> {
    let mut stream = match UnixStream::connect(run.join(SOCKET)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        other => other?,
    };
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
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
