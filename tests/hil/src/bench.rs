//! What a test may know: the board, the settings, and what is said to be connected.
//!
//! I/O, reading only.

use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use rootstock::client::Revision;
use rootstock::config::{self, Config};
use serde::Serialize;

/// Something that a person connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// An OLED on the I2C bus
    Display,
    /// ENROLL and NEXT
    Buttons,
    /// The three wires of WIRING.md
    Jumpers,
    /// A cable to a switch
    Cable,
    /// A USB stick
    Stick,
    /// A USB stick with a store and an image, and another Pi on the switch
    SecondPi,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// What the report says of the board: nothing that tells it from another of its kind.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Board {
    /// By its device tree.
    pub model: String,
    /// Its revision code, which the firmware hands over.
    pub revision: Option<u32>,
    pub kernel: String,
    /// Whether this is the appliance, and not a Linux that somebody installed.
    pub appliance: bool,
    /// Why it counts as emulated.
    pub emulated: Option<String>,
}

impl Board {
    fn look(told_emulated: bool) -> Self {
        let text = |path: &str| {
            let text = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&text).trim_end_matches(['\0', '\n']).to_owned()
        };
        let revision = fs::read("/proc/device-tree/system/linux,revision").ok();
        let revision = revision.and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
        let model = text("/proc/device-tree/model");
        let emulated = match (told_emulated, revision, model.is_empty()) {
            (true, ..) => Some("the one who started this says so".to_owned()),
            // Raspberry Pi's firmware writes it into every device tree that it hands to a kernel.
            (false, None, false) => Some("no firmware wrote a revision code into the device tree".to_owned()),
            _ => None,
        };
        Self {
            model: if model.is_empty() { "machine without a device tree".to_owned() } else { model },
            revision,
            kernel: text("/proc/sys/kernel/osrelease"),
            appliance: text("/proc/1/comm") == "init" && Path::new("/bin/rootstock").exists(),
            emulated,
        }
    }

    pub fn line(&self) -> String {
        let emulated = if self.emulated.is_some() { ", EMULATED" } else { "" };
        format!("rootstock-hil on a {}, Linux {}{emulated}", self.model, self.kernel)
    }

    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let memory = self.revision.and_then(|code| Revision(code).memory_mib());
        vec![
            ("Board", self.model.clone()),
            ("Revision", self.revision.map_or("not told".to_owned(), |code| format!("{code:06x}"))),
            ("Memory by its revision", memory.map_or("not told".to_owned(), |mib| format!("{mib} MiB"))),
            ("Kernel", self.kernel.clone()),
            ("System", if self.appliance { "Rootstock's own" } else { "another Linux" }.to_owned()),
        ]
    }
}

#[derive(Debug, Clone)]
pub struct Bench {
    pub board: Board,
    pub config: Config,
    /// What is wrong in the settings.
    pub problems: Vec<String>,
    pub expected: Vec<Part>,
    /// How long a person has for an answer; zero: nobody is there.
    pub patience: Duration,
}

impl Bench {
    pub fn look(config: &Path, expected: Vec<Part>, patience: u64, emulated: bool) -> Self {
        let (config, problems) = match fs::read(config) {
            Ok(bytes) => config::parse(&bytes),
            Err(_) => (Config::default(), Vec::new()),
        };
        let problems = problems.iter().map(ToString::to_string).collect();
        Self { board: Board::look(emulated), config, problems, expected, patience: Duration::from_secs(patience) }
    }

    pub fn expects(&self, part: Part) -> bool {
        self.expected.contains(&part)
    }

    /// A part that does not answer: a failure only if it is said to be there.
    pub fn absent<T>(&self, part: Part, what: impl Into<String>) -> Result<T, crate::verdict::Trouble> {
        use crate::verdict::{failed, not_proven};
        if self.expects(part) { failed(what) } else { not_proven(what) }
    }

    #[cfg(test)]
    pub fn for_tests() -> Self {
        Self {
            board: Board::default(),
            config: Config::default(),
            problems: Vec::new(),
            expected: Vec::new(),
            patience: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Trouble;

    #[test]
    fn a_silent_part_is_a_failure_only_where_it_is_said_to_be_there() {
        let mut bench = Bench::for_tests();
        assert_eq!(bench.absent::<()>(Part::Display, "x"), Err(Trouble::NotProven("x".to_owned())));
        bench.expected.push(Part::Display);
        assert_eq!(bench.absent::<()>(Part::Display, "x"), Err(Trouble::Failed("x".to_owned())));
        assert_eq!(bench.absent::<()>(Part::Jumpers, "x"), Err(Trouble::NotProven("x".to_owned())));
    }

    #[test]
    fn parts_have_the_names_that_are_typed() {
        assert_eq!(Part::SecondPi.to_string(), "second-pi");
    }
}
