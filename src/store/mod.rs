//! The stick: finding it, its store, images, and clients' roots.
pub mod atomic;
pub mod crc32;
pub mod devices;
pub mod hotplug;
pub mod identify;
pub mod import;
pub mod manifest;
pub mod mounts;
pub mod place;
pub mod prepare;
pub mod sources;
pub mod table;
pub mod tools;
