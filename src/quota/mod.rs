//! What clients may occupy on the stick: a limit for each, and a reserve that only the appliance may use.
//!
//! Pure but for its counters, which the store fills and NFS keeps as changes go by. No clock, no file.
//!
//! **Why counted here and not by the kernel.** ext4's project quotas would be exact without us, but not every
//! kernel has them (QFMT_V2 is a module that many leave out), no store made until now has the feature, and what
//! hits their limit inside overlayfs's copy-up is not told apart from a full disk. All that a client changes
//! passes through our NFS server, which sees each file's blocks before and after. So it counts the difference, and
//! the store measures each client's folder now and then, slowly, and puts right what was missed (`store/usage.rs`).
//! That works on every kernel and every store.
//!
//! **What counts** is what the client's folder in the store occupies, as `du` tells: its layers, its frozen states
//! (snapshots), its block volume. A file costs its blocks; the number of files is limited too, since an empty
//! one costs an inode that nobody else can have.
//!
//! **Without quotas** nobody starves either: who has more than its equal part of the store cannot take the last
//! thirty-second of it, which stays for those with less.
//!
//! **How exact.** A write is refused before it is done, to the block. Missed until the next measurement: blocks of
//! directories that a first change copies up (4 KiB each), of maps of very scattered files, and what removing a
//! changed file of the image gives back.

mod account;
mod amount;
mod level;
mod space;

pub use account::{Account, Claim, Look, View};
pub use amount::Amount;
pub use level::Level;
pub use space::{Figures, Refusal, Space, reserve_bytes};

/// This far from a limit nobody looks closely: more than all calls at one time can write.
const NEAR: Amount = Amount { bytes: 64 << 20, files: 1024 };
