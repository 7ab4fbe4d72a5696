//! What the emulated client starts: the appliance's kernel, and an initramfs of
//! the judging program and the modules it mounts with.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::command::run;

/// Where the modules, and what they need, lie in the kernel's package.
const FOLDERS: [&str; 9] =
    ["fs", "net/sunrpc", "net/core", "lib", "crypto", "arch", "drivers/virtio", "drivers/net", "drivers/block"];
const MODULES: [&str; 7] = ["virtio_pci", "virtio_net", "virtio_blk", "crc32c_generic", "ext4", "nfs", "nfsv3"];

pub struct Guest {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}

/// Builds the program and packs the initramfs; what the package gives is unpacked once. `fill` puts into the initramfs
/// what else a test wants there.
pub fn build(folder: &Path, fill: impl FnOnce(&Path) -> Result<(), String>) -> Result<Guest, String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = |name: &str| top.join("board").join(name);
    let package = Path::new("tests/nfs_linux/guest");
    run(
        script("cross").to_str().unwrap_or_default(),
        &["--package".as_ref(), package.as_os_str(), "--quiet".as_ref()],
    )?;
    let program = top.join("target/cross/aarch64-unknown-linux-gnu/release/nfs-judge");

    let lock = top.join("board/pi3-4/packages.lock");
    let fetched = run(script("fetch").to_str().unwrap_or_default(), &[lock.as_os_str()])?;
    // Lines such as `linux-image-arm64@ linux-image-6.1.0-1-arm64 VERSION FILE`.
    let line = fetched.lines().find(|line| line.starts_with("linux-image")).ok_or("board/fetch names no kernel")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, name, version, file] = words[..] else { return Err(format!("board/fetch said {line:?}")) };
    let unpacked = folder.join(format!("{name}_{version}"));
    if !unpacked.exists() {
        unpack(Path::new(file), &unpacked)?;
    }
    let release = name.trim_start_matches("linux-image-");
    let root = folder.join("initramfs");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).map_err(io(&root))?;
    fill(&root)?;
    for inside in ["modules", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(inside)).map_err(io(&root))?;
    }
    fs::copy(&program, root.join("init")).map_err(io(&program))?;
    let list = modules(&unpacked, release, &root)?;
    fs::write(root.join("modules.list"), list).map_err(io(&root))?;
    let initramfs = folder.join("initramfs.cpio");
    run(
        "sh",
        &[
            "-ec".as_ref(),
            "cd \"$1\"; find . -mindepth 1 | cpio --create --format=newc --quiet >\"$2\"".as_ref(),
            "sh".as_ref(),
            root.as_os_str(),
            initramfs.as_os_str(),
        ],
    )?;
    Ok(Guest { kernel: unpacked.join(format!("boot/vmlinuz-{release}")), initramfs })
}

fn unpack(package: &Path, to: &Path) -> Result<(), String> {
    let new = to.with_extension("new");
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new).map_err(io(&new))?;
    let mut wanted = vec!["./boot/vmlinuz-*".to_owned(), "./lib/modules/*/modules.*".to_owned()];
    wanted.extend(FOLDERS.iter().map(|folder| format!("./lib/modules/*/kernel/{folder}/*")));
    let script =
        "package=$1; to=$2; shift 2; dpkg-deb --fsys-tarfile \"$package\" | tar -x -C \"$to\" --wildcards \"$@\"";
    let mut arguments: Vec<&OsStr> =
        vec!["-ec".as_ref(), script.as_ref(), "sh".as_ref(), package.as_os_str(), new.as_os_str()];
    arguments.extend(wanted.iter().map(OsStr::new));
    run("sh", &arguments)?;
    fs::rename(&new, to).map_err(io(to))
}

/// Copies the modules and gives their paths in the order that they load in.
fn modules(unpacked: &Path, release: &str, root: &Path) -> Result<String, String> {
    run("/sbin/depmod", &["-b".as_ref(), unpacked.as_os_str(), release.as_ref()])?;
    let mut list = String::new();
    for name in MODULES {
        let arguments: [&OsStr; 6] = [
            "-d".as_ref(),
            unpacked.as_os_str(),
            "-S".as_ref(),
            release.as_ref(),
            "--show-depends".as_ref(),
            name.as_ref(),
        ];
        for line in run("/sbin/modprobe", &arguments)?.lines() {
            let Some(path) = line.trim().strip_prefix("insmod ") else { continue };
            let path = Path::new(path.split_whitespace().next().unwrap_or_default());
            let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let entry = format!("/modules/{file}\n");
            if !list.contains(&entry) {
                fs::copy(path, root.join("modules").join(file)).map_err(io(path))?;
                list += &entry;
            }
        }
    }
    Ok(list)
}
