//! Rules about what a system does at its start: growing a disk, swapping,
//! first-boot services, telling that it is up. I/O through `Tree`.

use super::units::{self, has_systemd, mask};
use super::{Context, Outcome};

/// Written by a client when its start is complete: what `Up` is told by.
pub const UP_FILE: &str = "var/lib/rootstock/up";

pub fn resize(c: &Context<'_>) -> Outcome {
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

pub fn swap(c: &Context<'_>) -> Outcome {
    // The last two are Ubuntu's, on its desktop for the Pi.
    let mut acted = mask(c.root, &["dphys-swapfile.service", "mkswap.service", "swapfile.swap"])?;
    let rpi_swap = ["etc/rpi/swap.conf", "usr/lib/systemd/system-generators/rpi-swap-generator", "usr/share/rpi-swap"];
    if rpi_swap.iter().any(|path| c.root.exists(path)) || c.root.is_dir("etc/rpi/swap.conf.d") {
        c.root.write("etc/rpi/swap.conf.d/90-rootstock.conf", b"[Main]\nMechanism=zram\n", None)?;
        acted = true;
    }
    Ok(acted)
}

pub fn up(c: &Context<'_>) -> Outcome {
    if !has_systemd(c.root) {
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
    units::put(c.root, "rootstock-up.service", &unit, "multi-user.target")?;
    Ok(true)
}
