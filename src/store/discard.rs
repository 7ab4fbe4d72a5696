//! Removes folders that are no longer wanted, in the background: what an
//! ephemeral client wrote, which may be a million files.
//!
//! I/O; one thread. A folder is first renamed to a name that the next opening
//! knows as rubbish, so a power cut or a pulled stick only delays its end.
//! What it holds was made by a client, and a client's last calls may still be
//! at work in it: nothing is followed, and no depth of folders costs more
//! than three descriptors, since what lies deeper is first brought to the top.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

/// What is to be removed begins with this.
pub const DISCARDED: &str = ".discarded-";
/// A name taken by an earlier run is passed over; so many are tried.
const MAX_NAMES: u32 = 10_000;
/// How long the end waits for the thread: one removal on a slow stick.
const END_LIMIT: Duration = Duration::from_secs(2);

/// The thread that removes. Dropped, it stops where it is.
#[derive(Debug)]
pub struct Discarder {
    queue: Option<Sender<PathBuf>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Discarder {
    pub fn start() -> Self {
        let (queue, folders) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || run(&folders, &stopped);
        let thread = std::thread::Builder::new().name("discard".into()).spawn(run);
        // Without the thread the folders stay until the next opening.
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "nothing will be discarded")).ok();
        Self { queue: Some(queue), stop, thread }
    }

    /// Takes `folder` out of its place at once, and removes it later. One that
    /// is not there is no error.
    pub fn discard(&self, folder: &Path) -> io::Result<()> {
        let place = folder.parent().unwrap_or(folder);
        for number in 0..MAX_NAMES {
            let gone = place.join(format!("{DISCARDED}{number}"));
            if fs::symlink_metadata(&gone).is_ok() {
                continue;
            }
            return match fs::rename(folder, &gone) {
                Ok(()) => {
                    self.remove(gone);
                    Ok(())
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Goes on with what an earlier run left in `place`.
    pub fn resume(&self, place: &Path) {
        let Ok(entries) = fs::read_dir(place) else { return };
        for entry in entries.flatten().take(MAX_NAMES as usize) {
            if entry.file_name().to_string_lossy().starts_with(DISCARDED) {
                self.remove(entry.path());
            }
        }
    }

    fn remove(&self, folder: PathBuf) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(folder);
        }
    }
}

impl Drop for Discarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.queue = None;
        let Some(thread) = self.thread.take() else { return };
        let deadline = Instant::now() + END_LIMIT;
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

fn run(folders: &Receiver<PathBuf>, stop: &AtomicBool) {
    for folder in folders {
        let started = Instant::now();
        match remove(&folder, stop) {
            _ if stop.load(Ordering::Relaxed) => return,
            // Asked for twice, or its client's folder has another name now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(()) => {
                tracing::debug!(folder = %folder.display(), ms = started.elapsed().as_millis() as u64, "discarded")
            }
            Err(error) => tracing::warn!(folder = %folder.display(), %error, "could not be discarded"),
        }
    }
}

/// Removes a folder with all that is in it, or as much as `stop` lets.
fn remove(folder: &Path, stop: &AtomicBool) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
    let brought = AtomicU64::new(0);
    // Each round empties the folders that the round before brought to the top.
    // Somebody who makes folders as fast as this removes them ends with his last call.
    loop {
        let names = names(top.as_fd())?;
        if names.is_empty() {
            break;
        }
        for name in names {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match rustix::fs::unlinkat(&top, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => empty(top.as_fd(), &name, &brought, stop)?,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    fs::remove_dir(folder)
}

/// Removes a folder of the top one; its own folders are moved to the top.
fn empty(top: BorrowedFd<'_>, name: &CString, brought: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder: OwnedFd = rustix::fs::openat(top, name, flags, Mode::empty())?;
    loop {
        let names = names(folder.as_fd())?;
        if names.is_empty() {
            break;
        }
        for inner in names {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match rustix::fs::unlinkat(&folder, &inner, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
            // A plain removal is enough for an empty one.
            if rustix::fs::unlinkat(&folder, &inner, AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            bring(folder.as_fd(), &inner, top, brought)?;
        }
    }
    Ok(rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

/// Moves a folder to the top under a name that nothing has.
fn bring(from: BorrowedFd<'_>, name: &CString, top: BorrowedFd<'_>, brought: &AtomicU64) -> io::Result<()> {
    for _ in 0..MAX_NAMES {
        let number = brought.fetch_add(1, Ordering::Relaxed);
        let to = format!("{DISCARDED}{number}");
        match rustix::fs::renameat_with(from, name, top, to.as_str(), rustix::fs::RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Some names in a folder: so many at once that memory stays bounded.
fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    const MAX_AT_ONCE: usize = 4096;
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
        if names.len() >= MAX_AT_ONCE {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn wait_gone(path: &Path) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while fs::symlink_metadata(path).is_ok() {
            assert!(Instant::now() < deadline, "{} is still there", path.display());
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_folder_goes_with_all_that_is_in_it_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("ephemeral");
        fs::create_dir_all(folder.join("a/b/c/d")).unwrap();
        fs::create_dir_all(folder.join("a/.discarded-0/x")).unwrap();
        fs::create_dir_all(folder.join(".discarded-0/y")).unwrap();
        fs::write(folder.join("a/b/file"), "x").unwrap();
        fs::create_dir(place.path().join("kept")).unwrap();
        fs::write(place.path().join("kept/file"), "x").unwrap();
        symlink(place.path().join("kept"), folder.join("a/link")).unwrap();
        let discarder = Discarder::start();
        discarder.discard(&folder).unwrap();
        assert!(!folder.exists(), "it is out of its place at once");
        wait_gone(&place.path().join(format!("{DISCARDED}0")));
        assert!(place.path().join("kept/file").exists());
        discarder.discard(&folder).unwrap();
    }

    #[test]
    fn a_depth_that_no_path_could_name_goes_too() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("deep");
        fs::create_dir(&folder).unwrap();
        let mut at = rustix::fs::open(&folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let name = "d".repeat(200);
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::from_raw_mode(0o700)).unwrap();
            at = rustix::fs::openat(&at, name.as_str(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        remove(&folder, &AtomicBool::new(false)).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn what_an_earlier_run_left_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join(format!("{DISCARDED}7"));
        fs::create_dir_all(left.join("a")).unwrap();
        fs::create_dir(place.path().join("upper")).unwrap();
        let discarder = Discarder::start();
        discarder.resume(place.path());
        wait_gone(&left);
        assert!(place.path().join("upper").exists());
    }
}
