//! What a person orders by a command while the server runs: the words that
//! pass through the control socket, its server, and the asking side.
//!
//! This file is pure: types and their text. One order and one reply a
//! connection, each one line of JSON; both sides bound what they read.

pub mod client;
mod server;

use serde::{Deserialize, Serialize};

use crate::client::Role;
use crate::self_test::Target;
use crate::status::Snapshot;
use crate::store::operate::{Operation, Outcome};

pub use self::server::{Error, Event, Handle, Sink, start};

/// The socket's name in the folder of `--run`.
pub const SOCKET: &str = "control.sock";
/// Longest order, in bytes.
pub const MAX_ORDER_BYTES: u64 = 64 << 10;
/// Longest reply: a list of a thousand clients with their snapshots.
pub const MAX_REPLY_BYTES: u64 = 64 << 20;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub request: Request,
    /// Also while the client runs.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    Operation(Operation),
    /// What every face draws from; the store is not asked.
    Status,
    /// The next unknown Pi that asks takes this client over.
    SwapNext {
        role: Role,
    },
    /// What the black box holds, as files on the stick.
    Report,
    /// The second stick that is plugged in becomes a copy of the store. Answered when that is done.
    Backup,
    /// Open the enrolment window, for several Pis or one; or close it.
    Enrol {
        #[serde(default)]
        batch: bool,
        #[serde(default)]
        close: bool,
    },
    /// Boot a fake Pi; without a name from the image for new clients.
    SelfTest {
        target: Option<Target>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Outcome(Box<Outcome>),
    Status(Box<Snapshot>),
    Refused {
        message: String,
        /// Because the client runs: it can be asked again later.
        #[serde(default)]
        running: bool,
    },
}

impl Reply {
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), running: false }
    }

    pub fn done(message: impl Into<String>) -> Self {
        Self::Outcome(Box::new(Outcome::Done { message: message.into(), warnings: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_back_as_written_and_nonsense_is_refused() {
        let request = Request::Operation(Operation::Reset { role: Role::numbered(1), new_identity: false });
        let order = Order { request, force: true };
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(text, r#"{"request":{"operation":{"do":"reset","role":"pi-1","new_identity":false}},"force":true}"#);
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
        let status: Order = serde_json::from_str(r#"{"request":"status"}"#).unwrap();
        assert_eq!(status, Order { request: Request::Status, force: false });
        for text in ["", "{}", "[]", r#"{"request":{"operation":{"do":"reset","role":"../x","new_identity":false}}}"#] {
            assert!(serde_json::from_str::<Order>(text).is_err(), "{text}");
        }
    }
}
