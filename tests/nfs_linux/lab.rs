//! The server's side: a store on a loop device, a client's overlay on it, the wire,
//! and our NFS server in this process, inside the wire's namespace.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rootstock::client::Role;
use rootstock::directory::{Directory, Export, HandleKey, Published, Served, Tree};
use rootstock::nfs::{self, Options, Server};

use crate::support::command::run;
use crate::support::netns::Netns;

pub const SERVER: &str = "192.168.78.1";
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 2);
pub const PATH: &str = "/clients/pi-1/root";
pub const TAP: &str = "tap-judge";

pub struct Lab {
    pub wire: Netns,
    /// The client's local ext4.
    pub reference: PathBuf,
    place: PathBuf,
    server: Option<Server>,
}

fn sh(script: &str) -> Result<String, String> {
    run("sh", &["-ec".as_ref(), script.as_ref()])
}

impl Lab {
    /// `folder` is a place on a disk; the store itself lies in memory, so that what is
    /// measured is the server and not this machine's disk.
    pub fn new(folder: &Path) -> Result<Self, String> {
        // SAFETY: only this process's view of mounts changes, before it starts threads.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
            .map_err(|e| format!("a mount namespace: {e} (run as root)"))?;
        let place = folder.join("store");
        std::fs::create_dir_all(&place).map_err(|e| format!("{}: {e}", place.display()))?;
        // Many inodes in the lower, for a directory that every client of an old image has: a large one.
        sh(&format!(
            "mount --make-rprivate /
             mount -t tmpfs lab {0}; cd {0}; mkdir image upper root boot
             truncate -s 256M image.ext4; truncate -s 24G upper.ext4; truncate -s 512M reference.ext4
             mkfs.ext4 -q -N 131072 image.ext4; mkfs.ext4 -q -E lazy_itable_init=1 upper.ext4; mkfs.ext4 -q reference.ext4
             mount -o loop image.ext4 image
             mkdir image/many; cd image/many; seq -f 'lower-entry-%06.0f' 60000 | xargs touch; cd ../..
             for i in $(seq 300); do echo lower $i >image/lower-$i; done; mkdir image/tree image/tree/below
             cp image/lower-1 image/tree/below/file; ln image/lower-2 image/lower-hard; chmod 4755 image/lower-3
             umount image; mount -o loop,ro,noload image.ext4 image; mount -o loop upper.ext4 upper
             mkdir upper/u upper/w upper/bu upper/bw
             options=index=on,nfs_export=on,xino=on,redirect_dir=on,metacopy=off
             mount -t overlay lab -o lowerdir=image,upperdir=upper/u,workdir=upper/w,$options root
             mount -t overlay lab -o lowerdir=image,upperdir=upper/bu,workdir=upper/bw,$options boot",
            place.display()
        ))
        .map_err(|e| format!("{e}\n(needs root, loop devices, ext4, overlayfs and e2fsprogs)"))?;

        let wire = Netns::new("judge");
        wire.bridge("br0");
        wire.ip(&format!("address add {SERVER}/24 dev br0"));
        wire.tap(TAP, "br0");
        let export = |id, path: &str, name: &str, tree| Export {
            account: None,
            id,
            path: path.to_owned(),
            directory: place.join(name),
            tree,
            read_only: false,
        };
        let served = Served {
            role: Role::numbered(1),
            address: CLIENT,
            serial: None,
            root: export(2, PATH, "root", Tree::Root),
            boot: export(3, "/clients/pi-1/boot", "boot", Tree::Boot),
            volume: None,
            kernel_words: String::new(),
        };
        let directory = Directory { clients: vec![served], handle_key: HandleKey([7; 16]) };
        let options = Options {
            listen: Ipv4Addr::UNSPECIFIED,
            nfs_port: 2049,
            mount_port: 20048,
            portmap_port: 111,
            allow_unprivileged_ports: false,
            workers: 16,
            journal: Some(place.join("nfs-calls")),
        };
        let published = Arc::new(Published::new(directory));
        let server = wire
            .run(|| nfs::start(options, published, Arc::new(|_| ())))
            .map_err(|e| format!("the server does not start: {e}"))?;
        Ok(Self { wire, reference: place.join("reference.ext4"), place, server: Some(server) })
    }

    /// After the client went: the store must be whole.
    pub fn check_disk(mut self) -> Result<(), String> {
        self.server = None;
        sh(&format!("cd {}; umount root boot upper image; e2fsck -f -n upper.ext4", self.place.display())).map(drop)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.server = None;
        // Not a failure of its own: a failed run shows another error already.
        let _ = sh(&format!("cd /; umount -R -l {}", self.place.display()));
    }
}
