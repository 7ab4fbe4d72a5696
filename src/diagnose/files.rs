//! The boot files that one board asked for in one boot, and what became of each.
//!
//! Pure and bounded: the names are the board's.

/// Files that are remembered of one boot; a Pi asks for 20 to 60.
const MAX_FILES: usize = 128;
/// Longest name that is kept, from its end; longest known ones have 40 bytes.
const MAX_NAME_BYTES: usize = 64;

/// Where a transfer ended that was not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Bytes that the board acknowledged.
    pub at: u64,
    pub size: u64,
    /// It acknowledged a block that was never sent.
    pub ahead: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct File {
    /// Without the folder of the board's serial.
    pub name: String,
    /// Requests that found it.
    pub found: u32,
    /// Transfers of it that have not ended.
    open: u32,
    /// Of the last one: what the board has, and its size.
    progress: u64,
    size: Option<u64>,
    pub sent: u32,
    pub missing: u32,
    /// Ended by the board: its size probe, as a rule.
    pub aborted: u32,
    /// The furthest byte at which the board ended it.
    pub aborted_at: u64,
    /// The board fell silent, so often, and where the last time.
    pub stops: u32,
    pub stop: Option<Stop>,
    /// It could not be read.
    pub failed: u32,
    /// The same request again before anything was acknowledged.
    pub repeated: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files {
    /// In the order of the first request.
    list: Vec<File>,
    last: Option<usize>,
}

/// What became of a request, as TFTP tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    Found { size: Option<u64> },
    Sent,
    Missing,
    Aborted { at: u64 },
    Stopped(Stop),
    Failed,
    Repeated,
}

impl Files {
    /// False where it tells nothing of this boot: the server gives a transfer up after ten
    /// seconds, and meanwhile the board may have begun anew.
    pub fn note(&mut self, path: &str, became: Became) -> bool {
        let name = name_of(path);
        let known = self.list.iter().position(|file| file.name == name);
        let given_up = matches!(became, Became::Aborted { .. } | Became::Stopped(_));
        if given_up && known.is_none_or(|index| self.list[index].open == 0) {
            return false;
        }
        let index = match known {
            Some(index) => index,
            None if self.list.len() >= MAX_FILES => return true,
            None => {
                self.list.push(File { name: name.to_owned(), ..File::default() });
                self.list.len() - 1
            }
        };
        self.last = Some(index);
        let file = &mut self.list[index];
        let count = |counter: &mut u32| *counter = counter.saturating_add(1);
        match became {
            Became::Found { size } => {
                count(&mut file.found);
                count(&mut file.open);
                (file.progress, file.size) = (0, size);
            }
            Became::Sent => {
                count(&mut file.sent);
                file.open = file.open.saturating_sub(1);
                // It has it now.
                file.stop = None;
            }
            Became::Missing => count(&mut file.missing),
            Became::Aborted { at } => {
                count(&mut file.aborted);
                file.open = file.open.saturating_sub(1);
                file.aborted_at = file.aborted_at.max(at);
            }
            Became::Stopped(stop) => {
                count(&mut file.stops);
                file.open = file.open.saturating_sub(1);
                file.stop = Some(stop);
            }
            Became::Failed => {
                count(&mut file.failed);
                file.open = file.open.saturating_sub(1);
            }
            Became::Repeated => count(&mut file.repeated),
        }
        true
    }

    /// Of the file under way the board has so much.
    pub fn progress(&mut self, bytes: u64) {
        if let Some(file) = self.last.and_then(|last| self.list.get_mut(last)).filter(|file| file.open > 0) {
            file.progress = bytes;
        }
    }

    /// The board began anew: what it was loading broke off, before the server gave that up.
    pub fn cut(&mut self) {
        let Some(file) = self.last.and_then(|last| self.list.get_mut(last)) else { return };
        if file.open > 0 && file.progress > 0 && file.stop.is_none() {
            let size = file.size.unwrap_or(u64::MAX);
            file.stops = file.stops.saturating_add(1);
            file.stop = Some(Stop { at: file.progress, size, ahead: false });
        }
    }

    /// The file in which it broke off, and at which byte.
    pub fn broken(&self) -> Option<(&str, u64)> {
        let file = self.last().filter(|file| file.broke_off())?;
        Some((&file.name, file.stop?.at))
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn all(&self) -> &[File] {
        &self.list
    }

    /// The one that something happened to last.
    pub fn last(&self) -> Option<&File> {
        self.list.get(self.last?)
    }

    pub fn any(&self, wanted: impl Fn(&File) -> bool) -> bool {
        self.list.iter().any(wanted)
    }

    pub fn get(&self, name: &str) -> Option<&File> {
        self.list.iter().find(|file| file.name == name)
    }

    pub fn was_sent(&self, name: &str) -> bool {
        self.get(name).is_some_and(|file| file.sent > 0)
    }

    /// It was asked for and is not there.
    pub fn is_missing(&self, name: &str) -> bool {
        self.get(name).is_some_and(|file| file.missing > 0 && file.found == 0)
    }

    /// Files of this kind were asked for, and none of them is there.
    pub fn all_missing(&self, kind: impl Fn(&File) -> bool) -> bool {
        let mut of_kind = self.list.iter().filter(|file| kind(file)).peekable();
        of_kind.peek().is_some() && of_kind.all(|file| file.found == 0 && file.missing > 0)
    }
}

impl File {
    pub fn is_kernel(&self) -> bool {
        (self.name.starts_with("kernel") && self.name.ends_with(".img"))
            || self.name == "Image"
            || self.name.starts_with("vmlinuz")
    }

    /// A description of the board, not the map of overlays.
    pub fn is_device_tree(&self) -> bool {
        self.name.ends_with(".dtb") && !self.name.starts_with("overlays/")
    }

    /// What the boot ROM of a Pi 2 or 3 loads before a later stage asks for an address again.
    pub fn is_first_stage(&self) -> bool {
        self.name == "bootcode.bin" || self.name == "bootsig.bin"
    }

    pub fn is_firmware(&self) -> bool {
        let elf = self.name.starts_with("start") && self.name.ends_with(".elf");
        elf || (self.name.starts_with("fixup") && self.name.ends_with(".dat"))
    }

    /// Began, and ended neither by the board nor at its end.
    pub fn broke_off(&self) -> bool {
        self.stop.is_some_and(|stop| stop.at > 0 && stop.at < stop.size)
    }
}

/// The path without the serial folder that a loader puts before it.
fn name_of(path: &str) -> &str {
    let path = path.trim_start_matches(['/', '.']);
    let name = match path.split_once('/') {
        Some((folder, rest)) if folder.len() == 8 && folder.bytes().all(|b| b.is_ascii_hexdigit()) => rest,
        _ => path,
    };
    let mut from = name.len().saturating_sub(MAX_NAME_BYTES);
    while !name.is_char_boundary(from) {
        from += 1;
    }
    &name[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serial_folder_is_no_part_of_a_name() {
        for (path, name) in [
            ("9ffefdef/start4.elf", "start4.elf"),
            ("/start4.elf", "start4.elf"),
            ("9ffefdef/overlays/overlay_map.dtb", "overlays/overlay_map.dtb"),
            ("overlays/vc4.dtbo", "overlays/vc4.dtbo"),
            ("9ffefdef/", ""),
            ("", ""),
        ] {
            assert_eq!(name_of(path), name, "{path}");
        }
        let long = format!("{}ü.img", "é".repeat(300));
        assert!(name_of(&long).len() <= MAX_NAME_BYTES && name_of(&long).ends_with("ü.img"));
    }

    #[test]
    fn a_board_that_asks_for_ten_thousand_names_fills_a_bounded_table() {
        let mut files = Files::default();
        for n in 0..10_000 {
            files.note(&format!("file-{n}"), Became::Missing);
        }
        assert_eq!(files.all().len(), MAX_FILES);
        assert!(files.all_missing(|_| true) && !files.all_missing(File::is_kernel));
    }

    #[test]
    fn a_file_that_came_at_the_second_try_did_not_break_off() {
        let mut files = Files::default();
        files.note("kernel8.img", Became::Found { size: Some(9) });
        files.note("kernel8.img", Became::Stopped(Stop { at: 5, size: 9, ahead: false }));
        assert!(files.last().unwrap().broke_off());
        files.note("kernel8.img", Became::Found { size: Some(9) });
        files.note("kernel8.img", Became::Sent);
        assert!(!files.last().unwrap().broke_off() && files.was_sent("kernel8.img"));
    }
    #[test]
    fn what_was_under_way_when_the_board_began_anew_broke_off_there() {
        let mut files = Files::default();
        files.note("kernel8.img", Became::Found { size: Some(9) });
        files.progress(5);
        files.cut();
        assert_eq!(files.broken(), Some(("kernel8.img", 5)));
        let mut files = Files::default();
        files.note("kernel8.img", Became::Found { size: Some(9) });
        files.cut();
        assert_eq!(files.broken(), None, "nothing of it is known to have come");
        // The server gives the transfer of the boot before up.
        let mut files = Files::default();
        assert!(!files.note("kernel8.img", Became::Stopped(Stop { at: 5, size: 9, ahead: false })));
        assert!(files.is_empty() && files.last().is_none());
    }
}
