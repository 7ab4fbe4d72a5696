//! What a stick is to the store that is open: its copy, older, newer, another
//! one. And which files of a store a copy has not.
//!
//! Pure, but for reading and writing `backup.toml` and `store.toml`.

use std::fs::DirEntry;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::store::manifest::{self, CLIENTS, IMAGES, NEW, TRASH, UNFINISHED};
use crate::store::{atomic, library};

/// At the top of a store: this is a copy.
pub const MARK: &str = "backup.toml";

/// All that a new ext4 holds.
const LOST_AND_FOUND: &str = "lost+found";

/// `backup.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The id of the store that it is a copy of.
    pub of: String,
    /// When it was complete, in Unix seconds; none: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<u64>,
}

impl Mark {
    pub fn write(&self, store: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        atomic::write(&store.join(MARK), text.as_bytes(), 0o644)
    }
}

/// The mark of a mounted store. One that cannot be read is of no complete copy.
pub fn read(store: &Path) -> Option<Mark> {
    let broken = || Mark { of: String::new(), taken: None };
    match atomic::read_bounded(&store.join(MARK), manifest::MAX_MANIFEST_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(broken()),
        Ok(bytes) => Some(parse(&bytes).unwrap_or_else(broken)),
    }
}

/// Parses `backup.toml`.
pub fn parse(bytes: &[u8]) -> Option<Mark> {
    toml::from_str(std::str::from_utf8(bytes).ok()?).ok()
}

/// What is known of a store without opening it for clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    pub mark: Option<Mark>,
    /// From `store.toml`; none before its first opening by a version that has them.
    pub id: Option<String>,
    /// How often a copy stood in: the higher one is the one to go on with.
    pub turn: u32,
    /// Nothing at all is in it: a copy that ended before it began.
    pub is_new: bool,
}

impl Known {
    /// Of a mounted store.
    pub fn read(store: &Path) -> Self {
        let choice = library::read_choice(store).unwrap_or_default();
        let made = |entry: io::Result<DirEntry>| entry.is_ok_and(|entry| entry.file_name() == LOST_AND_FOUND);
        let is_new = std::fs::read_dir(store).is_ok_and(|mut entries| entries.all(made));
        Self { mark: read(store), id: choice.id, turn: choice.turn, is_new }
    }

    /// The order in which stores are tried when several are plugged in: no
    /// copy before those that are none, of twins the later, one with an id
    /// before an empty one.
    pub fn order(&self) -> impl Ord {
        (self.mark.is_some(), self.id.is_none(), std::cmp::Reverse(self.turn))
    }
}

/// What a second store is to the open one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its copy, complete at that time or not.
    Copy(Option<u64>),
    /// What it was a copy of before it stood in.
    Former,
    /// Somebody went on with that one.
    Later,
    /// Has nothing to do with it.
    Other,
}

/// How `second` stands to the open store of this id and turn.
pub fn standing(id: &str, turn: u32, second: &Known) -> Standing {
    match &second.mark {
        Some(mark) if mark.of == id => Standing::Copy(mark.taken),
        Some(_) => Standing::Other,
        None if second.is_new => Standing::Copy(None),
        None if second.id.as_deref() != Some(id) => Standing::Other,
        // Twins by another tool are told of, not written over.
        None if second.turn >= turn => Standing::Later,
        None => Standing::Former,
    }
}

/// Paths below the top of a store that a copy has not: what is unfinished, what
/// ends with a boot, what the overlay keeps for itself (it names inodes).
pub fn is_left_out(path: &Path) -> bool {
    let parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap_or("")).collect();
    match parts[..] {
        [name] => [TRASH, LOST_AND_FOUND, MARK].contains(&name) || name.ends_with(".tmp"),
        [IMAGES, name] => name.starts_with(UNFINISHED),
        [CLIENTS, name] => name.starts_with(NEW),
        [CLIENTS, _, name] => ["work", "boot-work", "ephemeral", ".new-ephemeral"].contains(&name),
        [CLIENTS, _, "states", _, name] => ["work", "boot-work"].contains(&name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(mark: Option<(&str, Option<u64>)>, id: Option<&str>, turn: u32) -> Known {
        let mark = mark.map(|(of, taken)| Mark { of: of.into(), taken });
        Known { mark, id: id.map(str::to_owned), turn, is_new: false }
    }

    #[test]
    fn a_second_stick_is_what_its_marks_say() {
        let check = |second: Known, expected| assert_eq!(standing("a", 1, &second), expected, "{second:?}");
        check(known(Some(("a", Some(9))), Some("a"), 1), Standing::Copy(Some(9)));
        check(known(Some(("a", None)), None, 0), Standing::Copy(None));
        check(known(Some(("b", Some(9))), Some("b"), 0), Standing::Other);
        check(known(None, Some("a"), 0), Standing::Former);
        check(known(None, Some("a"), 2), Standing::Later);
        // The same disk copied by another tool: which is meant, nobody knows.
        check(known(None, Some("a"), 1), Standing::Later);
        check(known(None, Some("b"), 0), Standing::Other);
        check(known(None, None, 0), Standing::Other);
        // Its power went between the making of its store and the mark.
        check(Known { is_new: true, ..known(None, None, 0) }, Standing::Copy(None));
        check(Known { is_new: true, ..known(Some(("b", None)), None, 0) }, Standing::Other);
    }

    #[test]
    fn the_store_goes_before_its_copy_and_the_later_before_the_former() {
        let mut stores = [
            known(Some(("a", Some(1))), Some("a"), 7),
            known(None, None, 0),
            known(None, Some("a"), 1),
            known(None, Some("a"), 2),
        ];
        stores.sort_by(|one, two| one.order().cmp(&two.order()));
        let turns: Vec<u32> = stores.iter().map(|store| store.turn).collect();
        assert_eq!(turns, [2, 1, 0, 7]);
        assert!(stores[3].mark.is_some());
    }

    #[test]
    fn what_ends_with_a_boot_or_names_inodes_is_left_out_and_nothing_else() {
        for path in [
            "trash",
            "lost+found",
            "backup.toml",
            "store.toml.tmp",
            "images/.importing-7",
            "clients/.new-pi-1",
            "clients/pi-1/work",
            "clients/pi-1/boot-work",
            "clients/pi-1/ephemeral",
            "clients/pi-1/states/3/work",
        ] {
            assert!(is_left_out(Path::new(path)), "{path}");
        }
        for path in [
            "store.toml",
            "handle.key",
            "profile",
            "images/a-1/root.ext4",
            "clients/pi-1/client.toml",
            "clients/pi-1/upper/work",
            "clients/pi-1/states/3/upper",
            "clients/pi-1/volume",
            "clients/work",
            "clients/pi-1/upper/home/trash",
            "clients/pi-1/upper/x.tmp",
        ] {
            assert!(!is_left_out(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn only_an_empty_store_is_new() {
        let store = tempfile::tempdir().unwrap();
        std::fs::create_dir(store.path().join(LOST_AND_FOUND)).unwrap();
        assert!(Known::read(store.path()).is_new);
        // Somebody's file, put there by hand.
        std::fs::write(store.path().join("raspios.img"), "").unwrap();
        assert!(!Known::read(store.path()).is_new);
    }

    #[test]
    fn a_mark_is_written_whole_and_a_broken_one_is_of_no_complete_copy() {
        let store = tempfile::tempdir().unwrap();
        assert_eq!(read(store.path()), None);
        let mark = Mark { of: "a".into(), taken: Some(5) };
        mark.write(store.path()).unwrap();
        assert_eq!(read(store.path()), Some(mark));
        std::fs::write(store.path().join(MARK), "of = ").unwrap();
        assert_eq!(read(store.path()), Some(Mark { of: String::new(), taken: None }));
    }
}
