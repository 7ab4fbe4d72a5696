//! The lowest priority for a thread that nobody waits for: of the processor and of the stick.
//!
//! I/O: two system calls. A kernel without I/O priorities (or a scheduler that heeds none) only makes the
//! first of them count; what must not disturb rests besides.

// include/uapi/linux/ioprio.h
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;

/// Of the calling thread, for good.
pub fn lowest_priority() {
    // To Linux a thread is what it is to POSIX a process: only this one is changed.
    // SAFETY: no memory is passed.
    unsafe {
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT);
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
    }
}
