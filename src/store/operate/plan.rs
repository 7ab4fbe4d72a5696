//! What an operation on a client or an image takes: the steps, in their order.
//!
//! Pure: from what the manifests say to a list of steps, or to a refusal in
//! words. In every list one step decides (`Step::decides`, the first such).
//! Whatever stands before it only adds what nobody refers to, so a cut leaves
//! the old state, but for what an ephemeral client would lose at its next boot; whatever stands behind it can be done again, and is at the
//! next opening (`recover`), so a cut leaves the new one.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Board, Operation};
use crate::client::{Client, ImageId, Role};
use crate::store::states::{Books, ChainError, MAX_LAYERS, MAX_SNAPSHOTS, Record, Snapshot, SnapshotName};

/// Most paths that a move keeps.
pub const MAX_KEPT: usize = 32;

/// What is copied from the old root into a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// SSH host keys and machine-id.
    pub identity: bool,
    /// Paths below `/`, whole trees.
    pub paths: Vec<String>,
}

/// One step; each can be done twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Its trees are not served from here on.
    TakeDown(Role),
    /// What it wrote since its boot goes, if it is ephemeral: its run has ended.
    /// It lies over the live state, and could not be mounted over another.
    DiscardRun,
    /// Every name of a file with several comes into the upper layer before
    /// that is frozen: the index that keeps them together is not part of it.
    GatherLinks,
    /// Makes an empty state on another, which gives it the top folder's mode.
    MakeState {
        state: u32,
        parent: Option<u32>,
    },
    /// Fills a new state with what makes a root one client's own.
    Personalise {
        state: u32,
        client: Client,
        keep: Keep,
    },
    /// Copies all that the live chain changed into a new state right over the image.
    Flatten {
        state: u32,
    },
    /// Everything so far is on the stick.
    Flush,
    NoteSnapshot(Snapshot),
    /// Writes `client.toml`.
    Commit {
        client: Client,
        books: Books,
    },
    RenameFolder {
        from: Role,
        to: Role,
    },
    /// Writes the files that name the role or the board anew, in the live state.
    Adapt,
    ForgetSnapshot(SnapshotName),
    /// Work folders of frozen states and states that nothing needs go, the index first.
    Tidy,
    /// The client's folder goes, by one rename.
    TrashClient(Role),
    /// `store.toml`; none: the newest is given.
    WriteDefault(Option<ImageId>),
    /// The image's folder goes, by one rename.
    TrashImage(ImageId),
    /// Puts an EEPROM update into the live boot tree, or takes it out.
    Loader(Option<PathBuf>),
    /// Makes an image of the live root, or of a snapshot's.
    BuildImage {
        snapshot: Option<SnapshotName>,
        name: String,
    },
}

impl Step {
    /// Whether this step can make the difference between old and new.
    pub fn decides(&self) -> bool {
        matches!(
            self,
            Self::Commit { .. }
                | Self::ForgetSnapshot(_)
                | Self::TrashClient(_)
                | Self::WriteDefault(_)
                | Self::TrashImage(_)
                | Self::BuildImage { .. }
                | Self::Loader(_)
        )
    }
}

/// Why an operation is not begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no client {0}")]
    NoClient(Role),
    #[error("there is no image {0}")]
    NoImage(ImageId),
    #[error("{0} exists already")]
    Exists(Role),
    #[error("{0} has no snapshot {1}")]
    NoSnapshot(Role, SnapshotName),
    #[error("{0} has a snapshot {1} already")]
    SnapshotExists(Role, SnapshotName),
    #[error("{0} has {MAX_SNAPSHOTS} snapshots; delete one first")]
    TooManySnapshots(Role),
    #[error("the board {0} is {1}'s")]
    BoardTaken(String, Role),
    #[error("{0} is used by {1}")]
    ImageUsed(ImageId, String),
    #[error("{0} has that image already; `reset` makes it pristine")]
    SameImage(Role),
    #[error("{0:?} cannot be kept: name a path below /, such as /home")]
    KeepPath(String),
    #[error("{role} cannot be worked on: {source}")]
    Chain { role: Role, source: ChainError },
    #[error("{0:?} is no name for an image: 1 to 80 characters on one line")]
    ImageName(String),
}

/// What is known when an operation is planned.
#[derive(Debug)]
pub struct Facts<'a> {
    pub clients: &'a [Record],
    /// Folder names below `clients/`, also of clients that cannot be read.
    pub taken: &'a [Role],
    pub images: &'a [ImageId],
    /// The one that a person chose for new clients.
    pub default_image: Option<&'a ImageId>,
    /// Unix seconds.
    pub now: u64,
}

impl<'a> Facts<'a> {
    pub fn client(&self, role: &Role) -> Result<&'a Record, Refusal> {
        self.clients.iter().find(|record| record.client.role == *role).ok_or_else(|| Refusal::NoClient(role.clone()))
    }

    pub fn image(&self, id: &ImageId) -> Result<&'a ImageId, Refusal> {
        self.images.iter().find(|image| *image == id).ok_or_else(|| Refusal::NoImage(id.clone()))
    }
}

/// The steps of an operation that changes something; none for one that only looks.
pub fn plan(operation: &Operation, facts: &Facts<'_>) -> Result<Vec<Step>, Refusal> {
    match operation {
        Operation::Reset { role, new_identity } => {
            let record = facts.client(role)?;
            facts.image(&record.client.image)?;
            let keep = Keep { identity: !new_identity, paths: Vec::new() };
            Ok(afresh(record, record.client.clone(), keep))
        }
        Operation::Move { role, image, keep } => {
            let record = facts.client(role)?;
            facts.image(image)?;
            if record.client.image == *image {
                return Err(Refusal::SameImage(role.clone()));
            }
            let keep = Keep { identity: true, paths: kept_paths(keep)? };
            Ok(afresh(record, Client { image: image.clone(), ..record.client.clone() }, keep))
        }
        Operation::Snapshot { role, name } => snapshot(facts.client(role)?, name, facts.now),
        Operation::Restore { role, name } => {
            let record = facts.client(role)?;
            let snapshot = record.snapshot(name).ok_or_else(|| Refusal::NoSnapshot(role.clone(), name.clone()))?;
            facts.image(&snapshot.image)?;
            Ok(restore(record, snapshot))
        }
        Operation::ForgetSnapshot { role, name } => {
            let record = facts.client(role)?;
            record.snapshot(name).ok_or_else(|| Refusal::NoSnapshot(role.clone(), name.clone()))?;
            Ok(vec![Step::ForgetSnapshot(name.clone()), Step::Tidy])
        }
        Operation::Rename { role, to } => {
            let record = facts.client(role)?;
            if facts.taken.contains(to) || facts.client(to).is_ok() {
                return Err(Refusal::Exists(to.clone()));
            }
            let client = Client { role: to.clone(), ..record.client.clone() };
            let books = Books { former: Some(role.clone()), ..record.books.clone() };
            let mut steps = vec![Step::TakeDown(role.clone()), Step::DiscardRun];
            steps.extend(adapted(client, books, Some(Step::RenameFolder { from: role.clone(), to: to.clone() })));
            Ok(steps)
        }
        Operation::Swap { role, board } => swap(facts, role, board),
        Operation::Delete { role } => {
            facts.client(role)?;
            Ok(vec![Step::TakeDown(role.clone()), Step::TrashClient(role.clone())])
        }
        Operation::ImageDefault { image } => {
            if let Some(image) = image {
                facts.image(image)?;
            }
            Ok(vec![Step::WriteDefault(image.clone())])
        }
        Operation::ImageRemove { image } => {
            facts.image(image)?;
            let users = image_users(facts, image);
            if !users.is_empty() {
                return Err(Refusal::ImageUsed(image.clone(), users.join(", ")));
            }
            // First what points to it: a default that is not there is nobody's.
            let default = (facts.default_image == Some(image)).then_some(Step::WriteDefault(None));
            Ok(default.into_iter().chain([Step::TrashImage(image.clone())]).collect())
        }
        Operation::Promote { role, snapshot, name } => {
            let record = facts.client(role)?;
            chained(record)?;
            let valid = (1..=80).contains(&name.len()) && !name.contains(char::is_control);
            if !valid {
                return Err(Refusal::ImageName(name.clone()));
            }
            if let Some(snapshot) = snapshot {
                record.snapshot(snapshot).ok_or_else(|| Refusal::NoSnapshot(role.clone(), snapshot.clone()))?;
            }
            let build = Step::BuildImage { snapshot: snapshot.clone(), name: name.clone() };
            // A snapshot is frozen: its client may run meanwhile.
            let down = snapshot.is_none().then(|| Step::TakeDown(role.clone()));
            Ok(down.into_iter().chain([build]).collect())
        }
        Operation::Eeprom { role, files } => {
            chained(facts.client(role)?)?;
            Ok(vec![Step::TakeDown(role.clone()), Step::DiscardRun, Step::Loader(files.clone())])
        }
        Operation::Clients
        | Operation::Client { .. }
        | Operation::Images
        | Operation::Image { .. }
        | Operation::Verify { .. }
        | Operation::Stick => Ok(Vec::new()),
    }
}

/// Who cannot do without an image, in words.
pub fn image_users(facts: &Facts<'_>, image: &ImageId) -> Vec<String> {
    let user = |record: &Record| {
        let role = &record.client.role;
        if record.client.image == *image {
            return Some(role.to_string());
        }
        let snapshot = record.snapshots.iter().find(|snapshot| snapshot.image == *image)?;
        Some(format!("{role}'s snapshot {}", snapshot.name))
    };
    facts.clients.iter().filter_map(user).collect()
}

fn chained(record: &Record) -> Result<Vec<u32>, Refusal> {
    record.chain().map_err(|source| Refusal::Chain { role: record.client.role.clone(), source })
}

/// A new, adapted state right over the image.
fn afresh(record: &Record, client: Client, keep: Keep) -> Vec<Step> {
    let state = record.next_state();
    // It is adapted as what the client is now.
    let books = Books { state, former: None, adapt: false };
    vec![
        Step::TakeDown(client.role.clone()),
        Step::DiscardRun,
        Step::MakeState { state, parent: None },
        Step::Personalise { state, client: client.clone(), keep },
        Step::Flush,
        Step::Commit { client, books },
        Step::Tidy,
    ]
}

fn snapshot(record: &Record, name: &SnapshotName, now: u64) -> Result<Vec<Step>, Refusal> {
    let client = &record.client;
    if record.snapshot(name).is_some() {
        return Err(Refusal::SnapshotExists(client.role.clone(), name.clone()));
    }
    if record.snapshots.len() >= MAX_SNAPSHOTS {
        return Err(Refusal::TooManySnapshots(client.role.clone()));
    }
    let chain = chained(record)?;
    let next = record.next_state();
    let mut steps = vec![Step::TakeDown(client.role.clone()), Step::DiscardRun];
    let frozen = if chain.len() < MAX_LAYERS {
        steps.push(Step::GatherLinks);
        record.books.state
    } else {
        steps.extend([Step::MakeState { state: next, parent: None }, Step::Flatten { state: next }]);
        next
    };
    let state = next + u32::from(frozen == next);
    let snapshot = Snapshot { name: name.clone(), state: frozen, image: client.image.clone(), taken: now };
    steps.extend([
        Step::MakeState { state, parent: Some(frozen) },
        Step::Flush,
        Step::NoteSnapshot(snapshot),
        Step::Commit { client: client.clone(), books: Books { state, ..record.books.clone() } },
        Step::Tidy,
    ]);
    Ok(steps)
}

fn restore(record: &Record, snapshot: &Snapshot) -> Vec<Step> {
    let state = record.next_state();
    let client = Client { image: snapshot.image.clone(), ..record.client.clone() };
    let mut steps = vec![
        Step::TakeDown(client.role.clone()),
        Step::DiscardRun,
        Step::MakeState { state, parent: Some(snapshot.state) },
        Step::Flush,
    ];
    // Its name or its board may be others than when the snapshot was taken.
    steps.extend(adapted(client, Books { state, former: None, adapt: false }, None));
    steps.push(Step::Tidy);
    steps
}

/// Commits, then mends the files that name the role or the board.
fn adapted(client: Client, books: Books, between: Option<Step>) -> Vec<Step> {
    let done = Books { adapt: false, former: None, ..books.clone() };
    let first = Step::Commit { client: client.clone(), books: Books { adapt: true, ..books } };
    [Some(first), between, Some(Step::Adapt), Some(Step::Commit { client, books: done })]
        .into_iter()
        .flatten()
        .collect()
}

fn swap(facts: &Facts<'_>, role: &Role, board: &Board) -> Result<Vec<Step>, Refusal> {
    let record = facts.client(role)?;
    let other = facts.clients.iter().find(|other| other.client.mac == board.mac);
    if let Some(other) = other.filter(|other| other.client.role != *role) {
        return Err(Refusal::BoardTaken(board.mac.to_string(), other.client.role.clone()));
    }
    let client = Client {
        mac: board.mac,
        serial: board.serial,
        revision: board.revision,
        model: board.model,
        ..record.client.clone()
    };
    let mut steps = vec![Step::TakeDown(role.clone()), Step::DiscardRun];
    steps.extend(adapted(client, record.books.clone(), None));
    Ok(steps)
}

/// Paths to keep, clean and not one inside another.
fn kept_paths(paths: &[String]) -> Result<Vec<String>, Refusal> {
    let mut kept: BTreeSet<String> = BTreeSet::new();
    for path in paths {
        let refused = || Refusal::KeepPath(path.clone());
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let plain = names.iter().all(|name| !matches!(*name, "." | "..")) && path.len() <= 1024;
        if !path.starts_with('/') || names.is_empty() || !plain || kept.len() >= MAX_KEPT {
            return Err(refused());
        }
        kept.insert(names.join("/"));
    }
    let inside = |path: &String| kept.iter().any(|other| path.starts_with(&format!("{other}/")));
    Ok(kept.iter().filter(|path| !inside(path)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Model;
    use crate::store::states::tests::record;
    use proptest::prelude::*;

    fn name(text: &str) -> SnapshotName {
        text.parse().unwrap()
    }

    fn image(text: &str) -> ImageId {
        text.parse().unwrap()
    }

    fn planned(operation: &Operation, record: &Record) -> Result<Vec<Step>, Refusal> {
        let taken = [record.client.role.clone(), Role::numbered(2)];
        let facts = Facts {
            clients: std::slice::from_ref(record),
            taken: &taken,
            images: &[image("a-1"), image("b-2")],
            default_image: None,
            now: 5,
        };
        plan(operation, &facts)
    }

    fn role() -> Role {
        Role::numbered(1)
    }

    #[test]
    fn a_snapshot_freezes_the_live_state_and_copies_nothing() {
        let found = record(0, &[(0, None)], &[]);
        let steps = planned(&Operation::Snapshot { role: role(), name: name("a") }, &found).unwrap();
        let [down, run, links, made, Step::Flush, Step::NoteSnapshot(noted), Step::Commit { books, .. }, Step::Tidy] =
            &steps[..]
        else {
            panic!("{steps:?}")
        };
        assert_eq!((down, run, links), (&Step::TakeDown(role()), &Step::DiscardRun, &Step::GatherLinks));
        assert_eq!(*made, Step::MakeState { state: 1, parent: Some(0) });
        assert_eq!((noted.state, noted.taken, books.state), (0, 5, 1));
    }

    #[test]
    fn a_snapshot_on_too_many_layers_flattens_them_first() {
        let deep: Vec<(u32, Option<u32>)> = (0..MAX_LAYERS as u32).map(|n| (n, n.checked_sub(1))).collect();
        let found = record(MAX_LAYERS as u32 - 1, &deep, &[]);
        let steps = planned(&Operation::Snapshot { role: role(), name: name("a") }, &found).unwrap();
        assert!(steps.contains(&Step::Flatten { state: 16 }), "{steps:?}");
        assert!(steps.contains(&Step::MakeState { state: 17, parent: Some(16) }), "{steps:?}");
        assert!(!steps.contains(&Step::GatherLinks));
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let check = |operation: Operation, words: &str| {
            let found = record(1, &[(0, None), (1, Some(0))], &[("old", 0)]);
            let refusal = planned(&operation, &found).unwrap_err().to_string();
            assert!(refusal.contains(words), "{operation:?}: {refusal}");
        };
        let none = Role::numbered(9);
        check(Operation::Reset { role: none, new_identity: false }, "no client pi-9");
        check(Operation::Snapshot { role: role(), name: name("old") }, "has a snapshot old already");
        check(Operation::Restore { role: role(), name: name("new") }, "no snapshot new");
        check(Operation::Rename { role: role(), to: Role::numbered(2) }, "pi-2 exists already");
        check(Operation::Move { role: role(), image: image("c-3"), keep: Vec::new() }, "no image c-3");
        check(Operation::Move { role: role(), image: image("a-1"), keep: Vec::new() }, "has that image already");
        for path in ["home", "/", "/home/../etc", ""] {
            check(Operation::Move { role: role(), image: image("b-2"), keep: vec![path.into()] }, "cannot be kept");
        }
        check(Operation::ImageRemove { image: image("a-1") }, "used by pi-1");
        check(Operation::ImageDefault { image: Some(image("c-3")) }, "no image c-3");
        check(Operation::Promote { role: role(), snapshot: None, name: "a\nb".into() }, "no name for an image");
    }

    #[test]
    fn an_image_of_a_snapshot_stays_and_one_that_nobody_uses_goes() {
        let mut found = record(1, &[(0, None), (1, Some(0))], &[("old", 0)]);
        found.snapshots[0].image = image("b-2");
        let refusal = planned(&Operation::ImageRemove { image: image("b-2") }, &found).unwrap_err();
        assert_eq!(refusal.to_string(), "b-2 is used by pi-1's snapshot old");
        found.snapshots.clear();
        let steps = planned(&Operation::ImageRemove { image: image("b-2") }, &found).unwrap();
        assert_eq!(steps, [Step::TrashImage(image("b-2"))]);
    }

    #[test]
    fn a_swap_changes_the_board_and_nothing_else() {
        let found = record(0, &[(0, None)], &[]);
        let board =
            Board { mac: "d8:3a:dd:00:00:01".parse().unwrap(), serial: None, revision: None, model: Model::Pi5 };
        let steps = planned(&Operation::Swap { role: role(), board: board.clone() }, &found).unwrap();
        let [
            Step::TakeDown(_),
            Step::DiscardRun,
            Step::Commit { client, books },
            Step::Adapt,
            Step::Commit { books: done, .. },
        ] = &steps[..]
        else {
            panic!("{steps:?}")
        };
        let same = Client { mac: found.client.mac, serial: None, model: found.client.model, ..client.clone() };
        assert_eq!((same, client.mac), (found.client.clone(), board.mac));
        assert!(books.adapt && !done.adapt);
    }

    #[test]
    fn kept_paths_are_cleaned_and_not_doubled() {
        let kept = kept_paths(&["/home/".into(), "/home/ada".into(), "//srv//data".into()]).unwrap();
        assert_eq!(kept, ["home", "srv/data"]);
        assert!(kept_paths(&vec!["/a".to_owned(); 3]).is_ok());
        let many: Vec<String> = (0..100).map(|n| format!("/{n}")).collect();
        assert!(kept_paths(&many).is_err());
    }

    proptest! {
        /// Before the deciding step nothing that the old state needs is touched.
        #[test]
        fn only_what_is_new_is_touched_before_the_deciding_step(
            states in 0u32..20, live in 0u32..20, which in 0usize..6,
        ) {
            let live = live.min(states);
            let parents: Vec<(u32, Option<u32>)> = (0..=states).map(|n| (n, n.checked_sub(1).filter(|_| n % 5 != 0))).collect();
            let frozen = live.saturating_sub(1);
            let found = record(live, &parents, &[("s", frozen)]);
            let role = role();
            let operation = match which {
                0 => Operation::Reset { role, new_identity: true },
                1 => Operation::Snapshot { role, name: name("new") },
                2 => Operation::Restore { role, name: name("s") },
                3 => Operation::Rename { role, to: Role::numbered(7) },
                4 => Operation::Move { role, image: image("b-2"), keep: vec!["/home".into()] },
                _ => Operation::Delete { role },
            };
            let Ok(steps) = planned(&operation, &found) else { return Ok(()) };
            let decides = steps.iter().position(Step::decides).unwrap();
            for step in &steps[..decides] {
                match step {
                    Step::MakeState { state, .. } | Step::Personalise { state, .. } | Step::Flatten { state } => {
                        prop_assert!(!found.states.contains_key(state));
                    }
                    Step::TakeDown(_) | Step::DiscardRun | Step::GatherLinks | Step::Flush | Step::NoteSnapshot(_) => {}
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
