//! Foreign suites on the mounted root and, at the same time, on the local ext4 (`tests/nfs_posix`): runs what
//! the list in the initramfs names, and tells what each says. The verdict is the other side's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Each line a name, and the program with its arguments, `{}` for the folder.
const LIST: &str = "/suites/list";
/// Some tell whole paths.
const MAX_LINE_BYTES: usize = 400;

/// Runs the list once for each place, in its folder; gives how many that is.
pub fn run(places: [(&str, &str); 2]) -> Result<u64, String> {
    let list = fs::read_to_string(LIST).map_err(|e| format!("{LIST}: {e}"))?;
    let suites: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    if suites.iter().any(|words| words.len() < 2) {
        return Err(format!("{LIST}: a line without a program"));
    }
    std::thread::scope(|scope| {
        for (place, folder) in places {
            let suites = &suites;
            scope.spawn(move || {
                for words in suites {
                    let (name, began) = (words[0], Instant::now());
                    println!("judge: begin {name} {place}");
                    let ended = run_one(words, place, folder).unwrap_or_else(|error| error);
                    println!("judge: end {name} {place} {:.1} s, {ended}", began.elapsed().as_secs_f32());
                }
            });
        }
    });
    Ok((suites.len() * places.len()) as u64)
}

/// Runs one to its end: `exit status: 0` if it found nothing wrong.
fn run_one(words: &[&str], place: &str, folder: &str) -> Result<String, String> {
    let told = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let (from, to) = std::io::pipe().map_err(told("a pipe"))?;
    let mut command = Command::new(words[1]);
    command.args(words[2..].iter().map(|word| word.replace("{}", folder)));
    command.env_clear().env("PATH", "/bin:/usr/bin:/sbin:/usr/sbin").env("HOME", "/").current_dir("/tmp");
    command.stdin(Stdio::null()).stderr(to.try_clone().map_err(told("a pipe"))?).stdout(to);
    let mut child = command.spawn().map_err(told("its start"))?;
    // It holds ends of the pipe.
    drop(command);
    for line in BufReader::new(from).split(b'\n') {
        let mut line = line.map_err(told("what it says"))?;
        line.truncate(MAX_LINE_BYTES);
        println!("judge: said {} {place} {}", words[0], String::from_utf8_lossy(&line));
    }
    child.wait().map(|status| status.to_string()).map_err(told("its end"))
}
