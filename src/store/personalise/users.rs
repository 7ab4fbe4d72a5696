//! Rules that carry the stick's profile in: the first user, keys, files.
//! I/O through `Tree`.

use super::text::{self, User};
use super::tree::Owner;
use super::units::{ETC_UNITS, enable, has_unit};
use super::{Context, Outcome, RuleError, Tree, TreeError};

/// Raspberry Pi OS has `userconfig.service` (package userconf-pi).
pub fn user(c: &Context<'_>) -> Outcome {
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
pub fn authorized_keys(c: &Context<'_>) -> Outcome {
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
pub fn give_keys(root: &Tree, user: &User, keys: &str) -> Result<(), TreeError> {
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

pub fn ssh(c: &Context<'_>) -> Outcome {
    if c.profile.authorized_keys.is_none() {
        return Ok(false);
    }
    enable_ssh(c.root)
}

/// Debian's and Ubuntu's name for it, or the others'.
pub fn enable_ssh(root: &Tree) -> Outcome {
    // Ubuntu starts it by its socket; then that is how it stays.
    if root.exists(&format!("{ETC_UNITS}/sockets.target.wants/ssh.socket")) {
        return Ok(true);
    }
    if enable(root, "ssh.service", "multi-user.target")? {
        let unit = root.exists("usr/lib/systemd/system/ssh.service");
        let folder = if unit { "/usr/lib/systemd/system" } else { "/lib/systemd/system" };
        root.link(&format!("{folder}/ssh.service"), &format!("{ETC_UNITS}/sshd.service"))?;
        return Ok(true);
    }
    enable(root, "sshd.service", "multi-user.target")
}

/// Modes cannot be had from exFAT: what starts as a program is one.
pub fn files(c: &Context<'_>) -> Outcome {
    for (path, bytes) in &c.profile.files {
        let program = bytes.starts_with(b"#!") || bytes.starts_with(b"\x7fELF");
        let owner = Owner::root(if program { 0o755 } else { 0o644 });
        c.root.write(&path.to_string_lossy(), bytes, Some(owner))?;
    }
    Ok(!c.profile.files.is_empty())
}
