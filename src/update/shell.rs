//! The thread of `serve` that looks at update files, writes the other slot, and keeps
//! a system on trial. I/O: the stick's files, the card, the services for their test.
//!
//! It decides nothing: control says when. The card is opened for writing only between
//! a person's press and the restart, and for the one sector by which a trial is kept.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::card::{self, Layout};
use super::command::{head, payload};
use super::container::{ContainerError, Header, Manifest, Version};
use super::judge::{Here, Refusal, Step, judge};
use super::keys::{self, KEY_FILE};
use super::trial::{KEPT_FILE, Told, compatible};
use super::{Slot, selftest};
use crate::store::atomic;

const IMAGE_FOLDER: &str = "/etc/rootstock";
/// The image's own version; a program that was built without an image has its crate's.
const VERSION_FILE: &str = "version";
const MAX_VERSION_BYTES: u64 = 64;

#[derive(Debug, Clone)]
pub struct Options {
    /// PID 1's folder: the person's own key, and the mark of a kept trial.
    pub run: PathBuf,
    /// The SD card; `None` where it was not found.
    pub card: Option<PathBuf>,
    /// Where the services are asked.
    pub address: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// These update files lie on sticks now.
    Look(Vec<PathBuf>),
    /// The person confirmed what was offered last.
    Install,
    /// Everything that a trial waits for is there: test, and keep this system.
    Keep,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The image that runs; told once, first.
    Here {
        version: String,
    },
    /// This start is a trial.
    OnTrial {
        version: String,
    },
    Offered(Offer),
    /// Nothing to be installed is there any more.
    Withdrawn,
    /// A file that is no update for us.
    Refused {
        file: String,
        message: String,
        action: String,
    },
    /// Of the whole work, 0 to 1000; at most some dozens in all.
    Progress {
        per_mille: u16,
    },
    /// The other slot is whole: restart to try it.
    Written {
        version: String,
    },
    Failed {
        message: String,
        action: String,
    },
    Kept {
        version: String,
    },
    /// The services did not pass; they are asked again as long as PID 1 lets the trial last.
    TestFailed {
        message: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub version: String,
    pub step: Step,
    /// The other slot holds it already: it was tried, and did not pass.
    pub tried: bool,
}

pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

pub struct Handle(Sender<Command>);

impl Handle {
    /// Queues a command; never blocks.
    pub fn send(&self, command: Command) {
        let _ = self.0.send(command);
    }
}

pub fn start(options: Options, sink: Sink) -> std::io::Result<Handle> {
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("update".to_owned()).spawn(move || Shell::new(options, sink).run(&receiver))?;
    Ok(Handle(sender))
}

/// The image's version, where there is an image.
pub fn image_version() -> Option<String> {
    let text = atomic::read_bounded(&Path::new(IMAGE_FOLDER).join(VERSION_FILE), MAX_VERSION_BYTES).unwrap_or_default();
    let version = String::from_utf8_lossy(&text).trim().parse::<Version>();
    version.ok().map(|version| version.to_string())
}

/// The version that runs.
pub fn version() -> String {
    image_version().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned())
}

/// Why a file is not offered, and what a person does about it.
struct Refused {
    message: String,
    action: &'static str,
    /// It is good, and another Pi's.
    foreign: bool,
}

impl From<String> for Refused {
    fn from(message: String) -> Self {
        Self { message, action: "Copy it anew, or delete it", foreign: false }
    }
}

impl From<ContainerError> for Refused {
    fn from(error: ContainerError) -> Self {
        Self { message: error.to_string(), action: error.action(), foreign: false }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let foreign = matches!(refusal, Refusal::WrongBoard { .. });
        Self { message: refusal.to_string(), action: refusal.action(), foreign }
    }
}

struct Shell {
    options: Options,
    sink: Sink,
    version: String,
    running: Option<Slot>,
    on_trial: bool,
    /// All that lie on sticks.
    files: Vec<PathBuf>,
    /// What was offered: its file.
    offered: Option<PathBuf>,
}

impl Shell {
    fn new(options: Options, sink: Sink) -> Self {
        let told = Told::here();
        let (running, on_trial) = (told.running, told.on_trial);
        Self { options, sink, version: version(), running, on_trial, files: Vec::new(), offered: None }
    }

    fn run(mut self, commands: &Receiver<Command>) {
        tracing::info!(version = self.version, slot = ?self.running, trial = self.on_trial, "update");
        (self.sink)(Event::Here { version: self.version.clone() });
        if self.on_trial {
            // After a restart of `serve` alone, or where somebody switched by hand, nothing is left to keep.
            match self.layout() {
                Ok(layout) if Some(layout.autoboot.default) == self.running => self.on_trial = false,
                _ => (self.sink)(Event::OnTrial { version: self.version.clone() }),
            }
        }
        while let Ok(command) = commands.recv() {
            match command {
                Command::Look(files) => {
                    self.files = files;
                    self.look();
                }
                Command::Install => self.install(),
                Command::Keep => self.keep(),
            }
        }
    }

    fn card(&self, write: bool) -> Result<File, String> {
        let path = self.options.card.as_ref().ok_or("The SD card was not found")?;
        File::options()
            .read(true)
            .write(write)
            .open(path)
            .map_err(|error| format!("The SD card cannot be opened: {error}"))
    }

    fn layout(&self) -> Result<Layout, String> {
        Layout::read(&self.card(false)?).map_err(|error| chain(&error))
    }

    fn keys(&self) -> Result<Vec<ssh_key::PublicKey>, String> {
        let mut found = Vec::new();
        for folder in [Path::new(IMAGE_FOLDER), &self.options.run] {
            match atomic::read_bounded(&folder.join(KEY_FILE), keys::MAX_KEY_BYTES) {
                Ok(text) => found.push(keys::public(&text).map_err(|error| error.to_string())?),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{KEY_FILE}: {error}")),
            }
        }
        Ok(found)
    }

    /// Offers the best of the files, and tells of those that are none for us.
    /// While a system is on trial nothing is offered.
    fn look(&mut self) {
        let mut best: Option<(PathBuf, Manifest, Step)> = None;
        let mut refused = Vec::new();
        for path in self.files.iter().filter(|_| !self.on_trial) {
            match self.judge(path) {
                Ok(None) => {}
                Ok(Some((manifest, step))) => {
                    let better = |(_, other, _): &(PathBuf, Manifest, Step)| manifest.version() > other.version();
                    if best.as_ref().is_none_or(better) {
                        best = Some((path.clone(), manifest, step));
                    }
                }
                Err(why) => refused.push((name(path), why)),
            }
        }
        // A stick may carry the files for all of a person's appliances: what is another's is no news beside our own.
        for (file, why) in refused.into_iter().filter(|(_, why)| !why.foreign || best.is_none()) {
            let (message, action) = (format!("{file}: {}", why.message), why.action.to_owned());
            (self.sink)(Event::Refused { message, file, action });
        }
        self.offered = best.as_ref().map(|(path, ..)| path.clone());
        (self.sink)(match best {
            None => Event::Withdrawn,
            Some((_, manifest, step)) => {
                let tried = self.offered.as_ref().and_then(|path| self.other_holds(path, &manifest)).unwrap_or(false);
                Event::Offered(Offer { version: manifest.version, step, tried })
            }
        });
    }

    fn other_holds(&self, path: &Path, manifest: &Manifest) -> Option<bool> {
        let card = self.card(false).ok()?;
        let slot = Layout::read(&card).ok()?.slot(self.running?.other());
        let head = head(path).ok()?;
        let payload = payload(path, &Header::parse(&head).ok()?, manifest.slot_bytes).ok()?;
        let begins = card::begins_with(&card, slot, payload);
        Some(begins && card::holds(&card, slot, manifest.slot_bytes, &manifest.sha256))
    }

    /// `None`: it is what runs.
    fn judge(&self, path: &Path) -> Result<Option<(Manifest, Step)>, Refused> {
        let head = head(path).map_err(|error| chain(&error))?;
        let header = Header::parse(&head)?;
        let manifest = header.verify(&self.keys()?)?;
        let here = Here {
            version: self.version.parse().map_err(|_| "this system has no version".to_owned())?,
            compatible: compatible(),
            running: self.running,
            on_trial: self.on_trial,
        };
        let slot_bytes = match self.running {
            Some(slot) => self.layout()?.slot(slot.other()).length,
            None => 0,
        };
        match judge(&here, &manifest, slot_bytes) {
            None => Ok(None),
            Some(Err(refusal)) => Err(refusal.into()),
            // Its length tells a cut file before anybody presses.
            Some(Ok(step)) => match payload(path, &header, manifest.slot_bytes) {
                Ok(_) => Ok(Some((manifest, step))),
                Err(error) => Err(chain(&error).into()),
            },
        }
    }

    fn install(&mut self) {
        let Some(path) = self.offered.clone() else { return };
        match self.try_install(&path) {
            Ok(version) => (self.sink)(Event::Written { version }),
            Err(message) => {
                let action = "What runs was not touched. Copy the update anew".to_owned();
                (self.sink)(Event::Failed { message, action });
            }
        }
    }

    /// Reads the file twice: whole, to its hash, before the first byte is written; then into the slot.
    fn try_install(&self, path: &Path) -> Result<String, String> {
        let Some((manifest, _)) = self.judge(path).map_err(|why| why.message)? else {
            return Err("this version runs already".to_owned());
        };
        let running = self.running.ok_or("the running slot is unknown")?;
        let (bytes, sha256) = (manifest.slot_bytes, &manifest.sha256);
        let head = head(path).map_err(|error| chain(&error))?;
        let header = Header::parse(&head).map_err(|error| error.to_string())?;
        let mut file = payload(path, &header, bytes).map_err(|error| chain(&error))?;
        let progress = |from: u64, share: u64, done: u64| {
            let per_mille = u16::try_from(from + done.saturating_mul(share) / bytes.max(1)).unwrap_or(1000);
            (self.sink)(Event::Progress { per_mille });
        };
        let mut told = 0;
        let counted = Counted {
            from: &mut file,
            read: 0,
            told: &mut |read| {
                if read / (4 << 20) != told {
                    told = read / (4 << 20);
                    progress(0, 200, read);
                }
            },
        };
        card::check_payload(counted, bytes, sha256).map_err(|error| chain(&error))?;
        file.seek(std::io::SeekFrom::Start(header.payload_at)).map_err(|error| error.to_string())?;
        let card = self.card(true)?;
        card::write_slot(&card, running, file, bytes, sha256, |done| progress(200, 700, done))
            .map_err(|error| chain(&error))?;
        Ok(manifest.version)
    }

    fn keep(&mut self) {
        if !self.on_trial {
            return;
        }
        if let Err(message) = selftest::run(self.options.address) {
            (self.sink)(Event::TestFailed { message });
            return;
        }
        let switch = || {
            let running = self.running.ok_or("the running slot is unknown")?;
            card::switch_to(&self.card(true)?, running).map_err(|error| chain(&error))
        };
        match switch() {
            Ok(()) => {
                self.on_trial = false;
                if let Err(error) = std::fs::write(self.options.run.join(KEPT_FILE), &self.version) {
                    tracing::warn!(%error, "PID 1 cannot be told that the trial is over");
                }
                (self.sink)(Event::Kept { version: self.version.clone() });
                self.look();
            }
            Err(message) => (self.sink)(Event::TestFailed { message }),
        }
    }
}

/// Tells how much was read.
struct Counted<'c, R> {
    from: R,
    read: u64,
    told: &'c mut dyn FnMut(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.read += count as u64;
        (self.told)(self.read);
        Ok(count)
    }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// An error with its causes, as one line; a command's error names the whole path, which is nobody's here.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
