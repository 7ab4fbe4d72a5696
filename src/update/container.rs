//! The update file `rootstock-VERSION-FAMILY.update`: what it is, and how it is read. Pure.
//! (Its name is for people; before 0.2 it had no family in it.)
//!
//! In this order, numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `RSTKUPD1` |
//! | 4 | length of the manifest, at most 64 KiB |
//! | 4 | length of the signature, at most 4 KiB |
//! | | the manifest: TOML |
//! | | the signature over the manifest: `ssh-keygen -Y sign`'s text |
//! | to 4096·n | zeros |
//! | `slot_bytes` | the payload: a slot's file system up to its last byte that is not zero |
//!
//! The signature is over the manifest, and the manifest holds the payload's hash and
//! length, so nothing is believed before both were checked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::keys::{self, KeyError};

pub const MAGIC: &[u8; 8] = b"RSTKUPD1";
const MAX_MANIFEST_BYTES: usize = 64 << 10;
const MAX_SIGNATURE_BYTES: usize = 4 << 10;
const ALIGNMENT_BYTES: usize = 4096;
/// The most that `Header::parse` needs to see.
pub const MAX_HEADER_BYTES: usize = 16 + MAX_MANIFEST_BYTES + MAX_SIGNATURE_BYTES + ALIGNMENT_BYTES;
/// A slot can be made no larger: FAT16 with clusters of 32 KiB.
const MAX_SLOT_BYTES: u64 = 2 << 30;
const MAX_BOARDS: usize = 64;
const MAX_FILES: usize = 1000;
const MAX_NAME_BYTES: usize = 200;

/// `1.20.3`: compared number by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u16; 3]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a version such as 0.2.0")]
pub struct NoVersion;

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let mut parts = text.trim().split('.').map(|part| part.parse::<u16>().map_err(|_| NoVersion));
        let mut next = || parts.next().unwrap_or(Err(NoVersion));
        let version = Self([next()?, next()?, next()?]);
        if parts.next().is_some() { Err(NoVersion) } else { Ok(version) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub version: String,
    /// What the first word of `compatible` in a board's device tree may be, such as `raspberrypi,4-model-b`.
    pub boards: Vec<String>,
    /// Bytes of the payload.
    pub slot_bytes: u64,
    /// Of the payload, in hexadecimal.
    pub sha256: String,
    /// What the payload's file system holds, for people.
    #[serde(default)]
    pub files: Vec<FileEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

/// Why a file is no update for us. Each is one line for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    #[error("it is no update file")]
    NoUpdate,
    #[error("it is cut short")]
    Short,
    #[error("something follows its end")]
    Long,
    #[error("its description is damaged: {0}")]
    Manifest(String),
    #[error(transparent)]
    Key(#[from] KeyErrorShown),
}

impl ContainerError {
    /// What a person does about it.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Key(_) => "Trust its key, or delete it",
            _ => "Copy it anew, or delete it",
        }
    }
}

/// A key's error in the words of a refused update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyErrorShown(pub String);

impl From<KeyError> for ContainerError {
    fn from(error: KeyError) -> Self {
        Self::Key(KeyErrorShown(error.to_string()))
    }
}

/// The parts before the payload, not yet believed.
#[derive(Debug, Clone, Copy)]
pub struct Header<'b> {
    manifest: &'b [u8],
    signature: &'b [u8],
    /// Where the payload begins.
    pub payload_at: u64,
}

impl<'b> Header<'b> {
    /// Of the file's first bytes, as many as there are up to `MAX_HEADER_BYTES`.
    pub fn parse(head: &'b [u8]) -> Result<Self, ContainerError> {
        let fixed = head.get(..16).ok_or(ContainerError::NoUpdate)?;
        if fixed[..8] != MAGIC[..] {
            return Err(ContainerError::NoUpdate);
        }
        let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]) as usize;
        let (manifest, signature) = (word(8), word(12));
        if manifest > MAX_MANIFEST_BYTES || signature > MAX_SIGNATURE_BYTES {
            return Err(ContainerError::Manifest("its length is wrong".to_owned()));
        }
        let end = 16 + manifest + signature;
        Ok(Self {
            manifest: head.get(16..16 + manifest).ok_or(ContainerError::Short)?,
            signature: head.get(16 + manifest..end).ok_or(ContainerError::Short)?,
            payload_at: end.next_multiple_of(ALIGNMENT_BYTES) as u64,
        })
    }

    /// The manifest, once a trusted key vouches for it.
    pub fn verify(&self, trusted: &[ssh_key::PublicKey]) -> Result<Manifest, ContainerError> {
        keys::verify(trusted, self.manifest, self.signature)?;
        self.unverified()
    }

    /// The manifest without asking who signed it: to be shown, never to be followed.
    pub fn unverified(&self) -> Result<Manifest, ContainerError> {
        let wrong = |error: &dyn fmt::Display| {
            ContainerError::Manifest(error.to_string().lines().next().unwrap_or_default().to_owned())
        };
        let text = std::str::from_utf8(self.manifest).map_err(|error| wrong(&error))?;
        let manifest: Manifest = toml::from_str(text).map_err(|error| wrong(&error.message()))?;
        manifest.check().map_err(|what| ContainerError::Manifest(what.to_owned()))?;
        Ok(manifest)
    }

    pub fn signature(&self) -> &'b [u8] {
        self.signature
    }

    pub fn signed(&self) -> &'b [u8] {
        self.manifest
    }
}

impl Manifest {
    /// Bounds on what a signer, too, may get wrong.
    fn check(&self) -> Result<(), &'static str> {
        let hash = |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let name = |text: &str| !text.is_empty() && text.len() <= MAX_NAME_BYTES && !text.contains(char::is_control);
        if self.version.parse::<Version>().is_err() {
            Err("the version")
        } else if self.boards.len() > MAX_BOARDS || !self.boards.iter().all(|board| name(board)) {
            Err("the boards")
        } else if self.slot_bytes == 0 || self.slot_bytes > MAX_SLOT_BYTES || !hash(&self.sha256) {
            Err("the size or the hash")
        } else if self.files.len() > MAX_FILES || !self.files.iter().all(|f| name(&f.name) && hash(&f.sha256)) {
            Err("the list of files")
        } else {
            Ok(())
        }
    }

    /// As `check` saw it.
    pub fn version(&self) -> Version {
        self.version.parse().unwrap_or(Version([0; 3]))
    }
}

/// Everything before the payload, signed.
pub fn encode(manifest: &Manifest, key: &ssh_key::PrivateKey) -> Result<Vec<u8>, ContainerError> {
    manifest.check().map_err(|what| ContainerError::Manifest(what.to_owned()))?;
    let text = toml::to_string(manifest).map_err(|error| ContainerError::Manifest(error.to_string()))?;
    let signature = keys::sign(key, text.as_bytes())?;
    if text.len() > MAX_MANIFEST_BYTES {
        return Err(ContainerError::Manifest("it is too long".to_owned()));
    }
    let mut bytes = MAGIC.to_vec();
    for part in [text.as_bytes(), signature.as_bytes()] {
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(signature.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT_BYTES), 0);
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::update::keys::tests::key;

    pub fn manifest() -> Manifest {
        Manifest {
            version: "0.2.0".to_owned(),
            boards: vec!["raspberrypi,3-model-b".to_owned()],
            slot_bytes: 5000,
            sha256: "0".repeat(64),
            files: vec![FileEntry { name: "kernel8.img".to_owned(), bytes: 1, sha256: "1".repeat(64) }],
        }
    }

    #[test]
    fn a_signed_file_is_read_as_it_was_written() {
        let bytes = encode(&manifest(), &key(1)).unwrap();
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.payload_at as usize, bytes.len());
        assert_eq!(header.verify(&[key(1).public_key().clone()]), Ok(manifest()));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let good = encode(&manifest(), &key(1)).unwrap();
        let trusted = [key(1).public_key().clone()];
        let (manifest_end, signature_end) = {
            let header = Header::parse(&good).unwrap();
            (16 + header.manifest.len(), 16 + header.manifest.len() + header.signature.len())
        };
        for at in 0..signature_end {
            let mut bytes = good.clone();
            bytes[at] ^= 0x01;
            let verified = Header::parse(&bytes).and_then(|header| header.verify(&trusted));
            // Of the signature's text a line end may be another one.
            assert!(verified.is_err() || (at >= manifest_end && verified == Ok(manifest())), "byte {at}");
        }
    }

    #[test]
    fn what_is_no_update_or_cut_is_told() {
        let good = encode(&manifest(), &key(1)).unwrap();
        let check = |bytes: &[u8], expected| assert_eq!(Header::parse(bytes).unwrap_err(), expected);
        check(b"", ContainerError::NoUpdate);
        check(b"an ordinary text file", ContainerError::NoUpdate);
        check(&good[..16], ContainerError::Short);
        check(&good[..200], ContainerError::Short);
        let mut long = good.clone();
        long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        check(&long, ContainerError::Manifest("its length is wrong".to_owned()));
    }

    #[test]
    fn a_manifest_out_of_bounds_is_neither_made_nor_read() {
        let wrong = |change: fn(&mut Manifest)| {
            let mut manifest = manifest();
            change(&mut manifest);
            assert!(matches!(encode(&manifest, &key(1)), Err(ContainerError::Manifest(_))), "{manifest:?}");
        };
        wrong(|m| m.version = "newest".to_owned());
        wrong(|m| m.slot_bytes = u64::MAX);
        wrong(|m| m.sha256 = "0".repeat(63));
        wrong(|m| m.boards = vec!["x\ny".to_owned()]);
        wrong(|m| m.files = vec![FileEntry { name: String::new(), bytes: 0, sha256: "1".repeat(64) }]);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let version = |text: &str| text.parse::<Version>();
        assert!(version("0.10.0").unwrap() > version("0.9.9").unwrap());
        assert_eq!(version("1.2.3\n").unwrap().to_string(), "1.2.3");
        for wrong in ["", "1", "1.2", "1.2.3.4", "1.2.x", "v1.2.3", "1.2.70000"] {
            assert_eq!(version(wrong), Err(NoVersion), "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_file_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let mut bytes = bytes;
            if bytes.len() > 16 {
                bytes[..8].copy_from_slice(MAGIC);
                bytes[9..12].fill(0);
                bytes[13..16].fill(0);
            }
            if let Ok(header) = Header::parse(&bytes) {
                let _ = header.unverified();
                let _ = header.verify(&[key(1).public_key().clone()]);
            }
        }
    }
}
