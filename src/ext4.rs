//! Whether an ext4 still takes changes: what it says only when it is asked for one.
//!
//! I/O: one system call. The server asks it behind what it acknowledges, and the store asks it of a stick that went wrong.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;

/// An attribute that no file has.
const PROBE: &str = "trusted.rootstock.probe";

/// Whether the journal below this open folder, on an ext4 or an overlay over one, still begins a step. To take away an
/// attribute that is not there begins one, and changes nothing: 3 to 6 µs (2026-11-29, a loaded machine, Linux 6.18).
pub fn journal_runs(folder: impl AsFd) -> bool {
    is_sound(rustix::fs::fremovexattr(folder, PROBE))
}

/// The same by its path.
pub fn journal_runs_at(folder: &Path) -> bool {
    is_sound(rustix::fs::removexattr(folder, PROBE))
}

/// What the answer says. A file system without such attributes has no journal of ext4's.
fn is_sound(removed: Result<(), Errno>) -> bool {
    !matches!(removed, Err(Errno::ROFS | Errno::IO | Errno::NXIO | Errno::NODEV | Errno::SHUTDOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_that_a_change_cannot_be_is_unsound() {
        assert!(is_sound(Ok(())));
        for (errno, sound) in [
            (Errno::NODATA, true),
            (Errno::OPNOTSUPP, true),
            (Errno::PERM, true),
            (Errno::ROFS, false),
            (Errno::IO, false),
            (Errno::NODEV, false),
        ] {
            assert_eq!(is_sound(Err(errno)), sound, "{errno:?}");
        }
    }
}
