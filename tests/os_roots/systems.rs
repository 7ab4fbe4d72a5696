//! The systems: which packages make each, and what its makers add. Data, and
//! the one function that makes a root of it.
//!
//! What is not in Debian is written after public sources (pi-gen and
//! raspberrypi-sys-mods of RPi-Distro, rpi-swap, Ubuntu's own descriptions):
//! names, places and what a unit is for, not its text.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub struct System {
    pub name: &'static str,
    suite: &'static str,
    packages: &'static [&'static str],
    /// Path, content.
    files: &'static [(&'static str, &'static str)],
    /// Path, where it leads to.
    links: &'static [(&'static str, &'static str)],
    boot: &'static [(&'static str, &'static str)],
}

/// What every Debian-like root has that no package holds.
const COMMON: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\npi:x:1000:1000:,,,:/home/pi:/bin/bash\n"),
    ("etc/shadow", "root:*:19000:0:99999:7:::\npi:!:19000:0:99999:7:::\n"),
    ("etc/group", "root:x:0:\nsudo:x:27:pi\npi:x:1000:\n"),
    ("etc/hosts", "127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost\n\n127.0.1.1\traspberrypi\n"),
    ("etc/hostname", "raspberrypi\n"),
    ("etc/machine-id", "uninitialized\n"),
    ("etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n"),
    ("home/pi/.profile", "# ~/.profile\n"),
];

/// As Raspberry Pi Imager writes it, and worse: it asks for everything that a
/// network root cannot take.
const USER_DATA: &str = "#cloud-config\nhostname: fromimager\nfqdn: fromimager.lan\nmanage_etc_hosts: true\n\
    preserve_hostname: false\nssh_deletekeys: true\nssh_genkeytypes: [rsa]\ngrowpart: {mode: auto, devices: ['/']}\n\
    resize_rootfs: true\nswap: {filename: /swap.img, size: 1G}\ndisable_root: true\n\
    users:\n- name: ada\n  passwd: \"$6$salt$hash\"\n  lock_passwd: false\n";
const META_DATA: &str = "dsmode: local\ninstance_id: rpios-image\ninstance-id: rpios-image\n";
const NETWORK_CONFIG: &str = "network:\n  version: 2\n  ethernets:\n    eth0:\n      dhcp4: true\n";

const ONESHOT: &str = "[Service]\nType=oneshot\nExecStart=/bin/true\n\n[Install]\nWantedBy=multi-user.target\n";
const UNITS: &str = "usr/lib/systemd/system";

pub const RASPIOS_TRIXIE: System = System {
    name: "raspios-trixie",
    suite: "trixie",
    packages: &[
        "base-files",
        "systemd",
        "openssh-server",
        "network-manager",
        "cloud-init",
        "netplan.io",
        "netplan-generator",
        "systemd-zram-generator",
        "systemd-repart",
        "python3-",
    ],
    files: &[
        (
            "etc/fstab",
            "proc /proc proc defaults 0 0\nPARTUUID=8a438930-01 /boot/firmware vfat defaults 0 2\n\
                       PARTUUID=8a438930-02 / ext4 defaults,noatime 0 1\n",
        ),
        (
            "etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg",
            "datasource_list: [ NoCloud, None ]\ndatasource:\n  NoCloud:\n    \
                       seedfrom: file:///boot/firmware\n",
        ),
        ("usr/lib/netplan/00-network-manager-all.yaml", "network:\n  version: 2\n  renderer: NetworkManager\n"),
        ("usr/lib/systemd/system/rpi-resize.service", ONESHOT),
        ("usr/lib/systemd/system/regenerate_ssh_host_keys.service", ONESHOT),
        ("usr/lib/systemd/system/sshswitch.service", ONESHOT),
        ("usr/lib/systemd/system/userconfig.service", ONESHOT),
        ("usr/lib/systemd/system/rpi-eeprom-update.service", ONESHOT),
        ("usr/lib/systemd/system/rpi-resize-swap-file.service", ONESHOT),
        ("usr/lib/systemd/system-generators/rpi-swap-generator", "#!/bin/sh\n"),
        ("etc/rpi/swap.conf", "[Main]\n#Mechanism=auto\n"),
        ("boot/firmware/.keep", ""),
    ],
    links: &[
        ("etc/systemd/system/sysinit.target.wants/rpi-resize.service", "/usr/lib/systemd/system/rpi-resize.service"),
        ("etc/systemd/system/multi-user.target.wants/userconfig.service", "/usr/lib/systemd/system/userconfig.service"),
        (
            "etc/systemd/system/cloud-init.target.wants/cloud-init-local.service",
            "/usr/lib/systemd/system/cloud-init-local.service",
        ),
    ],
    boot: &[
        ("user-data", USER_DATA),
        ("meta-data", META_DATA),
        ("network-config", NETWORK_CONFIG),
        ("cmdline.txt", "console=tty1 root=PARTUUID=8a438930-02 rootfstype=ext4 fsck.repair=yes rootwait resize\n"),
        ("config.txt", "auto_initramfs=1\n"),
    ],
};

pub const RASPIOS_BOOKWORM: System = System {
    name: "raspios-bookworm",
    suite: "bookworm",
    packages: &["base-files", "systemd", "openssh-server", "network-manager", "dphys-swapfile"],
    files: &[
        (
            "etc/fstab",
            "proc /proc proc defaults 0 0\nPARTUUID=4e639091-01 /boot/firmware vfat defaults 0 2\n\
                       PARTUUID=4e639091-02 / ext4 defaults,noatime 0 1\n",
        ),
        ("usr/lib/raspberrypi-sys-mods/firstboot", "#!/bin/bash\n"),
        ("usr/lib/systemd/system/regenerate_ssh_host_keys.service", ONESHOT),
        ("usr/lib/systemd/system/sshswitch.service", ONESHOT),
        ("usr/lib/systemd/system/userconfig.service", ONESHOT),
        ("usr/lib/systemd/system/rpi-eeprom-update.service", ONESHOT),
        ("usr/share/zoneinfo/Europe/Berlin", "TZif2"),
        ("etc/default/keyboard", "XKBMODEL=\"pc105\"\nXKBLAYOUT=\"gb\"\n"),
        ("boot/firmware/.keep", ""),
    ],
    links: &[
        ("etc/systemd/system/multi-user.target.wants/userconfig.service", "/usr/lib/systemd/system/userconfig.service"),
        (
            "etc/systemd/system/multi-user.target.wants/dphys-swapfile.service",
            "/lib/systemd/system/dphys-swapfile.service",
        ),
    ],
    boot: &[
        (
            "cmdline.txt",
            "console=tty1 root=PARTUUID=4e639091-02 rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n",
        ),
        ("config.txt", "auto_initramfs=1\n"),
        (
            "custom.toml",
            "config_version = 1\n[system]\nhostname = \"fromimager\"\n[user]\nname = \"ada\"\n\
                         password = \"$6$salt$hash\"\npassword_encrypted = true\n[ssh]\nenabled = true\n\
                         [locale]\nkeymap = \"de\"\ntimezone = \"Europe/Berlin\"\n",
        ),
    ],
};

/// Bullseye's layout; the packages are Bookworm's, which still has them.
pub const RASPIOS_LEGACY: System = System {
    name: "raspios-legacy",
    suite: "bookworm",
    packages: &["base-files", "systemd", "openssh-server", "dhcpcd", "dhcpcd-base", "dphys-swapfile"],
    files: &[
        (
            "etc/fstab",
            "proc /proc proc defaults 0 0\nPARTUUID=4e639091-01 /boot vfat defaults 0 2\n\
                       PARTUUID=4e639091-02 / ext4 defaults,noatime 0 1\n",
        ),
        ("etc/init.d/resize2fs_once", "#!/bin/sh\n"),
        ("usr/lib/systemd/system/regenerate_ssh_host_keys.service", ONESHOT),
        ("usr/lib/systemd/system/apply_noobs_os_config.service", ONESHOT),
        ("usr/lib/systemd/system/sshswitch.service", ONESHOT),
        ("usr/lib/systemd/system/rpi-eeprom-update.service", ONESHOT),
    ],
    links: &[
        ("etc/rc3.d/S01resize2fs_once", "../init.d/resize2fs_once"),
        ("etc/rc5.d/S01resize2fs_once", "../init.d/resize2fs_once"),
    ],
    boot: &[("cmdline.txt", "console=tty1 root=PARTUUID=4e639091-02 init=/usr/lib/raspi-config/init_resize.sh\n")],
};

/// Debian as its own images for the Pi and for clouds have it.
pub const DEBIAN: System = System {
    name: "debian",
    suite: "bookworm",
    packages: &["base-files", "systemd", "openssh-server", "ifupdown", "cloud-init", "netplan.io", "libc6", "python3-"],
    files: &[
        ("etc/fstab", "LABEL=RASPIROOT / ext4 rw 0 1\nLABEL=RASPIFIRM /boot/firmware vfat rw 0 2\n"),
        ("etc/network/interfaces", "source-directory /etc/network/interfaces.d\nauto lo\niface lo inet loopback\n"),
        (
            "etc/network/interfaces.d/eth0",
            "auto eth0\nallow-hotplug eth0\niface eth0 inet dhcp\n    metric 5\n\
                                           iface eth0 inet6 auto\n",
        ),
        ("etc/network/interfaces.d/wlan0", "allow-hotplug wlan0\niface wlan0 inet dhcp\n"),
        ("usr/lib/systemd/system/rpi-set-sysconf.service", ONESHOT),
        ("usr/lib/systemd/system/rpi-resizerootfs.service", ONESHOT),
        ("boot/firmware/.keep", ""),
    ],
    links: &[],
    boot: &[
        ("cmdline.txt", "console=tty0 root=LABEL=RASPIROOT rw fsck.repair=yes net.ifnames=0 rootwait\n"),
        ("user-data", USER_DATA),
        ("meta-data", META_DATA),
    ],
};

pub const UBUNTU: System = System {
    name: "ubuntu",
    suite: "trixie",
    packages: &[
        "base-files",
        "systemd",
        "systemd-resolved",
        "openssh-server",
        "cloud-init",
        "cloud-initramfs-growroot",
        "netplan.io",
        "netplan-generator",
        "python3-",
    ],
    files: &[
        (
            "etc/fstab",
            "LABEL=writable\t/\text4\tdefaults\t0 1\nLABEL=system-boot\t/boot/firmware\tvfat\tdefaults\t0 1\n",
        ),
        (
            "etc/cloud/cloud.cfg.d/99-fake-cloud.cfg",
            "datasource_list: [ NoCloud, None ]\ndatasource:\n  NoCloud:\n    \
                       fs_label: system-boot\n",
        ),
        ("etc/netplan/50-cloud-init.yaml", NETWORK_CONFIG),
        // The package's trigger makes the folder empty; Ubuntu has a file there.
        (
            "usr/lib/NetworkManager/conf.d/10-globally-managed-devices.conf",
            "[keyfile]\nunmanaged-devices=*,except:type:wifi\n",
        ),
        ("etc/NetworkManager/NetworkManager.conf", "[main]\nplugins=keyfile\n"),
        ("usr/lib/systemd/system/mkswap.service", ONESHOT),
        ("usr/lib/systemd/system/swapfile.swap", "[Swap]\nWhat=/swapfile\n"),
        ("boot/firmware/.keep", ""),
    ],
    links: &[
        ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
        ("etc/systemd/system/sockets.target.wants/ssh.socket", "/usr/lib/systemd/system/ssh.socket"),
    ],
    boot: &[
        (
            "config.txt",
            "[all]\nkernel=vmlinuz\ncmdline=cmdline.txt\ninitramfs initrd.img followkernel\nos_prefix=current/\n",
        ),
        (
            "current/cmdline.txt",
            "multipath=off dwc_otg.lpm_enable=0 console=tty1 root=LABEL=writable rootfstype=ext4\n",
        ),
        ("user-data", USER_DATA),
        ("meta-data", META_DATA),
        ("network-config", NETWORK_CONFIG),
    ],
};

/// Neither systemd nor anything else that a rule looks for.
pub const OTHER: System = System {
    name: "other",
    suite: "trixie",
    packages: &[],
    files: &[("etc/inittab", "::sysinit:/sbin/openrc sysinit\n"), ("etc/fstab", "/dev/mmcblk0p2 / ext4 rw 0 1\n")],
    links: &[],
    boot: &[("cmdline.txt", "modules=loop,squashfs console=tty1\n")],
};

impl System {
    /// Makes the root and the boot tree as the image would have them.
    pub fn make(&self, root: &Path, boot: &Path) {
        for folder in ["usr/bin", "usr/sbin", "usr/lib", "etc", "home/pi", "root"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        // As every Debian since Bookworm, and Ubuntu, has them.
        for folder in ["bin", "sbin", "lib"] {
            symlink(format!("usr/{folder}"), root.join(folder)).unwrap();
        }
        for package in self.debs() {
            let done = Command::new("dpkg-deb").arg("-x").arg(&package).arg(root).status().unwrap();
            assert!(done.success(), "dpkg-deb -x {}", package.display());
        }
        let common = if self.packages.is_empty() { &[] } else { COMMON };
        for (path, content) in common.iter().chain(self.files) {
            put(root, path, content);
        }
        for (path, target) in self.links {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            let _ = fs::remove_file(root.join(path));
            symlink(target, root.join(path)).unwrap();
        }
        fs::create_dir_all(boot).unwrap();
        for (path, content) in self.boot {
            put(boot, path, content);
        }
        assert!(self.packages.is_empty() || root.join(UNITS).is_dir());
    }

    /// `python3-` stands for all packages of that start: cloud-init's own needs.
    fn debs(&self) -> Vec<PathBuf> {
        if self.packages.is_empty() {
            return Vec::new();
        }
        let fetched = fetched(self.suite);
        let wanted = |name: &str| {
            self.packages.iter().any(|package| *package == name || package.ends_with('-') && name.starts_with(package))
        };
        let debs: Vec<PathBuf> =
            fetched.iter().filter(|(name, _)| wanted(name)).map(|(_, file)| file.clone()).collect();
        assert!(debs.len() >= self.packages.len(), "{}: not all of its packages are in the list", self.name);
        debs
    }
}

fn put(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    let mode = if content.starts_with("#!") { 0o755 } else { 0o644 };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Package names and files of one suite's lock, fetched once a run.
fn fetched(suite: &str) -> &'static HashMap<String, PathBuf> {
    static BOOKWORM: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    static TRIXIE: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    let fetch = || {
        let top = env!("CARGO_MANIFEST_DIR");
        let done = Command::new(format!("{top}/board/fetch"))
            .arg(format!("{top}/tests/os_roots/{suite}.lock"))
            .arg(suite)
            .stderr(std::process::Stdio::inherit())
            .output()
            .unwrap();
        assert!(done.status.success(), "board/fetch of tests/os_roots/{suite}.lock failed");
        let text = String::from_utf8(done.stdout).unwrap();
        let line = |line: &str| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), PathBuf::from(words.nth(2)?)))
        };
        text.lines().filter_map(line).collect()
    };
    if suite == "bookworm" { BOOKWORM.get_or_init(fetch) } else { TRIXIE.get_or_init(fetch) }
}
