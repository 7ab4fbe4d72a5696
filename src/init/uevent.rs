//! The kernel's device events (NETLINK_KOBJECT_UEVENT): one datagram is
//! `action@devpath`, then `KEY=value` fields, each ended by a NUL.
//!
//! Pure: bytes in, `Uevent` out. `plug.rs` owns the socket.

/// Longest datagram that is read: the kernel's UEVENT_BUFFER_SIZE is 2 KiB, with room to spare.
pub const MAX_BYTES: usize = 8 << 10;

/// What an event says that a module loader wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uevent<'b> {
    /// `add`, `remove`, `change`, `bind`, …
    pub action: &'b str,
    /// Below `/sys`, such as `/devices/platform/soc/3f980000.usb`.
    pub devpath: &'b str,
    pub subsystem: Option<&'b str>,
    /// What `modules.alias` is asked for.
    pub modalias: Option<&'b str>,
}

/// Reads one datagram. `None` for what is not the kernel's: libudev's own messages start with `libudev`,
/// and text that is not UTF-8 names no module of ours.
pub fn parse(datagram: &[u8]) -> Option<Uevent<'_>> {
    if datagram.len() > MAX_BYTES {
        return None;
    }
    let mut fields = datagram.split(|&b| b == 0);
    let (action, devpath) = std::str::from_utf8(fields.next()?).ok()?.split_once('@')?;
    if action.is_empty() || !action.bytes().all(|b| b.is_ascii_lowercase()) || !devpath.starts_with('/') {
        return None;
    }
    let mut event = Uevent { action, devpath, subsystem: None, modalias: None };
    for field in fields {
        let Some((key, value)) = std::str::from_utf8(field).ok().and_then(|field| field.split_once('=')) else {
            continue;
        };
        match key {
            "SUBSYSTEM" => event.subsystem = Some(value),
            "MODALIAS" => event.modalias = Some(value),
            _ => {}
        }
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stick_announces_its_driver() {
        let datagram = b"add@/devices/platform/soc/3f980000.usb/usb1/1-1/1-1:1.0\0ACTION=add\0\
            DEVPATH=/devices/platform/soc/3f980000.usb/usb1/1-1/1-1:1.0\0SUBSYSTEM=usb\0\
            MODALIAS=usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00\0SEQNUM=1021\0";
        let event = parse(datagram).unwrap();
        assert_eq!((event.action, event.subsystem), ("add", Some("usb")));
        assert_eq!(event.modalias, Some("usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00"));
    }

    #[test]
    fn an_event_without_a_driver_is_read_too() {
        let event = parse(b"remove@/devices/virtual/bdi/7:0\0ACTION=remove\0").unwrap();
        assert_eq!(
            event,
            Uevent { action: "remove", devpath: "/devices/virtual/bdi/7:0", subsystem: None, modalias: None }
        );
    }

    #[test]
    fn hostile_bytes_are_no_event() {
        for datagram in [
            &b""[..],
            b"\0\0\0",
            b"libudev\0\xfe\xed\xca\xfe",
            b"add",
            b"@/x",
            b"add@relative",
            b"ADD\x1b[2J@/x",
            b"\xff\xfe@/x",
            &vec![b'a'; MAX_BYTES + 1],
        ] {
            assert_eq!(parse(datagram), None, "{datagram:?}");
        }
        let odd = parse(b"add@/x\0\0=\0MODALIAS\0SUBSYSTEM=\xff\0MODALIAS=a=b").unwrap();
        assert_eq!((odd.subsystem, odd.modalias), (None, Some("a=b")));
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = parse(&bytes);
            let _ = parse(&[b"add@/x\0", &bytes[..]].concat());
        }
    }
}
