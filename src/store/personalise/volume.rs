//! What a client needs to use its block volume: a script that mounts it, and a
//! unit that runs it before container engines start. I/O through `Tree`.
//!
//! Also applied to a root that is there already: `volume_size` may be given
//! to a client at any time, and is taken from it by the same function.

use std::net::Ipv4Addr;

use super::tree::Owner;
use super::units::{ETC_UNITS, has_systemd};
use super::{Context, Outcome, Tree, TreeError};
use crate::client::Client;

const UNIT: &str = "rootstock-volume.service";
const SCRIPT: &str = "usr/local/lib/rootstock/volume";
/// They must not begin to write where the volume will be mounted.
const ENGINES: [&str; 7] = [
    "containerd.service",
    "docker.service",
    "podman.service",
    "crio.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
];

pub fn volume(c: &Context<'_>) -> Outcome {
    Ok(fit(c.root, c.appliance, c.client)?)
}

/// Gives the unit to a client with a volume, and takes it from one without;
/// whether it did anything.
pub fn fit(root: &Tree, appliance: Ipv4Addr, client: &Client) -> Result<bool, TreeError> {
    let wants = |target: &str| format!("{ETC_UNITS}/{target}/{UNIT}");
    let links = ENGINES.iter().map(|engine| format!("{engine}.requires")).chain(["multi-user.target.wants".to_owned()]);
    if client.volume_size.is_none() || !has_systemd(root) {
        let mut acted = false;
        for link in links {
            acted |= root.remove(&wants(&link))?;
        }
        return Ok(acted);
    }
    let mut acted = put(root, SCRIPT, &script(appliance, client), 0o755)?;
    acted |= put(root, &format!("{ETC_UNITS}/{UNIT}"), &unit(), 0o644)?;
    for link in links {
        let target = format!("/{ETC_UNITS}/{UNIT}");
        if root.read_link(&wants(&link)).as_deref() != Some(&target) {
            root.link(&target, &wants(&link))?;
            acted = true;
        }
    }
    Ok(acted)
}

/// Writes what is not there yet: this happens at each boot of the client.
fn put(root: &Tree, path: &str, text: &str, mode: u32) -> Result<bool, TreeError> {
    if root.read(path).as_deref() == Some(text) {
        return Ok(false);
    }
    root.write(path, text.as_bytes(), Some(Owner::root(mode)))?;
    Ok(true)
}

/// `DefaultDependencies=no`: it is part of the start of the system, and is
/// stopped behind the engines, which are ordered after it.
fn unit() -> String {
    format!(
        "# Written by Rootstock: volume_size stands in this client's client.toml.\n\
         [Unit]\nDescription=Block volume for containers\nDefaultDependencies=no\n\
         After=systemd-remount-fs.service rootstock-read-only.service local-fs.target\n\
         Before=remote-fs.target umount.target {}\nConflicts=umount.target\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutStartSec=900\n\
         ExecStart=/{SCRIPT} start\nExecStop=/{SCRIPT} stop\n\n\
         [Install]\nWantedBy=multi-user.target\nRequiredBy={}\n",
        ENGINES.join(" "),
        ENGINES.join(" "),
    )
}

/// The volume's file comes by an NFS mount of its own; the options are those
/// of the boot tree. Each step may have been done before: an engine that is
/// restarted must not fail by that.
///
/// Not `--direct-io`: each write of the file system would then be a write with
/// a COMMIT, which is an fsync on the stick; ext4's own flushes are enough.
fn script(appliance: Ipv4Addr, client: &Client) -> String {
    let export = format!("{appliance}:/clients/{}/volume", client.role);
    format!(
        r#"#!/bin/sh
# Written by Rootstock: mounts this client's block volume for container engines.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
run=/run/rootstock
image=$run/volume/containers.ext4
disk=$run/containers

start() {{
    mkdir -p $run/volume $disk
    mountpoint -q $run/volume ||
        mount -t nfs -o vers=3,proto=tcp,nolock,addr={appliance} {export} $run/volume
    modprobe loop 2>/dev/null || true
    if ! mountpoint -q $disk; then
        loop=$(losetup -n -O NAME -j $image | head -n 1)
        [ -n "$loop" ] || loop=$(losetup --find --show $image)
        # After a power cut the journal is replayed; 1 and 2 mean: mended.
        status=0
        e2fsck -p "$loop" || status=$?
        [ $status -lt 4 ] || {{ echo "e2fsck found what a person must decide: e2fsck $loop" >&2; exit 1; }}
        mount -t ext4 -o noatime "$loop" $disk
        # volume_size may have grown; without a change this does nothing.
        resize2fs "$loop"
    fi
    for name in containers docker rancher; do
        mkdir -p $disk/$name /var/lib/$name
        mountpoint -q /var/lib/$name || mount --bind $disk/$name /var/lib/$name
    done
}}

stop() {{
    for name in containers docker rancher; do
        ! mountpoint -q /var/lib/$name || umount /var/lib/$name || umount -l /var/lib/$name
    done
    ! mountpoint -q $disk || umount $disk
    for loop in $(losetup -n -O NAME -j $image); do losetup -d "$loop"; done
    ! mountpoint -q $run/volume || umount $run/volume
}}

"$1"
"#
    )
}
