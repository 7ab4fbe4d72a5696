//! What a folder holds, and how it differs from before, as text for a person.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    mode: u32,
    owner: (u32, u32),
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Folder,
    Link(String),
    File(Vec<u8>),
    Other,
}

pub type Found = BTreeMap<String, Entry>;

/// Everything below `root`.
pub fn read(root: &Path) -> Found {
    let mut found = Found::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let content = if stat.is_dir() {
                folders.push(path.clone());
                Content::Folder
            } else if stat.is_symlink() {
                Content::Link(fs::read_link(&path).unwrap().to_string_lossy().into_owned())
            } else if stat.is_file() {
                Content::File(fs::read(&path).unwrap())
            } else {
                Content::Other
            };
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found.insert(name, Entry { mode: stat.mode() & 0o7777, owner: (stat.uid(), stat.gid()), content });
        }
    }
    found
}

/// One paragraph a path: `+` new, `~` changed, `-` gone. Of a new text all
/// lines are shown, of a changed one those that differ.
pub fn changes(prefix: &str, before: &Found, after: &Found) -> String {
    let mut out = String::new();
    let paths: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for path in paths {
        let (old, new) = (before.get(path), after.get(path));
        if old == new {
            continue;
        }
        let sign = match (old, new) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        };
        out.push_str(&format!("{sign} {prefix}{path}"));
        let Some(new) = new else {
            out.push('\n');
            continue;
        };
        match &new.content {
            Content::Link(target) => out.push_str(&format!(" -> {target}\n")),
            _ => out.push_str(&format!(" {:o} {}:{}\n", new.mode, new.owner.0, new.owner.1)),
        }
        if let Content::File(bytes) = &new.content {
            let old = match old.map(|old| &old.content) {
                Some(Content::File(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
                _ => String::new(),
            };
            out.push_str(&lines(path, &old, &String::from_utf8_lossy(bytes)));
        }
    }
    out
}

/// The lines that came and went; of what is made by chance only its kind.
fn lines(path: &str, old: &str, new: &str) -> String {
    if path.contains("ssh_host_") || path.ends_with("machine-id") {
        return format!("    ({} bytes, each time others)\n", new.len());
    }
    // Our own scripts are read in the source.
    if path.starts_with("usr/local/lib/rootstock/") || path.starts_with("etc/systemd/system/rootstock-") {
        return "    (ours)\n".to_owned();
    }
    let gone = old.lines().filter(|line| !new.lines().any(|other| other == *line));
    let came = new.lines().filter(|line| !old.lines().any(|other| other == *line));
    gone.map(|line| format!("    -{line}\n")).chain(came.map(|line| format!("    +{line}\n"))).collect()
}
