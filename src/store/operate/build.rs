//! Makes an image of a client's root: the merged tree, flattened into an ext4
//! file of its own, and the merged boot files, without what is one machine's.
//!
//! I/O. It is made under a name that the next opening clears away, and is an
//! image by one rename, as an import is.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::copy::{self, Rules};
use super::execute::ExecuteError;
use super::room::Need;
use super::site::{Access, Site};
use crate::client::ImageId;
use crate::store::manifest::{self, IMAGES, ImageManifest, ImagePaths, UNFINISHED};
use crate::store::mounts::{self, Window};
use crate::store::packing;
use crate::store::personalise::{self, Tree};
use crate::store::states::{Record, SnapshotName};
use crate::store::{atomic, tools};

const MAKE_LIMIT: Duration = Duration::from_secs(600);
/// Not worth a place in an image: logs by machine-id, caches, what runs.
const WITHOUT: [&str; 5] = ["lost+found", "var/log/journal", "var/cache/apt/archives", "var/lib/apt/lists", "tmp"];

/// Size of the image's file, holes included: at least that of the former.
fn image_bytes(need: Need, former: u64) -> u64 {
    let roomy = need.bytes.saturating_add(need.bytes / 4).saturating_add(256 << 20);
    roomy.max(former).next_multiple_of(1 << 20)
}

/// Builds the image; its id, and what a person should know of it.
pub fn build(
    site: &Site,
    record: &Record,
    snapshot: Option<&SnapshotName>,
    name: &str,
    stop: &AtomicBool,
) -> Result<(ImageId, Vec<String>), ExecuteError> {
    let (state, base, access) = match snapshot.and_then(|name| record.snapshot(name)) {
        Some(snapshot) => (snapshot.state, &snapshot.image, Access::Read),
        None => (record.books.state, &record.client.image, Access::Write),
    };
    let source = site.stack("old", record, state, base, access)?;
    let folder = site.store.join(IMAGES).join(format!("{UNFINISHED}promote-{}", std::process::id()));
    let point = site.own("image");
    let _ = mounts::unmount_below(&point, true);
    let _ = fs::remove_dir_all(&folder);
    let result = (|| {
        let paths = ImagePaths { folder: folder.clone() };
        fs::create_dir_all(paths.boot()).map_err(write_error(&folder))?;
        let former = fs::metadata(ImagePaths::of(&site.store, base).root()).map_or(0, |file| file.len());
        let mut need = Need::default();
        need.add(&source.root, stop)?;
        need.check(&site.store)?;
        let root_bytes = image_bytes(need, former);
        make_file(&paths.root(), root_bytes, need.inodes, stop)?;
        {
            let device = mounts::loop_device(&paths.root(), Window::default(), false)?;
            // The kernel would write every inode table in the background.
            mounts::device(&device.path, &point, "ext4", false, "noinit_itable,nodiscard")?;
        }
        let without = |path: &Path| WITHOUT[1..].iter().any(|left_out| path.parent() == Some(Path::new(left_out)));
        let rules = Rules {
            over_image: false,
            layers: false,
            without: &|path| path == Path::new(WITHOUT[0]) || without(path),
            seen: None,
            stop,
        };
        copy::mirror(&source.root, &point, &rules)?;
        let tree = Tree::open(&point)?;
        personalise::forget_identity(&tree, &hostname(site, base))?;
        drop(tree);
        let rules = Rules {
            over_image: false,
            layers: false,
            without: &|path| path == Path::new("userconf.txt"),
            seen: None,
            stop,
        };
        copy::mirror(&source.boot, &paths.boot(), &rules)?;
        mounts::unmount(&point)?;
        publish(site, &paths, name, root_bytes, record, stop)
    })();
    let _ = mounts::unmount_below(&point, true);
    // Gone by its rename when all went well.
    let _ = fs::remove_dir_all(&folder);
    source.close()?;
    let id = result?;
    let warning = "it holds the client's files, accounts and passwords; its keys and names were taken out".to_owned();
    Ok((id, vec![warning]))
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> ExecuteError {
    let path = path.to_owned();
    move |source| ExecuteError::Write { path: path.clone(), source }
}

/// What the image's maker called the machine.
fn hostname(site: &Site, base: &ImageId) -> String {
    let read = || Tree::open(&site.image(base).ok()?).ok()?.read("etc/hostname");
    read().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

/// An empty ext4 without a journal: nobody will write it, and a cut while it
/// is filled throws it away.
fn make_file(path: &Path, bytes: u64, inodes: u64, stop: &AtomicBool) -> Result<(), ExecuteError> {
    let made = File::create(path).and_then(|file| file.set_len(bytes));
    made.map_err(write_error(path))?;
    let inodes = inodes.saturating_add(inodes / 4).saturating_add(1000).to_string();
    let arguments = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-L",
        "rootfs",
        "-m",
        "0",
        "-N",
        &inodes,
        "-O",
        "^has_journal",
        "-E",
        "lazy_itable_init=1,nodiscard",
    ];
    let finished = tools::run("mke2fs", &arguments, path, MAKE_LIMIT, stop)?;
    if finished.code == Some(0) { Ok(()) } else { Err(ExecuteError::MakeImage(finished.output)) }
}

/// Hashes, names and shows the image.
fn publish(
    site: &Site,
    paths: &ImagePaths,
    name: &str,
    root_bytes: u64,
    record: &Record,
    stop: &AtomicBool,
) -> Result<ImageId, ExecuteError> {
    let sha256 = hash(&paths.root(), stop)?;
    let file = format!("{name}.img");
    let id = manifest::image_id(&file, &sha256);
    let finished = ImagePaths::of(&site.store, &id);
    if fs::symlink_metadata(&finished.folder).is_ok() {
        return Err(ExecuteError::Known(id));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let made = ImageManifest {
        name: format!("{} (from {})", packing::image_name(&file), record.client.role),
        sha256: manifest::hex(&sha256),
        imported: now,
        root_bytes,
        source: Vec::new(),
    };
    let text = toml::to_string(&made)?;
    let failed = write_error(&paths.folder);
    atomic::write_unsynced(&paths.manifest(), text.as_bytes(), 0o644, false).map_err(&failed)?;
    let open = File::open(&paths.folder).map_err(&failed)?;
    rustix::fs::syncfs(&open).map_err(|errno| failed(errno.into()))?;
    fs::rename(&paths.folder, &finished.folder).map_err(&failed)?;
    atomic::sync_folder(&site.store.join(IMAGES)).map_err(&failed)?;
    Ok(id)
}

fn hash(path: &Path, stop: &AtomicBool) -> Result<[u8; 32], ExecuteError> {
    let read = |source| ExecuteError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(ExecuteError::Stopped);
        }
        match file.read(&mut buffer).map_err(read)? {
            0 => return Ok(hasher.finalize().into()),
            bytes => hasher.update(&buffer[..bytes]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_no_smaller_than_its_former_and_has_room() {
        let image_bytes = |bytes, former| image_bytes(Need { bytes, inodes: 1 }, former);
        assert_eq!(image_bytes(0, 4 << 30), 4 << 30);
        assert_eq!(image_bytes(4 << 30, 1 << 30), (5 << 30) + (256 << 20));
        assert_eq!(image_bytes(1, 0), 257 << 20);
        image_bytes(u64::MAX / 2, 0);
    }
}
