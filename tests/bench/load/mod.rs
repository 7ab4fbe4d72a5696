//! The load: an independent client that asks, checks every answer, and counts.
//!
//! It shares no code with any server: RPC, NFS and TFTP are written here by
//! hand. What it reads has a known content, so lost, moved, doubled or foreign
//! bytes are errors, without a copy of the files on the client's side.

pub mod content;
pub mod floor;
pub mod nfs;
pub mod one_file;
pub mod rpc;
pub mod tftp;

use std::io::Read;
use std::net::TcpStream;

/// An error is a line for a person.
pub type Result<T> = std::result::Result<T, String>;

/// What one run gave.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    /// What the table counts: bytes, files, entries or calls.
    pub units: u64,
    pub seconds: f64,
    /// The worst of it; empty if all was right.
    pub errors: Vec<String>,
}

impl Figures {
    pub fn merge(&mut self, other: Figures) {
        self.units += other.units;
        self.seconds = self.seconds.max(other.seconds);
        for error in other.errors {
            self.wrong(error);
        }
    }

    pub fn wrong(&mut self, error: String) {
        if self.errors.len() < 5 {
            self.errors.push(error);
        }
    }
}

/// Gives `take` what came and was not taken yet, until the peer ends; it answers, and says how much it took.
fn take_requests(
    stream: &mut TcpStream,
    mut take: impl FnMut(&mut TcpStream, &[u8]) -> std::io::Result<usize>,
) -> std::io::Result<()> {
    let mut requests = vec![0; 64 << 10];
    let mut have = 0;
    loop {
        match stream.read(&mut requests[have..])? {
            0 => return Ok(()),
            count => have += count,
        }
        let taken = take(stream, &requests[..have])?;
        requests.copy_within(taken..have, 0);
        have -= taken;
    }
}
