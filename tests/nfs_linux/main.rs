//! A real Linux NFS client judges our server, in an emulated machine.
//!
//! Debian's arm64 kernel (the appliance's own) starts with a small program as PID 1
//! (`guest/`), which mounts an overlay on ext4 that this process serves, and compares
//! every call on it with the same call on a local ext4. `tests/run nfs` runs it; what
//! each part checks is said in `guest/src`.
//!
//!     ROOTSTOCK_NFS_EVERY=1   all cases of the large tables, not one in so many

#[path = "../support/mod.rs"]
mod support;

mod console;
mod guest;
mod lab;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lab::Lab;
use support::qemu::{Machine, Start, virt};

/// One case in so many of the tables that are products: with all of them emulation takes hours. 2,200 checks
/// took 310 s on two cores that fifteen others wanted (2026-11-22), 2,425 with the scenes 534 s (2026-11-29, load 12).
const EVERY: &str = "60";

/// Emulation on busy cores is slow: a limit only tells "hangs" from "slow".
const LIMIT: Duration = Duration::from_secs(900);
const WHOLE_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Many inodes in the lower, for a directory that every client of an old image has: a large one. And the client's local ext4.
const STORE: &str = "truncate -s 256M image.ext4; truncate -s 24G upper.ext4; truncate -s 512M reference.ext4
    mkfs.ext4 -q -N 131072 image.ext4; mkfs.ext4 -q -E lazy_itable_init=1 upper.ext4; mkfs.ext4 -q reference.ext4
    mount -o loop image.ext4 image
    mkdir image/many; cd image/many; seq -f 'lower-entry-%06.0f' 60000 | xargs touch; cd ../..
    for i in $(seq 300); do echo lower $i >image/lower-$i; done; mkdir image/tree image/tree/below
    cp image/lower-1 image/tree/below/file; ln image/lower-2 image/lower-hard; chmod 4755 image/lower-3
    umount image; mount -o loop upper.ext4 upper";

fn main() -> ExitCode {
    match judge() {
        Ok(summary) => {
            println!("\n{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nnfs_linux failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn judge() -> Result<String, String> {
    let began = Instant::now();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nfs_linux");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let guest = guest::build(&folder)?;
    let store = lab::own_store(&folder)?;
    let lab = Lab::new(&folder, STORE)?;
    println!("{:6.1} s  the export is served; the client starts", began.elapsed().as_secs_f32());

    let every = std::env::var("ROOTSTOCK_NFS_EVERY").unwrap_or_else(|_| EVERY.to_owned());
    let limit = if every == EVERY { LIMIT } else { WHOLE_LIMIT };
    let words = format!(
        "console=ttyAMA0 quiet panic=-1 judge.server={} judge.path={} judge.every={every} judge.limited={} judge.quota={}",
        lab::SERVER,
        lab::PATH,
        lab::LIMITED_PATH,
        lab::QUOTA
    );
    let start = Start { kernel: &guest.kernel, initramfs: &guest.initramfs, words: &words };
    let mut command = virt(&lab.wire, lab::TAP, "52:54:00:78:00:02", &start);
    command
        .args(["-monitor", "none", "-drive"])
        .arg(format!("if=none,id=local,format=raw,cache=unsafe,file={}", store.join("reference.ext4").display()))
        .args(["-device", "virtio-blk-pci,drive=local,romfile="]);
    let mut machine = Machine::start("judge", &mut command, &folder)?;
    let last = console::follow(&mut machine, began, limit, |_| {});
    drop(machine);
    lab.check_disk("upper.ext4")?;
    let last = last?;
    Ok(format!("{last}, in {:.0} s", began.elapsed().as_secs_f32()))
}
