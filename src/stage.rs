//! How far a client's boot has come, told from what passes through us, and
//! when it has been silent for too long. Why, `diagnose` says.
//!
//! Pure. Time is the duration since the server's start. "Up" is not guessed
//! from traffic: the client's own `rootstock-up.service` writes it at the end
//! of its start, and the store reports that.

use std::time::Duration;

use crate::diagnose::Hint;
use crate::status::Stage;

/// Something seen of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// DISCOVER by a boot ROM or bootloader: a boot begins.
    BootloaderAsks,
    /// DISCOVER by a kernel, an initramfs or an operating system.
    SystemAsks,
    /// An address was offered to a ROM that never sends a REQUEST, or acknowledged.
    Leased,
    /// It asks for a boot file.
    FileAsked { path: String },
    /// A transfer ended with so many bytes sent.
    FileSent { bytes: u64 },
    /// MNT of its root was answered.
    RootMounted,
    /// Reads or writes on its trees.
    Traffic,
    /// It wrote that its start is complete.
    Up,
}

/// How long a stage may last without any sign.
struct Patience {
    at: &'static str,
    limit: Duration,
}

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

    /// Takes a sign in; true when the stage is another one now (a new file of
    /// the same loading is the same stage).
    pub fn observe(&mut self, now: Duration, sign: Sign) -> bool {
        self.heard = now;
        let asks = sign == Sign::BootloaderAsks;
        let next = self.next(now, sign);
        if asks && next.is_some() && self.stage != Stage::Discovered {
            self.began = Some(now);
        }
        match next {
            Some(stage) => {
                let changed = std::mem::discriminant(&stage) != std::mem::discriminant(&self.stage);
                if changed {
                    self.entered = now;
                }
                self.stage = stage;
                changed
            }
            None => false,
        }
    }

    fn next(&self, now: Duration, sign: Sign) -> Option<Stage> {
        let loaded = match &self.stage {
            Stage::Loading { bytes, .. } => *bytes,
            _ => 0,
        };
        match (&self.stage, sign) {
            // A ROM repeats DISCOVER until it is served: the same boot goes on.
            (Stage::Leased, Sign::BootloaderAsks) => None,
            // The Pi 3's ROM loads bootcode.bin, which then asks for itself.
            (Stage::Loading { file, .. }, Sign::BootloaderAsks) if is_first_stage(file) => None,
            (_, Sign::BootloaderAsks) => Some(Stage::Discovered),
            // The operating system renews or asks anew while it runs: no new boot.
            (Stage::RootMounted | Stage::Up { .. }, Sign::SystemAsks) => None,
            (_, Sign::SystemAsks) => Some(Stage::Kernel),
            (Stage::Discovered, Sign::Leased) => Some(Stage::Leased),
            (_, Sign::Leased) => None,
            (Stage::Up { .. } | Stage::RootMounted, Sign::FileAsked { .. }) => None,
            (_, Sign::FileAsked { path }) => Some(Stage::Loading { bytes: loaded, file: path }),
            (Stage::Loading { file, .. }, Sign::FileSent { bytes }) => {
                Some(Stage::Loading { bytes: loaded + bytes, file: file.clone() })
            }
            (_, Sign::FileSent { .. }) => None,
            (Stage::Up { .. }, Sign::RootMounted) => None,
            (_, Sign::RootMounted) => Some(Stage::RootMounted),
            // It uses its root, and its boot was not seen: it ran before this server did.
            (Stage::Off, Sign::Traffic) => Some(Stage::Up { after: None }),
            (Stage::Stalled { .. }, Sign::Traffic) => Some(Stage::RootMounted),
            (_, Sign::Traffic) => None,
            (Stage::Up { .. }, Sign::Up) => None,
            (_, Sign::Up) => Some(Stage::Up { after: self.took(now) }),
        }
    }

    /// Why a stage may last only so long.
    fn patience(&self) -> Option<Patience> {
        let patience = |at, seconds| Some(Patience { at, limit: Duration::from_secs(seconds) });
        match self.stage {
            Stage::Off | Stage::Up { .. } | Stage::Stalled { .. } => None,
            Stage::Discovered => patience("asking", 40),
            Stage::Leased => patience("address", 40),
            Stage::Loading { .. } => patience("loading", 60),
            Stage::Kernel => patience("kernel", 90),
            Stage::RootMounted => patience("starting", 300),
        }
    }

    /// When it counts as stalled if nothing more is heard.
    pub fn deadline(&self) -> Option<Duration> {
        self.patience().map(|patience| self.heard + patience.limit)
    }

    /// Why it stalled, as `diagnose` found.
    pub fn explain(&mut self, why: Hint) {
        if let Stage::Stalled { hint, .. } = &mut self.stage {
            *hint = why;
        }
    }

    /// Lets time pass; true when it stalled just now, and is to be explained.
    pub fn poll(&mut self, now: Duration) -> bool {
        match self.patience() {
            Some(patience) if now >= self.heard + patience.limit => {
                self.stage = Stage::Stalled { at: patience.at, hint: Hint::Unknown };
                self.entered = now;
                true
            }
            _ => false,
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

    #[test]
    fn a_boot_runs_through_every_stage() {
        use Sign::*;
        let loading = [(1, BootloaderAsks), (2, Leased), (3, file("start4.elf")), (4, FileSent { bytes: 10 })];
        check(loading.clone(), Stage::Loading { bytes: 10, file: "start4.elf".to_owned() });
        let more = [(5, file("kernel8.img")), (6, FileSent { bytes: 90 })];
        check(
            loading.clone().into_iter().chain(more.clone()),
            Stage::Loading { bytes: 100, file: "kernel8.img".to_owned() },
        );
        let rest = [(10, SystemAsks), (10, Leased), (12, RootMounted), (13, Traffic), (31, Up), (99, SystemAsks)];
        check(loading.into_iter().chain(more).chain(rest), Stage::Up { after: Some(at(30)) });
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
        check([(1, BootloaderAsks), (5, Up), (100, BootloaderAsks), (110, Up)], Stage::Up { after: Some(at(10)) });
    }

    #[test]
    fn silence_stalls_with_the_place_and_a_hint() {
        let mut boot = check([(1, Sign::BootloaderAsks)], Stage::Discovered);
        assert_eq!(boot.deadline(), Some(at(41)));
        assert!(!boot.poll(at(40)));
        assert!(boot.poll(at(41)));
        assert!(matches!(boot.stage(), Stage::Stalled { at: "asking", .. }));
        assert!(boot.observe(at(50), file("start4.elf")), "a sign of life ends the stall");
    }

    #[test]
    fn a_running_client_is_recognised_after_a_restart_of_the_server() {
        check([(1, Sign::Traffic)], Stage::Up { after: None });
        check([(1, Sign::RootMounted), (2, Sign::Traffic)], Stage::RootMounted);
    }
}
