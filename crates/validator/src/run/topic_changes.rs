//! Reaction to topics that were recreated or have grown while the validator runs.

use std::sync::atomic::Ordering;

use anyhow::bail;
use kafka::Consumer;
use pipeline::admission::Event;
use records::Partition;

use crate::run::Loop;

impl Loop<'_> {
    /// Handles what the cluster monitor has detected since the last turn.
    ///
    /// # Errors
    /// A topic has grown.
    pub(super) fn check_topic_changes(&mut self, consumer: &Consumer) -> anyhow::Result<()> {
        if self.topic_changes.recreated.swap(false, Ordering::AcqRel) {
            tracing::error!("topic recreated, pausing until revalidated");
            // Each partition is restored again, and its restore compares the topic ids.
            self.apply(consumer, Event::TransactionFailed)?;
        }
        match self.topic_changes.grown_to.load(Ordering::Acquire) {
            0 => Ok(()),
            grown_to => self.grown(grown_to),
        }
    }

    /// Checks that the group has assigned no partition that did not exist at start-up. Sooner than the
    /// monitor: the consumer may be the first to see the new count.
    ///
    /// # Errors
    /// A topic has grown.
    pub(super) fn check_growth(&self, assigned: &[Partition]) -> anyhow::Result<()> {
        let count = assigned
            .iter()
            .filter_map(|partition| usize::try_from(partition.0 + 1).ok())
            .max();
        match count.filter(|count| *count > self.partitions) {
            Some(grown_to) => self.grown(grown_to),
            None => Ok(()),
        }
    }

    /// Fails for good. A key's partition follows from the count, so with another count no partition can be
    /// trusted to know all its keys, neither a new one nor an old one.
    fn grown(&self, grown_to: usize) -> anyhow::Result<()> {
        bail!(
            "{} and {} had {} partitions when this validator started, and one of them has {grown_to} now: keys \
             map to other partitions, so an order that was admitted on its old partition would be paid twice. \
             Stop the producers, then restart the validator; its error says how to go on",
            self.shell.config.topics.orders,
            self.shell.config.topics.changelog,
            self.partitions,
        )
    }
}
