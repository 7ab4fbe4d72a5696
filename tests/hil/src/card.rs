//! Results onto the boot partition of the card that `just hil-card` makes: the
//! next laptop reads them. Rootstock itself never writes to its card; this
//! program does only where the kernel's command line has `hil.card`.
//!
//! I/O.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Where PID 1's helper wrote the boot disk's name.
const BOOT_DEVICE: &str = "/run/rootstock/boot-device";
const PLACE: &str = "/run/rootstock-hil-card";

/// Writes them; the partition's name.
pub fn save(files: &[(&str, &str)]) -> Result<String, String> {
    let disk = fs::read_to_string(BOOT_DEVICE).map_err(|e| format!("{BOOT_DEVICE}: {e}"))?;
    let disk = disk.trim();
    // mmcblk0p1, sda1: a name that ends in a digit gets a p.
    let between = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    let partition = format!("{disk}{between}1");
    fs::create_dir_all(PLACE).map_err(|e| format!("{PLACE}: {e}"))?;
    mount(format!("/dev/{partition}"), PLACE, "vfat", MountFlags::NODEV | MountFlags::NOEXEC, c"")
        .map_err(|e| format!("mounting {partition}: {e}"))?;
    let written = files.iter().try_for_each(|(name, text)| {
        let path = Path::new(PLACE).join(name);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|e| format!("{name}: {e}"))
    });
    let unmounted = unmount(PLACE, UnmountFlags::empty()).map_err(|e| format!("unmounting {partition}: {e}"));
    written.and(unmounted).map(|()| partition)
}
