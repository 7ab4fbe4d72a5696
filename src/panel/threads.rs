//! The panel's threads and what they share.
//!
//! I/O by way of its neighbours; the decisions are theirs too. Three small locks,
//! each held only while values are moved in or out.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::frame::Frame;
use super::gestures::{Gestures, SAMPLING};
use super::gpio::{Buttons, GpioButtons};
use super::led::{self, Led, Signal};
use super::oled::{self, Keeper, News, Oled};
use super::pages::{self, Meaning, Pages, View};
use super::presence::{self, Brightness, Look, Presence};
use super::retry::Retry;
use super::screen::Screen;
use super::{Button, Event, Gesture, Sink, Wish, draw, low, screens};
use crate::config::{self, Glass};
use crate::status::Status;

/// Presses that wait for the panel's thread; more than a finger makes in its half second.
const MAX_PRESSES: usize = 16;
/// The clocks on a screen, the heart and the bars move on this often.
const TICK: Duration = Duration::from_millis(500);
/// What goes on by itself is drawn no more often than a display takes pictures (23 ms each); a press is taken at once.
const REST: Duration = Duration::from_millis(20);
/// A hold that is being drawn moves on in steps of this many thousandths.
const HOLD_STEP: u16 = 25;

/// What the panel's threads share.
pub(super) struct Core {
    state: Mutex<State>,
    changed: Condvar,
    sink: Sink,
    start: Instant,
}

pub(super) struct State {
    /// Told and not yet taken by the panel's thread.
    pub(super) status: Option<Status>,
    presses: VecDeque<Gesture>,
    hold: Option<u16>,
    /// The brightness of a picture is of no use to the LED: it shows what matters most.
    signal: Signal,
    /// Displays that work just now.
    displays: usize,
    pub(super) showing: View,
    pub(super) closing: bool,
    /// Something above has changed.
    news: bool,
}

impl Core {
    pub(super) fn new(sink: Sink) -> Self {
        let state = State {
            status: None,
            presses: VecDeque::new(),
            hold: None,
            signal: Signal::NoStick,
            displays: 0,
            showing: View::Starting,
            closing: false,
            news: true,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), sink, start: Instant::now() }
    }

    /// No one holds this lock while doing anything slow, so taking it does not block.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.news = true;
        drop(state);
        self.changed.notify_all();
    }

    /// The panel's own clock.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn tell(&self, event: Event) {
        (self.sink)(event);
    }

    /// A press; the panel's thread says at once what it means where.
    pub(super) fn press(&self, gesture: Gesture) {
        self.change(|state| {
            if state.presses.len() < MAX_PRESSES {
                state.presses.push_back(gesture);
            }
        });
    }

    /// A display began to work, or does no more.
    pub(super) fn display(&self, works: bool) {
        let mut state = self.lock();
        state.displays = if works { state.displays + 1 } else { state.displays.saturating_sub(1) };
    }

    pub(super) fn closing(&self) -> bool {
        self.lock().closing
    }

    /// Sleeps this long, or less if the panel is closed meanwhile: then `true`.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, time, |state| !state.closing);
        waited.unwrap_or_else(PoisonError::into_inner).0.closing
    }
}

/// One drawn screen, for every display alike.
pub(super) struct Picture {
    pub(super) screen: Screen,
    /// For a display that wears: shifted, or dark.
    worn: Frame,
    brightness: Brightness,
    /// For a terminal.
    pub(super) plain: Frame,
}

/// The newest picture for one display, and a bell that rings for each.
pub(super) struct Outlet {
    picture: Mutex<Option<Arc<Picture>>>,
    bell: OwnedFd,
}

impl Outlet {
    pub(super) fn new() -> Result<Self, rustix::io::Errno> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { picture: Mutex::new(None), bell })
    }

    fn publish(&self, picture: Arc<Picture>) {
        *self.picture.lock().unwrap_or_else(PoisonError::into_inner) = Some(picture);
        self.ring();
    }

    fn ring(&self) {
        // A full counter has rung already, and nothing else can fail here.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    pub(super) fn latest(&self) -> Option<Arc<Picture>> {
        self.picture.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Whether the bell rang since it was last asked.
    pub(super) fn take_bell(&self) -> bool {
        rustix::io::read(&self.bell, &mut [0; 8]).is_ok()
    }

    /// Waits for the bell, at most this long.
    fn wait(&self, time: Duration) {
        let time = Timespec { tv_sec: time.as_secs().min(3600) as i64, tv_nsec: time.subsec_nanos().into() };
        // An interrupted or failed wait is a short one: the callers loop anyway.
        let _ = poll(&mut [PollFd::from_borrowed_fd(self.bell(), PollFlags::IN)], Some(&time));
        self.take_bell();
    }
}

/// The panel's thread: turns status, presses and the clock into pictures.
pub(super) fn compose(core: &Core, outlets: &[Arc<Outlet>], config: &config::Panel) {
    let (mut turner, mut presence) = (Pages::default(), Presence::new(config.dim_after, config.dark_after));
    let (mut told, mut told_at) = (Status::default(), Duration::ZERO);
    let mut drawn: Option<(Screen, Look)> = None;
    let mut rest_until = Duration::ZERO;
    loop {
        let state = core.lock();
        let waited = core.changed.wait_timeout_while(state, TICK, |state| !state.news);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let rest = rest_until.saturating_sub(core.now());
        if !rest.is_zero() {
            let calm = |state: &mut State| state.presses.is_empty() && !state.closing;
            let waited = core.changed.wait_timeout_while(state, rest, calm);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.news = false;
        let (status, presses, hold, closing) =
            (state.status.take(), std::mem::take(&mut state.presses), state.hold, state.closing);
        let blind = state.displays == 0;
        drop(state);
        if closing {
            outlets.iter().for_each(|outlet| outlet.ring());
            return;
        }
        let now = core.now();
        // What a press leads to is drawn as soon as it is told.
        rest_until = if presses.is_empty() { now + REST } else { Duration::ZERO };
        if let Some(status) = status {
            if presence::wakes(&told, &status) {
                presence.wake(now);
            }
            (told, told_at) = (status, now);
        }
        let status = screens::aged(told.clone(), now.saturating_sub(told_at));
        let hold = hold.and_then(|hold| pages::hold_shown(&turner.current(now).0, &status, hold));
        // A hold that has just ended is still about what was seen.
        turner.update(now, &status, hold.is_some() || !presses.is_empty());
        for gesture in presses {
            let dark = presence.look(now).brightness == Brightness::Dark;
            presence.wake(now);
            // In the dark nobody can know what NEXT would turn from, and without a
            // display ENROLL means what it means on the overview.
            if gesture == Gesture::Short(Button::Next) && (dark || blind) {
                continue;
            }
            match turner.press(now, gesture, &status) {
                Meaning::Plain => core.tell(Event::Pressed(gesture)),
                // Nobody has seen which disk would be written over, nor which question it is.
                Meaning::Wish(Wish::WriteCard(_) | Wish::MakeStore) if blind => core.tell(Event::Pressed(gesture)),
                Meaning::Wish(wish) => core.tell(Event::Wished(wish)),
                Meaning::Turn => {}
            }
        }
        if hold.is_some() {
            presence.wake(now);
        }
        let (view, shown) = turner.current(now);
        let mut screen = screens::screen(&status, &view, shown);
        screen.place = screen.place.or(turner.place(&status));
        screen.hold = hold;
        let signal = led::signal(&status);
        let mut state = core.lock();
        state.showing = view;
        if std::mem::replace(&mut state.signal, signal) != signal {
            core.changed.notify_all();
        }
        drop(state);
        let look = presence.look(now);
        if drawn.as_ref().is_none_or(|(old, at)| *old != screen || *at != look) {
            let picture = Arc::new(picture(&screen, look, config.size));
            outlets.iter().for_each(|outlet| outlet.publish(picture.clone()));
            drawn = Some((screen, look));
        }
    }
}

fn picture(screen: &Screen, look: Look, glass: Glass) -> Picture {
    let plain = draw::frame(screen, Look { beat: look.beat, ..Look::PLAIN });
    let worn = match look {
        _ if glass == Glass::Rows32 => low::frame(screen, look),
        Look { shift: (0, 0), brightness: Brightness::Full | Brightness::Dim, .. } => plain.clone(),
        _ => draw::frame(screen, look),
    };
    Picture { screen: screen.clone(), worn, brightness: look.brightness, plain }
}

/// The buttons' thread.
pub(super) fn watch_buttons(core: &Core, config: &config::Panel) {
    let mut retry = Retry::default();
    let buttons = loop {
        match GpioButtons::open(config) {
            Ok(buttons) => break buttons,
            Err(error) => {
                if let Some(complaint) = retry.failed(core.now(), error.to_string()) {
                    core.tell(Event::Failed(complaint));
                }
            }
        }
        if core.pause(retry.wait(core.now())) {
            return;
        }
    };
    let (enroll, next) = (config.enroll_gpio, config.next_gpio);
    let by = buttons.chip().map(|chip| format!(", by {}", chip.display())).unwrap_or_default();
    core.tell(Event::Hardware(format!("buttons: ENROLL on GPIO {enroll}, NEXT on GPIO {next}{by}")));
    let mut gestures = if config.buttons == 1 { Gestures::of_one_button() } else { Gestures::default() };
    let mut drawn = None;
    while !core.closing() {
        let now = core.now();
        for gesture in gestures.sample(now, buttons.pressed()) {
            core.press(gesture);
        }
        let hold = gestures.holding(now).map(|(_, passed)| passed / HOLD_STEP * HOLD_STEP);
        if hold != drawn {
            core.change(|state| state.hold = hold);
            drawn = hold;
        }
        // Not `pause`: every status would wake it.
        std::thread::sleep(SAMPLING);
    }
}

/// The LED's thread.
pub(super) fn blink(core: &Core) {
    let Some(mut led) = Led::open(Path::new("/sys/class/leds")) else { return };
    core.tell(Event::Hardware("the green LED shows what goes on".to_owned()));
    let (mut shown, mut since) = (None, Duration::ZERO);
    let mut state = core.lock();
    while !state.closing {
        let (signal, now) = (state.signal, core.now());
        if shown != Some(signal) {
            (shown, since) = (Some(signal), now);
        }
        let (lit, wait) = led::at(signal, now.saturating_sub(since));
        drop(state);
        if !led.set(lit) {
            return;
        }
        state = core.lock();
        let same = |state: &mut State| !state.closing && state.signal == signal;
        state = core.changed.wait_timeout_while(state, wait, same).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// The OLED's thread.
pub(super) fn show_on_oled(core: &Core, outlet: &Outlet, config: &config::Panel) {
    let (bus, address) = (config.i2c_bus, config.i2c_address);
    let open =
        |frame: &Frame, brightness| oled::open_bus(bus).and_then(|i2c| Oled::start(i2c, config, frame, brightness));
    let mut keeper = Keeper::new(open);
    let mut works = false;
    while !core.closing() {
        let now = core.now();
        let news = outlet.latest().and_then(|picture| keeper.show(now, &picture.worn, picture.brightness));
        match news {
            Some(News::Found) => {
                let (display, rows) = (config.display, config.size.rows());
                let found = format!("display: {display}, 128×{rows}, at {address:#04x} on /dev/i2c-{bus}");
                core.tell(Event::Hardware(found));
            }
            Some(News::Failed(complaint)) => core.tell(Event::Failed(complaint)),
            None => {}
        }
        if keeper.works() != works {
            works = keeper.works();
            core.display(works);
        }
        outlet.wait(keeper.wait(core.now()).max(SAMPLING));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presses_that_nobody_takes_are_bounded() {
        let core = Core::new(Arc::new(|_| {}));
        for _ in 0..100 {
            core.press(Gesture::Short(Button::Next));
        }
        assert_eq!(core.lock().presses.len(), MAX_PRESSES);
    }

    /// The panel's thread with a display or none; the events that these presses lead to.
    fn pressed(displays: bool, presses: &[Gesture]) -> Vec<Event> {
        let (to, events) = std::sync::mpsc::channel();
        let core = Arc::new(Core::new(Arc::new(move |event| to.send(event).unwrap())));
        core.display(displays);
        let running = core.clone();
        let panel = std::thread::spawn(move || compose(&running, &[], &config::Panel::default()));
        for &press in presses {
            core.press(press);
        }
        // The last press has been taken when its event is told.
        let mut told = vec![events.recv_timeout(Duration::from_secs(9)).unwrap()];
        core.change(|state| state.closing = true);
        panel.join().unwrap();
        told.extend(events.try_iter());
        told
    }

    #[test]
    fn enroll_is_told_at_once_and_without_a_display_next_turns_nothing() {
        let (next, enroll) = (Gesture::Short(Button::Next), Gesture::Short(Button::Enroll));
        assert_eq!(pressed(false, &[next, enroll]), [Event::Pressed(enroll)]);
        assert_eq!(pressed(true, &[next, next, enroll]), [Event::Pressed(enroll)]);
    }

    #[test]
    fn a_display_that_wears_gets_the_shifted_picture_and_a_terminal_the_plain_one() {
        let screen = Screen::new("Ready", Vec::new());
        let moved = picture(&screen, Look { shift: (1, 1), ..Look::PLAIN }, Glass::Rows64);
        assert_eq!(moved.plain, draw::frame(&screen, Look::PLAIN));
        assert_ne!(moved.worn, moved.plain);
        let dark = picture(&screen, Look { brightness: Brightness::Dark, ..Look::PLAIN }, Glass::Rows64);
        assert_eq!(dark.plain, moved.plain);
        assert_ne!(dark.worn, dark.plain);
        let small = picture(&screen, Look::PLAIN, Glass::Rows32);
        assert_eq!((small.worn, small.plain), (low::frame(&screen, Look::PLAIN), dark.plain));
    }
}
