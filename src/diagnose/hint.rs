//! The name of a hint: what travels in the status, the log and reports. Its
//! words stand in its rule.
//!
//! Pure.

use serde::{Deserialize, Serialize};

use super::rules;

/// Why a boot does not go on, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hint {
    /// No rule applies.
    #[default]
    Unknown,
    // Nothing was heard at all.
    NeverAsked,
    NeverHeard,
    PortsHeld,
    // It asks for an address.
    PressAndRestart,
    StickAway,
    OtherServer,
    NobodyLeases,
    NoLease,
    LoadsElsewhere,
    Relay,
    AddressClaimed,
    OldEeprom,
    OffersUnheard,
    TwoServers,
    RomDeaf,
    RomBeside,
    RomGaveUp,
    AsksNoFile,
    SecondStageUnheard,
    // It loads.
    StickUnreadable,
    FilesUnheard,
    BlockTwice,
    FileTooLarge,
    Pi5Hung,
    SilentInFile,
    SamePlace,
    PowerLost,
    BrokeOff,
    SignedBoot,
    NoBootFiles,
    NotForPi5,
    NoDeviceTree,
    NoKernel,
    WrongKernel,
    FirmwareStopped,
    KernelSilent,
    // Its system starts.
    KernelUnheard,
    NfsTwo,
    NfsFour,
    NotItsRoot,
    TreeAway,
    HighPort,
    CallsLost,
    MountsNothing,
    OwnCard,
    LeaseMoved,
    NetworkLost,
    StoppedStarting,
    FilesChanged,
    RestartsAgain,
}

impl Hint {
    /// What to do: at most three lines of the display.
    pub fn action(self) -> &'static str {
        rules::rule(self).action
    }

    /// What was seen, in one sentence.
    pub fn observed(self) -> &'static str {
        rules::rule(self).observed
    }

    /// What most likely is behind it, in one sentence.
    pub fn cause(self) -> &'static str {
        rules::rule(self).cause
    }
}

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.action())
    }
}
