//! Which threads the kernel runs first. A person's press and a Pi's question are short work that somebody waits
//! for; a client that reads a gigabyte waits for the wire and the stick anyway.
//!
//! I/O: one system call on the calling thread, and only on it: to Linux a thread is what a process is to POSIX.
//! What it starts inherits it. Without the right (not root) it stays as it is, which is no error.

/// By the kernel's weights some nine times an ordinary thread's part, where there is not enough for all;
/// what such a thread takes in all is little, since it mostly waits (`just panel-cost`).
const PROMPT: libc::c_int = -10;
const ORDINARY: libc::c_int = 0;

/// For panel, control and DHCP: before the threads that move data.
pub fn prompt() {
    set(PROMPT);
}

/// For longer work that a prompt thread starts.
pub fn ordinary() {
    set(ORDINARY);
}

fn set(nice: libc::c_int) {
    // SAFETY: no memory is passed.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> libc::c_int {
        // SAFETY: no memory is passed.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[test]
    fn only_the_calling_thread_is_changed_and_it_can_go_back() {
        let before = nice();
        let thread = std::thread::spawn(move || {
            prompt();
            let raised = nice();
            // Root may; nobody else.
            let is_root = rustix::process::geteuid().is_root();
            assert_eq!(raised, if is_root { PROMPT } else { before });
            ordinary();
            nice()
        });
        assert!(thread.join().unwrap() >= before.min(ORDINARY));
        assert_eq!(nice(), before);
    }
}
