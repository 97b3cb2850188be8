//! Reasons why a partition of the outbox is halted, and what the operator does about each.
//!
//! Nothing resets by itself: a wrong offset pays twice, or never.

use records::call_note::{InvalidNote, NoteTooLong};
use records::{LeaderEpoch, Offset, Partition, TopicId};

use crate::reset_offsets::reset_offsets;

/// Reason why a partition is halted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HaltReason {
    /// The committed call note cannot be decoded.
    #[error(
        "the call note at offset {committed} cannot be read: {source}. Which calls are final is not known, so none is \
         made"
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
         committed any more"
    )]
    NoteTooLong(NoteTooLong),
    /// No offset is committed, and the outbox is not empty.
    #[error(
        "the group has no committed offset, and the outbox partition holds or held calls (offsets {log_start} \
         to {log_end}), which may have been made already. Either the brokers deleted the group's offsets \
         (offsets.retention.minutes after its last member left, or with an outbox that was deleted and created \
         again), or someone deleted the group, or kafka.group_id was changed, or the group is new"
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
         made. None is made"
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
        "the group has committed offset {committed}, and the log starts at {log_start}: calls that were not final were \
         deleted, by the topic's retention or by a person"
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
         recreated, or the cluster has lost records"
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
         before may have been made and be in the outbox again",
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

impl HaltReason {
    /// Returns what the operator does about a partition of the outbox, with the commands: sentences with a full stop.
    #[must_use]
    pub fn repair(&self, group: &str, topic: &str, partition: Partition) -> String {
        let reset = |to: &str| reset_offsets(group, topic, partition, to);
        match self {
            Self::Note { committed, .. } => format!(
                "Run the caller version that wrote it. Or, if each call from {committed} on may be made (again), commit \
                 that offset again without a note, while no caller of the group runs: {}.",
                reset(&committed.to_string())
            ),
            Self::NoteTooLong(_) => "Restart the caller with a smaller caller.calls_open_max.".into(),
            Self::NoOffset { .. } => format!(
                "If kafka.group_id is wrong, correct it. Otherwise stop all callers of the group, and rebuild it from the \
                 outcomes: `outbox group recover --group {group}`. Calls without an outcome are then ambiguous. Only to \
                 begin deliberately elsewhere, where no call was made yet: `outbox group create --group {group} --at \
                 beginning|end|TIMESTAMP`."
            ),
            Self::Recreated { .. } => format!(
                "Stop all callers of the group, find the old calls that have no outcome, and see that they are made. Then \
                 forget the old offsets, which `outbox group create` never overwrites, and begin the group at the first \
                 call of this outbox: `kafka-consumer-groups.sh --bootstrap-server BROKERS --group {group} --topic {topic} \
                 --delete-offsets`, and `outbox group create --group {group} --at beginning`."
            ),
            Self::Deleted { log_start, .. } => format!(
                "Find these orders in the topic of the orders, and ask the provider which it has charged. Charge the \
                 others by hand, or have their producer send them under new keys: under their own they are duplicates. \
                 Then commit the offset to continue at, while no caller of the group runs: {}.",
                reset(&log_start.to_string())
            ),
            Self::Ahead { .. } | Self::Truncated { .. } => format!(
                "Find out from the outcomes which orders were called. Then commit the offset to continue at, while no \
                 caller of the group runs: {}.",
                reset("OFFSET")
            ),
        }
    }
}
