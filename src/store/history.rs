//! The last boots of each client, kept on the stick: `clients/<role>/boots.toml`,
//! written whole; and what an image's boot files weigh, by which the very first
//! boot is measured.
//!
//! Text, bounds and sums are pure; `read`, `write` and `boot_files` are I/O. A file
//! that cannot be read is begun anew: it says how things went, and nothing depends on it.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::atomic;
use super::manifest::{ClientPaths, ImagePaths};
use crate::client::{ImageId, Model, Role};

/// Boots that are kept of one client.
pub const MAX_BOOTS: usize = 20;
const FILE: &str = "boots.toml";
/// Twenty records of some 400 bytes are less than half of it.
const MAX_BYTES: u64 = 32 << 10;
/// Characters of the reason.
const MAX_REASON: usize = 200;
/// Entries of a boot folder that are looked at; Raspberry Pi OS has some 60.
const MAX_FILES: usize = 1024;

/// One boot, as far as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BootRecord {
    /// Unix seconds when this was written, by the appliance's clock, which may stand at 1970.
    pub when: u64,
    /// From the loader's first request; of one that did not come up, to the last stage.
    pub took_seconds: u64,
    /// The last stage, by its name; `up` is a boot that went well.
    pub reached: String,
    /// Of boot files.
    pub loaded_bytes: u64,
    pub image: ImageId,
    /// Why it did not come up, as far as that could be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<String>,
}

impl BootRecord {
    pub fn is_up(&self) -> bool {
        self.reached == "up"
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    #[serde(default)]
    boot: Vec<BootRecord>,
}

/// The boots with one more, newest last; with `amends` it takes the last one's
/// place: the same boot came further.
pub fn add(boots: &mut Vec<BootRecord>, mut record: BootRecord, amends: bool) {
    if amends {
        boots.pop();
    }
    if let Some(reason) = &mut record.stalled {
        *reason = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    }
    // TOML knows signed numbers only.
    record.loaded_bytes = record.loaded_bytes.min(i64::MAX as u64);
    record.took_seconds = record.took_seconds.min(i64::MAX as u64);
    boots.push(record);
    let surplus = boots.len().saturating_sub(MAX_BOOTS);
    boots.drain(..surplus);
}

pub(crate) fn parse(bytes: &[u8]) -> Vec<BootRecord> {
    let file: File = std::str::from_utf8(bytes).ok().and_then(|text| toml::from_str(text).ok()).unwrap_or_default();
    let mut boots = Vec::new();
    file.boot.into_iter().for_each(|record| add(&mut boots, record, false));
    boots
}

/// None where there is no file, or none that can be read.
pub fn read(store: &Path, role: &Role) -> Vec<BootRecord> {
    let path = ClientPaths::of(store, role).folder.join(FILE);
    atomic::read_bounded(&path, MAX_BYTES).map(|bytes| parse(&bytes)).unwrap_or_default()
}

pub fn write(store: &Path, role: &Role, boots: &[BootRecord]) -> io::Result<()> {
    let text = toml::to_string(&File { boot: boots.to_vec() }).map_err(io::Error::other)?;
    let text = format!("# The last boots of {role}, newest last. Nothing depends on this file.\n\n{text}");
    atomic::write(&ClientPaths::of(store, role).folder.join(FILE), text.as_bytes(), 0o644)
}

/// Name and size of each file at the top of an image's boot tree.
pub fn boot_files(store: &Path, image: &ImageId) -> Vec<(String, u64)> {
    let Ok(entries) = std::fs::read_dir(ImagePaths::of(store, image).boot()) else { return Vec::new() };
    let file = |entry: std::fs::DirEntry| {
        let metadata = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some((entry.file_name().into_string().ok()?, metadata.len()))
    };
    entries.take(MAX_FILES).filter_map(|entry| file(entry.ok()?)).collect()
}

/// What a board of this model loads of these: firmware, kernel and initramfs, which
/// weigh all but some kilobytes. `None` for a board that did not say what it is, or
/// where no kernel is there.
pub fn needed(model: Model, files: &[(String, u64)]) -> Option<u64> {
    let size = |name: &str| files.iter().find(|(file, _)| file == name).map(|(_, size)| *size);
    let first = |names: &[&str]| names.iter().find_map(|name| size(name));
    let (firmware, kernel, initramfs): (&[&str], &[&str], &[&str]) = match model {
        Model::Pi2B | Model::Pi3B | Model::Pi3BPlus => (
            &["bootcode.bin", "start.elf", "fixup.dat"],
            &["kernel8.img", "kernel7.img"],
            &["initramfs8", "initramfs7"],
        ),
        Model::Pi4B | Model::Pi400 | Model::Cm4 => (&["start4.elf", "fixup4.dat"], &["kernel8.img"], &["initramfs8"]),
        Model::Pi5 | Model::Cm5 | Model::Pi500 => {
            (&[], &["kernel_2712.img", "kernel8.img"], &["initramfs_2712", "initramfs8"])
        }
        Model::Unknown => return None,
    };
    let firmware = firmware.iter().filter_map(|name| size(name)).fold(0, u64::saturating_add);
    let kernel = first(kernel)?;
    Some(kernel.saturating_add(firmware).saturating_add(first(initramfs).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(took_seconds: u64, reached: &str) -> BootRecord {
        BootRecord {
            when: 1_795_371_299,
            took_seconds,
            reached: reached.to_owned(),
            loaded_bytes: 24_800_000,
            image: "raspios-1".parse().unwrap(),
            stalled: None,
        }
    }

    #[test]
    fn twenty_boots_are_kept_and_one_that_came_further_takes_its_own_place() {
        let mut boots = Vec::new();
        for n in 0..30 {
            add(&mut boots, record(n, "kernel"), false);
        }
        assert_eq!((boots.len(), boots[0].took_seconds), (MAX_BOOTS, 10));
        add(&mut boots, record(99, "up"), true);
        let last: Vec<u64> = boots[18..].iter().map(|boot| boot.took_seconds).collect();
        assert_eq!(last, [28, 99]);
    }

    #[test]
    fn the_file_reads_back_as_written_and_stays_small() {
        let store = tempfile::tempdir().unwrap();
        let role = Role::numbered(1);
        assert_eq!(read(store.path(), &role), []);
        std::fs::create_dir_all(ClientPaths::of(store.path(), &role).folder).unwrap();
        let mut boots = Vec::new();
        for _ in 0..99 {
            let stalled = Some("\u{1b}ü\n".repeat(999));
            let record = BootRecord { stalled, took_seconds: u64::MAX, loaded_bytes: u64::MAX, ..record(1, "loading") };
            add(&mut boots, record, false);
        }
        write(store.path(), &role, &boots).unwrap();
        let path = ClientPaths::of(store.path(), &role).folder.join(FILE);
        assert!(std::fs::metadata(&path).unwrap().len() < MAX_BYTES / 2);
        assert_eq!(read(store.path(), &role), boots);
        assert!(boots.iter().all(|boot| boot.stalled.as_ref().is_some_and(|reason| reason.chars().count() == 200)));
        std::fs::write(&path, "boot = 3\n").unwrap();
        assert_eq!(read(store.path(), &role), []);
    }

    #[test]
    fn a_first_boot_is_measured_by_what_its_model_loads() {
        let files = [
            ("start4.elf", 2),
            ("fixup4.dat", 1),
            ("start.elf", 20),
            ("bootcode.bin", 10),
            ("kernel8.img", 100),
            ("initramfs8", 300),
            ("kernel_2712.img", 1000),
            ("initramfs_2712", 3000),
        ];
        let files: Vec<(String, u64)> = files.map(|(name, size)| (name.to_owned(), size)).to_vec();
        assert_eq!(needed(Model::Pi4B, &files), Some(403));
        assert_eq!(needed(Model::Pi3B, &files), Some(430));
        assert_eq!(needed(Model::Pi5, &files), Some(4000));
        assert_eq!(needed(Model::Unknown, &files), None);
        assert_eq!(needed(Model::Pi5, &files[..3]), None);
    }
}
