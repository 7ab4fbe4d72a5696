//! An image's root that stays where its file is: a range of an uncompressed
//! `.img` on a stick that must not be written, while the store is in memory.
//!
//! The text is pure; mounting is I/O. `root.place` stands beside `root.ext4`,
//! which then only has its length. It is followed to what this run has mounted
//! as a source and nowhere else: the store of a stranger's stick must not name
//! a file of the appliance.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::atomic;
use super::manifest::MAX_MANIFEST_BYTES;
use super::mounts::{self, MountError, Window};

/// `root.place`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPlace {
    pub file: PathBuf,
    /// Where the root partition begins and how long it is, in bytes.
    pub offset: u64,
    pub bytes: u64,
}

impl InPlace {
    pub fn write(&self, root: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        atomic::write(&root.with_extension("place"), text.as_bytes(), 0o644)
    }

    /// `None`: the root lies in the store, as nearly always.
    pub fn read(root: &Path) -> Option<io::Result<Self>> {
        match atomic::read_bounded(&root.with_extension("place"), MAX_MANIFEST_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.and_then(|bytes| parse(&bytes).ok_or(io::ErrorKind::InvalidData.into()))),
        }
    }
}

/// Parses `root.place`.
pub fn parse(bytes: &[u8]) -> Option<InPlace> {
    toml::from_str(std::str::from_utf8(bytes).ok()?).ok()
}

/// Mounts an image's root read-only at `point`, wherever it lies. `run` is
/// where this run's sources are mounted.
pub fn mount_root(root: &Path, run: &Path, point: &Path) -> Result<(), MountError> {
    let found = find(root, run).map_err(|source| MountError::Loop { path: root.to_owned(), source })?;
    match found {
        None => mounts::image_root(root, Window::default(), point),
        Some(InPlace { file, offset, bytes }) => mounts::image_root(&file, Window { offset, bytes }, point),
    }
}

/// An image's root as a range of bytes of a file: where it begins, how long it is.
pub fn open_root(root: &Path, run: &Path) -> io::Result<(fs::File, u64, u64)> {
    match find(root, run)? {
        None => {
            let file = fs::File::open(root)?;
            let bytes = file.metadata()?.len();
            Ok((file, 0, bytes))
        }
        Some(InPlace { file, offset, bytes }) => Ok((fs::File::open(file)?, offset, bytes)),
    }
}

/// Where a root lies that is not in the store: in a file of this run's sources, or nowhere.
fn find(root: &Path, run: &Path) -> io::Result<Option<InPlace>> {
    let Some(place) = InPlace::read(root).transpose()? else { return Ok(None) };
    let sources = fs::canonicalize(run.join("sources"))?;
    let file = fs::canonicalize(&place.file)?;
    if !file.starts_with(&sources) || !file.is_file() || place.bytes == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(Some(InPlace { file, ..place }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_leads_to_this_runs_sources_only() {
        let run = tempfile::tempdir().unwrap();
        let (root, sources) = (run.path().join("root.ext4"), run.path().join("sources/sdz1"));
        fs::create_dir_all(&sources).unwrap();
        fs::write(run.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(run.path().join("secret"), sources.join("link")).unwrap();
        for file in [run.path().join("secret"), sources.join("link"), sources.join("../../secret"), sources.clone()] {
            InPlace { file: file.clone(), offset: 0, bytes: 4096 }.write(&root).unwrap();
            let error = mount_root(&root, run.path(), Path::new("/nowhere")).unwrap_err();
            let refused =
                matches!(&error, MountError::Loop { source, .. } if source.kind() == io::ErrorKind::PermissionDenied);
            assert!(refused, "{}: {error:?}", file.display());
        }
        fs::write(root.with_extension("place"), "file = ").unwrap();
        assert!(mount_root(&root, run.path(), Path::new("/nowhere")).is_err());
    }
}
