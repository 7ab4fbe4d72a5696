//! The rule for cloud-init, which Raspberry Pi OS (Trixie) and Ubuntu set a
//! machine up with at its first start. I/O through `Tree`.
//!
//! Read from its source, 22.4 and 25.1: what stands in user-data outranks
//! /etc/cloud, and a file named by `CLOUD_CFG` in the environment outranks
//! user-data. Network configuration that klibc left in /run (each netboot does)
//! outranks `network: {config: disabled}`, but not the file `upgraded-network`.
//! Of two files in cloud.cfg.d the last by name wins. Maps are merged key by key,
//! so an empty one takes nothing out.

use super::tree::Owner;
use super::units::{ETC_UNITS, has_unit};
use super::{Context, Outcome};

/// Last by name, behind `99_raspberry-pi.cfg` and `curtin-…cfg`.
const CONFIG: &str = "etc/cloud/cloud.cfg.d/zz-rootstock.cfg";
const NO_NETWORK: &str = "var/lib/cloud/data/upgraded-network";
/// The folder that the data source NoCloud looks into first.
const SEED: &str = "var/lib/cloud/seed/nocloud";

/// One process since 24.3, before that one a stage.
const UNITS: [&str; 6] = [
    "cloud-init-main.service",
    "cloud-init-local.service",
    "cloud-init-network.service",
    "cloud-init.service",
    "cloud-config.service",
    "cloud-final.service",
];

pub fn cloud_init(c: &Context<'_>) -> Outcome {
    if !c.root.is_dir("etc/cloud") {
        return Ok(false);
    }
    let seeded = seed(c)?;
    let mut text = String::from(
        "# Written by Rootstock: this machine's root comes over the network, and its\n\
         # name and keys from the appliance. Outranks user-data (CLOUD_CFG).\n\
         network: {config: disabled}\n\
         growpart: {mode: 'off'}\n\
         resize_rootfs: false\n\
         swap: {filename: '', size: 0}\n\
         ssh_deletekeys: false\n\
         ssh_genkeytypes: []\n\
         preserve_hostname: true\n\
         manage_etc_hosts: false\n",
    );
    if c.profile.authorized_keys.is_some() {
        // Else it would put a command before those of root's keys that user-data has too.
        text.push_str("disable_root: false\n");
    }
    if seeded {
        text.push_str("datasource_list: [NoCloud, None]\ndatasource: {NoCloud: {seedfrom: null, fs_label: null}}\n");
    }
    c.root.write(CONFIG, text.as_bytes(), Some(Owner::root(0o644)))?;
    c.root.write(NO_NETWORK, b"rootstock\n", Some(Owner::root(0o644)))?;
    for unit in UNITS.iter().filter(|unit| has_unit(c.root, unit)) {
        let drop_in = format!("[Service]\nEnvironment=CLOUD_CFG=/{CONFIG}\n");
        c.root.write(&format!("{ETC_UNITS}/{unit}.d/rootstock.conf"), drop_in.as_bytes(), Some(Owner::root(0o644)))?;
    }
    Ok(true)
}

/// The seed of the boot partition, which cloud-init looks for on a block
/// device or before the boot tree is mounted; whether there is one.
fn seed(c: &Context<'_>) -> Outcome {
    let (Some(user), Some(meta)) = (c.boot.read("user-data"), c.boot.read("meta-data")) else { return Ok(false) };
    let vendor = c.boot.read("vendor-data");
    let files = [("user-data", Some(user)), ("meta-data", Some(meta)), ("vendor-data", vendor)];
    for (name, text) in files {
        // It may hold the hash of a password.
        if let Some(text) = text {
            c.root.write(&format!("{SEED}/{name}"), text.as_bytes(), Some(Owner::root(0o600)))?;
        }
    }
    Ok(true)
}
