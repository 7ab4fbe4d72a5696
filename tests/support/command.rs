//! Running a program and keeping what it said when it fails.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs a program to its end; an error carries its command line and its output.
pub fn run(program: &str, arguments: &[&OsStr]) -> Result<String, String> {
    run_with_input(program, arguments, b"")
}

pub fn run_with_input(program: &str, arguments: &[&OsStr], input: &[u8]) -> Result<String, String> {
    let start = || {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("it was piped");
        let given = stdin.write_all(input);
        drop(stdin);
        let output = child.wait_with_output()?;
        // A program that ends without reading its input is judged by its own status.
        given.or_else(|error| if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })?;
        Ok::<Output, std::io::Error>(output)
    };
    let shown = || format!("{program} {}", arguments.join(OsStr::new(" ")).to_string_lossy());
    let output = start().map_err(|error| format!("{}: {error} (`just deps` installs what is missing)", shown()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(format!("{}: {}\n{said}{}", shown(), output.status, String::from_utf8_lossy(&output.stderr)))
    }
}
