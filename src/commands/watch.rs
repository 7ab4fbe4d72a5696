//! `rootstock status` and `rootstock watch`: the server's status once, or live
//! in a terminal with the panel's own picture.
//!
//! I/O. The server is asked twice a second. A slow terminal only gets fewer
//! pictures: bytes still on their way hold back the next one, which is then the newest.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use rootstock::orders;
use rootstock::panel::blocks::{self, Canvas, Style};
use rootstock::panel::keys::{Key, Keys};
use rootstock::panel::pages::Pages;
use rootstock::panel::presence::{self, Look};
use rootstock::panel::screen::Screen;
use rootstock::panel::terminal::Terminal;
use rootstock::panel::words::{clean, wrap};
use rootstock::panel::{draw, screens};
use rootstock::status::{Snapshot, Status};

use super::{show, status};

/// Between two questions to the server.
const ASK: Duration = Duration::from_millis(500);
/// The whole picture again, for a terminal that lost some of it.
const WHOLE: Duration = Duration::from_secs(10);
/// The line at the foot.
const KEYS: &str = "q ends   n turns the page";
/// Leave for the alternate screen, and come back from it.
const ENTER: &[u8] = b"\x1b[?1049h";
const LEAVE: &[u8] = b"\x1b[?1049l";

/// Which server is asked.
#[derive(Args, Clone)]
pub struct Server {
    /// Where the server that runs here has its trees
    #[arg(long, value_name = "FOLDER", default_value = "/run/rootstock")]
    run: PathBuf,
}

impl Server {
    /// Prints the status once.
    pub fn status(&self, json: bool) -> anyhow::Result<ExitCode> {
        let snapshot = self.ask()?;
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(out, "{}", serde_json::to_string_pretty(&snapshot)?)?;
        } else {
            write!(out, "{}", status::text(&snapshot))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn ask(&self) -> anyhow::Result<Snapshot> {
        match orders::client::status(&self.run).context("asking the server")? {
            Some(snapshot) => Ok(snapshot),
            None => bail!("no server runs here (none listens in {})", self.run.display()),
        }
    }

    /// Shows it live until q, Ctrl-C or `stop`.
    pub fn watch(&self, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
        let first = self.ask()?;
        let terminal = Terminal::open(Path::new("/dev/tty"))
            // It tells its cause itself.
            .map_err(|error| anyhow!("watch needs a terminal, and status does not: {error}"))?;
        let mut pending = ENTER.to_vec();
        let shown = self.follow(&terminal, first.status, &mut pending, stop);
        // What is left of a picture is of no use; this one short line may be.
        let _ = terminal.write(&mut LEAVE.to_vec());
        shown.map(|()| ExitCode::SUCCESS)
    }

    fn follow(
        &self,
        terminal: &Terminal,
        mut status: Status,
        pending: &mut Vec<u8>,
        stop: &AtomicBool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let (mut pages, mut canvas, mut keys) = (Pages::default(), Canvas::default(), Keys::default());
        let (mut asked, mut whole_at, mut size) = (start, start, terminal.size());
        let (mut told_at, mut note) = (start, None);
        while !stop.load(Ordering::Relaxed) {
            if asked.elapsed() >= ASK {
                asked = Instant::now();
                match self.ask() {
                    Ok(snapshot) => (status, told_at, note) = (snapshot.status, asked, None),
                    Err(error) => note = Some(format!("{error:#}")),
                }
            }
            let now = start.elapsed();
            let aged = screens::aged(status.clone(), told_at.elapsed());
            pages.update(now, &aged, false);
            if pending.is_empty() {
                let whole = Instant::now() >= whole_at || terminal.size() != size;
                if whole {
                    (whole_at, size) = (Instant::now() + WHOLE, terminal.size());
                }
                let (view, since) = pages.current(now);
                let mut screen = screens::screen(&aged, &view, since);
                screen.place = screen.place.or(pages.place(&aged));
                let beat = (now.as_secs() / presence::BEAT.as_secs()).is_multiple_of(2);
                let rows = rows(&screen, beat, &aged, size, note.as_deref());
                *pending = canvas.update(rows, whole).into_bytes();
            }
            terminal.write(pending)?;
            for byte in terminal.wait(!pending.is_empty(), ASK / 2)? {
                match keys.feed(byte) {
                    Some(Key::Quit | Key::Interrupt) => return Ok(()),
                    // ENROLL is the appliance's: who only watches presses nothing.
                    Some(Key::Press(rootstock::panel::Gesture::Short(rootstock::panel::Button::Next))) => {
                        pages.press(
                            start.elapsed(),
                            rootstock::panel::Gesture::Short(rootstock::panel::Button::Next),
                            &aged,
                        );
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// What the terminal shows, exactly as many rows as it has and none wider than it is:
/// the picture where there is room for it, its words where there is not.
fn rows(screen: &Screen, beat: bool, status: &Status, size: (u16, u16), note: Option<&str>) -> Vec<String> {
    // A serial line tells no size.
    let (columns, height) = (if size.0 == 0 { 80 } else { size.0 }, if size.1 == 0 { 24 } else { size.1 });
    let (width, height) = (usize::from(columns).saturating_sub(1).max(1), usize::from(height));
    let frame = || draw::frame(screen, Look { beat, ..Look::PLAIN });
    let mut rows = match (width, height) {
        (128.., 42..) => blocks::rows(&frame(), Style::HalfBlocks),
        (64.., 23..) => blocks::rows(&frame(), Style::Braille),
        // In words: its headline and its lines, one a row where there are rows enough.
        (_, 12..) => screen.text().split(" | ").map(str::to_owned).collect(),
        _ => vec![screen.text()],
    };
    rows.push(String::new());
    rows.extend(note.map(clean));
    let fits = |table: &str| table.lines().all(|line| line.chars().count() <= width);
    let table = Some(show::table(&status::clients(status))).filter(|table| fits(table));
    // What to do about a stuck client matters more than where it is.
    let table = table.unwrap_or_else(|| show::table(&status::clients_in_short(status)));
    rows.push(status::counts(status));
    let room = height.saturating_sub(rows.len() + 1);
    let notes = status::notes(status);
    let mut lines: Vec<String> =
        if status.clients.is_empty() { Vec::new() } else { table.lines().map(clean).collect() };
    lines.extend(notes.iter().map(|note| clean(note)));
    let mut lines: Vec<String> = lines.iter().flat_map(|line| broken(line, width)).collect();
    if lines.len() > room {
        let left_out = lines.len() - room.saturating_sub(1);
        lines.truncate(room.saturating_sub(1));
        lines.push(format!("… and {left_out} lines more: rootstock status"));
    }
    rows.extend(lines);
    rows.truncate(height.saturating_sub(1));
    rows.resize(height.saturating_sub(1), String::new());
    rows.push(KEYS.to_owned());
    rows.into_iter().map(|row| row.chars().take(width).collect()).collect()
}

/// A row that is too long goes on in others, which stand further in.
fn broken(row: &str, width: usize) -> Vec<String> {
    const INDENT: usize = 4;
    let letters: Vec<char> = row.chars().collect();
    if letters.len() <= width || width <= 2 * INDENT {
        return vec![row.to_owned()];
    }
    let at = letters[..=width].iter().rposition(|letter| *letter == ' ').filter(|at| *at > width / 3).unwrap_or(width);
    let (first, rest) = letters.split_at(at);
    let rest = wrap(&rest.iter().collect::<String>(), width - INDENT);
    let first = first.iter().collect::<String>().trim_end().to_owned();
    [first].into_iter().chain(rest.iter().map(|line| format!("{:INDENT$}{line}", ""))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rootstock::client::{Model, Role};
    use rootstock::diagnose::Hint;
    use rootstock::panel::pages::View;
    use rootstock::status::{ClientStatus, Problem, Stage};

    fn busy(clients: u32) -> Status {
        let client = |n| ClientStatus {
            role: Role::numbered(n),
            address: [192, 168, 77, 10].into(),
            model: Model::Pi4B,
            memory_mib: Some(4096),
            serial: None,
            image: "raspios-1".parse().unwrap(),
            stage: Stage::Kernel,
            since: Duration::from_secs(3),
            last_boot: None,
            usage: None,
            advice: None,
        };
        let problem = Problem { message: "x\u{1b}[2J".repeat(99), action: "Do it".to_owned() };
        Status { clients: (0..clients).map(client).collect(), problems: vec![problem; 3], ..Status::default() }
    }

    #[test]
    fn a_terminal_of_any_size_gets_rows_that_fit_it() {
        for (clients, columns, height) in
            [(0, 0, 0), (3, 80, 24), (3, 200, 60), (200, 80, 24), (200, 132, 43), (5, 1, 1), (5, 20, 3), (5, 64, 23)]
        {
            let status = busy(clients);
            let screen = screens::screen(&status, &View::Ready, Duration::ZERO);
            let rows = rows(&screen, true, &status, (columns, height), Some("the server hangs\u{7}"));
            let (columns, height) = (if columns == 0 { 80 } else { columns }, if height == 0 { 24 } else { height });
            assert_eq!(rows.len(), usize::from(height), "{columns}×{height}");
            for row in &rows {
                assert!(row.chars().count() < usize::from(columns).max(2), "{row:?} in {columns}×{height}");
                assert!(!row.chars().any(char::is_control), "{row:?}");
            }
        }
    }

    #[test]
    fn a_usual_terminal_has_picture_clients_and_problems_and_says_what_it_left_out() {
        let (few, many) = (busy(1), busy(99));
        let screen = screens::screen(&few, &View::Ready, Duration::ZERO);
        let small = rows(&screen, true, &few, (80, 32), None);
        assert!(small[0].chars().count() == 64 && small[17].starts_with("0 of 1 up, 1 booting"), "{small:#?}");
        assert!(small[19].starts_with("pi-0 ") && small[20].starts_with("problem: x?[2J"), "{small:#?}");
        let left_out = rows(&screen, true, &many, (80, 32), None)[30].clone();
        assert!(left_out.starts_with("… and ") && left_out.ends_with(" lines more: rootstock status"), "{left_out}");
        assert!(rows(&screen, true, &few, (63, 10), None)[0].starts_with("Ready | "));
        let words = rows(&screen, true, &few, (40, 14), None);
        let expected: Vec<String> = screen.text().split(" | ").map(str::to_owned).collect();
        assert!(expected.len() > 2 && words[..expected.len()] == expected, "{words:#?}");
    }

    #[test]
    fn what_to_do_about_a_stuck_client_is_never_cut_off() {
        let mut status = busy(2);
        status.problems.clear();
        let hint = Hint::OffersUnheard;
        status.clients[1].stage = Stage::Stalled { at: "address".into(), hint };
        let screen = screens::screen(&status, &View::Ready, Duration::ZERO);
        for (columns, height) in [(120, 30), (80, 24), (66, 24), (40, 20), (24, 20)] {
            let rows = rows(&screen, true, &status, (columns, height), None);
            let text = rows.iter().flat_map(|row| row.split_whitespace()).collect::<Vec<_>>().join(" ");
            assert!(text.contains(&format!("while address. {hint}")), "{columns}×{height}: {rows:#?}");
        }
    }
}
