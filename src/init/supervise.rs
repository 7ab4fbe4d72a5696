//! When a child is started, and started again: the back-off of one supervised
//! process as a state machine.
//!
//! Pure: `now` is an argument (any clock that only goes forward, as a
//! `Duration`), process ids are numbers. `pid1.rs` starts and reaps.

use std::time::Duration;

/// The pause before the first restart: long enough to not spin, short enough that clients notice nothing.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause, for a program that dies at once every time.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A child that lived this long is healthy: its next death starts from `FIRST_PAUSE` again.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// For ever: it never gives up.
    Always,
    /// It runs once.
    Never,
}

/// One supervised process.
#[derive(Debug)]
pub struct Service {
    pub name: &'static str,
    restart: Restart,
    state: State,
    /// The pause before the next restart.
    pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not to be started yet.
    Held,
    Due {
        at: Duration,
    },
    Running {
        pid: i32,
        since: Duration,
    },
    /// Not to be started again.
    Finished,
}

impl Service {
    /// A service that is held until `release`.
    pub fn new(name: &'static str, restart: Restart) -> Self {
        Self { name, restart, state: State::Held, pause: FIRST_PAUSE }
    }

    /// Lets a held service start. Any other state stays.
    pub fn release(&mut self, now: Duration) {
        if self.state == State::Held {
            self.state = State::Due { at: now };
        }
    }

    pub fn is_held(&self) -> bool {
        self.state == State::Held
    }

    pub fn pid(&self) -> Option<i32> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// Whether it is to be started now.
    pub fn is_due(&self, now: Duration) -> bool {
        matches!(self.state, State::Due { at } if at <= now)
    }

    /// When to ask again, as long as nothing else happens.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.state {
            State::Due { at } => Some(at),
            _ => None,
        }
    }

    pub fn started(&mut self, now: Duration, pid: i32) {
        self.state = State::Running { pid, since: now };
    }

    /// The kernel could not start it: the same as a death at once. Returns the pause until the next try.
    pub fn start_failed(&mut self, now: Duration) -> Duration {
        self.pause_from(now)
    }

    /// Takes note that `pid` ended. `None` when it is not this service's;
    /// `Some(pause)` is the pause before it is started again, `Some(None)` means never.
    pub fn ended(&mut self, now: Duration, pid: i32) -> Option<Option<Duration>> {
        let State::Running { pid: ours, since } = self.state else { return None };
        if ours != pid {
            return None;
        }
        if self.restart == Restart::Never {
            self.state = State::Finished;
            return Some(None);
        }
        if now.saturating_sub(since) >= HEALTHY_AFTER {
            self.pause = FIRST_PAUSE;
        }
        Some(Some(self.pause_from(now)))
    }

    /// What the service waits for is settled; `changed` when there is something new to read. A held service starts.
    /// Returns the process to be ended, so that it starts again with what came too late for it.
    pub fn settled(&mut self, now: Duration, changed: bool) -> Option<i32> {
        match self.state {
            State::Held => {
                self.release(now);
                None
            }
            State::Running { pid, .. } if changed => Some(pid),
            State::Running { .. } | State::Due { .. } | State::Finished => None,
        }
    }

    /// No more starts.
    pub fn retire(&mut self) {
        if !matches!(self.state, State::Running { .. }) {
            self.state = State::Finished;
        }
        self.restart = Restart::Never;
    }

    fn pause_from(&mut self, now: Duration) -> Duration {
        let pause = self.pause;
        self.state = State::Due { at: now.saturating_add(pause) };
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Lets a service die `lives.len()` times, each time after that life, and returns the pauses in milliseconds.
    fn check(lives: &[Duration]) -> Vec<u128> {
        let mut service = Service::new("serve", Restart::Always);
        let mut now = SECOND;
        service.release(now);
        let mut pauses = Vec::new();
        for (number, life) in lives.iter().enumerate() {
            assert!(service.is_due(now));
            let pid = i32::try_from(number).unwrap() + 100;
            service.started(now, pid);
            assert!(!service.is_due(now + 100 * SECOND), "runs already");
            now += *life;
            let pause = service.ended(now, pid).flatten().expect("a restart");
            assert_eq!(service.poll_timeout(), Some(now + pause));
            assert!(!service.is_due(now));
            pauses.push(pause.as_millis());
            now += pause;
        }
        pauses
    }

    #[test]
    fn a_service_that_dies_quickly_is_started_ever_slower_and_never_given_up() {
        let pauses = check(&[Duration::ZERO; 1000]);
        assert_eq!(&pauses[..8], [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert!(pauses[8..].iter().all(|&pause| pause == 5000));
    }

    #[test]
    fn a_service_that_was_healthy_is_back_at_once() {
        assert_eq!(check(&[Duration::ZERO, Duration::ZERO, 11 * SECOND, SECOND]), [100, 200, 100, 200]);
    }

    #[test]
    fn the_death_of_another_process_is_not_ours() {
        let mut service = Service::new("serve", Restart::Always);
        assert_eq!(service.ended(SECOND, 7), None);
        service.release(SECOND);
        service.started(SECOND, 7);
        assert_eq!(service.ended(SECOND, 8), None);
        assert_eq!(service.pid(), Some(7));
    }

    #[test]
    fn a_held_service_waits_for_its_release() {
        let mut service = Service::new("serve", Restart::Always);
        assert!(service.is_held() && !service.is_due(1000 * SECOND));
        service.release(SECOND);
        assert!(service.is_due(SECOND));
    }

    #[test]
    fn what_comes_late_is_read_by_a_new_start() {
        let mut service = Service::new("serve", Restart::Always);
        assert_eq!(service.settled(SECOND, false), None, "held: it starts, with or without");
        assert!(service.is_due(SECOND));
        assert_eq!(service.settled(SECOND, true), None, "due: it reads it when it starts");
        service.started(SECOND, 7);
        assert_eq!(service.settled(SECOND, false), None);
        assert_eq!(service.settled(SECOND, true), Some(7));
    }

    #[test]
    fn what_runs_once_is_not_started_again() {
        let mut service = Service::new("bootconf", Restart::Never);
        service.release(SECOND);
        service.started(SECOND, 9);
        assert_eq!(service.ended(2 * SECOND, 9), Some(None));
        service.release(3 * SECOND);
        assert!(!service.is_due(4 * SECOND));
    }

    #[test]
    fn a_program_that_cannot_be_started_is_tried_again() {
        let mut service = Service::new("serve", Restart::Always);
        service.release(SECOND);
        assert_eq!(service.start_failed(SECOND), FIRST_PAUSE);
        assert!(service.is_due(SECOND + FIRST_PAUSE));
    }

    #[test]
    fn a_retired_service_is_not_started_again() {
        let mut service = Service::new("serve", Restart::Always);
        service.release(SECOND);
        service.started(SECOND, 9);
        service.retire();
        assert_eq!(service.ended(2 * SECOND, 9), Some(None));
    }
}
