//! Runs the few file-system tools that the store needs: `e2fsck`, `mke2fs`.
//!
//! I/O. A tool is found in PATH or where init's PATH might not reach; it gets
//! no standard input, its words are kept for the log, and it ends when the
//! store is being stopped.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("{0} is not installed")]
    Missing(&'static str),
    #[error("starting {tool}")]
    Start { tool: &'static str, source: io::Error },
    #[error("{0} was stopped")]
    Stopped(&'static str),
    #[error("{0} took too long")]
    TooLong(&'static str),
}

/// How a tool ended.
#[derive(Debug)]
pub struct Finished {
    /// `None`: killed by a signal.
    pub code: Option<i32>,
    /// The last words, at most 4 KiB.
    pub output: String,
}

const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Where a tool lies, if it is there.
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(tool))
        .find(|candidate| candidate.is_file())
}

/// Runs a tool to its end, to `limit`, or until `stop`.
pub fn run(
    tool: &'static str,
    arguments: &[&str],
    device: &Path,
    limit: Duration,
    stop: &AtomicBool,
) -> Result<Finished, ToolError> {
    let path = find(tool).ok_or(ToolError::Missing(tool))?;
    let failed = |source| ToolError::Start { tool, source };
    let mut child = Command::new(path)
        .args(arguments)
        .arg(device)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .env("LC_ALL", "C")
        .spawn()
        .map_err(failed)?;
    let stderr = child.stderr.take();
    // Its own thread, so that a talkative tool never blocks on a full pipe.
    let words = std::thread::spawn(move || last_words(stderr));
    let deadline = Instant::now() + limit;
    let ended = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break Ok(status.code()),
            None if stop.load(Ordering::Relaxed) => break Err(ToolError::Stopped(tool)),
            None if Instant::now() >= deadline => break Err(ToolError::TooLong(tool)),
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let output = words.join().unwrap_or_default();
    ended.map(|code| Finished { code, output })
}

fn last_words(source: Option<impl Read>) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    let Some(mut source) = source else { return String::new() };
    while let Ok(bytes @ 1..) = source.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..bytes]);
        kept.drain(..kept.len().saturating_sub(4096));
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_hangs_is_ended() {
        let stop = AtomicBool::new(false);
        let result = run("sleep", &[], Path::new("100"), Duration::from_millis(20), &stop);
        assert!(matches!(result, Err(ToolError::TooLong("sleep"))));
        stop.store(true, Ordering::Relaxed);
        let result = run("sleep", &[], Path::new("100"), Duration::from_secs(100), &stop);
        assert!(matches!(result, Err(ToolError::Stopped("sleep"))));
    }

    #[test]
    fn a_missing_tool_is_told() {
        let stop = AtomicBool::new(false);
        let result = run("no-such-tool", &[], Path::new("x"), Duration::ZERO, &stop);
        assert!(matches!(result, Err(ToolError::Missing(_))));
    }
}
