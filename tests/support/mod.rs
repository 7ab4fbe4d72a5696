//! What the integration tests share. Each test crate uses a part of it.
#![allow(dead_code)]

pub mod tftp;
