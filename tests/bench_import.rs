//! How long an import takes, by io_uring and by plain writes, beside `xz` and
//! `cp` that do the same work; the figures in `src/store/import/mod.rs` are
//! from here. Not part of `cargo test`: it prints, and judges nothing but that
//! the imports end well.
//!
//! ```text
//! BENCH_IMAGE=an.img.xz BENCH_FOLDER=/a/folder/on/the/stick \
//!     cargo test --release --test bench_import -- --nocapture
//! ```
//!
//! The folder is on an ext4 (or btrfs, xfs) with room for the image thrice;
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

fn command(line: &str) -> Duration {
    let started = Instant::now();
    run("sh", &["-ec", line]);
    started.elapsed()
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
            show(line, times);
        }
    }
}
