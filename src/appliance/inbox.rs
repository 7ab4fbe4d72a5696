//! The one queue to control: what the shells report, in order.
//!
//! No channel of the standard library: there a receiver spins while a sender is between two of its steps, and a
//! real-time thread that spins keeps the sender from its core. By a lock it sleeps until the sender is done.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::control::Event;

/// Events of packets that may wait for control; more are dropped, as a full
/// socket would drop them. Control handles about a million a second.
const MAX_PACKET_EVENTS: usize = 4096;

/// Messages that control takes without a wait between them; then it leaves its core to others for `PAUSE`. A storm of 64
/// Pis stays below it; a flood from the wire must not look like a loop without an end (`priority::RUNAWAY`).
const MAX_IN_A_ROW: u32 = 4096;
const PAUSE: Duration = Duration::from_millis(1);

/// Room that an empty queue keeps.
const KEPT: usize = 64;

#[derive(Debug)]
pub(super) enum Message {
    Event(Event),
    Stop,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    /// Of them, those that anybody on the wire can cause.
    packets: usize,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The senders' end; never makes them wait for control.
#[derive(Debug, Clone, Default)]
pub struct Inbox(Arc<Shared>);

impl Inbox {
    /// Events whose number their source bounds are never lost; those of packets are dropped when control is far behind.
    pub(super) fn send(&self, event: Event) {
        let mut waiting = self.0.lock();
        if is_packet(&event) {
            if waiting.packets >= MAX_PACKET_EVENTS {
                return;
            }
            waiting.packets += 1;
        }
        waiting.messages.push_back(Message::Event(event));
        drop(waiting);
        self.0.came.notify_one();
    }

    /// Asks the loop to end; safe from any thread.
    pub fn stop(&self) {
        self.0.lock().messages.push_back(Message::Stop);
        self.0.came.notify_one();
    }

    /// The end for the one thread that takes them.
    pub(super) fn receiver(&self) -> Receiver {
        Receiver { shared: self.0.clone(), in_a_row: 0 }
    }
}

pub(super) struct Receiver {
    shared: Arc<Shared>,
    in_a_row: u32,
}

impl Receiver {
    /// The oldest message; none when none came in this time.
    pub(super) fn take(&mut self, time: Duration) -> Option<Message> {
        if self.in_a_row >= MAX_IN_A_ROW {
            self.in_a_row = 0;
            std::thread::sleep(PAUSE);
        }
        let mut waiting = self.shared.lock();
        if waiting.messages.is_empty() {
            self.in_a_row = 0;
            waiting.messages.shrink_to(KEPT);
            let none = |waiting: &mut Waiting| waiting.messages.is_empty();
            let waited = self.shared.came.wait_timeout_while(waiting, time, none);
            (waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        self.in_a_row += 1;
        let message = waiting.messages.pop_front()?;
        if matches!(&message, Message::Event(event) if is_packet(event)) {
            waiting.packets -= 1;
        }
        Some(message)
    }
}

fn is_packet(event: &Event) -> bool {
    matches!(event, Event::Dhcp(_) | Event::Tftp(_) | Event::Nfs(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net, nfs};

    fn packet() -> Event {
        Event::Nfs(nfs::Event::Reset { address: [10, 0, 0, 9].into() })
    }

    fn carrier(up: bool) -> Event {
        Event::Net(net::Event::Carrier(up))
    }

    #[test]
    fn messages_come_in_order() {
        let inbox = Inbox::default();
        let mut receiver = inbox.receiver();
        inbox.send(carrier(true));
        inbox.send(carrier(false));
        inbox.stop();
        for up in [true, false] {
            let taken = receiver.take(Duration::ZERO);
            let is_it = matches!(taken, Some(Message::Event(Event::Net(net::Event::Carrier(found)))) if found == up);
            assert!(is_it, "{up}: {taken:?}");
        }
        assert!(matches!(receiver.take(Duration::ZERO), Some(Message::Stop)));
        assert!(receiver.take(Duration::from_millis(1)).is_none());
    }

    #[test]
    fn a_flood_of_packets_is_bounded_and_costs_no_other_event() {
        let inbox = Inbox::default();
        let mut receiver = inbox.receiver();
        (0..2 * MAX_PACKET_EVENTS).for_each(|_| inbox.send(packet()));
        inbox.send(carrier(true));
        // What was taken makes room.
        assert!(receiver.take(Duration::ZERO).is_some());
        (0..9).for_each(|_| inbox.send(packet()));
        let rest = std::iter::from_fn(|| receiver.take(Duration::ZERO)).count();
        assert_eq!(rest, MAX_PACKET_EVENTS + 1);
        assert!(receiver.shared.lock().messages.capacity() <= 2 * KEPT, "an empty queue keeps little");
    }

    #[test]
    fn a_receiver_is_woken_by_what_comes() {
        let inbox = Inbox::default();
        let mut receiver = inbox.receiver();
        let taker = std::thread::spawn(move || receiver.take(Duration::from_secs(60)).is_some());
        std::thread::sleep(Duration::from_millis(20));
        inbox.send(packet());
        assert!(taker.join().unwrap());
    }
}
