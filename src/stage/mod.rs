//! How far a client's boot has come, told from what passes through us, and
//! when it has been silent for too long. Why, `diagnose` says.
//!
//! Pure. Time is the duration since the server's start. What is evidence of what:
//!
//! | stage | evidence |
//! |---|---|
//! | asks | a DISCOVER of a boot ROM or loader |
//! | leased | we bound its address for that loader |
//! | loading | it asked TFTP for a boot file; what was sent counts |
//! | kernel, initramfs | a DISCOVER of Linux' own client, or of another one before the root is mounted (`dhcp::quirks::Program`) |
//! | root mounted | MNT of its root was answered |
//! | up | its own `rootstock-up.service`, which starts last, wrote so into its root; of a read-only client: it mounted its boot tree, which its system does and no initramfs |
//! | running | a minute has passed since; or it uses its root and its boot was not seen |
//! | gone | it was up, or went down in order, was silent, and three questions to the wire (ARP) for its address had no answer: within 45 s of its last word |
//! | | or it was up, and another system answers: one that does not know its NFS connection (the keep-alive asks after 60 s of rest) and opens none in 15 s, or that asked for an address and used the root in no way for five minutes |
//! | stalled | none of these for too long |
//!
//! "Up" is never guessed from traffic.

mod load;
mod presence;

use std::time::Duration;

use crate::diagnose::Hint;
use crate::status::Stage;
use load::Load;
use presence::Presence;

/// Something seen of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// DISCOVER by a boot ROM or bootloader: a boot begins.
    BootloaderAsks,
    /// DISCOVER by the kernel itself (`ip=dhcp`).
    KernelAsks,
    /// DISCOVER by klibc's `ipconfig`, which only an initramfs has.
    InitramfsAsks,
    /// DISCOVER by any other client: an initramfs or an operating system.
    SystemAsks,
    /// REQUEST by such a one for an address that it remembers (INIT-REBOOT).
    SystemRemembers,
    /// An address was offered to a ROM that never sends a REQUEST, or acknowledged.
    Leased,
    /// It asks for a boot file.
    FileAsked { path: String },
    /// Of the file under way so many bytes are sent.
    FileProgress { bytes: u64 },
    /// A transfer ended with so many bytes sent.
    FileSent { bytes: u64 },
    /// MNT of its root was answered.
    RootMounted,
    /// Reads or writes on its trees.
    Traffic,
    /// It wrote that its start is complete.
    Up,
    /// It unmounted something: it may be shutting down.
    Unmounted,
    /// The system at its address does not know its NFS connection (a TCP reset), and it has no other.
    Reset,
    /// It answers ARP for its address.
    Answers,
    /// Nobody answers ARP for its address.
    Silent,
}

/// How long a stage may last without any sign.
struct Patience {
    at: &'static str,
    limit: Duration,
}

/// Up for so long is running.
const SETTLED: Duration = Duration::from_secs(60);
/// A system that uses its root for so long has started, whether or not it says so.
const STARTED: Duration = Duration::from_secs(300);

/// One client's boot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Boot {
    stage: Stage,
    /// When this stage began.
    entered: Duration,
    /// When the last sign of any kind came.
    heard: Duration,
    /// When the bootloader first asked.
    began: Option<Duration>,
    load: Load,
    /// It was up in this boot, so long after its beginning.
    up: Option<Option<Duration>>,
    alive: Presence,
    /// It unmounted something since its last sign of a boot: it goes down in order.
    goes_down: bool,
    /// The history has a record of it.
    written: bool,
}

/// A boot takes longer from its mount to the next one's kernel.
const LATE: Duration = Duration::from_secs(10);

impl Boot {
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// How long it has been in its stage.
    pub fn since(&self, now: Duration) -> Duration {
        now.saturating_sub(self.entered)
    }

    /// How long nothing was heard of it.
    pub fn quiet(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard)
    }

    /// How long the boot took or takes, from the first DISCOVER.
    pub fn took(&self, now: Duration) -> Option<Duration> {
        self.began.map(|began| now.saturating_sub(began))
    }

    /// Bytes of boot files that it got in this boot.
    pub fn loaded(&self) -> u64 {
        self.load.bytes()
    }

    /// Whether the history has a record of this boot already.
    pub fn is_written(&self) -> bool {
        self.written
    }

    pub fn set_written(&mut self) {
        self.written = true;
    }

    /// What a boot of this board with this image needs: the measure of its loading.
    pub fn expect(&mut self, total: Option<u64>) {
        self.load.total = total;
    }

    /// Takes a sign in; true when the stage is another one now (a new file of
    /// the same loading is the same stage).
    pub fn observe(&mut self, now: Duration, sign: Sign) -> bool {
        match sign {
            Sign::Unmounted => {
                // It is asked for at once.
                self.heard = self.heard.min(self.alive.doubt(now));
                self.goes_down = true;
                return false;
            }
            Sign::Silent => return self.silent(now),
            Sign::Reset => {
                self.alive.reset(now);
                return false;
            }
            Sign::Answers => self.alive.seen(now),
            _ => {
                self.heard = now;
                let may_run = self.stage.is_up() || self.stage == Stage::Gone;
                self.alive.spoke(now, &sign, may_run);
            }
        }
        self.load.count(now, &sign);
        let asks = sign == Sign::BootloaderAsks;
        let next = self.next(now, sign);
        if asks && next.is_some() && self.stage != Stage::Discovered {
            self.began = Some(now);
            self.up = None;
            self.written = false;
            self.load.begin_anew();
        }
        let Some(stage) = next else { return false };
        if let Stage::Up { after } | Stage::Running { after } = stage {
            self.up = Some(after);
        }
        self.enter(now, stage)
    }

    fn enter(&mut self, now: Duration, stage: Stage) -> bool {
        let changed = std::mem::discriminant(&stage) != std::mem::discriminant(&self.stage);
        if changed {
            self.entered = now;
            self.goes_down = false;
        }
        self.stage = stage;
        changed
    }

    fn silent(&mut self, now: Duration) -> bool {
        self.alive.silent() && self.is_unanswered() && self.can_go() && !self.stopped() && self.enter(now, Stage::Gone)
    }

    /// Nobody answers for its address, asked often enough.
    pub fn is_unanswered(&self) -> bool {
        self.alive.is_unanswered()
    }

    /// Its system stopped in the middle of its start, which is no ordinary end: it stalled, and is not merely gone.
    fn stopped(&self) -> bool {
        let starts = self.stage == Stage::RootMounted && self.up.is_none() && self.heard < self.entered + STARTED;
        self.is_unanswered() && starts && !self.goes_down
    }

    fn next(&self, now: Duration, sign: Sign) -> Option<Stage> {
        match (&self.stage, sign) {
            // A ROM repeats DISCOVER until it is served: the same boot goes on.
            (Stage::Leased, Sign::BootloaderAsks) => None,
            // The Pi 3's ROM loads bootcode.bin, which then asks for itself.
            (Stage::Loading { file, .. }, Sign::BootloaderAsks) if is_first_stage(file) => None,
            (_, Sign::BootloaderAsks) => Some(Stage::Discovered),
            (Stage::Kernel, Sign::KernelAsks) | (Stage::Initramfs, Sign::InitramfsAsks) => None,
            // A request that was late on its way: its answer led to this mount.
            (Stage::RootMounted, Sign::KernelAsks | Sign::InitramfsAsks) if self.since(now) < LATE => None,
            // Nothing else has these clients, so where one asks, it boots.
            (_, Sign::KernelAsks) => Some(Stage::Kernel),
            (_, Sign::InitramfsAsks) => Some(Stage::Initramfs),
            // The operating system renews or asks anew while it runs: no new boot.
            (Stage::RootMounted | Stage::Up { .. } | Stage::Running { .. }, Sign::SystemAsks) => None,
            // It may run since before this server did.
            (Stage::Off | Stage::Gone, Sign::SystemAsks) => None,
            // Before its root is mounted no system runs.
            (_, Sign::SystemAsks) => Some(Stage::Initramfs),
            (Stage::Discovered, Sign::Leased) => Some(Stage::Leased),
            (_, Sign::Leased) => None,
            (Stage::Up { .. } | Stage::Running { .. } | Stage::RootMounted, Sign::FileAsked { .. }) => None,
            (_, Sign::FileAsked { path }) => Some(self.load.stage(now, &path)),
            (Stage::Loading { file, .. }, Sign::FileSent { .. } | Sign::FileProgress { .. }) => {
                Some(self.load.stage(now, file))
            }
            (_, Sign::FileSent { .. } | Sign::FileProgress { .. }) => None,
            (Stage::Up { .. } | Stage::Running { .. }, Sign::RootMounted) => None,
            (_, Sign::RootMounted) => Some(Stage::RootMounted),
            // It uses its root, and its boot was not seen: it ran before this server did.
            (Stage::Off, Sign::Traffic) => Some(Stage::Running { after: None }),
            // Of what runs there now we know that it is not its system.
            (Stage::Gone, Sign::Answers) if self.alive.is_restarted(now) => None,
            // Its cable was out, say.
            (Stage::Gone, Sign::Traffic | Sign::Answers) => Some(match self.up {
                Some(after) => Stage::Running { after },
                None => Stage::RootMounted,
            }),
            (Stage::Stalled { .. }, Sign::Traffic) => Some(Stage::RootMounted),
            (_, Sign::Traffic | Sign::Answers | Sign::SystemRemembers) => None,
            (Stage::Up { .. } | Stage::Running { .. }, Sign::Up) => None,
            (_, Sign::Up) => Some(Stage::Up { after: self.took(now) }),
            (_, Sign::Unmounted | Sign::Silent | Sign::Reset) => None,
        }
    }

    /// Why a stage may last only so long.
    fn patience(&self) -> Option<Patience> {
        let patience = |at, seconds| Some(Patience { at, limit: Duration::from_secs(seconds) });
        match self.stage {
            Stage::Off | Stage::Up { .. } | Stage::Running { .. } | Stage::Gone | Stage::Stalled { .. } => None,
            Stage::Discovered => patience("asking", 40),
            Stage::Leased => patience("address", 40),
            Stage::Loading { .. } => patience("loading", 60),
            Stage::Kernel | Stage::Initramfs => patience("kernel", 90),
            Stage::RootMounted => patience("starting", 300),
        }
    }

    /// Whether silence on the wire means that it is gone: from its kernel on it
    /// answers ARP; a loader does not.
    fn can_go(&self) -> bool {
        matches!(self.stage, Stage::RootMounted | Stage::Up { .. } | Stage::Running { .. })
    }

    /// When it counts as gone although it answers: another system runs on it than the one that was up.
    fn restarted_at(&self) -> Option<Duration> {
        self.alive.restarted_at().filter(|_| self.stage.is_up())
    }

    /// When to ask the wire whether it is still there.
    pub fn ask_at(&self) -> Option<Duration> {
        self.can_go().then(|| self.alive.ask_at(self.heard))
    }

    /// The wire is being asked.
    pub fn asked(&mut self, now: Duration) {
        self.alive.asked(now);
    }

    /// When its stage changes if nothing more is heard.
    pub fn deadline(&self) -> Option<Duration> {
        let restarted = self.restarted_at();
        match self.stage {
            Stage::Up { .. } => Some(restarted.unwrap_or(Duration::MAX).min(self.entered + SETTLED)),
            Stage::Running { .. } => restarted,
            _ if self.stopped() => Some(self.heard),
            _ => self.patience().map(|patience| self.heard + patience.limit),
        }
    }

    /// Lets time pass; true when its stage is another one now. One that stalled is to be explained.
    pub fn poll(&mut self, now: Duration) -> bool {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return false;
        }
        if self.stage.is_up() && self.alive.is_restarted(now) {
            return self.enter(now, Stage::Gone);
        }
        if let Stage::Up { after } = self.stage {
            return self.enter(now, Stage::Running { after });
        }
        let Some(patience) = self.patience() else { return false };
        self.enter(now, Stage::Stalled { at: patience.at.into(), hint: Hint::Unknown })
    }

    /// Why it stalled, as `diagnose` found.
    pub fn explain(&mut self, why: Hint) {
        if let Stage::Stalled { hint, .. } = &mut self.stage {
            *hint = why;
        }
    }
}

/// The files that a boot ROM loads, before a later stage starts DHCP once more.
fn is_first_stage(path: &str) -> bool {
    path.ends_with("bootcode.bin") || path.ends_with("bootsig.bin")
}

#[cfg(test)]
mod tests;
