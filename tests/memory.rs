//! What a piece of work leaves of its memory: a process of its own, since the
//! allocator's settings and the resident size belong to the process, and the
//! settings come before its first thread.

use std::sync::Barrier;

use rootstock::memory;

/// Threads at the same time, as the decoders and the writer of an import, and what each holds.
const THREADS: usize = 3;
const BLOCKS: usize = 16;
const BLOCK_BYTES: usize = 1 << 20;

/// What the allocator may keep of them.
const LEFT_KIB: u64 = 4 << 10;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc(5)");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}

fn main() {
    if cfg!(target_env = "gnu") {
        what_an_import_held_on_its_threads_is_given_back();
        println!("1 passed, 0 failed");
    } else {
        println!("0 passed, 0 failed: only glibc's allocator has these settings");
    }
}

fn what_an_import_held_on_its_threads_is_given_back() {
    memory::settle();
    let before = resident_kib();
    let held = Barrier::new(THREADS);
    let work = || {
        let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|block| vec![block as u8 | 1; BLOCK_BYTES]).collect();
        held.wait();
        assert!(blocks.iter().all(|block| block.len() == BLOCK_BYTES));
        let resident = resident_kib();
        // Nobody lets go before everybody has looked.
        held.wait();
        resident
    };
    let during = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread's end")).min().unwrap_or_default()
    });
    let all_kib = (THREADS * BLOCKS * BLOCK_BYTES / 1024) as u64;
    assert!(during >= before + all_kib - LEFT_KIB, "{before} KiB before, {during} during: nothing was held");
    memory::give_back();
    let after = resident_kib();
    assert!(after <= before + LEFT_KIB, "{before} KiB before, {during} during, {after} after");
}
