//! What a system needs to live with a read-only root: the folders that it
//! writes to are laid over in memory, until it is switched off. I/O through `Tree`.
//!
//! In every root, since a client's mode may change: the unit acts only where
//! the kernel mounted the root read-only.

use super::tree::Owner;
use super::units::{self, has_systemd};
use super::{Context, Outcome};

const UNIT: &str = "rootstock-read-only.service";
const SCRIPT: &str = "usr/local/lib/rootstock/read-only";

/// An overlay may have NFS as its lower layer, only not as its upper one. Not
/// `systemd.volatile=`: its overlay needs systemd in the initramfs, and its
/// other ways hide what lies in /var. Half of the memory for all of them, as
/// the kernel's own default for one tmpfs.
const TEXT: &str = r#"#!/bin/sh
# Written by Rootstock: this root is read-only; what is written here stays in memory.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
memory=/run/rootstock/memory
mkdir -p $memory
mountpoint -q $memory || mount -t tmpfs -o mode=0755,size=50% rootstock $memory
modprobe overlay 2>/dev/null || true
for folder in var home root srv; do
    [ -d /$folder ] && ! mountpoint -q /$folder || continue
    mkdir -p $memory/$folder.work $memory/$folder
    # The top of the overlay shows the upper folder's owner and mode.
    chown --reference=/$folder $memory/$folder
    chmod --reference=/$folder $memory/$folder
    mount -t overlay -o lowerdir=/$folder,upperdir=$memory/$folder,workdir=$memory/$folder.work overlay /$folder
done
if ! mountpoint -q /tmp; then
    mkdir -p $memory/tmp
    chmod 1777 $memory/tmp
    mount --bind $memory/tmp /tmp
fi
"#;

/// Before everything that writes: all of it is ordered behind local-fs.target.
const UNIT_TEXT: &str = "\
# Written by Rootstock: for a client whose mode is read-only.
[Unit]
Description=Memory over what a read-only root cannot take
DefaultDependencies=no
ConditionPathIsReadWrite=!/
After=systemd-remount-fs.service systemd-modules-load.service
Before=local-fs-pre.target local-fs.target systemd-journal-flush.service systemd-random-seed.service \
systemd-tmpfiles-setup.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/rootstock/read-only

[Install]
WantedBy=local-fs.target
";

pub fn read_only(c: &Context<'_>) -> Outcome {
    if !has_systemd(c.root) {
        return Ok(false);
    }
    c.root.write(SCRIPT, TEXT.as_bytes(), Some(Owner::root(0o755)))?;
    units::put(c.root, UNIT, UNIT_TEXT, "local-fs.target")?;
    Ok(true)
}
