//! One screen as typed parts: what is said, before any pixel of it.
//!
//! Pure. `screens` fills it, `draw.rs` draws it, and `text` tells it to a
//! program or a log.

use super::words;

/// Characters of a line, and lines of a body: 6 × 10 pixels each, on a pitch of 11.
pub const COLUMNS: usize = 20;
pub const LINES: usize = 4;
/// Characters of a headline in its narrowest font.
pub const HEADLINE: usize = 18;
/// Characters of a big line: 12 of 10 × 20 pixels, or up to 15 in a smaller font.
pub const BIG: usize = 15;
/// Pixels below the headline, with the row that the slow shift needs kept free.
pub const BODY_PIXELS: u32 = 45;
/// Longest plain text of a screen, in bytes.
pub const MAX_TEXT_BYTES: usize = 512;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Screen {
    pub headline: String,
    /// Something needs a person: the headline is shown inverted.
    pub alarm: bool,
    pub body: Vec<Element>,
    /// A button is held: how much of the hold has passed, 0 to 1000.
    pub hold: Option<u16>,
    /// Which of several parts or pages this is, and of how many; shown at the right edge.
    pub place: Option<(usize, usize)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    Line(String),
    /// Legible across a table.
    Big(String),
    /// 0 to 1000.
    Bar(u16),
    /// A bar without an end in sight; the number moves it on.
    Busy(u64),
    /// Stages of a boot: so many are over, of so many; the next is under way.
    Steps {
        done: u8,
        total: u8,
    },
    /// Empty rows of pixels.
    Gap(u8),
}

impl Element {
    /// Rows of pixels it takes.
    pub fn height(&self) -> u32 {
        match self {
            Self::Big(_) => 22,
            Self::Line(_) | Self::Bar(_) | Self::Busy(_) | Self::Steps { .. } => 11,
            Self::Gap(rows) => u32::from(*rows),
        }
    }
}

impl Screen {
    pub fn new(headline: &str, body: Vec<Element>) -> Self {
        Self { headline: words::shorten(headline, HEADLINE), body, ..Self::default() }
    }

    /// The words of the screen, its lines joined with ` | `: for a program that
    /// watches the terminal, and for the log. No control characters, at most 512 bytes.
    pub fn text(&self) -> String {
        let mut lines = vec![self.headline.clone()];
        lines.extend(self.body.iter().filter_map(|element| match element {
            Element::Line(text) | Element::Big(text) if !text.is_empty() => Some(text.clone()),
            Element::Bar(per_mille) => Some(format!("[{} %]", per_mille / 10)),
            Element::Steps { done, total } => Some(format!("[{done}/{total}]")),
            Element::Line(_) | Element::Big(_) | Element::Busy(_) | Element::Gap(_) => None,
        }));
        let mut text = words::clean(&lines.join(" | "));
        while text.len() > MAX_TEXT_BYTES {
            text.pop();
        }
        text
    }

    /// Why something on this screen would be cut off, if anything would.
    pub fn misfit(&self) -> Option<String> {
        let long = |text: &str, max| text.chars().count() > max || words::clean(text) != text;
        if self.headline.is_empty() || long(&self.headline, HEADLINE) {
            return Some(format!("headline {:?}", self.headline));
        }
        let wrong = self.body.iter().find(|element| match element {
            Element::Line(text) => long(text, COLUMNS),
            Element::Big(text) => long(text, BIG),
            Element::Bar(per_mille) => *per_mille > 1000,
            Element::Steps { done, total } => done > total || *total == 0 || *total > 12,
            Element::Busy(_) | Element::Gap(_) => false,
        });
        if let Some(element) = wrong {
            return Some(format!("{element:?}"));
        }
        let height: u32 = self.body.iter().map(Element::height).sum();
        (height > BODY_PIXELS).then(|| format!("{height} rows of pixels"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_that_would_be_cut_off_is_found() {
        let check = |body, fits| assert_eq!(Screen::new("x", body).misfit().is_none(), fits);
        let line = |count: usize| Element::Line("x".repeat(count));
        check(vec![line(20); 4], true);
        check(vec![line(21)], false);
        check(vec![line(1); 5], false);
        check(vec![Element::Big("x".repeat(15)), line(1), line(1)], true);
        check(vec![Element::Big("x".repeat(16))], false);
        check(vec![Element::Line("\u{1b}".to_owned())], false);
        check(vec![Element::Bar(1001)], false);
        assert!(Screen::default().misfit().is_some());
    }

    #[test]
    fn the_text_is_one_line_of_printable_characters() {
        let mut screen = Screen::new("Imp\u{7}ort", vec![Element::Bar(470), Element::Line("a\u{1b}b".to_owned())]);
        assert_eq!(screen.text(), "Imp?ort | [47 %] | a?b");
        screen.body = vec![Element::Line("ü".repeat(400)); 3];
        assert!(screen.text().len() <= MAX_TEXT_BYTES);
    }
}
