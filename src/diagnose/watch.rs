//! One board, boot after boot: when its boot counts as stuck, and the hint then.
//!
//! Pure; time is an argument. Silence is the stage's affair (`stage.rs`); here
//! are the boots that go on talking and get nowhere: questions repeated for ever,
//! refusals, restarts.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Hint;
use super::evidence::{Attempt, Dialogue, Reached};
use super::rule::{Case, Facts};
use super::rules;
use super::starting;
use crate::dhcp::{Answer, Asker, Request};
use crate::{nfs, tftp};

/// So many questions in so long a time lead nowhere: an EEPROM repeats after 4 s and a ROM
/// after 5, and a good boot needs one to three.
const QUESTIONS: u32 = 4;
const NO_PROGRESS: Duration = Duration::from_secs(30);
/// After this it is stuck even where no rule says why.
const SURELY_STUCK: Duration = Duration::from_secs(120);
/// Boots in a row without an end: the third one shows that it loops.
const LOOPS: u32 = 3;
/// What lies further back is another story.
const FORGOTTEN: Duration = Duration::from_secs(900);
/// A system that ran for so long did not end by a fault of its start.
const RAN: Duration = Duration::from_secs(300);
/// A system that is back without its root may be one whose cable was out, with nothing to read for a while.
const WITHOUT_ROOT: Duration = Duration::from_secs(300);
/// The ROM's DISCOVERs before it gives up.
const ROM_DISCOVERS: u32 = 5;

/// A judgement, as long as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub hint: Hint,
    /// How far that boot came.
    pub reached: Reached,
    pub since: Duration,
    /// It was silent: the next sign of life ends that.
    silent: bool,
}

impl Verdict {
    /// The stage, as the panel names it.
    pub fn at(&self) -> &'static str {
        match self.reached {
            Reached::Nothing | Reached::Asked => "asking",
            Reached::Leased => "address",
            Reached::FirstStage | Reached::Files => "loading",
            Reached::Kernel | Reached::System => "kernel",
            Reached::Mounted | Reached::Up => "starting",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    seen: Attempt,
    /// Boots since it was last up, this one included.
    boots: u32,
    /// Where the last boot broke off.
    broke: Option<Break>,
    verdict: Option<Verdict>,
}

/// Boots in a row that ended at the same byte of the same file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Break {
    file: String,
    at: u64,
    times: u32,
}

impl Watch {
    pub fn new(now: Duration) -> Self {
        Self { seen: Attempt::new(now), boots: 1, broke: None, verdict: None }
    }

    /// What this boot has shown so far.
    pub fn seen(&self) -> &Attempt {
        &self.seen
    }

    /// Boots since it was last up.
    pub fn boots(&self) -> u32 {
        self.boots
    }

    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// For a board that is no client: its ROM asks no more, however long ENROLL is pressed.
    pub fn gave_up(&self) -> bool {
        self.seen.asker == Some(Asker::PiRom) && self.seen.loader.discovers >= ROM_DISCOVERS
    }

    /// A DHCP message of it; a verdict when it began to boot once too often.
    pub fn asked(&mut self, now: Duration, request: &Request, facts: &Facts) -> Option<Hint> {
        let mut judged = None;
        if request.identity.asker.is_loader() && self.begins(now) {
            judged = self.begin(now, facts);
        }
        self.seen.asked(now, request);
        self.noted();
        judged
    }

    /// Whether a loader that asks now begins another boot.
    fn begins(&self, now: Duration) -> bool {
        match self.seen.reached {
            // The same question, repeated.
            Reached::Nothing | Reached::Asked | Reached::Leased => {
                !self.seen.files.is_empty() || now >= self.seen.heard + FORGOTTEN
            }
            // `bootcode.bin` asks; that its ROM began anew shows when it asks for that again.
            Reached::FirstStage => now >= self.seen.heard + FORGOTTEN,
            _ => true,
        }
    }

    fn begin(&mut self, now: Duration, facts: &Facts) -> Option<Hint> {
        let mut before = std::mem::replace(&mut self.seen, Attempt::new(now));
        before.files.cut();
        let another_story = before.reached == Reached::Up
            || before.ran() >= RAN
            || starting::starts_itself(&before)
            || now >= before.heard + FORGOTTEN;
        self.boots = if another_story { 1 } else { self.boots.saturating_add(1) };
        if another_story {
            self.verdict = None;
        }
        let same_place = self.broke_off(&before);
        if self.boots < LOOPS {
            return None;
        }
        let gap = now.saturating_sub(before.heard);
        let hint = rules::judge(&Case { loops: true, gap, same_place, ..Case::new(&before, facts) });
        // A hand at the switch looks the same, and may be there twice.
        if matches!(hint, Hint::PowerLost | Hint::BrokeOff) && self.boots == LOOPS {
            return None;
        }
        self.decide(now, hint, before.reached, false)
    }

    /// Where that boot broke off, and how many in a row did so there.
    fn broke_off(&mut self, before: &Attempt) -> u32 {
        let last = self.broke.take();
        self.broke = before.files.broken().map(|(file, at)| {
            let same = last.filter(|last| last.file == file && last.at == at);
            Break { file: file.to_owned(), at, times: same.map_or(0, |last| last.times).saturating_add(1) }
        });
        self.broke.as_ref().map_or(0, |broke| broke.times)
    }

    /// Nobody answers for its address any more: whatever is heard next is another story.
    pub fn gone(&mut self, now: Duration) {
        let was_up = self.seen.reached == Reached::Up;
        self.seen = Attempt { was_up, ..Attempt::new(now) };
        (self.boots, self.broke, self.verdict) = (1, None, None);
    }

    /// It answers, and runs something else than its root: as `gone`, and it is on.
    pub fn restarted(&mut self, now: Duration) {
        self.gone(now);
        self.seen = Attempt::restarted(now);
    }

    pub fn went_elsewhere(&mut self, loader: bool, server: Ipv4Addr) {
        self.seen.went_elsewhere(loader, server);
    }

    pub fn answered(&mut self, now: Duration, loader: bool, answer: Answer, binds: bool) {
        self.seen.answered(now, loader, answer, binds);
        self.noted();
    }

    /// A verdict when a ROM asks for its first file once too often.
    pub fn tftp(&mut self, now: Duration, event: &tftp::Event, facts: &Facts) -> Option<Hint> {
        let mut judged = None;
        if let tftp::Event::Started { path, .. } = event
            && path.ends_with("bootcode.bin")
            && self.seen.files.was_sent("bootcode.bin")
        {
            let (asker, asks) = (self.seen.asker, self.seen.second.clone());
            judged = self.begin(now, facts);
            // What it asked just before belongs to this boot.
            let last = Dialogue { discovers: asks.discovers.min(1), first: asks.last, ..asks };
            (self.seen.asker, self.seen.loader, self.seen.reached) = (asker, last, Reached::Leased);
        }
        self.seen.tftp(now, event);
        self.noted();
        judged
    }

    pub fn nfs(&mut self, now: Duration, event: &nfs::Event) {
        self.seen.nfs(now, event);
        self.noted();
    }

    pub fn up(&mut self, now: Duration) {
        // How it came there is of no more use.
        self.seen = Attempt::new(now);
        self.seen.up(now);
        (self.boots, self.broke, self.verdict) = (1, None, None);
    }

    /// It came further than where it was stuck, or spoke again.
    fn noted(&mut self) {
        let past = |verdict: &Verdict| match verdict.silent {
            true => self.seen.heard > verdict.since,
            false => self.seen.reached > verdict.reached,
        };
        if self.verdict.as_ref().is_some_and(past) {
            self.verdict = None;
        }
    }

    /// Its stage has been silent for too long: why, and whether that is news.
    pub fn silent(&mut self, now: Duration, facts: &Facts) -> (Hint, bool) {
        let hint = rules::judge(&Case { silent: true, ..Case::new(&self.seen, facts) });
        let news = self.decide(now, hint, self.seen.reached, true).is_some();
        (hint, news)
    }

    /// Lets time pass: a verdict when it talks and gets nowhere.
    pub fn poll(&mut self, now: Duration, facts: &Facts) -> Option<Hint> {
        if self.verdict.is_some() {
            return None;
        }
        let since = self.stuck_since()?;
        // While its root is being made, we are what it waits for.
        if now < since + NO_PROGRESS || (facts.store_open && !facts.has_root) {
            return None;
        }
        let hint = rules::judge(&Case::new(&self.seen, facts));
        if hint == Hint::Unknown && now < since + SURELY_STUCK {
            return None;
        }
        self.decide(now, hint, self.seen.reached, false)
    }

    fn decide(&mut self, now: Duration, hint: Hint, reached: Reached, silent: bool) -> Option<Hint> {
        let known = self.verdict.is_some_and(|verdict| verdict.hint == hint);
        if !known {
            self.verdict = Some(Verdict { hint, reached, since: now, silent });
        }
        (!known).then_some(hint)
    }

    /// Since when it repeats itself, if it does.
    fn stuck_since(&self) -> Option<Duration> {
        let (seen, calls) = (&self.seen, &self.seen.calls);
        let repeats = |asks: &Dialogue| (asks.discovers >= QUESTIONS).then_some(asks.first);
        match seen.reached {
            Reached::Asked | Reached::Leased if seen.files.is_empty() => repeats(&seen.loader),
            Reached::FirstStage => repeats(&seen.second),
            Reached::Leased | Reached::Files => {
                let deaf = seen.files.any(|file| file.repeated >= QUESTIONS);
                (deaf && !seen.files.any(|file| file.sent > 0)).then_some(seen.began)
            }
            Reached::System if starting::starts_itself(seen) => {
                // Where the stage says so, that wait is over.
                let wait = if seen.was_up && !seen.restarted {
                    WITHOUT_ROOT.saturating_sub(NO_PROGRESS)
                } else {
                    Duration::ZERO
                };
                Some(seen.system.first + wait)
            }
            Reached::Kernel | Reached::System => {
                let wrong = calls.refusals + calls.asked_nfs2 + calls.asked_nfs4 >= QUESTIONS;
                if wrong { Some(seen.began) } else { repeats(&seen.system) }
            }
            _ => None,
        }
    }
}
