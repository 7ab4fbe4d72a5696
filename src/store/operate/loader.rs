//! The files by which a client that netboots updates its own EEPROM: put into
//! its boot tree, where only its own TFTP requests find them, and taken out again.
//!
//! I/O. They are made of official files by `rootstock eeprom`; what they are is
//! checked here once more, since a client that takes a wrong one may never boot again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::client::Model;
use crate::eeprom::Soc;
use crate::eeprom::image::{Image, ImageError, SIZES};
use crate::eeprom::{bootconf, signature};
use crate::store::atomic;

pub const UPDATE: &str = "pieeprom.upd";
pub const SIGNATURE: &str = "pieeprom.sig";

/// Longest `pieeprom.sig`: three short lines.
const MAX_SIGNATURE_BYTES: u64 = 4096;

/// Why nothing was put there.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    #[error("reading {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{0} is no loader's image")]
    Image(PathBuf, #[source] ImageError),
    #[error("{0} is not the signature of the {UPDATE} beside it")]
    Signature(PathBuf),
    #[error("its boot order never tries the network: the update would be this client's last")]
    NoNetwork,
    #[error("it is for {0}, and this client is a {1}")]
    OtherBoard(&'static str, Model),
    #[error("writing {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// A pair of files that fit each other.
pub struct Update {
    image: Image,
    signature: Vec<u8>,
}

impl Update {
    /// Reads and checks the pair in a folder.
    pub fn read(folder: &Path) -> Result<Self, LoaderError> {
        let longest = SIZES.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0) as u64;
        let (image, signature) = (folder.join(UPDATE), folder.join(SIGNATURE));
        let bytes = read(&image, longest)?;
        let parsed = Image::parse(bytes).map_err(|error| LoaderError::Image(image, error))?;
        let text = read(&signature, MAX_SIGNATURE_BYTES)?;
        if !signature::matches(&text, parsed.bytes()) {
            return Err(LoaderError::Signature(signature));
        }
        if !bootconf::order(parsed.config()).is_some_and(|order| order.tries_network()) {
            return Err(LoaderError::NoNetwork);
        }
        Ok(Self { image: parsed, signature: text })
    }

    /// Refused for a board of the other family; one whose model is not known has asked for neither.
    pub fn check(&self, model: Model) -> Result<(), LoaderError> {
        let soc = match model {
            Model::Pi4B | Model::Pi400 | Model::Cm4 => Some(Soc::Bcm2711),
            Model::Pi5 | Model::Cm5 | Model::Pi500 => Some(Soc::Bcm2712),
            Model::Pi2B | Model::Pi3B | Model::Pi3BPlus | Model::Unknown => None,
        };
        if soc == Some(self.image.soc()) {
            Ok(())
        } else {
            Err(LoaderError::OtherBoard(self.image.soc().boards(), model))
        }
    }

    /// The signature last: until it is there a Pi that starts takes nothing.
    pub fn put(&self, boot: &Path) -> Result<(), LoaderError> {
        remove(boot)?;
        write(&boot.join(UPDATE), self.image.bytes())?;
        write(&boot.join(SIGNATURE), &self.signature)
    }
}

/// Takes both out, the signature first; what is not there is fine.
pub fn remove(boot: &Path) -> Result<(), LoaderError> {
    [SIGNATURE, UPDATE].iter().try_for_each(|name| {
        let path = boot.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LoaderError::Write { path, source }),
            _ => Ok(()),
        }
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), LoaderError> {
    atomic::write(path, bytes, 0o644).map_err(|source| LoaderError::Write { path: path.to_owned(), source })
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, LoaderError> {
    // One byte more than allowed is wrong whatever it is, and is said by whoever looks at the size.
    atomic::read_bounded(path, most + 1).map_err(|source| LoaderError::Read { path: path.to_owned(), source })
}
