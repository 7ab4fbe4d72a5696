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
//! | gone | it was up, or went down in order, was silent, and three questions to the wire (ARP) for its address had no answer |
//! | stalled | none of these for too long |
//!
//! "Up" is never guessed from traffic.

use std::time::Duration;

use crate::diagnose::Hint;
use crate::status::Stage;

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
/// A started client of which nothing was heard for so long is asked for by ARP:
/// an idle system calls its root every few seconds, or rests for minutes.
const QUIET: Duration = Duration::from_secs(30);
/// Between questions of which none was answered.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// So many unanswered questions mean that it is gone. ARP is lost like any frame.
const SILENCES: u8 = 3;
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
    alive: Alive,
    /// It unmounted something since its last sign of a boot: it goes down in order.
    goes_down: bool,
    /// The history has a record of it.
    written: bool,
}

/// What was loaded in this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Load {
    /// Of files that are over.
    done: u64,
    /// Of the one under way.
    current: u64,
    began: Option<Duration>,
    /// What it is known to need.
    total: Option<u64>,
}

/// A boot takes longer from its mount to the next one's kernel.
const LATE: Duration = Duration::from_secs(10);

/// Questions to the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Alive {
    /// When it was last known to be there.
    seen: Duration,
    asked: Option<Duration>,
    silences: u8,
}

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
        self.load.done.saturating_add(self.load.current)
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
                self.alive.seen = self.alive.seen.min(now.saturating_sub(QUIET));
                self.heard = self.heard.min(now.saturating_sub(QUIET));
                self.goes_down = true;
                return false;
            }
            Sign::Silent => return self.silent(now),
            Sign::Answers => (self.alive.seen, self.alive.asked, self.alive.silences) = (now, None, 0),
            _ => {
                self.heard = now;
                (self.alive.seen, self.alive.asked, self.alive.silences) = (now, None, 0);
            }
        }
        self.count(now, &sign);
        let asks = sign == Sign::BootloaderAsks;
        let next = self.next(now, sign);
        if asks && next.is_some() && self.stage != Stage::Discovered {
            self.began = Some(now);
            self.up = None;
            self.written = false;
            self.load = Load { total: self.load.total, ..Load::default() };
        }
        let Some(stage) = next else { return false };
        if let Stage::Up { after } = stage {
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
        // An answer to somebody else's question, or to one from before it spoke again.
        if self.alive.asked.is_none() {
            return false;
        }
        self.alive.silences = self.alive.silences.saturating_add(1);
        self.is_unanswered() && self.can_go() && !self.stopped() && self.enter(now, Stage::Gone)
    }

    /// Nobody answers for its address, asked often enough.
    pub fn is_unanswered(&self) -> bool {
        self.alive.silences >= SILENCES
    }

    /// Its system stopped in the middle of its start, which is no ordinary end: it stalled, and is not merely gone.
    fn stopped(&self) -> bool {
        let starts = self.stage == Stage::RootMounted && self.up.is_none() && self.heard < self.entered + STARTED;
        self.is_unanswered() && starts && !self.goes_down
    }

    /// Adds up what TFTP sends.
    fn count(&mut self, now: Duration, sign: &Sign) {
        let load = &mut self.load;
        match sign {
            Sign::FileAsked { .. } => {
                load.began = load.began.or(Some(now));
                // What was left unfinished was not loaded.
                load.current = 0;
            }
            Sign::FileProgress { bytes } => load.current = *bytes,
            Sign::FileSent { bytes } => (load.done, load.current) = (load.done.saturating_add(*bytes), 0),
            _ => {}
        }
    }

    fn loading(&self, now: Duration, file: &str) -> Stage {
        let bytes = self.loaded();
        let time = now.saturating_sub(self.load.began.unwrap_or(now));
        // Over less than half a second an average says nothing.
        let per_second = if time.as_millis() < 500 { 0 } else { u128::from(bytes) * 1000 / time.as_millis() };
        Stage::Loading {
            bytes,
            total: self.load.total,
            bytes_per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
            file: file.to_owned(),
        }
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
            (_, Sign::FileAsked { path }) => Some(self.loading(now, &path)),
            (Stage::Loading { file, .. }, Sign::FileSent { .. } | Sign::FileProgress { .. }) => {
                Some(self.loading(now, file))
            }
            (_, Sign::FileSent { .. } | Sign::FileProgress { .. }) => None,
            (Stage::Up { .. } | Stage::Running { .. }, Sign::RootMounted) => None,
            (_, Sign::RootMounted) => Some(Stage::RootMounted),
            // It uses its root, and its boot was not seen: it ran before this server did.
            (Stage::Off, Sign::Traffic) => Some(Stage::Running { after: None }),
            // Its cable was out, say.
            (Stage::Gone, Sign::Traffic | Sign::Answers) => Some(match self.up {
                Some(after) => Stage::Running { after },
                None => Stage::RootMounted,
            }),
            (Stage::Stalled { .. }, Sign::Traffic) => Some(Stage::RootMounted),
            (_, Sign::Traffic | Sign::Answers) => None,
            (Stage::Up { .. } | Stage::Running { .. }, Sign::Up) => None,
            (_, Sign::Up) => Some(Stage::Up { after: self.took(now) }),
            (_, Sign::Unmounted | Sign::Silent) => None,
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

    /// When to ask the wire whether it is still there.
    pub fn ask_at(&self) -> Option<Duration> {
        self.can_go().then(|| match self.alive.asked {
            Some(asked) => asked + ASK_AGAIN,
            None => self.heard.max(self.alive.seen) + QUIET,
        })
    }

    /// The wire is being asked.
    pub fn asked(&mut self, now: Duration) {
        self.alive.asked = Some(now);
    }

    /// When its stage changes if nothing more is heard.
    pub fn deadline(&self) -> Option<Duration> {
        match self.stage {
            Stage::Up { .. } => Some(self.entered + SETTLED),
            _ if self.stopped() => Some(self.heard),
            _ => self.patience().map(|patience| self.heard + patience.limit),
        }
    }

    /// Lets time pass; true when its stage is another one now. One that stalled is to be explained.
    pub fn poll(&mut self, now: Duration) -> bool {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return false;
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
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn check(signs: impl IntoIterator<Item = (u64, Sign)>, expected: Stage) -> Boot {
        let mut boot = Boot::default();
        for (seconds, sign) in signs {
            boot.poll(at(seconds));
            boot.observe(at(seconds), sign);
        }
        assert_eq!(*boot.stage(), expected);
        boot
    }

    fn file(path: &str) -> Sign {
        Sign::FileAsked { path: path.to_owned() }
    }

    fn loading(bytes: u64, bytes_per_second: u64, file: &str) -> Stage {
        Stage::Loading { bytes, total: None, bytes_per_second, file: file.to_owned() }
    }

    #[test]
    fn a_boot_runs_through_every_stage() {
        use Sign::*;
        let begin = [(1, BootloaderAsks), (2, Leased), (3, file("start4.elf")), (4, FileSent { bytes: 10 })];
        check(begin.clone(), loading(10, 10, "start4.elf"));
        let more = [(5, file("kernel8.img")), (6, FileProgress { bytes: 50 }), (7, FileSent { bytes: 90 })];
        check(begin.clone().into_iter().chain(more[..2].to_vec()), loading(60, 20, "kernel8.img"));
        check(begin.clone().into_iter().chain(more.clone()), loading(100, 25, "kernel8.img"));
        let kernel = [(10, KernelAsks), (10, Leased)];
        check(begin.clone().into_iter().chain(more.clone()).chain(kernel.clone()), Stage::Kernel);
        let rest = [(12, RootMounted), (13, Traffic), (31, Up), (99, SystemAsks)];
        let all = begin.into_iter().chain(more).chain(kernel).chain(rest);
        check(all.clone(), Stage::Running { after: Some(at(30)) });
        check(all.take(12), Stage::Up { after: Some(at(30)) });
    }

    #[test]
    fn who_asks_tells_the_kernel_from_the_initramfs_and_from_the_system() {
        use Sign::*;
        let cases: [(&[Sign], Stage); 8] = [
            (&[BootloaderAsks, KernelAsks], Stage::Kernel),
            (&[BootloaderAsks, KernelAsks, InitramfsAsks], Stage::Initramfs),
            // Debian 13's initramfs has another client: no system runs before its root is mounted.
            (&[BootloaderAsks, KernelAsks, SystemAsks], Stage::Initramfs),
            (&[RootMounted, SystemAsks], Stage::RootMounted),
            (&[RootMounted, Up, SystemAsks], Stage::Up { after: None }),
            // A reboot whose loader we did not hear.
            (&[RootMounted, Up, InitramfsAsks], Stage::Initramfs),
            // Of a client that ran before us nothing follows from its renewal.
            (&[SystemAsks], Stage::Off),
            (&[SystemAsks, Traffic], Stage::Running { after: None }),
        ];
        for (signs, expected) in cases {
            check(signs.iter().cloned().map(|sign| (1, sign)), expected);
        }
    }

    #[test]
    fn a_late_request_of_the_kernel_does_not_undo_the_mount_and_a_reboot_does() {
        check([(20, Sign::KernelAsks), (20, Sign::RootMounted), (21, Sign::KernelAsks)], Stage::RootMounted);
        check([(20, Sign::KernelAsks), (20, Sign::RootMounted), (31, Sign::KernelAsks)], Stage::Kernel);
    }

    #[test]
    fn a_file_that_was_given_up_does_not_count() {
        use Sign::*;
        let signs = [(1, file("a")), (2, FileProgress { bytes: 7 }), (3, file("b")), (4, FileSent { bytes: 2 })];
        let boot = check(signs, loading(2, 0, "b"));
        assert_eq!(boot.loaded(), 2);
    }

    #[test]
    fn loading_is_measured_by_what_the_boot_is_known_to_need() {
        let mut boot = Boot::default();
        boot.expect(Some(200));
        boot.observe(at(1), Sign::BootloaderAsks);
        boot.observe(at(2), file("kernel8.img"));
        boot.observe(at(4), Sign::FileSent { bytes: 100 });
        assert_eq!(boot.stage().per_mille(), Some(500));
    }

    #[test]
    fn a_repeated_discover_does_not_begin_a_new_boot() {
        use Sign::*;
        check(
            [(1, BootloaderAsks), (6, BootloaderAsks), (7, Leased), (8, BootloaderAsks), (9, Up)],
            Stage::Up { after: Some(at(8)) },
        );
    }

    #[test]
    fn bootcode_asking_again_is_the_same_boot() {
        use Sign::*;
        let first = [(1, BootloaderAsks), (2, Leased), (3, file("bootcode.bin")), (4, BootloaderAsks), (5, Leased)];
        check(first.into_iter().chain([(41, Up)]), Stage::Up { after: Some(at(40)) });
    }

    #[test]
    fn a_reboot_starts_over() {
        use Sign::*;
        let boot = check(
            [
                (1, BootloaderAsks),
                (2, file("a")),
                (3, FileSent { bytes: 9 }),
                (5, Up),
                (100, BootloaderAsks),
                (110, Up),
            ],
            Stage::Up { after: Some(at(10)) },
        );
        assert_eq!(boot.loaded(), 0);
    }

    #[test]
    fn silence_stalls_with_the_place_and_a_hint() {
        let mut boot = check([(1, Sign::BootloaderAsks)], Stage::Discovered);
        assert_eq!(boot.deadline(), Some(at(41)));
        assert!(!boot.poll(at(40)));
        assert!(boot.poll(at(41)));
        assert!(matches!(boot.stage(), Stage::Stalled { at, .. } if at == "asking"));
        assert!(boot.observe(at(50), file("start4.elf")), "a sign of life ends the stall");
    }

    #[test]
    fn a_running_client_is_recognised_after_a_restart_of_the_server() {
        check([(1, Sign::Traffic)], Stage::Running { after: None });
        check([(1, Sign::RootMounted), (2, Sign::Traffic)], Stage::RootMounted);
    }

    /// Asks whenever that is due, and takes the same answer each time.
    fn ask(boot: &mut Boot, from: u64, to: u64, answer: Sign) -> usize {
        let mut asked = 0;
        for second in from..to {
            boot.poll(at(second));
            if boot.ask_at().is_some_and(|due| at(second) >= due) {
                boot.asked(at(second));
                asked += 1;
                boot.observe(at(second), answer.clone());
            }
        }
        asked
    }

    #[test]
    fn a_silent_client_that_answers_arp_is_still_there() {
        let mut boot = check([(1, Sign::Up)], Stage::Up { after: None });
        assert_eq!(ask(&mut boot, 1, 301, Sign::Answers), 9);
        assert_eq!(*boot.stage(), Stage::Running { after: None });
    }

    #[test]
    fn a_client_is_gone_after_three_unanswered_questions_and_comes_back_by_a_sign() {
        let mut boot = check([(1, Sign::BootloaderAsks), (21, Sign::Up)], Stage::Up { after: Some(at(20)) });
        assert_eq!(ask(&mut boot, 21, 61, Sign::Silent), 2);
        assert!(boot.stage().is_up());
        assert_eq!(ask(&mut boot, 61, 600, Sign::Silent), 1);
        assert_eq!((boot.stage(), boot.since(at(71))), (&Stage::Gone, at(10)));
        assert!(boot.observe(at(90), Sign::Traffic));
        assert_eq!(*boot.stage(), Stage::Running { after: Some(at(20)) });
    }

    #[test]
    fn an_unmount_has_it_asked_for_at_once_and_a_loader_is_never_asked_for() {
        let boot = check([(1, Sign::Up), (100, Sign::Traffic), (100, Sign::Unmounted)], Stage::Running { after: None });
        assert_eq!(boot.ask_at(), Some(at(100)));
        for sign in [Sign::BootloaderAsks, file("a"), Sign::KernelAsks] {
            let mut boot = Boot::default();
            boot.observe(at(1), sign);
            assert_eq!(boot.ask_at(), None);
        }
    }

    #[test]
    fn an_answer_to_an_old_question_is_no_silence() {
        let mut boot = check([(1, Sign::Up)], Stage::Up { after: None });
        for second in 2..9 {
            boot.observe(at(second), Sign::Silent);
        }
        assert!(boot.stage().is_up());
    }
}
