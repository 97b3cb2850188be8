//! Records of the outbox: reading them, and writing what becomes of them.

pub(crate) mod deferral_txn;
pub(crate) mod pending_call;
pub(crate) mod policies;
pub(crate) mod terminal_records;
