//! What an open store holds: its key, its images, its clients with their
//! states and snapshots; and its housekeeping when it is opened.
//!
//! I/O. Whatever is broken is passed over and told (`aside`); the rest serves.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::manifest::{
    self, CLIENTS, ClientPaths, HANDLE_KEY, IMAGES, ImageManifest, ImagePaths, NEW, PROFILE, STORE_MANIFEST,
    StoreManifest, TRASH, UNFINISHED,
};
use super::operate::recover;
use super::states::{MAX_SNAPSHOTS, MAX_STATES, Record, Snapshot, SnapshotName, State};
use super::{aside, atomic, trash};
use crate::client::{ImageId, Role};
use crate::directory::HandleKey;

/// Most images and clients that are looked at.
const MAX_IMAGES: usize = 200;
const MAX_CLIENTS: usize = 1000;
const MAX_ENTRIES: usize = 10_000;

/// A store's folders or key cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[error("using {path}")]
pub struct LibraryError {
    path: PathBuf,
    source: io::Error,
}

/// Everything found at an opening.
#[derive(Debug, Default)]
pub struct Library {
    pub handle_key: HandleKey,
    /// The one that new clients get last.
    pub images: Vec<(ImageId, ImageManifest)>,
    /// What a person chose; none: the newest.
    pub default_image: Option<ImageId>,
    pub clients: Vec<Record>,
    /// Folder names below `clients/` that no new client may take.
    pub taken: Vec<Role>,
    /// What could not be read: `file: reason`.
    pub broken: Vec<String>,
}

/// Makes what is missing, removes what was left unfinished, finishes what was
/// decided, reads the rest.
pub fn open(store: &Path) -> Result<Library, LibraryError> {
    for name in [IMAGES, CLIENTS, PROFILE, TRASH] {
        let path = store.join(name);
        match DirBuilder::new().mode(0o755).create(&path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(LibraryError { path, source }),
            _ => {}
        }
    }
    // Into the trash by a rename: a large one would delay everybody.
    for (folder, prefix) in [(IMAGES, UNFINISHED), (CLIENTS, NEW)] {
        for name in names(&store.join(folder))?.iter().filter(|name| name.starts_with(prefix)) {
            if let Err(error) = trash::put(store, &store.join(folder).join(name)) {
                tracing::warn!(name, %error, "an unfinished folder could not be removed");
            }
        }
    }
    let said = recover::renames(store, &names(&store.join(CLIENTS))?);
    let mut library = read(store)?;
    library.broken.extend(said);
    for record in &mut library.clients {
        library.broken.extend(recover::client(store, record));
        let paths = ClientPaths::of(store, &record.client.role);
        library.broken.extend(recover::writes(&[&paths.folder, &paths.snapshots()]));
    }
    for (id, _) in &library.images {
        library.broken.extend(recover::writes(&[&ImagePaths::of(store, id).folder]));
    }
    Ok(library)
}

/// Reads all of it as it is.
pub fn read(store: &Path) -> Result<Library, LibraryError> {
    let (handle_key, said) = handle_key(store)?;
    let mut library = contents(store)?;
    library.handle_key = handle_key;
    library.broken.splice(0..0, said);
    Ok(library)
}

/// The same without the handles' key, and without writing anything.
pub fn contents(store: &Path) -> Result<Library, LibraryError> {
    let mut library = Library::default();
    match read_choice(store) {
        Ok(choice) => library.default_image = choice.default_image,
        Err(error) => library.broken.push(format!("{STORE_MANIFEST}: {error}")),
    }
    read_images(store, &mut library)?;
    read_clients(store, &mut library)?;
    Ok(library)
}

/// What a person chose for the whole store; all defaults where there is no file.
pub fn read_choice(store: &Path) -> Result<StoreManifest, String> {
    match atomic::read_bounded(&store.join(STORE_MANIFEST), manifest::MAX_MANIFEST_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(StoreManifest::default()),
        Err(error) => Err(error.to_string()),
        Ok(bytes) => manifest::parse_store(&bytes).map_err(|error| error.to_string()),
    }
}

/// Changes `store.toml`; one that cannot be read is put aside and begun anew.
pub fn change_choice(store: &Path, change: impl FnOnce(&mut StoreManifest)) -> io::Result<()> {
    let before = read_choice(store);
    let mut choice = before.clone().unwrap_or_default();
    change(&mut choice);
    if before.as_ref() == Ok(&choice) {
        return Ok(());
    }
    if before.is_err() {
        aside::put(store, &store.join(STORE_MANIFEST))?;
    }
    let text = toml::to_string(&choice).map_err(io::Error::other)?;
    atomic::write(&store.join(STORE_MANIFEST), text.as_bytes(), 0o644)
}

/// 16 random bytes, made once. With another key all clients' handles are stale, so one that cannot be read just now is
/// an error; only what is no key at all is put aside for a new one, and told.
fn handle_key(store: &Path) -> Result<(HandleKey, Option<String>), LibraryError> {
    let path = store.join(HANDLE_KEY);
    let failed = |source| LibraryError { path: path.clone(), source };
    let mut said = None;
    let found = match atomic::read_bounded(&path, 16) {
        Ok(bytes) => <[u8; 16]>::try_from(bytes).map_err(|bytes| format!("has {} bytes, not 16", bytes.len())),
        Err(error) if matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput) => {
            Err(error.to_string())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((new_key(&path).map_err(failed)?, None)),
        Err(error) => return Err(failed(error)),
    };
    let key = match found {
        Ok(key) => HandleKey(key),
        Err(reason) => {
            let aside = aside::put(store, &path).map_err(failed)?;
            said = Some(format!("{HANDLE_KEY}: {reason}; kept as {aside}, and running clients must be restarted"));
            new_key(&path).map_err(failed)?
        }
    };
    Ok((key, said))
}

/// Makes all handles that clients hold stale.
pub fn renew_key(store: &Path) -> io::Result<()> {
    new_key(&store.join(HANDLE_KEY)).map(drop)
}

fn new_key(path: &Path) -> io::Result<HandleKey> {
    let mut key = [0; 16];
    rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())?;
    atomic::write(path, &key, 0o600)?;
    Ok(HandleKey(key))
}

fn names(folder: &Path) -> Result<Vec<String>, LibraryError> {
    let entries = fs::read_dir(folder).map_err(|source| LibraryError { path: folder.to_owned(), source })?;
    let mut names: Vec<String> =
        entries.take(MAX_ENTRIES).filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn read_images(store: &Path, library: &mut Library) -> Result<(), LibraryError> {
    let ids = names(&store.join(IMAGES))?.into_iter().filter_map(|name| name.parse::<ImageId>().ok());
    for id in ids.take(MAX_IMAGES) {
        let paths = ImagePaths::of(store, &id);
        let manifest = text_of(&paths.manifest())
            .and_then(|bytes| manifest::parse_image(&bytes).map_err(|error| error.to_string()));
        match (manifest, aside::fault(&paths)) {
            (Ok(manifest), None) => library.images.push((id, manifest)),
            (Ok(_), Some(fault)) => library.broken.push(format!("images/{id}: {fault}")),
            (Err(error), _) => library.broken.push(format!("images/{id}/image.toml: {error}")),
        }
    }
    sort_images(&mut library.images, library.default_image.as_ref());
    Ok(())
}

/// The newest last: the one that new clients get, unless a person chose another.
pub fn sort_images(images: &mut [(ImageId, ImageManifest)], chosen: Option<&ImageId>) {
    images.sort_by(|a, b| {
        let key = |(id, manifest): &(ImageId, ImageManifest)| (Some(id) == chosen, manifest.imported, id.clone());
        key(a).cmp(&key(b))
    });
}

fn read_clients(store: &Path, library: &mut Library) -> Result<(), LibraryError> {
    let roles = names(&store.join(CLIENTS))?.into_iter().filter_map(|name| name.parse::<Role>().ok());
    for role in roles.take(MAX_CLIENTS) {
        match read_client(store, &role) {
            Ok((record, broken)) => {
                library.clients.push(record);
                library.broken.extend(broken);
            }
            Err(error) => library.broken.push(format!("clients/{role}/client.toml: {error}")),
        }
        library.taken.push(role);
    }
    // Two clients must not answer to one board or export. An address that was given away while its
    // client's manifest was damaged is no reason: that client gets another one (control's `readdress`).
    let mut kept: Vec<Record> = Vec::new();
    for record in library.clients.drain(..) {
        let client = &record.client;
        let double = kept
            .iter()
            .map(|kept| &kept.client)
            .find(|other| other.mac == client.mac || other.export_id == client.export_id);
        match double {
            Some(other) => library.broken.push(format!(
                "clients/{}/client.toml: has the MAC address or export_id of {}",
                client.role, other.role
            )),
            None => kept.push(record),
        }
    }
    library.clients = kept;
    Ok(())
}

/// One client; a snapshot or state that cannot be read is told and left out.
pub fn read_client(store: &Path, role: &Role) -> Result<(Record, Vec<String>), String> {
    let paths = ClientPaths::of(store, role);
    let bytes = text_of(&paths.manifest())?;
    let (client, books) = manifest::parse_client(&bytes, role).map_err(|error| error.to_string())?;
    let mut record = Record { client, books, states: Default::default(), snapshots: Vec::new() };
    let mut broken = Vec::new();
    if paths.upper().is_dir() {
        record.states.insert(0, State { parent: None });
    }
    let numbers = names(&paths.states()).unwrap_or_default();
    for state in numbers.iter().filter_map(|name| name.parse().ok()).filter(|state| *state > 0).take(MAX_STATES) {
        match text_of(&paths.at(state).state_manifest()).map(|bytes| manifest::parse_state(&bytes)) {
            Ok(Ok(found)) => drop(record.states.insert(state, found)),
            // Made by a run that was cut before it had a parent or a use.
            Err(_) if state != record.books.state => {}
            Ok(Err(error)) => broken.push(format!("clients/{role}/states/{state}/state.toml: {error}")),
            Err(error) => broken.push(format!("clients/{role}/states/{state}/state.toml: {error}")),
        }
    }
    let files = names(&paths.snapshots()).unwrap_or_default();
    let files = files.iter().filter_map(|name| name.strip_suffix(".toml")?.parse::<SnapshotName>().ok());
    for name in files.take(MAX_SNAPSHOTS) {
        let path = paths.snapshots().join(format!("{name}.toml"));
        match text_of(&path).and_then(|bytes| manifest::parse_snapshot(&bytes, &name).map_err(|e| e.to_string())) {
            Ok(snapshot) => record.snapshots.push(snapshot),
            Err(error) => broken.push(format!("clients/{role}/snapshots/{name}.toml: {error}")),
        }
    }
    record.snapshots.sort_by(|a: &Snapshot, b| (a.taken, a.state, &a.name).cmp(&(b.taken, b.state, &b.name)));
    Ok((record, broken))
}

fn text_of(path: &Path) -> Result<Vec<u8>, String> {
    atomic::read_bounded(path, manifest::MAX_MANIFEST_BYTES).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(store: &Path, role: &str, n: u8) {
        let folder = store.join(CLIENTS).join(role);
        fs::create_dir_all(&folder).unwrap();
        let text = format!(
            "role = '{role}'\nmac = 'dc:a6:32:00:00:{n:02x}'\naddress = '10.0.0.{n}'\nimage = 'a-1'\nexport_id = {n}\n"
        );
        fs::write(folder.join("client.toml"), text).unwrap();
    }

    #[test]
    fn an_empty_folder_becomes_a_store_and_keeps_its_key() {
        let store = tempfile::tempdir().unwrap();
        let first = open(store.path()).unwrap();
        assert!(first.images.is_empty() && first.clients.is_empty() && first.broken.is_empty());
        assert_eq!(open(store.path()).unwrap().handle_key, first.handle_key);
        assert_ne!(first.handle_key, HandleKey::default());
        fs::write(store.path().join(HANDLE_KEY), "short").unwrap();
        let second = open(store.path()).unwrap();
        assert!(second.broken[0].contains("5 bytes") && second.handle_key != first.handle_key, "{:?}", second.broken);
        assert_eq!(fs::read(store.path().join("damaged/handle.key")).unwrap(), b"short");
        assert_eq!(open(store.path()).unwrap().broken.len(), 0);
    }

    #[test]
    fn broken_and_double_clients_are_told_and_the_rest_is_read() {
        let store = tempfile::tempdir().unwrap();
        client(store.path(), "pi-1", 1);
        client(store.path(), "pi-2", 2);
        client(store.path(), "pi-3", 1);
        fs::write(store.path().join("clients/pi-2/client.toml"), "role = ").unwrap();
        fs::create_dir_all(store.path().join("clients/not a role")).unwrap();
        let found = open(store.path()).unwrap();
        assert_eq!(found.clients.len(), 1, "{:?}", found.broken);
        assert_eq!(found.taken.len(), 3);
        assert_eq!(found.broken.len(), 2, "{:?}", found.broken);
        assert!(store.path().join("clients/pi-2/client.toml").exists());
    }

    #[test]
    fn what_was_not_finished_is_removed() {
        let store = tempfile::tempdir().unwrap();
        for name in ["images/.importing-1/boot", "clients/.new-pi-1/upper"] {
            fs::create_dir_all(store.path().join(name)).unwrap();
        }
        open(store.path()).unwrap();
        assert_eq!(fs::read_dir(store.path().join(IMAGES)).unwrap().count(), 0);
        assert_eq!(fs::read_dir(store.path().join(CLIENTS)).unwrap().count(), 0);
        trash::empty(store.path(), &std::sync::atomic::AtomicBool::new(false)).unwrap();
        assert_eq!(fs::read_dir(store.path().join(TRASH)).unwrap().count(), 0);
    }
}
