//! systemd's units in a client's root: found, masked, enabled. I/O through `Tree`.

use super::tree::Owner;
use super::{Outcome, Tree, TreeError};

const UNIT_FOLDERS: [&str; 4] =
    ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system", "usr/local/lib/systemd/system"];
pub const ETC_UNITS: &str = "etc/systemd/system";

/// Whether the root is one that systemd starts.
pub fn has_systemd(root: &Tree) -> bool {
    ["usr/lib/systemd/systemd", "lib/systemd/systemd"].iter().any(|path| root.exists(path))
}

/// Whether the image has a unit of this name.
pub fn has_unit(root: &Tree, unit: &str) -> bool {
    UNIT_FOLDERS.iter().any(|folder| root.exists(&format!("{folder}/{unit}")))
}

/// Masks the units that exist, as `systemctl mask` does; also those that lie
/// in /etc itself, which systemctl would refuse. What wanted them is left:
/// a masked unit that is wanted is passed over.
pub fn mask(root: &Tree, units: &[&str]) -> Outcome {
    let mut acted = false;
    for unit in units.iter().filter(|unit| has_unit(root, unit)) {
        root.link("/dev/null", &format!("{ETC_UNITS}/{unit}"))?;
        acted = true;
    }
    Ok(acted)
}

/// Puts a unit of ours in, wanted by this target.
pub fn put(root: &Tree, unit: &str, text: &str, target: &str) -> Result<(), TreeError> {
    root.write(&format!("{ETC_UNITS}/{unit}"), text.as_bytes(), Some(Owner::root(0o644)))?;
    root.link(&format!("/{ETC_UNITS}/{unit}"), &format!("{ETC_UNITS}/{target}.wants/{unit}"))
}

/// Enables a unit by the link that `systemctl enable` makes for WantedBy=.
pub fn enable(root: &Tree, unit: &str, target: &str) -> Outcome {
    let Some(folder) = UNIT_FOLDERS.iter().find(|folder| root.exists(&format!("{folder}/{unit}"))) else {
        return Ok(false);
    };
    if root.read_link(&format!("{ETC_UNITS}/{unit}")).as_deref() == Some("/dev/null") {
        root.remove(&format!("{ETC_UNITS}/{unit}"))?;
    }
    root.link(&format!("/{folder}/{unit}"), &format!("{ETC_UNITS}/{target}.wants/{unit}"))?;
    Ok(true)
}
