//! One operation from its request to its outcome, on an open store.
//!
//! I/O. The same for the server, which runs it on a thread of its own, and for
//! a command that opened the stick by itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::execute::{self, ExecuteError};
use super::plan::{Facts, Refusal, plan};
use super::site::Site;
use super::verify::{self, VerifyError};
use super::{Operation, Outcome, list, recover};
use crate::client::{ImageId, Role};
use crate::store::library::{self, Library, LibraryError};

/// Between two pieces of a check: half the stick's time is the clients'.
const REST: Duration = Duration::from_millis(20);

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

/// Does it. `cut` ends it after so many steps as a power cut would, for tests.
pub fn perform(
    site: &Site,
    operation: &Operation,
    stop: &AtomicBool,
    cut: Option<usize>,
) -> Result<Outcome, OperateError> {
    let library = library::read(&site.store)?;
    let images: Vec<ImageId> = library.images.iter().map(|(id, _)| id.clone()).collect();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let facts = Facts {
        clients: &library.clients,
        taken: &library.taken,
        images: &images,
        default_image: library.default_image.as_ref(),
        now,
    };
    if let Some(outcome) = look(site, operation, &library, &facts)? {
        return Ok(outcome);
    }
    if let Operation::Verify { image } = operation {
        let wanted: Vec<&ImageId> = match image {
            Some(image) => vec![facts.image(image)?],
            None => images.iter().collect(),
        };
        let mut between = |_, _| {
            std::thread::sleep(REST);
            if stop.load(Ordering::Relaxed) { Err(VerifyError::Stopped) } else { Ok(()) }
        };
        let check = |id: &ImageId| {
            let mounted = site.image(id).ok();
            verify::verify(&site.store, &site.run, id, mounted.as_deref(), 0, &mut between)
        };
        let checked: Result<Vec<_>, VerifyError> = wanted.into_iter().map(check).collect();
        return Ok(Outcome::Checked(checked?));
    }
    let steps = plan(operation, &facts)?;
    let mut record = operation.client().and_then(|role| facts.client(role).ok()).cloned();
    let finished = execute::run(site, record.as_mut(), &steps, stop, cut).inspect_err(|_| {
        if cut.is_none() {
            give_back(site, operation);
        }
    })?;
    let message = match finished.image {
        Some(image) => format!("{}: {image}", operation.done()),
        None => operation.done(),
    };
    let message = message + &comes_back(operation, &library);
    Ok(Outcome::Done { message, warnings: finished.warnings })
}

/// A file on a stick is imported as long as it lies there.
fn comes_back(operation: &Operation, library: &Library) -> String {
    let Operation::ImageRemove { image } = operation else { return String::new() };
    let sources = library.images.iter().filter(|(id, _)| id == image).flat_map(|(_, manifest)| &manifest.source);
    let mut files: Vec<&str> = sources.map(|source| source.file.as_str()).collect();
    files.sort_unstable();
    files.dedup();
    match files[..] {
        [] => String::new(),
        _ => format!(". Delete its file on the stick too, or it is imported again: {}", files.join(", ")),
    }
}

/// What failed half-way takes no room on the stick until its next opening.
fn give_back(site: &Site, operation: &Operation) {
    let Some(role) = operation.client() else { return };
    let Ok(mut library) = library::read(&site.store) else { return };
    let Some(record) = library.clients.iter_mut().find(|record| record.client.role == *role) else { return };
    for words in recover::client(&site.store, record) {
        tracing::warn!(words, "behind an operation that failed");
    }
}

fn look(site: &Site, operation: &Operation, library: &Library, facts: &Facts<'_>) -> Result<Option<Outcome>, Refusal> {
    let image = |id: &ImageId| {
        let found = library.images.iter().find(|(known, _)| known == id);
        let (id, manifest) = found.ok_or_else(|| Refusal::NoImage(id.clone()))?;
        Ok(list::image(site, library, facts, id, manifest))
    };
    Ok(Some(match operation {
        Operation::Clients => {
            Outcome::Clients(library.clients.iter().map(|record| list::client(site, record, false)).collect())
        }
        Operation::Client { role } => Outcome::Client(Box::new(list::client(site, facts.client(role)?, true))),
        Operation::Images => {
            let entries = library.images.iter().map(|(id, _)| image(id)).collect::<Result<_, Refusal>>()?;
            Outcome::Images(entries)
        }
        Operation::Image { image: id } => Outcome::Image(Box::new(image(id)?)),
        Operation::Stick => Outcome::Stick(Box::new(list::stick(site, library))),
        _ => return Ok(None),
    }))
}

/// Finishes what a cut left of a client, as far as its trees are needed for it.
pub fn finish(site: &Site, role: &Role, stop: &AtomicBool) -> Result<(), OperateError> {
    let library = library::read(&site.store)?;
    let Some(mut record) = library.clients.into_iter().find(|record| record.client.role == *role) else {
        return Ok(());
    };
    let steps = recover::pending(&record);
    execute::run(site, Some(&mut record), &steps, stop, None)?;
    Ok(())
}
