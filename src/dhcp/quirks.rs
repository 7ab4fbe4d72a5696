//! The quirks of each Pi on the wire: how to know it, and what its loader must
//! hear. From captures and release notes, as restated in the project's notes;
//! nothing here was yet seen on a real board (2026-11).
//!
//! Pure. Sources: Raspberry Pi's `boot-net` and `eeprom-bootloader` pages, the
//! EEPROM release notes, and captures in issue threads.

use crate::client::{MacAddr, Model, Revision, Serial};

/// The `xid` of every Pi 2B v1.2 and 3B, burnt into the ROM.
pub const PI3_ROM_XID: u32 = 0x26f3_0339;

/// Option 60 that PXE servers send back (9 bytes). The ROM wants it beside option 43.
pub const VENDOR_CLASS: &[u8] = b"PXEClient";

/// Option 43: a PXE menu of one item, as dnsmasq's `pxe-service=0` makes it
/// (PXE 2.1 §2.2.4). The three spaces at the end are for the ROM of the 2B and
/// 3B, which compares the whole text; later loaders ignore them. 35 bytes.
pub const OPTION_43: &[u8] = &[
    6, 1, 3, // PXE_DISCOVERY_CONTROL: no broadcast, no multicast discovery
    10, 4, 0, b'P', b'X', b'E', // PXE_MENU_PROMPT: wait 0 s
    9, 23, 0, 0, 20, // PXE_BOOT_MENU: type 0, a text of 20 bytes
    b'R', b'a', b's', b'p', b'b', b'e', b'r', b'r', b'y', b' ', b'P', b'i', b' ', b'B', b'o', b'o', b't', b' ', b' ',
    b' ', 255,
];

/// Who sent a request, as far as one message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// The mask ROM or `bootcode.bin` of a 2B v1.2, 3B or 3B+. Uses the address
    /// of an OFFER at once and sends no REQUEST.
    PiRom,
    /// The EEPROM loader of a Pi 4 or later.
    PiEeprom,
    /// Something later on a board with Raspberry Pi's OUI: kernel, initramfs or system.
    PiOther,
    /// A PXE loader that is no Pi's.
    OtherPxe,
    /// Anything else; also a later stage of a board with a foreign MAC address.
    Other,
}

impl Asker {
    /// Whether it is a Raspberry Pi, at whatever stage.
    pub fn is_pi(self) -> bool {
        matches!(self, Self::PiRom | Self::PiEeprom | Self::PiOther)
    }

    /// Whether it is a Raspberry Pi that loads from the network right now:
    /// what an enrolment window takes in.
    pub fn is_pi_loader(self) -> bool {
        matches!(self, Self::PiRom | Self::PiEeprom)
    }

    /// Whether it is a loader of any make, so that the PXE options make sense.
    pub fn is_loader(self) -> bool {
        matches!(self, Self::PiRom | Self::PiEeprom | Self::OtherPxe)
    }
}

/// Which program behind a loader asks, as far as option 55 tells: two of them
/// have lists of their own, and neither runs but in a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// The kernel's `ip=dhcp` (net/ipv4/ipconfig.c).
    Kernel,
    /// klibc's `ipconfig`, in an initramfs.
    Ipconfig,
    /// Any other: an operating system's client, which some initramfs have too.
    Other,
}

/// Option 55 of the kernel; newer ones add 42 (NTP).
const KERNEL_LIST: &[u8] = &[1, 3, 6, 12, 15, 17, 26, 40, 42];
/// What klibc's adds; newer ones ask for search domains and routes too.
const IPCONFIG_LIST: &[u8] = &[28, 119, 121];

/// Both ask for a root path (17) and an NIS domain (40), and for nothing that
/// only an operating system wants; klibc's for a broadcast address (28) too.
pub(super) fn program(parameters: &[u8]) -> Program {
    let of = |lists: &[&[u8]]| parameters.iter().all(|code| lists.iter().any(|list| list.contains(code)));
    match [17, 40].iter().all(|code| parameters.contains(code)) {
        true if of(&[KERNEL_LIST]) => Program::Kernel,
        true if parameters.contains(&28) && of(&[KERNEL_LIST, IPCONFIG_LIST]) => Program::Ipconfig,
        _ => Program::Other,
    }
}

/// Who a board says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub asker: Asker,
    /// `Model::Unknown` for what only "a Pi" is known of: a 3B+, whose request
    /// is that of `bootcode.bin` on any older board too, and every later stage.
    pub model: Model,
    /// Names the TFTP folder; the ROM of a 2B or 3B does not tell it.
    pub serial: Option<Serial>,
    pub revision: Option<Revision>,
}

impl Identity {
    pub fn memory_mib(&self) -> Option<u32> {
        self.revision.and_then(Revision::memory_mib)
    }
}

/// Which kind of sender one message shows. `guid` is option 97 with its type byte.
///
/// Option 60 alone does not decide: early Pi 4 firmware is said to leave it out
/// of its REQUEST. So the loader's own list of wanted options counts as well,
/// which no operating system asks for.
pub(super) fn identify(
    mac: MacAddr,
    xid: u32,
    class: Option<&[u8]>,
    guid: Option<&[u8]>,
    parameters: &[u8],
) -> Identity {
    let nothing = |asker| Identity { asker, model: Model::Unknown, serial: None, revision: None };
    let guid: Option<&[u8; 16]> = match guid {
        Some([0, guid @ ..]) => guid.try_into().ok(),
        _ => None,
    };
    if let Some(identity) = guid.and_then(|guid| eeprom_guid(mac, guid)) {
        return identity;
    }
    let pxe = class.is_some_and(|class| class.starts_with(VENDOR_CLASS));
    if !pxe && ![43, 60, 66, 128].iter().all(|code| parameters.contains(code)) {
        return nothing(if mac.is_raspberry_pi() { Asker::PiOther } else { Asker::Other });
    }
    if guid == Some(&[0x44; 16]) {
        // Its ROM is also the 2B v1.2's; the 3B is by far the more common.
        return Identity { model: Model::Pi3B, ..nothing(Asker::PiRom) };
    }
    if !mac.is_raspberry_pi() && xid != PI3_ROM_XID {
        return nothing(Asker::OtherPxe);
    }
    // Up to the 3B+ the OUI is b8:27:eb; an EEPROM is on boards with later ones.
    let rom = xid == PI3_ROM_XID || mac.0.starts_with(&[0xb8, 0x27, 0xeb]);
    let asker = if rom { Asker::PiRom } else { Asker::PiEeprom };
    Identity { serial: guid.and_then(repeated_serial), ..nothing(asker) }
}

/// Option 97 of a Pi 4 or later: FourCC `RPi4` or `RPi5`, then board revision,
/// the lower four bytes of the MAC address and the serial number, 4 bytes each.
///
/// `DHCP_OPTION97` in the EEPROM can change the FourCC, so a board that repeats
/// its MAC address in the right place is taken too.
fn eeprom_guid(mac: MacAddr, guid: &[u8; 16]) -> Option<Identity> {
    let word = |n: usize| [guid[n * 4], guid[n * 4 + 1], guid[n * 4 + 2], guid[n * 4 + 3]];
    let mut reversed = word(2);
    reversed.reverse();
    let names_itself = guid.starts_with(b"RPi") && guid[3].is_ascii_digit();
    let repeats_mac = mac.is_raspberry_pi() && [word(2), reversed].iter().any(|word| mac.0.ends_with(word));
    if !names_itself && !repeats_mac {
        return None;
    }
    // Little-endian is what the older format uses and is not documented for this
    // one: the order in which the revision names a known model is believed.
    let revision = |bytes: u32| Revision(bytes & 0x00ff_ffff); // bits 24 to 31 tell of warranty and OTP
    let little = revision(u32::from_le_bytes(word(1)));
    let big = revision(u32::from_be_bytes(word(1)));
    let is_big = little.model() == Model::Unknown && big.model() != Model::Unknown;
    let (revision, serial) =
        if is_big { (big, u32::from_be_bytes(word(3))) } else { (little, u32::from_le_bytes(word(3))) };
    Some(Identity {
        asker: Asker::PiEeprom,
        model: revision.model(),
        serial: (serial != 0).then_some(Serial(serial)),
        revision: (revision.0 != 0).then_some(revision),
    })
}

/// Option 97 of a 3B+ and of `bootcode.bin`, and of a Pi 4 with `DHCP_OPTION97=0`:
/// the serial number, little-endian, four times.
fn repeated_serial(guid: &[u8; 16]) -> Option<Serial> {
    let word = [guid[0], guid[1], guid[2], guid[3]];
    let repeated = guid.chunks(4).all(|chunk| chunk == word);
    (repeated && word != [0; 4]).then(|| Serial(u32::from_le_bytes(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PI3: MacAddr = MacAddr([0xb8, 0x27, 0xeb, 0x6c, 0x4c, 0x16]);
    const PI4: MacAddr = MacAddr([0xdc, 0xa6, 0x32, 0x01, 0x36, 0xc2]);
    const QEMU: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    const LOADER_LIST: &[u8] = &[1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135];
    const CLASS: Option<&[u8]> = Some(b"PXEClient:Arch:00000:UNDI:002001");

    fn guid(fourcc: &[u8], revision: [u8; 4], mac: [u8; 4], serial: [u8; 4]) -> Vec<u8> {
        [&[0], fourcc, &revision, &mac, &serial].concat()
    }

    #[track_caller]
    fn check(mac: MacAddr, class: Option<&[u8]>, guid: Option<&[u8]>, list: &[u8], asker: Asker, model: Model) {
        let identity = identify(mac, 7, class, guid, list);
        assert_eq!((identity.asker, identity.model), (asker, model));
    }

    #[test]
    fn each_kind_of_sender_is_told_apart() {
        let rpi4 = guid(b"RPi4", [0x14, 0x31, 0xc0, 0], [0x32, 0x01, 0x36, 0xc2], [0xef, 0xfd, 0xfe, 0x9f]);
        let constant = [&[0][..], &[0x44; 16]].concat();
        check(PI3, CLASS, Some(&constant), &[], Asker::PiRom, Model::Pi3B);
        check(QEMU, CLASS, Some(&constant), &[], Asker::PiRom, Model::Pi3B);
        check(PI3, CLASS, None, &[], Asker::PiRom, Model::Unknown);
        check(PI4, CLASS, Some(&rpi4), LOADER_LIST, Asker::PiEeprom, Model::Pi4B);
        check(QEMU, None, Some(&rpi4), &[], Asker::PiEeprom, Model::Pi4B);
        check(PI4, CLASS, None, LOADER_LIST, Asker::PiEeprom, Model::Unknown);
        check(PI4, None, None, &[1, 3, 6, 12, 15, 17, 26, 40], Asker::PiOther, Model::Unknown);
        check(QEMU, CLASS, None, LOADER_LIST, Asker::OtherPxe, Model::Unknown);
        check(QEMU, CLASS, Some(&[0xee; 17]), LOADER_LIST, Asker::OtherPxe, Model::Unknown);
        check(QEMU, Some(b"udhcp 1.35.0"), None, &[1, 3, 6], Asker::Other, Model::Unknown);
    }

    #[test]
    fn the_list_tells_kernel_and_initramfs_from_systems() {
        let cases: [(&[u8], Program); 8] = [
            (&[1, 3, 6, 12, 15, 17, 26, 40], Program::Kernel),
            (&[1, 3, 6, 12, 15, 17, 26, 40, 42], Program::Kernel),
            (&[1, 3, 6, 12, 15, 17, 26, 28, 40], Program::Ipconfig),
            (&[1, 3, 6, 12, 15, 17, 26, 28, 40, 119, 121], Program::Ipconfig),
            // NetworkManager, dhcpcd, udhcpc, nothing.
            (&[1, 2, 6, 12, 15, 26, 28, 121, 3, 33, 40, 41, 42, 119, 249, 252, 17], Program::Other),
            (&[1, 121, 33, 3, 6, 12, 15, 26, 28, 42, 51, 54, 58, 59, 119], Program::Other),
            (&[1, 3, 6, 12, 15, 28, 42], Program::Other),
            (&[], Program::Other),
        ];
        for (list, expected) in cases {
            assert_eq!(program(list), expected, "{list:?}");
        }
    }

    #[test]
    fn a_request_without_option_60_is_known_by_its_list() {
        check(PI4, None, None, LOADER_LIST, Asker::PiEeprom, Model::Unknown);
    }

    #[test]
    fn the_roms_xid_shows_a_board_with_a_changed_mac() {
        assert_eq!(identify(QEMU, PI3_ROM_XID, CLASS, None, &[]).asker, Asker::PiRom);
    }

    #[test]
    fn the_serial_four_times_is_read_little_endian() {
        let guid = [&[0][..], &[0x16, 0x4c, 0x6c, 0xb6].repeat(4)].concat();
        let identity = identify(PI3, 7, CLASS, Some(&guid), &[]);
        assert_eq!((identity.asker, identity.serial), (Asker::PiRom, Some(Serial(0xb66c_4c16))));
        assert_eq!(identify(PI4, 7, CLASS, Some(&guid), &[]).asker, Asker::PiEeprom);
    }

    #[test]
    fn both_byte_orders_of_the_eeprom_format_are_read() {
        let little = guid(b"RPi5", [0x70, 0x41, 0xd0, 0x80], [0; 4], [0xcd, 0xab, 0x34, 0x12]);
        let big = guid(b"RPi5", [0x80, 0xd0, 0x41, 0x70], [0; 4], [0x12, 0x34, 0xab, 0xcd]);
        for guid in [little, big] {
            let identity = identify(QEMU, 7, CLASS, Some(&guid), &[]);
            assert_eq!((identity.model, identity.serial), (Model::Pi5, Some(Serial(0x1234_abcd))));
            assert_eq!(identity.revision, Some(Revision(0xd04170)));
        }
    }

    #[test]
    fn a_changed_fourcc_is_seen_through_by_the_mac() {
        let guid = guid(b"ACME", [0x14, 0x31, 0xc0, 0], [0x32, 0x01, 0x36, 0xc2], [1, 0, 0, 0]);
        let identity = identify(PI4, 7, CLASS, Some(&guid), &[]);
        assert_eq!((identity.model, identity.serial), (Model::Pi4B, Some(Serial(1))));
    }

    #[test]
    fn a_model_of_the_future_is_still_a_pi() {
        let guid = guid(b"RPi6", [0x10, 0x52, 0xd0, 0], [0; 4], [1, 0, 0, 0]);
        let identity = identify(QEMU, 7, None, Some(&guid), &[]);
        assert_eq!((identity.asker, identity.model), (Asker::PiEeprom, Model::Unknown));
    }

    #[test]
    fn option_43_ends_with_three_spaces_and_is_35_bytes() {
        assert_eq!(OPTION_43.len(), 35);
        assert!(OPTION_43.ends_with(b"Raspberry Pi Boot   \xff"));
        assert_eq!(usize::from(OPTION_43[10]), OPTION_43.len() - 12, "length of sub-option 9");
    }
}
