//! The latch itself: one atomic that two sides turn, and each turns it at most once.
//!
//! `model.rs` compiles this file once more with loom's atomics, and plays every order of events.

use super::atomic::{AtomicU8, Ordering};

const OPEN: u8 = 0;
const SENT: u8 = 1;
const CANCELLED: u8 = 2;
const WITHHELD: u8 = 3;

/// Whether one request has left.
#[derive(Debug)]
pub(crate) struct Gate {
    state: AtomicU8,
}

/// How far a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was handed to the connection, and may have left.
    Sent,
    /// It did not leave, and will not.
    NotSent,
    /// It was held back, because it was no longer ours to send.
    Withheld,
}

impl Gate {
    /// Open: nothing has left.
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU8::new(OPEN),
        }
    }

    /// The connection asks for the body: may it have it? `is_permitted` is whether the request is still ours
    /// to send.
    pub(crate) fn claim(&self, is_permitted: bool) -> bool {
        let to = if is_permitted { SENT } else { WITHHELD };
        self.turn(to) == OPEN && is_permitted
    }

    /// The request has come to an end without an answer: says how far it came, and holds it there.
    pub(crate) fn cancel(&self) -> Fate {
        match self.turn(CANCELLED) {
            OPEN | CANCELLED => Fate::NotSent,
            WITHHELD => Fate::Withheld,
            _ => Fate::Sent,
        }
    }

    /// Whether the request was handed to the connection.
    #[cfg(feature = "failpoints")]
    #[allow(dead_code, reason = "the model does without")]
    pub(crate) fn is_sent(&self) -> bool {
        self.state.load(Ordering::Acquire) == SENT
    }

    /// Turns an open gate; returns what it was. Both sides must turn it in one step: with a look first and a
    /// write after it, a body can be claimed between the two, and a request that left is proved not to have.
    fn turn(&self, to: u8) -> u8 {
        match self
            .state
            .compare_exchange(OPEN, to, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(was) | Err(was) => was,
        }
    }
}
