//! Rules that make a root its client's own: names, keys, where its trees are.
//! I/O through `Tree`.

use std::net::Ipv4Addr;

use super::tree::{Owner, Tree, TreeError};
use super::units::{ETC_UNITS, has_systemd};
use super::{Context, Outcome, keys, text};
use crate::client::Client;

pub fn hostname(c: &Context<'_>) -> Outcome {
    c.root.write("etc/hostname", format!("{}\n", c.client.role).as_bytes(), None)?;
    Ok(true)
}

pub fn hosts(c: &Context<'_>) -> Outcome {
    let present = c.root.read("etc/hosts").unwrap_or_default();
    c.root.write("etc/hosts", text::hosts(&present, c.client.role.as_str()).as_bytes(), None)?;
    Ok(true)
}

/// An image without fstab, or without a boot line, still gets the boot tree,
/// where its folder says it belongs.
pub fn fstab(c: &Context<'_>) -> Outcome {
    fit_boot(c.root, c.appliance, c.client)?;
    Ok(true)
}

/// Writes where the boot tree comes from; a root that was adapted before may be
/// given the address that the appliance has now.
pub fn fit_boot(root: &Tree, appliance: Ipv4Addr, client: &Client) -> Result<(), TreeError> {
    let present = root.read("etc/fstab").unwrap_or_default();
    let edited = text::fstab(&present, appliance, client.role.as_str(), boot_point(root, &present));
    root.write("etc/fstab", edited.as_bytes(), None)
}

/// Whether its boot tree comes from this address. A root without a line of ours
/// is a person's own way, and stays so.
pub fn is_fit(root: &Tree, appliance: Ipv4Addr, client: &Client) -> bool {
    let present = root.read("etc/fstab").unwrap_or_default();
    let ours = format!(":/clients/{}/boot", client.role);
    let device =
        |line: &str| line.split_whitespace().next().and_then(|word| word.strip_suffix(&ours)).map(str::to_owned);
    present.lines().filter_map(device).all(|address| address.starts_with('#') || address == appliance.to_string())
}

fn boot_point(root: &Tree, fstab: &str) -> &'static str {
    let by_folder = || if root.is_dir("boot/firmware") { "/boot/firmware" } else { "/boot" };
    text::boot_point(fstab).unwrap_or_else(by_folder)
}

/// systemd would order a network mount behind network-online.target, which is
/// behind what reads the boot partition at a start.
pub fn boot_mount(c: &Context<'_>) -> Outcome {
    if !has_systemd(c.root) {
        return Ok(false);
    }
    let point = boot_point(c.root, &c.root.read("etc/fstab").unwrap_or_default());
    let unit = format!("{}.mount", point.trim_start_matches('/').replace('/', "-"));
    let text = "# Written by Rootstock: the network is there when the root is.\n\
                [Unit]\nDefaultDependencies=no\nConflicts=umount.target\nBefore=local-fs.target umount.target\n";
    c.root.write(&format!("{ETC_UNITS}/{unit}.d/rootstock.conf"), text.as_bytes(), Some(Owner::root(0o644)))?;
    Ok(true)
}

pub fn machine_id(c: &Context<'_>) -> Outcome {
    let id = format!("{}\n", keys::machine_id()?);
    c.root.write("etc/machine-id", id.as_bytes(), Some(Owner::root(0o444)))?;
    let dbus = "var/lib/dbus/machine-id";
    if c.root.exists(dbus) && c.root.read_link(dbus).is_none() {
        c.root.write(dbus, id.as_bytes(), None)?;
    }
    Ok(true)
}

pub fn ssh_host_keys(c: &Context<'_>) -> Outcome {
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
