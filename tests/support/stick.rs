//! A USB stick as a disk image: an exFAT partition with files on it, and free space behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::command::run;

const MIB: u64 = 1 << 20;

/// What lies on the stick's first partition: a path in it, and the file here.
pub struct Content<'c> {
    pub to: &'c str,
    pub from: &'c Path,
}

/// Makes `stick` of `size` bytes: MBR, an exFAT partition of `exfat` bytes at 1 MiB, the rest unpartitioned.
///
/// A foreign writer (exfat-fuse) puts the files on it, since not every kernel has exFAT.
pub fn make(stick: &Path, size: u64, exfat: u64, content: &[Content<'_>]) -> Result<(), String> {
    let folder = stick.with_extension("parts");
    let _ = fs::remove_dir_all(&folder);
    let mount = folder.join("mnt");
    fs::create_dir_all(&mount).map_err(|e| format!("{}: {e}", mount.display()))?;
    let part = folder.join("exfat");
    sized(&part, exfat)?;
    run("mkfs.exfat", &["-L".as_ref(), "STICK".as_ref(), part.as_os_str()])?;
    if !content.is_empty() {
        // FUSE's block mounts take only a device.
        let device = run("losetup", &["--find".as_ref(), "--show".as_ref(), part.as_os_str()])?;
        // A read-only mark outlives the file that was last behind a loop device.
        run("blockdev", &["--setrw".as_ref(), device.trim().as_ref()])?;
        let filled = fill(device.trim().as_ref(), &mount, content);
        run("losetup", &["--detach".as_ref(), device.trim().as_ref()])?;
        filled?;
    }

    sized(stick, size)?;
    let table = format!("label: dos\nlabel-id: 0x57100001\nstart={}, size={}, type=7\n", MIB / 512, exfat / 512);
    super::command::run_with_input("sfdisk", &["--quiet".as_ref(), stick.as_os_str()], table.as_bytes())?;
    copy_sparse(&part, stick, MIB)?;
    fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))
}

/// Where the partitions of a stick begin, in bytes, in the order of their places; sfdisk reads them.
pub fn partitions(stick: &Path) -> Result<Vec<u64>, String> {
    let dump = run("sfdisk", &["--dump".as_ref(), stick.as_os_str()])?;
    let start = |line: &str| line.split_once("start=")?.1.split(',').next()?.trim().parse::<u64>().ok();
    let mut starts: Vec<u64> = dump.lines().filter_map(start).map(|sector| sector * 512).collect();
    starts.sort_unstable();
    Ok(starts)
}

/// Copies what begins at `start` on a stick into a file of its own, for checkers that take no offset.
pub fn extract(stick: &Path, start: u64, to: &Path) -> Result<(), String> {
    let (skip, input, output) =
        (format!("skip={start}"), format!("if={}", stick.display()), format!("of={}", to.display()));
    run("dd", &["bs=1M", "iflag=skip_bytes", &skip, "conv=sparse", "status=none", &input, &output].map(OsStr::new))
        .map(drop)
}

fn fill(device: &Path, mount: &Path, content: &[Content<'_>]) -> Result<(), String> {
    run("mount.exfat-fuse", &[device.as_os_str(), mount.as_os_str()])?;
    let copied = copy_all(mount, content);
    // Returns when the driver has written everything.
    run("umount", &[mount.as_os_str()])?;
    copied
}

fn copy_all(mount: &Path, content: &[Content<'_>]) -> Result<(), String> {
    for Content { to, from } in content {
        let to = mount.join(to);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        }
        fs::copy(from, &to).map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))?;
    }
    Ok(())
}

fn sized(path: &Path, bytes: u64) -> Result<(), String> {
    let make = || File::create(path)?.set_len(bytes);
    make().map_err(|e| format!("{}: {e}", path.display()))
}

/// Copies `from` into `to` at `offset`, leaving out blocks of zeros.
fn copy_sparse(from: &Path, to: &Path, offset: u64) -> Result<(), String> {
    let copy = || -> std::io::Result<()> {
        let mut from = File::open(from)?;
        let mut to = File::options().write(true).open(to)?;
        let mut block = vec![0; MIB as usize];
        let mut at = offset;
        loop {
            let count = from.read(&mut block)?;
            if count == 0 {
                return Ok(());
            }
            if block[..count].iter().any(|&byte| byte != 0) {
                to.seek(SeekFrom::Start(at))?;
                to.write_all(&block[..count])?;
            }
            at += count as u64;
        }
    };
    copy().map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))
}
