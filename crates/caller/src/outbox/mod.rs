//! Records of the outbox: a pending call read from one, and the records that a call ends in or continues as.

pub(crate) mod call_span;
pub(crate) mod deferral_txn;
pub(crate) mod pending_call;
pub(crate) mod policies;
pub(crate) mod terminal_records;
pub(crate) mod wall_clock;
