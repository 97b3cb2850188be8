//! Events and actions of the state machine, and the states of a partition.

use std::collections::HashMap;

use records::{Entry, Forgotten, IdempotencyKey, Offset, Partition, Timestamp};
use schemas::{Answer, SchemaId};

use crate::admission::membership::Membership;
use crate::admission::retention::Window;
use crate::admission::transaction::{Admitted, NextOffset};
use crate::admission::verdict::Verdict;

/// State of an assigned partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// Waiting for a new producer, whose opening ends the transaction that the last one left open.
    AwaitsProducer,
    /// Bringing its store to the end of the changelog.
    Restoring(RestoreId),
    /// Processing its orders.
    Running {
        /// Input offset that this member committed last, or started at.
        committed: Offset,
    },
    /// Halted for this reason, operator action required.
    Halted(String),
}

/// Identifies one restore of a partition, so that the result of an earlier one is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct RestoreId(pub u64);

/// Event of stage one, other than an input record, which [`Admission::admit`](super::Admission::admit) takes.
#[derive(Debug)]
pub enum Event<M> {
    /// New generation of the group, with the partitions that are new to this member, possibly none.
    Assigned(Vec<Partition>, Membership<M>),
    /// Partitions to be released, still owned until then, and the membership as of this generation.
    Revoked(Vec<Partition>, Membership<M>),
    /// Partitions that another member may own already.
    Lost(Vec<Partition>),
    /// The membership was fenced, and all partitions are lost with it. No further event of this membership
    /// follows; the program joins again with a new consumer.
    Fenced,
    /// A store equals its changelog; processing may start.
    Restored {
        /// Restored partition.
        partition: Partition,
        /// Restore that ended.
        id: RestoreId,
        /// Input offset to start at.
        next: Offset,
        /// Changelog offset up to which the store equals the changelog.
        checkpoint: Offset,
        /// Retention window, as the changelog and the note of the committed offset have it.
        window: Window,
    },
    /// A restore found a loss that only an operator can repair, for this reason.
    RestoreHalted(Partition, RestoreId, String),
    /// The transaction was committed. For each partition with entries: the changelog offset after the last. A
    /// partition whose offset is not known is missing.
    Committed(HashMap<Partition, Offset>),
    /// As `Committed`, but a duplicate EndTxn may still arrive: this producer must not commit again.
    CommittedRetireProducer(HashMap<Partition, Offset>),
    /// The transaction failed in any step, or its outcome is unknown.
    TransactionFailed,
    /// A store cannot be read or written.
    StoreFailed(Partition, StoreFailure),
    /// A store has keys that can be forgotten, of those recorded before
    /// [`Admission::cutoff`](super::Admission::cutoff).
    Forgettable(Partition, Forgotten),
    /// A running partition cannot continue, for this reason; operator action required.
    Halt(Partition, String),
    /// The new producer is open.
    ProducerOpened,
    /// The new producer could not be opened.
    ProducerFailed,
    /// The registry has answered on a schema that [`AdmitResult::AwaitsSchema`] has asked for.
    SchemaAnswered(SchemaId, Answer),
    /// The time of [`Admission::due`](super::Admission::due) has come.
    Tick,
    /// Shutdown: commit the open transaction and leave the group.
    Stop,
}

/// Failure of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFailure {
    /// The file is proven not to be as it was written.
    Corrupt,
    /// The operating system failed, or the store is not open. The file may be sound.
    Unavailable,
}

/// Action for the program to perform.
#[derive(Debug)]
pub enum Action<M> {
    /// Acknowledge the assignment of these partitions to the group; they stay paused.
    Accept(Vec<Partition>),
    /// Bring the partition's store to the end of its changelog. Result: `Restored` or `RestoreHalted`.
    Restore(Partition, RestoreId),
    /// Cancel the restore of this partition.
    CancelRestore(Partition),
    /// Read the partition's records from this offset on.
    Start(Partition, Offset),
    /// Stop reading records of these partitions.
    Pause(Vec<Partition>),
    /// Commit the transaction with these offsets and this membership. Result: `Committed`,
    /// `CommittedRetireProducer` or `TransactionFailed`.
    EndTransaction(Vec<NextOffset>, M),
    /// Write committed entries to the partition's store, with the checkpoint and the recorded time of the newest key
    /// that it then has.
    Apply(Partition, Admitted, Offset, Option<Timestamp>),
    /// Remove the forgotten keys from the partition's store, and from its changelog. Kafka has the note of it.
    Forget(Partition, Forgotten),
    /// Abort the open transaction and drop the producer.
    DropProducer,
    /// Open a new producer. Result: `ProducerOpened` or `ProducerFailed`.
    OpenProducer,
    /// Make the partition's store durable and close it.
    Close(Partition),
    /// Delete the partition's store.
    Discard(Partition),
    /// Report that the partition was halted while it was running, for this reason; operator action required.
    ReportHalt(Partition, String),
    /// Release these partitions to the group.
    Release(Vec<Partition>),
    /// Leave the group; the last action.
    Leave,
}

/// Known key that another record has, to be written to the changelog again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenAgain {
    /// Idempotency key of the order that was admitted.
    pub key: IdempotencyKey,
    /// Its entry, which stays as it is.
    pub entry: Entry,
    /// Time at which the key is recorded again.
    pub recorded: Timestamp,
}

/// Result of [`Admission::admit`](super::Admission::admit).
#[derive(Debug)]
pub enum AdmitResult {
    /// The partition is not running. The record is read again once it is.
    NotRunning,
    /// The wall clock is wrong, so that nothing can be decided by it. To be followed by [`Event::Halt`] with this
    /// reason.
    ClockBehind(String),
    /// The record names a schema that is not known. Its partition waits until [`Event::SchemaAnswered`] comes for it, and is
    /// then read again from the record on.
    AwaitsSchema(SchemaId),
    /// The record is part of the open transaction.
    Decided {
        /// Decision on the record.
        verdict: Verdict,
        /// `true` if the record is the first of its transaction.
        begins: bool,
        /// Known key that is recorded again, with a later time than before.
        again: Option<SeenAgain>,
    },
}
