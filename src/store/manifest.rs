//! The store's layout and its small text files: names of folders, `image.toml`,
//! `client.toml`, the making of an image id.
//!
//! Pure, but for one look at which layers a client runs on. Paths are relative to the store's top folder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::packing;
use crate::client::{Client, ImageId, Role};

/// Longest manifest that is read, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 10;
/// Most sources that one image remembers.
const MAX_SOURCES: usize = 16;

pub const IMAGES: &str = "images";
pub const CLIENTS: &str = "clients";
pub const PROFILE: &str = "profile";
pub const HANDLE_KEY: &str = "handle.key";
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
}

/// Folders and files of one client.
#[derive(Debug, Clone)]
pub struct ClientPaths {
    pub folder: PathBuf,
}

impl ClientPaths {
    pub fn of(store: &Path, role: &Role) -> Self {
        Self { folder: store.join(CLIENTS).join(role.as_str()) }
    }

    /// Where a client is made before it is one.
    pub fn unfinished(store: &Path, role: &Role) -> Self {
        Self { folder: store.join(CLIENTS).join(format!("{NEW}{role}")) }
    }

    pub fn manifest(&self) -> PathBuf {
        self.folder.join("client.toml")
    }

    pub fn upper(&self) -> PathBuf {
        self.folder.join("upper")
    }

    pub fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// What an ephemeral client wrote since its boot began: folders of the
    /// same names. It is there while such a client runs, and only then.
    pub fn ephemeral(&self) -> Self {
        Self { folder: self.folder.join("ephemeral") }
    }

    /// An ephemeral folder being made.
    pub fn new_ephemeral(&self) -> Self {
        Self { folder: self.folder.join(".new-ephemeral") }
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
        self.folder.join("boot-upper")
    }

    pub fn boot_work(&self) -> PathBuf {
        self.folder.join("boot-work")
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
}

/// Parses `image.toml`.
pub fn parse_image(bytes: &[u8]) -> Result<ImageManifest, ManifestError> {
    let mut manifest: ImageManifest = toml::from_str(text(bytes)?)?;
    manifest.source.truncate(MAX_SOURCES);
    Ok(manifest)
}

/// Parses `clients/<role>/client.toml`; the folder's name must agree.
pub fn parse_client(bytes: &[u8], role: &Role) -> Result<Client, ManifestError> {
    let client: Client = toml::from_str(text(bytes)?)?;
    if client.role == *role {
        Ok(client)
    } else {
        Err(ManifestError::OtherRole { found: client.role, expected: role.clone() })
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
    use super::*;

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
        assert_eq!(parse_client(text.as_bytes(), &Role::numbered(1)).unwrap().export_id, 1);
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
