//! Which file of a client's boot tree a requested path names.
//!
//! Pure: no file is looked at. The serial folder and the root are the same
//! tree, so a loader finds its files wherever it looks for them; the folder of
//! another board does not exist.

use crate::client::Serial;

/// Longest path that is looked up, in bytes. A Pi's longest is a serial folder,
/// an `os_prefix` and the name of an overlay: about 100.
pub const MAX_PATH_BYTES: usize = 512;

/// Deepest path, in components, the serial folder included.
pub const MAX_COMPONENTS: usize = 16;

/// Longest name in a directory (`NAME_MAX` of linux/limits.h).
const MAX_NAME_BYTES: usize = 255;

/// Longest text that `display` makes, in characters.
const MAX_DISPLAY_CHARS: usize = 120;

/// How a file's bytes come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Made from the tree's own by `cmdline`; at the root it exists always.
    CommandLine,
    /// The root's `config.txt`: exists always, because a Pi 5 takes no place
    /// without one for bootable.
    Config,
    /// As it is in the tree.
    Plain,
}

/// A place in the client's boot tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped<'p> {
    /// The serial folder that the path began with.
    pub folder: Option<Serial>,
    /// Relative to the boot tree: components without `.`, `..` or empty ones.
    pub file: &'p [u8],
    pub kind: Kind,
}

impl Mapped<'_> {
    /// Whether the file lies at the tree's root.
    pub fn at_root(&self) -> bool {
        !self.file.contains(&b'/')
    }
}

/// Why a path names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// No well-behaved loader asks for this.
    Refused(&'static str),
    /// It may exist, but not for this client.
    Missing,
}

/// Maps what the client with this serial (`None`: not known yet) asked for.
pub fn map(serial: Option<Serial>, path: &[u8]) -> Result<Mapped<'_>, Denied> {
    validate(path).map_err(Denied::Refused)?;
    let (folder, file) = match split_folder(path) {
        Some((folder, _)) if serial.is_some_and(|serial| serial != folder) => return Err(Denied::Missing),
        Some((folder, rest)) => (Some(folder), rest),
        None => (None, path),
    };
    let name = file.rsplit(|&b| b == b'/').next().unwrap_or(file);
    let kind = if name.eq_ignore_ascii_case(b"cmdline.txt") {
        Kind::CommandLine
    } else if file.eq_ignore_ascii_case(b"config.txt") {
        Kind::Config
    } else {
        Kind::Plain
    };
    Ok(Mapped { folder, file, kind })
}

fn validate(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the path is empty");
    }
    if path.len() > MAX_PATH_BYTES {
        return Err("the path is longer than 512 bytes");
    }
    if path.iter().any(|b| b.is_ascii_control()) {
        return Err("the path holds a control character");
    }
    if path.contains(&b'\\') {
        return Err("the path holds a backslash");
    }
    if path.starts_with(b"/") {
        return Err("the path is absolute");
    }
    for (depth, name) in path.split(|&b| b == b'/').enumerate() {
        match name {
            b"" => return Err("the path holds an empty name"),
            b"." | b".." => return Err("the path holds a dot name"),
            _ if name.len() > MAX_NAME_BYTES => return Err("the path holds a name longer than 255 bytes"),
            _ if depth >= MAX_COMPONENTS => return Err("the path is deeper than 16 folders"),
            _ => {}
        }
    }
    Ok(())
}

/// `9ffefdef/start4.elf` is a serial folder and the rest. Eight hexadecimal
/// digits alone are a file's name.
fn split_folder(path: &[u8]) -> Option<(Serial, &[u8])> {
    let (folder, rest) = path.split_at_checked(8)?;
    let rest = rest.strip_prefix(b"/")?;
    let serial = std::str::from_utf8(folder).ok()?.parse().ok()?;
    Some((serial, rest))
}

/// The path as a person or a log may see it: one line, printable, bounded.
pub fn display(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(&path[..path.len().min(4 * MAX_DISPLAY_CHARS)]);
    let shown = |c: char| if c.is_control() || c == char::REPLACEMENT_CHARACTER { '?' } else { c };
    let mut line: String = text.chars().take(MAX_DISPLAY_CHARS).map(shown).collect();
    if path.len() > line.len() && text.chars().count() > MAX_DISPLAY_CHARS {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Serial = Serial(0x9ffe_fdef);

    fn check(serial: Option<Serial>, path: &str, folder: Option<Serial>, file: &str, kind: Kind) {
        let expected = Ok(Mapped { folder, file: file.as_bytes(), kind });
        assert_eq!(map(serial, path.as_bytes()), expected, "{path:?}");
    }

    fn refused(path: &[u8], reason: &'static str) {
        assert_eq!(map(Some(OWN), path), Err(Denied::Refused(reason)), "{:?}", display(path));
    }

    #[test]
    fn the_serial_folder_and_the_root_are_one_tree() {
        check(Some(OWN), "9ffefdef/start4.elf", Some(OWN), "start4.elf", Kind::Plain);
        check(Some(OWN), "start4.elf", None, "start4.elf", Kind::Plain);
        check(Some(OWN), "9FFEFDEF/overlays/vc4.dtbo", Some(OWN), "overlays/vc4.dtbo", Kind::Plain);
        check(Some(OWN), "overlays/README", None, "overlays/README", Kind::Plain);
    }

    #[test]
    fn the_folder_of_another_board_does_not_exist() {
        assert_eq!(map(Some(OWN), b"00000001/start4.elf"), Err(Denied::Missing));
    }

    #[test]
    fn a_board_that_has_not_told_its_serial_tells_it_by_its_folder() {
        check(None, "00000001/start.elf", Some(Serial(1)), "start.elf", Kind::Plain);
        check(None, "bootcode.bin", None, "bootcode.bin", Kind::Plain);
    }

    #[test]
    fn eight_digits_without_a_file_are_a_name() {
        check(Some(OWN), "deadbeef", None, "deadbeef", Kind::Plain);
        check(Some(OWN), "deadbee/x", None, "deadbee/x", Kind::Plain);
        check(Some(OWN), "+eadbeef/x", None, "+eadbeef/x", Kind::Plain);
        check(Some(OWN), "9ffefdef/9ffefdef/x", Some(OWN), "9ffefdef/x", Kind::Plain);
    }

    #[test]
    fn generated_files_are_known_by_name() {
        check(Some(OWN), "9ffefdef/cmdline.txt", Some(OWN), "cmdline.txt", Kind::CommandLine);
        check(Some(OWN), "CMDLINE.TXT", None, "CMDLINE.TXT", Kind::CommandLine);
        check(Some(OWN), "new/cmdline.txt", None, "new/cmdline.txt", Kind::CommandLine);
        check(Some(OWN), "config.txt", None, "config.txt", Kind::Config);
        check(Some(OWN), "new/config.txt", None, "new/config.txt", Kind::Plain);
    }

    #[test]
    fn an_update_of_the_loader_is_the_clients_own_file() {
        for name in ["pieeprom.sig", "pieeprom.upd", "vl805.sig", "vl805.bin"] {
            check(Some(OWN), &format!("9ffefdef/{name}"), Some(OWN), name, Kind::Plain);
            check(Some(OWN), name, None, name, Kind::Plain);
        }
        assert_eq!(map(Some(OWN), b"00000001/pieeprom.upd"), Err(Denied::Missing));
    }

    #[test]
    fn paths_that_no_loader_asks_for_are_refused_with_the_reason() {
        refused(b"", "the path is empty");
        refused(b"/etc/shadow", "the path is absolute");
        refused(b"..", "the path holds a dot name");
        refused(b"9ffefdef/../../etc/shadow", "the path holds a dot name");
        refused(b"a/./b", "the path holds a dot name");
        refused(b"a//b", "the path holds an empty name");
        refused(b"overlays/", "the path holds an empty name");
        refused(b"9ffefdef/", "the path holds an empty name");
        refused(b"9ffefdef//etc/shadow", "the path holds an empty name");
        refused(b"..\\config.txt", "the path holds a backslash");
        refused(b"config.txt\0.elf", "the path holds a control character");
        refused(b"a\nb", "the path holds a control character");
        refused(&[b'a'; 10_000], "the path is longer than 512 bytes");
        refused(&[b'a'; MAX_PATH_BYTES], "the path holds a name longer than 255 bytes");
        refused("a/".repeat(MAX_COMPONENTS).as_bytes(), "the path holds an empty name");
        refused(format!("{}a", "a/".repeat(MAX_COMPONENTS)).as_bytes(), "the path is deeper than 16 folders");
    }

    #[test]
    fn what_is_shown_is_one_bounded_printable_line() {
        assert_eq!(display(b"9ffefdef/start4.elf"), "9ffefdef/start4.elf");
        assert_eq!(display(b"a\n\x1b[2J\0\xff"), "a??[2J??");
        let long = display(&[b'a'; 10_000]);
        assert_eq!((long.chars().count(), long.ends_with('…')), (MAX_DISPLAY_CHARS + 1, true));
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_mapped_stays_beneath_the_tree(path: Vec<u8>, known: bool) {
            if let Ok(mapped) = map(known.then_some(OWN), &path) {
                let names: Vec<&[u8]> = mapped.file.split(|&b| b == b'/').collect();
                proptest::prop_assert!(names.len() <= MAX_COMPONENTS);
                proptest::prop_assert!(names.iter().all(|name| !matches!(*name, b"" | b"." | b"..")));
                proptest::prop_assert!(!mapped.file.contains(&0));
            }
            proptest::prop_assert!(!display(&path).chars().any(char::is_control));
        }
    }
}
