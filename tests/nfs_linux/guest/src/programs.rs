//! Programs on the mounted root: git, a compiler and sqlite, which check their own files
//! (`tests/nfs_programs`). The root holds them; this only starts them in it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::report::Report;
use crate::sys;

/// Journal modes of sqlite, each with another way to be sure: a file removed, cut, overwritten, or added to.
const MODES: [&str; 4] = ["delete", "truncate", "persist", "wal"];

/// Runs them all in the root at `top`; then `commits` transactions in two of the modes.
pub fn judge(report: &mut Report, top: &str, commits: u32) -> Result<(), String> {
    for (kind, inside) in [("proc", "proc"), ("devtmpfs", "dev"), ("tmpfs", "tmp")] {
        let at = format!("{top}/{inside}");
        sys::mount(kind, &at, kind, "").map_err(|errno| format!("{at}: {}", sys::errno_name(errno)))?;
    }
    report.part("programs on the root");
    report.is("busybox's links", run(top, &["prepare"]), Ok(()));
    report.is("git", run(top, &["git"]), Ok(()));
    report.is("a compiler", run(top, &["compiler"]), Ok(()));
    for mode in MODES {
        report.is(&format!("sqlite, {mode}"), run(top, &["sqlite", mode]), Ok(()));
    }
    report.part("transactions");
    let commits = commits.to_string();
    for mode in ["delete", "wal"] {
        report.is(mode, run(top, &["commit", mode, &commits]), Ok(()));
    }
    report.end_part();
    for inside in ["proc", "dev", "tmp"] {
        let at = format!("{top}/{inside}");
        sys::unmount(&at).map_err(|errno| format!("{at}: {}", sys::errno_name(errno)))?;
    }
    Ok(())
}

fn run(top: &str, arguments: &[&str]) -> Result<(), String> {
    let top = top.to_owned();
    let mut command = Command::new("/bin/busybox");
    command.args(["sh", "/programs.sh"]).args(arguments).env_clear();
    let enter = move || {
        std::os::unix::fs::chroot(&top)?;
        std::env::set_current_dir("/")
    };
    // SAFETY: it makes two system calls of the child's own, and this process has one thread.
    unsafe { command.pre_exec(enter) };
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
