//! NFSv3, MOUNT v3 and portmap v2 over the clients' trees (RFC 1813, 1833, 5531).
//!
//! What a client mounts is a directory of this machine, the root of a kernel
//! overlay that the store mounted; which one is looked up by the peer's address
//! in the published [`Directory`], at each call. Nothing here decides what is
//! served, and nothing here is ever waited for by DHCP, TFTP or the panel.
//!
//! From the outside in:
//!
//! | file | what it is |
//! |---|---|
//! | `server`, `shared` | start and stop; what its parts share |
//! | `sockets` | those that listen, and the table of connections, in one epoll set |
//! | `threads` | those that do the calls, and the one that looks after them |
//! | `batch` | what one connection sent, done and answered together |
//! | `connection` | one TCP connection: records in, replies out |
//! | `peer` | one client address: its counters, its share of the threads |
//! | `pipe` | file data on its way to the socket, not copied |
//! | `record`, `xdr`, `rpc`, `queue` | pure: record marking, bounded cursor and encoder, call headers, replies that wait |
//! | `service` | one record to its reply, through the reply cache |
//! | `intent`, `journal`, `settle` | what the reply cache leaves to the next server: records (pure), the file, the look afterwards |
//! | `portmap`, `mount`, `procedures/` | the three programs |
//! | `handle` | pure: what is in an `nfs_fh3`, and its MAC |
//! | `export`, `file`, `credentials` | the mounted trees, files by handle, acting as the caller |
//! | `owed` | changes that are made, and not on the stick yet: one commit for those that came together |
//! | `kernel_log` | whether the kernel said anything, as it does of a journal that it gives up |
//! | `charge` | what a change costs the client's account ([`crate::quota`]) |
//! | `access`, `attributes`, `errors`, `listing`, `reply_cache` | pure: what the procedures need |
//!
//! Measured choices (2026-11-22, Linux 6.18):
//!
//! - **Threads, not io_uring.** Overlayfs files cannot be read without blocking
//!   (`RWF_NOWAIT`: EOPNOTSUPP), so io_uring gives each read to a kernel worker. A thread
//!   that takes a call off its connection, does it and sends the reply saves both hand-overs.
//! - **Quick calls that came together are done by one thread**: see `batch`. With more open files
//!   and fewer system calls a LOOKUP, GETATTR or ACCESS costs 5 to 6 µs of CPU instead of 29, a random 4 KiB
//!   READ 5 instead of 26, an entry of READDIRPLUS 0.2 instead of 4 (`just bench`; nfs-ganesha: 33, 34, 0.9).
//! - **A long READ is not copied** (`pipe`): a third less CPU for a MB than with two copies, and none of this process's
//!   memory (2026-11-29, loopback over veth: 0.48 ms instead of 0.69, of which a server that only answers needs 0.23;
//!   nfs-ganesha 0.92 to 1.02).
//! - **Three quarters of what a WRITE costs are four system calls** that any server makes: `pwrite` half (the
//!   copy into the page cache a third of all), `recv` an eighth, `fsync` and `ftruncate` another (`perf`, 2026-11-29). Waking threads
//!   is another eighth, so an UNSTABLE one is a quick call, done by the thread that read it. Beside nfs-ganesha it is
//!   0.75 to 0.94 of the CPU for a MB, at 1.2 to 2.5 times the rate, and within a tenth to a third of the CPU of a server that
//!   receives, writes and nothing else (the floor of `just bench`: 0.86 ms, ours 0.89 on an overlay and 1.12 on ext4, a busy machine).
//! - **A small file made, written, committed and removed** costs three commits of the journal; nfs-ganesha, which answers CREATE and
//!   REMOVE from memory, makes one: 1.2 times as many files a second as ours on a disk and 0.8 to 1.0 in memory, at 1.7 to 2.0
//!   times the CPU. With a directory that the kernel keeps durable for it (`chattr +D`) it makes a quarter of ours on a disk, 0.4
//!   in memory, at 2.4 to 2.6 times the CPU (2026-11-30, one run of `just bench create`, an idle machine).
//! - **COMMITs are left to the kernel**: each has its thread, and ext4's journal makes one commit for those that wait. Eight threads with
//!   a new file of 16 KiB each reach 2.4 to 4.7 times the `fsync`s of one thread (1,010 and 1,361 a second beside 417 and 287); one
//!   thread that brings eight to the disk for all, no more than one alone, since each pays its own flush (2026-11-30, a busy machine's disk).
//! - **Cookies of our own**: see `listing`.
//! - **Metadata is durable before the reply**: see `procedures`.
//!
//! Invariants:
//!
//! - No length, count or offset off the network is used before it is bounded.
//! - A thread is root between calls; while it acts as a caller a guard takes it back.
//! - A path is one component, resolved below an open directory of the caller's own
//!   tree, following no link and crossing no mount.
//! - A tree that is published but not mounted makes clients wait (NFS3ERR_JUKEBOX);
//!   NFS3ERR_STALE is only for files that are gone.
//!
//! **What outlives what.** Killed, the server is started again and knows each call
//! that it had begun or answered (`intent`): a client sees a pause and nothing
//! else. Ended in order (SIGTERM, a reboot), it answers what runs before it ends.
//! After a power cut the memory of calls is gone, as with the kernel's own server: a
//! change that was on the stick already but not answered is answered as a new one
//! when the client repeats it (REMOVE: NFS3ERR_NOENT). It concerns the calls of the last
//! milliseconds, and no EXCLUSIVE create, whose verifier is on the stick.
//!
//! Where a client's root differs from a local ext4 (`tests/nfs_linux` compares every
//! call, and `tests/nfs_posix` runs suites of others on both; these are the differences that they know):
//!
//! - A character device 0:0 cannot be made: it is overlayfs's own whiteout.
//! - A time after the first seconds of February 7, 2106 is the last one before: NFSv3's seconds have 32 bits.
//! - An open file that was removed has one link until it is closed: the Linux client renames it (`.nfs…`).
//! - A directory of the image that the client has changed something in tells one link, whatever
//!   directories it holds: overlayfs counts none of both layers.
//! - Setting one of two times to "now" is allowed to whoever may write, not to the owner
//!   alone: NFSv3 has the same words for it and for the truncation of an empty file.
//! - The Linux client asks nothing for a change of nothing (`chown` to -1:-1, `truncate` to the size
//!   that is), so no set-id bit goes and no time changes.
//! - `access` for execution of a pipe, socket or device is EACCES: the Linux client asks nobody.
//! - `access` for writing of a directory that the caller may write but not search is EACCES: MODIFY, EXTEND and
//!   DELETE (RFC 1813 §3.3.4) are about entries, and none can be changed there. The kernel's own server says the same.
//! - A write into a pipe does not change its times: the Linux client tells no server of it.
//! - `open(".")` where the working directory was removed is ESTALE, not ENOENT: the Linux client asks the server first.
//! - In a directory that the caller may not write, the Linux client tells its own errors
//!   (EPERM, EISDIR, ENOTDIR) before the server's EACCES.

mod access;
mod attributes;
mod batch;
mod charge;
mod connection;
mod credentials;
mod errors;
mod export;
mod file;
mod handle;
mod intent;
mod journal;
mod kernel_log;
mod listing;
mod mount;
mod owed;
mod peer;
mod pipe;
mod portmap;
pub mod probe;
mod procedures;
mod queue;
mod record;
mod reply_cache;
mod rpc;
mod server;
mod service;
mod settle;
mod shared;
mod sockets;
mod threads;
mod xdr;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;

pub use mount::{PROGRAM as MOUNT_PROGRAM, Refusal};
pub use portmap::Ports;
pub use procedures::PROGRAM;
pub use server::Server;

use crate::directory::{Directory, Published, Tree};

/// How to serve. Ports of 0 are chosen by the kernel: [`Server::ports`] tells them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Need not be configured yet.
    pub listen: Ipv4Addr,
    /// 2049
    pub nfs_port: u16,
    /// 20048
    pub mount_port: u16,
    /// 111: clients ask there, whatever the others are.
    pub portmap_port: u16,
    /// Serve also calls from ports that programs without root rights can bind.
    pub allow_unprivileged_ports: bool,
    /// Calls that may run at once, 4 to 64. Those that wait for the stick count,
    /// so more than there are cores: 16 is good.
    pub workers: usize,
    /// A file on a tmpfs in which a server that is killed leaves to the next one what it was
    /// doing; `None` where that is not wanted.
    pub journal: Option<PathBuf>,
}

/// What the appliance hears of. The sink must not block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Mounted {
        address: Ipv4Addr,
        tree: Tree,
    },
    Unmounted {
        address: Ipv4Addr,
    },
    /// The system at that address does not know the client's last connection (RFC 9293 §3.5.2: a reset),
    /// which it never ended: another system runs there now.
    Reset {
        address: Ipv4Addr,
    },
    MountRefused {
        address: Ipv4Addr,
        path: String,
        reason: Refusal,
    },
    /// GETPORT: where this version of this program listens.
    PortAsked {
        address: Ipv4Addr,
        program: u32,
        version: u32,
    },
    /// A version of NFS, MOUNT or portmap that is not served.
    VersionRefused {
        address: Ipv4Addr,
        program: u32,
        version: u32,
    },
    /// Of one client since the last one, at most once a second.
    Traffic {
        address: Ipv4Addr,
        calls: u64,
        read_bytes: u64,
        written_bytes: u64,
    },
    /// Handles that were refused since the last one, at most once a second; the reason is the last one's.
    BadHandle {
        address: Ipv4Addr,
        count: u64,
        reason: &'static str,
    },
}

impl Event {
    /// Whose it is.
    pub fn address(&self) -> Ipv4Addr {
        match self {
            Self::Mounted { address, .. }
            | Self::Unmounted { address }
            | Self::Reset { address }
            | Self::MountRefused { address, .. }
            | Self::PortAsked { address, .. }
            | Self::VersionRefused { address, .. }
            | Self::Traffic { address, .. }
            | Self::BadHandle { address, .. } => *address,
        }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {address}")]
    Listen { address: SocketAddrV4, source: std::io::Error },
    #[error("{operation}")]
    System { operation: &'static str, source: std::io::Error },
}

/// Starts to serve; returns when the sockets listen. Runs until the [`Server`] is dropped.
pub fn start(
    options: Options,
    directory: Arc<Published<Directory>>,
    sink: Arc<dyn Fn(Event) + Send + Sync>,
) -> Result<Server, Error> {
    server::start(options, directory, sink)
}
