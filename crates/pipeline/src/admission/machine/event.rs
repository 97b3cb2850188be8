//! Events and actions of the state machine, and the states of a partition.

use std::collections::HashMap;

use records::{Offset, Partition};

use crate::admission::membership::Membership;
use crate::admission::transaction::{Admitted, Offsets};
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
    /// The new producer is open.
    ProducerOpened,
    /// The new producer could not be opened.
    ProducerFailed,
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
    EndTransaction(Offsets, M),
    /// Write committed entries to the partition's store, with the checkpoint that it then has.
    Apply(Partition, Admitted, Offset),
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

/// Result of [`Admission::admit`](super::Admission::admit).
#[derive(Debug)]
pub enum AdmitResult {
    /// The partition is not running. The record is read again once it is.
    NotRunning,
    /// The record is part of the open transaction.
    Decided {
        /// Decision on the record.
        verdict: Verdict,
        /// `true` if the record is the first of its transaction.
        begins: bool,
    },
}
