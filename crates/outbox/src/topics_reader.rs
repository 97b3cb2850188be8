//! What the commands read of topics: their partitions, and the records of a partition up to its end.

use std::collections::BTreeMap;

use anyhow::Context;
use kafka::KafkaSettings;
use kafka::admin::Admin;
use kafka::group_offsets::{GroupOffsets, TopicRecord};
use kafka::topic_ids::TopicIdentity;
use pipeline::ledger::KeptOutcomes;
use records::{Bounds, Partition};

use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT, TRANSACTIONS_WAIT_MAX, partitions};
use crate::progress::Progress;

/// Reader of topics, and of the committed offsets of the group whose settings it was opened with.
pub(crate) struct TopicsReader {
    pub(crate) offsets: GroupOffsets,
    identities: BTreeMap<String, TopicIdentity>,
}

impl TopicsReader {
    /// Opens the reader of topics with these names. A topic that does not exist is missed only where it is read.
    ///
    /// # Errors
    /// The brokers cannot be reached, or refuse to describe a topic.
    pub(crate) fn open(settings: &KafkaSettings, names: &[&str]) -> anyhow::Result<Self> {
        Self::with(&Admin::connect(settings, CLIENT_ID)?, settings, names)
    }

    /// Opens the reader like [`Self::open`], with a connection that exists.
    pub(crate) fn with(admin: &Admin, settings: &KafkaSettings, names: &[&str]) -> anyhow::Result<Self> {
        Ok(Self {
            identities: admin.identities(names, REQUEST_TIMEOUT)?,
            offsets: GroupOffsets::open(settings, CLIENT_ID)?,
        })
    }

    /// Returns the partitions of a topic.
    ///
    /// # Errors
    /// The topic does not exist.
    pub(crate) fn partitions(&self, topic: &str) -> anyhow::Result<Vec<Partition>> {
        partitions(&self.identities, topic)
    }

    /// Returns the identity of a topic as of when the reader was opened; `None` if it did not exist.
    pub(crate) fn identity(&self, topic: &str) -> Option<&TopicIdentity> {
        self.identities.get(topic)
    }

    /// Returns the bounds of what can be read of a partition now.
    ///
    /// # Errors
    /// The partition's leader did not respond.
    pub(crate) fn bounds(&self, topic: &str, partition: Partition) -> anyhow::Result<Bounds> {
        Ok(self.offsets.bounds(topic, partition, REQUEST_TIMEOUT)?)
    }

    /// Returns the bounds of all that is written to a partition until now, once it can be read: when the transactions up
    /// to its end have ended.
    ///
    /// # Errors
    /// They have not ended in time, or the partition's leader did not respond.
    pub(crate) fn settled_bounds(
        &self,
        topic: &str,
        partition: Partition,
        progress: &Progress,
    ) -> anyhow::Result<Bounds> {
        progress.show(format!("{topic}/{partition}, waiting for open transactions"));
        self.offsets
            .settled_bounds(topic, partition, TRANSACTIONS_WAIT_MAX)
            .context("nothing was changed. Run the command again once the transactions have ended")
    }

    /// Passes each record of a topic to `sink`, with its partition, up to the topic's end as of now.
    ///
    /// # Errors
    /// As of [`Self::settled_bounds`] and [`Self::visit_within`].
    pub(crate) fn visit(
        &self,
        topic: &str,
        progress: &mut Progress,
        mut sink: impl FnMut(Partition, &TopicRecord<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for partition in self.partitions(topic)? {
            let bounds = self.settled_bounds(topic, partition, progress)?;
            self.visit_within(topic, partition, bounds, progress, |record| {
                sink(partition, record)
            })?;
        }
        Ok(())
    }

    /// Passes each record of the outcomes to `sink`, as [`Self::visit`]. Returns which outcomes their topic still has.
    ///
    /// # Errors
    /// As of [`Self::visit`].
    pub(crate) fn visit_outcomes(
        &self,
        topic: &str,
        progress: &mut Progress,
        mut sink: impl FnMut(&TopicRecord<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<KeptOutcomes> {
        let mut kept = KeptOutcomes::default();
        for partition in self.partitions(topic)? {
            let bounds = self.settled_bounds(topic, partition, progress)?;
            let mut first = None;
            self.visit_within(topic, partition, bounds, progress, |record| {
                first.get_or_insert(record.at);
                sink(record)
            })?;
            // Had more been deleted since, it would not have been read from its start.
            kept.partition(bounds.start, first.flatten());
        }
        Ok(kept)
    }

    /// Passes each record of a partition within the bounds to `sink`.
    ///
    /// # Errors
    /// Kafka refused the read, or `sink` failed, with the record's position.
    pub(crate) fn visit_within(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
        progress: &mut Progress,
        mut sink: impl FnMut(&TopicRecord<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.offsets.read(topic, partition, bounds, |record| {
            progress.read(topic);
            sink(record).with_context(|| {
                format!(
                    "reading {topic}/{partition}@{}; nothing was changed",
                    record.offset
                )
            })
        })
    }
}
