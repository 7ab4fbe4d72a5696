//! Outcomes as text for people, and as JSON for programs.
//!
//! Pure.

use rootstock::store::operate::{Checked, ClientEntry, ImageEntry, Outcome, StickEntry};

/// A list is an array, one thing an object.
pub fn json(outcome: &Outcome) -> serde_json::Result<String> {
    match outcome {
        Outcome::Clients(entries) => serde_json::to_string_pretty(entries),
        Outcome::Client(entry) => serde_json::to_string_pretty(entry),
        Outcome::Images(entries) => serde_json::to_string_pretty(entries),
        Outcome::Image(entry) => serde_json::to_string_pretty(entry),
        Outcome::Stick(entry) => serde_json::to_string_pretty(entry),
        Outcome::Checked(checked) => serde_json::to_string_pretty(checked),
        Outcome::Done { message, warnings } => {
            serde_json::to_string_pretty(&serde_json::json!({ "message": message, "warnings": warnings }))
        }
    }
}

pub fn text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Clients(entries) => clients(entries),
        Outcome::Client(entry) => client(entry),
        Outcome::Images(entries) => images(entries),
        Outcome::Image(entry) => image(entry),
        Outcome::Stick(entry) => stick(entry),
        Outcome::Checked(checked) => checked.iter().map(check).collect(),
        Outcome::Done { message, warnings } => {
            let warnings: String = warnings.iter().map(|warning| format!("  note: {warning}\n")).collect();
            format!("{message}\n{warnings}")
        }
    }
}

/// Columns as wide as their widest cell; the last is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn clients(entries: &[ClientEntry]) -> String {
    if entries.is_empty() {
        return "no clients\n".to_owned();
    }
    let mut rows = vec![row(["CLIENT", "ADDRESS", "BOARD", "MAC", "IMAGE", "SNAPSHOTS", "NOW"])];
    rows.extend(entries.iter().map(|entry| {
        row([
            &entry.role.to_string(),
            &entry.address.to_string(),
            &entry.model.to_string(),
            &entry.mac.to_string(),
            &entry.image.to_string(),
            &entry.snapshots.len().to_string(),
            entry.stage.as_deref().unwrap_or(""),
        ])
    }));
    table(&rows)
}

fn client(entry: &ClientEntry) -> String {
    let serial = entry.serial.map_or_else(|| "not known".to_owned(), |serial| serial.to_string());
    let mode = serde_json::to_value(entry.mode).ok().and_then(|mode| Some(mode.as_str()?.to_owned()));
    let mut rows = vec![
        row(["client", &entry.role.to_string()]),
        row(["address", &entry.address.to_string()]),
        row(["board", &format!("{}, {}, serial {serial}", entry.model, entry.mac)]),
        row(["image", &entry.image.to_string()]),
        row(["mode", mode.as_deref().unwrap_or("")]),
    ];
    if let Some(bytes) = entry.changed_bytes {
        rows.push(row(["changed", &size(bytes)]));
    }
    match (entry.used_bytes, entry.quota_bytes) {
        (Some(used), Some(quota)) => rows.push(row(["takes", &format!("{} of its {}", size(used), size(quota))])),
        (Some(used), None) => rows.push(row(["takes", &format!("{}, no quota", size(used))])),
        (None, _) => {}
    }
    rows.push(row(["layers", &entry.layers.to_string()]));
    if entry.eeprom_update {
        rows.push(row(["EEPROM", "an update waits in its boot folder, for its next start"]));
    }
    if let Some(stage) = &entry.stage {
        rows.push(row(["now", stage]));
    }
    let snapshots = if entry.snapshots.is_empty() { String::new() } else { format!("\n{}", snapshots(entry)) };
    table(&rows) + &snapshots + &boots(entry)
}

/// The newest first.
fn boots(entry: &ClientEntry) -> String {
    if entry.boots.is_empty() {
        return String::new();
    }
    let mut rows = vec![row(["BOOT (UTC)", "TOOK", "LOADED", "CAME TO", ""])];
    rows.extend(entry.boots.iter().rev().map(|boot| {
        let took = format!("{} s", boot.took_seconds);
        row([&time(boot.when), &took, &size(boot.loaded_bytes), &boot.reached, boot.stalled.as_deref().unwrap_or("")])
    }));
    format!("\n{}", table(&rows))
}

pub fn snapshots(entry: &ClientEntry) -> String {
    if entry.snapshots.is_empty() {
        return "no snapshots\n".to_owned();
    }
    let mut rows = vec![row(["SNAPSHOT", "TAKEN (UTC)", "HOLDS", "IMAGE"])];
    rows.extend(entry.snapshots.iter().map(|snapshot| {
        let bytes = snapshot.bytes.map(size).unwrap_or_default();
        row([&snapshot.name.to_string(), &time(snapshot.taken), &bytes, &snapshot.image.to_string()])
    }));
    table(&rows)
}

fn images(entries: &[ImageEntry]) -> String {
    if entries.is_empty() {
        return "no images\n".to_owned();
    }
    let mut rows = vec![row(["IMAGE", "SINCE (UTC)", "TAKES", "USED BY", ""])];
    rows.extend(entries.iter().map(|entry| {
        row([
            &entry.id.to_string(),
            &time(entry.imported),
            &size(entry.stored_bytes),
            &entry.used_by.len().to_string(),
            if entry.default { "for new clients" } else { "" },
        ])
    }));
    table(&rows)
}

fn image(entry: &ImageEntry) -> String {
    let users = if entry.used_by.is_empty() { "nobody".to_owned() } else { entry.used_by.join(", ") };
    table(&[
        row(["image", &entry.id.to_string()]),
        row(["name", &entry.name]),
        row(["since", &time(entry.imported)]),
        row(["takes", &size(entry.stored_bytes)]),
        row(["root", &size(entry.root_bytes)]),
        row(["sha256", &entry.sha256]),
        row(["used by", &users]),
        row(["new clients", if entry.default { "get it" } else { "get another" }]),
    ])
}

fn stick(entry: &StickEntry) -> String {
    let mut text = table(&[
        row(["store", &size(entry.bytes)]),
        row(["free", &size(entry.free_bytes)]),
        row(["kept back", &format!("{} of that, for the appliance", size(entry.reserve_bytes.min(entry.free_bytes)))]),
        row(["images", &entry.images.to_string()]),
        row(["clients", &entry.clients.to_string()]),
        row(["snapshots", &entry.snapshots.to_string()]),
    ]);
    text.extend(entry.problems.iter().map(|problem| format!("broken: {problem}\n")));
    text
}

fn check(checked: &Checked) -> String {
    let Checked { image, first, damaged, files, .. } = checked;
    let read = size(checked.bytes);
    match (first, damaged.is_empty()) {
        (true, true) => format!("{image}: {read} read; its hashes are noted from now on\n"),
        (false, true) => format!("{image}: {read} read, all as it was\n"),
        _ => {
            let lines: String = damaged.iter().map(|line| format!("  {line}\n")).collect();
            let files: String = files.iter().map(|file| format!("  touches {file}\n")).collect();
            format!(
                "{image}: DAMAGED\n{lines}{files}  Import it again from its file; clients that change nothing there go on\n"
            )
        }
    }
}

pub fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let power = (0..4).rev().find(|power| bytes >> (10 * (power + 1)) > 0).map_or(0, |power| power + 1);
    match power {
        0 => format!("{bytes} bytes"),
        power => format!("{:.1} {}", bytes as f64 / f64::powi(1024.0, power), units[power as usize]),
    }
}

/// Year, month, day, and seconds of that day.
fn date(unix: u64) -> (u64, u64, u64, u64) {
    // Days in 400 years repeat; years begin in March, so that the odd day is the last.
    let days = unix / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (era * 400 + year + u64::from(month <= 2), month, day, unix % 86_400)
}

pub fn day(unix: u64) -> String {
    let (year, month, day, _) = date(unix);
    format!("{year:04}-{month:02}-{day:02}")
}

/// For the names of snapshots.
pub fn stamp(unix: u64) -> String {
    let seconds = unix % 86_400;
    format!("{}-{:02}{:02}{:02}", day(unix), seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn time(unix: u64) -> String {
    let seconds = unix % 86_400;
    format!("{} {:02}:{:02}", day(unix), seconds / 3600, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, expected) in [
            (0, "1970-01-01 00:00"),
            (951_782_400, "2000-02-29 00:00"),
            (1_795_371_299, "2026-11-22 18:14"),
            (4_107_542_399, "2100-02-28 23:59"),
            (4_107_542_400, "2100-03-01 00:00"),
        ] {
            assert_eq!(time(unix), expected);
        }
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, expected) in [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(size(bytes), expected);
        }
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn columns_line_up() {
        assert_eq!(table(&[row(["a", "bb", ""]), row(["ccc", "d", "e"])]), "a    bb\nccc  d   e\n");
    }
}
