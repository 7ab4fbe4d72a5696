//! A client's block volume: `volume/containers.ext4` in its folder, a sparse
//! file with an ext4 in it, which the client mounts by a loop device.
//!
//! I/O. Container engines put overlayfs on their storage, and no overlay can
//! have its upper layer on NFS. The file is an export of its own, so that it
//! stays writable under a read-only root, and stays when an ephemeral root is
//! thrown away or any root is reset. It is made here, once; the client checks
//! it, and grows the file system when `volume_size` grew. Nothing here makes
//! a volume smaller or removes one: both would lose data.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::atomic;
use super::manifest::ClientPaths;
use super::tools::{self, ToolError};
use crate::client::{VOLUME_MAXIMUM, VOLUME_MINIMUM};
use crate::size::Size;

/// A slow stick under other clients' writes; it is a matter of a few MiB.
const MAKE_LIMIT: Duration = Duration::from_secs(60);

/// Why there is no volume, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("volume_size {0} is not between {VOLUME_MINIMUM} and 16T")]
    Range(Size),
    #[error("its volume has {found} and stays so, though volume_size is {wanted}: a smaller one could lose data")]
    Larger { found: Size, wanted: Size },
    #[error("making its volume: {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("making its volume")]
    Tool(#[from] ToolError),
    #[error("making its volume: mke2fs: {0}")]
    Make(String),
}

/// Makes the volume, or lets it grow. Only while the client does not run.
pub fn prepare(paths: &ClientPaths, size: Size, stop: &AtomicBool) -> Result<(), VolumeError> {
    if !(VOLUME_MINIMUM..=VOLUME_MAXIMUM).contains(&size) {
        return Err(VolumeError::Range(size));
    }
    // Whole blocks: the loop device leaves out the rest.
    let bytes = size.0 & !4095;
    let path = paths.volume_file();
    let failed = |source| VolumeError::Write { path: path.clone(), source };
    let found = match fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return make(paths, bytes, stop),
        Err(error) => return Err(failed(error)),
    };
    if found < bytes {
        let file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
        file.set_len(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    if found > bytes {
        return Err(VolumeError::Larger { found: Size(found), wanted: size });
    }
    Ok(())
}

/// Made under another name, so that a volume is whole or not there.
fn make(paths: &ClientPaths, bytes: u64, stop: &AtomicBool) -> Result<(), VolumeError> {
    let (folder, path) = (paths.volume(), paths.volume_file());
    let new = folder.join(".new");
    let failed = |source| VolumeError::Write { path: path.clone(), source };
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let result = format(&new, bytes, stop)
        .and_then(|()| fs::rename(&new, &path).and_then(|()| atomic::sync_folder(&folder)).map_err(failed));
    if result.is_err() {
        let _ = fs::remove_file(&new);
    }
    result
}

/// `-m 0`: the client's engines run as root and would take the reserve as well.
/// `discard`: holes are zeros already, so nothing is written to make them so.
fn format(file: &Path, bytes: u64, stop: &AtomicBool) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Write { path: file.to_owned(), source };
    let _ = fs::remove_file(file);
    let made: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    made.set_len(bytes).map_err(failed)?;
    let options = "discard,lazy_itable_init=1,lazy_journal_init=1";
    let arguments = ["-q", "-F", "-t", "ext4", "-L", "containers", "-m", "0", "-E", options];
    let finished = tools::run("mke2fs", &arguments, file, MAKE_LIMIT, stop)?;
    if finished.code != Some(0) {
        return Err(VolumeError::Make(finished.output));
    }
    made.sync_all().map_err(failed)
}
