//! Why a boot does not go on, and what a person can do: hints by rules.
//!
//! Pure. `evidence` and `files` are the bounded record of what one board's boot
//! showed us; `watch` keeps it from boot to boot and says when a boot counts as
//! stuck; `rules` names the cause. A wrong hint is worse than
//! none: a rule applies only where its observation excludes the others (a test
//! holds that each scripted exchange meets one rule), and where none applies the
//! hint is [`Hint::Unknown`].
//!
//! | file | what |
//! |---|---|
//! | `hint` | the name of a hint and its words |
//! | `evidence`, `files` | what was seen of one boot |
//! | `watch` | boot after boot of one board; when to judge |
//! | `rule` | what a rule is, and the case that it looks at |
//! | `asking`, `loading`, `starting` | the tables of rules, by how far the boot came |
//! | `rules` | all of them; which one applies |
//!
//! Each of the 39 symptoms in the project's notes is driven by a script in
//! `control/tests/symptoms`, but for those that cannot be seen from here (that test holds this table too):
//!
//! | symptom | why no rule can know |
//! |---|---|
//! | 21 | The size of memory that a board found is told to nobody; that it froze behind that is 20 or 30. |
//! | 25 | `config.txt` was sent whole, and what its loader makes of it happens inside the board. |
//! | 29 | A board that hangs before its loader's first packet looks as one that is switched off: it is shown as gone. |
//! | 38 | It does not happen here: a client's `/boot/firmware` is the tree that TFTP serves. |
//! | 39 | It happens inside a running system; a client's block volume goes round it. |
//!
//! Two are no fault: many files that a board breaks off at once are its size probes (19), and boards with MAC
//! addresses that nobody has seen yet are known by what they ask (12).
//!
//! Symptoms 5, 9 and 16 keep their observation and lose their textbook cause,
//! because our replies carry option 43 with its spaces, are padded behind the end
//! only, and a loading ROM's neighbour entry is permanent.

mod asking;
mod evidence;
mod files;
mod hint;
mod loading;
mod rule;
mod rules;
mod starting;
mod watch;

pub use evidence::{Attempt, Dialogue, Reached};
pub use files::{File, Files};
pub use hint::Hint;
pub use rule::{Facts, Rule};
pub use rules::{all, judge, rule};
pub use watch::{Verdict, Watch};
