//! Reader of the topics of the calls.

use std::collections::BTreeMap;

use anyhow::Context;
use kafka::admin::Admin;
use kafka::group_offsets::{GroupOffsets, TopicRecord};
use kafka::topic_ids::TopicIdentity;
use records::{Bounds, Partition};

use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT, TRANSACTIONS_WAIT_MAX, partitions};
use crate::config::Config;
use crate::progress::Progress;

/// Reader of the topics of the calls.
pub(super) struct Reading<'a> {
    pub(super) config: &'a Config,
    pub(super) offsets: GroupOffsets,
    pub(super) group: &'a str,
    identities: BTreeMap<String, TopicIdentity>,
}

impl<'a> Reading<'a> {
    pub(super) fn open(config: &'a Config, group: &'a str) -> anyhow::Result<Self> {
        let topics = &config.topics;
        let settings = config.connection_as(group);
        let names = [
            topics.pending.as_str(),
            &topics.parked,
            &topics.processed,
            &topics.call_dead_letters,
        ];
        Ok(Self {
            config,
            offsets: GroupOffsets::open(&settings, CLIENT_ID)?,
            group,
            identities: Admin::connect(&settings, CLIENT_ID)?.identities(&names, REQUEST_TIMEOUT)?,
        })
    }

    /// Returns the id of the outbox, if the brokers report one.
    pub(super) fn outbox_id(&self) -> Option<String> {
        let identity = self.identities.get(&self.config.topics.pending)?;
        Some(identity.id.to_string()).filter(|id| !id.is_empty())
    }

    pub(super) fn partitions(&self, topic: &str) -> anyhow::Result<Vec<Partition>> {
        partitions(&self.identities, topic)
    }

    /// Passes each record of a topic to `sink`, up to its end as of now.
    pub(super) fn visit(
        &self,
        topic: &str,
        progress: &mut Progress,
        mut sink: impl FnMut(&TopicRecord<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for partition in self.partitions(topic)? {
            progress.show(format!("{topic}/{partition}, waiting for open transactions"));
            let bounds = self.settled_bounds(topic, partition)?;
            self.visit_within(topic, partition, bounds, progress, &mut sink)?;
        }
        Ok(())
    }

    /// Passes each record of a partition within the bounds to `sink`.
    pub(super) fn visit_within(
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

    /// Returns the bounds of a partition once the transactions up to its end have ended.
    pub(super) fn settled_bounds(&self, topic: &str, partition: Partition) -> anyhow::Result<Bounds> {
        self.offsets
            .settled_bounds(topic, partition, TRANSACTIONS_WAIT_MAX)
            .context("nothing was changed. Run the command again once the transactions have ended")
    }
}
