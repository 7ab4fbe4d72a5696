//! `rootstock update`: makes an update file of a slot's image, shows one, verifies one.
//!
//! I/O: files that a person named. What is made is written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::card::{CardError, check_payload};
use super::container::{ContainerError, FileEntry, Header, MAX_HEADER_BYTES, Manifest};
use super::keys::{self, KeyError, MAX_KEY_BYTES};
use crate::init::fat::{self, FatError};
use crate::init::mbr::Extent;
use crate::store::atomic;
use crate::store::manifest::hex;

/// In the slot: what `board/image` says of it.
pub const VERSION_FILE: &str = "version.txt";
pub const BOARDS_FILE: &str = "boards.txt";
/// The boards that the slot's image is for, as a name's part: `pi3-4`. Slots before 0.2 have none.
pub const FAMILY_FILE: &str = "family.txt";
const MAX_FAMILY_BYTES: usize = 32;
const MAX_TEXT_BYTES: u64 = 4096;
const PIECE_BYTES: usize = 1 << 20;
/// Folders in folders; the image has one level.
const MAX_DEPTH: usize = 4;
const MAX_LISTED: usize = 1000;

/// Update files for appliances: make and sign one, look at one
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make rootstock-VERSION-FAMILY.update from the slot image that board/image made
    Make {
        /// The file system of a slot
        #[arg(long, default_value = "target/image/slot.img")]
        slot: PathBuf,
        /// An OpenSSH private key (ed25519, no passphrase)
        #[arg(long)]
        key: PathBuf,
        /// The folder to write it to
        #[arg(long, default_value = ".")]
        out: PathBuf,
    },
    /// Show what an update file says of itself, whoever signed it
    Show { file: PathBuf },
    /// Check an update file whole, as the appliance does before it writes anything
    Verify {
        file: PathBuf,
        /// The OpenSSH public key that it must be signed by
        #[arg(long)]
        key: PathBuf,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("writing {0}")]
    Write(PathBuf, #[source] io::Error),
    #[error("{0}")]
    Key(PathBuf, #[source] KeyError),
    #[error("{0}")]
    Container(PathBuf, #[source] ContainerError),
    #[error("{0}")]
    Payload(PathBuf, #[source] CardError),
    #[error("{0} is no slot's file system")]
    Slot(PathBuf, #[source] FatError),
    #[error("{0} has no {1}")]
    Missing(PathBuf, &'static str),
}

pub fn run(command: &Command, out: &mut impl Write) -> Result<(), Error> {
    let told = |error| Error::Write("standard output".into(), error);
    match command {
        Command::Make { slot, key, out: folder } => {
            let path = make(slot, key, folder)?;
            writeln!(out, "{}", path.display()).map_err(told)
        }
        Command::Show { file } => {
            let head = head(file)?;
            let wrong = |error| Error::Container(file.clone(), error);
            let header = Header::parse(&head).map_err(wrong)?;
            out.write_all(describe(&header.unverified().map_err(wrong)?).as_bytes()).map_err(told)?;
            out.write_all(header.signature()).map_err(told)
        }
        Command::Verify { file, key } => {
            let manifest = verify(file, key)?;
            writeln!(out, "{}: good, version {}", file.display(), manifest.version).map_err(told)
        }
    }
}

fn describe(manifest: &Manifest) -> String {
    let mut text = format!("version  {}\nboards   {}\n", manifest.version, manifest.boards.join(" "));
    text += &format!("payload  {} bytes, sha256 {}\n", manifest.slot_bytes, manifest.sha256);
    for file in &manifest.files {
        text += &format!("{:>10}  {}\n", file.bytes, file.name);
    }
    text
}

/// The first bytes of an update file.
pub fn head(file: &Path) -> Result<Vec<u8>, Error> {
    let mut head = Vec::new();
    let mut read = || File::open(file)?.take(MAX_HEADER_BYTES as u64).read_to_end(&mut head);
    read().map_err(|error| Error::Read(file.to_owned(), error))?;
    Ok(head)
}

/// The payload as a stream. `bytes` of the file must end it, or something was added or cut.
pub fn payload(file: &Path, header: &Header<'_>, bytes: u64) -> Result<File, Error> {
    let open = || {
        let mut opened = File::open(file)?;
        let length = opened.metadata()?.len();
        opened.seek(SeekFrom::Start(header.payload_at))?;
        Ok((opened, length))
    };
    let (opened, length) = open().map_err(|error| Error::Read(file.to_owned(), error))?;
    match length.cmp(&header.payload_at.saturating_add(bytes)) {
        std::cmp::Ordering::Less => Err(Error::Container(file.to_owned(), ContainerError::Short)),
        std::cmp::Ordering::Greater => Err(Error::Container(file.to_owned(), ContainerError::Long)),
        std::cmp::Ordering::Equal => Ok(opened),
    }
}

fn verify(file: &Path, key: &Path) -> Result<Manifest, Error> {
    let public = keys::public(&read_text(key)?).map_err(|error| Error::Key(key.to_owned(), error))?;
    let head = head(file)?;
    let wrong = |error| Error::Container(file.to_owned(), error);
    let header = Header::parse(&head).map_err(wrong)?;
    let manifest = header.verify(&[public]).map_err(wrong)?;
    let payload = payload(file, &header, manifest.slot_bytes)?;
    check_payload(payload, manifest.slot_bytes, &manifest.sha256)
        .map_err(|error| Error::Payload(file.to_owned(), error))?;
    Ok(manifest)
}

fn read_text(path: &Path) -> Result<Vec<u8>, Error> {
    atomic::read_bounded(path, MAX_KEY_BYTES).map_err(|error| Error::Read(path.to_owned(), error))
}

fn make(slot: &Path, key: &Path, folder: &Path) -> Result<PathBuf, Error> {
    let private = keys::private(&read_text(key)?).map_err(|error| Error::Key(key.to_owned(), error))?;
    let reading = |error| Error::Read(slot.to_owned(), error);
    let file = File::open(slot).map_err(reading)?;
    let length = file.metadata().map_err(reading)?.len();
    let optional = |name| -> Result<Option<String>, Error> {
        let found = fat::read_file(&file, Extent { start: 0, length }, name, MAX_TEXT_BYTES);
        let found = found.map_err(|error| Error::Slot(slot.to_owned(), error))?;
        Ok(found.map(|found| String::from_utf8_lossy(&found.bytes).into_owned()))
    };
    let text = |name| optional(name)?.ok_or_else(|| Error::Missing(slot.to_owned(), name));
    let (used, sha256) = measure(&file, length).map_err(reading)?;
    let manifest = Manifest {
        version: text(VERSION_FILE)?.trim().to_owned(),
        boards: text(BOARDS_FILE)?.split_whitespace().map(str::to_owned).collect(),
        slot_bytes: used,
        sha256,
        files: list(&file).map_err(reading)?,
    };
    let family = optional(FAMILY_FILE)?.unwrap_or_default();
    let path = folder.join(file_name(&manifest.version, family.trim()));
    let head = super::container::encode(&manifest, &private).map_err(|error| Error::Container(path.clone(), error))?;
    let temporary = path.with_extension("update.tmp");
    let write = || {
        let mut out = File::create(&temporary)?;
        out.write_all(&head)?;
        let mut payload = &file;
        payload.rewind()?;
        io::copy(&mut payload.take(used), &mut out)?;
        out.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::Write(path.clone(), error)
    })?;
    Ok(path)
}

/// With the family in it, so that the files for all boards can lie in one folder and on one stick.
fn file_name(version: &str, family: &str) -> String {
    let is_plain = family.len() <= MAX_FAMILY_BYTES && family.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    match family.is_empty() || !is_plain {
        true => format!("rootstock-{version}.update"),
        false => format!("rootstock-{version}-{family}.update"),
    }
}

/// Bytes up to the last that is not zero, and their hash.
fn measure(file: &File, length: u64) -> io::Result<(u64, String)> {
    let mut piece = vec![0; PIECE_BYTES];
    let (mut at, mut used) = (0, 0);
    let read = |piece: &mut [u8], at| {
        let wanted = usize::try_from(length - at).unwrap_or(usize::MAX).min(piece.len());
        file.read_exact_at(&mut piece[..wanted], at).map(|()| wanted)
    };
    while at < length {
        let count = read(&mut piece, at)?;
        if let Some(last) = piece[..count].iter().rposition(|&byte| byte != 0) {
            used = at + last as u64 + 1;
        }
        at += count as u64;
    }
    let (mut hasher, mut at) = (Sha256::new(), 0);
    while at < used {
        let count = read(&mut piece, at)?.min(usize::try_from(used - at).unwrap_or(usize::MAX));
        hasher.update(&piece[..count]);
        at += count as u64;
    }
    Ok((used, hex(&hasher.finalize())))
}

/// The files in the slot, for people.
fn list(file: &File) -> io::Result<Vec<FileEntry>> {
    // A copy in memory, so that nothing can be written to the image through the FAT's code.
    let mut bytes = Vec::new();
    let mut from = file;
    from.rewind()?;
    from.read_to_end(&mut bytes)?;
    let fat = fatfs::FileSystem::new(io::Cursor::new(bytes), fatfs::FsOptions::new().update_accessed_date(false))?;
    let mut found = Vec::new();
    let mut pending = vec![(fat.root_dir(), String::new(), 0)];
    while let Some((folder, path, depth)) = pending.pop() {
        for entry in folder.iter().take(MAX_LISTED) {
            let entry = entry?;
            let name = entry.file_name();
            if entry.is_dir() && !name.starts_with('.') && depth < MAX_DEPTH {
                pending.push((entry.to_dir(), format!("{path}{name}/"), depth + 1));
            } else if entry.is_file() {
                // It is in memory already, with all the others.
                let mut content = Vec::new();
                entry.to_file().read_to_end(&mut content)?;
                let sha256 = hex(&Sha256::digest(&content));
                found.push(FileEntry { name: format!("{path}{name}"), bytes: entry.len(), sha256 });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}
