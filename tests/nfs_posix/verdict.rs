//! What the suites found, by place and case, and what is to be said of it. Pure.

use std::collections::BTreeMap;

/// What each suite's program says of itself when it is done with nothing to complain of.
const SUCCESS: &str = "exit status: 0";
/// Of a suite with one verdict, the last lines that it said.
const MAX_LAST_LINES: usize = 4;
/// The suite whose cases are told one by one, also where it is run once more: then its name is longer.
pub const CASES: &str = "pjdfstest";
/// The run that tells what the one before it had to skip.
pub const REMOUNTS: &str = "pjdfstest-remounts";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// And what was said about it.
    Failed(String),
    Skipped(String),
}

/// What was told of one place.
#[derive(Default)]
pub struct Place {
    pub cases: BTreeMap<String, Outcome>,
    /// Of the suite that runs, and the suite's own count, from its last line.
    told: usize,
    total: Option<usize>,
    /// Lines below a case belong to it.
    current: Option<String>,
    last: Vec<String>,
}

impl Place {
    /// A line of a suite's.
    pub fn said(&mut self, suite: &str, line: &str) {
        if !suite.starts_with(CASES) {
            self.last.push(line.to_owned());
            if self.last.len() > MAX_LAST_LINES {
                self.last.remove(0);
            }
        } else if let Some(detail) = line.strip_prefix('\t') {
            let outcome = self.current.as_ref().and_then(|name| self.cases.get_mut(name));
            if let Some(Outcome::Failed(said) | Outcome::Skipped(said)) = outcome {
                said.push_str(if said.is_empty() { "" } else { "; " });
                said.push_str(detail.trim());
            }
        } else if let Some(summary) = line.strip_prefix("Summary: ") {
            self.total = summary.rsplit(", ").next().and_then(|last| last.strip_suffix(" total")?.parse().ok());
        } else if let Some((name, word)) = line.split_once(' ') {
            let outcome = match word.trim() {
                "ok" => Outcome::Passed,
                "FAILED" => Outcome::Failed(String::new()),
                "skipped" => Outcome::Skipped(String::new()),
                _ => return,
            };
            let name = format!("{} {name}", if suite == REMOUNTS { CASES } else { suite });
            self.told += 1;
            self.current = Some(name.clone());
            self.cases.insert(name, outcome);
        }
    }

    /// A suite's end, and how.
    pub fn ended(&mut self, suite: &str, how: &str) -> Result<(), String> {
        if suite.starts_with(CASES) {
            // It fails where a case does; that it was whole is told by its count.
            return match (std::mem::take(&mut self.told), self.total.take()) {
                (told, Some(total)) if told == total => Ok(()),
                (told, total) => Err(format!("{suite} told {told} cases and counted {total:?}: {how}")),
            };
        }
        let last = std::mem::take(&mut self.last);
        let failed = || Outcome::Failed(format!("{how}; {}", last.join("; ")));
        let outcome = if how.ends_with(SUCCESS) { Outcome::Passed } else { failed() };
        self.cases.insert(suite.to_owned(), outcome);
        Ok(())
    }
}

/// A case that passes on a local ext4 and not on our root, in each of the suite's runs, and why that is no fault of ours.
pub type Known = (&'static str, &'static str);

#[derive(Default, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub passed: usize,
    /// Of the table.
    pub known: usize,
    /// What a local ext4 fails or skips too.
    pub not_judged: Vec<String>,
    pub problems: Vec<String>,
}

pub fn judge(local: &Place, root: &Place, known: &[Known]) -> Verdict {
    let mut verdict = Verdict::default();
    let case = |name: &str| name.split_once(' ').map(|(_, case)| case.to_owned());
    for (name, _) in known {
        if !local.cases.keys().any(|other| case(other).as_deref() == Some(*name)) {
            verdict.problems.push(format!("{name}: is in the table of known ones, and no case"));
        }
    }
    for name in root.cases.keys().filter(|name| !local.cases.contains_key(*name)) {
        verdict.problems.push(format!("{name}: on our root only"));
    }
    for (name, outcome) in &local.cases {
        let is_known = known.iter().any(|(known, _)| case(name).as_deref() == Some(*known));
        match (outcome, root.cases.get(name)) {
            (_, None) => verdict.problems.push(format!("{name}: was not run on our root")),
            (Outcome::Passed, Some(Outcome::Passed)) if is_known => {
                verdict.problems.push(format!("{name}: passes, and is in the table of known ones"));
            }
            (Outcome::Passed, Some(Outcome::Passed)) => verdict.passed += 1,
            (Outcome::Passed, Some(_)) if is_known => verdict.known += 1,
            (Outcome::Passed, Some(found)) => verdict.problems.push(format!("{name}: {found:?}")),
            (Outcome::Failed(said) | Outcome::Skipped(said), Some(_)) => {
                if is_known {
                    verdict.problems.push(format!("{name}: is in the table of known ones, and not passed by ext4"));
                }
                verdict.not_judged.push(format!("{name}: {said}"));
            }
        }
    }
    verdict
}

/// That each kind of difference is seen: a judge that cannot fail proves nothing.
pub fn sees_differences() {
    let place = |lines: &[&str], fsx: &str| {
        let mut place = Place::default();
        lines.iter().for_each(|line| place.said(CASES, line));
        place.said(
            CASES,
            &format!("Summary: 0 failed, 0 skipped, 0 passed, 0 expected failures, {} total", {
                lines.iter().filter(|line| !line.starts_with('\t')).count()
            }),
        );
        place.ended(CASES, "1.0 s, exit status: 1").expect("as many as it counted");
        ["e ok", "Summary: 0 failed, 1 total"].iter().for_each(|line| place.said(REMOUNTS, line));
        place.ended(REMOUNTS, "1.0 s, exit status: 0").expect("as many as it counted");
        place.ended("fsx 1", fsx).expect("one verdict");
        place
    };
    let well = format!("1.0 s, {SUCCESS}");
    let local = [
        "a   ok",
        "b   ok",
        "c   ok",
        "d  FAILED",
        "\tsays d",
        "e skipped",
        "\twants e",
        "f ok",
        "g skipped",
        "\twants g",
    ];
    let root =
        ["a   ok", "b   FAILED", "\tsays b", "c   FAILED", "d  ok", "e skipped", "f skipped", "\twants f", "g ok"];
    let known = [("a", ""), ("c", ""), ("x", "")];
    let verdict = judge(&place(&local, &well), &place(&root, "1.0 s, signal: 9"), &known);
    assert_eq!((verdict.passed, verdict.known), (1, 1));
    assert_eq!(verdict.not_judged, ["pjdfstest d: says d", "pjdfstest g: wants g"]);
    assert_eq!(
        verdict.problems,
        [
            "x: is in the table of known ones, and no case",
            "fsx 1: Failed(\"1.0 s, signal: 9; \")",
            "pjdfstest a: passes, and is in the table of known ones",
            "pjdfstest b: Failed(\"says b\")",
            "pjdfstest f: Skipped(\"wants f\")",
        ]
    );
    let mut short = Place::default();
    ["a ok", "Summary: 0 failed, 2 total"].iter().for_each(|line| short.said(CASES, line));
    assert!(short.ended(CASES, &well).is_err(), "a suite that broke off");
}
