//! How long an import takes beside the usual decompressor that writes the same
//! bytes: holes where there are zeros, and on the disk in the end. An import also
//! hashes the file, always; what is not packed is copied beside a SHA-256 of it,
//! and beside `cp` alone. The figures in `src/store/import/mod.rs` are from here.
//! Not part of `cargo test`: it prints, and judges nothing but that the imports
//! end well.
//!
//! ```text
//! just bench-import [AN.img.xz [/a/folder/on/the/stick]]
//! BENCH_ONLY=b.img just bench-import     # that row alone
//! ```
//!
//! As on a stick (cgroup v1): an ext4 in a loop device whose speed is bounded, here 300 MiB/s read and 150 written.
//!
//! ```text
//! truncate -s 6G stick; mkfs.ext4 -q stick; loop=$(losetup -f --show stick); mount $loop /mnt
//! for way in read:314572800 write:157286400; do
//!     echo "$(cat /sys/block/${loop#/dev/}/dev) ${way#*:}" >/sys/fs/cgroup/blkio/blkio.throttle.${way%:*}_bps_device
//! done
//! BENCH_ONLY=b.img just bench-import "" /mnt
//! ```
//!
//! Each round runs an import and the command one after the other, and the ratio
//! is taken of each round, since a machine that is not idle changes by the minute.
//! CPU is told beside it: it changes less. What the import does more is in its
//! time: it mounts the root for a look and takes the boot files out.
//! The folder is on an ext4 (or btrfs, xfs) with room for the image six times;
//! the system's temporary folder where it is not named.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rootstock::store::{Event, Options};
use rustix::time::{ClockId, clock_gettime};
use store_support::{Bench, LoopDisk, Running, run, unmount};

const ROUNDS: usize = 3;

fn cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap()
}

/// From the first progress to the finished image; wall clock and CPU.
fn import(packed: &Path, folder: &Path) -> (Duration, Duration) {
    let room = tempfile::tempdir_in(folder).unwrap();
    let store = room.path().join("stick");
    fs::create_dir(&store).unwrap();
    fs::hard_link(packed, store.join(packed.file_name().unwrap())).unwrap();
    let mut running =
        Running::start(Options { folder: Some(store), run: room.path().join("run"), ..Options::default() });
    let begun = |event: &Event| matches!(event, Event::ImportProgress { .. }).then(|| (Instant::now(), cpu()));
    let (started, used) = running.wait("ImportProgress", begun);
    running.imported();
    let taken = (started.elapsed(), cpu() - used);
    running.stop();
    taken
}

/// Wall clock and CPU of a command, the kernel's writing not with it.
fn command(line: &str) -> (Duration, Duration) {
    let (started, used) = (Instant::now(), children());
    run("sh", &["-ec", line]);
    (started.elapsed(), children() - used)
}

fn children() -> Duration {
    // SAFETY: all zeros are a value of this plain structure, which the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage), 0);
        usage
    };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// The root of a disk's image as a tarball, its boot partition's files in it where they are mounted.
fn make_tar(image: &Path, tar: &Path, point: &Path) {
    let disk = LoopDisk::attach(image);
    let partition = |number: u32| format!("{}p{number}", disk.node.display());
    fs::create_dir_all(point).unwrap();
    run("mount", &["-o", "ro", &partition(2), point.to_str().unwrap()]);
    run("tar", &["-C", point.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]);
    unmount(point);
    // By mtools: a kernel without vfat measures too.
    let files = point.join("boot/firmware");
    fs::create_dir_all(&files).unwrap();
    run("mcopy", &["-s", "-i", &partition(1), "::*", files.to_str().unwrap()]);
    run("tar", &["-C", point.to_str().unwrap(), "-rf", tar.to_str().unwrap(), "./boot/firmware"]);
    fs::remove_dir_all(point).unwrap();
}

fn show_ratio(what: &str, ratios: &mut [f64]) {
    ratios.sort_unstable_by(f64::total_cmp);
    let all: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    println!("{what:<44} {:>6.2}    ({})", ratios[ratios.len() / 2], all.join(" "));
}

fn show(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let all: Vec<String> = times.iter().map(|time| format!("{:.2}", time.as_secs_f64())).collect();
    println!("{what:<44} {:>6.2} s  ({})", times[times.len() / 2].as_secs_f64(), all.join(" "));
}

#[test]
fn imports_beside_the_decompressor_alone() {
    let image = std::env::var("BENCH_IMAGE").expect("BENCH_IMAGE names an .img.xz");
    let bench = Bench::new();
    let folder = std::env::var("BENCH_FOLDER").map_or_else(|_| bench.folder.path().to_owned(), PathBuf::from);
    let room = tempfile::tempdir_in(&folder).unwrap();
    let path = |name: &str| room.path().join(name);
    let (packed, plain, tar) = (path("a.img.xz"), path("b.img"), path("root.tar"));
    fs::copy(&image, &packed).unwrap();
    let make = |line: &str, to: &Path| {
        let (from, to) = (plain.display().to_string(), to.display().to_string());
        let line = line.replace("XZ", &packed.display().to_string()).replace("TAR", &tar.display().to_string());
        command(&line.replace("IN", &from).replace("OUT", &to));
    };
    // Without holes, as a stick's own file system has it.
    make("xz -dc XZ | cat > OUT", &plain);
    // The usual way to pack each, and a command that unpacks it, writes what an import writes, and waits for the disk.
    let sparsely = "dd of=OUT bs=1M iflag=fullblock conv=sparse status=none";
    let sources = [
        ("a.img.xz", "", "xz -dc -T1 IN > OUT".to_owned()),
        ("c.img.gz", "gzip -c IN > OUT", format!("gzip -dc IN | {sparsely}")),
        ("d.img.zst", "zstd -q -12 IN -o OUT", "zstd -dq IN -o OUT".to_owned()),
        ("e.zip", "zip -q -j OUT IN", format!("7zz x -so IN | {sparsely}")),
        ("b.img", "", "openssl dgst -sha256 IN & cp --sparse=always IN OUT; wait".to_owned()),
        ("b.img", "", "cp --sparse=always IN OUT".to_owned()),
        ("f.tar.zst", "zstd -q -12 TAR -o OUT", "mkdir OUT; zstd -dcq IN | tar -C OUT -xf -".to_owned()),
        ("g.tar.xz", "xz -c -3 -T2 TAR > OUT", "mkdir OUT; xz -dc -T1 IN | tar -C OUT -xf -".to_owned()),
    ];
    let out = path("out").display().to_string();
    let only = std::env::var("BENCH_ONLY").ok();
    for (name, packer, unpacker) in sources.iter().filter(|(name, ..)| only.as_deref().is_none_or(|only| only == *name))
    {
        let source = path(name);
        if packer.contains("TAR") && !tar.exists() {
            make_tar(&plain, &tar, &bench.path("image"));
        }
        if !packer.is_empty() {
            make(packer, &source);
        }
        let line = format!("{unpacker}; sync -f OUT");
        let mut rows = [(); 4].map(|()| Vec::new());
        let (mut walls, mut cpus) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // One after the other, so that what else the machine does meets both.
            run("sync", &["-f", &room.path().display().to_string()]);
            let ours = import(&source, room.path());
            run("sync", &["-f", &room.path().display().to_string()]);
            let theirs = command(&line.replace("IN", &source.display().to_string()).replace("OUT", &out));
            run("rm", &["-r", &out]);
            for (row, time) in rows.iter_mut().zip([ours.0, ours.1, theirs.0, theirs.1]) {
                row.push(time);
            }
            walls.push(ours.0.as_secs_f64() / theirs.0.as_secs_f64());
            cpus.push(ours.1.as_secs_f64() / theirs.1.as_secs_f64());
        }
        println!("{name}");
        for (what, times) in ["import", "  CPU", unpacker, "  CPU"].iter().zip(&mut rows) {
            show(what, times);
        }
        show_ratio("ratio", &mut walls);
        show_ratio("  of CPU", &mut cpus);
    }
}
