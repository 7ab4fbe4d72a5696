//! A store that cannot be written, served from memory: its stick's lock is on,
//! or the stick takes no writes.
//!
//! I/O. A store in memory is filled with what says who the clients are; their
//! layers and images stay where they are, behind symbolic links, and are only
//! ever lower layers. What clients write goes into ephemeral layers, in memory.
//! The handles' key is a new one: layers that were written are read now, and
//! their files have other handles.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;

use super::library::{self, Library};
use super::manifest::{CLIENTS, ClientPaths, ImagePaths};
use super::operate::verify;
use super::root;
use super::states::Record;
use super::{atomic, chain, sources};
use crate::client::{Client, Mode};

/// Fills the empty store `memory` from the mounted store `from`.
pub fn fill(memory: &Path, from: &Path) -> io::Result<()> {
    let library = library::contents(from).map_err(|error| io::Error::other(chain(&error)))?;
    for words in &library.broken {
        tracing::warn!(words, "passed over");
    }
    images(&library, memory, from)?;
    library::change_choice(memory, |choice| choice.default_image.clone_from(&library.default_image))?;
    if let Err(error) = sources::copy_profile(from, memory) {
        tracing::warn!(%error, "the profile for new clients is passed over");
    }
    fs::create_dir_all(memory.join(CLIENTS))?;
    for record in &library.clients {
        // One that cannot be taken over must not keep the others away.
        if let Err(error) = client(record, memory, from) {
            tracing::warn!(role = %record.client.role, %error, "passed over");
        }
    }
    Ok(())
}

fn images(library: &Library, memory: &Path, from: &Path) -> io::Result<()> {
    for (id, manifest) in &library.images {
        let (own, there) = (ImagePaths::of(memory, id), ImagePaths::of(from, id));
        fs::create_dir_all(&own.folder)?;
        symlink(there.root(), own.root())?;
        symlink(there.boot(), own.boot())?;
        let text = toml::to_string(manifest).map_err(io::Error::other)?;
        atomic::write(&own.manifest(), text.as_bytes(), 0o644)?;
        // So that it can be compared with its hashes, if they were noted.
        match atomic::read_bounded(&verify::list_path(&there), verify::MAX_LIST_BYTES) {
            Ok(list) => atomic::write(&verify::list_path(&own), &list, 0o644)?,
            Err(error) => tracing::debug!(%id, %error, "no hashes"),
        }
    }
    Ok(())
}

fn client(record: &Record, memory: &Path, from: &Path) -> io::Result<()> {
    let role = &record.client.role;
    let (own, there) = (ClientPaths::of(memory, role), ClientPaths::of(from, role));
    let states = record.chain().map_err(io::Error::other)?;
    fs::DirBuilder::new().mode(0o700).create(&own.folder)?;
    fs::create_dir(own.states())?;
    for state in states {
        match state {
            0 => {
                symlink(there.upper(), own.upper())?;
                symlink(there.boot_upper(), own.boot_upper())?;
            }
            state => symlink(there.at(state).layer(), own.at(state).layer())?,
        }
    }
    root::make_folders(&own.ephemeral())?;
    // The last: without it there is no such client.
    let client = Client { mode: Mode::Ephemeral, ..record.client.clone() };
    root::write_manifest(&client, &record.books, &own, false).map_err(|error| io::Error::other(chain(&error)))
}
