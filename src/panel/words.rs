//! Words and numbers as a small display shows them: cleaned, shortened,
//! wrapped, with units that a person says aloud.
//!
//! Pure. Knows widths in characters only; pixels belong to `draw.rs`.

use std::time::Duration;

use crate::client::{Model, Serial};

/// Longest text that is looked at, in characters: more than any screen shows in all its parts.
pub const MAX_CHARS: usize = 400;

/// Replaces what the fonts cannot draw (they hold ISO 8859-1, and `…` is drawn
/// by us) and bounds the length. Names come from sticks, so anything can be in them.
pub fn clean(text: &str) -> String {
    let known = |c: char| matches!(c, ' '..='~' | '\u{a1}'..='\u{ff}' | '…');
    let plain = |c: char| match c {
        '\t' | '\n' | '\r' | '\u{a0}' => ' ',
        '‘' | '’' => '\'',
        '“' | '”' => '"',
        '–' | '—' => '-',
        c if known(c) => c,
        _ => '?',
    };
    text.chars().take(MAX_CHARS).map(plain).collect()
}

/// At most `max` characters: what is too long loses its middle, because names
/// differ at both ends (`raspios-b…m64-lite`).
pub fn shorten(text: &str, max: usize) -> String {
    let text: Vec<char> = clean(text).trim().chars().collect();
    if text.len() <= max {
        return text.into_iter().collect();
    }
    let kept = max.saturating_sub(1);
    let tail = kept / 2;
    let head = text.iter().take(kept - tail);
    let tail = text.iter().skip(text.len() - tail);
    head.chain(['…'].iter().take(max.min(1))).chain(tail).collect()
}

/// Lines of at most `width` characters, broken at spaces; a longer word is
/// broken where it must be, so nothing is ever lost.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in clean(text).split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        let used = line.chars().count();
        if used > 0 && used + 1 + word.len() > width {
            lines.push(std::mem::take(&mut line));
        } else if used > 0 {
            line.push(' ');
        }
        while word.len() > width {
            let rest = word.split_off(width);
            lines.push(word.into_iter().collect());
            word = rest;
        }
        line.extend(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// Decimal units, as printed on the packaging of sticks: `812 MB`, `1.5 GB`, `27 GB`.
pub fn bytes(count: u64) -> String {
    let (unit, name) = match count {
        0..1_000_000 => (1_000, "KB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        1_000_000_000..1_000_000_000_000 => (1_000_000_000, "GB"),
        _ => (1_000_000_000_000, "TB"),
    };
    let whole = count / unit;
    if whole < 10 && unit > 1_000 {
        format!("{whole}.{} {name}", count % unit * 10 / unit)
    } else {
        format!("{whole} {name}")
    }
}

/// The largest two units that say something: `41 s`, `3 min`, `3 h 12 min`, `5 days`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..100 => format!("{seconds} s"),
        100..3600 => format!("{minutes} min"),
        3600..172_800 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} days", hours / 24),
    }
}

/// How long something still takes; never finer than it can be known.
pub fn time_left(left: Option<Duration>) -> String {
    let Some(left) = left else { return "Time left: unknown".to_owned() };
    match left.as_secs() {
        0..10 => "A few seconds left".to_owned(),
        seconds @ 10..90 => format!("About {} s left", seconds.div_ceil(10) * 10),
        seconds @ 90..5400 => format!("About {} min left", (seconds + 30) / 60),
        seconds => format!("About {} h left", (seconds.min(3_600_000) + 1800) / 3600),
    }
}

/// A board as a person can find it on the desk: `Pi 4B 4GB …9f3a`. At most 20 characters.
pub fn board(model: Model, memory_mib: Option<u32>, serial: Option<Serial>) -> String {
    let mut text = model.to_string();
    match memory_mib {
        Some(mib @ 1024..) => text += &format!(" {}GB", (mib / 1024).min(999)),
        Some(mib) => text += &format!(" {mib}MB"),
        None => {}
    }
    match serial {
        Some(Serial(number)) => text + &format!(" …{:04x}", number & 0xffff),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_loses_its_middle() {
        assert_eq!(shorten("raspios-lite", 20), "raspios-lite");
        assert_eq!(shorten("raspios-bookworm-arm64-lite", 18), "raspios-b…m64-lite");
        assert_eq!(shorten("abcdef", 1), "…");
        assert_eq!(shorten("abcdef", 0), "");
        for max in 0..30 {
            assert!(shorten(&"x".repeat(63), max).chars().count() <= max, "{max}");
        }
    }

    #[test]
    fn text_wraps_at_spaces_and_loses_nothing() {
        assert_eq!(wrap("Hold ENROLL 3 s to use it", 11), ["Hold ENROLL", "3 s to use", "it"]);
        assert_eq!(wrap("a /very/long/path", 6), ["a", "/very/", "long/p", "ath"]);
        assert_eq!(wrap("  ", 5), Vec::<String>::new());
        assert_eq!(wrap("ab", 0), ["a", "b"]);
    }

    #[test]
    fn a_name_from_a_stick_cannot_carry_control_characters() {
        assert_eq!(clean("a\u{1b}[2J\u{7}\u{202e}b\tü"), "a?[2J??b ü");
        assert_eq!(clean(&"x".repeat(10_000)).len(), MAX_CHARS);
    }

    #[test]
    fn numbers_have_units_a_person_says() {
        let of = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!([of(0), of(99), of(100), of(11_520), of(500_000)], ["0 s", "99 s", "1 min", "3 h 12 min", "5 days"]);
        assert_eq!([bytes(0), bytes(1_560_000), bytes(1_560_000_000)], ["0 KB", "1.5 MB", "1.5 GB"]);
        assert_eq!([bytes(27_900_000_000), bytes(2_000_000_000_000)], ["27 GB", "2.0 TB"]);
        let left = |seconds| time_left(Some(Duration::from_secs(seconds)));
        assert_eq!([left(3), left(41), left(170)], ["A few seconds left", "About 50 s left", "About 3 min left"]);
        assert!(time_left(Some(Duration::MAX)).len() <= 20);
    }

    #[test]
    fn a_board_is_named_by_what_is_printed_on_it() {
        assert_eq!(board(Model::Pi4B, Some(4096), Some(Serial(0x1000_9f3a))), "Pi 4B 4GB …9f3a");
        assert_eq!(board(Model::Unknown, None, None), "Pi");
        assert_eq!(board(Model::Pi500, Some(512), Some(Serial(7))), "Pi 500 512MB …0007");
    }
}
