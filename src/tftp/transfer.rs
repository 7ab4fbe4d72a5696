//! One transfer to one client, as a state machine.
//!
//! Pure: time is an argument (since any fixed moment), the file's bytes stay
//! with the shell. The contract: after `new`, and after each input (`ack`,
//! `error`, `repeated`, `timeout`), call `poll` until it says `Wait` or `Done`.
//!
//! RFC 1350, 2347, 2348, 2349 and 7440. What real loaders forced:
//! - A repeated ACK never repeats DATA: `start4.elf` acknowledged a block that it
//!   never got and hung (raspberrypi/firmware#1631). Only time does.
//! - ERROR ends a transfer at once, without an answer: every size probe of a Pi
//!   ends so.
//! - Block numbers go on with 0 after 65535, as the loaders since 2025-09 expect.

use std::time::Duration;

use super::packet::{self, Asked};

/// Until what was sent is sent again. A Pi repeats its own requests after 2 s.
pub const RETRANSMIT: Duration = Duration::from_secs(1);

/// How often the same is sent again before the client counts as gone. A Pi
/// waits 30 s for a file; a client silent for 10 s has left or will ask anew.
pub const MAX_RETRANSMITS: u32 = 10;

/// With UDP's and IPv4's headers this fills an Ethernet frame: nothing larger
/// is agreed to, because loaders do not put fragments together.
pub const MAX_BLKSIZE: u16 = 1468;

const DEFAULT_BLKSIZE: u16 = 512;

/// More would not fit the receive buffer of a small client.
pub const MAX_WINDOWSIZE: u16 = 64;

/// Longest retransmission interval that a client may choose. A longer one is
/// not agreed to (RFC 2349 lets a server leave it out).
const MAX_TIMEOUT_SECONDS: u8 = 10;

/// What the shell shall do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send `Transfer::oack`.
    Oack,
    /// Send DATA of this block, counted from 1 without rollover.
    Data(u64),
    /// Nothing, until an input or this moment (then call `timeout`).
    Wait(Duration),
    Done(Outcome),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The last block was acknowledged.
    Finished,
    /// The client sent an ERROR.
    Aborted,
    /// The client did not answer.
    TimedOut,
}

/// One transfer. `acked` ≤ `sent` < `next` ≤ `acked` + `windowsize` + 1, all ≤ `last` + 1.
#[derive(Debug, Clone)]
pub struct Transfer {
    size: u64,
    blksize: u16,
    windowsize: u16,
    interval: Duration,
    /// Until the client has acknowledged it.
    oack: Option<Vec<u8>>,
    oack_due: bool,
    oack_acked: bool,
    /// Blocks that the client has, counted from the first.
    acked: u64,
    /// The highest block that was ever sent.
    sent: u64,
    /// The block to send next, while within the window.
    next: u64,
    /// Whether something was sent since the deadline was set.
    fresh: bool,
    deadline: Duration,
    retransmits: u32,
    /// A gap behind `acked` was already answered (windows larger than 1 only).
    gap_answered: bool,
    /// A block was acknowledged that was not sent yet.
    ahead: bool,
    outcome: Option<Outcome>,
}

impl Transfer {
    /// A transfer of `size` bytes on the terms that the client asked for.
    pub fn new(asked: &[Asked], size: u64) -> Self {
        let mut transfer = Self {
            size,
            blksize: DEFAULT_BLKSIZE,
            windowsize: 1,
            interval: RETRANSMIT,
            oack: None,
            oack_due: false,
            oack_acked: false,
            acked: 0,
            sent: 0,
            next: 1,
            fresh: false,
            deadline: Duration::ZERO,
            retransmits: 0,
            gap_answered: false,
            ahead: false,
            outcome: None,
        };
        let agreed: Vec<(&str, u64)> = asked.iter().filter_map(|&option| transfer.agree(option)).collect();
        if !agreed.is_empty() {
            transfer.oack = Some(packet::oack(&agreed));
            transfer.oack_due = true;
        }
        transfer
    }

    /// Takes an option over, and says how the OACK states it.
    fn agree(&mut self, option: Asked) -> Option<(&'static str, u64)> {
        match option {
            Asked::Blksize(asked) => {
                self.blksize = asked.min(MAX_BLKSIZE);
                Some(("blksize", self.blksize.into()))
            }
            Asked::Tsize => Some(("tsize", self.size)),
            Asked::Timeout(seconds) if seconds <= MAX_TIMEOUT_SECONDS => {
                self.interval = Duration::from_secs(seconds.into());
                Some(("timeout", seconds.into()))
            }
            Asked::Timeout(_) => None,
            Asked::Windowsize(asked) => {
                self.windowsize = asked.min(MAX_WINDOWSIZE);
                Some(("windowsize", self.windowsize.into()))
            }
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of content in every block but the last.
    pub fn blksize(&self) -> u16 {
        self.blksize
    }

    /// The OACK, while it is unacknowledged.
    pub fn oack(&self) -> Option<&[u8]> {
        self.oack.as_deref()
    }

    /// Blocks that the client has: those up to this one are not asked for again.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Content bytes that the client has.
    pub fn acked_bytes(&self) -> u64 {
        (self.acked * u64::from(self.blksize)).min(self.size)
    }

    /// Content bytes that were sent at least once.
    pub fn sent_bytes(&self) -> u64 {
        (self.sent * u64::from(self.blksize)).min(self.size)
    }

    /// Whether it acknowledged a block before that was sent: a packet came to it twice.
    pub fn ahead(&self) -> bool {
        self.ahead
    }

    /// Whether the client has answered anything: it then knows our port.
    pub fn is_acknowledged(&self) -> bool {
        self.acked > 0 || self.oack_acked
    }

    pub fn is_done(&self) -> bool {
        self.outcome.is_some()
    }

    /// The block that is shorter than the others, possibly empty.
    fn last(&self) -> u64 {
        self.size / u64::from(self.blksize) + 1
    }

    /// The client acknowledged this block number.
    pub fn ack(&mut self, number: u16) {
        if self.outcome.is_some() {
            return;
        }
        if self.oack.is_some() {
            if number == 0 && !self.oack_due {
                self.oack = None;
                self.oack_acked = true;
                self.retransmits = 0;
            }
            return;
        }
        // The window is far smaller than the numbers' range, so the distance is unambiguous.
        let distance = u64::from(number.wrapping_sub(wire_number(self.acked)));
        if distance == 0 {
            // RFC 7440 §4: a receiver that misses a block acknowledges the one before it.
            // Answered once; without a window a repeated ACK is never answered.
            if self.windowsize > 1 && self.sent > self.acked && !self.gap_answered {
                self.gap_answered = true;
                self.next = self.acked + 1;
            }
        } else if distance <= self.sent - self.acked {
            self.acked += distance;
            self.next = self.acked + 1;
            self.retransmits = 0;
            self.gap_answered = false;
            if self.acked == self.last() {
                self.outcome = Some(Outcome::Finished);
            }
        } else if distance == self.sent - self.acked + 1 {
            self.ahead = true;
        }
    }

    /// The client sent an ERROR.
    pub fn error(&mut self) {
        self.outcome.get_or_insert(Outcome::Aborted);
    }

    /// The client sent the same request again: it has nothing of ours. What
    /// was sent first is sent again, from the same port, so that an answer to
    /// either copy is understood.
    pub fn repeated(&mut self) {
        if !self.is_acknowledged() {
            self.retransmits = 0;
            self.resend();
        }
    }

    /// The moment of `Output::Wait` has come.
    pub fn timeout(&mut self, now: Duration) {
        if self.outcome.is_some() || self.fresh || now < self.deadline {
            return;
        }
        if self.retransmits == MAX_RETRANSMITS {
            self.outcome = Some(Outcome::TimedOut);
            return;
        }
        self.retransmits += 1;
        self.resend();
    }

    fn resend(&mut self) {
        self.oack_due = self.oack.is_some();
        self.next = self.acked + 1;
    }

    /// What to do now. Waiting begins when everything is sent, however long
    /// the file took to be read.
    pub fn poll(&mut self, now: Duration) -> Output {
        if let Some(outcome) = self.outcome {
            return Output::Done(outcome);
        }
        if self.oack.is_some() {
            if self.oack_due {
                self.oack_due = false;
                self.fresh = true;
                return Output::Oack;
            }
        } else if self.next <= self.last().min(self.acked + u64::from(self.windowsize)) {
            let block = self.next;
            self.next += 1;
            self.sent = self.sent.max(block);
            self.fresh = true;
            return Output::Data(block);
        }
        if self.fresh {
            self.fresh = false;
            self.deadline = now + self.interval;
        }
        Output::Wait(self.deadline)
    }
}

/// A block's number on the wire: after 65535 comes 0.
pub fn wire_number(block: u64) -> u16 {
    (block & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = RETRANSMIT;

    /// Drains the outputs; the last is `Wait` or `Done`.
    fn drain(transfer: &mut Transfer, now: Duration) -> Vec<Output> {
        let mut outputs = Vec::new();
        loop {
            outputs.push(transfer.poll(now));
            assert!(outputs.len() <= usize::from(MAX_WINDOWSIZE) + 2, "never settles");
            if matches!(outputs.last(), Some(Output::Wait(_) | Output::Done(_))) {
                return outputs;
            }
        }
    }

    fn check(transfer: &mut Transfer, now: Duration, expected: &[Output]) {
        assert_eq!(drain(transfer, now), expected);
    }

    #[test]
    fn without_options_data_of_512_bytes_comes_at_once() {
        let mut transfer = Transfer::new(&[], 600);
        check(&mut transfer, SECOND, &[Output::Data(1), Output::Wait(2 * SECOND)]);
        transfer.ack(1);
        check(&mut transfer, SECOND, &[Output::Data(2), Output::Wait(2 * SECOND)]);
        transfer.ack(2);
        check(&mut transfer, SECOND, &[Output::Done(Outcome::Finished)]);
        assert_eq!(transfer.acked_bytes(), 600);
    }

    #[test]
    fn an_empty_file_and_a_whole_number_of_blocks_end_with_an_empty_block() {
        let check_last = |size, last| {
            let mut transfer = Transfer::new(&[], size);
            for block in 1..=last {
                assert_eq!(transfer.poll(SECOND), Output::Data(block));
                transfer.ack(wire_number(block));
            }
            assert_eq!(transfer.poll(SECOND), Output::Done(Outcome::Finished), "{size} bytes");
        };
        check_last(0, 1);
        check_last(511, 1);
        check_last(512, 2);
        check_last(1024, 3);
    }

    #[test]
    fn options_are_agreed_to_in_the_clients_order_within_our_bounds() {
        let check_oack = |asked: &[Asked], expected: &[u8], blksize| {
            let transfer = Transfer::new(asked, 7);
            assert_eq!(
                transfer.oack().unwrap_or_default().escape_ascii().to_string(),
                expected.escape_ascii().to_string()
            );
            assert_eq!(transfer.blksize(), blksize);
        };
        check_oack(&[Asked::Tsize, Asked::Blksize(1024)], b"\0\x06tsize\x007\0blksize\x001024\0", 1024);
        check_oack(&[Asked::Blksize(1468), Asked::Tsize], b"\0\x06blksize\x001468\0tsize\x007\0", 1468);
        check_oack(&[Asked::Blksize(65464)], b"\0\x06blksize\x001468\0", 1468);
        check_oack(&[Asked::Timeout(3), Asked::Windowsize(999)], b"\0\x06timeout\x003\0windowsize\x0064\0", 512);
        check_oack(&[Asked::Timeout(255)], b"", 512);
    }

    #[test]
    fn data_waits_for_the_ack_of_the_oack() {
        let mut transfer = Transfer::new(&[Asked::Tsize], 5);
        check(&mut transfer, SECOND, &[Output::Oack, Output::Wait(2 * SECOND)]);
        transfer.ack(1);
        check(&mut transfer, SECOND, &[Output::Wait(2 * SECOND)]);
        transfer.ack(0);
        check(&mut transfer, SECOND, &[Output::Data(1), Output::Wait(2 * SECOND)]);
    }

    #[test]
    fn a_size_probe_ends_at_once() {
        let mut transfer = Transfer::new(&[Asked::Tsize], 5);
        drain(&mut transfer, SECOND);
        transfer.error();
        check(&mut transfer, SECOND, &[Output::Done(Outcome::Aborted)]);
        assert_eq!(transfer.acked_bytes(), 0);
    }

    #[test]
    fn a_repeated_ack_never_repeats_data() {
        let mut transfer = Transfer::new(&[Asked::Tsize], 2000);
        drain(&mut transfer, SECOND);
        for (number, block) in [(0, 1), (1, 2), (2, 3)] {
            transfer.ack(number);
            check(&mut transfer, SECOND, &[Output::Data(block), Output::Wait(2 * SECOND)]);
            for stale in 0..=number {
                transfer.ack(stale);
                check(&mut transfer, SECOND, &[Output::Wait(2 * SECOND)]);
            }
        }
    }

    #[test]
    fn acks_of_what_was_never_sent_are_ignored() {
        let mut transfer = Transfer::new(&[], 5000);
        drain(&mut transfer, SECOND);
        assert!(!transfer.ahead());
        for number in [2, 3, 0x7fff, 0xffff] {
            transfer.ack(number);
            check(&mut transfer, SECOND, &[Output::Wait(2 * SECOND)]);
        }
        assert!(transfer.ahead(), "the ACK of the next block is noted");
    }

    #[test]
    fn silence_is_met_with_a_bounded_number_of_repeats() {
        let mut transfer = Transfer::new(&[], 5);
        let mut now = SECOND;
        drain(&mut transfer, now);
        for _ in 0..MAX_RETRANSMITS {
            transfer.timeout(now);
            check(&mut transfer, now, &[Output::Wait(now + SECOND)]);
            now += SECOND;
            transfer.timeout(now);
            check(&mut transfer, now, &[Output::Data(1), Output::Wait(now + SECOND)]);
        }
        now += SECOND;
        transfer.timeout(now);
        check(&mut transfer, now, &[Output::Done(Outcome::TimedOut)]);
    }

    #[test]
    fn waiting_begins_when_a_slow_read_has_ended() {
        let mut transfer = Transfer::new(&[], 5);
        assert_eq!(transfer.poll(SECOND), Output::Data(1));
        transfer.timeout(60 * SECOND);
        assert_eq!(transfer.poll(60 * SECOND), Output::Wait(61 * SECOND));
    }

    #[test]
    fn the_timeout_that_a_client_chose_is_kept() {
        let mut transfer = Transfer::new(&[Asked::Timeout(3)], 5);
        check(&mut transfer, SECOND, &[Output::Oack, Output::Wait(4 * SECOND)]);
    }

    #[test]
    fn a_repeated_request_gets_the_first_answer_again_until_something_was_acknowledged() {
        let mut transfer = Transfer::new(&[Asked::Tsize], 5);
        drain(&mut transfer, SECOND);
        transfer.repeated();
        check(&mut transfer, 2 * SECOND, &[Output::Oack, Output::Wait(3 * SECOND)]);
        transfer.ack(0);
        drain(&mut transfer, 2 * SECOND);
        transfer.repeated();
        check(&mut transfer, 2 * SECOND, &[Output::Wait(3 * SECOND)]);
    }

    #[test]
    fn block_numbers_go_on_with_zero() {
        let blocks = 65_537;
        let mut transfer = Transfer::new(&[Asked::Blksize(8)], blocks * 8 - 1);
        assert_eq!(transfer.poll(SECOND), Output::Oack);
        transfer.ack(0);
        for block in 1..=blocks {
            assert_eq!(transfer.poll(SECOND), Output::Data(block));
            transfer.ack(wire_number(block));
        }
        assert_eq!(transfer.poll(SECOND), Output::Done(Outcome::Finished));
        assert_eq!([wire_number(65_535), wire_number(65_536), wire_number(65_537)], [65_535, 0, 1]);
    }

    #[test]
    fn a_window_goes_on_after_the_last_block_in_order_and_answers_a_gap_once() {
        let mut transfer = Transfer::new(&[Asked::Windowsize(4)], 512 * 9);
        drain(&mut transfer, SECOND);
        transfer.ack(0);
        let wait = Output::Wait(2 * SECOND);
        let data = |blocks: [u64; 4]| [blocks.map(Output::Data).as_slice(), &[wait]].concat();
        check(&mut transfer, SECOND, &data([1, 2, 3, 4]));
        transfer.ack(2);
        check(&mut transfer, SECOND, &data([3, 4, 5, 6]));
        transfer.ack(2);
        check(&mut transfer, SECOND, &data([3, 4, 5, 6]));
        transfer.ack(2);
        check(&mut transfer, SECOND, &[wait]);
        transfer.ack(6);
        check(&mut transfer, SECOND, &data([7, 8, 9, 10]));
        transfer.ack(10);
        check(&mut transfer, SECOND, &[Output::Done(Outcome::Finished)]);
    }

    /// A client and a wire that loses, repeats and reorders, from one seed.
    /// Whether the client got the whole file.
    fn rough_transfer(seed: u64, asked: &[Asked], size: u64) -> bool {
        let mut random = seed.wrapping_mul(2).wrapping_add(1);
        let mut chance = move |of: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33).is_multiple_of(of)
        };
        let mut transfer = Transfer::new(asked, size);
        let (mut now, mut received, mut to_client, mut to_server) = (SECOND, 0_u64, Vec::new(), Vec::new());
        let last = transfer.last();
        for _ in 0..200_000 {
            match transfer.poll(now) {
                Output::Done(outcome) => {
                    let complete = received == last;
                    // A run of losses may use up the retransmits; a claim of success must be true.
                    assert!(complete || outcome == Outcome::TimedOut, "seed {seed}: {outcome:?} after {received}");
                    return complete;
                }
                Output::Wait(deadline) => {
                    if to_client.is_empty() && to_server.is_empty() {
                        now = deadline;
                        transfer.timeout(now);
                    }
                }
                sent => {
                    for _ in 0..if chance(8) { 0 } else { 1 + u8::from(chance(8)) } {
                        to_client.insert(if chance(8) { 0 } else { to_client.len() }, sent);
                    }
                }
            }
            if !to_client.is_empty() {
                let ack = match to_client.remove(0) {
                    Output::Data(block) => {
                        assert!(block <= last, "seed {seed}");
                        received += u64::from(block == received + 1);
                        wire_number(received)
                    }
                    _ => wire_number(received),
                };
                for _ in 0..if chance(8) { 0 } else { 1 + u8::from(chance(8)) } {
                    to_server.push(ack);
                }
            } else if !to_server.is_empty() {
                let at = if chance(4) { to_server.len() - 1 } else { 0 };
                transfer.ack(to_server.remove(at));
            }
        }
        panic!("seed {seed} never ends");
    }

    #[test]
    fn a_rough_wire_never_makes_a_transfer_claim_what_the_client_has_not() {
        let mut complete = 0;
        for seed in 0..300 {
            complete += u32::from(rough_transfer(seed, &[], 512 * 20));
            complete += u32::from(rough_transfer(seed, &[Asked::Tsize, Asked::Blksize(1468)], 1468 * 20 + 3));
            complete += u32::from(rough_transfer(seed, &[Asked::Windowsize(8)], 512 * 70));
        }
        // One datagram in eight is lost each way: ten losses of the same are rare.
        assert!(complete >= 895, "only {complete} of 900 were complete");
    }
}
