//! What makes one machine known to others: SSH host keys and machine-id. Kept
//! when a client gets a fresh root, taken out when an image is made of one.
//!
//! I/O through `Tree`.

use super::tree::{Owner, Tree, TreeError};

const MACHINE_ID: &str = "etc/machine-id";
const DBUS_ID: &str = "var/lib/dbus/machine-id";
const SSH: &str = "etc/ssh";

/// Files of one machine that a new one makes by itself.
const PERSONAL: [&str; 4] = [
    super::system::UP_FILE,
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "etc/rpi-connect/machine-id",
];

fn host_keys(root: &Tree) -> Vec<String> {
    root.names(SSH).into_iter().filter(|name| name.starts_with("ssh_host_")).collect()
}

/// Gives the new root the old one's keys and machine-id. What the old one has
/// not stays as the new one has it.
pub fn keep_identity(old: &Tree, new: &Tree) -> Result<(), TreeError> {
    let keys = host_keys(old);
    if !keys.is_empty() && new.is_dir(SSH) {
        for name in host_keys(new) {
            new.remove(&format!("{SSH}/{name}"))?;
        }
    }
    for name in keys.iter().filter(|_| new.is_dir(SSH)) {
        let path = format!("{SSH}/{name}");
        let mode = if name.ends_with(".pub") { 0o644 } else { 0o600 };
        if let Some(text) = old.read(&path) {
            new.write(&path, text.as_bytes(), Some(Owner::root(mode)))?;
        }
    }
    let Some(id) = old.read(MACHINE_ID).filter(|id| id.trim().len() == 32) else { return Ok(()) };
    new.write(MACHINE_ID, id.as_bytes(), Some(Owner::root(0o444)))?;
    if new.exists(DBUS_ID) && new.read_link(DBUS_ID).is_none() {
        new.write(DBUS_ID, id.as_bytes(), None)?;
    }
    Ok(())
}

/// Takes out what no two machines may share, as an image's maker does.
pub fn forget_identity(root: &Tree, hostname: &str) -> Result<(), TreeError> {
    for name in host_keys(root) {
        root.remove(&format!("{SSH}/{name}"))?;
    }
    // Empty: systemd makes one at the first start (machine-id(5)).
    root.write(MACHINE_ID, b"", Some(Owner::root(0o444)))?;
    if root.exists(DBUS_ID) && root.read_link(DBUS_ID).is_none() {
        root.remove(DBUS_ID)?;
    }
    for path in PERSONAL {
        root.remove(path)?;
    }
    root.write("etc/hostname", format!("{hostname}\n").as_bytes(), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let tree = Tree::open(folder.path()).unwrap();
        (folder, tree)
    }

    const ID: &str = "0123456789abcdef0123456789abcdef\n";

    #[test]
    fn keys_and_machine_id_go_over_and_nothing_else() {
        let (_old, old) = tree(&[(MACHINE_ID, ID), ("etc/ssh/ssh_host_rsa_key", "mine"), ("etc/hostname", "old")]);
        let (new, to) = tree(&[
            (MACHINE_ID, "fresh"),
            ("etc/ssh/ssh_host_rsa_key", "fresh"),
            ("etc/ssh/ssh_host_ed25519_key", "fresh"),
            ("etc/hostname", "new"),
        ]);
        keep_identity(&old, &to).unwrap();
        assert_eq!(to.read(MACHINE_ID).unwrap(), ID);
        assert_eq!(to.read("etc/ssh/ssh_host_rsa_key").unwrap(), "mine");
        assert!(!new.path().join("etc/ssh/ssh_host_ed25519_key").exists());
        assert_eq!(to.read("etc/hostname").unwrap(), "new");
    }

    #[test]
    fn a_root_without_identity_leaves_the_new_ones() {
        let (_old, old) = tree(&[(MACHINE_ID, "uninitialized\n")]);
        let (_new, to) = tree(&[(MACHINE_ID, ID), ("etc/ssh/ssh_host_rsa_key", "fresh")]);
        keep_identity(&old, &to).unwrap();
        assert_eq!(to.read(MACHINE_ID).unwrap(), ID);
        assert_eq!(to.read("etc/ssh/ssh_host_rsa_key").unwrap(), "fresh");
    }

    #[test]
    fn an_image_has_nobodys_identity() {
        let (folder, root) = tree(&[
            (MACHINE_ID, ID),
            (DBUS_ID, ID),
            ("etc/ssh/ssh_host_rsa_key", "mine"),
            ("etc/ssh/sshd_config", ""),
            ("var/lib/rootstock/up", "x"),
            ("etc/hostname", "pi-1"),
        ]);
        forget_identity(&root, "raspberrypi").unwrap();
        assert_eq!(root.read(MACHINE_ID).unwrap(), "");
        assert_eq!(root.names("etc/ssh"), ["sshd_config"]);
        assert_eq!(root.read("etc/hostname").unwrap(), "raspberrypi\n");
        assert!(!folder.path().join(DBUS_ID).exists() && !folder.path().join("var/lib/rootstock/up").exists());
    }
}
