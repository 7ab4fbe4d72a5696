//! A real Linux NFS client judges our server, in an emulated machine.
//!
//! Debian's arm64 kernel (the appliance's own) starts with a small program as PID 1
//! (`guest/`), which mounts an overlay on ext4 that this process serves, and compares
//! every call on it with the same call on a local ext4. `tests/run nfs` runs it; what
//! each part checks is said in `guest/src`.
//!
//!     ROOTSTOCK_NFS_EVERY=1   all cases of the large tables, not one in so many
//!     ROOTSTOCK_NFS_FROM=7    other ones than with 0, which is the default

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
const EVERY: u64 = 60;

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

/// Disks that take no write to one block of their journal: which one, counted from its first.
const BAD_BLOCKS: [usize; 4] = [90, 333, 500, 777];

/// Small, with blocks of two sectors and the smallest journal that there is.
const FAILING: &str = "truncate -s 16M $disk; mkfs.ext4 -q -b 1024 -J size=1 -E lazy_itable_init=0 $disk
    debugfs -R 'blocks <8>' $disk 2>/dev/null";

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
    let guest = guest::build(&folder, |_| Ok(()))?;
    let store = lab::own_store(&folder)?;
    let mut lab = Lab::new(&folder, STORE)?;
    lab.serve()?;
    println!("{:6.1} s  the export is served; the client starts", began.elapsed().as_secs_f32());

    let every = number("ROOTSTOCK_NFS_EVERY", EVERY)?;
    let from = number("ROOTSTOCK_NFS_FROM", 0)?;
    let limit = if every == EVERY { LIMIT } else { WHOLE_LIMIT };
    let words = format!(
        "console=ttyAMA0 quiet panic=-1 judge.server={} judge.path={} judge.every={every} judge.from={from}",
        lab::SERVER,
        lab::PATH
    );
    let words = format!(
        "{words} judge.limited={} judge.quota={} judge.failing={}",
        lab::LIMITED_PATH,
        lab::QUOTA,
        BAD_BLOCKS.len()
    );
    let start = Start { kernel: &guest.kernel, initramfs: &guest.initramfs, words: &words };
    let mut command = virt(&lab.wire, lab::TAP, "52:54:00:78:00:02", &start);
    lab::give_reference(&mut command, &store);
    for (number, bad) in BAD_BLOCKS.iter().enumerate() {
        let disk = failing(&store, number);
        let blocks = lab::sh(&format!("disk={disk}\n{FAILING}"))?;
        let block = blocks.split_whitespace().nth(*bad).and_then(|block| block.parse::<u64>().ok());
        let sector = 2 * block.ok_or_else(|| format!("no journal in {disk}: {blocks:?}"))?;
        let fault = "file.inject-error.0.event=none,file.inject-error.0.iotype=write,file.inject-error.0.once=off";
        command.arg("-drive").arg(format!(
            "if=none,id=failing{number},format=raw,cache=unsafe,werror=report,file.driver=blkdebug,{fault},\
             file.inject-error.0.sector={sector},file.image.driver=file,file.image.filename={disk}"
        ));
        command.args(["-device", &format!("virtio-blk-pci,drive=failing{number},romfile=")]);
    }
    let mut machine = Machine::start("judge", &mut command, &folder)?;
    let mut acknowledged = Vec::new();
    let last = console::follow(&mut machine, began, limit, |line| {
        let file = line.strip_prefix("acknowledged ");
        acknowledged.extend(file.map(str::to_owned));
        file.is_none()
    });
    drop(machine);
    let kept = kept(&store, &acknowledged);
    lab.check_disk("upper.ext4")?;
    let last = last?;
    kept?;
    Ok(format!("{last}, in {:.0} s", began.elapsed().as_secs_f32()))
}

fn number(variable: &str, default: u64) -> Result<u64, String> {
    match std::env::var(variable) {
        Ok(text) => text.parse().map_err(|_| format!("{variable}={text} is no number")),
        Err(_) => Ok(default),
    }
}

fn failing(store: &Path, number: usize) -> String {
    store.join(format!("failing-{number}.ext4")).display().to_string()
}

/// What the client was told is on the failed disks, by lines of disk, worker and number of files, is there.
fn kept(store: &Path, acknowledged: &[String]) -> Result<(), String> {
    let at = store.join("failing");
    std::fs::create_dir_all(&at).map_err(|e| format!("{}: {e}", at.display()))?;
    let mut files = 0;
    for number in 0..BAD_BLOCKS.len() {
        lab::sh(&format!("mount -o loop {} {}", failing(store, number), at.display()))?;
        for line in acknowledged {
            let words: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let [disk, worker, count] = words[..] else { return Err(format!("the client said {line:?}")) };
            let there = |n: &u64| at.join(format!("w{worker}-{n}")).exists();
            if disk == number as u64 {
                files += count;
                let lost: Vec<_> = (0..count).filter(|n| !there(n)).collect();
                if !lost.is_empty() {
                    return Err(format!(
                        "disk {disk}, worker {worker}: {lost:?} of {count} acknowledged files are lost"
                    ));
                }
            }
        }
        lab::sh(&format!("umount {}", at.display()))?;
    }
    if files == 0 {
        return Err("nothing was acknowledged on the disks that fail".into());
    }
    println!("        {files} files that were acknowledged on disks that then failed are there");
    Ok(())
}
