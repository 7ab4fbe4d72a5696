//! Images and clients' roots as mounts: which are up, making a new client,
//! taking them down.
//!
//! I/O. Below the run folder: `images/<id>/root`, and `root`, `boot` and, for
//! some, `volume` in `clients/<role>/`. These paths never change while a client exists, also
//! not when its stick is pulled and put back.
//!
//! An ephemeral client's writes go to the stick as well, to layers of their
//! own in `ephemeral/` above the client's: an appliance with 1 GB and 32
//! clients has no memory for them. They are there from the beginning of its
//! boot to the beginning of its next, so that an appliance that restarts under
//! it finds them. What its mode says holds from the beginning of a boot: a
//! client that runs must not lose the files under its handles. Only a
//! read-only client is refused writes from the opening of the store.
//!
//! A known limit: an ephemeral root sees what the client wrote while it was
//! persistent as a lower layer, where overlayfs does not know which names of
//! the image were one file. A hard link of the image that was changed then by
//! one of its names shows the image's content by the others (2026-11-22).

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use super::in_place;
use super::manifest::{self, CLIENTS, ClientPaths, IMAGES, ImagePaths, NEW, PROFILE};
use super::mounts::{self, Layers, MountError};
use super::operate::site;
use super::personalise::{self, Context, Profile, Tree, TreeError};
use super::states::{Books, ChainError, Record};
use super::{OpenClient, atomic, sources, trash, volume};
use crate::client::{Client, ImageId, Mode, QUOTA_MINIMUM, Role};
use crate::quota::{Account, Space};

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
    /// Set when the store is being stopped.
    pub stop: Arc<AtomicBool>,
}

/// The mounts of one open store.
#[derive(Debug)]
pub struct Roots {
    store: PathBuf,
    run: PathBuf,
    /// What the roots must name.
    pub appliance: Ipv4Addr,
    /// Until when an opening waits for layers in use: once for all clients.
    busy_until: Instant,
    space: Arc<Space>,
    /// One for each client, for as long as the store is open.
    accounts: BTreeMap<Role, Arc<Account>>,
}

/// A client's trees below its mount point.
const ROOT: &str = "root";
const BOOT: &str = "boot";
const VOLUME: &str = "volume";

/// Layers may be in use for a moment after they were unmounted, by calls that
/// NFS has under way or files it keeps open.
const BUSY_LIMIT: Duration = Duration::from_secs(3);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

impl Roots {
    pub fn new(store: &Path, run: &Path, appliance: Ipv4Addr, space: Arc<Space>) -> Self {
        let (store, run) = (store.to_owned(), run.to_owned());
        Self { store, run, appliance, busy_until: Instant::now() + BUSY_LIMIT, space, accounts: BTreeMap::new() }
    }

    /// The client's account, with the quota that its manifest says now.
    pub fn account(&mut self, client: &Client) -> Arc<Account> {
        let quota = client.quota.map(|quota| quota.max(QUOTA_MINIMUM).0);
        let account = self.accounts.entry(client.role.clone());
        let account = account.or_insert_with(|| Arc::new(Account::new(self.space.clone(), quota)));
        account.set_quota(quota);
        account.clone()
    }

    /// Forgets the accounts of clients that are no more: who gets their name next begins with nothing.
    pub fn keep_accounts(&mut self, is_there: impl Fn(&Role) -> bool) {
        self.accounts.retain(|role, _| is_there(role));
    }

    /// Mounts an image's root, unless it is mounted.
    pub fn mount_image(&mut self, id: &ImageId) -> Result<(), RootError> {
        let point = self.image_point(id);
        // Perhaps by an operation.
        if mounts::is_mounted(&point)? {
            return Ok(());
        }
        let paths = ImagePaths::of(&self.store, id);
        if !paths.root().is_file() {
            return Err(RootError::NoImage(id.clone()));
        }
        Ok(in_place::mount_root(&paths.root(), &self.run, &point)?)
    }

    /// An image's own root and boot files, mounted or where they lie, for reading only.
    pub fn image_trees(&mut self, id: &ImageId) -> Result<(PathBuf, PathBuf), RootError> {
        self.mount_image(id)?;
        Ok((self.image_point(id), ImagePaths::of(&self.store, id).boot()))
    }

    /// Unmounts an image that no client has as its lower layer.
    pub fn release_image(&mut self, id: &ImageId) -> Result<(), RootError> {
        let point = self.image_point(id);
        if mounts::is_mounted(&point)? {
            mounts::unmount(&point)?;
        }
        Ok(())
    }

    fn image_point(&self, id: &ImageId) -> PathBuf {
        self.run.join(IMAGES).join(id.as_str()).join("root")
    }

    /// Mounts a client's trees as they were when it last booted: it may be running.
    pub fn mount(&mut self, record: &Record) -> Result<OpenClient, RootError> {
        let client = &record.client;
        self.mount_image(&client.image)?;
        let paths = ClientPaths::of(&self.store, &client.role);
        self.mount_layers(record, &paths)?;
        if client.volume_size.is_some() && paths.volume_file().is_file() {
            self.mount_volume(client, &paths)?;
        }
        self.opened(client, &paths)
    }

    /// The client's boot begins: nothing of its former run is in use any more.
    /// Gives it what its manifest says; returns what could not be given beside its root.
    pub fn renew(&mut self, record: &Record, around: &Surroundings) -> Result<(OpenClient, Vec<String>), RootError> {
        let client = &record.client;
        self.mount_image(&client.image)?;
        let paths = ClientPaths::of(&self.store, &client.role);
        self.busy_until = Instant::now() + BUSY_LIMIT;
        let was_ephemeral = paths.ephemeral().folder.is_dir();
        if client.mode == Mode::Ephemeral || was_ephemeral {
            for point in [self.point(client, ROOT), self.point(client, BOOT)] {
                while mounts::is_mounted(&point)? {
                    mounts::unmount(&point)?;
                }
            }
            let written = |source| RootError::Write { path: paths.folder.clone(), source };
            trash::put(&self.store, &paths.ephemeral().folder).map_err(written)?;
        }
        if client.mode == Mode::Ephemeral {
            let new = paths.new_ephemeral();
            trash::put(&self.store, &new.folder)
                .and_then(|()| make_folders(&new))
                .and_then(|()| fs::rename(&new.folder, paths.ephemeral().folder))
                .map_err(|source| RootError::Write { path: new.folder.clone(), source })?;
        }
        self.mount_layers(record, &paths)?;
        let mut warnings = self.renew_volume(client, &paths, around)?;
        if let Err(error) = self.fit_boot(client, around.appliance) {
            warnings.push(format!("its fstab: {}", super::chain(&error)));
        }
        Ok((self.opened(client, &paths)?, warnings))
    }

    /// Makes, grows or takes away the volume, and the unit that mounts it.
    /// What is wrong with a volume must not keep its client from booting.
    fn renew_volume(
        &self,
        client: &Client,
        paths: &ClientPaths,
        around: &Surroundings,
    ) -> Result<Vec<String>, RootError> {
        let mut warnings = Vec::new();
        match client.volume_size {
            Some(size) => {
                if let Err(error) = volume::prepare(paths, size, &around.stop) {
                    warnings.push(super::chain(&error));
                }
                if paths.volume_file().is_file() {
                    self.mount_volume(client, paths)?;
                }
            }
            None if paths.volume_file().is_file() => {
                let point = self.point(client, VOLUME);
                if mounts::is_mounted(&point)? {
                    mounts::unmount(&point)?;
                }
                warnings.push("volume_size is gone from its client.toml; its volume is kept, but not used".to_owned());
            }
            None => return Ok(warnings),
        }
        let root = self.point(client, ROOT);
        mounts::set_read_only(&root, false)?;
        let fitted = Tree::open(&root).and_then(|tree| personalise::fit_volume(&tree, around.appliance, client));
        mounts::set_read_only(&root, client.mode == Mode::ReadOnly)?;
        if let Err(error) = fitted {
            warnings.push(format!("its volume: {}", super::chain(&error)));
        }
        Ok(warnings)
    }

    /// Makes the root name the appliance's address of today.
    fn fit_boot(&self, client: &Client, appliance: Ipv4Addr) -> Result<(), RootError> {
        let root = self.point(client, ROOT);
        if personalise::is_fit(&Tree::open(&root)?, appliance, client) {
            return Ok(());
        }
        mounts::set_read_only(&root, false)?;
        let fitted = Tree::open(&root).and_then(|tree| personalise::fit_boot(&tree, appliance, client));
        mounts::set_read_only(&root, client.mode == Mode::ReadOnly)?;
        Ok(fitted?)
    }

    fn mount_volume(&self, client: &Client, paths: &ClientPaths) -> Result<(), RootError> {
        let point = self.point(client, VOLUME);
        if !mounts::is_mounted(&point)? {
            mounts::bind(&paths.volume(), &point)?;
        }
        Ok(())
    }

    /// The client as it is mounted.
    fn opened(&mut self, client: &Client, paths: &ClientPaths) -> Result<OpenClient, RootError> {
        let volume = self.point(client, VOLUME);
        let ephemeral = client.mode == Mode::Ephemeral || paths.ephemeral().folder.is_dir();
        let root = self.point(client, ROOT);
        let is_fit = personalise::is_fit(&Tree::open(&root)?, self.appliance, client);
        Ok(OpenClient {
            client: client.clone(),
            root,
            boot: self.point(client, BOOT),
            volume: mounts::is_mounted(&volume)?.then_some(volume),
            account: Some(self.account(client)),
            writable: true,
            renew_at_boot: ephemeral || !is_fit || client.volume_size.is_some() || paths.volume_file().is_file(),
        })
    }

    /// Where one of a client's trees is mounted.
    fn point(&self, client: &Client, tree: &str) -> PathBuf {
        self.run.join(CLIENTS).join(client.role.as_str()).join(tree)
    }

    /// Mounts what is not mounted yet, and lets it take writes or not.
    fn mount_layers(&self, record: &Record, paths: &ClientPaths) -> Result<(), RootError> {
        let client = &record.client;
        let (root, boot) = (self.point(client, ROOT), self.point(client, BOOT));
        let ephemeral = paths.ephemeral().folder.is_dir();
        if !(mounts::is_mounted(&root)? && mounts::is_mounted(&boot)?) {
            let upper = ephemeral.then(|| paths.ephemeral());
            self.overlays(client, paths, &record.chain()?, upper.as_ref(), [&root, &boot])?;
        }
        for point in [&root, &boot] {
            mounts::set_read_only(point, client.mode == Mode::ReadOnly)?;
        }
        Ok(())
    }

    /// Mounts both trees: the live state over the frozen ones and the image,
    /// or `ephemeral` layers over all of them.
    fn overlays(
        &self,
        client: &Client,
        paths: &ClientPaths,
        states: &[u32],
        ephemeral: Option<&ClientPaths>,
        [root, boot]: [&Path; 2],
    ) -> Result<(), RootError> {
        let states: Vec<ClientPaths> = states.iter().map(|state| paths.at(*state)).collect();
        let (above, below) = match (ephemeral, states.split_first()) {
            (Some(ephemeral), _) => (ephemeral, &states[..]),
            (None, Some((live, frozen))) => (live, frozen),
            // A chain has its live state at least.
            (None, None) => (paths, &states[..]),
        };
        let lower = site::lower(below, ClientPaths::upper, &self.image_point(&client.image));
        let layers = Layers { lower: &lower, upper: &above.upper(), work: &above.work() };
        overlay_when_free(&layers, root, self.busy_until)?;
        let image_boot = ImagePaths::of(&self.store, &client.image).boot();
        let lower = site::lower(below, ClientPaths::boot_upper, &image_boot);
        let layers = Layers { lower: &lower, upper: &above.boot_upper(), work: &above.boot_work() };
        if let Err(error) = overlay_when_free(&layers, boot, self.busy_until) {
            // Half a client is none.
            mounts::unmount(root)?;
            return Err(error.into());
        }
        Ok(())
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
        let mut warnings = self.make(client, &made, around).inspect_err(|_| {
            let _ = fs::remove_dir_all(&made.folder);
        })?;
        let written = |source| RootError::Write { path: finished.folder.clone(), source };
        fs::rename(&made.folder, &finished.folder).map_err(written)?;
        atomic::sync_folder(&self.store.join(CLIENTS)).map_err(written)?;
        // Nothing of a client's is in it yet; left there it would block its role.
        let (open, more) = self.renew(&Record::enrolled(client.clone()), around).inspect_err(|_| {
            let _ = fs::remove_dir_all(&finished.folder);
        })?;
        warnings.extend(more);
        Ok((open, warnings))
    }

    fn make(&self, client: &Client, made: &ClientPaths, around: &Surroundings) -> Result<Vec<String>, RootError> {
        let _ = fs::remove_dir_all(&made.folder);
        make_folders(made).map_err(|source| RootError::Write { path: made.folder.clone(), source })?;
        write_manifest(client, &Books::default(), made, false)?;

        let point = self.run.join(CLIENTS).join(format!("{NEW}{}", client.role));
        let (root, boot) = (point.join("root"), point.join("boot"));
        self.overlays(client, made, &[0], None, [&root, &boot])?;
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

/// A client's folder with its layers. The upper layer's own mode is what the
/// client sees as that of `/`.
pub fn make_folders(paths: &ClientPaths) -> io::Result<()> {
    let folders = [
        (paths.folder.clone(), 0o700),
        (paths.upper(), 0o755),
        (paths.work(), 0o700),
        (paths.boot_upper(), 0o755),
        (paths.boot_work(), 0o700),
    ];
    folders.iter().try_for_each(|(path, mode)| DirBuilder::new().mode(*mode).create(path))
}

/// Mounts; waits a moment for the last users of a layer.
fn overlay_when_free(layers: &Layers<'_>, point: &Path, deadline: Instant) -> Result<(), MountError> {
    loop {
        match mounts::overlay(layers, point) {
            Err(MountError::Mount { source, .. })
                if source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            result => return result,
        }
    }
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
