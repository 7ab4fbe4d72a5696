//! Programs on a root of ours, by the real Linux NFS client in an emulated machine: git, a C
//! compiler and sqlite check their own files; and sqlite's transactions outlive power cuts of the appliance.
//!
//! The client is the judge's (`tests/nfs_linux`), its root an overlay as in the product, with a few Debian
//! packages for a lower (`fetch`), and `programs.sh` says what it runs. What the client changes lies on a disk that
//! records every write and flush. When it is done, the disk is cut at many moments: from what is left, sqlite must
//! find a whole database with each transaction that the client had been told was committed. (`nfs_power` cuts under
//! single calls; here it is all that sqlite makes of them, through the client's page cache.)
//!
//!     tests/run programs
//!     ROOTSTOCK_SEEDS=200   cuts, instead of a few; `just soak`

#[allow(dead_code, clippy::unwrap_used)] // of what these share with other tests, a part is used
#[path = "../nfs_lab/disk.rs"]
mod disk;
#[path = "../support/mod.rs"]
mod support;

#[path = "../nfs_linux/console.rs"]
mod console;
#[path = "../nfs_linux/guest.rs"]
mod guest;
#[path = "../nfs_linux/lab.rs"]
#[allow(dead_code)] // a part of it is used
mod lab;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use disk::{Disk, after_cut};
use lab::Lab;
use support::command::run;
use support::qemu::{Machine, Start, virt};
use support::random::Random;

const DISK_BYTES: usize = 128 << 20;
/// Transactions in each journal mode.
const COMMITS: u64 = 40;
const CUTS: u64 = 16;
/// Emulation on busy cores is slow: a limit only tells "hangs" from "slow".
const LIMIT: Duration = Duration::from_secs(600);

/// sqlite's own judgement of a database, and ours of its rows. Arguments: the file, and how many rows there must be.
const CHECK: &str = "
import sqlite3, sys
path, least = sys.argv[1], int(sys.argv[2])
db = sqlite3.connect(path)
said = [line for (line,) in db.execute('PRAGMA integrity_check')]
assert said == ['ok'], said
try:
    rows = list(db.execute('SELECT id, text FROM t ORDER BY id'))
    total = list(db.execute('SELECT rows FROM total'))
except sqlite3.OperationalError as error:
    assert 'no such table' in str(error), error
    rows, total = [], []
text = lambda n: '00' * (500 + n % 7 * 300) + ' row %d' % n
assert rows == [(n, text(n)) for n in range(1, len(rows) + 1)], 'rows that were not written so'
assert total in ([(len(rows),)], [])  or not rows, 'half a transaction: %r of %d' % (total, len(rows))
assert len(rows) >= least, '%d rows, but %d were committed' % (len(rows), least)
print(len(rows))
";

/// The client was told that a transaction is committed; how much was on the disk's record then.
struct Commit {
    mode: String,
    number: u64,
    position: usize,
}

fn main() -> ExitCode {
    match programs() {
        Ok(summary) => {
            println!("\n{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nnfs_programs failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn programs() -> Result<String, String> {
    let began = Instant::now();
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = top.join("target/nfs_programs");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let guest = guest::build(&folder, |_| Ok(()))?;
    let here = top.join("tests/nfs_programs");
    let tar = run(here.join("fetch").to_str().unwrap_or_default(), &[])?;
    let store = lab::own_store(&folder)?;
    lab::sh(&format!("mkdir {}/disk", store.display()))?;
    let disk = Disk::mount(&store.join("disk"), DISK_BYTES);
    let make = format!(
        "truncate -s 256M image.ext4; mkfs.ext4 -q image.ext4; mount -o loop image.ext4 image
         tar -x -f {} -C image; cp {} image; umount image
         mkfs.ext4 -q disk/disk; mount -o loop disk/disk upper",
        tar.trim(),
        here.join("programs.sh").display()
    );
    let mut lab = Lab::new(&folder, &make)?;
    lab.serve()?;
    let base = disk.record();
    println!("{:6.1} s  the export is served; the client starts", began.elapsed().as_secs_f32());

    let words = format!(
        "console=ttyAMA0 quiet panic=-1 judge.server={} judge.path={} judge.commits={COMMITS}",
        lab::SERVER,
        lab::PATH
    );
    let start = Start { kernel: &guest.kernel, initramfs: &guest.initramfs, words: &words };
    let mut command = virt(&lab.wire, lab::TAP, "52:54:00:78:00:02", &start);
    let mut machine = Machine::start("programs", command.args(["-monitor", "none"]), &folder)?;
    let mut commits = Vec::new();
    let last = console::follow(&mut machine, began, LIMIT, |line| {
        let words: Vec<&str> = line.split(' ').collect();
        let ["committed", mode, number] = words[..] else { return true };
        let number = number.parse().unwrap_or_default();
        commits.push(Commit { mode: mode.to_owned(), number, position: disk.position() });
        false
    });
    drop(machine);
    let log = disk.log();
    lab.check_disk("disk/disk")?;
    let last = last?;
    if commits.len() as u64 != 2 * COMMITS {
        return Err(format!("{} transactions were told, not {}", commits.len(), 2 * COMMITS));
    }
    println!("{:6.1} s  {} events on the disk; the cuts begin", began.elapsed().as_secs_f32(), log.len());

    let cuts = std::env::var("ROOTSTOCK_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(CUTS);
    let first = commits.first().map_or(0, |commit| commit.position);
    let mut random = Random(7);
    for number in 0..cuts {
        // As often behind an answer, where all must be there, as anywhere.
        let cut = match number % 2 {
            0 => commits[random.below(commits.len() as u64) as usize].position,
            _ => first + random.below((log.len() - first + 1) as u64) as usize,
        };
        let left = after_cut(&base, &log, cut, |bound| random.below(bound));
        let checked =
            check(&store, &left, &commits, cut).map_err(|error| format!("cut {number}, at {cut}: {error}"))?;
        println!("{:6.1} s  cut at {cut} of {}: {checked}", began.elapsed().as_secs_f32(), log.len());
    }
    Ok(format!("{last}, {cuts} power cuts, in {:.0} s", began.elapsed().as_secs_f32()))
}

/// Mounts what a cut left, as the appliance does when it starts again, and looks at both databases.
fn check(store: &Path, left: &[u8], commits: &[Commit], cut: usize) -> Result<String, String> {
    let folder = store.join("cut");
    let at = folder.display();
    lab::sh(&format!("mkdir -p {at}/upper; rm -rf {at}/found"))?;
    std::fs::write(folder.join("disk"), left).map_err(|e| format!("{at}: {e}"))?;
    lab::sh(&format!(
        "cd {at}; mount -o loop disk upper; cp -a upper/u/work/sqlite found; umount upper; e2fsck -f -n disk"
    ))?;
    let mut told = Vec::new();
    for mode in ["delete", "wal"] {
        let least = commits.iter().filter(|commit| commit.mode == mode && commit.position <= cut);
        let least = least.map(|commit| commit.number).max().unwrap_or_default();
        let file = folder.join("found").join(format!("{mode}.db"));
        if least == 0 && !file.exists() {
            continue;
        }
        let arguments =
            ["-c".as_ref(), CHECK.as_ref(), file.as_os_str(), least.to_string().as_ref()].map(ToOwned::to_owned);
        let arguments: Vec<&std::ffi::OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        let rows = run("python3", &arguments)?;
        told.push(format!("{mode}: {} rows, {least} committed", rows.trim()));
    }
    Ok(told.join("; "))
}
