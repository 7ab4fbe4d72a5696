//! Which interface is the wired one.
//!
//! Pure: the links come as plain values.

use crate::client::MacAddr;

/// What is known of one network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `None` if its hardware is no Ethernet (ARPHRD_ETHER), so never for `lo`.
    pub(super) mac: Option<MacAddr>,
    pub(super) wireless: bool,
    /// Made of software: a bridge, veth, tap, bond or the like.
    pub(super) made: bool,
    pub(super) up: bool,
    pub(super) carrier: bool,
}

/// The interface to use: the one named; else the first that is hardware, as the
/// kernel counts; else, once `patient` is over, the first that is not. On a
/// PC a bridge must not win because a USB adapter comes a second later.
pub(super) fn choose<'l>(links: &'l [Link], wanted: Option<&str>, patient: bool) -> Option<&'l Link> {
    let mut wired = links.iter().filter(|link| link.mac.is_some());
    if let Some(wanted) = wanted {
        return wired.find(|link| link.name == wanted);
    }
    let eligible = wired.filter(|link| !link.wireless).filter(|link| !link.made || !patient);
    eligible.min_by_key(|link| (link.made, link.index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        let mac = Some(MacAddr([2, 0, 0, 0, 0, index as u8]));
        Link { index, name: name.into(), mac, wireless: false, made: false, up: false, carrier: false }
    }

    fn links() -> Vec<Link> {
        vec![
            Link { mac: None, ..link(1, "lo") },
            Link { wireless: true, ..link(2, "wlan0") },
            Link { made: true, ..link(3, "br0") },
            link(5, "eth1"),
            link(4, "eth0"),
        ]
    }

    #[track_caller]
    fn check(links: &[Link], wanted: Option<&str>, patient: bool, expected: Option<&str>) {
        assert_eq!(choose(links, wanted, patient).map(|link| link.name.as_str()), expected);
    }

    #[test]
    fn the_first_wired_hardware_is_taken() {
        check(&links(), None, true, Some("eth0"));
        check(&links(), None, false, Some("eth0"));
        check(&[], None, false, None);
    }

    #[test]
    fn software_is_taken_only_when_there_is_nothing_else_after_a_while() {
        check(&links()[..3], None, true, None);
        check(&links()[..3], None, false, Some("br0"));
        check(&links()[..2], None, false, None);
    }

    #[test]
    fn a_name_is_obeyed_whatever_it_is_and_nothing_takes_its_place() {
        check(&links(), Some("br0"), true, Some("br0"));
        check(&links(), Some("wlan0"), true, Some("wlan0"));
        check(&links(), Some("eth7"), false, None);
        check(&links(), Some("lo"), false, None);
    }
}
