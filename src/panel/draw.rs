//! Draws a `Screen` into any target of 128 × 64 pixels.
//!
//! Pure. The top 16 rows are the headline's, because many of these displays
//! are yellow there and blue below; the body begins under them. The last column
//! and row stay free for the slow shift.

use embedded_graphics::mono_font::iso_8859_1::{
    FONT_6X10, FONT_6X13_BOLD, FONT_7X13_BOLD, FONT_8X13_BOLD, FONT_9X15_BOLD, FONT_10X20,
};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Baseline, Text};

use super::frame::Frame;
use super::presence::{Brightness, Look};
use super::screen::{Element, Screen};

/// Columns of the headline; the heart has the rest.
const HEADLINE_WIDTH: u32 = 112;
const BODY_TOP: i32 = 18;
const BODY_WIDTH: u32 = 120;
const HEART_WIDTH: i32 = 7;

/// The screen as the display shall show it at this moment.
pub fn frame(screen: &Screen, look: Look) -> Frame {
    let mut frame = Frame::default();
    let shift = Point::new(i32::from(look.shift.0), i32::from(look.shift.1));
    let drawn = if look.brightness == Brightness::Dark {
        // Steps of 17 and 11 visit 2,280 places before they repeat.
        let minute = look.minute % 2280;
        let place = Point::new((minute * 17 % 120) as i32, (minute * 11 % 57) as i32);
        heart(&mut frame, place, look.beat, BinaryColor::On)
    } else {
        draw(screen, look.beat, &mut frame.translated(shift))
    };
    // Drawing into memory cannot fail: the error type has no values.
    drawn.unwrap_or_else(|never| match never {});
    frame
}

/// Draws the whole screen, unshifted.
pub fn draw<T: DrawTarget<Color = BinaryColor>>(screen: &Screen, beat: bool, target: &mut T) -> Result<(), T::Error> {
    headline(screen, beat, target)?;
    let mut y = BODY_TOP;
    for element in &screen.body {
        element_at(element, y, target)?;
        y += element.height() as i32;
    }
    match screen.place {
        Some((index, total)) if total > 1 => place(index.min(total - 1), total, target),
        _ => Ok(()),
    }
}

fn headline<T: DrawTarget<Color = BinaryColor>>(screen: &Screen, beat: bool, target: &mut T) -> Result<(), T::Error> {
    let Some(hold) = screen.hold else {
        return if screen.alarm { inverted(screen, beat, target) } else { plain(screen, beat, target) };
    };
    // While a button is held the headline fills with light from the left: how long still.
    plain(screen, beat, target)?;
    let passed = u32::from(hold.min(1000)) * 127 / 1000;
    inverted(screen, beat, &mut target.clipped(&Rectangle::new(Point::zero(), Size::new(passed, 16))))
}

fn plain<T: DrawTarget<Color = BinaryColor>>(screen: &Screen, beat: bool, target: &mut T) -> Result<(), T::Error> {
    headline_text(screen, beat, BinaryColor::On, target)?;
    fill(target, 0, 15, 127, 1)
}

fn inverted<T: DrawTarget<Color = BinaryColor>>(screen: &Screen, beat: bool, target: &mut T) -> Result<(), T::Error> {
    fill(target, 0, 0, 127, 16)?;
    headline_text(screen, beat, BinaryColor::Off, target)
}

fn headline_text<T: DrawTarget<Color = BinaryColor>>(
    screen: &Screen,
    beat: bool,
    colour: BinaryColor,
    target: &mut T,
) -> Result<(), T::Error> {
    let width = screen.headline.chars().count() as u32;
    let fonts = [&FONT_9X15_BOLD, &FONT_8X13_BOLD, &FONT_7X13_BOLD];
    let fits = |font: &&MonoFont<'static>| width * font.character_size.width <= HEADLINE_WIDTH;
    let font = fonts.into_iter().find(fits).unwrap_or(&FONT_6X13_BOLD);
    // Every font's baseline on the same row, so that headlines do not jump;
    // inverted letters need a lit column before them.
    let left = i32::from(screen.alarm || screen.hold.is_some()) * 2;
    text(target, &screen.headline, Point::new(left, 10 - font.baseline as i32), font, colour)?;
    heart(target, Point::new(126 - HEART_WIDTH, 3), beat, colour)
}

pub(super) fn element_at<T: DrawTarget<Color = BinaryColor>>(
    element: &Element,
    y: i32,
    target: &mut T,
) -> Result<(), T::Error> {
    match element {
        Element::Line(line) => text(target, line, Point::new(0, y), &FONT_6X10, BinaryColor::On),
        Element::Big(line) => {
            // The largest of three that holds it; an address of 15 characters still is 13 pixels high.
            let width = line.chars().count() as u32;
            let fits = |font: &&MonoFont<'static>| width * font.character_size.width <= BODY_WIDTH;
            let font = [&FONT_10X20, &FONT_9X15_BOLD].into_iter().find(fits).unwrap_or(&FONT_8X13_BOLD);
            let y = y + (20 - font.character_size.height as i32) / 2;
            text(target, line, Point::new(0, y), font, BinaryColor::On)
        }
        Element::Bar(per_mille) => {
            outline(target, 0, y + 1, BODY_WIDTH, 8)?;
            fill(target, 2, y + 3, u32::from((*per_mille).min(1000)) * (BODY_WIDTH - 4) / 1000, 4)
        }
        Element::Busy(tick) => {
            outline(target, 0, y + 1, BODY_WIDTH, 8)?;
            // A block of 30 pixels that wanders to and fro in nine steps.
            let step = (tick % 16) as i32;
            let step = if step > 8 { 16 - step } else { step };
            fill(target, 2 + step * 86 / 8, y + 3, 30, 4)
        }
        Element::Steps { done, total } => {
            let pitch = (BODY_WIDTH + 2) / u32::from((*total).clamp(1, 12));
            (0..*total).try_for_each(|step| {
                let x = i32::from(step) * pitch as i32;
                match step {
                    step if step < *done => fill(target, x, y + 1, pitch - 2, 7),
                    step if step == *done => {
                        outline(target, x, y + 1, pitch - 2, 7)?;
                        fill(target, x + 2, y + 3, (pitch - 2) / 2 - 2, 3)
                    }
                    _ => outline(target, x, y + 1, pitch - 2, 7),
                }
            })
        }
        Element::Gap(_) => Ok(()),
    }
}

/// Text from its top left corner. The small fonts draw full stops and colons as
/// plus signs, which makes addresses hard to read, and none has `…`: those are ours.
pub(super) fn text<T: DrawTarget<Color = BinaryColor>>(
    target: &mut T,
    text: &str,
    at: Point,
    font: &MonoFont<'_>,
    colour: BinaryColor,
) -> Result<(), T::Error> {
    let plain = text.replace(['…', '.', ':'], " ");
    Text::with_baseline(&plain, at, MonoTextStyle::new(font, colour), Baseline::Top).draw(target)?;
    let cell = font.character_size.width as i32;
    let baseline = at.y + font.baseline as i32;
    let mut dot = |x: i32, y: i32, side: i32| {
        let dot = Rectangle::new(Point::new(at.x + x, y - side + 1), Size::new(side as u32, side as u32));
        dot.into_styled(PrimitiveStyle::with_fill(colour)).draw(target)
    };
    let side = if cell < 10 { 2 } else { 3 };
    let x_height = font.baseline as i32 / 2;
    for (index, c) in text.chars().enumerate() {
        let left = index as i32 * cell;
        let middle = left + (cell - side) / 2;
        match c {
            '.' => dot(middle, baseline, side)?,
            ':' => {
                dot(middle, baseline, side)?;
                dot(middle, baseline - x_height, side)?;
            }
            '…' => (0..3).try_for_each(|third| dot(left + third * (cell - 1) * 2 / 5, baseline, side - 1))?,
            _ => {}
        }
    }
    Ok(())
}

/// Seven columns and six rows; full on a beat, hollow between.
pub(super) fn heart<T: DrawTarget<Color = BinaryColor>>(
    target: &mut T,
    at: Point,
    beat: bool,
    colour: BinaryColor,
) -> Result<(), T::Error> {
    const FULL: [u8; 6] = [0b0110110, 0b1111111, 0b1111111, 0b0111110, 0b0011100, 0b0001000];
    const HOLLOW: [u8; 6] = [0b0110110, 0b1001001, 0b1000001, 0b0100010, 0b0010100, 0b0001000];
    let rows = if beat { FULL } else { HOLLOW };
    let lit = |(x, y): &(i32, usize)| rows[*y] & (0b100_0000 >> *x) != 0;
    let places = (0..rows.len()).flat_map(|y| (0..HEART_WIDTH).map(move |x| (x, y))).filter(lit);
    target.draw_iter(places.map(|(x, y)| Pixel(at + Point::new(x, y as i32), colour)))
}

/// Where one stands among several pages: a thumb on a dotted track.
fn place<T: DrawTarget<Color = BinaryColor>>(index: usize, total: usize, target: &mut T) -> Result<(), T::Error> {
    const TRACK: usize = 43;
    let track = (0..TRACK).step_by(3).map(|y| Pixel(Point::new(125, BODY_TOP + y as i32), BinaryColor::On));
    target.draw_iter(track)?;
    let thumb = (TRACK / total).clamp(4, TRACK);
    let top = index * (TRACK - thumb) / (total - 1);
    fill(target, 124, BODY_TOP + top as i32, 3, thumb as u32)
}

pub(super) fn fill<T: DrawTarget<Color = BinaryColor>>(
    target: &mut T,
    x: i32,
    y: i32,
    width: u32,
    height: u32,
) -> Result<(), T::Error> {
    target.fill_solid(&Rectangle::new(Point::new(x, y), Size::new(width, height)), BinaryColor::On)
}

fn outline<T: DrawTarget<Color = BinaryColor>>(
    target: &mut T,
    x: i32,
    y: i32,
    width: u32,
    height: u32,
) -> Result<(), T::Error> {
    let style = PrimitiveStyle::with_stroke(BinaryColor::On, 1);
    Rectangle::new(Point::new(x, y), Size::new(width, height)).into_styled(style).draw(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lit(frame: &Frame) -> Vec<(usize, usize)> {
        (0..64).flat_map(|y| (0..128).map(move |x| (x, y))).filter(|&(x, y)| frame.get(x, y)).collect()
    }

    #[test]
    fn a_shift_moves_every_pixel_and_loses_none() {
        let body = vec![Element::Line("g".repeat(20)), Element::Bar(1000), Element::Line("…".to_owned())];
        let mut screen = Screen::new("Headline", body);
        screen.place = Some((1, 2));
        let plain = lit(&frame(&screen, Look::PLAIN));
        let moved = lit(&frame(&screen, Look { shift: (1, 1), ..Look::PLAIN }));
        assert_eq!(plain.iter().map(|(x, y)| (x + 1, y + 1)).collect::<Vec<_>>(), moved);
    }

    #[test]
    fn in_the_dark_only_the_heart_is_lit_and_it_wanders() {
        let screen = Screen::new("Ready", vec![Element::Line("x".to_owned())]);
        let dark = |minute| frame(&screen, Look { brightness: Brightness::Dark, minute, ..Look::PLAIN });
        let count = lit(&dark(0)).len();
        assert!(count < 40);
        assert_ne!(dark(0), dark(1));
        // Wholly inside the display at every minute.
        assert!((0..240).all(|minute| lit(&dark(minute)).len() == count));
    }

    #[test]
    fn a_full_bar_fills_and_an_empty_one_does_not() {
        let count = |per_mille| lit(&frame(&Screen::new("x", vec![Element::Bar(per_mille)]), Look::PLAIN)).len();
        assert_eq!(count(1000) - count(0), 116 * 4);
        assert_eq!(count(u16::MAX), count(1000));
    }
}
