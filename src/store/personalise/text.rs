//! Edits of configuration files as text in, text out.
//!
//! Pure. Each keeps what it does not understand, line for line.

use std::net::Ipv4Addr;

/// How our own lines are marked.
const MARK: &str = "# rootstock: ";

/// Whether a path is where Raspberry Pi OS has its boot partition.
fn is_boot(point: &str) -> bool {
    point == "/boot" || point == "/boot/firmware"
}

/// Where the image mounts its boot partition, by its fstab.
pub fn boot_point(fstab: &str) -> Option<&'static str> {
    let points = fstab.lines().filter_map(|line| fields(line).map(|fields| fields[1]));
    let mut boot = None;
    for point in points {
        match point {
            "/boot/firmware" => return Some("/boot/firmware"),
            "/boot" => boot = Some("/boot"),
            _ => {}
        }
    }
    boot
}

/// The first four fields of an fstab line; `None` for comments.
fn fields(line: &str) -> Option<[&str; 3]> {
    let mut words = line.split_whitespace();
    let fields = [words.next()?, words.next()?, words.next()?];
    (!fields[0].starts_with('#')).then_some(fields)
}

/// fstab of a client: the root, the boot partition, swap, and every other
/// partition of the medium that is not there any more go; the boot tree comes
/// over NFS.
///
/// The options work with and without `mount.nfs` in the image: `addr` is what
/// that helper would add, and the kernel asks mountd by itself. `nofail`,
/// because a client without its boot tree still runs.
pub fn fstab(text: &str, appliance: Ipv4Addr, role: &str, boot: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        match fields(line) {
            // Ours of another role, or of the client that the image was made of.
            Some([device, _, "nfs"]) if device.contains(":/clients/") && device.ends_with("/boot") => continue,
            Some([device, point, kind]) if is_of_the_medium(device, point, kind) => {
                out.push_str(MARK);
                out.push_str("not over the network: ");
            }
            _ => {}
        }
        out.push_str(line);
        out.push('\n');
    }
    out.push_str(&format!(
        "{appliance}:/clients/{role}/boot {boot} nfs vers=3,proto=tcp,nolock,addr={appliance},nofail 0 0\n"
    ));
    out
}

fn is_of_the_medium(device: &str, point: &str, kind: &str) -> bool {
    let by_name = ["PARTUUID=", "UUID=", "LABEL=", "PARTLABEL=", "/dev/mmcblk", "/dev/sd", "/dev/nvme", "/dev/disk/"];
    point == "/" || is_boot(point) || kind == "swap" || by_name.iter().any(|start| device.starts_with(start))
}

/// /etc/hosts with the host's own name at 127.0.1.1, as Debian has it.
pub fn hosts(text: &str, role: &str) -> String {
    let own = format!("127.0.1.1\t{role}\n");
    let mut out = String::new();
    let mut placed = false;
    for line in text.lines() {
        match line.split_whitespace().next() {
            Some("127.0.1.1") => {
                if !placed {
                    out.push_str(&own);
                }
                placed = true;
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    if text.trim().is_empty() {
        out.push_str("127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost ip6-loopback\n");
    }
    if !placed {
        out.push_str(&own);
    }
    out
}

/// /etc/network/interfaces (ifupdown): the wired interface is left as the
/// kernel has it. `None`: nothing of it here.
///
/// `manual` alone is not enough: ifdown sets the link of a manual interface
/// down, also at a shutdown, so nothing may bring it up by itself either.
pub fn interfaces(text: &str, wired: &[&str]) -> Option<String> {
    let mut out = String::new();
    let (mut inside, mut changed) = (false, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let stanza = words.next().unwrap_or_default();
        let names: Vec<&str> = words.collect();
        let by_itself = stanza == "auto" || stanza.starts_with("allow-");
        if by_itself || ["iface", "mapping", "source", "source-directory", "no-auto-down"].contains(&stanza) {
            inside = false;
        }
        let kept = if stanza == "iface" && names.first().is_some_and(|name| wired.contains(name)) {
            (inside, changed) = (true, true);
            let family = names.get(1).unwrap_or(&"inet");
            format!("iface {} {family} manual", names[0])
        } else if by_itself && names.iter().any(|name| wired.contains(name)) {
            changed = true;
            let others: Vec<&str> = names.into_iter().filter(|name| !wired.contains(name)).collect();
            match others[..] {
                [] => format!("{MARK}{line}"),
                _ => format!("{stanza} {}", others.join(" ")),
            }
        } else if inside && !line.trim().is_empty() && !stanza.starts_with('#') {
            format!("{MARK}{line}")
        } else {
            line.to_owned()
        };
        out.push_str(&kept);
        out.push('\n');
    }
    changed.then_some(out)
}

/// dhcpcd.conf that leaves the wired interface alone.
pub fn dhcpcd(text: &str, wired: &[&str]) -> String {
    // In front: a later `interface` block would make it apply to that only.
    format!("{MARK}the root comes over this interface\ndenyinterfaces {}\n{text}", wired.join(" "))
}

/// One line of /etc/passwd (passwd(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// The users of a passwd file; lines that are none are passed over.
pub fn users(passwd: &str) -> Vec<User> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(User { name, uid, gid, home: fields.nth(1)?.to_owned() })
    };
    passwd.lines().filter_map(user).collect()
}

/// `userconf.txt`: the first user's name and password hash, as Raspberry Pi
/// OS reads it: `name:hash` on the first line.
pub fn userconf(text: &str) -> Option<(&str, &str)> {
    let (name, hash) = text.lines().next()?.trim().split_once(':')?;
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    let valid_name = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.len() <= 32
        && name != "root"
        && name.chars().all(letter);
    let valid_hash =
        hash.starts_with('$') && hash.len() <= 512 && hash.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    (valid_name && valid_hash).then_some((name, hash))
}

/// Sets a user's hash in /etc/shadow (shadow(5)), with a line of its own if
/// there is none. `days`: since 1970, of the last change; never 0, as an
/// appliance without the time would have it: that asks for a new password.
pub fn shadow(text: &str, name: &str, hash: &str, days: u64) -> String {
    let mut out = String::new();
    let mut found = false;
    for line in text.lines() {
        match line.split_once(':') {
            Some((user, rest)) if user == name => {
                found = true;
                let after = rest.split_once(':').map_or("", |(_, after)| after);
                out.push_str(&format!("{name}:{hash}:{after}\n"));
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    if !found {
        out.push_str(&format!("{name}:{hash}:{}:0:99999:7:::\n", days.max(1)));
    }
    out
}

/// Appends a line to a colon-separated file.
pub fn append(text: &str, line: &str) -> String {
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{newline}{line}\n")
}

/// Adds a member to a group in /etc/group or /etc/gshadow (the last field);
/// `None` if there is no such group.
pub fn add_member(text: &str, group: &str, user: &str) -> Option<String> {
    let mut found = false;
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let Some((front, members)) = line.rsplit_once(':').filter(|_| line.split(':').next() == Some(group)) else {
                return line.to_owned();
            };
            found = true;
            match members.split(',').any(|member| member == user) {
                true => line.to_owned(),
                false if members.is_empty() => format!("{front}:{user}"),
                false => format!("{front}:{members},{user}"),
            }
        })
        .collect();
    found.then(|| lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPLIANCE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);

    #[test]
    fn fstab_loses_the_medium_and_gains_the_boot_tree() {
        let text = "proc            /proc           proc    defaults          0       0\n\
                    PARTUUID=4f0e-01  /boot/firmware  vfat    defaults          0       2\n\
                    PARTUUID=4f0e-02  /               ext4    defaults,noatime  0       1\n\
                    # a comment about PARTUUID=\n/var/swap none swap sw 0 0\ntmpfs /tmp tmpfs defaults 0 0\n\
                    LABEL=data /data ext4 defaults 0 2\n";
        let boot = boot_point(text).unwrap();
        let out = fstab(text, APPLIANCE, "pi-1", boot);
        let active: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            active,
            [
                "proc            /proc           proc    defaults          0       0",
                "tmpfs /tmp tmpfs defaults 0 0",
                "192.168.77.1:/clients/pi-1/boot /boot/firmware nfs vers=3,proto=tcp,nolock,addr=192.168.77.1,nofail 0 0",
            ]
        );
        assert!(out.contains("# a comment about PARTUUID=\n"));
    }

    #[test]
    fn the_boot_point_is_the_one_of_the_image() {
        assert_eq!(boot_point("PARTUUID=a /boot vfat defaults 0 2\n"), Some("/boot"));
        assert_eq!(
            boot_point("LABEL=system-boot /boot/firmware vfat defaults 0 1\n/dev/x /boot ext4"),
            Some("/boot/firmware")
        );
        assert_eq!(boot_point("# /boot\nproc /proc proc\n"), None);
    }

    #[test]
    fn hosts_has_the_name_once() {
        assert_eq!(
            hosts("127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n", "pi-1"),
            "127.0.0.1\tlocalhost\n127.0.1.1\tpi-1\n"
        );
        assert_eq!(hosts("127.0.0.1 localhost", "pi-1"), "127.0.0.1 localhost\n127.0.1.1\tpi-1\n");
        assert!(hosts("", "pi-1").starts_with("127.0.0.1\tlocalhost\n"));
    }

    #[test]
    fn ifupdown_leaves_the_wired_interface() {
        let text = "auto lo eth0\niface lo inet loopback\nallow-hotplug eth0\niface eth0 inet static\n    address 10.0.0.2\n    # note\n\nallow-hotplug wlan0\niface wlan0 inet dhcp\n    wpa-conf x\n";
        let out = interfaces(text, &["eth0", "end0"]).unwrap();
        assert_eq!(
            out,
            "auto lo\niface lo inet loopback\n# rootstock: allow-hotplug eth0\niface eth0 inet manual\n# rootstock:     address 10.0.0.2\n    # note\n\nallow-hotplug wlan0\niface wlan0 inet dhcp\n    wpa-conf x\n"
        );
        assert_eq!(interfaces("source /etc/network/interfaces.d/*\n", &["eth0"]), None);
    }

    #[test]
    fn users_are_read_and_broken_lines_passed_over() {
        let found = users("root:x:0:0:root:/root:/bin/bash\nbroken\npi:x:1000:1000:,,,:/home/pi:/bin/bash\nx:y:z\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], User { name: "pi".into(), uid: 1000, gid: 1000, home: "/home/pi".into() });
    }

    #[test]
    fn userconf_is_taken_only_as_raspberry_pi_os_writes_it() {
        assert_eq!(userconf("ada:$6$salt$hash\n"), Some(("ada", "$6$salt$hash")));
        for text in
            ["", "ada", "ada:plain", "root:$6$x", "Ada:$6$x", "a b:$6$x", "ada:$6$x:0", "../x:$6$y", "ada:$6$\u{e4}"]
        {
            assert_eq!(userconf(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_hash_replaces_the_old_one_or_gets_a_line() {
        let text = "root:*:1:0:99999:7:::\npi:!:19000:0:99999:7:::\npip:x:1\n";
        assert_eq!(shadow(text, "pi", "$6$h", 20_000), "root:*:1:0:99999:7:::\npi:$6$h:19000:0:99999:7:::\npip:x:1\n");
        assert!(shadow(text, "ada", "$6$h", 20_000).ends_with("ada:$6$h:20000:0:99999:7:::\n"));
    }

    #[test]
    fn with_a_clock_at_1970_nobody_is_asked_for_a_new_password() {
        assert!(shadow("", "ada", "$6$h", 0).ends_with("ada:$6$h:1:0:99999:7:::\n"));
    }

    #[test]
    fn members_are_added_once() {
        let text = "sudo:x:27:\nadm:x:4:pi\n";
        let once = add_member(text, "sudo", "ada").unwrap();
        assert_eq!(once, "sudo:x:27:ada\nadm:x:4:pi\n");
        assert_eq!(add_member(&once, "sudo", "ada").unwrap(), once);
        assert_eq!(add_member(text, "adm", "ada").unwrap(), "sudo:x:27:\nadm:x:4:pi,ada\n");
        assert_eq!(add_member(text, "wheel", "ada"), None);
        assert_eq!(append("a", "b"), "a\nb\n");
    }
}
