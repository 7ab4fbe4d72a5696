//! One typed snapshot of the appliance: what every face draws from (the OLED,
//! the terminal, `rootstock status`, the log). Control makes it; nothing else does.
//!
//! Pure. Holds no words for people beyond names and messages already made:
//! wording belongs to `panel/screens`.
//!
//! As JSON (`Snapshot`) names are in kebab-case, times are whole seconds and end
//! in `-seconds`. A reader must bear fields it does not know; one that goes, or
//! changes its meaning, raises `FORMAT`.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::{ImageId, MacAddr, Model, Role, Serial};
use crate::diagnose::Hint;
use crate::self_test::{Step, Target};
use crate::wire::Finding;

/// The version of a `Snapshot`'s form.
pub const FORMAT: u32 = 1;

/// A status for programs: with the version of its form and of the firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Snapshot {
    pub format: u32,
    pub rootstock: String,
    #[serde(flatten)]
    pub status: Status,
}

impl From<Status> for Snapshot {
    fn from(status: Status) -> Self {
        Self { format: FORMAT, rootstock: env!("CARGO_PKG_VERSION").to_owned(), status }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Status {
    /// Since the server's start.
    #[serde(rename = "uptime-seconds", with = "seconds")]
    pub uptime: Duration,
    pub network: Network,
    pub stick: Stick,
    /// Of the open store.
    pub room: Option<Room>,
    pub import: Option<Import>,
    /// A second stick beside the store's.
    pub backup: Option<Backup>,
    /// A disk that can become a recovery card, is becoming one, or is one now.
    pub card: Option<Card>,
    pub images: Vec<ImageId>,
    pub enrolment: Enrolment,
    /// In the order of their roles.
    pub clients: Vec<ClientStatus>,
    /// Pis that asked outside an enrolment window, newest first, at most 8.
    pub strangers: Vec<Stranger>,
    /// What needs a person, most urgent first.
    pub problems: Vec<Problem>,
    /// The appliance's own update.
    pub update: Option<Update>,
    /// The version of the image that runs; none on a computer.
    pub image_version: Option<String>,
    pub notice: Option<Notice>,
    /// The last test of ourselves.
    pub self_test: Option<SelfTest>,
}

/// A fake Pi that boots, or booted, from us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SelfTest {
    pub target: Target,
    pub state: TestState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestState {
    Runs,
    Passed,
    /// Where it stopped.
    Failed(Step),
}

/// What goes on with an update of the appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Update {
    /// Lies on the stick and asks for a held ENROLL.
    Offered {
        version: String,
        /// Older than what runs: asks for a longer hold.
        older: bool,
        /// It was tried before and not kept.
        tried: bool,
    },
    Writing {
        version: String,
        per_mille: u16,
    },
    Restarting {
        version: String,
    },
    /// This system runs for the first time; it is kept once it serves.
    OnTrial {
        version: String,
    },
}

/// The wired side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Network {
    pub address: Option<Ipv4Addr>,
    /// A cable with something alive at its other end.
    pub carrier: bool,
    /// The most urgent thing to know of the wire, with its traffic light.
    pub wire: Finding,
}

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

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "window", rename_all = "kebab-case")]
pub enum Enrolment {
    #[default]
    Closed,
    /// Never closed, by configuration.
    Always,
    /// The next unknown Pi that asks is enrolled.
    Open {
        #[serde(rename = "left-seconds", with = "seconds")]
        left: Duration,
        /// It stays open for more than one.
        #[serde(default)]
        batch: bool,
        /// So many were enrolled since it opened.
        #[serde(default)]
        enrolled: u32,
        /// The next unknown Pi takes this client over instead.
        #[serde(default)]
        swap: Option<Role>,
    },
}

/// What became of a press, for some seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Notice {
    pub message: String,
    /// It was not done.
    pub failed: bool,
}

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

/// How large the open store is, and how much of it only the appliance may fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Room {
    pub total_bytes: u64,
    pub reserve_bytes: u64,
}

/// What a client has on the stick, and may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Usage {
    /// In whole MiB, rounded up.
    pub used_bytes: u64,
    pub quota_bytes: Option<u64>,
}

/// One trouble in words, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Problem {
    pub message: String,
    pub action: String,
}

/// A time as whole seconds.
pub(crate) mod seconds {
    use super::*;

    pub fn serialize<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(time.as_secs())
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

/// The same, where it may be unknown: then `null`.
mod maybe_seconds {
    use super::*;

    pub fn serialize<S: serde::Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs()).serialize(to)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(stage: Stage) -> ClientStatus {
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

    /// What programs outside read: a change here is a new `FORMAT`, unless it only adds.
    #[test]
    fn a_snapshot_has_the_names_that_programs_know() {
        let loading = Stage::Loading {
            bytes: 12_400_000,
            total: Some(20_000_000),
            bytes_per_second: 1_550_000,
            file: "kernel8.img".to_owned(),
        };
        let status = Status {
            uptime: Duration::from_secs(90),
            network: Network { address: Some([192, 168, 77, 1].into()), carrier: true, ..Network::default() },
            stick: Stick::Ready { name: "Ultra".to_owned(), free_bytes: 5 },
            room: Some(Room { total_bytes: 9, reserve_bytes: 1 }),
            images: vec!["raspios-1".parse().unwrap()],
            enrolment: Enrolment::Open { left: Duration::from_secs(7), batch: true, enrolled: 2, swap: None },
            clients: vec![ClientStatus {
                usage: Some(Usage { used_bytes: 7 << 20, quota_bytes: Some(8 << 20) }),
                ..client(loading)
            }],
            ..Status::default()
        };
        let text = serde_json::to_string(&Snapshot::from(status.clone())).unwrap();
        for part in [
            r#"{"format":1,"rootstock":""#,
            r#""uptime-seconds":90,"network":{"address":"192.168.77.1","carrier":true,"wire":{"finding":"no-link"}}"#,
            r#""stick":{"state":"ready","name":"Ultra","free-bytes":5},"room":{"total-bytes":9,"reserve-bytes":1},"import":null,"backup":null,"card":null,"images":["raspios-1"]"#,
            r#""enrolment":{"window":"open","left-seconds":7,"batch":true,"enrolled":2,"swap":null}"#,
            r#""stage":"loading","bytes":12400000,"total":20000000,"bytes-per-second":1550000,"file":"kernel8.img""#,
            r#""since-seconds":8"#,
            r#""usage":{"used-bytes":7340032,"quota-bytes":8388608}"#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap().status, status);
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
    fn a_snapshot_of_another_version_is_read_as_far_as_it_is_known() {
        let text = r#"{"format":1,"rootstock":"9.9","colour":"blue","uptime-seconds":3}"#;
        let snapshot: Snapshot = serde_json::from_str(text).unwrap();
        assert_eq!((snapshot.status.uptime.as_secs(), snapshot.status.clients.len()), (3, 0));
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
