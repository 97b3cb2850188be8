//! The state of the send latch: one atomic that each side changes at most once.
//!
//! `model.rs` compiles this file again with loom's atomics and runs every interleaving.

use super::atomic::{AtomicU8, Ordering};

const OPEN: u8 = 0;
const SENT: u8 = 1;
const CANCELLED: u8 = 2;
const WITHHELD: u8 = 3;

/// Send state of one request.
#[derive(Debug)]
pub(crate) struct Gate {
    state: AtomicU8,
}

/// Final send state of a request that ended without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendState {
    /// Handed to the connection: the server may have received it.
    Sent,
    /// Cancelled before the connection took it: never sent.
    NotSent,
    /// Refused to the connection, because the ownership lease had expired: never sent.
    Withheld,
}

impl Gate {
    /// Returns an open gate: nothing was sent.
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU8::new(OPEN),
        }
    }

    /// Claims the request for the connection. Returns whether it may have the body. `is_permitted` says
    /// whether the ownership lease is still valid.
    pub(crate) fn claim(&self, is_permitted: bool) -> bool {
        let to = if is_permitted { SENT } else { WITHHELD };
        // Only the claim that changed the state gets the body: a second claim finds it `SENT` and gets
        // nothing.
        self.change(to) == OPEN && is_permitted
    }

    /// Cancels the request unless it was claimed, and returns its final send state.
    pub(crate) fn cancel(&self) -> SendState {
        match self.change(CANCELLED) {
            OPEN | CANCELLED => SendState::NotSent,
            WITHHELD => SendState::Withheld,
            // Also for an impossible state: a request counts as sent unless the opposite is proved.
            _ => SendState::Sent,
        }
    }

    /// Reports whether the body was handed to the connection.
    #[cfg(feature = "failpoints")]
    #[allow(dead_code, reason = "not used by the copy in the model")]
    pub(crate) fn is_sent(&self) -> bool {
        self.state.load(Ordering::Acquire) == SENT
    }

    /// Changes an open state, and returns the previous one.
    fn change(&self, to: u8) -> u8 {
        // Compare and exchange in one step. With a load followed by a store, the connection could claim the
        // body between the two, and a request that was sent would be reported as not sent.
        match self
            .state
            .compare_exchange(OPEN, to, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(previous) | Err(previous) => previous,
        }
    }
}
