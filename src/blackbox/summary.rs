//! What control tells a report: why there is one, and what is known of each board.
//!
//! Pure.

use serde::{Deserialize, Serialize};

use crate::diagnose::{Attempt, Hint};

/// Why there is a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A client's boot stopped.
    Stall,
    /// The server before this one did not end in order.
    Crash,
    /// Somebody wants one.
    Asked,
    /// The appliance's test of itself failed.
    SelfTest,
}

impl Why {
    /// In the name of the report's folder.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stall => "stall",
            Self::Crash => "crash",
            Self::Asked => "asked",
            Self::SelfTest => "self-test",
        }
    }
}

/// What control knows of one board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The role, or the MAC address of a board that is no client.
    pub name: String,
    pub mac: String,
    pub address: String,
    pub model: String,
    pub stage: String,
    pub hint: Option<Hint>,
    /// Boots since it was last up.
    pub boots: u32,
    pub seen: Option<Attempt>,
}

/// What control knows of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub why: Why,
    /// In one sentence: whose boot stopped, for instance.
    pub reason: String,
    /// Name and value: address, stick, uptime and the like.
    pub facts: Vec<(String, String)>,
    /// Those concerned first.
    pub clients: Vec<Client>,
}
