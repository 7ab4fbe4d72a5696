//! What the client must show, over ssh.

use crate::login::Login;
use crate::show::Show;

/// The client's block volume, if it was given one: an overlay on it works,
/// which one on the root would not.
pub fn volume(login: &Login, show: &Show) -> Result<(), String> {
    let mounts = login.run("for name in containers docker rancher; do findmnt -n -o FSTYPE /var/lib/$name; done")?;
    if mounts.split_whitespace().collect::<Vec<_>>() != ["ext4"; 3] {
        return Err(format!(
            "the volume is not mounted: {mounts:?}\n{}",
            login.run("systemctl status rootstock-volume.service; journalctl -u rootstock-volume.service || true")?
        ));
    }
    login.run(
        "set -e; cd /var/lib/containers; mkdir lower upper work merged; echo old > lower/file; echo gone > lower/gone; \
         mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged; \
         echo new > merged/file; rm merged/gone; mkdir merged/dir; mv merged/dir merged/moved; \
         test \"$(cat merged/file)$(cat lower/file)\" = newold; test ! -e merged/gone; test -c upper/gone; \
         umount merged; sync",
    )?;
    show.passed_step("an overlay with its upper layer on the block volume works in the client");
    Ok(())
}

/// After a restart with a larger `volume_size`.
pub fn volume_kept(login: &Login, show: &Show) -> Result<(), String> {
    login.run("test \"$(cat /var/lib/containers/upper/file)\" = new && test ! -e /var/written")?;
    let mib = login.run("df --output=size -BM /var/lib/docker | tail -n 1")?;
    let mib: u32 = mib.trim().trim_end_matches('M').parse().map_err(|_| format!("df says {mib:?}"))?;
    if mib < 640 {
        return Err(format!("the volume's file system has {mib} MiB and has not grown"));
    }
    show.passed_step("the volume kept its files and grew; what was written to the root is gone");
    Ok(())
}

/// A root that refuses writes, and a system that lives with it.
pub fn read_only(login: &Login, show: &Show) -> Result<(), String> {
    let refused = login.run("touch /usr/x /etc/x /boot/firmware/x 2>&1 || true")?;
    if refused.matches("Read-only file system").count() != 3 {
        return Err(format!("the root took a write: {refused}"));
    }
    show.passed_step("writes to /usr, /etc and /boot/firmware are refused as of a read-only file system");
    login.run("touch /var/written /home/x /root/x /tmp/x && test -w /var/lib/dpkg/status")?;
    let failed = login.run("systemctl --failed --no-legend --plain || true")?;
    if !failed.trim().is_empty() {
        return Err(format!("units failed in the client:\n{failed}"));
    }
    show.passed_step("/var, /home, /root and /tmp take writes in memory, and no systemd unit failed");
    Ok(())
}
