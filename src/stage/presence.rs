//! Whether a started client is still there, and is still the system that was started from here.
//!
//! Pure. Three kinds of evidence: nobody answers ARP for its address; the system there does not know the
//! client's NFS connection; or it asked for an address as a starting system does, and then did
//! without its root. Lease renewals that stay away prove nothing: a kernel's own `ip=dhcp` never renews.
//!
//! Not seen: a system on a card of its own that has the client's address without asking for it, where the client had rested
//! for so long that its connection was closed in order (Linux does after five minutes).

use std::time::Duration;

use super::Sign;

/// A started client of which nothing was heard for so long is asked for by ARP:
/// an idle system calls its root every few seconds, or rests for minutes.
const QUIET: Duration = Duration::from_secs(30);
/// Between questions of which none was answered.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// So many unanswered questions mean that it is gone. ARP is lost like any frame.
const SILENCES: u8 = 3;
/// A client whose connection broke opens another as soon as it needs it, which is at once where calls were under way.
const RECONNECTS: Duration = Duration::from_secs(15);
/// A system whose cable was out asks for its address anew, and may rest then.
const WITHOUT_ROOT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Presence {
    /// When it was last known to be there.
    seen: Duration,
    asked: Option<Duration>,
    silences: u8,
    /// Another system runs there if its root is not used before this.
    restarted_at: Option<Duration>,
}

impl Presence {
    /// Somebody answered for its address.
    pub(super) fn seen(&mut self, now: Duration) {
        (self.seen, self.asked, self.silences) = (now, None, 0);
    }

    /// A sign of its own.
    pub(super) fn spoke(&mut self, now: Duration, sign: &Sign, may_run: bool) {
        self.seen(now);
        match sign {
            Sign::SystemAsks | Sign::SystemRemembers if may_run => self.suspect(now + WITHOUT_ROOT),
            Sign::SystemAsks | Sign::SystemRemembers => {}
            _ => self.restarted_at = None,
        }
    }

    pub(super) fn reset(&mut self, now: Duration) {
        self.suspect(now + RECONNECTS);
    }

    fn suspect(&mut self, at: Duration) {
        self.restarted_at = Some(self.restarted_at.map_or(at, |before| before.min(at)));
    }

    pub(super) fn restarted_at(&self) -> Option<Duration> {
        self.restarted_at
    }

    pub(super) fn is_restarted(&self, now: Duration) -> bool {
        self.restarted_at.is_some_and(|at| now >= at)
    }

    /// It may be going down: it is asked for at once. Since when it then counts as quiet.
    pub(super) fn doubt(&mut self, now: Duration) -> Duration {
        let quiet = now.saturating_sub(QUIET);
        self.seen = self.seen.min(quiet);
        quiet
    }

    /// Nobody answered; false where that is an answer to somebody else's question, or to one from before it spoke again.
    pub(super) fn silent(&mut self) -> bool {
        if self.asked.is_some() {
            self.silences = self.silences.saturating_add(1);
        }
        self.asked.is_some()
    }

    pub(super) fn is_unanswered(&self) -> bool {
        self.silences >= SILENCES
    }

    /// When to ask for it, where it was last heard of at `heard`.
    pub(super) fn ask_at(&self, heard: Duration) -> Duration {
        match self.asked {
            Some(asked) => asked + ASK_AGAIN,
            None => heard.max(self.seen) + QUIET,
        }
    }

    pub(super) fn asked(&mut self, now: Duration) {
        self.asked = Some(now);
    }
}
