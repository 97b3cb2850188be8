//! One attempt to restore a store: the order of its requests to Kafka and the store, and the evaluation of
//! the responses.
//!
//! ```text
//! committed offset ─▶ newest order ─▶ changelog's ends ─▶ orders' ends ─▶ orders' log ─▶ store's checkpoint ─▶
//!  (stable)           (of the outbox)  (read_uncommitted)                 (same until?)   └ (is the outbox empty?)
//!   and its note of the topics
//!
//! changelog read ─▶ newest order known ─▶ ready
//! ```
//!
//! G1 and G3 depend on this order; any other admits an order twice in some sequence of events:
//! 1. the group's committed offset, once no transaction is pending on it;
//! 2. only then the changelog's high watermark, from a read_uncommitted client;
//! 3. the changelog, read_committed, until the position has reached that watermark.
//!
//! The program sends each request and passes the response in. A request that fails ends the attempt, and the
//! next attempt starts with the first request.

mod overlap;
mod standby;
mod tail;
mod topics;

use records::{
    Bounds, EpochEnd, Forgotten, IdempotencyKey, Offset, Partition, Timestamp, Topics, TopicsNote,
};

pub use self::overlap::Overlap;
pub use self::standby::StandbyRange;
pub use self::tail::{Chunk, RestoredEntry, Tail};
pub use self::topics::forgotten;
use crate::reset_offsets::reset_offsets;

/// Attempt to restore a partition's store.
#[derive(Debug)]
pub struct Restore<'a> {
    context: &'a RestoreContext,
    /// `None` until known; `Some(None)` if the group has no committed offset.
    committed: Option<Option<Offset>>,
    /// The topics are those that the group has committed its offsets with.
    topics_are_same: bool,
    /// Keys that the partition has forgotten, by the note of the committed offset.
    forgotten: Option<Forgotten>,
    changelog: Option<Bounds>,
    /// Input offset to start at.
    next: Option<Offset>,
    is_log_checked: bool,
    checkpoint: Option<Offset>,
    outbox_is_empty: Option<bool>,
    is_read: bool,
    /// Newest order of the outbox; `None` until it was looked for.
    newest: Option<Option<NewestOrder>>,
    /// Set once the store is known to have the newest order.
    is_newest_known: bool,
    /// The attempt has started again, to read all facts once more before it halts.
    is_second_look: bool,
}

/// Topics, group, partition and store of a restore, as its messages name them.
#[derive(Clone, Debug)]
pub struct RestoreContext {
    /// Topics of the pipeline.
    pub topics: Topics,
    /// Ids and partition count of the topics when this validator started. It commits them with each offset.
    pub note: TopicsNote,
    /// Consumer group of the validators.
    pub group_id: String,
    /// Partition to restore.
    pub partition: Partition,
    /// Path of the partition's store.
    pub store: String,
}

/// Request of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreRequest {
    /// Committed offset of the orders, with its metadata, once no transaction is pending on it
    /// (`require_stable`).
    CommittedOffset,
    /// Metadata of the committed offsets of the topic's other partitions.
    // Without require_stable: they have transactions pending all the time, and a note does not change with them.
    OtherNotes,
    /// Newest committed order of the outbox partition.
    // Before the bounds of the changelog: its entry then is below the changelog's end, also if another process
    // goes on meanwhile because this one has lost the partition without noticing.
    NewestOrder,
    /// Bounds of the changelog, as a read_uncommitted client sees them.
    // With the last stable offset as end, a restore would miss a transaction that is committed while its
    // markers are still being written.
    ChangelogBounds,
    /// Bounds of the orders topic's partition, as a read_uncommitted client sees them.
    OrdersBounds,
    /// End of the orders' log that the committed offset belongs to.
    // After the bounds: the offset lies within them.
    OrdersEpochEnd,
    /// Checkpoint of the store, which is opened for it and stays open.
    Checkpoint,
    /// Presence of any committed record on the outbox partition.
    OutboxIsEmpty,
    /// Application of all committed changes to the store, and comparison with those that it must have already.
    ApplyChangelog {
        /// Offset to read from. The records below the checkpoint are compared; see [`Overlap`].
        start: Offset,
        /// Checkpoint of the store. The records from there on are applied; see [`Tail`].
        checkpoint: Offset,
        /// Offset that the reader's position must reach.
        end: Offset,
    },
    /// Presence of this key in the restored store.
    IsKnown(IdempotencyKey),
}

/// Response to the [`RestoreRequest`] of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreResponse {
    /// Committed offset; `None` if the group never committed one, or it has expired. With its metadata, which
    /// is empty if there is none.
    CommittedOffset(Option<Offset>, String),
    /// Metadata of other partitions' offsets.
    OtherNotes(Vec<(Partition, String)>),
    /// Bounds of the changelog.
    ChangelogBounds(Bounds),
    /// Bounds of the orders.
    OrdersBounds(Bounds),
    /// End of what the leaders up to the committed epoch have written; `None` if the group committed no offset,
    /// or no epoch with it.
    OrdersEpochEnd(Option<EpochEnd>),
    /// Checkpoint of the store; `None` if the store is new.
    Checkpoint(Option<Offset>),
    /// `true` if the outbox partition has no committed record.
    OutboxIsEmpty(bool),
    /// All changes are applied.
    ChangelogApplied,
    /// The store does not have the record at this offset, which is below its checkpoint. Nothing is applied.
    StoreDiffers(Offset),
    /// Newest order; `None` if none was found among the last records of the partition.
    NewestOrder(Option<NewestOrder>),
    /// `true` if the store has the key.
    IsKnown(bool),
}

/// Newest committed order of the outbox partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewestOrder {
    /// Offset in the outbox.
    pub offset: Offset,
    /// Idempotency key.
    pub key: IdempotencyKey,
    /// True if no transaction is pending on the outbox partition, so that no newer order may be committed behind it.
    pub is_last: bool,
}

/// Next step of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreStep {
    /// Send this request.
    Request(RestoreRequest),
    /// Done: the store equals the changelog, and processing may start at this input offset.
    Ready(Offset),
    /// Halt the partition for this reason: another attempt cannot succeed before an operator has acted.
    Halted(String),
}

impl<'a> Restore<'a> {
    /// Creates an attempt, which starts with [`RestoreRequest::CommittedOffset`].
    #[must_use]
    pub fn new(context: &'a RestoreContext) -> Self {
        Self {
            context,
            committed: None,
            topics_are_same: false,
            forgotten: None,
            changelog: None,
            next: None,
            is_log_checked: false,
            checkpoint: None,
            outbox_is_empty: None,
            is_read: false,
            newest: None,
            is_newest_known: false,
            is_second_look: false,
        }
    }

    /// Starts the attempt again. Returns `false` if it has done that before.
    // Another process may have lost no time meanwhile, because this one has lost the partition without noticing: keys
    // that it has forgotten and deleted since the committed offset was read look like lost ones.
    fn look_again(&mut self) -> bool {
        if self.is_second_look {
            return false;
        }
        *self = Self {
            is_second_look: true,
            ..Self::new(self.context)
        };
        true
    }

    /// Takes the response to the last request, and returns the next step.
    pub fn on(&mut self, response: RestoreResponse) -> RestoreStep {
        let checked = match response {
            RestoreResponse::CommittedOffset(offset, metadata) => {
                // All other facts are older than this offset, and so may miss what was committed before it.
                *self = Self {
                    is_second_look: self.is_second_look,
                    ..Self::new(self.context)
                };
                self.committed = Some(offset);
                self.forgotten = topics::forgotten(self.context, &metadata);
                self.compare_topics(&[(self.context.partition, metadata)])
            }
            RestoreResponse::OtherNotes(notes) => {
                let compared = self.compare_topics(&notes);
                // None of them has a note: the group is new, or an earlier version or an operator has committed
                // its offsets. The next commit has one.
                self.topics_are_same |= self.committed.is_some();
                compared
            }
            RestoreResponse::ChangelogBounds(bounds) => {
                // Read before the committed offset, the end may be too low: ignored.
                self.changelog = self.committed.and(Some(bounds));
                self.check_changelog_against_outbox(bounds)
            }
            RestoreResponse::OrdersBounds(bounds) => self.choose_next(bounds),
            RestoreResponse::OrdersEpochEnd(end) => self.check_orders_log(end),
            RestoreResponse::Checkpoint(checkpoint) => self.check_checkpoint(checkpoint),
            RestoreResponse::OutboxIsEmpty(is_empty) => {
                self.outbox_is_empty = Some(is_empty);
                if !is_empty {
                    // The current owner may have filled both topics between the two requests, so the
                    // changelog's bounds are requested once more before its keys count as lost.
                    self.changelog = None;
                }
                Ok(())
            }
            RestoreResponse::ChangelogApplied => {
                // Without a checkpoint the response belongs to no request of this attempt.
                self.is_read = self.checkpoint.is_some();
                Ok(())
            }
            RestoreResponse::StoreDiffers(offset) => Err(self.store_differs(offset)),
            RestoreResponse::NewestOrder(newest) => {
                // Like the changelog's end below: ignored before the committed offset.
                self.newest = self.committed.and(Some(newest));
                Ok(())
            }
            RestoreResponse::IsKnown(is_known) => {
                self.is_newest_known = is_known;
                self.check_newest_order()
            }
        };
        checked.map_or_else(RestoreStep::Halted, |()| self.next())
    }

    /// Returns what the partition has forgotten, for the restored store, whose oldest key was recorded at this time.
    #[must_use]
    pub fn forgotten(&self, oldest: Option<Timestamp>) -> Option<Forgotten> {
        let is_cut = self
            .changelog
            .is_some_and(|changelog| changelog.start > Offset(0));
        // The note is lost where an operator has set the offset, or the brokers have deleted it. Keys that are recorded
        // before all others may then be forgotten ones; the changelog itself is not cut any further for that.
        self.forgotten.or_else(|| {
            Some(Forgotten {
                below: Offset(0),
                // Also of those that were recorded at the same time.
                before: Timestamp(oldest.filter(|_| is_cut)?.0.saturating_add(1)),
            })
        })
    }

    /// Returns the changelog offset below which each record is of a forgotten key.
    fn forgotten_below(&self) -> Offset {
        self.forgotten.map_or(Offset(0), |forgotten| forgotten.below)
    }

    /// Returns the request for the first fact that is missing.
    fn next(&self) -> RestoreStep {
        if self.committed.is_none() {
            return RestoreStep::Request(RestoreRequest::CommittedOffset);
        }
        // Before anything else: offsets and keys of other topics mean nothing. The others are asked if this
        // partition has no note, as a partition by which the topic has grown.
        if !self.topics_are_same {
            return RestoreStep::Request(RestoreRequest::OtherNotes);
        }
        let Some(newest) = &self.newest else {
            return RestoreStep::Request(RestoreRequest::NewestOrder);
        };
        let Some(changelog) = self.changelog else {
            return RestoreStep::Request(RestoreRequest::ChangelogBounds);
        };
        let Some(next) = self.next else {
            return RestoreStep::Request(RestoreRequest::OrdersBounds);
        };
        if !self.is_log_checked {
            return RestoreStep::Request(RestoreRequest::OrdersEpochEnd);
        }
        let Some(checkpoint) = self.checkpoint else {
            return RestoreStep::Request(RestoreRequest::Checkpoint);
        };
        // One transaction writes an order to the outbox and its key to the changelog, so an empty changelog
        // beside an outbox with records has lost its keys.
        if changelog.end == Offset(0) && self.outbox_is_empty.is_none() {
            return RestoreStep::Request(RestoreRequest::OutboxIsEmpty);
        }
        if !self.is_read {
            return RestoreStep::Request(RestoreRequest::ApplyChangelog {
                // The store may have forgotten already what is still in the changelog.
                start: Overlap::start(checkpoint, changelog.start.max(self.forgotten_below())),
                checkpoint,
                end: changelog.end,
            });
        }
        // The last transaction wrote the outbox's newest order and its entry. A changelog that has lost its end
        // lacks this entry, which nothing else shows if the stores are lost too.
        match newest {
            Some(newest) if !self.is_newest_known => {
                RestoreStep::Request(RestoreRequest::IsKnown(newest.key.clone()))
            }
            Some(_) | None => RestoreStep::Ready(next),
        }
    }

    /// Compares the topics with those that offsets were committed with.
    ///
    /// # Errors
    /// A topic has grown, or is another one; or a note cannot be read.
    fn compare_topics(&mut self, notes: &[(Partition, String)]) -> Result<(), String> {
        for (partition, metadata) in notes {
            self.topics_are_same |= topics::compare_committed(self.context, *partition, metadata)?;
        }
        Ok(())
    }

    /// Chooses the input offset to start at.
    ///
    /// # Errors
    /// Orders may have been lost: says which, and the command that repairs it.
    fn choose_next(&mut self, Bounds { start, end }: Bounds) -> Result<(), String> {
        let (Some(committed), Some(changelog)) = (self.committed, self.changelog) else {
            return Ok(());
        };
        let (topic, group, partition) = (
            &self.context.topics.orders,
            &self.context.group_id,
            self.context.partition,
        );
        self.next = Some(match committed {
            // The changelog has the keys of all processed orders, so starting at offset 0 repeats none. With an
            // empty changelog nothing was processed yet, so the oldest order that is left is the first.
            None if start == Offset(0) || changelog.end == Offset(0) => start,
            // Orders between the expired offset and `start` may be gone unprocessed: fail closed.
            None => {
                return Err(format!(
                    "group {group:?} has lost its committed offset of {topic}/{partition} (brokers delete it after \
                     offsets.retention.minutes without a member), and the oldest orders, below {start}, are deleted: \
                     some may never have been processed; compare them with the outbox, then, while no validator runs, \
                     set the group's offset to the first order that is left: {}",
                    reset_offsets(group, topic, partition, &start.to_string())
                ));
            }
            Some(next) if next < start => {
                return Err(format!(
                    "the {} offsets from {next} to {start} of {topic}/{partition} were deleted before they were \
                     processed (the topic's retention is too short, or its records were deleted); find these orders \
                     at their source, then, while no validator runs, set the group's offset to the first order that \
                     is left: {}",
                    start.0 - next.0,
                    reset_offsets(group, topic, partition, &start.to_string())
                ));
            }
            // In a topic that was created again, the orders below this offset would be skipped.
            Some(next) if next > end => {
                return Err(format!(
                    "the committed offset {next} of {topic}/{partition} is beyond the partition's end {end}: the topic \
                     was deleted and created again, or its log was truncated; compare it with the outbox, then, while \
                     no validator runs, set the group's offset: {}",
                    reset_offsets(group, topic, partition, "OFFSET")
                ));
            }
            Some(next) => next,
        });
        Ok(())
    }

    /// Checks that the orders below the committed offset are those that were processed.
    ///
    /// # Errors
    /// The log has lost its end and has grown again, so that orders below the committed offset were never
    /// processed.
    fn check_orders_log(&mut self, checked: Option<EpochEnd>) -> Result<(), String> {
        let Some(Some(committed)) = self.committed else {
            self.is_log_checked = self.next.is_some();
            return Ok(());
        };
        if let Some(EpochEnd { epoch, end }) = checked.filter(|checked| checked.end < committed) {
            let (topic, group, partition) = (
                &self.context.topics.orders,
                &self.context.group_id,
                self.context.partition,
            );
            return Err(format!(
                "the log of {topic}/{partition} was truncated at {end} and has grown again: group {group:?} has \
                 committed offset {committed} in leader epoch {}, and the records from {end} on are of later leaders \
                 (after an unclean leader election, for example). The orders now at {end} to {committed} were never \
                 processed, and those that were there before are in the outbox: compare both, then, while no \
                 validator runs, set the group's offset (an order that comes again is a counted duplicate): {}",
                epoch.0,
                reset_offsets(group, topic, partition, &end.to_string())
            ));
        }
        self.is_log_checked = self.next.is_some();
        Ok(())
    }

    /// Checks that the changelog has all changes from the store's checkpoint on.
    ///
    /// # Errors
    /// The changelog has lost keys, or the store is of another changelog.
    fn check_checkpoint(&mut self, checkpoint: Option<Offset>) -> Result<(), String> {
        let Some(bounds) = self.changelog else {
            return Ok(());
        };
        let (changelog, partition) = (&self.context.topics.changelog, self.context.partition);
        let from = checkpoint.unwrap_or(Offset(0));
        // Compaction keeps the log's start; only a deletion moves it, and then keys are gone for good. Those that are
        // noted as forgotten are deleted on purpose.
        if bounds.start > from.max(self.forgotten_below()) {
            if self.look_again() {
                return Ok(());
            }
            return Err(format!(
                "the changelog {changelog}/{partition} begins at {}, the store needs it from {from}, and by the note of \
                 the group's committed offset keys are forgotten below {}: keys that were deleted from it beyond that \
                 are unknown, and their orders would be paid twice. Stop all validators, find out what has deleted \
                 records, delete and create the changelog again (outbox topics create), and rebuild it from the outbox: \
                 outbox state rebuild",
                bounds.start,
                self.forgotten_below()
            ));
        }
        // Only offsets that Kafka has reported become checkpoints, so one beyond the end is of another log,
        // or the log has lost acknowledged records.
        if from > bounds.end {
            return Err(format!(
                "the store equals the changelog {changelog}/{partition} up to {from}, and it ends at {}: the topic was \
                 deleted and created again, or has lost its end, or the store is another cluster's. The store \
                 is kept, as it may hold the last copy of these keys. If it is another cluster's, remove {}; \
                 otherwise stop all validators, and rebuild the changelog from the outbox: outbox state rebuild",
                bounds.end, self.context.store
            ));
        }
        self.checkpoint = Some(from);
        Ok(())
    }

    /// Describes a store that was equal to another log than the changelog.
    fn store_differs(&self, offset: Offset) -> String {
        let (changelog, partition) = (&self.context.topics.changelog, self.context.partition);
        format!(
            "the store equals the changelog {changelog}/{partition} up to {}, and does not have its record at {offset}: \
             the changelog has lost its end and has grown again, or was rebuilt, or the store is another \
             cluster's. Keys from there on may be missing in either, and their orders would be paid twice. Stop \
             all validators, rebuild the changelog from the outbox (outbox state rebuild), then remove {}",
            self.checkpoint.unwrap_or(Offset(0)),
            self.context.store
        )
    }

    /// Checks that the changelog has the entry of the outbox's newest order.
    ///
    /// # Errors
    /// The changelog has lost its end.
    fn check_newest_order(&mut self) -> Result<(), String> {
        let Some(Some(NewestOrder { is_last, .. })) = &self.newest else {
            return Ok(());
        };
        if self.is_newest_known {
            return Ok(());
        }
        if self.forgotten.is_some() && !is_last {
            // A newer order is committed, perhaps, and its marker is still missing. Then this one may be older than the
            // retention window, and forgotten. Transactions end in time, so that this ends, too.
            *self = Self::new(self.context);
            return Ok(());
        }
        if self.forgotten.is_some() && self.look_again() {
            return Ok(());
        }
        let Some(Some(NewestOrder { offset, key, .. })) = &self.newest else {
            return Ok(());
        };
        let (topics, partition) = (&self.context.topics, self.context.partition);
        Err(format!(
            "the changelog {}/{partition} has no entry of the order {key}, the newest of the outbox \
             ({}/{partition}@{offset}): the changelog has lost its end (an unclean leader election, or replicas that lost their \
             disks), and this order and others before it would be paid twice. Stop all validators, and rebuild \
             it: outbox state rebuild",
            topics.changelog, topics.pending
        ))
    }

    /// Compares the changelog, read again, with an outbox that has records.
    ///
    /// # Errors
    /// The changelog is still empty, so it has lost its keys.
    fn check_changelog_against_outbox(&mut self, changelog: Bounds) -> Result<(), String> {
        if self.outbox_is_empty != Some(false) {
            return Ok(());
        }
        if changelog.end > Offset(0) {
            // Filled since the first request: the committed offset is older than it, so start again.
            *self = Self::new(self.context);
            return Ok(());
        }
        let (topics, partition) = (&self.context.topics, self.context.partition);
        Err(format!(
            "the changelog {}/{partition} is empty, and the outbox {}/{partition} is not: the \
             changelog was deleted and created again, and the keys of these orders are unknown. Stop all \
             validators, and rebuild it: outbox state rebuild",
            topics.changelog, topics.pending
        ))
    }
}

#[cfg(test)]
mod tests;
