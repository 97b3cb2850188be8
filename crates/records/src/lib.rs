//! Records of each topic: keys, values and headers, with their encoding and parsing.
//!
//! `validator`, `caller`, `outbox`, `pipeline`, `schemas`, `kafka` and `store` depend on this crate. It has no input or
//! output, and of the settings only the names of the topics ([`Topics`]). A value of one of its types is valid, because
//! bytes become a value in one function only.
//!
//! | topic | module | written by | read by |
//! | --- | --- | --- | --- |
//! | `payment-orders` | [`order`] | producers, command line | validator, command line |
//! | `pending-api-calls` | [`pending`], [`continuation`] | validator, caller, command line | caller, validator, command line |
//! | `idempotency-key-store-changelog` | [`entry`] | validator, command line | validator, command line |
//! | `payment-orders.dead-letters` | [`dead_letter`] | validator | operators, command line |
//! | | [`resubmission`] | command line | command line |
//! | `payments-processed` | [`outcome`] | caller, command line | downstream consumers, command line |
//! | `pending-api-calls.dead-letters` | [`call_dead_letter`] | caller, command line | operators, command line |
//! | `pending-api-calls.parked` | [`parked`] | caller | command line |
//! | | [`settlement`] | command line | command line |
//! | `pending-api-calls.control` | [`control`] | command line | caller, command line |
//! | `pending-api-calls.operations` | [`operation`] | command line | command line |
//! | metadata of the validators' committed offsets | [`topics_note`] | validator, command line | validator, command line |
//! | metadata of the callers' committed offsets | [`call_note`] | caller, command line | caller, command line |
//!
//! What a reader does with a version that it does not know is in the table of `crates/README.md`, format by format. It
//! never guesses: a field that it does not know may be the one that prevents a second payment.

mod calls;
pub mod control;
pub mod dead_letter;
pub mod entry;
pub mod fingerprint;
#[cfg(test)]
mod fuzz;
pub mod header;
pub mod key;
pub mod offset_set;
pub mod operation;
pub mod order;
pub mod pending;
pub mod position;
pub mod topics;
pub mod trace_context;
mod unique_names;
mod versioned;

pub use calls::call_note::CallNote;
pub use calls::continuation::Continuation;
pub use calls::{call_dead_letter, call_note, continuation, outcome, parked, settlement};
pub use dead_letter::resubmission;
pub use entry::Entry;
pub use fingerprint::{Fingerprint, Selection};
pub use key::{IdempotencyKey, KeyHash};
pub use offset_set::OffsetSet;
pub use order::{Amount, AmountForm, Order, find_unique, key_in_tree, order_id, parse_tree};
pub use position::{Bounds, EpochEnd, LeaderEpoch, Offset, Partition, Position, Timestamp};
pub use topics::Topics;
pub use topics::forgotten::Forgotten;
pub use topics::note as topics_note;
pub use topics::note::TopicsNote;
pub use topics::topic_id::TopicId;
pub use trace_context::TraceContext;
