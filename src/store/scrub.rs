//! The scrub: images against their hashes, every so many days, when nobody is disturbed by it.
//!
//! I/O. What is compared is `operate::verify`'s business; this says when. A piece is read at the lowest priority, then
//! comes a rest. Whatever the stick moves in that rest is somebody else's, and as long as that is more than a trifle the
//! scrub waits. `scrub.toml` keeps how far it is, so a restart goes on and begins nothing anew.
//!
//! Days are those that the store was open: an appliance has no clock that goes on without power.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::atomic;
use super::manifest::MAX_MANIFEST_BYTES;
use super::operate::site::Site;
use super::operate::verify::{self, Checked, VerifyError};
use crate::client::ImageId;

pub const SCRUB_STATE: &str = "scrub.toml";
/// A piece of 4 MiB and such a rest are at most 16 MiB a second.
const REST: Duration = Duration::from_millis(250);
/// As long as others move so much in a rest, it is no time for this.
const BUSY_BYTES: u64 = 256 << 10;
const BUSY_REST: Duration = Duration::from_secs(2);
/// The state is written each time so many pieces (of 4 MiB) are done.
const PIECES_PER_SAVE: u64 = 64;
/// An image that was never looked at waits for so long: who imports wants to enrol next.
const FIRST_LOOK: Duration = Duration::from_secs(600);

/// `scrub.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Seconds that the store was open in all.
    #[serde(default)]
    pub open_seconds: u64,
    #[serde(default)]
    pub images: BTreeMap<String, Progress>,
}

/// Of one image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// When the last whole look ended, in the store's open seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<u64>,
    /// The piece that comes next, where a look was begun; a damaged one stays it until the look is whole.
    #[serde(default)]
    pub piece: u64,
}

impl State {
    /// What stands in the store; one that cannot be read is begun anew, since it costs only one look more.
    pub fn read(store: &Path) -> Self {
        let bytes = atomic::read_bounded(&store.join(SCRUB_STATE), MAX_MANIFEST_BYTES).unwrap_or_default();
        std::str::from_utf8(&bytes).ok().and_then(|text| toml::from_str(text).ok()).unwrap_or_default()
    }

    pub fn write(&self, store: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        atomic::write(&store.join(SCRUB_STATE), text.as_bytes(), 0o644)
    }

    /// The image whose turn it is: one that was begun, then one that was never looked at, then the one whose look is
    /// longest ago. Pure.
    pub fn due<'a>(&self, images: impl Iterator<Item = &'a ImageId>, every: Duration) -> Option<&'a ImageId> {
        let of = |id: &ImageId| self.images.get(id.as_str()).copied().unwrap_or_default();
        let is_due = |progress: Progress| match progress.checked {
            _ if progress.piece > 0 => true,
            None => self.open_seconds >= FIRST_LOOK.as_secs(),
            Some(checked) => self.open_seconds.saturating_sub(checked) >= every.as_secs(),
        };
        images
            .filter(|id| is_due(of(id)))
            .min_by_key(|id| (of(id).piece == 0, of(id).checked.unwrap_or(0), id.as_str()))
    }

    /// Images that are gone are forgotten.
    pub fn keep(&mut self, images: &[&ImageId]) {
        self.images.retain(|id, _| images.iter().any(|known| known.as_str() == id));
    }
}

/// What one look came to, whole or from where the last one was ended.
pub struct Looked {
    pub image: ImageId,
    pub progress: Progress,
    /// What was found; none where it was ended.
    pub checked: Option<Checked>,
}

/// Looks at one image from piece `from` on, until it is done or `stop`.
pub fn look(site: &Site, id: &ImageId, from: Progress, open_seconds: u64, stop: &AtomicBool) -> Looked {
    super::idle::lowest_priority();
    let mounted = site.image(id).ok();
    let mut progress = from;
    let mut between = |piece: u64, damaged: usize| {
        if damaged == 0 {
            progress.piece = piece + 1;
            if progress.piece.is_multiple_of(PIECES_PER_SAVE) {
                save(&site.store, id, progress);
            }
        }
        rest(&site.store, stop)
    };
    match verify::verify(&site.store, &site.run, id, mounted.as_deref(), from.piece, &mut between) {
        Ok(checked) => {
            progress = Progress { checked: Some(open_seconds), piece: 0 };
            save(&site.store, id, progress);
            Looked { image: id.clone(), progress, checked: Some(checked) }
        }
        Err(error) => {
            if !matches!(error, VerifyError::Stopped) {
                tracing::warn!(image = %id, error = super::chain(&error), "scrub");
                progress = Progress { checked: Some(open_seconds), piece: 0 };
            }
            save(&site.store, id, progress);
            Looked { image: id.clone(), progress, checked: None }
        }
    }
}

/// A first look makes a list of all pieces, which is written at its end only: that one is begun anew.
fn save(store: &Path, id: &ImageId, progress: Progress) {
    let mut state = State::read(store);
    state.images.insert(id.as_str().to_owned(), progress);
    if let Err(error) = state.write(store) {
        tracing::debug!(%error, "{SCRUB_STATE}");
    }
}

/// Rests, and goes on resting while the stick works for others.
fn rest(store: &Path, stop: &AtomicBool) -> Result<(), VerifyError> {
    let mut pause = REST;
    loop {
        let before = moved_bytes(store);
        std::thread::sleep(pause);
        if stop.load(Ordering::Relaxed) {
            return Err(VerifyError::Stopped);
        }
        match (before, moved_bytes(store)) {
            (Some(before), Some(after)) if after.saturating_sub(before) >= BUSY_BYTES => pause = BUSY_REST,
            _ => return Ok(()),
        }
    }
}

/// What the store's device read and wrote so far; none where the kernel keeps no account (a folder on no block device).
fn moved_bytes(store: &Path) -> Option<u64> {
    let device = rustix::fs::stat(store).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    moved(&text)
}

/// Documentation/block/stat.rst: sectors of 512 bytes read are the third figure, those written the seventh. Pure.
fn moved(stat: &str) -> Option<u64> {
    let figures: Vec<u64> = stat.split_whitespace().map_while(|word| word.parse().ok()).collect();
    Some((figures.get(2)?.saturating_add(*figures.get(6)?)).saturating_mul(512))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ImageId {
        name.parse().unwrap()
    }

    fn state(open_seconds: u64, images: &[(&str, Option<u64>, u64)]) -> State {
        let of = |&(name, checked, piece): &(&str, Option<u64>, u64)| (name.to_owned(), Progress { checked, piece });
        State { open_seconds, images: images.iter().map(of).collect() }
    }

    #[test]
    fn whose_turn_it_is() {
        let (a, b) = (id("a-1"), id("b-1"));
        let every = Duration::from_secs(1000);
        let due = |state: &State| state.due([&a, &b].into_iter(), every).map(ImageId::to_string);
        assert_eq!(due(&state(0, &[])), None, "not while its first client is enrolled");
        assert_eq!(due(&state(700, &[])), Some("a-1".into()));
        assert_eq!(due(&state(700, &[("a-1", Some(650), 0)])), Some("b-1".into()));
        assert_eq!(due(&state(1500, &[("a-1", Some(650), 0), ("b-1", Some(700), 0)])), None);
        assert_eq!(due(&state(1800, &[("a-1", Some(700), 0), ("b-1", Some(650), 0)])), Some("b-1".into()));
        // What was begun is ended first.
        assert_eq!(due(&state(10, &[("b-1", None, 7)])), Some("b-1".into()));
    }

    #[test]
    fn the_state_reads_back_and_forgets_what_is_gone() {
        let store = tempfile::tempdir().unwrap();
        assert_eq!(State::read(store.path()), State::default());
        let mut written = state(7, &[("a-1.2", Some(1), 3), ("gone", None, 0)]);
        written.keep(&[&id("a-1.2")]);
        written.write(store.path()).unwrap();
        assert_eq!(State::read(store.path()), state(7, &[("a-1.2", Some(1), 3)]));
        std::fs::write(store.path().join(SCRUB_STATE), "images = 7").unwrap();
        assert_eq!(State::read(store.path()), State::default());
    }

    #[test]
    fn the_kernels_account_of_a_disk_is_read() {
        let line = "    1234      5    2000     30     99      1     500     40        0       60       70\n";
        assert_eq!(moved(line), Some(2500 * 512));
        assert_eq!(moved(""), None);
        assert_eq!(moved("1 2 3"), None);
    }
}
