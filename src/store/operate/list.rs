//! What lists show of clients, images and the stick.
//!
//! I/O: sizes are asked of the file system. Everything here has a JSON form,
//! which `--json` prints; names are added to it, never changed.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::{Facts, image_users};
use super::site::Site;
use crate::client::{ImageId, MacAddr, Mode, Model, Role, Serial};
use crate::quota::reserve_bytes;
use crate::store::history::{self, BootRecord};
use crate::store::library::Library;
use crate::store::manifest::{ClientPaths, ImageManifest, ImagePaths};
use crate::store::states::{Record, SnapshotName};
use crate::store::usage;

/// Most entries that are counted for one size.
const MAX_COUNTED: usize = 2_000_000;

/// One client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientEntry {
    pub role: Role,
    pub address: std::net::Ipv4Addr,
    pub mac: MacAddr,
    pub serial: Option<Serial>,
    pub model: Model,
    pub image: ImageId,
    pub mode: Mode,
    /// How far its boot is, by a server that runs; nothing without one.
    pub stage: Option<String>,
    /// An update of its EEPROM lies in its boot tree.
    #[serde(default)]
    pub eeprom_update: bool,
    /// Layers over the image.
    pub layers: usize,
    /// What it changed in its live state, in bytes on the stick; for one client only.
    pub changed_bytes: Option<u64>,
    /// All that its quota counts: layers, snapshots and volume; for one client only.
    #[serde(default)]
    pub used_bytes: Option<u64>,
    #[serde(default)]
    pub quota_bytes: Option<u64>,
    pub snapshots: Vec<SnapshotEntry>,
    /// Its last boots, oldest first; for one client only.
    #[serde(default)]
    pub boots: Vec<BootRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEntry {
    pub name: SnapshotName,
    /// Unix seconds.
    pub taken: u64,
    pub image: ImageId,
    /// Of the layer that it froze; for one client only.
    pub bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    pub id: ImageId,
    pub name: String,
    /// Unix seconds.
    pub imported: u64,
    pub sha256: String,
    /// What the root could hold.
    pub root_bytes: u64,
    /// What it takes on the stick.
    pub stored_bytes: u64,
    /// New clients get it.
    pub default: bool,
    pub used_by: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickEntry {
    pub bytes: u64,
    pub free_bytes: u64,
    /// Of the free ones, those that clients do not get.
    #[serde(default)]
    pub reserve_bytes: u64,
    pub images: usize,
    pub clients: usize,
    pub snapshots: usize,
    /// What cannot be read, in words.
    pub problems: Vec<String>,
}

/// A client; `sizes` are counted on the stick, which takes its time.
pub fn client(site: &Site, record: &Record, sizes: bool) -> ClientEntry {
    let client = &record.client;
    let paths = ClientPaths::of(&site.store, &client.role);
    let size = |state: u32| {
        let at = paths.at(state);
        sizes.then(|| stored(&at.upper()).saturating_add(stored(&at.boot_upper())))
    };
    let used = || {
        let counted = usage::count(&paths.folder, Duration::ZERO, &AtomicBool::new(false))?;
        u64::try_from(counted.bytes).ok()
    };
    let snapshot = |snapshot: &crate::store::states::Snapshot| SnapshotEntry {
        name: snapshot.name.clone(),
        taken: snapshot.taken,
        image: snapshot.image.clone(),
        bytes: size(snapshot.state),
    };
    ClientEntry {
        role: client.role.clone(),
        address: client.address,
        mac: client.mac,
        serial: client.serial,
        model: client.model,
        image: client.image.clone(),
        mode: client.mode,
        stage: None,
        eeprom_update: record.chain().is_ok_and(|chain| {
            // A file in the topmost layer that has the name; a whiteout there is no file.
            let names = chain.iter().map(|state| paths.at(*state).boot_upper().join(super::loader::SIGNATURE));
            names.map(std::fs::symlink_metadata).find_map(Result::ok).is_some_and(|found| found.is_file())
        }),
        layers: record.chain().map_or(0, |chain| chain.len()),
        changed_bytes: size(record.books.state),
        used_bytes: sizes.then(used).flatten(),
        quota_bytes: client.quota.map(|quota| quota.0),
        snapshots: record.snapshots.iter().map(snapshot).collect(),
        boots: if sizes { history::read(&site.store, &client.role) } else { Vec::new() },
    }
}

pub fn image(site: &Site, library: &Library, facts: &Facts<'_>, id: &ImageId, manifest: &ImageManifest) -> ImageEntry {
    let paths = ImagePaths::of(&site.store, id);
    ImageEntry {
        id: id.clone(),
        name: manifest.name.clone(),
        imported: manifest.imported,
        sha256: manifest.sha256.clone(),
        root_bytes: manifest.root_bytes,
        stored_bytes: stored(&paths.folder),
        default: library.images.last().is_some_and(|(last, _)| last == id),
        used_by: image_users(facts, id),
    }
}

pub fn stick(site: &Site, library: &Library) -> StickEntry {
    let (bytes, free_bytes) = rustix::fs::statvfs(&site.store)
        .map_or((0, 0), |vfs| (vfs.f_blocks.saturating_mul(vfs.f_frsize), vfs.f_bavail.saturating_mul(vfs.f_frsize)));
    StickEntry {
        bytes,
        free_bytes,
        // Without the settings of an appliance, the usual.
        reserve_bytes: reserve_bytes(bytes, None),
        images: library.images.len(),
        clients: library.clients.len(),
        snapshots: library.clients.iter().map(|record| record.snapshots.len()).sum(),
        problems: library.broken.clone(),
    }
}

/// Bytes that a tree takes; what cannot be read counts nothing.
fn stored(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut counted) = (0u64, 0);
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            counted += 1;
            let Ok(found) = entry.metadata() else { continue };
            if counted > MAX_COUNTED {
                return bytes;
            }
            // A file with several names counts once for each of them.
            bytes = bytes.saturating_add((found.blocks() * 512) / found.nlink().max(1));
            if found.is_dir() {
                bytes = bytes.saturating_add(found.blocks() * 512 - (found.blocks() * 512) / found.nlink().max(1));
                pending.push(entry.path());
            }
        }
    }
    bytes
}
