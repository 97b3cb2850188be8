//! What is written on each topic: keys, values, headers, and how each is read back.
//!
//! The one crate that all others know. It has no input or output, no clock and no settings; a value of
//! one of its types is valid, because bytes become a value in one place only.

pub mod call_dead_letter;
pub mod call_note;
pub mod continuation;
pub mod dead_letter;
pub mod entry;
pub mod fingerprint;
pub mod header;
pub mod key;
pub mod offset_set;
pub mod order;
pub mod outcome;
pub mod parked;
pub mod pending;
pub mod position;
pub mod topics;

pub use call_note::CallNote;
pub use continuation::Continuation;
pub use entry::Entry;
pub use fingerprint::Fingerprint;
pub use key::IdempotencyKey;
pub use offset_set::OffsetSet;
pub use order::Order;
pub use position::{Bounds, Offset, Partition, Position, Timestamp};
pub use topics::Topics;
