//! Clients, how far each is, and Pis that ask and are none.
//!
//! Pure.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{maybe_seconds, seconds};
use crate::client::{ImageId, MacAddr, Model, Role, Serial};
use crate::diagnose::Hint;

/// A Pi that we do not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stranger {
    pub mac: MacAddr,
    pub model: Model,
    pub serial: Option<Serial>,
    pub memory_mib: Option<u32>,
    /// The other appliance that serves it: it is not ours to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Ipv4Addr>,
    /// What it needs beside ENROLL.
    pub hint: Option<Hint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClientStatus {
    pub role: Role,
    pub address: Ipv4Addr,
    pub model: Model,
    pub memory_mib: Option<u32>,
    pub serial: Option<Serial>,
    pub image: ImageId,
    #[serde(flatten)]
    pub stage: Stage,
    /// How long it has been in that stage.
    #[serde(rename = "since-seconds", with = "seconds")]
    pub since: Duration,
    /// How long its last boot took that came up.
    #[serde(rename = "last-boot-seconds", with = "maybe_seconds", default)]
    pub last_boot: Option<Duration>,
    /// What it has on the stick; none until that is measured.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// What to try if it is on and stays unheard (`UNHEARD`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<Hint>,
}

/// A client that was not heard of for so long since our start needs more advice than to be switched on.
pub const UNHEARD: Duration = Duration::from_secs(600);

/// How far a client's boot has come. `stage` says what is evidence of each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Stage {
    /// Not heard of since the server's start.
    #[default]
    Off,
    /// Sent a DISCOVER.
    #[serde(rename = "asks")]
    Discovered,
    /// Has its address.
    Leased,
    /// Fetches boot files; `bytes` so far and the file now under way.
    Loading {
        bytes: u64,
        /// What the boot needs, as far as a former one tells.
        total: Option<u64>,
        /// On the average since the first file.
        bytes_per_second: u64,
        file: String,
    },
    /// The kernel asks for its address, after the boot files.
    Kernel,
    /// A program in the initramfs asks for its address.
    Initramfs,
    /// MNT of the root was answered.
    RootMounted,
    /// The client wrote that its start is complete, so long after it first
    /// asked; `None` when its first request was not seen.
    Up {
        #[serde(rename = "after-seconds", with = "maybe_seconds", default)]
        after: Option<Duration>,
    },
    /// Has been up for a while, or ran already before the server started.
    Running {
        #[serde(rename = "after-seconds", with = "maybe_seconds", default)]
        after: Option<Duration>,
    },
    /// Was there, and nothing on the wire answers for it any more.
    Gone,
    /// Nothing came for too long: where, and what to try.
    Stalled { at: Cow<'static, str>, hint: Hint },
}

impl Stage {
    /// In one or two words.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Off => "not seen",
            Self::Discovered => "asks",
            Self::Leased => "leased",
            Self::Loading { .. } => "loading",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::RootMounted => "root mounted",
            Self::Up { .. } => "up",
            Self::Running { .. } => "running",
            Self::Gone => "gone",
            Self::Stalled { .. } => "stalled",
        }
    }

    /// Its system has started, and it has not gone since.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. } | Self::Running { .. })
    }

    /// It is on its way up.
    pub fn is_booting(&self) -> bool {
        match self {
            Self::Discovered | Self::Leased | Self::Loading { .. } => true,
            Self::Kernel | Self::Initramfs | Self::RootMounted => true,
            Self::Off | Self::Up { .. } | Self::Running { .. } | Self::Gone | Self::Stalled { .. } => false,
        }
    }

    /// Of what a boot is known to need, while it loads; never 1000 before the kernel asks.
    pub fn per_mille(&self) -> Option<u16> {
        match self {
            Self::Loading { bytes, total: Some(total), .. } if *total > 0 => {
                let part = u128::from(*bytes) * 1000 / u128::from(*total);
                Some(u16::try_from(part).unwrap_or(u16::MAX).min(999))
            }
            _ => None,
        }
    }
}

/// What a client has on the stick, and may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Usage {
    /// In whole MiB, rounded up.
    pub used_bytes: u64,
    pub quota_bytes: Option<u64>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::status) fn client(stage: Stage) -> ClientStatus {
        ClientStatus {
            role: Role::numbered(1),
            address: [192, 168, 77, 10].into(),
            model: Model::Pi4B,
            memory_mib: Some(4096),
            serial: Some(Serial(0x9f3a)),
            image: "raspios-1".parse().unwrap(),
            stage,
            since: Duration::from_secs(8),
            last_boot: None,
            usage: None,
            advice: None,
        }
    }

    #[test]
    fn every_stage_reads_back_as_written() {
        let after = Some(Duration::from_secs(41));
        for (stage, name) in [
            (Stage::Off, "off"),
            (Stage::Discovered, "asks"),
            (Stage::Leased, "leased"),
            (Stage::Kernel, "kernel"),
            (Stage::Initramfs, "initramfs"),
            (Stage::RootMounted, "root-mounted"),
            (Stage::Up { after }, "up"),
            (Stage::Running { after: None }, "running"),
            (Stage::Gone, "gone"),
            (Stage::Stalled { at: "kernel".into(), hint: Hint::KernelSilent }, "stalled"),
        ] {
            let text = serde_json::to_string(&client(stage.clone())).unwrap();
            assert!(text.contains(&format!(r#""stage":"{name}""#)), "{text}");
            assert_eq!(serde_json::from_str::<ClientStatus>(&text).unwrap(), client(stage));
        }
    }

    #[test]
    fn a_load_is_never_shown_as_complete_before_the_kernel_asks() {
        let loading = |bytes, total| Stage::Loading { bytes, total, bytes_per_second: 0, file: String::new() };
        assert_eq!(loading(5, Some(10)).per_mille(), Some(500));
        assert_eq!(loading(u64::MAX, Some(10)).per_mille(), Some(999));
        assert_eq!(loading(5, None).per_mille(), None);
        assert_eq!(loading(5, Some(0)).per_mille(), None);
    }
}
