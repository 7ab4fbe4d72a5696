//! A frame as characters of a terminal, and the bytes that put it there.
//!
//! Pure. Half blocks show 128 columns × 32 rows; braille patterns 64 × 16 for a
//! narrow terminal.
//!
//! For a program at the other end (a test, the demo): after the rows that changed
//! comes `ESC ] rootstock ; WORDS BEL`, where WORDS are those of the screen, its
//! lines joined with ` | `, in UTF-8, without control characters, at most 512
//! bytes. It is an operating system command of a kind that no terminal knows, so
//! they all ignore it (ECMA-48 §8.3.89; xterm's form, ended by BEL).

use std::fmt::Write;

use super::frame::{Frame, HEIGHT, WIDTH};
use crate::panel::screen::Screen;

/// The line below the picture.
pub const KEYS: &str = "e ENROLL   E ENROLL held   n NEXT   N NEXT held";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    HalfBlocks,
    Braille,
}

impl Style {
    /// The one that fits a terminal of this size in characters; 0 is unknown, as serial lines are.
    pub fn fitting(columns: u16, rows: u16) -> Self {
        let narrow = columns != 0 && columns < 130;
        let low = rows != 0 && rows < 34;
        if narrow || low { Self::Braille } else { Self::HalfBlocks }
    }
}

/// The rows of a frame, all of the same number of characters.
pub fn rows(frame: &Frame, style: Style) -> Vec<String> {
    let (across, down) = match style {
        Style::HalfBlocks => (1, 2),
        Style::Braille => (2, 4),
    };
    let cell = |x: usize, y: usize| match style {
        Style::HalfBlocks => match (frame.get(x, y), frame.get(x, y + 1)) {
            (false, false) => ' ',
            (true, false) => '▀',
            (false, true) => '▄',
            (true, true) => '█',
        },
        Style::Braille => braille(frame, x, y),
    };
    let row = |y| (0..WIDTH).step_by(across).map(|x| cell(x, y)).collect();
    (0..HEIGHT).step_by(down).map(row).collect()
}

/// The pattern of 2 × 4 dots: bits 0 to 2 and 6 go down on the left, 3 to 5 and 7 on the right (Unicode, U+2800).
fn braille(frame: &Frame, x: usize, y: usize) -> char {
    const BITS: [[u32; 2]; 4] = [[0, 3], [1, 4], [2, 5], [6, 7]];
    let dots = (0..8).filter(|dot| frame.get(x + dot % 2, y + dot / 2));
    let pattern: u32 = dots.map(|dot| 1 << BITS[dot / 2][dot % 2]).sum();
    // All of U+2800 to U+28FF are characters.
    char::from_u32(0x2800 + pattern).unwrap_or(' ')
}

/// What is on the terminal now.
#[derive(Debug, Default)]
pub struct Canvas {
    shown: Vec<String>,
}

impl Canvas {
    /// The bytes that bring the terminal from what it shows to this frame. With
    /// `whole` nothing is taken to be there: at the start, after a change of
    /// size, and now and then for those who come late.
    pub fn paint(&mut self, frame: &Frame, screen: &Screen, style: Style, whole: bool) -> String {
        let rows = rows(frame, style);
        let whole = whole || rows.len() != self.shown.len();
        let below = rows.len() + 1;
        let mut out = self.update(rows, whole);
        // Writing into a String cannot fail.
        if whole {
            let _ = write!(out, "\x1b[{below};1H{KEYS}\x1b[K");
        }
        let _ = write!(out, "\x1b[{};1H\x1b]rootstock;{}\x07", below + 1, screen.text());
        out
    }

    /// The same for rows of any kind, without a line below them.
    pub fn update(&mut self, rows: Vec<String>, whole: bool) -> String {
        let whole = whole || rows.len() != self.shown.len();
        let mut out = String::new();
        // Writing into a String cannot fail. 25l hides the cursor, 2J clears, H goes to a row.
        let _ = write!(out, "\x1b[?25l{}", if whole && self.shown.is_empty() { "\x1b[2J" } else { "" });
        for (index, row) in rows.iter().enumerate() {
            if whole || self.shown.get(index) != Some(row) {
                let _ = write!(out, "\x1b[{};1H{row}\x1b[K", index + 1);
            }
        }
        self.shown = rows;
        out
    }

    /// Nothing is known of the terminal any more: the next painting clears it.
    pub fn forget(&mut self) {
        self.shown.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::panel::screen::Element;

    fn corner() -> Frame {
        let mut frame = Frame::default();
        for (x, y) in [(0, 0), (1, 1), (2, 0), (2, 1), (127, 63)] {
            frame.set(x, y, true);
        }
        frame
    }

    #[test]
    fn half_blocks_hold_two_pixels_and_braille_eight() {
        let half = rows(&corner(), Style::HalfBlocks);
        assert_eq!((half.len(), half[0].chars().count()), (32, 128));
        assert!(half[0].starts_with("▀▄█ ") && half[31].ends_with(" ▄"));
        let braille = rows(&corner(), Style::Braille);
        assert_eq!((braille.len(), braille[0].chars().count()), (16, 64));
        assert!(braille[0].starts_with("⠑⠃⠀") && braille[15].ends_with("⠀⢀"), "{} {}", braille[0], braille[15]);
    }

    #[test]
    fn a_narrow_or_low_terminal_gets_braille_and_an_unknown_one_half_blocks() {
        let check = |columns, rows, style| assert_eq!(Style::fitting(columns, rows), style, "{columns}×{rows}");
        check(0, 0, Style::HalfBlocks);
        check(130, 34, Style::HalfBlocks);
        check(129, 50, Style::Braille);
        check(200, 24, Style::Braille);
        check(80, 0, Style::Braille);
    }

    #[test]
    fn only_changed_rows_are_painted_and_every_painting_ends_with_the_words() {
        let mut canvas = Canvas::default();
        let screen = Screen::new("Ready", vec![Element::Line("ok".to_owned())]);
        let first = canvas.paint(&Frame::default(), &screen, Style::HalfBlocks, true);
        assert!(first.contains("\x1b[2J") && first.contains(KEYS));
        let second = canvas.paint(&corner(), &screen, Style::HalfBlocks, false);
        assert!(second.len() < first.len() / 4 && second.contains("\x1b[32;1H"));
        for painted in [first, second] {
            assert!(painted.ends_with("\x1b]rootstock;Ready | ok\x07"), "{painted:?}");
        }
        canvas.forget();
        assert!(canvas.paint(&corner(), &screen, Style::Braille, false).contains("\x1b[2J"));
    }
}
