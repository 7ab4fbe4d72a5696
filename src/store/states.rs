//! What a client's root is stacked of: states, the snapshots that name them,
//! and which of them nobody needs any more.
//!
//! Pure. A state is one upper layer. The client writes into its *live* state;
//! every other one is frozen and lies below a later one, as in
//! `live -> 3 -> 1 -> image`. Freezing copies nothing: a snapshot makes a new,
//! empty live state on top of the former. State 0 is what enrolment makes.
//!
//! Which state lives stands in `client.toml` beside the image, so that one
//! rename of that file decides every change of a client.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::client::{Client, ImageId, Role};

/// Most layers below a live state, the image not counted. The options of one
/// mount have 4 KiB, and each layer costs every lookup of a missing name.
pub const MAX_LAYERS: usize = 16;
/// Most snapshots and states of one client that are looked at.
pub const MAX_SNAPSHOTS: usize = 200;
pub const MAX_STATES: usize = 400;

/// What the store alone keeps in `client.toml`, as the table `[store]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// The live state.
    #[serde(default)]
    pub state: u32,
    /// A rename is under way: the folder may still have this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Role>,
    /// Files that name the role or the board were not written anew yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adapt: bool,
}

/// `clients/<role>/states/<n>/state.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The frozen state below; none: the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
}

/// A snapshot's name: 1 to 63 of letters, digits, dot, hyphen and underscore,
/// led by a letter or digit. Safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a snapshot's name: 1 to 63 letters, digits, dots, hyphens and underscores, a letter or digit first"
)]
pub struct NameError(String);

impl FromStr for SnapshotName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let valid = (1..=63).contains(&text.len()) && text.bytes().all(inner);
        match text.bytes().next() {
            Some(first) if valid && first.is_ascii_alphanumeric() => Ok(Self(text.to_owned())),
            _ => Err(NameError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> Self {
        name.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// `clients/<role>/snapshots/<name>.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub name: SnapshotName,
    /// The frozen state that it names.
    pub state: u32,
    pub image: ImageId,
    /// Unix seconds; what the clock said, which may be 1970.
    pub taken: u64,
}

/// Everything of one client that lies in its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub client: Client,
    pub books: Books,
    /// All states whose folder is there; 0 has no file and no parent.
    pub states: BTreeMap<u32, State>,
    /// In the order of their time.
    pub snapshots: Vec<Snapshot>,
}

/// Why states cannot be stacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("its state {0} is missing")]
    Missing(u32),
    #[error("its states lie on each other in a ring or are too many")]
    Endless,
}

/// A state and all below it, the topmost first.
pub fn chain(states: &BTreeMap<u32, State>, state: u32) -> Result<Vec<u32>, ChainError> {
    let mut chain = Vec::new();
    let mut next = Some(state);
    while let Some(state) = next {
        // One more than the layers: the live state itself.
        if chain.len() > MAX_LAYERS {
            return Err(ChainError::Endless);
        }
        chain.push(state);
        next = states.get(&state).ok_or(ChainError::Missing(state))?.parent;
    }
    Ok(chain)
}

impl Record {
    /// As enrolment makes it.
    pub fn enrolled(client: Client) -> Self {
        let states = [(0, State { parent: None })].into();
        Self { client, books: Books::default(), states, snapshots: Vec::new() }
    }

    /// The live state and all below it.
    pub fn chain(&self) -> Result<Vec<u32>, ChainError> {
        chain(&self.states, self.books.state)
    }

    pub fn snapshot(&self, name: &SnapshotName) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.name == *name)
    }

    /// A number that no state has.
    pub fn next_state(&self) -> u32 {
        let highest = self.states.keys().next_back().copied().unwrap_or(0);
        highest.max(self.books.state).saturating_add(1)
    }

    /// States that neither the client nor a snapshot needs. A chain that is
    /// broken keeps everything: what lies there may be all that is left.
    pub fn unused_states(&self) -> BTreeSet<u32> {
        let mut used = BTreeSet::new();
        for state in self.snapshots.iter().map(|snapshot| snapshot.state).chain([self.books.state]) {
            match chain(&self.states, state) {
                Ok(chain) => used.extend(chain),
                Err(_) => return BTreeSet::new(),
            }
        }
        self.states.keys().filter(|state| !used.contains(state)).copied().collect()
    }

    /// Snapshots of the live state: a cut came before it was frozen.
    pub fn unfinished_snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.iter().filter(|snapshot| snapshot.state == self.books.state)
    }

    /// Images that this client cannot do without.
    pub fn images(&self) -> impl Iterator<Item = &ImageId> {
        self.snapshots.iter().map(|snapshot| &snapshot.image).chain([&self.client.image])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::client::{Mode, Model};
    use proptest::prelude::*;

    pub fn record(state: u32, parents: &[(u32, Option<u32>)], snapshots: &[(&str, u32)]) -> Record {
        let client = Client {
            role: Role::numbered(1),
            mac: "dc:a6:32:01:36:c2".parse().unwrap(),
            serial: None,
            revision: None,
            model: Model::Pi4B,
            address: "10.0.0.9".parse().unwrap(),
            image: "a-1".parse().unwrap(),
            mode: Mode::default(),
            volume_size: None,
            quota: None,
            export_id: 1,
        };
        let snapshot = |&(name, state): &(&str, u32)| Snapshot {
            name: name.parse().unwrap(),
            state,
            image: "a-1".parse().unwrap(),
            taken: 0,
        };
        Record {
            client,
            books: Books { state, ..Books::default() },
            states: parents.iter().map(|&(state, parent)| (state, State { parent })).collect(),
            snapshots: snapshots.iter().map(snapshot).collect(),
        }
    }

    #[test]
    fn a_chain_leads_to_the_image_and_never_round() {
        let found = record(3, &[(0, None), (1, Some(0)), (3, Some(1))], &[]);
        assert_eq!(found.chain(), Ok(vec![3, 1, 0]));
        assert_eq!(record(1, &[(1, Some(2)), (2, Some(1))], &[]).chain(), Err(ChainError::Endless));
        assert_eq!(record(1, &[(1, Some(7))], &[]).chain(), Err(ChainError::Missing(7)));
        let deep: Vec<(u32, Option<u32>)> = (0..40).map(|n: u32| (n, n.checked_sub(1))).collect();
        assert_eq!(record(MAX_LAYERS as u32, &deep, &[]).chain().unwrap().len(), MAX_LAYERS + 1);
        assert_eq!(record(MAX_LAYERS as u32 + 1, &deep, &[]).chain(), Err(ChainError::Endless));
    }

    #[test]
    fn only_states_that_nothing_needs_are_unused() {
        let states = [(0, None), (1, Some(0)), (2, Some(1)), (3, None), (4, Some(1))];
        assert!(record(4, &states, &[("a", 2), ("b", 3)]).unused_states().is_empty());
        assert_eq!(Vec::from_iter(record(4, &states, &[]).unused_states()), [2, 3]);
        // What cannot be followed is not cleared away.
        assert!(record(9, &states, &[]).unused_states().is_empty());
    }

    #[test]
    fn names_that_are_no_safe_file_name_are_refused() {
        for text in ["", ".a", "-a", "a/b", "..", "a\n", "a b", &"a".repeat(64)] {
            assert!(text.parse::<SnapshotName>().is_err(), "{text:?}");
        }
        assert_eq!("before-Upgrade_1.2".parse::<SnapshotName>().unwrap().to_string(), "before-Upgrade_1.2");
    }

    proptest! {
        #[test]
        fn any_parents_end_and_what_is_used_stays(
            parents in proptest::collection::btree_map(0u32..30, proptest::option::of(0u32..30), 0..30),
            state in 0u32..30,
            snapshots in proptest::collection::vec(0u32..30, 0..5),
        ) {
            let parents: Vec<(u32, Option<u32>)> = parents.into_iter().collect();
            let named: Vec<(&str, u32)> = snapshots.iter().map(|&state| ("s", state)).collect();
            let found = record(state, &parents, &named);
            let unused = found.unused_states();
            for top in snapshots.iter().chain([&state]) {
                for used in chain(&found.states, *top).unwrap_or_default() {
                    prop_assert!(!unused.contains(&used));
                }
            }
            prop_assert!(!found.states.contains_key(&found.next_state()));
        }
    }
}
