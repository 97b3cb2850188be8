//! What can happen to the delivery, and what it may ask for. Both lists are closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use records::call_note::{InvalidNote, NoteTooLong};
use records::{IdempotencyKey, Offset, Partition};

use super::call::{Ambiguity, FinalState, History, LookupResponse};
use super::response::{ClassifiedResponse, ResponseSummary};
use crate::delivery::call::DeferralContext;
use crate::delivery::call::Policy;
use crate::delivery::flow::Outage;

/// One assignment of a partition to this process. Events of an earlier one are late and do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment(pub(super) u64);

/// A pending call of one assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId {
    /// The assignment that it was read in.
    pub assignment: Assignment,
    /// Its partition of the outbox.
    pub partition: Partition,
    /// Its offset there.
    pub offset: Offset,
}

/// What happened.
#[derive(Debug)]
pub enum Event<P> {
    /// The group gave partitions to this process.
    Assigned(Vec<Partition>),
    /// What the group has committed for a partition is read.
    NotesLoaded {
        /// The assignment that asked for it.
        assignment: Assignment,
        /// The partition.
        partition: Partition,
        /// What is committed.
        loaded: LoadedNotes,
    },
    /// A record of the outbox.
    Pending(Pending<P>),
    /// An attempt's request has come to something. Comes exactly once for each [`Action::Send`].
    ResponseReceived {
        /// The call.
        call: CallId,
        /// The response, with its class.
        response: ClassifiedResponse,
    },
    /// A look-up has come to something. Comes exactly once for each [`Action::LookUp`].
    LookedUp {
        /// The call.
        call: CallId,
        /// The response, with its result.
        response: LookupResponse,
    },
    /// The wait that [`Action::Wait`] asked for is over.
    WaitElapsed(CallId),
    /// A record that [`Action::Publish`] asked for was acknowledged by Kafka, or surely or perhaps not.
    Published {
        /// The call.
        call: CallId,
        /// Whether Kafka acknowledged it.
        acknowledged: bool,
    },
    /// The commit, or the deferral, that was in flight has come to something.
    Committed(CommitResult),
    /// Partitions are wanted by another caller; they are ours until they are given up.
    Revoked(Vec<Partition>),
    /// Partitions may already be another caller's.
    Lost(Vec<Partition>),
    /// The client can no longer take part in the group.
    ClientLost,
    /// The program is asked to end.
    Stop,
    /// The time that [`Delivery::wake_at`](super::Delivery::wake_at) named has come.
    Tick,
}

/// A record of the outbox.
#[derive(Debug)]
pub struct Pending<P> {
    /// Its partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// What makes two orders the same order; `None` if the record is no pending call.
    pub key: Option<IdempotencyKey>,
    /// How much memory it takes, in bytes.
    pub bytes: usize,
    /// What is done when nobody can know whether it was processed.
    pub policy: Policy,
    /// What it brings along, if it was deferred.
    pub continued: Option<DeferralContext>,
    /// What the program needs to make the call.
    pub payload: P,
}

/// What is known of a partition when it is assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedNotes {
    /// The group's committed offset; `None` if there is none.
    pub committed: Option<Offset>,
    /// The metadata that was committed with it.
    pub metadata: String,
    /// The first offset that the log still has.
    pub log_start: Offset,
    /// The offset behind the last that can be read.
    pub log_end: Offset,
}

/// What a commit came to. Each has exactly one next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitResult {
    /// The group took it: it is proof of ownership.
    Committed,
    /// The group surely did not take it, and the membership stands: it is made again.
    Rejected,
    /// This membership is over: the group is joined anew.
    Fenced,
    /// Nobody can know. Another commit might be overtaken by this one, so the group is joined anew.
    Unknown,
}

/// What the program is asked to do.
#[derive(Debug)]
pub enum Action<P> {
    /// Accept the partitions and read what the group has committed for each.
    Load {
        /// Goes into the answers.
        assignment: Assignment,
        /// The partitions.
        partitions: Vec<Partition>,
    },
    /// Hand out the records of a partition, from an offset on.
    Start {
        /// The partition.
        partition: Partition,
        /// The watermark.
        offset: Offset,
        /// Nothing was ever committed for it.
        is_first: bool,
    },
    /// Leave a partition alone: a person must look. The program is not ready.
    Halt {
        /// The partition.
        partition: Partition,
        /// Why.
        why: HaltReason,
    },
    /// Hand out no more records of these partitions for now.
    Pause(Vec<Partition>),
    /// Hand out their records again.
    Resume(Vec<Partition>),
    /// Requests may leave until then.
    ExtendLease(Instant),
    /// No request of these partitions may leave any more, not even one that is asked for already.
    Withhold(Vec<Partition>),
    /// Make one request.
    Send {
        /// The call.
        call: CallId,
        /// The number of the request, from 1.
        attempt: u32,
        /// Why it is a repeated call, if it may be one.
        repeats: Option<Ambiguity>,
        /// The record.
        payload: Arc<P>,
    },
    /// Ask the API whether it has the order.
    LookUp {
        /// The call.
        call: CallId,
        /// The record.
        payload: Arc<P>,
    },
    /// Wait, and say when it is over.
    Wait {
        /// The call.
        call: CallId,
        /// What for.
        what: WaitReason,
        /// How often it was tried, from 1.
        tries: u32,
        /// Minimum time to wait.
        at_least: Duration,
        /// The response to a request of the call that has led to the wait, for the log.
        response: Option<ResponseSummary>,
    },
    /// Write the call's end to Kafka.
    Publish {
        /// The call.
        call: CallId,
        /// The final state.
        final_state: Arc<FinalState>,
        /// What was tried.
        history: History,
        /// The record.
        payload: Arc<P>,
    },
    /// Commit these offsets with their notes. There is no other commit in flight.
    Commit(Vec<Commit>),
    /// Write these copies to the outbox's tail and commit these offsets with their notes, in one transaction.
    /// There is no commit in flight, and none will be until [`Event::Committed`] tells what it came to.
    Defer {
        /// The copies, in their order.
        copies: Vec<DeferredCopy<P>>,
        /// The notes that tell that the calls are final at their old places.
        commits: Vec<Commit>,
    },
    /// Let the partitions go.
    Release {
        /// The partitions.
        partitions: Vec<Partition>,
        /// Calls whose requests are still under way, and whose answers will come too late.
        abandoned: Vec<(Partition, Offset)>,
    },
    /// Tell that the API is ill and calls wait, or that a probe of it has failed too.
    Outage(Outage),
    /// Tell that the API answers again.
    OutageOver,
    /// Leave the group and join it anew; everything that is known of partitions is dropped.
    Rejoin(Rejoin),
    /// Everything is drained: leave the group and end.
    Finish,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// The next attempt; with backoff and jitter.
    Attempt,
    /// Publishing the end again; with backoff and jitter.
    Publication,
    /// The next look-up; with backoff and jitter.
    LookUp,
    /// The time after which no earlier request can be at work; as long as it says.
    Quiescence,
}

/// An offset and its note, to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The partition.
    pub partition: Partition,
    /// The watermark.
    pub offset: Offset,
    /// The call note.
    pub note: String,
}

/// A call that is to be continued at the outbox's tail.
#[derive(Debug)]
pub struct DeferredCopy<P> {
    /// The call at its old place.
    pub call: CallId,
    /// What was tried, in all its places.
    pub history: History,
    /// Look-ups in a row that told nothing.
    pub lookups: u32,
    /// Why nobody can know whether it was processed already.
    pub ambiguity: Option<Ambiguity>,
    /// The record.
    pub payload: Arc<P>,
}

/// Why a partition is left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HaltReason {
    /// The note cannot be read.
    #[error(
        "the call note at offset {committed} cannot be read: {source}. Which calls are final is not known, \
         so none is made. Run the caller that wrote it; or, if each call from {committed} on may be made \
         (again), commit that offset anew without metadata: kafka-consumer-groups --reset-offsets --to-offset \
         {committed}"
    )]
    Note {
        /// The committed offset.
        committed: Offset,
        /// What is wrong with the note.
        source: InvalidNote,
    },
    /// The call note would not fit, which `Progress::has_room` is there to
    /// prevent.
    #[error(
        "what is known of its calls does not fit into the metadata of an offset: {0}. Nothing of the partition \
         is sent or committed any more; start the caller again with a smaller caller.calls_open_max"
    )]
    NoteTooLong(NoteTooLong),
    /// Nothing is committed, and the log's beginning is gone.
    #[error(
        "the group has no committed offset, and the log begins at {log_start}, not at 0: calls below may \
         never have been made, and those from there on may have been made already. Find out from the \
         outcomes, then commit the offset to begin at: kafka-consumer-groups --reset-offsets --to-offset N"
    )]
    NoOffset {
        /// The first offset that the log still has.
        log_start: Offset,
    },
    /// The log begins behind the watermark.
    #[error(
        "the group has committed offset {committed}, and the log begins at {log_start}: retention has deleted \
         calls that were not final. Find the orders in the input topic and replay them, then commit the offset \
         to go on at: kafka-consumer-groups --reset-offsets --to-offset {log_start}"
    )]
    Deleted {
        /// The committed offset.
        committed: Offset,
        /// The first offset that the log still has.
        log_start: Offset,
    },
    /// The log ends before the watermark.
    #[error(
        "the group has committed offset {committed}, and the log ends at {log_end}: the topic was recreated, or \
         the cluster has lost records. Find out from the outcomes which calls were made, then commit the offset \
         to go on at: kafka-consumer-groups --reset-offsets --to-offset N"
    )]
    Ahead {
        /// The committed offset.
        committed: Offset,
        /// The offset behind the last that can be read.
        log_end: Offset,
    },
}

/// Why the group is joined anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejoin {
    /// The group has ended the membership.
    #[error("a commit was refused, because this membership of the group is over")]
    Fenced,
    /// A commit failed in a way that does not tell whether it was taken.
    #[error("nobody can know whether the last commit was taken")]
    CommitUnknown,
    /// The client can no longer take part in the group.
    #[error("the Kafka client can no longer take part in the group")]
    ClientLost,
    /// A commit was not answered in time.
    #[error("the last commit was not answered in time, so nobody can know whether it was taken")]
    CommitLate,
}
