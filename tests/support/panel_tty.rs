//! The other end of the appliance's terminal panel: its frames, its words, its keys.
//!
//! The panel draws 128×64 pixels as 32 rows of half blocks, paints only the rows
//! that changed (`CSI row;1H`, the row, `CSI K`), and ends each painting with an
//! OSC sequence that carries the screen's words.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(20);
const WORDS: &str = "\x1b]rootstock;";

pub const WIDTH: usize = 128;
pub const HEIGHT: usize = 64;

/// One screen as it was shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Shown {
    pub words: String,
    pub rows: Vec<String>,
}

impl Shown {
    pub fn pixel(&self, x: usize, y: usize) -> bool {
        let cell = self.rows.get(y / 2).and_then(|row| row.chars().nth(x)).unwrap_or(' ');
        match cell {
            '█' => true,
            '▀' => y.is_multiple_of(2),
            '▄' => !y.is_multiple_of(2),
            _ => false,
        }
    }

    /// The picture in braille, 64 columns by 16 rows: small enough for any terminal.
    pub fn braille(&self) -> Vec<String> {
        const DOTS: [(usize, usize, u32); 8] =
            [(0, 0, 1), (0, 1, 2), (0, 2, 4), (1, 0, 8), (1, 1, 16), (1, 2, 32), (0, 3, 64), (1, 3, 128)];
        let pixels: Vec<Vec<bool>> = (0..HEIGHT).map(|y| (0..WIDTH).map(|x| self.pixel(x, y)).collect()).collect();
        let cell = |row: usize, column: usize| {
            let bits = DOTS.iter().filter(|(x, y, _)| pixels[row * 4 + y][column * 2 + x]).map(|(_, _, bit)| bit);
            char::from_u32(0x2800 + bits.sum::<u32>()).unwrap_or(' ')
        };
        (0..HEIGHT / 4).map(|row| (0..WIDTH / 2).map(|column| cell(row, column)).collect()).collect()
    }
}

/// A connection to the panel.
pub struct PanelTty {
    keys: Box<dyn Write + Send>,
    shown: Arc<Mutex<Shown>>,
}

impl PanelTty {
    /// Connects to the console's socket; `each` sees every new screen.
    pub fn connect(socket: &Path, each: impl Fn(&Shown) + Send + 'static) -> Result<Self, String> {
        let end = Instant::now() + Duration::from_secs(10);
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < end => thread::sleep(LOOK),
                Err(error) => return Err(format!("{}: {error}", socket.display())),
            }
        };
        let keys = stream.try_clone().map_err(|e| format!("{}: {e}", socket.display()))?;
        Ok(Self::on(stream, keys, each))
    }

    /// Follows a panel whose bytes come from `screen`, and whose keys are `keys`.
    pub fn on(
        screen: impl Read + Send + 'static,
        keys: impl Write + Send + 'static,
        each: impl Fn(&Shown) + Send + 'static,
    ) -> Self {
        let shown = Arc::new(Mutex::new(Shown::default()));
        let latest = shown.clone();
        thread::spawn(move || read_frames(screen, &latest, each));
        Self { keys: Box::new(keys), shown }
    }

    pub fn shown(&self) -> Shown {
        self.shown.lock().expect("no reader panics").clone()
    }

    /// `e` presses ENROLL, `E` holds it, `n` and `N` are NEXT.
    pub fn press(&mut self, key: char) -> Result<(), String> {
        self.keys.write_all(key.to_string().as_bytes()).map_err(|e| format!("panel: {e}"))
    }

    pub fn wait_for(&self, what: &str, limit: Duration) -> Result<Shown, String> {
        let end = Instant::now() + limit;
        loop {
            let shown = self.shown();
            if shown.words.to_lowercase().contains(&what.to_lowercase()) {
                return Ok(shown);
            }
            if Instant::now() >= end {
                return Err(format!("the panel did not show {what:?} in {limit:?}, but {:?}", shown.words));
            }
            thread::sleep(LOOK);
        }
    }
}

fn read_frames(mut stream: impl Read, latest: &Mutex<Shown>, each: impl Fn(&Shown)) {
    let mut screen = Shown::default();
    let mut text = String::new();
    let mut partial = Vec::new();
    let mut bytes = [0; 8192];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        partial.extend_from_slice(&bytes[..count]);
        // A read may end inside a character; what is incomplete waits for the next.
        let whole = match std::str::from_utf8(&partial) {
            Ok(_) => partial.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(error) => error.valid_up_to() + error.error_len().unwrap_or(1),
        };
        text.push_str(&String::from_utf8_lossy(&partial[..whole]));
        partial.drain(..whole);
        while let Some((painted, words, rest)) = split_frame(&text) {
            paint(&mut screen.rows, painted);
            screen.words = words.to_owned();
            text = rest.to_owned();
            let mut latest = latest.lock().expect("no reader panics");
            if *latest != screen {
                *latest = screen.clone();
                drop(latest);
                each(&screen);
            }
        }
    }
}

/// The first whole painting of `text`, its words, and what follows it.
fn split_frame(text: &str) -> Option<(&str, &str, &str)> {
    let (painted, rest) = text.split_once(WORDS)?;
    let (words, rest) = rest.split_once('\x07')?;
    Some((painted, words, rest))
}

/// Puts each `CSI row;1H TEXT CSI K` into its row.
fn paint(rows: &mut Vec<String>, painted: &str) {
    rows.resize(HEIGHT / 2, String::new());
    for part in painted.split("\x1b[").filter(|part| !part.is_empty()) {
        let Some((row, text)) = part.split_once(";1H") else { continue };
        let row = row.parse::<usize>().ok().and_then(|row| rows.get_mut(row.wrapping_sub(1)));
        if let Some(row) = row {
            text.clone_into(row);
        }
    }
}
