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

mod guest;
mod lab;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lab::Lab;
use support::qemu::{Machine, Start, virt};

/// One case in so many of the tables that are products: with all of them emulation takes hours. 2,200 checks
/// took 310 s on two cores that fifteen others wanted (2026-11-22).
const EVERY: &str = "60";

/// Emulation on busy cores is slow: a limit only tells "hangs" from "slow".
const LIMIT: Duration = Duration::from_secs(900);
const WHOLE_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// What the client's kernel says when it finds the server wrong.
const COMPLAINTS: [&str; 6] =
    ["readdir loop", "fileid changed", "Call trace", "BUG:", "nfs: server", "NFS: server error"];

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
    let lab = Lab::new(&folder)?;
    println!("{:6.1} s  the export is served; the client starts", began.elapsed().as_secs_f32());

    let every = std::env::var("ROOTSTOCK_NFS_EVERY").unwrap_or_else(|_| EVERY.to_owned());
    let limit = if every == EVERY { LIMIT } else { WHOLE_LIMIT };
    let words = format!(
        "console=ttyAMA0 quiet panic=-1 judge.server={} judge.path={} judge.every={every}",
        lab::SERVER,
        lab::PATH
    );
    let start = Start { kernel: &guest.kernel, initramfs: &guest.initramfs, words: &words };
    let mut command = virt(&lab.wire, lab::TAP, "52:54:00:78:00:02", &start);
    command
        .args(["-monitor", "none", "-drive"])
        .arg(format!("if=none,id=local,format=raw,cache=unsafe,file={}", lab.reference.display()))
        .args(["-device", "virtio-blk-pci,drive=local,romfile="]);
    let mut machine = Machine::start("judge", &mut command, &folder)?;
    let (mut from, mut problems) = (0, Vec::new());
    let last = loop {
        from = machine.wait_for("\n", from, limit)?;
        let text = machine.console.text();
        let line = text[..from - 1].rsplit('\n').next().unwrap_or_default().trim().to_owned();
        let complaint = COMPLAINTS.iter().any(|complaint| line.contains(complaint));
        if let Some(told) = line.strip_prefix("judge: ") {
            println!("{:6.1} s  {told}", began.elapsed().as_secs_f32());
            if let Some(done) = told.strip_prefix("done: ") {
                break done.to_owned();
            }
        } else if complaint || line.contains("Kernel panic") {
            problems.push(line);
        }
    };
    machine.wait_exit(Duration::from_secs(60))?;
    drop(machine);
    lab.check_disk()?;
    if !problems.is_empty() {
        return Err(format!("{last}; the client's kernel said:\n{}", problems.join("\n")));
    }
    if !last.ends_with(", 0 failed") {
        return Err(last);
    }
    Ok(format!("{last}, in {:.0} s", began.elapsed().as_secs_f32()))
}
