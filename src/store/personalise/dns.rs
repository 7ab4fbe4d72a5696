//! The rule that gives a client name servers. Nothing manages the interface
//! that its root comes over, so nobody writes down which ones came with its
//! address. I/O through `Tree`.
//!
//! Those of the appliance's settings are written at once. Else, as beside a
//! router, they are in what the start itself asked for: klibc's ipconfig in the
//! initramfs leaves `/run/net-*.conf`, and the kernel's `ip=dhcp` `/proc/net/pnp`
//! (Documentation/admin-guide/nfs/nfsroot.rst). A unit puts them where this
//! system looks, at each start, as a DHCP client would.

use super::tree::Owner;
use super::units::{self, has_systemd};
use super::{Context, Outcome};

const UNIT: &str = "rootstock-dns.service";
const SCRIPT: &str = "usr/local/lib/rootstock/dns";

/// NetworkManager writes /etc/resolv.conf anew whenever another interface comes or goes, so it is told as well
/// (NetworkManager.conf(5), global-dns). A root that cannot be written gets a file in memory over its own.
const TEXT: &str = r#"#!/bin/sh
# Written by Rootstock: the name servers that came with the address of the root's interface.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin
told=$(cat /run/net-*.conf 2>/dev/null | tr -d "\"'")
found=$(echo "$told" | sed -n 's/^IPV4DNS[01]=//p')
domain=$(echo "$told" | sed -n 's/^DNSDOMAIN=//p')
case $found in
*[1-9]*) ;;
*)
    found=$(sed -n 's/^nameserver //p' /proc/net/pnp 2>/dev/null)
    domain=$(sed -n 's/^domain //p' /proc/net/pnp 2>/dev/null)
    ;;
esac
servers=
for server in $found; do
    case $server in
    0.0.0.0 | *[!0-9.]*) ;;
    *) case " $servers " in *" $server "*) ;; *) servers="${servers:+$servers }$server" ;; esac ;;
    esac
done
[ -n "$servers" ] || exit 0
domain=$(echo $domain | cut -d ' ' -f 1)
case $domain in *[!0-9A-Za-z.-]*) domain= ;; esac

case $(readlink /etc/resolv.conf) in
*systemd/resolve*)
    mkdir -p /run/systemd/resolved.conf.d
    printf '[Resolve]\nDNS=%s\n%s' "$servers" "${domain:+Domains=$domain
}" >/run/systemd/resolved.conf.d/rootstock.conf
    exit 0
    ;;
esac
if [ -d /etc/NetworkManager ]; then
    mkdir -p /run/NetworkManager/conf.d
    printf '[global-dns]\n%s\n[global-dns-domain-*]\nservers=%s\n' "${domain:+searches=$domain
}" "$(echo "$servers" | tr ' ' ,)" >/run/NetworkManager/conf.d/rootstock.conf
fi
mkdir -p /run/rootstock
{
    echo '# Written by Rootstock at each start.'
    [ -z "$domain" ] || echo "search $domain"
    printf 'nameserver %s\n' $servers
} >/run/rootstock/resolv.conf
if command -v resolvconf >/dev/null && resolvconf -a eth0.rootstock </run/rootstock/resolv.conf 2>/dev/null; then
    exit 0
fi
to=$(readlink -m /etc/resolv.conf)
mkdir -p "${to%/*}" 2>/dev/null
if [ -w "${to%/*}" ]; then
    cat /run/rootstock/resolv.conf >"$to"
elif [ -e "$to" ]; then
    mount --bind /run/rootstock/resolv.conf "$to"
fi
"#;

/// Before whatever looks at the configuration that it writes.
const UNIT_TEXT: &str = "\
# Written by Rootstock: nothing manages the interface that the root comes over.
[Unit]
Description=Name servers that came with the address of the root's interface
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target systemd-resolved.service NetworkManager.service dhcpcd.service
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
ExecStart=-/usr/local/lib/rootstock/dns

[Install]
WantedBy=sysinit.target
";

pub fn dns(c: &Context<'_>) -> Outcome {
    if c.dns.is_empty() {
        return at_each_start(c);
    }
    let resolved = c.root.read_link("etc/resolv.conf").is_some_and(|target| target.contains("systemd/resolve"));
    if resolved {
        let servers: Vec<String> = c.dns.iter().map(ToString::to_string).collect();
        let text = format!("[Resolve]\nDNS={}\n", servers.join(" "));
        c.root.write("etc/systemd/resolved.conf.d/90-rootstock.conf", text.as_bytes(), None)?;
    } else {
        let text: String = c.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
        c.root.write("etc/resolv.conf", text.as_bytes(), None)?;
    }
    Ok(true)
}

fn at_each_start(c: &Context<'_>) -> Outcome {
    if !has_systemd(c.root) {
        return Ok(false);
    }
    c.root.write(SCRIPT, TEXT.as_bytes(), Some(Owner::root(0o755)))?;
    units::put(c.root, UNIT, UNIT_TEXT, "sysinit.target")?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    /// A folder in which the script sees /run, /etc and /proc; no `resolvconf` of this machine is asked.
    struct Start(tempfile::TempDir);

    impl Start {
        fn new(files: &[(&str, &str)]) -> Self {
            let start = Self(tempfile::tempdir().unwrap());
            for path in ["run", "etc"] {
                fs::create_dir(start.at(path)).unwrap();
            }
            for (path, text) in files {
                fs::create_dir_all(start.at(path).parent().unwrap()).unwrap();
                fs::write(start.at(path), text).unwrap();
            }
            start
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn runs(self) -> Self {
            let top = self.0.path().display();
            let mut text = TEXT.replace("command -v resolvconf", "false");
            for folder in ["/run/", "/etc/", "/proc/"] {
                text = text.replace(&format!(" {folder}"), &format!(" {top}{folder}"));
                text = text.replace(&format!(">{folder}"), &format!(">{top}{folder}"));
                text = text.replace(&format!("<{folder}"), &format!("<{top}{folder}"));
            }
            let script = self.at("script");
            fs::write(&script, text).unwrap();
            let done = std::process::Command::new("sh").arg("-e").arg(&script).output().unwrap();
            assert!(done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
            self
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.at(path)).unwrap_or_default()
        }
    }

    /// As klibc's ipconfig writes it, 2.0.12.
    const KLIBC: &str = "DEVICE='eth0'\nPROTO='dhcp'\nIPV4ADDR='192.168.1.20'\nIPV4DNS0='192.168.1.1'\n\
                         IPV4DNS1='9.9.9.9'\nHOSTNAME=''\nDNSDOMAIN='fritz.box'\nROOTSERVER='192.168.77.1'\n";
    /// As the kernel shows it.
    const PNP: &str =
        "#PROTO: DHCP\ndomain lan.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nbootserver 0.0.0.0\n";

    #[test]
    fn the_name_servers_of_the_start_go_into_resolv_conf() {
        let expected =
            "# Written by Rootstock at each start.\nsearch fritz.box\nnameserver 192.168.1.1\nnameserver 9.9.9.9\n";
        let start = Start::new(&[("run/net-eth0.conf", KLIBC), ("proc/net/pnp", PNP)]).runs();
        assert_eq!(start.read("etc/resolv.conf"), expected);
        assert!(!start.at("run/NetworkManager").exists());
        // Without an initramfs the kernel asked.
        let start = Start::new(&[("proc/net/pnp", PNP), ("etc/resolv.conf", "# of the last start\n")]).runs();
        assert!(
            start.read("etc/resolv.conf").ends_with("search lan.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n")
        );
        // A link to where a program would write them.
        let start = Start::new(&[("run/net-eth0.conf", KLIBC)]);
        symlink(start.at("run/NetworkManager/resolv.conf"), start.at("etc/resolv.conf")).unwrap();
        assert_eq!(start.runs().read("run/NetworkManager/resolv.conf"), expected);
    }

    #[test]
    fn resolved_and_network_manager_are_told_in_their_own_files() {
        let start = Start::new(&[("run/net-eth0.conf", KLIBC)]);
        symlink("../run/systemd/resolve/stub-resolv.conf", start.at("etc/resolv.conf")).unwrap();
        let start = start.runs();
        let told = start.read("run/systemd/resolved.conf.d/rootstock.conf");
        assert_eq!(told, "[Resolve]\nDNS=192.168.1.1 9.9.9.9\nDomains=fritz.box\n");
        assert!(!start.at("run/rootstock").exists());

        let start = Start::new(&[("run/net-eth0.conf", KLIBC), ("etc/NetworkManager/NetworkManager.conf", "")]).runs();
        let told = start.read("run/NetworkManager/conf.d/rootstock.conf");
        assert_eq!(told, "[global-dns]\nsearches=fritz.box\n\n[global-dns-domain-*]\nservers=192.168.1.1,9.9.9.9\n");
        assert!(start.read("etc/resolv.conf").contains("nameserver 9.9.9.9\n"));
    }

    #[test]
    fn without_a_name_server_everything_stays_and_nothing_of_the_wire_is_believed() {
        let none = KLIBC.replace("192.168.1.1'", "0.0.0.0'").replace("9.9.9.9", "0.0.0.0");
        let start = Start::new(&[("run/net-eth0.conf", &none), ("etc/resolv.conf", "mine\n")]).runs();
        assert_eq!(start.read("etc/resolv.conf"), "mine\n");
        assert_eq!(Start::new(&[]).runs().read("etc/resolv.conf"), "");
        // A hostile server's domain is no second line, and its server no option.
        let evil = "IPV4DNS0='192.168.1.1'\nIPV4DNS1='1;reboot'\nDNSDOMAIN='a$(reboot)'\n";
        let start = Start::new(&[("run/net-eth0.conf", evil)]).runs();
        assert_eq!(start.read("etc/resolv.conf"), "# Written by Rootstock at each start.\nnameserver 192.168.1.1\n");
        assert!(Path::new(&start.at("etc")).is_dir());
    }
}
