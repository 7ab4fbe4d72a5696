//! Where it happens: a wire between two network namespaces, and the trees that
//! are served, in a mount namespace of this process. All goes with the process.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::load::content;
use crate::netns::{Netns, must_run};

pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Clients of one run: 10.77.1.1 and on.
pub const CLIENTS: usize = 32;

/// The address of a client, from 0.
pub fn client(id: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, 1 + id as u8)
}

pub fn clients(count: usize) -> Vec<Ipv4Addr> {
    (0..count).map(client).collect()
}

/// What lies under a client's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// An ext4 on the disk, the same tree for all clients.
    Ext4,
    /// As in the product: the kernel's overlay, one for each client, on that ext4.
    Overlay,
    /// The two again, with the ext4 in memory, where a journal commit costs next to nothing.
    MemoryExt4,
    MemoryOverlay,
    /// A tree on the two ext4 whose `work` has the attribute D (chattr(1)): the kernel makes each change of its
    /// names durable by itself, whichever server makes it.
    Synced,
    MemorySynced,
}

pub struct Lab {
    pub server: Netns,
    pub clients: Netns,
    folder: PathBuf,
    temporary: tempfile::TempDir,
}

impl Lab {
    /// To be made before this process has other threads.
    pub fn new() -> Self {
        // SAFETY: this is the only thread; from here on its mounts are its own.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
            .expect("a mount namespace: run as root");
        sh("mount --make-rprivate /; mount -t tmpfs run /run");
        let (server, clients) = (Netns::new("server"), Netns::new("clients"));
        server.veth("wire", &clients, "wire");
        server.ip(&format!("address add {SERVER}/16 dev wire"));
        (0..CLIENTS).for_each(|id| drop(clients.ip(&format!("address add {}/16 dev wire", client(id)))));
        let temporary = tempfile::Builder::new().prefix("rootstock-bench-").tempdir_in("/var/tmp").expect("a folder");
        let lab = Self { server, clients, folder: temporary.path().to_owned(), temporary };
        lab.make("disk", content::BIG_BYTES);
        sh(&format!("mkdir {0}/tmpfs; mount -t tmpfs memory {0}/tmpfs", lab.folder.display()));
        lab.make("tmpfs/memory", 1 << 20);
        lab
    }

    /// An ext4 in a file, as the store makes it on a stick; the tree in it, and its overlays.
    fn make(&self, name: &str, big_bytes: u64) {
        let folder = self.folder.join(name);
        sh(&format!(
            "truncate -s 4G {0}.img; mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 {0}.img; mkdir {0}
             mount -o loop,noatime {0}.img {0}; mkdir {0}/tree {0}/uppers {0}/works {0}/ext4 {0}/overlay",
            folder.display()
        ));
        content::make(&folder.join("tree"), big_bytes).expect("the served tree");
        let mut script = format!("cd {}\n", folder.display());
        for id in 1..=CLIENTS {
            script += &format!(
                "mkdir uppers/{id} works/{id} ext4/{id} overlay/{id}; mount --bind tree ext4/{id}
                 mount -t overlay bench -o noatime,lowerdir=tree,upperdir=uppers/{id},workdir=works/{id},index=on,nfs_export=on,xino=on overlay/{id}\n"
            );
        }
        script += "mkdir -p synced/1/work; chattr +D synced/1/work\n";
        // The ext4's own tree is changed by its clients only, never below an overlay that is used then.
        sh(&script);
        rustix::fs::sync();
    }

    /// The trees of all clients: `1`, `2`, … in this folder.
    pub fn trees(&self, ground: Ground) -> PathBuf {
        self.folder.join(match ground {
            Ground::Ext4 => "disk/ext4",
            Ground::Overlay => "disk/overlay",
            Ground::MemoryExt4 => "tmpfs/memory/ext4",
            Ground::MemoryOverlay => "tmpfs/memory/overlay",
            Ground::Synced => "disk/synced",
            Ground::MemorySynced => "tmpfs/memory/synced",
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--recursive", "--lazy"]).arg(self.folder.join("tmpfs")).status();
        let _ = Command::new("umount").args(["--recursive", "--lazy"]).arg(self.folder.join("disk")).status();
        let _ = &self.temporary;
    }
}

#[track_caller]
fn sh(script: &str) {
    must_run(Command::new("sh").args(["-ec", script]));
}
