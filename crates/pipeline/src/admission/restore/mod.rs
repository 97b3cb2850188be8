//! One restore: which question follows which, and what the answers mean.
//!
//! ```text
//! committed offset ─▶ changelog's ends ─▶ orders' ends ─▶ store's checkpoint ─▶ changelog read ─▶ ready
//!  (stable)            (true ones)                          └ (is the outbox empty?) ┘
//! ```
//!
//! The order carries G1 and G3; in any other there is a story in which an order is admitted twice:
//! 1. the group's committed offset, once no transaction is pending on it;
//! 2. only then the changelog's high watermark, seen by a read_uncommitted client;
//! 3. the changelog, read committed, until the position has reached that watermark.
//!
//! Whoever asks Kafka and the store tells the answers; a question that fails is the end of this restore, and
//! another one begins at the first question.

mod tail;

use records::{Bounds, Offset, Partition, Topics};

pub use self::tail::{Change, Chunk, Tail};

/// One try to restore a partition's store.
#[derive(Debug)]
pub struct Restore<'a> {
    names: &'a Names,
    committed: Option<Option<Offset>>,
    changelog: Option<Bounds>,
    next: Option<Offset>,
    checkpoint: Option<Offset>,
    outbox_is_empty: Option<bool>,
    is_read: bool,
}

/// What a restore is about, as it stands in its messages.
#[derive(Clone, Debug)]
pub struct Names {
    /// The topics.
    pub topics: Topics,
    /// The consumer group.
    pub group_id: String,
    /// The partition.
    pub partition: Partition,
    /// Where its store lies.
    pub store: String,
}

/// What a restore needs to know or to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The group's committed offset of the orders, once no transaction is pending on it.
    Committed,
    /// The changelog's true ends, as a client sees them that sees what is not committed yet. With the last
    /// stable offset in place of the high watermark, a transaction that is committed and whose markers are
    /// still being written would be missed.
    ChangelogBounds,
    /// The true ends of the orders.
    OrdersBounds,
    /// The checkpoint of the store, which is opened for it and stays open.
    Checkpoint,
    /// Whether the outbox holds any committed record.
    OutboxIsEmpty,
    /// That every committed change from the first offset on is in the store, and that the reader's position
    /// has reached the second one; see [`Tail`].
    Read(Offset, Offset),
}

/// The answer to a [`Question`] of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `None` if the group never committed one, or it expired.
    Committed(Option<Offset>),
    /// The changelog's ends.
    ChangelogBounds(Bounds),
    /// The orders' ends.
    OrdersBounds(Bounds),
    /// `None` if the store is new.
    Checkpoint(Option<Offset>),
    /// Whether it is.
    OutboxIsEmpty(bool),
    /// It is done.
    Read,
}

/// How a restore goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// With this question.
    Ask(Question),
    /// The store equals the changelog; processing may go on at this input offset.
    Ready(Offset),
    /// Not before a person has acted: trying again does not help.
    Refused(String),
}

impl<'a> Restore<'a> {
    /// A restore of which nothing is known yet; it begins with [`Question::Committed`].
    #[must_use]
    pub fn of(names: &'a Names) -> Self {
        Self {
            names,
            committed: None,
            changelog: None,
            next: None,
            checkpoint: None,
            outbox_is_empty: None,
            is_read: false,
        }
    }

    /// Takes the answer to the last question, and tells how it goes on.
    pub fn on(&mut self, answer: Answer) -> Step {
        let checked = match answer {
            Answer::Committed(offset) => {
                // All that is known else was asked before, and counts no longer.
                *self = Self::of(self.names);
                self.committed = Some(offset);
                Ok(())
            }
            Answer::ChangelogBounds(bounds) => {
                // Asked before the committed offset was known, it would be too low.
                self.changelog = self.committed.and(Some(bounds));
                self.outbox_against(bounds)
            }
            Answer::OrdersBounds(bounds) => self.orders_bounds(bounds),
            Answer::Checkpoint(checkpoint) => self.opened(checkpoint),
            Answer::OutboxIsEmpty(is_empty) => {
                self.outbox_is_empty = Some(is_empty);
                if !is_empty {
                    // Both may have been filled between the two questions, by who owns the partition now.
                    self.changelog = None;
                }
                Ok(())
            }
            Answer::Read => {
                self.is_read = self.checkpoint.is_some();
                Ok(())
            }
        };
        checked.map_or_else(Step::Refused, |()| self.next())
    }

    /// The first thing that is not known yet.
    fn next(&self) -> Step {
        if self.committed.is_none() {
            return Step::Ask(Question::Committed);
        }
        let Some(changelog) = self.changelog else {
            return Step::Ask(Question::ChangelogBounds);
        };
        let Some(next) = self.next else {
            return Step::Ask(Question::OrdersBounds);
        };
        let Some(checkpoint) = self.checkpoint else {
            return Step::Ask(Question::Checkpoint);
        };
        // Each order of the outbox has its key in the changelog, by the same transaction.
        if changelog.end == Offset(0) && self.outbox_is_empty.is_none() {
            return Step::Ask(Question::OutboxIsEmpty);
        }
        if !self.is_read {
            return Step::Ask(Question::Read(checkpoint, changelog.end));
        }
        Step::Ready(next)
    }

    /// The input offset to go on at.
    fn orders_bounds(&mut self, Bounds { start, end }: Bounds) -> Result<(), String> {
        let (Some(committed), Some(changelog)) = (self.committed, self.changelog) else {
            return Ok(());
        };
        let (topic, group, partition) = (
            &self.names.topics.orders,
            &self.names.group_id,
            self.names.partition,
        );
        self.next = Some(match committed {
            // What was processed before is known from the changelog, so beginning again repeats nothing. Where the
            // oldest orders were deleted before this group began, the oldest there is comes first.
            None if start == Offset(0) || changelog.end == Offset(0) => start,
            None => {
                return Err(format!(
                    "group {group:?} has lost its committed offset of {topic}/{partition} (it expires after a week \
                     without a member), and the oldest orders, below {start}, are deleted: some may never have been \
                     processed; compare them with the outbox, then set the offset of the group while no validator runs"
                ));
            }
            Some(next) if next < start => {
                return Err(format!(
                    "the {} offsets from {next} to {start} of {topic}/{partition} were deleted before they were \
                     processed (the topic's retention is too short, or its records were deleted); find these orders \
                     at their source, then, while no validator runs, set the group's offset to the first order that \
                     there is: `kafka-consumer-groups.sh --bootstrap-server BROKERS --group {group} --topic \
                     {topic}:{partition} --reset-offsets --to-offset {start} --execute`",
                    start.0 - next.0
                ));
            }
            Some(next) if next > end => {
                return Err(format!(
                    "the committed offset {next} of {topic}/{partition} is behind the partition's end {end}: the topic \
                     was deleted and created again, or its log was cut; compare it with the outbox, then, while no \
                     validator runs, set the group's offset: `kafka-consumer-groups.sh --bootstrap-server BROKERS \
                     --group {group} --topic {topic}:{partition} --reset-offsets --to-offset OFFSET --execute`"
                ));
            }
            Some(next) => next,
        });
        Ok(())
    }

    /// A changelog that has lost keys is not restored from: the orders of these keys could be paid twice.
    fn opened(&mut self, checkpoint: Option<Offset>) -> Result<(), String> {
        let Some(bounds) = self.changelog else {
            return Ok(());
        };
        let (changelog, partition) = (&self.names.topics.changelog, self.names.partition);
        let from = checkpoint.unwrap_or(Offset(0));
        if from < bounds.start {
            return Err(format!(
                "the changelog {changelog}/{partition} begins at {}, and the store needs it from {from}: keys that \
                 were deleted from it are unknown, and their orders would be paid twice; rebuild the changelog \
                 from the outbox before this partition goes on",
                bounds.start
            ));
        }
        if from > bounds.end {
            return Err(format!(
                "the store knows the changelog {changelog}/{partition} up to {from}, and it ends at {}: the topic was \
                 deleted and created again, or has lost its end, or the store is another cluster's. The store \
                 is kept, as it may hold the last copy of these keys. If it is another cluster's, remove {}; \
                 otherwise rebuild the changelog before this partition goes on",
                bounds.end, self.names.store
            ));
        }
        self.checkpoint = Some(from);
        Ok(())
    }

    /// A changelog that is empty where the outbox is known to hold something has lost its keys; one that is not
    /// was merely asked too early.
    fn outbox_against(&mut self, changelog: Bounds) -> Result<(), String> {
        if self.outbox_is_empty != Some(false) {
            return Ok(());
        }
        if changelog.end > Offset(0) {
            *self = Self::of(self.names);
            return Ok(());
        }
        let (topics, partition) = (&self.names.topics, self.names.partition);
        Err(format!(
            "the changelog {}/{partition} is empty, and the outbox {}/{partition} is not: the \
             changelog was deleted and created again, and the keys of these orders are unknown; rebuild \
             it from the outbox before this partition goes on",
            topics.changelog, topics.pending
        ))
    }
}

#[cfg(test)]
mod tests;
