//! The same operations without a server: on a stick in any Linux PC, or on a
//! folder that is a store.
//!
//! I/O. The command mounts the store in a mount namespace of its own, so that
//! nothing of it stays when it ends, however it ends, and holds its lock.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::backup::{self, Known};
use super::devices::{self, Reading, Wanted};
use super::identify::{self, Content, STORE_LABEL};
use super::library::{self, LibraryError};
use super::lock::{self, Lock};
use super::mounts::{self, LoopDevice, MountError, Window};
use super::operate::perform::{self, OperateError};
use super::operate::site::Site;
use super::operate::{Operation, Outcome, recover};
use super::place::{OpenError, Place};
use super::root::Surroundings;
use super::shop::{self, Look, Refusal, Rule};
use super::words::open_action;
use super::{chain, trash, worker};

/// Why a store cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a command on a stick needs root: it mounts the store")]
    NotRoot,
    #[error("a mount namespace of its own")]
    Namespace(#[source] io::Error),
    #[error("making {path}")]
    MakeFolder { path: PathBuf, source: io::Error },
    #[error("no stick with a store is plugged in; name it with --store")]
    NoStick,
    #[error("{} sticks have a store: name one with --store ({})", .0.len(), .0.join(", "))]
    ManySticks(Vec<String>),
    #[error("{0} holds no store")]
    NoStore(PathBuf),
    #[error("{path}: {refusal}")]
    Refused { path: PathBuf, refusal: Refusal },
    #[error("looking at {path}")]
    Look { path: PathBuf, source: io::Error },
    #[error("{message}. {action}")]
    Open { message: String, action: &'static str },
    #[error("{0} is a copy: what is changed there is lost when it is renewed. {COPY_ACTION}")]
    Copy(PathBuf),
    #[error("{0} is being worked on by another rootstock; wait until it has ended, or ask the server that runs")]
    Locked(PathBuf),
    #[error("locking {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Loop(#[from] MountError),
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error(transparent)]
    Operate(#[from] OperateError),
}

/// An open store, until dropped.
#[derive(Debug)]
pub struct Offline {
    pub site: Site,
    pub place: Place,
    /// What could not be read or finished, in words.
    pub broken: Vec<String>,
    /// A backup of another stick, which has not stood in for it.
    pub is_copy: bool,
    lock: Lock,
    /// Of the partition that the store is a range of; let go after the store.
    _held: Option<Lock>,
    _device: Option<LoopDevice>,
}

const COPY_ACTION: &str = "Name the stick that it was made from; if that is lost, plug the copy into the appliance \
                           alone, hold ENROLL, and it stands in";

/// No store is made here: only whether there is one is asked.
pub(super) const ANY: Rule = Rule { minimum_bytes: u64::MAX, wanted_bytes: None };

/// Where the commands mount what they need, in their own namespace.
const RUN: &str = "/run/rootstock-command";

/// Opens a store: a folder, a partition, a whole stick or its image in a file;
/// `None`: the stick that is plugged in. Call it before any thread starts.
pub fn open(store: Option<&Path>) -> Result<Offline, Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    match store {
        Some(store) => {
            let (place, device) = find(store)?;
            open_at(enter()?, place, device)
        }
        None => {
            let run = enter()?;
            let disks = devices::list(&Wanted::default());
            let readings: Vec<Reading> = disks.into_iter().filter_map(|disk| devices::read(disk, ANY).ok()).collect();
            let place = first_store(&run, &readings, None)?;
            open_at(run, place, None)
        }
    }
}

/// Takes this thread into a mount namespace of its own; the folder for mount points there.
pub(super) fn enter() -> Result<PathBuf, Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    // SAFETY: only this thread's view of mounts changes, and no other thread runs yet.
    let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
        .and_then(|()| mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC));
    unshared.map_err(|errno| Error::Namespace(errno.into()))?;
    let run = PathBuf::from(RUN);
    fs::create_dir_all(&run).map_err(|source| Error::MakeFolder { path: run.clone(), source })?;
    // Mount points made in it vanish with the namespace.
    let memory = mount("rootstock", &run, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, c"size=4m,mode=0700");
    memory.map_err(|errno| Error::MakeFolder { path: run.clone(), source: errno.into() })?;
    Ok(run)
}

/// Opens the store at this place, below the folder that `enter` made.
pub(super) fn open_at(run: PathBuf, place: Place, device: Option<LoopDevice>) -> Result<Offline, Error> {
    let folder = run.join("store");
    let stop = Arc::new(AtomicBool::new(false));
    let open_failed = |error: OpenError| Error::Open { message: chain(&error), action: action(&error) };
    let locked = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock => Error::Locked(named(&place)),
        io::ErrorKind::ResourceBusy => open_failed(OpenError::Busy { device: named(&place) }),
        _ => Error::Lock { path: named(&place), source },
    };
    let held = match &place {
        Place::Run { partition, .. } => Some(lock::take_alone(partition).map_err(locked)?),
        Place::Partition(_) | Place::Memory { .. } | Place::Folder(_) => None,
    };
    place.open(&folder, &stop).map_err(open_failed)?;
    let lock = lock::take(&folder).map_err(locked)?;
    let mark = backup::read_mark(&folder);
    let library = library::open(&folder)?;
    let choice = library::read_choice(&folder).unwrap_or_default();
    let appliance = choice.appliance.unwrap_or(super::Options::default().appliance);
    let around = Surroundings { appliance, dns: choice.dns, stop: stop.clone() };
    let site = Site { store: folder, run, slot: "command", around };
    let mut broken = library.broken;
    // A copy stays as it was taken.
    let own = library.clients.iter().filter(|_| mark.is_none());
    for record in own.filter(|record| !recover::pending(record).is_empty()) {
        if let Err(error) = perform::finish(&site, &record.client.role, &stop) {
            broken.push(format!("clients/{}: {}", record.client.role, chain(&error)));
        }
    }
    let is_copy = mark.is_some();
    if is_copy {
        broken.push(format!("{} is a copy; it can be looked at, and is not changed", named(&place).display()));
    }
    Ok(Offline { site, place, broken, is_copy, lock, _held: held, _device: device })
}

impl Offline {
    /// Does it; `stop` ends it early where nothing was decided yet.
    pub fn perform(&self, operation: &Operation, stop: &AtomicBool) -> Result<Outcome, Error> {
        if self.is_copy && !operation.looks() && !matches!(operation, Operation::Verify { .. }) {
            return Err(Error::Copy(named(&self.place)));
        }
        Ok(perform::perform(&self.site, operation, stop, None)?)
    }

    /// Deletes what was put aside, and writes everything to the stick.
    pub fn close(self, stop: &AtomicBool) -> io::Result<()> {
        let emptied = trash::empty(&self.site.store, stop);
        let open = fs::File::open(&self.site.store)?;
        rustix::fs::syncfs(&open)?;
        drop(open);
        drop(self.lock);
        // The store itself last; a lazy unmount would let a person pull the stick too early.
        mounts::unmount_below(&self.site.run, false).map_err(io::Error::other)?;
        emptied
    }
}

fn action(error: &OpenError) -> &'static str {
    match error {
        OpenError::Busy { .. } => "If your desktop has mounted it, unmount it there, or name its folder with --store",
        error => open_action(error),
    }
}

pub(super) fn named(place: &Place) -> PathBuf {
    match place {
        Place::Partition(path) | Place::Run { partition: path, .. } => path.clone(),
        Place::Folder(folder) | Place::Memory { folder, .. } => folder.clone(),
    }
}

/// The store of all that are plugged in, but for those on the disk `but`: no copy, and of a store and what stood in for it
/// the one that people went on with. `run` is the folder that `enter` made.
pub(super) fn first_store(run: &Path, readings: &[Reading], but: Option<&str>) -> Result<Place, Error> {
    let (mut known, mut others) = (Vec::new(), Vec::new());
    for reading in readings.iter().filter(|reading| Some(reading.disk.name.as_str()) != but) {
        let Some(place) = worker::store_place(reading) else { continue };
        match know(run, &place) {
            Ok(found) if found.mark.is_none() => known.push((found, place)),
            // A copy, or nobody knows what.
            _ => others.push(place),
        }
    }
    known.sort_by(|one, two| one.0.order().cmp(&two.0.order()));
    match &known[..] {
        [] if others.len() == 1 => Ok(others.remove(0)),
        [] if others.is_empty() => Err(Error::NoStick),
        [] => Err(Error::ManySticks(others.iter().map(|place| named(place).display().to_string()).collect())),
        [(first, place), rest @ ..] if rest.iter().all(|(other, _)| goes_before(first, other)) => Ok(place.clone()),
        all => Err(Error::ManySticks(all.iter().map(|(_, place)| named(place).display().to_string()).collect())),
    }
}

/// Of one store and its stand-in. Twins that another tool made are not told apart: a person names one.
fn goes_before(first: &Known, other: &Known) -> bool {
    other.id.is_some() && other.id == first.id && other.turn < first.turn
}

/// Mounts a store for a moment, to know it.
pub(super) fn know(run: &Path, place: &Place) -> Result<Known, OpenError> {
    let point = run.join("second");
    let known = place.open(&point, &AtomicBool::new(false)).map(|()| Known::read(&point));
    let _ = mounts::unmount_below(&point, false);
    known
}

/// The store that a person named.
pub(super) fn find(path: &Path) -> Result<(Place, Option<LoopDevice>), Error> {
    let look = |source| Error::Look { path: path.to_owned(), source };
    let path = fs::canonicalize(path).map_err(look)?;
    let kind = fs::metadata(&path).map_err(look)?.file_type();
    if kind.is_dir() {
        // A folder that holds neither is not made a store by a command.
        let is_store = ["images", "clients"].iter().all(|name| path.join(name).is_dir());
        return if is_store { Ok((Place::Folder(path), None)) } else { Err(Error::NoStore(path)) };
    }
    let head = devices::read_head(&path, identify::HEAD_BYTES).map_err(look)?;
    let content = identify::identify(&head);
    if matches!(content, Content::ExFat | Content::Fat) {
        // A whole stick without partitions is read here as one is that is plugged in.
        return match shop::look(&path, ANY) {
            Look::Store(span) => Ok((Place::Run { partition: path, span }, None)),
            Look::Broken(refusal) | Look::NoRoom(refusal) => Err(Error::Refused { path, refusal }),
            Look::Offer(_) => Err(Error::NoStore(path)),
        };
    }
    let is_store = matches!(content, Content::Ext4(ext4) if ext4.label == STORE_LABEL);
    match (is_store, kind.is_block_device()) {
        (true, true) => Ok((Place::Partition(path), None)),
        (true, false) => {
            let device = mounts::loop_device(&path, Window::default(), false)?;
            Ok((Place::Partition(device.path.clone()), Some(device)))
        }
        (false, true) => {
            // A whole stick: its partition with the store.
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let on_it = |place: &Place| {
                named(place).file_name().is_some_and(|found| found.to_string_lossy().starts_with(name.as_str()))
            };
            match sticks(std::slice::from_ref(&name)).into_iter().find(on_it) {
                Some(place) => Ok((place, None)),
                None => Err(Error::NoStore(path)),
            }
        }
        (false, false) => Err(Error::NoStore(path)),
    }
}

/// The stores on all sticks that are plugged in, and on these disks.
fn sticks(extra: &[String]) -> Vec<Place> {
    let wanted = Wanted { ignore: Vec::new(), extra: extra.to_vec() };
    let readings = devices::list(&wanted).into_iter().filter_map(|disk| devices::read(disk, ANY).ok());
    readings.filter_map(|reading| worker::store_place(&reading)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_takes_what_people_went_on_with_and_no_twin_by_chance() {
        let known = |id: Option<&str>, turn| Known { id: id.map(str::to_owned), turn, ..Known::default() };
        for (first, other, expected) in [
            (known(Some("a"), 2), known(Some("a"), 1), true),
            // One disk copied by another tool.
            (known(Some("a"), 1), known(Some("a"), 1), false),
            (known(Some("a"), 1), known(Some("b"), 0), false),
            (known(None, 0), known(None, 0), false),
        ] {
            assert_eq!(goes_before(&first, &other), expected, "{first:?} {other:?}");
        }
    }
}
