//! Replies that a socket did not take yet.
//!
//! Pure: whoever sends is asked how many bytes it took. A long reply is kept in the
//! buffer that it was made in, since over a slow wire most READs wait here: one
//! queue of bytes for all cost another copy of each.

use std::collections::VecDeque;

/// A reply up to this many bytes is copied behind the others, which saves its buffer.
const SHORT: usize = 16 << 10;
/// How long such a common buffer grows.
const COMMON: usize = 64 << 10;

#[derive(Debug, Default)]
pub struct Queue {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are sent.
    sent: usize,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Takes over what follows the first `sent` bytes, with its buffer where that is no larger than it needs to be.
    /// `sent` is 0 where something is queued.
    pub fn push(&mut self, reply: &mut Vec<u8>, sent: usize) {
        let left = reply.len() - sent;
        if left <= SHORT || reply.capacity() / 2 > left {
            self.push_copy(&reply[sent..]);
            return;
        }
        if self.is_empty() {
            self.sent = sent;
        }
        self.chunks.push_back(std::mem::take(reply));
    }

    /// The same for bytes that others need too.
    pub fn push_copy(&mut self, reply: &[u8]) {
        match self.chunks.back_mut() {
            Some(last) if last.len() + reply.len() <= COMMON => last.extend_from_slice(reply),
            _ => self.chunks.push_back(reply.to_vec()),
        }
    }

    /// Offers what is queued, chunk by chunk, until one is not taken whole. `None` from `send` ends it: `false`.
    pub fn flush(&mut self, mut send: impl FnMut(&[u8]) -> Option<usize>) -> bool {
        while let Some(chunk) = self.chunks.front() {
            let rest = chunk.get(self.sent..).unwrap_or_default();
            match send(rest) {
                Some(count) if count == rest.len() => {
                    self.sent = 0;
                    self.chunks.pop_front();
                }
                Some(count) => {
                    self.sent += count;
                    return true;
                }
                None => return false,
            }
        }
        // What a burst needed is not kept.
        self.chunks.shrink_to(16);
        true
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order_whatever_the_socket_takes(
            replies in prop::collection::vec((0usize..40_000, any::<bool>()), 1..40),
            takes in prop::collection::vec(1usize..50_000, 1..40),
        ) {
            let (mut queue, mut expected, mut got) = (Queue::default(), Vec::new(), Vec::new());
            let mut takes = takes.into_iter().cycle();
            for (number, (length, copied)) in replies.into_iter().enumerate() {
                let mut reply = vec![number as u8; length];
                if copied {
                    expected.extend_from_slice(&reply);
                    queue.push_copy(&reply);
                } else {
                    let sent = if queue.is_empty() { length / 3 } else { 0 };
                    expected.extend_from_slice(&reply[sent..]);
                    queue.push(&mut reply, sent);
                }
                let mut room = takes.next().unwrap_or(1);
                let whole = queue.flush(|bytes| {
                    let taken = bytes.len().min(room);
                    room -= taken;
                    got.extend_from_slice(&bytes[..taken]);
                    Some(taken)
                });
                prop_assert!(whole);
            }
            let whole = queue.flush(|bytes| { got.extend_from_slice(bytes); Some(bytes.len()) });
            prop_assert!(whole);
            prop_assert!(queue.is_empty());
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn a_broken_connection_ends_it() {
        let mut queue = Queue::default();
        queue.push_copy(b"reply");
        assert!(!queue.flush(|_| None));
        queue.clear();
        assert!(queue.is_empty() && queue.flush(|_| None));
    }
}
