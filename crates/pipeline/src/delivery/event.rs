//! Events that the delivery takes in, and actions that it asks for. Both lists are closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use records::{LeaderEpoch, Offset, Partition};

use super::call::{Ambiguity, FinalState, History, LookupResponse, Pending};
use super::flow::Outage;
use super::halt_reason::HaltReason;
use super::loaded_notes::LoadedNotes;
use super::response::{ClassifiedResponse, ResponseSummary};

/// Number of an assignment to this process. Events of an earlier one are late and do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment(pub(super) u64);

/// A pending call of one assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId {
    /// Assignment in which the call was read.
    pub assignment: Assignment,
    /// Partition of the outbox.
    pub partition: Partition,
    /// Offset in the partition.
    pub offset: Offset,
}

/// An event that the delivery takes in.
#[derive(Debug)]
pub enum Event<P> {
    /// The group assigned partitions to this process.
    Assigned(Vec<Partition>),
    /// The committed offset and call note of a partition are read.
    NotesLoaded {
        /// Assignment that asked for them.
        assignment: Assignment,
        /// Partition of the outbox.
        partition: Partition,
        /// Committed offset, call note, and bounds of the log.
        loaded: LoadedNotes,
    },
    /// The consumer read a record of the outbox.
    Pending(Pending<P>),
    /// The consumer has read all records below this offset, and what lies behind the last one are transaction markers
    /// and aborted records.
    ReachedEnd {
        /// Partition of the outbox.
        partition: Partition,
        /// Offset that the consumer reads next.
        next: Offset,
    },
    /// A request ended, with a response or without. Comes exactly once for each [`Action::Send`].
    ResponseReceived {
        /// Call of the request.
        call: CallId,
        /// Response, with its class, from [`Delivery::classify`](super::Delivery::classify).
        response: ClassifiedResponse,
    },
    /// A look-up ended, with a response or without. Comes exactly once for each [`Action::LookUp`].
    LookedUp {
        /// Call that was looked up.
        call: CallId,
        /// Response, with its result, from [`Delivery::classify_look_up`](super::Delivery::classify_look_up).
        response: LookupResponse,
    },
    /// A wait that [`Action::Wait`] asked for is over.
    WaitElapsed(CallId),
    /// Writing the record that [`Action::Publish`] asked for has ended.
    // A record without an acknowledgement may be written all the same.
    Published {
        /// Call of the record.
        call: CallId,
        /// `true` if Kafka acknowledged the record.
        acknowledged: bool,
    },
    /// The commit, or the deferral transaction, in flight has ended.
    Committed(CommitResult),
    /// The group revokes partitions; they stay ours until [`Action::Release`].
    Revoked(Vec<Partition>),
    /// Partitions are lost: another caller may own them already.
    Lost(Vec<Partition>),
    /// The Kafka client can no longer take part in the group.
    ClientLost,
    /// An operator has paused the calls (`true`), or resumed them.
    Paused(bool),
    /// The program is asked to shut down.
    Stop,
    /// The time from [`Delivery::wake_at`](super::Delivery::wake_at) has come.
    Tick,
}

/// Result of a commit. Each has exactly one next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitResult {
    /// The group accepted it, which extends the ownership lease.
    Committed,
    /// The group surely did not accept it, and the membership goes on: commit again.
    Rejected,
    /// The membership is over: leave the group and join again.
    Fenced,
    /// Unknown: leave the group and join again.
    // librdkafka sends a commit again, unseen, when the connection to the coordinator is lost. So this commit
    // may land after a later one of the same membership. A new membership fences it.
    Unknown,
}

/// An action that the program is asked to do.
#[derive(Debug)]
pub enum Action<P> {
    /// Accept the partitions, and read the committed offset and call note of each.
    Load {
        /// Assignment that goes into [`Event::NotesLoaded`].
        assignment: Assignment,
        /// Partitions of the outbox; may be empty.
        partitions: Vec<Partition>,
    },
    /// Start to read a partition.
    // At the commit position. Final calls behind it are read again and skipped, as the note says.
    Start {
        /// Partition of the outbox.
        partition: Partition,
        /// Offset to read from: the commit position.
        offset: Offset,
        /// Leader epoch that was committed with the offset.
        leader_epoch: Option<LeaderEpoch>,
        /// `true` if nothing was ever committed for it, and the partition is empty.
        is_first: bool,
    },
    /// Leave a partition alone, and report the program as not ready: operator action required.
    Halt {
        /// Partition of the outbox.
        partition: Partition,
        /// Reason, with what to do about it.
        why: HaltReason,
    },
    /// Pause the intake of these partitions.
    Pause(Vec<Partition>),
    /// Resume the intake of these partitions.
    Resume(Vec<Partition>),
    /// Allow requests to be sent until this time.
    ExtendLease(Instant),
    /// Report that a copy for another group is skipped: it is final here, without a record of its own.
    Skip(CallId),
    /// Send no more requests of these partitions, not even those that were asked for already.
    // A request may still wait for its connection while its partition leaves.
    Withhold(Vec<Partition>),
    /// Send one request to the API.
    Send {
        /// Call whose request to send.
        call: CallId,
        /// Number of the request, from 1.
        attempt: u32,
        /// Reason why it may repeat an earlier request, if it may.
        repeats: Option<Ambiguity>,
        /// Data from the call's record.
        payload: Arc<P>,
    },
    /// Ask the API whether it has processed the order.
    LookUp {
        /// Call to look up.
        call: CallId,
        /// Data from the call's record.
        payload: Arc<P>,
    },
    /// Wait, then send [`Event::WaitElapsed`].
    // The program adds backoff and jitter: the delivery draws no random numbers.
    Wait {
        /// Call that has to wait.
        call: CallId,
        /// Reason, which decides on backoff.
        what: WaitReason,
        /// Number of tries so far, for the backoff.
        tries: u32,
        /// Minimum time to wait.
        at_least: Duration,
        /// Response that has led to the wait, for the log.
        response: Option<ResponseSummary>,
    },
    /// Write the call's final state to Kafka.
    Publish {
        /// Call that has ended.
        call: CallId,
        /// Final state, which decides on topic and headers.
        final_state: Arc<FinalState>,
        /// Attempts that were made. Those of a dead letter have at least one ambiguous one if an earlier request may have
        /// been processed, whoever sent it.
        history: History,
        /// Data from the call's record.
        payload: Arc<P>,
    },
    /// Commit these offsets with their notes. There is no other commit in flight.
    Commit(Vec<Commit>),
    /// Write these copies to the outbox's tail, and commit these offsets with their notes, in one
    /// transaction. There is no commit in flight, and none will be until [`Event::Committed`] reports the
    /// result.
    Defer {
        /// Copies, in the order to write them.
        copies: Vec<DeferredCopy<P>>,
        /// Notes that make the calls final at their old offsets.
        commits: Vec<Commit>,
    },
    /// Release the partitions to the group.
    Release {
        /// Partitions of the outbox.
        partitions: Vec<Partition>,
        /// Calls whose requests are still in flight, and whose responses will come too late.
        abandoned: Vec<(Partition, Offset)>,
    },
    /// Report that the circuit breaker opened, or that a probe failed.
    Outage(Outage),
    /// Report that the circuit breaker closed.
    OutageOver,
    /// Leave the group and join again. Everything that is known of partitions is dropped.
    Rejoin(Rejoin),
    /// Leave the group and exit: everything is drained.
    Finish,
}

/// Reason of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// Next attempt, with backoff and jitter.
    Attempt,
    /// Next try to write the final state, with backoff and jitter.
    Publication,
    /// Next look-up, with backoff and jitter.
    LookUp,
    /// Time until no earlier request can be processed any more; without backoff.
    Quiescence,
}

/// An offset to commit, with its note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Partition of the outbox.
    pub partition: Partition,
    /// Commit position: the offset below which every call is final.
    pub offset: Offset,
    /// Encoded call note for the metadata.
    pub note: String,
}

/// Copy of a call that is continued at the outbox's tail.
#[derive(Debug)]
pub struct DeferredCopy<P> {
    /// Call at its old offset.
    pub call: CallId,
    /// Attempts at all its offsets.
    pub history: History,
    /// Inconclusive look-ups in a row.
    pub lookups: u32,
    /// Reason why its outcome is unknown, if it is.
    pub ambiguity: Option<Ambiguity>,
    /// Data from the call's record.
    pub payload: Arc<P>,
}

/// Reason why the process leaves the group and joins again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejoin {
    /// The group has ended the membership.
    #[error("a commit was fenced: this membership of the group is over")]
    Fenced,
    /// A commit failed with an unknown result.
    #[error("the last commit failed with an unknown result")]
    CommitUnknown,
    /// The Kafka client can no longer take part in the group.
    #[error("the Kafka client can no longer take part in the group")]
    ClientLost,
    /// A commit was not acknowledged in time.
    #[error("the last commit was not acknowledged in time, so its result is unknown")]
    CommitLate,
}
