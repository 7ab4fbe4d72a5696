//! The display's test picture: a frame along all four edges, so that a wrong
//! size or column offset is seen, and words that a turned display shows upside down.
//!
//! Pure.

use rootstock::panel::frame::{Frame, WIDTH};
use rootstock::panel::presence::Look;
use rootstock::panel::screen::{Element, Screen};
use rootstock::panel::{draw, low};

pub fn pattern(rows: usize) -> Frame {
    let body = vec![Element::Line("  Frame all around?".to_owned())];
    let screen = Screen::new(" Test pattern", body);
    let mut frame =
        if rows == low::ROWS { low::frame(&screen, Look::PLAIN) } else { draw::frame(&screen, Look::PLAIN) };
    for x in 0..WIDTH {
        frame.set(x, 0, true);
        frame.set(x, rows - 1, true);
    }
    for y in 0..rows {
        frame.set(0, y, true);
        frame.set(WIDTH - 1, y, true);
    }
    // A wedge that only one corner has.
    for step in 0..8 {
        (step..8).for_each(|x| frame.set(WIDTH - 10 + x, rows - 3 - step, true));
    }
    frame
}
