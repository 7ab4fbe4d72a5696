//! Whether an update file is for this appliance. Pure.

use super::Slot;
use super::container::{Manifest, Version};

/// Boards that a refusal names.
const MAX_NAMED: usize = 4;

/// What this appliance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    pub version: Version,
    /// The words of `compatible` in the device tree.
    pub compatible: Vec<String>,
    /// As the firmware tells; `None` where it does not.
    pub running: Option<Slot>,
    pub on_trial: bool,
}

/// What installing the file would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Newer,
    /// Older than what runs: asks for a longer press.
    Older,
}

/// Why a good file is not installed here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is for {theirs}, and this is a {this}")]
    WrongBoard { theirs: String, this: String },
    #[error("it needs {needs} MiB, the card's slot has {has}")]
    SlotFull { needs: u64, has: u64 },
    #[error("this Pi's firmware does not tell which slot it started")]
    NoSlot,
    #[error("a new version is on trial just now")]
    OnTrial,
}

impl Refusal {
    /// What a person does about it.
    pub fn action(&self) -> &'static str {
        match self {
            Self::WrongBoard { .. } => "Take the update for this Pi",
            Self::SlotFull { .. } | Self::NoSlot => "Flash its image onto a card instead",
            Self::OnTrial => "Wait until the trial is over",
        }
    }
}

/// `None`: it is what runs, and nobody needs to be told.
pub fn judge(here: &Here, manifest: &Manifest, slot_bytes: u64) -> Option<Result<Step, Refusal>> {
    let version = manifest.version();
    if version == here.version {
        return None;
    }
    Some(if !manifest.boards.iter().any(|board| here.compatible.contains(board)) {
        let this = here.compatible.first().map_or_else(|| "board without a name".to_owned(), |word| board(word));
        Err(Refusal::WrongBoard { theirs: names(&manifest.boards), this })
    } else if here.on_trial {
        Err(Refusal::OnTrial)
    } else if here.running.is_none() {
        Err(Refusal::NoSlot)
    } else if manifest.slot_bytes > slot_bytes {
        Err(Refusal::SlotFull { needs: manifest.slot_bytes.div_ceil(1 << 20), has: slot_bytes >> 20 })
    } else if version > here.version {
        Ok(Step::Newer)
    } else {
        Ok(Step::Older)
    })
}

/// For a small screen: each kind once, and the first few.
fn names(boards: &[String]) -> String {
    let mut short: Vec<String> = boards.iter().map(|word| board(word)).collect();
    // The manifest has them in the order of the alphabet, but an older one may not.
    short.sort();
    short.dedup();
    let more = if short.len() > MAX_NAMED { " and others" } else { "" };
    short.truncate(MAX_NAMED);
    format!("{}{more}", short.join(", "))
}

/// A board's `compatible` as people call it: `raspberrypi,4-model-b` is a Pi 4, `raspberrypi,4-compute-module` a CM4.
fn board(compatible: &str) -> String {
    let Some(name) = compatible.strip_prefix("raspberrypi,") else { return compatible.to_owned() };
    match name.split_once('-') {
        Some((number, rest)) if rest.starts_with("compute-module") => format!("CM{number}"),
        Some((number, rest)) if rest.starts_with("model") => format!("Pi {number}"),
        None => format!("Pi {name}"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::container::tests::manifest;

    #[test]
    fn each_kind_of_file_gets_its_own_answer() {
        let pi3 = Here {
            version: "0.1.5".parse().unwrap(),
            compatible: vec!["raspberrypi,3-model-b".to_owned(), "brcm,bcm2837".to_owned()],
            running: Some(Slot::A),
            on_trial: false,
        };
        let check = |here: &Here, slot_bytes, expected: Option<Result<Step, &str>>| {
            let judged = judge(here, &manifest(), slot_bytes).map(|step| step.map_err(|refusal| refusal.to_string()));
            assert_eq!(judged, expected.map(|step| step.map_err(str::to_owned)));
        };
        let version = |text: &str| Here { version: text.parse().unwrap(), ..pi3.clone() };
        check(&pi3, 1 << 20, Some(Ok(Step::Newer)));
        check(&version("0.10.0"), 1 << 20, Some(Ok(Step::Older)));
        check(&version("0.2.0"), 1 << 20, None);
        check(&pi3, 4999, Some(Err("it needs 1 MiB, the card's slot has 0")));
        let pi4 = Here { compatible: vec!["raspberrypi,4-model-b".to_owned()], ..pi3.clone() };
        check(&pi4, 1 << 20, Some(Err("it is for Pi 3, and this is a Pi 4")));
        let untold = Here { running: None, ..pi3.clone() };
        check(&untold, 1 << 20, Some(Err("this Pi's firmware does not tell which slot it started")));
        check(&Here { on_trial: true, ..pi3 }, 1 << 20, Some(Err("a new version is on trial just now")));
    }

    #[test]
    fn boards_are_called_what_people_call_them() {
        let check = |boards: &[&str], expected: &str| {
            let boards: Vec<String> = boards.iter().map(|name| format!("raspberrypi,{name}")).collect();
            assert_eq!(names(&boards), expected);
        };
        check(&["5-model-b"], "Pi 5");
        check(&["3-model-b", "3-model-b-plus", "4-compute-module", "4-model-b", "400"], "CM4, Pi 3, Pi 4, Pi 400");
        check(
            &["3-model-b", "4-model-b", "5-model-b", "500", "5-compute-module", "zero"],
            "CM5, Pi 3, Pi 4, Pi 5 and others",
        );
        assert_eq!(board("linux,dummy-virt"), "linux,dummy-virt");
        assert_eq!(board("raspberrypi,model-b"), "model-b");
    }
}
