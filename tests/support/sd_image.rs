//! The flashable image as a Pi's firmware sees it: the files of its first slot.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::command::run;

/// The folders of `board/` that each make an image.
pub const FAMILIES: [&str; 2] = ["pi3-4", "pi5"];

/// The image that `just image` made.
pub fn path() -> Result<PathBuf, String> {
    path_of(FAMILIES[0])
}

/// The image that `just image FAMILY` made.
pub fn path_of(family: &str) -> Result<PathBuf, String> {
    let name = match family {
        "pi3-4" => "image/rootstock.img".to_owned(),
        _ => format!("image-{family}/rootstock-{family}.img"),
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(name);
    if path.exists() { Ok(path) } else { Err(format!("{} is not there: run `just image {family}`", path.display())) }
}

/// Where the partitions begin, as `board/image` lays them out; `tests/sd_image_foreign.rs` asks sfdisk.
pub const SETTINGS_MIB: u64 = 1;
pub const SLOTS_MIB: [u64; 2] = [9, 73];

/// Copies a file of the first slot into a folder.
pub fn copy_file(image: &Path, name: &str, folder: &Path) -> Result<PathBuf, String> {
    let to = folder.join(name);
    let (at, from) = (format!("{}@@{}M", image.display(), SLOTS_MIB[0]), format!("::{name}"));
    let options = ["-n", "-o", "-i", &at, &from].map(OsStr::new);
    run("mcopy", &options.into_iter().chain([to.as_os_str()]).collect::<Vec<_>>())?;
    Ok(to)
}

/// What the firmware starts, by `config.txt`: kernel, initramfs and kernel words.
pub struct Boot {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub words: String,
}

pub fn boot(image: &Path, folder: &Path) -> Result<Boot, String> {
    let read = |name| {
        let path = copy_file(image, name, folder)?;
        fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
    };
    let config = read("config.txt")?;
    let setting = |key: &str| {
        let value =
            config.lines().find_map(|line| line.strip_prefix(key)).and_then(|rest| rest.split_whitespace().next());
        value.ok_or_else(|| format!("config.txt has no {key:?}"))
    };
    Ok(Boot {
        kernel: copy_file(image, setting("kernel=")?, folder)?,
        initramfs: copy_file(image, setting("initramfs ")?, folder)?,
        words: read("cmdline.txt")?.trim().to_owned(),
    })
}
