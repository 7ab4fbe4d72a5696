//! What a test found, and what that proves.
//!
//! Pure but for the thread that a test runs on.

use serde::Serialize;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::bench::Bench;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "detail", rename_all = "kebab-case")]
pub enum Verdict {
    Ok(String),
    Failed(String),
    NotProven(String),
}

/// Why a test did not pass.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    Failed(String),
    NotProven(String),
}

pub type Outcome = std::result::Result<String, Trouble>;

pub fn failed<T>(why: impl Into<String>) -> std::result::Result<T, Trouble> {
    Err(Trouble::Failed(why.into()))
}

pub fn not_proven<T>(why: impl Into<String>) -> std::result::Result<T, Trouble> {
    Err(Trouble::NotProven(why.into()))
}

/// Where a pass proves something.
#[derive(Debug, Clone, Copy)]
pub enum Proof {
    /// Also on an emulated board.
    Anywhere,
    /// Only on a real one: what an emulated board has instead.
    Board(&'static str),
}

pub struct Case {
    pub name: &'static str,
    pub proves: &'static str,
    pub proof: Proof,
    pub run: fn(&Bench) -> Outcome,
    /// It hangs if it takes longer.
    pub minutes: u64,
}

impl Case {
    /// Runs it; a panic and a hang are failures.
    pub fn judge(&self, bench: &Bench) -> Verdict {
        let limit = Duration::from_secs(self.minutes * 60);
        let (done, ended) = channel();
        let (run, mine) = (self.run, bench.clone());
        // Not joined: a hanging driver would keep the other tests from running.
        std::thread::spawn(move || done.send(run(&mine)));
        let outcome = match ended.recv_timeout(limit) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => failed(format!("it had not ended after {} s", limit.as_secs())),
            Err(RecvTimeoutError::Disconnected) => failed("it panicked; the message is above"),
        };
        settle(outcome, self.proof, bench.board.emulated.is_some())
    }
}

fn settle(outcome: Outcome, proof: Proof, emulated: bool) -> Verdict {
    match (outcome, proof) {
        (Ok(detail), Proof::Board(instead)) if emulated => {
            Verdict::NotProven(format!("emulated, {instead}; it ran: {detail}"))
        }
        (Ok(detail), _) => Verdict::Ok(detail),
        (Err(Trouble::Failed(why)), _) => Verdict::Failed(why),
        (Err(Trouble::NotProven(why)), _) => Verdict::NotProven(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulated_board_can_fail_a_test_but_never_pass_one_that_needs_a_real_board() {
        let board = Proof::Board("no sensor");
        assert_eq!(settle(Ok("25 °C".into()), board, false), Verdict::Ok("25 °C".into()));
        let told = "emulated, no sensor; it ran: 25 °C".to_owned();
        assert_eq!(settle(Ok("25 °C".into()), board, true), Verdict::NotProven(told));
        assert_eq!(settle(Ok("here".into()), Proof::Anywhere, true), Verdict::Ok("here".into()));
        for proof in [board, Proof::Anywhere] {
            assert_eq!(settle(failed("no"), proof, true), Verdict::Failed("no".into()));
            assert_eq!(settle(not_proven("no"), proof, true), Verdict::NotProven("no".into()));
        }
    }

    #[test]
    fn a_panic_and_a_hang_are_failures() {
        let bench = Bench::for_tests();
        let judge = |run, minutes| Case { name: "x", proves: "", proof: Proof::Anywhere, run, minutes }.judge(&bench);
        assert!(matches!(judge(|_| panic!("on purpose"), 1), Verdict::Failed(why) if why.contains("panicked")));
        let sleeps = |_: &Bench| {
            std::thread::sleep(Duration::from_secs(3600));
            Ok(String::new())
        };
        let sleeps = judge(sleeps, 0);
        assert!(matches!(sleeps, Verdict::Failed(why) if why.contains("had not ended")));
    }
}
