//! Why a boot does not go on, and what a person can do: hints by rules.
//!
//! Pure. `evidence` and `files` are the bounded record of what one board's boot
//! showed us; `watch` keeps it from boot to boot and says when a boot counts as
//! stuck; `rules` is the table that names the cause. A wrong hint is worse than
//! none: a rule applies only where its observation excludes the others (a test
//! holds that each scripted exchange meets one rule), and where none applies the
//! hint is [`Hint::Unknown`].
//!
//! | file | what |
//! |---|---|
//! | `hint` | the name of a hint and its words |
//! | `evidence`, `files` | what was seen of one boot |
//! | `watch` | boot after boot of one board; when to judge |
//! | `rules`, `asking`, `loading`, `starting` | the tables of rules, by how far the boot came |
//!
//! # What no appliance can see
//!
//! Of the 39 symptoms in the project's notes these have no rule:
//!
//! - 3 on its own (first DISCOVERs missing): what the switch swallowed never
//!   reached us. With a spanning tree on the wire it is [`Hint::PortsHeld`].
//! - 8 (an x86 item in the PXE menu): the menu is another server's, and its
//!   offers go to the board alone. The board then asks that server for its
//!   address, which is [`Hint::OtherServer`].
//! - 12 (no address for a new board): a problem of its own, shown as such; and a
//!   board is known by more than the first bytes of its MAC address.
//! - 14 (RRQ to a false MAC address): the switch does not bring us frames for
//!   others. It looks like a second stage that is not heard.
//! - 19 (many "Early terminate"): no failure, and a test that it gives no hint.
//! - 21 (wrong RAM size), 25 (`config.txt` without effect), 38 (modules that do
//!   not load), 39 (containers on an NFS root): happen inside the board; 38 cannot
//!   happen here, since `/boot/firmware` is the tree that TFTP serves.
//! - 29 (boots once, not after a reboot): a board that hangs before its loader's
//!   first packet looks as if it were switched off.
//!
//! Symptoms 5, 9 and 16 keep their observation and lose their textbook cause,
//! because our replies carry option 43 with its spaces, are padded behind the end
//! only, and a loading ROM's neighbour entry is permanent.

mod asking;
mod evidence;
mod files;
mod hint;
mod loading;
mod rules;
mod starting;
mod watch;

pub use evidence::{Attempt, Dialogue, Reached};
pub use files::{File, Files};
pub use hint::Hint;
pub use rules::{Facts, Rule, all, judge, rule};
pub use watch::{Verdict, Watch};
