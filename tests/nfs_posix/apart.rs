//! Our server in a process of its own, which can be killed under the client.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::lab;
use crate::support::netns::Netns;

/// The first argument with which this test's own program is that server; the second is the store.
pub const WORD: &str = "serve";

const SERVES: &str = "serves";

/// Ends with its test, whose end of a pipe it reads, and when it is dropped, by SIGKILL.
pub struct Apart(Child);

impl Apart {
    /// Returns when it serves.
    pub fn start(wire: &Netns, store: &Path) -> Result<Self, String> {
        let told = |error: std::io::Error| format!("the server's process: {error}");
        let program = std::env::current_exe().map_err(told)?;
        let mut command = wire.command(&program.display().to_string());
        command.arg(WORD).arg(store).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(told)?;
        let output = child.stdout.take().expect("it was piped");
        let server = Self(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).map_err(told)?;
        if line.trim() == SERVES { Ok(server) } else { Err("the server's process ended before it served".into()) }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // Not a failure of its own: what it left undone shows.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What that process does.
pub fn serve(store: &Path) -> Result<(), String> {
    let server = lab::serve(store).map_err(|error| format!("the server does not start: {error}"))?;
    println!("{SERVES}");
    // Until the test is gone.
    let _ = std::io::stdin().read(&mut [0]);
    drop(server);
    Ok(())
}
