//! What `config.txt` says about the kernel command line: its file may have
//! another name, in images of Ubuntu for instance `nobtcmd.txt`.
//!
//! Pure. All sections are read, whatever board or boot they are for: a name
//! too many costs nothing, one too few would boot without our words.

/// Longest `config.txt`, or file it includes, that is read, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;
/// Most files that are read for one answer, `config.txt` itself with them.
pub const MAX_FILES: usize = 8;
/// Most names that are taken of one file.
const MAX_NAMES: usize = 16;
const MAX_NAME_BYTES: usize = 255;

/// What one file names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// By `cmdline=`, each below the `os_prefix`.
    pub command_lines: Vec<String>,
    /// By `include`, each in the root of the boot tree.
    pub includes: Vec<String>,
}

/// Reads one file; what is no text is passed over.
pub fn parse(bytes: &[u8]) -> Named {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_BYTES)]);
    let mut named = Named::default();
    for line in text.lines().map(str::trim) {
        let (list, value) = if let Some(value) = line.strip_prefix("cmdline=") {
            (&mut named.command_lines, value)
        } else if let Some(value) = line.strip_prefix("include ") {
            (&mut named.includes, value)
        } else {
            continue;
        };
        let value = value.trim();
        if !value.is_empty() && value.len() <= MAX_NAME_BYTES && list.len() < MAX_NAMES {
            list.push(value.to_owned());
        }
    }
    named
}

/// Whether a requested path is one of the named, behind any `os_prefix`. FAT
/// knows no upper and lower case.
pub fn is_named(names: &[String], path: &[u8]) -> bool {
    names.iter().any(|name| {
        let name = name.trim_start_matches('/').as_bytes();
        let Some(start) = path.len().checked_sub(name.len()) else { return false };
        path[start..].eq_ignore_ascii_case(name) && !name.is_empty() && (start == 0 || path[start - 1] == b'/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_section() {
        let text = b"[pi4]\nkernel=vmlinuz\ncmdline=nobtcmd.txt\r\n[all]\n#cmdline=none.txt\n  include syscfg.txt\n\
                     [tryboot]\ncmdline=new cmd.txt\ncmdline=\n\xff\xfe";
        let named = parse(text);
        assert_eq!(named.command_lines, ["nobtcmd.txt", "new cmd.txt"]);
        assert_eq!(named.includes, ["syscfg.txt"]);
    }

    #[test]
    fn a_path_is_named_whole_behind_its_prefix() {
        let names = ["nobtcmd.txt".to_owned(), "/abs.txt".to_owned(), "/".to_owned()];
        for path in ["nobtcmd.txt", "current/nobtcmd.txt", "NOBTCMD.TXT", "abs.txt"] {
            assert!(is_named(&names, path.as_bytes()), "{path}");
        }
        for path in ["xnobtcmd.txt", "nobtcmd.txt/x", "txt", "", "btcmd.txt", "current/"] {
            assert!(!is_named(&names, path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn what_is_read_has_bounds() {
        let many = "cmdline=a\n".repeat(1000) + &format!("include {}\n", "x".repeat(300));
        let named = parse(many.as_bytes());
        assert_eq!((named.command_lines.len(), named.includes.len()), (MAX_NAMES, 0));
        assert_eq!(parse(&vec![b'c'; 1 << 20]), Named::default());
    }
}
