//! State shared by a connection and the payment on it. HTTP/1.1 has one request at a time per connection.

use std::sync::atomic::{AtomicBool, Ordering};

/// State of the current request of a connection.
#[derive(Default)]
pub(crate) struct ConnectionState {
    /// A payment request is being handled.
    is_paying: AtomicBool,
    /// An outage has cut off the payment.
    is_cut_off: AtomicBool,
}

impl ConnectionState {
    /// Marks the start of a payment request.
    pub(crate) fn payment_started(&self) {
        // Relaxed: one task handles the connection and its request, so there is nothing to order.
        self.is_paying.store(true, Ordering::Relaxed);
    }

    /// Marks the end of the payment request.
    pub(crate) fn payment_ended(&self) {
        self.is_paying.store(false, Ordering::Relaxed);
    }

    /// Records that the API goes down. Returns whether that cuts off a payment.
    pub(crate) fn cut_off(&self) -> bool {
        let is_cut_off = self.is_paying.load(Ordering::Relaxed);
        self.is_cut_off.store(is_cut_off, Ordering::Relaxed);
        is_cut_off
    }

    /// Reports whether an outage has cut off the payment.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::Relaxed)
    }
}
