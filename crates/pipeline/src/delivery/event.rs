//! Events that the delivery takes in, and actions that it asks for. Both lists are closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use records::call_note::{InvalidNote, NoteTooLong};
use records::{EpochEnd, LeaderEpoch, Offset, Partition, TopicId};

use super::call::{Ambiguity, FinalState, History, LookupResponse, Pending};
use super::flow::Outage;
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

/// Committed state of a partition, and the bounds of its log, at assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedNotes {
    /// Committed offset of the group; `None` if there is none.
    pub committed: Option<Offset>,
    /// Metadata that was committed with the offset.
    pub metadata: String,
    /// End of the log that the committed offset belongs to; `None` if no leader epoch was committed with it.
    pub epoch_end: Option<EpochEnd>,
    /// Id of the outbox that the records come from; `None` if the brokers do not report it.
    pub outbox: Option<TopicId>,
    /// First offset that the log still has.
    pub log_start: Offset,
    /// Offset behind the last record that can be read.
    pub log_end: Offset,
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

/// Reason why a partition is halted.
// Each text ends with what the operator does. Nothing resets by itself: a wrong offset pays twice, or never.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HaltReason {
    /// The committed call note cannot be decoded.
    #[error(
        "the call note at offset {committed} cannot be read: {source}. Which calls are final is not \
         known, so none is made. Run the caller version that wrote it; or, if each call from {committed} on \
         may be made (again), commit that offset again without metadata: kafka-consumer-groups \
         --reset-offsets --to-offset {committed}"
    )]
    Note {
        /// Committed offset of the group.
        committed: Offset,
        /// Error of the decoder.
        source: InvalidNote,
    },
    /// The call note is too long to commit, which `Progress::has_room` is there to prevent.
    #[error(
        "the call note does not fit into the metadata of an offset: {0}. Nothing of the partition is sent or \
         committed any more; restart the caller with a smaller caller.calls_open_max"
    )]
    NoteTooLong(NoteTooLong),
    /// No offset is committed, and the outbox is not empty.
    #[error(
        "the group has no committed offset, and the outbox partition holds or held calls (offsets {log_start} \
         to {log_end}), which may have been made already. Either the brokers deleted the group's offsets \
         (offsets.retention.minutes after its last member left, or with an outbox that was deleted and created \
         again), or someone deleted the group, or kafka.group_id was changed, or the group is new. If kafka.group_id is wrong, correct it. \
         Otherwise stop all callers of the group, and rebuild it from the outcomes: outbox group recover \
         --group GROUP. Calls without an outcome are then ambiguous. Only to begin deliberately elsewhere, \
         where no call was made yet: outbox group create --group GROUP --at beginning|end|TIMESTAMP"
    )]
    NoOffset {
        /// First offset that the log still has.
        log_start: Offset,
        /// Offset behind the last record that can be read.
        log_end: Offset,
    },
    /// The offset was committed in another outbox.
    #[error(
        "the outbox was deleted and created again, or topics.pending named another topic before: the group \
         committed offset {committed} in the topic with the id {was}, and the id is {is} now. Offset and call \
         notes mean nothing in it: calls below the offset would never be made, and others would count as \
         made. None is made. Stop all callers of the group, find the old calls that have no outcome and see \
         that they are made, then forget the old offsets, which `outbox group create` never overwrites, and \
         begin the group at the first call of this outbox: kafka-consumer-groups --group GROUP --topic TOPIC \
         --delete-offsets; outbox group create --group GROUP --at beginning"
    )]
    Recreated {
        /// Committed offset of the group.
        committed: Offset,
        /// Id of the outbox that the offset was committed in.
        was: TopicId,
        /// Id of the outbox now.
        is: TopicId,
    },
    /// The log starts behind the committed offset.
    #[error(
        "the group has committed offset {committed}, and the log starts at {log_start}: retention has \
         deleted calls that were not final. Find the orders in the input topic and replay them, then commit \
         the offset to continue at: kafka-consumer-groups --reset-offsets --to-offset {log_start}"
    )]
    Deleted {
        /// Committed offset of the group.
        committed: Offset,
        /// First offset that the log still has.
        log_start: Offset,
    },
    /// The log ends before the committed offset.
    #[error(
        "the group has committed offset {committed}, and the log ends at {log_end}: the topic was \
         recreated, or the cluster has lost records. Find out from the outcomes which calls were made, then \
         commit the offset to continue at: kafka-consumer-groups --reset-offsets --to-offset N"
    )]
    Ahead {
        /// Committed offset of the group.
        committed: Offset,
        /// Offset behind the last record that can be read.
        log_end: Offset,
    },
    /// The log has lost its end, and has grown again beyond the committed offset.
    #[error(
        "the log was truncated at {end} and has grown again: the group has committed offset {committed} in leader \
         epoch {}, and the records from {end} on are of later leaders (after an unclean leader election, for \
         example). The calls now at {end} to {committed} were not made at these offsets, and those that were there \
         before may have been made and be in the outbox again. Find out from the outcomes which orders were called, \
         then, while no caller of the group runs, commit the offset to continue at: kafka-consumer-groups \
         --reset-offsets --to-offset N",
        epoch.0
    )]
    Truncated {
        /// Committed offset of the group.
        committed: Offset,
        /// Leader epoch that was committed with it.
        epoch: LeaderEpoch,
        /// Offset of the first record that a later leader has written.
        end: Offset,
    },
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
