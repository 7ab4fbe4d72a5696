//! Carries the steps of a plan out, one after the other.
//!
//! I/O. A step that fails ends it: before the deciding step nothing happened,
//! behind it the next opening finishes. `cut` ends it after so many steps as a
//! power cut would, for tests.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::copy::{self, CopyError};
use super::loader::{self, LoaderError, Update};
use super::plan::{Keep, Step};
use super::room::Need;
use super::site::{Access, Site, StackError};
use super::{build, gather, recover};
use crate::client::{Client, ImageId};
use crate::store::manifest::{CLIENTS, ClientPaths, IMAGES, ImagePaths, STORE_MANIFEST};
use crate::store::mounts::{self, MountError};
use crate::store::personalise::{self, Tree, TreeError};
use crate::store::root::{self, RootError};
use crate::store::states::{Record, Snapshot, State};
use crate::store::tools::ToolError;
use crate::store::{atomic, chain, library, trash};

/// Why an operation ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    #[error("writing {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("reading {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("making TOML")]
    Toml(#[from] toml::ser::Error),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Loader(#[from] LoaderError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("mke2fs failed: {0}")]
    MakeImage(String),
    #[error("no room on the stick: {missing_mib} MiB more are needed")]
    NoRoom { missing_mib: u64 },
    #[error("an image of the same bytes is there already: {0}")]
    Known(ImageId),
    #[error("stopped")]
    Stopped,
    #[error("cut after {0} steps")]
    Cut(usize),
}

/// What came of the steps.
#[derive(Debug, Default)]
pub struct Finished {
    /// Rules that could not be applied, paths that were not there.
    pub warnings: Vec<String>,
    /// The image that was made.
    pub image: Option<ImageId>,
}

/// Runs all steps. `record` is the client as it was read, and is kept as it
/// comes to be; `None` for an operation on images only.
pub fn run(
    site: &Site,
    record: Option<&mut Record>,
    steps: &[Step],
    stop: &AtomicBool,
    cut: Option<usize>,
) -> Result<Finished, ExecuteError> {
    let mut run = Run { site, record, stop, finished: Finished::default() };
    for (done, step) in steps.iter().enumerate() {
        if cut == Some(done) {
            return Err(ExecuteError::Cut(done));
        }
        // What was decided is finished: only what adds can be given up.
        if stop.load(Ordering::Relaxed) && !steps[..done].iter().any(Step::decides) {
            return Err(ExecuteError::Stopped);
        }
        run.step(step)?;
    }
    Ok(run.finished)
}

struct Run<'a> {
    site: &'a Site,
    record: Option<&'a mut Record>,
    stop: &'a AtomicBool,
    finished: Finished,
}

fn change_loader(site: &Site, record: &Record, files: Option<&Path>) -> Result<(), ExecuteError> {
    let update = files.map(Update::read).transpose()?;
    if let Some(update) = &update {
        update.check(record.client.model)?;
    }
    let pair = site.stack("loader", record, record.books.state, &record.client.image, Access::Write)?;
    match &update {
        Some(update) => update.put(&pair.boot)?,
        None => loader::remove(&pair.boot)?,
    }
    Ok(pair.close()?)
}

fn written(path: &Path) -> impl Fn(io::Error) -> ExecuteError {
    let path = path.to_owned();
    move |source| ExecuteError::Write { path: path.clone(), source }
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<(), ExecuteError> {
        let site = self.site;
        match step {
            Step::WriteDefault(image) => {
                let changed = library::change_choice(&site.store, |choice| choice.default_image = image.clone());
                return changed.map_err(written(&site.store.join(STORE_MANIFEST)));
            }
            Step::TrashImage(id) => return self.trash_image(id),
            Step::TakeDown(role) => return Ok(site.take_down(role)?),
            Step::TrashClient(role) => {
                let paths = ClientPaths::of(&site.store, role);
                trash::put(&site.store, &paths.folder).map_err(written(&paths.folder))?;
                let clients = site.store.join(CLIENTS);
                return atomic::sync_folder(&clients).map_err(written(&clients));
            }
            Step::RenameFolder { from, to } => {
                return recover::rename(&site.store, from, to)
                    .map_err(written(&ClientPaths::of(&site.store, from).folder));
            }
            _ => {}
        }
        // Every other step is of one client, and its plan was made of that record.
        let Some(record) = self.record.as_deref_mut() else { return Ok(()) };
        let paths = ClientPaths::of(&site.store, &record.client.role);
        match step {
            Step::DiscardRun => {
                let run = paths.ephemeral().folder;
                if run.is_dir() {
                    let role = &record.client.role;
                    self.finished.warnings.push(format!("gone is what {role} wrote since its boot: it was ephemeral"));
                }
                trash::put(&site.store, &run).map_err(written(&run))
            }
            Step::Loader(files) => change_loader(site, record, files.as_deref()),
            Step::GatherLinks => gather::gather(site, record, self.stop),
            Step::MakeState { state, parent } => make_state(&paths, record, *state, *parent),
            Step::Personalise { state, client, keep } => {
                let warnings = fill(site, record, *state, client, keep, self.stop)?;
                self.finished.warnings.extend(warnings);
                Ok(())
            }
            Step::Flatten { state } => flatten(site, record, *state, self.stop),
            Step::Flush => {
                let open = fs::File::open(&paths.folder).map_err(written(&paths.folder))?;
                rustix::fs::syncfs(&open).map_err(|errno| written(&paths.folder)(errno.into()))
            }
            Step::NoteSnapshot(snapshot) => note(&paths, record, snapshot),
            Step::Commit { client, books } => {
                root::write_manifest(client, books, &paths, true)?;
                // The folder has its former name until it is renamed.
                (record.client, record.books) = (client.clone(), books.clone());
                Ok(())
            }
            Step::Adapt => adapt(site, record).map(|warnings| self.finished.warnings.extend(warnings)),
            Step::ForgetSnapshot(name) => {
                let file = paths.snapshots().join(format!("{name}.toml"));
                match fs::remove_file(&file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(written(&file)(error)),
                    _ => {}
                }
                record.snapshots.retain(|snapshot| snapshot.name != *name);
                atomic::sync_folder(&paths.snapshots()).map_err(written(&paths.snapshots()))
            }
            Step::Tidy => recover::tidy(&site.store, record).map_err(written(&paths.folder)),
            Step::BuildImage { snapshot, name } => {
                if snapshot.is_none() && paths.ephemeral().folder.is_dir() {
                    let role = &record.client.role;
                    let warning = format!("not in it is what {role} wrote since its boot: it is ephemeral");
                    self.finished.warnings.push(warning);
                }
                let (image, warnings) = build::build(site, record, snapshot.as_ref(), name, self.stop)?;
                self.finished.image = Some(image);
                self.finished.warnings.extend(warnings);
                Ok(())
            }
            // Done above.
            Step::TakeDown(_)
            | Step::RenameFolder { .. }
            | Step::TrashClient(_)
            | Step::WriteDefault(_)
            | Step::TrashImage(_) => Ok(()),
        }
    }

    /// Unmounted first: the file of a mounted image stays on the stick.
    fn trash_image(&self, id: &ImageId) -> Result<(), ExecuteError> {
        let point = self.site.run.join(IMAGES).join(id.as_str());
        for mount in mounts::list()?.iter().rev().filter(|mount| mount.point.starts_with(&point)) {
            mounts::unmount(&mount.point)?;
        }
        let folder = ImagePaths::of(&self.site.store, id).folder;
        trash::put(&self.site.store, &folder).map_err(written(&folder))?;
        let images = self.site.store.join(IMAGES);
        atomic::sync_folder(&images).map_err(written(&images))
    }
}

fn make_state(paths: &ClientPaths, record: &mut Record, state: u32, parent: Option<u32>) -> Result<(), ExecuteError> {
    let at = paths.at(state);
    let folder = |path: &Path, mode| {
        let made = DirBuilder::new().mode(mode).create(path);
        made.map_err(written(path))
    };
    if !paths.states().is_dir() {
        folder(&paths.states(), 0o700)?;
    }
    folder(&at.layer(), 0o700)?;
    let manifest = State { parent };
    let path = at.state_manifest();
    atomic::write_unsynced(&path, toml::to_string(&manifest)?.as_bytes(), 0o644, false).map_err(written(&path))?;
    for (path, mode) in [(at.upper(), 0o755), (at.work(), 0o700), (at.boot_upper(), 0o755), (at.boot_work(), 0o700)] {
        folder(&path, mode)?;
    }
    if let Some(parent) = parent {
        // The upper layer's top is what the client sees as `/`.
        copy::top(&paths.at(parent).upper(), &at.upper())?;
        copy::top(&paths.at(parent).boot_upper(), &at.boot_upper())?;
    }
    record.states.insert(state, manifest);
    Ok(())
}

fn note(paths: &ClientPaths, record: &mut Record, snapshot: &Snapshot) -> Result<(), ExecuteError> {
    let folder = paths.snapshots();
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(written(&folder)(source)),
        _ => {}
    }
    let path = folder.join(format!("{}.toml", snapshot.name));
    atomic::write(&path, toml::to_string(snapshot)?.as_bytes(), 0o644).map_err(written(&path))?;
    record.snapshots.push(snapshot.clone());
    Ok(())
}

/// Personalises a new state and copies into it what is kept of the old one.
fn fill(
    site: &Site,
    record: &Record,
    state: u32,
    client: &Client,
    keep: &Keep,
    stop: &AtomicBool,
) -> Result<Vec<String>, ExecuteError> {
    let new = site.stack_of("new", client, &[state], &client.image, Access::Write)?;
    let mut warnings =
        root::personalise_at(&site.store, client, &new.root, &new.boot, &site.around, personalise::apply)?;
    if keep.identity || !keep.paths.is_empty() {
        // The kernel looks through the whole index of a layer that is to be written, which takes as long as the client
        // changed much. Only a file with several names wants it, and the identity has none.
        let access = if keep.paths.is_empty() { Access::Read } else { Access::Write };
        // A root that cannot be mounted has nothing to keep, and a fresh one mends it.
        match site.stack("old", record, record.books.state, &record.client.image, access) {
            Ok(old) => {
                let mut need = Need::default();
                keep.paths.iter().try_for_each(|path| need.add(&old.root.join(path), stop))?;
                if need != Need::default() {
                    need.check(&site.store)?;
                }
                if keep.identity {
                    personalise::keep_identity(&Tree::open(&old.root)?, &Tree::open(&new.root)?)?;
                }
                for path in &keep.paths {
                    if !copy::path(&old.root, &new.root, path, stop)? {
                        warnings.push(format!("/{path} was not there"));
                    }
                }
                old.close()?;
            }
            Err(error) => warnings.push(format!("nothing was kept of the former root: {}", chain(&error))),
        }
    }
    new.close()?;
    Ok(warnings)
}

fn flatten(site: &Site, record: &Record, state: u32, stop: &AtomicBool) -> Result<(), ExecuteError> {
    let image = &record.client.image;
    let old = site.stack("old", record, record.books.state, image, Access::Write)?;
    let new = site.stack_of("new", &record.client, &[state], image, Access::Write)?;
    let rules = copy::Rules { over_image: true, layers: false, without: &|_| false, seen: None, stop };
    copy::mirror(&old.root, &new.root, &rules)?;
    copy::mirror(&old.boot, &new.boot, &rules)?;
    new.close()?;
    old.close()?;
    Ok(())
}

fn adapt(site: &Site, record: &Record) -> Result<Vec<String>, ExecuteError> {
    let live = site.stack("old", record, record.books.state, &record.client.image, Access::Write)?;
    let warnings =
        root::personalise_at(&site.store, &record.client, &live.root, &live.boot, &site.around, personalise::adapt)?;
    live.close()?;
    Ok(warnings)
}
