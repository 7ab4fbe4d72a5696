//! What the data planes get to know of a client: its exports and kernel words.
//!
//! Pure.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::client::{Client, Mode};
use crate::directory::{Export, Served, Tree};

/// Where a client's two trees are mounted on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trees {
    pub root: PathBuf,
    pub boot: PathBuf,
}

/// The entry of one client in the directory.
pub fn served(appliance: Ipv4Addr, client: &Client, trees: &Trees) -> Served {
    let export = |tree, directory: &PathBuf| Export {
        id: client.export_id.wrapping_mul(2).wrapping_add(u32::from(tree == Tree::Boot)),
        path: export_path(client, tree),
        directory: directory.clone(),
        tree,
        read_only: client.mode == Mode::ReadOnly,
    };
    Served {
        role: client.role.clone(),
        address: client.address,
        serial: client.serial,
        root: export(Tree::Root, &trees.root),
        boot: export(Tree::Boot, &trees.boot),
        kernel_words: kernel_words(appliance, client),
    }
}

/// The name that a client gives to MNT.
fn export_path(client: &Client, tree: Tree) -> String {
    let tree = match tree {
        Tree::Root => "root",
        Tree::Boot => "boot",
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
            export_id: 0x7fff_ffff,
        };
        let trees = Trees { root: "/r".into(), boot: "/b".into() };
        let served = served(Ipv4Addr::new(10, 0, 0, 1), &client, &trees);
        assert_eq!((served.root.id, served.boot.id), (0xffff_fffe, 0xffff_ffff));
        assert_eq!(served.boot.path, "/clients/pi-1/boot");
        assert_eq!(
            served.kernel_words,
            "root=/dev/nfs nfsroot=10.0.0.1:/clients/pi-1/root,vers=3,tcp,rsize=131072,wsize=131072 rw ip=dhcp rootwait"
        );
    }
}
