//! Stage one: which orders are admitted to the outbox, and when a transaction begins and ends.
//!
//! ```text
//! partition assigned ─▶ restoring ─▶ running ──record──▶ verdict ─▶ transaction ─▶ end ─▶ store
//!                          ▲                                                        │
//!                          └── any failure: new producer, committed offsets, tail ◀─┘
//! ```

mod input;
mod lag;
mod machine;
mod membership;
mod partitioner;
mod refusals;
mod repair;
pub mod restore;
mod retention;
mod rules;
mod schema_waits;
mod transaction;
mod verdict;

pub use input::Input;
pub use lag::OrdersLag;
pub use machine::{
    Action, Admission, AdmitResult, Event, PartitionState, RestoreId, SeenAgain, StoreFailure,
};
pub use membership::Membership;
pub use partitioner::Partitioner;
pub use refusals::{MassRefusal, RefusalSettings};
pub use repair::changelog_rebuild::{AdmittedOrder, ChangelogRebuild, ForeignOrder, Gap};
pub use repair::repartition::{MovedEntry, Repartition, RepartitionCounts, WrongPartitioner, grown_notes};
pub use repair::{resubmissions, store_comparison};
pub use retention::Window;
pub use rules::{KeySource, OrderForm, OrderFormKind, RecordKey, Refusal, Rules};
pub use schema_waits::SchemaWait;
pub use schemas::{InvalidSchema, OrderSchema};
pub use transaction::{Admitted, NextOffset, Transaction, TransactionLimits};
pub use verdict::{Payload, Verdict, decide};
