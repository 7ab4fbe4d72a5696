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
//! Each of the 39 symptoms in the project's notes is driven by a script in
//! `control/tests/symptoms.rs`, or has its reason there why it cannot be seen.
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
