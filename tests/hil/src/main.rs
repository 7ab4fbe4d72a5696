//! `rootstock-hil`: tests that run on the board itself, in the manner of `cargo test`.
//!
//! | module | what | pure |
//! |---|---|---|
//! | `cases` | the list of tests, and in files of its own what each does | list only |
//! | `bench` | what a test may know: board, settings, what is said to be connected | I/O |
//! | `verdict` | ok, FAILED, not proven, and when a pass proves nothing | yes |
//! | `report` | verdicts as text, JSON and one page of HTML | yes |
//! | `ask` | a question to the person, answered by a key or a button | I/O |
//! | `pattern` | the display's test picture | yes |
//! | `card` | results onto the boot partition of the card that `just hil-card` makes | I/O |
//!
//! It never passes what it did not see: without an answer, a part or a wire a
//! test is "not proven", and on an emulated board everything is that only a
//! real one can show. A part that is said to be there (`--expect`) and does not
//! answer is a failure.

mod ask;
mod bench;
mod card;
mod cases;
mod pattern;
mod report;
mod verdict;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::Parser;

use bench::{Bench, Part};
use report::{Report, Result};

/// As `serve` does: PID 1 switches the machine off.
const POWER_OFF: u8 = 64;

#[derive(Parser)]
#[command(name = "rootstock-hil", version, about = "Tests this Raspberry Pi as an appliance")]
struct Arguments {
    /// Only tests whose names have this word; may be given several times
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,
    /// This part is connected: its silence is a failure. Several times or with commas
    #[arg(long, value_delimiter = ',')]
    expect: Vec<Part>,
    /// The settings to test with, as on the appliance's card
    #[arg(long, value_name = "FILE", default_value = "/run/rootstock/rootstock.toml")]
    config: PathBuf,
    /// Seconds that a question waits; 0 asks nothing
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// No real board: whatever only a real one proves is not proven
    #[arg(long)]
    emulated: bool,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write them as one page for a browser
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Started by PID 1 in place of `serve`: read hil.… words of the kernel's command line, switch off at the end
    #[arg(long)]
    appliance: bool,
    /// Only name the tests
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let mut to_card = false;
    if arguments.appliance {
        let words = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        to_card = arguments.add(&words);
        // Devices that a module is still being loaded for.
        std::thread::sleep(Duration::from_secs(if arguments.emulated { 4 } else { 8 }));
    }
    let appliance = arguments.appliance;
    let failed = match run(arguments, to_card) {
        Ok(failed) => failed,
        Err(error) => {
            eprintln!("rootstock-hil: {error:#}");
            true
        }
    };
    match (appliance, failed) {
        (true, _) => ExitCode::from(POWER_OFF),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    }
}

impl Arguments {
    /// `hil.only=`, `hil.expect=`, `hil.patience=`, `hil.emulated`, `hil.card`: the last is the answer.
    fn add(&mut self, cmdline: &str) -> bool {
        let mut card = false;
        for word in cmdline.split_whitespace().filter_map(|word| word.strip_prefix("hil.")) {
            match word.split_once('=') {
                Some(("only", value)) => self.only.extend(value.split(',').map(str::to_owned)),
                Some(("expect", value)) => {
                    self.expect.extend(
                        value.split(',').filter_map(|name| <Part as clap::ValueEnum>::from_str(name, true).ok()),
                    );
                }
                Some(("patience", value)) => self.patience = value.parse().unwrap_or(self.patience),
                None if word == "emulated" => self.emulated = true,
                None if word == "card" => card = true,
                _ => eprintln!("rootstock-hil: the word hil.{word} means nothing here"),
            }
        }
        card
    }
}

/// Whether anything failed.
fn run(arguments: Arguments, to_card: bool) -> anyhow::Result<bool> {
    let wanted = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|word| name.contains(word));
    let cases: Vec<_> = cases::ALL.iter().filter(|case| wanted(case.name)).collect();
    if arguments.list {
        cases.iter().for_each(|case| println!("{}: test", case.name));
        return Ok(false);
    }
    let bench = Bench::look(&arguments.config, arguments.expect.clone(), arguments.patience, arguments.emulated);
    let began = Instant::now();
    let mut results = Vec::new();
    println!("\n{}", bench.board.line());
    for problem in &bench.problems {
        println!("note: {problem}");
    }
    println!("\nrunning {} tests", cases.len());
    for case in cases {
        print!("test {} ... ", case.name);
        std::io::stdout().flush().context("printing")?;
        let start = Instant::now();
        let verdict = case.judge(&bench);
        println!("{}", report::line(&verdict));
        let milliseconds = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        results.push(Result { name: case.name.to_owned(), proves: case.proves.to_owned(), verdict, milliseconds });
    }
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let report = Report {
        suite: format!("rootstock-hil {}", env!("CARGO_PKG_VERSION")),
        unix_time: unix,
        board: bench.board.clone(),
        expected: bench.expected.iter().map(ToString::to_string).collect(),
        milliseconds: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        results,
    };
    print!("{}", report.closing());
    let (json, html) = (serde_json::to_string_pretty(&report).context("writing JSON")? + "\n", report.html());
    let files = [(&arguments.json, &json), (&arguments.html, &html)];
    for (path, text) in files.into_iter().filter_map(|(path, text)| Some((path.as_deref()?, text))) {
        write(path, text)?;
    }
    if to_card {
        match card::save(&[("rootstock-hil.json", &json), ("rootstock-hil.html", &html)]) {
            Ok(place) => println!("results: rootstock-hil.html and rootstock-hil.json on {place}"),
            Err(error) => println!("results: not written to the card: {error}"),
        }
    }
    Ok(report.failed() > 0)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())?;
    println!("results: {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_arguments_and_others_are_passed_over() {
        let mut arguments = Arguments::parse_from(["rootstock-hil", "--appliance"]);
        let card = arguments.add("quiet hil.only=i2c,display hil.expect=display,jumpers hil.patience=5 hil.x hil.card");
        assert!(card && !arguments.emulated);
        assert_eq!((arguments.only.len(), arguments.patience), (2, 5));
        assert_eq!(arguments.expect, [Part::Display, Part::Jumpers]);
    }

    #[test]
    fn every_test_has_a_name_of_its_own_and_says_what_it_proves() {
        let mut names: Vec<_> = cases::ALL.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases::ALL.len());
        assert!(cases::ALL.iter().all(|case| case.proves.len() > 10));
    }
}
