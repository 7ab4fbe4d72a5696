//! Which threads the kernel runs first. A person's press and a Pi's question are short work that somebody waits
//! for; a client that reads a gigabyte waits for the wire and the stick anyway.
//!
//! I/O: system calls on the calling thread, and only on it: to Linux a thread is what a process is to POSIX.
//! Threads and programs that it starts are ordinary again. Without the right (not root, or a container without
//! real-time bandwidth) a nice value is what is left, and without that it stays as it is, which is no error.
//!
//! Why real time, at its lowest priority: by a nice value a thread that wakes is likely to be next, but waits for
//! slices of others where there are more threads than cores. On two cores, 12 NFS clients and six busy loops beside,
//! a press took 440 ms at the worst of 100 by the nice value and 1.3 ms so (2026-11-30, `panel_faces` with either).
//! What keeps that harmless:
//! - These threads wait nearly always (`just panel-cost`); a flood from the wire is taken in portions with a pause
//!   between, and what goes on by itself is drawn 50 times a second at most.
//! - One that ran for [`RUNAWAY`] without a wait is in a loop without an end: the kernel ends the server, PID 1 starts
//!   it anew, and clients notice a pause. Such a loop in control would have been the end of all service anyway.
//! - Until then the kernel leaves others a twentieth of that core (sched(7), sched_rt_runtime_us), and all of the other cores.

use std::time::Duration;

/// Where real time is refused. By the kernel's weights some nine times an ordinary thread's part.
const NICE: libc::c_int = -10;

/// CPU time without a wait after which a prompt thread ends the server. The longest that was seen is under a second,
/// of 64 Pis that boot at once from a debug build.
pub const RUNAWAY: Duration = Duration::from_secs(10);

/// For panel, control and DHCP: before the threads that move data.
pub fn prompt() {
    if !set(libc::SCHED_RR, 1) {
        set(libc::SCHED_OTHER, 0);
        nice(NICE);
    }
}

/// For a thread that was prompt for a time.
pub fn ordinary() {
    set(libc::SCHED_OTHER, 0);
    nice(0);
}

/// From now on a prompt thread of this process that works for so long without a wait ends it by SIGXCPU
/// (setrlimit(2), RLIMIT_RTTIME). [`RUNAWAY`] but for tests.
pub fn bound(time: Duration) {
    let time = libc::rlim_t::try_from(time.as_micros()).unwrap_or(libc::RLIM_INFINITY);
    // At the higher one comes SIGKILL.
    let limit = libc::rlimit { rlim_cur: time, rlim_max: time.saturating_mul(2) };
    // Where a lower limit is set already this fails, and that one holds.
    // SAFETY: the structure lives through the call.
    unsafe { libc::setrlimit(libc::RLIMIT_RTTIME, &raw const limit) };
}

/// Of the calling thread; what it starts gets none of it. False where that is not allowed.
fn set(policy: libc::c_int, priority: libc::c_int) -> bool {
    let priority = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is the calling thread, and the structure lives through the call.
    unsafe { libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const priority) == 0 }
}

fn nice(nice: libc::c_int) {
    // SAFETY: no memory is passed.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Policy and nice value of the calling thread.
    fn now() -> (libc::c_int, libc::c_int) {
        // SAFETY: no memory is passed.
        unsafe { (libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK, libc::getpriority(libc::PRIO_PROCESS, 0)) }
    }

    #[test]
    fn only_the_calling_thread_is_changed_and_not_what_it_starts_and_it_can_go_back() {
        let before = now();
        let thread = std::thread::spawn(move || {
            prompt();
            let raised = now();
            // Root may, but for containers that keep real time to themselves; nobody else.
            let is_root = rustix::process::geteuid().is_root();
            assert!(raised == (libc::SCHED_RR, 0) || is_root && raised.1 == NICE || !is_root && raised == before);
            let started = std::thread::spawn(now).join().unwrap();
            assert!(started.0 == libc::SCHED_OTHER && started.1 >= before.1.min(0), "{started:?}");
            ordinary();
            now()
        });
        let after = thread.join().unwrap();
        assert!(after.0 == libc::SCHED_OTHER && after.1 >= before.1.min(0), "{after:?}");
        assert_eq!(now(), before);
    }
}
