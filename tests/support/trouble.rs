//! `tests/trouble/program.c` for an emulated Pi: what goes wrong there, by its name.

use std::fs;
use std::path::{Path, PathBuf};

use super::update_file::{text, tool};

/// A folder of files for an initramfs with the program as `/bin/NAME` for each of the names.
pub fn files(folder: &Path, names: &[&str]) -> Result<PathBuf, String> {
    let files = folder.join("trouble");
    let bin = files.join("bin");
    fs::create_dir_all(&bin).map_err(|e| format!("{}: {e}", bin.display()))?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trouble/program.c");
    for name in names {
        let options = ["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-s", "-o"];
        tool("aarch64-linux-gnu-gcc", &[&options[..], &[text(&bin.join(name))?, text(&source)?]].concat())?;
    }
    Ok(files)
}
