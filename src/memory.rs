//! What the C library's allocator keeps of the memory that we are done with.
//!
//! An import needs a hundred megabytes for seconds; a server that runs for months
//! must not hold them (113 MiB resident after one, measured 2026-11-22). While it
//! runs, though, its blocks must be used again and not mapped anew each time: with
//! every block above 1 MiB mapped, the same import took 32 s instead of 21 in the
//! emulated machine. So blocks stay in the heap, and its free pages are given back
//! when the work is done.

/// Blocks of at least this many bytes are mapped by themselves: glibc's own upper
/// limit, set so that it does not move. Larger than a decoder's block.
#[cfg(target_env = "gnu")]
const MAP_FROM_BYTES: libc::c_int = 32 << 20;

/// Free bytes at the heap's end that are kept until [`give_back`].
#[cfg(target_env = "gnu")]
const KEEP_BYTES: libc::c_int = 64 << 20;

/// Arenas for all threads. In a second one, the free end is never given back: malloc_trim(3)
/// shortens only the first (malloc/malloc.c, `mtrim`), so an import on such a thread left
/// 41 MiB behind (2026-11-29). Threads keep small blocks for themselves and seldom meet here.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 1;

/// Call once, before threads start (mallopt(3)).
pub fn settle() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers, and no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Gives free pages back to the kernel (malloc_trim(3)). For the end of a large
/// piece of work: it walks all arenas.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
