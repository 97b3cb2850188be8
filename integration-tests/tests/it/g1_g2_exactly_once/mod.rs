//! G1, G2: each valid order is in the outbox exactly once, and no order is lost.

mod changed_fingerprint;
mod coordinator_not_found;
mod delayed_end_txn;
mod frozen_validator;
mod handover;
mod hostile_producers;
mod invalid_orders;
mod stage_one;
mod two_validators;
mod unknown_commit_outcome;
