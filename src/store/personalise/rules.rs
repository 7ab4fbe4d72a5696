//! The rules, in the order they are applied: what each looks for, what it does
//! and why. Pure data; the functions lie by topic beside this file.

use super::units::mask;
use super::{Rule, cloud, custom, dns, identity, network, read_only, system, users, volume};

pub const RULES: &[Rule] = &[
    Rule {
        name: "hostname",
        finds: "always",
        does: "writes the role to /etc/hostname",
        why: "every client of an image would have the image's name",
        apply: identity::hostname,
    },
    Rule {
        name: "hosts",
        finds: "always",
        does: "gives the role the address 127.0.1.1 in /etc/hosts",
        why: "sudo and others look up the own name, and wait for DNS where it is unknown",
        apply: identity::hosts,
    },
    Rule {
        name: "fstab",
        finds: "/etc/fstab",
        does: "comments out the partitions of the medium and mounts the boot tree by NFS",
        why: "systemd waits 90 s for each; a kernel upgrade must reach the tree that TFTP serves",
        apply: identity::fstab,
    },
    Rule {
        name: "boot-mount",
        finds: "systemd",
        does: "mounts the boot tree with the local file systems",
        why: "userconf, sshswitch and cloud-init look into it early; behind network-online some would miss it",
        apply: identity::boot_mount,
    },
    Rule {
        name: "machine-id",
        finds: "always",
        does: "writes a new /etc/machine-id, and D-Bus's copy where it is a file",
        why: "DHCP client ids, journals and D-Bus tell machines apart by it",
        apply: identity::machine_id,
    },
    Rule {
        name: "ssh-host-keys",
        finds: "/etc/ssh/sshd_config",
        does: "removes the image's host keys and writes new ones",
        why: "keys that two machines share protect neither; making them on the client would delay its first boot",
        apply: identity::ssh_host_keys,
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
        apply: system::resize,
    },
    Rule {
        name: "swap",
        finds: "dphys-swapfile, Ubuntu's swapfile, rpi-swap",
        does: "masks the first two and tells the third to use zram only",
        why: "a swap file over NFS deadlocks when memory is short",
        apply: system::swap,
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
        does: "switches off its network, growpart, host key and host name parts, over user-data too, and hands it \
               the boot tree's user-data and meta-data",
        why: "it would take eth0 down, delete the keys and set another name; users and packages of its user-data \
              stay, but it looks for them on a partition that is not there",
        apply: cloud::cloud_init,
    },
    Rule {
        name: "network-manager",
        finds: "/etc/NetworkManager",
        does: "makes eth0 unmanaged, by name and by MAC address",
        why: "taking the interface down for a moment loses the root for ever",
        apply: network::network_manager,
    },
    Rule {
        name: "networkd",
        finds: "systemd-networkd",
        does: "a .network file, first in order, that leaves the client's MAC address unmanaged",
        why: "the same; also outranks what netplan and ip=dhcp generate",
        apply: network::networkd,
    },
    Rule {
        name: "dhcpcd",
        finds: "/etc/dhcpcd.conf",
        does: "denyinterfaces",
        why: "the same, on Raspberry Pi OS Legacy",
        apply: network::dhcpcd,
    },
    Rule {
        name: "ifupdown",
        finds: "/etc/network/interfaces and interfaces.d naming eth0",
        does: "iface eth0 inet manual, and no auto or allow-hotplug for it",
        why: "the same, on plain Debian; ifdown would take a manual interface down before the root is let go",
        apply: network::ifupdown,
    },
    Rule {
        name: "dns",
        finds: "name servers in the appliance's configuration, or else systemd",
        does: "writes them for systemd-resolved or into /etc/resolv.conf; or a unit that does so with those that came \
               with the interface's address",
        why: "an interface that nothing manages brings no name servers: beside a router no name would be found",
        apply: dns::dns,
    },
    Rule {
        name: "user",
        finds: "userconf.txt in the profile",
        does: "hands it to Raspberry Pi OS's own service on the boot tree, or else creates the user",
        why: "that service also renames groups, sudo rules and autologin of its release, which we must not guess; \
              other systems have nothing like it",
        apply: users::user,
    },
    Rule {
        name: "custom.toml",
        finds: "custom.toml in the boot tree, and userconf-pi",
        does: "its user, keys, ssh, time zone and keyboard, where the profile says nothing; its host name never",
        why: "firstboot would do it, but wants a block device and reboots; the profile is the stick's own word",
        apply: custom::custom,
    },
    Rule {
        name: "authorized-keys",
        finds: "authorized_keys in the profile",
        does: "gives them to root and to the first user",
        why: "the way into a machine without keyboard and password",
        apply: users::authorized_keys,
    },
    Rule {
        name: "ssh",
        finds: "authorized_keys in the profile and an ssh unit",
        does: "enables it",
        why: "Raspberry Pi OS has it off until asked",
        apply: users::ssh,
    },
    Rule {
        name: "read-only",
        finds: "systemd",
        does: "a unit that lays memory over /var, /home, /root, /srv and /tmp where the root is read-only",
        why: "a client in that mode would not come up: its system writes there while it starts",
        apply: read_only::read_only,
    },
    Rule {
        name: "volume",
        finds: "systemd, and volume_size in client.toml",
        does: "a unit that mounts the client's block volume at /var/lib/containers, docker and rancher",
        why: "container engines want an overlay there, which NFS cannot be the upper layer of",
        apply: volume::volume,
    },
    Rule {
        name: "files",
        finds: "files/ in the profile",
        does: "lays them over the root",
        why: "what a person wants in every client",
        apply: users::files,
    },
    Rule {
        name: "up",
        finds: "systemd",
        does: "a unit that writes the boot id to /var/lib/rootstock/up after multi-user.target",
        why: "the only evidence that a client's start is complete; it arrives as a write",
        apply: system::up,
    },
];

#[cfg(test)]
mod tests {
    use super::super::{Applied, Context, Profile, Tree, apply};
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
            quota: None,
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
        // For the day when its mode becomes read-only; a volume it was not given.
        let read_only = "etc/systemd/system/local-fs.target.wants/rootstock-read-only.service";
        assert_eq!(made.link(read_only), Path::new("/etc/systemd/system/rootstock-read-only.service"));
        assert!(made.read("etc/systemd/system/rootstock-volume.service").is_empty());
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
        assert_eq!(made.read("etc/network/interfaces"), "# rootstock: auto eth0\niface eth0 inet manual\n");
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
        assert!(made.read("etc/cloud/cloud.cfg.d/zz-rootstock.cfg").contains("network: {config: disabled}"));
        assert!(made.read("etc/systemd/network/00-rootstock.network").contains("Unmanaged=yes"));
        assert!(made.read("etc/rpi/swap.conf.d/90-rootstock.conf").contains("Mechanism=zram"));
    }

    #[test]
    fn a_volume_comes_before_the_engines_and_goes_without_a_trace_in_them() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("usr/lib/systemd")).unwrap();
        fs::write(folder.path().join("usr/lib/systemd/systemd"), "").unwrap();
        let root = Tree::open(folder.path()).unwrap();
        let fit = |size: Option<u64>| {
            let client = Client { volume_size: size.map(crate::size::Size), ..client() };
            super::volume::fit(&root, Ipv4Addr::new(192, 168, 77, 1), &client).unwrap()
        };
        let requires = "etc/systemd/system/docker.service.requires/rootstock-volume.service";
        assert!(!fit(None));
        assert!(fit(Some(1 << 30)));
        assert!(!fit(Some(1 << 30)), "what is there is not written anew");
        assert!(root.exists(requires));
        let script = root.read("usr/local/lib/rootstock/volume").unwrap();
        assert!(script.contains("addr=192.168.77.1 192.168.77.1:/clients/pi-1/volume $run/volume"));
        assert!(fit(None));
        assert!(
            !root.exists(requires)
                && !root.exists("etc/systemd/system/multi-user.target.wants/rootstock-volume.service")
        );
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
