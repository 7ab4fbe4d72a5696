//! What TFTP serves: the file side, as async-tftp's `Handler`.
//!
//! I/O: files only, no sockets. Whatever may wait for the stick runs on the
//! runtime's blocking pool. Read only: every write request is refused.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_tftp::packet;
use async_tftp::server::Handler;
use futures_io::AsyncWrite;
use tokio::runtime::Handle;

use super::boot_file::BootFile;
use super::path::{self, Denied, Kind};
use super::{Event, Sink, cmdline, config, tree};
use crate::directory::{Directory, Published, Served};

/// Sent for a `config.txt` that the image has not.
const EMPTY_CONFIG: &[u8] = b"# This image has no config.txt.\n";

/// The files of all clients. Clones share everything.
#[derive(Clone)]
pub struct Files {
    directory: Arc<Published<Directory>>,
    sink: Sink,
    /// Where blocking reads run.
    runtime: Handle,
}

impl Files {
    pub fn new(directory: Arc<Published<Directory>>, sink: Sink, runtime: Handle) -> Self {
        Self { directory, sink, runtime }
    }

    /// Whether anything is served to this address.
    pub fn serves(&self, address: Ipv4Addr) -> bool {
        self.directory.get().client(address).is_some()
    }

    /// Opens what this client means by this path, and tells the sink.
    pub async fn open(&self, address: Ipv4Addr, path: &[u8]) -> Result<BootFile, packet::Error> {
        let shown = path::display(path);
        let directory = self.directory.get();
        let Some(served) = directory.client(address) else {
            (self.sink)(Event::Refused { address, path: shown, reason: "the address is no client's" });
            return Err(packet::Error::PermissionDenied);
        };
        let mapped = match path::map(served.serial, path) {
            Ok(mapped) => mapped,
            Err(Denied::Missing) => {
                (self.sink)(Event::Missing { address, path: shown });
                return Err(packet::Error::FileNotFound);
            }
            Err(Denied::Refused(reason)) => {
                (self.sink)(Event::Refused { address, path: shown, reason });
                return Err(packet::Error::PermissionDenied);
            }
        };
        let folder = mapped.folder;
        let (served, kind, at_root, file) = (served.clone(), mapped.kind, mapped.at_root(), mapped.file.to_vec());
        let runtime = self.runtime.clone();
        let job = self.runtime.spawn_blocking(move || find(&served, kind, at_root, &file, runtime));
        match job.await.unwrap_or_else(|error| Err(tree::Error::Open { path: "".into(), source: error.into() })) {
            Ok((file, left_out)) => {
                let size = Some(file.size());
                (self.sink)(Event::Started { address, path: shown, folder, size });
                if left_out > 0 {
                    (self.sink)(Event::CommandLineShortened { address, left_out });
                }
                Ok(file)
            }
            Err(tree::Error::Missing) => {
                (self.sink)(Event::Missing { address, path: shown });
                Err(packet::Error::FileNotFound)
            }
            Err(tree::Error::Open { path, source }) => {
                let error = format!("cannot open {}: {source}", path.display());
                (self.sink)(Event::Failed { address, path: shown, error });
                Err(packet::Error::Msg("cannot open the file".to_owned()))
            }
        }
    }
}

/// Opens or makes the file, and reads its first chunk; the second value is
/// how many words of a command line were left out.
fn find(
    served: &Served,
    kind: Kind,
    at_root: bool,
    file: &[u8],
    runtime: Handle,
) -> Result<(BootFile, usize), tree::Error> {
    let opened = tree::open(&served.boot.directory, file);
    let (kind, at_root) = match kind {
        Kind::Plain if may_be_command_line(file, &opened) && names_command_line(&served.boot.directory, file) => {
            (Kind::CommandLine, at_root)
        }
        kind => (kind, at_root),
    };
    let failed = |source| tree::Error::Open { path: served.boot.directory.join(path::display(file)), source };
    match (kind, opened) {
        (Kind::CommandLine, Ok((own, _))) => {
            let mut source = vec![0; cmdline::MAX_SOURCE_BYTES];
            let length = read_at_most(&own, &mut source, 0).map_err(failed)?;
            source.truncate(length);
            let line = cmdline::make(&source, &served.kernel_words);
            Ok((BootFile::of(line.text.into_bytes()), line.left_out))
        }
        (Kind::CommandLine, Err(tree::Error::Missing)) if at_root => {
            Ok((BootFile::of(cmdline::make(b"", &served.kernel_words).text.into_bytes()), 0))
        }
        (Kind::Config, Err(tree::Error::Missing)) => Ok((BootFile::of(EMPTY_CONFIG.to_vec()), 0)),
        (_, Ok((file, size))) => BootFile::read(file, size, runtime).map(|file| (file, 0)).map_err(failed),
        (_, Err(error)) => Err(error),
    }
}

/// Whether it is worth to read `config.txt` for: a loader asks for many files
/// that are missing, and must be told so at once.
fn may_be_command_line(file: &[u8], opened: &Result<(File, u64), tree::Error>) -> bool {
    let text = file.len() > 4 && file[file.len() - 4..].eq_ignore_ascii_case(b".txt");
    match opened {
        Ok((_, size)) => *size <= cmdline::MAX_SOURCE_BYTES as u64,
        Err(tree::Error::Missing) => text,
        Err(_) => false,
    }
}

/// Whether the tree's `config.txt`, or what it includes, calls this file its
/// command line. Without the words for its root a client would not boot.
fn names_command_line(tree: &Path, file: &[u8]) -> bool {
    let mut files = vec!["config.txt".to_owned()];
    let mut next = 0;
    while let Some(name) = files.get(next).cloned() {
        next += 1;
        let Ok((config, _)) = tree::open(tree, name.trim_start_matches('/').as_bytes()) else { continue };
        let mut bytes = vec![0; config::MAX_BYTES];
        let Ok(length) = read_at_most(&config, &mut bytes, 0) else { continue };
        let named = config::parse(&bytes[..length]);
        if config::is_named(&named.command_lines, file) {
            return true;
        }
        for include in named.includes {
            if files.len() < config::MAX_FILES && !files.contains(&include) {
                files.push(include);
            }
        }
    }
    false
}

fn read_at_most(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], offset + length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

impl Handler for Files {
    type Reader = BootFile;
    type Writer = NoWriter;

    async fn read_req_open(
        &mut self,
        client: &SocketAddr,
        path: &Path,
    ) -> Result<(BootFile, Option<u64>), packet::Error> {
        let IpAddr::V4(address) = client.ip() else { return Err(packet::Error::PermissionDenied) };
        let file = self.open(address, path.as_os_str().as_bytes()).await?;
        let size = file.size();
        Ok((file, Some(size)))
    }

    async fn write_req_open(
        &mut self,
        client: &SocketAddr,
        path: &Path,
        _size: Option<u64>,
    ) -> Result<NoWriter, packet::Error> {
        if let IpAddr::V4(address) = client.ip() {
            let path = path::display(path.as_os_str().as_bytes());
            (self.sink)(Event::Refused { address, path, reason: "writing is not served" });
        }
        Err(packet::Error::PermissionDenied)
    }
}

/// Nothing is written, so no writer exists.
pub enum NoWriter {}

impl AsyncWrite for NoWriter {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}
