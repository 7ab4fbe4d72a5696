//! What the integration tests share. Each test crate uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

pub mod netns;
pub mod tftp;
pub mod virtual_pi;
