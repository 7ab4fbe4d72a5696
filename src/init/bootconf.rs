//! The helper `rootstock bootconf`: finds the SD card's settings partition, copies
//! `rootstock.toml` and, if it is there, `update.pub` from it to `/run/rootstock`, and ends. I/O; which partition
//! it is decides `mbr.rs`, what the file says `config.rs`.
//!
//! The card is opened read-only, read for some kilobytes through a FAT reader
//! in user space, and closed: it is never mounted, never written, and can be
//! taken out afterwards. A process of its own, because a card's content is
//! whatever somebody put there: no partition table and no FAT can hurt PID 1.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fat;
use super::log::{now, say};
use super::mbr::{BootId, Extent, Mismatch, SECTOR_BYTES, find_partition};
use crate::config;
use crate::update::keys::{self, KEY_FILE};

/// The configuration's name on the boot partition and in `/run/rootstock`.
pub const CONFIG_FILE: &str = "rootstock.toml";
/// In `/run/rootstock`: the kernel's name of the boot disk, such as `mmcblk0`. The store leaves that disk alone.
pub const BOOT_DEVICE_FILE: &str = "boot-device";
/// In `/run/rootstock`: one line for a person, when the configuration could not be read.
pub const BOOT_PROBLEM_FILE: &str = "boot-problem";

/// How long the card is looked for. `serve` starts without it much earlier (`plan::BOOT_CONFIG_WAIT`) and is started
/// again when it comes late.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// The places it works on; a test has its own.
#[derive(Debug, Clone)]
pub struct Paths {
    pub sys_block: PathBuf,
    pub dev: PathBuf,
    pub run: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { sys_block: "/sys/block".into(), dev: "/dev".into(), run: super::plan::RUN_DIR.into() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot read {CONFIG_FILE} from the boot partition on {0}")]
    Fat(String, #[source] io::Error),
    #[error("the boot partition on {0} is damaged")]
    Damaged(String),
    #[error("{0} is the boot disk, but its table is wrong")]
    Table(String, #[source] Mismatch),
    #[error("no disk with the boot partition {0} after {1} s")]
    Nowhere(BootId, u64),
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// What the boot disk gave.
#[derive(Debug)]
pub struct Found {
    /// The kernel's name, such as `mmcblk0`.
    pub device: String,
    /// `None` when the file is not there. One byte longer than `config::MAX_FILE_BYTES` when it is too long.
    pub config: Result<Option<Vec<u8>>, Error>,
    /// The person's own key for updates.
    pub key: Option<Vec<u8>>,
}

/// Waits for the boot disk and writes what it says to `/run/rootstock`.
pub fn run(paths: &Paths, id: BootId) -> Result<(), Error> {
    let started = now();
    let mut finder = Finder::new(paths, id);
    while now().saturating_sub(started) < PATIENCE {
        if let Some(found) = finder.look() {
            return publish(paths, found);
        }
        std::thread::sleep(PAUSE);
    }
    let error = Error::Nowhere(id, PATIENCE.as_secs());
    write(paths, BOOT_PROBLEM_FILE, format!("{error}\n").as_bytes())?;
    Err(error)
}

/// Looks at disks as they appear, each once.
#[derive(Debug)]
pub struct Finder<'p> {
    paths: &'p Paths,
    id: BootId,
    /// Names and sizes that were looked at; a card put into a reader has another size than none.
    seen: HashSet<(String, u64)>,
    complained: HashSet<String>,
}

impl<'p> Finder<'p> {
    pub fn new(paths: &'p Paths, id: BootId) -> Self {
        Self { paths, id, seen: HashSet::new(), complained: HashSet::new() }
    }

    /// One look at the disks that are there now. A disk that cannot be read is looked at again the next time.
    pub fn look(&mut self) -> Option<Found> {
        for (name, bytes) in disks(&self.paths.sys_block) {
            if self.seen.contains(&(name.clone(), bytes)) {
                continue;
            }
            match self.examine(&name, bytes) {
                Ok(Some(extent)) => {
                    let path = self.paths.dev.join(&name);
                    // One more than allowed, so that `config::parse` says that the file is too long.
                    let config = read_file(&path, &name, extent, CONFIG_FILE, config::MAX_FILE_BYTES as u64 + 1);
                    let key = read_file(&path, &name, extent, KEY_FILE, keys::MAX_KEY_BYTES).unwrap_or_default();
                    return Some(Found { device: name, config, key });
                }
                Ok(None) => {
                    self.seen.insert((name, bytes));
                }
                Err(error @ Error::Table(..)) => {
                    return Some(Found { device: name, config: Err(error), key: None });
                }
                Err(error) => {
                    if self.complained.insert(name) {
                        say!("bootconf", "{}", super::chain(&error));
                    }
                }
            }
        }
        None
    }

    fn examine(&self, name: &str, bytes: u64) -> Result<Option<Extent>, Error> {
        let path = self.paths.dev.join(name);
        let mut sector = [0; SECTOR_BYTES];
        let mut read = || File::open(&path)?.read_exact_at(&mut sector, 0);
        read().map_err(|source| Error::Read(path, source))?;
        match find_partition(&sector, bytes, self.id) {
            Ok(extent) => Ok(Some(extent)),
            Err(Mismatch::NoTable | Mismatch::OtherDisk) => Ok(None),
            Err(mismatch) => Err(Error::Table(name.to_owned(), mismatch)),
        }
    }
}

/// The disks with their sizes in bytes, SD cards first: of two disks with one signature (an image written twice) the
/// firmware started from the card.
fn disks(sys_block: &Path) -> Vec<(String, u64)> {
    let made_by_software = ["loop", "ram", "zram", "dm-", "md", "nbd"];
    let mut disks: Vec<(String, u64)> = fs::read_dir(sys_block)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !made_by_software.iter().any(|prefix| name.starts_with(prefix)))
        .filter_map(|name| {
            // The unit of `size` is 512 bytes whatever the disk's sectors are.
            let sectors: u64 = fs::read_to_string(sys_block.join(&name).join("size")).ok()?.trim().parse().ok()?;
            (sectors > 0).then(|| (name, sectors.saturating_mul(512)))
        })
        .collect();
    disks.sort_by_key(|(name, _)| (!name.starts_with("mmcblk"), name.clone()));
    disks
}

/// Reads a file from the FAT file system in `extent`.
fn read_file(path: &Path, name: &str, extent: Extent, wanted: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    let file = File::open(path).map_err(|source| Error::Read(path.to_owned(), source))?;
    match fat::read_file(&file, extent, wanted, limit) {
        Ok(found) => Ok(found.map(|found| found.bytes)),
        Err(fat::FatError::Read(source)) => Err(Error::Fat(name.to_owned(), source)),
        Err(fat::FatError::Damaged) => Err(Error::Damaged(name.to_owned())),
    }
}

fn publish(paths: &Paths, found: Found) -> Result<(), Error> {
    write(paths, BOOT_DEVICE_FILE, format!("{}\n", found.device).as_bytes())?;
    if let Some(key) = &found.key {
        say!("bootconf", "{KEY_FILE} read from {}, {} bytes", found.device, key.len());
        write(paths, KEY_FILE, key)?;
    }
    match found.config {
        Ok(Some(bytes)) => {
            say!("bootconf", "{CONFIG_FILE} read from {}, {} bytes", found.device, bytes.len());
            write(paths, CONFIG_FILE, &bytes)
        }
        Ok(None) => {
            say!("bootconf", "{} has no {CONFIG_FILE}, so every value is the default", found.device);
            Ok(())
        }
        Err(error) => {
            // Not this program's failure: the appliance serves with its defaults, and says why.
            say!("bootconf", "{}", super::chain(&error));
            write(paths, BOOT_PROBLEM_FILE, format!("{}\n", super::chain(&error)).as_bytes())
        }
    }
}

/// By a rename, so that `serve` never reads half of it.
fn write(paths: &Paths, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = paths.run.join(name);
    let temporary = paths.run.join(format!("{name}.new"));
    let write = || {
        fs::create_dir_all(&paths.run)?;
        fs::write(&temporary, bytes)?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|source| Error::Write(path.clone(), source))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ID: BootId = BootId { signature: 0x5253_5430, partition: 1 };
    const START: u64 = 1 << 20;
    const LENGTH: u64 = 4 << 20;

    /// A machine with disks that are files.
    struct Lab {
        dir: tempfile::TempDir,
        paths: Paths,
    }

    impl Lab {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let [sys_block, dev, run] = ["block", "dev", "run"].map(|name| dir.path().join(name));
            fs::create_dir(&sys_block).unwrap();
            fs::create_dir(&dev).unwrap();
            Self { dir, paths: Paths { sys_block, dev, run } }
        }

        fn plug(&self, name: &str, disk: &[u8]) {
            fs::create_dir_all(self.paths.sys_block.join(name)).unwrap();
            fs::write(self.paths.sys_block.join(name).join("size"), format!("{}\n", disk.len() / 512)).unwrap();
            fs::write(self.paths.dev.join(name), disk).unwrap();
        }

        fn told(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.dir.path().join("run").join(name)).ok()
        }

        /// Looks once, publishes, and compares what `serve` will read: device, configuration, problem.
        fn check(&self, device: Option<&str>, config: Option<&str>, problem: Option<&str>) {
            if let Some(found) = Finder::new(&self.paths, ID).look() {
                publish(&self.paths, found).unwrap();
            }
            assert_eq!(self.told(BOOT_DEVICE_FILE).as_deref().map(str::trim_end), device);
            assert_eq!(self.told(CONFIG_FILE).as_deref(), config);
            assert_eq!(self.told(BOOT_PROBLEM_FILE).as_deref().map(str::trim_end), problem);
        }
    }

    /// A disk as `just image` makes it: MBR, one FAT partition, perhaps with the file.
    fn disk(file: Option<&[u8]>) -> Vec<u8> {
        let mut fat = io::Cursor::new(vec![0; LENGTH as usize]);
        fatfs::format_volume(&mut fat, fatfs::FormatVolumeOptions::new()).unwrap();
        let system = fatfs::FileSystem::new(&mut fat, fatfs::FsOptions::new()).unwrap();
        if let Some(bytes) = file {
            // As Windows may write it.
            system.root_dir().create_file("ROOTSTOCK.TOML").unwrap().write_all(bytes).unwrap();
        }
        drop(system);
        let mut disk = vec![0; START as usize];
        disk[440..444].copy_from_slice(&ID.signature.to_le_bytes());
        disk[450] = 0x0c;
        disk[454..458].copy_from_slice(&(START as u32 / 512).to_le_bytes());
        disk[458..462].copy_from_slice(&(LENGTH as u32 / 512).to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk.extend_from_slice(fat.get_ref());
        disk
    }

    #[test]
    fn the_file_is_copied_from_the_right_disk() {
        let lab = Lab::new();
        lab.plug("sda", &[0; 4096]);
        lab.plug("loop0", &disk(Some(b"wrong")));
        lab.plug("mmcblk0", &disk(Some(b"[enrol]\nwindow = 60\n")));
        lab.check(Some("mmcblk0"), Some("[enrol]\nwindow = 60\n"), None);
    }

    #[test]
    fn of_two_disks_with_one_signature_the_card_counts() {
        let lab = Lab::new();
        lab.plug("sda", &disk(Some(b"stick")));
        lab.plug("mmcblk0", &disk(Some(b"card")));
        lab.check(Some("mmcblk0"), Some("card"), None);
    }

    #[test]
    fn a_card_without_the_file_gives_the_defaults() {
        let lab = Lab::new();
        lab.plug("mmcblk0", &disk(None));
        lab.check(Some("mmcblk0"), None, None);
    }

    #[test]
    fn a_machine_without_the_card_waits() {
        let lab = Lab::new();
        lab.plug("sda", &[0xff; 2048]);
        lab.plug("sdb", b"");
        lab.check(None, None, None);
        let mut finder = Finder::new(&lab.paths, ID);
        assert!(finder.look().is_none());
        lab.plug("mmcblk0", &disk(None));
        assert_eq!(finder.look().unwrap().device, "mmcblk0");
    }

    #[test]
    fn a_file_that_is_too_long_is_passed_on_as_too_long() {
        let lab = Lab::new();
        lab.plug("mmcblk0", &disk(Some(&vec![b'#'; 3 * config::MAX_FILE_BYTES])));
        let found = Finder::new(&lab.paths, ID).look().unwrap();
        let bytes = found.config.unwrap().unwrap();
        assert_eq!(bytes.len(), config::MAX_FILE_BYTES + 1);
        assert_eq!(config::parse(&bytes).1.len(), 1);
    }

    #[test]
    fn a_damaged_card_is_told_and_never_written() {
        let lab = Lab::new();
        let mut broken = disk(Some(b"x"));
        broken[START as usize..START as usize + 512].fill(0);
        lab.plug("mmcblk0", &broken);
        let found = Finder::new(&lab.paths, ID).look().unwrap();
        assert!(found.config.is_err());
        publish(&lab.paths, found).unwrap();
        assert!(
            lab.told(BOOT_PROBLEM_FILE)
                .unwrap()
                .starts_with("cannot read rootstock.toml from the boot partition on mmcblk0")
        );
        assert_eq!(fs::read(lab.paths.dev.join("mmcblk0")).unwrap(), broken);
    }

    #[test]
    fn a_table_that_lies_is_told() {
        let lab = Lab::new();
        lab.plug("mmcblk0", &disk(None)[..2 << 20]);
        let problem = "mmcblk0 is the boot disk, but its table is wrong: partition 1 reaches beyond the disk's end";
        lab.check(Some("mmcblk0"), None, Some(problem));
    }

    #[test]
    fn a_directory_that_leads_in_circles_ends() {
        // A FAT32 root directory whose only cluster is followed by itself and whose entries never end.
        let mut disk = disk(Some(b"x"));
        let fat = &mut disk[START as usize..];
        let word = |fat: &[u8], at: usize| usize::from(u16::from_le_bytes([fat[at], fat[at + 1]]));
        let (reserved, fats, sectors) = (word(fat, 14), usize::from(fat[16]), word(fat, 22));
        assert!(sectors > 0, "FAT12 or FAT16");
        // Let every entry of the file's table be a cluster that follows itself, and the file endless.
        let root = (reserved + fats * sectors) * 512;
        let entry = (root..root + 4096).step_by(32).find(|&at| fat[at..].starts_with(b"ROOTST")).unwrap();
        fat[entry + 28..entry + 32].copy_from_slice(&u32::MAX.to_le_bytes());
        for table in 0..fats {
            // FAT12: cluster 2 is the low 12 bits at byte 3.
            let at = (reserved + table * sectors) * 512 + 3;
            fat[at..at + 2].copy_from_slice(&[0x02, 0xf0]);
        }
        let lab = Lab::new();
        lab.plug("mmcblk0", &disk);
        let found = Finder::new(&lab.paths, ID).look().unwrap();
        let length = found.config.ok().flatten().map(|bytes| bytes.len());
        assert!(length.is_none_or(|length| length <= config::MAX_FILE_BYTES + 1), "{length:?}");
    }

    #[test]
    fn random_damage_never_panics_or_hangs() {
        use proptest::prelude::*;
        let good = disk(Some(b"[enrol]\n"));
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(64));
        let damage = proptest::collection::vec((0..16_384_usize, any::<u8>()), 1..40);
        runner
            .run(&damage, |bytes| {
                let file = tempfile::NamedTempFile::new().unwrap();
                let mut disk = good.clone();
                for (at, byte) in bytes {
                    disk[START as usize + at] = byte;
                }
                fs::write(file.path(), &disk).unwrap();
                let _ = read_file(file.path(), "mmcblk0", Extent { start: START, length: LENGTH }, CONFIG_FILE, 1000);
                Ok(())
            })
            .unwrap();
    }
}
