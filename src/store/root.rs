//! Images and clients' roots as mounts: which are up, making a new client,
//! taking them down.
//!
//! I/O. Below the run folder: `images/<id>/root`, `clients/<role>/root` and
//! `clients/<role>/boot`. These paths never change while a client exists, also
//! not when its stick is pulled and put back.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::manifest::{self, CLIENTS, ClientPaths, IMAGES, ImagePaths, NEW, PROFILE};
use super::mounts::{self, Layers, MountError};
use super::operate::site::lower;
use super::personalise::{self, Context, Profile, Tree, TreeError};
use super::states::{Books, ChainError, Record, State};
use super::{OpenClient, atomic, sources};
use crate::client::{Client, ImageId, Mode, Role};

/// Why a client could not be made or mounted.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("{0} exists already")]
    Exists(Role),
    #[error("there is no image {0}")]
    NoImage(ImageId),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("writing {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("adapting the new root")]
    Personalise(#[from] TreeError),
    #[error("writing the client's manifest")]
    Manifest(#[from] toml::ser::Error),
}

/// What new clients get beside what they are.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub appliance: Ipv4Addr,
    pub dns: Vec<Ipv4Addr>,
}

/// The mounts of one open store.
#[derive(Debug)]
pub struct Roots {
    store: PathBuf,
    run: PathBuf,
    images: BTreeSet<ImageId>,
}

impl Roots {
    pub fn new(store: &Path, run: &Path) -> Self {
        Self { store: store.to_owned(), run: run.to_owned(), images: BTreeSet::new() }
    }

    /// Mounts an image's root, unless it is mounted.
    pub fn mount_image(&mut self, id: &ImageId) -> Result<(), RootError> {
        if self.images.contains(id) {
            return Ok(());
        }
        let paths = ImagePaths::of(&self.store, id);
        if !paths.root().is_file() {
            return Err(RootError::NoImage(id.clone()));
        }
        mounts::image_root(&paths.root(), &self.image_point(id))?;
        self.images.insert(id.clone());
        Ok(())
    }

    fn image_point(&self, id: &ImageId) -> PathBuf {
        self.run.join(IMAGES).join(id.as_str()).join("root")
    }

    /// Forgets an image that was unmounted behind our back.
    pub fn forget_image(&mut self, id: &ImageId) {
        self.images.remove(id);
    }

    /// Mounts a client's two trees. An ephemeral client's is mounted as a
    /// persistent one: what throws its writes away comes between these layers.
    pub fn mount(&mut self, record: &Record) -> Result<OpenClient, RootError> {
        let client = &record.client;
        self.mount_image(&client.image)?;
        let paths = ClientPaths::of(&self.store, &client.role);
        let point = self.run.join(CLIENTS).join(client.role.as_str());
        let (root, boot) = self.overlays(client, &paths, &record.chain()?, &point, client.mode == Mode::ReadOnly)?;
        Ok(OpenClient { client: client.clone(), root, boot })
    }

    fn overlays(
        &self,
        client: &Client,
        paths: &ClientPaths,
        states: &[u32],
        point: &Path,
        read_only: bool,
    ) -> Result<(PathBuf, PathBuf), RootError> {
        let (root, boot) = (point.join("root"), point.join("boot"));
        // The live state is written, the frozen ones lie between it and the image.
        let (live, frozen) = states.split_first().map_or((0, states), |(live, frozen)| (*live, frozen));
        let paths = paths.at(live);
        let frozen = || frozen.iter().map(|state| paths.at(*state));
        let below = lower(frozen().map(|paths| paths.upper()), &self.image_point(&client.image));
        mounts::overlay(&Layers { lower: &below, upper: &paths.upper(), work: &paths.work() }, &root, read_only)?;
        let image_boot = ImagePaths::of(&self.store, &client.image).boot();
        let below = lower(frozen().map(|paths| paths.boot_upper()), &image_boot);
        let layers = Layers { lower: &below, upper: &paths.boot_upper(), work: &paths.boot_work() };
        if let Err(error) = mounts::overlay(&layers, &boot, read_only) {
            // Half a client is none.
            mounts::unmount(&root)?;
            return Err(error.into());
        }
        Ok((root, boot))
    }

    /// Makes a client and mounts it. Nothing of the image is copied. It is
    /// made under a name that the next opening removes, and is a client by
    /// one rename; returns what rules could not be applied.
    pub fn create(&mut self, client: &Client, around: &Surroundings) -> Result<(OpenClient, Vec<String>), RootError> {
        let finished = ClientPaths::of(&self.store, &client.role);
        if fs::symlink_metadata(&finished.folder).is_ok() {
            return Err(RootError::Exists(client.role.clone()));
        }
        self.mount_image(&client.image)?;
        let made = ClientPaths::unfinished(&self.store, &client.role);
        let warnings = self.make(client, &made, around).inspect_err(|_| {
            let _ = fs::remove_dir_all(&made.folder);
        })?;
        let written = |source| RootError::Write { path: finished.folder.clone(), source };
        fs::rename(&made.folder, &finished.folder).map_err(written)?;
        atomic::sync_folder(&self.store.join(CLIENTS)).map_err(written)?;
        // Nothing of a client's is in it yet; left there it would block its role.
        let record = Record {
            client: client.clone(),
            books: Books::default(),
            states: [(0, State { parent: None })].into(),
            snapshots: Vec::new(),
        };
        let open = self.mount(&record).inspect_err(|_| {
            let _ = fs::remove_dir_all(&finished.folder);
        })?;
        Ok((open, warnings))
    }

    fn make(&self, client: &Client, made: &ClientPaths, around: &Surroundings) -> Result<Vec<String>, RootError> {
        let _ = fs::remove_dir_all(&made.folder);
        let folder = |path: &Path, mode| {
            let made = DirBuilder::new().mode(mode).create(path);
            made.map_err(|source| RootError::Write { path: path.to_owned(), source })
        };
        folder(&made.folder, 0o700)?;
        // The upper layer's own mode is what the client sees as that of `/`.
        for (path, mode) in
            [(made.upper(), 0o755), (made.work(), 0o700), (made.boot_upper(), 0o755), (made.boot_work(), 0o700)]
        {
            folder(&path, mode)?;
        }
        write_manifest(client, &Books::default(), made, false)?;

        let point = self.run.join(CLIENTS).join(format!("{NEW}{}", client.role));
        let (root, boot) = self.overlays(client, made, &[0], &point, false)?;
        let applied = self.personalise(client, &root, &boot, around);
        let unmounted = mounts::unmount(&root).and(mounts::unmount(&boot));
        let _ = fs::remove_dir(&root).and_then(|()| fs::remove_dir(&boot)).and_then(|()| fs::remove_dir(&point));
        let warnings = applied?;
        unmounted?;

        // One flush for all files of the client.
        let failed = |source| RootError::Write { path: made.folder.clone(), source };
        let open = fs::File::open(&made.folder).map_err(failed)?;
        rustix::fs::syncfs(&open).map_err(|errno| failed(errno.into()))?;
        Ok(warnings)
    }

    fn personalise(
        &self,
        client: &Client,
        root: &Path,
        boot: &Path,
        around: &Surroundings,
    ) -> Result<Vec<String>, RootError> {
        personalise_at(&self.store, client, root, boot, around, personalise::apply)
    }

    /// Writes a client's manifest anew.
    pub fn save(&self, client: &Client, books: &Books) -> Result<(), RootError> {
        write_manifest(client, books, &ClientPaths::of(&self.store, &client.role), true)
    }
}

/// Applies rules to a client's mounted trees; returns what could not be applied.
pub fn personalise_at(
    store: &Path,
    client: &Client,
    root: &Path,
    boot: &Path,
    around: &Surroundings,
    rules: fn(&Context<'_>) -> Result<personalise::Applied, TreeError>,
) -> Result<Vec<String>, RootError> {
    let (profile, mut warnings) = read_profile(&store.join(PROFILE));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let context = Context {
        client,
        appliance: around.appliance,
        dns: &around.dns,
        profile: &profile,
        root: &Tree::open(root)?,
        boot: &Tree::open(boot)?,
        today: now.as_secs() / 86_400,
    };
    let applied = rules(&context)?;
    tracing::info!(role = %client.role, rules = ?applied.acted, "client adapted");
    warnings.extend(applied.failed.into_iter().map(|(rule, error)| format!("{rule}: {}", super::chain(&error))));
    Ok(warnings)
}

/// Writes `client.toml`, whole or not at all.
pub fn write_manifest(client: &Client, books: &Books, paths: &ClientPaths, sync: bool) -> Result<(), RootError> {
    let text = manifest::client_text(client, books)?;
    let path = paths.manifest();
    let result = match sync {
        true => atomic::write(&path, text.as_bytes(), 0o644),
        false => atomic::write_unsynced(&path, text.as_bytes(), 0o644, false),
    };
    result.map_err(|source| RootError::Write { path, source })
}

/// Reads the store's profile; what cannot be used is told and left out.
fn read_profile(folder: &Path) -> (Profile, Vec<String>) {
    let mut warnings = Vec::new();
    let mut text = |name: &str| match atomic::read_bounded(&folder.join(name), 64 << 10) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).replace('\r', "")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warnings.push(format!("profile/{name}: {error}"));
            None
        }
    };
    let (authorized_keys, userconf) = (text("authorized_keys"), text("userconf.txt"));
    let files = sources::profile_files(&folder.join("files")).unwrap_or_else(|error| {
        warnings.push(error.to_string());
        Vec::new()
    });
    (Profile { authorized_keys, userconf, files }, warnings)
}
