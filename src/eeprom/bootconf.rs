//! BOOT_ORDER set in the text of a `bootconf.txt`, and what that changed.
//!
//! Pure. The text is lines `KEY=value`, comments, and filters in brackets as in
//! `config.txt`: what stands before the first filter or under `[all]` goes for
//! every board. Only an order that goes for every board is set; every other
//! byte of the text stays, its line ends too.

use super::order::BootOrder;

const KEY: &[u8] = b"BOOT_ORDER";

/// A text with the order in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    pub text: Vec<u8>,
    /// In the order of the text; empty: the order was set already.
    pub changes: Vec<Change>,
}

/// A line, printable and without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Removed(String),
    Added(String),
}

/// Sets the order.
pub fn with_order(text: &[u8], order: BootOrder) -> Edited {
    let value = order.to_string();
    let mut edited = Edited { text: Vec::with_capacity(text.len() + 32), changes: Vec::new() };
    let mut is_set = false;
    for line in lines(text) {
        let Some(old) = line.value(KEY).filter(|_| line.filter.is_none()) else {
            edited.text.extend_from_slice(line.bytes);
            continue;
        };
        is_set = true;
        let new = [&line.bytes[..old.start], value.as_bytes(), &line.bytes[old.end..]].concat();
        if line.bytes[old] != *value.as_bytes() {
            edited.changes.push(Change::Removed(shown(line.bytes)));
            edited.changes.push(Change::Added(shown(&new)));
        }
        edited.text.extend_from_slice(&new);
    }
    if !is_set {
        insert(&mut edited, &value);
    }
    edited
}

/// The order that goes for every board: the last one, as with all settings. `None` where there is none or no number.
pub fn order(text: &[u8]) -> Option<BootOrder> {
    BootOrder::read(setting(text, KEY)?)
}

/// Orders under a filter, which are left alone: the filters.
pub fn filtered_orders(text: &[u8]) -> Vec<String> {
    let filtered = lines(text).filter(|line| line.value(KEY).is_some());
    filtered.filter_map(|line| line.filter.map(shown)).collect()
}

/// Whether a board with these settings takes an update of its loader by TFTP or from a USB stick.
pub fn takes_updates(text: &[u8]) -> bool {
    number(text, b"ENABLE_SELF_UPDATE").unwrap_or(1) != 0 && number(text, b"FREEZE_VERSION").unwrap_or(0) == 0
}

/// Whether the loader goes by this text only with a valid signature.
pub fn needs_signature(text: &[u8]) -> bool {
    number(text, b"SIGNED_BOOT").unwrap_or(0) != 0
}

/// Behind the last line that goes for every board or, where there is none, at the end under a filter of its own.
fn insert(edited: &mut Edited, value: &str) {
    let text = std::mem::take(&mut edited.text);
    let newline: &[u8] = if text.windows(2).any(|pair| pair == b"\r\n") { b"\r\n" } else { b"\n" };
    let mut at = 0;
    let mut place = None;
    for line in lines(&text) {
        at += line.bytes.len();
        if line.filter.is_none() && !line.bytes.trim_ascii().is_empty() {
            place = Some(at);
        }
    }
    let mut added = vec![[KEY, b"=", value.as_bytes()].concat()];
    if place.is_none() {
        added.insert(0, b"[all]".to_vec());
    }
    let (before, after) = text.split_at(place.unwrap_or(text.len()));
    edited.text.extend_from_slice(before);
    if !before.is_empty() && !before.ends_with(b"\n") {
        edited.text.extend_from_slice(newline);
    }
    for line in &added {
        edited.text.extend_from_slice(line);
        edited.text.extend_from_slice(newline);
        edited.changes.push(Change::Added(shown(line)));
    }
    edited.text.extend_from_slice(after);
}

struct Line<'t> {
    /// With its end.
    bytes: &'t [u8],
    /// What it stands under; `None`: it goes for every board.
    filter: Option<&'t [u8]>,
}

impl Line<'_> {
    /// Where the value lies if this line sets `key`.
    fn value(&self, key: &[u8]) -> Option<std::ops::Range<usize>> {
        let blanks = |from: usize| from + self.bytes[from..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let after = blanks(0);
        let rest = self.bytes[after..].strip_prefix(key)?;
        let equals = blanks(self.bytes.len() - rest.len());
        self.bytes[equals..].strip_prefix(b"=")?;
        let start = blanks(equals + 1);
        let length = self.bytes[start..].iter().take_while(|b| !b.is_ascii_whitespace()).count();
        Some(start..start + length)
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut filter = None;
    text.split_inclusive(|&b| b == b'\n').map(move |bytes| {
        let trimmed = bytes.trim_ascii();
        if trimmed.starts_with(b"[") && trimmed.ends_with(b"]") {
            filter = (!trimmed.eq_ignore_ascii_case(b"[all]")).then_some(trimmed);
        }
        Line { bytes, filter }
    })
}

/// The last value that goes for every board.
fn setting<'t>(text: &'t [u8], key: &[u8]) -> Option<&'t [u8]> {
    let set = lines(text).filter(|line| line.filter.is_none());
    set.filter_map(|line| line.value(key).map(|value| &line.bytes[value])).last()
}

fn number(text: &[u8], key: &[u8]) -> Option<u32> {
    let value = std::str::from_utf8(setting(text, key)?).ok()?;
    match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

/// A line as a person may see it.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.trim_ascii_end());
    text.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets the default order; the diff in its short form.
    fn check(text: &str, expected: &str, diff: &[&str]) {
        let edited = with_order(text.as_bytes(), BootOrder::SD_THEN_NETWORK);
        assert_eq!(String::from_utf8(edited.text.clone()).unwrap(), expected);
        let lines = edited.changes.iter().map(|change| match change {
            Change::Removed(line) => format!("-{line}"),
            Change::Added(line) => format!("+{line}"),
        });
        assert_eq!(lines.collect::<Vec<_>>(), diff, "{text:?}");
        assert_eq!(order(&edited.text), Some(BootOrder::SD_THEN_NETWORK));
        let again = with_order(&edited.text, BootOrder::SD_THEN_NETWORK);
        assert_eq!((again.text, again.changes), (edited.text, vec![]), "not the same a second time");
    }

    #[test]
    fn an_order_that_is_there_is_replaced_and_nothing_else() {
        check(
            "[all]\nBOOT_UART=1\nBOOT_ORDER=0xf461\nNET_INSTALL_AT_POWER_ON=1\n",
            "[all]\nBOOT_UART=1\nBOOT_ORDER=0xf21\nNET_INSTALL_AT_POWER_ON=1\n",
            &["-BOOT_ORDER=0xf461", "+BOOT_ORDER=0xf21"],
        );
        check(
            "TFTP_PREFIX=2\r\n \tBOOT_ORDER = 0x1 # mine\r\n",
            "TFTP_PREFIX=2\r\n \tBOOT_ORDER = 0xf21 # mine\r\n",
            &["- \tBOOT_ORDER = 0x1 # mine", "+ \tBOOT_ORDER = 0xf21 # mine"],
        );
        check("BOOT_ORDER=", "BOOT_ORDER=0xf21", &["-BOOT_ORDER=", "+BOOT_ORDER=0xf21"]);
        check("BOOT_ORDER=0xf21\n", "BOOT_ORDER=0xf21\n", &[]);
    }

    #[test]
    fn a_missing_order_is_added_behind_the_settings_for_every_board() {
        check("[all]\nBOOT_UART=0\n\n", "[all]\nBOOT_UART=0\nBOOT_ORDER=0xf21\n\n", &["+BOOT_ORDER=0xf21"]);
        check(
            "[all]\r\nBOOT_UART=0\r\n\r\n[none]\r\nFREEZE_VERSION=0\r\n",
            "[all]\r\nBOOT_UART=0\r\nBOOT_ORDER=0xf21\r\n\r\n[none]\r\nFREEZE_VERSION=0\r\n",
            &["+BOOT_ORDER=0xf21"],
        );
        check("[all]\nA=1", "[all]\nA=1\nBOOT_ORDER=0xf21\n", &["+BOOT_ORDER=0xf21"]);
        check("", "[all]\nBOOT_ORDER=0xf21\n", &["+[all]", "+BOOT_ORDER=0xf21"]);
        check("[pi4]\nA=1\n", "[pi4]\nA=1\n[all]\nBOOT_ORDER=0xf21\n", &["+[all]", "+BOOT_ORDER=0xf21"]);
        check("[pi4]\nA=1\n[all]\n", "[pi4]\nA=1\n[all]\nBOOT_ORDER=0xf21\n", &["+BOOT_ORDER=0xf21"]);
    }

    #[test]
    fn comments_and_other_keys_are_no_order() {
        check(
            "#BOOT_ORDER=0xf461\nBOOT_ORDERS=1\nXBOOT_ORDER=1\nboot_order=1\n",
            "#BOOT_ORDER=0xf461\nBOOT_ORDERS=1\nXBOOT_ORDER=1\nboot_order=1\nBOOT_ORDER=0xf21\n",
            &["+BOOT_ORDER=0xf21"],
        );
    }

    #[test]
    fn an_order_under_a_filter_stays_and_is_told() {
        let text = "[all]\nBOOT_ORDER=0xf1\n[gpio8=0]\nBOOT_ORDER=0x1\n[ALL]\nBOOT_ORDER=0xf4\n";
        check(
            text,
            "[all]\nBOOT_ORDER=0xf21\n[gpio8=0]\nBOOT_ORDER=0x1\n[ALL]\nBOOT_ORDER=0xf21\n",
            &["-BOOT_ORDER=0xf1", "+BOOT_ORDER=0xf21", "-BOOT_ORDER=0xf4", "+BOOT_ORDER=0xf21"],
        );
        assert_eq!(filtered_orders(text.as_bytes()), ["[gpio8=0]"]);
        assert_eq!(order(text.as_bytes()), Some(BootOrder(0xf4)));
    }

    #[test]
    fn settings_that_matter_here_are_found() {
        assert!(takes_updates(b"[all]\nA=1\n[none]\nFREEZE_VERSION=1\n"));
        assert!(!takes_updates(b"FREEZE_VERSION=1\n"));
        assert!(!takes_updates(b"ENABLE_SELF_UPDATE=0x0"));
        assert!(needs_signature(b"SIGNED_BOOT=1\n"));
        assert!(!needs_signature(b"SIGNED_BOOT=0\n"));
        assert_eq!(order(b"BOOT_ORDER=none\n"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_keeps_all_else(text in "([ab#\\[\\]\r\n= \t]|BOOT_ORDER|0xf1|\\[all\\]\n){0,40}", order: u32) {
            let edited = with_order(text.as_bytes(), BootOrder(order));
            proptest::prop_assert_eq!(super::order(&edited.text), Some(BootOrder(order)));
            let others = |text: &[u8]| -> Vec<Vec<u8>> {
                let kept = lines(text).filter(|line| line.value(KEY).is_none() || line.filter.is_some());
                kept.map(|line| line.bytes.trim_ascii().to_vec()).filter(|line| line != b"[all]").collect()
            };
            proptest::prop_assert_eq!(others(&edited.text), others(text.as_bytes()));
        }
    }
}
