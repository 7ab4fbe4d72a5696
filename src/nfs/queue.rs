//! Replies that a socket did not take yet.
//!
//! Pure: whoever sends is asked how many bytes it took. A long reply is kept in the
//! buffer or pipe that it was made in, since over a slow wire most READs wait here: one
//! queue of bytes for all cost another copy of each.

use std::collections::VecDeque;

/// A reply up to this many bytes is copied behind the others, which saves its buffer.
const SHORT: usize = 16 << 10;
/// How long such a common buffer grows.
const COMMON: usize = 64 << 10;

/// Bytes that lie elsewhere, and count for themselves how many of them are left.
pub trait Body {
    fn left(&self) -> usize;
}

/// What a socket is offered: all of it, or what of it is left.
#[derive(Debug)]
pub enum Offer<'a, B> {
    Bytes(&'a [u8]),
    Body(&'a mut B),
}

#[derive(Debug)]
enum Chunk<B> {
    Bytes(Vec<u8>),
    Body(B),
}

#[derive(Debug)]
pub struct Queue<B> {
    chunks: VecDeque<Chunk<B>>,
    /// Bytes of the first chunk that are sent; 0 where it is a body.
    sent: usize,
}

impl<B> Default for Queue<B> {
    fn default() -> Self {
        Self { chunks: VecDeque::new(), sent: 0 }
    }
}

impl<B: Body> Queue<B> {
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
        self.chunks.push_back(Chunk::Bytes(std::mem::take(reply)));
    }

    /// What is left of a body goes behind the others.
    pub fn push_body(&mut self, body: B) {
        if body.left() > 0 {
            self.chunks.push_back(Chunk::Body(body));
        }
    }

    /// The same for bytes that others need too.
    pub fn push_copy(&mut self, reply: &[u8]) {
        match self.chunks.back_mut() {
            Some(Chunk::Bytes(last)) if last.len() + reply.len() <= COMMON => last.extend_from_slice(reply),
            _ => self.chunks.push_back(Chunk::Bytes(reply.to_vec())),
        }
    }

    /// Offers what is queued, chunk by chunk, until one is not taken whole. `None` from `send` ends it: `false`.
    pub fn flush(&mut self, mut send: impl FnMut(Offer<'_, B>) -> Option<usize>) -> bool {
        while let Some(chunk) = self.chunks.front_mut() {
            let whole = match chunk {
                Chunk::Bytes(bytes) => {
                    let rest = bytes.get(self.sent..).unwrap_or_default();
                    let Some(count) = send(Offer::Bytes(rest)) else { return false };
                    self.sent += count;
                    count >= rest.len()
                }
                Chunk::Body(body) => {
                    if send(Offer::Body(body)).is_none() {
                        return false;
                    }
                    body.left() == 0
                }
            };
            if !whole {
                return true;
            }
            self.sent = 0;
            self.chunks.pop_front();
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

    struct Elsewhere(Vec<u8>);

    impl Body for Elsewhere {
        fn left(&self) -> usize {
            self.0.len()
        }
    }

    /// A socket that has room for so many bytes.
    fn take(offer: Offer<'_, Elsewhere>, room: &mut usize, got: &mut Vec<u8>) -> usize {
        let count = match &offer {
            Offer::Bytes(bytes) => bytes.len().min(*room),
            Offer::Body(body) => body.left().min(*room),
        };
        match offer {
            Offer::Bytes(bytes) => got.extend_from_slice(&bytes[..count]),
            Offer::Body(body) => got.extend(body.0.drain(..count)),
        }
        *room -= count;
        count
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order_whatever_the_socket_takes(
            replies in prop::collection::vec((0usize..40_000, 0..3), 1..40),
            takes in prop::collection::vec(1usize..50_000, 1..40),
        ) {
            let (mut queue, mut expected, mut got) = (Queue::default(), Vec::new(), Vec::new());
            let mut takes = takes.into_iter().cycle();
            for (number, (length, how)) in replies.into_iter().enumerate() {
                let mut reply = vec![number as u8; length];
                if how == 0 {
                    expected.extend_from_slice(&reply);
                    queue.push_copy(&reply);
                } else {
                    let sent = if queue.is_empty() { length / 3 } else { 0 };
                    expected.extend_from_slice(&reply[sent..]);
                    queue.push(&mut reply, sent);
                    if how == 2 {
                        let body = vec![!(number as u8); length];
                        expected.extend_from_slice(&body);
                        queue.push_body(Elsewhere(body));
                    }
                }
                let mut room = takes.next().unwrap_or(1);
                prop_assert!(queue.flush(|offer| Some(take(offer, &mut room, &mut got))));
            }
            prop_assert!(queue.flush(|offer| Some(take(offer, &mut usize::MAX.clone(), &mut got))));
            prop_assert!(queue.is_empty());
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn a_broken_connection_ends_it() {
        let mut queue = Queue::<Elsewhere>::default();
        queue.push_copy(b"reply");
        assert!(!queue.flush(|_| None));
        queue.clear();
        queue.push_body(Elsewhere(vec![1]));
        assert!(!queue.flush(|_| None));
        queue.clear();
        assert!(queue.is_empty() && queue.flush(|_| None));
    }
}
