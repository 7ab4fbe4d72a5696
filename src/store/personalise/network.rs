//! Rules that keep a system's own network managers off the interface that its
//! root comes over. I/O through `Tree`.

use super::{Context, Outcome, text};

/// Names the wired interface has in Raspberry Pi OS and Debian (eth0) and
/// where predictable names are on (end0).
const WIRED: [&str; 2] = ["eth0", "end0"];

/// `+=`: Ubuntu's and others' own files keep further devices unmanaged, and a
/// later `=` would take them out.
pub fn network_manager(c: &Context<'_>) -> Outcome {
    if !c.root.is_dir("etc/NetworkManager") {
        return Ok(false);
    }
    let names: String = WIRED.iter().map(|name| format!("interface-name:{name};")).collect();
    let text = format!(
        "# Written by Rootstock: the root comes over this interface.\n\
         [keyfile]\nunmanaged-devices+={names}mac:{}\n",
        c.client.mac
    );
    c.root.write("etc/NetworkManager/conf.d/90-rootstock.conf", text.as_bytes(), None)?;
    Ok(true)
}

pub fn networkd(c: &Context<'_>) -> Outcome {
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

pub fn dhcpcd(c: &Context<'_>) -> Outcome {
    let Some(present) = c.root.read("etc/dhcpcd.conf") else { return Ok(false) };
    c.root.write("etc/dhcpcd.conf", text::dhcpcd(&present, &WIRED).as_bytes(), None)?;
    Ok(true)
}

pub fn ifupdown(c: &Context<'_>) -> Outcome {
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
