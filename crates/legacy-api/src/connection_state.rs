//! What a connection and the payment on it know of each other. HTTP/1.1 has one request at a time.

use std::sync::atomic::{AtomicBool, Ordering};

/// A connection's present request.
#[derive(Default)]
pub(crate) struct ConnectionState {
    paying: AtomicBool,
    is_cut_down: AtomicBool,
}

impl ConnectionState {
    /// A payment is at work.
    pub(crate) fn begin(&self) {
        self.paying.store(true, Ordering::Relaxed);
    }

    /// It is not any more.
    pub(crate) fn end(&self) {
        self.paying.store(false, Ordering::Relaxed);
    }

    /// The API goes down; whether that takes a payment along.
    pub(crate) fn cut_down(&self) -> bool {
        let is_cut_down = self.paying.load(Ordering::Relaxed);
        self.is_cut_down.store(is_cut_down, Ordering::Relaxed);
        is_cut_down
    }

    /// Whether the API went down and took this connection along.
    pub(crate) fn is_cut_down(&self) -> bool {
        self.is_cut_down.load(Ordering::Relaxed)
    }
}
