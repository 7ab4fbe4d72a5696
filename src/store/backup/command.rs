//! A copy made by a command, with both sticks plugged into any Linux PC and no
//! server.
//!
//! I/O. The same rules as beside a server: nothing is written over but an
//! earlier copy of this store, or what it was a copy of itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::{Backup, BackupError, Standing, Target};
use crate::store::devices::{self, Disk, Reading, Wanted};
use crate::store::offline::{self, ANY, Offline, named};
use crate::store::place::OpenError;
use crate::store::prepare::{self, PrepareError};
use crate::store::shop::Rule;
use crate::store::words::{no_room, open_action, prepare_action};
use crate::store::{BackupOffer, Event, chain, library, lock, mounts, worker};

/// Smallest store that is made for a copy, as an ext4 with its journal wants it.
const LEAST_BYTES: u64 = 64 << 20;

/// Why no copy is made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Offline(#[from] offline::Error),
    #[error("looking at {path}")]
    Look { path: PathBuf, source: io::Error },
    #[error("no second stick is plugged in; name it with --to")]
    NoSecond,
    #[error("{} sticks could take the copy: name one with --to ({})", .0.len(), .0.join(", "))]
    ManySeconds(Vec<String>),
    #[error("{0} is no disk that is plugged in")]
    NoDisk(PathBuf),
    #[error("both are one stick")]
    Same,
    #[error("{0} is a copy itself; plug in the stick that it was made from")]
    FromCopy(PathBuf),
    #[error("{0} is write-protected")]
    ReadOnly(String),
    #[error("{0} holds another store, with clients of its own; it is not written over")]
    Other(String),
    #[error("{0} holds the same clients, as late or later; it is not written over")]
    Later(String),
    #[error("{title}: {message}. {action}")]
    Second { title: String, message: String, action: &'static str },
    #[error("{0}")]
    NoRoom(String),
    #[error("its new store was not found; pull {0}, and plug it in again")]
    NotFound(String),
    #[error("{path}")]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Copy(#[from] BackupError),
}

/// What the panel would say of a stick that is of no use.
fn said(event: &Event) -> String {
    match event {
        Event::StickUnusable { message, action } => format!("{message}. {action}"),
        _ => "it cannot be used".to_owned(),
    }
}

/// Both sticks, looked at, and nothing written yet.
#[derive(Debug)]
pub struct Pair {
    from: Offline,
    to: Disk,
    /// For people: of the store and of the second stick.
    pub names: (String, String),
    pub offer: BackupOffer,
    /// What is to be copied.
    pub used_bytes: u64,
}

/// Finds both; without names the two that are plugged in. Call it before any thread starts.
pub fn open(store: Option<&Path>, to: Option<&Path>) -> Result<Pair, Error> {
    let given = store.map(offline::find).transpose()?;
    let run = offline::enter()?;
    let extra: Vec<String> = [store, to].into_iter().flatten().filter_map(disk_of).collect();
    let disks = devices::list(&Wanted { ignore: Vec::new(), extra });
    let readings: Vec<Reading> = disks.into_iter().filter_map(|disk| devices::read(disk, ANY).ok()).collect();
    let wanted = match to {
        Some(path) => Some(disk_of(path).ok_or_else(|| Error::NoDisk(path.to_owned()))?),
        None => None,
    };
    let (place, device) = match given {
        Some(found) => found,
        None => (offline::first_store(&run, &readings, wanted.as_deref())?, None),
    };
    let own = disk_of(&named(&place));
    let to = second(readings, own.as_deref(), wanted.as_deref(), to)?;
    let from = offline::open_at(run, place, device)?;
    let folder = from.site.store.clone();
    if from.is_copy {
        return Err(Error::FromCopy(named(&from.place)));
    }
    let id = super::ensure_id(&folder).map_err(|source| Error::Write { path: folder.clone(), source })?;
    let turn = library::read_choice(&folder).unwrap_or_default().turn;
    let (used_bytes, _) = super::size(&folder).map_err(|source| Error::Look { path: folder, source })?;
    let offer = offer(&from, &to, (&id, turn), used_bytes)?;
    let names = (named(&from.place).display().to_string(), to.title.clone());
    Ok(Pair { from, to, names, offer, used_bytes })
}

impl Pair {
    /// Makes the copy, whole or marked as not complete.
    pub fn copy(self, seen: &AtomicU64, stop: &AtomicBool) -> Result<Backup, Error> {
        let Self { from, to, offer, used_bytes, .. } = self;
        let failed = |error: &PrepareError| refused(&to, chain(error), prepare_action(error));
        if offer == BackupOffer::New {
            let reading = read(&to, used_bytes)?;
            prepare::prepare(&reading, rule(used_bytes), stop).map_err(|error| failed(&error))?;
        }
        // The disk has one more partition now.
        let now = devices::list(&Wanted { ignore: Vec::new(), extra: vec![to.name.clone()] });
        let now = now.into_iter().find(|disk| disk.name == to.name && disk.sequence == to.sequence);
        let place = now.and_then(|disk| worker::store_place(&devices::read(disk, ANY).ok()?));
        let place = place.ok_or_else(|| Error::NotFound(to.title.clone()))?;
        let point = from.site.run.join("second");
        let target = Target::open(&place, &point, stop).map_err(|error| busy_or_damaged(&to, &error))?;
        let locked = lock::take(&point).map_err(|source| Error::Write { path: point.clone(), source })?;
        let copied = super::copy(&from.site.store, &target, seen, stop);
        drop((locked, target));
        let unmounted = mounts::unmount_below(&point, false);
        let copied = copied?;
        unmounted.map_err(|error| refused(&to, chain(&error), "Do not pull it before this computer is off"))?;
        from.close(stop).map_err(|source| Error::Write { path: point, source })?;
        Ok(copied)
    }

    /// Leaves everything as it is.
    pub fn close(self) -> io::Result<()> {
        self.from.close(&AtomicBool::new(false))
    }
}

fn rule(used_bytes: u64) -> Rule {
    Rule { minimum_bytes: used_bytes.max(LEAST_BYTES), wanted_bytes: None }
}

fn read(to: &Disk, used_bytes: u64) -> Result<Reading, Error> {
    devices::read(to.clone(), rule(used_bytes)).map_err(|source| Error::Look { path: to.node(), source })
}

fn refused(to: &Disk, message: String, action: &'static str) -> Error {
    Error::Second { title: to.title.clone(), message, action }
}

fn busy_or_damaged(to: &Disk, error: &OpenError) -> Error {
    refused(to, chain(error), open_action(error))
}

/// The kernel's name of the disk that a device node is of, or is a partition of.
fn disk_of(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let name = path.file_name()?.to_str()?;
    if Path::new("/sys/block").join(name).exists() {
        return Some(name.to_owned());
    }
    let part = fs::canonicalize(Path::new("/sys/class/block").join(name)).ok()?;
    Some(part.parent()?.file_name()?.to_str()?.to_owned())
}

fn second(
    readings: Vec<Reading>,
    own: Option<&str>,
    wanted: Option<&str>,
    named: Option<&Path>,
) -> Result<Disk, Error> {
    if own.is_some() && own == wanted {
        return Err(Error::Same);
    }
    let is_second = |disk: &Disk| Some(disk.name.as_str()) != own && wanted.is_none_or(|wanted| disk.name == wanted);
    let mut others: Vec<Disk> = readings.into_iter().map(|reading| reading.disk).filter(is_second).collect();
    match (others.len(), named) {
        (1, _) => others.pop().ok_or(Error::NoSecond),
        (0, Some(path)) => Err(Error::NoDisk(path.to_owned())),
        (0, None) => Err(Error::NoSecond),
        _ => Err(Error::ManySeconds(others.iter().map(|disk| disk.node().display().to_string()).collect())),
    }
}

/// What the second stick would become, or why it must not.
fn offer(from: &Offline, to: &Disk, (id, turn): (&str, u32), used_bytes: u64) -> Result<BackupOffer, Error> {
    if to.read_only {
        return Err(Error::ReadOnly(to.title.clone()));
    }
    let reading = read(to, used_bytes)?;
    let Some(place) = worker::store_place(&reading) else {
        return match prepare::spot(&reading, rule(used_bytes)) {
            Ok(_) => Ok(BackupOffer::New),
            Err(error) => Err(Error::NoRoom(said(&no_room(&to.title, &error, rule(used_bytes).minimum_bytes)))),
        };
    };
    let known = offline::know(&from.site.run, &place).map_err(|error| busy_or_damaged(to, &error))?;
    match super::standing(id, turn, &known) {
        Standing::Copy(taken) => Ok(BackupOffer::Renew(taken)),
        Standing::Former => Ok(BackupOffer::Former),
        Standing::Later => Err(Error::Later(to.title.clone())),
        Standing::Other => Err(Error::Other(to.title.clone())),
    }
}
