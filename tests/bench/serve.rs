//! Our servers as one process, as the appliance runs them: N addresses, N trees.

use std::path::Path;
use std::sync::Arc;

use rootstock::client::Role;
use rootstock::directory::{Directory, Export, HandleKey, Published, Served, Tree};
use rootstock::{nfs, tftp};

use crate::lab;
use crate::load::Result;

/// As in the appliance.
const WORKERS: usize = 16;

/// Serves the trees `1`, `2`, … of a folder, one to each client, for ever.
pub fn run(trees: &Path) -> Result<()> {
    rootstock::memory::settle();
    let listen = lab::SERVER;
    let served = |id: usize| {
        let number = id as u32 + 1;
        let export = |tree, name| Export {
            account: None,
            id: 2 * number + u32::from(tree == Tree::Boot),
            path: format!("/clients/{number}/{name}"),
            directory: trees.join(number.to_string()),
            tree,
            read_only: false,
        };
        Served {
            role: Role::numbered(number),
            address: lab::client(id),
            serial: None,
            root: export(Tree::Root, "root"),
            boot: export(Tree::Boot, "boot"),
            kernel_words: String::new(),
            volume: None,
        }
    };
    let clients = (0..lab::CLIENTS).map(served).collect();
    let directory =
        Arc::new(Published::new(Directory { clients, handle_key: HandleKey([7; 16]), ..Directory::default() }));
    let nfs_options = nfs::Options {
        listen,
        nfs_port: 2049,
        mount_port: 20048,
        portmap_port: 111,
        allow_unprivileged_ports: false,
        workers: WORKERS,
        // The lab's own tmpfs, as the appliance's run directory is one.
        journal: Some("/run/nfs-calls".into()),
    };
    let _nfs = nfs::start(nfs_options, directory.clone(), Arc::new(drop)).map_err(|error| error.to_string())?;
    let _tftp = tftp::start(tftp::Options { listen, port: 69 }, directory, Arc::new(drop))
        .map_err(|error| error.to_string())?;
    loop {
        std::thread::park();
    }
}
