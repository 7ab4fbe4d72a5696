//! What the integration tests share. Each test crate uses a part of it.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

pub mod command;
pub mod emulated_pi;
pub mod netns;
pub mod panel_tty;
pub mod picture;
pub mod qemu;
pub mod qmp;
pub mod random;
pub mod sd_image;
pub mod ssd1306_decoder;
pub mod stick;
pub mod terminal;
pub mod tftp;
pub mod trouble;
pub mod update_file;
pub mod virtual_pi;
