//! Loads kernel modules in the order that `modules.rs` gives. I/O.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::log::say;
use super::modules::{MAX_TEXT_BYTES, Modules, Texts, name_of};
use super::words;

/// `MODULE_INIT_COMPRESSED_FILE` of finit_module(2): the kernel unpacks `.ko.xz` and `.ko.zst` itself (6.1: where
/// CONFIG_MODULE_DECOMPRESS is set).
const COMPRESSED: i32 = 4;
/// A module that failed this often is left alone: its device announces itself again and again.
const MAX_FAILURES: u8 = 3;

/// usb-storage waits a second before it asks a stick anything, for sticks that were plugged in just now (`delay_use`).
/// One that is found at the start had its power while the firmware and the kernel came up, so it is asked at once.
const SETTLED: (&str, &str) = ("usb_storage", "delay_use=0");
/// How long after our start a stick counts as one that was there.
const START: Duration = Duration::from_secs(10);
/// Where [`Loader::settle`] gives later sticks their second.
const DELAY: &str = "/sys/module/usb_storage/parameters/delay_use";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot load {name} from {}", .path.display())]
    Load { name: String, path: PathBuf, source: io::Error },
    #[error("no module {0} in this image")]
    Unknown(String),
}

/// Loads modules, each at most once.
#[derive(Debug, Clone)]
pub struct Loader {
    dir: PathBuf,
    modules: Modules,
    cmdline: String,
    loaded: HashSet<String>,
    failures: HashMap<String, u8>,
    since: Instant,
}

impl Loader {
    /// Reads what depmod wrote to `dir` and what the kernel has loaded already.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let dep = read_text(&dir.join("modules.dep"))?;
        // An image without soft dependencies or built-in modules has empty files or none.
        let [alias, softdep, builtin] = ["alias", "softdep", "builtin"]
            .map(|end| read_text(&dir.join(format!("modules.{end}"))).unwrap_or_default());
        let texts = Texts { dep: &dep, alias: &alias, softdep: &softdep, builtin: &builtin };
        let loaded = read_text(Path::new("/proc/modules")).unwrap_or_default();
        Ok(Self {
            dir: dir.to_owned(),
            modules: Modules::parse(texts),
            cmdline: read_text(Path::new("/proc/cmdline")).unwrap_or_default(),
            loaded: loaded.lines().filter_map(|line| line.split(' ').next()).map(name_of).collect(),
            failures: HashMap::new(),
            since: Instant::now(),
        })
    }

    /// How many modules the image has.
    pub fn available(&self) -> usize {
        self.modules.len()
    }

    /// The modules for a device that are not loaded yet, with their paths.
    pub fn wanted(&self, modalias: &str) -> Vec<(String, PathBuf)> {
        let names = self.modules.for_alias(modalias).into_iter().filter(|name| !self.loaded.contains(*name));
        names
            .filter_map(|name| self.modules.load_order(name).into_iter().find(|load| load.name == name))
            .map(|load| (load.name.to_owned(), PathBuf::from(load.path)))
            .collect()
    }

    /// Takes over what another one has loaded meanwhile.
    pub fn know(&mut self, other: &Self) {
        self.loaded.extend(other.loaded.iter().cloned());
    }

    /// Where the image has a module, below its directory.
    pub fn path_of(&self, name: &str) -> Option<PathBuf> {
        let name = name_of(name);
        let order = self.modules.load_order(&name);
        order.into_iter().find(|load| load.name == name).map(|load| PathBuf::from(load.path))
    }

    /// Loads `name` (a module's name or an alias) and what it needs; each failure is logged and the rest is loaded.
    /// Returns how many modules are new in the kernel.
    pub fn load(&mut self, name: &str) -> usize {
        let order: Vec<(String, PathBuf)> = {
            let order = self.modules.load_order(name);
            order.iter().map(|load| (load.name.to_owned(), self.dir.join(load.path))).collect()
        };
        if order.is_empty() && !self.modules.knows(name) {
            say!("plug", "{}", Error::Unknown(name.to_owned()));
        }
        let mut new = 0;
        for (name, path) in order {
            if self.loaded.contains(&name) || self.failures.get(&name).is_some_and(|&count| count >= MAX_FAILURES) {
                continue;
            }
            // Another thread was faster. Where it is still at it, the kernel lets us wait.
            if is_live(&name) {
                self.loaded.insert(name);
                continue;
            }
            match self.insert(&name, &path) {
                Ok(()) => {
                    new += 1;
                    self.loaded.insert(name);
                }
                Err(error) => {
                    let count = self.failures.entry(name).or_default();
                    *count = count.saturating_add(1);
                    say!("plug", "{}", super::chain(&error));
                }
            }
        }
        new
    }

    fn insert(&self, name: &str, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::Load { name: name.to_owned(), path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let parameters = CString::new(self.parameters(name)).unwrap_or_default();
        let plain = path.extension().is_some_and(|end| end == "ko");
        match rustix::system::finit_module(&file, &parameters, if plain { 0 } else { COMPRESSED }) {
            // Somebody else was faster, or it is built in.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

impl Loader {
    /// A person's own words come last, and so they count.
    fn parameters(&self, name: &str) -> String {
        let told = words::module_parameters(&self.cmdline, name);
        let ours = if name == SETTLED.0 && self.since.elapsed() < START { SETTLED.1 } else { "" };
        [ours, &told].into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Waits until the start is over: a stick that comes from then on was just plugged in.
    pub fn settle(&self) {
        std::thread::sleep(START.saturating_sub(self.since.elapsed()));
        let told = words::module_parameters(&self.cmdline, SETTLED.0);
        // Without the file the module is not loaded yet, and will not be told to hurry.
        if told.contains("delay_use=") || !Path::new(DELAY).exists() {
            return;
        }
        if let Err(error) = fs::write(DELAY, "1") {
            say!("plug", "{DELAY}: {error}");
        }
    }
}

/// Whether the kernel has it. Asking costs little; to be refused costs as much as loading, for the whole file is read
/// and its signature checked before.
fn is_live(name: &str) -> bool {
    let state = Path::new("/sys/module").join(name).join("initstate");
    fs::read(state).is_ok_and(|state| state.trim_ascii() == b"live")
}

/// `/lib/modules/` and the running kernel's release.
pub fn modules_dir() -> PathBuf {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    Path::new("/lib/modules").join(release)
}

fn read_text(path: &Path) -> Result<String, Error> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_TEXT_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_err(|source| Error::Read(path.to_owned(), source))
}

/// The modules that no device asks for: names, one a line, `#` starts a comment.
pub fn read_list(path: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(path)?;
    let names = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("modules.dep", "kernel/a-b.ko: kernel/c.ko\nkernel/c.ko:\n");
        write("modules.alias", "alias usb:v1* a_b\nalias usb:v12* c\n");
        dir
    }

    #[test]
    fn a_device_is_told_the_modules_that_are_missing() {
        let dir = image();
        let mut loader = Loader::open(dir.path()).unwrap();
        let names = |loader: &Loader| -> Vec<String> { loader.wanted("usb:v12").into_iter().map(|it| it.0).collect() };
        assert_eq!(loader.available(), 2);
        assert_eq!(names(&loader), ["a_b", "c"]);
        loader.loaded.insert("c".to_owned());
        assert_eq!(names(&loader), ["a_b"]);
    }

    #[test]
    fn a_module_that_cannot_be_loaded_is_left_alone_after_some_tries() {
        let dir = image();
        let mut loader = Loader::open(dir.path()).unwrap();
        // No such files: every try fails before it reaches the kernel.
        for _ in 0..10 {
            assert_eq!(loader.load("a-b"), 0);
        }
        assert_eq!(loader.failures["a_b"], MAX_FAILURES);
        assert_eq!(loader.load("nonsense"), 0);
    }

    #[test]
    fn a_stick_of_the_start_is_asked_at_once_unless_a_person_says_otherwise() {
        let dir = image();
        let mut loader = Loader::open(dir.path()).unwrap();
        loader.cmdline.clear();
        assert_eq!(loader.parameters("usb_storage"), "delay_use=0");
        assert_eq!(loader.parameters("a_b"), "");
        loader.cmdline = "quiet usb-storage.delay_use=5".to_owned();
        assert_eq!(loader.parameters("usb_storage"), "delay_use=0 delay_use=5");
        loader.since -= START;
        assert_eq!(loader.parameters("usb_storage"), "delay_use=5");
    }

    #[test]
    fn an_image_without_modules_is_told() {
        let error = Loader::open(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/modules.dep");
    }

    #[test]
    fn the_list_is_names_with_reasons() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# for the store\noverlay  # client roots\n\n  loop#images\n").unwrap();
        assert_eq!(read_list(file.path()).unwrap(), ["overlay", "loop"]);
    }
}
