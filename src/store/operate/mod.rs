//! What a person can do with clients and images by a command, whether the
//! server runs or the stick lies in any Linux PC.
//!
//! - `perform`: one operation from its request to its outcome
//! - `plan`: pure, an operation becomes steps, one of which decides
//! - `execute`: I/O, carries the steps out
//! - `gather`: I/O, all names of one file into the layer that is to be frozen
//! - `recover`: I/O, what a cut between two steps left, at the next opening
//! - `copy`, `build`, `room`: trees copied, and an image made of a client, where there is room
//! - `loader`: a client's EEPROM update, put into its boot tree and taken out
//! - `verify`: images against their hashes
//! - `list`: what lists show

pub mod build;
pub mod copy;
pub mod execute;
mod gather;
pub mod list;
pub mod loader;
pub mod perform;
pub mod plan;
pub mod recover;
mod room;
pub mod site;
pub mod verify;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::states::SnapshotName;
use crate::client::{Client, ImageId, MacAddr, Model, Revision, Role, Serial};

pub use self::list::{ClientEntry, ImageEntry, SnapshotEntry, StickEntry};
pub use self::verify::Checked;

/// A board, as a swap needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Board {
    pub mac: MacAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    #[serde(default)]
    pub model: Model,
}

impl Board {
    pub fn of(client: &Client) -> Self {
        Self { mac: client.mac, serial: client.serial, revision: client.revision, model: client.model }
    }
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Operation {
    Clients,
    Client {
        role: Role,
    },
    /// A fresh root. Name, keys and machine-id stay unless a new identity is wanted.
    Reset {
        role: Role,
        new_identity: bool,
    },
    Snapshot {
        role: Role,
        name: SnapshotName,
    },
    Restore {
        role: Role,
        name: SnapshotName,
    },
    ForgetSnapshot {
        role: Role,
        name: SnapshotName,
    },
    Rename {
        role: Role,
        to: Role,
    },
    /// A fresh root of another image; identity and these paths stay.
    Move {
        role: Role,
        image: ImageId,
        keep: Vec<String>,
    },
    /// Another board is this client from now on.
    Swap {
        role: Role,
        board: Board,
    },
    Delete {
        role: Role,
    },
    /// The update of its EEPROM in this folder goes into its boot tree; none: what is there is taken out.
    Eeprom {
        role: Role,
        files: Option<PathBuf>,
    },
    Images,
    Image {
        image: ImageId,
    },
    /// None: the newest is the default again.
    ImageDefault {
        image: Option<ImageId>,
    },
    ImageRemove {
        image: ImageId,
    },
    /// A new image of a client's root.
    Promote {
        role: Role,
        snapshot: Option<SnapshotName>,
        name: String,
    },
    /// None: all images.
    Verify {
        image: Option<ImageId>,
    },
    Stick,
}

impl Operation {
    /// The client whose trees are taken down meanwhile, so that it must not run.
    pub fn stops(&self) -> Option<&Role> {
        match self {
            Self::Reset { role, .. }
            | Self::Snapshot { role, .. }
            | Self::Restore { role, .. }
            | Self::Rename { role, .. }
            | Self::Move { role, .. }
            | Self::Swap { role, .. }
            | Self::Delete { role }
            | Self::Eeprom { role, .. }
            | Self::Promote { role, snapshot: None, .. } => Some(role),
            _ => None,
        }
    }

    /// The client that it is about.
    pub fn client(&self) -> Option<&Role> {
        match self {
            Self::Client { role } | Self::ForgetSnapshot { role, .. } | Self::Promote { role, .. } => Some(role),
            _ => self.stops(),
        }
    }

    /// Whether it takes long by nature, so that the store goes on meanwhile.
    pub fn is_long(&self) -> bool {
        matches!(self, Self::Promote { .. } | Self::Verify { .. })
    }

    /// Whether it only looks.
    pub fn looks(&self) -> bool {
        matches!(self, Self::Clients | Self::Client { .. } | Self::Images | Self::Image { .. } | Self::Stick)
    }

    /// What was done, for people, with what was kept where that is not plain.
    pub fn done(&self) -> String {
        match self {
            Self::Reset { role, new_identity: false } => {
                format!("{role} is pristine. Kept: its name, address, SSH host keys, machine-id, snapshots and volume")
            }
            Self::Reset { role, new_identity: true } => {
                format!(
                    "{role} is pristine, with new SSH host keys and machine-id. Kept: its name, address, snapshots and \
                     volume"
                )
            }
            Self::Snapshot { role, name } => format!("snapshot {name} of {role} is taken"),
            Self::Restore { role, name } => {
                format!("{role} is as it was at {name}. Gone: what it changed since and no snapshot holds")
            }
            Self::ForgetSnapshot { role, name } => format!("snapshot {name} of {role} is deleted"),
            Self::Rename { role, to } => format!("{role} is {to} now; its address, keys and files are the same"),
            Self::Move { role, image, keep } => {
                let paths = if keep.is_empty() { String::new() } else { format!(", {}", keep.join(", ")) };
                format!(
                    "{role} has {image} now. Kept: its name, address, SSH host keys, machine-id, snapshots and \
                     volume{paths}. \
                     Not kept: packages, settings and accounts made inside it"
                )
            }
            Self::Swap { role, board } => {
                format!("{role} is the board {} from now on; its name, address, keys and files are the same", board.mac)
            }
            Self::Delete { role } => format!("{role} is deleted, with its snapshots and its volume"),
            Self::Eeprom { role, files: Some(_) } => {
                format!(
                    "{role} updates its EEPROM at its next start, and starts once more; keep its power on meanwhile"
                )
            }
            Self::Eeprom { role, files: None } => format!("no EEPROM update waits for {role} any more"),
            Self::ImageDefault { image: Some(image) } => format!("new clients get {image}"),
            Self::ImageDefault { image: None } => "new clients get the newest image".to_owned(),
            Self::ImageRemove { image } => format!("{image} is removed"),
            Self::Promote { role, .. } => format!("a new image was made of {role}"),
            _ => String::new(),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Clients(Vec<ClientEntry>),
    Client(Box<ClientEntry>),
    Images(Vec<ImageEntry>),
    Image(Box<ImageEntry>),
    Stick(Box<StickEntry>),
    Checked(Vec<Checked>),
    Done {
        message: String,
        #[serde(default)]
        warnings: Vec<String>,
    },
}
