//! The server's side: a store on a loop device, a client's overlay on it, the wire,
//! and our NFS server in this process, inside the wire's namespace; or in one of its own, to be killed.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rootstock::client::Role;
use rootstock::directory::{Directory, Export, HandleKey, Published, Served, Tree};
use rootstock::nfs::{self, Options, Server};
use rootstock::quota::{Account, Space};

use crate::support::command::run;
use crate::support::netns::Netns;

pub const SERVER: &str = "192.168.78.1";
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 2);
pub const PATH: &str = "/clients/pi-1/root";
/// A second tree, which may hold `QUOTA` bytes.
pub const LIMITED_PATH: &str = "/clients/pi-1/boot";
pub const QUOTA: u64 = 4 << 20;
pub const TAP: &str = "tap-judge";

pub struct Lab {
    pub wire: Netns,
    place: PathBuf,
    server: Option<Server>,
}

pub fn sh(script: &str) -> Result<String, String> {
    run("sh", &["-ec".as_ref(), script.as_ref()])
}

/// The place of the store: memory that goes with this process. To be called before there are threads.
pub fn own_store(folder: &Path) -> Result<PathBuf, String> {
    // SAFETY: only this process's view of mounts changes, before it starts threads.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .map_err(|e| format!("a mount namespace: {e} (run as root)"))?;
    let place = folder.join("store");
    std::fs::create_dir_all(&place).map_err(|e| format!("{}: {e}", place.display()))?;
    sh(&format!("mount --make-rprivate /; mount -t tmpfs lab {}", place.display()))?;
    Ok(place)
}

/// The machine's first disk is the store's `reference.ext4`, what the client compares with.
pub fn give_reference(command: &mut Command, store: &Path) {
    command
        .args(["-monitor", "none", "-drive"])
        .arg(format!("if=none,id=local,format=raw,cache=unsafe,file={}", store.join("reference.ext4").display()))
        .args(["-device", "virtio-blk-pci,drive=local,romfile="]);
}

/// Serves the store at `place`, in the caller's network.
pub fn serve(place: &Path) -> Result<Server, nfs::Error> {
    let space = Arc::new(Space::new(None));
    let export = |id, path: &str, name: &str, tree, quota| Export {
        account: Some(Arc::new(Account::new(space.clone(), quota))),
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
        root: export(2, PATH, "root", Tree::Root, None),
        boot: export(3, LIMITED_PATH, "boot", Tree::Boot, Some(QUOTA)),
        volume: None,
        kernel_words: String::new(),
    };
    let directory = Directory { clients: vec![served], handle_key: HandleKey([7; 16]), ..Directory::default() };
    let options = Options {
        listen: Ipv4Addr::UNSPECIFIED,
        nfs_port: 2049,
        mount_port: 20048,
        portmap_port: 111,
        allow_unprivileged_ports: false,
        workers: 16,
        journal: Some(place.join("nfs-calls")),
    };
    nfs::start(options, Arc::new(Published::new(directory)), Arc::new(|_| ()))
}

impl Lab {
    /// Served by nobody yet. `folder` is a place on a disk; the store itself lies in memory, so that what is
    /// measured is the server and not this machine's disk. `make` is the shell's: it makes, in that store, `image.ext4`
    /// with what the client finds on its root, and an ext4 mounted at `upper`.
    pub fn new(folder: &Path, make: &str) -> Result<Self, String> {
        let place = folder.join("store");
        std::fs::create_dir_all(&place).map_err(|e| format!("{}: {e}", place.display()))?;
        sh(&format!(
            "cd {0}; mkdir -p image upper root boot
             {make}
             cd {0}; mount -o loop,ro,noload image.ext4 image
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
        Ok(Self { wire, place, server: None })
    }

    /// Our server, in this process.
    pub fn serve(&mut self) -> Result<(), String> {
        let place = &self.place;
        self.server = Some(self.wire.run(|| serve(place)).map_err(|e| format!("the server does not start: {e}"))?);
        Ok(())
    }

    /// After the client went: the store must be whole.
    pub fn check_disk(mut self, disk: &str) -> Result<(), String> {
        self.server = None;
        sh(&format!("cd {}; umount root boot upper image; e2fsck -f -n {disk}", self.place.display())).map(drop)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.server = None;
        // Not a failure of its own: a failed run shows another error already.
        let _ = sh(&format!("cd /; umount -R -l {}", self.place.display()));
    }
}
