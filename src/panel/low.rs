//! Draws a `Screen` for a glass of 32 rows: the headline, and two lines at a time.
//!
//! Pure. A screen has up to four lines, so they take turns of three seconds;
//! nothing is cut off. What is big elsewhere is a line here, and gaps go. The
//! last column and row stay free for the slow shift.

use embedded_graphics::mono_font::iso_8859_1::FONT_6X10;
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;

use super::draw::{element_at, fill, heart, text};
use super::frame::Frame;
use super::presence::{Brightness, Look};
use super::screen::{Element, Screen};

pub const ROWS: usize = 32;
/// Lines that have room below the headline.
const LINES: usize = 2;
const RULE: i32 = 10;
const PITCH: i32 = 10;

/// The screen as such a display shall show it at this moment, in the frame's upper half.
pub fn frame(screen: &Screen, look: Look) -> Frame {
    let mut frame = Frame::default();
    let shift = Point::new(i32::from(look.shift.0), i32::from(look.shift.1));
    let drawn = if look.brightness == Brightness::Dark {
        let minute = look.minute % (120 * 25);
        let place = Point::new((minute * 17 % 120) as i32, (minute * 11 % 25) as i32);
        heart(&mut frame, place, look.beat, BinaryColor::On)
    } else {
        draw(screen, look, &mut frame.translated(shift))
    };
    // Drawing into memory cannot fail: the error type has no values.
    drawn.unwrap_or_else(|never| match never {});
    frame
}

/// The lines of a screen in the pieces that take turns; at least one, which may be empty.
pub fn parts(screen: &Screen) -> Vec<Vec<Element>> {
    let lines: Vec<Element> = screen
        .body
        .iter()
        .filter(|element| !matches!(element, Element::Gap(_)))
        .map(|element| match element {
            Element::Big(text) => Element::Line(text.clone()),
            other => other.clone(),
        })
        .filter(|element| *element != Element::Line(String::new()))
        .collect();
    if lines.is_empty() { vec![lines] } else { lines.chunks(LINES).map(<[Element]>::to_vec).collect() }
}

fn draw<T: DrawTarget<Color = BinaryColor>>(screen: &Screen, look: Look, target: &mut T) -> Result<(), T::Error> {
    headline(screen, look.beat, target)?;
    let parts = parts(screen);
    // Fewer than 64 lines make a screen.
    let shown = (look.turn % parts.len() as u64) as usize;
    for (index, element) in parts[shown].iter().enumerate() {
        element_at(element, RULE + 1 + index as i32 * PITCH, target)?;
    }
    if parts.len() > 1 {
        // Which piece this is: one mark lit among points at the right edge.
        for index in 0..parts.len().min(6) {
            let (y, side) = (RULE + 3 + index as i32 * 3, if index == shown { 2 } else { 1 });
            fill(target, 123, y, side * 2, side)?;
        }
    }
    match screen.place {
        // Where one stands among several pages: a thicker piece of the rule.
        Some((index, total)) if total > 1 => {
            let width = (127 / total).max(4);
            let left = index.min(total - 1) * (127 - width) / (total - 1);
            fill(target, left as i32, RULE - 1, width as u32, 2)
        }
        _ => Ok(()),
    }
}

fn headline<T: DrawTarget<Color = BinaryColor>>(screen: &Screen, beat: bool, target: &mut T) -> Result<(), T::Error> {
    let plain = |target: &mut T| {
        words(screen, beat, BinaryColor::On, target)?;
        fill(target, 0, RULE, 127, 1)
    };
    match screen.hold {
        // While a button is held the headline fills with light from the left: how long still.
        Some(hold) => {
            plain(target)?;
            let passed = u32::from(hold.min(1000)) * 127 / 1000;
            inverted(screen, beat, &mut target.clipped(&Rectangle::new(Point::zero(), Size::new(passed, 11))))
        }
        None if screen.alarm => inverted(screen, beat, target),
        None => plain(target),
    }
}

fn inverted<T: DrawTarget<Color = BinaryColor>>(screen: &Screen, beat: bool, target: &mut T) -> Result<(), T::Error> {
    fill(target, 0, 0, 127, 11)?;
    words(screen, beat, BinaryColor::Off, target)
}

fn words<T: DrawTarget<Color = BinaryColor>>(
    screen: &Screen,
    beat: bool,
    colour: BinaryColor,
    target: &mut T,
) -> Result<(), T::Error> {
    // Inverted letters need a lit column before them.
    let left = i32::from(screen.alarm || screen.hold.is_some()) * 2;
    text(target, &screen.headline, Point::new(left, 0), &FONT_6X10, colour)?;
    heart(target, Point::new(119, 2), beat, colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lit(frame: &Frame) -> Vec<(usize, usize)> {
        (0..64).flat_map(|y| (0..128).map(move |x| (x, y))).filter(|&(x, y)| frame.get(x, y)).collect()
    }

    fn busy() -> Screen {
        let body =
            vec![Element::Line("gÄ".repeat(10)), Element::Gap(1), Element::Big("gg".to_owned()), Element::Bar(1000)];
        let mut screen = Screen::new("Headline of 18 ch.", body);
        screen.place = Some((4, 5));
        screen
    }

    #[test]
    fn the_lines_take_turns_and_none_is_left_out() {
        let line = |text: &str| Element::Line(text.to_owned());
        let screen =
            Screen::new("x", vec![line("a"), line(""), Element::Big("b".to_owned()), Element::Gap(3), line("c")]);
        assert_eq!(parts(&screen), [vec![line("a"), line("b")], vec![line("c")]]);
        let shown = |turn| frame(&screen, Look { turn, ..Look::PLAIN });
        assert_ne!(shown(0), shown(1));
        assert_eq!(shown(0), shown(2));
        assert_eq!(parts(&Screen::new("x", Vec::new())), [Vec::new()]);
    }

    #[test]
    fn everything_lies_in_32_rows_and_a_shift_loses_no_pixel() {
        for turn in 0..2 {
            let plain = lit(&frame(&busy(), Look { turn, ..Look::PLAIN }));
            let moved = lit(&frame(&busy(), Look { turn, shift: (1, 1), ..Look::PLAIN }));
            assert!(moved.iter().all(|&(x, y)| x < 128 && y < ROWS));
            assert_eq!(plain.iter().map(|(x, y)| (x + 1, y + 1)).collect::<Vec<_>>(), moved);
        }
    }

    #[test]
    fn in_the_dark_the_heart_wanders_inside_the_glass() {
        let dark = |minute| lit(&frame(&busy(), Look { brightness: Brightness::Dark, minute, ..Look::PLAIN }));
        let count = dark(0).len();
        for minute in 0..500 {
            let heart = dark(minute);
            assert!(heart.len() == count && heart.iter().all(|&(_, y)| y < ROWS), "at minute {minute}");
        }
    }
}
