//! Finds a store that lies in the file system already.
//!
//! Pure. By its name at the top of the stick, by its clusters, which must lie
//! one behind the other, and by the ext4 label inside. A laptop may have
//! copied it back, moved it or cut it: what cannot be served is refused with
//! the reason, and never replaced by a new store, which would look as if all
//! clients were lost.

use super::clusters::Run;
use super::volume::{Child, Volume, directory, each_cluster};
use super::{Media, Refusal, STORE_NAME, Span, media, part_name};
use crate::store::identify::{self, STORE_LABEL};

pub fn find(media: &dyn Media) -> Result<Option<Span>, Refusal> {
    find_in(&*super::open(media)?)
}

pub fn find_in(volume: &dyn Volume) -> Result<Option<Span>, Refusal> {
    let root = directory(volume, volume.root())?;
    let children = volume.children(&root.bytes)?;
    let Some(store) = children.into_iter().find(|child| child.name.eq_ignore_ascii_case(STORE_NAME)) else {
        return Ok(None);
    };
    let parts = if store.is_folder { parts(volume, &store)? } else { vec![store] };
    let span = join(volume, &parts)?;
    let head = media::read(volume.media(), span.at, identify::HEAD_BYTES.min(span.bytes as usize))?;
    let ext4 = identify::ext4(&head).filter(|ext4| ext4.label == STORE_LABEL).ok_or(Refusal::NotAStore)?;
    if ext4.bytes > span.bytes {
        return Err(Refusal::Cut { has_bytes: span.bytes, needed_bytes: ext4.bytes });
    }
    Ok(Some(span))
}

/// The parts in their order. A missing one ends it; then the store is cut.
fn parts(volume: &dyn Volume, folder: &Child) -> Result<Vec<Child>, Refusal> {
    let children = volume.children(&directory(volume, folder.allocation)?.bytes)?;
    let part = |number: u32| {
        let name = part_name(number);
        children.iter().find(|child| !child.is_folder && child.name.eq_ignore_ascii_case(&name)).cloned()
    };
    Ok((1..=super::fat32::MAX_PARTS).map_while(part).collect())
}

/// The one range of bytes that all parts make together.
fn join(volume: &dyn Volume, parts: &[Child]) -> Result<Span, Refusal> {
    let grid = volume.grid();
    let mut whole: Option<Run> = None;
    let (mut pieces, mut bytes) = (0, 0u64);
    for (index, part) in parts.iter().enumerate() {
        let mut clusters = 0;
        each_cluster(volume, part.allocation, &mut |cluster| {
            clusters += 1;
            match &mut whole {
                Some(run) if run.end() == cluster => run.count += 1,
                _ => {
                    pieces += 1;
                    whole = Some(Run { first: cluster, count: 1 });
                }
            }
            Ok(())
        })?;
        let is_last = index + 1 == parts.len();
        if part.bytes > grid.bytes(clusters) || !is_last && part.bytes != grid.bytes(clusters) {
            return Err(Refusal::Damaged("rootstock.store and its clusters do not match"));
        }
        bytes += part.bytes;
    }
    match whole {
        Some(run) if pieces == 1 => Ok(Span { at: grid.at(run.first), bytes }),
        Some(_) => Err(Refusal::Fragmented(pieces)),
        None => Err(Refusal::NotAStore),
    }
}
