//! What a cut between two steps of an operation left, when the store is opened.
//!
//! I/O. A rename that was decided is finished, what was not decided goes to
//! the trash, and what a decision made needless goes there too. Files of a
//! root that name its role or board are mended when it is mounted (`Adapt`).

use std::fs;
use std::path::Path;

use super::plan::Step;
use crate::client::Role;
use crate::store::manifest::{self, CLIENTS, ClientPaths};
use crate::store::states::{Books, Record};
use crate::store::{atomic, chain, trash};

/// Gives folders the names that their `client.toml` decided for; what could
/// not be is told.
pub fn renames(store: &Path, folders: &[String]) -> Vec<String> {
    let mut said = Vec::new();
    for former in folders.iter().filter_map(|name| name.parse::<Role>().ok()) {
        let from = ClientPaths::of(store, &former);
        let Ok(bytes) = atomic::read_bounded(&from.manifest(), manifest::MAX_MANIFEST_BYTES) else { continue };
        let Ok((client, _)) = manifest::parse_client(&bytes, &former) else { continue };
        if client.role != former
            && let Err(error) = rename(store, &former, &client.role)
        {
            said.push(format!("clients/{former}: could not be renamed to {}: {error}", client.role));
        }
    }
    said
}

/// Renames a client's folder; one of that name is never replaced.
pub fn rename(store: &Path, from: &Role, to: &Role) -> std::io::Result<()> {
    let path = |role| ClientPaths::of(store, role).folder;
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    rustix::fs::renameat_with(rustix::fs::CWD, path(from), rustix::fs::CWD, path(to), flags)?;
    atomic::sync_folder(&store.join(CLIENTS))
}

/// Clears one client's folder of what is unfinished or needless; what could
/// not be cleared is told.
pub fn client(store: &Path, record: &mut Record) -> Vec<String> {
    let role = record.client.role.clone();
    let paths = ClientPaths::of(store, &role);
    let mut said = Vec::new();
    for snapshot in record.unfinished_snapshots() {
        let file = paths.snapshots().join(format!("{}.toml", snapshot.name));
        if let Err(error) = fs::remove_file(file) {
            said.push(format!("clients/{role}/snapshots/{}.toml: {error}", snapshot.name));
        }
    }
    let live = record.books.state;
    record.snapshots.retain(|snapshot| snapshot.state != live);
    if let Err(error) = tidy(store, record) {
        said.push(format!("clients/{role}: {}", chain(&error)));
    }
    said
}

/// Removes what a cut left of a write into a client's or an image's folder. At an opening only: later it may be somebody's.
pub fn writes(folders: &[&Path]) -> Vec<String> {
    let failed = |folder: &&Path| atomic::clear(folder).err().map(|error| format!("{}: {error}", folder.display()));
    folders.iter().filter_map(failed).collect()
}

/// What is left to do when a client's trees can be mounted.
pub fn pending(record: &Record) -> Vec<Step> {
    let books = &record.books;
    if !books.adapt && books.former.is_none() {
        return Vec::new();
    }
    let done = Books { adapt: false, former: None, ..books.clone() };
    vec![Step::Adapt, Step::Commit { client: record.client.clone(), books: done }]
}

/// Takes out of a client's folder what nothing needs: whole states, and the
/// work folders of frozen ones.
pub fn tidy(store: &Path, record: &mut Record) -> std::io::Result<()> {
    let paths = ClientPaths::of(store, &record.client.role);
    for state in record.unused_states() {
        let at = paths.at(state);
        match state {
            // It lies in the client's folder itself.
            0 => {
                for folder in [at.work(), at.boot_work(), at.boot_upper(), at.upper()] {
                    trash::put(store, &folder)?;
                }
            }
            _ => trash::put(store, &at.layer())?,
        }
        record.states.remove(&state);
    }
    for state in record.states.keys().filter(|state| **state != record.books.state) {
        let at = paths.at(*state);
        for folder in [at.work(), at.boot_work()] {
            unlink_index(&folder)?;
            trash::put(store, &folder)?;
        }
    }
    // Folders of states that were cut before they had a manifest.
    for entry in fs::read_dir(paths.states()).into_iter().flatten().take(10_000) {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(state) = number.filter(|state| *state > 0) else { continue };
        let needed = record.states.contains_key(&state)
            || state == record.books.state
            || record.snapshots.iter().any(|snapshot| snapshot.state == state)
            || record.states.values().any(|found| found.parent == Some(state));
        let made = fs::symlink_metadata(paths.at(state).state_manifest()).is_ok();
        if !needed && !made {
            trash::put(store, &entry.path())?;
        }
    }
    Ok(())
}

/// An index counts as one more link of each file; it must be gone before they lie below another state, and after a cut as
/// well: so the rename into the trash comes later. Its folders are no links, and to remove them takes longest, since each
/// must be read to be seen empty.
fn unlink_index(work: &Path) -> std::io::Result<()> {
    let index = work.join("index");
    let entries = match fs::read_dir(&index) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::states::tests::record;

    #[test]
    fn what_a_cut_write_left_goes_and_nothing_else_does() {
        let store = tempfile::tempdir().unwrap();
        let record = record(0, &[(0, None)], &[]);
        let paths = ClientPaths::of(store.path(), &record.client.role);
        fs::create_dir_all(paths.snapshots()).unwrap();
        fs::create_dir_all(paths.folder.join("folder.toml.tmp")).unwrap();
        let (left, kept) =
            (["client.toml.tmp", "snapshots/s.toml.tmp"], ["client.toml", "note.tmp", "snapshots/s.toml"]);
        for name in left.iter().chain(&kept) {
            fs::write(paths.folder.join(name), "x").unwrap();
        }
        assert_eq!(writes(&[&paths.folder, &paths.snapshots(), &paths.states()]), Vec::<String>::new());
        assert!(left.iter().all(|name| !paths.folder.join(name).exists()));
        assert!(kept.iter().all(|name| paths.folder.join(name).exists()));
    }
}
