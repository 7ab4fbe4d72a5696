//! The panel: two buttons, a display of 128 × 64 pixels, and the same in a terminal.
//!
//! `start` never fails: what is missing is told once and tried again, because a
//! display may be plugged in later and an appliance without one still works.
//!
//! ```text
//! show(Status) ─► thread "panel" ─► Picture ─► "panel-oled"      (changed bytes over I2C)
//!                   pages, screens, draw    └► "panel-terminal"  (changed rows; keys)
//!                   presence (all pure)
//! "panel-buttons" ─ gestures ─► "panel": NEXT turns pages; what ENROLL means there goes to the sink
//! "panel-led"       blinks what matters most, for those without a display
//! ```
//!
//! Pure: `gestures`, `keys`, `pages`, `screens` with `screen` and `words`, `draw`
//! (`low` for 32 rows) with `frame`, `blocks`, `presence`, `retry`, and `led` but for its two files. I/O: `gpio` with `chip`,
//! `oled` with `sh1106`, `terminal`, and the threads and locks in `threads`.

pub mod blocks;
pub mod chip;
pub mod draw;
pub mod frame;
pub mod gestures;
pub mod gpio;
pub mod keys;
pub mod led;
pub mod low;
pub mod oled;
pub mod pages;
pub mod presence;
pub mod retry;
pub mod screen;
pub mod screens;
mod sh1106;
pub mod terminal;
mod threads;
pub mod words;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::client::{ImageId, Role};
use crate::status::Status;
use crate::{config, priority};
use pages::View;
use threads::{Core, Outlet};

/// One of the panel's two buttons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Button {
    Enroll,
    Next,
}

/// What a finger meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gesture {
    /// Released before three seconds.
    Short(Button),
    /// At three seconds, while still held.
    Long(Button),
    /// At eight seconds, while still held; `Long` was told before. For what goes back.
    Longer(Button),
}

/// What a press on a page asks of the appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// The next unknown Pi takes this client over.
    Swap(Role),
    /// A fresh root.
    Reset(Role),
    /// New clients get this one.
    ImageDefault(ImageId),
    /// The stick gets its store, where its question is seen: on the overview a held ENROLL may be an update's.
    MakeStore,
    /// The window for several new Pis, where the overview asks a held ENROLL something else.
    EnrolMany,
    /// What the black box holds, as files on the stick.
    Report,
    /// A fake Pi boots from the image for new clients.
    SelfTest,
    /// The disk of that name becomes a recovery card; what it holds is lost.
    WriteCard(String),
    /// Let go of the stick, so that it can be pulled.
    Release,
    /// Use the stick that was let go of.
    Resume,
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Swap(role) => write!(f, "another board for {role}"),
            Self::Reset(role) => write!(f, "reset {role}"),
            Self::ImageDefault(image) => write!(f, "{image} for new clients"),
            Self::MakeStore => f.write_str("a store on the stick"),
            Self::EnrolMany => f.write_str("several new Pis"),
            Self::Report => f.write_str("save a report"),
            Self::SelfTest => f.write_str("self-test"),
            Self::WriteCard(name) => write!(f, "a recovery card on {name}"),
            Self::Release => f.write_str("let go of the stick"),
            Self::Resume => f.write_str("use the stick again"),
        }
    }
}

/// Where the buttons and the display are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// GPIO and I2C where rppal knows the board, and `/dev/hvc0` too where that is.
    Auto,
    Hardware,
    /// A terminal such as `/dev/tty`.
    Terminal(PathBuf),
    None,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub config: config::Panel,
    pub source: Source,
}

/// What the panel reports; from its own threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Pressed(Gesture),
    /// What a press meant on the page that was shown.
    Wished(Wish),
    /// What was found, for the log.
    Hardware(String),
    /// What is missing or broken, once each; it is tried again.
    Failed(String),
}

/// Takes events; must not block.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// The emulated machine's second console, which a person or the demo watches.
const CONSOLE: &str = "/dev/hvc0";

/// Starts the panel's threads.
pub fn start(options: Options, sink: Sink) -> Handle {
    let mut parts: Vec<Part> = Vec::new();
    let core = Arc::new(Core::new(sink));
    match options.source {
        Source::Auto => {
            match rppal::system::DeviceInfo::new() {
                Ok(board) => {
                    core.tell(Event::Hardware(format!("this is a {}", board.model())));
                    parts.extend([Part::Buttons, Part::Oled, Part::Led]);
                }
                Err(_) => core.tell(Event::Hardware("no Raspberry Pi, so no buttons and no display".to_owned())),
            }
            let console = Path::new(CONSOLE);
            parts.extend(console.exists().then(|| Part::Terminal(console.to_owned())));
        }
        Source::Hardware => parts.extend([Part::Buttons, Part::Oled, Part::Led]),
        Source::Terminal(path) => parts.push(Part::Terminal(path)),
        Source::None => {}
    }
    let mut handle = Handle { core: core.clone(), threads: Vec::new() };
    let mut outlets = Vec::new();
    for part in parts {
        let outlet = match part {
            Part::Buttons | Part::Led => None,
            Part::Oled | Part::Terminal(_) => match Outlet::new() {
                Ok(outlet) => Some(Arc::new(outlet)),
                Err(error) => {
                    core.tell(Event::Failed(format!("cannot make an eventfd for the panel: {error}")));
                    continue;
                }
            },
        };
        outlets.extend(outlet.clone());
        let (core, config) = (core.clone(), options.config.clone());
        match (part, outlet) {
            (Part::Oled, Some(outlet)) => {
                handle.spawn("panel-oled", move || threads::show_on_oled(&core, &outlet, &config))
            }
            (Part::Terminal(path), Some(outlet)) => {
                handle.spawn("panel-terminal", move || terminal::run(&core, &outlet, &path));
            }
            (Part::Led, _) => handle.spawn("panel-led", move || threads::blink(&core)),
            _ => handle.spawn("panel-buttons", move || threads::watch_buttons(&core, &config)),
        }
    }
    handle.spawn("panel", move || threads::compose(&core, &outlets, &options.config));
    handle
}

enum Part {
    Buttons,
    Oled,
    Led,
    Terminal(PathBuf),
}

/// The running panel; it ends, and a terminal gets its mode back, when this is dropped.
pub struct Handle {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
}

impl Handle {
    /// Shows this status from now on; its clocks go on by themselves. The latest wins; never blocks.
    pub fn show(&self, status: Status) {
        self.core.change(|state| state.status = Some(status));
    }

    /// What a person sees just now: the client's page, for one, when a press is about that client.
    pub fn showing(&self) -> View {
        self.core.lock().showing.clone()
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) {
        match std::thread::Builder::new().name(name.to_owned()).spawn(|| {
            // A finger notices 100 ms, however much the clients read meanwhile.
            priority::prompt();
            run();
        }) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => self.core.tell(Event::Failed(format!("cannot start the thread {name}: {error}"))),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.change(|state| state.closing = true);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; the others still end.
            let _ = thread.join();
        }
    }
}
