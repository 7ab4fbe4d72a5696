//! How long an import takes, by io_uring and by plain writes, beside `xz` and
//! `cp` that do the same work; the figures in `src/store/import/mod.rs` are
//! from here. Not part of `cargo test`: it prints, and judges nothing but that
//! the imports end well.
//!
//! ```text
//! just bench-import [AN.img.xz [/a/folder/on/the/stick]]
//! ```
//!
//! Each round runs an import and the commands one after the other, and the ratio
//! is taken of each round, since a machine that is not idle changes by the minute.
//! CPU is told beside it: it changes less. The folder is on an ext4 (or btrfs, xfs) with room for the image thrice;
//! the system's temporary folder where it is not named.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rootstock::store::{Event, Options};
use rustix::time::{ClockId, clock_gettime};
use store_support::{Bench, Running, run};

const ROUNDS: usize = 3;

fn cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap()
}

/// From the first progress to the finished image; wall clock and CPU.
fn import(packed: &Path, folder: &Path, plain_writes: bool) -> (Duration, Duration) {
    let room = tempfile::tempdir_in(folder).unwrap();
    let store = room.path().join("stick");
    fs::create_dir(&store).unwrap();
    fs::hard_link(packed, store.join(packed.file_name().unwrap())).unwrap();
    let mut running = Running::start(Options {
        folder: Some(store),
        run: room.path().join("run"),
        plain_writes,
        ..Options::default()
    });
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
    let (packed, plain) = (room.path().join("a.img.xz"), room.path().join("b.img"));
    fs::copy(&image, &packed).unwrap();
    command(&format!("xz -dc -T0 {} > {}; sync", packed.display(), plain.display()));
    let (gzip, zstd) = (room.path().join("c.img.gz"), room.path().join("d.img.zst"));
    command(&format!("gzip -c {} > {}", plain.display(), gzip.display()));
    command(&format!("zstd -q -12 {} -o {}", plain.display(), zstd.display()));
    let out = room.path().join("out").display().to_string();

    for (source, commands) in [
        (&packed, &["xz -dc -T1 IN > /dev/null", "xz -dc -T1 IN > OUT; sync", "xz -dc -T2 IN > OUT; sync"][..]),
        (&gzip, &["gzip -dc IN > /dev/null", "gzip -dc IN > OUT; sync"][..]),
        (&zstd, &["zstd -dcq IN > /dev/null", "zstd -dcq IN > OUT; sync"][..]),
        (&plain, &["sha256sum IN", "cp --sparse=never IN OUT; sync"][..]),
    ] {
        let mut imports = [(); 4].map(|()| Vec::new());
        let mut others = vec![Vec::new(); commands.len()];
        // Beside the command that decodes and writes, the second of each.
        let (mut walls, mut cpus) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // One after the other, so that what else the machine does meets all.
            for plain_writes in [false, true] {
                run("sync", &[]);
                let (wall, cpu) = import(source, room.path(), plain_writes);
                imports[usize::from(plain_writes)].push(wall);
                imports[2 + usize::from(plain_writes)].push(cpu);
            }
            for (line, times) in commands.iter().zip(&mut others) {
                run("sync", &[]);
                times.push(command(&line.replace("IN", &source.display().to_string()).replace("OUT", &out)));
                let _ = fs::remove_file(&out);
            }
            let (wall, cpu) = others[1][others[1].len() - 1];
            walls.push(imports[0][imports[0].len() - 1].as_secs_f64() / wall.as_secs_f64());
            cpus.push(imports[2][imports[2].len() - 1].as_secs_f64() / cpu.as_secs_f64());
        }
        println!("{}", source.file_name().unwrap().display());
        for (what, times) in
            ["import by io_uring", "import by plain writes", "  CPU by io_uring", "  CPU by plain writes"]
                .iter()
                .zip(&mut imports)
        {
            show(what, times);
        }
        for (line, times) in commands.iter().zip(&mut others) {
            let (mut walls, mut cpus): (Vec<Duration>, Vec<Duration>) = times.drain(..).unzip();
            show(line, &mut walls);
            show("  CPU", &mut cpus);
        }
        show_ratio(&format!("ratio to {}", commands[1]), &mut walls);
        show_ratio("  of CPU", &mut cpus);
    }
}
