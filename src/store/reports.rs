//! Reports of the black box, in the store: a folder each, whole or not at all,
//! and a bounded number of them.
//!
//! I/O. A report is written into a folder with a name of its own, synced, and put
//! in its place by one rename; what a power cut left is removed by the next one.

use std::fs;
use std::io;
use std::path::Path;

use super::{atomic, trash};

/// In the store.
pub const FOLDER: &str = "reports";
/// Reports that are kept; the oldest makes room.
pub const MAX_REPORTS: usize = 16;
/// Largest report, in bytes: what the ring can become at most.
pub const MAX_BYTES: usize = 16 << 20;

/// Names that begin so are not whole.
const UNFINISHED: &str = ".new-";
/// Reports of one second.
const MAX_SAME_NAME: u32 = 100;

/// A report to be written.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    /// What it is about, such as `stall`; a part of its folder's name.
    pub why: String,
    /// Unix seconds.
    pub at: u64,
    /// Name and content of each file.
    pub files: Vec<(&'static str, Vec<u8>)>,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Report({}, {}, {} files)", self.why, self.at, self.files.len())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("the report has {0} bytes, more than a report may have")]
    TooLarge(usize),
    #[error("writing the report {name}")]
    Write { name: String, source: io::Error },
}

/// Writes it, and says the name of its folder below the store.
pub fn save(store: &Path, report: &Report) -> Result<String, ReportError> {
    let bytes = report.files.iter().map(|(_, content)| content.len()).sum();
    if bytes > MAX_BYTES {
        return Err(ReportError::TooLarge(bytes));
    }
    let name = format!("{}-{}", stamp(report.at), report.why);
    write(&store.join(FOLDER), store, &name, report)
        .map(|name| format!("{FOLDER}/{name}"))
        .map_err(|source| ReportError::Write { name, source })
}

fn write(folder: &Path, store: &Path, name: &str, report: &Report) -> io::Result<String> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let whole = tidy(folder, store)?;
    let new = folder.join(format!("{UNFINISHED}{name}"));
    fs::create_dir(&new)?;
    for (file, content) in &report.files {
        atomic::write_unsynced(&new.join(file), content, 0o644, true)?;
    }
    atomic::sync_folder(&new)?;
    let free = (1..=MAX_SAME_NAME).map(|n| if n == 1 { name.to_owned() } else { format!("{name}-{n}") });
    let name = free.into_iter().find(|name| !folder.join(name).exists()).ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(&new, folder.join(&name))?;
    atomic::sync_folder(folder)?;
    // Only now: a report that could not be written costs none of those before.
    for old in whole.iter().take((whole.len() + 1).saturating_sub(MAX_REPORTS)) {
        trash::put(store, &folder.join(old))?;
    }
    Ok(name)
}

/// Removes what was never finished; the names of the others, oldest first.
fn tidy(folder: &Path, store: &Path) -> io::Result<Vec<String>> {
    let mut whole = Vec::new();
    for entry in fs::read_dir(folder)?.take(10_000) {
        let name = entry?.file_name();
        match name.to_str() {
            Some(name) if name.starts_with(UNFINISHED) => trash::put(store, &folder.join(name))?,
            // Ours begin with the year; what a person put there is not ours.
            Some(name) if name.starts_with(|c: char| c.is_ascii_digit()) => whole.push(name.to_owned()),
            _ => {}
        }
    }
    whole.sort();
    Ok(whole)
}

/// `2026-11-29T15-04-05`: names sort as time does.
fn stamp(at: u64) -> String {
    let (days, second) = (at / 86_400, at % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}")
}

/// The Gregorian date of a day since 1970, counted in eras of 400 years that begin in March.
fn date(days: u64) -> (u64, u64, u64) {
    // Far beyond any clock, so that nothing overflows.
    let days = days.min(3_000_000) + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(at: u64) -> Report {
        Report { why: "stall".to_owned(), at, files: vec![("report.html", b"<p>".to_vec()), ("log.txt", vec![7; 100])] }
    }

    fn names(store: &Path) -> Vec<String> {
        let entries = fs::read_dir(store.join(FOLDER)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn dates_are_right() {
        for (at, expected) in [
            (0, "1970-01-01T00-00-00"),
            (951_782_400, "2000-02-29T00-00-00"),
            (1_764_428_645, "2025-11-29T15-04-05"),
            (4_107_542_399, "2100-02-28T23-59-59"),
            (4_107_542_400, "2100-03-01T00-00-00"),
        ] {
            assert_eq!(stamp(at), expected);
        }
        assert!(stamp(u64::MAX).len() < 30);
    }

    #[test]
    fn a_report_is_a_folder_and_two_of_a_second_are_two() {
        let store = tempfile::tempdir().unwrap();
        assert_eq!(save(store.path(), &report(0)).unwrap(), "reports/1970-01-01T00-00-00-stall");
        assert_eq!(save(store.path(), &report(0)).unwrap(), "reports/1970-01-01T00-00-00-stall-2");
        let file = store.path().join("reports/1970-01-01T00-00-00-stall/report.html");
        assert_eq!(fs::read(file).unwrap(), b"<p>");
    }

    #[test]
    fn the_oldest_make_room_and_a_persons_own_folder_stays() {
        let store = tempfile::tempdir().unwrap();
        fs::create_dir_all(store.path().join(FOLDER).join("mine")).unwrap();
        for at in 0..40 {
            save(store.path(), &report(at)).unwrap();
        }
        let names = names(store.path());
        assert_eq!(names.len(), MAX_REPORTS + 1);
        assert_eq!((names[0].as_str(), names[16].as_str()), ("1970-01-01T00-00-24-stall", "mine"));
    }

    #[test]
    fn what_a_power_cut_left_is_no_report_and_goes() {
        let store = tempfile::tempdir().unwrap();
        let cut = store.path().join(FOLDER).join(".new-1970-01-01T00-00-00-stall");
        fs::create_dir_all(&cut).unwrap();
        fs::write(cut.join("log.txt"), "half").unwrap();
        save(store.path(), &report(0)).unwrap();
        assert_eq!(names(store.path()), ["1970-01-01T00-00-00-stall"]);
        assert_eq!(fs::read(store.path().join("reports/1970-01-01T00-00-00-stall/log.txt")).unwrap().len(), 100);
    }

    #[test]
    fn a_full_or_missing_stick_is_an_error_and_leaves_the_former_ones() {
        let store = tempfile::tempdir().unwrap();
        save(store.path(), &report(0)).unwrap();
        let large = Report { files: vec![("log.txt", vec![0; MAX_BYTES + 1])], ..report(1) };
        assert!(matches!(save(store.path(), &large), Err(ReportError::TooLarge(_))));
        assert_eq!(names(store.path()).len(), 1);
        assert!(save(&store.path().join("none"), &report(0)).is_err());
    }
}
