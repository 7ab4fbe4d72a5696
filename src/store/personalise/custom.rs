//! The rule for `custom.toml`: what a person wrote beside the image for
//! Raspberry Pi OS's `firstboot`, which cannot run on a network root.
//! I/O through `Tree`; the text is read by a pure function.
//!
//! Its host name is never taken: that is the role. Of what remains the
//! wireless network is left out: such a client has its root by a cable.

use serde::Deserialize;

use super::tree::Owner;
use super::units::has_unit;
use super::{Context, Outcome, RuleError, text, users};

/// Most keys that are taken.
const MAX_KEYS: usize = 64;

/// `config_version = 1` and its sections, as `init_config` of
/// raspberrypi-sys-mods reads them. What is not named here is passed over.
#[derive(Debug, Default, Deserialize)]
struct Custom {
    config_version: u32,
    #[serde(default)]
    user: UserSection,
    #[serde(default)]
    ssh: SshSection,
    #[serde(default)]
    locale: LocaleSection,
}

#[derive(Debug, Default, Deserialize)]
struct UserSection {
    name: Option<String>,
    password: Option<String>,
    password_encrypted: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
struct SshSection {
    enabled: Option<bool>,
    #[serde(default)]
    authorized_keys: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct LocaleSection {
    keymap: Option<String>,
    timezone: Option<String>,
}

/// Whether the text is a `custom.toml`; for the fuzzer.
pub fn reads_custom(text: &str) -> bool {
    toml::from_str::<Custom>(text).is_ok()
}

pub fn custom(c: &Context<'_>) -> Outcome {
    let Some(present) = c.boot.read("custom.toml").filter(|_| has_unit(c.root, "userconfig.service")) else {
        return Ok(false);
    };
    let custom: Custom =
        toml::from_str(&present).map_err(|_| RuleError::Content("custom.toml is no TOML as firstboot takes it"))?;
    if custom.config_version != 1 {
        return Err(RuleError::Content("custom.toml is not of config_version 1"));
    }
    locale(c, &custom.locale)?;
    ssh(c, &custom.ssh)?;
    // It held a password; firstboot removes it too. Kept where the next line fails.
    user(c, &custom.user)?;
    c.boot.remove("custom.toml")?;
    Ok(true)
}

fn user(c: &Context<'_>, user: &UserSection) -> Result<(), RuleError> {
    let (Some(name), None) = (&user.name, &c.profile.userconf) else { return Ok(()) };
    let password = user.password.as_deref().unwrap_or_default();
    if password.is_empty() || user.password_encrypted == Some(false) {
        return Err(RuleError::Content(
            "custom.toml's user has no encrypted password; make one with openssl passwd -6",
        ));
    }
    let line = format!("{name}:{password}\n");
    text::userconf(&line).ok_or(RuleError::Content("custom.toml's user has no name or hash that Linux takes"))?;
    c.boot.write("userconf.txt", line.as_bytes(), Some(Owner::root(0o755)))?;
    Ok(())
}

fn ssh(c: &Context<'_>, ssh: &SshSection) -> Result<(), RuleError> {
    if ssh.enabled != Some(true) || c.profile.authorized_keys.is_some() {
        return Ok(());
    }
    let keys: Vec<&str> = ssh
        .authorized_keys
        .iter()
        .take(MAX_KEYS)
        .map(|key| key.trim())
        .filter(|key| !key.is_empty() && !key.contains(char::is_control))
        .collect();
    if !keys.is_empty() {
        let passwd = c.root.read("etc/passwd").unwrap_or_default();
        for user in text::users(&passwd).iter().filter(|user| user.uid == 1000 && user.home.len() > 1) {
            users::give_keys(c.root, user, &keys.join("\n"))?;
        }
    }
    users::enable_ssh(c.root)?;
    Ok(())
}

fn locale(c: &Context<'_>, locale: &LocaleSection) -> Result<(), RuleError> {
    if let Some(zone) = locale.timezone.as_deref().filter(|zone| is_zone(zone)) {
        let file = format!("usr/share/zoneinfo/{zone}");
        if c.root.exists(&file) {
            c.root.link(&format!("/{file}"), "etc/localtime")?;
            c.root.write("etc/timezone", format!("{zone}\n").as_bytes(), None)?;
        }
    }
    if let (Some(keymap), Some(present)) =
        (locale.keymap.as_deref().filter(|map| is_keymap(map)), c.root.read("etc/default/keyboard"))
    {
        let edit = |line: &str| match line.starts_with("XKBLAYOUT=") {
            true => format!("XKBLAYOUT=\"{keymap}\"\n"),
            false => format!("{line}\n"),
        };
        c.root.write("etc/default/keyboard", present.lines().map(edit).collect::<String>().as_bytes(), None)?;
    }
    Ok(())
}

/// `Europe/Berlin`; no path out of zoneinfo.
fn is_zone(zone: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "_+-".contains(c);
    zone.len() <= 64 && zone.split('/').all(|part| !part.is_empty() && part.chars().all(letter))
}

fn is_keymap(map: &str) -> bool {
    !map.is_empty() && map.len() <= 32 && map.chars().all(|c| c.is_ascii_alphanumeric() || ",_-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_firstboot_takes_is_read_and_the_rest_passed_over() {
        let text = "config_version = 1\n[system]\nhostname = \"x\"\n[user]\nname = \"ada\"\npassword = \"$6$a$b\"\n\
                    password_encrypted = true\n[ssh]\nenabled = true\nauthorized_keys = [\"ssh-ed25519 A\"]\n\
                    [wlan]\nssid = \"x\"\n[locale]\nkeymap = \"de\"\ntimezone = \"Europe/Berlin\"\n";
        let custom: Custom = toml::from_str(text).unwrap();
        assert_eq!((custom.config_version, custom.user.name.as_deref()), (1, Some("ada")));
        assert_eq!(custom.ssh.authorized_keys, ["ssh-ed25519 A"]);
        assert_eq!(custom.locale.timezone.as_deref(), Some("Europe/Berlin"));
    }

    #[test]
    fn zones_and_keymaps_lead_nowhere_else() {
        assert!(is_zone("Europe/Berlin") && is_zone("Etc/GMT+2") && is_zone("UTC"));
        for zone in ["", "/etc/passwd", "../../etc/shadow", "a//b", "a b"] {
            assert!(!is_zone(zone), "{zone:?}");
        }
        assert!(is_keymap("us,de") && !is_keymap("\"; rm") && !is_keymap(""));
    }
}
