//! What the data planes get to know of a client: its exports and kernel words.
//!
//! Pure.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::client::{Client, Mode};
use crate::directory::{Export, Served, Tree};
use crate::quota::Account;
use crate::store;

/// Where a client's two trees are mounted on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trees {
    pub root: PathBuf,
    pub boot: PathBuf,
    pub volume: Option<PathBuf>,
    pub account: Option<Arc<Account>>,
    /// False while the stick takes no writes.
    pub writable: bool,
}

impl From<&store::OpenClient> for Trees {
    fn from(open: &store::OpenClient) -> Self {
        Self {
            root: open.root.clone(),
            boot: open.boot.clone(),
            volume: open.volume.clone(),
            account: open.account.clone(),
            writable: open.writable,
        }
    }
}

/// The entry of one client in the directory.
pub fn served(appliance: Ipv4Addr, address: Ipv4Addr, client: &Client, trees: &Trees) -> Served {
    let export = |tree, directory: &PathBuf| Export {
        id: export_id(client, tree),
        path: export_path(client, tree),
        directory: directory.clone(),
        tree,
        // The volume is what a read-only client may write.
        read_only: !trees.writable || (client.mode == Mode::ReadOnly && tree != Tree::Volume),
        account: trees.account.clone(),
    };
    Served {
        role: client.role.clone(),
        address,
        serial: client.serial,
        root: export(Tree::Root, &trees.root),
        boot: export(Tree::Boot, &trees.boot),
        volume: trees.volume.as_ref().map(|folder| export(Tree::Volume, folder)),
        kernel_words: kernel_words(appliance, client),
    }
}

/// Roots and boot trees have all 32 bits between them. A volume has its root's
/// number with some bits turned, which may be another client's: no harm, since
/// an address only ever reaches its own client's exports, and a handle tells
/// its file by inode and generation besides.
const VOLUME_BITS: u32 = 0x5a5a_5a5a;

fn export_id(client: &Client, tree: Tree) -> u32 {
    let root = client.export_id.wrapping_mul(2);
    match tree {
        Tree::Root => root,
        Tree::Boot => root + 1,
        Tree::Volume => root ^ VOLUME_BITS,
    }
}

/// The name that a client gives to MNT.
fn export_path(client: &Client, tree: Tree) -> String {
    let tree = match tree {
        Tree::Root => "root",
        Tree::Boot => "boot",
        Tree::Volume => "volume",
    };
    format!("/clients/{}/{tree}", client.role)
}

/// NFS options that both mounters take: the kernel's own, and klibc's
/// `nfsmount`, which stops at a word it does not know (`proto=`, `mountport=`).
/// Without sizes the kernel's ROOT_NFS would use 4 KiB.
const NFS_OPTIONS: &str = "vers=3,tcp,rsize=131072,wsize=131072";

/// DHCP option 17: what a kernel started without `nfsroot=` mounts.
pub fn root_path(appliance: Ipv4Addr, client: &Client) -> String {
    format!("{appliance}:{},{NFS_OPTIONS}", export_path(client, Tree::Root))
}

/// The words that `cmdline.txt` must carry, whatever else stands in it
/// (Linux Documentation/admin-guide/nfs/nfsroot.rst).
fn kernel_words(appliance: Ipv4Addr, client: &Client) -> String {
    let access = match client.mode {
        Mode::ReadOnly => "ro",
        Mode::Persistent | Mode::Ephemeral => "rw",
    };
    format!("root=/dev/nfs nfsroot={} {access} ip=dhcp rootwait", root_path(appliance, client))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{MacAddr, Model, Role};

    #[test]
    fn a_client_gets_two_exports_and_its_kernel_words() {
        let client = Client {
            role: Role::numbered(1),
            mac: MacAddr([2; 6]),
            serial: None,
            revision: None,
            model: Model::Pi4B,
            address: Ipv4Addr::new(10, 0, 0, 9),
            image: "raspios-12345678".parse().unwrap(),
            mode: Mode::Persistent,
            volume_size: None,
            quota: None,
            export_id: 0x7fff_ffff,
        };
        let (root, boot, volume) = ("/r".into(), "/b".into(), Some("/v".into()));
        let trees = Trees { root, boot, volume, account: None, writable: true };
        let of = |trees| served(Ipv4Addr::new(10, 0, 0, 1), client.address, &client, trees);
        let refused = Trees { writable: false, ..trees.clone() };
        assert!(of(&refused).exports().all(|export| export.read_only), "the stick takes no writes");
        let served = of(&trees);
        assert_eq!((served.root.id, served.boot.id), (0xffff_fffe, 0xffff_ffff));
        let volume = served.volume.unwrap();
        assert_eq!((volume.path.as_str(), volume.read_only), ("/clients/pi-1/volume", false));
        assert!(volume.id != served.root.id && volume.id != served.boot.id);
        assert_eq!(served.boot.path, "/clients/pi-1/boot");
        assert_eq!(
            served.kernel_words,
            "root=/dev/nfs nfsroot=10.0.0.1:/clients/pi-1/root,vers=3,tcp,rsize=131072,wsize=131072 rw ip=dhcp rootwait"
        );
    }
}
