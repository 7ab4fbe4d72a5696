//! A frame as a PNG that a person can look at.

use std::path::Path;

use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::*;
use embedded_graphics_simulator::{BinaryColorTheme, OutputSettingsBuilder, SimulatorDisplay};
use rootstock::panel::frame::{Frame, HEIGHT, WIDTH};

pub fn save(frame: &Frame, path: &Path) -> Result<(), String> {
    let mut display = SimulatorDisplay::<BinaryColor>::new(Size::new(WIDTH as u32, HEIGHT as u32));
    let points = (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y)));
    let pixels = points.map(|(x, y)| Pixel(Point::new(x as i32, y as i32), BinaryColor::from(frame.get(x, y))));
    // Drawing into a simulated display cannot fail.
    let Ok(()) = display.draw_iter(pixels);
    let settings = OutputSettingsBuilder::new().scale(4).theme(BinaryColorTheme::OledWhite).build();
    display.to_rgb_output_image(&settings).save_png(path).map_err(|e| format!("{}: {e}", path.display()))
}
