//! Rootstock: firmware that turns a Raspberry Pi into a netboot appliance.
//!
//! One crate, one binary. As PID 1 (`rootstock` started as `/init`) it brings
//! the machine up and keeps `rootstock serve` running; `serve` is everything
//! that talks to the network, the stick and the person.

pub mod appliance;
pub mod client;
pub mod config;
pub mod control;
pub mod dhcp;
pub mod directory;
pub mod enrol;
pub mod init;
pub mod log;
pub mod net;
pub mod nfs;
pub mod panel;
pub mod stage;
pub mod status;
pub mod store;
pub mod tftp;
