//! What the data planes may serve, and to whom: the one table that control
//! publishes and that TFTP and NFS read. They never ask control anything else.
//!
//! Pure, but for the lock that `Published` holds while a pointer is copied.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use crate::client::{Role, Serial};
use crate::quota::Account;

/// Key of the MAC inside NFS file handles, 16 bytes; kept in the store so that
/// handles outlive restarts and reboots.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct HandleKey(pub [u8; 16]);

impl std::fmt::Debug for HandleKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HandleKey(secret)")
    }
}

/// Which of a client's two trees an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tree {
    /// `/` of the client.
    Root,
    /// Its boot partition: what TFTP serves, mounted at `/boot/firmware`.
    Boot,
    /// The folder with its block volume.
    Volume,
}

/// One NFS export: a directory of this machine that one address may mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// In every handle of this tree: the client's `export_id` × 2, plus 1 for the boot tree;
    /// for the volume see `control/publish.rs`.
    pub id: u32,
    /// The name a client gives to MNT, such as `/clients/pi-1/root`.
    pub path: String,
    /// Where the merged tree is mounted here.
    pub directory: PathBuf,
    pub tree: Tree,
    pub read_only: bool,
    /// What the client's changes are charged to; none where nobody counts.
    pub account: Option<Arc<Account>>,
}

/// Everything that is served to one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub role: Role,
    pub address: Ipv4Addr,
    /// `None` until the board has told it; TFTP then accepts any folder name and reports it.
    pub serial: Option<Serial>,
    pub root: Export,
    pub boot: Export,
    pub volume: Option<Export>,
    /// Kernel words that the appliance puts into `cmdline.txt`, such as
    /// `root=/dev/nfs nfsroot=… rw ip=dhcp rootwait`.
    pub kernel_words: String,
}

impl Served {
    /// Its root first.
    pub fn exports(&self) -> impl Iterator<Item = &Export> {
        [&self.root, &self.boot].into_iter().chain(&self.volume)
    }
}

/// All that is served now. Small (2 to 200 clients): looked up by scanning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    pub clients: Vec<Served>,
    pub handle_key: HandleKey,
    /// Of the stores that were open before and may come back: whoever holds a handle of theirs waits. At most
    /// [`MAX_FORMER_KEYS`].
    pub former_keys: Vec<HandleKey>,
}

/// Sticks in turn; more is nobody's way of working.
pub const MAX_FORMER_KEYS: usize = 4;

impl Directory {
    pub fn client(&self, address: Ipv4Addr) -> Option<&Served> {
        self.clients.iter().find(|client| client.address == address)
    }

    /// The exports one address may use, its root first.
    pub fn exports(&self, address: Ipv4Addr) -> impl Iterator<Item = &Export> {
        self.client(address).into_iter().flat_map(Served::exports)
    }
}

/// A value that one writer replaces whole and many readers take by pointer.
#[derive(Debug, Default)]
pub struct Published<T>(RwLock<Arc<T>>);

impl<T> Published<T> {
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    pub fn get(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}
