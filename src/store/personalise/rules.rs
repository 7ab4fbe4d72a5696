//! The rules, in the order they are applied.
//!
//! I/O through `Tree`. Each function is one rule of the table; what it must
//! know about a distribution is in the table's own words.

use super::text::{self, User};
use super::tree::Owner;
use super::{Context, Rule, RuleError, Tree, TreeError, keys};

/// Names the wired interface has in Raspberry Pi OS and Debian (eth0) and
/// where predictable names are on (end0).
const WIRED: [&str; 2] = ["eth0", "end0"];
const UNIT_FOLDERS: [&str; 4] =
    ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system", "usr/local/lib/systemd/system"];
const ETC_UNITS: &str = "etc/systemd/system";
/// Written by a client when its start is complete: what `Up` is told by.
pub const UP_FILE: &str = "var/lib/rootstock/up";

pub const RULES: &[Rule] = &[
    Rule {
        name: "hostname",
        finds: "always",
        does: "writes the role to /etc/hostname",
        why: "every client of an image would have the image's name",
        apply: hostname,
    },
    Rule {
        name: "hosts",
        finds: "always",
        does: "gives the role the address 127.0.1.1 in /etc/hosts",
        why: "sudo and others look up the own name, and wait for DNS where it is unknown",
        apply: hosts,
    },
    Rule {
        name: "fstab",
        finds: "/etc/fstab",
        does: "comments out the partitions of the medium and mounts the boot tree by NFS",
        why: "systemd waits 90 s for each; a kernel upgrade must reach the tree that TFTP serves",
        apply: fstab,
    },
    Rule {
        name: "machine-id",
        finds: "always",
        does: "writes a new /etc/machine-id, and D-Bus's copy where it is a file",
        why: "DHCP client ids, journals and D-Bus tell machines apart by it",
        apply: machine_id,
    },
    Rule {
        name: "ssh-host-keys",
        finds: "/etc/ssh/sshd_config",
        does: "removes the image's host keys and writes new ones",
        why: "keys that two machines share protect neither; making them on the client would delay its first boot",
        apply: ssh_host_keys,
    },
    Rule {
        name: "ssh-key-makers",
        finds: "units that make host keys at the first boot",
        does: "masks them",
        why: "regenerate_ssh_host_keys of Raspberry Pi OS deletes the keys that are there",
        apply: |c| mask(c.root, &["regenerate_ssh_host_keys.service", "sshd-keygen.service", "ssh-keygen.service"]),
    },
    Rule {
        name: "resize",
        finds: "rpi-resize, resize2fs_once, systemd-growfs, cloud growroot",
        does: "masks or removes them",
        why: "there is no partition to grow; each fails or waits for a block device",
        apply: resize,
    },
    Rule {
        name: "swap",
        finds: "dphys-swapfile, rpi-swap",
        does: "masks the first and tells the second to use zram only",
        why: "a swap file over NFS deadlocks when memory is short",
        apply: swap,
    },
    Rule {
        name: "first-boot",
        finds: "apply_noobs_os_config, rpi-eeprom-update, systemd-networkd-wait-online, fstrim.timer",
        does: "masks them",
        why: "they look for the SD card, update a bootloader behind the appliance's back, or wait for a link that \
              nothing manages",
        apply: |c| {
            mask(
                c.root,
                &[
                    "apply_noobs_os_config.service",
                    "rpi-eeprom-update.service",
                    "systemd-networkd-wait-online.service",
                    "fstrim.timer",
                ],
            )
        },
    },
    Rule {
        name: "cloud-init",
        finds: "/etc/cloud",
        does: "switches off its network, growpart, host key and host name parts",
        why: "it would take eth0 down, delete the keys and set another name; users and packages of its user-data stay",
        apply: cloud_init,
    },
    Rule {
        name: "network-manager",
        finds: "/etc/NetworkManager",
        does: "makes eth0 unmanaged, by name and by MAC address",
        why: "taking the interface down for a moment loses the root for ever",
        apply: network_manager,
    },
    Rule {
        name: "networkd",
        finds: "systemd-networkd",
        does: "a .network file, first in order, that leaves the client's MAC address unmanaged",
        why: "the same; also outranks what netplan and ip=dhcp generate",
        apply: networkd,
    },
    Rule {
        name: "dhcpcd",
        finds: "/etc/dhcpcd.conf",
        does: "denyinterfaces",
        why: "the same, on Raspberry Pi OS Legacy",
        apply: dhcpcd,
    },
    Rule {
        name: "ifupdown",
        finds: "/etc/network/interfaces and interfaces.d naming eth0",
        does: "iface eth0 inet manual",
        why: "the same, on plain Debian",
        apply: ifupdown,
    },
    Rule {
        name: "dns",
        finds: "name servers in the appliance's configuration",
        does: "writes them for systemd-resolved or into /etc/resolv.conf",
        why: "an interface that nothing manages brings no name servers",
        apply: dns,
    },
    Rule {
        name: "user",
        finds: "userconf.txt in the profile",
        does: "hands it to Raspberry Pi OS's own service on the boot tree, or else creates the user",
        why: "that service also renames groups, sudo rules and autologin of its release, which we must not guess; \
              other systems have nothing like it",
        apply: user,
    },
    Rule {
        name: "authorized-keys",
        finds: "authorized_keys in the profile",
        does: "gives them to root and to the first user",
        why: "the way into a machine without keyboard and password",
        apply: authorized_keys,
    },
    Rule {
        name: "ssh",
        finds: "authorized_keys in the profile and an ssh unit",
        does: "enables it",
        why: "Raspberry Pi OS has it off until asked",
        apply: ssh,
    },
    Rule {
        name: "files",
        finds: "files/ in the profile",
        does: "lays them over the root",
        why: "what a person wants in every client",
        apply: files,
    },
    Rule {
        name: "up",
        finds: "systemd",
        does: "a unit that writes the boot id to /var/lib/rootstock/up after multi-user.target",
        why: "the only evidence that a client's start is complete; it arrives as a write",
        apply: up,
    },
];

type Outcome = Result<bool, RuleError>;

fn hostname(c: &Context<'_>) -> Outcome {
    c.root.write("etc/hostname", format!("{}\n", c.client.role).as_bytes(), None)?;
    Ok(true)
}

fn hosts(c: &Context<'_>) -> Outcome {
    let present = c.root.read("etc/hosts").unwrap_or_default();
    c.root.write("etc/hosts", text::hosts(&present, c.client.role.as_str()).as_bytes(), None)?;
    Ok(true)
}

/// An image without fstab, or without a boot line, still gets the boot tree,
/// where its folder says it belongs.
fn fstab(c: &Context<'_>) -> Outcome {
    let present = c.root.read("etc/fstab").unwrap_or_default();
    let by_folder = || if c.root.is_dir("boot/firmware") { "/boot/firmware" } else { "/boot" };
    let boot = text::boot_point(&present).unwrap_or_else(by_folder);
    let edited = text::fstab(&present, c.appliance, c.client.role.as_str(), boot);
    c.root.write("etc/fstab", edited.as_bytes(), None)?;
    Ok(true)
}

fn machine_id(c: &Context<'_>) -> Outcome {
    let id = format!("{}\n", keys::machine_id()?);
    c.root.write("etc/machine-id", id.as_bytes(), Some(Owner::root(0o444)))?;
    let dbus = "var/lib/dbus/machine-id";
    if c.root.exists(dbus) && c.root.read_link(dbus).is_none() {
        c.root.write(dbus, id.as_bytes(), None)?;
    }
    Ok(true)
}

fn ssh_host_keys(c: &Context<'_>) -> Outcome {
    if !c.root.exists("etc/ssh/sshd_config") {
        return Ok(false);
    }
    for name in c.root.names("etc/ssh").iter().filter(|name| name.starts_with("ssh_host_")) {
        c.root.remove(&format!("etc/ssh/{name}"))?;
    }
    for key in keys::host_keys(c.client.role.as_str())? {
        let path = format!("etc/ssh/ssh_host_{}_key", key.kind);
        c.root.write(&path, key.private.as_bytes(), Some(Owner::root(0o600)))?;
        c.root.write(&format!("{path}.pub"), key.public.as_bytes(), Some(Owner::root(0o644)))?;
    }
    Ok(true)
}

/// Whether the image has a unit of this name.
fn has_unit(root: &Tree, unit: &str) -> bool {
    UNIT_FOLDERS.iter().any(|folder| root.exists(&format!("{folder}/{unit}")))
}

/// Masks the units that exist, as `systemctl mask` does; also those that lie
/// in /etc itself, which systemctl would refuse. What wanted them is left:
/// a masked unit that is wanted is passed over.
fn mask(root: &Tree, units: &[&str]) -> Outcome {
    let mut acted = false;
    for unit in units.iter().filter(|unit| has_unit(root, unit)) {
        root.link("/dev/null", &format!("{ETC_UNITS}/{unit}"))?;
        acted = true;
    }
    Ok(acted)
}

/// Enables a unit by the link that `systemctl enable` makes for WantedBy=.
fn enable(root: &Tree, unit: &str, target: &str) -> Outcome {
    let Some(folder) = UNIT_FOLDERS.iter().find(|folder| root.exists(&format!("{folder}/{unit}"))) else {
        return Ok(false);
    };
    if root.read_link(&format!("{ETC_UNITS}/{unit}")).as_deref() == Some("/dev/null") {
        root.remove(&format!("{ETC_UNITS}/{unit}"))?;
    }
    root.link(&format!("/{folder}/{unit}"), &format!("{ETC_UNITS}/{target}.wants/{unit}"))?;
    Ok(true)
}

fn resize(c: &Context<'_>) -> Outcome {
    let mut acted = mask(
        c.root,
        &[
            "rpi-resize.service",
            "resize2fs_once.service",
            "rpi-resizerootfs.service",
            "systemd-growfs-root.service",
            "systemd-repart.service",
        ],
    )?;
    // The SysV script of Raspberry Pi OS Legacy, with its links.
    acted |= c.root.remove("etc/init.d/resize2fs_once")?;
    for level in ["rcS.d", "rc2.d", "rc3.d", "rc4.d", "rc5.d"] {
        for name in c.root.names(&format!("etc/{level}")).iter().filter(|name| name.ends_with("resize2fs_once")) {
            acted |= c.root.remove(&format!("etc/{level}/{name}"))?;
        }
    }
    // cloud-initramfs-growroot looks for this file and then does nothing.
    if c.root.exists("usr/share/initramfs-tools/scripts/local-bottom/growroot") {
        c.root.write("etc/growroot-disabled", b"rootstock\n", None)?;
        acted = true;
    }
    Ok(acted)
}

fn swap(c: &Context<'_>) -> Outcome {
    let mut acted = mask(c.root, &["dphys-swapfile.service"])?;
    let rpi_swap = ["etc/rpi/swap.conf", "usr/lib/systemd/system-generators/rpi-swap-generator", "usr/share/rpi-swap"];
    if rpi_swap.iter().any(|path| c.root.exists(path)) || c.root.is_dir("etc/rpi/swap.conf.d") {
        c.root.write("etc/rpi/swap.conf.d/90-rootstock.conf", b"[Main]\nMechanism=zram\n", None)?;
        acted = true;
    }
    Ok(acted)
}

fn cloud_init(c: &Context<'_>) -> Outcome {
    if !c.root.is_dir("etc/cloud") {
        return Ok(false);
    }
    let text = "# Written by Rootstock: this machine's root comes over the network.\n\
                network: {config: disabled}\n\
                growpart: {mode: 'off'}\n\
                resize_rootfs: false\n\
                ssh_deletekeys: false\n\
                ssh_genkeytypes: []\n\
                preserve_hostname: true\n\
                manage_etc_hosts: false\n";
    c.root.write("etc/cloud/cloud.cfg.d/99-rootstock.cfg", text.as_bytes(), None)?;
    Ok(true)
}

fn network_manager(c: &Context<'_>) -> Outcome {
    if !c.root.is_dir("etc/NetworkManager") {
        return Ok(false);
    }
    let names: String = WIRED.iter().map(|name| format!("interface-name:{name};")).collect();
    let text = format!(
        "# Written by Rootstock: the root comes over this interface.\n\
         [keyfile]\nunmanaged-devices={names}mac:{}\n",
        c.client.mac
    );
    c.root.write("etc/NetworkManager/conf.d/90-rootstock.conf", text.as_bytes(), None)?;
    Ok(true)
}

fn networkd(c: &Context<'_>) -> Outcome {
    let binaries = ["usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd"];
    if !binaries.iter().any(|path| c.root.exists(path)) {
        return Ok(false);
    }
    let text = format!(
        "# Written by Rootstock: the root comes over this interface.\n\
         [Match]\nMACAddress={}\n\n[Link]\nUnmanaged=yes\n",
        c.client.mac
    );
    c.root.write("etc/systemd/network/00-rootstock.network", text.as_bytes(), None)?;
    Ok(true)
}

fn dhcpcd(c: &Context<'_>) -> Outcome {
    let Some(present) = c.root.read("etc/dhcpcd.conf") else { return Ok(false) };
    c.root.write("etc/dhcpcd.conf", text::dhcpcd(&present, &WIRED).as_bytes(), None)?;
    Ok(true)
}

fn ifupdown(c: &Context<'_>) -> Outcome {
    let mut paths = vec!["etc/network/interfaces".to_owned()];
    let folder = "etc/network/interfaces.d";
    paths.extend(c.root.names(folder).into_iter().take(64).map(|name| format!("{folder}/{name}")));
    let mut acted = false;
    for path in paths {
        if let Some(edited) = c.root.read(&path).and_then(|present| text::interfaces(&present, &WIRED)) {
            c.root.write(&path, edited.as_bytes(), None)?;
            acted = true;
        }
    }
    Ok(acted)
}

fn dns(c: &Context<'_>) -> Outcome {
    if c.dns.is_empty() {
        return Ok(false);
    }
    let resolved = c.root.read_link("etc/resolv.conf").is_some_and(|target| target.contains("systemd/resolve"));
    if resolved {
        let servers: Vec<String> = c.dns.iter().map(ToString::to_string).collect();
        let text = format!("[Resolve]\nDNS={}\n", servers.join(" "));
        c.root.write("etc/systemd/resolved.conf.d/90-rootstock.conf", text.as_bytes(), None)?;
    } else {
        let text: String = c.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
        c.root.write("etc/resolv.conf", text.as_bytes(), None)?;
    }
    Ok(true)
}

/// Raspberry Pi OS has `userconfig.service` (package userconf-pi).
fn user(c: &Context<'_>) -> Outcome {
    let Some(userconf) = &c.profile.userconf else { return Ok(false) };
    let (name, hash) = text::userconf(userconf)
        .ok_or(RuleError::Content("profile/userconf.txt is not `name:hash` as Raspberry Pi Imager writes it"))?;
    if has_unit(c.root, "userconfig.service") {
        c.boot.write("userconf.txt", format!("{name}:{hash}\n").as_bytes(), Some(Owner::root(0o755)))?;
        return Ok(true);
    }
    let Some(passwd) = c.root.read("etc/passwd") else { return Ok(false) };
    if !text::users(&passwd).iter().any(|user| user.name == name) {
        create_user(c, &passwd, name)?;
    }
    let shadow = c.root.read("etc/shadow").unwrap_or_default();
    let owner = (!c.root.exists("etc/shadow")).then_some(Owner::root(0o640));
    c.root.write("etc/shadow", text::shadow(&shadow, name, hash, c.today).as_bytes(), owner)?;
    Ok(true)
}

/// What `adduser` does: lines in passwd and group, a home from /etc/skel, and
/// the groups that make the first user an administrator.
fn create_user(c: &Context<'_>, passwd: &str, name: &str) -> Result<(), RuleError> {
    let users = text::users(passwd);
    let free = |id: &u32| users.iter().all(|user| user.uid != *id && user.gid != *id);
    let id = (1000..60_000).find(free).ok_or(RuleError::Content("no free user id"))?;
    let shell = if c.root.exists("bin/bash") || c.root.exists("usr/bin/bash") { "/bin/bash" } else { "/bin/sh" };
    let home = format!("/home/{name}");

    let group = c.root.read("etc/group").unwrap_or_default();
    let mut group = text::append(&group, &format!("{name}:x:{id}:"));
    for administrators in
        ["sudo", "adm", "users", "video", "audio", "netdev", "gpio", "i2c", "spi", "dialout", "plugdev"]
    {
        group = text::add_member(&group, administrators, name).unwrap_or(group);
    }
    c.root.write("etc/group", group.as_bytes(), None)?;
    if let Some(gshadow) = c.root.read("etc/gshadow") {
        let gshadow = text::append(&gshadow, &format!("{name}:!::"));
        let gshadow = text::add_member(&gshadow, "sudo", name).unwrap_or(gshadow);
        c.root.write("etc/gshadow", gshadow.as_bytes(), None)?;
    }
    c.root.write(
        "etc/passwd",
        text::append(passwd, &format!("{name}:x:{id}:{id}:,,,:{home}:{shell}")).as_bytes(),
        None,
    )?;

    c.root.make_dir(&home, Owner { uid: id, gid: id, mode: 0o755 })?;
    for file in c.root.names("etc/skel").into_iter().take(64) {
        if let Some(content) = c.root.read(&format!("etc/skel/{file}")) {
            let owner = Owner { uid: id, gid: id, mode: 0o644 };
            c.root.write(&format!("{home}/{file}"), content.as_bytes(), Some(owner))?;
        }
    }
    Ok(())
}

/// Root, the image's first user, and the profile's own.
fn authorized_keys(c: &Context<'_>) -> Outcome {
    let Some(keys) = &c.profile.authorized_keys else { return Ok(false) };
    let users = text::users(&c.root.read("etc/passwd").unwrap_or_default());
    let named = c.profile.userconf.as_deref().and_then(text::userconf).map(|(name, _)| name);
    let wanted = |user: &&User| user.uid == 0 || user.uid == 1000 || Some(user.name.as_str()) == named;
    let mut acted = false;
    for user in users.iter().filter(wanted).filter(|user| user.home.starts_with('/') && user.home.len() > 1) {
        give_keys(c.root, user, keys)?;
        acted = true;
    }
    Ok(acted)
}

/// sshd refuses keys that others could have written: the modes are part of it.
fn give_keys(root: &Tree, user: &User, keys: &str) -> Result<(), TreeError> {
    let owner = |mode| Owner { uid: user.uid, gid: user.gid, mode };
    if !root.is_dir(&user.home) {
        root.make_dir(&user.home, owner(0o755))?;
    }
    let folder = format!("{}/.ssh", user.home.trim_end_matches('/'));
    root.make_dir(&folder, owner(0o700))?;
    let path = format!("{folder}/authorized_keys");
    // Keys that the image's maker put there on purpose stay.
    let mut text = root.read(&path).unwrap_or_default();
    for key in keys.lines().filter(|line| !line.trim().is_empty()) {
        if !text.lines().any(|present| present == key) {
            text = text::append(&text, key.trim_end());
        }
    }
    root.write(&path, text.as_bytes(), Some(owner(0o600)))
}

fn ssh(c: &Context<'_>) -> Outcome {
    if c.profile.authorized_keys.is_none() {
        return Ok(false);
    }
    // Ubuntu starts it by its socket; then that is how it stays.
    if c.root.exists(&format!("{ETC_UNITS}/sockets.target.wants/ssh.socket")) {
        return Ok(true);
    }
    let acted = enable(c.root, "ssh.service", "multi-user.target")?;
    if acted {
        let unit = c.root.exists("usr/lib/systemd/system/ssh.service");
        let folder = if unit { "/usr/lib/systemd/system" } else { "/lib/systemd/system" };
        c.root.link(&format!("{folder}/ssh.service"), &format!("{ETC_UNITS}/sshd.service"))?;
        return Ok(true);
    }
    enable(c.root, "sshd.service", "multi-user.target")
}

/// Modes cannot be had from exFAT: what starts as a program is one.
fn files(c: &Context<'_>) -> Outcome {
    for (path, bytes) in &c.profile.files {
        let program = bytes.starts_with(b"#!") || bytes.starts_with(b"\x7fELF");
        let owner = Owner::root(if program { 0o755 } else { 0o644 });
        c.root.write(&path.to_string_lossy(), bytes, Some(owner))?;
    }
    Ok(!c.profile.files.is_empty())
}

fn up(c: &Context<'_>) -> Outcome {
    if !["usr/lib/systemd/systemd", "lib/systemd/systemd"].iter().any(|path| c.root.exists(path)) {
        return Ok(false);
    }
    // WantedBy and After the same target is no loop: systemd does not add its
    // own ordering where there is one already (systemd.target(5)).
    let unit = format!(
        "[Unit]\nDescription=Tell Rootstock that the start is complete\nAfter=multi-user.target\n\n\
         [Service]\nType=oneshot\n\
         ExecStart=/bin/sh -c 'mkdir -p /var/lib/rootstock && cat /proc/sys/kernel/random/boot_id > /{UP_FILE}'\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    c.root.write(&format!("{ETC_UNITS}/rootstock-up.service"), unit.as_bytes(), Some(Owner::root(0o644)))?;
    c.root.link(
        &format!("/{ETC_UNITS}/rootstock-up.service"),
        &format!("{ETC_UNITS}/multi-user.target.wants/rootstock-up.service"),
    )?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::{Applied, Profile, apply};
    use super::*;
    use crate::client::{Client, Mode, Model, Role};
    use std::fs;
    use std::net::Ipv4Addr;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    struct Made {
        folder: tempfile::TempDir,
        applied: Applied,
    }

    impl Made {
        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.folder.path().join("root").join(path)).unwrap_or_default()
        }

        fn link(&self, path: &str) -> PathBuf {
            fs::read_link(self.folder.path().join("root").join(path)).unwrap_or_default()
        }
    }

    fn client() -> Client {
        Client {
            role: Role::numbered(1),
            mac: "dc:a6:32:01:36:c2".parse().unwrap(),
            serial: None,
            revision: None,
            model: Model::Pi4B,
            address: Ipv4Addr::new(192, 168, 77, 10),
            image: "image-1".parse().unwrap(),
            mode: Mode::Persistent,
            volume_size: None,
            export_id: 1,
        }
    }

    /// Applies all rules to a root that holds these files.
    fn check(present: &[(&str, &str)], profile: &Profile) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let (root, boot) = (folder.path().join("root"), folder.path().join("boot"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&boot).unwrap();
        for (path, content) in present {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let (client, dns) = (client(), [Ipv4Addr::new(9, 9, 9, 9)]);
        let context = Context {
            client: &client,
            appliance: Ipv4Addr::new(192, 168, 77, 1),
            dns: &dns,
            profile,
            root: &Tree::open(&root).unwrap(),
            boot: &Tree::open(&boot).unwrap(),
            today: 20_000,
        };
        let applied = apply(&context).unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        Made { folder, applied }
    }

    const BOOKWORM: &[(&str, &str)] = &[
        ("etc/fstab", "PARTUUID=a-01 /boot/firmware vfat defaults 0 2\nPARTUUID=a-02 / ext4 defaults 0 1\n"),
        ("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n"),
        ("etc/hostname", "raspberrypi\n"),
        ("etc/machine-id", "uninitialized\n"),
        ("etc/ssh/sshd_config", ""),
        ("etc/ssh/ssh_host_rsa_key", "shared by everybody"),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\npi:x:1000:1000:,,,:/home/pi:/bin/bash\n"),
        ("etc/shadow", "root:*:1:0:99999:7:::\npi:!:1:0:99999:7:::\n"),
        ("etc/NetworkManager/NetworkManager.conf", ""),
        ("usr/lib/systemd/systemd", ""),
        ("usr/lib/systemd/system/ssh.service", ""),
        ("usr/lib/systemd/system/regenerate_ssh_host_keys.service", ""),
        ("usr/lib/systemd/system/userconfig.service", ""),
        ("usr/lib/systemd/system/rpi-eeprom-update.service", ""),
        ("usr/lib/systemd/system/dphys-swapfile.service", ""),
        ("home/pi/.profile", ""),
    ];

    fn profile() -> Profile {
        Profile {
            authorized_keys: Some("ssh-ed25519 AAAA me\n".into()),
            userconf: Some("ada:$6$salt$hash\n".into()),
            files: vec![(PathBuf::from("usr/local/bin/hello"), b"#!/bin/sh\n".to_vec())],
        }
    }

    #[test]
    fn a_bookworm_root_becomes_one_clients_own() {
        let made = check(BOOKWORM, &profile());
        assert_eq!(made.read("etc/hostname"), "pi-1\n");
        assert!(made.read("etc/hosts").contains("127.0.1.1\tpi-1"));
        assert!(made.read("etc/fstab").contains("192.168.77.1:/clients/pi-1/boot /boot/firmware nfs "));
        assert_eq!(made.read("etc/machine-id").len(), 33);
        assert!(made.read("etc/ssh/ssh_host_rsa_key").is_empty());
        assert!(made.read("etc/ssh/ssh_host_ed25519_key").contains("OPENSSH PRIVATE KEY"));
        assert!(made.read("etc/NetworkManager/conf.d/90-rootstock.conf").contains("mac:dc:a6:32:01:36:c2"));
        for unit in ["regenerate_ssh_host_keys", "rpi-eeprom-update", "dphys-swapfile"] {
            assert_eq!(made.link(&format!("etc/systemd/system/{unit}.service")), Path::new("/dev/null"), "{unit}");
        }
        let wants = "etc/systemd/system/multi-user.target.wants";
        assert_eq!(made.link(&format!("{wants}/ssh.service")), Path::new("/usr/lib/systemd/system/ssh.service"));
        assert_eq!(
            made.link(&format!("{wants}/rootstock-up.service")),
            Path::new("/etc/systemd/system/rootstock-up.service")
        );
        assert_eq!(made.read("etc/resolv.conf"), "nameserver 9.9.9.9\n");
        for home in ["root", "home/pi"] {
            assert_eq!(made.read(&format!("{home}/.ssh/authorized_keys")), "ssh-ed25519 AAAA me\n");
        }
        let owner = fs::metadata(made.folder.path().join("root/home/pi/.ssh/authorized_keys")).unwrap();
        assert_eq!((owner.uid(), owner.mode() & 0o777), (1000, 0o600));
        let program = fs::metadata(made.folder.path().join("root/usr/local/bin/hello")).unwrap();
        assert_eq!(program.mode() & 0o777, 0o755);
        // Raspberry Pi OS's own service makes the user.
        let userconf = fs::read_to_string(made.folder.path().join("boot/userconf.txt")).unwrap();
        assert_eq!(userconf, "ada:$6$salt$hash\n");
        assert!(!made.read("etc/passwd").contains("ada"));
    }

    #[test]
    fn a_debian_root_gets_the_user_of_userconf() {
        let present = &[
            ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
            ("etc/shadow", "root:*:1:0:99999:7:::\n"),
            ("etc/group", "root:x:0:\nsudo:x:27:\n"),
            ("etc/skel/.bashrc", "alias ll='ls -l'\n"),
            ("etc/network/interfaces", "auto eth0\niface eth0 inet dhcp\n"),
            ("bin/bash", ""),
        ];
        let made = check(present, &profile());
        assert!(made.read("etc/passwd").ends_with("ada:x:1000:1000:,,,:/home/ada:/bin/bash\n"));
        assert!(made.read("etc/shadow").contains("ada:$6$salt$hash:20000:"));
        assert_eq!(made.read("etc/group"), "root:x:0:\nsudo:x:27:ada\nada:x:1000:\n");
        assert_eq!(made.read("home/ada/.bashrc"), "alias ll='ls -l'\n");
        assert_eq!(made.read("home/ada/.ssh/authorized_keys"), "ssh-ed25519 AAAA me\n");
        assert!(made.read("etc/network/interfaces").contains("iface eth0 inet manual"));
    }

    #[test]
    fn legacy_and_cloud_images_are_quieted() {
        let present = &[
            ("etc/dhcpcd.conf", "hostname\n"),
            ("etc/init.d/resize2fs_once", ""),
            ("etc/rc3.d/S01resize2fs_once", ""),
            ("etc/rc3.d/S01cron", ""),
            ("etc/cloud/cloud.cfg", ""),
            ("usr/share/initramfs-tools/scripts/local-bottom/growroot", ""),
            ("usr/lib/systemd/systemd-networkd", ""),
            ("etc/rpi/swap.conf", ""),
        ];
        let made = check(present, &Profile::default());
        let root = made.folder.path().join("root");
        assert!(made.read("etc/dhcpcd.conf").contains("denyinterfaces eth0 end0\nhostname\n"));
        assert!(!root.join("etc/init.d/resize2fs_once").exists() && !root.join("etc/rc3.d/S01resize2fs_once").exists());
        assert!(root.join("etc/rc3.d/S01cron").exists() && root.join("etc/growroot-disabled").exists());
        assert!(made.read("etc/cloud/cloud.cfg.d/99-rootstock.cfg").contains("network: {config: disabled}"));
        assert!(made.read("etc/systemd/network/00-rootstock.network").contains("Unmanaged=yes"));
        assert!(made.read("etc/rpi/swap.conf.d/90-rootstock.conf").contains("Mechanism=zram"));
    }

    #[test]
    fn rules_that_find_nothing_do_nothing() {
        let made = check(&[], &Profile::default());
        assert_eq!(made.applied.acted, ["hostname", "hosts", "fstab", "machine-id", "dns"]);
    }

    #[test]
    fn rules_are_named_once_and_say_why() {
        let mut names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
        assert!(RULES.iter().all(|rule| !rule.finds.is_empty() && !rule.does.is_empty() && !rule.why.is_empty()));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
    }
}
