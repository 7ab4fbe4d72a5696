//! Update files for tests: the image's own slot under another version, signed.
//!
//! With `changes` an image's initramfs gets other files beside its own.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::command::run;
use super::sd_image;

/// What the update is to be.
pub struct Wanted<'w> {
    /// An OpenSSH private key.
    pub key: &'w Path,
    pub version: &'w str,
    /// The first word of `compatible` of the machine that takes it.
    pub board: &'w str,
    /// A folder of files that its system has in addition, and words for its kernel.
    pub changes: Option<(&'w Path, &'w str)>,
}

/// Makes a key pair in `folder`.
pub fn key(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let path = folder.join(name);
    tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", text(&path)?])?;
    Ok(path)
}

/// Puts a file onto the card's settings partition.
pub fn put_setting(card: &Path, from: &Path, name: &str) -> Result<(), String> {
    let at = format!("{}@@{}M", text(card)?, sd_image::SETTINGS_MIB);
    tool("mcopy", &["-o", "-i", &at, text(from)?, &format!("::{name}")]).map(drop)
}

/// Makes an update file in `folder` with the program `rootstock`.
pub fn make(rootstock: &str, image: &Path, folder: &Path, wanted: &Wanted<'_>) -> Result<PathBuf, String> {
    let at = |name: &str| folder.join(name);
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let slot = at("slot.img");
    fs::copy(image.with_file_name("slot.img"), &slot).map_err(failed)?;
    fs::write(at("version.txt"), format!("{}\n", wanted.version)).map_err(failed)?;
    fs::write(at("boards.txt"), format!("{}\n", wanted.board)).map_err(failed)?;
    let initramfs = sd_image::copy_file(image, "initramfs.img", folder)?;
    // A running system tells the version that its initramfs has.
    let overlay = at("overlay");
    fs::create_dir_all(overlay.join("etc/rootstock")).map_err(failed)?;
    fs::write(overlay.join("etc/rootstock/version"), format!("{}\n", wanted.version)).map_err(failed)?;
    add_to_initramfs(&initramfs, &overlay)?;
    let words = fs::read_to_string(sd_image::copy_file(image, "cmdline.txt", folder)?).map_err(failed)?;
    let more = wanted.changes.map_or("", |(_, words)| words);
    fs::write(at("cmdline.txt"), format!("{} {more}\n", words.trim())).map_err(failed)?;
    if let Some((files, _)) = wanted.changes {
        add_to_initramfs(&initramfs, files)?;
    }
    for name in ["version.txt", "boards.txt", "cmdline.txt", "initramfs.img"] {
        tool("mcopy", &["-o", "-i", text(&slot)?, text(&at(name))?, &format!("::{name}")])?;
    }
    let out = at("made");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).map_err(failed)?;
    tool(rootstock, &["update", "make", "--slot", text(&slot)?, "--key", text(wanted.key)?, "--out", text(&out)?])?;
    let made = fs::read_dir(&out).map_err(failed)?.flatten().map(|entry| entry.path()).next();
    made.ok_or_else(|| format!("no update was made in {}", out.display()))
}

/// Lets the files of `folder` replace and join those of an initramfs: a second archive behind the first does.
pub fn add_to_initramfs(initramfs: &Path, folder: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", initramfs.display());
    // The kernel takes a further archive only where it begins at a multiple of 4.
    let bytes = fs::metadata(initramfs).map_err(failed)?.len().next_multiple_of(4);
    fs::File::options().write(true).open(initramfs).and_then(|file| file.set_len(bytes)).map_err(failed)?;
    let (from, to) = (text(folder)?, text(initramfs)?);
    let pack = format!("cd {from} && find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0 >> {to}");
    tool("sh", &["-c", &pack]).map(drop)
}

pub fn tool(program: &str, arguments: &[&str]) -> Result<String, String> {
    run(program, &arguments.iter().map(OsStr::new).collect::<Vec<_>>())
}

pub fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{} is no text", path.display()))
}
