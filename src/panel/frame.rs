//! One picture of 128 × 64 pixels, one bit each.
//!
//! Pure. The bytes lie as in the SSD1306's memory (data sheet §8.7): eight
//! pages of 128 columns, one byte for eight pixels below each other, bit 0 on top.

use std::convert::Infallible;

use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::*;

pub const WIDTH: usize = 128;
pub const HEIGHT: usize = 64;
/// Eight rows of pixels are a page.
pub const PAGES: usize = HEIGHT / 8;

#[derive(Clone, PartialEq, Eq)]
pub struct Frame([u8; WIDTH * PAGES]);

impl Default for Frame {
    fn default() -> Self {
        Self([0; WIDTH * PAGES])
    }
}

impl std::fmt::Debug for Frame {
    /// As text, so that a failed test shows the picture.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for y in 0..HEIGHT {
            let row: String = (0..WIDTH).map(|x| if self.get(x, y) { '#' } else { '.' }).collect();
            write!(f, "\n{row}")?;
        }
        Ok(())
    }
}

impl Frame {
    /// Whether a pixel is lit; outside the frame none is.
    pub fn get(&self, x: usize, y: usize) -> bool {
        x < WIDTH && y < HEIGHT && self.0[y / 8 * WIDTH + x] & (1 << (y % 8)) != 0
    }

    /// Outside the frame nothing happens.
    pub fn set(&mut self, x: usize, y: usize, lit: bool) {
        if x < WIDTH && y < HEIGHT {
            let (byte, bit) = (&mut self.0[y / 8 * WIDTH + x], 1 << (y % 8));
            if lit { *byte |= bit } else { *byte &= !bit }
        }
    }

    /// All 1,024 bytes, page after page.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The columns of one page that differ from `other`'s, if any: first and one past the last.
    pub fn changed(&self, other: &Self, page: usize) -> Option<std::ops::Range<usize>> {
        let start = page * WIDTH;
        let (ours, theirs) = (self.0.get(start..start + WIDTH)?, other.0.get(start..start + WIDTH)?);
        let differs = |&x: &usize| ours[x] != theirs[x];
        let first = (0..WIDTH).find(differs)?;
        let last = (0..WIDTH).rev().find(differs)?;
        Some(first..last + 1)
    }
}

impl OriginDimensions for Frame {
    fn size(&self) -> Size {
        Size::new(128, 64)
    }
}

impl DrawTarget for Frame {
    type Color = BinaryColor;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<BinaryColor>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(point, colour) in pixels {
            if let (Ok(x), Ok(y)) = (usize::try_from(point.x), usize::try_from(point.y)) {
                self.set(x, y, colour.is_on());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_lies_where_the_display_expects_it() {
        let mut frame = Frame::default();
        frame.set(5, 10, true);
        frame.set(500, 500, true);
        assert_eq!(frame.bytes()[128 + 5], 1 << 2);
        assert_eq!(frame.bytes().iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        assert!(frame.get(5, 10) && !frame.get(128, 0) && !frame.get(0, 64));
    }

    #[test]
    fn only_the_changed_columns_of_a_page_are_named() {
        let (old, mut new) = (Frame::default(), Frame::default());
        new.set(7, 9, true);
        new.set(20, 15, true);
        assert_eq!((new.changed(&old, 0), new.changed(&old, 1), new.changed(&old, 8)), (None, Some(7..21), None));
    }
}
