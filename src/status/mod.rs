//! One typed snapshot of the appliance: what every face draws from (the OLED,
//! the terminal, `rootstock status`, the log). Control makes it; nothing else does.
//!
//! | file | what of it |
//! |---|---|
//! | here | the whole, and what is the appliance's own |
//! | `client` | its clients, and Pis that are none |
//! | `stick` | its stick, and others beside it |
//!
//! Pure. Holds no words for people beyond names and messages already made:
//! wording belongs to `panel/screens`.
//!
//! As JSON (`Snapshot`) names are in kebab-case, times are whole seconds and end
//! in `-seconds`. A reader must bear fields it does not know; one that goes, or
//! changes its meaning, raises `FORMAT`.

mod client;
mod stick;

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::{ImageId, Role};
use crate::self_test::{Step, Target};
use crate::wire::Finding;
pub use client::{ClientStatus, Stage, Stranger, UNHEARD, Usage};
pub use stick::{Backup, Card, CardStep, Import, NewPlace, Room, Stick};

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
    use super::client::tests::client;
    use super::*;

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
    fn a_snapshot_of_another_version_is_read_as_far_as_it_is_known() {
        let text = r#"{"format":1,"rootstock":"9.9","colour":"blue","uptime-seconds":3}"#;
        let snapshot: Snapshot = serde_json::from_str(text).unwrap();
        assert_eq!((snapshot.status.uptime.as_secs(), snapshot.status.clients.len()), (3, 0));
    }
}
