//! What the emulated client tells, followed to its end.

use std::time::{Duration, Instant};

use crate::support::qemu::Machine;

/// What the client's kernel says when it finds the server wrong.
const COMPLAINTS: [&str; 8] = [
    "readdir loop",
    "fileid changed",
    "Call trace",
    "BUG:",
    "nfs: server",
    "NFS: server error",
    "Kernel panic",
    "Stale file handle",
];

/// Until the judge is done: its last line, if nothing failed and the kernel said nothing against the server. `told` gets
/// each of the judge's lines, and says whether a person wants it too.
pub fn follow(
    machine: &mut Machine,
    began: Instant,
    limit: Duration,
    mut told: impl FnMut(&str) -> bool,
) -> Result<String, String> {
    let (mut from, mut problems) = (0, Vec::new());
    let last = loop {
        from = machine.wait_for("\n", from, limit)?;
        let text = machine.console.text();
        let line = text[..from - 1].rsplit('\n').next().unwrap_or_default().trim().to_owned();
        if let Some(line) = line.strip_prefix("judge: ") {
            let shown = told(line);
            if let Some(done) = line.strip_prefix("done: ") {
                break done.to_owned();
            }
            if shown {
                println!("{:6.1} s  {line}", began.elapsed().as_secs_f32());
            }
        } else if COMPLAINTS.iter().any(|complaint| line.contains(complaint)) {
            problems.push(line);
        }
    };
    machine.wait_exit(Duration::from_secs(60))?;
    if !problems.is_empty() {
        return Err(format!("{last}; the client's kernel said:\n{}", problems.join("\n")));
    }
    if last.ends_with(", 0 failed") { Ok(last) } else { Err(last) }
}
