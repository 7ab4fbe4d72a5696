//! The store's layout and its small text files: names of folders, `image.toml`,
//! `client.toml`, the making of an image id.
//!
//! Pure, but for one look at which layers a client runs on. Paths are relative to the store's top folder.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::packing;
use super::states::{Books, Snapshot, SnapshotName, State};
use crate::client::{Client, ImageId, Role};

/// Longest manifest that is read, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 10;
/// Most sources that one image remembers.
const MAX_SOURCES: usize = 16;

pub const IMAGES: &str = "images";
pub const CLIENTS: &str = "clients";
pub const PROFILE: &str = "profile";
pub const HANDLE_KEY: &str = "handle.key";
/// What a person chose for the whole store.
pub const STORE_MANIFEST: &str = "store.toml";
/// What nobody needs any more, until it is deleted.
pub const TRASH: &str = "trash";
/// What was damaged and had to be made anew.
pub const DAMAGED: &str = "damaged";
/// What is not finished carries this in front and is removed at the next opening.
pub const UNFINISHED: &str = ".importing-";
/// A client being made.
pub const NEW: &str = ".new-";

/// Folders and files of one image.
#[derive(Debug, Clone)]
pub struct ImagePaths {
    pub folder: PathBuf,
}

impl ImagePaths {
    pub fn of(store: &Path, id: &ImageId) -> Self {
        Self { folder: store.join(IMAGES).join(id.as_str()) }
    }

    pub fn manifest(&self) -> PathBuf {
        self.folder.join("image.toml")
    }

    pub fn root(&self) -> PathBuf {
        self.folder.join("root.ext4")
    }

    pub fn boot(&self) -> PathBuf {
        self.folder.join("boot")
    }

    /// Names of files that have several, where they were looked for (`links`).
    pub fn links(&self) -> PathBuf {
        self.folder.join("links")
    }
}

/// Folders and files of one client, its layers at one state (`states`).
#[derive(Debug, Clone)]
pub struct ClientPaths {
    pub folder: PathBuf,
    state: u32,
}

impl ClientPaths {
    pub fn of(store: &Path, role: &Role) -> Self {
        Self { folder: store.join(CLIENTS).join(role.as_str()), state: 0 }
    }

    /// The same client at another state.
    pub fn at(&self, state: u32) -> Self {
        Self { folder: self.folder.clone(), state }
    }

    /// Where a client is made before it is one.
    pub fn unfinished(store: &Path, role: &Role) -> Self {
        Self { folder: store.join(CLIENTS).join(format!("{NEW}{role}")), state: 0 }
    }

    pub fn manifest(&self) -> PathBuf {
        self.folder.join("client.toml")
    }

    pub fn states(&self) -> PathBuf {
        self.folder.join("states")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.folder.join("snapshots")
    }

    /// What a state consists of: that of enrolment lies in the client's folder
    /// itself, every later one in a folder of its own.
    pub fn layer(&self) -> PathBuf {
        match self.state {
            0 => self.folder.clone(),
            state => self.states().join(state.to_string()),
        }
    }

    /// `state.toml`; state 0 has none.
    pub fn state_manifest(&self) -> PathBuf {
        self.layer().join("state.toml")
    }

    pub fn upper(&self) -> PathBuf {
        self.layer().join("upper")
    }

    pub fn work(&self) -> PathBuf {
        self.layer().join("work")
    }

    /// What an ephemeral client wrote since its boot began: folders of the
    /// same names. It is there while such a client runs, and only then.
    pub fn ephemeral(&self) -> Self {
        Self { folder: self.folder.join("ephemeral"), state: 0 }
    }

    /// An ephemeral folder being made.
    pub fn new_ephemeral(&self) -> Self {
        Self { folder: self.folder.join(".new-ephemeral"), state: 0 }
    }

    /// The layers that take the writes of the client as it runs now.
    pub fn running(&self) -> Self {
        let ephemeral = self.ephemeral();
        if ephemeral.folder.is_dir() { ephemeral } else { self.clone() }
    }

    /// An export of its own: what outlives the root.
    pub fn volume(&self) -> PathBuf {
        self.folder.join("volume")
    }

    pub fn volume_file(&self) -> PathBuf {
        self.volume().join("containers.ext4")
    }

    pub fn boot_upper(&self) -> PathBuf {
        self.layer().join("boot-upper")
    }

    pub fn boot_work(&self) -> PathBuf {
        self.layer().join("boot-work")
    }
}

/// `images/<id>/image.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// For people: the source file's name without its endings.
    pub name: String,
    /// Of the source file, 64 hexadecimal digits.
    pub sha256: String,
    /// Unix seconds; what the clock said, which may be 1970.
    pub imported: u64,
    /// Of `root.ext4`, holes included.
    pub root_bytes: u64,
    /// Files that turned out to hold this image.
    #[serde(default)]
    pub source: Vec<SourceFile>,
}

/// A file that was imported, so that it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceFile {
    pub file: String,
    pub bytes: u64,
    /// Unix seconds.
    pub modified: i64,
}

impl ImageManifest {
    /// Remembers one more source, the oldest of too many forgotten.
    pub fn add_source(&mut self, source: SourceFile) {
        self.source.retain(|known| *known != source);
        self.source.push(source);
        let surplus = self.source.len().saturating_sub(MAX_SOURCES);
        self.source.drain(..surplus);
    }
}

/// Why a manifest is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("is not UTF-8 text")]
    NotText,
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    #[error("says role {found}, but lies in the folder of {expected}")]
    OtherRole { found: Role, expected: Role },
    #[error("says {found}, but is the file of {expected}")]
    OtherName { found: SnapshotName, expected: SnapshotName },
}

/// Parses `image.toml`.
pub fn parse_image(bytes: &[u8]) -> Result<ImageManifest, ManifestError> {
    let mut manifest: ImageManifest = toml::from_str(text(bytes)?)?;
    manifest.source.truncate(MAX_SOURCES);
    Ok(manifest)
}

/// `store.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreManifest {
    /// Which store it is: a copy has the same (`backup`). 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How often a copy of it stood in for it.
    #[serde(default)]
    pub turn: u32,
    /// What new clients get; none, or one that is not there: the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_image: Option<ImageId>,
    /// What the appliance was when it last opened the store: a command on
    /// another computer tells it to the roots it makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appliance: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<Ipv4Addr>,
}

/// Parses `store.toml`.
pub fn parse_store(bytes: &[u8]) -> Result<StoreManifest, ManifestError> {
    Ok(toml::from_str(text(bytes)?)?)
}

/// The part of `client.toml` that the store alone keeps.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    store: Books,
}

/// `client.toml` as text.
pub fn client_text(client: &Client, books: &Books) -> Result<String, toml::ser::Error> {
    let mut text = toml::to_string(client)?;
    if *books != Books::default() {
        text.push('\n');
        text.push_str(&toml::to_string(&Kept { store: books.clone() })?);
    }
    Ok(text)
}

/// Parses `clients/<role>/client.toml`; the folder's name must agree, or be
/// the former one of a rename that was cut.
pub fn parse_client(bytes: &[u8], role: &Role) -> Result<(Client, Books), ManifestError> {
    let client: Client = toml::from_str(text(bytes)?)?;
    let Kept { store: books } = toml::from_str(text(bytes)?)?;
    if client.role == *role || books.former.as_ref() == Some(role) {
        Ok((client, books))
    } else {
        Err(ManifestError::OtherRole { found: client.role, expected: role.clone() })
    }
}

/// Parses `states/<n>/state.toml`.
pub fn parse_state(bytes: &[u8]) -> Result<State, ManifestError> {
    Ok(toml::from_str(text(bytes)?)?)
}

/// Parses `snapshots/<name>.toml`; the file's name must agree.
pub fn parse_snapshot(bytes: &[u8], name: &SnapshotName) -> Result<Snapshot, ManifestError> {
    let snapshot: Snapshot = toml::from_str(text(bytes)?)?;
    if snapshot.name == *name {
        Ok(snapshot)
    } else {
        Err(ManifestError::OtherName { found: snapshot.name, expected: name.clone() })
    }
}

fn text(bytes: &[u8]) -> Result<&str, ManifestError> {
    std::str::from_utf8(bytes).map_err(|_| ManifestError::NotText)
}

/// Makes the id of an image from its file's name and the hash of the file:
/// `2026-06-18-raspios-trixie-arm64-lite-1f2e3d4c`.
pub fn image_id(file: &str, sha256: &[u8; 32]) -> ImageId {
    let mut id = String::new();
    for c in packing::image_name(file).chars().map(|c| c.to_ascii_lowercase()) {
        let c = if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' };
        let repeats = c == '-' && id.ends_with('-');
        let leads = id.is_empty() && !c.is_ascii_alphanumeric();
        if !repeats && !leads {
            id.push(c);
        }
    }
    let stem = if id.is_empty() { "image" } else { id.trim_end_matches(['-', '.', '_']) };
    let hash: String = sha256[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    #[expect(clippy::expect_used, reason = "at most 89 of a-z, 0-9, dot, hyphen, underscore, led by a letter or digit")]
    format!("{stem}-{hash}").parse().expect("cleaned above")
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client::{MacAddr, Mode, Model, Revision, Serial};
    use crate::size::Size;

    fn client() -> impl Strategy<Value = Client> {
        let size = || proptest::option::of((0..1u64 << 50).prop_map(Size));
        let board = (any::<[u8; 6]>(), proptest::option::of(any::<u32>()), proptest::option::of(any::<u32>()));
        let model = prop::sample::select(vec![Model::Pi3BPlus, Model::Pi400, Model::Cm4, Model::Pi5, Model::Unknown]);
        let mode = prop::sample::select(vec![Mode::Persistent, Mode::Ephemeral, Mode::ReadOnly]);
        let named = ("[a-z][a-z0-9]{0,20}", "[a-z0-9][a-z0-9._-]{0,30}-[0-9a-f]{8}");
        (named, board, model, mode, (size(), size()), any::<[u8; 4]>(), any::<u32>()).prop_map(
            |((role, image), (mac, serial, revision), model, mode, (volume_size, quota), address, export_id)| Client {
                role: role.parse().unwrap(),
                mac: MacAddr(mac),
                serial: serial.map(Serial),
                revision: revision.map(Revision),
                model,
                address: address.into(),
                image: image.parse().unwrap(),
                mode,
                volume_size,
                quota,
                export_id,
            },
        )
    }

    fn books() -> impl Strategy<Value = Books> {
        let former = proptest::option::of("[a-z][a-z0-9]{0,20}".prop_map(|role| role.parse().unwrap()));
        (any::<u32>(), former, any::<bool>()).prop_map(|(state, former, adapt)| Books { state, former, adapt })
    }

    proptest! {
        #[test]
        fn a_client_is_read_as_it_was_written(client in client(), books in books()) {
            let text = client_text(&client, &books).unwrap();
            prop_assert_eq!(parse_client(text.as_bytes(), &client.role).unwrap(), (client.clone(), books.clone()));
            // A rename that was cut: the folder has the former name, and no other will do.
            if let Some(former) = books.former {
                prop_assert!(parse_client(text.as_bytes(), &former).is_ok());
            }
            prop_assert!(parse_client(text.as_bytes(), &"no-such-role".parse().unwrap()).is_err());
        }

        /// A file's name is anybody's.
        #[test]
        fn an_image_is_read_as_it_was_written(
            name in ".{0,40}",
            files in proptest::collection::vec((".{0,80}", 0..1u64 << 62, any::<i64>()), 0..MAX_SOURCES),
            (imported, root_bytes) in (0..1u64 << 62, 0..1u64 << 62),
        ) {
            let source = files.into_iter().map(|(file, bytes, modified)| SourceFile { file, bytes, modified }).collect();
            let manifest = ImageManifest { name, sha256: "ab".repeat(32), imported, root_bytes, source };
            prop_assert_eq!(parse_image(toml::to_string(&manifest).unwrap().as_bytes()).unwrap(), manifest);
        }

        /// What a bad block or a hand made of a manifest is refused or read, and what was read can be written again.
        #[test]
        fn a_damaged_manifest_is_refused_or_one_that_holds(
            client in client(), books in books(),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = client_text(&client, &books).unwrap().into_bytes();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                let _ = (parse_image(bytes), parse_store(bytes), parse_state(bytes));
                if let Ok((read, books)) = parse_client(bytes, &client.role) {
                    let again = client_text(&read, &books).unwrap();
                    prop_assert_eq!(parse_client(again.as_bytes(), &client.role).unwrap(), (read, books));
                }
            }
        }
    }

    #[test]
    fn image_ids_are_clean_and_carry_the_hash() {
        let check = |file: &str, expected: &str| {
            assert_eq!(image_id(file, &[0xab; 32]).as_str(), expected, "{file:?}");
        };
        check("2026-06-18-raspios-trixie-arm64-lite.img.xz", "2026-06-18-raspios-trixie-arm64-lite-abababab");
        check("My Image (1).IMG", "my-image-1-abababab");
        check("../../etc/passwd.img", "etc-passwd-abababab");
        check("\u{e4}\n\u{1f600}.img", "image-abababab");
        check(".img", "image-abababab");
        check(&format!("{}.img", "x".repeat(250)), &format!("{}-abababab", "x".repeat(80)));
    }

    #[test]
    fn a_client_in_another_clients_folder_is_refused() {
        let text =
            "role = 'pi-1'\nmac = 'dc:a6:32:01:36:c2'\naddress = '192.168.77.10'\nimage = 'a-1'\nexport_id = 1\n";
        assert_eq!(parse_client(text.as_bytes(), &Role::numbered(1)).unwrap().0.export_id, 1);
        assert!(matches!(parse_client(text.as_bytes(), &Role::numbered(2)), Err(ManifestError::OtherRole { .. })));
        assert!(matches!(parse_client(b"\xff", &Role::numbered(2)), Err(ManifestError::NotText)));
        assert!(matches!(parse_client(b"role = ", &Role::numbered(2)), Err(ManifestError::Toml(_))));
    }

    #[test]
    fn an_image_manifest_reads_back_and_forgets_old_sources() {
        let mut manifest =
            ImageManifest { name: "a".into(), sha256: "ab".repeat(32), imported: 1, root_bytes: 2, source: Vec::new() };
        for n in 0..40 {
            manifest.add_source(SourceFile { file: format!("{n}.img"), bytes: n, modified: 0 });
        }
        assert_eq!((manifest.source.len(), manifest.source[15].bytes), (16, 39));
        let text = toml::to_string(&manifest).unwrap();
        assert_eq!(parse_image(text.as_bytes()).unwrap(), manifest);
    }
}
