//! What a person sees of the demo: the steps, the OLED, the keys, the summary.

use std::cell::RefCell;
use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::support::panel_tty::Shown;

/// Prints progress; knows whether a person sits there.
pub struct Show {
    interactive: bool,
    started: Instant,
    figures: RefCell<Vec<(String, String)>>,
    passed: RefCell<Vec<String>>,
}

impl Show {
    pub fn new() -> Self {
        Self {
            interactive: std::io::stdin().is_terminal(),
            started: Instant::now(),
            figures: RefCell::default(),
            passed: RefCell::default(),
        }
    }

    fn clock(&self) -> String {
        format!("{:7.1}s", self.started.elapsed().as_secs_f32())
    }

    pub fn step(&self, what: &str) {
        println!("\n{} == {what}", self.clock());
    }

    pub fn note(&self, what: &str) {
        println!("{}    {what}", self.clock());
    }

    pub fn passed_step(&self, what: &str) {
        println!("{} ok {what}", self.clock());
        self.passed.borrow_mut().push(what.to_owned());
    }

    pub fn passed(&self) -> usize {
        self.passed.borrow().len()
    }

    pub fn figure(&self, what: &str, took: Duration) {
        self.figure_text(what, &format!("{:.2} s", took.as_secs_f32()));
    }

    pub fn figure_text(&self, what: &str, value: &str) {
        println!("{}    {what}: {value}", self.clock());
        self.figures.borrow_mut().push((what.to_owned(), value.to_owned()));
    }

    /// Waits for the person's key; without one the demo presses by itself.
    pub fn press_by_person(&self, what: &str) {
        if self.interactive {
            println!("{}    >>> press Return to {what}", self.clock());
            let _ = std::io::stdin().lock().read_line(&mut String::new());
        } else {
            println!("{}    (no terminal: the demo does it: {what})", self.clock());
        }
    }

    fn summary(&self) {
        println!("\n-- summary --");
        for (what, value) in self.figures.borrow().iter() {
            println!("{what:.<52} {value}");
        }
    }

    /// The summary, and how it ended, in the lines that a test runner's reader looks for.
    pub fn end(&self, name: &str, result: Result<(), String>) -> ExitCode {
        self.summary();
        match result {
            Ok(()) => {
                println!("\n{} passed, 0 failed", self.passed());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("\n{name} failed: {error}\n\n{} passed, 1 failed", self.passed());
                ExitCode::FAILURE
            }
        }
    }

    /// How screens are shown while the demo goes on.
    pub fn screens() -> impl Fn(&Shown) + Send + 'static {
        let pictures = std::io::stdout().is_terminal() || std::env::var_os("ROOTSTOCK_DEMO_PICTURES").is_some();
        let last = std::sync::Mutex::new((String::new(), Instant::now()));
        move |shown| {
            let mut last = last.lock().expect("nothing panics with it");
            // Progress changes often: its words once in a few seconds are enough.
            let same_kind = kind(&last.0) == kind(&shown.words);
            if last.0 == shown.words || (same_kind && last.1.elapsed() < Duration::from_secs(5)) {
                return;
            }
            *last = (shown.words.clone(), Instant::now());
            // One write, since the demo's own lines come from another thread.
            let mut text = String::new();
            if pictures {
                let rows: Vec<String> = shown.braille().iter().map(|row| format!("    │{row}│\n")).collect();
                let edge = "─".repeat(64);
                text = format!("    ┌{edge}┐\n{}    └{edge}┘\n", rows.concat());
            }
            println!("{text}    OLED: {}", shown.words);
        }
    }
}

/// A screen's words without its figures.
fn kind(words: &str) -> String {
    words.chars().filter(|c| !c.is_ascii_digit()).collect()
}
