//! Plans the writes that make a store: a list of steps with a flush after each.
//!
//! Pure. The order makes a cut at any moment harmless. After every step the
//! file system is as before, apart from clusters that nobody owns; the intent
//! says which those are, so that the next plan takes them back. The one write
//! of a slot's sector makes the store appear; ext4 is in its clusters by then.

use super::clusters::{Clusters, FIRST};
use super::intent::{Intent, SLOT};
use super::room::{self, Rule};
use super::volume::{StoreClusters, Volume, census, directory};
use super::{Media, Refusal, Span, Step, Write, slots};

/// A store to be made: ext4 goes to `span` first, then the steps are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub span: Span,
    pub steps: Vec<Step>,
}

/// Slots of our entry: two of the long name and the short one on FAT; file,
/// stream and name on exFAT.
const SLOTS: usize = 3;

/// The bytes that a store would get; nothing is read but what says what is free.
pub fn offer(media: &dyn Media, rule: Rule) -> Result<u64, Refusal> {
    let volume = super::open(media)?;
    let mut used = volume.used()?;
    let root = directory(&*volume, volume.root())?;
    if let Some(intent) = intent(&*volume, &root.bytes) {
        for cluster in leaked(&census(&*volume)?, intent) {
            used.remove(cluster);
        }
    }
    room::size(&used, volume.grid(), rule)
}

/// `now`: Unix seconds, for the file's time stamps.
pub fn plan(media: &dyn Media, rule: Rule, now: u64) -> Result<Plan, Refusal> {
    let volume = &*super::open(media)?;
    let grid = volume.grid();
    let mut root = directory(volume, volume.root())?;
    let reached = census(volume)?;
    let mut used = volume.used()?;
    let marked_free = reached.iter().filter(|&cluster| !used.contains(cluster)).count();
    if marked_free > 0 {
        return Err(Refusal::MarkedFree(u32::try_from(marked_free).unwrap_or(u32::MAX)));
    }
    let before = intent(volume, &root.bytes);
    let clean = volume.is_clean()? || before.is_some_and(|intent| intent.was_clean);
    let leaked = before.map(|intent| leaked(&reached, intent)).unwrap_or_default();
    for &cluster in &leaked {
        used.remove(cluster);
    }
    let release = volume.release(&leaked, &used)?;

    let kind = volume.slots();
    let found = slots::find(&root.bytes, volume.sector_bytes(), SLOTS, kind);
    let folder = volume.folder_clusters(room::size(&used, grid, rule)?);
    let data = room::choose(&used, grid, rule, folder, u32::from(found.is_none()))?;
    let store = StoreClusters { folder, data };
    let mut steps = Vec::new();
    let slots = match found {
        Some(slots) => slots,
        None => {
            // The root directory is full: one more cluster, just behind the store's.
            let (last, new) = (root.clusters.last().copied().unwrap_or(FIRST), data.end());
            used.insert(new);
            steps.push(volume.mark_dirty()?);
            steps.push(volume.take_for_root(new, &used)?);
            steps.push(volume.link(last, new)?);
            root.clusters.push(new);
            root.bytes.resize(root.bytes.len() + grid.cluster_bytes as usize, 0);
            let slots = slots::find(&root.bytes, volume.sector_bytes(), SLOTS, kind);
            slots.ok_or(Refusal::Damaged("its root directory cannot grow"))?
        }
    };
    for sectors in slots.prepare {
        steps.push(sectors.into_iter().map(|(at, bytes)| Write { at: root.at(grid, at), bytes }).collect());
    }
    let slot_at = root.at(grid, slots.at);
    let intent = Intent { run: store.whole(), was_clean: clean };
    let note = vec![Write { at: slot_at, bytes: intent.encode(kind.deleted()).to_vec() }];
    // The note comes before the dirty mark, which is then known to be ours. An
    // older note is replaced when what it names has been given back.
    match before {
        None => steps.extend([note, volume.mark_dirty()?]),
        Some(_) => {
            let old = intents(&root.bytes, kind).filter(|(at, _)| *at != slots.at);
            let old = old.map(|(at, _)| Write { at: root.at(grid, at) + 1, bytes: vec![0; 11] });
            steps.extend([volume.mark_dirty()?, release, note, old.collect()]);
        }
    }

    for cluster in store.whole().first..store.whole().end() {
        used.insert(cluster);
    }
    steps.push(volume.take(&store, &used, now)?);
    steps.push(vec![Write { at: slot_at, bytes: volume.entry(&store, &root.bytes, now)? }]);
    steps.push(volume.finish(&used, clean)?);
    steps.retain(|step| !step.is_empty());
    Ok(Plan { span: Span { at: grid.at(data.first), bytes: grid.bytes(data.count) }, steps })
}

fn intents(root: &[u8], kind: slots::Kind) -> impl Iterator<Item = (usize, Intent)> {
    let slots = root[..slots::end(root)].chunks_exact(SLOT).zip((0..).step_by(SLOT));
    slots.filter_map(move |(slot, at)| Some((at, Intent::decode(slot, kind.deleted())?)))
}

fn intent(volume: &dyn Volume, root: &[u8]) -> Option<Intent> {
    let found = intents(root, volume.slots()).map(|(_, intent)| intent);
    found.into_iter().find(|intent| volume.grid().has_run(intent.run))
}

/// What the intent may have taken and nobody owns. Also what the first table
/// says is free: a cut between the two tables leaves it in the second.
fn leaked(reached: &Clusters, intent: Intent) -> Vec<u32> {
    (intent.run.first..intent.run.end()).filter(|&cluster| !reached.contains(cluster)).collect()
}
