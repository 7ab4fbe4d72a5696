//! The stick with its store, and disks beside it: what each is good for, and what is done with it.
//!
//! Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::maybe_seconds;

/// What the USB stick is good for just now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Stick {
    /// None plugged in.
    #[default]
    Absent,
    /// Plugged in, being read.
    Reading,
    /// Has no store; a press makes one of `free_bytes`.
    NeedsConfirmation { name: String, free_bytes: u64, place: NewPlace },
    /// A confirmed store is being made.
    Preparing,
    /// The store is open.
    Ready { name: String, free_bytes: u64 },
    /// Cannot be used; the message says why and what to do.
    Unusable { message: String },
    /// Being let go of: its last writes are under way.
    Releasing { name: String },
    /// Let go of: it can be pulled.
    Released { name: String },
}

/// Where a new store would lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewPlace {
    /// In unpartitioned space, as one more partition: ENROLL must be held.
    Partition,
    /// In its exFAT or FAT32, as a file that a laptop can delete: any press does.
    File,
    /// There it lies already, as a copy that stands in after a held ENROLL.
    Copy,
}

/// How large the open store is, and how much of it only the appliance may fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Room {
    pub total_bytes: u64,
    pub reserve_bytes: u64,
}

/// What a second stick is good for, or is becoming.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Backup {
    /// A held ENROLL makes it a copy of the store; `renews` one that it holds.
    Offered { name: String, renews: bool },
    /// The copy is being made.
    Running { name: String, per_mille: u16 },
    /// The copy is complete and the stick may be pulled.
    Done { name: String },
}

/// A recovery card for other Pis' EEPROMs, on a disk beside the store's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Card {
    pub name: String,
    /// The overview tells of it by itself; its page is there as long as the disk is.
    pub shown: bool,
    #[serde(flatten)]
    pub step: CardStep,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum CardStep {
    /// ENROLL held on its page writes it; all of that disk's `bytes` would be lost.
    Offered {
        bytes: u64,
        boards: String,
    },
    Writing {
        per_mille: u16,
    },
    /// It can be taken out.
    Written,
}

/// An import that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Import {
    pub file: String,
    /// Of the source file's bytes, 0 to 1000.
    pub per_mille: u16,
    #[serde(rename = "left-seconds", with = "maybe_seconds", default)]
    pub left: Option<Duration>,
}
