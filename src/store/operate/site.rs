//! Where operations work: the open store, and the folder below which they
//! mount what they need for themselves.
//!
//! I/O. A client's trees are stacked here as `root` stacks them for serving,
//! on mount points of our own, so that no server sees a half-done root.

use std::io;
use std::path::{Path, PathBuf};

use crate::client::{Client, ImageId, Role};
use crate::store::in_place;
use crate::store::manifest::{ClientPaths, IMAGES, ImagePaths};
use crate::store::mounts::{self, Layers, MountError};
use crate::store::root::Surroundings;
use crate::store::states::{ChainError, Record, chain};

/// The open store and what new roots are told.
#[derive(Debug, Clone)]
pub struct Site {
    pub store: PathBuf,
    pub run: PathBuf,
    /// Operations that run at the same time have mount points of their own.
    pub slot: &'static str,
    pub around: Surroundings,
}

/// Two mounted trees, taken down when dropped.
#[derive(Debug)]
pub struct Pair {
    pub root: PathBuf,
    pub boot: PathBuf,
}

impl Pair {
    /// Takes them down; an error leaves them to the kernel.
    pub fn close(self) -> Result<(), MountError> {
        let result = mounts::unmount(&self.boot).and(mounts::unmount(&self.root));
        std::mem::forget(self);
        result
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for point in [&self.boot, &self.root] {
            let _ = mounts::detach(point);
        }
    }
}

/// Which layer of a stack is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The state itself is the upper layer.
    Write,
    /// Everything is a lower layer: the state is frozen, or only looked at.
    Read,
}

/// One tree's lower layers, topmost first: of these states, and the image's.
pub fn lower(states: &[ClientPaths], tree: fn(&ClientPaths) -> PathBuf, image: &Path) -> Vec<PathBuf> {
    states.iter().map(tree).chain([image.to_owned()]).collect()
}

impl Site {
    pub fn clients_point(&self, role: &Role) -> PathBuf {
        self.run.join("clients").join(role.as_str())
    }

    pub fn own(&self, name: &str) -> PathBuf {
        self.run.join("operate").join(self.slot).join(name)
    }

    /// The image's mounted root; mounted if it is not.
    pub fn image(&self, id: &ImageId) -> Result<PathBuf, MountError> {
        let point = self.run.join(IMAGES).join(id.as_str()).join("root");
        if !mounts::is_mounted(&point)? {
            in_place::mount_root(&ImagePaths::of(&self.store, id).root(), &self.run, &point)?;
        }
        Ok(point)
    }

    /// Mounts a client's trees at a state, below `operate/<name>`.
    pub fn stack(
        &self,
        name: &str,
        record: &Record,
        state: u32,
        image: &ImageId,
        access: Access,
    ) -> Result<Pair, StackError> {
        let states = chain(&record.states, state)?;
        self.stack_of(name, &record.client, &states, image, access)
    }

    /// The same for a chain that is known.
    pub fn stack_of(
        &self,
        name: &str,
        client: &Client,
        states: &[u32],
        image: &ImageId,
        access: Access,
    ) -> Result<Pair, StackError> {
        let point = self.own(name);
        let (root, boot) = (point.join("root"), point.join("boot"));
        // What an ended run left there.
        mounts::unmount_below(&point, true)?;
        let paths = ClientPaths::of(&self.store, &client.role);
        let states: Vec<ClientPaths> = states.iter().map(|state| paths.at(*state)).collect();
        let (image_root, image_boot) = (self.image(image)?, ImagePaths::of(&self.store, image).boot());
        let pair = Pair { root, boot };
        match (access, states.split_first()) {
            (Access::Write, Some((live, frozen))) => {
                let below = lower(frozen, ClientPaths::upper, &image_root);
                let layers = Layers { lower: &below, upper: &live.upper(), work: &live.work() };
                mounts::overlay(&layers, &pair.root)?;
                let below = lower(frozen, ClientPaths::boot_upper, &image_boot);
                let layers = Layers { lower: &below, upper: &live.boot_upper(), work: &live.boot_work() };
                mounts::overlay(&layers, &pair.boot)?;
            }
            _ => {
                mounts::read_only_overlay(&lower(&states, ClientPaths::upper, &image_root), &pair.root)?;
                mounts::read_only_overlay(&lower(&states, ClientPaths::boot_upper, &image_boot), &pair.boot)?;
            }
        }
        Ok(pair)
    }

    /// Takes down what is served of a client. Whoever served it was told to
    /// let go and does within a fraction of a second; an overlay that is still
    /// held could not be mounted again.
    pub fn take_down(&self, role: &Role) -> Result<(), MountError> {
        let point = self.clients_point(role);
        for mount in mounts::list()?.iter().rev().filter(|mount| mount.point.starts_with(&point)) {
            unmount_patiently(&mount.point)?;
        }
        Ok(())
    }
}

/// How long a server may hold a tree that it no longer publishes.
const PATIENCE: u32 = 120;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(25);

fn unmount_patiently(point: &Path) -> Result<(), MountError> {
    for _ in 0..PATIENCE {
        match rustix::mount::unmount(point, rustix::mount::UnmountFlags::NOFOLLOW) {
            Err(rustix::io::Errno::BUSY) => std::thread::sleep(PAUSE),
            Ok(()) => return Ok(()),
            Err(errno) => return Err(MountError::Unmount { path: point.to_owned(), source: errno.into() }),
        }
    }
    Err(MountError::Unmount { path: point.to_owned(), source: io::ErrorKind::ResourceBusy.into() })
}

/// Why a client's trees cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Mount(#[from] MountError),
}
